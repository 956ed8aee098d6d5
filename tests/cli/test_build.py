"""`halfulp build`: what it builds for which board, what it prints, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfulp.boards import blocks, fit, open_build, vivado
from halfulp.boards.blocks import BlockFigures
from halfulp.boards.board import BOARDS
from halfulp.boards.fit import Fit
from halfulp.boards.open_build import OpenBuild
from halfulp.boards.place import PLACE_TIMEOUT, Placement, Step, Use
from halfulp.boards.programs import ProgramError
from halfulp.boards.synthesis import Area
from halfulp.boards.vivado import VivadoBuild
from halfulp.hw.config_file import load_config

AREA = Area(540, 300, 4, 8)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "core.toml"
    path.write_text(
        'rows = 2\ncolumns = 2\nlanes = 1\na_formats = ["int8"]\nb_formats = ["int8"]\nout_formats = ["int8"]\n'
    )
    return path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config_file: Path) -> list[dict[str, Any]]:
    """Builds, fits and figures in name only: they are tested where they are; what they were called with."""
    folder = tmp_path / "cached"
    folder.mkdir()
    for name in ("top.bit", "top.lpf", "nextpnr.log"):
        (folder / name).write_text(name)
    calls: list[dict[str, Any]] = []
    steps = [Step("clk-to-q", 0.5, "first.Q", "first.Q"), Step("routing", 4.0, "first.Q", "last.D")]
    placement = Placement(folder=folder, fmax=61.5e6, use={"LUT": Use(540, 83640)}, critical_path=steps)

    def build_open(board: Any, config: Any, *, progress: Any, seed: int, **options: Any) -> OpenBuild:
        calls.append({"build": board.name, "size": (config.rows, config.columns), "seed": seed, **options})
        return OpenBuild(
            board=board,
            config=config,
            frequency=50e6,
            baud=3_000_000,
            memory_bytes=65536,
            area=AREA,
            placement=placement,
        )

    def fit_board(board: Any, config: Any, *, progress: Any, **design: Any) -> Fit:
        calls.append({"fit": board.name, **{name: value for name, value in design.items() if value is not None}})
        larger = config.replace(rows=9, columns=7)
        return Fit(config=larger, estimate=AREA, area=AREA, limits=replace(AREA, luts=600), synthesised=[(9, 7)])

    def block_figures(config: Any, board: Any, *, seed: int, progress: Any) -> list[BlockFigures]:
        return [BlockFigures(name="array", area=AREA, fmax=165.4e6, xc7=Area(32, 0, 4, 0))]

    def build_vivado(board: Any, config: Any, out: Path, *, clock_mhz: float | None, progress: Any) -> VivadoBuild:
        calls.append({"vivado": board.name, "out": out, "clock_mhz": clock_mhz})
        shares = {"luts": 0.5, "flip_flops": 0.25, "dsps": 0.125, "block_rams": 0.1}
        return VivadoBuild(folder=out, area=AREA, shares=shares, bitstream=None, handoff=None, next_step="run it there")

    monkeypatch.setattr(open_build, "build_open", build_open)
    monkeypatch.setattr(fit, "fit_board", fit_board)
    monkeypatch.setattr(fit, "build_open", build_open)
    monkeypatch.setattr(blocks, "block_figures", block_figures)
    monkeypatch.setattr(vivado, "build_vivado", build_vivado)
    return calls


def test_a_bitstream_with_its_report(halfulp, built: list[dict[str, Any]], config_file: Path, tmp_path: Path):
    options = ["--clock", 60, "--baud", 1_000_000, "--memory", 4096, "--seed", 3]
    outcome = halfulp("build", "ulx3s", config_file, "-o", tmp_path / "out", *options)
    assert outcome.code == 0
    assert built == [
        {"build": "ulx3s", "size": (2, 2), "seed": 3, "clock_mhz": 60, "baud": 1_000_000, "memory_bytes": 4096}
    ]
    assert (tmp_path / "out" / "ulx3s.bit").read_text() == "top.bit"
    assert "50 MHz, of 61.5 possible" in outcome.out
    assert "first.Q to last.D: 0.5 ns in cells, 4.0 ns between" in outcome.out
    assert f"load it   openFPGALoader -b ulx3s {tmp_path}/out/ulx3s.bit" in outcome.out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["fmax"] == 61.5e6


def test_the_report_of_blocks(halfulp, built: list[dict[str, Any]], config_file: Path, tmp_path: Path):
    arguments = ["build", "ulx3s", config_file, "-o", tmp_path / "out", "--report"]
    assert "165.4" in halfulp(*arguments).out
    (block,) = json.loads(halfulp(*arguments, "--json").out)["blocks"]
    assert (block["name"], block["fmax"], block["xc7"]["luts"]) == ("array", 165.4e6, 32)


def test_fit_alone_builds_nothing(halfulp, built: list[dict[str, Any]], config_file: Path, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    outcome = halfulp("build", "ulx3s", config_file, "--fit", "--clock", 25)
    assert "The largest array for ULX3S 85F (Radiona): 9×7" in outcome.out
    assert built == [{"fit": "ulx3s", "frequency": 25e6, "baud": 3_000_000, "memory_bytes": 65536}]
    assert not (tmp_path / "build").exists()
    told = json.loads(halfulp("build", "ulx3s", config_file, "--fit", "--json").out)
    assert (told["rows"], told["columns"], told["limits"]["luts"]) == (9, 7, 600)


def test_fit_with_a_folder_builds_what_fits(halfulp, built: list[dict[str, Any]], config_file: Path, tmp_path: Path):
    assert halfulp("build", "ulx3s", config_file, "--fit", "-o", tmp_path / "out").code == 0
    assert built[1]["size"] == (9, 7)
    assert built[1]["timeout"] == PLACE_TIMEOUT
    assert load_config(tmp_path / "out" / "config.toml").rows == 9


def test_what_could_not_be_placed_is_noted(
    halfulp, built: list[dict[str, Any]], config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build_open = open_build.build_open

    def fails_once(board: Any, config: Any, **options: Any) -> OpenBuild:
        made = build_open(board, config, **options)
        if len(built) == 2:
            raise ProgramError("place and route of the largest: nextpnr-ecp5 took more than 2 minutes")
        return made

    monkeypatch.setattr(fit, "build_open", fails_once)
    outcome = halfulp("build", "ulx3s", config_file, "--fit", "-o", tmp_path / "out", "--timeout", 2)
    assert outcome.err == "halfulp: note: place and route of the largest: nextpnr-ecp5 took more than 2 minutes\n"
    assert [call["timeout"] for call in built if "build" in call] == [120, 120]
    assert built[2]["most"] == 59
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["fit"]["failures"]) == 1


def test_a_board_of_vivados(halfulp, built: list[dict[str, Any]], config_file: Path, tmp_path: Path):
    outcome = halfulp("build", "pynq-z2", config_file, "-o", tmp_path / "out", "--clock", 125)
    assert built == [{"vivado": "pynq-z2", "out": tmp_path / "out", "clock_mhz": 125}]
    assert "run it there" in outcome.out
    assert "50.0%" in outcome.out
    told = json.loads(halfulp("build", "pynq-z2", config_file, "--json").out)
    assert told["next_step"] == "run it there"


def test_loading(halfulp, built: list[dict[str, Any]], config_file: Path, tmp_path: Path, monkeypatch):
    arguments = ["build", "ulx3s", config_file, "-o", tmp_path / "out", "--load"]
    monkeypatch.setattr("halfulp.cli.build.shutil.which", lambda command: None)
    assert halfulp(*arguments).error == (
        "openFPGALoader, which loads ulx3s, is not installed: apt install openfpgaloader"
    )
    assert built == []
    loader = tmp_path / "loader"
    loader.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/loaded\nexit $(cat {tmp_path}/code)\n')
    loader.chmod(0o755)
    monkeypatch.setattr("halfulp.cli.build.shutil.which", lambda command: str(loader))
    (tmp_path / "code").write_text("0")
    assert halfulp(*arguments).code == 0
    assert (tmp_path / "loaded").read_text() == f"-b ulx3s {tmp_path}/out/ulx3s.bit\n"
    (tmp_path / "code").write_text("4")
    assert "could not load" in halfulp(*arguments).error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ulx3", "core.toml"], "unknown board 'ulx3'; nearest: 'ulx3s'"),
        (["ulx3s", "none.toml"], "none.toml: No such file or directory"),
        (["pynq-z2", "core.toml", "--fit"], "--fit is for boards with open tools; pynq-z2 is built by Vivado"),
        (["pynq-z2", "core.toml", "--seed", "2"], "--seed is for boards with open tools; pynq-z2 is built by Vivado"),
        (["pynq-z2", "core.toml", "--baud", "9600"], "--baud is for boards with open tools; pynq-z2 is built by"),
    ],
)
def test_bad_input_is_one_line(halfulp, arguments: list[str], message: str, config_file: Path, monkeypatch):
    monkeypatch.chdir(config_file.parent)
    assert message in halfulp("build", *arguments).error


def test_every_board_can_be_loaded():
    from halfulp.boards.tools import LOADERS

    for board in BOARDS.members():
        if board.serial is not None:
            assert board.serial.load[0] in LOADERS
            assert "{bitstream}" in board.serial.load


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timeout", "0"], "--timeout must be positive, not 0 minutes"),
        (["--fit", "--timeout", "5"], "--timeout is of a build, and --fit builds only where -o names a folder"),
        (["--seed", "-3"], "--seed must be 0 to 2147483647, not -3"),
        (["--fit", "--load"], "--load is of a build, and --fit builds only where -o names a folder"),
        (["--fit", "--seed", "2"], "--seed is of a build, and --fit builds only where -o names a folder"),
        (["-o", "{file}/out"], "{file}/out cannot be written: {file} is no folder"),
        (["-o", "/proc/out"], "/proc/out cannot be written: /proc: No such file or directory"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_built(
    halfulp, built: list[dict[str, Any]], config_file: Path, options: list[str], message: str
):
    options = [option.format(file=config_file) for option in options]
    assert halfulp("build", "ulx3s", config_file, *options).error == message.format(file=config_file)
    assert built == []
