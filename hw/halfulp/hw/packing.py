"""How wide two integer operands are that share a multiplier, and which operands can. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from halfulp.numerics.formats import Format, IntFormat

__all__ = ["MAX_OPERAND_BITS", "MULTIPLIER_BITS", "FineShifts", "Packing"]

MAX_OPERAND_BITS = 8

MULTIPLIER_BITS = 25
"""The wider factor of a DSP48E1's multiplier, sign included; a DSP48E2's has 27. The other has 18."""

OTHER_MULTIPLIER_BITS = 18


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Two operands of A, lower * 2**product_bits + upper, to be multiplied by one operand of B.

    Attributes
    ----------
    product_bits
        Width of a single product, its sign included where one can be negative.
    signed
        Whether one can.
    bits
        Width of the packed operand, in two's complement.
    """

    product_bits: int
    signed: bool
    bits: int

    @classmethod
    def of(cls, a_formats: Sequence[Format], b_formats: Sequence[Format]) -> Packing:
        """For operands of any of these formats.

        Raises
        ------
        ValueError
            Where one is no integer of at most 8 bits, or packed operands are wider than a multiplier.
        """
        (a_least, a_most), (b_least, b_most) = _range(a_formats), _range(b_formats)
        products = [x * y for x in (a_least, a_most) for y in (b_least, b_most)]
        product_bits = _width(min(products), max(products))
        # A negative upper operand borrows from the lower one.
        bits = product_bits + _width(min(a_least - (a_least < 0), -1), a_most)
        if bits > MULTIPLIER_BITS:
            names = " and ".join(", ".join(map(str, formats)) for formats in (a_formats, b_formats))
            raise ValueError(
                f"pack_multipliers is for operands that take at most {MULTIPLIER_BITS} bits when packed, "
                f"not {bits} as {names}"
            )
        return cls(product_bits=product_bits, signed=min(products) < 0, bits=bits)


class FineShifts(NamedTuple):
    """Low bits of the shifts of A and of B that a multiplier of 25 × 18 bits has room for, with all significands."""

    a: int
    b: int

    @classmethod
    def of(cls, a_formats: Sequence[Format], b_formats: Sequence[Format]) -> FineShifts:
        """For operands of any of these formats.

        Raises
        ------
        ValueError
            Where a side has no exponents, or no room in the multiplier.
        """
        places = []
        for formats, room in ((a_formats, MULTIPLIER_BITS), (b_formats, OTHER_MULTIPLIER_BITS)):
            bits = max(fmt.significand_bits for fmt in formats)
            most = max(fmt.max_shift for fmt in formats)
            if not most or bits + 2 > room:
                raise ValueError(
                    f"shift_in_multipliers is for operands with exponents and significands of at most {room - 2} bits, "
                    f"not {', '.join(map(str, formats))}"
                )
            # A sign, the significand, and 2**places - 1 places.
            places.append(min((room - bits).bit_length() - 1, most.bit_length()))
        return cls(*places)


def _range(formats: Sequence[Format]) -> tuple[int, int]:
    """The least and the greatest integer that any of `formats` has."""
    integers = [fmt for fmt in formats if isinstance(fmt, IntFormat) and fmt.bits <= MAX_OPERAND_BITS]
    for fmt in formats:
        if fmt not in integers:
            raise ValueError(f"pack_multipliers is for integer operands of at most {MAX_OPERAND_BITS} bits, not {fmt}")
    return min(fmt.smallest for fmt in integers), max(fmt.largest for fmt in integers)


def _width(least: int, most: int) -> int:
    """Bits of the integers from `least` to `most`, in two's complement where `least` is negative."""
    return max((-1 - least).bit_length(), most.bit_length()) + 1 if least < 0 else most.bit_length()
