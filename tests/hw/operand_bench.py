"""A bench around `OperandEngine`: descriptors in, an AXI read memory that obeys and checks the bus, the feed out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.interfaces import tile_layout
from halfulp.hw.operand_engine import OperandEngine
from halfulp.hw.schedule import Burst, GemmPlan
from halfulp.sim.bench.bus_rules import ReadRules

from .axi_models import READ_SIGNALS, sampled

UNUSED = 0xA5


@dataclass(kw_only=True)
class Gemm:
    """One GEMM: its plan, codes A [M, K] and B [K, N], and what else the descriptor says."""

    plan: GemmPlan
    a: np.ndarray
    b: np.ndarray
    c_address: int = 0
    c_stride: int = 0
    formats: tuple[int, int, int] = (0, 0, 0)
    row_offset: int = 0x1230
    column_offset: int = 0xFFFF_FF00

    def descriptor(self) -> dict[str, int]:
        plan = self.plan
        return {
            "a_address": plan.a_address,
            "b_address": plan.b_address,
            "c_address": self.c_address,
            "a_stride": plan.a_stride,
            "b_stride": plan.b_stride,
            "c_stride": self.c_stride,
            "m": plan.m,
            "n": plan.n,
            "k": plan.k,
            "a_across_k": int(plan.a_across_k),
            "b_across_k": int(plan.b_across_k),
            "a_format": self.formats[0],
            "b_format": self.formats[1],
            "out_format": self.formats[2],
            "rounding_mode": 2,
            "overflow_ieee": 1,
            "random_bits": 9,
            "scale": -5,
            "seed": 0x0123_4567_89AB_CDEF,
            "row_offset": self.row_offset,
            "column_offset": self.column_offset,
        }


def make_gemm(
    config: ArrayConfig,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    across: tuple[bool, bool] = (False, False),
    pads: tuple[int, int] = (0, 0),
    offsets: tuple[int, int] = (0, 0),
    base: int = 0x1_0000_0000,
    formats: tuple[int, int, int] = (0, 0, 0),
) -> Gemm:
    """Random codes of a shape (M, N, K); rows in memory `pads` elements apart, from `offsets` elements past a page."""
    m, n, k = shape
    a = rng.integers(0, 1 << 8 * config.a_bytes, size=(m, k), dtype=np.uint64)
    b = rng.integers(0, 1 << 8 * config.b_bytes, size=(k, n), dtype=np.uint64)
    a_stride = ((m if across[0] else k) + pads[0]) * config.a_bytes
    b_stride = ((n if across[1] else k) + pads[1]) * config.b_bytes
    a_address = base + offsets[0] * config.a_bytes
    a_end = a_address + (k if across[0] else m) * a_stride
    b_address = (a_end + 0xFFFF & ~0xFFF) + offsets[1] * config.b_bytes
    plan = GemmPlan(
        config=config,
        m=m,
        n=n,
        k=k,
        a_address=a_address,
        b_address=b_address,
        a_stride=a_stride,
        b_stride=b_stride,
        a_across_k=across[0],
        b_across_k=across[1],
    )
    return Gemm(plan=plan, a=a, b=b, c_address=0x9_FFFF_FF20, c_stride=n * 4 + 36, formats=formats)


@dataclass(kw_only=True)
class Memory:
    """Bytes by bus word, of operands only: any other read is an error of the bench.

    latency: clocks from a burst's acceptance to its first beat; ar_stall, r_stall: probability that a clock accepts
    no address, or brings no beat; fail_beat: number of the beat that comes with SLVERR.
    """

    bus_bytes: int
    latency: int = 1
    ar_stall: float = 0.0
    r_stall: float = 0.0
    fail_beat: int | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    words: dict[int, bytearray] = field(default_factory=dict)
    bursts: list[Burst] = field(default_factory=list)
    beats: int = 0
    failed: int | None = None

    def place(self, gemm: Gemm) -> None:
        """Write both operands as their layouts say."""
        plan = gemm.plan
        for operand, codes in zip(plan.operands, (gemm.a, gemm.b.T), strict=True):
            size = operand.element_bytes
            for (row, k), code in np.ndenumerate(codes):
                outer, inner = (k, row) if operand.across_k else (row, k)
                address = operand.address + outer * operand.stride + inner * size
                for byte, value in enumerate(int(code).to_bytes(size, "little")):
                    at = address + byte
                    word = self.words.setdefault(at // self.bus_bytes, bytearray([UNUSED] * self.bus_bytes))
                    word[at % self.bus_bytes] = value

    def stalls(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def read(self, address: int) -> int:
        word = self.words.get(address // self.bus_bytes)
        assert word is not None, f"read outside of the operands, at {address:#x}"
        return int.from_bytes(word, "little")


@dataclass
class _Reading:
    """A burst in flight: its first address, the next one, beats left, and the clock of the first beat."""

    start: int
    address: int
    left: int
    clock: int


@dataclass
class Record:
    """What came out, by clock: the feed, the tiles and when they were taken, and events."""

    feed: list[tuple[int, int, int, int, int, int, int]] = field(default_factory=list)
    tiles: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    ends: int = 0
    read_stalls: int = 0
    write_stalls: int = 0
    errors: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what a flush has dropped."""
        self.feed.clear()
        self.tiles.clear()
        self.ends = 0

    def skewed_out(self, config: ArrayConfig) -> bool:
        """Whether the codes of the last step have all come."""
        return len(self.feed) > self.last_step + max(config.rows, config.columns)

    @property
    def first_step(self) -> int:
        """Clock of the first step of all."""
        return next(clock for clock, row in enumerate(self.feed) if row[0])

    @property
    def last_step(self) -> int:
        """Clock of the last step of all."""
        return max(clock for clock, row in enumerate(self.feed) if row[0])

    @property
    def steps(self) -> int:
        """Clocks in which a step entered the array."""
        return sum(row[0] for row in self.feed)


