"""GEMMs of code tensors on any torch device: `golden_gemm` in all codes and flags, by torch operations.

Exact sums are int8 or float64 matrix products under the range tests of `emulator`; float accumulators are rounded at
each step by whole-matrix operations, k ascending. What has no way on the device goes by the emulator on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from halfulp.numerics.accumulators import ExactAccumulator, FloatAccumulator
from halfulp.numerics.formats import FloatFormat, Format, IntFormat
from halfulp.numerics.gemm import GemmSpec
from halfulp.numerics.random_bits import COLUMN_COUNTER, ROW_COUNTER, check_seed
from halfulp.sim.chain_code import overflow_value
from halfulp.sim.chains import can_chain
from halfulp.sim.digits import MAX_WEIGHED_BITS, fits_int32, has_fast_int8
from halfulp.sim.emulator import digits_of, emulate_gemm, fits_float64
from halfulp.sim.operands import float_range
from halfulp.sim.torch_rounding import (
    LOW,
    TensorCodes,
    codes_as_integers,
    odd_sum,
    quantise_tensor,
    round_magnitude,
    tensor_values,
    threefry,
)

__all__ = ["tensor_gemm"]

INT8_MULTIPLE, INT8_ROWS = 8, 17
"""What CUDA's int8 product asks of N and K, and of M at least: the operands are padded with zeros."""


def tensor_gemm(a: torch.Tensor, b: torch.Tensor, spec: GemmSpec, *, seed: int = 0) -> TensorCodes:
    """Codes C [M, N] on the device of the codes A [M, K] and B [K, N], and the GEMM's flags."""
    check_seed(seed)
    codes_a, codes_b = _checked(a, spec.a, "A"), _checked(b, spec.b, "B")
    if a.device != b.device:
        raise ValueError(f"A and B must be on one device, not on {a.device} and {b.device}")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"A is [M, K] and B is [K, N]: {tuple(a.shape)} and {tuple(b.shape)} differ in K")
    if 0 in a.shape or 0 in b.shape:
        raise ValueError(f"M, N and K must be at least 1: A is {tuple(a.shape)}, B is {tuple(b.shape)}")
    sums, exponent, overflow = None, 0, False
    if isinstance(spec.accumulator, ExactAccumulator):
        spec.accumulator.check_k(a.shape[1])
        sums, exponent = _exact_sums(_operand(codes_a, spec.a), _operand(codes_b, spec.b), spec)
    elif isinstance(spec.accumulator, FloatAccumulator) and can_chain(spec, spec.accumulator):
        sums, overflow = _chain_sums(codes_a, codes_b, spec, spec.accumulator, seed)
    if sums is None:
        return _by_cpu(a, b, spec, seed)
    result = quantise_tensor(
        sums,
        spec.out,
        spec.rounding,
        seed=seed,
        scale=spec.scale + exponent,
        overflow=spec.overflow,
        signed_zero=False,
    )
    return result._replace(overflow=result.overflow or overflow)


def _by_cpu(a: torch.Tensor, b: torch.Tensor, spec: GemmSpec, seed: int) -> TensorCodes:
    result = emulate_gemm(a.cpu().numpy(), b.cpu().numpy(), spec, seed=seed)
    return TensorCodes(torch.from_numpy(result.codes).to(a.device), result.invalid, result.overflow)


def _checked(codes: torch.Tensor, fmt: Format, name: str) -> torch.Tensor:
    """Codes as int64, or raise naming what does not fit."""
    if codes.ndim != 2:
        raise ValueError(f"{name} must be a matrix, not of shape {tuple(codes.shape)}")
    if codes.dtype.is_floating_point or codes.dtype.is_complex or codes.dtype == torch.bool:
        raise TypeError(f"{fmt.name} codes must be integers, not {codes.dtype}")
    integers = codes_as_integers(codes)
    if codes.numel():
        low, high = (int(extreme) for extreme in torch.stack(torch.aminmax(integers)).tolist())
        if low < 0 or high >> fmt.bits:
            worst = low if low < 0 else high
            raise ValueError(f"code {worst} is outside {fmt.name}: codes are 0 to {2**fmt.bits - 1}")
        if not isinstance(fmt, (FloatFormat, IntFormat)):
            fmt.check_codes(codes.cpu().numpy())
    return integers


