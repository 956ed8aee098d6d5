"""`halfulp gemm`: files in, the golden model's codes out; what is wrong is told in one line, and nothing is left."""

from __future__ import annotations

import json
import os
import resource

import ml_dtypes
import numpy as np
import pytest

from halfulp.numerics.block_formats import Blocks, get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec, golden_block_gemm
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm


@pytest.fixture
def files(tmp_path, rng):
    """Float matrices A.npy [5, 7] and B.npy [7, 4]; returns the folder."""
    np.save(tmp_path / "A.npy", rng.standard_normal((5, 7)))
    np.save(tmp_path / "B.npy", rng.standard_normal((7, 4)).astype(np.float32))
    return tmp_path


@pytest.fixture
def gemm(halfulp, files):
    """Run `halfulp gemm A.npy B.npy -o C.npy` on the golden device with these further arguments."""

    def call(*arguments: object, a: str = "A.npy", b: str = "B.npy", device: str = "golden"):
        return halfulp("gemm", files / a, files / b, "-o", files / "C.npy", "--device", device, *arguments)

    return call


def left_in(folder):
    return sorted(name for name in os.listdir(folder) if name not in ("A.npy", "B.npy"))


def test_numbers_are_quantised_and_the_result_is_values(gemm, files):
    assert gemm("--a", "e4m3", "--b", "e5m2").code == 0
    a = np.load(files / "A.npy").astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    b = np.load(files / "B.npy").astype(ml_dtypes.float8_e5m2).astype(np.float64)
    c = np.load(files / "C.npy")
    assert c.dtype == np.float32
    np.testing.assert_array_equal(c, (a @ b).astype(np.float32))  # few bits: float64 is exact, and rounds once


@pytest.mark.parametrize(
    ("a", "b", "out"), [("e4m3", "e5m2", "e4m3"), ("int8", "int4", "int32"), ("e6m5", "int16", "float16")]
)
def test_codes_in_codes_out(gemm, files, rng, a, b, out):
    codes = [rng.integers(0, 1 << get_format(f).bits, s).astype(np.uint16) for f, s in ((a, (5, 7)), (b, (7, 4)))]
    np.save(files / "A.npy", np.asfortranarray(codes[0]))
    np.save(files / "B.npy", codes[1])
    arguments = ["--acc", "exact:7", "--round", "stochastic:9", "--seed", str(2**64 - 1), "--scale", "-3"]
    assert gemm("--codes", "--a", a, "--b", b, "--out", out, "--overflow", "ieee", *arguments).code == 0
    spec = GemmSpec(a, b, out, rounding="stochastic:9", scale=-3, overflow="ieee")
    c = np.load(files / "C.npy")
    assert c.dtype == get_format(out).code_dtype
    np.testing.assert_array_equal(c, golden_gemm(codes[0], codes[1], spec, seed=2**64 - 1).codes)


def test_json_report(gemm, files):
    report = json.loads(gemm("--json", "--seed", 5, "--round", "toward_zero").out)
    assert (report["m"], report["n"], report["k"], report["macs"]) == (5, 4, 7, 140)
    assert (report["a"], report["round"], report["seed"], report["invalid"]) == (
        "float8_e4m3fn",
        "toward_zero",
        5,
        False,
    )
    assert report["output"] == str(files / "C.npy")


def test_integers_and_half_floats_are_numbers(gemm, files):
    np.save(files / "A.npy", np.arange(35).reshape(5, 7))
    np.save(files / "B.npy", np.eye(7, 4, dtype=np.float16))
    assert gemm("--a", "int8", "--b", "int8").code == 0
    np.testing.assert_array_equal(np.load(files / "C.npy"), np.arange(35).reshape(5, 7)[:, :4])


