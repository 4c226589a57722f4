"""The link layer, row by row: what it sends, delivers and declares for each thing that can happen to it."""

from __future__ import annotations

import random

import pytest
from transport.link_world import LAB, World, message, state_frame

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.transport.base import MAX_FRAME_BYTES
from pvnet.transport.envelope import SCHEMA_VERSION
from pvnet.transport.link import (
    MAX_MESSAGE_BYTES,
    BacklogFullError,
    Deliver,
    Link,
    LinkConfig,
    PeerDown,
    PeerUp,
    Superseded,
    Transmit,
    Unwatch,
    Watch,
)

A, B = NodeName("a"), NodeName("b")
READY, BIRTH, LOST, DEATH = Lifecycle.READY, Lifecycle.BIRTH, Lifecycle.LOST, Lifecycle.DEATH


def frame(number: int = 1, *, seq: int = 1, kind: str = "hcall", **fields: object) -> bytes:
    """A frame of b (incarnation 7) for a (incarnation 1), as on the wire."""
    envelope = Envelope(
        schema=SCHEMA_VERSION,
        lab=LAB,
        source="b",
        source_incarnation=7,
        destination="a",
        destination_incarnation=1,
        stream=1,
        seq=seq,
    )
    for name, value in fields.items():
        setattr(envelope, name, value)
    if kind == "hcall":
        envelope.hcall.opcode = number
    elif kind:
        getattr(envelope, kind).SetInParent()
    return envelope.SerializeToString()


def link(**config: object) -> Link:
    return Link(LAB, A, 1, LinkConfig(**config))  # type: ignore[arg-type]


def with_peer(**config: object) -> Link:
    """A link that has seen b ready."""
    made = link(**config)
    made.watch(B)
    assert made.state_received("b", state_frame("b", 7, READY, 1), 0.0)
    return made


def sent(outputs: list) -> list[Envelope]:
    return [Envelope.FromString(output.payload) for output in outputs if isinstance(output, Transmit)]


def numbers(outputs: list) -> list[int]:
    return [output.envelope.hcall.opcode for output in outputs if isinstance(output, Deliver)]


# --- sending -------------------------------------------------------------------------------------------------------


def test_messages_wait_for_a_peer_that_is_not_there_and_leave_in_order_when_it_is() -> None:
    made = link()
    assert made.send(B, message(1), 0.0) == [Watch(B)]
    assert made.send(B, message(2), 0.0) == []
    outputs = made.state_received("b", state_frame("b", 7, READY, 1), 0.0)
    assert isinstance(outputs[0], PeerUp)
    assert [(e.hcall.opcode, e.stream, e.seq, e.destination_incarnation) for e in sent(outputs)] == [
        (1, 1, 1, 7),
        (2, 1, 2, 7),
    ]


def test_no_more_than_the_window_is_under_way_and_an_acknowledgement_opens_it() -> None:
    made = with_peer(window=2, backlog=3)
    for number in range(1, 3):
        assert len(sent(made.send(B, message(number), 0.0))) == 1
    assert not made.congested("b")
    for number in range(3, 6):
        assert made.send(B, message(number), 0.0) == []
    assert made.congested("b")
    with pytest.raises(BacklogFullError, match="3 are waiting"):
        made.send(B, message(6), 0.0)
    assert [e.seq for e in sent(made.receive("b", "reply", frame(seq=0, kind="link_ack", ack_stream=1, ack=1), 0))] == [
        3
    ]


def test_window_and_backlog_are_bounded_in_bytes_too() -> None:
    made = with_peer(window_bytes=5_000, backlog_bytes=5_000)
    big = Envelope()
    big.memory_write.data = bytes(3_000)
    leaving = [made.send(B, Envelope.FromString(big.SerializeToString()), 0.0) for _ in range(3)]
    assert [len(sent(outputs)) for outputs in leaving] == [1, 1, 0]
    with pytest.raises(BacklogFullError):
        made.send(B, big, 0.0)


def test_a_call_can_be_taken_back_until_it_has_left() -> None:
    made = link()
    for number in (1, 2, 3):
        made.send(B, message(number, correlation=number), 0.0)
    assert made.cancel("b", 2)
    assert not made.cancel("b", 2)
    assert not made.cancel("c", 1)
    outputs = made.state_received("b", state_frame("b", 7, READY, 1), 0.0)
    assert [(e.hcall.opcode, e.seq) for e in sent(outputs)] == [(1, 1), (3, 2)]
    assert not made.cancel("b", 1)


