"""What the tile walk tells the sequencer: segments, the parts of K of a tile that the array works on in one go."""

from __future__ import annotations

from typing import Any

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import tile_layout

__all__ = ["TILE_CONSTANTS", "TILE_PLACE", "SegmentSignature", "block_count_bits"]

TILE_PLACE = ("row", "column", "rows", "columns", "address", "last")
"""Fields of a tile that differ from tile to tile."""

TILE_CONSTANTS = (
    "c_stride",
    "a_format",
    "b_format",
    "out_format",
    "rounding_mode",
    "overflow_ieee",
    "random_bits",
    "scale",
    "seed",
)
"""Fields of a tile that are its GEMM's."""


def block_count_bits(config: ArrayConfig) -> int:
    """Width of the counts of loaded blocks: two of them differ by less than half of its range.

    A bank holds at most `buffer_depth` blocks, of one word each.
    """
    return ceil_log2(config.buffer_depth) + 2


class SegmentSignature(wiring.Signature):
    """A segment (`schedule.Segment`), valid and ready as in a stream.

    For each operand: word, its slot's first; offset, stride, across as in `StepSignature`; block: how many blocks
    had been loaded before its first one; slack: rows may begin within a bus word; free: its slot is free afterwards.
    steps: of K, less one; blocks: of each operand, less one; starts, ends: the tile. The tile's fields follow:
    `TILE_PLACE` with the stream, `TILE_CONSTANTS` constant until the next GEMM is started.
    """

    def __init__(self, config: ArrayConfig) -> None:
        members: dict[str, Any] = {
            "valid": Out(1),
            "ready": In(1),
            "steps": Out(ceil_log2(config.max_k) or 1),
            "blocks": Out(ceil_log2(config.buffer_depth)),
            "starts": Out(1),
            "ends": Out(1),
            "parity": Out(1),
        }
        for role, element_bytes in (("a", config.a_bytes), ("b", config.b_bytes)):
            lane_bits = ceil_log2(config.bus_bytes // element_bytes)
            members |= {
                f"{role}_word": Out(ceil_log2(config.buffer_depth)),
                f"{role}_offset": Out(lane_bits),
                f"{role}_stride": Out(lane_bits),
                f"{role}_across": Out(1),
                f"{role}_block": Out(block_count_bits(config)),
                f"{role}_slack": Out(1),
                f"{role}_free": Out(1),
            }
        tile = tile_layout(config).members
        members |= {f"tile_{name}": Out(tile[name]) for name in (*TILE_PLACE, *TILE_CONSTANTS)}
        super().__init__(members)
