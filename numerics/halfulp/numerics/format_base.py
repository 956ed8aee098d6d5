"""What a scalar number format is: the base of all of them (docs/numerics.md, section 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, INFINITE, NAN, RealArray
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding

__all__ = ["CodeArray", "Encoded", "Format"]

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
    def has_nan(self) -> bool:
        """Whether some code is NaN; not unless a format says so."""
        return False

    @property
    def has_inf(self) -> bool:
        """Whether some codes are infinities; not unless a format says so."""
        return False

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

    @property
    def valid_codes(self) -> CodeArray:
        """All codes, ascending: 0 to 2**bits - 1, but in formats that leave some out."""
        return np.arange(1 << self.bits, dtype=self.code_dtype)

    def check_codes(self, codes: npt.ArrayLike) -> CodeArray:
        """Return `codes` in `code_dtype`, or raise where they are no integers or one is out of range."""
        given = np.asarray(codes)
        if given.dtype.kind not in "ui":
            raise TypeError(f"{self.name} codes must be integers, not {given.dtype}")
        if given.size and (given.dtype.kind == "i" or given.dtype.itemsize * 8 > self.bits):
            low, high = int(given.min()) if given.dtype.kind == "i" else 0, int(given.max())
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
