"""Netlists of synthesised designs proved equal to their sources, by own models of the cells."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from halfulp.boards.programs import PROGRAMS, ProgramError, run_program

__all__ = ["NotEquivalentError", "prove_equivalent", "with_buses"]

CELLS = Path(__file__).parent / "ecp5_cells.v"

_NUMBERED = re.compile(r"(DI[AB]|DO[AB]|AD[AB]|CS[AB]|[ABCP])(\d+)")
_WITH_BUSES = ("DP16KD", "MULT18X18D")


def with_buses(netlist: dict[str, Any]) -> dict[str, Any]:
    """A netlist in Yosys' JSON, in which cells that have a port for every bit have buses, and no initial contents.

    Raises
    ------
    ValueError
        Where a memory begins as something other than 0, or a cell has no model.
    """
    models = set(re.findall(r"^module (\w+)", CELLS.read_text(), re.MULTILINE))
    modules = {
        name: module
        for name, module in netlist["modules"].items()
        if not int(module["attributes"].get("blackbox", "0"), 2)
    }
    for module in modules.values():
        for cell in module["cells"].values():
            kind, parameters = cell["type"], cell["parameters"]
            if kind not in models | set(modules):
                raise ValueError(f"there is no model of the cell {kind}")
            for name in [each for each in parameters if each.startswith("INITVAL")]:
                if "1" in parameters.pop(name):
                    raise ValueError(f"the contents of a {kind} must begin as 0")
            if kind in _WITH_BUSES:
                _join(cell)
    return {**netlist, "modules": modules}


def _join(cell: dict[str, Any]) -> None:
    bits: defaultdict[str, dict[int, Any]] = defaultdict(dict)
    for name in list(cell["connections"]):
        if match := _NUMBERED.fullmatch(name):
            bits[match[1]][int(match[2])] = cell["connections"].pop(name)[0]
            cell["port_directions"].pop(name)
    for bus, each in bits.items():
        cell["connections"][bus] = [each[number] for number in range(len(each))]
        cell["port_directions"][bus] = "output" if bus in ("DOA", "DOB", "P") else "input"


_EQUIVALENCE = """
read_verilog block.v
hierarchy -top {top}
proc
flatten
opt_clean
design -stash gold
read_json gate.json
read_verilog -icells -overwrite cells.v
hierarchy -check -top {top}
proc
flatten
opt_clean
design -stash gate
design -copy-from gold -as gold {top}
design -copy-from gate -as gate {top}
equiv_make gold gate both
hierarchy -top both
opt -full
equiv_struct
equiv_simple
equiv_induct -seq 4
equiv_status -assert
"""


class NotEquivalentError(AssertionError):
    """A netlist could not be proved to do what its source does; the message has the signals."""


def prove_equivalent(verilog: str, netlist: dict[str, Any], *, top: str, folder: Path, timeout: float = 800.0) -> int:
    """Prove that a netlist does the same as its source, from equal states on; return of how many bits.

    Signals of one name are taken for the same in both, and proved to be so with the outputs by induction.
    """
    (folder / "block.v").write_text(verilog)
    (folder / "gate.json").write_text(json.dumps(with_buses(netlist)))
    (folder / "cells.v").write_text(CELLS.read_text())
    (folder / "equivalence.ys").write_text(_EQUIVALENCE.format(top=top))
    log = folder / "equivalence.log"
    try:
        arguments = ["-s", "equivalence.ys"]
        run_program("equivalence", PROGRAMS["yosys"], arguments, folder, log=log.name, timeout=timeout)
    except ProgramError as error:
        unproved = re.findall(r"^  Unproven \$equiv \S+ (.*)$", log.read_text(), re.MULTILINE)
        if not unproved:
            raise
        raise NotEquivalentError(f"{len(unproved)} bits, of which {unproved[0]}") from error
    proved = re.search(r"Of those cells (\d+) are proven and 0 are unproven", log.read_text())
    assert proved is not None
    return int(proved[1])
