"""The configurations that `make verify` puts against the golden model under cocotb: at least 12, of every kind."""

from __future__ import annotations

from pathlib import Path

from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import load_config
from halfulp.hw.processing_elements import PROCESSING_ELEMENTS, processing_element
from halfulp.numerics.accumulators import ExactAccumulator, FixedAccumulator, FloatAccumulator
from halfulp.numerics.formats import (
    BinaryFormat,
    FixedPointFormat,
    FloatFormat,
    Format,
    IntFormat,
    LogFormat,
    PositFormat,
    TernaryFormat,
)

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, ArrayConfig] = {
    path.stem: load_config(path)
    for folder in ("docs/configs", "tests/sim/configs")
    for path in sorted((ROOT / folder).glob("*.toml"))
}


def operands(config: ArrayConfig) -> set[type[Format]]:
    return {type(fmt) for fmt in (*config.a_formats, *config.b_formats)}


def test_there_is_a_configuration_of_every_kind() -> None:
    """Every kind of PE, and every family of operands in a plain core."""
    configs = list(CONFIGS.values())
    assert len(configs) >= 12
    kinds = {processing_element(config) for config in configs}
    others = (processing_element(CONFIGS[name]) for name in ("nvfp4_2x2", "int8_16x16_packed", "fp8_12x12"))
    assert kinds == {*PROCESSING_ELEMENTS.values(), *others}
    families = [FloatFormat, IntFormat, FixedPointFormat, PositFormat, LogFormat, TernaryFormat, BinaryFormat]
    for family in families:
        assert any(family in operands(config) for config in configs if not config.block), family
    plain = [config for config in configs if not config.block]
    exact = [config for config in plain if isinstance(config.accumulator, ExactAccumulator)]
    assert any(operands(config) == {IntFormat} for config in exact)
    assert any(operands(config) == {FloatFormat} for config in exact)
    assert any(operands(config) == {FloatFormat, IntFormat} for config in exact)
    assert any(max(f.bits for f in (*c.a_formats, *c.b_formats)) <= 6 for c in exact if operands(c) == {FloatFormat})
    assert any(isinstance(config.accumulator, FixedAccumulator) for config in plain)
    floats = [(config, config.accumulator) for config in plain if isinstance(config.accumulator, FloatAccumulator)]
    assert any(accumulator.rounding.is_stochastic and config.interleave > 1 for config, accumulator in floats)
    assert any(accumulator.rounding.kind == "nearest_even" for _, accumulator in floats)
    assert any(not accumulator.format.subnormals for _, accumulator in floats)
    assert {config.block_scale for config in configs if config.block} == {"e8m0", "e4m3"}
    assert any(config.step_random_bits for config in configs if config.block)
    assert {bool(config.block) for config in configs if config.compact and config.address_bits == 64} == {False, True}
