"""Netlists run GEMMs: which ones, what is refused, and what a wrong result is told as.

Synthesis and simulation are stand-ins here; `make netlists` runs the real ones.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halfulp.boards import netlist, open_build
from halfulp.boards.board import BOARDS
from halfulp.host import netlist_check
from halfulp.host.netlist_check import check_netlist
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.gemm import GemmResult, golden_gemm

CONFIG = ArrayConfig(
    rows=2,
    columns=3,
    lanes=1,
    a_formats=("int8", "e4m3"),
    b_formats="int8",
    out_formats="int8",
    roundings=("nearest_even", "stochastic"),
)


class StandIn:
    """The golden model in the place of a simulated netlist, and what it was asked for."""

    def __init__(self, name: str, config: ArrayConfig, **options: Any) -> None:
        self.name, self.config, self.options = name, config, options
        self.asked: list[tuple[tuple[int, ...], AnyGemmSpec]] = []
        self.spoils = False

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self, *specs: AnyGemmSpec) -> None:
        pass

    def gemm(self, a: Any, b: Any, spec: Any, *, seed: int) -> GemmResult:
        self.asked.append(((a.shape[0], b.shape[1], a.shape[1]), spec))
        result = golden_gemm(a, b, spec, seed=seed)
        return result._replace(codes=result.codes ^ np.uint8(1)) if self.spoils else result


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[StandIn]:
    """Stand-ins that were opened."""
    devices: list[StandIn] = []

    def board_netlist(board: Any, config: Any, *, progress: Any) -> Any:
        return SimpleNamespace(synthesis=SimpleNamespace(netlist=tmp_path), frequency=50e6, baud=3_000_000)

    def open_stand_in(*arguments: Any, **options: Any) -> StandIn:
        devices.append(StandIn(*arguments, **options))
        return devices[-1]

    monkeypatch.setattr(open_build, "board_netlist", board_netlist)
    monkeypatch.setattr(netlist, "board_verilog", lambda netlist, *, board: f"of {board.name}")
    monkeypatch.setattr(netlist, "cell_counts", lambda netlist: {"LUT4": 3})
    monkeypatch.setattr(netlist_check, "SerialSimDevice", open_stand_in)
    return devices


def test_random_gemms_of_all_formats_and_more_than_a_tile(opened: list[StandIn]):
    found = check_netlist(BOARDS.get("ulx3s"), CONFIG, tests=8, seed=1)
    assert found.passed
    assert found.cells == {"LUT4": 3}
    (device,) = opened
    assert (device.options["netlist"], device.options["clocks_a_bit"]) == ("of ulx3s", 17)
    assert len(device.asked) == len(found.gemms) == 8
    assert {(spec.a.name, spec.rounding.kind) for _, spec in device.asked} == {
        (fmt.name, kind) for fmt in CONFIG.a_formats for kind in CONFIG.roundings
    }
    for (m, n, k), _ in device.asked:
        assert 2 <= m <= 5
        assert 3 <= n <= 7
        assert 1 <= k <= 20
    again = check_netlist(BOARDS.get("ulx3s"), CONFIG, tests=8, seed=1)
    assert [gemm.name for gemm in again.gemms] == [gemm.name for gemm in found.gemms]


def test_a_wrong_result_is_told(opened: list[StandIn], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StandIn, "prepare", lambda self, spec: setattr(self, "spoils", True))
    found = check_netlist(BOARDS.get("ulx3s"), CONFIG, tests=2)
    assert not found.passed
    assert all("C[0, 0] is" in gemm.message for gemm in found.gemms)


@pytest.mark.parametrize(
    ("board", "tests", "message"),
    [
        ("ulx3s", 0, "tests must be at least 1, not 0"),
        ("pynq-z2", 1, "board pynq-z2 is built by vivado, not by open tools"),
    ],
)
def test_what_cannot_be_simulated_is_refused(board: str, tests: int, message: str, opened: list[StandIn]):
    with pytest.raises(ValueError, match=message):
        check_netlist(BOARDS.get(board), CONFIG, tests=tests)
    assert opened == []
