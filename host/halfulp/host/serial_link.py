"""The host's end of the framed serial link: requests under way, repeated until answered. Standard library only."""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from halfulp.host.errors import ConnectionLostError, DeviceError, IdentificationError
from halfulp.host.serial_frames import REPLY_BYTES, REQUEST_BYTES, Reply, ReplyReader, frame_bytes, request_frame
from halfulp.hw.serial_protocol import LINK_INFO, LINK_MAGIC, LINK_VERSION, Command, LinkInfo, Status

__all__ = ["BytePort", "LinkStats", "SerialLink"]

MOST_UNDER_WAY = 16
"""Requests: few beside the 128 sequence numbers that the device takes for earlier ones."""

LARGEST_PAYLOAD = 32768
LINE_BITS = 10
"""Bits on the line a byte: start, eight of data, stop."""


class BytePort(Protocol):
    """A serial port. An OSError from any member means that it is gone."""

    def read(self, timeout_s: float) -> bytes:
        """What has come, at least one byte unless so many seconds have passed."""
        ...

    def write(self, raw: bytes) -> None:
        """Send all of these bytes."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


@dataclass
class LinkStats:
    """What a link has done: requests made, bytes in each direction, and how often requests had to be repeated."""

    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    recoveries: int = 0


@dataclass
class _Request:
    sequence: int
    frame: bytes
    reply_length: int
    parts: list[bytes] | None = field(default=None, repr=False)


class SerialLink:
    """Reads and writes registers and memory through a serial port, whatever the line does to single bytes.

    Writes are sent and not waited for; a read waits for all writes before it. Requests are numbered and answered in
    order. Where an answer is wrong or missing, the host waits until the line is quiet, sends as many zeros as end any
    frame that the device may be in, and repeats all that is unanswered; the device does nothing twice.

    Parameters
    ----------
    port
        Opened.
    baud
        Bits a second, for what a transfer takes.
    name
        What messages call the device.
    reply_timeout_s
        Seconds, besides the line's own, after which an answer counts as missing.
    retries
        Repetitions in a row without any progress before the link counts as dead.

    Attributes
    ----------
    info
        What the device told of itself.
    stats
        `LinkStats`.

    Raises
    ------
    IdentificationError
        Where nothing answers, or something else.
    """

    def __init__(
        self, port: BytePort, *, baud: float, name: str, reply_timeout_s: float = 0.25, retries: int = 10
    ) -> None:
        if not reply_timeout_s > 0:
            raise ValueError(f"reply_timeout_s must be positive, not {reply_timeout_s!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 1:
            raise ValueError(f"retries must be at least 1, not {retries!r}")
        self._port = port
        self._baud = baud
        self._name = name
        self._reply_timeout_s = reply_timeout_s
        self._retries = retries
        self._failures = 0
        self._is_lost = False
        self._under_way: deque[_Request] = deque()
        self._sequence = secrets.randbelow(256)
        self._reader = ReplyReader(max_payload=LARGEST_PAYLOAD)
        self.stats = LinkStats()
        # The least that a device has, until it tells.
        self.info = LinkInfo(LINK_MAGIC, LINK_VERSION, 64, 256, 0)
        self.info = self._identify()
        self._reader = ReplyReader(max_payload=self.info.max_payload)

    @property
    def longest_silence_s(self) -> float:
        """Seconds after which a dead link is told."""
        quiet = self._line_s(self._flush_bytes) + self._reply_timeout_s / 4
        return (self._retries + 1) * (self._reply_timeout_s + 2 * quiet + 2 * self._line_s(2 * self.info.buffer_bytes))

    def read(self, command: Command, address: int, length: int) -> bytes:
        """`length` bytes from `address` on; all writes before are done by then."""
        parts: list[bytes] = []
        step = self.info.max_payload
        # A repeated read would see what a write behind it has changed, so none may be before or behind.
        self.flush()
        for start in range(0, length, step):
            self._request(command, address + start, min(step, length - start), parts=parts)
        self.flush()
        return b"".join(parts)

    def write(self, command: Command, address: int, raw: bytes) -> None:
        """Write bytes from `address` on, in order with all other writes; what fails is told by a later call."""
        step = self.info.max_payload
        for start in range(0, len(raw), step):
            part = raw[start : start + step]
            self._request(command, address + start, len(part), part)

    def flush(self) -> None:
        """Wait until all is answered."""
        while self._under_way:
            self._await_reply()

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def _identify(self) -> LinkInfo:
        """Have the device count from here on; what it tells of itself."""
        parts: list[bytes] = []
        self._is_lost = False
        try:
            self._send_zeros()
            self._request(Command.IDENTIFY, 0, LINK_INFO.size, parts=parts)
            self.flush()
        except ConnectionLostError as error:
            if self.stats.received_bytes:
                told = "what comes back is no frame: another rate, or another device"
            else:
                told = "nothing comes back"
            raise IdentificationError(
                f"{self._name}: no halfulp core answers at {self._baud:g} baud ({told}); is the board's bitstream a "
                "core's, and its rate this one?"
            ) from error
        info = LinkInfo(*LINK_INFO.unpack(parts[0]))
        if info.magic != LINK_MAGIC or info.version != LINK_VERSION:
            raise IdentificationError(
                f"{self._name}: the link says {info.magic!r} version {info.version}, not {LINK_MAGIC!r} version "
                f"{LINK_VERSION}"
            )
        return info

    def _request(
        self, command: Command, address: int, length: int, payload: bytes = b"", *, parts: list[bytes] | None = None
    ) -> None:
        """Send a request as soon as the device has room for it; `parts` takes what is read."""
        if self._is_lost:
            # The device may not have seen the requests that were given up, and would wait for their numbers.
            self._identify()
        frame = request_frame(self._sequence, command, address, length, payload)
        while self._under_way and (
            len(self._under_way) >= MOST_UNDER_WAY
            or sum(len(r.frame) for r in self._under_way) + len(frame) > self.info.buffer_bytes
        ):
            self._await_reply()
        self._under_way.append(_Request(self._sequence, frame, 0 if payload else length, parts))
        self._sequence = (self._sequence + 1) & 0xFF
        self.stats.requests += 1
        self._send(frame)

    def _await_reply(self) -> None:
        """Wait until the oldest request is answered; repeat all where that does not happen in time."""
        oldest = self._under_way[0]
        outward = sum(len(r.frame) for r in self._under_way)
        timeout_s = self._reply_timeout_s + 2 * self._line_s(outward + frame_bytes(REPLY_BYTES, oldest.reply_length))
        give_up = time.monotonic() + timeout_s
        skipped = self._reader.skipped
        while self._under_way and self._under_way[0] is oldest:
            left = give_up - time.monotonic()
            received = self._receive(max(left, 0))
            is_wrong = False
            for reply in self._reader.feed(received):
                is_wrong |= not self._take(reply)
            is_wrong |= self._reader.skipped != skipped or (left <= 0 and not received)
            if is_wrong and self._under_way and self._under_way[0] is oldest:
                self._recover()
                return

    def _take(self, reply: Reply) -> bool:
        """Give a reply to its request; return whether nothing shows that one was lost."""
        if not self._under_way:
            return True
        if reply.status in (Status.CHECKSUM, Status.SEQUENCE):
            return False
        oldest = self._under_way[0]
        if reply.sequence != oldest.sequence:
            # Either of a repeated request that was answered in the meantime, or those in between were lost.
            return all(reply.sequence != request.sequence for request in self._under_way)
        if reply.status != Status.DONE:
            self._under_way.clear()
            status = Status(reply.status).name if reply.status in list(Status) else str(reply.status)
            raise DeviceError(f"{self._name}: the link refuses a request: {status}, {oldest.frame.hex()}")
        if len(reply.payload) != oldest.reply_length:
            return False
        self._under_way.popleft()
        self._failures = 0
        if oldest.parts is not None:
            oldest.parts.append(reply.payload)
        return True

    def _recover(self) -> None:
        """Bring both ends to the start of a frame, and repeat all that is unanswered."""
        self._failures += 1
        if self._failures > self._retries:
            count, self._failures = self._failures, 0
            self._lost(f"no answer to {count} repetitions")
        self.stats.recoveries += 1
        self._drain()
        self._send_zeros()
        for request in self._under_way:
            self._send(request.frame)

    @property
    def _flush_bytes(self) -> int:
        """Enough to end the longest frame."""
        return frame_bytes(REQUEST_BYTES, self.info.max_payload)

    def _send_zeros(self) -> None:
        self._send(bytes(self._flush_bytes))
        # The device may answer that a frame was wrong.
        self._drain()

    def _drain(self) -> None:
        """Drop what comes until nothing does for as long as zeros take, and a little."""
        quiet_s = self._line_s(self._flush_bytes) + self._reply_timeout_s / 4
        give_up = time.monotonic() + self._reply_timeout_s + self._line_s(2 * self.info.buffer_bytes)
        while self._receive(quiet_s) and time.monotonic() < give_up:
            pass
        self._reader.clear()

    def _line_s(self, nbytes: int) -> float:
        return nbytes * LINE_BITS / self._baud

    def _send(self, raw: bytes) -> None:
        try:
            self._port.write(raw)
        except OSError as error:
            self._lost(str(error), error)
        self.stats.sent_bytes += len(raw)

    def _receive(self, timeout_s: float) -> bytes:
        try:
            raw = self._port.read(timeout_s)
        except OSError as error:
            self._lost(str(error), error)
        self.stats.received_bytes += len(raw)
        return raw

    def _lost(self, why: str, cause: OSError | None = None) -> NoReturn:
        self._is_lost = True
        self._under_way.clear()
        raise ConnectionLostError(f"{self._name}: connection lost: {why}") from cause