def test_taking_a_call_back_leaves_replies_alone_although_they_carry_the_same_number() -> None:
    made = link()
    reply = Envelope(correlation=5)
    reply.hcall_reply.rc = 1
    made.send(B, reply, 0.0)
    assert not made.cancel("b", 5)
    made.send(B, message(1, correlation=5), 0.0)
    assert made.cancel("b", 5)
    outputs = made.state_received("b", state_frame("b", 7, READY, 1), 0.0)
    assert [e.WhichOneof("body") for e in sent(outputs)] == ["hcall_reply"]


def test_calls_taken_back_do_not_pile_up() -> None:
    made = link(backlog=10)
    for number in range(1, 1000):
        made.send(B, message(number, correlation=number), 0.0)
        assert made.cancel("b", number)
    backlog = made._peers["b"].backlog
    assert (backlog.count, backlog.bytes) == (0, 0)
    assert len(backlog._items) < 20


@pytest.mark.parametrize(
    ("envelope", "destination", "text"),
    [
        (Envelope(), "b", "cannot be sent"),
        (Envelope(lifecycle=Lifecycle(phase=READY)), "b", "'lifecycle' cannot be sent"),
        (message(1), "a", "itself"),
    ],
)
def test_what_cannot_be_sent(envelope: Envelope, destination: str, text: str) -> None:
    with pytest.raises(LocalError, match=text):
        link().send(NodeName(destination), envelope, 0.0)


def test_the_largest_message_makes_a_frame_that_every_receiver_takes() -> None:
    made = Link("l" * 32, NodeName("a" * 32), 2**63, None)
    peer = NodeName("b" * 32)
    made.watch(peer)
    state = Envelope(schema=1, lab="l" * 32, source=peer, source_incarnation=2**64 - 1)
    state.lifecycle.phase = READY
    made.state_received(peer, state.SerializeToString(), 0.0)
    record = made._peers[peer]
    record.stream = record.rx_stream = 2**32 - 1
    record.next_seq, record.rx_next = 2**64 - 1, 2**64 - 1
    envelope = Envelope(correlation=2**64 - 1, deadline_ms=2**32 - 1, monotonic_ns=1, wall_ns=1, trace=1)
    envelope.memory_write.data = bytes(MAX_MESSAGE_BYTES - 100)
    envelope.memory_write.data += bytes(MAX_MESSAGE_BYTES - envelope.ByteSize())
    assert envelope.ByteSize() == MAX_MESSAGE_BYTES
    (output,) = made.send(peer, envelope, 0.0)
    assert isinstance(output, Transmit)
    assert len(output.payload) <= MAX_FRAME_BYTES
    envelope.memory_write.data += b"x"
    with pytest.raises(LocalError, match="at most"):
        made.send(peer, envelope, 0.0)


def test_an_incarnation_is_positive() -> None:
    with pytest.raises(LocalError):
        Link(LAB, A, 0)


# --- receiving -----------------------------------------------------------------------------------------------------


def test_early_frames_wait_duplicates_are_dropped_and_order_is_restored() -> None:
    made = link(window=3)
    assert numbers(made.receive("b", "call", frame(2, seq=2), 0.0)) == []
    assert numbers(made.receive("b", "call", frame(3, seq=3), 0.0)) == []
    assert numbers(made.receive("b", "call", frame(3, seq=3), 0.0)) == []
    assert numbers(made.receive("b", "call", frame(4, seq=4), 0.0)) == []
    assert numbers(made.receive("b", "call", frame(1, seq=1), 0.0)) == [1, 2, 3]
    assert numbers(made.receive("b", "call", frame(1, seq=1), 0.0)) == []
    assert numbers(made.receive("b", "call", frame(4, seq=4), 0.0)) == [4]
    assert (made.counters["early"], made.counters["duplicate"], made.counters["beyond_window"]) == (2, 2, 1)


