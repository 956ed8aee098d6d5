"""Block-scaled formats: elements of a small format that share a scale, in blocks along K (docs/numerics.md, section 6).

The microscaling (MX) formats are those of the OCP Microscaling Formats specification v1.0; `nvfp4` has blocks of 16
with an E4M3 scale and one float32 scale a tensor; `bfpN` is block floating point: N-bit integers that share a scale.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE, NAN, RealArray, bit_length, from_float64, multiply
from halfulp.numerics.formats import FORMATS, CodeArray, FixedPointFormat, FloatFormat, Format, get_format
from halfulp.numerics.names import Registry, UnknownNameError, unknown_name
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding

__all__ = [
    "BLOCK_FORMATS",
    "E8M0_BIAS",
    "E8M0_NAN",
    "BlockFormat",
    "Blocks",
    "block_format_of",
    "get_any_format",
    "get_block_format",
]

E8M0_BIAS, E8M0_NAN = 127, 255
"""The E8M0 scale of code c is 2**(c - 127); code 255 is NaN (OCP MX v1.0, section 5.4.1)."""


class Blocks(NamedTuple):
    """A block-scaled tensor: value = element * scale of its block * `tensor_scale`.

    codes: the element format's codes, the tensor's shape; scales: uint8 codes, one a block, the blocks counted along
    the axis that was quantised; tensor_scale: a positive float32 number, 1 in formats without one; invalid: whether a
    NaN or infinity was met; overflow: whether an element was beyond the largest that its block's scale allows.
    """

    codes: CodeArray
    scales: npt.NDArray[np.uint8]
    tensor_scale: float = 1.0
    invalid: bool = False
    overflow: bool = False


@dataclass(frozen=True)
class BlockFormat:
    """Elements of one format in blocks of `block` along an axis, each block with a scale.

    Parameters
    ----------
    name
        As it is spelled.
    element
        The elements' format; finite floats, floats with NaN, or `FixedPointFormat`.
    block
        Elements that share a scale, at least 1. The last block of an axis may be short.
    scale
        ``e8m0``: a power of two, from the exponent of the block's largest magnitude; ``e4m3``: a float8_e4m3fn number,
        with one more float32 scale for the whole tensor (NVFP4).
    """

    name: str = field(compare=False)
    element: Format
    block: int
    scale: str = "e8m0"

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int):
            raise TypeError(f"{self.name}: the block must be an integer number of elements, not {self.block!r}")
        if self.block < 1:
            raise ValueError(f"{self.name}: a block has at least 1 element, not {self.block}")
        if self.scale not in ("e8m0", "e4m3"):
            raise ValueError(f"{self.name}: the scale must be e8m0 or e4m3, not {self.scale!r}")
        if not isinstance(self.element, (FloatFormat, FixedPointFormat)):
            raise TypeError(f"{self.name}: elements must be of a float or fixed-point format, not {self.element!r}")

    @property
    def element_exponent(self) -> int:
        """Exponent of the power of two in the largest element: emax of OCP MX v1.0, section 6.3."""
        return math.frexp(self.largest_element)[1] - 1

    def block_count(self, length: int) -> int:
        """Blocks of `length` elements; the last may be short."""
        return -(-length // self.block)

    def quantise(
        self,
        x: npt.ArrayLike,
        rounding: Rounding = NEAREST_EVEN,
        *,
        axis: int = -1,
        random: npt.NDArray[np.uint32] | None = None,
        tensor_scale: float | None = None,
    ) -> Blocks:
        """Quantise float32 or float64 numbers, each element rounded once.

        Parameters
        ----------
        x
            Numbers of any shape but (); blocks lie along `axis` (K: the last of A, the first of B).
        rounding, random
            Of the elements, with random as in `Format.encode`, of x's shape. Scales are not rounded at random.
        tensor_scale
            Of ``e4m3`` scales: positive, finite, a float32 number; where not given, amax / (448 * 6) rounded to
            float32, so that the largest block's scale is the largest of its format.

        Notes
        -----
        ``e8m0``: the scale's exponent is floor(log2(amax)) - emax, from the exponent field of the block's largest
        magnitude and held to -127 to 127; elements beyond the largest are clamped. A block of zeros has scale code 0.
        A NaN or infinity makes its block's scale NaN (``e4m3``: code 0x7F) and the block's codes 0.
        """
        values = np.moveaxis(np.asarray(x), axis, -1)
        if values.dtype.kind != "f" or values.dtype.itemsize > 8:
            raise TypeError(f"numbers to quantise must be float16, float32 or float64, not {values.dtype}")
        real = from_float64(values)
        finite = (real.kind == FINITE).all()
        length = values.shape[-1]
        starts = np.arange(0, length, self.block)
        bad = np.logical_or.reduceat(real.kind != FINITE, starts, axis=-1) if length else np.zeros(values.shape, bool)
        magnitudes = np.where(real.kind == FINITE, np.abs(values.astype(np.float64)), 0.0)
        whole = self.tensor_scale(float(magnitudes.max()) if magnitudes.size else 0.0, tensor_scale)
        largest = from_float64(np.maximum.reduceat(magnitudes, starts, axis=-1) if length else magnitudes)
        if self.scale == "e8m0":
            scales = self._power_scales(largest)
        else:
            limit = multiply(_constant(self.largest_element, largest), _constant(whole, largest))
            scales = _E4M3.encode(_quotient(largest, limit)).codes
        scales = np.where(bad, self.nan_scale, scales).astype(np.uint8)
        divisor = self._expand(self.decode_scales(scales), length)
        if self.scale == "e8m0":  # a power of two: the exact quotient is a shift
            scaled = real._replace(exponent=real.exponent - divisor.exponent)
        else:
            scaled = _quotient(real, multiply(divisor, _constant(whole, real)))
        usable = (divisor.kind == FINITE) & (divisor.significand > 0)
        scaled = scaled._replace(
            significand=np.where(usable, scaled.significand, 0), kind=np.where(usable, scaled.kind, 0).astype(np.uint8)
        )
        words = None if random is None else np.moveaxis(np.asarray(random), axis, -1)
        codes, _, overflow = self.element.encode(scaled, rounding, words)
        codes = np.where(divisor.kind == NAN, 0, codes).astype(self.element.code_dtype)
        return Blocks(
            np.moveaxis(codes, -1, axis), np.moveaxis(scales, -1, axis), whole, not finite, bool(overflow.any())
        )

    def decode(self, blocks: Blocks, *, axis: int = -1) -> RealArray:
        """The exact values; all NaN in a block whose scale is NaN."""
        whole = _check_tensor_scale(blocks.tensor_scale)
        scaled = self.decode_without_tensor_scale(blocks, axis=axis)
        return multiply(scaled, _constant(whole, scaled))

    def decode_without_tensor_scale(self, blocks: Blocks, *, axis: int = -1) -> RealArray:
        """The exact products of elements and their blocks' scales."""
        self.check(blocks, axis=axis)
        elements = self.element.decode(np.moveaxis(blocks.codes, axis, -1))
        scales = self._expand(self.decode_scales(np.moveaxis(blocks.scales, axis, -1)), elements.kind.shape[-1])
        product = multiply(elements, scales)
        return RealArray(
            np.moveaxis(product.negative, -1, axis),
            np.moveaxis(product.significand, -1, axis),
            np.moveaxis(product.exponent, -1, axis),
            np.moveaxis(product.kind, -1, axis),
        )

    def to_float64(self, blocks: Blocks, *, axis: int = -1) -> npt.NDArray[np.float64]:
        """The values as float64, exact but where a float32 tensor scale takes them out of its range."""
        real = self.decode(blocks, axis=axis)
        values = np.ldexp(real.significand.astype(np.float64), real.exponent.astype(np.int32))
        values = np.where(real.kind == NAN, np.nan, np.where(real.kind == FINITE, values, np.inf))
        return np.where(real.negative, -values, values)

    def decode_scales(self, scales: npt.NDArray[np.uint8]) -> RealArray:
        """The exact scales of blocks, the tensor's scale left out."""
        if self.scale == "e4m3":
            return _E4M3.decode(scales)
        codes = scales.astype(np.int64)
        nan = codes == E8M0_NAN
        return RealArray(
            np.zeros(codes.shape, np.bool_),
            np.where(nan, 0, 1),
            np.where(nan, 0, codes - E8M0_BIAS),
            np.where(nan, NAN, FINITE).astype(np.uint8),
        )

    @property
    def scale_values(self) -> npt.NDArray[np.float64]:
        """Value of each of the 256 scale codes; NaN for those that are none."""
        return _scale_values(self.scale)

    def check(self, blocks: Blocks, *, axis: int = -1) -> None:
        """Raise where codes, scales and tensor scale do not make a tensor of this format."""
        codes, scales = np.asarray(blocks.codes), np.asarray(blocks.scales)
        self.element.check_codes(codes)
        if scales.dtype != np.uint8:
            raise TypeError(f"scales of {self.name} must be uint8 codes, not {scales.dtype}")
        needed = list(codes.shape)
        needed[axis] = self.block_count(needed[axis])
        if scales.shape != tuple(needed):
            raise ValueError(
                f"codes of shape {codes.shape} in blocks of {self.block} along axis {axis} "
                f"need scales of shape {tuple(needed)}, not {scales.shape}"
            )
        if self.scale == "e4m3" and (scales & 0x80).any():
            raise ValueError(f"a scale of {self.name} must not be negative: code {int(scales.max())}")
        _check_tensor_scale(blocks.tensor_scale)
        self._no_tensor_scale(blocks.tensor_scale)

    def tensor_scale(self, amax: float, given: float | None = None) -> float:
        """The scale of a tensor of this largest finite magnitude: what is `given`, once it is checked, or the rule's.

        That is amax / (448 * largest element) in float32, at least its least normal number, and 1 for zeros alone; in
        formats without a tensor scale always 1.
        """
        self._no_tensor_scale(given)
        if given is not None:
            return _check_tensor_scale(given)
        if self.scale == "e8m0" or amax == 0:
            return 1.0
        float32 = get_format("float32")
        ratio = _quotient(from_float64(np.array([amax])), from_float64(np.array([448.0 * self.largest_element])))
        return max(float(float32.to_float64(float32.encode(ratio).codes)[0]), 2.0**-126)

    def _no_tensor_scale(self, tensor_scale: float | None) -> None:
        if self.scale == "e8m0" and tensor_scale not in (None, 1.0):
            raise ValueError(f"{self.name} has no tensor scale, so it must be 1, not {tensor_scale!r}")

    @property
    def largest_element(self) -> float:
        """The largest number of the element format; of two's complement the largest positive one."""
        units = self.element.largest if isinstance(self.element, FixedPointFormat) else self.element.max_units
        return math.ldexp(units, self.element.lsb_exponent)

    @property
    def nan_scale(self) -> int:
        """The scale code of a block that is NaN."""
        return E8M0_NAN if self.scale == "e8m0" else _E4M3.nan_code

    def _power_scales(self, largest: RealArray) -> npt.NDArray[np.int64]:
        exponent = largest.exponent + bit_length(largest.significand) - 1 - self.element_exponent
        held = np.clip(exponent, -E8M0_BIAS, E8M0_BIAS)
        return np.where(largest.significand == 0, 0, held + E8M0_BIAS)

    def _expand(self, scales: RealArray, length: int) -> RealArray:
        """Scales of blocks on the last axis, one for each of `length` elements."""
        return scales.at(np.s_[..., np.arange(length) // self.block])

    def __str__(self) -> str:
        return self.name


def _e4m3() -> FloatFormat:
    found = get_format("float8_e4m3fn")
    assert isinstance(found, FloatFormat)
    return found


_E4M3 = _e4m3()


@lru_cache(maxsize=2)
def _scale_values(scale: str) -> npt.NDArray[np.float64]:
    codes = np.arange(256, dtype=np.uint8)
    if scale == "e4m3":
        values = np.where(codes < _E4M3.sign_code, _E4M3.to_float64(codes), np.nan)
    else:
        values = np.where(codes == E8M0_NAN, np.nan, np.ldexp(1.0, codes.astype(np.int32) - E8M0_BIAS))
    values.setflags(write=False)
    return values


def _constant(value: float, like: RealArray) -> RealArray:
    """The positive float32 number `value`, in as many elements as `like` has."""
    fraction, exponent = math.frexp(value)  # 24 bits, so that products stay below 62
    shape = like.exponent.shape
    significand = np.full(shape, int(math.ldexp(fraction, 24)), np.int64)
    never = np.zeros(shape, np.bool_)
    return RealArray(never, significand, np.full(shape, exponent - 24, np.int64), never.astype(np.uint8))


def _check_tensor_scale(tensor_scale: float) -> float:
    if isinstance(tensor_scale, bool) or not isinstance(tensor_scale, (int, float, np.floating)):
        raise TypeError(f"a tensor scale must be a number, not {tensor_scale!r}")
    value = float(tensor_scale)
    with np.errstate(over="ignore", under="ignore"):
        held = float(np.float32(value))
    if not (0 < value < np.inf) or held != value:
        raise ValueError(f"a tensor scale must be positive, finite and a float32 number, not {tensor_scale!r}")
    return value


def _quotient(x: RealArray, y: RealArray) -> RealArray:
    """X / y for y > 0, elementwise, cut to 62 bits, the lowest one jammed; 0 where y is not a positive number.

    Long division of significands brought to 62 bits, so that the quotient is from 1/2 to 2: 61 of its bits, then the
    sticky one.
    """
    usable = (x.significand != 0) & (y.significand != 0)
    top = np.where(usable, x.significand, 1)
    divisor = np.where(usable, y.significand, 1)
    raise_top, raise_divisor = 62 - bit_length(top), 62 - bit_length(divisor)
    top, divisor = top << raise_top, divisor << raise_divisor
    quotient = np.zeros_like(top)
    for _ in range(_QUOTIENT_BITS):
        fits = top >= divisor
        quotient = (quotient << 1) | fits
        top = np.where(fits, top - divisor, top) << 1
    significand = np.where(usable, (quotient << 1) | (top != 0), 0)
    exponent = x.exponent - raise_top - y.exponent + raise_divisor - _QUOTIENT_BITS
    return RealArray(x.negative, significand, np.where(usable, exponent, 0), x.kind)


_QUOTIENT_BITS = 61
"""Bits of a quotient of significands before the jammed one."""


def _parse_bfp(name: str) -> BlockFormat | None:
    if match := re.fullmatch(r"bfp(\d+)", name):
        bits = int(match[1])
        if not 3 <= bits <= 16:
            raise ValueError(f"{name}: block floating point has elements of 3 to 16 bits, not {bits}")
        return BlockFormat(name, get_format(f"fixed2.{bits - 2}"), 16)
    return None


BLOCK_FORMATS: Registry[BlockFormat] = Registry("block-scaled format", parse=_parse_bfp, family="any bfpN")
"""All named block-scaled formats; besides these any ``bfpN``, N from 3 to 16: blocks of 16 ``fixed2.(N-2)``."""

for _name, _element in (
    ("mxfp8_e4m3", "float8_e4m3fn"),
    ("mxfp8_e5m2", "float8_e5m2"),
    ("mxfp6_e3m2", "float6_e3m2fn"),
    ("mxfp6_e2m3", "float6_e2m3fn"),
    ("mxfp4_e2m1", "float4_e2m1fn"),
    ("mxint8", "fixed2.6"),
):
    BLOCK_FORMATS.register(_name, BlockFormat(_name, get_format(_element), 32))
BLOCK_FORMATS.register("nvfp4", BlockFormat("nvfp4", get_format("float4_e2m1fn"), 16, "e4m3"))


def get_block_format(name: str | BlockFormat) -> BlockFormat:
    """The block-scaled format of this name, or `name` itself where it is one already."""
    return name if isinstance(name, BlockFormat) else BLOCK_FORMATS.get(name)


def block_format_of(element: Format, block: int, scale: str) -> BlockFormat:
    """The block-scaled format of these elements, block and kind of scale, under its registered name where it has one.

    >>> (
    ...     str(block_format_of(get_format("fixed2.6"), 32, "e8m0")),
    ...     str(block_format_of(get_format("fixed2.6"), 16, "e8m0")),
    ... )
    ('mxint8', 'bfp8')
    """
    known = [*BLOCK_FORMATS.members()]
    if isinstance(element, FixedPointFormat) and element.integer_bits == 2 and 3 <= element.bits <= 16:
        known.append(BLOCK_FORMATS.get(f"bfp{element.bits}"))
    for fmt in known:
        if (fmt.element, fmt.block, fmt.scale) == (element, block, scale):
            return fmt
    return BlockFormat(f"{element}/{block}/{scale}", element, block, scale)


def get_any_format(name: str | Format | BlockFormat) -> Format | BlockFormat:
    """The plain or block-scaled format of this name; a wrong one is told the nearest right ones of both kinds."""
    if isinstance(name, (Format, BlockFormat)):
        return name
    try:
        return BLOCK_FORMATS.get(name)
    except UnknownNameError:
        pass
    try:
        return FORMATS.get(name)
    except UnknownNameError:
        known = [alias for plain in FORMATS.names() for alias in (plain, *FORMATS.aliases(plain))]
        hint = f" (or {FORMATS.family}, any bfpN)"
        raise unknown_name("format", name, [*known, *BLOCK_FORMATS.names()], hint) from None
