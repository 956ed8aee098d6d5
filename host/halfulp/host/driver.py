"""The driver of a core with registers: one for every board and simulator. NumPy and standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn, cast

import numpy as np
import numpy.typing as npt

from halfulp.host.bus import BlockReader, CoreBuffer, CoreBus
from halfulp.host.core_registers import CoreRegisters, field_of, pack, read_config
from halfulp.host.errors import BusError, DescriptorError, DeviceError, DeviceTimeoutError
from halfulp.hw.block_memory import with_scales
from halfulp.hw.config import UnsupportedSpecError
from halfulp.hw.registers import ErrorCode, register
from halfulp.numerics.block_formats import Blocks
from halfulp.numerics.block_gemm import AnyGemmSpec, check_block_operands
from halfulp.numerics.formats import CodeArray
from halfulp.numerics.gemm import GemmResult, GemmSpec, check_operands
from halfulp.numerics.random_bits import check_seed
from halfulp.numerics.rounding import KINDS

__all__ = ["Counters", "Driver", "Job"]

WAIT_SLICE_S = 0.25
"""Longest single wait, so that Ctrl-C is heard and progress is looked at."""

SMALLEST_BUFFER = 4096
"""Bytes; buffers of the pool are powers of two from here on, so that neighbouring sizes share them."""


@dataclass(frozen=True)
class Counters:
    """Clock cycles of a run: all, those in which operands entered the array, and those in which it waited."""

    cycles: int = 0
    array_busy_cycles: int = 0
    read_stall_cycles: int = 0
    write_stall_cycles: int = 0


@dataclass(eq=False)
class Job:
    """A GEMM that was submitted: its buffers until it is collected, then its error, if any."""

    spec: AnyGemmSpec
    shape: tuple[int, int, int]
    buffers: dict[str, CoreBuffer] = field(repr=False)
    c_stride: int
    position: int
    error: DeviceError | None = None


class Driver:
    """Runs GEMMs on the core behind a bus.

    Parameters
    ----------
    bus
        Registers and memory; see `CoreBus`.
    name
        What messages call the core.
    timeout_s
        A run fails when for so many seconds no operand entered the array and no GEMM ended. Long GEMMs are
        not affected, for they progress; on a core without counters, where only ends are seen, they are.
    pools
        Whether buffers are kept for later GEMMs, in sizes that suit many. Where memory is short, and cheap to
        allocate, it is better to have each of the very size, and free afterwards.

    Attributes
    ----------
    config
        The core's configuration, read from its registers.
    counters
        Of the last batch: everything submitted since the core was idle. None where the core counts nothing.

    Raises
    ------
    IdentificationError
        Where the registers are not those of a core that this driver knows.
    """

    def __init__(self, bus: CoreBus, *, name: str = "core", timeout_s: float = 30.0, pools: bool = True) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, not {timeout_s!r}")
        self._bus = bus
        self._name = name
        self._timeout_s = timeout_s
        self._registers = CoreRegisters(bus, name)
        self._pools = pools
        self._pool: dict[int, list[CoreBuffer]] = {}
        self._outstanding: list[Job] = []
        self._completed_before = 0
        self._batch = 0
        self._must_reset = False
        self.config = read_config(self._registers.read)
        self.counters = Counters() if self.config.counters else None
        self.reset()

    @property
    def bus(self) -> CoreBus:
        """What the core is reached by."""
        return self._bus

    def gemm(
        self,
        a: npt.ArrayLike | Blocks,
        b: npt.ArrayLike | Blocks,
        spec: AnyGemmSpec,
        *,
        seed: int = 0,
        row_offset: int = 0,
        column_offset: int = 0,
    ) -> GemmResult:
        """Run one GEMM: codes A [M, K] and B [K, N], strided views included, give codes C [M, N] and flags.

        With a `BlockGemmSpec` the operands are `Blocks`, A along axis 1 and B along axis 0, with tensor scales of 1.

        The offsets, multiples of 8, place C in a larger GEMM of which this is a part: its random bits are those of
        (row_offset + i, column_offset + j), so that parts put together are what the whole gives.

        Raises
        ------
        ValueError, TypeError
            Operands that fit neither each other nor the formats; `UnsupportedSpecError` where the core cannot
            run the GEMM.
        DeviceError
            The core or its bus failed. The core has been reset; the next call works unless that failed too.
        """
        if self._outstanding and not self._must_reset:
            raise RuntimeError(f"collect the {len(self._outstanding)} submitted GEMMs before running another")
        return self.collect(self.submit(a, b, spec, seed=seed, row_offset=row_offset, column_offset=column_offset))

    def submit(
        self,
        a: npt.ArrayLike | Blocks,
        b: npt.ArrayLike | Blocks,
        spec: AnyGemmSpec,
        *,
        seed: int = 0,
        row_offset: int = 0,
        column_offset: int = 0,
    ) -> Job:
        """Queue one GEMM and return at once, unless the core's queue is full; `collect` gives its result.

        GEMMs in the queue overlap in the core. They share the sticky flags: `collect` tells of each what any
        of the batch has raised, and a batch fails as a whole: what one of its GEMMs raises, later calls for the
        others raise as well.
        """
        check_seed(seed)
        codes_a, codes_b = self._stored_operands(a, b, spec)
        offsets = {"row_offset": row_offset, "column_offset": column_offset}
        for name, size in (("row_offset", codes_a.shape[0]), ("column_offset", codes_b.shape[1])):
            _check_offset(name, offsets[name], size)
        if self._must_reset:
            self.reset()
        if not self._outstanding:
            self._registers.write("control", clear=1)
            self._completed_before = self._registers.read("completed")
            self._batch = 0
        shape = (codes_a.shape[0], codes_b.shape[1], codes_a.shape[1])
        for name, size in zip("MN", shape[:2], strict=True):
            if size >> self.config.size_bits:
                raise UnsupportedSpecError(f"{name} = {size} is beyond the {self.config.size_bits} bits of this core")
        job = Job(spec, shape, {}, self._stride(shape[1], spec.out.container_bytes), self._batch + 1)
        self._outstanding.append(job)
        try:
            self._describe_operands(job, codes_a, codes_b)
            self._describe_arithmetic(spec, seed)
            for name, offset in offsets.items():
                self._registers.set(name, offset)
            self._wait(lambda status: not field_of("status", "queue_full", status))
            self._registers.write("control", start=1)
        except BaseException:
            # The core may know these buffers already: they are free after its reset.
            self._must_reset = True
            raise
        self._batch += 1
        return job

    def collect(self, job: Job) -> GemmResult:
        """Wait for a submitted GEMM and return its result; each can be collected once. Raises as `gemm` does."""
        if job.error is not None:
            raise job.error
        if job not in self._outstanding:
            raise ValueError("this GEMM was collected already")
        try:
            self._wait(lambda _: self._completed() >= job.position)
            # Once more: a GEMM may have been refused between the last look at the status and that at the count.
            status = self._checked_status()
            if len(self._outstanding) == 1 and self.config.counters:
                self.counters = self._read_counters()
            codes = self._result(job)
        except BaseException:
            self._must_reset = True
            raise
        self._outstanding.remove(job)
        self._release(job)
        invalid, overflow = (bool(field_of("status", flag, status)) for flag in ("invalid", "overflow"))
        return GemmResult(codes, invalid, overflow)

    def memory_needed(self, a: CodeArray | Blocks, b: CodeArray | Blocks, spec: AnyGemmSpec) -> tuple[int, int, int]:
        """Bytes of the core's memory that A, B and C of this GEMM take, in the layouts in which they are given."""
        a, b = self._stored_operands(a, b, spec)
        sizes = []
        for codes, k_axis, element_bytes in ((a, 1, self.config.a_bytes), (b, 0, self.config.b_bytes)):
            rows, _ = _rows_in_memory(codes, k_axis)
            sizes.append(rows.shape[0] * self._stride(rows.shape[1], element_bytes))
        c_bytes = a.shape[0] * self._stride(b.shape[1], spec.out.container_bytes)
        return sizes[0], sizes[1], c_bytes

    def reset(self) -> None:
        """Drop everything that runs or waits and make the core ready; GEMMs not yet collected fail."""
        self._must_reset = True
        registers = self._registers
        registers.forget()
        registers.write("control", reset=1)
        give_up = time.monotonic() + self._timeout_s
        while registers.field("status", "busy"):
            if time.monotonic() > give_up:
                message = f"{self._name}: still busy {self._timeout_s:g} s after a reset"
                raise DeviceTimeoutError(message, registers.state())
        registers.write("control", clear=1)
        registers.write("interrupt_enable", done=1, error=1)
        for job in self._outstanding:
            job.error = job.error or DeviceError(f"{self._name}: the core was reset before this GEMM ended")
            self._release(job)
        self._outstanding.clear()
        self._must_reset = False

    def close(self) -> None:
        """Stop what runs and give all buffers back. The bus stays open: it belongs to the caller."""
        if self._outstanding:
            self.reset()
        self._trim()

    # Descriptors

    def _describe_operands(self, job: Job, codes_a: CodeArray, codes_b: CodeArray) -> None:
        """Put both operands into buffers, and addresses, sizes, strides and layouts into the registers."""
        m, n, k = job.shape
        a_rows, a_across_k = _rows_in_memory(codes_a, k_axis=1)
        b_rows, b_across_k = _rows_in_memory(codes_b, k_axis=0)
        job.buffers["a"], a_stride = self._load(a_rows, self.config.a_bytes)
        job.buffers["b"], b_stride = self._load(b_rows, self.config.b_bytes)
        job.buffers["c"] = self._take(m * job.c_stride)
        bits = self.config.address_bits
        for operand, buffer in job.buffers.items():
            if (buffer.address + buffer.array.size - 1) >> bits:
                raise DeviceError(f"{self._name}: a buffer at {buffer.address:#x} is beyond the core's {bits} bits")
            self._registers.set64(f"{operand}_address", buffer.address)
        words = {"a_stride": a_stride, "b_stride": b_stride, "c_stride": job.c_stride, "m": m, "n": n, "k": k}
        for name, value in words.items():
            self._registers.set(name, value)
        self._registers.set("layout", pack("layout", a_across_k=a_across_k, b_across_k=b_across_k))

    def _stored_operands(
        self, a: npt.ArrayLike | Blocks, b: npt.ArrayLike | Blocks, spec: AnyGemmSpec
    ) -> tuple[CodeArray, CodeArray]:
        """Check operands; A [M, K] and B [K, N] as the core reads them, of blocks the scales among their elements."""
        if isinstance(spec, GemmSpec):
            codes_a, codes_b = check_operands(cast(npt.ArrayLike, a), cast(npt.ArrayLike, b), spec)
            self.config.check_spec(spec, codes_a.shape[1])
            return codes_a, codes_b
        blocks_a, blocks_b = check_block_operands(cast(Blocks, a), cast(Blocks, b), spec)
        if (blocks_a.tensor_scale, blocks_b.tensor_scale) != (1.0, 1.0):
            scales = f"{blocks_a.tensor_scale} and {blocks_b.tensor_scale}"
            raise ValueError(f"a core knows no tensor scales: they must be 1, not {scales}")
        self.config.check_spec(spec, blocks_a.codes.shape[1])
        return with_scales(blocks_a, spec.a.block, axis=1), with_scales(blocks_b, spec.b.block, axis=0)

    def _describe_arithmetic(self, spec: AnyGemmSpec, seed: int) -> None:
        have = self.config
        a, b = (side.index(fmt) for side, fmt in zip(have.operands, (spec.a, spec.b), strict=True))
        self._registers.set("formats", pack("formats", a=a, b=b, out=have.out_formats.index(spec.out)))
        mode, ieee = KINDS.index(spec.rounding.kind), spec.overflow == "ieee"
        rounding = pack("rounding", mode=mode, overflow_ieee=ieee, random_bits=spec.rounding.random_bits)
        self._registers.set("rounding", rounding)
        self._registers.set("scale", spec.scale & 0xFFFF_FFFF)
        self._registers.set64("seed", seed)

    # Waiting and failing

    def _completed(self) -> int:
        """GEMMs of this batch that ended; the register counts modulo 2**32."""
        return (self._registers.read("completed") - self._completed_before) & 0xFFFF_FFFF

    def _read_counters(self) -> Counters:
        names = ("cycles", "array_busy_cycles", "read_stall_cycles", "write_stall_cycles")
        if not isinstance(self._bus, BlockReader):
            return Counters(*(self._registers.read64(name) for name in names))
        with self._registers.connected():
            words = self._bus.read_block(register("cycles_low").offset, 2 * len(names))
        return Counters(*(low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True)))

    def _checked_status(self) -> int:
        status = self._registers.read("status")
        if field_of("status", "error", status):
            self._fail(field_of("status", "error_code", status))
        return status

    def _wait(self, ready: Callable[[int], bool]) -> None:
        """Wait until `ready(status)`; raise what the core reports, or that it makes no progress."""
        progress: tuple[int, int] | None = None
        since = time.monotonic()
        while True:
            status = self._checked_status()
            if ready(status):
                return
            seen = self._completed(), self._registers.read("array_busy_cycles_low")
            now = time.monotonic()
            if seen != progress:
                progress, since = seen, now
            elif now - since > self._timeout_s:
                message = f"{self._name}: no progress for {self._timeout_s:g} s; the core was reset"
                self._abandon(DeviceTimeoutError(message, self._registers.state()))
            with self._registers.connected(), suppress(TimeoutError):
                self._bus.wait(min(WAIT_SLICE_S, self._timeout_s))

    def _fail(self, number: int) -> NoReturn:
        """Turn an error code into its exception, reset the core, and raise."""
        state = self._registers.state()
        if number in (ErrorCode.READ_ERROR, ErrorCode.WRITE_ERROR):
            address = state["fail_address"]
            what = "read" if number == ErrorCode.READ_ERROR else "write"
            message = f"{self._name}: the memory refused a {what} at {address:#x}, {self._owner(address)}"
            self._abandon(BusError(message, address, state))
        if number not in _REFUSED:
            self._abandon(DeviceError(f"{self._name}: unknown error code {number}", state))
        message = f"{self._name}: GEMM refused: {_REFUSED[number]}"
        self._abandon(DescriptorError(message, ErrorCode(number), state))

    def _owner(self, address: int) -> str:
        for job in self._outstanding:
            for operand, buffer in job.buffers.items():
                if buffer.address <= address < buffer.address + buffer.array.size:
                    return f"in {operand.upper()}"
        return "outside of A, B and C"

    def _abandon(self, error: DeviceError) -> NoReturn:
        """Let all outstanding GEMMs fail of `error`, make the core ready again, and raise."""
        for job in self._outstanding:
            job.error = error
        try:
            self.reset()
        except DeviceError as second:
            raise error from second
        raise error

    # Memory

    def _stride(self, elements: int, element_bytes: int) -> int:
        """Bytes from one row to the next: whole bus words, so that every row starts with one."""
        word = self.config.bus_bytes
        stride = -(-elements * element_bytes // word) * word
        bits = self.config.size_bits
        if stride >> bits:
            raise ValueError(f"a row of {elements} elements of {element_bytes} bytes exceeds a {bits}-bit stride")
        return stride

    def _load(self, rows: CodeArray, element_bytes: int) -> tuple[CoreBuffer, int]:
        """Copy an operand into a buffer row by row, each code into its container; return the stride too."""
        count, elements = rows.shape
        stride = self._stride(elements, element_bytes)
        buffer = self._take(count * stride)
        _matrix(buffer, count, elements, stride, element_bytes)[...] = rows
        buffer.flush()
        return buffer, stride

    def _result(self, job: Job) -> CodeArray:
        m, n, _ = job.shape
        buffer = job.buffers["c"]
        buffer.invalidate()
        out = job.spec.out
        return _matrix(buffer, m, n, job.c_stride, out.container_bytes).astype(out.code_dtype)

    def _take(self, nbytes: int) -> CoreBuffer:
        size = max(SMALLEST_BUFFER, 1 << (nbytes - 1).bit_length())
        free = self._pool.setdefault(size, []) if self._pools else []
        if free:
            return free.pop()
        with self._registers.connected():
            try:
                return self._bus.allocate(size if self._pools else nbytes)
            except MemoryError:
                self._trim()
            try:
                return self._bus.allocate(nbytes)
            except MemoryError:
                message = f"{self._name}: {nbytes} bytes of device memory are not to be had"
                raise DeviceError(message) from None

    def _release(self, job: Job) -> None:
        for buffer in job.buffers.values():
            size = buffer.array.size
            if not self._pools or size < SMALLEST_BUFFER or size & (size - 1):
                buffer.free()  # taken when memory was short: no size of the pool's
            else:
                self._pool.setdefault(size, []).append(buffer)
        job.buffers.clear()

    def _trim(self) -> None:
        for free in self._pool.values():
            while free:
                free.pop().free()


_REFUSED: dict[int, str] = {
    ErrorCode.ZERO_SIZE: "M, N or K is 0",
    ErrorCode.K_TOO_LARGE: "K is beyond the accumulator's max_k",
    ErrorCode.UNSUPPORTED_FORMAT: "a format's number is not built in",
    ErrorCode.UNSUPPORTED_ROUNDING: "the rounding mode or its number of random bits is not built in",
    ErrorCode.MISALIGNED: "an address or stride is no multiple of its element, or an offset none of 8",
    ErrorCode.SCALE_OUT_OF_RANGE: "the scale is beyond ±16384",
    ErrorCode.QUEUE_OVERFLOW: "the queue was full",
    ErrorCode.TOO_WIDE: "an address, a size or a stride has more bits than the core's",
}


def _check_offset(name: str, offset: int, size: int) -> None:
    """Raise where a part of `size` rows or columns cannot lie there in a larger GEMM."""
    if isinstance(offset, bool) or not isinstance(offset, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {offset!r}")
    if offset % 8 or not 0 <= offset <= (1 << 32) - size:
        raise ValueError(f"{name} must be a multiple of 8 from 0 to 2**32 - {size}, not {offset!r}")


def _rows_in_memory(codes: CodeArray, k_axis: int) -> tuple[CodeArray, bool]:
    """An operand as the rows that it has in memory, and whether these run across K rather than along it.

    Rows run along the axis of the smaller stride, so that nothing is transposed. A vector becomes one row; a
    stride of 0 (a broadcast axis) is no contiguous one.
    """
    if 1 in codes.shape:
        across_k = codes.shape[k_axis] == 1
    else:
        along, across = (abs(codes.strides[axis]) or np.inf for axis in (k_axis, 1 - k_axis))
        across_k = across < along
    row_axis = k_axis if across_k else 1 - k_axis
    return (codes if row_axis == 0 else codes.T), across_k


def _matrix(buffer: CoreBuffer, rows: int, elements: int, stride: int, element_bytes: int) -> CodeArray:
    """View of a buffer as [rows, elements] of little-endian unsigned integers."""
    whole = buffer.array[: rows * stride].reshape(rows, stride)
    return whole[:, : elements * element_bytes].view(np.dtype(f"<u{element_bytes}"))
