"""Measures the emulator's kernels, the golden model and installed peers, each as a ratio to the same machine's best.

GEMMs are held against torch's float32 matrix product of the same shape, quantising against a copy of the same float32
numbers, in the same rounds. Everything runs on one thread, and what counts is the process's processor time, a peer's
own threads included: other programs on the machine then change a figure little.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from halfulp.host.peers import MPTORCH, NEAREST, STOCHASTIC, PeerInput, installed_peers, quietly, what_went_wrong
from halfulp.numerics.block_formats import get_block_format
from halfulp.numerics.block_gemm import BlockGemmSpec
from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import Format, get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding
from halfulp.sim.block_quantise import quantise_blocks
from halfulp.sim.blocks import emulate_block_gemm
from halfulp.sim.emulator import emulate_gemm
from halfulp.sim.quantise import quantise
from halfulp.sim.vector_code import host_features

__all__ = ["NumericsBenchmark", "NumericsFigure", "PeerRatio", "load_average", "run_numerics_benchmark"]

Call = Callable[[], object]

SHAPES = ((256, 256, 256), (64, 784, 128))
"""M, K, N: a cube, and the first layer of the default network."""

GOLDEN_SHAPE = (32, 64, 32)
QUANTISED = (2048, 2048)
PEER_SHAPE = (64, 64, 64)
"""Of peers' GEMMs, which take long."""

SHORTEST_S = 0.01
"""A quick call is repeated until a timing takes at least this long."""

FULL_RANGE = "e5m2 × e5m2, exact, full range"
ROUNDED = {NEAREST: "e4m3 × e4m3, e6m5 nearest", STOCHASTIC: "e4m3 × e4m3, e6m5 stochastic:13"}
"""The GEMMs that the nearest peer can do as well: as peers call them, and as they are called here."""

NEAREST_PEER_TARGET = 20
"""How many times as fast as an optimised build of the nearest peer they are to be."""

GEMMS: dict[str, tuple[GemmSpec, float, float]] = {
    ROUNDED[STOCHASTIC]: (GemmSpec("e4m3", "e4m3", "float32", "e6m5:stochastic:13"), 0.30, 0.15),
    ROUNDED[NEAREST]: (GemmSpec("e4m3", "e4m3", "float32", "e6m5"), 0.15, 0.08),
    "e4m3 × e4m3, exact": (GemmSpec("e4m3", "e4m3", "float32"), 0.45, 0.45),
    "int8 × int8, exact": (GemmSpec("int8", "int8", "int32"), 3.7, 3.7),
    "e2m1 × e2m1, exact": (GemmSpec("e2m1", "e2m1", "float32"), 3.7, 3.7),
    "e2m3 × e2m3, exact": (GemmSpec("e2m3", "e2m3", "float32"), 3.7, 3.7),
    "int4 × int4, exact": (GemmSpec("int4", "int4", "int32"), 3.7, 3.7),
    "e5m2 × e5m2, exact, of one size": (GemmSpec("e5m2", "e5m2", "float32"), 0.47, 0.47),
    FULL_RANGE: (GemmSpec("e5m2", "e5m2", "float32"), 0.12, 0.12),
}
"""What is measured on the emulator, and the ratio that it is to reach with AVX-512 and with AVX2."""

BLOCK_FORMATS = ("mxfp8_e4m3", "mxfp4_e2m1", "nvfp4")
"""Of both operands of a GEMM with float32 sums over blocks, and of what numbers are quantised to."""

BLOCK_TARGETS = {"mxfp8_e4m3": 0.8, "mxfp4_e2m1": 0.8}
"""Of quantising to blocks, where there is one."""

QUANTISED_MODES = ("nearest_even", "stochastic:8")


@dataclass
class NumericsFigure:
    """One measurement.

    by: ``halfulp`` or a peer with its version; what: the work; size: M, K, N of a GEMM or the shape of what is
    quantised; reference: what the ratio is to, "" for a reference itself; target: of the ratio, or of the rate where
    there is no reference; rates: MACs or elements a second, a round each; ratios: to the reference of the same round.
    """

    by: str
    what: str
    size: tuple[int, ...]
    reference: str = ""
    target: float | None = None
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def work(self) -> int:
        """MACs, or elements, of one call."""
        return int(np.prod(self.size))

    @property
    def rate(self) -> float:
        """Of the median round."""
        return statistics.median(self.rates)

    @property
    def ratio(self) -> float | None:
        """Of the median round; None where there is no reference."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> float:
        """How far apart the best and the worst round are, as a share of the median rate."""
        return (max(self.rates) - min(self.rates)) / self.rate

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None where there is none."""
        if self.target is None:
            return None
        return (self.rate if self.ratio is None else self.ratio) >= self.target


