"""A core's registers by name, and the configuration that it tells of itself. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from halfulp.host.bus import CoreBus
from halfulp.host.errors import ConnectionLostError, DeviceError, IdentificationError
from halfulp.hw.config import BLOCK_SCALES, ArrayConfig
from halfulp.hw.format_words import format_from_word
from halfulp.hw.registers import CORE_ID, CORE_VERSION, register
from halfulp.numerics.accumulators import Accumulator, ExactAccumulator, FixedAccumulator, FloatAccumulator
from halfulp.numerics.formats import FloatFormat, Format
from halfulp.numerics.rounding import KINDS, OVERFLOWS, Rounding

__all__ = ["CoreRegisters", "field_of", "pack", "read_config"]


class CoreRegisters:
    """The registers of the core behind a bus; `name` is what messages call the core.

    An OSError of the bus becomes a `ConnectionLostError`.
    """

    def __init__(self, bus: CoreBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._written: dict[str, int] = {}

    def read(self, name: str) -> int:
        """One register."""
        with self.connected():
            return self._bus.read(register(name).offset)

    def read64(self, name: str) -> int:
        """A pair ``name_low``, ``name_high``. Only meaningful while the core does not change it."""
        return self.read(f"{name}_low") | self.read(f"{name}_high") << 32

    def field(self, name: str, field_name: str) -> int:
        """One field of a register."""
        return field_of(name, field_name, self.read(name))

    def write(self, name: str, **fields: int) -> None:
        """Write a register of fields; those not given are 0."""
        with self.connected():
            self._bus.write(register(name).offset, pack(name, **fields))

    def set(self, name: str, value: int) -> None:
        """Write a descriptor register unless it holds the value: on a serial line a write is a round trip."""
        if self._written.get(name) != value:
            self._written.pop(name, None)
            with self.connected():
                self._bus.write(register(name).offset, value)
            self._written[name] = value

    def set64(self, name: str, value: int) -> None:
        """`set` a pair."""
        self.set(f"{name}_low", value & 0xFFFF_FFFF)
        self.set(f"{name}_high", value >> 32)

    def forget(self) -> None:
        """Take nothing for written any more."""
        self._written.clear()

    def state(self) -> dict[str, int]:
        """What messages show: status, counters, failing address, and the last descriptor's sizes."""
        wide = ("fail_address", "cycles", "array_busy_cycles", "read_stall_cycles", "write_stall_cycles")
        narrow = ("m", "n", "k", "layout", "formats")
        return {
            **{name: self.read(name) for name in ("status", "completed")},
            **{name: self.read64(name) for name in wide},
            **{name: self.read(name) for name in narrow},
        }

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Give an OSError of the bus its own type."""
        try:
            yield
        except DeviceError:
            raise
        except OSError as error:
            raise ConnectionLostError(f"{self._name}: connection lost: {error}") from error


def read_config(read: Callable[[str], int]) -> ArrayConfig:
    """The `ArrayConfig` of a core, from its registers; `read` gives the value of the register of a name.

    Raises
    ------
    IdentificationError
        Where ID or version differ, or the words describe no core that can be.
    """
    if (number := read("id")) != CORE_ID:
        raise IdentificationError(f"no halfulp core: the ID register reads {number:#010x}, not {CORE_ID:#010x}")
    version = read("version")
    if version >> 16 != CORE_VERSION >> 16:
        theirs, ours = f"{version >> 16}.{version & 0xFFFF}", f"{CORE_VERSION >> 16}.x"
        raise IdentificationError(f"the core has register map {theirs}; this driver knows {ours}")
    counts = read("config_formats")

    def formats(role: str) -> tuple[Format, ...]:
        count = _field("config_formats", role, counts)
        return tuple(format_from_word(read(f"config_{role}_format{n}")) for n in range(count))

    array, datapath = read("config_array"), read("config_datapath")
    accumulator, modes, block = read("config_accumulator"), read("config_rounding"), read("config_block")
    widths = read("config_widths")
    try:
        config = ArrayConfig(
            rows=_field("config_array", "rows", array),
            columns=_field("config_array", "columns", array),
            a_formats=formats("a"),
            b_formats=formats("b"),
            out_formats=formats("out"),
            accumulator=_accumulator(read),
            roundings=tuple(name for bit, name in enumerate(KINDS) if modes >> bit & 1),
            lanes=_field("config_datapath", "lanes", datapath),
            bus_width=8 * _field("config_datapath", "bus_bytes", datapath),
            buffer_depth=read("config_buffer"),
            queue_depth=_field("config_datapath", "queue_depth", datapath),
            reads_outstanding=_field("config_datapath", "reads_outstanding", datapath),
            address_bits=_field("config_widths", "address_bits", widths) or 64,  # 0 where a core is older
            size_bits=_field("config_widths", "size_bits", widths) or 32,
            interleave=read("config_interleave") or 1,  # 0 where a core is older than the register
            block=_field("config_block", "length", block),
            block_scale=_block_scale(_field("config_block", "scale", block)),
            pack_multipliers=bool(_field("config_accumulator", "pack_multipliers", accumulator)),
            shift_in_multipliers=bool(_field("config_accumulator", "shift_in_multipliers", accumulator)),
            counters=not _field("config_widths", "no_counters", widths),
            compact=bool(_field("config_widths", "is_compact", widths)),
        )
        bits = _field("config_accumulator", "bits", accumulator)
        if bits != config.accumulator_bits:
            raise ValueError(f"accumulators of {bits} bits, where the formats need {config.accumulator_bits}")
    except ValueError as error:
        raise IdentificationError(f"the core's configuration registers make no sense: {error}") from error
    return config


def _accumulator(read: Callable[[str], int]) -> Accumulator:
    word = read("config_accumulator")
    kind = _field("config_accumulator", "kind", word)
    if kind == 0:
        return ExactAccumulator(read("config_max_k"))
    if kind == 1:
        lsb = read("config_accumulator_lsb")
        return FixedAccumulator(_field("config_accumulator", "bits", word), (lsb ^ 1 << 31) - (1 << 31))
    if kind == 2:
        return _float_accumulator(read("config_accumulator_float"))
    raise ValueError(f"accumulator kind {kind} is unknown to this driver")


def _float_accumulator(word: int) -> FloatAccumulator:
    names = [field.name for field in register("config_accumulator_float").fields]
    values = {name: _field("config_accumulator_float", name, word) for name in names}
    # A float's word among the formats: its family, and then the same fields.
    fmt = format_from_word(
        1
        | values["exponent_bits"] << 4
        | values["mantissa_bits"] << 8
        | values["specials"] << 13
        | values["subnormals"] << 15
    )
    if not isinstance(fmt, FloatFormat):
        raise ValueError(f"{fmt} is no float")
    rounding = Rounding(KINDS[values["rounding_mode"]], values["random_bits"])
    return FloatAccumulator(fmt, rounding, OVERFLOWS[values["overflow_ieee"]])


def _block_scale(kind: int) -> str:
    if kind >= len(BLOCK_SCALES):
        raise ValueError(f"kind {kind} of blocks' scales is unknown to this driver")
    return BLOCK_SCALES[kind]


def _field(name: str, field_name: str, value: int) -> int:
    f = register(name).field(field_name)
    return value >> f.lsb & ((1 << f.width) - 1)


def _fields(name: str, **values: int) -> int:
    word = 0
    for field_name, value in values.items():
        f = register(name).field(field_name)
        word |= (int(value) & ((1 << f.width) - 1)) << f.lsb
    return word


def field_of(name: str, field_name: str, value: int) -> int:
    """One field of the value of the register `name`."""
    f = register(name).field(field_name)
    return value >> f.lsb & ((1 << f.width) - 1)


def pack(name: str, **fields: int) -> int:
    """The value of the register `name` with these fields, the others 0."""
    word = 0
    for field_name, value in fields.items():
        f = register(name).field(field_name)
        word |= (int(value) & ((1 << f.width) - 1)) << f.lsb
    return word
