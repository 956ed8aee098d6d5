"""Small cores that several files of tests simulate: Verilating one takes up to a minute, and each is built once."""

from __future__ import annotations

from halfulp.hw.config import ArrayConfig

__all__ = ["BLOCKS", "COMPACT", "EXACT", "IN_TURN", "as_compact"]


def as_compact(config: ArrayConfig) -> ArrayConfig:
    """The same core, built from as few cells as there is a way to."""
    return config.replace(compact=True, counters=False, queue_depth=1)


EXACT = ArrayConfig(
    rows=2,
    columns=4,
    a_formats=("float8_e4m3fn", "float8_e5m2", "int8"),
    b_formats=("float8_e4m3fn", "int8"),
    out_formats=("float32", "bfloat16", "float8_e4m3fn", "int8"),
    lanes=2,
    buffer_depth=64,
    reads_outstanding=4,
)
"""Exact sums, and results that keep the bus busier than operands do.

Small buffers: panels that stay, panels that are loaded in pieces from 129 steps of K on, and bubbles in the array.
"""

IN_TURN = ArrayConfig(
    rows=3,
    columns=2,
    interleave=3,
    lanes=1,
    buffer_depth=64,
    accumulator="e6m5:stochastic:13",
    a_formats=("e4m3", "e5m2"),
    b_formats=("e5m2",),
    out_formats=("float32", "e4m3"),
)
"""Sums rounded at random at each step, three of them in turn."""

BLOCKS = ArrayConfig(
    rows=2,
    columns=1,
    lanes=1,
    buffer_depth=64,
    a_formats=("mxint8", "mxfp4_e2m1"),
    b_formats=("mxint8",),
    out_formats=("float32", "bfloat16"),
    accumulator="e6m5:stochastic:13",
    roundings=("nearest_even", "stochastic"),
)
"""Block-scaled operands, and sums rounded at random at each block."""

COMPACT = ArrayConfig(
    rows=2,
    columns=4,
    lanes=1,
    bus_width=32,
    buffer_depth=64,
    reads_outstanding=1,
    a_formats="int8",
    b_formats="int8",
    out_formats=("int32", "bfloat16", "int8"),
    accumulator="exact:1024",
    roundings="nearest_even",
    queue_depth=1,
    counters=False,
    compact=True,
)
"""As small as it gets, but for more results a tile than the drain holds positions: tiles wait for those before."""
