"""The exact PE: all pairs of 8-bit codes, NaN and Inf, the accumulator's limits, tiles that were broken off."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import result_layout
from halfulp.hw.operand import OperandDecoder
from halfulp.hw.operand_shift import shift_finely
from halfulp.hw.pe import operand_layouts, result_fields
from halfulp.hw.processing_elements import processing_element
from halfulp.numerics.exact import FINITE, INFINITE, NAN, RealArray, from_integers
from halfulp.numerics.formats import Format
from halfulp.numerics.gemm import exact_gemm

COPIES = 16


class Sums(NamedTuple):
    """Captured results, elementwise: `integer` in units of both formats' least ulps."""

    integer: np.ndarray
    kind: np.ndarray
    negative: np.ndarray


class Bench:
    """`COPIES` PEs behind decoders: one B operand for all, an A operand each."""

    def __init__(self, a: Format | str, b: Format | str, max_k: int = 16, shifting: bool = False) -> None:
        self.config = ArrayConfig(
            a_formats=(a,), b_formats=(b,), accumulator=f"exact:{max_k}", shift_in_multipliers=shifting
        )
        self.design = Module()
        (a_format,), (b_format,) = self.config.a_formats, self.config.b_formats
        self.codes_a = Signal(COPIES * a_format.bits)
        self.code_b = Signal(b_format.bits)
        self.valid, self.first, self.last = Signal(), Signal(), Signal()
        self.results = Signal(COPIES * result_layout(self.config).size)
        self.captured = Signal()
        complement = not shifting and "negative" not in operand_layouts(self.config)[0].members
        self.design.submodules.b = decoder_b = OperandDecoder(
            formats=(b_format,), code_width=b_format.bits, complement=complement
        )
        self.design.d.comb += decoder_b.code.eq(self.code_b)
        results = []
        for n in range(COPIES):
            decoder_a = OperandDecoder(formats=(a_format,), code_width=a_format.bits, complement=complement)
            pe = processing_element(self.config)(config=self.config)
            self.design.submodules += [decoder_a, pe]
            self.design.d.comb += [
                decoder_a.code.eq(self.codes_a.word_select(n, a_format.bits)),
                pe.control.valid.eq(self.valid),
                pe.control.first.eq(self.first),
                pe.control.last.eq(self.last),
                self.captured.eq(pe.captured),
            ]
            for decoded, operand in ((decoder_a.operand, pe.a), (decoder_b.operand, pe.b)):
                if shifting:
                    shift_finely(self.design, decoded, operand)
                else:
                    self.design.d.comb += operand.eq(decoded)
            results.append(pe.result)
        self.latency = processing_element(self.config).latency_of(self.config)
        self.design.d.comb += self.results.eq(Cat(results))

    def run(self, steps: list[tuple[np.ndarray, int, int, int, int]]) -> Sums:
        """Feed (codes of A [COPIES], code of B, valid, first, last) a clock; return the sums [tiles, COPIES]."""
        rows: list[int] = []
        bits = self.config.a_formats[0].bits

        async def bench(ctx: Any) -> None:
            captured = False
            for clock in range(len(steps) + self.latency + 1):
                if captured:
                    rows.append(ctx.get(self.results))
                codes, b, valid, first, last = steps[clock] if clock < len(steps) else (np.arange(COPIES), 1, 0, 0, 0)
                ctx.set(self.codes_a, sum(int(code) << (n * bits) for n, code in enumerate(codes)))
                for signal, value in ((self.code_b, b), (self.valid, valid), (self.first, first), (self.last, last)):
                    ctx.set(signal, value)
                captured = bool(ctx.get(self.captured))
                due = clock - self.latency
                assert captured == (0 <= due < len(steps) and bool(steps[due][4]))
                await ctx.tick()

        simulator = Simulator(self.design)
        simulator.add_clock(1e-8)
        simulator.add_testbench(bench)
        simulator.run()
        return self._unpack(rows)

    def _unpack(self, rows: list[int]) -> Sums:
        layout = result_layout(self.config)
        values = {
            name: np.array(
                [[row >> (n * layout.size + f.offset) & ((1 << f.width) - 1) for n in range(COPIES)] for row in rows],
                object,
            )
            for name, f in layout
        }
        sign = 1 << (self.config.accumulator_bits - 1)
        plus, minus = values["plus_inf"] == 1, values["minus_inf"] == 1
        nan = (values["nan"] == 1) | (plus & minus)
        kind = np.where(nan, NAN, np.where(plus | minus, INFINITE, FINITE))
        return Sums((values["sum"] ^ sign) - sign, kind, minus & ~nan)

    def check(self, sums: Sums, a: np.ndarray, b: np.ndarray) -> None:
        """`sums` [tiles, COPIES] must be the exact ones of A [COPIES, K] and B [K] of each tile."""
        (a_format,), (b_format,) = self.config.a_formats, self.config.b_formats
        for tile in range(len(sums.integer)):
            real = exact_gemm(a_format.decode(a[tile]), b_format.decode(b[tile][:, None]))
            assert np.array_equal(sums.kind[tile], real.kind[:, 0])
            finite = real.kind[:, 0] == FINITE
            unit = a_format.lsb_exponent + b_format.lsb_exponent
            # Sums of more than 62 bits have their tail jammed, in both.
            summed = _integers(from_integers(sums.integer[tile], unit), unit)
            assert np.array_equal(summed[finite], _integers(real, unit)[finite, 0])
            infinite = real.kind[:, 0] == INFINITE
            assert np.array_equal(sums.negative[tile][infinite], real.negative[infinite, 0])


