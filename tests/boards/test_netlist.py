"""Netlists after synthesis: processing elements proved to do what their source does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halfulp.boards.source import component_verilog
from halfulp.boards.synthesis import synthesise
from halfulp.hw.config import ArrayConfig
from halfulp.hw.processing_elements import processing_element

from .netlist import NotEquivalentError, prove_equivalent

LONG = pytest.mark.proof
"""Of `make proofs`."""


def mapped_element(element: str, multipliers: str, accumulator: str = "exact:64") -> tuple[str, dict[str, Any]]:
    """Source and netlist for ECP5 of a processing element with products of `element`."""
    config = ArrayConfig(
        rows=2,
        columns=2,
        lanes=1,
        a_formats=element,
        b_formats=element,
        out_formats="int8",
        accumulator=accumulator,
        roundings="nearest_even",
    )
    source = component_verilog(processing_element(config)(config=config), name="block")
    synthesis = synthesise(
        {"block.v": source}, top="block", family="ecp5", what="synthesis of an element", multipliers=multipliers
    )
    return source, json.loads(synthesis.netlist.read_text())


@pytest.mark.timeout(900)  # the first call of Yosys compiles it
@pytest.mark.parametrize(
    ("element", "multipliers"),
    [
        ("e4m3", "luts"),
        pytest.param("int8", "dsps", marks=LONG),  # registers of fabric become the multiplier's
        pytest.param("int4", "luts", marks=LONG),
        pytest.param("e5m2", "luts", marks=LONG),
    ],
)
def test_a_mapped_element_does_what_its_source_does(element: str, multipliers: str, tmp_path: Path) -> None:
    source, netlist = mapped_element(element, multipliers)
    assert prove_equivalent(source, netlist, top="block", folder=tmp_path) > 40


@LONG
@pytest.mark.timeout(900)
@pytest.mark.parametrize("accumulator", ["e6m5:stochastic:13", "e4m3"])
def test_a_mapped_float_element_does_what_its_source_does(accumulator: str, tmp_path: Path) -> None:
    source, netlist = mapped_element("e5m2", "luts", accumulator)
    assert prove_equivalent(source, netlist, top="block", folder=tmp_path) > 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "accumulator"),
    [
        ("LUT4", "exact:64"),
        pytest.param("CCU2C", "exact:64", marks=LONG),
        pytest.param("TRELLIS_FF", "exact:64", marks=LONG),
        pytest.param("CCU2C", "e4m3", marks=LONG),
    ],
)
def test_a_wrong_cell_is_found(kind: str, accumulator: str, tmp_path: Path) -> None:
    source, netlist = mapped_element("int4", "luts", accumulator)
    cell = next(each for each in netlist["modules"]["block"]["cells"].values() if each["type"] == kind)
    if kind == "TRELLIS_FF":
        cell["connections"]["DI"] = ["1"]
    else:
        name = "INIT" if kind == "LUT4" else "INIT0"
        cell["parameters"][name] = cell["parameters"][name].translate(str.maketrans("01", "10"))
    with pytest.raises(NotEquivalentError, match="bits, of which"):
        prove_equivalent(source, netlist, top="block", folder=tmp_path)
