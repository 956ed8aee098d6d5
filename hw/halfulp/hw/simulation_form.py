"""Flat Verilog in a form that compiled simulators run faster: the same registers, memories and values in every clock.

A compiled simulator runs the text from end to end in each clock, far more code than a processor's cache holds, so what
counts is how much of it has to be looked at. Here, and in `enabled_logic`, what is seldom done is put behind one
condition.
"""

from __future__ import annotations

import re

from halfulp.hw.enabled_logic import gather_enables

__all__ = ["gather_byte_writes", "gather_initial_values", "simulation_form"]

# An identifier as Yosys writes it; an escaped one ends with its space.
NAME = r"(?:\\\S+ |(?<![\w'])[A-Za-z_]\w*)"

LANE = re.compile(
    rf"    if \((?P<enable>{NAME})\[(?P<bit>\d+)\]\)\n"
    rf"      (?P<memory>{NAME})\[(?P<address>{NAME})\]\[(?P<high>\d+):(?P<low>\d+)\] <= (?P<value>[^\n]*);\n"
)
UNNAMED_LANE = re.sub(r"\?P<\w+>", "?:", LANE.pattern)
LANES = re.compile(rf"^  always @\(posedge aclk\) begin\n((?:{UNNAMED_LANE}){{2,}})  end\n", re.MULTILINE)

INITIAL_VALUES = re.compile(rf"^    ({NAME})\[0\] = (\d+'h0+);\n(?:    \1\[\d+\] = \2;\n)+", re.MULTILINE)


def simulation_form(text: str) -> str:
    """The module that Yosys' `write_verilog -noattr -norename` has written, clocked by ``aclk``, in the faster form."""
    return gather_enables(gather_byte_writes(gather_initial_values(text)))


def gather_initial_values(text: str) -> str:
    """Memories that begin as zeros are filled by a loop, which is quicker to compile than a line a word."""

    def loop(match: re.Match[str]) -> str:
        count = match[0].count("\n")
        return f"    for (integer i = 0; i < {count}; i = i + 1)\n      {match[1]}[i] = {match[2]};\n"

    return INITIAL_VALUES.sub(loop, text)


def gather_byte_writes(text: str) -> str:
    """Writes of a memory's parts, each by its own enable, become one of a whole word, where any part is enabled."""
    return LANES.sub(_whole_word, text)


def _whole_word(match: re.Match[str]) -> str:
    lanes = list(LANE.finditer(match[1]))
    enable, memory, address = lanes[0]["enable"], lanes[0]["memory"], lanes[0]["address"]
    low = 0
    for number, lane in enumerate(lanes):
        of_one_word = (lane["enable"], lane["memory"], lane["address"]) == (enable, memory, address)
        if not of_one_word or int(lane["bit"]) != number or int(lane["low"]) != low:
            return match[0]
        low = int(lane["high"]) + 1
    widths = [int(lane["high"]) - int(lane["low"]) + 1 for lane in lanes]
    masks = [f"{{{width}{{{enable}[{number}]}}}}" for number, width in enumerate(widths)]
    mask = f"{{ {', '.join(reversed(masks))} }}"
    value = f"{{ {', '.join(lane['value'] for lane in reversed(lanes))} }}"
    word = f"{memory}[{address}]"
    return f"  always @(posedge aclk)\n    if (|{enable})\n      {word} <= ({value} & {mask}) | ({word} & ~{mask});\n"
