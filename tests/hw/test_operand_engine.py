# amaranth: UnusedElaboratable=no
"""The operand engine feeds every code to its row at its step, reads nothing else, keeps to the bus, and is at rate."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.operand_buffer import OperandBuffer

from .operand_bench import Bench, Gemm, Memory, check, make_gemm


class Placement(TypedDict):
    pads: tuple[int, int]
    offsets: tuple[int, int]


FP8 = ArrayConfig(rows=4, columns=4, buffer_depth=64, accumulator="exact:1024")
# Other sizes of everything: bus, rows, columns, containers of 2 and 1, 1 and 4 bytes.
WIDE = ArrayConfig(
    rows=3, columns=10, lanes=2, a_formats=("int16",), b_formats=("int8",), accumulator="exact:2048", bus_width=128,
    buffer_depth=64, reads_outstanding=4,
)  # fmt: skip
LONG = ArrayConfig(
    rows=2, columns=3, lanes=1, a_formats=("int8",), b_formats=("int16",), accumulator="exact:512", buffer_depth=64
)
DOT = ArrayConfig(rows=1, columns=1, lanes=1, accumulator="exact:512", buffer_depth=64, reads_outstanding=2)
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]
# Rows that begin anywhere in a bus word, and pages that end within them.
UNALIGNED: Placement = {"pads": (3, 1), "offsets": (4090, 1021)}


def memory_of(config: ArrayConfig, **options: object) -> Memory:
    return Memory(bus_bytes=config.bus_bytes, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("across", LAYOUTS)
@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (FP8, (9, 10, 43)),  # edges on all sides
        (FP8, (4, 4, 128)),  # one tile, one block of whole words, and unaligned rows that need one word more
        (FP8, (18, 6, 17)),  # B resident
        (FP8, (22, 26, 99)),  # several groups, of which the last two share
        (FP8, (5, 6, 301)),  # K in chunks
        (WIDE, (7, 21, 70)),
        (WIDE, (4, 11, 290)),  # K in chunks, of which a bus word of A holds half as much as of B
        (LONG, (5, 7, 50)),
        (LONG, (3, 4, 90)),  # K in chunks, several blocks of narrow A in a chunk of wide B
        (DOT, (3, 2, 20)),
        (DOT, (1, 1, 1)),
    ],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else f"{value.rows}x{value.columns}",
)
def test_every_code_arrives(
    rng: np.random.Generator, config: ArrayConfig, shape: tuple[int, int, int], across: tuple[bool, bool]
) -> None:
    gemm = make_gemm(config, rng, shape, across=across, formats=(0, 0, 1), **UNALIGNED)
    memory = memory_of(config)
    record = Bench(config, memory).run([gemm])
    check(config, record, [gemm])
    assert memory.bursts == list(gemm.plan.bursts())
    assert record.write_stalls == 0


@pytest.mark.parametrize("across", LAYOUTS)
@pytest.mark.parametrize(
    ("config", "shape", "drain_clocks"), [(FP8, (10, 9, 40), 90), (FP8, (5, 4, 280), 0), (WIDE, (5, 12, 30), 60)]
)
def test_a_slow_bus_and_a_slow_drain_change_nothing(
    rng: np.random.Generator,
    config: ArrayConfig,
    shape: tuple[int, int, int],
    across: tuple[bool, bool],
    drain_clocks: int,
) -> None:
    gemms = [make_gemm(config, rng, shape, across=across, base=base, **UNALIGNED) for base in (1 << 20, 1 << 40)]
    memory = memory_of(config, latency=23, ar_stall=0.4, r_stall=0.3, rng=rng)
    record = Bench(config, memory, drain_clocks=drain_clocks, drain_stall=0.6).run(gemms)
    check(config, record, gemms)
    assert record.read_stalls > 0
    assert record.write_stalls > 0 or not drain_clocks


def test_queued_gemms_of_all_sizes_follow_each_other(rng: np.random.Generator) -> None:
    shapes = [(1, 1, 1), (9, 5, 3), (2, 2, 290), (4, 4, 1), (6, 3, 64), (1, 1, 2), (17, 3, 9), (3, 20, 15)]
    gemms = [
        make_gemm(
            FP8, rng, shape, across=LAYOUTS[number % 4], base=number << 32, formats=(number % 2, 0, 0), **UNALIGNED
        )
        for number, shape in enumerate(shapes)
    ]
    memory = memory_of(FP8)
    record = Bench(FP8, memory).run(gemms)
    check(FP8, record, gemms)
    assert memory.bursts == [burst for gemm in gemms for burst in gemm.plan.bursts()]


@pytest.mark.parametrize("across", LAYOUTS)
def test_the_array_never_waits_where_the_bus_is_fast_enough(
    rng: np.random.Generator, across: tuple[bool, bool]
) -> None:
    # A panel of 2 rows is read in a quarter of the steps it serves along K, in as many across K: reuse does the rest.
    config = FP8.replace(rows=2, columns=2, lanes=1)
    gemms = [
        make_gemm(config, rng, shape, across=across, base=base)
        for shape, base in (((10, 12, 120), 1 << 20), ((4, 4, 40), 1 << 32))
    ]
    assert [size for _, size in gemms[0].plan.groups()] == [3, 2]
    record = Bench(config, memory_of(config)).run(gemms)
    check(config, record, gemms)
    # Not a bubble from tile to tile, from group to group, or from one GEMM to the next. A panel across K that comes
    # just in time may be late by the few clocks between panels.
    bubbles = record.last_step - record.first_step + 1 - record.steps
    assert bubbles <= 12 * sum(across)


def test_reuse_reads_each_operand_once_where_one_of_them_fits(rng: np.random.Generator) -> None:
    for shape, across in (((16, 40, 32), (False, False)), ((40, 16, 32), (True, True))):
        gemm = make_gemm(FP8.replace(buffer_depth=128), rng, shape, across=across)
        m, n, k = shape
        beats = sum(burst.beats for burst in gemm.plan.bursts())
        assert beats * 8 == m * k * (2 if across[0] else 1) + n * k * (2 if across[1] else 1)


def test_a_single_tile_waits_for_its_loads_and_no_longer(rng: np.random.Generator) -> None:
    # 4 rows of 8 words of each operand: the first address 11 clocks after the descriptor, then a beat a clock, the
    # last of which is in its bank, and told of, 3 clocks later.
    gemm = make_gemm(FP8, rng, (4, 4, 64))
    for latency in (1, 20):
        record = Bench(FP8, memory_of(FP8, latency=latency)).run([gemm])
        last_beat = 11 + latency + 63
        assert record.first_step == last_beat + 3 + OperandBuffer.latency
        assert record.last_step == record.first_step + 63


def test_the_loader_follows_a_long_tile_by_blocks(rng: np.random.Generator) -> None:
    # 512 steps in 4 blocks: the array begins after the first block of both operands, not after all 512 beats.
    config = FP8.replace(buffer_depth=256)
    gemm = make_gemm(config, rng, (4, 4, 512))
    record = Bench(config, memory_of(config)).run([gemm])
    check(config, record, [gemm])
    assert record.first_step < 128 + 28
    assert record.last_step < 512 + 128 + 28


def drop_and_go_on(bench: Bench, gemms: list[Gemm], then: list[Gemm], *, flush_at: int | None = None) -> None:
    record = bench.run(gemms, flush_at=flush_at, then=then)
    check(bench.config, record, then)
    assert bench.memory.bursts == [burst for gemm in then for burst in gemm.plan.bursts()]


@pytest.mark.parametrize("flush_at", [1, 3, 6, 8, 9, 14, 40, 77, 131, 230])
def test_after_a_flush_the_next_gemm_is_right(rng: np.random.Generator, flush_at: int) -> None:
    dropped = [make_gemm(FP8, rng, (9, 10, 43), across=(False, True), base=base) for base in (1 << 20, 1 << 24)]
    then = [make_gemm(FP8, rng, (5, 6, 20), across=(True, False), base=1 << 33, **UNALIGNED)]
    memory = memory_of(FP8, latency=9, ar_stall=0.3, r_stall=0.3, rng=rng)
    bench = Bench(FP8, memory, drain_clocks=5)
    drop_and_go_on(bench, dropped, then, flush_at=flush_at)
    assert bench.record.errors == []


@pytest.mark.parametrize("beat", [0, 1, 17, 60, 200])
def test_an_error_on_any_beat_names_its_burst(rng: np.random.Generator, beat: int) -> None:
    dropped = [make_gemm(FP8, rng, (9, 10, 43), across=(False, True), base=base) for base in (1 << 20, 1 << 24)]
    then = [make_gemm(FP8, rng, (5, 6, 20), base=1 << 33)]
    memory = memory_of(FP8, latency=4, fail_beat=beat)
    bench = Bench(FP8, memory)
    drop_and_go_on(bench, dropped, then)
    assert bench.record.errors == [memory.failed]


def test_stalls_are_counted_by_cause(rng: np.random.Generator) -> None:
    gemm = make_gemm(FP8, rng, (8, 8, 16))
    starved = Bench(FP8, memory_of(FP8, latency=40)).run([gemm])
    blocked = Bench(FP8, memory_of(FP8), drain_clocks=50).run([gemm])
    for record in (starved, blocked):
        assert record.steps == 64
    assert starved.write_stalls == 0
    assert starved.read_stalls > 40
    assert blocked.write_stalls > 3 * (50 - 16)


def test_an_operand_is_a_or_b() -> None:
    with pytest.raises(ValueError, match=r"operand must be 0 \(A\) or 1 \(B\), not 2"):
        OperandBuffer(config=FP8, operand=2)
