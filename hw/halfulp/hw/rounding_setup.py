"""What a GEMM's formats, rounding and scale mean to the rounding lanes (`rounder.py`)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, TypeAlias

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import payload_register, tile_layout
from halfulp.hw.table_rounder import TABLE_PLACES, least_exponent
from halfulp.numerics.accumulators import FixedAccumulator, FloatAccumulator
from halfulp.numerics.formats import (
    BinaryFormat,
    FloatFormat,
    Format,
    LogFormat,
    PositFormat,
    ScaledIntegerFormat,
    TableFormat,
)
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS
from halfulp.numerics.rounding import KINDS

__all__ = [
    "RoundingSetup",
    "fraction_places",
    "has_binary",
    "integer_places",
    "rounding_layout",
    "sum_places",
    "table_formats",
]

NEAREST_EVEN, TOWARD_ZERO, STOCHASTIC, STOCHASTIC_FLOOR = (
    KINDS.index(kind) for kind in ("nearest_even", "toward_zero", "stochastic", "stochastic_floor")
)

_FieldName: TypeAlias = tuple[str, int | None]
"""Of a field of `rounding_layout`: its name, and the sign where it has one for each."""

_CODES_OF_INTEGERS: dict[str, Any] = {
    "integer": 1, "code_mask": 0, "nan_invalid": 1, "infinity_overflows": 1,
    "narrow": 0, "gap": 0, "flat": 0, "sign": 0, "min_normal": 0, "nan": 0,
}  # fmt: skip
"""Fields of `rounding_layout` for codes in two's complement, of which the magnitude is what is rounded."""


def integer_places(config: ArrayConfig) -> int:
    """Width of the longest significand of the output formats; what a table's bracket asks for, where there is one."""
    return max(TABLE_PLACES if isinstance(f, TableFormat) else f.significand_bits for f in config.out_formats)


def table_formats(config: ArrayConfig) -> tuple[TableFormat, ...]:
    """The output formats that are rounded by `TableRounder`."""
    return tuple(f for f in config.out_formats if isinstance(f, TableFormat))


def sum_places(config: ArrayConfig) -> int:
    """Width of a sum's magnitude: of a float accumulator's significand."""
    accumulator = config.accumulator
    return accumulator.format.significand_bits if isinstance(accumulator, FloatAccumulator) else config.accumulator_bits


def fraction_places(config: ArrayConfig) -> int:
    """Places below the ulp that decide the rounding, the lowest one jammed with all that lies further below.

    Nearest even looks at the half and at whether there is more. The stochastic modes compare with 16 random bits and
    the half of their ulp: 17 places, and whether there is more.
    """
    stochastic = any(kind.startswith("stochastic") for kind in config.roundings)
    return MAX_OUTPUT_BITS + 2 if stochastic else 2


def rounding_layout(config: ArrayConfig) -> data.StructLayout:
    """What a GEMM's formats, rounding and scale mean to a lane.

    top_exponent: of the sum's topmost place, above the smallest normal number's; narrow: places that the significand
    is shorter than the longest one; gap: mantissa bits of a format without subnormals, else 0. addend, random_mask,
    nearest: what is added below the ulp. By sign (0 plus, 1 minus): largest magnitude, its code or that of what lies
    beyond, the code of an infinite sum. table, table_number: whether and at which place the format is one of
    `table_formats`; binary: whether it is binary, at_least_one: and the mode deterministic.
    """
    by_sign = data.ArrayLayout(unsigned(32), 2)
    extra: dict[str, Any] = {}
    tables = table_formats(config)
    if tables:
        extra |= {"table": unsigned(1), "table_number": unsigned(max(ceil_log2(len(tables)), 1))}
    if has_binary(config):
        extra |= {"binary": unsigned(1), "at_least_one": unsigned(1)}
    return data.StructLayout(
        {
            "top_exponent": signed(16),
            "narrow": unsigned(5),
            "gap": unsigned(5),
            "flat": unsigned(1),
            "addend": unsigned(fraction_places(config)),
            "random_mask": unsigned(MAX_OUTPUT_BITS),
            "nearest": unsigned(1),
            "integer": unsigned(1),
            "code_mask": unsigned(32),
            "sign": unsigned(32),
            "min_normal": unsigned(32),
            "limit": by_sign,
            "beyond": by_sign,
            "infinity": by_sign,
            "infinity_overflows": unsigned(1),
            "nan": unsigned(32),
            "nan_invalid": unsigned(1),
            "bytes_log2": unsigned(2),
            **extra,
        }
    )


