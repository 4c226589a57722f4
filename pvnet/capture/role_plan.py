"""What one node of a recording has heard and said, in order: the script of :class:`pvnet.capture.roles.Role`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.expect import DEFAULT_RULES, Rules
from pvnet.capture.lore import Lore, learn_lore
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_MEMORY, Direction, Record
from pvnet.capture.payloads import MEMORY_RECORD, Payloads
from pvnet.capture.player import NS, Pace, rename_envelope, timeline
from pvnet.core.errors import ConfigError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.envelope import CHANNEL_OF_BODY, REPLY_BODIES

_LINK_BODIES: Final = frozenset({"link_ack", "link_reset", "lifecycle"})


@dataclass(slots=True)
class Act:
    """One message that the node has said (``is_out``) or heard, or a piece of its memory (``memory``)."""

    index: int
    number: int
    """Of the record."""
    at_ns: int
    """From the beginning, at speed 1."""
    gap_ns: int
    """Since the act before it, as recorded."""
    is_out: bool
    peer: str
    envelope: Envelope
    call: int | None = None
    """Of an answer: index of the call."""
    reply: int | None = None
    """Of a call: index of the answer; None: there is none in the recording."""
    memory: tuple[int, bytes] | None = None

    @property
    def body(self) -> str:
        """Name of the body."""
        return self.envelope.WhichOneof("body") or ""

    @property
    def is_reply(self) -> bool:
        """Whether it answers a call."""
        return self.body in REPLY_BODIES

    @property
    def is_call(self) -> bool:
        """Whether it asks for an answer."""
        return self.envelope.correlation != 0 and not self.is_reply


@dataclass(slots=True)
class Plan:
    """What a node has to do.  ``left_out`` counts recorded messages of the node that are not played, by reason."""

    node: str
    acts: list[Act]
    lore: Lore
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def peers(self) -> list[str]:
        """Who the node speaks with."""
        return sorted({act.peer for act in self.acts if act.memory is None})

    @property
    def duration_s(self) -> float:
        """Length at speed 1."""
        return self.acts[-1].at_ns / NS if self.acts else 0.0


def parties(records: Iterable[Record]) -> Counter[str]:
    """Count the messages of each node of a recording that says or hears any."""
    found: Counter[str] = Counter()
    for record in records:
        envelope = record.envelope()
        if envelope is not None and envelope.WhichOneof("body") not in _LINK_BODIES:
            complete(envelope, record)
            found.update({envelope.source, envelope.destination})
    found.pop("", None)
    return found


def make_plan(
    records: Iterable[Record],
    node: str,
    *,
    names: Mapping[str, str] | None = None,
    peers: Collection[str] | None = None,
    pace: Pace | None = None,
    rules: Rules = DEFAULT_RULES,
) -> Plan:
    """Take out of a recording what ``node`` said and heard.

    A message that was recorded more than once (at both ends, or sent again by the link) counts once.

    :param names: new names of nodes (``node`` is a new one).
    :param peers: who is here; what the node spoke with others is left out.  None: everybody.
    :raises ConfigError: the recording has nothing that the node has said.
    """
    line = timeline(pace or Pace())
    plan = Plan(node, [], Lore())
    seen: set[tuple[str, str, int, int, int]] = set()
    calls: dict[tuple[bool, str, int], int | None] = {}
    heard: list[Envelope] = []
    last_ns: int | None = None
    payloads = Payloads()
    for record in records:
        if record.interface.link_type == LINKTYPE_MEMORY:
            if payloads.memory(record.data):
                continue
            if (names or {}).get(record.interface.node, record.interface.node) == node:
                _add_memory(plan, record, line.place(record.time_ns))
            continue
        envelope = record.envelope()
        if envelope is None:
            reason = "cut or damaged" if record.interface.link_type == LINKTYPE_ENVELOPE else "no message"
            plan.left_out[reason] += 1
            continue
        complete(envelope, record)
        if names:
            rename_envelope(envelope, names)
        body = envelope.WhichOneof("body") or ""
        if body in _LINK_BODIES:
            continue
        if body not in CHANNEL_OF_BODY:
            if node not in (envelope.source, envelope.destination):
                continue
            plan.left_out["unknown body"] += 1
            continue
        key = (envelope.source, envelope.destination, envelope.source_incarnation, envelope.stream, envelope.seq)
        if envelope.seq and key in seen:
            continue
        seen.add(key)
        payloads.message(envelope)
        if node not in (envelope.source, envelope.destination):
            continue
        heard.append(envelope)
        is_out = envelope.source == node
        peer = envelope.destination if is_out else envelope.source
        asked = (not is_out, peer, envelope.correlation)  # whose call this would answer
        is_reply = body in REPLY_BODIES
        call = calls.get(asked) if is_reply else None
        is_left_out = peer not in peers if peers is not None else False
        if is_left_out:
            plan.left_out[f"with {peer}, who is not here"] += 1
        elif is_reply and (call is None):
            is_left_out = True
            plan.left_out["answer to a call that is left out" if asked in calls else "answer without its call"] += 1
        elif rules.is_skipped(envelope):
            is_left_out = True
            plan.left_out["by the rules"] += 1
        index = len(plan.acts)
        if envelope.correlation and not is_reply:
            calls[is_out, peer, envelope.correlation] = None if is_left_out else index
        if is_left_out:
            continue
        at_ns = line.place(record.time_ns)
        gap = 0 if last_ns is None or record.time_ns is None else max(0, record.time_ns - last_ns)
        last_ns = record.time_ns if record.time_ns is not None else last_ns
        act = Act(index, record.number, at_ns, gap, is_out, peer, envelope, call=call)
        plan.acts.append(act)
        if call is not None:
            plan.acts[call].reply = index
            calls[asked] = None  # one answer to a call
    if not any(act.is_out and act.memory is None for act in plan.acts):
        others = ", ".join(sorted(plan.left_out)) or "nothing of it is there"
        raise ConfigError(f"the recording has no message that {node} has sent and that can be played ({others})")
    plan.lore = learn_lore(heard)
    return plan


def complete(envelope: Envelope, record: Record) -> None:
    """Fill in the end that the recording node itself is, where it was recorded before it was filled in."""
    if not envelope.source and record.direction is Direction.OUT:
        envelope.source = record.interface.node
    if not envelope.destination and record.direction is Direction.IN:
        envelope.destination = record.interface.node


def _add_memory(plan: Plan, record: Record, at_ns: int) -> None:
    if len(record.data) < MEMORY_RECORD.size:
        plan.left_out["cut or damaged"] += 1
        return
    _, address = MEMORY_RECORD.unpack_from(record.data)
    memory = (address, record.data[MEMORY_RECORD.size :])
    plan.acts.append(Act(len(plan.acts), record.number, at_ns, 0, True, "", Envelope(), memory=memory))
