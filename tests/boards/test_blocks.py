"""Blocks by themselves: what is asked of the tools for each, and that the harness hides no path of the block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from halfulp.boards import blocks
from halfulp.boards.blocks import BLOCKS, block_figures
from halfulp.boards.board import BOARDS
from halfulp.boards.place import Placement
from halfulp.boards.source import ShiftHarness, component_verilog, without_cleared_memories
from halfulp.boards.synthesis import FAMILIES, Area, synthesise
from halfulp.hw.config import ArrayConfig

from .fake_tools import FakeTools

CONFIG = ArrayConfig(rows=2, columns=2, lanes=1, a_formats="int8", b_formats="int8", out_formats="int8")


class Adder(wiring.Component):
    """Two sums, one of them registered."""

    a: Signal
    b: Signal
    now: Signal
    later: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(3), "b": In(2), "now": Out(4), "later": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.now.eq(self.a + self.b)
        m.d.sync += self.later.eq(self.a + self.b)
        return m


def test_the_harness_sets_every_input_and_shows_every_output(rng: Any):
    harness = ShiftHarness(block=Adder())
    bits = [int(bit) for bit in rng.integers(0, 2, 200)]

    def model() -> list[int]:
        # Inputs are a chain a, b; outputs are caught, then held in a chain that begins at the inputs' end.
        inputs, load, later = 0, 0, 0
        caught, held, out = [0] * 8, [0] * 8, []
        for bit in bits:
            out.append(held[-1])
            a, b = inputs & 7, inputs >> 3
            total = a + b
            shifted = [inputs >> 4 & 1, *held[:-1]]
            held = [new if load else old for new, old in zip(caught, shifted, strict=True)]
            caught = [total >> i & 1 for i in range(4)] + [later >> i & 1 for i in range(4)]
            inputs, load, later = (inputs << 1 | bit) & 31, bit, total
        return out

    seen: list[int] = []

    async def testbench(ctx: Any) -> None:
        for bit in bits:
            ctx.set(harness.rx, bit)
            seen.append(ctx.get(harness.tx))
            await ctx.tick()

    simulator = Simulator(harness)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert seen == model()
    assert len(set(seen)) == 2


def test_equal_blocks_are_one_module():
    class Pair(wiring.Component):
        a: Signal

        def __init__(self) -> None:
            super().__init__({"a": In(3), "now": Out(4), "later": Out(4)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            adders = Adder(), Adder()
            for name, adder in zip(("now", "later"), adders, strict=True):
                m.submodules[name] = adder
                m.d.comb += [adder.a.eq(self.a), adder.b.eq(2), getattr(self, name).eq(adder.now)]
            return m

    text = component_verilog(Pair(), name="pair")
    assert text.count("\nendmodule") == 3  # the top, the pair, and one adder for both
    top = text[: text.index(";")]
    assert {"clk", "rst", "a", "now", "later"} <= set(top.replace("(", " ").replace(")", " ").replace(",", " ").split())


def test_only_memories_of_zeros_lose_their_content():
    zeros = "  initial begin\n    storage[0] = 8'h00;\n    storage[1] = 8'h00;\n  end\n"
    table = "  initial begin\n    table [0] = 8'h00;\n    table [1] = 8'h0a;\n  end\n"
    assert without_cleared_memories(f"a\n{zeros}b\n{table}c\n") == f"a\nb\n{table}c\n"


def test_each_block_is_synthesised_and_those_larger_than_an_element_placed(
    tools: FakeTools, monkeypatch: pytest.MonkeyPatch
):
    texts: list[tuple[str, bool]] = []

    def verilog(config: ArrayConfig, name: str, *, in_harness: bool) -> str:
        texts.append((name, in_harness))
        return f"// {name} {in_harness}\n"

    monkeypatch.setattr(blocks, "_verilog", verilog)
    stages: list[str] = []
    figures = block_figures(CONFIG, BOARDS.get("ulx3s"), progress=stages.append)
    assert [figure.name for figure in figures] == list(BLOCKS)
    assert [figure.fmax is None for figure in figures] == [False, False, True, True]
    # The report's 100 MHz of 50 that were asked for are twice what was aimed at.
    assert figures[0].fmax == pytest.approx(2 * blocks.AIM)
    assert figures[0].area == Area(540, 300, 4, 8)
    assert set(texts) == {(name, False) for name in BLOCKS} | {("core", True), ("array", True)}
    calls = tools.calls()
    assert calls.count("YOSYS") == 10
    assert calls.count("NEXTPNR_ECP5") == 1  # the fake Yosys makes one netlist of all
    assert "ECPPACK" not in calls
    assert stages[0] == "synthesising the core"
    block_figures(CONFIG, BOARDS.get("ulx3s"))
    assert tools.calls() == []
    packed = block_figures(CONFIG.replace(pack_multipliers=True), BOARDS.get("ulx3s"))
    assert [figure.name for figure in packed] == list(BLOCKS[:3])


@pytest.mark.parametrize(
    ("board", "constraints"),
    [
        ("ulx3s", 'LOCATE COMP "clk" SITE "G2";\n'),
        ("ecpix5-85f", 'LOCATE COMP "clk" SITE "K23";\n'),
        ("ice40-hx8k", ""),
    ],
)
def test_a_block_of_an_ecp5_has_the_boards_clock_pin(
    board: str, constraints: str, tools: FakeTools, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def place(*args: Any, constraints: str, **kwargs: Any) -> Placement:
        asked.append(constraints)
        return Placement(folder=Path(), fmax=1.0, use={}, critical_path=[])

    monkeypatch.setattr(blocks, "place_and_route", place)
    monkeypatch.setattr(blocks, "_verilog", lambda config, name, *, in_harness: f"// {name} {in_harness}\n")
    blocks.block_clock(CONFIG, "core", BOARDS.get(board))
    assert asked == [constraints]


def test_blocks_are_generated_for_real(tools: FakeTools):
    text = blocks._verilog(CONFIG, "processing element", in_harness=False)
    assert "module block" in text
    harness = blocks._verilog(CONFIG, "array", in_harness=True)
    assert harness.count("pe_") >= CONFIG.rows * CONFIG.columns


def test_an_element_that_keeps_its_results_lacks_a_table_a_bit():
    """Registers, adder and multiplier are all there: what is gone is what chooses the result register's input."""
    whole, keeping = (blocks.block_area(CONFIG, name, family="ecp5", dsps=156) for name in BLOCKS[2:])
    assert (keeping.flip_flops, keeping.dsps) == (whole.flip_flops, whole.dsps) == (whole.flip_flops, 1)
    assert whole.luts - keeping.luts in (CONFIG.accumulator_bits, CONFIG.accumulator_bits + 1)


