"""The topology of a lab: which partitions a hypervisor has, what connects them, and which broker carries it all.

A topology is a TOML file, or :func:`default_topology` when there is none.  The models below are the whole vocabulary;
their JSON Schema (:func:`json_schema`, ``pvnet schema``) is what editors use.  Reading is strict: an unknown key or a
value of another type is an error that names file, line, field, what stands there and what was expected.

Decided here: every lab has one hypervisor, named ``hypervisor``, one ``broker``, one ``supervisor``, and at most one
manager; those names are taken.  A management partition is one with the VMC adapter; there is at most one, as in a real
machine.  A manager needs one.  Numbers of the VMC are bounded by what the Linux driver accepts on the partition's side
and by the wire format on the hypervisor's side, so that a hypervisor may offer more than any driver takes.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from pvnet.capture.snoop import parse_snoop
from pvnet.core.errors import ConfigError
from pvnet.core.names import UnitAddress
from pvnet.runtime.topology_base import BigSize, Name, Restart, Size, Strict, Unit, check_hmc_id, check_unit
from pvnet.runtime.topology_mdev import (
    MdevConfig,
    MdevHostConfig,
    MdevParentConfig,
    SocketPath,
    check_mdevs,
)
from pvnet.runtime.topology_net import SwitchConfig, VbusDeviceConfig, VenetConfig
from pvnet.runtime.topology_net_check import LINK_PREFIX, check_network
from pvnet.runtime.topology_novalink import NovalinkConfig
from pvnet.runtime.topology_system import (
    MEMORY_DEFAULT,
    MEMORY_MAX,
    PROCESSORS_DEFAULT,
    PROCESSORS_MAX,
    Label,
    ProcessorsConfig,
    SystemConfig,
    Uuid,
    made_uuid,
)

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


def _check_snoop(value: str) -> str:
    try:
        return str(parse_snoop(value))
    except ConfigError:
        raise ValueError('"pcapng:FILE" or "pcapng:|COMMAND"') from None


class LabConfig(Strict):
    """The lab as a whole."""

    name: Name = "lab"
    """Name of the lab: a level of every topic, and what ``--lab`` means."""
    ready_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Longest wait for one node to say that it serves."""
    stop_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Longest wait for one node to end by itself before it is killed."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important lines that the nodes log."""
    unix: bool = True
    """Whether processes of one host may talk over unix sockets instead of the broker."""
    snoop: Annotated[str, AfterValidator(_check_snoop)] | None = None
    """Where every node records its messages: ``"pcapng:FILE"`` (relative to the topology file; each node puts its name
    into it), or ``"pcapng:|COMMAND"``.  ``PVNET_SNOOP`` in the environment has precedence."""


class BrokerConfig(Strict):
    """Which broker: ``auto`` takes mosquitto when it is installed, else the embedded one; or the address of one."""

    use: str = Field(default="auto", pattern=r"^(auto|embedded|mosquitto|mqtts?://.+)$")
    """``auto``, ``embedded``, ``mosquitto``, or the address of a broker that runs already.

    A mosquitto of one's own needs ``set_tcp_nodelay true`` (else a round trip takes 40 ms and more)."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of a broker that the lab starts; 0 takes a free one.  It listens on loopback only."""
    ca_file: str | None = None
    """PEM file of the CA that signed the broker's certificate (``mqtts://``); relative to the topology file."""
    username: str | None = None
    """User at a broker that runs already."""
    password: str | None = Field(default=None, repr=False)
    """Its password; better in a file of its own."""
    password_file: str | None = None
    """File whose first line is the password; relative to the topology file."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        remote = "://" in self.use
        if not remote and (self.ca_file or self.username or self.password or self.password_file):
            raise ValueError('ca_file, username and password only with use = "mqtt://..." or "mqtts://..."')
        if remote and self.port:
            raise ValueError("the port inside the address, not as port = ...")
        if self.password is not None and self.password_file is not None:
            raise ValueError("password or password_file, not both")
        return self


class HypervisorVmc(Strict):
    """What the hypervisor offers on the virtual management channel.  Spec: vmc 3.6, 5."""

    max_hmcs: int = Field(default=8, ge=1, le=254)
    """HMC connections at once; in force is the smaller of both sides' numbers, here and below."""
    pool_size: int = Field(default=32, ge=2, le=64)
    """Buffers of one HMC connection."""
    max_mtu: int = Field(default=4096, ge=32, le=16384)
    """Longest message in bytes."""
    crq_slots: int = Field(default=256, ge=2, le=4096)
    """Size of its own CRQ as told in the capabilities exchange."""
    buffers_per_session: int = Field(default=8, ge=1, le=64)
    """How many buffers it adds when an HMC connection opens."""
    raw_payload: Literal["echo", "discard"] = "echo"
    """What happens to a message that is neither a router message nor one of pvnet's own commands.

    With ``discard`` nothing comes back: after a few messages a session has no buffer left (EBUSY), until it is
    closed."""


