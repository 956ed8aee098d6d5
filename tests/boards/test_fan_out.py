"""Copies of what drives many cells: the netlist does the same, and no net is longer than it has to be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from halfulp.boards.fan_out import copy_drivers

REGISTER = {"CLK": "input", "CE": "input", "DI": "input", "Q": "output"}
TABLE = {"A": "input", "Z": "output"}


def cell(kind: str, directions: dict[str, str], **connections: object) -> dict[str, Any]:
    wires = {port: [connections[port]] for port in directions}
    return {"type": kind, "parameters": {}, "connections": wires, "port_directions": directions}


def design(readers: int, **outputs: int) -> dict[str, Any]:
    """A register behind a table behind a register; both it and the table are read by so many registers."""
    cells = {
        "first": cell("TRELLIS_FF", REGISTER, CLK=2, CE="1", DI=3, Q=4),
        "table": cell("LUT4", TABLE, A=4, Z=5),
        "second": cell("TRELLIS_FF", REGISTER, CLK=2, CE="1", DI=5, Q=6),
    }
    for number in range(readers):
        cells[f"part{number % 10}.r{number}"] = cell("TRELLIS_FF", REGISTER, CLK=2, CE=6, DI=5, Q=100 + number)
    ports = {name: {"direction": "output", "bits": [bit]} for name, bit in outputs.items()}
    ports |= {"clk": {"direction": "input", "bits": [2]}, "d": {"direction": "input", "bits": [3]}}
    return {"modules": {"top": {"ports": ports, "cells": cells, "netnames": {}}}}


def origin(cells: dict[str, Any], net: object) -> object:
    """What a net carries, by the original cells: its driver without the copy's number, and what that reads."""
    for name, each in cells.items():
        for port, direction in each["port_directions"].items():
            if direction == "output" and each["connections"][port] == [net]:
                read = [
                    origin(cells, each["connections"][p][0]) for p, d in each["port_directions"].items() if d == "input"
                ]
                return (name.split("$copy")[0], *read)
    return net


def reads(netlist: dict[str, Any]) -> Counter[object]:
    """How many cells each net leads to, clocks left out."""
    cells = netlist["modules"]["top"]["cells"].values()
    inputs = [(port, net) for each in cells for port, nets in each["connections"].items() for net in nets]
    return Counter(net for port, net in inputs if port not in ("CLK", "Q", "Z"))


def test_copies_share_the_readers_and_read_the_same():
    netlist, before = design(100), design(100)
    assert copy_drivers(netlist, cells_a_copy=10) == {"LUT4": 10, "TRELLIS_FF": 9}
    cells, old = netlist["modules"]["top"]["cells"], before["modules"]["top"]["cells"]
    for name, each in old.items():
        for port, nets in each["connections"].items():
            assert origin(cells, cells[name]["connections"][port][0]) == origin(old, nets[0]), (name, port)
    assert max(reads(netlist).values()) <= 2 * 10
    # Neighbours by name hang on one copy.
    parts = {
        net: {name.split(".")[0] for name, each in cells.items() if each["connections"].get("CE") == [net]}
        for net in reads(netlist)
        if net != "1"
    }
    assert max(map(len, parts.values())) <= 2
    names = netlist["modules"]["top"]["netnames"]
    assert len({bit for wire in names.values() for bit in wire["bits"]}) == len(names) == 19


def test_what_drives_few_or_leaves_the_design_stays_as_it_is():
    for netlist, outputs in ((design(20), {}), (design(100, q=6, z=5), {"q", "z"})):
        cells = dict(netlist["modules"]["top"]["cells"])
        assert copy_drivers(netlist, cells_a_copy=10 if outputs else 11) == {"LUT4": 0, "TRELLIS_FF": 0}
        assert netlist["modules"]["top"]["cells"] == cells


def test_a_register_that_is_a_clock_has_no_copies():
    netlist = design(0)
    cells = netlist["modules"]["top"]["cells"]
    for number in range(50):
        cells[f"r{number}"] = cell("TRELLIS_FF", REGISTER, CLK=6, CE="1", DI=3, Q=100 + number)
    assert copy_drivers(netlist, cells_a_copy=10) == {"LUT4": 0, "TRELLIS_FF": 0}


def test_no_cell_for_a_copy_is_refused():
    with pytest.raises(ValueError, match="cells_a_copy must be at least 1, not 0"):
        copy_drivers(design(1), cells_a_copy=0)


def test_what_drives_many_copies_has_copies_too():
    netlist, before = design(1000), design(1000)
    made = copy_drivers(netlist, cells_a_copy=4)
    cells, old = netlist["modules"]["top"]["cells"], before["modules"]["top"]["cells"]
    assert len(cells) == len(old) + sum(made.values())
    loads = reads(netlist)
    assert max(number for net, number in loads.items() if net not in ("1", 3)) <= 2 * 4
    for name in ("part0.r0", "part9.r999"):
        for port, nets in cells[name]["connections"].items():
            assert origin(cells, nets[0]) == origin(old, old[name]["connections"][port][0])
