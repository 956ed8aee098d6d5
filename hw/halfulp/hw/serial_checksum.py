"""CRC-32 as zlib computes it, a bit a clock: a byte on a serial line takes longer than that."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SerialChecksum"]

POLYNOMIAL = 0xEDB88320
"""Of CRC-32/ISO-HDLC, bit 0 that of the highest power."""

RESIDUE = 0xDEBB20E3
"""What is left of any bytes that their own CRC follows."""


class SerialChecksum(wiring.Component):
    """The CRC of the bytes since `start`.

    Members
    -------
    start : In(1)
        Begin anew.
    data : In(8), valid : In(1)
        Another byte. Only where `busy` is 0, and not with `start`.
    busy : Out(1)
        1 for 8 clocks behind `valid`: the others mean nothing then.
    crc : Out(32)
        Of the bytes.
    matches : Out(1)
        The last four bytes are the CRC, low byte first, of those before them.
    """

    start: Signal
    data: Signal
    valid: Signal
    busy: Signal
    crc: Signal
    matches: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "data": In(8),
                "valid": In(1),
                "busy": Out(1),
                "crc": Out(32),
                "matches": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        rest = Signal(32, init=-1)
        left = Signal(range(8))
        m.d.comb += [self.crc.eq(~rest), self.matches.eq(rest == RESIDUE)]
        with m.If(self.start):
            m.d.sync += rest.eq(-1)
        with m.Elif(self.valid):
            m.d.sync += [rest.eq(rest ^ self.data), self.busy.eq(1)]
        with m.Elif(self.busy):
            m.d.sync += [
                rest.eq((rest >> 1) ^ Mux(rest[0], POLYNOMIAL, 0)),
                left.eq(left + 1),
                self.busy.eq(left != 7),
            ]
        return m
