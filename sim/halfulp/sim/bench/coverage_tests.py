"""cocotb's test that sees every kind of GEMM a core can run; beside `core_tests`, with the same plan."""

from __future__ import annotations

import json
from pathlib import Path

import cocotb
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiResp

from halfulp.hw.registers import ErrorCode
from halfulp.sim.bench.bus_rules import SeenBurst
from halfulp.sim.bench.core_tests import CLOCKS_A_GEMM, CONFIG, Bench
from halfulp.sim.bench.coverage import Coverage, case_of, describe, refused
from halfulp.sim.bench.handle import CoreHandle
from halfulp.sim.bench.stimulus import PlacedGemm

MAX_GEMMS = 1500
"""Beyond it a cell is taken for one that cannot be filled, and the test fails."""

_FAILING = ("A fails", "B fails", "C fails")


@cocotb.test(timeout_time=100, timeout_unit="sec")
async def every_kind_of_gemm_is_right(dut: CoreHandle) -> None:
    """GEMMs and faults until no cell of the coverage is empty; after each fault the same GEMM is right."""
    bench = Bench(dut, "coverage")
    await bench.start()
    coverage = Coverage(CONFIG)
    for _ in range(MAX_GEMMS):
        wanted = coverage.choose(bench.random)
        if wanted is None:
            break
        bench.memory.behave(wanted["memory"], bench.random)
        case = case_of(bench.rng, CONFIG, wanted)
        seen = {**describe(case, CONFIG), "memory": wanted["memory"]}
        if wanted["outcome"] != "right":
            bench.clear_memory()
            coverage.record(seen | await _disturb(bench, bench.place(case), wanted))
        await bench.run([case])
        coverage.record(seen | {"outcome": "right"})
    Path("coverage.json").write_text(json.dumps(coverage.to_list()), encoding="utf-8")
    empty = [f"{cross.name}: {' '.join(cell)}" for cross in coverage.crosses for cell in cross.empty]
    if empty:
        raise AssertionError(f"{len(empty)} cells were not seen in {MAX_GEMMS} GEMMs, first {empty[0]}")


async def _disturb(bench: Bench, placed: PlacedGemm, wanted: dict[str, str]) -> dict[str, str]:
    """Run a GEMM that ends as is wanted; return what was seen of it, nothing where it has ended otherwise."""
    outcome = wanted["outcome"]
    if outcome in _FAILING:
        return await _fail(bench, placed, wanted)
    registers = bench.registers
    await registers.act("clear")
    if outcome == ErrorCode.QUEUE_OVERFLOW.name:
        return {"outcome": outcome} if await bench.overflow(placed) else {}
    if outcome == "reset":
        await registers.start(placed.registers())
        await ClockCycles(bench.dut.aclk, bench.random.randint(1, 150))
        busy = await registers.read("status") & 1
        await registers.act("reset")
        await registers.wait_idle(CLOCKS_A_GEMM)
        bench.monitor.check()
        assert bench.monitor.idle, "the core is idle after its reset, and bursts are not answered"
        return {"outcome": outcome} if busy else {}
    code = ErrorCode[outcome]
    bursts = len(bench.monitor.read_bursts) + len(bench.monitor.write_bursts)
    await registers.start({**placed.registers(), **refused(CONFIG)[code]})
    status = await registers.wait_idle(1000)
    bench.monitor.check()
    assert status >> 8 & 0xFF == code, f"status {status:#x}, not {outcome}"
    assert bursts == len(bench.monitor.read_bursts) + len(bench.monitor.write_bursts), f"traffic after {outcome}"
    return {"outcome": outcome}


async def _fail(bench: Bench, placed: PlacedGemm, wanted: dict[str, str]) -> dict[str, str]:
    """Let a beat fail of the burst that holds the beginning of an operand; see which beat it was."""
    operand = _FAILING.index(wanted["outcome"])
    case, width = placed.case, CONFIG.bus_bytes
    m, n, k = case.shape
    rows = (
        (m if case.a_across_k else CONFIG.steps(k)) * CONFIG.a_bytes,
        (n if case.b_across_k else CONFIG.steps(k)) * CONFIG.b_bytes,
        min(n, CONFIG.columns) * case.spec.out.container_bytes,
    )
    begin = placed.addresses[operand]
    end = begin + rows[operand] - 1
    words = min(end // width - begin // width, 15)
    word = begin // width + {"first": 0, "middle": min(1, words), "last": words}[wanted["beat"]]
    address = min(max(word * width, begin), end)
    bursts = bench.monitor.write_bursts if operand == 2 else bench.monitor.read_bursts
    bursts.clear()
    await bench.fail(placed, operand, address, AxiResp[wanted["response"]])
    beat = next(_place(burst, address) for burst in bursts if _holds(burst, address))
    return {"outcome": wanted["outcome"], "bus error": wanted["outcome"], "response": wanted["response"], "beat": beat}


def _holds(burst: SeenBurst, address: int) -> bool:
    return burst.address <= address < burst.address + burst.beats * CONFIG.bus_bytes


def _place(burst: SeenBurst, address: int) -> str:
    beat = (address - burst.address) // CONFIG.bus_bytes
    return "first" if beat == 0 else "last" if beat == burst.beats - 1 else "middle"
