"""Floats in the multipliers of DSP blocks, which do half of the shifting too.

A shift by the low bits of an exponent makes of a significand of a few bits a factor as wide as a DSP block's, once for
each row and column at the array's edge; what is left for each processing element are shifts by the exponents' high
bits: a multiplexer of a few inputs a bit of the sum instead of a whole shifter, and no multiplier of lookup tables.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed

from halfulp.hw.config import ArrayConfig
from halfulp.hw.packing import FineShifts
from halfulp.hw.pe import ProcessingElement, Specials, flags_after, result_fields

__all__ = ["ShiftingProcessingElement"]


class ShiftingProcessingElement(ProcessingElement):
    """Sums products exactly, as an `ExactProcessingElement` does, of operands that `shift_finely` has made.

    Registers: operands, product, product shifted by what is left of the exponents, accumulator, whose adder's output is
    captured.
    """

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """3, whatever the formats."""
        return 3

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        a, b, control = self.a_out, self.b_out, self.control_out
        m.d.sync += [a.eq(self.a), b.eq(self.b), control.eq(self.control)]
        valid, first, last = flags_after(m, control, 1)
        take = Signal(name="take")
        m.d.sync += [take.eq(valid), self.captured.eq(last)]
        factors = a["significand"], b["significand"]
        product = Signal(signed(sum(map(len, factors))), reset_less=True)
        negative = Signal(reset_less=True)
        m.d.sync += [product.eq(factors[0] * factors[1]), negative.eq(factors[0][-1] ^ factors[1][-1])]
        specials = Specials(result_fields(self.config)[1:])
        specials.multiply(m, a, b)
        specials.align(m, negative)

        accumulator = Signal(signed(self.config.accumulator_bits), reset_less=True)
        total = Signal.like(accumulator)
        m.d.comb += total.eq(accumulator + self._aligned(m, product))
        # As in the exact processing element: cleared in the clock in which the last tile's sum is taken.
        with m.If(take):
            m.d.sync += accumulator.eq(total)
        with m.If(first):
            m.d.sync += accumulator.eq(0)
        self.capture(m, {"sum": total, **specials.accumulate(m, take, first)})
        return m

    def _aligned(self, m: Module, product: Signal) -> Signal:
        """The product shifted by the high bits of both operands' shifts, in the width that the formats need."""
        pairs = [(x, y) for x in self.config.a_formats for y in self.config.b_formats]
        aligned = Signal(signed(1 + max((x.max_units * y.max_units).bit_length() for x, y in pairs)), reset_less=True)
        fine = FineShifts.of(self.config.a_formats, self.config.b_formats)
        unit = min(fine)
        amounts: list[Value] = [
            side["shift"] << (places - unit)
            for side, places in zip((self.a_out, self.b_out), fine, strict=True)
            if "shift" in side.shape().members
        ]
        if not amounts:
            m.d.sync += aligned.eq(product)
            return aligned
        most = max(x.max_shift + y.max_shift for x, y in pairs) >> unit
        amount = Signal(range(most + 1), name="amount", reset_less=True)
        m.d.sync += amount.eq(sum(amounts[1:], amounts[0]))
        with m.Switch(amount):
            for number in range(most + 1):
                with m.Case(number):
                    m.d.sync += aligned.eq(product << (number << unit))
        return aligned
