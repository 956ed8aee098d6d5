"""Two runs are compared GEMM by GEMM, and the first difference is named by place, index and values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from halfulp.host.comparison import DifferenceError, GemmComparison, compare_states
from halfulp.host.runner import GemmCall
from halfulp.numerics.gemm import GemmResult, GemmSpec


def call(codes, *, layer: str = "fc1", role: str = "grad_weight", step: int = 3, seed: int = 7, overflow: bool = False):
    spec = GemmSpec(a="e5m2", b="e4m3")
    tensor: Any = torch.from_numpy(np.asarray(codes, np.float32).view(np.uint32))
    return GemmCall(layer, role, step, 0, spec, seed, GemmResult(tensor, False, overflow))


@pytest.fixture
def comparison() -> GemmComparison:
    return GemmComparison("rtl:8x8", "emulator")


def test_equal_gemms_are_counted(comparison: GemmComparison):
    for value in (1.0, math.nan):
        comparison.record(call([[value]]))
        comparison.compare(call([[value]]))
    comparison.finish()
    assert comparison.compared == 2


def test_the_first_element_that_differs_is_named(comparison: GemmComparison):
    comparison.record(call([[1, 2, 3], [4, 5, 6]]))
    message = (
        r"rtl:8x8 and emulator differ: layer 'fc1', grad_weight, step 3, call 0, C\[1, 1\]: "
        r"0x40a00000 \(5\) against 0x40a00001 \(5\.00000048\), 2 elements in all"
    )
    with pytest.raises(DifferenceError, match=message):
        comparison.compare(call([[1, 2, 3], [4, np.nextafter(np.float32(5), np.float32(6)), 7]]))


def test_the_sign_of_zero_is_a_difference(comparison: GemmComparison):
    comparison.record(call([[0.0]]))
    with pytest.raises(DifferenceError, match=r"C\[0, 0\]: 0x00000000 \(0\) against 0x80000000 \(-0\)"):
        comparison.compare(call([[-0.0]]))


def test_flags_seeds_and_order_are_compared(comparison: GemmComparison):
    comparison.record(call([[1]], overflow=True))
    with pytest.raises(DifferenceError, match="flag overflow: True against False"):
        comparison.compare(call([[1]]))
    comparison.record(call([[1]]))
    with pytest.raises(DifferenceError, match=r"rtl:8x8 ran layer 'fc1'.*seed 0x7.*emulator ran layer 'fc2'"):
        comparison.compare(call([[1]], layer="fc2"))
    with pytest.raises(DifferenceError, match="emulator ran it, rtl:8x8 did not"):
        comparison.compare(call([[1]]))
    comparison.record(call([[1]]))
    with pytest.raises(DifferenceError, match="step 3, call 0: rtl:8x8 ran it, emulator did not"):
        comparison.finish()


def test_weights_are_compared_bit_for_bit():
    names = ("one", "other")
    weights = {"a.weight": torch.tensor([[1.0, math.nan], [0.0, 2.0]])}
    compare_states(weights, {"a.weight": weights["a.weight"].clone()}, names=names)
    other = {"a.weight": torch.tensor([[1.0, math.nan], [-0.0, 2.0]])}
    with pytest.raises(DifferenceError, match=r"one and other differ: a.weight\[1, 0\] = 0\.0 against -0\.0"):
        compare_states(weights, other, names=names)
    with pytest.raises(DifferenceError, match="hold different tensors"):
        compare_states(weights, {}, names=names)
