"""The requests of a vfio-user client, with callbacks.

:class:`ClientMachine` is the counterpart of :class:`~pvnet.mdev.vfio_user_server.ServerSession` and speaks to foreign
servers as well.  What ``done`` hears, and when, is said in :mod:`pvnet.mdev.vfio_user_exchange`.

Spec: mdev 6.4, 6.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.mdev import vfio_layout
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.names import RegionFlag
from pvnet.mdev.vfio_user import (
    ACCESS_MESSAGE,
    DMA_MAP,
    DMA_UNMAP,
    ERROR,
    NO_REPLY,
    TYPE_MASK,
    TYPE_REPLY,
    UNMAP_ALL,
    Command,
    Data,
    Descriptor,
)
from pvnet.mdev.vfio_user_access import ACCESS_SIZE, READ, WRITE, ReadSent, WriteSent, out_of_range
from pvnet.mdev.vfio_user_exchange import ClientExchange, Done, pack
from pvnet.papr.errno import EINVAL

MAX_REGION_INFO: Final = 128 << 10
"""Most bytes of a region info that are asked for."""
_pack: Final = ACCESS_MESSAGE.pack
_unpack: Final = ACCESS_MESSAGE.unpack_from
_GOOD_MASK: Final = TYPE_MASK | ERROR


@dataclass(frozen=True, slots=True)
class RegionReply:
    """A region, and the descriptor to map it by, which is the caller's now."""

    info: RegionInfo
    descriptor: Descriptor | None = None


