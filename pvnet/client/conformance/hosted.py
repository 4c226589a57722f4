"""What the other process is told: which machine to run.  It never sees the recording.

The session writes a :class:`Hosted` into its directory as ``NODE.json``; the process (``pvnet_services.trace_host``)
reads it there.  Profiles go by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from pvnet.core.errors import ConfigError
from pvnet.papr import platform_io as io
from pvnet.papr.drc import DrcType
from pvnet.scm.device import MemoryMetadata, ScmDeviceConfig, ScmType
from pvnet.scm.hypervisor_io import ConnectorConfig, ScmHypervisorConfig
from pvnet.scm.profiles import PROFILES
from pvnet.vmc.interface import VmcPartitionConfig

HYPERVISOR: Final = "hypervisor"
"""Node that serves hcalls: the other process for a trace of hcalls, the runner for a VMC session."""
GUEST: Final = "guest"
"""Node that makes them: the runner for a trace of hcalls, the other process for a VMC session."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostedCrq(_Model):
    """A hypervisor with one partition, whose memory is mapped there."""

    profile: str
    partition: io.PartitionConfig

    @classmethod
    def of(cls, config: io.PlatformConfig) -> Self:
        """Describe a platform."""
        (partition,) = config.partitions
        return cls(profile=config.profile.name, partition=partition)

    def platform(self) -> io.PlatformConfig:
        """Return the platform's configuration."""
        return io.PlatformConfig((self.partition,), io.PROFILES[self.profile])


class HostedDevice(_Model):
    """An SCM device as a recording describes it; ``metadata`` is the beginning of its area, in hex."""

    drc: int
    blocks: int
    address: int
    block_size: int
    metadata_size: int
    type: ScmType
    profile: str
    is_unarmed: bool
    is_readonly: bool
    metadata: str

    @classmethod
    def of(cls, config: ScmDeviceConfig, store: MemoryMetadata) -> Self:
        """Describe a device."""
        return cls(
            drc=config.drc,
            blocks=config.blocks,
            address=config.address,
            block_size=config.block_size,
            metadata_size=config.metadata_size,
            type=config.type,
            profile=config.profile.name,
            is_unarmed=config.is_unarmed,
            is_readonly=config.is_readonly,
            metadata=bytes(store.data).rstrip(b"\0").hex(),
        )

    def config(self, partition: str) -> ScmDeviceConfig:
        """Return the device's configuration."""
        return ScmDeviceConfig(
            partition=partition,
            drc=self.drc,
            blocks=self.blocks,
            address=self.address,
            block_size=self.block_size,
            metadata_size=self.metadata_size,
            type=self.type,
            profile=PROFILES[self.profile],
            is_unarmed=self.is_unarmed,
            is_readonly=self.is_readonly,
        )


class HostedScm(_Model):
    """A hypervisor with SCM devices; ``connectors`` are the others: DRC index and kind."""

    profile: str
    devices: tuple[HostedDevice, ...]
    connectors: tuple[tuple[int, DrcType], ...]

    @classmethod
    def of(cls, config: ScmHypervisorConfig, stores: Mapping[tuple[str, int], MemoryMetadata]) -> Self:
        """Describe a hypervisor."""
        return cls(
            profile=config.profile.name,
            devices=tuple(HostedDevice.of(device, stores[device.partition, device.drc]) for device in config.devices),
            connectors=tuple((connector.drc, connector.kind) for connector in config.connectors),
        )

    def config(self, partition: str) -> ScmHypervisorConfig:
        """Return the hypervisor's configuration."""
        return ScmHypervisorConfig(
            tuple(device.config(partition) for device in self.devices),
            tuple(ConnectorConfig(partition, drc, kind) for drc, kind in self.connectors),
            PROFILES[self.profile],
        )


class Hosted(_Model):
    """One of the three kinds."""

    crq: HostedCrq | None = None
    scm: HostedScm | None = None
    vmc: VmcPartitionConfig | None = None

    def write(self, directory: Path, node: str) -> None:
        """Leave it for a process."""
        (directory / f"{node}.json").write_text(self.model_dump_json())

    @classmethod
    def read(cls, directory: Path, node: str) -> Self:
        """Read what was left for us.

        Raises:
            ConfigError: nothing was.
        """
        path = directory / f"{node}.json"
        try:
            return cls.model_validate_json(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: expected what to run: {error}") from None
