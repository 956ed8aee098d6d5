"""Random bits as functions of (seed, position): Threefry-2x32, xorshift32 (docs/numerics.md, section 4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["accumulator_words", "check_seed", "output_words", "threefry2x32", "xorshift32"]

Words = npt.NDArray[np.uint32]

THREEFRY_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
THREEFRY_PARITY = 0x1BD11BDA
ROW_COUNTER, COLUMN_COUNTER = 1 << 30, 1 << 31
"""Second counter of the row and column words, out of reach of an output's column."""

MAX_OUTPUT_BITS = 16


def check_seed(seed: int) -> int:
    """Return `seed`, or raise where it is no integer of 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, not {seed!r}")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be 0 to 2**64 - 1, not {seed}")
    return int(seed)


def threefry2x32(seed: int, x0: npt.ArrayLike, x1: npt.ArrayLike) -> tuple[Words, Words]:
    """Threefry-2x32 with 20 rounds (Salmon et al., SC 2011) of counters (x0, x1), key = the halves of `seed`.

    Counters are uint32 arrays that broadcast together; so are the two output words.
    """
    seed = check_seed(seed)
    low, high = seed & 0xFFFF_FFFF, seed >> 32
    keys = [np.uint32(low), np.uint32(high), np.uint32(low ^ high ^ THREEFRY_PARITY)]
    a, b = np.broadcast_arrays(np.asarray(x0, np.uint32), np.asarray(x1, np.uint32))
    with np.errstate(over="ignore"):  # addition modulo 2**32 is meant
        a, b = a + keys[0], b + keys[1]
        for step in range(20):
            rotation = THREEFRY_ROTATIONS[step % 8]
            a = a + b
            b = (b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))
            b = b ^ a
            if step % 4 == 3:
                injection = step // 4 + 1
                a = a + keys[injection % 3]
                b = b + keys[(injection + 1) % 3] + np.uint32(injection)
    return a, b


def xorshift32(x: npt.ArrayLike) -> Words:
    """One step of xorshift32 with shifts (13, 17, 5), elementwise (Marsaglia, J. Stat. Software 8(14), 2003)."""
    y = np.asarray(x, np.uint32)
    y = y ^ (y << np.uint32(13))
    y = y ^ (y >> np.uint32(17))
    return y ^ (y << np.uint32(5))


def output_words(seed: int, rows: npt.ArrayLike, columns: npt.ArrayLike, random_bits: int) -> Words:
    """The R of `random_bits` <= 16 bits that rounds each output (i, j); rows [M] and columns [N] give [M, N].

    Four 16-bit lanes of one Threefry output serve columns 4q to 4q + 3: low and high half of word 0, then of
    word 1.
    """
    if not 1 <= random_bits <= MAX_OUTPUT_BITS:
        raise ValueError(f"an output is rounded with 1 to {MAX_OUTPUT_BITS} random bits, not {random_bits}")
    i = np.asarray(rows, np.uint32)[:, None]
    j = np.asarray(columns, np.uint32)[None, :]
    w0, w1 = threefry2x32(seed, i, j >> np.uint32(2))
    word = np.where(j & 2, w1, w0)
    half = np.where(j & 1, word >> np.uint32(16), word & np.uint32(0xFFFF))
    return (half >> np.uint32(MAX_OUTPUT_BITS - random_bits)).astype(np.uint32)


def accumulator_words(seed: int, rows: npt.ArrayLike, columns: npt.ArrayLike) -> tuple[Words, Words]:
    """Row words row_i(0) [M] and column words col_j(0) [N] of rounding in the accumulator.

    Step k uses the top r bits of row_i(k) xor col_j(k); `xorshift32` takes both from k to k + 1. Zero is a
    fixed point of xorshift32, so it is replaced by 1.
    """
    row, _ = threefry2x32(seed, rows, ROW_COUNTER)
    column, _ = threefry2x32(seed, columns, COLUMN_COUNTER)
    one = np.uint32(1)
    return np.where(row == 0, one, row), np.where(column == 0, one, column)
