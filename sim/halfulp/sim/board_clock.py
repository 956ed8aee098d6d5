"""A thread that runs a simulated core while it has work, as hardware runs beside its host."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from halfulp.hw.registers import register

__all__ = ["BoardClock", "SimulatedCore", "SimulatedMemory"]

CONTROL, STATUS = (register(name).offset for name in ("control", "status"))

CLOCKS_A_TURN = 2000
"""Between two looks at the interrupt line, about 2 ms: how long the host waits for a register at most."""

CLOCKS_AFTER_INTERRUPT = 500
"""The same while the line is high: its GEMM is done, and whether another one runs is to be seen."""


class SimulatedMemory(Protocol):
    """A piece of the core's memory."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """Its bytes."""
        ...

    @property
    def address(self) -> int:
        """Of the first byte, as the core sees it."""
        ...

    def free(self) -> None:
        """Give it back."""
        ...


class SimulatedCore(Protocol):
    """What the board needs of a simulation; `halfulp.sim.rtl.RtlCore` is one."""

    def read(self, offset: int) -> int:
        """Read the 32-bit register at byte `offset`."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte `offset`."""
        ...

    def allocate(self, nbytes: int) -> SimulatedMemory:
        """Memory of `nbytes` bytes; MemoryError where there is none."""
        ...

    def run(self, clocks: int) -> bool:
        """Run until the interrupt line is high, at most so many clocks; return whether it is."""
        ...

    def advance(self, clocks: int) -> None:
        """Run so many clocks."""
        ...

    @property
    def interrupt(self) -> bool:
        """State of the interrupt line."""
        ...

    def close(self) -> None:
        """End the simulation."""
        ...


class BoardClock:
    """Owns a simulated core: runs it in a thread of its own, and lets the host at its registers in between.

    The thread sleeps while the core is idle. What goes wrong in it is raised at the host's next access.

    Parameters
    ----------
    core
        The simulation, which is closed with the clock.
    on_line
        Called in the thread, between two clocks, with the state of the interrupt line whenever that may have changed.
    """

    def __init__(self, core: SimulatedCore, on_line: Callable[[bool], None] = lambda _: None) -> None:
        self._core = core
        self._on_line = on_line
        self._access = threading.Lock()
        # Locks are not fair: without this one, a thread that takes `_access` again at once would keep the host out.
        self._turn = threading.Lock()
        self._work = threading.Event()
        self._failure: BaseException | None = None
        self._is_closed = False
        # The thread holds no reference to the clock, so that one that nobody closes ends when it is forgotten.
        self._thread = threading.Thread(target=_run, args=(weakref.ref(self), self._work), daemon=True)
        self._thread.name = "halfulp-board-clock"
        self._thread.start()
        self._finalizer = weakref.finalize(self, _end, core, self._access, self._work)

    def read(self, offset: int) -> int:
        """Read the 32-bit register at byte `offset`."""
        with self._stopped() as core:
            value = core.read(offset)
            self._on_line(core.interrupt)
        return value

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte `offset`."""
        with self._stopped() as core:
            core.write(offset, value)
            self._on_line(core.interrupt)
            if offset == CONTROL:  # the others give no work
                self._work.set()

    def allocate(self, nbytes: int) -> SimulatedMemory:
        """A piece of the core's memory."""
        with self._stopped() as core:
            return core.allocate(nbytes)

    @contextmanager
    def _stopped(self) -> Iterator[SimulatedCore]:
        """The core between two turns of the thread."""
        with self._turn, self._access:
            if self._is_closed:
                raise OSError("the virtual board has been closed")
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            yield self._core

    def close(self) -> None:
        """End the thread and the simulation; a second call does nothing."""
        with self._turn, self._access:
            self._is_closed = True
        self._finalizer()

    def _take_turn(self) -> None:
        """Some clocks, unless there is nothing to do."""
        with self._turn:
            pass
        with self._access:
            if self._is_closed:
                return
            try:
                if not self._core.read(STATUS) & 1:
                    self._work.clear()
                elif self._core.interrupt:
                    self._core.advance(CLOCKS_AFTER_INTERRUPT)
                else:
                    self._core.run(CLOCKS_A_TURN)
                self._on_line(self._core.interrupt)
            except BaseException as error:
                self._failure = error
                self._work.clear()


def _run(clock: weakref.ref[BoardClock], work: threading.Event) -> None:
    while True:
        work.wait()
        owner = clock()
        if owner is None or owner._is_closed:
            return
        owner._take_turn()
        del owner


def _end(core: SimulatedCore, access: threading.Lock, work: threading.Event) -> None:
    """Close the core once its thread is between two turns; also at the interpreter's end."""
    with access:
        core.close()
    work.set()
