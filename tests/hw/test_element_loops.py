"""Processing elements as loops: that they equal the elements one by one, clock for clock, and what is left as it is.

That whole cores stay equal, clock for clock, is shown by tests/sim/test_forms.py.
"""

import re

import pytest

from halfulp.hw.element_loops import UnfitForLoopsError, loop_over_elements

ELEMENT = r"""module \m.core.array.pe_{i}_{j} (a, below, operand, result, rst, clk);
  wire [7:0] \$1 ;
  wire \$2 ;
  input [7:0] a;
  wire [7:0] a;
  input [8:0] below;
  wire [8:0] below;
  input clk;
  wire clk;
  reg flag = 1'h0;
  output [7:0] operand;
  reg [7:0] operand = 8'h00;
  output [8:0] result;
  wire [8:0] result;
  input rst;
  wire rst;
  reg [7:0] sum = 8'h00;
  assign \$1  = sum + operand;
  assign \$2  = operand[7] ^ below[8];
  always @(posedge clk)
    operand <= a;
  always @(posedge clk)
    if (rst) flag <= 1'h0;
    else if (\$2 ) flag <= a[0];
  always @(posedge clk)
    if (flag) sum <= below[7:0];
    else sum <= \$1 ;
  assign result = {{ flag, sum }};
endmodule
"""


def array(element: str = ELEMENT) -> str:
    """2 × 2 elements: `a` moves to the right, `below` up."""
    instances = ""
    for i in range(2):
        for j in range(2):
            wires = {"a": rf"\a.{i}.{j} ", "below": rf"\r.{i + 1}.{j} ", "clk": "aclk", "operand": rf"\a.{i}.{j + 1} "}
            wires |= {"result": rf"\r.{i}.{j} ", "rst": r"\rst "}
            if i == 1:
                del wires["below"]
            ports = ",\n".join(f"    .{name}({wire})" for name, wire in wires.items())
            instances += f"  \\m.core.array.pe_{i}_{j}  \\core.array.pe_{i}_{j}  (\n{ports}\n  );\n"
    wires = "".join(f"  wire [7:0] \\a.{i}.{j} ;\n" for i in range(2) for j in range(3))
    wires += "".join(f"  wire [8:0] \\r.{i}.{j} ;\n" for i in range(2) for j in range(2))
    top = f"module m(aclk, top);\n{wires}{instances}  assign top = \\r.0.0 ;\nendmodule\n"
    return top + "".join(element.format(i=i, j=j) for i in range(2) for j in range(2))


def lines(text: str) -> list[str]:
    """Of the block, with loops and their index written in short."""
    text = re.sub(r"for \(\\pe.number = (\d+);[^;]*< (\d+);[^)]*\)", r"\1..\2:", text)
    return [line.strip() for line in text.replace("[\\pe.number ]", "[i]").replace("\\pe.number ", "i").splitlines()]


def test_elements_become_loops() -> None:
    written = lines(loop_over_elements(array()))
    begin = written.index("always @(posedge aclk) begin")
    assert written[begin + 1 : written.index("end")] == [
        r"1..4: \pe.in.a.7.0 [i] = \pe.operand [i- 1];",
        r"\pe.in.a.7.0 [0] = \a.0.0 ;",
        r"\pe.in.a.7.0 [2] = \a.1.0 ;",
        r"0..2: \pe.in.below.7.0 [i] = \pe.sum [i+ 2];",
        r"\pe.in.below.7.0 [2] = 8'h0;",
        r"\pe.in.below.7.0 [3] = 8'h0;",
        r"0..2: \pe.in.below.8.8 [i] = \pe.flag [i+ 2];",
        r"\pe.in.below.8.8 [2] = 1'h0;",
        r"\pe.in.below.8.8 [3] = 1'h0;",
        r"0..4: \pe.$1 [i] = \pe.sum [i] + \pe.operand [i];",
        r"0..4: \pe.$2 [i] = \pe.operand [i][7] ^ \pe.in.below.8.8 [i];",
        r"0..4: \pe.operand [i] = \pe.in.a.7.0 [i];",
        r"0..4: \pe.sum [i] = ({8{\pe.flag [i] }} & \pe.in.below.7.0 [i] ) | (~{8{\pe.flag [i] }} & \pe.$1 [i] );",
        r"0..4: \pe.flag [i] = ~{1{\rst  }} & (({1{C}} & \pe.in.a.7.0 [i][0] ) | (~{1{C}} & \pe.flag [i] )) ;".replace(
            "C", r"\pe.$2 [i] "
        ),
        r"\pe.out.0.flag  <= \pe.flag [0];",
        r"\pe.out.0.sum  <= \pe.sum [0];",
    ]
    assert r"assign \r.0.0 = { \pe.out.0.flag , \pe.out.0.sum  };" in written
    assert not [line for line in written if "core.array" in line]


