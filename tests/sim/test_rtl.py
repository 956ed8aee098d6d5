"""The memory, the protocol checker and the register bus around a simulated core, with a puppet in the core's place."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.sim import rtl
from halfulp.sim.rtl import AxiProtocolError, RegisterBusError, RtlCore

AR_ADDRESS, AW_ADDRESS, AR, AW, DATA, W, PINS, MUTE = 0x00, 0x08, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24
SEEN_NAMES = (
    *("ar_clock", "w_clock", "r_beats", "first_r_clock", "last_r_clock", "r_low", "r_high", "r_error", "r_lasts"),
    *("b_count", "b_clock", "b_response"),
)
SEEN = {name: 0x40 + 4 * index for index, name in enumerate(SEEN_NAMES)}
GO_AR, GO_AW, GO_W, RREADY, BREADY, INTERRUPT, WITHDRAW = (1 << bit for bit in range(7))
READY = RREADY | BREADY
MEMORY = 1 << 16


class Puppet(RtlCore):
    """The puppet's registers as bus transfers."""

    def seen(self, name: str) -> int:
        return self.read(SEEN[name])

    def set64(self, offset: int, value: int) -> None:
        self.write(offset, value & 0xFFFF_FFFF)
        self.write(offset + 4, value >> 32)

    def start_read(self, address: int, beats: int, *, pins: int = READY, **request: int) -> None:
        self.set64(AR_ADDRESS, address)
        self.write(AR, encode(beats, **request))
        self.write(PINS, GO_AR | pins)

    def start_write(
        self,
        address: int,
        data: int,
        beats: int,
        *,
        strobes: int = 0xFF,
        last: int | None = None,
        go: int = GO_AW | GO_W,
        ready: int = READY,
        **request: int,
    ) -> None:
        self.set64(AW_ADDRESS, address)
        self.write(AW, encode(beats, **request))
        self.write(DATA, data)
        self.write(W, strobes | beats << 8 | (beats - 1 if last is None else last) << 16)
        self.write(PINS, go | ready)


def encode(beats: int, *, size: int = 3, burst: int = 1, cache: int = 3, protection: int = 0, lock: int = 0) -> int:
    return beats - 1 | size << 8 | burst << 11 | cache << 13 | protection << 17 | lock << 20


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Open puppets; they are closed at the test's end."""
    verilog = Path(__file__).with_name("puppet.v").read_text()
    monkeypatch.setattr(rtl, "core_verilog", lambda config, *, flat: verilog)
    opened = []

    def open_puppet(**arguments) -> Puppet:
        opened.append(Puppet(ArrayConfig(), memory_bytes=MEMORY, **arguments))
        return opened[-1]

    yield open_puppet
    for core in opened:
        core.close()


def test_registers_are_written_by_bytes_and_read_back(puppet):
    core = puppet()
    core.write(DATA, 0x11223344)
    core.write(DATA, 0xAABBCCDD, strobes=0b0101)
    assert core.read(DATA) == 0x11BB33DD


def test_a_bus_that_errs_or_is_silent_raises(puppet):
    core = puppet()
    with pytest.raises(RegisterBusError, match="reading register 0x800: the register bus answered with an error"):
        core.read(0x800)
    with pytest.raises(RegisterBusError, match="writing register 0x804: the register bus answered with an error"):
        core.write(0x804, 1)
    core.write(MUTE, 1)
    with pytest.raises(RegisterBusError, match="reading register 0x018: the register bus does not answer"):
        core.read(DATA)


@pytest.mark.parametrize("latency", [1, 2, 37])
@pytest.mark.parametrize("beats", [1, 5, 16])
def test_reads_come_in_order_after_their_latency(puppet, rng: np.random.Generator, latency: int, beats: int):
    core = puppet(read_latency=latency)
    buffer = core.allocate(256)
    buffer.array[:] = rng.integers(0, 256, 256)
    core.start_read(buffer.address, beats)
    core.advance(100)
    assert core.seen("r_beats") == beats
    assert core.seen("r_lasts") == 1
    assert core.seen("first_r_clock") - core.seen("ar_clock") == latency
    assert core.seen("last_r_clock") - core.seen("first_r_clock") == beats - 1
    word = core.seen("r_low") | core.seen("r_high") << 32
    assert word == buffer.array[8 * (beats - 1) : 8 * beats].view("<u8")[0]
    assert core.pending == 0