def test_acknowledgements_every_so_many_frames_or_after_a_delay_and_never_when_something_else_flows() -> None:
    made = link(ack_every=2, ack_delay_s=0.05)
    assert sent(made.receive("b", "call", frame(1, seq=1), 1.0)) == []
    assert made.deadline() == pytest.approx(1.05)
    (ack,) = sent(made.receive("b", "call", frame(2, seq=2), 1.0))
    assert (ack.WhichOneof("body"), ack.seq, ack.ack_stream, ack.ack) == ("link_ack", 0, 1, 2)
    assert sent(made.tick(1.05)) == []
    made.receive("b", "call", frame(3, seq=3), 2.0)
    (ack,) = sent(made.tick(2.05))
    assert (ack.WhichOneof("body"), ack.ack) == ("link_ack", 3)
    made.receive("b", "call", frame(4, seq=4), 3.0)
    (carrier,) = sent(made.send(B, message(1), 3.0))
    assert carrier.ack == 4
    assert [e.WhichOneof("body") for e in sent(made.tick(3.1))] == []


def test_a_flood_of_duplicates_does_not_cause_a_flood_of_acknowledgements() -> None:
    made = link(ack_every=10)
    made.receive("b", "call", frame(1, seq=1), 0.0)
    answers = sum(len(sent(made.receive("b", "call", frame(1, seq=1), 0.0))) for _ in range(100))
    assert 1 <= answers <= 10
    assert len(sent(made.tick(1.0))) <= 1


def test_resending_doubles_its_pause_and_starts_over_when_something_is_acknowledged() -> None:
    made = with_peer(retransmit_s=1.0, retransmit_max_s=3.0, resend_burst=2)
    for number in (1, 2, 3):
        made.send(B, message(number), 0.0)
    times = []
    for _ in range(4):
        due = made.deadline()
        assert due is not None
        outputs = sent(made.tick(due))
        if outputs:
            assert [e.seq for e in outputs] == [1, 2]
            times.append(due)
    assert times == [1.0, 3.0, 6.0, 9.0]
    made.receive("b", "reply", frame(seq=0, kind="link_ack", ack_stream=1, ack=1), 9.5)
    assert made.tick(9.6) == []
    assert [e.seq for e in sent(made.tick(10.5))] == [2, 3]
    made.receive("b", "reply", frame(seq=0, kind="link_ack", ack_stream=1, ack=3), 11.0)
    made.tick(11.0)
    assert made.deadline() is None


@pytest.mark.parametrize(("ack_stream", "ack"), [(1, 99), (2, 1), (0, 1)])
def test_an_impossible_acknowledgement_changes_nothing(ack_stream: int, ack: int) -> None:
    made = with_peer()
    made.send(B, message(1), 0.0)
    made.receive("b", "reply", frame(seq=0, kind="link_ack", ack_stream=ack_stream, ack=ack), 0.0)
    assert [e.seq for e in sent(made.tick(1.0))] == [1]


def test_a_body_of_a_later_version_is_skipped_and_does_not_block_the_stream() -> None:
    made = link()
    strange = frame(seq=1, kind="") + bytes.fromhex("8a7d00")  # field 2001, empty: a body that does not exist yet
    (up, note) = made.receive("b", "future", strange, 0.0)[1:]
    assert isinstance(up, PeerUp)
    assert isinstance(note, Note)
    assert note.event == "unknown_body"
    assert numbers(made.receive("b", "call", frame(2, seq=2), 0.0)) == [2]


@pytest.mark.parametrize(
    ("source", "channel", "payload", "counter"),
    [
        ("b", "call", b"\xff" * 40, "bad_envelope"),
        ("b", "call", b"", "bad_envelope"),
        ("b", "call", frame(schema=2), "bad_envelope"),
        ("b", "call", frame(lab="other"), "bad_envelope"),
        ("b", "call", bytes(MAX_FRAME_BYTES + 1), "bad_envelope"),
        ("b", "call", frame(stream=0), "bad_envelope"),
        ("b", "call", frame(source_incarnation=0), "bad_envelope"),
        ("b", "call", frame(seq=0), "bad_envelope"),
        ("b", "reply", frame(kind="link_ack", seq=1), "bad_envelope"),
        ("a", "call", frame(source="a"), "bad_envelope"),
        ("B b", "call", frame(source="B b"), "bad_envelope"),
        ("c", "call", frame(), "misaddressed"),
        ("b", "irq", frame(), "misaddressed"),
        ("b", "call", frame(kind="lifecycle"), "misaddressed"),
        ("b", "call", frame(destination="c"), "stale_destination"),
        ("b", "call", frame(destination_incarnation=2), "stale_destination"),
    ],
)
def test_bad_frames_are_counted_and_leave_no_trace(source: str, channel: str, payload: bytes, counter: str) -> None:
    made = link()
    outputs = made.receive(source, channel, payload, 0.0)
    assert all(isinstance(output, Note) for output in outputs)
    assert made.counters == {counter: 1}
    assert made._peers == {}
    assert made.deadline() is None