@pytest.mark.parametrize(
    ("a", "b", "shifting"),
    [
        ("float8_e4m3fn", "float8_e4m3fn", False),
        ("float8_e5m2", "float8_e4m3fn", False),
        ("float8_e5m2", "float8_e4m3fn", True),
        ("int8", "int8", False),
        ("int8", "float8_e5m2", False),
        ("posit8_1", "log8", False),
    ],
)
def test_product_of_every_pair_of_codes(a: str, b: str, shifting: bool) -> None:
    """Each pair is a tile of one step, a tile a clock: 65,536 tiles without a gap."""
    bench = Bench(a, b, shifting=shifting)
    b_codes, a_codes = np.divmod(np.arange(0, 1 << 16, COPIES), 256)
    a_rows = a_codes[:, None] + np.arange(COPIES)
    sums = bench.run([(row, int(code), 1, 1, 1) for row, code in zip(a_rows, b_codes, strict=True)])
    assert sums.integer.shape == (4096, COPIES)
    (fa,), (fb,) = bench.config.a_formats, bench.config.b_formats
    # All tiles at once: an outer product [256, 256] of the codes.
    real = exact_gemm(fa.decode(np.arange(256)[:, None]), fb.decode(np.arange(256)[None, :]))
    kind = real.kind.T.reshape(4096, COPIES)
    negative = real.negative.T.reshape(4096, COPIES)
    unit = fa.lsb_exponent + fb.lsb_exponent
    shift = np.where(real.significand != 0, real.exponent - unit, 0)
    exact = (np.where(real.negative, -1, 1) * real.significand << shift).T.reshape(4096, COPIES)
    assert np.array_equal(sums.kind, kind)
    assert np.array_equal(sums.integer[kind == FINITE], exact[kind == FINITE])
    assert np.array_equal(sums.negative[kind == INFINITE], negative[kind == INFINITE])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("float8_e5m2", "float8_e5m2"),
        ("float8_e4m3fn", "float8_e5m2"),
        ("int8", "float8_e5m2"),
        ("int8", "uint8"),
        ("float6_e3m2fn", "float4_e2m1fn"),
        ("float16", "float8_e5m2"),
    ],
)
def test_sums_with_bubbles(a: str, b: str, rng: np.random.Generator) -> None:
    """Tiles of 1 to 9 steps, some steps invalid, among random operands plenty of NaN, Inf and zeros."""
    bench = Bench(a, b)
    steps: list[tuple[np.ndarray, int, int, int, int]] = []
    tiles_a, tiles_b = [], []
    special = [0, *(f for f in (bench.config.b_formats[0],) if f.has_inf)]
    for _ in range(60):
        k = int(rng.integers(1, 10))
        codes_a = rng.integers(0, 1 << bench.config.a_formats[0].bits, (COPIES, k))
        codes_b = rng.integers(0, 1 << bench.config.b_formats[0].bits, k)
        if len(special) > 1 and rng.random() < 0.5:
            codes_b[rng.integers(k)] = 0x7C | int(rng.integers(2)) << 7  # an infinity of e5m2
        tiles_a.append(codes_a)
        tiles_b.append(codes_b)
        for step in range(k):
            while rng.random() < 0.2:
                steps.append((rng.integers(0, 16, COPIES), 3, 0, 0, 0))
            steps.append((codes_a[:, step], int(codes_b[step]), 1, step == 0, step == k - 1))
    sums = bench.run(steps)
    assert len(sums.integer) == 60
    for tile in range(60):
        one = Sums(*(field[tile : tile + 1] for field in sums))
        bench.check(one, np.array([tiles_a[tile]]), np.array([tiles_b[tile]]))


