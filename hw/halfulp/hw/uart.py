"""Bytes to and from a serial line: 8 data bits, no parity, 1 stop bit."""

from __future__ import annotations

import math

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["LEAST_CLOCKS_A_BIT", "BitRate", "UartReceiver", "UartTransmitter"]

LEAST_CLOCKS_A_BIT = 4
"""Fewer would sample a bit too near to its edges."""

RATE_ERROR = 1e-3
"""Largest relative error of the rate: over the ten bits of a byte a hundredth of a bit."""

_FRAME_BITS = 10


class BitRate:
    """A rate that need not divide the clock: a phase of `width` bits grows by `increment` a clock, a turn is a bit.

    Parameters
    ----------
    clock_frequency
        Hz.
    baud
        Bits a second; at most a quarter of the clock.

    Raises
    ------
    ValueError
        Where the clock is too slow.
    """

    def __init__(self, *, clock_frequency: float, baud: float) -> None:
        if not (math.isfinite(clock_frequency) and clock_frequency > 0):
            raise ValueError(f"clock_frequency must be positive, in Hz, not {clock_frequency!r}")
        if not (math.isfinite(baud) and baud > 0):
            raise ValueError(f"baud must be positive, not {baud!r}")
        if baud * LEAST_CLOCKS_A_BIT > clock_frequency:
            raise ValueError(
                f"baud must be at most 1/{LEAST_CLOCKS_A_BIT} of the clock, {clock_frequency / LEAST_CLOCKS_A_BIT:g} "
                f"of {clock_frequency:g} Hz, not {baud:g}"
            )
        self.clock_frequency, self.baud = clock_frequency, baud
        self.width = 3
        while abs(self.error) > RATE_ERROR:
            self.width += 1

    @property
    def increment(self) -> int:
        """Of the phase, a clock."""
        return round(self.baud / self.clock_frequency * (1 << self.width))

    @property
    def error(self) -> float:
        """Relative deviation of the rate that is made from the one that was asked for."""
        return self.increment * self.clock_frequency / (1 << self.width) / self.baud - 1


class UartReceiver(wiring.Component):
    """Bytes from a line: each bit is sampled once, in its middle, counted from the start bit's falling edge.

    A start bit that is over by its middle, and a byte whose stop bit is low, are dropped. There is no back-pressure: a
    byte of clock t is gone in clock t + 1.

    Parameters
    ----------
    rate
        Bits a second.

    Members
    -------
    line : In(1)
        Asynchronous; 1 at rest.
    byte : Out(8), valid : Out(1)
        One clock a byte.
    """

    line: Signal
    byte: Signal
    valid: Signal

    def __init__(self, *, rate: BitRate) -> None:
        self._rate = rate
        super().__init__({"line": In(1, init=1), "byte": Out(8), "valid": Out(1)})  # pyright: ignore[reportCallIssue]  (the stubs lack init)

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.line, line, init=1)
        phase, turn = Signal(self._rate.width), Signal()
        left = Signal(range(_FRAME_BITS + 1))  # bits still to be sampled; 0 at rest

        with m.If(left == 0):
            # The edge is seen some time within a clock, so on average half a clock late.
            m.d.sync += phase.eq((1 << self._rate.width - 1) + self._rate.increment // 2)
            with m.If(~line):
                m.d.sync += left.eq(_FRAME_BITS)
        with m.Else():
            m.d.comb += Cat(phase_next := Signal.like(phase), turn).eq(phase + self._rate.increment)
            m.d.sync += phase.eq(phase_next)
            with m.If(turn):
                m.d.sync += left.eq(left - 1)
                with m.If(left == _FRAME_BITS):
                    with m.If(line):
                        m.d.sync += left.eq(0)
                with m.Elif(left == 1):
                    m.d.comb += self.valid.eq(line)
                with m.Else():
                    m.d.sync += self.byte.eq(Cat(self.byte[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line.

    Parameters
    ----------
    rate
        Bits a second.

    Members
    -------
    byte : In(stream.Signature(8))
        A byte is taken when the one before has left, its stop bit included.
    line : Out(1)
    """

    byte: stream.Interface
    line: Signal

    def __init__(self, *, rate: BitRate) -> None:
        self._rate = rate
        super().__init__({"byte": In(stream.Signature(8)), "line": Out(1, init=1)})  # pyright: ignore[reportCallIssue]  (the stubs lack init)

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        phase, turn = Signal(self._rate.width), Signal()
        left = Signal(range(_FRAME_BITS + 1))
        bits = Signal(_FRAME_BITS, init=-1)
        m.d.comb += [self.line.eq(bits[0]), self.byte.ready.eq(left == 0)]
        with m.If(left == 0):
            m.d.sync += phase.eq(0)
            with m.If(self.byte.valid):
                m.d.sync += [bits.eq(Cat(0, self.byte.payload, 1)), left.eq(_FRAME_BITS)]
        with m.Else():
            m.d.comb += Cat(phase_next := Signal.like(phase), turn).eq(phase + self._rate.increment)
            m.d.sync += phase.eq(phase_next)
            with m.If(turn):
                m.d.sync += [bits.eq(Cat(bits[1:], 1)), left.eq(left - 1)]
        return m