def test_random_bytes_never_raise() -> None:
    made = with_peer()
    dice = random.Random(1)
    good = frame()
    for _ in range(3000):
        broken = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        made.receive("b", "call", bytes(broken[: dice.randrange(len(broken) + 1)]), 0.0)
        made.state_received(dice.choice("ab"), bytes(broken), 0.0)


# --- peers ---------------------------------------------------------------------------------------------------------


def test_a_peer_that_says_that_it_ends_stays_ended_whatever_arrives_late() -> None:
    made = with_peer()
    made.receive("b", "call", frame(1), 0.0)
    made.send(B, message(1), 0.0)
    assert made.state_received("b", state_frame("b", 7, DEATH, 1, "done"), 0.0) == [PeerDown(B, 7, "done")]
    assert made.receive("b", "call", frame(2, seq=2), 0.0) == []
    assert made.receive("b", "call", frame(1, stream=2), 0.0) == []
    assert made.state_received("b", state_frame("b", 7, READY, 2), 0.0) == []
    assert made.state_received("b", state_frame("b", 7, DEATH, 1), 0.0) == []
    assert made.peer_incarnation("b") == 0
    made.tick(100.0)
    assert made.deadline() is None


def test_a_death_before_anything_else_is_remembered() -> None:
    made = link()
    made.send(B, message(1), 0.0)
    assert made.state_received("b", state_frame("b", 7, DEATH, 1), 0.0) == []
    assert made.receive("b", "call", frame(1), 0.0) == []
    outputs = made.state_received("b", state_frame("b", 8, BIRTH, 1), 0.0)
    assert [e.destination_incarnation for e in sent(outputs)] == [8]


def test_a_lost_connection_has_its_grace_and_coming_back_in_time_is_no_death() -> None:
    made = with_peer(grace_s=1.0)
    made.send(B, message(1), 0.0)
    assert made.state_received("b", state_frame("b", 7, LOST, 1), 0.5) == []
    assert [o for o in made.tick(1.4) if isinstance(o, PeerDown)] == []
    back = made.state_received("b", state_frame("b", 7, READY, 2), 1.45)
    assert isinstance(back[0], PeerUp)
    assert [e.seq for e in sent(back)] == [1], "what was sent meanwhile found nobody: again at once"
    assert [o for o in made.tick(60.0) if isinstance(o, PeerDown)] == []


def test_a_peer_that_stays_lost_is_down_once_and_all_that_was_meant_for_it_is_given_up() -> None:
    made = with_peer(grace_s=1.0, window=1)
    for number in (1, 2):
        made.send(B, message(number), 0.0)
    made.state_received("b", state_frame("b", 7, LOST, 1), 0.0)
    assert [o for o in made.tick(1.0) if not isinstance(o, Transmit)] == [PeerDown(B, 7, "connection lost")]
    assert made.counters["given_up"] == 2
    assert made.tick(60.0) == []
    made.send(B, message(3), 60.0)
    up = made.state_received("b", state_frame("b", 8, READY, 1), 61.0)
    assert [(e.hcall.opcode, e.stream, e.seq, e.destination_incarnation) for e in sent(up)] == [(3, 1, 1, 8)]


def test_the_will_of_an_earlier_connection_kills_nobody() -> None:
    made = with_peer()
    made.state_received("b", state_frame("b", 7, READY, 2), 0.0)
    assert made.state_received("b", state_frame("b", 7, LOST, 1), 0.0) == []
    assert made.tick(60.0) == []
    assert made.peer_incarnation("b") == 7
    assert made.counters["stale_state"] == 1


def test_a_late_frame_of_a_peer_known_to_be_lost_does_not_raise_it_for_good() -> None:
    made = link()
    made.watch(B)
    made.state_received("b", state_frame("b", 7, LOST, 1), 0.0)
    assert numbers(made.receive("b", "call", frame(1), 5.0)) == [1]
    assert [o for o in made.tick(6.0) if isinstance(o, PeerDown)]


