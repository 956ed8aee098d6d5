# amaranth: UnusedElaboratable=no
"""Floats shifted in multipliers: GEMMs as without, in the same clocks. All pairs of codes are in test_pe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.operand_shift import shifted_layout
from halfulp.hw.packing import FineShifts
from halfulp.hw.processing_elements import processing_element
from halfulp.hw.shifting_pe import ShiftingProcessingElement
from halfulp.numerics.gemm import GemmSpec, golden_gemm

from .array_bench import ArrayBench, Job

SIDES = [
    (("e4m3", "e5m2"), ("e4m3",)),
    (("e4m3",), ("e4m3", "int8")),
    (("e5m2",), ("e5m2",)),
    (("e2m1", "int8"), ("e3m2",)),
    (("posit8_1",), ("log8",)),
]


def config(a: tuple[str, ...], b: tuple[str, ...], **changes: Any) -> ArrayConfig:
    given: dict[str, Any] = {"rows": 3, "columns": 2, "lanes": 1, "accumulator": "exact:64"}
    given |= {"out_formats": ("float32", "e5m2"), "shift_in_multipliers": True}
    return ArrayConfig(a_formats=a, b_formats=b, **given | changes)


@pytest.mark.parametrize(("a", "b"), SIDES, ids=str)
def test_gemms_are_the_golden_models(a: tuple[str, ...], b: tuple[str, ...], rng: np.random.Generator) -> None:
    """NaN and infinities too; and no clock more than without."""
    shifting = config(a, b)
    assert processing_element(shifting) is ShiftingProcessingElement
    jobs = []
    for number, (m, n, k) in enumerate([(3, 2, 1), (4, 3, 17), (6, 4, 30), (7, 1, 64)]):
        fa, fb = shifting.a_formats[number % len(a)], shifting.b_formats[number % len(b)]
        codes = [rng.choice(f.valid_codes, shape).astype(f.code_dtype) for f, shape in ((fa, (m, k)), (fb, (k, n)))]
        if number == 2:
            # Without the few that make NaN of most sums.
            codes = [np.where(np.isfinite(f.to_float64(each)), each, 1).astype(f.code_dtype)
                     for f, each in zip((fa, fb), codes, strict=True)]  # fmt: skip
        spec = GemmSpec(fa, fb, ("float32", "e5m2")[number % 2], shifting.accumulator)
        jobs.append(Job(spec, codes[0], codes[1], address=0x1000 * (number + 1)))
    clocks = []
    for array in (shifting, shifting.replace(shift_in_multipliers=False)):
        trace = ArrayBench(array, np.random.default_rng(5), bubbles=0.1, stalls=0.05).run(*jobs)
        for job, flags in zip(jobs, trace.flags, strict=True):
            for address, code in job.expected().items():
                assert trace.codes[address] == code, f"{job.spec}: C at {address - job.address:#x}"
            golden = golden_gemm(job.a, job.b, job.spec)
            assert flags == (golden.invalid, golden.overflow), job.spec
        clocks.append((trace.captured, trace.left))
    assert clocks[0] == clocks[1]


def test_factors_fill_a_multiplier_and_no_more() -> None:
    """e5m2 is shifted by up to 15 of its 29 places, in 20 bits; e4m3 by 7 of 14, in 12."""
    shifting = config(("e4m3", "e5m2"), ("e4m3",))
    sides = shifting.a_formats, shifting.b_formats
    assert FineShifts.of(*sides) == (4, 3)
    widths = [shifted_layout(formats, places) for formats, places in zip(sides, FineShifts.of(*sides), strict=True)]
    assert [(layout["significand"].width, layout["shift"].width) for layout in widths] == [(20, 1), (12, 1)]


@pytest.mark.parametrize(
    ("a", "b", "changes", "rule"),
    [
        (("int8",), ("e4m3",), {}, "exponents and significands of at most 23 bits, not int8"),
        (("e4m3",), ("int8",), {}, "exponents and significands of at most 16 bits, not int8"),
        (("e4m3",), ("e2m16",), {}, "exponents and significands of at most 16 bits, not e2m16"),
        (("e4m3",), ("e4m3",), {"accumulator": "e6m5"}, "shift_in_multipliers is for exact accumulators, not e6m5"),
        (("int8",), ("int8",), {"rows": 4, "pack_multipliers": True}, "significands of at most 23 bits, not int8"),
    ],
)
def test_what_cannot_be_shifted_so_is_refused(
    a: tuple[str, ...], b: tuple[str, ...], changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        config(a, b, **changes)
