"""The form of flat Verilog for compiled simulators: what is gathered, and what is left as it is.

That whole cores stay equal, clock for clock, is shown by tests/sim/test_forms.py.
"""

import pytest

from halfulp.hw.simulation_form import gather_byte_writes, gather_initial_values

BYTES = r"""module m(aclk);
  always @(posedge aclk) begin
    if (\b.en [0])
      \b.bank0 [\b.address ][7:0] <= \b.word [7:0];
    if (\b.en [1])
      \b.bank0 [\b.address ][15:8] <= \b.word [15:8];
  end
endmodule
"""


def test_memories_of_zeros_are_filled_by_a_loop() -> None:
    text = "    \\b.bank0 [0] = 16'h0000;\n    \\b.bank0 [1] = 16'h0000;\n    \\b.bank0 [2] = 16'h0000;\n"
    assert gather_initial_values(text) == "    for (integer i = 0; i < 3; i = i + 1)\n      \\b.bank0 [i] = 16'h0000;\n"


def test_other_initial_values_stay() -> None:
    text = "    rom[0] = 16'h0000;\n    rom[1] = 16'h0001;\n    rom[2] = 16'h0002;\n"
    assert gather_initial_values(text) == text


def test_bytes_of_a_word_are_written_as_a_word() -> None:
    expected = r"""module m(aclk);
  always @(posedge aclk)
    if (|\b.en )
      \b.bank0 [\b.address ] <= ({ \b.word [15:8], \b.word [7:0] } & M) | (\b.bank0 [\b.address ] & ~M);
endmodule
""".replace("M", r"{ {8{\b.en [1]}}, {8{\b.en [0]}} }")
    assert gather_byte_writes(BYTES) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"\b.en [1]", r"\b.en [2]"),
        (r"[\b.address ][15:8]", r"[\b.other ][15:8]"),
        (r"\b.bank0 [\b.address ][15:8]", r"\b.bank1 [\b.address ][15:8]"),
        ("[15:8] <=", "[14:7] <="),
    ],
)
def test_what_is_not_one_word_stays(before: str, after: str) -> None:
    text = BYTES.replace(before, after)
    assert gather_byte_writes(text) == text
