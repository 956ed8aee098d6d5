"""The driver on the generated core: what the test double promises, the Verilog keeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from halfulp.host.core_family import CoreFamily
from halfulp.host.driver import Driver
from halfulp.host.errors import BusError, DescriptorError
from halfulp.hw.registers import ErrorCode
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim.rtl import RtlCore

SPEC = GemmSpec("int8", "int8", "int32")
CONFIG = CoreFamily(2, 3).config_for(SPEC)  # the core that the conformance suite builds as well


@pytest.fixture
def core() -> Iterator[RtlCore]:
    with RtlCore(CONFIG, read_latency=7, stall=0.1) as opened:
        yield opened


@pytest.fixture
def operands(rng):
    return rng.integers(0, 256, (30, 50), np.uint8), rng.integers(0, 256, (50, 20), np.uint8)


def assert_works(driver: Driver, operands: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(driver.gemm(*operands, spec=SPEC).codes, golden_gemm(*operands, spec=SPEC).codes)


def test_configuration_is_read_back(core):
    assert Driver(core).config == CONFIG


def test_counters_are_of_the_last_gemm(core, operands):
    driver = Driver(core)
    driver.gemm(*operands, spec=SPEC)
    assert_works(driver, operands)
    steps = 15 * 7 * 50  # tiles of 2×3, K each
    assert driver.counters is not None
    assert driver.counters.array_busy_cycles == steps
    stalls = driver.counters.read_stall_cycles + driver.counters.write_stall_cycles
    assert steps + stalls <= driver.counters.cycles < 4 * steps


@pytest.mark.parametrize("what", ["read", "write"])
def test_a_refused_burst_is_a_bus_error_and_the_next_gemm_is_right(core, operands, what):
    driver = Driver(core, name="core")
    assert_works(driver, operands)
    start = 0x1000_0000
    core.inject_fault(start, 1 << 20, response="decode_error", read=what == "read", write=what == "write")
    with pytest.raises(BusError, match=f"core: the memory refused a {what} at 0x1[0-9a-f]+, in [ABC] ") as raised:
        driver.gemm(*operands, spec=SPEC)
    assert start <= raised.value.address < start + (1 << 20)
    core.clear_faults()
    assert_works(driver, operands)
    assert core.pending == 0


def test_a_fault_in_the_queue_fails_its_batch(core, operands):
    driver = Driver(core)
    jobs = [driver.submit(*operands, spec=SPEC) for _ in range(3)]
    core.inject_fault(0x1000_0000, 1 << 20)
    for job in jobs:
        with pytest.raises(BusError):
            driver.collect(job)
    with pytest.raises(BusError):
        driver.gemm(*operands, spec=SPEC)
    core.clear_faults()
    assert_works(driver, operands)


def test_more_gemms_than_the_queue_holds(core, rng):
    driver = Driver(core)
    pairs = [(rng.integers(0, 256, (3, k), np.uint8), rng.integers(0, 256, (k, 4), np.uint8)) for k in range(1, 13)]
    jobs = [driver.submit(a, b, SPEC) for a, b in pairs]
    for job, (a, b) in reversed(list(zip(jobs, pairs, strict=True))):
        np.testing.assert_array_equal(driver.collect(job).codes, golden_gemm(a, b, SPEC).codes)


def test_a_descriptor_that_the_core_refuses(core, operands, monkeypatch):
    """The driver writes none, so one is falsified on its way."""
    driver = Driver(core)
    write = core.write

    def falsified(offset: int, value: int) -> None:
        write(offset, 0 if offset == 0x1A4 else value)  # m

    with monkeypatch.context() as patch:
        patch.setattr(core, "write", falsified)
        with pytest.raises(DescriptorError, match="GEMM refused: M, N or K is 0") as raised:
            driver.gemm(*operands, spec=SPEC)
    assert raised.value.code is ErrorCode.ZERO_SIZE
    assert_works(driver, operands)


def test_an_interrupt_in_mid_run_leaves_a_core_that_works(core, operands, monkeypatch):
    driver = Driver(core)

    def interrupted(timeout_s: float) -> None:
        core.run(200)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            driver.gemm(*operands, spec=SPEC)
    assert_works(driver, operands)
