"""Calls and their replies."""

from __future__ import annotations

from decode_rig import decoded, envelope, record

from pvnet.capture.decode import decode
from pvnet.capture.pairs import Pairs
from pvnet.pb.v1.papr_pb2 import Hcall, HcallReply


def call(number: int, correlation: int, time_ns: int = 0, source: str = "lpar1"):  # type: ignore[no-untyped-def]
    return decoded(
        source, "hv", hcall=Hcall(opcode=4), correlation=correlation, time_ns=time_ns, number=number, seq=number
    )


def reply(number: int, correlation: int, time_ns: int = 0, to: str = "lpar1", rc: int = 0):  # type: ignore[no-untyped-def]
    return decoded(
        "hv", to, hcall_reply=HcallReply(rc=rc), correlation=correlation, time_ns=time_ns, number=number, seq=number
    )


def test_a_reply_finds_its_call_and_how_long_it_took() -> None:
    pairs = Pairs()
    assert pairs.feed(call(1, 5, 1000)) is None
    assert pairs.feed(call(2, 5, 1500, "lpar2")) is None, "another caller's number"
    matched = pairs.feed(reply(3, 5, 4000))
    assert matched is not None
    assert (matched.call.record.number, matched.latency_ns, matched.is_again) == (1, 3000, False)
    assert [item.record.number for item in pairs.unanswered()] == [2]
    assert pairs.waiting(call(9, 5, 0, "lpar2").pair) is not None


def test_an_unknown_reply_has_no_call() -> None:
    assert Pairs().feed(reply(1, 5)) is None


def test_both_ends_may_have_been_recorded() -> None:
    pairs = Pairs()
    pairs.feed(call(1, 5, 0))
    pairs.feed(call(1, 5, 10))
    first = pairs.feed(reply(3, 5, 100))
    again = pairs.feed(reply(3, 5, 110))
    assert first is not None
    assert again is not None
    assert (again.call, again.is_again) == (first.call, False)
    pairs.feed(call(1, 5, 200))
    assert pairs.unanswered() == [], "a copy that comes late is no new call"


def test_another_reply_to_the_same_call_is_told_apart() -> None:
    pairs = Pairs()
    pairs.feed(call(1, 5))
    pairs.feed(reply(2, 5))
    matched = pairs.feed(reply(3, 5, rc=1))
    assert matched is not None
    assert matched.is_again


def test_another_incarnation_is_another_caller() -> None:
    pairs = Pairs()
    pairs.feed(call(1, 5))
    later = envelope("hv", "lpar1", hcall_reply=HcallReply(), correlation=5, destination_incarnation=2)
    assert pairs.feed(decode(record(later.SerializeToString()))) is None


def test_without_times_there_is_no_latency() -> None:
    pairs = Pairs()
    pairs.feed(decode(record(envelope(hcall=Hcall(), correlation=1).SerializeToString(), time_ns=None)))
    matched = pairs.feed(reply(2, 1, 5))
    assert matched is not None
    assert matched.latency_ns is None


def test_memory_is_bounded() -> None:
    pairs = Pairs(waiting=3)
    for number in range(1, 6):
        pairs.feed(call(number, number))
    assert [item.call for item in pairs.unanswered()] == [3, 4, 5]
    assert pairs.forgotten == 2
    many = Pairs()
    for number in range(1, 5001):
        many.feed(call(number, number))
        many.feed(reply(number, number))
    assert many.unanswered() == []
    assert many.feed(reply(1, 1)) is None, "answered long ago"
    assert many.feed(reply(5000, 5000)) is not None
