"""The checklist of a board: what only the board itself can confirm, run by `halfulp boards check DEVICE`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from halfulp.host.core_registers import CoreRegisters, read_config
from halfulp.host.device import Device, open_device
from halfulp.host.driver import Driver
from halfulp.hw.config import ArrayConfig
from halfulp.hw.registers import REGISTERS
from halfulp.numerics.accumulators import Accumulator, ExactAccumulator
from halfulp.numerics.block_formats import BlockFormat, Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, gemm_spec
from halfulp.numerics.formats import CodeArray, FloatFormat, Format
from halfulp.numerics.gemm import GemmSpec, exact_gemm, round_output
from halfulp.numerics.rounding import Rounding

__all__ = [
    "CHECKS",
    "BoardCheck",
    "CheckFailedError",
    "Outcome",
    "check_board",
    "compare_gemm",
    "core_specs",
    "run_check",
]

PATTERNS = (0, 0xFFFF_FFFF, 0x5555_5555, 0xAAAA_AAAA)

ODD_SHAPES = ((1, 1, 1), (3, 2, 5), (17, 19, 23), (33, 1, 64), (1, 33, 64))
"""M, N, K."""

LARGE_SIZE, SIMULATED_LARGE_SIZE, SIMULATED_LINK_LARGE_SIZE = 1024, 128, 48
"""M, N, K of a large GEMM: on a board, on a simulated core, and on one whose serial line is simulated bit by bit."""

RESETS = {False: 10, True: 3}
"""In the middle of GEMMs, by whether a serial line is simulated bit by bit."""

LEAST_UTILISATION = 0.95
"""Share of the clocks in which a large GEMM keeps the array busy, where memory keeps up."""


class CheckFailedError(RuntimeError):
    """A check found something wrong; one line."""


class _NotHere(Exception):
    """A check that this device gives no occasion for."""


@dataclass(frozen=True)
class BoardCheck:
    """One line of the checklist: its name, what it confirms, and the function that does, which returns what it saw."""

    name: str
    confirms: str
    run: Callable[[Device, np.random.Generator], str]


@dataclass(frozen=True)
class Outcome:
    """How a check ended: state is ``ok``, ``failed`` or ``not here``."""

    check: BoardCheck
    state: str
    seen: str
    seconds: float


def check_board(device: Device, *, seed: int = 0) -> Iterator[Outcome]:
    """Run the whole checklist, in order; a check that fails does not keep the next from running.

    Parameters
    ----------
    device
        Any that has a core. One that chooses its core by what it is asked for is asked for int8.
    seed
        Of the operands.
    """
    if device.config is None:
        device.gemm(np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8), GemmSpec("int8", "int8", out="int8"))
    for check in CHECKS:
        yield run_check(check, device, np.random.default_rng([seed, *check.name.encode()]))


def run_check(check: BoardCheck, device: Device, rng: np.random.Generator) -> Outcome:
    """One line of the checklist; never raises but for an interrupt."""
    start = time.perf_counter()
    try:
        seen, state = check.run(device, rng), "ok"
    except _NotHere as reason:
        seen, state = str(reason), "not here"
    except Exception as error:
        told = str(error).splitlines() or [""]
        name = "" if isinstance(error, CheckFailedError) else f"{type(error).__name__}: "
        seen, state = f"{name}{told[0]}", "failed"
    return Outcome(check, state, seen, time.perf_counter() - start)


def core_specs(config: ArrayConfig) -> list[AnyGemmSpec]:
    """A GEMM of every combination of formats and rounding that a core has."""
    specs = []
    for a, b, out in product(*config.operands, config.out_formats):
        for kind in config.roundings:
            rounding = Rounding.parse(f"{kind}:8" if kind.startswith("stochastic") else kind)
            specs.append(gemm_spec(a, b, out, _accumulator(config), rounding, _scale(out)))
    return specs


def _check_identity(device: Device, _: np.random.Generator) -> str:
    registers = _registers(device)
    for _attempt in range(100):
        if read_config(registers.read) != _config(device):
            raise CheckFailedError("the configuration registers change from one reading to the next")
    return _config(device).name


def _check_registers(device: Device, rng: np.random.Generator) -> str:
    bus, registers, config = _driver(device).bus, _registers(device), _config(device)
    plain = [r for r in REGISTERS if r.access == "rw" and not r.fields]
    for pattern in (*PATTERNS, *(int(x) for x in rng.integers(0, 1 << 32, 8))):
        written = {r.name: (pattern ^ number * 0x0101_0101) & 0xFFFF_FFFF for number, r in enumerate(plain)}
        for r in plain:
            bus.write(r.offset, written[r.name])
        for r in plain:
            width = 32 if config.compact else config.register_bits(r.name)
            kept = written[r.name] & ((1 << width) - 1)
            if (held := registers.read(r.name)) != kept:
                bits = f" with {width} bits" if kept != written[r.name] else ""
                raise CheckFailedError(f"register {r.name}{bits} reads {held:#010x} after {written[r.name]:#010x}")
    _driver(device).reset()
    return f"{len(plain)} registers, {len(PATTERNS) + 8} patterns"


def _check_formats(device: Device, rng: np.random.Generator) -> str:
    specs = core_specs(_config(device))
    for spec in specs:
        compare_gemm(device, spec, (9, 10, 40), rng)
    return f"{len(specs)} combinations of formats and rounding equal the golden model"


def _check_shapes(device: Device, rng: np.random.Generator) -> str:
    spec = _spec(device)
    for shape in ODD_SHAPES:
        for across_a, across_b in product((False, True), repeat=2):
            compare_gemm(device, spec, shape, rng, across_a=across_a, across_b=across_b)
    return f"{len(ODD_SHAPES)} shapes in 4 layouts"


def _check_caches(device: Device, rng: np.random.Generator) -> str:
    if _memory_bytes(device) is not None:
        raise _NotHere("the core's memory is its own, which no cache of the host's lies in front of")
    # The pool hands the same memory out again and again, so stale lines of the processor's caches show at once.
    rounds = 100
    for _ in range(rounds):
        compare_gemm(device, _spec(device), (32, 32, 64), rng)
    return f"{rounds} GEMMs in the same memory, each with other numbers"


def _check_large(device: Device, rng: np.random.Generator) -> str:
    size = _large_size(device)
    spec, k = _spec(device), min(size, _config(device).max_k)
    a, b = _random(rng, spec.a, (size, k), 1), _random(rng, spec.b, (k, size), 0)
    given = device.gemm(a, b, spec, seed=1).codes
    if not isinstance(spec.accumulator, ExactAccumulator) or isinstance(a, Blocks) or isinstance(b, Blocks):
        with open_device("emulator") as emulator:  # chains of a single row are none of the golden model's
            if not np.array_equal(given, emulator.gemm(a, b, spec, seed=1).codes):
                raise CheckFailedError(f"{size} × {size} × {k} differs from the emulator")
        return f"{size} × {size} × {k} equals the emulator"
    assert isinstance(spec, GemmSpec)
    for row in (int(row) for row in rng.choice(size, 16, replace=False)):
        sums = exact_gemm(spec.a.decode(a[row : row + 1]), spec.b.decode(b))
        if not np.array_equal(given[row : row + 1], round_output(sums, spec, seed=1, row_offset=row).codes):
            raise CheckFailedError(f"row {row} of {size} differs from the golden model")
    return f"{size} × {size} × {k}: 16 rows drawn by chance equal the golden model"


def _check_utilisation(device: Device, rng: np.random.Generator) -> str:
    config, spec = _config(device), _spec(device)
    _need_large_memory(device)
    m, n, k = 32 * config.rows, 32 * config.columns, min(512, config.max_k)
    device.gemm(_random(rng, spec.a, (m, k), 1), _random(rng, spec.b, (k, n), 0), spec)
    counters = device.counters
    if counters is None:
        raise _NotHere("this device counts no clocks")
    share = m * n * k / (counters.cycles * config.rows * config.columns)
    told = (
        f"{share:.1%} of the array, {counters.cycles} clocks: "
        f"{counters.read_stall_cycles} waiting for operands, {counters.write_stall_cycles} for results"
    )
    if share < LEAST_UTILISATION:
        raise CheckFailedError(f"{told}; {LEAST_UTILISATION:.0%} is what the core reaches where memory keeps up")
    return told


def _check_clock(device: Device, rng: np.random.Generator) -> str:
    if _is_simulated(device):
        raise _NotHere("a simulated core has no rate of its own")
    _need_large_memory(device)
    spec, k = _spec(device), min(LARGE_SIZE, _config(device).max_k)
    a, b = _random(rng, spec.a, (LARGE_SIZE, k), 1), _random(rng, spec.b, (k, LARGE_SIZE), 0)
    driver = _driver(device)
    job = driver.submit(a, b, spec)
    start = time.perf_counter()
    driver.collect(job)
    seconds, counters = time.perf_counter() - start, driver.counters
    if counters is None:
        raise _NotHere("this core counts no clocks")
    rate = counters.cycles / seconds / 1e6
    told = f"about {rate:.1f} MHz seen"
    asked = getattr(getattr(device, "overlay", None), "clock_dict", {}).get(0, {}).get("frequency")
    if asked is not None and not 0.8 * asked < rate < 1.05 * asked:
        raise CheckFailedError(f"{told}, {asked:g} MHz set: the clock is another, or the host was kept waiting")
    return told + (f", {asked:g} MHz set" if asked is not None else "")


def _check_interrupt(device: Device, rng: np.random.Generator) -> str:
    line = getattr(_driver(device).bus, "interrupt_line", None)
    if line is None:
        raise _NotHere("no interrupt is wired, or it cannot be had from here; the driver polls")
    compare_gemm(device, _spec(device), (64, 64, min(2048, _config(device).max_k)), rng)
    return "comes"


def _check_reset(device: Device, rng: np.random.Generator) -> str:
    driver, spec = _driver(device), _spec(device)
    size, k = 256, min(1024, _config(device).max_k)
    # Where the core has its own small memory, two of these GEMMs have to fit.
    while (room := _memory_bytes(device)) is not None and 2 * (2 * size * 4 * k + 4 * size * (size + 16)) > room:
        size, k = max(size // 2, 1), max(k // 2, 1)
    a, b = _random(rng, spec.a, (size, k), 1), _random(rng, spec.b, (k, size), 0)
    rounds = RESETS[_is_simulated_link(device)]
    for _ in range(rounds):
        driver.submit(a, b, spec)
        driver.submit(a, b, spec)
        driver.reset()
        compare_gemm(device, spec, (17, 13, 40), rng)
    return f"{rounds} resets in the middle of GEMMs, the next one right each time"


CHECKS: tuple[BoardCheck, ...] = (
    BoardCheck(
        "identity", "clock, reset and register bus: the core tells the same of itself 100 times", _check_identity
    ),
    BoardCheck(
        "registers", "every bit of every address and size register, and none disturbs another", _check_registers
    ),
    BoardCheck("formats", "arithmetic at the board's clock: all formats and roundings, bit for bit", _check_formats),
    BoardCheck("shapes", "byte enables and bursts of the memory port: odd shapes in all layouts", _check_shapes),
    BoardCheck("caches", "flush and invalidate: no stale byte of either side", _check_caches),
    BoardCheck("large", "long bursts over many pages of the board's memory", _check_large),
    BoardCheck("utilisation", "the memory port's bandwidth and latency", _check_utilisation),
    BoardCheck("clock", "the clock that the overlay asks for is the one that runs", _check_clock),
    BoardCheck("interrupt", "the interrupt reaches Linux", _check_interrupt),
    BoardCheck("reset", "a GEMM can be stopped: bursts under way are completed, the port stays usable", _check_reset),
)
"""The checklist, in the order in which it is run."""


def _config(device: Device) -> ArrayConfig:
    if device.config is None:
        raise CheckFailedError(f"device {device.name} has no core")
    return device.config


def _driver(device: Device) -> Driver:
    driver = getattr(device, "driver", None)
    if driver is None:
        raise _NotHere(f"device {device.name} gives no access to its core")
    return driver


def _registers(device: Device) -> CoreRegisters:
    return CoreRegisters(_driver(device).bus, device.name)


def _memory_bytes(device: Device) -> int | None:
    """Size of the core's own memory; None where it uses the host's."""
    return getattr(_driver(device).bus, "memory_bytes", None)


def _need_large_memory(device: Device) -> None:
    if (room := _memory_bytes(device)) is not None:
        raise _NotHere(f"the core's memory of {room} bytes is on its chip: no GEMM in it lasts long enough")


def _is_simulated(device: Device) -> bool:
    return getattr(device, "is_simulated", True)


def _is_simulated_link(device: Device) -> bool:
    """Whether each byte to and from the core costs clocks of the simulation."""
    return _is_simulated(device) and _memory_bytes(device) is not None


def _large_size(device: Device) -> int:
    if _is_simulated_link(device):
        return SIMULATED_LINK_LARGE_SIZE
    return SIMULATED_LARGE_SIZE if _is_simulated(device) else LARGE_SIZE


def _spec(device: Device) -> AnyGemmSpec:
    """A GEMM of the core's first formats."""
    config = _config(device)
    a, b, out = config.operands[0][0], config.operands[1][0], config.out_formats[0]
    kind = "stochastic:8" if "stochastic" in config.roundings else config.roundings[0]
    return gemm_spec(a, b, out, _accumulator(config), Rounding.parse(kind), _scale(out))


