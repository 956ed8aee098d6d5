"""The golden model: what one GEMM asks for, and the codes it must give (docs/numerics.md, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import (
    Accumulator,
    ExactAccumulator,
    FixedAccumulator,
    FloatAccumulator,
    parse_accumulator,
)
from halfulp.numerics.chains import Chain, fixed_chain, float_chain
from halfulp.numerics.exact import FINITE, INFINITE, NAN, RealArray, bit_length, decided, from_integers, least_exponent
from halfulp.numerics.formats import CodeArray, Format, get_format
from halfulp.numerics.random_bits import MAX_OUTPUT_BITS, check_seed, output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding, check_overflow

__all__ = ["GemmResult", "GemmSpec", "check_operands", "exact_gemm", "golden_gemm", "round_output", "special_sums"]

SCALE_LIMIT = 1 << 14
"""The power-of-two rescaling s is held to ±this, which no format here needs more of."""

SLICE_BITS, CHUNK = 20, 4096
"""A sum of CHUNK products of two slices stays below 2**52, so that a float64 matmul is exact in any order."""


@dataclass(frozen=True)
class GemmSpec:
    """What one GEMM asks for: C[i, j] = round_out(2**scale * sum over k of a[i, k] * b[k, j]).

    Formats, rounding and accumulator may be given as the strings of the command line.
    """

    a: Format
    b: Format
    out: Format = field(default_factory=lambda: get_format("float32"))
    accumulator: Accumulator = field(default_factory=ExactAccumulator)
    rounding: Rounding = NEAREST_EVEN
    scale: int = 0
    overflow: str = "saturate"

    if TYPE_CHECKING:  # what may be given, which is more than what is held

        def __init__(
            self,
            a: Format | str,
            b: Format | str,
            out: Format | str = ...,
            accumulator: Accumulator | str = ...,
            rounding: Rounding | str = ...,
            scale: int = ...,
            overflow: str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("a", "b", "out"):
            object.__setattr__(self, name, get_format(getattr(self, name)))
        object.__setattr__(self, "accumulator", parse_accumulator(self.accumulator))
        if isinstance(self.rounding, str):
            object.__setattr__(self, "rounding", Rounding.parse(self.rounding))
        check_overflow(self.overflow)
        if self.rounding.random_bits > MAX_OUTPUT_BITS:
            raise ValueError(f"output rounding takes at most {MAX_OUTPUT_BITS} random bits, not {self.rounding}")
        if isinstance(self.scale, bool) or not isinstance(self.scale, int):
            raise TypeError(f"scale must be an integer power of two, not {self.scale!r}")
        if abs(self.scale) > SCALE_LIMIT:
            raise ValueError(f"scale must be within ±{SCALE_LIMIT}, not {self.scale}")

    def __str__(self) -> str:
        text = f"{self.a}×{self.b} → {self.accumulator} → {self.out}, {self.rounding}, {self.overflow}"
        return f"{text}, ×2^{self.scale}" if self.scale else text


class GemmResult(NamedTuple):
    """Output codes [M, N] in the output format's `code_dtype`, and the sticky flags of the whole GEMM."""

    codes: CodeArray
    invalid: bool
    overflow: bool


def check_operands(a: npt.ArrayLike, b: npt.ArrayLike, spec: GemmSpec) -> tuple[CodeArray, CodeArray]:
    """Return the codes A [M, K] and B [K, N] in their formats' dtypes, or raise naming what does not fit."""
    codes_a, codes_b = np.asarray(a), np.asarray(b)
    if codes_a.ndim != 2 or codes_b.ndim != 2:
        raise ValueError(f"A and B must be matrices, not of shapes {codes_a.shape} and {codes_b.shape}")
    if codes_a.shape[1] != codes_b.shape[0]:
        raise ValueError(f"A is [M, K] and B is [K, N]: {codes_a.shape} and {codes_b.shape} differ in K")
    if 0 in codes_a.shape or 0 in codes_b.shape:
        raise ValueError(f"M, N and K must be at least 1: A is {codes_a.shape}, B is {codes_b.shape}")
    if isinstance(spec.accumulator, ExactAccumulator):
        spec.accumulator.check_k(codes_a.shape[1])
    return spec.a.check_codes(codes_a), spec.b.check_codes(codes_b)


def golden_gemm(a: npt.ArrayLike, b: npt.ArrayLike, spec: GemmSpec, *, seed: int = 0) -> GemmResult:
    """The GEMM that every implementation must equal: codes A [M, K] and B [K, N] give codes C [M, N]."""
    check_seed(seed)
    codes_a, codes_b = check_operands(a, b, spec)
    real_a, real_b = spec.a.decode(codes_a), spec.b.decode(codes_b)
    if isinstance(spec.accumulator, FloatAccumulator):
        chain = float_chain(real_a, real_b, spec.accumulator, seed=seed)
    elif isinstance(spec.accumulator, FixedAccumulator):
        chain = fixed_chain(real_a, real_b, spec.accumulator)
    else:
        chain = Chain(exact_gemm(real_a, real_b), overflow=False)
    result = round_output(chain.sums, spec, seed=seed)
    return result._replace(overflow=result.overflow or chain.overflow)


