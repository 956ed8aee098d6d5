"""The driver, on the test double of a core: what it writes means the right GEMM; it survives every fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfulp.host.driver import Driver
from halfulp.host.errors import (
    BusError,
    ConnectionLostError,
    DescriptorError,
    DeviceError,
    DeviceTimeoutError,
    IdentificationError,
)
from halfulp.hw.config import ArrayConfig, UnsupportedSpecError
from halfulp.hw.registers import ErrorCode, register
from halfulp.numerics.formats import get_format
from halfulp.numerics.gemm import GemmSpec, golden_gemm

FP8 = ArrayConfig(rows=2, columns=4)
INT8 = ArrayConfig.from_dict(
    {
        "rows": 3, "columns": 2, "lanes": 2, "bus_width": 128,
        "a_formats": ["int8", "int4"], "b_formats": ["int8"], "out_formats": ["int32", "int8"],
        "accumulator": "exact:65536", "roundings": ["nearest_even", "stochastic"],
    }
)  # fmt: skip
MIXED = ArrayConfig.from_dict(
    {
        "a_formats": ["e4m3", "float16"], "b_formats": ["e4m3", "e6m5"], "out_formats": ["float16", "int8"],
        "accumulator": "exact:1024",
    }
)  # fmt: skip


def make_spec(a: str, b: str, out: str = "float32", **options: Any) -> GemmSpec:
    return GemmSpec(get_format(a), get_format(b), get_format(out), **options)


def layouts_of(codes):
    """The same matrix with contiguous rows, and with contiguous columns."""
    return np.ascontiguousarray(codes), np.asfortranarray(codes)


def random_codes(rng, fmt, shape):
    fmt = get_format(fmt)
    return rng.integers(0, 1 << fmt.bits, shape, fmt.code_dtype)


def assert_equal(result, expected):
    np.testing.assert_array_equal(result.codes, expected.codes)
    assert result.codes.dtype == expected.codes.dtype
    assert (result.invalid, result.overflow) == (expected.invalid, expected.overflow)


@pytest.mark.parametrize("config", [FP8, INT8, MIXED], ids=["fp8", "int8", "mixed"])
def test_configuration_is_read_back_from_the_registers(make_core, config):
    assert Driver(make_core(config)).config == config


def test_configuration_of_formats_without_a_name_is_read_back(make_core):
    config = ArrayConfig.from_dict(
        {"a_formats": ["e3m4", "int6", "e5m2-nosub"], "b_formats": ["uint7"], "accumulator": "exact:64"}
    )
    assert Driver(make_core(config)).config == config


@pytest.mark.parametrize(
    ("config", "a", "b", "out"),
    [
        (FP8, "e4m3", "e4m3", "float32"),
        (FP8, "e5m2", "e4m3", "e5m2"),
        (INT8, "int8", "int8", "int32"),
        (INT8, "int4", "int8", "int8"),
        (MIXED, "e4m3", "e6m5", "float16"),  # both operands in wider containers than they need
        (MIXED, "float16", "e4m3", "int8"),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (17, 1, 9), (1, 6, 33), (8, 8, 1)], ids=str)
def test_every_layout_and_format_gives_the_golden_result(make_core, rng, config, a, b, out, shape):
    m, n, k = shape
    driver = Driver(make_core(config))
    for rounding in ("nearest_even", "stochastic:7"):
        spec = make_spec(a, b, out, rounding=rounding, scale=-3, overflow="ieee")
        codes_a, codes_b = random_codes(rng, a, (m, k)), random_codes(rng, b, (k, n))
        expected = golden_gemm(codes_a, codes_b, spec, seed=2**63 + 5)
        for a_layout in layouts_of(codes_a):
            for b_layout in layouts_of(codes_b):
                assert_equal(driver.gemm(a_layout, b_layout, spec, seed=2**63 + 5), expected)


def test_strided_reversed_and_broadcast_views(make_core, rng):
    driver = Driver(make_core(FP8))
    spec = make_spec("e4m3", "e4m3")
    big = random_codes(rng, "e4m3", (40, 40))
    views = [big[1:31:3, ::4], big[5:15, 9::-1], big[::4, ::4].T, np.broadcast_to(big[:1, :10], (10, 10))]
    views.append(np.broadcast_to(big[:10, :1], (10, 10)))
    for a in views:
        for b in views:
            assert_equal(driver.gemm(a, b, spec), golden_gemm(a, b, spec))


def test_nothing_is_transposed_on_the_host(make_core, rng):
    """The layout bits follow the strides: memory rows are the rows that the host's array has."""
    core = make_core(FP8)
    driver = Driver(core)
    spec = make_spec("e4m3", "e4m3")
    a, b = random_codes(rng, "e4m3", (4, 6)), random_codes(rng, "e4m3", (6, 5))
    layouts = []
    for a_layout in layouts_of(a):
        for b_layout in layouts_of(b):
            driver.gemm(a_layout, b_layout, spec)
            layouts.append(core.values[register("layout").offset])
    assert layouts == [0b10, 0b00, 0b11, 0b01]


