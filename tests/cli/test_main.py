"""The command: its help, exit codes and errors; it loads no more than it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from halfulp.cli import main
from halfulp.cli.console import print_table

COMMANDS = sorted(main.COMMANDS)
GET_IT = "is not installed: pip install 'halfulp[%s]'"


def test_help_lists_the_commands(halfulp):
    outcome = halfulp("--help")
    assert outcome.code == 0
    for name, summary in main.COMMANDS.items():
        assert name in outcome.out
        assert summary.split()[0] in outcome.out
    assert halfulp().code == 2  # help was not asked for: a mistake
    assert halfulp("-h").out == outcome.out


def test_version(halfulp):
    outcome = halfulp("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("halfulp 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(halfulp, name):
    outcome = halfulp(name, "--help")
    assert outcome.code == 0
    assert f"halfulp {name}" in outcome.out.partition("Example")[2]


def test_misspelt_command_names_the_nearest(halfulp):
    outcome = halfulp("gem")
    assert outcome.code == 2
    assert outcome.error == "No such command 'gem'. Did you mean 'gemm'?"


def test_misspelt_option_is_one_line(halfulp):
    outcome = halfulp("formats", "--polt")
    assert outcome.code == 2
    assert "No such option" in outcome.error


def test_debug_gives_the_traceback_wherever_it_stands(halfulp):
    for arguments in (("--debug", "formats", "e9m9"), ("formats", "e9m9", "--debug")):
        outcome = halfulp(*arguments)
        assert outcome.code == 1
        assert "Traceback" in outcome.err
        assert "Error" in outcome.err.splitlines()[-1]
    assert "Traceback" not in halfulp("formats", "e9m9").err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("rows must be\n1 to 64"), "rows must be 1 to 64"),
        (FileNotFoundError(2, "No such file or directory", "A.npy"), "A.npy: No such file or directory"),
        (MemoryError("no 8 bytes"), "out of memory: no 8 bytes"),
        (ModuleNotFoundError("x", name="torch"), f"the Python package torch {GET_IT % 'torch'}"),
        (ModuleNotFoundError("x", name="cocotbext.axi"), f"the Python package cocotbext.axi {GET_IT % 'sim'}"),
        (ZeroDivisionError("oops"), "internal error, ZeroDivisionError: oops (--debug shows where)"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_every_error_is_one_line(halfulp, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("halfulp.cli.formats.get_any_format", fail)
    outcome = halfulp("formats", "e4m3")
    assert outcome.code == 1
    assert outcome.error == line


def test_interrupt_is_clean(halfulp, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("halfulp.cli.formats.get_any_format", interrupted)
    outcome = halfulp("formats", "e4m3")
    assert outcome.code == 130
    assert outcome.error == "interrupted"


@pytest.mark.parametrize(
    ("number", "outcome"),
    [(signal.SIGINT, (130, "ended\n", "halfulp: interrupted\n")), (signal.SIGTERM, (143, "ended\n", ""))],
)
def test_a_signal_ends_the_process_cleanly(tmp_path, number, outcome):
    """Ctrl-C or a time limit in the middle of real work: what was begun ends, no output file, no temporary one."""
    script = (
        "import numpy as np, sys, time; from halfulp.host import device; from halfulp.cli.main import main\n"
        "np.save('a.npy', np.ones((2, 2)))\n"
        "def work(*a, **k):\n"
        "    try:\n"
        "        print('working', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('ended', flush=True)\n"
        "device.golden_gemm = work\n"
        "sys.argv = ['halfulp', 'gemm', 'a.npy', 'a.npy', '-o', 'c.npy', '--device', 'golden']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == outcome
    assert os.listdir(tmp_path) == ["a.npy"]


def test_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -c 'from halfulp.cli.main import main; main()' formats e4m3 | head -c 10"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["formats"], ["devices"], ["gemm", "--help"], ["bench", "--help"]])
def test_light_commands_load_nothing_heavy(arguments):
    script = (
        "import sys; from halfulp.cli.main import run; run(sys.argv[1:]); "
        "heavy = {'torch', 'numba', 'llvmlite', 'amaranth', 'cocotb', 'matplotlib', 'sklearn'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_long_title_stays_on_one_line_over_a_narrow_table(capsys):
    title = "halfulp_2x2_int8_71f28bcc77 on OrangeCrab 0.2, 25F (Greg Davill)"
    print_table(title, ["", "used"], [["LUT", "6444"]], right=[1])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.rstrip() == title
    assert ["LUT", "6444"] in [line.split() for line in lines]
