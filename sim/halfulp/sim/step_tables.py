"""Deterministic encodings of float32 numbers to formats that no kernel rounds to, such as posits: by tables of steps.

Code and flags are constant over runs of neighbouring bit patterns, so that an encoding is the list of patterns at which
a run begins. These are found by bisection with the golden model's own `Format.encode`, and looked up by a number's
highest bits: of each bucket of patterns the table has what stands at its beginning, where that ends, and what follows.
A bucket in which more than one run begins is seen for what it is, and the table is not used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import CodeArray, Format
from halfulp.numerics.rounding import Rounding
from halfulp.sim.vector_code import I8, I16, I32, Code, Kernel, Lanes, address

__all__ = ["StepTable", "step_table", "worth_a_table"]

COARSE_BITS, SPARE_BITS = 16, 5
"""Highest bits of a number by which formats of few bits are looked up; and how many more than theirs those of wider."""

LEAST_NUMBERS = 1 << 17
"""Numbers from which on a table of `COARSE_BITS` is worth its making; with each bit more, twice as many."""


def worth_a_table(values: npt.NDArray, fmt: Format, mode: Rounding) -> bool:
    """Whether a table serves these numbers, and they are as many as it takes long to make."""
    if values.dtype != np.float32 or mode.is_stochastic or fmt.bits > 16:
        return False
    return values.size >= LEAST_NUMBERS << (_bucket_bits(fmt) - COARSE_BITS)


def _bucket_bits(fmt: Format) -> int:
    return max(COARSE_BITS, fmt.bits + SPARE_BITS)


class StepTable(NamedTuple):
    """Of each bucket: the first pattern with what comes after, codes before | after << 16, flags before | after << 2.

    Flags are 1 for a NaN without a code, 2 for a number beyond the largest. A bucket without a step has the same twice.
    """

    shift: int
    steps: npt.NDArray[np.uint32]
    codes: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint8]

    def encode(self, values: npt.NDArray[np.float32], fmt: Format) -> tuple[CodeArray, bool, bool]:
        """Codes of contiguous numbers, and whether any raised `invalid` and `overflow`."""
        codes = np.empty(values.shape, fmt.code_dtype)
        flags = _kernel(fmt.container_bytes, self.shift)(
            address(values), address(codes), address(self.steps), address(self.codes), address(self.flags), values.size
        )
        return codes, bool(flags & 1), bool(flags & 2)


@lru_cache(maxsize=8)
def step_table(fmt: Format, mode: Rounding, scale: int, overflow: str, signed_zero: bool) -> StepTable | None:
    """The table of an encoding of 2**scale times float32 numbers; None where some bucket has more than one step."""
    shift = 32 - _bucket_bits(fmt)

    def found(patterns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Flags << 16 | code."""
        with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
            exact = from_float64(patterns.astype(np.uint32).view(np.float32).astype(np.float64))
        codes, invalid, beyond = fmt.encode(exact._replace(exponent=exact.exponent + scale), mode, None, overflow)
        codes = codes if signed_zero else fmt.without_minus_zero(codes)
        return (codes.astype(np.int64) | invalid.astype(np.int64) << 16 | beyond.astype(np.int64) << 17).astype(
            np.uint32
        )

    # Large buckets first: most of those of few bits are of one run, and so are all that they are cut into.
    coarse, size = 1 << (32 - COARSE_BITS), 1 << shift
    first = np.arange(0, 1 << 32, coarse)
    before, after = (np.repeat(found(patterns), coarse // size) for patterns in (first, first + coarse - 1))
    first = np.arange(0, 1 << 32, size)
    mixed = np.flatnonzero(before != after)
    before[mixed], after[mixed] = found(first[mixed]), found(first[mixed] + size - 1)
    stepped = np.flatnonzero(before != after)
    low, high = first[stepped], first[stepped] + size - 1  # the last with what is before, the first without
    for _ in range(shift):
        middle = (low + high) >> 1
        stays = found(middle) == before[stepped]
        low, high = np.where(stays, middle, low), np.where(stays, high, middle)
    if (high - low != 1).any() or (found(high) != after[stepped]).any():
        return None
    steps = np.zeros(len(first), np.uint32)
    steps[stepped] = high
    codes = (before & 0xFFFF) | (after & 0xFFFF) << 16
    return StepTable(shift, steps, codes.astype(np.uint32), (before >> 16 | (after >> 16) << 2).astype(np.uint8))


@lru_cache(maxsize=4)
def _kernel(container_bytes: int, shift: int) -> Kernel:
    """Kernel over numbers, codes, the table's arrays, and a count; it gives the flags ORed."""
    code = Code("step_codes", "pppppi")
    numbers, codes, steps, pairs, flags, count = code.arguments
    element = {1: I8, 2: I16}[container_bytes]

    def one(n: Lanes, seen: Lanes) -> list[Lanes]:
        pattern = code.load(numbers, n, I32)
        bucket = (pattern >> shift).widen(n.type)
        after = pattern.at_least(code.load(steps, bucket, I32))
        pair, raised = code.load(pairs, bucket, I32), code.load(flags, bucket, I8)
        code.store(after.choose(pair >> 16, pair).narrow(element), codes, n)
        return [seen | after.choose(raised >> 2, raised & 3)]

    (seen,) = code.loop(0, count, 1, [code.constant(I8, 0)], one)
    return code.compile(seen.widen(count.type))
