"""FP12 chains on the whole core: rounded at each step, equal to the golden chain in all codes, with any tiling.

Interleaved and not, random, cancelling and swamping, through stalls of the memory.
"""

from __future__ import annotations

import numpy as np
import pytest

from halfulp.host.rtl_device import RtlDevice
from halfulp.numerics.gemm import GemmSpec, golden_gemm

from .small_cores import IN_TURN

NEAREST = IN_TURN.replace(rows=2, columns=2, interleave=1, accumulator="e6m5", a_formats=("e4m3",), b_formats=("e4m3",))
CHAINS = ("random", "cancelling", "swamping")


def codes(kind: str, rng: np.random.Generator, m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Finite codes of A [M, K] and B [K, N], of e4m3 or e5m2."""
    sign = (rng.integers(0, 2, (m, k)) << 7, rng.integers(0, 2, (k, n)) << 7)
    a, b = rng.integers(0, 0x78, (m, k)), rng.integers(0, 0x78, (k, n))
    if kind == "cancelling":
        # Each product of an even step comes back with the other sign, next to one that is a little different.
        a[:, 1::2], b[1::2] = a[:, : k - 1 : 2] ^ (rng.random((m, k // 2)) < 0.2), b[: k - 1 : 2]
        sign[0][:, 1::2], sign[1][1::2] = sign[0][:, : k - 1 : 2] ^ 0x80, sign[1][: k - 1 : 2]
    if kind == "swamping":
        # A large number, then many that are below half of its ulp.
        a, b = rng.integers(0x20, 0x30, (m, k)), rng.integers(0x20, 0x30, (k, n))
        a[:, 0], b[0] = 0x60, 0x60
    return (a | sign[0]).astype(np.uint8), (b | sign[1]).astype(np.uint8)


@pytest.fixture(scope="module", params=[IN_TURN, NEAREST], ids=["stochastic, 3 in turn", "nearest"])
def device(request: pytest.FixtureRequest) -> RtlDevice:
    return RtlDevice("a core with a float accumulator", request.param, stall=0.05)


@pytest.mark.parametrize("kind", CHAINS)
def test_chains_are_the_golden_ones(device: RtlDevice, kind: str, rng: np.random.Generator) -> None:
    config = device.config
    assert config is not None
    for m, k, n in ((1, 1, 1), (3, 2, 5), (7, 64, 5), (4, 1000, 3)):
        a, b = codes(kind, rng, m, k, n)
        for fmt in config.a_formats:
            spec = GemmSpec(fmt, config.b_formats[0], "float32", config.accumulator)
            seed = int(rng.integers(1 << 63))
            result, golden = device.gemm(a, b, spec, seed=seed), golden_gemm(a, b, spec, seed=seed)
            assert np.array_equal(result.codes, golden.codes), (m, k, n, fmt)
            assert result.overflow == golden.overflow


def test_many_short_tiles_wait_for_their_words(rng: np.random.Generator) -> None:
    """With K = 1 a tile takes less time than its random words: it waits, and they are still its own."""
    device = RtlDevice("a core with a float accumulator", IN_TURN)
    spec = GemmSpec("e5m2", "e5m2", "e4m3", IN_TURN.accumulator)
    a, b = codes("random", rng, 20, 2, 17)
    assert np.array_equal(device.gemm(a, b, spec, seed=5).codes, golden_gemm(a, b, spec, seed=5).codes)