def test_result_that_overflows_is_told(gemm, files):
    np.save(files / "A.npy", np.full((5, 7), 100.0))
    np.save(files / "B.npy", np.full((7, 4), 100.0))
    outcome = gemm("--out", "int8")
    assert outcome.code == 0
    assert outcome.err == "halfulp: note: a result was beyond int8's largest number (flag overflow)\n"


def test_result_without_a_code_is_told(gemm, files):
    np.save(files / "A.npy", np.full((5, 7), np.nan))
    outcome = gemm("--out", "int8")
    assert outcome.code == 0
    assert "a result is NaN, and int8 has no code for NaN: it became 0 (flag invalid)" in outcome.err
    assert not np.load(files / "C.npy").any()


def test_saturated_inputs_are_told(gemm, files):
    a = np.load(files / "A.npy")
    a[0, 0], a[1, 1] = 1000, -np.inf
    np.save(files / "A.npy", a)
    err = gemm().err
    assert "A.npy: 2 of 35 values are beyond float8_e4m3fn's largest, 448, and were saturated" in err


BAD_FILES = {
    "garbage": (b"this is no matrix", "A.npy is no .npy file: it does not begin with"),
    "empty": (b"", "A.npy is no .npy file"),
    "header only": (b"\x93NUMPY\x01\x00\x76\x00", "A.npy is a damaged .npy file: "),
    "zip": (b"PK\x03\x04" + bytes(100), "A.npy is no .npy file"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_file_that_is_no_matrix(gemm, files, kind):
    content, message = BAD_FILES[kind]
    (files / "A.npy").write_bytes(content)
    assert message in gemm().error
    assert left_in(files) == []


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.zeros((2, 3, 4)), "A.npy must hold a matrix, not an array of shape (2, 3, 4)"),
        (np.zeros(7), "A.npy must hold a matrix, not an array of shape (7,)"),
        (np.zeros((0, 7)), "A.npy must hold at least one row and one column, not shape (0, 7)"),
        (np.zeros((5, 8)), "A is [M, K] and B is [K, N]: (5, 8) and (7, 4) differ in K"),
        (np.zeros((5, 7), complex), "A.npy must hold real numbers of at most 64 bits, not complex128"),
        (np.full((5, 7), "x"), "A.npy must hold real numbers of at most 64 bits, not <U1"),
        (np.zeros((5, 7), np.longdouble), "A.npy must hold real numbers of at most 64 bits, not float128"),
        (np.full((5, 7), 2**53 + 1), "A.npy holds the integer 9007199254740993: beyond 2**53 not all fit float64"),
        (np.array([[None] * 7]), "A.npy must hold real numbers, not Python's objects"),
    ],
)
def test_matrix_that_does_not_fit(gemm, files, a, message):
    np.save(files / "A.npy", a, allow_pickle=True)
    assert message in gemm().error
    assert left_in(files) == []


def test_truncated_file(gemm, files):
    whole = (files / "B.npy").read_bytes()
    (files / "B.npy").write_bytes(whole[:-9])
    assert "B.npy is a damaged .npy file: " in gemm().error


def test_missing_file(gemm, files):
    assert gemm(a="none.npy").error == f"{files}/none.npy: No such file or directory"
    assert gemm(a=".").error == f"{files}: Is a directory"


def test_nan_input_where_the_format_has_none(gemm, files):
    a = np.load(files / "A.npy")
    a[3, 2] = np.nan
    np.save(files / "A.npy", a)
    assert gemm("--a", "int8").error == f"{files}/A.npy [3, 2] is NaN, and int8 has no code for NaN"
    assert gemm("--a", "e4m3").code == 0


