"""When each block of operands has arrived: the clocks of `Loader`, `BurstReader` and a memory.

For `halfulp.sim.scalar_code`, which compiles it.
"""

from __future__ import annotations

from halfulp.hw.config import BURST_BEATS
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT
from halfulp.sim.walk_cells import ENDS_DEPTH, NEVER, OPERAND, Cells, Given, Now

__all__ = [
    "FIRST_BLOCK",
    "NEXT_GROUP",
    "NEXT_PANEL",
    "free_slot",
    "load_clocks",
    "load_over",
    "load_panels",
    "most_words",
]

FIRST_BLOCK = 7
"""Clocks from a descriptor's coming to a core at rest to the loader's first block: planner 3, loader 4."""

NEXT_PANEL, NEXT_GROUP = 2, 4
"""Clocks that the loader takes more for a block with which a panel (or pair), or a group, begins."""


def free_slot(p: Cells, s: Cells, operand: int, clock: int) -> None:
    """A slot of an operand is free after the step issued in this clock."""
    place = OPERAND * operand
    freed = s[Now.FREED_SLOTS + operand]
    s[p[Given.A_SLOTS_AT + place] + (freed & (p[Given.A_SLOTS + place] - 1))] = clock + p[Given.A_LANES + place]
    s[Now.FREED_SLOTS + operand] = freed + 1


def load_over(s: Cells) -> int:
    """From which clock on the loader and the bus are at rest, if nothing else is loaded."""
    return max(s[Now.LOADER], s[Now.ACCEPTED], s[Now.BEGUN], s[Now.REQUESTED], s[Now.READ_COUNTED], s[Now.LAST_END])


def load_clocks(p: Cells, s: Cells, a: int, b: int) -> int:
    """Clocks that a load of panels' whole K takes, from rest at clock 0 until all is over."""
    load_panels(p, s, a, b, 0, p[Given.K], 0)
    return load_over(s)


