# amaranth: UnusedElaboratable=no
"""Block-scaled operands in the array: exact inside a block, rounded once a block, equal to the golden chain."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from halfulp.hw.array import SystolicArray, first_capture, minimum_tile_interval
from halfulp.hw.block_memory import with_scales
from halfulp.hw.block_pe import ADDER_STAGES, BlockProcessingElement
from halfulp.hw.config import ArrayConfig
from halfulp.hw.float_adder import FloatAdder
from halfulp.hw.pe import result_fields
from halfulp.hw.processing_elements import processing_element
from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.block_formats import BlockFormat, Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.formats import get_format

from .array_bench import ArrayBench, Job


def config(a: Any, b: Any, accumulator: str, **changes: Any) -> ArrayConfig:
    return ArrayConfig(
        rows=2,
        columns=2,
        lanes=1,
        accumulator=accumulator,
        a_formats=a,
        b_formats=b,
        out_formats=("float32",),
        roundings=("nearest_even",),
    ).replace(**changes)


def blocks(rng: np.random.Generator, fmt: BlockFormat, shape: tuple[int, int], axis: int, scales: str) -> Blocks:
    """Any codes, NaN and infinities among them; scales near 1, or anywhere, NaN and the ends of their range included.

    Where cancelling, odd elements are those before them with the other sign, but for a few.
    """
    every = fmt.element.valid_codes
    codes = np.moveaxis(rng.choice(every, shape), axis, 0).copy()
    if scales == "cancelling":
        length = codes.shape[0] // 2 * 2
        sign = codes.dtype.type(1 << (fmt.element.bits - 1))
        codes[1:length:2] = codes[:length:2] ^ np.where(rng.random(codes[:length:2].shape) < 0.9, sign, 1)
    codes = np.moveaxis(codes, 0, axis)
    counted = tuple(fmt.block_count(n) if i == axis else n for i, n in enumerate(shape))
    largest = 127 if fmt.scale == "e4m3" else 255
    if scales == "anywhere":
        ends = rng.choice(np.array([0, 1, largest - 1, largest], np.uint8), counted)
        drawn = np.where(rng.random(counted) < 0.3, ends, rng.integers(0, largest + 1, counted))
    else:
        drawn = rng.integers(*((40, 80) if fmt.scale == "e4m3" else (122, 133)), counted)
    return Blocks(codes, drawn.astype(np.uint8))


E5M2_IN_E4M3 = BlockFormat("e5m2 in blocks with e4m3 scales", get_format("e5m2"), 4, "e4m3")
SHORT = BlockFormat("e2m3 in blocks of 1", get_format("e2m3"), 1)


@pytest.mark.parametrize(
    "array",
    [
        config(("mxfp8_e4m3", "mxfp8_e5m2"), "mxfp8_e5m2", "e8m23"),
        config("mxfp4_e2m1", "mxint8", "e6m5:ieee"),
        config("mxfp6_e3m2", "mxfp6_e2m3", "e5m10:toward_zero"),
        config("nvfp4", "nvfp4", "e8m23"),
        config("bfp4", "bfp12", "e8m7-nosub"),
        config(E5M2_IN_E4M3, E5M2_IN_E4M3, "e8m3"),
        config(SHORT, SHORT, "e4m3-fn:ieee"),
    ],
    ids=lambda array: f"{array.operands[0][0]} × {array.operands[1][0]}, {array.accumulator}",
)
def test_sums_are_those_of_the_golden_model(array: ArrayConfig, rng: np.random.Generator) -> None:
    """Tiles of whole and of short last blocks, of one element too; cancelling; NaN scales; some with bubbles."""
    bubbles = 0.3 if "ieee" in str(array.accumulator) else 0
    jobs, expected, flags = [], {}, []
    kinds = itertools.cycle(("near", "anywhere", "cancelling"))
    block = array.block
    for number, k in enumerate((2 * block + 1, 1, block + 2, block, 3)):
        a = array.operands[0][number % len(array.a_formats)]
        spec = BlockGemmSpec(a, array.operands[1][0], accumulator=array.accumulator, overflow="ieee")
        kind = next(kinds)
        m = 3 if k == 3 else 2
        left, right = blocks(rng, spec.a, (m, k), 1, kind), blocks(rng, spec.b, (k, 2), 0, kind)
        stored = with_scales(left, block, axis=1), with_scales(right, block, axis=0)
        job = Job(spec.elements, *stored, address=number << 12)
        golden = golden_block_gemm(left, right, spec)
        for (i, j), code in np.ndenumerate(golden.codes):
            expected[job.address + i * job.stride + 4 * j] = int(code)
        flags.append((golden.invalid, golden.overflow))
        jobs.append(job)
    trace = ArrayBench(array, rng, bubbles=bubbles, stalls=bubbles).run(*jobs)
    assert trace.codes == expected
    assert trace.flags == flags


def test_latencies_and_intervals_are_as_said(rng: np.random.Generator) -> None:
    for name in ("mxint8", "nvfp4"):
        array = config(name, name, "e8m23")
        assert processing_element(array) is BlockProcessingElement
        assert first_capture(array) == 1 + BlockProcessingElement.latency_of(array)
        fmt = get_block_format(name)
        spec = BlockGemmSpec(name, name)
        left, right = blocks(rng, fmt, (6, 1), 1, "near"), blocks(rng, fmt, (1, 2), 0, "near")
        job = Job(spec.elements, with_scales(left, fmt.block, axis=1), with_scales(right, fmt.block, axis=0))
        trace = ArrayBench(array, rng).run(job)
        assert trace.captured == [clock + SystolicArray(config=array).latency for clock in trace.fed_last]
        assert np.diff(trace.fed_last).min() == minimum_tile_interval(array, 2)


def test_infinity_times_a_scale_of_zero_is_nan(rng: np.random.Generator) -> None:
    """Whichever side the scale is of; times any other scale it stays infinite."""
    array = config(E5M2_IN_E4M3, E5M2_IN_E4M3, "e8m3")
    spec = BlockGemmSpec(E5M2_IN_E4M3, E5M2_IN_E4M3, accumulator="e8m3", overflow="ieee")
    inf, one = 0x7C, 0x3C
    left = Blocks(np.array([[inf, one, one, one]] * 2, np.uint8), np.array([[0x38], [0]], np.uint8))
    right = Blocks(np.full((4, 2), one, np.uint8), np.array([[0x38, 0]], np.uint8))
    job = Job(spec.elements, with_scales(left, 4, axis=1), with_scales(right, 4, axis=0))
    codes = golden_block_gemm(left, right, spec).codes
    values = np.isnan(codes.view(np.float32))
    assert values.tolist() == [[False, True], [True, True]]
    trace = ArrayBench(array, rng).run(job)
    assert [
        trace.codes[job.address + i * job.stride + 4 * j] for i in range(2) for j in range(2)
    ] == codes.ravel().tolist()


def test_a_block_without_elements_harms_no_other(rng: np.random.Generator) -> None:
    """K may end with a scale, in a descriptor that no host writes: the next tile's results are right all the same."""
    array = config("mxint8", "mxint8", "e6m5")
    spec = BlockGemmSpec("mxint8", "mxint8", accumulator="e6m5")
    left, right = blocks(rng, spec.a, (2, 33), 1, "near"), blocks(rng, spec.b, (33, 2), 0, "near")
    stored = with_scales(left, 32, axis=1), with_scales(right, 32, axis=0)
    jobs = [Job(spec.elements, a, b, address=number << 12) for number, (a, b) in enumerate(
        ((stored[0][:, :1], stored[1][:1]), stored, (stored[0][:, :34], stored[1][:34]), stored)
    )]  # fmt: skip
    trace = ArrayBench(array, rng).run(*jobs)
    golden = golden_block_gemm(left, right, spec).codes
    for job in (jobs[1], jobs[3]):
        found = [[trace.codes[job.address + i * job.stride + 4 * j] for j in range(2)] for i in range(2)]
        assert np.array_equal(found, golden)


