"""Models of cells: they are Yosys' own where it has one, and netlists with them do what their sources do."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import pytest

from halfulp.boards.netlist import MODELS, cell_models, plain_verilog, with_buses
from halfulp.boards.programs import PROGRAMS, ProgramError, run_program
from halfulp.boards.synthesis import synthesise
from halfulp.sim.verilator import build_library

LONG = pytest.mark.proof
"""Of `make proofs`."""

INDUCTION = "-tempinduct"

OF_WORDS = "memory_map; clk2fflogic", "-set-init-zero -tempinduct-baseonly -maxsteps 8"
"""How memories of few words are proved: from what they begin as on, for four clocks."""

ALIKE = {
    "ecp5": {
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
            *OF_WORDS,
            [".INITVAL(64'h0)", ".INITVAL(64'h0123456789abcdef)"],
        ),
    },
    "ice40": {
        "SB_LUT4": (
            "input I0, I1, I2, I3, output O",
            "",
            INDUCTION,
            [".LUT_INIT(16'h6ac1)", ".LUT_INIT(16'h1234)"],
        ),
    },
    "gowin": {
        "LUT1": ("input I0, output F", "", INDUCTION, [".INIT(2'h1)", ".INIT(2'h2)"]),
        "LUT2": ("input I0, I1, output F", "", INDUCTION, [".INIT(4'h2)", ".INIT(4'hd)"]),
        "LUT3": ("input I0, I1, I2, output F", "", INDUCTION, [".INIT(8'h2c)", ".INIT(8'h71)"]),
        "LUT4": ("input I0, I1, I2, I3, output F", "", INDUCTION, [".INIT(16'h6ac1)", ".INIT(16'h1234)"]),
        **{
            f"RAM16SDP{width}": (
                f"input [{width - 1}:0] DI, input [3:0] WAD, RAD, input WRE, CLK, output [{width - 1}:0] DO",
                *OF_WORDS,
                [
                    ", ".join(f".INIT_{bit}(16'h{word})" for bit, word in enumerate(words[:width]))
                    for words in (["0000"] * 4, ["1234", "c0d9", "6ac1", "0b57"])
                ],
            )
            for width in (1, 2, 4)
        },
    },
}
"""Cells that Yosys has models of: ports, passes that make logic of states, how it is proved, and parameters."""

FAULTS = {
    "ecp5": {
        "LUT4": [("{D, C, B, A}", "{C, D, B, A}")],
        "CCU2C": [("wire middle = pass0 ? CIN : made0;", "wire middle = pass0 ? made0 : CIN;")],
        "TRELLIS_FF": [('CEMUX == "INV" ?', 'CEMUX == "0" ?')],
        "TRELLIS_DPR16X4": [("words[RAD]", "words[WAD]"), ("INITVAL[4 * n +: 4]", "INITVAL[63 - 4 * n -: 4]")],
    },
    "ice40": {"SB_LUT4": [("{I3, I2, I1, I0}", "{I3, I0, I1, I2}")]},
    "gowin": {
        "LUT1": [(".A(I0)", ".A(!I0)")],
        "LUT2": [("{I1, I0}", "{I0, I1}")],
        "LUT3": [("{I2, I1, I0}", "{I1, I2, I0}")],
        "LUT4": [("{I3, I2, I1, I0}", "{I3, I2, I0, I1}")],
        "RAM16SDP1": [("words[RAD]", "words[WAD]"), ("INIT_0[n]", "INIT_0[15 - n]")],
        "RAM16SDP2": [("words[WAD]", "words[RAD]"), ("INIT_1[n], INIT_0[n]", "INIT_0[n], INIT_1[n]")],
        "RAM16SDP4": [("if (WRE)", "if (!WRE)"), ("INIT_3[n], INIT_2[n]", "INIT_2[n], INIT_3[n]")],
    },
}
"""Changes to the model of each, each of which has to be noticed."""

MEMORIES = {
    "ecp5": {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384},
    "ice40": {16: 256, 8: 512, 4: 1024, 2: 2048},
    "gowin": {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384},
}
"""Words of each width that one block memory holds."""


def prove_alike(flow: str, kind: str, folder: Path, models: str) -> None:
    """Prove that a model does what Yosys' own does, from equal states on."""
    ports, passes, proof, settings = ALIKE[flow][kind]
    names = re.findall(r"\b[A-Z][A-Z0-9]*\b", ports)
    joined = ", ".join(f".{name}({name})" for name in names)
    (folder / "cells.v").write_text(models)
    script, theirs = "", MODELS[flow] or "+/ecp5/cells_sim.v"
    for number, parameters in enumerate(settings):
        (folder / f"use{number}.v").write_text(f"module use({ports}); {kind} #({parameters}) c({joined}); endmodule\n")
        for name, source in (("ours", "-icells cells.v"), ("theirs", f"-overwrite {theirs}")):
            script += f"read_verilog -defer {source}\nread_verilog use{number}.v\nhierarchy -top use\n"
            script += f"proc\nflatten\nopt_clean\n{passes}\nrename use {name}\ndesign -stash {name}\n"
        script += (
            "design -copy-from ours ours\ndesign -copy-from theirs theirs\nmiter -equiv -flatten ours theirs both\n"
        )
        script += f"sat -verify -prove trigger 0 -seq 1 {proof} both\ndesign -reset\n"
    (folder / "alike.ys").write_text(script)
    run_program("models", PROGRAMS["yosys"], ["-q", "-s", "alike.ys"], folder, log="alike.log", timeout=250)


