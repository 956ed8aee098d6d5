"""Binary floating-point formats ``eXmY`` (docs/numerics.md, section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, INFINITE, NAN, RealArray, bit_length
from halfulp.numerics.format_base import Encoded, Format
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow, round_to_multiple

__all__ = ["FloatFormat"]


@dataclass(frozen=True)
class FloatFormat(Format):
    """A binary floating-point format ``eXmY``: sign, X exponent bits, Y fraction bits.

    Parameters
    ----------
    exponent_bits, mantissa_bits
        X (1 to 8) and Y (0 to 23).
    specials
        ``ieee``: the topmost exponent field means Inf and NaN; ``fn``: only the all-ones code is NaN, no Inf
        (OCP E4M3); ``finite``: every code is a number (OCP FP6 and FP4).
    subnormals
        Without them the codes of exponent field 0 are zero, and the gap from 0 to the smallest normal is
        rounded as one ulp.
    """

    exponent_bits: int
    mantissa_bits: int
    specials: str = "ieee"
    subnormals: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.exponent_bits <= 8:
            raise ValueError(f"{self.name}: exponent bits must be 1 to 8, not {self.exponent_bits}")
        if not 0 <= self.mantissa_bits <= 23:
            raise ValueError(f"{self.name}: mantissa bits must be 0 to 23, not {self.mantissa_bits}")
        if self.specials not in ("ieee", "fn", "finite"):
            raise ValueError(f"{self.name}: specials must be ieee, fn or finite, not {self.specials!r}")
        if self.specials == "ieee" and (self.exponent_bits < 2 or self.mantissa_bits < 1):
            raise ValueError(f"{self.name}: Inf and NaN need at least 2 exponent bits and 1 mantissa bit")

    @property
    def bits(self) -> int:
        """Width of a code: sign, exponent, fraction."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """Exponent bias, 2**(X-1) - 1."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def min_normal_exponent(self) -> int:
        """Exponent e of the smallest normal number 2**e."""
        return 1 - self.bias

    @property
    def lsb_exponent(self) -> int:
        """Exponent of the subnormal spacing (of the smallest normal's ulp, where there are no subnormals)."""
        return self.min_normal_exponent - self.mantissa_bits

    @property
    def significand_bits(self) -> int:
        """Fraction bits and the hidden one."""
        return self.mantissa_bits + 1

    @property
    def max_code(self) -> int:
        """Code of the largest finite number."""
        top = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        return {"ieee": top - (1 << self.mantissa_bits), "fn": top - 1, "finite": top}[self.specials]

    @property
    def inf_code(self) -> int:
        """Code of +Inf; only for formats that have it."""
        return self.max_code + 1

    @property
    def nan_code(self) -> int:
        """The NaN that is produced: positive, quiet (highest fraction bit set); all ones for ``fn``."""
        if self.specials == "fn":
            return self.max_code + 1
        return self.inf_code | 1 << max(self.mantissa_bits - 1, 0)

    @property
    def sign_code(self) -> int:
        """The sign bit."""
        return 1 << (self.bits - 1)

    @property
    def max_shift(self) -> int:
        """Shift of the largest finite number's significand."""
        return max((self.max_code >> self.mantissa_bits) - 1, 0)

    @property
    def max_units(self) -> int:
        """Largest finite magnitude in units of the subnormal spacing."""
        fraction = self.max_code & ((1 << self.mantissa_bits) - 1)
        hidden = (self.max_code >> self.mantissa_bits > 0) << self.mantissa_bits
        return (fraction | hidden) << self.max_shift

    @property
    def has_nan(self) -> bool:
        """Whether some code is NaN."""
        return self.specials != "finite"

    @property
    def has_inf(self) -> bool:
        """Whether some codes are infinities."""
        return self.specials == "ieee"

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        magnitude = codes & (self.sign_code - 1)
        field = magnitude >> self.mantissa_bits
        fraction = magnitude & ((1 << self.mantissa_bits) - 1)
        significand = np.where(field > 0, fraction | 1 << self.mantissa_bits, fraction if self.subnormals else 0)
        kind = np.full(codes.shape, FINITE, np.uint8)
        kind[magnitude > self.max_code] = NAN
        if self.has_inf:
            kind[magnitude == self.inf_code] = INFINITE
        significand = np.where(kind == FINITE, significand, 0)
        exponent = np.where(kind == FINITE, np.maximum(field, 1) - 1 + self.lsb_exponent, 0)
        return RealArray(codes >= self.sign_code, significand, exponent, kind)

    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """See `Format.encode`. The exponent field is added, so that a significand's carry goes into it."""
        check_overflow(overflow)
        leading = values.exponent + bit_length(values.significand) - 1
        normal = leading >= self.min_normal_exponent
        if self.subnormals:
            ulp = np.maximum(leading - self.mantissa_bits, self.lsb_exponent)
        else:
            ulp = np.where(normal, leading - self.mantissa_bits, self.min_normal_exponent)
        # Without fraction bits lo is 1 at every normal number; the code's lowest bit is the exponent field's.
        odd = normal & ((leading - self.lsb_exponent) & 1 == 0) if self.mantissa_bits == 0 else None
        multiples = round_to_multiple(values.significand, values.exponent, ulp, rounding, random, odd)
        # Keep the sum below in range for exponents of any size: all beyond this limit overflow alike.
        shift = np.clip(ulp - self.lsb_exponent, 0, 1 << 20)
        code = (shift << self.mantissa_bits) + multiples
        if not self.subnormals:
            code = np.where(normal, code, multiples << self.mantissa_bits)
        code = np.where(values.significand == 0, 0, code)

        finite = values.kind == FINITE
        infinite = values.kind == INFINITE
        too_large = finite & (code > self.max_code)
        to_infinity = too_large & (overflow == "ieee") & (rounding.kind != "toward_zero")
        beyond = self.inf_code if self.has_inf else self.nan_code if self.has_nan else self.max_code
        code = np.where(too_large, self.max_code, code)
        code = np.where(to_infinity, beyond, code)
        code = np.where(infinite, beyond if self.has_inf or overflow == "ieee" else self.max_code, code)
        is_nan = values.kind == NAN
        signed = values.negative & ~is_nan
        if not self.has_inf and self.has_nan:
            signed &= code != self.nan_code
        code = np.where(signed, code | self.sign_code, code)
        code = np.where(is_nan, self.nan_code if self.has_nan else 0, code)
        invalid = is_nan & (not self.has_nan)
        flag_overflow = too_large | (infinite & (not self.has_inf))
        return Encoded(code.astype(self.code_dtype), invalid, flag_overflow)
