"""Overlays for boards of Vivado's flow: the project, its area by Yosys, and the bitstream where Vivado is installed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from halfulp.boards.board import Board
from halfulp.boards.synthesis import Area, synthesise
from halfulp.boards.vivado_project import DESIGN, SCRIPTS, check_board, project_files, vivado_command
from halfulp.boards.vivado_run import VivadoError, find_vivado, run_vivado
from halfulp.hw.cache import digest
from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import read_handoff
from halfulp.hw.sources import sources_digest
from halfulp.hw.verilog import TOP

__all__ = ["VivadoBuild", "VivadoError", "build_vivado", "xilinx_area"]

STATE = "build.json"
"""What a project was made from, the hash of each of its files, and the area once that is known."""

OVERLAY = "overlay"
LEFT_BY_VIVADO = {OVERLAY, "work", "vivado.log", "vivado.jou", "utilization.txt", "timing.txt", ".Xil"}

FAMILIES = {"zynq-7000": "xc7", "zynqmp": "xcup"}
"""What Yosys calls the parts around each processing system."""


@dataclass(frozen=True, kw_only=True)
class VivadoBuild:
    """What a build has given.

    Attributes
    ----------
    folder
        Of the project.
    area, shares
        What the core alone takes, without the interconnect, and of what the part has; None where it was not asked for.
    bitstream, handoff
        The overlay; None where Vivado is not installed.
    next_step
        What to do now, in a line.
    """

    folder: Path
    area: Area | None
    shares: dict[str, float] | None
    bitstream: Path | None
    handoff: Path | None
    next_step: str


def build_vivado(
    board: Board,
    config: ArrayConfig,
    out: str | Path,
    *,
    clock_mhz: float | None = None,
    area: bool = True,
    vivado: str | None = None,
    jobs: int = 2,
    timeout_s: float = 6 * 3600.0,
    progress: Callable[[str], None] = lambda text: None,
) -> VivadoBuild:
    """Write the Vivado project of a core for a board, and run Vivado where it is installed.

    What is up to date is left as it is: with nothing changed, a second call does nothing. The project's folder appears
    whole or not at all, and so does the overlay in it.

    Parameters
    ----------
    board
        One whose flow is ``vivado``.
    config
        Of the core.
    out
        Folder of the project: a new one, or one that this function has made.
    clock_mhz
        Of the core; None: the board's.
    area
        Whether Yosys is to synthesise the core, for its share of the part; minutes for a large array, the first time.
    vivado
        The program; None: what $VIVADO names, or else ``vivado`` of the PATH.
    jobs
        Processes that Vivado may start.
    timeout_s
        After which Vivado is stopped.
    progress
        Told what is being done, in a few words.

    Raises
    ------
    ValueError
        Where the core does not fit the board's ports, or the clock is out of range.
    FileExistsError
        Where `out` holds anything else.
    VivadoError
        Where Vivado is too old, fails, or takes too long; one line, with the place of its log.
    halfulp.boards.programs.ProgramError
        Where Yosys is missing or fails.
    """
    clock = float(clock_mhz or board.clock_mhz)
    check_board(board, config, clock)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not 1 <= jobs <= 64:
        raise ValueError(f"jobs must be 1 to 64, not {jobs!r}")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be positive, not {timeout_s!r}")
    folder = Path(out).absolute()
    program = find_vivado(vivado)  # before minutes are spent: a wrong name is told at once
    _write_project(folder, board, config, clock, progress)
    taken = _area(folder, board, progress) if area else None
    overlay = folder / OVERLAY
    if not overlay.is_dir() and program is not None:
        run_vivado(vivado_command(program, jobs=jobs), folder, timeout_s=timeout_s, progress=progress)
        _check_overlay(overlay, board, config)
    made = overlay.is_dir()
    bitstream, handoff = overlay / f"{DESIGN}.bit", overlay / f"{DESIGN}.hwh"
    return VivadoBuild(
        folder=folder,
        area=taken,
        shares=None if taken is None else _shares(board, taken),
        bitstream=bitstream if made else None,
        handoff=handoff if made else None,
        next_step=(
            f"copy {bitstream} and {handoff.name} to the board, then: halfulp boards check pynq:{bitstream.name}"
            if made
            else f"Vivado is not installed here; where it is, run in a copy of {folder}: {' '.join(vivado_command())}"
        ),
    )


def xilinx_area(verilog: str, *, board: Board, what: str = "area") -> Area:
    """What a core's Verilog takes of a board's part by `synth_xilinx`; from the cache where it was asked for before.

    DSP blocks that the part does not have are counted all the same: Vivado would make those products of LUTs.

    Raises
    ------
    ValueError
        Where the board's flow is not Vivado's.
    halfulp.boards.programs.ProgramError
        Where Yosys is missing, fails or takes too long.
    """
    if board.vivado is None:
        raise ValueError(f"board {board.name} is not built by Vivado: its flow is {board.flow}")
    family = FAMILIES[board.vivado.processing_system]
    return synthesise({f"{TOP}.v": verilog}, top=TOP, family=family, what=what, share_elements=True).area


def _shares(board: Board, area: Area) -> dict[str, float]:
    assert board.vivado is not None
    has = (board.luts, board.vivado.flip_flops, board.dsps, board.vivado.block_rams)
    return {name: used / count for (name, used), count in zip(asdict(area).items(), has, strict=True)}


def _key(board: Board, config: ArrayConfig, clock_mhz: float) -> str:
    """Of all that the project's files depend on; cheaper than making them."""
    scripts = [(Path(__file__).parent / "tcl" / name).read_bytes() for name in SCRIPTS]
    data = [repr(board), json.dumps(config.to_dict(), sort_keys=True), f"{clock_mhz:g}"]
    sources = sources_digest("halfulp.numerics", "halfulp.hw", "halfulp.boards")
    return digest(sources, *data, *scripts)


