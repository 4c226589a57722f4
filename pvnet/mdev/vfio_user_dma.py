"""The server asks for the client's memory: DMA_READ and DMA_WRITE.

For memory that was mapped without a descriptor.  Replies are taken in every shape that exists: DMA_WRITE is answered
with the 16 bytes of the request, with a 4-byte count or with a header only.  Spec: mdev 6.4, V15, V16.
"""

from __future__ import annotations

from collections.abc import Callable

from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import DMA, DMA_COUNT, Command, Connection, Data, Descriptor, command_parts
from pvnet.mdev.vfio_user_replies import Answer, ReplyTable
from pvnet.papr.errno import EAGAIN, EINVAL, EIO


class DmaRequests:
    """DMA_READ and DMA_WRITE under way on one connection."""

    def __init__(self, connection: Connection, limit: int, timeout_s: float, counters: Counters) -> None:
        self._connection = connection
        self.table = ReplyTable(limit, timeout_s, counters)

    def read(self, address: int, length: int, limit: int, done: Callable[[bytes | MdevError], None]) -> None:
        """Ask for ``length`` bytes, at most ``limit``."""

        def answer(payload: memoryview | MdevError, _descriptors: list[Descriptor]) -> None:
            if isinstance(payload, MdevError):
                done(payload)
            elif len(payload) != DMA.size + length or DMA.unpack_from(payload)[1] != length:
                done(MdevError(EIO, f"DMA_READ of {length} bytes answered with {len(payload)} bytes"))
            else:
                done(bytes(payload[DMA.size :]))

        self._send(Command.DMA_READ, (DMA.pack(address, length),), length, limit, answer)

    def write(self, address: int, data: bytes, limit: int, done: Callable[[MdevError | None], None]) -> None:
        """Ask to store ``data``, at most ``limit`` bytes."""

        def answer(payload: memoryview | MdevError, _descriptors: list[Descriptor]) -> None:
            if isinstance(payload, MdevError):
                done(payload)
            elif _stored(payload, len(data)) != len(data):
                done(MdevError(EIO, f"DMA_WRITE of {len(data)} bytes answered with {bytes(payload[:16]).hex()}"))
            else:
                done(None)

        self._send(Command.DMA_WRITE, (DMA.pack(address, len(data)), data), len(data), limit, answer)

    def _send(self, command: Command, parts: tuple[Data, ...], length: int, limit: int, answer: Answer) -> None:
        if not 0 < length <= limit:
            answer(MdevError(EINVAL, f"{command.name} of {length} bytes, at most {limit}"), [])
        elif self.table.full:
            answer(MdevError(EAGAIN, f"{command.name}: too many under way"), [])
        else:
            self._connection.send(command_parts(self.table.add(command, answer), command, *parts), ())


def _stored(payload: memoryview, asked: int) -> int | None:
    """How much a reply to DMA_WRITE says was stored; None: no known shape."""
    if not payload:
        return asked
    count: int | None = None
    if len(payload) == DMA_COUNT.size:
        (count,) = DMA_COUNT.unpack(payload)
    elif len(payload) == DMA.size:
        _address, count = DMA.unpack(payload)
    return count
