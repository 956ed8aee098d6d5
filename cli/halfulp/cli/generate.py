"""`halfulp generate`: the hardware as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from halfulp.cli.console import print_json, working

__all__ = ["generate"]

EXAMPLE = """
  echo 'rows = 4
  columns = 4
  a_formats = ["int8"]
  b_formats = ["int8"]
  out_formats = ["int32", "int8"]' > int8_4x4.toml
  halfulp generate int8_4x4.toml -o core
"""


def generate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file of ArrayConfig's parameters.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")],
    json: Annotated[bool, typer.Option("--json", help="Print the report of widths as JSON.")] = False,
) -> None:
    """Write a core as Verilog, with its register map, hand-off files and a report of widths.

    CONFIG names what differs from the default: rows, columns, a_formats, b_formats, out_formats, accumulator,
    roundings, lanes, bus_width, buffer_depth, queue_depth, reads_outstanding, address_bits, size_bits, interleave,
    block, block_scale, pack_multipliers, shift_in_multipliers, counters, compact.
    """
    from halfulp.hw.config_file import load_config
    from halfulp.hw.generate import generate as write_core
    from halfulp.hw.generate import width_report, width_report_text

    parsed = load_config(config)
    with working(f"{parsed.name}: generating"):
        write_core(parsed, output)
    if json:
        print_json({"folder": str(output), **width_report(parsed)})
        return
    print(width_report_text(parsed), end="")
    for path in sorted(output.iterdir()):
        print(path)
