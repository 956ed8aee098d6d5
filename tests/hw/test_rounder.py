"""The rounding lane gives the codes and flags of `Format.encode`: all modes, formats, specials, adversarial sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.rounder import RoundingLane, RoundingSetup
from halfulp.numerics.exact import FINITE, INFINITE, NAN, from_integers
from halfulp.numerics.formats import BinaryFormat, FloatFormat, Format, ScaledIntegerFormat, TableFormat
from halfulp.numerics.rounding import KINDS, Rounding

FLUSHED = FloatFormat("e6m5 without subnormals", 6, 5, subnormals=False)
CONFIGS = {
    "floats": ArrayConfig(
        out_formats=("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8", FLUSHED, "float4_e2m1fn")
    ),
    "integers": ArrayConfig(
        a_formats=("int8",),
        b_formats=("int8", "uint8"),
        out_formats=("int32", "int8", "uint8", "int4", "float32", "float8_e4m3fn"),
        accumulator="exact:5000",
    ),
    "no random bits, narrow": ArrayConfig(
        a_formats=("float4_e2m1fn",),
        b_formats=("float4_e2m1fn",),
        out_formats=(
            "float4_e2m1fn",
            FloatFormat("e4m0", 4, 0, "finite"),
            FloatFormat("e4m0fn", 4, 0, "fn"),
            FloatFormat("e3m0fn without subnormals", 3, 0, "fn", subnormals=False),
        ),
        roundings=("nearest_even", "toward_zero"),
        accumulator="exact:3",
    ),
    "fixed point, one bit": ArrayConfig(
        a_formats=("fixed4.4",),
        b_formats=("int8", "ternary"),
        out_formats=("fixed8.8", "fixed1.7", "ternary", "binary", "uint4", "bfloat16"),
        accumulator="exact:100",
    ),
    "posits": ArrayConfig(
        a_formats=("posit8_1",),
        b_formats=("posit8_1",),
        out_formats=("posit8_1", "posit16_1", "posit6_2", "posit8_0", "posit4_2", "posit16_2", "float8_e4m3fn"),
        accumulator="exact:100",
    ),
    "logarithmic": ArrayConfig(
        a_formats=("log8",),
        b_formats=("log4_1",),
        out_formats=("log8", "log5_0", "log4_2", "log9_7", "log16", "float32"),
        accumulator="exact:100",
    ),
    "tables, no random bits": ArrayConfig(
        a_formats=("float8_e4m3fn",),
        b_formats=("float8_e4m3fn",),
        out_formats=("log8", "posit8_1", "binary", "posit8_2", "int4"),
        roundings=("nearest_even", "toward_zero"),
        accumulator="exact:100",
    ),
    "wide": ArrayConfig(
        a_formats=("float16",),
        b_formats=("float16", "int4"),
        out_formats=("float16", "float32"),
        accumulator="exact:1000",
    ),
}


class Case(NamedTuple):
    """What one GEMM asks of the lane."""

    a: int
    b: int
    out: int
    rounding: Rounding
    scale: int
    ieee: bool


class Sums(NamedTuple):
    """Results of the array, elementwise, and 16 random bits each."""

    integer: list[int]
    nan: np.ndarray
    plus_inf: np.ndarray
    minus_inf: np.ndarray
    random: np.ndarray


def magnitude_near(fmt: Format, unit: int, rng: np.random.Generator) -> int:
    """In units of 2**unit, a magnitude at, just below or just above what decides: a code, a midpoint, the limits."""
    if isinstance(fmt, FloatFormat):
        normal = 1 << fmt.mantissa_bits
        edges = [0, 1, normal - 1, normal, normal + 1, 2 * normal - 1, fmt.max_code, fmt.max_code - 1, fmt.max_code + 1]
        code = int(rng.choice(edges)) if rng.random() < 0.5 else int(rng.integers(fmt.max_code + 2))
        field, fraction = divmod(code, normal)
        significand, exponent = fraction + (normal if field else 0), max(field, 1) - 1 + fmt.lsb_exponent
    elif isinstance(fmt, TableFormat):
        # A number or a tie, and beside it the bounds of 16 random bits.
        code = int(rng.choice([0, 1, 2, fmt.max_code - 1, fmt.max_code, int(rng.integers(fmt.max_code + 1))]))
        table = fmt.magnitudes
        low, high, tie = float(table.value[code]), float(table.value[code + 1]), float(table.tie[code])
        bound = high - (high - low) * int(rng.integers(1 << 17)) / (1 << 17)
        point = [low, tie, high, bound, low / 1024, 3 * high][int(rng.integers(6))]
        mantissa, exponent = np.frexp(point)
        significand, exponent = int(mantissa * 2**53), int(exponent) - 53
    elif isinstance(fmt, BinaryFormat):
        significand, exponent = int(rng.integers(5)), int(rng.integers(-1, 2))
    else:
        assert isinstance(fmt, ScaledIntegerFormat)
        code = fmt.largest + int(rng.integers(-1, 3)) if rng.random() < 0.5 else int(rng.integers(fmt.largest + 1))
        significand, exponent = code, fmt.lsb_exponent
    places = int(rng.integers(20))
    fraction = int(rng.choice([0, (1 << places) >> 1, (1 << places) - 1, 1, int(rng.integers(1 << places))]))
    significand, exponent = (significand << places) + fraction, exponent - places
    shift = exponent - unit
    return (significand << shift if shift >= 0 else significand >> -shift) + int(rng.integers(-1, 2))


def sums_for(config: ArrayConfig, case: Case, count: int, rng: np.random.Generator) -> Sums:
    """Adversarial and random sums of all lengths, the extremes of the accumulator among them, and all-ones carries."""
    top = 1 << (config.accumulator_bits - 1)
    unit = config.a_formats[case.a].lsb_exponent + config.b_formats[case.b].lsb_exponent + case.scale
    integers = [0, 1, -1, top - 1, -top, 1 - top]
    while len(integers) < count:
        kind = rng.random()
        if kind < 0.2:
            value = int.from_bytes(rng.bytes(16), "little") >> int(129 - rng.integers(1, config.accumulator_bits))
        elif kind < 0.3:
            value = (1 << int(rng.integers(1, config.accumulator_bits))) - 1 - int(rng.integers(2))
        else:
            value = abs(magnitude_near(config.out_formats[case.out], unit, rng))
        value %= top
        integers.append(value if rng.random() < 0.5 else -value)
    random = rng.integers(1 << 16, size=count)
    random[::7], random[3::7] = 0, 0xFFFF
    nan, plus_inf, minus_inf = rng.random((3, count)) < 0.03
    return Sums(integers, nan, plus_inf, minus_inf, random)


def expected(config: ArrayConfig, case: Case, sums: Sums) -> np.ndarray:
    """What the golden model makes of `sums`: code, invalid, overflow [count, 3]."""
    fmt = config.out_formats[case.out]
    unit = config.a_formats[case.a].lsb_exponent + config.b_formats[case.b].lsb_exponent
    real = from_integers(np.array(sums.integer, object), unit)
    infinite = sums.plus_inf | sums.minus_inf
    kind = np.where(sums.nan | (sums.plus_inf & sums.minus_inf), NAN, np.where(infinite, INFINITE, FINITE))
    real = real._replace(
        negative=np.where(infinite, sums.minus_inf, real.negative),
        significand=np.where(kind == FINITE, real.significand, 0),
        exponent=real.exponent + case.scale,
        kind=kind.astype(np.uint8),
    )
    random = None
    if case.rounding.is_stochastic:
        random = (sums.random >> (16 - case.rounding.random_bits)).astype(np.uint32)
    codes, invalid, overflow = fmt.encode(real, case.rounding, random, "ieee" if case.ieee else "saturate")
    codes = codes.astype(np.int64)
    codes = fmt.without_minus_zero(codes.astype(fmt.code_dtype)).astype(np.int64)
    return np.stack([codes, invalid, overflow], axis=1)


def run_lane(config: ArrayConfig, cases: list[tuple[Case, Sums]]) -> list[np.ndarray]:
    """Code, invalid, overflow [count, 3] of each case, from the hardware."""
    design = Module()
    design.submodules.setup = setup = RoundingSetup(config=config)
    design.submodules.lane = lane = RoundingLane(config=config)
    outcome = Signal(34)
    design.d.comb += [
        lane.rounding.eq(setup.rounding),
        lane.valid.eq(1),
        outcome.eq(Cat(lane.overflow, lane.invalid, lane.code)),
    ]
    found: list[np.ndarray] = []

    async def bench(ctx: Any) -> None:
        for case, sums in cases:
            ctx.set(setup.load, 1)
            for name, value in {
                "a_format": case.a,
                "b_format": case.b,
                "out_format": case.out,
                "rounding_mode": KINDS.index(case.rounding.kind),
                "random_bits": case.rounding.random_bits,
                "overflow_ieee": int(case.ieee),
                "scale": case.scale,
            }.items():
                ctx.set(setup.tile[name], value)
            await ctx.tick()
            ctx.set(setup.load, 0)
            await ctx.tick().repeat(setup.latency - 1)
            words: list[int] = []
            count = len(sums.integer)
            for n in range(count + lane.latency):
                if n >= lane.latency:
                    words.append(ctx.get(outcome))
                if n < count:
                    ctx.set(lane.result.sum, sums.integer[n])
                    ctx.set(lane.result.nan, int(sums.nan[n]))
                    ctx.set(lane.result.plus_inf, int(sums.plus_inf[n]))
                    ctx.set(lane.result.minus_inf, int(sums.minus_inf[n]))
                    ctx.set(lane.random, int(sums.random[n]))
                await ctx.tick()
            found.append(np.array([(w >> 2, w >> 1 & 1, w & 1) for w in words]))

    simulator = Simulator(design)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def check(config: ArrayConfig, cases: list[Case], count: int, rng: np.random.Generator) -> None:
    """Run `count` sums of each case, and compare."""
    given = [(case, sums_for(config, case, count, rng)) for case in cases]
    for (case, sums), found in zip(given, run_lane(config, given), strict=True):
        want = expected(config, case, sums)
        for n in np.flatnonzero((found != want).any(axis=1))[:1]:
            raise AssertionError(
                f"{config.out_formats[case.out]}, {case}: sum {sums.integer[n]} (NaN {sums.nan[n]}, "
                f"+Inf {sums.plus_inf[n]}, -Inf {sums.minus_inf[n]}), random {sums.random[n]:#06x}: "
                f"code, invalid, overflow are {found[n]}, not {want[n]}"
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_mode_into_every_format(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    cases = []
    for out in range(len(config.out_formats)):
        for kind in config.roundings:
            for ieee in (False, True):
                bits = int(rng.integers(1, 17)) if kind.startswith("stochastic") else 0
                scale = 0 if rng.random() < 0.3 else int(rng.integers(-25, 25))
                a, b = int(rng.integers(len(config.a_formats))), int(rng.integers(len(config.b_formats)))
                cases.append(Case(a, b, out, Rounding(kind, bits), scale, ieee))
    check(config, cases, 150, rng)


def test_every_sum_and_every_random_word_of_small_formats() -> None:
    """-32 to 32 in steps and near 0 in sixteenths, in every mode, with all words of two random bits."""
    names = ("posit5_1", "posit4_2", "log4_1", "log5_3", "binary", "ternary", "fixed2.2", "e3m1")
    config = ArrayConfig(a_formats=("int8",), b_formats=("int8",), out_formats=names, accumulator="exact:16")
    integers = [*range(-512, 513, 16), *range(-37, 38)]
    nothing = np.zeros(len(integers), np.bool_)
    modes = [("nearest_even", 0, 0), ("toward_zero", 0, 0)]
    modes += [(kind, 2, word) for kind in ("stochastic", "stochastic_floor") for word in range(4)]
    given = []
    for out in range(len(names)):
        for kind, bits, word in modes:
            sums = Sums(integers, nothing, nothing, nothing, np.full(len(integers), word << 14))
            given.append((Case(0, 0, out, Rounding(kind, bits), -4, False), sums))
    for (case, sums), found in zip(given, run_lane(config, given), strict=True):
        assert np.array_equal(found, expected(config, case, sums)), (names[case.out], case.rounding)


@pytest.mark.parametrize("kind", ["stochastic", "stochastic_floor"])
def test_every_number_of_random_bits(kind: str, rng: np.random.Generator) -> None:
    config = CONFIGS["floats"]
    cases = [Case(1, 0, 2 + bits % 3, Rounding(kind, bits), 0, False) for bits in range(1, 17)]
    check(config, cases, 100, rng)


@pytest.mark.parametrize("name", ["floats", "posits", "logarithmic", "fixed point, one bit"])
def test_scales_far_beyond_every_format(name: str, rng: np.random.Generator) -> None:
    """All is zero or overflow there, and the exponent's arithmetic must not wrap."""
    config = CONFIGS[name]
    cases = [
        Case(len(config.a_formats) - 1, 0, out, Rounding(kind, 5 if kind.startswith("stochastic") else 0), scale, True)
        for out in range(len(config.out_formats))
        for kind in ("nearest_even", "stochastic")
        for scale in (-16384, -300, 90, 250, 16384)
    ]
    check(config, cases, 12, rng)


