"""The partitions of a topology, their adapters and storage, and what connects two of them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pvnet.core.names import UnitAddress
from pvnet.runtime.device_address import DeviceUri
from pvnet.runtime.topology_base import BigSize, Name, Restart, Size, Strict, Unit, check_unit
from pvnet.runtime.topology_mdev import SocketPath
from pvnet.runtime.topology_net import VbusDeviceConfig, VenetConfig
from pvnet.runtime.topology_system import Label, ProcessorsConfig, Uuid


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
    listen: list[DeviceUri] = Field(default_factory=list, max_length=16)
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

    @property
    def both_names(self) -> str:
        """Its name, and the one that people know it by where that is another: for texts that both read."""
        return self.name if self.shown_label == self.name else f"{self.shown_label} ({self.name})"

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
