"""The tiles of a GEMM in order, and the clocks of their steps: the clocks of `Planner`, `Sequencer` and the array.

For `halfulp.sim.scalar_code`, which compiles it. p, s, known and look: cells of `Given`, `Now`, `Known` and
`Lead`.
"""

from __future__ import annotations

from halfulp.hw.tile_walk import TileWalk
from halfulp.sim.bus_bound import end_with_bus
from halfulp.sim.drain_table import begin_known, drain_known
from halfulp.sim.gemm_repeats import passed_over
from halfulp.sim.load_lead import lead_begin, lead_group, lead_resume, lead_save
from halfulp.sim.load_model import NEXT_GROUP, NEXT_PANEL, free_slot, load_panels
from halfulp.sim.read_bound import pass_loads
from halfulp.sim.walk_cells import Cells, Given, Lead, Now, Seen

__all__ = ["FIRST_SEGMENT", "walk_groups"]

FIRST_SEGMENT = 9
"""Clocks from a descriptor's coming to a core at rest to its first segment: planner 3, loader 2, walk 4."""

ARRIVAL_LATENCY = 3
"""Clocks from a block's last beat on the bus to the first of its steps."""


def walk_groups(p: Cells, s: Cells, groups: Cells, known: Cells, look: Cells, seen: Cells, columns: Cells) -> None:
    """Walk all groups.

    groups: of each, its first panel and how many; seen, columns: what `passed_over` remembers of groups, and of columns
    of one.
    """
    count = p[Given.NUMBER_OF_GROUPS]
    # A group repeats the one before if it is as large and not the last, in which panels may be short of rows.
    alike = 0
    while alike < count - 1 and groups[2 * alike + 1] == p[Given.GROUP]:
        alike += 1
    seen[Seen.VISITS] = 0
    begin_known(p, s, known)
    number = 0
    while number < count and not s[Now.IS_OVER]:
        number += _walk_group(p, s, groups, known, look, columns, number)
        if number < alike and p[Given.SHORTCUTS] and not s[Now.IS_OVER]:
            number += passed_over(p, s, known, seen, number, alike, groups[2 * number], 0)
    if p[Given.IS_CALM]:
        # The drain was at rest when the last tile's positions were asked for.
        captured = s[Now.CAPTURED]
        drain_known(p, s, known, captured - p[Given.POSITION], captured, s[Now.ROW_PANEL], s[Now.COLUMN_PANEL])


def _walk_group(p: Cells, s: Cells, groups: Cells, known: Cells, look: Cells, seen: Cells, number: int) -> int:
    """The tiles of one group, those of `GemmPlan.tiles`, or of more; return of how many."""
    start, size, columns = groups[2 * number], groups[2 * number + 1], p[Given.COLUMNS]
    pause = 0
    if number:
        pause = NEXT_GROUP
    square = min(size, columns)
    for y in range(square):
        # To look ahead is worth it now and then.
        if y > 0 and (y & (y - 1)) == 0:
            passed = _pass_groups(p, s, groups, look, number, y, size)
            if passed:
                return passed
        _walk_run(p, s, known, start, size, 0, y, y + 1, 1, y == 0, 1, pause)
        if p[Given.READ_LEAD] and pass_loads(p, s):
            return _walk_last(p, s, groups, known, number)
        pause = NEXT_PANEL
        if y < size - 1:
            _walk_run(p, s, known, start, size, y + 1, 0, y + 1, 0, 1, 0, pause)
    for x in range(columns + 1, size):
        _walk_run(p, s, known, start, size, x, 0, columns, 0, 1, 0, pause)
    seen[Seen.VISITS] = 0
    y = size
    while y < columns and not s[Now.IS_OVER]:
        n = y - size
        if (n & (n - 1)) == 0:
            passed = _pass_groups(p, s, groups, look, number, square, y)
            if passed:
                return passed
        _walk_run(p, s, known, start, size, 0, y, size, 1, p[Given.CHUNKED], 1, NEXT_PANEL)
        if p[Given.READ_LEAD] and pass_loads(p, s):
            return _walk_last(p, s, groups, known, number)
        y += 1
        # The last column frees the residents, and may be short of lanes.
        if y < columns - 1 and p[Given.SHORTCUTS] and not s[Now.IS_OVER]:
            y += passed_over(p, s, known, seen, y, columns - 1, start, y)
    return 1


