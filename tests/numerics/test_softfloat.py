"""IEEE formats and the chain of float32 sums against Berkeley SoftFloat; it has no wheels for Python 3.10."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("softfloatpy", reason="softfloatpy has no wheels for Python 3.10")

import softfloatpy

from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm

NAMES = ("float16", "bfloat16")


@pytest.mark.parametrize("name", NAMES)
def test_every_code_decodes_as_softfloat_has_it(name):
    make, widen = {
        "float16": (softfloatpy.Float16, softfloatpy.f16_to_f32),
        "bfloat16": (softfloatpy.BFloat16, softfloatpy.bf16_to_f32),
    }[name]
    fmt = get_format(name)
    raw = [widen(make.from_bytes(int(code).to_bytes(2, "big"))).to_bytes() for code in fmt.valid_codes]
    theirs, ours = np.frombuffer(b"".join(raw), ">f4"), fmt.to_float64(fmt.valid_codes)
    same = (theirs == ours) & (np.signbit(theirs) == np.signbit(ours))
    assert (same | np.isnan(theirs) & np.isnan(ours)).all()


@pytest.mark.parametrize("name", NAMES)
def test_nearest_even_of_every_midpoint_is_softfloats(name):
    """Of every number and midpoint too, and the float32 numbers beside each; overflow gives Inf, `ieee` here."""
    fmt = get_format(name)
    values = fmt.to_float64(fmt.valid_codes)
    values = np.unique(np.abs(values[np.isfinite(values)]))
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2, 1.5 * values[-1:] - values[-2:-1] / 2])
    with np.errstate(over="ignore"):  # beside the largest float32
        points = points.astype(np.float32)
        points = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))])
    x = np.concatenate([points, -points])
    narrow = {"float16": softfloatpy.f32_to_f16, "bfloat16": softfloatpy.f32_to_bf16}[name]
    words = x.astype(">f4").tobytes()
    make = softfloatpy.Float32.from_bytes
    found = b"".join(narrow(make(words[n : n + 4])).to_bytes() for n in range(0, len(words), 4))
    assert (np.frombuffer(found, ">u2") == fmt.encode(from_float64(x), overflow="ieee").codes).all()


def test_nearest_even_in_float32_is_the_ieee_fma(rng):
    """SoftFloat's f32_mul_add, k ascending. Difference by cause: a chain of zeros is +0 here whatever its signs."""
    a, b = rng.normal(size=(2, 200)).astype(np.float32), rng.normal(size=(200, 3)).astype(np.float32)
    a[1] *= np.float32(2.0) ** rng.integers(-70, 60, 200).astype(np.float32)
    spec = GemmSpec("float32", "float32", "float32", "e8m23:ieee")
    codes = golden_gemm(a.view(np.uint32), b.view(np.uint32), spec).codes
    for i in range(2):
        for j in range(3):
            total = softfloatpy.Float32.from_bytes(bytes(4))
            for x, y in zip(a[i], b[:, j], strict=True):
                left, right = (softfloatpy.Float32.from_bytes(v.tobytes()[::-1]) for v in (x, y))
                total = softfloatpy.f32_mul_add(left, right, total)
            assert int.from_bytes(total.to_bytes(), "big") == codes[i, j]
