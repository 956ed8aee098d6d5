"""Formats as words of the core's configuration registers, both ways. NumPy only."""

from __future__ import annotations

from halfulp.numerics.formats import (
    FORMATS,
    BinaryFormat,
    FixedPointFormat,
    FloatFormat,
    Format,
    IntFormat,
    LogFormat,
    PositFormat,
    TernaryFormat,
    get_format,
)

__all__ = ["format_from_word", "format_word"]


def format_word(fmt: Format) -> int:
    """A format as the 32-bit word that the core's configuration registers show.

    Bits 3:0 family. 1 float: 7:4 exponent bits, 12:8 mantissa bits, 14:13 specials (0 ieee, 1 fn, 2 finite), 15
    subnormals; 2 integer: 13:8 width, 14 signed; 3 fixed point: 9:4 integer bits, 15:10 fraction bits; 4 posit: 8:4
    width, 10:9 exponent bits; 5 ternary; 6 binary; 7 logarithmic: 8:4 width, 12:9 fraction bits.
    """
    if isinstance(fmt, FloatFormat):
        specials = ("ieee", "fn", "finite").index(fmt.specials)
        return 1 | fmt.exponent_bits << 4 | fmt.mantissa_bits << 8 | specials << 13 | fmt.subnormals << 15
    if isinstance(fmt, IntFormat):
        return 2 | fmt.width << 8 | fmt.signed << 14
    if isinstance(fmt, FixedPointFormat):
        return 3 | fmt.integer_bits << 4 | fmt.fraction_bits << 10
    if isinstance(fmt, PositFormat):
        return 4 | fmt.width << 4 | fmt.exponent_bits << 9
    if isinstance(fmt, TernaryFormat):
        return 5
    if isinstance(fmt, BinaryFormat):
        return 6
    if isinstance(fmt, LogFormat):
        return 7 | fmt.width << 4 | fmt.fraction_bits << 9
    raise TypeError(f"format {fmt} has no configuration word")


def format_from_word(word: int) -> Format:
    """The format of a configuration word, under its registered name where it has one; see `format_word`."""
    for fmt in FORMATS.members():
        if format_word(fmt) == word:
            return fmt
    try:
        made = _format_of_family(word)
    except ValueError:  # widths that no format has
        made = None
    if made is None or format_word(made) != word:
        raise ValueError(f"configuration word {word:#010x} describes no format")
    return made


def _format_of_family(word: int) -> Format | None:
    """A format that is not registered, from the fields of its configuration word."""
    family = word & 0xF
    if family == 2:
        return get_format(f"{'' if word >> 14 & 1 else 'u'}int{word >> 8 & 0x3F}")
    if family == 3:
        return get_format(f"fixed{word >> 4 & 0x3F}.{word >> 10 & 0x3F}")
    if family == 4:
        return get_format(f"posit{word >> 4 & 0x1F}_{word >> 9 & 3}")
    if family == 7:
        return get_format(f"log{word >> 4 & 0x1F}_{word >> 9 & 0xF}")
    if family == 1 and word >> 13 & 3 < 3:
        specials, subnormals = ("ieee", "fn", "finite")[word >> 13 & 3], bool(word >> 15 & 1)
        return get_format(f"e{word >> 4 & 0xF}m{word >> 8 & 0x1F}-{specials}{'' if subnormals else '-nosub'}")
    return None
