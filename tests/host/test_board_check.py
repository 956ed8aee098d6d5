"""The checklist of a board finds what is wrong with one, each check its own fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfulp.host.board_check import CHECKS, Outcome, check_board
from halfulp.host.device import open_device
from halfulp.host.pynq_core import HalfulpCore, PynqCoreBuffer
from halfulp.host.pynq_device import PynqDevice
from halfulp.host.pynq_overlay import load_overlay
from halfulp.hw.registers import register
from halfulp.sim.virtual_board import HAS_DEVICE_CLOCKS
from halfulp.sim.virtual_overlay import virtual_overlay

from .golden_board import CONFIG, GoldenCore, golden_board


@pytest.fixture
def core_and_device():
    core, board = golden_board()
    device = PynqDevice("board", load_overlay(virtual_overlay(CONFIG), device=board), is_simulated=True)
    yield core, device
    device.close()
    board.close()


@pytest.fixture
def core(core_and_device: Any) -> GoldenCore:
    return core_and_device[0]


@pytest.fixture
def device(core_and_device: Any) -> PynqDevice:
    return core_and_device[1]


def outcomes(device: Any) -> dict[str, Outcome]:
    found = {outcome.check.name: outcome for outcome in check_board(device, seed=1)}
    assert list(found) == [check.name for check in CHECKS]
    return found


def failed(device: Any) -> set[str]:
    # The double's clock counters are not those of an array.
    return {name for name, each in outcomes(device).items() if each.state == "failed"} - {"utilisation"}


def test_a_good_board_passes(device: PynqDevice):
    found = outcomes(device)
    assert {name: each.state for name, each in found.items()} == {
        **dict.fromkeys(found, "ok"),
        "utilisation": "failed",
        "clock": "not here",
    }
    assert "is what the core reaches where memory keeps up" in found["utilisation"].seen


def test_stuck_bits_of_registers_are_found(device: PynqDevice, core: GoldenCore, monkeypatch: pytest.MonkeyPatch):
    read = core.fake.read
    stuck = register("b_stride").offset
    monkeypatch.setattr(core.fake, "read", lambda offset: read(offset) | (offset == stuck) << 30)
    assert failed(device) == {"registers"}
    assert "register b_stride reads 0x" in outcomes(device)["registers"].seen


def test_registers_that_disturb_each_other_are_found(device: PynqDevice, core: GoldenCore, monkeypatch: Any):
    write = core.fake.write
    m, n = register("m").offset, register("n").offset
    monkeypatch.setattr(core.fake, "write", lambda offset, value: write(n if offset == m else offset, value))
    assert "registers" in failed(device)


def test_registers_that_change_are_found(device: PynqDevice, core: GoldenCore, monkeypatch: pytest.MonkeyPatch):
    read, offset = core.fake.read, register("config_buffer").offset
    monkeypatch.setattr(core.fake, "read", lambda at: 1024 if at == offset else read(at))
    assert failed(device) == {"identity"}


@pytest.mark.parametrize("forgotten", ["flush", "invalidate"])
def test_stale_caches_are_found(device: PynqDevice, monkeypatch: pytest.MonkeyPatch, forgotten: str):
    monkeypatch.setattr(PynqCoreBuffer, forgotten, lambda _: None)
    assert "caches" in failed(device)


def test_wrong_arithmetic_is_found(device: PynqDevice, monkeypatch: pytest.MonkeyPatch):
    run = device._run

    def wrong(*arguments: Any) -> Any:
        result = run(*arguments)
        result.codes[-1, -1] ^= 1
        return result

    monkeypatch.setattr(device, "_run", wrong)
    found = outcomes(device)
    assert {"formats", "shapes", "caches", "interrupt", "reset"} <= {n for n, o in found.items() if o.state == "failed"}
    assert "9 × 10 × 40, int8 × int8 → int8, nearest_even, seed" in found["formats"].seen
    assert ": C[8, 9] is 0x" in found["formats"].seen


@pytest.mark.skipif(not HAS_DEVICE_CLOCKS, reason="this pynq sets no clock of a virtual board")
def test_a_clock_of_another_rate_is_found(device: PynqDevice, monkeypatch: pytest.MonkeyPatch):
    device.is_simulated = False
    monkeypatch.setattr("halfulp.host.board_check.LARGE_SIZE", 128)
    assert outcomes(device)["clock"].state == "failed"


def test_without_an_interrupt_the_check_is_not_here(device: PynqDevice):
    assert isinstance(device.driver.bus, HalfulpCore)
    vars(device.driver.bus)["interrupt"] = None
    assert outcomes(device)["interrupt"].state == "not here"


def test_devices_without_registers_are_checked_as_far_as_they_go():
    with open_device("golden") as golden:
        found = outcomes(golden)
    assert found["identity"].state != "ok"
    assert np.isin([each.state for each in found.values()], ["failed", "not here"]).all()
