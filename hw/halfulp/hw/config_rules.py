"""What a core's configuration has to obey: the limits of its parameters, checked when an `ArrayConfig` is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halfulp.hw.packing import FineShifts, Packing
from halfulp.numerics.accumulators import MAX_ACCUMULATOR_BITS, ExactAccumulator, FixedAccumulator, FloatAccumulator
from halfulp.numerics.block_formats import BlockFormat
from halfulp.numerics.formats import FixedPointFormat, FloatFormat, Format, ScaledIntegerFormat
from halfulp.numerics.names import unknown_name
from halfulp.numerics.rounding import KINDS

if TYPE_CHECKING:
    from halfulp.hw.config import ArrayConfig

__all__ = [
    "BLOCK_SCALES",
    "BURST_BEATS",
    "MAX_FORMATS",
    "MAX_INTEGER_BITS",
    "MAX_INTERLEAVE",
    "check_arithmetic",
    "check_compact",
    "check_packing",
    "check_sizes",
    "format_names",
]

BURST_BEATS = 16
"""Longest AXI burst that a core issues; also the length, in bus words, of the blocks in which operands are loaded."""

MAX_FORMATS = 8
LANES = (1, 2, 4, 8)

MAX_INTEGER_BITS = 16
"""Widest integer or fixed-point operand: what one multiplier of a DSP block takes."""

MAX_INTERLEAVE = 6
"""Most clocks that the adder of a float accumulator is cut into."""

BLOCK_SCALES = ("e8m0", "e4m3")
"""What scales of blocks are, by their numbers in the registers."""

MAX_BLOCK = 4096


def format_names(formats: Sequence[Format | BlockFormat]) -> str:
    """The formats' names, as a message lists them."""
    return ", ".join(f.name for f in formats)


def check_sizes(config: ArrayConfig) -> None:
    """Raise where a number of the configuration is none, or outside what is built."""
    sizes = ("rows", "columns", "lanes", "bus_width", "buffer_depth", "queue_depth", "reads_outstanding")
    for f in (*sizes, "address_bits", "size_bits", "interleave"):
        value = getattr(config, f)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{f} must be an integer, not {value!r}")
    for f in ("rows", "columns"):
        if not 1 <= getattr(config, f) <= 64:
            raise ValueError(f"{f} must be 1 to 64, not {getattr(config, f)}")
    if config.lanes not in LANES or config.columns % config.lanes:
        fitting = " or ".join(str(lanes) for lanes in LANES if config.columns % lanes == 0)
        raise ValueError(
            f"lanes must be 1, 2, 4 or 8 and divide columns = {config.columns}, not {config.lanes} (4 unless given): "
            f"set lanes to {fitting}"
        )
    if config.bus_width not in (32, 64, 128):
        raise ValueError(f"bus_width must be 32, 64 or 128, not {config.bus_width}")
    depth = config.buffer_depth
    if depth & (depth - 1) or not 4 * BURST_BEATS <= depth <= 1 << 16:
        raise ValueError(f"buffer_depth must be a power of two from {4 * BURST_BEATS} to 65536 words, not {depth}")
    if not 1 <= config.queue_depth <= 64 or config.queue_depth & (config.queue_depth - 1):
        raise ValueError(f"queue_depth must be a power of two from 1 to 64, not {config.queue_depth}")
    reads, least = config.reads_outstanding, 1 if config.compact else 2
    if not least <= reads <= 64 or reads & (reads - 1):
        raise ValueError(f"reads_outstanding must be a power of two from {least} to 64, not {reads}")
    if not 12 <= config.address_bits <= 64:
        raise ValueError(f"address_bits must be 12 to 64, not {config.address_bits}")
    if not 8 <= config.size_bits <= 32:
        raise ValueError(f"size_bits must be 8 to 32, not {config.size_bits}")


