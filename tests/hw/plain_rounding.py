"""Rounding spelled out: every number of a small format with the threshold above it, in integers."""

from __future__ import annotations

import itertools

from amaranth.hdl import Module, Signal, Value, signed

from halfulp.numerics.formats import FloatFormat
from halfulp.numerics.rounding import Rounding

__all__ = ["representable", "rounded_code"]


def representable(fmt: FloatFormat, lsb_exponent: int) -> list[tuple[int, int]]:
    """Code and magnitude, in units of 2**lsb_exponent, of each number, and of what would come after the largest."""
    first = 0 if fmt.subnormals else 1 << fmt.mantissa_bits
    codes = [0, *range(max(first, 1), fmt.max_code + 2)]
    numbers = []
    for code in codes:
        field, fraction = code >> fmt.mantissa_bits, code & ((1 << fmt.mantissa_bits) - 1)
        significand = fraction | (field > 0) << fmt.mantissa_bits
        exponent = fmt.lsb_exponent + max(field, 1) - 1
        assert exponent >= lsb_exponent
        numbers.append((code, significand << (exponent - lsb_exponent)))
    return numbers


def rounded_code(
    m: Module, magnitude: Value, fmt: FloatFormat, lsb_exponent: int, rounding: Rounding, random: Value
) -> Signal:
    """The code that a magnitude, in units of 2**lsb_exponent, is rounded to; `max_code` + 1 where it is beyond.

    It is the last one whose threshold is reached: lo is left where (|x| - lo) / u + share >= 1, with the share of
    docs/numerics.md, section 2: a half of a unit in nearest (and a tie goes to the even code), 0 toward zero, else
    (R + 1/2) / 2**r or R / 2**r.
    """
    numbers = representable(fmt, lsb_exponent)
    code = Signal(fmt.bits, name="plain_code")
    width = max(len(magnitude), numbers[-1][1].bit_length()) + 2
    reached = []
    r = rounding.random_bits
    for (low_code, low), (high_code, high) in itertools.pairwise(numbers):
        gap = high - low
        above = Signal(signed(width), name=f"above_{low_code}")
        m.d.comb += above.eq(magnitude - low)
        share: Value | int
        if rounding.kind == "nearest_even":
            passes = above + above >= gap if low_code & 1 else above + above > gap
        else:
            share = {"toward_zero": 0, "stochastic": 2 * random + 1, "stochastic_floor": 2 * random}[rounding.kind]
            passes = (above << (r + 1)) + share * gap >= gap << (r + 1)
        reached.append((high_code, passes & (above >= 0)))
    for high_code, passes in reached:
        with m.If(passes):
            m.d.comb += code.eq(high_code)
    return code
