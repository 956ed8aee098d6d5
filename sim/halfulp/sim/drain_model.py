"""When a tile's results have left the array and are in memory: the clocks of `Drain`, `BurstPacker` and `BurstWriter`.

For `halfulp.sim.scalar_code`, which compiles it.
"""

from __future__ import annotations

from halfulp.hw.burst_packer import PAGE_BYTES
from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import BURST_BEATS
from halfulp.hw.writer import WORD_DEPTH
from halfulp.sim.memory_timing import WHOLE_BEAT
from halfulp.sim.walk_cells import BURST_DEPTH, ENDS_DEPTH, Cells, Given, Now

__all__ = ["drain_clocks", "drain_tile"]


def drain_clocks(p: Cells, s: Cells, worst: Cells, rows: int, row_bytes: int, address: int) -> int:
    """Clocks from a tile's capture to the last response, from rest at clock 0."""
    drain_tile(p, s, worst, 0, p[Given.POSITION], rows, row_bytes, address)
    return s[Now.ANSWERED] - p[Given.POSITION]


def drain_tile(
    p: Cells, s: Cells, worst: Cells, accepted: int, captured: int, rows: int, row_bytes: int, address: int
) -> None:
    """Drain a tile that is accepted, and captured, in these clocks; its first result goes to this address.

    p, s: cells of `Given` and `Now`. worst: if its first cell is not 0, each row's groups complete so many bus words as
    the next ones say, and no page ends.
    """
    bus_bytes, bus_shift, group_bytes = p[Given.BUS_BYTES], p[Given.BUS_SHIFT], p[Given.GROUP_BYTES]
    position, rounding, stride = p[Given.POSITION], p[Given.ROUNDING] + p[Given.QUEUE], p[Given.C_STRIDE]
    reads, most_reads = p[Given.READ_AT], p[Given.POSITIONS] - 1
    takes, most_takes = p[Given.TAKEN_AT], p[Given.GROUPS] - 1
    releases, most_rows = p[Given.RELEASED_AT], p[Given.ROWS]
    groups, released = s[Now.GROUPS_READ], s[Now.ROWS_RELEASED]
    read, taken, ready, packed = s[Now.READ], s[Now.TAKEN], s[Now.WRITER_READY], s[Now.PACKED]
    is_worst, page_words = worst[0], PAGE_BYTES >> bus_shift

    move = max(captured, s[releases + ((released + rows - most_rows - 1) & (most_rows - 1))] + 2)
    start = max(accepted + p[Given.TILE_QUEUE], s[Now.WALKED], s[Now.CLOSED_BEFORE] + 1)
    walked = start
    for row in range(rows):
        place = (address + row * stride) & (PAGE_BYTES - 1)
        offset, word = place & (bus_bytes - 1), place >> bus_shift
        available = move + 2 + row
        pending, done, begin, number = 0, 0, 0, 1
        while begin < row_bytes:
            end = min(begin + group_bytes, row_bytes)
            # Positions and results each have a place behind their pipeline before they enter it.
            walked = max(walked + 1, s[reads + (groups & most_reads)] + 1)
            read = max(s[takes + (groups & most_takes)] + 1, walked + position, available, read + 1)
            taken = max(read + rounding, taken + 1, ready)
            s[reads + (groups & most_reads)] = read
            s[takes + (groups & most_takes)] = taken
            groups = groups + 1
            packed = max(taken + 1, packed)
            ready = packed
            # The word that a group ends in stays behind, for the next group of the row.
            last = 0
            if end == row_bytes:
                last = bus_bytes - 1
            words = (offset + end + last) >> bus_shift
            if is_worst:
                words = done + worst[number]
            while done < words:
                packed = max(packed + 1, s[Now.SENT_RING + ((s[Now.WORDS_SENT] + pending) & (WORD_DEPTH - 1))] + 2)
                done, pending = done + 1, pending + 1
                if (
                    pending == BURST_BEATS
                    or (done == words and last)
                    or (not is_worst and ((word + done) & (page_words - 1)) == 0)
                ):
                    packed = _send_burst(p, s, packed, pending)
                    pending = 0
            begin, number = end, number + 1
        s[releases + (released & (most_rows - 1))] = read
        released = released + 1

    s[Now.GROUPS_READ], s[Now.ROWS_RELEASED] = groups, released
    s[Now.READ], s[Now.TAKEN], s[Now.WRITER_READY], s[Now.PACKED], s[Now.WALKED] = read, taken, ready, packed, walked
    s[Now.STARTED_BEFORE], s[Now.STARTED] = s[Now.STARTED], start
    s[Now.CLOSED_BEFORE], s[Now.CLOSED] = s[Now.CLOSED], read + p[Given.ROUNDING]
    s[Now.MAY_ACCEPT] = max(accepted, s[Now.STARTED_BEFORE]) + 1
    if not p[Given.TILE_QUEUE]:
        # One that finds no queue is accepted when it starts.
        s[Now.MAY_ACCEPT] = max(walked, s[Now.CLOSED_BEFORE] + 1)
    s[Now.LAST_STEP] = move + max(0, rows - p[Given.FIRST_CAPTURE])


