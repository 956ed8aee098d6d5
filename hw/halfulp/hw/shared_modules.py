"""One Verilog module for all copies of a block.

Amaranth writes a module an instance: an 8×8 array has 64 times the text of one processing element. Synthesis, C++
builds and readers are better off with one module and 64 instances of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["share_modules"]

# An identifier as Yosys writes it; an escaped one ends with its space.
NAME = r"(?:\\\S+ |\w+)"
MODULE = re.compile(rf"^module ({NAME})\s*\(([^;]*)\);\n(.*?)^endmodule\n", re.MULTILINE | re.DOTALL)
INSTANCE = re.compile(rf"^  ({NAME}) ({NAME})\s*\(\n((?:    \..*\n)*)  \);\n", re.MULTILINE)
CONNECTION = re.compile(rf"^    \.({NAME})", re.MULTILINE)

# Names that Amaranth and Yosys number through the whole design, so that no two copies of a block have the same.
NUMBERED = re.compile(r"\\([A-Za-z_][^\s$]*|\$auto)\$\S+ ")


@dataclass
class _Module:
    """A module's text, its numbered names counted anew from 0; `renamed` tells what these were, by new name."""

    ports: list[str]
    body: str
    renamed: Mapping[str, str]


def share_modules(text: str) -> str:
    """Replace modules that differ in nothing but their names by the first of them.

    Takes what Yosys' `write_verilog -norename` writes for Amaranth. Modules and instances keep their order and their
    names; the top module, the first, also all the names inside.
    """
    found = list(MODULE.finditer(text))
    top = found[0][1]
    modules = {m[1]: _renumbered(m[2], m[3], keep=m[1] == top) for m in found}
    for module in modules.values():
        module.body = INSTANCE.sub(lambda m: _reconnected(m, modules), module.body)
    while doubled := _doubled(modules, top):
        for name in doubled:
            del modules[name]
        # Modules whose instances now have one type may themselves have become equal.
        for module in modules.values():
            module.body = INSTANCE.sub(lambda m: _retyped(m, doubled), module.body)
    written = [f"module {n}({', '.join(m.ports)});\n{m.body}endmodule\n" for n, m in modules.items()]
    return text[: found[0].start()] + "\n".join(written)


def _renumbered(ports: str, body: str, *, keep: bool) -> _Module:
    """A module with its numbered names counted from 0, each kind by itself, in order of appearance."""
    names: dict[str, str] = {}
    if not keep:
        count: Counter[str] = Counter()
        # What a connection calls a port is the other module's matter.
        for match in NUMBERED.finditer(CONNECTION.sub("", body)):
            if match[0] not in names:
                names[match[0]] = f"\\{match[1]}${count[match[1]]} "
                count[match[1]] += 1

    def rename(name: re.Match[str]) -> str:
        return names.get(name[0], name[0])

    lines = []
    for line in body.splitlines(keepends=True):
        connection = CONNECTION.match(line)
        start = connection.end() if connection else 0
        lines.append(line[:start] + NUMBERED.sub(rename, line[start:]))
    listed = [NUMBERED.sub(rename, port) for port in re.findall(NAME, ports)]
    return _Module(listed, "".join(lines), names)


def _reconnected(instance: re.Match[str], modules: Mapping[str, _Module]) -> str:
    """An instance's text with its ports called what they are called now."""
    if instance[1] not in modules:
        return instance[0]
    renamed = modules[instance[1]].renamed
    ports = CONNECTION.sub(lambda m: f"    .{renamed.get(m[1], m[1])}", instance[3])
    return f"  {instance[1]} {instance[2]} (\n{ports}  );\n"


def _doubled(modules: Mapping[str, _Module], top: str) -> dict[str, str]:
    """Modules that are the same as an earlier one, with that one's name."""
    first: dict[tuple[frozenset[str], str], str] = {}
    doubled = {}
    for name, module in modules.items():
        if name != top:
            kept = first.setdefault((frozenset(module.ports), module.body), name)
            if kept != name:
                doubled[name] = kept
    return doubled


def _retyped(instance: re.Match[str], doubled: Mapping[str, str]) -> str:
    """An instance's text with the module that stays."""
    kept = doubled.get(instance[1], instance[1])
    return instance[0].replace(instance[1], kept, 1)
