"""The commands of a client, one function each: payload in, payload of the reply out.

:class:`Requests` checks what it needs to understand a request and hands it on to the
:class:`~pvnet.mdev.vfio_device.VfioDevice`, which knows the rules of VFIO.  Every refusal is an
:class:`~pvnet.mdev.errors.MdevError`.  A function removes the descriptors that it takes over from the list; whoever
called it closes the others.

``argsz`` is the room that the client has for the payload of the reply.  A request whose argsz or payload is below the
fixed part is EINVAL; more than that is taken, since clients differ in it.

Region accesses are in :mod:`pvnet.mdev.vfio_user_server`: they may have to wait.  Spec: mdev 6.4, 6.5, 9.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from pvnet.mdev import vfio_layout
from pvnet.mdev.device import Region
from pvnet.mdev.dma import DmaRegion
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import RegionInfo
from pvnet.mdev.irqs import IrqSet
from pvnet.mdev.names import DmaFlag, IrqData, RegionFlag
from pvnet.mdev.user import IrqTarget
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user import DMA_MAP, DMA_UNMAP, HEADER_SIZE, IO_FDS, UNMAP_ALL, Carrier, Command, Data, Descriptor
from pvnet.papr.errno import EINVAL

_TOP: Final = 1 << 64
_FILE_TOP: Final = 1 << 63
"""Offsets of files are signed."""


class Reply(NamedTuple):
    """Payload of a reply, and the descriptors beside it (they stay their owner's)."""

    parts: tuple[Data, ...] = ()
    descriptors: tuple[Descriptor, ...] = ()


Handler: TypeAlias = Callable[["Requests", memoryview, list[Descriptor]], Reply]


class Requests:
    """Serves the commands that can be answered at once."""

    def __init__(self, device: VfioDevice, carrier: Carrier, *, max_transfer: int, max_message: int) -> None:
        self._device = device
        self._carrier = carrier
        self._max_write = max_transfer
        self._max_payload = max_message - HEADER_SIZE
        self.client_fds = carrier.max_fds
        """Descriptors that the client takes in one message."""
        self.max_transfer = max_transfer
        """Data bytes that the client takes in one message."""

    def device_info(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """GET_INFO: 20 bytes where argsz has room for them, else 16 (clients exist that wait for the exact size)."""
        (argsz, *_rest) = _unpack(vfio_layout.DEVICE_INFO, payload, "GET_INFO")
        return Reply((vfio_layout.encode_device_info(self._device.info(), argsz),))

    def region_info(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """GET_REGION_INFO: with its capabilities and its descriptor where argsz has room for them."""
        argsz, _flags, index, _at, _size, _offset = _unpack(vfio_layout.REGION_INFO, payload, "GET_REGION_INFO")
        region = self._device.region_info(index)
        descriptor = self._region_descriptor(region)
        info = region.info if descriptor is not None else _unmappable(region.info)
        encoded = vfio_layout.encode_region_info(index, info, argsz)
        beside = (descriptor,) if descriptor is not None and encoded.complete else ()
        return Reply((encoded.data,), beside)

    def _region_descriptor(self, region: Region) -> Descriptor | None:
        if region.memory is None or not region.info.flags & RegionFlag.MMAP or not self.client_fds:
            return None
        return self._carrier.region_descriptor(region.memory)

    def region_io_fds(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """GET_REGION_IO_FDS: regions here have no sub-regions with ioeventfds."""
        argsz, flags, index, _count = _unpack(IO_FDS, payload, "GET_REGION_IO_FDS")
        if argsz < IO_FDS.size or flags:
            raise MdevError(EINVAL, f"GET_REGION_IO_FDS: argsz {argsz}, flags {flags:#x}")
        self._device.region_info(index)
        return Reply((IO_FDS.pack(IO_FDS.size, 0, index, 0),))

    def irq_info(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """GET_IRQ_INFO."""
        argsz, _flags, index, _count = _unpack(vfio_layout.IRQ_INFO, payload, "GET_IRQ_INFO")
        return Reply((vfio_layout.encode_irq_info(index, self._device.irq_info(index), argsz),))

    def set_irqs(self, payload: memoryview, descriptors: list[Descriptor]) -> Reply:
        """SET_IRQS: with EVENTFD one descriptor per vector, or none at all, which removes."""
        layout = vfio_layout.IRQ_SET
        argsz, flags, index, start, count = _unpack(layout, payload, "SET_IRQS")
        if argsz < layout.size:
            raise MdevError(EINVAL, f"SET_IRQS: argsz {argsz}")
        data = b""
        if flags & IrqData.BOOL:
            if min(argsz, len(payload)) - layout.size < count:
                raise MdevError(EINVAL, f"SET_IRQS: fewer bytes than {count} vectors")
            data = bytes(payload[layout.size : layout.size + count])
        if descriptors and (not flags & IrqData.EVENTFD or len(descriptors) != count):
            raise MdevError(EINVAL, f"SET_IRQS: {len(descriptors)} descriptors for {count} vectors, flags {flags:#x}")
        targets = self._irq_targets(descriptors)
        self._device.set_irqs(IrqSet(flags, index, start, count, data, targets))
        return Reply()

    def _irq_targets(self, descriptors: list[Descriptor]) -> tuple[IrqTarget, ...]:
        targets: list[IrqTarget] = []
        try:
            while descriptors:
                targets.append(self._carrier.irq_target(descriptors.pop(0)))
        except MdevError:
            for target in targets:
                target.close()
            raise
        return tuple(targets)

    def dma_map(self, payload: memoryview, descriptors: list[Descriptor]) -> Reply:
        """DMA_MAP: memory behind a descriptor, or without one, that is reached by messages."""
        argsz, flags, offset, address, size = _unpack(DMA_MAP, payload, "DMA_MAP")
        if argsz < DMA_MAP.size or len(descriptors) > 1 or (flags & DmaFlag.MMAP and not descriptors):
            raise MdevError(EINVAL, f"DMA_MAP: argsz {argsz}, flags {flags:#x}, {len(descriptors)} descriptors")
        if not size or address + size > _TOP or (descriptors and offset + size > _FILE_TOP):
            raise MdevError(EINVAL, f"DMA_MAP of {size:#x} bytes at {address:#x}, file offset {offset:#x}")
        memory = None
        if descriptors:
            writable = bool(flags & DmaFlag.WRITE)
            memory = self._carrier.dma_memory(descriptors.pop(), offset, size, writable=writable)
        self._device.dma_map(DmaRegion(address, size, flags, memory, offset))
        return Reply()

    def dma_unmap(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """DMA_UNMAP: exactly one map, or all; the reply repeats the request."""
        argsz, flags, address, size = _unpack(DMA_UNMAP, payload, "DMA_UNMAP")
        if argsz < DMA_UNMAP.size or flags & ~UNMAP_ALL or (flags and (address or size)):
            raise MdevError(EINVAL, f"DMA_UNMAP: argsz {argsz}, flags {flags:#x}, {size:#x} bytes at {address:#x}")
        self._device.dma_unmap(address, size, all_=bool(flags & UNMAP_ALL))
        return Reply((DMA_UNMAP.pack(DMA_UNMAP.size, flags, address, size),))

    def reset(self, _payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """DEVICE_RESET; a payload is ignored."""
        self._device.reset()
        return Reply()

    def feature(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """DEVICE_FEATURE: the reply repeats argsz and flags."""
        argsz, flags, data = vfio_layout.decode_feature(payload)
        room = min(argsz, self._max_payload) - vfio_layout.FEATURE.size
        return Reply((vfio_layout.FEATURE.pack(argsz, flags), self._device.feature(flags, data, room)))

    def migration_read(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """MIG_DATA_READ: at most ``size`` bytes, and what argsz has room for."""
        layout = vfio_layout.MIGRATION_DATA
        argsz, size = _unpack(layout, payload, "MIG_DATA_READ")
        limit = min(size, argsz - layout.size)
        if limit <= 0 or size > self.max_transfer:
            raise MdevError(EINVAL, f"MIG_DATA_READ: argsz {argsz}, size {size}")
        data = self._device.migration_read(limit)
        return Reply((layout.pack(layout.size + len(data), len(data)), data))

    def migration_write(self, payload: memoryview, _descriptors: list[Descriptor]) -> Reply:
        """MIG_DATA_WRITE: ``size`` counts, what follows it is padding."""
        layout = vfio_layout.MIGRATION_DATA
        argsz, size = _unpack(layout, payload, "MIG_DATA_WRITE")
        if argsz < layout.size or size > self._max_write or len(payload) < layout.size + size:
            raise MdevError(EINVAL, f"MIG_DATA_WRITE: argsz {argsz}, size {size}, payload {len(payload)}")
        self._device.migration_write(bytes(payload[layout.size : layout.size + size]))
        return Reply()


HANDLERS: Final[dict[int, Handler]] = {
    Command.DMA_MAP: Requests.dma_map,
    Command.DMA_UNMAP: Requests.dma_unmap,
    Command.DEVICE_GET_INFO: Requests.device_info,
    Command.DEVICE_GET_REGION_INFO: Requests.region_info,
    Command.DEVICE_GET_REGION_IO_FDS: Requests.region_io_fds,
    Command.DEVICE_GET_IRQ_INFO: Requests.irq_info,
    Command.DEVICE_SET_IRQS: Requests.set_irqs,
    Command.DEVICE_RESET: Requests.reset,
    Command.DEVICE_FEATURE: Requests.feature,
    Command.MIG_DATA_READ: Requests.migration_read,
    Command.MIG_DATA_WRITE: Requests.migration_write,
}
TAKES_DESCRIPTORS: Final = frozenset({Command.DMA_MAP, Command.DEVICE_SET_IRQS})


def _unmappable(info: RegionInfo) -> RegionInfo:
    """The region as a client sees it to whom its memory cannot be passed."""
    return replace(info, flags=info.flags & ~RegionFlag.MMAP, sparse=())


def _unpack(layout: Struct, payload: memoryview, what: str) -> tuple[int, ...]:
    if len(payload) < layout.size:
        raise MdevError(EINVAL, f"{what} with {len(payload)} bytes")
    return layout.unpack_from(payload)
