"""`halfulp bench model`: roofline, cycle model and counter side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "docs" / "configs"
TINY = CONFIGS / "tiny_2x3.toml"


def test_the_targets_of_a_16_by_16_core_are_rows_and_are_reached_beside_uneven_gemms(halfulp):
    rows = json.loads(halfulp("bench", "model", "--json").out)
    assert len(rows) == 36
    assert {(*row["m_k_n"], row["target"]) for row in rows if row["target"]} == {
        (512, 512, 512, 0.95),
        (64, 784, 128, 0.85),
        (64, 128, 784, 0.85),
        (784, 64, 128, 0.85),
    }
    for row in rows:
        assert row["of_roofline"] >= (row["target"] or 0)
        assert row["first_query_us"] > 0 < row["next_query_us"]
        assert row["macs_per_cycle"] == pytest.approx(row["of_roofline"] * row["roofline_macs_per_cycle"])
    uneven = [row for row in rows if row["target"] is None]
    assert len(uneven) == 20
    assert all(any(size % 16 for size in row["m_k_n"]) for row in uneven)


def test_the_cores_counter_stands_beside_the_model(halfulp):
    options = ("--latency", 9, "--bandwidth", 0.5, "--clock", 100)
    rows = json.loads(halfulp("bench", "model", TINY, 7, 30, 9, "--rtl", "--json", *options).out)
    assert len(rows) == 4
    for row in rows:
        assert row["counted_cycles"] == row["cycles"]
        assert row["target"] is None
        assert row["seconds"] == row["cycles"] / 100e6
        assert row["mac_per_s"] == pytest.approx(7 * 30 * 9 / row["seconds"])


@pytest.mark.parametrize(
    ("name", "elements"), [("fp12_4x2", 4), ("mxfp8_2x3", 6), ("window_2x2", 4), ("int8_2x2_compact_serial", 4)]
)
def test_cores_of_every_kind_have_a_model(halfulp, name: str, elements: int):
    rows = json.loads(halfulp("bench", "model", CONFIGS / f"{name}.toml", 8, 64, 6, "--json").out)
    for row in rows:
        assert row["macs_per_cycle"] == 8 * 64 * 6 / row["cycles"]
        assert row["of_array"] == row["macs_per_cycle"] / elements


def test_the_table_leaves_out_what_was_not_asked_for(halfulp):
    table = halfulp("bench", "--model", TINY, 2, 3, 4).out
    assert table.count("2×3×4") == 4
    assert "asked first, µs" in table
    for absent in ("target", "counted", "G MAC/s"):
        assert absent not in table


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((TINY, 1, 2), f"bench model takes nothing, CONFIG, or CONFIG M K N, not '{TINY} 1 2'"),
        ((TINY, 1, "x", 2), "K must be a whole number of 1 or more, not 'x'"),
        ((TINY, 0, 1, 2), "M must be a whole number of 1 or more, not '0'"),
        (("--bandwidth", 2), "bandwidth must be above 0 and at most 1 beat a clock, not 2.0"),
        (("--clock", 0), "the clock must be above 0 MHz, not 0.0"),
    ],
)
def test_bad_requests_are_refused_in_one_line(halfulp, arguments: tuple, error: str):
    assert halfulp("bench", "model", *arguments).error == error


def test_sizes_are_for_the_model_only(halfulp):
    assert halfulp("bench", "rtl", TINY).error == f"only the suite model takes a core and sizes, not 'rtl': {TINY}"
