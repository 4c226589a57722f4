"""Recorded hypervisor calls, made again."""

from __future__ import annotations

import json

import pytest

from pvnet.capture.hcall_replay import HcallReplay
from pvnet.capture.hcall_trace import SCHEMA
from pvnet.capture.model import LINKTYPE_HCALL, Interface, Record
from pvnet.core.errors import ConfigError

FLUSH, BIND, BUSY = "0x44c", "0x3ec", 9901
DRC = "0x90000001"


def line(number: int = 1, **values: object) -> Record:
    return Record(Interface("guest/hcall", LINKTYPE_HCALL), None, json.dumps(values).encode(), number=number)


def call(opcode: str, args: list[str], rc: int, number: int = 1, **after: str) -> Record:
    return line(number, opcode=opcode, args=args, rc=rc, after=after)


META = line(meta={"schema": SCHEMA, "profile": "qemu", "preset": "0xdead"})


def test_the_code_and_every_known_register_count() -> None:
    replay = HcallReplay()
    assert replay.next(META) is None
    made = replay.next(call("0x400", [DRC], 0, 3, r4="0x0", r5="0x8", r6="0xdead"))
    assert made is not None
    assert (made.opcode, made.args) == (0x400, (0x90000001,))
    assert replay.answered(0, (0, 8)) is None
    assert (replay.made, replay.expectation.matched, replay.expectation.total) == (1, 1, 0)
    replay.next(call("0x400", [DRC], 0, 4, r4="0x0", r5="0x8", r6="0xbeef"))
    replay.answered(0, (1, 8))
    replay.next(call("0x400", [DRC], 0, 5, r4="0x90000001"))
    replay.answered(-4, (0,))
    assert [(d.number, d.field, d.recorded, d.living) for d in replay.expectation.differences] == [
        (4, "r4 after the call", "0x0", "0x1"),
        (4, "r6 after the call", "0xbeef", "0xdead"),
        (5, "rc", "H_SUCCESS (0)", "H_PARAMETER (-4)"),
    ]


def test_an_address_that_the_hypervisor_chooses_is_learned() -> None:
    replay = HcallReplay()
    args = [DRC, "0x0", "0x1", "0xffffffffffffffff", "0x0"]
    replay.next(call(BIND, args, 0, 1, r4=DRC, r5="0xa0000000", r6="0x1"))
    replay.answered(0, (0x90000001, 0x60000000, 1))
    assert replay.expectation.total == 0
    replay.next(call(BIND, args, 0, 2, r4=DRC, r5="0xb0000000", r6="0x1"))
    replay.answered(0, (0x90000001, 0x60000000, 1))
    assert [d.field for d in replay.expectation.differences] == ["r5 after the call"]


def test_a_flush_takes_as_long_as_it_takes() -> None:
    replay = HcallReplay()
    first = replay.next(call(FLUSH, [DRC, "0x0"], BUSY, r4="0x1"))
    assert first is not None
    assert replay.answered(BUSY, (0x55,)) is None
    again = replay.next(call(FLUSH, [DRC, "0x1"], 0, r4=DRC))
    assert again is not None
    assert again.args == (0x90000001, 0x55)
    still = replay.answered(BUSY, (0x56, 0x90000001))
    assert still is not None
    assert still.args == (0x90000001, 0x56)
    assert still.after_s > 0
    assert replay.answered(0, (0x90000001,)) is None
    assert replay.expectation.total == 0
    assert replay.made == 2


def test_a_flush_that_is_done_at_once_is_not_asked_again() -> None:
    replay = HcallReplay()
    replay.next(call(FLUSH, [DRC, "0x0"], BUSY, r4="0x1"))
    replay.answered(0, (0x90000001,))
    assert replay.next(call(FLUSH, [DRC, "0x1"], BUSY, r4="0x2")) is None
    assert replay.next(call(FLUSH, [DRC, "0x2"], 0, r4=DRC)) is None
    assert replay.next(call(FLUSH, [DRC, "0x2"], 0, r4=DRC)) is not None
    assert replay.left_out == {"was busy, is done at once": 1, "asked again, was done already": 2}


def test_what_is_no_call_is_counted() -> None:
    replay = HcallReplay()
    assert replay.next(Record(Interface("x/y"), None, b"")) is None
    assert replay.next(line(mark="start")) is None
    assert replay.next(line(opcode="0x400", rc=0)) is None
    assert replay.next(line(opcode="0x400", args=[])) is None
    assert replay.next(line(meta={"schema": "other"})) is None
    assert replay.left_out == {"no hypervisor call": 1, "no call with an answer": 2, "arguments not known": 1}


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"opcode": 3, "args": [], "rc": 0}'])
def test_damaged_lines_are_refused_with_the_record(data: bytes) -> None:
    with pytest.raises(ConfigError, match="record 8"):
        HcallReplay().next(Record(Interface("x/y", LINKTYPE_HCALL), None, data, number=8))