def _accumulator(config: ArrayConfig) -> Accumulator | str:
    """Exact ones without the core's own limit of K."""
    return "exact" if isinstance(config.accumulator, ExactAccumulator) else config.accumulator


def _scale(out: Format) -> int:
    """Brings sums into the range of an integer output."""
    return 0 if isinstance(out, FloatFormat) else -6


def _random(
    rng: np.random.Generator, fmt: Format | BlockFormat, shape: tuple[int, int], axis: int, *, turned: bool = False
) -> CodeArray | Blocks:
    """Random codes, and scales of blocks along `axis`; specials left out, for one NaN would hide a row.

    turned: codes lie in memory with the other axis contiguous.
    """
    if isinstance(fmt, BlockFormat):
        counted = list(shape)
        counted[axis] = fmt.block_count(shape[axis])
        scales = rng.integers(fmt.nan_scale // 2 - 8, fmt.nan_scale // 2 + 8, counted)
        return Blocks(_random_codes(rng, fmt.element, shape, turned), scales.astype(np.uint8))
    return _random_codes(rng, fmt, shape, turned)


def _random_codes(rng: np.random.Generator, fmt: Format, shape: tuple[int, int], turned: bool) -> CodeArray:
    if turned:
        return _random_codes(rng, fmt, (shape[1], shape[0]), False).T
    if isinstance(fmt, FloatFormat):
        magnitude = rng.integers(0, fmt.max_code + 1, shape, np.int64)
        return (magnitude | rng.integers(0, 2, shape, np.int64) * fmt.sign_code).astype(fmt.code_dtype)
    return rng.integers(0, 1 << fmt.bits, shape, np.int64).astype(fmt.code_dtype)


def compare_gemm(
    device: Device,
    spec: AnyGemmSpec,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
    *,
    across_a: bool = False,
    across_b: bool = True,
) -> None:
    """One GEMM of random numbers; raise `CheckFailedError` where the golden model gives anything else.

    Parameters
    ----------
    device
        Of one core.
    spec, rng
        Of which formats, and where the numbers come from.
    shape
        M, N, K; K is cut to what the core takes.
    across_a, across_b
        Whether that operand lies in memory across K rather than along it.
    """
    m, n, k = shape
    k = min(k, _config(device).max_k)
    a = _random(rng, spec.a, (m, k), 1, turned=across_a)
    b = _random(rng, spec.b, (k, n), 0, turned=not across_b)
    seed = int(rng.integers(1 << 63))
    with open_device("golden") as model:
        given, golden = device.gemm(a, b, spec, seed=seed), model.gemm(a, b, spec, seed=seed)
    if not np.array_equal(given.codes, golden.codes):
        i, j = (int(x[0]) for x in np.nonzero(given.codes != golden.codes))
        raise CheckFailedError(
            f"{m} × {n} × {k}, {spec.a} × {spec.b} → {spec.out}, {spec.rounding}, seed {seed}: C[{i}, {j}] is "
            f"{given.codes[i, j]:#x}, not {golden.codes[i, j]:#x}"
        )
    if given[1:] != golden[1:]:
        raise CheckFailedError(f"{m} × {n} × {k}, {spec.a} × {spec.b} → {spec.out}: flags differ")
