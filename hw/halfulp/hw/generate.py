"""Everything that someone who builds a core into a design needs, as one folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import config_toml
from halfulp.hw.handoff import handoff_xml
from halfulp.hw.register_docs import (
    register_header,
    register_json,
    register_markdown,
    register_python,
    register_rdl,
)
from halfulp.hw.verilog import TOP, generate_verilog

__all__ = ["GeneratedCore", "generate", "width_report", "width_report_text"]

FILES = {
    "verilog": f"{TOP}.v",
    "config": "config.toml",
    "handoff": "halfulp.hwh",
    "register_page": "registers.md",
    "register_header": "halfulp_registers.h",
    "register_python": "halfulp_registers.py",
    "register_rdl": "halfulp_registers.rdl",
    "register_map": "registers.json",
    "report": "report.json",
    "report_text": "report.txt",
}


@dataclass(frozen=True)
class GeneratedCore:
    """Where the files of a generated core lie."""

    folder: Path
    verilog: Path
    config: Path
    handoff: Path
    register_page: Path
    register_header: Path
    register_python: Path
    register_rdl: Path
    register_map: Path
    report: Path
    report_text: Path


def generate(config: ArrayConfig, folder: str | Path) -> GeneratedCore:
    """Write a core's Verilog, configuration, hand-off file, register map and report of widths to `folder`.

    The folder appears whole or not at all: everything is written beside it and renamed. One that this function has
    made before is replaced; one with anything else in it is left alone.

    Raises
    ------
    FileExistsError
        Where `folder` is a file, or holds anything that is not from here.
    OSError
        Where it cannot be written.
    """
    target = Path(folder).absolute()
    _check_replaceable(target)
    contents = _contents(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        for name, text in contents.items():
            (fresh / name).write_text(text, encoding="utf-8", newline="\n")
        _check_replaceable(target)
        if target.exists():
            target.rename(work / "old")
        try:
            fresh.rename(target)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(target)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return GeneratedCore(target, **{role: target / name for role, name in FILES.items()})


def _contents(config: ArrayConfig) -> dict[str, str]:
    """Text of each file by its name."""
    texts = {
        "verilog": generate_verilog(config),
        "config": config_toml(config),
        "handoff": handoff_xml(config),
        "register_page": register_markdown(),
        "register_header": register_header(),
        "register_python": register_python(),
        "register_rdl": register_rdl(),
        "register_map": register_json(),
        "report": json.dumps(width_report(config), indent=2) + "\n",
        "report_text": width_report_text(config),
    }
    return {FILES[role]: text for role, text in texts.items()}


def _check_replaceable(folder: Path) -> None:
    """Raise where something lies at `folder` that is not ours to replace."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise FileExistsError(f"{folder} exists and is no folder; name another one or remove it")
    names = {each.name for each in folder.iterdir()}
    ours = set(FILES.values())
    if names and names != ours:
        odd = min(names ^ ours)
        raise FileExistsError(
            f"{folder} is not empty and not a generated core: {odd!r} {'is' if odd in names else 'is not'} in it; "
            "name a new folder"
        )


def width_report(config: ArrayConfig) -> dict[str, Any]:
    """What the parameters of a configuration amount to, as plain data: widths in bits, sizes in bytes."""
    bank = config.buffer_depth * config.bus_bytes
    return {
        "name": config.name,
        "rows": config.rows,
        "columns": config.columns,
        "macs_per_clock": config.rows * config.columns // config.interleave,
        "interleave": config.interleave,
        "a_formats": [_format(fmt) for fmt in config.a_formats],
        "b_formats": [_format(fmt) for fmt in config.b_formats],
        "out_formats": [_format(fmt) for fmt in config.out_formats],
        "a_bytes": config.a_bytes,
        "b_bytes": config.b_bytes,
        "accumulator": str(config.accumulator),
        "accumulator_bits": config.accumulator_bits,
        "block": config.block,
        "block_scale": config.block_scale if config.block else None,
        "block_sum_bits": config.block_sum_bits if config.block else None,
        "max_k": config.max_k,
        "roundings": list(config.roundings),
        "lanes": config.lanes,
        "bus_width": config.bus_width,
        "bank_bytes": bank,
        "a_buffer_bytes": config.rows * bank,
        "b_buffer_bytes": config.columns * bank,
        "queue_depth": config.queue_depth,
        "reads_outstanding": config.reads_outstanding,
        "address_bits": config.address_bits,
        "size_bits": config.size_bits,
    }


def _format(fmt: Any) -> dict[str, Any]:
    return {
        "name": fmt.name,
        "bits": fmt.bits,
        "significand_bits": fmt.significand_bits,
        "lsb_exponent": fmt.lsb_exponent,
    }


def width_report_text(config: ArrayConfig) -> str:
    """The report of widths for people."""
    report = width_report(config)

    def names(role: str) -> str:
        return ", ".join(f"{fmt['name']} ({fmt['bits']} bits)" for fmt in report[role])

    rows = [
        ("core", report["name"]),
        ("array", f"{config.rows} x {config.columns}, {report['macs_per_clock']} MACs a clock"),
        ("A", f"{names('a_formats')}; {config.a_bytes} bytes an element"),
        ("B", f"{names('b_formats')}; {config.b_bytes} bytes an element"),
        *_blocks(config),
        ("accumulator", f"{config.accumulator}: {config.accumulator_bits} bits, K up to {config.max_k}"),
        ("output", names("out_formats")),
        ("rounding", f"{', '.join(config.roundings)}; {config.lanes} results a clock"),
        ("bus", f"{config.bus_width} bits, {config.reads_outstanding} reads outstanding"),
        ("buffers", f"A {report['a_buffer_bytes']} bytes, B {report['b_buffer_bytes']} bytes"),
        (
            "queue",
            f"{config.queue_depth} descriptors; addresses of {config.address_bits} bits, sizes of {config.size_bits}",
        ),
    ]
    return "".join(f"{name:<12} {text}\n" for name, text in rows)


def _blocks(config: ArrayConfig) -> list[tuple[str, str]]:
    if not config.block:
        return []
    names = " × ".join(", ".join(map(str, side)) for side in config.operands)
    scale = f"{config.block} elements a scale ({config.block_scale})"
    return [("blocks", f"{names}: {scale}, {config.block_sum_bits} bits inside; scales count in K")]
