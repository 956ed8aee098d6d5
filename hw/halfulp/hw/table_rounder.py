"""Rounding to formats whose numbers have no one spacing: posits and logarithmic numbers (docs/numerics.md, section 2).

A magnitude x lies between two numbers of the format, its bracket: lo, whose code is known, and hi, of the next code.
All modes compare x with one number in between:

- stochastic: x goes up where (x - lo)/u + A >= 1, A = (R + h)/2**r, that is from hi - u * A on;
- nearest even: from the tie on, or just above it where lo's code is even;
- toward zero: from hi on, so never.

x is given by its exponent field and 1.fraction, in which frame a bracket spans at most four binades up and three down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from amaranth import unsigned
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from halfulp.numerics.formats import LogFormat, PositFormat, TableFormat

__all__ = ["FIELD_BITS", "TABLE_PLACES", "TableRounder", "least_exponent"]

FIELD_BITS = 9
"""Width of the exponent field."""

FRACTION_BITS = 16
"""Of a bracket: neighbours have 15, their tie one more."""

TABLE_PLACES = FRACTION_BITS + 1
"""Significand places of x above those that decide like a random word: the hidden one and `FRACTION_BITS`."""

WHOLE_BITS = 5
"""Of a bracket, before the point: hi is at most 2**4."""

CODE_BITS = 17


def least_exponent(fmt: TableFormat) -> int:
    """Exponent of the magnitudes whose exponent field is 1: those of the least number but zero."""
    if isinstance(fmt, LogFormat):
        return fmt.min_exponent
    return fmt.lsb_exponent


def _bracket_layout() -> data.StructLayout:
    """The code of lo; hi, hi - lo and the tie in units of 2**-FRACTION_BITS; fixed: lo is the answer."""
    place = unsigned(WHOLE_BITS + FRACTION_BITS)
    return data.StructLayout(
        {"code": unsigned(CODE_BITS), "high": place, "gap": place, "tie": place, "fixed": unsigned(1)}
    )


class TableRounder(wiring.Component):
    """Rounds a magnitude a clock to the code of a posit's or a logarithmic format's, without sign.

    Parameters
    ----------
    formats
        Those that can be selected.
    fraction_places
        Width of x's fraction, the lowest place jammed; at least `TABLE_PLACES` - 1 + `share_places`.
    share_places
        Width of the share.

    Members
    -------
    number : In
        Position in `formats`; constant while numbers are in the pipeline.
    field : In(FIELD_BITS)
        Binades of x above `least_exponent`, and 1; 0 where x is below that: x is then 0.fraction.
    fraction : In(fraction_places)
    share : In(share_places)
        A, in units of 2**-share_places; 0 in deterministic modes.
    nearest : In(1)
        Whether the mode is nearest even; constant while numbers are in the pipeline.
    rounded : Out(CODE_BITS)
        The code, `latency` clocks later; beyond the format's largest where the number is.
    """

    number: Signal
    field: Signal
    fraction: Signal
    share: Signal
    nearest: Signal
    rounded: Signal

    def __init__(self, *, formats: tuple[TableFormat, ...], fraction_places: int, share_places: int) -> None:
        if not formats:
            raise ValueError("a table rounder needs at least one format")
        if fraction_places < TABLE_PLACES - 1 + share_places:
            least = TABLE_PLACES - 1 + share_places
            raise ValueError(f"fraction_places must be at least {least}, not {fraction_places}")
        self.formats = formats
        self.share_places = share_places
        super().__init__(
            {
                "number": In(range(max(len(formats), 2))),
                "field": In(FIELD_BITS),
                "fraction": In(fraction_places),
                "share": In(share_places),
                "nearest": In(1),
                "rounded": Out(CODE_BITS),
            }
        )

    @property
    def latency(self) -> int:
        """Clocks to find the bracket, and three to multiply, to subtract and to compare."""
        return self.latency_of(self.formats)

    @staticmethod
    def latency_of(formats: tuple[TableFormat, ...]) -> int:
        """The latency with these formats."""
        return max(_bracket_clocks(fmt) for fmt in formats) + 3

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        clocks = self.latency - 3
        stages = _Stages(m)
        places = TABLE_PLACES - 1 + self.share_places
        spare = len(self.fraction) - places
        x = Cat(self.fraction[: spare + 1].any(), self.fraction[spare + 1 :], self.field.any())

        found = []
        for fmt in self.formats:
            top, more = self.fraction[-15:], self.fraction.any()
            if isinstance(fmt, PositFormat):
                bracket = _posit_bracket(m, stages, fmt, self.field, top, more)
            elif isinstance(fmt, LogFormat):
                bracket = _log_bracket(m, stages, fmt, self.field, top)
            else:
                raise TypeError(f"no rounding lane for format {fmt}")
            found.append(stages.delay(bracket, clocks - _bracket_clocks(fmt)))
        chosen: Any = Signal(_bracket_layout(), name="bracket")
        m.d.comb += chosen.eq(found[-1])
        for number in range(len(found) - 1):
            with m.If(self.number == number):
                m.d.comb += chosen.eq(found[number])
        x, share = stages.delay(x, clocks), stages.delay(self.share, clocks)

        product = stages.delay(chosen.gap * share if self.share_places > 2 else Const(0), 1)
        chosen, x = stages.delay(chosen, 1), stages.delay(x, 1)
        bound = (chosen.high << self.share_places) - product
        tie = Cat(~chosen.code[0], Const(0, self.share_places - 1), chosen.tie)
        limit = Mux(self.nearest, tie, bound)[: WHOLE_BITS + places]
        limit, chosen, x = (stages.delay(value, 1) for value in (limit, chosen, x))
        up = (x >= limit) & ~chosen.fixed
        m.d.comb += self.rounded.eq(stages.delay((chosen.code + up)[:CODE_BITS], 1))
        return m


class _Stages:
    """Registers that move in every clock."""

    def __init__(self, m: Module) -> None:
        self._m = m
        self._count = 0

    def delay(self, value: Any, clocks: int) -> Any:
        """`value`, a Value or a View, so many clocks later."""
        for _ in range(clocks):
            shape = value.shape() if isinstance(value, data.View) else len(value)
            register = Signal(shape, name=f"stage_{self._count}", reset_less=True)
            self._count += 1
            self._m.d.sync += register.eq(value)
            value = register
        return value


def _bracket_clocks(fmt: TableFormat) -> int:
    return max(fmt.fraction_bits, 1) if isinstance(fmt, LogFormat) else 2


class _Binade(NamedTuple):
    """What a posit's numbers are in one binade: evenly spaced, or none at all but perhaps the first.

    code: of the number at or below its start; fraction_bits: where they are evenly spaced. Else, in units of the
    binade's start, hi, hi - lo and the tie, times 2**FRACTION_BITS.
    """

    code: int
    even: bool
    fraction_bits: int
    high: int
    gap: int
    tie: int


def _binades(fmt: PositFormat) -> list[_Binade]:
    """By exponent field: below the least number, then each binade up to the largest number's, without that one."""
    table = fmt.magnitudes
    found = []
    for field in range(fmt.max_shift + 1):
        start = 0.0 if field == 0 else 2.0 ** (least_exponent(fmt) + field - 1)
        code = int(np.searchsorted(table.value, start, side="right")) - 1
        low, high, tie = (float(v) for v in (table.value[code], table.value[code + 1], table.tie[code]))
        if field and low == start and high <= 2 * start:
            fraction_bits = round(np.log2(start / (high - low)))
            found.append(_Binade(code, True, fraction_bits, 0, 0, 0))
        else:
            unit = 2.0 ** (FRACTION_BITS - least_exponent(fmt) - max(field - 1, 0))
            found.append(_Binade(code, False, 0, int(high * unit), int((high - low) * unit), int(tie * unit)))
    return found


