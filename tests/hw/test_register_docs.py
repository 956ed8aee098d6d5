"""Register map for others: the header compiles to the declaration's numbers, page and JSON list every register."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from systemrdl.compiler import RDLCompiler  # referee: Accellera's language, read by a compiler that is not ours

from halfulp.hw.register_docs import (
    register_header,
    register_json,
    register_markdown,
    register_python,
    register_rdl,
)
from halfulp.hw.registers import CORE_ID, REGISTERS, ErrorCode, register


def test_header_defines_every_offset_shift_mask_and_error_code_once() -> None:
    header = register_header()
    found = re.findall(r"^#define (\w+) +(\w+)$", header, re.MULTILINE)
    defined = {name: int(value.rstrip("u"), 0) for name, value in found}
    assert len(defined) == len(found)
    for r in REGISTERS:
        name = f"HALFULP_{r.name.upper()}"
        assert defined.pop(name) == r.offset
        for f in r.fields:
            assert defined.pop(f"{name}_{f.name.upper()}_SHIFT") == f.lsb
            assert defined.pop(f"{name}_{f.name.upper()}_MASK") == ((1 << f.width) - 1) << f.lsb
    for code in ErrorCode:
        assert defined.pop(f"HALFULP_ERROR_{code.name}") == code
    assert set(defined) == {"HALFULP_ID_VALUE", "HALFULP_VERSION_VALUE"}


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_header_compiles_to_the_declared_numbers(language: str, standard: str, tmp_path: Path) -> None:
    """Included twice, without a warning; an array of a negative size where a number is another."""
    names = re.findall(r"^#define HALFULP_(\w+) ", register_header(), re.MULTILINE)
    defined: dict[str, int] = {}
    exec(compile(register_python(), "registers.py", "exec"), defined)
    lines = [f"typedef char is_{name}[HALFULP_{name} == {defined[name]}u ? 1 : -1];" for name in names]
    (tmp_path / "halfulp.h").write_text(register_header(), encoding="utf-8")
    main = "int main(void) { return HALFULP_ID != 0; }"
    (tmp_path / "main.c").write_text("\n".join(['#include "halfulp.h"'] * 2 + lines + [main, ""]), encoding="utf-8")
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-std={standard}", "-fsyntax-only"]
    command = ["g++", "-x", language, *strict, "main.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_module_defines_what_the_header_does() -> None:
    defined: dict[str, object] = {}
    exec(compile(register_python(), "registers.py", "exec"), defined)
    numbers = {name: value for name, value in defined.items() if isinstance(value, int)}
    found = re.findall(r"^#define HALFULP_(\w+) +(\w+)$", register_header(), re.MULTILINE)
    assert numbers == {name: int(value.rstrip("u"), 0) for name, value in found}


def test_systemrdl_elaborates_to_the_declaration(tmp_path: Path) -> None:
    file = tmp_path / "halfulp.rdl"
    file.write_text(register_rdl(), encoding="utf-8")
    compiler = RDLCompiler()
    compiler.compile_file(str(file))
    found = list(compiler.elaborate().top.registers())
    assert [(r.inst_name, r.absolute_address) for r in found] == [(r.name, r.offset) for r in REGISTERS]
    software = {"ro": "r", "rw": "rw", "w1": "w"}
    for node, r in zip(found, REGISTERS, strict=True):
        fields = [(f.name, f.lsb, f.width) for f in r.fields] or [("value", 0, 32)]
        assert sorted((f.inst_name, f.lsb, f.width) for f in node.fields()) == sorted(fields)
        assert {f.get_property("sw").name for f in node.fields()} == {software[r.access]}
        assert {f.get_property("singlepulse") for f in node.fields()} == {r.access == "w1"}
    assert next(iter(found[0].fields())).get_property("reset") == CORE_ID


def test_json_reads_back_as_the_declaration() -> None:
    data = json.loads(register_json())
    assert [r["name"] for r in data["registers"]] == [r.name for r in REGISTERS]
    for entry in data["registers"]:
        r = register(entry["name"])
        assert (entry["offset"], entry["access"]) == (r.offset, r.access)
        assert [(f["name"], f["lsb"], f["width"]) for f in entry["fields"]] == [
            (f.name, f.lsb, f.width) for f in r.fields
        ]
    assert data["error_codes"]["READ_ERROR"] == ErrorCode.READ_ERROR


def test_page_has_a_line_for_every_register_and_field() -> None:
    page = register_markdown()
    for r in REGISTERS:
        assert f"| `0x{r.offset:03X}` | `{r.name}` | {r.access} | {r.doc} |" in page
        for f in r.fields:
            assert re.search(rf"\| `{r.name}` \| [\d:]+ \| `{f.name}` \| {re.escape(f.doc)} \|", page)


def test_declared_fields_and_registers_do_not_overlap() -> None:
    assert len({r.offset for r in REGISTERS}) == len({r.name for r in REGISTERS}) == len(REGISTERS)
    for r in REGISTERS:
        assert r.offset % 4 == 0
        bits = [bit for f in r.fields for bit in range(f.lsb, f.lsb + f.width)]
        assert len(bits) == len(set(bits))
        assert all(bit < 32 for bit in bits)
