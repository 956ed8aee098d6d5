# amaranth: UnusedElaboratable=no
"""Float adder and rounding lane proved against plain specifications: small widths, all inputs."""

from __future__ import annotations

import inspect
import types
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed

from halfulp.hw import float_adder
from halfulp.hw.config import ArrayConfig
from halfulp.hw.float_adder import FloatAdder
from halfulp.hw.rounder import RoundingLane, RoundingSetup
from halfulp.numerics.accumulators import FloatAccumulator, parse_accumulator
from halfulp.numerics.formats import FloatFormat, get_format
from halfulp.numerics.rounding import KINDS, Rounding

from .plain_rounding import rounded_code
from .proofs import CounterexampleError, prove_pipeline

LONG = pytest.mark.proof
"""Of `make proofs`."""


def adder_and_specification(
    text: str, bits: int, low: int, high: int, zeros: int, stages: int, adder_type: type[FloatAdder] = FloatAdder
) -> tuple[Module, dict[str, Signal], Signal]:
    """A float adder beside the exact sum in integers, rounded by comparing it with all numbers of the format."""
    accumulator = parse_accumulator(text)
    assert isinstance(accumulator, FloatAccumulator)
    fmt, rounding = accumulator.format, accumulator.rounding
    m = Module()
    m.submodules.adder = adder = adder_type(
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
        adder.sum_is_normal.eq(magnitude[fmt.mantissa_bits :].any()),
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
    right &= adder.total_is_normal == total.magnitude[fmt.mantissa_bits :].any()
    holds = Signal()
    m.d.comb += holds.eq(~asked | right)
    return m, {name: signal for name, signal in inputs.items() if len(signal)}, holds


@pytest.mark.parametrize(
    ("text", "bits", "low", "high", "zeros", "stages"),
    [
        ("e3m2:stochastic:2", 3, -9, 3, 1, 1),
        ("e3m1", 3, -8, 2, 2, 4),
        pytest.param("e3m2-nosub:stochastic_floor:3", 4, -12, 3, 1, 3, marks=LONG),
        ("e3m2-nosub", 4, -12, 3, 3, 6),
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


def lane_and_specification(
    fmt: FloatFormat, rounding: Rounding, scale: int, ieee: bool
) -> tuple[Module, dict[str, Signal], Signal]:
    """A rounding lane of a core with short sums beside these, rounded by comparison with all numbers of the format."""
    config = ArrayConfig(
        a_formats=("e2m1",),
        b_formats=("e2m1",),
        out_formats=(fmt, "int4"),
        accumulator="exact:3",
        roundings=(rounding.kind,),
    )
    m = Module()
    m.submodules.setup = setup = RoundingSetup(config=config)
    m.submodules.lane = lane = RoundingLane(config=config)
    result, random = lane.result, Signal(rounding.random_bits)
    m.d.comb += [
        setup.load.eq(1),
        setup.tile.rounding_mode.eq(KINDS.index(rounding.kind)),
        setup.tile.random_bits.eq(rounding.random_bits),
        setup.tile.overflow_ieee.eq(ieee),
        setup.tile.scale.eq(scale),
        lane.rounding.eq(setup.rounding),
        lane.valid.eq(1),
        lane.random.eq(random << (16 - rounding.random_bits)),
    ]
    inputs = {
        "total": Signal(config.accumulator_bits),
        "nan": Signal(),
        "plus_inf": Signal(),
        "minus_inf": Signal(),
        "random": random,
    }
    total, nan, plus_inf, minus_inf, _ = inputs.values()
    negative, size = total[-1], Signal(len(total))
    m.d.comb += [
        result.sum.eq(total.as_signed()),
        result.nan.eq(nan),
        result.plus_inf.eq(plus_inf),
        result.minus_inf.eq(minus_inf),
        size.eq(Mux(negative, -total, total)),
    ]
    unit = config.a_formats[0].lsb_exponent + config.b_formats[0].lsb_exponent + scale
    code = rounded_code(m, size, fmt, unit, rounding, random)
    beyond = code > fmt.max_code
    to_infinity = ieee and rounding.kind != "toward_zero"
    finite = Mux(beyond, fmt.inf_code if to_infinity else fmt.max_code, code)
    is_nan, is_inf = nan | (plus_inf & minus_inf), plus_inf | minus_inf
    magnitude = Mux(is_inf, fmt.inf_code, finite)
    sign = Mux(is_inf, minus_inf, negative) & magnitude.any()
    wanted = Mux(is_nan, fmt.nan_code, magnitude | sign << (fmt.bits - 1))
    holds = Signal()
    m.d.comb += holds.eq((lane.code == wanted) & (lane.overflow == (beyond & ~is_nan & ~is_inf)) & ~lane.invalid)
    return m, {name: signal for name, signal in inputs.items() if len(signal)}, holds


@pytest.mark.parametrize(
    ("text", "mode", "scale", "ieee"),
    [
        ("e3m2-ieee", "stochastic:2", -4, False),
        ("e3m2-ieee", "nearest_even", -2, True),
        pytest.param("e3m2-ieee-nosub", "nearest_even", -5, False, marks=LONG),
        pytest.param("e3m2-ieee-nosub", "stochastic:4", -5, True, marks=LONG),
        pytest.param("e2m3-ieee", "stochastic_floor:3", -6, True, marks=LONG),
        pytest.param("e4m1-ieee", "toward_zero", -10, True, marks=LONG),
        pytest.param("e3m3-ieee", "stochastic:16", -6, False, marks=LONG),
    ],
)
def test_rounding_lane_rounds_the_sum(text: str, mode: str, scale: int, ieee: bool, tmp_path: Path) -> None:
    fmt = get_format(text)
    assert isinstance(fmt, FloatFormat)
    prove_pipeline(*lane_and_specification(fmt, Rounding.parse(mode), scale, ieee), tmp_path, timeout=280)


MUTANTS = {
    "no sticky bit": ("Cat(shifted[0] | lost, shifted[1:])", "shifted", "e3m2"),
    "a tie goes up from an even one": (
        "Cat((~odd).replicate(places - 1), odd)",
        "Const(1 << (places - 1))",
        "e3m2",
    ),
    "a random bit is stuck": (
        "Cat(Const(0, unlooked), self.random)",
        "Cat(Const(0, unlooked + 1), self.random[1:])",
        "e3m1:stochastic_floor:2",
    ),
    "no centring half": ("Const(1 << max(unlooked - 1, 0), unlooked)", "Const(0, unlooked)", "e3m1:stochastic:2"),
    "the carry is dropped": ("+ Cat(carry, addend,", "+ Cat(Const(0, 1), addend,", "e3m1:toward_zero"),
    "subnormal numbers are flushed": (
        "fraction, normal)",
        "Mux(normal, fraction, 0)[: len(fraction)], normal)",
        "e3m1",
    ),
    "no saturation": ("Mux(too_large, fmt.max_code, magnitude)", "magnitude", "e3m1"),
}
"""What is wrong: the source text that is replaced, by what, and the accumulator that has to show it."""


@pytest.mark.parametrize("name", [*list(MUTANTS)[:2], *(pytest.param(each, marks=LONG) for each in list(MUTANTS)[2:])])
def test_mutants_of_the_adder_are_caught(name: str, tmp_path: Path) -> None:
    """Each comes back with a counterexample."""
    old, new, text = MUTANTS[name]
    source = inspect.getsource(float_adder)
    assert source.count(old) == 1
    mutant = types.ModuleType("mutant")
    exec(compile(source.replace(old, new), name, "exec"), mutant.__dict__)
    case = adder_and_specification(text, 3, -9, 3, 1, 1, mutant.FloatAdder)
    with pytest.raises(CounterexampleError, match=r"^not for .*significand = \d"):
        prove_pipeline(*case, tmp_path)
