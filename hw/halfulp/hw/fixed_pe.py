"""The processing element of a `fixed:WIDTH:LSB` accumulator: a window that products are cut to, and sums saturate in.

It computes `halfulp.numerics.chains.fixed_chain` (docs/numerics.md, section 3).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from halfulp.hw.config import ArrayConfig
from halfulp.hw.operand import max_operand_shift
from halfulp.hw.pe import ProcessingElement, Specials, flags_after, result_fields
from halfulp.numerics.accumulators import FixedAccumulator

__all__ = ["FixedProcessingElement"]


class FixedProcessingElement(ProcessingElement):
    """Sums products in two's complement of a given width and place; each sum saturates, and raises `overflow`.

    Takes a step a clock, tiles without a gap, and tiles that were broken off: a step with `first` starts anew.

    Registers: operands, product, the product's magnitude in the window, then the accumulator, whose adder's output is
    captured: a latency of 3 clocks. `overflow` is sticky over a tile, and not raised by steps that follow a NaN or an
    infinity of the same output, nor by theirs.
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
        product = Signal(len(a["significand"]) + len(b["significand"]), reset_less=True)
        negative, subtract = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            product.eq(a["significand"] * b["significand"]),
            negative.eq(a["negative"] ^ b["negative"]),
            subtract.eq(negative),
        ]
        specials = Specials(tuple(name for name in result_fields(self.config)[1:] if name != "overflow"))
        specials.multiply(m, a, b)
        specials.align(m, negative)
        magnitude = self._window(m, product, specials.inf)
        take = Signal()
        m.d.sync += [take.eq(valid), self.captured.eq(last)]

        accumulator = Signal(signed(self.config.accumulator_bits), reset_less=True)
        total = Signal(signed(len(accumulator) + 2))
        held = Signal.like(accumulator)
        raised = Signal()
        addend = Cat(magnitude ^ subtract.replicate(len(magnitude)), subtract.replicate(2)).as_signed()
        sticky = Signal(reset_less=True)
        found = specials.accumulate(m, take, first)
        decided = Cat(found.values()).any() if found else Const(0)
        m.d.comb += [
            # Two's complement of the magnitude, whose 1 goes in as the adder's carry.
            total.eq(accumulator + addend + subtract),
            # Beyond the window where the bits from the sign on differ.
            raised.eq(~(total[len(accumulator) - 1 :].all() | ~total[len(accumulator) - 1 :].any())),
            held.eq(
                Mux(raised, Cat((~total[-1]).replicate(len(accumulator) - 1), total[-1]), total[: len(accumulator)])
            ),
        ]
        overflow = sticky | (raised & ~decided)
        with m.If(take):
            m.d.sync += [accumulator.eq(held), sticky.eq(overflow)]
        with m.If(first):
            m.d.sync += [accumulator.eq(0), sticky.eq(0)]
        self.capture(m, {"sum": held, "overflow": overflow, **found})
        return m

    def _window(self, m: Module, product: Signal, inf: Value) -> Signal:
        """Register the product's magnitude in units of 2**lsb, cut off below; 2**width where it is at least that.

        The product is put above the window and shifted right, in which no bit is lost but those that are cut off.
        """
        config, side_a, side_b = self.config, self.a_out, self.b_out
        assert isinstance(config.accumulator, FixedAccumulator)
        width = config.accumulator_bits
        sides = config.a_formats, config.b_formats
        least = sum(min(f.lsb_exponent for f in formats) for formats in sides) - config.accumulator.lsb
        most = least + sum(max_operand_shift(formats, common=True) for formats in sides)
        shifts: list[Value] = [side["shift"] for side in (side_a, side_b) if "shift" in side.shape().members]
        # From `start` places above the unit down to the product's own place: at most all of it falls out.
        start = min(max(most, 0), width)
        farthest = min(start - least, start + len(product)) if least < start else 0
        distance: Any = Signal(range(farthest + 1), reset_less=True)
        place = sum(shifts, Const(least))
        down = Const(start) - place
        m.d.sync += distance.eq(Mux(down < 0, 0, Mux(down > farthest, farthest, down)))
        raised = Cat(Const(0, start), product)
        for level in reversed(range(len(distance))):
            raised = Mux(distance[level], raised[1 << level :], raised)
        magnitude = Signal(width + 1, reset_less=True)
        beyond = raised[width:].any() if len(raised) > width else Const(0)
        kept = Mux(beyond, 1 << width, raised[:width])
        m.d.sync += magnitude.eq(Mux(inf, 0, kept))
        return magnitude
