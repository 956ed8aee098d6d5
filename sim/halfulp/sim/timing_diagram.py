"""Timing diagrams from a simulation's wave file (VCD), drawn by WaveDrom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcdvcd import VCDVCD

__all__ = ["Trace", "Wave", "draw_waves", "read_traces", "wave_json"]

UNKNOWN = -1
"""Value of a signal that is not known in a clock."""


@dataclass(frozen=True)
class Wave:
    """One line of a diagram.

    signal: its name in the wave file, scopes separated by dots, as in ``halfulp_core.core.captured``; label: as it is
    shown; group: title of the lines that belong together.
    """

    signal: str
    label: str
    group: str = ""


@dataclass(frozen=True)
class Trace:
    """What a signal was at each rising edge of the clock: `values` as integers, `UNKNOWN` where it was not known."""

    width: int
    values: tuple[int, ...]

    def first_rise(self, start: int = 0) -> int:
        """The first clock from `start` in which it is not 0; raises where there is none."""
        for clock in range(start, len(self.values)):
            if self.values[clock] > 0:
                return clock
        raise ValueError(f"the signal does not rise after clock {start}")


def read_traces(path: Path, signals: Sequence[str], *, clock: str) -> dict[str, Trace]:
    """Sample `signals` of a VCD file just before each rising edge of `clock`, all named with their scopes.

    Raises
    ------
    ValueError
        Where the file has no signal of such a name.
    """
    # A word's name in the file ends in its range of bits, as in araddr[63:0].
    spelled = {name.partition("[")[0]: name for name in VCDVCD(str(path), only_sigs=True).signals}
    wanted = {*signals, clock}
    if missing := sorted(wanted - spelled.keys()):
        raise ValueError(f"{path} has no signal {missing[0]!r}")
    waves = VCDVCD(str(path), signals=[spelled[name] for name in wanted])
    changes: dict[str, Any] = {name: waves[spelled[name]] for name in wanted}
    edges = [time for time, value in changes[clock].tv if value == "1"]
    return {name: Trace(int(changes[name].size), _sampled(changes[name].tv, edges)) for name in signals}


def _sampled(changes: Sequence[tuple[int, str]], edges: Sequence[int]) -> tuple[int, ...]:
    """The value before each of these times."""
    values, now, place = [], UNKNOWN, 0
    for edge in edges:
        while place < len(changes) and changes[place][0] < edge:
            now = _number(changes[place][1])
            place += 1
        values.append(now)
    return tuple(values)


def _number(value: str) -> int:
    return int(value, 2) if set(value) <= {"0", "1"} else UNKNOWN


def wave_json(traces: dict[str, Trace], waves: Sequence[Wave], *, start: int, stop: int, title: str) -> dict[str, Any]:
    """WaveJSON of the clocks from `start` to before `stop`: bits as levels, words as boxes with their hexadecimal."""
    lines: list[Any] = [{"name": "clock", "wave": "p" + "." * (stop - start - 1)}]
    groups: dict[str, list[Any]] = {}
    for wave in waves:
        trace = traces[wave.signal]
        target = groups.setdefault(wave.group, [wave.group] if wave.group else lines)
        if wave.group and len(target) == 1:
            lines.append(target)
        target.append({"name": wave.label, **_line(trace, start, stop)})
    return {"signal": lines, "head": {"text": title, "tick": 0}, "config": {"hscale": 1, "skin": "narrow"}}


def _line(trace: Trace, start: int, stop: int) -> dict[str, Any]:
    text, told = "", []
    last: int | None = None
    for value in trace.values[start:stop]:
        if value == last:
            text += "."
        elif value == UNKNOWN:
            text += "x"
        elif trace.width == 1:
            text += str(value)
        else:
            text += "="
            told.append(f"{value:x}")
        last = value
    return {"wave": text, **({"data": told} if told else {})}


def draw_waves(diagram: dict[str, Any]) -> str:
    """The SVG of a WaveJSON diagram."""
    import wavedrom

    drawing: Any = wavedrom.render(json.dumps(diagram))
    return drawing.tostring()
