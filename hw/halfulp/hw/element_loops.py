"""Processing elements as loops over arrays, in flat Verilog for compiled simulators.

All processing elements of an array are one circuit. Written one by one, their code is most of what a simulator runs
through in a clock; written as loops over arrays of their registers, it is a few instructions that stay in the
processor's cache, and the compiler computes 8 or 16 elements at once.

The loops are in one block, with blocking assignments: first every element's inputs from its neighbours' registers, then
wires in the order in which they depend on each other, then registers, each after all that read it. What is seen from
outside are copies by nonblocking assignments, so that other registers take values from before the clock's edge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["ELEMENT", "UnfitForLoopsError", "loop_over_elements"]

ELEMENT = r"\S*core\.array\.pe_(\d+)_(\d+)"
"""Name of the module, and of the instance, of the processing element in a row and a column."""

NAME = r"(?:\\\S+ |(?<![\w'$])[A-Za-z_]\w*)"
REFERENCE = re.compile(rf"({NAME})(\[(\d+)(?::(\d+))?\])?")
MODULE = re.compile(rf"^module \\{ELEMENT} \([^;]*\);\n(?P<body>.*?)^endmodule\n", re.MULTILINE | re.DOTALL)
INSTANCE = re.compile(
    rf"^  \\\S+  ?\\{ELEMENT} +\(\n(?P<ports>(?:    \..*\n)*)  \);\n",
    re.MULTILINE,
)
CONNECTION = re.compile(r"^    \.(\\\S+ |\w+)\((.*)\),?$", re.MULTILINE)

ITEM = re.compile(r"^  (?:always @\(posedge clk\)\n(?:    .*\n)+|.*\n)", re.MULTILINE)
PORT = re.compile(rf"(input|output) (?:\[\d+:\d+\] )?({NAME});")
DECLARATION = re.compile(rf"(wire|reg) (?:\[(\d+):0\] )?({NAME})(?: = \d+'[hd]0+)?;")
ASSIGNMENT = re.compile(r"assign (.*?) = (.*);")
PLAIN = re.compile(rf"always @\(posedge clk\)\n\s*({NAME})(\[[\d:]+\])? ?<= ([^;]*);")
ENABLED = re.compile(
    rf"always @\(posedge clk\)\n\s*if \(([^\n]*)\) ({NAME})(\[[\d:]+\])? ?<= ([^;]*);"
    r"(?:\n    else (?:if \(([^\n]*)\) )?\2(?:\[[\d:]+\])? ?<= ([^;]*);)?"
)
CHOICE = re.compile(r"([^?]+?) \? ([^?]+?) : ([^?]+)")
CONDITION = re.compile(rf"(!?)({NAME})(\[\d+\])? ?")
ZERO = re.compile(r"\d+'[hd]0+")
REPEATED = re.compile(rf"\{{ ({NAME}|{NAME}\[\d+\])(?:, \1)+ \}}")


class UnfitForLoopsError(ValueError):
    """The text has something that loops are not written for; the message says what."""


def loop_over_elements(text: str) -> str:
    """A flat module whose processing elements alone are modules of their own, with loops in these modules' place.

    Raises
    ------
    UnfitForLoopsError
        Where there are fewer than 2 × 2 elements, or they have memories, functions, registers that do not begin as 0,
        or outputs that follow their inputs in the same clock.
    """
    modules = {(int(match[1]), int(match[2])): match for match in MODULE.finditer(text)}
    instances = {(int(match[1]), int(match[2])): match for match in INSTANCE.finditer(text)}
    rows, columns = (1 + max((place[axis] for place in modules), default=0) for axis in (0, 1))
    grid = [(i, j) for i in range(rows) for j in range(columns)]
    if rows < 2 or columns < 2 or sorted(modules) != grid or sorted(instances) != grid:
        raise UnfitForLoopsError(f"{len(modules)} modules and {len(instances)} instances are no array of 2 × 2 or more")
    # The first has neighbours on both of the sides that its outputs go to: nothing has been left out of it.
    element = _Element.parse(modules[0, 0]["body"])
    ports = [{_bare(name): wire for name, wire in CONNECTION.findall(instances[g]["ports"])} for g in grid]
    for match in (*modules.values(), *instances.values()):
        text = text.replace(match[0], "")
    loops = _Loops(element, ports, columns)
    head, end, tail = text.rpartition("endmodule")
    return "".join([head, *loops.write(text), end, tail])


def _bare(name: str) -> str:
    return name.strip().lstrip("\\")


def _names(expression: str) -> list[str]:
    return [_bare(match[1]) for match in REFERENCE.finditer(expression)]


def _items(concatenation: str) -> list[str]:
    """The parts of ``{ a, b }``, each as it was written, an escaped name with its space."""
    return [f"{part.strip()} " for part in concatenation.strip()[1:-1].split(",")]


@dataclass
class _Update:
    """What a register, or a part of it, takes at each clock's edge."""

    register: str
    part: str
    value: str


