"""The folder of a generated core: complete, readable back, replaced whole, never somebody else's."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from halfulp.hw import generate as module
from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import load_config
from halfulp.hw.generate import generate, width_report, width_report_text
from halfulp.hw.handoff import read_handoff

CONFIG = ArrayConfig(rows=1, columns=2, lanes=1, buffer_depth=64)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verilog is made elsewhere; here it only has to be put in its place."""
    monkeypatch.setattr(module, "generate_verilog", lambda config: f"// {config.name}\n")


def test_folder_holds_all_files_and_the_configuration_reads_back(tmp_path: Path) -> None:
    core = generate(CONFIG, tmp_path / "a" / "core")
    assert {p.name for p in core.folder.iterdir()} == set(module.FILES.values())
    assert load_config(core.config) == CONFIG
    assert read_handoff(core.handoff) == (CONFIG, "zynq-7000")
    assert "module halfulp_core(" in core.verilog.read_text(encoding="utf-8")
    assert "#define HALFULP_CONTROL " in core.register_header.read_text(encoding="utf-8")
    assert "| `control` |" in core.register_page.read_text(encoding="utf-8")
    assert json.loads(core.register_map.read_text(encoding="utf-8"))["registers"]
    assert json.loads(core.report.read_text(encoding="utf-8")) == width_report(CONFIG)
    assert core.report_text.read_text(encoding="utf-8") == width_report_text(CONFIG)
    assert [p.name for p in core.folder.parent.iterdir()] == ["core"]


@pytest.mark.usefixtures("quick")
def test_an_earlier_core_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "core"
    folder.mkdir()
    generate(CONFIG, folder)
    other = CONFIG.replace(rows=2)
    assert generate(other, folder).verilog.read_text(encoding="utf-8") == f"// {other.name}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["core"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["notes.txt", "config.toml"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"is not empty and not a generated core: .* name a new folder"):
        generate(CONFIG, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with pytest.raises(FileExistsError, match="exists and is no folder"):
        generate(CONFIG, tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.usefixtures("quick")
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "core"
    generate(CONFIG, folder)
    write = Path.write_text

    def fails(path: Path, text: str, **kwargs: str) -> int:
        if path.name == "report.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text, **kwargs)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="No space left"):
        generate(CONFIG.replace(rows=2), folder)
    monkeypatch.undo()
    assert load_config(folder / "config.toml") == CONFIG
    assert [p.name for p in tmp_path.iterdir()] == ["core"]


def test_report_gives_widths_and_sizes() -> None:
    report = width_report(ArrayConfig())
    assert report["accumulator_bits"] == ArrayConfig().accumulator_bits
    assert report["macs_per_clock"] == 64
    assert report["a_buffer_bytes"] == 8 * 512 * 8
    text = width_report_text(ArrayConfig())
    assert f"{report['accumulator_bits']} bits, K up to 8192" in text
    assert "float8_e4m3fn (8 bits), float8_e5m2 (8 bits); 1 bytes an element" in text


def test_an_interleaved_core_has_fewer_multipliers() -> None:
    report = width_report(ArrayConfig(accumulator="e6m5:stochastic:13", interleave=4))
    assert (report["macs_per_clock"], report["interleave"], report["accumulator_bits"]) == (16, 4, 12)


def test_the_report_tells_of_blocks() -> None:
    config = ArrayConfig(a_formats="nvfp4", b_formats="nvfp4", accumulator="e8m23")
    report = width_report(config)
    assert (report["block"], report["block_scale"], report["block_sum_bits"]) == (16, "e4m3", 13)
    told = "nvfp4 × nvfp4: 16 elements a scale (e4m3), 13 bits inside; scales count in K"
    assert f"blocks       {told}\n" in width_report_text(config)
    plain = width_report(ArrayConfig())
    assert (plain["block"], plain["block_scale"]) == (0, None)
    assert "blocks" not in width_report_text(ArrayConfig())
