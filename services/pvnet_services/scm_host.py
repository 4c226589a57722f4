"""SCM in the hypervisor: the machine as an extension of the platform, its devices' files, and access to their blocks.

A partition's blocks lie in files that only this process touches.  The partition reaches them where they are bound, by
MemoryRead and MemoryWrite of its own address space; a flush runs in a thread and its end is fed back to the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pvnet.client.scm_layout import device_config
from pvnet.core.errors import ConfigError, LocalError
from pvnet.papr.errno import EFAULT, EIO, EROFS
from pvnet.papr.extension import ExtensionInput, ExtensionOutput
from pvnet.papr.hcall import is_busy
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ManagementReply, ScmInject
from pvnet.pb.v1.papr_pb2 import MemoryReply
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import INLINE_BYTES
from pvnet.runtime.scm_storage import ScmStorage, StorageFault, StorageOperation
from pvnet.runtime.topology import ScmConfig, Topology
from pvnet.scm.device import MetadataStore, ScmDevice, ScmDeviceConfig, StoreError
from pvnet.scm.hypervisor import ScmHypervisor
from pvnet.scm.hypervisor_io import (
    AttachDevice,
    DetachDevice,
    FlushDone,
    MapBlocks,
    ScmHypervisorConfig,
    SetHealth,
    SetScmFault,
    StartFlush,
    UnmapBlocks,
)
from pvnet.scm.profiles import QEMU

_OPERATIONS = {
    ScmInject.STORAGE_READ: (StorageOperation.READ_BLOCKS, StorageOperation.READ_METADATA),
    ScmInject.STORAGE_WRITE: (StorageOperation.WRITE_BLOCKS, StorageOperation.WRITE_METADATA),
    ScmInject.STORAGE_FLUSH: (StorageOperation.FLUSH, None),
}
_SHORT_WRITE_BYTES = 1
_ERRNO_MAX = 4095


class _NoMetadata:
    """The metadata area of a device that has none: never reached, because ranges are checked first."""

    def read(self, offset: int, n: int) -> bytes:
        """Read nothing."""
        raise LocalError(f"no metadata: read of {n} at {offset}")

    def write(self, offset: int, data: bytes) -> None:
        """Write nothing."""
        raise LocalError(f"no metadata: write of {len(data)} at {offset}")


class ScmHost:
    """All SCM devices of a lab; ``feed`` hands an input to the platform that the machine is part of."""

    def __init__(self, endpoint: Endpoint, topology: Topology, directory: str) -> None:
        self._endpoint = endpoint
        self._feed: Callable[[ExtensionInput], None]
        self._directory = directory
        self.storages: dict[tuple[str, int], ScmStorage] = {}
        self._devices: dict[str, dict[int, ScmDeviceConfig]] = {}
        """By partition and DRC index: devices as the machine has them."""
        self._wanted: dict[str, dict[int, ScmDeviceConfig]] = {}
        """The same as the topology has them."""
        self._files: dict[tuple[str, int], ScmConfig] = {}
        """What the files of a device were opened for."""
        self.prepare(topology)
        self._devices = dict(self._wanted)
        configs = [config for devices in self._devices.values() for config in devices.values()]
        stores = {key: _store(storage) for key, storage in self.storages.items()}
        # Calls that concern no device follow the profile that all devices have, else the reference's.
        profiles = {config.profile.name: config.profile for config in configs}
        profile = next(iter(profiles.values())) if len(profiles) == 1 else QEMU
        machine_config = ScmHypervisorConfig(tuple(configs), profile=profile)
        self.machine = ScmHypervisor(machine_config, stores, now=asyncio.get_running_loop().time())

    def prepare(self, topology: Topology) -> None:
        """Open the files of what is new in a topology; :meth:`settle` then gives each partition its devices.

        Raises:
            ConfigError: they cannot be opened, or a device would get others than it has; nothing has changed.
        """
        wanted: dict[str, dict[int, ScmDeviceConfig]] = {}
        opened: dict[tuple[str, int], tuple[ScmStorage, ScmConfig]] = {}
        try:
            for partition in topology.partitions:
                devices = wanted[partition.name] = {}
                for number, device in enumerate(partition.scm):
                    config = device_config(topology, partition, number)
                    devices[config.drc] = config
                    key = (partition.name, config.drc)
                    if key not in self.storages:
                        storage = open_storage(topology, partition.name, number, config, self._directory)
                        opened[key] = (storage, device)
                    elif _files(self._files[key]) != _files(device):
                        raise ConfigError(
                            f"partition {partition.name}: SCM device {config.drc:#x} has files already: "
                            "expected the same size, blocks, labels and backing"
                        )
        except ConfigError:
            for storage, _ in opened.values():
                storage.abandon()
            raise
        for key, (storage, device) in opened.items():
            self.storages[key], self._files[key] = storage, device
        self._wanted = wanted

    def settle(self, partition: str) -> None:
        """Give a partition that is off the devices that the topology says; the files of others are let go."""
        devices, wanted = self._devices.get(partition, {}), self._wanted.get(partition, {})
        for drc, config in devices.items():
            if wanted.get(drc) != config:
                self._feed(DetachDevice(partition, drc))
        for drc, config in wanted.items():
            if devices.get(drc) != config:
                self._feed(AttachDevice(config, _store(self.storages[partition, drc])))
        for key in [key for key in self.storages if key[0] == partition and key[1] not in wanted]:
            self._files.pop(key)
            self._endpoint.spawn(self.storages.pop(key).close(), "scm-close")
        self._devices.pop(partition, None)
        if wanted:
            self._devices[partition] = wanted

    def attach(self, feed: Callable[[ExtensionInput], None]) -> None:
        """Say how inputs reach the machine."""
        self._feed = feed

    async def close(self) -> None:
        """Let go of the files."""
        for storage in self.storages.values():
            await storage.close()

    def carry_out(self, output: ExtensionOutput) -> None:
        """Do what the machine wants."""
        match output:
            case StartFlush(tag, partition, drc):
                self._endpoint.spawn(self._flush(tag, self.storages[partition, drc]), "flush")
            case MapBlocks() | UnmapBlocks():
                pass  # over a broker nothing is mapped: `locate` finds the blocks at each access
            case _:
                raise LocalError(f"{output!r}: no SCM output")

    async def _flush(self, tag: int, storage: ScmStorage) -> None:
        self._feed(FlushDone(tag, await storage.flush()))

    # --- the partition's accesses ------------------------------------------------------------------------------------

    def memory_read(self, envelope: Envelope) -> None:
        """A partition reads its own address space where a device is bound."""
        body, answer = envelope.memory_read, MemoryReply()
        place = self._locate(envelope.source, body.address, body.length)
        if place is None:
            answer.error = EFAULT
        else:
            device, storage, offset = place
            try:
                answer.data = storage.blocks.read(offset, body.length)
            except StoreError as error:
                device.read_failed()
                answer.error = error.errno or EIO
        self._endpoint.reply(envelope, Envelope(memory_reply=answer))

    def memory_write(self, envelope: Envelope) -> None:
        """A partition stores where a device is bound; a read-only one is EROFS, which is no failure of it."""
        body, answer = envelope.memory_write, MemoryReply()
        place = self._locate(envelope.source, body.address, len(body.data))
        if place is None:
            answer.error = EFAULT
        else:
            device, storage, offset = place
            try:
                storage.blocks.write(offset, body.data)
            except StoreError as error:
                if error.errno != EROFS:
                    device.write_failed(error.errno)
                answer.error = error.errno or EIO
        self._endpoint.reply(envelope, Envelope(memory_reply=answer))

    def _locate(self, partition: str, address: int, length: int) -> tuple[ScmDevice, ScmStorage, int] | None:
        if not 0 < length <= INLINE_BYTES:
            return None
        place = self.machine.locate(partition, address, length)
        if place is None:
            return None
        return self.machine.device(partition, place.drc), self.storages[partition, place.drc], place.offset

    # --- misbehaviour on command -------------------------------------------------------------------------------------

    def inject(self, command: ScmInject) -> ManagementReply:
        """Arm a failure or set a device's health."""
        key = (command.partition, command.drc)
        storage = self.storages.get(key)
        if storage is None:
            known = ", ".join(f"{p} {drc:#x}" for p, drc in self.storages) or "none"
            text = f"no SCM device {command.drc:#x} of {command.partition!r}; there are: {known}"
            return ManagementReply(status=ManagementReply.NOT_FOUND, text=text)
        if command.error > _ERRNO_MAX:
            text = f"errno {command.error}: expected at most {_ERRNO_MAX}"
            return ManagementReply(status=ManagementReply.MALFORMED, text=text)
        count = command.count or 1
        match command.kind:
            case ScmInject.HEALTH:
                self._feed(SetHealth(*key, (command.health_bits, command.health_valid)))
            case ScmInject.HEALTH_OWN:
                self._feed(SetHealth(*key, None))
            case ScmInject.RETURN_CODE:
                outs = (0,) if is_busy(command.rc) else ()  # no token: whoever is told "busy" starts again
                self._feed(SetScmFault(*key, command.opcode, command.rc, outs, count))
            case kind if kind in _OPERATIONS:
                operation, also = _OPERATIONS[kind]
                stored = 0 if command.error else _SHORT_WRITE_BYTES
                storage.faults.add(StorageFault(operation, command.error or EIO, stored, count, also))
            case kind:
                text = f"unknown kind of failure {kind}"
                return ManagementReply(status=ManagementReply.MALFORMED, text=text)
        return ManagementReply()

    def _shown(self, path: Path) -> str:
        """Name a file: within the lab's directory from there on, so that two runs say the same."""
        directory = Path(self._directory)
        return str(path.relative_to(directory)) if self._directory and path.is_relative_to(directory) else str(path)

    def status(self) -> list[dict[str, object]]:
        """What ``show_status`` says of the devices."""
        return [
            {"partition": partition, "drc": drc, "file": self._shown(storage.blocks.path), "flushes": storage.flushes}
            for (partition, drc), storage in self.storages.items()
        ]


