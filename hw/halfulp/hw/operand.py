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
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import MAX_INTEGER_BITS
from halfulp.numerics.formats import (
    BinaryFormat,
    FloatFormat,
    Format,
    LogFormat,
    PositFormat,
    ScaledIntegerFormat,
    TernaryFormat,
)

__all__ = ["OperandDecoder", "format_number_bits", "is_fixed_point", "max_operand_shift", "operand_layout"]


def is_fixed_point(formats: tuple[Format, ...]) -> bool:
    """Whether no format of `formats` has exponents, NaN or infinities."""
    return not any(f.max_shift or f.has_nan or f.has_inf for f in formats)


def format_number_bits(formats: tuple[Format, ...]) -> int:
    """Bits that a format's number in `formats` takes; 0 where there is nothing to choose."""
    return ceil_log2(len(formats))


def max_operand_shift(formats: tuple[Format, ...], *, common: bool = False) -> int:
    """Largest `shift` of an operand; see `operand_layout`."""
    return max(f.max_shift + _base(f, formats, common) for f in formats)


def _base(fmt: Format, formats: tuple[Format, ...], common: bool) -> int:
    """Shift of a significand in units of the format's own least ulp."""
    return fmt.lsb_exponent - min(f.lsb_exponent for f in formats) if common else 0


def operand_layout(formats: tuple[Format, ...], *, complement: bool = False, common: bool = False) -> data.StructLayout:
    """The internal number that holds every code of every one of `formats`.

    significand: a magnitude, or where `complement` is set two's complement; negative: its sign, only beside a
    magnitude; shift: exponent above the format's least ulp, or where `common` is set above the least ulp of all
    `formats`, absent where it is always 0; nan, inf: absent where no format has them. A NaN's significand is 0, that of
    an infinity ±1.
    """
    fields: dict[str, Any] = {"significand": unsigned(max(f.significand_bits for f in formats))}
    if complement:
        fields["significand"] = signed(max(_complement_bits(f) for f in formats))
    else:
        fields["negative"] = unsigned(1)
    max_shift = max_operand_shift(formats, common=common)
    if max_shift:
        fields["shift"] = unsigned(max_shift.bit_length())
    if any(f.has_nan for f in formats):
        fields["nan"] = unsigned(1)
    if any(f.has_inf for f in formats):
        fields["inf"] = unsigned(1)
    return data.StructLayout(fields)


def _complement_bits(fmt: Format) -> int:
    signed_integer = isinstance(fmt, ScaledIntegerFormat) and fmt.smallest < 0
    return fmt.bits if signed_integer else fmt.significand_bits + 1


class OperandDecoder(wiring.Component):
    """Decodes a code of any of several formats. Combinational.

    Parameters
    ----------
    formats
        Those that can be selected, by their position.
    code_width
        Bits of a container; a code lies in its low bits, the others are ignored.
    complement, common
        As in `operand_layout`.

    Members
    -------
    code : In(code_width)
    format : In(3)
        Position of the code's format in `formats`; beyond them: that of the last one.
    operand : Out(operand_layout(formats, complement=complement, common=common))
    """

    code: Signal
    format: Signal
    operand: data.View[data.StructLayout]

    def __init__(
        self, *, formats: tuple[Format, ...], code_width: int, complement: bool = False, common: bool = False
    ) -> None:
        if not formats:
            raise ValueError("a decoder needs at least one format")
        for fmt in formats:
            if not isinstance(fmt, Format):
                raise TypeError(f"formats must be Formats, not {fmt!r}")
            limit = min(code_width, MAX_INTEGER_BITS) if isinstance(fmt, ScaledIntegerFormat) else code_width
            if fmt.bits > limit:
                raise ValueError(f"codes that are decoded here have at most {limit} bits, not {fmt.bits} as {fmt}")
        self.formats = tuple(formats)
        self.common = common
        layout = operand_layout(self.formats, complement=complement, common=common)
        super().__init__({"code": In(code_width), "format": In(3), "operand": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        decoded = [_decode(m, fmt, self.code[: fmt.bits]) for fmt in self.formats]
        for fmt, fields in zip(self.formats, decoded, strict=True):
            base = _base(fmt, self.formats, self.common)
            if base:
                fields["shift"] = fields.get("shift", Const(0)) + base
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
    if isinstance(fmt, BinaryFormat):
        return {"significand": Const(1, 1), "negative": ~code[0]}
    if isinstance(fmt, TernaryFormat):
        return {"significand": code[0], "negative": code[1]}
    if isinstance(fmt, ScaledIntegerFormat):
        if fmt.smallest == 0:
            return {"significand": code, "negative": Const(0)}
        return {"significand": Mux(code[-1], -code, code)[: fmt.bits], "negative": code[-1]}
    if isinstance(fmt, PositFormat):
        return _decode_posit(m, fmt, code)
    if isinstance(fmt, LogFormat):
        return _decode_log(m, fmt, code)
    if isinstance(fmt, FloatFormat):
        return _decode_float(m, fmt, code)
    raise TypeError(f"no decoder for format {fmt}")


def _decode_posit(m: Module, fmt: PositFormat, code: Value) -> dict[str, Value]:
    """The regime's length tells where exponent and fraction lie; the fraction's bits are the significand's as they are.

    NaR is minus itself: its magnitude is 0.
    """
    length = fmt.width - 1
    magnitude = Signal(length, name=f"magnitude_{fmt.name}")
    significand = Signal(fmt.significand_bits, name=f"significand_{fmt.name}")
    shift = Signal(range(fmt.max_shift + 1), name=f"shift_{fmt.name}")
    m.d.comb += magnitude.eq(Mux(code[-1], -code, code)[:length])
    with m.Switch(magnitude):
        for run in range(1, length + 1):
            for first in "01":
                rest = max(length - run - 1, 0)
                power_bits = min(rest, fmt.exponent_bits)
                fraction_bits = rest - power_bits
                regime = run - 1 if first == "1" else -run
                if first == "0" and run == length:
                    continue  # zero
                end = "01"[first == "0"] if run < length else ""
                # Exponent bits that the regime has pushed out are zero.
                power = Cat(Const(0, fmt.exponent_bits - power_bits), magnitude[fraction_bits:rest])
                least = (regime << fmt.exponent_bits) - fraction_bits - fmt.lsb_exponent
                with m.Case(first * run + end + "-" * rest):
                    m.d.comb += [
                        significand.eq(Cat(magnitude[:fraction_bits], Const(1, 1))),
                        shift.eq(power + least),
                    ]
    return {
        "significand": significand,
        "negative": code[-1],
        "shift": shift,
        "nan": code[-1] & ~code[:-1].any(),
    }


def _decode_log(m: Module, fmt: LogFormat, code: Value) -> dict[str, Value]:
    """The exponent's fraction looks its significand up, its integer is the shift."""
    field, fraction_bits = code[:-1], fmt.fraction_bits
    if fraction_bits == 0:
        return {"significand": field.any(), "negative": code[-1], "shift": Mux(field.any(), field - 1, 0)[: len(field)]}
    powers = fmt.magnitudes.significand[1 << fraction_bits : 2 << fraction_bits]
    table = memory.Memory(shape=fmt.significand_bits, depth=len(powers), init=powers.tolist())
    m.submodules[f"powers_{fmt.name}"] = table
    port = table.read_port(domain="comb")
    m.d.comb += port.addr.eq(field[:fraction_bits])
    return {
        "significand": Mux(field.any(), port.data, 0),
        "negative": code[-1],
        "shift": field[fraction_bits:],
    }


def _decode_float(m: Module, fmt: FloatFormat, code: Value) -> dict[str, Value]:
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