def most_words(place: int, apart: int, stride: int, lines: int, length: int, bus_bytes: int, period: int) -> int:
    """The most bus words that lines of `length` bytes may be, `stride` bytes apart.

    The first one begins so many bytes into a bus word as `place`, or a multiple of `apart` more. period: of which so
    many lines begin alike again.
    """
    most = 0
    for begin in range(place, bus_bytes, apart):
        words = 0
        for line in range(min(period, lines)):
            offset = (begin + line * stride) & (bus_bytes - 1)
            words += ((offset + length + bus_bytes - 1) // bus_bytes) * ((lines - line - 1) // period + 1)
        most = max(most, words)
    return most


def load_panels(p: Cells, s: Cells, a: int, b: int, k: int, steps: int, pause: int) -> None:
    """Load the steps k … k + steps − 1 of panels of A and B, block by block in turn, which begin and end with slots.

    p, s: cells of `Given` and `Now`. a, b: numbers of panels, below 0 for none; pause: clocks that the loader takes
    more for the first block.
    """
    bus_shift, block_steps = p[Given.BUS_SHIFT], p[Given.BLOCK_STEPS]
    clock = s[Now.LOADER] + pause
    started, latest = NEVER, NEVER
    for block in range(0, steps, block_steps):
        count = min(block_steps, steps - block)
        for operand in range(2):
            panel = a
            if operand:
                panel = b
            if panel < 0:
                continue
            at = OPERAND * operand
            if block == 0:
                # The loader sees a free slot two clocks after it is told of it.
                taken = s[Now.TAKEN_SLOTS + operand]
                clock = max(clock, s[p[Given.A_SLOTS_AT + at] + (taken & (p[Given.A_SLOTS + at] - 1))] + 2)
                s[Now.TAKEN_SLOTS + operand] = taken + 1
            lanes, stride, size = p[Given.A_LANES + at], p[Given.A_STRIDE + at], p[Given.A_BYTES + at]
            first = panel * lanes
            lanes = min(lanes, p[Given.A_SIZE + at] - first)
            address = p[Given.A_ADDRESS + at]
            if p[Given.A_ACROSS_K + at]:
                clock = _load_lines(
                    p, s, clock, address + (k + block) * stride + first * size, stride, count, lanes * size, 0
                )
            else:
                # But for the last block of a slot, which takes the word that a row runs into, a row is as many words
                # as steps.
                whole = 0
                if block + count < steps:
                    whole = (count * size) >> bus_shift
                clock = _load_lines(
                    p, s, clock, address + first * stride + (k + block) * size, stride, lanes, count * size, whole
                )
            come = s[Now.LAST_END]
            if block == 0:
                started = max(started, come)
            latest = max(latest, come - p[Given.INTERVAL] * max(0, block - p[Given.A_SLACK + at]))
    s[Now.LOADER], s[Now.ARRIVED], s[Now.LATEST] = clock, started, latest


def _load_lines(
    p: Cells, s: Cells, offered: int, address: int, stride: int, lines: int, length: int, whole: int
) -> int:
    """Request the lines of a block, to which the loader comes in this clock; return when it comes to the next one.

    address, stride: of the first one, and bytes to the next; length: bytes of each; whole: bus words of each, where
    they do not follow from its bytes.
    """
    bus_bytes, bus_shift, rate = p[Given.BUS_BYTES], p[Given.BUS_SHIFT], p[Given.RATE]
    depth, outstanding, latency = p[Given.READS], p[Given.OUTSTANDING], p[Given.READ_LATENCY]
    accepted, accepted_before = s[Now.ACCEPTED], s[Now.ACCEPTED_BEFORE]
    begun, requested = s[Now.BEGUN], s[Now.REQUESTED]
    bursts, end, moved = s[Now.BURSTS_READ], s[Now.LAST_END], s[Now.READ_BEATS]
    saved, counted = s[Now.READ_SAVED], s[Now.READ_COUNTED]
    for line in range(lines):
        place = (address + line * stride) & (PAGE_BYTES - 1)
        word = (PAGE_BYTES - place + bus_bytes - 1) >> bus_shift
        beats = whole
        if not whole:
            beats = ((place & (bus_bytes - 1)) + length + bus_bytes - 1) >> bus_shift
        moved += beats
        # A line is registered when the one before has been taken, or where two can wait, a clock after the one before
        # that has. It is taken when the one before is all begun.
        room = accepted
        if p[Given.LINE_QUEUE]:
            room = accepted_before + 1
        offered = max(offered + 1, room)
        accepted_before = accepted
        accepted = max(offered + 1, begun)
        begun = accepted - 1
        while beats > 0:
            burst = min(beats, BURST_BEATS, word)
            beats -= burst
            word = BURST_BEATS
            begun = max(requested, begun + 2, s[Now.END_RING + ((bursts - depth) & (ENDS_DEPTH - 1))] + 1)
            requested = max(begun + 1, s[Now.END_RING + ((bursts - outstanding) & (ENDS_DEPTH - 1))] + 1)
            end = max(requested + latency, end + 1)
            if rate == WHOLE_BEAT:
                end += burst - 1
            else:
                # While beats wait, nothing is saved up, so only the sum matters.
                saved = min(saved + rate * (end - counted), p[Given.MOST_SAVED]) - burst * WHOLE_BEAT
                if saved < 0:
                    wait = (rate - 1 - saved) // rate
                    saved, end = saved + rate * wait, end + wait
                counted = end
            s[Now.END_RING + (bursts & (ENDS_DEPTH - 1))] = end
            bursts += 1
    s[Now.ACCEPTED], s[Now.ACCEPTED_BEFORE] = accepted, accepted_before
    s[Now.BEGUN], s[Now.REQUESTED] = begun, requested
    s[Now.BURSTS_READ], s[Now.LAST_END], s[Now.READ_BEATS] = bursts, end, moved
    s[Now.READ_SAVED], s[Now.READ_COUNTED] = saved, counted
    return offered + 1
