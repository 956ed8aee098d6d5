"""Replies found in a damaged stream, and GEMMs cut to fit: by chance and by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfulp.host.gemm_parts import cut_gemm
from halfulp.host.serial_frames import Reply, ReplyReader, request_frame
from halfulp.hw.serial_protocol import REPLY_HEADER, SYNC, Command
from halfulp.sim.serial_board import LineFaults


def reply_frame(reply: Reply) -> bytes:
    import zlib

    header = REPLY_HEADER.pack(SYNC, reply.sequence, reply.status, len(reply.payload))
    parts = (header[1:], reply.payload) if reply.payload else (header[1:],)
    return bytes([SYNC]) + b"".join(part + zlib.crc32(part).to_bytes(4, "little") for part in parts)


REPLIES = st.builds(Reply, st.integers(0, 255), st.integers(0, 4), st.binary(max_size=40))


@given(replies=st.lists(REPLIES, max_size=6), cut=st.integers(1, 20))
def test_replies_are_found_however_they_are_cut(replies: list[Reply], cut: int) -> None:
    reader = ReplyReader(max_payload=64)
    raw = b"".join(map(reply_frame, replies))
    found = [reply for start in range(0, len(raw), cut) for reply in reader.feed(raw[start : start + cut])]
    assert found == replies
    assert reader.skipped == 0


@pytest.mark.parametrize("chance", [0.003, 0.03])
def test_no_reply_is_made_of_damage(rng: np.random.Generator, chance: float) -> None:
    """What is found was sent, in its order; and much of what was sent is found."""
    sent = [Reply(n & 255, n % 5, rng.bytes(int(rng.integers(0, 60)))) for n in range(600)]
    damaged = LineFaults(chance, chance, chance, chance).apply(b"".join(map(reply_frame, sent)), rng)
    reader = ReplyReader(max_payload=64)
    found = list(reader.feed(damaged))
    rest = iter(sent)
    assert all(reply in rest for reply in found)
    assert 0 < reader.skipped < len(damaged)
    assert len(found) > (250 if chance < 0.01 else 5)


def test_a_request_in_bytes() -> None:
    assert request_frame(7, Command.READ_MEMORY, 0x0102, 3).hex() == "a50704030002010000" + "7122f7b6"


@given(m=st.integers(1, 200), n=st.integers(1, 200), k=st.integers(1, 400), room=st.integers(64, 40_000))
def test_parts_cover_c_once_begin_at_multiples_of_8_and_fit(m: int, n: int, k: int, room: int) -> None:
    def needed(rows: int, columns: int) -> tuple[int, int, int]:
        return rows * k, columns * k, rows * columns * 4

    if sum(needed(min(m, 8), min(n, 8))) > room:
        with pytest.raises(
            MemoryError, match=rf"a part of {min(m, 8)} × {min(n, 8)} results needs \d+ bytes, of {room}"
        ):
            list(cut_gemm(m, n, needed, room))
        return
    covered = np.zeros((m, n), int)
    for rows, columns in cut_gemm(m, n, needed, room):
        assert rows.start % 8 == columns.start % 8 == 0
        assert sum(needed(rows.stop - rows.start, columns.stop - columns.start)) <= room
        covered[rows, columns] += 1
    assert (covered == 1).all()


def test_one_part_where_all_fits() -> None:
    assert list(cut_gemm(30, 50, lambda m, n: (m, n, 0), 80)) == [(slice(0, 30), slice(0, 50))]


@pytest.mark.parametrize("chances", [(-0.1,), (0.6, 0.5)])
def test_chances_are_chances(chances: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="chances must be 0 or more, and together at most 1"):
        LineFaults(*chances)
