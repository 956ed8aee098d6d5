"""Bitstreams with open tools: a core behind a serial link, for the boards whose flow needs nothing but pip."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from halfulp.boards.board import Board, SerialBoard
from halfulp.boards.place import PLACE_TIMEOUT, TOOLCHAINS, Placement, place_and_route
from halfulp.boards.pll import PllPlan, plan_pll
from halfulp.boards.programs import PROGRAMS, ProgramError
from halfulp.boards.synthesis import Area, Synthesis, synthesise
from halfulp.hw.cache import cached, digest
from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import config_toml
from halfulp.hw.sources import sources_digest
from halfulp.numerics.formats import FloatFormat

__all__ = [
    "ALONE",
    "SHARED_FROM",
    "BoardNetlist",
    "OpenBuild",
    "ResourceError",
    "board_netlist",
    "build_open",
    "build_report",
    "design_parameters",
    "multipliers_for",
    "occupied",
    "save_build",
    "serial_design",
    "serial_part",
]

SHARED_FROM = 16
"""Processing elements from which on they are synthesised once for all: fewer gain nothing by it."""

ALONE = {"ice40": 0.45, "gowin": 0.67}
"""Share of the flip-flops for which place and route finds no LUT to share such a cell with, counted with them carries
that have no LUT, and the ends of Gowin's carry chains. Of `docs/configs/int8_1x2_compact_serial.toml`, which fills an
iCE40UP5K to 97 %, it is 0.46, and of `int4_1x2_serial.toml` on a Gowin part 0.67; of that one on an iCE40 0.55.
"""

CELLS_KNOWN_TO = 1.03
"""How many more logic cells than there are make it sure that a design does not fit: they are known to some per cent."""

SMALL_FACTOR = 5
"""Bits of a factor up to which a multiplier of LUTs is small enough to leave the DSP blocks for something better."""


class ResourceError(ProgramError):
    """A design does not fit its part, or misses its clock; one line with both figures."""


@dataclass(frozen=True, kw_only=True)
class OpenBuild:
    """What was built for a board.

    Attributes
    ----------
    board, config
        What for, and what.
    frequency
        Of the core's clock, Hz, as the PLL makes it.
    baud, memory_bytes
        Of the serial link and of the memory beside the core.
    area
        What synthesis makes of it.
    placement
        What place and route make of it, with the bitstream in its folder.
    """

    board: Board
    config: ArrayConfig
    frequency: float
    baud: int
    memory_bytes: int
    area: Area
    placement: Placement

    @property
    def bitstream(self) -> Path:
        """The bitstream, in the cache."""
        return self.placement.folder / TOOLCHAINS[self.board.flow].bitstream


@dataclass(frozen=True, kw_only=True)
class BoardNetlist:
    """What synthesis makes of a core for a board.

    Attributes
    ----------
    synthesis
        Of all that is between the pins.
    constraints
        Text of the file that tells place and route of pins and clock.
    frequency
        Of the core's clock, Hz, as the PLL makes it.
    baud, memory_bytes
        Of the serial link and of the memory beside the core.
    """

    synthesis: Synthesis
    constraints: str
    frequency: float
    baud: int
    memory_bytes: int


def build_open(
    board: Board,
    config: ArrayConfig,
    *,
    clock_mhz: float | None = None,
    baud: int | None = None,
    memory_bytes: int | None = None,
    seed: int = 1,
    timeout: float = PLACE_TIMEOUT,
    progress: Callable[[str], None] = lambda stage: None,
) -> OpenBuild:
    """Build a board's bitstream, or take it from the cache where it was built before from the very same.

    Parameters
    ----------
    board, config
        What for, and what.
    clock_mhz, baud, memory_bytes
        What the board's file says unless given, memory as far as the core's addresses reach.
    seed
        Of place and route: another one gives another clock, by some per cent.
    timeout
        Seconds for place and route.
    progress
        Told each stage as it begins.

    Raises
    ------
    ValueError
        Where the clock, the rate or the memory is not to be had on this board.
    ProgramError
        Where a tool is missing, fails or takes too long.
    ResourceError
        Where the core does not fit the part or misses its clock: nothing is built then.
    """
    serial = serial_part(board)
    toolchain = TOOLCHAINS[board.flow]
    for name in ("yosys", toolchain.place, toolchain.pack):
        PROGRAMS[name].command()  # what is missing is told before minutes are spent
    made = board_netlist(board, config, clock_mhz=clock_mhz, baud=baud, memory_bytes=memory_bytes, progress=progress)
    what = f"{config.name} for {board.name}"
    placement = place_and_route(
        made.synthesis.netlist,
        flow=board.flow,
        options=serial.nextpnr,
        constraints=made.constraints,
        frequency=made.frequency,
        seed=seed,
        what=f"place and route of {what}",
        share=made.synthesis.area.luts / board.luts,
        pack=serial.pack,
        progress=progress,
        timeout=timeout,
    )
    if placement.fmax < made.frequency:
        reached = placement.fmax / 1e6
        raise ResourceError(
            f"{what} reaches {reached:.1f} MHz of {made.frequency / 1e6:g}: "
            f"ask for less with --clock {reached * 0.95:.0f}, or try --seed {seed + 1}"
        )
    return OpenBuild(
        board=board,
        config=config,
        frequency=made.frequency,
        baud=made.baud,
        memory_bytes=made.memory_bytes,
        area=made.synthesis.area,
        placement=placement,
    )


def board_netlist(
    board: Board,
    config: ArrayConfig,
    *,
    clock_mhz: float | None = None,
    baud: int | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> BoardNetlist:
    """Synthesise all that a board's part is to hold, or take it from the cache: what place and route begins with.

    Takes the arguments and raises the errors of `build_open`.
    """
    serial = serial_part(board)
    _, pll = _clock(serial, board.clock_mhz if clock_mhz is None else clock_mhz)
    design = design_parameters(board, config, clock_mhz=clock_mhz, baud=baud, memory_bytes=memory_bytes)
    PROGRAMS["yosys"].command()
    what = f"{config.name} for {board.name}"
    progress("generating")
    sources = {"design.v": serial_design(config, **design)}
    sources["top.il"], constraints = _board_files(serial, TOOLCHAINS[board.flow].constraints, pll)
    progress("synthesising")
    synthesis = synthesise(
        sources,
        top="top",
        family=serial.family,
        what=f"synthesis of {what}",
        multipliers=multipliers_for(config, board.dsps),
        share_elements=config.rows * config.columns >= SHARED_FROM,
    )
    _check_fit(board, synthesis.area, what)
    return BoardNetlist(synthesis=synthesis, constraints=constraints, **design)


def design_parameters(
    board: Board,
    config: ArrayConfig,
    *,
    clock_mhz: float | None = None,
    baud: int | None = None,
    memory_bytes: int | None = None,
) -> dict[str, Any]:
    """What `serial_design` takes beside the configuration, with the board's own values where none are given.

    Of the board's memory a core has as much as its addresses reach.

    Raises
    ------
    ValueError
        Where the clock, the rate or the memory is not to be had on this board.
    """
    from halfulp.hw.uart import BitRate

    serial = serial_part(board)
    frequency, _ = _clock(serial, board.clock_mhz if clock_mhz is None else clock_mhz)
    rate = serial.baud if baud is None else baud
    reached = 1 << config.address_bits
    memory = min(serial.memory_bytes, reached) if memory_bytes is None else memory_bytes
    # Refused here, before there is any hardware, for hardware that nobody uses is warned of.
    BitRate(clock_frequency=frequency, baud=rate)
    if memory % 64 or memory <= 0:
        raise ValueError(f"memory_bytes must be a positive multiple of 64, not {memory}")
    if memory > reached:
        raise ValueError(f"address_bits = {config.address_bits} reach {reached} bytes of memory, not {memory}")
    return {"frequency": frequency, "baud": rate, "memory_bytes": memory}


def serial_design(config: ArrayConfig, *, frequency: float, baud: int, memory_bytes: int) -> str:
    """Verilog of a core behind a serial link: the module `board_top.DESIGN`, from the cache where it is there."""
    from halfulp.boards.board_top import DESIGN
    from halfulp.boards.source import component_verilog
    from halfulp.hw.serial_top import SerialTop

    def build(folder: Path) -> None:
        top = SerialTop(config=config, clock_frequency=frequency, baud=baud, memory_bytes=memory_bytes)
        (folder / "design.v").write_text(component_verilog(top, name=DESIGN), encoding="utf-8")

    key = digest(
        json.dumps([config.to_dict(), frequency, baud, memory_bytes]),
        version("amaranth"),
        sources_digest("halfulp.numerics", "halfulp.hw", "halfulp.boards"),
    )
    return (cached("design", key, build) / "design.v").read_text(encoding="utf-8")


def multipliers_for(config: ArrayConfig, dsps: int) -> str:
    """What the products of an array are best made of on a part with this many DSP blocks; see `synthesise`."""
    wide = [
        max(fmt.significand_bits if isinstance(fmt, FloatFormat) else fmt.bits for fmt in formats) > SMALL_FACTOR
        for formats in (config.a_formats, config.b_formats)
    ]
    # What is shifted in a multiplier is as wide as a DSP block's; what is packed has a block for two rows.
    if not any(wide) and not config.shift_in_multipliers:
        return "luts"
    if config.rows * config.columns <= dsps * (2 if config.pack_multipliers else 1):
        return "dsps"
    return "booth" if all(wide) else "luts"


def build_report(build: OpenBuild) -> dict[str, Any]:
    """What a build has come to, as plain data: frequencies in Hz, delays in ns, sizes in bytes."""
    return {
        "board": build.board.name,
        "part": build.board.part,
        "config": build.config.to_dict(),
        "clock": build.frequency,
        "fmax": build.placement.fmax,
        "baud": build.baud,
        "memory_bytes": build.memory_bytes,
        "use": {
            name: {"used": use.used, "available": use.available, "share": use.share}
            for name, use in build.placement.use.items()
        },
        "synthesis": asdict(build.area),
        "critical_path": [asdict(step) for step in build.placement.critical_path],
    }


def save_build(build: OpenBuild, folder: Path, report: Mapping[str, object]) -> Path:
    """Copy a bitstream, configuration, report, constraints and log to `folder`; return the bitstream's path there.

    Files of a build that was there before are replaced, each at once; others are left alone.
    """
    suffix = build.bitstream.suffix
    files = {f"{build.board.name}{suffix}": build.bitstream}
    for name in ("nextpnr.log", TOOLCHAINS[build.board.flow].constraints):
        files[name] = build.placement.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".halfulp.", dir=folder) as work:
        texts = {"report.json": json.dumps(report, indent=2) + "\n", "config.toml": config_toml(build.config)}
        for name, text in texts.items():
            (Path(work) / name).write_text(text, encoding="utf-8")
        for name, source in files.items():
            shutil.copyfile(source, Path(work) / name)
        # The bitstream last: where it is, all that belongs to it is there too.
        for name in (*texts, *reversed(files)):
            os.replace(Path(work) / name, folder / name)
    return folder / f"{build.board.name}{suffix}"


def occupied(board: Board, area: Area) -> Area:
    """What cells take of a board's part, whose LUTs may be logic cells: then many flip-flops have one of their own."""
    if board.flow not in ALONE:
        return area
    return replace(area, luts=round(area.luts + ALONE[board.flow] * area.flip_flops))


