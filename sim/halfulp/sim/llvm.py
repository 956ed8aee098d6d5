"""The compiler behind the emulator's kernels, llvmlite; where it is missing, how to get it."""

from __future__ import annotations

try:
    from llvmlite import binding, ir
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the Python package llvmlite is not installed: pip install 'halfulp[emulator]'", name="llvmlite"
    ) from error

__all__ = ["binding", "ir"]
