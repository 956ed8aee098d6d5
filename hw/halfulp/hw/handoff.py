"""The hardware hand-off file (.hwh): what a design tells PYNQ of its core. NumPy and standard library only.

Vivado writes one beside each bitstream. The one made here has the same core, register map, interrupt and clock, and
nothing of the interconnect between: it serves designs that no Vivado has seen, such as the virtual board's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import REGISTERS, Register
from halfulp.numerics.names import Registry

__all__ = [
    "CORE_INSTANCE",
    "CORE_VLNV",
    "INTERRUPT_INSTANCE",
    "PROCESSING_SYSTEMS",
    "REGISTER_ACCESS",
    "REGISTER_BYTES",
    "ProcessingSystem",
    "config_of_parameters",
    "config_parameters",
    "default_processing_system",
    "handoff_xml",
    "read_handoff",
]

CORE_VLNV = "halfulp.org:ip:halfulp_core:1.0"
"""Vendor, library, name and version under which the core is packaged; PYNQ binds the driver by it."""

CORE_INSTANCE = "halfulp_core_0"
"""Name of the core in a block design, and of its driver in an overlay."""

INTERRUPT_INSTANCE = "axi_intc_0"
"""Name of the interrupt controller in a block design."""

REGISTER_BYTES = 4096
"""Address range of the core's registers."""

IO_PLL_MHZ = 1500.0
"""What the clock divisors of a hand-off file made here divide."""

REGISTER_ACCESS = {"ro": "read-only", "rw": "read-write", "w1": "write-only"}
"""A register's access in the words of IP-XACT."""

AXI_VLNV = "xilinx.com:interface:aximm:1.0"


@dataclass(frozen=True, kw_only=True)
class ProcessingSystem:
    """What differs between the processor halves of the parts that PYNQ runs on.

    Attributes
    ----------
    name
        What board files call it.
    cell
        Vendor's IP and its instance, without the ``_0``.
    version
        Of that IP.
    machine
        What its Linux calls the processor.
    register_port, memory_port, interrupt_port
        Where the core's registers, its memory bus and its interrupt are connected.
    core_address, interrupt_address
        Where the processor finds the registers of the core and of the interrupt controller.
    address_bits
        Of the memory port.
    clock_source, clock_divisor, clock_enable
        Parameters of clock `n`; a divisor has two `stage` s.
    """

    name: str
    cell: str
    version: str
    machine: str
    register_port: str
    memory_port: str
    interrupt_port: str
    core_address: int
    interrupt_address: int
    address_bits: int
    clock_source: str
    clock_divisor: str
    clock_enable: str

    @property
    def instance(self) -> str:
        """Name in a block design."""
        return f"{self.cell}_0"

    def clock_parameters(self, clock_mhz: float) -> dict[str, str]:
        """The parameters from which PYNQ sets the clocks of the logic: clock 0 alone, at this rate."""
        clocks: dict[str, str] = {}
        for n in range(4):
            # pynqmetadata reads the rate by its ZynqMP name on a Zynq-7000 as well, and PYNQ 4.0 fails without it.
            clocks[f"PSU__CRL_APB__PL{n}_REF_CTRL__ACT_FREQMHZ"] = f"{clock_mhz:g}"
            clocks[self.clock_source.format(n=n)] = "IOPLL"
            clocks[self.clock_enable.format(n=n)] = str(int(n == 0))
            # PYNQ before 4.0 goes by the divisors instead.
            for stage, divisor in enumerate((max(1, round(IO_PLL_MHZ / clock_mhz)), 1)):
                clocks[self.clock_divisor.format(n=n, stage=stage)] = str(divisor)
        return clocks


PROCESSING_SYSTEMS: Registry[ProcessingSystem] = Registry("processing system")
"""By the names that board files use."""

for _ps in (
    ProcessingSystem(
        name="zynq-7000",
        cell="processing_system7",
        version="5.5",
        machine="armv7l",
        register_port="M_AXI_GP0",
        memory_port="S_AXI_HP0",
        interrupt_port="IRQ_F2P",
        core_address=0x4000_0000,
        interrupt_address=0x4180_0000,
        address_bits=32,
        clock_source="PCW_FCLK{n}_PERIPHERAL_CLKSRC",
        clock_divisor="PCW_FCLK{n}_PERIPHERAL_DIVISOR{stage}",
        clock_enable="PCW_FPGA_FCLK{n}_ENABLE",
    ),
    ProcessingSystem(
        name="zynqmp",
        cell="zynq_ultra_ps_e",
        version="3.4",
        machine="aarch64",
        register_port="M_AXI_HPM0_FPD",
        memory_port="S_AXI_HP0_FPD",
        interrupt_port="pl_ps_irq0",
        core_address=0xA000_0000,
        interrupt_address=0xA001_0000,
        address_bits=49,
        clock_source="PSU__CRL_APB__PL{n}_REF_CTRL__SRCSEL",
        clock_divisor="PSU__CRL_APB__PL{n}_REF_CTRL__DIVISOR{stage}",
        clock_enable="PSU__FPGA_PL{n}_ENABLE",
    ),
):
    PROCESSING_SYSTEMS.register(_ps.name, _ps)


