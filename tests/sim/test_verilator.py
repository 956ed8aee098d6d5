"""Building a simulation: missing and failing tools, interruptions, and the cache of what was built."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from halfulp.hw.cache import CacheError
from halfulp.hw.config import ArrayConfig
from halfulp.sim import rtl, tools
from halfulp.sim.rtl import RtlCore
from halfulp.sim.tools import BuildError, run_tools
from halfulp.sim.verilator import _vector_flags, build_library, verilator_environment, verilator_root

PUPPET = Path(__file__).with_name("puppet.v").read_text()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has nothing but what does not depend on the core: making that takes most of a small build."""
    folder = tmp_path / "cache"
    shared = verilator_root().parent.parent
    build_library("puppet", PUPPET)
    folder.mkdir()
    for part in ("verilator", "verilated"):
        (folder / part).symlink_to(shared / part)
    monkeypatch.setenv("HALFULP_CACHE", str(folder))
    return folder


def left_behind(cache: Path) -> list[str]:
    return [path.name for path in (cache / "cores").iterdir() if not path.name.endswith(".lock")]


def test_the_private_root_runs_without_perl_or_configuration():
    environment = {**verilator_environment(), "PATH": str(verilator_root() / "bin")}
    found = subprocess.run(["verilator", "--version"], env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr


def test_a_library_is_built_once_and_again_when_it_is_damaged(empty_cache: Path):
    library = build_library("puppet", PUPPET)
    built = library.stat().st_mtime_ns
    assert build_library("puppet", PUPPET).stat().st_mtime_ns == built
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    assert build_library("puppet", PUPPET).read_bytes() == whole


def clock(library: Path) -> None:
    """Open the puppet of this build and let it run."""
    timing = (ctypes.c_uint32 * 8)(1, 1, 65536, 0, 32)
    memory = (ctypes.c_uint8 * 4096)()
    core = ctypes.CDLL(str(library))
    core.core_open.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(core.core_open(memory, ctypes.c_uint64(4096), ctypes.c_uint64(0), timing))
    core.core_advance(handle, ctypes.c_uint64(1000))
    core.core_close(handle)


def test_an_exercised_library_is_compiled_by_what_was_counted(empty_cache: Path):
    """One that was exercised and one whose exercise did nothing differ: the compiler had counts of the first alone."""
    plain = build_library("puppet", PUPPET)
    counted = build_library("puppet", PUPPET, exercise=clock)
    clock(counted)
    assert counted != plain
    assert counted.read_bytes() != plain.read_bytes()
    assert sorted(left_behind(empty_cache)) == sorted({plain.parent.name, counted.parent.name})
    assert [path.name for path in counted.parent.iterdir() if path.suffix in (".gcda", ".so")] == ["core.so"]


def test_an_exercise_that_fails_leaves_a_library_like_one_without(empty_cache: Path, caplog: pytest.LogCaptureFixture):
    def fail(library: Path) -> None:
        raise TimeoutError(f"{library.name} did not end")

    plain = build_library("puppet", PUPPET)
    assert build_library("puppet", PUPPET, exercise=fail).read_bytes() == plain.read_bytes()
    assert "puppet is not compiled for what it does most: counting.so did not end" in caplog.text


def test_a_failing_build_tells_the_first_error_and_keeps_the_log(empty_cache: Path):
    with pytest.raises(
        BuildError, match=r"^Verilator on broken failed: %Error.*core\.v:1.*\(log: .*\.log\)$"
    ) as caught:
        build_library("broken", "module halfulp_core (input aclk; endmodule\n")
    log = Path(str(caught.value).rpartition("log: ")[2].rstrip(")"))
    assert "%Error" in log.read_text()
    assert left_behind(empty_cache) == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PATH": "/nonexistent", "CXX": ""}, r"C\+\+ compiler g\+\+ is not installed.*apt install g\+\+ make"),
        ({"CXX": "no-such-compiler -m64"}, r"C\+\+ compiler no-such-compiler is not installed.*set CXX"),
    ],
)
def test_a_missing_compiler_is_named_with_its_package(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=message) as caught:
        build_library("puppet", PUPPET)
    assert "\n" not in str(caught.value)
    assert left_behind(empty_cache) == []


