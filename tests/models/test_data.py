"""Data: the real files, split and normalised as documented; a damaged one is refused in one line."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from halfulp.models.data import DATASETS, DataError, DataFile, load_data, permutation


@pytest.mark.parametrize(
    ("name", "train", "test", "features"), [("digits", 1437, 360, 64), ("mnist5k", 4000, 1000, 784)]
)
def test_the_data_are_real_split_and_normalised(name: str, train: int, test: int, features: int):
    data = load_data(name)
    assert (len(data.train), len(data.test), data.features, data.classes) == (train, test, features, 10)
    assert data.train.images.dtype == np.float32
    assert data.train.labels.dtype == np.int64
    assert abs(data.train.images.mean(dtype=np.float64)) < 1e-5
    assert abs(data.train.images.std(dtype=np.float64) - 1) < 1e-5
    for split in (data.train, data.test):
        share = np.bincount(split.labels, minlength=10) / len(split)
        assert (share > 0.06).all()  # each digit is in each part, about equally often
    # The nearest mean image of a class recognises most: images and labels belong together.
    means = np.stack([data.train.images[data.train.labels == digit].mean(0) for digit in range(10)])
    nearest = ((data.test.images[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == data.test.labels).mean() > 0.7


def test_no_test_image_is_a_training_image():
    for name in DATASETS.names():
        table = DATASETS.get(name).read()
        order = permutation(5000, len(table))
        assert sorted(order) == list(range(len(table)))
        data = load_data(name)
        assert np.array_equal(data.train.labels, table[order[: len(data.train)], -1])


def test_a_permutation_is_the_same_everywhere():
    # Threefry's first words with key 0: 6b200159 508efb2c 64a626ec b8abc4d1 ac6dc2bb 5641e094 a53c1ce9 2677a25a.
    assert permutation(0, 8).tolist() == [7, 1, 5, 2, 0, 6, 4, 3]
    assert permutation(1, 8).tolist() != permutation(0, 8).tolist()
    assert permutation(3, 0).tolist() == []


def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> DataFile:
    file = DATASETS.get("digits")
    if content is not None:
        (tmp_path / "digits.csv.gz").write_bytes(content)
    monkeypatch.setattr(DataFile, "locate", lambda self: tmp_path / "digits.csv.gz")
    return file


def test_damaged_files_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = DATASETS.get("digits").locate().read_bytes()
    flipped = bytearray(gzip.decompress(good))
    flipped[1000] ^= 1
    for content, message in [
        (None, r"data 'digits': .* is missing; reinstall sklearn"),
        (good[: len(good) // 2], r"data 'digits': .* is damaged \(.*\); reinstall sklearn"),
        (b"not gzip", r"data 'digits': .* is damaged \(.*\); reinstall sklearn"),
        (good[:5000] + b"\xff" * 50 + good[5050:], r"data 'digits': .* is damaged \(.*\); reinstall sklearn"),
        (gzip.compress(bytes(flipped)), r"unpacks to 264712 bytes with SHA-256 .*, not 264712 bytes with 6ebb3d2fee24"),
        (gzip.compress(bytes(flipped[:-10])), r"unpacks to 264702 bytes"),
    ]:
        with pytest.raises(DataError, match=message) as error:
            damaged(tmp_path, monkeypatch, content).read()
        assert "\n" not in str(error.value)


def test_a_missing_package_is_named():
    file = dataclasses.replace(DATASETS.get("digits"), package="no_such_package")
    with pytest.raises(DataError, match="comes with the package no_such_package, which is not installed"):
        file.locate()


def test_an_unknown_name_answers_with_the_nearest():
    with pytest.raises(ValueError, match="unknown data 'mnist5'; nearest: 'mnist5k'"):
        load_data("mnist5")
