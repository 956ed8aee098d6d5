"""The whole accelerator: registers, descriptor queue, operand engine, array, drain and writer, wired."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from halfulp.hw.array import SystolicArray
from halfulp.hw.config import ArrayConfig
from halfulp.hw.descriptor import DescriptorQueue, request_from_settings
from halfulp.hw.drain import Drain
from halfulp.hw.interfaces import AxiLiteSignature, AxiReadSignature, AxiWriteSignature
from halfulp.hw.operand_engine import OperandEngine
from halfulp.hw.register_file import RegisterFile
from halfulp.hw.registers import ErrorCode
from halfulp.hw.stored_registers import StoredRegisters
from halfulp.hw.writer import Writer

__all__ = ["Core", "Supervisor"]


class Supervisor(wiring.Component):
    """Counts the GEMMs under way, and empties all blocks after an error or a reset.

    A flush lasts until every block is idle and whatever is inside the array has left it. All GEMMs that had been
    started, and those that are meanwhile, then count as ended.

    Parameters
    ----------
    config
        Rows and columns, which bound the way through the array.

    Members
    -------
    started : In(1)
        A GEMM was handed over; not necessarily accepted.
    ended : In(2)
        GEMMs that were finished or refused.
    stop : In(1)
        An error, or the host's reset: a flush begins in the next clock.
    idle : In(1)
        All blocks are.
    flush : Out(1)
    busy : Out(1)
    retired : Out(16)
        GEMMs that count as ended in this clock.
    """

    started: Signal
    ended: Signal
    stop: Signal
    idle: Signal
    flush: Signal
    busy: Signal
    retired: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "started": In(1),
                "ended": In(2),
                "stop": In(1),
                "idle": In(1),
                "flush": Out(1),
                "busy": Out(1),
                "retired": Out(16),
            }
        )

    @property
    def flush_clocks(self) -> int:
        """The least duration of a flush: from the array's first operand to the drain, with room to spare."""
        return self._config.rows + self._config.columns + 40

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        under_way = Signal(16)
        clocks = Signal(range(self.flush_clocks + 1))
        over = Signal()
        m.d.comb += [
            over.eq(self.flush & (clocks == 0) & self.idle & ~self.stop),
            self.busy.eq((under_way != 0) | self.flush),
            self.retired.eq(Mux(self.flush, Mux(over, under_way + self.started, 0), self.ended)),
        ]
        m.d.sync += under_way.eq(under_way + self.started - Mux(self.flush, 0, self.ended))
        with m.If(over):
            m.d.sync += under_way.eq(0)
        with m.If(self.stop):
            m.d.sync += [self.flush.eq(1), clocks.eq(self.flush_clocks)]
        with m.Elif(over):
            m.d.sync += self.flush.eq(0)
        with m.Elif(clocks != 0):
            m.d.sync += clocks.eq(clocks - 1)
        return m


