"""A whole core in Amaranth's simulator: registers driven as a driver does, memory that checks the bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth.sim import Simulator

from halfulp.hw.config import ArrayConfig
from halfulp.hw.core import Core
from halfulp.hw.registers import REGISTERS, ErrorCode, register
from halfulp.numerics.gemm import GemmResult, GemmSpec, exact_gemm, round_output
from halfulp.numerics.rounding import KINDS

from .axi_models import AxiLiteInitiator, AxiMemory

BASE = 0x3_FFFF_8000
SIZE = 0x10000


@dataclass
class Job:
    """One GEMM in memory: its operands' codes, where they and the result lie, and what the result must be."""

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]
    spec: GemmSpec
    seed: int
    a_across_k: bool
    b_across_k: bool
    registers: dict[str, int]
    expected: GemmResult
    c_address: int
    c_stride: int


class CoreBench:
    """A core with memory. `run` starts the simulation with a testbench that calls the other methods."""

    def __init__(
        self,
        config: ArrayConfig,
        *,
        seed: int,
        stall: float = 0.0,
        latency: tuple[int, int] = (1, 1),
        lite_gap: int = 0,
        base: int = BASE,
        size: int = SIZE,
    ) -> None:
        self.config = config
        self.base, self.size = base, size
        self.core = Core(config=config)
        self.rng = np.random.default_rng(seed)
        self.memory = AxiMemory(
            size=size,
            base=base,
            bus_bytes=config.bus_bytes,
            seed=seed,
            stall=stall,
            latency=latency,
            outstanding=config.reads_outstanding,
        )
        self.memory.data[:] = self.rng.integers(0, 256, size, np.uint8)
        self.bus = AxiLiteInitiator(self.core.s_axi, seed=seed, gap=lite_gap)
        self._free = base + 8

    def run(self, testbench: Callable[[Any], Any]) -> None:
        sim = Simulator(self.core)
        sim.add_clock(1e-6)

        async def serve_reads(ctx: Any) -> None:
            await self.memory.serve_reads(ctx, self.core.m_axi_read)

        async def serve_writes(ctx: Any) -> None:
            await self.memory.serve_writes(ctx, self.core.m_axi_write)

        sim.add_testbench(serve_reads, background=True)
        sim.add_testbench(serve_writes, background=True)
        sim.add_testbench(testbench)
        sim.run()

    def codes(self, fmt: Any, shape: tuple[int, int]) -> npt.NDArray[Any]:
        """Random codes of a format, NaN and Inf among them only rarely."""
        codes = self.rng.integers(0, 1 << fmt.bits, shape, np.uint32).astype(fmt.code_dtype)
        special = ~np.isfinite(fmt.to_float64(codes))
        return np.where(special & (self.rng.random(shape) < 0.98), codes & 1, codes).astype(fmt.code_dtype)

    def _allocate(self, size: int, align: int) -> int:
        """A place for `size` bytes, aligned to an element only, some bytes after the last one."""
        address = -(-(self._free + int(self.rng.integers(0, 40))) // align) * align
        self._free = address + size
        if self._free > self.base + self.size:
            raise MemoryError(f"the bench's memory of {self.size} bytes is full")
        return address

    def _store(self, codes: npt.NDArray[Any], element: int, across_k: bool, k_axis: int) -> tuple[int, int]:
        """Lay a matrix out, contiguous along K or across it, with a row stride of its own; return both."""
        rows = np.moveaxis(codes, k_axis, 0 if across_k else 1)
        stride = (rows.shape[1] + int(self.rng.integers(0, 5))) * element
        address = self._allocate(stride * rows.shape[0], element)
        raw = rows.astype(f"<u{element}")
        for n, row in enumerate(raw):
            self.memory.put(address + n * stride, row)
        return address, stride

    def job(
        self,
        m: int,
        n: int,
        k: int,
        spec: GemmSpec,
        *,
        a_across_k: bool = False,
        b_across_k: bool = False,
        seed: int = 0,
        offsets: tuple[int, int] = (0, 0),
        operands: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
    ) -> Job:
        """Place operands in memory and compute what the core must write; `offsets` place C in a larger GEMM."""
        config = self.config
        a, b = operands or (self.codes(spec.a, (m, k)), self.codes(spec.b, (k, n)))
        a_address, a_stride = self._store(a, config.a_bytes, a_across_k, 1)
        b_address, b_stride = self._store(b, config.b_bytes, b_across_k, 0)
        element = spec.out.container_bytes
        c_stride = (n + int(self.rng.integers(0, 5))) * element
        c_address = self._allocate(c_stride * m, element)
        words = {
            "a_address": a_address,
            "b_address": b_address,
            "c_address": c_address,
            "seed": seed,
        }
        registers = {f"{name}_low": value & 0xFFFFFFFF for name, value in words.items()}
        registers |= {f"{name}_high": value >> 32 for name, value in words.items()}
        registers |= {"a_stride": a_stride, "b_stride": b_stride, "c_stride": c_stride, "m": m, "n": n, "k": k}
        registers["layout"] = a_across_k | b_across_k << 1
        registers["formats"] = (
            config.a_formats.index(spec.a)
            | config.b_formats.index(spec.b) << 8
            | config.out_formats.index(spec.out) << 16
        )
        registers["rounding"] = (
            KINDS.index(spec.rounding.kind) | (spec.overflow == "ieee") << 4 | spec.rounding.random_bits << 8
        )
        registers["scale"] = spec.scale & 0xFFFFFFFF
        registers["row_offset"], registers["column_offset"] = offsets
        sums = exact_gemm(spec.a.decode(a), spec.b.decode(b))
        expected = round_output(sums, spec, seed=seed, row_offset=offsets[0], column_offset=offsets[1])
        return Job(a, b, spec, seed, a_across_k, b_across_k, registers, expected, c_address, c_stride)

    async def start(self, ctx: Any, job: Job, **changes: int) -> None:
        """Write a job's registers (some of them changed) and queue it."""
        for name, value in (job.registers | changes).items():
            await self.bus.write(ctx, register(name).offset, value)
        await self.control(ctx, "start")

    async def control(self, ctx: Any, *actions: str) -> None:
        """Write ones to these fields of the control register."""
        control = register("control")
        await self.bus.write(ctx, control.offset, sum(1 << control.field(name).lsb for name in actions))

    async def read(self, ctx: Any, name: str) -> int:
        """Read a register, or a pair of them."""
        if f"{name}_low" in (r.name for r in REGISTERS):
            low = await self.bus.read(ctx, register(f"{name}_low").offset)
            return low | await self.bus.read(ctx, register(f"{name}_high").offset) << 32
        return await self.bus.read(ctx, register(name).offset)

    async def status(self, ctx: Any) -> dict[str, int]:
        """The fields of the status register."""
        reg = register("status")
        word = await self.bus.read(ctx, reg.offset)
        return {f.name: word >> f.lsb & (1 << f.width) - 1 for f in reg.fields}

    async def wait(self, ctx: Any, limit: int = 20000) -> dict[str, int]:
        """Wait until nothing runs or is queued; return the status."""
        for _ in range(limit // 50):
            status = await self.status(ctx)
            if not status["busy"]:
                return status
            await ctx.tick().repeat(50)
        raise AssertionError(f"still busy after {limit} clocks: {await self.status(ctx)}")

    def result(self, job: Job) -> npt.NDArray[Any]:
        """The codes that lie in memory as a job's result."""
        m, n = job.expected.codes.shape
        element = job.spec.out.container_bytes
        at = job.c_address - self.base
        rows = [self.memory.data[at + i * job.c_stride : at + i * job.c_stride + n * element] for i in range(m)]
        return np.stack([np.ascontiguousarray(row).view(f"<u{element}") for row in rows])

    def check(self, job: Job) -> None:
        """Compare a result with the golden model's, code by code, and tell the first difference."""
        got, want = self.result(job), job.expected.codes
        if not np.array_equal(got, want):
            i, j = np.argwhere(got != want)[0]
            raise AssertionError(
                f"{int((got != want).sum())} of {got.size} codes differ, first C[{i}, {j}] = {int(got[i, j]):#x}, "
                f"must be {int(want[i, j]):#x}; {job.spec}, seed {job.seed}, A {job.a.shape} "
                f"{'across' if job.a_across_k else 'along'} K, B {job.b.shape} "
                f"{'across' if job.b_across_k else 'along'} K"
            )


def error_code(status: dict[str, int]) -> ErrorCode:
    """The error that a status tells."""
    return ErrorCode(status["error_code"])
