"""A platform with a small host around it: partitions whose memory is here or elsewhere, and their rings.

:class:`Rig` plays everything that is not the platform: it stores delivered elements as a partition's runtime does
(and refuses what a correct platform must never send), answers memory chunks, and collects the rest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pvnet.core.machine import Note
from pvnet.memory.segment import Segment
from pvnet.memory.window import PAGE_BYTES
from pvnet.papr.crq import to_words
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    LOPAR,
    AdapterConfig,
    CrqConsumed,
    DeliverCrq,
    HcallRequest,
    HcallResult,
    HypervisorPartner,
    MemoryDone,
    PartitionConfig,
    PartitionDied,
    PartitionMapped,
    PartitionPartner,
    PartitionStarted,
    PartnerElement,
    PlatformConfig,
    PlatformInput,
    PlatformOutput,
    PlatformProfile,
    RaiseIrq,
    ReadMemory,
    WriteMemory,
)

MEMORY = 64 * PAGE_BYTES
UNIT = 0x30
SERVER = 0x40
CLIENT = 0x50
LOCAL = 0x1000_0000
REMOTE = 0x2000_0000
SERVER_LOCAL = 0x1000_0040
SERVER_REMOTE = 0x2000_0040
CLIENT_LOCAL = 0x1000_0050
QUEUE = 0x4000
SLOTS = 256
MESSAGE = bytes.fromhex("80060000010000000000000000000010")
INIT = bytes.fromhex("c0010000000000000000000000000000")


def config(profile: PlatformProfile = LOPAR, **more: int) -> PlatformConfig:
    """``mp``: a VMC-like adapter towards the hypervisor and a server adapter; ``lpar``: its client; both 256 KiB."""
    window = MEMORY
    mp = PartitionConfig(
        "mp",
        MEMORY,
        (
            AdapterConfig(UNIT, True, LOCAL, window, REMOTE, 16 * PAGE_BYTES),
            AdapterConfig(SERVER, True, SERVER_LOCAL, window, SERVER_REMOTE, partner=PartitionPartner("lpar", CLIENT)),
            AdapterConfig(0x60, crq=False, partner=None),
            AdapterConfig(0x70, True, 0x1000_0070, window, partner=None),
        ),
        vmc_drc_index=0x3000_0001,
    )
    lpar = PartitionConfig(
        "lpar",
        MEMORY,
        (
            AdapterConfig(CLIENT, True, CLIENT_LOCAL, window, partner=PartitionPartner("mp", SERVER)),
            AdapterConfig(UNIT, True, LOCAL, window, partner=HypervisorPartner()),
        ),
    )
    return PlatformConfig((mp, lpar), profile, **more)


@dataclass
class Ring:
    """A partition's own view of a registered queue: its memory, cursor, and how much it has cleared."""

    ioba: int
    slots: int
    registration: int
    cursor: int = 0
    consumed: int = 0


