"""Whether a GEMM is in a state in which it was before, so that what followed then follows again.

A state is remembered after the 1st, 2nd, 4th, … visit and compared with all until the next (R. P. Brent, "An improved
Monte Carlo factorization algorithm", BIT 20, 1980, section 3). For `halfulp.sim.scalar_code`, which compiles it.
"""

from __future__ import annotations

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.writer import WORD_DEPTH
from halfulp.sim.walk_cells import BURST_DEPTH, ENDS_DEPTH, OPERAND, Cells, Given, Known, Now, Seen

__all__ = ["passed_over"]


LOAD_CELLS = 9
"""Of what is remembered of loads, beside rings."""


def passed_over(p: Cells, s: Cells, known: Cells, seen: Cells, number: int, end: int, x: int, y: int) -> int:
    """Pass over as many whole periods as fit before `end`, if this state is the one that is remembered.

    number: of the column, or group, that comes next; x, y: resident and streamed panel with which it begins. Return how
    many columns or groups are passed over.
    """
    visits = seen[Seen.VISITS] + 1
    seen[Seen.VISITS] = visits
    clock = s[Now.LAST]
    if visits > 1 and _match(p, s, known, seen, x, y, 0):
        period = number - seen[Seen.NUMBER]
        times = (end - number) // period
        clocks = times * (clock - seen[Seen.CLOCK])
        _shift(p, s, clocks)
        known[Known.CLOCK] += clocks
        s[Now.WORDS_DONE] += times * (s[Now.WORDS_DONE] - seen[Seen.WORDS])
        s[Now.READ_PASSED] += times * (s[Now.READ_BEATS] + s[Now.READ_PASSED] - seen[Seen.READ_WORDS])
        # What is left is less than a period.
        seen[Seen.VISITS] = 0
        return times * period
    if visits & (visits - 1) == 0:
        _match(p, s, known, seen, x, y, 1)
        seen[Seen.NUMBER], seen[Seen.CLOCK] = number, clock
        seen[Seen.WORDS], seen[Seen.READ_WORDS] = s[Now.WORDS_DONE], s[Now.READ_BEATS] + s[Now.READ_PASSED]
    return 0


def _shift(p: Cells, s: Cells, clocks: int) -> None:
    """Go on as if so many clocks had passed, and left all in the same state."""
    for cell in range(Now.READ_SAVED):
        s[cell] += clocks
    for cell in range(Now.SENT_RING, p[Given.A_SLOTS_AT + OPERAND] + p[Given.A_SLOTS + OPERAND]):
        s[cell] += clocks


def _match(p: Cells, s: Cells, known: Cells, seen: Cells, x: int, y: int, keep: int) -> int:
    """Whether all that decides what comes is as it is remembered; or 1, and remember it, if `keep`."""
    clock = s[Now.LAST]
    at = Seen.STATE
    if not (
        _same(seen, at, s[Now.READY] - clock, keep)
        and _same(seen, at + 1, max(s[Now.READY], s[Now.MAY_MAKE]) - clock, keep)
        and _same(seen, at + 2, s[Now.LAST_STEP] - clock, keep)
        and _same(seen, at + 3, s[Now.IS_AHEAD], keep)
    ):
        return 0
    at += 4
    a, b = x, y
    if p[Given.RESIDENT]:
        a, b = y, x
    if not s[Now.IS_AHEAD]:
        if not _loads_match(p, s, seen, at, a, b, keep):
            return 0
        at += ENDS_DEPTH + LOAD_CELLS + p[Given.A_SLOTS] + p[Given.A_SLOTS + OPERAND]
    if p[Given.IS_CALM]:
        return 1
    return _results_match(p, s, known, seen, at, a, b, keep)


def _loads_match(p: Cells, s: Cells, seen: Cells, at: int, a: int, b: int, keep: int) -> int:
    """The same of loads, counted from when the loader comes to its next block."""
    now = s[Now.LOADER]
    lies_a = a * p[Given.A_LANES] * _pitch(p, 0)
    lies_b = b * p[Given.A_LANES + OPERAND] * _pitch(p, OPERAND)
    if not (
        _same(seen, at, now - s[Now.LAST], keep)
        and _same(seen, at + 1, max(0, s[Now.ACCEPTED] - now), keep)
        and _same(seen, at + 2, max(0, s[Now.BEGUN] - now), keep)
        and _same(seen, at + 3, max(0, s[Now.REQUESTED] - now), keep)
        and _same(seen, at + 4, _credit(p, s[Now.READ_SAVED], s[Now.READ_COUNTED], now), keep)
        and _same(seen, at + 5, max(0, s[Now.READ_COUNTED] - now), keep)
        and _same(seen, at + 6, lies_a % p[Given.A_MODULUS], keep)
        and _same(seen, at + 7, lies_b % p[Given.A_MODULUS + OPERAND], keep)
        and _same(seen, at + 8, max(0, s[Now.ACCEPTED_BEFORE] - now), keep)
        and _same_ring(s, seen, at + LOAD_CELLS, Now.END_RING, ENDS_DEPTH, s[Now.BURSTS_READ], ENDS_DEPTH, now, keep)
    ):
        return 0
    at += LOAD_CELLS + ENDS_DEPTH
    for operand in range(2):
        cell = OPERAND * operand
        slots, ring, freed = p[Given.A_SLOTS + cell], p[Given.A_SLOTS_AT + cell], s[Now.FREED_SLOTS + operand]
        free = freed - s[Now.TAKEN_SLOTS + operand]
        if not _same_ring(s, seen, at, ring, slots, freed, free, now - 2, keep):
            return 0
        # One that is not free is told from all that are.
        for slot in range(free, slots):
            if not _same(seen, at + slot, -1, keep):
                return 0
        at += slots
    return 1


