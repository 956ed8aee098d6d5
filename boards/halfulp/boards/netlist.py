"""A board's netlist as plain Verilog: what synthesis has made of a core, cell by cell, for simulators and provers.

Yosys' own models of the cells serve where there are any that simulate quickly; the rest, after the vendors' documents,
are in the folder `cells`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from halfulp.boards.board import Board
from halfulp.boards.open_build import serial_part
from halfulp.boards.programs import PROGRAMS, run_program
from halfulp.hw.cache import cached, digest

__all__ = ["MODELS", "board_verilog", "cell_counts", "cell_models", "plain_verilog", "with_buses"]

MODELS = {"ecp5": "", "ice40": "+/ice40/cells_sim.v", "gowin": "+/gowin/cells_sim.v"}
"""Flows whose cells have models, with the file of Yosys' own that ours go beside."""

TIMEOUT = 1800.0
"""Seconds for Yosys."""

_NUMBERED = re.compile(r"(DI[AB]|DO[AB]|AD[AB]|CS[AB]|[ABCP])(\d+)")
_WITH_BUSES = ("DP16KD", "MULT18X18D")
_MEMORIES = ("DP16KD", "SDPB", "SDPX9B", "DPB", "DPX9B")
_WORDS = ("TRELLIS_DPR16X4", "RAM16SDP1", "RAM16SDP2", "RAM16SDP4")
"""Memories of 16 words, whose models know by themselves what they begin as."""
_CONSTANTS = {"VCC": ("V", "1"), "GND": ("G", "0")}
_FIXED = {"WEB": "0", "WREB": "0", "RESETA": "0", "RESETB": "0", "OCE": "1"}
"""Ports of block memories that the models take for constant, where a cell has them."""
_KNOWN = {
    "CEMUX": ("CE", "INV", "1"),
    "CLKMUX": ("CLK",),
    "LSRMUX": ("LSR",),
    "SRMODE": ("LSR_OVER_CE",),
    "WCKMUX": ("WCK",),
    "WREMUX": ("WRE",),
    "CLKAMUX": ("CLKA",),
    "CLKBMUX": ("CLKB",),
    "CSDECODE_A": ("0b000",),
    "CSDECODE_B": ("0b000",),
}
"""What the models know of what an ECP5's cells may be told of their enables, clocks and resets."""


@dataclass(frozen=True)
class _Contents:
    """How the parameters of a block memory tell what it begins as: the first of them its first words.

    Attributes
    ----------
    name
        Of a parameter, for its number in hexadecimal.
    count
        Of parameters.
    bits
        In each, the lowest first.
    unit, used
        Of each `unit` bits of a parameter the lowest `used` are of the memory.
    """

    name: str
    count: int
    bits: int
    unit: int = 1
    used: int = 1

    def joined(self, parameters: dict[str, str]) -> str:
        """All that the memory begins as, from its last bit to its first; their parameters are taken out."""
        rows = [parameters.pop(self.name.format(row), "") for row in reversed(range(self.count))]
        text = "".join(row.replace("x", "0").rjust(self.bits, "0") for row in rows)
        skipped = self.unit - self.used
        return "".join(text[at + skipped : at + self.unit] for at in range(0, len(text), self.unit))


_CONTENTS = {
    "SB_RAM40_4K": _Contents("INIT_{:X}", 16, 256),
    "DP16KD": _Contents("INITVAL_{:02X}", 64, 320, unit=20, used=18),
    **{name: _Contents("INIT_RAM_{:02X}", 64, 256) for name in ("SDPB", "DPB")},
    **{name: _Contents("INIT_RAM_{:02X}", 64, 288) for name in ("SDPX9B", "DPX9B")},
}

_BOARD = """module halfulp_core(input aclk, input aresetn, input rx, output tx);
  top board(.{clock}(aclk), .uart_0__rx__io(rx), .uart_0__tx__io(tx));
endmodule
"""

# Each bit is a signal of its own afterwards: of vectors that are driven bit by bit, simulators make loops.
_SCRIPT = """{theirs}
read_json netlist.json
read_verilog -icells -overwrite cells.v
read_verilog around.v
hierarchy -check -top {top}
proc
flatten
opt_expr
rename -hide w:* c:*
splitnets
opt_clean -purge
write_verilog -noattr simulation.v
"""


def cell_models(flow: str) -> str:
    """Verilog of our models of a flow's cells; raise ValueError where there are none."""
    if flow not in MODELS:
        raise ValueError(f"netlists of {flow} are not simulated: there are models of {', '.join(MODELS)} only")
    return files("halfulp.boards").joinpath("cells").joinpath(f"{flow}.v").read_text(encoding="utf-8")


