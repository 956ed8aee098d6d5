"""`halfulp bench model`: clocks of a core beside its roofline, by the cycle model and by the core's own counter."""

from __future__ import annotations

import contextlib
import itertools
import time
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from halfulp.cli.console import print_json, print_table

__all__ = ["bench_model"]

GEMMS = {(512, 512, 512): 0.95, (64, 784, 128): 0.85, (64, 128, 784): 0.85, (784, 64, 128): 0.85}
"""What is shown where no sizes are given: M, K, N of a cube and of a layer's three GEMMs, with the least share of the
roofline that a 16 × 16 core with a 64-bit bus has to reach."""

UNEVEN = ((333, 333, 333), (500, 300, 77), (64, 784, 10), (1000, 77, 65), (333, 17, 333))
"""M, K, N that do not fit that core's array, shown as well; the last one waits for its results to be written."""

LAYOUTS = ((False, False), (False, True), (True, False), (True, True))
"""Whether A and B lie across K."""

BASE = 0x1000_0000
"""Where operands lie for the model alone; only the place in a page of 4 KiB counts."""


def bench_model(
    arguments: Sequence[str],
    *,
    clock: float | None,
    latency: int,
    bandwidth: float,
    rtl: bool,
    json: bool,
    progress: Callable[[str], None],
) -> None:
    """Print the clocks of GEMMs on a core, all layouts of each, and how long the model took to tell them.

    Parameters
    ----------
    arguments
        Nothing, or a TOML file of ArrayConfig's parameters, and with it M, K and N.
    clock
        Of the core, in MHz: for times and rates.
    latency, bandwidth
        Of the memory, as `MemoryTiming` has them.
    rtl
        Ask the Verilated core as well.
    json
        Print as JSON.
    progress
        Called with a line of text before long work.
    """
    from halfulp.hw.config import ArrayConfig
    from halfulp.hw.config_file import load_config
    from halfulp.sim.cycle_count import count_cycles, dense_gemm
    from halfulp.sim.cycle_model import forget, predict, roofline, walk_gemm
    from halfulp.sim.memory_timing import MemoryTiming
    from halfulp.sim.rtl import RtlCore

    if len(arguments) not in (0, 1, 4):
        raise ValueError(f"bench model takes nothing, CONFIG, or CONFIG M K N, not {' '.join(arguments)!r}")
    if clock is not None and not clock > 0:
        raise ValueError(f"the clock must be above 0 MHz, not {clock!r}")
    config = load_config(arguments[0]) if arguments else ArrayConfig(rows=16, columns=16)
    gemms = {_sizes(arguments[1:]): None} if len(arguments) == 4 else GEMMS | dict.fromkeys(UNEVEN)
    memory = MemoryTiming(read_latency=latency, write_latency=latency, bandwidth=bandwidth)
    size = config.out_formats[0].container_bytes
    predict(dense_gemm(config, 1, 2, 1, across_k=(False, False), out_bytes=size, base=BASE)[0], out_bytes=size)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        core: RtlCore | None = None
        if rtl:
            progress(f"building {config.name}")
            # As much memory as the core's addresses reach, of what it has otherwise.
            reach = 1 << config.address_bits
            base = BASE if reach > BASE else 0
            core = stack.enter_context(
                RtlCore(
                    config,
                    memory_bytes=min(1 << 30, reach - base),
                    base=base,
                    read_latency=latency,
                    write_latency=latency,
                    bandwidth=bandwidth,
                )
            )
        for ((m, k, n), target), across_k in itertools.product(gemms.items(), LAYOUTS):
            progress(f"{m} × {k} × {n}")
            plan, c_address, nbytes = dense_gemm(config, m, k, n, across_k=across_k, out_bytes=size, base=BASE)
            forget()
            start = time.perf_counter()
            model = predict(plan, out_bytes=size, c_address=c_address, memory=memory)
            first = time.perf_counter() - start
            again = min(timeit.repeat(partial(walk_gemm, plan, memory, size, c_address, n * size), number=1, repeat=3))
            counted = None
            if core is not None:
                buffer = core.allocate(nbytes)
                plan, c_address, _ = dense_gemm(config, m, k, n, across_k=across_k, out_bytes=size, base=buffer.address)
                counted = count_cycles(core, plan, c_address=c_address, c_stride=n * size)
                buffer.free()
            most = roofline(plan, out_bytes=size, bandwidth=bandwidth)
            rows.append(
                {
                    "m_k_n": [m, k, n],
                    "a_across_k": across_k[0],
                    "b_across_k": across_k[1],
                    "roofline_macs_per_cycle": most,
                    "macs_per_cycle": model.macs_per_cycle,
                    "of_array": model.utilisation,
                    "of_roofline": model.macs_per_cycle / most,
                    "target": target if not arguments and memory == MemoryTiming() else None,
                    "cycles": model.cycles,
                    "counted_cycles": counted,
                    "read_bytes": model.read_bytes,
                    "written_bytes": model.written_bytes,
                    "first_query_us": first * 1e6,
                    "next_query_us": again * 1e6,
                    "seconds": model.seconds(clock * 1e6) if clock else None,
                    "mac_per_s": model.macs_per_second(clock * 1e6) if clock else None,
                }
            )
    if json:
        print_json(rows)
    else:
        _print(rows, f"{config.name}, {config.rows} × {config.columns}, results in {config.out_formats[0]}")


def _sizes(arguments: Sequence[str]) -> tuple[int, int, int]:
    sizes: list[int] = []
    for name, text in zip("MKN", arguments, strict=True):
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, not {text!r}")
        sizes.append(int(text))
    return sizes[0], sizes[1], sizes[2]


def _print(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print rows as a table, without the columns that none of them fills."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "M×K×N": lambda row: "×".join(map(str, row["m_k_n"])),
        "A across K": lambda row: "yes" if row["a_across_k"] else "no",
        "B across K": lambda row: "yes" if row["b_across_k"] else "no",
        "roofline, MACs a cycle": lambda row: f"{row['roofline_macs_per_cycle']:.1f}",
        "model": lambda row: f"{row['macs_per_cycle']:.1f}",
        "of array": lambda row: f"{row['of_array']:.3f}",
        "of roofline": lambda row: f"{row['of_roofline']:.3f}",
        "target": lambda row: f"{row['target']:.2f}" if row["target"] else "",
        "cycles": lambda row: str(row["cycles"]),
        "counted": lambda row: str(row["counted_cycles"] or ""),
        "KiB read": lambda row: f"{row['read_bytes'] / 1024:.1f}",
        "KiB written": lambda row: f"{row['written_bytes'] / 1024:.1f}",
        "asked first, µs": lambda row: f"{row['first_query_us']:.0f}",
        "again": lambda row: f"{row['next_query_us']:.0f}",
        "µs": lambda row: f"{row['seconds'] * 1e6:.1f}" if row["seconds"] else "",
        "G MAC/s": lambda row: f"{row['mac_per_s'] / 1e9:.3f}" if row["mac_per_s"] else "",
    }
    cells = {name: [show(row) for row in rows] for name, show in columns.items()}
    shown = [name for name, texts in cells.items() if any(texts)]
    print_table(
        title,
        shown,
        [list(line) for line in zip(*(cells[name] for name in shown), strict=True)],
        right=range(3, len(shown)),
    )
