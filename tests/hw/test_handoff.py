"""The hand-off file tells what the register map and the configuration say, and is read back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import (
    CORE_INSTANCE,
    CORE_VLNV,
    PROCESSING_SYSTEMS,
    config_of_parameters,
    handoff_xml,
    read_handoff,
)
from halfulp.hw.registers import REGISTERS
from halfulp.numerics.names import UnknownNameError

CONFIGS = [
    ArrayConfig(),
    ArrayConfig(rows=3, columns=5, a_formats=("int8", "int4"), b_formats=("int8",), out_formats=("int32",), lanes=1),
    ArrayConfig(accumulator="exact:77", roundings=("nearest_even",), bus_width=128, queue_depth=8),
]


def module(text: str, instance: str) -> ET.Element:
    (found,) = ET.fromstring(text.encode()).findall(f"./MODULES/MODULE[@INSTANCE='{instance}']")
    return found


def properties(element: ET.Element) -> dict[str | None, str | None]:
    return {p.get("NAME"): p.get("VALUE") for p in element.findall("PROPERTY")}


def test_every_register_and_field_is_there_and_nothing_else():
    core = module(handoff_xml(ArrayConfig()), CORE_INSTANCE)
    assert core.get("VLNV") == CORE_VLNV
    elements = core.findall(".//REGISTER")
    assert [e.get("NAME") for e in elements] == [r.name.upper() for r in REGISTERS]
    for element, register in zip(elements, REGISTERS, strict=True):
        told = properties(element)
        assert int(told["ADDRESS_OFFSET"] or "", 16) == register.offset
        assert told["ACCESS"] == {"ro": "read-only", "rw": "read-write", "w1": "write-only"}[register.access]
        fields = {
            f.get("NAME"): (properties(f)["BIT_OFFSET"], properties(f)["BIT_WIDTH"]) for f in element.iter("FIELD")
        }
        assert fields == {f.name.upper(): (str(f.lsb), str(f.width)) for f in register.fields}


@pytest.mark.parametrize("ps", PROCESSING_SYSTEMS.names())
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_configuration_and_processing_system_are_read_back(tmp_path: Path, config: ArrayConfig, ps: str):
    file = tmp_path / "x.hwh"
    file.write_text(handoff_xml(config, processing_system=ps), encoding="utf-8")
    assert read_handoff(file) == (config, ps)


@pytest.mark.parametrize("ps", PROCESSING_SYSTEMS.members(), ids=lambda ps: ps.name)
def test_addresses_do_not_overlap_and_are_those_of_the_processing_system(ps):
    ranges = module(handoff_xml(ArrayConfig(), processing_system=ps.name), ps.instance).findall(".//MEMRANGE")
    found = {r.get("INSTANCE"): (int(r.get("BASEVALUE", ""), 16), int(r.get("HIGHVALUE", ""), 16)) for r in ranges}
    assert {name: base for name, (base, _) in found.items()} == {
        "halfulp_core_0": ps.core_address,
        "axi_intc_0": ps.interrupt_address,
    }
    low, high = sorted(found.values())
    assert low[1] < high[0]


def test_without_an_interrupt_there_is_no_controller():
    text = handoff_xml(ArrayConfig(), interrupt=False)
    assert "axi_intc" not in text
    assert "CONNECTION" not in text


def test_the_clock_is_the_one_asked_for():
    parameters = {
        p.get("NAME"): p.get("VALUE")
        for p in ET.fromstring(handoff_xml(ArrayConfig(), clock_mhz=125).encode()).iter("PARAMETER")
    }
    assert parameters["PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ"] == "125"
    assert parameters["PCW_FCLK0_PERIPHERAL_DIVISOR0"] == "12"
    assert [parameters[f"PCW_FPGA_FCLK{n}_ENABLE"] for n in range(4)] == ["1", "0", "0", "0"]
    with pytest.raises(ValueError, match="clock_mhz must be positive, not 0"):
        handoff_xml(ArrayConfig(), clock_mhz=0)


def test_an_unknown_processing_system_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown processing system 'zynq'; nearest: 'zynqmp', 'zynq-7000'"):
        handoff_xml(ArrayConfig(), processing_system="zynq")


def test_parameters_of_another_ip_tell_no_configuration():
    assert config_of_parameters({"C_BASEADDR": "0x40000000"}) is None


def test_parameters_that_no_core_can_have_are_refused():
    parameters = {key.upper(): " ".join(v) if isinstance(v, list) else v for key, v in ArrayConfig().to_dict().items()}
    assert config_of_parameters(parameters) == ArrayConfig()
    with pytest.raises(ValueError, match="rows must be 1 to 64, not 65"):
        config_of_parameters({**parameters, "ROWS": "65"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no XML", "is no hand-off file"),
        ("<EDKSYSTEM><MODULES/></EDKSYSTEM>", "has no core of halfulp.org"),
        (
            f"<EDKSYSTEM><MODULES><MODULE VLNV='{CORE_VLNV}'/></MODULES></EDKSYSTEM>",
            "has no processing system of processing_system7, zynq_ultra_ps_e",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str):
    file = tmp_path / "x.hwh"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_handoff(file)
