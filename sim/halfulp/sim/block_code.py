"""The kernel of the two-level accumulator of block-scaled operands: exact inside a block, one rounding a block.

A block's products are summed in float32 or float64 lanes, which hold every partial sum exactly (`blocks.proven_parts`
is the range test); scaling the sum is exact too. It is added to the accumulator in float64, made odd where inexact, so
that hundreds of bits between the two do not matter, and rounded as `chain_code` rounds every other accumulator.

Operands lie as A transposed [K, rows] and B [K, columns], rows a multiple of `ROWS`, columns of `COLUMNS`; so do
scales and random words, with a row a block.
"""

from __future__ import annotations

from functools import lru_cache

from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.sim.chain_code import odd_sum, round_odd
from halfulp.sim.llvm import ir
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source
from halfulp.sim.vector_code import F32, F64, I1, I8, I32, I64, Code, Kernel, Lanes, host_features

__all__ = ["COLUMNS", "ROWS", "block_kernel", "scale_kernel"]

ROWS, COLUMNS = 4, 32
"""What numbers of rows and columns are padded to."""


@lru_cache(maxsize=64)
def block_kernel(accumulator: FloatAccumulator, block: int, source: Source, parts: int) -> Kernel:
    """Kernel over A's parts, B, scales of A and of B, row and column words, sums, flag, K, rows, columns.

    With two `parts`, A is the sum of two matrices, one behind the other in memory, each of which gives exact sums.
    Scales and sums are float64. The flag says that a sum was beyond the accumulator's largest number.
    """
    return _Blocks(accumulator, block, source, parts).compile()


