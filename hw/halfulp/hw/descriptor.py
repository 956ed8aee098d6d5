"""The queue of GEMMs and the checks that each must pass before it causes any traffic."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import descriptor_layout, payload_register
from halfulp.hw.register_file import settings_layout
from halfulp.hw.registers import ErrorCode
from halfulp.numerics.formats import FloatFormat, Format, PositFormat
from halfulp.numerics.gemm import SCALE_LIMIT
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS
from halfulp.numerics.rounding import KINDS

__all__ = [
    "DescriptorQueue",
    "known_fields",
    "output_mask",
    "request_from_settings",
    "request_layout",
    "rounding_fails",
    "scale_fails",
]

STOCHASTIC = (KINDS.index("stochastic"), KINDS.index("stochastic_floor"))


def request_layout(config: ArrayConfig) -> data.StructLayout:
    """One GEMM as the registers hold it, unchecked: fields as wide as the registers', so that nothing is cut off.

    too_wide: a register that has fewer bits than the map says was written with more.
    """
    address, size = unsigned(config.address_bits), unsigned(config.size_bits)
    random = config.draws_random_bits
    return data.StructLayout(
        {
            "a_address": address,
            "b_address": address,
            "c_address": address,
            "a_stride": size,
            "b_stride": size,
            "c_stride": size,
            "m": size,
            "n": size,
            "k": size,
            "a_across_k": unsigned(1),
            "b_across_k": unsigned(1),
            "a_format": unsigned(8),
            "b_format": unsigned(8),
            "out_format": unsigned(8),
            "rounding_mode": unsigned(4),
            "overflow_ieee": unsigned(1),
            "random_bits": unsigned(8),
            "scale": unsigned(32),
            "seed": unsigned(64 if random else 0),
            "row_offset": unsigned(32 if random else 0),
            "column_offset": unsigned(32 if random else 0),
            **({"too_wide": unsigned(1)} if "too_wide" in settings_layout(config).members else {}),
        }
    )


def request_from_settings(config: ArrayConfig, settings: data.View) -> dict[str, Value]:
    """The fields of `request_layout` from the rw registers."""
    names = request_layout(config).members
    request: dict[str, Value] = {name: settings[name] for name in settings_layout(config).members if name in names}
    for name in ("a_address", "b_address", "c_address", "seed"):
        low, high = settings[f"{name}_low"], settings[f"{name}_high"]
        request[name] = low | high << 32
    for name in ("a_across_k", "b_across_k"):
        request[name] = settings.layout[name]
    for name in ("a", "b", "out"):
        request[f"{name}_format"] = settings.formats[name]
    request["rounding_mode"] = settings.rounding.mode
    request["overflow_ieee"] = settings.rounding.overflow_ieee
    request["random_bits"] = settings.rounding.random_bits
    return request


class DescriptorQueue(wiring.Component):
    """Holds waiting GEMMs; checks each as it leaves, in order.

    Checks, in this order of precedence: addresses, sizes and strides have no bit beyond the core's; no size is 0; K is
    at most max_k; the formats and the rounding mode are built in, and a stochastic one has 1 to 16 random bits; A, B
    and C and their strides are multiples of an element, and the offsets are of 8; the scale is within ±16384.

    Parameters
    ----------
    config
        Depth of the queue, widths, and everything that is checked against.

    Members
    -------
    push : In(stream.Signature(request_layout(config)))
        `ready` is 0 while the queue is full.
    descriptor : Out(stream.Signature(descriptor_layout(config)))
        GEMMs that passed.
    refused : Out(1)
        One clock for a GEMM that did not pass, with `error_code`.
    flush : In(1)
        Forget everything that waits; what is pushed meanwhile is lost.
    """

    push: stream.Interface
    descriptor: stream.Interface
    refused: Signal
    error_code: Signal
    flush: Signal

    latency = 3
    """Clocks from the one that pushes into an empty queue to the first with `descriptor.valid` or `refused`."""

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {
                "push": In(stream.Signature(request_layout(config))),
                "descriptor": Out(stream.Signature(descriptor_layout(config))),
                "refused": Out(1),
                "error_code": Out(8),
                "flush": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        layout, depth = request_layout(self._config), self._config.queue_depth
        written = Signal(range(depth))
        read = Signal(range(depth))
        level = Signal(range(depth + 1))
        shown = Signal()  # the oldest is at the memory's output
        checked = Signal()  # one is at the descriptor's, and was checked on its way there
        pushes = Signal()
        pops = Signal()
        request: Any = Signal(layout, name="oldest")
        rules = self._rules(request)
        failed = Signal(len(rules), reset_less=True)
        descriptor = payload_register(m, self.descriptor.p)
        m.d.comb += [self.descriptor.p[name].eq(value) for name, value in known_fields(self._config).items()]
        m.d.comb += [
            self.push.ready.eq(level != depth),
            pushes.eq(self.push.valid & self.push.ready),
            pops.eq(shown & ~checked),
            self.descriptor.valid.eq(checked & ~failed.any()),
            self.refused.eq(checked & failed.any()),
        ]
        for bit, error in reversed(list(zip(failed, rules, strict=True))):
            with m.If(bit):
                m.d.comb += self.error_code.eq(error)
        offered = self.push.payload.as_value()
        if depth == 1:
            # The one place is itself what a memory's output would be.
            place = Signal(layout.size, reset_less=True)
            m.d.comb += Value.cast(request).eq(place)
            with m.If(pushes):
                m.d.sync += place.eq(offered)
        else:
            m.submodules.requests = requests = memory.Memory(shape=unsigned(layout.size), depth=depth, init=[])
            write_port, read_port = requests.write_port(), requests.read_port()
            m.d.comb += [
                write_port.en.eq(pushes),
                write_port.addr.eq(written),
                write_port.data.eq(offered),
                read_port.en.eq(1),
                read_port.addr.eq(read),
                Value.cast(request).eq(read_port.data),
            ]
        m.d.sync += [
            level.eq(level + pushes - pops),
            shown.eq((level != 0) & ~pops),
            written.eq(Mux(pushes, _behind(written, depth), written)),
            read.eq(Mux(pops, _behind(read, depth), read)),
        ]
        # These hundreds of registers load whatever is there until there is something: by one register.
        with m.If(~checked):
            m.d.sync += [checked.eq(shown), failed.eq(Cat(*rules.values()))]
            known = known_fields(self._config)
            m.d.sync += [descriptor[n].eq(known.get(n, request[n])) for n in descriptor.shape().members]
        with m.Elif(failed.any() | self.descriptor.ready):
            m.d.sync += checked.eq(0)
        with m.If(self.flush):
            m.d.sync += [signal.eq(0) for signal in (level, shown, checked, written, read)]
        return m

    def _rules(self, request: data.View) -> dict[ErrorCode, Value]:
        """Whether a request breaks each of the rules, the first one first."""
        config = self._config
        rules: dict[ErrorCode, Value] = {}
        if "too_wide" in request.shape().members:
            rules[ErrorCode.TOO_WIDE] = request.too_wide
        rules[ErrorCode.ZERO_SIZE] = (request.m == 0) | (request.n == 0) | (request.k == 0)
        rules[ErrorCode.K_TOO_LARGE] = request.k > config.max_k
        rules[ErrorCode.UNSUPPORTED_FORMAT] = (
            (request.a_format >= len(config.a_formats))
            | (request.b_format >= len(config.b_formats))
            | (request.out_format >= len(config.out_formats))
        )
        rules[ErrorCode.UNSUPPORTED_ROUNDING] = rounding_fails(config, request.rounding_mode, request.random_bits)
        rules[ErrorCode.MISALIGNED] = self._misaligned(request)
        rules[ErrorCode.SCALE_OUT_OF_RANGE] = scale_fails(request.scale)
        return rules

    def _misaligned(self, request: data.View) -> Value:
        config = self._config
        a = request.a_address[:2] | request.a_stride[:2]
        b = request.b_address[:2] | request.b_stride[:2]
        c = request.c_address[:2] | request.c_stride[:2]
        out_mask = output_mask(config, request.out_format)
        offsets = request.row_offset[:3] | request.column_offset[:3]
        return ((a & (config.a_bytes - 1)) | (b & (config.b_bytes - 1)) | (c & out_mask) | offsets).any()


def _behind(place: Signal, depth: int) -> Value:
    """The place behind this one, in a ring."""
    return Mux(place == depth - 1, 0, place + 1)[: len(place)]


def known_fields(config: ArrayConfig) -> dict[str, int]:
    """The fields that all GEMMs that pass have alike, or that no result depends on: no registers from here on."""
    sides = {"a": config.a_formats, "b": config.b_formats, "out": config.out_formats}
    known = {f"{role}_format": 0 for role, formats in sides.items() if len(formats) == 1}
    if len(config.roundings) == 1:
        known["rounding_mode"] = KINDS.index(config.roundings[0])
    if not any(KINDS.index(kind) in STOCHASTIC for kind in config.roundings):
        known["random_bits"] = 0
    if not any(isinstance(f, (FloatFormat, PositFormat)) for f in config.out_formats):
        known["overflow_ieee"] = 0
    return known


def rounding_fails(config: ArrayConfig, mode: Value, bits: Value) -> Value:
    """Whether a core has no such rounding of outputs, with so many random bits."""
    built_in = mode.matches(*(KINDS.index(kind) for kind in config.roundings))
    return ~built_in | (mode.matches(*STOCHASTIC) & ((bits == 0) | (bits > MAX_OUTPUT_BITS)))


def scale_fails(word: Value) -> Value:
    """Whether a scale, 32 bits in two's complement, is out of range."""
    scale = word.as_signed()
    return (scale > SCALE_LIMIT) | (scale < -SCALE_LIMIT)


def output_mask(config: ArrayConfig, out_format: Value) -> Value:
    """The address bits that are 0 where results of this format may lie."""
    wide = {size: _numbers(config.out_formats, size) for size in (2, 4)}
    return Mux(out_format.matches(*wide[4]), 3, Mux(out_format.matches(*wide[2]), 1, 0))


def _numbers(formats: tuple[Format, ...], container_bytes: int) -> list[int]:
    """Which of the formats have containers of this many bytes."""
    return [n for n, fmt in enumerate(formats) if fmt.container_bytes == container_bytes]
