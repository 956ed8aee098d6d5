"""Models of an ECP5's cells: they are Yosys' own where it has one, and netlists with them do what their sources do."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import pytest

from halfulp.boards.netlist import cell_models, plain_verilog, with_buses
from halfulp.boards.programs import PROGRAMS, ProgramError, run_program
from halfulp.boards.synthesis import synthesise
from halfulp.sim.verilator import build_library

INDUCTION = "-tempinduct"

ALIKE = {
    "LUT4": ("input A, B, C, D, output Z", "", INDUCTION, [".INIT(16'h6ac1)", ".INIT(16'h1234)"]),
    "CCU2C": (
        "input CIN, A0, B0, C0, D0, A1, B1, C1, D1, output S0, S1, COUT",
        "",
        INDUCTION,
        [
            f'.INIT0(16\'h{low}), .INIT1(16\'h{high}), .INJECT1_0("NO"), .INJECT1_1("NO")'
            for low, high in (("96aa", "96aa"), ("1234", "c0d9"))
        ],
    ),
    "TRELLIS_FF": (
        "input CLK, LSR, CE, DI, output Q",
        "clk2fflogic",
        INDUCTION,
        [f'.CEMUX("{enable}"), .REGSET("{state}")' for enable in ("CE", "1", "INV") for state in ("SET", "RESET")],
    ),
    "TRELLIS_DPR16X4": (
        "input [3:0] DI, WAD, RAD, input WRE, WCK, output [3:0] DO",
        "memory_map; clk2fflogic",
        "-set-init-zero -tempinduct-baseonly -maxsteps 8",  # four clocks
        [".INITVAL(64'h0)"],
    ),
}
"""Cells that Yosys has models of: ports, passes that make logic of states, how it is proved, and parameters."""

FAULTS = {
    "LUT4": ("{D, C, B, A}", "{C, D, B, A}"),
    "CCU2C": ("wire middle = pass0 ? CIN : made0;", "wire middle = pass0 ? made0 : CIN;"),
    "TRELLIS_FF": ('CEMUX == "INV" ?', 'CEMUX == "0" ?'),
    "TRELLIS_DPR16X4": ("words[RAD]", "words[WAD]"),
}
"""A change to the model of each that has to be noticed."""

MEMORIES = {
    "ecp5": {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384},
    "ice40": {16: 256, 8: 512, 4: 1024, 2: 2048},
    "gowin": {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384},
}
"""Words of each width that one block memory holds."""


def prove_alike(kind: str, folder: Path, models: str) -> None:
    """Prove that a model does what Yosys' own does, from equal states on."""
    ports, passes, proof, settings = ALIKE[kind]
    names = re.findall(r"\b[A-Z][A-Z0-9]*\b", ports)
    joined = ", ".join(f".{name}({name})" for name in names)
    (folder / "cells.v").write_text(models)
    script = ""
    for number, parameters in enumerate(settings):
        (folder / f"use{number}.v").write_text(f"module use({ports}); {kind} #({parameters}) c({joined}); endmodule\n")
        for name, source in (("ours", "-icells cells.v"), ("theirs", "-overwrite +/ecp5/cells_sim.v")):
            script += (
                f"read_verilog {source}\nread_verilog use{number}.v\nhierarchy -top use\nproc\nflatten\nopt_clean\n"
            )
            script += f"{passes}\nrename use {name}\ndesign -stash {name}\n"
        script += (
            "design -copy-from ours ours\ndesign -copy-from theirs theirs\nmiter -equiv -flatten ours theirs both\n"
        )
        script += f"sat -verify -prove trigger 0 -seq 1 {proof} both\ndesign -reset\n"
    (folder / "alike.ys").write_text(script)
    run_program("models", PROGRAMS["yosys"], ["-q", "-s", "alike.ys"], folder, log="alike.log", timeout=250)


@pytest.mark.parametrize("kind", ALIKE)
def test_models_are_those_of_yosys(kind: str, tmp_path: Path) -> None:
    prove_alike(kind, tmp_path, cell_models("ecp5"))
    wrong = cell_models("ecp5").replace(*FAULTS[kind])
    with pytest.raises(ProgramError, match="yosys failed"):
        prove_alike(kind, tmp_path, wrong)


