"""Netlists of synthesised designs proved equal to their sources, by our models of the cells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from halfulp.boards.netlist import cell_models, with_buses
from halfulp.boards.programs import PROGRAMS, ProgramError, run_program

__all__ = ["NotEquivalentError", "prove_equivalent"]

_EQUIVALENCE = """
read_verilog block.v
hierarchy -top {top}
proc
flatten
opt_clean
rename -hide w:*$*
design -stash gold
read_json gate.json
read_verilog -icells -overwrite cells.v
hierarchy -check -top {top}
proc
flatten
opt_clean
rename -hide w:*$*
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


def prove_equivalent(
    verilog: str,
    netlist: dict[str, Any],
    *,
    top: str,
    folder: Path,
    timeout: float = 800.0,
) -> int:
    """Prove that a netlist does the same as its source, from equal states on; return of how many bits.

    Signals of one name are taken for the same in both, and proved to be so with the outputs by induction. Names that
    were made up are not looked at.
    """
    gate = with_buses(netlist)
    (folder / "block.v").write_text(verilog)
    (folder / "gate.json").write_text(json.dumps(gate))
    (folder / "cells.v").write_text(cell_models("ecp5"))
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
