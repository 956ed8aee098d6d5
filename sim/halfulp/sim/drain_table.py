"""What tiles do to the drain and the writer, followed once from each state for all tiles of a GEMM that are alike.

States have numbers, and so a tile that finds a state in which one like it was drained before only looks up what that
one did. Where next to no state comes again, as with odd bandwidths, none is remembered for a while.

For `halfulp.sim.scalar_code`, which compiles it. p, s, known: cells of `Given`, `Now` and `Known`.
"""

from __future__ import annotations

from halfulp.hw.burst_packer import PAGE_BYTES
from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.writer import WORD_DEPTH
from halfulp.sim.drain_model import drain_tile
from halfulp.sim.walk_cells import (
    BURST_DEPTH,
    ENDS_DEPTH,
    MOST_STATES,
    MOST_TILES,
    OPERAND,
    Cells,
    Given,
    Known,
    KnownTile,
    Now,
)

__all__ = ["begin_known", "drain_known"]

PATIENCE, PAUSE = 64, 512
"""So many tiles are remembered before it counts how many of them came again; and not, if too few did."""

PROBES = 8
"""Cells of the table in which a tile may be."""


def begin_known(p: Cells, s: Cells, known: Cells) -> None:
    """Begin at clock 0."""
    for cell in range(Known.TILES):
        known[cell] = 0
    known[Known.IS_ON] = p[Given.SHORTCUTS]
    _forget(p, s, known, 0)


def _forget(p: Cells, s: Cells, known: Cells, clock: int) -> None:
    """Forget all but the state now, after a tile that was accepted in this clock."""
    for cell in range(Known.TILES, Known.STATES_AT):
        known[cell] = 0
    known[Known.STATES], known[Known.IS_LIVE], known[Known.CLOCK] = 0, 1, clock
    known[Known.TIMES_FORGOTTEN] += 1
    known[Known.STATE] = _state_number(p, s, known, clock)


def drain_known(p: Cells, s: Cells, known: Cells, accepted: int, captured: int, a: int, b: int) -> None:
    """Drain the tile of these panels of A and B, that is accepted, and captured, in these clocks."""
    rows, lanes, size = p[Given.A_LANES], p[Given.A_LANES + OPERAND], p[Given.C_BYTES]
    row, column = a * rows, b * lanes
    rows, row_bytes = min(rows, p[Given.A_SIZE] - row), min(lanes, p[Given.A_SIZE + OPERAND] - column) * size
    address = (p[Given.C_ADDRESS] + row * p[Given.C_STRIDE] + column * size) & (PAGE_BYTES - 1)
    sent = s[Now.WORDS_SENT]
    if not known[Known.IS_ON]:
        drain_tile(p, s, known, accepted, captured, rows, row_bytes, address)
        s[Now.WORDS_DONE] += s[Now.WORDS_SENT] - sent
        known[Known.MISSES] += 1
        if known[Known.MISSES] == PAUSE and p[Given.SHORTCUTS]:
            known[Known.IS_ON], known[Known.HITS], known[Known.MISSES] = 1, 0, 0
            _forget(p, s, known, accepted)
        return
    # Tiles that no page's end cuts are alike if they begin alike in a bus word; no other is like them.
    place = address & (p[Given.BUS_BYTES] - 1)
    if _is_cut(p, rows, row_bytes, address):
        place = PAGE_BYTES + address
    lies = (place << 40) + (rows << 20) + row_bytes
    state, waited, ready = known[Known.STATE], accepted - known[Known.CLOCK], captured - accepted
    tile = _tile_cell(known, state, waited, ready, lies)
    if tile >= 0 and known[tile + KnownTile.NUMBER] > 0:
        known[Known.HITS] += 1
        known[Known.STATE], known[Known.CLOCK] = known[tile + KnownTile.AFTER], accepted
        known[Known.IS_LIVE] = 0
        s[Now.MAY_ACCEPT] = accepted + known[tile + KnownTile.MAY_ACCEPT]
        s[Now.LAST_STEP] = accepted + known[tile + KnownTile.LAST_STEP]
        s[Now.ANSWERED] = accepted + known[tile + KnownTile.ANSWERED]
        s[Now.WORDS_DONE] += known[tile + KnownTile.WORDS]
        return
    if not known[Known.IS_LIVE]:
        _make_live(p, s, known)
        sent = 0
    drain_tile(p, s, known, accepted, captured, rows, row_bytes, address)
    words = s[Now.WORDS_SENT] - sent
    s[Now.WORDS_DONE] += words
    known[Known.MISSES] += 1
    if known[Known.MISSES] > PATIENCE + known[Known.HITS]:
        known[Known.IS_ON], known[Known.MISSES] = 0, 0
        return
    if tile < 0 or known[Known.STATES] == MOST_STATES:
        _forget(p, s, known, accepted)
        return
    after = _state_number(p, s, known, accepted)
    known[Known.STATE], known[Known.CLOCK] = after, accepted
    known[tile + KnownTile.NUMBER] = state + 1
    known[tile + KnownTile.WAITED], known[tile + KnownTile.READY], known[tile + KnownTile.LIES] = waited, ready, lies
    known[tile + KnownTile.AFTER] = after
    known[tile + KnownTile.MAY_ACCEPT] = s[Now.MAY_ACCEPT] - accepted
    known[tile + KnownTile.LAST_STEP] = s[Now.LAST_STEP] - accepted
    known[tile + KnownTile.ANSWERED] = s[Now.ANSWERED] - accepted
    known[tile + KnownTile.WORDS] = words


