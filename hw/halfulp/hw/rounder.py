"""The rounding lane: one exact sum a clock to one code, rounded once (docs/numerics.md, section 2).

The significand is normalised, shifted so that the output's ulp has a fixed place, and an addend goes in below that
place; what carries over decides between the two neighbours. Exponent field and significand are one integer, so a
carry out of the significand goes into the exponent. Numbers of formats with no one spacing are rounded beside that, by
`TableRounder`.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import payload_register, result_layout
from halfulp.hw.rounding_setup import (
    RoundingSetup,
    fraction_places,
    has_binary,
    integer_places,
    rounding_layout,
    sum_places,
    table_formats,
)
from halfulp.hw.table_rounder import FIELD_BITS, TableRounder
from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.formats import FloatFormat, Format, PositFormat, ScaledIntegerFormat, TableFormat
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS

__all__ = ["RoundingLane", "RoundingSetup", "rounding_layout"]

FIELD_LIMIT_LOG2 = 8
FIELD_LIMIT = (1 << FIELD_LIMIT_LOG2) + 1
"""Exponent fields are cut to this: formats have at most 8 exponent bits, so it is beyond all of them."""

DISTANCE_BITS = 6
"""How far a value lies below the smallest normal one is cut to 2**6 - 1 places: then only the sticky bit is left."""


class RoundingLane(wiring.Component):
    """Rounds one sum to one code of any of the output formats, one a clock.

    Members
    -------
    rounding : In(rounding_layout(config))
        Constant while sums are in the pipeline.
    valid : In(1)
        A sum enters. Nothing halts it: a stage of the pipeline moves where there is a sum before it, by itself, so
        that no register has to reach all of them.
    result : In(result_layout(config))
        It.
    random : In(16)
        Its random bits; of r bits the top r are looked at.
    code : Out(32)
    invalid, overflow : Out(1)
        The code of the sum that entered `latency` clocks ago, and its flags as in `numerics.Encoded`;
        `overflow` also where the sum's own was set.
    """

    rounding: Any
    valid: Signal
    result: Any
    random: Signal
    code: Signal
    invalid: Signal
    overflow: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "rounding": In(rounding_layout(config)),
                "valid": In(1),
                "result": In(result_layout(config)),
                "random": In(MAX_OUTPUT_BITS),
                "code": Out(32),
                "invalid": Out(1),
                "overflow": Out(1),
            }
        )

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """Clocks from a sum to its code."""
        levels = (sum_places(config) - 1).bit_length()
        tables = table_formats(config)
        return 1 + (levels + 1) // 2 + 7 + (TableRounder.latency_of(tables) if tables else 0)

    @property
    def latency(self) -> int:
        """Clocks from a sum to its code.

        Two levels of normalisation a clock, 8 more, and those of the `TableRounder` where there is one.
        """
        return self.latency_of(self._config)

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        pipeline = _Pipeline(m, self.valid)
        result = self.result
        negative, magnitude = self._take_apart(pipeline)
        pipeline.carry(
            negative=Mux(result.plus_inf | result.minus_inf, result.minus_inf, negative),
            nan=result.nan | (result.plus_inf & result.minus_inf),
            infinite=result.plus_inf | result.minus_inf,
            random=self.random,
            stepped=result.overflow if "overflow" in result.shape().members else Const(0),
        )
        pipeline.step(magnitude=magnitude)
        self._normalise(pipeline)
        self._place_exponent(pipeline)
        self._align(pipeline)
        self._round(pipeline)
        self._finish(pipeline)
        return m

    def _take_apart(self, pipeline: _Pipeline) -> tuple[Value, Value]:
        """Sign and magnitude of the sum; of a float accumulator the significand, its exponent carried along."""
        result, accumulator = self.result, self._config.accumulator
        if not isinstance(accumulator, FloatAccumulator):
            return result.sum < 0, Mux(result.sum < 0, -result.sum, result.sum)[: len(result.sum)]
        bits = accumulator.format.mantissa_bits
        field = result.magnitude[bits:]
        normal = field.any()
        pipeline.carry(raised=Mux(normal, field - 1, 0)[: len(field)])
        return result.negative, Cat(result.magnitude[:bits], normal)

    def _normalise(self, pipeline: _Pipeline) -> None:
        """Shift the leading one to the top; `zeros` is how far it was from there (of a zero: without meaning)."""
        width = sum_places(self._config)
        levels = (width - 1).bit_length()
        zeros: list[Value] = []
        for high in reversed(range((levels + 1) // 2)):
            magnitude, zeros = pipeline["magnitude"], [pipeline["zeros"]] if zeros else []
            # Which of the topmost parts are empty is found out side by side, not of what has been shifted.
            part = 1 << 2 * high
            empty = [magnitude[max(width - (n + 1) * part, 0) : max(width - n * part, 0)] == 0 for n in range(3)]
            if 2 * high + 1 < levels:
                both = empty[0] & empty[1]
                one = Mux(both, empty[2], empty[0])
                far, near = (Mux(one, magnitude << (n + 1) * part, magnitude << n * part) for n in (2, 0))
                magnitude, zeros = Mux(both, far, near)[:width], [one, both, *zeros]
            else:
                magnitude, zeros = Mux(empty[0], magnitude << part, magnitude)[:width], [empty[0], *zeros]
            pipeline.step(magnitude=magnitude, zeros=Cat(zeros))

    def _place_exponent(self, pipeline: _Pipeline) -> None:
        """Put the exponent field above the significand, and find out how far both go down to the ulp's place."""
        magnitude = pipeline["magnitude"]
        places = integer_places(self._config) + fraction_places(self._config)
        spare = len(magnitude) - places
        head = Cat(Const(0, -spare), magnitude) if spare <= 0 else magnitude[spare:]
        if spare > 0:
            head = Cat(head[0] | magnitude[:spare].any(), head[1:])

        # Above the smallest normal number: the distance is the exponent field, less 1.
        zeros = pipeline["zeros"] if sum_places(self._config) > 1 else 0
        raised = pipeline["raised"] if isinstance(self._config.accumulator, FloatAccumulator) else 0
        pipeline.step(head=head, above=(self.rounding.top_exponent + raised - zeros)[:17])

        head, above = pipeline["head"], pipeline["above"]
        normal = ~above[-1]
        field = Mux(above[FIELD_LIMIT_LOG2:-1].any(), FIELD_LIMIT, above + 1)[:9]
        # The hidden one is the field's lowest place: a normal number's is counted in its field already.
        top = Mux(normal & head[-1], field, head[-1])
        # Below it: down by so many places more, up to 2**DISTANCE_BITS - 1.
        is_far = ~above[DISTANCE_BITS:].all() | ~above[:DISTANCE_BITS].any()
        least, most = self._subnormal_shifts(pipeline.m)
        shift = Mux(normal, self.rounding.narrow, Mux(is_far, most, least - above))
        flat = Const(0)
        if any(_has_gap(f) for f in self._config.out_formats):
            flat = ~normal & self.rounding.flat
        pipeline.carry(flat=flat)
        pipeline.step(fixed=Cat(head[:-1], top), shift=shift[: DISTANCE_BITS + 1])

    def _subnormal_shifts(self, m: Module) -> tuple[Signal, Signal]:
        """How far subnormal numbers go down besides their distance, and how far at most: the same for a whole GEMM."""
        least = Signal(DISTANCE_BITS, name="least_shift", reset_less=True)
        most = Signal(DISTANCE_BITS + 1, name="most_shift", reset_less=True)
        places = self.rounding.narrow
        if any(_has_gap(f) for f in self._config.out_formats):
            places = places + self.rounding.gap
        m.d.sync += [least.eq(places), most.eq(places + (1 << DISTANCE_BITS) - 1)]
        return least, most

    def _align(self, pipeline: _Pipeline) -> None:
        """Shift right, all that is lost jammed into the lowest place; the coarse half of the shift first."""
        for low, high in ((3, DISTANCE_BITS + 1), (0, 3)):
            fixed, shift = pipeline["fixed"], pipeline["shift"]
            for level in reversed(range(low, high)):
                distance = 1 << level
                lost = fixed[:distance].any()
                moved = fixed[distance:]
                moved = Cat(moved[0] | lost, moved[1:]) if len(moved) else lost
                fixed = Mux(shift[level], moved, fixed)
            pipeline.step(fixed=fixed, shift=shift[:low])

    def _round(self, pipeline: _Pipeline) -> None:
        """Add below the ulp, and drop all below it."""
        rounding = self.rounding
        places = fraction_places(self._config)
        tables = table_formats(self._config)
        table = None
        if tables:
            table = self._round_by_table(pipeline, tables)
        fixed = pipeline["fixed"]
        odd = fixed[places]
        if has_binary(self._config):
            # Binary numbers are the odd integers: (|x| + 1) / 2 is what is rounded, of which x / 2 is here.
            fixed = (fixed + Mux(rounding.binary, 1 << (places - 1), 0))[: len(fixed) + 1]
            odd = fixed[places]
        # Just under a half, and one more where lo is odd: a tie goes up from there. In place of adding the one,
        # the addend is either of the two sums.
        nearest = Cat((~odd).replicate(places - 1), odd)
        rounded = (fixed + (self._addend(pipeline) | Mux(rounding.nearest, nearest, 0)))[places:]
        if table is not None:
            rounded = Mux(rounding.table, table, rounded)
        if has_binary(self._config):
            rounded = Mux(rounding.at_least_one & ~rounded.any(), 1, rounded)
        pipeline.step(rounded=rounded)

    def _addend(self, pipeline: _Pipeline) -> Value:
        """What is added below the ulp in all modes but nearest even: a share of it."""
        addend = self.rounding.addend
        if fraction_places(self._config) > MAX_OUTPUT_BITS:
            addend = addend | Cat(Const(0, 2), pipeline["random"] & self.rounding.random_mask)
        return addend

    def _round_by_table(self, pipeline: _Pipeline, tables: tuple[TableFormat, ...]) -> Value:
        """The magnitude's code in a table format; all else in the pipeline waits for it."""
        fixed, share = pipeline["fixed"], fraction_places(self._config)
        places = integer_places(self._config) - 1 + share
        table = TableRounder(formats=tables, fraction_places=places, share_places=share)
        pipeline.m.submodules.table = table
        pipeline.m.d.comb += [
            table.number.eq(self.rounding.table_number),
            table.field.eq(fixed[places : places + FIELD_BITS]),
            table.fraction.eq(fixed[:places]),
            table.share.eq(self._addend(pipeline)),
            table.nearest.eq(self.rounding.nearest),
        ]
        for _ in range(table.latency):
            pipeline.step(fixed=pipeline["fixed"])
        return table.rounded

    def _finish(self, pipeline: _Pipeline) -> None:
        """Apply the sign, and replace what has no code."""
        rounding, rounded, negative = self.rounding, pipeline["rounded"], pipeline["negative"]
        if any(_has_gap(f) for f in self._config.out_formats):
            # The gap below the smallest normal number is one ulp: 0 or that number.
            rounded = Mux(pipeline["flat"], Mux(rounded[0], rounding.min_normal, 0), rounded)
        code = rounded | Mux(negative & rounded.any(), rounding.sign, 0)
        if any(isinstance(f, (ScaledIntegerFormat, PositFormat)) for f in self._config.out_formats):
            integer = Mux(negative, -rounded, rounded)[:32] & rounding.code_mask
            code = Mux(rounding.integer, integer, code)
        if has_binary(self._config):
            code = Mux(rounding.binary, negative ^ rounded.any(), code)
        too_large = rounded > Mux(negative, rounding.limit[1], rounding.limit[0])
        pipeline.step(code=code[:32], too_large=too_large)

        negative, nan, infinite = (pipeline[name] for name in ("negative", "nan", "infinite"))
        too_large = Mux(infinite, rounding.infinity_overflows, pipeline["too_large"])
        code = Mux(pipeline["too_large"], Mux(negative, rounding.beyond[1], rounding.beyond[0]), pipeline["code"])
        code = Mux(infinite, Mux(negative, rounding.infinity[1], rounding.infinity[0]), code)
        outputs = [payload_register(pipeline.m, port) for port in (self.code, self.invalid, self.overflow)]
        with pipeline.m.If(pipeline.valid):
            pipeline.m.d.sync += [
                outputs[0].eq(Mux(nan, rounding.nan, code)),
                outputs[1].eq(nan & rounding.nan_invalid),
                outputs[2].eq((~nan & too_large) | pipeline["stepped"]),
            ]


def _has_gap(fmt: Format) -> bool:
    return isinstance(fmt, FloatFormat) and not fmt.subnormals


class _Pipeline:
    """Values between the stages of a pipeline; what is carried along comes out at every later stage.

    `valid`: there are some at the present stage. Only then does the next one load.
    """

    def __init__(self, m: Module, valid: Value) -> None:
        self.m = m
        self.valid = valid
        self._stage = 0
        self._carried: dict[str, Value] = {}
        self._values: dict[str, Value] = {}

    def carry(self, **values: Value) -> None:
        """Take `values` along from this stage on."""
        self._carried.update(values)

    def step(self, **values: Value) -> None:
        """Register `values`, and all that is carried along."""
        self._values = {}
        for name, value in {**self._carried, **values}.items():
            register = Signal(len(value), name=f"{name}_{self._stage}", reset_less=True)
            with self.m.If(self.valid):
                self.m.d.sync += register.eq(value)
            self._values[name] = register
        moved = Signal(name=f"valid_{self._stage}")
        self.m.d.sync += moved.eq(self.valid)
        self.valid = moved
        self._carried = {name: self._values[name] for name in self._carried}
        self._stage += 1

    def __getitem__(self, name: str) -> Value:
        return self._values[name]
