"""Whether loads that are still to come keep ahead of the array, so that it does not matter when exactly they come.

Each is taken for as long as it can be. Tiles begin no earlier than as if the array never waited, and a slot is free
that much later as the array is. So if loads are there in time for an array that never waits, they are for any: where
something else holds it up, later tiles and the slots that wait for them are held up alike. A load takes no longer than
from rest, once the one before has come and its slot is free.

Where results take longer than steps, tiles follow each other in no less than the clocks of results, `TILE_CLOCKS`, but
for the few that drain and writer hold: of what these hold up, later tiles make up for `MARGIN` at most.

For `halfulp.sim.scalar_code`, which compiles it. p, s and look: cells of `Given`, `Now` and `Lead`.
"""

from __future__ import annotations

from halfulp.sim.load_model import NEXT_GROUP, load_over
from halfulp.sim.walk_cells import OPERAND, Cells, Given, Lead, Now

__all__ = ["lead_begin", "lead_group", "lead_resume", "lead_save"]

ARRIVAL = 5
"""More than the clocks from a panel's last beat to the first of its steps."""


def lead_begin(p: Cells, s: Cells, look: Cells) -> None:
    """Begin to look ahead."""
    look[Lead.START], look[Lead.OVER], look[Lead.TILES] = s[Now.LAST] + 1, load_over(s), 0
    for operand in range(2):
        look[Lead.TAKEN_SLOTS + operand] = s[Now.TAKEN_SLOTS + operand]
        look[Lead.FREED_SLOTS + operand] = s[Now.FREED_SLOTS + operand]
    first = p[Given.A_SLOTS_AT]
    for cell in range(_slots(p)):
        look[Lead.RINGS + cell] = s[first + cell]


def lead_group(p: Cells, look: Cells, size: int, y: int, column: int) -> int:
    """Follow what is left of a group of so many resident panels; return whether all loads are in time.

    y: from which on its growing square is left; column: from which on its columns are.
    """
    columns = p[Given.COLUMNS]
    for row in range(y, min(size, columns)):
        if not _run(p, look, size, 0, row, row + 1, 1, row == 0, 1):
            return 0
        if row < size - 1 and not _run(p, look, size, row + 1, 0, row + 1, 0, 1, 0):
            return 0
    for x in range(columns + 1, size):
        if not _run(p, look, size, x, 0, columns, 0, 1, 0):
            return 0
    if column < columns - 1 and not _columns(p, look, columns - 1 - column, size):
        return 0
    return column >= columns or _run(p, look, size, 0, columns - 1, size, 1, 0, 1)


def lead_save(p: Cells, look: Cells) -> int:
    """Remember the loader before a group's first panels, if it is then at rest and waits for a slot; return whether.

    All of a bus's credit is saved up then.
    """
    clock = look[_slot(p, look, 0, look[Lead.TAKEN_SLOTS])] + 2
    if clock < look[Lead.OVER] + p[Given.SAVING] + NEXT_GROUP + ARRIVAL:
        return 0
    look[Lead.REST] = clock
    for operand in range(2):
        look[Lead.REST_TAKEN_SLOTS + operand] = look[Lead.TAKEN_SLOTS + operand]
        look[Lead.REST_FREED_SLOTS + operand] = look[Lead.FREED_SLOTS + operand]
    slots = _slots(p)
    for cell in range(slots):
        look[Lead.RINGS + slots + cell] = look[Lead.RINGS + cell]
    return 1


def lead_resume(p: Cells, s: Cells, look: Cells) -> None:
    """Pass over loads, until the remembered ones."""
    s[Now.LOADER] = look[Lead.REST] - NEXT_GROUP
    for operand in range(2):
        s[Now.TAKEN_SLOTS + operand] = look[Lead.REST_TAKEN_SLOTS + operand]
        s[Now.FREED_SLOTS + operand] = look[Lead.REST_FREED_SLOTS + operand]
    first, slots = p[Given.A_SLOTS_AT], _slots(p)
    for cell in range(slots):
        s[first + cell] = look[Lead.RINGS + slots + cell]


