"""The fast functional emulator: `golden_gemm` in all codes and flags, at the speed of matrix products.

An exact sum does not depend on its order, so a matrix product of the machine's own arithmetic gives it wherever a
range test proves that no partial sum can leave what that arithmetic holds exactly:

- int8 products in int32, where the largest sum is below 2**31: of the operands (`int8_gemm`), or of the int8 digits
  (`digits`) that they are cut into;
- one float32 product, where the largest sum, in units of the least significant bit that occurs, is at most 2**24;
- one float64 product, where it is at most 2**53;
- else operands cut into digits of fewer bits, a float64 product for each pair of digits, put together in 128 bits.

The sum is then rounded once. Float accumulators, which are rounded at each step, are the matter of `chains`, windows of
fixed point that of `windows`; what has no fast way is left to the golden model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import ExactAccumulator, FixedAccumulator, FloatAccumulator
from halfulp.numerics.exact import FINITE, INFINITE, NAN
from halfulp.numerics.formats import CodeArray, FloatFormat, IntFormat, get_format
from halfulp.numerics.gemm import GemmResult, GemmSpec, check_operands, golden_gemm, special_sums
from halfulp.numerics.random_bits import check_seed
from halfulp.sim.chains import can_chain, chain_sums
from halfulp.sim.digits import (
    MAX_DIGITS,
    MAX_WEIGHED_BITS,
    Range,
    as_digits,
    count_digits,
    digit_products,
    find_range,
    fits_int32,
    has_fast_int8,
    scaled_floats,
    weigh,
    whole_range,
)
from halfulp.sim.int8_gemm import int8_plan
from halfulp.sim.operands import Operand, as_float64, holds
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.vector_code import F64, I64, Code, Kernel, Lanes, address
from halfulp.sim.windows import can_window, window_sums

__all__ = ["digits_of", "emulate_gemm", "fits_float32", "fits_float64", "in_float32", "int8_counts"]

MAX_SUM_BITS = 126
"""What is put together in a signed integer of 128 bits."""

MAX_PAIRS, MAX_PAIRS_OF_LONG_SUMS = 9, 25
"""Pairs of int8 digits whose products are faster than one product of float64, or the three or more of a long sum."""

INT32, FLOAT32 = get_format("int32"), get_format("float32")

SMALL_MACS = 1 << 20
"""Of products up to this many, one of floats is faster than several of int8 digits."""

TINY_MACS = 1 << 15
"""Products of fewer are NumPy's, which begins sooner than PyTorch's."""

THREADED_MACS = 1 << 28
"""Smaller products run on one thread."""


def emulate_gemm(a: npt.ArrayLike, b: npt.ArrayLike, spec: GemmSpec, *, seed: int = 0) -> GemmResult:
    """What `golden_gemm` gives, fast: codes A [M, K] and B [K, N] of any strides."""
    check_seed(seed)
    plan = int8_plan(spec) if has_fast_int8() else None
    if plan is not None:
        # PyTorch's product is as fast, and uses several threads where they help.
        result = plan(a, b, seed, max_macs=THREADED_MACS if _has_torch() else None)
        if result is not None:
            return result
    codes_a, codes_b = check_operands(a, b, spec)
    sums, exponent, overflow = None, 0, False
    if isinstance(spec.accumulator, ExactAccumulator):
        sums, exponent = _exact_sums(codes_a, codes_b, spec)
    elif isinstance(spec.accumulator, FloatAccumulator) and can_chain(spec, spec.accumulator):
        sums, overflow = chain_sums(codes_a, codes_b, spec, spec.accumulator, seed)
    elif isinstance(spec.accumulator, FixedAccumulator) and can_window(spec, spec.accumulator):
        sums, overflow = window_sums(codes_a, codes_b, spec, spec.accumulator)
        exponent = spec.accumulator.lsb
    if sums is None:
        return golden_gemm(codes_a, codes_b, spec, seed=seed)
    scale = spec.scale + exponent
    if sums.dtype == np.int32 and spec.out == INT32 and scale == 0:
        return GemmResult(sums.view(np.uint32), False, False)
    if sums.dtype == np.int32 and spec.out == FLOAT32 and abs(scale) <= 64:
        codes = scaled_floats(sums, scale)
        if codes is not None:
            return GemmResult(codes, False, False)
    if sums.dtype == np.float32 and spec.out == FLOAT32 and scale == 0:
        return GemmResult((sums + np.float32(0)).view(np.uint32), False, overflow)  # -0 + 0 is 0
    result = quantise_flagged(
        sums,
        spec.out,
        spec.rounding,
        seed=seed,
        scale=spec.scale + exponent,
        overflow=spec.overflow,
        signed_zero=False,
    )
    return GemmResult(result.codes, result.invalid, result.overflow or overflow)


def fits_float64(max_a: int, max_b: int, k: int) -> bool:
    """Whether float64 holds every sum of k products of integers of at most these magnitudes, in any order."""
    return max_a * max_b * k <= 1 << 53


def fits_float32(max_a: int, max_b: int, k: int) -> bool:
    """Whether float32 does."""
    return max_a * max_b * k <= 1 << 24


def _exact_sums(a: CodeArray, b: CodeArray, spec: GemmSpec) -> tuple[npt.NDArray | None, int]:
    """The sums [M, N] divided by 2**exponent, and that exponent; None where no way is known to be exact.

    They are int32, float32 or float64; of more than 53 bits with the tail jammed into the lowest bit (`RealArray` has
    the argument).
    """
    fmt_a, fmt_b, k = spec.a, spec.b, a.shape[1]
    if not isinstance(fmt_a, (FloatFormat, IntFormat)) or not isinstance(fmt_b, (FloatFormat, IntFormat)):
        return _float_sums(a, b, spec)
    torch = _torch()
    small = a.shape[0] * b.shape[1] * k <= SMALL_MACS and None in (whole_range(fmt_a), whole_range(fmt_b))
    if small or torch is None or not has_fast_int8():
        return _float_sums(a, b, spec)
    range_a, range_b = find_range(a, fmt_a), find_range(b, fmt_b)
    counts = int8_counts(range_a, range_b, k)
    if counts is None:
        return _float_sums(a, b, spec)
    left = as_digits(a, fmt_a, range_a, counts[0], below=False)
    right = as_digits(b, fmt_b, range_b, counts[1], below=True)
    with _threads(torch, a.shape[0] * b.shape[1] * k * counts[0] * counts[1]):
        sums = digit_products(left, right, *counts, torch)
    exponent = range_a.lsb_exponent + range_b.lsb_exponent
    total = sums[0] if len(sums) == 1 else weigh(sums, range_a.max_units * range_b.max_units * k)
    if range_a.special or range_b.special:
        total = total.astype(np.float64)
        _put_specials(total, a, b, range_a.special, range_b.special, spec)
    return total, exponent


def _float_sums(a: CodeArray, b: CodeArray, spec: GemmSpec) -> tuple[npt.NDArray | None, int]:
    """The same by products of floats."""
    k = a.shape[1]
    left, right = as_float64(a, spec.a), as_float64(b, spec.b)
    if fits_float32(left.max_units, right.max_units, k) and in_float32(left, right, spec):
        sums, exponent = _product(left.values.astype(np.float32), right.values.astype(np.float32)), 0
    elif fits_float64(left.max_units, right.max_units, k):
        sums, exponent = _product(left.values, right.values), 0
    else:
        digits = digits_of(left.span, right.span, k)
        if digits is None:
            return None, 0
        sums, exponent = _split_product(left, right, digits), left.lsb_exponent + right.lsb_exponent
    if left.special or right.special:
        _put_specials(sums, a, b, left.special, right.special, spec)
    return sums, exponent


def in_float32(a: Operand, b: Operand, spec: GemmSpec) -> bool:
    """Whether no bit of operands, products or sums lies outside float32's range."""
    lsb = a.lsb_exponent + b.lsb_exponent
    return holds(np.float32, spec.a) and holds(np.float32, spec.b) and -149 <= lsb <= 127 - 24