def has_binary(config: ArrayConfig) -> bool:
    """Whether an output format is binary."""
    return any(isinstance(f, BinaryFormat) for f in config.out_formats)


class RoundingSetup(wiring.Component):
    """Turns a tile's formats, rounding and scale into what the lanes work with.

    Members
    -------
    load : In(1)
        Take `tile`; `rounding` holds `latency` clocks later.
    tile : In(tile_layout(config))
    rounding : Out(rounding_layout(config))
    """

    load: Signal
    tile: Any
    rounding: Any

    latency = 2
    """Clocks from the one of `load` to the first in which `rounding` holds: the fields that matter are kept first."""

    def __init__(self, *, config: ArrayConfig) -> None:
        self._config = config
        super().__init__(
            {"load": In(1), "tile": In(tile_layout(config)), "rounding": Out(rounding_layout(config))},
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        rounding = payload_register(m, self.rounding)
        loaded = Signal()
        names = ("a_format", "b_format", "out_format", "rounding_mode", "overflow_ieee", "random_bits", "scale")
        tile = SimpleNamespace(
            **{name: Signal(self.tile[name].shape(), name=f"kept_{name}", reset_less=True) for name in names}
        )
        m.d.sync += loaded.eq(self.load)
        with m.If(self.load):
            m.d.sync += [getattr(tile, name).eq(self.tile[name]) for name in names]
        # What all formats and modes agree on needs no register.
        known = self._known()
        m.d.comb += [_field(self.rounding, name).eq(value) for name, value in known.items()]
        with m.If(loaded):
            mode, bits = tile.rounding_mode, tile.random_bits
            places = fraction_places(self._config)
            half = 1 << (places - 1)
            m.d.sync += [rounding.nearest.eq(mode == NEAREST_EVEN), rounding.addend.eq(0), rounding.random_mask.eq(0)]
            if places > MAX_OUTPUT_BITS:
                with m.If((mode == STOCHASTIC) | (mode == STOCHASTIC_FLOOR)):
                    m.d.sync += rounding.random_mask.eq((0xFFFF0000 >> bits)[:MAX_OUTPUT_BITS])
                with m.If(mode == STOCHASTIC):
                    m.d.sync += rounding.addend.eq(Const(half, places) >> bits)

            accumulator = self._config.accumulator
            if isinstance(accumulator, FixedAccumulator):
                lsb = Const(accumulator.lsb, signed(12))
            elif isinstance(accumulator, FloatAccumulator):
                lsb = Const(accumulator.format.lsb_exponent, signed(12))
            else:
                lsb_a = _select(tile.a_format, [f.lsb_exponent for f in self._config.a_formats])
                lsb_b = _select(tile.b_format, [f.lsb_exponent for f in self._config.b_formats])
                lsb = lsb_a + lsb_b
            top = sum_places(self._config) - 1
            floor = [_floor_exponent(f, integer_places(self._config)) for f in self._config.out_formats]
            offset = _select(tile.out_format, [top - f for f in floor])
            m.d.sync += rounding.top_exponent.eq(tile.scale + lsb + offset)
            to_infinity = tile.overflow_ieee
            with m.Switch(tile.out_format):
                for number, fmt in enumerate(self._config.out_formats):
                    with m.Default() if number == len(self._config.out_formats) - 1 else m.Case(number):
                        values = self._of_format(fmt, to_infinity, mode != TOWARD_ZERO)
                        m.d.sync += [
                            _field(rounding, name).eq(value) for name, value in values.items() if name not in known
                        ]
            if has_binary(self._config):
                binary = [n for n, fmt in enumerate(self._config.out_formats) if isinstance(fmt, BinaryFormat)]
                is_binary = tile.out_format.matches(*binary)
                m.d.sync += rounding.binary.eq(is_binary)
                m.d.sync += rounding.at_least_one.eq(is_binary & ((mode == NEAREST_EVEN) | (mode == TOWARD_ZERO)))
        return m

    def _known(self) -> dict[_FieldName, int]:
        """The fields that are the same in all formats, or in all modes."""
        formats = [self._of_format(fmt, Signal(), Signal()) for fmt in self._config.out_formats]
        first = formats[0].items()
        known = {n: int(v) for n, v in first if isinstance(v, int) and all(_is(each[n], v) for each in formats)}
        nearest = ["nearest_even" == kind for kind in self._config.roundings]
        return known | ({("nearest", None): int(nearest[0])} if len(set(nearest)) == 1 else {})

    def _of_format(self, fmt: Format, ieee: Value, away: Value) -> dict[_FieldName, Value | int]:
        """The fields that `fmt` decides. `ieee`: overflow to infinity; `away`: finite values may round that far."""
        places = integer_places(self._config)
        if isinstance(fmt, ScaledIntegerFormat):
            mask = (1 << fmt.bits) - 1
            largest, smallest = fmt.largest, fmt.smallest & mask
            values = _CODES_OF_INTEGERS | {"code_mask": mask}
            limits = [largest, -fmt.smallest]
            beyond = infinity = [largest, smallest]
        elif isinstance(fmt, BinaryFormat):
            values = _CODES_OF_INTEGERS | {"code_mask": 1}
            limits, beyond, infinity = [1, 1], [1, 0], [1, 0]
        elif isinstance(fmt, PositFormat):
            values = _CODES_OF_INTEGERS | {"code_mask": (1 << fmt.bits) - 1, "nan": fmt.nan_code, "nan_invalid": 0}
            limits = [fmt.max_code, fmt.max_code]
            beyond = [fmt.max_code, fmt.nan_code + 1]
            infinity = [Mux(ieee, fmt.nan_code, code) for code in beyond]
        elif isinstance(fmt, LogFormat):
            values = _CODES_OF_INTEGERS | {"integer": 0, "code_mask": 0, "sign": fmt.sign_code}
            limits = [fmt.max_code, fmt.max_code]
            beyond = infinity = [fmt.max_code, fmt.max_code | fmt.sign_code]
        elif isinstance(fmt, FloatFormat):
            values = {
                "integer": 0, "code_mask": 0, "nan_invalid": not fmt.has_nan, "infinity_overflows": not fmt.has_inf,
                "narrow": places - fmt.significand_bits, "gap": 0 if fmt.subnormals else fmt.mantissa_bits,
                "flat": not fmt.subnormals, "sign": fmt.sign_code, "min_normal": 1 << fmt.mantissa_bits,
                "nan": fmt.nan_code if fmt.has_nan else 0,
            }  # fmt: skip
            limits = [fmt.max_code, fmt.max_code]
            largest = [fmt.max_code, fmt.max_code | fmt.sign_code]
            over = [fmt.inf_code, fmt.inf_code | fmt.sign_code] if fmt.has_inf else [fmt.nan_code] * 2
            over = over if fmt.has_nan else largest
            beyond = [Mux(ieee & away, o, code) for o, code in zip(over, largest, strict=True)]
            infinity = over if fmt.has_inf else [Mux(ieee, o, code) for o, code in zip(over, largest, strict=True)]
        else:
            raise TypeError(f"no rounding lane for format {fmt}")
        tables = table_formats(self._config)
        if tables:
            values["table"] = isinstance(fmt, TableFormat)
            values["table_number"] = tables.index(fmt) if isinstance(fmt, TableFormat) else 0
        values["bytes_log2"] = fmt.container_bytes.bit_length() - 1
        by_sign = {"limit": limits, "beyond": beyond, "infinity": infinity}
        fields: dict[_FieldName, Value | int] = {(name, None): value for name, value in values.items()}
        return fields | {(name, sign): value[sign] for name, value in by_sign.items() for sign in (0, 1)}


def _field(rounding: Any, name: _FieldName) -> Any:
    """A field of `rounding_layout`."""
    key, sign = name
    return rounding[key] if sign is None else rounding[key][sign]


def _is(value: Value | int, constant: int) -> bool:
    return isinstance(value, int) and value == constant


def _select(number: Value, constants: list[int]) -> Value:
    """The constant at place `number`; the last one beyond them."""
    chosen: Value = Const(constants[-1])
    for position in reversed(range(len(constants) - 1)):
        if constants[position] != constants[-1]:
            chosen = Mux(number == position, Const(constants[position]), chosen)
    return chosen


def _floor_exponent(fmt: Format, places: int) -> int:
    """Exponent of the smallest number whose significand has all its bits: below, the ulp stays the same.

    Integers are floats all of whose values are subnormal: their ulp is the same everywhere, that of binary numbers 2.
    """
    if isinstance(fmt, FloatFormat):
        return fmt.min_normal_exponent
    if isinstance(fmt, TableFormat):
        return least_exponent(fmt)
    return places - 1 + (1 if isinstance(fmt, BinaryFormat) else fmt.lsb_exponent)
