"""Stand-ins for Yosys, nextpnr and the bitstream writers: they write what the real ones would, in no time."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

CELLS = {"LUT4": 500, "CCU2C": 20, "TRELLIS_FF": 300, "MULT18X18D": 4, "DP16KD": 8}

REPORT = {
    "fmax": {"$glbnet$clk": {"achieved": 100.0, "constraint": 50.0}},
    "utilization": {
        "TRELLIS_COMB": {"used": 540, "available": 83640},
        "TRELLIS_FF": {"used": 300, "available": 83640},
        "MULT18X18D": {"used": 4, "available": 156},
        "DP16KD": {"used": 8, "available": 208},
    },
    "critical_paths": [
        {
            "from": "posedge $glbnet$clk",
            "to": "posedge $glbnet$clk",
            "path": [
                {
                    "type": kind,
                    "delay": delay,
                    "from": {"cell": source, "port": "Q"},
                    "to": {"cell": target, "port": "D"},
                }
                for kind, delay, source, target in (
                    ("clk-to-q", 0.5, "first", "first"),
                    ("routing", 4.0, "first", "last"),
                    ("setup", 0.25, "last", "last"),
                )
            ],
        }
    ],
}

TOOL = """#!{python}
import json, pathlib, sys, time
with open({calls!r}, "a") as file:
    file.write({name!r} + "\\n")
print({says!r}, flush=True)
time.sleep({seconds})
if {code}:
    sys.exit({code})
for name, text in json.loads({files!r}).items():
    pathlib.Path(name).write_text(text)
"""


class FakeTools:
    """What `Program` finds instead of the packages' tools, by its environment variables.

    Attributes
    ----------
    cells, report
        What Yosys counts and what nextpnr reports; to be changed before a call.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._calls = folder / "calls"
        self.cells = dict(CELLS)
        self.report = json.loads(json.dumps(REPORT))
        self.install()

    def install(self) -> None:
        """Write all tools anew, after a change of `cells` or `report`."""
        cells = json.dumps({"design": {"num_cells_by_type": self.cells}})
        report = {"report.json": json.dumps(self.report), "nextpnr.log": "Info: done\n"}
        self.install_one("YOSYS", {"cells.json": cells, "netlist.json": json.dumps({"modules": {}, "of": self.cells})})
        self.install_one("NEXTPNR_ECP5", {**report, "top.config": "routed"})
        self.install_one("NEXTPNR_ICE40", {**report, "top.asc": "routed"})
        self.install_one("NEXTPNR_HIMBAECHEL", {**report, "top.pnr.json": "{}"})
        self.install_one("ECPPACK", {"top.bit": "bits"})
        self.install_one("ICEPACK", {"top.bin": "bits"})
        self.install_one("GOWIN_PACK", {"top.fs": "bits"})

    def install_one(
        self, variable: str, files: dict[str, str], *, says: str = "", code: int = 0, seconds: float = 0
    ) -> None:
        """Write one tool: the files it makes, what it says, its exit code, and how long it takes."""
        path = self._folder / variable.lower()
        text = TOOL.format(
            python=sys.executable,
            calls=str(self._calls),
            name=variable,
            says=says,
            seconds=seconds,
            code=code,
            files=json.dumps(files),
        )
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self._monkeypatch.setenv(variable, str(path))

    def calls(self) -> list[str]:
        """The tools that were run since the last question, in order."""
        if not self._calls.exists():
            return []
        names = self._calls.read_text(encoding="utf-8").split()
        self._calls.unlink()
        return names