class HypervisorConfig(Strict):
    """The hypervisor."""

    profile: Literal["lopar", "qemu"] = "lopar"
    """Whose answers to hcalls: LoPAR's, or the laxer ones of QEMU (which has no H_COPY_RDMA, hence no VMC)."""
    vmc: HypervisorVmc = HypervisorVmc()
    """Its side of the virtual management channel."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""


class PartitionVmc(Strict):
    """The VMC adapter of the management partition; limits as the Linux driver's module parameters.  Spec: vmc 5."""

    unit: Unit = Field(default=0x30000000, validate_default=True)
    """Unit address of the adapter."""
    max_hmcs: int = Field(default=4, ge=1, le=254)
    """HMC connections at once.  The Linux driver allows 1 (its default) or 2; dialect ``linux`` keeps to that."""
    pool_size: int = Field(default=32, ge=16, le=64)
    """Buffers of one HMC connection."""
    max_mtu: int = Field(default=4096, ge=4096, le=16384)
    """Longest message in bytes."""
    dialect: Literal["hardened", "linux", "lopar"] = "hardened"
    """Status numbers and conduct of the driver: see the dialects in the VMC document."""
    listen: list[str] = Field(default_factory=list, max_length=16)
    """Sockets at which other programs find ``/dev/ibmvmc``: ``"unix:PATH"`` (relative to the topology file),
    ``"tcp:HOST:PORT"``; beyond loopback ``"tcp:HOST:PORT?ca=FILE&cert=FILE&key=FILE"``."""


