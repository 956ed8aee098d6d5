"""The cycle model gives the clocks that the core's own counter shows, on any memory, without simulating the core."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.config_file import load_config
from halfulp.hw.schedule import GemmPlan
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.cycle_count import count_cycles, dense_gemm
from halfulp.sim.cycle_model import predict, roofline, walk_gemm
from halfulp.sim.drain_model import drain_clocks
from halfulp.sim.gemm_clocks import GemmClocks
from halfulp.sim.gemm_walk import walk_groups
from halfulp.sim.load_model import NEXT_GROUP, load_clocks, most_words
from halfulp.sim.memory_timing import MemoryTiming
from halfulp.sim.rtl import RtlCore
from halfulp.sim.walk_code import WalkCode, walk_code

from .small_cores import BLOCKS, COMPACT, EXACT, IN_TURN, as_compact

ROOT = Path(__file__).parents[2]
CORES = {
    "exact sums": EXACT,
    "sums rounded at random, 3 in turn": IN_TURN,
    "blocks, rounded at random": BLOCKS,
    "compact": COMPACT,
}
VERIFIED = {
    "rounded to nearest, 2 in turn": IN_TURN.replace(rows=4, interleave=2, accumulator="e6m5", bus_width=32),
    "2-byte operands, 128-bit bus": EXACT.replace(a_formats=("int12", "int8"), b_formats=("int12",), bus_width=128),
    **{
        name: load_config(ROOT / "docs" / "configs" / f"{name}.toml")
        for name in ("fp12_4x2", "mxfp8_2x3", "nvfp4_2x2", "tiny_2x3", "window_2x2")
    },
    **{
        f"compact: {name}": as_compact(config)
        for name, config in {
            "exact sums": EXACT,
            "sums rounded at random, 3 in turn": IN_TURN,
            "blocks, rounded at random": BLOCKS,
            "many rows, results rounded at random": COMPACT.replace(rows=6, roundings=("nearest_even", "stochastic")),
        }.items()
    },
    **{
        # What operands of any size need of addresses; a GEMM's clocks do not depend on their widths.
        name: load_config(ROOT / "docs" / "configs" / f"{name}.toml").replace(address_bits=64, size_bits=32)
        for name in ("int8_1x2_compact_serial", "int8_2x2_compact_serial")
    },
}
EVERY_CORE = [
    *(pytest.param(config, id=name) for name, config in CORES.items()),
    *(pytest.param(config, id=name, marks=pytest.mark.verify) for name, config in VERIFIED.items()),
]
MEMORIES = {
    "ideal": MemoryTiming(),
    "latency": MemoryTiming(read_latency=60, write_latency=35),
    "narrow": MemoryTiming(bandwidth=0.3, outstanding=2),
    "both": MemoryTiming(bandwidth=0.77, read_latency=13, outstanding=3),
}


@pytest.fixture
def open_core() -> Iterator:
    opened = []

    def open_one(config: ArrayConfig, memory: MemoryTiming) -> tuple[RtlCore, int]:
        """A core on this memory, and the address of 16 MiB of it."""
        core = RtlCore(
            config,
            memory_bytes=1 << 25,
            read_latency=memory.read_latency,
            write_latency=memory.write_latency,
            bandwidth=memory.bandwidth,
            outstanding=memory.outstanding,
        )
        opened.append(core)
        return core, core.allocate(1 << 24).address

    yield open_one
    for core in opened:
        core.close()


def random_gemm(rng: np.random.Generator, config: ArrayConfig, base: int) -> tuple[GemmPlan, int, int, int]:
    """A GEMM of any layout, aligned or not; number of its output format, address and stride of C."""

    def one(*choices: int) -> int:
        return int(choices[int(rng.integers(len(choices)))])

    while True:
        m = one(1, 2, 3, 7, 64, int(rng.integers(1, 130)))
        n = one(1, 4, 5, 12, 128, int(rng.integers(1, 250)))
        k = one(1, 2, 8, 16, 64, 128, 129, 256, int(rng.integers(1, 40)), int(rng.integers(1, 700)))
        if m * n * k <= 60_000:
            break
    k = min(config.steps(k), config.max_k)
    a_across_k, b_across_k = (bool(bit) for bit in rng.integers(0, 2, 2))
    out_format = int(rng.integers(len(config.out_formats)))
    sizes = config.a_bytes, config.b_bytes, config.out_formats[out_format].container_bytes
    pads = [one(0, 0, 1, 3, 8, int(rng.integers(0, 100))) for _ in range(3)]
    skews = [one(0, 0, int(rng.integers(0, 16)), int(rng.integers(0, 4096))) for _ in range(3)]
    widths = (m if a_across_k else k, n if b_across_k else k, n)
    strides = [width + pad for width, pad in zip(widths, pads, strict=True)]
    if rng.random() < 0.3:  # rows that begin alike in a bus word, or in a page
        strides = [-(-stride // unit) * unit for stride, unit in zip(strides, (8, one(8, 256), 64), strict=True)]
    plan = GemmPlan(
        config=config,
        m=m,
        n=n,
        k=k,
        a_address=base + sizes[0] * skews[0],
        b_address=base + (1 << 22) + sizes[1] * skews[1],
        a_stride=sizes[0] * strides[0],
        b_stride=sizes[1] * strides[1],
        a_across_k=a_across_k,
        b_across_k=b_across_k,
    )
    return plan, out_format, base + (1 << 23) + sizes[2] * skews[2], sizes[2] * strides[2]


@pytest.mark.parametrize("name", list(MEMORIES))
@pytest.mark.parametrize("config", EVERY_CORE)
def test_it_equals_the_cores_counter_on_random_gemms(
    open_core, rng: np.random.Generator, config: ArrayConfig, name: str, request: pytest.FixtureRequest
):
    memory = MEMORIES[name]
    core, base = open_core(config, memory)
    for _ in range(1000 if request.config.option.fuzz else 40):
        plan, out_format, c_address, c_stride = random_gemm(rng, config, base)
        counted = count_cycles(core, plan, out_format=out_format, c_address=c_address, c_stride=c_stride)
        size = config.out_formats[out_format].container_bytes
        model = predict(plan, out_bytes=size, c_address=c_address, c_stride=c_stride, memory=memory)
        assert model.cycles == counted, f"{plan}, C at {c_address:#x}, stride {c_stride}, format {out_format}"


def test_clocks_do_not_depend_on_when_a_gemm_is_started(open_core):
    """A step comes every third clock of this core, whose first one is that of the first step."""
    core, base = open_core(IN_TURN, MemoryTiming())
    plan, c_address, _ = dense_gemm(IN_TURN, 7, 9, 5, across_k=(False, True), out_bytes=4, base=base)
    counts = []
    for idle in range(1, 2 * IN_TURN.interleave + 1):
        core.advance(idle)
        counts.append(count_cycles(core, plan, c_address=c_address, c_stride=20))
    assert counts == [predict(plan, c_address=c_address).cycles] * len(counts)


def test_without_a_counter_the_interrupt_tells_the_same_clocks(open_core, rng: np.random.Generator):
    core, base = open_core(EXACT, MemoryTiming())
    for _ in range(5):
        plan, out_format, c_address, c_stride = random_gemm(rng, EXACT, base)
        counts = []
        for config in (EXACT, EXACT.replace(counters=False)):
            core.config = config
            counts.append(count_cycles(core, plan, out_format=out_format, c_address=c_address, c_stride=c_stride))
        assert counts[0] == counts[1]


@pytest.mark.parametrize("across", [(False, False), (False, True), (True, False), (True, True)])
def test_it_equals_the_counter_where_most_of_the_tiles_are_passed_over(open_core, across: tuple[bool, bool]):
    core, base = open_core(EXACT, MemoryTiming())
    a_across_k, b_across_k = across
    for m, k, n in ((4, 64, 1600), (300, 16, 64), (64, 256, 64)):
        plan = GemmPlan(
            config=EXACT,
            m=m,
            n=n,
            k=k,
            a_address=base,
            b_address=base + (1 << 22),
            a_stride=-(-(m if a_across_k else k) // 8) * 8,
            b_stride=n if b_across_k else k,
            a_across_k=a_across_k,
            b_across_k=b_across_k,
        )
        for out_format, size in ((0, 4), (2, 1)):
            c_address = base + (1 << 23)
            counted = count_cycles(core, plan, out_format=out_format, c_address=c_address, c_stride=n * size)
            assert predict(plan, out_bytes=size, c_address=c_address).cycles == counted, (m, k, n)


def layer(across: tuple[bool, bool], m: int, k: int, n: int) -> GemmPlan:
    config = ArrayConfig(rows=16, columns=16)
    return dense_gemm(config, m, k, n, across_k=across, out_bytes=4, base=0)[0]


@pytest.mark.parametrize("across", [(False, False), (False, True), (True, False), (True, True)])
def test_a_16_by_16_core_keeps_to_its_roofline_in_every_layout(across: tuple[bool, bool]):
    cube = layer(across, 512, 512, 512)
    assert predict(cube, c_address=1 << 25).macs_per_cycle >= 0.95 * roofline(cube) == 0.95 * 256
    for m, k, n in ((64, 784, 128), (64, 128, 784), (784, 64, 128)):
        for out_bytes in (1, 2, 4):
            plan = layer(across, m, k, n)
            model = predict(plan, out_bytes=out_bytes, c_address=1 << 25)
            assert model.macs_per_cycle >= 0.85 * roofline(plan, out_bytes=out_bytes), (m, k, n, out_bytes)


@pytest.mark.parametrize("latency", [1, 30, 120])
def test_a_single_tile_waits_for_one_bus_latency_each_way(latency: int):
    """Beside bus words, steps, and the way through array and drain: the latencies, and 64 clocks at start and end."""
    memory = MemoryTiming(read_latency=latency, write_latency=latency)
    wide = ArrayConfig(rows=8, columns=8, bus_width=128)
    seen = 0
    for config in (ArrayConfig(rows=16, columns=16), wide, IN_TURN.replace(accumulator="e6m5"), EXACT):
        core = core_clocks(config)
        for m, k, n in ((16, 64, 16), (1, 1, 1), (16, 784, 16), (5, 40, 9), (2, 7, 16)):
            m, n = min(m, config.rows), min(n, config.columns)
            for across in itertools.product((False, True), (False, True)):
                # Where lines are short, the words of as many bursts as may be in flight come before the next one's.
                lines = m if across[0] else k, n if across[1] else k
                if min(*lines, 8 * BURST_BEATS) // config.bus_bytes * config.reads_outstanding < latency > 1:
                    continue
                plan, c_address, _ = dense_gemm(config, m, k, n, across_k=across, out_bytes=4, base=0)
                model = predict(plan, c_address=c_address, memory=memory)
                words = (model.read_bytes + model.written_bytes) // config.bus_bytes
                ways = core.interval * k + core.capture + core.position + core.rounding + core.queue
                assert model.cycles <= words + ways + 2 * latency + 64, (plan, model)
                seen += 1
    assert seen > 3


def uneven_gemm(rng: np.random.Generator, config: ArrayConfig) -> tuple[GemmPlan, int, int, int]:
    """A GEMM whose sizes seldom fit the array; bytes of a result, address and stride of C."""

    def length(limit: int) -> int:
        size = min(int(2 ** rng.uniform(0, 10)), limit)
        return size // 8 * 8 if size >= 8 and rng.random() < 0.4 else size

    while True:
        m, n, k = length(1024), length(1024), length(config.max_k)
        if m * n * k <= 1 << 20:
            break
    out_bytes = int(rng.choice((1, 2, 4)))
    across = bool(rng.integers(2)), bool(rng.integers(2))
    plan, c_address, _ = dense_gemm(config, m, k, n, across_k=across, out_bytes=out_bytes, base=0)
    gap = int(rng.choice((0, 0, 0, 1, 8, int(rng.integers(100)))))
    return plan, out_bytes, c_address + out_bytes * int(rng.choice((0, rng.integers(1000)))), (n + gap) * out_bytes


SHORTCUT_CORES = (
    ArrayConfig(rows=8, columns=8),
    ArrayConfig(rows=16, columns=16),
    ArrayConfig(rows=4, columns=8, bus_width=128, reads_outstanding=4),
    EXACT,
    IN_TURN,
    BLOCKS,
    ArrayConfig(rows=64, columns=8, lanes=8, bus_width=128, buffer_depth=64),
    ArrayConfig(rows=1, columns=8, roundings="nearest_even"),
    COMPACT,
    as_compact(ArrayConfig(rows=16, columns=8)).replace(reads_outstanding=1),
)
SHORTCUT_MEMORIES = (
    *MEMORIES.values(),
    MemoryTiming(read_latency=20),
    MemoryTiming(read_latency=23, write_latency=3, bandwidth=0.91, outstanding=16),
    MemoryTiming(read_latency=20, write_latency=20, bandwidth=0.5),
)


def test_shortcuts_change_nothing(rng: np.random.Generator, request: pytest.FixtureRequest):
    """Most of a GEMM is not walked: its cycles and bytes are those of walking each tile and line."""
    for _ in range(50_000 if request.config.option.fuzz else 1500):
        config = SHORTCUT_CORES[int(rng.integers(len(SHORTCUT_CORES)))]
        memory = SHORTCUT_MEMORIES[int(rng.integers(len(SHORTCUT_MEMORIES)))] if rng.random() < 0.5 else MemoryTiming()
        plan, out_bytes, c_address, c_stride = uneven_gemm(rng, config)
        walked = walk_gemm(plan, memory, out_bytes, c_address, c_stride, shortcuts=False)
        model = predict(plan, out_bytes=out_bytes, c_address=c_address, c_stride=c_stride, memory=memory)
        assert model == walked, (plan, memory, out_bytes, c_address, c_stride)


def test_a_bus_that_is_busy_with_results_tells_the_end(rng: np.random.Generator):
    """Of results that take longer than steps only the first tiles are followed, on bandwidths without a period too."""
    followed = 0
    for _ in range(300):
        config = ArrayConfig(rows=int(rng.choice((4, 9, 16))), columns=16, lanes=int(rng.choice((2, 4, 8))))
        m, n = (int(rng.integers(12, 20)) * size - int(rng.integers(4)) for size in (config.rows, config.columns))
        k, out_bytes = int(rng.integers(1, 40)), int(rng.choice((2, 4)))
        latency, outstanding = int(rng.integers(1, 60)), int(rng.choice((3, 8, 32)))
        memory = MemoryTiming(
            read_latency=latency, write_latency=latency, bandwidth=rng.uniform(0.2, 0.9), outstanding=outstanding
        )
        plan, c_address, _ = dense_gemm(config, m, k, n, across_k=(False, True), out_bytes=out_bytes, base=0)
        stride = (n + int(rng.choice((0, 1, 8)))) * out_bytes
        clocks = GemmClocks(plan, memory, out_bytes, c_address, stride)
        walked, told = clocks.walk(shortcuts=False), clocks.walk()
        assert told.answered == walked.answered, (plan, memory, out_bytes, stride)
        followed += told.written < walked.written // 4
    assert followed > 60


def test_tall_tiles_leave_the_array_before_the_next_ones_are_captured():
    """Where their rows take longer to leave it than their steps, and results are quickly in memory."""
    config = ArrayConfig(rows=64, columns=8, lanes=8, bus_width=128, buffer_depth=64)
    for k in range(100, 150):
        plan, c_address, _ = dense_gemm(config, 787, k, 248, across_k=(True, True), out_bytes=2, base=0)
        walked = walk_gemm(plan, MemoryTiming(), 2, c_address, 512, shortcuts=False)
        assert walk_gemm(plan, MemoryTiming(), 2, c_address, 512) == walked, k


def test_a_tile_that_begins_a_page_is_not_taken_for_one_that_no_page_cuts():
    """One that a page's end cuts in its fourth row, and others that begin alike in a bus word."""
    config = ArrayConfig(rows=16, columns=16)
    memory = MemoryTiming(read_latency=78, write_latency=75, bandwidth=0.25, outstanding=5)
    plan = dense_gemm(config, 816, 4, 672, across_k=(False, False), out_bytes=2, base=0)[0]
    assert walk_gemm(plan, memory, 2, 8192, 1360) == walk_gemm(plan, memory, 2, 8192, 1360, shortcuts=False)


