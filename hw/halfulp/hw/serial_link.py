"""The device's end of the framed serial link: requests in, register and memory accesses, replies out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from halfulp.hw.interfaces import AxiLiteSignature
from halfulp.hw.serial_checksum import SerialChecksum
from halfulp.hw.serial_protocol import (
    CHECK_BYTES,
    LINK_INFO,
    LINK_MAGIC,
    LINK_VERSION,
    REPLY_HEADER,
    REQUEST_HEADER,
    SYNC,
    Command,
    LinkInfo,
    Status,
)
from halfulp.hw.shared_memory import BytePortSignature

__all__ = ["SerialLink"]

_WORD_BYTES = 4

REGISTER_BITS = 12
"""Of a register's address."""


class _State(enum.Enum):
    HUNT = 0
    HEADER = 1
    HEADER_CHECK = 2
    PAYLOAD = 3
    PAYLOAD_CHECK = 4
    WRITE_REGISTER = 5
    REPLY = 6
    REPLY_CHECK = 7
    FETCH = 8
    FETCHED = 9
    READ_REGISTER = 10
    SEND = 11
    SEND_CHECK = 12
    CHECKING = 13


class SerialLink(wiring.Component):
    """Answers one request at a time, in order; `halfulp.hw.serial_protocol` has the frames.

    A request is carried out once: one with the sequence number after the last is new, one with that number or an
    earlier one is a repetition, whose writes are acknowledged and not done again, and any other is refused. Bytes
    written to memory go there as they come, before their checksum: the header's own has confirmed where they belong,
    and the request is repeated until they are right. A register is written when all is confirmed.

    A byte takes 9 clocks, and less than the 40 that it takes on the line at least.

    After a wrong checksum the next sync byte is looked for; bytes before one are dropped.

    Parameters
    ----------
    memory_bytes
        Size of the memory behind `bytes`.
    buffer_bytes
        Receive buffer before this block, which is what the host may have under way; a payload is at most a quarter.

    Members
    -------
    received : In(stream.Signature(8)), sent : Out(stream.Signature(8))
    registers : Out(AxiLiteSignature())
    bytes : Out(BytePortSignature(address_width))
    """

    received: stream.Interface
    sent: stream.Interface
    registers: Any
    bytes: Any

    def __init__(self, *, memory_bytes: int, buffer_bytes: int) -> None:
        if buffer_bytes & (buffer_bytes - 1) or not 256 <= buffer_bytes <= 32768:
            raise ValueError(f"buffer_bytes must be a power of two from 256 to 32768, not {buffer_bytes!r}")
        self._info = LinkInfo(LINK_MAGIC, LINK_VERSION, buffer_bytes // 4, buffer_bytes, memory_bytes)
        super().__init__(
            {
                "received": In(stream.Signature(8)),
                "sent": Out(stream.Signature(8)),
                "registers": Out(AxiLiteSignature()),
                "bytes": Out(BytePortSignature(ceil_log2(memory_bytes))),
            }
        )

    @property
    def info(self) -> LinkInfo:
        """What the link tells of itself."""
        return self._info

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        m.submodules.check = check = SerialChecksum()
        state = Signal(_State)
        received, sent = self.received, self.sent

        # Of the header. Address and length count while bytes go by. Of the upper bits of an address, which are 0 of all
        # that there is, only this is kept.
        sequence, command, length = Signal(8), Signal(8), Signal(16)
        address, is_beyond = Signal(max(ceil_log2(self._info.memory_bytes), REGISTER_BITS)), Signal()
        count = Signal(4)
        last = Signal(8)
        status = Signal(Status)
        is_new = Signal()
        word = Signal(32)
        byte = Signal(8)

        took, gave = Signal(), Signal()
        m.d.comb += [took.eq(received.valid & received.ready), gave.eq(sent.valid & sent.ready)]
        space, writes = command[1:3], command[0]
        in_memory, in_registers = space == Command.READ_MEMORY >> 1, space == Command.READ_REGISTERS >> 1
        replies = Signal(16)  # bytes that follow the reply's header
        m.d.comb += replies.eq(Mux(writes | (status != Status.DONE), 0, length))

        m.d.comb += [
            self.bytes.address.eq(address),
            self.bytes.write_data.eq(received.payload),
            self.registers.araddr.eq(address),
            self.registers.awaddr.eq(address),
            self.registers.wdata.eq(word),
            self.registers.wstrb.eq(~0),
            self.registers.bready.eq(1),
            self.registers.rready.eq(1),
        ]

        def receive(then: _State, many: int) -> None:
            """Take so many bytes into the checksum, then go on."""
            m.d.comb += [received.ready.eq(1), check.data.eq(received.payload), check.valid.eq(took)]
            with m.If(took):
                m.d.sync += count.eq(count + 1)
                with m.If(count == many - 1):
                    m.d.sync += [count.eq(0), state.eq(then)]

        def send_check(then: Value | _State) -> None:
            m.d.comb += [sent.valid.eq(1), sent.payload.eq(Array(check.crc.word_select(n, 8) for n in range(4))[count])]
            with m.If(gave):
                m.d.sync += count.eq(count + 1)
                with m.If(count == CHECK_BYTES - 1):
                    m.d.comb += check.start.eq(1)
                    m.d.sync += [count.eq(0), state.eq(then)]

        # Nothing goes on while a byte goes into the checksum.
        with m.Switch(Mux(check.busy, _State.CHECKING, state)):
            with m.Case(_State.HUNT):
                m.d.comb += [received.ready.eq(1), check.start.eq(1)]
                m.d.sync += count.eq(0)
                with m.If(took & (received.payload == SYNC)):
                    m.d.sync += state.eq(_State.HEADER)
            with m.Case(_State.HEADER):
                receive(_State.HEADER_CHECK, REQUEST_HEADER.size - 1 + CHECK_BYTES)
                # The word holds the four bytes before this one.
                with m.If(took):
                    m.d.sync += word.eq(Cat(word[8:], received.payload))
                    with m.If(count == _WORD_BYTES):
                        m.d.sync += Cat(sequence, command, length).eq(word)
                    with m.If(count == 2 * _WORD_BYTES):
                        m.d.sync += [address.eq(word), is_beyond.eq(word[len(address) :].any())]
            with m.Case(_State.HEADER_CHECK):
                fresh = Signal()
                code = Signal(Status)
                m.d.comb += code.eq(self._judge(command, length, address, is_beyond, sequence - last, fresh, m))
                m.d.comb += check.start.eq(1)
                m.d.sync += [status.eq(code), is_new.eq(fresh & (code == Status.DONE))]
                with m.If(~check.matches):
                    m.d.sync += [status.eq(Status.CHECKSUM), state.eq(_State.REPLY)]
                with m.Elif(writes):
                    m.d.sync += state.eq(Mux(length == 0, _State.REPLY, _State.PAYLOAD))
                with m.Else():
                    m.d.sync += state.eq(_State.REPLY)
                    with m.If(fresh & (code == Status.DONE)):
                        m.d.sync += last.eq(sequence)
            with m.Case(_State.PAYLOAD):
                m.d.comb += [received.ready.eq(1), check.data.eq(received.payload), check.valid.eq(took)]
                with m.If(took):
                    # A register's address stays: its word is written when all is confirmed.
                    m.d.sync += [address.eq(address + in_memory), length.eq(length - 1)]
                    m.d.comb += self.bytes.write.eq(is_new & in_memory)
                    m.d.sync += word.eq(Cat(word[8:], received.payload))
                    with m.If(length == 1):
                        m.d.sync += state.eq(_State.PAYLOAD_CHECK)
            with m.Case(_State.PAYLOAD_CHECK):
                # The last clock, with `count` past the bytes, sees the checksum complete.
                with m.If(count < CHECK_BYTES):
                    m.d.comb += [received.ready.eq(1), check.data.eq(received.payload), check.valid.eq(took)]
                    m.d.sync += count.eq(count + took)
                with m.Else():
                    m.d.comb += check.start.eq(1)
                    m.d.sync += [count.eq(0), state.eq(_State.REPLY)]
                    with m.If(~check.matches):
                        m.d.sync += status.eq(Status.CHECKSUM)
                    with m.Elif(is_new):
                        m.d.sync += last.eq(sequence)
                        with m.If(in_registers):
                            m.d.sync += state.eq(_State.WRITE_REGISTER)
                            m.d.sync += [self.registers.awvalid.eq(1), self.registers.wvalid.eq(1)]
            with m.Case(_State.WRITE_REGISTER):
                with m.If(self.registers.awready):
                    m.d.sync += self.registers.awvalid.eq(0)
                with m.If(self.registers.wready):
                    m.d.sync += self.registers.wvalid.eq(0)
                with m.If(self.registers.bvalid):
                    m.d.sync += state.eq(_State.REPLY)
            with m.Case(_State.REPLY):
                fields = (Const(SYNC, 8), sequence, status, replies[:8], replies[8:])
                m.d.comb += [
                    sent.valid.eq(1),
                    sent.payload.eq(Array(Value.cast(f) for f in fields)[count]),
                    check.data.eq(sent.payload),
                    check.valid.eq(gave & (count != 0)),
                ]
                with m.If(gave):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == REPLY_HEADER.size - 1):
                        m.d.sync += [count.eq(0), state.eq(_State.REPLY_CHECK)]
            with m.Case(_State.REPLY_CHECK):
                send_check(Mux(replies == 0, _State.HUNT, _State.FETCH))
            with m.Case(_State.FETCH):
                m.d.comb += self.bytes.read.eq(in_memory)
                with m.If(in_memory):
                    with m.If(self.bytes.ready):
                        m.d.sync += state.eq(_State.FETCHED)
                with m.Elif(in_registers & (address[:2] == 0)):
                    m.d.sync += [self.registers.arvalid.eq(1), state.eq(_State.READ_REGISTER)]
                with m.Else():
                    m.d.sync += state.eq(_State.FETCHED)
            with m.Case(_State.READ_REGISTER):
                with m.If(self.registers.arready):
                    m.d.sync += self.registers.arvalid.eq(0)
                with m.If(self.registers.rvalid):
                    m.d.sync += [word.eq(self.registers.rdata), state.eq(_State.FETCHED)]
            with m.Case(_State.FETCHED):
                own = LINK_INFO.pack(*self._info)
                own_byte = Array([*own, *([0] * (16 - len(own)))])[address[:4]]
                m.d.comb += byte.eq(Mux(in_memory, self.bytes.read_data, Mux(in_registers, word[:8], own_byte)))
                m.d.sync += [word.eq(Cat(word[8:], byte)), state.eq(_State.SEND)]
            with m.Case(_State.SEND):
                # The byte was turned to the top of the word.
                m.d.comb += [
                    sent.valid.eq(1),
                    sent.payload.eq(word[24:]),
                    check.data.eq(sent.payload),
                    check.valid.eq(gave),
                ]
                with m.If(gave):
                    m.d.sync += [address.eq(address + 1), length.eq(length - 1)]
                    m.d.sync += state.eq(Mux(length == 1, _State.SEND_CHECK, _State.FETCH))
            with m.Case(_State.SEND_CHECK):
                send_check(_State.HUNT)
        return m

    def _judge(
        self,
        command: Signal,
        length: Signal,
        address: Signal,
        is_beyond: Signal,
        ahead: Value,
        fresh: Signal,
        m: Module,
    ) -> Value:
        """The status of a request whose header is right; `fresh` becomes whether it has not been done before."""
        info = self._info
        distance = Signal(8)
        identifies = command == Command.IDENTIFY
        m.d.comb += [distance.eq(ahead), fresh.eq((distance == 1) | identifies)]
        short = length <= info.max_payload
        end = Signal(len(address) + 1)
        m.d.comb += end.eq(address + length[: bits_for(info.max_payload)])
        one_word = (length == _WORD_BYTES) & (address[:2] == 0)
        words = (length[:2] == 0) & (address[:2] == 0)
        limits = {
            Command.IDENTIFY: end <= LINK_INFO.size,
            Command.READ_REGISTERS: words & (end <= 1 << REGISTER_BITS),
            Command.WRITE_REGISTER: one_word & (end <= 1 << REGISTER_BITS),
            Command.READ_MEMORY: end <= info.memory_bytes,
            Command.WRITE_MEMORY: end <= info.memory_bytes,
        }
        inside, known = Signal(), Signal()
        with m.Switch(command):
            for number, fits in limits.items():
                with m.Case(number):
                    m.d.comb += [known.eq(1), inside.eq(fits & ~is_beyond & (length != 0) & short)]
        missing = ~identifies & (distance > 1) & ~distance[7]
        return Mux(~known, Status.COMMAND, Mux(~inside, Status.RANGE, Mux(missing, Status.SEQUENCE, Status.DONE)))
