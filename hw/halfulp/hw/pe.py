"""The processing element (PE): multiply, align, accumulate, and hand the finished sum over.

A kind of accumulator is a kind of PE: a subclass of `ProcessingElement`, entered in
`processing_elements.PROCESSING_ELEMENTS`. Array and drain know only this base class. Here too is the exact PE.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from amaranth import unsigned
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import ArrayConfig
from halfulp.hw.float_adder import sum_layout, sum_specials
from halfulp.hw.interfaces import result_layout
from halfulp.hw.operand import is_fixed_point, operand_layout
from halfulp.hw.operand_normaliser import normalised_layout
from halfulp.hw.operand_shift import shifted_layout
from halfulp.hw.packing import FineShifts, Packing
from halfulp.numerics.accumulators import ExactAccumulator, FloatAccumulator

__all__ = [
    "ExactProcessingElement",
    "ProcessingElement",
    "Specials",
    "control_layout",
    "flags_after",
    "has_common_units",
    "multiplier_inputs",
    "operand_layouts",
    "product_flags",
    "product_specials",
    "result_fields",
    "shift_left",
]


def control_layout(config: ArrayConfig) -> data.StructLayout:
    """What goes with a step's operands: valid, and whether the step is its tile's first or last, 0 where not valid.

    Interleaved P times, a step stays for P clocks, one for each output that a PE keeps; `start` is 1 in the first of
    any P clocks in which a step may stay, whether or not one does.

    Of block-scaled operands, `scale` marks the step of a block's scales, and `ends` that of its last element.
    """
    start = {"start": 1} if config.interleave > 1 else {}
    block = {"scale": 1, "ends": 1} if config.block else {}
    return data.StructLayout({"valid": 1, "first": 1, "last": 1, **start, **block})


def operand_layouts(config: ArrayConfig) -> tuple[data.StructLayout, data.StructLayout]:
    """Decoded operands of A and of B, as they move through the array: those of a float accumulator are normalised.

    Of block-scaled operands the elements are not. A scale's code moves in their place, in the low 8 bits. Packed
    operands of A are those of two rows, as `packed_pe.pack` makes them.
    """
    sides = config.a_formats, config.b_formats
    if config.pack_multipliers:
        packed = data.StructLayout({"packed": signed(Packing.of(*sides).bits)})
        return packed, operand_layout(sides[1], complement=True)
    if config.shift_in_multipliers:
        places = FineShifts.of(*sides)
        return shifted_layout(sides[0], places.a), shifted_layout(sides[1], places.b)
    if config.block:
        elements = [operand_layout(formats, common=True) for formats in sides]
        a, b = (
            data.StructLayout({**layout.members, **({"unused": unsigned(8 - layout.size)} if layout.size < 8 else {})})
            for layout in elements
        )
        return a, b
    if isinstance(config.accumulator, FloatAccumulator):
        return normalised_layout(sides[0]), normalised_layout(sides[1])
    common = has_common_units(config)
    complement = not common and all(is_fixed_point(formats) for formats in sides)
    a, b = (operand_layout(formats, complement=complement, common=common) for formats in sides)
    return a, b


def has_common_units(config: ArrayConfig) -> bool:
    """Whether all operand formats of a side count in one unit, for the accumulator has a place of its own.

    An exact accumulator counts in units of the products of the formats at hand.
    """
    return not isinstance(config.accumulator, ExactAccumulator)


def product_flags(config: ArrayConfig) -> tuple[str, ...]:
    """Those of "nan", "plus_inf" and "minus_inf" that a product of operands, or of scales, can have."""
    layouts = operand_layouts(config)
    has_inf = any("inf" in layout.members for layout in layouts)
    # Scales of blocks have a NaN, whatever their elements have.
    has_nan = has_inf or bool(config.block) or any("nan" in layout.members for layout in layouts)
    return (*(("nan",) if has_nan else ()), *(("plus_inf", "minus_inf") if has_inf else ()))


def result_fields(config: ArrayConfig) -> tuple[str, ...]:
    """The fields of `result_layout` that can differ from 0: the number, and flags that operands or sums can raise."""
    flags = product_flags(config)
    if isinstance(config.accumulator, FloatAccumulator):
        return tuple(sum_layout(config.accumulator, sum_specials(config.accumulator, flags)).members)
    return ("sum", *flags, *(("overflow",) if "overflow" in result_layout(config).members else ()))


def product_specials(a: Any, b: Any) -> tuple[Value, Value]:
    """Whether a product of operands is NaN, and whether it is infinite: a NaN operand, 0 * Inf; another Inf operand."""
    nan, inf = Const(0), Const(0)
    for one, other in ((a, b), (b, a)):
        if "nan" in one.shape().members:
            nan = nan | one["nan"]
        if "inf" in one.shape().members:
            # A NaN's significand is 0 as well, which gives NaN too.
            nan = nan | (one["inf"] & ~other["significand"].any())
            inf = inf | one["inf"]
    return nan, inf


class ProcessingElement(wiring.Component, ABC):
    """One output of a tile at a time: what every kind of PE offers to the array.

    Members
    -------
    a, b, control : In
        A decoded operand of each side, and their step's flags. Nothing is accumulated where `control.valid` is 0.
        Interleaved P times: a is that of output 0 in the clock of `control.start`, of the next one in each next clock;
        b is taken in the clock of `control.start`.
    a_out, b_out, control_out : Out
        The same one clock later, for the neighbours on the right (a, control) and below (b, which stays until the next
        one is taken).
    row_word, column_word : In
        Where the accumulator is rounded at random: the top bits of the step's row and column word, `config.interleave`
        clocks later than a and b, and changing as they do.
    row_word_out, column_word_out : Out
        As a_out and b_out.
    shift, below : In
        Where `shift` is 1 the result register takes `below`, unless it captures a sum in the same clock.
    result : Out(result_layout(config))
        The result register: the last finished sum, or what was shifted in since. Interleaved, of output 0: those of the
        other outputs are shifted into it, one by one, and `below` into that of the last one. No `shift` between the
        first and the last of their captures.
    captured : Out(1)
        1 in the clock at whose end the result register, of the last output, takes a finished sum: `latency` clocks
        after that output's last step was at the inputs. The others' come a clock earlier, each before the next one's.
    """

    a: data.View[data.StructLayout]
    b: data.View[data.StructLayout]
    control: data.View[data.StructLayout]
    a_out: data.View[data.StructLayout]
    b_out: data.View[data.StructLayout]
    control_out: data.View[data.StructLayout]
    shift: Signal
    below: data.View[data.StructLayout]
    result: data.View[data.StructLayout]
    captured: Signal
    row_word: Signal
    column_word: Signal
    row_word_out: Signal
    column_word_out: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self.config = config
        self.a_layout, self.b_layout = operand_layouts(config)
        members: dict[str, Any] = {
            "a": In(self.a_layout),
            "b": In(self.b_layout),
            "control": In(control_layout(config)),
            "a_out": Out(self.a_layout),
            "b_out": Out(self.b_layout),
            "control_out": Out(control_layout(config)),
            "shift": In(1),
            "below": In(result_layout(config)),
            "result": Out(result_layout(config)),
            "captured": Out(1),
        }
        if bits := config.step_random_bits:
            members |= {"row_word": In(bits), "column_word": In(bits)}
            members |= {"row_word_out": Out(bits), "column_word_out": Out(bits)}
        super().__init__(members)

    @classmethod
    @abstractmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """Clocks from a tile's last step at a PE's inputs to the clock in which `captured` is 1."""

    @property
    def latency(self) -> int:
        """Clocks from a tile's last step at the inputs to the clock in which `captured` is 1."""
        return self.latency_of(self.config)

    @abstractmethod
    def elaborate(self, platform: object) -> Module:
        """Build the block."""

    def capture(self, m: Module, finished: dict[str, Value]) -> None:
        """The result register: loaded from `finished` in a clock with `captured`, else shifted."""
        for name in result_fields(self.config):
            register = Signal.like(self.result[name], name=f"result_{name}", reset_less=True)
            m.d.comb += self.result[name].eq(register)
            with m.If(self.captured | self.shift):
                m.d.sync += register.eq(Mux(self.captured, finished[name], self.below[name]))