def _send_burst(p: Cells, s: Cells, pushed: int, beats: int) -> int:
    """Put a burst on the bus whose last word is pushed in this clock or later; return when."""
    rate, bursts, words = p[Given.RATE], s[Now.BURSTS_SENT], s[Now.WORDS_SENT]
    pushed = max(pushed, s[Now.BEGUN_RING + (bursts & (BURST_DEPTH - 1))] + 2)
    begun = max(pushed + p[Given.WORD_QUEUE], s[Now.ADDRESSED], s[Now.WRITTEN] + 1, s[Now.SENT])
    begun = max(begun, s[Now.AWAITED_RING + ((bursts + 1) & (WRITES_OUTSTANDING - 1))] + 1)
    answered = s[Now.ANSWER_RING + ((bursts - p[Given.OUTSTANDING]) & (ENDS_DEPTH - 1))]
    addressed = max(begun + 1, answered + 1)
    # A word is registered for the bus no earlier than in the last clock of the one before it there.
    sent = max(begun + 1, s[Now.LAST_BEAT])
    if rate == WHOLE_BEAT:
        for n in range(beats):
            s[Now.SENT_RING + ((words + n) & (WORD_DEPTH - 1))] = sent + n
        sent = sent + beats - 1
        last_beat = sent + 1
    else:
        saved = min(s[Now.WRITE_SAVED] + rate * (sent + 1 - s[Now.WRITE_COUNTED]), p[Given.MOST_SAVED]) - WHOLE_BEAT
        last_beat = sent + 1
        if saved < 0:
            wait = (rate - 1 - saved) // rate
            saved, last_beat = saved + rate * wait, last_beat + wait
        s[Now.SENT_RING + (words & (WORD_DEPTH - 1))] = sent
        # What is saved up is less than the credit of a clock now, so that beats come in one of two distances.
        apart, more = p[Given.MOST_APART], p[Given.SAVED_APART]
        for n in range(1, beats):
            sent = last_beat
            s[Now.SENT_RING + ((words + n) & (WORD_DEPTH - 1))] = sent
            saved, last_beat = saved + more, last_beat + apart
            if saved >= rate:
                saved, last_beat = saved - rate, last_beat - 1
        s[Now.WRITE_SAVED], s[Now.WRITE_COUNTED] = saved, last_beat
    before = s[Now.ANSWERED]
    awaited = max(begun + 1, before)
    answer = max(max(addressed, last_beat) + p[Given.WRITE_LATENCY], awaited + 1, before + 1)
    s[Now.BEGUN_RING + (bursts & (BURST_DEPTH - 1))] = begun
    s[Now.AWAITED_RING + (bursts & (WRITES_OUTSTANDING - 1))] = awaited
    s[Now.ANSWER_RING + (bursts & (ENDS_DEPTH - 1))] = answer
    s[Now.BURSTS_SENT], s[Now.WORDS_SENT] = bursts + 1, words + beats
    s[Now.SENT], s[Now.WRITTEN], s[Now.ANSWERED] = sent, begun, answer
    s[Now.ADDRESSED], s[Now.LAST_BEAT] = addressed, last_beat
    return pushed
