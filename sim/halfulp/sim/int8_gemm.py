"""Exact sums of formats whose numbers are int8 in units of their last bit, by `int8_code`: one call does it all.

Codes are decoded while they are packed, whichever way they lie, and sums are stored as int32 or float32 codes; what
other formats ask for is rounded from int32 after that.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import ExactAccumulator
from halfulp.numerics.formats import CodeArray, FixedPointFormat, Format, IntFormat, get_format
from halfulp.numerics.gemm import GemmResult, GemmSpec, check_operands
from halfulp.sim.int8_code import NARROW, ROWS, WIDE, Extensions, extensions, packer, product_kernel
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.vector_code import address

__all__ = ["Int8Codes", "Int8Plan", "as_int8", "int8_plan"]

INT32, FLOAT32 = get_format("int32"), get_format("float32")

MAX_FLOAT_SCALE = 64
"""Sums of int32 times a power of two within this are normal float32 numbers."""

LOOKED_UP_BITS = 6
"""Widest codes that have a table of their numbers."""

LEAST_BYTES, KEPT_BYTES = 1 << 17, 1 << 20
"""Memory for packed operands: what a thread asks for at least, and what it keeps at most for its next product."""


@dataclass(frozen=True)
class Int8Codes:
    """How codes of one byte become the bytes that are multiplied.

    table: the number of each code below 64, or None where codes are the numbers' own bits; max_units: the largest
    magnitude; signed: whether any number is below 0; unseen: what no code's bit may be; whole: whether each code
    without such a bit is a number.
    """

    table: npt.NDArray[np.int8] | None
    max_units: int
    signed: bool
    unseen: int
    whole: bool


@lru_cache(maxsize=256)
def as_int8(fmt: Format) -> Int8Codes | None:
    """How the numbers of a format, in units of 2**lsb_exponent, are those of one byte; None where they are not."""
    if fmt.bits == 8 and isinstance(fmt, (IntFormat, FixedPointFormat)):
        signed = not isinstance(fmt, IntFormat) or fmt.signed
        return Int8Codes(None, 128 if signed else 255, signed, 0, True)
    if fmt.bits > LOOKED_UP_BITS:
        return None
    units = fmt.to_float64(fmt.valid_codes) * 2.0**-fmt.lsb_exponent
    if not np.isfinite(units).all() or (units != np.rint(units)).any() or np.abs(units).max() > 127:
        return None
    table = np.zeros(1 << LOOKED_UP_BITS, np.int8)
    table[fmt.valid_codes] = units
    whole = len(fmt.valid_codes) == 1 << fmt.bits
    return Int8Codes(table, int(np.abs(units).max()), True, ~((1 << fmt.bits) - 1) & 0xFF, whole)


@lru_cache(maxsize=256)
def int8_plan(spec: GemmSpec) -> Int8Plan | None:
    """How exact sums of these formats are products of bytes; None where they are not, or not on this processor."""
    ways = extensions()
    if ways is None or not isinstance(spec.accumulator, ExactAccumulator):
        return None
    a, b = as_int8(spec.a), as_int8(spec.b)
    if a is None or b is None or (b.max_units > 128):
        return None
    return Int8Plan(spec, a, b, ways)


class Int8Plan:
    """A GEMM by products of bytes: what does not depend on its operands.

    max_depth: the largest K of which no sum leaves int32. Sums on the way there may, for they wrap around.
    """

    def __init__(self, spec: GemmSpec, a: Int8Codes, b: Int8Codes, ways: Extensions) -> None:
        self.spec, self.a, self.b, self.ways = spec, a, b, ways
        self.max_depth = ((1 << 31) - 1) // (a.max_units * b.max_units)
        self.scale = spec.scale + spec.a.lsb_exponent + spec.b.lsb_exponent
        self.as_float = spec.out == FLOAT32 and abs(self.scale) <= MAX_FLOAT_SCALE
        # What is stored is what is asked for; else it is rounded as other int32 numbers are.
        self._is_result = self.as_float or (spec.out == INT32 and self.scale == 0)
        self._offset = 128 if a.signed else 0
        # In a table the offset is there already; in two's complement it turns the highest bit.
        self._turned = self._offset if a.table is None else 0
        self._tables = [
            None if a.table is None else a.table.view(np.uint8) + np.uint8(128),
            None if b.table is None else b.table.view(np.uint8),
        ]
        self._table_a, self._table_b = (0 if table is None else address(table) for table in self._tables)

    def __call__(
        self, a: npt.ArrayLike, b: npt.ArrayLike, seed: int, *, max_macs: int | None = None
    ) -> GemmResult | None:
        """What `golden_gemm` gives; None where K is beyond `max_depth`, or M * N * K is not below `max_macs`."""
        spec = self.spec
        checked = not (self.a.whole and self.b.whole and _are_codes(a, b))
        codes_a, codes_b = check_operands(a, b, spec) if checked else (np.asarray(a), np.asarray(b))
        (m, depth), n = codes_a.shape, codes_b.shape[1]
        if depth > self.max_depth or (max_macs is not None and m * n * depth >= max_macs):
            return None
        if not checked and isinstance(spec.accumulator, ExactAccumulator):
            spec.accumulator.check_k(depth)
        stored, seen = self._product(codes_a, codes_b, as_float=self.as_float)
        if not checked and (seen & self.a.unseen or seen >> 8 & self.b.unseen):
            check_operands(a, b, spec)  # raises
        inexact = seen >> 16 and spec.rounding.kind != "nearest_even"
        if self._is_result and not inexact:
            return GemmResult(stored, False, False)
        sums = self._product(codes_a, codes_b, as_float=False)[0] if inexact else stored
        return GemmResult(
            *quantise_flagged(
                sums.view(np.int32),
                spec.out,
                spec.rounding,
                seed=seed,
                scale=self.scale,
                overflow=spec.overflow,
                signed_zero=False,
            )
        )

    def _product(self, a: CodeArray, b: CodeArray, *, as_float: bool) -> tuple[npt.NDArray[np.uint32], int]:
        """The bits of int32 or float32 sums [M, N], and what the kernel gives."""
        (m, depth), n = a.shape, b.shape[1]
        rows, columns = max(m, ROWS), max(n, NARROW)
        if n < NARROW:
            padded = np.zeros((depth, NARROW), np.uint8)
            padded[:, :n] = b
            b = padded
        a, stride_a, by_rows = _storage(a, at_least=NARROW)
        b, stride_b, across = _storage(b, at_least=1)
        groups = -(-depth // 4)
        size_a = (4 * groups * rows + 127) & -64  # room for what is stored behind the last row
        at, _kept_alive = _scratch(size_a + WIDE * 4 * (groups + 15))
        stored = np.empty((rows, columns), np.uint32)
        seen = product_kernel("float32" if as_float else "int32", self.ways)(
            packer("rows" if by_rows else "across", self.a.table is not None, self.ways).address,
            packer("across" if across else "along", self.b.table is not None, self.ways).address,
            address(stored),
            at,
            at + size_a,
            address(a),
            self._table_a,
            stride_a,
            address(b),
            self._table_b,
            stride_b,
            1 if across else stride_b,
            m,
            columns,
            depth,
            self._turned,
            self._offset,
            by_rows,
            (127 + self.scale) << 23 if as_float else 0,
        )
        return (stored if (m, n) == stored.shape else np.ascontiguousarray(stored[:m, :n])), seen


def _are_codes(a: npt.ArrayLike, b: npt.ArrayLike) -> bool:
    """Whether these are matrices of bytes of which there is a product: all but the values of codes."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.dtype != np.uint8 or b.dtype != np.uint8:
        return False
    return a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] > 0 and a.shape[0] > 0 and b.shape[1] > 0


def _storage(x: CodeArray, at_least: int) -> tuple[CodeArray, int, bool]:
    """An array whose first element is that of the matrix; bytes between its rows or columns; whether it is by rows."""
    by_row, by_column = x.strides
    if by_column == 1 or x.shape[1] == 1:
        return x, by_row, True
    if by_row == 1 and x.shape[0] >= at_least:
        return x.T, by_column, False
    return np.ascontiguousarray(x), x.shape[1], True


_kept = threading.local()


def _scratch(size: int) -> tuple[int, npt.NDArray[np.uint8]]:
    """An address, which 64 divides, in memory that is free until this thread's next product; and that memory."""
    found = getattr(_kept, "memory", None)
    if found is None or found[1].size < size + 63:
        memory = np.empty(max(size, LEAST_BYTES) + 63, np.uint8)
        found = (address(memory) + 63) & -64, memory
        if size <= KEPT_BYTES:
            _kept.memory = found
    return found
