"""Codes of a whole operand as float64 or int8, with the range of what occurs in it, at the speed of memory."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.formats import CodeArray, FloatFormat, Format, IntFormat
from halfulp.sim.llvm import ir
from halfulp.sim.vector_code import F64, I8, I16, I32, I64, Code, Kernel, Lanes, address

__all__ = ["Operand", "as_float64", "as_int8", "fits_int8"]

LANES = 8


class Operand(NamedTuple):
    """An operand's values and the range of its finite, non-zero ones.

    values: float64, 0 in place of NaN and infinities; every value is an integer multiple of 2**lsb_exponent of at
    most max_units; special: whether there is any NaN or infinity.
    """

    values: npt.NDArray[np.float64]
    lsb_exponent: int
    max_units: int
    special: bool

    @property
    def span(self) -> int:
        """Bits of the largest magnitude in units of the least significant bit that occurs."""
        return self.max_units.bit_length()


def as_float64(codes: CodeArray, fmt: Format) -> Operand:
    """The values of a matrix of codes; transposed storage stays transposed, and no other strides are copied."""
    transposed = codes.flags.f_contiguous and not codes.flags.c_contiguous
    flat = np.ascontiguousarray(codes.T if transposed else codes)
    values = np.empty(flat.shape, np.float64)
    if isinstance(fmt, (FloatFormat, IntFormat)):
        largest, least = _decode(flat, fmt, values)
    else:
        return _by_table(codes, fmt)
    if transposed:
        values = values.T
    if isinstance(fmt, IntFormat):
        return Operand(values, 0, largest, False)
    special = largest > fmt.max_code
    if special:
        finite = flat & (fmt.sign_code - 1)
        largest = int(np.where(finite > fmt.max_code, 0, finite).max())
    if largest == 0 or least > largest:
        return Operand(values, 0, 0, special)
    field = max(least >> fmt.mantissa_bits, 1)
    top = max(largest >> fmt.mantissa_bits, 1)
    hidden = (largest >> fmt.mantissa_bits > 0) << fmt.mantissa_bits
    significand = largest & ((1 << fmt.mantissa_bits) - 1) | hidden
    return Operand(values, fmt.lsb_exponent + field - 1, significand << (top - field), special)


def _by_table(codes: CodeArray, fmt: Format) -> Operand:
    values = fmt.to_float64(codes)
    finite = np.isfinite(values)
    return Operand(np.where(finite, values, 0.0), fmt.lsb_exponent, fmt.max_units, not finite.all())


def _decode(flat: CodeArray, fmt: FloatFormat | IntFormat, values: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Fill in `values`; the largest magnitude (of a float: its code), and the least code but 0."""
    whole = flat.size - flat.size % LANES
    source, target = flat.reshape(-1), values.reshape(-1)
    ranges = np.zeros((2, 2, LANES), np.int64)
    ranges[:, 1] = -1  # the largest unsigned number
    kernel = _kernel(fmt)
    kernel(address(source), address(target), address(ranges[0]), whole)
    if whole < flat.size:
        rest, decoded = np.zeros(LANES, fmt.code_dtype), np.empty(LANES)
        rest[: flat.size - whole] = source[whole:]
        kernel(address(rest), address(decoded), address(ranges[1]), LANES)
        target[whole:] = decoded[: flat.size - whole]
    unsigned = ranges.view(np.uint64)
    return int(unsigned[:, 0].max()), int(unsigned[:, 1].min()) + 1 & (1 << 64) - 1


@lru_cache(maxsize=64)
def _kernel(fmt: FloatFormat | IntFormat) -> Kernel:
    """Kernel over codes, values, the two vectors of the range (kept up), and a count that `LANES` divides."""
    code = Code("decode", "pppi")
    codes, values, ranges, count = code.arguments
    element = {1: I8, 2: I16, 4: I32}[fmt.container_bytes]
    vector = ir.VectorType(I64, LANES)
    floats = ir.VectorType(F64, LANES)

    def body(n: Lanes, largest: Lanes, least: Lanes) -> list[Lanes]:
        read = code.load(codes, n, ir.VectorType(element, LANES)).widen(I64)
        if isinstance(fmt, IntFormat):
            value = read
            if fmt.signed:  # the sign bit's place is worth -2**(width - 1)
                value = (read ^ (1 << (fmt.width - 1))) - (1 << (fmt.width - 1))
            magnitude = value.less_signed(0).choose(value.constant(0) - value, value)
            code.store(value.to_float(F64), values, n)
        else:
            magnitude = read & (fmt.sign_code - 1)
            shifted = magnitude << (52 - fmt.mantissa_bits)
            normal = shifted + ((1023 - fmt.bias) << 52)
            # (1 + f) * 2**e - 2**e, which is exact, for the fraction f of a subnormal number
            smallest = 2.0**fmt.min_normal_exponent
            above = (shifted + ((1023 + fmt.min_normal_exponent) << 52)).bits_as(floats) - smallest
            tiny = above.bits_as(vector) if fmt.subnormals else shifted.constant(0)
            bits = (magnitude >> fmt.mantissa_bits).equals(0).choose(tiny, normal)
            bits = (magnitude > fmt.max_code).choose(bits.constant(0), bits)
            sign = (read & fmt.sign_code) << (64 - fmt.bits)
            code.store(bits | sign, values, n)
            if not fmt.subnormals:
                magnitude = (magnitude >> fmt.mantissa_bits).equals(0).choose(magnitude.constant(0), magnitude)
        return [(magnitude < largest).choose(largest, magnitude), least.smaller(magnitude - 1)]

    start = [code.load(ranges, 0, vector), code.load(ranges, LANES, vector)]
    largest, least = code.loop(0, count, LANES, start, body)
    code.store(largest, ranges, 0)
    code.store(least, ranges, LANES)
    return code.compile()


def fits_int8(fmt: Format) -> bool:
    """Whether every code is an integer of 8 bits, in units of the format's least significant bit, less an offset."""
    return not (fmt.has_nan or fmt.has_inf) and (
        fmt.max_units <= 127 or (isinstance(fmt, IntFormat) and fmt.width <= 8)
    )


def as_int8(codes: CodeArray, fmt: Format) -> tuple[npt.NDArray[np.int8], int]:
    """Values in units of 2**lsb_exponent, less the offset that is given with them (128 for uint8, else 0)."""
    if isinstance(fmt, IntFormat) and fmt.width == 8:
        return (codes.view(np.int8), 0) if fmt.signed else ((codes ^ 0x80).view(np.int8), 128)
    return _int8_table(fmt).take(codes), 0


@lru_cache(maxsize=64)
def _int8_table(fmt: Format) -> npt.NDArray[np.int8]:
    table = np.zeros(1 << fmt.bits, np.int8)
    table[fmt.valid_codes] = np.ldexp(fmt.to_float64(fmt.valid_codes), -fmt.lsb_exponent).astype(np.int8)
    return table
