"""Tables moved into adders: a netlist does the same before and after, and loses tables."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from halfulp.boards.carry_inputs import absorb_tables

SUM = "1001011010101010"
"""A ^ B ^ C ^ carry, the carry that is made being A: as Yosys makes adders."""

WIRES = tuple(f"in{i}" for i in range(4))


def table(init: str, inputs: list[str], output: str) -> dict[str, Any]:
    connections = {pin: [net] for pin, net in zip("ABCD", [*inputs, "0", "0", "0"], strict=False)} | {"Z": [output]}
    directions = {pin: "output" if pin == "Z" else "input" for pin in connections}
    return {"type": "LUT4", "parameters": {"INIT": init}, "connections": connections, "port_directions": directions}


def adder(a: list[str], b: list[str], outputs: list[str], init: str = SUM, third: str = "0") -> dict[str, Any]:
    connections: dict[str, Any] = {"CIN": ["in0"], "S0": [outputs[0]], "S1": [outputs[1]], "COUT": [outputs[2]]}
    for half in (0, 1):
        given = zip("ABCD", (a[half], b[half], third, "1"), strict=True)
        connections |= {f"{pin}{half}": [net] for pin, net in given}
    directions = {port: "output" if port in ("S0", "S1", "COUT") else "input" for port in connections}
    parameters = {"INIT0": init, "INIT1": init, "INJECT1_0": "NO", "INJECT1_1": "NO"}
    return {"type": "CCU2C", "parameters": parameters, "connections": connections, "port_directions": directions}


def netlist(cells: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    return {"modules": {"top": {"ports": {"out": {"direction": "output", "bits": outputs}}, "cells": cells}}}


def truth(design: dict[str, Any]) -> list[list[int]]:
    """The outputs for all values of the inputs; cells stand in the order in which they depend on each other."""
    module = design["modules"]["top"]
    seen = []
    for bits in itertools.product((0, 1), repeat=len(WIRES)):
        values = {"0": 0, "1": 1, "x": 0, **dict(zip(WIRES, bits, strict=True))}
        for cell in module["cells"].values():
            wires, parameters = cell["connections"], cell["parameters"]
            if cell["type"] == "LUT4":
                values[wires["Z"][0]] = looked_up(parameters["INIT"], [wires[pin][0] for pin in "ABCD"], values)
                continue
            carry = values[wires["CIN"][0]]
            for half in (0, 1):
                inputs = [wires[f"{pin}{half}"][0] for pin in "ABCD"]
                passes = looked_up(parameters[f"INIT{half}"], inputs, values)
                values[wires[f"S{half}"][0]] = passes ^ carry
                made = looked_up(parameters[f"INIT{half}"], [*inputs[:2], "0", "0"], values)
                carry = carry if passes else made
            values[wires["COUT"][0]] = carry
        seen.append([values[net] for net in module["ports"]["out"]["bits"]])
    return seen


def looked_up(init: str, inputs: list[str], values: dict[str, int]) -> int:
    return int(init[15 - sum(values[net] << place for place, net in enumerate(inputs))])


XOR, MASK, THREE = "0110" * 4, "0010" * 4, "01101001" * 2


@pytest.mark.parametrize(
    ("before", "gone"),
    [
        ({"t": table(XOR, ["in1", "in2"], "t")}, 1),
        ({"t": table(MASK, ["in1", "in2"], "t")}, 1),
        ({"t": table(XOR, ["in1", "1"], "t")}, 1),
        # Of three signals one is the adder's other operand.
        ({"t": table(THREE, ["in1", "in2", "in3"], "t")}, 1),
        # One too many.
        ({"t": table(THREE, ["in0", "in1", "in2"], "t")}, 0),
        ({"u": table(XOR, ["in0", "in1"], "u"), "t": table(XOR, ["u", "in2"], "t")}, 1),
    ],
)
def test_a_table_is_merged_where_the_adder_has_its_inputs(before: dict[str, Any], gone: int):
    cells = {**before, "sum": adder(["t", "in1"], ["in3", "in2"], ["s0", "s1", "c"])}
    design = netlist(cells, ["s0", "s1", "c"])
    wanted = truth(design)
    assert absorb_tables(design) == gone
    assert len(cells) == len(before) + 1 - gone
    assert truth(design) == wanted


@pytest.mark.parametrize("kind", [XOR, MASK])
def test_tables_before_both_operands_are_merged_where_the_carry_needs_no_more_than_two(kind: str):
    cells = {
        "t": table(kind, ["in1", "in2"], "t"),
        "u": table(kind, ["in3", "in2"], "u"),
        "sum": adder(["t", "0"], ["u", "0"], ["s0", "s1", "c"]),
    }
    design = netlist(cells, ["s0", "s1", "c"])
    wanted = truth(design)
    assert absorb_tables(design) == 2
    assert truth(design) == wanted


@pytest.mark.parametrize(
    ("other", "output"),
    [
        ({}, "t"),
        ({"u": table(XOR, ["t", "in0"], "u")}, "u"),
        ({"more": adder(["t", "t"], ["0", "0"], ["u", "v", "w"])}, "v"),
    ],
)
def test_a_table_that_is_needed_elsewhere_stays(other: dict[str, Any], output: str):
    cells = {"t": table(XOR, ["in1", "in2"], "t"), **other, "sum": adder(["t", "0"], ["in3", "0"], ["s0", "s1", "c"])}
    design = netlist(cells, ["s0", output])
    wanted = truth(design)
    assert absorb_tables(design) == ("more" in other)
    assert cells["sum"]["connections"]["A0"] != ["t"]
    assert truth(design) == wanted


@pytest.mark.parametrize(
    "changes",
    [{"connections": {"D0": ["in0"]}}, {"parameters": {"INJECT1_0": "YES"}}, {"connections": {"A0": ["in0"]}}],
)
def test_a_bit_without_a_free_input_or_with_no_table_stays(changes: dict[str, Any]):
    cells = {"t": table(XOR, ["in1", "in2"], "t"), "sum": adder(["t", "0"], ["in3", "0"], ["s0", "s1", "c"])}
    for part, values in changes.items():
        cells["sum"][part] |= values
    assert absorb_tables(netlist(cells, ["s0", "t"])) == 0


def test_any_netlist_does_the_same_as_before(rng: np.random.Generator):
    gone = 0
    for _ in range(200):
        cells: dict[str, Any] = {}
        nets = list(WIRES)
        for number in range(6):
            inputs = [str(net) for net in rng.choice([*nets, "0", "1"], int(rng.integers(1, 4)))]
            kind = "".join(map(str, rng.integers(0, 2, 16)))
            cells[f"t{number}"] = table(kind, inputs, f"t{number}")
            nets.append(f"t{number}")
        chosen = [str(net) for net in rng.choice(nets[4:], 4)]
        sums = ["s0", "s1", "c"]
        third = str(rng.choice(["0", "1", "in3"]))
        init = SUM if rng.random() < 0.5 else "".join(map(str, rng.integers(0, 2, 16)))
        cells["sum"] = adder(chosen[:2], chosen[2:], sums, init, third)
        design = netlist(cells, sums + [net for net in nets[4:] if rng.random() < 0.2])
        wanted = truth(design)
        gone += absorb_tables(design)
        assert truth(design) == wanted
    assert gone > 100
