"""Block-scaled operands on whole cores: golden model, emulator and Verilated core give the same codes and flags.

One small core is built in each run of the tests; those of `make verify` take minutes to compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from halfulp.host.board_check import CHECKS, run_check
from halfulp.host.device import Device, open_device
from halfulp.host.rtl_device import RtlDevice
from halfulp.hw.config import UnsupportedSpecError
from halfulp.hw.config_file import load_config
from halfulp.numerics.block_formats import BlockFormat, Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.gemm import GemmSpec
from halfulp.sim.blocks import emulate_block_gemm

from .small_cores import BLOCKS

ROOT = Path(__file__).parents[2]
VERIFIED = (
    "docs/configs/mxfp8_2x3.toml",
    "docs/configs/nvfp4_2x2.toml",
    "tests/sim/configs/mxint8.toml",
    "tests/sim/configs/compact_blocks.toml",
)
SHAPES = ((1, 1, 1), (5, 32, 3), (3, 33, 2), (2, 16, 5), (4, 17, 4), (7, 100, 5), (1, 700, 3))
"""M, K, N: one element, whole blocks, short last ones of one and more elements, K beyond the operands' buffers."""


def blocks(rng: np.random.Generator, fmt: BlockFormat, shape: tuple[int, int], axis: int, scales: str) -> Blocks:
    """Any codes but NaN; scales near each other, or anywhere with NaN among them, or at both ends of their range."""
    codes = rng.choice(fmt.element.valid_codes, shape)
    codes = np.where(np.isfinite(fmt.element.to_float64(codes)), codes, 1).astype(codes.dtype)
    counted = [fmt.block_count(n) if i == axis else n for i, n in enumerate(shape)]
    largest = fmt.nan_scale
    drawn = {
        "near": rng.integers(largest // 2 - 5, largest // 2 + 5, counted),
        "anywhere": rng.integers(0, largest + 1, counted),
        "ends": rng.choice(np.array([0, 1, largest // 2, largest - 2, largest - 1]), counted),
    }[scales]
    return Blocks(codes, drawn.astype(np.uint8))


def formats(core: RtlDevice) -> tuple[list[BlockFormat], list[BlockFormat]]:
    """Those of A and of B."""
    assert core.config is not None
    a, b = ([fmt for fmt in side if isinstance(fmt, BlockFormat)] for side in core.config.operands)
    return a, b


def check(device: Device, a: Blocks, b: Blocks, spec: BlockGemmSpec, seed: int) -> None:
    golden = golden_block_gemm(a, b, spec, seed=seed)
    emulated = emulate_block_gemm(a, b, spec, seed=seed)
    given = device.gemm(a, b, spec, seed=seed)
    for result in (emulated, given):
        np.testing.assert_array_equal(result.codes, golden.codes, err_msg=f"{device.name}: {spec}, seed {seed}")
        assert (result.invalid, result.overflow) == (golden.invalid, golden.overflow), (device.name, str(spec))


@pytest.fixture(
    scope="module",
    params=[BLOCKS, *(pytest.param(load_config(ROOT / name), marks=pytest.mark.verify) for name in VERIFIED)],
    ids=lambda config: f"{config.operands[0][0]}, {config.accumulator}{', compact' * config.compact}",
)
def core(request: pytest.FixtureRequest) -> Iterator[RtlDevice]:
    device = RtlDevice("a core of block-scaled operands", request.param, stall=0.05)
    yield device
    device.close()


@pytest.mark.parametrize("scales", ["near", "anywhere", "ends"])
def test_cores_are_golden(core: RtlDevice, scales: str, rng: np.random.Generator) -> None:
    """All formats, output roundings and layouts; scales of any size, NaN and short last blocks."""
    config = core.config
    assert config is not None
    a_formats, b_formats = formats(core)
    for number, (m, k, n) in enumerate(SHAPES):
        for fmt_a in a_formats:
            spec = BlockGemmSpec(
                fmt_a,
                b_formats[number % len(b_formats)],
                config.out_formats[number % len(config.out_formats)],
                config.accumulator,
                ("nearest_even", "stochastic:7")[number % 2],
                scale=int(rng.integers(-9, 10)),
                overflow=("saturate", "ieee")[number // 2 % 2],
            )
            a, b = blocks(rng, spec.a, (m, k), 1, scales), blocks(rng, spec.b, (k, n), 0, scales)
            if number & 1:
                a = a._replace(codes=np.asfortranarray(a.codes))
            if number & 2:
                b = b._replace(codes=np.asfortranarray(b.codes))
            check(core, a, b, spec, seed=int(rng.integers(1 << 63)))


def test_tensor_scales_are_applied_once_and_exactly(core: RtlDevice, rng: np.random.Generator) -> None:
    """A product of scales that is a power of two goes to the core, any other one is the host's."""
    assert core.config is not None
    fmt = formats(core)[0][0]
    spec = BlockGemmSpec(fmt, core.config.operands[1][0], "bfloat16", core.config.accumulator, "stochastic:9", 3)
    a, b = blocks(rng, spec.a, (5, 70), 1, "near"), blocks(rng, spec.b, (70, 4), 0, "near")
    scales = [(0.5, 4.0), (1.5, 3.25), (1.0, 1.0), (0.75, 1 / 3)] if fmt.scale == "e4m3" else [(1.0, 1.0)]
    for left, right in scales:
        scaled = a._replace(tensor_scale=float(np.float32(left))), b._replace(tensor_scale=float(np.float32(right)))
        check(core, *scaled, spec, seed=11)


def test_other_operands_are_refused(core: RtlDevice) -> None:
    assert core.config is not None
    fmt = formats(core)[0][0]
    for spec in (
        GemmSpec(fmt.element, core.config.b_formats[0], accumulator=core.config.accumulator),
        BlockGemmSpec("bfp7", "bfp7", accumulator=core.config.accumulator),
    ):
        with pytest.raises(UnsupportedSpecError, match=f"A format {spec.a} is not built in; the core has {fmt}"):
            core.check(spec)
    with pytest.raises(UnsupportedSpecError, match=r"K = 1048576, with its scales \d+, is beyond the core's max_k"):
        core.check(BlockGemmSpec(fmt, core.config.operands[1][0], accumulator=core.config.accumulator), 1 << 20)


@pytest.mark.verify
@pytest.mark.parametrize("name", ["rtl:2x2", "pynq-sim:2x2", "serial-sim:2x2"])
def test_devices_of_a_shape_build_the_core_that_blocks_need(name: str, rng: np.random.Generator) -> None:
    """Forward and backward of MXFP8 share a core; results are the golden ones, however the host cuts the GEMM."""
    specs = [BlockGemmSpec("mxfp8_e4m3", "mxfp8_e4m3"), BlockGemmSpec("mxfp8_e5m2", "mxfp8_e4m3", "e5m2", scale=-3)]
    with open_device(name, requirements=specs) as device:
        for spec in specs:
            for m, k, n in ((1, 1, 1), (9, 65, 5)):
                a, b = blocks(rng, spec.a, (m, k), 1, "near"), blocks(rng, spec.b, (k, n), 0, "near")
                check(device, a, b, spec, seed=3)


def test_families_of_cores_share_and_part() -> None:
    """A core for each accumulator and pair of formats; FP8 in blocks shares one as plain FP8 does."""
    from halfulp.host.core_family import CoreFamily

    family = CoreFamily(2, 2)
    forward = family.config_for(BlockGemmSpec("mxfp8_e4m3", "mxfp8_e4m3"), 100)
    assert family.config_for(BlockGemmSpec("mxfp8_e5m2", "mxfp8_e4m3"), 9) is forward
    assert forward.block == 32
    nvfp4 = family.config_for(BlockGemmSpec("nvfp4", "nvfp4"))
    assert (nvfp4.block, nvfp4.block_scale, nvfp4.operands[1]) == (16, "e4m3", (get_block_format("nvfp4"),))
    plain = family.config_for(GemmSpec("e4m3", "e4m3", accumulator="e8m23"))
    assert (plain.block, len(family.configs)) == (0, 3)


@pytest.mark.parametrize("name", ["formats", "shapes"])
def test_the_checklist_of_boards_knows_blocks(core: RtlDevice, name: str, rng: np.random.Generator) -> None:
    """All formats and roundings, and odd shapes in all layouts, drawn as for any other core."""
    check = next(check for check in CHECKS if check.name == name)
    outcome = run_check(check, core, rng)
    assert outcome.state == "ok", outcome
