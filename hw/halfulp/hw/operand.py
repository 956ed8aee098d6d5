"""Operands inside the array: one internal number for all formats of a side, and the decoder that makes it of codes.

A decoded operand is (-1)**s * significand * 2**shift in units of its format's least ulp, 2**lsb_exponent, so that
products and sums of any mixture of formats are plain integers.
"""

from __future__ import annotations

from typing import Any

from amaranth import unsigned
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.numerics.formats import FloatFormat, Format, IntFormat

__all__ = ["OperandDecoder", "format_number_bits", "operand_layout", "signed_bits"]


def signed_bits(fmt: Format) -> int:
    """Width of a significand of `fmt` in two's complement."""
    if isinstance(fmt, IntFormat) and fmt.signed:
        return fmt.width
    return fmt.significand_bits + 1


def format_number_bits(formats: tuple[Format, ...]) -> int:
    """Bits that a format's number in `formats` takes; 0 where there is nothing to choose."""
    return ceil_log2(len(formats))


def operand_layout(formats: tuple[Format, ...]) -> data.StructLayout:
    """The internal number that holds every code of every one of `formats`.

    significand: two's complement; shift: exponent above the format's least ulp, absent where all formats are fixed
    point; nan, inf: absent where no format has them. A NaN's significand is 0, that of an infinity its sign, ±1.
    """
    fields: dict[str, Any] = {"significand": signed(max(signed_bits(f) for f in formats))}
    max_shift = max(f.max_shift for f in formats)
    if max_shift:
        fields["shift"] = unsigned(max_shift.bit_length())
    if any(f.has_nan for f in formats):
        fields["nan"] = unsigned(1)
    if any(f.has_inf for f in formats):
        fields["inf"] = unsigned(1)
    return data.StructLayout(fields)


class OperandDecoder(wiring.Component):
    """Decodes a code of any of several formats. Combinational.

    Parameters
    ----------
    formats
        Those that can be selected, by their position.
    code_width
        Bits of a container; a code lies in its low bits, the others are ignored.

    Members
    -------
    code : In(code_width)
    format : In(3)
        Position of the code's format in `formats`; beyond them: that of the last one.
    operand : Out(operand_layout(formats))
    """

    code: Signal
    format: Signal
    operand: data.View[data.StructLayout]

    def __init__(self, *, formats: tuple[Format, ...], code_width: int) -> None:
        if not formats:
            raise ValueError("a decoder needs at least one format")
        for fmt in formats:
            if not isinstance(fmt, (FloatFormat, IntFormat)):
                raise TypeError(f"no decoder for format {fmt}: it is neither a plain float nor an integer")
            if fmt.bits > min(code_width, 16):
                limit = min(code_width, 16)
                raise ValueError(f"codes that are decoded here have at most {limit} bits, not {fmt.bits} as {fmt}")
        self.formats = tuple(formats)
        super().__init__({"code": In(code_width), "format": In(3), "operand": Out(operand_layout(self.formats))})

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        decoded = [_decode(m, fmt, self.code[: fmt.bits]) for fmt in self.formats]
        number = self.format[: format_number_bits(self.formats)]
        for name, _ in self.operand.shape():
            value = decoded[-1].get(name, Const(0))
            for position in reversed(range(len(decoded) - 1)):
                value = Mux(number == position, decoded[position].get(name, Const(0)), value)
            m.d.comb += self.operand[name].eq(value)
        return m


def _decode(m: Module, fmt: Format, code: Value) -> dict[str, Value]:
    """The fields of `operand_layout` that `fmt` has, from one code."""
    if isinstance(fmt, IntFormat):
        return {"significand": code.as_signed() if fmt.signed else code}
    assert isinstance(fmt, FloatFormat)
    fraction = code[: fmt.mantissa_bits]
    field = code[fmt.mantissa_bits : fmt.bits - 1]
    negative = code[fmt.bits - 1]
    magnitude = code[: fmt.bits - 1]
    normal = field.any()

    is_nan, is_inf = Const(0), Const(0)
    if fmt.has_inf:
        is_inf = magnitude == fmt.inf_code
    if fmt.has_nan:
        is_nan = magnitude > fmt.max_code
        if fmt.has_inf:
            is_nan = is_nan & ~is_inf
    if not fmt.subnormals:
        fraction = Mux(normal, fraction, 0)
    significand = Signal(fmt.significand_bits, name=f"significand_{fmt.name}")
    m.d.comb += significand.eq(Cat(fraction, normal))
    if fmt.has_nan:
        with m.If(magnitude > fmt.max_code):
            # Not to disturb the sum; an infinity keeps its sign, for the product's sign decides between the two.
            m.d.comb += significand.eq(is_inf)
    fields: dict[str, Value] = {"significand": Mux(negative, -significand, significand)}
    if fmt.max_shift:
        fields["shift"] = Mux(normal, (field - 1)[: len(field)], 0)
    if fmt.has_nan:
        fields["nan"] = is_nan
    if fmt.has_inf:
        fields["inf"] = is_inf
    return fields
