"""Integers and what is made of them: fixed point, ternary and binary numbers (docs/numerics.md, section 1)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, INFINITE, NAN, RealArray, add
from halfulp.numerics.format_base import CodeArray, Encoded, Format
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow, round_to_multiple

__all__ = ["BinaryFormat", "FixedPointFormat", "IntFormat", "ScaledIntegerFormat", "TernaryFormat"]


@dataclass(frozen=True)
class ScaledIntegerFormat(Format):
    """Integers n from `smallest` to `largest`, each of value n * 2**lsb_exponent; the code is n's low bits."""

    @property
    @abstractmethod
    def smallest(self) -> int:
        """The least n."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """The greatest n."""

    @property
    def significand_bits(self) -> int:
        """Width of a magnitude: -2**(N-1) needs N bits."""
        return self.bits

    @property
    def max_shift(self) -> int:
        """0: all codes have one exponent."""
        return 0

    @property
    def max_units(self) -> int:
        """Largest magnitude of n."""
        return max(-self.smallest, self.largest)

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        value = np.where(codes > self.largest, codes - (1 << self.bits), codes)
        exponent = np.where(value != 0, np.int64(self.lsb_exponent), np.int64(0))
        return RealArray(value < 0, np.abs(value), exponent, np.zeros(codes.shape, np.uint8))

    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """See `Format.encode`. Saturates under either overflow behaviour, for there is no code for Inf."""
        check_overflow(overflow)
        ulp = np.full_like(values.exponent, self.lsb_exponent)
        multiples = round_to_multiple(values.significand, values.exponent, ulp, rounding, random)
        limit = np.where(values.negative, -self.smallest, self.largest)
        is_nan = values.kind == NAN
        infinite = values.kind == INFINITE
        too_large = ((values.kind == FINITE) & (multiples > limit)) | infinite
        magnitude = np.where(too_large, limit, multiples)
        value = np.where(values.negative, -magnitude, magnitude)
        value = np.where(is_nan, 0, value)
        codes = (value & ((1 << self.bits) - 1)).astype(self.code_dtype)
        return Encoded(codes, is_nan, too_large)


@dataclass(frozen=True)
class IntFormat(ScaledIntegerFormat):
    """A two's complement (or unsigned) integer of 2 to 32 bits; its code is its N low bits."""

    width: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 32:
            raise ValueError(f"{self.name}: integer formats have 2 to 32 bits, not {self.width}")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.width

    @property
    def lsb_exponent(self) -> int:
        """0: integers."""
        return 0

    @property
    def smallest(self) -> int:
        """The least value."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def largest(self) -> int:
        """The greatest value."""
        return (1 << (self.width - self.signed)) - 1


@dataclass(frozen=True)
class FixedPointFormat(ScaledIntegerFormat):
    """Fixed point ``fixedI.F``: a two's complement integer of I + F bits in units of 2**-F.

    Parameters
    ----------
    integer_bits
        I, the bits before the point, the sign among them: values are -2**(I-1) to 2**(I-1) - 2**-F. At least 1.
    fraction_bits
        F, the bits behind the point. I + F is 2 to 32.
    """

    integer_bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        if self.integer_bits < 1 or self.fraction_bits < 0:
            raise ValueError(
                f"{self.name}: fixedI.F needs I >= 1 (the sign) and F >= 0, "
                f"not {self.integer_bits} and {self.fraction_bits}"
            )
        if not 2 <= self.bits <= 32:
            raise ValueError(f"{self.name}: fixed-point formats have 2 to 32 bits, not {self.bits}")

    @property
    def bits(self) -> int:
        """Width of a code: I + F."""
        return self.integer_bits + self.fraction_bits

    @property
    def lsb_exponent(self) -> int:
        """-F."""
        return -self.fraction_bits

    @property
    def smallest(self) -> int:
        """The least value, in units of 2**-F."""
        return -(1 << (self.bits - 1))

    @property
    def largest(self) -> int:
        """The greatest value, in units of 2**-F."""
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class TernaryFormat(ScaledIntegerFormat):
    """-1, 0 and 1 in two bits, two's complement: codes 3, 0 and 1. Code 2 is refused, for it is no number."""

    name: str = "ternary"

    @property
    def bits(self) -> int:
        """2."""
        return 2

    @property
    def lsb_exponent(self) -> int:
        """0."""
        return 0

    @property
    def smallest(self) -> int:
        """-1."""
        return -1

    @property
    def largest(self) -> int:
        """1."""
        return 1

    @property
    def valid_codes(self) -> CodeArray:
        """0, 1 and 3."""
        return np.array([0, 1, 3], self.code_dtype)

    def check_codes(self, codes: npt.ArrayLike) -> CodeArray:
        """As `Format.check_codes`; also refuses code 2."""
        checked = super().check_codes(codes)
        if (checked == 2).any():
            raise ValueError(f"code 2 is outside {self.name}: its codes are 0, 1 and 3 (for -1)")
        return checked


@dataclass(frozen=True)
class BinaryFormat(Format):
    """-1 and 1 in one bit: codes 0 and 1, as binarised networks have it (Courbariaux et al., arXiv:1602.02830).

    There is no zero, so the numbers that bound a magnitude below 1 are 1 of either sign, u = 2. `stochastic` then gives
    1 with probability (x + 1) / 2, which is BinaryConnect's rule (arXiv:1511.00363). The deterministic modes give
    x's sign; a zero of either sign is 1.
    """

    name: str = "binary"

    @property
    def bits(self) -> int:
        """1."""
        return 1

    @property
    def lsb_exponent(self) -> int:
        """0."""
        return 0

    @property
    def significand_bits(self) -> int:
        """1."""
        return 1

    @property
    def max_shift(self) -> int:
        """0."""
        return 0

    @property
    def max_units(self) -> int:
        """1."""
        return 1

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        return RealArray(codes == 0, np.ones_like(codes), np.zeros_like(codes), np.zeros(codes.shape, np.uint8))

    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """See `Format.encode`. A magnitude overflows that rounds to the next odd integer, 3, or beyond."""
        check_overflow(overflow)
        finite, is_nan = values.kind == FINITE, values.kind == NAN
        # On odd integers 2n - 1: n is (|x| + 1) / 2, rounded to an integer. n = 0 is 1 of the other sign.
        ones = np.ones_like(values.significand)
        never = np.zeros(ones.shape, np.bool_)
        magnitude = values._replace(negative=never, kind=np.zeros_like(values.kind))
        above = add(magnitude, RealArray(never, ones, np.zeros_like(ones), magnitude.kind))
        n = round_to_multiple(above.significand, above.exponent - 1, np.zeros_like(ones), rounding, random)
        if not rounding.is_stochastic:
            n = np.maximum(n, 1)
        zero = values.significand == 0
        # A zero's sign must not decide: it is 1 in deterministic modes, and has probability 1/2 of it in the others.
        negative = (values.negative & ~(zero & finite)) ^ (n == 0)
        too_large = (finite & (n > 1)) | (values.kind == INFINITE)
        negative = np.where(values.kind == INFINITE, values.negative, negative)
        codes = np.where(is_nan | negative, 0, 1).astype(self.code_dtype)
        return Encoded(codes, is_nan, too_large)