def _walk_last(p: Cells, s: Cells, groups: Cells, known: Cells, number: int) -> int:
    """The last two tiles of a GEMM whose K is cut in chunks; return how many groups are left from this number on."""
    count, columns = p[Given.NUMBER_OF_GROUPS], p[Given.COLUMNS]
    for tile in range(count * columns - 2, count * columns):
        group = tile // columns
        y = tile - group * columns
        pause = NEXT_PANEL
        if y == 0:
            pause = NEXT_GROUP
        _walk_run(p, s, known, groups[2 * group], 1, 0, y, 1, 1, 1, 1, pause)
    return count - number


def _pass_groups(p: Cells, s: Cells, groups: Cells, look: Cells, number: int, y: int, column: int) -> int:
    """Pass over the rest of a group, and of others behind it, if their tiles wait for nothing; return of how many.

    Where they wait for no load until the end, but for results, that is noted.
    number: of the group; y, column: from which on its growing square, and its columns, are left.
    """
    if s[Now.IS_AHEAD] or not p[Given.MAY_LOOK_AHEAD]:
        return 0
    lead_begin(p, s, look)
    count = p[Given.NUMBER_OF_GROUPS]
    # The last group after which the loader is known to be at rest, and the tiles until then.
    passed, tiles, is_rest = 0, 0, 0
    for group in range(number, count):
        size = groups[2 * group + 1]
        if group > number:
            y, column = 0, size
        if not lead_group(p, look, size, y, column):
            break
        rest = lead_save(p, look)
        s[Now.IS_AHEAD] = group == count - 1
        if rest or s[Now.IS_AHEAD]:
            passed, tiles, is_rest = group + 1 - number, look[Lead.TILES], rest
    if not (p[Given.MAY_REPEAT] and _is_next_in_time(p, s)):
        return 0
    if passed:
        last = number + passed - 1
        _pass_tiles(p, s, tiles, groups[2 * last] + groups[2 * last + 1] - 1, p[Given.COLUMNS] - 1)
        if is_rest:
            lead_resume(p, s, look)
    return passed


def _is_next_in_time(p: Cells, s: Cells) -> int:
    """Whether a tile without loads can begin in the clock after the last step."""
    words = p[Given.WORDS]
    return s[Now.READY] <= s[Now.LAST] and (not words or s[Now.MAY_MAKE] + words <= s[Now.LAST])


def _walk_run(
    p: Cells,
    s: Cells,
    known: Cells,
    start: int,
    size: int,
    x: int,
    y: int,
    count: int,
    along: int,
    loads_x: int,
    loads_y: int,
    pause: int,
) -> None:
    """So many tiles along one operand, of which the first may wait for loads.

    start, size: of the group; x, y: resident panel within it, and streamed panel, of the first tile; along: whether it
    is the resident panel that changes; loads_x, loads_y: whether the first tile's are loaded; pause: see `load_panels`.
    """
    if s[Now.IS_AHEAD]:
        loads_x, loads_y = 0, 0
    last_column, last_x = p[Given.COLUMNS] - 1, size - 1
    for tile in range(count):
        if s[Now.IS_OVER]:
            return
        if tile == 1 and p[Given.MAY_REPEAT] and not s[Now.IS_AHEAD] and _is_next_in_time(p, s):
            _pass_run(p, s, start, size, x, y, count - 1, along)
            return
        _tile(p, s, known, start + x, y, loads_x, loads_y, pause, y == last_column, x == last_x)
        loads_x, loads_y = 0, 0
        if along:
            x += 1
        else:
            y += 1


def _pass_run(p: Cells, s: Cells, start: int, size: int, x: int, y: int, count: int, along: int) -> None:
    """So many tiles along one operand that wait for nothing."""
    resident, steps = p[Given.RESIDENT], p[Given.INTERVAL] * p[Given.K]
    end = s[Now.LAST]
    for tile in range(count):
        end += steps
        if y == p[Given.COLUMNS] - 1:
            free_slot(p, s, resident, end)
        if x == size - 1:
            free_slot(p, s, 1 - resident, end)
        if tile < count - 1:
            if along:
                x += 1
            else:
                y += 1
    _pass_tiles(p, s, count, start + x, y)