def test_flags_and_counters_are_of_the_last_gemm(make_core):
    driver = Driver(make_core(MIXED))
    spec = make_spec("float16", "e4m3", "int8")
    one, nan, large = (np.array([[code]], np.uint16) for code in (0x3C00, 0x7E00, 0x7BFF))
    e4m3_one = np.array([[0x38]], np.uint8)
    assert driver.gemm(nan, e4m3_one, spec)[1:] == (True, False)
    assert driver.gemm(large, e4m3_one, spec)[1:] == (False, True)
    assert driver.gemm(one, e4m3_one, spec)[1:] == (False, False)
    driver.gemm(np.tile(one, (3, 5)), np.tile(e4m3_one, (5, 2)), spec)
    assert driver.counters is not None
    assert driver.counters.cycles == (1 << 32) + 30
    assert driver.counters.array_busy_cycles == 30


def test_buffers_are_pooled_and_given_back(make_core, rng):
    core = make_core(FP8)
    driver = Driver(core)
    spec = make_spec("e4m3", "e4m3")
    for size in (3, 30, 17, 5, 30):
        driver.gemm(random_codes(rng, "e4m3", (size, size)), random_codes(rng, "e4m3", (size, size)), spec)
    assert core.allocations == 3
    driver.close()
    assert not core.buffers


def test_unchanged_registers_are_not_written_again(make_core, rng):
    core = make_core(FP8)
    driver = Driver(core)
    spec = make_spec("e4m3", "e4m3")
    a = random_codes(rng, "e4m3", (8, 8))
    driver.gemm(a, a, spec, seed=1)
    before = core.writes
    driver.gemm(a, a, spec, seed=2)
    # clear, start, and what differs: the low half of the seed, and the addresses, as buffers are a pool
    assert core.writes - before <= 2 + 1 + 3


def test_short_memory_is_told_and_survived(make_core, rng):
    core = make_core(FP8, memory_bytes=1 << 16)
    driver = Driver(core)
    spec = make_spec("e4m3", "e4m3", "e4m3")
    small = random_codes(rng, "e4m3", (8, 8))
    large = random_codes(rng, "e4m3", (300, 300))
    with pytest.raises(DeviceError, match=r"core: 91200 bytes of device memory are not to be had"):
        driver.gemm(large, large, spec)
    assert_equal(driver.gemm(small, small, spec), golden_gemm(small, small, spec))
    # 33 KiB do not fit as a power of two beside 8 KiB of idle pool, but they do exactly.
    fits = random_codes(rng, "e4m3", (33, 1024))
    assert_equal(driver.gemm(fits, fits[:1].T, spec), golden_gemm(fits, fits[:1].T, spec))


def test_queue_gives_every_result(make_core, rng):
    core = make_core(FP8)
    driver = Driver(core)
    spec = make_spec("e5m2", "e4m3", rounding="stochastic:3")
    pairs = [(random_codes(rng, "e5m2", (3, k)), random_codes(rng, "e4m3", (k, 4))) for k in range(1, 12)]
    jobs = [driver.submit(a, b, spec, seed=n) for n, (a, b) in enumerate(pairs)]
    with pytest.raises(RuntimeError, match="collect the 11 submitted GEMMs before running another"):
        driver.gemm(pairs[0][0], pairs[0][1], spec)
    for n in rng.permutation(len(jobs)):
        np.testing.assert_array_equal(
            driver.collect(jobs[n]).codes, golden_gemm(pairs[n][0], pairs[n][1], spec, seed=int(n)).codes
        )
    with pytest.raises(ValueError, match="this GEMM was collected already"):
        driver.collect(jobs[0])
    assert_equal(driver.gemm(*pairs[3], spec=spec), golden_gemm(*pairs[3], spec=spec))


def test_completed_counter_may_wrap(make_core, rng):
    core = make_core(FP8)
    core.ended = 2**32 - 1
    driver = Driver(core)
    a = random_codes(rng, "e4m3", (2, 2))
    spec = make_spec("e4m3", "e4m3")
    assert_equal(driver.gemm(a, a, spec), golden_gemm(a, a, spec))


# Faults


@pytest.fixture
def problem(rng):
    a = random_codes(rng, "e4m3", (5, 6))
    b = random_codes(rng, "e4m3", (6, 7))
    spec = make_spec("e4m3", "e4m3")
    return a, b, spec, golden_gemm(a, b, spec)


