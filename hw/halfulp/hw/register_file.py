"""The registers of registers.py in hardware: descriptor, actions, sticky status, counters, interrupt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from halfulp.hw.axi_lite import AxiLiteTarget
from halfulp.hw.config import BLOCK_SCALES, POSITION_REGISTERS, ArrayConfig
from halfulp.hw.format_words import format_word
from halfulp.hw.interfaces import AxiLiteSignature
from halfulp.hw.registers import CORE_ID, CORE_VERSION, REGISTERS, ErrorCode, Register, register
from halfulp.numerics.accumulators import ExactAccumulator, FixedAccumulator, FloatAccumulator
from halfulp.numerics.rounding import KINDS

__all__ = ["RegisterFile", "add_status", "configuration_words", "events_layout", "settings_layout", "wide_counter"]

ACCUMULATOR_KINDS = (ExactAccumulator, FixedAccumulator, FloatAccumulator)
"""By their numbers in the registers."""

FLOAT_SPECIALS = ("ieee", "fn", "finite")

GROUP_BITS = 2
"""Of a word's address: words, or groups of them, from which one is chosen in a clock."""

COUNTERS = ("cycles", "array_busy_cycles", "read_stall_cycles", "write_stall_cycles")


def configuration_words(config: ArrayConfig) -> dict[str, int]:
    """Values of the registers that show what a core is, by name of register: id, version and all `config_…`."""
    accumulator = config.accumulator
    words = {
        "id": CORE_ID,
        "version": CORE_VERSION,
        "config_array": _pack("config_array", rows=config.rows, columns=config.columns),
        "config_datapath": _pack(
            "config_datapath",
            lanes=config.lanes,
            bus_bytes=config.bus_bytes,
            queue_depth=config.queue_depth,
            reads_outstanding=config.reads_outstanding,
        ),
        "config_buffer": config.buffer_depth,
        "config_accumulator": _pack(
            "config_accumulator",
            kind=ACCUMULATOR_KINDS.index(type(accumulator)),
            bits=config.accumulator_bits,
            pack_multipliers=config.pack_multipliers,
            shift_in_multipliers=config.shift_in_multipliers,
        ),
        "config_accumulator_float": _float_word(accumulator) if isinstance(accumulator, FloatAccumulator) else 0,
        "config_interleave": config.interleave,
        "config_accumulator_lsb": accumulator.lsb & 0xFFFF_FFFF if isinstance(accumulator, FixedAccumulator) else 0,
        "config_widths": _pack(
            "config_widths",
            address_bits=config.address_bits,
            size_bits=config.size_bits,
            no_counters=not config.counters,
            is_compact=config.compact,
        ),
        "config_block": _pack(
            "config_block", length=config.block, scale=BLOCK_SCALES.index(config.block_scale) if config.block else 0
        ),
        "config_max_k": config.max_k,
        "config_rounding": _pack(
            "config_rounding", modes=sum(1 << i for i, kind in enumerate(KINDS) if kind in config.roundings)
        ),
        "config_formats": _pack(
            "config_formats", a=len(config.a_formats), b=len(config.b_formats), out=len(config.out_formats)
        ),
    }
    for role, formats in (("a", config.a_formats), ("b", config.b_formats), ("out", config.out_formats)):
        words.update({f"config_{role}_format{n}": format_word(fmt) for n, fmt in enumerate(formats)})
    return words


def _float_word(accumulator: FloatAccumulator) -> int:
    fmt, rounding = accumulator.format, accumulator.rounding
    return _pack(
        "config_accumulator_float",
        exponent_bits=fmt.exponent_bits,
        mantissa_bits=fmt.mantissa_bits,
        rounding_mode=KINDS.index(rounding.kind),
        random_bits=rounding.random_bits,
        overflow_ieee=int(accumulator.overflow == "ieee"),
        specials=FLOAT_SPECIALS.index(fmt.specials),
        subnormals=int(fmt.subnormals),
    )


def _pack(name: str, **values: int) -> int:
    """A register's word of the values of its fields."""
    word = 0
    for key, value in values.items():
        field = register(name).field(key)
        if value >> field.width:
            raise ValueError(f"{name}.{key} is {field.width} bits wide: {value} does not fit")
        word |= value << field.lsb
    return word


def settings_layout(config: ArrayConfig) -> data.StructLayout:
    """The rw registers as one struct: a number each, or a struct of a register's fields.

    Numbers are as wide as the core makes use of them. too_wide, where a core's addresses or sizes have fewer bits than
    their registers: one of these was last written with a bit set that it does not have.
    """
    members: dict[str, Any] = {r.name: _shape(config, r) for r in REGISTERS if r.access == "rw"}
    if config.address_bits < 64 or config.size_bits < 32:
        members["too_wide"] = 1
    return data.StructLayout(members)


def _shape(config: ArrayConfig, reg: Register) -> data.StructLayout | int:
    return data.StructLayout({f.name: f.width for f in reg.fields}) if reg.fields else config.register_bits(reg.name)


