"""The two-level GEMM of block-scaled operands against rational arithmetic, one rounding a block."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from halfulp.numerics.block_formats import BlockFormat, Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.formats import FloatFormat, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.random_bits import output_words

PAIRS = [
    ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("mxfp8_e5m2", "mxfp8_e4m3"),
    ("mxfp8_e5m2", "mxfp8_e5m2"),
    ("mxfp6_e3m2", "mxfp6_e2m3"),
    ("mxfp4_e2m1", "mxint8"),
    ("nvfp4", "nvfp4"),
    ("bfp4", "nvfp4"),
]
ACCUMULATORS = ("e8m23", "e8m23:ieee", "e6m5:stochastic:13", "e5m10:toward_zero", "e8m23:stochastic:24")


def random_blocks(rng: np.random.Generator, fmt: BlockFormat, shape: tuple[int, int], axis: int, far: bool) -> Blocks:
    """Any codes, NaN and infinities rarely; scales near 1, or anywhere with a NaN now and then."""
    codes = rng.integers(0, 1 << fmt.element.bits, shape).astype(fmt.element.code_dtype)
    if isinstance(fmt.element, FloatFormat):
        odd = (codes & (fmt.element.sign_code - 1)) > fmt.element.max_code
        codes = np.where(odd & (rng.random(shape) < 0.97), 1, codes).astype(fmt.element.code_dtype)
    scales = tuple(fmt.block_count(n) if i == axis else n for i, n in enumerate(shape))
    if fmt.scale == "e4m3":
        return Blocks(codes, rng.integers(0, 127, scales, np.uint8), float(np.float32(rng.uniform(0.1, 3))))
    low, high = (0, 256) if far else (122, 133)
    return Blocks(codes, rng.integers(low, high, scales).astype(np.uint8))


def values(fmt: BlockFormat, blocks: Blocks, reference) -> list[list]:
    """The numbers of a matrix with blocks along axis 1, the tensor's scale left out."""
    rows = []
    for codes, scales in zip(blocks.codes, blocks.scales, strict=True):
        row = []
        for k, code in enumerate(codes):
            scale = int(scales[k // fmt.block])
            if fmt.scale == "e4m3":
                of_block = Fraction(0) if scale == 0 else reference.decode(get_format("e4m3"), scale)
            else:
                of_block = "nan" if scale == 255 else Fraction(2) ** (scale - 127)
            row.append(reference.product(reference.decode(fmt.element, int(code)), of_block))
        rows.append(row)
    return rows


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize(("name_a", "name_b"), PAIRS)
def test_golden_is_the_reference(name_a, name_b, far, rng, reference):
    block = get_block_format(name_a).block
    fmt_a, fmt_b = get_block_format(name_a), get_block_format(name_b)
    if fmt_b.block != block:
        fmt_b = BlockFormat(name_b, fmt_b.element, block, fmt_b.scale)
    for text in ACCUMULATORS:
        spec = BlockGemmSpec(fmt_a, fmt_b, rng.choice(["float32", "e4m3", "int8"]), text, "stochastic:8", 3)
        k = 3 * block + 5
        a = random_blocks(rng, fmt_a, (2, k), 1, far)
        b = random_blocks(rng, fmt_b, (k, 3), 0, far)
        seed = int(rng.integers(1 << 60))
        got = golden_block_gemm(a, b, spec, seed=seed)
        left = values(fmt_a, a, reference)
        right = values(fmt_b, Blocks(b.codes.T, b.scales.T), reference)
        accumulator = spec.accumulator
        steps = reference.step_words(seed, 2, 3, 4, accumulator.rounding)
        words = output_words(seed, np.arange(2), np.arange(3), 8)
        invalid = overflow = False
        for i in range(2):
            for j in range(3):
                cuts = [np.s_[n * block : (n + 1) * block] for n in range(4)]
                sums = [reference.dot(left[i][cut], right[j][cut]) for cut in cuts]
                total, over = reference.float_chain(sums, [Fraction(1)] * 4, accumulator, steps[i, j].tolist())
                if isinstance(total, Fraction):
                    total *= Fraction(a.tensor_scale) * Fraction(b.tensor_scale) * 8
                code, lost, beyond = reference.round(spec.out, total, spec.rounding, int(words[i, j]))
                if reference.decode(spec.out, code) == "-0":
                    code = 0
                assert int(got.codes[i, j]) == code, f"{spec}, seed {seed}"
                invalid, overflow = invalid or lost, overflow or over or beyond
        assert (got.invalid, got.overflow) == (invalid, overflow)


def test_cancellation_brings_up_the_last_bit_of_a_wide_block():
    """A block's sum of 70 bits less an accumulator that holds its top: what is left is one least product."""
    fmt = get_block_format("mxfp8_e5m2")
    top, one = 0x7B, 0x01  # 57344 and 2**-16
    a = Blocks(np.zeros((1, 64), np.uint8), np.full((1, 2), 127, np.uint8))
    b = Blocks(np.zeros((64, 1), np.uint8), np.full((2, 1), 127, np.uint8))
    a.codes[0, 0], b.codes[0, 0] = top, top
    a.codes[0, 32], b.codes[32, 0] = top | 0x80, top
    a.codes[0, 33], b.codes[33, 0] = one, one
    result = golden_block_gemm(a, b, BlockGemmSpec(fmt, fmt))
    assert result.codes.view(np.float32)[0, 0] == 2.0**-32


def test_one_block_with_scales_of_one_is_the_exact_gemm(rng):
    codes_a, codes_b = rng.integers(0, 64, (5, 32), np.uint8), rng.integers(0, 64, (32, 6), np.uint8)
    ones = np.full((5, 1), 127, np.uint8), np.full((1, 6), 127, np.uint8)
    blocks = golden_block_gemm(
        Blocks(codes_a, ones[0]), Blocks(codes_b, ones[1]), BlockGemmSpec("mxfp6_e3m2", "mxfp6_e2m3")
    )
    assert (blocks.codes == golden_gemm(codes_a, codes_b, GemmSpec("e3m2", "e2m3")).codes).all()


def test_a_wrong_specification_is_refused():
    with pytest.raises(ValueError, match="of one length: mxint8 has 32, nvfp4 16"):
        BlockGemmSpec("mxint8", "nvfp4")
    with pytest.raises(ValueError, match="added in a float accumulator, not in exact"):
        BlockGemmSpec("mxint8", "mxint8", accumulator="exact")
    fmt = get_block_format("mxint8")
    with pytest.raises(ValueError, match="differ in K"):
        golden_block_gemm(
            fmt.quantise(np.ones((2, 32))), fmt.quantise(np.ones((33, 2)), axis=0), BlockGemmSpec(fmt, fmt)
        )
