"""`halfulp formats`: what number formats there are, and what one of them can hold."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from halfulp.cli.block_tables import block_properties, print_block_format, print_block_formats
from halfulp.cli.console import print_json, print_table
from halfulp.cli.matrix_files import check_output, write_file
from halfulp.cli.number_plots import draw
from halfulp.numerics.block_formats import BLOCK_FORMATS, BlockFormat, get_any_format
from halfulp.numerics.formats import (
    FORMATS,
    BinaryFormat,
    FloatFormat,
    Format,
    LogFormat,
    PositFormat,
    ScaledIntegerFormat,
    TableFormat,
)

__all__ = ["formats"]

EXAMPLE = """
  halfulp formats
  halfulp formats e4m3
  halfulp formats mxfp4_e2m1
  halfulp formats e4m3 e5m2 int8 --plot spacing.png
  halfulp formats e6m5 --plot errors.png --picture rounding
"""


class Picture(str, enum.Enum):
    """What `--plot` draws."""

    SPACING = "spacing"
    ROUNDING = "rounding"
    WORDS = "words"


MOST_CODES = 256
"""Formats of no more codes than this are listed code by code."""


def formats(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Formats, such as e4m3, int8 or any eXmY.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw a picture of them.")] = None,
    picture: Annotated[
        Picture | None,
        typer.Option(
            help="What to draw: the spacing of the numbers, unless told otherwise; the error of stochastic rounding "
            "against its random bits; the random words of an accumulator."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON; of one format with all codes.")] = False,
) -> None:
    """The number formats: all of them, or some with their codes, range and spacing."""
    chosen = [get_any_format(name) for name in names or [*FORMATS.names(), *BLOCK_FORMATS.names()]]
    if plot is not None:
        check_output(plot)
        if plot.suffix.lower() != ".png":
            raise ValueError(f"{plot}: pictures are PNG files, whose names end in .png")
        write_file(plot, draw((picture or Picture.SPACING).value, _plain(chosen, bool(names))))
    elif picture is not None:
        raise ValueError(f"--picture {picture.value} is of --plot FILE.png, which is not given")
    if json:
        told = [block_properties(fmt) if isinstance(fmt, BlockFormat) else _properties(fmt) for fmt in chosen]
        if len(names or ()) == 1 and isinstance(chosen[0], Format):
            print_json({**told[0], "values": _values(chosen[0])})
        else:
            print_json(told if len(names or ()) != 1 else told[0])
    elif names:
        for fmt in chosen:
            print_block_format(fmt) if isinstance(fmt, BlockFormat) else _print_format(fmt)
    else:
        _print_formats(FORMATS.members())
        print_block_formats(BLOCK_FORMATS.members())
        print(f"Besides these: {FORMATS.family}; any bfpN. `halfulp formats NAME` tells more.")


def _plain(chosen: Sequence[Format | BlockFormat], named: bool) -> list[Format]:
    """The formats to draw; raise where one that was asked for by name has no picture."""
    for fmt in chosen if named else ():
        if isinstance(fmt, BlockFormat):
            raise ValueError(f"pictures are of plain formats, not of {fmt}; its elements are {fmt.element}")
    return [fmt for fmt in chosen if isinstance(fmt, Format)]


def _properties(fmt: Format) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": fmt.name,
        "aliases": FORMATS.aliases(fmt.name) if fmt.name in FORMATS.names() else [],
        "bits": fmt.bits,
        "smallest": _lowest(fmt),
        "largest": _highest(fmt),
        "least_positive": _least_positive(fmt),
        "nan": fmt.has_nan,
        "inf": fmt.has_inf,
    }
    if isinstance(fmt, FloatFormat):
        found["exponent_bits"], found["mantissa_bits"] = fmt.exponent_bits, fmt.mantissa_bits
        found["least_normal"] = 2.0**fmt.min_normal_exponent
        found["subnormals"] = fmt.subnormals
    return found


def _highest(fmt: Format) -> float:
    units = fmt.largest if isinstance(fmt, ScaledIntegerFormat) else fmt.max_units
    return units * 2.0**fmt.lsb_exponent


def _lowest(fmt: Format) -> float:
    return fmt.smallest * 2.0**fmt.lsb_exponent if isinstance(fmt, ScaledIntegerFormat) else -_highest(fmt)


def _least_positive(fmt: Format) -> float:
    if isinstance(fmt, FloatFormat) and not fmt.subnormals:
        return 2.0**fmt.min_normal_exponent
    if isinstance(fmt, TableFormat):
        return float(fmt.magnitudes.value[1])
    return 2.0**fmt.lsb_exponent


def _step(fmt: Format) -> float:
    """Distance of the numbers of a format whose numbers are all equally far apart."""
    return 2.0 if isinstance(fmt, BinaryFormat) else 2.0**fmt.lsb_exponent


def _table_steps(fmt: TableFormat) -> list[tuple[float, float, float]]:
    """Where the numbers from zero on are equally far apart: from, to, distance."""
    numbers = fmt.magnitudes.value[: fmt.max_code + 1]
    steps = np.diff(numbers)
    edges = [0, *(np.flatnonzero(np.diff(steps)) + 1), len(steps)]
    return [(float(numbers[low]), float(numbers[high]), float(steps[low])) for low, high in itertools.pairwise(edges)]


def _values(fmt: Format) -> list[str | float] | None:
    """Value of each code, NaN and infinities as text, for JSON has none; None where there are too many codes."""
    if fmt.bits > 16:
        return None
    values = fmt.to_float64(fmt.valid_codes)
    return [float(v) if np.isfinite(v) else str(v) for v in values]


def _print_formats(chosen: list[Format]) -> None:
    rows = []
    for fmt in chosen:
        p = _properties(fmt)
        layout = _layout(fmt)
        specials = ", ".join(text for text, there in (("NaN", p["nan"]), ("Inf", p["inf"])) if there)
        normal = f"{p['least_normal']:g}" if "least_normal" in p else ""
        rows.append(
            [p["name"], ", ".join(p["aliases"]), str(p["bits"]), layout, f"{p['smallest']:g}", f"{p['largest']:g}",
             normal, f"{p['least_positive']:g}", specials or "none"]
        )  # fmt: skip
    columns = ["name", "also", "bits", "sign + exponent + fraction", "smallest", "largest", "least normal", "least > 0"]
    print_table("Formats", [*columns, "specials"], rows, right=(2, 4, 5, 6, 7))


def _layout(fmt: Format) -> str:
    """How a code is made up, in a few words."""
    if isinstance(fmt, FloatFormat):
        return f"1 + {fmt.exponent_bits} + {fmt.mantissa_bits}"
    if isinstance(fmt, LogFormat):
        return f"1 + {fmt.width - 1 - fmt.fraction_bits}.{fmt.fraction_bits}"
    if isinstance(fmt, PositFormat):
        return f"posit, {fmt.exponent_bits} exponent bits"
    if isinstance(fmt, BinaryFormat):
        return "sign"
    return "unsigned" if isinstance(fmt, ScaledIntegerFormat) and fmt.smallest == 0 else "two's complement"


def _print_format(fmt: Format) -> None:
    p = _properties(fmt)
    also = f" ({', '.join(p['aliases'])})" if p["aliases"] else ""
    print(f"{fmt.name}{also}: {fmt.bits} bits, in {8 * fmt.container_bytes} bits of memory")
    if isinstance(fmt, FloatFormat):
        print(f"  1 sign bit, {fmt.exponent_bits} exponent bits (bias {fmt.bias}), {fmt.mantissa_bits} fraction bits")
        print(f"  specials: {fmt.specials}; NaN: {_yes(fmt.has_nan)}, Inf: {_yes(fmt.has_inf)}")
        print(f"  subnormals: {_yes(fmt.subnormals)}; least normal 2^{fmt.min_normal_exponent} = {p['least_normal']:g}")
    print(f"  range: {p['smallest']:.10g} to {p['largest']:.10g}; least positive {p['least_positive']:g}")
    print_table("Spacing", ["from", "to", "spacing"], _spacing_rows(fmt), right=(0, 1, 2))
    if 1 << fmt.bits <= MOST_CODES:
        _print_codes(fmt)


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _spacing_rows(fmt: Format) -> list[list[str]]:
    if not isinstance(fmt, FloatFormat):
        if isinstance(fmt, TableFormat):
            return _ends([[f"{low:g}", f"{high:g}", f"{step:g}"] for low, high, step in _table_steps(fmt)])
        return [[f"{_lowest(fmt):g}", f"{_highest(fmt):g}", f"{_step(fmt):g}"]]
    low = fmt.min_normal_exponent
    rows = [["0", f"{2.0**low:g}", f"{_least_positive(fmt):g}"]]
    top = int(np.frexp(_highest(fmt))[1]) - 1
    for exponent in range(low, top + 1):
        upper = min(2.0 ** (exponent + 1), _highest(fmt))
        rows.append([f"{2.0**exponent:g}", f"{upper:g}", f"{2.0 ** (exponent - fmt.mantissa_bits):g}"])
    return _ends(rows)


def _ends(rows: list[list[str]]) -> list[list[str]]:
    """The ends of a long table, whose rows look alike."""
    return rows if len(rows) <= 40 else [*rows[:4], ["…", "…", "…"], *rows[-3:]]


def _print_codes(fmt: Format) -> None:
    codes = fmt.valid_codes
    told = dict(zip(codes.tolist(), (f"{v:.8g}" for v in fmt.to_float64(codes)), strict=True))
    across = min(8, 1 << fmt.bits)
    rows = [
        [f"{start:#04x}", *(told.get(code, "none") for code in range(start, start + across))]
        for start in range(0, 1 << fmt.bits, across)
    ]
    print_table("Codes", ["code", *(f"+{n}" for n in range(across))], rows, right=range(1, across + 1))
