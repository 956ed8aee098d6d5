"""The rules of the core's memory bus, checked clock by clock from the values of its signals; no simulator needed.

They are those of AXI4 (ARM IHI 0022, part A) and the core's own: INCR bursts of whole bus words, at most 16 beats, one
id, one kind of access, bytes of a burst's results in one run, and so many bursts under way at the most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

__all__ = ["MAX_BEATS", "REQUEST", "BusRuleError", "ReadRules", "SeenBurst", "WriteRules"]

MAX_BEATS = 16
PAGE = 4096
OKAY, EXCLUSIVE_OKAY = 0, 1

REQUEST = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos")
"""What stands on a request channel, by the standard's names less the channel's."""

_FIXED = {"id": 0, "burst": 1, "lock": 0, "cache": 0b0011, "prot": 0, "qos": 0}


class BusRuleError(AssertionError):
    """A rule of the memory bus was broken, by the core or by the bench's memory."""


@dataclass(frozen=True)
class SeenBurst:
    """A burst as it was requested."""

    address: int
    beats: int


class _Channels(ABC):
    """What both directions have in common: reset, stability, requests."""

    request: str
    driven: tuple[str, ...]
    """Channels whose valid the core drives."""

    def __init__(self, *, bus_bytes: int, outstanding: int) -> None:
        self.bus_bytes = bus_bytes
        self.outstanding = outstanding
        self.bursts: list[SeenBurst] = []
        self._held: dict[str, tuple[int, ...]] = {}
        self._in_reset = False

    def step(self, now: Mapping[str, int]) -> None:
        """Check a clock: signals by their AXI names in lower case, as they are at its edge, and `aresetn`.

        Raises
        ------
        BusRuleError
            Says which rule was broken, and by what.
        """
        if not now["aresetn"]:
            # A core with a synchronous reset is quiet from the first edge in it on.
            self._quiet(now, "during reset")
            self._held.clear()
            self._forget()
            self._in_reset = True
            return
        if self._in_reset:
            self._quiet(now, "at the first edge after reset")
        self._in_reset = False
        self._step(now)

    def _quiet(self, now: Mapping[str, int], when: str) -> None:
        for channel in self.driven if self._in_reset else ():
            if now[f"{channel}valid"]:
                self._fail(f"{channel.upper()}VALID is 1 {when}")

    @abstractmethod
    def _step(self, now: Mapping[str, int]) -> None:
        """Check one clock out of reset."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop what was under way: a reset has begun."""

    def _taken(self, channel: str, fields: tuple[str, ...], now: Mapping[str, int]) -> bool:
        """Check that what was not taken before stands unchanged; return whether it is taken now."""
        valid, ready = now[f"{channel}valid"], now[f"{channel}ready"]
        before = self._held.pop(channel, None)
        name = channel.upper()
        if before is not None and not valid:
            self._fail(f"{name}VALID fell before {name}READY")
        if not valid:
            return False
        payload = tuple(now[f"{channel}{field}"] for field in fields)
        if before is not None and before != payload:
            changed = [field for field, old, new in zip(fields, before, payload, strict=True) if old != new]
            self._fail(f"{name}{changed[0].upper()} changed before {name}READY: {before} to {payload}")
        if not ready:
            self._held[channel] = payload
        return bool(ready)

    def _take_request(self, now: Mapping[str, int]) -> SeenBurst:
        """Check a request that is taken in this clock."""
        channel = self.request
        request = {field: now[f"{channel}{field}"] for field in REQUEST}
        address, beats = request["addr"], request["len"] + 1
        name = f"{channel.upper()} burst of {beats} beats at {address:#x}"
        if beats > MAX_BEATS:
            self._fail(f"{name} is longer than {MAX_BEATS}")
        if 1 << request["size"] != self.bus_bytes:
            self._fail(f"{name} is not of the bus's width: size {request['size']}")
        if address % self.bus_bytes:
            self._fail(f"{name} does not begin with a bus word")
        if address // PAGE != (address + beats * self.bus_bytes - 1) // PAGE:
            self._fail(f"{name} crosses 4 KiB")
        for field, wanted in _FIXED.items():
            if request[field] != wanted:
                self._fail(f"{name} has {channel.upper()}{field.upper()} {request[field]}, not {wanted}")
        burst = SeenBurst(address, beats)
        self.bursts.append(burst)
        return burst

    def _fail(self, message: str) -> NoReturn:
        raise BusRuleError(message)


