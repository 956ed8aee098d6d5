"""One suite for every device: the golden model's codes and flags, for whatever it is asked; else a refusal.

The same questions to all, so equal answers show too that results do not depend on the array's shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from halfulp.host.device import Device, open_device
from halfulp.hw.config import UnsupportedSpecError
from halfulp.numerics.formats import FloatFormat, Format
from halfulp.numerics.gemm import GemmSpec, golden_gemm

FP8 = [
    GemmSpec("e4m3", "e4m3", "float32"),
    GemmSpec("e5m2", "e4m3", "e4m3", rounding="stochastic:8"),
    GemmSpec("e5m2", "e4m3", "e5m2", rounding="stochastic_floor:3", overflow="ieee", scale=-4),
    GemmSpec("e4m3", "e4m3", "bfloat16", rounding="toward_zero", scale=7),
    GemmSpec("e4m3", "e4m3", "float16", rounding="stochastic:16", overflow="ieee", scale=20),
    GemmSpec("e5m2", "e4m3", "int8", scale=-9),
]
INTEGERS = [
    GemmSpec("int8", "int8", "int32"),
    GemmSpec("int8", "int4", "int8", rounding="stochastic:5", scale=-6),
    GemmSpec("int4", "int4", "e4m3", rounding="stochastic_floor:16"),
    GemmSpec("int8", "int8", "float32", rounding="toward_zero", scale=-300),
]
SPECS = {"fp8": FP8, "int": INTEGERS}
WIDE = [
    GemmSpec("e5m2", "e5m2", "float32"),
    GemmSpec("float16", "e6m5", "bfloat16", rounding="stochastic:7"),
    GemmSpec("bfloat16", "float32", "float32"),
    GemmSpec("int16", "uint8", "float16", scale=-12),
    GemmSpec("e2m1", "e3m2", "e4m3"),
    GemmSpec("e5m2", "e5m2", accumulator="e6m5:stochastic:13"),
    GemmSpec("e4m3", "e4m3", accumulator="fixed:24:-12"),
]
"""For devices that run any format: a core for each would take long to build."""

DEVICES = (
    "golden",
    "emulator",
    "double:2x3",
    "rtl:1x1",
    "rtl:2x3",
    "rtl:8x8",
    "pynq-sim:4x4",  # the cores of rtl:4x4
    "serial-sim:2x2",
)
SHAPES = [(1, 1, 1), (1, 300, 1), (2, 3, 3), (7, 5, 9), (8, 8, 8), (17, 33, 19), (1, 40, 37), (41, 2, 1), (30, 100, 3)]


@pytest.fixture(scope="module", params=DEVICES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def device(name: str, request: pytest.FixtureRequest) -> Iterator[Device]:
    """The device of this name; ``double:…`` is an RTL device with the test double in the core's place."""
    patch = pytest.MonkeyPatch()
    if name.startswith("double"):
        patch.setattr("halfulp.host.rtl_device.RtlCore", request.getfixturevalue("make_core"))
    with open_device(name.replace("double", "rtl"), requirements=[*FP8, *INTEGERS]) as opened:
        yield opened
    patch.undo()


@pytest.fixture(params=SPECS)
def specs(name: str, request: pytest.FixtureRequest) -> list[GemmSpec]:
    """What is asked; less of it of a simulated serial line, on which each byte takes forty clocks."""
    return SPECS[request.param][: 2 if name.startswith("serial-sim") else None]


def random_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 1 << fmt.bits, shape, np.uint64).astype(fmt.code_dtype)


def finite_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> np.ndarray:
    """Numbers only, of both signs and all magnitudes."""
    if not isinstance(fmt, FloatFormat):
        return random_codes(rng, fmt, shape)
    magnitude = rng.integers(0, fmt.max_code + 1, shape)
    return (magnitude | rng.integers(0, 2, shape) * fmt.sign_code).astype(fmt.code_dtype)


def check(device: Device, a: Any, b: Any, spec: GemmSpec, seed: int = 0) -> None:
    given = device.gemm(a, b, spec, seed=seed)
    golden = golden_gemm(a, b, spec, seed=seed)
    np.testing.assert_array_equal(given.codes, golden.codes, err_msg=f"{device.name}: {spec}, seed {seed}")
    assert given.codes.dtype == golden.codes.dtype
    assert (given.invalid, given.overflow) == (golden.invalid, golden.overflow), (device.name, spec)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_codes(device, specs, shape, rng):
    m, k, n = shape
    for number, spec in enumerate(specs):
        for codes in (random_codes, finite_codes):
            check(device, codes(rng, spec.a, (m, k)), codes(rng, spec.b, (k, n)), spec, seed=(number + 1) << 31)


