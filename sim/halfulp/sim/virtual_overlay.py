"""The files of an overlay for the virtual board: a hand-off file, and a bitstream that holds no logic."""

from __future__ import annotations

import struct
from pathlib import Path

from halfulp.hw.cache import cached, digest
from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import handoff_xml

__all__ = ["virtual_overlay", "write_virtual_overlay"]

NAME = "halfulp.bit"

PREFIX = bytes.fromhex("0009 0ff00ff00ff00ff000 0001")
"""How every .bit file begins."""


def virtual_overlay(config: ArrayConfig, *, processing_system: str | None = None) -> Path:
    """Bitstream file of the virtual overlay of this core, with its hand-off file beside it, in the cache."""
    key = f"{config.name}-{digest(handoff_xml(config, processing_system=processing_system), '1')}"

    def build(folder: Path) -> None:
        write_virtual_overlay(folder, config, processing_system=processing_system)

    return cached("overlays", key, build) / NAME


def write_virtual_overlay(folder: Path, config: ArrayConfig, *, processing_system: str | None = None) -> Path:
    """Write both files into an existing folder and return the bitstream's path."""
    bit = folder / NAME
    bit.with_suffix(".hwh").write_text(handoff_xml(config, processing_system=processing_system), encoding="utf-8")
    bit.write_bytes(_empty_bitstream(config.name))
    return bit


def _empty_bitstream(design: str) -> bytes:
    """A .bit file whose header is in order, as PYNQ reads it to send a bitstream, and whose data is padding."""
    texts = {"a": design, "b": "virtual", "c": "2000/01/01", "d": "00:00:00"}
    fields = [key.encode() + struct.pack(">H", len(text) + 1) + text.encode() + b"\0" for key, text in texts.items()]
    data = b"\xff" * 64
    return PREFIX + b"".join(fields) + b"e" + struct.pack(">I", len(data)) + data
