"""The output-stationary systolic array."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import ArrayFeedSignature, result_layout
from halfulp.hw.operand import OperandDecoder, format_number_bits
from halfulp.hw.pe import ProcessingElement, control_layout, processing_element
from halfulp.numerics.formats import Format

__all__ = ["SystolicArray", "first_capture", "minimum_tile_interval"]


def first_capture(config: ArrayConfig) -> int:
    """Clocks from a tile's last step at the feed to the clock at whose end PE(0, 0) captures its sum.

    One for the register at the edge, then the PE's own. PE(i, j) captures i + j clocks later.
    """
    return 1 + processing_element(config).latency_of(config)


def minimum_tile_interval(config: ArrayConfig, rows: int) -> int:
    """Clocks that a tile's last step is at least behind that of the tile before, which had `rows` valid rows.

    Tiles of as many steps follow each other without a gap, where results leave fast enough: the last sum of a tile is
    captured R + C - 2 clocks after its first, and then one row a clock moves out of the array.
    """
    return config.rows + config.columns - 2 + max(rows, first_capture(config) + 1)


class SystolicArray(wiring.Component):
    """R × C processing elements; a step of K a clock, no stall.

    Operands enter as codes at the left (A) and upper (B) edge, are decoded there behind one register, and move one PE
    a clock to the right and down. Each PE keeps one output. Finished sums are captured into result registers, which
    shift up, a row a clock, while the next tile computes.

    Members
    -------
    feed : In(ArrayFeedSignature(config))
    shift : In(1)
        1: result row r takes row r + 1. PEs that capture a sum in that clock keep to it.
    top : Out(ArrayLayout(result_layout(config), columns))
        The result registers of row 0.
    captured : Out(1)
        1 in the clock at whose end PE(R-1, C-1) captures its sum: from the next clock on the whole tile can be read.
        That is `latency` clocks after the tile's last step was at the feed.
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
        return self.first_capture + self.config.rows + self.config.columns - 2

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        rows, columns = self.config.rows, self.config.columns
        kind = processing_element(self.config)
        grid: list[list[ProcessingElement]] = []
        for i in range(rows):
            grid.append([kind(config=self.config) for _ in range(columns)])
            for j, pe in enumerate(grid[i]):
                m.submodules[f"pe_{i}_{j}"] = pe

        control: Any = Signal(control_layout(), name="control_at_feed")
        m.d.comb += [control[name].eq(getattr(self.feed, name)) for name in control.shape().members]
        for i in range(rows):
            # The flags walk down the left edge and from there to the right, so PE(i, j) sees them i + j clocks later.
            stage: Any = Signal(control_layout(), name=f"control_{i}")
            m.d.sync += stage.eq(control)
            control = stage
            m.d.comb += grid[i][0].control.eq(stage)
            for j in range(columns):
                pe = grid[i][j]
                m.d.comb += pe.shift.eq(self.shift)
                if j:
                    m.d.comb += [pe.a.eq(grid[i][j - 1].a_out), pe.control.eq(grid[i][j - 1].control_out)]
                if i:
                    m.d.comb += [pe.b.eq(grid[i - 1][j].b_out), grid[i - 1][j].below.eq(pe.result)]

        left = [grid[i][0].a for i in range(rows)]
        above = [grid[0][j].b for j in range(columns)]
        self._decode_edge(m, "a", self.config.a_formats, self.feed.a_code, self.feed.a_format, left)
        self._decode_edge(m, "b", self.config.b_formats, self.feed.b_code, self.feed.b_format, above)

        m.d.comb += [self.top[j].eq(grid[0][j].result) for j in range(columns)]
        m.d.comb += self.captured.eq(grid[-1][-1].captured)
        return m

    def _decode_edge(
        self, m: Module, side: str, formats: tuple[Format, ...], codes: Any, number: Any, operands: list[Any]
    ) -> None:
        """Register each code as it enters and decode it behind the register, its format delayed like the step."""
        selected = number[: format_number_bits(formats)]
        for position, operand in enumerate(operands):
            code = Signal.like(codes[position], name=f"{side}_code_{position}", reset_less=True)
            m.d.sync += code.eq(codes[position])
            complement = "negative" not in operand.shape().members
            decoder = OperandDecoder(formats=formats, code_width=len(code), complement=complement)
            m.submodules[f"{side}_decoder_{position}"] = decoder
            m.d.comb += [decoder.code.eq(code), operand.eq(decoder.operand)]
            if len(selected):
                stage = Signal.like(selected, name=f"{side}_format_{position}", reset_less=True)
                m.d.sync += stage.eq(selected)
                m.d.comb += decoder.format.eq(stage)
                selected = stage
