"""The Tcl of a Vivado project, run in an interpreter whose Vivado knows every name and rule that it uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree as ET

import pytest

from halfulp.boards.board import BOARDS
from halfulp.boards.vivado_project import project_files
from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import CORE_INSTANCE, CORE_VLNV, INTERRUPT_INSTANCE, config_of_parameters, read_handoff
from halfulp.hw.registers import REGISTERS
from halfulp.hw.verilog import generate_verilog

from .vivado_stub import NAMES, VivadoStub

pytest.importorskip("tkinter", reason="Python was built without Tcl (Debian: apt install python3-tk)")

BOARD_NAMES = ("pynq-z1", "pynq-z2", "ultra96-v2", "zcu104", "kv260")


def small_config(bus_width: int) -> ArrayConfig:
    return ArrayConfig(
        rows=1, columns=2, a_formats="int8", b_formats="int8", out_formats="int8", roundings="nearest_even",
        lanes=1, buffer_depth=64, bus_width=bus_width,
    )  # fmt: skip


verilog_of = cache(generate_verilog)


@cache
def files_of(name: str) -> dict[str, str]:
    board = BOARDS.get(name)
    assert board.vivado is not None
    # The core is the same on all boards of a bus width, and takes seconds.
    with mock.patch("halfulp.boards.vivado_project.generate_verilog", verilog_of):
        return project_files(board, small_config(board.vivado.bus_width), clock_mhz=board.clock_mhz)


Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Writes a board's project, with texts replaced in some of its files: file, old, new."""

    def write(name: str, *changes: tuple[str, str, str]) -> Path:
        texts = dict(files_of(name))
        for file, old, new in changes:
            assert texts[file].count(old) == 1, f"{old!r} is {texts[file].count(old)} times in {file}"
            texts[file] = texts[file].replace(old, new)
        for file, text in texts.items():
            (tmp_path / file).write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("name", BOARD_NAMES)
def test_every_board_s_project_comes_to_an_overlay(project: Project, name: str):
    folder = project(name)
    vivado = VivadoStub(folder)
    assert vivado.source(jobs=3) == 0, vivado.output
    assert vivado.output == [
        "halfulp: step: packaging the core",
        "halfulp: step: block design",
        "halfulp: step: synthesis",
        "halfulp: step: place and route",
        "halfulp: step: reports",
        f"halfulp: done: {folder / 'overlay'}",
    ]
    assert sorted(path.name for path in (folder / "overlay").iterdir()) == ["halfulp.bit", "halfulp.hwh"]
    board = BOARDS.get(name)
    assert board.vivado is not None
    assert read_handoff(folder / "overlay" / "halfulp.hwh") == (
        small_config(board.vivado.bus_width),
        board.vivado.processing_system,
    )


@pytest.mark.parametrize("name", BOARD_NAMES)
def test_addresses_and_names_are_those_that_pynq_and_the_virtual_board_have(project: Project, name: str):
    vivado = VivadoStub(project(name))
    vivado.source()
    board = BOARDS.get(name)
    assert board.vivado is not None
    ps, design = board.vivado.ps, vivado.design
    space = f"{ps.instance}/Data"
    assert design.addresses[space, f"{CORE_INSTANCE}/s_axi/reg0"] == (ps.core_address, 4096)
    assert design.addresses[space, f"{INTERRUPT_INSTANCE}/S_AXI/Reg"] == (ps.interrupt_address, 4096)
    assert design.cells[CORE_INSTANCE].ip["vlnv"] == CORE_VLNV
    assert design.cells[ps.instance].ip["vlnv"].startswith(f"xilinx.com:ip:{ps.cell}:")
    assert design.drivers[f"{ps.instance}/{ps.interrupt_port}"] == f"{INTERRUPT_INSTANCE}/irq"
    assert design.drivers[f"{INTERRUPT_INSTANCE}/intr"] == f"{CORE_INSTANCE}/interrupt"
    assert design.links[f"{ps.instance}/{ps.register_port}"] == "register_bus_0/S00_AXI"
    assert design.links[f"{ps.instance}/{ps.memory_port}"] == "memory_bus_0/M00_AXI"
    properties = design.cells[ps.instance].properties
    widths = {"zynq-7000": "PCW_S_AXI_HP0_DATA_WIDTH", "zynqmp": "PSU__SAXIGP2__DATA_WIDTH"}
    clocks = {"zynq-7000": "PCW_FPGA0_PERIPHERAL_FREQMHZ", "zynqmp": "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"}
    assert properties[widths[ps.name]] == str(board.vivado.bus_width)
    assert properties[clocks[ps.name]] == f"{board.clock_mhz:g}"
    memory = [segment for (_, segment), place in design.addresses.items() if place == (-1, -1)]
    low = {"zynq-7000": "S_AXI_HP0/HP0_DDR_LOWOCM", "zynqmp": "SAXIGP2/HP0_DDR_LOW"}[ps.name]
    high = [f"{ps.instance}/SAXIGP2/HP0_DDR_HIGH"] if name == "kv260" else []
    assert memory == [f"{ps.instance}/{low}", *high]


