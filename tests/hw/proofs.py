"""Proofs of hardware for all of its inputs, with Yosys' SAT solver: a block against a plain specification of it.

A pipeline without feedback gives, at constant inputs, what it would give without its registers. So these are replaced
by wires, and what is left is proved as the combinational function that it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Signal

from halfulp.boards.programs import PROGRAMS, ProgramError, run_program

__all__ = ["CounterexampleError", "prove_pipeline"]

_REGISTER_AS_WIRE = """
module \\$dff (CLK, D, Q);
  parameter WIDTH = 0;
  parameter CLK_POLARITY = 1;
  input CLK;
  input [WIDTH-1:0] D;
  output [WIDTH-1:0] Q;
  assign Q = D;
endmodule
"""

_SCRIPT = """
read_verilog design.v
hierarchy -top top
proc -noopt
flatten
opt_expr
opt_clean
setattr -unset init w:*
techmap -map wire.v
opt -full
select -assert-none t:$dff* t:$sdff* t:$adff*
sat -verify -set rst 0 -prove holds 1 {shown} top
"""


class CounterexampleError(AssertionError):
    """A proof failed; the message has inputs for which the block is wrong."""


def prove_pipeline(
    design: Elaboratable, inputs: Mapping[str, Signal], holds: Signal, folder: Path, *, timeout: float = 120.0
) -> None:
    """Prove that `holds` is 1 for all values of `inputs`.

    Parameters
    ----------
    design
        The block with its inputs, its specification, and `holds`. Enables must be constants.
    inputs
        By the name that a counterexample shows.
    folder
        Where the solver works: an empty one.

    Raises
    ------
    CounterexampleError
        With the inputs of a case in which `holds` is 0.
    """
    ports = {name: (signal, None) for name, signal in {**inputs, "holds": holds}.items()}
    (folder / "design.v").write_text(verilog.convert(design, ports=ports))
    (folder / "wire.v").write_text(_REGISTER_AS_WIRE)
    shown = " ".join(f"-show {name}" for name in inputs)
    (folder / "prove.ys").write_text(_SCRIPT.format(shown=shown))
    try:
        run_program("proof", PROGRAMS["yosys"], ["-s", "prove.ys"], folder, log="log", timeout=timeout)
    except ProgramError as error:
        found = re.findall(r"^\s+\\(\w+)\s+(-?\d+)\s", (folder / "log").read_text(), re.MULTILINE)
        if not found:
            raise
        case = ", ".join(f"{name} = {value}" for name, value in found)
        raise CounterexampleError(f"not for {case}") from error
