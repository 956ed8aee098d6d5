"""Compiled float accumulators equal the golden model, and fast lanes are taken only where they are proven right."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.accumulators import FloatAccumulator, parse_accumulator
from halfulp.numerics.formats import FloatFormat, Format, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim import chains
from halfulp.sim.chain_code import CHECK_STEPS, fits_lanes, safe_limit
from halfulp.sim.chains import proven_lanes
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.operands import as_float64
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source

ACCUMULATORS = (
    "e6m5",
    "e6m5:stochastic:13",
    "e6m5:stochastic:24",
    "e6m5:stochastic_floor:9",
    "e6m5:toward_zero",
    "e6m5-nosub:stochastic:24",
    "e4m3-finite:stochastic:1",
    "e4m3",
    "e4m3:ieee",
    "e5m2:ieee",
    "e5m10",
    "e5m10:stochastic:16",
    "e8m23",
    "e8m23:ieee",
    "e8m23:stochastic:24",
    "e8m7:stochastic:16",
    "e8m7",
    "e2m1:stochastic:3",
)
PAIRS = [
    ("e4m3", "e4m3"),
    ("e5m2", "e5m2"),
    ("int8", "int8"),
    ("e2m1", "e3m2"),
    ("bfloat16", "float32"),
    ("int16", "float16"),
    ("float32", "float32"),
]


def any_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 1 << fmt.bits, shape, np.uint64).astype(fmt.code_dtype)


def near_one(rng: np.random.Generator, fmt: Format, shape: tuple[int, int], binades: int = 2) -> np.ndarray:
    """Numbers of both signs in some binades below 2: chains that tie, cancel, and are swamped."""
    if not isinstance(fmt, FloatFormat):
        return any_codes(rng, fmt, shape)
    one = (1 << (fmt.exponent_bits - 1)) - 1 << fmt.mantissa_bits
    codes = rng.integers(max(one - (binades << fmt.mantissa_bits), 0), one + (1 << fmt.mantissa_bits), shape)
    return (codes | rng.integers(0, 2, shape) * fmt.sign_code).astype(fmt.code_dtype)


def spread(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    return near_one(rng, fmt, shape, 6)


def check(a: np.ndarray, b: np.ndarray, spec: GemmSpec, seed: int) -> None:
    golden, got = golden_gemm(a, b, spec, seed=seed), emulate_gemm(a, b, spec, seed=seed)
    wrong = np.argwhere(golden.codes != got.codes)
    assert not wrong.size, f"{spec}, seed {seed}: {len(wrong)} codes differ, first at {wrong[0]}"
    assert got[1:] == golden[1:], f"{spec}, seed {seed}"


@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_compiled_chains_are_golden(accumulator, avx512, rng, monkeypatch):
    """With and without AVX-512's rounding of single instructions (where this processor has it)."""
    if not avx512:
        monkeypatch.setattr(chains, "_has_avx512", lambda: False)
    for name_a, name_b in PAIRS:
        for make in (any_codes, near_one, spread):
            m, k, n = (int(x) for x in rng.integers(1, 40, 3))
            spec = GemmSpec(name_a, name_b, str(rng.choice(["float32", "e4m3"])), accumulator)
            a, b = make(rng, get_format(name_a), (m, k)), make(rng, get_format(name_b), (k, n))
            check(a, b, spec, int(rng.integers(1 << 62)))


@pytest.mark.parametrize("depth", [64, 1000])
@pytest.mark.parametrize("accumulator", ["e6m5", "e6m5:stochastic:13", "e5m10:stochastic:10"])
def test_long_chains(accumulator, depth, rng):
    """Random, cancelling in pairs, and swamped by a large product at the start."""
    e5m2 = get_format("e5m2")
    a, b = near_one(rng, e5m2, (6, depth), 8), near_one(rng, e5m2, (depth, 40), 8)
    a[1, 1::2], b[1::2] = a[1, ::2] ^ np.uint8(0x80), b[::2]
    a[2, 0] = 0x7B
    check(a, b, GemmSpec("e5m2", "e5m2", "float32", accumulator), 5)


