"""Threefry-2x32 with 20 rounds as a pipeline, one round a clock (Salmon et al., SC 2011, section 3.3)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from halfulp.numerics.random_bits import THREEFRY_PARITY, THREEFRY_ROTATIONS

__all__ = ["Threefry"]

ROUNDS = 20
ROUNDS_AN_INJECTION = 4


class Threefry(wiring.Component):
    """Two random words of a counter and a key, every clock: what `halfulp.numerics.random_bits.threefry2x32` gives.

    Members
    -------
    load : In(1)
        Take `key`. Counters that entered before give wrong words; those from the next clock on use it.
    key : In(64)
        The seed: word 0 in the low half.
    valid : In(1)
        A counter enters. Nothing halts it: a round loads where there is a counter before it.
    counter : In(ArrayLayout(32, 2))
        It.
    words : Out(ArrayLayout(32, 2))
        The words of the counter that entered `latency` clocks ago.
    """

    load: Signal
    key: Signal
    valid: Signal
    counter: data.View[data.ArrayLayout]
    words: data.View[data.ArrayLayout]

    latency = ROUNDS + 1
    """Clocks from a counter to its words."""

    def __init__(self) -> None:
        super().__init__(
            {
                "load": In(1),
                "key": In(64),
                "valid": In(1),
                "counter": In(data.ArrayLayout(unsigned(32), 2)),
                "words": Out(data.ArrayLayout(unsigned(32), 2)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        # Key injections are merged into the round that follows them. What they add to word 0 of that round, which
        # also takes word 1, is summed up when the key is loaded, so a round never waits for two carry chains.
        keys = [self.key[:32], self.key[32:], self.key[:32] ^ self.key[32:] ^ THREEFRY_PARITY]
        injections = ROUNDS // ROUNDS_AN_INJECTION + 1
        inject = [
            (
                Signal(32, name=f"inject_{n}_word0", reset_less=True),
                Signal(32, name=f"inject_{n}_word1", reset_less=True),
            )
            for n in range(injections)
        ]
        kept = [Signal(32, name=f"key_{n}", reset_less=True) for n in range(3)]
        sums = [Signal(32, name=f"sum_{n}", reset_less=True) for n in range(3)]
        loaded, summed = Signal(), Signal()
        m.d.sync += [loaded.eq(self.load), summed.eq(loaded)]
        with m.If(self.load):
            m.d.sync += [inject[0][0].eq(keys[0] + keys[1]), inject[0][1].eq(keys[1])]
            m.d.sync += [register.eq(word) for register, word in zip(kept, keys, strict=True)]
        # The others are not needed before the first counter has come to their rounds.
        with m.If(loaded):
            m.d.sync += [total.eq(kept[n] + kept[(n + 1) % 3]) for n, total in enumerate(sums)]
        with m.If(summed):
            for n, (first, second) in list(enumerate(inject))[1:]:
                m.d.sync += second.eq(kept[(n + 1) % 3] + n)
                m.d.sync += first.eq(sums[n % 3] + n if n < injections - 1 else kept[n % 3])

        # A stage holds word 0 and `mixed`, which is word 1 before the round's final xor with word 0: the next stage's
        # adders take that xor in with them.
        word0, word1 = self.counter[0], self.counter[1]
        valid: Value = self.valid
        for step in range(ROUNDS):
            sum0, sum1 = word0 + word1, word1
            if step % ROUNDS_AN_INJECTION == 0:
                add0, add1 = inject[step // ROUNDS_AN_INJECTION]
                sum0, sum1 = sum0 + add0, word1 + add1
            register = Signal(32, name=f"word0_{step}", reset_less=True)
            mixed = Signal(32, name=f"mixed_{step}", reset_less=True)
            with m.If(valid):
                m.d.sync += register.eq(sum0)
                m.d.sync += mixed.eq(sum1[:32].rotate_left(THREEFRY_ROTATIONS[step % len(THREEFRY_ROTATIONS)]))
            word0, word1 = register, mixed ^ register
            moved = Signal(name=f"valid_{step}")
            m.d.sync += moved.eq(valid)
            valid = moved
        results = [Signal(32, name=f"result_{n}", reset_less=True) for n in range(2)]
        with m.If(valid):
            m.d.sync += [results[0].eq(word0 + inject[-1][0]), results[1].eq(word1 + inject[-1][1])]
        m.d.comb += [self.words[n].eq(results[n]) for n in range(2)]
        return m
