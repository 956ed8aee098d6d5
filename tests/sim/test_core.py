"""The whole core, simulated from its generated Verilog, equals the golden model through its registers alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from halfulp.hw.registers import ErrorCode, register
from halfulp.sim.bench.scoreboard import MismatchError, Scoreboard
from halfulp.sim.bench.stimulus import PAGE, GemmCase, PlacedGemm, plain_case, random_case
from halfulp.sim.core_timing import TIMING_DIAGRAMS, core_timing
from halfulp.sim.cosim import run_bench
from halfulp.sim.device_memory import DeviceBuffer
from halfulp.sim.rtl import RtlCore

from .small_cores import EXACT


class Host:
    """The least that runs GEMMs on a core: registers by name, and cases in its memory."""

    def __init__(self, core: RtlCore, rng: np.random.Generator) -> None:
        self.core = core
        self.rng = rng
        self.scoreboard = Scoreboard()
        self._buffers: list[DeviceBuffer] = []
        self.write("interrupt_enable", 3)

    def read(self, name: str) -> int:
        return self.core.read(register(name).offset)

    def write(self, name: str, value: int) -> None:
        self.core.write(register(name).offset, value)

    def act(self, action: str) -> None:
        self.write("control", 1 << register("control").field(action).lsb)

    def place(self, case: GemmCase) -> PlacedGemm:
        size = PlacedGemm.zone_bytes(case, EXACT)
        buffer = self.core.allocate(size + PAGE)
        self._buffers.append(buffer)
        buffer.array[:] = self.rng.integers(0, 256, buffer.nbytes, np.uint8)
        offset = -buffer.address % PAGE
        return PlacedGemm(case, EXACT, buffer.array[offset : offset + size], buffer.address + offset)

    def start(self, placed: PlacedGemm) -> None:
        for name, value in placed.registers().items():
            self.write(name, value)
        self.act("start")

    def wait(self) -> int:
        """Run until the core is at rest; return its status."""
        status = self.read("status")
        for _ in range(1000):
            if not status & 1:
                assert self.core.pending == 0, "the core is at rest, and the bus is not"
                return status
            self.core.wait(30.0)
            status = self.read("status")
        raise AssertionError(f"the core hangs, status {status:#x}")

    def run(self, *cases: GemmCase) -> int:
        """Queue cases one behind the other and check all of them; return the clocks that the core was busy."""
        self.act("clear")
        batch = [self.place(case) for case in cases]
        for placed in batch:
            self.start(placed)
        status = self.wait()
        golden = [self.scoreboard.check(placed) for placed in batch]
        flags = any(g.invalid for g in golden) << 3 | any(g.overflow for g in golden) << 4
        assert status == 2 | flags, f"status {status:#x}, and the flags should be {flags:#x}"
        for buffer in self._buffers:
            buffer.free()
        self._buffers.clear()
        return self.read("cycles_low")


@pytest.fixture
def open_core(rng: np.random.Generator) -> Iterator:
    """Open hosts with cores of their own; they are closed at the test's end."""
    opened = []

    def open_host(**arguments) -> Host:
        opened.append(RtlCore(EXACT, memory_bytes=1 << 26, **arguments))
        return Host(opened[-1], rng)

    yield open_host
    for core in opened:
        core.close()


@pytest.mark.parametrize(
    "memory",
    [{}, {"read_latency": 40, "write_latency": 25}, {"stall": 0.5, "seed": 3}, {"bandwidth": 0.3, "outstanding": 2}],
    ids=["ideal", "latency", "stalls", "narrow"],
)
def test_random_gemms_equal_the_golden_model(open_core, rng: np.random.Generator, memory: dict):
    host = open_core(base=0x7F_1234_0000_0000, **memory)
    for _ in range(100):
        host.run(*(random_case(rng, EXACT) for _ in range(int(rng.integers(1, 4)))))
    assert host.scoreboard.gemms >= 100


def test_a_gemm_takes_the_same_clocks_each_time_and_more_on_a_slow_memory(open_core, rng: np.random.Generator):
    cases = [random_case(rng, EXACT) for _ in range(10)]
    ideal, again, slow = open_core(), open_core(), open_core(read_latency=60)
    for case in cases:
        clocks = ideal.run(case)
        assert again.run(case) == clocks
        assert slow.run(case) > clocks + 50


def test_the_flat_core_and_the_one_with_waves_agree_in_every_clock(open_core, rng: np.random.Generator, tmp_path: Path):
    flat, plain = open_core(stall=0.2, seed=1), open_core(stall=0.2, seed=1, trace=tmp_path / "waves.vcd")
    for _ in range(10):
        case = random_case(rng, EXACT, max_macs=2000)
        assert flat.run(case) == plain.run(case)
    assert flat.core.cycles == plain.core.cycles


