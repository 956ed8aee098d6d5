"""Runs the tools that build and simulate: nothing is left running, and a failure is one line with its log."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from halfulp.hw.cache import cache_folder

__all__ = ["BuildError", "keep_log", "run_tools"]


class BuildError(RuntimeError):
    """A simulation could not be built: a tool is missing or failed. One line, with the remedy or the log."""


def run_tools(
    what: str,
    commands: Sequence[Sequence[str]],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    log_name: str = "build.log",
) -> Path:
    """Run the commands in `folder`, one a CPU core at a time, and return the log of their output.

    Whatever interrupts it, no process is left: each runs in a session of its own, which is killed.

    Raises
    ------
    BuildError
        At the first command that fails: with `what`, its first line that tells an error, and where the log is kept.
    OSError
        ENOSPC, where the output says that the disk is full.
    """
    # The compiler's temporary files lie with the others, to go with them.
    environment = {**(os.environ if environment is None else environment), "TMPDIR": str(folder)}
    log = folder / log_name
    waiting = list(commands)
    running: list[subprocess.Popen[bytes]] = []
    try:
        with open(log, "ab") as output:
            while waiting or running:
                while waiting and len(running) < (os.cpu_count() or 1):
                    process = subprocess.Popen(
                        waiting.pop(0),
                        cwd=folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                    running.append(process)
                if running[0].wait() != 0:
                    raise _failure(what, log)
                running.pop(0)
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return log


def keep_log(what: str, log: Path) -> Path:
    """Copy a log to where it outlives its folder; return that path."""
    kept = cache_folder() / "logs" / f"{re.sub(r'[^A-Za-z0-9]+', '-', what)}.log"
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(log.read_bytes())
    return kept


def _failure(what: str, log: Path) -> OSError | BuildError:
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    errors = [line.strip() for line in text.splitlines() if re.search(r"error|killed|fatal", line, re.IGNORECASE)]
    return BuildError(f"{what} failed: {errors[0] if errors else 'no reason given'} (log: {keep_log(what, log)})")