def test_bus_error_names_the_address_and_the_next_gemm_is_right(make_core, problem):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core, name="rtl:2x4")
    core.bad_addresses = range(1 << 40)
    with pytest.raises(BusError, match=r"rtl:2x4: the memory refused a read at 0x12340\w+, in A \(reg.*status") as e:
        driver.gemm(a, b, spec)
    assert e.value.address == e.value.registers["fail_address"] >= 0x1_2340_0000
    core.bad_addresses = range(0)
    assert_equal(driver.gemm(a, b, spec), expected)


def test_every_error_code_is_an_exception(make_core, problem):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core)
    for code in ErrorCode:
        core.refuses = int(code)
        kind = {
            ErrorCode.NONE: DeviceError,
            ErrorCode.READ_ERROR: BusError,
            ErrorCode.WRITE_ERROR: BusError,
        }.get(code, DescriptorError)
        with pytest.raises(kind) as raised:
            driver.gemm(a, b, spec)
        if isinstance(raised.value, DescriptorError):
            assert raised.value.code is code
            assert "GEMM refused: " in str(raised.value)
        core.refuses = None
        assert_equal(driver.gemm(a, b, spec), expected)
    core.refuses = 200
    with pytest.raises(DeviceError, match="unknown error code 200"):
        driver.gemm(a, b, spec)


def test_hung_core_times_out_and_is_reset(make_core, problem):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core, timeout_s=0.02)
    core.hangs = True
    resets = core.resets
    with pytest.raises(DeviceTimeoutError, match=r"no progress for 0.02 s; the core was reset \(registers: "):
        driver.gemm(a, b, spec)
    assert core.resets == resets + 1
    core.hangs = False
    assert_equal(driver.gemm(a, b, spec), expected)


def test_slow_core_that_progresses_does_not_time_out(make_core, problem, monkeypatch):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core, timeout_s=0.02)
    polls = iter(range(40))
    run = core.wait

    def slow(timeout_s: float) -> None:
        step = next(polls, None)
        if step is None:
            run(timeout_s)
        else:
            core._put64("array_busy_cycles", step + 1)
            __import__("time").sleep(0.002)

    monkeypatch.setattr(core, "wait", slow)
    assert_equal(driver.gemm(a, b, spec), expected)


def test_core_that_does_not_recover_says_so_until_it_does(make_core, problem):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core, timeout_s=0.01)
    core.hangs = core.stays_busy = True
    with pytest.raises(DeviceTimeoutError, match="no progress"):
        driver.gemm(a, b, spec)
    with pytest.raises(DeviceTimeoutError, match=r"still busy 0\.01 s after a reset"):
        driver.gemm(a, b, spec)
    core.hangs = core.stays_busy = False
    assert_equal(driver.gemm(a, b, spec), expected)


def test_unplugged_board_is_told_and_may_come_back(make_core, problem):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core)
    core.unplugged = True
    with pytest.raises(ConnectionLostError, match="core: connection lost: no such device"):
        driver.gemm(a, b, spec)
    core.unplugged = False
    assert_equal(driver.gemm(a, b, spec), expected)


def test_fault_in_the_queue_fails_all_of_the_batch(make_core, problem):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core)
    jobs = [driver.submit(a, b, spec) for _ in range(3)]
    core.refuses = int(ErrorCode.MISALIGNED)
    for job in jobs:
        with pytest.raises(DescriptorError, match=r"an address or stride is no multiple of its element"):
            driver.collect(job)
    core.refuses = None
    assert_equal(driver.gemm(a, b, spec), expected)
    driver.close()
    assert not core.buffers


def test_interrupt_by_the_user_leaves_a_driver_that_works(make_core, problem, monkeypatch):
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core)

    def interrupted(timeout_s: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            driver.gemm(a, b, spec)
    assert_equal(driver.gemm(a, b, spec), expected)
    driver.close()
    assert not core.buffers


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id", 0, "no halfulp core: the ID register reads 0x00000000, not 0x68756c70"),
        ("version", 0x0002_0003, r"the core has register map 2\.3; this driver knows 1\.x"),
        ("config_array", 0, "make no sense: rows must be 1 to 64, not 0"),
        ("config_a_format1", 0x8, "make no sense: configuration word 0x00000008 describes no format"),
        ("config_accumulator", 3, "make no sense: accumulator kind 3 is unknown to this driver"),
        ("config_accumulator", 17 << 8, "make no sense: accumulators of 17 bits, where the formats need "),
    ],
)
def test_what_is_no_core_is_refused(make_core, name, value, message):
    core = make_core(FP8)
    core.values[register(name).offset] = value
    with pytest.raises(IdentificationError, match=message):
        Driver(core)


