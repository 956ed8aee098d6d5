"""A test double of a core: its registers and memory in Python, its arithmetic the golden model.

It decodes descriptors by the register map alone, so what passes here was described right: addresses,
strides, layouts, containers, format numbers, rounding and seed. The memory is not coherent: what the host does
not flush the core does not see, and what it does not invalidate the host does not see.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from halfulp.hw.config import ArrayConfig
from halfulp.hw.format_words import format_word
from halfulp.hw.registers import CORE_ID, CORE_VERSION, REGISTERS, ErrorCode, register
from halfulp.numerics.gemm import GemmSpec, exact_gemm, round_output
from halfulp.numerics.rounding import KINDS, Rounding

BASE = 0x1_2340_0000  # above 4 GiB, so that a driver that loses the high half fails


class FakeBuffer:
    """Part of the fake core's memory."""

    def __init__(self, core: FakeCore, address: int, nbytes: int) -> None:
        self.core, self.address = core, address
        # Garbage, for no driver may rely on zeros.
        self.array = np.random.default_rng(address).integers(0, 256, nbytes, np.uint8)
        self.is_free = False

    def _memory(self) -> np.ndarray:
        assert not self.is_free, "used after free"
        start = self.address - BASE
        return self.core.memory[start : start + self.array.size]

    def flush(self) -> None:
        self._memory()[:] = self.array

    def invalidate(self) -> None:
        self.array[:] = self._memory()

    def free(self) -> None:
        assert not self.is_free, "freed twice"
        self.is_free = True
        self.core.buffers.remove(self)


