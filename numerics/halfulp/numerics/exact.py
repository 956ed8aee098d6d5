"""Exact real values as arrays of (sign, significand, exponent), and integer helpers on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "FINITE",
    "INFINITE",
    "NAN",
    "RealArray",
    "add",
    "bit_length",
    "decided",
    "from_float64",
    "from_integers",
    "least_exponent",
    "multiply",
    "shift_right_jam",
]

FINITE, INFINITE, NAN = 0, 1, 2
"""Values of `RealArray.kind`."""

SIGNIFICAND_BITS = 62
"""A `RealArray` significand is below 2**62, so that one more carry bit still fits int64."""

IntArray = npt.NDArray[np.int64]


class RealArray(NamedTuple):
    """Real numbers (-1)**negative * significand * 2**exponent, elementwise; NaN and infinities by `kind`.

    negative: bool; significand: int64, 0 <= significand < 2**62; exponent: int64;
    kind: uint8, one of `FINITE`, `INFINITE`, `NAN`. All of one shape. A zero keeps its sign.

    A value that needs more than 62 bits carries its inexact tail as one *jammed* sticky bit in the
    significand's lowest place: rounding to any format of at most 24 significand bits, with at most 34 bits of
    fraction looked at, gives what the full value would have given.
    """

    negative: npt.NDArray[np.bool_]
    significand: IntArray
    exponent: IntArray
    kind: npt.NDArray[np.uint8]

    def at(self, index: Any) -> RealArray:
        """The elements that NumPy's indexing by `index` selects."""
        return RealArray(self.negative[index], self.significand[index], self.exponent[index], self.kind[index])


def decided(kind: npt.NDArray[np.uint8], negative: npt.NDArray[np.bool_], otherwise: RealArray) -> RealArray:
    """NaN and infinities, with these signs, where `kind` has any; `otherwise` elsewhere. All of one shape."""
    finite = kind == FINITE
    return RealArray(
        np.where(finite, otherwise.negative, negative),
        np.where(finite, otherwise.significand, 0),
        np.where(finite, otherwise.exponent, 0),
        kind,
    )


def least_exponent(x: RealArray) -> int:
    """The least exponent of a number that is not 0; 0 where there is none."""
    used = x.exponent[x.significand != 0]
    return int(used.min()) if used.size else 0


def bit_length(x: IntArray) -> IntArray:
    """Number of bits of each non-negative int64 (0 for 0), exact for all of them."""
    high = x >> 31  # below 2**32: float64 holds it exactly, and so does frexp
    _, high_length = np.frexp(high.astype(np.float64))
    _, low_length = np.frexp((x & 0x7FFF_FFFF).astype(np.float64))
    return np.where(high > 0, high_length + 31, low_length).astype(np.int64)


def shift_right_jam(x: IntArray, shift: IntArray) -> IntArray:
    """Shift x >= 0 right by `shift` >= 0 of any size, ORing all bits lost into the lowest bit (sticky)."""
    s = np.minimum(shift, 63)
    kept = x >> s
    lost = (kept << s) != x
    return kept | lost


def multiply(x: RealArray, y: RealArray) -> RealArray:
    """Exact products, elementwise; significands of at most 62 bits together. 0 * Inf is NaN."""
    nan = (x.kind == NAN) | (y.kind == NAN)
    infinite = (x.kind == INFINITE) | (y.kind == INFINITE)
    zero_x = (x.kind == FINITE) & (x.significand == 0)
    zero_y = (y.kind == FINITE) & (y.significand == 0)
    nan |= infinite & (zero_x | zero_y)
    kind = np.where(nan, NAN, np.where(infinite, INFINITE, FINITE)).astype(np.uint8)
    return RealArray(x.negative ^ y.negative, x.significand * y.significand, x.exponent + y.exponent, kind)