def test_ctrl_c_ends_the_compiler_and_leaves_nothing(empty_cache: Path):
    program = f"""
        from pathlib import Path
        from halfulp.sim.verilator import build_library
        build_library("puppet", Path({str(Path(__file__).with_name("puppet.v"))!r}).read_text())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 60
    while not list((empty_cache / "cores").glob(".*.tmp/new/work/model/*.cpp")):
        assert time.monotonic() < give_up
        assert process.poll() is None, "the build was over before it could be interrupted"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert left_behind(empty_cache) == []
    assert compilers_in(empty_cache) == []
    assert build_library("puppet", PUPPET).exists()


def compilers_in(folder: Path) -> list[str]:
    """Command lines of processes that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in os.readlink(process / "cwd"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has ended, or is another user's
    return found


def test_a_disk_that_fills_during_the_build_gives_one_line(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    # A compiler whose output meets a full disk.
    compiler = empty_cache / "c++"
    compiler.write_text("#!/bin/sh\necho 'cc1plus: fatal error: core.o: No space left on device' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(CacheError, match=r"^no room left for the cache in .*HALFULP_CACHE") as caught:
        build_library("puppet", PUPPET)
    assert "\n" not in str(caught.value)
    assert left_behind(empty_cache) == []


def test_a_failing_tool_ends_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tools.os, "cpu_count", lambda: 2)
    start = time.monotonic()
    with pytest.raises(BuildError, match="trying failed: no error: it is a test"):
        run_tools("trying", [["sh", "-c", "echo no error: it is a test; exit 3"], ["sleep", "60"]], tmp_path)
    assert time.monotonic() - start < 30
    assert compilers_in(tmp_path) == []


def test_verilog_is_generated_once_for_each_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path))
    verilog = pytest.importorskip("halfulp.hw.verilog")
    calls = []

    def generate(config: ArrayConfig) -> str:
        calls.append(config)
        return f"// {config.name}\n"

    monkeypatch.setattr(verilog, "generate_verilog", generate)
    monkeypatch.setattr(verilog, "generate_simulation_verilog", generate)
    small, smaller = ArrayConfig(rows=2, columns=2, lanes=2), ArrayConfig(rows=1, columns=2, lanes=2)
    assert rtl.core_verilog(small) == rtl.core_verilog(small) == f"// {small.name}\n"
    assert rtl.core_verilog(smaller) == f"// {smaller.name}\n"
    assert calls == [small, smaller]
    assert rtl.core_verilog(small, flat=True) == f"// {small.name}\n"
    assert calls == [small, smaller, small], "the flat text is another one"
    monkeypatch.setattr(rtl, "sources_digest", lambda *packages: "other sources")
    rtl.core_verilog(small)
    assert calls == [small, smaller, small, small]


def test_a_full_disk_while_opening_a_core_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path))

    def full(config: ArrayConfig) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pytest.importorskip("halfulp.hw.verilog"), "generate_simulation_verilog", full)
    with pytest.raises(CacheError, match="no room left for the cache"):
        RtlCore(ArrayConfig())


@pytest.mark.parametrize(
    ("processor", "flags"),
    [
        ("flags\t\t: sse2 avx2 avx512f avx512dq avx512bw avx512vl", "-mavx512f -mavx512bw -mavx512dq -mavx512vl"),
        ("flags\t\t: sse2 avx2 avx512f", "-mavx2"),
        ("flags\t\t: sse2 avx", ""),
        ("Features\t: fp asimd", ""),
    ],
)
def test_vectors_are_the_best_that_the_processor_has(processor: str, flags: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor\t: 0\n{processor}\nbugs\t: none\n")
    assert " ".join(_vector_flags.__wrapped__()).removesuffix(" -mprefer-vector-width=512") == flags
