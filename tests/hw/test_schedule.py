"""The order of loads and tiles: complete, within the buffer, never deadlocked, with reuse as far as there is room."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfulp.hw.config import ArrayConfig
from halfulp.hw.schedule import GemmPlan, block_steps

CONFIGS = [
    ArrayConfig(rows=4, columns=4, buffer_depth=64),
    ArrayConfig(rows=5, columns=3, lanes=1, a_formats=("int16",), b_formats=("int8",), bus_width=128, buffer_depth=128),
    ArrayConfig(rows=2, columns=6, lanes=2, a_formats=("int8",), b_formats=("float32",), buffer_depth=64,
                accumulator="fixed:40:-20"),
]  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> GemmPlan:
    config = draw(st.sampled_from(CONFIGS))
    a_pad, b_pad = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    m, n = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    k = draw(st.one_of(st.integers(1, 90), st.integers(200, 700)))
    a_across, b_across = draw(st.booleans()), draw(st.booleans())
    return GemmPlan(
        config=config,
        m=m,
        n=n,
        k=k,
        a_address=draw(st.integers(0, 5000)) * config.a_bytes,
        b_address=draw(st.integers(0, 5000)) * config.b_bytes + (1 << 30),
        a_stride=((m if a_across else k) + a_pad) * config.a_bytes,
        b_stride=((n if b_across else k) + b_pad) * config.b_bytes,
        a_across_k=a_across,
        b_across_k=b_across,
    )


@given(plans())
def test_segments_cover_each_result_once_and_all_of_k(plan: GemmPlan) -> None:
    segments = list(plan.segments())
    steps: Counter[tuple[int, int]] = Counter()
    results = 0
    for segment in segments:
        tile = segment.row, segment.column
        assert segment.k == steps[tile]
        assert segment.first == (segment.k == 0)
        steps[tile] += segment.steps
        assert segment.last == (steps[tile] == plan.k)
        results += segment.rows * segment.columns * segment.first
    assert set(steps.values()) == {plan.k}
    assert results == plan.m * plan.n
    assert [s.last_of_gemm for s in segments if s.last] == [False] * (len(steps) - 1) + [True]


@given(plans())
def test_every_load_finds_room_and_every_segment_its_panels(plan: GemmPlan) -> None:
    """Run loads and segments against the ring: a load waits for room, a segment for loads; neither waits for ever."""
    depth = plan.config.buffer_depth
    rings: tuple[deque[tuple[int, int]], ...] = (deque(), deque())
    loads = deque(plan.blocks())
    loaded_steps: Counter[tuple[int, int, int]] = Counter()
    for segment in plan.segments():
        wanted = (segment.row, segment.column)
        while any(loaded_steps[o, wanted[o], segment.k // plan.segment_steps] < segment.steps for o in (0, 1)):
            block = loads.popleft()
            ring, words = rings[block.operand], plan.slot_words[block.operand]
            part = block.k // plan.segment_steps
            if block.slot_words:
                assert (len(ring) + 1) * words <= depth, "the loader waits for room that never comes"
                ring.append((block.start, part))
            loaded_steps[block.operand, block.start, part] += block.steps
        for operand, free in enumerate((segment.free_a, segment.free_b)):
            if free:
                start, part = rings[operand].popleft()
                assert (start, part) == (wanted[operand], segment.k // plan.segment_steps), "freed out of order"
                del loaded_steps[operand, start, part]
    assert not loads
    assert not any(rings)


@given(plans())
def test_reads_stay_in_the_operands_words_and_on_their_page(plan: GemmPlan) -> None:
    size = plan.config.bus_bytes
    allowed = set()
    for operand in plan.operands:
        rows, columns = (plan.k, operand.size) if operand.across_k else (operand.size, plan.k)
        for row in range(rows):
            start = operand.address + row * operand.stride
            allowed.update(range(start // size, (start + columns * operand.element_bytes - 1) // size + 1))
    read = set()
    for address, beats in plan.bursts():
        assert 1 <= beats <= 16
        assert address // 4096 == (address + beats * size - 1) // 4096
        read.update(range(address // size, address // size + beats))
    assert read == allowed


@given(plans())
def test_words_of_a_slot_hold_every_row(plan: GemmPlan) -> None:
    for operand, words in zip(plan.operands, plan.slot_words, strict=True):
        if not operand.across_k:
            offsets = {(operand.address + i * operand.stride) % operand.bus_bytes for i in range(operand.size)}
            elements = max(offsets) // operand.element_bytes + plan.segment_steps
            assert math.ceil(elements / operand.word_elements) <= words


def test_a_group_grows_as_a_square_then_goes_by_columns() -> None:
    config = ArrayConfig(rows=4, columns=4, buffer_depth=64)
    plan = GemmPlan(config=config, m=12, n=20, k=128, a_stride=128, b_stride=128)
    assert list(plan.groups()) == [(0, 3)]
    tiles = [(x, y) for x, y, _, _ in plan.tiles()]
    square = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1), (0, 2), (1, 2), (2, 2)]
    assert tiles == square + [(x, y) for y in (3, 4) for x in range(3)]
    assert list(plan.units()) == [(0, 0), (1, None), (None, 1), (2, None), (None, 2), (None, 3), (None, 4)]


@pytest.mark.parametrize(("panels", "sizes"), [(4, [4]), (5, [3, 2]), (6, [3, 3]), (7, [4, 3]), (9, [4, 3, 2])])
def test_the_last_two_groups_share(panels: int, sizes: list[int]) -> None:
    config = ArrayConfig(rows=4, columns=4, buffer_depth=64)
    plan = GemmPlan(config=config, m=4 * panels, n=200, k=128, a_stride=128, b_stride=128)
    assert [size for _, size in plan.groups()] == sizes
    starts = [start for start, _ in plan.groups()]
    assert starts == list(itertools.accumulate([0, *sizes[:-1]]))


def test_blocks_of_narrow_and_wide_operands_hold_the_same_steps() -> None:
    assert [block_steps(config) for config in CONFIGS] == [128, 128, 32]