class _TensorOperand(NamedTuple):
    """float64 values, 0 in place of NaN and infinities, and `raw` with them; the range as `Range` has it."""

    values: torch.Tensor
    raw: torch.Tensor
    lsb_exponent: int
    max_units: int
    special: bool


def _operand(codes: torch.Tensor, fmt: Format) -> _TensorOperand:
    raw = tensor_values(codes, fmt)
    finite = raw.isfinite()
    special = not bool(finite.all())
    values = torch.where(finite, raw, 0.0) if special else raw
    if not isinstance(fmt, FloatFormat):
        return _TensorOperand(values, raw, fmt.lsb_exponent, fmt.max_units, special)
    magnitude = torch.where(values != 0, codes & (fmt.sign_code - 1), 0)
    least = torch.where(magnitude > 0, magnitude, fmt.sign_code)
    extremes = torch.stack([magnitude.max(), least.min()]).tolist()
    return _TensorOperand(values, raw, *float_range(fmt, int(extremes[0]), int(extremes[1])), special)


def _exact_sums(a: _TensorOperand, b: _TensorOperand, spec: GemmSpec) -> tuple[torch.Tensor | None, int]:
    """The sums [M, N] divided by 2**exponent, jammed where of more than 53 bits, and that exponent; None: no way."""
    k = a.values.shape[1]
    exponent = a.lsb_exponent + b.lsb_exponent
    # A CPU without VNNI saturates pairs of int8 products at 16 bits.
    exact_int8 = a.values.device.type != "cpu" or has_fast_int8()
    if exact_int8 and _in_int8(a) and _in_int8(b) and fits_int32(a.max_units, b.max_units, k):
        sums = _int8_product(_units(a).to(torch.int8), _units(b).to(torch.int8)).to(torch.float64)
    elif fits_float64(a.max_units, b.max_units, k):
        sums = _units(a) @ _units(b)
    else:
        digits = digits_of(a.max_units.bit_length(), b.max_units.bit_length(), k)
        if digits is None or (a.max_units * b.max_units * k).bit_length() > MAX_WEIGHED_BITS:
            return None, 0
        sums = _digit_sums(a, b, digits)
    if a.special or b.special:
        special = _special_sums(a.raw, b.raw)
        sums = torch.where(special == 0, sums, special)
    return sums, exponent


def _units(x: _TensorOperand) -> torch.Tensor:
    return x.values * 2.0**-x.lsb_exponent


def _in_int8(x: _TensorOperand) -> bool:
    return x.max_units <= 127


