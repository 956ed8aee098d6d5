"""The compiled two-level GEMM is the golden one, in all codes and flags; its range tests hold at their edges."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from halfulp.numerics.block_formats import BlockFormat, Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.formats import FloatFormat, get_format
from halfulp.sim import blocks as blocks_module
from halfulp.sim.blocks import emulate_block_gemm, proven_parts, scale_odd
from halfulp.sim.operands import Operand
from halfulp.sim.rounding_code import FLOAT32, FLOAT64

PAIRS = [
    ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("mxfp8_e5m2", "mxfp8_e4m3"),
    ("mxfp8_e5m2", "mxfp8_e5m2"),
    ("mxfp6_e3m2", "mxfp6_e2m3"),
    ("mxfp4_e2m1", "mxint8"),
    ("nvfp4", "nvfp4"),
    ("bfp4", "nvfp4"),
    ("bfp9", "bfp16"),
]
ACCUMULATORS = (
    "e8m23",
    "e8m23:ieee",
    "e8m23:stochastic:24",
    "e6m5:stochastic:13",
    "e6m5:stochastic_floor:7:ieee",
    "e5m10:toward_zero",
    "e4m3-fn:ieee",
    "e5m7-ieee-nosub",
)


@pytest.fixture
def no_golden(monkeypatch):
    """The golden model must not be what answers."""

    def never(*_, **__):
        raise AssertionError("the golden model was asked")

    monkeypatch.setattr(blocks_module, "golden_block_gemm", never)


def random_blocks(rng: np.random.Generator, fmt: BlockFormat, shape: tuple[int, int], axis: int, scales: str) -> Blocks:
    """Any codes; scales near 1, anywhere with a NaN now and then, or at both ends of their range."""
    codes = rng.integers(0, 1 << fmt.element.bits, shape).astype(fmt.element.code_dtype)
    if isinstance(fmt.element, FloatFormat):
        odd = (codes & (fmt.element.sign_code - 1)) > fmt.element.max_code
        codes = np.where(odd, 1, codes).astype(fmt.element.code_dtype)
    counted = tuple(fmt.block_count(n) if i == axis else n for i, n in enumerate(shape))
    if fmt.scale == "e4m3":
        high = 128 if scales == "far" else 127
        return Blocks(codes, rng.integers(0, high, counted, np.uint8), float(np.float32(rng.uniform(0.1, 3))))
    if scales == "ends":
        return Blocks(codes, rng.choice(np.array([0, 1, 127, 253, 254], np.uint8), counted))
    low, high = (0, 256) if scales == "far" else (122, 133)
    return Blocks(codes, rng.integers(low, high, counted).astype(np.uint8))


def with_specials(rng: np.random.Generator, fmt: BlockFormat, blocks: Blocks) -> Blocks:
    """A few elements that are NaN and infinities, where the format has them."""
    codes = blocks.codes.copy()
    assert isinstance(fmt.element, FloatFormat)
    codes.flat[rng.integers(0, codes.size, 2)] = rng.integers(fmt.element.max_code, fmt.element.sign_code, 2)
    return blocks._replace(codes=codes)


@pytest.mark.parametrize("scales", ["near", "far", "ends"])
@pytest.mark.parametrize(("name_a", "name_b"), PAIRS)
def test_emulator_is_golden(name_a, name_b, scales, rng, no_golden):
    """Short last blocks, shapes that fill no tile, NaN scales, hundreds of bits between blocks, tensor scales."""
    fmt_a, fmt_b = get_block_format(name_a), get_block_format(name_b)
    if fmt_b.block != fmt_a.block:
        fmt_b = BlockFormat(name_b, fmt_b.element, fmt_a.block, fmt_b.scale)
    for text in ACCUMULATORS:
        out = str(rng.choice(["float32", "bfloat16", "e4m3", "int8"]))
        overflow = str(rng.choice(["ieee", "saturate"]))
        spec = BlockGemmSpec(fmt_a, fmt_b, out, text, "stochastic:8", int(rng.integers(-3, 4)), overflow)
        m, k, n = (int(x) for x in rng.integers((1, 1, 1), (7, 4 * fmt_a.block, 38)))
        a = random_blocks(rng, fmt_a, (m, k), 1, scales)
        b = random_blocks(rng, fmt_b, (n, k), 1, scales)
        b = b._replace(codes=b.codes.T, scales=b.scales.T)
        seed = int(rng.integers(1 << 62))
        got, want = emulate_block_gemm(a, b, spec, seed=seed), golden_block_gemm(a, b, spec, seed=seed)
        np.testing.assert_array_equal(got.codes, want.codes, err_msg=f"{spec}, {(m, k, n)}, seed {seed}")
        assert got[1:] == want[1:], f"{spec}, {(m, k, n)}, seed {seed}"


@pytest.mark.parametrize(("name_a", "name_b"), [("mxfp8_e5m2", "mxfp8_e4m3"), ("mxfp8_e4m3", "mxfp8_e4m3")])
def test_special_elements_are_goldens(name_a, name_b, rng):
    fmt_a, fmt_b = get_block_format(name_a), get_block_format(name_b)
    for overflow in ("saturate", "ieee"):
        spec = BlockGemmSpec(fmt_a, fmt_b, "e5m2", f"e8m23:{overflow}", "nearest_even", 0, overflow)
        a = with_specials(rng, fmt_a, random_blocks(rng, fmt_a, (9, 70), 1, "near"))
        b = with_specials(rng, fmt_b, random_blocks(rng, fmt_b, (70, 35), 0, "near"))
        got, want = emulate_block_gemm(a, b, spec, seed=1), golden_block_gemm(a, b, spec, seed=1)
        assert np.isfinite(get_format("e5m2").to_float64(want.codes)).any()
        np.testing.assert_array_equal(got.codes, want.codes)
        assert got[1:] == want[1:]


def test_cancellation_brings_up_the_last_bit_of_a_wide_block(no_golden):
    """A sum of 65 bits inside a block, less one that the accumulator holds: what is left is one least product."""
    fmt = get_block_format("mxfp8_e5m2")
    a = Blocks(np.zeros((1, 64), np.uint8), np.full((1, 2), 127, np.uint8))
    b = Blocks(np.zeros((64, 1), np.uint8), np.full((2, 1), 127, np.uint8))
    a.codes[0, :2], b.codes[:2, 0] = (0x7B, 0x01), (0x7B, 0x01)
    a.codes[0, 32], b.codes[32, 0] = 0xFB, 0x7B
    a.codes[0, 3], b.codes[3, 0] = 0x01, 0x7B  # both operands have least and greatest
    a.codes[0, 33], b.codes[33, 0] = 0x81, 0x7B
    for accumulator in ("e8m23", "e8m23:toward_zero", "e8m23:stochastic:24"):
        spec = BlockGemmSpec(fmt, fmt, "float32", accumulator)
        got, want = emulate_block_gemm(a, b, spec, seed=5), golden_block_gemm(a, b, spec, seed=5)
        assert got.codes.tolist() == want.codes.tolist()


def operand(max_units: int, lsb_exponent: int = 0) -> Operand:
    return Operand(np.zeros((1, 1)), lsb_exponent, max_units, False)


@pytest.mark.parametrize(
    ("name", "max_a", "max_b", "lanes"),
    [
        ("mxint8", 1 << 9, 1 << 10, (FLOAT32, 1)),
        ("mxint8", (1 << 9) + 1, 1 << 10, (FLOAT64, 1)),
        ("mxint8", 1 << 24, 1 << 24, (FLOAT64, 1)),
        ("mxint8", (1 << 24) + 1, 1 << 24, (FLOAT64, 2)),
        ("mxint8", 1 << 31, 1 << 31, (FLOAT64, 2)),
        ("mxint8", 1 << 32, 1 << 32, (FLOAT64, 2)),
        ("mxint8", 1 << 33, 1 << 32, None),
        ("nvfp4", 1 << 20, 1 << 21, (FLOAT64, 1)),
        ("nvfp4", 1 << 21, 1 << 21, (FLOAT64, 2)),
    ],
)
def test_range_test_at_its_edge(name, max_a, max_b, lanes):
    """Block of 32 or 16 products; nvfp4's scales take 8 bits more, 225 in all."""
    found = proven_parts(operand(max_a), operand(max_b), BlockGemmSpec(name, name))
    assert found == lanes