@pytest.mark.parametrize("sign", [0x00, 0x80])
def test_nearest_needs_odd_sums(sign):
    """2**-18 + 5 * 52 lies above a tie of e6m5; float32 has no room for the 2**-18, and the tie goes down to 256."""
    e4m3 = get_format("e4m3")
    a, b = np.array([[0x01 ^ sign, 0x4A ^ sign]], np.uint8), np.array([[0x01], [0x65]], np.uint8)
    assert (e4m3.to_float64(b)[1, 0], abs(e4m3.to_float64(a)[0, 1])) == (52, 5)
    spec = GemmSpec(e4m3, e4m3, "float32", "e6m5")
    assert abs(get_format("float32").to_float64(emulate_gemm(a, b, spec).codes)[0, 0]) == 264
    check(a, b, spec, 0)


@pytest.mark.parametrize(
    ("text", "source", "least"),
    [
        ("e6m5:stochastic:17", FLOAT32, -35),
        ("e6m5:stochastic_floor:18", FLOAT32, -35),
        ("e6m5-nosub:stochastic:17", FLOAT32, -30),
        ("e6m5:stochastic:24", FLOAT64, -35),
        ("e6m5", FLOAT32, -35),
        ("e5m10", FLOAT32, -24),
        ("e8m23", FLOAT32, -149),
        ("e8m21", FLOAT32, -147),
        ("e8m22", FLOAT64, -148),
        ("e8m23:stochastic:24", FLOAT64, -149),
    ],
)
def test_lanes_are_left_at_their_edges(text, source, least):
    """Products' last bit at the accumulator's last bit, and one below; and one random bit more than lanes hold."""
    accumulator = parse_accumulator(text)
    assert isinstance(accumulator, FloatAccumulator)
    assert fits_lanes(accumulator, source, least)
    assert not fits_lanes(accumulator, source, least - 1)
    if source is FLOAT64:
        assert not fits_lanes(accumulator, FLOAT32, least)


@pytest.mark.parametrize(("text", "source"), [("e6m5:stochastic:17", FLOAT32), ("e6m5:stochastic:18", FLOAT64)])
def test_random_bits_at_the_edge_of_float32(text, source, rng):
    e4m3 = get_format("e4m3")
    a, b = near_one(rng, e4m3, (9, 50)), near_one(rng, e4m3, (50, 33))
    spec = GemmSpec(e4m3, e4m3, "float32", text)
    assert isinstance(spec.accumulator, FloatAccumulator)
    lanes = proven_lanes(as_float64(a, e4m3), as_float64(b, e4m3), spec, spec.accumulator)
    assert lanes is not None
    assert lanes.source is source
    check(a, b, spec, 1)


@pytest.mark.parametrize("text", ["e4m3-ieee:stochastic:8", "e4m3-ieee", "e4m3-nosub:toward_zero"])
def test_least_bits_at_the_edge_of_the_accumulator(text, rng):
    """Operands whose products end at the accumulator's least bit take the fast lanes; one bit finer, they do not."""
    e5m2 = get_format("e5m2")
    one = 0x3C
    for finer in (0, 1, 2, 3):
        # 2**-4 * 1.75 * 2**-(1 + finer): the last bit of the products is 2**-(4 + 2 + 1 + finer + 2).
        a = rng.choice(np.array([one - 16, one - 13, 0x80 | one - 15], np.uint8), (5, 60))
        b = rng.choice(np.array([one - 4 * (1 + finer), 0x80 | one - 4 * finer + 3], np.uint8), (60, 40))
        spec = GemmSpec(e5m2, e5m2, "float32", text)
        assert isinstance(spec.accumulator, FloatAccumulator)
        left, right = as_float64(a, e5m2), as_float64(b, e5m2)
        fmt = spec.accumulator.format
        least = fmt.lsb_exponent if fmt.subnormals else fmt.min_normal_exponent
        lanes = proven_lanes(left, right, spec, spec.accumulator)
        assert (lanes is not None) == (left.lsb_exponent + right.lsb_exponent >= least)
        check(a, b, spec, 2)


