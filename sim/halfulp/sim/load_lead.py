"""Whether loads that are still to come keep ahead of the array, so that it does not matter when exactly they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from halfulp.sim.load_model import NEXT_GROUP, LoadModel, LoadRest

__all__ = ["LoadLead", "TileRun"]

ARRIVAL = 5
"""More than the clocks from a panel's last beat to the first of its steps."""


class TileRun(NamedTuple):
    """Tiles of a group that follow each other along one operand, of which the first may wait for loads.

    x, y: resident panel within the group, and streamed panel, of the first one; tiles: how many; along_resident: it is
    the resident panel that changes; loads: whether the resident, and the streamed panel of the first tile are loaded.
    """

    x: int
    y: int
    tiles: int
    along_resident: bool
    loads: tuple[bool, bool]


class LoadLead:
    """Follows the loads of tiles that are to come, taking each for as long as it can be.

    Tiles begin no earlier than as if the array never waited, and a slot is free that much later as the array is. So if
    loads are there in time for an array that never waits, they are for any: where something else holds it up, later
    tiles and the slots that wait for them are held up alike. A load takes no longer than from rest, once the one before
    has come and its slot is free.

    Parameters
    ----------
    load
        Loads until now, of panels in one part.
    resident
        Operand whose panels stay.
    start
        The earliest clock in which the next tile can begin.
    steps
        Clocks of a tile's steps.
    lanes
        Of A and B.

    Attributes
    ----------
    tiles
        Tiles that were followed.
    """

    def __init__(self, load: LoadModel, *, resident: int, start: int, steps: int, lanes: tuple[int, int]) -> None:
        self.tiles = 0
        self._load = load
        self._resident = resident
        self._start, self._steps = start, steps
        self._lanes = lanes
        self._over = load.over
        self._longest: dict[tuple[int, ...], int] = {}
        self._free = [deque(slots) for slots in load.free_slots]

    def run(self, run: TileRun, *, size: int, columns: int) -> bool:
        """Follow these tiles of a group of so many resident and streamed panels; return whether loads are in time."""
        resident, (new_resident, new_streamed) = self._resident, run.loads
        if new_resident and new_streamed:
            in_time = self._follow((0, 1))
        else:
            in_time = self._follow((resident,) if new_resident else (1 - resident,))
        if not in_time:
            return False
        last = self._start + run.tiles * self._steps - 1
        ends = range(self._start + self._steps - 1, last + 1, self._steps)
        if run.along_resident:
            if run.y == columns - 1:
                self._release(resident, ends)
            if run.x + run.tiles == size:
                self._release(1 - resident, (last,))
        else:
            if run.y + run.tiles == columns:
                self._release(resident, (last,))
            if run.x == size - 1:
                self._release(1 - resident, ends)
        self._start = last + 1
        self.tiles += run.tiles
        return True

    def columns(self, count: int, *, size: int) -> bool:
        """Follow so many columns of `size` tiles, each of which loads a streamed panel; return whether all is in time.

        A panel that is there when its column begins leaves a column's clocks for the next one, and its slot, free when
        its column ends, is needed when all others have been taken.
        """
        operand = 1 - self._resident
        clocks, longest = size * self._steps, self._load.longest((operand,))
        free, lanes = self._free[operand], self._lanes[operand]
        if longest > clocks or self._over + longest + ARRIVAL > self._start:
            return False
        soon = list(free)[:count]
        if any(at + longest + 2 + ARRIVAL > self._start + number * clocks for number, at in enumerate(soon)):
            return False
        if count > len(free) and lanes + longest + 2 + ARRIVAL > (len(free) - 1) * clocks:
            return False
        self.tiles += count * size
        ends = range(self._start + clocks - 1, self._start + count * clocks, clocks)
        over = [self._over + count * longest, *(at + 2 + (count - n) * longest for n, at in enumerate(soon))]
        if count > len(free):
            over.append(ends[count - len(free) - 1] + lanes + 2 + longest)
        self._over = max(over)
        kept = len(free)
        self._release(operand, ends[-kept:])
        self._free[operand] = deque(list(free)[-kept:])
        self._start += count * clocks
        return True

    def rest(self) -> LoadRest | None:
        """The loader before a group's first panels, if it is then at rest and waits for a slot; None where it may not.

        All of a bus's credit is saved up then.
        """
        clock = self._free[0][0] + 2
        if clock < self._over + self._load.saving + NEXT_GROUP + ARRIVAL:
            return None
        return LoadRest(clock, [tuple(slots) for slots in self._free])

    def _follow(self, operands: tuple[int, ...]) -> bool:
        for operand in operands:
            self._over = max(self._over, self._free[operand].popleft() + 2)
        longest = self._longest.get(operands)
        if longest is None:
            longest = self._longest[operands] = self._load.longest(operands)
        self._over += longest
        return self._over + ARRIVAL <= self._start

    def _release(self, operand: int, ends: Iterable[int]) -> None:
        lanes = self._lanes[operand]
        self._free[operand].extend([end + lanes for end in ends])
