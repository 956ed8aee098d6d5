"""GEMMs through a serial link: on RTL behind its pins, with a bad line, without one, and with too little memory."""

from __future__ import annotations

import os
import pty
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from halfulp.host.board_check import CHECKS, run_check
from halfulp.host.core_family import CoreFamily
from halfulp.host.device import open_device
from halfulp.host.errors import ConnectionLostError, DeviceError, IdentificationError
from halfulp.host.serial_device import SerialDevice
from halfulp.host.serial_port import SerialPort
from halfulp.hw.config import UnsupportedSpecError
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.sim.serial_board import LineFaults, VirtualSerialBoard

SPEC = GemmSpec("int8", "int8", "int8", rounding="stochastic:7", scale=-9)
CONFIG = CoreFamily(2, 2).config_for(SPEC)  # the core that the conformance suite builds as well
TOML = Path(__file__).parents[2] / "docs" / "configs" / "int8_8x8.toml"


@pytest.fixture(scope="module")
def board() -> Iterator[VirtualSerialBoard]:
    with VirtualSerialBoard(CONFIG) as opened:
        yield opened


@pytest.fixture
def device(board: VirtualSerialBoard) -> Iterator[SerialDevice]:
    opened = open_board(board)
    yield opened
    opened.close()


def open_board(board: VirtualSerialBoard) -> SerialDevice:
    """A device on this board, as patient as a busy machine asks for."""
    port = SerialPort(board.path, baud=3_000_000, name="serial")
    return SerialDevice("serial", port, baud=3_000_000, retries=40)


def operands(rng: np.random.Generator, m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (m, k), np.uint8), rng.integers(0, 256, (n, k), np.uint8).T


def assert_equal(device: SerialDevice, a: np.ndarray, b: np.ndarray, seed: int = 3) -> None:
    given, golden = device.gemm(a, b, SPEC, seed=seed), golden_gemm(a, b, SPEC, seed=seed)
    np.testing.assert_array_equal(given.codes, golden.codes)
    assert given[1:] == golden[1:]


def test_the_core_tells_what_it_is(device: SerialDevice) -> None:
    assert device.config == CONFIG
    assert device.link.info.memory_bytes == 1 << 15


@pytest.mark.parametrize("kind", ["change", "lose", "double", "add", "all"])
def test_every_gemm_is_right_on_a_line_that_is_not(board, device, rng, kind) -> None:
    """One byte in some hundreds is changed, lost, doubled or added, in both directions."""
    chance = dict.fromkeys(("change", "lose", "double", "add"), 0.0005) if kind == "all" else {kind: 0.002}
    before = device.link.stats.recoveries
    board.faults = LineFaults(**chance)
    try:
        for _ in range(3):
            assert_equal(device, *operands(rng, 9, 30, 7), seed=int(rng.integers(1 << 63)))
    finally:
        board.faults = LineFaults()
    assert device.link.stats.recoveries > before


def test_a_compact_core_is_golden_and_counts_nothing(rng) -> None:
    """What an iCEBreaker has, its RTL behind its pins: one GEMM right behind the other, and one that is refused."""
    config = TOML.parent / "int8_1x2_compact_serial.toml"
    spec = GemmSpec("int8", "int8", "int8", scale=-9)
    with open_device(f"serial-sim:{config}") as device:
        for shape in ((5, 11, 4), (1, 1, 1), (3, 256, 2)):
            a, b = operands(rng, *shape)
            given, golden = device.gemm(a, b, spec), golden_gemm(a, b, spec)
            np.testing.assert_array_equal(given.codes, golden.codes)
            assert given[1:] == golden[1:]
        with pytest.raises(UnsupportedSpecError, match="K = 257 is beyond the exact accumulator's max_k = 256"):
            device.gemm(*operands(rng, 1, 257, 1), spec)
        assert device.counters is None


def test_what_does_not_fit_the_memory_is_cut_and_has_the_random_bits_of_the_whole(device, rng) -> None:
    a, b = operands(rng, 21, 600, 27)
    assert_equal(device, a, b)
    assert device.counters is not None
    # More than one part: each is a run of its own, and together they do all steps of all tiles.
    assert device.counters.array_busy_cycles == 600 * 11 * 14


def test_k_that_fits_no_part_is_refused_with_the_numbers(device) -> None:
    a = np.ones((20, 3000), np.uint8)
    message = "K = 3000 is too large .* a part of 8 × 8 results needs 48064 bytes, of 32768; device emulator runs it"
    with pytest.raises(UnsupportedSpecError, match=message):
        device.gemm(a, a.T, SPEC)
    with pytest.raises(UnsupportedSpecError, match="A format float16 is not built in"):
        device.check(GemmSpec("float16", "int8"))


