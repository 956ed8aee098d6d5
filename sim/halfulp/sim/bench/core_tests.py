"""cocotb's tests of a whole core; `halfulp.sim.cosim.run_bench` starts them in a simulator.

What to run comes in the environment variable HALFULP_BENCH: a JSON object with `config`, `seed` and `tests`.
"""

from __future__ import annotations

import itertools
import json
import os
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiResp

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import CORE_ID, ErrorCode
from halfulp.sim.bench.coverage import refused
from halfulp.sim.bench.handle import CoreHandle
from halfulp.sim.bench.memory import BenchMemory, Fault
from halfulp.sim.bench.monitor import BusMonitor
from halfulp.sim.bench.registers import RegisterMaster
from halfulp.sim.bench.scoreboard import Scoreboard
from halfulp.sim.bench.stimulus import GemmCase, PlacedGemm, plain_case, random_case

PLAN = json.loads(os.environ["HALFULP_BENCH"])
CONFIG = ArrayConfig.from_dict(PLAN["config"])
MEMORY_BYTES = 1 << 20
MAX_MACS = 4000
CLOCKS_A_GEMM = 200_000
"""More than any GEMM here takes with channels pausing nine clocks of ten: a core still busy then hangs."""


class Bench:
    """A core out of reset with its memory, register bus, monitor and scoreboard."""

    def __init__(self, dut: CoreHandle, name: str) -> None:
        seed = f"{PLAN['seed']} {name}"
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(self.random.getrandbits(64))
        self.dut = dut
        # High addresses, so that no address bit is lost on the way unseen.
        self.memory = BenchMemory(dut, nbytes=MEMORY_BYTES, base=self.random.getrandbits(40) << 24)
        self.registers = RegisterMaster(dut)
        self.scoreboard = Scoreboard()
        self.monitor: BusMonitor
        self._used = 0

    async def start(self) -> None:
        """Clock and reset."""
        self.dut.aresetn.value = 0
        Clock(self.dut.aclk, 10, unit="ns").start()
        await ClockCycles(self.dut.aclk, 10)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)
        self.monitor = BusMonitor(self.dut, config=CONFIG)
        await self.registers.write("interrupt_enable", 3)

    def place(self, case: GemmCase) -> PlacedGemm:
        """Put a case into memory that no other of this batch uses, among random bytes."""
        size = PlacedGemm.zone_bytes(case, CONFIG)
        zone = self.memory.array[self._used : self._used + size]
        zone[:] = self.rng.integers(0, 256, size, np.uint8)
        address = self.memory.base + self._used
        self._used += size
        return PlacedGemm(case, CONFIG, zone, address)

    async def run(self, cases: list[GemmCase]) -> None:
        """Queue the cases, one behind the other, wait, and check results and flags."""
        await self.registers.act("clear")
        self._used = 0
        completed = await self.registers.read("completed")
        batch = [self.place(case) for case in cases]
        for placed in batch:
            self.dut._log.info("%s", placed.case)
            await self.registers.start(placed.registers())
        status = await self.registers.wait_idle(CLOCKS_A_GEMM * len(batch))
        await self.registers.read("status")
        self.monitor.check()
        golden = [self.scoreboard.check(placed) for placed in batch]
        if (await self.registers.read("completed") - completed) & 0xFFFF_FFFF != len(batch):
            raise AssertionError("the count of completed GEMMs is not that of those started")
        expected = 2 | any(g.invalid for g in golden) << 3 | any(g.overflow for g in golden) << 4
        if status != expected:
            raise AssertionError(f"status is {status:#x}, not {expected:#x}, after {[str(case) for case in cases]}")
        if not self.monitor.idle:
            raise AssertionError("the core is done, and bursts are not answered yet")
        if not int(self.dut.interrupt.value):
            raise AssertionError("no interrupt after the GEMMs ended")

    def clear_memory(self) -> None:
        """Let the next case be placed where those before were."""
        self._used = 0

    async def fail(self, placed: PlacedGemm, operand: int, address: int, response: AxiResp) -> None:
        """Run a GEMM whose access to an operand (0 A, 1 B, 2 C) at an address fails; check what the core says."""
        access, code = ("write", ErrorCode.WRITE_ERROR) if operand == 2 else ("read", ErrorCode.READ_ERROR)
        await self.registers.act("clear")
        self.memory.faults.append(Fault(range(address, address + 1), access, response))
        await self.registers.start(placed.registers())
        status = await self.registers.wait_idle(CLOCKS_A_GEMM)
        self.monitor.check()
        assert status >> 8 & 0xFF == code, f"status {status:#x} after a {access} error"
        failed = await self.registers.read("fail_address_low")
        failed |= await self.registers.read("fail_address_high") << 32
        # The failing beat lies in the burst whose address is kept.
        assert 0 <= address - failed < 16 * CONFIG.bus_bytes, f"{failed:#x} kept for {address:#x}"
        assert self.monitor.idle, "the core is idle after an error, and bursts are not answered"
        self.memory.faults.clear()

    async def overflow(self, placed: PlacedGemm) -> bool:
        """Start one GEMM again and again until the queue is full, and once more; whether that was refused."""
        completed = await self.registers.read("completed")
        await self.registers.start(placed.registers())
        started = 1
        # A memory with no latency may be done with each as fast as it is started.
        while started < 4 * CONFIG.queue_depth and not await self.registers.field("status", "queue_full"):
            await self.registers.act("start")
            started += 1
        await self.registers.act("start")
        status = await self.registers.wait_idle(CLOCKS_A_GEMM * started)
        self.monitor.check()
        code = status >> 8 & 0xFF
        assert code in (ErrorCode.NONE, ErrorCode.QUEUE_OVERFLOW), f"status {status:#x}"
        assert (await self.registers.read("completed") - completed) & 0xFFFF_FFFF == started + 1
        return code == ErrorCode.QUEUE_OVERFLOW

    def draw(self) -> GemmCase:
        """A random case."""
        return random_case(self.rng, CONFIG, max_macs=MAX_MACS)


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def a_core_tells_what_it_is(dut: CoreHandle) -> None:
    """The registers answer right after reset, and no interrupt is there."""
    bench = Bench(dut, "identity")
    await bench.start()
    bench.registers.set_pauses(bench.random)
    assert await bench.registers.read("id") == CORE_ID
    assert await bench.registers.read("config_array") == CONFIG.rows | CONFIG.columns << 16
    assert await bench.registers.read("status") == 0
    assert not int(dut.interrupt.value)


