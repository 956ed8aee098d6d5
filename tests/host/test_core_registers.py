"""A host reads from a core's configuration registers the configuration that the core was generated from."""

from __future__ import annotations

import pytest

from halfulp.host.core_registers import read_config
from halfulp.host.errors import IdentificationError
from halfulp.hw.config import ArrayConfig
from halfulp.hw.register_file import configuration_words

ACCUMULATORS = [
    ("exact:64", 1),
    ("fixed:20:-3", 1),
    ("e6m5:stochastic:13", 4),
    ("e8m23:ieee", 2),
    ("e4m3-nosub", 1),
    ("e4m3-finite:stochastic_floor:24:ieee", 1),
    ("e5m2:toward_zero", 4),
]


@pytest.mark.parametrize(("accumulator", "interleave"), ACCUMULATORS)
def test_configuration_words_tell_the_configuration(accumulator: str, interleave: int) -> None:
    config = ArrayConfig(accumulator=accumulator, interleave=interleave)
    words = configuration_words(config)
    assert read_config(lambda name: words.get(name, 0)) == config
    assert ArrayConfig.from_dict(config.to_dict()) == config


def test_narrow_cores_tell_their_widths() -> None:
    config = ArrayConfig(address_bits=16, size_bits=14)
    assert read_config(configuration_words(config).__getitem__) == config
    assert len({ArrayConfig().name, config.name, config.replace(size_bits=32).name}) == 3


@pytest.mark.parametrize(
    "config",
    [
        ArrayConfig(a_formats="int8", b_formats="int8", pack_multipliers=True),
        ArrayConfig(shift_in_multipliers=True),
    ],
    ids=["packed", "shifting"],
)
def test_configuration_words_tell_what_multipliers_do(config: ArrayConfig) -> None:
    words = configuration_words(config)
    assert read_config(lambda name: words.get(name, 0)) == config


def test_small_cores_tell_what_they_lack() -> None:
    plain = ArrayConfig(queue_depth=1)
    uncounted = plain.replace(counters=False)
    compact = uncounted.replace(compact=True, reads_outstanding=1)
    for config in (uncounted, compact):
        assert read_config(configuration_words(config).__getitem__) == config
    assert len({plain.name, uncounted.name, compact.name}) == 3


def test_cores_from_before_interleaving_are_understood() -> None:
    words = configuration_words(ArrayConfig())
    del words["config_interleave"], words["config_widths"]
    assert read_config(lambda name: words.get(name, 0)) == ArrayConfig()


@pytest.mark.parametrize(
    ("name", "word", "rule"),
    [
        ("config_accumulator", 3 | 12 << 8, "accumulator kind 3 is unknown to this driver"),
        ("config_accumulator_float", 0xF, "configuration word 0x000000f1 describes no format"),
        ("config_interleave", 3, "interleave must be 1 to 6 and divide rows = 8, not 3"),
    ],
)
def test_words_that_describe_no_core_are_refused(name: str, word: int, rule: str) -> None:
    words = configuration_words(ArrayConfig(accumulator="e6m5")) | {name: word}
    with pytest.raises(IdentificationError, match=rule):
        read_config(lambda name: words.get(name, 0))
