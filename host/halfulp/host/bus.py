"""What a board or a simulator provides to the driver: registers and shared memory. NumPy only."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["BlockReader", "CoreBuffer", "CoreBus"]


class CoreBuffer(Protocol):
    """Memory that both the host and the core reach."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The host's view of it, [nbytes]."""
        ...

    @property
    def address(self) -> int:
        """Where the core finds its first byte; aligned to the core's bus word."""
        ...

    def flush(self) -> None:
        """Make what the host wrote visible to the core."""
        ...

    def invalidate(self) -> None:
        """Make what the core wrote visible to the host."""
        ...

    def free(self) -> None:
        """Give the memory back."""
        ...


class CoreBus(Protocol):
    """What a board or simulator provides. An OSError from any member means that the device is gone."""

    def read(self, offset: int) -> int:
        """Read the 32-bit register at byte `offset`."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte `offset`."""
        ...

    def allocate(self, nbytes: int) -> CoreBuffer:
        """Memory of at least `nbytes` bytes; MemoryError where there is none."""
        ...

    def wait(self, timeout_s: float) -> object:
        """Return when the interrupt line is high, or after about `timeout_s` seconds, or earlier.

        A TimeoutError says the same as returning late.
        """
        ...


@runtime_checkable
class BlockReader(Protocol):
    """A `CoreBus` on which registers next to each other cost little more than one, as on a serial line."""

    def read_block(self, offset: int, count: int) -> list[int]:
        """Read `count` 32-bit registers from byte `offset` on."""
        ...
