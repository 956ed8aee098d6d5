"""The pipelined Threefry-2x32 gives the published answers, and what the software gives, whatever the gaps."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from halfulp.hw.threefry import Threefry
from halfulp.numerics.random_bits import threefry2x32

ONES = 0xFFFF_FFFF
KNOWN = [
    # seed, counter, words: the known answers that come with the authors' Random123 library
    (0, (0, 0), (0x6B200159, 0x99BA4EFE)),
    (ONES << 32 | ONES, (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
    (0x03707344_13198A2E, (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def words_of(seed: int, counters: list[tuple[int, int]], moves: np.random.Generator) -> list[tuple[int, int]]:
    """Run `counters` through the pipeline; one enters in a clock with probability 3/4."""
    generator = Threefry()
    words: list[tuple[int, int]] = []

    async def bench(ctx: Any) -> None:
        ctx.set(generator.key, seed)
        ctx.set(generator.load, 1)
        await ctx.tick()
        ctx.set(generator.load, 0)
        ctx.set(generator.key, ~seed & (1 << 64) - 1)  # is not looked at any more
        left = deque[int](maxlen=generator.latency)  # whether a counter entered, of the last clocks
        remaining = iter(counters)
        while len(words) < len(counters):
            valid = int(moves.random() < 0.75)
            x0, x1 = next(remaining, (0, 0)) if valid else (ONES, ONES)
            ctx.set(generator.counter[0], x0)
            ctx.set(generator.counter[1], x1)
            ctx.set(generator.valid, valid)
            await ctx.tick()
            left.append(valid)
            if len(left) == generator.latency and left[0]:
                words.append((ctx.get(generator.words[0]), ctx.get(generator.words[1])))

    simulator = Simulator(generator)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return words


def test_published_answers(rng: np.random.Generator) -> None:
    for seed, counter, words in KNOWN:
        assert words_of(seed, [counter], rng) == [words]


def test_random_counters_of_random_seeds(rng: np.random.Generator) -> None:
    for _ in range(4):
        seed = int(rng.integers(0, 1 << 64, dtype=np.uint64))
        counters = rng.integers(0, 1 << 32, (200, 2))
        expected = np.stack(threefry2x32(seed, counters[:, 0], counters[:, 1]), axis=1)
        assert words_of(seed, [(int(a), int(b)) for a, b in counters], rng) == [(int(a), int(b)) for a, b in expected]