@dataclass
class Rig:
    """``mapped``: partition memories are mapped into the platform; else they live only here.

    ``later``: they are mapped after the partition has started, so that its queues are delivered to all the same.
    """

    mapped: bool
    platform: Platform = field(default_factory=lambda: Platform(config()))
    memory: dict[str, Segment] = field(default_factory=dict)
    rings: dict[tuple[str, int], Ring] = field(default_factory=dict)
    registrations: dict[tuple[str, int], int] = field(default_factory=dict)
    irqs: list[tuple[str, int]] = field(default_factory=list)
    partner: list[bytes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    log: list[PlatformOutput] = field(default_factory=list)
    chunks: deque[ReadMemory | WriteMemory] = field(default_factory=deque)
    results: dict[int, HcallResult] = field(default_factory=dict)
    hold_chunks: bool = False
    later: bool = False
    now: float = 0.0
    tag: int = 0

    @property
    def queues_mapped(self) -> bool:
        """Whether the platform writes the rings itself."""
        return self.mapped and not self.later

    def start(self, *names: str) -> None:
        for name in names:
            self.memory[name] = Segment(bytearray(MEMORY))
            for key in [key for key in self.registrations if key[0] == name]:
                del self.registrations[key]
            self.feed(PartitionStarted(name, self.memory[name] if self.queues_mapped else None))
            if self.later:
                self.feed(PartitionMapped(name, self.memory[name]))

    def die(self, name: str) -> None:
        for key in [key for key in self.rings if key[0] == name]:
            del self.rings[key]
        self.feed(PartitionDied(name))

    def feed(self, event: PlatformInput) -> None:
        self.take(self.platform.feed(event, self.now))

    def take(self, outputs: list[PlatformOutput]) -> None:
        self.log += outputs
        for output in outputs:
            match output:
                case HcallResult(tag=tag):
                    assert tag not in self.results, "answered twice"
                    self.results[tag] = output
                case DeliverCrq():
                    self._store(output)
                case RaiseIrq(partition, unit):
                    self.irqs.append((partition, unit))
                case PartnerElement(element=element):
                    self.partner.append(element)
                case ReadMemory() | WriteMemory():
                    assert not self.mapped
                    self.chunks.append(output)
                case Note(event=event):
                    self.notes.append(event)
                case _:
                    pass
        while self.chunks and not self.hold_chunks:
            self.answer_chunk()

    def _store(self, output: DeliverCrq) -> None:
        """What a partition's runtime does with an element."""
        assert not self.queues_mapped
        key = (output.partition, output.unit)
        if output.registration != self.registrations.get(key):
            return
        ring = self.rings[key]
        at = ring.ioba + output.slot * 16
        assert self.memory[output.partition].read(at, 1) == b"\0", "an occupied slot was overwritten"
        self.memory[output.partition].write(at, output.element)
        if output.irq:
            self.irqs.append(key)

    def answer_chunk(self, error: int = 0, cut: int = 0) -> None:
        """Answer the oldest chunk that is under way."""
        chunk = self.chunks.popleft()
        if isinstance(chunk, ReadMemory):
            data = b"" if error else self.memory[chunk.partition].read(chunk.address, chunk.length - cut)
            self.feed(MemoryDone(chunk.tag, error, data))
        else:
            if not error:
                self.memory[chunk.partition].write(chunk.address, chunk.data)
            self.feed(MemoryDone(chunk.tag, error))

    def call(self, partition: str, opcode: int, *args: int, memory: bytes | None = None) -> int:
        """Make a call and return its rc; ``results[tag]`` has the rest; an unanswered call returns -99999."""
        self.tag += 1
        tag = self.tag
        self.feed(HcallRequest(partition, tag, opcode, args, memory))
        result = self.results.get(tag)
        if result is None:
            return -99999
        key = (partition, args[0] & 0xFFFF_FFFF if args else 0)
        if opcode == HcallOpcode.H_REG_CRQ and result.rc in (0, 2):
            self.registrations[key] = self.registrations.get(key, 0) + 1
            self.rings[key] = Ring(args[1], args[2] // 16, self.registrations[key])
        if opcode == HcallOpcode.H_FREE_CRQ:
            self.rings.pop(key, None)
        return result.rc

    def last(self) -> HcallResult:
        return self.results[self.tag]

    def map_all(self, partition: str, liobn: int, access: int = 3) -> None:
        """Identity map of the whole memory."""
        for page in range(MEMORY // PAGE_BYTES):
            tce = page * PAGE_BYTES | access
            assert self.call(partition, HcallOpcode.H_PUT_TCE, liobn, page * PAGE_BYTES, tce) == 0

    def open(self, partition: str, unit: int, liobn: int, slots: int = SLOTS, ioba: int = QUEUE) -> int:
        """Map, zero, register, interrupts on; returns the rc of H_REG_CRQ."""
        self.map_all(partition, liobn)
        self.memory[partition].write(ioba, bytes(slots * 16))
        rc = self.call(partition, HcallOpcode.H_REG_CRQ, unit, ioba, slots * 16)
        if rc in (0, 2):
            assert self.call(partition, HcallOpcode.H_VIO_SIGNAL, unit, 1) == 0
        return rc

    def send(self, partition: str, unit: int, element: bytes) -> int:
        return self.call(partition, HcallOpcode.H_SEND_CRQ, unit, *to_words(element))

    def consume(self, partition: str, unit: int, limit: int = 1 << 30) -> list[bytes]:
        """Take and clear elements, then report."""
        ring, memory, got = self.rings[partition, unit], self.memory[partition], []
        while len(got) < limit:
            at = ring.ioba + ring.cursor * 16
            element = memory.read(at, 16)
            if not element[0] & 0x80:
                break
            got.append(element)
            memory.write(at, b"\0")
            ring.cursor = (ring.cursor + 1) % ring.slots
        ring.consumed += len(got)
        self.feed(CrqConsumed(partition, unit, ring.registration, ring.consumed))
        return got

    def post(self, element: bytes, partition: str = "mp", unit: int = UNIT) -> None:
        self.take(self.platform.partner_post(partition, unit, element))

    def hypervisor_up(self, partition: str = "mp", unit: int = UNIT) -> None:
        self.take(self.platform.partner_register(partition, unit))


def numbered(n: int) -> bytes:
    """A distinct message."""
    return b"\x80\x06" + n.to_bytes(14, "big")


def long_rc(rc: int) -> str:
    """For messages of failing tests."""
    return str(HcallRc(rc))
