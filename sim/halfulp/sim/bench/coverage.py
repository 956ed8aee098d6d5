"""Functional coverage: which kinds of GEMM a run of the bench has seen and found right, and which it has yet to see.

A GEMM is described by one value of each factor (its formats, layouts, edges, what the memory did, how it ended). Cells
are the combinations of some factors' values that a core can have. No simulator needed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import ErrorCode
from halfulp.hw.schedule import GemmPlan
from halfulp.numerics.block_gemm import gemm_spec
from halfulp.numerics.rounding import Rounding
from halfulp.sim.bench.stimulus import GemmCase, build_case

__all__ = ["BEATS", "BEHAVIOURS", "RESPONSES", "Coverage", "Cross", "case_of", "describe", "factors", "refused"]

BEHAVIOURS = ("always ready", "slow reads", "slow writes", "random latency", "alternating ready")
"""How the memory takes and gives what it is asked for; see `BenchMemory.behave`."""

RESPONSES = ("SLVERR", "DECERR")
BEATS = ("first", "middle", "last")

CROSSES: tuple[tuple[str, ...], ...] = (
    ("A", "B"),
    ("A", "C"),
    ("B", "C"),
    ("A", "A layout"),
    ("B", "B layout"),
    ("C", "rounding"),
    ("C", "columns", "place"),
    ("A layout", "B layout", "K", "place"),
    ("A layout", "B layout", "rows", "columns"),
    ("rows", "columns", "K"),
    ("memory", "A layout", "B layout"),
    ("memory", "rows", "columns"),
    ("memory", "K", "place"),
    ("memory", "C"),
    ("outcome", "memory"),
    ("outcome", "A layout", "B layout"),
    ("bus error", "response", "beat"),
)
"""Factors whose values are combined."""

_CANDIDATES = 30


def factors(config: ArrayConfig) -> dict[str, tuple[str, ...]]:
    """The values of each factor that GEMMs of a core can have.

    rows, columns, K: whether the array's last tiles are whole, and whether K is loaded in chunks; place: whether all
    rows of A, B and C begin with a bus word, or none surely does; outcome: how a GEMM ends.
    """
    a_formats, b_formats = config.operands
    errors = (*refused(config), ErrorCode.QUEUE_OVERFLOW)
    return {
        "A": tuple(map(str, a_formats)),
        "B": tuple(map(str, b_formats)),
        "C": tuple(map(str, config.out_formats)),
        "rounding": tuple(config.roundings),
        "A layout": ("along K", "across K"),
        "B layout": ("along K", "across K"),
        "rows": ("whole", "partial")[: 2 if config.rows > 1 else 1],
        "columns": ("whole", "partial")[: 2 if config.columns > 1 else 1],
        "K": ("whole", "chunks")[: 2 if _chunked_k(config) <= config.max_k else 1],
        "place": ("aligned", "unaligned"),
        "memory": BEHAVIOURS,
        "outcome": ("right", "reset", "A fails", "B fails", "C fails", *(code.name for code in errors)),
        "bus error": ("A fails", "B fails", "C fails"),
        "response": RESPONSES,
        "beat": BEATS,
    }


def refused(config: ArrayConfig) -> dict[ErrorCode, dict[str, int]]:
    """What to change in a descriptor for it to be refused, by the error that it is refused with."""
    return {
        ErrorCode.ZERO_SIZE: {"n": 0},
        ErrorCode.K_TOO_LARGE: {"k": config.max_k + 1},
        ErrorCode.UNSUPPORTED_FORMAT: {"formats": 8},
        ErrorCode.UNSUPPORTED_ROUNDING: {"rounding": 15},
        ErrorCode.MISALIGNED: {"row_offset": 4},
        ErrorCode.SCALE_OUT_OF_RANGE: {"scale": 20_000},
    }


@dataclass
class Cross:
    """The cells of some factors: how often each was seen."""

    factors: tuple[str, ...]
    counts: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The factors' names."""
        return " × ".join(self.factors)

    @property
    def empty(self) -> list[tuple[str, ...]]:
        """Cells that were never seen."""
        return [cell for cell, count in self.counts.items() if not count]