@dataclass(frozen=True, kw_only=True)
class PeerRatio:
    """A GEMM's rate over that of the nearest peer, MPTorch.

    what, size: as in `NumericsFigure`; peer: its name and version, or where its figure is quoted from; rate, peer_rate:
    MACs a second; is_measured: whether the peer ran here, as it was built; else its figure is the quoted one of an
    optimised build on another machine; target: what the ratio is to be.
    """

    what: str
    size: tuple[int, ...]
    rate: float
    peer: str
    peer_rate: float
    is_measured: bool
    target: float = NEAREST_PEER_TARGET

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.rate / self.peer_rate

    @property
    def reached(self) -> bool:
        """Whether that is as much as it is to be."""
        return self.ratio >= self.target


class NumericsBenchmark(NamedTuple):
    """What was measured.

    figures: the references, this project's, then peers'; over_nearest_peer: the ratios to MPTorch; broken: by peer,
    what is wrong with those that are installed and do not work.
    """

    figures: list[NumericsFigure]
    over_nearest_peer: list[PeerRatio]
    broken: dict[str, str]


@dataclass
class _Timed:
    """A figure and what it is of. repeats: calls in a timing, found in the first."""

    figure: NumericsFigure
    call: Call
    is_peer: bool = False
    repeats: int = 0

    def rate(self) -> float:
        """MACs or elements a second of one timing."""
        if not self.repeats:
            self.repeats = max(1, round(SHORTEST_S / max(_seconds(self.call, 1), 1e-7)))
        return self.figure.work / _seconds(self.call, self.repeats)


def load_average() -> float:
    """How many processes wanted a processor, on average over the last minute."""
    return os.getloadavg()[0]


def run_numerics_benchmark(
    *, rounds: int = 5, progress: Callable[[str], None] | None = None, shapes: Sequence[tuple[int, int, int]] = SHAPES
) -> NumericsBenchmark:
    """Measure all of it, interleaved: in each round every figure once, the references first.

    Parameters
    ----------
    rounds
        How often each is measured.
    progress
        Called with a line of text before long work.
    shapes
        M, K, N of the emulator's GEMMs.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds!r}")
    tell = progress or (lambda _: None)
    random = np.random.default_rng(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    broken: dict[str, str] = {}
    try:
        plan: list[_Timed] = []
        for figure, call in _plan(random, shapes):
            tell(f"{figure.by}: {figure.what}")
            call()  # what is made at the first call does not count
            plan.append(_Timed(figure, call))
        plan.extend(_peers(random, broken, tell))
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            references: dict[tuple[str, tuple[int, ...]], float] = {}
            for timed in tuple(plan):
                figure = timed.figure
                try:
                    with quietly() if timed.is_peer else nullcontext():
                        rate = timed.rate()
                except Exception as error:
                    if not timed.is_peer:
                        raise
                    broken[figure.by] = what_went_wrong(error)
                    plan.remove(timed)
                    continue
                figure.rates.append(rate)
                if figure.reference:
                    figure.ratios.append(rate / references[figure.reference, figure.size])
                else:
                    references[figure.what, figure.size] = rate
        figures = [timed.figure for timed in plan]
        return NumericsBenchmark(figures, list(_over_nearest_peer(figures)), broken)
    finally:
        torch.set_num_threads(before)


def _seconds(call: Call, repeats: int) -> float:
    """Processor time of one call, all threads together."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


MATMUL, COPY = "torch float32 matmul", "copy of float32"


