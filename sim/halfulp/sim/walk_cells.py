"""Where the functions that follow a GEMM's events keep what they know: cells of arrays of integers, by name."""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum

from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.writer import WORD_DEPTH

__all__ = [
    "BURST_DEPTH",
    "ENDS_DEPTH",
    "MOST_STATES",
    "MOST_TILES",
    "NEVER",
    "OPERAND",
    "Cells",
    "Given",
    "Known",
    "KnownTile",
    "Lead",
    "Now",
    "Seen",
]

Cells = MutableSequence[int]
"""An array of 64-bit integers."""

NEVER = -(1 << 60)
"""A clock before all others."""

ENDS_DEPTH = 128
"""Bursts that are remembered in each direction, as many as any memory or reader has in flight."""

BURST_DEPTH = WORD_DEPTH // 2
"""Bursts of results that wait for the bus."""

MOST_STATES, MOST_TILES = 256, 1024
"""So many states of the drain, and tiles, are remembered of a GEMM; a power of two."""

OPERAND = 11
"""Cells of an operand in `Given`."""


class Given(IntEnum):
    """What is given of a memory, a core and a GEMM.

    Memory, as in `MemoryTiming`; MOST_SAVED: credit that a bus can save up; SAVING: in so many clocks; MOST_APART: from
    a beat to the next there are so many clocks at most; SAVED_APART: credit that is left over then. Core, as in
    `CoreClocks`; GROUP_BYTES: of the results of a clock.

    GEMM, as in `GemmPlan`. SHORTCUTS: whether to pass over what repeats. IS_CALM: the results of a tile are sure to be
    in memory before the next tile's are captured; MAY_LOOK_AHEAD: whether loads may be passed over; MAY_REPEAT: whether
    tiles may, that wait for nothing; TILE_CLOCKS, MARGIN: see `load_lead`; BUS_COST: see `bus_bound`, 0 where the bus
    may wait for results; READ_...: see `read_bound`. C_...: the results; C_WORDS: bus words of all. A_...: of operand
    A, those of B are `OPERAND` cells further; MODULUS: 1 where all panels are cut alike into bursts, a bus word's bytes
    where it does not matter how, else a page's; SLOTS, SLOTS_AT: length of the ring of free slots, and where it begins;
    LONGEST: a bound of its loads, LONGEST_BOTH of loads of both.
    READ_AT, TAKEN_AT, RELEASED_AT: where rings begin.
    """

    RATE = 0
    READ_LATENCY = 1
    WRITE_LATENCY = 2
    OUTSTANDING = 3
    MOST_SAVED = 4
    BUS_BYTES = 5
    BUS_SHIFT = 6
    READS = 7
    BLOCK_STEPS = 8
    INTERVAL = 9
    FEED = 10
    CAPTURE = 11
    FIRST_CAPTURE = 12
    WORDS = 13
    POSITION = 14
    POSITIONS = 15
    ROUNDING = 16
    QUEUE = 17
    GROUPS = 18
    ROWS = 19
    GROUP_BYTES = 20
    K = 21
    SEGMENT_STEPS = 22
    CHUNKED = 23
    RESIDENT = 24
    COLUMNS = 25
    GROUP = 26
    NUMBER_OF_GROUPS = 27
    SHORTCUTS = 28
    IS_CALM = 29
    MAY_LOOK_AHEAD = 30
    MAY_REPEAT = 31
    C_ADDRESS = 32
    C_STRIDE = 33
    C_BYTES = 34
    C_MODULUS = 35
    TILE_CLOCKS = 36
    MARGIN = 37
    LONGEST_BOTH = 38
    SAVING = 39
    MOST_APART = 40
    SAVED_APART = 41
    READ_AT = 42
    TAKEN_AT = 43
    RELEASED_AT = 44
    TILE_QUEUE = 45
    WORD_QUEUE = 46
    LINE_QUEUE = 47
    BUS_COST = 48
    C_WORDS = 49
    READ_LEAD = 50
    READ_LATE = 51
    READ_WORDS = 52
    A_ADDRESS = 53
    A_STRIDE = 54
    A_ACROSS_K = 55
    A_SIZE = 56
    A_LANES = 57
    A_BYTES = 58
    A_SLACK = 59
    A_MODULUS = 60
    A_SLOTS = 61
    A_SLOTS_AT = 62
    A_LONGEST = 63
    CELLS = A_ADDRESS + 2 * OPERAND


