"""The rational reference: slow and obviously right, in `fractions.Fraction`, one element at a time.

It shares no code with the golden model: formats are read here from their codes' bit fields, neighbours are
found by division, and a GEMM is a Python loop.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from halfulp.numerics.accumulators import FixedAccumulator, FloatAccumulator
from halfulp.numerics.formats import BinaryFormat, FixedPointFormat, FloatFormat, Format, IntFormat, TernaryFormat
from halfulp.numerics.gemm import GemmSpec
from halfulp.numerics.random_bits import accumulator_words, output_words, xorshift32
from halfulp.numerics.rounding import Rounding

NAN, PLUS_INF, MINUS_INF, MINUS_ZERO = "nan", "+inf", "-inf", "-0"
Value = Fraction | str
"""An exact number, or one of the four names above."""


def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def from_float(x: float) -> Value:
    """A Python float as a `Value`."""
    if x != x:
        return NAN
    if x in (float("inf"), -float("inf")):
        return PLUS_INF if x > 0 else MINUS_INF
    return MINUS_ZERO if x == 0 and str(x).startswith("-") else Fraction(x)


class Reference:
    """The contract of docs/numerics.md, in rational numbers."""

    value = staticmethod(from_float)

    @staticmethod
    def decode(fmt: Format, code: int) -> Value:
        if isinstance(fmt, BinaryFormat):
            return Fraction((-1, 1)[code])
        if isinstance(fmt, TernaryFormat):
            return Fraction({0: 0, 1: 1, 3: -1}[code])
        if isinstance(fmt, FixedPointFormat):
            width = fmt.integer_bits + fmt.fraction_bits
            return Fraction(code - 2**width if code >= 2 ** (width - 1) else code, 2**fmt.fraction_bits)
        if isinstance(fmt, IntFormat):
            return Fraction(code - (1 << fmt.width) if fmt.signed and code >> (fmt.width - 1) else code)
        assert isinstance(fmt, FloatFormat)
        fraction = code % 2**fmt.mantissa_bits
        field = code // 2**fmt.mantissa_bits % 2**fmt.exponent_bits
        minus = code // 2 ** (fmt.mantissa_bits + fmt.exponent_bits) == 1
        highest = field == 2**fmt.exponent_bits - 1
        if fmt.specials == "ieee" and highest:
            return NAN if fraction else MINUS_INF if minus else PLUS_INF
        if fmt.specials == "fn" and highest and fraction == 2**fmt.mantissa_bits - 1:
            return NAN
        bias = 2 ** (fmt.exponent_bits - 1) - 1
        share = Fraction(fraction, 2**fmt.mantissa_bits)
        if field == 0:
            magnitude = share * power(1 - bias) if fmt.subnormals else Fraction(0)
        else:
            magnitude = (1 + share) * power(field - bias)
        if minus and magnitude == 0:
            return MINUS_ZERO
        return -magnitude if minus else magnitude

    @classmethod
    def code_of(cls, fmt: Format, value: Value) -> int:
        """The code of a representable value; of a NaN, the positive quiet one."""
        if not isinstance(fmt, FloatFormat):
            number = Fraction(0 if value == MINUS_ZERO else value)
            return int(number / cls.spacing(fmt, number)) % 2**fmt.bits
        assert isinstance(fmt, FloatFormat)
        top = 2**fmt.exponent_bits - 1
        sign = 2 ** (fmt.exponent_bits + fmt.mantissa_bits)
        if value == NAN:
            quiet = 2 ** (fmt.mantissa_bits - 1) if fmt.specials == "ieee" else 2**fmt.mantissa_bits - 1
            return top * 2**fmt.mantissa_bits + quiet
        if value in (PLUS_INF, MINUS_INF):
            return top * 2**fmt.mantissa_bits + (sign if value == MINUS_INF else 0)
        if value == MINUS_ZERO:
            return sign
        bias = 2 ** (fmt.exponent_bits - 1) - 1
        magnitude = abs(Fraction(value))
        field = 0
        while field < top and magnitude >= power(field + 1 - bias):
            field += 1
        if field == 0:
            fraction = magnitude / power(1 - bias) * 2**fmt.mantissa_bits
        else:
            fraction = (magnitude / power(field - bias) - 1) * 2**fmt.mantissa_bits
        assert fraction.denominator == 1, f"{value} is no value of {fmt}"
        return field * 2**fmt.mantissa_bits + int(fraction) + (sign if Fraction(value) < 0 else 0)

    @staticmethod
    def spacing(fmt: Format, magnitude: Fraction) -> Fraction:
        """u = hi - lo around a positive magnitude, as if the format had no largest number."""
        if isinstance(fmt, FixedPointFormat):
            return Fraction(1, 2**fmt.fraction_bits)
        if not isinstance(fmt, FloatFormat):
            return Fraction(1)
        least = 2 - 2 ** (fmt.exponent_bits - 1)  # exponent of the smallest normal number
        if magnitude < power(least):
            return power(least - fmt.mantissa_bits) if fmt.subnormals else power(least)
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        if power(exponent) > magnitude:
            exponent -= 1
        return power(exponent - fmt.mantissa_bits)

    @classmethod
    def round(
        cls, fmt: Format, value: Value, rounding: Rounding, word: int = 0, overflow: str = "saturate"
    ) -> tuple[int, bool, bool]:
        """Code, invalid flag and overflow flag of one value rounded to `fmt`."""
        has_inf = isinstance(fmt, FloatFormat) and fmt.specials == "ieee"
        has_nan = isinstance(fmt, FloatFormat) and fmt.specials != "finite"
        if value == NAN:
            return (cls.code_of(fmt, NAN), False, False) if has_nan else (0, True, False)
        if isinstance(fmt, BinaryFormat):
            return cls.round_binary(value, rounding, word)
        minus = value in (MINUS_INF, MINUS_ZERO) or (isinstance(value, Fraction) and value < 0)
        least, largest = cls.bounds(fmt)
        limit = least if minus else largest
        signed_zero = MINUS_ZERO if minus and isinstance(fmt, FloatFormat) else Fraction(0)
        if value in (PLUS_INF, MINUS_INF):
            if has_inf:
                return cls.code_of(fmt, value), False, False
            return cls.code_of(fmt, NAN if overflow == "ieee" and has_nan else limit), False, True
        if value == MINUS_ZERO or value == 0:
            return cls.code_of(fmt, signed_zero), False, False
        magnitude = abs(Fraction(value))
        u = cls.spacing(fmt, magnitude)
        lo = floor(magnitude / u) * u
        part = (magnitude - lo) / u
        r = rounding.random_bits
        if rounding.kind == "nearest_even":
            even = cls.is_even(fmt, lo, u)
            up = part > Fraction(1, 2) or (part == Fraction(1, 2) and not even)
        elif rounding.kind == "toward_zero":
            up = False
        elif rounding.kind == "stochastic":
            up = part + (word + Fraction(1, 2)) / 2**r >= 1
        else:
            up = part + Fraction(word, 2**r) >= 1
        rounded = lo + u if up else lo
        if rounded > abs(limit):
            to_limit = overflow == "saturate" or rounding.kind == "toward_zero" or not (has_inf or has_nan)
            if to_limit:
                return cls.code_of(fmt, limit), False, True
            return cls.code_of(fmt, (MINUS_INF if minus else PLUS_INF) if has_inf else NAN), False, True
        if rounded == 0:
            return cls.code_of(fmt, signed_zero), False, False
        return cls.code_of(fmt, -rounded if minus else rounded), False, False

    @staticmethod
    def round_binary(value: Value, rounding: Rounding, word: int) -> tuple[int, bool, bool]:
        """Code and flags of -1 or 1: the odd integers' grid, no NaN."""
        if value in (PLUS_INF, MINUS_INF):
            return int(value == PLUS_INF), False, True
        x = Fraction(0 if value == MINUS_ZERO else value)
        lo = 2 * floor((abs(x) + 1) / 2) - 1  # -1, 1, 3, ...
        part = (abs(x) - lo) / 2
        if rounding.kind == "nearest_even":
            up = part > Fraction(1, 2) or (part == Fraction(1, 2) and (lo + 1) // 2 % 2 == 1)
        elif rounding.kind == "toward_zero":
            up = False
        else:
            half = Fraction(rounding.kind == "stochastic", 2)
            up = part + (word + half) / 2**rounding.random_bits >= 1
        magnitude = lo + 2 * up
        if not rounding.is_stochastic:
            magnitude = max(magnitude, 1)
        return int((magnitude > 0) == (x >= 0)), False, magnitude > 1

    @staticmethod
    def is_even(fmt: Format, lo: Fraction, u: Fraction) -> bool:
        """Whether the code of lo ends in 0: of its significand, or without fraction bits its exponent field."""
        if isinstance(fmt, FloatFormat) and fmt.mantissa_bits == 0 and lo > 0:
            bias = 2 ** (fmt.exponent_bits - 1) - 1
            return next(field for field in range(1, 3000) if power(field - bias) == lo) % 2 == 0
        return int(lo / u) % 2 == 0

    @classmethod
    def bounds(cls, fmt: Format) -> tuple[Fraction, Fraction]:
        """The least and the largest finite value."""
        if isinstance(fmt, IntFormat):
            half = 2 ** (fmt.width - 1)
            return (Fraction(-half), Fraction(half - 1)) if fmt.signed else (Fraction(0), Fraction(2 * half - 1))
        if isinstance(fmt, FixedPointFormat):
            half = Fraction(2 ** (fmt.integer_bits - 1))
            return -half, half - Fraction(1, 2**fmt.fraction_bits)
        if isinstance(fmt, TernaryFormat):
            return Fraction(-1), Fraction(1)
        assert isinstance(fmt, FloatFormat)
        top, bias = 2**fmt.exponent_bits - 1, 2 ** (fmt.exponent_bits - 1) - 1
        ulp = Fraction(1, 2**fmt.mantissa_bits)
        if fmt.specials == "ieee":
            largest = (2 - ulp) * power(top - 1 - bias)
        elif fmt.specials == "finite":
            largest = (2 - ulp) * power(top - bias)
        elif fmt.mantissa_bits == 0:
            largest = power(top - 1 - bias)
        else:
            largest = (2 - 2 * ulp) * power(top - bias)
        return -largest, largest

    @classmethod
    def dot(cls, a: list[Value], b: list[Value]) -> Value:
        """The exact sum of products; NaN and infinities as IEEE 754 has them."""
        total, infinities = Fraction(0), set()
        for x, y in zip(a, b, strict=True):
            if NAN in (x, y):
                return NAN
            minus = cls.is_minus(x) != cls.is_minus(y)
            if {x, y} & {PLUS_INF, MINUS_INF}:
                if x in (0, MINUS_ZERO) or y in (0, MINUS_ZERO):
                    return NAN
                infinities.add(MINUS_INF if minus else PLUS_INF)
            elif MINUS_ZERO not in (x, y):
                total += Fraction(x) * Fraction(y)
        if len(infinities) == 2:
            return NAN
        return infinities.pop() if infinities else total

    @classmethod
    def product(cls, x: Value, y: Value) -> Value:
        if NAN in (x, y):
            return NAN
        if {x, y} & {PLUS_INF, MINUS_INF}:
            if x in (0, MINUS_ZERO) or y in (0, MINUS_ZERO):
                return NAN
            return MINUS_INF if cls.is_minus(x) != cls.is_minus(y) else PLUS_INF
        return Fraction(0) if MINUS_ZERO in (x, y) else Fraction(x) * Fraction(y)

    @classmethod
    def sum(cls, x: Value, y: Value) -> Value:
        if NAN in (x, y) or {x, y} == {PLUS_INF, MINUS_INF}:
            return NAN
        for each in (x, y):
            if each in (PLUS_INF, MINUS_INF):
                return each
        return sum((Fraction(each) for each in (x, y) if each != MINUS_ZERO), Fraction(0))

    @classmethod
    def float_chain(
        cls, a: list[Value], b: list[Value], accumulator: FloatAccumulator, words: list[int]
    ) -> tuple[Value, bool]:
        """The accumulated sum, rounded at each step with R = words[k], and whether a step overflowed."""
        total: Value = Fraction(0)
        overflow = False
        for x, y, word in zip(a, b, words, strict=True):
            total = cls.sum(total, cls.product(x, y))
            if total in (NAN, PLUS_INF, MINUS_INF):
                continue
            code, _, too_large = cls.round(accumulator.format, total, accumulator.rounding, word, accumulator.overflow)
            total = cls.decode(accumulator.format, code)
            overflow |= too_large
        return total, overflow

    @classmethod
    def fixed_chain(cls, a: list[Value], b: list[Value], accumulator: FixedAccumulator) -> tuple[Value, bool]:
        """The accumulated sum, saturated at each step, and whether a step saturated."""
        total: Value = Fraction(0)
        overflow = False
        unit = power(accumulator.lsb)
        limit = 2 ** (accumulator.width - 1)
        for x, y in zip(a, b, strict=True):
            product = cls.product(x, y)
            if isinstance(product, Fraction):
                product = floor(abs(product) / unit) * unit * (-1 if product < 0 else 1)
            total = cls.sum(total, product)
            if isinstance(total, Fraction):
                held = min(max(total, -limit * unit), (limit - 1) * unit)
                overflow |= held != total
                total = held
        return total, overflow

    @staticmethod
    def step_words(seed: int, rows: int, columns: int, depth: int, rounding: Rounding) -> np.ndarray:
        """R of each step: [M, N, K]."""
        words = np.zeros((rows, columns, depth), np.int64)
        row, column = accumulator_words(seed, np.arange(rows), np.arange(columns))
        for k in range(depth):
            words[:, :, k] = (row[:, None] ^ column[None, :]) >> np.uint32(32 - max(rounding.random_bits, 1))
            row, column = xorshift32(row), xorshift32(column)
        return words

    @staticmethod
    def is_minus(x: Value) -> bool:
        return x in (MINUS_INF, MINUS_ZERO) or (isinstance(x, Fraction) and x < 0)

    @classmethod
    def gemm(cls, a: np.ndarray, b: np.ndarray, spec: GemmSpec, seed: int) -> tuple[np.ndarray, bool, bool]:
        """Codes [M, N], invalid and overflow of a GEMM."""
        left = [[cls.decode(spec.a, int(code)) for code in row] for row in a]
        right = [[cls.decode(spec.b, int(code)) for code in column] for column in b.T]
        words = np.zeros((len(left), len(right)), np.uint32)
        if spec.rounding.is_stochastic:
            words = output_words(seed, np.arange(len(left)), np.arange(len(right)), spec.rounding.random_bits)
        codes = np.zeros(words.shape, spec.out.code_dtype)
        invalid = overflow = False
        steps = np.zeros(0)
        if isinstance(spec.accumulator, FloatAccumulator):
            steps = cls.step_words(seed, len(left), len(right), len(left[0]), spec.accumulator.rounding)
        for i, row in enumerate(left):
            for j, column in enumerate(right):
                stepped = False
                if isinstance(spec.accumulator, FloatAccumulator):
                    total, stepped = cls.float_chain(row, column, spec.accumulator, steps[i, j].tolist())
                elif isinstance(spec.accumulator, FixedAccumulator):
                    total, stepped = cls.fixed_chain(row, column, spec.accumulator)
                else:
                    total = cls.dot(row, column)
                if isinstance(total, Fraction):
                    total *= power(spec.scale)
                code, nan_lost, too_large = cls.round(spec.out, total, spec.rounding, int(words[i, j]), spec.overflow)
                if cls.decode(spec.out, code) == MINUS_ZERO:
                    code = 0
                codes[i, j] = code
                invalid |= nan_lost
                overflow |= too_large or stepped
        return codes, invalid, overflow


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    """The rational reference."""
    return Reference