def test_code_outside_the_format(gemm, files):
    np.save(files / "A.npy", np.full((5, 7), 16, np.uint8))
    np.save(files / "B.npy", np.zeros((7, 4), np.uint8))
    assert gemm("--codes", "--a", "int4").error == "code 16 is outside int4: codes are 0 to 15"
    np.save(files / "A.npy", np.full((5, 7), -1, np.int8))
    assert gemm("--codes", "--a", "int8").error == "code -1 is outside int8: codes are 0 to 255"
    np.save(files / "A.npy", np.zeros((5, 7)))
    assert gemm("--codes", "--a", "int8").error == "int8 codes must be integers, not float64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a", "e4m3x"], "unknown format 'e4m3x'; nearest: 'e4m3'"),
        (["--out", "float3"], "unknown format 'float3'; nearest: 'float32'"),
        (["--acc", "exat"], "unknown accumulator 'exat'; nearest: 'exact'"),
        (["--acc", "exact:6"], "K = 7 is beyond the exact accumulator's max_k = 6"),
        (["--acc", "exact:0"], "max_k of an exact accumulator must be at least 1, not 0"),
        (["--round", "nearest"], "unknown rounding 'nearest'; nearest: 'nearest_even'"),
        (["--round", "stochastic"], "rounding 'stochastic' needs its number of random bits, as in 'stochastic:8'"),
        (["--round", "stochastic:17"], "output rounding takes at most 16 random bits, not stochastic:17"),
        (["--seed", "-1"], "seed must be 0 to 2**64 - 1, not -1"),
        (["--seed", "x"], "Invalid value for '--seed'"),
        (["--scale", "99999"], "scale must be within ±16384, not 99999"),
        (["--overflow", "wrap"], "unknown overflow behaviour 'wrap'; known: 'ieee', 'saturate'"),
        (["--verify", "2"], "verify must be a share of the tiles, from 0 to 1, not 2.0"),
    ],
)
def test_bad_option(gemm, files, arguments, message):
    assert message in gemm(*arguments).error
    assert left_in(files) == []


@pytest.fixture
def long_files(files, rng):
    """Matrices [5, 40] and [40, 4]: a whole block and a short one."""
    np.save(files / "A.npy", rng.standard_normal((5, 40)))
    np.save(files / "B.npy", rng.standard_normal((40, 4)).astype(np.float32))
    return files


@pytest.mark.parametrize("device", ["golden", "emulator"])
@pytest.mark.parametrize("name", ["mxfp4_e2m1", "nvfp4", "bfp6"])
def test_numbers_are_quantised_in_blocks(gemm, long_files, name, device):
    fmt = get_block_format(name)
    assert gemm("--a", name, "--b", name, "--seed", 3, "--acc", "e6m5:stochastic:9", device=device).code == 0
    a, b = (fmt.quantise(np.load(long_files / f"{x}.npy"), axis=axis) for x, axis in (("A", 1), ("B", 0)))
    golden = golden_block_gemm(a, b, BlockGemmSpec(name, name, "float32", "e6m5:stochastic:9"), seed=3)
    np.testing.assert_array_equal(np.load(long_files / "C.npy").view(np.uint32), golden.codes)


