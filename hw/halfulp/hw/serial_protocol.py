"""The framed serial link, as both of its ends know it: bytes, commands, statuses. Standard library only.

A request is a header of `REQUEST_HEADER`, its CRC-32, and, of a command that writes, `length` bytes and their
CRC-32. A reply is a header of `REPLY_HEADER`, its CRC-32, and, where its `length` is not 0, so many bytes and their
CRC-32. Numbers are little-endian; the CRC is that of zlib (CRC-32/ISO-HDLC); a header's leaves out the sync byte.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

__all__ = [
    "CHECK_BYTES",
    "LINK_INFO",
    "LINK_MAGIC",
    "LINK_VERSION",
    "REPLY_HEADER",
    "REQUEST_HEADER",
    "SYNC",
    "Command",
    "LinkInfo",
    "Status",
]

SYNC = 0xA5
"""First byte of each frame."""

REQUEST_HEADER = struct.Struct("<BBBHI")
"""sync, sequence, command, length, address."""

REPLY_HEADER = struct.Struct("<BBBH")
"""sync, sequence, status, length."""

CHECK_BYTES = 4

LINK_MAGIC = b"hulS"
LINK_VERSION = 1
LINK_INFO = struct.Struct("<4sHHII")
"""What `Command.IDENTIFY` reads: magic, version, largest payload, receive buffer and memory in bytes."""


class LinkInfo(NamedTuple):
    """The fields of `LINK_INFO`."""

    magic: bytes
    version: int
    max_payload: int
    buffer_bytes: int
    memory_bytes: int


class Command(enum.IntEnum):
    """What a request asks for. Bit 0: it writes; bits 2:1: what is addressed (the link itself, registers, memory).

    IDENTIFY makes its sequence number the one that the next request's follows, whatever came before. Registers are
    read in whole words and written one word at a time; memory is read and written from any byte on.
    """

    IDENTIFY = 0b000
    READ_REGISTERS = 0b010
    WRITE_REGISTER = 0b011
    READ_MEMORY = 0b100
    WRITE_MEMORY = 0b101


class Status(enum.IntEnum):
    """How a request ended.

    After anything but DONE nothing was changed, except that memory may hold wrong bytes where a WRITE_MEMORY with a
    wrong checksum wanted to write.
    """

    DONE = 0
    CHECKSUM = 1
    SEQUENCE = 2
    COMMAND = 3
    RANGE = 4
