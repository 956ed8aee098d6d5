"""Devices: how they are opened, what they refuse, what they count, and that a wrong result is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from halfulp.host.device import decode_values, open_device
from halfulp.host.errors import VerificationError
from halfulp.host.rtl_device import RtlDevice
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.block_formats import Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm, round_output
from halfulp.numerics.names import UnknownNameError

SPEC = GemmSpec("e4m3", "e4m3")
ONES = np.full((3, 3), 0x38, np.uint8)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("emulatr", UnknownNameError, "unknown device 'emulatr'; nearest: 'emulator'"),
        ("rtl8x8", UnknownNameError, "unknown device 'rtl8x8'; nearest: 'rtl:8x8'"),
        ("", UnknownNameError, "unknown device ''; known: 'emulator', 'golden', "),
        ("rtl", ValueError, r"device 'rtl' needs an array shape or a configuration file: rtl:8x8, rtl:CONFIG\.toml"),
        (
            "rtl:8*8",
            ValueError,
            r"device 'rtl:8\*8': '8\*8' is neither an array shape such as 8x8 nor an existing file",
        ),
        ("rtl:65x8", ValueError, "rows must be 1 to 64, not 65"),
        ("emulator:tpu", ValueError, "emulator"),
    ],
)
def test_wrong_names_are_answered_with_right_ones(text, error, message):
    with pytest.raises(error, match=message):
        open_device(text)


def test_a_name_is_a_string():
    with pytest.raises(TypeError, match="a device is named by a string such as 'rtl:8x8', not 8"):
        open_device(8)  # pyright: ignore[reportArgumentType]  (what a user may do)


def test_names_ignore_case_and_blanks():
    with open_device(" Golden ") as device:
        assert device.name == "golden"


def test_options_are_checked():
    with pytest.raises(TypeError, match="speed"):
        open_device("golden", speed=3)
    with pytest.raises(ValueError, match=r"verify must be a share of the tiles, from 0 to 1, not 1\.5"):
        open_device("golden", verify=1.5)


def test_stats_count_gemms_and_macs():
    with open_device("golden") as device:
        device.gemm(ONES[:2], ONES[:, :1], SPEC)
        device.gemm(ONES, ONES, SPEC)
        assert (device.stats.gemms, device.stats.macs) == (2, 2 * 3 * 1 + 27)
        assert device.counters is None
        assert device.config is None


def test_a_closed_device_refuses():
    device = open_device("golden")
    device.close()
    device.close()
    with pytest.raises(ValueError, match="device golden has been closed"):
        device.gemm(ONES, ONES, SPEC)


@pytest.mark.parametrize(
    ("out", "dtype"),
    [("float32", torch.uint32), ("bfloat16", torch.uint16), ("e4m3", torch.uint8), ("int32", torch.uint32)],
)
def test_tensors_in_tensors_out(rng, out, dtype):
    spec = GemmSpec("e4m3", "e5m2", out)
    a, b = rng.integers(0, 0x60, (4, 5), np.uint8), rng.integers(0, 0x60, (7, 5), np.uint8)
    expected = golden_gemm(a, b.T, spec)
    with open_device("golden") as device:
        codes: Any = device.gemm(torch.from_numpy(a), torch.from_numpy(b).T, spec).codes
        values: Any = device.gemm_values(torch.from_numpy(a), torch.from_numpy(b).T, spec)
        assert isinstance(device.gemm_values(a, b.T, spec), np.ndarray)
    assert codes.dtype == dtype
    assert values.dtype == torch.float32
    np.testing.assert_array_equal(codes.numpy(), expected.codes)
    np.testing.assert_array_equal(values.numpy(), spec.out.to_float64(expected.codes).astype(np.float32))


def test_tensors_elsewhere_are_refused():
    with (
        open_device("golden") as device,
        pytest.raises(ValueError, match="codes must be on the CPU, not a tensor on meta"),
    ):
        device.gemm(torch.zeros((2, 2), dtype=torch.uint8, device="meta"), ONES, SPEC)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "e5m2", "int32", "e6m5", "uint8", "e8m15"])
def test_values_are_what_the_codes_mean(rng, name):
    fmt = get_format(name)
    codes = rng.integers(0, 1 << fmt.bits, (30, 40)).astype(fmt.code_dtype)
    np.testing.assert_array_equal(decode_values(codes, fmt), fmt.to_float64(codes).astype(np.float32))
    np.testing.assert_array_equal(decode_values(codes[::3].T, fmt), fmt.to_float64(codes[::3].T).astype(np.float32))


# RTL devices, on test doubles


def test_cores_are_opened_when_needed_and_closed(fake_rtl):
    told = []
    with open_device("rtl:2x4", progress=told.append) as device:
        assert fake_rtl == []
        device.check(GemmSpec("int8", "int8"), 100)
        assert fake_rtl == []
        for _ in range(2):
            device.gemm(ONES, ONES, SPEC)
            device.gemm(ONES, ONES, GemmSpec("int8", "int8", "int32"))
        assert [core.config.a_formats[0].name for core in fake_rtl] == ["float8_e4m3fn", "int8"]
        assert device.config == fake_rtl[1].config
        assert device.stats.cycles == 4 * ((1 << 32) + 27)
    assert len(told) == 2
    assert all(core.is_closed for core in fake_rtl)


def test_requirements_decide_the_cores(fake_rtl):
    specs = [GemmSpec("e5m2", "e4m3"), (GemmSpec("e4m3", "e5m2"), 100)]
    with open_device("rtl:2x4", requirements=specs) as device:
        assert isinstance(device, RtlDevice)
        device.prepare(*specs)
        assert len(fake_rtl) == 1
        device.gemm(ONES, ONES, SPEC)
        assert len(fake_rtl) == 1


def test_fixed_core_from_a_file(fake_rtl, tmp_path):
    path = tmp_path / "core.toml"
    path.write_text('rows = 3\ncolumns = 4\na_formats = ["e4m3"]\nb_formats = ["e4m3"]\naccumulator = "exact:64"\n')
    with open_device(f"rtl:{path}") as device:
        assert device.config == ArrayConfig(
            rows=3, columns=4, a_formats="e4m3", b_formats="e4m3", accumulator="exact:64"
        )
        device.gemm(ONES, ONES, SPEC)
        for wrong, k in ((GemmSpec("e5m2", "e4m3"), 1), (SPEC, 65)):
            with pytest.raises(UnsupportedSpecError, match=f"device rtl:{path}: .*; device emulator runs it"):
                device.check(wrong, k)
    with pytest.raises(UnsupportedSpecError, match=r"A format int8 is not built in; the core has float8_e4m3fn"):
        open_device(f"rtl:{path}", requirements=[GemmSpec("int8", "e4m3")])


def test_a_k_that_is_too_large_is_refused_before_any_transfer(fake_rtl):
    long = np.full((1, 100_000), 0x38, np.uint8)
    with open_device("rtl:2x2") as device:
        with pytest.raises(ValueError, match="K = 100000 is beyond the exact accumulator's max_k = 4096"):
            device.gemm(long, long.T, GemmSpec("e4m3", "e4m3", accumulator="exact:4096"))
        with pytest.raises(UnsupportedSpecError, match="exact accumulator of float16 × float32 for K = 100000 needs"):
            device.gemm(long.astype(np.uint16), long.T.astype(np.uint32), GemmSpec("float16", "float32"))
    assert fake_rtl == []


def test_wrong_results_are_found_by_verification(fake_rtl, monkeypatch):
    with open_device("rtl:2x2", verify=0.01) as device:
        device.gemm(ONES, ONES, SPEC)
        golden = round_output

        def faulty(*arguments: Any, **options: Any) -> Any:
            result = golden(*arguments, **options)
            result.codes[:] ^= 1 << 20
            return result

        monkeypatch.setitem(type(fake_rtl[0])._run.__globals__, "round_output", faulty)
        with pytest.raises(VerificationError, match=r"rtl:2x2: C\[\d:\d, \d:\d\] differs from the golden model"):
            device.gemm(ONES, ONES, SPEC)


def test_a_core_that_does_not_open_leaves_a_device_that_works(fake_rtl, monkeypatch):
    device = open_device("rtl:2x2")
    with monkeypatch.context() as patch:
        patch.setattr("halfulp.host.rtl_device.RtlCore", _refuse)
        with pytest.raises(RuntimeError, match=r"the C\+\+ compiler g\+\+ is not installed"):
            device.gemm(ONES, ONES, SPEC)
    np.testing.assert_array_equal(device.gemm(ONES, ONES, SPEC).codes, golden_gemm(ONES, ONES, SPEC).codes)
    device.close()


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("the C++ compiler g++ is not installed")


def test_other_accumulators_are_not_verified():
    spec = GemmSpec("e4m3", "e4m3", accumulator="e6m5:stochastic:9")
    with open_device("golden", verify=0.5) as device:
        with pytest.raises(ValueError, match="only results of exact accumulators can be verified, not of e6m5:stoch"):
            device.gemm(ONES, ONES, spec)
    with open_device("golden") as device:
        device.gemm(ONES, ONES, spec)


BLOCK_SPEC = BlockGemmSpec("mxfp4_e2m1", "mxfp4_e2m1", "bfloat16", "e8m23:stochastic:8", "stochastic:4")


def mxfp4(rng: np.random.Generator, m: int, k: int, n: int) -> tuple[Blocks, Blocks]:
    fmt = get_block_format("mxfp4_e2m1")
    return fmt.quantise(rng.normal(size=(m, k)), axis=1), fmt.quantise(rng.normal(size=(k, n)), axis=0)


@pytest.mark.parametrize("name", ["golden", "emulator"])
def test_blocks_are_multiplied_as_the_golden_model_does(name, rng):
    a, b = mxfp4(rng, 3, 70, 5)
    expected = golden_block_gemm(a, b, BLOCK_SPEC, seed=9)
    with open_device(name) as device:
        got = device.gemm(a, b, BLOCK_SPEC, seed=9)
        np.testing.assert_array_equal(got.codes, expected.codes)
        tensors = a._replace(codes=torch.from_numpy(a.codes), scales=torch.from_numpy(a.scales))
        got = device.gemm(tensors, b, BLOCK_SPEC, seed=9)
        assert isinstance(got.codes, torch.Tensor)
        np.testing.assert_array_equal(got.codes.numpy(), expected.codes)
        np.testing.assert_array_equal(
            device.gemm_values(a, b, BLOCK_SPEC, seed=9), decode_values(expected.codes, BLOCK_SPEC.out)
        )
        assert (device.stats.gemms, device.stats.macs) == (3, 3 * 3 * 70 * 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, b: (a.codes, b), TypeError, "A in mxfp4_e2m1 must be Blocks, codes and scales, not ndarray"),
        (lambda a, b: (a, b._replace(codes=b.codes[:64])), ValueError, "differ in K"),
        (
            lambda a, b: (a._replace(scales=a.scales[:, :2]), b),
            ValueError,
            r"codes of shape \(3, 70\) in blocks of 32 along axis 1 need scales of shape \(3, 3\), not \(3, 2\)",
        ),
        (
            lambda a, b: (a, b._replace(scales=b.scales.astype(float))),
            TypeError,
            "scales of mxfp4_e2m1 must be uint8 codes, not float64",
        ),
        (lambda a, b: (a._replace(tensor_scale=2.0), b), ValueError, "mxfp4_e2m1 has no tensor scale, so it must be 1"),
        (
            lambda a, b: (a._replace(tensor_scale=np.nan), b),
            ValueError,
            "positive, finite and a float32 number, not nan",
        ),
    ],
)
@pytest.mark.parametrize("name", ["golden", "emulator"])
def test_blocks_that_do_not_fit_are_told_apart(name, change, error, message, rng):
    a, b = change(*mxfp4(rng, 3, 70, 5))
    with open_device(name) as device, pytest.raises(error, match=message):
        device.gemm(a, b, BLOCK_SPEC)


def test_cores_refuse_what_they_cannot_run_and_say_what_they_have(rng):
    a, b = mxfp4(rng, 3, 70, 5)
    mixed = BlockGemmSpec("nvfp4", "bfp4")
    told = "device rtl:2x2: the scales of a core's blocks are of one kind, not e4m3 and e8m0 as of nvfp4 × bfp4; device"
    with open_device("rtl:2x2") as device, pytest.raises(UnsupportedSpecError, match=told):
        device.check(mixed)
    with pytest.raises(UnsupportedSpecError, match=told):
        open_device("rtl:2x2", requirements=[mixed])
    with pytest.raises(UnsupportedSpecError, match="A format mxfp4_e2m1 is not built in; the core has float8_e4m3fn"):
        ArrayConfig(rows=2, columns=2, lanes=2, a_formats=("e4m3",), b_formats=("e4m3",)).check_spec(BLOCK_SPEC)
    with open_device("golden", verify=1) as device, pytest.raises(ValueError, match="of block-scaled operands cannot"):
        device.gemm(a, b, BLOCK_SPEC)
