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
from pynq.pl_server.device import Device as PynqHardware

from halfulp.host.device import open_device
from halfulp.host.driver import Driver
from halfulp.host.errors import (
    BusError,
    ConnectionLostError,
    DeviceError,
    DeviceTimeoutError,
    IdentificationError,
)
from halfulp.host.pynq_core import HalfulpCore, PynqCoreBuffer
from halfulp.host.pynq_device import PynqDevice, load_overlay
from halfulp.hw.config import UnsupportedSpecError
from halfulp.hw.config_file import config_toml
from halfulp.hw.handoff import CORE_VLNV, PROCESSING_SYSTEMS, handoff_xml
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


# Overlays


def overlay_with(tmp_path: Path, board: Any, **replaced: str) -> Any:
    bit = write_virtual_overlay(tmp_path, CONFIG)
    text = bit.with_suffix(".hwh").read_text()
    for old, new in replaced.items():
        assert old in text or CORE_VLNV in text
        text = text.replace({"vlnv": CORE_VLNV}.get(old, f'NAME="{old}" VALUE="4"'), new)
    bit.with_suffix(".hwh").write_text(text)
    return load_overlay(bit, device=board)


def test_an_overlay_without_a_core_is_refused_before_it_is_loaded(tmp_path: Path, core_and_board: Any):
    _, board = core_and_board
    with pytest.raises(IdentificationError, match="the overlay has no halfulp core; it has axi_gpio, axi_intc, proc"):
        overlay_with(tmp_path, board, vlnv="xilinx.com:ip:axi_gpio:2.0")
    assert board.timestamp == "", "nothing was loaded"


def test_an_overlay_of_another_version_is_refused(tmp_path: Path, core_and_board: Any):
    with pytest.raises(IdentificationError, match=r"the overlay's core has version 2\.3; this driver knows 1\.0"):
        overlay_with(tmp_path, core_and_board[1], vlnv="halfulp.org:ip:halfulp_core:2.3")


def test_files_of_two_builds_are_told(tmp_path: Path, core_and_board: Any):
    overlay = overlay_with(tmp_path, core_and_board[1], ROWS='NAME="ROWS" VALUE="2"')
    with pytest.raises(IdentificationError, match="the core has rows = 4, its hand-off file says 2: two builds"):
        PynqDevice("board", overlay)


def test_logic_that_is_no_core_is_told(core_and_board: Any):
    core, board = core_and_board
    core.fake.values[register("id").offset] = 0xDEADBEEF
    with pytest.raises(IdentificationError, match="no halfulp core: the ID register reads 0xdeadbeef"):
        PynqDevice("board", load_overlay(virtual_overlay(CONFIG), device=board))


@pytest.mark.parametrize("missing", [".bit", ".hwh"])
def test_a_missing_file_is_told(tmp_path: Path, missing: str):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    bit.with_suffix(missing).unlink()
    with pytest.raises(DeviceError, match=rf"halfulp\{missing} does not exist; an overlay is a bitstream with its"):
        open_device(f"pynq:{bit}")


def test_a_broken_hand_off_file_is_told(tmp_path: Path, core_and_board: Any):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    bit.with_suffix(".hwh").write_text("<EDKSYSTEM>")
    with pytest.raises(DeviceError, match=r"PYNQ cannot load .*halfulp\.bit: ParseError: no element found"):
        load_overlay(bit, device=core_and_board[1])


def test_without_a_board_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PynqHardware, "_active_device", None, raising=False)
    monkeypatch.delattr(PynqHardware, "_active_device")
    monkeypatch.setattr(PynqHardware, "_devices", [], raising=False)
    bit = write_virtual_overlay(tmp_path, CONFIG)
    with pytest.raises(DeviceError, match="no PYNQ board here: run this on the board, name one as pynq:OVERLAY"):
        open_device(f"pynq:{bit}")


def test_code_for_a_board_runs_on_the_active_one(core_and_board: Any, rng: np.random.Generator):
    with open_device(f"pynq:{virtual_overlay(CONFIG)}", requirements=[SPEC]) as device:
        a, b = operands(rng)
        np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)
    with pytest.raises(UnsupportedSpecError, match="bfloat16 is not built in"):
        open_device(f"pynq:{virtual_overlay(CONFIG)}", requirements=[(GemmSpec("int8", "int8", out="bfloat16"), 3)])


def test_hand_off_files_without_a_rate_get_vivados(core_and_board: Any, tmp_path: Path):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    text = bit.with_suffix(".hwh").read_text()
    text = text.replace("PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ", "PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ")
    text = text.replace("PSU__CRL_APB__PL1_REF_CTRL__ACT_FREQMHZ", "OTHER").replace('VALUE="100"', 'VALUE="50"')
    bit.with_suffix(".hwh").write_text(text)
    overlay = load_overlay(bit, device=core_and_board[1])
    assert overlay.is_loaded()
    for clock, rate in ((0, 50.0), (1, 100.0)):
        assert overlay.clock_dict.get(clock, {}).get("frequency", rate) == rate


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


# The virtual board


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