@pytest.mark.parametrize("by", ["frame", "birth", "lost", "death"])
def test_a_later_incarnation_ends_the_earlier_one(by: str) -> None:
    made = with_peer()
    made.send(B, message(1), 0.0)
    if by == "frame":
        outputs = made.receive("b", "call", frame(9, source_incarnation=8), 0.0)
        assert numbers(outputs) == [9]
    else:
        outputs = made.state_received(
            "b", state_frame("b", 8, {"birth": BIRTH, "lost": LOST, "death": DEATH}[by], 1), 0
        )
    assert outputs[0] == PeerDown(B, 7, "it has ended" if by == "death" else "restarted")
    assert made.peer_incarnation("b") == (8 if by in {"frame", "birth"} else 0)
    assert made.receive("b", "call", frame(2), 0.0) == [], "the old one is not heard any more"
    assert made.counters["stale_source"] == 1
    assert made.state_received("b", state_frame("b", 7, READY, 5), 0.0) == []


def test_phases_are_told_and_survive_a_fence() -> None:
    made = with_peer(grace_s=1.0)
    assert made.peer_phase("b") == READY
    made.state_received("b", state_frame("b", 7, LOST, 1), 0.0)
    made.tick(1.0)
    assert made.peer_phase("b") == Lifecycle.PHASE_UNSPECIFIED
    made.state_received("b", state_frame("b", 7, READY, 2), 2.0)
    (up,) = made.receive("b", "reply", frame(seq=0, kind="link_ack", stream=2), 2.0)
    assert up == PeerUp(B, 7, READY, None)
    assert made.peer_phase("b") == READY


def test_a_later_incarnation_of_our_own_name_supersedes_us() -> None:
    made = link()
    assert made.state_received("a", state_frame("a", 1, READY, 1), 0.0) == []
    assert made.state_received("a", state_frame("a", 2, BIRTH, 1), 0.0) == [Superseded(2)]
    assert made.state_received("a", b"", 0.0) == []
    assert made.watch(A) == []


@pytest.mark.parametrize(
    ("payload", "counter"),
    [
        (b"\xff\xff", "bad_state"),
        (frame(), "misaddressed"),
        (state_frame("c", 1, READY, 1), "misaddressed"),
        (state_frame("b", 7, 77, 1), "bad_state"),
    ],
)
def test_bad_states_are_counted(payload: bytes, counter: str) -> None:
    made = link()
    made.watch(B)
    made.state_received("b", payload, 0.0)
    assert made.counters == {counter: 1}
    assert made.peers == []


def test_the_state_of_a_node_that_nobody_watches_is_ignored() -> None:
    made = link()
    assert made.state_received("b", state_frame("b", 7, READY, 1), 0.0) == []


# --- our own connection ----------------------------------------------------------------------------------------------


def test_nothing_is_repeated_or_given_up_while_our_own_port_is_down_and_all_at_once_afterwards() -> None:
    made = with_peer(resend_burst=1)
    made.receive("b", "call", frame(1), 0.0)
    for number in (1, 2, 3):
        made.send(B, message(number), 0.0)
    made.state_received("b", state_frame("b", 7, LOST, 1), 0.0)
    made.disconnected()
    assert made.tick(100.0) == []
    outputs = sent(made.connected(200.0))
    assert [(e.WhichOneof("body"), e.seq, e.ack) for e in outputs] == [
        ("hcall", 1, 1),
        ("hcall", 2, 1),
        ("hcall", 3, 1),
        ("link_ack", 0, 1),
    ]
    assert [o for o in made.tick(200.9) if isinstance(o, PeerDown)] == [], "the grace starts with our own return"
    assert [o for o in made.tick(201.0) if isinstance(o, PeerDown)] == [PeerDown(B, 7, "connection lost")]


def test_who_died_while_the_broker_was_away_is_missed_after_a_while() -> None:
    world = World(("a", "b"))
    world.watch("a", "b")
    world.deliver_all()
    world.broker_down()
    world.kill("b")
    world.broker = True
    world.connect("a")
    world.pass_time(14.0, deliver=True)
    assert world.nodes["a"].downs == []
    world.pass_time(2.0, deliver=True)
    assert world.nodes["a"].downs == [("b", 1, "it did not come back")]