def test_a_second_program_is_kept_out(board, device) -> None:
    with pytest.raises(DeviceError, match=rf"^serial: port {board.path} is in use by another program$"):
        open_board(board)


def test_another_core_than_expected_is_refused(board) -> None:
    with pytest.raises(IdentificationError, match="the core has rows = 2, not 8"):
        open_device(f"serial:{board.path}?config={TOML}")
    with open_device(f"serial:{board.path}?baud=1000000", requirements=[SPEC], retries=40) as device:
        assert device.config == CONFIG
    with pytest.raises(UnsupportedSpecError, match="format float8_e4m3fn is not built in"):
        open_device(f"serial:{board.path}", requirements=[GemmSpec("e4m3", "e4m3")], retries=40)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("serial:", "needs a port: serial:/dev/ttyUSB0"),
        ("serial:/dev/tty?baud=fast", "baud must be a positive number, not 'fast'"),
        ("serial:/dev/tty?bauds=1", "'bauds'; nearest: 'baud'"),
        ("serial-sim:", "needs an array shape or a configuration file: serial-sim:2x2"),
        ("serial-sim:none.toml", "'none.toml' is neither an array shape such as 2x2 nor an existing file"),
    ],
)
def test_names_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_device(name)


def test_a_port_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="there is no port /dev/ttyNONE; there "):
        open_device("serial:/dev/ttyNONE")


@pytest.mark.parametrize("answer", [b"", b"\xa5\x00garbage, as at another rate"])
def test_what_does_not_answer_as_a_core_is_told_in_time(answer: bytes) -> None:
    line, port = pty.openpty()
    tty.setraw(port)
    ended = threading.Event()

    def answer_with_garbage() -> None:
        while os.read(line, 4096) and not ended.is_set():
            os.write(line, answer)

    thread = threading.Thread(target=answer_with_garbage, daemon=True)
    thread.start()
    start = time.monotonic()
    told = "nothing comes back" if not answer else "what comes back is no frame"
    with pytest.raises(IdentificationError, match=f"no halfulp core answers at 3e\\+06 baud \\({told}"):
        open_device(f"serial:{os.ttyname(port)}", reply_timeout_s=0.05, retries=3)
    assert time.monotonic() - start < 5
    ended.set()
    os.write(port, b"the end")
    thread.join()
    os.close(line)
    os.close(port)


def test_a_link_that_dies_in_the_middle_of_a_gemm(rng) -> None:
    """Pulled out, and gone silent: one line within the time that is stated."""
    board = VirtualSerialBoard(CONFIG)
    device = open_board(board)
    a, b = operands(rng, 60, 100, 60)
    cable = threading.Timer(0.3, board.close)
    cable.start()

    def run_until_it_dies() -> None:
        while True:
            device.gemm(a, b, SPEC)

    with pytest.raises(ConnectionLostError, match=r"^serial: connection lost: "):
        run_until_it_dies()
    cable.join()
    device.close()


def test_a_line_gone_silent_is_told_within_the_time_that_is_stated(board, rng) -> None:
    port = SerialPort(board.path, baud=3_000_000, name="serial")
    device = SerialDevice("serial", port, baud=3_000_000, reply_timeout_s=1.0, retries=2)
    board.faults = LineFaults(lose=1.0)
    start = time.monotonic()
    with pytest.raises(ConnectionLostError, match=r"^serial: connection lost: no answer to 3 repetitions"):
        device.gemm(*operands(rng, 3, 3, 3), SPEC)
    # The driver tries to reset the core once, besides.
    assert time.monotonic() - start < 2 * device.link.longest_silence_s + 2
    board.faults = LineFaults()
    assert_equal(device, *operands(rng, 3, 4, 5))
    device.close()


@pytest.mark.parametrize("name", ["shapes", "reset", "utilisation", "clock", "interrupt"])
def test_the_checklist_suits_a_serial_line(device, rng, name) -> None:
    """Nothing is asked that a small memory or a slow line cannot do; the other checks are the conformance suite's."""
    (check,) = (check for check in CHECKS if check.name == name)
    outcome = run_check(check, device, rng)
    assert outcome.state == ("ok" if name in ("shapes", "reset") else "not here"), outcome.seen


def test_a_training_step_gives_the_weights_of_the_emulator() -> None:
    import torch

    from halfulp.host.convert import convert

    weights = []
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    for name in ("serial-sim:2x2", "emulator"):
        torch.manual_seed(2)
        net = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        with open_device(name) as opened:
            convert(net, "int8", device=opened, seed=7)
            net(x).square().mean().backward()
            torch.optim.SGD(net.parameters(), 0.1).step()
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
