"""Number formats by name: what a code means, and the code that a real number rounds to (docs/numerics.md, section 1).

A format is one frozen, hashable value. NumPy, Amaranth shapes, host packing, the command line and the docs
all read this one object. Plain floats and integers are a line each in the table at the end.
"""

from __future__ import annotations

import re
from dataclasses import replace

from halfulp.numerics.float_formats import FloatFormat
from halfulp.numerics.format_base import CodeArray, Encoded, Format
from halfulp.numerics.integer_formats import (
    BinaryFormat,
    FixedPointFormat,
    IntFormat,
    ScaledIntegerFormat,
    TernaryFormat,
)
from halfulp.numerics.names import Registry
from halfulp.numerics.posit_formats import PositFormat

__all__ = [
    "FORMATS",
    "BinaryFormat",
    "CodeArray",
    "Encoded",
    "FixedPointFormat",
    "FloatFormat",
    "Format",
    "IntFormat",
    "PositFormat",
    "ScaledIntegerFormat",
    "TernaryFormat",
    "get_format",
]


def _parse_family(name: str) -> Format | None:
    if match := re.fullmatch(r"e(\d+)m(\d+)(-ieee|-fn|-finite)?(-nosub)?", name):
        specials = match[3][1:] if match[3] else "ieee"
        if match[4] and not match[3]:  # what the format of this name without the suffix has
            plain = FORMATS.get(f"e{match[1]}m{match[2]}")
            specials = plain.specials if isinstance(plain, FloatFormat) else specials
        made = FloatFormat(name, int(match[1]), int(match[2]), specials, subnormals=not match[4])
        # However it is spelled, a format that has a name is one object: e4m3-fn is float8_e4m3fn.
        return next((known for known in FORMATS.members() if replace(made, name=known.name) == known), made)
    if match := re.fullmatch(r"(u?)int(\d+)", name):
        return IntFormat(name, int(match[2]), signed=not match[1])
    if match := re.fullmatch(r"fixed(\d+)\.(\d+)", name):
        return FixedPointFormat(name, int(match[1]), int(match[2]))
    if match := re.fullmatch(r"posit(\d+)_(\d+)", name):
        return PositFormat(name, int(match[1]), int(match[2]))
    return {"ternary": TernaryFormat(), "binary": BinaryFormat()}.get(name)


FAMILY = (
    "any eXmY with X <= 8, Y <= 23 and suffixes -ieee, -fn, -finite, -nosub, "
    "any intN, uintN, fixedI.F or positN_E, ternary, binary"
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
):
    FORMATS.register(_format.name, _format, *_aliases)


def get_format(name: str | Format) -> Format:
    """The format of this name (any spelling in `FORMATS`), or `name` itself where it is a format already."""
    return name if isinstance(name, Format) else FORMATS.get(name)
