"""When results are in memory: the clocks of `BurstPacker` and `BurstWriter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from halfulp.hw.burst_packer import PAGE_BYTES
from halfulp.hw.burst_writer import WRITES_OUTSTANDING
from halfulp.hw.config import BURST_BEATS
from halfulp.hw.writer import WORD_DEPTH
from halfulp.sim.memory_timing import WHOLE_BEAT, Credit, MemoryTiming, later

__all__ = ["NEVER", "Pushes", "WriteModel", "WriteState", "pushes_of", "row_pushes"]

BURST_DEPTH = WORD_DEPTH // 2
"""Bursts that wait for the bus."""

QUEUE_LATENCY = 3
"""Clocks from a push into a queue of the writer to the first in which the bus has it."""

NEVER = -(1 << 60)
"""A clock before all others."""


class Pushes(NamedTuple):
    """The bus words that a group of results completes.

    words: of each, words of its burst before it, and beats of the burst that it ends or 0; at_once: whether none but
    the last one ends a burst; number, room, beats: how many, and of the last one how many words have to have left the
    queue before it, counted from the last one sent, and the beats of the burst that it ends.
    """

    words: tuple[tuple[int, int], ...]
    at_once: bool
    number: int
    room: int
    beats: int


def pushes_of(words: Sequence[tuple[int, int]]) -> Pushes:
    """The same from its words."""
    pending, beats = words[-1] if words else (0, 0)
    return Pushes(tuple(words), not any(ends for _, ends in words[:-1]), len(words), WORD_DEPTH - pending, beats)


def row_pushes(address: int, row_bytes: int, group_bytes: int, bus_bytes: int) -> tuple[Pushes, ...]:
    """What each group of a row of results completes, the row's first byte at this address."""
    row: list[Pushes] = []
    pending, page_words = 0, PAGE_BYTES // bus_bytes
    for begin in range(0, row_bytes, group_bytes):
        size = min(group_bytes, row_bytes - begin)
        is_last = begin + size == row_bytes
        word, end = (address + begin) // bus_bytes, (address + begin) % bus_bytes + size
        behind = (end - 1) // bus_bytes
        pushes: list[tuple[int, int]] = []
        # The word that a group ends in stays behind, for the next group of the row.
        for number in range(behind + (is_last or end % bus_bytes == 0)):
            closes = (
                (is_last and number == behind)
                or pending == BURST_BEATS - 1
                or (word + number) % page_words == page_words - 1
            )
            pushes.append((pending, pending + 1 if closes else 0))
            pending = 0 if closes else pending + 1
        row.append(pushes_of(pushes))
    return tuple(row)


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
    ready
        From which clock on a group is taken.
    beats
        Bus words written.
    """

    def __init__(self, memory: MemoryTiming, state: WriteState) -> None:
        self.beats = 0
        self.ready = state.moved
        self._latency = memory.write_latency
        self._outstanding = memory.outstanding
        self._credit = Credit(memory.rate, state.counted, state.saved)
        self._finished = state.finished
        self._sent = list(state.sent)
        self._begun = list(state.begun)
        self._awaited = list(state.awaited)
        self._answers = list(state.answers)
        self._addressed = state.addressed
        self._last_beat = state.last_beat

    @property
    def state(self) -> WriteState:
        """The state now, after a row's last group."""
        return WriteState(
            self.ready,
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

    def take(self, clock: int, pushes: Pushes) -> None:
        """Take a group in this clock, with the bus words that it completes."""
        now = clock + 1
        if now < self._finished:
            now = self._finished
        self.ready = now
        words, at_once, number, room, beats = pushes
        sent = self._sent
        if at_once and (len(sent) < room or sent[-room] <= now):
            now += number or 1
            if beats:
                now = self._send(now, beats)
            self._finished = now
            return
        for pending, beats in words:
            now += 1
            waiting = WORD_DEPTH - pending
            if len(sent) >= waiting and sent[-waiting] >= now:
                now = sent[-waiting] + 1
            if beats:
                now = self._send(now, beats)
        self._finished = now

    def _send(self, pushed: int, beats: int) -> int:
        """Put a burst on the bus whose last word is pushed in this clock or later; return when."""
        if len(self._begun) >= BURST_DEPTH:
            pushed = max(pushed, self._begun[-BURST_DEPTH] + 1)
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
        return pushed