@cocotb.test(timeout_time=1, timeout_unit="sec")
async def a_gemm_of_four_tiles_runs_without_pauses(dut: CoreHandle) -> None:
    """Two by two tiles, contiguous along K, on a memory that is always ready: also what timing diagrams show."""
    bench = Bench(dut, "four tiles")
    await bench.start()
    rows, columns, depth = 2 * CONFIG.rows, 2 * CONFIG.columns, min(12, CONFIG.max_k)
    case = plain_case(bench.rng, CONFIG, rows, columns, depth)
    await bench.run([case])
    assert bench.monitor.write_bursts, "nothing was written"


@cocotb.test(timeout_time=10, timeout_unit="sec")
async def random_gemms_equal_the_golden_model(dut: CoreHandle) -> None:
    """Shapes, formats, layouts, strides, addresses, rounding, scale, flags; pauses on every channel; queued GEMMs."""
    bench = Bench(dut, "random")
    await bench.start()
    done = 0
    while done < PLAN["tests"]:
        cases = [bench.draw() for _ in range(min(bench.random.randint(1, 3), PLAN["tests"] - done))]
        dut._log.info("pauses %s", bench.memory.pause_at_random(bench.random))
        await bench.run(cases)
        done += len(cases)
    score = bench.scoreboard
    dut._log.info("%d GEMMs, %d results, %d MACs equal", score.gemms, score.results, score.macs)