class ClientMachine(ClientExchange):
    """A user of a device that somebody else serves."""

    def device_info(self, done: Done[DeviceInfo]) -> None:
        """GET_INFO."""
        size = vfio_layout.DEVICE_INFO.size
        request = vfio_layout.DEVICE_INFO.pack(size, 0, 0, 0)
        self.ask(Command.DEVICE_GET_INFO, (request,), lambda payload, _: vfio_layout.decode_device_info(payload), done)

    def region_info(self, index: int, done: Done[RegionReply]) -> None:
        """GET_REGION_INFO, once more if the server has more to tell than 32 bytes hold."""

        def first(result: tuple[int, RegionReply] | MdevError) -> None:
            if isinstance(result, MdevError):
                done(result)
            elif vfio_layout.REGION_INFO.size < result[0] <= MAX_REGION_INFO:
                if result[1].descriptor is not None:
                    self._carrier.close_descriptor(result[1].descriptor)
                self._region_info(index, result[0], second)
            else:
                done(result[1])

        def second(result: tuple[int, RegionReply] | MdevError) -> None:
            done(result if isinstance(result, MdevError) else result[1])

        self._region_info(index, vfio_layout.REGION_INFO.size, first)

    def _region_info(self, index: int, argsz: int, done: Done[tuple[int, RegionReply]]) -> None:
        def decode(payload: memoryview, came: list[Descriptor]) -> tuple[int, RegionReply]:
            needed, found, info = vfio_layout.decode_region_info(payload)
            if found != index:
                raise MdevError(EINVAL, f"region {found} instead of {index}")
            descriptor = came.pop(0) if came and info.flags & RegionFlag.MMAP else None
            return needed, RegionReply(info, descriptor)

        request = pack(vfio_layout.REGION_INFO, argsz, 0, index, 0, 0, 0)
        self.ask(Command.DEVICE_GET_REGION_INFO, (request,), decode, done)

    def irq_info(self, index: int, done: Done[IrqInfo]) -> None:
        """GET_IRQ_INFO."""
        request = pack(vfio_layout.IRQ_INFO, vfio_layout.IRQ_INFO.size, 0, index, 0)
        self.ask(
            Command.DEVICE_GET_IRQ_INFO, (request,), lambda payload, _: vfio_layout.decode_irq_info(payload)[1], done
        )

    def set_irqs(
        self,
        index: int,
        start: int,
        count: int,
        data_type: int,
        action: int,
        data: bytes,
        descriptors: Sequence[Descriptor],
        done: Done[None],
    ) -> None:
        """SET_IRQS; ``data``: BOOL, a byte per vector; EVENTFD: a descriptor per vector, which stays the caller's."""
        layout = vfio_layout.IRQ_SET
        request = pack(layout, layout.size + len(data), data_type | action, index, start, count) + data
        self.ask(Command.DEVICE_SET_IRQS, (request,), _nothing, done, descriptors)

    def reset(self, done: Done[None]) -> None:
        """DEVICE_RESET."""
        self.ask(Command.DEVICE_RESET, (), _nothing, done)

    def region_read(self, index: int, offset: int, count: int, done: Done[bytes]) -> None:
        """REGION_READ, in pieces where that is more than either end takes."""
        if count > self.max_transfer:
            self._read_pieces(index, offset, count, done)
            return
        table = self._table
        ident = table.free_id()
        try:
            request = _pack(ident, READ, ACCESS_SIZE, 0, 0, offset, index, count)
        except StructError as error:
            raise out_of_range(error, offset, index, count) from None
        sent = table.sent
        if self.version is None or self.closed or len(sent) >= table.limit:
            done(self.refused(Command.REGION_READ))
        else:
            sent[ident] = ReadSent(count, done, self.counters)
            self._send((request,), ())

    def _read_pieces(self, index: int, offset: int, count: int, done: Done[bytes]) -> None:
        pieces: list[bytes] = []
        have = 0

        def piece(result: bytes | MdevError) -> None:
            nonlocal have
            if isinstance(result, MdevError):
                done(result)
                return
            pieces.append(result)
            have += len(result)
            if have == count:
                done(b"".join(pieces))
            else:
                self.region_read(index, offset + have, min(self.max_transfer, count - have), piece)

        self.region_read(index, offset, self.max_transfer, piece)

    def region_write(
        self, index: int, offset: int, data: bytes, done: Done[None] | None = None, *, posted: bool = False
    ) -> None:
        """REGION_WRITE, in pieces where that is more than the server takes.

        ``posted``: no reply is asked for, so errors vanish; ``done`` is called at once.
        """
        told = done if done is not None else _forget
        if posted:
            told(self._post(index, offset, data))
        elif len(data) <= self.max_send:
            self._write(index, offset, data, told)
        else:
            self._write_pieces(index, offset, data, told)

    def _write_pieces(self, index: int, offset: int, data: bytes, done: Done[None]) -> None:
        have = 0

        def piece(result: MdevError | None) -> None:
            nonlocal have
            have += self.max_send
            if isinstance(result, MdevError) or have >= len(data):
                done(result)
            else:
                self._write(index, offset + have, data[have : have + self.max_send], piece)

        self._write(index, offset, data[: self.max_send], piece)

    def _write(self, index: int, offset: int, data: bytes, done: Done[None]) -> None:
        table, count = self._table, len(data)
        ident = table.free_id()
        try:
            head = _pack(ident, WRITE, ACCESS_SIZE + count, 0, 0, offset, index, count)
        except StructError as error:
            raise out_of_range(error, offset, index, count) from None
        sent = table.sent
        if self.version is None or self.closed or len(sent) >= table.limit:
            done(self.refused(Command.REGION_WRITE))
        else:
            sent[ident] = WriteSent(count, done, self.counters)
            self._send((head, data), ())

    def _post(self, index: int, offset: int, data: bytes) -> MdevError | None:
        refusal = self.refusal(Command.REGION_WRITE)
        if refusal is None:
            for at in range(0, len(data), self.max_send):
                piece = data[at : at + self.max_send]
                count, ident = len(piece), self._table.free_id()
                try:
                    head = _pack(ident, WRITE, ACCESS_SIZE + count, NO_REPLY, 0, offset + at, index, count)
                except StructError as error:
                    raise out_of_range(error, offset + at, index, count) from None
                self._send((head, piece), ())
        return refusal

    def message(self, data: Data, descriptors: list[Descriptor]) -> None:
        """Take one whole message, header included, and its descriptors, which are taken over; never raises."""
        size = len(data)
        if size >= ACCESS_SIZE and not descriptors:
            # The good answer to an access, before everything else; an id that is known has been negotiated.
            ident, command, told, flags, _error, _offset, _index, count = _unpack(data)
            if told == size and flags & _GOOD_MASK == TYPE_REPLY:
                sent = self._table.sent.get(ident)
                if command == READ:
                    if isinstance(sent, ReadSent) and sent.count == count and size == ACCESS_SIZE + count:
                        del self._table.sent[ident]
                        sent.done(bytes(data[ACCESS_SIZE:]))
                        return
                elif isinstance(sent, WriteSent) and command == WRITE and sent.count == count and size == ACCESS_SIZE:
                    del self._table.sent[ident]
                    sent.done(None)
                    return
        super().message(data, descriptors)

    def dma_map(
        self,
        address: int,
        size: int,
        flags: int,
        offset: int,
        descriptor: Descriptor | None,
        view: memoryview | None,
        done: Done[None],
    ) -> None:
        """DMA_MAP; the descriptor stays the caller's.

        ``view``, of ``size`` bytes, serves DMA_READ and DMA_WRITE of the server as ``flags`` allow, until the server
        has refused the map or agreed to DMA_UNMAP.

        :raises LocalError: the view has another size.
        """
        if view is not None and view.nbytes != size:
            raise LocalError(f"view of {view.nbytes} bytes for a map of {size}")
        request = pack(DMA_MAP, DMA_MAP.size, flags, offset, address, size)
        added = not self.closed and self.memory.add(address, size, flags, view)

        def mapped(result: MdevError | None) -> None:
            if isinstance(result, MdevError) and added:
                self.memory.remove(address, size)
            done(result)

        self.ask(Command.DMA_MAP, (request,), _nothing, mapped, () if descriptor is None else (descriptor,))

    def dma_unmap(self, address: int, size: int, done: Done[None], *, all_: bool = False) -> None:
        """DMA_UNMAP of one map, or of all (``address`` and ``size`` 0)."""

        def unmapped(result: MdevError | None) -> None:
            if not isinstance(result, MdevError):
                if all_:
                    self.memory.clear()
                else:
                    self.memory.remove(address, size)
            done(result)

        request = pack(DMA_UNMAP, DMA_UNMAP.size, UNMAP_ALL if all_ else 0, address, size)
        self.ask(Command.DMA_UNMAP, (request,), _nothing, unmapped)

    def feature(self, flags: int, data: bytes, max_data: int, done: Done[bytes]) -> None:
        """DEVICE_FEATURE; the answer is what follows its 8-byte head, at most ``max_data`` bytes."""
        layout = vfio_layout.FEATURE
        room = max(len(data), max_data)

        def decode(payload: memoryview, _descriptors: list[Descriptor]) -> bytes:
            if not layout.size <= len(payload) <= layout.size + room:
                raise MdevError(EINVAL, f"{len(payload)} bytes")
            return bytes(payload[layout.size :])

        self.ask(Command.DEVICE_FEATURE, (pack(layout, layout.size + room, flags), data), decode, done)

    def migration_read(self, limit: int, done: Done[bytes]) -> None:
        """MIG_DATA_READ of at most ``limit`` bytes; ``b""``: the end.  A reply may be padded."""
        layout = vfio_layout.MIGRATION_DATA
        wanted = min(limit, self.max_transfer)

        def decode(payload: memoryview, _descriptors: list[Descriptor]) -> bytes:
            size = layout.unpack_from(payload)[1] if len(payload) >= layout.size else wanted + 1
            if size > wanted or len(payload) < layout.size + size:
                raise MdevError(EINVAL, f"{len(payload)} bytes")
            return bytes(payload[layout.size : layout.size + size])

        self.ask(Command.MIG_DATA_READ, (pack(layout, layout.size + wanted, wanted),), decode, done)

    def migration_write(self, data: bytes, done: Done[None]) -> None:
        """MIG_DATA_WRITE, in pieces where that is more than the server takes."""
        layout = vfio_layout.MIGRATION_DATA
        have = 0

        def piece(result: MdevError | None) -> None:
            nonlocal have
            part = data[have : have + self.max_send]
            if isinstance(result, MdevError) or not part:
                done(result)
                return
            have += len(part)
            head = pack(layout, layout.size + len(part), len(part))
            self.ask(Command.MIG_DATA_WRITE, (head, part), _nothing, piece)

        piece(None)


def _nothing(_payload: memoryview, _descriptors: list[Descriptor]) -> None:
    """What a reply carries beyond its header does not matter."""


def _forget(_result: MdevError | None) -> None:
    """Nobody wants to know."""
