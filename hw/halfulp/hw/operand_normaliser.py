"""Operands of float accumulators: normalised once at the array's edge, so that no processing element has to."""

from __future__ import annotations

from typing import Any

from amaranth import unsigned
from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.operand import max_operand_shift, operand_layout
from halfulp.numerics.formats import Format

__all__ = ["OperandNormaliser", "max_exponent", "min_exponent", "normalised_layout"]


def min_exponent(formats: tuple[Format, ...]) -> int:
    """What `exponent` of a normalised operand is counted from: the exponent of its significand's least place."""
    return min(f.lsb_exponent for f in formats) - _spare(formats)


def max_exponent(formats: tuple[Format, ...]) -> int:
    """The largest `exponent` of a normalised operand."""
    return max_operand_shift(formats, common=True) + _spare(formats)


def _spare(formats: tuple[Format, ...]) -> int:
    """Most zeros above the leading one of an operand that is not 0."""
    return max(f.significand_bits for f in formats) - 1


def normalised_layout(formats: tuple[Format, ...]) -> data.StructLayout:
    """±significand * 2**(min_exponent + exponent), the significand's top bit 1 but for 0; flags as `operand_layout`."""
    fields: dict[str, Any] = {
        "significand": unsigned(_spare(formats) + 1),
        "negative": unsigned(1),
        "exponent": unsigned(max_exponent(formats).bit_length()),
    }
    members = operand_layout(formats, common=True).members
    return data.StructLayout({**fields, **{name: unsigned(1) for name in ("nan", "inf") if name in members}})


class OperandNormaliser(wiring.Component):
    """Shifts a decoded operand's leading one to the top. Combinational.

    Parameters
    ----------
    formats
        Those of the operand's side of the array.

    Members
    -------
    operand : In(operand_layout(formats, common=True))
    normalised : Out(normalised_layout(formats))
    """

    operand: Any
    normalised: Any

    def __init__(self, *, formats: tuple[Format, ...]) -> None:
        self._formats = formats
        super().__init__(
            {"operand": In(operand_layout(formats, common=True)), "normalised": Out(normalised_layout(formats))}
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        operand, normalised = self.operand, self.normalised
        bits = len(operand.significand)
        significand: Value = operand.significand
        shift = operand["shift"] if "shift" in operand.shape().members else Const(0)
        exponent: Value = shift + _spare(self._formats)
        for level in reversed(range((bits - 1).bit_length())):
            shifted = Signal(bits, name=f"shifted_{level}")
            lowered = Signal(len(normalised.exponent), name=f"exponent_{level}")
            empty = significand[bits - (1 << level) :] == 0
            m.d.comb += [
                shifted.eq(Mux(empty, significand << (1 << level), significand)),
                lowered.eq(exponent - (empty << level)),
            ]
            significand, exponent = shifted, lowered
        m.d.comb += [
            normalised.significand.eq(significand),
            normalised.exponent.eq(exponent),
            normalised.negative.eq(operand.negative),
            *(normalised[name].eq(operand[name]) for name in ("nan", "inf") if name in operand.shape().members),
        ]
        return m
