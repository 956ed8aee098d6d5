"""Array and drain together, fed step by step as the sequencer does, in Amaranth's simulator."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from amaranth.hdl import Module
from amaranth.sim import Simulator

from halfulp.hw.array import SystolicArray
from halfulp.hw.config import ArrayConfig
from halfulp.hw.drain import Drain
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import KINDS


@dataclass
class Job:
    """One GEMM: codes A [M, K], B [K, N], and where its C lies."""

    spec: GemmSpec
    a: np.ndarray
    b: np.ndarray
    seed: int = 0
    address: int = 0x1000
    padding: int = 0

    @property
    def stride(self) -> int:
        """Bytes from a row of C to the next."""
        return self.b.shape[1] * self.spec.out.container_bytes + self.padding

    def expected(self) -> dict[int, int]:
        """Code at each byte address of C."""
        codes = golden_gemm(self.a, self.b, self.spec, seed=self.seed).codes
        size = self.spec.out.container_bytes
        return {
            self.address + i * self.stride + j * size: int(codes[i, j])
            for i in range(codes.shape[0])
            for j in range(codes.shape[1])
        }


class Tile(NamedTuple):
    """Payload of the tile stream, and the tile's operands, rows and columns beyond C filled with garbage."""

    payload: dict[str, int]
    a: np.ndarray
    b: np.ndarray


def tiles_of(job: Job, config: ArrayConfig, rng: np.random.Generator) -> Iterator[Tile]:
    """The job's tiles, row of tiles by row of tiles."""
    m, k = job.a.shape
    n = job.b.shape[1]
    for row in range(0, m, config.rows):
        for column in range(0, n, config.columns):
            rows, columns = min(config.rows, m - row), min(config.columns, n - column)
            a = rng.integers(0, 1 << job.spec.a.bits, (config.rows, k))
            b = rng.integers(0, 1 << job.spec.b.bits, (k, config.columns))
            a[:rows] = job.a[row : row + rows]
            b[:, :columns] = job.b[:, column : column + columns]
            payload = {
                "row": row,
                "column": column,
                "rows": rows,
                "columns": columns,
                "address": job.address + row * job.stride + column * job.spec.out.container_bytes,
                "c_stride": job.stride,
                "a_format": config.a_formats.index(job.spec.a),
                "b_format": config.b_formats.index(job.spec.b),
                "out_format": config.out_formats.index(job.spec.out),
                "rounding_mode": KINDS.index(job.spec.rounding.kind),
                "overflow_ieee": int(job.spec.overflow == "ieee"),
                "random_bits": job.spec.rounding.random_bits,
                "scale": job.spec.scale,
                "seed": job.seed,
                "last": int(row + rows == m and column + columns == n),
            }
            yield Tile(payload, a, b)


@dataclass
class Trace:
    """What a run saw. Clocks count from 0."""

    codes: dict[int, int] = field(default_factory=dict)
    """By byte address."""
    flags: list[tuple[bool, bool]] = field(default_factory=list)
    """(invalid, overflow) of each GEMM."""
    fed_last: list[int] = field(default_factory=list)
    """Clock of each tile's last step."""
    captured: list[int] = field(default_factory=list)
    left: list[list[int]] = field(default_factory=list)
    """Clocks in which each tile's groups left."""


