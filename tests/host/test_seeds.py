"""Seeds: fixed by their definition, different for different purposes."""

from __future__ import annotations

import hashlib

import pytest

from halfulp.host.recipe import GEMM_ROLES, TENSOR_ROLES
from halfulp.host.seeds import derive_seed, gemm_seed


def test_a_seed_is_the_documented_hash():
    text = (7).to_bytes(8, "little")
    for part in ("gemm", "fc1", "output"):
        text += b"s" + len(part).to_bytes(8, "little") + part.encode()
    text += b"i" + (3).to_bytes(8, "little") + b"i" + (0).to_bytes(8, "little")
    expected = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    assert gemm_seed(7, layer="fc1", role="output", step=3, call=0) == expected


def test_no_two_places_share_a_seed():
    seeds = {
        gemm_seed(seed, layer=layer, role=role, step=step, call=call)
        for seed in (0, 1)
        for layer in ("fc1", "fc2", "")
        for role in GEMM_ROLES + TENSOR_ROLES
        for step in (-1, 0, 1, 2**40)
        for call in (0, 1)
    }
    assert len(seeds) == 2 * 3 * 6 * 4 * 2
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")
    assert derive_seed(0, "1") != derive_seed(0, 1)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_run_seed_has_64_bits(seed: int):
    with pytest.raises(ValueError, match="seed must be 0 to"):
        derive_seed(seed, "init")
