# amaranth: UnusedElaboratable=no
"""Array and drain end to end: the golden model's codes at the right addresses, in time, under any back-pressure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfulp.hw.array import first_capture, minimum_tile_interval
from halfulp.hw.config import ArrayConfig
from halfulp.hw.drain import CAPTURE_LATENCY, Drain, acceptance_latency, position_latency, result_latency
from halfulp.hw.rounder import RoundingLane
from halfulp.numerics.formats import Format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding

from .array_bench import ArrayBench, Job, Trace

CONFIGS = {
    "2x3, one lane": ArrayConfig(rows=2, columns=3, lanes=1),
    "1x1": ArrayConfig(rows=1, columns=1, lanes=1, out_formats=("float8_e4m3fn", "int8")),
    "4x4, two lanes": ArrayConfig(rows=4, columns=4, lanes=2, b_formats=("float8_e5m2", "int8")),
    "5x6, two lanes": ArrayConfig(rows=5, columns=6, lanes=2),
    "3x8, eight lanes": ArrayConfig(rows=3, columns=8, lanes=8, roundings=("stochastic",)),
    "4x4, no random bits": ArrayConfig(rows=4, columns=4, lanes=4, roundings=("nearest_even", "toward_zero")),
    "int8": ArrayConfig(
        rows=3,
        columns=4,
        lanes=4,
        a_formats=("int8",),
        b_formats=("int8", "uint8"),
        out_formats=("int32", "int8", "float32"),
    ),
}
CONDITIONS: dict[str, dict[str, Any]] = {
    "full rate": {},
    "bubbles, tiles handed over late": {"bubbles": 0.3, "late": True},
    "stalls": {"bubbles": 0.1, "stalls": 0.5},
    "mostly stalled": {"stalls": 0.93},
}


def codes_of(fmt: Format, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Random codes, most of them numbers."""
    codes = rng.integers(0, 1 << fmt.bits, shape)
    special = ~np.isfinite(fmt.to_float64(codes)) & (rng.random(shape) < 0.9)
    return np.where(special, 1, codes)