class ExactProcessingElement(ProcessingElement):
    """Sums products exactly, in fixed point wide enough for max_k of them (Kulisch).

    Takes a step a clock, tiles without a gap, and tiles that were broken off: a step with `first` starts anew.

    Registers: operands, product, and for formats with exponents the aligned product; then the accumulator, whose
    adder's output is captured: a latency of 3 clocks. Fixed point has a second register of operands instead, for a
    multiplier with registers on both sides, and captures the accumulator's own register, one clock after its last sum,
    which keeps all of multiply-accumulate inside one DSP block: 4 clocks.
    """

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """3 with exponents, 4 without."""
        return 4 if _is_in_complement(config) else 3

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        a, b, control = self.a_out, self.b_out, self.control_out
        for taken, given in ((a, self.a), (b, self.b)):
            # Without a reset, which a multiplier's own registers need not have then.
            register = Signal.like(given.as_value(), name="operand", reset_less=True)
            m.d.sync += register.eq(given)
            m.d.comb += taken.eq(register)
        m.d.sync += control.eq(self.control)
        if _is_in_complement(self.config):
            self._sum_fixed_point(m, *flags_after(m, control, 2))
        else:
            self._sum_aligned(m, *flags_after(m, control, 1))
        return m

    def _sum_fixed_point(self, m: Module, valid: Value, first: Value, last: Value) -> None:
        factors = multiplier_inputs(m, self.a_out["significand"], self.b_out["significand"])
        product = Signal(signed(sum(map(len, factors))), reset_less=True)
        accumulator = Signal(signed(self.config.accumulator_bits), reset_less=True)
        m.d.sync += product.eq(factors[0] * factors[1])
        with m.If(valid):
            m.d.sync += accumulator.eq(product + Mux(first, 0, accumulator))
        m.d.sync += self.captured.eq(last)
        self.capture(m, {"sum": accumulator})

    def _sum_aligned(self, m: Module, valid: Value, first: Value, last: Value) -> None:
        a, b = self.a_out, self.b_out
        product = Signal(len(a["significand"]) + len(b["significand"]), reset_less=True)
        m.d.sync += product.eq(a["significand"] * b["significand"])
        negative = Signal(reset_less=True)
        subtract = Signal(reset_less=True)
        m.d.sync += [negative.eq(a["negative"] ^ b["negative"]), subtract.eq(negative)]
        specials = Specials(result_fields(self.config)[1:])
        specials.multiply(m, a, b)
        specials.align(m, negative)
        aligned = self._align(m, product)
        take = Signal()
        m.d.sync += [take.eq(valid), self.captured.eq(last)]

        accumulator = Signal(signed(self.config.accumulator_bits), reset_less=True)
        total = Signal.like(accumulator)
        # Two's complement of the product, whose 1 goes in as a carry: one adder, with a place below the sum's. A part's
        # adders have the inputs to invert with, lookup tables that align would need more of them.
        addend = Cat(Const(0, 1), aligned, Const(0, len(accumulator) - len(aligned))) ^ subtract.replicate(
            len(accumulator) + 1
        )
        m.d.comb += total.eq((Cat(Const(1, 1), accumulator) + addend)[1:])
        # A finished sum is taken from the adder, so its accumulator is free to be cleared in that very clock, which
        # the first step of the next tile asks for one clock ahead: a synchronous clear costs no logic in the adder.
        with m.If(take):
            m.d.sync += accumulator.eq(total)
        with m.If(first):
            m.d.sync += accumulator.eq(0)
        self.capture(m, {"sum": total, **specials.accumulate(m, take, first)})

    def _align(self, m: Module, product: Signal) -> Signal:
        """Register the product shifted left by both operands' shifts, in the width that the formats need."""
        shifts = [side["shift"] for side in (self.a_out, self.b_out) if "shift" in side.shape().members]
        pairs = [(x, y) for x in self.config.a_formats for y in self.config.b_formats]
        width = max((x.max_units * y.max_units).bit_length() for x, y in pairs)
        aligned = Signal(width, reset_less=True)
        if not shifts:
            m.d.sync += aligned.eq(product)
            return aligned
        most = max(x.max_shift + y.max_shift for x, y in pairs)
        amount = Signal(most.bit_length(), reset_less=True)
        m.d.sync += [
            amount.eq(sum(shifts[1:], shifts[0])),
            aligned.eq(shift_left(product, amount, width)[:width]),
        ]
        return aligned