def _int8_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product in int32; CUDA takes no other shapes than the padded ones."""
    (m, k), n = a.shape, b.shape[1]
    rows, depth, columns = max(m, INT8_ROWS), -(-k // INT8_MULTIPLE), -(-n // INT8_MULTIPLE)
    depth, columns = depth * INT8_MULTIPLE, columns * INT8_MULTIPLE
    left = torch.nn.functional.pad(a, (0, depth - k, 0, rows - m))
    right = torch.nn.functional.pad(b, (0, columns - n, 0, depth - k))
    product = torch._int_mm(left.contiguous(), right.contiguous())  # pyright: ignore[reportPrivateImportUsage]  (it has no public name)
    return product[:m, :n]


def _digit_sums(a: _TensorOperand, b: _TensorOperand, counts: tuple[int, int]) -> torch.Tensor:
    """Sums of products of digits that float64 holds exactly, put together in two integers: high * 2**32 + low."""
    high = low = torch.zeros((), dtype=torch.int64, device=a.values.device)
    for left, shift_a in _digits(a, counts[0]):
        for right, shift_b in _digits(b, counts[1]):
            part, shift = (left @ right).to(torch.int64), shift_a + shift_b
            if shift >= 32:
                high = high + (part << (shift - 32))
            else:
                high = high + (part >> (32 - shift))
                low = low + ((part & ((1 << (32 - shift)) - 1)) << shift)
    high, low = high + (low >> 32), low & LOW
    return odd_sum(high.to(torch.float64) * 2.0**32, low.to(torch.float64))


def _digits(x: _TensorOperand, count: int) -> list[tuple[torch.Tensor, int]]:
    """The values in units as sums of digit * 2**shift; a digit of s bits is at most 2**(s - 1)."""
    bits = -(-(x.max_units.bit_length() + 1) // count)
    rest = _units(x)
    parts = []
    for place in reversed(range(1, count)):
        digit = torch.round(rest * 2.0 ** -(place * bits))
        rest = rest - digit * 2.0 ** (place * bits)
        parts.append((digit, place * bits))
    return [(rest, 0), *parts]


def _special_sums(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """NaN and infinities of the dot products that they decide, else 0: `special_sums` of the golden model."""

    def any_of(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.to(torch.float64) @ right.to(torch.float64)) > 0

    nan = a.isnan().any(dim=1)[:, None] | b.isnan().any(dim=0)[None, :]
    nan = nan | any_of(a.isinf(), b == 0) | any_of(a == 0, b.isinf())
    plus = any_of(a == torch.inf, b > 0) | any_of(a == -torch.inf, b < 0)
    plus = plus | any_of(a > 0, b == torch.inf) | any_of(a < 0, b == -torch.inf)
    minus = any_of(a == torch.inf, b < 0) | any_of(a == -torch.inf, b > 0)
    minus = minus | any_of(a > 0, b == -torch.inf) | any_of(a < 0, b == torch.inf)
    nan = nan | (plus & minus)
    found = torch.where(plus, torch.inf, torch.where(minus, -torch.inf, 0.0)).to(torch.float64)
    return torch.where(nan, torch.nan, found)


def _chain_sums(
    a: torch.Tensor, b: torch.Tensor, spec: GemmSpec, accumulator: FloatAccumulator, seed: int
) -> tuple[torch.Tensor, bool]:
    """The accumulated sums [M, N] in float64, and whether a step overflowed."""
    (m, depth), n = a.shape, b.shape[1]
    values_a, values_b = tensor_values(a, spec.a), tensor_values(b, spec.b)
    rounding = accumulator.rounding
    rows = _first_words(seed, m, ROW_COUNTER, a.device)[:, None]
    columns = _first_words(seed, n, COLUMN_COUNTER, a.device)[None, :]
    total = torch.zeros((m, n), dtype=torch.float64, device=a.device)
    overflow = torch.zeros((m, n), dtype=torch.bool, device=a.device)
    for k in range(depth):
        word = (rows ^ columns) >> (32 - rounding.random_bits) if rounding.is_stochastic else None
        total, beyond = _step(odd_sum(values_a[:, k, None] * values_b[None, k, :], total), accumulator, word)
        overflow = overflow | beyond
        if rounding.is_stochastic:
            rows, columns = _next_words(rows), _next_words(columns)
    return total, bool(overflow.any())


def _first_words(seed: int, count: int, counter: int, device: torch.device) -> torch.Tensor:
    positions = torch.arange(count, device=device)
    words, _ = threefry(seed, positions, torch.full_like(positions, counter))
    return torch.where(words == 0, 1, words)


def _next_words(words: torch.Tensor) -> torch.Tensor:
    words = words ^ ((words << 13) & LOW)
    words = words ^ (words >> 17)
    return words ^ ((words << 5) & LOW)


def _step(
    exact: torch.Tensor, accumulator: FloatAccumulator, word: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact sum (odd where it is inexact) rounded, and where that overflowed: `chain_code.round_odd`."""
    fmt = accumulator.format
    bits = exact.view(torch.int64)
    magnitude = bits & ((1 << 63) - 1)
    special = magnitude >= 0x7FF << 52
    field, fraction = magnitude >> 52, magnitude & ((1 << 52) - 1)
    significand = torch.where(field > 0, fraction | (1 << 52), fraction)
    below = (fmt.min_normal_exponent + 1023 - field).clamp(min=0)
    shift = below + (52 - fmt.mantissa_bits)
    if not fmt.subnormals:
        shift = torch.where(below > 0, below + 52, shift)
    multiples = round_magnitude(significand, shift, accumulator.rounding, word)
    unit = ((field + shift - 52).clamp(1, 2046) << 52).view(torch.float64)
    value = multiples.to(torch.float64) * unit
    largest = fmt.max_units * 2.0**fmt.lsb_exponent
    too_large = (value > largest) & ~special
    value = torch.where(too_large, overflow_value(accumulator, largest), value)
    return torch.where(special, exact, value.copysign(exact)), too_large
