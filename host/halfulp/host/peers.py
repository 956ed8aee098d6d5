"""Other packages' kernels for the work that `numerics_benchmark` measures, where those packages are installed.

None of them is a dependency. One that is installed but does not work is told of, and keeps nothing else from being
measured. What the peers compute is not compared here: most of them round otherwise than the contract says.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from halfulp.hw.cache import cache_folder

__all__ = ["MPTORCH", "NEAREST", "STOCHASTIC", "PeerInput", "PeerWork", "installed_peers", "quietly", "what_went_wrong"]

Call = Callable[[], object]

NEAREST, STOCHASTIC = "e4m3 × e4m3, e6m5 nearest", "e4m3 × e4m3, e6m5 stochastic"
"""GEMMs with a rounding at each step. How many random bits a stochastic one draws is the peer's choice."""

MPTORCH = {NEAREST: 0.103e9, STOCHASTIC: 0.047e9}
"""MACs a second of MPTorch (github.com/mptorch/mptorch), the nearest peer, on 256×256×256, built with -O3,
-march=native and link-time optimisation: measured once on a core of an AMD Zen 4 server. As shipped: 0.021e9, 0.0095e9.
"""

BUILD_S = 600
"""Within this time a package has to be imported that compiles its kernels then."""


@dataclass(frozen=True, kw_only=True)
class PeerInput:
    """What peers are given.

    a, b: float32 [M, K] and [K, N], each a number that e4m3 has; numbers: float32 [rows, columns], to be quantised.
    """

    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]
    numbers: npt.NDArray[np.float32]


class PeerWork(NamedTuple):
    """by: the package and its version; what: the work; call: does it once; is_gemm: A·B, else the numbers quantised."""

    by: str
    what: str
    call: Call
    is_gemm: bool = False


Made = Iterator[tuple[str, Call]]


def installed_peers(given: PeerInput, *, broken: dict[str, str], tell: Callable[[str], None]) -> Iterator[PeerWork]:
    """Work of all peers that are installed, each call made once.

    Parameters
    ----------
    given
        The operands.
    broken
        Takes, by package, one line of what is wrong with those that are installed but do not work.
    tell
        Called with a line of text before what may take long.
    """
    for peer in PEERS:
        by = peer.package
        try:
            if not _is_installed(peer.module):
                continue
            by = f"{peer.package} {_version(peer)}".strip()
            with quietly(), _build_folder(peer.package):
                if peer.is_built_on_import:
                    tell(f"{by}: importing; the first time it is compiled")
                    _import_elsewhere(peer.module)
                tell(by)
                found = list(_work(by, peer, given))
        except Exception as error:  # whatever somebody else's package raises
            broken[by] = what_went_wrong(error)
        else:
            yield from found


@contextmanager
def quietly() -> Iterator[None]:
    """Keep warnings, and what is logged up to them, to themselves: they are the peers' affair."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def what_went_wrong(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _build_folder(package: str) -> Iterator[None]:
    """Have torch build a package's kernels in a folder of its own: MPTorch and QPyTorch give theirs the same name."""
    name = "TORCH_EXTENSIONS_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(Path(before or cache_folder() / "peers") / package)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _work(by: str, peer: Peer, given: PeerInput) -> Iterator[PeerWork]:
    module = importlib.import_module(peer.module)
    for make, is_gemm in ((peer.gemms, True), (peer.quantising, False)):
        for what, call in make(module, given) if make else ():
            call()
            yield PeerWork(by, what, call, is_gemm)


