"""``mdev/ccw-read``: whole channel programs that read a block of a disk, as the driver of a partition runs them.

A program is written to the subchannel's I/O region with its start, the device fetches and translates it, reads the
block into our memory and signals; we hear the irq and read the status.  Beside ``uvloop-unix``: twice a bare request
and reply as long as the longer of the messages, which is what the two accesses of a program cost at least.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
from collections.abc import Awaitable, Callable
from typing import Final

from pvnet.bench.mdev_peer import PlainAccessContender
from pvnet.bench.rounds import Round, keep_in_flight
from pvnet.mdev.ccw_layout import decode_irb
from pvnet.mdev.ccw_regions import IO_BYTES, IO_REGION, IRB_AT, RET_CODE_AT
from pvnet.mdev.ccw_request import RequestMemory
from pvnet.mdev.names import CcwIrq
from pvnet.vfio.client import VfioUserClient

BLOCK: Final = 512
DISK_BLOCKS: Final = 64
MESSAGE_BYTES: Final = 32 + IO_BYTES
_IOVA: Final = 0x10000
_MEMORY_BYTES: Final = 1 << 20
_GOOD: Final = 0x0C
"""Channel end and device end."""


def block(number: int) -> bytes:
    """What is stored in a block of the disk."""
    return number.to_bytes(2) * (BLOCK // 2)


async def programs(client: VfioUserClient) -> Callable[[int], Awaitable[bool]]:
    """Return what runs one program; whether it brought the block."""
    fd = os.memfd_create("pvnet-bench-ccw", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _MEMORY_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        memory = memoryview(mmap.mmap(fd, _MEMORY_BYTES))
        await client.dma_map(_IOVA, _MEMORY_BYTES, fd=fd)
    finally:
        os.close(fd)
    request = RequestMemory(memory, _IOVA)
    heard: list[asyncio.Future[None]] = []
    await client.listen_irq(CcwIrq.IO, lambda: heard.pop().set_result(None))
    create_future = asyncio.get_running_loop().create_future

    async def call(number: int) -> bool:
        wanted = number % DISK_BLOCKS
        waiting = create_future()
        heard.append(waiting)
        await client.write(IO_REGION, 0, request.moving(wanted, 1, BLOCK, None))
        await waiting
        status = decode_irb((await client.read(IO_REGION, 0, IO_BYTES))[IRB_AT:RET_CODE_AT])
        good = status.scsw.dstat == _GOOD and not status.scsw.cstat
        return bool(good and request.moved(1, BLOCK) == block(wanted))

    return call


class TwiceContender:
    """Each call is two accesses, one after the other."""

    name = PlainAccessContender.name
    failures = PlainAccessContender.failures

    def __init__(self, plain: PlainAccessContender) -> None:
        self._plain = plain

    async def round(self, count: int, in_flight: int) -> Round:
        """Make ``count`` pairs of accesses."""
        access = self._plain.call

        async def call(number: int) -> bool:
            first = await access(2 * number)
            return await access(2 * number + 1) and first

        return await keep_in_flight(call, count, in_flight)