def test_tiles_that_find_no_queue_wait_for_the_positions_of_those_before():
    """Where K is as long as results take, or a little longer, a compact core's last steps wait for their acceptance."""
    config = ArrayConfig(rows=8, columns=64, lanes=8, bus_width=128, roundings="nearest_even")
    queued = []
    for k in range(60, 150):
        plan, c_address, _ = dense_gemm(config, 16, k, 64, across_k=(False, False), out_bytes=1, base=0)
        compact = replace(plan, config=as_compact(config))
        walked = walk_gemm(compact, MemoryTiming(), 1, c_address, 64, shortcuts=False)
        assert walk_gemm(compact, MemoryTiming(), 1, c_address, 64) == walked, k
        queued.append(walked.cycles - walk_gemm(plan, MemoryTiming(), 1, c_address, 64).cycles)
    # The descriptor's words, less what words of results do not take through a queue's last register; and the waiting.
    assert queued[-1] == 14 < max(queued)


def test_without_llvmlite_the_model_gives_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    """What is compiled is plain Python, which gives the same as it is."""
    gemms = []
    for config, memory in itertools.product(SHORTCUT_CORES, SHORTCUT_MEMORIES):
        plan, out_bytes, c_address, c_stride = uneven_gemm(rng, config)
        if plan.m * plan.n * plan.k <= 1 << 14:
            gemms.append((plan, memory, out_bytes, c_address, c_stride))
    compiled = [walk_gemm(*gemm) for gemm in gemms]
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    for module in ("llvm", "scalar_code"):
        monkeypatch.delitem(sys.modules, f"halfulp.sim.{module}", raising=False)
    walk_code.cache_clear()
    try:
        assert walk_code() == WalkCode(walk_groups, load_clocks, drain_clocks, most_words)
        assert [walk_gemm(*gemm) for gemm in gemms] == compiled
    finally:
        walk_code.cache_clear()