def add(x: RealArray, y: RealArray) -> RealArray:
    """Sums, elementwise: exact, or with a tail beyond 61 bits jammed. Inf - Inf is NaN.

    The larger operand's leading bit becomes bit 60 of a common frame. An operand that loses bits at the frame's lower
    end is at least 2**12 times smaller than the other (products of floats have at most 48 bits), so that the sum has
    58 bits above the jammed one, and no cancellation can bring it up.
    """
    tops = [np.where(z.significand != 0, z.exponent + bit_length(z.significand), -(1 << 30)) for z in (x, y)]
    bottom = np.maximum(*tops) - 61
    total = np.zeros(bottom.shape, np.int64)
    for z in (x, y):
        shift = np.where(z.significand != 0, z.exponent - bottom, 0)
        lowered = shift_right_jam(z.significand, np.maximum(-shift, 0))
        aligned = np.where(shift >= 0, z.significand << np.clip(shift, 0, 61), lowered)
        total += np.where(z.negative, -aligned, aligned)
    nan = (x.kind == NAN) | (y.kind == NAN)
    infinite_x, infinite_y = x.kind == INFINITE, y.kind == INFINITE
    nan |= infinite_x & infinite_y & (x.negative != y.negative)
    kind = np.where(nan, NAN, np.where(infinite_x | infinite_y, INFINITE, FINITE)).astype(np.uint8)
    negative = np.where(infinite_x, x.negative, np.where(infinite_y, y.negative, total < 0))
    finite = kind == FINITE
    return RealArray(negative, np.where(finite, np.abs(total), 0), np.where(finite & (total != 0), bottom, 0), kind)


def from_float64(x: npt.ArrayLike) -> RealArray:
    """Take float64 (or narrower) numbers apart, exactly: subnormals, infinities, NaN, signed zeros."""
    with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
        values = np.asarray(x, dtype=np.float64)
    bits = np.ascontiguousarray(values).view(np.int64).reshape(values.shape)
    field = (bits >> 52) & 0x7FF
    fraction = bits & ((1 << 52) - 1)
    significand = np.where(field > 0, fraction | (1 << 52), fraction)
    kind = np.where(field == 0x7FF, np.where(fraction != 0, NAN, INFINITE), FINITE).astype(np.uint8)
    significand = np.where(kind == FINITE, significand, 0)
    exponent = np.where(kind == FINITE, np.maximum(field, 1) - 1075, 0)
    return RealArray(bits < 0, significand, exponent, kind)


def from_integers(x: npt.NDArray, exponent: int) -> RealArray:
    """The numbers x * 2**exponent of signed integers, int64 or Python integers in an object array."""
    if x.dtype != np.object_:
        wide = x.astype(np.int64)
        negative = wide < 0
        # -2**63 has no int64 magnitude; unsigned arithmetic gives it, and one jammed shift brings it below
        # 2**62.
        magnitude = np.where(negative, (~wide).astype(np.uint64) + np.uint64(1), wide.astype(np.uint64))
        halved = (magnitude >> np.uint64(2)) | ((magnitude & np.uint64(3)) != 0)
        large = magnitude >= np.uint64(1 << SIGNIFICAND_BITS)
        significand = np.where(large, halved, magnitude).astype(np.int64)
        exponents = np.where(large, exponent + 2, exponent).astype(np.int64)
        return RealArray(negative, significand, exponents, np.zeros(x.shape, np.uint8))
    flat = [_narrow(int(v)) for v in x.ravel()]
    significand = np.array([s for s, _ in flat], np.int64).reshape(x.shape)
    exponents = np.array([e + exponent for _, e in flat], np.int64).reshape(x.shape)
    negative = np.array([int(v) < 0 for v in x.ravel()], np.bool_).reshape(x.shape)
    return RealArray(negative, significand, exponents, np.zeros(x.shape, np.uint8))


def _narrow(value: int) -> tuple[int, int]:
    magnitude = abs(value)
    excess = max(magnitude.bit_length() - SIGNIFICAND_BITS, 0)
    kept = magnitude >> excess
    return kept | ((kept << excess) != magnitude), excess
