"""How many bus words a GEMM moves, by arithmetic: those of the bursts in `GemmPlan.bursts`, and of the results."""

from __future__ import annotations

import math
from collections.abc import Iterator

from halfulp.hw.schedule import GemmPlan

__all__ = ["line_words", "words_read", "words_written"]


def words_read(plan: GemmPlan) -> int:
    """Bus words of all loads of a GEMM."""
    groups = sum(1 for _ in plan.groups())
    total = 0
    for number, operand in enumerate(plan.operands):
        size, length = operand.element_bytes, plan.k * operand.element_bytes
        lines, part = operand.size, plan.segment_steps * size
        if operand.across_k:
            lines, length, part = plan.k, operand.size * size, operand.lanes * size
        times = groups
        if number == plan.resident:
            # Where K is cut in chunks, a panel is loaded anew for each tile.
            streamed = plan.operands[1 - number]
            times = math.ceil(streamed.size / streamed.lanes) if plan.chunked else 1
        total += times * line_words(operand.address, operand.stride, lines, length, part, operand.bus_bytes)
    return total


def words_written(plan: GemmPlan, *, out_bytes: int, c_address: int, c_stride: int) -> int:
    """Bus words of all results of a GEMM, of `out_bytes` bytes each, its first row at `c_address`."""
    config = plan.config
    part = config.columns * out_bytes
    return line_words(c_address, c_stride, plan.m, plan.n * out_bytes, part, config.bus_bytes)


def line_words(address: int, stride: int, lines: int, length: int, part: int, bus_bytes: int) -> int:
    """Bus words of so many lines of `length` bytes, `stride` bytes apart, each of which is moved in parts.

    part: bytes of all parts of a line but the last, which is what is left; a bus word that two of them share counts
    twice.
    """
    whole, rest = divmod(length, part)
    parts = list(_places(0, part, whole, bus_bytes))
    total = 0
    for begin, times in _places(address, stride, lines, bus_bytes):
        words = sum(count * _words(begin + at, part, bus_bytes) for at, count in parts)
        if rest:
            words += _words(begin + whole * part, rest, bus_bytes)
        total += times * words
    return total


def _places(first: int, step: int, count: int, bus_bytes: int) -> Iterator[tuple[int, int]]:
    """Where in a bus word things lie that are so many bytes apart, and how many of them."""
    period = bus_bytes // math.gcd(step, bus_bytes)
    for number in range(min(period, count)):
        yield (first + number * step) % bus_bytes, (count - number - 1) // period + 1


def _words(address: int, length: int, bus_bytes: int) -> int:
    return (address % bus_bytes + length + bus_bytes - 1) // bus_bytes
