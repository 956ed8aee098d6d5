"""Cores chosen by the array's shape: few of them, each able to run what it was chosen for."""

from __future__ import annotations

import pytest

from halfulp.host.core_family import CoreFamily
from halfulp.hw.config import UnsupportedSpecError
from halfulp.numerics.accumulators import FixedAccumulator
from halfulp.numerics.gemm import GemmSpec

HYBRID = [GemmSpec("e4m3", "e4m3"), GemmSpec("e5m2", "e4m3"), GemmSpec("e5m2", "e4m3", "bfloat16")]


def test_one_core_serves_the_hybrid_recipe():
    family = CoreFamily(8, 8, HYBRID)
    assert len(family.configs) == 1
    for spec in HYBRID:
        assert family.config_for(spec, 784) is family.configs[0]
    config = family.configs[0]
    assert config.accumulator_bits <= 64
    assert [f.name for f in config.a_formats] == ["float8_e4m3fn", "float8_e5m2"]
    assert [f.name for f in config.b_formats] == ["float8_e4m3fn"]


def test_the_same_core_whatever_is_asked_first():
    specs = [*HYBRID, GemmSpec("e4m3", "e4m3", "int8", rounding="stochastic:3")]
    asked_at_once = CoreFamily(4, 4, specs).configs
    family = CoreFamily(4, 4)
    for spec in reversed(specs):
        assert family.config_for(spec, 100) == asked_at_once[0]


def test_integers_share_a_core():
    family = CoreFamily(8, 8)
    cores = {family.config_for(GemmSpec(a, b, "int32"), 300).name for a in ("int8", "int4") for b in ("int8", "int4")}
    assert len(cores) == 1
    assert family.configs[0].max_k == 65536
    assert family.configs[0].accumulator_bits == 32


def test_wider_operands_get_a_core_of_their_own():
    family = CoreFamily(8, 8)
    narrow = family.config_for(GemmSpec("e5m2", "e4m3"), 64)
    wide = family.config_for(GemmSpec("e5m2", "e5m2"), 64)
    assert wide is not narrow
    assert family.config_for(GemmSpec("e4m3", "e5m2"), 64) is wide
    assert family.config_for(GemmSpec("e4m3", "e4m3"), 64) is narrow
    assert CoreFamily(8, 8, [GemmSpec("e5m2", "e4m3"), GemmSpec("e5m2", "e5m2")]).configs == [wide]


@pytest.mark.parametrize(
    ("a", "b", "k", "max_k", "at_most"),
    [
        ("e4m3", "e4m3", 1, 4096, 63),  # e5m2, which that core takes as well, limits it
        ("e5m2", "e4m3", 4096, 4096, 63),
        ("e5m2", "e4m3", 4097, 65536, 96),
        ("e5m2", "e5m2", 10, 65536, 96),
        ("float16", "float16", 1000, 32768, 96),
        ("float16", "float16", 40000, 65536, 128),
        ("int16", "int16", 70000, 131072, 64),
        ("int8", "int8", 2**20, 2**20, 64),
    ],
)
def test_accumulators_are_as_wide_as_needed_and_no_wider(a, b, k, max_k, at_most):
    config = CoreFamily(2, 2).config_for(GemmSpec(a, b), k)
    assert config.max_k == max_k >= k
    assert config.accumulator_bits <= at_most


def test_a_larger_k_gets_another_core_unless_it_was_announced():
    spec = GemmSpec("e5m2", "e4m3")
    family = CoreFamily(2, 2)
    assert family.config_for(spec, 100) is not family.config_for(spec, 9000)
    announced = CoreFamily(2, 2, [spec, (spec, 9000)])
    assert announced.config_for(spec, 100) is announced.config_for(spec, 9000)


def test_each_accumulator_has_a_core_of_its_own():
    family = CoreFamily(2, 2)
    window = family.config_for(GemmSpec("int8", "int4", accumulator="fixed:24:0"), 5)
    assert window.accumulator == FixedAccumulator(24, 0)
    assert family.config_for(GemmSpec("int4", "int8", accumulator="fixed:24:0"), 70000) is window
    assert family.config_for(GemmSpec("int4", "int8"), 5) is not window
    assert len(CoreFamily(2, 2, [GemmSpec("e4m3", "e4m3", accumulator=f"fixed:{n}:-9") for n in (20, 21)]).configs) == 2
    with pytest.raises(UnsupportedSpecError, match="at most 16 bits, not 32 as int32"):
        family.config_for(GemmSpec("int32", "int8", accumulator="fixed:24:0"), 5)


def test_uncommon_outputs_are_added():
    family = CoreFamily(2, 2, [GemmSpec("int8", "int8", "e3m2")])
    assert len(family.configs) == 1
    assert family.config_for(GemmSpec("int8", "int8", "int32"), 4) is family.configs[0]
    assert [f.name for f in family.configs[0].out_formats][-1] == "float6_e3m2fn"


@pytest.mark.parametrize(("columns", "lanes"), [(1, 1), (2, 2), (3, 1), (4, 2), (64, 2)])
def test_lanes_divide_the_columns(columns, lanes):
    assert CoreFamily(1, columns).config_for(GemmSpec("int8", "int8"), 1).lanes == lanes


def test_what_no_core_can_do_is_refused():
    family = CoreFamily(2, 2)
    with pytest.raises(UnsupportedSpecError, match=r"exact accumulator of bfloat16 × int8 for K = 5 needs 27\d bits; "):
        family.config_for(GemmSpec("bfloat16", "int8"), 5)
    with pytest.raises(UnsupportedSpecError, match="K = 9 is beyond the exact accumulator's max_k = 8"):
        family.config_for(GemmSpec("int8", "int8", accumulator="exact:8"), 9)
    assert family.configs == []
    with pytest.raises(ValueError, match="rows must be 1 to 64, not 65"):
        CoreFamily(65, 1)
    outputs = [GemmSpec("int8", "int8", f"int{bits}") for bits in range(2, 11)]
    with pytest.raises(UnsupportedSpecError, match="a core rounds to at most 8 formats, not 9"):
        CoreFamily(2, 2, outputs)
