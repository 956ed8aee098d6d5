# amaranth: UnusedElaboratable=no
"""The float adder rounds each step as the golden chain does: formats, modes, overflows, flags, at every pipelining."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from halfulp.hw.float_adder import MAX_STAGES, FloatAdder
from halfulp.numerics.accumulators import FloatAccumulator, parse_accumulator
from halfulp.numerics.exact import FINITE, RealArray, add

STEPS = 300


def accumulator(text: str) -> FloatAccumulator:
    parsed = parse_accumulator(text)
    assert isinstance(parsed, FloatAccumulator)
    return parsed


def draw(rng: np.random.Generator, adder: FloatAdder, low: int, high: int, zeros: int) -> dict[str, np.ndarray]:
    """Accumulators and addends, most of them near to each other in magnitude, many of them edges."""
    fmt, bits = adder.accumulator.format, len(adder.addend.significand)
    codes = rng.integers(0, fmt.max_code + 1, STEPS)
    codes[::7] = rng.choice([0, 1, fmt.max_code, fmt.max_code - 1, 1 << fmt.mantissa_bits], len(codes[::7]))
    if not fmt.subnormals:
        codes[codes < 1 << fmt.mantissa_bits] = 0
    significand = rng.integers(1 << (bits - 1 - zeros), 1 << bits, STEPS)
    kind = rng.integers(0, 8, STEPS)
    significand[kind == 0] = 0
    significand[kind == 1] = 1 << (bits - 1)
    significand[kind == 2] = (1 << bits) - 1
    # Exponents about the accumulator's, so that the sums cancel, tie and are swamped; else anywhere.
    field = np.maximum(codes >> fmt.mantissa_bits, 1)
    near = field + fmt.min_normal_exponent - bits + rng.integers(-fmt.mantissa_bits - 3, 4, STEPS)
    far = rng.integers(low, high + 1, STEPS)
    exponent = np.clip(np.where(rng.random(STEPS) < 0.8, near, far), low, high)
    return {
        "magnitude": codes,
        "negative": rng.integers(0, 2, STEPS),
        "significand": significand,
        "exponent": exponent,
        "addend_negative": rng.integers(0, 2, STEPS),
        "random": rng.integers(0, 1 << adder.accumulator.rounding.random_bits, STEPS),
        "overflow": rng.integers(0, 2, STEPS),
    }


def expected(adder: FloatAdder, case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `float_chain` makes of one step, as the fields of the total."""
    acc = adder.accumulator
    fmt = acc.format
    zero = np.zeros(STEPS, np.uint8)
    own = fmt.decode(case["magnitude"].astype(fmt.code_dtype))._replace(negative=case["negative"] == 1)
    other = RealArray(case["addend_negative"] == 1, case["significand"], case["exponent"], zero)
    exact = add(own, other)
    random = case["random"].astype(np.uint32) if acc.rounding.is_stochastic else None
    rounded = fmt.encode(exact, acc.rounding, random, acc.overflow)
    codes = rounded.codes.astype(np.int64)
    kind = fmt.decode(rounded.codes).kind
    return {
        "magnitude": np.where(kind == FINITE, codes & (fmt.sign_code - 1), fmt.max_code),
        "negative": (codes >= fmt.sign_code) & (codes & (fmt.sign_code - 1) != 0),
        "overflow": rounded.overflow | (case["overflow"] == 1),
        "nan": kind == 2,
        "plus_inf": (kind == 1) & ~exact.negative,
        "minus_inf": (kind == 1) & exact.negative,
    }


def run(adder: FloatAdder, case: dict[str, np.ndarray], low: int) -> dict[str, np.ndarray]:
    """Feed a step a clock; return the totals."""
    names = list(dict(adder.total.shape().members))
    seen: dict[str, list[int]] = {name: [] for name in names}
    mantissa_bits = adder.accumulator.format.mantissa_bits

    async def bench(ctx: Any) -> None:
        for clock in range(STEPS + adder.latency):
            if clock < STEPS:
                ctx.set(adder.addend.significand, int(case["significand"][clock]))
                ctx.set(adder.addend.exponent, int(case["exponent"][clock] - low))
                ctx.set(adder.addend.negative, int(case["addend_negative"][clock]))
            if 0 <= (step := clock - adder.addend_latency) < STEPS:
                for name in ("magnitude", "negative", "overflow"):
                    ctx.set(adder.sum[name], int(case[name][step]))
                ctx.set(adder.sum_is_normal, int(case["magnitude"][step]) >> mantissa_bits != 0)
            if 0 <= (step := clock - adder.random_latency) < STEPS and len(adder.random):
                ctx.set(adder.random, int(case["random"][step]))
            if clock >= adder.latency:
                for name in names:
                    seen[name].append(ctx.get(adder.total[name]))
                assert ctx.get(adder.total_is_normal) == (seen["magnitude"][-1] >> mantissa_bits != 0)
            await ctx.tick()

    simulator = Simulator(adder)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return {name: np.array(values) for name, values in seen.items()}