def test_no_tile_takes_longer_than_is_taken_for_sure(rng: np.random.Generator):
    """Results that lie anywhere are in memory no later than the bound with which tiles are passed over."""
    for _ in range(400):
        config = SHORTCUT_CORES[int(rng.integers(len(SHORTCUT_CORES)))]
        memory = SHORTCUT_MEMORIES[int(rng.integers(len(SHORTCUT_MEMORIES)))]
        size = int(rng.choice((1, 2, 4)))
        rows, row_bytes = int(rng.integers(1, config.rows + 1)), int(rng.integers(1, config.columns + 1)) * size
        stride = row_bytes + size * int(rng.choice((0, 1, rng.integers(100), rng.integers(2000))))
        address = int(rng.integers(4096)) // size * size
        bounds = GemmClocks(GemmPlan(config=config, m=1, n=1, k=1), memory, size, address, stride).bounds
        row, column = (int(number) for number in rng.integers(100, size=2))
        place = address + row * config.rows * stride + column * config.columns * size
        taken = bounds.results(rows, row_bytes, place)
        for most in ((config.rows, config.columns * size), (rows, row_bytes)):
            assert taken <= bounds.longest_results(*most, address, stride), (config.name, memory, rows, row_bytes)


def test_no_load_takes_longer_than_is_taken_for_sure(rng: np.random.Generator):
    """Panels that lie anywhere have come, from rest, no later than the bound with which loads are passed over."""
    seen = 0
    while seen < 200:
        config = SHORTCUT_CORES[int(rng.integers(len(SHORTCUT_CORES)))]
        memory = SHORTCUT_MEMORIES[int(rng.integers(len(SHORTCUT_MEMORIES)))]
        plan, *_ = uneven_gemm(rng, config)
        if plan.chunked:
            continue
        seen += 1
        for which in ((0,), (1,), (0, 1)):
            bounds = GemmClocks(plan, memory, 4, 0, 0).bounds
            ends = [math.ceil(operand.size / operand.lanes) for operand in plan.operands]
            panels = [int(rng.integers(ends[operand])) if operand in which else -1 for operand in (0, 1)]
            assert NEXT_GROUP + bounds.load(*panels) <= bounds.longest_load(which), (plan, memory, which)


