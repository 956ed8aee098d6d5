"""Tensor scales of block-scaled operands on the host: what a core has to compute, and the one rounding after it.

A core scales its sums by a power of two. Where the product of both tensor scales is none, the core gives the sums of
its accumulator as float32, which holds them exactly, and the host multiplies and rounds them once. NumPy only.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from halfulp.numerics.block_gemm import BlockGemmSpec, round_block_sums
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmResult
from halfulp.numerics.rounding import NEAREST_EVEN

__all__ = ["core_spec", "round_core_sums"]


def core_spec(spec: BlockGemmSpec, tensor_scales: tuple[float, float]) -> tuple[BlockGemmSpec, bool]:
    """What a core, which knows no tensor scales, is to be asked for, and whether the host has to round its result.

    Where the scales' product is a power of two it is a part of the spec's scale, and the core's result is final. Else
    the core gives its accumulator's sums as float32; `round_core_sums` does the rest.

    Raises
    ------
    ValueError
        Where the host would have to round and float32 does not hold the accumulator's numbers.

    Examples
    --------
    >>> spec = BlockGemmSpec("nvfp4", "nvfp4", "bfloat16", "e8m23", "stochastic:8")
    >>> asked, is_rounded_here = core_spec(spec, (0.25, 0.5))
    >>> asked.scale, is_rounded_here
    (-3, False)
    >>> asked, is_rounded_here = core_spec(spec, (1.5, 0.5))
    >>> str(asked), is_rounded_here
    ('nvfp4×nvfp4 → float32 → float32, nearest_even, saturate', True)
    """
    product = tensor_scales[0] * tensor_scales[1]  # of 48 bits, exact
    fraction, exponent = math.frexp(product)
    if fraction == 0.5:
        return replace(spec, scale=spec.scale + exponent - 1), False
    float32, held = get_format("float32"), spec.accumulator.format
    # Integers: no float holds the largest number of a format that goes beyond float32.
    if held.max_units << (held.lsb_exponent - float32.lsb_exponent) > float32.max_units:
        raise ValueError(
            f"tensor scales {tensor_scales[0]} and {tensor_scales[1]} are no power of two together, so that the host "
            f"rounds: float32 must hold all sums of the accumulator, and does not hold those of {spec.accumulator}"
        )
    return replace(spec, out=float32, rounding=NEAREST_EVEN, scale=0, overflow="saturate"), True


def round_core_sums(
    sums: npt.NDArray[np.uint32],
    spec: BlockGemmSpec,
    tensor_scales: tuple[float, float],
    *,
    seed: int = 0,
    overflow: bool = False,
) -> GemmResult:
    """The result of `spec` from the float32 codes [M, N] that a core gave for `core_spec`; `overflow` is its flag."""
    if sums.dtype != np.uint32:
        raise TypeError(f"sums must be float32 codes in uint32, not {sums.dtype}")
    result = round_block_sums(get_format("float32").decode(sums), spec, tensor_scales, seed=seed)
    return result._replace(overflow=result.overflow or overflow)
