# amaranth: UnusedElaboratable=no
"""Every code of every operand format decodes, in hardware, to what `Format.decode` says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Shape, Signal
from amaranth.lib import data
from amaranth.sim import Simulator

from halfulp.hw.operand import OperandDecoder, is_fixed_point, operand_layout
from halfulp.numerics.exact import INFINITE, NAN
from halfulp.numerics.formats import FloatFormat, Format, IntFormat, get_format

FLUSHED = FloatFormat("e4m3 without subnormals", 4, 3, "ieee", subnormals=False)
SETS = {
    "fp8": ("float8_e4m3fn", "float8_e5m2"),
    "int8": ("int8",),
    "integers": ("int4", "uint8", "int16", "int2"),
    "mixed": ("int8", "float8_e5m2", "float4_e2m1fn", "uint4"),
    "small": ("float6_e3m2fn", "float6_e2m3fn", "e6m5", "float4_e2m1fn"),
    "flushed": (FLUSHED, "float8_e4m3fn"),
    "without fraction": (FloatFormat("e5m0", 5, 0, "fn"), FloatFormat("e1m2", 1, 2, "finite")),
    "float16": ("float16", "int8"),
    "bfloat16": ("bfloat16",),
    "fixed point": ("fixed4.4", "int8", "ternary", "fixed1.3"),
    "one bit": ("binary", "ternary"),
    "posits": ("posit8_1", "posit8_0", "posit6_2", "posit3_2", "int4"),
    "posit16": ("posit16_1",),
    "logarithmic": ("log8", "log5_0", "log4_2", "binary"),
    "log16": ("log16",),
}

FIELDS = ("significand", "negative", "shift", "nan", "inf")
COPIES = 16


def formats_of(names: tuple[str | Format, ...]) -> tuple[Format, ...]:
    return tuple(get_format(name) for name in names)


def fields_of(rows: list[int], layout: data.StructLayout, name: str) -> np.ndarray:
    """Field `name` of each of the `COPIES` operands in each of `rows`, 0 where the layout has none."""
    if name not in layout.members:
        return np.zeros(len(rows) * COPIES, np.int64)
    field = layout[name]
    mask, sign = (1 << field.width) - 1, (1 << (field.width - 1)) * Shape.cast(field.shape).signed
    values = [row >> (n * layout.size + field.offset) & mask for row in rows for n in range(COPIES)]
    return (np.array(values) ^ sign) - sign


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "") for name in SETS),
        *((name, "complement") for name in ("integers", "int8", "fixed point", "one bit")),
        *((name, "common") for name in ("mixed", "fp8", "fixed point", "posits", "logarithmic")),
    ],
)
def test_every_code_of_every_format(name: str, kind: str) -> None:
    formats = formats_of(SETS[name])
    width = 8 * max(f.container_bytes for f in formats)
    # Sixteen decoders look at neighbouring codes, so that a step of the simulator covers sixteen of them.
    options = {kind: True} if kind else {}
    decoders = [OperandDecoder(formats=formats, code_width=width, **options) for _ in range(COPIES)]
    number, base = Signal(3), Signal(width)
    design = Module()
    for n, decoder in enumerate(decoders):
        design.submodules += decoder
        design.d.comb += [decoder.format.eq(number), decoder.code.eq(base | n)]
    layout = operand_layout(formats, **options)
    operands = Signal(COPIES * layout.size)
    design.d.comb += operands.eq(Cat(decoder.operand for decoder in decoders))
    rows: dict[Format, list[int]] = {f: [] for f in formats}

    async def bench(ctx: Any) -> None:
        for position, fmt in enumerate(formats):
            ctx.set(number, position)
            for code in range(0, max(COPIES, 1 << fmt.bits), COPIES):
                # What lies above a code in its container is nobody's business.
                ctx.set(base, code | (0x5AA5 << max(fmt.bits, 4)) & ((1 << width) - 1))
                rows[fmt].append(ctx.get(operands))

    simulator = Simulator(design)
    simulator.add_testbench(bench)
    simulator.run()
    for fmt in formats:
        real = fmt.decode(fmt.valid_codes)
        unit = min(f.lsb_exponent for f in formats) if kind == "common" else fmt.lsb_exponent
        sign = np.where(real.negative, -1, 1)
        values = {field: fields_of(rows[fmt], layout, field)[fmt.valid_codes] for field in FIELDS}
        shift, nan, inf = values["shift"], values["nan"], values["inf"]
        significand = values["significand"] * np.where(values["negative"] == 1, -1, 1)
        assert np.array_equal(nan, real.kind == NAN)
        assert np.array_equal(inf, real.kind == INFINITE)
        assert np.array_equal(significand[nan == 1], 0 * nan[nan == 1])
        assert np.array_equal(significand[inf == 1], sign[inf == 1])
        finite = (nan == 0) & (inf == 0)
        used = finite & (real.significand != 0)
        units = sign * real.significand.astype(object) << np.where(used, real.exponent - unit, 0)
        assert np.array_equal((significand.astype(object) << shift)[finite], units[finite])


@pytest.mark.parametrize("name", ["tf32", "float32", "e8m15"])
def test_floats_of_more_than_16_bits(name: str, rng: np.random.Generator) -> None:
    """Codes of every exponent field and sign, their fractions at random and at the ends."""
    fmt = get_format(name)
    assert isinstance(fmt, FloatFormat)
    decoder = OperandDecoder(formats=(fmt,), code_width=32)
    ends = [0, 1, (1 << fmt.mantissa_bits) - 1, int(rng.integers(1 << fmt.mantissa_bits))]
    codes = np.array([field << fmt.mantissa_bits | end for field in range(512) for end in ends])
    found: list[list[int]] = []

    async def bench(ctx: Any) -> None:
        for code in codes:
            ctx.set(decoder.code, int(code))
            found.append([int(ctx.get(decoder.operand[field])) for field in FIELDS])

    simulator = Simulator(decoder)
    simulator.add_testbench(bench)
    simulator.run()
    significand, negative, shift, nan, inf = np.array(found).T
    real = fmt.decode(codes)
    finite = (nan == 0) & (inf == 0)
    assert np.array_equal(nan, real.kind == NAN)
    assert np.array_equal(inf, real.kind == INFINITE)
    assert np.array_equal(negative, real.negative)
    assert np.array_equal(significand, np.where(inf == 1, 1, real.significand))
    assert np.array_equal(shift[finite], (real.exponent - fmt.lsb_exponent)[finite])


def test_a_layout_has_only_what_its_formats_need() -> None:
    def fields(*names: str) -> set[int | str]:
        return set(operand_layout(formats_of(names)).members)

    assert fields("int8") == {"significand", "negative"}
    assert fields("float4_e2m1fn") == {"significand", "negative", "shift"}
    assert fields("float8_e4m3fn") == {"significand", "negative", "shift", "nan"}
    assert fields("int8", "float8_e5m2") == set(FIELDS)
    assert set(operand_layout(formats_of(("int8",)), complement=True).members) == {"significand"}
    assert operand_layout(formats_of(("int8",)), complement=True)["significand"].width == 8
    assert operand_layout(formats_of(("uint8", "int8")), complement=True)["significand"].width == 9


def test_fixed_point_is_what_has_neither_exponent_nor_specials() -> None:
    assert is_fixed_point(formats_of(("int8", "uint4")))
    assert is_fixed_point((FloatFormat("e1m2", 1, 2, "finite"),))
    assert not is_fixed_point((FloatFormat("e1m2fn", 1, 2, "fn"),))
    assert not is_fixed_point(formats_of(("int8", "float4_e2m1fn")))


@pytest.mark.parametrize(
    ("formats", "width", "error", "message"),
    [
        ((), 8, ValueError, "a decoder needs at least one format"),
        (("float16",), 8, ValueError, "codes that are decoded here have at most 8 bits, not 16 as float16"),
        (("int32",), 32, ValueError, "codes that are decoded here have at most 16 bits, not 32 as int32"),
    ],
)
def test_what_cannot_be_decoded(formats: tuple[str, ...], width: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OperandDecoder(formats=formats_of(formats), code_width=width)


def test_a_format_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="formats must be Formats, not 1"):
        OperandDecoder(formats=(1,), code_width=8)  # type: ignore[arg-type]


@pytest.mark.parametrize("complement", [False, True])
def test_an_integer_keeps_its_most_negative_value(complement: bool) -> None:
    """-128 has no positive counterpart, but it has a significand."""
    decoder = OperandDecoder(formats=(IntFormat("int8", 8),), code_width=8, complement=complement)

    async def bench(ctx: Any) -> None:
        ctx.set(decoder.code, 0x80)
        assert ctx.get(decoder.operand.significand) == (-128 if complement else 128)

    simulator = Simulator(decoder)
    simulator.add_testbench(bench)
    simulator.run()
