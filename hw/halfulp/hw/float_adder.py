"""The fused step of a float accumulator: acc <- round(acc + addend), the sum exact, one rounding (docs/numerics.md, 3).

The larger operand's topmost place is the top of a frame, in which the other one is aligned to the right, what falls
out below jammed into the lowest place. The frame reaches that far below the ulp of any sum whose bits it does not hold
exactly, so that all that a rounding mode looks at is there: the same result as from the full sum.
"""

from __future__ import annotations

from typing import Any

from amaranth import unsigned
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.numerics.accumulators import FloatAccumulator

__all__ = ["MAX_STAGES", "FloatAdder", "addend_latency", "addend_layout", "frame_bits", "sum_layout", "sum_specials"]

SPECIALS = ("nan", "plus_inf", "minus_inf")
"""Flags beside a number. A sum is NaN where `nan` or both infinities are set, else infinite where one of them is."""

_PHASES = ("compare", "align", "add", "count", "normalise", "round")
_CUTS: dict[int, tuple[str, ...]] = {
    1: (),
    2: ("add",),
    3: ("align", "count"),
    4: ("align", "count", "normalise"),
    5: ("align", "add", "count", "normalise"),
    6: ("compare", "align", "add", "count", "normalise"),
}

MAX_STAGES = len(_PHASES)
"""Most clocks that the adder's work is cut into."""


def sum_specials(accumulator: FloatAccumulator, addend_specials: tuple[str, ...]) -> tuple[str, ...]:
    """The flags that a sum can have: those of its addends, and what `ieee` overflow makes of a number."""
    fmt = accumulator.format
    made: tuple[str, ...] = ()
    if accumulator.overflow == "ieee" and accumulator.rounding.kind != "toward_zero":
        made = ("plus_inf", "minus_inf") if fmt.has_inf else ("nan",) if fmt.has_nan else ()
    return tuple(name for name in SPECIALS if name in addend_specials or name in made)


def sum_layout(accumulator: FloatAccumulator, specials: tuple[str, ...]) -> data.StructLayout:
    """A float accumulator: sign, the format's code without it, flags, and whether a step was beyond the largest number.

    `specials` are those of the sum; see `sum_specials`. The sign of a zero has no meaning.
    """
    fmt = accumulator.format
    fields = {"negative": unsigned(1), "magnitude": unsigned(fmt.bits - 1), **{name: unsigned(1) for name in specials}}
    return data.StructLayout({**fields, "overflow": unsigned(1)})


def addend_layout(significand_bits: int, exponent_bits: int, specials: tuple[str, ...]) -> data.StructLayout:
    """An exact number ±significand · 2**(min_exponent + exponent), and its flags."""
    fields = {"negative": unsigned(1), "significand": unsigned(significand_bits), "exponent": unsigned(exponent_bits)}
    return data.StructLayout({**fields, **{name: unsigned(1) for name in specials}})


def guard_places(accumulator: FloatAccumulator) -> int:
    """Places below the ulp that a rounding looks at, the jammed one included."""
    rounding = accumulator.rounding
    return {"nearest_even": 2, "toward_zero": 1, "stochastic": rounding.random_bits + 2}.get(
        rounding.kind, rounding.random_bits + 1
    )


def addend_latency(leading_zeros: int) -> int:
    """Clocks from an addend to the one in which its accumulator is taken: two levels of normalisation a clock."""
    return 1 + leading_zeros.bit_length() // 2


def frame_bits(accumulator: FloatAccumulator, significand_bits: int) -> int:
    """Places of the frame.

    Where the operands' leading ones are at least two places apart, the sum's is at most one below the frame's top:
    below it are the fraction and what the rounding looks at. Where they are closer, nothing may be lost: neither the
    accumulator, nor an addend one place below the top.
    """
    return max(accumulator.format.mantissa_bits + 2 + guard_places(accumulator), significand_bits + 1)