def default_processing_system(config: ArrayConfig) -> str:
    """The one whose memory ports are as wide as the core's bus."""
    return "zynqmp" if config.bus_width == 128 else "zynq-7000"


def handoff_xml(
    config: ArrayConfig,
    *,
    processing_system: str | None = None,
    clock_mhz: float = 100.0,
    interrupt: bool = True,
    design: str = "halfulp",
) -> str:
    """The hand-off file of a design that holds one core.

    Parameters
    ----------
    config
        The core's; its parameters become those of the module.
    processing_system
        Name of a `ProcessingSystem`; None: see `default_processing_system`.
    clock_mhz
        Of the core.
    interrupt
        Whether the core's interrupt line reaches the processor, by way of an interrupt controller.
    design
        Name of the design.
    """
    if not clock_mhz > 0:
        raise ValueError(f"clock_mhz must be positive, not {clock_mhz!r}")
    ps = PROCESSING_SYSTEMS.get(processing_system or default_processing_system(config))
    root = ET.Element("EDKSYSTEM", EDWVERSION="1.2", VIVADOVERSION="2022.1")
    ET.SubElement(root, "SYSTEMINFO", ARCH="zynq" if ps.address_bits == 32 else "zynquplus", NAME=design)
    ET.SubElement(root, "EXTERNALPORTS")
    ET.SubElement(root, "EXTERNALINTERFACES")
    modules = ET.SubElement(root, "MODULES")
    _add_core(modules, config, interrupt)
    if interrupt:
        _add_interrupt_controller(modules, ps)
    _add_processing_system(modules, ps, clock_mhz, interrupt)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def config_parameters(config: ArrayConfig) -> dict[str, str]:
    """The configuration as the parameters of a core's module; `config_of_parameters` reads them back."""
    return {
        key.upper(): " ".join(value) if isinstance(value, list) else str(value)
        for key, value in config.to_dict().items()
    }


def config_of_parameters(parameters: Mapping[str, Any]) -> ArrayConfig | None:
    """The configuration that a core's module in a hand-off file tells of; None where it tells of none.

    Raises
    ------
    ValueError
        Where there is no such core.
    """
    lower = {key.lower(): value for key, value in parameters.items()}
    data: dict[str, Any] = {}
    for key, default in ArrayConfig().to_dict().items():
        if key not in lower:
            return None
        value = str(lower[key])
        if isinstance(default, bool):
            data[key] = {"True": True, "False": False}.get(value, value)
        else:
            data[key] = value.split() if isinstance(default, list) else type(default)(value)
    return ArrayConfig.from_dict(data)


def read_handoff(path: str | Path) -> tuple[ArrayConfig | None, str]:
    """What a hand-off file tells of its core, None where nothing, and the name of its processing system.

    Raises
    ------
    ValueError
        Where the file is no hand-off file with one of our cores and a processing system that is known here.
    """
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise ValueError(f"{path} is no hand-off file: {error}") from error
    modules = root.findall("./MODULES/MODULE")
    core = next((module for module in modules if module.get("VLNV") == CORE_VLNV), None)
    cells = {ps.cell: ps.name for ps in PROCESSING_SYSTEMS.members()}
    ps = next((cells[cell] for module in modules if (cell := module.get("MODTYPE", "")) in cells), None)
    if core is None or ps is None:
        missing = f"core of {CORE_VLNV}" if core is None else f"processing system of {', '.join(cells)}"
        raise ValueError(f"{path} has no {missing}")
    parameters = {p.get("NAME", ""): p.get("VALUE", "") for p in core.findall("./PARAMETERS/PARAMETER")}
    return config_of_parameters(parameters), ps


def _add_module(modules: ET.Element, instance: str, vlnv: str, **attributes: str) -> ET.Element:
    kind = vlnv.split(":")[2]
    named = {"FULLNAME": f"/{instance}", "INSTANCE": instance, "MODTYPE": kind, "VLNV": vlnv}
    fixed = {"IPTYPE": "PERIPHERAL", "IS_ENABLE": "1", "MODCLASS": "PERIPHERAL"}
    return ET.SubElement(modules, "MODULE", {**named, **fixed, **attributes})


