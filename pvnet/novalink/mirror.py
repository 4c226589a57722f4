"""What the platform was when we last heard, kept so that a request is answered without asking it; without IO.

Whoever has the session does this, again for each session::

    fetch = Fetch()
    while (command := fetch.next_command()) is not None:
        fetch.take(await session.manage(command))
    happened = mirror.restore(fetch)
    while True:
        batch = mirror.batch(await session.manage(mirror.watch_command(wait_ms)))
        while (command := batch.next_command()) is not None:
            batch.take(await session.manage(command))
        happened = mirror.apply(batch)

``happened`` says what to tell the clients, in the order of the platform's revisions.  A reply that does not say OK, or
not what was asked for, raises :class:`MirrorError`: the session is of no use then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final

from pvnet.core.errors import PvnetError
from pvnet.pb.v1.management_pb2 import (
    Change,
    ListPartitions,
    ListSwitches,
    Management,
    ManagementReply,
    Partition,
    ShowPartition,
    ShowSystem,
    Switch,
    System,
    WatchChanges,
)

_MOST_REPLIES: Final = 4096
"""More than a list may take (every reply has at least one entry): a platform that never ends is none."""


class MirrorError(PvnetError):
    """The platform's answers do not make a picture of it."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing to tell clients; ``object`` 0: everything may have changed."""

    kind: int
    """``Change.Kind``."""
    object: int
    """``Change.Object``."""
    uuid: str = ""
    """Of what has changed, lower case."""
    partition_uuid: str = ""
    """Of an adapter: its partition's."""
    detail: str = ""
    revision: int = 0


class Fetch:
    """A whole picture of the platform, made by one command after the other."""

    def __init__(self) -> None:
        self.revision = 0
        """Of the first answer: what changed while the others were made is heard of afterwards (again, at worst)."""
        self.system: System | None = None
        self.partitions: dict[str, Partition] = {}
        self.switches: dict[str, Switch] = {}
        self._todo: deque[str] = deque(["show_system", "list_switches", "list_partitions"])
        self._first = 0
        self._replies = 0

    def next_command(self) -> Management | None:
        """Return the next command, or None when the picture is whole."""
        if not self._todo:
            return None
        match self._todo[0]:
            case "show_system":
                return Management(show_system=ShowSystem())
            case "list_switches":
                return Management(list_switches=ListSwitches())
            case _:
                return Management(list_partitions=ListPartitions(first=self._first))

    def take(self, reply: ManagementReply) -> None:
        """Take the answer to the last command; MirrorError when it is none."""
        what = self._todo[0]
        _check(reply, what)
        self._replies += 1
        if self._replies > _MOST_REPLIES:
            raise MirrorError(f"{what}: a list that does not end")
        if not self.revision:
            self.revision = reply.revision
        if what == "show_system":
            if not reply.HasField("system"):
                raise MirrorError("show_system: an answer without a system")
            self.system = reply.system
        elif what == "list_switches":
            self.switches = {switch.name: switch for switch in reply.switches}
        else:
            self.partitions.update((p.name, p) for p in reply.partitions)
            if reply.next:
                if reply.next <= self._first:
                    raise MirrorError(f"list_partitions: it goes on at {reply.next} after {self._first}")
                self._first = reply.next
                return
        self._todo.popleft()


class Batch:
    """Some changes, and the commands that show what they made."""

    def __init__(self, changes: list[Change], revision: int, *, missed: bool) -> None:
        self.changes = changes
        self.revision = revision
        self.missed = missed
        """Whether everything may have changed: it needs a :class:`Fetch`."""
        self.system: System | None = None
        self.switches: dict[str, Switch] | None = None
        self.partitions: dict[str, Partition | None] = {}
        self._todo: deque[Management] = deque()
        if not missed:
            self._plan()

    def _plan(self) -> None:
        objects = {change.object for change in self.changes}
        # Free memory and processors are of the system, whatever a partition does.
        if objects & {Change.SYSTEM, Change.PARTITION}:
            self._todo.append(Management(show_system=ShowSystem()))
        if Change.SWITCH in objects:
            self._todo.append(Management(list_switches=ListSwitches()))
        names = {c.name: None for c in self.changes if c.object in {Change.PARTITION, Change.ADAPTER}}
        self._todo.extend(Management(show_partition=ShowPartition(name=name)) for name in names)

    def next_command(self) -> Management | None:
        """Return the next command, or None when there is none."""
        return self._todo[0] if self._todo else None

    def take(self, reply: ManagementReply) -> None:
        """Take the answer to the last command; MirrorError when it is none."""
        command = self._todo.popleft()
        what = str(command.WhichOneof("command"))
        if what == "show_partition" and reply.status == ManagementReply.NOT_FOUND:
            self.partitions[command.show_partition.name] = None
            return
        _check(reply, what)
        match what:
            case "show_system":
                if not reply.HasField("system"):
                    raise MirrorError("show_system: an answer without a system")
                self.system = reply.system
            case "list_switches":
                self.switches = {switch.name: switch for switch in reply.switches}
            case _:
                name = command.show_partition.name
                if len(reply.partitions) != 1 or reply.partitions[0].name != name:
                    raise MirrorError(f"show_partition {name!r}: an answer with another partition, or none")
                self.partitions[name] = reply.partitions[0]


class Mirror:
    """See the module's text."""

    def __init__(self) -> None:
        self.revision = 0
        """Up to here the picture has everything."""
        self.system: System | None = None
        """None until the first picture."""
        self.partitions: dict[str, Partition] = {}
        """By name of the node, in the platform's order."""
        self.switches: dict[str, Switch] = {}
        self.switch_ids: dict[str, int] = {}
        """Number of each switch; who stays keeps it, whatever becomes of the others."""

    def restore(self, fetch: Fetch, *, missed: bool = True) -> list[Happened]:
        """Take a whole picture; unless it is the first one, or nothing can have been missed, say so."""
        first = self.system is None
        self.system, self.partitions, self.switches = fetch.system, fetch.partitions, fetch.switches
        self._number_switches()
        self.revision = fetch.revision
        if first or not missed:
            return []
        return [Happened(Change.MODIFIED, Change.OBJECT_UNSPECIFIED, revision=fetch.revision)]

    def watch_command(self, wait_ms: int) -> Management:
        """Return the command that waits for the next changes."""
        return Management(watch_changes=WatchChanges(after=self.revision, wait_ms=wait_ms))

    def batch(self, reply: ManagementReply) -> Batch:
        """Take the answer to a watch; MirrorError when it is none."""
        _check(reply, "watch_changes")
        changes = sorted(reply.changes, key=lambda change: change.revision)
        if not reply.missed and reply.revision < self.revision:
            raise MirrorError(f"watch_changes: revision {reply.revision} after {self.revision}")
        return Batch([c for c in changes if c.revision > self.revision], reply.revision, missed=reply.missed)

    def apply(self, batch: Batch) -> list[Happened]:
        """Take a batch whose commands have all been answered; returns what to tell, oldest first."""
        known = {p.name: p.uuid for p in self.partitions.values()}
        if batch.system is not None:
            self.system = batch.system
        if batch.switches is not None:
            self.switches = batch.switches
            self._number_switches()
        for name, partition in batch.partitions.items():
            if partition is None:
                self.partitions.pop(name, None)
            else:
                self.partitions[name] = partition
                known[name] = partition.uuid
        self.revision = max(self.revision, batch.revision)
        return list(self._told(batch.changes, known))

    def _number_switches(self) -> None:
        kept = {name: number for name, number in self.switch_ids.items() if name in self.switches}
        free = (number for number in count() if number not in set(kept.values()))
        self.switch_ids = {name: kept[name] if name in kept else next(free) for name in self.switches}

    def _told(self, changes: Iterable[Change], known: dict[str, str]) -> Iterable[Happened]:
        for change in changes:
            owner = known.get(change.name, "") if change.object == Change.ADAPTER else ""
            if change.object == Change.ADAPTER and not owner:
                continue  # it came and went with its partition, of which is told
            yield Happened(
                kind=change.kind,
                object=change.object,
                uuid=change.uuid or (known.get(change.name, "") if change.object == Change.PARTITION else ""),
                partition_uuid=owner,
                detail=change.detail,
                revision=change.revision,
            )


def _check(reply: ManagementReply, what: str) -> None:
    if reply.status != ManagementReply.OK:
        raise MirrorError(f"{what}: {reply.text or ManagementReply.Status.Name(reply.status)}")