def _store(storage: ScmStorage) -> MetadataStore:
    return storage.metadata or _NoMetadata()


def _files(device: ScmConfig) -> tuple[object, ...]:
    """What decides on the files of a device."""
    return device.size, device.label_size, device.readonly, device.backing


def _labels_of(blocks: Path) -> Path:
    return blocks.with_name(blocks.name + ".labels")


def _make_blank(path: Path, size_bytes: int) -> None:
    """Make the file that nobody may write to later."""
    with path.open("ab") as file:
        file.truncate(size_bytes)


def open_storage(
    topology: Topology, partition: str, number: int, config: ScmDeviceConfig, directory: str
) -> ScmStorage:
    """Open (or make) the files of a device.

    Raises:
        ConfigError: they have another size, belong to somebody else, or cannot be made.
    """
    device = topology.partition(partition).scm[number]
    if device.backing is not None:
        blocks = Path(device.backing)
    elif directory:
        blocks = Path(directory) / "scm" / f"{partition}-{number}.blocks"
        blocks.parent.mkdir(mode=0o700, exist_ok=True)
        if config.is_readonly:
            _make_blank(blocks, config.bytes)
            _make_blank(_labels_of(blocks), config.metadata_size)
    else:
        raise ConfigError(f"partition {partition}: scm[{number}].backing is missing: expected a file, outside of a lab")
    return ScmStorage(
        blocks,
        _labels_of(blocks),
        blocks_bytes=config.bytes,
        metadata_bytes=config.metadata_size,
        readonly=config.is_readonly,
        make_error=StoreError,
    )
