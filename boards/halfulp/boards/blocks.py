"""A core's blocks by themselves: what they take of a part, and the clock at which they could run in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from halfulp.boards.board import Board, SerialBoard
from halfulp.boards.open_build import SHARED_FROM, multipliers_for, serial_part
from halfulp.boards.place import place_and_route
from halfulp.boards.synthesis import Area, synthesise
from halfulp.hw.cache import cached, digest
from halfulp.hw.config import ArrayConfig
from halfulp.hw.sources import sources_digest

if TYPE_CHECKING:
    from amaranth.lib import wiring

    from halfulp.hw.pe import ProcessingElement

__all__ = ["BLOCKS", "BlockFigures", "block_area", "block_clock", "block_figures"]

ELEMENT, KEEPING_ELEMENT = "processing element", "processing element that keeps its results"

BLOCKS = ("core", "array", ELEMENT, KEEPING_ELEMENT)
"""What is looked at, from the outside in.

The last one has all of a processing element but the way on which results of the rows below leave through its result
register, a table a bit: what it takes to multiply, accumulate and keep a result. Elements of two rows that share a
multiplier are not looked at so, for the lower row's results have no other way out.
"""

AIM = 250e6
"""Hz that place and route aims at: more than any of the blocks reaches, so that it does what it can."""

UNCONSTRAINED = {"ecp5": "--lpf-allow-unconstrained", "ice40": "--pcf-allow-unconstrained"}
"""What lets nextpnr choose the pins; it does so by itself for Gowin."""

XC7_DSPS = 220
"""DSP blocks of an xc7z020, the part by which 7-series areas are told."""


@dataclass(frozen=True, kw_only=True)
class BlockFigures:
    """One block.

    Attributes
    ----------
    name
        One of `BLOCKS`.
    area
        On the board's part.
    fmax
        Hz, placed and routed by itself between registers; None for processing elements, which are in the array.
    xc7
        The area that `synth_xilinx` gives for AMD's 7 series.
    """

    name: str
    area: Area
    fmax: float | None
    xc7: Area


def block_figures(
    config: ArrayConfig, board: Board, *, seed: int = 1, progress: Callable[[str], None] = lambda stage: None
) -> list[BlockFigures]:
    """All blocks of a core, on a board with open tools; what was looked at before is taken from the cache.

    Raises
    ------
    ValueError
        Where the board is not built with open tools.
    ProgramError
        Where a tool is missing, fails (as it does where a block does not fit) or takes too long.
    """
    serial = serial_part(board)
    figures = []
    for name in BLOCKS[: 3 if config.pack_multipliers else 4]:
        progress(f"synthesising the {name}")
        area = block_area(config, name, family=serial.family, dsps=board.dsps)
        progress(f"synthesising the {name} for the 7 series")
        xc7 = block_area(config, name, family="xc7", dsps=XC7_DSPS)
        fmax = None
        if name in ("core", "array"):
            progress(f"placing and routing the {name}")
            fmax = block_clock(config, name, board, seed=seed)
        figures.append(BlockFigures(name=name, area=area, fmax=fmax, xc7=xc7))
    return figures


def block_area(config: ArrayConfig, name: str, *, family: str, dsps: int) -> Area:
    """What synthesis makes of one block for a family of parts, with `dsps` of DSP blocks to spend on products."""
    return synthesise(
        {"block.v": _verilog(config, name, in_harness=False)},
        top="block",
        family=family,
        what=f"synthesis of the {name} of {config.name}",
        multipliers=multipliers_for(config, dsps),
        share_elements=config.rows * config.columns >= SHARED_FROM,
    ).area


def block_clock(config: ArrayConfig, name: str, board: Board, *, seed: int = 1) -> float:
    """Hz at which one block can run on a board's part, placed and routed with a register at each of its ports."""
    serial = serial_part(board)
    synthesis = synthesise(
        {"block.v": _verilog(config, name, in_harness=True)},
        top="block",
        family=serial.family,
        what=f"synthesis of the {name} of {config.name}",
        multipliers=multipliers_for(config, board.dsps),
        share_elements=config.rows * config.columns >= SHARED_FROM,
    )
    options = [*serial.nextpnr, *([UNCONSTRAINED[board.flow]] if board.flow in UNCONSTRAINED else [])]
    return place_and_route(
        synthesis.netlist,
        flow=board.flow,
        options=options,
        constraints=_clock_pin(serial) if board.flow == "ecp5" else "",
        frequency=AIM,
        seed=seed,
        what=f"place and route of the {name} of {config.name} for {board.name}",
        share=synthesis.area.luts / board.luts,
        pack=None,
    ).fmax


def _clock_pin(serial: SerialBoard) -> str:
    """Puts a block's clock at the board's pin: of those that nextpnr chooses, some have no way to the clock's net."""
    from halfulp.boards.platforms import make_platform

    platform = make_platform(serial.platform)
    (pin,) = platform.lookup(platform.default_clk).ios[0].names
    return f'LOCATE COMP "clk" SITE "{pin}";\n'


def _verilog(config: ArrayConfig, name: str, *, in_harness: bool) -> str:
    from halfulp.boards.source import ShiftHarness, component_verilog

    def build(folder: Path) -> None:
        block = _component(config, name)
        component = ShiftHarness(block=block) if in_harness else block
        (folder / "block.v").write_text(component_verilog(component, name="block"), encoding="utf-8")

    key = digest(
        json.dumps([config.to_dict(), name, in_harness]),
        version("amaranth"),
        sources_digest("halfulp.numerics", "halfulp.hw", "halfulp.boards"),
    )
    return (cached("design", key, build) / "block.v").read_text(encoding="utf-8")


def _component(config: ArrayConfig, name: str) -> wiring.Component:
    from halfulp.hw.array import SystolicArray
    from halfulp.hw.core import Core
    from halfulp.hw.processing_elements import processing_element

    element = processing_element(config)
    kinds = {"core": Core, "array": SystolicArray, ELEMENT: element, KEEPING_ELEMENT: _keeping(element)}
    return kinds[name](config=config)


def _keeping(kind: type[ProcessingElement]) -> type[ProcessingElement]:
    from amaranth.lib import wiring

    class KeepingElement(kind):
        """Nothing is shifted into it: what no port sets is 0."""

        @property
        def signature(self) -> wiring.Signature:
            members = super().signature.members
            return wiring.Signature({name: members[name] for name in members if name not in ("shift", "below")})

    return KeepingElement