def _pass_tiles(p: Cells, s: Cells, count: int, x: int, y: int) -> None:
    """So many tiles that take as many clocks as their steps; resident and streamed panel of the last one."""
    steps = p[Given.INTERVAL] * p[Given.K]
    last = s[Now.LAST] + count * steps
    s[Now.LAST], s[Now.LAST_OF_TILE] = last, last
    s[Now.READY] = last - steps + TileWalk.period
    s[Now.MAY_MAKE] = last - steps + p[Given.INTERVAL] + p[Given.FEED] + 1
    _capture(p, s, last + p[Given.CAPTURE], x, y)


def _capture(p: Cells, s: Cells, captured: int, x: int, y: int) -> None:
    """A calm tile: its results take as long as from rest, and only those of the GEMM's last tile count."""
    row, column = x, y
    if p[Given.RESIDENT]:
        row, column = y, x
    s[Now.CAPTURED], s[Now.ROW_PANEL], s[Now.COLUMN_PANEL] = captured, row, column
    rows = min(p[Given.A_LANES], p[Given.A_SIZE] - row * p[Given.A_LANES])
    s[Now.LAST_STEP] = captured + max(0, rows - p[Given.FIRST_CAPTURE])


def _tile(
    p: Cells,
    s: Cells,
    known: Cells,
    x: int,
    y: int,
    loads_x: int,
    loads_y: int,
    pause: int,
    frees_x: int,
    frees_y: int,
) -> None:
    """A tile: resident and streamed panel, which of them are loaded for it, and which are needed no more."""
    resident, whole, interval, chunked = p[Given.RESIDENT], p[Given.K], p[Given.INTERVAL], p[Given.CHUNKED]
    period, words, after = TileWalk.period, p[Given.WORDS], p[Given.FEED] + 1
    a, b, loads_a, loads_b = x, y, loads_x, loads_y
    if resident:
        a, b, loads_a, loads_b = y, x, loads_y, loads_x
    row, column = a, b
    if not loads_a:
        a = -1
    if not loads_b:
        b = -1
    accepted, k = 0, 0
    while k < whole:
        steps = min(p[Given.SEGMENT_STEPS], whole - k)
        taken = max(s[Now.READY], s[Now.LAST])
        if k == 0 and words:
            taken = max(taken, max(s[Now.READY], s[Now.MAY_MAKE]) + words)
        s[Now.READY] = taken + period
        # The first step, and when the last one would be had it come at once.
        first = taken + 1
        way = interval * (steps - 1)
        end = first + way
        if k == 0:
            accepted = max(taken + 1, s[Now.MAY_ACCEPT])
        if loads_a or loads_b:
            load_panels(p, s, a, b, k, steps, pause)
            pause = 0
            first = max(first, s[Now.ARRIVED] + ARRIVAL_LATENCY)
            end = max(end, s[Now.LATEST] + ARRIVAL_LATENCY + way)
        k += steps
        if k == whole:
            end = max(end, accepted + 1, s[Now.LAST_STEP], s[Now.LAST_OF_TILE] + after)
        if not s[Now.IS_STARTED]:
            s[Now.IS_STARTED] = 1
            s[Now.FIRST] = first
            if whole == 1:
                s[Now.FIRST] = end
        if interval > 1:
            end += (s[Now.FIRST] - end) % interval
            first += (s[Now.FIRST] - first) % interval
        if k == steps:
            s[Now.MAY_MAKE] = first + after
            if whole == 1:
                s[Now.MAY_MAKE] = end + after
        s[Now.LAST] = end
        if not s[Now.IS_AHEAD]:
            if chunked or frees_x:
                free_slot(p, s, resident, end)
            if chunked or frees_y:
                free_slot(p, s, 1 - resident, end)
    s[Now.LAST_OF_TILE] = s[Now.LAST]
    captured = s[Now.LAST] + p[Given.CAPTURE]
    if p[Given.IS_CALM]:
        _capture(p, s, captured, x, y)
    else:
        drain_known(p, s, known, accepted, captured, row, column)
        if p[Given.BUS_COST] and s[Now.IS_AHEAD] and s[Now.WORDS_DONE] < p[Given.C_WORDS]:
            end_with_bus(p, s, known)
