"""The core behind a serial line, simulated at its two pins by cocotb, against a serial port that is not ours."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

from halfulp.hw.cache import cached, digest
from halfulp.sim.serial_board import serial_verilog
from halfulp.sim.tools import run_tools
from halfulp.sim.verilator import verilator_environment

from .serial_pins import CLOCKS_A_BIT, CONFIG, MEMORY_BYTES

BENCH = Path(__file__).with_name("serial_pins.py")


def test_gemms_through_the_pins(seed: int, tmp_path: Path) -> None:
    environment = {
        name: value
        for name, value in verilator_environment().items()
        if not name.startswith(("COCOTB_", "PYTEST_", "GPI_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(BENCH.parent), *filter(None, sys.path)])
    environment["HALFULP_SEED"] = str(seed)

    def run(what: str, built: Path, folder: Path) -> None:
        run_tools(
            "the bench of the pins", [[sys.executable, str(BENCH), what, str(built)]], folder, environment=environment
        )

    def build(folder: Path) -> None:
        (folder / "core.v").write_text(verilog, encoding="utf-8")
        run("build", folder, folder)

    verilog = serial_verilog(CONFIG, memory_bytes=MEMORY_BYTES, buffer_bytes=512, clocks_a_bit=CLOCKS_A_BIT)
    tools = [version("cocotb"), version("verilator"), sys.prefix, sys.version]
    built = cached("bench-builds", f"serial-pins-{digest(verilog, BENCH.read_bytes(), json.dumps(tools))}", build)
    run("simulate", built, tmp_path)
    cases = list(ET.parse(tmp_path / "results.xml").iter("testcase"))
    assert len(cases) == 2
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    assert failed == []
