# amaranth: UnusedElaboratable=no
"""The queue of descriptors proved: each leaves once, in order, checked by the rules of the contract."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Array, Const, Mux, Signal, Value

from halfulp.hw import descriptor
from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import ErrorCode
from halfulp.numerics.gemm import SCALE_LIMIT
from halfulp.numerics.rounding import KINDS

from .proofs import Bench, CounterexampleError, mutant

LONG = pytest.mark.proof
"""Of `make proofs`."""

CONFIG = ArrayConfig(
    rows=2,
    columns=2,
    lanes=1,
    a_formats=("int4", "float16"),
    b_formats="float8_e4m3fn",
    out_formats=("int8", "float32", "bfloat16"),
    accumulator="exact:100",
    roundings=("nearest_even", "stochastic"),
    queue_depth=4,
    address_bits=20,
    size_bits=16,
)


def plain_check(bench: Bench, request: Any) -> Signal:
    """The code of the first rule of the contract that a request breaks, NONE where it keeps all."""
    config = CONFIG

    def sizes(formats: tuple[Any, ...]) -> Value:
        return Array(Const(fmt.container_bytes) for fmt in formats)[request.out_format[:2]]

    def aligned(role: str, unit: Any) -> Value:
        return ((request[f"{role}_address"] % unit) == 0) & ((request[f"{role}_stride"] % unit) == 0)

    stochastic = request.rounding_mode == KINDS.index("stochastic")
    rules = (
        (ErrorCode.TOO_WIDE, ~request.too_wide),
        (ErrorCode.ZERO_SIZE, (request.m > 0) & (request.n > 0) & (request.k > 0)),
        (ErrorCode.K_TOO_LARGE, request.k <= 100),
        (ErrorCode.UNSUPPORTED_FORMAT, (request.a_format < 2) & (request.b_format == 0) & (request.out_format < 3)),
        (
            ErrorCode.UNSUPPORTED_ROUNDING,
            (request.rounding_mode == KINDS.index("nearest_even"))
            | (stochastic & (request.random_bits >= 1) & (request.random_bits <= 16)),
        ),
        (
            ErrorCode.MISALIGNED,
            aligned("a", 2)
            & aligned("b", 1)
            & aligned("c", sizes(config.out_formats))
            & (request.row_offset % 8 == 0)
            & (request.column_offset % 8 == 0),
        ),
        (
            ErrorCode.SCALE_OUT_OF_RANGE,
            (request.scale.as_signed() >= -SCALE_LIMIT) & (request.scale.as_signed() <= SCALE_LIMIT),
        ),
    )
    code = Signal(8, name="plain_code")
    for position, (number, kept) in enumerate(rules):
        with (bench.m.Elif if position else bench.m.If)(~kept):
            bench.m.d.comb += code.eq(number)
    return code


def descriptor_bench(module: ModuleType) -> Bench:
    """Each GEMM that is pushed leaves once, in order, as it was, or is refused with the first rule that it breaks."""
    bench = Bench()
    m = bench.m
    queue = module.DescriptorQueue(config=CONFIG)
    inside = bench.look_into(queue, "block")
    push, leaving, flush = queue.push, queue.descriptor, queue.flush
    bench.free(push.valid, push.payload, leaving.ready, flush)

    accepted, leaves = push.valid & push.ready & ~flush, (leaving.valid & leaving.ready) | queue.refused
    waiting, clocks = Signal(4), Signal(3)
    m.d.sync += waiting.eq(Mux(flush, 0, waiting + accepted - leaves))
    bench.ensure(
        push.ready | (waiting >= CONFIG.queue_depth),
        ~(leaving.valid | queue.refused) | (waiting != 0),
        ~(leaving.valid & queue.refused),
        leaving.valid | ~bench.delayed(leaving.valid & ~leaving.ready & ~flush),
    )

    # Any of them, and how many are before it.
    chosen, waits, ahead = Signal(), Signal(), Signal(4)
    bench.free(chosen)
    request: Any = Signal(module.request_layout(CONFIG), name="request")
    with m.If(waits & leaves):
        m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    with m.If(accepted & chosen & ~waits):
        m.d.sync += [waits.eq(1), request.eq(push.payload), ahead.eq(waiting - leaves), clocks.eq(0)]
    with m.Elif(waits & (ahead == 0)):
        m.d.sync += clocks.eq(Mux(clocks == 7, 7, clocks + 1))
    with m.If(flush):
        m.d.sync += waits.eq(0)
    code = plain_check(bench, request)
    first = waits & (ahead == 0)
    good = first & (code == ErrorCode.NONE)
    fields = leaving.payload.shape().members
    offered = {name: Value.cast(leaving.payload[name]).as_unsigned() for name in fields}
    same = [value == request[name][: len(value)] for name, value in offered.items()]
    bench.ensure(
        ~(first & queue.refused) | (code != ErrorCode.NONE),
        ~(first & queue.refused) | (queue.error_code == code),
        ~(first & leaving.valid) | good,
        *(~(first & leaving.valid) | each for each in same),
        # The latency that is announced.
        (clocks < queue.latency - 1) | ~first | leaving.valid | queue.refused,
    )

    # What induction has to know besides.
    checked, level, shown, read = (inside[name] for name in ("checked", "level", "shown", "read"))
    place = (ahead - checked)[:4]
    at_output = checked & (ahead == 0)
    bench.ensure(
        waiting == level + checked,
        level <= CONFIG.queue_depth,
        ~shown | (level != 0),
        inside["written"] == (read + level)[: len(read)],
        ~waits | (ahead < waiting),
        ~waits | ~at_output | (inside["failed"].any() == (code != ErrorCode.NONE)),
        ~waits | ~at_output | (queue.error_code == code),
        *(~waits | ~at_output | ~good | each for each in same),
        ~waits | at_output | (bench.stored("requests", (read + place)[: len(read)]) == request.as_value()),
        ~waits | at_output | ~shown | (place != 0) | (inside["oldest"] == request.as_value()),
        ~waits | first | (clocks == 0),
        ~first | (clocks == 0) | shown | checked,
        ~first | (clocks <= 1) | checked,
    )
    return bench


@LONG
def test_descriptors_are_checked_and_leave_in_order(tmp_path: Path) -> None:
    descriptor_bench(descriptor).prove(tmp_path, steps=2, inductive=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("(c & out_mask) | offsets).any()", "(c & out_mask)).any()", marks=LONG),
        pytest.param("rules[ErrorCode.TOO_WIDE] = request.too_wide", "rules[ErrorCode.TOO_WIDE] = 0", marks=LONG),
        pytest.param("(bits == 0) | (bits > MAX_OUTPUT_BITS)", "bits == 0", marks=LONG),
        pytest.param("wide[4]), 3, Mux", "wide[4]), 1, Mux", marks=LONG),
        pytest.param("m.Elif(failed.any() | self.descriptor.ready)", "m.Elif(self.descriptor.ready)", marks=LONG),
        ("(level, shown, checked, written, read)", "(shown, checked, written, read)"),
        pytest.param("shown.eq((level != 0) & ~pops)", "shown.eq(level != 0)", marks=LONG),
    ],
)
def test_mutants_of_the_descriptor_queue_are_refuted(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(CounterexampleError, match=r"run of 6 clocks: test_descriptor_proofs"):
        descriptor_bench(mutant(descriptor, old, new)).prove(tmp_path, steps=6)