def serial_part(board: Board) -> SerialBoard:
    """What a build with open tools needs to know of a board; raise ValueError where another tool builds it."""
    if board.serial is None:
        raise ValueError(f"board {board.name} is built by {board.flow}, not by open tools")
    return board.serial


def _clock(serial: SerialBoard, clock_mhz: float) -> tuple[float, PllPlan | None]:
    """Hz of the core's clock, and the PLL's setting for it; None where it is the board's own clock."""
    if not clock_mhz > 0:
        raise ValueError(f"the clock must be positive, not {clock_mhz:g} MHz")
    if clock_mhz == serial.oscillator_mhz:
        return clock_mhz * 1e6, None
    pll = plan_pll(serial.pll, serial.oscillator_mhz * 1e6, clock_mhz * 1e6)
    return float(pll.frequency), pll


def _board_files(serial: SerialBoard, constraints: str, pll: PllPlan | None) -> tuple[str, str]:
    """RTLIL of the board's top, and the text of its constraints."""
    from halfulp.boards.board_top import BoardTop
    from halfulp.boards.platforms import make_platform

    platform = make_platform(serial.platform)
    plan = platform.build(BoardTop(board=serial, pll=pll), do_build=False, emit_src=False)
    return str(plan.files["top.il"]), str(plan.files[constraints])


def _check_fit(board: Board, area: Area, what: str) -> None:
    """Raise where synthesis alone already shows that the design is larger than the part."""
    serial = serial_part(board)
    limits = Area(board.luts, serial.flip_flops, board.dsps, serial.block_rams)
    for name, title in (
        ("luts", "LUTs"),
        ("flip_flops", "flip-flops"),
        ("dsps", "DSP blocks"),
        ("block_rams", "block RAMs"),
    ):
        used, available = getattr(area, name), getattr(limits, name)
        if used > available:
            raise ResourceError(
                f"{what} needs {used:g} {title}, and the part has {available:g}: "
                "a smaller array, see `halfulp build … --fit`"
            )
    cells = occupied(board, area).luts
    if cells > board.luts * CELLS_KNOWN_TO:
        raise ResourceError(
            f"{what} needs about {cells:g} logic cells, and the part has {board.luts}: "
            "a smaller array, see `halfulp build … --fit`"
        )
