"""`pynq-sim`: virtual boards by shape, by configuration, by overlay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfulp.host.device import open_device
from halfulp.hw.config import UnsupportedSpecError
from halfulp.hw.config_file import config_toml
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding
from halfulp.sim.virtual_overlay import write_virtual_overlay

from .golden_board import CONFIG, GoldenCore

SPEC = GemmSpec("int8", "int8", out="int8", rounding=Rounding("stochastic", 8), scale=-6)


def operands(rng: np.random.Generator, m: int = 5, n: int = 6, k: int = 7) -> tuple[Any, Any]:
    return rng.integers(0, 256, (m, k), np.uint8), rng.integers(0, 256, (k, n), np.uint8)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Test doubles in the place of simulated cores; the options that each was opened with."""
    opened: list[dict[str, Any]] = []

    def core(config: Any, **options: Any) -> GoldenCore:
        opened.append(options)
        return GoldenCore(config)

    monkeypatch.setattr("halfulp.sim.rtl.RtlCore", core)
    return opened


def test_a_shape_opens_a_board_for_each_core_that_is_needed(no_compiler: Any, rng: np.random.Generator):
    told: list[str] = []
    opened: Any = open_device("pynq-sim:4x4", progress=told.append, read_latency=9)
    with opened as device:
        assert (device.driver, device.overlay, no_compiler) == (None, None, [])
        a, b = operands(rng)
        for spec in (SPEC, GemmSpec("e4m3", "e4m3"), SPEC):
            a, b = a & 0x77, b & 0x77
            np.testing.assert_array_equal(device.gemm(a, b, spec, seed=1).codes, golden_gemm(a, b, spec, seed=1).codes)
            assert device.config == device.driver.config
        assert [options["read_latency"] for options in no_compiler] == [9, 9]
        assert len(told) == 2
        assert told[0].startswith("pynq-sim:4x4: opening core halfulp_4x4_int8_")
        with pytest.raises(UnsupportedSpecError, match=r"device pynq-sim:4x4: .*; device emulator runs it"):
            device.check(GemmSpec("bfloat16", "float32"), 10)


@pytest.mark.parametrize("bus_width", [64, 128])
@pytest.mark.parametrize("form", ["folder", "hwh", "bit", "hand-off only"])
def test_an_overlay_opens_the_board_that_it_describes(
    tmp_path: Path, no_compiler: Any, rng: np.random.Generator, form: str, bus_width: int
):
    config = CONFIG.replace(bus_width=bus_width)
    bit = write_virtual_overlay(tmp_path, config)
    if form == "hand-off only":
        bit.unlink()
    path = {"hwh": bit.with_suffix(".hwh"), "bit": bit}.get(form, tmp_path)
    opened: Any = open_device(f"pynq-sim:{path}", requirements=[SPEC])
    with opened as device:
        assert device.config == config
        a, b = operands(rng)
        np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)
        cell = {64: "processing_system7_0", 128: "zynq_ultra_ps_e_0"}[bus_width]
        assert cell in device.overlay.ip_dict


def test_a_configuration_file_opens_a_board(tmp_path: Path, no_compiler: Any):
    file = tmp_path / "core.toml"
    file.write_text(config_toml(CONFIG))
    with open_device(f"pynq-sim:{file}") as device:
        assert device.config == CONFIG
    with pytest.raises(UnsupportedSpecError, match="A format float8_e5m2 is not built in"):
        open_device(f"pynq-sim:{file}", requirements=[GemmSpec("e5m2", "int8")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pynq", "device 'pynq' needs the overlay's file"),
        ("pynq:@board", "device 'pynq' needs the overlay's file"),
        ("pynq-sim", "device 'pynq-sim' needs a shape, a configuration or an overlay: pynq-sim:8x8"),
        ("pynq-sim:nothing", "'nothing' is neither an array shape such as 8x8 nor an existing file"),
        ("pynq-sim:65x8", "rows must be 1 to 64, not 65"),
    ],
)
def test_wrong_names_are_told(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        open_device(text)


def test_a_folder_that_is_no_overlay_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match=r"must hold one hand-off file \(\.hwh\), not 0"):
        open_device(f"pynq-sim:{tmp_path}")
    bit = write_virtual_overlay(tmp_path, CONFIG)
    handoff = bit.with_suffix(".hwh")
    handoff.write_text(handoff.read_text().replace('"ROWS"', '"OTHER"'))
    with pytest.raises(ValueError, match=r"does not tell the core's configuration: open pynq-sim:CONFIG\.toml instead"):
        open_device(f"pynq-sim:{bit}")
