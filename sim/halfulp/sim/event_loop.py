"""An event loop for threads that have none: PYNQ's interrupts ask for one, though nobody here runs it."""

from __future__ import annotations

import asyncio
import atexit
import warnings
from functools import cache

__all__ = ["need_event_loop"]


def need_event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this thread; one that all such threads share is set where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            asyncio.set_event_loop(_idle_event_loop())
            return _idle_event_loop()


@cache
def _idle_event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop
