"""Mutants of the hardware: small faults put into a copy of its source, each of which a test has to notice.

`make mutants` runs this file. mutants.toml has the list: file, old text, new text, and what is broken by it. A mutant
is first run against the unit tests of its block, then against GEMMs on Verilated cores; the first test that fails has
killed it. A survivor is a hole in the suite, unless the list argues that nothing can tell it from the original.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
HARDWARE = Path("hw/halfulp/hw")
SOURCES = ("numerics", "hw", "sim", "boards", "host", "models", "cli")
TIME_LIMIT_S = 900
"""Of one mutant's tests of one stage: one that hangs is killed by the limit of pytest, or else by this."""

_NOT_BUILT = re.compile(r"\b(SyntaxError|IndentationError|NameError|ImportError|AttributeError|UnboundLocalError)\b")


class MutantError(ValueError):
    """The list does not agree with the sources: the message names the mutant and the rule."""


@dataclass(frozen=True)
class Mutant:
    """One fault: `old` stands exactly once in `file` of the hardware, and `new` takes its place."""

    file: str
    breaks: str
    old: str
    new: str
    equivalent: str = ""

    @property
    def name(self) -> str:
        return f"{self.file.removesuffix('.py')}: {self.breaks}"

    def changed(self, source: str) -> str:
        """The source with the fault in it."""
        found = source.count(self.old)
        if found != 1:
            raise MutantError(f"{self.name}: the old text stands {found} times in {self.file}, not once: {self.old!r}")
        if self.old == self.new:
            raise MutantError(f"{self.name}: the new text is the old one: {self.old!r}")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Suite:
    """The list as it is in the file: mutants, unit tests of each file, and the tests of cores that follow."""

    mutants: tuple[Mutant, ...]
    units: dict[str, list[str]]
    cores: dict[str, list[str]]

    def stages(self, file: str) -> list[list[str]]:
        """What pytest is called with for mutants of `file`, one call after the other."""
        return [stage for stage in (self.units[file], self.cores.get(file, self.cores["default"])) if stage]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed, survived, or not built; `by` is the test, or pytest's last line."""

    mutant: str
    state: str
    by: str
    seconds: float


