"""The topology of a lab: which partitions a hypervisor has, what connects them, and which broker carries it all.

A topology is a TOML file, or :func:`default_topology` when there is none.  The models below are the whole vocabulary;
their JSON Schema (:func:`json_schema`, ``pvnet schema``) is what editors use.  Reading is strict: an unknown key or a
value of another type is an error that names file, line, field, what stands there and what was expected.

Decided here: every lab has one hypervisor, named ``hypervisor``, one ``broker``, one ``supervisor``, and at most one
manager; those names are taken.  A management partition is one with the VMC adapter; there is at most one, as in a real
machine.  A manager needs one.  The tables of a file are models of modules beside this one, which has their names, too.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final, Self

from pydantic import Field, PrivateAttr, model_validator

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology_base import Strict
from pvnet.runtime.topology_lab import (
    BridgeConfig,
    BrokerConfig,
    HypervisorConfig,
    HypervisorVmc,
    LabConfig,
    ManagerConfig,
)
from pvnet.runtime.topology_mdev import MdevConfig, MdevHostConfig, MdevParentConfig, check_mdevs
from pvnet.runtime.topology_net import SwitchConfig, VbusDeviceConfig, VenetConfig
from pvnet.runtime.topology_net_check import LINK_PREFIX, check_network
from pvnet.runtime.topology_novalink import NovalinkConfig
from pvnet.runtime.topology_partition import CrqPair, PartitionConfig, PartitionVmc, ScmConfig
from pvnet.runtime.topology_system import (
    MEMORY_DEFAULT,
    MEMORY_MAX,
    PROCESSORS_DEFAULT,
    PROCESSORS_MAX,
    ProcessorsConfig,
    SystemConfig,
    made_uuid,
)

__all__ = [
    "BRIDGE",
    "BROKER",
    "DEFAULT_DASD",
    "DEFAULT_DISK",
    "DEFAULT_SERIAL",
    "HYPERVISOR",
    "SCM_DRC_BASE",
    "SUPERVISOR",
    "BridgeConfig",
    "BrokerConfig",
    "CrqPair",
    "HypervisorConfig",
    "HypervisorVmc",
    "LabConfig",
    "ManagerConfig",
    "MdevConfig",
    "MdevHostConfig",
    "MdevParentConfig",
    "NovalinkConfig",
    "PartitionConfig",
    "PartitionVmc",
    "ProcessorsConfig",
    "ScmConfig",
    "SwitchConfig",
    "SystemConfig",
    "Topology",
    "VbusDeviceConfig",
    "VenetConfig",
    "default_topology",
    "json_schema",
]

HYPERVISOR: Final = "hypervisor"
"""Node name of the hypervisor."""
SUPERVISOR: Final = "supervisor"
"""Node name of the process that started the lab."""
BROKER: Final = "broker"
"""Name of the broker in ``ps`` and ``logs``."""
BRIDGE: Final = "bridge"
"""Node name of the vbus host and network bridge."""

DEFAULT_SERIAL: Final = "c0ffee00-0000-4000-8000-000000000001"
"""UUID of the serial card in the built-in topology."""
DEFAULT_DASD: Final = "c0ffee00-0000-4000-8000-000000000002"
"""UUID of its channel-I/O disk."""
DEFAULT_DISK: Final = {"size": "4MiB"}
"""That disk; without an ``image`` it lives as long as the lab."""
_MANAGER_MTU: Final = 1024
_NOVALINK_MTU: Final = 4096
SCM_DRC_BASE: Final = 0x90000000
"""DRC index of a partition's first SCM device, as QEMU numbers them."""


