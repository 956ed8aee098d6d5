"""Verification of results: a right result passes, a wrong one is found and its tile named."""

from __future__ import annotations

import pytest

from halfulp.host.errors import VerificationError
from halfulp.host.verification import ResultVerifier
from halfulp.numerics.formats import FloatFormat
from halfulp.numerics.gemm import GemmSpec, golden_gemm


def operands(rng, spec, m, k, n):
    codes = (rng.integers(0, 1 << f.bits, s, f.code_dtype) for f, s in ((spec.a, (m, k)), (spec.b, (k, n))))
    return tuple(codes)


@pytest.mark.parametrize(
    "spec",
    [
        GemmSpec("e4m3", "e5m2", "e4m3", rounding="stochastic:5"),
        GemmSpec("int8", "int8", "int8", scale=-7, rounding="stochastic_floor:2"),
        GemmSpec("int8", "int4", "int32"),
    ],
    ids=str,
)
def test_every_tile_of_a_right_result_passes_and_of_a_wrong_one_is_named(rng, spec):
    a, b = operands(rng, spec, 20, 9, 13)
    result = golden_gemm(a, b, spec, seed=3)
    verifier = ResultVerifier(1.0)
    verifier.verify(a, b, result, spec, seed=3, tile=(8, 4))
    assert verifier.tiles == 12
    result.codes[17, 6] ^= 1
    right = golden_gemm(a, b, spec, seed=3).codes[17, 6]
    message = rf"rtl:8x4: C\[16:20, 4:8\] differs .*: C\[17, 6\] is .* code {right ^ 1:#x}, not {right:#x}"
    with pytest.raises(VerificationError, match=message) as raised:
        verifier.verify(a, b, result, spec, seed=3, tile=(8, 4), device="rtl:8x4")
    assert (raised.value.rows, raised.value.columns) == ((16, 20), (4, 8))


EXACT = [
    GemmSpec("int8", "int8", "int32"),
    GemmSpec("int8", "int8", "float32"),
    GemmSpec("int4", "int8", "int32", scale=3),
    GemmSpec("e2m1", "e2m1", "float32", scale=-5),
    GemmSpec("e2m3", "e3m2", "e8m19"),
]


@pytest.mark.parametrize("spec", EXACT, ids=str)
def test_sums_find_any_single_wrong_code(rng, spec):
    a, b = operands(rng, spec, 30, 7, 40)
    result = golden_gemm(a, b, spec)
    verifier = ResultVerifier(1e-9)  # one of 20 tiles, so nearly all is left to the sums
    verifier.verify(a, b, result, spec, seed=0)
    assert verifier.checksums == 1
    found = 0
    for _ in range(60):
        i, j, bit = rng.integers(30), rng.integers(40), rng.integers(spec.out.bits)
        wrong = result.codes.copy()
        wrong[i, j] ^= wrong.dtype.type(1 << bit)
        if isinstance(spec.out, FloatFormat) and wrong[i, j] == spec.out.sign_code:
            continue  # -0 is a wrong code, but no wrong number
        with pytest.raises(VerificationError) as raised:
            verifier.verify(a, b, result._replace(codes=wrong), spec, seed=0, device="x")
        rows, columns = raised.value.rows, raised.value.columns
        assert rows[0] <= i < rows[1]
        assert columns[0] <= j < columns[1]
        found += 1
    assert found > 40


def test_sums_are_not_compared_where_results_may_have_been_rounded(rng):
    for spec in (
        GemmSpec("int8", "int8", "int8"),
        GemmSpec("e4m3", "e4m3", "float32"),
        GemmSpec("int8", "int8", "int32", scale=-1),
        GemmSpec("int8", "int8", "float32", scale=-3000),
        GemmSpec("int8", "int8", "uint32"),
    ):
        a, b = operands(rng, spec, 30, 300, 40)
        verifier = ResultVerifier(1e-9)
        verifier.verify(a, b, golden_gemm(a, b, spec), spec, seed=0)
        assert (verifier.tiles, verifier.checksums) == (1, 0)


def test_tiles_are_drawn_anew(rng):
    """A fault in one fixed tile of a rounded result is found after a few GEMMs."""
    spec = GemmSpec("e4m3", "e4m3", "bfloat16")
    a, b = operands(rng, spec, 32, 4, 32)
    result = golden_gemm(a, b, spec)
    result.codes[9, 9] ^= 1
    verifier = ResultVerifier(0.25)

    def work() -> None:
        for _ in range(100):
            verifier.verify(a, b, result, spec, seed=0)

    with pytest.raises(VerificationError, match=r"C\[8:16, 8:16\]"):
        work()


@pytest.mark.parametrize("rate", [-0.1, 0, 1.01, float("nan")])
def test_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="verify must be a share of the tiles, from 0 to 1, not"):
        ResultVerifier(rate)
    with pytest.raises(TypeError, match="verify must be a number, not 'all'"):
        ResultVerifier("all")  # pyright: ignore[reportArgumentType]  (what a user may do)
