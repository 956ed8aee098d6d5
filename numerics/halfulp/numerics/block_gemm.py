"""The golden model of a GEMM on block-scaled operands: two levels of accumulation (docs/numerics.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from halfulp.numerics.accumulators import Accumulator, FloatAccumulator, parse_accumulator
from halfulp.numerics.block_formats import BlockFormat, Blocks, get_any_format
from halfulp.numerics.chains import Chain, where
from halfulp.numerics.exact import (
    FINITE,
    INFINITE,
    NAN,
    RealArray,
    bit_length,
    decided,
    from_float64,
    from_integers,
    least_exponent,
)
from halfulp.numerics.formats import Format, get_format
from halfulp.numerics.gemm import GemmResult, GemmSpec, check_operands, round_output, special_sums
from halfulp.numerics.random_bits import accumulator_words, check_seed, xorshift32
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding

__all__ = [
    "AnyGemmSpec",
    "BlockGemmSpec",
    "block_chain",
    "check_block_operands",
    "gemm_spec",
    "golden_block_gemm",
    "round_block_sums",
]


def _float32_accumulator() -> FloatAccumulator:
    made = parse_accumulator("e8m23")
    assert isinstance(made, FloatAccumulator)
    return made


@dataclass(frozen=True)
class BlockGemmSpec:
    """What one GEMM of block-scaled operands asks for; names serve as well as objects.

    C[i, j] = round_out(2**scale * tensor scales * acc over blocks of scale_a * scale_b * sum inside the block).

    Parameters
    ----------
    a, b
        Block-scaled formats of one block length.
    out, rounding, scale, overflow
        As of `GemmSpec`.
    accumulator
        A float accumulator, rounded once a block.

    Attributes
    ----------
    elements
        The same GEMM of the elements alone, a `GemmSpec`, which has checked all that the two have in common.
    """

    a: BlockFormat
    b: BlockFormat
    out: Format = field(default_factory=lambda: get_format("float32"))
    accumulator: FloatAccumulator = field(default_factory=_float32_accumulator)
    rounding: Rounding = NEAREST_EVEN
    scale: int = 0
    overflow: str = "saturate"
    elements: GemmSpec = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # what may be given, which is more than what is held

        def __init__(
            self,
            a: BlockFormat | Format | str,
            b: BlockFormat | Format | str,
            out: Format | str = ...,
            accumulator: Accumulator | str = ...,
            rounding: Rounding | str = ...,
            scale: int = ...,
            overflow: str = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            fmt = get_any_format(getattr(self, name))
            if not isinstance(fmt, BlockFormat):
                raise ValueError(f"both operands must be block-scaled, and {name.upper()} is {fmt}: {self.a}×{self.b}")
            object.__setattr__(self, name, fmt)
        if self.a.block != self.b.block:
            raise ValueError(
                f"blocks of A and B must be of one length: {self.a} has {self.a.block}, {self.b} {self.b.block}"
            )
        plain = GemmSpec(
            self.a.element, self.b.element, self.out, self.accumulator, self.rounding, self.scale, self.overflow
        )
        for name in ("out", "accumulator", "rounding"):
            object.__setattr__(self, name, getattr(plain, name))
        object.__setattr__(self, "elements", plain)
        if not isinstance(self.accumulator, FloatAccumulator):
            raise ValueError(f"blocks are added in a float accumulator, not in {self.accumulator}")

    def __str__(self) -> str:
        text = f"{self.a}×{self.b} → {self.accumulator} → {self.out}, {self.rounding}, {self.overflow}"
        return f"{text}, ×2^{self.scale}" if self.scale else text


AnyGemmSpec: TypeAlias = GemmSpec | BlockGemmSpec
"""What one GEMM asks for, of plain or of block-scaled operands."""


def gemm_spec(
    a: Format | BlockFormat | str,
    b: Format | BlockFormat | str,
    out: Format | str = "float32",
    accumulator: Accumulator | str | None = None,
    rounding: Rounding | str = NEAREST_EVEN,
    scale: int = 0,
    overflow: str = "saturate",
) -> AnyGemmSpec:
    """The spec that the operands' formats ask for: a `BlockGemmSpec` where one is block-scaled, else a `GemmSpec`.

    Without an accumulator it is ``e8m23`` for blocks and ``exact`` for others.

    >>> str(gemm_spec("mxfp8_e4m3", "mxfp8_e5m2")), str(gemm_spec("e4m3", "e5m2").accumulator)
    ('mxfp8_e4m3×mxfp8_e5m2 → float32 → float32, nearest_even, saturate', 'exact')
    """
    a, b = get_any_format(a), get_any_format(b)
    if isinstance(a, BlockFormat) or isinstance(b, BlockFormat):
        return BlockGemmSpec(a, b, out, accumulator or "e8m23", rounding, scale, overflow)
    return GemmSpec(a, b, out, accumulator or "exact", rounding, scale, overflow)


def golden_block_gemm(a: Blocks, b: Blocks, spec: BlockGemmSpec, *, seed: int = 0) -> GemmResult:
    """The GEMM of A [M, K], blocks along axis 1, with B [K, N], blocks along axis 0, that all must equal."""
    check_seed(seed)
    a, b = check_block_operands(a, b, spec)
    real_a = spec.a.decode_without_tensor_scale(a, axis=1)
    real_b = spec.b.decode_without_tensor_scale(b, axis=0)
    chain = block_chain(real_a, real_b, spec.a.block, spec.accumulator, seed=seed)
    result = round_block_sums(chain.sums, spec, (a.tensor_scale, b.tensor_scale), seed=seed)
    return result._replace(overflow=result.overflow or chain.overflow)


def check_block_operands(a: Blocks, b: Blocks, spec: BlockGemmSpec) -> tuple[Blocks, Blocks]:
    """Return A [M, K], blocks along axis 1, and B [K, N], blocks along axis 0, codes in their formats' dtypes.

    Raises naming what does not fit: shapes, codes, scales.
    """
    for name, operand, fmt in (("A", a, spec.a), ("B", b, spec.b)):
        if not isinstance(operand, Blocks):
            raise TypeError(f"{name} in {fmt} must be Blocks, codes and scales, not {type(operand).__name__}")
    codes_a, codes_b = check_operands(a.codes, b.codes, spec.elements)
    spec.a.check(a, axis=1)
    spec.b.check(b, axis=0)
    return a._replace(codes=codes_a), b._replace(codes=codes_b)


def round_block_sums(
    sums: RealArray, spec: BlockGemmSpec, tensor_scales: tuple[float, float], *, seed: int = 0
) -> GemmResult:
    """Multiply accumulated sums [M, N] by both tensor scales, exactly, and by 2**s, and round once to the output."""
    return round_output(_times(sums, *tensor_scales), spec.elements, seed=seed)


def block_chain(a: RealArray, b: RealArray, block: int, accumulator: FloatAccumulator, *, seed: int = 0) -> Chain:
    """Dot products of A [M, K] with B [K, N]: exact inside each block, the sums added in `accumulator`, k ascending.

    The scales are part of the numbers given: a block's sum is exact, so it does not matter where it is scaled.
    Step k of the random words is block k.
    """
    fmt, rounding = accumulator.format, accumulator.rounding
    rows, depth, columns = (*a.significand.shape, b.significand.shape[1])
    row_words, column_words = accumulator_words(seed, np.arange(rows), np.arange(columns))
    shift = np.uint32(32 - rounding.random_bits)
    total = from_integers(np.zeros((rows, columns), np.int64), 0)
    overflow = False
    for start in range(0, depth, block):
        some_a, some_b = a.at(np.s_[:, start : start + block]), b.at(np.s_[start : start + block])
        exact = _add_block(total, some_a, some_b)
        random = None
        if rounding.is_stochastic:
            random = (row_words[:, None] ^ column_words[None, :]) >> shift
            row_words, column_words = xorshift32(row_words), xorshift32(column_words)
        finite = exact.kind == FINITE
        rounded = fmt.encode(exact._replace(kind=np.zeros_like(exact.kind)), rounding, random, accumulator.overflow)
        decoded = fmt.decode(rounded.codes)
        total = where(finite, decoded, exact)
        overflow |= bool((rounded.overflow & finite).any())
    return Chain(total, overflow)


def _add_block(total: RealArray, a: RealArray, b: RealArray) -> RealArray:
    """`total` [M, N] plus A [M, block] @ B [block, N], exact but for a jammed lowest bit below 62.

    Python's integers: scales of E8M0 put hundreds of bits between the terms, and cancellation may bring up any of them.
    """
    kind, negative = special_sums(a, b)
    nan = (kind == NAN) | (total.kind == NAN)
    nan |= (kind == INFINITE) & (total.kind == INFINITE) & (negative != total.negative)
    infinite = (kind == INFINITE) | (total.kind == INFINITE)
    kind = np.where(nan, NAN, np.where(infinite, INFINITE, FINITE)).astype(np.uint8)
    negative = np.where(total.kind == INFINITE, total.negative, negative)

    lsb_a, lsb_b = least_exponent(a), least_exponent(b)
    products = _integers(a, lsb_a) @ _integers(b, lsb_b)
    lsb = min(lsb_a + lsb_b, least_exponent(total))
    finite_total = total._replace(significand=np.where(total.kind == FINITE, total.significand, 0))
    result = from_integers((products << (lsb_a + lsb_b - lsb)) + _integers(finite_total, lsb), lsb)
    return decided(kind, negative, otherwise=result)


def _integers(x: RealArray, lsb: int) -> np.ndarray:
    """The numbers in units of 2**lsb, as Python integers in an object array."""
    shift = np.where(x.significand != 0, x.exponent - lsb, 0).astype(object)
    magnitude = x.significand.astype(object) << shift
    return np.where(x.negative, -magnitude, magnitude)


def _times(sums: RealArray, *factors: float) -> RealArray:
    """Sums of at most 24 significant bits times two float32 factors: 72 bits, cut to 61, the lowest one jammed."""
    factor, exponent = 1, 0
    for each in factors:
        real = from_float64(np.array(each))
        factor, exponent = factor * int(real.significand), exponent + int(real.exponent)
    excess = factor.bit_length() - 48  # the 24 bits of each are at the top of the 53 that are given
    high, low = divmod(factor >> excess if excess > 0 else factor << -excess, 1 << 24)
    raised = 24 - bit_length(sums.significand)
    significand = sums.significand << raised
    lower = significand * low
    kept = ((significand * high) << 12) + (lower >> 12)
    jammed = (kept << 1) | (lower & 0xFFF != 0)
    exponents = np.where(jammed != 0, sums.exponent - raised + exponent + excess + 11, 0)
    return sums._replace(significand=jammed, exponent=exponents)
