"""The largest array that fits: the model goes through what it was fitted to, and synthesis has the last word."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from halfulp.boards import fit
from halfulp.boards.board import BOARDS, Board
from halfulp.boards.fit import AreaModel, build_fitted, candidates, fit_board, fit_model, fits, part_limits
from halfulp.boards.open_build import ResourceError, multipliers_for, occupied
from halfulp.boards.programs import ProgramError
from halfulp.boards.synthesis import Area
from halfulp.hw.config import ArrayConfig

BOARD = BOARDS.get("ulx3s")
CONFIG = ArrayConfig(rows=2, columns=2, lanes=2, a_formats="int8", b_formats="int8", out_formats="int8")
ELEMENTS = {"dsps": Area(40, 70, 1, 0), "booth": Area(170, 70, 0, 0), "luts": Area(190, 70, 0, 0)}
DESIGN: dict[str, Any] = {"frequency": 50e6, "baud": 3_000_000, "memory_bytes": 65536}


def truth(rows: int, columns: int, extra: float = 0) -> Area:
    """A part of the world that is as the model believes, and `extra` LUTs besides."""
    kind = multipliers_for(CONFIG.replace(rows=rows, columns=columns), BOARD.dsps)
    rest = Area(7000 + 100 * rows + 150 * columns + extra, 6000 + 50 * rows, 3, 40 + 2 * rows + 2 * columns)
    return rest + ELEMENTS[kind] * (rows * columns)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processing elements of `ELEMENTS`, without synthesis."""
    monkeypatch.setattr(fit, "block_area", lambda config, name, *, family, dsps: ELEMENTS["dsps" if dsps else "booth"])


@pytest.fixture
def world(blocks: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[tuple[int, int]]]:
    """Synthesis as `truth` has it, of cores of more than 64 elements with that many LUTs besides; what was asked."""
    asked: list[tuple[int, int]] = []

    def change(extra: float) -> list[tuple[int, int]]:
        def synthesise(sources: dict[str, str], **options: object):
            rows, columns = map(int, sources["design.v"].split())
            asked.append((rows, columns))

            class Outcome:
                area = truth(rows, columns, extra if rows * columns > 64 else 0)

            return Outcome

        monkeypatch.setattr(fit, "synthesise", synthesise)
        monkeypatch.setattr(fit, "serial_design", lambda config, **design: f"{config.rows} {config.columns}")
        return asked

    return change


def test_the_model_goes_through_what_is_linear(blocks: None):
    model = fit_model(BOARD, CONFIG, truth)
    for rows, columns in ((2, 2), (7, 4), (12, 12), (20, 30)):
        kind = multipliers_for(CONFIG.replace(rows=rows, columns=columns), BOARD.dsps)
        seen, wanted = model.area(rows, columns, kind), truth(rows, columns)
        assert seen.luts == pytest.approx(wanted.luts)
        assert seen.flip_flops == pytest.approx(wanted.flip_flops)
        assert (seen.dsps, seen.block_rams) == pytest.approx((wanted.dsps, wanted.block_rams))


PACKED = {
    "icebreaker": (Area(3909, 2598, 2, 28), 5113),
    "ice40-hx8k": (Area(4836, 3099, 0, 30), 6202),
    "tang-nano-9k": (Area(5360, 3845, 0, 7), 5654 + 3845 - 1553),
}
"""Of compact cores of int8, 1×2 and 2×2, and a 1×2 core of int4: what Yosys counts, and nextpnr's logic cells.

Of a Gowin part it counts LUTs and flip-flops, of which 1,553 share a cell.
"""


@pytest.mark.parametrize("name", PACKED)
def test_flip_flops_take_logic_cells(name: str):
    area, packed = PACKED[name]
    # Only packing tells which flip-flops share a cell with a LUT; the estimate takes a fixed share of them.
    assert abs(occupied(BOARDS.get(name), area).luts - packed) * 100 <= packed
    assert occupied(BOARD, area) == area


@pytest.mark.parametrize("name", PACKED)
def test_what_has_been_placed_and_routed_fits(name: str):
    board, (area, packed) = BOARDS.get(name), PACKED[name]
    assert packed <= board.luts
    assert fits(occupied(board, area), part_limits(board))


