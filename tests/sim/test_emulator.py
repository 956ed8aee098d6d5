"""The emulator equals the golden model in all codes and flags, and each faster way is taken only where it is exact."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.formats import FloatFormat, Format, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim import emulator
from halfulp.sim.digits import fits_int32
from halfulp.sim.emulator import digits_of, emulate_gemm, fits_float32, fits_float64, in_float32
from halfulp.sim.operands import Operand, as_float64, by_rows

PAIRS = [
    ("e4m3", "e4m3"),
    ("e5m2", "e4m3"),
    ("e5m2", "e5m2"),
    ("int8", "int8"),
    ("uint8", "int4"),
    ("uint8", "uint8"),
    ("int8", "uint8"),
    ("e2m1", "e2m3"),
    ("e2m1", "int8"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "e4m3"),
    ("float16", "float16"),
    ("float32", "int8"),
    ("float32", "float32"),
    ("e6m5-nosub", "e5m2"),
    ("int16", "int16"),
    ("int32", "e3m2"),
]
OUTPUTS = ("float32", "bfloat16", "e4m3", "e5m2", "int32", "int8", "e3m2")
ROUNDINGS = ("nearest_even", "stochastic:16", "stochastic:5", "stochastic_floor:8", "toward_zero")
RESULTS = [
    (out, ROUNDINGS[(n + turn) % len(ROUNDINGS)], ("saturate", "ieee")[(n + turn) % 2])
    for n, out in enumerate(OUTPUTS)
    for turn in (0, 3)
]
"""Output format, rounding and overflow: a few of all, for `test_quantise` has all of them and each is a kernel."""


def any_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 1 << fmt.bits, shape, np.uint64).astype(fmt.code_dtype)


def numbers(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Any codes but NaN and Inf."""
    codes = any_codes(rng, fmt, shape)
    if not isinstance(fmt, FloatFormat):
        return codes
    return np.where((codes & (fmt.sign_code - 1)) > fmt.max_code, 0, codes).astype(fmt.code_dtype)


