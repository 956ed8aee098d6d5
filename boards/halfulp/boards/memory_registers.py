"""Registers behind an ECP5's memory blocks, moved into them.

A word leaves a memory block 5.8 ns after the clock in which it is read. The block has a register of its own at its
output, which Yosys does not use: where all that is read goes into registers of one clock and enable and nowhere else,
these are as good as that.
"""

from __future__ import annotations

from typing import Any

from halfulp.boards.multiplier_registers import PLAIN_REGISTER, UNUSED, inputs, outgoing

__all__ = ["absorb_memory_registers"]

WHOLE_WIDTH = 36
"""Of a block's words. A narrower one is written by side A and read by side B; this takes both sides for either."""

Module = dict[str, Any]


def absorb_memory_registers(netlist: dict[str, Any]) -> int:
    """Have the memory blocks of a netlist use the registers at their outputs, in place, and take those of fabric away.

    The netlist does the same, clock by clock, from its configuration on.

    Parameters
    ----------
    netlist
        As Yosys' `synth_ecp5` and `write_json` make it; each of its modules is looked at by itself.

    Returns
    -------
    How many registers, of a bit each, are gone.
    """
    return sum(_absorb(module) for module in netlist["modules"].values())


def _absorb(module: Module) -> int:
    cells = module["cells"]
    blocks = [cell for cell in cells.values() if cell["type"] == "DP16KD"]
    if not blocks:
        return 0
    before = len(cells)
    readers: dict[object, list[str]] = {net: [""] for net in outgoing(module)}
    for name, cell in cells.items():
        for port, net in inputs(cell):
            readers.setdefault(net, []).append(name if port == "DI" else "")
    for block in blocks:
        registers = _registers_behind(block, cells, readers)
        enable = _enable(block, [cells[name] for name in registers.values()])
        if enable is None:
            continue
        for port, name in registers.items():
            block["connections"][port] = cells.pop(name)["connections"]["Q"]
        for side in _sides(block):
            block["parameters"][f"REGMODE_{side}"] = "OUTREG"
            block["connections"][f"OCE{side}"] = [enable]
            block["port_directions"][f"OCE{side}"] = "input"
    return before - len(cells)


def _sides(block: Module) -> str:
    """The sides whose outputs are used."""
    width = int(block["parameters"]["DATA_WIDTH_B"].strip(), 2)
    return "AB" if width == WHOLE_WIDTH else "B"


def _registers_behind(block: Module, cells: Module, readers: dict[object, list[str]]) -> dict[str, str]:
    """The register of each output by its port; nothing where one is read by anything else."""
    found = {}
    for side in "AB":
        for port in (f"DO{side}{bit}" for bit in range(18)):
            for net in block["connections"].get(port, []):
                names = readers.get(net, [])
                if not names:
                    continue
                if (
                    len(names) > 1
                    or not names[0]
                    or cells[names[0]]["type"] != "TRELLIS_FF"
                    or side not in _sides(block)
                ):
                    return {}
                found[port] = names[0]
    return found


def _enable(block: Module, registers: list[Module]) -> object:
    """What enables all of these registers, "1" where nothing does; None where the block's own cannot be them."""
    enables, clocks = set(), set()
    for register in registers:
        parameters, wires = register["parameters"], register["connections"]
        given = {name: parameters.get(name, value).strip() for name, value in PLAIN_REGISTER.items()}
        if given.pop("CEMUX") not in ("1", "CE") or wires.get("LSR", []) not in UNUSED:
            return None
        if any(value != PLAIN_REGISTER[name] for name, value in given.items()):
            return None
        enables.add(wires["CE"][0] if parameters.get("CEMUX", "1").strip() == "CE" else "1")
        clocks.add(wires["CLK"][0])
    clocks |= {net for side in "AB" for net in block["connections"].get(f"CLK{side}", [])}
    idle = all(block["connections"].get(f"RST{side}", []) in UNUSED for side in "AB")
    return enables.pop() if len(enables) == len(clocks) == 1 and idle else None
