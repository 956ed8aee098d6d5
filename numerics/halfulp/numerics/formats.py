"""Number formats by name: what a code means, and the code that a real number rounds to (docs/numerics.md, section 1).

A format is one frozen, hashable value. NumPy, Amaranth shapes, host packing, the command line and the docs
all read this one object. Plain floats and integers are a line each in the table at the end.
"""

from __future__ import annotations

import re

from halfulp.numerics.float_formats import FloatFormat
from halfulp.numerics.format_base import CodeArray, Encoded, Format
from halfulp.numerics.integer_formats import (
    BinaryFormat,
    FixedPointFormat,
    IntFormat,
    ScaledIntegerFormat,
    TernaryFormat,
)
from halfulp.numerics.log_formats import LogFormat
from halfulp.numerics.names import Registry
from halfulp.numerics.posit_formats import PositFormat
from halfulp.numerics.table_formats import TableFormat

__all__ = [
    "FORMATS",
    "BinaryFormat",
    "CodeArray",
    "Encoded",
    "FixedPointFormat",
    "FloatFormat",
    "Format",
    "IntFormat",
    "LogFormat",
    "PositFormat",
    "ScaledIntegerFormat",
    "TableFormat",
    "TernaryFormat",
    "get_format",
]


def _parse_family(name: str) -> Format | None:
    if match := re.fullmatch(r"e(\d+)m(\d+)(-ieee|-fn|-finite)?(-nosub)?", name):
        return _float(int(match[1]), int(match[2]), match[3][1:] if match[3] else "", subnormals=not match[4])
    if match := re.fullmatch(r"(u?)int(\d+)", name):
        return IntFormat(name, int(match[2]), signed=not match[1])
    if match := re.fullmatch(r"fixed(\d+)\.(\d+)", name):
        return FixedPointFormat(name, int(match[1]), int(match[2]))
    if match := re.fullmatch(r"posit(\d+)_(\d+)", name):
        return PositFormat(name, int(match[1]), int(match[2]))
    if match := re.fullmatch(r"log(\d+)(_\d+)?", name):
        width = int(match[1])
        usual = max(width - 5, 0)
        fraction_bits = int(match[2][1:]) if match[2] else usual
        return LogFormat(f"log{width}" if fraction_bits == usual else name, width, fraction_bits)
    return None


def _float(exponent_bits: int, mantissa_bits: int, specials: str, *, subnormals: bool) -> Format:
    """However it is spelled, a format is one object: e4m3-fn is float8_e4m3fn, e3m4-ieee is e3m4."""
    floats = [f for f in FORMATS.members() if isinstance(f, FloatFormat)]
    layout = exponent_bits, mantissa_bits
    plain = next((f for f in floats if (f.exponent_bits, f.mantissa_bits) == layout), None)
    usual = plain.specials if plain else "ieee"
    specials = specials or usual
    if plain is not None and specials == usual and subnormals:
        return plain
    name = (
        f"e{exponent_bits}m{mantissa_bits}"
        + ("" if specials == usual else f"-{specials}")
        + ("" if subnormals else "-nosub")
    )
    return FloatFormat(name, exponent_bits, mantissa_bits, specials, subnormals)


FAMILY = (
    "any eXmY with X <= 8, Y <= 23 and suffixes -ieee, -fn, -finite, -nosub, "
    "any intN, uintN, fixedI.F, positN_E, logN or logN_F"
)

FORMATS: Registry[Format] = Registry("format", parse=_parse_family, family=FAMILY)
"""All named formats. Names follow ml_dtypes; the field's short names are aliases.

``eXmY`` takes the suffixes ``-ieee``, ``-fn``, ``-finite`` (what the topmost codes mean) and ``-nosub`` (no
subnormals).
"""

for _format, *_aliases in (
    (FloatFormat("float32", 8, 23), "fp32", "e8m23"),
    (FloatFormat("tf32", 8, 10), "e8m10"),
    (FloatFormat("bfloat16", 8, 7), "bf16", "e8m7"),
    (FloatFormat("float16", 5, 10), "fp16", "e5m10"),
    (FloatFormat("float8_e4m3fn", 4, 3, "fn"), "e4m3", "float8_e4m3", "fp8_e4m3"),
    (FloatFormat("float8_e5m2", 5, 2), "e5m2", "fp8_e5m2"),
    (FloatFormat("float6_e3m2fn", 3, 2, "finite"), "e3m2", "fp6_e3m2"),
    (FloatFormat("float6_e2m3fn", 2, 3, "finite"), "e2m3", "fp6_e2m3"),
    (FloatFormat("float4_e2m1fn", 2, 1, "finite"), "e2m1", "fp4", "fp4_e2m1"),
    (FloatFormat("e6m5", 6, 5), "fp12"),
    (IntFormat("int2", 2),),
    (IntFormat("int4", 4),),
    (IntFormat("int8", 8),),
    (IntFormat("int16", 16),),
    (IntFormat("int32", 32),),
    (IntFormat("uint8", 8, signed=False),),
    (FixedPointFormat("fixed4.4", 4, 4),),
    (FixedPointFormat("fixed8.8", 8, 8),),
    (PositFormat("posit8_1", 8, 1),),
    (PositFormat("posit16_1", 16, 1),),
    (LogFormat("log8", 8, 3), "log8_3"),
    (LogFormat("log16", 16, 11), "log16_11"),
    (TernaryFormat(),),
    (BinaryFormat(),),
):
    FORMATS.register(_format.name, _format, *_aliases)


def get_format(name: str | Format) -> Format:
    """The format of this name (any spelling in `FORMATS`), or `name` itself where it is a format already."""
    return name if isinstance(name, Format) else FORMATS.get(name)
