"""Exact products of integers through products of int8 digits in int32, which processors with VNNI run fastest of all.

A number in units of its operand's least significant bit is a sum of digits d_p * 256**p, each from -128 to 127. Digits
of A lie beside each other along K, those of B below each other in the opposite order, so that all pairs of digits of
one weight are one product of int8 matrices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.formats import CodeArray, FloatFormat, IntFormat
from halfulp.sim.chain_code import odd_sum
from halfulp.sim.llvm import ir
from halfulp.sim.operands import float_range
from halfulp.sim.rounding_code import FLOAT32, FLOAT64
from halfulp.sim.vector_code import F32, F64, I1, I8, I16, I32, I64, Code, Kernel, Lanes, address, host_features

__all__ = [
    "MAX_DIGITS",
    "MAX_WEIGHED_BITS",
    "Range",
    "as_digits",
    "count_digits",
    "digit_products",
    "find_range",
    "fits_int32",
    "has_fast_int8",
    "scaled_floats",
    "weigh",
    "whole_range",
]

MAX_DIGITS = 7
"""With 128 in the place of each of them they stay within a signed integer of 64 bits."""

MAX_WEIGHED_BITS = 84
"""Of what `weigh` adds up: the upper part, in units of 2**32, is exact in float64."""


class Range(NamedTuple):
    """What occurs in an operand: finite numbers are multiples of 2**lsb_exponent, of at most max_units.

    special: whether there is any NaN or infinity; int8: whether all codes are int8 numbers themselves.
    """

    lsb_exponent: int
    max_units: int
    special: bool = False
    int8: bool = False


@lru_cache(maxsize=1)
def has_fast_int8() -> bool:
    """Whether this processor multiplies int8 and adds in int32 in one instruction.

    Without it, PyTorch's int8 product is slow or, on AVX2, wrong: pairs of products saturate at 16 bits there.
    """
    return not host_features().isdisjoint({"avx512vnni", "avxvnni", "avxvnniint8"})


def fits_int32(max_a: int, max_b: int, k: int) -> bool:
    """Whether no sum of k products of integers of at most these magnitudes leaves int32."""
    return max_a * max_b * k < 1 << 31


def count_digits(found: Range) -> int:
    """How many digits hold every number of an operand."""
    count = 1
    while not found.int8 and found.max_units > 127 * ((256**count - 1) // 255):
        count += 1
    return count


@lru_cache(maxsize=256)
def whole_range(fmt: FloatFormat | IntFormat) -> Range | None:
    """The range of all of a format's numbers, where they are all int8 numbers; else None."""
    if isinstance(fmt, IntFormat) and fmt.signed and fmt.width == 8:
        return Range(fmt.lsb_exponent, 128, int8=True)
    if fmt.max_units <= 127 and not (fmt.has_nan or fmt.has_inf):
        return Range(fmt.lsb_exponent, fmt.max_units)
    return None


def find_range(codes: CodeArray, fmt: FloatFormat | IntFormat) -> Range:
    """The range of an operand's numbers, without their values; of formats of int8's range what may occur."""
    whole = whole_range(fmt)
    if whole is not None:
        return whole
    flat = _flat(codes)
    found = np.empty(2, np.uint64)
    _range_kernel(fmt)(address(flat), address(found), flat.size)
    largest, least = int(found[0]), int(found[1]) + 1
    if isinstance(fmt, IntFormat):
        return Range(fmt.lsb_exponent, largest)
    if largest > fmt.max_code:
        finite = flat & (fmt.sign_code - 1)
        return Range(*float_range(fmt, int(np.where(finite > fmt.max_code, 0, finite).max()), least), special=True)
    return Range(*float_range(fmt, largest, least))


def _flat(codes: CodeArray) -> CodeArray:
    """Storage of the codes, row by row or column by column."""
    transposed = codes.flags.f_contiguous and not codes.flags.c_contiguous
    return np.ascontiguousarray(codes.T if transposed else codes)


