"""The bench passes on a four-state simulator as well: nothing that is read or done depends on an unknown value."""

from __future__ import annotations

import shutil

import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.sim.cosim import run_bench

CONFIG = ArrayConfig(rows=1, columns=2, lanes=1, buffer_depth=64, roundings=("nearest_even", "stochastic"))


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed (apt install iverilog)")
def test_the_bench_passes_on_icarus(seed: int) -> None:
    result = run_bench(CONFIG, seed=seed % 1000, tests=2, simulator="icarus")
    assert result.passed, str(result)
    assert len(result.tests) >= 8