@dataclass
class _Element:
    """A processing element's text: ports, widths of all names, and what its wires and registers are made from."""

    inputs: set[str] = field(default_factory=set)
    widths: dict[str, int] = field(default_factory=dict)
    registers: set[str] = field(default_factory=set)
    wires: list[tuple[str, str]] = field(default_factory=list)
    updates: list[_Update] = field(default_factory=list)

    @classmethod
    def parse(cls, body: str) -> _Element:
        element = cls()
        for item in ITEM.findall(body):
            element._take(item.strip())
        element._drop_unread()
        return element

    def _take(self, item: str) -> None:
        if match := PORT.fullmatch(item):
            if match[1] == "input":
                self.inputs.add(_bare(match[2]))
        elif match := DECLARATION.fullmatch(item):
            name = _bare(match[3])
            self.widths[name] = int(match[2] or 0) + 1
            if match[1] == "reg":
                self.registers.add(name)
        elif match := ASSIGNMENT.fullmatch(item):
            self.wires.append((match[1], match[2]))
        elif match := PLAIN.fullmatch(item):
            self.updates.append(_Update(_bare(match[1]), match[2] or "", match[3]))
        elif match := ENABLED.fullmatch(item):
            condition, name, part, value, second, other = match.groups()
            register = _Update(_bare(name), part or "", "")
            stays = f"{name}{part or ''}"
            rest = stays if other is None else other
            width = self.width_of_target(stays)
            if second is not None:
                rest = f"({self.choose(second, rest, stays, width)})"
            register.value = self.choose(condition, value, rest, width)
            self.updates.append(register)
        else:
            raise UnfitForLoopsError(f"a processing element has {item!r}")

    def _drop_unread(self) -> None:
        """Forget wires that no register depends on, and put the others in an order in which they can be computed."""
        needed: set[str] = set()
        ahead = [name for update in self.updates for name in _names(update.value)]
        while ahead:
            name = ahead.pop()
            if name in needed:
                continue
            needed.add(name)
            ahead += [source for target, value in self.wires if name in _names(target) for source in _names(value)]
        self.aliases = {_bare(target): value for target, value in self.wires if re.fullmatch(NAME, target)}
        waiting = []
        read = Counter(name for update in self.updates for name in _names(update.value))
        read.update(name for target, value in self.wires if needed & {*_names(target)} for name in _names(value))
        for target, value in self.wires:
            if any(name in needed and read[name] for name in _names(target)) and (target, value) not in waiting:
                waiting.append((target, value))
        self.read = read
        self.wires = []
        while waiting:
            unknown = {name for target, _ in waiting for name in _names(target)}
            ready = next((pair for pair in waiting if not unknown & {*_names(pair[1])}), None)
            if ready is None:
                raise UnfitForLoopsError("wires of a processing element depend on each other in a circle")
            waiting.remove(ready)
            self.wires.append(ready)

    def width_of_target(self, target: str) -> int:
        """Width of a name, or of a part of it."""
        match = REFERENCE.fullmatch(target.strip() if "[" in target else target.strip() + " ")
        match = match or REFERENCE.fullmatch(target.strip())
        if match is None:
            raise UnfitForLoopsError(f"a processing element assigns to {target!r}")
        if match[2] is None:
            return self.widths[_bare(match[1])]
        return int(match[3]) - int(match[4] or match[3]) + 1

    def choose(self, condition: str, value: str, other: str, width: int) -> str:
        """``condition ? value : other`` without a branch, which would have elements computed one by one."""
        for choice in (value, other):
            if not choice.startswith("(") and not re.fullmatch(r"[\s{},'\dhdb_a-f]*", REFERENCE.sub("", choice)):
                raise UnfitForLoopsError(f"a processing element chooses {choice!r}")
        match = CONDITION.fullmatch(condition) or CONDITION.fullmatch(_spaced(condition))
        if match is None:
            raise UnfitForLoopsError(f"a processing element has the condition {condition!r}")
        is_bit = match[1] or match[3] or self.widths[_bare(match[2])] == 1
        mask = f"{{{width}{{{condition} }}}}" if is_bit else f"{{{width}{{|{condition} }}}}"
        if ZERO.fullmatch(value.strip()):
            return f"~{mask} & {other} "
        if ZERO.fullmatch(other.strip()):
            return f"{mask} & {value} "
        return f"({mask} & {value} ) | (~{mask} & {other} )"

    def ordered_updates(self) -> Iterator[_Update]:
        """Each register's after those of all registers that read it."""
        waiting = list(self.updates)
        parts = Counter(update.register for update in waiting)
        for update in waiting:
            read = {(_bare(match[1]), match[2] or "") for match in REFERENCE.finditer(update.value)}
            of_itself = {part for name, part in read if name == update.register}
            if parts[update.register] > 1 and not of_itself <= {update.part}:
                raise UnfitForLoopsError(f"parts of the register {update.register} depend on each other")
        while waiting:
            for update in waiting:
                others = (other for other in waiting if other.register != update.register)
                if not any(update.register in _names(other.value) for other in others):
                    break
            else:
                raise UnfitForLoopsError("registers of a processing element depend on each other in a circle")
            waiting.remove(update)
            yield update

    def sources(self, name: str) -> list[str]:
        """Registers and zeros, highest bits first, that an output consists of."""
        if name in self.registers:
            return [f"\\{name} "]
        if name not in self.aliases:
            raise UnfitForLoopsError(f"the output {name} follows inputs in the same clock")
        value = self.aliases[name].strip()
        parts = _items(value) if value.startswith("{") else [f"{value} "]
        found: list[str] = []
        for part in parts:
            if ZERO.fullmatch(part.strip()):
                found.append(part.strip())
            elif re.fullmatch(NAME, part.strip()) or re.fullmatch(NAME, part):
                found += self.sources(_bare(part))
            else:
                raise UnfitForLoopsError(f"the output {name} is not made of whole registers")
        return found

    def width_of(self, source: str) -> int:
        return int(source.split("'")[0]) if ZERO.fullmatch(source) else self.widths[_bare(source)]


