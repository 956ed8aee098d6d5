"""Registers beside an ECP5's multipliers, moved into them.

Yosys makes a bare multiplier of a product, with registers of fabric before and behind it: 4 ns in the multiplier, and
the way to it and from it. The block has registers of its own at its inputs and at its output, from which a product
leaves after 0.7 ns. Where all of a multiplier's inputs come from registers, or its whole output goes into registers
and nowhere else, these are as good as its own. Where there are two registers before it, one of them is moved behind
the product: the way on from the multiplier, which is far from the lookup tables, then has a clock to itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["PLAIN_REGISTER", "UNUSED", "absorb_registers", "inputs", "outgoing"]

FACTORS = ("A", "B")

FACTOR_BITS, PRODUCT_BITS = 18, 36

PLAIN_REGISTER = {"CEMUX": "1", "CLKMUX": "CLK", "REGSET": "RESET"}
"""Parameters of a register that takes its input at each rising edge, and begins as 0."""

UNUSED = (["0"], [])
"""How a register's reset is connected that has none."""

Module = dict[str, Any]


def absorb_registers(netlist: dict[str, Any]) -> int:
    """Give the multipliers of a netlist their own registers, in place, and take those of fabric away.

    The netlist does the same, clock by clock, from its configuration on. Registers with an enable or a reset stay, as
    do those of inputs that something else reads: the multiplier then has a copy of them.

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
    before = len(cells)
    multipliers = [cell for cell in cells.values() if cell["type"] == "MULT18X18D"]
    nets = _Nets(module)
    for multiplier in multipliers:
        near = nets.registers_ahead(multiplier)
        far = nets.registers_before(near)
        if far and _can_clock(multiplier, cells, {**far, **{f"near {port}": name for port, name in near.items()}}):
            # Both begin as 0, and so does their product.
            _enable(multiplier, _clock(cells, near), "OUTPUT")
            for port, name in near.items():
                multiplier["connections"][port] = cells[name]["connections"]["DI"]
    nets = _Nets(module)
    for multiplier in multipliers:
        if _is_clocked(multiplier, "OUTPUT"):
            continue
        behind = nets.registers_behind(multiplier)
        if _can_clock(multiplier, cells, behind):
            _enable(multiplier, _clock(cells, behind), "OUTPUT")
            for port, name in behind.items():
                multiplier["connections"][port] = cells.pop(name)["connections"]["Q"]
    # Registers between two multipliers are gone by now: each belongs to the first.
    nets = _Nets(module)
    for multiplier in multipliers:
        ahead = nets.registers_ahead(multiplier)
        if _can_clock(multiplier, cells, ahead):
            _enable(multiplier, _clock(cells, ahead), "INPUTA", "INPUTB")
            for port, name in ahead.items():
                multiplier["connections"][port] = cells[name]["connections"]["DI"]
    if multipliers:
        _remove_unread(module)
    return before - len(cells)


class _Nets:
    """Who drives and who reads each net of a module."""

    def __init__(self, module: Module) -> None:
        self._cells = module["cells"]
        self._register_of: dict[object, str] = {}
        self._readers: dict[object, list[tuple[str, str]]] = defaultdict(list)
        for name, cell in self._cells.items():
            if _is_plain_register(cell):
                self._register_of[cell["connections"]["Q"][0]] = name
            for port, net in inputs(cell):
                self._readers[net].append((name, port))
        for net in outgoing(module):
            self._readers[net].append(("", ""))

    def registers_behind(self, multiplier: Module) -> dict[str, str]:
        """The register of each bit of a product by its port; nothing where one bit is read by anything else."""
        found = {}
        for port in _ports("P", PRODUCT_BITS):
            for net in multiplier["connections"].get(port, []):
                readers = self._readers[net]
                if not readers:
                    continue
                name, pin = readers[0]
                if len(readers) > 1 or pin != "DI" or not _is_plain_register(self._cells[name]):
                    return {}
                found[port] = name
        return found

    def registers_before(self, registers: Mapping[str, str]) -> dict[str, str]:
        """The register before each of `registers`; nothing where there is none before one of them."""
        inputs = {port: self._cells[name]["connections"]["DI"][0] for port, name in registers.items()}
        if not all(net in self._register_of for net in inputs.values()):
            return {}
        return {port: self._register_of[net] for port, net in inputs.items()}

    def registers_ahead(self, multiplier: Module) -> dict[str, str]:
        """The register of each bit of the factors by its port; nothing where one bit comes from anything else."""
        found = {}
        for port in (port for factor in FACTORS for port in _ports(factor, FACTOR_BITS)):
            for net in multiplier["connections"].get(port, []):
                if net in ("0", "x"):
                    continue
                if net not in self._register_of:
                    return {}
                found[port] = self._register_of[net]
        return found


def _ports(name: str, bits: int) -> list[str]:
    return [f"{name}{bit}" for bit in range(bits)]


def _is_plain_register(cell: Module) -> bool:
    if cell["type"] != "TRELLIS_FF":
        return False
    parameters = cell["parameters"]
    # Yosys writes a parameter that could be read as a binary number with a space behind it.
    plain = all(parameters.get(name, value).strip() == value for name, value in PLAIN_REGISTER.items())
    return plain and cell["connections"].get("LSR", []) in UNUSED


def inputs(cell: Module) -> Iterable[tuple[str, object]]:
    """What a cell reads: the port and the net of each bit."""
    for port, nets in cell["connections"].items():
        if cell["port_directions"][port] != "output":
            for net in nets:
                yield port, net


def outgoing(module: Module) -> Iterable[object]:
    """The nets that a module shows at its ports."""
    return (net for port in module["ports"].values() if port["direction"] != "input" for net in port["bits"])


def _clock(cells: Module, registers: Mapping[str, str]) -> object:
    return cells[next(iter(registers.values()))]["connections"]["CLK"][0]


def _can_clock(multiplier: Module, cells: Module, registers: Mapping[str, str]) -> bool:
    """Whether there are registers, all of one clock, and that the multiplier's own so far."""
    clocks = {cells[name]["connections"]["CLK"][0] for name in registers.values()}
    if _is_clocked(multiplier, "OUTPUT"):
        clocks.update(multiplier["connections"]["CLK0"])
    return bool(registers) and len(clocks) == 1


def _is_clocked(multiplier: Module, register: str) -> bool:
    return multiplier["parameters"].get(f"REG_{register}_CLK", "NONE").strip() == "CLK0"


def _enable(multiplier: Module, clock: object, *registers: str) -> None:
    for name in registers:
        multiplier["parameters"] |= {f"REG_{name}_CLK": "CLK0", f"REG_{name}_CE": "CE0", f"REG_{name}_RST": "RST0"}
    multiplier["parameters"]["RESETMODE"] = "SYNC"
    multiplier["connections"] |= {"CLK0": [clock], "CE0": ["1"], "RST0": ["0"]}
    multiplier["port_directions"] |= {"CLK0": "input", "CE0": "input", "RST0": "input"}


def _remove_unread(module: Module) -> None:
    """Take plain registers away that nothing reads, and those that nothing reads then."""
    cells = module["cells"]
    while True:
        read = {net for cell in cells.values() for _, net in inputs(cell)} | set(outgoing(module))
        registers = [name for name, cell in cells.items() if _is_plain_register(cell)]
        unread = [name for name in registers if cells[name]["connections"]["Q"][0] not in read]
        if not unread:
            return
        for name in unread:
            del cells[name]
