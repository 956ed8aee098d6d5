"""A GEMM cut along M and N into parts that fit a small memory. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["cut_gemm"]

GRAIN = 8
"""Parts begin at multiples of it, where random bits of a larger GEMM can begin."""


def cut_gemm(
    m: int, n: int, needed: Callable[[int, int], tuple[int, int, int]], room: int
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts, all within `room` bytes, that together transfer the fewest bytes.

    Parameters
    ----------
    m, n
        Of the GEMM.
    needed
        Bytes that A, B and C take of a part with so many rows and columns; grow with both.
    room
        Of the memory.

    Raises
    ------
    MemoryError
        Where not even the smallest part fits; the message gives its size.
    """
    best: tuple[int, int, int] | None = None
    for rows in _sizes(m):
        columns = _most(n, lambda size, rows=rows: sum(needed(rows, size)) <= room)
        if columns == 0:
            break
        a_bytes, b_bytes, _ = needed(rows, columns)
        # Every part loads its share of both operands.
        traffic = -(-m // rows) * -(-n // columns) * (a_bytes + b_bytes)
        if best is None or traffic < best[0]:
            best = traffic, rows, columns
    if best is None:
        least = min(m, GRAIN), min(n, GRAIN)
        raise MemoryError(f"a part of {least[0]} × {least[1]} results needs {sum(needed(*least))} bytes, of {room}")
    _, rows, columns = best
    for row in range(0, m, rows):
        for column in range(0, n, columns):
            yield slice(row, min(row + rows, m)), slice(column, min(column + columns, n))


def _sizes(whole: int) -> list[int]:
    """Sizes worth trying: the whole, and multiples of `GRAIN` that are about a half, a third … of it."""
    parts = {-(-whole // count) for count in range(1, min(64, -(-whole // GRAIN)) + 1)}
    return sorted({min(whole, -(-part // GRAIN) * GRAIN) for part in parts} | {min(whole, GRAIN)})


def _most(whole: int, fits: Callable[[int], bool]) -> int:
    """The largest size that fits: the whole, or a multiple of `GRAIN`; 0 where none does."""
    if fits(whole):
        return whole
    low, high = 0, -(-whole // GRAIN)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * GRAIN) else (low, middle)
    return low * GRAIN
