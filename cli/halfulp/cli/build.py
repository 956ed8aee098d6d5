"""`halfulp build`: a core as a bitstream, or as a project of Vivado's."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfulp.cli.console import note, print_json, print_table, timed
from halfulp.cli.matrix_files import check_folder

if TYPE_CHECKING:
    from halfulp.boards.blocks import BlockFigures
    from halfulp.boards.board import Board
    from halfulp.boards.fit import Fit
    from halfulp.boards.open_build import OpenBuild
    from halfulp.boards.synthesis import Area
    from halfulp.hw.config import ArrayConfig

__all__ = ["build"]

EXAMPLE = """
  halfulp build ulx3s docs/configs/int8_8x8.toml -o build/ulx3s
  halfulp build ulx3s docs/configs/int8_8x8.toml --clock 50 --load
  halfulp build tang-nano-20k docs/configs/int8_8x8.toml --fit
  halfulp build ulx3s docs/configs/int8_8x8.toml --report
  halfulp build pynq-z2 docs/configs/int8_8x8.toml -o build/pynq
"""

LAST_SEED = 2**31 - 1
"""That nextpnr takes."""

LOAD_TIMEOUT = 300
"""Seconds to load a bitstream."""


def build(
    board: Annotated[str, typer.Argument(metavar="BOARD", help="A board of `halfulp boards`.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file of ArrayConfig's parameters.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the result: build/BOARD.")
    ] = None,
    clock: Annotated[float | None, typer.Option("--clock", metavar="MHZ", help="Of the core.")] = None,
    baud: Annotated[int | None, typer.Option("--baud", metavar="N", help="Of the serial link.")] = None,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="BYTES", help="Beside a core behind a serial link.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of place and route.")] = 1,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="MINUTES", help="For place and route, then it has failed: 90."),
    ] = None,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Only find the largest array that fits; with -o, build it, or the next smaller of three that routes.",
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also area and clock of core and array by themselves.")
    ] = False,
    load: Annotated[bool, typer.Option("--load", help="Load the bitstream into the connected board.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build a core for a board.

    With open tools that is a bitstream of the core behind a serial link, with area and clock after place and route.
    For a board of Vivado's flow it is a project; Vivado is run where it is installed. What was built before from the
    very same is taken from the cache.
    """
    from halfulp.boards.board import BOARDS
    from halfulp.hw.config_file import load_config

    chosen = BOARDS.get(board)
    parsed = load_config(config)
    folder = output or Path("build") / chosen.name
    if chosen.vivado is not None:
        given = {
            "--baud": baud,
            "--memory": memory,
            "--fit": fit,
            "--report": report,
            "--load": load,
            "--seed": seed - 1,
            "--timeout": timeout,
        }
        for name, value in given.items():
            if value:
                raise ValueError(f"{name} is for boards with open tools; {chosen.name} is built by Vivado")
        _build_vivado(chosen, parsed, folder, clock, json)
        return
    if not 0 <= seed <= LAST_SEED:
        raise ValueError(f"--seed must be 0 to {LAST_SEED}, not {seed}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"--timeout must be positive, not {timeout:g} minutes")
    options: dict[str, Any] = {"clock_mhz": clock, "baud": baud, "memory_bytes": memory}
    if fit and output is None:
        for name, value in (("--report", report), ("--load", load), ("--seed", seed - 1), ("--timeout", timeout)):
            if value:
                raise ValueError(f"{name} is of a build, and --fit builds only where -o names a folder")
        _fit(chosen, parsed, json, options)
        return
    check_folder(folder)
    if timeout is not None:
        options["timeout"] = 60 * timeout
    _build_open(chosen, parsed, folder, fit=fit, load=load, report=report, json=json, seed=seed, **options)


def _build_vivado(board: Board, config: ArrayConfig, folder: Path, clock: float | None, json: bool) -> None:
    from halfulp.boards.vivado import build_vivado

    with timed(board.name) as progress:
        made = build_vivado(board, config, folder, clock_mhz=clock, progress=progress)
    if json:
        print_json(
            {
                "board": board.name,
                "config": config.to_dict(),
                "folder": str(made.folder),
                "area": made.area and asdict(made.area),
                "shares": made.shares,
                "bitstream": made.bitstream and str(made.bitstream),
                "next_step": made.next_step,
            }
        )
        return
    if made.area is not None and made.shares is not None:
        rows = [[TITLES[name], f"{used:g}", f"{made.shares[name]:.1%}"] for name, used in asdict(made.area).items()]
        print_table(f"{config.name}, by Yosys for {board.part}", ["", "used", "of the part"], rows, right=(1, 2))
    print(f"{made.folder}\n{made.next_step}")


TITLES = {"luts": "LUTs", "flip_flops": "flip-flops", "dsps": "DSP blocks", "block_rams": "block RAMs"}


def _build_open(
    board: Board,
    config: ArrayConfig,
    folder: Path,
    *,
    fit: bool,
    load: bool,
    report: bool,
    json: bool,
    seed: int,
    **options: Any,
) -> None:
    from halfulp.boards.blocks import block_figures
    from halfulp.boards.fit import build_fitted
    from halfulp.boards.open_build import build_open, build_report, save_build

    loader = _loader(board) if load else None  # before minutes are spent
    with timed(board.name) as progress:
        fitted = build_fitted(board, config, seed=seed, progress=progress, **options) if fit else None
        made = fitted.build if fitted else build_open(board, config, seed=seed, progress=progress, **options)
        blocks = block_figures(made.config, board, seed=seed, progress=progress) if report else []
    told = build_report(made)
    if fitted:
        told["fit"] = {**_plain_fit(fitted.fit), "failures": fitted.failures}
    if report:
        told["blocks"] = [asdict(block) for block in blocks]
    bitstream = save_build(made, folder, told)
    if json:
        print_json({**told, "bitstream": str(bitstream)})
    else:
        if fitted:
            for failure in fitted.failures:
                note(failure)
            _print_fit(board, fitted.fit)
        _print_report(made, bitstream)
        if report:
            _print_blocks(board, blocks)
    if loader is not None:
        _load(loader, bitstream)


def _print_report(made: OpenBuild, bitstream: Path) -> None:
    assert made.board.serial is not None
    uses = made.placement.use.items()
    rows = [[name, f"{use.used:g}", str(use.available), f"{use.share:.1%}"] for name, use in uses]
    print_table(f"{made.config.name} on {made.board.title}", ["", "used", "of", "share"], rows, right=(1, 2, 3))
    path = made.placement.critical_path
    print(f"clock     {made.frequency / 1e6:g} MHz, of {made.placement.fmax / 1e6:.1f} possible")
    if path:
        logic = sum(step.delay for step in path if step.kind != "routing")
        routing = sum(step.delay for step in path if step.kind == "routing")
        print(f"limit     {path[0].source} to {path[-1].target}: {logic:.1f} ns in cells, {routing:.1f} ns between")
    print(f"serial    {made.baud:,} baud, {made.memory_bytes:,} bytes of memory")
    print(f"bitstream {bitstream}")
    print(f"load it   {_load_line(made.board, bitstream)}")


def _print_blocks(board: Board, blocks: Sequence[BlockFigures]) -> None:
    def row(name: str, area: Area, fmax: float | None) -> list[str]:
        clock = "" if fmax is None else f"{fmax / 1e6:.1f}"
        return [name, *(f"{count:g}" for count in asdict(area).values()), clock]

    rows = [row(block.name, block.area, block.fmax) for block in blocks]
    rows += [row(f"{block.name}, 7 series", block.xc7, None) for block in blocks]
    columns = ["by itself", *TITLES.values(), "MHz"]
    print_table(f"Blocks on {board.part}, and by synth_xilinx", columns, rows, right=range(1, 6))


def _fit(board: Board, config: ArrayConfig, json: bool, options: Mapping[str, Any]) -> None:
    from halfulp.boards.fit import fit_board
    from halfulp.boards.open_build import design_parameters

    with timed(board.name) as progress:
        found = fit_board(board, config, progress=progress, **design_parameters(board, config, **options))
    if json:
        print_json({"board": board.name, **_plain_fit(found)})
    else:
        _print_fit(board, found)


def _plain_fit(found: Fit) -> dict[str, Any]:
    return {
        "rows": found.config.rows,
        "columns": found.config.columns,
        "estimate": asdict(found.estimate),
        "area": asdict(found.area),
        "limits": asdict(found.limits),
        "synthesised": [list(size) for size in found.synthesised],
    }


def _print_fit(board: Board, found: Fit) -> None:
    estimate, area, limits = asdict(found.estimate), asdict(found.area), asdict(found.limits)
    rows = [[title, f"{estimate[n]:.0f}", f"{area[n]:g}", f"{limits[n]:.0f}"] for n, title in TITLES.items()]
    title = f"The largest array for {board.title}: {found.config.rows}×{found.config.columns}"
    print_table(title, ["", "by the model", "synthesised", "at most"], rows, right=(1, 2, 3))


def _load_line(board: Board, bitstream: Path) -> str:
    assert board.serial is not None
    return shlex.join(part.format(bitstream=bitstream) for part in board.serial.load)


def _loader(board: Board) -> list[str]:
    """The command that loads a bitstream, if its program is there."""
    from halfulp.boards.tools import LOADERS

    assert board.serial is not None
    tool = LOADERS[board.serial.load[0]]
    found = shutil.which(tool.command)
    if found is None:
        raise ValueError(f"{tool.name}, which loads {board.name}, is not installed: {tool.remedy}")
    return [found, *board.serial.load[1:]]


def _load(command: list[str], bitstream: Path) -> None:
    try:
        code = subprocess.run(
            [part.format(bitstream=bitstream) for part in command], timeout=LOAD_TIMEOUT, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        raise ValueError(f"loading {bitstream} took more than {LOAD_TIMEOUT} s: is the board connected?") from None
    if code:
        raise ValueError(f"{Path(command[0]).name} could not load {bitstream} (exit code {code}): see what it says")
