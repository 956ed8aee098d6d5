"""Timing diagrams show what the wave file holds, clock by clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfulp.sim.timing_diagram import UNKNOWN, Trace, Wave, draw_waves, read_traces, wave_json

VCD = """$timescale 1ns $end
$scope module $rootio $end
$var wire 1 " clk $end
$upscope $end
$scope module top $end
$var wire 1 " clk $end
$var wire 1 # bit $end
$var wire 4 $ word [3:0] $end
$upscope $end
$enddefinitions $end
#0
0"
0#
bxxxx $
#5
1"
b0101 $
#10
0"
1#
#15
1"
0#
#20
0"
b1111 $
#25
1"
"""


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    path = tmp_path / "dump.vcd"
    path.write_text(VCD)
    return path


def test_signals_are_sampled_before_the_rising_edge(waves: Path) -> None:
    traces = read_traces(waves, ["top.bit", "top.word"], clock="top.clk")
    assert traces == {"top.bit": Trace(1, (0, 1, 0)), "top.word": Trace(4, (UNKNOWN, 5, 15))}
    assert traces["top.bit"].first_rise() == 1
    with pytest.raises(ValueError, match="does not rise after clock 2"):
        traces["top.bit"].first_rise(2)


def test_a_missing_signal_is_named(waves: Path) -> None:
    with pytest.raises(ValueError, match=r"dump\.vcd has no signal 'top\.bitt'"):
        read_traces(waves, ["top.bitt"], clock="top.clk")


def test_wave_json_repeats_nothing_and_groups_lines(waves: Path) -> None:
    traces = read_traces(waves, ["top.bit", "top.word"], clock="top.clk")
    lines = [Wave("top.bit", "bit"), Wave("top.word", "word", "words")]
    diagram = wave_json(traces, lines, start=0, stop=3, title="T")
    assert diagram["signal"] == [
        {"name": "clock", "wave": "p.."},
        {"name": "bit", "wave": "010"},
        ["words", {"name": "word", "wave": "x==", "data": ["5", "f"]}],
    ]
    svg = draw_waves(diagram)
    assert svg.startswith("<svg")
    for text in ("word", "bit", ">T<"):
        assert text in svg