def check_arithmetic(config: ArrayConfig) -> None:
    """Raise where formats, rounding modes, accumulator, blocks and interleaving do not go together."""
    for kind in config.roundings:
        if kind not in KINDS:
            raise unknown_name("rounding", kind, KINDS)
    if not config.roundings or len(set(config.roundings)) != len(config.roundings):
        raise ValueError(f"roundings must be one or more different modes, not {config.roundings}")
    for fmt in (*config.a_formats, *config.b_formats):
        if isinstance(fmt, ScaledIntegerFormat) and fmt.bits > MAX_INTEGER_BITS:
            raise ValueError(
                f"integer operands of a core have at most {MAX_INTEGER_BITS} bits, not {fmt.bits} as {fmt}"
            )
    _check_blocks(config)
    if isinstance(config.accumulator, FloatAccumulator):
        if not 1 <= config.interleave <= MAX_INTERLEAVE or config.rows % config.interleave:
            raise ValueError(
                f"interleave must be 1 to {MAX_INTERLEAVE} and divide rows = {config.rows}, not {config.interleave}"
            )
        return
    is_fixed = isinstance(config.accumulator, FixedAccumulator)
    if not is_fixed and (not isinstance(config.accumulator, ExactAccumulator) or config.accumulator.max_k is None):
        raise ValueError(
            f"the accumulator of a core must be exact:MAX_K, fixed:WIDTH:LSB or a float, not {config.accumulator}"
        )
    if config.interleave != 1:
        raise ValueError(
            f"interleave must be 1 with accumulator {config.accumulator}, which adds in one clock, "
            f"not {config.interleave}"
        )
    if config.accumulator_bits > MAX_ACCUMULATOR_BITS:
        raise ValueError(
            f"an exact accumulator of {format_names(config.a_formats)} × {format_names(config.b_formats)}, "
            f"max_k {config.max_k}, needs {config.accumulator_bits} bits; at most {MAX_ACCUMULATOR_BITS} are built: "
            "take narrower formats, or the emulator"
        )


def _check_blocks(config: ArrayConfig) -> None:
    if isinstance(config.block, bool) or not isinstance(config.block, int):
        raise TypeError(f"block must be an integer, not {config.block!r}")
    if config.block_scale not in BLOCK_SCALES:
        raise ValueError(f"block_scale must be {' or '.join(BLOCK_SCALES)}, not {config.block_scale!r}")
    if not config.block:
        if config.block_scale != BLOCK_SCALES[0]:
            raise ValueError(f"block_scale {config.block_scale} is of block-scaled operands, and block is 0")
        return
    if not 1 <= config.block <= MAX_BLOCK:
        raise ValueError(f"block must be 1 to {MAX_BLOCK} elements, or 0 for plain operands, not {config.block}")
    for fmt in (*config.a_formats, *config.b_formats):
        if not isinstance(fmt, (FloatFormat, FixedPointFormat)):
            raise ValueError(f"elements of blocks must be of a float or fixed-point format, not {fmt}")
    if not isinstance(config.accumulator, FloatAccumulator):
        raise ValueError(f"blocks are added in a float accumulator, not in {config.accumulator}")
    if config.interleave != 1:
        raise ValueError(f"interleave must be 1 with block-scaled operands, not {config.interleave}")
    if config.block_sum_bits > MAX_ACCUMULATOR_BITS:
        raise ValueError(
            f"the exact sum of a block of {config.block} products of {format_names(config.a_formats)} × "
            f"{format_names(config.b_formats)} needs {config.block_sum_bits} bits; "
            f"at most {MAX_ACCUMULATOR_BITS} are built"
        )


def check_packing(config: ArrayConfig) -> None:
    """Raise where multipliers cannot be shared, or shift, as asked."""
    for name in ("pack_multipliers", "shift_in_multipliers"):
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be true or false, not {value!r}")
        if value and not isinstance(config.accumulator, ExactAccumulator):
            raise ValueError(f"{name} is for exact accumulators, not {config.accumulator}")
    if config.pack_multipliers:
        if config.rows % 2:
            raise ValueError(f"rows must be even with pack_multipliers, not {config.rows}")
        Packing.of(config.a_formats, config.b_formats)
    if config.shift_in_multipliers:
        FineShifts.of(config.a_formats, config.b_formats)


def check_compact(config: ArrayConfig) -> None:
    """Raise where a core cannot be as small as asked."""
    for name in ("counters", "compact"):
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be true or false, not {value!r}")
    if config.compact and config.counters:
        raise ValueError("counters must be false with compact, not true")
    if config.compact and config.queue_depth != 1:
        raise ValueError(f"queue_depth must be 1 with compact, not {config.queue_depth}")
