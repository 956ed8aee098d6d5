"""The checker of the memory bus objects to each rule that is broken, and to nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from halfulp.sim.bench.bus_rules import BusRuleError, ReadRules, SeenBurst, WriteRules

IDLE = {f"{channel}{side}": 0 for channel in ("ar", "r", "aw", "w", "b") for side in ("valid", "ready")}
BURST = {"id": 0, "addr": 0x1000, "len": 2, "size": 3, "burst": 1, "lock": 0, "cache": 3, "prot": 0, "qos": 0}


def clock(*channels: dict[str, int], aresetn: int = 1) -> dict[str, int]:
    """One clock: what happens on some channels."""
    now = IDLE | {"aresetn": aresetn}
    for channel in channels:
        now |= channel
    return now


def request(channel: str, *, ready: int = 1, **fields: int) -> dict[str, int]:
    values = {f"{channel}{field}": value for field, value in (BURST | fields).items()}
    return values | {f"{channel}valid": 1, f"{channel}ready": ready}


def data(*, last: int = 0, ready: int = 1, **fields: int) -> dict[str, int]:
    values = {"rid": 0, "rdata": 7, "rresp": 0, "rlast": last, "rvalid": 1, "rready": ready}
    return values | {f"r{name}": value for name, value in fields.items()}


def word(strobes: int = 0xFF, *, last: int = 0, ready: int = 1, value: int = 5) -> dict[str, int]:
    return {"wdata": value, "wstrb": strobes, "wlast": last, "wvalid": 1, "wready": ready}


def answer(*, ready: int = 1, bid: int = 0, bresp: int = 0) -> dict[str, int]:
    return {"bid": bid, "bresp": bresp, "bvalid": 1, "bready": ready}


AR, AW = request("ar"), request("aw")
READ = [clock(AR), clock(data()), clock(), clock(data()), clock(data(last=1))]
WRITE = [clock(AW), clock(word()), clock(word()), clock(word(last=1)), clock(answer())]


def rules(kind: str) -> ReadRules | WriteRules:
    chosen = ReadRules if kind == "read" else WriteRules
    return chosen(bus_bytes=8, outstanding=2)


def play(kind: str, clocks: Iterable[dict[str, int]]) -> ReadRules | WriteRules:
    checker = rules(kind)
    for now in clocks:
        checker.step(now)
    return checker


def test_good_reads_pass() -> None:
    stalled = [clock(request("ar", ready=0)), clock(request("ar", ready=0)), *READ]
    together = [clock(AR), clock(AR, data()), clock(data()), clock(data(last=1, ready=0)), *READ[4:], *READ[1:]]
    failed = [clock(AR), clock(data(resp=2)), clock(data(resp=3)), clock(data(last=1))]
    at_the_page = [clock(request("ar", addr=0x1FE8)), *READ[1:]]
    cut_short = [clock(AR), clock(AR, data()), clock(aresetn=0), clock(aresetn=0), clock()]
    checker = play("read", [*stalled, *together, *failed, *at_the_page, *cut_short, *READ])
    assert checker.idle
    assert checker.bursts.count(SeenBurst(0x1000, 3)) == 7
    assert not play("read", [clock(AR)]).idle


def test_good_writes_pass() -> None:
    ahead = [clock(word()), clock(word()), clock(word(last=1)), clock(AW), clock(answer())]
    run = [clock(AW, word(0xF0)), clock(word()), clock(word(0x01, last=1)), clock(answer(ready=0)), clock(answer())]
    one = [clock(request("aw", len=0), word(0x3C, last=1)), clock(answer(bresp=2))]
    given_up = [clock(AW), clock(word(0xC0)), clock(word(0)), clock(word(0, last=1)), clock(answer(bresp=3))]
    cut_short = [clock(AW, word()), clock(AW, word(), aresetn=0), clock(aresetn=0), clock()]
    checker = play("write", [*WRITE, *ahead, *run, *one, *given_up, *cut_short, *WRITE])
    assert checker.idle
    assert not play("write", [clock(word())]).idle
    assert not play("write", [clock(AW)]).idle
    assert not play("write", WRITE[:-1]).idle


BROKEN = [
    ("INCR", {"burst": 2}, "has {}BURST 2, not 1"),
    ("no lock", {"lock": 1}, "has {}LOCK 1, not 0"),
    ("cache", {"cache": 2}, "has {}CACHE 2, not 3"),
    ("prot", {"prot": 1}, "has {}PROT 1, not 0"),
    ("qos", {"qos": 4}, "has {}QOS 4, not 0"),
    ("one id", {"id": 1}, "has {}ID 1, not 0"),
    ("16 beats", {"len": 16}, "burst of 17 beats at 0x1000 is longer than 16"),
    ("width", {"size": 2}, "is not of the bus's width: size 2"),
    ("alignment", {"addr": 0x1004}, "at 0x1004 does not begin with a bus word"),
    ("4 KiB", {"addr": 0x1FF0}, "burst of 3 beats at 0x1ff0 crosses 4 KiB"),
]


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize(("fields", "message"), [rest[1:] for rest in BROKEN], ids=[rule[0] for rule in BROKEN])
def test_a_wrong_request_is_found(kind: str, fields: dict[str, int], message: str) -> None:
    channel = {"read": "ar", "write": "aw"}[kind]
    with pytest.raises(BusRuleError, match=message.format(channel.upper())):
        play(kind, [clock(request(channel, **fields))])


@pytest.mark.parametrize(
    ("kind", "channel", "field"),
    [
        *(("read", "ar", field) for field in BURST),
        *(("write", "aw", field) for field in BURST),
        *(("write", "w", field) for field in ("data", "strb", "last")),
        *(("read", "r", field) for field in ("id", "data", "resp", "last")),
        *(("write", "b", field) for field in ("id", "resp")),
    ],
)
def test_what_is_offered_stays_until_it_is_taken(kind: str, channel: str, field: str) -> None:
    offers = {"ar": AR, "aw": AW, "w": word(), "r": data(), "b": answer()}
    before = {"r": [clock(AR)], "b": WRITE[:-1]}.get(channel, [])
    waiting = offers[channel] | {f"{channel}ready": 0}
    name = f"{channel}{field}"
    changed = offers[channel] | {name: offers[channel][name] + 1}
    with pytest.raises(BusRuleError, match=f"{name.upper()} changed before {channel.upper()}READY"):
        play(kind, [*before, clock(waiting), clock(changed)])
    with pytest.raises(BusRuleError, match=f"{channel.upper()}VALID fell before {channel.upper()}READY"):
        play(kind, [*before, clock(waiting), clock()])


@pytest.mark.parametrize(
    ("kind", "clocks", "message"),
    [
        ("read", [clock(AR), clock(AR), clock(AR)], "3 reads are outstanding, more than 2"),
        ("read", [clock(data())], "R data without a request"),
        ("read", [clock(AR, data())], "R data without a request"),
        ("read", [*READ, clock(data())], "R data without a request"),
        ("read", [clock(AR), clock(data(id=1))], "R data have RID 1"),
        ("read", [clock(AR), clock(data(resp=1))], "R data have RID 0 and RRESP 1"),
        ("read", [clock(AR), clock(data(last=1))], "RLAST is 1 in beat 1 of 3"),
        ("read", [*READ[:-1], clock(data())], "RLAST is 0 in beat 3 of 3"),
        ("write", [clock(AW), clock(AW), clock(AW)], "3 writes are outstanding, more than 2"),
        ("write", [*WRITE[:-1], *WRITE[:-1], clock(AW)], "3 writes are outstanding"),
        ("write", [clock(answer())], "B response without a complete burst"),
        ("write", [*WRITE[:3], clock(answer())], "B response without a complete burst"),
        ("write", [*WRITE[1:4], clock(answer())], "B response without a complete burst"),
        ("write", [*WRITE[:-1], clock(answer(bid=1))], "B response has BID 1"),
        ("write", [*WRITE[:-1], clock(answer(bresp=1))], "B response has BID 0 and BRESP 1"),
        ("write", [clock(AW), clock(word(last=1))], "WLAST at beat 1 of a burst of 3 at 0x1000"),
        ("write", [clock(word(last=1)), clock(AW)], "WLAST at beat 1 of a burst of 3 at 0x1000"),
        ("write", [*WRITE[:3], clock(word())], "no WLAST at beat 3 of a burst of 3"),
        ("write", [clock(word())] * 17, "no WLAST in 16 beats"),
        ("write", [*WRITE[1:4], clock(word())], "W data are more than a burst ahead of their request"),
        ("write", [clock(AW), clock(word(0xF0)), clock(word(0xFE))], "WSTRB of a burst are not one run of bytes"),
        ("write", [clock(AW), clock(word(0x0F)), clock(word(0x01))], "WSTRB of a burst are not one run of bytes"),
    ],
)
def test_a_broken_order_is_found(kind: str, clocks: list[dict[str, int]], message: str) -> None:
    with pytest.raises(BusRuleError, match=message):
        play(kind, clocks)


@pytest.mark.parametrize(("kind", "offer"), [("read", AR), ("write", AW), ("write", word())])
def test_nothing_is_offered_in_reset_or_at_its_end(kind: str, offer: dict[str, int]) -> None:
    low = clock(aresetn=0)
    with pytest.raises(BusRuleError, match="VALID is 1 during reset"):
        play(kind, [low, clock(offer, aresetn=0)])
    with pytest.raises(BusRuleError, match="VALID is 1 at the first edge after reset"):
        play(kind, [low, low, clock(offer)])
    # The edge that begins a synchronous reset sees what was offered before it.
    play(kind, [clock(offer, aresetn=0), low, clock(), clock(offer)])
