"""Builds for Vivado's boards: with Vivado, without it, with one that fails, and what stays in the folder each time."""

from __future__ import annotations

import os
import stat
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from halfulp.boards import vivado
from halfulp.boards.board import BOARDS
from halfulp.boards.synthesis import Area
from halfulp.boards.vivado import VivadoBuild, VivadoError, build_vivado, xilinx_area
from halfulp.boards.vivado_run import find_vivado
from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import read_handoff
from halfulp.hw.verilog import generate_verilog

BOARD = BOARDS.get("pynq-z2")
CONFIG = ArrayConfig(
    rows=1, columns=2, a_formats="int8", b_formats="int8", out_formats="int8", roundings="nearest_even",
    lanes=1, buffer_depth=64,
)  # fmt: skip

verilog_of = cache(generate_verilog)

STUB = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from boards.vivado_stub import main
main()
"""
VERSION = "import sys\nif sys.argv[1:] == ['-version']: print('Vivado v{}'); sys.exit()\n"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """No Vivado but the test's, the core generated once, and sources that do not change meanwhile."""
    monkeypatch.delenv("VIVADO", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("halfulp.boards.vivado_project.generate_verilog", verilog_of)
    monkeypatch.setattr(vivado, "sources_digest", lambda *packages: "")


def install(tmp_path: Path, program: str) -> Path:
    """A program `vivado`, of this Python, on the PATH."""
    path = tmp_path / "bin" / "vivado"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{program}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def build(tmp_path: Path, *, area: bool = False, **options: Any) -> tuple[VivadoBuild, list[str]]:
    """The build, and what it told of its progress."""
    told: list[str] = []
    result = build_vivado(BOARD, CONFIG, tmp_path / "out", area=area, progress=told.append, **options)
    return result, told


def test_without_vivado_the_project_is_there_and_one_line_says_what_to_run(tmp_path: Path):
    result, told = build(tmp_path)
    assert told == ["generating the core"]
    assert (result.bitstream, result.handoff, result.area, result.shares) == (None, None, None, None)
    assert result.next_step == (
        f"Vivado is not installed here; where it is, run in a copy of {tmp_path / 'out'}: "
        "vivado -mode batch -log vivado.log -journal vivado.jou -source build.tcl -tclargs 2"
    )
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "README.md", "block_design.tcl", "build.json", "build.tcl", "config.toml", "halfulp_core.v", "implement.tcl",
        "package_ip.tcl", "settings.tcl",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["out"]


def test_with_nothing_changed_a_second_call_does_nothing(tmp_path: Path):
    build(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    _, told = build(tmp_path)
    assert told == []
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_damaged_project_is_made_again(tmp_path: Path):
    result, _ = build(tmp_path)
    (result.folder / "settings.tcl").write_text("nothing", encoding="utf-8")
    _, told = build(tmp_path)
    assert told == ["generating the core"]
    assert (result.folder / "settings.tcl").read_text(encoding="utf-8").startswith("# PYNQ-Z2")


def test_with_vivado_the_overlay_is_there(tmp_path: Path):
    pytest.importorskip("tkinter", reason="Python was built without Tcl (Debian: apt install python3-tk)")
    install(tmp_path, STUB)
    result, told = build(tmp_path)
    steps = ("packaging the core", "block design", "synthesis", "place and route", "reports")
    assert told == ["generating the core", *(f"Vivado: {step}" for step in steps)]
    assert result.bitstream is not None
    assert result.bitstream == tmp_path / "out" / "overlay" / "halfulp.bit"
    assert result.bitstream.read_bytes() == b"bitstream"
    assert result.handoff is not None
    assert read_handoff(result.handoff) == (CONFIG, "zynq-7000")
    assert result.next_step.endswith("then: halfulp boards check pynq:halfulp.bit")
    again, told = build(tmp_path)
    assert told == []
    assert again == result


def test_a_project_that_was_made_before_vivado_came_is_built_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tkinter", reason="Python was built without Tcl (Debian: apt install python3-tk)")
    build(tmp_path)
    monkeypatch.setenv("VIVADO", str(install(tmp_path, STUB).rename(tmp_path / "another_vivado")))
    result, told = build(tmp_path)
    assert told[0] == "Vivado: packaging the core"
    assert result.bitstream is not None


def test_another_clock_takes_the_old_overlay_away(tmp_path: Path):
    result, _ = build(tmp_path)
    (result.folder / "overlay").mkdir()
    again, told = build(tmp_path, clock_mhz=50)
    assert told == ["generating the core"]
    assert again.bitstream is None
    assert not (result.folder / "overlay").exists()
    assert "PERIPHERAL_FREQMHZ 50\n" in (result.folder / "settings.tcl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            VERSION.format("2022.1") + "print('ERROR: [Board 49-71] no licence'); sys.exit(1)",
            r"Vivado failed: ERROR: \[Board 49-71\] no licence \(log: .*/out/vivado.log\)",
        ),
        (
            VERSION.format("2022.1")
            + "print('ERROR: [x] y\\nhalfulp: error: synthesis failed: no (log: runme.log)'); sys.exit(1)",
            r"Vivado failed: synthesis failed: no \(log: runme.log\) \(log: .*/out/vivado.log\)",
        ),
        (VERSION.format("2022.1") + "sys.exit(3)", r"Vivado failed: exit code 3 \(log: .*/out/vivado.log\)"),
        (VERSION.format("2022.1"), r"the hand-off file that Vivado wrote is not this build's: .*halfulp.hwh"),
    ],
)
def test_a_vivado_that_fails_is_told_in_one_line(tmp_path: Path, program: str, message: str):
    install(tmp_path, program)
    with pytest.raises(VivadoError, match=message) as error:
        build(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "overlay").exists()


