"""What management software knows of a lab, with revisions, and the list of what has changed.

One counter for everything: it starts at the wall clock's milliseconds, so that a lab that is started again never uses
a revision twice, and grows by one for each change of an object.  An object is a message (System, Partition, Switch;
an Adapter stands inside its Partition) and has the revision of its latest change.

The list of changes is bounded: who asks for what happened before its beginning is told that it has missed something.
No IO and no clock here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from pvnet.pb.v1.management_pb2 import Adapter, Change, ManagementReply, Partition, Switch, System

CHANGES_MAX: Final = 4096
"""Changes that are remembered."""
STATE: Final = "PartitionState"
READY: Final = "RMCState"
OTHER: Final = "Other"

_OF_THE_PROCESS: Final = ("state", "guest_ready", "pid", "restarts", "text", "current_memory_bytes")
"""Fields of a partition that change with its state: alone they are no change of its definition."""


class Ledger:
    """See the module's text.  What comes out of it is its own: copy it, do not change it."""

    def __init__(self, start: int, *, limit: int = CHANGES_MAX) -> None:
        self.revision = start
        """The latest there is."""
        self.system = System()
        self.partitions: dict[str, Partition] = {}
        self.switches: dict[str, Switch] = {}
        self._changes: deque[Change] = deque()
        self._limit = limit
        self._floor = start
        """Nothing is remembered of this revision and those before it."""

    def begin(self) -> None:
        """Forget how the objects came about: the lab begins now."""
        self._changes.clear()
        self._floor = self.revision

    # --- what has changed --------------------------------------------------------------------------------------------

    def changes_after(self, after: int, most_bytes: int) -> ManagementReply:
        """Return the changes later than ``after``, as many as fit, and the revision to go on from.

        ``after`` 0 asks only for the revision of now.
        """
        if after == 0 or after == self.revision:
            return ManagementReply(revision=self.revision)
        if not self._floor <= after < self.revision:  # too long ago, or of a lab whose clock was ahead of ours
            return ManagementReply(revision=self.revision, missed=True)
        answer = ManagementReply(revision=self.revision)
        used = 0
        # One change per revision, so the place in the list is known.
        for change in islice(self._changes, after - self._floor, None):
            used += change.ByteSize() + 3
            if used > most_bytes and answer.changes:
                answer.revision = answer.changes[-1].revision
                break
            answer.changes.append(change)
        return answer

    def has_news(self, after: int) -> bool:
        """Whether :meth:`changes_after` has more to say than the revision."""
        return after not in (0, self.revision)

    # --- objects -----------------------------------------------------------------------------------------------------

    def put_system(self, system: System) -> None:
        """The system is like this now (its revision is ours to say)."""
        system.revision = self.system.revision
        if system == self.system:
            return
        system.revision = self._add(Change.MODIFIED, Change.SYSTEM, system.name, system.uuid)
        self.system = system

    def put_switch(self, switch: Switch) -> None:
        """A switch is like this now, or new."""
        old = self.switches.get(switch.name)
        switch.revision = 0 if old is None else old.revision
        if switch == old:
            return
        kind = Change.ADDED if old is None else Change.MODIFIED
        switch.revision = self._add(kind, Change.SWITCH, switch.name, switch.uuid)
        self.switches[switch.name] = switch

    def drop_switch(self, name: str) -> None:
        """A switch is gone."""
        switch = self.switches.pop(name)
        self._add(Change.REMOVED, Change.SWITCH, name, switch.uuid)

    def put_partition(self, partition: Partition) -> None:
        """A partition is like this now, or new, with its adapters."""
        old = self.partitions.get(partition.name)
        adapters_changed = self._put_adapters(partition.name, partition.adapters, () if old is None else old.adapters)
        partition.revision = 0 if old is None else old.revision
        if partition == old:
            return
        if old is None:
            details = [""]
        else:
            details = [STATE] * (partition.state != old.state) + [READY] * (partition.guest_ready != old.guest_ready)
            if adapters_changed or not details or _definition(partition) != _definition(old):
                details.append(OTHER)
        for detail in details:
            kind = Change.ADDED if old is None else Change.MODIFIED
            partition.revision = self._add(
                kind, Change.PARTITION, partition.name, partition.uuid, detail=detail, state=partition.state
            )
        self.partitions[partition.name] = partition

    def drop_partition(self, name: str) -> None:
        """A partition is gone."""
        partition = self.partitions.pop(name)
        self._put_adapters(name, (), partition.adapters)
        self._add(Change.REMOVED, Change.PARTITION, name, partition.uuid)

    def _put_adapters(self, name: str, adapters: Iterable[Adapter], before: Iterable[Adapter]) -> bool:
        """Give the adapters of a partition their revisions; return whether one is new, changed or gone."""
        gone = {adapter.slot: adapter for adapter in before}
        start = self.revision
        for adapter in adapters:
            old = gone.pop(adapter.slot, None)
            adapter.revision = 0 if old is None else old.revision
            if adapter != old:
                kind = Change.ADDED if old is None else Change.MODIFIED
                adapter.revision = self._add(kind, Change.ADAPTER, name, adapter.uuid, slot=adapter.slot)
        for adapter in gone.values():
            self._add(Change.REMOVED, Change.ADAPTER, name, adapter.uuid, slot=adapter.slot)
        return self.revision != start

    def _add(
        self,
        kind: Change.Kind,
        what: Change.Object,
        name: str,
        uuid: str,
        *,
        slot: int = 0,
        detail: str = "",
        state: Partition.State = Partition.OFF,
    ) -> int:
        self.revision += 1
        change = Change(revision=self.revision, kind=kind, object=what, name=name, slot=slot, uuid=uuid)
        change.detail, change.state = detail, state
        self._changes.append(change)
        if len(self._changes) > self._limit:
            self._floor = self._changes.popleft().revision
        return self.revision


def _definition(partition: Partition) -> Partition:
    """A partition without what changes with its state."""
    rest = Partition()
    rest.CopyFrom(partition)
    for name in (*_OF_THE_PROCESS, "revision"):
        rest.ClearField(name)
    return rest
