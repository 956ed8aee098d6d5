"""`halfulp gemm`: one GEMM on a device, from files to a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from halfulp.cli.console import note, print_json, working
from halfulp.cli.matrix_files import check_output, numbers, quantise, read_matrix, write_matrix
from halfulp.host.device import Device, decode_values, open_device
from halfulp.numerics.block_formats import BlockFormat, Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec, check_block_operands, gemm_spec
from halfulp.numerics.gemm import GemmResult, check_operands
from halfulp.numerics.random_bits import check_seed

__all__ = ["gemm"]

EXAMPLE = """
  halfulp gemm A.npy B.npy -o C.npy --a e4m3 --b e5m2 --acc exact --out float32 \\
      --round stochastic:8 --seed 7 --device rtl:8x8
  halfulp gemm A.npy B.npy -o C.npy --a mxfp8_e4m3 --b mxfp8_e4m3 --acc e8m23
"""


def gemm(
    a_file: Annotated[Path, typer.Argument(metavar="A.npy", help="A, [M, K].")],
    b_file: Annotated[Path, typer.Argument(metavar="B.npy", help="B, [K, N].")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="C.npy", help="C, [M, N]; overwritten.")],
    a: Annotated[str, typer.Option("--a", metavar="FORMAT", help="Format of A, plain or block-scaled.")] = "e4m3",
    b: Annotated[str, typer.Option("--b", metavar="FORMAT", help="Format of B.")] = "e4m3",
    acc: Annotated[
        str | None,
        typer.Option(
            "--acc",
            metavar="ACCUMULATOR",
            help="exact, exact:MAX_K, fixed:WIDTH:LSB or eXmY[:ROUNDING]; by default exact, and e8m23 of blocks.",
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", metavar="FORMAT", help="Format of C.")] = "float32",
    rounding: Annotated[
        str,
        typer.Option(
            "--round",
            metavar="MODE",
            help="nearest_even, toward_zero, stochastic:R or stochastic_floor:R, with R random bits.",
        ),
    ] = "nearest_even",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random bits, 64 bits.")] = 0,
    scale: Annotated[int, typer.Option("--scale", metavar="S", help="Multiply sums by 2**S before rounding.")] = 0,
    overflow: Annotated[str, typer.Option("--overflow", metavar="BEHAVIOUR", help="saturate or ieee.")] = "saturate",
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="Where: `halfulp devices` lists what there is.")
    ] = "emulator",
    codes: Annotated[
        bool,
        typer.Option("--codes", help="The files hold codes, unsigned integers, rather than numbers."),
    ] = False,
    a_scales: Annotated[
        Path | None,
        typer.Option("--a-scales", metavar="SA.npy", help="With --codes: scale codes of A's blocks, [M, blocks]."),
    ] = None,
    b_scales: Annotated[
        Path | None,
        typer.Option("--b-scales", metavar="SB.npy", help="With --codes: scale codes of B's blocks, [blocks, N]."),
    ] = None,
    a_tensor_scale: Annotated[
        float | None, typer.Option("--a-tensor-scale", metavar="X", help="With --codes: of all of A, for nvfp4.")
    ] = None,
    b_tensor_scale: Annotated[
        float | None, typer.Option("--b-tensor-scale", metavar="X", help="With --codes: of all of B.")
    ] = None,
    verify: Annotated[
        float, typer.Option("--verify", metavar="RATE", help="Verify this share of C's tiles, 0 to 1.")
    ] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Multiply two matrices on a device: C = round(2**S * A·B).

    A is [M, K], B is [K, N], C is [M, N]. Numbers in A and B are quantised to the nearest, saturating; C's file holds
    its values as float32. With --codes all three files hold raw codes, integer formats in two's complement.

    Block-scaled formats lay their blocks along K: the rows of A, the columns of B; the last one may be short.
    """
    spec = gemm_spec(
        a=a,
        b=b,
        out=out,
        accumulator=acc,
        rounding=rounding,
        scale=scale,
        overflow=overflow,
    )
    check_seed(seed)
    check_output(output)
    scales = (a_scales, a_tensor_scale), (b_scales, b_tensor_scale)
    if isinstance(spec, BlockGemmSpec):
        operands = [
            _read_blocks(path, fmt, axis, codes, *scale)
            for path, fmt, axis, scale in zip((a_file, b_file), (spec.a, spec.b), (1, 0), scales, strict=True)
        ]
        checked_a, checked_b = check_block_operands(operands[0], operands[1], spec)
        codes_a, codes_b = checked_a.codes, checked_b.codes
    else:
        if any(scale != (None, None) for scale in scales):
            raise ValueError(f"scales belong to block-scaled formats, not to {spec.a} and {spec.b}")
        matrix_a, matrix_b = read_matrix(a_file), read_matrix(b_file)
        if not codes:
            matrix_a, matrix_b = quantise(matrix_a, spec.a, a_file), quantise(matrix_b, spec.b, b_file)
        codes_a, codes_b = checked_a, checked_b = check_operands(matrix_a, matrix_b, spec)
    with working(f"{device}: opening") as progress:
        requirement = (spec, codes_a.shape[1])
        with open_device(device, verify=verify, requirements=[requirement], progress=progress) as opened:
            start = time.perf_counter()
            result = opened.gemm(checked_a, checked_b, spec, seed=seed)
            seconds = time.perf_counter() - start
            values = result.codes if codes else decode_values(result.codes, spec.out)
            report = _report(opened, codes_a.shape, codes_b.shape[1], spec, seed, result, seconds)
    write_matrix(output, values)
    if result.invalid:
        note(f"a result is NaN, and {spec.out} has no code for NaN: it became 0 (flag invalid)")
    if result.overflow:
        note(f"a result was beyond {spec.out}'s largest number (flag overflow)")
    if json:
        print_json({"output": str(output), **report})
    else:
        m, n, k = report["m"], report["n"], report["k"]
        print(f"{output}: {m}×{n}, K = {k}, {spec}; {device}, {seconds:.3g} s")