@cocotb.test(timeout_time=1, timeout_unit="sec")
async def a_bus_error_stops_one_gemm_and_not_the_next(dut: CoreHandle) -> None:
    """SLVERR or DECERR on A, B, C: the core says what and where, answers every burst, computes the next GEMM right."""
    bench = Bench(dut, "bus errors")
    await bench.start()
    for operand, response in itertools.product(range(3), (AxiResp.SLVERR, AxiResp.DECERR)):
        bench.memory.pause_at_random(bench.random)
        bench.clear_memory()
        placed = bench.place(bench.draw())
        await bench.fail(placed, operand, placed.addresses[operand], response)
        await bench.run([bench.draw()])


@cocotb.test(timeout_time=1, timeout_unit="sec")
async def a_reset_in_mid_run_leaves_a_working_core(dut: CoreHandle) -> None:
    """CONTROL.reset at random moments: promised bursts are completed, and the next GEMM is right."""
    bench = Bench(dut, "resets")
    await bench.start()
    for _ in range(6):
        bench.memory.pause_at_random(bench.random)
        bench.clear_memory()
        for placed in [bench.place(bench.draw()) for _ in range(2)]:
            await bench.registers.start(placed.registers())
        await ClockCycles(dut.aclk, bench.random.randint(1, 400))
        await bench.registers.act("reset")
        await bench.registers.wait_idle(CLOCKS_A_GEMM)
        bench.monitor.check()
        assert bench.monitor.idle, "the core is idle after its reset, and bursts are not answered"
        await bench.run([bench.draw()])


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def a_refused_gemm_causes_no_traffic(dut: CoreHandle) -> None:
    """Descriptors that break a rule each get their error code, and nothing is read or written."""
    bench = Bench(dut, "refused")
    await bench.start()
    good = bench.place(bench.draw()).registers()
    for code, change in refused(CONFIG).items():
        await bench.registers.act("clear")
        await bench.registers.start({**good, **change})
        status = await bench.registers.wait_idle(1000)
        assert status >> 8 & 0xFF == code, f"status {status:#x} for {change}, which is {code.name}"
    bench.monitor.check()
    assert not bench.monitor.read_bursts + bench.monitor.write_bursts, "a refused GEMM has caused traffic"
    await bench.run([bench.draw()])


@cocotb.test(timeout_time=1, timeout_unit="sec")
async def the_reset_line_in_mid_burst_leaves_a_working_core(dut: CoreHandle) -> None:
    """ARESETn at random moments, for the core and the memory: nothing is promised any more, all registers are clear."""
    bench = Bench(dut, "reset line")
    await bench.start()
    for _ in range(6):
        bench.memory.pause_at_random(bench.random)
        bench.clear_memory()
        await bench.registers.start(bench.place(bench.draw()).registers())
        await ClockCycles(dut.aclk, bench.random.randint(1, 200))
        dut.aresetn.value = 0
        await ClockCycles(dut.aclk, bench.random.randint(2, 20))
        dut.aresetn.value = 1
        await ClockCycles(dut.aclk, 2)
        bench.monitor.check()
        assert await bench.registers.read("status") == 0
        assert await bench.registers.read("interrupt_enable") == 0
        # A compact core's descriptor is in a memory, which nothing empties.
        assert CONFIG.compact or await bench.registers.read("m") == 0
        assert not int(dut.interrupt.value)
        await bench.registers.write("interrupt_enable", 3)
        await bench.run([bench.draw()])


@cocotb.test(timeout_time=1, timeout_unit="sec")
async def a_start_beyond_the_queue_disturbs_nothing(dut: CoreHandle) -> None:
    """While GEMMs run and the queue is full, one more is refused; those before it are right."""
    bench = Bench(dut, "full queue")
    await bench.start()
    bench.memory.behave("random latency", bench.random)
    await bench.registers.act("clear")
    # Nine tiles, so that the register bus fills the queue faster than the smallest core empties it.
    placed = bench.place(plain_case(bench.rng, CONFIG, 3 * CONFIG.rows, 3 * CONFIG.columns, min(200, CONFIG.max_k)))
    assert await bench.overflow(placed), "the queue was never full"
    bench.scoreboard.check(placed)
    await bench.run([bench.draw()])
