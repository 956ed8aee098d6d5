"""Boards: every data file is read, and one that is wrong says where."""

from __future__ import annotations

from typing import Any

import pytest

from halfulp.boards.board import BOARDS, Board
from halfulp.boards.platforms import make_platform
from halfulp.boards.tools import FLOWS, Flow, Tool
from halfulp.numerics.names import UnknownNameError

GOOD: dict[str, Any] = {
    "title": "A board",
    "part": "xc7z020clg400-1",
    "flow": "vivado",
    "clock_mhz": 100,
    "luts": 53200,
    "dsps": 220,
    "block_rams_kib": 630,
    "memory": "512 MiB DDR3",
    "vivado": {
        "board_part": "a:b:part0:1.0",
        "processing_system": "zynq-7000",
        "bus_width": 64,
        "board_files": "Vivado brings them",
        "flip_flops": 106400,
        "block_rams": 140,
    },
}


@pytest.mark.parametrize(
    ("name", "part", "ps", "bus_width"),
    [
        ("pynq-z1", "xc7z020clg400-1", "zynq-7000", 64),
        ("pynq-z2", "xc7z020clg400-1", "zynq-7000", 64),
        ("ultra96-v2", "xczu3eg-sbva484-1-i", "zynqmp", 128),
        ("zcu104", "xczu7ev-ffvc1156-2-e", "zynqmp", 128),
        ("kv260", "xck26-sfvc784-2LV-c", "zynqmp", 128),
    ],
)
def test_the_boards_with_pynq(name: str, part: str, ps: str, bus_width: int):
    board = BOARDS.get(name)
    assert (board.name, board.part, board.flow) == (name, part, "vivado")
    assert board.vivado is not None
    assert (board.vivado.ps.name, board.vivado.bus_width) == (ps, bus_width)


def test_an_unknown_board_is_answered_with_near_ones():
    with pytest.raises(UnknownNameError, match="unknown board 'pynqz2'; nearest: 'pynq-z2'"):
        BOARDS.get("pynqz2")


def test_every_board_has_a_flow_and_a_title():
    for board in BOARDS.members():
        assert board.flow in FLOWS
        assert board.title
        assert board.memory


SERIAL: dict[str, Any] = {
    "platform": "amaranth_boards.ulx3s:ULX3S_85F_Platform",
    "family": "ecp5",
    "pll": "ecp5",
    "oscillator_mhz": 25,
    "baud": 3_000_000,
    "baud_why": "an FT231X",
    "leds": ["led:0"],
    "flip_flops": 83640,
    "block_rams": 208,
    "memory_bytes": 65536,
    "nextpnr": ["--85k"],
    "load": ["openFPGALoader", "{bitstream}"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "ecp6"}, r"new \[serial\]: unknown family 'ecp6'; nearest: 'ecp5'"),
        ({"pll": "ecp6"}, r"new \[serial\]: unknown PLL 'ecp6'; nearest: 'ecp5'"),
        ({"baud": 0}, r"new \[serial\]: baud must be positive, not 0"),
        ({"bauds": 9600}, r"new \[serial\]: unknown key 'bauds'; nearest: 'baud'"),
    ],
)
def test_wrong_data_of_a_serial_board_says_where(change: dict[str, Any], message: str):
    data = {**GOOD, "flow": "ecp5", "vivado": None, "serial": {**SERIAL, **change}}
    with pytest.raises(ValueError, match=message):
        Board.from_dict("new", {key: value for key, value in data.items() if value is not None})


def test_a_board_without_vivado_has_a_serial_link():
    data = {key: value for key, value in {**GOOD, "flow": "ecp5"}.items() if key != "vivado"}
    with pytest.raises(
        ValueError, match=r"a board has a table \[serial\] where its flow is not vivado, and only there"
    ):
        Board.from_dict("new", data)
    assert Board.from_dict("new", {**data, "serial": SERIAL}).serial is not None


@pytest.mark.parametrize("board", [board for board in BOARDS.members() if board.serial], ids=lambda board: board.name)
def test_data_agree_with_the_platform(board: Board):
    assert board.serial is not None
    platform = make_platform(board.serial.platform)
    assert platform.default_clk_frequency == board.serial.oscillator_mhz * 1e6
    part = platform.part if board.flow == "gowin" else platform.device
    assert board.part.startswith(part)
    for led in board.serial.leds:
        name, number, *_ = led.split(":")
        assert platform.lookup(name, int(number))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clock": 3}, "new: unknown key 'clock'; nearest: 'clock_mhz'"),
        ({"part": None}, "new: part is missing"),
        ({"flow": "vivad"}, "new: unknown flow 'vivad'; nearest: 'vivado'"),
        ({"luts": 0}, "new: luts must be positive, not 0"),
        ({"vivado": None}, r"new: a board has a table \[vivado\] where its flow is vivado, and only there"),
        ({"vivado": {"board_part": "x"}}, r"new \[vivado\]: processing_system is missing"),
        (
            {"vivado": {**GOOD["vivado"], "bus_width": 128}},
            r"new \[vivado\]: bus_width of a zynq-7000 must be 64, not 128",
        ),
        (
            {"vivado": {**GOOD["vivado"], "processing_system": "zynqm"}},
            "unknown processing system 'zynqm'; nearest: 'zy",
        ),
    ],
)
def test_wrong_data_says_where(change: dict[str, Any], message: str):
    data = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Board.from_dict("new", data)


def test_right_data_is_read():
    assert Board.from_dict("new", GOOD).title == "A board"


def test_tools_are_found_by_command_or_module():
    here, gone = Tool("sh", "", command="sh"), Tool("x", "pip install x", command="no-such-program")
    module, no_module = Tool("json", "", module="json"), Tool("y", "pip install y", module="no_such_module")
    assert [tool.is_installed for tool in (here, gone, module, no_module)] == [True, False, True, False]
    assert Flow("a flow", (here, gone), (module, no_module, gone)).missing == [gone, no_module]