def _is_in_complement(config: ArrayConfig) -> bool:
    """Whether operands are two's complements: no format of either side has exponents, NaN or infinities."""
    return all("negative" not in layout.members for layout in operand_layouts(config))


def flags_after(m: Module, control: Any, clocks: int) -> tuple[Value, ...]:
    """valid, first and last of a step, so many clocks later."""
    flags: tuple[Value, ...] = control["valid"], control["first"], control["last"]
    for number in range(1, clocks + 1):
        later = tuple(Signal(name=f"{name}_{number}") for name in ("valid", "first", "last"))
        m.d.sync += [register.eq(flag) for register, flag in zip(later, flags, strict=True)]
        flags = later
    return flags


def multiplier_inputs(m: Module, *operands: Value) -> list[Signal]:
    """Operands a clock later, in registers of the multiplier's own: those that neighbours read are not inside it."""
    factors = [Signal(operand.shape(), name=f"factor_{n}", reset_less=True) for n, operand in enumerate(operands)]
    m.d.sync += [factor.eq(operand) for factor, operand in zip(factors, operands, strict=True)]
    return factors


class Specials:
    """NaN and infinities beside the sum: the flags of these names, a pipeline stage a method."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.nan = Signal(reset_less=True)
        self.inf = Signal(reset_less=True)
        self.flags = {name: Signal(name=f"aligned_{name}", reset_less=True) for name in self.names}

    def multiply(self, m: Module, a: Any, b: Any) -> None:
        """Beside the product: NaN operands and 0 * Inf give NaN, another Inf operand Inf."""
        nan, inf = product_specials(a, b)
        m.d.sync += [self.nan.eq(nan), self.inf.eq(inf)]

    def align(self, m: Module, negative: Value) -> None:
        """Beside the aligned product: an infinity has the sign of the product, whose factors are not 0."""
        source = {"nan": self.nan, "plus_inf": self.inf & ~negative, "minus_inf": self.inf & negative}
        m.d.sync += [flag.eq(source[name]) for name, flag in self.flags.items()]

    def accumulate(self, m: Module, take: Value, clear: Value) -> dict[str, Value]:
        """Beside the accumulator: each flag is sticky over a tile."""
        totals: dict[str, Value] = {}
        for name, flag in self.flags.items():
            sticky = Signal(name=f"sticky_{name}", reset_less=True)
            totals[name] = sticky | flag
            with m.If(take):
                m.d.sync += sticky.eq(sticky | flag)
            with m.If(clear):
                m.d.sync += sticky.eq(0)
        return totals


def shift_left(value: Value, amount: Value, width: int) -> Value:
    """`value` shifted left by `amount`, cut to `width` bits.

    The shift operator's result is as wide as the largest amount could make it: beyond 64 bits, where simulation slows
    down a lot. So the amount's high bits, which a narrow result has little room for, shift in steps that are cut.
    """
    low = len(amount)
    while low and len(value) + (1 << low) - 1 > max(width, 64):
        low -= 1
    shifted = value << amount[:low] if low else value
    for bit in range(low, len(amount)):
        far = Cat(Const(0, 1 << bit), shifted)[:width]
        shifted = Mux(amount[bit], far, shifted)
    return shifted
