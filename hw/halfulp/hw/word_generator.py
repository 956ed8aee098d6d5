"""Random words of rounding in the accumulator: xorshift32 at the array's edge (docs/numerics.md, section 4)."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["WordGenerator"]


class WordGenerator(wiring.Component):
    """The words of one row or column of the array, or of several rows in turn: one a step.

    Parameters
    ----------
    words
        W: sequences that take turns, clock by clock, as interleaved rows do.
    bits
        Top bits of a word that are looked at.

    Members
    -------
    load, word : In(ArrayLayout(1, words)), In(32)
        Take a sequence's first word for the next tile. Not while its present one is taken, in the W clocks of a step
        with `first`.
    valid, first : In
        A step, for W clocks, and whether it is its tile's first.
    random : Out(bits)
        The top bits of the step's word.
    """

    load: Any
    word: Signal
    valid: Signal
    first: Signal
    random: Signal

    def __init__(self, *, words: int, bits: int) -> None:
        if words < 1:
            raise ValueError(f"words must be at least 1, not {words}")
        if not 1 <= bits <= 32:
            raise ValueError(f"bits must be 1 to 32, not {bits}")
        self._words = words
        super().__init__(
            {
                "load": In(data.ArrayLayout(1, words)),
                "word": In(32),
                "valid": In(1),
                "first": In(1),
                "random": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the block."""
        m = Module()
        # Rings: what takes its turn is at place 0.
        firsts = [Signal(32, name=f"first_{n}", reset_less=True) for n in range(self._words)]
        states = [Signal(32, name=f"state_{n}", reset_less=True) for n in range(self._words)]
        begins = self.valid & self.first
        for place, seed in enumerate(firsts):
            with m.If(begins):
                m.d.sync += seed.eq(firsts[(place + 1) % self._words])
            with m.If(self.load[place]):
                m.d.sync += seed.eq(self.word)
        present = Signal(32)
        m.d.comb += [present.eq(Mux(begins, firsts[0], states[0])), self.random.eq(present[-len(self.random) :])]
        m.d.sync += [
            *(state.eq(after) for state, after in itertools.pairwise(states)),
            states[-1].eq(Mux(self.valid, _xorshift32(m, present), present)),
        ]
        return m


def _xorshift32(m: Module, word: Value) -> Value:
    """The next word: shifts 13, 17, 5 (Marsaglia, J. Stat. Software 8(14), 2003)."""
    for number, shift in enumerate((13, -17, 5)):
        mixed = Signal(32, name=f"mixed_{number}")
        m.d.comb += mixed.eq(word ^ ((word << shift)[:32] if shift > 0 else word >> -shift))
        word = mixed
    return word
