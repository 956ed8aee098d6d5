"""Measures devices against torch's float32 matrix product, in the same run: absolute figures drift, ratios less."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import torch

from halfulp.host.device import Codes, Device, open_device
from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import Format
from halfulp.numerics.gemm import GemmSpec

__all__ = ["SUITES", "Figure", "run_benchmark"]

LAYER = (64, 784, 128)
"""M, K, N of the first layer of the default network, forward."""

CUBE = (256, 256, 256)

SIMULATED = ("rtl:8x8", *(("pynq-sim:8x8",) if find_spec("pynq") is not None else ()))
"""The same core in process, and on the virtual board where the package for it is installed."""

SUITES = {
    "rtl": tuple(
        (device, spec, LAYER)
        for spec in (GemmSpec("e4m3", "e4m3", "float32"), GemmSpec("int8", "int8", "int32"))
        for device in SIMULATED
    ),
    "emulator": tuple(
        ("emulator", spec, shape)
        for spec in (
            GemmSpec("e4m3", "e4m3", "float32"),
            GemmSpec("e5m2", "e4m3", "float32"),
            GemmSpec("e5m2", "e5m2", "float32"),
            GemmSpec("e4m3", "e4m3", "e4m3", rounding="stochastic:8"),
            GemmSpec("bfloat16", "bfloat16", "float32"),
            GemmSpec("int8", "int8", "int32"),
            GemmSpec("int4", "int4", "int32"),
        )
        for shape in (LAYER, CUBE)
    ),
}
"""What is measured: device, GEMM, and its M, K, N."""

SHORTEST_S = 0.02
"""A quick GEMM is repeated until a timing takes at least this long."""


@dataclass
class Figure:
    """One measurement.

    device: ``torch`` for the reference; spec: None for the reference; shape: M, K, N; rates: MAC/s, a round each;
    ratios: of the reference of the same shape in the same round; cycles: of the core's clock a GEMM, 0 where there is
    none.
    """

    device: str
    spec: GemmSpec | None
    shape: tuple[int, int, int]
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cycles: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one GEMM."""
        return int(np.prod(self.shape))

    @property
    def best(self) -> float:
        """MAC/s of the best round."""
        return max(self.rates)

    @property
    def median(self) -> float:
        """MAC/s of the median round."""
        return statistics.median(self.rates)

    @property
    def ratio(self) -> float:
        """Median over the rounds of the ratio to the reference."""
        return statistics.median(self.ratios)

    @property
    def clock(self) -> float:
        """Simulated clock cycles a second, of the median round."""
        return self.median * self.cycles / self.macs


def run_benchmark(
    suites: Sequence[str], *, rounds: int = 5, threads: int = 1, progress: Callable[[str], None] | None = None
) -> list[Figure]:
    """Measure the GEMMs of these suites, whole `Device.gemm` calls, interleaved, the references first in each round.

    Parameters
    ----------
    suites
        Names in `SUITES`.
    rounds
        How often each is measured.
    threads
        Of torch. NumPy's are decided when it is loaded, by OPENBLAS_NUM_THREADS and the like.
    progress
        Called with a line of text before long work.

    Returns
    -------
    list of Figure
        One for each shape's reference, then one for each GEMM.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds!r}")
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, not {threads!r}")
    tell = progress or (lambda _: None)
    random = np.random.default_rng(0)
    plan = [entry for suite in suites for entry in SUITES[suite]]
    shapes = list(dict.fromkeys(shape for _, _, shape in plan))
    opened: dict[str, Device] = {}
    try:
        for name in dict.fromkeys(name for name, _, _ in plan):
            requirements = [(spec, shape[1]) for device, spec, shape in plan if device == name]
            tell(f"opening {name}")
            opened[name] = open_device(name, requirements=requirements, progress=progress)
        with _torch_threads(threads):
            figures: list[Figure] = []
            calls: list[_Call] = []
            for shape in shapes:
                figures.append(Figure("torch", None, shape))
                calls.append(_Call(_reference(shape, random)))
            for name, spec, shape in plan:
                figures.append(Figure(name, spec, shape))
                tell(f"{name}: {spec}")
                device = opened[name]
                calls.append(_Call(_device_gemm(device, spec, shape, random)))
                figures[-1].cycles = device.counters.cycles if device.counters else 0
            for number in range(rounds):
                tell(f"round {number + 1} of {rounds}")
                _measure(figures, calls)
        return figures
    finally:
        for device in opened.values():
            device.close()


def _measure(figures: Sequence[Figure], calls: Sequence[_Call]) -> None:
    """One round."""
    reference: dict[tuple[int, int, int], float] = {}
    for figure, call in zip(figures, calls, strict=True):
        rate = figure.macs / call.seconds()
        if figure.spec is None:
            reference[figure.shape] = rate
        figure.rates.append(rate)
        figure.ratios.append(rate / reference[figure.shape])


class _Call:
    """Something to be timed; called once at first, so that what is made at the first call does not count."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        call()
        self._repeats = 1
        self._repeats = max(1, round(SHORTEST_S / self.seconds()))

    def seconds(self) -> float:
        """Time of one call."""
        start = time.perf_counter()
        for _ in range(self._repeats):
            self._call()
        return (time.perf_counter() - start) / self._repeats


def _reference(shape: tuple[int, int, int], random: np.random.Generator) -> Callable[[], object]:
    m, k, n = shape
    a = torch.from_numpy(random.standard_normal((m, k), np.float32))
    b = torch.from_numpy(random.standard_normal((k, n), np.float32))
    out = torch.empty(m, n)
    return lambda: torch.matmul(a, b, out=out)


def _device_gemm(
    device: Device, spec: GemmSpec, shape: tuple[int, int, int], random: np.random.Generator
) -> Callable[[], object]:
    m, k, n = shape
    a, b = _codes(spec.a, (m, k), random), _codes(spec.b, (k, n), random)
    return lambda: device.gemm(a, b, spec, seed=1)


def _codes(fmt: Format, shape: tuple[int, int], random: np.random.Generator) -> Codes:
    """Codes of normally distributed numbers, as training has them; integers fill their range."""
    scale = 1.0 if fmt.has_nan else fmt.max_units / 3
    return fmt.encode(from_float64(scale * random.standard_normal(shape))).codes


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
