"""`halfulp devices`: where GEMMs can run."""

from __future__ import annotations

from typing import Annotated

import typer

from halfulp.cli.console import print_json, print_table
from halfulp.host.device import DEVICES

__all__ = ["devices"]

EXAMPLE = """
  halfulp devices
  halfulp gemm A.npy B.npy -o C.npy --device rtl:8x8
"""


def devices(
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """The devices that there are, and how each is asked for."""
    rows = [[kind.spelling, kind.summary] for kind in DEVICES.members()]
    if json:
        print_json([{"device": spelling, "summary": summary} for spelling, summary in rows])
    else:
        print_table("Devices", ["device", "what it is"], rows)