class ReadRules(_Channels):
    """Checks the channels AR and R.

    Parameters
    ----------
    bus_bytes
        Of a bus word.
    outstanding
        Most bursts that may be requested and not yet complete.

    Attributes
    ----------
    bursts
        All that were requested; who reads it may empty it.
    beats
        Data beats taken.
    """

    request = "ar"
    driven = ("ar",)

    def __init__(self, *, bus_bytes: int, outstanding: int) -> None:
        super().__init__(bus_bytes=bus_bytes, outstanding=outstanding)
        self.beats = 0
        self._open: deque[SeenBurst] = deque()
        self._beat = 0

    @property
    def idle(self) -> bool:
        """Every burst is answered."""
        return not self._open

    def _forget(self) -> None:
        self._open.clear()
        self._beat = 0

    def _step(self, now: Mapping[str, int]) -> None:
        # Data answer requests of earlier clocks.
        if self._taken("r", ("id", "data", "resp", "last"), now):
            self._take_data(now)
        if self._taken("ar", REQUEST, now):
            self._open.append(self._take_request(now))
            if len(self._open) > self.outstanding:
                self._fail(f"{len(self._open)} reads are outstanding, more than {self.outstanding}")

    def _take_data(self, now: Mapping[str, int]) -> None:
        if not self._open:
            self._fail("R data without a request")
        burst = self._open[0]
        self.beats += 1
        self._beat += 1
        if now["rid"] or now["rresp"] == EXCLUSIVE_OKAY:
            self._fail(f"R data have RID {now['rid']} and RRESP {now['rresp']}")
        if now["rlast"] != (self._beat == burst.beats):
            self._fail(f"RLAST is {now['rlast']} in beat {self._beat} of {burst.beats} at {burst.address:#x}")
        if now["rlast"]:
            self._open.popleft()
            self._beat = 0


class WriteRules(_Channels):
    """Checks the channels AW, W and B; as `ReadRules`. Data may be one burst ahead of their request.

    The bytes that a burst writes are one run: what leaves the core is part of a row of results.
    """

    request = "aw"
    driven = ("aw", "w")

    def __init__(self, *, bus_bytes: int, outstanding: int) -> None:
        super().__init__(bus_bytes=bus_bytes, outstanding=outstanding)
        self.beats = 0
        # Requested and not sent whole; sent whole, by their beats, and not requested; complete and not answered.
        self._promised: deque[SeenBurst] = deque()
        self._sent: deque[int] = deque()
        self._unanswered = 0
        self._beat = 0
        self._run = ""

    @property
    def idle(self) -> bool:
        """Every burst is answered, and no data were written that no request announced."""
        return not (self._unanswered or self._promised or self._sent or self._beat)

    def _forget(self) -> None:
        self._promised.clear()
        self._sent.clear()
        self._unanswered = self._beat = 0
        self._run = ""

    def _step(self, now: Mapping[str, int]) -> None:
        if self._taken("b", ("id", "resp"), now):
            if not self._unanswered:
                self._fail("B response without a complete burst")
            if now["bid"] or now["bresp"] == EXCLUSIVE_OKAY:
                self._fail(f"B response has BID {now['bid']} and BRESP {now['bresp']}")
            self._unanswered -= 1
        if self._taken("aw", REQUEST, now):
            self._promised.append(self._take_request(now))
            count = len(self._promised) + self._unanswered
            if count > self.outstanding:
                self._fail(f"{count} writes are outstanding, more than {self.outstanding}")
        if self._taken("w", ("data", "strb", "last"), now):
            self._take_data(now["wstrb"], last=bool(now["wlast"]))
        self._match()

    def _take_data(self, strobes: int, *, last: bool) -> None:
        self.beats += 1
        self._beat += 1
        self._run += f"{strobes:0{self.bus_bytes}b}"[::-1]
        if self._beat > MAX_BEATS:
            self._fail(f"no WLAST in {MAX_BEATS} beats")
        if self._sent:
            self._fail("W data are more than a burst ahead of their request")
        if "1" in self._run.strip("0") and "0" in self._run.strip("0"):
            self._fail(f"WSTRB of a burst are not one run of bytes: {self._run}")
        if last:
            self._sent.append(self._beat)
            self._beat, self._run = 0, ""

    def _match(self) -> None:
        while self._promised and self._sent:
            burst, sent = self._promised.popleft(), self._sent.popleft()
            if burst.beats != sent:
                self._fail(f"WLAST at beat {sent} of a burst of {burst.beats} at {burst.address:#x}")
            self._unanswered += 1
        if self._promised and self._beat >= self._promised[0].beats:
            self._fail(f"no WLAST at beat {self._beat} of a burst of {self._promised[0].beats}")
