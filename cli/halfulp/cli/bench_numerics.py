"""`halfulp bench numerics`: kernels, golden model and peers as ratios to the machine's own best."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from halfulp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from halfulp.host.numerics_benchmark import NumericsFigure, PeerRatio

__all__ = ["bench_numerics"]


def bench_numerics(*, rounds: int, json: bool, progress: Callable[[str], None]) -> None:
    """Print the figures; one thread, whose processor time counts."""
    from halfulp.host.numerics_benchmark import load_average, run_numerics_benchmark

    figures, over_nearest_peer, broken = run_numerics_benchmark(rounds=rounds, progress=progress)
    if json:
        print_json(
            {
                "rounds": rounds,
                "load": load_average(),
                "figures": [_plain(figure) for figure in figures],
                "over_nearest_peer": [_plain_ratio(ratio) for ratio in over_nearest_peer],
                "broken_peers": broken,
            }
        )
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
    rows += [[by, f"does not work: {problem}", *[""] * 7] for by, problem in broken.items()]
    columns = ["by", "what", "size", "M/s, median", "spread", "ratio", "target", "reached", "ratio to"]
    title = f"{rounds} rounds, one thread's processor time, load {load_average():.1f}"
    print_table(title, columns, rows, right=range(3, 7))
    _print_ratios(over_nearest_peer)


def _print_ratios(ratios: list[PeerRatio]) -> None:
    rows = [
        [
            ratio.what,
            "×".join(map(str, ratio.size)),
            ratio.peer,
            f"{ratio.peer_rate / 1e6:.4g}",
            f"{ratio.ratio:.3g}",
            f"{ratio.target:g}",
            "yes" if ratio.reached else "no",
        ]
        for ratio in ratios
    ]
    columns = ["what", "size", "peer", "its M/s", "times as fast", "target", "reached"]
    print_table("over the nearest peer", columns, rows, right=range(3, 6))
    print("Quoted: an optimised build of MPTorch on one core of an AMD Zen 4 server.")


def _plain(figure: NumericsFigure) -> dict[str, Any]:
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


def _plain_ratio(ratio: PeerRatio) -> dict[str, Any]:
    return {
        "what": ratio.what,
        "size": list(ratio.size),
        "per_s_median": ratio.rate,
        "peer": ratio.peer,
        "peer_per_s": ratio.peer_rate,
        "is_measured": ratio.is_measured,
        "ratio": ratio.ratio,
        "target": ratio.target,
        "reached": ratio.reached,
    }
