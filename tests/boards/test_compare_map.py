"""Comparisons made of lookup tables: proved to be the same, for all operands, and none is left to a carry chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfulp.boards.programs import PROGRAMS, ProgramError, run_program
from halfulp.boards.synthesis import compare_map

COMPARISONS = [
    f"{left} {operator} {right}"
    for operator in ("<", "<=", ">", ">=")
    for left, right in (("a", "b"), ("x", "y"), ("a", "6'd37"), ("$signed(3'd5)", "x"), ("a[0]", "b[0]"), ("n", "a"))
]
"""Unsigned, signed, of a constant, of different widths, of one bit."""

SOURCE = f"""
module block(
  input [5:0] a, b, input signed [4:0] x, y, input [15:0] n, input [16:0] w, output [{len(COMPARISONS)}:0] o
);
  assign o = {{w < n, {", ".join(COMPARISONS)}}};
endmodule
"""

SCRIPT = """
read_verilog block.v
proc
design -save read
techmap -map compare.v
tee -q -o cells.json stat -json
rename block mapped
design -stash mapped
design -load read
design -copy-from mapped mapped
miter -equiv -flatten block mapped both
sat -verify -prove trigger 0 both
"""


def prove_alike(mapping: str, folder: Path) -> dict[str, int]:
    """Prove that comparisons do the same after they are mapped; return of what cells they are made then."""
    for name, text in (("block.v", SOURCE), ("compare.v", mapping), ("alike.ys", SCRIPT)):
        (folder / name).write_text(text)
    run_program("comparisons", PROGRAMS["yosys"], ["-q", "-s", "alike.ys"], folder, log="log", timeout=250)
    return json.loads((folder / "cells.json").read_text())["modules"]["\\block"]["num_cells_by_type"]


@pytest.mark.timeout(300)  # the first call of Yosys compiles it
def test_comparisons_in_lookup_tables_are_the_same(tmp_path: Path):
    cells = prove_alike(compare_map(), tmp_path)
    # The one of 17 bits.
    assert [kind for kind in cells if kind in ("$lt", "$le", "$gt", "$ge")] == ["$lt"]
    assert cells["$lt"] == 1


@pytest.mark.timeout(300)
def test_a_wrong_mapping_is_noticed(tmp_path: Path):
    wrong = compare_map().replace("IS_SIGNED ? 1 << (WIDTH - 1) : 0", "0")
    with pytest.raises(ProgramError, match="yosys failed"):
        prove_alike(wrong, tmp_path)
