"""Flat Verilog in a form that compiled simulators run faster: the same registers, memories and values in every clock.

A compiled simulator runs the text from end to end in each clock, far more code than a processor's cache holds, so what
counts is how much of it has to be looked at. Here what is seldom done is put behind one condition.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

__all__ = ["gather_byte_writes", "gather_enables", "gather_initial_values", "simulation_form"]

# An identifier as Yosys writes it; an escaped one ends with its space.
NAME = r"(?:\\\S+ |(?<![\w'])[A-Za-z_]\w*)"
BIT = rf"{NAME}(?:\[\d+\])?"
PART = rf"{NAME}(?:\[[\d:]+\] )?"

LANE = re.compile(
    rf"    if \((?P<enable>{NAME})\[(?P<bit>\d+)\]\)\n"
    rf"      (?P<memory>{NAME})\[(?P<address>{NAME})\]\[(?P<high>\d+):(?P<low>\d+)\] <= (?P<value>[^\n]*);\n"
)
UNNAMED_LANE = re.sub(r"\?P<\w+>", "?:", LANE.pattern)
LANES = re.compile(rf"^  always @\(posedge aclk\) begin\n((?:{UNNAMED_LANE}){{2,}})  end\n", re.MULTILINE)

INITIAL_VALUES = re.compile(rf"^    ({NAME})\[0\] = (\d+'h0+);\n(?:    \1\[\d+\] = \2;\n)+", re.MULTILINE)

REGISTER = re.compile(
    r"^  always @\(posedge aclk\)\n"
    rf"    (?:if \((?P<reset>!?{NAME})\) (?P<cleared>{PART}) ?<= (?P<start>[^\n;]*);\n    else )?"
    rf"if \((?P<enable>{NAME})\) (?P<register>{PART}) ?<= (?P<value>[^\n;]*);\n",
    re.MULTILINE,
)
CONJUNCTIONS = (
    re.compile(rf"^  assign (?P<name>{NAME}) = & \{{ (?P<terms>[^\n]*) \}};$", re.MULTILINE),
    re.compile(rf"^  assign (?P<name>{NAME}) = (?P<terms>{BIT} ?& {BIT} ?);$", re.MULTILINE),
)
FEWEST_SHARING = 4
"""Registers for which a condition of their own is worth while."""


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


def gather_enables(text: str) -> str:
    """Registers whose enables have a factor in common are looked at only in clocks in which it is 1."""
    factors = {
        match["name"]: [term.strip() for term in re.findall(BIT, match["terms"])]
        for conjunction in CONJUNCTIONS
        for match in conjunction.finditer(text)
    }
    registers = [match for match in REGISTER.finditer(text) if match["enable"] in factors]
    shared = Counter(factor for match in registers for factor in set(factors[match["enable"]]))
    groups: defaultdict[tuple[str, str | None], list[re.Match[str]]] = defaultdict(list)
    for match in registers:
        most = max(factors[match["enable"]], key=lambda factor: (shared[factor], factor))
        groups[most, match["reset"]].append(match)

    written: list[str] = []
    gathered: dict[int, int] = {}
    for (factor, reset), members in groups.items():
        if len(members) < FEWEST_SHARING:
            continue
        gathered |= {match.start(): match.end() for match in members}
        clear = [f"      {match['cleared']} <= {match['start']};\n" for match in members]
        update = [f"      if ({match['enable']}) {match['register']} <= {match['value']};\n" for match in members]
        start = f"if ({reset}) begin\n{''.join(clear)}    end else " if reset else ""
        written.append(f"  always @(posedge aclk)\n    {start}if ({factor} ) begin\n{''.join(update)}    end\n")
    kept: list[str] = []
    position = 0
    for begin in sorted(gathered):
        kept.append(text[position:begin])
        position = gathered[begin]
    head, end, tail = (*kept, text[position:])[-1].rpartition("endmodule")
    return "".join([*kept, head, *written, end, tail])
