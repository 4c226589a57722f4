"""Plays one side of a recording against living others: what it said then it says now, when its cause has come.

A :class:`~pvnet.capture.role_plan.Plan` is what one node of a recording has heard and said, in order.
:class:`Role` is the machine that acts it out.  It is pure: living messages and the time go in,
messages to send come out.

* A recorded message of the node is sent when everything that it had heard before (from those who are here) has come
  again, and not before its time.  What does not come within ``patience_s`` (and the time that it took then) is noted
  as missing, and the play goes on.
* Each living message is matched with a recorded one of the same sender: an answer by the call that it answers, others
  with the first that it fits, else with the first of the same kind that is due, which then differs.  What fits nothing
  is noted as unexpected.
* A call by the living gets the recorded answer of the call that it was matched with.  One that the recording does not
  have gets the answer to an equal call before it; memory is read and written in an image of the node's memory, made of
  what the recording shows of it; a question for status is answered; everything else is refused.
* Who may come after the play has begun (``late``) is waited for when it is its turn, ``wait_s`` seconds from the
  beginning at most; the pace of the recording goes on from there.  What would have passed with somebody who has not
  come is left out and counted.
* Correlations, incarnations, streams and sequence numbers are the link's business and made anew.  Identifiers that the
  living chose differently are translated (:mod:`pvnet.capture.expect`).

Doubt decided: the causes of a message are *all* messages heard before it.  That is more than necessary, but nothing in
a recording says which ones mattered, and to wait for one too many is harmless; one too few is a different program.

Spec: ecosystem C.5.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Collection
from typing import Final

from pvnet.capture.expect import DEFAULT_RULES, Difference, Expectation, Rules, describe
from pvnet.capture.lore import Domain
from pvnet.capture.memory_image import MemoryImage
from pvnet.capture.player import NS
from pvnet.capture.role_io import (
    Answered,
    Ask,
    Begin,
    Gone,
    Heard,
    Here,
    Post,
    Refuse,
    Reply,
    RoleInput,
    RoleOutput,
    Unanswered,
)
from pvnet.capture.role_plan import Act, Plan
from pvnet.capture.slots import Value
from pvnet.core.machine import Tick
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply
from pvnet.pb.v1.papr_pb2 import MemoryReply

PATIENCE_S: Final = 5.0
"""How much longer than then an answer may take."""
WAIT_S: Final = 10.0
"""How long others may take to come."""
_LOOK_AHEAD: Final = 256
"""How many recorded messages of a sender a living one is compared with."""
_ANSWERS_KEPT: Final = 1024


class Role:
    """See the module's text.  ``is_done`` when everything has been said, and heard or missed."""

    def __init__(
        self,
        plan: Plan,
        *,
        rules: Rules = DEFAULT_RULES,
        speed: float | None = None,
        patience_s: float = PATIENCE_S,
        late: Collection[str] = (),
        wait_s: float = WAIT_S,
    ) -> None:
        self.plan = plan
        self.expectation = Expectation(rules, plan.lore)
        self.counters: Counter[str] = Counter()
        self.image = MemoryImage()
        self._rules = rules
        self._speed = speed
        self._patience_s = patience_s
        self.late = set(late)  # who may still come
        self.absent: set[str] = set()  # who should have come by now
        self.left_out: Counter[str] = Counter()  # recorded messages that are not played, by reason
        self._wait_s = wait_s
        self._wait_until = 0.0
        self._begun: float | None = None
        self._progress = 0.0  # when something last happened
        self._next = 0  # first act that has not passed: all before it have been said, heard or missed
        self._heard = [False] * len(plan.acts)
        self._pending: dict[str, deque[int]] = {}  # by sender: what is still to be heard, answers aside
        for act in plan.acts:
            if not act.is_out and not act.is_reply:
                self._pending.setdefault(act.peer, deque()).append(act.index)
        self._asked: dict[int, Envelope] = {}  # recorded call of another -> the living one
        self._sent: dict[int, Envelope] = {}  # our call -> as it was sent
        self._answers: OrderedDict[tuple[str, bytes], tuple[Act, Envelope]] = OrderedDict()
        self._gone: set[str] = set()
        self._outputs: list[RoleOutput] = []

    # --- driving -----------------------------------------------------------------------------------------------------

    def feed(self, event: RoleInput, now: float) -> list[RoleOutput]:
        """Consume one input; see :mod:`pvnet.core.machine`."""
        match event:
            case Begin():
                self._begun = self._progress = now
                self._wait_until = now + self._wait_s
            case Here(node):
                self._here(node, now)
            case Heard(envelope):
                self._here(envelope.source, now)
                self._hear(envelope, now)
            case Answered(tag, envelope):
                self._answered(tag, envelope, now)
            case Unanswered(tag, text):
                self._unanswered(tag, text, now)
            case Gone(node):
                self._gone.add(node)
            case Tick():
                pass
        self._play(now)
        outputs, self._outputs = self._outputs, []
        return outputs

    def deadline(self) -> float | None:
        """When a Tick is wanted."""
        if self._begun is None or self.is_done:
            return None
        act = self.plan.acts[self._next]
        if act.peer in self.late:
            return self._wait_until
        return self._due(act) if act.is_out else self._limit(act)

    @property
    def is_done(self) -> bool:
        """Whether the play is over."""
        return self._next >= len(self.plan.acts)

    @property
    def passed(self) -> int:
        """How many acts have been said, heard or missed."""
        return self._next

    def _due(self, act: Act) -> float:
        assert self._begun is not None
        return self._begun if self._speed is None else self._begun + act.at_ns / NS / self._speed

    def _limit(self, act: Act) -> float:
        """Until when a message is waited for: as long as then, and some patience."""
        limit = max(self._progress, self._due(act)) + act.gap_ns / NS + self._patience_s
        return max(limit, self._wait_until) if act.peer in self.late else limit

    def _here(self, node: str, now: float) -> None:
        """Somebody has come: what it was waited for is no delay of what follows."""
        self.absent.discard(node)
        self._gone.discard(node)
        if node not in self.late:
            return
        self.late.discard(node)
        if self._begun is None or self.is_done:
            return
        act = self.plan.acts[self._next]
        if act.peer == node:
            self._progress = now
            self._begun += max(0.0, now - self._due(act))

    def _play(self, now: float) -> None:
        """Pass all acts whose time has come."""
        if self._begun is None:
            return
        acts = self.plan.acts
        while self._next < len(acts):
            act = acts[self._next]
            if act.peer in self.late:
                if now < self._wait_until:
                    return
                self.absent |= self.late
                self.late.clear()
            if act.peer in self.absent and not self._heard[act.index]:
                self._take(act)
                self.left_out[f"with {act.peer}, who has not come"] += 1
            elif act.is_out:
                if self._due(act) > now:
                    return
                self._say(act)
                self._progress = now
            elif not self._heard[act.index]:
                if now < self._limit(act) and act.peer not in self._gone:
                    return
                self._miss_up_to_next_word(now)
                continue
            self._next += 1

    def _miss_up_to_next_word(self, now: float) -> None:
        """Give up everything that stands between here and the next thing to say: it had the same time to come."""
        acts = self.plan.acts
        for act in acts[self._next :]:
            if act.is_out:
                break
            if act.peer in self.absent:
                continue
            if not self._heard[act.index] and (now >= self._limit(act) or act.peer in self._gone):
                self._miss(act, f"nothing: {act.peer} has ended" if act.peer in self._gone else "nothing")
        self._progress = now

    def _miss(self, act: Act, living: str) -> None:
        self._take(act)
        what = describe(act.envelope, act.peer, self._call_of(act))
        self.expectation.note("missing", Difference(act.number, what, "", "this message", living))

    def _take(self, act: Act) -> None:
        """Note that an act has been heard, or never will be."""
        self._heard[act.index] = True
        waiting = self._pending.get(act.peer)
        if waiting is not None and not act.is_reply:
            if waiting[0] == act.index:
                waiting.popleft()
            elif act.index in waiting:
                waiting.remove(act.index)

    def _call_of(self, act: Act) -> Envelope | None:
        return None if act.call is None else self.plan.acts[act.call].envelope

    # --- speaking ----------------------------------------------------------------------------------------------------

    def _say(self, act: Act) -> None:
        if act.memory is not None:
            self.image.write(*act.memory)
            return
        recorded_call = self._call_of(act)
        if act.call is not None and act.call not in self._asked:
            self.counters["answer_to_nobody"] += 1  # the call has not come: that is noted already
            return
        message = self.expectation.rewritten(act.envelope, act.peer, recorded_call)
        _strip(message)
        self.expectation.passed(act.envelope, act.peer, recorded_call)
        self.counters["said"] += 1
        if act.call is not None:
            self._outputs.append(Reply(self._asked.pop(act.call), message))
            self._remember(act, message)
        elif act.is_call:
            self._sent[act.index] = message
            answer = None if act.reply is None else self.plan.acts[act.reply]
            wait = self._patience_s if answer is None else self._patience_s + (answer.at_ns - act.at_ns) / NS
            self._outputs.append(Ask(act.peer, message, act.index, max(wait * 2, self._patience_s)))
        else:
            self._outputs.append(Post(act.peer, message))

    def _remember(self, act: Act, message: Envelope) -> None:
        assert act.call is not None
        key = (act.peer, _body_bytes(self.plan.acts[act.call].envelope))
        self._answers[key] = (act, message)
        self._answers.move_to_end(key)
        if len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)

    # --- listening ---------------------------------------------------------------------------------------------------

    def _answered(self, tag: int, envelope: Envelope, now: float) -> None:
        call = self.plan.acts[tag]
        sent = self._sent.pop(tag, None)
        if call.reply is None or sent is None:
            self.counters["answer_not_in_recording"] += 1  # the recording ends before it
            return
        act = self.plan.acts[call.reply]
        if self._heard[act.index]:
            self.counters["late_answer"] += 1
            return
        self._take(act)
        self._progress = now
        self.expectation.compare(act.number, act.envelope, envelope, act.peer, (call.envelope, sent))

    def _unanswered(self, tag: int, text: str, now: float) -> None:
        self._sent.pop(tag, None)
        reply = self.plan.acts[tag].reply
        if reply is not None and not self._heard[reply]:
            self._miss(self.plan.acts[reply], text)
            self._progress = now

    def _hear(self, envelope: Envelope, now: float) -> None:
        act = self._match(envelope)
        if act is None:
            self._improvise(envelope)
            return
        self._take(act)
        self._progress = now
        self.expectation.compare(act.number, act.envelope, envelope, act.peer)
        if act.is_call and envelope.correlation:
            self._asked[act.index] = envelope
            pair: tuple[Domain, Value] = (("correlation", act.peer), act.envelope.correlation)
            self.expectation.same.learn({pair: envelope.correlation})

    def _match(self, envelope: Envelope) -> Act | None:
        """Find the recorded message that a living one is."""
        if self._rules.is_skipped(envelope):
            return None
        waiting = self._pending.get(envelope.source)
        if not waiting:
            return None
        body = envelope.WhichOneof("body")
        is_call = envelope.correlation != 0
        alike: Act | None = None
        expected = self._first_unsaid()
        for position, index in enumerate(waiting):
            if position >= _LOOK_AHEAD:
                break
            act = self.plan.acts[index]
            if act.body != body or act.is_call != is_call:
                continue
            if self.expectation.fits(act.envelope, envelope, act.peer):
                return act
            if alike is None and (is_call or index < expected) and _kind(act.envelope) == _kind(envelope):
                alike = act
        return alike

    def _first_unsaid(self) -> int:
        """Index of the first thing that has not been said: everything before it may come now."""
        for act in self.plan.acts[self._next :]:
            if act.is_out:
                return act.index
        return len(self.plan.acts)

    def _improvise(self, envelope: Envelope) -> None:
        """React to what the recording does not have."""
        peer, body = envelope.source, envelope.WhichOneof("body") or "no body"
        is_call = envelope.correlation != 0
        if body == "memory_read":
            self.counters["memory_read"] += 1
            self._outputs.append(Reply(envelope, Envelope(memory_reply=self.image.answer(envelope))))
            return
        if body == "memory_write":
            self.counters["memory_write"] += 1
            self.image.write(envelope.memory_write.address, envelope.memory_write.data)
            self._outputs.append(Reply(envelope, Envelope(memory_reply=MemoryReply())))
            return
        if self._rules.is_skipped(envelope):
            if is_call and envelope.management.WhichOneof("command") == "show_status":
                status = {"replay": {"passed": self._next, "of": len(self.plan.acts), **self.counters}}
                answer = ManagementReply(status_json=json.dumps(status))
                self._outputs.append(Reply(envelope, Envelope(management_reply=answer)))
            elif is_call:
                self._outputs.append(Refuse(envelope, f"{self.plan.node} is played from a recording"))
            return
        self.counters["unexpected"] += 1
        self.expectation.note("unexpected", Difference(0, describe(envelope, peer), "", "nothing", _said(envelope)))
        if not is_call:
            return
        known = self._answers.get((peer, _body_bytes(envelope)))
        if known is not None:
            copy = Envelope()
            copy.CopyFrom(known[1])
            self._outputs.append(Reply(envelope, copy))
        else:
            self._outputs.append(Refuse(envelope, f"the recording of {self.plan.node} has no answer to this {body}"))


