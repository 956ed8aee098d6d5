"""GEMMs of block-scaled operands: `golden_block_gemm` in all codes and flags, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.block_formats import BlockFormat, Blocks
from halfulp.numerics.block_gemm import BlockGemmSpec, check_block_operands, golden_block_gemm
from halfulp.numerics.formats import CodeArray, Format
from halfulp.numerics.gemm import GemmResult
from halfulp.numerics.random_bits import COLUMN_COUNTER, ROW_COUNTER, check_seed
from halfulp.sim.block_code import COLUMNS, ROWS, block_kernel, scale_kernel
from halfulp.sim.chains import step_words
from halfulp.sim.operands import Operand, as_float64
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.rounding_code import FLOAT32, FLOAT64, Source
from halfulp.sim.vector_code import address

__all__ = ["Parts", "emulate_block_gemm", "proven_parts", "scale_odd"]


class Parts(NamedTuple):
    """Lanes in which sums inside a block are exact, and in how many parts A is taken for that."""

    source: Source
    parts_of_a: int


def emulate_block_gemm(a: Blocks, b: Blocks, spec: BlockGemmSpec, *, seed: int = 0) -> GemmResult:
    """What `golden_block_gemm` gives, fast: A [M, K] in blocks along axis 1, B [K, N] in blocks along axis 0."""
    check_seed(seed)
    a, b = check_block_operands(a, b, spec)
    left, right = as_float64(a.codes, spec.a.element), as_float64(b.codes, spec.b.element)
    parts = proven_parts(left, right, spec)
    if parts is None or spec.accumulator.format.mantissa_bits == 0:
        return golden_block_gemm(a, b, spec, seed=seed)
    sums, overflow = _sums(a, b, left, right, spec, parts, seed)
    if (a.tensor_scale, b.tensor_scale) != (1.0, 1.0):
        sums = scale_odd(sums, a.tensor_scale, b.tensor_scale)
    result = quantise_flagged(
        sums,
        spec.out,
        spec.rounding,
        seed=seed,
        scale=spec.scale,
        overflow=spec.overflow,
        signed_zero=False,
    )
    return GemmResult(result.codes, result.invalid, result.overflow or overflow)


def proven_parts(a: Operand, b: Operand, spec: BlockGemmSpec) -> Parts | None:
    """The narrowest lanes, and the fewest parts of A, that a range test proves exact; None where none is.

    In units of the operands' last bits, no sum inside a block may exceed what the lanes' significand holds; nor may
    float64's when it is multiplied by the significands of both blocks' scales.
    """
    largest = a.max_units * b.max_units * spec.a.block
    scaled = _scale_significand(spec.a) * _scale_significand(spec.b)
    lsb = a.lsb_exponent + b.lsb_exponent
    if (
        largest <= 1 << 24
        and lsb >= -149
        and largest * 2.0**lsb < 2.0**127
        and all(_fits_float32(x) for x in (a, b))
        and scaled * largest <= 1 << 53
    ):
        return Parts(FLOAT32, 1)
    if scaled * largest <= 1 << 53:
        return Parts(FLOAT64, 1)
    if a.special or b.special:  # infinity in one part meets a zero of the other
        return None
    low, high = _halves(a)
    if scaled * max(low, high) * b.max_units * spec.a.block <= 1 << 53:
        return Parts(FLOAT64, 2)
    return None


def _scale_significand(fmt: BlockFormat) -> int:
    """The largest significand of a block's scale."""
    return 15 if fmt.scale == "e4m3" else 1


def _fits_float32(x: Operand) -> bool:
    return x.max_units <= 1 << 24 and x.lsb_exponent >= -149 and x.max_units * 2.0**x.lsb_exponent < 2.0**127


def _place(x: Operand) -> int:
    """The bit at which an operand is cut in two."""
    return (x.span + 1) // 2


def _halves(x: Operand) -> tuple[int, int]:
    """Largest magnitudes, each in units of its last bit, of the low and the high part."""
    place = _place(x)
    return 1 << max(place - 1, 0), (x.max_units >> place) + 1


def _sums(
    a: Blocks, b: Blocks, left: Operand, right: Operand, spec: BlockGemmSpec, parts: Parts, seed: int
) -> tuple[npt.NDArray[np.float64], bool]:
    """The accumulated sums [M, N] without tensor scales, and whether a step overflowed."""
    (m, depth), n = a.codes.shape, b.codes.shape[1]
    rows, columns = -(-m // ROWS) * ROWS, -(-n // COLUMNS) * COLUMNS
    dtype = np.dtype(np.float32 if parts.source is FLOAT32 else np.float64)
    values_a = _with_specials(left, a.codes, spec.a.element)
    values_b = _with_specials(right, b.codes, spec.b.element)
    padded_a, padded_b = np.zeros((parts.parts_of_a, depth, rows), dtype), np.zeros((depth, columns), dtype)
    padded_b[:, :n] = values_b
    if parts.parts_of_a == 1:
        padded_a[0, :, :m] = values_a.T
    else:
        unit = 2.0 ** (left.lsb_exponent + _place(left))
        high = np.rint(values_a / unit) * unit
        padded_a[0, :, :m], padded_a[1, :, :m] = high.T, (values_a - high).T
    count = spec.a.block_count(depth)
    scales_a, scales_b = np.zeros((count, rows)), np.zeros((count, columns))
    scales_a[:, :m] = spec.a.scale_values[a.scales.T]
    scales_b[:, :n] = spec.b.scale_values[b.scales]
    row_words = column_words = np.zeros(0, np.uint32)
    if spec.accumulator.rounding.is_stochastic:
        row_words = step_words(spec.accumulator, seed, count, rows, ROW_COUNTER)
        column_words = step_words(spec.accumulator, seed, count, columns, COLUMN_COUNTER)
    sums, flag = np.empty((rows, columns)), np.zeros(1, np.uint8)
    kernel = block_kernel(spec.accumulator, spec.a.block, parts.source, parts.parts_of_a)
    kernel(
        address(padded_a),
        address(padded_b),
        address(scales_a),
        address(scales_b),
        address(row_words),
        address(column_words),
        address(sums),
        address(flag),
        depth,
        rows,
        columns,
    )
    return sums[:m, :n], bool(flag[0])


def _with_specials(x: Operand, codes: CodeArray, fmt: Format) -> npt.NDArray[np.floating]:
    return fmt.to_float64(codes) if x.special else x.values


def scale_odd(sums: npt.NDArray[np.float64], *scales: float) -> npt.NDArray[np.float64]:
    """Sums of at most 24 significant bits times one or two float32 scales, made odd where inexact.

    The scales' product of 48 bits is cut into halves of 24, whose products with the sums float64 holds.
    """
    fraction, exponent = np.frexp(np.prod(np.array(scales, np.float64)))
    high = np.float64(np.float32(fraction))
    factor = np.ldexp(np.array([high, fraction - high]), exponent)
    scaled = np.zeros(-(-sums.size // FLOAT64.lanes) * FLOAT64.lanes)
    scaled[: sums.size] = sums.ravel()
    scale_kernel()(address(scaled), address(factor), scaled.size)
    return scaled[: sums.size].reshape(sums.shape)