def test_the_adder_has_the_clocks_of_the_shortest_block() -> None:
    """A scale and one element: as many clocks as the adder's step takes, which so needs no stall."""
    assert ADDER_STAGES == config("mxint8", "mxint8", "e8m23").steps(1)
    array = config("mxint8", "mxint8", "e6m5")
    assert isinstance(array.accumulator, FloatAccumulator)
    pe = BlockProcessingElement(config=array)
    assert result_fields(array) == ("negative", "magnitude", "nan", "overflow")
    assert (
        pe.latency
        == 5
        + FloatAdder(
            accumulator=array.accumulator,
            significand_bits=array.block_sum_bits - 1,
            min_exponent=0,
            max_exponent=508,
            leading_zeros=array.block_sum_bits - 2,
            stages=ADDER_STAGES,
        ).latency
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b_formats": "e4m3"}, "all block-scaled with one block length and kind of scale, not mxfp8_e4m3, float8"),
        ({"b_formats": "nvfp4"}, "one block length and kind of scale, not mxfp8_e4m3, nvfp4"),
        ({"out_formats": "nvfp4"}, "out_formats must be plain formats, not nvfp4"),
        ({"block": 16}, "not mxfp8_e4m3 and block = 16, block_scale = e8m0"),
        ({"accumulator": "exact:64"}, "blocks are added in a float accumulator, not in exact:64"),
        ({"interleave": 2}, "interleave must be 1 with block-scaled operands, not 2"),
        ({"a_formats": "e4m3", "b_formats": "e4m3", "block": 5000}, "block must be 1 to 4096 elements, or 0 for plain"),
        ({"a_formats": "e4m3", "b_formats": "posit8_1", "block": 8}, "a float or fixed-point format, not posit8_1"),
        ({"a_formats": "e4m3", "b_formats": "e4m3", "block_scale": "e4m3"}, "block_scale e4m3 is of block-scaled"),
        (
            {"a_formats": "e4m3", "b_formats": "e4m3", "block": 8, "block_scale": "e5m2"},
            "block_scale must be e8m0 or e4m3, not 'e5m2'",
        ),
        (
            {"a_formats": "e8m3", "b_formats": "e8m3", "block": 8},
            "the exact sum of a block of 8 products of e8m3 × e8m3 needs 518 bits",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"a_formats": "mxfp8_e4m3", "b_formats": "mxfp8_e4m3", "accumulator": "e8m23", **arguments}
    with pytest.raises(ValueError, match=message):
        ArrayConfig(**given)


def test_configurations_are_read_back() -> None:
    array = config("nvfp4", "nvfp4", "e8m23")
    assert (array.a_formats, array.block, array.block_scale) == ((get_format("e2m1"),), 16, "e4m3")
    assert ArrayConfig.from_dict(array.to_dict()) == array
    assert [fmt.name for side in array.operands for fmt in side] == ["nvfp4", "nvfp4"]
    assert (array.steps(1), array.steps(16), array.steps(17)) == (2, 17, 19)
    assert config("bfp9", "bfp12", "e8m23").operands[0][0].name == "bfp9"


@pytest.mark.parametrize("transposed", [False, True])
def test_scales_lie_in_front_of_their_elements_in_the_codes_own_layout(transposed: bool) -> None:
    codes = np.arange(10, dtype=np.uint8).reshape(2, 5)
    scales = np.array([[101, 102, 103], [111, 112, 113]], np.uint8)
    given = Blocks(codes.T.copy().T if transposed else codes, scales)
    whole = with_scales(given, 2, axis=1)
    assert whole.tolist() == [[101, 0, 1, 102, 2, 3, 103, 4], [111, 5, 6, 112, 7, 8, 113, 9]]
    assert (whole.strides[1] > whole.strides[0]) is transposed
    across = with_scales(Blocks(codes.T, scales.T), 2, axis=0)
    assert across.T.tolist() == whole.tolist()
