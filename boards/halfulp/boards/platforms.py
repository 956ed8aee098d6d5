"""Platforms that amaranth-boards does not have, or not with a serial link."""

from __future__ import annotations

import importlib
from typing import Any

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform, OrangeCrabR0_2_85FPlatform
from amaranth_boards.resources import ButtonResources, LEDResources, UARTResource

__all__ = ["OrangeCrab25F", "OrangeCrab85F", "TangNano20k", "make_platform"]

# The feather header's pins 0 and 1, which other feathers label RX and TX.
ORANGECRAB_UART = UARTResource(0, rx="N17", tx="M18", attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP"))


class OrangeCrab25F(OrangeCrabR0_2_25FPlatform):
    """The OrangeCrab 0.2 with a serial adapter at the header's pins 0 (in) and 1 (out)."""

    resources = (*OrangeCrabR0_2_25FPlatform.resources, ORANGECRAB_UART)


class OrangeCrab85F(OrangeCrabR0_2_85FPlatform):
    """The same with the larger part."""

    resources = (*OrangeCrabR0_2_85FPlatform.resources, ORANGECRAB_UART)


class TangNano20k(GowinPlatform):
    """Sipeed's Tang Nano 20K. Pins as in its schematic 3921 and in litex-boards."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = (
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
        *ButtonResources(pins="88 87", attrs=Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")),
    )
    connectors = ()


def make_platform(path: str) -> Any:
    """A fresh Amaranth platform of the class that ``module:Class`` names. Each serves one build."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)()