def test_the_packaged_core_has_the_register_map_and_the_configuration(project: Project):
    vivado = VivadoStub(project("zcu104"))
    vivado.source()
    parameters = {
        handle.partition(".")[2]: properties["value"]
        for handle, properties in vivado.objects_of("user_parameter").items()
    }
    assert config_of_parameters(parameters) == small_config(128)
    offsets = {
        handle.rpartition(".")[2]: int(properties["address_offset"], 0)
        for handle, properties in vivado.objects_of("register").items()
    }
    assert offsets == {register.name.upper(): register.offset for register in REGISTERS}
    fields = [handle.rpartition(".")[2] for handle in vivado.objects_of("field")]
    assert fields == [field.name.upper() for register in REGISTERS for field in register.fields]


def test_a_board_s_files_of_another_revision_serve(project: Project):
    vivado = VivadoStub(project("ultra96-v2"))
    assert vivado.source() == 0
    assert vivado.objects["project"][1]["board_part"] == "avnet.com:ultra96v2:part0:1.3"


def test_an_old_vivado_is_refused_before_anything_is_made(project: Project):
    folder = project("pynq-z2")
    vivado = VivadoStub(folder, release="2019.2")
    assert vivado.source() == 1
    assert vivado.output == ["halfulp: error: Vivado 2019.2 is too old: 2020.2 or newer is needed"]
    assert not (folder / "work").exists()


def test_a_design_that_is_too_slow_gives_no_overlay(project: Project):
    folder = project("pynq-z2")
    vivado = VivadoStub(folder, slack_ns=-0.25)
    assert vivado.source() == 1
    assert vivado.output[-1] == (
        "halfulp: error: timing is not met at 100 MHz: the worst set-up slack is -0.250 ns (timing.txt has the paths)"
    )
    assert not (folder / "overlay").exists()


DESIGN, PACKAGE, SETTINGS, IMPLEMENT = "block_design.tcl", "package_ip.tcl", "settings.tcl", "implement.tcl"