def _add_core(modules: ET.Element, config: ArrayConfig, interrupt: bool) -> None:
    module = _add_module(modules, CORE_INSTANCE, CORE_VLNV)
    block = ET.SubElement(
        ET.SubElement(module, "ADDRESSBLOCKS"),
        "ADDRESSBLOCK",
        ACCESS="read-write",
        INTERFACE="s_axi",
        NAME="reg0",
        RANGE=str(REGISTER_BYTES),
        USAGE="register",
    )
    registers = ET.SubElement(block, "REGISTERS")
    for register in REGISTERS:
        _add_register(registers, register)
    _add_parameters(module, config_parameters(config))
    ports = ET.SubElement(module, "PORTS")
    if interrupt:
        _add_port(ports, "interrupt", "O", (INTERRUPT_INSTANCE, "intr"))
    _add_buses(module, s_axi="TARGET", m_axi="INITIATOR")


def _add_register(registers: ET.Element, register: Register) -> None:
    element = ET.SubElement(registers, "REGISTER", NAME=register.name.upper())
    properties = {
        "DESCRIPTION": register.doc,
        "ADDRESS_OFFSET": f"{register.offset:#x}",
        "SIZE": "32",
        "ACCESS": REGISTER_ACCESS[register.access],
        "IS_ENABLED": "true",
    }
    _add_properties(element, properties)
    if not register.fields:
        return
    fields = ET.SubElement(element, "FIELDS")
    for field in register.fields:
        properties = {
            "DESCRIPTION": field.doc,
            "ACCESS": REGISTER_ACCESS[register.access],
            "BIT_OFFSET": str(field.lsb),
            "BIT_WIDTH": str(field.width),
        }
        _add_properties(ET.SubElement(fields, "FIELD", NAME=field.name.upper()), properties)


def _add_interrupt_controller(modules: ET.Element, ps: ProcessingSystem) -> None:
    module = _add_module(modules, INTERRUPT_INSTANCE, "xilinx.com:ip:axi_intc:4.1")
    _add_parameters(module, {"C_NUM_INTR_INPUTS": "1", "C_KIND_OF_INTR": "0x0"})
    ports = ET.SubElement(module, "PORTS")
    _add_port(ports, "intr", "I", (CORE_INSTANCE, "interrupt"))
    _add_port(ports, "irq", "O", (ps.instance, ps.interrupt_port))
    _add_buses(module, s_axi="TARGET")


def _add_processing_system(modules: ET.Element, ps: ProcessingSystem, clock_mhz: float, interrupt: bool) -> None:
    module = _add_module(modules, ps.instance, f"xilinx.com:ip:{ps.cell}:{ps.version}", IS_PL="FALSE")
    _add_parameters(module, ps.clock_parameters(clock_mhz))
    ports = ET.SubElement(module, "PORTS")
    if interrupt:
        _add_port(ports, ps.interrupt_port, "I", (INTERRUPT_INSTANCE, "irq"))
    _add_buses(module, **{ps.register_port: "INITIATOR", ps.memory_port: "TARGET"})
    memory_map = ET.SubElement(module, "MEMORYMAP")
    ranges = [(CORE_INSTANCE, ps.core_address)] + [(INTERRUPT_INSTANCE, ps.interrupt_address)] * interrupt
    for instance, base in ranges:
        ET.SubElement(
            memory_map,
            "MEMRANGE",
            ADDRESSBLOCK="reg0",
            BASENAME="C_BASEADDR",
            BASEVALUE=f"0x{base:08X}",
            HIGHNAME="C_HIGHADDR",
            HIGHVALUE=f"0x{base + REGISTER_BYTES - 1:08X}",
            INSTANCE=instance,
            IS_DATA="TRUE",
            MASTERBUSINTERFACE=ps.register_port,
            MEMTYPE="REGISTER",
            SLAVEBUSINTERFACE="s_axi",
        )


def _add_parameters(module: ET.Element, parameters: dict[str, str]) -> None:
    element = ET.SubElement(module, "PARAMETERS")
    for name, value in parameters.items():
        ET.SubElement(element, "PARAMETER", NAME=name, VALUE=value)


def _add_properties(element: ET.Element, properties: dict[str, str]) -> None:
    for name, value in properties.items():
        ET.SubElement(element, "PROPERTY", NAME=name, VALUE=value)


def _add_port(ports: ET.Element, name: str, direction: str, connected: tuple[str, str]) -> None:
    port = ET.SubElement(ports, "PORT", DIR=direction, NAME=name, SIGIS="INTERRUPT")
    instance, remote = connected
    ET.SubElement(ET.SubElement(port, "CONNECTIONS"), "CONNECTION", INSTANCE=instance, PORT=remote)


def _add_buses(module: ET.Element, **interfaces: str) -> None:
    element = ET.SubElement(module, "BUSINTERFACES")
    for name, role in interfaces.items():
        ET.SubElement(element, "BUSINTERFACE", NAME=name, TYPE=role, VLNV=AXI_VLNV)