class FakeCore:
    """Registers and memory of a core of `config`; the attributes below `faults` make it misbehave."""

    opened: ClassVar[list[FakeCore]] = []

    def __init__(self, config: ArrayConfig, memory_bytes: int = 1 << 20) -> None:
        self.opened.append(self)
        self.is_closed = False
        self.config = config
        self.memory = np.random.default_rng(0).integers(0, 256, memory_bytes, np.uint8)
        self.buffers: list[FakeBuffer] = []
        self.allocations = self.resets = self.writes = 0
        self.values = {r.offset: 0 for r in REGISTERS}
        self.queue: list[dict[int, int]] = []
        self.ended = 0
        self.status = dict.fromkeys(("done", "error", "invalid", "overflow", "error_code"), 0)
        # faults
        self.hangs = self.unplugged = self.stays_busy = False
        self.bad_addresses = range(0)
        self.refuses: int | None = None
        self._identify()

    def _identify(self) -> None:
        c = self.config
        words = {
            "id": CORE_ID,
            "version": CORE_VERSION,
            "config_array": c.rows | c.columns << 16,
            "config_datapath": c.lanes | c.bus_bytes << 8 | c.queue_depth << 16 | c.reads_outstanding << 24,
            "config_buffer": c.buffer_depth,
            "config_accumulator": c.accumulator_bits << 8,
            "config_max_k": c.max_k,
            "config_rounding": sum(1 << KINDS.index(kind) for kind in c.roundings),
            "config_formats": len(c.a_formats) | len(c.b_formats) << 4 | len(c.out_formats) << 8,
        }
        for role, formats in (("a", c.a_formats), ("b", c.b_formats), ("out", c.out_formats)):
            words.update({f"config_{role}_format{n}": format_word(f) for n, f in enumerate(formats)})
        for name, word in words.items():
            self.values[register(name).offset] = word

    # The bus

    def read(self, offset: int) -> int:
        self._plugged()
        assert not self.is_closed
        if offset == register("status").offset:
            s = self.status
            busy = bool(self.queue) or self.stays_busy
            flags = s["done"] << 1 | s["error"] << 2 | s["invalid"] << 3 | s["overflow"] << 4
            return busy | flags | (len(self.queue) > self.config.queue_depth) << 5 | s["error_code"] << 8
        if offset == register("completed").offset:
            return self.ended & 0xFFFF_FFFF
        return self.values[offset]

    def write(self, offset: int, value: int) -> None:
        self._plugged()
        assert type(value) is int, f"a register takes a Python int, not {type(value)}"
        assert 0 <= value < 1 << 32
        found = next(r for r in REGISTERS if r.offset == offset)
        assert found.access != "ro", f"{found.name} is read only"
        self.writes += 1
        if found.name == "control":
            self._control(value)
        else:
            self.values[offset] = value

    def allocate(self, nbytes: int) -> FakeBuffer:
        self._plugged()
        size = -(-nbytes // 4096) * 4096
        taken = sorted((b.address, b.address + -(-b.array.size // 4096) * 4096) for b in self.buffers)
        address = BASE
        for start, stop in taken:
            if address + size <= start:
                break
            address = stop
        if address + size > BASE + self.memory.size:
            raise MemoryError(f"{nbytes} bytes")
        self.allocations += 1
        self.buffers.append(FakeBuffer(self, address, nbytes))
        return self.buffers[-1]

    def wait(self, timeout_s: float) -> None:
        self._plugged()
        if self.hangs:
            raise TimeoutError("no interrupt")
        if self.queue:
            self._run(self.queue.pop(0))

    def _plugged(self) -> None:
        if self.unplugged:
            raise OSError("no such device")

    def close(self) -> None:
        self.is_closed = True

    # The core

    def _control(self, value: int) -> None:
        if value >> 2 & 1:
            self.resets += 1
            self.ended += len(self.queue)
            self.queue.clear()
        if value >> 1 & 1:
            self.status = dict.fromkeys(self.status, 0)
            for name in ("fail_address", "cycles", "array_busy_cycles"):
                self._put64(name, 0)
        if value & 1:
            self.queue.append(dict(self.values))

    def _put64(self, name: str, value: int) -> None:
        self.values[register(f"{name}_low").offset] = value & 0xFFFF_FFFF
        self.values[register(f"{name}_high").offset] = value >> 32

    def _error(self, code: int) -> None:
        self.status["error"] = 1
        self.status["error_code"] = self.status["error_code"] or code
        self.ended += 1 + len(self.queue)
        self.queue.clear()

    def _run(self, values: dict[int, int]) -> None:
        def word(name: str) -> int:
            return values[register(name).offset]

        def wide(name: str) -> int:
            return word(f"{name}_low") | word(f"{name}_high") << 32

        if self.refuses is not None:
            self._error(self.refuses)
            return
        m, n, k = word("m"), word("n"), word("k")
        formats, layout, rounding = word("formats"), word("layout"), word("rounding")
        scale = word("scale") - (word("scale") >> 31 << 32)
        c = self.config
        kind = KINDS[rounding & 0xF]
        spec = GemmSpec(
            a=c.a_formats[formats & 0xFF],
            b=c.b_formats[formats >> 8 & 0xFF],
            out=c.out_formats[formats >> 16 & 0xFF],
            rounding=Rounding(kind, rounding >> 8 & 0xFF),
            overflow="ieee" if rounding >> 4 & 1 else "saturate",
            scale=scale,
        )
        a_across, b_across = layout & 1, layout >> 1 & 1
        for name in ("a_address", "b_address"):
            if wide(name) in self.bad_addresses:
                self._put64("fail_address", wide(name))
                self._error(ErrorCode.READ_ERROR)
                return
        a = self._matrix(wide("a_address"), word("a_stride"), (k, m) if a_across else (m, k), c.a_bytes)
        b = self._matrix(wide("b_address"), word("b_stride"), (k, n) if b_across else (n, k), c.b_bytes)
        values_a, values_b = spec.a.decode(a.T if a_across else a), spec.b.decode(b if b_across else b.T)
        place = {name: word(name) for name in ("row_offset", "column_offset")}
        result = round_output(exact_gemm(values_a, values_b), spec, seed=wide("seed"), **place)
        out = self._matrix(wide("c_address"), word("c_stride"), (m, n), spec.out.container_bytes)
        out[...] = result.codes
        self.status["done"] = 1
        self.status["invalid"] |= result.invalid
        self.status["overflow"] |= result.overflow
        self.ended += 1
        self._put64("cycles", (1 << 32) + m * n * k)
        self._put64("array_busy_cycles", m * n * k)

    def _matrix(self, address: int, stride: int, shape: tuple[int, int], itemsize: int) -> np.ndarray:
        start = address - BASE
        assert start % self.config.bus_bytes == 0
        assert stride % self.config.bus_bytes == 0
        assert stride >= shape[1] * itemsize
        assert start + (shape[0] - 1) * stride + shape[1] * itemsize <= self.memory.size
        return np.ndarray(shape, f"<u{itemsize}", self.memory, start, (stride, itemsize))


@pytest.fixture(scope="session")
def make_core() -> type[FakeCore]:
    """The test double's class; call it with an `ArrayConfig`."""
    return FakeCore


@pytest.fixture
def fake_rtl(monkeypatch: pytest.MonkeyPatch) -> list[FakeCore]:
    """RTL devices open test doubles; returns the list of those that were opened."""
    monkeypatch.setattr("halfulp.host.rtl_device.RtlCore", FakeCore)
    monkeypatch.setattr(FakeCore, "opened", [])
    return FakeCore.opened
