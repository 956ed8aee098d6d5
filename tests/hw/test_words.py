# amaranth: UnusedElaboratable=no
"""Random words of rounding in the accumulator: seeds, sequences and turns are those of `numerics.random_bits`."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.word_generator import WordGenerator
from halfulp.hw.word_seeds import WordSeeds
from halfulp.numerics.random_bits import accumulator_words, xorshift32


def test_sequences_take_turns(rng: np.random.Generator) -> None:
    """Three of them over two tiles, with pauses, the second tile's first words loaded while the first one runs."""
    words, bits, steps = 3, 13, 5
    seeds = rng.integers(1, 1 << 32, (2, words), dtype=np.uint32)
    generator = WordGenerator(words=words, bits=bits)
    seen: list[list[int]] = []

    async def bench(ctx: Any) -> None:
        async def load(tile: int) -> None:
            for place in range(words):
                ctx.set(generator.load, [int(place == each) for each in range(words)])
                ctx.set(generator.word, int(seeds[tile][place]))
                await ctx.tick()
            ctx.set(generator.load, [0] * words)

        await load(0)
        for tile in range(2):
            for step in range(steps):
                ctx.set(generator.valid, 1)
                ctx.set(generator.first, int(step == 0))
                seen.append([])
                for _ in range(words):
                    seen[-1].append(ctx.get(generator.random))
                    await ctx.tick()
                ctx.set(generator.valid, 0)
                for _ in range(words * int(rng.integers(3))):
                    await ctx.tick()
                if step == 2 and tile == 0:
                    await load(1)

    simulator = Simulator(generator)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    expected = []
    for tile in range(2):
        state = seeds[tile]
        for _ in range(steps):
            expected.append([int(word) >> (32 - bits) for word in state])
            state = xorshift32(state)
    assert seen == expected


def test_seeds_are_made_in_time_and_only_when_the_last_ones_are_in_use() -> None:
    config = ArrayConfig(rows=4, columns=2, lanes=1, accumulator="e6m5:stochastic:13")
    seeds = WordSeeds(config=config)
    row, column, key = 40, 1 << 20, 0x1234_5678_9ABC_DEF0
    seen: list[tuple[int, int]] = []

    async def bench(ctx: Any) -> None:
        async def watch(clocks: int) -> None:
            for _ in range(clocks):
                if ctx.get(seeds.seed.valid):
                    seen.append((ctx.get(seeds.seed.index), ctx.get(seeds.seed.word)))
                await ctx.tick()

        ctx.set(seeds.offered, 1)
        ctx.set(seeds.row, row)
        ctx.set(seeds.column, column)
        ctx.set(seeds.key, key)
        await watch(1 + 21 + 6)
        assert ctx.get(seeds.ready)
        ctx.set(seeds.taken, 1)
        await watch(1)
        ctx.set(seeds.taken, 0)
        assert len(seen) == 6
        await watch(60)
        assert len(seen) == 6, "the array has not taken the words that it was given"
        ctx.set(seeds.first, 1)
        await watch(1)
        ctx.set(seeds.first, 0)
        await watch(1 + 21)
        assert len(seen) == 6
        await watch(6)
        assert ctx.get(seeds.ready)

    simulator = Simulator(seeds)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    rows, columns = accumulator_words(key, row + np.arange(4), column + np.arange(2))
    assert seen == 2 * [(index, int(word)) for index, word in enumerate([*rows, *columns])]
