"""The virtual board's clock: the core runs beside its host, and never while the host is at its registers."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from halfulp.hw.registers import register
from halfulp.sim.board_clock import BoardClock

CONTROL, STATUS, M = (register(name).offset for name in ("control", "status", "m"))


class Memory:
    def __init__(self, nbytes: int) -> None:
        self.array = np.zeros(nbytes, np.uint8)
        self.address = 0x1000

    def free(self) -> None:
        pass


class CountingCore:
    """Runs for `work` clocks after a start; its interrupt line rises when `rises` clocks of them are left."""

    def __init__(self, work: int = 0, rises: int = 0) -> None:
        self.amount, self.rises = work, rises
        self.left = self.clocks = 0
        self.is_closed = False
        self.fails: BaseException | None = None
        self.users = 0

    def _enter(self) -> None:
        self.users += 1
        assert self.users == 1, "two threads at once"
        assert not self.is_closed, "used after it was closed"

    def read(self, offset: int) -> int:
        self._enter()
        self.users -= 1
        return int(self.left > 0) if offset == STATUS else 0

    def write(self, offset: int, value: int) -> None:
        self._enter()
        if offset == CONTROL:
            self.left = self.amount
        self.users -= 1

    def allocate(self, nbytes: int) -> Memory:
        return Memory(nbytes)

    def run(self, clocks: int) -> bool:
        for _ in range(clocks):
            if self.interrupt:
                break
            self._clock()
        time.sleep(0)
        return self.interrupt

    def advance(self, clocks: int) -> None:
        for _ in range(clocks):
            self._clock()

    def _clock(self) -> None:
        self._enter()
        if self.fails:
            self.users -= 1
            raise self.fails
        self.clocks += 1
        self.left = max(0, self.left - 1)
        self.users -= 1

    @property
    def interrupt(self) -> bool:
        return 0 < self.left <= self.rises

    def close(self) -> None:
        self.is_closed = True


def eventually(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + 20
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.001)
    return True


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "halfulp-board-clock"]


def test_the_core_runs_by_itself_until_its_work_is_done():
    core = CountingCore(work=10_000)
    clock = BoardClock(core)
    clock.write(M, 3)
    time.sleep(0.02)
    assert core.clocks == 0, "a descriptor's register is no work"
    clock.write(CONTROL, 1)
    assert eventually(lambda: core.left == 0)
    time.sleep(0.02)
    done = core.clocks
    assert 10_000 <= done <= 12_000
    time.sleep(0.02)
    assert core.clocks == done, "an idle core needs no clock"
    clock.close()


def test_the_core_goes_on_while_its_interrupt_line_is_high():
    core = CountingCore(work=10_000, rises=5_000)
    lines: list[bool] = []
    clock = BoardClock(core, lines.append)
    clock.write(CONTROL, 1)
    assert eventually(lambda: core.left == 0)
    clock.close()
    assert lines[0] is False
    assert True in lines


def test_the_host_is_let_in_while_the_core_runs():
    core = CountingCore(work=1 << 60)
    clock = BoardClock(core)
    clock.write(CONTROL, 1)
    for _ in range(50):
        assert clock.read(STATUS) == 1
    before = core.clocks
    assert eventually(lambda: core.clocks > before), "and the core goes on afterwards"
    clock.close()
    assert core.is_closed


def test_what_fails_in_the_thread_is_raised_at_the_next_access():
    core = CountingCore(work=1000)
    clock = BoardClock(core)
    core.fails = RuntimeError("a burst crosses 4 KiB")
    clock.write(CONTROL, 1)
    assert eventually(lambda: clock._failure is not None)
    with pytest.raises(RuntimeError, match="a burst crosses 4 KiB"):
        clock.read(STATUS)
    core.fails = None
    clock.write(CONTROL, 1)
    assert eventually(lambda: core.left == 0), "the board goes on"
    clock.close()


def test_a_closed_board_refuses_and_its_thread_ends():
    clock = BoardClock(CountingCore())
    thread = clock._thread
    clock.close()
    clock.close()
    with pytest.raises(OSError, match="the virtual board has been closed"):
        clock.read(STATUS)
    thread.join(20)
    assert not thread.is_alive()


def test_a_forgotten_board_ends():
    core = CountingCore(work=1 << 60)
    clock = BoardClock(core)
    thread = clock._thread
    clock.write(CONTROL, 1)
    del clock
    assert eventually(lambda: bool(gc.collect() or True) and core.is_closed)
    thread.join(20)
    assert not thread.is_alive()
