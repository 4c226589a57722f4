"""What breaks a protocol over several records."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from decode_rig import decoded, envelope, line, record, vector

from pvnet.capture.decode import Decoded, decode
from pvnet.capture.model import Direction
from pvnet.capture.violations import MAX_KEPT, Violations
from pvnet.mdev import vfio_user as vu
from pvnet.mdev.vfio_user_version import Capabilities, encode_version
from pvnet.pb.v1.mdev_pb2 import MdevMessage
from pvnet.pb.v1.papr_pb2 import CrqEntry, Hcall, HcallReply, Irq
from pvnet.pb.v1.vbus_pb2 import VbusAttach, VbusCall, VbusWrite
from pvnet.vbus import layout
from pvnet.vmc import messages as vmc

UNIT = 0x30000000


def watched(items: Iterable[Decoded]) -> list[str]:
    watch = Violations()
    return [text for item in items for text in watch.feed(item)]


def sequenced(*numbers: int, **more: int) -> list[Decoded]:
    return [decoded("hv", "lpar1", irq=Irq(unit=1), seq=number, stream=1, **more) for number in numbers]


def test_a_recorded_session_without_misuse_is_clean() -> None:
    assert watched(vector("linux-6.1-vmc-session.jsonl")) == []


def test_the_recorded_misuse_is_found() -> None:
    found = watched(vector("linux-6.1-vmc-negative.jsonl"))
    for text in (
        "ADD_BUFFER hmc 0: buffer 1 is there already",
        "ADD_BUFFER of hmc 9: 2 were agreed",
        "SIGNAL hmc 0: session 11, now it is 4",
        "SIGNAL hmc 0: no buffer 4660",
        "ADD_BUFFER_RESPONSE hmc 0: no ADD_BUFFER of buffer 4660 waits for it",
        "unknown VMC type 0x77",
        "CAPABILITIES from the hypervisor",
        "reserved CRQ header 81 06",
        "CAPABILITIES_RESPONSE without CAPABILITIES",
        "SIGNAL before CAPABILITIES_RESPONSE",
    ):
        assert found.count(text) == 1, text


def test_the_links_numbers() -> None:
    assert watched(sequenced(5, 6, 7)) == [], "a recording may begin in the middle"
    assert watched(sequenced(1, 3)) == ["seq 2 missing"]
    assert watched(sequenced(1, 5, 3)) == ["seq 2 to 4 missing", "seq 3 late"]
    assert watched(sequenced(1, 2, 2)) == ["seq 2 again"]
    assert watched(sequenced(0, 0)) == [], "not sequenced"
    other = [decoded("hv", "lpar1", irq=Irq(unit=1), seq=1, stream=2)]
    assert watched([*sequenced(1, 2), *other]) == [], "a new stream"


def test_the_same_message_seen_at_both_ends_is_one() -> None:
    data = envelope("hv", "lpar1", irq=Irq(unit=1), seq=1, stream=1).SerializeToString()
    ends = [
        decode(record(data, name="hv/irq", direction=Direction.OUT)),
        decode(record(data, name="lpar1/irq", direction=Direction.IN)),
    ]
    assert watched(ends) == []
    assert watched([*ends, ends[1]]) == ["seq 1 again"]


def call(number: int, seq: int) -> Decoded:
    return decoded(hcall=Hcall(opcode=4), correlation=number, seq=seq)


def reply(number: int, seq: int) -> Decoded:
    return decoded("hv", "lpar1", hcall_reply=HcallReply(), correlation=number, seq=seq)


def test_answers() -> None:
    assert watched([call(5, 1), reply(5, 1)]) == []
    assert watched([reply(5, 1)]) == [], "its call may have been before the recording"
    assert watched([call(5, 1), reply(4, 1), reply(5, 2)]) == []
    assert watched([call(5, 1), reply(9, 1)]) == ["reply without call 0x9"]
    assert watched([call(5, 1), call(5, 2)]) == ["call 0x5 again, before its reply"]
    assert watched([call(5, 1), reply(5, 1), reply(5, 2)]) == ["second reply to call 0x5"]


def vfio(parts: tuple[vu.Data, ...], *, back: bool = False) -> Decoded:
    ends = ("mdevs", "lpar1") if back else ("lpar1", "mdevs")
    return decoded(*ends, mdev_message=MdevMessage(session=4, message=b"".join(parts)))


def test_vfio_ids() -> None:
    version = vfio(vu.command_parts(1, vu.Command.VERSION, encode_version(Capabilities())))
    agreed = vfio(vu.reply_parts(1, vu.Command.VERSION, encode_version(Capabilities())), back=True)
    reset, done = vu.command_parts(2, vu.Command.DEVICE_RESET), vu.reply_parts(2, vu.Command.DEVICE_RESET)
    assert watched([version, agreed, vfio(reset), vfio(done, back=True)]) == []
    assert watched([version, agreed, vfio(done, back=True)]) == ["reply without call 0x2"]
    assert watched([vfio(done, back=True)]) == [], "the session began before the recording"
    assert watched([version, vfio(vu.reply_parts(1, vu.Command.DEVICE_RESET), back=True)]) == [
        "reply to another command: VERSION was asked"
    ]
    assert watched([vfio(reset), vfio(reset)]) == ["call 0x2 again, before its reply"]


def entry(slot: int, element: bytes, registration: int = 1) -> Decoded:
    made = CrqEntry(unit=UNIT, registration=registration, slot=slot, element=element)
    return decoded("hv", "lpar1", crq_entry=made)


def test_slots_of_a_queue_follow_each_other() -> None:
    empty = b"\xc0\x02" + bytes(14)
    assert watched([entry(6, empty), entry(7, empty), entry(0, empty), entry(1, empty)]) == []
    assert watched([entry(1, empty), entry(3, empty)]) == ["CRQ slot 3 after slot 1"]
    assert watched([entry(1, empty), entry(5, empty, 2)]) == []


def sent(message: vmc.VmcMessage) -> Decoded:
    element = vmc.encode_vmc(message)
    words = [int.from_bytes(element[:8]), int.from_bytes(element[8:])]
    return decoded(hcall=Hcall(opcode=0x108, args=[UNIT, *words]))


def got(*messages: vmc.VmcMessage) -> list[Decoded]:
    return [decoded("hv", "lpar1", crq_entry=CrqEntry(unit=UNIT, slot=0, element=vmc.encode_vmc(m))) for m in messages]


BEGIN = [
    sent(vmc.Capabilities(2, 2, 4096, 256)),
    *got(vmc.CapabilitiesResponse(2, 2, 4096, 256), vmc.AddBuffer(0, 0, 0, 0, 0), vmc.AddBuffer(0, 0, 1, 1, 0)),
    sent(vmc.AddBufferResponse(0, 0, 0, 0)),
    sent(vmc.AddBufferResponse(0, 0, 0, 1)),
    sent(vmc.Open(1, 0, 0)),
    *got(vmc.OpenResponse(0, 1, 0, 0)),
]


@pytest.mark.parametrize(
    ("then", "wrong"),
    [
        ([sent(vmc.Signal(1, 0, 0, 10)), *got(vmc.Signal(1, 0, 0, 10), vmc.Signal(1, 0, 1, 4096))], []),
        ([sent(vmc.Signal(1, 0, 1, 10))], ["SIGNAL hmc 0: buffer 1 is the hypervisor's"]),
        ([sent(vmc.Signal(1, 0, 0, 5000))], ["SIGNAL hmc 0: 5000 bytes: 4096 were agreed"]),
        ([sent(vmc.Signal(0, 1, 0, 1))], ["SIGNAL hmc 1: it is closed", "SIGNAL hmc 1: no buffer 0"]),
        ([sent(vmc.Open(2, 0, 0))], ["OPEN hmc 0: it is open"]),
        ([sent(vmc.Open(1, 2, 0))], ["OPEN of hmc 2: 2 were agreed"]),
        (got(vmc.OpenResponse(0, 1, 0, 0)), ["OPEN_RESPONSE hmc 0: no OPEN waits for it (it is open)"]),
        (got(vmc.CloseResponse(0, 1, 0)), ["CLOSE_RESPONSE hmc 0: no CLOSE waits for it (it is open)"]),
        ([sent(vmc.Close(1, 0)), *got(vmc.CloseResponse(0, 1, 0)), sent(vmc.Close(1, 0))],
         ["CLOSE hmc 0: it is closed"]),
        (got(vmc.AddBuffer(1, 0, 2, 0, 0)), ["ADD_BUFFER hmc 0: more than 2 buffers"]),
        (got(vmc.AddBuffer(1, 1, 2, 7, 0)), ["ADD_BUFFER hmc 1: owner 7"]),
        ([*got(vmc.RemoveBuffer(1, 0)), sent(vmc.RemoveBufferResponse(0, 1, 0, 0))], []),
        ([*got(vmc.RemoveBuffer(1, 0)), sent(vmc.RemoveBufferResponse(0, 1, 0, 9))],
         ["REMOVE_BUFFER_RESPONSE hmc 0: no buffer 9"]),
        ([sent(vmc.RemoveBufferResponse(0, 1, 0, 0))], ["REMOVE_BUFFER_RESPONSE hmc 0: no REMOVE_BUFFER waits for it"]),
        ([sent(vmc.RemoveBuffer(1, 0))], ["REMOVE_BUFFER from the partition"]),
        (got(vmc.Open(1, 0, 0)), ["OPEN from the hypervisor"]),
        (got(vmc.CapabilitiesResponse(2, 2, 4096, 256)), ["CAPABILITIES_RESPONSE without CAPABILITIES"]),
        ([decoded(hcall=Hcall(opcode=0x100, args=[UNIT])), sent(vmc.Close(1, 0)), sent(vmc.Close(1, 0))],
         ["CLOSE before CAPABILITIES_RESPONSE"]),
        ([entry(0, b"\xc0\x01" + bytes(14)), *BEGIN], []),
    ],
)  # fmt: skip
def test_the_order_of_vmc_messages(then: list[Decoded], wrong: list[str]) -> None:
    assert watched([*BEGIN, *then]) == wrong


def test_a_refused_buffer_is_not_there() -> None:
    again = got(vmc.AddBuffer(1, 0, 0, 0, 0))[0]
    refused = sent(vmc.AddBufferResponse(2, 1, 0, 0))
    assert watched([*BEGIN, again, refused, sent(vmc.Signal(1, 0, 0, 1))]) == [
        "ADD_BUFFER hmc 0: buffer 0 is there already"
    ]
    new = [*BEGIN[:2], BEGIN[2], sent(vmc.AddBufferResponse(4, 0, 0, 0)), sent(vmc.Open(1, 0, 0))]
    assert watched(new) == ["OPEN hmc 0: no buffer 0"]


def test_without_capabilities_nothing_is_a_vmc() -> None:
    assert watched([sent(vmc.RemoveBuffer(1, 0)), *got(vmc.Signal(1, 0, 0, 1))]) == []


def test_a_refused_send_is_not_a_message() -> None:
    words = vmc.encode_vmc(vmc.RemoveBuffer(1, 0)).hex()
    begun = [
        line(opcode="0x108", args=["0x2000", "0x8001000000010020", "0x0000100010000101"], rc=0),
        line(opcode="0x108", args=["0x2000", f"0x{words[:16]}", f"0x{words[16:]}"], rc=-4),
    ]
    assert watched(begun) == []
    assert watched([begun[0], line(opcode="0x108", args=["0x2000", f"0x{words[:16]}", f"0x{words[16:]}"], rc=0)]) == [
        "REMOVE_BUFFER from the partition"
    ]


def test_a_bridge_call_stays_in_the_memory_that_was_attached() -> None:
    attach = decoded(vbus_attach=VbusAttach(base=0x1000, bytes=0x2000))

    def opened(address: int, length: int = 16) -> Decoded:
        raw = layout.CallDescriptor(0, length, address).encode()
        return decoded(vbus_call=VbusCall(call=raw))

    assert watched([opened(0x9000)]) == [], "attached before the recording"
    assert watched([attach, opened(0x1000), opened(0x2FF0)]) == []
    assert watched([attach, opened(0x2FF1)]) == ["parameters at 0x2ff1 of 16 bytes: outside of the attached memory"]
    shm = layout.DeviceShm(1, 0, 0x1000, 0, 0, 0, 5, 0x2800).encode()
    inner = layout.CallDescriptor(3, len(shm), 0x2000).encode()
    writes = [VbusWrite(address=0x1100, data=inner), VbusWrite(address=0x2000, data=shm)]
    raw = layout.CallDescriptor(2, len(inner), 0x1100).encode()
    assert watched([attach, decoded(vbus_call=VbusCall(call=raw, writes=writes))]) == [
        "region at 0x2800 of 4096 bytes: outside of the attached memory"
    ]


def test_tables_are_bounded() -> None:
    watch = Violations()
    for number in range(MAX_KEPT + 10):
        watch.feed(decoded(f"node{number}", "hv", irq=Irq(unit=1), seq=1))
    assert len(watch._streams) == MAX_KEPT
    watch = Violations()
    for item in sequenced(1, 1 << 63):
        watch.feed(item)
    assert sum(len(stream.missing) for stream in watch._streams.values()) < 10_000