class FloatAdder(wiring.Component):
    """acc + addend, rounded once as `numerics.chains.float_chain` does it: one step a clock.

    Parameters
    ----------
    accumulator
        Format, rounding (mode and random bits) and overflow.
    significand_bits
        Width of the addend's significand.
    min_exponent, max_exponent
        Exponents of its least place, over all addends.
    leading_zeros
        Most zeros above the leading one of an addend that is not 0: they are shifted out before the step.
    specials
        Flags that an addend can have, of "nan", "plus_inf", "minus_inf".
    stages
        Clocks that a step takes, 1 to `MAX_STAGES`: with as many accumulators in turn, a step a clock.

    Members
    -------
    addend : In(addend_layout(...))
        `exponent` is counted from `min_exponent`. An addend of 0 without flags leaves the accumulator as it is.
    sum : In(sum_layout(...))
        The accumulator that it is added to, `addend_latency` clocks later.
    sum_is_normal : In(1)
        With `sum`: its exponent field is not 0. Not worked out here, for `total` has it at hand, a step earlier.
    clear : In(1)
        With `sum`: +0 in its place.
    random : In(r)
        Where the mode is stochastic: the step's R, `random_latency` clocks later than `addend`.
    total : Out(sum_layout(...))
        The rounded sum, from a register, `latency` clocks later than `addend` and `stages` later than `sum`.
    total_is_normal : Out(1)
        With `total`: its exponent field is not 0.
    """

    addend: Any
    sum: Any
    sum_is_normal: Signal
    clear: Signal
    random: Signal
    total: Any
    total_is_normal: Signal

    def __init__(
        self,
        *,
        accumulator: FloatAccumulator,
        significand_bits: int,
        min_exponent: int,
        max_exponent: int,
        leading_zeros: int = 0,
        specials: tuple[str, ...] = (),
        stages: int = 1,
    ) -> None:
        if not isinstance(accumulator, FloatAccumulator):
            raise TypeError(f"accumulator must be a FloatAccumulator, not {accumulator!r}")
        if significand_bits < 1:
            raise ValueError(f"significand_bits must be at least 1, not {significand_bits}")
        if min_exponent > max_exponent:
            raise ValueError(f"min_exponent must be at most max_exponent = {max_exponent}, not {min_exponent}")
        if not 0 <= leading_zeros < significand_bits:
            raise ValueError(f"leading_zeros must be 0 to {significand_bits - 1}, not {leading_zeros}")
        if not 1 <= stages <= MAX_STAGES:
            raise ValueError(f"stages must be 1 to {MAX_STAGES}, not {stages}")
        if unknown := set(specials) - set(SPECIALS):
            raise ValueError(f"specials must be of {', '.join(SPECIALS)}, not {sorted(unknown)}")
        self.accumulator = accumulator
        self.stages = stages
        self._cuts = _CUTS[stages]
        self._significand_bits = significand_bits
        self._top_exponents = min_exponent + significand_bits - 1, max_exponent + significand_bits - 1
        self._leading_zeros = leading_zeros
        self._levels = leading_zeros.bit_length()
        self._specials = sum_specials(accumulator, specials)
        self._frame = frame_bits(accumulator, significand_bits)
        # A carry's, those of a significand, and the one that the other may be further down.
        self._near_places = max(accumulator.format.significand_bits, significand_bits) + 2
        sums = sum_layout(accumulator, self._specials)
        exponent_bits = (max_exponent - min_exponent).bit_length()
        super().__init__(
            {
                "addend": In(addend_layout(significand_bits, exponent_bits, specials)),
                "sum": In(sums),
                "sum_is_normal": In(1),
                "clear": In(1),
                "random": In(accumulator.rounding.random_bits),
                "total": Out(sums),
                "total_is_normal": Out(1),
            }
        )

    @property
    def addend_latency(self) -> int:
        """Clocks from an addend to the one in which its accumulator is taken."""
        return addend_latency(self._leading_zeros)

    @property
    def random_latency(self) -> int:
        """Clocks from an addend to the one in which its random bits are taken."""
        return self.addend_latency + self.stages - 1

    @property
    def latency(self) -> int:
        """Clocks from an addend to its total."""
        return self.addend_latency + self.stages

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        frame = self._frame
        operands = self._compare(m, self._prepare(m))
        operands = self._cut(m, "compare", operands)
        operands["aligned"] = _shift_right_jam(m, operands.pop("small"), operands.pop("distance"), frame)
        operands = self._cut(m, "align", operands)
        # A place below the frame brings the 1 of a two's complement in as the adder's carry.
        subtract = operands.pop("subtract")
        inverted = operands.pop("aligned") ^ subtract.replicate(frame)
        large = operands.pop("large")
        raw = Signal(frame + 1, name="raw")
        m.d.comb += raw.eq(
            (Cat(Const(1, 1), Const(0, frame - len(large)), large, Const(0, 1)) + Cat(subtract, inverted, subtract))[
                1 : frame + 2
            ]
        )
        # Where the difference is below 0, its magnitude is one more than its complement: the rounding adds that one.
        operands["below"] = _wire(m, "below", subtract & raw[-1])
        operands["raw"] = raw
        operands = self._cut(m, "add", operands)
        near = self._near_places
        operands["zeros"] = _leading_zeros(m, operands["raw"][-near:] ^ operands["below"].replicate(near))
        operands = self._cut(m, "count", operands)
        operands = self._cut(m, "normalise", self._normalise(m, operands))
        self._round(m, operands)
        return m

    def _cut(self, m: Module, phase: str, values: dict[str, Value]) -> dict[str, Value]:
        """Register the values between two phases where the step is cut there."""
        if phase not in self._cuts:
            return values
        registers: dict[str, Value] = {}
        for name, value in values.items():
            registers[name] = Signal(value.shape(), name=f"{name}_after_{phase}", reset_less=True)
            m.d.sync += registers[name].eq(value)
        return registers

    def _prepare(self, m: Module) -> dict[str, Value]:
        """Normalise the addend, and bring its exponent into the accumulator's terms and range.

        The exponent is that of the topmost place, counted like the format's exponent field. Below `lowest` all of the
        addend is below the frame of any accumulator, above `highest` every sum is beyond the largest number. A zero has
        the lowest exponent.
        """
        fmt, addend, bits = self.accumulator.format, self.addend, self._significand_bits
        significand: Value = addend.significand
        least, greatest = (top - fmt.min_normal_exponent + 1 for top in self._top_exponents)
        top: Value = addend.exponent + least
        others: dict[str, Value] = {"negative": addend.negative}
        others |= {name: addend[name] for name, _ in addend.shape() if name in SPECIALS}
        for number, level in enumerate(reversed(range(self._levels))):
            empty = significand[bits - (1 << level) :] == 0
            significand = Mux(empty, significand << (1 << level), significand)[:bits]
            top = top - (empty << level)
            if number % 2:
                significand, top, others = _register(m, f"normalised_{level}", significand, top, others)
        lowest, highest = 1 - self._frame, max(fmt.max_code >> fmt.mantissa_bits, 1) + 2
        least -= (1 << self._levels) - 1
        clamped: Value = top
        if greatest > highest:
            clamped = Mux(top > highest, highest, clamped)
        if least < lowest:
            clamped = Mux(top < lowest, lowest, clamped)
        width = max(Const(min(greatest, highest)).shape().width, Const(lowest).shape().width) + 1
        exponent = Signal(signed(width), name="addend_exponent", reset_less=True)
        m.d.sync += exponent.eq(Mux(significand[-1], clamped, lowest))
        significand, _, others = _register(m, "addend", significand, None, others)
        return {"significand": significand, "exponent": exponent, **others}

    def _compare(self, m: Module, addend: dict[str, Value]) -> dict[str, Value]:
        """Which operand is at the frame's top, and how far the other one is below it."""
        fmt, acc, frame = self.accumulator.format, self.sum, self._frame
        kept = (~self.clear).replicate(len(acc.magnitude))
        magnitude = acc.magnitude & kept
        fraction, field = magnitude[: fmt.mantissa_bits], magnitude[fmt.mantissa_bits :]
        normal = self.sum_is_normal & ~self.clear
        # Subnormal numbers have the exponent of the smallest normal one.
        exponent = Cat(field[0] | ~normal, field[1:])
        own = Cat(Const(0, max(self._significand_bits - fmt.significand_bits, 0)), fraction, normal)
        other = Cat(Const(0, max(fmt.significand_bits - self._significand_bits, 0)), addend["significand"])
        difference = Signal(range(-(1 << len(field)) - frame, 1 << (len(addend["exponent"]) - 1)), name="difference")
        # The exponent is 1 for a field of 0: it is 1 less than subtracting the field that the carry takes then. The way
        # through this is the longest.
        minuend = Cat(Const(1, 1), addend["exponent"]).as_signed()
        m.d.comb += difference.eq((minuend + Cat(normal, ~field, Const(1, 1)).as_signed())[1:].as_signed())
        own_larger = difference[-1]
        values: dict[str, Value] = {
            "large": Mux(own_larger, own, other),
            # One place is taken here, so that the distance is the difference's complement.
            "small": Mux(own_larger, Cat(other, Const(0, 1)), Cat(Const(0, 1), own)),
            "distance": (difference ^ own_larger.replicate(len(difference)))[: len(difference) - 1],
            "negative": Mux(own_larger, acc.negative, addend["negative"]),
            "subtract": acc.negative ^ addend["negative"],
            "exponent": Mux(own_larger, exponent, addend["exponent"].as_unsigned()[:-1]),
            "overflow": acc.overflow & ~self.clear,
        }
        for name in self._specials:
            values[name] = (acc[name] & ~self.clear) | addend.get(name, Const(0))
        return values

    def _normalise(self, m: Module, operands: dict[str, Value]) -> dict[str, Value]:
        """Shift the sum to the left, and find the exponent field, less 1, that it has then.

        A sum below 0 is still the complement of its magnitude: ones are to come in where this shifts in zeros.

        A difference of operands that are two or more places apart has at most two zeros, the carry's place included.
        Of closer ones it is 0 behind the near places, unless the exponent is 1, with which nothing is shifted by more
        than a place. So only the near places are looked at, and only they are shifted by four or more.
        """
        raw, exponent, zeros = operands.pop("raw"), operands.pop("exponent"), operands.pop("zeros")
        left = Signal(signed(max(len(exponent), len(zeros)) + 1), name="left")
        m.d.comb += left.eq(exponent - zeros)
        # Below the smallest normal number the ulp stays the same.
        subnormal = left[-1]
        places = Mux(subnormal, exponent, zeros)[: len(zeros)]
        near = self._near_places
        top = _shift_left(m, raw[-near:], Cat(Const(0, 2), places[2:]))
        operands["shifted"] = _shift_left(m, Cat(raw[:-near], top), places[:2])
        operands["field"] = Mux(subnormal | (zeros == near), 0, left[: len(exponent)])
        operands["negative"] = operands["negative"] ^ operands["below"]
        return operands

    def _round(self, m: Module, operands: dict[str, Value]) -> None:
        """Add below the ulp, drop all below it, and saturate."""
        fmt, rounding, frame = self.accumulator.format, self.accumulator.rounding, self._frame
        field, carry = operands["field"], operands["below"]
        normalised = _wire(m, "normalised", operands["shifted"] ^ carry.replicate(frame + 1))
        places = frame - fmt.mantissa_bits
        fraction, hidden = normalised[:frame], normalised[frame]
        gap = not fmt.subnormals and fmt.mantissa_bits
        if gap:
            # The gap below the smallest normal number is one ulp. What falls out below is jammed.
            lost = fraction[: fmt.mantissa_bits]
            jam = Mux(carry, ~lost.all(), lost.any())
            flat = Cat(fraction[fmt.mantissa_bits] | jam, fraction[fmt.mantissa_bits + 1 :])
            fraction = Mux(hidden, fraction, flat)
            carry = Mux(hidden, carry, carry & lost.all())
        # The hidden one is counted in the field. Just under a half, and one more where the lowest place is odd: a tie
        # goes up from there.
        odd = normalised[places] if fmt.mantissa_bits else field[0] ^ hidden
        if not fmt.subnormals:
            odd = odd & hidden  # in the gap, 0 is the even one
        unlooked = places - rounding.random_bits
        addend = {
            "nearest_even": Cat((~odd).replicate(places - 1), odd),
            "toward_zero": Const(0, places),
            "stochastic": Cat(Const(1 << max(unlooked - 1, 0), unlooked), self.random),
            "stochastic_floor": Cat(Const(0, unlooked), self.random),
        }[rounding.kind]
        rounded = Signal(fmt.mantissa_bits + len(field) + 1, name="rounded")
        m.d.comb += rounded.eq(
            (Cat(Const(1, 1), fraction, field) + Cat(carry, addend, Const(0, fmt.mantissa_bits), hidden))[places + 1 :]
        )
        magnitude = rounded[: fmt.bits - 1]
        if not fmt.subnormals:
            magnitude = Mux(hidden, magnitude, rounded[0] << fmt.mantissa_bits)
        # Without a hidden one the field is 0, and the carry out of the fraction all that it can become.
        m.d.sync += self.total_is_normal.eq(hidden | rounded[0 if gap else fmt.mantissa_bits])
        too_large = Signal(name="too_large")
        m.d.comb += too_large.eq(rounded > fmt.max_code)
        # Without a reset: the first step of a tile clears it.
        total = Signal.like(self.total, name="rounded_total", reset_less=True)
        m.d.comb += self.total.eq(total)
        special = Cat(operands[name] for name in self._specials).any()
        overflows = too_large & ~special
        m.d.sync += [
            total.negative.eq(operands["negative"]),
            total.magnitude.eq(Mux(too_large, fmt.max_code, magnitude)),
            total.overflow.eq(operands["overflow"] | overflows),
        ]
        made: dict[str, Value] = {name: Const(0) for name in SPECIALS}
        if self.accumulator.overflow == "ieee" and rounding.kind != "toward_zero":
            if fmt.has_inf:
                made |= {"plus_inf": overflows & ~operands["negative"], "minus_inf": overflows & operands["negative"]}
            else:
                made["nan"] = overflows
        m.d.sync += [total[name].eq(operands[name] | made[name]) for name in self._specials]


