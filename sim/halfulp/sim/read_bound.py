"""Whether the bus is sure to wait for no request of operands: then words count, and not how pages' ends cut lines.

Where K is cut in chunks, both operands' are loaded for each tile, and the bus may be busy from the first tile on: how
many words there are then tells when the last tiles' come, and no state has to come again.

The bus never waits for a burst that is requested a latency before its turn. A request waits for the one before it, for
the burst that ends when as many are in flight as may be, or for a slot. So by how much it comes early falls where a
burst has fewer beats than clocks between requests: where a line is cut, at a block's beginning, at a panel's. And it
grows with all others, until as many bursts are in flight as may be. `read_bound` has the most that is lost until it is
made up for. A slot is there in time, for the array has done with a segment soon after its last block has come.

The loader's other clocks are left as they were before all that is passed over: those that are earlier count no more
while the bus is busy, and in the course of the last tile but one they become what they are.
"""

from __future__ import annotations

from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS
from halfulp.hw.schedule import GemmPlan, OperandPlan
from halfulp.hw.tile_walk import TileWalk
from halfulp.sim.core_clocks import core_clocks
from halfulp.sim.load_model import NEXT_GROUP
from halfulp.sim.memory_timing import PAGE_BYTES, WHOLE_BEAT, MemoryTiming, lies_alike
from halfulp.sim.traffic import line_words, words_read
from halfulp.sim.walk_cells import ENDS_DEPTH, OPERAND, Cells, Given, Now

__all__ = ["ReadBound", "cuts_cost_nothing", "pass_loads", "read_bound"]

ON_TIME = 12
"""More than the clocks from a free slot, or the loader's next block, to its first request; and to a step."""

FEWEST_TILES = 4
"""So few are followed."""

FEWEST_SLOTS = 3
"""Of two loads behind each other, one is of a whole chunk: with so many slots, one is in between."""


class ReadBound(NamedTuple):
    """What `pass_loads` has to find.

    lead: clocks by which requests come early, 0 if none suffice; late: by which the array's last step comes after a
    segment's last beat at most; words: of all loads but those of the last two tiles.
    """

    lead: int
    late: int
    words: int


class _Lines(NamedTuple):
    """An operand's lines in a block.

    loss: the most that one of several bursts loses, gain: what the block gains at least, in 2^-16 words; window: bus
    words that come at least while as many bursts are in flight as may be.
    """

    loss: int
    gain: int
    window: int