@pytest.mark.parametrize(
    ("kind", "parameters", "wires", "rule"),
    [
        ("TRELLIS_FF", {"CEMUX": "0"}, {}, "no model of a TRELLIS_FF whose CEMUX is 0"),
        ("TRELLIS_FF", {"LSRMUX": "INV"}, {}, "no model of a TRELLIS_FF whose LSRMUX is INV"),
        ("TRELLIS_FF", {"SRMODE": "ASYNC"}, {}, "no model of a TRELLIS_FF whose SRMODE is ASYNC"),
        ("TRELLIS_DPR16X4", {"WREMUX": "INV"}, {}, "no model of a TRELLIS_DPR16X4 whose WREMUX is INV"),
        ("TRELLIS_DPR16X4", {"INITVAL": "0100"}, {}, "contents of a TRELLIS_DPR16X4 must begin as 0"),
        ("DP16KD", {"CSDECODE_A": "0b001"}, {}, "no model of a DP16KD whose CSDECODE_A is 0b001"),
        ("DP16KD", {}, {"WEB": [7]}, "no model of a DP16KD whose WEB is not 0"),
    ],
)
def test_cells_used_as_no_model_knows_are_refused(
    kind: str, parameters: dict[str, str], wires: dict[str, list[int]], rule: str
) -> None:
    cell = {"type": kind, "parameters": parameters, "connections": wires, "port_directions": {}}
    module = {"attributes": {}, "cells": {"it": cell}}
    with pytest.raises(ValueError, match=rule):
        with_buses({"modules": {"top": module}})


