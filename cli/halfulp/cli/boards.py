"""`halfulp boards`: the boards, and the checklist that a board itself has to confirm."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfulp.cli.console import print_json, print_table, working
from halfulp.numerics.names import unknown_name

if TYPE_CHECKING:
    from halfulp.boards.board import Board
    from halfulp.boards.tools import Tool

__all__ = ["boards"]

EXAMPLE = """
  halfulp boards
  halfulp boards check pynq:halfulp.bit
  halfulp boards check pynq:halfulp.bit@192.168.2.99
"""


def boards(
    action: Annotated[str, typer.Argument(metavar="[check]", help="Left out: list the boards.")] = "",
    device: Annotated[
        str, typer.Argument(metavar="[DEVICE]", help="The board to check, as `gemm --device` has it.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the numbers that a check is made with.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the boards with part, flow and what is missing; or `check` a connected one.

    A check confirms what no simulation can: clock, memory port, caches, interrupt, bit for bit at the board's speed.
    The exit code is 0 only where nothing failed.
    """
    if not action:
        _list(json)
    elif action != "check":
        raise unknown_name("action", action, ["check"])
    elif not device:
        raise ValueError("name the device to check, as in 'halfulp boards check pynq:halfulp.bit'")
    else:
        _check(device, seed, json)


def _list(as_json: bool) -> None:
    # Not needed where a board checks itself, which has neither these packages nor room for them.
    from halfulp.boards.board import BOARDS
    from halfulp.boards.tools import FLOWS, LOADERS

    missing = {board.name: FLOWS[board.flow].missing for board in BOARDS.members()}
    to_load = {board.name: LOADERS[board.serial.load[0]] for board in BOARDS.members() if board.serial is not None}
    if as_json:
        print_json([_plain(board, missing[board.name], to_load.get(board.name)) for board in BOARDS.members()])
        return
    without = {name: tool for name, tool in to_load.items() if not tool.is_installed}
    rows = [
        [
            board.name,
            board.title,
            board.part,
            FLOWS[board.flow].summary,
            ", ".join(_told(missing[board.name], without.get(board.name))) or "-",
        ]
        for board in BOARDS.members()
    ]
    print_table("Boards", ["board", "what it is", "part", "flow", "missing here"], rows)
    tools = [tool for board in BOARDS.members() for tool in missing[board.name]]
    for tool in dict.fromkeys([*tools, *without.values()]):
        print(f"  {tool.name}: {tool.remedy}")


def _told(missing: list[Tool], loader: Tool | None) -> list[str]:
    return [tool.name for tool in missing] + ([f"{loader.name} (to load)"] if loader else [])


def _plain(board: Board, missing: list[Tool], loader: Tool | None) -> dict[str, Any]:
    told = [{"tool": tool.name, "remedy": tool.remedy} for tool in missing]
    plain = {**{key: value for key, value in asdict(board).items() if value is not None}, "missing": told}
    if loader is not None:
        plain["loader"] = {"tool": loader.name, "remedy": loader.remedy, "is_installed": loader.is_installed}
    return plain


def _check(name: str, seed: int, as_json: bool) -> None:
    from halfulp.host.board_check import CHECKS, check_board
    from halfulp.host.device import open_device

    outcomes = []
    with working(f"opening {name}") as progress, open_device(name) as device:
        for outcome in check_board(device, seed=seed):
            outcomes.append(outcome)
            if len(outcomes) < len(CHECKS):
                progress(f"checking {name}: {CHECKS[len(outcomes)].name}")
    if as_json:
        print_json(
            [
                {
                    "check": outcome.check.name,
                    "confirms": outcome.check.confirms,
                    "state": outcome.state,
                    "seen": outcome.seen,
                    "seconds": round(outcome.seconds, 3),
                }
                for outcome in outcomes
            ]
        )
    else:
        rows = [[o.check.name, o.state, o.seen, o.check.confirms] for o in outcomes]
        print_table(name, ["check", "state", "seen", "what it confirms"], rows)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)
