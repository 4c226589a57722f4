"""What breaks a protocol over several records: order, numbers, answers that nobody asked for.

Feed every record in the order of the capture.  What is wrong with a record by itself is in its ``problems`` and comes
out here too.  A recording may begin in the middle and may have each message twice (as both ends saw it); neither is a
violation.  All tables are bounded.

Spec: design 3; vmc 2 to 6; mdev 6.1; vbus 3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from pvnet.capture.decode import Decoded
from pvnet.capture.pairs import Matched, Pairs
from pvnet.capture.violations_vmc import VmcWatch
from pvnet.mdev.vfio_user import Command, command_name
from pvnet.papr.crq import CrqHeader
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.messages import VmcType

MAX_KEPT: Final = 4096
"""Streams, adapters, sessions that are followed at a time."""
_MAX_SEEN: Final = 4096
"""Messages whose second copy is recognized."""

K = TypeVar("K")
V = TypeVar("V")


def _kept(table: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """Entry of a bounded table, made when it is new; the one not used for longest makes room."""
    if key in table:
        table.move_to_end(key)
        return table[key]
    if len(table) >= MAX_KEPT:
        table.popitem(last=False)
    return table.setdefault(key, make())


class _Stream:
    """Sequence numbers from one node to another."""

    __slots__ = ("highest", "missing", "seen")

    def __init__(self) -> None:
        self.highest = 0
        self.missing: set[int] = set()
        self.seen: OrderedDict[int, set[str]] = OrderedDict()
        """By sequence number: where the message was seen."""


class Violations:
    """The watch over a whole capture."""

    def __init__(self) -> None:
        self.count = 0
        self.pairs = Pairs()
        self.matched: Matched | None = None
        """The call that the last record answers."""
        self._streams: OrderedDict[tuple[object, ...], _Stream] = OrderedDict()
        self._callers: OrderedDict[tuple[str, object], int] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str, int], bool] = OrderedDict()
        self._adapters: OrderedDict[tuple[str, int], VmcWatch] = OrderedDict()
        self._slots: OrderedDict[tuple[str, int, int], int] = OrderedDict()
        self._arenas: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def feed(self, decoded: Decoded) -> list[str]:
        """Take a record; return what is wrong, one line each."""
        out = list(decoded.problems)
        is_copy = self._sequence(decoded, out)
        waiting = None if decoded.is_reply else self.pairs.waiting(decoded.pair)
        self.matched = self.pairs.feed(decoded)
        if not is_copy:
            self._answers(decoded, waiting, out)
            self._elements(decoded, out)
            if decoded.has("vbus"):
                self._arena(decoded, out)
        self.count += len(out)
        return out

    def _sequence(self, decoded: Decoded, out: list[str]) -> bool:
        """Judge the link's number; return whether the same message was seen elsewhere before."""
        seq = decoded.get("envelope.seq")
        if not isinstance(seq, int) or not seq:
            return False
        key = (decoded.source, decoded.get("envelope.source_incarnation"), decoded.destination)
        stream = _kept(self._streams, (*key, decoded.get("envelope.stream")), _Stream)
        view = f"{decoded.record.interface.name} {decoded.record.direction.name}"
        views = stream.seen.get(seq)
        if views is not None:
            if view in views:
                out.append(f"seq {seq} again")
            views.add(view)
            return True
        stream.seen[seq] = {view}
        if len(stream.seen) > _MAX_SEEN:
            stream.seen.popitem(last=False)
        if seq in stream.missing:
            stream.missing.discard(seq)
            out.append(f"seq {seq} late")
        elif stream.highest and seq > stream.highest + 1:
            first, last = stream.highest + 1, seq - 1
            out.append(f"seq {first} missing" if first == last else f"seq {first} to {last} missing")
            stream.missing.update(range(first, min(seq, first + _MAX_SEEN - len(stream.missing))))
        stream.highest = max(stream.highest, seq)
        return False

    def _answers(self, decoded: Decoded, waiting: Decoded | None, out: list[str]) -> None:
        if not decoded.pair:
            return
        is_vfio = decoded.kind == "mdev_message"
        if not decoded.is_reply:
            if waiting is not None:
                out.append(f"call {decoded.call:#x} again, before its reply")
            if is_vfio:
                if decoded.get("vfio.command") == Command.VERSION:
                    _kept(self._sessions, self._session(decoded), lambda: True)
            else:
                caller = (decoded.source, decoded.get("envelope.source_incarnation"))
                self._callers[caller] = min(_kept(self._callers, caller, lambda: decoded.call), decoded.call)
            return
        if self.matched is None:
            if is_vfio:
                is_whole = self._session(decoded) in self._sessions
            else:
                caller = (decoded.destination, decoded.get("envelope.destination_incarnation"))
                is_whole = caller in self._callers and decoded.call >= self._callers[caller]
            if is_whole:
                out.append(f"reply without call {decoded.call:#x}")
        elif self.matched.is_again:
            out.append(f"second reply to call {decoded.call:#x}")
        elif is_vfio and self.matched.call.get("vfio.command") != decoded.get("vfio.command"):
            asked = self.matched.call.get("vfio.command")
            assert isinstance(asked, int)
            out.append(f"reply to another command: {command_name(asked)} was asked")

    def _session(self, decoded: Decoded) -> tuple[str, str, int]:
        first, second = sorted((decoded.source, decoded.destination))
        session = decoded.get("mdev.session")
        return first, second, session if isinstance(session, int) else 0

    def _elements(self, decoded: Decoded, out: list[str]) -> None:
        """CRQ: order of slots, and the VMC above it."""
        opcode = decoded.get("hcall.opcode")
        unit = decoded.get("crq.unit")
        from_partition = decoded.kind == "hcall" or (decoded.kind == "crq" and decoded.destination == "hypervisor")
        partition = decoded.source if from_partition else decoded.destination
        if opcode in (HcallOpcode.H_REG_CRQ, HcallOpcode.H_FREE_CRQ) and decoded.kind == "hcall":
            self._registered(partition, decoded.get("hcall.args"))
            return
        element = decoded.get("crq.element")
        if not isinstance(element, bytes) or len(element) != 16 or not decoded.has("crq"):
            return
        number = unit if isinstance(unit, int) else 0
        if decoded.kind == "crq_entry":
            self._slot(decoded, partition, number, out)
        rc = decoded.get("hcall.rc")
        if isinstance(rc, int) and rc:
            return  # an imported H_SEND_CRQ that was refused
        watch = self._adapters.get((partition, number))
        # Other drivers have elements that look like VMC messages: the exchange of capabilities tells, or a transcript.
        kind = decoded.get("vmc.type")
        if kind in (VmcType.CAPABILITIES, VmcType.CAPABILITIES_RESPONSE) or (
            kind is not None and decoded.kind == "crq"
        ):
            watch = _kept(self._adapters, (partition, number), VmcWatch)
        if watch is None:
            return
        if element[0] == CrqHeader.INIT or element[0] == CrqHeader.TRANSPORT_EVENT:
            watch.reset()
        elif element[0] == CrqHeader.COMMAND:
            out += [text for text in watch.feed(element, from_partition=from_partition) if text not in out]

    def _registered(self, partition: str, unit: object) -> None:
        if isinstance(unit, int):
            watch = self._adapters.get((partition, unit))
            if watch is not None:
                watch.reset()

    def _slot(self, decoded: Decoded, partition: str, unit: int, out: list[str]) -> None:
        registration, slot = decoded.get("crq.registration"), decoded.get("crq.slot")
        if not isinstance(registration, int) or not isinstance(slot, int):
            return
        key = (partition, unit, registration)
        before = self._slots.get(key)
        if before is not None and slot not in (before + 1, 0):
            out.append(f"CRQ slot {slot} after slot {before}")
        _kept(self._slots, key, lambda: slot)
        self._slots[key] = slot

    def _arena(self, decoded: Decoded, out: list[str]) -> None:
        """The bridge: everything that a partition names lies in the memory that it attached."""
        if decoded.kind == "vbus_attach":
            base, size = decoded.get("vbus.base"), decoded.get("vbus.bytes")
            if isinstance(base, int) and isinstance(size, int):
                arena = (base, size)
                _kept(self._arenas, decoded.source, lambda: arena)
                self._arenas[decoded.source] = arena
            return
        attached = self._arenas.get(decoded.source)
        if attached is None or decoded.kind != "vbus_call":
            return
        low, high = attached[0], attached[0] + attached[1]
        for what, address, length in (
            ("parameters", "vbus.parameter_address", "vbus.parameter_length"),
            ("data", "vbus.call_address", "vbus.call_length"),
            ("region", "vbus.shm_address", "vbus.shm_length"),
        ):
            start, size = decoded.get(address), decoded.get(length)
            if isinstance(start, int) and isinstance(size, int) and size and not low <= start <= high - size:
                out.append(f"{what} at {start:#x} of {size} bytes: outside of the attached memory")
