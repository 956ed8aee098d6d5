"""Two devices that compute the same run: each GEMM's codes against the other's, the first difference named."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from halfulp.host.runner import GemmCall
from halfulp.numerics.formats import Format

__all__ = ["DifferenceError", "GemmComparison", "compare_states"]


class DifferenceError(RuntimeError):
    """Two devices, or two runs, that must be equal bit for bit are not; the message names the first difference."""


class GemmComparison:
    """Compares the GEMMs of two runs, one after the other, in the order in which they ran.

    `record` observes the first run's `GemmRunner`, `compare` the second's; the second may lag behind, and must not
    overtake. A difference raises `DifferenceError`, in the second run.

    Parameters
    ----------
    first, second
        What to call the two devices in messages.

    Attributes
    ----------
    compared
        GEMMs found equal.
    """

    def __init__(self, first: str, second: str) -> None:
        self.first, self.second = first, second
        self.compared = 0
        self._waiting: deque[GemmCall] = deque()

    def record(self, call: GemmCall) -> None:
        """Keep a GEMM of the first run until the second has run it too."""
        self._waiting.append(call)

    def compare(self, call: GemmCall) -> None:
        """Hold a GEMM of the second run against the first run's."""
        if not self._waiting:
            raise DifferenceError(f"{_place(call)}: {self.second} ran it, {self.first} did not")
        expected = self._waiting.popleft()
        if call[:6] != expected[:6]:
            raise DifferenceError(
                f"{self.first} ran {_place(expected)} ({expected.spec}, seed {expected.seed:#x}), "
                f"{self.second} ran {_place(call)} ({call.spec}, seed {call.seed:#x})"
            )
        names = f"{self.first} and {self.second}"
        fmt = call.spec.out
        ours, theirs = _codes(expected.result.codes), _codes(call.result.codes)
        if not np.array_equal(ours, theirs):
            where, told = _first_difference(ours, theirs, fmt)
            raise DifferenceError(f"{names} differ: {_place(call)}, C[{where}]: {told}")
        for flag in ("invalid", "overflow"):
            one, other = getattr(expected.result, flag), getattr(call.result, flag)
            if one != other:
                raise DifferenceError(f"{names} differ: {_place(call)}, flag {flag}: {one} against {other}")
        self.compared += 1

    def finish(self) -> None:
        """Raise where the first run made GEMMs that the second did not."""
        if self._waiting:
            raise DifferenceError(f"{_place(self._waiting[0])}: {self.first} ran it, {self.second} did not")


def compare_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], *, names: tuple[str, str]) -> None:
    """Raise `DifferenceError` where two state dicts differ in a name, a shape or a bit of a float32 tensor."""
    one, other = names
    if list(first) != list(second):
        raise DifferenceError(f"{one} and {other} hold different tensors: {list(first)} and {list(second)}")
    for name, tensor in first.items():
        ours, theirs = _bits(tensor), _bits(second[name])
        if ours.shape != theirs.shape:
            raise DifferenceError(f"{name!r} is {ours.shape} on {one}, {theirs.shape} on {other}")
        if not np.array_equal(ours, theirs):
            index = tuple(int(i) for i in np.argwhere(ours != theirs)[0])
            place = f"{name}[{', '.join(map(str, index))}]"
            raise DifferenceError(
                f"{one} and {other} differ: {place} = {tensor[index].item()!r} against {second[name][index].item()!r}"
            )


def _place(call: GemmCall) -> str:
    return f"layer {call.layer!r}, {call.role}, step {call.step}, call {call.call}"


def _codes(codes: object) -> np.ndarray:
    return codes.numpy() if isinstance(codes, torch.Tensor) else np.asarray(codes)


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's bits: NaN equals NaN, and 0 differs from -0."""
    values = tensor.detach().cpu().contiguous()
    return values.numpy().view(np.uint32) if values.dtype == torch.float32 else values.numpy()


def _first_difference(ours: np.ndarray, theirs: np.ndarray, fmt: Format) -> tuple[str, str]:
    """Index, and both codes with their values, of the first element that differs."""
    if ours.shape != theirs.shape:
        return ":, :", f"shape {ours.shape} against {theirs.shape}"
    index = tuple(int(i) for i in np.argwhere(ours != theirs)[0])
    width = -(-fmt.bits // 4)
    told = []
    for codes in (ours, theirs):
        code = codes[index]
        told.append(f"0x{int(code):0{width}x} ({float(fmt.to_float64(code)):.9g})")
    return ", ".join(map(str, index)), f"{told[0]} against {told[1]}, {int((ours != theirs).sum())} elements in all"
