"""The output-stationary systolic array."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import ArrayFeedSignature, result_layout
from halfulp.hw.operand import OperandDecoder, format_number_bits, operand_layout
from halfulp.hw.operand_normaliser import OperandNormaliser
from halfulp.hw.operand_shift import shift_finely
from halfulp.hw.packed_pe import pack
from halfulp.hw.pe import ProcessingElement, control_layout, has_common_units
from halfulp.hw.processing_elements import processing_element
from halfulp.hw.word_generator import WordGenerator
from halfulp.numerics.formats import Format

__all__ = ["SystolicArray", "first_capture", "last_capture", "minimum_tile_interval"]


def first_capture(config: ArrayConfig) -> int:
    """Clocks from a tile's last step at the feed to the clock at whose end PE(0, 0) captures its sum.

    One for the register at the edge, then the PE's own. That of row i and column j is captured i + j clocks later.
    Where rows 2i and 2i + 1 share multipliers, both are captured when row 2i + 1 would be.
    """
    return 1 + processing_element(config).latency_of(config)


def last_capture(config: ArrayConfig) -> int:
    """Clocks from a tile's last step at the feed to the clock at whose end its last sum is captured."""
    return first_capture(config) + config.rows + config.columns - 2


def minimum_tile_interval(config: ArrayConfig, rows: int) -> int:
    """Clocks that a tile's last step is at least behind that of the tile before, which had `rows` valid rows.

    Tiles of as many steps follow each other without a gap, where results leave fast enough: the last sum of a tile is
    captured R + C - 2 clocks after its first, and then one row a clock moves out of the array. Interleaved, it is a
    whole number of steps.
    """
    clocks = config.rows + config.columns - 2 + max(rows, first_capture(config))
    return -(-clocks // config.interleave) * config.interleave


class SystolicArray(wiring.Component):
    """R × C outputs; a step of K a clock, or every P clocks with P outputs a processing element; no stall.

    Operands enter as codes at the left (A) and upper (B) edge, are decoded there behind one register, and move one PE
    a clock to the right and down. Each PE keeps one output. Finished sums are captured into result registers, which
    shift up, a row a clock, while the next tile computes.

    Interleaved P times, there are R/P rows of PEs, of which row r computes the tile's rows rP to rP + P - 1: their
    operands come in as many consecutive clocks, for each row's is a clock behind that of the row before, while the
    columns' operands stay and move down after P clocks. Sums are captured in the same clocks as without. Results are R
    rows for all that reads them.

    With `pack_multipliers` there are R/2 rows of PEs, each of two rows of the tile: the upper one's operands wait a
    clock for the lower one's, so that both meet the column's operand at once. A tile's last sum is captured in the same
    clock as without.

    Members
    -------
    feed : In(ArrayFeedSignature(config))
    shift : In(1)
        1: result row r takes row r + 1. Registers that capture a sum in that clock keep to it.
    top : Out(ArrayLayout(result_layout(config), columns))
        The result registers of row 0.
    captured : Out(1)
        1 in the clock at whose end the sum of row R-1, column C-1 is captured: from the next clock on the whole tile
        can be read. That is `latency` clocks after the tile's last step was at the feed.
    """

    feed: Any
    shift: Signal
    top: data.View[data.ArrayLayout]
    captured: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        if not isinstance(config, ArrayConfig):
            raise TypeError(f"config must be an ArrayConfig, not {config!r}")
        self.config = config
        super().__init__(
            {
                "feed": In(ArrayFeedSignature(config)),
                "shift": In(1),
                "top": Out(data.ArrayLayout(result_layout(config), config.columns)),
                "captured": Out(1),
            }
        )

    @property
    def first_capture(self) -> int:
        """Clocks from a tile's last step at the feed to the clock at whose end PE(0, 0) captures its sum."""
        return first_capture(self.config)

    @property
    def latency(self) -> int:
        """Clocks from a tile's last step at the feed to the clock in which `captured` is 1."""
        return last_capture(self.config)

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        rows, columns = self.config.rows // self.config.rows_per_element, self.config.columns
        kind = processing_element(self.config)
        grid: list[list[ProcessingElement]] = []
        for i in range(rows):
            grid.append([kind(config=self.config) for _ in range(columns)])
            for j, pe in enumerate(grid[i]):
                m.submodules[f"pe_{i}_{j}"] = pe

        slot, starts, control = self._step_at_feed(m)
        stages: list[Any] = []
        count = self.config.rows if self.config.pack_multipliers else rows
        for i in range(count + 1 if self.config.step_random_bits else count):
            # The flags walk down the left edge and from there to the right, so PE(i, j) sees them as many clocks later
            # as its first output's row and column number.
            stage: Any = Signal(control_layout(self.config), name=f"control_{i}")
            with m.If(starts):
                m.d.sync += stage.eq(control)
            if "start" in stage.shape().members:
                m.d.sync += stage.start.eq(starts)
            stages.append(stage)
            control = stage
        if self.config.pack_multipliers:
            stages = stages[1::2]
        for i in range(rows):
            m.d.comb += grid[i][0].control.eq(stages[i])
            for j in range(columns):
                pe = grid[i][j]
                m.d.comb += pe.shift.eq(self.shift)
                if j:
                    m.d.comb += [pe.a.eq(grid[i][j - 1].a_out), pe.control.eq(grid[i][j - 1].control_out)]
                if i:
                    m.d.comb += [pe.b.eq(grid[i - 1][j].b_out), grid[i - 1][j].below.eq(pe.result)]

        left = self._left_edge(m, grid)
        above = [grid[0][j].b for j in range(columns)]
        codes = [self._in_turn(m, f"a_{i}", slot, i) for i in range(len(left))]
        a_scale, b_scale = self._scales_at_edges(grid)
        a_format = self._held(m, "a_format", starts)
        self._decode_edge(m, "a", self.config.a_formats, codes, a_format, starts, left, a_scale)
        b_codes = [self.feed.b_code[j] for j in range(columns)]
        self._decode_edge(m, "b", self.config.b_formats, b_codes, self.feed.b_format, Const(1), above, b_scale)
        if self.config.step_random_bits:
            self._generate_words(m, grid, stages)

        m.d.comb += [self.top[j].eq(grid[0][j].result) for j in range(columns)]
        m.d.comb += self.captured.eq(grid[-1][-1].captured)
        return m

    def _left_edge(self, m: Module, grid: list[list[ProcessingElement]]) -> list[Any]:
        """Where decoded operands of A go: into the first column, those of two rows packed where they share it."""
        if not self.config.pack_multipliers:
            return [row[0].a for row in grid]
        layout = operand_layout(self.config.a_formats, complement=True)
        decoded: list[Any] = [Signal(layout, name=f"a_decoded_{i}") for i in range(self.config.rows)]
        for row, upper, lower in zip(grid, decoded[::2], decoded[1::2], strict=True):
            # The lower row's operand is a clock behind, by which time b has come down to it.
            waiting: Any = Signal(layout, name="a_waiting", reset_less=True)
            m.d.sync += waiting.eq(upper)
            m.d.comb += row[0].a["packed"].eq(pack(self.config, waiting["significand"], lower["significand"]))
        return decoded

    def _step_at_feed(self, m: Module) -> tuple[Value, Value, Value]:
        """Which of a step's clocks this is, whether it is the first, and the flags of the step in it."""
        control: Any = Signal(control_layout(self.config), name="control_at_feed")
        m.d.comb += [
            control.valid.eq(self.feed.valid),
            control.first.eq(self.feed.valid & self.feed.first),
            control.last.eq(self.feed.valid & self.feed.last),
        ]
        if self.config.block:
            self._mark_scales(m, control)
        if self.config.interleave == 1:
            return Const(0, 0), Const(1), control
        count = Signal(range(self.config.interleave))
        slot = Signal.like(count, name="slot")
        m.d.comb += slot.eq(Mux(self.feed.valid, 0, count))
        m.d.sync += count.eq(Mux(slot == self.config.interleave - 1, 0, slot + 1))
        return slot, slot == 0, control

    def _mark_scales(self, m: Module, control: Any) -> None:
        """Count the steps of a block: its scales, then its elements, which may be fewer in a tile's last block."""
        count = Signal(range(self.config.block + 1), name="place_in_block")
        place = Signal.like(count, name="place_at_feed")
        is_full = place == self.config.block
        m.d.comb += [
            place.eq(Mux(self.feed.first, 0, count)),
            control.scale.eq(place == 0),
            control.ends.eq(is_full | self.feed.last),
        ]
        with m.If(self.feed.valid):
            m.d.sync += count.eq(Mux(is_full, 0, place + 1))

    def _scales_at_edges(self, grid: list[list[ProcessingElement]]) -> tuple[list[Value], list[Value]]:
        """Whether a scale enters each row, and each column; nothing where operands are plain."""
        if not self.config.block:
            return [], []
        return [row[0].control["scale"] for row in grid], [pe.control["scale"] for pe in grid[0]]

    def _held(self, m: Module, name: str, starts: Value) -> Value:
        """A member of the feed, as it was in the first clock of the present step."""
        if self.config.interleave == 1:
            return getattr(self.feed, name)
        given = getattr(self.feed, name)
        held = Signal.like(given, name=f"{name}_held", reset_less=True)
        with m.If(starts):
            m.d.sync += held.eq(given)
        return Mux(starts, given, held)

    def _in_turn(self, m: Module, name: str, slot: Value, row: int) -> Value:
        """The code of the tile's row whose turn it is in a row of PEs."""
        outputs = self.config.interleave
        codes = [self.feed.a_code[row * outputs + number] for number in range(outputs)]
        if outputs == 1:
            return codes[0]
        code = Signal.like(codes[0], name=f"{name}_in_turn")
        with m.Switch(slot):
            for number, each in enumerate(codes):
                with m.Case(number):
                    m.d.comb += code.eq(each)
        return code

    def _decode_edge(
        self,
        m: Module,
        side: str,
        formats: tuple[Format, ...],
        codes: list[Value],
        number: Value,
        moves: Value,
        operands: list[Any],
        scales: list[Value],
    ) -> None:
        """Register each code as it enters and decode it behind the register, its format delayed like the step."""
        selected = number[: format_number_bits(formats)]
        for position, operand in enumerate(operands):
            code = Signal.like(codes[position], name=f"{side}_code_{position}", reset_less=True)
            m.d.sync += code.eq(codes[position])
            complement = "negative" not in operand.shape().members and not self.config.shift_in_multipliers
            decoder = OperandDecoder(
                formats=formats, code_width=len(code), complement=complement, common=has_common_units(self.config)
            )
            m.submodules[f"{side}_decoder_{position}"] = decoder
            m.d.comb += decoder.code.eq(code)
            if "exponent" in operand.shape().members:
                normaliser = OperandNormaliser(formats=formats)
                m.submodules[f"{side}_normaliser_{position}"] = normaliser
                m.d.comb += [normaliser.operand.eq(decoder.operand), operand.eq(normaliser.normalised)]
            elif self.config.shift_in_multipliers:
                shift_finely(m, decoder.operand, operand)
            elif scales:
                m.d.comb += operand.as_value().eq(Mux(scales[position], code[:8], decoder.operand.as_value()))
            else:
                m.d.comb += operand.eq(decoder.operand)
            if len(selected):
                stage = Signal.like(selected, name=f"{side}_format_{position}", reset_less=True)
                with m.If(moves):
                    m.d.sync += stage.eq(selected)
                m.d.comb += decoder.format.eq(stage)
                selected = stage

    def _rounds(self, stage: Any) -> Value:
        """Whether a step, or the block that begins with it, takes a random word."""
        return stage.valid & stage.scale if self.config.block else stage.valid

    def _generate_words(self, m: Module, grid: list[list[ProcessingElement]], stages: list[Any]) -> None:
        """The random words of each row and column, as many clocks behind its operands as a step takes.

        That is when the flags are at the next row of PEs.
        """
        config, outputs, seed = self.config, self.config.interleave, self.feed.seed
        for i, row in enumerate(grid):
            generator = WordGenerator(words=outputs, bits=config.step_random_bits)
            m.submodules[f"row_words_{i}"] = generator
            m.d.comb += [
                generator.valid.eq(self._rounds(stages[i + 1])),
                generator.first.eq(stages[i + 1].first),
                generator.word.eq(seed.word),
                *(
                    generator.load[number].eq(seed.valid & (seed.index == i * outputs + number))
                    for number in range(outputs)
                ),
                row[0].row_word.eq(generator.random),
            ]
            for before, after in itertools.pairwise(row):
                m.d.comb += after.row_word.eq(before.row_word_out)
        step: Value = Cat(self._rounds(stages[1]), stages[1].first)
        if outputs > 1:
            step = Cat(stages[1].valid & stages[1].start, stages[1].first)
        for j, pe in enumerate(grid[0]):
            generator = WordGenerator(words=1, bits=config.step_random_bits)
            m.submodules[f"column_words_{j}"] = generator
            m.d.comb += [
                generator.valid.eq(step[0]),
                generator.first.eq(step[1]),
                generator.word.eq(seed.word),
                generator.load[0].eq(seed.valid & (seed.index == config.rows + j)),
                pe.column_word.eq(generator.random),
            ]
            later = Signal(2, name=f"step_{j + 1}")
            m.d.sync += later.eq(step)
            step = later
            for above, under in itertools.pairwise(grid):
                m.d.comb += under[j].column_word.eq(above[j].column_word_out)
