"""Tables of steps encode as the golden model does, on either side of every step; what they cannot is seen."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import get_format
from halfulp.numerics.rounding import Rounding
from halfulp.sim import step_tables
from halfulp.sim.quantise import quantise_flagged
from halfulp.sim.step_tables import StepTable, step_table, worth_a_table


def patterns(rng: np.random.Generator, table: StepTable) -> np.ndarray:
    """The last number before and the first after each step, ends of buckets, and any others, in float32."""
    steps = table.steps[table.steps > 0]
    steps = rng.choice(steps, min(len(steps), 20_000), replace=False)
    edges = rng.integers(0, len(table.steps), 2000).astype(np.uint32) << np.uint32(table.shift)
    some = rng.integers(0, 1 << 32, 5000, np.uint32)
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 1, 0x80000001], np.uint32)
    return np.concatenate([steps, steps - 1, edges, edges - 1, some, special]).view(np.float32)


@pytest.mark.parametrize(
    ("name", "text", "scale", "overflow", "signed"),
    [
        ("posit8_1", "nearest_even", 0, "saturate", True),
        ("posit8_2", "toward_zero", -3, "ieee", False),
        ("log8", "nearest_even", 5, "ieee", True),
        ("log8_3", "toward_zero", 0, "saturate", False),
        ("binary", "nearest_even", 0, "saturate", True),
        ("e4m0-finite", "nearest_even", 20, "ieee", False),
        ("posit12_1", "nearest_even", -140, "saturate", True),
    ],
)
def test_tables_are_encodings(name, text, scale, overflow, signed, rng):
    fmt, mode = get_format(name), Rounding.parse(text)
    table = step_table(fmt, mode, scale, overflow, signed)
    assert table is not None
    x = patterns(rng, table)
    with np.errstate(invalid="ignore"):  # the widening of a signalling NaN
        exact = from_float64(x.astype(np.float64))
    codes, invalid, beyond = fmt.encode(exact._replace(exponent=exact.exponent + scale), mode, None, overflow)
    if not signed:
        codes = fmt.without_minus_zero(codes)
    got, *flags = table.encode(x, fmt)
    np.testing.assert_array_equal(got, codes)
    assert got.dtype == codes.dtype
    assert flags == [invalid.any(), beyond.any()]
    for n in range(0, len(x), 997):  # flags of one number alone
        assert table.encode(x[n : n + 1], fmt)[1:] == (invalid[n], beyond[n])


def test_all_codes_of_sixteen_bits(monkeypatch, rng):
    """Each code's own number, and those around its midpoint to the next; buckets that are too large are not used."""
    fmt, nearest = get_format("posit16_1"), Rounding("nearest_even")
    values = np.sort(fmt.to_float64(fmt.valid_codes))[:-1].astype(np.float32)  # NaN stands last
    middle = (values[:-1] + values[1:]) / 2
    x = np.concatenate([values, middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    expected = fmt.encode(from_float64(x.astype(np.float64))).codes
    monkeypatch.setattr(step_tables, "LEAST_NUMBERS", 1)
    np.testing.assert_array_equal(quantise_flagged(x, fmt).codes, expected)
    assert step_table(fmt, nearest, 0, "saturate", True) is not None
    monkeypatch.setattr(step_tables, "SPARE_BITS", 0)
    step_table.cache_clear()
    assert step_table(fmt, nearest, 0, "saturate", True) is None
    step_table.cache_clear()
    # Scaled so far up that subnormal numbers are rounded, whose patterns are closer.
    assert step_table(get_format("e4m0-finite"), nearest, 130, "saturate", True) is None


def test_many_numbers_go_by_a_table(monkeypatch, rng):
    """And few, float64 and random modes do not."""
    fmt, nearest = get_format("posit8_1"), Rounding("nearest_even")
    x = rng.standard_normal((300, 500)).astype(np.float32)
    expected = fmt.encode(from_float64(x.astype(np.float64))).codes
    assert worth_a_table(x, fmt, nearest)
    assert not worth_a_table(x[:200], fmt, nearest)
    assert not worth_a_table(x.astype(np.float64), fmt, nearest)
    assert not worth_a_table(x, fmt, Rounding("stochastic", 3))
    monkeypatch.setattr("halfulp.sim.quantise._by_definition", None)
    for layout in (x, np.asfortranarray(x)):
        np.testing.assert_array_equal(quantise_flagged(layout, fmt, nearest).codes, expected)
