"""The registers of registers.py in a memory block, for small parts: a GEMM's descriptor is read word by word."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import POSITION_REGISTERS, SIZE_REGISTERS, ArrayConfig
from halfulp.hw.descriptor import known_fields, output_mask, rounding_fails, scale_fails
from halfulp.hw.interfaces import AxiLiteSignature, descriptor_layout, payload_register
from halfulp.hw.register_file import add_status, configuration_words, events_layout
from halfulp.hw.registers import REGISTERS, ErrorCode, register

__all__ = ["StoredRegisters"]

WORDS = 128
"""Words of the memory, of which the last 32 hold the descriptor."""

FIRST = register("a_address_low").offset >> 2
"""The descriptor's first word."""

RULES = (
    ErrorCode.TOO_WIDE,
    ErrorCode.ZERO_SIZE,
    ErrorCode.K_TOO_LARGE,
    ErrorCode.UNSUPPORTED_FORMAT,
    ErrorCode.UNSUPPORTED_ROUNDING,
    ErrorCode.MISALIGNED,
    ErrorCode.SCALE_OUT_OF_RANGE,
)
"""In the order of precedence."""


def _last_word(config: ArrayConfig) -> int:
    """The number of the descriptor's last word: seed and offsets follow only where something depends on them."""
    return (register("column_offset" if config.draws_random_bits else "scale").offset >> 2) - FIRST