class Now(IntEnum):
    """What is known at some point of a GEMM: clocks, then counts and credit, then rings of clocks.

    Tiles: READY, LAST: when the next segment is ready, and the last step of the one before was issued; LAST_OF_TILE:
    the last one of a tile; FIRST: the GEMM's first step; MAY_MAKE: from when on the next tile's first random words may
    be made. Loads: LOADER: when the loader comes to its next block; ACCEPTED, ACCEPTED_BEFORE: the last line's, by the
    reader, and that of the one before; BEGUN, REQUESTED: the last burst's; LAST_END: when its last beat comes;
    READ_COUNTED, READ_SAVED: the bus's credit, and when it was counted; ARRIVED, LATEST: of a load, when the first
    blocks of all panels are there, and from when on steps without a gap find all blocks.
    Results: MAY_ACCEPT, LAST_STEP: from when on the next tile may be accepted, and its last step be issued; WALKED:
    when the last position entered its pipeline; STARTED, CLOSED: the last tile's start, and when its last result was
    rounded, ..._BEFORE those of the one before; READ, TAKEN: the last group's; WRITER_READY, PACKED: when it went on to
    its bus words, and when the last of these was pushed; SENT: the last word's; WRITTEN, ANSWERED, ADDRESSED,
    LAST_BEAT: the last burst's beginning, response, address and beat; WRITE_COUNTED, WRITE_SAVED: as for loads.

    IS_STARTED, IS_AHEAD, IS_OVER: whether there was a first step, whether no tile that is left waits for a load, and
    whether ANSWERED is the GEMM's last. READ_BEATS, WORDS_SENT: bus words moved; READ_PASSED: those of loads that were
    passed over, where K is cut in chunks; WORDS_DONE: of those tiles' results that were not passed over as calm;
    BURSTS_READ, GROUPS_READ, ROWS_RELEASED, BURSTS_SENT: so many until now; TAKEN_SLOTS, FREED_SLOTS: of A, then of B;
    ROW_PANEL, COLUMN_PANEL: of the last tile that was passed over as calm, captured at CAPTURED.
    """

    READY = 0
    LAST = 1
    LAST_OF_TILE = 2
    FIRST = 3
    MAY_MAKE = 4
    LOADER = 5
    ACCEPTED = 6
    ACCEPTED_BEFORE = 7
    BEGUN = 8
    REQUESTED = 9
    LAST_END = 10
    READ_COUNTED = 11
    ARRIVED = 12
    LATEST = 13
    MAY_ACCEPT = 14
    LAST_STEP = 15
    WALKED = 16
    STARTED_BEFORE = 17
    STARTED = 18
    CLOSED_BEFORE = 19
    CLOSED = 20
    READ = 21
    TAKEN = 22
    WRITER_READY = 23
    PACKED = 24
    SENT = 25
    WRITTEN = 26
    ANSWERED = 27
    ADDRESSED = 28
    LAST_BEAT = 29
    WRITE_COUNTED = 30
    CAPTURED = 31
    # No clocks from here on.
    READ_SAVED = 32
    WRITE_SAVED = 33
    IS_STARTED = 34
    IS_AHEAD = 35
    READ_BEATS = 36
    BURSTS_READ = 37
    GROUPS_READ = 38
    ROWS_RELEASED = 39
    WORDS_SENT = 40
    BURSTS_SENT = 41
    TAKEN_SLOTS = 42
    FREED_SLOTS = 44
    ROW_PANEL = 46
    COLUMN_PANEL = 47
    WORDS_DONE = 48
    IS_OVER = 49
    READ_PASSED = 50
    # Clocks again: the rings.
    SENT_RING = 51
    BEGUN_RING = SENT_RING + WORD_DEPTH
    AWAITED_RING = BEGUN_RING + BURST_DEPTH
    ANSWER_RING = AWAITED_RING + WRITES_OUTSTANDING
    END_RING = ANSWER_RING + ENDS_DEPTH
    RINGS_END = END_RING + ENDS_DEPTH


class Lead(IntEnum):
    """Loads and tiles that are looked at ahead, as in `LoadLead`."""

    START = 0
    OVER = 1
    TILES = 2
    TAKEN_SLOTS = 3
    FREED_SLOTS = 5
    # The last rest that was found: when the slot that the loader waits for is there, and slots then.
    REST = 7
    REST_TAKEN_SLOTS = 8
    REST_FREED_SLOTS = 10
    RINGS = 12


class KnownTile(IntEnum):
    """A tile in `Known`.

    NUMBER: 1 more than that of the state in which it was drained, 0 if there is none. Clocks: WAITED: from the tile
    before's acceptance to its own; READY: from there on until it is captured; LIES: how its rows are cut into bursts.
    AFTER: the state then; clocks from its acceptance on: MAY_ACCEPT, LAST_STEP, ANSWERED: as in `Now`; WORDS: of its
    results.
    """

    NUMBER = 0
    WAITED = 1
    READY = 2
    LIES = 3
    AFTER = 4
    MAY_ACCEPT = 5
    LAST_STEP = 6
    ANSWERED = 7
    WORDS = 8
    CELLS = 9


class Known(IntEnum):
    """What is known of tiles and the drain's states, as in `drain_table`.

    NO_WORDS: 0, for `drain_tile`. IS_ON: whether tiles are remembered; IS_LIVE: whether `Now` has the state; STATE,
    CLOCK: its number, and the last tile's acceptance, from which it is counted; STATES, HITS, MISSES: how many states
    there are, and tiles that were known, and not; TIMES_FORGOTTEN: how often all was forgotten, so that numbers begin
    anew. TILES: a table of `MOST_TILES`; STATES_AT: where states begin.
    """

    NO_WORDS = 0
    IS_ON = 1
    IS_LIVE = 2
    STATE = 3
    CLOCK = 4
    STATES = 5
    HITS = 6
    MISSES = 7
    TIMES_FORGOTTEN = 8
    TILES = 9
    STATES_AT = TILES + MOST_TILES * KnownTile.CELLS


class Seen(IntEnum):
    """A state that may come again.

    VISITS: of this kind so far; NUMBER, CLOCK, WORDS: of what it was, when, words of results, and of loads, until then.
    """

    VISITS = 0
    NUMBER = 1
    CLOCK = 2
    WORDS = 3
    READ_WORDS = 4
    STATE = 5