@pytest.mark.parametrize("response", ["slave_error", "decode_error"])
@pytest.mark.parametrize(
    ("operand", "code"), [(0, ErrorCode.READ_ERROR), (1, ErrorCode.READ_ERROR), (2, ErrorCode.WRITE_ERROR)]
)
def test_a_bus_error_is_told_and_the_next_gemm_is_right(
    open_core, rng: np.random.Generator, operand: int, code: ErrorCode, response: str
):
    host = open_core(read_latency=9, stall=0.1)
    for _ in range(10):
        host.act("clear")
        placed = host.place(random_case(rng, EXACT))
        address = placed.addresses[operand]
        host.core.inject_fault(address, 1, response=response, read=operand < 2, write=operand == 2)
        completed = host.read("completed")
        host.start(placed)
        status = host.wait()
        assert status >> 8 & 0xFF == code
        assert status & 0b110 == 0b110, "both done and error are set"
        assert host.read("completed") == completed + 1
        failed = host.read("fail_address_low") | host.read("fail_address_high") << 32
        assert failed <= address < failed + 16 * EXACT.bus_bytes
        host.core.clear_faults()
        host.run(random_case(rng, EXACT))


@pytest.mark.parametrize("response", ["slave_error", "decode_error"])
def test_an_error_on_any_beat_is_told_and_the_next_gemm_is_right(open_core, rng: np.random.Generator, response: str):
    """Every bus word of A, B and C in turn, of four tiles; answers come up to 200 clocks late."""
    host = open_core(read_latency=200 if response == "decode_error" else 1, write_latency=200, stall=0.1)
    m, n, k = 2 * EXACT.rows - 1, 2 * EXACT.columns - 1, 13
    word = EXACT.bus_bytes
    for operand, nbytes in enumerate((m * k * EXACT.a_bytes, n * k * EXACT.b_bytes, m * n * 4)):
        for beat in range(-(-nbytes // word)):
            host.act("clear")
            placed = host.place(plain_case(host.rng, EXACT, m, n, k))
            address = placed.addresses[operand] + beat * word
            host.core.inject_fault(address, word, response=response, read=operand < 2, write=operand == 2)
            host.start(placed)
            wanted = ErrorCode.WRITE_ERROR if operand == 2 else ErrorCode.READ_ERROR
            assert host.wait() >> 8 & 0xFF == wanted, (operand, beat)
            failed = host.read("fail_address_low") | host.read("fail_address_high") << 32
            assert failed <= address < failed + 16 * word, (operand, beat)
            host.core.clear_faults()
            host.run(plain_case(host.rng, EXACT, m, n, 5))


def test_a_reset_in_mid_run_leaves_a_working_core(open_core, rng: np.random.Generator):
    host = open_core(read_latency=20, stall=0.2)
    for _ in range(30):
        batch = [host.place(random_case(rng, EXACT)) for _ in range(3)]
        for placed in batch:
            host.start(placed)
        host.core.advance(int(rng.integers(1, 600)))
        host.act("reset")
        host.wait()
        host.run(random_case(rng, EXACT))


def test_the_reset_line_forgets_everything(open_core, rng: np.random.Generator):
    host = open_core()
    host.start(host.place(random_case(rng, EXACT)))
    host.core.advance(40)
    host.core.reset()
    assert host.read("status") == 0
    assert host.read("m") == 0
    host.write("interrupt_enable", 3)
    host.run(random_case(rng, EXACT))


def test_the_scoreboard_shows_the_first_mismatch(open_core, rng: np.random.Generator):
    host = open_core()
    placed = host.place(random_case(rng, EXACT))
    host.start(placed)
    host.wait()
    host.scoreboard.check(placed)
    last = placed.addresses[2] + placed.case.strides[2] * (placed.case.shape[0] - 1) - host.core._memory.base
    host.core._memory.array[last] ^= 1
    with pytest.raises(MismatchError, match=r"1 of \d+ results differ, first C\[\d+, 0\] of(.|\n)*found(.|\n)*exact"):
        host.scoreboard.check(placed)


def test_the_cocotb_bench_passes_sees_every_kind_of_gemm_and_draws_its_timing(seed: int, tmp_path: Path):
    result = run_bench(EXACT, seed=seed % 1000, tests=6, waves=True, coverage=True, folder=tmp_path)
    assert result.passed, str(result)
    assert len(result.coverage) > 10
    assert [cross.name for cross in result.coverage if cross.empty] == []
    assert {test.name for test in result.tests} >= {
        "random_gemms_equal_the_golden_model",
        "a_bus_error_stops_one_gemm_and_not_the_next",
        "a_reset_in_mid_run_leaves_a_working_core",
        "a_refused_gemm_causes_no_traffic",
        "the_reset_line_in_mid_burst_leaves_a_working_core",
        "a_start_beyond_the_queue_disturbs_nothing",
        "every_kind_of_gemm_is_right",
    }
    assert result.waves is not None
    drawn = core_timing(result.waves)
    assert tuple(drawn) == TIMING_DIAGRAMS
    assert ">arvalid<" in drawn["start"]
    assert ">bvalid<" in drawn["drain"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"simulator": "verilater"}, r"unknown simulator 'verilater'; nearest: 'verilator'"),
        ({"tests": 0}, "tests must be 1 or more random GEMMs, not 0"),
        ({"seed": -1}, "seed must be a non-negative integer, not -1"),
    ],
)
def test_wrong_arguments_of_the_bench_are_named(argument: dict, message: str):
    with pytest.raises(ValueError, match=message):
        run_bench(EXACT, **argument)
