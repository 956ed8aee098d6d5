"""Number formats: what a code means, and the code that a real number rounds to (docs/numerics.md, section 1).

A format is one frozen, hashable value. NumPy, Amaranth shapes, host packing, the command line and the docs
all read this one object. Plain floats and integers are a line each in the table at the end.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, INFINITE, NAN, RealArray, bit_length
from halfulp.numerics.names import Registry
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow, round_to_multiple

__all__ = ["FORMATS", "Encoded", "FloatFormat", "Format", "IntFormat", "get_format"]

CodeArray = npt.NDArray[np.unsignedinteger]


class Encoded(NamedTuple):
    """Codes and the two sticky status flags, elementwise.

    codes: the format's `code_dtype`; invalid: a NaN had no code; overflow: a magnitude was beyond the largest
    finite.
    """

    codes: CodeArray
    invalid: npt.NDArray[np.bool_]
    overflow: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Format(ABC):
    """A scalar number format.

    Every finite code is ±significand * 2**exponent with integers; `lsb_exponent` is the least such exponent,
    so that every finite value is an integer multiple of 2**lsb_exponent.
    """

    name: str

    @property
    @abstractmethod
    def bits(self) -> int:
        """Width of a code in bits."""

    @property
    @abstractmethod
    def lsb_exponent(self) -> int:
        """Exponent e such that all finite values are integer multiples of 2**e."""

    @property
    @abstractmethod
    def significand_bits(self) -> int:
        """Width of the unsigned significand that `decode` gives."""

    @property
    @abstractmethod
    def max_shift(self) -> int:
        """Largest exponent that `decode` gives, less `lsb_exponent`: how far a significand is shifted."""

    @property
    @abstractmethod
    def max_units(self) -> int:
        """Largest finite magnitude, in units of 2**lsb_exponent."""

    @property
    @abstractmethod
    def has_nan(self) -> bool:
        """Whether some code is NaN."""

    @property
    @abstractmethod
    def has_inf(self) -> bool:
        """Whether some codes are infinities."""

    @abstractmethod
    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        """Decode valid codes given as int64."""

    @abstractmethod
    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """Round exact values to codes, once, with the sign of zero kept.

        `random` holds the R of the contract (uint32, below 2**r, the shape of `values`) for stochastic modes;
        `overflow` is ``saturate`` or ``ieee``.
        """

    @property
    def code_dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest unsigned NumPy integer that holds a code."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16 if self.bits <= 16 else np.uint32)

    @property
    def container_bytes(self) -> int:
        """Bytes of one code in memory: 1, 2 or 4."""
        return self.code_dtype.itemsize

    def check_codes(self, codes: npt.ArrayLike) -> CodeArray:
        """Return `codes` in `code_dtype`, or raise where they are no integers or one is out of range."""
        given = np.asarray(codes)
        if given.dtype.kind not in "ui":
            raise TypeError(f"{self.name} codes must be integers, not {given.dtype}")
        if given.size and (given.dtype.kind == "i" or given.dtype.itemsize * 8 > self.bits):
            low, high = int(given.min()), int(given.max())
            if low < 0 or high >> self.bits:
                worst = low if low < 0 else high
                raise ValueError(f"code {worst} is outside {self.name}: codes are 0 to {2**self.bits - 1}")
        return given.astype(self.code_dtype, copy=False)

    def decode(self, codes: npt.ArrayLike) -> RealArray:
        """The exact values of `codes`, any shape."""
        return self._decode(self.check_codes(codes).astype(np.int64))

    def to_float64(self, codes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The values of `codes` as float64, which holds every format here exactly."""
        real = self.decode(codes)
        magnitude = np.ldexp(real.significand.astype(np.float64), real.exponent.astype(np.int32))
        magnitude = np.where(real.kind == NAN, np.nan, np.where(real.kind == INFINITE, np.inf, magnitude))
        return np.where(real.negative, -magnitude, magnitude)

    def without_minus_zero(self, codes: CodeArray) -> CodeArray:
        """`codes` with +0 for every -0, which a GEMM never outputs."""
        real = self.decode(codes)
        minus_zero = (real.kind == FINITE) & (real.significand == 0) & real.negative
        return np.where(minus_zero, np.zeros_like(codes), codes)

    def __str__(self) -> str:
        return self.name


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


