"""The golden GEMM against the rational reference: random and adversarial operands, all codes and flags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfulp.numerics.accumulators import ExactAccumulator
from halfulp.numerics.exact import from_integers
from halfulp.numerics.formats import FloatFormat, Format, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm, round_output
from halfulp.numerics.names import UnknownNameError

PAIRS = [
    ("e4m3", "e4m3"),
    ("e5m2", "e4m3"),
    ("e5m2", "e5m2"),
    ("int8", "int8"),
    ("uint8", "int4"),
    ("e2m1", "e3m2"),
    ("bfloat16", "bfloat16"),
    ("float16", "int8"),
    ("float32", "float32"),
    ("int32", "e5m2"),
    ("e4m3-nosub", "e6m5"),
    ("fixed4.8", "fixed2.6"),
    ("ternary", "int8"),
    ("binary", "e4m3"),
]
OUTPUTS = (
    "float32",
    "bfloat16",
    "e4m3",
    "e5m2",
    "e2m1",
    "int8",
    "int32",
    "uint8",
    "float16",
    "e6m5-nosub",
    "fixed4.4",
    "ternary",
    "binary",
)
ROUNDINGS = (
    "nearest_even",
    "toward_zero",
    "stochastic:1",
    "stochastic:8",
    "stochastic:16",
    "stochastic_floor:7",
)


def random_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    return valid(fmt, rng.integers(0, 1 << fmt.bits, shape, np.uint64)).astype(fmt.code_dtype)


def valid(fmt: Format, codes: np.ndarray) -> np.ndarray:
    """`codes` with 3, which is -1, for the one code that ternary has not."""
    return np.where(codes == 2, 3, codes) if fmt.name == "ternary" else codes


def finite_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Random numbers, their magnitudes within a few binades, so that sums cancel and tie."""
    if not isinstance(fmt, FloatFormat):
        return random_codes(rng, fmt, shape)
    middle = (1 << (fmt.exponent_bits - 1)) - 1 << fmt.mantissa_bits
    low, high = (
        max(middle - (2 << fmt.mantissa_bits), 0),
        min(middle + (2 << fmt.mantissa_bits), fmt.max_code),
    )
    sign = rng.integers(0, 2, shape) * fmt.sign_code
    return (rng.integers(low, high + 1, shape) | sign).astype(fmt.code_dtype)


