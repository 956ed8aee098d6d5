"""The processing element of float accumulators: each step rounded (docs/numerics.md, sections 3 and 4)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from halfulp.hw.config import ArrayConfig
from halfulp.hw.float_adder import FloatAdder
from halfulp.hw.operand_normaliser import max_exponent, min_exponent
from halfulp.hw.pe import ProcessingElement, product_flags, product_specials, result_fields
from halfulp.numerics.accumulators import FloatAccumulator

__all__ = ["FloatProcessingElement"]


class FloatProcessingElement(ProcessingElement):
    """Adds exact products to a float, rounded at each step: acc <- round(acc + a * b).

    Takes a step a clock: of one output where it is not interleaved, else of `interleave` outputs in turn, whose
    accumulators are in the adder's stages. Where there is no step the accumulators pass through unchanged.

    Registers: operands, product, the adder's (`FloatAdder.addend_latency`, then one a clock of the step), result.
    """

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """Three registers before the accumulator's, and the clocks that a step takes."""
        return 3 + config.interleave

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        config = self.config
        a, b, control = self.a_out, self.b_out, self.control_out
        m.d.sync += [a.eq(self.a), control.eq(self.control)]
        with m.If(self._starts()):
            m.d.sync += b.eq(self.b)

        m.submodules.adder = adder = _adder(config)
        valid, product = Signal(), Signal(len(adder.addend.significand), reset_less=True)
        negative, exponent = Signal(reset_less=True), Signal(len(adder.addend.exponent), reset_less=True)
        m.d.sync += [
            valid.eq(control["valid"]),
            product.eq(a["significand"] * b["significand"]),
            negative.eq(a["negative"] ^ b["negative"]),
            exponent.eq(a["exponent"] + b["exponent"]),
        ]
        m.d.comb += [
            adder.addend.significand.eq(Mux(valid, product, 0)),
            adder.addend.negative.eq(negative),
            adder.addend.exponent.eq(exponent),
        ]
        if flags := product_flags(config):
            is_nan, is_inf = Signal(reset_less=True), Signal(reset_less=True)
            nan, inf = product_specials(a, b)
            m.d.sync += [is_nan.eq(nan), is_inf.eq(inf)]
            source = {"nan": is_nan, "plus_inf": is_inf & ~negative, "minus_inf": is_inf & negative}
            m.d.comb += [adder.addend[name].eq(source[name] & valid) for name in flags]

        # A tile's first step adds to +0.
        first = _clocks_after(m, control["first"], 1 + adder.addend_latency)[-1]
        m.d.comb += [adder.sum.eq(adder.total), adder.sum_is_normal.eq(adder.total_is_normal), adder.clear.eq(first)]
        self._randomise(m, adder)
        last = control["last"]
        if config.interleave > 1:
            last = last & control["start"]
        self._capture(m, adder.total, _clocks_after(m, last, 1 + adder.latency)[-1])
        return m

    def _starts(self) -> Value:
        """Whether the operand of the upper edge is taken in this clock."""
        return self.control["start"] if self.config.interleave > 1 else Const(1)

    def _randomise(self, m: Module, adder: FloatAdder) -> None:
        """The step's bits are those of its row xor those of its column."""
        if not self.config.step_random_bits:
            return
        # Words are as many clocks behind the operands as a step takes, and so the clock to take one is the same.
        m.d.sync += self.row_word_out.eq(self.row_word)
        with m.If(self._starts()):
            m.d.sync += self.column_word_out.eq(self.column_word)
        random = Signal.like(adder.random, name="random", reset_less=True)
        m.d.sync += random.eq(self.row_word_out ^ self.column_word_out)
        m.d.comb += adder.random.eq(random)

    def _capture(self, m: Module, finished: Any, first_captured: Value) -> None:
        """A result register an output. Sums come in one by one from below, as other PEs' results do at other times.

        Nothing is shifted out of the array between the first and the last capture of a tile, in any PE.
        """
        outputs = self.config.interleave
        captures = Signal(outputs, name="captures")
        m.d.comb += [captures[0].eq(first_captured), self.captured.eq(captures[-1])]
        if outputs > 1:
            m.d.comb += captures[1:].eq(_clocks_after(m, first_captured, outputs - 1))
        finishes = captures.any()
        for name in result_fields(self.config):
            below: Value = Mux(finishes, finished[name], self.below[name])
            for number in reversed(range(outputs)):
                register = Signal.like(self.result[name], name=f"result_{number}_{name}", reset_less=True)
                with m.If(finishes | self.shift):
                    m.d.sync += register.eq(below)
                below = register
            m.d.comb += self.result[name].eq(below)


def _adder(config: ArrayConfig) -> FloatAdder:
    """The adder of a configuration's elements. Significands are normalised: products have at most one leading zero."""
    accumulator = config.accumulator
    assert isinstance(accumulator, FloatAccumulator)
    sides = config.a_formats, config.b_formats
    lowest = sum(min_exponent(side) for side in sides)
    return FloatAdder(
        accumulator=accumulator,
        significand_bits=sum(max(f.significand_bits for f in side) for side in sides),
        min_exponent=lowest,
        max_exponent=lowest + sum(max_exponent(side) for side in sides),
        leading_zeros=1,
        specials=product_flags(config),
        stages=config.interleave,
    )


def _clocks_after(m: Module, flag: Value, clocks: int) -> Signal:
    """Bit n: the flag, n + 1 clocks later."""
    after = Signal(clocks, name="after")
    m.d.sync += after.eq(Cat(flag, after))
    return after
