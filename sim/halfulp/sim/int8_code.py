"""Products of int8 matrices by the processor's own dot products of four (VNNI): packing and the product itself.

One instruction multiplies four unsigned by four signed bytes and adds them to a 32-bit lane, modulo 2**32. A's numbers
are made unsigned by an offset, B's are taken as they are, and a sum starts at -offset times the sum of B's column. A
sum that int32 holds comes out right whatever those on the way to it were.

Numbers are packed in groups of four along K: B's in panels of 64 or 16 columns [K/4][columns][4] that stay in the
cache, A's as [rows][K/4][4] or [K/4][rows][4], whichever its storage is nearer to. B's last group ends with zeros, so
that what stands behind A's last number does not matter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from halfulp.sim.llvm import ir
from halfulp.sim.vector_code import F32, I1, I8, I16, I32, I64, Code, Kernel, Lanes, host_features, transposed

__all__ = ["NARROW", "ROWS", "WIDE", "Extensions", "extensions", "packer", "product_kernel"]

ROWS, WIDE, NARROW = 6, 64, 16
"""Outputs that are kept in registers: rows, and columns of a panel."""

VECTOR = ir.VectorType(I8, 64)
WORDS = ir.VectorType(I32, 16)

PACK = "ppiiiiip"
"""What packers are called with: codes, packed, their strides in bytes, K, rows (or columns), the bits that are turned
where codes are numbers themselves, and the 64 numbers of codes that are looked up."""


class Extensions(NamedTuple):
    """What this processor multiplies with: 32-bit lanes of one instruction; whether 64 bytes are looked up in one."""

    lanes: int
    looks_up_64: bool


@lru_cache(maxsize=1)
def extensions() -> Extensions | None:
    """The extensions to use, or None where there are none."""
    features = host_features()
    if {"avx512vnni", "avx512bw"} <= features:
        return Extensions(16, "avx512vbmi" in features)
    return Extensions(8, False) if "avxvnni" in features else None


@lru_cache(maxsize=32)
def packer(layout: str, looked_up: bool, ways: Extensions) -> Kernel:
    """Kernel that packs numbers (`PACK`) and gives all its codes ORed.

    ``rows`` [rows, K] to [rows][K]; ``across`` [K, columns] to [K/4][columns][4]; ``along`` [columns, K] to the same.
    """
    return _Packer(layout, looked_up, ways).kernel


class _Packer:
    def __init__(self, layout: str, looked_up: bool, ways: Extensions) -> None:
        self.looked_up, self.ways = looked_up, ways
        self.code = code = Code(f"pack_{layout}", PACK)
        *_, turned, self.table = code.arguments
        self.turned = code.spread(turned.narrow(I8), 64)
        self.none = code.constant(VECTOR, 0)
        self.tail = code.buffer(VECTOR, 1)
        write = {"rows": self._rows, "across": self._across, "along": self._along}[layout]
        (seen,) = write()
        given = code.intrinsic("llvm.vector.reduce.or.v64i8", I8, seen) if looked_up else code.constant(I8, 0)
        self.kernel = code.compile(given.widen(I64))

    def _numbers(self, codes: Lanes, seen: Lanes) -> tuple[Lanes, Lanes]:
        """The numbers of 64 codes, and what was seen with them."""
        if not self.looked_up:
            return codes ^ self.turned, seen
        return _look_up(codes, self.table, self.ways), seen | codes

    def _rows(self) -> list[Lanes]:
        code = self.code
        source, packed, stride, step, depth, rows, _, _ = code.arguments
        zero = stride.constant(0)

        def each(row: Lanes, seen: Lanes) -> list[Lanes]:
            # Rows that there are not repeat the last.
            at, to = row.smaller_signed(rows - 1) * stride, row * step

            def chunk(k: Lanes, seen: Lanes) -> list[Lanes]:
                start = k.smaller_signed(depth - 64)  # the last may overlap the one before
                numbers, seen = self._numbers(code.load(source, at + start, VECTOR), seen)
                code.store(numbers, packed, to + start)
                return [seen]

            def short(_: Lanes, seen: Lanes) -> list[Lanes]:
                code.store(self.none, self.tail, 0)
                code.copy(depth, I8, (source, at), (self.tail, zero))
                numbers, seen = self._numbers(code.load(self.tail, 0, VECTOR), seen)
                code.store(numbers, packed, to)  # also over the row after, which comes next
                return [seen]

            is_short = depth.less_signed(64)
            (seen,) = code.loop(0, is_short.choose(zero, depth), 64, [seen], chunk)
            return code.loop(0, is_short.widen(I64), 1, [seen], short)

        return code.loop(0, rows.larger_signed(ROWS), 1, [self.none], each)

    def _across(self) -> list[Lanes]:
        code = self.code
        source, packed, stride, step, depth, columns, _, _ = code.arguments

        def group(k: Lanes, column: Lanes, width: int, seen: Lanes, *, whole: bool) -> list[Lanes]:
            rows = []
            for n in range(4):
                row = k + n if whole else (k + n).smaller_signed(depth - 1)
                codes = code.load(source, row * stride + column, ir.VectorType(I8, width))
                if not whole:
                    codes = code.spread((k + n).less_signed(depth), width).choose(codes, codes.constant(0))
                rows.append(codes)
            if width == WIDE:
                seen, vectors = self._interleaved(rows, seen, None if whole else (k, depth))
            else:
                pairs = [rows[n].shuffle(rows[n + 1], range(2 * width)) for n in (0, 2)]
                joined = pairs[0].shuffle(pairs[1], [width * n + c for c in range(width) for n in range(4)])
                numbers, seen = self._numbers(joined, seen)
                if not whole:
                    numbers = _first_of_four(code, depth - k).choose(numbers, self.none)
                vectors = [numbers]
            for n, vector in enumerate(vectors):
                code.store(vector, packed, (k >> 2) * step + (column + NARROW * n) * 4)
            return [seen]

        def panel(column: Lanes, width: int, seen: Lanes) -> list[Lanes]:
            start = column.smaller_signed(columns - width)  # the last may overlap the one before
            groups = depth & -4
            (seen,) = code.loop(0, groups, 4, [seen], lambda k, s: group(k, start, width, s, whole=True))
            return code.loop(groups, depth, 4, [seen], lambda k, s: group(k, start, width, s, whole=False))

        wide = columns & -WIDE
        (seen,) = code.loop(0, wide, WIDE, [self.none], lambda column, s: panel(column, WIDE, s))
        return code.loop(wide, columns, NARROW, [seen], lambda column, s: panel(column, NARROW, s))

    def _interleaved(
        self, rows: list[Lanes], seen: Lanes, end: tuple[Lanes, Lanes] | None
    ) -> tuple[Lanes, list[Lanes]]:
        """Four rows of 64 codes as four vectors of the numbers of 16 columns; 0 in place of those beyond the `end`."""
        numbers = []
        for n, row in enumerate(rows):
            of_row, seen = self._numbers(row, seen)
            if end is not None:
                of_row = self.code.spread((end[0] + n).less_signed(end[1]), 64).choose(of_row, self.none)
            numbers.append(of_row)
        halves = ir.VectorType(I16, 32)
        vectors = []
        for start in (0, 32):
            order = [c + 64 * n for c in range(start, start + 32) for n in range(2)]
            low, high = (numbers[n].shuffle(numbers[n + 1], order).bits_as(halves) for n in (0, 2))
            for first in (0, 16):
                pair = low.shuffle(high, [c + 32 * n for c in range(first, first + 16) for n in range(2)])
                vectors.append(pair.bits_as(VECTOR))
        return seen, vectors

    def _along(self) -> list[Lanes]:
        code = self.code
        source, packed, stride, step, depth, columns, _, _ = code.arguments
        zero = stride.constant(0)
        # A last piece of whole groups of four may overlap the one before; any other is copied, with zeros after it.
        overlaps = (depth & 3).equals(0) & ~depth.less_signed(64)
        whole = overlaps.choose(depth, depth & -64)
        rest = depth - whole
        there = code.count_up(VECTOR) < code.spread(rest.narrow(I8), 64)
        copied = code.buffer(VECTOR, NARROW)

        def put(k: Lanes, column: Lanes, read: tuple[Lanes, Lanes, Lanes], seen: Lanes, *, end: bool) -> list[Lanes]:
            """64 numbers of 16 columns each, transposed in units of four."""
            vectors = []
            base, at, pitch = read
            for n in range(NARROW):
                numbers, seen = self._numbers(code.load(base, at + pitch * n, VECTOR), seen)
                vectors.append((there.choose(numbers, self.none) if end else numbers).bits_as(WORDS))
            for place, vector in enumerate(transposed(vectors)):
                code.store(vector.bits_as(VECTOR), packed, ((k >> 2) + place) * step + column * 4)
            return [seen]

        def panel(first: Lanes, seen: Lanes) -> list[Lanes]:
            column = first.smaller_signed(columns - NARROW)  # the last may overlap the one before

            def piece(n: Lanes, seen: Lanes) -> list[Lanes]:
                k = overlaps.choose(n.smaller_signed(depth - 64), n)
                return put(k, column, (source, column * stride + k, stride), seen, end=False)

            def end(k: Lanes, seen: Lanes) -> list[Lanes]:
                def row(n: Lanes) -> list[Lanes]:
                    code.store(self.none, copied, n << 6)
                    code.copy(rest, I8, (source, (column + n) * stride + k), (copied, n << 6))
                    return []

                code.loop(0, zero + NARROW, 1, [], row)
                return put(k, column, (copied, zero, zero + 64), seen, end=True)

            (seen,) = code.loop(0, whole, 64, [seen], piece)
            return code.loop(whole, depth, 64, [seen], end)

        return code.loop(0, columns, NARROW, [self.none], panel)


def _first_of_four(code: Code, count: Lanes) -> Lanes:
    """`I1` lanes: those of 64 bytes whose place in their group of four is below `count`."""
    place = code.count_up(VECTOR) & 3
    return place < code.spread(count.narrow(I8), 64)


def _look_up(codes: Lanes, table: Lanes, ways: Extensions) -> Lanes:
    """The bytes of a table of 64 that codes below 64 stand for."""
    code = codes.code
    if ways.looks_up_64:
        return code.intrinsic("llvm.x86.avx512.permvar.qi.512", VECTOR, code.load(table, 0, VECTOR), codes)
    name, size = ("avx512.pshuf.b.512", 64) if ways.lanes == 16 else ("avx2.pshuf.b", 32)
    kind = ir.VectorType(I8, size)
    found = []
    for first in range(0, 64, size):
        some = codes.shuffle(codes, range(first, first + size))
        low, quarter = some & 15, some >> 4
        number = None
        for n in range(4):
            part = code.load(table, 16 * n, ir.VectorType(I8, 16))
            whole = part.shuffle(part, [c % 16 for c in range(size)])
            looked_up = code.intrinsic(f"llvm.x86.{name}", kind, whole, low)
            number = looked_up if number is None else quarter.equals(n).choose(looked_up, number)
        assert number is not None
        found.append(number)
    return found[0] if len(found) == 1 else found[0].shuffle(found[1], range(64))


PRODUCT = "iipppppippiiiiiiiii"
"""What product kernels are called with: addresses of the packers of A and of B; sums; memory for all of A and for a
panel of B, packed; A and its table; its stride; B and its table; its stride, and the bytes between its columns; M, N,
K; A's bits that are turned, and its offset; whether it is packed by rows; the factor's bits."""


@lru_cache(maxsize=8)
def product_kernel(out: str, ways: Extensions) -> Kernel:
    """Kernel (`PRODUCT`) that packs and multiplies; gives the codes of A ORed, those of B << 8, and a flag << 16.

    Sums [M, N], of at least `ROWS` rows and `NARROW` columns, are stored as ``int32``, or as ``float32`` times a
    factor; the flag says that one of the latter is beyond 2**24 in magnitude, so that it may have been rounded.
    """
    return _Product(out, ways).kernel


class _Product:
    def __init__(self, out: str, ways: Extensions) -> None:
        self.out, self.ways = out, ways
        self.code = code = Code("int8_product", PRODUCT)
        self.words = ir.VectorType(I32, ways.lanes)
        self.bytes = ir.VectorType(I8, 4 * ways.lanes)
        pack_a, self.pack_b, self.sums, self.packed_a, self.packed_b, a, table_a, a_stride, *rest = code.arguments
        self.b, self.table_b, self.b_stride, self.b_step, self.rows, self.columns, self.depth, *rest = rest
        turned, offset, by_rows, factor = rest
        by_row, one = by_rows > 0, by_rows.constant(1)
        self.groups = (self.depth + 3) >> 2
        # Groups of four of A between neighbours along M, and along K.
        self.row_step = by_row.choose(self.groups, one)
        self.k_step = by_row.choose(one, self.rows)
        step = by_row.choose(self.groups, self.rows) << 2
        self.less_offset = code.spread((one - offset - 1).narrow(I32), ways.lanes)
        self.factor = code.spread(factor.narrow(I32).bits_as(F32), ways.lanes)
        seen_a = code.call(pack_a, PACK, a, self.packed_a, a_stride, step, self.depth, self.rows, turned, table_a)
        found = [seen_a, code.constant(ir.VectorType(I1, ways.lanes), 0)]
        narrow_from = one.constant(0)
        if ways.lanes == 16:
            narrow_from = self.columns & -WIDE
            found = code.loop(0, narrow_from, WIDE, found, lambda j, *f: self._panel(j, WIDE, *f))
        seen, beyond = code.loop(narrow_from, self.columns, NARROW, found, lambda j, *f: self._panel(j, NARROW, *f))
        flag = (beyond.bits_as(ir.IntType(ways.lanes)) > 0).widen(I64)
        self.kernel = code.compile(seen | (flag << 16))

    def _panel(self, first: Lanes, width: int, seen: Lanes, beyond: Lanes) -> list[Lanes]:
        """All rows of so many columns."""
        code, count = self.code, width // self.ways.lanes
        column = first.smaller_signed(self.columns - width)  # the last may overlap the one before
        source, zero = code.moved(self.b, column * self.b_step), first.constant(0)
        size = zero + width
        given = (self.b_stride, size << 2, self.depth, size, zero)
        codes = code.call(self.pack_b, PACK, source, self.packed_b, *given, self.table_b)
        one = code.constant(self.bytes, 1)
        empty = [code.constant(self.words, 0)] * count

        def add(k: Lanes, *sums: Lanes) -> list[Lanes]:
            return [self._dot(total, one, right) for total, right in zip(sums, self._right(k, count), strict=True)]

        start = [x * self.less_offset for x in code.loop(0, self.groups, 1, empty, add)]

        def rows(i: Lanes, flag: Lanes) -> list[Lanes]:
            return [self._tile(i.smaller_signed(self.rows - ROWS).larger_signed(0), column, start, flag)]

        (flag,) = code.loop(0, self.rows, ROWS, [beyond], rows)
        return [seen | (codes << 8), flag]

    def _tile(self, row: Lanes, column: Lanes, start: list[Lanes], flag: Lanes) -> Lanes:
        """`ROWS` rows of one panel's sums; the flag after them."""
        code, count = self.code, len(start)

        def step(k: Lanes, *sums: Lanes) -> list[Lanes]:
            right = self._right(k, count)
            new = []
            for r in range(ROWS):
                at = (row + r) * self.row_step + k * self.k_step
                left = code.spread(code.load(self.packed_a, at, I32), self.ways.lanes).bits_as(self.bytes)
                new += [self._dot(sums[r * count + v], left, right[v]) for v in range(count)]
            return new

        sums = code.loop(0, self.groups, 1, start * ROWS, step)
        for n, total in enumerate(sums):
            at = (row + n // count) * self.columns + column + (n % count) * self.ways.lanes
            if self.out == "float32":
                flag = flag | ((total + (1 << 24)) > 1 << 25)
                total = total.to_float(F32) * self.factor
            code.store(total, self.sums, at)
        return flag

    def _right(self, k: Lanes, count: int) -> list[Lanes]:
        """One group of four of a panel's columns."""
        size = 4 * self.ways.lanes
        return [self.code.load(self.packed_b, k * (count * size) + v * size, self.bytes) for v in range(count)]

    def _dot(self, total: Lanes, unsigned: Lanes, signed: Lanes) -> Lanes:
        """Four products added to each of the lanes."""
        operands = (x.bits_as(self.words) for x in (unsigned, signed))
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.ways.lanes}"
        return self.code.intrinsic(name, self.words, total, *operands)