def test_random_shapes_and_seeds(device, specs, rng):
    for _ in range(12):
        m, n = (int(x) for x in rng.integers(1, 40, 2))
        k = int(rng.integers(1, 200))
        spec = specs[rng.integers(len(specs))]
        a, b = finite_codes(rng, spec.a, (m, k)), finite_codes(rng, spec.b, (k, n))
        check(device, a, b, spec, seed=int(rng.integers(1 << 63)))


def extremes(fmt: Format) -> dict[str, int]:
    if isinstance(fmt, FloatFormat):
        found = {"largest": fmt.max_code, "most negative": fmt.max_code | fmt.sign_code, "least": 1}
        found |= {"minus zero": fmt.sign_code, "one": fmt.bias << fmt.mantissa_bits}
        return found | ({"NaN": fmt.nan_code} if fmt.has_nan else {}) | ({"Inf": fmt.inf_code} if fmt.has_inf else {})
    return {"largest": fmt.max_units - 1, "most negative": 1 << (fmt.bits - 1), "minus one": (1 << fmt.bits) - 1}


def test_uniform_extremes(device, specs):
    """All elements at one extreme: the longest carries, the deepest subnormals, all NaN, all infinite."""
    for spec in specs:
        for code_a in extremes(spec.a).values():
            for code_b in extremes(spec.b).values():
                a = np.full((3, 70), code_a, spec.a.code_dtype)
                check(device, a, np.full((70, 2), code_b, spec.b.code_dtype), spec, seed=5)


def test_specials_among_numbers(device, rng):
    """One NaN, one Inf, both infinities, 0·Inf: each row of A is a case of its own."""
    a = finite_codes(rng, FP8[1].a, (8, 20)) & 0xBB
    b = finite_codes(rng, FP8[1].b, (20, 5)) & 0xBF
    inf, nan = 0x7C, 0x7F
    a[1, 3], a[2, 19], a[3, 0], a[4, [2, 9]], a[5, [2, 9]] = nan, inf, inf | 0x80, (inf, inf), (inf, inf | 0x80)
    b[0, 2], b[7, 4] = 0, 0x7F
    for out in ("float32", "e4m3", "e5m2", "int8"):
        for overflow in ("saturate", "ieee"):
            check(device, a, b, GemmSpec("e5m2", "e4m3", out, overflow=overflow, scale=-3))


def test_cancellation(device, specs, rng):
    """x·y − x·y, and with one least product left: zeros are +0, and what is left is exact."""
    for spec in specs:
        half_a, half_b = finite_codes(rng, spec.a, (9, 30)), finite_codes(rng, spec.b, (30, 6))
        if isinstance(spec.a, FloatFormat):
            a = np.concatenate([half_a, half_a ^ spec.a.sign_code], axis=1)
        else:
            a = np.concatenate([half_a, (-half_a.astype(np.int64)) & ((1 << spec.a.bits) - 1)], axis=1)
        b = np.concatenate([half_b, half_b])
        check(device, a, b, spec)
        a[0, 0] ^= 1
        check(device, a, b, spec)


def test_ties(device):
    """Sums that lie half-way between two outputs, even and odd, and a least bit above and below."""
    spec = GemmSpec("e4m3", "e4m3", "e4m3")
    rows = []
    for code in range(0x38, 0x50):  # 1 to 30: each plus half its ulp, then plus or minus 2**-18
        for least in (0x00, 0x01, 0x81):
            ulp = 0x38 + (code - 0x38) // 8 * 8 - 24  # 2**e / 8
            rows.append([code, ulp - 8, least])
    a = np.array(rows, np.uint8)
    b = np.array([[0x38], [0x38], [0x01]], np.uint8)  # 1, 1, least
    for rounding in ("nearest_even", "toward_zero", "stochastic:1", "stochastic_floor:1"):
        tie = GemmSpec("e4m3", "e4m3", "e4m3", rounding=rounding)
        check(device, a, b, tie, seed=9)
        check(device, a ^ 0x80, b, tie, seed=9)
    assert len(np.unique(device.gemm(a, b, spec).codes)) > 20


