"""The form of a core that is simulated equals its plain Verilog: in codes, in clocks, and in all that it counts.

Memory pauses by chance, and draws anew for all that is offered to it: a request or a datum that came a clock sooner or
later in one of the forms would find other pauses, and everything after it would come in other clocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import halfulp.sim.rtl
from halfulp.hw.config import ArrayConfig
from halfulp.hw.config_file import load_config
from halfulp.hw.registers import register
from halfulp.sim.bench.stimulus import PAGE, PlacedGemm, random_case
from halfulp.sim.rtl import RtlCore, core_verilog
from halfulp.sim.verilator import build_library

from .small_cores import BLOCKS, EXACT, IN_TURN

ROOT = Path(__file__).parents[2]
GEMMS = 30
COUNTERS = ("cycles", "array_busy_cycles", "read_stall_cycles", "write_stall_cycles")
MEMORIES = {
    "ideal": {},
    "stalls": {"stall": 0.4, "seed": 5, "read_latency": 9, "write_latency": 4},
    "narrow": {"bandwidth": 0.3, "outstanding": 2},
}
SMALL = {
    "exact sums": EXACT,
    "sums rounded at random, 3 in turn": IN_TURN,
    "blocks, rounded at random": BLOCKS,
    "fixed point": ArrayConfig(
        rows=2,
        columns=2,
        lanes=1,
        buffer_depth=64,
        accumulator="fixed:16:-6",
        a_formats=("e4m3",),
        b_formats=("e5m2",),
        out_formats=("e4m3",),
    ),
}
VERIFIED = {
    name: load_config(ROOT / "docs" / "configs" / f"{name}.toml") for name in ("fp12_4x2", "nvfp4_2x2", "tiny_2x3")
}


def run(core: RtlCore, config: ArrayConfig) -> list[int | bytes]:
    """Random GEMMs, the same ones on each core; counters after each of them, all clocks, and what is in memory."""
    rng = np.random.default_rng(7)
    control, status = register("control"), register("status").offset
    seen: list[int | bytes] = []
    core.write(register("interrupt_enable").offset, 3)
    for _ in range(GEMMS):
        case = random_case(rng, config)
        size = PlacedGemm.zone_bytes(case, config)
        buffer = core.allocate(size + PAGE)
        offset = -buffer.address % PAGE
        buffer.array[:] = 0
        placed = PlacedGemm(case, config, buffer.array[offset : offset + size], buffer.address + offset)
        core.write(control.offset, 1 << control.field("clear").lsb)
        for name, value in placed.registers().items():
            core.write(register(name).offset, value)
        core.write(control.offset, 1 << control.field("start").lsb)
        while core.read(status) & 1:
            assert core.wait(30.0)
        seen += [core.read(status), *(core.read(register(f"{name}_low").offset) for name in COUNTERS), core.cycles]
        seen.append(buffer.array.tobytes())
        buffer.free()
    return seen


@pytest.fixture
def open_form(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RtlCore]:
    """Open a core in one of its forms; what no other test has built is compiled in little time."""

    def open_one(config: ArrayConfig, *, plain: bool, **memory) -> RtlCore:
        quick = plain or config not in (EXACT, IN_TURN, BLOCKS)
        with monkeypatch.context() as patch:
            patch.setattr(halfulp.sim.rtl, "core_verilog", lambda config, *, flat: core_verilog(config, flat=not plain))
            patch.setattr(halfulp.sim.rtl, "build_library", functools.partial(build_library, quick=quick))
            return RtlCore(config, memory_bytes=1 << 24, **memory)

    return open_one


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(config, id=name) for name, config in SMALL.items()),
        *(pytest.param(config, id=name, marks=pytest.mark.verify) for name, config in VERIFIED.items()),
    ],
)
def test_both_forms_are_equal_in_every_clock(open_form, config: ArrayConfig):
    for memory in MEMORIES.values():
        with open_form(config, plain=True, **memory) as plain, open_form(config, plain=False, **memory) as simulated:
            assert run(simulated, config) == run(plain, config)