@pytest.mark.parametrize(("sixteenths", "centred", "floor"), [(6, 3, 3), (1, 1, 0), (15, 8, 7), (0, 0, 0)])
def test_random_words_decide_as_the_contract_says(sixteenths: int, centred: int, floor: int) -> None:
    """All words of r = 3 at x = 1 + f/8 of e4m3: how many of them round up, by hand, for f in sixteenths."""
    config = ArrayConfig(a_formats=("int8",), b_formats=("int8",), out_formats=("float8_e4m3fn",))
    nothing = np.zeros(8, np.bool_)
    sums = Sums([128 + sixteenths] * 8, nothing, nothing, nothing, np.arange(8) << 13)
    for kind, ups in (("stochastic", centred), ("stochastic_floor", floor)):
        (found,) = run_lane(config, [(Case(0, 0, 0, Rounding(kind, 3), -7, False), sums)])
        assert list(found[:, 0]) == [0x38] * (8 - ups) + [0x39] * ups, kind


def test_a_stage_moves_only_where_there_is_a_sum(rng: np.random.Generator) -> None:
    """Sums with gaps between them: each comes out when its time is over, and stays until the next does."""
    lane = RoundingLane(config=CONFIGS["integers"])
    valid = rng.integers(0, 2, 60).tolist()
    nan = rng.integers(0, 2, 60).tolist()
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        ctx.set(lane.rounding.nan_invalid, 1)
        for clock in range(60):
            ctx.set(lane.valid, valid[clock])
            ctx.set(lane.result.nan, nan[clock])
            await ctx.tick()
            seen.append(ctx.get(lane.invalid))

    simulator = Simulator(lane)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    last, expected = 0, [0] * (lane.latency - 1)
    for is_valid, is_nan in zip(valid, nan, strict=True):
        last = is_nan if is_valid else last
        expected.append(last)
    assert seen == expected[:60]
