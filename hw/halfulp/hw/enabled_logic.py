"""Registers with an enable, and the wires that they alone read, behind that enable: for compiled simulators.

Such a simulator computes every wire in every clock, also those whose only readers are registers that keep their
values. Here wires are moved to where they are read: behind the condition of those registers, which is the enable itself
or a factor that the enables of several registers have in common. What is computed stays, only less often.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter

__all__ = ["gather_enables"]

# An identifier as Yosys writes it; an escaped one ends with its space.
NAME = r"(?:\\\S+ |(?<![\w'$])[A-Za-z_]\w*)"
BIT = rf"{NAME}(?:\[\d+\])?"
PART = rf"{NAME}(?:\[[\d:]+\] )?"

REFERENCE = re.compile(NAME)
REGISTER = re.compile(
    r"^  always @\(posedge aclk\)\n"
    rf"    (?:if \((?P<reset>!?{NAME})\) (?P<cleared>{PART}) ?<= (?P<start>[^\n;]*);\n    else )?"
    rf"if \((?P<enable>!?{BIT} ?)\) (?P<register>{PART}) ?<= (?P<value>[^\n;]*);\n(?!    )",
    re.MULTILINE,
)
ASSIGNMENT = re.compile(r"^  assign (?P<target>[^=\n]*[^=\s]) += (?P<value>[^\n]*);\n", re.MULTILINE)
OUTPUT = re.compile(rf"^  output (?:\[[\d:]+\] )?({NAME});$", re.MULTILINE)
WIRE = re.compile(rf"^  wire ((?:\[[\d:]+\] )?({NAME}));$", re.MULTILINE)
DECLARATION = re.compile(r"^  (?:input|output|wire|reg) [^\n]*;\n", re.MULTILINE)
FUNCTION = re.compile(r"^  function .*?^  endfunction\n", re.MULTILINE | re.DOTALL)
CONJUNCTION = re.compile(rf"& \{{ (.*) \}}|({BIT} ?& {BIT} ?)")

FEWEST_SHARING = 4
"""Registers for which a condition of their own is worth while, whatever they take."""

LEAST_BEHIND = 20
"""Names in the wires behind it for which it is, however few the registers."""

Place = tuple[str, ...]
"""Where a wire is computed: in every clock, behind a factor, or behind a factor and then an enable."""


def gather_enables(text: str) -> str:
    """The flat module, clocked by ``aclk``, with its registers and their wires behind conditions."""
    body = _Body(_without_unread(text))
    factors = body.factors()
    worth = body.worth_while(factors)
    return body.write({number: factor for number, factor in factors.items() if factor in worth})


def _names(text: str) -> list[str]:
    """Names in an expression, whose last one may have lost its space."""
    return REFERENCE.findall(f"{text} ")


def _without_unread(text: str) -> str:
    """Flattening leaves a name for each end of each connection: assignments stay to those that something reads."""
    assignments = list(ASSIGNMENT.finditer(text))
    drivers: defaultdict[str, list[int]] = defaultdict(list)
    for number, match in enumerate(assignments):
        for name in _names(match["target"]):
            drivers[name].append(number)
    ahead = [*OUTPUT.findall(text), *_names(DECLARATION.sub("", ASSIGNMENT.sub("", text)))]
    known: set[str] = set()
    read: set[int] = set()
    while ahead:
        name = ahead.pop()
        if name not in known:
            known.add(name)
            for number in drivers.get(name, ()):
                read.add(number)
                ahead += _names(assignments[number]["value"])
    numbers = iter(range(len(assignments)))
    return ASSIGNMENT.sub(lambda match: match[0] if next(numbers) in read else "", text)


@dataclass
class _Register:
    """A register, or a part of it, that is written behind an enable, and where its text is."""

    span: tuple[int, int]
    enable: str
    value: str
    update: str
    reset: str | None
    clear: str


class _Body:
    """What a module consists of, as far as it matters here."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.registers = [
            _Register(
                span=match.span(),
                enable=match["enable"].strip(),
                value=match["value"],
                update=f"{match['register']} <= {match['value']};\n",
                reset=match["reset"],
                clear=f"{match['cleared']} <= {match['start']};\n",
            )
            for match in REGISTER.finditer(text)
        ]
        # Assignments to whole wires, by these; those to parts, and to ports, stay where they are.
        declared = {match[2] for match in WIRE.finditer(text)}
        self.wires = {f"{m['target']} ": m for m in ASSIGNMENT.finditer(text) if f"{m['target']} " in declared}
        self.reads = {
            wire: [name for name in dict.fromkeys(_names(match["value"])) if name in self.wires]
            for wire, match in self.wires.items()
        }
        self.order = list(TopologicalSorter(self.reads).static_order())
        begins = {match.start() for match in self.wires.values()}
        rest = ASSIGNMENT.sub(lambda match: "" if match.start() in begins else match[0], text)
        self.read_elsewhere = _names(DECLARATION.sub("", FUNCTION.sub("", REGISTER.sub("", rest))))

    def factors(self) -> dict[int, str]:
        """For each register, by its number, the factor of its enable that most registers share."""
        found: list[list[str]] = []
        for register in self.registers:
            factors = [register.enable]
            match = self.wires.get(f"{register.enable} ")
            if match is not None and (terms := CONJUNCTION.fullmatch(match["value"])):
                factors += [term.strip() for term in re.findall(BIT, terms[1] or terms[2])]
            found.append(factors)
        shared = Counter(factor for factors in found for factor in set(factors))
        return {number: max(terms, key=lambda term: (shared[term], term)) for number, terms in enumerate(found)}

    def worth_while(self, factors: dict[int, str]) -> set[str]:
        """The factors behind which there is enough."""
        sharing = Counter(factors.values())
        behind: Counter[str] = Counter()
        for wire, place in self._places(factors).items():
            if place:
                behind[place[0]] += 1 + len(_names(self.wires[wire]["value"]))
        return {f for f, count in sharing.items() if count >= FEWEST_SHARING or behind[f] >= LEAST_BEHIND}

    def _places(self, factors: dict[int, str]) -> dict[str, Place]:
        """Where each wire is computed so that all that read it have it, if these registers are behind these factors."""
        places: dict[str, Place] = {}

        def read(names: Iterable[str], place: Place) -> None:
            for name in names:
                before = places.get(name, place)
                common = 0
                while common < min(len(before), len(place)) and before[common] == place[common]:
                    common += 1
                places[name] = place[:common]

        read(self.read_elsewhere, ())
        for number, register in enumerate(self.registers):
            read(_names(register.reset or ""), ())
            factor = factors.get(number)
            read(_names(factor or ""), ())
            read(_names(register.enable), () if factor in (None, register.enable) else (factor,))
            behind = () if factor is None else (factor, register.enable)
            read(_names(register.value), behind[:1] if factor == register.enable else behind)
        for wire in reversed(self.order):
            read(self.reads[wire], places[wire])
        return {wire: places[wire] for wire in self.order}

    def write(self, factors: dict[int, str]) -> str:
        """The module's text with these registers behind these factors."""
        places = self._places(factors)
        moved = [self.wires[wire].span() for wire, place in places.items() if place]
        kept: list[str] = []
        position = 0
        for begin, end in sorted([*moved, *(self.registers[number].span for number in factors)]):
            kept.append(self.text[position:begin])
            position = end
        head, end_of_module, tail = self.text[position:].rpartition("endmodule")
        blocks = [self._block(factor, factors, places) for factor in dict.fromkeys(factors.values())]
        text = "".join([*kept, head, *blocks, end_of_module, tail])
        return WIRE.sub(lambda match: f"  reg {match[1]};" if places.get(match[2]) else match[0], text)

    def _block(self, factor: str, factors: dict[int, str], places: dict[str, Place]) -> str:
        members = [self.registers[number] for number, its in factors.items() if its == factor]
        lines = self._computed((factor,), places)
        for enable in dict.fromkeys(register.enable for register in members):
            updates = [register.update for register in members if register.enable == enable]
            if enable == factor:
                lines += updates
            else:
                behind = [*self._computed((factor, enable), places), *updates]
                lines += [f"if ({enable} ) begin\n", *(f"  {line}" for line in behind), "end\n"]
        written = [f"    if ({factor} ) begin\n", *(f"      {line}" for line in lines), "    end\n"]
        # Of two assignments in one clock the later counts.
        for reset in dict.fromkeys(register.reset for register in members if register.reset is not None):
            clears = [f"      {register.clear}" for register in members if register.reset == reset]
            written += [f"    if ({reset}) begin\n", *clears, "    end\n"]
        return "".join(["  always @(posedge aclk) begin\n", *written, "  end\n"])

    def _computed(self, place: Place, places: dict[str, Place]) -> list[str]:
        return [f"{wire}= {self.wires[wire]['value']};\n" for wire in self.order if places[wire] == place]
