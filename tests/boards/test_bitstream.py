"""Real bitstreams by the real tools: of a small design here, of whole cores by `make boards`."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfulp.boards.board import BOARDS
from halfulp.boards.open_build import OpenBuild, build_open
from halfulp.boards.programs import PROGRAMS, run_program
from halfulp.hw.config_file import load_config

SMALL = """
module halfulp_design(input clk, input rst, input rx, output reg tx);
  reg [7:0] bits;
  always @(posedge clk) begin
    bits <= {bits[6:0], rx};
    tx <= rst | ^bits;
  end
endmodule
"""

CONFIG = load_config(Path(__file__).parents[2] / "docs" / "configs" / "int8_2x2_serial.toml")
"""The smallest core that multiplies in DSP blocks."""

HEADERS = {
    "ecp5": b"\xff\x00",  # then comments, then the preamble
    "ice40": b"\xff\x00",
    "gowin": b"1111",  # text, a digit a bit
}
"""What each tool chain's bitstreams begin with."""


def build(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> OpenBuild:
    monkeypatch.setenv("HALFULP_CACHE", str(folder))
    return build_open(BOARDS.get(name), CONFIG)


def packed_again(bitstream: Path, pack: tuple[str, ...], folder: Path) -> bytes:
    """A bitstream of an ECP5 unpacked and packed again."""
    (folder / "top.bit").write_bytes(bitstream.read_bytes())
    run_program("unpacking", PROGRAMS["ecpunpack"], ["top.bit", "again.config"], folder, log="log", timeout=250)
    arguments = [*pack, "--input", "again.config", "--bit", "again.bit"]
    run_program("packing", PROGRAMS["ecppack"], arguments, folder, log="log", timeout=250)
    return (folder / "again.bit").read_bytes()


@pytest.mark.timeout(900)  # the first call of each tool compiles it, which takes minutes
@pytest.mark.parametrize("name", ["orangecrab", "ice40-hx8k", "tang-nano-9k"])
def test_a_small_design_becomes_a_bitstream(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("halfulp.boards.open_build.serial_design", lambda config, **design: SMALL)
    built = build(name, tmp_path, monkeypatch)
    assert built.bitstream.read_bytes().startswith(HEADERS[built.board.flow])
    assert 8 < built.placement.use["LUT"].used < 200
    assert built.placement.use["LUT"].available >= built.board.luts
    assert built.placement.fmax > built.frequency
    assert built.placement.critical_path
    if built.board.flow == "ecp5":
        assert built.board.serial is not None
        bitstream = built.bitstream
        assert packed_again(bitstream, built.board.serial.pack, tmp_path) == bitstream.read_bytes()


@pytest.mark.boards
@pytest.mark.timeout(7200)
def test_a_core_on_a_ulx3s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    built = build("ulx3s", tmp_path, monkeypatch)
    assert built.placement.use["DSP"].used == CONFIG.rows * CONFIG.columns
    assert built.placement.fmax >= built.frequency
    assert built.board.serial is not None
    bitstream = built.bitstream
    assert packed_again(bitstream, built.board.serial.pack, tmp_path) == bitstream.read_bytes()
    before = bitstream.stat().st_mtime_ns
    assert build("ulx3s", tmp_path, monkeypatch).bitstream.stat().st_mtime_ns == before
