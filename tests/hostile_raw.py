"""The bridge of a partition by hand, and descriptors of files that are not what they should be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import BRIDGE
from pvnet.vbus.arena import DEFAULT_BASE
from pvnet.vbus.layout import (
    BridgeVector,
    BusVector,
    CallDescriptor,
    DeviceCall,
    DeviceClose,
    DeviceOpen,
    DeviceShm,
    EventQueue,
    Negotiate,
    encode_queues,
)

CALL_S = 20.0


class Raw:
    """The bridge by hand: calls by number, structures at fixed places, events never looked at."""

    def __init__(self, endpoint: Endpoint, view: memoryview) -> None:
        self.endpoint = endpoint
        self.view = view
        self.handle = 0

    async def bridge(self, vector: int, data: bytes) -> int:
        self.view[0x400 : 0x400 + len(data)] = data
        envelope = Envelope()
        envelope.vbus_call.call = CallDescriptor(vector, len(data), DEFAULT_BASE + 0x400).encode()
        return (await self.endpoint.call(BRIDGE, envelope, CALL_S)).vbus_reply.result

    async def bus(self, vector: int, data: bytes) -> int:
        self.view[0x600 : 0x600 + len(data)] = data
        return await self.bridge(
            BridgeVector.SLOWCALL, CallDescriptor(vector, len(data), DEFAULT_BASE + 0x600).encode()
        )

    async def negotiate(self) -> int:
        return await self.bridge(BridgeVector.NEGOTIATE, Negotiate().encode())

    async def register(self, events: int) -> int:
        head = struct.pack("<IIII8xIIIIIII4x", 0x47FA2FE4, 4, 0x58FA39DF, 1, 0, 0, 1, 0, 0, 0, events)
        slots = b"".join(struct.pack("<QQQBB6x", i, DEFAULT_BASE + 0x2000 + 144 * i, 144, 1, 1) for i in range(events))
        self.view[0x1000 : 0x1000 + len(head) + len(slots)] = head + slots
        return await self.bridge(
            BridgeVector.QREG, encode_queues([EventQueue(events, DEFAULT_BASE + 0x1000, DEFAULT_BASE + 0x2000)])
        )

    async def open(self, number: int = 0) -> int:
        """Open a device: venets have the numbers from 0."""
        result = await self.bus(BusVector.DEVOPEN, DeviceOpen(number, 1, 0).encode())
        self.handle = int.from_bytes(self.view[0x608:0x610], "little")
        return result

    def enable(self, region: int) -> None:
        """Ask the host to ring."""
        self.view[0x3000 + 0x100 * region + 16] = 1

    async def ring(self, region: int, cookie: int, place: int = -1) -> int:
        """Register a ring of one entry: a buffer to receive, or nothing to send."""
        at = 0x3000 + 0x100 * (region if place < 0 else place)
        full = 1 if region == 0 else 0
        self.view[at : at + 88] = struct.pack(
            "<IIII8xIIIIIII4x", 0x47FA2FE4, 4, 0x58FA39DF, 1, 0, 0, full, 0, 0, 0, 1
        ) + struct.pack("<QQQBB6x", 0, DEFAULT_BASE + 0x4000, 2048, full, full)
        return await self.bus(
            BusVector.DEVSHM, DeviceShm(self.handle, region, 88, 0, 8, 0, cookie, DEFAULT_BASE + at).encode()
        )

    async def call(self, func: int) -> int:
        return await self.bus(BusVector.DEVCALL, DeviceCall(self.handle, func, 0, 0, 0).encode())

    async def close(self) -> int:
        return await self.bus(BusVector.DEVCLOSE, DeviceClose(self.handle).encode())


@contextlib.contextmanager
def files(number: int) -> Iterator[list[int]]:
    """Descriptors of some kind each."""
    kinds = ["eventfd", "pipe", "memfd"]
    fds = [make_bell(kinds[i % 3]) for i in range(number)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def make_bell(kind: str) -> int:
    if kind == "eventfd":
        return os.eventfd(0)
    if kind == "memfd":
        return os.memfd_create("bell")
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


def make_file(kind: str, size: int) -> int:
    """Something that is offered as an arena and must be refused."""
    if kind == "pipe":
        return make_bell("pipe")
    if kind == "file":
        with open(__file__, "rb") as file:  # noqa: PTH123
            return os.dup(file.fileno())
    flags = os.MFD_ALLOW_SEALING
    if kind == "huge":
        flags |= os.MFD_HUGETLB
    fd = os.memfd_create("evil", flags)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    if kind == "huge":
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 2 << 20)
    elif kind == "small":
        os.ftruncate(fd, size - 4096)
    else:
        os.ftruncate(fd, size)
    if kind == "half":
        seals = fcntl.F_SEAL_SHRINK
    elif kind == "written":
        seals |= fcntl.F_SEAL_WRITE
    if kind != "unsealed":
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