def extreme_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Largest, smallest, zeros, infinities and NaN of both signs, and nothing else."""
    if isinstance(fmt, FloatFormat):
        few = [0, 1, fmt.max_code, fmt.max_code - 1, 1 << fmt.mantissa_bits]
        few += [fmt.inf_code] * fmt.has_inf + [fmt.nan_code] * fmt.has_nan
        few += [code | fmt.sign_code for code in few]
    else:
        few = [0, 1, (1 << fmt.bits) - 1, 1 << (fmt.bits - 1), (1 << (fmt.bits - 1)) - 1]
        few = valid(fmt, np.array(few)).tolist()
    weights = np.ones(len(few))
    if isinstance(fmt, FloatFormat):  # rare enough that not every sum has one
        weights = np.where(np.array(few) & (fmt.sign_code - 1) > fmt.max_code, 0.05, 1)
    return rng.choice(np.array(few, fmt.code_dtype), shape, p=weights / weights.sum())


@pytest.mark.parametrize("make", [random_codes, finite_codes, extreme_codes])
@pytest.mark.parametrize(("name_a", "name_b"), PAIRS)
def test_golden_is_the_reference(name_a, name_b, make, reference, rng):
    fmt_a, fmt_b = get_format(name_a), get_format(name_b)
    for out in OUTPUTS:
        m, n, k = rng.integers(1, 5), rng.integers(1, 7), rng.integers(1, 12)
        a, b = make(rng, fmt_a, (m, k)), make(rng, fmt_b, (k, n))
        for rounding in ROUNDINGS:
            overflow = "ieee" if rng.integers(2) else "saturate"
            scale = int(rng.integers(-20, 20)) if rng.integers(2) else 0
            spec = GemmSpec(fmt_a, fmt_b, out, rounding=rounding, scale=scale, overflow=overflow)
            seed = int(rng.integers(0, 1 << 63))
            codes, invalid, too_large = reference.gemm(a, b, spec, seed)
            got = golden_gemm(a, b, spec, seed=seed)
            assert (got.codes == codes).all(), f"{spec}, seed {seed}"
            assert (got.invalid, got.overflow) == (invalid, too_large), f"{spec}, seed {seed}"
            assert got.codes.dtype == spec.out.code_dtype


@given(data=st.data())
def test_golden_is_the_reference_on_any_operands(data, reference):
    fmt_a, fmt_b = (get_format(name) for name in data.draw(st.sampled_from(PAIRS)))
    m, n, k = (data.draw(st.integers(1, 4)) for _ in range(3))
    a, b = (
        np.array(data.draw(st.lists(st.integers(0, (1 << f.bits) - 1), min_size=size, max_size=size)), f.code_dtype)
        for f, size in ((fmt_a, m * k), (fmt_b, k * n))
    )
    spec = GemmSpec(
        fmt_a,
        fmt_b,
        data.draw(st.sampled_from(OUTPUTS)),
        rounding=data.draw(st.sampled_from(ROUNDINGS)),
        scale=data.draw(st.integers(-40, 40)),
        overflow=data.draw(st.sampled_from(("saturate", "ieee"))),
    )
    seed = data.draw(st.integers(0, (1 << 64) - 1))
    a, b = valid(fmt_a, a.reshape(m, k)), valid(fmt_b, b.reshape(k, n))
    codes, invalid, too_large = reference.gemm(a, b, spec, seed)
    got = golden_gemm(a, b, spec, seed=seed)
    assert (got.codes == codes).all()
    assert (got.invalid, got.overflow) == (invalid, too_large)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "int8", "bfloat16", "float32", "int32"])
def test_long_sums_are_exact(name):
    """K = 10000 of the largest magnitudes and their negatives, and one least value: only that is left."""
    fmt = get_format(name)
    largest = fmt.max_code if isinstance(fmt, FloatFormat) else (1 << (fmt.bits - 1)) - 1
    minus = largest | fmt.sign_code if isinstance(fmt, FloatFormat) else (1 << fmt.bits) - largest
    a = np.full((1, 10001), largest, fmt.code_dtype)
    b = np.full((10001, 1), largest, fmt.code_dtype)
    b[::2] = minus
    a[0, 10000], b[10000, 0] = 1, 1
    least = (2.0**fmt.lsb_exponent) ** 2
    result = golden_gemm(a, b, GemmSpec(fmt, fmt, "float32", scale=-2 * fmt.lsb_exponent))
    assert get_format("float32").to_float64(result.codes)[0, 0] == least * 2.0 ** (-2 * fmt.lsb_exponent) == 1.0


def test_operands_of_any_strides_give_the_same(rng):
    spec = GemmSpec("e5m2", "e4m3", "float32")
    a, b = rng.integers(0, 256, (7, 33), np.uint8), rng.integers(0, 256, (33, 5), np.uint8)
    expected = golden_gemm(a, b, spec).codes
    padded = np.zeros((14, 66), np.uint8)
    padded[::2, ::-2] = a
    assert (golden_gemm(padded[::2, ::-2], np.asfortranarray(b), spec).codes == expected).all()


def test_minus_zero_is_never_output():
    e4m3 = get_format("e4m3")
    tiny = np.array([[0x81]], np.uint8)  # -2**-9
    for rounding in ("nearest_even", "toward_zero", "stochastic:8"):
        result = golden_gemm(tiny, np.array([[1]], np.uint8), GemmSpec(e4m3, e4m3, e4m3, rounding=rounding))
        assert result.codes[0, 0] == 0
    assert golden_gemm(np.array([[0x80]], np.uint8), np.array([[0]], np.uint8), GemmSpec(e4m3, e4m3)).codes[0, 0] == 0


def test_a_tile_has_the_random_bits_of_its_place(rng):
    sums = from_integers(rng.integers(-(1 << 30), 1 << 30, (9, 13)), -20)
    spec = GemmSpec("e4m3", "e4m3", "e4m3", rounding="stochastic:11")
    whole = round_output(sums, spec, seed=5).codes
    tile = sums.at(np.s_[3:7, 6:11])
    assert (round_output(tile, spec, seed=5, row_offset=3, column_offset=6).codes == whole[3:7, 6:11]).all()


def test_width_of_an_exact_accumulator_holds_its_largest_sum():
    e4m3, e5m2, int8 = (get_format(name) for name in ("e4m3", "e5m2", "int8"))
    width = ExactAccumulator.width
    # One bit more than 36 + log2 K and so on: the largest sum's magnitude, and the sign.
    assert width(e4m3, e4m3, 1024) == 1 + (448 * 2**9 * 448 * 2**9 * 1024).bit_length()
    assert width(e5m2, e5m2, 1024) == 1 + (57344**2 * 2**32 * 1024).bit_length()
    assert width(int8, int8, 1024) == 1 + (128 * 128 * 1024).bit_length()


@pytest.mark.parametrize(
    ("a", "b", "changes", "error", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((4, 2), np.uint8), {}, ValueError, "differ in K"),
        (np.zeros(3, np.uint8), np.zeros((3, 2), np.uint8), {}, ValueError, "must be matrices"),
        (np.zeros((2, 0), np.uint8), np.zeros((0, 2), np.uint8), {}, ValueError, "must be at least 1"),
        (
            np.zeros((2, 9), np.uint8),
            np.zeros((9, 2), np.uint8),
            {"accumulator": "exact:8"},
            ValueError,
            "K = 9 is beyond",
        ),
        (np.zeros((1, 1)), np.zeros((1, 1), np.uint8), {}, TypeError, "must be integers"),
        (np.full((1, 1), 300), np.zeros((1, 1), np.uint8), {}, ValueError, "code 300 is outside"),
    ],
)
def test_operands_that_do_not_fit_are_refused(a, b, changes, error, message):
    with pytest.raises(error, match=message):
        golden_gemm(a, b, GemmSpec("e4m3", "e4m3", **changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"out": "float23"}, UnknownNameError, "unknown format 'float23'; nearest: 'float32'"),
        ({"rounding": "nearest"}, UnknownNameError, "unknown rounding 'nearest'"),
        ({"rounding": "stochastic:17"}, ValueError, "at most 16 random bits"),
        ({"rounding": "stochastic"}, ValueError, "needs its number of random bits"),
        ({"rounding": "stochastic:x"}, ValueError, "must be an integer, not 'x'"),
        ({"scale": 0.5}, TypeError, "integer power of two, not 0.5"),
        ({"scale": 1 << 15}, ValueError, "within ±16384"),
        ({"overflow": "wrap"}, UnknownNameError, "unknown overflow behaviour 'wrap'"),
        ({"accumulator": "exakt"}, UnknownNameError, "unknown accumulator 'exakt'"),
        ({"accumulator": "exact:0"}, ValueError, "at least 1, not 0"),
    ],
)
def test_a_wrong_spec_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        GemmSpec("e4m3", "e4m3", **changes)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 0.5, True])
def test_a_seed_is_an_integer_of_64_bits(seed):
    one = np.zeros((1, 1), np.uint8)
    with pytest.raises((ValueError, TypeError), match="seed must be"):
        golden_gemm(one, one, GemmSpec("e4m3", "e4m3"), seed=seed)
