"""`halfulp bench`: how fast this is on this machine."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from halfulp.cli.console import print_json, print_table, working
from halfulp.numerics.names import unknown_name

__all__ = ["bench"]

EXAMPLE = """
  halfulp bench
  halfulp bench rtl --rounds 10
  halfulp bench numerics
  halfulp bench model
  echo 'rows = 8' > core.toml
  halfulp bench model core.toml 64 784 128 --clock 125 --latency 30
"""


THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def bench(
    suite: Annotated[str, typer.Argument(metavar="[SUITE]", help="rtl, emulator, all, numerics or model.")] = "all",
    model_of: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG [M K N]]", help="Of model: a core, and sizes of a GEMM.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Measure each N times, interleaved.")] = 5,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="Threads of each matrix product.")] = 1,
    model: Annotated[bool, typer.Option("--model", help="The same as the suite model.")] = False,
    clock: Annotated[float | None, typer.Option("--clock", metavar="MHZ", help="Of model: the core's clock.")] = None,
    latency: Annotated[int, typer.Option("--latency", metavar="CLOCKS", help="Of model: the memory's.")] = 1,
    bandwidth: Annotated[
        float, typer.Option("--bandwidth", metavar="BEATS", help="Of model: bus words a clock, each direction.")
    ] = 1.0,
    rtl: Annotated[bool, typer.Option("--rtl", help="Of model: count on the Verilated core as well.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """The project's figures on this machine, each beside torch's float32 matrix product in the same run.

    A figure is the time of a whole gemm call: operands in, result out. Compare ratios, for absolute figures drift.

    numerics holds each kind of kernel, the golden model and installed peers against their targets, by processor time.

    model is another matter: clocks of a core, by the cycle model, beside what array and bus allow, for a cube and a
    layer's three GEMMs or the sizes given, in every layout.
    """
    if model or suite == "model":
        from halfulp.cli.bench_model import bench_model

        # Behind --model the first argument is a core's file.
        arguments = [*([] if suite in ("all", "model") else [suite]), *(model_of or [])]
        with working("starting") as progress:
            bench_model(
                arguments, clock=clock, latency=latency, bandwidth=bandwidth, rtl=rtl, json=json, progress=progress
            )
        return
    if model_of:
        raise ValueError(f"only the suite model takes a core and sizes, not {suite!r}: {' '.join(model_of)}")
    if clock is not None or latency != 1 or bandwidth != 1.0 or rtl:
        raise ValueError(f"--clock, --latency, --bandwidth and --rtl are of the suite model, not of {suite!r}")
    if threads < 1:  # before OpenMP reads it
        raise ValueError(f"threads must be 1 or more, not {threads}")
    # NumPy's matrix products heed only what is set before NumPy is loaded, which is now: the reference and the
    # emulator, which uses both NumPy and torch, are to have the same number of threads.
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    if suite == "numerics":
        from halfulp.cli.bench_numerics import bench_numerics

        if threads != 1:
            raise ValueError(f"numerics is measured on one thread, not {threads}")
        with working("starting") as progress:
            bench_numerics(rounds=rounds, json=json, progress=progress)
        return
    from halfulp.host.benchmark import SUITES, run_benchmark

    if suite not in (*SUITES, "all"):
        raise unknown_name("suite", suite, [*SUITES, "all", "numerics", "model"])
    with working("starting") as progress:
        figures = run_benchmark(
            list(SUITES) if suite == "all" else [suite], rounds=rounds, threads=threads, progress=progress
        )
    if json:
        print_json([_plain(figure) for figure in figures])
        return
    rows = []
    for figure in figures:
        m, k, n = figure.shape
        what = f"{figure.spec.a} × {figure.spec.b} → {figure.spec.out}" if figure.spec else "float32 matmul"
        if figure.spec and figure.spec.rounding.is_stochastic:
            what += f", {figure.spec.rounding}"
        cycles = [f"{figure.clock / 1e6:.2f}", f"{figure.macs / figure.cycles:.1f}"] if figure.cycles else ["", ""]
        ratio = f"{figure.ratio:.2g}"
        rows.append(
            [
                figure.device,
                what,
                f"{m}×{k}×{n}",
                f"{figure.best / 1e6:.4g}",
                f"{figure.median / 1e6:.4g}",
                ratio,
                *cycles,
            ]
        )
    columns = ["device", "GEMM", "M×K×N", "M MAC/s, best", "median", "of torch fp32", "M cycles/s", "MACs a cycle"]
    print_table(f"{rounds} rounds, {threads} thread{'s' if threads > 1 else ''}", columns, rows, right=range(3, 8))


def _plain(figure: Any) -> dict[str, Any]:
    return {
        "device": figure.device,
        "spec": str(figure.spec) if figure.spec else None,
        "m_k_n": list(figure.shape),
        "mac_per_s_best": figure.best,
        "mac_per_s_median": figure.median,
        "ratio_to_torch_float32": figure.ratio,
        "cycles": figure.cycles or None,
        "cycles_per_s": figure.clock if figure.cycles else None,
    }
