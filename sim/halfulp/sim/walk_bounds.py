"""What loads and results take from rest, and at most, wherever they lie: with these tiles are passed over."""

from __future__ import annotations

import math
from array import array
from itertools import pairwise

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import BURST_BEATS
from halfulp.hw.schedule import GemmPlan, OperandPlan
from halfulp.hw.tile_walk import TileWalk
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
        # What bursts need that have fewer beats than that: a line that is one, or the last two of a longer one. Of the
        # clocks of one's beats no more is sure than what they are on the average.
        beats = (places[0] + length + bus - 1) // bus if most <= BURST_BEATS else BURST_BEATS
        short = max(0, least - beats * WHOLE_BEAT // memory.rate)
        if most > BURST_BEATS:
            short = most // BURST_BEATS * short + 2 * least
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

    def bus_cost(self, address: int, stride: int) -> int:
        """For `bus_bound`: so many clocks before the bus is done with a tile the next one has to be at the packer.

        They are those of a row through the packer and a queue, and some to spare. 0 where the bus may wait after all.
        address, stride: as in `longest_results`.
        """
        plan, given, memory = self._plan, self._given, self._memory
        config, rate, bus, size = plan.config, memory.rate, given[Given.BUS_BYTES], given[Given.C_BYTES]
        down, along = -(-plan.m // config.rows), -(-plan.n // config.columns)
        # A bus as fast as the packer gains no lead, and finds states again.
        if rate == WHOLE_BEAT or not given[Given.TILE_QUEUE] or down * along == 1:
            return 0

        def clocks(words: int) -> int:
            return words * WHOLE_BEAT // rate

        # Rows begin in these places of a bus word.
        apart = math.gcd(stride, config.columns * size, bus)
        places = range(address % apart, bus, apart)
        most_row, least_row, least_tile = 0, PAGE_BYTES, PAGE_BYTES * config.rows
        for row, column in {(0, 0), (0, along - 1), (down - 1, 0), (down - 1, along - 1)}:
            row_bytes = min(config.columns, plan.n - column * config.columns) * size
            for place in places:
                # A group takes a clock, or as many as it completes words.
                words = self._group_words(row_bytes, place)
                cost, least = sum(max(1, number) for number in words), sum(words)
                if cost > clocks(least):
                    return 0
                most_row, least_row = max(most_row, cost), min(least_row, least)
                if (row, column) != (down - 1, along - 1):  # the last tile keeps none waiting
                    least_tile = min(least_tile, min(config.rows, plan.m - row * config.rows) * least)
        # Where a push has waited for room, the bus has as many bursts before it, less the one that it has begun.
        room = clocks(WORD_DEPTH // 2 - 1)
        cost = most_row + given[Given.WORD_QUEUE] + 4
        # If pages cut each row, so many bursts have whole rows among them, or where rows are longer, whole bursts.
        awaited = min(memory.outstanding, WRITES_OUTSTANDING - 1)
        whole = (awaited - 1) // 2 if most_row <= BURST_BEATS else awaited // 3
        answered = clocks(max(awaited, whole * min(least_row, BURST_BEATS)))
        if most_row + cost > room or answered < memory.write_latency + 4:
            return 0
        # From a tile's readiness to the next one's, in any of the ways in which this waits for that tile.
        interval, capture, position = given[Given.INTERVAL], given[Given.CAPTURE], given[Given.POSITION]
        starts = given[Given.FEED] + 1 + (interval + given[Given.WORDS] if given[Given.WORDS] else 0)
        leaves = capture + max(0, config.rows - given[Given.FIRST_CAPTURE])
        ways = max(interval * plan.k, TileWalk.period, starts, leaves) + interval - 1 + max(0, position - capture)
        # And from when all results of the one before it have left the array, and are rounded.
        ways = max(ways, given[Given.ROUNDING] + given[Given.QUEUE] + cost + position + 6)
        return cost if clocks(least_tile) >= ways else 0

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

    def _group_words(self, row_bytes: int, place: int) -> list[int]:
        """Bus words that each group of a row completes, which begins in this place of a bus word."""
        bus, group_bytes = self._given[Given.BUS_BYTES], self._given[Given.GROUP_BYTES]
        ends = [min(begin + group_bytes, row_bytes) for begin in range(0, row_bytes, group_bytes)]
        # The word that a group ends in stays behind, but the last.
        done = [0, *((place + end) // bus for end in ends[:-1]), (place + row_bytes + bus - 1) // bus]
        return [after - before for before, after in pairwise(done)]

    def _longest_row(self, rows: int, row_bytes: int, stride: int, places: range) -> int:
        """By a tile that has as many bus words in each row as one can have, and what cuts at pages cost.

        places: where in a bus word rows begin.
        """
        memory = self._memory
        each = [self._group_words(row_bytes, place) for place in places]
        words = array("q", [1, *(max(of_group) for of_group in zip(*each, strict=True))])
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