def _is_installed(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.modules or importlib.util.find_spec(top) is not None


def _version(peer: Peer) -> str:
    try:
        return version(peer.package)
    except PackageNotFoundError:  # imported from its sources
        return ""


def _import_elsewhere(module: str) -> None:
    """Import in a process of its own: a library built for another torch may end the process, a compiler may hang."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", f"import {module}"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"importing {module} takes more than {BUILD_S} s") from None
    if done.returncode < 0:
        raise ImportError(f"importing {module} ended the process by signal {-done.returncode}")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line and not line[0].isspace()]
        raise ImportError(f"importing {module} failed: {lines[-1] if lines else f'exit status {done.returncode}'}")


def _torch(module: Any, given: PeerInput) -> Made:
    tensor = torch.from_numpy(given.numbers)
    yield "float32 to e4m3, nearest", lambda: tensor.to(torch.float8_e4m3fn)


def _ml_dtypes(module: Any, given: PeerInput) -> Made:
    yield "float32 to e4m3, nearest", lambda: given.numbers.astype(module.float8_e4m3fn)


def _gfloat(module: Any, given: PeerInput) -> Made:
    formats = importlib.import_module("gfloat.formats")
    few = given.numbers[:64]
    times = len(given.numbers) // len(few)  # its arrays of float64 are large
    yield (
        "float32 to e4m3, nearest (64 rows)",
        lambda: [module.round_ndarray(formats.format_info_ocp_e4m3, few) for _ in range(times)],
    )


def _torchao(module: Any, given: PeerInput) -> Made:
    mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
    nvfp4 = importlib.import_module("torchao.prototype.mx_formats.nvfp4_tensor")
    casts = importlib.import_module("torchao.float8.float8_utils")
    tensor = torch.from_numpy(given.numbers)

    def to_nvfp4() -> object:
        return nvfp4.nvfp4_quantize(tensor, 16, nvfp4.per_tensor_amax_to_scale(tensor.abs().max()))

    yield "float32 to e4m3, nearest", lambda: casts.to_fp8_saturated(tensor, torch.float8_e4m3fn)
    yield "float32 to mxfp8_e4m3 along rows, nearest", lambda: mx.to_mx(tensor, torch.float8_e4m3fn, 32)
    yield "float32 to mxfp4_e2m1 along rows, nearest", lambda: mx.to_mx(tensor, torch.float4_e2m1fn_x2, 32)
    yield "float32 to nvfp4 along rows, nearest", to_nvfp4


def _microxcaling_specs(module: Any) -> Any:
    """Its defaults but for the block of MX and for ties, which it would round away from zero."""
    return module.finalize_mx_specs(
        {
            "scale_bits": 8,
            "a_elem_format": "fp8_e4m3",
            "w_elem_format": "fp8_e4m3",
            "block_size": 32,
            "round": "even",
            "custom_cuda": False,
        }
    )


def _microxcaling_gemms(module: Any, given: PeerInput) -> Made:
    specs = _microxcaling_specs(module)
    a, b = torch.from_numpy(given.a), torch.from_numpy(given.b)
    yield "mxfp8_e4m3 × mxfp8_e4m3, from float32", lambda: module.matmul(a, b, mx_specs=specs)


def _microxcaling(module: Any, given: PeerInput) -> Made:
    ops = importlib.import_module("mx.mx_ops")
    specs = _microxcaling_specs(module)
    tensor = torch.from_numpy(given.numbers)
    for name, element in (("mxfp8_e4m3", "fp8_e4m3"), ("mxfp4_e2m1", "fp4_e2m1")):
        yield (
            f"float32 to {name} along rows, nearest",
            lambda element=element: ops.quantize_mx_op(
                tensor, specs, elem_format=element, block_size=32, axes=[-1], round="even"
            ),
        )


def _qtorch(module: Any, given: PeerInput) -> Made:
    tensor = torch.from_numpy(given.numbers)
    for rounding in ("nearest", "stochastic"):
        yield (
            f"float32 to e4m3, {rounding}",
            lambda rounding=rounding: module.float_quantize(tensor, exp=4, man=3, rounding=rounding),
        )


def _mptorch_gemms(module: Any, given: PeerInput) -> Made:
    a, b = torch.from_numpy(given.a), torch.from_numpy(given.b)
    for what, rounding in ((NEAREST, "nearest"), (STOCHASTIC, "stochastic")):
        yield (
            what,
            lambda rounding=rounding: module.float_mm(a, b, man_add=5, exp_add=6, rounding=rounding, fma=True),
        )


def _pychop(module: Any, given: PeerInput) -> Made:
    tensor = torch.from_numpy(given.numbers)
    for rounding, number in (("nearest", 1), ("stochastic", 5)):
        chop = module.Chop(exp_bits=4, sig_bits=3, rmode=number)
        yield f"float32 to e4m3, {rounding}", lambda chop=chop: chop(tensor)


def _apytypes(module: Any, given: PeerInput) -> Made:
    if hasattr(module, "reset_thread_pool"):  # since 0.5
        module.reset_thread_pool(1)
    a, b = (module.APyFloatArray.from_float(x, 4, 3) for x in (given.a, given.b))

    def product(mode: Any) -> object:
        with module.APyFloatAccumulatorContext(exp_bits=6, man_bits=5, quantization=mode):
            return a @ b

    for what, mode in ((NEAREST, "TIES_EVEN"), (STOCHASTIC, "STOCH_WEIGHTED")):
        yield what, lambda mode=mode: product(getattr(module.QuantizationMode, mode))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A package. gemms, quantising: what it can be asked for, of its module; None: nothing of the kind.

    is_built_on_import: compiles its kernels against the torch that is installed, when it is imported first.
    """

    package: str
    module: str
    gemms: Callable[[Any, PeerInput], Made] | None = None
    quantising: Callable[[Any, PeerInput], Made] | None = None
    is_built_on_import: bool = False


PEERS = (
    Peer(package="torch", module="torch", quantising=_torch),
    Peer(package="ml_dtypes", module="ml_dtypes", quantising=_ml_dtypes),
    Peer(package="gfloat", module="gfloat", quantising=_gfloat),
    Peer(package="torchao", module="torchao", quantising=_torchao),
    Peer(package="microxcaling", module="mx", gemms=_microxcaling_gemms, quantising=_microxcaling),
    Peer(package="pychop", module="pychop", quantising=_pychop),
    Peer(package="qtorch", module="qtorch.quant", quantising=_qtorch, is_built_on_import=True),
    Peer(
        package="mptorch",
        module="mptorch.quant",
        gemms=_mptorch_gemms,
        quantising=_qtorch,  # it has kept QPyTorch's function
        is_built_on_import=True,
    ),
    Peer(package="apytypes", module="apytypes", gemms=_apytypes),
)
