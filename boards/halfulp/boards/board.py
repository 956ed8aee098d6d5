"""What is known of each board: one data file a board, in the folder `data`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from typing import Any

from halfulp.boards.pll import PLL_FAMILIES
from halfulp.boards.synthesis import FAMILIES
from halfulp.boards.tools import FLOWS
from halfulp.hw.handoff import PROCESSING_SYSTEMS, ProcessingSystem
from halfulp.numerics.names import Registry, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["BOARDS", "Board", "SerialBoard", "VivadoBoard"]

BUS_WIDTHS = {"zynq-7000": (64,), "zynqmp": (64, 128)}
"""Bits of the memory ports of each processing system."""


@dataclass(frozen=True, kw_only=True)
class VivadoBoard:
    """What a Vivado project needs to know of a board.

    Attributes
    ----------
    board_part
        Vivado's name of the board, with which it presets memory and clocks of the processor.
    processing_system
        Name of a `halfulp.hw.handoff.ProcessingSystem`.
    bus_width
        Bits of the memory port that the core uses.
    board_files
        Where Vivado gets `board_part` from, in words.
    flip_flops, block_rams
        What the part has; block RAMs are counted in blocks of 36 Kib.
    high_memory
        Whether some of the board's memory lies above 2 GiB, in an address range of its own.
    """

    board_part: str
    processing_system: str
    bus_width: int
    board_files: str
    flip_flops: int
    block_rams: int
    high_memory: bool = False

    def __post_init__(self) -> None:
        for name in ("flip_flops", "block_rams"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        ps = PROCESSING_SYSTEMS.get(self.processing_system)
        if self.bus_width not in BUS_WIDTHS[ps.name]:
            widths = " or ".join(map(str, BUS_WIDTHS[ps.name]))
            raise ValueError(f"bus_width of a {ps.name} must be {widths}, not {self.bus_width}")

    @property
    def ps(self) -> ProcessingSystem:
        """The processing system, with the names of its ports and the addresses behind them."""
        return PROCESSING_SYSTEMS.get(self.processing_system)


@dataclass(frozen=True, kw_only=True)
class SerialBoard:
    """What a build with open tools needs to know of a board whose core sits behind a serial link.

    Attributes
    ----------
    platform
        Amaranth's platform class, as ``module:Class``: the pins of clock, serial link and LEDs.
    family
        What Yosys makes cells for: a key of `halfulp.boards.synthesis.FAMILIES`.
    pll
        Its PLL: a key of `halfulp.boards.pll.PLL_FAMILIES`.
    pll_on_pad
        Whether the oscillator's pin is the PLL's own, which then has to take the clock from the pad.
    oscillator_mhz
        What the board clocks the part with.
    baud, baud_why
        Rate of the serial link unless asked for otherwise, and what decides it.
    leds
        Up to two, as ``resource:number`` or ``resource:number:part``: the first blinks, the second shows traffic.
    flip_flops, block_rams
        What the part has; block RAMs are counted in blocks.
    memory_bytes
        Of the memory beside the core, unless asked for otherwise.
    nextpnr, pack
        Options that tell place and route, and the bitstream's writer, which part this is.
    load
        Command that loads the bitstream ``{bitstream}`` until the power goes.
    """

    platform: str
    family: str
    pll: str
    oscillator_mhz: float
    baud: int
    baud_why: str
    leds: tuple[str, ...]
    flip_flops: int
    block_rams: int
    memory_bytes: int
    nextpnr: tuple[str, ...]
    load: tuple[str, ...]
    pack: tuple[str, ...] = ()
    pll_on_pad: bool = False

    def __post_init__(self) -> None:
        for name in ("leds", "nextpnr", "pack", "load"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.family not in FAMILIES:
            raise unknown_name("family", self.family, FAMILIES)
        if self.pll not in PLL_FAMILIES:
            raise unknown_name("PLL", self.pll, PLL_FAMILIES)
        for name in ("oscillator_mhz", "baud", "flip_flops", "block_rams", "memory_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Board:
    """One board.

    Attributes
    ----------
    name
        How it is asked for: the data file's name.
    title
        How its maker calls it.
    part
        The FPGA's full order code.
    flow
        How a bitstream is made for it: a name in `halfulp.boards.tools.FLOWS`.
    clock_mhz
        Of the core, unless asked for otherwise.
    luts, dsps, block_rams_kib
        What the part has; block memories in KiB, parity bits included.
    memory
        What is beside it, in words.
    vivado
        Present where `flow` is ``vivado``.
    serial
        Present where it is another one.
    """

    name: str
    title: str
    part: str
    flow: str
    clock_mhz: float
    luts: int
    dsps: int
    block_rams_kib: float
    memory: str
    vivado: VivadoBoard | None = None
    serial: SerialBoard | None = None

    def __post_init__(self) -> None:
        if self.flow not in FLOWS:
            raise unknown_name("flow", self.flow, FLOWS)
        if (self.flow == "vivado") is not (self.vivado is not None):
            raise ValueError("a board has a table [vivado] where its flow is vivado, and only there")
        if (self.flow == "vivado") is not (self.serial is None):
            raise ValueError("a board has a table [serial] where its flow is not vivado, and only there")
        for name in ("clock_mhz", "luts"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Board:
        """Build from the data of a board's file; raise ValueError on a key that is unknown or missing."""
        tables = {"vivado": VivadoBoard, "serial": SerialBoard}
        values = {
            key: _made(f"{name} [{key}]", tables[key], value) if key in tables else value for key, value in data.items()
        }
        return _made(name, cls, {"name": name, **values})


def _made(where: str, cls: type, data: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(cls)]
    for key in data:
        if key not in known:
            raise ValueError(f"{where}: {unknown_name('key', key, known)}")
    for f in fields(cls):
        if f.name not in data and f.default is MISSING:
            raise ValueError(f"{where}: {f.name} is missing")
    try:
        return cls(**data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


BOARDS: Registry[Board] = Registry("board")
"""All boards, by name."""

for _file in sorted(files("halfulp.boards").joinpath("data").iterdir(), key=lambda file: file.name):
    if _file.name.endswith(".toml"):
        _name = _file.name.removesuffix(".toml")
        BOARDS.register(_name, Board.from_dict(_name, tomllib.loads(_file.read_text(encoding="utf-8"))))
