"""`SimulatedDevice`: what devices share that open simulated cores as the GEMMs need them, and how they are named."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from halfulp.host.core_device import CoreDevice, depth_of, refusal
from halfulp.host.core_family import CoreFamily, Requirement
from halfulp.host.driver import Counters, Driver
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult

__all__ = ["OpenedCore", "SimulatedDevice", "array_shape", "simulated_cores"]


class OpenedCore(Protocol):
    """A simulated core that runs GEMMs; devices of one fixed core are such."""

    @property
    def driver(self) -> Driver:
        """What runs it."""
        ...

    @property
    def counters(self) -> Counters | None:
        """Of its last GEMM."""
        ...

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


Opened = TypeVar("Opened", bound=OpenedCore)


class SimulatedDevice(CoreDevice, Generic[Opened]):
    """Simulated cores: one fixed one, or as many as the GEMMs need of one array shape.

    Each is opened when a GEMM first needs it, or `prepare` tells of one, and stays open until the device is closed.

    Parameters
    ----------
    name, verify
        See `Device`.
    cores
        A fixed `ArrayConfig`, or the `CoreFamily` to choose from.
    progress
        Called with a line of text before a core is opened, for compiling it may take a minute.
    """

    is_simulated = True

    def __init__(
        self,
        name: str,
        cores: ArrayConfig | CoreFamily,
        *,
        verify: float = 0.0,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name, cores, verify=verify)
        self._progress = progress
        self._cores_open: dict[ArrayConfig, Opened] = {}

    @property
    def opened(self) -> Opened | None:
        """The core that ran or was prepared last; None before, and once the device is closed."""
        return self._cores_open.get(self.config) if self.config is not None else None

    @property
    def driver(self) -> Driver | None:
        """Of `opened`."""
        return self.opened.driver if self.opened is not None else None

    @abstractmethod
    def _open_core(self, config: ArrayConfig) -> Opened:
        """Open a core that is not open yet."""

    def prepare(self, *requirements: Requirement) -> None:
        """Build and open the cores that these GEMMs need, now rather than at the first of them."""
        for each in requirements:
            spec, k = each if isinstance(each, tuple) else (each, None)
            config = self.config_for(spec, k)
            with self._lock:
                self._core(config)

    def run_on_core(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec, seed: int) -> GemmResult:
        """See `CoreDevice.run_on_core`."""
        core = self._core(self.config_for(spec, depth_of(a)))
        result = core.run_on_core(a, b, spec, seed)
        self.counters = core.counters
        return result

    def _core(self, config: ArrayConfig) -> Opened:
        if config not in self._cores_open:
            if self._progress is not None:
                self._progress(f"{self.name}: opening core {config.name}; it is compiled when it is used first")
            self._cores_open[config] = self._open_core(config)
        self.config = config
        return self._cores_open[config]

    def _close(self) -> None:
        while self._cores_open:
            self._cores_open.popitem()[1].close()


def array_shape(text: str) -> tuple[int, int] | None:
    """Rows and columns, where that is what the text says, as ``8x8`` does."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    return (int(match[1]), int(match[2])) if match else None


def simulated_cores(
    kind: str, argument: str, requirements: Iterable[Requirement] = (), *, example: str = "8x8"
) -> ArrayConfig | CoreFamily:
    """What ``KIND:ARGUMENT`` names: the cores of a shape such as ``8x8``, or the core of a configuration file.

    Parameters
    ----------
    kind, argument
        The two parts of the device's name.
    requirements
        GEMMs that will be asked for, which cores of a shape are chosen for.
    example
        A shape, for messages.
    """
    name = f"{kind}:{argument}"
    if shape := array_shape(argument):
        try:
            return CoreFamily(*shape, requirements)
        except UnsupportedSpecError as error:
            raise refusal(name, error) from error
    if not argument.strip():
        raise ValueError(
            f"device {kind!r} needs an array shape or a configuration file: {kind}:{example}, {kind}:CONFIG.toml"
        )
    path = Path(argument).expanduser()
    if not path.is_file():
        raise ValueError(
            f"device {name!r}: {argument!r} is neither an array shape such as {example} nor an existing file"
        )
    from halfulp.hw.config_file import load_config

    return load_config(path)
