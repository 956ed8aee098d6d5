"""A core behind a serial line: all that a board without a processor needs, besides clock and pins."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect

from halfulp.hw.config import ArrayConfig
from halfulp.hw.core import Core
from halfulp.hw.serial_link import SerialLink
from halfulp.hw.serial_protocol import LinkInfo
from halfulp.hw.shared_memory import SharedMemory
from halfulp.hw.uart import BitRate, UartReceiver, UartTransmitter

__all__ = ["SerialTop"]


class SerialTop(wiring.Component):
    """The core, a memory on the chip, and the serial link that reaches both.

    Parameters
    ----------
    config
        The core. Its addresses must reach all of the memory; more bits than that only cost area.
    clock_frequency
        Of the clock domain ``sync``, Hz.
    baud
        Bits a second on the line, at most a quarter of the clock.
    memory_bytes
        On-chip memory for operands and results, a multiple of 64.
    buffer_bytes
        Of received bytes that wait, a power of two; a frame's payload is at most a quarter of it.

    Members
    -------
    rx : In(1)
        Asynchronous, 1 at rest: 8 data bits, no parity, 1 stop bit.
    tx : Out(1)
    """

    rx: Signal
    tx: Signal

    def __init__(
        self,
        *,
        config: ArrayConfig,
        clock_frequency: float,
        baud: float,
        memory_bytes: int,
        buffer_bytes: int = 512,
    ) -> None:
        if not isinstance(config, ArrayConfig):
            raise TypeError(f"config must be an ArrayConfig, not {config!r}")
        if config.address_bits < 64 and memory_bytes > 1 << config.address_bits:
            reached = 1 << config.address_bits
            raise ValueError(
                f"address_bits = {config.address_bits} reach {reached} bytes of memory, not {memory_bytes}"
            )
        self._config = config
        self._rate = BitRate(clock_frequency=clock_frequency, baud=baud)
        self._memory = SharedMemory(memory_bytes=memory_bytes, bus_width=config.bus_width)
        self._link = SerialLink(memory_bytes=memory_bytes, buffer_bytes=buffer_bytes)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})  # pyright: ignore[reportCallIssue]  (the stubs lack init)

    @property
    def info(self) -> LinkInfo:
        """What the link tells of itself."""
        return self._link.info

    @property
    def rate(self) -> BitRate:
        """The line's rate as it is made."""
        return self._rate

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        m.submodules.core = core = Core(config=self._config)
        m.submodules.memory = memory = self._memory
        m.submodules.link = link = self._link
        m.submodules.receiver = receiver = UartReceiver(rate=self._rate)
        m.submodules.transmitter = transmitter = UartTransmitter(rate=self._rate)
        # A byte that finds the buffer full is lost, and its frame with it: the host repeats it.
        m.submodules.buffer = buffer = SyncFIFOBuffered(width=8, depth=self.info.buffer_bytes)
        m.d.comb += [
            receiver.line.eq(self.rx),
            buffer.w_data.eq(receiver.byte),
            buffer.w_en.eq(receiver.valid),
            link.received.payload.eq(buffer.r_data),
            link.received.valid.eq(buffer.r_rdy),
            buffer.r_en.eq(link.received.ready),
            self.tx.eq(transmitter.line),
        ]
        connect(m, link.sent, transmitter.byte)
        connect(m, link.registers, core.s_axi)
        connect(m, link.bytes, memory.bytes)
        connect(m, core.m_axi_read, memory.axi_read)
        connect(m, core.m_axi_write, memory.axi_write)
        return m