def _is_cut(p: Cells, rows: int, row_bytes: int, address: int) -> int:
    """Whether a page's end cuts a row of results."""
    if p[Given.C_MODULUS] == 1:
        return 0
    for row in range(rows):
        if ((address + row * p[Given.C_STRIDE]) & (PAGE_BYTES - 1)) + row_bytes > PAGE_BYTES:
            return 1
    return 0


def _tile_cell(known: Cells, state: int, waited: int, ready: int, lies: int) -> int:
    """Where a tile is remembered, or may be; below 0 if there is no place left."""
    first = state * 40503 + waited * 30011 + ready * 52711 + (lies >> 40) * 60169 + lies * 7919
    first += first >> 13
    for probe in range(PROBES):
        tile = Known.TILES + ((first + probe) & (MOST_TILES - 1)) * KnownTile.CELLS
        number = known[tile + KnownTile.NUMBER]
        if number == 0 or (
            number == state + 1
            and known[tile + KnownTile.WAITED] == waited
            and known[tile + KnownTile.READY] == ready
            and known[tile + KnownTile.LIES] == lies
        ):
            return tile
    return -1


def _state_cells(p: Cells) -> int:
    """Cells of a state: its hash, credit, clocks and rings."""
    rings = WORD_DEPTH + BURST_DEPTH + WRITES_OUTSTANDING + ENDS_DEPTH
    return 2 + Now.CAPTURED - Now.MAY_ACCEPT + rings + p[Given.POSITIONS] + p[Given.GROUPS] + p[Given.ROWS]


def _state_number(p: Cells, s: Cells, known: Cells, clock: int) -> int:
    """The number of the state now; what was until this clock counts no more."""
    cells, count = _state_cells(p), known[Known.STATES]
    first = Known.STATES_AT + count * cells
    at = first + 1
    known[at] = min(s[Now.WRITE_SAVED] + p[Given.RATE] * max(0, clock - s[Now.WRITE_COUNTED]), p[Given.MOST_SAVED])
    at += 1
    for cell in range(Now.MAY_ACCEPT, Now.CAPTURED):
        known[at] = max(0, s[cell] - clock)
        at += 1
    words, bursts, groups, rows = s[Now.WORDS_SENT], s[Now.BURSTS_SENT], s[Now.GROUPS_READ], s[Now.ROWS_RELEASED]
    at = _keep_ring(s, known, at, Now.SENT_RING, WORD_DEPTH, words, clock)
    at = _keep_ring(s, known, at, Now.BEGUN_RING, BURST_DEPTH, bursts, clock)
    at = _keep_ring(s, known, at, Now.AWAITED_RING, WRITES_OUTSTANDING, bursts, clock)
    at = _keep_ring(s, known, at, Now.ANSWER_RING, ENDS_DEPTH, bursts, clock)
    at = _keep_ring(s, known, at, p[Given.READ_AT], p[Given.POSITIONS], groups, clock)
    at = _keep_ring(s, known, at, p[Given.TAKEN_AT], p[Given.GROUPS], groups, clock)
    at = _keep_ring(s, known, at, p[Given.RELEASED_AT], p[Given.ROWS], rows, clock)
    total = 0
    for cell in range(first + 1, at):
        total += known[cell] * (2 * (cell - first) + 1)
    known[first] = total
    for state in range(count):
        other = Known.STATES_AT + state * cells
        if known[other] == total:
            cell = 1
            while cell < cells and known[other + cell] == known[first + cell]:
                cell += 1
            if cell == cells:
                return state
    known[Known.STATES] = count + 1
    return count


def _make_live(p: Cells, s: Cells, known: Cells) -> None:
    """Put the state that a number stands for in its place."""
    clock = known[Known.CLOCK]
    at = Known.STATES_AT + known[Known.STATE] * _state_cells(p) + 1
    s[Now.WRITE_SAVED] = known[at]
    at += 1
    for cell in range(Now.MAY_ACCEPT, Now.CAPTURED):
        s[cell] = clock + known[at]
        at += 1
    s[Now.WORDS_SENT], s[Now.BURSTS_SENT], s[Now.GROUPS_READ], s[Now.ROWS_RELEASED] = 0, 0, 0, 0
    at = _put_ring(s, known, at, Now.SENT_RING, WORD_DEPTH, clock)
    at = _put_ring(s, known, at, Now.BEGUN_RING, BURST_DEPTH, clock)
    at = _put_ring(s, known, at, Now.AWAITED_RING, WRITES_OUTSTANDING, clock)
    at = _put_ring(s, known, at, Now.ANSWER_RING, ENDS_DEPTH, clock)
    at = _put_ring(s, known, at, p[Given.READ_AT], p[Given.POSITIONS], clock)
    at = _put_ring(s, known, at, p[Given.TAKEN_AT], p[Given.GROUPS], clock)
    _put_ring(s, known, at, p[Given.RELEASED_AT], p[Given.ROWS], clock)
    known[Known.IS_LIVE] = 1


def _keep_ring(s: Cells, known: Cells, at: int, ring: int, length: int, ended: int, clock: int) -> int:
    """Keep a ring's clocks in order, the first one that is left first; return where what follows goes."""
    for n in range(length):
        known[at + n] = max(0, s[ring + ((ended + n) & (length - 1))] - clock)
    return at + length


def _put_ring(s: Cells, known: Cells, at: int, ring: int, length: int, clock: int) -> int:
    for n in range(length):
        s[ring + n] = clock + known[at + n]
    return at + length
