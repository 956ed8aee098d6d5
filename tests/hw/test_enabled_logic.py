"""Registers and their wires behind enables: what is moved where, and what stays.

That whole cores stay equal, clock for clock, is shown by tests/sim/test_forms.py.
"""

import pytest

from halfulp.hw.enabled_logic import LEAST_BEHIND, gather_enables


def register(name: str, enable: str, value: str = "value", *, reset: bool = True) -> str:
    clear = f"    if (!aresetn) {name} <= 1'h0;\n    else " if reset else "    "
    return f"  always @(posedge aclk)\n{clear}if ({enable}) {name} <= {value};\n"


def module(*parts: str, outputs: str = "r") -> str:
    return "".join(["module m(aclk);\n", *(f"  output {name};\n" for name in outputs.split()), *parts, "endmodule\n"])


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


# Enough to be worth a condition.
SUM = "x + " * LEAST_BEHIND + "x"
MOVED = f"  wire \\sum ;\n  assign \\sum  = {SUM};\n"


def test_registers_of_one_condition_are_behind_it() -> None:
    registers = "".join(register(f"r{n}", f"\\en{n} ") for n in range(4))
    wires = "".join(f"  wire \\en{n} ;\n" for n in range(4))
    enables = "".join(f"  assign \\en{n}  = & {{ write, \\strobe [{n}], \\at.address${n}  }};\n" for n in range(4))
    written = gather_enables(module(registers, register("s", "write"), wires, enables))
    block = written[written.index("  always @(posedge aclk) begin\n") :]
    expected = "  always @(posedge aclk) begin\n    if (write ) begin\n"
    expected += "".join(f"      \\en{n} = & {{ write, \\strobe [{n}], \\at.address${n}  }};\n" for n in range(4))
    expected += "".join(f"      if (\\en{n} ) begin\n        r{n} <= value;\n      end\n" for n in range(4))
    expected += "      s <= value;\n    end\n    if (!aresetn) begin\n"
    expected += "".join(f"      r{n} <= 1'h0;\n" for n in range(4)) + "      s <= 1'h0;\n    end\n  end\nendmodule\n"
    assert block == expected
    assert "  reg \\en0 ;\n" in written
    assert "assign" not in written


def test_wires_of_one_register_are_behind_its_enable() -> None:
    written = lines(gather_enables(module(MOVED, register("r", "\\en [3]", "\\sum ", reset=False))))
    assert written == [
        *("module m(aclk);", "output r;", "reg \\sum ;", "always @(posedge aclk) begin", "if (\\en [3] ) begin"),
        *(f"\\sum = {SUM};", "r <= \\sum ;", "end", "end", "endmodule"),
    ]


def test_wires_come_in_the_order_in_which_they_are_read() -> None:
    more = "  wire \\more ;\n  assign \\more  = \\sum  + 1'h1;\n"
    written = lines(gather_enables(module(more, MOVED, register("r", "en", "\\more "))))
    assert written.index(f"\\sum = {SUM};") + 1 == written.index("\\more = \\sum  + 1'h1;")


@pytest.mark.parametrize(
    "reader",
    [
        "  assign r = \\sum ;\n",
        "  assign \\part [3] = \\sum ;\n  assign r = \\part [3];\n",
        "  always @(posedge aclk)\n    s <= \\sum ;\n",
        "  always @(posedge aclk)\n    if (\\sum ) s <= 1'h0;\n    else s <= 1'h1;\n",
        "  always @(posedge aclk)\n    if (other)\n      \\memory [\\sum ] <= 1'h1;\n",
        register("s", "other", "\\sum "),
        register("s", "\\sum "),
        register("s", "en").replace("!aresetn", "\\sum "),
    ],
)
def test_wires_that_others_read_as_well_stay(reader: str) -> None:
    text = module(MOVED, register("r", "en", "\\sum "), reader)
    assert f"  assign \\sum  = {SUM};\n" in gather_enables(text)


def test_a_wire_of_two_enables_with_a_common_factor_is_behind_that() -> None:
    enables = "".join(f"  wire \\en{n} ;\n  assign \\en{n}  = \\write  & \\strobe [{n}];\n" for n in range(2))
    registers = "".join(register(f"r{n}", f"\\en{n} ", "\\sum ", reset=False) for n in range(2))
    written = lines(gather_enables(module(MOVED, enables, registers)))
    begin = (
        written.index("if (\\write  ) begin")
        if "if (\\write  ) begin" in written
        else written.index("if (\\write ) begin")
    )
    assert f"\\sum = {SUM};" in written[begin + 1 : written.index("if (\\en0 ) begin")]


def test_what_nothing_reads_goes() -> None:
    names = "  wire \\a ;\n  wire \\b ;\n  assign \\a  = \\b ;\n  assign \\b  = \\sum ;\n"
    assert "assign" not in gather_enables(module(MOVED, names, register("r", "en", "\\sum ")))


@pytest.mark.parametrize(
    "text",
    [
        "".join(register(f"r{n}", "en") for n in range(3)),
        "  wire \\few ;\n  assign \\few  = a + b;\n" + register("r", "en", "\\few "),
        "  always @(posedge aclk)\n    if (en) r <= value;\n    else r <= other;\n",
    ],
)
def test_what_is_not_worth_a_condition_or_has_no_enable_stays(text: str) -> None:
    assert gather_enables(module(text)) == module(text)
