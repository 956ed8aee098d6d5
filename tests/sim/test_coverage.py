"""Functional coverage: cells are what a core can have, a GEMM counts by what was made of it, and all can be filled."""

from __future__ import annotations

import random

import numpy as np

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import ErrorCode
from halfulp.sim.bench.coverage import Coverage, case_of, describe, factors, refused

CONFIG = ArrayConfig(
    rows=2,
    columns=3,
    lanes=1,
    a_formats=("e4m3", "e5m2"),
    b_formats=("e4m3",),
    out_formats=("float32", "bfloat16"),
    accumulator="exact:512",
    buffer_depth=64,
)
SELF = ("A", "B", "C", "rounding", "A layout", "B layout", "rows", "columns", "K", "place")


def test_every_error_of_a_descriptor_is_among_the_outcomes() -> None:
    # Those of the bus are outcomes by operand, and a register is too wide only where a core has narrow ones.
    others = {"NONE", "READ_ERROR", "WRITE_ERROR", "TOO_WIDE"}
    errors = {code.name for code in ErrorCode} - others
    assert errors == {code.name for code in refused(CONFIG)} | {"QUEUE_OVERFLOW"}
    assert errors <= set(factors(CONFIG)["outcome"])


def test_cells_are_what_the_core_can_have() -> None:
    assert factors(CONFIG)["K"] == ("whole", "chunks")
    one = ArrayConfig(rows=1, columns=1, lanes=1, out_formats=("int8",), accumulator="exact:64", buffer_depth=64)
    values = factors(one)
    assert (values["rows"], values["columns"], values["K"]) == (("whole",), ("whole",), ("whole",))
    # A result of a byte lies in one bus word, so no beat but the first can fail.
    beats = next(cross for cross in Coverage(one).crosses if "beat" in cross.factors)
    assert [cell for cell in beats.counts if cell[0] == "C fails"] == [
        ("C fails", "SLVERR", "first"),
        ("C fails", "DECERR", "first"),
    ]


def test_a_case_is_what_was_wanted(rng: np.random.Generator, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(200):
        values = {name: chosen.choice(choices) for name, choices in factors(CONFIG).items()}
        assert describe(case_of(rng, CONFIG, values), CONFIG) == {name: values[name] for name in SELF}


def test_choices_fill_every_cell(seed: int) -> None:
    """Where all goes as it is wanted, 100 GEMMs are enough."""
    coverage, chosen = Coverage(CONFIG), random.Random(seed)
    for _ in range(100):
        values = coverage.choose(chosen)
        if values is None:
            break
        if not values["outcome"].endswith("fails"):
            values = {name: value for name, value in values.items() if name not in ("bus error", "response", "beat")}
        else:
            values = values | {"bus error": values["outcome"]}
        coverage.record(values)
        coverage.record(values | {"outcome": "right", "bus error": "", "beat": ""})
    else:
        raise AssertionError([cross.empty for cross in coverage.crosses])
    assert not any(cross.empty for cross in coverage.crosses)
    assert coverage.to_list()[0]["factors"] == ("A", "B")


def test_what_is_not_known_counts_nowhere() -> None:
    coverage = Coverage(CONFIG)
    coverage.record({"A": "float8_e4m3fn"})
    assert not any(sum(cross.counts.values()) for cross in coverage.crosses)
    assert coverage.crosses[0].name == "A × B"
    assert len(coverage.crosses[0].empty) == 2
