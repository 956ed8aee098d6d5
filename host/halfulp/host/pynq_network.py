"""A PYNQ board over the network, by PYNQ's own remote protocol. Needs the `pynq` package, 3.1 or newer, and gRPC."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from pynq.pl_server.remote_device import PYNQ_PORT, RemoteDevice

from halfulp.host.errors import ConnectionLostError

__all__ = ["NetworkBoard", "connect", "remote_file_name"]

CALL_LIMIT_S = 10.0
"""For a call, such as a register's: afterwards the board counts as lost."""

TRANSFER_LIMIT_S = 120.0
"""For a call that moves a buffer or a bitstream."""


class NetworkBoard(RemoteDevice):
    """A `pynq.Device` that reaches a board over the network.

    PYNQ's own, with a limit on how long any call may take, and without the state that PYNQ writes into its own
    installation: what a board has loaded does not concern the machine here.

    Parameters
    ----------
    host, port
        Where the board's server listens.
    """

    def __init__(self, host: str, port: int = PYNQ_PORT) -> None:
        super().__init__(ip_addr=host, port=port, tag=f"halfulp-{host}-{port}")
        limited = grpc.intercept_channel(self.client.channel, _TimeLimit())
        self._stub: dict[str, Any] = {name: type(stub)(limited) for name, stub in self._stub.items()}

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """Write nothing."""

    def shutdown(self) -> None:
        """Nothing of ours has to be shut down before another overlay is loaded."""

    def close(self) -> None:
        """Close the connection."""
        self.client.channel.close()


def connect(address: str) -> NetworkBoard:
    """Connect to ``HOST`` or ``HOST:PORT``; raise `ConnectionLostError` where no board answers."""
    host, _, port = address.strip().partition(":")
    if not host or (port and not port.isdecimal()):
        raise ValueError(f"a board's address is HOST or HOST:PORT, not {address!r}")
    try:
        return NetworkBoard(host, int(port or PYNQ_PORT))
    except (RuntimeError, grpc.RpcError) as error:
        raise ConnectionLostError(
            f"no PYNQ board answers at {host}:{port or PYNQ_PORT}: is it on, in this network, and does it run PYNQ's "
            "remote server?"
        ) from error


def remote_file_name(bitstream: str) -> str:
    """Under which name a board keeps a bitstream.

    PYNQ sends a file only where the board has none of its name: with the contents in the name, a new build is sent.
    """
    path = Path(bitstream)
    return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.bin"


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _TimeLimit(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Gives every call a limit."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_limited(client_call_details, CALL_LIMIT_S), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_limited(client_call_details, TRANSFER_LIMIT_S), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(_limited(client_call_details, TRANSFER_LIMIT_S), request_iterator)


def _limited(details: Any, limit_s: float) -> _CallDetails:
    return _CallDetails(
        details.method,
        details.timeout or limit_s,
        details.metadata,
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )
