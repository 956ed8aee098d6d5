"""The virtual board's interrupt controller and its line to Linux, as the drivers of `pynq` use them."""

from __future__ import annotations

import os
import select

import pytest

from halfulp.sim.board_peripherals import InterruptController, RegisterBank, UserInterrupt

ISR, IPR, IER, IAR, SIE, CIE, MER = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x1C


@pytest.fixture
def uio():
    interrupt = UserInterrupt()
    yield interrupt
    interrupt.close()


def comes(descriptor: int) -> bool:
    if not select.select([descriptor], [], [], 0)[0]:
        return False
    assert len(os.read(descriptor, 64)) == 4
    return True


def test_a_user_interrupt_comes_once_for_each_time_it_is_enabled(uio: UserInterrupt):
    descriptor = os.open(uio.path, os.O_RDWR)
    uio.set_line(True)
    assert not comes(descriptor), "it was not enabled"
    os.write(descriptor, bytes(4))
    uio.set_line(False)
    assert not comes(descriptor), "its line is low"
    uio.set_line(True)
    assert comes(descriptor)
    uio.set_line(True)
    assert not comes(descriptor), "it was not enabled again"
    os.write(descriptor, bytes(4))
    uio.set_line(True)
    assert comes(descriptor)
    os.close(descriptor)


def test_the_controller_passes_on_what_is_enabled(uio: UserInterrupt):
    descriptor = os.open(uio.path, os.O_RDWR)
    os.write(descriptor, bytes(4))
    controller = InterruptController(uio)
    controller.set_input(True)
    assert [controller.read(register) for register in (ISR, IPR)] == [1, 0]
    controller.write(SIE, 1)
    assert [controller.read(register) for register in (IPR, IER)] == [1, 1]
    assert not comes(descriptor), "the master enable is off"
    controller.write(MER, 3)
    assert comes(descriptor)
    os.write(descriptor, bytes(4))
    controller.write(CIE, 1)
    assert not comes(descriptor)
    os.close(descriptor)


def test_a_level_cannot_be_acknowledged_away(uio: UserInterrupt):
    controller = InterruptController(uio)
    controller.set_input(True)
    controller.write(IAR, 1)
    assert controller.read(ISR) == 1
    controller.set_input(False)
    assert controller.read(ISR) == 1, "an event stays until it is acknowledged"
    controller.write(IAR, 1)
    assert controller.read(ISR) == 0


def test_registers_hold_what_is_written():
    bank = RegisterBank({0x10: 7})
    bank.write(0x20, 9)
    assert [bank.read(offset) for offset in (0x10, 0x20, 0x30)] == [7, 9, 0]
