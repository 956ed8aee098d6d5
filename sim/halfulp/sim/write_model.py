"""When results are in memory: the clocks of `BurstPacker` and `BurstWriter`."""

from __future__ import annotations

from typing import NamedTuple

from halfulp.hw.config import BURST_BEATS, ArrayConfig
from halfulp.hw.writer import PAGE_BYTES, WORD_DEPTH, WRITES_OUTSTANDING
from halfulp.sim.memory_timing import WHOLE_BEAT, Credit, MemoryTiming, later

__all__ = ["WriteModel", "WriteState"]

BURST_DEPTH = WORD_DEPTH // 2
"""Bursts that wait for the bus."""

QUEUE_LATENCY = 3
"""Clocks from a push into a queue of the writer to the first in which the bus has it."""


class WriteState(NamedTuple):
    """Clocks of the writer between two rows of results, counted from some clock; what can decide nothing more is 0.

    moved, finished: when the last group went on to its bus words, and when the last of these was pushed; sent: when
    words left their queue; begun, awaited, answers: when bursts began, their response was waited for, and came;
    addressed, last_beat: the last address and the last beat on the bus; saved, counted: credit of the bus, and when
    it was counted.
    """

    moved: int = 0
    finished: int = 0
    sent: tuple[int, ...] = ()
    begun: tuple[int, ...] = ()
    awaited: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()
    addressed: int = 0
    last_beat: int = 0
    saved: int = 0
    counted: int = 0

    def after(self, clocks: int, rate: int) -> WriteState:
        """The same, counted from so many clocks later."""
        saved, counted = self.saved, self.counted - clocks
        if counted < 0:
            credit = Credit(rate, counted, saved)
            credit.advance(0)
            saved, counted = credit.saved, 0
        return WriteState(
            max(0, self.moved - clocks),
            max(0, self.finished - clocks),
            later(self.sent, clocks),
            later(self.begun, clocks),
            later(self.awaited, clocks),
            later(self.answers, clocks),
            max(0, self.addressed - clocks),
            max(0, self.last_beat - clocks),
            saved,
            counted,
        )


class WriteModel:
    """Packs groups into bus words and these into bursts, from a state on, as `BurstPacker` and `BurstWriter` do.

    Attributes
    ----------
    beats
        Bus words written.
    """

    def __init__(self, config: ArrayConfig, memory: MemoryTiming, state: WriteState) -> None:
        self.beats = 0
        self._bus = config.bus_bytes
        self._latency = memory.write_latency
        self._outstanding = memory.outstanding
        self._credit = Credit(memory.rate, state.counted, state.saved)
        self._moved = state.moved
        self._finished = state.finished
        self._sent = list(state.sent)
        self._begun = list(state.begun)
        self._awaited = list(state.awaited)
        self._answers = list(state.answers)
        self._addressed = state.addressed
        self._last_beat = state.last_beat
        self._pending = 0  # words of the burst that is being gathered

    @property
    def ready(self) -> int:
        """From which clock on a group is taken."""
        return self._moved

    @property
    def state(self) -> WriteState:
        """The state now, after a row's last group."""
        return WriteState(
            self._moved,
            self._finished,
            tuple(self._sent[-WORD_DEPTH:]),
            tuple(self._begun[-BURST_DEPTH:]),
            tuple(self._awaited[-WRITES_OUTSTANDING:]),
            tuple(self._answers[-self._outstanding :]),
            self._addressed,
            self._last_beat,
            self._credit.saved,
            self._credit.clock,
        )

    def take(self, clock: int, address: int, size: int, last_of_row: bool) -> None:
        """Take a group of `size` bytes in this clock."""
        bus, page_words = self._bus, PAGE_BYTES // self._bus
        self._moved = max(clock + 1, self._finished)
        now = self._moved
        word, end = address // bus, address % bus + size
        behind = (end - 1) // bus
        # The word that a group ends in stays behind, for the next group of the row.
        pushes = behind + (last_of_row or end % bus == 0)
        for number in range(pushes):
            now += 1
            closes = (
                (last_of_row and number == behind)
                or self._pending == BURST_BEATS - 1
                or (word + number) % page_words == page_words - 1
            )
            waiting = WORD_DEPTH - self._pending
            if len(self._sent) >= waiting:
                now = max(now, self._sent[-waiting] + 1)
            if closes and len(self._begun) >= BURST_DEPTH:
                now = max(now, self._begun[-BURST_DEPTH] + 1)
            self._pending += 1
            if closes:
                self._send(now, self._pending)
                self._pending = 0
        self._finished = now if pushes else now + 1

    def _send(self, pushed: int, beats: int) -> None:
        """Put a burst on the bus whose last word was pushed in this clock."""
        begun = max(pushed + QUEUE_LATENCY, self._addressed)
        if self._begun:
            begun = max(begun, self._begun[-1] + 1)
        if self._sent:
            begun = max(begun, self._sent[-1])
        if len(self._awaited) >= WRITES_OUTSTANDING - 1:
            begun = max(begun, self._awaited[1 - WRITES_OUTSTANDING] + 1)
        addressed = begun + 1
        if len(self._answers) >= self._outstanding:
            addressed = max(addressed, self._answers[-self._outstanding] + 1)
        # A word is registered for the bus no earlier than in the last clock of the one before it there.
        first = max(begun + 1, self._last_beat)
        if self._credit.rate == WHOLE_BEAT:
            self._sent.extend(range(first, first + beats))
            last_beat = first + beats
        else:
            last_beat = first
            for _ in range(beats):
                self._sent.append(last_beat)
                last_beat = self._credit.send(last_beat + 1, 1)
        before = self._answers[-1] if self._answers else 0
        awaited = max(begun + 1, before)
        answer = max(max(addressed, last_beat) + self._latency, awaited + 1, before + 1)
        self._begun.append(begun)
        self._awaited.append(awaited)
        self._answers.append(answer)
        self._addressed, self._last_beat = addressed, last_beat
        self.beats += beats
