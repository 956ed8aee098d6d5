"""The virtual board under the real `pynq` package: registers, memory that is not coherent, overlays."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pynq
import pytest
from pynq.pl_server.device import Device

from halfulp.hw.config import ArrayConfig
from halfulp.hw.handoff import PROCESSING_SYSTEMS
from halfulp.hw.registers import REGISTERS, register
from halfulp.sim.device_memory import DeviceMemory
from halfulp.sim.virtual_board import DEVICE_GARBAGE, HAS_DEVICE_CLOCKS, HOST_GARBAGE, VirtualBoard
from halfulp.sim.virtual_overlay import virtual_overlay, write_virtual_overlay

allocate: Any = pynq.allocate  # its annotation says that a dtype is a string
CONFIG = ArrayConfig(rows=2, columns=2, lanes=1, a_formats=("int8",), b_formats=("int8",), out_formats=("int8",))


class RegistersAndMemory:
    """A core that computes nothing."""

    interrupt = False

    def __init__(self) -> None:
        self.values = {r.offset: 0 for r in REGISTERS}
        self.memory = DeviceMemory(1 << 20)
        self.is_closed = False

    def read(self, offset: int) -> int:
        return self.values[offset]

    def write(self, offset: int, value: int) -> None:
        self.values[offset] = value

    def allocate(self, nbytes: int) -> Any:
        return self.memory.allocate(nbytes)

    def run(self, clocks: int) -> bool:
        return False

    def advance(self, clocks: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(params=PROCESSING_SYSTEMS.names())
def ps(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def core() -> RegistersAndMemory:
    return RegistersAndMemory()


@pytest.fixture
def board(core: RegistersAndMemory, ps: str):
    board = VirtualBoard(core, processing_system=ps)
    yield board
    board.close()


@pytest.fixture
def overlay(board: VirtualBoard, ps: str):
    # pynq.Clocks keeps the first device of the process for ever; another test's board may be closed by now.
    if "_real_instance" in vars(pynq.Clocks):
        del pynq.Clocks._real_instance
    return pynq.Overlay(str(virtual_overlay(CONFIG, processing_system=ps)), device=board)


def test_mmio_reaches_the_core(board: VirtualBoard, core: RegistersAndMemory, ps: str):
    mmio = pynq.MMIO(PROCESSING_SYSTEMS.get(ps).core_address, 4096, device=board)
    offset = register("a_address_low").offset
    mmio.write(offset, 0x8000_0001)
    assert core.values[offset] == 0x8000_0001
    assert mmio.read(offset) == 0x8000_0001
    core.values[offset + 4] = 5
    assert mmio.read(offset, 8) == 0x5_8000_0001
    mmio.write(offset, bytes(range(8)))
    assert mmio.read(offset, 8) == int.from_bytes(bytes(range(8)), "little")


def test_an_address_where_nothing_answers_is_a_bus_error(board: VirtualBoard):
    with pytest.raises(OSError, match="bus error: nothing answers at 0x70000010"):
        pynq.MMIO(0x7000_0000, 64, device=board).read(0x10)
    with pytest.raises(OSError, match="bus error"):
        pynq.MMIO(0x7000_0000, 64, device=board).write(0, 1)


def test_host_and_core_see_different_bytes_until_they_are_synchronised(board: VirtualBoard, core: RegistersAndMemory):
    buffer = allocate((4, 5), np.uint16, target=board)
    start = buffer.device_address - core.memory.base
    device = core.memory.array[start : start + 40]
    assert (buffer.view(np.uint8) == HOST_GARBAGE).all()
    assert (device == DEVICE_GARBAGE).all()
    buffer[:] = np.arange(20).reshape(4, 5)
    assert (device == DEVICE_GARBAGE).all(), "a forgotten flush goes unseen"
    buffer.flush()
    assert (device.view(np.uint16) == np.arange(20)).all()
    device.view(np.uint16)[:] = 7
    assert (buffer == np.arange(20).reshape(4, 5)).all(), "a forgotten invalidate goes unseen"
    buffer.invalidate()
    assert (buffer == 7).all()


def test_a_part_of_a_buffer_is_synchronised_alone(board: VirtualBoard, core: RegistersAndMemory):
    buffer = allocate((16,), np.uint8, target=board)
    buffer[:] = 1
    part = buffer[4:8]
    assert part.device_address == buffer.device_address + 4
    part.flush()
    start = buffer.device_address - core.memory.base
    assert core.memory.array[start : start + 16].tolist() == [DEVICE_GARBAGE] * 4 + [1] * 4 + [DEVICE_GARBAGE] * 8


def test_memory_is_given_back_when_nothing_refers_to_it(board: VirtualBoard, core: RegistersAndMemory):
    free = core.memory.free_bytes
    buffer = allocate((1000,), np.uint8, target=board)
    view = np.asarray(buffer)
    assert core.memory.free_bytes < free
    del buffer
    gc.collect()
    assert core.memory.free_bytes < free, "a view still refers to it"
    del view
    gc.collect()
    assert core.memory.free_bytes == free
    with pytest.raises(MemoryError, match="no 2097152 bytes"):
        allocate((2 << 20,), np.uint8, target=board)


def test_an_overlay_tells_of_the_core(overlay: Any, ps: str):
    assert overlay.is_loaded()
    core = overlay.ip_dict["halfulp_core_0"]
    assert core["type"] == "halfulp.org:ip:halfulp_core:1.0"
    assert core["phys_addr"] == PROCESSING_SYSTEMS.get(ps).core_address
    assert {name: r["address_offset"] for name, r in core["registers"].items()} == {
        r.name.upper(): r.offset for r in REGISTERS
    }
    assert core["parameters"]["ROWS"] == "2"
    assert list(core["interrupts"]) == ["interrupt"]


def test_registers_and_fields_have_names(overlay: Any, core: RegistersAndMemory):
    core.values[register("status").offset] = 0x0000_0702
    registers = overlay.halfulp_core_0.register_map
    assert (int(registers.STATUS.BUSY), int(registers.STATUS.DONE), int(registers.STATUS.ERROR_CODE)) == (0, 1, 7)
    registers.M = 12
    assert core.values[register("m").offset] == 12


@pytest.mark.skipif(not HAS_DEVICE_CLOCKS, reason="this pynq asks the machine that it runs on for its clocks")
def test_the_clock_is_set_as_the_hand_off_file_says(overlay: Any):
    if "_real_instance" in vars(pynq.Clocks):
        del pynq.Clocks._real_instance
    pynq.Clocks.set_device(overlay.device)
    overlay.download()
    assert pynq.Clocks.fclk0_mhz == pytest.approx(100, rel=1e-4)


def test_a_board_is_the_active_device_unless_there_is_another(core: RegistersAndMemory):
    first = VirtualBoard(core)
    assert Device.active_device is first
    second = VirtualBoard(RegistersAndMemory())
    assert Device.active_device is first
    second.close()
    assert Device.active_device is first
    first.close()
    third = VirtualBoard(RegistersAndMemory())
    assert Device.active_device is third
    third.close()


def test_closing_ends_the_simulation(board: VirtualBoard, core: RegistersAndMemory):
    buffer = allocate((8,), np.uint8, target=board)
    board.close()
    assert core.is_closed
    assert len(buffer) == 8
    with pytest.raises(OSError, match="the virtual board has been closed"):
        allocate((8,), np.uint8, target=board)


def test_overlays_are_the_same_files_every_time(tmp_path):
    bit = write_virtual_overlay(tmp_path, CONFIG)
    cached = virtual_overlay(CONFIG)
    assert bit.read_bytes() == cached.read_bytes()
    assert bit.with_suffix(".hwh").read_bytes() == cached.with_suffix(".hwh").read_bytes()
    assert virtual_overlay(CONFIG.replace(rows=3)) != cached