class _Loops:
    """The text that takes the modules' place.

    Parameters
    ----------
    element
        What they all are.
    ports
        The wire at each port of each element, row by row; a port that is left out is 0.
    columns
        Elements of a row.
    """

    def __init__(self, element: _Element, ports: Sequence[dict[str, str]], columns: int) -> None:
        self.element = element
        self.ports = ports
        self.count = len(ports)
        self.arrays: dict[str, int] = {}
        self.shared: dict[str, str] = {}
        self.entering: dict[tuple[str, str | None], str] = {}
        self.drivers = {
            wire.strip(): (number, name)
            for number, wires in enumerate(ports)
            for name, wire in wires.items()
            if name not in element.inputs
        }

    def write(self, rest: str) -> list[str]:
        """Declarations and the block; `rest` is the text outside, which tells what outputs are looked at."""
        steps = [*self._inputs(), *self._wires(), *self._registers()]
        for name in sorted(self.element.registers):
            self.arrays[f"pe.{name}"] = self.element.widths[name]
        declarations, copies = self._outputs(rest + "".join(steps))
        arrays = [f"  reg [{width - 1}:0] \\{name} [0:{self.count - 1}];\n" for name, width in self.arrays.items()]
        block = ["  reg [31:0] \\pe.number ;\n", "  always @(posedge aclk) begin\n", *steps, *copies, "  end\n"]
        return [*arrays, *declarations, *block]

    def _each(self, target: str, value: str, elements: range | None = None) -> str:
        begin, end = (0, self.count) if elements is None else (elements.start, elements.stop)
        counted = f"\\pe.number = {begin}; \\pe.number < {end}; \\pe.number = \\pe.number + 1"
        return f"    for ({counted}) {target} = {value};\n"

    def _inputs(self) -> Iterator[str]:
        """Gather each input that differs between elements, or the parts of it that are read, in an array."""
        expressions = [value for _, value in self.element.wires] + [u.value for u in self.element.updates]
        read = {
            (_bare(match[1]), match[2])
            for expression in expressions
            for match in REFERENCE.finditer(expression)
            if _bare(match[1]) in self.element.inputs
        }
        whole = {name for name, part in read if part is None}
        for name, part in sorted(read, key=str):
            wires = [wires.get(name) for wires in self.ports]
            if len(set(wires)) == 1 and wires[0] is not None:
                self.shared[name] = wires[0]
            elif name not in whole or part is None:
                yield from self._gather(name, part, wires)

    def _gather(self, name: str, part: str | None, wires: Sequence[str | None]) -> Iterator[str]:
        high, low = self.element.widths[name] - 1, 0
        if part is not None:
            numbers = [int(number) for number in re.findall(r"\d+", part)]
            high, low = numbers[0], numbers[-1]
        array = f"pe.in.{name}.{high}.{low}"
        self.arrays[array] = high - low + 1
        self.entering[name, part] = array
        sources = [self._source(number, wire, name, high, low) for number, wire in enumerate(wires)]
        neighbours = Counter(source for source in sources if isinstance(source, tuple))
        usual: tuple[str, int] | None = neighbours.most_common(1)[0][0] if neighbours else None
        elements = range(0)
        if usual is not None:
            register, distance = usual
            elements = range(max(0, -distance), min(self.count, self.count - distance))
            place = f"\\pe.number {'-' if distance < 0 else '+'} {abs(distance)}"
            yield self._each(f"\\{array} [\\pe.number ]", f"\\pe.{register} [{place}]", elements)
        for number, source in enumerate(sources):
            if source == usual and number in elements:
                continue
            if isinstance(source, tuple):
                source = f"\\pe.{source[0]} [{number + source[1]}]"
            yield f"    \\{array} [{number}] = {source};\n"

    def _source(self, number: int, wire: str | None, name: str, high: int, low: int) -> str | tuple[str, int]:
        """Where bits of an element's input are from: a register and how many elements farther, or an expression."""
        zero = f"{high - low + 1}'h0"
        if wire is None:
            return zero
        if wire.strip() in self.drivers:
            driver, output = self.drivers[wire.strip()]
            position = 0
            for source in reversed(self.element.sources(output)):
                width = self.element.width_of(source)
                if (position, position + width - 1) == (low, high):
                    return zero if ZERO.fullmatch(source) else (_bare(source), driver - number)
                position += width
            raise UnfitForLoopsError(f"bits {high} to {low} of the output {output} are not one register")
        if (high, low) != (self.element.widths[name] - 1, 0):
            raise UnfitForLoopsError(f"bits {high} to {low} of the input {name} enter the array")
        return wire

    def _indexed(self, expression: str) -> str:
        """The expression for the element of the loop."""

        def of_array(match: re.Match[str]) -> str:
            name, part = _bare(match[1]), match[2] or ""
            if name in self.shared:
                return f"{self.shared[name]}{part}"
            if (name, match[2]) in self.entering:
                return f"\\{self.entering[name, match[2]]} [\\pe.number ]"
            if (name, None) in self.entering:
                return f"\\{self.entering[name, None]} [\\pe.number ]{part}"
            return f"\\pe.{name} [\\pe.number ]{part}"

        repeated = REPEATED.sub(lambda match: f"{{{match[0].count(',') + 1}{{{match[1]}}}}}", expression)
        return REFERENCE.sub(of_array, repeated)

    def _wires(self) -> Iterator[str]:
        element = self.element
        for number, (target, value) in enumerate(element.wires):
            if "?" in value:
                match = CHOICE.fullmatch(value)
                if match is None:
                    raise UnfitForLoopsError(f"a processing element has the expression {value!r}")
                width = sum(element.width_of_target(part) for part in _targets(target))
                value = element.choose(match[1], match[2], match[3], width)
            for name in _names(_spaced(target)):
                self.arrays[f"pe.{name}"] = element.widths[name]
            parts = _targets(target)
            if len(parts) == 1:
                yield self._each(self._indexed(parts[0]), self._indexed(value))
                continue
            # Of a sum, the carry that nobody reads would make a wider number of it.
            while not element.read[_names(parts[0])[0]]:
                parts.pop(0)
            position = sum(map(element.width_of_target, parts))
            together = f"pe.wires{number}"
            self.arrays[together] = position
            yield self._each(f"\\{together} [\\pe.number ]", self._indexed(value))
            for part in parts:
                high, position = position - 1, position - element.width_of_target(part)
                if element.read[_names(part)[0]]:
                    yield self._each(self._indexed(part), f"\\{together} [\\pe.number ][{high}:{position}]")

    def _registers(self) -> Iterator[str]:
        for update in self.element.ordered_updates():
            yield self._each(f"\\pe.{update.register} [\\pe.number ]{update.part}", self._indexed(update.value))

    def _outputs(self, rest: str) -> tuple[list[str], list[str]]:
        """Outputs that are looked at from outside: their wires, and the copies of registers that they are made of."""
        mentioned = Counter(f"{match[1].strip()}" for match in REFERENCE.finditer(rest))
        declarations: dict[str, str] = {}
        wires: list[str] = []
        for wire, (number, output) in self.drivers.items():
            # Once is its declaration.
            if all(mentioned[name.strip()] < 2 for name in _whole_names(wire)):
                continue
            parts: list[str] = []
            for source in self.element.sources(output):
                if ZERO.fullmatch(source):
                    parts.append(source)
                    continue
                register = _bare(source)
                copy = f"\\pe.out.{number}.{register} "
                declarations[copy] = f"  reg [{self.element.widths[register] - 1}:0] {copy} = 0;\n"
                parts.append(copy)
            wires.append(f"  assign {wire} = {{ {', '.join(parts)} }};\n")
        copies = [f"    {copy} <= \\pe.{copy.split('.', 3)[3]}[{copy.split('.')[2]}];\n" for copy in declarations]
        return [*declarations.values(), *wires], copies


def _spaced(target: str) -> str:
    """With the space that ends an escaped name, which a line's end may have cost."""
    return target if target.endswith((" ", "]", "}")) else f"{target} "


def _targets(target: str) -> list[str]:
    parts = _items(target) if target.startswith("{") else [_spaced(target)]
    return [part.strip() if part.rstrip().endswith("]") else f"{part.strip()} " for part in parts]


def _whole_names(wire: str) -> Iterable[str]:
    return [match[1] for match in REFERENCE.finditer(_spaced(wire))]