@pytest.mark.parametrize(
    ("text", "bits", "zeros", "stages"),
    [
        ("e6m5:stochastic:13", 6, 1, 1),
        ("e6m5:stochastic:13:ieee", 6, 1, 3),
        ("e6m5:stochastic:1", 6, 0, 2),
        ("e6m5-nosub:stochastic:24", 8, 1, 4),
        ("e6m5-nosub", 8, 7, 5),
        ("e5m2:stochastic_floor:1", 8, 1, 6),
        ("e4m3:stochastic_floor:24:ieee", 8, 2, 4),
        ("e4m3-finite-nosub:toward_zero:ieee", 5, 4, 1),
        ("e8m23", 16, 1, 3),
        ("e8m23:ieee", 22, 21, 4),
        ("e8m23:stochastic:24", 16, 1, 6),
        ("e8m7:toward_zero", 30, 3, 2),
        ("e2m1-finite", 4, 0, 1),
        ("e5m0-fn:ieee", 3, 1, 1),
        ("e5m0-finite-nosub:stochastic:8", 3, 1, 2),
    ],
)
def test_steps_are_those_of_the_golden_chain(
    text: str, bits: int, zeros: int, stages: int, rng: np.random.Generator
) -> None:
    acc = accumulator(text)
    fmt = acc.format
    low = fmt.lsb_exponent - 2 * bits - 30
    high = fmt.min_normal_exponent + (1 << fmt.exponent_bits) + 8
    adder = FloatAdder(
        accumulator=acc, significand_bits=bits, min_exponent=low, max_exponent=high, leading_zeros=zeros, stages=stages
    )
    case = draw(rng, adder, low, high, zeros)
    seen, wanted = run(adder, case, low), expected(adder, case)
    seen["negative"] = (seen["negative"] == 1) & (seen["magnitude"] != 0)
    special = wanted["nan"] | wanted["plus_inf"] | wanted["minus_inf"]
    for name, values in seen.items():
        compared = ~special | (name not in ("magnitude", "negative"))
        wrong = np.flatnonzero(compared & (values != wanted[name]))
        assert not wrong.size, (name, {key: int(column[wrong[0]]) for key, column in case.items()})


def test_flags_of_operands_stay_and_decide(rng: np.random.Generator) -> None:
    """NaN and infinities of either side are kept; a number behind them neither overflows nor makes a flag."""
    specials = ("nan", "plus_inf", "minus_inf")
    adder = FloatAdder(
        accumulator=accumulator("e4m3-ieee:ieee"),
        significand_bits=4,
        min_exponent=0,
        max_exponent=20,
        specials=specials,
        stages=2,
    )
    seen: list[tuple[int, ...]] = []
    cases = rng.integers(0, 2, (64, 6))

    async def bench(ctx: Any) -> None:
        ctx.set(adder.addend.significand, 15)
        ctx.set(adder.addend.exponent, 20)
        for clock in range(len(cases) + adder.latency):
            for place, name in enumerate(specials):
                if clock < len(cases):
                    ctx.set(adder.addend[name], int(cases[clock][place]))
                if 0 <= clock - adder.addend_latency < len(cases):
                    ctx.set(adder.sum[name], int(cases[clock - adder.addend_latency][3 + place]))
            if clock >= adder.latency:
                seen.append(tuple(ctx.get(adder.total[name]) for name in (*specials, "overflow")))
            await ctx.tick()

    simulator = Simulator(adder)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for case, flags in zip(cases, seen, strict=True):
        either = case[:3] | case[3:]
        # With no flag the largest addend is beyond every number, and `ieee` makes it +Inf.
        assert flags == ((*tuple(either), 0) if either.any() else (0, 1, 0, 1)), case


@pytest.mark.parametrize(
    ("changes", "error", "rule"),
    [
        ({"stages": MAX_STAGES + 1}, ValueError, f"stages must be 1 to {MAX_STAGES}, not {MAX_STAGES + 1}"),
        ({"significand_bits": 0}, ValueError, "significand_bits must be at least 1, not 0"),
        ({"leading_zeros": 6}, ValueError, "leading_zeros must be 0 to 5, not 6"),
        ({"min_exponent": 9}, ValueError, "min_exponent must be at most max_exponent = 8, not 9"),
        ({"specials": ("inf",)}, ValueError, "specials must be of nan, plus_inf, minus_inf, not"),
        ({"accumulator": parse_accumulator("exact:3")}, TypeError, "accumulator must be a FloatAccumulator, not"),
    ],
)
def test_parameters_are_checked(changes: dict[str, Any], error: type[Exception], rule: str) -> None:
    arguments: dict[str, Any] = {
        "accumulator": accumulator("e6m5"),
        "significand_bits": 6,
        "min_exponent": -8,
        "max_exponent": 8,
    }
    with pytest.raises(error, match=rule):
        FloatAdder(**{**arguments, **changes})