class Bench:
    """Drive an engine with descriptors, as the queue, the bus and the drain would.

    drain_clocks: how many clocks after a tile's last step no other one may be issued; drain_stall: probability that
    the drain takes a clock more, for the tile or for leave to issue the last step.
    """

    def __init__(
        self,
        config: ArrayConfig,
        memory: Memory,
        *,
        drain_clocks: int = 0,
        drain_stall: float = 0.0,
        limit: int = 20000,
    ) -> None:
        self.config = config
        self.memory = memory
        self.drain_clocks = drain_clocks
        self.drain_stall = drain_stall
        self.limit = limit
        self.record = Record()
        self.waiting_tiles = 0

    def run(self, gemms: Sequence[Gemm], *, flush_at: int | None = None, then: Sequence[Gemm] = ()) -> Record:
        """Run all GEMMs, queued at once.

        At `flush_at`, or at an error, drop all; once the engine is idle, run `then`.
        """
        self.dut = OperandEngine(config=self.config)
        self.gemms = list(gemms)
        self.flush_at = flush_at
        self.then = then
        for gemm in (*gemms, *then):
            self.memory.place(gemm)
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self._bus, background=True)
        simulator.add_testbench(self._drain, background=True)
        simulator.add_testbench(self._queue)
        simulator.run()
        return self.record

    async def _bus(self, ctx: Any) -> None:
        memory, axi = self.memory, self.dut.axi
        pending: deque[_Reading] = deque()
        clock = 0
        rules = ReadRules(bus_bytes=memory.bus_bytes, outstanding=self.config.reads_outstanding)
        ctx.set(axi.arready, 1)
        async for reset, bus in sampled(ctx, axi, READ_SIGNALS):
            clock += 1
            rules.step(bus | {"aresetn": not reset})
            assert bus["rready"], "the data channel is always ready"
            if bus["arvalid"] and bus["arready"]:
                address, beats = bus["araddr"], bus["arlen"] + 1
                memory.bursts.append(Burst(address, beats))
                pending.append(_Reading(address, address, beats, clock + memory.latency - 1))
            ctx.set(axi.arready, not memory.stalls(memory.ar_stall))
            valid = bool(pending) and clock >= pending[0].clock and not memory.stalls(memory.r_stall)
            ctx.set(axi.rvalid, valid)
            if valid:
                reading = pending[0]
                failing = memory.beats == memory.fail_beat
                if failing:
                    memory.failed = reading.start
                ctx.set(axi.rdata, memory.read(reading.address))
                ctx.set(axi.rresp, 2 if failing else 0)
                ctx.set(axi.rlast, reading.left == 1)
                memory.beats += 1
                reading.address += memory.bus_bytes
                reading.left -= 1
                if not reading.left:
                    pending.popleft()

    async def _drain(self, ctx: Any) -> None:
        dut, record = self.dut, self.record
        rng = np.random.default_rng(7)
        layout = tile_layout(self.config)
        countdown, free, room, clock = 0, 1, 1, 0
        ctx.set(dut.drain_free_soon, 1)
        ctx.set(dut.tile.ready, 1)
        async for _, _, valid, last, offered, payload, flush in ctx.tick().sample(
            dut.feed.valid, dut.feed.last, dut.tile.valid, dut.tile.payload.as_value(), dut.flush
        ):
            clock += 1
            if flush:
                self.waiting_tiles = 0
            elif offered and room:
                tile = layout.from_bits(payload)
                record.tiles.append((clock, {name: int(tile[name]) for name in layout.members}))
                self.waiting_tiles += 1
            countdown = max(0, countdown - 1)
            if valid and last and not flush:
                assert free, "a last step without leave"
                assert self.waiting_tiles, "a last step of a tile that was not announced"
                self.waiting_tiles -= 1
                free, countdown = 0, self.drain_clocks
            if not free and not countdown:
                free = int(rng.random() >= self.drain_stall)
            room = int(self.waiting_tiles < 2 and rng.random() >= self.drain_stall)
            ctx.set(dut.drain_free_soon, free)
            ctx.set(dut.tile.ready, room)

    async def _queue(self, ctx: Any) -> None:
        dut, record, queue = self.dut, self.record, deque(self.gemms)
        due = sum(1 for gemm in queue for _ in gemm.plan.tiles())
        flushing, flushed = False, False

        def offer() -> None:
            ctx.set(dut.descriptor.valid, bool(queue))
            if queue:
                ctx.set(dut.descriptor.payload, queue[0].descriptor())

        offer()
        feed = dut.feed
        clock = 0
        async for _, _, taken, idle, error, address, read_stall, write_stall, *fed in ctx.tick().sample(
            dut.descriptor.ready,
            dut.idle,
            dut.error,
            dut.error_address,
            dut.read_stall,
            dut.write_stall,
            feed.valid,
            feed.first,
            feed.last,
            feed.a_format,
            feed.b_format,
            feed.a_code.as_value(),
            feed.b_code.as_value(),
        ):
            clock += 1
            assert clock < self.limit, "the GEMMs did not end"
            if flushing:
                if idle:
                    flushing, flushed = False, True
                    ctx.set(dut.flush, 0)
                    record.clear()
                    self.memory.bursts.clear()
                    queue.extend(self.then)
                    due = sum(1 for gemm in queue for _ in gemm.plan.tiles())
                    offer()
                continue
            record.feed.append(tuple(fed))
            record.read_stalls += read_stall
            record.write_stalls += write_stall
            record.ends += fed[0] & fed[2]
            if taken:
                queue.popleft()
                offer()
            if error:
                record.errors.append(address)
            if not flushed and (error or clock == self.flush_at):
                flushing = True
                queue.clear()
                offer()
                ctx.set(dut.flush, 1)
            elif idle and not queue and record.ends == due and record.skewed_out(self.config):
                return