def _results_match(p: Cells, s: Cells, known: Cells, seen: Cells, at: int, a: int, b: int, keep: int) -> int:
    """The same of results, counted from the last step."""
    clock = s[Now.LAST]
    row = a * p[Given.A_LANES] * p[Given.C_STRIDE]
    column = b * p[Given.A_LANES + OPERAND] * p[Given.C_BYTES]
    is_known = known[Known.IS_ON]
    if not (_same(seen, at, (row + column) % p[Given.C_MODULUS], keep) and _same(seen, at + 1, is_known, keep)):
        return 0
    at += 2
    if is_known:
        return (
            _same(seen, at, known[Known.STATE], keep)
            and _same(seen, at + 1, known[Known.CLOCK] - clock, keep)
            and _same(seen, at + 2, s[Now.MAY_ACCEPT] - clock, keep)
            and _same(seen, at + 3, known[Known.TIMES_FORGOTTEN], keep)
        )
    if not _same(seen, at, _credit(p, s[Now.WRITE_SAVED], s[Now.WRITE_COUNTED], clock), keep):
        return 0
    at += 1
    for cell in range(Now.MAY_ACCEPT, Now.CAPTURED):
        if not _same(seen, at, max(0, s[cell] - clock), keep):
            return 0
        at += 1
    words, bursts, groups = s[Now.WORDS_SENT], s[Now.BURSTS_SENT], s[Now.GROUPS_READ]
    most_reads, most_groups, rows = p[Given.POSITIONS], p[Given.GROUPS], p[Given.ROWS]
    if not _same_ring(s, seen, at, Now.SENT_RING, WORD_DEPTH, words, WORD_DEPTH, clock, keep):
        return 0
    at += WORD_DEPTH
    if not _same_ring(s, seen, at, Now.BEGUN_RING, BURST_DEPTH, bursts, BURST_DEPTH, clock, keep):
        return 0
    at += BURST_DEPTH
    if not _same_ring(s, seen, at, Now.AWAITED_RING, WRITES_OUTSTANDING, bursts, WRITES_OUTSTANDING, clock, keep):
        return 0
    at += WRITES_OUTSTANDING
    if not _same_ring(s, seen, at, Now.ANSWER_RING, ENDS_DEPTH, bursts, ENDS_DEPTH, clock, keep):
        return 0
    at += ENDS_DEPTH
    if not _same_ring(s, seen, at, p[Given.READ_AT], most_reads, groups, most_reads, clock, keep):
        return 0
    at += most_reads
    if not _same_ring(s, seen, at, p[Given.TAKEN_AT], most_groups, groups, most_groups, clock, keep):
        return 0
    at += most_groups
    return _same_ring(s, seen, at, p[Given.RELEASED_AT], rows, s[Now.ROWS_RELEASED], rows, clock, keep)


def _pitch(p: Cells, operand: int) -> int:
    """Bytes from a lane of an operand to the next."""
    if p[Given.A_ACROSS_K + operand]:
        return p[Given.A_BYTES + operand]
    return p[Given.A_STRIDE + operand]


def _credit(p: Cells, saved: int, counted: int, clock: int) -> int:
    """What a bus has saved up in a clock, or when it was last counted if that is later."""
    return min(saved + p[Given.RATE] * max(0, clock - counted), p[Given.MOST_SAVED])


def _same(seen: Cells, at: int, value: int, keep: int) -> int:
    if keep:
        seen[at] = value
    return seen[at] == value


def _same_ring(
    s: Cells, seen: Cells, at: int, ring: int, length: int, ended: int, count: int, clock: int, keep: int
) -> int:
    """The same of a ring's last clocks before number `ended`, of which those until `clock` count no more."""
    for n in range(count):
        # The last ones first: they differ the sooner.
        if not _same(seen, at + n, max(0, s[ring + ((ended - 1 - n) & (length - 1))] - clock), keep):
            return 0
    return 1