def as_digits(
    codes: CodeArray,
    fmt: FloatFormat | IntFormat,
    found: Range,
    count: int,
    *,
    below: bool,
) -> npt.NDArray[np.int8]:
    """Digits of a matrix [R, C]: [R, count * C], lowest first; or `below` each other, [count * R, C], lowest last.

    NaN and infinities have digits of 0. Transposed storage stays transposed.
    """
    if found.int8:
        return codes.view(np.int8)
    transposed = codes.flags.f_contiguous and not codes.flags.c_contiguous
    flat = _flat(codes)
    by_table = _table_kernel(fmt)
    if by_table is not None:
        digits = np.empty(flat.shape, np.int8)
        by_table(address(flat), address(digits), flat.size)
        return digits.T if transposed else digits
    rows, columns = flat.shape
    stacked = below != transposed
    shape = (count * rows, columns) if stacked else (rows, count * columns)
    digits = np.empty(shape, np.int8)
    plane = flat.size if stacked else columns
    first = 0
    if below:
        first, plane = plane * (count - 1), -plane
    stride = columns if stacked else count * columns
    if stride == columns:
        rows, columns = 1, flat.size
    field = 1 if isinstance(fmt, IntFormat) else found.lsb_exponent - fmt.lsb_exponent + 1
    kernel = _digits_kernel(fmt, count)
    kernel(address(flat), address(digits) + first, rows, columns, stride, plane, field)
    return digits.T if transposed else digits


def digit_products(
    a: npt.NDArray[np.int8],
    b: npt.NDArray[np.int8],
    count_a: int,
    count_b: int,
    torch: Any,
) -> npt.NDArray[np.int32]:
    """Sums [count_a + count_b - 1, M, N] of the products of all pairs of digits of one weight, ascending."""
    (m, width), n = a.shape, b.shape[1]
    k = width // count_a
    left, right = torch.from_numpy(_positive(a)), torch.from_numpy(_positive(b))
    shape = (count_a + count_b - 1, m, n)
    found = np.empty(shape, np.int32)
    sums = torch.from_numpy(found)
    if len(found) == 1:
        torch._int_mm(left, right, out=sums[0])
        return found
    for weight, out in enumerate(sums):
        first, last = max(weight - count_b + 1, 0), min(weight, count_a - 1)
        start, depth = count_b - 1 - weight + first, last - first + 1
        some = right[start * k : (start + depth) * k]
        torch._int_mm(left[:, first * k : (last + 1) * k], some, out=out)
    return found


def _positive(x: npt.NDArray) -> npt.NDArray:
    """`x`, copied where PyTorch cannot take its strides, or its memory for not being writable."""
    return x if min(x.strides) >= 0 and x.flags.writeable else x.copy()


def weigh(sums: npt.NDArray[np.int32], largest: int) -> npt.NDArray[np.float64]:
    """The sum of sums[w] * 256**w, at most `largest` in magnitude; of more than 53 bits the odd neighbour."""
    total = np.empty(sums.shape[1:])
    kernel = _weigh_kernel(len(sums), largest.bit_length() > 53)
    kernel(address(sums), address(total), total.size)
    return total


def scaled_floats(sums: npt.NDArray, scale: int) -> npt.NDArray[np.uint32] | None:
    """The float32 codes of int32 sums * 2**scale, scale from -64 to 64; None where one is beyond 2**24 in magnitude."""
    codes, beyond = np.empty(sums.shape, np.uint32), np.zeros(1, np.uint8)
    _floats_kernel()(address(sums), address(codes), address(beyond), sums.size, (127 + scale) << 23)
    return None if beyond[0] else codes


@lru_cache(maxsize=1)
def _floats_kernel() -> Kernel:
    """Kernel over sums, codes, a flag (some sum is beyond 2**24), their count, and the factor's bits."""
    code = Code("scaled_floats", "pppii")
    sums, codes, flag, count, factor = code.arguments
    power = factor.narrow(I32).bits_as(F32)

    def put(n: Lanes, kind: Any, seen: Lanes) -> list[Lanes]:
        read = code.load(sums, n, kind)
        by = code.spread(power, kind.count) if isinstance(kind, ir.VectorType) else power
        code.store(read.to_float(F32) * by, codes, n)
        return [seen | ((read + (1 << 24)) > 1 << 25)]

    vector = ir.VectorType(I32, FLOAT32.lanes)
    whole = count & -FLOAT32.lanes
    none = code.constant(ir.VectorType(I1, FLOAT32.lanes), 0)
    (seen,) = code.loop(0, whole, FLOAT32.lanes, [none], lambda n, x: put(n, vector, x))
    some = seen.bits_as(ir.IntType(FLOAT32.lanes)) > 0
    (some,) = code.loop(whole, count, 1, [some], lambda n, x: put(n, I32, x))
    code.store(some.widen(I8), flag, 0)
    return code.compile()


