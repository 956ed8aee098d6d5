"""The virtual board on the network, by PYNQ's own remote protocol: answers a `pynq` of 3.1 or newer as a board does.

As a program it serves one board until it is interrupted::

    python -m halfulp.sim.virtual_board_server CONFIG.toml --port 7967
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)

from halfulp.hw.config_file import load_config
from halfulp.hw.handoff import default_processing_system
from halfulp.sim.rtl import RtlCore
from halfulp.sim.virtual_board import VirtualBoard

__all__ = ["VirtualBoardServer"]

CHUNK_BYTES = 2 << 20
"""Of a streamed buffer; a message of gRPC has at most 4 MiB."""


class VirtualBoardServer:
    """Serves a virtual board; a context manager, which stops it.

    Parameters
    ----------
    board
        What is served; it is not closed with the server.
    host, port
        Where to listen; port 0 chooses a free one.

    Attributes
    ----------
    port
        Where it listens.
    files
        The board's file system: what has been written to which path.
    """

    def __init__(self, board: VirtualBoard, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.files: dict[str, bytes] = {
            "/proc/version": f"Linux version 5.15.19 ({board.arch})".encode(),
            "/proc/device-tree/chosen/pynq_board": b"virtual\0",
        }
        # One worker: a simulated core serves one caller at a time anyhow.
        self._server = grpc.server(ThreadPoolExecutor(1, thread_name_prefix="halfulp-board-server"))
        remote_device_pb2_grpc.add_RemoteDeviceServicer_to_server(_Files(self.files), self._server)
        mmio_pb2_grpc.add_MmioServicer_to_server(_Registers(board), self._server)
        buffer_pb2_grpc.add_RemoteBufferServicer_to_server(_Buffers(board), self._server)
        self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        self._server.start()

    def wait(self) -> None:
        """Serve until another thread stops it."""
        self._server.wait_for_termination()

    def close(self) -> None:
        """Stop at once; calls in progress fail."""
        self._server.stop(None).wait()

    def __enter__(self) -> VirtualBoardServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Files(remote_device_pb2_grpc.RemoteDeviceServicer):
    """Files, by which PYNQ sends bitstreams and has them loaded."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def existsfile(self, request: Any, context: Any) -> Any:
        return remote_device_pb2.ExistsFileResponse(exists=request.file_path in self._files)

    def readfile(self, request: Any, context: Any) -> Iterator[Any]:
        if request.file_path not in self._files:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.file_path} does not exist")
        yield from (remote_device_pb2.ReadFileResponse(data=part) for part in _chunks(self._files[request.file_path]))

    def writefile(self, request_iterator: Iterator[Any], context: Any) -> Any:
        for number, request in enumerate(request_iterator):
            before = self._files[request.file_path] if number else b""
            self._files[request.file_path] = before + request.data
        return remote_device_pb2.WriteFileResponse()

    def set_bitstream_attrs(self, request: Any, context: Any) -> Any:
        return remote_device_pb2.SetBitstreamAttrsResponse(status=True)


class _Registers(mmio_pb2_grpc.MmioServicer):
    """Registers, in windows that the other side has opened."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self._windows: dict[str, int] = {}

    def get_mmio(self, request: Any, context: Any) -> Any:
        number = str(len(self._windows))
        self._windows[number] = request.base_addr
        return mmio_pb2.GetMmioResponse(status=True, mmio_id=number)

    def read(self, request: Any, context: Any) -> Any:
        try:
            raw = self._board.read_registers(self._windows[request.mmio_id] + request.offset, request.length)
        except Exception as error:
            return mmio_pb2.ReadResponse(status=False, msg=_told(error))
        return mmio_pb2.ReadResponse(status=True, data=int.from_bytes(raw, "little"))

    def write(self, request: Any, context: Any) -> Any:
        try:
            self._board.write_registers(self._windows[request.mmio_id] + request.offset, request.data)
        except Exception as error:
            return mmio_pb2.WriteResponse(status=False, msg=_told(error))
        return mmio_pb2.WriteResponse(status=True)


class _Buffers(buffer_pb2_grpc.RemoteBufferServicer):
    """Buffers of the board's memory."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self._numbers = itertools.count()
        self._buffers: dict[str, Any] = {}

    def allocate(self, request: Any, context: Any) -> Any:
        try:
            buffer = self._board.allocate((request.size,), np.uint8)
        except MemoryError as error:
            return buffer_pb2.AllocateResponse(msg=_told(error))
        number = str(next(self._numbers))
        self._buffers[number] = buffer
        return buffer_pb2.AllocateResponse(buffer_id=number)

    def write(self, request_iterator: Iterator[Any], context: Any) -> Any:
        start = 0
        for request in request_iterator:
            buffer = self._buffers[request.buffer_id]
            buffer[start : start + len(request.data)] = np.frombuffer(request.data, np.uint8)
            start += len(request.data)
        return buffer_pb2.BufferWriteResponse()

    def read(self, request: Any, context: Any) -> Iterator[Any]:
        raw = self._buffers[request.buffer_id].tobytes()
        yield from (buffer_pb2.BufferReadResponse(data=part) for part in _chunks(raw))

    def flush(self, request: Any, context: Any) -> Any:
        self._buffers[request.buffer_id].flush()
        return buffer_pb2.FlushResponse()

    def invalidate(self, request: Any, context: Any) -> Any:
        self._buffers[request.buffer_id].invalidate()
        return buffer_pb2.InvalidateResponse()

    def physical_address(self, request: Any, context: Any) -> Any:
        if request.buffer_id not in self._buffers:
            return buffer_pb2.AddressResponse(msg="there is no such buffer: memory may have run out")
        return buffer_pb2.AddressResponse(address=self._buffers[request.buffer_id].device_address)

    def freebuffer(self, request: Any, context: Any) -> Any:
        self._buffers.pop(request.buffer_id, None)
        return buffer_pb2.FreeBufferResponse()


def _chunks(raw: bytes) -> Iterator[bytes]:
    return (raw[i : i + CHUNK_BYTES] for i in range(0, len(raw), CHUNK_BYTES))


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the board that the command line asks for."""
    parser = argparse.ArgumentParser(description="Serve a virtual PYNQ board on the network.")
    parser.add_argument("config", help="configuration file of the core (TOML)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=7967, help="port to listen on (default %(default)s, PYNQ's)")
    chosen = parser.parse_args(arguments)
    config = load_config(chosen.config)
    board = VirtualBoard(RtlCore(config), processing_system=default_processing_system(config), name=config.name)
    try:
        with VirtualBoardServer(board, host=chosen.host, port=chosen.port) as server:
            print(f"{config.name} at {chosen.host}:{server.port}", flush=True)
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        board.close()


if __name__ == "__main__":
    main()
