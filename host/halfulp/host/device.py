"""`Device`: runs GEMMs on codes, wherever they are computed; and `open_device`, which finds one by its name."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from halfulp.host.driver import Counters
from halfulp.host.verification import ResultVerifier
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.accumulators import ExactAccumulator
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, BlockGemmSpec, check_block_operands, golden_block_gemm
from halfulp.numerics.formats import CodeArray, Format
from halfulp.numerics.gemm import GemmResult, GemmSpec, check_operands, golden_gemm
from halfulp.numerics.names import Registry, unknown_name
from halfulp.numerics.random_bits import check_seed

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEVICES",
    "Codes",
    "Device",
    "DeviceKind",
    "DeviceStats",
    "EmulatorDevice",
    "GoldenDevice",
    "decode_values",
    "open_device",
]

Codes: TypeAlias = "npt.ArrayLike | torch.Tensor"
"""A matrix of codes: unsigned integers, as a NumPy array (or what becomes one) or as a torch tensor on the CPU."""


@dataclass
class DeviceStats:
    """What a device has done since it was opened.

    gemms: calls; macs: multiply-accumulates; cycles, array_busy_cycles: of the core's clock, 0 where there is none;
    seconds: wall time in `gemm`.
    """

    gemms: int = 0
    macs: int = 0
    cycles: int = 0
    array_busy_cycles: int = 0
    seconds: float = 0.0


class Device(ABC):
    """Something that runs GEMMs. A context manager, which closes it.

    Parameters
    ----------
    name
        How it was asked for, for messages.
    verify
        Share of the output tiles, 0 to 1, that is computed once more by the golden model; where any is, checksums of
        all rows and columns cover the rest, as far as the output's rounding allows it: see `ResultVerifier`.

    Attributes
    ----------
    config
        The `ArrayConfig` of the core; None where there is no core, or one is chosen for each GEMM and none was yet.
    counters
        Clock cycles of the last GEMM; None where there is no clock.
    stats
        `DeviceStats`.
    tensor_device
        Type of the torch device from which it takes tensors besides those on the CPU: ``cuda``, or just ``cpu``.
    """

    def __init__(self, name: str, *, verify: float = 0.0) -> None:
        self.name = name
        self.tensor_device = "cpu"
        self.config: ArrayConfig | None = None
        self.counters: Counters | None = None
        self.stats = DeviceStats()
        self._verifier = ResultVerifier(verify) if verify else None
        # Autograd runs backward functions in threads of its own.
        self._lock = threading.Lock()
        self._is_closed = False

    @abstractmethod
    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """Raise `UnsupportedSpecError` where this device cannot run `spec` (with that K); nothing is transferred."""

    def prepare(self, *requirements: AnyGemmSpec | tuple[AnyGemmSpec, int | None]) -> None:  # noqa: B027  (most need nothing)
        """Build what these GEMMs, each with its K where that is known, need: now rather than at the first of them."""

    @abstractmethod
    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
        """Run a GEMM whose operands and spec have been checked."""

    def _run_blocks(self, a: Blocks, b: Blocks, spec: BlockGemmSpec, seed: int) -> GemmResult:
        """Run a GEMM of block-scaled operands that have been checked, where `check` lets their specs through."""
        raise UnsupportedSpecError(f"device {self.name} runs no block-scaled operands, as of {spec}")

    @overload
    def gemm(self, a: Codes, b: Codes, spec: GemmSpec, *, seed: int = 0) -> GemmResult: ...
    @overload
    def gemm(self, a: Blocks, b: Blocks, spec: BlockGemmSpec, *, seed: int = 0) -> GemmResult: ...
    @overload
    def gemm(self, a: Codes | Blocks, b: Codes | Blocks, spec: AnyGemmSpec, *, seed: int = 0) -> GemmResult: ...

    def gemm(self, a: Codes | Blocks, b: Codes | Blocks, spec: AnyGemmSpec, *, seed: int = 0) -> GemmResult:
        """C = A·B as `spec` says.

        Parameters
        ----------
        a, b
            Codes A [M, K] and B [K, N], each contiguous along K or across it; strided views are taken as they are.
            With a `BlockGemmSpec`, `Blocks` of such codes: A in blocks along axis 1, B along axis 0.
        spec
            Formats, accumulator, rounding, scale.
        seed
            64 bits; decides the random bits of stochastic rounding.

        Returns
        -------
        GemmResult
            Codes C [M, N] in the output format's `code_dtype`, a torch tensor where `a` or `b` is one; flags.

        Raises
        ------
        ValueError, TypeError
            Operands that fit neither each other nor their formats; `UnsupportedSpecError` where this device cannot
            run the GEMM.
        DeviceError
            The device failed, or its result was found wrong.
        """
        is_torch = any(_is_tensor(x.codes if isinstance(x, Blocks) else x) for x in (a, b))
        run: Callable[[int], GemmResult]
        if isinstance(spec, BlockGemmSpec):
            blocks_a, blocks_b = check_block_operands(_as_blocks(a), _as_blocks(b), spec)
            codes_a, codes_b = blocks_a.codes, blocks_b.codes
            run = partial(self._run_blocks, blocks_a, blocks_b, spec)
        else:
            codes_a, codes_b = check_operands(_as_array(a), _as_array(b), spec)
            run = partial(self._run, codes_a, codes_b, spec)
        check_seed(seed)
        (m, k), n = codes_a.shape, codes_b.shape[1]
        self.check(spec, k)
        if self._verifier is not None:
            self._verifier.check(spec)
        with self._lock:
            if self._is_closed:
                raise ValueError(f"device {self.name} has been closed")
            start = time.perf_counter()
            result = run(seed)
            self._count(m * n * k, time.perf_counter() - start)
            if self._verifier is not None and isinstance(spec, GemmSpec):
                shape = (self.config.rows, self.config.columns) if self.config else None
                self._verifier.verify(codes_a, codes_b, result, spec, seed=seed, tile=shape, device=self.name)
        if is_torch:
            import torch

            return result._replace(codes=cast(Any, torch.from_numpy(result.codes)))
        return result

    def gemm_values(
        self, a: Codes | Blocks, b: Codes | Blocks, spec: AnyGemmSpec, *, seed: int = 0
    ) -> npt.NDArray[np.float32]:
        """Run `gemm` and decode its codes: float32 values, array or tensor like the operands.

        Exact for output formats of at most 24 significand bits; wider integers are rounded to float32.
        """
        codes = self.gemm(a, b, spec, seed=seed).codes
        if _is_tensor(codes):
            import torch

            return cast(Any, torch.from_numpy(decode_values(cast(Any, codes).numpy(), spec.out)))
        return decode_values(codes, spec.out)

    def close(self) -> None:
        """Give the device back; a second call does nothing."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._close()

    def _close(self) -> None:  # noqa: B027  (most devices hold nothing that has to be given back)
        """What closing takes."""

    def _count(self, macs: int, seconds: float) -> None:
        self.stats.gemms += 1
        self.stats.macs += macs
        self.stats.seconds += seconds
        if self.counters is not None:
            self.stats.cycles += self.counters.cycles
            self.stats.array_busy_cycles += self.counters.array_busy_cycles

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class GoldenDevice(Device):
    """The golden model: slow, and what all others must equal."""

    def __init__(self, *, verify: float = 0.0) -> None:
        super().__init__("golden", verify=verify)

    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """See `Device.check`."""
        _check_k(spec, k)

    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
        return golden_gemm(a, b, spec, seed=seed)

    def _run_blocks(self, a: Blocks, b: Blocks, spec: BlockGemmSpec, seed: int) -> GemmResult:
        return golden_block_gemm(a, b, spec, seed=seed)


class EmulatorDevice(Device):
    """The fast functional model, on the CPU."""

    def __init__(self, *, verify: float = 0.0) -> None:
        super().__init__("emulator", verify=verify)
        from halfulp.sim.emulator import emulate_gemm

        self._emulate = emulate_gemm

    def check(self, spec: AnyGemmSpec, k: int | None = None) -> None:
        """See `Device.check`."""
        _check_k(spec, k)

    def _run(self, a: CodeArray, b: CodeArray, spec: GemmSpec, seed: int) -> GemmResult:
        return self._emulate(a, b, spec, seed=seed)

    def _run_blocks(self, a: Blocks, b: Blocks, spec: BlockGemmSpec, seed: int) -> GemmResult:
        from halfulp.sim.blocks import emulate_block_gemm

        return emulate_block_gemm(a, b, spec, seed=seed)


@dataclass(frozen=True)
class DeviceKind:
    """A kind of device that `open_device` knows.

    spelling: how it is asked for, an example; summary: one line; open: called with what follows the colon ("" where
    there is none) and the options.
    """

    spelling: str
    summary: str
    open: Callable[..., Device]


def _open_golden(argument: str, **options: Any) -> Device:
    _refuse_argument("golden", argument)
    return GoldenDevice(**_without_requirements(options))


def _open_emulator(argument: str, **options: Any) -> Device:
    if argument:
        from halfulp.host.torch_device import TorchEmulatorDevice

        return TorchEmulatorDevice(argument, **_without_requirements(options))
    return EmulatorDevice(**_without_requirements(options))


def _open_rtl(argument: str, **options: Any) -> Device:
    from halfulp.host.rtl_device import open_rtl

    return open_rtl(argument, **options)


def _open_pynq(argument: str, **options: Any) -> Device:
    from halfulp.host.pynq_device import open_pynq

    return open_pynq(argument, **options)


def _open_pynq_sim(argument: str, **options: Any) -> Device:
    from halfulp.host.pynq_sim_device import open_pynq_sim

    return open_pynq_sim(argument, **options)


def _open_serial(argument: str, **options: Any) -> Device:
    from halfulp.host.serial_device import open_serial

    return open_serial(argument, **options)