@lru_cache(maxsize=64)
def _range_kernel(fmt: FloatFormat | IntFormat) -> Kernel:
    """Kernel over codes, two integers (largest magnitude, or its code; the least, less 1), and the count of codes."""
    code = Code("range", "ppi")
    codes, found, count = code.arguments
    element = {1: I8, 2: I16, 4: I32}[fmt.container_bytes]
    lanes = 512 // element.width
    vector = ir.VectorType(element, lanes)

    def magnitude(read: Lanes) -> Lanes:
        if isinstance(fmt, FloatFormat):
            size = read & (fmt.sign_code - 1)
            if fmt.subnormals:
                return size
            return (size >> fmt.mantissa_bits).equals(0).choose(size.constant(0), size)
        if not fmt.signed:
            return read
        sign = 1 << (fmt.width - 1)
        value = (read ^ sign) - sign
        return value.less_signed(0).choose(value.constant(0) - value, value)

    def seen(read: Lanes, largest: Lanes, least: Lanes) -> list[Lanes]:
        size = magnitude(read)
        return [(size < largest).choose(largest, size), least.smaller(size - 1)]

    whole = count & -lanes
    start = [code.constant(vector, 0), code.constant(vector, -1)]
    ends = code.loop(0, whole, lanes, start, lambda n, *c: seen(code.load(codes, n, vector), *c))
    largest, least = (
        code.intrinsic(f"llvm.vector.reduce.{kind}.v{lanes}i{element.width}", element, x)
        for kind, x in zip(("umax", "umin"), ends, strict=True)
    )
    largest, least = code.loop(whole, count, 1, [largest, least], lambda n, *c: seen(code.load(codes, n, element), *c))
    code.store(largest.widen(I64), found, 0)
    # The least of no number at all is beyond every code.
    code.store(least.equals(-1).choose(code.constant(I64, -1), least.widen(I64)), found, 1)
    return code.compile()


@lru_cache(maxsize=32)
def _table_kernel(fmt: FloatFormat | IntFormat) -> Kernel | None:
    """Kernel over codes of at most 6 bits, digits, and their count: looked up 64 at a time in a register.

    None where a number takes more than one digit, whichever occur, or the processor has no such instruction.
    """
    if fmt.bits > 6 or whole_range(fmt) is None or "avx512vbmi" not in host_features():
        return None
    code = Code("looked_up", "ppi")
    codes, digits, count = code.arguments
    vector = ir.VectorType(I8, 64)
    numbers = fmt.to_float64(fmt.valid_codes) * 2.0**-fmt.lsb_exponent
    table = Lanes(code, ir.Constant(vector, [int(n) & 0xFF for n in np.resize(numbers, 64)]))
    tail, tail_digits = code.buffer(vector, 1), code.buffer(vector, 1)
    zero = count.constant(0)

    def group(read: tuple[Lanes, Lanes], write: tuple[Lanes, Lanes]) -> list[Lanes]:
        found = code.intrinsic("llvm.x86.avx512.permvar.qi.512", vector, table, code.load(*read, vector))
        code.store(found, *write)
        return []

    def rest(n: Lanes) -> list[Lanes]:
        code.store(code.constant(vector, 0), tail, 0)
        code.copy(count - n, I8, (codes, n), (tail, zero))
        group((tail, zero), (tail_digits, zero))
        code.copy(count - n, I8, (tail_digits, zero), (digits, n))
        return []

    whole = count & -64
    code.loop(0, whole, 64, [], lambda n: group((codes, n), (digits, n)))
    code.loop(whole, count, 64, [], rest)
    return code.compile()