BROKEN = {
    "a clock is missing": (DESIGN, "reset_0/slowest_sync_clk ", "", "reset_0/slowest_sync_clk has no clock"),
    "the core is not clocked": (DESIGN, "[list $core/aclk ", "[list ", "halfulp_core_0/aclk has no clock"),
    "a port of the processor is not clocked": (
        SETTINGS, "maxihpm0_fpd_aclk saxihp0_fpd_aclk", "saxihp0_fpd_aclk", "maxihpm0_fpd_aclk has no clock",
    ),
    "a reset is missing": (DESIGN, "[list $core/aresetn $intc", "[list $intc", "halfulp_core_0/aresetn has no reset"),
    "a reset is of the other polarity": (
        DESIGN, "[pin_at reset_0/peripheral_aresetn]", "[pin_at reset_0/peripheral_reset]", "is a reset high",
    ),
    "a clock drives a reset": (
        DESIGN, "[pin_at $ps/$halfulp(ps_reset)]", "[pin_at $ps/$halfulp(ps_clock)]", "is a clock, reset_0/ext",
    ),
    "no such pin": (DESIGN, "$intc/s_axi_aclk", "$intc/aclk", "has 0 of the pin axi_intc_0/aclk, not 1"),
    "no such bus": (DESIGN, "register_bus_0/M01_AXI", "register_bus_0/M02_AXI", "has 0 of the bus register_bus_0/M02"),
    "a port that was not opened": (
        SETTINGS, "    CONFIG.PSU__USE__S_AXI_GP2 1\n", "", "0 of the pin zynq_ultra_ps_e_0/saxihp0_fpd_aclk",
    ),
    "a port of the preset that was not closed": (
        SETTINGS, "    CONFIG.PSU__USE__M_AXI_GP1 0\n", "", "zynq_ultra_ps_e_0/maxihpm1_fpd_aclk has no clock",
    ),
    "no such property": (SETTINGS, "PSU__USE__IRQ0", "PSU__USE__IRQ_0", "has no property CONFIG.PSU__USE__IRQ_0"),
    "a value that is none": (
        SETTINGS, "PSU__SAXIGP2__DATA_WIDTH 128", "PSU__SAXIGP2__DATA_WIDTH 256", "cannot be '256'",
    ),
    "a cell twice": (DESIGN, "smartconnect memory_bus_0", "smartconnect register_bus_0", "there is a cell register"),
    "no such IP": (DESIGN, "xilinx.com:ip:axi_intc", "xilinx.com:ip:axi_int", "there is no IP xilinx.com:ip:axi_int"),
    "another core": (SETTINGS, "halfulp_core:1.0", "halfulp_core:1.0.0", "version of a core cannot be '1.0.0'"),
    "a bus twice": (DESIGN, "[bus_at register_bus_0/M01_AXI]", "[bus_at register_bus_0/M00_AXI]", "is connected to"),
    "two targets": (
        DESIGN, "[bus_at $core/m_axi] [bus_at memory", "[bus_at $core/s_axi] [bus_at memory", "cannot be connected",
    ),
    "memory out of reach": (
        DESIGN, "connect_bd_intf_net [bus_at $core/m_axi] [bus_at memory_bus_0/S00_AXI]\n", "", "no path leads from",
    ),
    "a bus left open": (DESIGN, "CONFIG.NUM_MI 2", "CONFIG.NUM_MI 3", "register_bus_0/M02_AXI is not connected"),
    "no interrupt": (
        DESIGN, "connect_bd_net [pin_at $core/interrupt] [pin_at $intc/intr]\n", "", "axi_intc_0/intr has no interrupt",
    ),
    "an address out of reach": (SETTINGS, "0xa0010000", "0xb0010000", "is outside of what zynq_ultra_ps_e_0/Data can"),
    "addresses that overlap": (SETTINGS, "0xa0010000", "0xa0000000", "overlaps halfulp_core_0/s_axi/reg0"),
    "an address between two": (SETTINGS, "0xa0010000", "0xa0010800", "is not aligned to its range 0x1000"),
    "no address": (DESIGN, "    assign_bd_address -target", "    list -target", "HP0_DDR_LOW has no address in"),
    "a segment forgotten": (SETTINGS, " SAXIGP2/HP0_QSPI", "", "SAXIGP2/HP0_QSPI has no address in halfulp_core_0"),
    "no such segment": (SETTINGS, "(memory) SAXIGP2/HP0_DDR_LOW", "(memory) HP0_DDR", "0 of the memory segment HP0"),
    "no such option": (DESIGN, "create_project $", "create_project -boards x $", "create_project has no option -b"),
    "no such command": (DESIGN, "save_bd_design", "save_bd", 'invalid command name "save_bd"'),
    "not validated": (DESIGN, "validate_bd_design\n", "", "the block design is saved before it is validated"),
    "a command of Vivado's hidden": (DESIGN, "proc pin_at", "proc step", "step is Vivado's own"),
    "no such board": (SETTINGS, "xilinx.com:zcu104", "xilinx.com:zcu1040", "Vivado has no board files of xilinx.com:z"),
    "no such part": (SETTINGS, "xczu7ev-ffvc1156-2-e", "xczu7ev-ffvc1156-2", "there is no part"),
    "a bus without clock": (
        PACKAGE, "ipx::associate_bus_interfaces -busif m_axi -clock aclk $packaged\n", "", "m_axi of the core is not",
    ),
    "no memory map": (PACKAGE, "slave_memory_map_ref s_axi", "slave_memory_map_ref other", "s_axi of the core has no"),
    "a register's property": (PACKAGE, "set_property size 32", "set_property bits 32", "a register has no property"),
    "no such port": (PACKAGE, "interrupt interrupt}", "irq interrupt}", "the core has no port irq"),
    "another top": (IMPLEMENT, "set_property top ${design}_wrapper", "set_property top $design", "the top is not"),
    "no bitstream": (IMPLEMENT, "-to_step write_bitstream", "-to_step route_design", "there is no run impl_1 to route"),
    "the hand-off file is elsewhere": (IMPLEMENT, "$design.gen", "$design.srcs", "Vivado made no"),
}  # fmt: skip
"""By what is wrong: the file, what stands there, what is put in its place, and what is said of it."""


