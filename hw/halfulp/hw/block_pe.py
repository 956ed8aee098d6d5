"""The processing element of block-scaled operands: exact sums of blocks, scaled, added to a float.

It computes `halfulp.numerics.block_gemm.block_chain` (docs/numerics.md, section 6):
acc <- round(acc + scale_a * scale_b * sum inside the block).
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed

from halfulp.hw.config import ArrayConfig
from halfulp.hw.float_adder import FloatAdder, addend_latency
from halfulp.hw.operand import max_operand_shift
from halfulp.hw.pe import ProcessingElement, Specials, product_flags, shift_left
from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.block_formats import E8M0_BIAS, E8M0_NAN

__all__ = ["ADDER_STAGES", "BlockProcessingElement"]

ADDER_STAGES = 2
"""Clocks that the adder takes. No more: a block is at least its scales and one element, so that the ends of two blocks,
and with them the adder's steps, may be no more than two clocks apart."""

_E8M0_LARGEST_SUM = 2 * (E8M0_NAN - 1)

# An E4M3 scale is significand * 2**(shift - 9), the significand of 4 bits, the shift 0 to 14.
_E4M3_LSB_EXPONENT, _E4M3_MANTISSA_BITS, _E4M3_LARGEST_SHIFT = -9, 3, 14


class BlockProcessingElement(ProcessingElement):
    """Sums each block's products exactly, multiplies by both scales, and adds that to a float, rounded once a block.

    Takes a step a clock. A block is a step with the scales, marked `scale`, then one for each of its elements, the last
    of them marked `ends`. A tile starts with a scale; one that was broken off is forgotten then. The random word of a
    block is that of its scale's step.

    Registers: operands; product, or the scales; aligned product; sum of the block; its magnitude; with e4m3 scales the
    magnitude times theirs; the adder's, of which `ADDER_STAGES` are the rounded step; result.
    """

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """The registers before the adder, and its own."""
        return _adder_place(config) + addend_latency(_addend_bits(config) - 1) + ADDER_STAGES

    def elaborate(self, platform: object) -> Module:
        """Build the block.

        Values are registers of a place: of a step that is at the inputs in clock 0, place n holds what is made of it in
        clock n. A block's scales are held at place 2, seen from its last element, its random word at place 3.
        """
        m = Module()
        config, control = self.config, self.control_out
        m.d.sync += [self.a_out.eq(self.a), self.b_out.eq(self.b), control.eq(self.control)]
        m.submodules.adder = adder = _adder(config)
        at_adder = _adder_place(config)
        scales = Signal(name="scales")
        m.d.comb += scales.eq(control["valid"] & control["scale"])
        begins, ends = Signal(name="begins"), Signal(name="ends")
        m.d.sync += [begins.eq(scales), ends.eq(control["valid"] & control["ends"])]

        total, found = self._sum(m, begins)
        block_sum = _later(m, "block_sum", total, 1)
        magnitude, negative = Signal(len(total) - 1, reset_less=True), Signal(reset_less=True)
        m.d.sync += [magnitude.eq(Mux(block_sum[-1], -block_sum, block_sum)), negative.eq(block_sum[-1])]
        found = {name: _later(m, name, flag, 2) for name, flag in found.items()}
        scale_exponent, factor, scale_nan = self._scales(m, scales)
        found["nan"] = found["nan"] | _later(m, "scale_nan", scale_nan, 3)
        scaled: Value = magnitude
        if factor is not None:
            factor = _later(m, "factor", factor, 3)
            scaled = Signal(len(magnitude) + len(factor), name="scaled", reset_less=True)
            m.d.sync += scaled.eq(magnitude * factor)
            if "plus_inf" in found:  # 0 times infinity
                found["nan"] = found["nan"] | (~factor.any() & (found["plus_inf"] | found["minus_inf"]))
            negative = _later(m, "scaled_negative", negative, 1)
            found = {name: _later(m, f"scaled_{name}", flag, 1) for name, flag in found.items()}
        m.d.comb += [
            adder.addend.significand.eq(scaled),
            adder.addend.negative.eq(negative),
            adder.addend.exponent.eq(_later(m, "exponent", scale_exponent, at_adder - 2)),
            *(adder.addend[name].eq(flag) for name, flag in found.items()),
        ]
        if config.step_random_bits:
            word = self._word(m, begins)
            m.d.comb += adder.random.eq(_later(m, "random", word, at_adder - 3 + adder.random_latency))

        first = Signal(reset_less=True)
        with m.If(scales):
            m.d.sync += first.eq(control["first"])
        first = _later(m, "first_block", first, at_adder - 2 + adder.addend_latency)
        summed = _later(m, "summed", ends, at_adder - 2 + adder.latency, reset_less=False)
        # The adder's register holds a sum for a clock.
        kept = Signal(adder.total.shape(), name="kept", reset_less=True)
        with m.If(summed):
            m.d.sync += kept.eq(adder.total)
        for name, _ in adder.total.shape():
            m.d.comb += adder.sum[name].eq(Mux(summed, adder.total[name], kept[name]))
        field = adder.sum.magnitude[adder.accumulator.format.mantissa_bits :]
        m.d.comb += [adder.sum_is_normal.eq(field.any()), adder.clear.eq(first)]
        last = control["valid"] & control["last"]
        m.d.comb += self.captured.eq(_later(m, "last", last, self.latency - 1, reset_less=False))
        self.capture(m, {name: adder.total[name] for name, _ in adder.total.shape()})
        return m

    def _sum(self, m: Module, begins: Value) -> tuple[Value, dict[str, Value]]:
        """The sum inside a block, and its flags, at place 3 with their last product in them."""
        config, a, b, control = self.config, self.a_out, self.b_out, self.control_out
        product = Signal(len(a["significand"]) + len(b["significand"]), reset_less=True)
        takes, negative = Signal(), Signal(reset_less=True)
        m.d.sync += [
            takes.eq(control["valid"] & ~control["scale"]),
            product.eq(a["significand"] * b["significand"]),
            negative.eq(a["negative"] ^ b["negative"]),
        ]
        specials = Specials(product_flags(config))
        specials.multiply(m, a, b)
        specials.align(m, negative)
        aligned = self._align(m, product)
        subtract, take = _later(m, "subtract", negative, 1), _later(m, "take", takes, 1, reset_less=False)
        accumulator = Signal(signed(config.block_sum_bits), reset_less=True)
        total = Signal.like(accumulator, name="total")
        # Two's complement of the product, whose 1 goes in as the adder's carry.
        extension = subtract.replicate(len(accumulator) - len(aligned))
        addend = Cat(aligned ^ subtract.replicate(len(aligned)), extension)
        m.d.comb += total.eq(accumulator.as_unsigned() + addend + subtract)
        with m.If(take):
            m.d.sync += accumulator.eq(total)
        # The next block's scales pass its first product by two clocks ahead, and this one's last by one.
        with m.If(begins):
            m.d.sync += accumulator.eq(0)
        return total, specials.accumulate(m, take, begins)

    def _align(self, m: Module, product: Signal) -> Signal:
        """Register the product shifted left by both operands' shifts, in units of both sides' least ulps."""
        aligned = Signal(self.config.block_product_bits, reset_less=True)
        shifts: list[Value] = [side["shift"] for side in (self.a_out, self.b_out) if "shift" in side.shape().members]
        if not shifts:
            m.d.sync += aligned.eq(product)
            return aligned
        most = sum(max_operand_shift(side, common=True) for side in (self.config.a_formats, self.config.b_formats))
        amount = Signal(range(most + 1), reset_less=True)
        m.d.sync += [amount.eq(sum(shifts[1:], shifts[0])), aligned.eq(shift_left(product, amount, len(aligned)))]
        return aligned

    def _scales(self, m: Module, scales: Value) -> tuple[Value, Value | None, Value]:
        """Of the present block's scales the sum of exponents, the product of significands, and whether one is NaN."""
        codes = [operand.as_value()[:8] for operand in (self.a_out, self.b_out)]
        scale_nan = Signal(reset_less=True)
        if self.config.block_scale == "e8m0":
            exponent = Signal(range(2 * E8M0_NAN + 1), name="scale_exponent", reset_less=True)
            with m.If(scales):
                m.d.sync += [exponent.eq(codes[0] + codes[1]), scale_nan.eq(codes[0].all() | codes[1].all())]
            return exponent, None, scale_nan
        significands, shifts = [], []
        for code in codes:
            fraction, field = code[:_E4M3_MANTISSA_BITS], code[_E4M3_MANTISSA_BITS:7]
            significands.append(Cat(fraction, field.any()))
            shifts.append(Mux(field.any(), (field - 1)[: len(field)], 0))
        exponent = Signal(range(2 * _E4M3_LARGEST_SHIFT + 1), name="scale_exponent", reset_less=True)
        factor = Signal(2 * _E4M3_MANTISSA_BITS + 2, reset_less=True)
        with m.If(scales):
            m.d.sync += [
                exponent.eq(shifts[0] + shifts[1]),
                factor.eq(significands[0] * significands[1]),
                scale_nan.eq(codes[0][:7].all() | codes[1][:7].all()),
            ]
        return exponent, factor, scale_nan

    def _word(self, m: Module, begins: Value) -> Signal:
        """The present block's random bits: those of the row xor those of the column, as its scales passed."""
        m.d.sync += [self.row_word_out.eq(self.row_word), self.column_word_out.eq(self.column_word)]
        word = Signal(self.config.step_random_bits, reset_less=True)
        with m.If(begins):
            m.d.sync += word.eq(self.row_word_out ^ self.column_word_out)
        return word


