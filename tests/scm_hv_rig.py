"""A platform with the SCM extension and a guest whose memory is mapped here, or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pvnet.core.machine import Note
from pvnet.memory.segment import Segment
from pvnet.papr.drc import DrcType
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    HcallRequest,
    HcallResult,
    MemoryDone,
    PartitionConfig,
    PartitionDied,
    PartitionStarted,
    PlatformConfig,
    PlatformInput,
    ReadMemory,
    WriteMemory,
)
from pvnet.scm.calls import ScmCall, opcode_of
from pvnet.scm.device import MemoryMetadata, MetadataStore, ScmDeviceConfig, ScmType
from pvnet.scm.hypervisor import ScmHypervisor
from pvnet.scm.hypervisor_io import (
    ConnectorConfig,
    FlushDone,
    MapBlocks,
    ScmHypervisorConfig,
    StartFlush,
    UnmapBlocks,
)
from pvnet.scm.profiles import PHYP, QEMU

GUEST = "guest"
MEMORY = 0x10000
LABELS = b"NAMESPACE_INDEX\0"
A, B, EMPTY, LMB = 0x90000000, 0x90000001, 0x90000002, 0x80000010
D = 0x44100002

CONFIG_Q = ScmHypervisorConfig(
    devices=(
        ScmDeviceConfig(GUEST, A, blocks=4, address=0x100000000),
        ScmDeviceConfig(
            GUEST, B, blocks=1, address=0x140000000, type=ScmType.NVDIMM, is_unarmed=True, is_readonly=True
        ),
    ),
    connectors=(ConnectorConfig(GUEST, EMPTY), ConnectorConfig(GUEST, LMB, DrcType.LMB)),
    profile=QEMU,
)
"""Configuration Q of the sheet, section 7.1."""

DEVICE_D = ScmDeviceConfig(GUEST, D, blocks=8, address=0x800000000, block_size=16 << 20, profile=PHYP)
CONFIG_P = ScmHypervisorConfig((DEVICE_D,), profile=PHYP)
"""Profile P, section 7.4."""


def device(**changes: Any) -> ScmHypervisorConfig:
    """Profile P with another device D."""
    return replace(CONFIG_P, devices=(replace(DEVICE_D, **changes),))


class Rig:
    """``mapped``: the guest's memory is mapped into the platform."""

    def __init__(
        self,
        config: ScmHypervisorConfig = CONFIG_Q,
        stores: Mapping[tuple[str, int], MetadataStore] | None = None,
        *,
        mapped: bool = True,
        partitions: tuple[str, ...] = (GUEST,),
    ) -> None:
        presets = {A: LABELS}
        made: dict[tuple[str, int], MetadataStore] = {
            (d.partition, d.drc): MemoryMetadata(d.metadata_size, presets.get(d.drc, b"")) for d in config.devices
        }
        self.scm = ScmHypervisor(config, {**made, **(stores or {})})
        self.platform = Platform(
            PlatformConfig(tuple(PartitionConfig(name, MEMORY) for name in partitions)), [self.scm]
        )
        self.memory = Segment(bytearray(MEMORY))
        self.mapped = mapped
        self.now = 0.0
        self.flushes: list[StartFlush] = []
        self.mappings: list[MapBlocks | UnmapBlocks] = []
        self.notes: list[Note] = []
        self.chunks: list[ReadMemory | WriteMemory] = []
        self.hold_chunks = False
        self.results: list[HcallResult] = []
        for name in partitions:
            self.start(name)
        self.mappings.clear()

    def start(self, name: str = GUEST) -> None:
        self.feed(PartitionStarted(name, self.memory if self.mapped else None))

    def die(self, name: str = GUEST) -> None:
        self.feed(PartitionDied(name))

    def feed(self, event: PlatformInput) -> None:
        for output in self.platform.feed(event, self.now):
            match output:
                case HcallResult():
                    self.results.append(output)
                case StartFlush():
                    self.flushes.append(output)
                case MapBlocks() | UnmapBlocks():
                    self.mappings.append(output)
                case ReadMemory() | WriteMemory():
                    assert not self.mapped
                    self.chunks.append(output)
                case Note():
                    self.notes.append(output)
                case _:
                    raise AssertionError(output)
        while self.chunks and not self.hold_chunks:
            self.answer_chunk()

    def answer_chunk(self, error: int = 0) -> None:
        chunk = self.chunks.pop(0)
        if isinstance(chunk, ReadMemory):
            data = b"" if error else self.memory.read(chunk.address, chunk.length)
            self.feed(MemoryDone(chunk.tag, error, data))
        else:
            if not error:
                self.memory.write(chunk.address, chunk.data)
            self.feed(MemoryDone(chunk.tag, error))

    def raw(
        self, opcode: int, *args: int, partition: str = GUEST, memory: bytes | None = None, problem: bool = False
    ) -> tuple[int, tuple[int, ...]]:
        """Make a call; the answer is (rc, outs)."""
        before = len(self.results)
        self.feed(HcallRequest(partition, 1, opcode, args, memory, problem))
        assert len(self.results) == before + 1, "one answer per call"
        return self.results[-1].rc, self.results[-1].outs

    def call(self, call: ScmCall, partition: str = GUEST) -> tuple[int, tuple[int, ...]]:
        return self.raw(opcode_of(call), *call, partition=partition)

    def rc(self, call: ScmCall, partition: str = GUEST) -> int:
        return self.call(call, partition)[0]

    def finish_flush(self, error: int = 0) -> None:
        """The oldest flush under way is done."""
        self.feed(FlushDone(self.flushes.pop(0).tag, error))