@pytest.mark.parametrize(("a", "b"), [("int8", "int8"), ("float8_e4m3fn", "float8_e5m2"), ("uint8", "int8")])
def test_the_largest_sums_fit(a: str, b: str) -> None:
    """max_k products of the largest magnitudes, of either sign."""
    bench = Bench(a, b, max_k=5)
    (fa,), (fb,) = bench.config.a_formats, bench.config.b_formats
    extremes = [_largest(fa), _smallest(fa)]
    codes = np.array([extremes[n % 2] for n in range(COPIES)])
    steps = []
    for code_b in (_largest(fb), _smallest(fb)):
        steps += [(codes, code_b, 1, k == 0, k == 4) for k in range(5)]
    sums = bench.run(steps)
    a_tiles = np.repeat(np.repeat(codes[None, :, None], 5, axis=2), 2, axis=0)
    bench.check(sums, a_tiles, np.array([[_largest(fb)] * 5, [_smallest(fb)] * 5]))
    assert np.abs(sums.integer).max() == fa.max_units * fb.max_units * 5


def _integers(real: RealArray, unit: int) -> np.ndarray:
    shift = np.where(real.significand != 0, real.exponent - unit, 0)
    return (np.where(real.negative, -1, 1) * real.significand).astype(object) << shift


def _largest(fmt: Format) -> int:
    values = fmt.to_float64(np.arange(1 << fmt.bits))
    return int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))


def _smallest(fmt: Format) -> int:
    values = fmt.to_float64(np.arange(1 << fmt.bits))
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))


@pytest.mark.parametrize("a", ["float8_e5m2", "int8"])
def test_a_tile_that_was_broken_off_leaves_nothing(a: str) -> None:
    """A first step starts anew, NaN included, whatever came before it."""
    bench = Bench(a, a)
    nan = np.full(COPIES, 0x7F)
    one = np.arange(COPIES)
    sums = bench.run([(nan, 0x7F, 1, 1, 0), (nan, 0x7F, 1, 0, 0), (one, 1, 1, 1, 0), (one, 2, 1, 0, 1)])
    bench.check(sums, np.stack([one, one], axis=1)[None], np.array([[1, 2]]))


def test_only_flags_that_operands_can_raise_are_there() -> None:
    def fields(a: str, b: str) -> tuple[str, ...]:
        return result_fields(ArrayConfig(a_formats=(a,), b_formats=(b,)))

    assert fields("int8", "int8") == ("sum",)
    assert fields("int8", "float8_e4m3fn") == ("sum", "nan")
    assert fields("int8", "float8_e5m2") == ("sum", "nan", "plus_inf", "minus_inf")
