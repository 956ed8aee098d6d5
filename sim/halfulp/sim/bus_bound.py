"""Whether the bus is sure to be busy with results until a GEMM's end, which is then told by how many there are.

So it is where results take longer on the bus than steps. A state that comes again would tell as much, but on most
bandwidths none does for thousands of tiles: a bus of 0.3 words a clock has credit left in 19,661 amounts.

The bus never waits for a burst if each is there before the one before is done with. What a burst waits for is in the
end one of these:

- Its tile, or one before it: there is a clock from which on a tile's first group may go to the packer, as far as its
  steps, the array, and the drain's positions are concerned. From then on a group, or a bus word, moves on each clock.
- Room in the queues of words and of bursts: then the bus has as many before it as these hold.

`WalkBounds.bus_cost` sees to it that each row takes longer on the bus than through drain and packer; that what has
waited for room comes before the bus has sent what the queues hold; and that a tile takes so long on the bus that the
next one is ready as early before its turn. So if one tile is ready `BUS_COST` clocks before the bus is done with those
before it, all others are that follow.

For `halfulp.sim.scalar_code`, which compiles it. p, s and known: cells of `Given`, `Now` and `Known`.
"""

from __future__ import annotations

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.sim.memory_timing import WHOLE_BEAT
from halfulp.sim.walk_cells import ENDS_DEPTH, Cells, Given, Known, Now

__all__ = ["end_with_bus"]


def end_with_bus(p: Cells, s: Cells, known: Cells) -> None:
    """After a tile, which is not the last one and after which no load counts: tell the GEMM's end if the bus does."""
    if not known[Known.IS_LIVE]:
        return
    rate, done = p[Given.RATE], s[Now.LAST_BEAT]
    if _ready(p, s) + p[Given.BUS_COST] > done or not _is_answered(p, s):
        return
    words = p[Given.C_WORDS] - s[Now.WORDS_DONE]
    ended = done + (words * WHOLE_BEAT - s[Now.WRITE_SAVED] + rate - 1) // rate
    s[Now.ANSWERED] = ended + p[Given.WRITE_LATENCY]
    s[Now.IS_OVER] = 1


def _ready(p: Cells, s: Cells) -> int:
    """When the next tile's first group is at the packer at the latest, if nothing is in its way there."""
    words, interval = p[Given.WORDS], p[Given.INTERVAL]
    taken = max(s[Now.READY], s[Now.LAST])
    if words:
        taken = max(taken, max(s[Now.READY], s[Now.MAY_MAKE]) + words)
    accepted = max(taken + 1, s[Now.MAY_ACCEPT])
    last = max(taken + interval * p[Given.K], accepted + 1, s[Now.LAST_STEP], s[Now.LAST_OF_TILE] + p[Given.FEED] + 1)
    # Steps of an interleaved array come in one clock of several.
    captured = last + interval + p[Given.CAPTURE]
    moved = max(captured, s[Now.CLOSED_BEFORE] - p[Given.ROUNDING] + 2)
    started = max(accepted + p[Given.TILE_QUEUE], s[Now.WALKED], s[Now.CLOSED_BEFORE] + 1)
    read = max(moved + 2, started + 1 + p[Given.POSITION], s[Now.READ] + 1)
    return max(read + p[Given.ROUNDING] + p[Given.QUEUE] + 1, s[Now.PACKED] + 1)


def _is_answered(p: Cells, s: Cells) -> int:
    """Whether no burst that comes waits for responses to those that were sent, each of a word at least."""
    rate, bursts, done = p[Given.RATE], s[Now.BURSTS_SENT], s[Now.LAST_BEAT]
    if s[Now.ANSWERED] > done + p[Given.WRITE_LATENCY] or s[Now.ADDRESSED] >= done:
        return 0
    for number in range(1, p[Given.OUTSTANDING] + 1):
        answered = s[Now.ANSWER_RING + ((bursts - 1 + number - p[Given.OUTSTANDING]) & (ENDS_DEPTH - 1))]
        if answered + 2 > done + number * WHOLE_BEAT // rate:
            return 0
    for number in range(1, WRITES_OUTSTANDING):
        awaited = s[Now.AWAITED_RING + ((bursts + number) & (WRITES_OUTSTANDING - 1))]
        if awaited + 2 > done + (number - 1) * WHOLE_BEAT // rate:
            return 0
    return 1
