"""`halfulp verify`: the generated hardware, or a board's netlist of it, against the golden model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfulp.cli.console import print_json, print_table, timed, working
from halfulp.cli.matrix_files import check_folder, write_file

if TYPE_CHECKING:
    from halfulp.hw.config import ArrayConfig
    from halfulp.sim.bench.coverage import Cross

__all__ = ["verify"]

EXAMPLE = """
  halfulp verify int8_4x4.toml
  halfulp verify int8_4x4.toml --seed 3 --tests 100 --waves
  halfulp verify int8_4x4.toml --timing diagrams
  halfulp verify int8_4x4.toml --coverage
  halfulp verify int8_4x4.toml --netlist ulx3s
"""

TESTS, NETLIST_TESTS = 20, 3
"""Random GEMMs unless told: a netlist takes seconds for each."""


def verify(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file of ArrayConfig's parameters.")],
    seed: Annotated[int, typer.Option("--seed", help="Decides every random choice.")] = 0,
    tests: Annotated[
        int | None,
        typer.Option("--tests", metavar="N", help=f"Random GEMMs: {TESTS}, or {NETLIST_TESTS} of a netlist."),
    ] = None,
    waves: Annotated[bool, typer.Option("--waves", help="Keep a file of all signals over time.")] = False,
    timing: Annotated[
        Path | None,
        typer.Option("--timing", metavar="FOLDER", help="Draw timing diagrams of a GEMM of four tiles, as SVG."),
    ] = None,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Run on until all formats, layouts, edges, stalls and errors were seen."),
    ] = False,
    netlist: Annotated[
        str | None,
        typer.Option("--netlist", metavar="BOARD", help="What synthesis makes of it for this board, by the pins."),
    ] = None,
    simulator: Annotated[str, typer.Option("--simulator", help="verilator or icarus.")] = "verilator",
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Co-simulate a core against the golden model: random GEMMs, stalls, errors and resets, under cocotb.

    With --netlist it is what `halfulp build BOARD CONFIG` gives to place and route, cell by cell, with memory and
    serial link, and the GEMMs go through its serial pins. The exit code is 0 only where every test has passed.
    """
    from halfulp.hw.config_file import load_config
    from halfulp.sim.core_timing import TIMING_DIAGRAMS, core_timing
    from halfulp.sim.cosim import run_bench

    parsed = load_config(config)
    if netlist is not None:
        for name, value in (("--waves", waves), ("--timing", timing), ("--coverage", coverage)):
            if value:
                raise ValueError(f"{name} is of the core before synthesis, not of a netlist")
        if simulator != "verilator":
            raise ValueError(f"a netlist is simulated by verilator, not by {simulator}")
        _verify_netlist(parsed, netlist, seed, NETLIST_TESTS if tests is None else tests, json)
        return
    drawings = {name: timing / f"timing-{name}.svg" for name in TIMING_DIAGRAMS} if timing else {}
    if timing:
        check_folder(timing)
    with working(f"{parsed.name}: simulating on {simulator}; it is compiled when it is used first"):
        result = run_bench(
            parsed,
            seed=seed,
            tests=TESTS if tests is None else tests,
            waves=waves or bool(drawings),
            coverage=coverage,
            simulator=simulator,
        )
        if result.passed and result.waves:
            if timing:
                timing.mkdir(parents=True, exist_ok=True)
            for name, text in core_timing(result.waves).items() if drawings else ():
                write_file(drawings[name], text.encode())
    kept = {name: str(path) if path else None for name, path in (("log", result.log), ("waves", result.waves))}
    if json:
        each = [
            {"name": test.name, "passed": not test.message, "message": test.message, "seconds": test.seconds}
            for test in result.tests
        ]
        seen = {}
        if coverage:
            seen["coverage"] = [
                {"factors": cross.factors, "cells": [[*cell, count] for cell, count in cross.counts.items()]}
                for cross in result.coverage
            ]
        print_json({"core": parsed.name, "seed": seed, "passed": result.passed, "tests": each, **seen, **kept})
    else:
        rows = [
            [test.name, "failed" if test.message else "passed", f"{test.seconds:.1f}", test.message]
            for test in result.tests
        ]
        print_table(f"{parsed.name} on {simulator}, seed {seed}", ["test", "result", "s", "message"], rows, right=[2])
        if result.coverage:
            _print_coverage(result.coverage)
        kept |= {f"timing diagram, {name}": str(path) for name, path in drawings.items() if result.passed}
        for name, path in kept.items():
            if path:
                print(f"{name}: {path}")
    if not result.passed:
        raise typer.Exit(1)


def _verify_netlist(config: ArrayConfig, name: str, seed: int, tests: int, json: bool) -> None:
    from halfulp.boards.board import BOARDS
    from halfulp.host.netlist_check import check_netlist

    board = BOARDS.get(name)
    with timed(f"{config.name} on {board.name}") as progress:
        result = check_netlist(board, config, tests=tests, seed=seed, progress=progress)
    if json:
        each = [
            {"name": gemm.name, "passed": not gemm.message, "message": gemm.message, "seconds": gemm.seconds}
            for gemm in result.gemms
        ]
        told = {"core": config.name, "board": board.name, "seed": seed, "passed": result.passed}
        print_json({**told, "cells": result.cells, "tests": each})
    else:
        rows = [
            [gemm.name, "failed" if gemm.message else "passed", f"{gemm.seconds:.1f}", gemm.message]
            for gemm in result.gemms
        ]
        title = f"{config.name}, netlist for {board.name}, seed {seed}"
        print_table(title, ["GEMM through the serial pins", "result", "s", "message"], rows, right=[2])
        print("cells: " + ", ".join(f"{count:,} {kind}" for kind, count in result.cells.items()))
    if not result.passed:
        raise typer.Exit(1)


def _print_coverage(crosses: tuple[Cross, ...]) -> None:
    """A line each: how many cells there are, how often the least seen of them was, and which are empty."""
    rows = []
    for cross in crosses:
        least = min(cross.counts, key=lambda cell: cross.counts[cell])
        said = "; ".join(", ".join(cell) for cell in cross.empty) or ", ".join(least)
        seen = len(cross.counts) - len(cross.empty)
        rows.append([cross.name, f"{seen}/{len(cross.counts)}", str(cross.counts[least]), said])
    print_table("Coverage", ["seen together", "cells", "least", "which"], rows, right=[1, 2])