def _slots(p: Cells) -> int:
    """Cells of both rings of slots."""
    return p[Given.A_SLOTS] + p[Given.A_SLOTS + OPERAND]


def _slot(p: Cells, look: Cells, operand: int, number: int) -> int:
    """The cell of a slot of this number."""
    place = OPERAND * operand
    ring = Lead.RINGS + p[Given.A_SLOTS_AT + place] - p[Given.A_SLOTS_AT]
    return ring + (number & (p[Given.A_SLOTS + place] - 1))


def _release(p: Cells, look: Cells, operand: int, end: int) -> None:
    """A slot is free after the step issued in this clock."""
    freed = look[Lead.FREED_SLOTS + operand]
    look[_slot(p, look, operand, freed)] = end + p[Given.A_LANES + OPERAND * operand]
    look[Lead.FREED_SLOTS + operand] = freed + 1


def _run(p: Cells, look: Cells, size: int, x: int, y: int, tiles: int, along: int, loads_x: int, loads_y: int) -> int:
    """Follow tiles along one operand, of which the first may wait for loads; return whether these are in time.

    size: resident panels of the group; x, y: resident panel within the group, and streamed panel, of the first tile;
    along: whether it is the resident panel that changes; loads_x, loads_y: whether the first tile's are loaded.
    """
    resident, clocks, columns = p[Given.RESIDENT], p[Given.TILE_CLOCKS], p[Given.COLUMNS]
    over = look[Lead.OVER]
    for operand in range(2):
        if (operand == resident and loads_x) or (operand != resident and loads_y):
            taken = look[Lead.TAKEN_SLOTS + operand]
            over = max(over, look[_slot(p, look, operand, taken)] + 2)
            look[Lead.TAKEN_SLOTS + operand] = taken + 1
    if loads_x and loads_y:
        over += p[Given.LONGEST_BOTH]
    elif (resident == 0) == loads_x:
        over += p[Given.A_LONGEST]
    else:
        over += p[Given.A_LONGEST + OPERAND]
    look[Lead.OVER] = over
    if over + ARRIVAL + p[Given.MARGIN] > look[Lead.START]:
        return 0
    end = look[Lead.START] - 1
    for _ in range(tiles):
        end += clocks
        if y == columns - 1:
            _release(p, look, resident, end)
        if x == size - 1:
            _release(p, look, 1 - resident, end)
        if along:
            x += 1
        else:
            y += 1
    look[Lead.START] = end + 1
    look[Lead.TILES] += tiles
    return 1


def _columns(p: Cells, look: Cells, count: int, size: int) -> int:
    """Follow so many columns of `size` tiles, each of which loads a streamed panel; return whether all is in time.

    A panel that is there when its column begins leaves a column's clocks for the next one, and its slot, free when
    its column ends, is needed when all others have been taken.
    """
    operand = 1 - p[Given.RESIDENT]
    clocks, late = size * p[Given.TILE_CLOCKS], ARRIVAL + p[Given.MARGIN]
    longest, lanes = p[Given.A_LONGEST + OPERAND * operand], p[Given.A_LANES + OPERAND * operand]
    start, over = look[Lead.START], look[Lead.OVER]
    taken = look[Lead.TAKEN_SLOTS + operand]
    free = look[Lead.FREED_SLOTS + operand] - taken
    if longest > clocks or over + longest + late > start:
        return 0
    if count > free and lanes + longest + 2 + late > (free - 1) * clocks:
        return 0
    soon = min(count, free)
    over += count * longest
    for number in range(soon):
        at = look[_slot(p, look, operand, taken + number)] + 2
        if at + longest + late > start + number * clocks:
            return 0
        over = max(over, at + (count - number) * longest)
    if count > free:
        over = max(over, start + (count - free) * clocks - 1 + lanes + 2 + longest)
    look[Lead.TAKEN_SLOTS + operand] = taken + soon
    for number in range(count - soon, count):
        _release(p, look, operand, start + (number + 1) * clocks - 1)
    look[Lead.OVER], look[Lead.START] = over, start + count * clocks
    look[Lead.TILES] += count * size
    return 1