@pytest.mark.parametrize(
    ("flow", "kind"),
    [pytest.param(flow, kind, marks=[LONG] * (kind == "RAM16SDP4")) for flow, kinds in ALIKE.items() for kind in kinds],
)
def test_models_are_those_of_yosys(flow: str, kind: str, tmp_path: Path) -> None:
    models = cell_models(flow)
    prove_alike(flow, kind, tmp_path, models)
    for right, wrong in FAULTS[flow][kind]:
        faulty = models.replace(right, wrong)
        assert faulty != models
        with pytest.raises(ProgramError, match=r"yosys failed.*proof did fail"):
            prove_alike(flow, kind, tmp_path, faulty)


@pytest.mark.parametrize(
    ("kind", "parameters", "wires", "rule"),
    [
        ("TRELLIS_FF", {"CEMUX": "0"}, {}, "no model of a TRELLIS_FF whose CEMUX is 0"),
        ("TRELLIS_FF", {"LSRMUX": "INV"}, {}, "no model of a TRELLIS_FF whose LSRMUX is INV"),
        ("TRELLIS_FF", {"SRMODE": "ASYNC"}, {}, "no model of a TRELLIS_FF whose SRMODE is ASYNC"),
        ("TRELLIS_DPR16X4", {"WREMUX": "INV"}, {}, "no model of a TRELLIS_DPR16X4 whose WREMUX is INV"),
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


@pytest.mark.parametrize(
    ("kind", "name", "size", "bit", "place"),
    [
        ("DP16KD", "INITVAL_00", 320, 17, 17),
        ("DP16KD", "INITVAL_00", 320, 20, 18),  # two bits of each twenty are no memory's
        ("DP16KD", "INITVAL_3F", 320, 317, 18431),
        ("SDPX9B", "INIT_RAM_01", 288, 0, 288),
        ("DPX9B", "INIT_RAM_3F", 288, 287, 18431),
        ("SDPB", "INIT_RAM_01", 256, 0, 256),
        ("DPB", "INIT_RAM_3F", 256, 255, 16383),
        ("SB_RAM40_4K", "INIT_F", 256, 255, 4095),
    ],
)
def test_contents_of_a_block_are_one_number(kind: str, name: str, size: int, bit: int, place: int) -> None:
    """Word after word, what is unknown 0; there is none where a memory begins as 0."""
    for value, wanted in (("1", {"CONTENTS": 1 << place}), ("x", {}), ("0", {})):
        row = "x" * (size - bit - 1) + value + "0" * bit
        parameters = {name: row}
        cell = {"type": kind, "parameters": parameters, "connections": {}, "port_directions": {}}
        with_buses({"modules": {"top": {"attributes": {}, "cells": {"it": cell}}}})
        assert {parameter: int(bits, 2) for parameter, bits in parameters.items()} == wanted


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

FEW = (3, 16)
"""Width and words of a memory too small for a block."""

LATE = (36, 9)
"""Widths of which what is read goes through a register with an enable, as an ECP5's memory blocks have one."""

MODE = {"ecp5": "DATA_WIDTH_[AB]", "ice40": "(READ|WRITE)_MODE", "gowin": "BIT_WIDTH_[01]"}
"""Parameters of memories that tell their words' widths."""


def contents(width: int, words: int) -> str:
    """What a memory begins as in the places that are read, each bit of a word by itself."""
    places = [*range(8), *range(words - 8, words)] if words > 16 else range(words)
    values = [(place + 1) * 0x9E3779B97F4A7C15 >> 20 & (1 << width) - 1 for place in places]
    return " ".join(f"words{width}[{at}] = {width}'h{value:x};" for at, value in zip(places, values, strict=True))


def source(flow: str) -> str:
    """One of each kind of cell, each used in every way that a core uses it."""
    memories = MEMORIES[flow]
    begin = "\n    ".join(contents(width, words) for width, words in [*memories.items(), FEW])
    outputs = ", ".join(f"{'late' if width in LATE else 'read'}{width}" for width in memories)
    return f"""
module block(input clk, input rst, input [63:0] r, output [127:0] o);
  {"".join(memory(width, words) for width, words in memories.items())}
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
  reg [2:0] words3 [0:15];
  always @(posedge clk) if (r[55]) words3[r[3:0]] <= r[7:5];
  assign o = {{product, sum, words3[r[59:56]], {outputs}}};
  initial begin
    {begin}
  end
endmodule
"""


def bench(flow: str) -> str:
    """All side by side on random numbers. Where they differ the line goes low, and the harness takes that for a byte.

    Of the netlist with wrong contents each memory has to have read something else before the line does.
    """
    widths = [*([] if flow == "ice40" else [FEW[0]]), *MEMORIES[flow]]
    seen = "\n    ".join(
        f"seen[{number}] <= seen[{number}] | |((o ^ w) >> {sum(widths[number + 1 :])} & {{{width}{{1'b1}}}});"
        for number, width in enumerate(widths)
    )
    return f"""
module halfulp_core(input aclk, input aresetn, input rx, output reg tx);
  reg [63:0] r = 64'h123456789abcdef1;
  always @(posedge aclk) begin
    r = r ^ (r << 13);
    r = r ^ (r >> 7);
    r = r ^ (r << 17);
  end
  reg [63:0] held = 0;
  always @(posedge aclk) held <= r;
  wire [127:0] o, p, q, w;
  source source(aclk, &held[63:58], held, o);
  block netlist(aclk, &held[63:58], held, p);
  faulty faulty(aclk, &held[63:58], held, q);
  misread misread(aclk, &held[63:58], held, w);
  reg [{len(widths) - 1}:0] seen = 0;
  always @(posedge aclk) begin
    {seen}
  end
  initial tx = 1;
  always @(posedge aclk) tx <= rx ? o == p : o == q | !(&seen);
endmodule
"""


def differences(verilog: str, sent: bytes) -> int:
    """How many bytes seem to come from the line of a `bench` while these are sent, and afterwards."""
    library = ctypes.CDLL(str(build_library("cells", verilog, quick=True, harness=("serial_harness.cpp",))))
    library.board_open.restype = ctypes.c_void_p
    board = ctypes.c_void_p(library.board_open(ctypes.c_uint32(4)))
    room, came = (ctypes.c_uint8 * 4096)(), ctypes.c_uint32()
    library.board_run(board, ctypes.c_uint64(20_000), sent, len(sent), room, 4096, ctypes.byref(came))
    library.board_close(board)
    return came.value


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
    # Of one the table of one cell is another; of one each word that memories begin as has its bits the other way round.
    table = re.compile(r"(?<!\] = )16'h[0-9a-f]{4}")
    word = re.compile(r"(\] = )(\d+)'h([0-9a-f]+)")
    faulty = table.sub("16'h5a5a", netlist.replace("module block", "module faulty"), count=1)
    misread = word.sub(_other_way_round, netlist.replace("module block", "module misread"))
    sources = [text.replace("module block", "module source"), netlist, faulty, misread, bench(flow)]
    assert differences("\n".join(sources), b"") == 0
    assert differences("\n".join(sources), bytes(100)) > 0


def _other_way_round(word: re.Match[str]) -> str:
    bits = f"{int(word[3], 16):0{word[2]}b}"
    return f"{word[1]}{len(bits)}'b{bits[::-1]}"
