"""`halfulp generate` and `halfulp verify`: what they are given, what they print, and when they succeed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from halfulp.host.netlist_check import NetlistCheck, NetlistGemm
from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import load_config
from halfulp.sim.cosim import BenchResult, BenchTest


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "core.toml"
    path.write_text(
        'rows = 1\ncolumns = 2\na_formats = ["int8"]\nb_formats = ["int4"]\nout_formats = ["int8"]\nlanes = 1\n'
    )
    return path


def test_generate_writes_a_core(halfulp, config_file, tmp_path):
    outcome = halfulp("generate", config_file, "-o", tmp_path / "core")
    assert outcome.code == 0
    assert "array        1 x 2" in outcome.out
    for path in (tmp_path / "core").iterdir():
        assert str(path) in outcome.out.splitlines()
    assert "module halfulp_core" in (tmp_path / "core" / "halfulp_core.v").read_text()
    assert load_config(tmp_path / "core" / "config.toml") == load_config(config_file)


def test_generate_helps_with_every_parameter(halfulp):
    words = halfulp("generate", "--help").out.replace(",", " ").replace(".", " ").split()
    assert [field.name for field in fields(ArrayConfig) if field.name not in words] == []


def test_generate_prints_the_widths_as_json(halfulp, config_file, tmp_path, monkeypatch):
    monkeypatch.setattr("halfulp.hw.generate.generate", lambda config, folder: None)  # which takes seconds
    report = json.loads(halfulp("generate", config_file, "-o", tmp_path / "core", "--json").out)
    assert (report["rows"], report["columns"], report["folder"]) == (1, 2, str(tmp_path / "core"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rowz = 3", "unknown array parameter 'rowz'; nearest: 'rows'"),
        ("rows = 0", "rows must be 1 to 64, not 0"),
        ("rows = 'x'", "rows must be an integer, not 'x'"),
        ("lanes = 3", "lanes must be 1, 2, 4 or 8 and divide columns = 8, not 3"),
        ("columns = 2", "divide columns = 2, not 4 (4 unless given): set lanes to 1 or 2"),
        ('a_formats = ["e4m4x"]', "unknown format 'e4m4x'"),
        ('a_formats = ["float32"]', "bits; at most 128 are built: take narrower formats, or the emulator"),
        ("rows =", "not TOML"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "verify"])
def test_bad_configuration(halfulp, tmp_path, command, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    output = ["-o", tmp_path / "core"] if command == "generate" else []
    error = halfulp(command, path, *output).error
    assert message in error
    assert "bad.toml" in error
    assert not (tmp_path / "core").exists()


@pytest.mark.parametrize("command", ["generate", "verify"])
def test_missing_configuration(halfulp, tmp_path, command):
    output = ["-o", tmp_path / "core"] if command == "generate" else []
    assert halfulp(command, tmp_path / "none.toml", *output).error == f"{tmp_path}/none.toml: No such file or directory"


def test_generate_leaves_a_foreign_folder_alone(halfulp, config_file, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("dear")
    assert "is not empty" in halfulp("generate", config_file, "-o", folder).error
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.fixture
def bench(monkeypatch):
    """`run_bench` in name only: it is tested where it is; returns what it was called with, and what it answers."""
    calls: list[dict[str, Any]] = []
    tests = [BenchTest("random", "", 1.5, 10.0), BenchTest("errors", "", 0.5, 20.0)]

    def run_bench(config: ArrayConfig, **options: Any) -> BenchResult:
        calls.append({"config": config, **options})
        waves = Path("waves.vcd") if options["waves"] else None
        return BenchResult(config, options["seed"], options["tests"], options["simulator"], tuple(tests), None, waves)

    monkeypatch.setattr("halfulp.sim.cosim.run_bench", run_bench)
    return calls, tests


def test_verify_passes_its_options_on(halfulp, config_file, bench):
    calls, _ = bench
    outcome = halfulp("verify", config_file, "--seed", 3, "--tests", 7, "--waves", "--simulator", "icarus")
    assert outcome.code == 0
    assert calls == [
        {
            "config": load_config(config_file),
            "seed": 3,
            "tests": 7,
            "waves": True,
            "coverage": False,
            "simulator": "icarus",
        },
    ]
    assert "waves: waves.vcd" in outcome.out


def test_verify_fails_when_a_test_does(halfulp, config_file, bench):
    _, tests = bench
    tests[1] = BenchTest("errors", "C[3, 4] is 0x12, not 0x13", 0.5, 20.0)
    outcome = halfulp("verify", config_file)
    assert outcome.code == 1
    assert "C[3, 4] is 0x12, not 0x13" in outcome.out
    assert outcome.err == ""
    outcome = halfulp("verify", config_file, "--json")
    assert outcome.code == 1
    told = json.loads(outcome.out)
    assert [test["passed"] for test in told["tests"]] == [True, False]
    assert told["passed"] is False


def test_verify_refuses_an_unknown_simulator(halfulp, config_file):
    assert halfulp("verify", config_file, "--simulator", "verilater").error == (
        "unknown simulator 'verilater'; nearest: 'verilator'"
    )


def test_verify_draws_into_a_folder(halfulp, config_file, tmp_path, bench, monkeypatch):
    calls, _ = bench
    monkeypatch.setattr("halfulp.sim.core_timing.core_timing", lambda waves: {"start": "<svg/>"})
    error = halfulp("verify", config_file, "--timing", config_file).error
    assert error == f"{config_file} is a file, not a folder to write to"
    assert calls == []
    assert halfulp("verify", config_file, "--timing", tmp_path / "new" / "folder").code == 0
    assert (tmp_path / "new" / "folder" / "timing-start.svg").read_text() == "<svg/>"


def test_verify_of_a_netlist(halfulp, config_file, monkeypatch):
    asked = []

    def check_netlist(board: Any, config: ArrayConfig, *, tests: int, seed: int, progress: Any) -> NetlistCheck:
        asked.append((board.name, tests, seed))
        told = "" if seed else "C[0, 0] is 0x1, not 0x2"
        return NetlistCheck(cells={"LUT4": 4321}, gemms=(NetlistGemm(name="2 × 3 × 4", message=told, seconds=1.0),))

    monkeypatch.setattr("halfulp.host.netlist_check.check_netlist", check_netlist)
    outcome = halfulp("verify", config_file, "--netlist", "ulx3s", "--seed", 5)
    assert outcome.code == 0
    assert "netlist for ulx3s, seed 5" in outcome.out
    assert "cells: 4,321 LUT4" in outcome.out
    outcome = halfulp("verify", config_file, "--netlist", "ulx3s", "--tests", 9, "--json")
    assert outcome.code == 1
    told = json.loads(outcome.out)
    assert (told["passed"], told["cells"], told["tests"][0]["message"]) == (
        False,
        {"LUT4": 4321},
        "C[0, 0] is 0x1, not 0x2",
    )
    assert asked == [("ulx3s", 3, 5), ("ulx3s", 9, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--netlist", "ulx4"], "unknown board 'ulx4'; nearest: 'ulx3s'"),
        (["--netlist", "ulx3s", "--waves"], "--waves is of the core before synthesis, not of a netlist"),
        (["--netlist", "ulx3s", "--simulator", "icarus"], "a netlist is simulated by verilator, not by icarus"),
    ],
)
def test_verify_refuses_what_netlists_do_not_have(halfulp, config_file, options, message):
    assert message in halfulp("verify", config_file, *options).error