def test_codes_and_scales_in_codes_out(gemm, long_files):
    fmt = get_block_format("nvfp4")
    for name, axis in (("A", 1), ("B", 0)):
        blocks = fmt.quantise(np.load(long_files / f"{name}.npy"), axis=axis, tensor_scale=0.0625)
        np.save(long_files / f"{name}.npy", blocks.codes)
        np.save(long_files / f"S{name}.npy", blocks.scales)
    a, b = (Blocks(np.load(long_files / f"{x}.npy"), np.load(long_files / f"S{x}.npy"), 0.0625) for x in "AB")
    scales = ["--a-scales", long_files / "SA.npy", "--b-scales", long_files / "SB.npy"]
    names = ["--codes", "--a", "nvfp4", "--b", "nvfp4", "--out", "bfloat16", "--json"]
    outcome = gemm(*names, *scales, "--a-tensor-scale", "0.0625", "--b-tensor-scale", "0.0625")
    told = json.loads(outcome.out)
    assert (told["accumulator"], told["k"], told["a"]) == ("float32", 40, "nvfp4")
    golden = golden_block_gemm(a, b, BlockGemmSpec("nvfp4", "nvfp4", "bfloat16"))
    np.testing.assert_array_equal(np.load(long_files / "C.npy"), golden.codes)
    assert "need the scales of its blocks: --a-scales" in gemm(*names).error
    np.save(long_files / "SA.npy", a.scales[:, :2])
    assert "need scales of shape (5, 3), not (5, 2)" in gemm(*names, *scales).error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a", "mxfp4_e2m1"], "both operands must be block-scaled, and B is float8_e4m3fn"),
        (["--a", "nvfp4", "--b", "mxint8"], "blocks of A and B must be of one length: nvfp4 has 16, mxint8 32"),
        (["--a", "nvfp4", "--b", "nvfp4", "--acc", "exact"], "blocks are added in a float accumulator, not in exact"),
        (["--a", "mxfp8"], "unknown format 'mxfp8'; nearest: 'mxfp8_e5m2', 'mxfp8_e4m3'"),
        (["--a-tensor-scale", "2"], "scales belong to block-scaled formats, not to float8_e4m3fn and float8_e4m3fn"),
        (["--a", "nvfp4", "--b", "nvfp4", "--a-tensor-scale", "2"], "holds numbers, whose scales are computed"),
    ],
)
def test_bad_block_options(gemm, files, arguments, message):
    assert message in gemm(*arguments).error
    assert left_in(files) == []


def test_a_block_with_nan_is_told(gemm, long_files):
    a = np.load(long_files / "A.npy")
    a[1, 2] = np.nan
    np.save(long_files / "A.npy", a)
    outcome = gemm("--a", "mxint8", "--b", "mxint8")
    assert "a block that holds a NaN or an infinity is NaN as a whole in mxint8" in outcome.err
    assert np.isnan(np.load(long_files / "C.npy")).any(axis=1).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("emulater", "unknown device 'emulater'; nearest: 'emulator'"),
        ("golden:1", "device 'golden' takes nothing after a colon, not '1'"),
        ("rtl", "device 'rtl' needs an array shape or a configuration file: rtl:8x8, rtl:CONFIG.toml"),
        ("rtl:0x8", "rows must be 1 to 64, not 0"),
        ("rtl:none.toml", "'none.toml' is neither an array shape such as 8x8 nor an existing file"),
    ],
)
def test_bad_device(gemm, files, device, message):
    assert message in gemm(device=device).error
    assert left_in(files) == []


def test_what_hardware_cannot_be_built_for_is_refused_before_anything_is_built(gemm, files):
    outcome = gemm("--a", "float32", "--b", "float32", device="rtl:8x8")
    assert "an exact accumulator of float32 × float32 for K = 7 needs" in outcome.error
    assert "bits; cores have at most 128; device emulator runs it" in outcome.error


def test_output_that_cannot_be_written_is_told_before_the_work(halfulp, files, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the GEMM was run")

    monkeypatch.setattr("halfulp.cli.gemm.open_device", never)
    inputs = ("gemm", files / "A.npy", files / "B.npy", "--device", "golden", "-o")
    assert halfulp(*inputs, files / "x" / "C.npy").error.endswith(f"there is no folder {files}/x")
    assert halfulp(*inputs, files).error == f"{files} is a folder, not a file to write"


def test_full_disk_leaves_the_old_file(gemm, files):
    """A file-size limit of the process stands for the disk's end: the same error from the same call."""
    (files / "C.npy").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        outcome = gemm()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.error == f"{files}/C.npy: File too large"
    assert (files / "C.npy").read_bytes() == b"old"
    assert left_in(files) == ["C.npy"]
    assert gemm().code == 0
    assert np.load(files / "C.npy").shape == (5, 4)


def test_output_may_be_a_device_file(halfulp, files):
    assert halfulp("gemm", files / "A.npy", files / "B.npy", "-o", "/dev/null", "--device", "golden").code == 0
    assert not os.path.isfile("/dev/null")