def test_sums_at_the_edge_of_each_way_are_exact(rng):
    """Elements that fill the proven range to the last unit, all of one sign, less the same but for one unit."""
    for bits in (12, 13, 24, 25, 26, 27):
        fmt = BlockFormat("wide", get_format(f"fixed{bits}.0"), 1 << (24 - min(bits, 20)))
        for _ in range(3):
            a = rng.integers(0, 1 << bits, (2, 2 * fmt.block)).astype(fmt.element.code_dtype)
            b = rng.integers(0, 1 << bits, (2 * fmt.block, 2)).astype(fmt.element.code_dtype)
            a[0], b[:, 0] = 1 << (bits - 1), 1 << (bits - 1)  # the most negative number
            ones = np.full((2, 2), 127, np.uint8)
            spec = BlockGemmSpec(fmt, fmt, "float32", "e8m23:toward_zero")
            pair = Blocks(a, ones), Blocks(b, ones)
            got, want = emulate_block_gemm(*pair, spec), golden_block_gemm(*pair, spec)
            np.testing.assert_array_equal(got.codes, want.codes)


def test_scaling_is_odd_where_inexact(rng):
    """The product of 72 bits against rational arithmetic: of the two floats around it the odd one."""
    sums = np.ldexp(rng.integers(-(1 << 24), 1 << 24, 300).astype(float), rng.integers(-149, 100, 300))
    first, second = (float(scale) for scale in rng.uniform(0.1, 1, 2).astype(np.float32))
    for scales in ((1.5, 3.0), (first, second), (first, 2.0**-126)):
        for total, scaled in zip(sums.tolist(), scale_odd(sums, *scales).tolist(), strict=True):
            exact = Fraction(total) * Fraction(scales[0]) * Fraction(scales[1])
            if Fraction(scaled) != exact:
                assert abs(Fraction(scaled) - exact) < Fraction(float(np.spacing(abs(scaled))))
                assert np.float64(scaled).view(np.int64) & 1
            else:
                assert exact == scaled
    assert scale_odd(np.array([np.inf, -np.inf]), 0.1, 0.3).tolist() == [np.inf, -np.inf]
    assert np.isnan(scale_odd(np.array([np.nan]), 0.1, 0.3)).all()
