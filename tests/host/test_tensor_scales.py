"""Sums that a core gives as float32, scaled and rounded by the host, are the golden result, in all codes and flags."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.host.tensor_scales import core_spec, round_core_sums
from halfulp.numerics.block_formats import Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm

ACCUMULATORS = ("e8m23", "e8m23:ieee", "e8m23:stochastic:24", "e6m5:stochastic:13", "e5m10-finite", "e8m3-ieee-nosub")


def operands(rng: np.random.Generator, scales: tuple[float, float]) -> tuple[Blocks, Blocks]:
    """Any codes and scales of nvfp4, a NaN in one row."""
    fmt = get_block_format("nvfp4")
    codes = [rng.integers(0, 16, shape, np.uint8) for shape in ((7, 50), (50, 9))]
    found = [rng.integers(0, 127, shape, np.uint8) for shape in ((7, fmt.block_count(50)), (fmt.block_count(50), 9))]
    found[0][3, 1] = 127
    return Blocks(codes[0], found[0], scales[0]), Blocks(codes[1], found[1], scales[1])


def without_tensor_scale(a: Blocks, b: Blocks) -> tuple[Blocks, Blocks]:
    """What a core is given."""
    return a._replace(tensor_scale=1.0), b._replace(tensor_scale=1.0)


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_host_rounding_is_golden(accumulator, rng):
    for out in ("float32", "bfloat16", "e4m3", "int8", "int32"):
        first, second = (float(x) for x in np.exp2(rng.uniform(-60, 60, 2)).astype(np.float32))
        scales = first, second
        shift = -int(np.log2(scales[0]) + np.log2(scales[1])) if out != "float32" else 3
        spec = BlockGemmSpec("nvfp4", "nvfp4", out, accumulator, "stochastic:16", shift, "ieee")
        a, b = operands(rng, scales)
        asked, is_rounded_here = core_spec(spec, scales)
        assert is_rounded_here
        core = golden_block_gemm(*without_tensor_scale(a, b), asked, seed=11)
        got = round_core_sums(core.codes.astype(np.uint32), spec, scales, seed=11, overflow=core.overflow)
        want = golden_block_gemm(a, b, spec, seed=11)
        np.testing.assert_array_equal(got.codes, want.codes)
        assert got[1:] == want[1:]


def test_a_power_of_two_is_the_cores_own(rng):
    for scales in ((0.25, 8.0), (1.0, 1.0), (2.0**-126, 2.0**100)):
        spec = BlockGemmSpec("nvfp4", "nvfp4", "bfloat16", "e6m5:stochastic:13", "stochastic:8", 5)
        a, b = operands(rng, scales)
        asked, is_rounded_here = core_spec(spec, scales)
        assert not is_rounded_here
        got = golden_block_gemm(*without_tensor_scale(a, b), asked, seed=2)
        want = golden_block_gemm(a, b, spec, seed=2)
        np.testing.assert_array_equal(got.codes, want.codes)
        assert got[1:] == want[1:]


def test_what_float32_does_not_hold_is_refused():
    spec = BlockGemmSpec("nvfp4", "nvfp4", "float32", "e8m7-finite")
    with pytest.raises(ValueError, match=r"0\.1 and 0\.3 are no power of two .* not hold those of e8m7-finite"):
        core_spec(spec, (0.1, 0.3))
    assert core_spec(spec, (0.5, 2.0)) == (spec, False)
    with pytest.raises(TypeError, match="float32 codes in uint32, not uint8"):
        round_core_sums(np.zeros((2, 2), np.uint8), spec, (1.0, 1.0))  # pyright: ignore[reportArgumentType]