class StoredRegisters(wiring.Component):
    """All registers of `REGISTERS` behind AXI4-Lite, and the queue of one GEMM: `RegisterFile` and `DescriptorQueue`.

    Constants and the descriptor's registers are words of a memory. A start has the descriptor's words read from it, one
    a clock, into registers, and checked on the way by the rules of `DescriptorQueue`. The bus waits until all are read.

    What differs from `RegisterFile`: the descriptor's registers keep all 32 bits that were written, whatever the core
    has of them, and keep them over a reset, until they are written again. A GEMM with a bit beyond the core's widths is
    refused for what its registers hold, not for what was written. The descriptor stands until its GEMM has ended, so
    that no other block needs a copy of it; `queue_full` is 1 meanwhile.

    Parameters
    ----------
    config
        Gives the constant words, the widths, and everything that is checked against.

    Members
    -------
    bus, start, reset, events, interrupt
        As those of `RegisterFile`; a start while `ready` is 0 does nothing else here.
    ready : Out(1)
        No GEMM is read, waits or is under way.
    descriptor, refused, error_code, flush
        As those of `DescriptorQueue`, but that the payload stands until `done` or `flush`.
    done : In(1)
        The GEMM that was taken has ended.
    """

    bus: Any
    start: Signal
    reset: Signal
    events: data.View
    interrupt: Signal
    ready: Signal
    descriptor: stream.Interface
    refused: Signal
    error_code: Signal
    flush: Signal
    done: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        self._last = _last_word(config)
        super().__init__(
            {
                "bus": In(AxiLiteSignature()),
                "start": Out(1),
                "reset": Out(1),
                "events": In(events_layout()),
                "interrupt": Out(1),
                "ready": Out(1),
                "descriptor": Out(stream.Signature(descriptor_layout(config))),
                "refused": Out(1),
                "error_code": Out(8),
                "flush": In(1),
                "done": In(1),
            }
        )

    @classmethod
    def latency_of(cls, config: ArrayConfig) -> int:
        """Clocks from the one of `start` to the first with `descriptor.valid` or `refused`, where no read is begun.

        One to begin, one for each word, and one to see the last one.
        """
        return _last_word(config) + 3

    @property
    def latency(self) -> int:
        """The same of this one."""
        return self.latency_of(self._config)

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        constants = {register(name).offset >> 2: word for name, word in configuration_words(self._config).items()}
        init = [constants.get(number, 0) for number in range(WORDS)]
        m.submodules.words = words = memory.Memory(shape=unsigned(32), depth=WORDS, init=init)
        read_port, write_port = words.read_port(), words.write_port(granularity=8)
        word = read_port.data

        reading, asked = Signal(), Signal(5)
        enables = Signal(data.StructLayout({"done": 1, "error": 1}), name="interrupt_enable")
        clear = self._serve_writes(m, write_port, reading, enables)
        begins = self._serve_reads(m, word, clear, reading, enables)
        m.d.comb += [
            read_port.en.eq(1),
            read_port.addr.eq(Mux(begins, self.bus.araddr[2:9], Cat(asked, Const(FIRST >> 5, 2)))),
        ]
        self._read_descriptor(m, word, begins, reading, asked)
        return m

    def _serve_writes(self, m: Module, port: Any, reading: Value, enables: Any) -> Signal:
        """Write words, both channels at once; return the action `clear`."""
        bus, clear = self.bus, Signal()
        takes = Signal()
        m.d.sync += takes.eq(bus.awvalid & bus.wvalid & ~takes & ~bus.bvalid & ~reading)
        address = bus.awaddr[2:]
        stored = [r.offset >> 2 for r in REGISTERS if r.access == "rw" and r.offset >> 2 >= FIRST]
        m.d.comb += [
            bus.awready.eq(takes),
            bus.wready.eq(takes),
            bus.bresp.eq(0),
            port.addr.eq(address[:7]),
            port.data.eq(bus.wdata),
            port.en.eq(Mux(takes & address.matches(*stored), bus.wstrb, 0)),
        ]
        with m.If(takes):
            m.d.sync += bus.bvalid.eq(1)
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)

        actions = {"start": self.start, "clear": clear, "reset": self.reset}
        acts = takes & bus.wstrb[0] & (address == register("control").offset >> 2)
        m.d.sync += [action.eq(acts & bus.wdata[register("control").field(n).lsb]) for n, action in actions.items()]
        with m.If(takes & bus.wstrb[0] & (address == register("interrupt_enable").offset >> 2)):
            m.d.sync += Value.cast(enables).eq(bus.wdata[:2])
        return clear

    def _serve_reads(self, m: Module, word: Value, clear: Signal, reading: Value, enables: Any) -> Signal:
        """Answer reads, of status registers or of the memory's `word`; return when the memory is read for one."""
        bus = self.bus
        begins, goes_on, stored = Signal(), Signal(), Signal()
        data_out = payload_register(m, bus.rdata)
        address = bus.araddr[2:]
        readable = add_status(m, self._config, self.events, clear, enables, self.interrupt)
        readable["interrupt_enable"] = Value.cast(enables)
        m.d.sync += begins.eq(bus.arvalid & ~begins & ~goes_on & ~bus.rvalid & ~reading)
        m.d.comb += [bus.arready.eq(begins), bus.rresp.eq(0)]
        m.d.sync += [goes_on.eq(begins), stored.eq(begins & ~address[7:].any())]
        with m.If(begins):
            m.d.sync += data_out.eq(0)
            with m.Switch(address):
                for name, value in readable.items():
                    with m.Case(register(name).offset >> 2):
                        m.d.sync += data_out.eq(value)
        with m.If(stored):
            m.d.sync += data_out.eq(data_out | word)
        with m.If(goes_on):
            m.d.sync += bus.rvalid.eq(1)
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        return begins

    def _read_descriptor(self, m: Module, word: Value, waits: Value, reading: Signal, asked: Signal) -> None:
        """Read the descriptor's words after a start, and offer or refuse the GEMM."""
        arrives, arrived, checked, taken = Signal(), Signal(5), Signal(), Signal()
        descriptor = payload_register(m, self.descriptor.p)
        known = known_fields(self._config)
        m.d.comb += [self.descriptor.p[name].eq(value) for name, value in known.items()]
        outputs = Signal(2)  # low bits of C's address and stride, for the output's format comes later
        failed = {code: Signal(name=f"breaks_{code.name.lower()}") for code in RULES}
        m.d.comb += [
            self.ready.eq(~reading & ~arrives & ~checked & ~taken),
            self.descriptor.valid.eq(checked & ~Cat(failed.values()).any()),
            self.refused.eq(checked & Cat(failed.values()).any()),
        ]
        for code, fails in reversed(failed.items()):
            with m.If(fails):
                m.d.comb += self.error_code.eq(code)

        m.d.sync += [arrives.eq(reading & ~waits), arrived.eq(asked)]
        with m.If(reading & ~waits):
            m.d.sync += [asked.eq(asked + 1), reading.eq(asked != self._last)]
        with m.If(self.start & self.ready):
            m.d.sync += [reading.eq(1), asked.eq(0), outputs.eq(0), *(fails.eq(0) for fails in failed.values())]
        with m.If(arrives):
            m.d.sync += checked.eq(arrived == self._last)
            with m.Switch(arrived):
                for reg in REGISTERS:
                    if 0 <= (number := (reg.offset >> 2) - FIRST) <= self._last:
                        with m.Case(number):
                            m.d.sync += [
                                target.eq(value)
                                for name, target, value in self._fields(reg.name, descriptor, word)
                                if name not in known
                            ]
                            m.d.sync += [
                                failed[code].eq(failed[code] | breaks)
                                for code, breaks in self._broken(reg.name, word, outputs).items()
                            ]
                            if reg.name in ("c_address_low", "c_stride"):
                                m.d.sync += outputs.eq(outputs | word)
        with m.Elif(self.refused | self.descriptor.ready):
            m.d.sync += checked.eq(0)
        with m.If(self.descriptor.valid & self.descriptor.ready):
            m.d.sync += taken.eq(1)
        with m.Elif(self.done):
            m.d.sync += taken.eq(0)
        with m.If(self.flush):
            m.d.sync += [reading.eq(0), arrives.eq(0), checked.eq(0), taken.eq(0)]

    def _fields(self, name: str, descriptor: Any, word: Value) -> list[tuple[str, Any, Value]]:
        """What a register's word gives: names of the descriptor's fields, these, and their values."""
        if name == "layout":
            return [(f.name, descriptor[f.name], word[f.lsb]) for f in register(name).fields]
        if name == "formats":
            return [(f"{f.name}_format", descriptor[f"{f.name}_format"], word[f.lsb :]) for f in register(name).fields]
        if name == "rounding":
            names = {"mode": "rounding_mode"}
            fields = [(names.get(f.name, f.name), f.lsb) for f in register(name).fields]
            return [(field, descriptor[field], word[lsb:]) for field, lsb in fields]
        for end, half in (("_low", slice(0, 32)), ("_high", slice(32, 64))):
            if name.endswith(end):
                field = name.removesuffix(end)
                return [(field, descriptor[field][half], word)]
        return [(name, descriptor[name], word)]

    def _broken(self, name: str, word: Value, outputs: Signal) -> dict[ErrorCode, Value]:
        """Which rules a register's word breaks."""
        config, broken = self._config, dict[ErrorCode, Value]()
        if name in SIZE_REGISTERS or "_address_" in name:
            broken[ErrorCode.TOO_WIDE] = word[config.register_bits(name) :].any()
        if name in ("m", "n", "k"):
            broken[ErrorCode.ZERO_SIZE] = word == 0
        if name == "k":
            broken[ErrorCode.K_TOO_LARGE] = word > config.max_k
        if name in ("a_address_low", "a_stride"):
            broken[ErrorCode.MISALIGNED] = (word[:2] & (config.a_bytes - 1)).any()
        if name in ("b_address_low", "b_stride"):
            broken[ErrorCode.MISALIGNED] = (word[:2] & (config.b_bytes - 1)).any()
        if name in POSITION_REGISTERS and name.endswith("_offset"):
            broken[ErrorCode.MISALIGNED] = word[:3].any()
        if name == "formats":
            number = {f.name: word[f.lsb : f.lsb + f.width] for f in register(name).fields}
            counts = {"a": config.a_formats, "b": config.b_formats, "out": config.out_formats}
            unknown = Cat(number[role] >= len(formats) for role, formats in counts.items())
            broken[ErrorCode.UNSUPPORTED_FORMAT] = unknown.any()
            broken[ErrorCode.MISALIGNED] = (outputs & output_mask(config, number["out"])).any()
        if name == "rounding":
            mode, bits = (register(name).field(field) for field in ("mode", "random_bits"))
            broken[ErrorCode.UNSUPPORTED_ROUNDING] = rounding_fails(
                config, word[mode.lsb : mode.lsb + mode.width], word[bits.lsb : bits.lsb + bits.width]
            )
        if name == "scale":
            broken[ErrorCode.SCALE_OUT_OF_RANGE] = scale_fails(word)
        return broken
