"""Builds with open tools: which tools run on what, what is taken from the cache, and what is refused.

The tools are stand-ins here; `test_bitstream.py` runs the real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfulp.boards.board import BOARDS, Board
from halfulp.boards.open_build import (
    ResourceError,
    build_open,
    build_report,
    design_parameters,
    multipliers_for,
    save_build,
    serial_design,
)
from halfulp.boards.place import TOOLCHAINS
from halfulp.boards.programs import ProgramError
from halfulp.hw.config import ArrayConfig

from .fake_tools import FakeTools

CONFIG = ArrayConfig(rows=2, columns=2, lanes=1, a_formats="int8", b_formats="int8", out_formats="int8")
OPEN = [board.name for board in BOARDS.members() if board.serial is not None]
FPGA = {
    "ulx3s": ("clk25_0__io", "G2", "M1", "L4"),
    "orangecrab": ("clk_0__io", "A9", "N17", "M18"),
    "orangecrab-85f": ("clk_0__io", "A9", "N17", "M18"),
    "ecpix5-45f": ("clk100_0__io", "K23", "R26", "R24"),
    "ecpix5-85f": ("clk100_0__io", "K23", "R26", "R24"),
    "icebreaker": ("clk12_0__io", "35", "6", "9"),
    "ice40-hx8k": ("clk12_0__io", "J3", "B10", "B12"),
    "tang-nano-9k": ("clk27_0__io", "52", "18", "17"),
    "tang-nano-20k": ("clk27_0__io", "4", "70", "69"),
}
"""Clock's port and pin, and the serial pins, from the boards' schematics."""


CELLS: dict[str, Callable[[int, int], dict[str, int]]] = {
    "ice40-hx8k": lambda luts, flip_flops: {"SB_LUT4": luts, "SB_DFF": flip_flops},
    "tang-nano-9k": lambda luts, flip_flops: {"LUT4": luts, "DFF": flip_flops},
}
"""Cells that Yosys names so, by board."""


@pytest.fixture
def no_design(monkeypatch: pytest.MonkeyPatch) -> None:
    """A design that takes no time to generate, and says what it was asked for."""
    monkeypatch.setattr(
        "halfulp.boards.open_build.serial_design", lambda config, **design: f"// {config.name} {design}\n"
    )


def pins(board: Board, text: str) -> dict[str, str]:
    """Pin of each port, from the constraints of any of the tool chains."""
    pattern = {
        "ecp5": r'LOCATE COMP "(\S+)" SITE "(\S+)"',
        "ice40": r"set_io (\S+) (\S+)",
        "gowin": r'IO_LOC "(\S+)" (\S+);',
    }[board.flow]
    return dict(re.findall(pattern, text))


@pytest.mark.parametrize("name", OPEN)
def test_each_board_is_built_with_its_own_pins_and_clock(name: str, tools: FakeTools, no_design: None):
    board = BOARDS.get(name)
    assert board.serial is not None
    built = build_open(board, CONFIG)
    toolchain = TOOLCHAINS[board.flow]
    constraints = (built.placement.folder / toolchain.constraints).read_text()
    clock, clock_pin, rx, tx = FPGA[name]
    found = pins(board, constraints)
    assert {clock: clock_pin, "uart_0__rx__io": rx, "uart_0__tx__io": tx}.items() <= found.items()
    assert len(found) == 3 + len(board.serial.leds)
    assert len(set(found.values())) == len(found)
    if board.flow != "gowin":
        assert f"{board.serial.oscillator_mhz:g}" in re.sub(r"0{6}\.0 HZ", "", constraints)
    assert built.frequency == board.clock_mhz * 1e6
    assert built.bitstream.read_text() == "bits"
    assert tools.calls() == ["YOSYS", toolchain.place.upper().replace("-", "_"), toolchain.pack.upper()]
    log = (built.placement.folder / "place.log").read_text()
    for option in board.serial.nextpnr:
        assert option in log


def test_what_was_built_before_is_taken_from_the_cache(tools: FakeTools, no_design: None):
    board = BOARDS.get("ulx3s")
    first = build_open(board, CONFIG)
    assert tools.calls() == ["YOSYS", "NEXTPNR_ECP5", "ECPPACK"]
    assert build_open(board, CONFIG).bitstream == first.bitstream
    assert tools.calls() == []
    build_open(board, CONFIG, seed=2)
    assert tools.calls() == ["NEXTPNR_ECP5", "ECPPACK"]
    changes: list[dict[str, Any]] = [{"clock_mhz": 75}, {"baud": 115200}, {"memory_bytes": 4096}]
    for changed in changes:
        assert build_open(board, CONFIG, **changed).bitstream.exists()
        assert tools.calls()[0] == "YOSYS"
    build_open(board, CONFIG.replace(rows=4))
    assert tools.calls()[0] == "YOSYS"
    tools.install_one("ECPPACK", {"top.bit": "other bits"})
    assert build_open(board, CONFIG).bitstream.read_text() == "other bits"
    assert "YOSYS" not in tools.calls()


def test_a_missing_tool_is_told_before_anything_is_done(tools: FakeTools, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ECPPACK", "/no/such/ecppack")
    with pytest.raises(ProgramError, match="there is no program '/no/such/ecppack', which the variable ECPPACK names"):
        build_open(BOARDS.get("ulx3s"), CONFIG)
    assert tools.calls() == []


def test_a_tool_that_fails_leaves_nothing(tools: FakeTools, no_design: None, tmp_path: Path):
    tools.install_one("ECPPACK", {"top.bit": "half"}, code=1, says="error: bad tile")
    with pytest.raises(ProgramError, match="ecppack failed: error: bad tile"):
        build_open(BOARDS.get("ulx3s"), CONFIG)
    assert list((tmp_path / "cache" / "place").glob("[!.]*")) == []
    tools.install_one("ECPPACK", {})
    with pytest.raises(RuntimeError, match="ecppack wrote no bitstream"):
        build_open(BOARDS.get("ulx3s"), CONFIG)


@pytest.mark.parametrize(("luts", "is_crowded"), [(20_000, False), (33_000, True), (60_000, False)])
def test_a_crowded_part_is_placed_less_densely_where_there_is_room(
    luts: int, is_crowded: bool, tools: FakeTools, no_design: None
):
    board = BOARDS.get("ulx3s")
    tools.cells["LUT4"] = luts
    tools.install()
    log = (build_open(board, CONFIG).placement.folder / "place.log").read_text()
    toolchain = TOOLCHAINS[board.flow]
    assert " ".join(toolchain.crowded_options if is_crowded else toolchain.place_options) in log
    assert ("--placer-heap-beta" in log) == is_crowded


def test_a_design_that_is_too_large_or_too_slow_is_refused(tools: FakeTools, no_design: None):
    board = BOARDS.get("ulx3s")
    tools.cells["DP16KD"] = 209
    tools.install()
    with pytest.raises(ResourceError, match="needs 209 block RAMs, and the part has 208: a smaller array"):
        build_open(board, CONFIG)
    tools.cells["DP16KD"] = 8
    tools.report["fmax"]["$glbnet$clk"]["achieved"] = 40.0
    tools.install()
    with pytest.raises(ResourceError, match=r"reaches 40\.0 MHz of 50: ask for less with --clock 38, or try --seed 2"):
        build_open(board, CONFIG)


@pytest.mark.parametrize(
    ("name", "luts", "flip_flops", "needs"),
    [
        ("ice40-hx8k", 6600, 3000, "7950 logic cells, and the part has 7680"),
        # What 2×2 of int8 takes: LUTs alone, and flip-flops alone, would do.
        ("tang-nano-9k", 6245, 4881, "9515 logic cells, and the part has 8640"),
    ],
)
def test_what_needs_more_logic_cells_than_there_are_is_not_placed(
    tools: FakeTools, no_design: None, name: str, luts: int, flip_flops: int, needs: str
):
    tools.cells = CELLS[name](luts, flip_flops)
    tools.install()
    with pytest.raises(ResourceError, match=f"needs about {needs}: a smaller array"):
        build_open(BOARDS.get(name), CONFIG)
    assert tools.calls() == ["YOSYS"]


@pytest.mark.parametrize(("name", "luts", "flip_flops"), [("ice40-hx8k", 5562, 3651), ("tang-nano-9k", 5360, 3845)])
def test_what_has_been_placed_and_routed_is_built(
    tools: FakeTools, no_design: None, name: str, luts: int, flip_flops: int
):
    """What Yosys counts of 1×2 of int4, which nextpnr packs in 7,194 and 7,946 cells."""
    tools.cells = CELLS[name](luts, flip_flops)
    tools.install()
    built = build_open(BOARDS.get(name), CONFIG)
    assert (built.area.luts, built.area.flip_flops) == (luts, flip_flops)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clock_mhz": -5}, "the clock must be positive, not -5 MHz"),
        ({"clock_mhz": 0}, "the clock must be positive, not 0 MHz"),
        ({"clock_mhz": 1000}, "the PLL makes no clock near 1000 MHz from 25 MHz"),
        ({"baud": 0}, "baud must be positive, not 0"),
        ({"baud": 30_000_000}, "baud must be at most 1/4 of the clock"),
        ({"memory_bytes": 100}, "memory_bytes must be a positive multiple of 64, not 100"),
    ],
)
def test_what_no_board_can_do_is_refused(options: dict[str, Any], message: str, tools: FakeTools):
    with pytest.raises(ValueError, match=message):
        build_open(BOARDS.get("ulx3s"), CONFIG, **options)
    assert tools.calls() == []


def test_a_board_of_vivados_is_refused():
    with pytest.raises(ValueError, match="board pynq-z2 is built by vivado, not by open tools"):
        design_parameters(BOARDS.get("pynq-z2"), CONFIG)


def test_memory_is_as_large_as_addresses_reach():
    board, small = BOARDS.get("ulx3s"), CONFIG.replace(address_bits=13)
    assert design_parameters(board, CONFIG)["memory_bytes"] == 65536
    assert design_parameters(board, small)["memory_bytes"] == 8192
    assert design_parameters(board, small, memory_bytes=4096)["memory_bytes"] == 4096
    with pytest.raises(ValueError, match="address_bits = 13 reach 8192 bytes of memory, not 16384"):
        design_parameters(board, small, memory_bytes=16384)


def test_the_report_and_what_is_saved(tools: FakeTools, no_design: None, tmp_path: Path):
    built = build_open(BOARDS.get("ulx3s"), CONFIG)
    report = build_report(built)
    assert report["fmax"] == pytest.approx(100e6)
    assert report["use"]["DSP"] == {"used": 4, "available": 156, "share": 4 / 156}
    assert report["synthesis"] == {"luts": 540, "flip_flops": 300, "dsps": 4, "block_rams": 8}
    assert [step["delay"] for step in report["critical_path"]] == [0.5, 4.0, 0.25]
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    for _ in range(2):
        bitstream = save_build(built, folder, report)
        assert bitstream == folder / "ulx3s.bit"
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.toml",
            "mine.txt",
            "nextpnr.log",
            "report.json",
            "top.lpf",
            "ulx3s.bit",
        ]
    assert json.loads((folder / "report.json").read_text()) == report


def test_products_are_made_of_what_they_are_small_in():
    fp8 = ArrayConfig(rows=2, columns=2, lanes=1, a_formats="e4m3", b_formats="e5m2", out_formats="float32")
    mixed = CONFIG.replace(b_formats="int4")
    assert multipliers_for(fp8, 156) == "luts"
    assert multipliers_for(fp8.replace(shift_in_multipliers=True), 156) == "dsps"
    assert multipliers_for(CONFIG.replace(pack_multipliers=True), 2) == "dsps"
    assert multipliers_for(CONFIG.replace(pack_multipliers=True), 1) == "booth"
    assert multipliers_for(CONFIG, 4) == "dsps"
    assert multipliers_for(CONFIG, 3) == "booth"
    assert multipliers_for(mixed, 3) == "luts"


def test_the_design_is_a_core_behind_a_serial_link(tools: FakeTools):
    text = serial_design(CONFIG, frequency=12e6, baud=3_000_000, memory_bytes=2048)
    top = text[text.index("module halfulp_design") : text.index(";")]
    assert sorted(re.findall(r"clk|rst|rx|tx", top)) == ["clk", "rst", "rx", "tx"]
    # Memories that begin as 0 are left so: to read a line a word takes Yosys longer than all the rest.
    assert "initial begin" not in text
    assert len(re.findall(r"reg \[7:0\] \S+ \[255:0\]", text)) == 8
