"""What loads and results take from rest, and at most, wherever they lie: with these tiles are passed over."""

from __future__ import annotations

import math
from array import array

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import BURST_BEATS
from halfulp.hw.schedule import GemmPlan, OperandPlan
from halfulp.hw.writer import WORD_DEPTH
from halfulp.sim.load_model import NEXT_GROUP
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, MemoryTiming, lies_alike
from halfulp.sim.walk_cells import OPERAND, Given
from halfulp.sim.walk_code import walk_code

__all__ = ["WalkBounds"]

FIRST_LINE, IN_FLIGHT = 12, 4
"""At least as many clocks as a load takes beside its bursts, and a burst beside the memory's latency and its beats."""

CUT_CLOCKS = 4
"""Clocks that a burst more costs at most, beside its beats."""

NO_WORDS = array("q", [0])
"""For `drain_tile`: rows complete the bus words that they do where they lie."""


class WalkBounds:
    """Clocks of loads and of results on one core and memory.

    Parameters
    ----------
    plan, memory
        The GEMM and its memory.
    given, rest
        Cells of `Given`, but for those that follow from bounds, and of `Now` at rest at clock 0.
    """

    def __init__(self, plan: GemmPlan, memory: MemoryTiming, given: array[int], rest: array[int]) -> None:
        self._plan, self._memory, self._given, self._rest = plan, memory, given, rest
        self._lines: dict[int, int] = {}

    def load(self, a: int, b: int) -> int:
        """Clocks of a load of these panels of A and B, below 0 for none, from rest until all is over."""
        return walk_code().load_clocks(self._given, self._rest[:], a, b)

    def results(self, rows: int, row_bytes: int, address: int) -> int:
        """Clocks from the capture of a tile with so many rows of results until these are in memory, from rest."""
        return walk_code().drain_clocks(self._given, self._rest[:], NO_WORDS, rows, row_bytes, address % PAGE_BYTES)

    def longest_load(self, operands: tuple[int, ...]) -> int:
        """At least as many clocks as a load of these operands' panels takes with slots free, and all before over.

        Of what lies alike: as many as from rest, and what the bus may have used up of its credit.
        """
        given, plan = self._given, self._plan
        saving = NEXT_GROUP + given[Given.SAVING]
        if all(
            given[Given.A_MODULUS + OPERAND * number] == 1 and plan.operands[number].size >= plan.operands[number].lanes
            for number in operands
        ):
            return saving + self.load(*(0 if number in operands else -1 for number in (0, 1)))
        lines = sum(self._line_clocks(number) for number in operands)
        return saving + FIRST_LINE + self._memory.read_latency + lines

    def _line_clocks(self, number: int) -> int:
        known = self._lines.get(number)
        if known is None:
            known = self._lines[number] = self._most_line_clocks(self._plan.operands[number])
        return known

    def _most_line_clocks(self, operand: OperandPlan) -> int:
        """At least as many clocks as the lines of a panel take from the first one's request on, wherever they lie.

        A burst costs the clocks of its beats, but no fewer than those in which as many are requested as may be in
        flight; where a line is cut no fewer than two for a burst more, and a block begins with one.
        """
        bus, memory, size, given = operand.bus_bytes, self._memory, operand.element_bytes, self._given
        steps = given[Given.SEGMENT_STEPS]
        blocks = -(-steps // given[Given.BLOCK_STEPS])
        lines, length, pitch = steps, operand.lanes * size, operand.lanes * size
        if not operand.across_k:
            lines, length, pitch = operand.lanes, steps * size, operand.lanes * operand.stride
        apart = math.gcd(operand.stride, pitch, bus)
        places = range(operand.address % apart, bus, apart)
        most = (places[-1] + length + bus - 1) // bus
        period = bus // math.gcd(operand.stride, bus)
        words = walk_code().most_words(places[0], apart, operand.stride % PAGE_BYTES, lines, length, bus, period)
        # A page's end cuts one line at most, where they do not overlap.
        cuts = lines * (length // PAGE_BYTES + 1)
        if operand.stride >= length:
            cuts = min(cuts, lines * operand.stride // PAGE_BYTES + 1)
        flying = min(given[Given.READS], memory.outstanding)

        def clocks(beats: int) -> int:
            return -(-beats * WHOLE_BEAT // memory.rate)

        least = -(-(memory.read_latency + IN_FLIGHT + clocks(min(most, BURST_BEATS))) // flying)
        # What bursts need that have fewer beats than that: a line that is one, or the last two of a longer one.
        if most <= BURST_BEATS:
            short = max(0, least - clocks((places[0] + length + bus - 1) // bus))
        else:
            short = most // BURST_BEATS * max(0, least - clocks(BURST_BEATS)) + 2 * least
        return clocks(words) + lines * short + cuts * max(2, least) + blocks

    def tile_clocks(self, steps: int) -> tuple[int, int]:
        """Clocks of a tile of so many steps, at least, on the average of many; and how many less those of some may be.

        A tile is accepted when the last but one has started to leave, that is after the fourth before it has left: of
        what results delay, as many as five tiles make up. The drain reads a group of them a clock, and no more are
        under way than it and the writer hold.
        """
        given, config, plan, rate = self._given, self._plan.config, self._plan, self._memory.rate
        bus, size = given[Given.BUS_BYTES], given[Given.C_BYTES]
        rows, row_bytes = (plan.m - 1) % config.rows + 1, ((plan.n - 1) % config.columns + 1) * size
        groups = rows * -(-row_bytes // given[Given.GROUP_BYTES])
        beats = rows * -(-row_bytes // bus)
        clocks = max(steps, groups, beats * WHOLE_BEAT // rate)
        if clocks == steps:
            return steps, 0
        held = WORD_DEPTH + (given[Given.GROUPS] + 2) * (given[Given.GROUP_BYTES] // bus + 2)
        return clocks, 5 * clocks + held * WHOLE_BEAT // rate

    def longest_results(self, rows: int, row_bytes: int, address: int, stride: int) -> int:
        """At least as many clocks as tiles up to this size take from capture to the last response, from rest.

        address, stride: where the first row of results of the first tile goes, and bytes to the next row.
        """
        config, bus = self._plan.config, self._given[Given.BUS_BYTES]
        pitch = config.columns * self._given[Given.C_BYTES]
        if lies_alike(address, stride, pitch, bus, pitch):
            return self.results(rows, row_bytes, address)
        apart = math.gcd(stride, pitch, bus)
        return self._longest_row(rows, row_bytes, stride, range(address % apart, bus, apart))

    def _longest_row(self, rows: int, row_bytes: int, stride: int, places: range) -> int:
        """By a tile that has as many bus words in each row as one can have, and what cuts at pages cost.

        places: where in a bus word rows begin.
        """
        memory, bus, group_bytes = self._memory, self._given[Given.BUS_BYTES], self._given[Given.GROUP_BYTES]
        words = array("q", [1])
        for begin in range(0, row_bytes, group_bytes):
            end = min(begin + group_bytes, row_bytes)
            more = bus - 1 if end == row_bytes else 0  # the word that a group ends in stays behind, but the last
            words.append(max((place + end + more) // bus - (place + begin) // bus for place in places))
        beats = sum(words[1:])
        uncut = walk_code().drain_clocks(self._given, self._rest[:], words, rows, row_bytes, 0)
        bursts, beats = -(-beats // BURST_BEATS), min(beats, BURST_BEATS)
        # A page's end cuts one row at most, where they do not overlap; each cut makes a burst more.
        cuts = min(rows, rows * stride // PAGE_BYTES + 1) if stride >= row_bytes else rows
        cost = -(-beats * WHOLE_BEAT // memory.rate) + CUT_CLOCKS
        # Where the bursts that may be awaited take less time than the memory, each burst more may cost that.
        awaited = min(memory.outstanding, WRITES_OUTSTANDING) - 2
        if rows * bursts + cuts >= awaited and (awaited - cuts) * (beats - 1) < memory.write_latency + CUT_CLOCKS:
            cost += memory.write_latency
        return uncut + cuts * cost
