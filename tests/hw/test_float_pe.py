# amaranth: UnusedElaboratable=no
"""Float accumulators in the array: each step rounded, interleaved or not, equal to the golden chain in all codes."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.hw.array import SystolicArray, minimum_tile_interval
from halfulp.hw.config import MAX_INTERLEAVE, ArrayConfig
from halfulp.hw.float_adder import MAX_STAGES
from halfulp.hw.float_pe import FloatProcessingElement
from halfulp.hw.pe import result_fields
from halfulp.hw.processing_elements import processing_element
from halfulp.numerics.gemm import GemmSpec, golden_gemm

from .array_bench import ArrayBench, Job


def config(rows: int, columns: int, interleave: int, accumulator: str, **changes: object) -> ArrayConfig:
    return ArrayConfig(
        rows=rows,
        columns=columns,
        lanes=1,
        interleave=interleave,
        accumulator=accumulator,
        a_formats=("e4m3", "e5m2"),
        b_formats=("e5m2",),
        out_formats=("float32", "e4m3"),
        roundings=("nearest_even",),
    ).replace(**changes)


@pytest.mark.parametrize(
    "array",
    [
        config(2, 2, 1, "e6m5"),
        config(4, 2, 2, "e5m7:toward_zero:ieee"),
        config(3, 1, 3, "e8m10:ieee"),
        config(4, 1, 4, "e6m5-nosub", a_formats=("int8", "fixed2.4"), b_formats=("e2m1",)),
    ],
    ids=lambda array: f"{array.accumulator}, {array.interleave} in turn",
)
@pytest.mark.parametrize("bubbles", [0, 0.3])
def test_sums_are_those_of_the_golden_chain(array: ArrayConfig, bubbles: float, rng: np.random.Generator) -> None:
    """Tiles of all lengths follow each other, NaN and infinities among their operands and in the rows beyond C."""
    jobs = []
    for number, k in enumerate((1, 13, 6, 2)):
        a, b = array.a_formats[number % len(array.a_formats)], array.b_formats[0]
        spec = GemmSpec(a, b, array.out_formats[number % 2], array.accumulator, overflow="ieee")
        m, n = array.rows + number % 2, array.columns + 1
        jobs.append(
            Job(spec, rng.integers(0, 1 << a.bits, (m, k)), rng.integers(0, 1 << b.bits, (k, n)), address=number << 12)
        )
    bench = ArrayBench(array, rng, bubbles=bubbles, stalls=bubbles)
    trace = bench.run(*jobs)
    for job in jobs:
        expected = job.expected()
        assert {address: trace.codes[address] for address in expected} == expected
    flags = [golden_gemm(job.a, job.b, job.spec) for job in jobs]
    assert trace.flags == [(result.invalid, result.overflow) for result in flags]
    assert all(clock % array.interleave == 0 for clock in trace.fed_last)


def test_latencies_and_intervals_are_as_said(rng: np.random.Generator) -> None:
    array = config(4, 2, 2, "e6m5")
    assert processing_element(array) is FloatProcessingElement
    assert SystolicArray(config=array).first_capture == 1 + 3 + array.interleave
    assert minimum_tile_interval(array, rows=4) == 10
    bench = ArrayBench(array, rng)
    k = 6
    spec = GemmSpec("e4m3", "e5m2", "e4m3", array.accumulator)
    job = Job(spec, rng.integers(0, 100, (4, k)), rng.integers(0, 100, (k, 6)))
    trace = bench.run(job)
    assert np.diff(trace.fed_last).min() == max(minimum_tile_interval(array, 4), k * array.interleave)
    latency = SystolicArray(config=array).latency
    assert trace.captured == [clock + latency for clock in trace.fed_last]


def test_results_carry_what_can_be_raised() -> None:
    assert MAX_STAGES == MAX_INTERLEAVE
    integers = {"a_formats": ("int8",), "b_formats": ("int4",)}
    assert result_fields(config(2, 2, 1, "e6m5", **integers)) == ("negative", "magnitude", "overflow")
    made = ("negative", "magnitude", "plus_inf", "minus_inf", "overflow")
    assert result_fields(config(2, 2, 1, "e6m5:ieee", **integers)) == made