def _read_blocks(
    path: Path, fmt: BlockFormat, axis: int, is_codes: bool, scales: Path | None, tensor_scale: float | None
) -> Blocks:
    """An operand in blocks along `axis`: numbers that are quantised, or codes with the scales of another file."""
    matrix = read_matrix(path)
    if is_codes:
        if scales is None:
            raise ValueError(
                f"{path} holds codes of {fmt}, which need the scales of its blocks: --a-scales, --b-scales"
            )
        return Blocks(matrix, read_matrix(scales), 1.0 if tensor_scale is None else tensor_scale)
    if scales is not None or tensor_scale is not None:
        raise ValueError(f"{path} holds numbers, whose scales are computed; with --codes they are given")
    blocks = fmt.quantise(numbers(matrix, path), axis=axis)
    if blocks.invalid:
        note(f"{path}: a block that holds a NaN or an infinity is NaN as a whole in {fmt}")
    return blocks


def _report(
    device: Device, a_shape: tuple[int, ...], n: int, spec: AnyGemmSpec, seed: int, result: GemmResult, seconds: float
) -> dict[str, Any]:
    counters = device.counters
    return {
        "m": a_shape[0],
        "n": n,
        "k": a_shape[1],
        "a": spec.a.name,
        "b": spec.b.name,
        "accumulator": str(spec.accumulator),
        "out": spec.out.name,
        "round": str(spec.rounding),
        "scale": spec.scale,
        "overflow_behaviour": spec.overflow,
        "seed": seed,
        "device": device.name,
        "invalid": result.invalid,
        "overflow": result.overflow,
        "seconds": seconds,
        "macs": a_shape[0] * n * a_shape[1],
        "cycles": counters.cycles if counters else None,
        "array_busy_cycles": counters.array_busy_cycles if counters else None,
    }