# Bad input: refused before any traffic


@pytest.mark.parametrize(
    ("a", "b", "spec", "error", "message"),
    [
        ((3, 4), (5, 6), {}, ValueError, r"\(3, 4\) and \(5, 6\) differ in K"),
        ((3, 4), (4,), {}, ValueError, r"must be matrices, not of shapes \(3, 4\) and \(4,\)"),
        ((2, 3, 4), (4, 5), {}, ValueError, "must be matrices"),
        ((3, 0), (0, 5), {}, ValueError, "M, N and K must be at least 1"),
        ((1, 8193), (8193, 1), {}, UnsupportedSpecError, "K = 8193 is beyond .* max_k = 8192"),
        ((1, 65), (65, 1), {"accumulator": "exact:64"}, ValueError, "K = 65 is beyond .* max_k = 64"),
        (
            (2, 2),
            (2, 2),
            {"b": "e5m2"},
            UnsupportedSpecError,
            "B format float8_e5m2 is not built in; the core has",
        ),
        ((2, 2), (2, 2), {"out": "int8"}, UnsupportedSpecError, "output format int8 is not built in"),
    ],
)
def test_bad_input_is_refused_before_any_transfer(make_core, a, b, spec, error, message):
    core = make_core(FP8)
    driver = Driver(core)
    before = core.writes, core.allocations
    with pytest.raises(error, match=message):
        driver.gemm(np.zeros(a, np.uint8), np.zeros(b, np.uint8), make_spec(**{"a": "e4m3", "b": "e4m3", **spec}))
    assert (core.writes, core.allocations) == before


def test_codes_must_be_codes(make_core):
    driver = Driver(make_core(INT8))
    ok = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="code 16 is outside int4: codes are 0 to 15"):
        driver.gemm(ok + 16, ok, make_spec("int4", "int8", "int32"))
    with pytest.raises(TypeError, match="int8 codes must be integers, not float64"):
        driver.gemm(ok, ok.astype(float), make_spec("int4", "int8", "int32"))
    with pytest.raises(ValueError, match="seed must be 0 to"):
        driver.gemm(ok, ok, make_spec("int4", "int8", "int32"), seed=-1)


def test_parts_of_a_gemm_have_the_random_bits_of_the_whole(make_core, rng):
    driver = Driver(make_core(INT8))
    spec = make_spec("int8", "int8", "int8", rounding="stochastic:9", scale=-10)
    a, b = random_codes(rng, "int8", (29, 20)), random_codes(rng, "int8", (20, 21))
    whole = golden_gemm(a, b, spec, seed=11).codes
    for row, column in ((0, 0), (16, 0), (0, 8), (24, 16), (0, 0)):
        part = driver.gemm(a[row:], b[:, column:], spec, seed=11, row_offset=row, column_offset=column)
        np.testing.assert_array_equal(part.codes, whole[row:, column:])


@pytest.mark.parametrize(
    ("offset", "error", "message"),
    [
        (4, ValueError, r"row_offset must be a multiple of 8 from 0 to 2\*\*32 - 3, not 4"),
        (-8, ValueError, "row_offset must be a multiple of 8 .* not -8"),
        (1 << 32, ValueError, "row_offset must be a multiple of 8 .* not 4294967296"),
        (8.0, TypeError, "row_offset must be an integer, not 8.0"),
    ],
)
def test_offsets_that_cannot_be_are_refused_before_any_transfer(make_core, offset, error, message):
    core = make_core(INT8)
    driver = Driver(core)
    writes = core.writes
    a = np.zeros((3, 3), np.uint8)
    with pytest.raises(error, match=message):
        driver.gemm(a, a, make_spec("int8", "int8", "int8"), row_offset=offset)
    assert core.writes == writes


def test_timeout_must_be_positive(make_core):
    with pytest.raises(ValueError, match="timeout_s must be positive, not 0"):
        Driver(make_core(FP8), timeout_s=0)


def test_refusal_between_two_looks_is_noticed(make_core, problem, monkeypatch):
    """The core may refuse a GEMM after the status was read and before the count of ended ones is."""
    a, b, spec, expected = problem
    core = make_core(FP8)
    driver = Driver(core)
    read = core.read

    def quick(offset: int) -> int:
        if offset == register("completed").offset:
            core.wait(0)
        return read(offset)

    with monkeypatch.context() as patch:
        patch.setattr(core, "read", quick)
        core.refuses = int(ErrorCode.ZERO_SIZE)
        with pytest.raises(DescriptorError, match="M, N or K is 0"):
            driver.gemm(a, b, spec)
    core.refuses = None
    assert_equal(driver.gemm(a, b, spec), expected)
