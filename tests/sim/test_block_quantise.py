"""Compiled quantising to blocks is the golden model's, in all codes, scales and flags."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.block_formats import BLOCK_FORMATS, BlockFormat, get_block_format
from halfulp.numerics.formats import get_format
from halfulp.numerics.random_bits import output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding
from halfulp.sim.block_quantise import quantise_blocks
from halfulp.sim.block_quantise_code import CHUNK

NAMES = [*BLOCK_FORMATS.names(), "bfp3", "bfp12", "bfp16"]
MODES = ("nearest_even", "toward_zero", "stochastic:5", "stochastic_floor:16")


@pytest.fixture
def no_golden(monkeypatch):
    """The golden model must not be what answers."""

    def never(*_, **__):
        raise AssertionError("the golden model was asked")

    def forbid() -> None:
        monkeypatch.setattr(BlockFormat, "quantise", never)

    return forbid


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers of which some blocks reach both ends of the type, with zeros, ties and powers of two and their edges."""
    top = {"float16": 14, "float32": 126, "float64": 1000}[dtype]
    x = rng.normal(size=shape) * 2.0 ** rng.integers(-top - 24, top, (*shape[:-1], 1))
    x = np.where(rng.random(shape) < 0.3, np.ldexp(rng.integers(-32, 33, shape) / 16, rng.integers(-3, 4, shape)), x)
    x[rng.random(shape) < 0.1] = 0
    x[rng.random(shape) < 0.05] *= -0.0
    with np.errstate(over="ignore", under="ignore"):
        small = x.astype(dtype)
    small[~np.isfinite(small)] = 1
    below = np.nextafter(2.0 ** rng.integers(-9, 10, shape).astype(dtype), small.dtype.type(0))
    return np.where(rng.random(shape) < 0.1, below, small)


def check(x: np.ndarray, fmt: BlockFormat, mode: Rounding, axis: int, words: np.ndarray, **options) -> None:
    want = fmt.quantise(x, mode, axis=axis, random=words, **options)
    got = quantise_blocks(x, fmt, mode, axis=axis, words=words, **options)
    same(got, want, f"{fmt}, {mode}, {x.dtype}, axis {axis}")


def same(got, want, what: str) -> None:
    np.testing.assert_array_equal(got.scales, want.scales, err_msg=what)
    np.testing.assert_array_equal(got.codes, want.codes, err_msg=what)
    assert got[2:] == want[2:], what
    assert got.codes.dtype == want.codes.dtype


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_golden(name, mode, rng):
    fmt, rounding = get_block_format(name), Rounding.parse(mode)
    for dtype in ("float32", "float64", "float16"):
        x = numbers(rng, (9, 2 * fmt.block + 5), dtype)
        words = rng.integers(0, 1 << rounding.random_bits, x.shape, np.uint32)
        check(x, fmt, rounding, 1, words)
        check(x.T[: fmt.block], fmt, rounding, 0, words.T[: fmt.block])
        x[2, 3], x[4, -1], x[5, 0] = np.nan, np.inf, -np.inf
        check(x, fmt, rounding, -1, words)


def test_a_kernel_answers(rng, no_golden):
    """All named formats have one, from both types of numbers."""
    no_golden()
    for name in NAMES:
        fmt = get_block_format(name)
        for dtype in (np.float32, np.float64):
            quantise_blocks(rng.normal(size=(3, 40)).astype(dtype), fmt, Rounding("stochastic", 16))


@pytest.mark.parametrize("name", NAMES)
def test_ends_of_float32(name):
    """Scales stop at 2**-127 and 2**127; subnormal blocks, and blocks with the largest number."""
    fmt = get_block_format(name)
    ends = np.array([0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x80000001, 0x3F800000], np.uint32).view(
        np.float32
    )
    x = np.repeat(ends, fmt.block).reshape(len(ends), fmt.block).copy()
    x[:, ::2] *= np.float32(0.3)
    for mode in (NEAREST_EVEN, Rounding("toward_zero")):
        check(x, fmt, mode, 1, np.zeros(x.shape, np.uint32))
        for row in x:  # nvfp4: a tensor scale for each
            check(row, fmt, mode, 0, np.zeros(row.shape, np.uint32))


def test_quotients_that_are_ties_or_nearly(rng):
    """nvfp4 divides: numbers that are a midpoint times the scale, and their neighbours, in both types."""
    fmt = get_block_format("nvfp4")
    midpoints = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    for scale in (0.0625, float(np.float32(0.1)), float(np.float32(1 / 2688)), 3.0):
        for dtype in (np.float32, np.float64):
            block = rng.integers(1, 0x7E, 64, np.uint8)
            divisors = get_format("e4m3").to_float64(block)[:, None] * scale
            ties = (np.tile(midpoints, 2) * divisors).astype(dtype)
            ties[:, 8:] = np.nextafter(ties[:, 8:], rng.choice([0, np.inf], ties[:, 8:].shape).astype(dtype))
            for mode in MODES:
                words = rng.integers(0, 2 ** max(Rounding.parse(mode).random_bits, 1), ties.shape, np.uint32)
                check(ties, fmt, Rounding.parse(mode), 1, words, tensor_scale=scale)


