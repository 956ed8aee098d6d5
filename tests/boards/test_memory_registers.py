"""Registers moved into memory blocks: those that are as the block's own, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from halfulp.boards.memory_registers import absorb_memory_registers

BITS = 3


def design(width: int = 36, side: str = "B", enable: str = "1", **changes: Any) -> dict[str, Any]:
    """A memory block, what reads it in registers; `changes` to the first register, by what they are changes of."""
    wires: dict[str, list[object]] = {"CLKA": ["clk"], "CLKB": ["clk"], "RSTA": ["0"], "RSTB": ["0"], "OCEB": ["1"]}
    wires |= {f"DO{side}{bit}": [f"d{bit}"] for bit in range(BITS)}
    wires |= {f"DO{side}{bit}": [f"unread{bit}"] for bit in range(BITS, 18)}
    block = {
        "type": "DP16KD",
        "parameters": {f"DATA_WIDTH_{each}": f"{width:032b}" for each in "AB"},
        "connections": wires | changes.pop("block", {}),
        "port_directions": {port: "output" if port[:2] == "DO" else "input" for port in wires},
    }
    cells: dict[str, Any] = {"memory": block}
    for bit in range(BITS):
        parameters = {"CEMUX": "CE" if enable != "1" else "1 ", "CLKMUX": "CLK", "REGSET": "RESET"}
        connections = {"CLK": ["clk"], "CE": [enable], "DI": [f"d{bit}"], "LSR": ["0"], "Q": [f"q{bit}"]}
        directions = {port: "output" if port == "Q" else "input" for port in connections}
        cells[f"r{bit}"] = {
            "type": "TRELLIS_FF",
            "parameters": parameters | (changes.get("parameters", {}) if bit == 0 else {}),
            "connections": connections | (changes.get("connections", {}) if bit == 0 else {}),
            "port_directions": directions,
        }
    outputs = [f"q{bit}" for bit in range(BITS)] + changes.get("outputs", [])
    return {"modules": {"top": {"ports": {"out": {"direction": "output", "bits": outputs}}, "cells": cells}}}


@pytest.mark.parametrize(("width", "sides"), [(36, "AB"), (18, "B"), (9, "B")])
@pytest.mark.parametrize("enable", ["1", "go"])
def test_registers_of_one_enable_become_the_blocks_own(width: int, sides: str, enable: str):
    netlist = design(width, enable=enable)
    assert absorb_memory_registers(netlist) == BITS
    (block,) = netlist["modules"]["top"]["cells"].values()
    assert {name: value for name, value in block["parameters"].items() if name.startswith("REGMODE")} == {
        f"REGMODE_{side}": "OUTREG" for side in sides
    }
    wires = block["connections"]
    assert all(wires[f"OCE{side}"] == [enable] for side in sides)
    assert [wires[f"DOB{bit}"] for bit in range(BITS)] == [[f"q{bit}"] for bit in range(BITS)]


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ["d1"]},  # read at once as well
        {"parameters": {"CEMUX": "CE"}, "connections": {"CE": ["go"]}},  # of two enables
        {"parameters": {"CEMUX": "INV"}},
        {"parameters": {"REGSET": "SET"}},
        {"parameters": {"CLKMUX": "INV"}},
        {"connections": {"LSR": ["reset"]}},
        {"connections": {"CLK": ["other"]}},
        {"connections": {"DI": ["elsewhere"], "CE": ["d0"]}},  # what is read enables a register
        {"block": {"RSTB": ["reset"]}},
        {"width": 18, "side": "A"},  # the side that writes
    ],
)
def test_what_a_blocks_register_cannot_do_stays(changes: dict[str, Any]):
    netlist = design(**changes)
    cells = len(netlist["modules"]["top"]["cells"])
    assert absorb_memory_registers(netlist) == 0
    assert len(netlist["modules"]["top"]["cells"]) == cells
