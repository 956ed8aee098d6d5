"""Pictures of the numbers, drawn from the golden model itself: spacing, rounding errors, random words.

`docs/numerics.md` shows them; `make pictures` draws them again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfulp.numerics.accumulators import FloatAccumulator
from halfulp.numerics.chains import float_chain
from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import FloatFormat, Format
from halfulp.numerics.random_bits import accumulator_words, threefry2x32, xorshift32
from halfulp.numerics.rounding import Rounding, round_to_multiple

__all__ = ["PICTURES", "accumulation_errors", "draw", "mean_errors", "spacing_steps", "step_words"]

Floats = npt.NDArray[np.float64]

MOST_ENUMERATED_BITS = 10
"""Random bits whose words `mean_errors` enumerates, all of them."""

LINE_STYLES = ("-", "--", "-.", ":")

FRACTIONS = 1 << 12
"""Fractions of a ulp at which `mean_errors` looks, each the middle of an interval of 1 / FRACTIONS."""


def spacing_steps(fmt: Format) -> tuple[Floats, Floats]:
    """Where the positive numbers of a format are equally far apart.

    Returns
    -------
    edges, steps : float64 [S]
        From edges[n] to edges[n + 1] the distance to the next number is steps[n]. The first edge is the least positive
        number, the last the largest.
    """
    if fmt.bits > 16 and isinstance(fmt, FloatFormat):
        edges = 2.0 ** np.arange(fmt.min_normal_exponent, np.frexp(fmt.max_units * 2.0**fmt.lsb_exponent)[1] + 1)
        steps = edges * 2.0**-fmt.mantissa_bits
        least = 2.0**fmt.lsb_exponent if fmt.subnormals else edges[0]
        return np.insert(edges, 0, least), np.insert(steps, 0, least)
    if fmt.bits > 16:  # wide integers: all equally far apart
        ends = np.array([1.0, float(fmt.max_units)]) * 2.0**fmt.lsb_exponent
        return ends, np.full(2, 2.0**fmt.lsb_exponent)
    values = fmt.to_float64(fmt.valid_codes)
    numbers = np.unique(values[np.isfinite(values) & (values > 0)])
    if len(numbers) < 2:
        return np.repeat(numbers, 2), np.repeat(numbers, 2)
    steps = np.diff(numbers)
    begins = np.flatnonzero(np.diff(steps, prepend=0))
    return np.append(numbers[begins], numbers[-1]), np.append(steps[begins], steps[-1])


def mean_errors(rounding: Rounding) -> Floats:
    """The mean of the rounding error, in ulp, at `FRACTIONS` fractions of a ulp: exact, over all random words."""
    if rounding.random_bits > MOST_ENUMERATED_BITS:
        raise ValueError(f"all words of at most {MOST_ENUMERATED_BITS} random bits are enumerated, not of {rounding}")
    words = np.arange(1 << rounding.random_bits, dtype=np.uint32)[:, None]
    significand = np.broadcast_to(2 * np.arange(FRACTIONS, dtype=np.int64) + 1, (len(words), FRACTIONS))
    bits = FRACTIONS.bit_length()
    ulp = np.zeros_like(significand)
    random = np.broadcast_to(words, significand.shape) if rounding.is_stochastic else None
    rounded = round_to_multiple(significand, ulp - bits, ulp, rounding, random)
    return rounded.mean(axis=0) - significand[0] / (2 * FRACTIONS)


def accumulation_errors(accumulator: FloatAccumulator, depths: Sequence[int], *, seed: int = 1) -> Floats:
    """RMS of the relative error of sums of K numbers from 0.25 to 1, for each K of `depths`; 1,024 sums each."""
    rng = np.random.default_rng(seed)
    fmt = accumulator.format
    errors = []
    for depth in depths:
        a = fmt.encode(from_float64(rng.uniform(0.25, 1.0, (32, depth)))).codes
        b = fmt.encode(from_float64(np.where(rng.random((depth, 32)) < 0.5, 0.5, 1.0))).codes
        sums = float_chain(fmt.decode(a), fmt.decode(b), accumulator, seed=seed).sums
        got = np.ldexp(sums.significand.astype(np.float64), sums.exponent.astype(np.int32))
        exact = fmt.to_float64(a) @ fmt.to_float64(b)
        errors.append(float(np.sqrt(np.mean((got / exact - 1) ** 2))))
    return np.array(errors)


def step_words(rows: int, columns: int, step: int, *, seed: int = 1) -> npt.NDArray[np.uint32]:
    """The 32-bit words row_i(k) xor col_j(k) of step k = `step`, [rows, columns]."""
    row, column = accumulator_words(seed, np.arange(rows), np.arange(columns))
    for _ in range(step):
        row, column = xorshift32(row), xorshift32(column)
    return row[:, None] ^ column[None, :]


def draw(picture: str, formats: Sequence[Format]) -> bytes:
    """A PNG: ``spacing`` of `formats`, ``rounding`` errors against r, or the random ``words`` of an accumulator."""
    # Drawn without pyplot: no window system, no global state, and a faster import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    PICTURES[picture](figure, formats)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    return content.getvalue()


def _draw_spacing(figure: Any, formats: Sequence[Format]) -> None:
    axes = figure.subplots()
    for number, fmt in enumerate(formats):  # ten colours a line style
        axes.step(*spacing_steps(fmt), where="post", label=fmt.name, linestyle=LINE_STYLES[number // 10 % 4])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="|x|", ylabel="distance to the next number")
    axes.set_title("Spacing of " + (formats[0].name if len(formats) == 1 else "the formats"))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=1 + len(formats) // 14, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_rounding(figure: Any, formats: Sequence[Format]) -> None:
    fmt = next((f for f in formats if isinstance(f, FloatFormat)), None)
    if fmt is None:
        raise ValueError(f"errors of accumulation are drawn for a float format, not for {formats[0]}")
    one_rounding, many = figure.subplots(1, 2)
    bits = np.arange(1, MOST_ENUMERATED_BITS + 1)
    for kind, marker in (("stochastic", "o"), ("stochastic_floor", "s")):
        errors = [mean_errors(Rounding(kind, int(r))) for r in bits]
        (line,) = one_rounding.plot(bits, [np.abs(e).max() for e in errors], f"{marker}-", label=f"{kind}: largest")
        average = np.array([abs(e.mean()) for e in errors])
        if average.any():
            one_rounding.plot(bits, average, f"{marker}:", color=line.get_color(), label=f"{kind}: over all fractions")
        else:  # which a logarithmic axis cannot show
            one_rounding.plot([], [], ":", color=line.get_color(), label=f"{kind}: over all fractions, 0")
    one_rounding.set_yscale("log", base=2)
    one_rounding.set(xlabel="random bits r", ylabel="|mean error| in ulp", title="Bias of one rounding")
    one_rounding.legend(fontsize="small")
    depths = [1 << n for n in range(2, 11)]
    modes = [Rounding("nearest_even"), *(Rounding("stochastic", r) for r in (2, 4, 8, 13))]
    for mode in modes:
        errors = accumulation_errors(FloatAccumulator(fmt, mode), depths)
        many.plot(depths, errors, "o-", ms=3, label=str(mode))
    many.set_xscale("log", base=2)
    many.set_yscale("log", base=2)
    many.set(xlabel="K", ylabel="relative error, RMS", title=f"Sums of K numbers in an {fmt} accumulator")
    many.legend(fontsize="small")
    for axes in (one_rounding, many):
        axes.grid(alpha=0.3)


def _draw_words(figure: Any, formats: Sequence[Format]) -> None:
    del formats  # the words are the same for all
    words, corners, variance = figure.subplots(1, 3)
    sample = step_words(24, 24, 3)
    words.imshow(sample >> 24, cmap="gray", interpolation="nearest")
    words.set(xlabel="output column j", ylabel="output row i", title="Top 8 bits of row_i xor col_j, k = 3")
    grid = step_words(64, 64, 3) / 2.0**32
    fresh = threefry2x32(1, np.arange(64)[:, None], np.arange(64)[None, :])[0] / 2.0**32
    corners.set_title("Fourth corner against the xor of three")
    xor = step_words(64, 64, 3)
    three = (xor[:-1, :-1] ^ xor[1:, :-1] ^ xor[:-1, 1:]) / 2.0**32
    corners.plot(three.ravel()[::7], grid[1:, 1:].ravel()[::7], ".", ms=3, label="row xor column")
    corners.plot(three.ravel()[::7], fresh[1:, 1:].ravel()[::7], ".", ms=2, alpha=0.5, label="one word an output")
    corners.set(xlabel="xor of three corners / 2^32", ylabel="the fourth / 2^32")
    corners.legend(fontsize="small", loc="lower right")
    sizes = [2, 4, 8, 16, 32, 64]
    ratios = [_variance_of_block_sums(size) for size in sizes]
    variance.plot(sizes, ratios, "o-")
    variance.axhline(1.0, color="gray", lw=1)
    variance.set_xscale("log", base=2)
    variance.set(
        xlabel="n", ylabel="variance / that of independent words", ylim=(0, 2), title="Sum of n × n outputs' errors"
    )
    variance.grid(alpha=0.3)


def _variance_of_block_sums(size: int, samples: int = 1500) -> float:
    """Variance of a sum of size × size rounding errors, over seeds, against size² independent ones of the same kind."""
    sums = []
    for seed in range(samples):
        up = step_words(size, size, 2, seed=seed) < np.uint32(0x4000_0000)  # a fraction of 1/4: up once in four
        sums.append(float(up.sum()))
    return float(np.var(sums) / (size * size * 0.25 * 0.75))


PICTURES = {"spacing": _draw_spacing, "rounding": _draw_rounding, "words": _draw_words}
"""What `draw` draws."""