def int8_counts(a: Range, b: Range, k: int) -> tuple[int, int] | None:
    """Into how many int8 digits operands are cut where products of those are exact and faster; None where not."""
    counts = count_digits(a), count_digits(b)
    largest = a.max_units * b.max_units * k
    pairs = counts[0] * counts[1]
    limit = MAX_PAIRS if largest <= 1 << 53 else MAX_PAIRS_OF_LONG_SUMS
    if pairs > limit or max(counts) > MAX_DIGITS or largest.bit_length() > MAX_WEIGHED_BITS:
        return None
    exact = fits_int32(a.max_units, b.max_units, k) if pairs == 1 else fits_int32(128, 128, k * min(counts))
    return counts if exact else None


@lru_cache(maxsize=1)
def _has_torch() -> bool:
    return find_spec("torch") is not None


def _torch() -> Any:
    """PyTorch, whose products NumPy has no equal of; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


@contextmanager
def _threads(torch: Any, macs: int) -> Iterator[None]:
    """One thread for products that others do not speed up: waiting for a busy core costs a thousand times as much."""
    before = torch.get_num_threads()
    if before == 1 or macs >= THREADED_MACS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _product(a: npt.NDArray, b: npt.NDArray, out: npt.NDArray | None = None) -> npt.NDArray:
    """The matrix product, on as many threads as help."""
    torch = None if a.shape[0] * a.shape[1] * b.shape[1] < TINY_MACS else _torch()
    if torch is None:
        return np.matmul(a, b, out=out)
    with _threads(torch, a.shape[0] * a.shape[1] * b.shape[1]):
        into = None if out is None else torch.from_numpy(out)
        return torch.matmul(torch.from_numpy(a), torch.from_numpy(b), out=into).numpy()


def digits_of(span_a: int, span_b: int, k: int) -> tuple[int, int] | None:
    """Into how many digits each operand is cut so that the product of two digit matrices is exact; None: too many.

    A digit of s bits is at most 2**(s - 1) in magnitude.
    """
    if span_a + span_b + k.bit_length() > MAX_SUM_BITS:
        return None
    room = 53 + 2 - (k - 1).bit_length()
    ways = [
        (count_a * count_b, count_a, count_b)
        for count_a in range(1, 9)
        for count_b in range(1, 9)
        if _digit_bits(span_a, count_a) + _digit_bits(span_b, count_b) <= room
    ]
    return min(ways)[1:] if ways else None


def _digit_bits(span: int, count: int) -> int:
    return -(-(span + 1) // count)


def _digits(x: Operand, count: int) -> list[tuple[npt.NDArray[np.float64], int]]:
    """The values in units of 2**lsb_exponent as sums of digit * 2**shift, lowest first."""
    bits = _digit_bits(x.span, count)
    rest = x.values * 2.0**-x.lsb_exponent
    parts = []
    for place in reversed(range(1, count)):
        digit = np.rint(rest * 2.0 ** -(place * bits))
        rest = rest - digit * 2.0 ** (place * bits)
        parts.append((digit, place * bits))
    return [(rest, 0), *reversed(parts)]


def _split_product(a: Operand, b: Operand, digits: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The sums in units of both least significant bits, those of more than 53 bits jammed."""
    digits_a, digits_b = _digits(a, digits[0]), _digits(b, digits[1])
    rows, columns = a.values.shape[0], b.values.shape[1]
    parts = np.empty((len(digits_a) * len(digits_b), rows, columns))
    shifts = np.empty(len(parts), np.int64)
    for n, ((left, shift_a), (right, shift_b)) in enumerate((x, y) for x in digits_a for y in digits_b):
        _product(left, right, out=parts[n])
        shifts[n] = shift_a + shift_b
    sums = np.empty((rows, columns))
    _put_together()(address(parts), address(shifts), address(sums), len(parts), sums.size)
    return sums


