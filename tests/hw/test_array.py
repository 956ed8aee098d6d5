# amaranth: UnusedElaboratable=no
"""The systolic array: exact sums in every place, captured when the array says, shifted out in order."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from halfulp.hw.array import SystolicArray, first_capture, minimum_tile_interval
from halfulp.hw.config import ArrayConfig

SIGNED = ArrayConfig(rows=2, columns=3, lanes=1, a_formats=("int8",), b_formats=("int8", "uint8"))


def test_results_come_in_time_and_shift_out_row_by_row(rng: np.random.Generator) -> None:
    """Tiles with bubbles between their steps, and a format that changes from tile to tile."""
    array = SystolicArray(config=SIGNED)
    rows, columns = SIGNED.rows, SIGNED.columns
    tiles = [(rng.integers(-128, 128, (rows, k)), rng.integers(0, 256, (k, columns))) for k in (1, 4, 7, 2, 1)]
    seen: list[list[list[int]]] = []

    async def bench(ctx: Any) -> None:
        history: deque[Any] = deque([None] * (rows + columns))
        steps: deque[Any] = deque()
        last = -minimum_tile_interval(SIGNED, rows)
        for number, (a, b) in enumerate(tiles):
            for k in range(a.shape[1]):
                # A tile's first step may follow the last one of the tile before at once, which has another format;
                # its own last step has to wait until those results are gone.
                wait = minimum_tile_interval(SIGNED, rows) - (len(steps) - last) if k == a.shape[1] - 1 else 0
                steps.extend([None] * max(wait, int(rng.integers(3)) * (k > 0)))
                steps.append((a[:, k], b[k], k == 0, k == a.shape[1] - 1, number % 2))
            last = len(steps) - 1
        due: list[int] = []
        shifting = 0
        for clock in range(len(steps) + 20):
            step = steps.popleft() if steps else None
            history.appendleft(step)
            history.pop()
            ctx.set(array.feed.valid, int(step is not None))
            if step is not None:
                ctx.set(array.feed.first, int(step[2]))
                ctx.set(array.feed.last, int(step[3]))
                ctx.set(array.feed.b_format, step[4])
                if step[3]:
                    due.append(clock + array.latency)
            for i in range(rows):
                ctx.set(array.feed.a_code[i], int(history[i][0][i]) & 255 if history[i] else 0x55)
            for j in range(columns):
                ctx.set(array.feed.b_code[j], int(history[j][1][j]) if history[j] else 0xAA)
            if shifting:
                seen[-1].append([ctx.get(array.top[j].sum) for j in range(columns)])
                shifting -= 1
                ctx.set(array.shift, int(shifting > 0))
            captured = bool(ctx.get(array.captured))
            assert captured == (clock in due)
            if captured:
                seen.append([])
                shifting = rows
            await ctx.tick()

    simulator = Simulator(array)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(seen) == len(tiles)
    for number, (a, b) in enumerate(tiles):
        signed_b = b if number % 2 else np.where(b < 128, b, b - 256)
        assert np.array_equal(np.array(seen[number]), a @ signed_b), f"tile {number}"


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (8, 8)])
def test_latencies(rows: int, columns: int) -> None:
    config = ArrayConfig(rows=rows, columns=columns, lanes=1)
    array = SystolicArray(config=config)
    assert array.first_capture == first_capture(config) == 4
    assert array.latency == 4 + rows + columns - 2
    assert minimum_tile_interval(config, rows) == rows + columns - 2 + max(rows, 4)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match="config must be an ArrayConfig, not '8x8'"):
        SystolicArray(config="8x8")  # type: ignore[arg-type]
