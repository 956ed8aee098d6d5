"""Plain Python functions on integers give the same compiled as they do as they are."""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence
from enum import IntEnum

import numpy as np
import pytest

from halfulp.hw.cache import CacheError
from halfulp.sim import scalar_code
from halfulp.sim.scalar_code import compile_functions

Cells = MutableSequence[int]
TEN = 10


class Place(IntEnum):
    FIRST = 0
    SECOND = 1


def arithmetic(a: int, b: int, c: int) -> int:
    """All operators, with what is rounded down."""
    total = (a + b * 3 - c) // (1 + (b & 7)) + a % (1 + (c & 15)) + (a >> 2) + ((b & 3) << 4) + (-c | 5)
    return total + max(a, b, c) - min(a, b, c) + TEN


def choices(a: int, b: int, c: int) -> int:
    """Branches, and what is asked for only where it counts."""
    if a < b or (b != c and not c):
        x = 1 if b >= c else 2
    elif a == b:
        x = 3
    else:
        x = 4 + (a > c) + 2 * (b <= c)
    if x == 5:
        return -1
    return x


def loops(numbers: Cells, count: int) -> int:
    """Ranges, loops left and begun anew, and values that change places."""
    a, b = 0, 1
    for n in range(count):
        a, b = b, a + n
        if n & 3 == 1:
            continue
        numbers[n] += a
        if numbers[n] > 900:
            break
    for n in range(1, count):
        numbers[n] -= 1
    for n in range(2, count, 3):
        b += n
    n = 0
    while n < count:
        n += 1 + (b & 1)
        numbers[n % count] = callee(numbers, n % count, a)
    fill(numbers, TEN)
    return a + b + n


def callee(numbers: Cells, at: int, value: int) -> int:
    return numbers[at] + value - numbers[Place.SECOND]


def fill(numbers: Cells, value: int) -> None:
    numbers[Place.FIRST] = value


def slices(numbers: Cells) -> int:
    """A slice has no place in a function of integers."""
    return max(numbers[1:])


def floats(a: int) -> int:
    return a / 2 > 1


def downwards(a: int) -> int:
    for n in range(a, 0, -1):
        a += n
    return a


def otherwise(a: int) -> int:
    while a > 3:
        a -= 1
    else:
        a = 7
    return a


def test_compiled_functions_give_what_python_does(rng: np.random.Generator):
    compiled = compile_functions([arithmetic, choices, loops])
    for _ in range(500):
        numbers = [int(number) for number in rng.integers(-20, 20, 3)]
        assert compiled[0](*numbers) == arithmetic(*numbers), numbers
        assert compiled[1](*numbers) == choices(*numbers), numbers
        plain = array("q", rng.integers(0, 1000, int(rng.integers(4, 12))).tolist())
        other = plain[:]
        assert compiled[2](other.buffer_info()[0], len(other)) == loops(plain, len(plain))
        assert other == plain


def test_what_is_not_compiled_is_refused_with_its_line():
    line = slices.__code__.co_firstlineno + 2
    with pytest.raises(TypeError, match=rf"slices, line {line}: '1:' cannot be compiled"):
        compile_functions([slices])
    with pytest.raises(TypeError, match=r"floats, line \d+: 'a / 2' cannot be compiled"):
        compile_functions([floats])
    for function in (downwards, otherwise):
        with pytest.raises(TypeError, match=rf"{function.__name__}, line .* cannot be compiled"):
            compile_functions([function])


def test_code_is_compiled_once_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path))
    [first] = compile_functions([arithmetic])
    monkeypatch.setattr(scalar_code, "_object_code", None)  # nothing is compiled any more
    [again] = compile_functions([arithmetic])
    assert first(7, 8, 9) == again(7, 8, 9) == arithmetic(7, 8, 9)


def test_code_follows_the_constants_that_it_uses(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFULP_CACHE", str(tmp_path))
    [before] = compile_functions([arithmetic])
    monkeypatch.setitem(globals(), "TEN", 11)
    [after] = compile_functions([arithmetic])
    assert after(1, 2, 3) == before(1, 2, 3) + 1


def test_without_a_cache_code_is_compiled_anew(tmp_path, monkeypatch):
    def full(*_) -> None:
        raise CacheError("no space")

    monkeypatch.setattr(scalar_code, "cached", full)
    [compiled] = compile_functions([choices])
    assert compiled(1, 2, 3) == choices(1, 2, 3)
