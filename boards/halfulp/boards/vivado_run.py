"""Running Vivado in batch: found, of a release that serves, bounded in time, stopped whole, told in one line."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from halfulp.boards.programs import ProgramError
from halfulp.boards.vivado_project import LEAST_VIVADO

__all__ = ["VARIABLE", "VivadoError", "find_vivado", "run_vivado"]

VARIABLE = "VIVADO"
"""Environment variable that names Vivado's program where it is not on the PATH."""

VERSION_TIMEOUT_S = 120.0
"""Vivado takes some seconds to say its version, and much longer from a network drive."""

LOG = "vivado.log"
REPORT = re.compile(r"halfulp: (step|error): (.*)")
"""The lines that our scripts print, among Vivado's own."""


class VivadoError(ProgramError):
    """Vivado is missing, too old, failed or took too long; one line, with the place of its log."""


def find_vivado(program: str | None = None) -> str | None:
    """Path of Vivado; None where it is not installed.

    Parameters
    ----------
    program
        Its name or path; None: what $VIVADO names, or else ``vivado`` of the PATH.

    Raises
    ------
    VivadoError
        Where `program` or $VIVADO names no program, or one that is too old or no Vivado.
    """
    named = program or os.environ.get(VARIABLE)
    path = shutil.which(named or "vivado")
    if path is None:
        if named:
            where = "" if program else f", which the variable {VARIABLE} names"
            raise VivadoError(f"there is no program {named!r}{where}")
        return None
    found = _version(path)
    if _release(found) < _release(LEAST_VIVADO):
        raise VivadoError(f"{path} is Vivado {found}; {LEAST_VIVADO} or newer is needed")
    return path


def _version(path: str) -> str:
    try:
        done = subprocess.run(
            [path, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise VivadoError(f"{path} -version gave no answer in {VERSION_TIMEOUT_S:g} seconds") from None
    except OSError as error:
        raise VivadoError(f"{path} cannot be run: {error.strerror}") from error
    found = re.search(r"vivado v(\d+\.\d+[\w.]*)", done.stdout, re.IGNORECASE)
    if found is None:
        raise VivadoError(f"{path} is no Vivado: -version does not name a release")
    return found[1]


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def run_vivado(
    command: Sequence[str], folder: Path, *, timeout_s: float, progress: Callable[[str], None] = lambda text: None
) -> None:
    """Run Vivado in a project's folder. Whatever ends it, no process of it is left.

    Parameters
    ----------
    command
        What `vivado_command` gives.
    folder
        Of the project.
    timeout_s
        After which it is stopped.
    progress
        Told of each step.

    Raises
    ------
    VivadoError
        Where it fails or is stopped.
    """
    log = folder / LOG
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    reason = last = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = REPORT.match(line)
            if found and found[1] == "step":
                progress(f"Vivado: {found[2]}")
            elif found:
                reason = found[2].strip()
            elif line.startswith("ERROR:"):
                last = line.strip()
        code = process.wait()
    finally:
        timer.cancel()
        if process.returncode is None:
            _kill(process)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set():
        raise VivadoError(f"Vivado took more than {timeout_s / 60:g} minutes and was stopped (log: {log})")
    if code != 0:
        why = reason or last or f"exit code {code}"
        raise VivadoError(f"Vivado failed: {why} (log: {log})")


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill it with all that it has started; only before it is waited for, after which its number may be another's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
