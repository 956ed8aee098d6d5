"""Registers moved into multipliers: a netlist does the same before and after, clock by clock, and loses registers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from halfulp.boards.multiplier_registers import absorb_registers

BITS = 2
"""Of the factors here, whose upper bits are 0; products have twice as many."""


def register(d: object, q: object, **changes: Any) -> dict[str, Any]:
    parameters = {"CEMUX": "1 ", "CLKMUX": "CLK", "LSRMUX": "LSR", "REGSET": "RESET", **changes.pop("parameters", {})}
    connections = {"CLK": ["clk"], "DI": [d], "LSR": ["0"], "Q": [q], **changes}
    directions = {port: "output" if port == "Q" else "input" for port in connections}
    return {"type": "TRELLIS_FF", "parameters": parameters, "connections": connections, "port_directions": directions}


def multiplier(a: list[object], b: list[object], p: list[object]) -> dict[str, Any]:
    connections = {f"A{bit}": [a[bit] if bit < len(a) else "0"] for bit in range(18)}
    connections |= {f"B{bit}": [b[bit] if bit < len(b) else "0"] for bit in range(18)}
    connections |= {f"P{bit}": [p[bit]] if bit < len(p) else [] for bit in range(36)}
    directions = {port: "output" if port[0] == "P" else "input" for port in connections}
    parameters = {"REG_INPUTA_CLK": "NONE", "REG_INPUTB_CLK": "NONE", "REG_OUTPUT_CLK": "NONE"}
    return {"type": "MULT18X18D", "parameters": parameters, "connections": connections, "port_directions": directions}


def netlist(cells: dict[str, Any], outputs: list[object]) -> dict[str, Any]:
    return {"modules": {"top": {"ports": {"out": {"direction": "output", "bits": outputs}}, "cells": cells}}}


def run(design: dict[str, Any], stimuli: list[dict[str, int]]) -> list[list[int]]:
    """What the outputs are in each clock, by a model of both kinds of cells, whose registers begin as 0."""
    module = design["modules"]["top"]
    cells = module["cells"]
    state: dict[tuple[str, str], int] = {}
    seen = []
    for inputs in stimuli:
        values: dict[object, int] = {"0": 0, "1": 1, **inputs}
        for name, cell in cells.items():
            if cell["type"] == "TRELLIS_FF":
                values[cell["connections"]["Q"][0]] = state.get((name, "Q"), 0)
        todo = [name for name, cell in cells.items() if cell["type"] == "MULT18X18D"]
        while todo:
            left = [name for name in todo if not settle(name, cells[name], values, state)]
            assert len(left) < len(todo), "a loop"
            todo = left
        seen.append([values[net] for net in module["ports"]["out"]["bits"]])
        after = {}
        for name, cell in cells.items():
            wires = cell["connections"]
            if cell["type"] == "TRELLIS_FF":
                kept = state.get((name, "Q"), 0)
                enabled = cell["parameters"]["CEMUX"].strip() == "1" or values[wires["CE"][0]]
                begun = 0 if cell["parameters"]["REGSET"] == "RESET" else 1
                after[name, "Q"] = begun if values[wires["LSR"][0]] else values[wires["DI"][0]] if enabled else kept
                continue
            for factor in "AB":
                after[name, factor] = number(wires, factor, 18, values)
            after[name, "P"] = product(name, cell, values, state)
        state = after
    return seen


def number(wires: dict[str, list[object]], port: str, bits: int, values: dict[object, int]) -> int:
    return sum(values[wires[f"{port}{bit}"][0]] << bit for bit in range(bits))


def product(name: str, cell: dict[str, Any], values: dict[object, int], state: dict[tuple[str, str], int]) -> int:
    """What the multiplier's array makes, before a register at its output."""
    factors = []
    for factor in "AB":
        own = cell["parameters"][f"REG_INPUT{factor}_CLK"] == "CLK0"
        factors.append(state.get((name, factor), 0) if own else number(cell["connections"], factor, 18, values))
    return factors[0] * factors[1]


def settle(name: str, cell: dict[str, Any], values: dict[object, int], state: dict[tuple[str, str], int]) -> bool:
    """Set a multiplier's output; return whether all that it needs was there."""
    wires, parameters = cell["connections"], cell["parameters"]
    if parameters["REG_OUTPUT_CLK"] == "CLK0":
        result = state.get((name, "P"), 0)
    else:
        needed = [wires[f"{factor}{bit}"][0] for factor in "AB" for bit in range(18)]
        if parameters["REG_INPUTA_CLK"] == "NONE" and any(net not in values for net in needed):
            return False
        result = product(name, cell, values, state)
    for bit in range(36):
        for net in wires[f"P{bit}"]:
            values[net] = result >> bit & 1
    return True


def test_registers_on_both_sides_become_the_multipliers_own():
    cells: dict[str, Any] = {f"a{i}": register(f"in{i}", f"a{i}") for i in range(4)}
    cells["m"] = multiplier(["a0", "a1"], ["a2", "a3"], [f"p{i}" for i in range(4)])
    cells |= {f"q{i}": register(f"p{i}", f"q{i}") for i in range(4)}
    design = netlist(cells, [f"q{i}" for i in range(4)])
    assert absorb_registers(design) == 8
    (left,) = design["modules"]["top"]["cells"].values()
    assert left["connections"]["A1"] == ["in1"]
    assert left["connections"]["P3"] == ["q3"]
    assert (left["connections"]["CLK0"], left["connections"]["CE0"], left["connections"]["RST0"]) == (
        ["clk"],
        ["1"],
        ["0"],
    )
    enabled = {name: value for name, value in left["parameters"].items() if name.endswith("_CLK")}
    assert set(enabled.values()) == {"CLK0"}
    assert len(enabled) == 3