@dataclass(frozen=True)
class IntFormat(Format):
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
    def significand_bits(self) -> int:
        """Width of a magnitude: -2**(N-1) needs N bits."""
        return self.width

    @property
    def max_shift(self) -> int:
        """0: no exponent."""
        return 0

    @cached_property
    def smallest(self) -> int:
        """The least value."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @cached_property
    def largest(self) -> int:
        """The greatest value."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def max_units(self) -> int:
        """Largest magnitude."""
        return max(-self.smallest, self.largest)

    @property
    def has_nan(self) -> bool:
        """False."""
        return False

    @property
    def has_inf(self) -> bool:
        """False."""
        return False

    def _decode(self, codes: npt.NDArray[np.int64]) -> RealArray:
        value = np.where(codes > self.largest, codes - (1 << self.width), codes)
        zeros = np.zeros(codes.shape, np.int64)
        return RealArray(value < 0, np.abs(value), zeros, zeros.astype(np.uint8))

    def encode(
        self,
        values: RealArray,
        rounding: Rounding = NEAREST_EVEN,
        random: npt.NDArray[np.uint32] | None = None,
        overflow: str = "saturate",
    ) -> Encoded:
        """See `Format.encode`. Saturates under either overflow behaviour, for there is no code for Inf."""
        check_overflow(overflow)
        multiples = round_to_multiple(
            values.significand, values.exponent, np.zeros_like(values.exponent), rounding, random
        )
        limit = np.where(values.negative, -self.smallest, self.largest)
        is_nan = values.kind == NAN
        infinite = values.kind == INFINITE
        too_large = ((values.kind == FINITE) & (multiples > limit)) | infinite
        magnitude = np.where(too_large, limit, multiples)
        value = np.where(values.negative, -magnitude, magnitude)
        value = np.where(is_nan, 0, value)
        codes = (value & ((1 << self.width) - 1)).astype(self.code_dtype)
        return Encoded(codes, is_nan, too_large)


def _parse_family(name: str) -> Format | None:
    if match := re.fullmatch(r"e(\d+)m(\d+)(-ieee|-fn|-finite)?(-nosub)?", name):
        specials = match[3][1:] if match[3] else "ieee"
        if match[4] and not match[3]:  # what the format of this name without the suffix has
            plain = FORMATS.get(f"e{match[1]}m{match[2]}")
            specials = plain.specials if isinstance(plain, FloatFormat) else specials
        return FloatFormat(name, int(match[1]), int(match[2]), specials, subnormals=not match[4])
    if match := re.fullmatch(r"(u?)int(\d+)", name):
        return IntFormat(name, int(match[2]), signed=not match[1])
    return None


FAMILY = "any eXmY with X <= 8, Y <= 23 and suffixes -ieee, -fn, -finite, -nosub, or any intN or uintN"

FORMATS: Registry[Format] = Registry("format", parse=_parse_family, family=FAMILY)
"""All named formats. Names follow ml_dtypes; the field's short names are aliases.

``eXmY`` takes the suffixes ``-ieee``, ``-fn``, ``-finite`` (what the topmost codes mean) and ``-nosub`` (no
subnormals).
"""

for _format, *_aliases in (
    (FloatFormat("float32", 8, 23), "fp32", "e8m23"),
    (FloatFormat("tf32", 8, 10), "e8m10"),
    (FloatFormat("bfloat16", 8, 7), "bf16", "e8m7"),
    (FloatFormat("float16", 5, 10), "fp16", "e5m10"),
    (FloatFormat("float8_e4m3fn", 4, 3, "fn"), "e4m3", "float8_e4m3", "fp8_e4m3"),
    (FloatFormat("float8_e5m2", 5, 2), "e5m2", "fp8_e5m2"),
    (FloatFormat("float6_e3m2fn", 3, 2, "finite"), "e3m2", "fp6_e3m2"),
    (FloatFormat("float6_e2m3fn", 2, 3, "finite"), "e2m3", "fp6_e2m3"),
    (FloatFormat("float4_e2m1fn", 2, 1, "finite"), "e2m1", "fp4", "fp4_e2m1"),
    (FloatFormat("e6m5", 6, 5), "fp12"),
    (IntFormat("int2", 2),),
    (IntFormat("int4", 4),),
    (IntFormat("int8", 8),),
    (IntFormat("int16", 16),),
    (IntFormat("int32", 32),),
    (IntFormat("uint8", 8, signed=False),),
):
    FORMATS.register(_format.name, _format, *_aliases)


def get_format(name: str | Format) -> Format:
    """The format of this name (any spelling in `FORMATS`), or `name` itself where it is a format already."""
    return name if isinstance(name, Format) else FORMATS.get(name)