def memory(width: int, words: int) -> str:
    """One memory of which a clock writes one word and reads another, as it was before; of 36 bits 9 can be written."""
    bits = (words - 1).bit_length()
    # Addresses of few values, so that what is written is read, with ends that are far from each other.
    address = [f"{{{{{bits - 3}{{r[{at}]}}}}, r[{at + 1}+:3]}}" for at in (40, 44)]
    enables = [(low, min(9, width - low), 48 + low // 9) for low in range(0, width, 9)]
    written = "\n".join(
        f"    if (r[{bit}]) words{width}[{address[0]}][{low}+:{size}] <= r[{low}+:{size}];"
        for low, size, bit in enables
    )
    return f"""
  reg [{width - 1}:0] words{width} [0:{words - 1}], read{width}, late{width};
  always @(posedge clk) begin
{written}
    if (r[53]) read{width} <= words{width}[{address[1]}];
    if (r[60]) late{width} <= read{width};
  end
"""


CELLS = {
    "ecp5": {"CCU2C", "TRELLIS_DPR16X4", "TRELLIS_FF", "LUT4"},
    "ice40": {"SB_CARRY", "SB_LUT4", "SB_DFF"},
    "gowin": {"ALU", "LUT4", "RAM16SDP4", "MULT18X18", "DFF", "DFFE", "DFFRE", "SDPX9B", "DPX9B", "DPB"},
}
"""What synthesis must have made among other cells."""

BLOCK_MEMORIES = ("DP16KD", "SB_RAM40_4K", "SDPX9B", "DPX9B", "DPB")

LATE = (36, 9)
"""Widths of which what is read goes through a register with an enable, as an ECP5's memory blocks have one."""

MODE = {"ecp5": "DATA_WIDTH_[AB]", "ice40": "(READ|WRITE)_MODE", "gowin": "BIT_WIDTH_[01]"}
"""Parameters of memories that tell their words' widths."""


def source(flow: str) -> str:
    """One of each kind of cell, each used in every way that a core uses it."""
    memories = MEMORIES[flow]
    # Only the models of an iCE40's memories know of contents.
    begin = "".join(f"words{width}[{n}] = {n + 1}; " for width in memories for n in range(6)) if flow == "ice40" else ""
    outputs = ", ".join(f"{'late' if width in LATE else 'read'}{width}" for width in memories)
    return f"""
module block(input clk, input rst, input [63:0] r, output [127:0] o);
  {"".join(memory(width, words) for width, words in memories.items())}
  {f"initial begin {begin}end" if begin else ""}
  reg signed [15:0] a, b;
  reg signed [31:0] product;
  reg [15:0] sum;
  always @(posedge clk) begin
    a <= r[15:0];
    b <= r[31:16];
    product <= a * b;
    if (rst) sum <= 16'h8001;
    else if (r[54]) sum <= sum + r[47:32];
  end
  reg [3:0] few [0:15];
  always @(posedge clk) if (r[55]) few[r[3:0]] <= r[7:4];
  assign o = {{few[r[59:56]], product, sum, {outputs}}};
endmodule
"""


BENCH = """
module halfulp_core(input aclk, input aresetn, input rx, output reg tx);
  reg [63:0] r = 64'h123456789abcdef1;
  always @(posedge aclk) begin
    r = r ^ (r << 13);
    r = r ^ (r >> 7);
    r = r ^ (r << 17);
  end
  reg [63:0] held = 0;
  always @(posedge aclk) held <= r;
  wire [127:0] o, p, q;
  source source(aclk, &held[63:58], held, o);
  block netlist(aclk, &held[63:58], held, p);
  faulty faulty(aclk, &held[63:58], held, q);
  initial tx = 1;
  always @(posedge aclk) tx <= o == (rx ? p : q);
endmodule
"""
"""All side by side on random numbers. Where they differ the line goes low, and the harness takes that for a byte."""


def differences(verilog: str, sent: bytes) -> int:
    """How many bytes seem to come from the line of a `BENCH` while these are sent, and afterwards."""
    library = ctypes.CDLL(str(build_library("cells", verilog, quick=True, harness=("serial_harness.cpp",))))
    library.board_open.restype = ctypes.c_void_p
    board = ctypes.c_void_p(library.board_open(ctypes.c_uint32(4)))
    room, came = (ctypes.c_uint8 * 4096)(), ctypes.c_uint32()
    library.board_run(board, ctypes.c_uint64(20_000), sent, len(sent), room, 4096, ctypes.byref(came))
    library.board_close(board)
    return came.value


LONG = pytest.mark.proof
"""Of `make proofs`."""


@pytest.mark.parametrize("flow", ["ecp5", pytest.param("ice40", marks=LONG), pytest.param("gowin", marks=LONG)])
def test_netlists_do_what_their_sources_do(flow: str) -> None:
    text, family = source(flow), {"ecp5": "ecp5", "ice40": "ice40-hx", "gowin": "gw1n"}[flow]
    made = synthesise({"block.v": text}, top="block", family=family, what="one of each cell")
    cells = json.loads(made.netlist.read_text())["modules"]["block"]["cells"].values()
    assert {cell["type"] for cell in cells} >= CELLS[flow]
    block_memories = [cell["parameters"] for cell in cells if cell["type"] in BLOCK_MEMORIES]
    modes = {int(value, 2) for each in block_memories for name, value in each.items() if re.fullmatch(MODE[flow], name)}
    assert modes == ({0, 1, 2, 3} if flow == "ice40" else set(MEMORIES[flow]))
    if flow == "ecp5":
        assert {each["REGMODE_B"] for each in block_memories} == {"NOREG", "OUTREG"}
    multipliers = [cell["parameters"] for cell in cells if cell["type"] == "MULT18X18D"]
    assert [each["REG_OUTPUT_CLK"] for each in multipliers] == ["CLK0"] * (flow == "ecp5")
    netlist = plain_verilog(made.netlist, flow=flow, top="block")
    # Of this one the table of one cell is another.
    faulty = re.sub(r"(?<!\] = )16'h[0-9a-f]{4}", "16'h5a5a", netlist.replace("module block", "module faulty"), count=1)
    verilog = "\n".join([text.replace("module block", "module source"), netlist, faulty, BENCH])
    assert differences(verilog, b"") == 0
    assert differences(verilog, bytes(100)) > 0
