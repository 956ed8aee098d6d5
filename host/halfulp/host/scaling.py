"""Power-of-two scales of tensors, from the exponent field of their largest magnitude. No torch here."""

from __future__ import annotations

import math

from halfulp.numerics.formats import Format, ScaledIntegerFormat

__all__ = ["MAX_SCALE_EXPONENT", "largest_finite", "scale_exponent"]

MAX_SCALE_EXPONENT = 126
"""Scales are held to 2**±126, so that a scale and its inverse are normal float32 numbers."""


def largest_finite(fmt: Format) -> float:
    """The largest magnitude that `fmt` has with either sign: 448 for e4m3, 127 for int8. Exact in float64."""
    units = fmt.largest if isinstance(fmt, ScaledIntegerFormat) else fmt.max_units
    return math.ldexp(units, fmt.lsb_exponent)


def scale_exponent(amax: float, fmt: Format, *, margin: int = 0) -> int:
    """The largest s such that amax·2**s does not exceed `fmt`'s largest finite number, less `margin`.

    ``frexp`` takes the exponent field and the fraction apart, so the answer is exact on both sides of each power of
    two, where ``floor(log2(amax))`` in float32 is not.

    Parameters
    ----------
    amax
        Largest finite magnitude of the tensor. 0 (all zeros, or no finite element at all) gives s = 0.
    fmt
        The format that it is quantised to.
    margin
        Powers of two left free.

    Returns
    -------
    int, within ±`MAX_SCALE_EXPONENT`.

    Examples
    --------
    >>> from halfulp.numerics.formats import get_format
    >>> scale_exponent(1.0, get_format("e4m3")), scale_exponent(1.75, get_format("e4m3"))
    (8, 8)
    >>> scale_exponent(1.7500001, get_format("e4m3"))
    7
    """
    if not math.isfinite(amax) or amax < 0:
        raise ValueError(f"the largest magnitude of a tensor must be finite and not negative, not {amax!r}")
    if amax == 0:
        return 0
    fraction, exponent = math.frexp(amax)
    largest_fraction, largest_exponent = math.frexp(largest_finite(fmt))
    s = largest_exponent - exponent - (fraction > largest_fraction) - margin
    return max(-MAX_SCALE_EXPONENT, min(MAX_SCALE_EXPONENT, s))
