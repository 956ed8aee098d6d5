"""GEMMs by torch operations are the golden model's in all codes and flags, on torch's CPU device and on CUDA."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import FloatFormat, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.random_bits import output_words
from halfulp.numerics.rounding import Rounding
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.torch_gemm import tensor_gemm
from halfulp.sim.torch_rounding import output_halves, quantise_tensor, tensor_values

PAIRS = [
    ("e4m3", "e4m3"),
    ("e5m2", "e5m2"),
    ("int8", "uint8"),
    ("e2m1", "int4"),
    ("bfloat16", "float16"),
    ("float32", "int8"),
    ("float32", "float32"),
    ("e6m5-nosub", "ternary"),
    ("posit8_1", "fixed4.8"),
]
ACCUMULATORS = (
    "exact",
    "e6m5:stochastic:13",
    "e6m5",
    "e5m2:ieee",
    "e8m23:toward_zero",
    "e4m3-nosub:stochastic_floor:24",
    "e8m7:stochastic:16:ieee",
)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


def any_codes(rng, fmt, shape, specials=True):
    codes = rng.choice(fmt.valid_codes, shape) if fmt.bits <= 16 else rng.integers(0, 1 << fmt.bits, shape, np.uint64)
    if isinstance(fmt, FloatFormat) and not specials:
        codes = np.where((codes & (fmt.sign_code - 1)) > fmt.max_code, 1, codes)
    return codes.astype(fmt.code_dtype)


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
@pytest.mark.parametrize(("name_a", "name_b"), PAIRS)
def test_it_is_golden(name_a, name_b, accumulator, device, rng):
    for specials in (False, True):
        m, k, n = (int(x) for x in rng.integers(1, 21, 3))
        spec = GemmSpec(
            name_a,
            name_b,
            str(rng.choice(["float32", "e4m3", "e5m2", "int8", "int32", "e3m2", "bfloat16", "posit8_1"])),
            accumulator,
            str(rng.choice(["nearest_even", "stochastic:16", "stochastic_floor:7", "toward_zero"])),
            int(rng.integers(-9, 9)),
            str(rng.choice(["saturate", "ieee"])),
        )
        seed = int(rng.integers(1 << 62))
        a, b = any_codes(rng, spec.a, (m, k), specials), any_codes(rng, spec.b, (k, n), specials)
        golden = golden_gemm(a, b, spec, seed=seed)
        got = tensor_gemm(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device), spec, seed=seed)
        assert got.codes.device.type == device
        codes = got.codes.cpu().numpy()
        assert codes.dtype == golden.codes.dtype
        wrong = np.argwhere(codes != golden.codes)
        assert not wrong.size, f"{spec}, seed {seed}: {len(wrong)} codes differ, first at {wrong[0]}"
        assert (got.invalid, got.overflow) == golden[1:], f"{spec}, seed {seed}"


def test_what_goes_by_the_cpu_comes_back(device, rng):
    spec = GemmSpec("e4m3", "int4", "posit8_1", "fixed:20:-9", "stochastic:5")
    a, b = any_codes(rng, spec.a, (3, 5)), any_codes(rng, spec.b, (5, 4))
    got = tensor_gemm(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device), spec, seed=3)
    golden = golden_gemm(a, b, spec, seed=3)
    assert got.codes.device.type == device
    assert (got.codes.cpu().numpy() == golden.codes).all()
    assert got[1:] == golden[1:]


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e6m5-nosub", "bfloat16", "float32", "int8", "uint16", "tf32"])
def test_values_of_all_kinds_of_codes(name, device, rng):
    fmt = get_format(name)
    codes = any_codes(rng, fmt, (50, 41))
    got = tensor_values(torch.from_numpy(codes.astype(np.int64)).to(device), fmt).cpu().numpy()
    expected = fmt.to_float64(codes)
    assert ((got == expected) | (np.isnan(got) & np.isnan(expected))).all()
    assert (np.signbit(got) == np.signbit(expected))[~np.isnan(expected)].all()


@pytest.mark.parametrize("name", ["e4m3", "e5m2-finite", "e8m7-nosub", "float32", "int8", "int24", "e4m0-finite"])
def test_quantising_is_the_kernels(name, device, rng):
    """Every size of float32, subnormals and specials among them; e4m0 goes by the CPU."""
    for text in ("nearest_even", "stochastic:16", "stochastic_floor:9"):
        x = rng.integers(0, 1 << 32, (17, 45), np.uint32).view(np.float32)
        x[3] = rng.integers(-64, 64, 45) * 2.0 ** rng.integers(-12, 4, 45)
        for scale, overflow in ((0, "saturate"), (-20, "ieee"), (33, "saturate")):
            expected = quantise_flagged(x, name, text, seed=5, scale=scale, overflow=overflow)
            got = quantise_tensor(
                torch.from_numpy(x).to(device), name, Rounding.parse(text), seed=5, scale=scale, overflow=overflow
            )
            assert (got.codes.cpu().numpy() == expected.codes).all()
            assert got[1:] == expected[1:]


def test_random_words_are_the_contracts(device):
    for seed in (0, (1 << 64) - 1, 0x1234_5678_9ABC_DEF0):
        got = output_halves(seed, 5, 23, 11, torch.device(device)).cpu().numpy()
        assert (got == output_words(seed, np.arange(5), np.arange(23), 11)).all()


def test_exact_sums_at_the_edges_of_their_ways(device, rng):
    """Sums beyond 2**53 units are split, those beyond 84 bits go by the CPU; a lone least bit decides in all."""
    e5m2, float32 = get_format("e5m2"), get_format("float32")
    big, tiny = e5m2.encode(from_float64([57344.0])).codes[0], 1
    a = np.array([[big, tiny, big ^ 0x80]], np.uint8)
    b = np.array([[big], [tiny], [big]], np.uint8)
    spec = GemmSpec(e5m2, e5m2, "float32")
    got = tensor_gemm(torch.from_numpy(a).to(device), torch.from_numpy(b).to(device), spec)
    assert float32.to_float64(got.codes.cpu().numpy())[0, 0] == 2.0**-32
    for last in (0, 60, 100):
        x = np.array([[1.0, 2.0**-(24), 2.0 ** -(24 + last)]], np.float32)
        codes = torch.from_numpy(x.view(np.uint32)).to(device)
        ones = torch.from_numpy(np.full((3, 1), 0x3F800000, np.uint32)).to(device)
        expected = golden_gemm(codes.cpu().numpy(), ones.cpu().numpy(), GemmSpec("float32", "float32"))
        got = tensor_gemm(codes, ones, GemmSpec("float32", "float32"))
        assert (got.codes.cpu().numpy() == expected.codes).all()


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 1), TypeError, "float8_e4m3fn codes must be integers, not torch.float32"),
        (torch.zeros(2, dtype=torch.uint8), torch.zeros(3, 1), ValueError, r"A must be a matrix, not of shape \(2,\)"),
        (torch.zeros((2, 3), dtype=torch.uint8), torch.zeros((2, 3), dtype=torch.uint8), ValueError, "differ in K"),
        (torch.full((1, 1), 256), torch.zeros((1, 1), dtype=torch.uint8), ValueError, "code 256 is outside float8"),
        (torch.zeros((0, 1), dtype=torch.uint8), torch.zeros((1, 1), dtype=torch.uint8), ValueError, "at least 1"),
    ],
)
def test_bad_operands_are_refused(a, b, error, message):
    with pytest.raises(error, match=message):
        tensor_gemm(a, b, GemmSpec("e4m3", "e4m3"))


def test_a_cpu_without_vnni_takes_no_int8_product(monkeypatch):
    """Its int8 product saturates pairs at 16 bits: largest codes all along K would come out wrong."""

    def refuse(*_: object) -> None:
        raise AssertionError("an int8 product was asked for")

    monkeypatch.setattr("halfulp.sim.torch_gemm.has_fast_int8", lambda: False)
    monkeypatch.setattr("halfulp.sim.torch_gemm._int8_product", refuse)
    spec = GemmSpec("int8", "int8", "int32")
    a, b = np.full((3, 40), 127, np.uint8), np.full((40, 5), 127, np.uint8)
    found = tensor_gemm(torch.from_numpy(a), torch.from_numpy(b), spec).codes
    np.testing.assert_array_equal(found.numpy().view(np.uint32), golden_gemm(a, b, spec).codes)
