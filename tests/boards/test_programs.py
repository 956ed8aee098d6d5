"""Tools: found, bounded in time, stopped whole, and their failures told in one line with the log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfulp.boards import programs
from halfulp.boards.programs import PROGRAMS, Program, ProgramError, run_program

from .fake_tools import FakeTools


def test_every_program_is_there_and_tells_its_version():
    for program in PROGRAMS.values():
        assert program.version().startswith(program.distribution)


def test_a_missing_program_is_told_with_what_gets_it(monkeypatch: pytest.MonkeyPatch):
    gone = Program("nextpnr-x", "yowasp-nextpnr-x", "no_such_module", "run")
    with pytest.raises(ProgramError, match=r"nextpnr-x is not installed: pip install 'halfulp\[boards\]'"):
        gone.command()
    monkeypatch.setenv("NEXTPNR_X", "/no/such/program")
    with pytest.raises(ProgramError, match="no program '/no/such/program', which the variable NEXTPNR_X names"):
        gone.command()


def test_another_build_of_a_tool_has_another_version(tools: FakeTools):
    before = PROGRAMS["yosys"].version()
    tools.install_one("YOSYS", {"something": "else"})
    assert PROGRAMS["yosys"].version() != before


def test_a_failure_is_one_line_with_the_log(tools: FakeTools, tmp_path: Path):
    tools.install_one("YOSYS", {}, says="reading\nERROR: no such module\nmore", code=1)
    with pytest.raises(ProgramError, match=r"synthesis: yosys failed: ERROR: no such module \(log: (.*)\)$") as caught:
        run_program("synthesis", PROGRAMS["yosys"], ["-q"], tmp_path, log="log", timeout=30)
    (log,) = (tmp_path / "cache" / "logs").iterdir()
    assert str(log) in str(caught.value)
    assert "ERROR: no such module" in log.read_text()
    tools.install_one("YOSYS", {}, says="write: No space left on device", code=1)
    with pytest.raises(OSError, match="No space left on device"):
        run_program("synthesis", PROGRAMS["yosys"], [], tmp_path, log="log2", timeout=30)


def test_a_tool_that_hangs_is_stopped(tools: FakeTools, tmp_path: Path):
    tools.install_one("YOSYS", {}, seconds=60)
    start = time.monotonic()
    with pytest.raises(ProgramError, match=r"yosys took more than .* minutes and was stopped"):
        run_program("synthesis", PROGRAMS["yosys"], [], tmp_path, log="log", timeout=0.5)
    assert time.monotonic() - start < 20


def test_a_tool_begins_once_it_is_sure_to_end_with_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\ntouch begun\n")
    tool.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(tool))
    guard, begun = programs._ended_with_us, []

    @contextlib.contextmanager
    def late(group: int) -> Iterator[None]:
        time.sleep(0.3)
        begun.append((tmp_path / "begun").exists())
        with guard(group):
            yield

    monkeypatch.setattr(programs, "_ended_with_us", late)
    run_program("synthesis", PROGRAMS["yosys"], [], tmp_path, log="log", timeout=30)
    assert begun == [False]
    assert (tmp_path / "begun").exists()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_leaves_no_process(end: signal.Signals, tmp_path: Path):
    # The tool starts a process of its own, as the real ones do, and both write that they live.
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho $$ > parent\nsleep 60 & echo $! > child\ntouch ready\nwait\n")
    tool.chmod(0o755)
    program = (
        "import os, pathlib; from halfulp.boards.programs import PROGRAMS, run_program\n"
        "run_program('x', PROGRAMS['yosys'], [], pathlib.Path('.'), log='log', timeout=60)"
    )
    environment = {**os.environ, "YOSYS": str(tool)}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(end)
    _, err = process.communicate(timeout=30)
    assert (b"KeyboardInterrupt" in err) == (end == signal.SIGINT)
    for name in ("parent", "child"):
        number = int((tmp_path / name).read_text())
        while Path(f"/proc/{number}/stat").exists() and " Z " not in Path(f"/proc/{number}/stat").read_text():
            assert time.monotonic() < deadline, f"{name} still runs"
            time.sleep(0.02)