def _plan(random: np.random.Generator, shapes: Sequence[tuple[int, int, int]]) -> Iterator[tuple[NumericsFigure, Call]]:
    torch_version = f"torch {torch.__version__}"
    for m, k, n in dict.fromkeys((*shapes, PEER_SHAPE)):
        a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
        yield (
            NumericsFigure(torch_version, MATMUL, (m, k, n)),
            lambda a=a, b=b, out=out: torch.matmul(a, b, out=out),
        )
    numbers = random.standard_normal(QUANTISED, np.float32)
    copied = np.empty_like(numbers)
    yield NumericsFigure(f"NumPy {np.__version__}", COPY, QUANTISED), lambda: np.copyto(copied, numbers)
    wide = "avx512f" in host_features()
    for what, (spec, with_avx512, with_avx2) in GEMMS.items():
        for shape in shapes:
            a, b = (_codes(what, fmt, size, random) for fmt, size in ((spec.a, shape[:2]), (spec.b, shape[1:])))
            yield (
                NumericsFigure("halfulp", what, shape, MATMUL, with_avx512 if wide else with_avx2),
                lambda a=a, b=b, spec=spec: emulate_gemm(a, b, spec, seed=1),
            )
    for name in BLOCK_FORMATS:
        for shape in shapes:
            yield (
                NumericsFigure("halfulp", f"{name} × {name}, e8m23 a block", shape, MATMUL),
                _block_gemm(name, shape, random),
            )
    for rounding in QUANTISED_MODES:
        yield (
            NumericsFigure("halfulp", f"float32 to e4m3, {rounding}", QUANTISED, COPY, 0.8),
            lambda rounding=rounding: quantise(numbers, "e4m3", rounding, seed=1),
        )
        for name in BLOCK_FORMATS:
            for axis, along in ((1, "rows"), (0, "columns")):
                what = f"float32 to {name} along {along}, {rounding}"
                yield (
                    NumericsFigure("halfulp", what, QUANTISED, COPY, BLOCK_TARGETS.get(name)),
                    _to_blocks(numbers, name, rounding, axis),
                )
    spec = GemmSpec("e4m3", "e4m3", "float32", "e6m5:stochastic:13")
    a, b = (_codes("", fmt, size, random) for fmt, size in ((spec.a, GOLDEN_SHAPE[:2]), (spec.b, GOLDEN_SHAPE[1:])))
    yield (
        NumericsFigure("halfulp", "golden model, e6m5 stochastic:13", GOLDEN_SHAPE, target=1e6),
        lambda: golden_gemm(a, b, spec, seed=1),
    )


def _block_gemm(name: str, shape: tuple[int, int, int], random: np.random.Generator) -> Call:
    m, k, n = shape
    fmt = get_block_format(name)
    spec = BlockGemmSpec(fmt, fmt)
    a, b = fmt.quantise(random.standard_normal((m, k))), fmt.quantise(random.standard_normal((k, n)), axis=0)
    return lambda: emulate_block_gemm(a, b, spec, seed=1)


def _to_blocks(numbers: np.ndarray, name: str, rounding: str, axis: int) -> Call:
    fmt, mode = get_block_format(name), Rounding.parse(rounding)
    return lambda: quantise_blocks(numbers, fmt, mode, axis=axis, seed=1)


def _codes(what: str, fmt: Format, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    """Codes of normally distributed numbers, as training has them; integers fill their range."""
    if what == FULL_RANGE:
        codes = random.integers(0, 1 << fmt.bits, shape).astype(fmt.code_dtype)
        return np.where(np.isfinite(fmt.to_float64(codes)), codes, 0).astype(fmt.code_dtype)
    numbers = random.standard_normal(shape)
    if what.endswith("of one size"):
        numbers = np.copysign(1 + random.random(shape), numbers)
    return fmt.encode(from_float64((1.0 if fmt.has_nan else fmt.max_units / 3) * numbers)).codes


def _peers(random: np.random.Generator, broken: dict[str, str], tell: Callable[[str], None]) -> Iterator[_Timed]:
    """Peers' figures for the same work, of those that are installed."""
    m, k, n = PEER_SHAPE
    e4m3 = get_format("e4m3")
    a, b = (e4m3.to_float64(_codes("", e4m3, s, random)).astype(np.float32) for s in ((m, k), (k, n)))
    given = PeerInput(a=a, b=b, numbers=random.standard_normal(QUANTISED, np.float32))
    for work in installed_peers(given, broken=broken, tell=tell):
        size, reference = (PEER_SHAPE, MATMUL) if work.is_gemm else (QUANTISED, COPY)
        yield _Timed(NumericsFigure(work.by, work.what, size, reference), work.call, is_peer=True)


def _over_nearest_peer(figures: Sequence[NumericsFigure]) -> Iterator[PeerRatio]:
    for theirs, ours in ROUNDED.items():
        peers = [("MPTorch, quoted", MPTORCH[theirs], False)]
        peers += [(f.by, f.rate, True) for f in figures if f.by.startswith("mptorch") and f.what == theirs]
        for figure in figures:
            if (figure.by, figure.what) == ("halfulp", ours):
                for peer, rate, is_measured in peers:
                    yield PeerRatio(
                        what=ours,
                        size=figure.size,
                        rate=figure.rate,
                        peer=peer,
                        peer_rate=rate,
                        is_measured=is_measured,
                    )