def alike(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Magnitudes within four binades: sums that tie, and cancel."""
    if not isinstance(fmt, FloatFormat):
        return any_codes(rng, fmt, shape)
    middle = (1 << (fmt.exponent_bits - 1)) - 1 << fmt.mantissa_bits
    codes = rng.integers(max(middle - (2 << fmt.mantissa_bits), 0), middle + (1 << fmt.mantissa_bits), shape)
    return (codes | rng.integers(0, 2, shape) * fmt.sign_code).astype(fmt.code_dtype)


def few_specials(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Zeros and largest numbers, NaN and Inf in few places."""
    if not isinstance(fmt, FloatFormat):
        return rng.choice(np.array([0, 1, 1 << (fmt.bits - 1)], fmt.code_dtype), shape)
    codes = rng.choice(np.array([0, fmt.sign_code, 1, fmt.max_code, fmt.max_code | fmt.sign_code]), shape)
    above = rng.integers(fmt.max_code, fmt.sign_code, shape)
    return np.where(rng.random(shape) < 0.01, above | codes & fmt.sign_code, codes).astype(fmt.code_dtype)


def check(a: np.ndarray, b: np.ndarray, spec: GemmSpec, seed: int) -> None:
    golden, got = golden_gemm(a, b, spec, seed=seed), emulate_gemm(a, b, spec, seed=seed)
    wrong = np.argwhere(golden.codes != got.codes)
    assert not wrong.size, f"{spec}, seed {seed}: {len(wrong)} codes differ, first at {wrong[0]}"
    assert got[1:] == golden[1:], f"{spec}, seed {seed}"
    assert got.codes.dtype == golden.codes.dtype


@pytest.fixture(params=["int8 products", "float products"])
def products(request, monkeypatch):
    """Exact sums by products of int8 digits, where this processor has them, and without."""
    monkeypatch.setattr(emulator, "SMALL_MACS", 0)
    if request.param == "float products":
        monkeypatch.setattr(emulator, "has_fast_int8", lambda: False)


@pytest.mark.parametrize(("name_a", "name_b"), [("ternary", "binary"), ("fixed4.8", "fixed2.6"), ("ternary", "e4m3")])
def test_fixed_point_ternary_and_binary_are_goldens(name_a, name_b, rng):
    for accumulator in ("exact", "e6m5:stochastic:13"):
        for out in ("float32", "fixed4.4", "ternary", "binary"):
            spec = GemmSpec(name_a, name_b, out, accumulator=accumulator, rounding="stochastic:4", scale=-3)
            a, b = rng.choice(spec.a.valid_codes, (5, 37)), rng.choice(spec.b.valid_codes, (37, 6))
            golden, fast = golden_gemm(a, b, spec, seed=3), emulate_gemm(a, b, spec, seed=3)
            assert (golden.codes == fast.codes).all(), str(spec)
            assert golden[1:] == fast[1:]


@pytest.mark.parametrize("make", [any_codes, numbers, alike, few_specials])
@pytest.mark.parametrize(("name_a", "name_b"), PAIRS)
def test_emulator_is_golden(name_a, name_b, make, rng, products):
    fmt_a, fmt_b = get_format(name_a), get_format(name_b)
    for _ in range(2):
        m, n, k = (int(x) for x in rng.choice([1, 2, 3, 7, 16, 33, 64, 65, 100], 3))
        out, rounding, overflow = RESULTS[rng.integers(len(RESULTS))]
        spec = GemmSpec(fmt_a, fmt_b, out, rounding=rounding, scale=int(rng.integers(-20, 10)), overflow=overflow)
        check(make(rng, fmt_a, (m, k)), make(rng, fmt_b, (k, n)), spec, int(rng.integers(1 << 62)))


@pytest.mark.parametrize("shape", [(300, 300, 300), (1, 300, 1), (299, 1, 3), (64, 784, 128), (5, 3000, 4)])
@pytest.mark.parametrize(("name_a", "name_b"), [("e4m3", "e4m3"), ("e5m2", "e5m2"), ("int8", "int8")])
def test_large_shapes(name_a, name_b, shape, rng):
    m, k, n = shape
    a, b = numbers(rng, get_format(name_a), (m, k)), numbers(rng, get_format(name_b), (k, n))
    check(a, b, GemmSpec(name_a, name_b, "bfloat16", rounding="stochastic:9"), 11)


@pytest.mark.parametrize("name", ["e4m3", "int8", "bfloat16", "e2m1"])
def test_strides_do_not_matter(name, rng, products):
    fmt = get_format(name)
    a, b = numbers(rng, fmt, (40, 60)), numbers(rng, fmt, (60, 50))
    spec = GemmSpec(name, name, "float32")
    expected = golden_gemm(a, b, spec).codes
    wide = np.zeros((80, 180), fmt.code_dtype)
    wide[::2, ::-3] = a
    frozen = b.copy()
    frozen.flags.writeable = False
    for left in (a, np.asfortranarray(a), wide[::2, ::-3]):
        for right in (b, np.asfortranarray(b), b[::-1][::-1], frozen):
            assert (emulate_gemm(left, right, spec).codes == expected).all()


def test_int32_is_left_at_its_edge(rng):
    """-128 * -128 summed 131,071 times is the last that int32 holds; the next way is exact as well."""
    assert fits_int32(128, 128, 131071)
    assert not fits_int32(128, 128, 131072)
    spec = GemmSpec("int8", "int8", "int32")
    for k in (131071, 131072):
        least = np.full((1, k), 0x80, np.uint8)
        result = emulate_gemm(least, least.T, spec)
        assert result.codes[0, 0] == min(k * 128 * 128, 2**31 - 1)
        assert result.overflow == (k * 128 * 128 > 2**31 - 1)


@pytest.mark.parametrize(
    ("name_a", "name_b"), [("uint8", "uint8"), ("uint8", "int8"), ("int8", "uint8"), ("uint8", "e2m3")]
)
def test_offset_of_uint8(name_a, name_b, rng):
    fmt_a, fmt_b = get_format(name_a), get_format(name_b)
    a, b = np.full((2, 5000), 255, np.uint8), any_codes(rng, fmt_b, (5000, 3))
    check(a & np.uint8((1 << fmt_a.bits) - 1), b, GemmSpec(name_a, name_b, "int32"), 0)


def test_one_float64_product_is_left_at_its_edge(monkeypatch):
    """Sums of 2**53 units are exact in any order; beyond, the product is split, and a lone 1 survives in it."""
    assert fits_float64(1 << 31, 1 << 21, 2)
    assert not fits_float64(1 << 31, (1 << 21) + 1, 2)
    taken = []
    split = emulator._split_product

    def counted(left: Operand, right: Operand, digits: tuple[int, int]) -> np.ndarray:
        taken.append(digits)
        return split(left, right, digits)

    monkeypatch.setattr(emulator, "_split_product", counted)
    monkeypatch.setattr(emulator, "has_fast_int8", lambda: False)
    spec = GemmSpec("int32", "int32", "float32")
    for factor, ways in ((1 << 20, 0), ((1 << 22) // 3, 0), ((1 << 22) // 3 + 1, 1), (1 << 30, 1)):
        # 2**31 * factor, then 1 * 1, then -(2**31 * factor): what is left is 1.
        a = np.array([[0x80000000, 1, 0x80000000]], np.uint32)
        b = np.array([[factor], [1], [(1 << 32) - factor]], np.uint32)
        taken.clear()
        assert get_format("float32").to_float64(emulate_gemm(a, b, spec).codes)[0, 0] == 1.0
        assert len(taken) == ways


def test_one_float32_product_is_left_at_its_edge(monkeypatch):
    """Sums of 2**24 units are exact in float32, and 2**24 + 1 is not: it takes float64."""
    assert fits_float32(1 << 11, 1 << 11, 4)
    assert not fits_float32(1 << 11, (1 << 11) + 1, 4)
    monkeypatch.setattr(emulator, "has_fast_int8", lambda: False)
    taken = []
    product = emulator._product
    monkeypatch.setattr(emulator, "_product", lambda x, y: taken.append(x.dtype) or product(x, y))
    spec = GemmSpec("int16", "int16", "int32")
    for last, dtype in ((4096, np.float32), (4097, np.float64)):
        a, b = np.array([[2048, 2048]], np.uint16), np.array([[4096], [last]], np.uint16)
        assert emulate_gemm(a, b, spec).codes[0, 0] == 2048 * (4096 + last)
        assert taken.pop() == dtype


def test_float32_products_are_left_where_their_range_ends():
    """Bits below 2**-149, of products or of subnormal numbers, and what float32 has no number for."""
    e8m7, e8m7_finite, int32 = (get_format(name) for name in ("e8m7", "e8m7-finite", "int32"))
    one = np.zeros((1, 1))
    for exponent, right in ((-149, True), (-150, False)):
        operands = Operand(one, exponent + 20, 1, False), Operand(one, -20, 1, False)
        assert in_float32(*operands, GemmSpec(e8m7, e8m7)) == right
    small = Operand(one, 0, 1, False)
    assert not in_float32(small, small, GemmSpec(e8m7, e8m7_finite))
    assert not in_float32(small, small, GemmSpec(int32, e8m7))


def test_digits_are_exact_at_the_edge_of_their_room(rng):
    """Every choice of digits keeps each product of digit matrices within 2**53; one bit more takes more digits."""
    for k in (1, 2, 3, 1000, 1024, 1025):
        for span_a in range(1, 90, 7):
            for span_b in range(1, 90, 5):
                digits = digits_of(span_a, span_b, k)
                if digits is None:
                    assert span_a + span_b + k.bit_length() > 126
                    continue
                limit_a, limit_b = (1 << (-(-(s + 1) // n) - 1) for s, n in ((span_a, digits[0]), (span_b, digits[1])))
                assert fits_float64(limit_a, limit_b, k)
                if digits == (1, 1):
                    assert fits_float64((1 << span_a) - 1, (1 << span_b) - 1, k)


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("float32", (0x3FFFFFFF, 0x1FFFFFFF, 0xBFD55555, 0x3F800001)),
        ("bfloat16", (0x3FFF, 0x1FFF, 0xBFD5, 0x2AAA)),
        ("int32", (0x7FFFFFFF, 0x80000000, 0x55555555, 0x00FFFFFF)),
    ],
)
def test_all_digits_at_their_largest(name, codes, rng, products):
    """Operands of all ones and of alternating bits, where every digit is at its limit."""
    a = rng.choice(np.array(codes, get_format(name).code_dtype), (4, 300))
    check(a, a.T.copy(), GemmSpec(name, name, "float32", rounding="stochastic:16"), 3)


@pytest.mark.parametrize(
    "name", ["e4m3", "e5m2", "e2m1", "e4m3-nosub", "bfloat16", "float32", "int8", "uint8", "int16"]
)
def test_operands_are_their_values(name, rng):
    fmt = get_format(name)
    codes = any_codes(rng, fmt, (13, 37))
    for view in (codes, codes.T, codes[::2, ::-1], codes[:1, :3]):
        operand = as_float64(view, fmt)
        values = fmt.to_float64(view)
        assert operand.special == (not np.isfinite(values).all())
        assert (operand.values == np.where(np.isfinite(values), values, 0)).all()
        units = operand.values * 2.0**-operand.lsb_exponent
        assert (units == np.rint(units)).all()
        assert np.abs(units).max() <= operand.max_units


def test_span_of_an_operand_is_what_occurs_in_it():
    e5m2 = get_format("e5m2")
    operand = as_float64(np.array([[0x3C, 0x80, 0x41]], np.uint8), e5m2)  # 1, -0, 2.5
    assert (operand.lsb_exponent, operand.max_units) == (-2, 10)
    nothing = as_float64(np.array([[0x00, 0x7C]], np.uint8), e5m2)  # 0, Inf
    assert (nothing.max_units, nothing.special) == (0, True)


def test_int32_sums_become_float32_up_to_2_to_the_24():
    """Sums of 2**24 are float32 numbers as they are; 2**24 + 1, and scales beyond 2**64, are rounded like others."""
    for k, last in ((1022, 1), (1023, 0), (1023, 1), (1023, 3)):
        left, right = np.full((1, k + 2), 0x80, np.uint8), np.full((k + 2, 1), 0x80, np.uint8)
        left[0, -1], right[-1, 0] = last, 1
        for scale in (0, -64, 64, -65, 65, -160):
            for mode in ("nearest_even", "toward_zero", "stochastic:3"):
                check(left, right, GemmSpec("int8", "int8", "float32", rounding=mode, scale=scale), 6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_columns_become_rows(dtype, rng):
    """Of whole squares, with what is left over on either side, and of fewer than a square."""
    for shape in ((16, 16), (17, 40), (70, 16), (33, 31), (5, 40), (1, 1)):
        codes = rng.integers(0, 1 << 32, shape, np.uint64).astype(dtype)
        for view in (codes, np.asfortranarray(codes), np.asfortranarray(codes)[::-1]):
            found = by_rows(view)
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, view)