def board_verilog(netlist: Path, *, board: Board) -> str:
    """Verilog of all that is between a board's pins, after synthesis; from the cache where it is there.

    Parameters
    ----------
    netlist
        Yosys' JSON of a board's top.
    board
        Which board.

    Returns
    -------
    One module without cells, `halfulp_core`, with the ports ``aclk``, the board's oscillator; ``rx`` and ``tx``; and
    ``aresetn``, which does nothing, for a board has no reset. The core's clock is the oscillator's here, whatever the
    PLL is set to.

    Raises
    ------
    ValueError
        Where there are no models of the part's cells, or a memory is used as none of them is; see `with_buses`.
    ProgramError
        Where Yosys is missing, fails (as it does where a cell has no model) or takes too long.
    """
    serial_part(board)
    ports = json.loads(netlist.read_bytes())["modules"]["top"]["ports"]
    clock = next(name for name in ports if name.startswith("clk"))
    return plain_verilog(netlist, flow=board.flow, top="halfulp_core", around=_BOARD.format(clock=clock))


def plain_verilog(netlist: Path, *, flow: str, top: str, around: str = "") -> str:
    """Verilog of a netlist as one module without cells; from the cache where it is there.

    Parameters
    ----------
    netlist
        Yosys' JSON.
    flow
        A key of `MODELS`.
    top
        The module.
    around
        Verilog of `top`, where it is around what is in the netlist.

    Raises
    ------
    ValueError, ProgramError
        As `board_verilog`.
    """
    models = cell_models(flow)
    theirs = f"read_verilog -defer -icells {MODELS[flow]}" if MODELS[flow] else ""
    script = _SCRIPT.format(theirs=theirs, top=top)
    modules = json.dumps(with_buses(json.loads(netlist.read_bytes())))

    def build(folder: Path) -> None:
        texts = {"netlist.json": modules, "cells.v": models, "around.v": around, "simulation.ys": script}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        arguments = ["-q", "-s", "simulation.ys"]
        run_program(f"netlist of {top}", PROGRAMS["yosys"], arguments, folder, log="yosys.log", timeout=TIMEOUT)
        (folder / "netlist.json").unlink()

    key = digest(PROGRAMS["yosys"].version(), script, models, around, modules)
    return (cached("netlist", key, build) / "simulation.v").read_text(encoding="utf-8")


def cell_counts(netlist: Path) -> dict[str, int]:
    """Cells of a netlist's top, by kind, the most frequent first."""
    cells = json.loads(netlist.read_bytes())["modules"]["top"]["cells"].values()
    return dict(Counter(cell["type"] for cell in cells).most_common())


def with_buses(netlist: dict[str, Any]) -> dict[str, Any]:
    """A netlist in Yosys' JSON without the cells' empty modules, in which an ECP5's cells have buses.

    Raises
    ------
    ValueError
        Where a memory is written to from its side B, or is reset; where a cell's enable, clock or reset is used in a
        way that its model does not know.
    """
    modules = {
        name: module
        for name, module in netlist["modules"].items()
        if not int(module["attributes"].get("blackbox", "0"), 2)
    }
    for module in modules.values():
        constants = _constants(module)
        for cell in module["cells"].values():
            _know_contents(cell)
            for name, known in _KNOWN.items():
                setting = cell["parameters"].get(name, known[0]).strip()
                if setting not in known:
                    raise ValueError(f"there is no model of a {cell['type']} whose {name} is {setting}")
            if cell["type"] in _MEMORIES:
                for port, wanted in _FIXED.items():
                    (net,) = cell["connections"].get(port, [wanted]) or [wanted]
                    if constants.get(net, net) != wanted:
                        raise ValueError(f"there is no model of a {cell['type']} whose {port} is not {wanted}")
            if cell["type"] in _WITH_BUSES:
                _join(cell)
    return {**netlist, "modules": modules}


def _constants(module: dict[str, Any]) -> dict[object, str]:
    """Nets that cells make constant, which Gowin's parts have for that."""
    drivers = [cell for cell in module["cells"].values() if cell["type"] in _CONSTANTS]
    ports = ((cell["connections"], *_CONSTANTS[cell["type"]]) for cell in drivers)
    return {nets[port][0]: value for nets, port, value in ports}


def _know_contents(cell: dict[str, Any]) -> None:
    """Make one parameter of what a block memory begins as, where that is anything but 0; what is unknown is 0."""
    parameters = cell["parameters"]
    if cell["type"] in _CONTENTS:
        contents = _CONTENTS[cell["type"]].joined(parameters)
        if "1" in contents:
            parameters["CONTENTS"] = contents
    elif cell["type"] in _WORDS:
        for name in [each for each in parameters if each.startswith("INIT")]:
            parameters[name] = parameters[name].replace("x", "0")


def _join(cell: dict[str, Any]) -> None:
    """Make buses of ports that have a number each."""
    bits: defaultdict[str, dict[int, Any]] = defaultdict(dict)
    for name in list(cell["connections"]):
        if match := _NUMBERED.fullmatch(name):
            bits[match[1]][int(match[2])] = cell["connections"].pop(name)[0]
            cell["port_directions"].pop(name)
    for bus, each in bits.items():
        cell["connections"][bus] = [each[number] for number in range(len(each))]
        cell["port_directions"][bus] = "output" if bus in ("DOA", "DOB", "P") else "input"
