"""Configuration files: examples load, what is written reads back, and each mistake is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import ConfigFileError, config_toml, load_config

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_load_and_read_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert f"{config.rows}x{config.columns}" in path.stem
    copy = tmp_path / "copy.toml"
    copy.write_text(config_toml(config), encoding="utf-8")
    assert load_config(copy) == config


def test_one_rounding_may_be_given_without_a_list():
    assert ArrayConfig(roundings="nearest_even") == ArrayConfig(roundings=("nearest_even",))
    with pytest.raises(ValueError, match="unknown rounding 'nearest'"):
        ArrayConfig(roundings="nearest")


def test_an_empty_file_is_the_default_core(tmp_path: Path) -> None:
    path = tmp_path / "default.toml"
    path.write_text("", encoding="utf-8")
    assert load_config(path) == ArrayConfig()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rows = 0", r"rows must be 1 to 64, not 0"),
        ("rows = true", r"rows must be an integer, not True"),
        ("rows = 8.0", r"rows must be an integer, not 8\.0"),
        ('bus_width = "64"', r"bus_width must be an integer, not '64'"),
        ("lanes = 3", r"lanes must be 1, 2, 4 or 8 and divide columns = 8, not 3"),
        ("bus_width = 16", r"bus_width must be 32, 64 or 128, not 16"),
        ("buffer_depth = 100", r"buffer_depth must be a power of two from 64 to 65536 words, not 100"),
        ("row = 8", r"unknown array parameter 'row'; nearest: 'rows'"),
        ('a_formats = "e4m3"', r"a_formats must be a list of strings, not 'e4m3'"),
        ("a_formats = [8]", r"a_formats must be a list of strings, not \[8\]"),
        ('a_formats = ["e4m4fnx"]', r"unknown format 'e4m4fnx'"),
        ("roundings = []", r"roundings must be one or more different modes, not \(\)"),
        ('roundings = ["up"]', r"unknown rounding 'up'"),
        ("accumulator = 8192", r"accumulator must be a string, not 8192"),
        ('accumulator = "exact"', r"of a core must be exact:MAX_K, fixed:WIDTH:LSB or a float, not exact"),
        ("interleave = 2", r"interleave must be 1 with accumulator exact:8192, which adds in one clock, not 2"),
        ('accumulator = "e6m5"\ninterleave = 3', r"interleave must be 1 to 6 and divide rows = 8, not 3"),
        ('accumulator = "e6m5"\ninterleave = 8', r"interleave must be 1 to 6 and divide rows = 8, not 8"),
        ('accumulator = "e9m5"', r"e9m5: exponent bits must be 1 to 8, not 9"),
        ('accumulator = "e6m5:stochastic:25"', r"a float accumulator takes at most 24 random bits, not stochastic:25"),
        ('a_formats = ["bfloat16"]', r"needs \d+ bits; at most 128 are built"),
        ("address_bits = 11", r"address_bits must be 12 to 64, not 11"),
        ("size_bits = 33", r"size_bits must be 8 to 32, not 33"),
        ("size_bits = 13", r"size_bits = 13 holds no max_k = 8192: take 14 or more"),
        ("rows = ", r"not TOML: "),
    ],
)
def test_a_mistake_names_file_key_value_and_rule_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "core.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigFileError, match=told) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigFileError, match="Is a directory"):
        load_config(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xff")
    with pytest.raises(ConfigFileError, match="not UTF-8"):
        load_config(path)
