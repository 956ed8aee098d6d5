"""Numbers to codes and back, at the speed of memory: equal to `Format.encode` and `Format.decode` in all codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import CodeArray, Format, get_format
from halfulp.numerics.random_bits import check_seed, output_words
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding

__all__ = ["dequantise", "quantise"]


def quantise(
    x: npt.ArrayLike,
    fmt: Format | str,
    rounding: Rounding | str = NEAREST_EVEN,
    *,
    seed: int = 0,
    words: npt.NDArray[np.uint32] | None = None,
    scale: int = 0,
    overflow: str = "saturate",
) -> CodeArray:
    """Round 2**scale * x to codes of `fmt`, once.

    Parameters
    ----------
    x
        float32 or float64, any shape and strides; other real types are taken as float64.
    rounding
        A `Rounding` or its spelling.
    seed, words
        Random bits of the stochastic modes: the R of each element in `words` (uint32, below 2**r, of x's shape), else
        those of `output_words(seed, i, j, r)`, r <= 16, where j counts along the last axis and i all the others.
    overflow
        ``saturate`` or ``ieee``.

    Returns
    -------
    Codes in the format's `code_dtype`, C-contiguous, of x's shape.
    """
    fmt = get_format(fmt)
    mode = Rounding.parse(rounding) if isinstance(rounding, str) else rounding
    values = np.asarray(x)
    random = words
    if mode.is_stochastic and words is None:
        columns = values.shape[-1] if values.ndim else 1
        rows = values.size // columns if columns else 0
        random = output_words(check_seed(seed), np.arange(rows), np.arange(columns), mode.random_bits)
        random = random.reshape(values.shape)
    exact = from_float64(values)
    return fmt.encode(exact._replace(exponent=exact.exponent + scale), mode, random, overflow).codes


def dequantise(codes: npt.ArrayLike, fmt: Format | str, dtype: npt.DTypeLike = np.float32) -> npt.NDArray:
    """The values of `codes` as float32 or float64 (float32 rounds what it does not hold: integers of 25 bits on)."""
    return get_format(fmt).to_float64(codes).astype(dtype)
