"""Codes of a whole operand as floats, with the range of what occurs in it, at the speed of memory."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import FINITE
from halfulp.numerics.formats import CodeArray, FloatFormat, Format, IntFormat
from halfulp.sim.llvm import ir
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source
from halfulp.sim.vector_code import F32, F64, I8, I16, I32, I64, Code, Kernel, Lanes, address, transposed

__all__ = ["Operand", "as_float64", "as_floats", "by_rows", "float_range", "holds"]


SQUARE = 16
"""Rows and columns of what is transposed at a time."""

MAX_TABLE_BITS = 16
"""Widest codes that are looked up."""


class Operand(NamedTuple):
    """An operand's values and the range of its finite, non-zero ones.

    values: float64 or float32, 0 in place of NaN and infinities; every value is an integer multiple of
    2**lsb_exponent of at most max_units; special: whether there is any NaN or infinity.
    """

    values: npt.NDArray[np.floating]
    lsb_exponent: int
    max_units: int
    special: bool

    @property
    def span(self) -> int:
        """Bits of the largest magnitude in units of the least significant bit that occurs."""
        return self.max_units.bit_length()


def as_float64(codes: CodeArray, fmt: Format) -> Operand:
    """The values of a matrix of codes; transposed storage stays transposed, and no other strides are copied."""
    return as_floats(codes, fmt, np.float64)


@lru_cache(maxsize=256)
def holds(dtype: npt.DTypeLike, fmt: Format) -> bool:
    """Whether every finite value of a format is one of float32 or float64, whichever `dtype` is."""
    if np.dtype(dtype) == np.float64:
        return True
    in_range = fmt.lsb_exponent >= -149 and fmt.max_units * 2.0**fmt.lsb_exponent < 2.0**128
    return fmt.significand_bits <= 24 and in_range


def as_floats(codes: CodeArray, fmt: Format, dtype: npt.DTypeLike, *, pad: tuple[int, int] = (1, 1)) -> Operand:
    """The values of a matrix of codes as float64, or as float32 where that `holds` them.

    Transposed storage stays transposed, and no other strides are copied. The values are a part of memory in which
    both dimensions are multiples of `pad`: zeros follow each row and column.
    """
    if not isinstance(fmt, (FloatFormat, IntFormat)):
        return _by_table(codes, fmt, dtype, pad)
    transposed = codes.flags.f_contiguous and not codes.flags.c_contiguous
    flat = np.ascontiguousarray(codes.T if transposed else codes)
    memory = _padded(flat.shape, dtype, (pad[1], pad[0]) if transposed else pad)
    values = memory[: flat.shape[0], : flat.shape[1]]
    largest, least = _decode(flat, fmt, values)
    if transposed:
        values = values.T
    if isinstance(fmt, IntFormat):
        return Operand(values, 0, largest, False)
    special = largest > fmt.max_code
    if special:
        finite = flat & (fmt.sign_code - 1)
        largest = int(np.where(finite > fmt.max_code, 0, finite).max())
    return Operand(values, *float_range(fmt, largest, least), special)


def by_rows(codes: CodeArray) -> CodeArray:
    """The codes of a matrix row by row; where they lie column by column, a copy made in small squares."""
    rows, columns = codes.shape
    if codes.flags.c_contiguous or not codes.flags.f_contiguous or min(rows, columns) < SQUARE:
        return np.ascontiguousarray(codes)
    copied = np.empty(codes.shape, codes.dtype)
    _transpose_kernel(codes.itemsize)(address(codes.T), address(copied), rows, columns)
    return copied


@lru_cache(maxsize=3)
def _transpose_kernel(size: int) -> Kernel:
    """Kernel over codes of `size` bytes column by column, the same row by row, rows and columns, at least `SQUARE`."""
    code = Code("transpose", "ppii")
    source, target, rows, columns = code.arguments
    vector = ir.VectorType({1: I8, 2: I16, 4: I32}[size], SQUARE)

    def square(i: Lanes, j: Lanes) -> list[Lanes]:
        # The last ones may overlap those before.
        row, column = i.smaller_signed(rows - SQUARE), j.smaller_signed(columns - SQUARE)
        found = transposed([code.load(source, (column + n) * rows + row, vector) for n in range(SQUARE)])
        for n, some in enumerate(found):
            code.store(some, target, (row + n) * columns + column)
        return []

    code.loop(0, columns, SQUARE, [], lambda j: code.loop(0, rows, SQUARE, [], lambda i: square(i, j)))
    return code.compile()


def float_range(fmt: FloatFormat, largest: int, least: int) -> tuple[int, int]:
    """lsb_exponent and max_units from the largest and the least code but 0 that occur, of finite numbers."""
    if largest == 0 or least > largest:
        return 0, 0
    field = max(least >> fmt.mantissa_bits, 1)
    top = max(largest >> fmt.mantissa_bits, 1)
    hidden = (largest >> fmt.mantissa_bits > 0) << fmt.mantissa_bits
    significand = largest & ((1 << fmt.mantissa_bits) - 1) | hidden
    return fmt.lsb_exponent + field - 1, significand << (top - field)


def _padded(shape: tuple[int, ...], dtype: npt.DTypeLike, pad: tuple[int, int]) -> npt.NDArray:
    """Memory for a matrix, each dimension a multiple of `pad`; zeros where the matrix is not."""
    (rows, columns), (row_pad, column_pad) = shape, pad
    memory = np.empty((-(-rows // row_pad) * row_pad, -(-columns // column_pad) * column_pad), dtype)
    if memory.shape[0] > rows:
        memory[rows:] = 0
    if memory.shape[1] > columns:
        memory[:, columns:] = 0
    return memory


def _by_table(codes: CodeArray, fmt: Format, dtype: npt.DTypeLike, pad: tuple[int, int]) -> Operand:
    memory = _padded(codes.shape, dtype, pad)
    values = memory[: codes.shape[0], : codes.shape[1]]
    if fmt.bits > MAX_TABLE_BITS:  # fixed point: no NaN, no infinities
        values[...] = fmt.to_float64(codes)
        largest = int(np.abs(values).max(initial=0) * 2.0**-fmt.lsb_exponent)
        return Operand(values, fmt.lsb_exponent, largest, False)
    table = _table(fmt)
    values[...] = table.values[codes]
    there = np.zeros(1 << fmt.bits, np.bool_)
    there[codes] = True
    used = there & (table.values != 0)
    special = bool((there & table.special).any())
    if not used.any():
        return Operand(values, 0, 0, special)
    lsb_exponent = int(table.lsb_exponents[used].min())
    return Operand(values, lsb_exponent, int(np.abs(table.values[used]).max() * 2.0**-lsb_exponent), special)


class _Table(NamedTuple):
    """By code: the value, 0 of NaN and infinities; the exponent of its last one bit; whether it is NaN or infinite."""

    values: npt.NDArray[np.float64]
    lsb_exponents: npt.NDArray[np.int64]
    special: npt.NDArray[np.bool_]


@lru_cache(maxsize=32)
def _table(fmt: Format) -> _Table:
    size = 1 << fmt.bits
    values, exponents, special = np.zeros(size), np.zeros(size, np.int64), np.zeros(size, np.bool_)
    codes = fmt.valid_codes
    real = fmt.decode(codes)
    zeros = np.frexp((real.significand & -real.significand).astype(np.float64))[1] - 1
    values[codes] = np.where(real.kind == FINITE, fmt.to_float64(codes), 0.0)
    exponents[codes], special[codes] = real.exponent + zeros, real.kind != FINITE
    return _Table(values, exponents, special)


def _decode(flat: CodeArray, fmt: FloatFormat | IntFormat, values: npt.NDArray) -> tuple[int, int]:
    """Fill in `values`; the largest magnitude (of a float: its code), and the least code but 0."""
    rows, columns = flat.shape
    stride = values.strides[0] // values.itemsize
    if stride == columns:
        rows, columns = 1, flat.size
    kernel = _kernel(fmt, FLOAT32 if values.dtype == np.float32 else FLOAT64)
    found = kernel(address(flat), address(values), rows, columns, stride)
    return found & 0xFFFF_FFFF, (found >> 32 & 0xFFFF_FFFF) + 1


@lru_cache(maxsize=64)
def _kernel(fmt: FloatFormat | IntFormat, target: Source) -> Kernel:
    """Kernel over codes, values, rows, columns, and the stride of rows of values.

    It gives 32 bits for the largest magnitude (of a float: its code), and 32 for the least code but 0, less 1.
    """
    code = Code("decode", "ppiii")
    codes, values, rows, columns, stride = code.arguments
    element = {1: I8, 2: I16, 4: I32}[fmt.container_bytes]
    lanes, integer = target.lanes, target.integer
    vector = ir.VectorType(integer, lanes)
    floats = ir.VectorType(F32 if target is FLOAT32 else F64, lanes)
    tail = code.buffer(element, lanes)
    tail_values = code.buffer(floats.element, lanes)

    def group(read_at: tuple[Lanes, Lanes], write_at: tuple[Lanes, Lanes], largest: Lanes, least: Lanes) -> list[Lanes]:
        read = code.load(*read_at, ir.VectorType(element, lanes)).widen(integer)
        if isinstance(fmt, IntFormat):
            value = read
            if fmt.signed:  # the sign bit's place is worth -2**(width - 1)
                value = (read ^ (1 << (fmt.width - 1))) - (1 << (fmt.width - 1))
            magnitude = value.less_signed(0).choose(value.constant(0) - value, value)
            code.store(value.to_float(floats.element), *write_at)
        else:
            magnitude = read & (fmt.sign_code - 1)
            shifted = magnitude << (target.fraction_bits - fmt.mantissa_bits)
            normal = shifted + ((target.bias - fmt.bias) << target.fraction_bits)
            # (1 + f) * 2**e - 2**e, which is exact, for the fraction f of a subnormal number
            smallest = 2.0**fmt.min_normal_exponent
            above = (shifted + ((target.bias + fmt.min_normal_exponent) << target.fraction_bits)).bits_as(floats)
            tiny = (above - smallest).bits_as(vector) if fmt.subnormals else shifted.constant(0)
            bits = (magnitude >> fmt.mantissa_bits).equals(0).choose(tiny, normal)
            bits = (magnitude > fmt.max_code).choose(bits.constant(0), bits)
            sign = (read & fmt.sign_code) << (target.width - fmt.bits)
            code.store(bits | sign, *write_at)
            if not fmt.subnormals:
                magnitude = (magnitude >> fmt.mantissa_bits).equals(0).choose(magnitude.constant(0), magnitude)
        return [(magnitude < largest).choose(largest, magnitude), least.smaller(magnitude - 1)]

    def each_row(row: Lanes, largest: Lanes, least: Lanes) -> list[Lanes]:
        at, to = row * columns, row * stride
        whole = columns & -lanes
        found = code.loop(0, whole, lanes, [largest, least], lambda n, *c: group((codes, at + n), (values, to + n), *c))

        def rest(_: Lanes, *now: Lanes) -> list[Lanes]:
            first, last = at + whole, to + whole
            code.store(code.constant(ir.VectorType(element, lanes), 0), tail, 0)
            code.copy(columns - whole, element, (codes, first), (tail, columns.constant(0)))
            new = group((tail, columns.constant(0)), (tail_values, columns.constant(0)), *now)
            code.copy(columns - whole, floats.element, (tail_values, columns.constant(0)), (values, last))
            return new

        return code.loop(whole, columns, lanes, found, rest)

    start = [code.constant(vector, 0), code.constant(vector, -1)]
    largest, least = code.loop(0, rows, 1, start, each_row)
    extremes = (
        code.intrinsic(f"llvm.vector.reduce.{kind}.v{lanes}i{integer.width}", integer, found)
        for kind, found in (("umax", largest), ("umin", least))
    )
    low, high = (extreme.widen(I64) & 0xFFFF_FFFF for extreme in extremes)
    return code.compile(low | (high << 32))
