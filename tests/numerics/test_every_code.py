"""Every code, every midpoint ± 1 ulp of every format of at most 16 bits; all random words of up to 8 bits.

What codes mean is held against the referees in `test_formats.py`. From there on the numbers themselves are enough: the
neighbours of x are the numbers around it, and all that lies between them and decides is exact in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import FORMATS, FloatFormat, Format, LogFormat, PositFormat, get_format
from halfulp.numerics.posit_formats import read_posits
from halfulp.numerics.rounding import NEAREST_EVEN, TOWARD_ZERO, Rounding

NAMES = [name for name in FORMATS.names() if get_format(name).bits <= 16]
NAMES += ["e3m4", "e4m3-ieee", "e4m3-nosub", "e6m5-nosub", "e8m7-nosub", "e5m0-fn", "e1m2-finite", "uint5", "int13"]
NAMES += ["uint16", "fixed2.6", "fixed1.3", "posit8_0", "posit8_2", "posit12_2", "log5_0", "log6_4", "log12_3"]
POSITS = [name for name in NAMES if isinstance(get_format(name), PositFormat)]
OTHERS = [name for name in NAMES if name not in POSITS and name != "binary"]


class Numbers(NamedTuple):
    """Magnitudes of one sign, ascending, the last beyond the largest number; codes, of all but that one."""

    values: np.ndarray
    codes: np.ndarray


def numbers_of(fmt: Format, sign: int) -> Numbers:
    values = fmt.to_float64(fmt.valid_codes)
    mine = np.isfinite(values) & (np.signbit(values) == (sign < 0))
    values, codes = np.abs(values[mine]), fmt.valid_codes[mine]
    if 0 not in values:
        values, codes = np.append(0.0, values), np.append(0, codes)
    values, first = np.unique(values, return_index=True)
    largest = values[-1]
    if isinstance(fmt, LogFormat):
        beyond = 2.0 ** (fmt.bias >> fmt.fraction_bits)
    elif isinstance(fmt, FloatFormat):
        beyond = largest + 2.0 ** (np.frexp(largest)[1] - 1 - fmt.mantissa_bits)
    else:
        beyond = largest + 2.0**fmt.lsb_exponent
    return Numbers(np.append(values, beyond), codes[first].astype(np.int64))


def check(fmt: Format, x: np.ndarray, index: np.ndarray, numbers: Numbers, sign: int, rounding: Rounding) -> None:
    """X, of this sign, must round to the numbers of these indices; beyond the largest to that, with overflow."""
    codes, invalid, overflow = fmt.encode(from_float64(sign * x), rounding)
    top = len(numbers.codes) - 1
    wrong = np.flatnonzero((codes != numbers.codes[np.minimum(index, top)]) | (overflow != (index > top)) | invalid)
    assert not len(wrong), f"{fmt}, {rounding}: {sign * x[wrong[0]]!r} to code {codes[wrong[0]]:#x}"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OTHERS)
def test_every_number_and_every_midpoint(name, sign):
    """Each number, each midpoint, and the float64 numbers on both sides of both: nearest, and toward zero."""
    fmt = get_format(name)
    numbers = numbers_of(fmt, sign)
    values = numbers.values
    middle = (values[1:] + values[:-1]) / 2
    index = np.arange(len(values))
    low, odd = index[:-1], (numbers.codes & 1).astype(np.int64)
    check(fmt, middle, low + odd, numbers, sign, NEAREST_EVEN)
    check(fmt, np.nextafter(middle, np.inf), low + 1, numbers, sign, NEAREST_EVEN)
    check(fmt, np.nextafter(middle, 0), low, numbers, sign, NEAREST_EVEN)
    for rounding in (NEAREST_EVEN, TOWARD_ZERO):
        check(fmt, values, index, numbers, sign, rounding)
    check(fmt, np.nextafter(values[1:], 0), low, numbers, sign, TOWARD_ZERO)
    check(fmt, np.nextafter(values, np.inf), index, numbers, sign, TOWARD_ZERO)


@pytest.mark.parametrize("name", POSITS)
def test_every_posit_and_every_tie(name):
    """Posits of one more bit are the posits and their ties; just beside them their neighbours; nothing becomes zero."""
    fmt = get_format(name)
    assert isinstance(fmt, PositFormat)
    significand, exponent = read_posits(fmt.width + 1, fmt.exponent_bits)
    x = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
    finer = np.arange(len(x))
    low, is_tie = finer // 2, finer % 2 == 1
    top = fmt.nan_code - 1
    for points, index in (
        (x, low + (is_tie & (low % 2 == 1))),
        (np.nextafter(x, np.inf), low + is_tie),
        (np.nextafter(x[1:], 0), low[1:]),
    ):
        expected = np.clip(index, points > 0, top)
        for sign in (1, -1):
            codes, _, overflow = fmt.encode(from_float64(sign * points))
            assert (codes == (sign * expected) % (1 << fmt.width)).all()
            assert (overflow == (points > x[2 * top])).all()


@pytest.mark.parametrize("name", [*OTHERS, *POSITS])  # binary: its own test is in test_formats.py
def test_probability_of_rounding_up_with_all_words(name, rng):
    """Up to 64 gaps of the format, at quarters of 2**-r of the way through and just beside them, all R of r <= 8."""
    fmt = get_format(name)
    table = numbers_of(fmt, 1)
    gaps = rng.permutation(len(table.codes) - 1)[:64]
    low, high = table.values[gaps], table.values[gaps + 1]
    for r in range(1, 9):
        quarters = rng.integers(0, 1 << (r + 2), (len(gaps), 4)) * 2.0 ** -(r + 2)
        parts = quarters + np.array([0, 0, 2.0**-30, 2.0**-33])
        x = low[:, None] + (high - low)[:, None] * parts
        words = np.arange(1 << r, dtype=np.uint32)
        points, random = np.broadcast_arrays(x[..., None], words)
        for kind, half in (("stochastic", 0.5), ("stochastic_floor", 0.0)):
            codes = fmt.encode(from_float64(points), Rounding(kind, r), random).codes
            up = codes == table.codes[gaps + 1][:, None, None]
            assert (up | (codes == table.codes[gaps][:, None, None])).all()
            # Up iff part + (R + half) / 2**r >= 1: for the highest floor(part * 2**r + half) of all R.
            assert (up.sum(axis=2) == np.floor(parts * 2**r + half)).all(), (kind, r)


def midpoints(fmt: Format) -> np.ndarray:
    """Every number, midpoint, and the float32 numbers beside both, of both signs; float32 holds them exactly."""
    values = numbers_of(fmt, 1).values
    with np.errstate(over="ignore"):  # the number that would follow the largest bfloat16
        points = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
    points = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))])
    return np.concatenate([points, -points])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_nearest_even_of_every_midpoint_is_the_referees(name):
    """Differences by cause: none. All overflow to Inf, which is `ieee` here.

    Subnormals of float32 are left out: bfloat16 has them itself, and torch may flush them.
    """
    fmt = get_format(name)
    x = midpoints(fmt)
    x = x[(np.abs(x) >= np.finfo(np.float32).tiny) | (x == 0)]
    ours = fmt.encode(from_float64(x), overflow="ieee").codes
    with np.errstate(over="ignore"):
        assert (x.astype({"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[name]).view(np.uint16) == ours).all()
    theirs = torch.from_numpy(x).to({"float16": torch.float16, "bfloat16": torch.bfloat16}[name])
    assert (theirs.view(torch.int16).numpy().view(np.uint16) == ours).all()
    info = {"float16": gfloat.formats.format_info_binary16, "bfloat16": gfloat.formats.format_info_bfloat16}[name]
    values = gfloat.round_ndarray(info, x.astype(np.float64), gfloat.RoundMode.TiesToEven, False)
    decoded = fmt.to_float64(ours)
    assert ((values == decoded) & (np.signbit(values) == np.signbit(decoded))).all()