def events_layout() -> data.StructLayout:
    """What the core reports to its status registers, each valid in every clock.

    busy, queue_full: states; starting: a state that reads as busy and is not counted; ended: GEMMs that ended in this
    clock; error with error_code: an error in this clock, and with `failed` also the address of the burst that did;
    invalid, overflow: a result set the flag; the counted states array_busy, read_stall and write_stall.
    """
    return data.StructLayout(
        {
            "busy": 1,
            "starting": 1,
            "queue_full": 1,
            "ended": 16,
            "error": 1,
            "error_code": 8,
            "failed": 1,
            "fail_address": 64,
            "invalid": 1,
            "overflow": 1,
            "array_busy": 1,
            "read_stall": 1,
            "write_stall": 1,
        }
    )


class RegisterFile(wiring.Component):
    """All registers of `REGISTERS` behind AXI4-Lite.

    What is read is what a register holds in the clock behind the one in which the address is taken. Write strobes are
    honoured byte by byte; bits that no field declares, write-only registers and addresses without a register read 0. So
    do bits of addresses and sizes beyond the core's widths: a GEMM that is started with one of them written as 1 is
    refused. Where nothing is rounded at random, seed and offsets are not kept. An event in the very clock of a `clear`
    is kept. The counters' high words follow their low words one clock late, so a driver reads high, low, high until
    both high words agree.

    Parameters
    ----------
    config
        Gives the constant words, and the widths.

    Members
    -------
    bus : In(AxiLiteSignature())
    start, reset : Out(1)
        The actions of `control`, one clock each: the first in which the write's response is on the bus. What was
        written before is in `settings` by then.
    settings : Out(settings_layout(config))
        The rw registers; stable from the clock of `start` on until the next write.
    events : In(events_layout())
    interrupt : Out(1)
        A level, registered.
    """

    bus: Any
    start: Signal
    reset: Signal
    settings: data.View
    events: data.View
    interrupt: Signal

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        self._words = configuration_words(config)
        super().__init__(
            {
                "bus": In(AxiLiteSignature()),
                "start": Out(1),
                "reset": Out(1),
                "settings": Out(settings_layout(config)),
                "events": In(events_layout()),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        m.submodules.target = target = AxiLiteTarget()
        connect(m, flipped(self.bus), target.bus)

        clear = Signal()
        actions = {"start": self.start, "clear": clear, "reset": self.reset}
        self._too_wide: list[Signal] = []
        readable = add_status(m, self._config, self.events, clear, self.settings.interrupt_enable, self.interrupt)
        readable.update({name: Const(word, 32) for name, word in self._words.items()})

        # Registered: `clear` reaches every counter, and `start` the queue, from far behind the bus.
        m.d.sync += [action.eq(0) for action in actions.values()]
        written = Signal()
        m.d.sync += written.eq(target.write_enable)
        for reg in REGISTERS:
            is_addressed = target.write_address == reg.offset >> 2
            if reg.access == "w1":
                with m.If(target.write_enable & is_addressed):
                    for f in reg.fields:
                        strobe = target.write_strobe[f.lsb // 8]
                        m.d.sync += actions[f.name].eq(target.write_data[f.lsb] & strobe)
            elif reg.access == "rw":
                # A clock after the write, whose address and data are still there: the settings lie all over the core.
                chosen = Signal(name=f"{reg.name}_chosen")
                m.d.sync += chosen.eq(is_addressed)
                with m.If(written & chosen):
                    self._write(m, reg, target)
        readable.update({reg.name: self._word(reg) for reg in REGISTERS if reg.access == "rw"})
        if self._too_wide:
            m.d.comb += self.settings.too_wide.eq(Cat(self._too_wide).any())

        self._read(m, target, {register(name).offset >> 2: value for name, value in readable.items()})
        return m

    def _read(self, m: Module, target: AxiLiteTarget, words: Mapping[int, Value]) -> None:
        """Read a word by its address, in three clocks: of each group of words, of each group of these, then of all.

        Evaluated only in these clocks, which keeps simulators from walking the multiplexers in every one.
        """
        address = target.read_address
        groups = self._choose(m, "read_group", target.read_begins, address, words)
        outer = self._choose(m, "read_groups", target.read_continues, address[GROUP_BITS:], groups)
        with m.If(target.read_enable):
            with m.Switch(address[2 * GROUP_BITS :]):
                for number, word in outer.items():
                    with m.Case(number):
                        m.d.comb += target.read_data.eq(word)

    def _choose(
        self, m: Module, name: str, enable: Value, address: Value, words: Mapping[int, Value]
    ) -> dict[int, Signal]:
        """Where `enable` is 1, register one word of each group by the lowest bits of its number; return the groups."""
        groups: dict[int, Signal] = {}
        for group in sorted({number >> GROUP_BITS for number in words}):
            groups[group] = Signal(32, name=f"{name}{group}", reset_less=True)
            with m.If(enable):
                m.d.sync += groups[group].eq(0)
                with m.Switch(address[:GROUP_BITS]):
                    for number, word in words.items():
                        if number >> GROUP_BITS == group:
                            with m.Case(number % (1 << GROUP_BITS)):
                                m.d.sync += groups[group].eq(word)
        return groups

    def _write(self, m: Module, reg: Register, target: AxiLiteTarget) -> None:
        """Update the bits of a rw register whose bytes are strobed."""
        setting = self.settings[reg.name]
        if not reg.fields and len(setting) < 32 and reg.name not in POSITION_REGISTERS:
            self._watch(m, reg.name, len(setting), target)
        parts = [(setting[f.name], f.lsb, f.width) for f in reg.fields] or [(setting, 0, len(setting))]
        for part, lsb, width in parts:
            for byte in range(lsb // 8, (lsb + width + 7) // 8):
                low, high = max(lsb, 8 * byte), min(lsb + width, 8 * byte + 8)
                with m.If(target.write_strobe[byte]):
                    m.d.sync += part[low - lsb : high - lsb].eq(target.write_data[low:high])

    def _watch(self, m: Module, name: str, width: int, target: AxiLiteTarget) -> None:
        """Note whether a write has bits from `width` on; over only with a write of all bytes that hold such bits."""
        too_wide = Signal(name=f"{name}_too_wide")
        self._too_wide.append(too_wide)
        strobes = target.write_strobe[width // 8 :]
        parts = [target.write_data[max(width, 8 * byte) : 8 * byte + 8] for byte in range(width // 8, 4)]
        with m.If(Cat(strobe & part.any() for strobe, part in zip(strobes, parts, strict=True)).any()):
            m.d.sync += too_wide.eq(1)
        with m.Elif(strobes.all()):
            m.d.sync += too_wide.eq(0)

    def _word(self, reg: Register) -> Value:
        """A rw register as it is read: reserved bits 0."""
        setting = self.settings[reg.name]
        return _place(reg, {f.name: setting[f.name] for f in reg.fields}) if reg.fields else setting


def add_status(
    m: Module, config: ArrayConfig, events: data.View[data.StructLayout], clear: Value, enables: Any, interrupt: Signal
) -> dict[str, Value]:
    """Add sticky status, counters and the interrupt to `m`; return what their registers read.

    `enables` are done and error of ``interrupt_enable``.
    """
    sticky = {name: Signal(name=name) for name in ("done", "error", "invalid", "overflow")}
    error_code = Signal(8)
    fail_address = Signal(64)
    failed = Signal()
    completed = Signal(32)

    with m.If(clear):
        m.d.sync += [flag.eq(0) for flag in sticky.values()]
        m.d.sync += [error_code.eq(ErrorCode.NONE), fail_address.eq(0), failed.eq(0)]
    happened = {
        "done": events.ended.any(),
        "error": events.error,
        "invalid": events.invalid,
        "overflow": events.overflow,
    }
    for name, flag in sticky.items():
        with m.If(happened[name]):
            m.d.sync += flag.eq(1)
    with m.If(events.error & (~sticky["error"] | clear)):
        m.d.sync += error_code.eq(events.error_code)
    with m.If(events.failed & (~failed | clear)):
        m.d.sync += [failed.eq(1), fail_address.eq(events.fail_address)]
    with m.If(events.ended.any()):
        m.d.sync += completed.eq(completed + events.ended)

    m.d.sync += interrupt.eq((sticky["done"] & enables.done) | (sticky["error"] & enables.error))

    busy = events.busy | events.starting
    state = {"busy": busy, "queue_full": events.queue_full, "error_code": error_code, **sticky}
    readable: dict[str, Value] = {
        "status": _place(register("status"), state),
        "completed": completed,
        "fail_address_low": fail_address[:32],
        "fail_address_high": fail_address[32:],
    }
    if not config.counters:
        return readable
    counted = (events.busy, events.array_busy, events.read_stall, events.write_stall)
    for name, event in zip(COUNTERS, counted, strict=True):
        low, high = wide_counter(m, name, event, clear, high_width=config.size_bits)
        readable |= {f"{name}_low": low, f"{name}_high": high}
    return readable


def wide_counter(
    m: Module, name: str, event: Value, clear: Value, *, low_width: int = 32, high_width: int = 32
) -> tuple[Signal, Signal]:
    """Add a counter to `m`, as two parts with a registered carry, so that no adder is wider than one; return them."""
    low = Signal(low_width, name=f"{name}_low")
    high = Signal(high_width, name=f"{name}_high")
    carry = Signal(name=f"{name}_carry")
    with m.If(event | clear):
        m.d.sync += Cat(low, carry).eq(Mux(clear, 0, low) + event)
    with m.Else():
        m.d.sync += carry.eq(0)
    with m.If(clear):
        m.d.sync += high.eq(0)
    with m.Elif(carry):
        m.d.sync += high.eq(high + 1)
    return low, high


def _place(reg: Register, values: Mapping[str, Value]) -> Value:
    """A register's word: each field at its bits, 0 elsewhere."""
    parts: list[Value] = []
    filled = 0
    for f in sorted(reg.fields, key=lambda f: f.lsb):
        if f.lsb > filled:
            parts.append(Const(0, f.lsb - filled))
        parts.append(values[f.name])
        filled = f.lsb + f.width
    if filled < 32:
        parts.append(Const(0, 32 - filled))
    return Cat(*parts)
