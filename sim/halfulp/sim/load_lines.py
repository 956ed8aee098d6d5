"""The lines of which panels are loaded: bus words of each, where pages' ends cut them, and sums of both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from halfulp.sim.memory_timing import PAGE_BYTES
from halfulp.sim.traffic import line_words

__all__ = ["Lines", "Panel", "PanelLines"]

SELDOM = 8
"""A line cut in two delays none behind it if so many more come before the next one is."""


class Panel(NamedTuple):
    """What decides the clocks of the part of a panel that one slot holds.

    across_k, element_bytes, slack, lanes: as in `OperandPlan`; address, stride: reduced to a pattern; steps: of K.
    """

    across_k: bool
    element_bytes: int
    slack: int
    lanes: int
    address: int
    stride: int
    steps: int

    def lines(self, k: int, block_steps: int, bus_bytes: int) -> Lines:
        """Those of the block of so many steps from step k on."""
        steps = min(block_steps, self.steps - k)
        if self.across_k:
            length = self.lanes * self.element_bytes
            return Lines(self.address + k * self.stride, self.stride, steps, length, 0, bus_bytes)
        length = steps * self.element_bytes
        # But for the last block of a slot, which takes the word that a row runs into, a row is as many words as steps.
        whole = length // bus_bytes if k + steps < self.steps else 0
        return Lines(self.address + k * self.element_bytes, self.stride, self.lanes, length, whole, bus_bytes)


class Lines(NamedTuple):
    """Lines of a block: address of the first one and bytes to the next, how many lines of how many bytes.

    whole: bus words of each, where they do not follow from its bytes, else 0; bus_bytes: as in `ArrayConfig`.
    """

    address: int
    stride: int
    number: int
    length: int
    whole: int
    bus_bytes: int

    def part(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Of lines from number `begin` on: bus words from the first one to the page's end, and its beats."""
        at, stride, _, length, whole, bus = self
        if not stride:
            return self._line(at) * (end - begin)
        reach = length + bus - 1
        return [
            ((PAGE_BYTES - place % PAGE_BYTES + bus - 1) // bus, whole or (place % bus + reach) // bus)
            for place in range(at + begin * stride, at + end * stride, stride)
        ]

    def _line(self, at: int) -> list[tuple[int, int]]:
        bus = self.bus_bytes
        words = (PAGE_BYTES - at % PAGE_BYTES + bus - 1) // bus
        return [(words, self.whole or (at % bus + self.length + bus - 1) // bus)]

    @property
    def beats(self) -> int:
        """Bus words of all lines."""
        if self.whole:
            return self.whole * self.number
        return line_words(self.address, self.stride, self.number, self.length, self.length, self.bus_bytes)

    @property
    def most(self) -> int:
        """At least as many bus words as one line has."""
        apart = math.gcd(self.stride, self.bus_bytes)
        offset = self.address % apart + self.bus_bytes - apart
        return self.whole or (offset + self.length + self.bus_bytes - 1) // self.bus_bytes

    @property
    def is_seldom_short(self) -> bool:
        """Whether no two lines that follow each other have a single bus word each."""
        step = self.stride % self.bus_bytes
        most = self.bus_bytes - self.length
        return self.whole > 1 or most < min(step, self.bus_bytes - step)

    @property
    def cuts(self) -> Sequence[int]:
        """Numbers of the lines that a page's end cuts."""
        at, stride, number, length, whole, bus = self
        most = PAGE_BYTES + bus - 1 - whole * bus if whole else PAGE_BYTES - length
        if not stride:
            return range(number if at % PAGE_BYTES > most else 0)
        return [line for line in range(number) if (at + line * stride) % PAGE_BYTES > most]


class PanelLines:
    """The lines of one panel, or of two whose blocks take turns.

    Attributes
    ----------
    bounds, beats
        Number of the line behind each block, and bus words until there.
    least, most
        No line has less or more bus words.
    is_seldom_short
        Whether no two lines that follow each other in a block have a single bus word each.
    is_seldom_cut
        Whether lines that are cut at pages' ends lie apart.
    """

    def __init__(self, panels: Sequence[Panel], block_steps: int, bus_bytes: int) -> None:
        steps = range(0, panels[0].steps, block_steps)
        self._blocks = [panel.lines(k, block_steps, bus_bytes) for k in steps for panel in panels]
        self.bounds = list(itertools.accumulate(block.number for block in self._blocks))
        self.beats = list(itertools.accumulate(block.beats for block in self._blocks))
        self.least = min(block.whole or (block.length - 1) // bus_bytes + 1 for block in self._blocks)
        self.is_seldom_short = all(block.is_seldom_short for block in self._blocks)
        self.most = max(block.most for block in self._blocks)
        cuts = [
            bound - block.number + line
            for bound, block in zip(self.bounds, self._blocks, strict=True)
            for line in block.cuts
        ]
        self.is_seldom_cut = all(after - cut >= SELDOM for cut, after in itertools.pairwise(cuts))

    def part(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Of lines from number `begin` on: bus words from the first one to the page's end, and its beats."""
        lines: list[tuple[int, int]] = []
        for bound, block in zip(self.bounds, self._blocks, strict=True):
            first = bound - block.number
            if first >= end:
                break
            if begin < bound:
                lines += block.part(max(begin - first, 0), min(end - first, block.number))
        return lines
