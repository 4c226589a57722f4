"""Captures to draw: round trips that repeat, traffic that does not, messages that mean harm."""

from __future__ import annotations

import random

from decode_rig import envelope, record

from pvnet.capture.model import Record


def call(number: int, time_ns: int, correlation: int, source: str = "lpar1", opcode: int = 0x104) -> Record:
    """A hypervisor call."""
    made = envelope(source, "hv", correlation=correlation)
    made.hcall.opcode = opcode
    made.hcall.args.extend([1, 2, 3])
    return record(made.SerializeToString(), time_ns=time_ns, number=number, name=f"{source}/call")


def reply(number: int, time_ns: int, correlation: int, rc: int = 0, source: str = "lpar1") -> Record:
    """The reply to it."""
    made = envelope("hv", source, correlation=correlation)
    made.hcall_reply.rc = rc
    return record(made.SerializeToString(), time_ns=time_ns, number=number, name="hv/reply")


def trips(count: int) -> list[Record]:
    """Calls with their replies, all alike."""
    out = []
    for i in range(count):
        out += [call(2 * i + 1, 1000 * i, i + 1), reply(2 * i + 2, 1000 * i + 300, i + 1)]
    return out


def noisy(count: int) -> list[Record]:
    """``count`` messages that hardly repeat: four partitions, several calls, some errors."""
    choose = random.Random(1)
    out: list[Record] = []
    now = 0
    for i in range(count // 2):
        source = f"lpar{choose.randrange(4)}"
        now += choose.randrange(20_000, 90_000)
        out.append(call(len(out) + 1, now, i + 1, source, choose.choice([0x104, 0x58, 0x64])))
        now += choose.randrange(9_000, 30_000)
        out.append(reply(len(out) + 1, now, i + 1, choose.choice([0, 0, 0, -4]), source))
    return out


NASTY = "<script>alert(1)</script>&amp;\"' ]]> \x00\x1b[31m \u202e \ufffe --> $x_{$ \U0001f600 日本"


def hostile() -> list[Record]:
    """Names and texts made to break a page."""
    first = envelope(NASTY, "hv", correlation=1)
    first.management.power_on.name = NASTY
    second = envelope("hv", NASTY + "2", correlation=1)
    second.refusal.text = NASTY
    out = [first.SerializeToString(), second.SerializeToString(), b"\xff" * 40, b"", NASTY.encode("utf-8")]
    return [record(data, time_ns=i * 10, number=i + 1, name=NASTY) for i, data in enumerate(out)]