@pytest.mark.parametrize("latency", [1, 2, 37])
def test_writes_land_and_are_answered_after_their_latency(puppet, latency: int):
    core = puppet(write_latency=latency)
    buffer = core.allocate(64)
    buffer.array[:] = 0xEE
    core.start_write(buffer.address, 0x01020304, 3, strobes=0b0001_1001)
    core.advance(100)
    assert core.seen("b_count") == 1
    assert core.seen("b_clock") - core.seen("w_clock") == latency
    assert core.seen("b_response") == 0
    expected = np.full(64, 0xEE, np.uint8)
    for beat in range(3):
        expected[8 * beat] = 4 + beat
        expected[8 * beat + 3] = 1
        expected[8 * beat + 4] = 0xFB
    np.testing.assert_array_equal(buffer.array, expected)


def test_data_may_come_before_its_address(puppet):
    core = puppet()
    buffer = core.allocate(64)
    core.start_write(buffer.address, 7, 2, go=GO_W)
    core.advance(20)
    assert core.pending == 2
    assert core.seen("b_count") == 0
    core.write(PINS, GO_AW | READY)
    core.advance(20)
    assert (core.pending, core.seen("b_count")) == (0, 1)
    assert buffer.array[0] == 7
    assert buffer.array[8] == 8


@pytest.mark.parametrize(("bandwidth", "clocks"), [(1.0, 15), (0.5, 30), (0.25, 60), (0.75, 20)])
def test_bandwidth_spaces_the_beats(puppet, bandwidth: float, clocks: int):
    core = puppet(bandwidth=bandwidth)
    buffer = core.allocate(128)
    core.start_read(buffer.address, 16)
    core.advance(200)
    assert core.seen("r_beats") == 16
    assert abs(core.seen("last_r_clock") - core.seen("first_r_clock") - clocks) <= 2


def test_pauses_are_random_and_repeat_with_their_seed(puppet):
    def clocks(seed: int) -> int:
        core = puppet(stall=0.5, seed=seed)
        core.start_read(core.allocate(128).address, 16)
        core.advance(500)
        assert core.seen("r_beats") == 16
        return core.seen("last_r_clock") - core.seen("first_r_clock")

    found = [clocks(seed) for seed in range(6)]
    assert found == [clocks(seed) for seed in range(6)]
    assert len(set(found)) > 2
    assert 20 < np.mean(found) < 45


@pytest.mark.parametrize(("response", "code"), [("slave_error", 2), ("decode_error", 3)])
def test_injected_faults_answer_as_they_should_until_they_are_cleared(puppet, response: str, code: int):
    core = puppet()
    buffer = core.allocate(256)
    buffer.array[:] = 5
    core.inject_fault(buffer.address + 8 * 3 + 1, 2, response=response, write=False)
    core.inject_fault(buffer.address + 128, 1, response=response, read=False)
    core.start_read(buffer.address, 3)
    core.advance(50)
    assert core.seen("r_error") == 0
    core.start_read(buffer.address, 4)
    core.advance(50)
    assert (core.seen("r_error"), core.seen("r_beats"), core.seen("r_lasts")) == (code, 4, 1)
    core.start_write(buffer.address + 120, 9, 2)
    core.advance(50)
    assert core.seen("b_response") == code
    assert (buffer.array[120], buffer.array[128]) == (9, 5), "the faulty beat is not written, the other one is"
    core.clear_faults()
    core.start_write(buffer.address + 120, 9, 2)
    core.advance(50)
    assert (core.seen("b_response"), buffer.array[128]) == (0, 10)


@pytest.mark.parametrize("offset", [-8, MEMORY, 1 << 40])
def test_what_lies_outside_of_the_memory_is_a_decode_error(puppet, offset: int):
    core = puppet(base=0x12_3456_7000)
    core.start_read(0x12_3456_7000 + offset, 1)
    core.start_write(0x12_3456_7000 + offset, 1, 1)
    core.advance(50)
    assert (core.seen("r_error"), core.seen("b_response")) == (3, 3)


@pytest.mark.parametrize(
    ("request_", "address", "beats", "message"),
    [
        ({}, 0xFF8, 2, "burst of 2 beats at 0x10000ff8 crosses 4 KiB"),
        ({}, 0, 17, "LEN is 16 at 0x10000000: more than 16 beats"),
        ({"burst": 0}, 0, 1, "BURST is 0 at 0x10000000, not INCR"),
        ({"size": 2}, 0, 1, "SIZE is 2 at 0x10000000, not the bus's width"),
        ({"cache": 0}, 0, 1, "CACHE, A.PROT, A.LOCK are 0, 0, 0 at"),
        ({"protection": 2}, 0, 1, "CACHE, A.PROT, A.LOCK are 3, 2, 0 at"),
        ({"lock": 1}, 0, 1, "CACHE, A.PROT, A.LOCK are 3, 0, 1 at"),
    ],
)
def test_requests_that_break_a_rule_are_reported(
    puppet, request_: dict[str, int], address: int, beats: int, message: str
):
    def read() -> None:
        core = puppet()
        core.start_read(0x1000_0000 + address, beats, **request_)
        core.advance(10)

    def write() -> None:
        core = puppet()
        core.start_write(0x1000_0000 + address, 0, beats, **request_)
        core.advance(10)

    with pytest.raises(AxiProtocolError, match=f"^AR ?{message}"):
        read()
    with pytest.raises(AxiProtocolError, match=f"^AW ?{message}"):
        write()


