"""Whole cores whose multipliers make two products, or shift: equal to the golden model in all codes."""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.host.rtl_device import RtlDevice
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.gemm import GemmSpec, golden_gemm

PLAIN = ArrayConfig(
    rows=2,
    columns=2,
    lanes=1,
    buffer_depth=64,
    roundings="nearest_even",
    accumulator="exact:64",
    a_formats="int8",
    b_formats="int8",
    out_formats="int16",
)
CONFIGS = {
    "packed": PLAIN.replace(pack_multipliers=True),
    "shifting": PLAIN.replace(
        a_formats=("e4m3", "e5m2"), b_formats="e4m3", out_formats="float32", shift_in_multipliers=True
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_gemms_are_the_golden_models(name: str, rng: np.random.Generator) -> None:
    device = RtlDevice(f"a {name} core", CONFIGS[name], stall=0.05)
    config = CONFIGS[name]
    assert device.config == config, "what the core's registers tell"
    for m, k, n in ((1, 1, 1), (5, 64, 3), (8, 17, 7)):
        for fa in config.a_formats:
            fb = config.b_formats[0]
            a, b = rng.choice(fa.valid_codes, (m, k)), rng.choice(fb.valid_codes, (k, n))
            a, b = a.astype(fa.code_dtype), b.astype(fb.code_dtype)
            spec = GemmSpec(fa, fb, config.out_formats[0], config.accumulator)
            assert np.array_equal(device.gemm(a, b, spec).codes, golden_gemm(a, b, spec).codes), (spec, m, k, n)