class ArrayBench:
    """Runs jobs, one simulator for all of them.

    Parameters
    ----------
    bubbles, stalls
        Probability that no step is fed in a clock, and that the output is not ready in one.
    late
        Hand each tile to the drain just before its last step, not with its first.
    """

    def __init__(
        self,
        config: ArrayConfig,
        rng: np.random.Generator,
        *,
        bubbles: float = 0,
        stalls: float = 0,
        late: bool = False,
    ) -> None:
        self.config, self.rng = config, rng
        self.bubbles, self.stalls, self.late = bubbles, stalls, late
        self.array, self.drain = SystolicArray(config=config), Drain(config=config)
        self.design = Module()
        self.design.submodules.array = self.array
        self.design.submodules.drain = self.drain
        self.design.d.comb += [
            self.array.shift.eq(self.drain.shift),
            self.drain.top.eq(self.array.top),
            self.drain.feed_last.eq(self.array.feed.valid & self.array.feed.last),
        ]
        self.trace = Trace()

    def run(self, *jobs: Job, limit: int = 20_000, abandoned: tuple[Job, int] | None = None) -> Trace:
        """Run `jobs` one after the other, overlapping as far as the drain lets them; return what was seen.

        `abandoned`: a job that runs before them for so many clocks and is then flushed.
        """
        tiles = [tile for job in jobs for tile in tiles_of(job, self.config, self.rng)]
        done: list[bool] = []

        async def bench(ctx: Any) -> None:
            if abandoned:
                job, clocks = abandoned
                await self._drive(ctx, list(tiles_of(job, self.config, self.rng)), clocks)
                await self._flush(ctx)
            done.append(await self._drive(ctx, tiles, limit))

        simulator = Simulator(self.design)
        simulator.add_clock(1e-8)
        simulator.add_testbench(bench)
        simulator.run()
        assert done == [True], f"{limit} clocks and {len(tiles)} tiles, but only {len(self.trace.left) - 1} have left"
        return self.trace

    async def _flush(self, ctx: Any) -> None:
        ctx.set(self.drain.flush, 1)
        ctx.set(self.array.feed.valid, 0)
        for clock in range(self.config.rows + self.config.columns + 40):
            await ctx.tick()
            assert not clock or (ctx.get(self.drain.idle) and not ctx.get(self.drain.output.valid))
        ctx.set(self.drain.flush, 0)

    async def _drive(self, ctx: Any, tiles: list[Tile], limit: int) -> bool:
        """Feed `tiles` and watch the output; whether all have left before `limit` clocks are over."""
        self.trace = Trace()
        config, feed, drain, trace = self.config, self.array.feed, self.drain, self.trace
        rows, columns = config.rows, config.columns
        history: deque[tuple[np.ndarray, np.ndarray] | None] = deque([None] * (rows + columns))
        handed, tile, step = 0, 0, 0
        flags = [False, False]
        trace.left = [[]]
        free = bool(ctx.get(drain.free_soon))
        for clock in range(limit):
            operands = None
            valid = last = False
            if tile < len(tiles) and clock % config.interleave == 0 and self.rng.random() >= self.bubbles:
                current = tiles[tile]
                steps = current.a.shape[1]
                last = step == steps - 1
                accepted = handed > tile
                if not accepted and (last or not self.late):
                    self._offer(ctx, current)
                    accepted = bool(ctx.get(drain.tile.ready))
                    handed += accepted
                valid = not last or (accepted and free)
                if valid:
                    operands = (current.a[:, step], current.b[step])
                    ctx.set(feed.first, int(step == 0))
                    ctx.set(feed.a_format, current.payload["a_format"])
                    ctx.set(feed.b_format, current.payload["b_format"])
            ctx.set(feed.valid, int(valid))
            ctx.set(feed.last, int(last))
            history.appendleft(operands)
            history.pop()
            for i in range(rows):
                past = history[i]
                ctx.set(feed.a_code[i], int(past[0][i]) if past else int(self.rng.integers(256)))
            for j in range(columns):
                past = history[j]
                ctx.set(feed.b_code[j], int(past[1][j]) if past else int(self.rng.integers(256)))
            ctx.set(drain.output.ready, int(self.rng.random() >= self.stalls))

            if ctx.get(self.array.captured):
                trace.captured.append(clock)
            flags[0] |= bool(ctx.get(drain.invalid))
            flags[1] |= bool(ctx.get(drain.overflow))
            if ctx.get(drain.output.valid) and ctx.get(drain.output.ready):
                trace.left[-1].append(clock)
                self._leave(ctx, tiles[len(trace.left) - 1], flags)
            free = bool(ctx.get(drain.free_soon)) and not (valid and last)
            await ctx.tick()
            ctx.set(drain.tile.valid, 0)

            if valid and last:
                trace.fed_last.append(clock)
                tile, step = tile + 1, 0
            elif valid:
                step += 1
            if len(trace.left) > len(tiles):
                trace.left.pop()
                for _ in range(3):
                    await ctx.tick()
                assert ctx.get(drain.idle)
                assert not ctx.get(drain.output.valid)
                return True
        return False

    def _offer(self, ctx: Any, tile: Tile) -> None:
        for name, value in tile.payload.items():
            ctx.set(getattr(self.drain.tile.payload, name), value)
        ctx.set(self.drain.tile.valid, 1)

    def _leave(self, ctx: Any, tile: Tile, flags: list[bool]) -> None:
        """Take the group at the output, and check that it is the tile's next."""
        group, trace = self.drain.output.payload, self.trace
        groups = -(-tile.payload["columns"] // self.config.lanes)
        row, place = divmod(len(trace.left[-1]) - 1, groups)
        count = min(self.config.lanes, tile.payload["columns"] - place * self.config.lanes)
        last_of_row = place == groups - 1
        last_of_tile = last_of_row and row == tile.payload["rows"] - 1
        assert ctx.get(group.count) == count
        assert ctx.get(group.last_of_row) == last_of_row
        assert ctx.get(group.last_of_gemm) == (last_of_tile and tile.payload["last"])
        size = 1 << ctx.get(group.bytes_log2)
        address = ctx.get(group.address)
        assert address == tile.payload["address"] + row * tile.payload["c_stride"] + place * self.config.lanes * size
        for lane in range(count):
            assert address + lane * size not in trace.codes, "an element of C that was written twice"
            trace.codes[address + lane * size] = ctx.get(group.codes[lane])
        if last_of_tile:
            if tile.payload["last"]:
                trace.flags.append((flags[0], flags[1]))
                flags[:] = [False, False]
            trace.left.append([])
