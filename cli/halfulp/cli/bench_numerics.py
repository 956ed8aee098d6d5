"""`halfulp bench numerics`: kernels, golden model and peers as ratios to the machine's own best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halfulp.cli.console import print_json, print_table

__all__ = ["bench_numerics"]


def bench_numerics(*, rounds: int, json: bool, progress: Callable[[str], None]) -> None:
    """Print the figures; one thread, whose processor time counts."""
    from halfulp.host.numerics_benchmark import load_average, run_numerics_benchmark

    figures = run_numerics_benchmark(rounds=rounds, progress=progress)
    if json:
        print_json({"rounds": rounds, "load": load_average(), "figures": [_plain(figure) for figure in figures]})
        return
    rows = []
    for figure in figures:
        target = figure.target
        reached = {True: "yes", False: "no", None: ""}[figure.reached]
        rows.append(
            [
                figure.by,
                figure.what,
                "×".join(map(str, figure.size)),
                f"{figure.rate / 1e6:.4g}",
                f"{100 * figure.spread:.0f} %",
                "" if figure.ratio is None else f"{figure.ratio:.2g}",
                "" if target is None else f"{target:.2g}" if figure.reference else f"{target / 1e6:g} M",
                reached,
                figure.reference,
            ]
        )
    columns = ["by", "what", "size", "M/s, median", "spread", "ratio", "target", "reached", "ratio to"]
    title = f"{rounds} rounds, one thread's processor time, load {load_average():.1f}"
    print_table(title, columns, rows, right=range(3, 7))


def _plain(figure: Any) -> dict[str, Any]:
    return {
        "by": figure.by,
        "what": figure.what,
        "size": list(figure.size),
        "per_s_median": figure.rate,
        "spread": figure.spread,
        "reference": figure.reference or None,
        "ratio": figure.ratio,
        "target": figure.target,
        "reached": figure.reached,
    }
