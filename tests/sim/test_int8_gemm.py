"""Products of bytes are the golden model's on every kind of processor that has them, up to the edges of int32."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.int8_code import Extensions, extensions
from halfulp.sim.int8_gemm import Int8Plan, as_int8, int8_plan
from halfulp.sim.vector_code import host_features

NAMES = ["int8", "int4", "e2m1", "e2m3", "uint4", "fixed2.6", "ternary", "binary"]
SIZES = [1, 2, 5, 6, 7, 15, 16, 17, 31, 33, 63, 64, 65, 80, 130]


def plans() -> list[Extensions]:
    """What this processor can do, and what lesser ones could."""
    found = extensions()
    if found is None:
        return []
    with_ymm = [Extensions(8, False)] if not host_features().isdisjoint({"avxvnni", "avx512vl"}) else []
    return list(dict.fromkeys([found, found._replace(looks_up_64=False), *with_ymm]))


needs_vnni = pytest.mark.skipif(extensions() is None, reason="this processor has no dot products of bytes")


def make(spec: GemmSpec, ways: Extensions) -> Int8Plan:
    a, b = as_int8(spec.a), as_int8(spec.b)
    assert a is not None
    assert b is not None
    return Int8Plan(spec, a, b, ways)


@needs_vnni
@pytest.mark.parametrize("ways", plans(), ids=str)
def test_any_shape_format_and_layout(ways, rng):
    for name_a in [*NAMES, "uint8"]:
        for name_b in rng.choice(NAMES, 4, replace=False):
            spec = GemmSpec(
                name_a,
                str(name_b),
                str(rng.choice(["int32", "float32", "e4m3", "int8"])),
                rounding=str(rng.choice(["nearest_even", "stochastic:7"])),
                scale=int(rng.choice([0, 0, -3, 2])),
            )
            plan = make(spec, ways)
            for _ in range(2):
                m, k, n = (int(size) for size in rng.choice(SIZES, 3))
                a, b = rng.choice(spec.a.valid_codes, (m, k)), rng.choice(spec.b.valid_codes, (k, n))
                wide = np.zeros((2 * m, k + 3), np.uint8)
                wide[::2, 1 : k + 1] = a
                want = golden_gemm(a, b, spec, seed=5)
                for left, right in (
                    (a, b),
                    (np.asfortranarray(a), b[::-1, ::-1].copy()[::-1, ::-1]),
                    (wide[::2, 1 : k + 1], np.asfortranarray(b)),
                    (np.asfortranarray(a[::-1])[::-1], np.asfortranarray(b)[:, ::-1].copy("F")[:, ::-1]),
                ):
                    got = plan(left, right, 5)
                    assert got is not None
                    what = f"{spec}, {left.shape} {left.strides} × {right.shape} {right.strides}"
                    np.testing.assert_array_equal(got.codes, want.codes, err_msg=what)
                    assert got[1:] == want[1:], what
                    assert (got.codes.dtype, got.codes.flags.c_contiguous) == (want.codes.dtype, True)


@needs_vnni
@pytest.mark.parametrize("ways", plans(), ids=str)
@pytest.mark.parametrize(
    ("name_a", "name_b", "code_a", "code_b"),
    [
        ("int8", "int8", 0x80, 0x80),
        ("int8", "int8", 0x7F, 0x80),
        ("uint8", "int8", 0xFF, 0x80),
        ("int8", "fixed2.6", 0x80, 0x80),
        ("e2m3", "int8", 0x1F, 0x80),
        ("int8", "e2m1", 0x80, 0x0F),
    ],
)
def test_int32_is_left_at_its_edge(name_a, name_b, code_a, code_b, ways):
    """The longest sums of largest numbers; on their way to them lanes have wrapped around. One more is refused."""
    plan = make(GemmSpec(name_a, name_b, "int32", scale=-get_format(name_b).lsb_exponent), ways)
    depth = plan.max_depth
    plan = make(GemmSpec(name_a, name_b, "int32", scale=-plan.spec.a.lsb_exponent - plan.spec.b.lsb_exponent), ways)
    assert plan.max_depth == depth
    values = [int(f.to_float64(c) * 2.0**-f.lsb_exponent) for f, c in ((plan.spec.a, code_a), (plan.spec.b, code_b))]
    a, b = np.full((2, depth), code_a, np.uint8), np.full((depth, 17), code_b, np.uint8)
    found = plan(a, b, 0)
    assert found is not None
    assert (found.codes.view(np.int32) == values[0] * values[1] * depth).all()
    most = plan.a.max_units * plan.b.max_units
    assert most * depth < 1 << 31 <= most * (depth + 1)
    assert plan(np.zeros((1, depth + 1), np.uint8), np.zeros((depth + 1, 1), np.uint8), 0) is None


@needs_vnni
@pytest.mark.parametrize("last", [-1, 0, 1])
@pytest.mark.parametrize("place", [(0, 0), (6, 0), (2, 16)])
def test_float32_sums_beyond_2_to_the_24_are_rounded_as_asked(last, place):
    """2**24 - 1, 2**24, and 2**24 + 1, which float32 does not hold, in one place among others."""
    a, b = np.zeros((7, 1025), np.uint8), np.zeros((1025, 17), np.uint8)
    a[place[0], :1024] = b[:1024, place[1]] = 0x80
    a[place[0], 1024], b[1024, place[1]] = 1, last & 0xFF
    for rounding in ("nearest_even", "toward_zero", "stochastic:3"):
        for scale in (-64, 0, 64, 65):
            spec = GemmSpec("int8", "int8", "float32", rounding=rounding, scale=scale)
            want, got = golden_gemm(a, b, spec, seed=6), emulate_gemm(a, b, spec, seed=6)
            np.testing.assert_array_equal(got.codes, want.codes)


def test_what_is_no_byte_is_left_to_others():
    for name in ("e4m3", "e5m2", "e3m2", "int9", "posit8_1", "posit6_1", "bfloat16", "e2m3-ieee"):
        assert as_int8(get_format(name)) is None
    assert int8_plan(GemmSpec("int8", "uint8")) is None
    assert int8_plan(GemmSpec("int8", "int8", "float32", "e8m23")) is None
    assert int8_plan(GemmSpec("int8", "int8", "float32", "fixed:30:0")) is None


@pytest.mark.parametrize(
    ("a", "b", "spec", "error", "message"),
    [
        ([[16]], [[1]], GemmSpec("int4", "int4"), ValueError, "code 16 is outside int4: codes are 0 to 15"),
        ([[1]], [[64]], GemmSpec("int8", "e2m3"), ValueError, "code 64 is outside float6_e2m3fn"),
        ([[1, 2]], [[1]], GemmSpec("int8", "int8"), ValueError, "differ in K"),
        ([[1, 2]], [[1], [2]], GemmSpec("int8", "int8", "int32", "exact:1"), ValueError, "K = 2 is beyond"),
        ([[1]], [[2]], GemmSpec("int8", "ternary"), ValueError, "code 2 is outside ternary"),
    ],
)
def test_bad_operands_are_refused(a, b, spec, error, message):
    for dtype in (np.uint8, np.int64):
        with pytest.raises(error, match=message):
            emulate_gemm(np.array(a, dtype), np.array(b, dtype), spec)


@needs_vnni
def test_large_products_are_left_to_several_threads():
    plan = int8_plan(GemmSpec("int8", "int8", "int32"))
    assert plan is not None
    a, b = np.ones((3, 5), np.uint8), np.ones((5, 4), np.uint8)
    assert plan(a, b, 0, max_macs=3 * 5 * 4) is None
    found = plan(a, b, 0, max_macs=3 * 5 * 4 + 1)
    assert found is not None
    assert (found.codes == 5).all()


@needs_vnni
def test_threads_do_not_share_memory(rng):
    spec = GemmSpec("e2m3", "int8", "int32", scale=3)
    a, b = rng.integers(0, 64, (8, 70, 300), np.uint8), rng.integers(0, 256, (8, 300, 90), np.uint8)
    wanted = [golden_gemm(a[n], b[n], spec).codes for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: emulate_gemm(a[n % 8], b[n % 8], spec).codes, range(200)))
    for n, codes in enumerate(found):
        np.testing.assert_array_equal(codes, wanted[n % 8])