def _posit_bracket(m: Module, stages: _Stages, fmt: PositFormat, field: Signal, fraction: Value, more: Value) -> Any:
    """Look the binade up; in evenly spaced ones cut the fraction."""
    binades = _binades(fmt)
    place = unsigned(WHOLE_BITS + FRACTION_BITS)
    layout = data.StructLayout(
        {"code": unsigned(CODE_BITS), "even": unsigned(1), "fraction_bits": unsigned(4)}
        | {"high": place, "gap": place, "tie": place}
    )
    contents: Any = [b._asdict() for b in binades]
    table = memory.Memory(shape=layout, depth=len(binades), init=contents)
    m.submodules[f"binades_{fmt.name}"] = table
    port = table.read_port(domain="comb")
    m.d.comb += port.addr.eq(field[: len(port.addr)])
    beyond = field > fmt.max_shift
    binade, fraction = stages.delay(port.data, 1), stages.delay(fraction, 1)
    top = stages.delay(beyond, 1)
    above = stages.delay((field > fmt.max_shift + 1) | more, 1)

    bracket: Any = Signal(_bracket_layout(), name=f"bracket_{fmt.name}")
    ulp = (Const(1 << 15) >> binade.fraction_bits)[:16]
    cut = fraction & ~(ulp - 1)[:15]
    m.d.comb += [bracket[name].eq(binade[name]) for name in ("code", "high", "gap", "tie")]
    with m.If(binade.even):
        m.d.comb += [
            bracket.code.eq(binade.code + (fraction >> (15 - binade.fraction_bits)[:4])),
            bracket.high.eq(((1 << 15) + cut + ulp) << 1),
            bracket.gap.eq(ulp << 1),
            bracket.tie.eq((((1 << 15) + cut) << 1) + ulp),
        ]
    with m.If(top):
        m.d.comb += [bracket.code.eq(fmt.max_code + above), bracket.fixed.eq(1)]
    return stages.delay(bracket, 1)