@pytest.mark.parametrize("source", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("text", ["e6m5:stochastic:13", "e5m2", "e8m7", "e4m3-finite"])
def test_no_rounding_leaves_the_range_from_below_the_limit(text, source: Source):
    """The worst case of `CHECK_STEPS` steps from the limit: the largest product added, each sum rounded up."""
    accumulator = parse_accumulator(text)
    assert isinstance(accumulator, FloatAccumulator)
    fmt = accumulator.format
    largest = fmt.max_units * 2.0**fmt.lsb_exponent
    for product in (0.0, largest / 1000, largest / 100):
        total = safe_limit(accumulator, source, product)
        for _ in range(CHECK_STEPS):
            total = (total + product) * (1 + 2.0**-fmt.mantissa_bits)
        assert total < largest or safe_limit(accumulator, source, product) == 0
    assert safe_limit(accumulator, source, largest) == 0


@pytest.mark.parametrize("avx512", [True, False])
def test_exact_sums_are_left_where_lanes_end(avx512, rng, monkeypatch):
    """Sums that may come to half of 2**24 units, rounded to nearest in float32 as they are; one product more, not."""
    if not avx512:
        monkeypatch.setattr(chains, "_has_avx512", lambda: False)
    spec = GemmSpec("int8", "int8", "float32", "e8m7")
    assert isinstance(spec.accumulator, FloatAccumulator)
    limit = safe_limit(spec.accumulator, FLOAT32, 120.0 * 121, 2.0**24)
    depth = int(limit / (2 * 120 * 121))
    for k, exact in ((depth, True), (depth + 1, False)):
        a, b = rng.integers(100, 121, (5, k)).astype(np.uint8), rng.integers(100, 122, (k, 33)).astype(np.uint8)
        a[0], b[:, 0] = 120, 121
        lanes = proven_lanes(as_float64(a, spec.a), as_float64(b, spec.b), spec, spec.accumulator)
        assert lanes is not None
        assert (lanes.source is FLOAT32 and lanes.exact) == exact
        assert lanes.exact == (exact or not chains._has_avx512())
        check(a, b, spec, 0)
    # The worst case of the steps between two checks stays exact.
    total = limit
    for _ in range(CHECK_STEPS):
        total = (total + 120 * 121) * (1 + 2.0**-7)
    assert total < 2.0**24


@pytest.mark.parametrize("overflow", ["saturate", "ieee"])
@pytest.mark.parametrize(
    "text", ["e4m3-ieee", "e4m3-ieee:stochastic:9", "e4m3-finite:toward_zero", "e5m2:stochastic:4"]
)
def test_sums_that_reach_the_largest_number(text, overflow, rng):
    """Chains that climb to the limit of the fast lanes, and past it to the accumulator's, and come back."""
    int8 = get_format("int8")
    for largest in (2, 6, 15, 120):
        a = rng.integers(0, largest, (8, 90)).astype(np.uint8)
        b = np.where(np.arange(90)[:, None] < 60, 1, 255) * np.ones((90, 35), np.int64)
        check(a, b.astype(np.uint8), GemmSpec(int8, int8, "float32", f"{text}:{overflow}"), 3)


def test_what_the_kernels_leave_to_the_golden_model(rng):
    """Products of more than 53 bits, and accumulators without fraction bits."""
    check(any_codes(rng, get_format("int32"), (3, 9)), any_codes(rng, get_format("float32"), (9, 4)),
          GemmSpec("int32", "float32", "float32", "e8m10"), 0)  # fmt: skip
    check(any_codes(rng, get_format("int4"), (3, 9)), any_codes(rng, get_format("int4"), (9, 4)),
          GemmSpec("int4", "int4", "float32", "e5m0-finite:stochastic:5"), 0)  # fmt: skip
    check(any_codes(rng, get_format("int4"), (3, 9)), any_codes(rng, get_format("int4"), (9, 4)),
          GemmSpec("int4", "int4", "float32", "fixed:7:1"), 0)  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 32), (5, 8, 33), (3, 9, 64), (64, 100, 130)])
def test_edges_of_tiles(shape, rng):
    m, k, n = shape
    e4m3 = get_format("e4m3")
    a, b = near_one(rng, e4m3, (m, k)), np.asfortranarray(near_one(rng, e4m3, (k, n)))
    for accumulator in ("e6m5:stochastic:9", "e6m5"):
        check(a, b, GemmSpec(e4m3, e4m3, "bfloat16", accumulator, rounding="stochastic:16"), (1 << 64) - 3)
