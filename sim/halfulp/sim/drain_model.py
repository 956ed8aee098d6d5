"""When a tile's results have left the array and are in memory: the clocks of `Drain` and `Writer`."""

from __future__ import annotations

import math
from typing import NamedTuple

from halfulp.hw.schedule import GemmPlan
from halfulp.sim.drain_table import Results, drain_table
from halfulp.sim.memory_timing import WHOLE_BEAT, MemoryTiming, line_pattern

__all__ = ["DrainModel"]


class _Calm(NamedTuple):
    """A tile that found the drain done with all before: when it was accepted and captured, and its results."""

    accepted: int
    captured: int
    results: Results


class DrainModel:
    """Takes tiles in the order of their computation.

    While each tile is captured long after the results of the one before are in memory, as in a GEMM with a large K, its
    results take as long as from rest, and of the state only its last two tiles count. `calm` is true until one is not.

    Parameters
    ----------
    plan
        The GEMM.
    memory
        Where results go.
    code_bytes
        Bytes a result.
    address, stride
        Where the first result goes, and bytes from a row of results to the next.
    clocks
        So many at least, from a tile's capture to that of the next.
    calm
        False: keep the whole state from the start, for comparison.

    Attributes
    ----------
    beats
        Bus words written so far, without those of calm tiles.
    may_accept, last_step
        From which clock on the next tile may be accepted, and its last step be issued.
    stays_calm
        Whether all tiles are sure to be calm, wherever they lie.
    """

    def __init__(
        self,
        plan: GemmPlan,
        memory: MemoryTiming,
        code_bytes: int,
        address: int,
        stride: int,
        *,
        clocks: int,
        calm: bool = True,
    ) -> None:
        self.beats = 0
        self.calm = calm
        config = plan.config
        self._table = table = drain_table(config, memory, code_bytes)
        if table.is_full:
            table.clear()
        self._core = table.core
        self._code_bytes, self._address, self._stride = code_bytes, address, stride
        self._clock = 0  # from which the state's clocks are counted: the last tile's acceptance
        self._number = 0
        self._tiles: list[_Calm] = []
        self._answered: int | None = 0
        self.may_accept = self.last_step = 0
        # How long before capture all before has to be in memory: then the bus has saved up its credit, and positions of
        # the tile, which wait for those of the tile before, are there in time.
        self._margin = max(WHOLE_BEAT // memory.rate + 2, self._core.position - self._core.rounding - self._core.queue)
        self.stays_calm = calm and clocks >= self._core.capture and self._longest(plan) + self._margin < clocks

    @property
    def answered(self) -> int:
        """The clock of the last response."""
        if self._answered is None:
            last = self._tiles[-1]
            self._answered = last.captured + self._table.rest(self._tile(last.results))
        return self._answered

    def drain(self, accepted: int, captured: int, results: Results) -> None:
        """Drain a tile that is accepted, and captured, in these clocks."""
        if self.calm:
            if self._is_calm(accepted, captured):
                self._tiles = [*self._tiles[-1:], _Calm(accepted, captured, results)]
                self._answered, self.last_step = None, captured + self._core.moved(results[0])
                return
            self._lose_calm()
        self._drain(accepted, captured, results)

    def _drain(self, accepted: int, captured: int, results: Results) -> None:
        drained = self._table.drain(self._number, accepted - self._clock, captured - accepted, self._tile(results))
        self._clock = accepted
        self._number = drained.number
        self._answered = accepted + drained.answered
        self.beats += drained.beats
        self.may_accept = accepted + drained.started + 1
        self.last_step = accepted + drained.last_step

    def go_on(self, captured: int, results: Results) -> None:
        """Pass over tiles that stay calm, of which this is the last one."""
        self._tiles = [_Calm(captured, captured, results)]
        self._answered, self.last_step = None, captured + self._core.moved(results[0])

    def _longest(self, plan: GemmPlan) -> int:
        """At least as many clocks as a tile takes from capture to the last response, from rest."""
        config, core = plan.config, self._core
        row_bytes = config.columns * self._code_bytes
        most = min(config.rows, plan.m), min(config.columns, plan.n) * self._code_bytes
        pitches = config.rows * self._stride, row_bytes
        if any(line_pattern(self._address, self._stride, row_bytes, core.bus_bytes, pitch)[1] for pitch in pitches):
            apart = math.gcd(self._stride, row_bytes, core.bus_bytes)
            return self._table.longest(*most, self._stride, range(self._address % apart, core.bus_bytes, apart))
        return self._table.rest(self._tile((*most, self._address)))

    def _tile(self, results: Results) -> int:
        return self._table.tile(results, self._stride)

    def _is_calm(self, accepted: int, captured: int) -> bool:
        """Whether results can be read as soon as they are captured, and all before is in memory."""
        if self.stays_calm:
            return True
        if accepted + self._core.position > captured:
            return False
        if not self._tiles:
            return True
        # So long after the tile before that the next one is accepted when positions of that one are under way.
        return self._tiles[-1].captured + self._core.capture <= captured and self.answered + self._margin < captured

    def _lose_calm(self) -> None:
        """The state after the last tile, from the one in which the last but one began: rest, as far as it counts."""
        self.calm = False
        beats = self.beats
        for tile in self._tiles:
            self._drain(*tile)
        self.beats = beats
        self._tiles = []

    def state(self, clock: int) -> object:
        """All that decides what comes, clocks counted from this one, not before the last acceptance."""
        if self.stays_calm:
            return self.last_step - clock
        if self.calm:
            tiles = self._tiles
            return tuple([(accepted - clock, captured - clock, self._tile(tile)) for accepted, captured, tile in tiles])
        self._number, self._clock = self._table.after(self._number, clock - self._clock), clock
        return self._number

    def skip(self, clocks: int) -> None:
        """Go on as if so many clocks had passed, and left all in the same state."""
        self._clock += clocks
        self.may_accept += clocks
        self.last_step += clocks
        if self._answered is not None:
            self._answered += clocks
        self._tiles = [
            _Calm(accepted + clocks, captured + clocks, results) for accepted, captured, results in self._tiles
        ]