def _register(
    m: Module, name: str, significand: Value, top: Value | None, others: dict[str, Value]
) -> tuple[Value, Any, dict[str, Value]]:
    """A pipeline stage of the addend."""
    given = {"significand": significand, **({} if top is None else {"top": top}), **others}
    registers = {key: Signal(value.shape(), name=f"{name}_{key}", reset_less=True) for key, value in given.items()}
    m.d.sync += [register.eq(given[key]) for key, register in registers.items()]
    return registers["significand"], registers.get("top"), {key: registers[key] for key in others}


def _wire(m: Module, name: str, value: Value) -> Signal:
    """A name for a value: what is used several times is then worked out once."""
    wire = Signal(value.shape(), name=name)
    m.d.comb += wire.eq(value)
    return wire


def _shift_right_jam(m: Module, value: Value, distance: Value, width: int) -> Value:
    """`value`, its top place that of a frame of `width` places, shifted right; what is lost is jammed below."""
    levels = ceil_log2(width)
    shifted = value = _wire(m, "unaligned", value)
    for level in range(min(levels, len(distance))):
        grown = min(len(shifted) + (1 << level), width)
        kept = Cat(Const(0, grown - len(shifted)), shifted)
        moved = Cat(shifted, Const(0, 1 << level))[-grown:]
        shifted = _wire(m, f"aligned_{level}", Mux(distance[level], moved, kept))
    if len(distance) > levels:
        shifted = Mux(distance[levels:].any(), 0, shifted)[: len(shifted)]
    shifted = Cat(Const(0, width - len(shifted)), shifted)
    # What is lost is found beside the shifts, not behind them: each place from a distance of its own on.
    below, reached = width - len(value), _at_least(distance)
    lost = Cat(bit & reached[below + place + 1] for place, bit in enumerate(value) if below + place + 1 < len(reached))
    lost = lost.any()
    return Cat(shifted[0] | lost, shifted[1:])


