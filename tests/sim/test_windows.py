"""Fixed-point windows of the emulator equal the golden model's, codes and flags, at every edge of the kernel."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.numerics.accumulators import FixedAccumulator
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.windows import can_window

PAIRS = ["e4m3 e4m3", "e5m2 e4m3", "int8 int8", "int8 fixed4.4", "bfloat16 bfloat16", "float32 float32"]
PAIRS += ["posit8_1 log8", "ternary binary", "float16 posit16_1", "int16 uint8"]


def check(a: np.ndarray, b: np.ndarray, spec: GemmSpec, seed: int = 5) -> bool:
    """Compare; whether there was overflow."""
    expected, found = golden_gemm(a, b, spec, seed=seed), emulate_gemm(a, b, spec, seed=seed)
    assert (found.codes == expected.codes).all()
    assert found[1:] == expected[1:]
    return expected.overflow


@pytest.mark.parametrize("pair", PAIRS)
def test_windows_are_golden(pair, rng):
    """Any codes of one sixth of the operands, else such as have few binades; windows that saturate and that do not."""
    raised = []
    for number in range(12):
        a, b = (GemmSpec(name, name).a for name in pair.split())
        m, n, k = (int(rng.integers(1, limit)) for limit in (9, 40, 70))
        codes = []
        for fmt, shape in ((a, (m, k)), (b, (k, n))):
            if fmt.bits <= 16:
                x = rng.choice(fmt.valid_codes, shape)
                near = np.abs(fmt.to_float64(x)) <= 8
                x = np.where(near | (number % 6 == 0), x, fmt.valid_codes[-1] if fmt.name == "binary" else 0)
            else:
                x = rng.normal(size=shape).astype(np.float32).view(np.uint32)
            codes.append(x.astype(fmt.code_dtype))
        width, lsb = (8 + number * 4, -6) if number % 2 else (12 + number, int(rng.integers(-20, 10)))
        spec = GemmSpec(a, b, "float32", FixedAccumulator(width, lsb), "stochastic:7", int(rng.integers(-4, 5)))
        assert can_window(spec, FixedAccumulator(width, lsb)) == (width <= 53)
        raised.append(check(codes[0], np.asfortranarray(codes[1]), spec))
    assert len(set(raised)) == 2 or pair == "ternary binary"


@pytest.mark.parametrize("special", ["a", "b", "ab"])
def test_nan_and_infinities_decide_only_their_rows_and_columns(special, rng):
    a, b = rng.integers(0, 0x60, (9, 20), np.uint8), rng.integers(0, 0x60, (20, 11), np.uint8)
    if "a" in special:
        a[2, 5], a[4, 19] = 0x7C, 0x7F
    if "b" in special:
        b[5, 3], b[0, 7], b[1, 7] = 0xFC, 0x7C, 0xFC
    for width in (14, 40):
        check(a, b, GemmSpec("e5m2", "e5m2", "float16", f"fixed:{width}:-8"))
    a[0], b[:, 0] = 0x7B, 0x7B  # overflow is that of other outputs, or of steps before
    assert check(a, b, GemmSpec("e5m2", "e5m2", "float16", "fixed:14:-8"))
    check(
        np.full((1, 3), 0x7D, np.uint8), np.full((3, 1), 0x7B, np.uint8), GemmSpec("e5m2", "e5m2", "int8", "fixed:9:0")
    )


def test_the_widest_window_of_the_kernel_is_exact_at_its_ends():
    """2**52 - 1 is reached exactly, by products of 48 bits; one more saturates. At the other end it takes two."""
    spec = GemmSpec("float32", "float32", "float32", "fixed:53:0", scale=-40)
    most = 2.0**24
    a = np.array([most] * 15 + [most - 1, most - 1, 1], np.float32)
    for sign, fits in ((1, 0), (-1, 1)):
        for last in range(3):
            b = np.array([most] * 16 + [1, last], np.float32) * np.float32(sign)
            assert check(a.view(np.uint32)[None], b.view(np.uint32)[:, None], spec) == (last > fits)
    spec = GemmSpec("float32", "float32", "float32", "fixed:53:0")
    assert can_window(spec, FixedAccumulator(53, 0))
    assert not can_window(spec, FixedAccumulator(54, 0))
    assert not can_window(GemmSpec("int32", "int32"), FixedAccumulator(20, 0))


@pytest.mark.parametrize("lsb", [500, -500, 501, -501, 1024, -1024])
def test_windows_far_from_all_products(lsb, rng):
    a = (rng.integers(0, 1 << 32, (3, 6), np.uint32) & 0xBFFF_FFFF).astype(np.uint32)
    spec = GemmSpec("float32", "float32", "float32", FixedAccumulator(30, lsb), scale=-lsb)
    check(a, a.T, spec)
