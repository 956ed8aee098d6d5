"""Codes to numbers, numbers to codes, and random words, as torch operations on tensors of any device.

It is `rounding_code` in whole-tensor operations on int64 and float64, which every device has: the same argument holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from halfulp.numerics.formats import FloatFormat, Format, IntFormat, get_format
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS, THREEFRY_PARITY, THREEFRY_ROTATIONS, check_seed
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.rounding_code import FLOAT64, rounds

__all__ = [
    "TensorCodes",
    "codes_as_integers",
    "integers_as_codes",
    "odd_sum",
    "output_halves",
    "quantise_tensor",
    "round_magnitude",
    "tensor_values",
    "threefry",
]

LOW = (1 << 32) - 1
DTYPES = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32}

MAX_SHIFT = 60
"""A shift beyond it is done in two: what the first cuts off is below every bit of fraction that decides."""


class TensorCodes(NamedTuple):
    """Codes on the numbers' device, and whether any number was a NaN without a code, or beyond the largest."""

    codes: torch.Tensor
    invalid: bool
    overflow: bool


def codes_as_integers(codes: torch.Tensor) -> torch.Tensor:
    """Codes of any unsigned dtype as int64."""
    size = codes.element_size()
    if codes.dtype == torch.uint8 or codes.dtype not in DTYPES.values():
        return codes.to(torch.int64)
    return codes.view(SIGNED[size]).to(torch.int64) & ((1 << (8 * size)) - 1)


def integers_as_codes(codes: torch.Tensor, fmt: Format) -> torch.Tensor:
    """int64 codes in the dtype of their format's container."""
    size = fmt.container_bytes
    half = 1 << (8 * size - 1)
    return ((codes ^ half) - half).to(SIGNED[size]).view(DTYPES[size])


def tensor_values(codes: torch.Tensor, fmt: Format) -> torch.Tensor:
    """The values of int64 codes as float64, with NaN and infinities."""
    if isinstance(fmt, IntFormat):
        sign = 1 << (fmt.width - 1) if fmt.signed else 0
        return ((codes ^ sign) - sign).to(torch.float64)
    if not isinstance(fmt, FloatFormat):
        table = fmt.to_float64(fmt.valid_codes)
        every = np.zeros(1 << fmt.bits)
        every[fmt.valid_codes] = table
        return torch.from_numpy(every).to(codes.device)[codes]
    magnitude = codes & (fmt.sign_code - 1)
    normal = (magnitude << (52 - fmt.mantissa_bits)) + ((1023 - fmt.bias) << 52)
    below = magnitude.to(torch.float64) * 2.0**fmt.lsb_exponent if fmt.subnormals else torch.zeros_like(normal)
    value = torch.where(magnitude >> fmt.mantissa_bits == 0, below.to(torch.float64), normal.view(torch.float64))
    value = torch.where(magnitude > fmt.max_code, torch.full_like(value, torch.nan), value)
    if fmt.has_inf:
        value = torch.where(magnitude == fmt.inf_code, torch.full_like(value, torch.inf), value)
    return torch.where(codes >= fmt.sign_code, -value, value)


