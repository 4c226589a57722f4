"""The platform at one moment, as the documents of its resources and the requests for them see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pvnet.novalink.names import DEFAULT_VLAN, adapter_uuid, network_uuid, volume_uuid
from pvnet.pb.v1.management_pb2 import Adapter, Partition, ScmVolume, Switch, System

_NO_IDS: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class View:
    """The platform at one moment.  The messages belong to the view: nobody changes them."""

    system: System
    partitions: tuple[Partition, ...] = ()
    switches: tuple[Switch, ...] = ()
    switch_ids: Mapping[str, int] = field(default_factory=lambda: _NO_IDS)
    """SwitchID by the switch's name; without one, where it stands among the others."""

    def partition(self, uuid: str) -> Partition | None:
        """Return the partition of this UUID, in either case."""
        wanted = uuid.lower()
        return next((p for p in self.partitions if p.uuid.lower() == wanted), None)

    def adapter(self, partition: Partition, uuid: str) -> Adapter | None:
        """Return the partition's adapter of this UUID."""
        wanted = uuid.lower()
        return next((a for a in partition.adapters if adapter_uuid(partition, a) == wanted), None)

    def volume(self, partition: Partition, uuid: str) -> ScmVolume | None:
        """Return the partition's persistent memory of this UUID."""
        wanted = uuid.upper()
        return next((v for v in partition.scm if volume_uuid(partition, v) == wanted), None)

    def switch(self, uuid: str) -> Switch | None:
        """Return the switch of this UUID."""
        wanted = uuid.lower()
        return next((s for s in self.switches if s.uuid.lower() == wanted), None)

    def switch_named(self, name: str) -> Switch | None:
        """Return the switch of this name (not label)."""
        return next((s for s in self.switches if s.name == name), None)

    def switch_id(self, switch: Switch) -> int:
        """Return SwitchID."""
        number = self.switch_ids.get(switch.name)
        if number is not None:
            return number
        return next((i for i, s in enumerate(self.switches) if s.name == switch.name), 0)

    def switch_of(self, adapter: Adapter) -> Switch | None:
        """Return the switch that the adapter is plugged into."""
        return self.switch_named(adapter.switch) if adapter.switch else None

    def vlans(self, switch: Switch) -> tuple[int, ...]:
        """Return the VLANs of the switch: the first, and those in use."""
        used = {a.vlan or DEFAULT_VLAN for p in self.partitions for a in p.adapters if a.switch == switch.name}
        return tuple(sorted(used | {DEFAULT_VLAN}))

    def networks(self) -> tuple[tuple[Switch, int], ...]:
        """Return every switch with each of its VLANs."""
        return tuple((s, vlan) for s in self.switches for vlan in self.vlans(s))

    def network(self, uuid: str) -> tuple[Switch, int] | None:
        """Return the network of this UUID."""
        wanted = uuid.lower()
        return next((n for n in self.networks() if network_uuid(*n) == wanted), None)