@lru_cache(maxsize=1)
def _put_together() -> Kernel:
    """Kernel: parts [P, size] of float64 integers, shifts [P], sums [size]; sums of parts << shift, jammed."""
    code = Code("put_together", "pppii")
    parts, shifts, sums, count, size = code.arguments
    wide = type(I64)(128)

    def each(n: Lanes) -> list[Lanes]:
        def add(p: Lanes, total: Lanes) -> list[Lanes]:
            part = code.load(parts, p * size + n, F64).to_integer(I64).widen_signed(wide)
            return [total + (part << code.load(shifts, p, I64).widen(wide))]

        (total,) = code.loop(0, count, 1, [code.constant(wide, 0)], add)
        negative = total.less_signed(0)
        magnitude = negative.choose(total.constant(0) - total, total)
        zeros = code.intrinsic("llvm.ctlz.i128", wide, magnitude, False)
        excess = (zeros.constant(128 - 53) - zeros).larger_signed(0)
        kept = magnitude >> excess
        kept = kept | (kept << excess).equals(magnitude).choose(kept.constant(0), 1)
        power = ((excess.narrow(I64) + 1023) << 52).bits_as(F64)
        value = kept.narrow(I64).to_float(F64) * power
        code.store(negative.choose(value.constant(0) - value, value), sums, n)
        return []

    code.loop(0, size, 1, [], each)
    return code.compile()


def _put_specials(
    sums: npt.NDArray[np.float64], a: CodeArray, b: CodeArray, in_a: bool, in_b: bool, spec: GemmSpec
) -> None:
    """Write NaN and infinities to the sums that they decide: only rows of A and columns of B that have any."""
    real_a, real_b = spec.a.decode(a), spec.b.decode(b)
    if in_a:
        rows = np.flatnonzero((real_a.kind != FINITE).any(axis=1))
        sums[rows] = _special(sums[rows], *special_sums(real_a.at(rows), real_b))
    if in_b:
        columns = np.flatnonzero((real_b.kind != FINITE).any(axis=0))
        few = np.s_[:, columns]
        sums[few] = _special(sums[few], *special_sums(real_a, real_b.at(few)))


def _special(
    sums: npt.NDArray[np.float64], kind: npt.NDArray[np.uint8], negative: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    infinite = np.where(negative, -np.inf, np.inf)
    return np.where(kind == NAN, np.nan, np.where(kind == INFINITE, infinite, sums))