def _write_project(
    folder: Path, board: Board, config: ArrayConfig, clock_mhz: float, progress: Callable[[str], None]
) -> None:
    """Have the project in its folder, as it should be; what is there and is not, is replaced whole."""
    state = _state(folder)
    key = _key(board, config, clock_mhz)
    if state.get("key") == key and _is_whole(folder, state):
        return
    progress("generating the core")
    texts = project_files(board, config, clock_mhz=clock_mhz)
    new = {"key": key, "files": {name: digest(text) for name, text in texts.items()}}
    if state.get("files") == new["files"] and _is_whole(folder, state):
        _write_state(folder, {**state, "key": key})  # sources that changed gave the same files
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        for name, text in texts.items():
            (fresh / name).write_text(text, encoding="utf-8", newline="\n")
        _write_state(fresh, new)
        if folder.exists():
            folder.rename(work / "old")
        try:
            fresh.rename(folder)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(folder)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _state(folder: Path) -> dict[str, Any]:
    """What the folder was made from; empty where there is none. Raise where it holds what is not ours to replace."""
    if not folder.exists() and not folder.is_symlink():
        return {}
    if folder.is_symlink() or not folder.is_dir():
        raise FileExistsError(f"{folder} exists and is no folder; name another one or remove it")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return {}
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        ours = {STATE, *state["files"], *LEFT_BY_VIVADO}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileExistsError(f"{folder} is not empty and no project of halfulp's; name a new folder") from error
    if odd := sorted(name for name in names - ours if not name.startswith("vivado_")):
        raise FileExistsError(f"{folder} holds {odd[0]!r}, which is not from here; move it away or name a new folder")
    return state


def _is_whole(folder: Path, state: Mapping[str, Any]) -> bool:
    try:
        return all(digest((folder / name).read_bytes()) == value for name, value in state["files"].items())
    except OSError:
        return False


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    part = folder / f"{STATE}.part"
    part.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / STATE)


def _area(folder: Path, board: Board, progress: Callable[[str], None]) -> Area:
    state = _state(folder)
    if "area" not in state:
        progress("synthesis by Yosys, for the area")
        verilog = (folder / f"{TOP}.v").read_text(encoding="utf-8")
        area = xilinx_area(verilog, board=board, what=f"area of a core for {board.name}")
        state = {**state, "area": asdict(area)}
        _write_state(folder, state)
    return Area(**state["area"])


def _check_overlay(overlay: Path, board: Board, config: ArrayConfig) -> None:
    """Raise, and take the overlay away, where it is not of this core and board."""
    assert board.vivado is not None
    handoff = overlay / f"{DESIGN}.hwh"
    try:
        found, processing_system = read_handoff(handoff)
        if processing_system != board.vivado.processing_system or found not in (None, config):
            raise ValueError("it tells of another core or another processor")
    except (OSError, ValueError) as error:
        shutil.rmtree(overlay, ignore_errors=True)
        raise VivadoError(f"the hand-off file that Vivado wrote is not this build's: {error}") from error
