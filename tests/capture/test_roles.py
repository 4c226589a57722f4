"""A recorded side against living others: causes, answers, patience, what the recording does not have."""

from __future__ import annotations

import struct

import pytest

from pvnet.capture.expect import Rules
from pvnet.capture.memory_image import MemoryImage
from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_MEMORY, Direction, Interface, Record
from pvnet.capture.player import NS, Pace
from pvnet.capture.role_io import Answered, Ask, Begin, Gone, Heard, Here, Post, Refuse, Reply, RoleOutput, Unanswered
from pvnet.capture.role_plan import Plan, make_plan, parties
from pvnet.capture.roles import Role
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Tick
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope, LinkAck, Refusal
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, PowerOn, ShowStatus
from pvnet.pb.v1.mdev_pb2 import MdevOpen, MdevReply
from pvnet.pb.v1.papr_pb2 import CrqProgress, Hcall, HcallReply, Irq, MemoryRead, MemoryWrite

COPY = int(HcallOpcode.H_COPY_RDMA)


class Recording:
    """Builds records of node ``mp``; ``t`` is in seconds."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._seq: dict[tuple[str, str], int] = {}

    def add(self, t: float, source: str, destination: str, **body: object) -> Envelope:
        pair = (source, destination)
        self._seq[pair] = self._seq.get(pair, 0) + 1
        envelope = Envelope(
            schema=1, lab="old", source=source, destination=destination, source_incarnation=7, stream=1,
            seq=self._seq[pair], **body,
        )  # type: ignore[arg-type]  # fmt: skip
        self.put(t, envelope, Direction.OUT if source == "mp" else Direction.IN)
        return envelope

    def put(self, t: float, envelope: Envelope, direction: Direction, node: str = "mp") -> None:
        data = envelope.SerializeToString()
        at = 10**18 + round(t * NS)
        self.records.append(Record(Interface(f"{node}/x"), at, data, direction, number=len(self.records) + 1))

    def plan(self, **more: object) -> Plan:
        return make_plan(self.records, "mp", **more)  # type: ignore[arg-type]


def calling() -> Recording:
    """mp calls, is interrupted, calls again; a second apart."""
    made = Recording()
    made.add(0, "mp", "hypervisor", correlation=11, hcall=Hcall(opcode=4, args=[1]))
    made.add(1, "hypervisor", "mp", correlation=11, hcall_reply=HcallReply(outs=[1]))
    made.add(2, "hypervisor", "mp", irq=Irq(unit=5))
    made.add(3, "mp", "hypervisor", crq_progress=CrqProgress(unit=5, consumed=1))
    made.add(4, "mp", "hypervisor", correlation=12, hcall=Hcall(opcode=4, args=[2]))
    made.add(5, "hypervisor", "mp", correlation=12, hcall_reply=HcallReply(rc=-4, outs=[2]))
    return made


def heard(source: str, correlation: int = 0, **body: object) -> Heard:
    return Heard(Envelope(source=source, source_incarnation=99, correlation=correlation, **body))  # type: ignore[arg-type]


def reply(tag: int, **fields: object) -> Answered:
    return Answered(tag, Envelope(hcall_reply=HcallReply(**fields)))  # type: ignore[arg-type]


def kinds(outputs: list[RoleOutput]) -> list[str]:
    return [type(output).__name__ for output in outputs]


def test_each_message_waits_for_what_was_heard_before_it() -> None:
    role = Role(calling().plan())
    assert role.feed(heard("nobody", irq=Irq(unit=9)), 0.0) == []  # not begun: nothing is said
    [ask] = role.feed(Begin(), 0.0)
    assert isinstance(ask, Ask)
    assert (ask.destination, ask.tag, list(ask.envelope.hcall.args)) == ("hypervisor", 0, [1])
    assert (ask.envelope.correlation, ask.envelope.seq, ask.envelope.source, ask.envelope.lab) == (0, 0, "", "")
    assert role.feed(heard("hypervisor", irq=Irq(unit=5)), 0.1) == []  # early, and taken
    outputs = role.feed(reply(0, outs=[1]), 0.2)
    assert kinds(outputs) == ["Post", "Ask"]
    assert not role.is_done
    assert role.feed(reply(4, rc=-4, outs=[2]), 0.3) == []
    assert role.is_done
    assert role.deadline() is None
    assert role.expectation.matched == 3
    assert [d.what for d in role.expectation.differences] == ["irq from nobody"]


def test_at_speed_one_nothing_is_said_before_its_time() -> None:
    role = Role(calling().plan(), speed=1.0)
    role.feed(Begin(), 100.0)
    role.feed(reply(0, outs=[1]), 100.1)
    role.feed(heard("hypervisor", irq=Irq(unit=5)), 100.2)
    assert role.deadline() == 103.0
    assert role.feed(Tick(), 102.9) == []
    assert kinds(role.feed(Tick(), 103.0)) == ["Post"]
    assert kinds(role.feed(Tick(), 104.0)) == ["Ask"]


def test_an_answer_that_differs_is_named_and_the_play_goes_on() -> None:
    role = Role(calling().plan())
    role.feed(Begin(), 0.0)
    role.feed(heard("hypervisor", irq=Irq(unit=6)), 0.0)
    assert kinds(role.feed(reply(0, rc=-16, outs=[1]), 0.0)) == ["Post", "Ask"]
    assert [(d.number, d.field) for d in role.expectation.differences] == [(3, "irq.unit"), (2, "hcall_reply.rc")]


def test_what_does_not_come_is_missed_after_its_time_and_some_patience() -> None:
    role = Role(calling().plan(), patience_s=2.0)
    role.feed(Begin(), 0.0)
    assert role.deadline() == 3.0  # a second, as then, and the patience
    role.feed(reply(0, outs=[1]), 1.0)
    assert role.deadline() == 4.0
    assert role.feed(Tick(), 3.9) == []
    assert kinds(role.feed(Tick(), 4.0)) == ["Post", "Ask"]
    assert [str(d) for d in role.expectation.differences] == [
        "record 3: irq from hypervisor: recorded this message, living nothing"
    ]
    role.feed(Unanswered(4, "hypervisor did not answer"), 5.0)
    assert role.is_done
    assert role.expectation.differences[1].living == "hypervisor did not answer"
    assert role.expectation.count["missing"] == 2


def test_all_that_is_missing_before_a_word_is_waited_for_once() -> None:
    made = Recording()
    for unit in range(5):
        made.add(0, "hypervisor", "mp", irq=Irq(unit=unit))
    made.add(0, "mp", "hypervisor", crq_progress=CrqProgress(unit=5))
    role = Role(made.plan(), patience_s=1.0)
    assert role.feed(Begin(), 0.0) == []
    assert kinds(role.feed(Tick(), 1.0)) == ["Post"]
    assert role.expectation.count["missing"] == 5


def test_of_who_has_ended_nothing_is_waited_for() -> None:
    role = Role(calling().plan())
    role.feed(Begin(), 0.0)
    assert kinds(role.feed(Gone("hypervisor"), 0.5)) == ["Post", "Ask"]
    assert role.is_done
    assert all("has ended" in d.living for d in role.expectation.differences)
    role.feed(reply(0, outs=[1]), 0.6)
    assert role.counters["late_answer"] == 1


def test_who_comes_late_is_waited_for_and_the_pace_goes_on_from_there() -> None:
    role = Role(calling().plan(), speed=1.0, patience_s=1.0, late={"hypervisor"}, wait_s=20.0)
    assert role.feed(Begin(), 100.0) == []
    assert role.deadline() == 120.0
    assert role.feed(Tick(), 119.0) == []
    assert kinds(role.feed(Here("hypervisor"), 119.5)) == ["Ask"]
    role.feed(reply(0, outs=[1]), 119.6)
    role.feed(heard("hypervisor", irq=Irq(unit=5)), 119.7)
    assert role.deadline() == 122.5  # three seconds after the first, as then
    assert kinds(role.feed(Tick(), 123.5)) == ["Post", "Ask"]
    role.feed(reply(4, rc=-4, outs=[2]), 123.6)
    assert (role.is_done, role.expectation.total, role.absent, role.left_out.total()) == (True, 0, set(), 0)


def test_a_message_says_that_its_sender_has_come() -> None:
    role = Role(asked().plan(), late={"app"})
    assert role.feed(Begin(), 0.0) == []
    opened = heard("app", 70, device_io=DeviceIo(operation=DeviceIo.OPEN, path="/dev/ibmvmc"))
    assert kinds(role.feed(opened, 9.0)) == ["Reply"]
    assert role.late == set()


def test_what_passed_with_who_does_not_come_is_left_out() -> None:
    made = asked()
    made.add(0, "mp", "hypervisor", crq_progress=CrqProgress(unit=5))
    role = Role(made.plan(), late={"app"}, wait_s=3.0, patience_s=1.0)
    assert role.feed(Begin(), 0.0) == []
    assert role.feed(Tick(), 2.9) == []
    assert kinds(role.feed(Tick(), 3.0)) == ["Post"]
    assert (role.is_done, role.expectation.total, role.absent) == (True, 0, {"app"})
    assert role.left_out == {"with app, who has not come": 6}


def test_one_that_is_late_is_not_missed_with_those_that_are_here() -> None:
    made = Recording()
    made.add(0, "hypervisor", "mp", irq=Irq(unit=1))
    made.add(0, "app", "mp", irq=Irq(unit=2))
    made.add(0, "mp", "hypervisor", crq_progress=CrqProgress(unit=5))
    role = Role(made.plan(), late={"app"}, wait_s=10.0, patience_s=1.0)
    role.feed(Begin(), 0.0)
    assert role.feed(Tick(), 1.0) == []
    assert role.expectation.count == {"missing": 1}
    assert role.deadline() == 10.0
    assert kinds(role.feed(heard("app", irq=Irq(unit=2)), 9.0)) == ["Post"]
    assert role.expectation.total == 1


def test_who_comes_again_is_waited_for_again() -> None:
    role = Role(calling().plan(), patience_s=2.0)
    role.feed(Gone("hypervisor"), 0.0)
    role.feed(Here("hypervisor"), 0.0)
    assert kinds(role.feed(Begin(), 0.0)) == ["Ask"]
    assert role.feed(Tick(), 1.0) == []
    assert role.expectation.total == 0


def asked() -> Recording:
    """mp is asked."""
    made = Recording()
    made.add(0, "app", "mp", correlation=5, device_io=DeviceIo(operation=DeviceIo.OPEN, path="/dev/ibmvmc"))
    made.add(0, "mp", "app", correlation=5, device_reply=DeviceReply(result=3))
    made.add(0, "app", "mp", correlation=6, device_io=DeviceIo(operation=DeviceIo.READ, handle=3, count=9))
    made.add(0, "app", "mp", correlation=7, device_io=DeviceIo(operation=DeviceIo.INTERRUPT, handle=3, interrupts=6))
    made.add(0, "mp", "app", correlation=6, device_reply=DeviceReply(result=-4))
    made.add(0, "mp", "app", correlation=7, device_reply=DeviceReply())
    return made


def test_calls_get_the_recorded_answers_under_their_own_correlations() -> None:
    role = Role(asked().plan())
    role.feed(Begin(), 0.0)
    opened = heard("app", 70, device_io=DeviceIo(operation=DeviceIo.OPEN, path="/dev/ibmvmc"))
    [answer] = role.feed(opened, 0.0)
    assert answer == Reply(opened.envelope, Envelope(device_reply=DeviceReply(result=3)))
    assert role.feed(heard("app", 71, device_io=DeviceIo(operation=DeviceIo.READ, handle=3, count=9)), 0.0) == []
    interrupt = DeviceIo(operation=DeviceIo.INTERRUPT, handle=3, interrupts=71)
    outputs = role.feed(heard("app", 72, device_io=interrupt), 0.0)
    assert [output.call.correlation for output in outputs if isinstance(output, Reply)] == [71, 72]
    assert role.is_done
    assert role.expectation.total == 0


def test_a_call_that_differs_is_answered_all_the_same() -> None:
    role = Role(asked().plan())
    role.feed(Begin(), 0.0)
    outputs = role.feed(heard("app", 70, device_io=DeviceIo(operation=DeviceIo.OPEN, path="/dev/crq0")), 0.0)
    assert kinds(outputs) == ["Reply"]
    assert [d.field for d in role.expectation.differences] == ["device_io.path"]


def test_a_call_that_never_comes_is_not_answered() -> None:
    role = Role(asked().plan(), patience_s=1.0)
    role.feed(Begin(), 0.0)
    for now in (1.0, 2.0, 3.0, 4.0):
        assert role.feed(Tick(), now) == []
    assert role.is_done
    assert role.counters["answer_to_nobody"] == 3
    assert role.expectation.count["missing"] == 3


def test_a_call_too_many_gets_the_answer_of_an_equal_one_or_a_refusal() -> None:
    role = Role(asked().plan())
    role.feed(Begin(), 0.0)
    opened = DeviceIo(operation=DeviceIo.OPEN, path="/dev/ibmvmc")
    role.feed(heard("app", 70, device_io=opened), 0.0)
    [again] = role.feed(heard("app", 71, device_io=opened), 0.0)
    assert isinstance(again, Reply)
    assert again.envelope.device_reply.result == 3
    [refused] = role.feed(heard("app", 72, device_io=DeviceIo(operation=DeviceIo.POLL)), 0.0)
    assert isinstance(refused, Refuse)
    assert "no answer" in refused.text
    assert role.expectation.count["unexpected"] == 2
    assert role.feed(heard("app", irq=Irq(unit=1)), 0.0) == []


def test_a_refusal_is_an_answer_like_others() -> None:
    made = Recording()
    made.add(0, "mp", "mdevs", correlation=1, mdev_open=MdevOpen(name="x"))
    made.add(0, "mdevs", "mp", correlation=1, refusal=Refusal(text="no"))
    role = Role(made.plan())
    role.feed(Begin(), 0.0)
    role.feed(Answered(0, Envelope(refusal=Refusal(text="no"))), 0.0)
    assert (role.expectation.matched, role.expectation.total) == (1, 0)


def test_identifiers_that_the_living_choose_are_used_from_then_on() -> None:
    made = Recording()
    made.add(0, "mp", "mdevs", correlation=1, mdev_open=MdevOpen(name="x"))
    made.add(0, "mdevs", "mp", correlation=1, mdev_reply=MdevReply(session=4))
    made.add(0, "mp", "mdevs", mdev_message={"session": 4, "message": b"short"})
    role = Role(made.plan())
    role.feed(Begin(), 0.0)
    [post] = role.feed(Answered(0, Envelope(mdev_reply=MdevReply(session=77))), 0.0)
    assert isinstance(post, Post)
    assert post.envelope.mdev_message.session == 77


def test_memory_is_what_the_recording_shows_of_it() -> None:
    made = calling()
    data = struct.pack(">B7xQ", 2, 0x1FFE) + b"abcd"
    record = Record(Interface("mp/memory", LINKTYPE_MEMORY), 10**18, data)
    made.records.insert(0, record)
    made.records.append(Record(Interface("mp/memory", LINKTYPE_MEMORY), 10**18, b"short"))
    made.records.append(Record(Interface("a/memory", LINKTYPE_MEMORY), 10**18, data))
    plan = made.plan()
    assert plan.left_out["cut or damaged"] == 1
    role = Role(plan)
    role.feed(Begin(), 0.0)
    [answer] = role.feed(heard("hypervisor", 3, memory_read=MemoryRead(address=0x1FFD, length=6)), 0.0)
    assert isinstance(answer, Reply)
    assert answer.envelope.memory_reply.data == b"\0abcd\0"
    [written] = role.feed(heard("hypervisor", 4, memory_write=MemoryWrite(address=0x2000, data=b"X")), 0.0)
    assert kinds([written]) == ["Reply"]
    assert role.image.read(0x1FFE, 4) == b"abXd"
    [too_long] = role.feed(heard("hypervisor", 5, memory_read=MemoryRead(length=1 << 20)), 0.0)
    assert isinstance(too_long, Reply)
    assert too_long.envelope.memory_reply.error == 14
    assert role.expectation.total == 0


def test_an_image_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvnet.capture.memory_image._IMAGE_PAGES", 2)
    image = MemoryImage()
    for page in range(3):
        image.write(page * 4096, b"x")
    assert [image.read(page * 4096, 1) for page in range(3)] == [b"\0", b"x", b"x"]


def test_questions_for_status_are_nobodys_business() -> None:
    made = calling()
    made.add(6, "supervisor", "mp", correlation=1, management=Management(show_status=ShowStatus()))
    made.add(6, "mp", "supervisor", correlation=1, management_reply=ManagementReply(status_json="{}"))
    plan = made.plan()
    assert plan.peers == ["hypervisor"]
    assert plan.left_out == {"by the rules": 1, "answer to a call that is left out": 1}
    role = Role(plan, rules=Rules(skip=("management.*",)))
    [status] = role.feed(heard("supervisor", 5, management=Management(show_status=ShowStatus())), 0.0)
    assert isinstance(status, Reply)
    assert '"of": 6' in status.envelope.management_reply.status_json
    [refused] = role.feed(heard("supervisor", 6, management=Management(power_on=PowerOn())), 0.0)
    assert isinstance(refused, Refuse)
    assert role.feed(heard("supervisor", management=Management(power_on=PowerOn())), 0.0) == []
    assert role.expectation.total == 0


def test_a_plan_leaves_out_who_is_not_here_and_what_is_the_links() -> None:
    made = calling()
    made.records += asked().records
    made.add(6, "mp", "hypervisor", link_ack=LinkAck())
    made.add(6, "a", "b", irq=Irq())
    made.put(6, Envelope(source="mp", destination="a"), Direction.OUT)
    made.records.append(Record(Interface("mp/x"), None, b"\xff", number=90))
    made.records.append(Record(Interface("b/net", LINKTYPE_ETHERNET), None, b"\xff", number=91))
    made.add(7, "hypervisor", "mp", correlation=44, hcall_reply=HcallReply())
    plan = made.plan(peers={"hypervisor"})
    assert plan.peers == ["hypervisor"]
    assert len(plan.acts) == 6
    assert plan.left_out == {
        "with app, who is not here": 6,
        "cut or damaged": 1,
        "no message": 1,
        "unknown body": 1,
        "answer without its call": 1,
    }
    assert parties(made.records) == {"mp": 14, "hypervisor": 7, "app": 6, "a": 2, "b": 1}
    assert plan.duration_s == 5.0


def test_a_message_that_was_recorded_twice_counts_once() -> None:
    made = calling()
    twice = [record for record in made.records for _ in range(2)]
    assert len(make_plan(twice, "mp").acts) == 6


def test_messages_recorded_before_they_were_addressed() -> None:
    made = calling()
    bare = []
    for record in made.records:
        envelope = record.envelope()
        assert envelope is not None
        envelope.ClearField("source" if record.direction is Direction.OUT else "destination")
        bare.append(Record(record.interface, record.time_ns, envelope.SerializeToString(), record.direction))
    assert len(make_plan(bare, "mp").acts) == 6


def test_names_and_pace_of_a_plan() -> None:
    plan = make_plan(calling().records, "x", names={"mp": "x", "hypervisor": "h"}, pace=Pace(skip_gaps_s=0.5))
    assert plan.peers == ["h"]
    assert plan.duration_s == 2.5


def test_a_node_that_says_nothing_cannot_be_played() -> None:
    with pytest.raises(ConfigError, match="no message that lpar9 has sent"):
        make_plan(calling().records, "lpar9")


def mapped() -> Recording:
    """Copies whose bytes no message carries."""
    made = Recording()
    made.add(0, "mp", "hypervisor", correlation=1, hcall=Hcall(opcode=int(HcallOpcode.H_STUFF_TCE), args=[7, 0, 0, 1]))
    made.add(0, "app", "mp", correlation=1, device_io=DeviceIo(operation=DeviceIo.WRITE, data=b"hello"))
    made.add(0, "mp", "hypervisor", correlation=2, hcall=Hcall(opcode=COPY, args=[5, 7, 0x10, 8, 0x20]))
    made.add(0, "hypervisor", "mp", correlation=2, hcall_reply=HcallReply())
    made.add(0, "mp", "hypervisor", correlation=3, hcall=Hcall(opcode=COPY, args=[3, 8, 0x20, 7, 0x30]))
    made.add(0, "hypervisor", "mp", correlation=3, hcall_reply=HcallReply())
    return made


def copies(made: Recording) -> list[bytes]:
    return [
        act.envelope.hcall.memory if act.body == "hcall" else act.envelope.hcall_reply.memory
        for act in made.plan(peers={"hypervisor"}).acts
        if act.number > 2
    ]


def test_bytes_of_copies_come_from_the_application() -> None:
    made = mapped()
    made.add(0, "mp", "app", correlation=1, device_reply=DeviceReply(result=3, data=b"abc"))
    assert copies(made) == [b"hello", b"", b"", b"abc"]


def test_bytes_of_copies_come_from_records_of_memory() -> None:
    made = mapped()
    other = Record(Interface("hypervisor/rdma", LINKTYPE_MEMORY), None, struct.pack(">B7xQ", 1, 0x99) + b"xyz")
    found = Record(Interface("hypervisor/rdma", LINKTYPE_MEMORY), None, struct.pack(">B7xQ", 1, 0x30) + b"xyz")
    made.records[5:5] = [other, found]
    del made.records[1]
    assert [data for data in copies(made) if data] == [b"xyz"]


def test_an_id_lies_at_the_start_of_its_buffer() -> None:
    made = mapped()
    envelope = made.records[1].envelope()
    assert envelope is not None
    envelope.device_io.operation = DeviceIo.IOCTL
    envelope.device_io.data = b"id"
    made.put(0, envelope, Direction.IN)
    made.records[1] = made.records.pop()
    assert copies(made)[0] == b"id\0\0\0"