class Topology(Strict):
    """A lab.  Every table may be left out; ``[[partition]]`` is written once per partition."""

    lab: LabConfig = LabConfig()
    system: SystemConfig = SystemConfig()
    broker: BrokerConfig = BrokerConfig()
    hypervisor: HypervisorConfig = HypervisorConfig()
    partitions: list[PartitionConfig] = Field(default_factory=list, alias="partition")
    crqs: list[CrqPair] = Field(default_factory=list, alias="crq")
    switches: list[SwitchConfig] = Field(default_factory=list, alias="switch")
    bridge: BridgeConfig = BridgeConfig()
    mdev_hosts: list[MdevHostConfig] = Field(default_factory=list, alias="mdev_host")
    manager: ManagerConfig | None = None
    novalink: NovalinkConfig | None = None

    _numbers: dict[str, int] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        self._check_names()
        self._check_profile()
        self._check_mtu()
        self._check_management()
        self._check_crqs()
        self._check_scm()
        self._check_net()
        check_mdevs(self.mdev_hosts, [p.name for p in self.partitions])
        self._check_identities()
        self._check_system()
        self._numbers.update(self._assign_numbers())
        return self

    def scm_drc(self, partition: PartitionConfig, number: int) -> int:
        """Return the DRC index of a partition's SCM device, given or assigned."""
        given = partition.scm[number].drc
        return SCM_DRC_BASE + number if given is None else given

    def partition(self, name: str) -> PartitionConfig:
        """Return the partition of that name, or raise :class:`ConfigError` naming those that exist."""
        for partition in self.partitions:
            if partition.name == name:
                return partition
        known = ", ".join(p.name for p in self.partitions) or "none"
        raise ConfigError(f"no partition {name!r} in lab {self.lab.name}; there are: {known}")

    def lpar_id(self, name: str) -> int:
        """Return the number of a partition, given or assigned."""
        try:
            return self._numbers[name]
        except KeyError:
            return self._numbers[self.partition(name).name]  # raises

    @property
    def management_partition(self) -> PartitionConfig | None:
        """The one with the VMC adapter."""
        return next((p for p in self.partitions if p.management), None)

    def vmc_of(self, partition: PartitionConfig) -> PartitionVmc | None:
        """Return the partition's VMC adapter: as written, the default for a management partition, or None."""
        return (partition.vmc or PartitionVmc()) if partition.management else None

    @property
    def has_bridge(self) -> bool:
        """Whether there is a vbus host: somebody has a device, or there is a switch."""
        return bool(self.switches) or any(p.venet or p.devices for p in self.partitions)

    @property
    def node_names(self) -> list[str]:
        """Every node that is a process of its own, in the order in which they start."""
        bridge = [BRIDGE] if self.has_bridge else []
        manager = [self.manager.name] if self.manager is not None else []
        hosts = [host.name for host in self.mdev_hosts]
        novalink = [self.novalink.name] if self.novalink is not None else []
        return [HYPERVISOR, *bridge, *hosts, *(p.name for p in self.partitions), *manager, *novalink]

    @property
    def system_name(self) -> str:
        """Name of the managed system."""
        return self.system.name or self.lab.name

    @property
    def system_uuid(self) -> str:
        """UUID of the managed system, given or made; lower case."""
        return self.system.uuid or made_uuid("system", self.lab.name)

    @property
    def system_memory(self) -> int:
        """Installed memory in bytes, given or as much as needed."""
        if self.system.memory is not None:
            return self.system.memory
        needed = -(-sum(p.memory for p in self.partitions) >> 20 << 20)
        return min(max(MEMORY_DEFAULT, needed), MEMORY_MAX)

    @property
    def system_processors(self) -> float:
        """Installed processors, given or as many as needed."""
        if self.system.processors is not None:
            return self.system.processors
        needed = float(math.ceil(sum(p.processors.units for p in self.partitions)))
        return min(max(PROCESSORS_DEFAULT, needed), PROCESSORS_MAX)

    def partition_uuid(self, partition: PartitionConfig) -> str:
        """Return the UUID of a partition, given or made; lower case."""
        return partition.uuid or made_uuid("partition", self.system_uuid, partition.name)

    def mdev_host(self, name: str) -> MdevHostConfig:
        """Return the mdev host of that name, or raise :class:`ConfigError` naming those that exist."""
        for host in self.mdev_hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.mdev_hosts) or "none"
        raise ConfigError(f"no mdev host {name!r} in lab {self.lab.name}; there are: {known}")

    def _check_names(self) -> None:
        taken = {HYPERVISOR: "the hypervisor", SUPERVISOR: "the supervisor", BROKER: "the broker", BRIDGE: "the bridge"}
        nodes = [(p.name, f"partition[{i}]") for i, p in enumerate(self.partitions)]
        nodes += [(host.name, f"mdev_host[{i}]") for i, host in enumerate(self.mdev_hosts)]
        if self.manager is not None:
            nodes.append((self.manager.name, "the manager"))
        if self.novalink is not None:
            nodes.append((self.novalink.name, "the NovaLink service"))
        for name, owner in nodes:
            if name.startswith(LINK_PREFIX):
                raise ValueError(
                    f"a name without {LINK_PREFIX!r} in front for {owner}, not {name!r}: "
                    "so are the bridges of other labs called"
                )
            if name in taken:
                raise ValueError(f"a name of its own for {owner}: {name!r} is already {taken[name]}")
            taken[name] = owner

    def _check_mtu(self) -> None:
        if self.manager is not None and self.hypervisor.vmc.max_mtu < _MANAGER_MTU:
            raise ValueError(f"hypervisor.vmc.max_mtu of at least {_MANAGER_MTU}, because there is a [manager]")

        if self.novalink is not None and self.hypervisor.vmc.max_mtu < _NOVALINK_MTU:
            raise ValueError(f"hypervisor.vmc.max_mtu of at least {_NOVALINK_MTU}, because there is a [novalink]")

    def _check_identities(self) -> None:
        for what, values in (
            ("label", [p.shown_label for p in self.partitions]),
            ("uuid", [self.partition_uuid(p) for p in self.partitions]),
        ):
            seen: set[str] = set()
            for value in values:
                if value in seen:
                    raise ValueError(f"a {what} of its own for each partition: {value!r} is used twice")
                seen.add(value)

    def _check_system(self) -> None:
        started = [p for p in self.partitions if p.autostart]
        memory, processors = sum(p.memory for p in started), sum(p.processors.units for p in started)
        if memory > self.system_memory:
            raise ValueError(
                f"system.memory of at least {memory} bytes, because of the partitions that start by themselves"
            )
        if processors > self.system_processors + 0.005:
            raise ValueError(
                f"system.processors of at least {processors:g}, because of the partitions that start by themselves"
            )

    def _check_profile(self) -> None:
        if self.hypervisor.profile == "qemu" and self.manager is not None:
            raise ValueError('profile = "lopar": a [manager] needs H_COPY_RDMA, which profile "qemu" does not have')
        if self.hypervisor.profile == "qemu" and self.novalink is not None:
            raise ValueError('profile = "lopar": a [novalink] needs H_COPY_RDMA, which profile "qemu" does not have')

    def _check_management(self) -> None:
        management = [p.name for p in self.partitions if p.management]
        if len(management) > 1:
            raise ValueError(f"at most one management partition, not {len(management)}: {', '.join(management)}")
        for partition in self.partitions:
            if partition.vmc is not None and not partition.management:
                raise ValueError(f"management = true for {partition.name!r}, which has a VMC adapter")
        if self.manager is not None and not management:
            raise ValueError("a partition with management = true, because there is a [manager]")
        if self.novalink is not None and not management:
            raise ValueError("a partition with management = true, because there is a [novalink]")

    def _check_scm(self) -> None:
        for partition in self.partitions:
            drcs = [self.scm_drc(partition, number) for number in range(len(partition.scm))]
            if len(set(drcs)) != len(drcs):
                raise ValueError(f"a DRC index of its own for each SCM device of {partition.name!r}")

    def _check_net(self) -> None:
        check_network(self.lab.name, self.switches, [(p.name, p.venet, p.devices) for p in self.partitions])
        for partition in self.partitions:
            slots = [self.venet_slot(partition, number) for number in range(len(partition.venet))]
            if len(set(slots)) != len(slots):
                raise ValueError(f"a virtual slot number of its own for each venet of {partition.name!r}")

    def venet_mac(self, partition: PartitionConfig, number: int) -> str:
        """Return the MAC address of a partition's venet, given or assigned."""
        lpar_id = self.lpar_id(partition.name)
        return partition.venet[number].mac or f"02:00:00:{lpar_id >> 8:02x}:{lpar_id & 0xFF:02x}:{number + 1:02x}"

    def venet_slot(self, partition: PartitionConfig, number: int) -> int:
        """Return the virtual slot number of a partition's venet, given or assigned."""
        given = partition.venet[number].slot
        return 2 + number if given is None else given

    def switch_uuid(self, switch: SwitchConfig) -> str:
        """Return the UUID of a switch, given or made; lower case."""
        return switch.uuid or made_uuid("switch", self.system_uuid, switch.name)

    def _check_crqs(self) -> None:
        used: set[tuple[str, int]] = set()
        names = {p.name for p in self.partitions}
        for partition in self.partitions:
            vmc = self.vmc_of(partition)
            if vmc is not None:
                used.add((partition.name, vmc.unit))
        for i, pair in enumerate(self.crqs):
            for partition_name, unit in pair.ends():
                if partition_name not in names:
                    raise ValueError(f"a partition of this lab in crq[{i}], not {partition_name!r}")
                if (partition_name, unit) in used:
                    raise ValueError(f"a free unit address in crq[{i}]: {partition_name}:{unit:#x} is used already")
                used.add((partition_name, unit))

    def _assign_numbers(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        used: set[int] = set()
        for partition in self.partitions:
            if partition.lpar_id is not None:
                if partition.lpar_id in used:
                    raise ValueError(
                        f"a number of its own for {partition.name!r}: lpar_id {partition.lpar_id} is used twice"
                    )
                numbers[partition.name] = partition.lpar_id
                used.add(partition.lpar_id)
        free = (n for n in range(1, 65536) if n not in used)
        return {p.name: numbers[p.name] if p.name in numbers else next(free) for p in self.partitions}


def default_topology(lab: str = "lab") -> Topology:
    """Return the lab of ``pvnet up`` without a file: a management partition, a running guest, one that is off."""
    return Topology(
        lab=LabConfig(name=lab),
        partition=[
            PartitionConfig(name="mp", management=True),
            PartitionConfig(
                name="lpar1",
                scm=[ScmConfig(size=16 << 20, block_size=1 << 20)],
                venet=[VenetConfig(address="10.77.0.1/24")],
            ),
            PartitionConfig(name="lpar2", autostart=False, venet=[VenetConfig(address="10.77.0.2/24")]),
        ],
        switch=[SwitchConfig()],
        mdev_host=[
            MdevHostConfig(
                parent=[MdevParentConfig(name="disk0", driver="vfio_ccw", attributes=dict(DEFAULT_DISK))],
                mdev=[
                    MdevConfig(uuid=DEFAULT_SERIAL, parent="mtty", type="mtty-2", partition="lpar1"),
                    MdevConfig(uuid=DEFAULT_DASD, parent="disk0", type="vfio_ccw-io", partition="lpar1"),
                ],
            )
        ],
        manager=ManagerConfig(),
    )


def _field_texts(model: type[Strict]) -> dict[str, str]:
    """Return what is written below the fields of a model.

    pydantic can do this for every model at import; that would cost each process of a lab 15 ms for texts that only
    the schema shows.
    """
    import ast
    import inspect

    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef), "the source of a class is a class"
    texts: dict[str, str] = {}
    for field, below in pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a topology file; the texts below the fields are its descriptions."""
    schema = Topology.model_json_schema(by_alias=True)
    models = {model.__name__: model for model in Strict.__subclasses__()}
    for name, definition in schema["$defs"].items():
        model = models[name]
        for field, text in _field_texts(model).items():
            key = model.model_fields[field].alias or field
            definition["properties"][key]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