def test_a_carry_that_nobody_reads_makes_no_wider_number() -> None:
    wide = ELEMENT.replace(r"assign \$1  = sum", r"assign {{ \$3 , \$1  }} = sum").replace(
        "  wire \\$2 ;\n", "  wire \\$2 ;\n  wire \\$3 ;\n"
    )
    written = lines(loop_over_elements(array(wide)))
    assert r"reg [7:0] \pe.wires0 [0:3];" in written
    assert r"0..4: \pe.$1 [i] = \pe.wires0 [i][7:0];" in written


def test_a_repeated_bit_is_written_once() -> None:
    repeated = ELEMENT.replace("= sum + operand", "= {{ flag, flag, flag, flag, flag, flag, flag, flag }} ^ operand")
    assert r"0..4: \pe.$1 [i] = {8{\pe.flag [i]}} ^ \pe.operand [i];" in lines(loop_over_elements(array(repeated)))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("operand = 8'h00;", "operand = 8'h01;", "operand = 8'h01"),
        ("  reg flag", "  reg [7:0] storage [3:0];\n  reg flag", "storage"),
        ("always @(posedge clk)\n    operand", "always @(negedge clk)\n    operand", "negedge"),
        ("result = {{ flag, sum }}", "result = {{ flag, a }}", "the output a follows inputs"),
        (
            "assign result = {{ flag, sum }}",
            "assign result = {{ flag, sum[6:0], flag }}",
            "not made of whole registers",
        ),
        ("below[7:0]", "{{ below[6:0], flag }}", "bits 6 to 0 of the output result"),
        ("flag <= a[0]", "flag <= $signed(a)", r"chooses '\$signed\(a\)'"),
        ("    else sum", "    else if (a + sum) sum", r"the condition 'a \+ sum'"),
        (r"\$1  = sum", r"\$1  = \$1  + sum", "wires of a processing element depend on each other"),
    ],
)
def test_what_loops_are_not_written_for(before: str, after: str, reason: str) -> None:
    assert before in ELEMENT
    with pytest.raises(UnfitForLoopsError, match=reason):
        loop_over_elements(array(ELEMENT.replace(before, after)))


def test_registers_that_exchange_their_values_are_not_for_loops() -> None:
    element = ELEMENT.replace("operand <= a;", "operand <= sum;").replace("sum <= below[7:0]", "sum <= a")
    with pytest.raises(UnfitForLoopsError, match="registers of a processing element depend on each other in a circle"):
        loop_over_elements(array(element.replace(r"sum <= \$1 ", "sum <= operand")))


def test_a_single_row_is_no_array() -> None:
    text = array()
    for j in range(2):
        text = re.sub(rf"  \\m\.core\.array\.pe_1_{j}  (?s:.*?)  \);\n", "", text)
        text = re.sub(rf"module \\m\.core\.array\.pe_1_{j} (?s:.*?)endmodule\n", "", text)
    with pytest.raises(UnfitForLoopsError, match="2 modules and 2 instances"):
        loop_over_elements(text)
