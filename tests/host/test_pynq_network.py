"""A board over the network: PYNQ's remote protocol on the loopback interface, answered by the virtual board."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynq.remote.buffer_pb2", reason="this pynq has no remote protocol")

from halfulp.host.device import open_device
from halfulp.host.errors import BusError, ConnectionLostError, DeviceError
from halfulp.host.pynq_device import PynqDevice
from halfulp.host.pynq_network import NetworkBoard, connect, remote_file_name
from halfulp.host.pynq_overlay import load_overlay
from halfulp.hw.config_file import config_toml
from halfulp.hw.handoff import PROCESSING_SYSTEMS
from halfulp.numerics.gemm import GemmSpec, golden_gemm
from halfulp.numerics.rounding import Rounding
from halfulp.sim.virtual_board_server import VirtualBoardServer, main
from halfulp.sim.virtual_overlay import virtual_overlay, write_virtual_overlay

from .golden_board import CONFIG, GoldenCore, golden_board

SPEC = GemmSpec("int8", "int8", out="int8", rounding=Rounding("stochastic", 8), scale=-6)


@pytest.fixture
def core_and_server():
    core, board = golden_board()
    with VirtualBoardServer(board) as server:
        yield core, server
    board.close()


@pytest.fixture
def core(core_and_server: Any) -> GoldenCore:
    return core_and_server[0]


@pytest.fixture
def server(core_and_server: Any) -> VirtualBoardServer:
    return core_and_server[1]


@pytest.fixture
def device(server: VirtualBoardServer):
    with open_device(f"pynq:{virtual_overlay(CONFIG)}@127.0.0.1:{server.port}", timeout_s=2.0) as device:
        yield device


def operands(rng: np.random.Generator, m: int = 5, n: int = 6, k: int = 7) -> tuple[Any, Any]:
    return rng.integers(0, 256, (m, k), np.uint8), rng.integers(0, 256, (k, n), np.uint8)


@pytest.mark.parametrize("ps", PROCESSING_SYSTEMS.names())
def test_gemms_over_the_network_equal_the_golden_model(rng: np.random.Generator, ps: str):
    core, board = golden_board(processing_system=ps)
    bit = virtual_overlay(CONFIG, processing_system=ps)
    with VirtualBoardServer(board) as server, open_device(f"pynq:{bit}@127.0.0.1:{server.port}") as device:
        assert device.config == CONFIG
        for m, n, k in [(1, 1, 1), (5, 6, 7), (16, 9, 33)]:
            a, b = operands(rng, m, n, k)
            result = device.gemm(a, b, SPEC, seed=k)
            np.testing.assert_array_equal(result.codes, golden_gemm(a, b, SPEC, seed=k).codes)
        device.close()
        assert core.fake.buffers == [], "all memory was given back"
    board.close()


def test_the_board_may_be_named_by_the_environment(server: VirtualBoardServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYNQ_REMOTE_DEVICES", f"127.0.0.1:{server.port}, 192.0.2.1")
    with open_device(f"pynq:{virtual_overlay(CONFIG)}") as device:
        assert device.config == CONFIG


def test_the_program_serves_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    file = tmp_path / "core.toml"
    file.write_text(config_toml(CONFIG))
    seen: list[Any] = []

    def wait(self: VirtualBoardServer) -> None:
        with open_device(f"pynq:{virtual_overlay(CONFIG)}@127.0.0.1:{self.port}") as device:
            seen.append(device.config)
        raise KeyboardInterrupt

    monkeypatch.setattr("halfulp.sim.virtual_board_server.RtlCore", GoldenCore)
    monkeypatch.setattr(VirtualBoardServer, "wait", wait)
    main([str(file), "--port", "0"])
    assert seen == [CONFIG]
    assert f"{CONFIG.name} at 127.0.0.1:" in capsys.readouterr().out


def test_the_bitstream_is_sent_once_for_each_content(server: VirtualBoardServer, tmp_path: Path):
    def firmware() -> set[str]:
        return {path for path in server.files if path.startswith("/lib/firmware/")}

    bit = write_virtual_overlay(tmp_path, CONFIG)
    hardware = connect(f"127.0.0.1:{server.port}")
    load_overlay(bit, device=hardware)
    (first,) = firmware()
    assert first.endswith(remote_file_name(str(bit)))
    bit.write_bytes(bit.read_bytes()[:-1] + b"\x00")
    load_overlay(bit, device=hardware)
    assert len(firmware() - {first}) == 1, "a new build under the old name has to be sent"
    assert server.files["/sys/class/fpga_manager/fpga0/firmware"].decode() == remote_file_name(str(bit))
    hardware.close()


def test_large_buffers_travel_in_parts(server: VirtualBoardServer, core: GoldenCore):
    hardware = connect(f"127.0.0.1:{server.port}")
    # More than one message of the protocol holds.
    buffer: Any = hardware.allocate((3 << 20,), np.uint8)
    buffer[:] = np.arange(3 << 20, dtype=np.uint32).astype(np.uint8)
    sent = np.array(buffer)
    buffer.flush()
    buffer[:] = 0
    buffer.invalidate()
    np.testing.assert_array_equal(np.asarray(buffer), sent)
    buffer.freebuffer()
    hardware.close()


def test_errors_of_the_board_are_the_same_from_afar(device: PynqDevice, core: GoldenCore, rng: np.random.Generator):
    a, b = operands(rng)
    core.fake.bad_addresses = range(1 << 40)
    with pytest.raises(BusError, match=r"the memory refused a read at 0x1234.*, in A"):
        device.gemm(a, b, SPEC)
    core.fake.bad_addresses = range(0)
    core.fake.unplugged = True
    with pytest.raises(ConnectionLostError, match=r"the board at 127\.0\.0\.1:\d+ reports: OSError: no such device"):
        device.gemm(a, b, SPEC)
    core.fake.unplugged = False
    with suppress(ConnectionLostError):  # the core's clock may have met this too, and then tells at the next access
        device.driver.reset()
    np.testing.assert_array_equal(device.gemm(a, b, SPEC).codes, golden_gemm(a, b, SPEC).codes)


def test_memory_that_runs_out_is_told(device: PynqDevice, rng: np.random.Generator):
    with pytest.raises(DeviceError, match=r"\d+ bytes of device memory are not to be had"):
        device.gemm(np.zeros((2048, 2048), np.uint8), np.zeros((2048, 4), np.uint8), SPEC)


def test_a_link_that_dies_in_a_gemm_is_told(
    device: PynqDevice, server: VirtualBoardServer, core: GoldenCore, rng: np.random.Generator
):
    core.hold.clear()
    threading.Timer(0.2, server.close).start()
    started = time.monotonic()
    with pytest.raises(ConnectionLostError, match=r"the board at 127\.0\.0\.1:\d+ does not answer: "):
        device.gemm(*operands(rng), SPEC)
    assert time.monotonic() - started < 10
    core.hold.set()


def test_a_board_that_freezes_is_told(server: VirtualBoardServer, core: GoldenCore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("halfulp.host.pynq_network.CALL_LIMIT_S", 0.3)
    with open_device(f"pynq:{virtual_overlay(CONFIG)}@127.0.0.1:{server.port}") as device:
        assert isinstance(device, PynqDevice)
        awake = threading.Event()
        read = core.fake.read
        monkeypatch.setattr(core.fake, "read", lambda offset: awake.wait(20) and read(offset))
        with pytest.raises(ConnectionLostError, match="does not answer: Deadline Exceeded"):
            device.driver.bus.read(0)
        awake.set()


def test_where_no_board_answers_it_says_so(monkeypatch: pytest.MonkeyPatch):
    def silent(self: Any, host: str, port: int) -> None:
        raise RuntimeError("Failed to connect to remote device")  # what PYNQ says after 5 s

    monkeypatch.setattr(NetworkBoard, "__init__", silent)
    with pytest.raises(ConnectionLostError, match=r"no PYNQ board answers at 192\.0\.2\.1:7967: is it on"):
        open_device(f"pynq:{virtual_overlay(CONFIG)}@192.0.2.1")


@pytest.mark.parametrize("address", [":7967", "board:x", ""])
def test_addresses_are_checked(address: str):
    with pytest.raises(ValueError, match=f"a board's address is HOST or HOST:PORT, not {address!r}"):
        connect(address)
