# amaranth: UnusedElaboratable=no
"""Windows of fixed point in hardware: array and drain give the golden model's codes and flags."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.fixed_pe import FixedProcessingElement
from halfulp.hw.processing_elements import processing_element
from halfulp.numerics.formats import Format
from halfulp.numerics.gemm import GemmSpec, golden_gemm

from .array_bench import ArrayBench, Job

CONFIGS = {
    "fp8, narrow": (("float8_e4m3fn", "float8_e5m2"), ("float8_e4m3fn",), "fixed:14:-6"),
    "fp8, wide": (("float8_e5m2",), ("float8_e5m2",), "fixed:70:-32"),
    "above all products": (("float8_e4m3fn",), ("float4_e2m1fn",), "fixed:8:14"),
    "below all products": (("int8",), ("fixed4.4",), "fixed:14:-9"),
    "integers": (("int8", "fixed4.4"), ("int4", "ternary"), "fixed:7:-1"),
    "bfloat16": (("bfloat16", "int8"), ("bfloat16",), "fixed:24:-12"),
    "tables": (("posit8_1", "log8"), ("float8_e5m2", "binary"), "fixed:128:-60"),
    "four bytes": (("float32",), ("tf32", "int4"), "fixed:40:-20"),
    "two bits": (("float8_e4m3fn",), ("float8_e4m3fn",), "fixed:2:0"),
}


def operands(fmt: Format, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Codes of any kind, or such as have values around 1, or only those of 0."""
    if fmt.bits <= 16:
        codes = rng.choice(fmt.valid_codes, shape)
        values = fmt.to_float64(fmt.valid_codes)
        near = fmt.valid_codes[(np.abs(values) <= 4) & (np.abs(values) >= 0.25)]
    else:
        codes = rng.integers(0, 1 << fmt.bits, shape)
        near = fmt.encode(fmt.decode(codes)._replace(exponent=np.full(shape, -fmt.significand_bits))).codes.reshape(-1)
    kind = rng.integers(8, size=shape) if rng.random() < 0.3 else rng.integers(1, 8, size=shape)
    chosen = np.where(kind == 0, codes, rng.choice(near, shape))
    return np.where(kind == 1, codes if fmt.name == "binary" else 0, chosen).astype(fmt.code_dtype)


def jobs_for(config: ArrayConfig, count: int, rng: np.random.Generator) -> list[Job]:
    jobs = []
    for number in range(count):
        a, b = (rng.choice(np.array(formats, object)) for formats in (config.a_formats, config.b_formats))
        m, n, k = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.choice([1, 2, 9, 24]))
        rounding = ["nearest_even", "toward_zero", "stochastic:5", "stochastic_floor:9"][rng.integers(4)]
        out = config.out_formats[number % len(config.out_formats)]
        scale = int(rng.integers(-3, 4))
        spec = GemmSpec(a, b, out, config.accumulator, rounding, scale, ("saturate", "ieee")[rng.integers(2)])
        seed = int(rng.integers(1 << 62))
        jobs.append(Job(spec, operands(a, (m, k), rng), operands(b, (k, n), rng), seed, 0x1000 * (number + 1)))
    return jobs


@pytest.mark.parametrize("name", CONFIGS)
def test_gemms_are_the_golden_models(name: str, rng: np.random.Generator) -> None:
    a, b, accumulator = CONFIGS[name]
    config = ArrayConfig(
        rows=2, columns=2, lanes=1, a_formats=a, b_formats=b, accumulator=accumulator,
        out_formats=("float32", "float8_e4m3fn", "int16"),
    )  # fmt: skip
    assert processing_element(config) is FixedProcessingElement
    jobs = jobs_for(config, 9, rng)
    trace = ArrayBench(config, rng, bubbles=0.1).run(*jobs)
    raised = []
    for job, flags in zip(jobs, trace.flags, strict=True):
        for address, code in job.expected().items():
            assert trace.codes[address] == code, f"{job.spec}: C at {address - job.address:#x}"
        golden = golden_gemm(job.a, job.b, job.spec, seed=job.seed)
        assert flags == (golden.invalid, golden.overflow), job.spec
        raised.append(golden.overflow)
    assert any(raised) or name in ("fp8, wide", "tables", "above all products")


def test_overflow_is_of_steps_before_a_nan_and_of_valid_outputs() -> None:
    """240 + 240 saturates 9 bits; a NaN hides it only where it comes first; so does a column beyond C."""
    config = ArrayConfig(
        rows=2, columns=2, lanes=1, a_formats="e4m3", b_formats="e4m3", out_formats="e4m3", accumulator="fixed:9:0"
    )
    spec = GemmSpec("e4m3", "e4m3", "e4m3", "fixed:9:0", scale=-4)
    big, one, nan = 0x77, 0x38, 0x7F
    rows = {(big, big, nan): True, (nan, big, big): False, (big, nan, big): False, (big, one, 0): False}
    rng = np.random.default_rng(1)
    jobs = [
        Job(spec, np.array([row], np.uint8), np.full((3, 1), one, np.uint8), 0, 0x1000 * n)
        for n, row in enumerate(rows, 1)
    ]
    trace = ArrayBench(config, rng).run(*jobs)
    assert [overflow for _, overflow in trace.flags] == list(rows.values())
    for job in jobs:
        assert golden_gemm(job.a, job.b, spec).overflow == rows[tuple(job.a[0].tolist())]


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="a fixed accumulator has 2 to 128 bits, not 129"):
        ArrayConfig(accumulator="fixed:129:0")
    with pytest.raises(ValueError, match="interleave must be 1 with accumulator fixed:24:0"):
        ArrayConfig(accumulator="fixed:24:0", interleave=2)
    with pytest.raises(ValueError, match="integer operands of a core have at most 16 bits, not 32 as int32"):
        ArrayConfig(a_formats="int32")