def load(path: Path = LIST) -> Suite:
    """Read the list; every mutant's file has to have its tests in it."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    suite = Suite(tuple(Mutant(**entry) for entry in table["mutant"]), table["units"], table["cores"])
    for mutant in suite.mutants:
        if mutant.file not in suite.units:
            raise MutantError(f"{mutant.name}: {mutant.file} has no tests in [units]")
    names = [mutant.name for mutant in suite.mutants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise MutantError(f"two mutants are called {twice.pop()!r}")
    return suite


def check(mutants: Iterable[Mutant], root: Path = ROOT) -> None:
    """Raise a MutantError for the first one that cannot be put into the sources."""
    for mutant in mutants:
        mutant.changed((root / HARDWARE / mutant.file).read_text(encoding="utf-8"))


def snapshot(folder: Path, root: Path = ROOT) -> None:
    """Copy all that the tests need, so that a run is of one state of the sources."""
    for name in (*SOURCES, "tests", "docs"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "sim_build", "*.png"))
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(root / name, folder / name)


def run_tests(base: Path, hardware: Path, arguments: Sequence[str], cache: Path) -> tuple[int, str]:
    """Run pytest on the snapshot in `base` with the hardware of another folder; exit status, and what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COCOTB_"))}
    paths = [hardware / "hw", *(base / name for name in SOURCES if name != "hw")]
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HALFULP_CACHE": str(cache)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider", *arguments]
    process = subprocess.Popen(
        command,
        cwd=base,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=TIME_LIMIT_S)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        return 1, f"FAILED {' '.join(arguments)} - still running after {TIME_LIMIT_S} s"
    finally:
        # Whatever the tests have started goes with them.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def examine(mutant: Mutant, suite: Suite, base: Path, work: Path) -> Outcome:
    """Put one mutant into a copy of the hardware, and run its tests until one fails."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=work) as name:
        hardware = Path(name)
        shutil.copytree(base / "hw", hardware / "hw", ignore=shutil.ignore_patterns("__pycache__"))
        path = hardware / HARDWARE
        changed = mutant.changed((path / mutant.file).read_text(encoding="utf-8"))
        (path / mutant.file).write_text(changed, encoding="utf-8")
        for arguments in suite.stages(mutant.file):
            status, text = run_tests(base, hardware, arguments, work / "cache")
            if status == 0:
                continue
            failures = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
            by = (failures or text.splitlines() or ["pytest printed nothing"])[-1]
            state = "not built" if status != 1 or _NOT_BUILT.search(by) else "killed"
            return Outcome(mutant.name, state, by, time.monotonic() - start)
    return Outcome(mutant.name, "survived", "", time.monotonic() - start)


class Results:
    """What became of mutants before, by a hash of them and of all that decides it; so a run can be gone on with."""

    def __init__(self, path: Path, base: Path) -> None:
        self._path = path
        state = hashlib.sha256()
        folders = [base / name for name in ("numerics", "hw", "sim", "tests/hw", "tests/sim", "tests/host")]
        for file in sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".cpp")):
            state.update(f"{file.relative_to(base)} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
        self._sources = state.hexdigest()
        self._known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def key(self, mutant: Mutant, suite: Suite) -> str:
        """Of this mutant in these sources."""
        text = json.dumps([self._sources, asdict(mutant), suite.stages(mutant.file)])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def find(self, key: str) -> Outcome | None:
        """An earlier run's outcome."""
        return Outcome(**self._known[key]) if key in self._known else None

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome, at once."""
        self._known[key] = asdict(outcome)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        part.replace(self._path)


def run(
    mutants: Sequence[Mutant],
    suite: Suite,
    *,
    work: Path,
    jobs: int = 1,
    baseline: bool = True,
    tell: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run the tests of these mutants, `jobs` of them at a time.

    With `baseline` the same tests are run without a mutant first: they have to pass for a failure to mean anything.
    """
    check(mutants)
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="base-", dir=work) as name:
        base = Path(name)
        snapshot(base)
        results = Results(work / "results.json", base)
        found = {mutant: results.find(results.key(mutant, suite)) for mutant in mutants}
        open_ = [mutant for mutant in mutants if found[mutant] is None]
        tell(f"{len(mutants)} mutants, {len(open_)} to be run")
        with ThreadPoolExecutor(jobs) as pool:
            if baseline and open_:
                stages = {tuple(stage): None for mutant in open_ for stage in suite.stages(mutant.file)}
                runs = pool.map(lambda stage: (stage, run_tests(base, base, stage, work / "cache")), stages)
                for stage, (status, text) in runs:
                    if status:
                        raise MutantError(f"{' '.join(stage)} fails without any mutant:\n{text}")
                    tell(f"passes without a mutant: {' '.join(stage)}")

            def one(mutant: Mutant) -> None:
                outcome = found[mutant] = examine(mutant, suite, base, work)
                results.add(results.key(mutant, suite), outcome)
                tell(f"{outcome.state:9} {outcome.seconds:5.0f} s  {mutant.name}")

            list(pool.map(one, open_))
    return [outcome for outcome in found.values() if outcome is not None]


def verdict(mutant: Mutant, outcome: Outcome) -> str:
    """What is wrong, empty where nothing is: a survivor has to be argued equivalent, and only a survivor can be."""
    if outcome.state == "not built":
        return "does not build"
    if outcome.state == "survived":
        return "" if mutant.equivalent else "no test notices"
    return "argued equivalent, and killed" if mutant.equivalent else ""


def main() -> int:
    """Run the list, or those of it whose name has one of the words given; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose name has one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--work", type=Path, default=ROOT / "build/mutants", help="folder for copies and results")
    arguments = parser.parse_args()
    suite = load()
    check(suite.mutants)
    chosen = [m for m in suite.mutants if not arguments.words or any(word in m.name for word in arguments.words)]
    if not chosen:
        parser.error(f"no mutant's name has {' or '.join(arguments.words)}")
    start = time.monotonic()
    outcomes = run(chosen, suite, work=arguments.work.resolve(), jobs=arguments.jobs)
    table = Table("file", "fault", "outcome", "by")
    wrong = 0
    for mutant, outcome in zip(chosen, outcomes, strict=True):
        problem = verdict(mutant, outcome)
        wrong += bool(problem)
        said = f"[red]{problem}" if problem else outcome.state
        why = re.sub(r"^FAILED (\S*/)?", "", outcome.by).split(" - ")[0] or mutant.equivalent
        table.add_row(mutant.file, mutant.breaks, said, why)
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    killed = sum(outcome.state == "killed" for outcome in outcomes)
    print(f"{killed} of {len(chosen)} killed, {wrong} wrong, {time.monotonic() - start:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MutantError as error:
        sys.exit(f"mutants: {error}")