@pytest.mark.parametrize(
    ("family", "cells", "area"),
    [
        ("ecp5", {"LUT4": 7, "CCU2C": 2, "TRELLIS_FF": 5, "MULT18X18D": 1, "DP16KD": 3, "PFUMX": 9}, Area(11, 5, 1, 3)),
        ("gw1n", {"LUT1": 1, "LUT4": 2, "ALU": 3, "DFFRE": 4, "MULT9X9": 2, "SDPB": 5, "SDPX9B": 1}, Area(6, 4, 1, 6)),
        ("xc7", {"LUT6": 4, "LUT2": 1, "FDRE": 9, "DSP48E1": 1, "RAMB18E1": 3, "RAMB36E1": 1}, Area(5, 9, 1, 2.5)),
        ("ice40-up", {"SB_LUT4": 4, "SB_DFFESR": 2, "SB_MAC16": 1, "SB_RAM40_4K": 2, "SB_CARRY": 7}, Area(4, 2, 1, 2)),
    ],
)
def test_cells_are_counted_as_the_data_sheet_counts(family: str, cells: dict[str, int], area: Area):
    assert FAMILIES[family].area(cells) == area


def test_what_yosys_is_told(tools: FakeTools, tmp_path: Any):
    text = "module \\top.pe_0_0 (a);\nendmodule\nmodule top(a);\nendmodule\n"

    def script(family: str = "ecp5", **options: Any) -> list[str]:
        made = synthesise({"top.v": text}, top="top", family=family, what="a test", **options)
        return (made.netlist.parent / "synthesis.ys").read_text().splitlines()

    plain = script()
    first, last = (
        plain.index(f"synth_ecp5 -nowidelut -no-rw-check -top top -run {steps}") for steps in (":map_luts", "map_luts:")
    )
    # Names that ABC9 would misread are gone before it runs.
    assert plain[first : last + 1][1:-1] == [r"rename -hide w:*\[*"]
    assert "synth_ecp5 -nowidelut -no-rw-check -nodsp -top top -run :map_luts" in script(multipliers="luts")
    booth = script(multipliers="booth")
    assert booth.index("booth") < booth.index("synth_ecp5 -nowidelut -no-rw-check -nodsp -top top -run :map_luts")
    shared = script(share_elements=True)
    assert r"setattr -mod -set keep_hierarchy 1 \top.pe_0_0" in shared
    assert shared.index("flatten") > shared.index("synth_ecp5 -nowidelut -no-rw-check -top top -run map_luts:")
    assert "flatten" not in script()
    up, up_luts, hx = script("ice40-up"), script("ice40-up", multipliers="luts"), script("ice40-hx")
    for lines, options in (
        (up, "-device u -no-rw-check -dsp"),
        (up_luts, "-device u -no-rw-check"),
        (hx, "-device hx"),
    ):
        # Before its flip-flops are mapped, those lose the enables and resets that few of them share.
        before = next(i for i, line in enumerate(lines) if line.startswith(f"synth_ice40 {options}"))
        assert lines[before].endswith("-top top -run begin:map_ffs")
        assert lines[before + 1].startswith("dfflegalize ")
        assert lines[before + 1].endswith(" -mince 4 -minsrst 4")
        assert lines[before + 2] == lines[before].replace("begin:map_ffs", "map_ffs:")
    assert not any("-dsp" in line for line in up_luts)
    with pytest.raises(ValueError, match="unknown kind of multipliers 'dsp'; nearest: 'dsps'"):
        script(multipliers="dsp")