@lru_cache(maxsize=64)
def _digits_kernel(fmt: FloatFormat | IntFormat, count: int) -> Kernel:
    """Kernel over codes, digits, rows, columns, strides of rows and planes of digits, and the least exponent field."""
    code = Code("digits", "ppiiiii")
    codes, digits, rows, columns, stride, plane, least = code.arguments
    element = {1: I8, 2: I16, 4: I32}[fmt.container_bytes]
    integer = I64 if count > 3 else I32 if count > 1 or element is I32 else I16
    lanes = 512 // integer.width
    one_field = code.spread(least.narrow(integer), lanes)
    tail, tail_digits = code.buffer(element, lanes), code.buffer(I8, lanes)
    zero = least.constant(0)
    middle = 128 * ((256**count - 1) // 255)

    def offset_digits(read: Lanes) -> Lanes:
        """The number and 128 in the place of each digit, whose bytes then are the digits and 128."""
        if isinstance(fmt, IntFormat):
            sign = 1 << (fmt.width - 1) if fmt.signed else 0
            return (read ^ sign) - sign + middle
        magnitude = read & (fmt.sign_code - 1)
        field = magnitude >> fmt.mantissa_bits
        normal = field > 0
        significand = magnitude & ((1 << fmt.mantissa_bits) - 1)
        hidden = normal.choose(significand | (1 << fmt.mantissa_bits), significand if fmt.subnormals else 0)
        shift = (normal.choose(field, 1) - one_field) & (integer.width - 1)
        value = (magnitude > fmt.max_code).choose(hidden.constant(0), hidden << shift)
        negative = (read & fmt.sign_code) > 0
        return negative.choose(value.constant(middle) - value, value + middle)

    def group(n: Lanes, read: Lanes, write: Any) -> None:
        number = offset_digits(read.widen(integer))
        for place in range(count):
            write(((number >> (8 * place)).narrow(I8)) ^ 0x80, plane * place, n)

    def each_row(row: Lanes) -> list[Lanes]:
        at, to = row * columns, row * stride
        whole = columns & -lanes

        def body(n: Lanes) -> list[Lanes]:
            read = code.load(codes, at + n, ir.VectorType(element, lanes))
            group(n, read, lambda digit, place, n: code.store(digit, digits, to + place + n))
            return []

        code.loop(0, whole, lanes, [], body)

        def rest(n: Lanes) -> list[Lanes]:
            code.store(code.constant(ir.VectorType(element, lanes), 0), tail, 0)
            code.copy(columns - whole, element, (codes, at + whole), (tail, zero))

            def write(digit: Lanes, place: Lanes, n: Lanes) -> None:
                code.store(digit, tail_digits, 0)
                code.copy(columns - whole, I8, (tail_digits, zero), (digits, to + place + n))

            group(n, code.load(tail, 0, ir.VectorType(element, lanes)), write)
            return []

        code.loop(whole, columns, lanes, [], rest)
        return []

    code.loop(0, rows, 1, [], each_row)
    return code.compile()


@lru_cache(maxsize=64)
def _weigh_kernel(count: int, inexact: bool) -> Kernel:
    """Kernel over sums [count, size] of int32, totals [size] of float64, and their size."""
    code = Code("weigh", "ppi")
    sums, totals, size = code.arguments
    lanes = FLOAT64.lanes
    whole = size & -lanes

    def weighed(n: Lanes, first: int, last: int, kind: Any) -> Lanes:
        small = ir.VectorType(I32, lanes) if kind is not I64 else I32
        total = code.load(sums, size * first + n, small).widen_signed(I64)
        for weight in range(first + 1, last):
            part = code.load(sums, size * weight + n, small).widen_signed(I64)
            total = total + (part << (8 * (weight - first)))
        return total

    def put(n: Lanes, kind: Any) -> list[Lanes]:
        if not inexact:
            total = weighed(n, 0, count, kind).to_float(F64)
        else:
            low = weighed(n, 0, min(count, 4), kind)
            high = weighed(n, 4, count, kind) if count > 4 else low.constant(0)
            high = high + (low.shift_right_signed(32))
            upper = high.to_float(F64) * 2.0**32
            total = odd_sum(upper, (low & 0xFFFF_FFFF).to_float(F64), kind)
        code.store(total, totals, n)
        return []

    code.loop(0, whole, lanes, [], lambda n: put(n, ir.VectorType(I64, lanes)))
    code.loop(whole, size, 1, [], lambda n: put(n, I64))
    return code.compile()