class Coverage:
    """Counts what was seen, and says what to do next.

    Parameters
    ----------
    config
        The core, which decides what cells there are.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self._config = config
        self._factors = factors(config)
        self.crosses = [Cross(names, dict.fromkeys(self._cells(names), 0)) for names in CROSSES]

    def _cells(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        cells = list(itertools.product(*(self._factors[name] for name in names)))
        if "beat" in names:
            beats = _beats_of_a_result_row(self._config)
            possible = {"C fails": ("first", *(("last",) if beats > 1 else ()), *(("middle",) if beats > 2 else ()))}
            cells = [cell for cell in cells if cell[-1] in possible.get(cell[0], BEATS)]
        return cells

    def choose(self, rng: random.Random) -> dict[str, str] | None:
        """Values of all factors for the next GEMM, of some tried those that fill most cells; None: all are full."""
        open_ = [(cross.factors, cell) for cross in self.crosses for cell in cross.empty]
        if not open_:
            return None
        candidates: list[tuple[int, dict[str, str]]] = []
        for _ in range(_CANDIDATES):
            names, cell = rng.choice(open_)
            values = {name: rng.choice(choices) for name, choices in self._factors.items()}
            if rng.random() < 0.5:
                values["outcome"] = "right"
            if rng.random() < 0.8:
                values["K"] = "whole"  # chunks take long, and few cells ask for them
            values |= dict(zip(names, cell, strict=True))
            if "bus error" in names:
                values["outcome"] = values["bus error"]
            seen = self._visible(values)
            gained = sum(cell == tuple(seen.get(name, "") for name in names) for names, cell in open_)
            candidates.append((gained, values))
        return max(candidates, key=lambda candidate: candidate[0])[1]

    @staticmethod
    def _visible(values: Mapping[str, str]) -> dict[str, str]:
        """What a GEMM with these values shows: of a bus error only one that fails."""
        outcome = values["outcome"]
        seen = {name: value for name, value in values.items() if name not in ("bus error", "response", "beat")}
        if outcome.endswith("fails"):
            seen |= {"bus error": outcome, "response": values["response"], "beat": values["beat"]}
        return seen

    def record(self, values: Mapping[str, str]) -> None:
        """Count a GEMM by what was seen of it; factors of which nothing can be said are absent."""
        for cross in self.crosses:
            cell = tuple(values.get(name, "") for name in cross.factors)
            if cell in cross.counts:
                cross.counts[cell] += 1

    def to_list(self) -> list[dict[str, object]]:
        """For JSON: factors, and each cell with its count."""
        return [
            {"factors": cross.factors, "cells": [[*cell, count] for cell, count in cross.counts.items()]}
            for cross in self.crosses
        ]


def case_of(rng: np.random.Generator, config: ArrayConfig, values: Mapping[str, str]) -> GemmCase:
    """A GEMM with these values of the factors that a GEMM has by itself."""
    chunks = values["K"] == "chunks"
    m = _size(rng, config.rows, values["rows"] == "partial", one_tile=chunks)
    n = _size(rng, config.columns, values["columns"] == "partial", one_tile=chunks)
    words = config.bus_bytes // max(config.a_bytes, config.b_bytes)
    k = _chunked_k(config) + int(rng.integers(0, 4)) if chunks else int(rng.choice((1, 3, 3 * words, 4 * words + 1)))
    a_formats, b_formats = config.operands
    kind = values["rounding"]
    spec = gemm_spec(
        next(fmt for fmt in a_formats if str(fmt) == values["A"]),
        next(fmt for fmt in b_formats if str(fmt) == values["B"]),
        next(fmt for fmt in config.out_formats if str(fmt) == values["C"]),
        accumulator=config.accumulator,
        rounding=Rounding(kind, int(rng.integers(1, 17)) if kind.startswith("stochastic") else 0),
        scale=int(rng.integers(-8, 9)),
        overflow="ieee" if rng.random() < 0.5 else "saturate",
    )
    across = values["A layout"] == "across K", values["B layout"] == "across K"
    depth = config.steps(min(k, config.max_k))
    elements = (config.a_bytes, config.b_bytes, spec.out.container_bytes)
    rows = (m if across[0] else depth, n if across[1] else depth, n)
    strides: list[int] = []
    skews: list[int] = []
    for size, count in zip(elements, rows, strict=True):
        whole = -(-size * count // config.bus_bytes) * config.bus_bytes
        aligned = values["place"] == "aligned"
        strides.append(whole if aligned else whole + size)
        skews.append(0 if aligned else config.bus_bytes - size * int(rng.integers(1, config.bus_bytes // size)))
    return build_case(
        rng,
        spec=spec,
        shape=(m, n, min(k, config.max_k)),
        across_k=across,
        strides=(strides[0], strides[1], strides[2]),
        skews=(skews[0], skews[1], skews[2]),
        anything=bool(rng.random() < 0.3),
    )


def describe(case: GemmCase, config: ArrayConfig) -> dict[str, str]:
    """The values that a GEMM has by itself, found out from what was made of it."""
    m, n, k = case.shape
    layouts = ("along K", "across K")
    plan = GemmPlan(
        config=config,
        m=m,
        n=n,
        k=config.steps(k),
        a_address=case.skews[0],
        b_address=case.skews[1],
        a_stride=case.strides[0],
        b_stride=case.strides[1],
        a_across_k=case.a_across_k,
        b_across_k=case.b_across_k,
    )
    values = {
        "A": str(case.spec.a),
        "B": str(case.spec.b),
        "C": str(case.spec.out),
        "rounding": case.spec.rounding.kind,
        "A layout": layouts[case.a_across_k],
        "B layout": layouts[case.b_across_k],
        "rows": "partial" if m % config.rows else "whole",
        "columns": "partial" if n % config.columns else "whole",
        "K": "chunks" if plan.chunked else "whole",
    }
    begins = [(skew | stride) % config.bus_bytes for skew, stride in zip(case.skews, case.strides, strict=True)]
    if all(begins) or not any(begins):
        values["place"] = "unaligned" if all(begins) else "aligned"
    return values


def _size(rng: np.random.Generator, lanes: int, partial: bool, *, one_tile: bool) -> int:
    whole = 0 if one_tile else lanes * int(rng.integers(0, 2))
    return whole + (int(rng.integers(1, lanes)) if partial else lanes)


def _chunked_k(config: ArrayConfig) -> int:
    """The least K of which two panels do not fit into a bank, wherever they begin."""
    return config.buffer_depth // 2 * (config.bus_bytes // max(config.a_bytes, config.b_bytes)) + 1


def _beats_of_a_result_row(config: ArrayConfig) -> int:
    """Most bus words that a row of a tile's results lies in."""
    sizes = [fmt.container_bytes for fmt in config.out_formats]
    return max(-(-(config.bus_bytes - size + config.columns * size) // config.bus_bytes) for size in sizes)
