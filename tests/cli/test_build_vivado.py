"""`halfulp build` for boards of Vivado's flow, without Vivado."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halfulp.boards import vivado
from halfulp.boards.synthesis import Area

CONFIG = """
rows = 1
columns = 2
lanes = 1
a_formats = ["int8"]
b_formats = ["int8"]
out_formats = ["int8"]
roundings = ["nearest_even"]
buffer_depth = 64
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a configuration, no Vivado, and an area that takes no minutes."""
    (tmp_path / "core.toml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIVADO", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    area = Area(luts=5320, flip_flops=5320, dsps=2, block_rams=7)
    monkeypatch.setattr(vivado, "xilinx_area", lambda *args, **options: area)
    return tmp_path


def test_a_project_with_its_area_and_what_to_run(halfulp: Any, folder: Path):
    outcome = halfulp("build", "pynq-z2", "core.toml", "-o", "z2")
    assert outcome.code == 0
    for text in ("5320", "10.0%", "5.0%", "0.9%", str(folder / "z2"), "vivado -mode batch"):
        assert text in outcome.out
    assert (folder / "z2" / "build.tcl").is_file()
    outcome = halfulp("build", "pynq-z2", "core.toml", "-o", "z2", "--json")
    report = json.loads(outcome.out)
    assert report["area"] == {"luts": 5320, "flip_flops": 5320, "dsps": 2, "block_rams": 7}
    assert report["bitstream"] is None


@pytest.mark.parametrize(
    ("board", "options", "message"),
    [
        ("zcu104", [], "bus_width of a core for zcu104 must be 128, its memory port's, not 64"),
        ("pynq-z2", ["--clock", "900"], "clock must be 1 to 500 MHz, not 900"),
    ],
)
def test_what_cannot_be_built_is_one_line(halfulp: Any, folder: Path, board: str, options: list[str], message: str):
    outcome = halfulp("build", board, "core.toml", "-o", "out", *options)
    assert outcome.code == 1
    assert outcome.error == message
    assert not (folder / "out").exists()


def test_a_vivado_that_is_named_and_not_there_is_one_line(halfulp: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIVADO", "/opt/none/vivado")
    outcome = halfulp("build", "pynq-z2", "core.toml", "-o", "out")
    assert outcome.error == "there is no program '/opt/none/vivado', which the variable VIVADO names"
    assert not (folder / "out").exists()