def round_output(
    sums: RealArray, spec: GemmSpec, *, seed: int, row_offset: int = 0, column_offset: int = 0
) -> GemmResult:
    """Scale by 2**s and round accumulated sums [M, N] once to the output format. A GEMM never outputs -0.

    The offsets place a tile in its GEMM: its random bits are those of (row_offset + i, column_offset + j).
    """
    rows, columns = sums.significand.shape
    random = None
    if spec.rounding.is_stochastic:
        i, j = row_offset + np.arange(rows), column_offset + np.arange(columns)
        random = output_words(seed, i, j, spec.rounding.random_bits)
    # The golden model rounds the magnitude, then clears the sign of what became zero.
    scaled = sums._replace(exponent=sums.exponent + spec.scale)
    codes, invalid, overflow = spec.out.encode(scaled, spec.rounding, random, spec.overflow)
    codes = spec.out.without_minus_zero(codes)
    return GemmResult(codes, bool(invalid.any()), bool(overflow.any()))


def exact_gemm(a: RealArray, b: RealArray) -> RealArray:
    """Exact dot products of A [M, K] with B [K, N], NaN and Inf propagated as IEEE 754 does.

    Operands are integers in units of the least exponent that occurs, cut into slices of `SLICE_BITS`. The
    product of two slices is a float64 matmul that is exact, for no sum in it has more than 53 bits; slices
    are put together in int64 where that holds the whole sum, else as Python integers.
    """
    lsb_a, lsb_b = least_exponent(a), least_exponent(b)
    depth = a.significand.shape[1]
    bits_a, bits_b = _span(a, lsb_a), _span(b, lsb_b)
    whole: type = np.int64 if bits_a + bits_b + depth.bit_length() <= 62 else object
    sums = np.zeros((a.significand.shape[0], b.significand.shape[1]), whole)
    for start in range(0, depth, CHUNK):
        some_a, some_b = a.at(np.s_[:, start : start + CHUNK]), b.at(np.s_[start : start + CHUNK])
        slices_b = [(base, _slice(some_b, lsb_b, base)) for base in range(0, bits_b, SLICE_BITS)]
        for base_a in range(0, bits_a, SLICE_BITS):
            slice_a = _slice(some_a, lsb_a, base_a)
            for base_b, slice_b in slices_b:
                product = (slice_a @ slice_b).astype(np.int64).astype(whole)
                sums += product << (base_a + base_b)
    result = from_integers(sums, lsb_a + lsb_b)
    if (a.kind == FINITE).all() and (b.kind == FINITE).all():
        return result
    return decided(*special_sums(a, b), otherwise=result)


def _span(x: RealArray, lsb: int) -> int:
    """Bits of the largest magnitude in units of 2**lsb."""
    used = x.significand != 0
    return int((bit_length(x.significand) + x.exponent - lsb)[used].max()) if used.any() else 0


def _slice(x: RealArray, lsb: int, base: int) -> npt.NDArray[np.float64]:
    """Bits base to base + SLICE_BITS - 1 of the magnitudes in units of 2**lsb, with the numbers' signs."""
    mask = (1 << SLICE_BITS) - 1
    shift = np.where(x.significand != 0, x.exponent - lsb - base, 0)
    raised = (x.significand & mask) << np.clip(shift, 0, SLICE_BITS)
    lowered = x.significand >> np.clip(-shift, 0, 63)
    bits = np.where(shift >= 0, raised, lowered) & mask
    return np.where(x.negative, -bits, bits).astype(np.float64)


def special_sums(a: RealArray, b: RealArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Where NaN and Inf in A [M, K] and B [K, N] decide a dot product, and what it is then.

    Any NaN, Inf - Inf or 0 * Inf gives NaN; infinite products of one sign give Inf, as IEEE 754 has it.

    Returns
    -------
    `RealArray.kind` [M, N], `FINITE` where nothing is decided, and bool [M, N], true where it is -Inf.
    """

    def count(left: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return (left.astype(np.float64) @ right.astype(np.float64)) > 0

    nan_a, nan_b = a.kind == NAN, b.kind == NAN
    inf_a, inf_b = a.kind == INFINITE, b.kind == INFINITE
    zero_a = (a.kind == FINITE) & (a.significand == 0)
    zero_b = (b.kind == FINITE) & (b.significand == 0)
    plus_a, plus_b = ~a.negative & ~nan_a & ~zero_a, ~b.negative & ~nan_b & ~zero_b
    minus_a, minus_b = a.negative & ~nan_a & ~zero_a, b.negative & ~nan_b & ~zero_b
    nan = nan_a.any(axis=1)[:, None] | nan_b.any(axis=0)[None, :]
    nan |= count(inf_a, zero_b) | count(zero_a, inf_b)
    plus = count(inf_a & plus_a, plus_b) | count(inf_a & minus_a, minus_b)
    plus |= count(plus_a, inf_b & plus_b) | count(minus_a, inf_b & minus_b)
    minus = count(inf_a & plus_a, minus_b) | count(inf_a & minus_a, plus_b)
    minus |= count(plus_a, inf_b & minus_b) | count(minus_a, inf_b & plus_b)
    nan |= plus & minus
    kind = np.where(nan, NAN, np.where(plus | minus, INFINITE, FINITE)).astype(np.uint8)
    return kind, minus & ~nan
