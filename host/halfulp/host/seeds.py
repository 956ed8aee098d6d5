"""One 64-bit seed a use of random bits, from the run's seed and the place of use. No torch here."""

from __future__ import annotations

import hashlib

from halfulp.numerics.random_bits import check_seed

__all__ = ["derive_seed", "gemm_seed"]


def derive_seed(seed: int, *path: int | str) -> int:
    """A 64-bit seed for one purpose, named by a path of integers (64 bits, signed or not) and strings.

    It is the first 8 bytes, little-endian, of BLAKE2b (RFC 7693, ``digest_size`` 8) over: the run's seed as 8 bytes,
    little-endian; then each part of the path, an integer as ``i`` and its 8 bytes, little-endian, modulo 2**64, a
    string as ``s``, its length in bytes as 8 bytes, little-endian, and its UTF-8 bytes. So no two paths give one
    input, and a purpose's seed depends on nothing that happened before.

    >>> derive_seed(1, "shuffle", 0) == derive_seed(1, "shuffle", 0) != derive_seed(1, "shuffle", 1)
    True
    """
    digest = hashlib.blake2b(check_seed(seed).to_bytes(8, "little"), digest_size=8)
    for part in path:
        if isinstance(part, str):
            text = part.encode()
            digest.update(b"s" + len(text).to_bytes(8, "little") + text)
        else:
            digest.update(b"i" + (part % (1 << 64)).to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")


def gemm_seed(seed: int, *, layer: str, role: str, step: int, call: int) -> int:
    """The seed of one GEMM call or one quantisation: `derive_seed` of ("gemm", layer, role, step, call).

    Parameters
    ----------
    seed
        The run's seed.
    layer
        The layer's name in its network.
    role
        One of `GEMM_ROLES`, or for a quantiser one of `TENSOR_ROLES`.
    step
        The training step.
    call
        How many times the layer has run in this step before.
    """
    return derive_seed(seed, "gemm", layer, role, step, call)