def threefry(seed: int, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Threefry-2x32 with 20 rounds of counters (a, b), int64 that broadcast; words in int64."""
    low, high = seed & LOW, seed >> 32
    keys = [low, high, low ^ high ^ THREEFRY_PARITY]
    a, b = torch.broadcast_tensors((a + keys[0]) & LOW, (b + keys[1]) & LOW)
    for step in range(20):
        rotation = THREEFRY_ROTATIONS[step % 8]
        a = (a + b) & LOW
        b = (((b << rotation) | (b >> (32 - rotation))) & LOW) ^ a
        if step % 4 == 3:
            injection = step // 4 + 1
            a = (a + keys[injection % 3]) & LOW
            b = (b + keys[(injection + 1) % 3] + injection) & LOW
    return a, b


def output_halves(seed: int, rows: int, columns: int, random_bits: int, device: torch.device) -> torch.Tensor:
    """`output_words` of a whole matrix [rows, columns], int64."""
    quarters = torch.arange(-(-columns // 4), device=device)
    a, b = threefry(seed, torch.arange(rows, device=device)[:, None], quarters[None, :])
    halves = torch.stack([a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16], dim=-1).reshape(rows, -1)
    return halves[:, :columns] >> (MAX_OUTPUT_BITS - random_bits)


def odd_sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """X + y in float64, where inexact the odd one of the two floats around it (see `chain_code.odd_sum`)."""
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    bits = total.view(torch.int64)
    moved = torch.where((error.view(torch.int64) ^ bits) < 0, bits - 1, bits + 1)
    inexact = (error > 0) | (error < 0)
    return torch.where(inexact & (bits & 1 == 0), moved, bits).view(torch.float64)


def round_magnitude(
    significand: torch.Tensor, shift: torch.Tensor, rounding: Rounding, word: torch.Tensor | None
) -> torch.Tensor:
    """Round significands of at most 53 bits / 2**shift to integers; R of the contract in `word`."""
    near = shift.clamp(max=MAX_SHIFT)
    kept = significand >> (shift - near).clamp(max=63)
    if rounding.kind == "toward_zero":
        return kept >> near
    if rounding.kind == "nearest_even":
        half = (torch.ones_like(near) << near) >> 1
        addend = torch.where(near == 0, near, half + ((kept >> near) & 1) - 1)
        return (kept + addend) >> near
    assert word is not None
    r = rounding.random_bits
    scaled = ((word << 1) | 1) << (MAX_SHIFT - 1 - r) if rounding.kind == "stochastic" else word << (MAX_SHIFT - r)
    return (kept + (scaled >> (MAX_SHIFT - near))) >> near


def quantise_tensor(
    x: torch.Tensor,
    fmt: Format | str,
    rounding: Rounding = NEAREST_EVEN,
    *,
    seed: int = 0,
    scale: int = 0,
    overflow: str = "saturate",
    signed_zero: bool = True,
) -> TensorCodes:
    """`quantise_flagged` of a float tensor on its own device; formats without a way there go by the CPU."""
    fmt = get_format(fmt)
    check_overflow(overflow)
    check_seed(seed)
    if not x.dtype.is_floating_point:
        raise TypeError(f"numbers to quantise must be floating point, not {x.dtype}")
    if not rounds(FLOAT64, fmt, rounding, scale):
        found = quantise_flagged(
            x.detach().cpu().numpy(),
            fmt,
            rounding,
            seed=seed,
            scale=scale,
            overflow=overflow,
            signed_zero=signed_zero,
        )
        return TensorCodes(torch.from_numpy(found.codes).to(x.device), found.invalid, found.overflow)
    if rounding.random_bits > MAX_OUTPUT_BITS:
        raise ValueError(f"from a seed come at most {MAX_OUTPUT_BITS} random bits, not {rounding}")
    values = x.detach().to(torch.float64).contiguous()
    columns = values.shape[-1] if values.ndim else 1
    rows = values.numel() // columns if columns else 0
    word = None
    if rounding.is_stochastic:
        word = output_halves(seed, rows, columns, rounding.random_bits, x.device).reshape(values.shape)
    numbers = _numbers(values, scale)
    if isinstance(fmt, IntFormat):
        codes, invalid, beyond = _to_integer(numbers, fmt, rounding, word)
    else:
        assert isinstance(fmt, FloatFormat)  # what `rounds` lets through
        codes, invalid, beyond = _to_float(numbers, fmt, rounding, overflow, word, signed_zero=signed_zero)
    flags = torch.stack([invalid.any(), beyond.any()]).tolist()
    return TensorCodes(integers_as_codes(codes, fmt), *flags)


class _Numbers(NamedTuple):
    """±significand * 2**(exponent - 1075)."""

    negative: torch.Tensor
    significand: torch.Tensor
    exponent: torch.Tensor
    infinite: torch.Tensor
    nan: torch.Tensor


def _numbers(values: torch.Tensor, scale: int) -> _Numbers:
    bits = values.view(torch.int64)
    magnitude = bits & ((1 << 63) - 1)
    field, fraction = magnitude >> 52, magnitude & ((1 << 52) - 1)
    significand = torch.where(field > 0, fraction | (1 << 52), fraction)
    return _Numbers(bits < 0, significand, field.clamp(min=1) + scale, values.isinf(), values.isnan())


def _to_float(
    x: _Numbers, fmt: FloatFormat, rounding: Rounding, overflow: str, word: torch.Tensor | None, *, signed_zero: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    least, dropped = fmt.min_normal_exponent + 1023, 52 - fmt.mantissa_bits
    above = (x.exponent - least).clamp(0, (1 << fmt.exponent_bits) + 1)
    below = (least - x.exponent).clamp(min=0)
    shift = below + dropped
    if not fmt.subnormals:
        shift = torch.where(below > 0, below + 52, shift)
    multiples = round_magnitude(x.significand, shift, rounding, word)
    code = multiples + (above << fmt.mantissa_bits)
    if not fmt.subnormals:
        code = torch.where(below > 0, multiples << fmt.mantissa_bits, code)
    too_large = (code > fmt.max_code) & ~(x.infinite | x.nan)
    beyond = fmt.inf_code if fmt.has_inf else fmt.nan_code if fmt.has_nan else fmt.max_code
    at_overflow = beyond if overflow == "ieee" and rounding.kind != "toward_zero" else fmt.max_code
    code = torch.where(too_large, at_overflow, code)
    code = torch.where(x.infinite, beyond if fmt.has_inf or overflow == "ieee" else fmt.max_code, code)
    unsigned = x.nan
    if fmt.has_nan and not fmt.has_inf:
        unsigned = unsigned | (code == fmt.nan_code)
    if not signed_zero:
        unsigned = unsigned | (code == 0)
    code = torch.where(x.negative & ~unsigned, code | fmt.sign_code, code)
    code = torch.where(x.nan, fmt.nan_code if fmt.has_nan else 0, code)
    invalid = torch.zeros_like(x.nan) if fmt.has_nan else x.nan
    return code, invalid, too_large if fmt.has_inf else too_large | x.infinite


def _to_integer(
    x: _Numbers, fmt: IntFormat, rounding: Rounding, word: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    huge = (x.exponent > 1075) & (x.significand > 0)
    multiples = round_magnitude(x.significand, (1075 - x.exponent).clamp(min=0), rounding, word)
    limit = torch.where(x.negative, -fmt.smallest, fmt.largest)
    too_large = ((multiples > limit) | huge | x.infinite) & ~x.nan
    size = torch.where(too_large, limit, multiples)
    value = torch.where(x.negative, -size, size) & ((1 << fmt.width) - 1)
    return torch.where(x.nan, 0, value), x.nan, too_large
