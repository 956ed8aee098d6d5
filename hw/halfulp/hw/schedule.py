"""In which order one GEMM is loaded and computed: the software answer to `Planner`, `Loader` and `Sequencer`.

Terms. C is cut in tiles of R×C. A *panel* is what a tile needs of one operand: R rows of A or C columns of B, over
all K. It lies in a *slot* of the operand buffer; the slots of a bank form a ring, filled and freed in order. Panels
are loaded in *blocks* of `block_steps` steps of K, so that the array can follow the loader. Where two panels of
each operand do not fit, K is cut in *chunks* of `chunk_steps`, a slot each. A *segment* is the part of a tile that
one slot of each operand holds: the whole of it, or a chunk.

Reuse. One operand is *resident*: A where ceil(M/R) is about at most ceil(N/C), B otherwise. Up to `group` of its
panels stay in the buffer while the panels of the other operand, the *streamed* one, pass by once a group. A group
begins as a growing square: with x resident and y streamed panels,
(x0 y0), (x1 y0), (x0 y1), (x1 y1), (x2 y0), (x2 y1), (x0 y2) …, each tile as soon as its panels can be there, then
column by column. On a slow bus this keeps the array waiting for the fewest loads. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS, ArrayConfig

__all__ = ["MAX_GROUP", "Block", "Burst", "GemmPlan", "OperandPlan", "Segment", "block_steps", "chunk_steps"]

MAX_GROUP = 16
"""Most panels that stay resident: beyond it the other operand's traffic is below a sixteenth of the array's."""

_PAGE = 4096


def block_steps(config: ArrayConfig) -> int:
    """Steps of K a block: 16 bus words of the wider operand, a power of two."""
    return BURST_BEATS * config.bus_bytes // max(config.a_bytes, config.b_bytes)


def chunk_steps(config: ArrayConfig) -> int:
    """Steps of K a chunk: a quarter of a bank of the wider operand, a whole number of blocks."""
    return config.buffer_depth // 4 * config.bus_bytes // max(config.a_bytes, config.b_bytes)


class Burst(NamedTuple):
    """One AXI read burst: byte address (a multiple of the bus word) and beats."""

    address: int
    beats: int


class Block(NamedTuple):
    """One block of a panel: the loader's unit.

    operand: 0 A, 1 B; start: first row (column) of the panel; lanes: rows (columns) loaded; k, steps: its steps;
    slot_words: allocated in the ring before its first line, 0 where the slot is already there; ends_slot: the last
    block of its slot.
    """

    operand: int
    start: int
    lanes: int
    k: int
    steps: int
    slot_words: int
    ends_slot: bool


class Segment(NamedTuple):
    """The steps k … k + steps − 1 of the tile at (row, column), and the slots freed after the last of them."""

    row: int
    column: int
    rows: int
    columns: int
    k: int
    steps: int
    first: bool
    last: bool
    free_a: bool
    free_b: bool
    last_of_gemm: bool


@dataclass(frozen=True, kw_only=True)
class OperandPlan:
    """One operand of a GEMM as it lies in memory.

    size: M or N; lanes: R or C; element_bytes: of its container; bus_bytes: of a bus word.
    """

    address: int
    stride: int
    across_k: bool
    size: int
    lanes: int
    element_bytes: int
    bus_bytes: int

    @property
    def word_elements(self) -> int:
        """Elements a bus word."""
        return self.bus_bytes // self.element_bytes

    @property
    def slack(self) -> int:
        """Elements by which a row may begin after its bus word's start: 0 where all rows surely begin on one."""
        if self.across_k or (self.address % self.bus_bytes == 0 and self.stride % self.bus_bytes == 0):
            return 0
        return self.word_elements - 1

    def words(self, steps: int) -> int:
        """Bus words of a bank that `steps` steps of any row may take."""
        return -(-(steps + self.slack) // self.word_elements)

    def lines(self, block: Block) -> Iterator[Burst]:
        """What a block reads: one contiguous line a row, or a step where the layout is across K. Not yet cut.

        Of a row the blocks of a slot are whole words, the last one takes the rest.
        """
        if self.across_k:
            for k in range(block.k, block.k + block.steps):
                yield self._line(self.address + k * self.stride + block.start * self.element_bytes, block.lanes)
            return
        for row in range(block.start, block.start + block.lanes):
            address = self.address + row * self.stride + block.k * self.element_bytes
            offset = address % self.bus_bytes // self.element_bytes
            yield self._line(address, block.steps if block.ends_slot else block.steps - offset)

    def _line(self, address: int, elements: int) -> Burst:
        start = address - address % self.bus_bytes
        return Burst(start, -(-(address - start + elements * self.element_bytes) // self.bus_bytes))

    def cut(self, line: Burst) -> Iterator[Burst]:
        """The bursts of a line: at most 16 beats, none across a 4 KiB boundary."""
        address, beats = line
        while beats:
            burst = min(beats, BURST_BEATS, (_PAGE - address % _PAGE) // self.bus_bytes)
            yield Burst(address, burst)
            address += burst * self.bus_bytes
            beats -= burst


@dataclass(frozen=True, kw_only=True)
class GemmPlan:
    """What a core makes of one GEMM: slot sizes, residence, and the order of loads and tiles.

    Parameters are those of the descriptor registers: byte addresses and strides, M, N, K.
    """

    config: ArrayConfig
    m: int
    n: int
    k: int
    a_address: int = 0
    b_address: int = 0
    a_stride: int = 0
    b_stride: int = 0
    a_across_k: bool = False
    b_across_k: bool = False

    @cached_property
    def operands(self) -> tuple[OperandPlan, OperandPlan]:
        """A and B."""
        config = self.config
        return (
            OperandPlan(
                address=self.a_address,
                stride=self.a_stride,
                across_k=self.a_across_k,
                size=self.m,
                lanes=config.rows,
                element_bytes=config.a_bytes,
                bus_bytes=config.bus_bytes,
            ),
            OperandPlan(
                address=self.b_address,
                stride=self.b_stride,
                across_k=self.b_across_k,
                size=self.n,
                lanes=config.columns,
                element_bytes=config.b_bytes,
                bus_bytes=config.bus_bytes,
            ),
        )

    @cached_property
    def chunked(self) -> bool:
        """Whether K is cut in chunks: two slots of the whole of it do not fit."""
        return max(operand.words(self.k) for operand in self.operands) > self.config.buffer_depth // 2

    @cached_property
    def segment_steps(self) -> int:
        """Steps of K a slot."""
        return chunk_steps(self.config) if self.chunked else self.k

    @cached_property
    def slot_words(self) -> tuple[int, int]:
        """Words a slot of A and of B."""
        a, b = self.operands
        return a.words(self.segment_steps), b.words(self.segment_steps)

    @cached_property
    def group(self) -> int:
        """Most panels of the resident operand that stay in the buffer."""
        return 1 if self.chunked else min(MAX_GROUP, self.config.buffer_depth // max(self.slot_words))

    @cached_property
    def resident(self) -> int:
        """The operand whose panels stay: 0 A, 1 B."""
        return int(self.m * self.config.columns > self.n * self.config.rows)

    def groups(self) -> Iterator[tuple[int, int]]:
        """First panel and number of panels of each group. The last two share what is left about evenly."""
        operand = self.operands[self.resident]
        panels, start = -(-operand.size // operand.lanes), 0
        while start < panels:
            left = operand.size - start * operand.lanes
            full = self.group * operand.lanes
            size = self.group // 2 + 1 if full < left <= full + full // 2 else self.group
            size = min(size, panels - start)
            yield start, size
            start += size

    def tiles(self) -> Iterator[tuple[int, int, bool, bool]]:
        """Resident and streamed panel of each tile in order, and whether its group needs each of them no more."""
        streamed = self.operands[1 - self.resident]
        columns = -(-streamed.size // streamed.lanes)
        for start, size in self.groups():
            for y in range(columns):
                for x in range(min(y, size - 1) + 1):
                    yield start + x, y, y == columns - 1, x == size - 1
                if y < size - 1:
                    for column in range(y + 1):
                        yield start + y + 1, column, column == columns - 1, y + 1 == size - 1
            for x in range(columns + 1, size):
                for y in range(columns):
                    yield start + x, y, y == columns - 1, x == size - 1

    def segments(self) -> Iterator[Segment]:
        """All segments in the order in which they enter the array."""
        a, b = self.operands
        tiles = list(self.tiles())
        for number, (x, y, free_x, free_y) in enumerate(tiles):
            row, column = (y * a.lanes, x * b.lanes) if self.resident else (x * a.lanes, y * b.lanes)
            free_a, free_b = (free_y, free_x) if self.resident else (free_x, free_y)
            for k in range(0, self.k, self.segment_steps):
                steps = min(self.segment_steps, self.k - k)
                yield Segment(
                    row=row,
                    column=column,
                    rows=min(a.lanes, self.m - row),
                    columns=min(b.lanes, self.n - column),
                    k=k,
                    steps=steps,
                    first=k == 0,
                    last=k + steps == self.k,
                    free_a=free_a or self.chunked,
                    free_b=free_b or self.chunked,
                    last_of_gemm=number == len(tiles) - 1,
                )

    def units(self) -> Iterator[tuple[int | None, int | None]]:
        """Panels as they are loaded: (resident, streamed), taking turns by blocks, A first; or one of them."""
        streamed = self.operands[1 - self.resident]
        columns = -(-streamed.size // streamed.lanes)
        for start, size in self.groups():
            if self.chunked:
                yield from ((start, y) for y in range(columns))
                continue
            yield start, 0
            for i in range(1, max(size, columns)):
                if i < size:
                    yield start + i, None
                if i < columns:
                    yield None, i

    def blocks(self) -> Iterator[Block]:
        """All blocks in the order of loading."""
        steps, segment = block_steps(self.config), self.segment_steps
        for x, y in self.units():
            panels = (y, x) if self.resident else (x, y)
            for k in range(0, self.k, steps):
                for number, panel in enumerate(panels):
                    if panel is not None:
                        operand = self.operands[number]
                        start = panel * operand.lanes
                        yield Block(
                            operand=number,
                            start=start,
                            lanes=min(operand.lanes, operand.size - start),
                            k=k,
                            steps=min(steps, self.k - k),
                            slot_words=self.slot_words[number] if k % segment == 0 else 0,
                            ends_slot=k + steps >= self.k or (k + steps) % segment == 0,
                        )

    def bursts(self) -> Iterator[Burst]:
        """All read bursts in the order of their addresses on the bus."""
        for block in self.blocks():
            operand = self.operands[block.operand]
            for line in operand.lines(block):
                yield from operand.cut(line)
