# amaranth: UnusedElaboratable=no
"""Float adder and rounding lane proved against plain specifications: small widths, all inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed

from halfulp.hw.float_adder import FloatAdder
from halfulp.numerics.accumulators import FloatAccumulator, parse_accumulator

from .plain_rounding import rounded_code
from .proofs import CounterexampleError, prove_pipeline

LONG = pytest.mark.proof
"""Of `make proofs`."""


def adder_and_specification(
    text: str, bits: int, low: int, high: int, zeros: int, stages: int, mutate: bool = False
) -> tuple[Module, dict[str, Signal], Signal]:
    """A float adder beside the exact sum in integers, rounded by comparing it with all numbers of the format."""
    accumulator = parse_accumulator(text)
    assert isinstance(accumulator, FloatAccumulator)
    fmt, rounding = accumulator.format, accumulator.rounding
    m = Module()
    m.submodules.adder = adder = FloatAdder(
        accumulator=accumulator,
        significand_bits=bits,
        min_exponent=low,
        max_exponent=high,
        leading_zeros=zeros,
        stages=stages,
    )
    inputs = {
        "magnitude": Signal(fmt.bits - 1),
        "negative": Signal(),
        "significand": Signal(bits),
        "exponent": Signal(len(adder.addend.exponent)),
        "addend_negative": Signal(),
        "random": Signal(rounding.random_bits),
    }
    magnitude, negative, significand, exponent, addend_negative, random = inputs.values()
    m.d.comb += [
        adder.sum.magnitude.eq(magnitude),
        adder.sum.negative.eq(negative),
        adder.addend.significand.eq(significand),
        adder.addend.exponent.eq(exponent),
        adder.addend.negative.eq(addend_negative),
        adder.random.eq(random),
    ]
    unit = min(fmt.lsb_exponent, low)
    field, fraction = magnitude[fmt.mantissa_bits :], magnitude[: fmt.mantissa_bits]
    own = Signal(fmt.significand_bits + (1 << fmt.exponent_bits) + fmt.lsb_exponent - unit)
    other = Signal(bits + high - unit + 1)
    m.d.comb += [
        own.eq(
            (Cat(fraction, field.any()) << Mux(field.any(), field - 1, 0)[: len(field)]) << (fmt.lsb_exponent - unit)
        ),
        other.eq((significand << exponent) << (low - unit)),
    ]
    exact = Signal(signed(max(len(own), len(other)) + 2))
    size = Signal(len(exact))
    m.d.comb += [
        exact.eq(Mux(negative, -own, own) + Mux(addend_negative, -other, other)),
        size.eq(Mux(exact < 0, -exact, exact)),
    ]
    code = rounded_code(m, size, fmt, unit, rounding, random)
    if mutate:
        code = code ^ (size == 3)
    beyond = code > fmt.max_code
    wanted = Mux(beyond, fmt.max_code, code)
    # What is no accumulator, or more leading zeros than were announced, is not asked for.
    asked: Value = (magnitude <= fmt.max_code) & (exponent <= high - low)
    asked &= (significand == 0) | (significand >= 1 << (bits - 1 - zeros))
    if not fmt.subnormals:
        asked &= field.any() | (magnitude == 0)
    total = adder.total
    right = (total.magnitude == wanted) & (total.overflow == beyond)
    right &= (total.magnitude == 0) | (total.negative == (exact < 0))
    holds = Signal()
    m.d.comb += holds.eq(~asked | right)
    return m, {name: signal for name, signal in inputs.items() if len(signal)}, holds


@pytest.mark.parametrize(
    ("text", "bits", "low", "high", "zeros", "stages"),
    [
        ("e3m2:stochastic:2", 3, -9, 3, 1, 1),
        ("e3m1", 3, -8, 2, 2, 4),
        pytest.param("e3m2-nosub:stochastic_floor:3", 4, -12, 3, 1, 3, marks=LONG),
        pytest.param("e3m2-nosub", 4, -12, 3, 3, 6, marks=LONG),
        pytest.param("e3m3:stochastic:4", 4, -12, 3, 1, 2, marks=LONG),
        pytest.param("e3m3-finite:toward_zero", 5, -14, 3, 4, 5, marks=LONG),
        pytest.param("e4m2", 4, -16, 4, 1, 1, marks=LONG),
        pytest.param("e4m1-nosub:stochastic:3", 4, -18, 4, 0, 1, marks=LONG),
    ],
)
def test_float_adder_rounds_the_exact_sum(
    text: str, bits: int, low: int, high: int, zeros: int, stages: int, tmp_path: Path
) -> None:
    design, inputs, holds = adder_and_specification(text, bits, low, high, zeros, stages)
    prove_pipeline(design, inputs, holds, tmp_path, timeout=280)


def test_a_proof_finds_what_is_wrong(tmp_path: Path) -> None:
    """One exact sum whose code is inverted in the specification comes back as the counterexample."""
    design, inputs, holds = adder_and_specification("e2m1-finite", 2, -1, 0, 0, 1, mutate=True)
    with pytest.raises(CounterexampleError, match=r"^not for .*significand = \d"):
        prove_pipeline(design, inputs, holds, tmp_path)
