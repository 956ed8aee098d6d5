"""A Vivado project as files: the core's Verilog, Tcl from packaging to bitstream, what is put in for a board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from halfulp.boards.board import Board
from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import config_toml
from halfulp.hw.handoff import (
    CORE_INSTANCE,
    CORE_VLNV,
    INTERRUPT_INSTANCE,
    REGISTER_ACCESS,
    REGISTER_BYTES,
    ProcessingSystem,
    config_parameters,
)
from halfulp.hw.registers import REGISTERS
from halfulp.hw.verilog import TOP, generate_verilog

__all__ = ["DESIGN", "LEAST_VIVADO", "SCRIPTS", "check_board", "project_files", "settings_tcl", "vivado_command"]

DESIGN = "halfulp"
"""Name of the block design, and of the overlay's two files."""

LEAST_VIVADO = "2020.2"
"""The oldest Vivado whose hand-off file lies where the Tcl looks for it."""

SCRIPTS = ("build.tcl", "package_ip.tcl", "block_design.tcl", "implement.tcl")
"""The same for every board and core; all that differs is in settings.tcl."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What Vivado calls things at a processing system, beside what PYNQ sees of it.

    AMD documents the names in PG082 (Zynq-7000) and PG201 (Zynq UltraScale+).

    Attributes
    ----------
    automation
        Configuration of the rule that applies the board's preset.
    properties
        What the design asks of it; ``{clock}`` and ``{width}`` stand for MHz and the memory port's bits.
    clock, reset
        The pins that clock and reset the logic.
    clocked
        The pins that want the clock of the ports that are used.
    low, high
        The segments of memory below and above 2 GiB, where it has two.
    others
        What else can be reached by the memory port.
    """

    automation: Mapping[str, str]
    properties: Mapping[str, str]
    clock: str
    reset: str
    clocked: tuple[str, ...]
    low: str
    high: str | None
    others: tuple[str, ...]


PROCESSORS = {
    "zynq-7000": Processor(
        automation={
            "make_external": "FIXED_IO, DDR",
            "apply_board_preset": "1",
            "Master": "Disable",
            "Slave": "Disable",
        },
        properties={
            "PCW_USE_M_AXI_GP0": "1",
            "PCW_USE_M_AXI_GP1": "0",
            "PCW_USE_S_AXI_HP0": "1",
            "PCW_S_AXI_HP0_DATA_WIDTH": "{width}",
            "PCW_USE_FABRIC_INTERRUPT": "1",
            "PCW_IRQ_F2P_INTR": "1",
            "PCW_EN_CLK0_PORT": "1",
            "PCW_EN_RST0_PORT": "1",
            "PCW_FPGA0_PERIPHERAL_FREQMHZ": "{clock}",
        },
        clock="FCLK_CLK0",
        reset="FCLK_RESET0_N",
        clocked=("M_AXI_GP0_ACLK", "S_AXI_HP0_ACLK"),
        low="S_AXI_HP0/HP0_DDR_LOWOCM",
        high=None,
        others=(),
    ),
    "zynqmp": Processor(
        automation={"apply_board_preset": "1"},
        # The vendor numbers the same ports in two ways: S_AXI_GP2 is HP0, M_AXI_GP0 to 2 are HPM0_FPD, HPM1_FPD, LPD.
        properties={
            "PSU__USE__M_AXI_GP0": "1",
            "PSU__MAXIGP0__DATA_WIDTH": "128",
            "PSU__USE__M_AXI_GP1": "0",
            "PSU__USE__M_AXI_GP2": "0",
            "PSU__USE__S_AXI_GP2": "1",
            "PSU__SAXIGP2__DATA_WIDTH": "{width}",
            "PSU__USE__IRQ0": "1",
            "PSU__USE__FABRIC__RST": "1",
            "PSU__FPGA_PL0_ENABLE": "1",
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": "{clock}",
        },
        clock="pl_clk0",
        reset="pl_resetn0",
        clocked=("maxihpm0_fpd_aclk", "saxihp0_fpd_aclk"),
        low="SAXIGP2/HP0_DDR_LOW",
        high="SAXIGP2/HP0_DDR_HIGH",
        others=("SAXIGP2/HP0_LPS_OCM", "SAXIGP2/HP0_QSPI", "SAXIGP2/HP0_PCIE_LOW"),
    ),
}
"""By the names of `halfulp.hw.handoff.PROCESSING_SYSTEMS`."""


def check_board(board: Board, config: ArrayConfig, clock_mhz: float) -> None:
    """Raise ValueError where a core cannot be built for a board in Vivado's flow."""
    if board.vivado is None:
        raise ValueError(f"board {board.name} is not built by Vivado: its flow is {board.flow}")
    if config.bus_width != board.vivado.bus_width:
        raise ValueError(
            f"bus_width of a core for {board.name} must be {board.vivado.bus_width}, its memory port's, "
            f"not {config.bus_width}"
        )
    if not 1 <= clock_mhz <= 500:
        raise ValueError(f"clock must be 1 to 500 MHz, not {clock_mhz:g}")


def project_files(board: Board, config: ArrayConfig, *, clock_mhz: float) -> dict[str, str]:
    """Text of each file of the project, by its name.

    Raises
    ------
    ValueError
        Where the board's flow is another one, its memory port is not as wide as the core's, or the clock is out of
        range.
    """
    check_board(board, config, clock_mhz)
    tcl = files("halfulp.boards").joinpath("tcl")
    return {
        **{name: tcl.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS},
        "settings.tcl": settings_tcl(board, config, clock_mhz=clock_mhz),
        f"{TOP}.v": generate_verilog(config),
        "config.toml": config_toml(config),
        "README.md": _readme(board, config, clock_mhz),
    }


