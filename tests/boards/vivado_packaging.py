"""Packaging as the stubbed Vivado does it: the commands ``ipx::…``, and the IP that comes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .vivado_design import VivadoError

if TYPE_CHECKING:
    from .vivado_stub import VivadoStub

__all__ = ["Packager"]


class Packager:
    """The core that is packaged; each method but `ip` is a command, given its options and the rest of its arguments."""

    def __init__(self, stub: VivadoStub) -> None:
        self._stub = stub
        self.core: dict[str, Any] = {}

    def package_project(self, options: dict[str, str], rest: list[str]) -> str:
        files = self._stub.current()["files"]
        top = self._stub.objects["sources_1"][1].get("top", "")
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        found = re.search(rf"^module {top}\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)
        if not top or found is None:
            raise VivadoError(f"there is no module {top!r}")
        self.core = {**options, "ports": set(re.findall(r"^  (?:in|out)put (?:\[.*?\] )?(\w+);", found[0], re.M))}
        for bus in ("s_axi", "m_axi"):  # by their ports' names
            if {f"{bus}_{port}" for port in ("awaddr", "wdata", "bresp", "araddr", "rdata")} <= self.core["ports"]:
                self._stub.new("bus_interface", bus)
        self.core["associated"] = {}
        return self._stub.new("core", "core")

    def current_core(self, options: dict[str, str], rest: list[str]) -> str:
        if "core" not in self._stub.objects:
            raise VivadoError("no core is open")
        return "core"

    def get_bus_interfaces(self, options: dict[str, str], rest: list[str]) -> list[str]:
        return [rest[0]] if rest[0] in self._stub.objects_of("bus_interface") else []

    def infer_bus_interface(self, options: dict[str, str], rest: list[str]) -> str:
        port, vlnv, _ = rest
        if port not in self.core["ports"]:
            raise VivadoError(f"the core has no port {port}")
        if vlnv not in [f"xilinx.com:signal:{kind}_rtl:1.0" for kind in ("clock", "reset", "interrupt")]:
            raise VivadoError(f"there is no bus {vlnv}")
        self.core[port] = vlnv.split(":")[2].removesuffix("_rtl")
        return self._stub.new("bus_interface", port)

    def associate_bus_interfaces(self, options: dict[str, str], rest: list[str]) -> None:
        for name in options.values():
            if name not in self._stub.objects_of("bus_interface"):
                raise VivadoError(f"the core has no bus {name}")
        self.core["associated"][options.get("busif") or options["reset"]] = options["clock"]

    def _child(self, kind: str, parent_kind: str, rest: list[str]) -> str:
        name, parent = rest
        if self._stub.objects.get(parent, ("",))[0] != parent_kind:
            raise VivadoError(f"{parent!r} is no {parent_kind} that could have the {kind} {name}")
        handle = f"{parent}.{name}"
        if handle in self._stub.objects:
            raise VivadoError(f"there is a {kind} {name} already")
        return self._stub.new(kind, handle)

    def add_bus_parameter(self, options: dict[str, str], rest: list[str]) -> str:
        return self._child("bus_parameter", "bus_interface", rest)

    def add_memory_map(self, options: dict[str, str], rest: list[str]) -> str:
        return self._child("memory_map", "core", rest)

    def add_address_block(self, options: dict[str, str], rest: list[str]) -> str:
        return self._child("address_block", "memory_map", rest)

    def add_register(self, options: dict[str, str], rest: list[str]) -> str:
        return self._child("register", "address_block", rest)

    def add_field(self, options: dict[str, str], rest: list[str]) -> str:
        return self._child("field", "register", rest)

    def add_user_parameter(self, options: dict[str, str], rest: list[str]) -> str:
        return self._child("user_parameter", "core", rest)

    def create_xgui_files(self, options: dict[str, str], rest: list[str]) -> None:
        self.core["xgui"] = True

    def update_checksums(self, options: dict[str, str], rest: list[str]) -> None:
        self.core["checked"] = True

    def check_integrity(self, options: dict[str, str], rest: list[str]) -> None:
        associated = self.core["associated"]
        for bus in ("s_axi", "m_axi", "aresetn"):
            if associated.get(bus) != "aclk":
                raise VivadoError(f"{bus} of the core is not associated with its clock")
        if self._stub.objects["s_axi"][1].get("slave_memory_map_ref") != "s_axi":
            raise VivadoError("s_axi of the core has no memory map")

    def save_core(self, options: dict[str, str], rest: list[str]) -> None:
        if not self.core.get("checked") or not self.core.get("xgui"):
            raise VivadoError("the core is saved before its checksums and its user interface are made")
        self.core["saved"] = Path(self.core["root_dir"])

    def ip(self) -> dict[str, Any]:
        """What a block design sees of it."""
        kinds = {port: self.core[port] for port in ("aclk", "aresetn", "interrupt")}
        return {
            "vlnv": self.core["vlnv"],
            "properties": {},
            "pins": {
                port: {"direction": "out" if kind == "interrupt" else "in", "kind": kind}
                for port, kind in kinds.items()
            },
            "buses": {
                "s_axi": {"end": "target", "clock": "aclk", "segments": ["s_axi/reg0"]},
                "m_axi": {"end": "initiator", "clock": "aclk"},
            },
        }