@pytest.mark.parametrize("kind", ["stochastic", "stochastic_floor"])
def test_quotients_nearer_to_the_edge_than_float64_can_tell(kind, rng):
    """Rounding up begins at 1 - (R + 1/2) / 2**32 of a step: float64 numbers next to that times the divisor.

    The product has more than 53 bits, so that the quotient rounded to float64 is often the edge itself.
    """
    fmt, half = get_block_format("nvfp4"), kind == "stochastic"
    tensor_scale = float(np.float32(0.0123))
    scales = rng.integers(0x40, 0x48, 300)
    divisors = fmt.scale_values[scales] * tensor_scale
    words = rng.integers(0, 1 << 32, (300, 16), dtype=np.uint32)
    edges = 1 + 0.5 * (1 - (words + 0.5 * half) / 2**32)  # between 1 and 1.5, of 35 bits
    x = divisors[:, None] * edges
    x[:, 0] = divisors * 6
    blocks = fmt.quantise(x, Rounding(kind, 32), axis=1, random=words, tensor_scale=tensor_scale)
    np.testing.assert_array_equal(blocks.scales[:, 0], scales)
    assert set(blocks.codes[:, 1:].ravel().tolist()) == {2, 3}
    check(x, fmt, Rounding(kind, 32), 1, words, tensor_scale=tensor_scale)


def test_random_bits_are_those_of_the_position_along_either_axis(rng):
    x = rng.normal(size=(35, 70)).astype(np.float32)
    mode = Rounding("stochastic", 11)
    words = output_words(2**63 + 5, np.arange(35), np.arange(70), 11)
    for name in ("mxfp4_e2m1", "nvfp4"):
        fmt = get_block_format(name)
        for axis in (0, 1):
            want = fmt.quantise(x, mode, axis=axis, random=words)
            same(quantise_blocks(x, fmt, mode, axis=axis, seed=2**63 + 5), want, f"{name}, axis {axis}")


@pytest.mark.parametrize("shape", [(2, 1300), (3, 35, 80), (2, 3, 33, 70), (35, 2 * CHUNK + 16), (35, CHUNK + 5)])
def test_random_bits_of_long_rows_and_of_many_axes(shape, rng):
    """Whole segments of words and what is left, several chunks of columns, the last one short or overlapping."""
    x, mode = rng.normal(size=shape).astype(np.float32), Rounding("stochastic", 7)
    words = output_words(11, np.arange(x.size // shape[-1]), np.arange(shape[-1]), 7).reshape(shape)
    for axis in range(-len(shape), 0):
        for name in ("mxfp4_e2m1", "mxint8"):
            fmt = get_block_format(name)
            want = fmt.quantise(x, mode, axis=axis, random=words)
            same(quantise_blocks(x, fmt, mode, axis=axis, seed=11), want, f"{name}, axis {axis}")


def test_tensor_scales_are_goldens(rng):
    """The largest number over 2688 in float32: ties and their neighbours, and both ends of float32 and of float64."""
    fmt = get_block_format("nvfp4")
    ties = (1 + (2 * rng.integers(0, 1 << 23, 40) + 1) * 2.0**-24) * 2688
    x = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf), rng.random(40) * 1e-3])
    x = np.concatenate([x, 2688 * 2.0 ** np.array([-150.0, -127, -126, -125, -124, 126, 127, 128, 900])])
    for number in (*x, 5e-324, 0.0):
        found = quantise_blocks(np.array([number]), fmt)
        assert found.tensor_scale == fmt.tensor_scale(float(number)), number


@pytest.mark.parametrize("inner", [7, 16, 37, 70])
def test_each_lane_has_a_block_of_its_own_along_other_axes(inner, rng):
    """Fewer columns than lanes, as many, several vectors, the last overlapping; a short last block; NaN in a column."""
    for name in ("mxfp8_e5m2", "mxint8", "nvfp4"):
        fmt = get_block_format(name)
        for dtype, mode in (("float32", "nearest_even"), ("float64", "stochastic:9")):
            rounding = Rounding.parse(mode)
            x = numbers(rng, (3, 2 * fmt.block + 3, inner), dtype)
            x[1, 5, inner - 1], x[2, -1, 0] = np.nan, np.inf
            words = rng.integers(0, 1 << rounding.random_bits, x.shape, np.uint32)
            check(x, fmt, rounding, 1, words)
            check(x, fmt, rounding, -2, words)
            check(x[:, :20], fmt, rounding, 0, words[:, :20])
    with pytest.raises(IndexError):
        quantise_blocks(x, fmt, axis=3)


def test_formats_without_a_kernel_are_the_golden_models(rng):
    x = rng.normal(size=(4, 50)).astype(np.float32)
    for fmt in (
        BlockFormat("seven", get_format("e4m3"), 7),
        BlockFormat("small", get_format("fixed1.7"), 16),
        BlockFormat("infinite", get_format("e5m2"), 16, "e4m3"),
    ):
        same(quantise_blocks(x, fmt), fmt.quantise(x), str(fmt))
        words = output_words(3, np.arange(4), np.arange(50), 4)
        mode = Rounding("stochastic", 4)
        same(quantise_blocks(x, fmt, mode, seed=3), fmt.quantise(x, mode, random=words), str(fmt))
    empty = np.zeros((3, 0), np.float32)
    assert quantise_blocks(empty, get_block_format("mxint8")).codes.shape == (3, 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: quantise_blocks(np.ones(4, int), f), TypeError, "float16, float32 or float64, not int64"),
        (lambda f: quantise_blocks(np.ones(4), f, Rounding("stochastic", 17)), ValueError, "at most 16 random bits"),
        (
            lambda f: quantise_blocks(np.ones(4), f, Rounding("stochastic", 7), words=np.zeros(3, np.uint32)),
            ValueError,
            r"words must be uint32 of shape \(4,\), not uint32 of shape \(3,\)",
        ),
        (lambda f: quantise_blocks(np.ones(4), f, tensor_scale=2.0), ValueError, "has no tensor scale"),
        (lambda f: quantise_blocks(np.ones(4), f, seed=-1), ValueError, "seed must be"),
    ],
)
def test_bad_input_names_value_and_rule(call, error, message):
    with pytest.raises(error, match=message):
        call(get_block_format("mxfp4_e2m1"))
