"""Place and route by nextpnr, the bitstream from it, and what its report tells."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfulp.boards.programs import PROGRAMS, run_program
from halfulp.hw.cache import cached, digest

__all__ = ["PLACE_TIMEOUT", "TOOLCHAINS", "Placement", "Step", "Toolchain", "Use", "place_and_route"]

PLACE_TIMEOUT = 5400.0
"""Seconds for one run of nextpnr unless told: the largest parts, full, take half an hour as WebAssembly."""

PACK_TIMEOUT = 600.0
"""Seconds to write a bitstream."""


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """From a netlist to a bitstream, for one family of parts.

    Attributes
    ----------
    place
        Name of nextpnr's build for the family.
    constraints
        Name of the constraints' file.
    constraints_option
        What nextpnr takes it by.
    place_options
        Further options of nextpnr.
    crowded_options
        Those instead of these, if there are any, where a design takes from `CROWDED` to `FULL` of the part's LUTs.
    routed
        Name of what nextpnr writes, and `routed_option` what it takes that by.
    pack
        Name of the program that writes the bitstream, and `pack_arguments` its arguments, without the part's own.
    bitstream
        Name of the bitstream.
    resources
        What nextpnr calls LUTs, flip-flops, DSP blocks and block RAMs: for each the cells that use it and how many of
        it each of them uses; the first of them tells how many there are. Where a cell holds a LUT and a flip-flop,
        only the LUTs are counted.
    """

    place: str
    constraints: str
    constraints_option: str
    place_options: tuple[str, ...] = ()
    crowded_options: tuple[str, ...] = ()
    routed: str
    routed_option: str
    pack: str
    pack_arguments: tuple[str, ...]
    bitstream: str
    resources: Mapping[str, Mapping[str, float]]


CROWDED = 3 / 8
"""Share of a part's LUTs."""

DENSITY = 0.75
"""Up to which crowded designs are placed."""

FULL = 0.6
"""Share up to which there is room for that."""

TOOLCHAINS = {
    "ecp5": Toolchain(
        place="nextpnr-ecp5",
        constraints="top.lpf",
        constraints_option="--lpf",
        # The other router leaves large cores with connections that it never finds a way for. With more weight on what
        # is late, the estimate after placement of the int8 core of 8×8 rose from 73 to 79 MHz, with one seed.
        place_options=("--router", "router2", "--placer-heap-timingweight", "40", "--placer-heap-critexp", "3"),
        # The e4m3 core of 8×8, 40 % of an LFE5U-85F, is not routed with these in 45 minutes: wires that are claimed
        # twice do not get fewer. Placed less densely, and routed by the weights for such, it was in half an hour.
        crowded_options=(
            *("--router", "router2", "--router2-alt-weights"),
            *("--placer-heap-timingweight", "20", "--placer-heap-beta", f"{DENSITY}"),
        ),
        routed="top.config",
        routed_option="--textcfg",
        pack="ecppack",
        pack_arguments=("--input", "top.config", "--bit", "top.bit"),
        bitstream="top.bit",
        resources={
            "LUT": {"TRELLIS_COMB": 1},
            "FF": {"TRELLIS_FF": 1},
            "DSP": {"MULT18X18D": 1},
            "BRAM": {"DP16KD": 1},
        },
    ),
    "ice40": Toolchain(
        place="nextpnr-ice40",
        constraints="top.pcf",
        constraints_option="--pcf",
        routed="top.asc",
        routed_option="--asc",
        pack="icepack",
        pack_arguments=("top.asc", "top.bin"),
        bitstream="top.bin",
        resources={
            "LUT": {"ICESTORM_LC": 1},
            "DSP": {"ICESTORM_DSP": 1},
            "BRAM": {"ICESTORM_RAM": 1},
        },
    ),
    "gowin": Toolchain(
        place="nextpnr-himbaechel",
        # A design for which there is no room then fails within minutes. Unless told, nextpnr searches for a day.
        place_options=("--placer-heap-cell-placement-timeout", "2000"),
        constraints="top.cst",
        constraints_option="--vopt",
        routed="top.pnr.json",
        routed_option="--write",
        pack="gowin_pack",
        pack_arguments=("-o", "top.fs", "top.pnr.json"),
        bitstream="top.fs",
        resources={
            "LUT": {"LUT4": 1},
            "FF": {"DFF": 1},
            "DSP": {"MULT18X18": 1, "MULT9X9": 0.5, "MULTALU18X18": 1, "MULTADDALU18X18": 2, "MULT36X36": 4},
            "BRAM": {"BSRAM": 1},
        },
    ),
}
"""By the flow that board files name."""


@dataclass(frozen=True)
class Use:
    """Of one kind of a part's resources: how many are used and how many there are."""

    used: float
    available: int

    @property
    def share(self) -> float:
        """Of the part, 0 to 1."""
        return self.used / self.available if self.available else math.nan


