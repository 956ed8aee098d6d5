"""Operands inside the array: one internal number for all formats of a side, and the decoder that makes it of codes.

A decoded operand is ±significand * 2**shift in units of its format's least ulp, 2**lsb_exponent, so that products and
sums of any mixture of formats are plain integers. Where no operand of an array has an exponent, significands are two's
complement, which the multipliers of DSP blocks take; else sign and magnitude, which are less work to multiply and
shift in lookup tables.
"""

from __future__ import annotations

from typing import Any

from amaranth import unsigned
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.numerics.formats import FloatFormat, Format, IntFormat

__all__ = ["OperandDecoder", "format_number_bits", "is_fixed_point", "operand_layout"]


def is_fixed_point(formats: tuple[Format, ...]) -> bool:
    """Whether no format of `formats` has exponents, NaN or infinities."""
    return not any(f.max_shift or f.has_nan or f.has_inf for f in formats)


def format_number_bits(formats: tuple[Format, ...]) -> int:
    """Bits that a format's number in `formats` takes; 0 where there is nothing to choose."""
    return ceil_log2(len(formats))


def operand_layout(formats: tuple[Format, ...], *, complement: bool = False) -> data.StructLayout:
    """The internal number that holds every code of every one of `formats`.

    significand: a magnitude, or where `complement` is set two's complement; negative: its sign, only beside a
    magnitude; shift: exponent above the format's least ulp, absent where no format has one; nan, inf: absent where
    no format has them. A NaN's significand is 0, that of an infinity ±1.
    """
    fields: dict[str, Any] = {"significand": unsigned(max(f.significand_bits for f in formats))}
    if complement:
        fields["significand"] = signed(max(_complement_bits(f) for f in formats))
    else:
        fields["negative"] = unsigned(1)
    max_shift = max(f.max_shift for f in formats)
    if max_shift:
        fields["shift"] = unsigned(max_shift.bit_length())
    if any(f.has_nan for f in formats):
        fields["nan"] = unsigned(1)
    if any(f.has_inf for f in formats):
        fields["inf"] = unsigned(1)
    return data.StructLayout(fields)


def _complement_bits(fmt: Format) -> int:
    return fmt.width if isinstance(fmt, IntFormat) and fmt.signed else fmt.significand_bits + 1


class OperandDecoder(wiring.Component):
    """Decodes a code of any of several formats. Combinational.

    Parameters
    ----------
    formats
        Those that can be selected, by their position.
    code_width
        Bits of a container; a code lies in its low bits, the others are ignored.
    complement
        As in `operand_layout`.

    Members
    -------
    code : In(code_width)
    format : In(3)
        Position of the code's format in `formats`; beyond them: that of the last one.
    operand : Out(operand_layout(formats, complement=complement))
    """

    code: Signal
    format: Signal
    operand: data.View[data.StructLayout]

    def __init__(self, *, formats: tuple[Format, ...], code_width: int, complement: bool = False) -> None:
        if not formats:
            raise ValueError("a decoder needs at least one format")
        for fmt in formats:
            if not isinstance(fmt, (FloatFormat, IntFormat)):
                raise TypeError(f"no decoder for format {fmt}: it is neither a plain float nor an integer")
            if fmt.bits > min(code_width, 16):
                limit = min(code_width, 16)
                raise ValueError(f"codes that are decoded here have at most {limit} bits, not {fmt.bits} as {fmt}")
        self.formats = tuple(formats)
        layout = operand_layout(self.formats, complement=complement)
        super().__init__({"code": In(code_width), "format": In(3), "operand": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        decoded = [_decode(m, fmt, self.code[: fmt.bits]) for fmt in self.formats]
        number = self.format[: format_number_bits(self.formats)]
        if "negative" not in self.operand.shape().members:
            for fields in decoded:
                magnitude = fields["significand"]
                fields["significand"] = Mux(fields["negative"], -magnitude, magnitude)
        for name, _ in self.operand.shape():
            value = decoded[-1].get(name, Const(0))
            for position in reversed(range(len(decoded) - 1)):
                value = Mux(number == position, decoded[position].get(name, Const(0)), value)
            m.d.comb += self.operand[name].eq(value)
        return m


def _decode(m: Module, fmt: Format, code: Value) -> dict[str, Value]:
    """The fields of an operand that `fmt` has, its significand a magnitude, from one code."""
    if isinstance(fmt, IntFormat):
        if not fmt.signed:
            return {"significand": code, "negative": Const(0)}
        return {"significand": Mux(code[-1], -code, code)[: fmt.width], "negative": code[-1]}
    assert isinstance(fmt, FloatFormat)
    fraction = code[: fmt.mantissa_bits]
    field = code[fmt.mantissa_bits : fmt.bits - 1]
    magnitude = code[: fmt.bits - 1]
    normal = field.any()
    if not fmt.subnormals:
        fraction = Mux(normal, fraction, 0)
    significand = Signal(fmt.significand_bits, name=f"significand_{fmt.name}")
    m.d.comb += significand.eq(Cat(fraction, normal))
    fields: dict[str, Value] = {"significand": significand, "negative": code[-1]}
    if fmt.max_shift:
        fields["shift"] = Mux(normal, (field - 1)[: len(field)], 0)
    special, is_inf = magnitude > fmt.max_code, Const(0)
    if fmt.has_inf:
        fields["inf"] = is_inf = magnitude == fmt.inf_code
    if fmt.has_nan:
        fields["nan"] = special & ~is_inf
        with m.If(special):
            # A NaN must not disturb the sum; an infinity must not look like 0.
            m.d.comb += significand.eq(is_inf)
    return fields
