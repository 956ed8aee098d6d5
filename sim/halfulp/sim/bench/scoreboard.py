"""Compares results with the golden model, and says of the first wrong one all that helps to find the fault."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import BlockGemmSpec
from halfulp.numerics.exact import FINITE, INFINITE
from halfulp.numerics.formats import CodeArray, FloatFormat, Format
from halfulp.numerics.gemm import GemmResult, GemmSpec, exact_gemm
from halfulp.sim.bench.stimulus import GemmCase, PlacedGemm

__all__ = ["MismatchError", "Scoreboard", "describe_mismatch"]

SHOWN_PRODUCTS = 12


class MismatchError(AssertionError):
    """A core's result is not the golden model's; the message has operands, exact value and ulps."""


class Scoreboard:
    """Checks GEMMs one by one and counts what it has seen."""

    def __init__(self) -> None:
        self.gemms = 0
        self.results = 0
        self.macs = 0

    def check(self, placed: PlacedGemm) -> GemmResult:
        """Compare C in memory with the golden model, and everything around it with what was there before.

        Returns the golden result, whose flags the caller compares with those of the whole batch; raises
        `MismatchError`.
        """
        golden = placed.case.golden()
        found = placed.result()
        if not np.array_equal(found, golden.codes):
            raise MismatchError(describe_mismatch(placed.case, found, golden.codes))
        strayed = placed.strayed()
        if strayed is not None:
            raise MismatchError(f"a write outside of C at {strayed:#x}\n  {placed.case}")
        m, n, _ = placed.case.shape
        self.gemms += 1
        self.results += m * n
        self.macs += placed.case.macs
        return golden


def describe_mismatch(case: GemmCase, found: CodeArray, expected: CodeArray) -> str:
    """First wrong result of a GEMM: position, codes, values, ulps apart, exact value and operands."""
    wrong = np.argwhere(found != expected)
    i, j = (int(index) for index in wrong[0])
    fmt = case.spec.out
    got, want = int(found[i, j]), int(expected[i, j])
    lines = [
        f"{len(wrong)} of {found.size} results differ, first C[{i}, {j}] of {case}",
        f"  found    {_show(fmt, got)}",
        f"  expected {_show(fmt, want)}, {_distance(fmt, got, want)}",
    ]
    codes = case.codes
    a, b = codes[0][i], codes[1][:, j]
    if isinstance(case.a, Blocks) and isinstance(case.b, Blocks) and isinstance(case.spec, BlockGemmSpec):
        values_a = case.spec.a.to_float64(case.a, axis=1)[i]
        values_b = case.spec.b.to_float64(case.b, axis=0)[:, j]
    else:
        assert isinstance(case.spec, GemmSpec)
        lines.append(f"  exact    {_exact(case.spec, a, b)}")
        values_a, values_b = case.spec.a.to_float64(a), case.spec.b.to_float64(b)
    shown = [k for k in range(len(a)) if values_a[k] != 0 and values_b[k] != 0]
    for k in shown[:SHOWN_PRODUCTS]:
        lines.append(f"  k = {k}: {values_a[k]:g} (code {int(a[k]):#x}) × {values_b[k]:g} (code {int(b[k]):#x})")
    if len(shown) > SHOWN_PRODUCTS:
        lines.append(f"  and {len(shown) - SHOWN_PRODUCTS} more products that are not 0")
    return "\n".join(lines)


def _show(fmt: Format, code: int) -> str:
    value = float(fmt.to_float64(np.array([code], fmt.code_dtype))[0])
    return f"{value:g} (code {code:#x})"


def _order(fmt: Format, code: int) -> int | None:
    """Place of a finite code among all values in order; None for NaN and Inf."""
    array = np.array([code], fmt.code_dtype)
    if fmt.decode(array).kind[0] != FINITE:
        return None
    if isinstance(fmt, FloatFormat):
        sign = fmt.sign_code
        return -(code & (sign - 1)) if sign and code & sign else code
    return int(fmt.to_float64(array)[0])


def _distance(fmt: Format, got: int, want: int) -> str:
    places = _order(fmt, got), _order(fmt, want)
    if places[0] is None or places[1] is None:
        return "not both finite"
    return f"{places[0] - places[1]:+d} ulps apart"


def _exact(spec: GemmSpec, a: CodeArray, b: CodeArray) -> str:
    total = exact_gemm(spec.a.decode(a[None, :]), spec.b.decode(b[:, None]))
    kind = total.kind[0, 0]
    if kind != FINITE:
        return ("-" if total.negative[0, 0] else "") + "Inf" if kind == INFINITE else "NaN"
    significand, exponent = int(total.significand[0, 0]), int(total.exponent[0, 0]) + spec.scale
    sign = "-" if total.negative[0, 0] else ""
    text = f"{sign}{significand} × 2^{exponent}"
    if abs(exponent) < 1000:
        text += f" = {sign}{float(significand * Fraction(2) ** exponent):.10g}"
    return text