def read_bound(plan: GemmPlan, memory: MemoryTiming, slots: tuple[int, int]) -> ReadBound:
    """What can be said of a GEMM whose K is cut in chunks, and whose results never keep a tile waiting.

    slots: of both operands.
    """
    none = ReadBound(0, 0, 0)
    config, core, rate, operands = plan.config, core_clocks(plan.config), memory.rate, plan.operands
    flying, block, steps = min(core.reads, memory.outstanding), core.block_steps, plan.segment_steps
    down, along = (-(-operand.size // operand.lanes) for operand in operands)
    if min(slots) < FEWEST_SLOTS or down * along < FEWEST_TILES:
        return none
    # Panels may be short at the end, so these are all kinds of tiles but the last one.
    sizes = [(operand.lanes, (operand.size - 1) % operand.lanes + 1) for operand in operands]
    kinds = [(0, 0)] * (down > 1 and along > 1) + [(1, 0)] * (along > 1) + [(0, 1)] * (down > 1)
    pairs = []
    for kind in kinds:
        pair = []
        for operand, lanes, short in zip(operands, sizes, kind, strict=True):
            lines = _lines(plan, operand, lanes[short], rate, flying)
            if lines is None:
                return none
            pair.append(lines)
        pairs.append(pair)

    # Lost by two blocks; by the last ones of a tile, which may be of a few steps, too; and by a panel's beginning.
    lost = max(a.loss + b.loss for a, b in pairs) + 2 * rate
    others = (NEXT_GROUP + 1) * rate
    if plan.k % block:
        others += lost + sum(max(0, 3 * rate - 2 * WHOLE_BEAT) * operand.lanes for operand in operands)
    gain = min(a.gain + b.gain for a, b in pairs)
    # With a full window, a burst is requested two clocks after another one's end; a beat may come a clock early.
    window = min(min(a.window, b.window) for a, b in pairs) * WHOLE_BEAT
    window -= (memory.read_latency + 2 + (rate < WHOLE_BEAT)) * rate
    if window < 2 * lost + others or gain < lost + others:
        return none
    # Within the last but one tile the window is full once, and the loader's clocks are known again.
    full = flying * BURST_BEATS * WHOLE_BEAT
    if (plan.k // block - 3) * (gain - lost) < full:
        return none
    lead = -(-(lost + others) // rate)

    # The array: steps of a block come no faster than its words, and what waits is soon made up for.
    least = sum(_fewest(operand, block) for operand in operands)
    block_clocks = least * WHOLE_BEAT // rate
    segment_clocks, segments = block_clocks * (steps // block), plan.k // steps
    interval, slack = core.interval, max(operand.slack for operand in operands)
    begins = TileWalk.period + core.feed + 1 + core.words + ON_TIME
    short_segment = begins + interval * (block + 2)
    late = ON_TIME + interval * (2 * block + slack + 2) + short_segment
    free = late + max(operand.lanes for operand in operands) + ON_TIME + memory.read_latency + lead + full // rate
    leaves = late + core.capture + config.rows + core.feed + ON_TIME
    if (
        block_clocks < interval * block
        or segment_clocks < max(free, begins + interval * (steps + 2) + short_segment)
        or segment_clocks * segments < leaves + interval * plan.k + begins * (segments + 1)
    ):
        return none
    # The streamed operand's panels follow each other, if there are several.
    is_row_before = down > 1 if plan.resident else along == 1
    last_but_one = (down - 2, along - 1) if is_row_before else (down - 1, along - 2)
    tiles = last_but_one, (down - 1, along - 1)
    left = sum(_panel_words(plan, number, panel) for tile in tiles for number, panel in enumerate(tile))
    return ReadBound(lead, late, words_read(plan) - left)


def cuts_cost_nothing(plan: GemmPlan, memory: MemoryTiming) -> bool:
    """Whether the bus waits for slots, but never for a request, wherever a page's end cuts lines.

    So it is where a bus word takes two clocks or more, as a burst's request does, a panel makes up for what its
    beginning costs, and as many bursts of a word as may be in flight take longer than that and the latency.
    """
    core, rate = core_clocks(plan.config), memory.rate
    flying = min(core.reads, memory.outstanding)
    clocks = memory.read_latency + 3 + 2 * NEXT_GROUP
    return 2 * rate <= WHOLE_BEAT and plan.k >= 2 * core.block_steps and flying * WHOLE_BEAT >= clocks * rate


def _panel_words(plan: GemmPlan, number: int, panel: int) -> int:
    """Bus words of a panel."""
    operand = plan.operands[number]
    first, size = panel * operand.lanes, operand.element_bytes
    lanes = min(operand.lanes, operand.size - first)
    if operand.across_k:
        place = operand.address + first * size
        return line_words(place, operand.stride, plan.k, lanes * size, lanes * size, operand.bus_bytes)
    place, part = operand.address + first * operand.stride, plan.segment_steps * size
    return line_words(place, operand.stride, lanes, plan.k * size, part, operand.bus_bytes)


def _fewest(operand: OperandPlan, block: int) -> int:
    """Bus words of a whole block of the shortest panel, at least."""
    lanes, size = (operand.size - 1) % operand.lanes + 1, operand.element_bytes
    if operand.across_k:
        return block * -(-lanes * size // operand.bus_bytes)
    return lanes * (block * size // operand.bus_bytes)


def _lines(plan: GemmPlan, operand: OperandPlan, lanes: int, rate: int, flying: int) -> _Lines | None:
    """Those of a panel of so many lanes; None where too much may be lost."""
    block = core_clocks(plan.config).block_steps
    size, bus, stride = operand.element_bytes, operand.bus_bytes, operand.stride
    if not operand.across_k:
        # Rows, which in whole blocks are as many words as their steps are. A slot's last block may be of a few steps.
        words = block * size // bus
        bursts = -(-(words + 1) // BURST_BEATS) + 1
        gain = words * WHOLE_BEAT - (2 * bursts - 1) * rate
        if gain < 0:
            return None
        window = flying
        if plan.k % block == 0:
            window = max(flying, ((flying - 1) // bursts - 3) * words)
        return _Lines(max(0, 2 * rate - WHOLE_BEAT), lanes * gain, window)
    length = lanes * size
    least = -(-length // bus)
    if least >= BURST_BEATS:
        return None
    gain = least * WHOLE_BEAT - rate
    if lies_alike(operand.address, stride, length, bus, operand.lanes * size):
        return _Lines(0, block * gain, (flying - 1) * least + 1)
    # A line that is cut is two bursts, and has two words at least: how far from each other are such lines?
    cut_gain = max(2, least) * WHOLE_BEAT - 3 * rate
    loss = max(0, 2 * rate - WHOLE_BEAT, -cut_gain)
    places = (line * stride % PAGE_BYTES for line in range(1, 2 * flying + 1))
    if any(place < length or place > PAGE_BYTES - length for place in places):
        if cut_gain < 0:
            return None
        return _Lines(loss, block * min(gain, cut_gain), flying)
    if loss > flying * gain:
        return None
    cuts = block // (2 * flying) + 2
    return _Lines(loss, block * gain - cuts * max(0, gain - cut_gain), max(flying, (flying - 5) * least + 5))


def pass_loads(p: Cells, s: Cells) -> int:
    """After a tile, pass over all but the last two if the bus is busy with loads until then; return whether it is.

    For `halfulp.sim.scalar_code`, which compiles it. p, s: cells of `Given` and `Now`.
    """
    end, rate, late, lead = s[Now.LAST_END], p[Given.RATE], p[Given.READ_LATE], p[Given.READ_LEAD]
    bursts = s[Now.BURSTS_READ]
    flying = min(p[Given.READS], p[Given.OUTSTANDING])
    requested = max(s[Now.LOADER] + NEXT_GROUP + 4, s[Now.ACCEPTED] + 3, s[Now.BEGUN] + 3, s[Now.REQUESTED] + 1)
    requested = max(requested, s[Now.END_RING + ((bursts - flying) & (ENDS_DEPTH - 1))] + 2)
    if requested + p[Given.READ_LATENCY] + lead > end + 1 or s[Now.LAST] > end + late:
        return 0
    words = p[Given.READ_WORDS] - s[Now.READ_BEATS] - s[Now.READ_PASSED]
    # The bus has nothing saved up.
    if words <= 0 or (rate < WHOLE_BEAT and (s[Now.READ_SAVED] >= rate or s[Now.READ_COUNTED] != end)):
        return 0
    for operand in range(2):
        cell = OPERAND * operand
        slot = s[p[Given.A_SLOTS_AT + cell] + (s[Now.TAKEN_SLOTS + operand] & (p[Given.A_SLOTS + cell] - 1))]
        if slot + ON_TIME + p[Given.READ_LATENCY] + lead > end:
            return 0
    if rate == WHOLE_BEAT:
        end += words
    else:
        clocks = (words * WHOLE_BEAT - s[Now.READ_SAVED] + rate - 1) // rate
        s[Now.READ_SAVED] += rate * clocks - words * WHOLE_BEAT
        end += clocks
    s[Now.LAST_END], s[Now.READ_COUNTED] = end, end
    s[Now.READ_PASSED] += words
    return 1