def vivado_command(vivado: str = "vivado", *, jobs: int = 2) -> list[str]:
    """What runs the project, in its folder, with so many processes of Vivado."""
    log = ["-log", "vivado.log", "-journal", "vivado.jou"]
    return [vivado, "-mode", "batch", *log, "-source", "build.tcl", "-tclargs", str(jobs)]


def settings_tcl(board: Board, config: ArrayConfig, *, clock_mhz: float) -> str:
    """What the scripts need to know of board and core, as elements of the Tcl array `halfulp`."""
    check_board(board, config, clock_mhz)
    assert board.vivado is not None
    vivado, ps = board.vivado, board.vivado.ps
    processor = PROCESSORS[ps.name]
    memory = [processor.low] + ([processor.high] if processor.high and vivado.high_memory else [])
    values: dict[str, str] = {
        "title": f"halfulp {config.rows}x{config.columns}",
        "description": f"Low-precision GEMM accelerator {config.name}",
        "design": DESIGN,
        "least_vivado": LEAST_VIVADO,
        "part": board.part,
        "board_part": vivado.board_part,
        "verilog": f"{TOP}.v",
        "top": TOP,
        "clock_mhz": f"{clock_mhz:g}",
        "core_vlnv": CORE_VLNV,
        "core": CORE_INSTANCE,
        "interrupt_controller": INTERRUPT_INSTANCE,
        "register_bytes": str(REGISTER_BYTES),
        "core_address": f"{ps.core_address:#010x}",
        "interrupt_address": f"{ps.interrupt_address:#010x}",
        **_ports(ps),
        "ps_automation": _pairs(processor.automation),
        "ps_properties": _pairs(_properties(processor, vivado.bus_width, clock_mhz)),
        "ps_clock": processor.clock,
        "ps_reset": processor.reset,
        "ps_clocked": _list(processor.clocked),
        "memory": _list(memory),
        "not_memory": _list(s for s in (processor.high, *processor.others) if s and s not in memory),
        "parameters": _pairs(config_parameters(config)),
        "registers": _registers(),
    }
    lines = [f"# {board.title}: what the scripts are told of the board and of the core.", "", "array unset halfulp"]
    lines += [f"set halfulp({name}) {_word(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _ports(ps: ProcessingSystem) -> dict[str, str]:
    names = {"register_port": ps.register_port, "memory_port": ps.memory_port, "interrupt_port": ps.interrupt_port}
    return {"ps_cell": ps.cell, "ps": ps.instance, **names}


def _properties(processor: Processor, width: int, clock_mhz: float) -> dict[str, str]:
    return {
        f"CONFIG.{name}": value.format(width=width, clock=f"{clock_mhz:g}")
        for name, value in processor.properties.items()
    }


def _registers() -> str:
    """Name, offset, access, description and fields of each register; of a field name, lowest bit, width and text."""
    lines: list[str] = []
    for register in REGISTERS:
        fields = [item for f in register.fields for item in (f.name.upper(), str(f.lsb), str(f.width), f.doc)]
        access = REGISTER_ACCESS[register.access]
        lines.append(_list([register.name.upper(), f"{register.offset:#x}", access, register.doc, _list(fields)]))
    return _lines(lines)


def _pairs(values: Mapping[str, str]) -> str:
    """A Tcl list of names and values in turn, a pair a line."""
    return _lines([_list(pair) for pair in values.items()])


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"\n    {line}" for line in lines) + "\n"


def _list(items: Iterable[str]) -> str:
    return " ".join(map(_word, items))


def _word(text: str) -> str:
    """The text as one word of Tcl that is not substituted; raise ValueError on what cannot be."""
    # In braces only braces and backslashes mean anything, and none of our data has them unbalanced.
    if "\\" in text or not _is_balanced(text):
        raise ValueError(f"text for Tcl must have no backslashes and no unbalanced braces: {text!r}")
    return text if text and not set(text) & set(' \t\n"$[]{};#') else f"{{{text}}}"


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _readme(board: Board, config: ArrayConfig, clock_mhz: float) -> str:
    assert board.vivado is not None
    return f"""# {config.name} for {board.title}

A Vivado project: an overlay for PYNQ with one core at {clock_mhz:g} MHz.

1. Install AMD Vivado {LEAST_VIVADO} or newer with the family of {board.part}.
2. Board files of `{board.vivado.board_part}`: {board.vivado.board_files}.
3. In this folder, after `source settings64.sh` of Vivado's folder:

       {" ".join(vivado_command())}

   The last number is how many processes Vivado may start. It takes from half an hour to some hours.
4. `overlay/{DESIGN}.bit` and `overlay/{DESIGN}.hwh` are then there, both or neither. Copy both to the board:

       scp overlay/{DESIGN}.* xilinx@BOARD:
       sudo halfulp boards check pynq:{DESIGN}.bit     # on the board

| file | what it is |
|---|---|
| `settings.tcl` | what is put in for this board and this core |
| `build.tcl` | runs the three below |
| `package_ip.tcl` | makes an IP of `{TOP}.v` |
| `block_design.tcl` | processor, core, interconnect, addresses |
| `implement.tcl` | synthesis, place and route, bitstream |
| `config.toml` | the core's configuration |

`work`, `vivado.log` and `vivado.jou` are Vivado's and may be deleted.
"""