def test_who_came_back_after_the_broker_did_is_not_missed() -> None:
    world = World(("a", "b"))
    world.watch("a", "b")
    world.deliver_all()
    world.broker_down()
    world.send("a", "b")
    world.broker = True
    world.connect("a")
    world.pass_time(3.5, deliver=True)
    world.connect("b")
    world.deliver_all()
    assert len(world.nodes["b"].delivered) == 1, "repeated as soon as b was back, not at the next time-out"
    world.pass_time(60.0, deliver=True)
    assert world.nodes["a"].downs == []


# --- fences ----------------------------------------------------------------------------------------------------------


def cut_off_for_too_long(world: World, *, others_too: bool = False) -> None:
    """a and b talk; then a (and, if so, b too) declares the other down although it lives."""
    world.watch("a", "b")
    world.watch("b", "a")
    world.send("a", "b")
    world.send("b", "a")
    world.pass_time(1.0, deliver=True)
    assert (len(world.nodes["a"].delivered), len(world.nodes["b"].delivered)) == (1, 1)
    world.cut("b")
    if others_too:
        world.pass_time(0.0, deliver=True)
        world.pass_time(1.1, deliver=True)
        world.connect("b")
        world.cut("a")
        world.pass_time(1.1, deliver=True)
        world.connect("a")
    else:
        world.pass_time(1.1, deliver=True)
    assert [down[0] for down in world.nodes["a"].downs] == ["b"]


@pytest.mark.parametrize("traffic", ["none", "from a", "from b", "both"])
@pytest.mark.parametrize("both_fenced", [False, True])
def test_a_peer_declared_down_too_early_both_are_told_once_and_traffic_flows_again(
    traffic: str, both_fenced: bool
) -> None:
    world = World(("a", "b"))
    cut_off_for_too_long(world, others_too=both_fenced)
    if traffic in {"from a", "both"}:
        world.send("a", "b")
    if traffic in {"from b", "both"}:
        world.send("b", "a")
    world.heal()
    a, b = world.nodes["a"], world.nodes["b"]
    assert [down[:2] for down in a.downs] == [("b", 1)]
    assert [down[:2] for down in b.downs] == [("a", 1)]
    assert a.up == {"b": 1}
    assert b.up == {"a": 1}
    assert world.missing() == []
    first = world.send("a", "b")
    second = world.send("b", "a")
    world.pass_time(1.0, deliver=True)
    assert {first, second} <= world.delivered_at.keys()


def test_a_fence_is_told_again_until_the_peer_answers_and_not_for_ever() -> None:
    world = World(("a", "b"))
    cut_off_for_too_long(world)
    world.connect("b")
    while world.nodes["a"].states:
        world.deliver_state("a")
    world.frames.clear()  # the first reset is lost
    assert world.nodes["b"].downs == []
    world.pass_time(2.0, deliver=True)
    assert world.nodes["b"].downs == [("a", 1, "it had given us up")]

    world = World(("a", "b"))
    cut_off_for_too_long(world)
    world.connect("b")
    while world.nodes["a"].states:
        world.deliver_state("a")
    before = world.frames_sent
    for _ in range(300):
        world.frames.clear()
        world.pass_time(1.0)
    assert 10 <= world.frames_sent - before <= 25
    assert world.nodes["a"].link.deadline() is None


def test_a_flood_from_a_fenced_peer_gets_few_answers() -> None:
    made = with_peer()
    made.state_received("b", state_frame("b", 7, LOST, 1), 0.0)
    made.tick(1.0)
    resets = [sent(made.receive("b", "call", frame(n, seq=n), 2.0)) for n in range(1, 50)]
    assert sum(map(len, resets)) == 1
    assert made.counters["fenced"] == 49


def test_a_late_reset_does_no_harm() -> None:
    world = World(("a", "b"))
    cut_off_for_too_long(world)
    world.connect("b")
    while world.nodes["a"].states:
        world.deliver_state("a")
    (reset,) = [f for f in world.frames if Envelope.FromString(f.payload).HasField("link_reset")]
    world.deliver_all()
    for _ in range(3):
        world.send("a", "b")
    world.send("b", "a")
    world.pass_time(1.0, deliver=True)
    downs = list(world.nodes["b"].downs)
    for _ in range(2):
        world.frames.append(reset)
        world.deliver_all()
    world.send("a", "b")
    world.pass_time(1.0, deliver=True)
    assert world.nodes["b"].downs == downs
    assert world.missing() == []