class _Blocks:
    def __init__(self, accumulator: FloatAccumulator, block: int, source: Source, parts: int) -> None:
        self.accumulator = accumulator
        self.block = block
        self.parts = parts
        self.lanes = source.lanes
        self.element = F32 if source is FLOAT32 else F64
        self.operands = ir.VectorType(self.element, self.lanes)
        self.totals = ir.VectorType(F64, FLOAT64.lanes)
        # Sums of all parts of a tile stay in registers.
        self.vectors = COLUMNS // parts // self.lanes
        self.code = Code("blocks", "ppppppppiii")

    def compile(self) -> Kernel:
        code = self.code
        flag_at, _, rows, columns = code.arguments[7:]
        width = self.vectors * self.lanes
        never = code.constant(ir.VectorType(I1, FLOAT64.lanes), 0)

        def across(i: Lanes, flag: Lanes) -> list[Lanes]:
            return code.loop(0, columns, width, [flag], lambda j, f: [self._tile(i, j, f)])

        (flag,) = code.loop(0, rows, ROWS, [never], across)
        code.store((flag.bits_as(ir.IntType(FLOAT64.lanes)) > 0).widen(I8), flag_at, 0)
        return code.compile()

    def _tile(self, i: Lanes, j: Lanes, flag: Lanes) -> Lanes:
        """All blocks of one tile of outputs; the flag after them."""
        code = self.code
        sums, _, depth, _, columns = code.arguments[6:]
        zero = code.constant(self.totals, 0.0)
        count = self.vectors * self.lanes // FLOAT64.lanes

        def each(start: Lanes, n: Lanes, *now: Lanes) -> list[Lanes]:
            of_block = self._block_sums(start, i, j)
            totals, flag = self._add(of_block, n, i, j, list(now[:-1]), now[-1])
            return [n + 1, *totals, flag]

        found = code.loop(0, depth, self.block, [code.constant(I64, 0), *[zero] * (count * ROWS), flag], each)
        for v in range(count):
            for r in range(ROWS):
                code.store(found[1 + v * ROWS + r], sums, (i + r) * columns + j + v * FLOAT64.lanes)
        return found[-1]

    def _block_sums(self, start: Lanes, i: Lanes, j: Lanes) -> list[Lanes]:
        """Exact sums of one block, not scaled: [part][vector][row], of the operands' lanes."""
        code = self.code
        a, b, *_, depth, rows, columns = code.arguments
        fma = "fma" in host_features()

        def step(k: Lanes, *now: Lanes) -> list[Lanes]:
            right = [code.load(b, k * columns + j + v * self.lanes, self.operands) for v in range(self.vectors)]
            new = []
            for part in range(self.parts):
                at = (depth * part + k) * rows + i
                left = [code.spread(code.load(a, at + r, self.element), self.lanes) for r in range(ROWS)]
                for v in range(self.vectors):
                    for r in range(ROWS):
                        total = now[len(new)]
                        # Both are exact here; a processor without the one instruction would call a function for it.
                        new.append(code.fma(left[r], right[v], total) if fma else left[r] * right[v] + total)
            return new

        zero = code.constant(self.operands, 0.0)
        stop = (start + self.block).smaller_signed(depth)
        return code.loop(start, stop, 1, [zero] * (self.parts * self.vectors * ROWS), step)

    def _add(
        self, of_block: list[Lanes], n: Lanes, i: Lanes, j: Lanes, totals: list[Lanes], flag: Lanes
    ) -> tuple[list[Lanes], Lanes]:
        """The totals [vector][row] after block n, in float64 lanes, and the flag."""
        code = self.code
        _, _, scales_a, scales_b, row_words, column_words, *_, rows, columns = code.arguments
        random = self.accumulator.rounding
        words = ir.VectorType(I32, FLOAT64.lanes)
        halves = self.lanes // FLOAT64.lanes
        new = []
        for v in range(len(totals) // ROWS):
            at = n * columns + j + v * FLOAT64.lanes
            scale_b = code.load(scales_b, at, self.totals)
            column = code.load(column_words, at, words) if random.is_stochastic else None
            for r in range(ROWS):
                scale = scale_b * code.spread(code.load(scales_a, n * rows + i + r, F64), FLOAT64.lanes)
                terms = []
                for part in range(self.parts):
                    whole = of_block[(part * self.vectors + v // halves) * ROWS + r]
                    first = v % halves * FLOAT64.lanes
                    some = whole.shuffle(whole, range(first, first + FLOAT64.lanes)) if halves > 1 else whole
                    terms.append(some.widen_float(F64) * scale)
                word = None
                if column is not None:
                    row = code.spread(code.load(row_words, n * rows + i + r, I32), FLOAT64.lanes)
                    word = (row ^ column) >> (32 - random.random_bits)
                total, beyond = round_odd(_odd_sum_of(totals[len(new)], terms), self.accumulator, word)
                flag = flag | beyond
                new.append(total)
        return new, flag


@lru_cache(maxsize=1)
def scale_kernel() -> Kernel:
    """Kernel over numbers, in place, the two halves of a factor, and a count that 8 divides.

    The products with both halves must be exact; their sum is made odd where inexact.
    """
    code = Code("scale", "ppi")
    numbers, factor, count = code.arguments
    floats = ir.VectorType(F64, FLOAT64.lanes)
    high, low = (code.spread(code.load(factor, n, F64), FLOAT64.lanes) for n in range(2))

    def body(n: Lanes) -> list[Lanes]:
        x = code.load(numbers, n, floats)
        finite = (x - x).equals(0.0)
        code.store(finite.choose(odd_sum(x * high, x * low, x.fits(I64)), x), numbers, n)
        return []

    code.loop(0, count, FLOAT64.lanes, [], body)
    return code.compile()


def _odd_sum_of(total: Lanes, terms: list[Lanes]) -> Lanes:
    """Total and one or two terms, made odd where inexact.

    Of three numbers: what two exact additions leave over is made odd first, which is finer by far than the last place
    of the sum (Boldo and Melquiond, IEEE TC 57(4), 2008, section 5).
    """
    integers = total.fits(I64)
    if len(terms) == 1:
        return odd_sum(terms[0], total, integers)
    high, low = _two_sum(*terms)
    top, middle = _two_sum(total, high)
    whole = odd_sum(top, odd_sum(middle, low, integers), integers)
    # Of an infinite total, which no error is defined of.
    return (top - top).equals(0.0).choose(whole, top)


def _two_sum(x: Lanes, y: Lanes) -> tuple[Lanes, Lanes]:
    """The rounded sum, and its error, exactly (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)