@pytest.mark.parametrize("wrong", BROKEN)
def test_a_broken_script_is_caught(project: Project, wrong: str):
    file, old, new, message = BROKEN[wrong]
    folder = project("zcu104", (file, old, new))
    vivado = VivadoStub(folder)
    assert vivado.source() == 1
    assert vivado.output[-1].startswith("halfulp: error: ")
    assert message in vivado.output[-1]
    assert not (folder / "overlay").exists()


def test_properties_that_the_preset_would_undo_are_caught(project: Project):
    automation = files_of("zcu104")[DESIGN]
    line = next(line for line in automation.splitlines(True) if line.startswith("apply_bd_automation"))
    setting = next(line for line in automation.splitlines(True) if "halfulp(ps_properties)" in line)
    vivado = VivadoStub(project("zcu104", (DESIGN, line, ""), (DESIGN, setting, setting + line)))
    assert vivado.source() == 1
    assert "maxihpm1_fpd_aclk has no clock" in vivado.output[-1]


@pytest.mark.parametrize(
    ("file", "cell"),
    [("resizer.hwh", "processing_system7"), ("resizer.hwh", "proc_sys_reset"), ("rfsoc_sam.hwh", "zynq_ultra_ps_e")],
)
def test_the_names_are_those_in_hand_off_files_that_vivado_wrote(file: str, cell: str):
    """Every property, and the pins and buses that those designs have open, under Vivado's own names."""
    pynqmetadata = pytest.importorskip("pynqmetadata")
    root = ET.parse(Path(pynqmetadata.__file__).parent / "tests" / "hwhs" / file).getroot()
    module = next(m for m in root.iterfind("./MODULES/MODULE") if m.get("MODTYPE") == cell)
    parameters = {p.get("NAME", ""): p.get("VALUE", "") for p in module.iterfind("./PARAMETERS/PARAMETER")}
    ip = NAMES["ips"][cell]
    assert set(ip["properties"]) <= set(parameters)

    def is_open(thing: dict[str, dict[str, str]]) -> bool:
        return all(parameters[name] == value for name, value in thing.get("needs", {}).items())

    directions = {p.get("NAME", ""): p.get("DIR") for p in module.iterfind("./PORTS/PORT")}
    for name, pin in ip["pins"].items():
        if is_open(pin):
            assert directions[name] == {"in": "I", "out": "O"}[pin["direction"]]
        else:
            assert name not in directions
    types = {b.get("NAME", ""): b.get("TYPE") for b in module.iterfind("./BUSINTERFACES/BUSINTERFACE")}
    for name, bus in ip["buses"].items():
        if is_open(bus):
            assert types[name] == {"initiator": "MASTER", "target": "SLAVE"}[bus["end"]]
        else:
            assert name not in types


def test_the_scripts_use_nothing_newer_than_tcl_8_5(project: Project):
    """Vivado 2020.2 has Tcl 8.5: commands that came later are not in the scripts."""
    later = ("try ", "throw ", "lmap ", "dict map", "dict filter", "string cat", "tailcall", "coroutine")
    for name in ("build.tcl", PACKAGE, DESIGN, IMPLEMENT):
        code = [line for line in files_of("pynq-z1")[name].splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in code if any(word in line for word in later)]
