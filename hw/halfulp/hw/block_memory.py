"""Block-scaled operands as a core reads them: each block's scale in front of its elements, along K. NumPy only."""

from __future__ import annotations

import numpy as np

from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.formats import CodeArray

__all__ = ["with_scales"]


def with_scales(blocks: Blocks, block: int, *, axis: int) -> CodeArray:
    """The codes with each block's scale before them: ``s0 e0 … e31 s1 e32 …`` along `axis`, K of a matrix.

    The result lies in memory as the codes do, along K or across it, so that neither layout costs a transposition.

    >>> blocks = Blocks(np.array([[1, 2, 3]], np.uint8), np.array([[127, 128]], np.uint8))
    >>> with_scales(blocks, 2, axis=1)
    array([[127,   1,   2, 128,   3]], dtype=uint8)
    """
    codes, scales = np.moveaxis(blocks.codes, axis, -1), np.moveaxis(blocks.scales, axis, -1)
    length = codes.shape[-1]
    shape = (*codes.shape[:-1], length + scales.shape[-1])
    order = "F" if abs(codes.strides[-1]) > abs(codes.strides[0]) else "C"
    whole = np.empty(shape, codes.dtype, order=order)
    is_scale = np.arange(shape[-1]) % (block + 1) == 0
    whole[..., is_scale], whole[..., ~is_scale] = scales, codes
    return np.moveaxis(whole, -1, axis)