def _kind(envelope: Envelope) -> tuple[object, ...]:
    """Messages of one kind ask for, or tell, the same sort of thing."""
    body = envelope.WhichOneof("body")
    match body:
        case "hcall":
            return (body, envelope.hcall.opcode)
        case "crq_entry":
            return (body, envelope.crq_entry.unit, bytes(envelope.crq_entry.element[:2]))
        case "device_io":
            return (body, envelope.device_io.operation)
        case "management":
            return (body, envelope.management.WhichOneof("command"))
        case "mdev_message":
            return (body, bytes(envelope.mdev_message.message[2:4]))
    return (body,)


def _strip(envelope: Envelope) -> None:
    """Leave of a recorded message what is said, and drop how it travelled."""
    for name in (
        "schema", "lab", "source", "source_incarnation", "destination", "destination_incarnation", "stream", "seq",
        "ack_stream", "ack", "correlation", "deadline_ms", "monotonic_ns", "wall_ns", "trace",
    ):  # fmt: skip
        envelope.ClearField(name)


def _body_bytes(envelope: Envelope) -> bytes:
    bare = Envelope()
    bare.CopyFrom(envelope)
    _strip(bare)
    return bare.SerializeToString(deterministic=True)


def _said(envelope: Envelope) -> str:
    text = " ".join(str(getattr(envelope, envelope.WhichOneof("body") or "link_ack")).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
