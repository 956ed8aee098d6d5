"""Register map for others: the header compiles to the declaration's numbers, page and JSON list every register."""

from __future__ import annotations

import json
import re

from halfulp.hw.register_docs import register_header, register_json, register_markdown
from halfulp.hw.registers import REGISTERS, ErrorCode, register


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
