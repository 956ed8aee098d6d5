"""A virtual board whose core is the test double of conftest: registers and arithmetic in Python, nothing compiled."""

from __future__ import annotations

import threading
from typing import Any

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import register
from halfulp.sim.virtual_board import VirtualBoard

from .conftest import FakeBuffer, FakeCore

__all__ = ["CONFIG", "GoldenCore", "golden_board"]

CONFIG = ArrayConfig(
    rows=4,
    columns=4,
    a_formats=("int8", "float8_e4m3fn"),
    b_formats=("int8",),
    out_formats=("int8", "float32", "float8_e5m2"),
)


class _Memory:
    """A piece of the fake core's memory as the core sees it."""

    def __init__(self, buffer: FakeBuffer) -> None:
        self._buffer = buffer
        self.array = buffer._memory()
        self.address = buffer.address

    def free(self) -> None:
        self._buffer.free()


class GoldenCore:
    """`FakeCore` as a simulation: a GEMM ends when the clock runs."""

    def __init__(self, config: ArrayConfig = CONFIG) -> None:
        self.fake = FakeCore(config, 1 << 22)
        self.reads = 0
        self.hold = threading.Event()
        self.hold.set()

    def read(self, offset: int) -> int:
        self.reads += 1
        return self.fake.read(offset)

    def write(self, offset: int, value: int) -> None:
        self.fake.write(offset, value)

    def allocate(self, nbytes: int) -> Any:
        return _Memory(self.fake.allocate(nbytes))

    def run(self, clocks: int) -> bool:
        if self.hold.is_set() and not self.fake.hangs:
            self.fake.wait(0)
        return self.interrupt

    def advance(self, clocks: int) -> None:
        self.run(clocks)

    @property
    def interrupt(self) -> bool:
        enabled = self.fake.values[register("interrupt_enable").offset]
        return bool(self.fake.status["done"] & enabled | self.fake.status["error"] & enabled >> 1)

    def close(self) -> None:
        pass


def golden_board(config: ArrayConfig = CONFIG, **options: Any) -> tuple[GoldenCore, VirtualBoard]:
    """A core and its board."""
    core = GoldenCore(config)
    return core, VirtualBoard(core, **options)
