"""The memory that a simulated core sees: one array, handed out in buffers."""

from __future__ import annotations

import bisect

import numpy as np
import numpy.typing as npt

__all__ = ["DeviceBuffer", "DeviceMemory"]

ALIGNMENT = 64
"""Bytes; a multiple of every bus word, and what PYNQ's allocator guarantees at least."""


class DeviceBuffer:
    """Bytes that host and core share, until `free`.

    The simulated memory has no caches in between: what one side writes, the other reads. `flush` and
    `invalidate` are there because real boards need them.
    """

    def __init__(self, memory: DeviceMemory, offset: int, nbytes: int) -> None:
        self._memory: DeviceMemory | None = memory
        self._offset = offset
        self._nbytes = nbytes

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The bytes as the host sees them, [nbytes]; not cleared."""
        return self._owner.array[self._offset : self._offset + self._nbytes]

    @property
    def address(self) -> int:
        """Address of the first byte as the core sees it; a multiple of 64."""
        return self._owner.base + self._offset

    @property
    def nbytes(self) -> int:
        """Bytes asked for."""
        return self._nbytes

    def flush(self) -> None:
        """Make the host's writes visible to the core."""

    def invalidate(self) -> None:
        """Make the core's writes visible to the host."""

    def free(self) -> None:
        """Give the bytes back; a second call does nothing. The buffer cannot be used afterwards."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.release(self._offset, self._nbytes)

    @property
    def _owner(self) -> DeviceMemory:
        if self._memory is None:
            raise ValueError(f"this buffer of {self._nbytes} bytes has been freed")
        return self._memory


class DeviceMemory:
    """A pool of memory at a base address; the operating system commits pages as they are first written.

    Parameters
    ----------
    nbytes
        Size; a multiple of 64.
    base
        Device address of the first byte; a multiple of 4096.
    """

    def __init__(self, nbytes: int, *, base: int = 0x1000_0000) -> None:
        if nbytes <= 0 or nbytes % ALIGNMENT:
            raise ValueError(f"memory_bytes must be a positive multiple of {ALIGNMENT}, not {nbytes!r}")
        if not 0 <= base <= (1 << 64) - nbytes or base % 4096:
            raise ValueError(f"the base address must be a multiple of 4096 below 2**64 - {nbytes}, not {base:#x}")
        self.array: npt.NDArray[np.uint8] = np.zeros(nbytes, np.uint8)
        self.base = base
        # Free extents: offset and size, by offset; no two touch.
        self._free: list[tuple[int, int]] = [(0, nbytes)]

    @property
    def free_bytes(self) -> int:
        """Bytes not allocated."""
        return sum(size for _, size in self._free)

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """Return a buffer from the first gap that holds it; raise MemoryError where none does."""
        if isinstance(nbytes, bool) or not isinstance(nbytes, (int, np.integer)) or nbytes < 1:
            raise ValueError(f"a buffer has at least 1 byte, not {nbytes!r}")
        needed = _rounded(int(nbytes))
        for index, (offset, size) in enumerate(self._free):
            if size >= needed:
                self._free[index : index + 1] = [(offset + needed, size - needed)] if size > needed else []
                return DeviceBuffer(self, offset, int(nbytes))
        raise MemoryError(
            f"no {nbytes} bytes in one piece left in the simulated memory of {self.array.size} bytes: "
            "free buffers, or open the core with a larger memory_bytes"
        )

    def release(self, offset: int, nbytes: int) -> None:
        """Take an extent back and join it with its neighbours; called by the buffer."""
        size = _rounded(nbytes)
        index = bisect.bisect_left(self._free, (offset, 0))
        first, last = index, index
        if index < len(self._free) and self._free[index][0] == offset + size:
            size += self._free[index][1]
            last += 1
        if index and sum(self._free[index - 1]) == offset:
            first -= 1
            offset, size = self._free[first][0], self._free[first][1] + size
        self._free[first:last] = [(offset, size)]


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
