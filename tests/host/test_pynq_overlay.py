"""Loading overlays: what is wrong with one is told in one line, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pynq.pl_server.device import Device as PynqHardware

from halfulp.host.device import open_device
from halfulp.host.errors import (
    DeviceError,
    IdentificationError,
)
from halfulp.host.pynq_device import PynqDevice
from halfulp.host.pynq_overlay import load_overlay
from halfulp.hw.config import UnsupportedSpecError
from halfulp.hw.handoff import CORE_VLNV
from halfulp.hw.registers import register
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding
from halfulp.sim.virtual_overlay import virtual_overlay, write_virtual_overlay

from .golden_board import CONFIG, golden_board

SPEC = GemmSpec("int8", "int8", out="int8", rounding=Rounding("stochastic", 8), scale=-6)


def operands(rng: np.random.Generator, m: int = 5, n: int = 6, k: int = 7) -> tuple[Any, Any]:
    return rng.integers(0, 256, (m, k), np.uint8), rng.integers(0, 256, (k, n), np.uint8)


@pytest.fixture
def core_and_board():
    core, board = golden_board()
    yield core, board
    board.close()


def overlay_with(tmp_path: Path, board: Any, **replaced: str) -> Any:
    bit = write_virtual_overlay(tmp_path, CONFIG)
    text = bit.with_suffix(".hwh").read_text()
    for old, new in replaced.items():
        assert old in text or CORE_VLNV in text
        text = text.replace({"vlnv": CORE_VLNV}.get(old, f'NAME="{old}" VALUE="4"'), new)
    bit.with_suffix(".hwh").write_text(text)
    return load_overlay(bit, device=board)


def test_an_overlay_without_a_core_is_refused_before_it_is_loaded(tmp_path: Path, core_and_board: Any):
    _, board = core_and_board
    with pytest.raises(IdentificationError, match="the overlay has no halfulp core; it has axi_gpio, axi_intc, proc"):
        overlay_with(tmp_path, board, vlnv="xilinx.com:ip:axi_gpio:2.0")
    assert board.timestamp == "", "nothing was loaded"


def test_an_overlay_of_another_version_is_refused(tmp_path: Path, core_and_board: Any):
    with pytest.raises(IdentificationError, match=r"the overlay's core has version 2\.3; this driver knows 1\.0"):
        overlay_with(tmp_path, core_and_board[1], vlnv="halfulp.org:ip:halfulp_core:2.3")


def test_files_of_two_builds_are_told(tmp_path: Path, core_and_board: Any):
    overlay = overlay_with(tmp_path, core_and_board[1], ROWS='NAME="ROWS" VALUE="2"')
    with pytest.raises(IdentificationError, match="the core has rows = 4, its hand-off file says 2: two builds"):
        PynqDevice("board", overlay)


def test_logic_that_is_no_core_is_told(core_and_board: Any):
    core, board = core_and_board
    core.fake.values[register("id").offset] = 0xDEADBEEF
    with pytest.raises(IdentificationError, match="no halfulp core: the ID register reads 0xdeadbeef"):
        PynqDevice("board", load_overlay(virtual_overlay(CONFIG), device=board))


@pytest.mark.parametrize("missing", [".bit", ".hwh"])
def test_a_missing_file_is_told(tmp_path: Path, missing: str):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    bit.with_suffix(missing).unlink()
    with pytest.raises(DeviceError, match=rf"halfulp\{missing} does not exist; an overlay is a bitstream with its"):
        open_device(f"pynq:{bit}")


def test_a_broken_hand_off_file_is_told(tmp_path: Path, core_and_board: Any):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    bit.with_suffix(".hwh").write_text("<EDKSYSTEM>")
    with pytest.raises(DeviceError, match=r"PYNQ cannot load .*halfulp\.bit: ParseError: no element found"):
        load_overlay(bit, device=core_and_board[1])


def test_without_a_board_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PynqHardware, "_active_device", None, raising=False)
    monkeypatch.delattr(PynqHardware, "_active_device")
    monkeypatch.setattr(PynqHardware, "_devices", [], raising=False)
    bit = write_virtual_overlay(tmp_path, CONFIG)
    with pytest.raises(DeviceError, match="no PYNQ board here: run this on the board, name one as pynq:OVERLAY"):
        open_device(f"pynq:{bit}")


def test_a_folder_may_have_an_at_in_its_name(tmp_path: Path, core_and_board: Any):
    folder = tmp_path / "a@b"
    folder.mkdir()
    with open_device(f"pynq:{write_virtual_overlay(folder, CONFIG)}") as device:
        assert device.config == CONFIG


def test_code_for_a_board_runs_on_the_active_one(core_and_board: Any, rng: np.random.Generator):
    with open_device(f"pynq:{virtual_overlay(CONFIG)}", requirements=[SPEC]) as device:
        a, b = operands(rng)
        np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)
    with pytest.raises(UnsupportedSpecError, match="bfloat16 is not built in"):
        open_device(f"pynq:{virtual_overlay(CONFIG)}", requirements=[(GemmSpec("int8", "int8", out="bfloat16"), 3)])


def test_hand_off_files_without_a_rate_get_vivados(core_and_board: Any, tmp_path: Path):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    text = bit.with_suffix(".hwh").read_text()
    text = text.replace("PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ", "PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ")
    text = text.replace("PSU__CRL_APB__PL1_REF_CTRL__ACT_FREQMHZ", "OTHER").replace('VALUE="100"', 'VALUE="50"')
    bit.with_suffix(".hwh").write_text(text)
    overlay = load_overlay(bit, device=core_and_board[1])
    assert overlay.is_loaded()
    for clock, rate in ((0, 50.0), (1, 100.0)):
        assert overlay.clock_dict.get(clock, {}).get("frequency", rate) == rate