class Core(wiring.Component):
    """The accelerator.

    Parameters
    ----------
    config
        What is built.

    Members
    -------
    s_axi : In(AxiLiteSignature())
        The registers of `registers.REGISTERS`.
    m_axi_read : Out(AxiReadSignature(config.bus_width))
        Operands.
    m_axi_write : Out(AxiWriteSignature(config.bus_width))
        Results.
    interrupt : Out(1)
        Level, active high.

    Every start ends exactly once, in order: finished, refused by the checks, refused for a full queue, or dropped
    with all others by an error on the bus or the host's reset.
    """

    s_axi: Any
    m_axi_read: Any
    m_axi_write: Any
    interrupt: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        if not isinstance(config, ArrayConfig):
            raise TypeError(f"config must be an ArrayConfig, not {config!r}")
        self._config = config
        super().__init__(
            {
                "s_axi": In(AxiLiteSignature()),
                "m_axi_read": Out(AxiReadSignature(config.bus_width)),
                "m_axi_write": Out(AxiWriteSignature(config.bus_width)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        config = self._config
        m.submodules.supervisor = supervisor = Supervisor(config=config)
        m.submodules.engine = engine = OperandEngine(config=config)
        m.submodules.array = array = SystolicArray(config=config)
        m.submodules.drain = drain = Drain(config=config)
        m.submodules.writer = writer = Writer(config=config)
        registers, queue, ready = self._registers(m, writer.done)

        connect(m, flipped(self.s_axi), registers.bus)
        connect(m, queue.descriptor, engine.descriptor)
        connect(m, engine.axi, flipped(self.m_axi_read))
        connect(m, engine.feed, array.feed)
        connect(m, engine.tile, drain.tile)
        connect(m, drain.output, writer.groups)
        connect(m, writer.axi, flipped(self.m_axi_write))
        m.d.comb += [
            array.shift.eq(drain.shift),
            drain.top.eq(array.top),
            drain.feed_last.eq(engine.feed.valid & engine.feed.last),
            engine.drain_free_soon.eq(drain.free_soon),
            engine.at_rest.eq(~supervisor.busy),
            self.interrupt.eq(registers.interrupt),
        ]

        # What still fails during a flush belongs to GEMMs that have been given up.
        failed = (engine.error | writer.error) & ~supervisor.flush
        overflowed = registers.start & ~ready & ~supervisor.flush
        # A clock later: what ends a GEMM or a flush is found at the ends of long paths, in several blocks.
        ended = Signal(2)
        idle = Signal()
        m.d.sync += [
            ended.eq(writer.done + queue.refused + overflowed),
            idle.eq(engine.idle & drain.idle & writer.idle),
        ]
        m.d.comb += [
            supervisor.started.eq(registers.start),
            supervisor.ended.eq(ended),
            supervisor.stop.eq(registers.reset | failed),
            supervisor.idle.eq(idle),
        ]
        # A clock later where it has far to go; by then the queue lets nothing new come there.
        flushes = Signal()
        m.d.sync += flushes.eq(supervisor.flush)
        m.d.comb += queue.flush.eq(supervisor.flush)
        for block in (engine, drain, writer):
            m.d.comb += block.flush.eq(flushes)

        # Registers learn of everything a clock later, all of the same clock together; but of a start at once.
        events = registers.events
        error_code: Value | int = ErrorCode.NONE
        for happened, code in (
            (queue.refused, queue.error_code),
            (writer.error, ErrorCode.WRITE_ERROR),
            (engine.error, ErrorCode.READ_ERROR),
        ):
            error_code = Mux(happened, code, error_code)
        told = {
            "busy": supervisor.busy,
            "ended": supervisor.retired,
            "error": failed | (queue.refused & ~supervisor.flush),
            "error_code": error_code,
            "failed": failed,
            "fail_address": Mux(engine.error, engine.error_address, writer.error_address),
            "invalid": drain.invalid & ~supervisor.flush,
            "overflow": drain.overflow & ~supervisor.flush,
            "array_busy": _for_clocks(m, engine.feed.valid, config.interleave),
            "read_stall": engine.read_stall,
            "write_stall": engine.write_stall,
        }
        registered = {
            name: Signal(len(events[name]), name=f"told_{name}", reset_less=name in ("error_code", "fail_address"))
            for name in told
        }
        m.d.sync += [registered[name].eq(value) for name, value in told.items()]
        others = registered["error"]
        at_once = {
            "starting": supervisor.busy,
            "queue_full": ~ready,
            "error": others | overflowed,
            "error_code": Mux(overflowed & ~others, ErrorCode.QUEUE_OVERFLOW, registered["error_code"]),
        }
        m.d.comb += [events[name].eq(value) for name, value in {**registered, **at_once}.items()]
        return m

    def _registers(
        self, m: Module, done: Value
    ) -> tuple[RegisterFile | StoredRegisters, DescriptorQueue | StoredRegisters, Value]:
        """The registers, the queue of GEMMs behind them, which may be one block, and whether it takes another."""
        config = self._config
        if config.compact:
            m.submodules.registers = both = StoredRegisters(config=config)
            m.d.comb += both.done.eq(done)
            return both, both, both.ready
        m.submodules.registers = registers = RegisterFile(config=config)
        m.submodules.queue = queue = DescriptorQueue(config=config)
        request = request_from_settings(config, registers.settings)
        m.d.comb += [
            *(queue.push.payload[name].eq(value) for name, value in request.items()),
            queue.push.valid.eq(registers.start),
        ]
        return registers, queue, queue.push.ready


def _for_clocks(m: Module, begins: Value, clocks: int) -> Value:
    """A state of so many clocks from `begins` on."""
    if clocks == 1:
        return begins
    before = Signal(clocks - 1, name="steps_before")
    m.d.sync += before.eq(Cat(begins, before))
    return begins | before.any()