def _at_least(number: Value) -> list[Value]:
    """For each number from 0 to the largest of this width: whether `number` is at least that. No adder."""
    if not len(number):
        return [Const(1, 1)]
    below, top = _at_least(number[:-1]), number[-1]
    return [*(top | each for each in below), *(top & each for each in below)]


def _shift_left(m: Module, value: Value, distance: Value) -> Value:
    """`value` shifted left in its own width."""
    for level, far in enumerate(distance):
        moved = Cat(Const(0, min(1 << level, len(value))), value)[: len(value)]
        value = _wire(m, f"shifted_{level}", Mux(far, moved, value))
    return value


def _leading_zeros(m: Module, value: Value) -> Value:
    """How many zeros are above the leading one; the whole width where there is none."""
    # Ones below it make the width a power of two.
    padded = Cat(Const(1, 1).replicate((1 << ceil_log2(len(value) + 1)) - len(value)), value)
    # From single bits to ever longer runs: of each the zeros above its leading one, and whether there is none.
    runs: list[tuple[Value, Value]] = [(Const(0, 0), ~bit) for bit in _wire(m, "signless", padded)]
    while len(runs) > 1:
        pairs = list(zip(runs[::2], runs[1::2], strict=True))
        runs = []
        for number, ((low, low_empty), (high, high_empty)) in enumerate(pairs):
            count = Cat(Mux(high_empty, low, high)[: len(low)], high_empty)
            name = f"zeros_{len(pairs)}_{number}"
            runs.append((_wire(m, name, count), _wire(m, f"{name}_empty", high_empty & low_empty)))
    return runs[0][0]