# --- memory ----------------------------------------------------------------------------------------------------------


def test_dead_peers_are_forgotten_but_their_late_frames_do_not_run_again() -> None:
    made = link(dead_kept=3, max_peers=10)
    watched: set[str] = set()
    for number in range(200):
        name = f"client-{number}"
        mine = frame(number, source=name)
        outputs = made.receive(name, "call", mine, 0.0)
        outputs += made.state_received(name, state_frame(name, 7, DEATH, 1), 0.0)
        for output in outputs:
            if isinstance(output, Watch):
                watched.add(output.node)
            if isinstance(output, Unwatch):
                watched.remove(output.node)
        assert made.counters["too_many_peers"] == 0
    assert len(made._peers) <= 4
    assert watched == set(made._peers)
    assert numbers(made.receive("client-5", "call", frame(5, source="client-5"), 0.0)) == []
    assert made.counters["stale_source"] == 1
    assert numbers(made.receive("client-5", "call", frame(5, source="client-5", source_incarnation=8), 0.0)) == [5]


def test_graves_are_bounded() -> None:
    made = link(dead_kept=0, graves=5)
    for number in range(50):
        made.receive(f"c{number}", "call", frame(source=f"c{number}"), 0.0)
        made.state_received(f"c{number}", state_frame(f"c{number}", 7, DEATH, 1), 0.0)
    assert made._table.graves <= 5


def test_too_many_living_peers_are_refused_and_crashed_ones_make_room() -> None:
    made = link(max_peers=2)
    for name in ("b", "c"):
        made.receive(name, "call", frame(source=name), 0.0)
    (note,) = made.receive("d", "call", frame(source="d"), 0.0)
    assert isinstance(note, Note)
    assert note.event == "too_many_peers"
    made.state_received("b", state_frame("b", 7, LOST, 1), 0.0)
    made.tick(1.0)
    outputs = made.receive("d", "call", frame(source="d"), 2.0)
    assert Unwatch(B) in outputs
    assert numbers(outputs) == [1]


def test_forgetting_what_is_watched() -> None:
    made = link(dead_kept=0)
    made.watch(B)
    made.state_received("b", state_frame("b", 7, READY, 1), 0.0)
    assert made.forget("b") == []
    assert made.peers == [B]
    assert made.state_received("b", state_frame("b", 7, DEATH, 1), 0.0)
    made.tick(1.0)
    assert "b" not in made._peers
    made.watch(B)
    made.send(B, message(1, correlation=1), 0.0)
    assert made.forget("b") == [], "a message waits"
    made.cancel("b", 1)
    assert made.forget("b") == [Unwatch(B)]
    assert made.forget("b") == []


def test_meeting_a_peer_that_has_already_given_us_up_takes_one_reset_and_no_death() -> None:
    """It declared us down before we knew it: nothing was under way, so nothing is reported; our stream is a new one."""
    made = link()
    made.send(B, message(1), 0.0)
    outputs = made.receive("b", "reply", frame(seq=0, kind="link_reset", stream=2, ack_stream=1), 0.0)
    assert [type(output) for output in outputs] == [PeerUp, Transmit, Transmit]
    assert [(e.WhichOneof("body"), e.stream, e.seq) for e in sent(outputs)] == [("hcall", 2, 1), ("link_ack", 2, 0)]


def test_a_reset_that_refuses_our_present_stream_ends_it_once() -> None:
    """The peer's own stream is known already, but it refuses ours: it gave us up twice and we saw one of them."""
    made = with_peer()
    made.receive("b", "reply", frame(seq=0, kind="link_ack", stream=2), 0.0)  # gives us up: our stream is 2 now
    made.send(B, message(1), 0.0)
    reset = frame(seq=0, kind="link_reset", stream=2, ack_stream=2)
    outputs = made.receive("b", "reply", reset, 0.0)
    assert [o for o in outputs if isinstance(o, PeerDown)] == [PeerDown(B, 7, "it had given us up")]
    assert made.peer_phase("b") == READY
    assert [(e.WhichOneof("body"), e.stream) for e in sent(outputs)] == [("link_ack", 3)]
    assert [o for o in made.receive("b", "reply", reset, 0.0) if isinstance(o, PeerDown)] == [], "late: refused before"