def test_of_two_registers_before_a_multiplier_one_is_moved_behind_its_product():
    cells: dict[str, Any] = {f"a{i}": register(f"in{i}", f"a{i}") for i in range(4)}
    cells |= {f"b{i}": register(f"a{i}", f"b{i}") for i in range(4)}
    cells["m"] = multiplier(["b0", "b1"], ["b2", "b3"], [f"p{i}" for i in range(4)])
    cells |= {f"q{i}": register(f"p{i}", f"q{i}") for i in range(4)}
    design = netlist(cells, ["a0", *(f"q{i}" for i in range(4))])
    stimuli = [{f"in{i}": n * 7 >> i & 1 for i in range(4)} for n in range(20)]
    before = run(design, stimuli)
    assert absorb_registers(design) == 7  # what neighbours read stays, and what takes the product
    assert run(design, stimuli) == before
    multiplies = design["modules"]["top"]["cells"]["m"]
    assert multiplies["connections"]["A1"] == ["in1"]
    assert multiplies["connections"]["P3"] == ["p3"]
    assert all(multiplies["parameters"][f"REG_{name}_CLK"] == "CLK0" for name in ("INPUTA", "INPUTB", "OUTPUT"))


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, 4),
        ({"parameters": {"CEMUX": "CE"}, "CE": ["in0"]}, 0),
        ({"LSR": ["in0"]}, 0),
        ({"parameters": {"REGSET": "SET"}}, 0),
        ({"parameters": {"CLKMUX": "INV"}}, 0),
    ],
)
def test_what_a_multipliers_register_cannot_do_stays(changes: dict[str, Any], taken: int):
    cells: dict[str, Any] = {"m": multiplier(["in0", "in1"], ["in2", "in3"], [f"p{i}" for i in range(4)])}
    cells |= {f"q{i}": register(f"p{i}", f"q{i}") for i in range(3)}
    cells["q3"] = register("p3", "q3", **copy.deepcopy(changes))
    assert absorb_registers(netlist(cells, [f"q{i}" for i in range(4)])) == taken


def test_registers_of_two_clocks_stay():
    cells: dict[str, Any] = {"m": multiplier(["in0", "in1"], ["in2", "in3"], [f"p{i}" for i in range(4)])}
    cells |= {f"q{i}": register(f"p{i}", f"q{i}", CLK=["clk", "other"][i % 2 :][:1]) for i in range(4)}
    assert absorb_registers(netlist(cells, [f"q{i}" for i in range(4)])) == 0


def test_a_product_that_is_read_at_once_stays_where_it_is():
    cells: dict[str, Any] = {"m": multiplier(["in0", "in1"], ["in2", "in3"], [f"p{i}" for i in range(4)])}
    cells |= {f"q{i}": register(f"p{i}", f"q{i}") for i in range(4)}
    assert absorb_registers(netlist(cells, ["p0", *(f"q{i}" for i in range(4))])) == 0


def random_netlist(rng: np.random.Generator) -> dict[str, Any]:
    """Multipliers and registers in random order, each fed by any nets before it; most of the nets are outputs."""
    nets: list[object] = [f"in{i}" for i in range(4)]
    cells: dict[str, Any] = {}
    for number in range(rng.integers(2, 7)):
        chosen = [str(nets[i]) for i in rng.integers(max(0, len(nets) - 8), len(nets), 2 * BITS)]
        sources: list[object] = list(chosen)
        if rng.random() < 0.7:
            for i, net in enumerate(chosen):
                sources[i] = f"f{number}_{i}"
                cells[f"f{number}_{i}"] = register(net, sources[i])
                if rng.random() < 0.3:
                    nets.append(sources[i])
            if rng.random() < 0.5:
                first, sources = sources, list[object](f"g{number}_{i}" for i in range(2 * BITS))
                cells |= {str(new): register(old, new) for new, old in zip(sources, first, strict=True)}
        made: list[object] = [f"p{number}_{i}" for i in range(2 * BITS)]
        cells[f"m{number}"] = multiplier(sources[:BITS], sources[BITS:], made)
        if rng.random() < 0.8:
            for i, net in enumerate(made):
                has_enable = rng.random() < 0.05
                changes = {"parameters": {"CEMUX": "CE"}, "CE": ["in0"]} if has_enable else {}
                cells[f"q{number}_{i}"] = register(net, f"q{number}_{i}", **changes)
            made = [f"q{number}_{i}" for i in range(2 * BITS)]
        nets += made
    outputs = [net for net in nets[4:] if rng.random() < 0.5]
    return netlist(cells, outputs or nets[-1:])


def test_any_netlist_does_the_same_as_before(rng: np.random.Generator):
    gone = 0
    for _ in range(300):
        design = random_netlist(rng)
        stimuli = [{f"in{i}": int(bit) for i, bit in enumerate(bits)} for bits in rng.integers(0, 2, (12, 4))]
        before = run(design, stimuli)
        gone += absorb_registers(design)
        assert run(design, stimuli) == before
    assert gone > 1000
