"""Frames of the serial link in bytes: requests made, replies found in what comes. Standard library only."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from halfulp.hw.serial_protocol import CHECK_BYTES, REPLY_HEADER, REQUEST_HEADER, SYNC, Command

__all__ = ["REPLY_BYTES", "REQUEST_BYTES", "Reply", "ReplyReader", "frame_bytes", "request_frame"]

REQUEST_BYTES = REQUEST_HEADER.size + CHECK_BYTES
"""Of a request without a payload."""

REPLY_BYTES = REPLY_HEADER.size + CHECK_BYTES
"""Of a reply without a payload."""


class Reply(NamedTuple):
    """A whole reply, its checksums right; status is the number of a `Status`."""

    sequence: int
    status: int
    payload: bytes


def frame_bytes(empty: int, payload: int) -> int:
    """Length of a frame that has `empty` bytes without a payload, with one of `payload` bytes."""
    return empty + (payload + CHECK_BYTES if payload else 0)


def request_frame(sequence: int, command: Command, address: int, length: int, payload: bytes = b"") -> bytes:
    """A request; `length` is that of the payload, or of what is to be read."""
    header = REQUEST_HEADER.pack(SYNC, sequence, command, length, address)
    frame = header + _check(header[1:])
    return frame + payload + _check(payload) if payload else frame


class ReplyReader:
    """Finds replies in a stream of bytes in which some may be wrong, missing, or double.

    Attributes
    ----------
    skipped
        Bytes dropped so far because they began no whole reply.
    """

    def __init__(self, *, max_payload: int) -> None:
        self._max_payload = max_payload
        self._bytes = bytearray()
        self.skipped = 0

    def clear(self) -> None:
        """Forget the beginning of a reply."""
        self._bytes.clear()

    def feed(self, received: bytes) -> Iterator[Reply]:
        """Take bytes and give the replies that they complete."""
        self._bytes += received
        while (start := self._bytes.find(SYNC)) >= 0:
            self._skip(start)
            if len(self._bytes) < REPLY_BYTES:
                return
            header = bytes(self._bytes[1 : REPLY_HEADER.size])
            _, sequence, status, length = REPLY_HEADER.unpack_from(self._bytes)
            check = bytes(self._bytes[REPLY_HEADER.size : REPLY_BYTES])
            if check != _check(header) or length > self._max_payload:
                self._skip(1)
                continue
            whole = frame_bytes(REPLY_BYTES, length)
            if len(self._bytes) < whole:
                return
            payload = bytes(self._bytes[REPLY_BYTES : REPLY_BYTES + length])
            if length and self._bytes[REPLY_BYTES + length : whole] != _check(payload):
                self._skip(1)
                continue
            del self._bytes[:whole]
            yield Reply(sequence, status, payload)
        self._skip(len(self._bytes))

    def _skip(self, count: int) -> None:
        del self._bytes[:count]
        self.skipped += count


def _check(raw: bytes) -> bytes:
    return zlib.crc32(raw).to_bytes(CHECK_BYTES, "little")
