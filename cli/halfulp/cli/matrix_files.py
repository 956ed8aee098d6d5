"""Matrices in .npy files: reading with errors that name the file, writing that leaves nothing half-written."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfulp.cli.console import note
from halfulp.numerics.exact import from_float64
from halfulp.numerics.formats import CodeArray, Format

__all__ = ["check_folder", "check_output", "numbers", "quantise", "read_matrix", "write_file", "write_matrix"]

MAGIC = b"\x93NUMPY"
EXACT_INTEGERS = 1 << 53


def read_matrix(path: Path) -> npt.NDArray[Any]:
    """Read a matrix, or raise a ValueError that names the file and what is wrong with it."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no .npy file: it does not begin with \\x93NUMPY")
        file.seek(0)
        try:
            matrix = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError) as error:
            if "Object arrays" in str(error):
                raise ValueError(f"{path} must hold real numbers, not Python's objects") from error
            raise ValueError(f"{path} is a damaged .npy file: {error}") from error
    if matrix.ndim != 2:
        raise ValueError(f"{path} must hold a matrix, not an array of shape {matrix.shape}")
    if 0 in matrix.shape:
        raise ValueError(f"{path} must hold at least one row and one column, not shape {matrix.shape}")
    return matrix


def numbers(matrix: npt.NDArray[Any], path: Path) -> npt.NDArray[np.float64]:
    """The matrix of this file as float64, or raise where it holds what float64 does not."""
    if matrix.dtype.kind not in "fiub" or matrix.dtype.itemsize > 8:
        raise TypeError(f"{path} must hold real numbers of at most 64 bits, not {matrix.dtype}")
    if matrix.dtype.kind in "iu" and matrix.dtype.itemsize == 8:
        largest = max(abs(int(matrix.min())), abs(int(matrix.max())))
        if largest > EXACT_INTEGERS:
            raise ValueError(f"{path} holds the integer {largest}: beyond 2**53 not all fit float64")
    return matrix.astype(np.float64)


def quantise(matrix: npt.NDArray[Any], fmt: Format, path: Path) -> CodeArray:
    """Round numbers to the nearest codes of `fmt`, ties to even, saturating; tell what had to be saturated.

    Raises where one is NaN and the format has none.
    """
    values = numbers(matrix, path)
    is_nan = np.isnan(values)
    if is_nan.any() and not fmt.has_nan:
        i, j = (int(index[0]) for index in np.nonzero(is_nan))
        raise ValueError(f"{path} [{i}, {j}] is NaN, and {fmt} has no code for NaN")
    encoded = fmt.encode(from_float64(values))
    if count := int(encoded.overflow.sum()):
        limit = fmt.max_units * 2.0**fmt.lsb_exponent
        note(f"{path}: {count} of {values.size} values are beyond {fmt}'s largest, {limit:g}, and were saturated")
    return encoded.codes


def check_output(path: Path) -> None:
    """Raise where a file cannot be written: before the work whose result it takes."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file to write")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written: the folder {path.parent} is read only")


def check_folder(path: Path) -> None:
    """Raise where files cannot be written to a folder that may be still to be made; leaves nothing."""
    if path.is_file():
        raise ValueError(f"{path} is a file, not a folder to write to")
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f"{path} cannot be written: {there} is no folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".halfulp.", dir=there):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {there}: {error.strerror}") from error


def write_matrix(path: Path, matrix: npt.NDArray[Any]) -> None:
    """Write a .npy file under exactly this name, row-major; see `write_file`."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(matrix), allow_pickle=False)
    write_file(path, content.getvalue())


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or none: under another name first, renamed when it is complete."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # a pipe or a device such as /dev/null, which no file may take the place of
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
