"""Builds and runs the bench with cocotb's runner, in a process of its own: ``python -m … JSON``.

The runner goes by environment variables of its process, prints, and exits on failure; `run_bench` reads the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cocotb_tools.runner import get_runner

__all__ = ["build", "simulate"]

TOP = "halfulp_core"
VERILATOR_BUILD = [
    "--no-public-flat-rw",
    # Registers start at random values where reset does not set them, and unknown values are drawn at random.
    *("--x-assign", "unique", "--x-initial", "unique"),
    *("-Wno-fatal", "-Wno-lint"),
    # Nearly all of the time is Python's: what optimising the C++ saves is less than what it takes.
    *("-CFLAGS", "-O0"),
]


def build(*, simulator: str, verilog: str, folder: str, waves: bool) -> None:
    """Compile the simulation into `folder`."""
    verilator = simulator == "verilator"
    ports = [Path(__file__).with_name("ports.vlt")] if verilator else []
    get_runner(simulator).build(
        sources=[*ports, Path(verilog)],
        hdl_toplevel=TOP,
        build_dir=folder,
        build_args=VERILATOR_BUILD if verilator else [],
        timescale=("1ns", "1ps"),
        waves=waves,
        always=True,
    )


def simulate(*, simulator: str, build_folder: str, folder: str, plan: dict[str, Any], waves: bool) -> None:
    """Run the tests; results.xml and, with `waves`, a wave file are left in `folder`."""
    seed, coverage = int(plan["seed"]), bool(plan["coverage"])
    get_runner(simulator).test(
        test_module=["halfulp.sim.bench.core_tests", *(["halfulp.sim.bench.coverage_tests"] if coverage else [])],
        hdl_toplevel=TOP,
        hdl_toplevel_lang="verilog",
        build_dir=build_folder,
        test_dir=folder,
        results_xml=str(Path(folder) / "results.xml"),
        seed=seed & 0x7FFF_FFFF,
        plusargs=["+verilator+rand+reset+2", f"+verilator+seed+{1 + seed % 0x7FFF_FFFE}"],
        extra_env={"HALFULP_BENCH": json.dumps(plan)},
        timescale=("1ns", "1ps"),
        waves=waves,
    )


if __name__ == "__main__":
    _what, _arguments = sys.argv[1], json.loads(sys.argv[2])
    {"build": build, "simulate": simulate}[_what](**_arguments)