def _open_serial_sim(argument: str, **options: Any) -> Device:
    from halfulp.host.serial_sim_device import open_serial_sim

    return open_serial_sim(argument, **options)


DEVICES: Registry[DeviceKind] = Registry("device")
"""All kinds of devices, by what stands before the colon."""

DEVICES.register("golden", DeviceKind("golden", "the golden model in NumPy: slow, right by definition", _open_golden))
DEVICES.register(
    "emulator",
    DeviceKind("emulator", "the fast functional model on this CPU; or emulator:cuda, by torch", _open_emulator),
)
DEVICES.register("rtl", DeviceKind("rtl:8x8", "the generated Verilog, cycle by cycle; or rtl:CONFIG.toml", _open_rtl))
DEVICES.register("pynq", DeviceKind("pynq:OVERLAY.bit", "a PYNQ board; or pynq:OVERLAY.bit@HOST", _open_pynq))
DEVICES.register(
    "pynq-sim",
    DeviceKind("pynq-sim:8x8", "the virtual PYNQ board; or pynq-sim:CONFIG.toml, pynq-sim:OVERLAY", _open_pynq_sim),
)
DEVICES.register(
    "serial",
    DeviceKind("serial:/dev/ttyUSB0", "a board behind a serial port; or serial:PORT?baud=1000000", _open_serial),
)
DEVICES.register(
    "serial-sim",
    DeviceKind("serial-sim:2x2", "the virtual serial board; or serial-sim:CONFIG.toml", _open_serial_sim),
)


def decode_values(codes: CodeArray, fmt: Format) -> npt.NDArray[np.float32]:
    """The values of codes as float32: exact for formats of at most 24 significand bits, else rounded."""
    if fmt.name == "float32":
        return np.ascontiguousarray(codes).view(np.float32)
    if fmt.bits <= 16:
        return _table(fmt)[codes]
    return fmt.to_float64(codes).astype(np.float32)


def open_device(text: str, **options: Any) -> Device:
    """Open the device of this name: ``golden``, ``emulator``, ``rtl:ROWSxCOLUMNS``, ``rtl:CONFIG.toml``, and others.

    Parameters
    ----------
    text
        Kind, and after a colon which one.
    verify
        See `Device`.
    requirements
        GEMMs that will be asked for, each a `GemmSpec` or a pair of it and K, so that a device that is built for its
        formats is built once. Taken by every kind.
    **options
        What the kind takes besides: see `RtlDevice`.

    Raises
    ------
    UnknownNameError
        Where there is no such kind; the message gives the nearest.

    Examples
    --------
    >>> import numpy as np
    >>> from halfulp.numerics.gemm import GemmSpec
    >>> spec = GemmSpec("e4m3", "e4m3", "bfloat16", rounding="stochastic:8")
    >>> one_and_two = np.array([[0x38, 0x40]], np.uint8)
    >>> with open_device("emulator") as device:
    ...     device.gemm_values(one_and_two, one_and_two.T, spec, seed=7)
    array([[5.]], dtype=float32)
    """
    if not isinstance(text, str):
        raise TypeError(f"a device is named by a string such as 'rtl:8x8', not {text!r}")
    kind, _, argument = text.strip().partition(":")
    if kind.lower() not in DEVICES.names():
        raise unknown_name("device", text, [member.spelling for member in DEVICES.members()])
    return DEVICES.get(kind).open(argument, **options)


def _refuse_argument(kind: str, argument: str) -> None:
    if argument:
        raise ValueError(f"device {kind!r} takes nothing after a colon, not {argument!r}")


def _without_requirements(options: dict[str, Any]) -> dict[str, Any]:
    """Options less those that only matter to devices built on demand."""
    return {name: value for name, value in options.items() if name not in ("requirements", "progress")}


def _check_k(spec: AnyGemmSpec, k: int | None) -> None:
    """All that is to be checked where any format and accumulator is computed."""
    if k is not None and isinstance(spec.accumulator, ExactAccumulator):
        spec.accumulator.check_k(k)


def _is_tensor(x: object) -> bool:
    # Whoever has a tensor has imported torch; whoever has none should not wait for it.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _as_array(x: Any) -> npt.NDArray[Any]:
    if not _is_tensor(x):
        return np.asarray(x)
    if x.device.type != "cpu":
        raise ValueError(f"codes must be on the CPU, not a tensor on {x.device}")
    return x.detach().numpy()


def _as_blocks(x: Any) -> Any:
    """Blocks with NumPy arrays; what is none is for `check_block_operands` to tell."""
    return x._replace(codes=_as_array(x.codes), scales=_as_array(x.scales)) if isinstance(x, Blocks) else x


@lru_cache(maxsize=16)
def _table(fmt: Format) -> npt.NDArray[np.float32]:
    table = fmt.to_float64(np.arange(1 << fmt.bits, dtype=fmt.code_dtype)).astype(np.float32)
    table.setflags(write=False)
    return table
