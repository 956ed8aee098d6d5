"""Copies of a block become one module: numbering told apart from contents, instances rewired by name."""

from __future__ import annotations

from halfulp.hw.shared_modules import share_modules

LEAF = """module \\top.{name} ({ports});
  reg \\$auto$verilog_backend.cc:1:dump_module${n}  = 0;
  wire \\$1 ;
  input a;
  wire a;
  input \\port${n}$0 ;
  wire \\port${n}$0 ;
  output b;
  reg b;
  assign \\$1  = a {operator} \\port${n}$0 ;
  always @* begin
    if (\\$auto$verilog_backend.cc:1:dump_module${n} ) begin end
    b = \\$1 ;
  end
endmodule
"""

TOP = """// lead
module top(a, \\b$7 );
  input a;
  wire a;
  output [{last}:0] \\b$7 ;
  wire [{last}:0] \\b$7 ;
{instances}endmodule

"""


def leaf(name: str, n: int, operator: str = "&", ports: str = "a, \\port${n}$0 , b") -> str:
    return LEAF.format(name=name, n=n, operator=operator, ports=ports.format(n=n))


def design(*leaves: tuple[str, int, str], ports: str = "a, \\port${n}$0 , b") -> str:
    instances = "".join(
        f"  \\top.{name}  {name} (\n    .a(a),\n    .b(\\b$7 [{i}]),\n    .\\port${n}$0 (a)\n  );\n"
        for i, (name, n, _) in enumerate(leaves)
    )
    return TOP.format(last=len(leaves) - 1, instances=instances) + "\n".join(
        leaf(name, n, operator, ports if i else "a, \\port${n}$0 , b") for i, (name, n, operator) in enumerate(leaves)
    )


def test_copies_that_differ_by_numbering_are_shared_and_rewired() -> None:
    shared = share_modules(design(("x", 31, "&"), ("y", 405, "&")))
    assert shared.count("endmodule") == 2
    assert "  \\top.x  x (\n    .a(a),\n    .b(\\b$7 [0]),\n    .\\port$0 (a)\n  );\n" in shared
    assert "  \\top.x  y (\n    .a(a),\n    .b(\\b$7 [1]),\n    .\\port$0 (a)\n  );\n" in shared
    assert "assign \\$1  = a & \\port$0 ;" in shared
    assert shared.startswith("// lead\nmodule top(a, \\b$7 );\n")


def test_blocks_that_differ_in_anything_else_are_not() -> None:
    shared = share_modules(design(("x", 31, "&"), ("y", 405, "|")))
    assert shared.count("endmodule") == 3
    assert "  \\top.y  y (" in shared


def test_the_order_of_ports_does_not_matter() -> None:
    shared = share_modules(design(("x", 31, "&"), ("y", 405, "&"), ports="\\port${n}$0 , b, a"))
    assert shared.count("endmodule") == 2


def test_modules_that_become_equal_by_sharing_are_shared_too() -> None:
    middle = "module \\top.{name} (a);\n  input a;\n  wire a;\n  \\top.{leaf}  inner (\n    .a(a)\n  );\nendmodule\n"
    outer = "".join(f"  \\top.{name}  {name} (\n    .a(a)\n  );\n" for name in ("m1", "m2"))
    text = "\n".join(
        [
            f"module top(a);\n  input a;\n  wire a;\n{outer}endmodule\n",
            middle.format(name="m1", leaf="x"),
            middle.format(name="m2", leaf="y"),
            leaf("x", 1),
            leaf("y", 2),
        ]
    )
    shared = share_modules(text)
    assert shared.count("endmodule") == 3
    assert "  \\top.m1  m2 (\n" in shared
    assert "\\top.y" not in shared
