"""Copies of registers and tables that drive many cells of an ECP5.

A net that leads to hundreds of cells reaches from one end of what they take of the part to the other, which costs up to
10 ns, and place and route has nothing to offer against it: only clocks have wires of their own. Synthesis shares what
is equal. Here such a register or table gets copies, each for cells of neighbouring names, which lie close together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from halfulp.boards.multiplier_registers import outgoing

__all__ = ["CELLS_A_COPY", "copy_drivers"]

CELLS_A_COPY = 16
"""So many cells, about, are driven by a copy; what drives up to twice as many has none."""

COPIED = ("LUT4", "TRELLIS_FF")
"""What is copied."""

Module = dict[str, Any]


def copy_drivers(netlist: dict[str, Any], *, cells_a_copy: int = CELLS_A_COPY) -> dict[str, int]:
    """Give registers and tables of a netlist that drive many cells copies, in place.

    The netlist does the same, clock by clock, from its configuration on.

    Parameters
    ----------
    netlist
        As Yosys' `synth_ecp5` and `write_json` make it; each of its modules is looked at by itself.
    cells_a_copy
        `CELLS_A_COPY`.

    Returns
    -------
    Copies of each kind of cell.

    Raises
    ------
    ValueError
        Where a copy is to drive no cell.
    """
    if cells_a_copy < 1:
        raise ValueError(f"cells_a_copy must be at least 1, not {cells_a_copy!r}")
    made: dict[str, int] = dict.fromkeys(COPIED, 0)
    for module in netlist["modules"].values():
        numbers = _numbers(module)
        is_done = False
        # Copies are read from what may then drive many cells itself.
        while not is_done:
            is_done = True
            for kind in COPIED:
                copies = _copy(module, kind, cells_a_copy, numbers)
                made[kind] += copies
                is_done &= copies == 0
    return made


def _copy(module: Module, kind: str, cells_a_copy: int, numbers: Iterator[int]) -> int:
    cells = module["cells"]
    readers: dict[object, list[tuple[str, str, int]]] = {}
    for name, cell in cells.items():
        for port, nets in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for place, net in enumerate(nets):
                    readers.setdefault(net, []).append((name, port, place))
    leaves = set(outgoing(module))
    made = 0
    for name in [name for name, cell in cells.items() if cell["type"] == kind]:
        (port,) = (port for port, direction in cells[name]["port_directions"].items() if direction == "output")
        (net,) = cells[name]["connections"][port]
        read = sorted(readers.get(net, ()))
        # A clock has a network of its own.
        if len(read) <= 2 * cells_a_copy or net in leaves or any(port == "CLK" for _, port, _ in read):
            continue
        parts = -(-len(read) // cells_a_copy)
        for number in range(1, parts):
            twin = copy.deepcopy(cells[name])
            wire = next(numbers)
            twin["connections"][port] = [wire]
            cells[f"{name}$copy{wire}"] = twin
            module["netnames"][f"$copy{wire}"] = {"hide_name": 1, "bits": [wire], "attributes": {}}
            for reader, reads, place in read[number * len(read) // parts : (number + 1) * len(read) // parts]:
                cells[reader]["connections"][reads][place] = wire
        made += parts - 1
    return made


def _numbers(module: Module) -> Iterator[int]:
    """Numbers of nets that the module does not have yet."""
    used = [net for cell in module["cells"].values() for nets in cell["connections"].values() for net in nets]
    used += [net for port in module.get("ports", {}).values() for net in port["bits"]]
    used += [net for wire in module["netnames"].values() for net in wire["bits"]]
    number = max((net for net in used if isinstance(net, int)), default=1)
    while True:
        number += 1
        yield number
