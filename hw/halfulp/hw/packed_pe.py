"""Two integer products from one multiplier: a processing element for the outputs of two neighbouring rows.

(lower * 2**w + upper) * b = lower * b * 2**w + upper * b, where w bits hold the product of every upper and b. It is in
the low w bits as it is; where it is negative it has borrowed 1 from the one above, which is given back. A multiplier
of 25 × 18 bits, as in AMD's DSP48E1, has room for operands of 8 bits (Fu et al. 2017, Deep Learning with INT8
Optimization on Xilinx Devices, WP486). Sums have no room there: they have adders of their own.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from halfulp.hw.config import ArrayConfig
from halfulp.hw.packing import Packing
from halfulp.hw.pe import ProcessingElement, flags_after, multiplier_inputs

__all__ = ["PackedProcessingElement", "pack", "packed_products"]


def pack(config: ArrayConfig, upper: Value, lower: Value) -> Value:
    """Both operands in one, lower * 2**w + upper, of two's complements; w is the width of a product."""
    packing = Packing.of(config.a_formats, config.b_formats)
    return ((lower << packing.product_bits) + upper)[: packing.bits].as_signed()


def packed_products(config: ArrayConfig, product: Value) -> tuple[Value, Value]:
    """The products of the upper and of the lower operand, from that of both packed; the latter times 2, plus a carry.

    Added to a sum times 2, plus 1, it gives twice the new sum and a bit that is dropped: so the 1 that the upper
    product may have borrowed comes back by the adder's carry, not by an adder of its own.
    """
    packing = Packing.of(config.a_formats, config.b_formats)
    place = packing.product_bits
    if packing.signed:
        return product[:place].as_signed(), product[place - 1 :].as_signed()
    return product[:place], Cat(Const(0, 1), product[place:]).as_signed()


class PackedProcessingElement(ProcessingElement):
    """Sums exactly, as an `ExactProcessingElement` does, for rows 2i and 2i + 1 of a column, with one multiplier.

    The operands of A of both rows come in packed, in the clock in which that of the lower row would: the step's operand
    of B was at the upper row a clock before, and has moved down. Both sums are captured in one clock too, `latency`
    after that, and leave as those of two processing elements: `result` is the upper row's, `below` goes to the lower's.

    Registers: operands, those of the multiplier, product in and behind it, accumulators, whose adders' outputs are
    captured.
    """

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """4: clocks from the last step's packed operand, a clock behind its b, to `captured`."""
        return 4

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        a, b, control = self.a_out, self.b_out, self.control_out
        b_at_upper = Signal(self.b_layout, name="b_at_upper")
        m.d.sync += [a.eq(self.a), b_at_upper.eq(self.b), b.eq(b_at_upper), control.eq(self.control)]
        valid, first, last = flags_after(m, control, 2)
        take = Signal(name="take")
        m.d.sync += [take.eq(valid), self.captured.eq(last)]
        factors = multiplier_inputs(m, a["packed"], b["significand"])
        multiplied = Signal(signed(sum(map(len, factors))), reset_less=True)
        product = Signal.like(multiplied, reset_less=True)
        m.d.sync += [multiplied.eq(factors[0] * factors[1]), product.eq(multiplied)]

        upper, twice_lower = packed_products(self.config, product)
        sums = [Signal(signed(self.config.accumulator_bits), name=f"sum_{n}", reset_less=True) for n in range(2)]
        totals = [Signal.like(accumulator, name=f"total_{n}") for n, accumulator in enumerate(sums)]
        m.d.comb += [
            totals[0].eq(sums[0] + upper),
            totals[1].eq((Cat(Const(1, 1), sums[1]).as_signed() + twice_lower)[1:]),
        ]
        with m.If(take):
            m.d.sync += [accumulator.eq(total) for accumulator, total in zip(sums, totals, strict=True)]
        # As in the exact processing element: cleared in the clock in which the last tile's sums are taken.
        with m.If(first):
            m.d.sync += [accumulator.eq(0) for accumulator in sums]
        self._capture_both(m, totals)
        return m

    def _capture_both(self, m: Module, totals: list[Signal]) -> None:
        registers = [Signal.like(total, name=f"result_{n}", reset_less=True) for n, total in enumerate(totals)]
        m.d.comb += self.result["sum"].eq(registers[0])
        with m.If(self.captured | self.shift):
            for register, total, under in zip(registers, totals, (registers[1], self.below["sum"]), strict=True):
                m.d.sync += register.eq(Mux(self.captured, total, under))