def random_job(config: ArrayConfig, number: int, rng: np.random.Generator, size: int = 11) -> Job:
    """A job of up to `size` in each direction, in its own 64 KiB."""

    def one_of(formats: tuple[Format, ...]) -> Format:
        return formats[int(rng.integers(len(formats)))]

    kind = config.roundings[number % len(config.roundings)]
    bits = int(rng.integers(1, 17)) if kind.startswith("stochastic") else 0
    spec = GemmSpec(
        one_of(config.a_formats),
        one_of(config.b_formats),
        one_of(config.out_formats),
        rounding=Rounding(kind, bits),
        scale=int(rng.integers(-9, 9)),
        overflow=("ieee", "saturate")[number // 2 % 2],
    )
    m, n, k = (int(x) for x in rng.integers(1, size + 1, 3))
    a, b = codes_of(spec.a, (m, k), rng), codes_of(spec.b, (k, n), rng)
    seed = int(rng.integers(0, 1 << 64, dtype=np.uint64))
    return Job(spec, a, b, seed, address=0xFFFF_FFF0_0000 + (number << 16), padding=4 * int(rng.integers(9)))


def check(trace: Trace, *jobs: Job) -> None:
    """All of each job's C is there, nothing else is, and its flags are right."""
    expected: dict[int, int] = {}
    for job in jobs:
        expected |= job.expected()
    assert trace.codes.keys() == expected.keys()
    wrong = {hex(at): (trace.codes[at], code) for at, code in expected.items() if trace.codes[at] != code}
    assert not wrong, f"address: (code, expected): {wrong}"
    golden = [golden_gemm(job.a, job.b, job.spec, seed=job.seed) for job in jobs]
    assert trace.flags == [(result.invalid, result.overflow) for result in golden]


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_golden_codes(name: str, condition: str, rng: np.random.Generator) -> None:
    """GEMMs in a row, each of other formats, rounding, scale and seed: edges are masked, flags are each GEMM's own."""
    config = CONFIGS[name]
    size = 5 if config.rows * config.columns == 1 or condition == "mostly stalled" else 11
    jobs = [random_job(config, number, rng, size) for number in range(4)]
    bench = ArrayBench(config, rng, **CONDITIONS[condition])
    check(bench.run(*jobs), *jobs)


def large_job(config: ArrayConfig, k: int, rng: np.random.Generator, rounding: str = "stochastic:9") -> Job:
    """Three by two whole tiles."""
    spec = GemmSpec(config.a_formats[0], config.b_formats[0], config.out_formats[0], rounding=rounding)
    shapes = (3 * config.rows, k), (k, 2 * config.columns)
    return Job(spec, codes_of(spec.a, shapes[0], rng), codes_of(spec.b, shapes[1], rng), 1)


@pytest.mark.parametrize(("rows", "columns", "lanes"), [(2, 4, 4), (4, 4, 2), (3, 2, 1), (1, 1, 1), (8, 4, 4)])
def test_tiles_follow_each_other_without_a_gap(rows: int, columns: int, lanes: int, rng: np.random.Generator) -> None:
    """From the K on that the formulas give, whole tiles come every K clocks; below it, as often as they say."""
    config = ArrayConfig(rows=rows, columns=columns, lanes=lanes)
    bench = ArrayBench(config, rng)
    output_limit = rows * columns // lanes
    least = max(minimum_tile_interval(config, rows), output_limit)
    # Two tiles are between start and end at a time: with few results each, that is what limits the rate.
    started = -(-(position_latency(config) + result_latency(config) + output_limit) // 2)
    for k in (least, 40):
        job = large_job(config, k, rng)
        trace = bench.run(job)
        check(trace, job)
        intervals = np.diff(trace.fed_last)
        assert intervals.min() >= least
        if k >= started:
            assert list(intervals) == [k] * 5
            assert trace.captured == [clock + bench.array.latency for clock in trace.fed_last]
            first = CAPTURE_LATENCY + result_latency(config)
            assert [left[0] for left in trace.left] == [clock + first for clock in trace.captured]
        for left in trace.left:
            assert left == list(range(left[0], left[0] + output_limit))


@pytest.mark.parametrize("rows", [4, 9])
def test_last_steps_wait_for_the_results_before(rows: int, rng: np.random.Generator) -> None:
    """A last step is held back just until its sums cannot meet the rows of the tile before, for few rows and many."""
    config = ArrayConfig(rows=rows, columns=4, lanes=4)
    bench = ArrayBench(config, rng)
    job = large_job(config, 1, rng, rounding="nearest_even")
    trace = bench.run(job)
    check(trace, job)
    assert np.diff(trace.fed_last).min() == minimum_tile_interval(config, rows)


def test_results_wait_for_a_slow_writer(rng: np.random.Generator) -> None:
    """However many results are rounded and not yet taken: all places behind the lanes fill, and no result is lost."""
    config = ArrayConfig(rows=4, columns=4, lanes=1, roundings="nearest_even")
    job = large_job(config, 1, rng, rounding="nearest_even")
    trace = ArrayBench(config, rng, stalls=0.9).run(job)
    check(trace, job)


@pytest.mark.parametrize("compact", [False, True])
def test_a_tile_that_is_handed_over_late_leaves_later(compact: bool, rng: np.random.Generator) -> None:
    config = ArrayConfig(rows=2, columns=4, lanes=4, counters=not compact, queue_depth=1, compact=compact)
    spec = GemmSpec("float8_e4m3fn", "float8_e4m3fn", "float32")
    job = Job(spec, codes_of(spec.a, (2, 1), rng), codes_of(spec.b, (1, 4), rng))
    bench = ArrayBench(config, rng, late=True)
    trace = bench.run(job)
    check(trace, job)
    # Handed over in the very clock of its last step.
    assert trace.left[0][0] == trace.fed_last[0] + acceptance_latency(config) + result_latency(config)


@pytest.mark.parametrize("clocks", [3, 14, 30, 45, 60, 90])
def test_flush_drops_all_and_leaves_nothing_behind(clocks: int, rng: np.random.Generator) -> None:
    """Wherever a GEMM is broken off, the next one is right."""
    config = CONFIGS["4x4, two lanes"]
    jobs = [random_job(config, number, rng) for number in range(2)]
    bench = ArrayBench(config, rng, stalls=0.4)
    abandoned = (large_job(config, 7, rng), clocks)
    check(bench.run(*jobs, abandoned=abandoned), *jobs)


def test_positions_beyond_16_bits(rng: np.random.Generator) -> None:
    """Random bits belong to the position in C, whatever tile it lies in: here the last column of a wide C."""
    config = ArrayConfig(rows=1, columns=2, lanes=2)
    spec = GemmSpec("float8_e4m3fn", "float8_e4m3fn", "float8_e4m3fn", rounding="stochastic:16")
    job = Job(spec, codes_of(spec.a, (3, 2), rng), codes_of(spec.b, (2, 9), rng), seed=(1 << 64) - 1)
    check(ArrayBench(config, rng).run(job), job)


def test_latencies_of_the_default_core() -> None:
    config = ArrayConfig()
    assert first_capture(config) == 4
    assert position_latency(config) == 23
    assert position_latency(config.replace(roundings=("toward_zero",))) == 3
    assert RoundingLane.latency_of(config) == 11
    assert (CAPTURE_LATENCY, result_latency(config), acceptance_latency(config)) == (2, 15, 25)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match="config must be an ArrayConfig, not None"):
        Drain(config=None)  # type: ignore[arg-type]
