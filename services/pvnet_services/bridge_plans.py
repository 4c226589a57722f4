"""What a topology wants of the vbus host: the devices on the bus of each partition, and how one topology differs.

The name of a venet comes from its slot, so that it stays when a neighbour goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_net import SwitchConfig

VENET: Final = "venet"
_FIRST_SLOT: Final = 2


def venet_name(partition: str, slot: int) -> str:
    """Name of the device that is a partition's venet in a virtual slot."""
    return f"{partition}-eth{slot - _FIRST_SLOT}"


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device on the bus of a partition; ``switch`` and ``vlan`` are a venet's."""

    name: str
    partition: str
    device_class: str
    attributes: tuple[tuple[str, str], ...]
    switch: str = ""
    vlan: int = 1

    def is_same_device(self, other: DevicePlan) -> bool:
        """Whether nothing differs but where it is plugged in."""
        return (self.partition, self.device_class, self.attributes) == (
            other.partition,
            other.device_class,
            other.attributes,
        )


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """Everything that a topology wants of the vbus host."""

    partitions: tuple[str, ...]
    devices: Mapping[str, DevicePlan]
    switches: Mapping[str, SwitchConfig]


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to be done, in this order, after the switches in ``add_switches`` have been made."""

    add_switches: list[SwitchConfig] = field(default_factory=list)
    add: list[DevicePlan] = field(default_factory=list)
    remove: list[DevicePlan] = field(default_factory=list)
    replug: list[DevicePlan] = field(default_factory=list)
    remove_switches: list[str] = field(default_factory=list)


def network_plan(topology: Topology) -> NetworkPlan:
    """Return what a topology wants.

    Raises:
        ConfigError: two devices have one name.
    """
    mtus = {switch.name: switch.mtu for switch in topology.switches}
    devices: dict[str, DevicePlan] = {}
    for partition in topology.partitions:
        plans = [
            DevicePlan(
                venet_name(partition.name, topology.venet_slot(partition, number)),
                partition.name,
                VENET,
                (("client_mac", topology.venet_mac(partition, number)), ("mtu", str(mtus[venet.switch]))),
                venet.switch,
                venet.vlan,
            )
            for number, venet in enumerate(partition.venet)
        ]
        plans += [
            DevicePlan(device.name, partition.name, device.device_class, tuple(device.attributes.items()))
            for device in partition.devices
        ]
        for plan in plans:
            if plan.name in devices:
                raise ConfigError(f"partition {partition.name}: there is a device {plan.name} already")
            devices[plan.name] = plan
    return NetworkPlan(
        tuple(p.name for p in topology.partitions), devices, {switch.name: switch for switch in topology.switches}
    )


def difference(old: NetworkPlan, new: NetworkPlan) -> Difference:
    """Return what makes ``new`` of ``old``; a device of which more changes than its plug is removed and added.

    Raises:
        ConfigError: a switch that there is would have to become another one.
    """
    found = Difference()
    for name, config in new.switches.items():
        before = old.switches.get(name)
        if before is None:
            found.add_switches.append(config)
        elif _works(before) != _works(config):
            raise ConfigError(f"switch {name} has another MTU, other ports or limits: expected those of its start")
    found.remove_switches.extend(name for name in old.switches if name not in new.switches)
    for name, plan in new.devices.items():
        was = old.devices.get(name)
        if was is None:
            found.add.append(plan)
        elif not plan.is_same_device(was):
            found.remove.append(was)
            found.add.append(plan)
        elif plan != was:
            found.replug.append(plan)
    found.remove.extend(plan for name, plan in old.devices.items() if name not in new.devices)
    return found


def _works(config: SwitchConfig) -> SwitchConfig:
    """The switch without the names that only management software sees."""
    return config.model_copy(update={"label": None, "uuid": None})
