"""`halfulp boards`: the list, and the checklist on the virtual board."""

from __future__ import annotations

import json

import pytest

from halfulp.boards import tools
from halfulp.boards.board import BOARDS
from halfulp.host.board_check import CHECKS


def test_the_list_has_every_board(halfulp):
    out = halfulp("boards").out
    for board in BOARDS.members():
        (line,) = (line for line in out.splitlines() if line.split()[:1] == [board.name])
        assert board.part in line
    told = json.loads(halfulp("boards", "--json").out)
    assert [each["name"] for each in told] == BOARDS.names()


def test_what_is_missing_is_told_with_what_gets_it(halfulp, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tools.shutil, "which", lambda command: None)
    assert "vivado: install AMD Vivado" in halfulp("boards").out
    told = json.loads(halfulp("boards", "--json").out)
    missing = {each["name"]: [tool["tool"] for tool in each["missing"]] for each in told}
    assert missing["pynq-z2"] == ["vivado"]
    assert missing["ulx3s"] == []
    loaders = {each["name"]: each["loader"] for each in told if "loader" in each}
    assert loaders["ulx3s"] == {
        "tool": "openFPGALoader",
        "remedy": "apt install openfpgaloader",
        "is_installed": False,
    }
    assert "openFPGALoader (to load)" in halfulp("boards").out
    assert "dfu-util: apt install dfu-util" in halfulp("boards").out
    monkeypatch.setattr(tools.shutil, "which", lambda command: f"/opt/{command}")
    assert "vivado:" not in halfulp("boards").out
    assert "to load" not in halfulp("boards").out


@pytest.mark.timeout(600)  # a core may have to be compiled
def test_the_virtual_board_passes_its_checklist(halfulp):
    outcome = halfulp("boards", "check", "pynq-sim:4x4", "--json")
    told = json.loads(outcome.out)
    assert outcome.code == 0, told
    assert [each["check"] for each in told] == [check.name for check in CHECKS]
    states = {each["check"]: each["state"] for each in told}
    assert states == {**dict.fromkeys(states, "ok"), "clock": "not here"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek", "pynq:x.bit"], "unknown action 'chek'; nearest: 'check'"),
        (["check"], "name the device to check, as in 'halfulp boards check pynq:halfulp.bit'"),
        (["check", "pynk:x.bit"], "unknown device 'pynk:x.bit'; nearest: 'pynq:OVERLAY.bit'"),
        (["check", "pynq:none.bit"], "none.bit does not exist; an overlay is a bitstream with its hand-off file"),
    ],
)
def test_bad_input_is_one_line(halfulp, arguments: list[str], message: str):
    assert message in halfulp("boards", *arguments).error