def test_a_request_that_changes_or_falls_before_it_is_taken_is_reported(puppet):
    for go, address, channel in ((GO_AR, AR_ADDRESS, "AR"), (GO_AW, AW_ADDRESS, "AW")):
        for change in (False, True):
            core = puppet(outstanding=1)
            # The first takes the memory's only place: its data is not taken, or does not come.
            core.start_read(0x1000_0000, 1, pins=0)
            core.start_write(0x1000_0000, 0, 1, go=GO_AW, ready=0)
            core.write(PINS, go)
            core.advance(10)
            message = f"{channel} request changed before {channel}READY" if change else f"{channel}VALID fell before"
            offset, value = (address, 0x1000_0040) if change else (PINS, WITHDRAW)
            with pytest.raises(AxiProtocolError, match=message):
                core.write(offset, value)


def test_data_that_changes_or_falls_before_it_is_taken_is_reported(puppet):
    for change in (False, True):
        core = puppet(stall=0.999)
        core.start_write(0x1000_0000, 0, 1, go=GO_W)
        message = "WDATA, WSTRB or WLAST changed" if change else "WVALID fell"
        offset, value = (DATA, 3) if change else (PINS, WITHDRAW)
        with pytest.raises(AxiProtocolError, match=message):
            core.write(offset, value)


@pytest.mark.parametrize("last", [0, 2, 99])
def test_a_wrong_last_beat_is_reported(puppet, last: int):
    def write() -> None:
        core = puppet()
        core.start_write(0x1000_0000, 0, 2, last=last)
        core.advance(10)

    with pytest.raises(AxiProtocolError, match=r"WLAST is [01] with [0-9] beats to come at 0x10000"):
        write()


def test_waiting_ends_with_the_interrupt_or_the_time(puppet):
    core = puppet()
    assert core.wait(0.01) is False
    core.write(PINS, INTERRUPT)
    before = core.cycles
    assert core.wait(10.0) is True
    assert core.interrupt
    assert core.cycles > before, "a host that looks again lets the core go on"


def test_cores_in_threads_do_not_disturb_each_other(puppet):
    cores = [puppet(read_latency=1 + index) for index in range(4)]

    def work(index: int) -> None:
        core = cores[index]
        buffer = core.allocate(8)
        buffer.array[:] = index
        core.start_read(buffer.address, 1)
        core.advance(20_000)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, core in enumerate(cores):
        assert core.seen("first_r_clock") - core.seen("ar_clock") == 1 + index
        assert core.seen("r_low") == index * 0x01010101


def test_waves_are_written(puppet, tmp_path: Path):
    core = puppet(trace=tmp_path / "waves.vcd")
    core.write(DATA, 0x1234)
    core.advance(10)
    core.close()
    text = (tmp_path / "waves.vcd").read_text()
    assert "m_axi_wdata" in text
    assert "$timescale 1ns" in text
    assert re.search(r"^#200$", text, re.MULTILINE)
    with pytest.raises(OSError, match=r"nowhere/waves\.vcd' cannot be written"):
        puppet(trace=tmp_path / "nowhere" / "waves.vcd")


def test_a_closed_core_says_so(puppet):
    core = puppet()
    core.close()
    core.close()
    with pytest.raises(ValueError, match="has been closed"):
        core.read(0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"read_latency": 0}, "read_latency must be 1 clock or more, not 0"),
        ({"bandwidth": 0.0}, r"bandwidth must be above 0 and at most 1 beat a clock, not 0\.0"),
        ({"bandwidth": 1.5}, "bandwidth must be"),
        ({"stall": 1.0}, "stall must be a chance"),
        ({"outstanding": 0}, "outstanding must be 1 to 128"),
        ({"seed": -1}, "seed must be a 64-bit number"),
        ({"base": 12}, "base address must be a multiple of 4096"),
    ],
)
def test_wrong_arguments_are_named(puppet, argument: dict, message: str):
    with pytest.raises(ValueError, match=message):
        puppet(**argument)
