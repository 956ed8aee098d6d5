"""Posits, logarithmic, fixed-point, ternary and binary operands run on matrix products and kernels, equal to golden."""

from __future__ import annotations

import numpy as np
import pytest

import halfulp.sim.emulator as emulator
from halfulp.numerics.exact import FINITE
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.operands import as_floats

NAMES = ["posit8_1", "posit16_1", "posit8_2", "log8", "log16", "log6_4", "fixed4.4", "fixed8.8", "ternary", "binary"]


@pytest.fixture
def no_golden(monkeypatch):
    """The emulator may not fall back."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the emulator fell back to the golden model")

    monkeypatch.setattr(emulator, "golden_gemm", refuse)


@pytest.mark.parametrize("name", [*NAMES, "fixed12.12"])
def test_values_and_range_of_operands(name, rng):
    fmt = get_format(name)
    for codes in (
        rng.choice(fmt.valid_codes, (5, 9)),
        rng.choice(fmt.valid_codes, (9, 5)).T,
        fmt.valid_codes[:1, None],
    ):
        real = fmt.decode(codes)
        operand = as_floats(codes, fmt, np.float64, pad=(4, 4))
        finite = real.kind == FINITE
        assert (operand.values == np.where(finite, fmt.to_float64(codes), 0)).all()
        assert operand.special == (not finite.all())
        units = operand.values * 2.0**-operand.lsb_exponent
        assert (units == np.rint(units)).all()
        assert np.abs(units).max() == operand.max_units or operand.max_units > np.abs(units).max() == 0


@pytest.mark.parametrize("accumulator", ["exact", "e8m23:stochastic:9", "e6m5", "e5m10:toward_zero"])
@pytest.mark.parametrize("name", NAMES)
def test_gemms_do_not_fall_back(name, accumulator, rng, no_golden):
    """Codes of small magnitude, for which the ways of the emulator are proven; NaR among them at times."""
    fmt = get_format(name)
    values = fmt.to_float64(fmt.valid_codes)
    small = fmt.valid_codes[(np.abs(values) < 4) & (np.abs(values) > 1 / 16) | (values == 0) | np.isnan(values)]
    for other in (fmt, get_format("e4m3"), get_format("int4")):
        m, n, k = (int(rng.integers(1, limit)) for limit in (7, 9, 40))
        a = rng.choice(small, (m, k))
        b = rng.choice(small, (k, n)) if other is fmt else rng.integers(0, 16, (k, n), np.uint8)
        for out, rounding in ((fmt, "stochastic:5"), ("float32", "nearest_even"), ("fixed4.4", "stochastic_floor:3")):
            spec = GemmSpec(fmt, other, out, accumulator, rounding, int(rng.integers(-3, 2)))
            expected, found = golden_gemm(a, b, spec, seed=3), emulate_gemm(a, b, spec, seed=3)
            assert (found.codes == expected.codes).all(), spec
            assert found[1:] == expected[1:], spec


@pytest.mark.parametrize("name", ["posit8_1", "log8", "posit16_2", "log9_2", "fixed16.16"])
def test_any_codes_are_golden(name, rng):
    """The whole range, which may be beyond what a product of floats holds."""
    fmt = get_format(name)
    for accumulator in ("exact", "e8m23", "e5m2:stochastic:3:ieee"):
        a, b = (rng.integers(0, 1 << fmt.bits, shape).astype(fmt.code_dtype) for shape in ((5, 30), (30, 7)))
        spec = GemmSpec(fmt, fmt, "bfloat16", accumulator, "stochastic:11")
        expected, found = golden_gemm(a, b, spec, seed=3), emulate_gemm(a, b, spec, seed=3)
        assert (found.codes == expected.codes).all()
        assert found[1:] == expected[1:]