def test_an_overlay_of_another_core_is_refused(tmp_path: Path):
    program = (
        "import pathlib\n"
        "from halfulp.hw.handoff import handoff_xml\n"
        "from halfulp.hw.config import ArrayConfig\n"
        "pathlib.Path('overlay').mkdir()\n"
        "pathlib.Path('overlay/halfulp.hwh').write_text(handoff_xml(ArrayConfig(rows=3)))\n"
    )
    install(tmp_path, VERSION.format("2022.1") + program)
    with pytest.raises(VivadoError, match="is not this build's: it tells of another core or another processor"):
        build(tmp_path)
    assert not (tmp_path / "out" / "overlay").exists()


HANGING = VERSION.format("2022.1") + (
    "import subprocess, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
    "open('vivado_pid', 'w').write(str(child.pid))\n"
    "print('halfulp: step: waiting', flush=True)\n"
    "time.sleep(99)\n"
)
"""It starts a process of its own, and neither comes to an end."""


def assert_gone(pid: int) -> None:
    """The process has ended, or will in a moment; what nobody has waited for yet is a zombie."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid}, which Vivado had started, is still there")


def test_a_vivado_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path):
    install(tmp_path, HANGING)
    begun = time.monotonic()
    with pytest.raises(VivadoError, match=r"Vivado took more than 0\.05 minutes and was stopped \(log: "):
        build(tmp_path, timeout_s=3)
    assert time.monotonic() - begun < 60
    assert_gone(int((tmp_path / "out" / "vivado_pid").read_text(encoding="utf-8")))


def test_an_interrupt_stops_vivado(tmp_path: Path):
    install(tmp_path, HANGING)

    def interrupt(text: str) -> None:
        if text == "Vivado: waiting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_vivado(BOARD, CONFIG, tmp_path / "out", area=False, progress=interrupt)
    assert_gone(int((tmp_path / "out" / "vivado_pid").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('Vivado v2019.2 (64-bit)')", r"vivado is Vivado 2019.2; 2020.2 or newer is needed"),
        ("print('hello')", "vivado is no Vivado: -version does not name a release"),
    ],
)
def test_a_vivado_that_cannot_serve_is_refused_at_once(tmp_path: Path, program: str, message: str):
    install(tmp_path, program)
    with pytest.raises(VivadoError, match=message):
        build(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_program_that_is_named_has_to_be_there(monkeypatch: pytest.MonkeyPatch):
    assert find_vivado() is None
    with pytest.raises(VivadoError, match=r"there is no program 'viva'$"):
        find_vivado("viva")
    monkeypatch.setenv("VIVADO", "/opt/none")
    with pytest.raises(VivadoError, match="there is no program '/opt/none', which the variable VIVADO names"):
        find_vivado()


@pytest.mark.parametrize(
    ("board", "options", "message"),
    [
        ("zcu104", {}, "bus_width of a core for zcu104 must be 128, its memory port's, not 64"),
        ("pynq-z2", {"clock_mhz": 900}, "clock must be 1 to 500 MHz, not 900"),
        ("pynq-z2", {"jobs": 0}, "jobs must be 1 to 64, not 0"),
        ("pynq-z2", {"timeout_s": 0}, "timeout_s must be positive, not 0"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(
    tmp_path: Path, board: str, options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        build_vivado(BOARDS.get(board), CONFIG, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="out is not empty and no project of halfulp's; name a new folder"):
        build(tmp_path)
    (tmp_path / "out" / "thesis.tex").rename(tmp_path / "thesis.tex")
    build(tmp_path)
    (tmp_path / "thesis.tex").rename(tmp_path / "out" / "thesis.tex")
    with pytest.raises(FileExistsError, match=r"out holds 'thesis\.tex', which is not from here; move it away"):
        build(tmp_path, clock_mhz=50)
    assert (tmp_path / "out" / "thesis.tex").read_text(encoding="utf-8") == "years of work"
    with pytest.raises(FileExistsError, match="exists and is no folder"):
        build_vivado(BOARD, CONFIG, tmp_path / "out" / "thesis.tex", area=False)


def test_the_area_and_its_shares_are_kept_with_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def area(verilog: str, **options: Any) -> Area:
        asked.append(verilog)
        return Area(luts=26600, flip_flops=10640, dsps=55, block_rams=35)

    monkeypatch.setattr(vivado, "xilinx_area", area)
    for told_then in (["generating the core", "synthesis by Yosys, for the area"], []):
        result, told = build(tmp_path, area=True)
        assert told == told_then
        assert result.area == Area(luts=26600, flip_flops=10640, dsps=55, block_rams=35)
        assert result.shares == {"luts": 0.5, "flip_flops": 0.1, "dsps": 0.25, "block_rams": 0.25}
    assert asked == [(tmp_path / "out" / "halfulp_core.v").read_text(encoding="utf-8")]


MULTIPLIER = """
module halfulp_core(input aclk, input signed [7:0] a, b, input [8:0] address, input [71:0] word, input write,
                    output reg signed [15:0] product, output reg [71:0] read);
  reg [71:0] memory [0:511];
  always @(posedge aclk) begin
    product <= a * b;
    if (write) memory[address] <= word;
    read <= memory[address];
  end
endmodule
"""


@pytest.mark.parametrize("board", ["pynq-z2", "kv260"])
def test_areas_are_counted_in_the_part_s_own_units(board: str, monkeypatch: pytest.MonkeyPatch):
    """An 8-bit product takes a DSP block, 512 words of 72 bits a block RAM, on either family."""
    monkeypatch.undo()
    area = xilinx_area(MULTIPLIER, board=BOARDS.get(board))
    assert (area.dsps, area.block_rams) == (1, 1)
    assert area.luts < 10


def test_the_area_of_other_boards_is_not_for_vivado():
    other = next(board for board in BOARDS.members() if board.flow != "vivado")
    with pytest.raises(ValueError, match=f"board {other.name} is not built by Vivado: its flow is {other.flow}"):
        xilinx_area("", board=other)
