"""Quantising kernels equal `Format.encode` in all codes and flags, and dequantising `Format.decode`."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import FORMATS, get_format
from halfulp.numerics.random_bits import output_words
from halfulp.numerics.rounding import Rounding
from halfulp.sim.quantise import dequantise, quantise, quantise_flagged
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, rounds

FORMATS_HERE = [*FORMATS.names(), "e4m3-ieee", "e3m2-nosub", "e6m5-nosub", "e8m7-nosub", "e2m1-fn", "int3", "uint12"]
ROUNDINGS = ("nearest_even", "toward_zero", "stochastic:1", "stochastic:16", "stochastic_floor:9", "stochastic:30")


def patterns(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Any float32 or float64 bit pattern: NaN, Inf, subnormals, and whatever overflows or vanishes."""
    unsigned = np.uint32 if dtype is np.float32 else np.uint64
    bits = rng.integers(0, np.iinfo(unsigned).max, shape, unsigned, endpoint=True)
    special = rng.integers(0, 8, shape)
    bits = np.where(special == 0, bits & unsigned(np.iinfo(unsigned).max >> 12), bits)
    return bits.astype(unsigned).view(dtype)


def around(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Numbers of every size that an 8-bit format tells apart, many of them ties."""
    x = rng.integers(-64, 65, shape) * 2.0 ** rng.integers(-20, 20, shape)
    return np.where(rng.integers(0, 2, shape), x, np.nextafter(x, 0)).astype(dtype)


def check(x: np.ndarray, name: str, mode: str, scale: int, overflow: str, words: np.ndarray | None) -> None:
    fmt, rounding = get_format(name), Rounding.parse(mode)
    random = words
    if rounding.is_stochastic and words is None:
        rows = x.size // x.shape[-1]
        random = output_words(77, np.arange(rows), np.arange(x.shape[-1]), rounding.random_bits).reshape(x.shape)
    exact = from_float64(x)
    scaled = exact._replace(exponent=exact.exponent + scale)
    codes, invalid, too_large = fmt.encode(scaled, rounding, random, overflow)
    got = quantise_flagged(x, fmt, mode, seed=77, words=words, scale=scale, overflow=overflow)
    assert got.codes.dtype == codes.dtype
    assert (got.codes == codes).all()
    assert (got.invalid, got.overflow) == (invalid.any(), too_large.any())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORMATS_HERE)
def test_quantising_is_encoding(name, dtype, rng):
    for mode in (ROUNDINGS[rng.integers(2)], *rng.choice(ROUNDINGS[2:], 2, replace=False)):
        shape = [(133,), (5, 64), (2, 3, 7), (1, 200)][rng.integers(4)]
        overflow = ("saturate", "ieee")[rng.integers(2)]
        rounding = Rounding.parse(mode)
        words = None
        if rounding.random_bits > 16 or (rounding.is_stochastic and rng.integers(2)):
            words = rng.integers(0, 1 << rounding.random_bits, shape, np.uint32)
        for make in (patterns, around):
            for scale in (0, -9, 25, 140, -300):
                check(make(rng, shape, dtype), name, mode, scale, overflow, words)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "bfloat16", "int8"])
def test_every_upper_half_of_a_float32(name):
    """65,536 upper halves, with lower halves at and beside a tie, nearest."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001):
        check((upper | np.uint32(lower)).view(np.float32), name, "nearest_even", 0, "saturate", None)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e8m7", "e8m7-nosub", "e6m5-nosub"])
def test_the_largest_scale_of_a_kernel_and_the_next(name, rng):
    """Up to the edge of `rounds` the kernel's lanes do; beyond it wider lanes or the golden model; equal all along."""
    fmt = get_format(name)
    tiny = (rng.integers(0, 1 << 24, 1000, np.uint32) | rng.integers(0, 2, 1000, np.uint32) << np.uint32(31)).view(
        np.float32
    )
    edge = max(scale for scale in range(-200, 200) if rounds(FLOAT32, fmt, Rounding("nearest_even"), scale))
    wide_edge = max(scale for scale in range(-200, 1200) if rounds(FLOAT64, fmt, Rounding("nearest_even"), scale))
    for scale in (edge - 1, edge, edge + 1, edge + 2, wide_edge, wide_edge + 1):
        for mode in ("nearest_even", "stochastic:16"):
            check(tiny, name, mode, scale, "saturate", None)


@pytest.mark.parametrize("columns", [1, 3, 63, 64, 65, 127, 128, 500])
def test_any_number_of_columns(columns, rng):
    for rows in (1, 4):
        x = rng.normal(size=(rows, columns)).astype(np.float32)
        check(x, "e4m3", "stochastic:8", 0, "saturate", None)
        check(x, "bfloat16", "nearest_even", 0, "saturate", None)


def test_strides_do_not_matter(rng):
    x = rng.normal(size=(60, 80)).astype(np.float32)
    for view in (x.T, x[::-2, ::3], x[5:6].T):
        for mode in ("nearest_even", "stochastic:8"):
            assert (quantise(view, "e5m2", mode) == quantise(view.copy(), "e5m2", mode)).all()


def test_scalars_and_nothing():
    assert quantise(1.0, "e4m3") == 0x38
    assert quantise(np.zeros((0, 5), np.float32), "e4m3", "stochastic:3").shape == (0, 5)
    assert quantise([1, 2, -3], "int8").tolist() == [1, 2, 253]


@pytest.mark.parametrize("name", FORMATS.names())
def test_dequantising_is_decoding(name, rng):
    fmt = get_format(name)
    codes = rng.choice(np.arange(1 << 16) if fmt.bits > 16 else fmt.valid_codes, (17, 31)).astype(fmt.code_dtype)
    for dtype in (np.float32, np.float64):
        values = dequantise(codes, fmt, dtype)
        assert values.dtype == dtype
        expected = fmt.to_float64(codes).astype(dtype)
        assert ((values == expected) | (np.isnan(values) & np.isnan(expected))).all()
        assert (np.signbit(values) == np.signbit(expected)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounding": "stochastic:17"}, "at most 16 random bits"),
        ({"rounding": "stochastic:4", "words": np.full(3, 16, np.uint32)}, r"word 16 is not below 2\*\*4"),
        ({"rounding": "stochastic:4", "words": np.zeros(4, np.uint32)}, r"of shape \(3,\), not"),
        ({"overflow": "wrap"}, "unknown overflow behaviour 'wrap'"),
        ({"seed": -1}, "seed must be 0 to"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantise(np.zeros(3), "e4m3", **arguments)
