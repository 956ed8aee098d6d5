# amaranth: UnusedElaboratable=no
"""Two products from one multiplier: each of them, in a processing element and in the array, is what it is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.sim import Simulator

from halfulp.hw.array import SystolicArray
from halfulp.hw.config import ArrayConfig
from halfulp.hw.packed_pe import PackedProcessingElement, pack, packed_products
from halfulp.hw.packing import Packing
from halfulp.hw.processing_elements import processing_element
from halfulp.numerics.gemm import GemmSpec

from .array_bench import ArrayBench, Job
from .proofs import prove_pipeline


def config(rows: int = 4, columns: int = 2, **changes: Any) -> ArrayConfig:
    given: dict[str, Any] = {
        "a_formats": "int8",
        "b_formats": "int8",
        "out_formats": "int32",
        "accumulator": "exact:64",
        "pack_multipliers": True,
    }
    return ArrayConfig(rows=rows, columns=columns, lanes=1, **given | changes)


PACKINGS = [
    ("int8", "int8"),
    ("uint8", "uint8"),
    (("int8", "uint8"), "int8"),
    ("int4", ("int8", "uint8")),
    ("int3", "uint2"),
]


@pytest.mark.parametrize(("a", "b"), PACKINGS, ids=str)
def test_products_are_proved_to_come_apart(a: Any, b: Any, tmp_path: Path) -> None:
    """For all operands, the multiplier's factor is lower * 2**w + upper, and so its product other * 2**w + one.

    For all such numbers, both are found in it, and the other is added with its carry.
    """
    array = config(a_formats=a, b_formats=b)
    packing = Packing.of(array.a_formats, array.b_formats)
    place = packing.product_bits
    (least, most), (b_least, b_most) = (
        (min(f.smallest for f in side), max(f.largest for f in side))  # type: ignore[attr-defined]
        for side in (array.a_formats, array.b_formats)
    )
    products = [x * y for x in (least, most) for y in (b_least, b_most)]
    m = Module()
    upper, lower = (Signal(signed(9), name=name) for name in ("upper", "lower"))
    one, other, start = (Signal(signed(18), name=name) for name in ("one", "other", "start"))
    packed = Signal(signed(packing.bits))
    product = Signal(signed(packing.bits + 9))
    m.d.sync += [packed.eq(pack(array, upper, lower)), product.eq((other << place) + one)]
    found, twice_other = packed_products(array, product)
    total = Signal(signed(20))
    m.d.comb += total.eq(start * 2 + 1 + twice_other)
    asked = Signal()
    m.d.comb += asked.eq(
        (upper >= least) & (upper <= most) & (lower >= least) & (lower <= most)
        & (one >= min(products)) & (one <= max(products)) & (other >= min(products)) & (other <= max(products))
    )  # fmt: skip
    holds = Signal()
    m.d.comb += holds.eq(
        ~asked
        | (packed == (lower << place) + upper)
        & (product == (other << place) + one)
        & (found == one)
        & (total[1:].as_signed() == (start + other)[:19].as_signed())
    )
    inputs = {"upper": upper, "lower": lower, "one": one, "other": other, "start": start}
    prove_pipeline(m, inputs, holds, tmp_path, timeout=60)


COPIES = 16


def test_every_pair_of_codes_in_both_rows() -> None:
    """Tiles of one step: all codes of A in either row, those of the rows in different order, with all codes of B."""
    array = config(rows=2, columns=1)
    design = Module()
    elements = [PackedProcessingElement(config=array) for _ in range(COPIES)]
    a, b, valid = Signal(COPIES * 25), Signal(signed(8)), Signal()
    results = Signal(COPIES * array.accumulator_bits)
    for n, pe in enumerate(elements):
        design.submodules[f"pe_{n}"] = pe
        design.d.comb += [
            pe.a.packed.eq(a.word_select(n, 25)),
            pe.b.significand.eq(b),
            pe.control.valid.eq(valid),
            pe.control.first.eq(valid),
            pe.control.last.eq(valid),
            pe.shift.eq(1),
        ]
    design.d.comb += results.eq(Cat(pe.result.sum for pe in elements))
    codes = np.arange(256)
    upper = codes.reshape(-1, COPIES) - 128
    lower = (codes * 37 + 11).reshape(-1, COPIES) % 256 - 128
    steps = [(row, code) for code in range(-128, 128) for row in range(len(upper))]
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        # A tile every other clock: its upper sum is seen in one, its lower one in the next. The step's b comes a clock
        # ahead of its a.
        for clock in range(2 * len(steps) + PackedProcessingElement.latency_of(array) + 3):
            for signal, ahead in ((b, 0), (a, 1)):
                step, rest = divmod(clock - ahead, 2)
                if rest == 0 and step < len(steps):
                    row, code = steps[step]
                    packed = (lower[row] << 16) + upper[row] & 0x1FFFFFF
                    ctx.set(signal, code if signal is b else sum(int(each) << 25 * n for n, each in enumerate(packed)))
            ctx.set(valid, clock % 2)
            seen.append(ctx.get(results))
            await ctx.tick()

    simulator = Simulator(design)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    first = 1 + PackedProcessingElement.latency_of(array) + 1
    width = array.accumulator_bits
    for clock, sums in enumerate(seen[first : first + 2 * len(steps)]):
        row, code = steps[clock // 2]
        wanted = (lower if clock % 2 else upper)[row] * code
        assert sums == sum((int(each) & ((1 << width) - 1)) << width * n for n, each in enumerate(wanted)), clock


@pytest.mark.parametrize(("a", "b"), PACKINGS, ids=str)
def test_gemms_are_the_golden_models(a: Any, b: Any, rng: np.random.Generator) -> None:
    """All formats, sizes that leave rows and columns out, bubbles between steps; no clock more than without packing."""
    packed = config(a_formats=a, b_formats=b)
    assert processing_element(packed) is PackedProcessingElement
    jobs = []
    for m, n, k in ((4, 2, 1), (5, 3, 20), (1, 1, 7), (7, 5, 12), (8, 2, 64)):
        fa, fb = rng.choice(np.array(packed.a_formats, object)), rng.choice(np.array(packed.b_formats, object))
        codes = [rng.integers(0, 1 << f.bits, shape).astype(f.code_dtype) for f, shape in ((fa, (m, k)), (fb, (k, n)))]
        if k == 64:
            # The largest magnitudes, of either sign.
            codes = [np.where(each & 1, 1 << (f.bits - 1), (1 << (f.bits - 1)) - 1).astype(f.code_dtype)
                     for each, f in zip(codes, (fa, fb), strict=True)]  # fmt: skip
        spec = GemmSpec(fa, fb, "int32", packed.accumulator)
        jobs.append(Job(spec, codes[0], codes[1], address=0x1000 * (len(jobs) + 1)))
    left = []
    for array in (packed, packed.replace(pack_multipliers=False)):
        trace = ArrayBench(array, np.random.default_rng(5), bubbles=0.1, stalls=0.05).run(*jobs)
        for job in jobs:
            for address, code in job.expected().items():
                assert trace.codes[address] == code, f"{job.spec}: C at {address - job.address:#x}"
        left.append((trace.captured, trace.left))
    assert left[0] == left[1]


def test_half_the_rows_of_elements_and_the_same_latency() -> None:
    packed = config(rows=6, columns=4)
    assert packed.rows_per_element == 2
    assert SystolicArray(config=packed).latency == SystolicArray(config=packed.replace(pack_multipliers=False)).latency


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rows": 3}, "rows must be even with pack_multipliers, not 3"),
        ({"a_formats": "e4m3"}, "pack_multipliers is for integer operands of at most 8 bits, not float8_e4m3fn"),
        ({"b_formats": "int9"}, "pack_multipliers is for integer operands of at most 8 bits, not int9"),
        ({"accumulator": "fixed:24:0"}, "pack_multipliers is for exact accumulators, not fixed:24:0"),
        (
            {"a_formats": ("int8", "uint8"), "b_formats": ("int8", "uint8")},
            "operands that take at most 25 bits when packed, not 26 as int8, uint8 and int8, uint8",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        config(**{"rows": 4, **changes})


def test_pack_multipliers_is_a_truth_value() -> None:
    with pytest.raises(TypeError, match="pack_multipliers must be true or false, not 1"):
        ArrayConfig(a_formats="int8", b_formats="int8", pack_multipliers=1)  # type: ignore[arg-type]


def test_cores_that_are_not_packed_keep_their_names() -> None:
    packed, plain = config(), config().replace(pack_multipliers=False)
    assert packed.name != plain.name
    assert ArrayConfig.from_dict(packed.to_dict()) == packed
