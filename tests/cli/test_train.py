"""`halfulp train`: summary, JSON, one-line errors, resuming, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halfulp.cli.main import run

SMALL = ["train", "mlp", "digits", "--device", "golden", "--hidden", "8", "--batch-size", "256"]


def test_the_summary_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run([*SMALL, "--check", "golden", "--results", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("mlp on digits, fp8-hybrid, seed 0, on golden: 1 of 1 epochs, 6 steps\n")
    assert "% recognised, loss " in out
    assert "GEMMs        34, 2,029,488 MACs" in out
    assert "golden and golden: equal, bit for bit (34 GEMMs and all weights)" in out
    assert str(tmp_path / "mlp-digits-fp8-hybrid-golden-seed0") in out
    assert err == ""


def test_json_and_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run([*SMALL, "--recipe", "int8", "--seed", "3", "--json", "--results", str(tmp_path)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["config"]["recipe"] == "int8"
    assert summary["config"]["seed"] == 3
    assert summary["gemms"] == 34
    folder = summary["folder"]
    assert run(["train", "--resume", folder, "--device", "golden", "--epochs", "2", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert json.loads((Path(folder) / "summary.json").read_text())["epochs"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "name a network and data, as in 'halfulp train mlp mnist5k', or a run to --resume"),
        (["train", "mlp"], "name a network and data"),
        (["train", "mlp", "digts"], "unknown data 'digts'; nearest: 'digits'"),
        (["train", "mpl", "digits"], "unknown network 'mpl'; nearest: 'mlp'"),
        ([*SMALL, "--recipe", "int9"], "unknown recipe 'int9'; nearest: 'int8'"),
        ([*SMALL, "--device", "emulater"], "unknown device 'emulater'; nearest: 'emulator'"),
        ([*SMALL, "--check", "gold"], "unknown device 'gold'; nearest: 'golden'"),
        ([*SMALL, "--hidden", "8;8"], "--hidden takes layer sizes such as 1000,1000, not '8;8'"),
        ([*SMALL, "--hidden", "8,"], "--hidden takes layer sizes such as 1000,1000, not '8,'"),
        ([*SMALL, "--epochs", "0"], "epochs must be at least 1, not 0"),
        ([*SMALL, "--seed", "-1"], "seed must be 0 to 2**64 - 1, not -1"),
        (["train", "--resume", "nowhere"], "no results folder 'nowhere' to resume"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"halfulp: {message}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]):
    assert run(["train", "--help"]) == 0
    assert "halfulp train mlp mnist5k --recipe fp8-hybrid --device rtl:8x8 --check emulator" in capsys.readouterr().out


def test_interrupt_ends_with_a_checkpoint_and_exit_code_130(tmp_path: Path):
    halfulp = [sys.executable, "-c", "from halfulp.cli.main import main; main()"]
    command = [*halfulp, *SMALL, "--epochs", "40", "--results", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "mlp-digits-fp8-hybrid-golden-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert " of 40 epochs" in out
    resume = f"halfulp: note: go on with: halfulp train --resume {metrics.parent}\n"
    assert err == resume + "halfulp: interrupted\n"
    assert (metrics.parent / "checkpoint.pt").exists()