def _adder_place(config: ArrayConfig) -> int:
    """Registers before the adder."""
    return 5 if config.block_scale == "e8m0" else 6


def _addend_bits(config: ArrayConfig) -> int:
    """Width of a block's sum, times the significands of its scales."""
    return config.block_sum_bits - 1 + (0 if config.block_scale == "e8m0" else 2 * (_E4M3_MANTISSA_BITS + 1))


def _adder(config: ArrayConfig) -> FloatAdder:
    """The adder of a configuration's blocks."""
    accumulator = config.accumulator
    assert isinstance(accumulator, FloatAccumulator)
    lsb = sum(min(f.lsb_exponent for f in side) for side in (config.a_formats, config.b_formats))
    if config.block_scale == "e8m0":
        lowest, span = lsb - 2 * E8M0_BIAS, _E8M0_LARGEST_SUM
    else:
        lowest, span = lsb + 2 * _E4M3_LSB_EXPONENT, 2 * _E4M3_LARGEST_SHIFT
    return FloatAdder(
        accumulator=accumulator,
        significand_bits=_addend_bits(config),
        min_exponent=lowest,
        max_exponent=lowest + span,
        leading_zeros=_addend_bits(config) - 1,
        specials=product_flags(config),
        stages=ADDER_STAGES,
    )


def _later(m: Module, name: str, value: Value, clocks: int, *, reset_less: bool = True) -> Value:
    """The value, so many clocks later."""
    for clock in range(clocks):
        register = Signal(value.shape(), name=f"{name}_{clock + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
