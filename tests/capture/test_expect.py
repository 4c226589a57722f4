"""What counts as the same: rules, and identifiers that are learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvnet.capture.expect import DEFAULT_RULES, DIFFERENCES_KEPT, Difference, Equivalences, Expectation, Rules
from pvnet.capture.lore import Lore, learn_lore
from pvnet.capture.slots import merge_writes, slots_of
from pvnet.core.errors import ConfigError
from pvnet.mdev.vfio_user import HEADER
from pvnet.papr.crq import to_words
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, Partition, PowerOn, ShowStatus
from pvnet.pb.v1.mdev_pb2 import MdevIrq, MdevMessage, MdevReply
from pvnet.pb.v1.papr_pb2 import CrqEntry, Hcall, HcallReply
from pvnet.pb.v1.vbus_pb2 import VbusIrq, VbusWrite
from pvnet.vmc.messages import (
    AddBuffer,
    Capabilities,
    CloseResponse,
    Open,
    OpenResponse,
    RemoveBufferResponse,
    Signal,
    VmcMessage,
    encode_vmc,
)
from pvnet.vmc.router import RouterMessage, encode_frame

UNIT = 0x30000000
SEND = int(HcallOpcode.H_SEND_CRQ)
COPY = int(HcallOpcode.H_COPY_RDMA)
LOCAL, REMOTE = 0x10000100, 0x20000100


def entry(message: VmcMessage | bytes, slot: int = 0) -> Envelope:
    element = message if isinstance(message, bytes) else encode_vmc(message)
    return Envelope(crq_entry=CrqEntry(unit=UNIT, registration=1, slot=slot, element=element))


def send(message: VmcMessage) -> Envelope:
    return Envelope(correlation=9, hcall=Hcall(opcode=SEND, args=[UNIT, *to_words(encode_vmc(message))]))


def same(expectation: Expectation, recorded: Envelope, living: Envelope, **more: object) -> bool:
    return not expectation.compare(1, recorded, living, "hypervisor", **more)  # type: ignore[arg-type]


def fields(expectation: Expectation, recorded: Envelope, living: Envelope, **more: object) -> list[str]:
    return [d.field for d in expectation.compare(7, recorded, living, "hypervisor", **more)]  # type: ignore[arg-type]


def test_sessions_are_learned_when_first_seen_and_must_keep_to_it() -> None:
    it = Expectation()
    assert same(it, entry(OpenResponse(0, 1, 0, 5)), entry(OpenResponse(0, 4, 0, 5)))
    assert same(it, entry(Signal(1, 0, 6, 10)), entry(Signal(4, 0, 6, 10)))
    assert fields(it, entry(Signal(1, 0, 6, 10)), entry(Signal(1, 0, 6, 10))) == ["crq_entry.element.session"]
    assert fields(it, entry(Signal(2, 0, 6, 10)), entry(Signal(4, 0, 6, 10))) == ["crq_entry.element.session"]
    assert it.same.known() == {f"vmc session hypervisor {UNIT} 0": {1: 4}}


def test_the_same_session_number_of_two_connections_is_two_sessions() -> None:
    it = Expectation()
    assert same(it, entry(Signal(1, 0, 6, 10)), entry(Signal(4, 0, 6, 10)))
    assert same(it, entry(Signal(1, 1, 6, 10)), entry(Signal(1, 1, 6, 10)))


def test_a_value_that_is_no_identifier_differs_at_once() -> None:
    it = Expectation()
    assert fields(it, entry(OpenResponse(0, 1, 0, 5)), entry(OpenResponse(3, 1, 0, 5))) == ["crq_entry.element.status"]
    assert str(it.differences[0]) == (
        "record 7: crq_entry 8082 from hypervisor: crq_entry.element.status: recorded 0, living 3"
    )
    assert (it.matched, it.total) == (0, 1)


def test_no_session_and_no_buffer_are_no_identifiers() -> None:
    it = Expectation()
    assert fields(it, entry(Signal(0, 0, 6, 1)), entry(Signal(1, 0, 6, 1))) == ["crq_entry.element.session"]
    assert fields(it, entry(RemoveBufferResponse(0, 1, 0, 0xFFFF)), entry(RemoveBufferResponse(0, 1, 0, 2))) == [
        "crq_entry.element.buffer_id"
    ]
    assert fields(it, entry(RemoveBufferResponse(0, 1, 0, 2)), entry(RemoveBufferResponse(0, 1, 0, 0xFFFF))) == [
        "crq_entry.element.buffer_id"
    ]


def test_what_has_been_closed_may_be_named_anew() -> None:
    it = Expectation()
    assert same(it, entry(Signal(1, 0, 6, 1)), entry(Signal(4, 0, 9, 1)))
    assert same(it, entry(CloseResponse(0, 1, 0)), entry(CloseResponse(0, 4, 0)))
    assert same(it, entry(Signal(1, 0, 6, 1)), entry(Signal(5, 0, 6, 1)))
    assert same(it, entry(RemoveBufferResponse(0, 1, 0, 6)), entry(RemoveBufferResponse(0, 5, 0, 6)))
    assert same(it, entry(Signal(1, 0, 6, 1)), entry(Signal(5, 0, 8, 1)))
    init = entry(b"\xc0\x01" + bytes(14))
    assert same(it, init, init)
    assert it.same.known() == {}


def test_a_queue_that_is_registered_anew_forgets_its_sessions() -> None:
    it = Expectation()
    assert same(it, entry(Signal(1, 0, 6, 1)), entry(Signal(4, 0, 6, 1)))
    call = Envelope(hcall=Hcall(opcode=int(HcallOpcode.H_REG_CRQ), args=[UNIT, 4096, 4096]))
    reply = Envelope(hcall_reply=HcallReply(rc=2, outs=[UNIT, 4096, 4096]))
    assert same(it, reply, reply, calls=(call, call))
    assert same(it, entry(Signal(1, 0, 6, 1)), entry(Signal(1, 0, 6, 1)))


def test_garbage_that_the_protocol_ignores_is_no_difference() -> None:
    raw = bytearray(encode_vmc(Signal(1, 0, 6, 1)))
    raw[8:12] = b"junk"
    assert same(Expectation(), entry(bytes(raw)), entry(Signal(1, 0, 6, 1)))


def test_queues_of_other_protocols_are_compared_byte_by_byte() -> None:
    lore = learn_lore([send(Capabilities(1, 16, 4096, 16)), entry(Capabilities(1, 16, 4096, 16))])
    assert lore.vmc_units == {UNIT}
    other = Envelope(crq_entry=CrqEntry(unit=7, element=encode_vmc(Signal(1, 0, 6, 1))))
    changed = Envelope(crq_entry=CrqEntry(unit=7, element=encode_vmc(Signal(2, 0, 6, 1))))
    assert fields(Expectation(lore=lore), other, changed) == ["crq_entry.element"]


def test_addresses_of_buffers_are_translated_in_what_is_asked_for_them() -> None:
    it = Expectation(lore=Lore(own_liobns={LOCAL}))
    assert same(it, entry(AddBuffer(1, 0, 5, 1, 0x2000)), entry(AddBuffer(4, 0, 8, 1, 0x9000)))
    call = Envelope(hcall=Hcall(opcode=COPY, args=[64, LOCAL, 0x2000, REMOTE, 0x2010]))
    asked = it.rewritten(call, "hypervisor")
    assert list(asked.hcall.args) == [64, LOCAL, 0x2000, REMOTE, 0x9010]
    reply, living = Envelope(hcall_reply=HcallReply(outs=call.hcall.args)), Envelope()
    living.hcall_reply.outs.extend(asked.hcall.args)
    assert same(it, reply, living, calls=(call, asked))
    signal = it.rewritten(send(Signal(1, 0, 5, 64)), "hypervisor")
    assert list(signal.hcall.args[1:]) == list(to_words(encode_vmc(Signal(4, 0, 8, 64))))


def test_an_identifier_that_nobody_has_changed_keeps_its_name() -> None:
    it = Expectation()
    opening = send(Open(3, 0, 1))
    assert it.rewritten(opening, "hypervisor") == opening
    assert fields(it, entry(OpenResponse(0, 3, 0, 1)), entry(OpenResponse(0, 2, 0, 1))) == ["crq_entry.element.session"]


def test_handles_of_files_are_learned_from_the_answer_to_open() -> None:
    it = Expectation()
    opening = Envelope(device_io=DeviceIo(operation=DeviceIo.OPEN, path="/dev/ibmvmc"))
    calls = (opening, opening)
    assert same(
        it, Envelope(device_reply=DeviceReply(result=3)), Envelope(device_reply=DeviceReply(result=8)), calls=calls
    )
    reading = Envelope(device_io=DeviceIo(operation=DeviceIo.READ, handle=3))
    assert it.rewritten(reading, "hypervisor").device_io.handle == 8
    failed = Envelope(device_reply=DeviceReply(result=-13))
    assert fields(it, Envelope(device_reply=DeviceReply(result=4)), failed, calls=calls) == ["device_reply.result"]
    read = Envelope(device_reply=DeviceReply(result=5))
    assert fields(it, read, Envelope(device_reply=DeviceReply(result=6)), calls=(reading, reading)) == [
        "device_reply.result"
    ]
    closing = Envelope(device_io=DeviceIo(operation=DeviceIo.CLOSE, handle=3))
    done = Envelope(device_reply=DeviceReply())
    assert same(it, done, done, calls=(closing, closing))
    assert it.same.known() == {}


def test_payloads_of_a_session_are_compared_by_meaning() -> None:
    def reply(token: int, pid: int, state: Partition.State) -> Envelope:
        inner = ManagementReply(token=token, partitions=[Partition(name="a", pid=pid, state=state)])
        return Envelope(hcall_reply=HcallReply(memory=encode_frame(inner.SerializeToString())))

    it = Expectation()
    call = Envelope(hcall=Hcall(opcode=COPY, args=[8, REMOTE, 0, LOCAL, 0]))
    calls = (call, call)
    assert same(it, reply(1, 50, Partition.RUNNING), reply(2, 60, Partition.RUNNING), calls=calls)
    assert it.rewritten(reply(1, 5, Partition.OFF), "hypervisor") == reply(2, 5, Partition.OFF)
    assert fields(it, reply(1, 5, Partition.RUNNING), reply(2, 5, Partition.FAILED), calls=calls) == [
        "hcall_reply.memory.partitions.0.state"
    ]

    def router(correlation: int) -> Envelope:
        return Envelope(hcall=Hcall(opcode=COPY, memory=RouterMessage(1, b"x", correlation=correlation).encode()))

    assert same(it, router(5), router(9))
    assert it.rewritten(router(5), "hypervisor") == router(9)


@pytest.mark.parametrize("broken", [b"PVNE" + bytes(3), encode_frame(b"\xff\xff"), b"\xde\xca\xff" + bytes(40)])
def test_payloads_that_do_not_decode_are_bytes(broken: bytes) -> None:
    message = Envelope(hcall=Hcall(opcode=COPY, memory=broken))
    assert [slot.value for slot in slots_of(message, "x") if slot.path == "hcall.memory"] == [broken]


def test_bytes_that_travelled_on_one_side_only_are_not_compared() -> None:
    call = Envelope(hcall=Hcall(opcode=COPY))
    bare, full = Envelope(hcall_reply=HcallReply()), Envelope(hcall_reply=HcallReply(memory=b"x"))
    assert same(Expectation(), bare, full, calls=(call, call))
    assert fields(Expectation(), full, Envelope(hcall_reply=HcallReply(memory=b"y")), calls=(call, call))


def vfio(number: int, session: int, flags: int = 0, data: bytes = b"") -> Envelope:
    message = HEADER.pack(number, 9, 16 + len(data), flags, 0) + data
    return Envelope(mdev_message=MdevMessage(session=session, message=message, descriptors=[40 + session]))


def test_vfio_user_messages_inside_of_messages() -> None:
    it = Expectation()
    opened = Envelope(mdev_reply=MdevReply(session=1)), Envelope(mdev_reply=MdevReply(session=6))
    assert same(it, *opened)
    assert same(it, vfio(3, 1), vfio(8, 6))
    assert same(it, vfio(3, 1, 1), vfio(8, 6, 1))  # the reply: the number is free again
    assert same(it, vfio(3, 1), vfio(9, 6))
    assert it.rewritten(vfio(3, 1, data=b"d"), "hypervisor") == vfio(9, 6, data=b"d")
    assert fields(it, vfio(3, 1, data=b"a"), vfio(9, 6, data=b"b")) == ["mdev_message.data"]
    irq = Envelope(mdev_irq=MdevIrq(session=1, target=41)), Envelope(mdev_irq=MdevIrq(session=6, target=46))
    assert same(it, *irq)
    short = Envelope(mdev_message=MdevMessage(session=1, message=b"short"))
    assert fields(it, short, vfio(3, 6))


def test_writes_of_vbus_messages_count_by_what_they_leave() -> None:
    assert merge_writes([(8, b"ab"), (10, b"c"), (9, b"X"), (20, b"z")]) == [(8, b"aXc"), (20, b"z")]

    def irq(*writes: tuple[int, bytes]) -> Envelope:
        return Envelope(vbus_irq=VbusIrq(queue=1, writes=[VbusWrite(address=a, data=d) for a, d in writes]))

    assert same(Expectation(), irq((0, b"ab"), (2, b"cd")), irq((2, b"cd"), (0, b"ab")))
    assert fields(Expectation(), irq((0, b"ab")), irq((0, b"ax"))) == ["vbus_irq.writes.0x0"]


def test_another_kind_of_message_is_one_difference() -> None:
    it = Expectation()
    refused = Envelope()
    refused.refusal.text = "no"
    it.compare(3, Envelope(hcall_reply=HcallReply()), refused, "hypervisor")
    assert (
        str(it.differences[0])
        == "record 3: hcall_reply from hypervisor: message: recorded hcall_reply, living refusal: no"
    )


def test_rules_ignore_insist_and_add() -> None:
    text = """
    ignore = ["crq_entry.slot"]
    exact = ["*.session"]
    skip = ["management.power_on"]
    [same]
    word = ["*.element.word"]
    """
    rules = Rules.parse(text, "rules.toml")
    it = Expectation(rules)
    assert same(it, entry(Signal(1, 0, 6, 10), 1), entry(Signal(1, 0, 6, 30), 2))
    assert fields(it, entry(Signal(1, 0, 6, 10)), entry(Signal(1, 0, 6, 31))) == ["crq_entry.element.word"]
    assert fields(it, entry(Signal(1, 0, 6, 10)), entry(Signal(4, 0, 6, 30))) == ["crq_entry.element.session"]
    assert rules.is_skipped(Envelope(management=Management(power_on=PowerOn())))
    assert rules.is_skipped(Envelope(management=Management(show_status=ShowStatus())))
    assert not Rules.parse("defaults = false", "r").ignore
    assert not Rules.parse("defaults = false", "r").is_skipped(
        Envelope(management=Management(show_status=ShowStatus()))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "r.toml: "),
        ("other = 1", "'other': expected one of"),
        ('ignore = "x"', "ignore: expected a list"),
        ("skip = [1]", "skip: expected a list of patterns"),
        ("same = []", "same: expected a dict"),
        ("[same]\na = 3", "same.a: expected a list of patterns"),
    ],
)
def test_rules_that_are_none_are_refused_with_the_place(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Rules.parse(text, "r.toml")


def test_a_file_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('ignore = ["a"]')
    assert Rules.load(path) == DEFAULT_RULES.plus(Rules(ignore=("a",)))
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Rules.load(path)
    with pytest.raises(ConfigError, match="No such file"):
        Rules.load(tmp_path / "none")


def test_many_differences_are_counted_and_some_kept() -> None:
    it = Expectation()
    for number in range(DIFFERENCES_KEPT + 5):
        it.note("field", Difference(number, "x", "y", "a", "b"))
    assert (len(it.differences), it.total) == (DIFFERENCES_KEPT, DIFFERENCES_KEPT + 5)


def test_a_bijection_has_two_directions() -> None:
    it = Equivalences()
    pending: dict = {}
    assert it.check(("d",), 1, 5, pending)
    assert not it.check(("d",), 2, 5, pending)
    assert not it.check(("d",), 1, 6, pending)
    it.learn(pending)
    assert not it.check(("d",), 2, 5, {})
    assert it.living(("d",), 5) == 5  # its name is taken, and nothing else is known
    assert it.check(("e",), 2, 5, {})
    it.release(("d", 1))
    assert it.check(("d",), 2, 5, {})


def test_long_values_are_shown_in_part() -> None:
    it = Expectation()
    long = Envelope(hcall=Hcall(opcode=COPY, memory=bytes(100))), Envelope(hcall=Hcall(opcode=COPY, memory=bytes(99)))
    it.compare(1, *long, "x")
    assert "(100 bytes)" in it.differences[0].recorded
