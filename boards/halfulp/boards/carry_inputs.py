"""Lookup tables in front of an ECP5's adders, moved into them.

Each bit of an adder, half a CCU2C, is a lookup table of its own beside the carry: Yosys puts the sum's two operands at
two of its inputs and leaves the others alone. A table before it that only inverts an operand, or masks it, with a
signal that all bits share needs one input more, which is there: a lookup table a bit less, and a level less on the way.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["absorb_tables"]

PINS = ("A", "B", "C")
"""Inputs of a bit that are free for its operands: D chooses the upper half of the table."""

CONSTANTS = {"0": 0, "x": 0, "1": 1}

Module = dict[str, Any]
Table = tuple[int, ...]


def absorb_tables(netlist: dict[str, Any]) -> int:
    """Merge lookup tables that bits of adders read into these bits, in place, where they have the inputs.

    A table that something else reads stays, for that.

    Parameters
    ----------
    netlist
        As Yosys' `synth_ecp5` and `write_json` make it; each of its modules is looked at by itself.

    Returns
    -------
    How many lookup tables are gone.
    """
    return sum(_absorb(module) for module in netlist["modules"].values())


def _absorb(module: Module) -> int:
    cells = module["cells"]
    readers = Counter(_read(module))
    tables = {cell["connections"]["Z"][0]: name for name, cell in cells.items() if cell["type"] == "LUT4"}
    before = len(cells)
    for cell in [cell for cell in cells.values() if cell["type"] == "CCU2C"]:
        for half in (0, 1):
            # What one table leaves free, another may take.
            operands = _operands(cell, half)
            while net := _absorb_one(cell, half, cells, tables):
                readers.subtract(operands)
                operands = _operands(cell, half)
                readers.update(operands)
                if not readers[net]:
                    readers.subtract(_inputs(cells.pop(tables.pop(net))))
    return before - len(cells)


def _read(module: Module) -> Iterable[object]:
    for cell in module["cells"].values():
        yield from _inputs(cell)
    for port in module["ports"].values():
        if port["direction"] != "input":
            yield from port["bits"]


def _inputs(cell: Module) -> list[object]:
    directions = cell["port_directions"]
    return [net for port, bits in cell["connections"].items() if directions[port] != "output" for net in bits]


def _operands(cell: Module, half: int) -> list[object]:
    return [cell["connections"][f"{pin}{half}"][0] for pin in PINS]


def _absorb_one(cell: Module, half: int, cells: Module, tables: dict[object, str]) -> object:
    """Merge one of the tables before a bit into it, and return its output; None where there is none to merge."""
    wires, parameters = cell["connections"], cell["parameters"]
    if wires[f"D{half}"] != ["1"] or parameters.get(f"INJECT1_{half}", "NO").strip() != "NO":
        return None
    operands = _operands(cell, half)
    init = _bits(parameters[f"INIT{half}"])
    for place, net in enumerate(operands):
        if net not in tables or operands.count(net) > 1:
            continue
        table = cells[tables[net]]
        ahead = [table["connections"][pin][0] for pin in ("A", "B", "C", "D")]
        others = [other for number, other in enumerate(operands) if number != place]
        nets = list(dict.fromkeys(each for each in (*others, *ahead) if each not in CONSTANTS))
        if len(nets) > len(PINS):
            continue
        nets += ["0"] * (len(PINS) - len(nets))
        passes, makes = _tables(operands, net, init, ahead, _bits(table["parameters"]["INIT"]), nets)
        for order in itertools.permutations(range(len(PINS))):
            if (merged := _merged(order, passes, makes)) is not None:
                for pin, number in zip(PINS, order, strict=True):
                    wires[f"{pin}{half}"] = [nets[number]]
                parameters[f"INIT{half}"] = "".join(str(bit) for bit in reversed(merged))
                return net
    return None


def _bits(parameter: str) -> Table:
    """A table by its entries, the first one first."""
    return tuple(int(bit) for bit in reversed(parameter.strip()))


def _tables(
    operands: Sequence[object], net: object, init: Table, ahead: Sequence[object], table: Table, nets: Sequence[object]
) -> tuple[Table, Table]:
    """By values of `nets`: whether a bit passes its carry on, and the carry that it makes otherwise."""
    passes, makes = [], []
    for number in range(1 << len(nets)):
        values: dict[object, int] = {each: number >> place & 1 for place, each in enumerate(nets)} | CONSTANTS
        values[net] = table[sum(values[each] << place for place, each in enumerate(ahead))]
        index = sum(values[each] << place for place, each in enumerate(operands))
        passes.append(init[8 | index])
        makes.append(init[index & 3])
    return tuple(passes), tuple(makes)


def _merged(order: Sequence[int], passes: Table, makes: Table) -> Table | None:
    """The table of a bit whose inputs A, B and C are those of these numbers; None where it cannot be.

    The carry that is made where none is passed on may depend on A and B alone.
    """
    made: dict[int, int] = {}
    upper = [0] * 8
    for number, (passed, carry) in enumerate(zip(passes, makes, strict=True)):
        index = sum((number >> place & 1) << pin for pin, place in enumerate(order))
        upper[index] = passed
        if not passed and made.setdefault(index & 3, carry) != carry:
            return None
    lower = [made.get(index, 0) for index in range(4)]
    return (*lower, *lower, *upper)
