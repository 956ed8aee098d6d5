"""A block design as the stubbed Vivado keeps it: cells, wires and addresses, and all that it must have at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BlockDesign", "Cell", "VivadoError"]


class VivadoError(Exception):
    """What Vivado would refuse, or what it would build wrongly."""


@dataclass
class Cell:
    """An instance of an IP; `ip` is its entry in vivado_names.toml."""

    name: str
    ip: Mapping[str, Any]
    properties: dict[str, str] = field(default_factory=dict)

    def _has(self, thing: Mapping[str, Any]) -> bool:
        return all(self.properties.get(name) == value for name, value in thing.get("needs", {}).items())

    @property
    def pins(self) -> dict[str, Mapping[str, Any]]:
        return {name: pin for name, pin in self.ip["pins"].items() if self._has(pin)}

    @property
    def buses(self) -> dict[str, Mapping[str, Any]]:
        buses = {name: bus for name, bus in self.ip["buses"].items() if self._has(bus)}
        for letter, end in (("S", "target"), ("M", "initiator")):
            for number in range(int(self.properties.get(f"NUM_{letter}I", 0))):
                buses[f"{letter}{number:02}_AXI"] = {"end": end, "clock": "aclk"}
        return buses

    def set(self, name: str, value: str) -> None:
        """Set a property ``CONFIG.NAME``."""
        prefix, _, plain = name.partition(".")
        rule = self.ip["properties"].get(plain)
        if prefix != "CONFIG" or rule is None:
            raise VivadoError(f"{self.name} has no property {name}")
        if not re.fullmatch(rule, value):
            raise VivadoError(f"{name} of {self.name} cannot be {value!r}")
        self.properties[plain] = value


class BlockDesign:
    """One design; a path is CELL/PIN or CELL/BUS, as the scripts write them."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.drivers: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.addresses: dict[tuple[str, str], tuple[int, int] | None] = {}
        self.is_validated = False
        self.is_saved = False

    def add(self, name: str, ip: Mapping[str, Any]) -> str:
        if name in self.cells:
            raise VivadoError(f"there is a cell {name} already")
        self.cells[name] = Cell(name, ip)
        self.is_validated = self.is_saved = False
        return name

    def _split(self, path: str) -> tuple[Cell | None, str]:
        cell, _, rest = path.lstrip("/").partition("/")
        return self.cells.get(cell), rest

    def pin(self, path: str) -> Mapping[str, Any] | None:
        cell, name = self._split(path)
        return cell.pins.get(name) if cell else None

    def bus(self, path: str) -> Mapping[str, Any] | None:
        cell, name = self._split(path)
        return cell.buses.get(name) if cell else None

    def connect(self, one: str, other: str) -> None:
        """Connect two pins, one of which drives."""
        directions = {path: (self.pin(path) or {"direction": "no pin"})["direction"] for path in (one, other)}
        if sorted(directions.values()) != ["in", "out"]:
            raise VivadoError(f"{one} ({directions[one]}) and {other} ({directions[other]}) cannot be connected")
        driver, load = (one, other) if directions[one] == "out" else (other, one)
        if load in self.drivers:
            raise VivadoError(f"{load} is driven by {self.drivers[load]} already")
        kinds = [(self.pin(path) or {})["kind"] for path in (driver, load)]
        if kinds[0] != kinds[1]:
            raise VivadoError(f"{driver} is a {kinds[0]}, {load} a {kinds[1]}")
        self.drivers[load] = driver
        self.is_validated = self.is_saved = False

    def link(self, one: str, other: str) -> None:
        """Connect two buses, an initiator and a target."""
        ends = {path: (self.bus(path) or {"end": "no bus"})["end"] for path in (one, other)}
        if sorted(ends.values()) != ["initiator", "target"]:
            raise VivadoError(f"{one} ({ends[one]}) and {other} ({ends[other]}) cannot be connected")
        for path in (one, other):
            if path in self.links:
                raise VivadoError(f"{path} is connected to {self.links[path]} already")
        self.links |= {one: other, other: one}
        self.is_validated = self.is_saved = False

    def segments(self, bus: str) -> list[str]:
        """The address segments behind a target's bus."""
        cell, _ = self._split(bus)
        found = self.bus(bus)
        return [f"{cell.name}/{name}" for name in (found or {}).get("segments", [])] if cell else []

    def all_segments(self) -> Iterator[str]:
        for path in self._buses():
            yield from self.segments(path)

    def space(self, bus: str) -> str:
        """The address space that an initiator's bus looks into."""
        cell, name = self._split(bus)
        assert cell is not None
        return f"{cell.name}/{cell.ip['space']['name'] if 'space' in cell.ip else name}"

    def spaces(self) -> set[str]:
        """The address spaces of all that begins a transfer by itself."""
        beginners = [cell for cell in self.cells.values() if "NUM_SI" not in cell.properties]
        return {
            self.space(f"{cell.name}/{name}")
            for cell in beginners
            for name, bus in cell.buses.items()
            if bus["end"] == "initiator"
        }

    def assign(self, space: str, segment: str, address: tuple[int, int] | None) -> None:
        """Give a segment its offset and range in a space, (-1, -1) for Vivado's own choice, or exclude it with None."""
        if space not in self.spaces():
            raise VivadoError(f"there is no address space {space}")
        if segment not in set(self.all_segments()):
            raise VivadoError(f"there is no address segment {segment}")
        if (space, segment) in self.addresses:
            raise VivadoError(f"{segment} has its place in {space} already")
        if segment not in self._reached(space):
            raise VivadoError(f"no path leads from {space} to {segment}")
        self.addresses[space, segment] = address
        self.is_validated = self.is_saved = False

    def validate(self) -> None:
        """Raise with everything that is missing."""
        problems = [*self._open_pins(), *self._open_buses(), *self._wrong_addresses()]
        if problems:
            raise VivadoError("; ".join(problems))
        self.is_validated = True

    def _buses(self) -> Iterator[str]:
        for cell in self.cells.values():
            for name in cell.buses:
                yield f"{cell.name}/{name}"

    def _open_pins(self) -> Iterator[str]:
        for cell in self.cells.values():
            for name, pin in cell.pins.items():
                path = f"{cell.name}/{name}"
                if pin["direction"] == "in" and path not in self.drivers and not pin.get("optional"):
                    yield f"{path} has no {pin['kind']}"
        clocks = {self.drivers[path] for path in self.drivers if (self.pin(path) or {})["kind"] == "clock"}
        if len(clocks) > 1:
            yield f"there are {len(clocks)} clocks and nothing that crosses from one to another"

    def _open_buses(self) -> Iterator[str]:
        for path in self._buses():
            cell, _ = self._split(path)
            bus = self.bus(path)
            assert cell is not None
            assert bus is not None
            if path not in self.links and not bus.get("optional"):
                yield f"{path} is not connected"
            if bus["clock"] not in cell.pins:
                yield f"{path} has no clock pin {bus['clock']}"

    def _reached(self, space: str) -> list[str]:
        """Segments that a space's buses lead to, by way of SmartConnects."""
        found: list[str] = []
        for path in self._buses():
            bus = self.bus(path)
            assert bus is not None
            if bus["end"] == "initiator" and self.space(path) == space:
                found += self._behind(path)
        return found

    def _behind(self, initiator: str) -> list[str]:
        target = self.links.get(initiator)
        if target is None:
            return []
        cell, _ = self._split(target)
        assert cell is not None
        if "NUM_SI" not in cell.properties:
            return self.segments(target)
        outputs = [f"{cell.name}/{name}" for name, bus in cell.buses.items() if bus["end"] == "initiator"]
        return [segment for path in outputs for segment in self._behind(path)]

    def _wrong_addresses(self) -> Iterator[str]:
        for space in sorted(self.spaces()):
            for segment in self._reached(space):
                if (space, segment) not in self.addresses:
                    yield f"{segment} has no address in {space}"
        placed = [(key, place) for key, place in self.addresses.items() if place is not None and place[0] >= 0]
        for number, ((space, segment), (offset, size)) in enumerate(placed):
            cell, _ = self._split(space)
            assert cell is not None
            windows = [window for each in cell.ip["space"]["windows"].values() for window in each]
            if not any(low <= offset and offset + size <= low + length for low, length in windows):
                yield f"{segment} at {offset:#x} is outside of what {space} can reach"
            if size < 4096 or size & (size - 1) or offset % size:
                yield f"{segment} at {offset:#x} is not aligned to its range {size:#x}"
            for (other_space, other), (low, length) in placed[:number]:
                if space == other_space and offset < low + length and low < offset + size:
                    yield f"{segment} overlaps {other}"
