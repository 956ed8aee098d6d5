"""Block formats against torchao and gfloat: all codes under all scales, and quantising, differences listed by cause."""

from __future__ import annotations

from typing import Any

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.kernels import pack_uint4, unpack_uint4
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

from halfulp.numerics.block_formats import BLOCK_FORMATS, Blocks, get_block_format

GFLOAT = {info.name: info for info in gfloat.formats.all_block_formats}
TORCHAO: dict[str, Any] = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": DTYPE_FP6_E3M2,
    "mxfp6_e2m3": DTYPE_FP6_E2M3,
    "mxfp4_e2m1": torch.float4_e2m1fn_x2,
}
"""torchao has no mxint8 and no bfpN."""


def torchao_mx(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales that torchao makes of float32 [rows, K]."""
    scales, codes = to_mx(torch.from_numpy(x), TORCHAO[name], 32)
    if name == "mxfp4_e2m1":
        codes = unpack_uint4(codes).reshape(x.shape)
    return codes.view(torch.uint8).numpy(), scales.view(torch.uint8).numpy()


def torchao_nvfp4(x: np.ndarray, tensor_scale: float) -> tuple[np.ndarray, np.ndarray]:
    scales, codes = nvfp4_quantize(torch.from_numpy(x), 16, torch.tensor(tensor_scale))
    return unpack_uint4(codes).reshape(x.shape).numpy(), scales.view(torch.uint8).numpy()


def every_code_and_scale(name: str) -> Blocks:
    """[scales, codes]: each element code under each scale code."""
    fmt = get_block_format(name)
    codes = np.arange(1 << fmt.element.bits, dtype=fmt.element.code_dtype)
    codes = np.tile(codes, -(-fmt.block // len(codes)))
    scales = np.arange(128 if fmt.scale == "e4m3" else 256, dtype=np.uint8)
    shape = len(scales), len(codes)
    return Blocks(
        np.broadcast_to(codes, shape).copy(), np.repeat(scales[:, None], fmt.block_count(len(codes)), axis=1).copy()
    )


def test_every_named_format_has_a_referee():
    assert set(GFLOAT) | {"nvfp4"} == set(BLOCK_FORMATS.names())
    assert set(TORCHAO) | {"mxint8", "nvfp4"} == set(BLOCK_FORMATS.names())


@pytest.mark.parametrize("name", [*BLOCK_FORMATS.names(), "bfp8"])
def test_every_code_under_every_scale_is_gfloats(name):
    """nvfp4 by the two formats that it is made of; bfp8 is mxint8 in shorter blocks."""
    fmt, blocks = get_block_format(name), every_code_and_scale(name)
    if name == "nvfp4":
        element, scale = gfloat.formats.format_info_ocp_e2m1, gfloat.formats.format_info_ocp_e4m3
    else:
        info = GFLOAT["mxint8" if name == "bfp8" else name]
        element, scale = info.etype, info.stype
    values = gfloat.decode_ndarray(element, blocks.codes.astype(np.int64))
    values = values * gfloat.decode_ndarray(scale, blocks.scales.astype(np.int64)).repeat(fmt.block, axis=1)
    np.testing.assert_array_equal(fmt.to_float64(blocks), values)


@pytest.mark.parametrize("name", TORCHAO)
def test_every_code_under_every_scale_is_torchaos(name):
    """As float32, which torchao's products are rounded to."""
    blocks = every_code_and_scale(name)
    codes = torch.from_numpy(blocks.codes)
    if name == "mxfp4_e2m1":
        codes = pack_uint4(codes)
    elif name.startswith("mxfp8"):
        codes = codes.view(TORCHAO[name])
    scales = torch.from_numpy(blocks.scales).view(torch.float8_e8m0fnu)
    theirs = to_dtype(codes, scales, TORCHAO[name], 32, torch.float32).numpy().reshape(blocks.codes.shape)
    with np.errstate(over="ignore"):
        ours = get_block_format(name).to_float64(blocks).astype(np.float32)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", TORCHAO)
def test_mx_codes_and_scales_are_torchaos_but_where_the_scale_is_the_least(name, rng):
    """Difference by cause: torchao divides by 2**-126 where the scale is 2**-127 (no subnormal float32 in Triton)."""
    x = (rng.normal(size=(300, 64)) * 2.0 ** rng.integers(-135, 126, (300, 1))).astype(np.float32)
    x[::7] = np.ldexp(1.0, rng.integers(-126, 127, (len(x[::7]), 1)))  # powers of two, and just below them
    x[::14] = np.nextafter(x[::14], np.float32(0))
    x[rng.random(x.shape) < 0.05] = 0
    fmt = get_block_format(name)
    ours, (codes, scales) = fmt.quantise(x), torchao_mx(name, x)
    np.testing.assert_array_equal(ours.scales, scales)
    is_least = (scales == 0).repeat(32, axis=1)
    assert is_least.any()
    np.testing.assert_array_equal(ours.codes[~is_least], codes[~is_least])
    # There, their codes are those of half the numbers.
    halved = fmt.quantise(x.astype(np.float64) / 2)
    np.testing.assert_array_equal(codes[is_least], halved.codes[is_least])
    assert (ours.codes != codes)[is_least].any()


def test_nan_and_infinity_by_cause():
    """NaN makes torchao's scale NaN too; an infinity does not, but is clamped as the number 2**128 would be."""
    for name in TORCHAO:
        fmt = get_block_format(name)
        x = np.ones((2, 32), np.float32)
        x[0, 3], x[1, 3] = np.nan, np.inf
        codes, scales = torchao_mx(name, x)
        assert scales[:, 0].tolist() == [255, 127 + 128 - fmt.element_exponent]
        assert fmt.element.to_float64(codes)[1, 3] == fmt.largest_element
        assert fmt.quantise(x).scales[:, 0].tolist() == [255, 255]


def test_nvfp4_is_torchaos(rng):
    """Codes, scales and the tensor's scale, of numbers without ties whose blocks differ by less than 2**12."""
    fmt = get_block_format("nvfp4")
    x = (rng.normal(size=(500, 64)) * 2.0 ** rng.integers(-5, 6, (500, 1))).astype(np.float32)
    ours = fmt.quantise(x)
    assert float(per_tensor_amax_to_scale(torch.tensor(np.abs(x).max()))) == ours.tensor_scale
    codes, scales = torchao_nvfp4(x, ours.tensor_scale)
    np.testing.assert_array_equal(ours.scales, scales)
    np.testing.assert_array_equal(ours.codes, codes)


def test_nvfp4_of_small_blocks_by_cause(rng):
    """torchao holds a block's scale at 2**-6, the least normal e4m3; here it may be subnormal, or 0."""
    fmt = get_block_format("nvfp4")
    x = np.concatenate([rng.normal(size=(60, 16)) * 2.0**-n for n in range(20)]).astype(np.float32)
    ours = fmt.quantise(x)
    codes, scales = torchao_nvfp4(x, ours.tensor_scale)
    np.testing.assert_array_equal(np.maximum(ours.scales, 0x08), scales)
    small = ours.scales < 0x08
    assert small.any()
    assert (ours.scales == 0).any()
    np.testing.assert_array_equal(ours.codes[~small[:, 0]], codes[~small[:, 0]])


def test_nvfp4_near_ties_by_cause(rng):
    """torchao multiplies by a reciprocal that was rounded twice: it may differ where the quotient is nearly a tie."""
    fmt = get_block_format("nvfp4")
    tensor_scale = float(np.float32(0.0123))
    divisors = fmt.scale_values[rng.integers(8, 0x7E, 400)] * tensor_scale
    x = divisors[:, None] * rng.choice([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], (400, 16))
    x[:, 0] = divisors * 6
    x = np.nextafter(x.astype(np.float32), rng.choice([0, 1], x.shape).astype(np.float32) * 1e30)
    ours = fmt.quantise(x, tensor_scale=tensor_scale)
    codes, scales = torchao_nvfp4(x, tensor_scale)
    alike = (ours.scales == scales)[:, 0]
    assert alike.mean() > 0.9
    differ = (ours.codes != codes) & alike[:, None]
    assert differ.any()
    # Every difference is at a midpoint of e2m1, to 2**-20 of the quotient, and between its two neighbours.
    quotients = np.abs(x / (fmt.scale_values[ours.scales] * tensor_scale))[differ]
    between = (np.abs(fmt.element.to_float64(ours.codes[differ])) + np.abs(fmt.element.to_float64(codes[differ]))) / 2
    assert (np.abs(quotients / between - 1) < 2.0**-20).all()
    assert (np.abs(ours.codes[differ].astype(int) - codes[differ]) == 1).all()


def test_bfp8_is_gfloats_mxint8_in_blocks_of_16(rng):
    mxint8 = GFLOAT["mxint8"]
    info = gfloat.BlockFormatInfo("bfp8", mxint8.etype, 16, mxint8.stype)
    fmt = get_block_format("bfp8")
    x = rng.normal(size=(40, 16)) * 2.0 ** rng.integers(-30, 30, (40, 1))
    for block, got in zip(x, fmt.to_float64(fmt.quantise(x)), strict=True):
        np.testing.assert_array_equal(got, gfloat.quantize_block(info, block, gfloat.compute_scale_amax))