class ScmConfig(Strict):
    """A storage-class-memory device of a partition, kept in files."""

    type: Literal["nvdimm", "spapr-nvdimm"] = "spapr-nvdimm"
    """``spapr-nvdimm`` has to be flushed by H_SCM_FLUSH; ``nvdimm`` is durable by itself."""
    size: BigSize = Field(default=256 << 20, validate_default=True)
    """A multiple of ``block_size``; the file behind it is sparse."""
    block_size: BigSize = Field(default=256 << 20, validate_default=True)
    """Unit of bind and unbind, a power of two; QEMU's is 256MiB."""
    label_size: BigSize = Field(default=128 << 10, validate_default=True)
    """Size of the metadata (label) area."""
    drc: Unit | None = None
    """DRC index; without one 0x90000000, 0x90000001 ... in the order of the file."""
    profile: Literal["qemu", "phyp"] = "qemu"
    """``qemu`` answers exactly as QEMU does; ``phyp`` keeps bindings, works in steps and has statistics."""
    driver: Literal["hardened", "linux"] = "hardened"
    """Conduct of the partition's driver: bounded and checked, or as Linux' ``papr_scm``."""
    backing: str | None = None
    """File of the blocks, relative to the topology file (the labels beside it, with ``.labels`` added); without one
    they live as long as the lab."""
    unarmed: bool = False
    """Whether its health says that it cannot save its contents at a power loss."""
    readonly: bool = False
    """Whether writing its metadata fails."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.block_size & (self.block_size - 1):
            raise ValueError("a block_size that is a power of two")
        if self.size % self.block_size:
            raise ValueError(f"a size that is a multiple of block_size ({self.block_size} bytes)")
        return self


class PartitionConfig(Strict):
    """One logical partition: a process with its own memory."""

    name: Name
    """Name of the partition and of its process."""
    lpar_id: int | None = Field(default=None, ge=1, le=65535)
    """Its number; without one the next free, from 1."""
    label: Label | None = None
    """Its name for people and management software; without one ``name``."""
    uuid: Uuid | None = None
    """Its UUID; without one made from the names of lab and partition."""
    type: Literal["aix-linux", "os400"] = "aix-linux"
    """Kind of operating system that management software is told."""
    memory: Size = Field(default=16 << 20)
    """Size of its memory: ``"16MiB"`` or bytes; 1028KiB to 64GiB, a multiple of 4096."""
    min_memory: Size | None = None
    """Least memory that management software may give it; without it as ``memory``."""
    max_memory: Size | None = None
    """Most memory that management software may give it; without it as ``memory``."""
    processors: ProcessorsConfig = ProcessorsConfig()
    """Its processors, as management software sees them."""
    management: bool = False
    """Whether it has the VMC adapter; at most one partition."""
    vmc: PartitionVmc | None = None
    """Only the management partition has one; it gets the default when none is written."""
    autostart: bool = True
    """Whether it is powered on with the lab."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""
    scm: list[ScmConfig] = Field(default_factory=list)
    """Storage-class-memory devices: ``[[partition.scm]]``, once per device."""
    venet: list[VenetConfig] = Field(default_factory=list)
    """Virtual Ethernets: ``[[partition.venet]]``, once per device."""
    devices: list[VbusDeviceConfig] = Field(default_factory=list, alias="device")
    """Other vbus devices: ``[[partition.device]]``, once per device."""
    vfio_user: list[SocketPath] = Field(default_factory=list)
    """Sockets of foreign vfio-user servers whose devices the partition uses, relative to the topology file."""

    @property
    def shown_label(self) -> str:
        """Its name for people."""
        return self.label or self.name

    @model_validator(mode="after")
    def _memory_ordered(self) -> Self:
        low, high = self.min_memory or self.memory, self.max_memory or self.memory
        if not low <= self.memory <= high:
            raise ValueError("min_memory <= memory <= max_memory")
        return self


class CrqPair(Strict):
    """A CRQ between two partitions: ``partition:unit`` on each end."""

    a: str = Field(pattern=r"^[^:]+:[^:]+$")
    """One end, such as ``"lpar1:0x30000010"``."""
    b: str = Field(pattern=r"^[^:]+:[^:]+$")
    """The other end."""

    @model_validator(mode="after")
    def _ends_parse(self) -> Self:
        self.ends()
        return self

    def ends(self) -> tuple[tuple[str, UnitAddress], tuple[str, UnitAddress]]:
        """Both ends as (partition, unit address)."""
        return _crq_end(self.a), _crq_end(self.b)


def _crq_end(text: str) -> tuple[str, UnitAddress]:
    partition, _, unit = text.partition(":")
    try:
        return partition, check_unit(int(unit, 0))
    except ValueError:
        raise ValueError(f'"partition:unit" such as "lpar1:0x30000010", not {text!r}') from None


class ManagerConfig(Strict):
    """The management application."""

    name: Name = "manager"
    """Name of its process."""
    hmc_id: Annotated[str, AfterValidator(check_hmc_id)] = "pvnet-manager"
    """Id of its connection: 1 to 32 bytes of text, padded with zero bytes to 32 on the wire."""
    restart: Restart = Restart()
    """What happens when its process ends by itself."""


class BridgeConfig(Strict):
    """The vbus host and network bridge; there is one when a partition has a device or there is a switch."""

    restart: Restart = Restart()
    """What happens when its process ends by itself."""
    loop_guard: bool = True
    """Whether switches look for loops in the network (by frames of their own, and by addresses that jump)."""


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
