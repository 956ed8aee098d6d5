"""The form of flat Verilog for compiled simulators: what is gathered, and what is left as it is.

That the whole core stays equal, clock for clock, is what all tests of simulated cores show.
"""

import pytest

from halfulp.hw.simulation_form import gather_byte_writes, gather_enables, gather_initial_values, simulation_form

BYTES = r"""module m(aclk);
  always @(posedge aclk) begin
    if (\b.en [0])
      \b.bank0 [\b.address ][7:0] <= \b.word [7:0];
    if (\b.en [1])
      \b.bank0 [\b.address ][15:8] <= \b.word [15:8];
  end
endmodule
"""


def register(name: str, enable: str, *, reset: bool = True) -> str:
    clear = f"    if (!aresetn) {name} <= 1'h0;\n    else " if reset else "    "
    return f"  always @(posedge aclk)\n{clear}if ({enable}) {name} <= value;\n"


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


def test_registers_of_one_condition_are_behind_it() -> None:
    registers = "".join(register(f"r{n}", f"en{n}") for n in range(4))
    enables = "".join(f"  assign en{n} = & {{ write, \\strobe [{n}], \\at.address${n}  }};\n" for n in range(4))
    text = f"module m(aclk);\n{registers}{register('s', 'write')}{enables}endmodule\n"
    clear = "".join(f"      r{n} <= 1'h0;\n" for n in range(4))
    update = "".join(f"      if (en{n}) r{n} <= value;\n" for n in range(4))
    gathered = (
        f"  always @(posedge aclk)\n    if (!aresetn) begin\n{clear}    end else if (write ) begin\n{update}    end\n"
    )
    assert gather_enables(text) == f"module m(aclk);\n{register('s', 'write')}{enables}{gathered}endmodule\n"


def test_registers_without_reset_are_apart_from_those_with_one() -> None:
    registers = "".join(register(f"r{n}", f"en{n}", reset=n < 4) for n in range(8))
    enables = "".join(f"  assign en{n} = write & \\strobe [{n}];\n" for n in range(8))
    written = gather_enables(f"module m(aclk);\n{registers}{enables}endmodule\n")
    assert written.count("if (write ) begin") == 2
    assert "    if (write ) begin\n      if (en4) r4 <= value;\n" in written


def test_three_registers_are_not_worth_a_condition() -> None:
    registers = "".join(register(f"r{n}", f"en{n}") for n in range(3))
    enables = "".join(f"  assign en{n} = & {{ write, 1'h1, \\strobe [{n}] }};\n" for n in range(3))
    text = f"module m(aclk);\n{registers}{enables}endmodule\n"
    assert simulation_form(text) == text
