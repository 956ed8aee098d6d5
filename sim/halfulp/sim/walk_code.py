"""The functions that follow a GEMM's events, compiled; or as they are where llvmlite is missing, which takes longer."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from halfulp.sim.drain_model import drain_clocks
from halfulp.sim.gemm_walk import walk_groups
from halfulp.sim.load_model import load_clocks, most_words

__all__ = ["WalkCode", "walk_code"]


class WalkCode(NamedTuple):
    """Functions of arrays of 64-bit integers (``array("q")``) and integers, as where they are declared."""

    walk_groups: Callable[..., int | None]
    load_clocks: Callable[..., int]
    drain_clocks: Callable[..., int]
    most_words: Callable[..., int]


@lru_cache(maxsize=1)
def walk_code() -> WalkCode:
    """The functions, compiled once a process, or found in the cache."""
    functions = (walk_groups, load_clocks, drain_clocks, most_words)
    try:
        from halfulp.sim.scalar_code import compile_functions
    except ModuleNotFoundError as error:
        if error.name != "llvmlite":
            raise
        return WalkCode(*functions)
    return WalkCode(*[partial(_call, compiled) for compiled in compile_functions(functions)])


def _call(function: Callable[..., int], *arguments: array[int] | int) -> int:
    return function(*[one if isinstance(one, int) else one.buffer_info()[0] for one in arguments])
