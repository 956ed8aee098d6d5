"""The simulated memory's pool: aligned, never overlapping, and whole again when everything is freed."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.sim.device_memory import ALIGNMENT, DeviceMemory


def test_buffers_are_aligned_disjoint_and_come_back(rng: np.random.Generator):
    memory = DeviceMemory(1 << 16, base=0x4000_0000)
    held = []
    for step in range(2000):
        if held and rng.random() < 0.5:
            buffer, fill = held.pop(int(rng.integers(len(held))))
            assert (buffer.array == fill).all(), "another buffer wrote into this one"
            buffer.free()
        else:
            try:
                buffer = memory.allocate(int(rng.integers(1, 5000)))
            except MemoryError:
                continue
            assert buffer.address % ALIGNMENT == 0
            assert 0x4000_0000 <= buffer.address <= 0x4001_0000 - buffer.nbytes
            buffer.array[:] = step % 251
            held.append((buffer, step % 251))
    for buffer, _ in held:
        buffer.free()
    assert memory.free_bytes == 1 << 16
    assert memory.allocate(1 << 16).address == 0x4000_0000


def test_the_array_shows_the_memory():
    memory = DeviceMemory(4096)
    memory.allocate(100)
    buffer = memory.allocate(10)
    buffer.array[:] = 7
    offset = buffer.address - memory.base
    assert memory.array[offset : offset + 11].tolist() == [7] * 10 + [0]
    buffer.flush()
    buffer.invalidate()
    assert (buffer.array == 7).all()


def test_freeing_twice_does_nothing_and_use_afterwards_is_an_error():
    memory = DeviceMemory(4096)
    buffer = memory.allocate(64)
    buffer.free()
    other = memory.allocate(64)
    buffer.free()
    assert memory.free_bytes == 4096 - 64
    with pytest.raises(ValueError, match="this buffer of 64 bytes has been freed"):
        buffer.array[0] = 1
    other.free()


def test_what_does_not_fit_says_so():
    memory = DeviceMemory(4096)
    with pytest.raises(MemoryError, match="no 4097 bytes in one piece left in the simulated memory of 4096 bytes"):
        memory.allocate(4097)
    with pytest.raises(ValueError, match="a buffer has at least 1 byte, not 0"):
        memory.allocate(0)
    with pytest.raises(ValueError, match="memory_bytes must be a positive multiple of 64, not 100"):
        DeviceMemory(100)
