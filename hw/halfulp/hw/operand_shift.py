"""Operands shifted at the array's edge by the low bits of their exponents; see `shifting_pe`."""

from __future__ import annotations

from typing import Any

from amaranth import unsigned
from amaranth.hdl import Module, Mux, signed
from amaranth.lib import data

from halfulp.hw.operand import operand_layout
from halfulp.numerics.formats import Format

__all__ = ["shift_finely", "shifted_layout"]


def shifted_layout(formats: tuple[Format, ...], places: int) -> data.StructLayout:
    """An operand shifted by the low bits of its shift, which is below 2**places then in all.

    significand: in two's complement; shift: the bits above, absent where there are none; nan, inf: as before.
    """
    layout = operand_layout(formats)
    fields: dict[str, Any] = {"significand": signed(layout["significand"].width + (1 << places))}
    if layout["shift"].width > places:
        fields["shift"] = unsigned(layout["shift"].width - places)
    return data.StructLayout({**fields, **{name: unsigned(1) for name in ("nan", "inf") if name in layout.members}})


def shift_finely(m: Module, operand: Any, shifted: Any) -> None:
    """Make of a decoded operand what `shifted_layout` says."""
    members = shifted.shape().members
    magnitude = operand["significand"]
    places = (len(shifted["significand"]) - len(magnitude)).bit_length() - 1
    m.d.comb += shifted["significand"].eq(
        Mux(operand["negative"], -magnitude, magnitude).as_signed() << operand["shift"][:places]
    )
    if "shift" in members:
        m.d.comb += shifted["shift"].eq(operand["shift"][places:])
    m.d.comb += [shifted[name].eq(operand[name]) for name in ("nan", "inf") if name in members]
