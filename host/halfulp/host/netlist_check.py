"""A board's netlist against the golden model: what synthesis has made of a core runs GEMMs, through its serial pins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from halfulp.boards.board import Board
from halfulp.host.board_check import CheckFailedError, compare_gemm, core_specs
from halfulp.host.serial_sim_device import SerialSimDevice
from halfulp.hw.config import ArrayConfig
from halfulp.numerics.block_gemm import AnyGemmSpec

__all__ = ["NetlistCheck", "NetlistGemm", "check_netlist"]

LARGEST_K = 20
"""A byte costs some hundred clocks of a simulation of single cells."""

TIMEOUT_S, REPLY_TIMEOUT_S = 900.0, 30.0
"""For one GEMM, and for an answer: some ten thousand clocks, which take seconds, or a minute on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class NetlistGemm:
    """How one GEMM ended.

    Attributes
    ----------
    name
        Its shape, formats and rounding.
    message
        What was wrong; empty where it equals the golden model.
    seconds
        That it took.
    """

    name: str
    message: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NetlistCheck:
    """A netlist and what it computed.

    Attributes
    ----------
    cells
        How many there are of each kind.
    gemms
        In the order in which they were run.
    """

    cells: dict[str, int]
    gemms: tuple[NetlistGemm, ...]

    @property
    def passed(self) -> bool:
        """Whether all equal the golden model."""
        return not any(gemm.message for gemm in self.gemms)


def check_netlist(
    board: Board,
    config: ArrayConfig,
    *,
    tests: int = 3,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
) -> NetlistCheck:
    """Synthesise a core for a board and run random GEMMs on its netlist; synthesis and simulation are cached.

    It is the netlist of `halfulp.boards.open_build.build_open`, all that is between the board's pins: core, memory,
    serial link, reset; behind its two serial pins is the host's `SerialDevice`, as behind a real board's.

    Parameters
    ----------
    board, config
        What is built, and for which board; at its usual clock and rate.
    tests
        Random GEMMs, of more than one tile; at least 1.
    seed
        Of all that is random.
    progress
        Told each stage as it begins.

    Raises
    ------
    ValueError
        Where `tests` is not positive, or there are no models of the part's cells.
    halfulp.boards.programs.ProgramError
        Where the core does not fit the part, or Yosys is missing, fails or takes too long.
    halfulp.sim.tools.BuildError
        Where the simulation cannot be compiled.
    """
    from halfulp.boards.netlist import board_verilog, cell_counts, cell_models
    from halfulp.boards.open_build import board_netlist, serial_part

    if tests < 1:
        raise ValueError(f"tests must be at least 1, not {tests}")
    serial_part(board)
    cell_models(board.flow)
    made = board_netlist(board, config, progress=progress)
    progress("reading the netlist")
    verilog = board_verilog(made.synthesis.netlist, board=board)
    progress("compiling the netlist")
    rng = np.random.default_rng(seed)
    specs = core_specs(config)
    order = rng.permutation(len(specs))
    gemms = []
    bit = round(made.frequency / made.baud)
    device = SerialSimDevice(
        f"netlist of {board.name}",
        config,
        timeout_s=TIMEOUT_S,
        reply_timeout_s=REPLY_TIMEOUT_S,
        netlist=verilog,
        clocks_a_bit=bit,
    )
    with device:
        device.prepare(specs[0])
        for number in range(tests):
            spec = specs[order[number % len(specs)]]
            m, n = (int(rng.integers(size, 2 * size + 2)) for size in (config.rows, config.columns))
            k = int(rng.integers(1, min(LARGEST_K, config.max_k) + 1))
            name = f"{m} × {n} × {k}, {spec.a} × {spec.b} → {spec.out}, {spec.rounding}"
            progress(f"running {name}")
            gemms.append(_run(device, name, spec, (m, n, k), rng))
    return NetlistCheck(cells=cell_counts(made.synthesis.netlist), gemms=tuple(gemms))


def _run(
    device: SerialSimDevice, name: str, spec: AnyGemmSpec, shape: tuple[int, int, int], rng: np.random.Generator
) -> NetlistGemm:
    start = time.perf_counter()
    across_a, across_b = (bool(x) for x in rng.integers(0, 2, 2))
    message = ""
    try:
        compare_gemm(device, spec, shape, rng, across_a=across_a, across_b=across_b)
    except CheckFailedError as error:
        message = str(error)
    return NetlistGemm(name=name, message=message, seconds=time.perf_counter() - start)