def _log_bracket(m: Module, stages: _Stages, fmt: LogFormat, field: Signal, fraction: Value) -> Any:
    """Search the powers of one binade, a bit of the exponent's fraction a clock; then mind the least number."""
    bits, one = fmt.fraction_bits, 1 << 15
    powers = fmt.magnitudes.significand[1 << bits : 2 << bits].tolist() if bits else [one]
    index: Value = Const(0, 0)
    low: Value = Const(one, 17)
    high: Value = Const(2 * one, 17)
    for level in range(bits):
        if level:
            field, fraction = stages.delay(field, 1), stages.delay(fraction, 1)
            index, low, high = stages.delay(index, 1), stages.delay(low, 1), stages.delay(high, 1)
        half = 1 << (bits - level - 1)
        middles = [powers[(2 * n + 1) * half] for n in range(1 << level)]
        if level:
            table = memory.Memory(shape=16, depth=len(middles), init=middles)
            m.submodules[f"powers_{fmt.name}_{level}"] = table
            port = table.read_port(domain="comb")
            m.d.comb += port.addr.eq(index)
            middle = port.data
        else:
            middle = Const(middles[0], 16)
        up = Cat(fraction, Const(1, 1)) >= middle
        index = Cat(up, index)
        low, high = Mux(up, middle, low), Mux(up, high, middle)

    bracket: Any = Signal(_bracket_layout(), name=f"bracket_{fmt.name}")
    first = (powers[1] if bits > 0 else one) << 1
    m.d.comb += [
        bracket.code.eq(Cat(index, (field - 1)[:FIELD_BITS]) if bits else field),
        bracket.high.eq(high << 1),
        bracket.gap.eq((high - low)[:17] << 1),
        bracket.tie.eq((low + high)[:18]),
    ]
    with m.If((field == 0) | ((field == 1) & ~index.any()) if bits else field == 0):
        # Below the least number, which is not the first of its binade: field 0 is zero.
        m.d.comb += [bracket.code.eq(0), bracket.high.eq(first), bracket.gap.eq(first), bracket.tie.eq(first >> 1)]
    binades = 1 << (fmt.width - 1 - bits)
    with m.If(field > binades if bits else field >= binades):
        m.d.comb += [bracket.code.eq(fmt.max_code + 1), bracket.fixed.eq(1)]
    return stages.delay(bracket, 1)
