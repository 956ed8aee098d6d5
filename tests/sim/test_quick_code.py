"""The short way to round equals `Format.encode` up to the edges of its range test, and where a vector is done again."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import get_format
from halfulp.numerics.random_bits import output_words
from halfulp.numerics.rounding import Rounding
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.quick_code import is_quick
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, SEGMENT

MODES = ("nearest_even", "toward_zero", "stochastic:16", "stochastic:15", "stochastic:1", "stochastic_floor:16")


def check(x: np.ndarray, name: str, text: str, scale: int, overflow: str = "saturate", signed: bool = True) -> None:
    fmt, mode = get_format(name), Rounding.parse(text)
    words = (
        output_words(9, np.arange(x.shape[0]), np.arange(x.shape[1]), mode.random_bits) if mode.random_bits else None
    )
    exact = from_float64(x)
    codes, invalid, beyond = fmt.encode(exact._replace(exponent=exact.exponent + scale), mode, words, overflow)
    if not signed:
        codes = fmt.without_minus_zero(codes)
    got = quantise_flagged(x, fmt, mode, seed=9, scale=scale, overflow=overflow, signed_zero=signed)
    wrong = np.argwhere(got.codes != codes)
    assert not wrong.size, f"{name} {text} scale {scale}: {len(wrong)} codes differ, first at {wrong[0]}"
    assert (got.invalid, got.overflow) == (invalid.any(), beyond.any())


def ladder(rng: np.random.Generator, name: str, dtype: type, scale: int) -> np.ndarray:
    """Around every multiple of a half of the least subnormal, and over all normal binades, scaled back by `scale`."""
    fmt = get_format(name)
    steps = np.arange(0, 3 << 8, dtype=np.float64)
    exponents = rng.integers(fmt.lsb_exponent - 4, fmt.lsb_exponent + 40, 768)
    with np.errstate(over="ignore"):
        small = np.ldexp(steps, fmt.lsb_exponent - 1 - scale)
        x = np.concatenate([small, np.ldexp(1 + rng.random(768), exponents - scale)]).astype(dtype)
    x = np.concatenate([x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(0))])
    x[~np.isfinite(x)] = 1  # a number too large in the source: no infinities, which have tests of their own
    return np.stack([x, -x])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["e4m3", "bfloat16", "e8m3"])
def test_scales_at_the_edges(name, dtype, rng):
    """The least and the largest scale of the short way, and one beyond each."""
    source = FLOAT32 if dtype is np.float32 else FLOAT64
    for text in ("nearest_even", "stochastic:9"):
        mode = Rounding.parse(text)
        quick = [scale for scale in range(-1200, 1200) if is_quick(source, get_format(name), mode, scale)]
        for scale in (quick[0] - 1, quick[0], 0, quick[-1], quick[-1] + 1) if quick else (0,):
            check(ladder(rng, name, dtype, scale), name, text, scale)


@pytest.mark.parametrize("text", MODES)
@pytest.mark.parametrize("name", ["e4m3", "bfloat16", "e8m6"])
def test_random_bits_at_the_edge(name, text, rng):
    """bfloat16 leaves 16 bits of float32's fraction: for r = 15 and its half bit, or for r = 16 without one."""
    fmt, mode = get_format(name), Rounding.parse(text)
    if name == "bfloat16":
        assert is_quick(FLOAT32, fmt, mode, 0) == (text != "stochastic:16")
    check(ladder(rng, name, np.float32, 0), name, text, 0)
    if name == "e4m3":
        check(ladder(rng, name, np.float64, 0), name, text, 0, signed=False)


@pytest.mark.parametrize("overflow", ["saturate", "ieee"])
@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_vectors_are_redone_where_they_must(name, overflow, rng):
    """One NaN, infinity, or number on either side of the largest in a block of others, and in its tail."""
    fmt = get_format(name)
    largest = fmt.max_units * 2.0**fmt.lsb_exponent
    for value in (np.nan, np.inf, -np.inf, largest, largest * 1.03, largest * 1.2, -3e38, np.float32(2.0**127)):
        for at in (0, SEGMENT - 1, SEGMENT + 63, SEGMENT + 70):
            x = rng.normal(size=(2, SEGMENT + 71)).astype(np.float32)
            x[1, at] = value
            for text in ("nearest_even", "stochastic:8"):
                check(x, name, text, 0, overflow)


def test_what_the_short_way_leaves_out():
    assert not is_quick(FLOAT32, get_format("e4m3-nosub"), Rounding("nearest_even"), 0)
    assert not is_quick(FLOAT32, get_format("float32"), Rounding("nearest_even"), 0)
    assert not is_quick(FLOAT32, get_format("int8"), Rounding("nearest_even"), 0)
    assert not is_quick(FLOAT32, get_format("e3m0-finite"), Rounding("nearest_even"), 0)


def test_int32_sums_are_rounded_as_they_are(rng):
    """Integers up to the ends of int32, which float32 does not hold, to floats and integers."""
    x = rng.integers(-(1 << 31), 1 << 31, (3, 300)).astype(np.int32) >> rng.integers(0, 32, (3, 300)).astype(np.int32)
    x[0, :3] = (1 << 31) - 1, -(1 << 31), 0
    for name in ("float32", "e5m2", "int8"):
        for text in ("nearest_even", "stochastic:13"):
            got = quantise_flagged(x, name, text, seed=4, scale=-3)
            expected = quantise_flagged(x.astype(np.float64), name, text, seed=4, scale=-3)
            assert (got.codes == expected.codes).all()
            assert got[1:] == expected[1:]
