"""`PynqDevice` on the real `pynq` package: it equals the golden model, and tells what is wrong in one line."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pynq
import pytest

from halfulp.host.device import open_device
from halfulp.host.driver import Driver
from halfulp.host.errors import (
    BusError,
    ConnectionLostError,
    DeviceError,
    DeviceTimeoutError,
)
from halfulp.host.pynq_core import HalfulpCore, PynqCoreBuffer
from halfulp.host.pynq_device import PynqDevice
from halfulp.host.pynq_overlay import load_overlay
from halfulp.hw.config import UnsupportedSpecError
from halfulp.hw.handoff import PROCESSING_SYSTEMS, handoff_xml
from halfulp.hw.registers import register
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding
from halfulp.sim.virtual_overlay import virtual_overlay, write_virtual_overlay

from .golden_board import CONFIG, GoldenCore, golden_board

SPEC = GemmSpec("int8", "int8", out="int8", rounding=Rounding("stochastic", 8), scale=-6)


@pytest.fixture
def core_and_board():
    core, board = golden_board()
    yield core, board
    board.close()


@pytest.fixture
def core(core_and_board: Any) -> GoldenCore:
    return core_and_board[0]


@pytest.fixture
def device(core_and_board: Any):
    _, board = core_and_board
    with PynqDevice("board", load_overlay(virtual_overlay(CONFIG), device=board), timeout_s=0.5) as device:
        yield device


def operands(rng: np.random.Generator, m: int = 5, n: int = 6, k: int = 7) -> tuple[Any, Any]:
    return rng.integers(0, 256, (m, k), np.uint8), rng.integers(0, 256, (k, n), np.uint8)


def driver_bus(device: Any) -> Any:
    assert isinstance(device.driver.bus, HalfulpCore)
    return device.driver.bus


@pytest.mark.parametrize("ps", PROCESSING_SYSTEMS.names())
@pytest.mark.parametrize("interrupt", [True, False], ids=["interrupt", "polling"])
def test_gemms_equal_the_golden_model(tmp_path: Path, rng: np.random.Generator, ps: str, interrupt: bool):
    core, board = golden_board(processing_system=ps)
    bit = write_virtual_overlay(tmp_path, CONFIG, processing_system=ps)
    bit.with_suffix(".hwh").write_text(handoff_xml(CONFIG, processing_system=ps, interrupt=interrupt))
    with PynqDevice("board", load_overlay(bit, device=board), on_close=board.close) as device:
        assert device.config == CONFIG
        assert (driver_bus(device).interrupt_line is not None) is interrupt
        for m, n, k in [(1, 1, 1), (5, 6, 7), (16, 9, 33)]:
            a, b = operands(rng, m, n, k)
            for left, right in [(a, b), (a, b.T.copy().T), (a.T.copy().T, b)]:
                result = device.gemm(left, right, SPEC, seed=k)
                golden = golden_gemm(a, b, SPEC, seed=k)
                np.testing.assert_array_equal(result.codes, golden.codes)
                assert (result.invalid, result.overflow) == (golden.invalid, golden.overflow)
        assert device.counters is not None
        assert device.counters.cycles == (1 << 32) + 16 * 9 * 33
    assert core.fake.buffers == [], "all memory was given back"


def test_the_driver_overlaps_gemms_on_the_board(device: PynqDevice, rng: np.random.Generator):
    bus = driver_bus(device)
    driver = Driver(bus, name="board")
    pairs = [operands(rng) for _ in range(4)]
    jobs = [driver.submit(a, b, SPEC, seed=n) for n, (a, b) in enumerate(pairs)]
    for n, (job, (a, b)) in enumerate(zip(jobs, pairs, strict=True)):
        np.testing.assert_array_equal(driver.collect(job).codes, golden_gemm(a, b, SPEC, seed=n).codes)


@pytest.mark.parametrize("forgotten", ["flush", "invalidate"])
def test_a_forgotten_synchronisation_shows(
    device: PynqDevice, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, forgotten: str
):
    a, b = operands(rng)
    golden = golden_gemm(a, b, SPEC, seed=1).codes
    np.testing.assert_array_equal(device.gemm(a, b, SPEC, seed=1).codes, golden)
    a = a ^ 0x55
    monkeypatch.setattr(PynqCoreBuffer, forgotten, lambda _: None)
    assert (device.gemm(a, b, SPEC, seed=1).codes != golden_gemm(a, b, SPEC, seed=1).codes).any()


@pytest.mark.parametrize(("interrupt", "most"), [(True, 60), (False, 600)], ids=["interrupt", "polling"])
def test_waiting_leaves_the_processor_idle(
    core: GoldenCore, device: PynqDevice, monkeypatch: pytest.MonkeyPatch, interrupt: bool, most: int, rng: Any
):
    bus = driver_bus(device)
    if not interrupt:
        bus.interrupt = None
    reads = []
    monkeypatch.setattr(bus, "read", lambda offset: reads.append(offset) or HalfulpCore.read(bus, offset))
    a, b = operands(rng)
    core.hold.clear()
    threading.Timer(0.3, core.hold.set).start()
    started = time.monotonic()
    result = device.gemm(a, b, SPEC, seed=2)
    assert time.monotonic() - started > 0.25
    np.testing.assert_array_equal(result.codes, golden_gemm(a, b, SPEC, seed=2).codes)
    assert len(reads) < most


def test_naps_grow_with_the_time_waited(device: PynqDevice, core: GoldenCore, monkeypatch: pytest.MonkeyPatch):
    bus = driver_bus(device)
    bus.interrupt = None
    naps: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("halfulp.host.pynq_core.time.sleep", sleep)
    monkeypatch.setattr("halfulp.host.pynq_core.time.monotonic", lambda: now[0])
    core.hold.clear()
    core.fake.stays_busy = True
    bus.read(register("completed").offset)
    bus.wait(0.25)
    assert sum(naps) == pytest.approx(0.25)
    assert naps[:-1] == sorted(naps[:-1])
    assert 15e-6 < naps[0] < 30e-6
    assert max(naps) <= 2e-3
    assert len(naps) < 400
    core.fake.stays_busy = False


def test_a_wait_ends_when_nothing_runs_or_something_has_ended(device: PynqDevice, core: GoldenCore):
    bus = driver_bus(device)
    started = time.monotonic()
    bus.wait(20)
    core.fake.stays_busy = True
    bus.read(register("completed").offset)
    core.fake.ended += 1
    bus.wait(20)
    assert time.monotonic() - started < 10
    core.fake.stays_busy = False


def test_a_core_that_hangs_is_reset_and_goes_on(device: PynqDevice, core: GoldenCore, rng: np.random.Generator):
    a, b = operands(rng)
    core.fake.hangs = True
    with pytest.raises(DeviceTimeoutError, match=r"board: no progress for 0\.5 s; the core was reset \(registers: "):
        device.gemm(a, b, SPEC)
    core.fake.hangs = False
    np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)


def test_bus_errors_reach_the_user(device: PynqDevice, core: GoldenCore, rng: np.random.Generator):
    a, b = operands(rng)
    core.fake.bad_addresses = range(1 << 40)
    with pytest.raises(BusError, match=r"board: the memory refused a read at 0x1234.*, in A") as caught:
        device.gemm(a, b, SPEC)
    assert caught.value.address in core.fake.bad_addresses
    core.fake.bad_addresses = range(0)
    np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)


def test_a_board_that_is_gone_is_told(device: PynqDevice, core: GoldenCore, rng: np.random.Generator):
    core.fake.unplugged = True
    with pytest.raises(ConnectionLostError, match="board: connection lost: no such device"):
        device.gemm(*operands(rng), SPEC)
    core.fake.unplugged = False


def test_memory_that_runs_out_is_told(device: PynqDevice, rng: np.random.Generator):
    a, b = np.zeros((2048, 2048), np.uint8), np.zeros((2048, 4), np.uint8)
    with pytest.raises(DeviceError, match=r"board: \d+ bytes of device memory are not to be had"):
        device.gemm(a, b, SPEC)
    a, b = operands(rng)
    np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)


def test_xrts_refusal_is_memory_that_is_not_there(device: PynqDevice, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("BO allocation failed")

    monkeypatch.setattr(pynq, "allocate", refuse)
    with pytest.raises(MemoryError, match="100 bytes: BO allocation failed"):
        driver_bus(device).allocate(100)


def test_buffers_belong_to_the_pool(device: PynqDevice, core: GoldenCore, rng: np.random.Generator):
    a, b = operands(rng)
    device.gemm(a, b, SPEC)
    taken = core.fake.allocations
    for _ in range(5):
        device.gemm(a, b, SPEC)
    assert core.fake.allocations == taken


def test_a_freed_buffer_refuses(device: PynqDevice):
    buffer = driver_bus(device).allocate(64)
    buffer.free()
    buffer.free()
    with pytest.raises(ValueError, match="this buffer has been freed"):
        buffer.flush()


def test_what_the_core_cannot_do_is_refused_with_what_can(device: PynqDevice):
    with pytest.raises(UnsupportedSpecError, match=r"device board: output format bfloat16 is not built in.*emulator"):
        device.check(GemmSpec("int8", "int8", out="bfloat16"))


def test_gemms_run_inside_an_event_loop(core_and_board: Any, rng: np.random.Generator):
    """As in a notebook, whose loop is running while a cell is."""

    async def cell() -> None:
        with open_device(f"pynq:{virtual_overlay(CONFIG)}") as device:
            assert driver_bus(device).interrupt_line is not None
            for _ in range(3):
                a, b = operands(rng)
                np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(cell())
    loop.close()


def test_gemms_run_in_a_thread_without_an_event_loop(core_and_board: Any, rng: np.random.Generator):
    a, b = operands(rng)

    def run() -> Any:
        with open_device(f"pynq:{virtual_overlay(CONFIG)}") as device:
            assert driver_bus(device).interrupt_line is not None
            return device.gemm(a, b, SPEC).codes

    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(run).result(), golden_gemm(a, b, SPEC).codes)
