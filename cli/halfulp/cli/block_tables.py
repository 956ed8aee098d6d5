"""What `halfulp formats` tells of block-scaled formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from halfulp.cli.console import print_table
from halfulp.numerics.block_formats import BlockFormat

__all__ = ["block_properties", "print_block_format", "print_block_formats"]

SCALES = {
    "e8m0": "E8M0: code c is 2^(c − 127), 255 is NaN",
    "e4m3": "e4m3, not negative, 127 is NaN; and one float32 scale for the tensor",
}


def block_properties(fmt: BlockFormat) -> dict[str, Any]:
    """Plain data for JSON: ranges without a tensor's scale."""
    scales = fmt.scale_values
    usable = scales[np.isfinite(scales) & (scales > 0)]
    elements = np.abs(fmt.element.to_float64(fmt.element.valid_codes))
    elements = elements[np.isfinite(elements) & (elements > 0)]
    return {
        "name": fmt.name,
        "element": fmt.element.name,
        "block": fmt.block,
        "scale": fmt.scale,
        "tensor_scale": fmt.scale == "e4m3",
        "bits": fmt.element.bits,
        "bits_with_scale": fmt.element.bits + 8 / fmt.block,
        "largest": float(elements.max() * usable.max()),
        "least_positive": float(elements.min() * usable.min()),
    }


def print_block_formats(chosen: Sequence[BlockFormat]) -> None:
    """One row a format."""
    rows = []
    for fmt in chosen:
        p = block_properties(fmt)
        scale = f"{p['scale']}, float32" if p["tensor_scale"] else p["scale"]
        rows.append(
            [p["name"], p["element"], str(p["block"]), scale, f"{p['bits_with_scale']:g}", f"{p['largest']:g}",
             f"{p['least_positive']:g}"]
        )  # fmt: skip
    columns = ["name", "element", "block", "scale", "bits a number", "largest", "least > 0"]
    print_table("Block-scaled formats", columns, rows, right=(2, 4, 5, 6))


def print_block_format(fmt: BlockFormat) -> None:
    """One format, and how a block of numbers becomes codes."""
    p = block_properties(fmt)
    print(
        f"{fmt.name}: blocks of {fmt.block} along K; {p['bits_with_scale']:g} bits a number with its part of the scale"
    )
    print(f"  elements: {fmt.element.name}, {fmt.element.bits} bits")
    print(f"  scale: {SCALES[fmt.scale]}")
    whole = ", times the tensor's scale" if p["tensor_scale"] else ""
    print(f"  largest: {p['largest']:.10g}; least positive {p['least_positive']:g}{whole}")
    numbers = np.arange(-4, 4) / 4
    blocks = fmt.quantise(numbers)
    rows = [
        ["number", *(f"{x:g}" for x in numbers)],
        ["code", *(f"{code:#04x}" for code in blocks.codes)],
        ["value", *(f"{x:.5g}" for x in fmt.to_float64(blocks))],
    ]
    told = f"scale code {int(blocks.scales[0])}"
    if p["tensor_scale"]:
        told += f", tensor scale {blocks.tensor_scale:.6g}"
    print_table(f"A short block, {told}", ["", *(f"{n}" for n in range(8))], rows, right=range(1, 9))
