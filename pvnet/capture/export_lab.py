"""Hcalls of one partition out of a lab's capture, as lines of an hcall trace.

A call stands where it was made and waits there for its reply; what came from the hypervisor meanwhile waits behind it.
The same message may be in a capture several times (each node records, the link repeats): the first one counts.

Spec: papr.proto; conformance/README.md.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.importers.calls import FIRST_OUT, ImportedCall, seconds
from pvnet.capture.model import LINKTYPE_MEMORY, Record
from pvnet.capture.translate import IMPORTED, INCOMPLETE, Line, trace_call
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.envelope_pb2 import Envelope

SOURCE: Final = "lab"
HEAD_BYTES: Final = 64
"""How much of a copy's data a line shows."""
_REMEMBERED: Final = 1 << 16
_WAITING: Final = 1 << 14
_MEMORY_HEAD: Final = struct.Struct(">B7xQ")
_RDMA: Final = 1
_NO_REPLY: Final = "no reply seen"


@dataclass(slots=True)
class _Slot:
    """A line, or a call whose line is not known yet."""

    line: Line | None = None
    call: ImportedCall | None = None
    tail: Line = field(default_factory=dict)


@dataclass(slots=True)
class LabExport:
    """Turns records into lines; ``partition`` is the node whose calls these are."""

    partition: str
    incomplete: int = 0
    others: int = 0
    _slots: deque[_Slot] = field(default_factory=deque)
    _open: dict[tuple[int, int], _Slot] = field(default_factory=dict)
    _seen: OrderedDict[tuple[object, ...], None] = field(default_factory=OrderedDict)
    _begin_ns: int | None = None

    def lines(self, records: Iterable[Record]) -> Iterator[Line]:
        """Yield the lines in the order in which things happened to the partition."""
        for record in records:
            self._feed(record)
            yield from self._ready()
        for slot in self._slots:
            if slot.line is None:
                self._give_up(slot, _NO_REPLY)
        yield from self._ready()

    def _ready(self) -> Iterator[Line]:
        if len(self._slots) > _WAITING and self._slots[0].line is None:
            self._give_up(self._slots[0], f"{_NO_REPLY} among {_WAITING} records")
        while self._slots and (line := self._slots[0].line) is not None:
            self._slots.popleft()
            yield line

    def _feed(self, record: Record) -> None:
        if record.interface.link_type == LINKTYPE_MEMORY:
            self._memory(record.data)
            return
        envelope = record.envelope()
        body = envelope.WhichOneof("body") if envelope is not None else None
        if envelope is None or body not in ("hcall", "hcall_reply", "refusal", "crq_entry"):
            self.others += 1
            return
        mine = envelope.source if body == "hcall" else envelope.destination
        if mine != self.partition or self._is_copy(envelope, body):
            self.others += mine != self.partition
            return
        time_ns = envelope.wall_ns if record.time_ns is None else record.time_ns
        if self._begin_ns is None:
            self._begin_ns = time_ns
        head: Line = {"t": seconds(max(time_ns - self._begin_ns, 0))}
        key = (
            envelope.source_incarnation if body == "hcall" else envelope.destination_incarnation,
            envelope.correlation,
        )
        if body == "crq_entry":
            self._slots.append(_Slot({**head, "crq_in": envelope.crq_entry.element.hex()}))
        elif body == "hcall":
            self._call(head, key, envelope)
        else:
            self._reply(key, envelope, body)

    def _is_copy(self, envelope: Envelope, body: str) -> bool:
        identity = (
            body, envelope.source, envelope.source_incarnation, envelope.stream, envelope.seq, envelope.correlation
        )  # fmt: skip
        if envelope.seq == 0 and envelope.correlation == 0:
            return False
        if identity in self._seen:
            return True
        self._seen[identity] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _call(self, head: Line, key: tuple[int, int], envelope: Envelope) -> None:
        body = envelope.hcall
        slot = _Slot(call=ImportedCall(SOURCE, body.opcode, tuple(body.args)), tail=dict(head))
        if body.problem_state:
            slot.tail["note"] = "caller in problem state"
        if body.HasField("memory"):
            slot.tail["data_head"] = body.memory[:HEAD_BYTES].hex()
        self._slots.append(slot)
        earlier = self._open.get(key)
        if earlier is not None:
            self._give_up(earlier, _NO_REPLY)
        self._open[key] = slot

    def _reply(self, key: tuple[int, int], envelope: Envelope, body: str) -> None:
        slot = self._open.pop(key, None)
        if slot is None or slot.call is None:
            self.others += 1
            return
        if body == "refusal":
            self._give_up(slot, f"refused: {envelope.refusal.text}")
            return
        reply = envelope.hcall_reply
        if reply.HasField("memory"):
            slot.tail["data_head"] = reply.memory[:HEAD_BYTES].hex()
        outs = dict(enumerate(reply.outs, FIRST_OUT))
        call = ImportedCall(SOURCE, slot.call.opcode, slot.call.args, reply.rc, outs)
        head = {"t": slot.tail.pop("t")}
        slot.line = trace_call(head, call, slot.tail)

    def _memory(self, data: bytes) -> None:
        """The contents of a copy that no message carries; it belongs to the call under way at that address."""
        self.others += 1
        if len(data) < _MEMORY_HEAD.size:
            return
        kind, address = _MEMORY_HEAD.unpack_from(data)
        for slot in reversed(self._open.values()):
            call = slot.call
            if kind != _RDMA or call is None or call.opcode != HcallOpcode.H_COPY_RDMA or "data_head" in slot.tail:
                continue
            args = call.args or ()
            if len(args) == 5 and address in (args[2], args[4]):
                slot.tail["data_head"] = data[_MEMORY_HEAD.size :][:HEAD_BYTES].hex()
                self.others -= 1
                return

    def _give_up(self, slot: _Slot, why: str) -> None:
        assert slot.call is not None
        self._open = {key: waiting for key, waiting in self._open.items() if waiting is not slot}
        self.incomplete += 1
        values = slot.call.to_json() | {"note": why}
        text = f"{INCOMPLETE}{values['name'] or values['opcode']}: {why}"
        slot.line = {"t": slot.tail["t"], "mark": text, IMPORTED: values}


def caller_of(record: Record) -> str | None:
    """The partition that makes an hcall with this record, if it is one."""
    envelope = record.envelope()
    return envelope.source if envelope is not None and envelope.WhichOneof("body") == "hcall" else None


def call_line(record: Record) -> Line | None:
    """An hcall's arguments, for who looks for windows and units; None for every other record."""
    envelope = record.envelope()
    if envelope is None or envelope.WhichOneof("body") != "hcall":
        return None
    body = envelope.hcall
    return ImportedCall(SOURCE, body.opcode, tuple(body.args)).to_json()