@dataclass(frozen=True)
class Step:
    """One step of the critical path: a cell's own delay or a wire's, in ns."""

    kind: str
    delay: float
    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A placed and routed design.

    Attributes
    ----------
    folder
        With the bitstream, unless there was none to write, and the logs.
    fmax
        Hz at which the design's clock can run, in the worst case of the part's data sheet.
    use
        By resource: LUT, FF (where nextpnr counts them by themselves), DSP, BRAM.
    critical_path
        Register to register, in the domain that limits `fmax`.
    """

    folder: Path
    fmax: float
    use: Mapping[str, Use]
    critical_path: Sequence[Step]


def place_and_route(
    netlist: Path,
    *,
    flow: str,
    options: Sequence[str],
    constraints: str,
    frequency: float,
    seed: int,
    what: str,
    share: float = 0.0,
    pack: Sequence[str] | None = (),
    progress: Callable[[str], None] = lambda stage: None,
    timeout: float = PLACE_TIMEOUT,
) -> Placement:
    """Place and route a netlist and write its bitstream, or take the outcome of having done so from the cache.

    A clock that is missed is no error here: `Placement.fmax` tells.

    Parameters
    ----------
    netlist
        Yosys' JSON.
    flow
        A key of `TOOLCHAINS`.
    options
        nextpnr's options that name the part.
    constraints
        Text of the constraints' file.
    frequency
        Hz to aim at, of clocks that the constraints say nothing of.
    seed
        Of the placement.
    what
        What is built, for messages.
    share
        Of the part's LUTs, as synthesis counts them.
    pack
        Options of the bitstream's writer; None: no bitstream.
    progress
        Told each stage as it begins.
    timeout
        Seconds for place and route.

    Raises
    ------
    ProgramError
        Where a tool is missing, fails (as it does where the design does not fit) or takes too long.
    """
    tools = TOOLCHAINS[flow]
    place, packer = PROGRAMS[tools.place], PROGRAMS[tools.pack]
    is_crowded = tools.crowded_options and CROWDED < share < FULL
    place_options = tools.crowded_options if is_crowded else tools.place_options
    prefix = "cst=" if tools.constraints_option == "--vopt" else ""
    arguments = [
        *options,
        *("--json", "netlist.json", tools.constraints_option, prefix + tools.constraints),
        *("--seed", str(seed), "--freq", f"{frequency / 1e6:g}", "--timing-allow-fail", *place_options),
        *("--report", "report.json", "--log", "nextpnr.log", "--quiet", tools.routed_option, tools.routed),
    ]
    pack_arguments = None if pack is None else [*pack, *tools.pack_arguments]
    parts = [place.version(), *arguments, constraints, netlist.read_bytes()]
    if pack_arguments is not None:
        parts += [packer.version(), *pack_arguments]

    def build(folder: Path) -> None:
        progress("placing and routing")
        (folder / tools.constraints).write_text(constraints, encoding="utf-8")
        (folder / "netlist.json").write_bytes(netlist.read_bytes())
        run_program(what, place, arguments, folder, log="place.log", timeout=timeout)
        if pack_arguments is not None:
            progress("writing the bitstream")
            run_program(what, packer, pack_arguments, folder, log="pack.log", timeout=PACK_TIMEOUT)
            if not (folder / tools.bitstream).is_file() or not (folder / tools.bitstream).stat().st_size:
                raise RuntimeError(f"{what}: {packer.name} wrote no bitstream")
        (folder / "netlist.json").unlink()  # it is in the cache already

    folder = cached("place", digest(*parts), build)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return Placement(folder=folder, fmax=_fmax(report, frequency), use=_use(report, tools), critical_path=_path(report))


def _worst(report: Mapping[str, Any]) -> tuple[str, float]:
    """The clock that falls shortest of what was asked of it, and by which factor it does."""
    clocks = {name: clock["achieved"] / clock["constraint"] for name, clock in report["fmax"].items()}
    name = min(clocks, key=lambda each: clocks[each], default="")
    return name, clocks.get(name, math.inf)


def _fmax(report: Mapping[str, Any], frequency: float) -> float:
    return _worst(report)[1] * frequency


def _use(report: Mapping[str, Any], tools: Toolchain) -> dict[str, Use]:
    uses = {}
    for resource, cells in tools.resources.items():
        counts = {name: report["utilization"][name] for name in cells if name in report["utilization"]}
        if counts:
            used = sum(cells[name] * count["used"] for name, count in counts.items())
            uses[resource] = Use(used, next(iter(counts.values()))["available"])
    return uses


def _path(report: Mapping[str, Any]) -> list[Step]:
    clock, _ = _worst(report)
    for path in report["critical_paths"]:
        if path["from"] == path["to"] and path["from"].endswith(f" {clock}"):
            return [Step(step["type"], step["delay"], _end(step["from"]), _end(step["to"])) for step in path["path"]]
    return []


def _end(pin: Mapping[str, Any]) -> str:
    return f"{pin['cell']}.{pin['port']}" if pin.get("cell") else str(pin.get("port", ""))