def test_bytes_moved_are_those_of_the_plans_bursts_and_of_c(rng: np.random.Generator):
    for _ in range(100):
        plan, out_format, c_address, c_stride = random_gemm(rng, EXACT, 0)
        size = EXACT.out_formats[out_format].container_bytes
        model = predict(plan, out_bytes=size, c_address=c_address, c_stride=c_stride)
        assert model.read_bytes == 8 * sum(burst.beats for burst in plan.bursts())
        least = sum((row + plan.n * size - 1) // 8 - row // 8 + 1 for row in range(0, plan.m * c_stride, c_stride))
        tiles = -(-plan.n // EXACT.columns)
        assert 8 * (least - plan.m) <= model.written_bytes <= 8 * (least + plan.m * tiles)


@pytest.mark.parametrize(
    "sizes",
    [(4096, 1024, 4096), (4095, 1000, 3001), (333, 333, 333), (333, 17, 333), (1000, 64, 1000), (1024, 4, 1024)],
)
def test_a_large_gemm_takes_milliseconds_and_a_known_one_none(sizes: tuple[int, int, int]):
    plan = layer((False, True), *sizes)
    predict(layer((False, False), 1, 1, 1))  # compiles the model where the cache is empty
    for memory in (MemoryTiming(), SHORTCUT_MEMORIES[-1], MemoryTiming(bandwidth=0.3)):
        start = time.process_time()
        model = predict(plan, memory=memory)
        assert time.process_time() - start < 0.05, "thousands of tiles must not be walked one by one"
        assert predict(replace(plan), memory=memory) is model


def test_time_and_rate_follow_from_the_clock():
    plan = layer((False, False), 64, 784, 128)
    model = predict(plan)
    assert model.macs == 64 * 784 * 128
    assert model.seconds(100e6) == model.cycles / 100e6
    assert model.macs_per_second(100e6) == pytest.approx(model.utilisation * 256 * 100e6)


def test_what_no_gemm_and_no_memory_can_be_is_refused():
    plan = layer((False, False), 1, 1, 1)
    with pytest.raises(ValueError, match="m must be 1 or more, not 0"):
        predict(replace(plan, m=0))
    with pytest.raises(ValueError, match="k counts scales and elements: 34 ends in a scale, of blocks of 32"):
        predict(GemmPlan(config=BLOCKS, m=1, n=1, k=34))
    with pytest.raises(ValueError, match="out_bytes must be 1, 2 or 4, not 3"):
        predict(plan, out_bytes=3)
    with pytest.raises(ValueError, match="bandwidth must be above 0 and at most 1 beat a clock, not 0"):
        MemoryTiming(bandwidth=0)
    with pytest.raises(ValueError, match="read_latency must be 1 clock or more, not 0"):
        MemoryTiming(read_latency=0)
    with pytest.raises(ValueError, match="outstanding must be 1 to 128 bursts, not 0"):
        MemoryTiming(outstanding=0)


def test_the_counter_refuses_what_the_core_refuses(open_core):
    core, base = open_core(EXACT, MemoryTiming())
    plan, c_address, _ = dense_gemm(EXACT, 1, 9000, 1, across_k=(False, False), out_bytes=4, base=base)
    with pytest.raises(RuntimeError, match="the core refused 1 x 9000 x 1: status 0x"):
        count_cycles(core, plan, c_address=c_address, c_stride=4)
