"""Synthesis by Yosys: Verilog to a part's cells, and what they take of the part."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from halfulp.boards import carry_inputs, fan_out, memory_registers, multiplier_registers
from halfulp.boards.programs import PROGRAMS, run_program
from halfulp.hw.cache import cached, digest
from halfulp.numerics.names import unknown_name

__all__ = ["FAMILIES", "Area", "Family", "Synthesis", "compare_map", "synthesise"]

TIMEOUT = 3600.0
"""Seconds for one run of Yosys: an array of 16×16 takes a few minutes, and several times as long on a busy machine."""

MULTIPLIERS = ("dsps", "luts", "booth")
"""What products can be made of; see `synthesise`."""

COMPARE = "compare.v"
"""What maps comparisons to LUTs."""

PROCESSING_ELEMENT = re.compile(r"^module (\\\S+pe_\d+_\d+ |\w+pe_\d+_\d+)", re.MULTILINE)
"""Modules that an array holds many copies of."""


@dataclass(frozen=True)
class Area:
    """Cells of a design, in the units in which the part's data sheet counts."""

    luts: float = 0
    flip_flops: float = 0
    dsps: float = 0
    block_rams: float = 0

    def __add__(self, other: Area) -> Area:
        return Area(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def __mul__(self, factor: float) -> Area:
        return Area(*(factor * value for value in asdict(self).values()))


@dataclass(frozen=True, kw_only=True)
class Family:
    """How Yosys makes cells of a family of parts, and what each of them takes.

    Attributes
    ----------
    command
        The synthesis command with its options.
    dsps, no_dsps
        What is added to `command` to have products made of DSP blocks, and to keep them out of these.
    hides_brackets
        Whether LUTs are mapped by ABC9, which takes ``word[1]``, a signal's own name, for a bit of ``word``, and then
        stops, or not, depending on what else there is: such signals lose their names before.
    controlled
        Cells that flip-flops are made of, where a tile's share one enable and one reset: only those that at least
        `LEAST_CONTROLLED` flip-flops have in common are such then, and others are made of LUTs. A part that is nearly
        full cannot be placed else.
    compares_in_luts
        Whether comparisons are made of LUTs rather than of carry chains; see ``maps/compare.v``.
    cells
        By the pattern of a cell's name: luts, flip-flops, DSP blocks, block RAMs.
    """

    command: str
    cells: Mapping[str, tuple[float, float, float, float]]
    dsps: str = ""
    no_dsps: str = ""
    hides_brackets: bool = False
    controlled: str = ""
    compares_in_luts: bool = False

    def area(self, counts: Mapping[str, int]) -> Area:
        """What cells, counted by type, take; types that take nothing of their own are not in the table."""
        total = Area()
        for name, count in counts.items():
            for pattern, each in self.cells.items():
                if re.fullmatch(pattern, name):
                    total += Area(*each) * count
                    break
        return total


LEAST_CONTROLLED = 4
"""Half a tile of an iCE40: a core of 5,000 cells takes 7 % more of them with 24, three tiles."""

_ICE40_FLIP_FLOPS = (
    "-cell $_DFF_?_ 0 -cell $_DFFE_?P_ 0 -cell $_DFF_?P?_ 0 -cell $_DFFE_?P?P_ 0 -cell $_SDFF_?P?_ 0 "
    "-cell $_SDFFCE_?P?P_ 0"
)

_GOWIN_CELLS = {
    "LUT[1-4]": (1, 0, 0, 0),
    "ALU": (1, 0, 0, 0),
    "RAM16S.*": (4, 0, 0, 0),
    "DFF.*": (0, 1, 0, 0),
    "MULT18X18|MULTALU18X18|MULTADDALU18X18": (0, 0, 1, 0),
    "MULT9X9": (0, 0, 0.5, 0),
    "MULT36X36|MULTALU36X18": (0, 0, 2, 0),
    "(S|D|SD)P(X9)?B?|pROM(X9)?": (0, 0, 0, 1),
}

_XILINX_CELLS = {
    "LUT[1-6]": (1, 0, 0, 0),
    "RAM32M|RAM64M|RAM128X1D": (4, 0, 0, 0),
    "RAM(32M16|64M8)": (8, 0, 0, 0),
    "RAM(32|64)X1D": (2, 0, 0, 0),
    "SRL.*": (1, 0, 0, 0),
    "FD[RSCP]E.*|FD[RSCP]E_1": (0, 1, 0, 0),
    "DSP48E[12]": (0, 0, 1, 0),
    "RAMB18E[12]": (0, 0, 0, 0.5),
    "RAMB36E[12]": (0, 0, 0, 1),
}

FAMILIES = {
    # Wide multiplexers of LUTs cost 40 % more of them here than they save, 2 % of a Gowin part's, where they make place
    # and route slow. No design of this project looks at a word that is read in the clock in which it is written.
    "ecp5": Family(
        command="synth_ecp5 -nowidelut -no-rw-check",
        no_dsps="-nodsp",
        hides_brackets=True,
        cells={
            "LUT4": (1, 0, 0, 0),
            "CCU2C": (2, 0, 0, 0),
            "TRELLIS_DPR16X4": (4, 0, 0, 0),
            "TRELLIS_FF": (0, 1, 0, 0),
            "MULT18X18D": (0, 0, 1, 0),
            "MULT9X9D": (0, 0, 0.5, 0),
            "DP16KD|PDPW16KD": (0, 0, 0, 1),
        },
    ),
    "ice40-hx": Family(
        command="synth_ice40 -device hx -no-rw-check",
        controlled=_ICE40_FLIP_FLOPS,
        compares_in_luts=True,
        # A carry that no LUT shares takes a cell of its own; place and route tells how many those are.
        cells={"SB_LUT4": (1, 0, 0, 0), "SB_DFF.*": (0, 1, 0, 0), "SB_RAM40_4K.*": (0, 0, 0, 1)},
    ),
    "ice40-up": Family(
        command="synth_ice40 -device u -no-rw-check",
        controlled=_ICE40_FLIP_FLOPS,
        compares_in_luts=True,
        dsps="-dsp",
        cells={
            "SB_LUT4": (1, 0, 0, 0),
            "SB_DFF.*": (0, 1, 0, 0),
            "SB_MAC16": (0, 0, 1, 0),
            "SB_RAM40_4K.*": (0, 0, 0, 1),
        },
    ),
    **{
        name: Family(
            command=f"synth_gowin -family {name} -nowidelut",
            no_dsps="-nodsp",
            hides_brackets=True,
            compares_in_luts=True,
            cells=_GOWIN_CELLS,
        )
        for name in ("gw1n", "gw2a")
    },
    "xc7": Family(command="synth_xilinx -family xc7", no_dsps="-nodsp", cells=_XILINX_CELLS),
    # Yosys never packs an accumulator into a DSP48E2, so what it counts here is more than a vendor's tools need.
    "xcup": Family(command="synth_xilinx -family xcup", no_dsps="-nodsp", cells=_XILINX_CELLS),
}
"""By name."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """A synthesised design.

    Attributes
    ----------
    netlist
        Yosys' JSON, for place and route.
    area
        What its cells take.
    """

    netlist: Path
    area: Area


def synthesise(
    sources: Mapping[str, str],
    *,
    top: str,
    family: str,
    what: str,
    multipliers: str = "dsps",
    share_elements: bool = False,
    timeout: float = TIMEOUT,
) -> Synthesis:
    """Synthesise a design, or take the outcome of having done so before from the cache.

    Parameters
    ----------
    sources
        Text of each file by its name, which ends in ``.v`` (Verilog) or ``.il`` (RTLIL).
    top
        The top module.
    family
        A key of `FAMILIES`.
    what
        What is synthesised, for messages.
    multipliers
        What products are made of: ``dsps``, ``luts``, or ``booth`` for LUTs in Booth's form, which is smaller for
        factors of more than about 5 bits.
    share_elements
        Whether the processing elements of an array are synthesised once for all of the same kind: for a large array
        several times as fast, for 2 % more LUTs, because nothing is optimised across their borders.
    timeout
        Seconds.

    Raises
    ------
    ValueError
        Where `multipliers` is nothing of these.
    ProgramError
        Where Yosys is missing, fails or takes too long.
    """
    if multipliers not in MULTIPLIERS:
        raise unknown_name("kind of multipliers", multipliers, MULTIPLIERS)
    kept = sorted({name for text in sources.values() for name in _elements(text)}) if share_elements else []
    script = _script(FAMILIES[family], list(sources), top, kept, multipliers)
    yosys = PROGRAMS["yosys"]
    parts = [text for item in sorted(sources.items()) for text in item]
    compare = compare_map() if FAMILIES[family].compares_in_luts else ""
    improves = family == "ecp5"

    def build(folder: Path) -> None:
        for name, text in sources.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "synthesis.ys").write_text(script, encoding="utf-8")
        if compare:
            (folder / COMPARE).write_text(compare, encoding="utf-8")
        arguments = ["-q", "-l", "synthesis.log", "synthesis.ys"]
        run_program(what, yosys, arguments, folder, log="yosys.log", timeout=timeout)
        if improves:
            _use_inside_of_cells(folder)

    if compare:
        parts.append(compare)
    if improves:
        parts += map(inspect.getsource, (multiplier_registers, memory_registers, carry_inputs, fan_out))
    folder = cached("synthesis", digest(yosys.version(), script, *parts), build)
    statistics = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
    counts = statistics["design"].get("num_cells_by_type", {})
    return Synthesis(netlist=folder / "netlist.json", area=FAMILIES[family].area(counts))


def _use_inside_of_cells(folder: Path) -> None:
    """Have multipliers and memories use their own registers, and adders their tables; count the cells that are left."""
    netlist = json.loads((folder / "netlist.json").read_text(encoding="utf-8"))
    registers = multiplier_registers.absorb_registers(netlist) + memory_registers.absorb_memory_registers(netlist)
    gone = {"TRELLIS_FF": registers, "LUT4": carry_inputs.absorb_tables(netlist)}
    for kind, number in fan_out.copy_drivers(netlist).items():
        gone[kind] -= number
    (folder / "netlist.json").write_text(json.dumps(netlist), encoding="utf-8")
    statistics = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
    counts = statistics["design"].get("num_cells_by_type", {})
    for kind, number in gone.items():
        if number:
            counts[kind] -= number
    (folder / "cells.json").write_text(json.dumps(statistics), encoding="utf-8")


def compare_map() -> str:
    """Verilog that maps comparisons to LUTs, for Yosys' `techmap`."""
    return files("halfulp.boards").joinpath("maps").joinpath(COMPARE).read_text(encoding="utf-8")


def _elements(verilog: str) -> list[str]:
    return [name.strip().lstrip("\\") for name in PROCESSING_ELEMENT.findall(verilog)]


def _script(family: Family, names: list[str], top: str, kept: list[str], multipliers: str) -> str:
    readers = {".v": "read_verilog", ".il": "read_rtlil"}
    lines = [f"{readers[Path(name).suffix]} {name}" for name in names]
    lines.append(f"hierarchy -top {top}")
    lines += [f"setattr -mod -set keep_hierarchy 1 {_quoted(name)}" for name in kept]
    option = family.dsps if multipliers == "dsps" else family.no_dsps
    command = f"{family.command} {option}".rstrip()
    if multipliers == "booth":
        lines += ["proc", "opt_expr", "opt_clean", "wreduce", "booth"]
    command += f" -top {top}"
    if family.compares_in_luts:
        # Once their operands are as narrow as they get.
        lines += ["proc", "flatten", "opt -nodffe -nosdff", "wreduce", "peepopt", "opt_clean"]
        lines += [f"techmap -map {COMPARE}", "opt"]
    if family.hides_brackets:
        lines += [f"{command} -run :map_luts", r"rename -hide w:*\[*", f"{command} -run map_luts:"]
    elif family.controlled:
        legalise = f"dfflegalize {family.controlled} -mince {LEAST_CONTROLLED} -minsrst {LEAST_CONTROLLED}"
        lines += [f"{command} -run begin:map_ffs", legalise, f"{command} -run map_ffs:"]
    else:
        lines.append(command)
    if kept:
        # Place and route takes flat netlists.
        lines += ["setattr -mod -unset keep_hierarchy *", "flatten", "opt_clean -purge"]
    lines += ["delete t:$scopeinfo", "tee -q -o cells.json stat -json", "write_json netlist.json"]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return "\\" + name
