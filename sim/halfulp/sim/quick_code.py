"""The rounding of float32 and float64 lanes to small floats in few instructions, where `is_quick` proves it right.

It gives what `round_lanes` gives of numbers whose code is below a limit. In units of 2**-(dropped bits) of a code,
codes of normal numbers are the numbers' own bit patterns less a constant, and codes of subnormal ones are multiples
of the least subnormal. Rounding adds to them and cuts off. A number's truncated tail, below the lanes' own last bit in
the unit of the least subnormal, cannot decide where r + 1 bits of fraction (r of `stochastic_floor`) are kept.
"""

from __future__ import annotations

from halfulp.numerics.formats import FloatFormat, Format
from halfulp.numerics.rounding import Rounding
from halfulp.sim.rounding_code import FLOAT32, Source
from halfulp.sim.vector_code import F32, F64, Lanes, host_features

__all__ = ["QuickCodes", "is_aligned", "is_quick"]


def is_quick(source: Source, fmt: Format, rounding: Rounding, scale: int) -> bool:
    """Whether `QuickCodes` rounds numbers of `source`, times 2**scale, to `fmt`: a range test of formats and scale."""
    if not isinstance(fmt, FloatFormat) or not fmt.subnormals or not 1 <= fmt.mantissa_bits < source.fraction_bits:
        return False
    dropped = source.fraction_bits - fmt.mantissa_bits
    if rounding.random_bits + (rounding.kind == "stochastic") > dropped:
        return False
    nearest = rounding.kind == "nearest_even"
    # Without the instruction that makes 64-bit integers of float64, the plain way is quicker.
    if source is not FLOAT32 and not nearest and "avx512dq" not in host_features():
        return False
    if is_aligned(source, fmt, scale):
        return True
    places = fmt.mantissa_bits if nearest else source.fraction_bits
    fields = (fmt.min_normal_exponent - scale, places - fmt.min_normal_exponent + scale)
    return all(1 <= field + source.bias <= 2 * source.bias for field in fields)


def is_aligned(source: Source, fmt: FloatFormat, scale: int) -> bool:
    """Whether numbers are subnormal before the rounding just where they are after it."""
    return fmt.min_normal_exponent - scale == 1 - source.bias


class QuickCodes:
    """Writes the rounding of one vector after another; `scale` in lanes of the source's integers.

    `aligned`: see `is_aligned`.
    """

    def __init__(
        self,
        source: Source,
        fmt: FloatFormat,
        rounding: Rounding,
        overflow: str,
        scale: Lanes,
        *,
        aligned: bool,
    ) -> None:
        self.source, self.fmt, self.rounding, self.scale = source, fmt, rounding, scale
        self._aligned = aligned
        self.dropped = source.fraction_bits - fmt.mantissa_bits
        fraction = source.fraction_bits
        self._floats = scale.fits(F32 if source is FLOAT32 else F64)
        least = scale.constant(fmt.min_normal_exponent + source.bias) - scale
        self._least = least << fraction  # the least number that becomes a normal one
        self._base = (least - 1) << fraction
        places = fmt.mantissa_bits if rounding.kind == "nearest_even" else fraction
        power = (scale + (places - fmt.min_normal_exponent + source.bias)) << fraction
        self._power = power.bits_as(self._floats)
        infinity = scale.constant((2 * source.bias + 1) << fraction)
        special = (infinity - self._base) >> self.dropped
        self.limit = special if overflow == "saturate" else special.smaller(fmt.max_code + 1)
        """A vector with this code or one beyond it is not right."""

    @property
    def place(self) -> tuple[int, int]:
        """Masks of a random half's bits that are added to a code's fraction, and of its half bit where that fits."""
        r = self.rounding.random_bits
        half = 1 << (15 - r) if self.rounding.kind == "stochastic" and r < 16 else 0
        return ((1 << r) - 1) << (16 - r), half

    def place_halves(self, halves: Lanes) -> Lanes:
        """Prepare random halves (16-bit lanes): see `place`."""
        stay, be_set = self.place
        return (halves & stay) | be_set

    def __call__(self, bits: Lanes, half: Lanes | None) -> Lanes:
        """The codes without signs and beyond the largest; `half` from `place_halves`."""
        magnitude = bits & ((1 << (self.source.width - 1)) - 1)
        number = magnitude.bits_as(self._floats)
        small = magnitude < self._least
        normal = magnitude - self._base
        if self.rounding.kind == "nearest_even":
            unit = 2.0**self.source.fraction_bits
            multiples = (number * self._power + unit).bits_as(bits.type) - number.constant(unit).bits_as(bits.type)
            odd = (normal >> self.dropped) & 1
            rounded = (normal + ((1 << (self.dropped - 1)) - 1) + odd) >> self.dropped
            return rounded if self._aligned else small.choose(multiples, rounded)
        fixed = normal
        if not self._aligned:
            fixed = small.choose((number * self._power).to_integer(self.source.integer), normal)
        if half is not None:
            fixed = fixed + self._addend(half)
        return fixed >> self.dropped

    def _addend(self, half: Lanes) -> Lanes:
        wide = half.widen(self.source.integer)
        r, stochastic = self.rounding.random_bits, self.rounding.kind == "stochastic"
        if self.dropped < 16:
            return wide >> (16 - self.dropped)
        addend = wide << (self.dropped - 16)
        return addend | (1 << (self.dropped - 17)) if stochastic and r == 16 else addend

    def signed(self, code: Lanes, bits: Lanes, *, signed_zero: bool) -> Lanes:
        """Saturated codes with the signs of these numbers."""
        code = code.smaller(self.fmt.max_code)
        sign = (bits >> (self.source.width - self.fmt.bits)) & self.fmt.sign_code
        if signed_zero:
            return code | sign
        return code.equals(0).choose(code, code | sign)