def test_what_has_too_few_cells_does_not_fit():
    # 2×2 of int8 as Yosys counts: LUTs alone, and flip-flops alone, would do.
    area = Area(6245, 4881, 2, 10)
    board = BOARDS.get("tang-nano-9k")
    assert fits(area, part_limits(board))
    assert not fits(occupied(board, area), part_limits(board))
    assert fits(occupied(BOARDS.get("tang-nano-20k"), area), part_limits(BOARDS.get("tang-nano-20k")))


def test_interleaved_rows_share_elements():
    model = AreaModel(base=Area(), row=Area(), column=Area(), elements={"luts": Area(1, 2)}, rows_per_element=3)
    assert model.area(6, 4, "luts") == Area(8, 16)


def test_candidates_are_the_largest_first_and_all_fit(blocks: None):
    model, limits = fit_model(BOARD, CONFIG, truth), part_limits(BOARD)
    found = candidates(CONFIG, model, limits, BOARD.dsps)
    sizes = [rows * columns for rows, columns in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(columns % CONFIG.lanes == 0 for _, columns in found)
    assert all(fits(truth(rows, columns), limits) for rows, columns in found)
    # Nothing larger was left out.
    best = found[0][0] * found[0][1]
    larger = [(r, c) for r in range(1, 65) for c in range(2, 65, 2) if r * c > best]
    assert not any(fits(truth(r, c), limits) for r, c in larger)


def test_what_the_model_names_is_synthesised(world: Callable[[float], list[tuple[int, int]]]):
    asked = world(0)
    found = fit_board(BOARD, CONFIG, **DESIGN)
    assert asked[:3] == [(2, 2), (4, 2), (2, 4)]
    assert asked[3:] == [(found.config.rows, found.config.columns)] == list(found.synthesised)
    assert found.area.luts == pytest.approx(found.estimate.luts)
    assert fits(found.area, found.limits)


def test_the_next_smaller_is_taken_where_the_model_was_wrong(world: Callable[[float], list[tuple[int, int]]]):
    world(0)
    first = fit_board(BOARD, CONFIG, **DESIGN)
    # As much more as makes the first miss the limit, but not the second.
    world(first.limits.luts - first.area.luts + 1)
    found = fit_board(BOARD, CONFIG, **DESIGN)
    assert len(found.synthesised) > 1
    assert found.synthesised[0] == (first.config.rows, first.config.columns)
    assert fits(found.area, found.limits)
    world(1e6)
    with pytest.raises(ResourceError, match="the sizes that should have fitted ulx3s do not, by synthesis: "):
        fit_board(BOARD, CONFIG, **DESIGN)


def test_a_smaller_one_is_built_where_the_largest_cannot_be(
    world: Callable[[float], list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
):
    world(0)
    tried: list[tuple[int, int]] = []
    routes = 1e9

    def build_open(board: Board, config: ArrayConfig, **options: Any) -> ArrayConfig:
        assert (options["timeout"], options["seed"]) == (60, 2)
        tried.append((config.rows, config.columns))
        if config.rows * config.columns > routes:
            raise ProgramError(f"{config.rows}×{config.columns} is too full")
        return config

    monkeypatch.setattr(fit, "build_open", build_open)
    first = build_fitted(BOARD, CONFIG, timeout=60, seed=2)
    ((rows, columns),) = tried
    assert first.failures == []
    routes = 0.92 * rows * columns
    made = build_fitted(BOARD, CONFIG, timeout=60, seed=2)
    sizes = [r * c for r, c in tried[1:]]
    assert made.failures == [f"{r}×{c} is too full" for r, c in tried[1:-1]]
    assert all(after <= 0.95 * before for before, after in pairwise(sizes))
    assert made.build is made.fit.config
    assert tried[-1] == (made.fit.config.rows, made.fit.config.columns)
    routes = 0
    with pytest.raises(ProgramError, match="is too full"):
        build_fitted(BOARD, CONFIG, timeout=60, seed=2)
    assert len(tried) == 1 + len(sizes) + fit.TRIES


def test_a_board_that_is_too_small_is_told(world: Callable[[float], list[tuple[int, int]]]):
    world(0)
    small = BOARDS.get("icebreaker")
    with pytest.raises(ResourceError, match=r"1×2 fits icebreaker: about .* logic cells and 4. block RAMs of 5174"):
        fit_board(small, CONFIG, **DESIGN)


def test_a_board_of_vivados_has_no_model():
    with pytest.raises(ValueError, match="pynq-z2 is built by vivado, not by open tools"):
        part_limits(BOARDS.get("pynq-z2"))