def test_every_layout_and_view(device, specs, rng):
    for spec in specs[:2]:
        big_a, big_b = random_codes(rng, spec.a, (40, 44)), random_codes(rng, spec.b, (44, 40))
        views_a = [big_a[:9, :21], big_a.T[:9, :21], big_a[1:37:4, 2::2], big_a[8::-1, 20::-1], big_a.T[::4, :21][:9]]
        views_a.append(np.broadcast_to(big_a[:1, :21], (9, 21)))
        views_b = [big_b[:21, :7], big_b.T[:21, :7], big_b[2::2, 1:36:5], big_b[20::-1, 6::-1]]
        views_b.append(np.broadcast_to(big_b[:21, :1], (21, 7)))
        for a in views_a:
            for b in views_b:
                check(device, a[:9, :21], b[:21, :7], spec, seed=3)


def test_tensors(device, specs, rng):
    for spec in specs[:2]:
        a, b = random_codes(rng, spec.a, (6, 10)), random_codes(rng, spec.b, (4, 10))
        given: Any = device.gemm(torch.from_numpy(a), torch.from_numpy(b).T, spec, seed=2).codes
        np.testing.assert_array_equal(given.numpy(), golden_gemm(a, b.T, spec, seed=2).codes)


def test_operands_are_not_changed(device, specs, rng):
    spec = specs[0]
    a, b = random_codes(rng, spec.a, (9, 9)), random_codes(rng, spec.b, (9, 9))
    before = a.copy(), b.copy()
    device.gemm(a, b, spec)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def test_results_are_the_callers_own(device, specs, rng):
    """A later GEMM does not change an earlier result."""
    spec = specs[0]
    a, b = random_codes(rng, spec.a, (9, 9)), random_codes(rng, spec.b, (9, 9))
    first = device.gemm(a, b, spec).codes
    kept = first.copy()
    device.gemm(a[::-1], b, spec)
    np.testing.assert_array_equal(first, kept)


def test_flags_are_of_one_gemm_only(device):
    nan, one, large = (np.array([[code]], np.uint8) for code in (0x7F, 0x38, 0x7E))
    spec = GemmSpec("e4m3", "e4m3", "int8")
    assert device.gemm(nan, one, spec)[1:] == (True, False)
    assert device.gemm(large, large, spec)[1:] == (False, True)
    assert device.gemm(one, one, spec)[1:] == (False, False)


def test_other_formats_or_a_refusal(device, name, rng):
    if name.startswith(("rtl", "double", "pynq-sim", "serial-sim")):
        with pytest.raises(
            UnsupportedSpecError, match=r"needs \d+ bits; cores have at most 128; device emulator runs it"
        ):
            device.check(GemmSpec("bfloat16", "float32"), 10)
        device.check(GemmSpec("e4m3", "e4m3", accumulator="e6m5"), 10)  # which a core of its own runs
        return
    for spec in WIDE:
        for m, k, n in SHAPES:
            check(device, random_codes(rng, spec.a, (m, k)), random_codes(rng, spec.b, (k, n)), spec, seed=k)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (
            np.zeros((1, 65), np.uint8),
            np.zeros((65, 1), np.uint8),
            {},
            "K = 65 is beyond the exact accumulator's max_k = 64",
        ),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8), {}, r"\(2, 3\) and \(2, 3\) differ in K"),
        (np.zeros((2, 3, 1), np.uint8), np.zeros((3, 1), np.uint8), {}, "A and B must be matrices"),
        (np.zeros((0, 3), np.uint8), np.zeros((3, 1), np.uint8), {}, "M, N and K must be at least 1"),
        (np.zeros((2, 3)), np.zeros((3, 1), np.uint8), {}, "float8_e4m3fn codes must be integers, not float64"),
        (np.full((2, 3), 256), np.zeros((3, 1), np.uint8), {}, "code 256 is outside float8_e4m3fn: codes are 0 to 255"),
        (np.zeros((2, 3), np.uint8), np.full((3, 1), -1), {}, "code -1 is outside float8_e4m3fn"),
        (np.zeros((2, 3), np.uint8), np.zeros((3, 1), np.uint8), {"seed": 1 << 64}, "seed must be 0 to"),
        (np.zeros((2, 3), np.uint8), np.zeros((3, 1), np.uint8), {"seed": 1.5}, "seed must be an integer, not 1.5"),
    ],
)
def test_bad_input_is_refused_and_the_next_gemm_is_right(device, a, b, options, message):
    spec = GemmSpec("e4m3", "e4m3", accumulator="exact:64")
    before = device.stats.gemms
    with pytest.raises((ValueError, TypeError), match=message):
        device.gemm(a, b, spec, **options)
    assert device.stats.gemms == before
    ones = np.full((2, 2), 0x38, np.uint8)
    check(device, ones, ones, spec)
