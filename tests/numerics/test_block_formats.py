"""Block-scaled formats: scales and codes against rational arithmetic and gfloat, the divergences stated by cause."""

from __future__ import annotations

from fractions import Fraction

import gfloat
import gfloat.formats
import numpy as np
import pytest

from halfulp.numerics.block_formats import BLOCK_FORMATS, BlockFormat, Blocks, get_block_format
from halfulp.numerics.formats import get_format
from halfulp.numerics.names import UnknownNameError
from halfulp.numerics.rounding import NEAREST_EVEN, Rounding

GFLOAT = {info.name: info for info in gfloat.formats.all_block_formats}
POWERS = [*GFLOAT, "bfp4", "bfp9"]
EVERY = [*POWERS, "nvfp4"]


def spread(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers over many binades from block to block, few within one, with some zeros."""
    binades = 2.0 ** rng.integers(-40, 40, (*shape[:-1], 1))
    return np.where(rng.random(shape) < 0.1, 0.0, rng.normal(size=shape) * binades)


def theirs(name: str, block: np.ndarray) -> np.ndarray:
    """What gfloat makes of a block."""
    return gfloat.quantize_block(GFLOAT[name], block, gfloat.compute_scale_amax)


def test_names():
    assert BLOCK_FORMATS.names() == [
        "mxfp8_e4m3",
        "mxfp8_e5m2",
        "mxfp6_e3m2",
        "mxfp6_e2m3",
        "mxfp4_e2m1",
        "mxint8",
        "nvfp4",
    ]
    for name, info in GFLOAT.items():
        fmt = get_block_format(name)
        assert (fmt.block, fmt.element.bits, fmt.element_exponent) == (info.k, info.etype.k, info.etype.emax)
    assert get_block_format("bfp8").element == get_format("fixed2.6")


@pytest.mark.parametrize("name", GFLOAT)
def test_mx_blocks_are_gfloats(name, rng):
    x = spread(rng, (60, 32))
    fmt = get_block_format(name)
    ours = fmt.to_float64(fmt.quantise(x))
    for block, got in zip(x, ours, strict=True):
        np.testing.assert_array_equal(got, theirs(name, block))


@pytest.mark.parametrize("name", GFLOAT)
def test_blocks_of_subnormal_float32_are_gfloats(name, rng):
    """The scale is held at 2**-127; what is left of the numbers below is the element format's subnormals."""
    x = (rng.integers(-(1 << 12), 1 << 12, (8, 32)) * 2.0**-149).astype(np.float32)
    fmt = get_block_format(name)
    blocks = fmt.quantise(x)
    assert (blocks.scales <= 20).all()
    for block, got in zip(x, fmt.to_float64(blocks), strict=True):
        np.testing.assert_array_equal(got, theirs(name, block.astype(np.float64)))


def test_scale_just_below_a_power_of_two_is_that_of_the_exponent_field():
    """Difference by cause: floor(log2(amax)), as gfloat computes it, is 10 for the number just below 2**10."""
    below = np.full(32, np.nextafter(1024.0, 0))
    fmt = get_block_format("mxint8")
    assert fmt.quantise(below).scales.tolist() == [127 + 9]
    assert gfloat.compute_scale_amax(0, below) == 1024.0
    for exponent in range(-120, 120, 7):
        edge = np.array([np.nextafter(2.0**exponent, 0), 2.0**exponent, np.nextafter(2.0**exponent, np.inf)])
        scales = BlockFormat("one", fmt.element, 1).quantise(edge).scales
        assert scales.tolist() == [126 + exponent, 127 + exponent, 127 + exponent]


def test_scales_stop_at_both_ends_of_e8m0():
    fmt = get_block_format("mxfp4_e2m1")
    blocks = fmt.quantise(np.repeat(np.array([[1e300, 1e-300, 0.0]]), 32, axis=1))
    assert blocks.scales.tolist() == [[254, 0, 0]]
    assert blocks.overflow
    assert fmt.to_float64(blocks)[0, [0, 32, 64]].tolist() == [6 * 2.0**127, 0.0, 0.0]


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", EVERY)
def test_a_block_with_nan_or_infinity_is_nan_and_no_other(name, special, rng):
    """Difference by cause: OCP MX v1.0 leaves it open; gfloat holds the scale of a block with Inf at 2**127."""
    fmt = get_block_format(name)
    x = rng.normal(size=3 * fmt.block)
    x[fmt.block + 3] = special
    blocks = fmt.quantise(x)
    values = fmt.to_float64(blocks)
    assert blocks.invalid
    assert np.isnan(values[fmt.block : 2 * fmt.block]).all()
    assert np.isfinite(np.delete(values, np.s_[fmt.block : 2 * fmt.block])).all()
    assert (blocks.codes[fmt.block : 2 * fmt.block] == 0).all()
    assert gfloat.compute_scale_amax(0, np.array([1.0, np.inf])) == 2.0**127


def test_minus_128_of_mxint8_is_used():
    """OCP MX v1.0, 5.3.4, lets an encoder leave -2 out, as microxcaling does; here and in gfloat nearest is nearest."""
    x = np.full(32, -1.999)
    fmt = get_block_format("mxint8")
    assert (fmt.quantise(x).codes == 0x80).all()
    assert (fmt.quantise(-x).codes == 0x7F).all()
    np.testing.assert_array_equal(fmt.to_float64(fmt.quantise(x)), theirs("mxint8", x))


@pytest.mark.parametrize("rounding", ["nearest_even", "toward_zero", "stochastic:5", "stochastic_floor:9"])
@pytest.mark.parametrize("name", EVERY)
def test_codes_and_scales_are_those_of_rational_arithmetic(name, rounding, rng, reference):
    fmt, mode = get_block_format(name), Rounding.parse(rounding)
    x = spread(rng, (3, 2 * fmt.block + 5))  # the last block is short
    words = rng.integers(0, 1 << mode.random_bits, x.shape, np.uint32)
    blocks = fmt.quantise(x, mode, random=words)
    assert blocks.scales.shape == (3, 3)
    e4m3 = get_format("e4m3")
    if name == "nvfp4":
        assert blocks.tensor_scale == float(np.float32(np.abs(x).max() / 2688))
    for row, numbers in enumerate(x):
        for n in range(3):
            of_block = [Fraction(v) for v in numbers[n * fmt.block : (n + 1) * fmt.block]]
            amax = max(abs(v) for v in of_block)
            if name == "nvfp4":
                code, _, _ = reference.round(e4m3, amax / 6 / Fraction(blocks.tensor_scale), NEAREST_EVEN)
                scale = Fraction(0) if code == 0 else reference.decode(e4m3, code)
                scale *= Fraction(blocks.tensor_scale)
            else:
                exponent = next(e for e in range(300, -300, -1) if Fraction(2) ** e <= amax)
                largest = max(reference.bounds(fmt.element))
                emax = next(e for e in range(20, -20, -1) if Fraction(2) ** e <= largest)
                code, scale = 127 + exponent - emax, Fraction(2) ** (exponent - emax)
            assert blocks.scales[row, n] == code
            for k, value in enumerate(of_block, n * fmt.block):
                exact = value / scale if scale else Fraction(0)
                expected, _, _ = reference.round(fmt.element, exact, mode, int(words[row, k]))
                got = int(blocks.codes[row, k])
                if exact == 0:  # of either sign: a Fraction has none
                    assert reference.decode(fmt.element, got) in (0, "-0")
                else:
                    assert got == expected


@pytest.mark.parametrize("name", EVERY)
def test_blocks_may_lie_along_any_axis(name, rng):
    fmt = get_block_format(name)
    x = spread(rng, (40, 3))
    along, across = fmt.quantise(x, axis=0), fmt.quantise(x.T)
    assert (along.codes == across.codes.T).all()
    assert (along.scales == across.scales.T).all()
    assert along.scales.shape == (fmt.block_count(40), 3)
    np.testing.assert_array_equal(fmt.to_float64(along, axis=0), fmt.to_float64(across).T)


@pytest.mark.parametrize("name", [n for n in EVERY if n != "mxint8" and not n.startswith("bfp")])
def test_what_is_decoded_quantises_to_itself(name, rng):
    """Not of two's complement elements: what became -2 asks for the next scale."""
    fmt = get_block_format(name)
    blocks = fmt.quantise(rng.normal(size=(4, 64)))
    values = fmt.to_float64(blocks)
    whole = blocks.tensor_scale if name == "nvfp4" else None
    again = fmt.to_float64(fmt.quantise(values, tensor_scale=whole))
    np.testing.assert_array_equal(again, values)


def test_nvfp4_scales_use_the_whole_of_e4m3(rng):
    fmt = get_block_format("nvfp4")
    blocks = fmt.quantise(rng.normal(size=(8, 64)))
    assert blocks.scales.max() == 0x7E  # 448
    assert fmt.quantise(np.zeros(16)).tensor_scale == 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: get_block_format("mxfp5"), UnknownNameError, "unknown block-scaled format 'mxfp5'; nearest: 'mxfp"),
        (lambda: get_block_format("bfp17"), ValueError, "3 to 16 bits, not 17"),
        (lambda: BlockFormat("x", get_format("e4m3"), 0), ValueError, "at least 1 element, not 0"),
        (lambda: BlockFormat("x", get_format("int8"), 8), TypeError, "float or fixed-point"),
        (lambda: get_block_format("nvfp4").quantise(np.ones(16), tensor_scale=np.nan), ValueError, "not nan"),
        (
            lambda: get_block_format("nvfp4").quantise(np.ones(16), tensor_scale=0.1),
            ValueError,
            "a float32 number, not 0.1",
        ),
        (lambda: get_block_format("mxint8").quantise(np.ones(16), tensor_scale=2.0), ValueError, "has no tensor scale"),
        (lambda: get_block_format("mxint8").quantise(np.ones(16, int)), TypeError, "not int64"),
        (
            lambda: get_block_format("mxint8").decode(Blocks(np.zeros(33, np.uint8), np.zeros(1, np.uint8))),
            ValueError,
            r"in blocks of 32 along axis -1 need scales of shape \(2,\), not \(1,\)",
        ),
        (
            lambda: get_block_format("nvfp4").decode(Blocks(np.zeros(3, np.uint8), np.full(1, 0x81, np.uint8))),
            ValueError,
            "must not be negative: code 129",
        ),
        (
            lambda: get_block_format("mxfp4_e2m1").decode(Blocks(np.full(3, 16, np.uint8), np.zeros(1, np.uint8))),
            ValueError,
            "code 16 is outside float4_e2m1fn",
        ),
    ],
)
def test_bad_input_names_value_and_rule(call, error, message):
    with pytest.raises(error, match=message):
        call()