def check(config: ArrayConfig, record: Record, gemms: Sequence[Gemm]) -> None:
    """Raise unless the feed holds exactly the steps of all tiles, in order, and each code is the right one."""
    feed = record.feed
    clocks = iter([clock for clock, row in enumerate(feed) if row[0]])
    tiles = iter(record.tiles)
    for gemm in gemms:
        plan, where = gemm.plan, gemm.descriptor()
        covered = np.zeros((plan.m, plan.n), dtype=np.int64)
        out_bytes = config.out_formats[gemm.formats[2]].container_bytes
        expected = list(_tile_origins(plan))
        for number, (row, column) in enumerate(expected):
            _, tile = next(tiles)
            rows, columns = min(config.rows, plan.m - row), min(config.columns, plan.n - column)
            place = gemm.row_offset + row, gemm.column_offset + column
            assert (tile["row"], tile["column"], tile["rows"], tile["columns"]) == (*place, rows, columns)
            assert tile["address"] == gemm.c_address + row * gemm.c_stride + column * out_bytes
            assert tile["last"] == (number == len(expected) - 1)
            for name in tile.keys() & where.keys():
                assert tile[name] == where[name], name
            covered[row : row + rows, column : column + columns] += 1
            for k in range(plan.k):
                clock = next(clocks)
                assert feed[clock][1:5] == (k == 0, k == plan.k - 1, *gemm.formats[:2])
                for i in range(rows):
                    assert _code(feed[clock + i][5], i, config.a_bytes) == gemm.a[row + i, k], (row, column, k, i)
                for j in range(columns):
                    assert _code(feed[clock + j][6], j, config.b_bytes) == gemm.b[k, column + j], (row, column, k, j)
        assert (covered == 1).all()
    assert next(clocks, None) is None
    assert next(tiles, None) is None


def _code(vector: int, index: int, size: int) -> int:
    return vector >> 8 * size * index & (1 << 8 * size) - 1


def _tile_origins(plan: GemmPlan) -> list[tuple[int, int]]:
    """The order of tiles, written down a second way: by when a tile's panels can both be there.

    Loads of a group alternate between operands; a tile becomes possible with the later one of its two panels, and
    tiles that become possible at once go along the other operand.
    """
    a, b = plan.operands
    streamed = a if plan.resident else b
    columns = math.ceil(streamed.size / streamed.lanes)
    order = []
    for start, size in plan.groups():
        loads = {}
        for x in range(size):
            loads["x", x] = 2 * min(x, columns) + max(0, x - columns)
        for y in range(columns):
            loads["y", y] = 2 * min(y, size - 1) + 1 + max(0, y - (size - 1))
        tiles = [(x, y) for x in range(size) for y in range(columns)]
        tiles.sort(key=lambda t: (max(loads["x", t[0]], loads["y", t[1]]), t))
        order += [(start + x, y) for x, y in tiles]
    return [(y * a.lanes, x * b.lanes) if plan.resident else (x * a.lanes, y * b.lanes) for x, y in order]
