"""Character devices of a partition, served to other processes: who has which file open, which calls are under way.

A process reaches only its own files, and when it dies its files are closed, as a kernel would.  Handles are the
partition's (one table for all devices); each driver counts its own underneath.  Calls come in envelopes from other
nodes (:meth:`DeviceFiles.request`), or from whoever serves programs that are no nodes (:meth:`DeviceFiles.call`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from pvnet.papr import device_io as io
from pvnet.papr.errno import EBADF, EINVAL, EMFILE, ENOENT
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint

VMC_PATH = "/dev/ibmvmc"
CRQ_PATH = "/dev/crq"
"""Raw CRQ devices: ``/dev/crq0``, ``/dev/crq1`` ... in the order of the topology."""
MAX_BLOCK_FILES = 256
"""Open files of all block devices of a partition together; beyond it EMFILE."""

AdapterDriver = Driver[io.AdapterInput, Any]
Owner = tuple[str, int]
"""Who opened a file: a node and its incarnation, or a name that no node can have and a number."""
Done = Callable[[int, bytes], None]
"""Takes a call's result and its data."""


class BlockDevice(Protocol):
    """A file that takes calls as they are; block devices look at their offset."""

    def block_call(self, call: DeviceIo, done: Done) -> Callable[[], None] | None:
        """Run a call; ``done(result, data)`` answers.

        Returns what interrupts it, if it may wait for something: then it ends with -EINTR.
        """


@dataclass(frozen=True, slots=True)
class _File:
    driver: AdapterDriver
    inner: int
    """The driver's own handle."""
    owner: Owner


@dataclass(frozen=True, slots=True)
class _Call:
    owner: Owner
    number: int
    """The owner's own number of the call."""
    call: DeviceIo
    done: Done
    is_alive: Callable[[], bool]
    driver: AdapterDriver


class DeviceFiles:
    """The open files of one partition; ``devices`` maps a path to the driver, ``blocks`` to the storage behind it."""

    def __init__(
        self,
        endpoint: Endpoint,
        devices: Mapping[str, AdapterDriver],
        blocks: Mapping[str, BlockDevice] = MappingProxyType({}),
    ) -> None:
        self._endpoint = endpoint
        self._devices = devices
        self._blocks = dict(blocks)
        self._waits: dict[tuple[Owner, int], Callable[[], None]] = {}
        """What interrupts calls of :class:`BlockDevice` files that wait."""
        self._block_files: dict[int, tuple[BlockDevice, Owner]] = {}
        self._files: dict[int, _File] = {}
        self._calls: dict[int, _Call] = {}
        self._numbers: dict[tuple[Owner, int], int] = {}
        self._last_request = 0
        self._last_handle = 0

    @property
    def open_count(self) -> int:
        """How many files are open."""
        return len(self._files) + len(self._block_files)

    @property
    def calls_under_way(self) -> int:
        """How many device calls are not answered yet."""
        return len(self._calls)

    def add(self, path: str, device: BlockDevice) -> None:
        """Offer another file."""
        self._blocks[path] = device

    def remove(self, path: str) -> None:
        """Offer a file no more; who has it open finds it gone (ENODEV) by its own means."""
        self._blocks.pop(path, None)

    @property
    def paths(self) -> list[str]:
        """Every file that can be opened."""
        return [*self._devices, *self._blocks]

    def request(self, envelope: Envelope) -> None:
        """Run one device call of another node."""
        source, incarnation = envelope.source, envelope.source_incarnation

        def is_alive() -> bool:
            return self._endpoint.link.peer_incarnation(source) == incarnation

        done = partial(self._answer, envelope)
        self.call((source, incarnation), envelope.correlation, envelope.device_io, done, is_alive)

    def call(self, owner: Owner, number: int, call: DeviceIo, done: Done, is_alive: Callable[[], bool]) -> None:
        """Run one device call; ``done`` takes its end, at once or later, but never that of an INTERRUPT.

        ``number`` is what an INTERRUPT of the same owner names.  A file that is opened only when its owner is not
        alive any more is closed again; afterwards :meth:`owner_died` is to be called.
        """
        if call.operation == DeviceIo.INTERRUPT:
            under_way = self._numbers.get((owner, call.interrupts))
            if under_way is not None:
                self._calls[under_way].driver.feed(io.DeviceInterrupt(under_way))
            elif (interrupt := self._waits.get((owner, call.interrupts))) is not None:
                interrupt()
            return
        is_open = call.operation == DeviceIo.OPEN
        if call.path in self._blocks if is_open else call.handle in self._block_files:
            self._block_call(owner, number, call, done)
            return
        if is_open:
            driver = self._devices.get(call.path)
            inner = 0
            if driver is None:
                done(-ENOENT, b"")
                return
        else:
            file = self._files.get(call.handle)
            if file is None or file.owner != owner:
                done(-EBADF, b"")
                return
            driver, inner = file.driver, file.inner
        self._last_request += 1
        event = _input(call, self._last_request, inner)
        if event is None:
            done(-EINVAL, b"")
            return
        self._calls[self._last_request] = _Call(owner, number, call, done, is_alive, driver)
        self._numbers[owner, number] = self._last_request
        driver.feed(event)

    def _block_call(self, owner: Owner, number: int, call: DeviceIo, done: Done) -> None:
        if call.operation == DeviceIo.OPEN:
            if len(self._block_files) >= MAX_BLOCK_FILES:
                done(-EMFILE, b"")
                return
            self._last_handle += 1
            self._block_files[self._last_handle] = (self._blocks[call.path], owner)
            done(self._last_handle, b"")
            return
        block, owned_by = self._block_files.get(call.handle, (None, None))
        if block is None or owned_by != owner:
            done(-EBADF, b"")
        elif call.operation == DeviceIo.CLOSE:
            del self._block_files[call.handle]
            done(0, b"")
        else:
            key = (owner, number)
            interrupt = block.block_call(call, partial(self._block_done, done, key))
            if interrupt is not None:
                self._waits[key] = interrupt

    def _block_done(self, done: Done, key: tuple[Owner, int], result: int, data: bytes) -> None:
        self._waits.pop(key, None)
        done(result, data)

    def done(self, driver: AdapterDriver, request: int, result: int, data: bytes) -> None:
        """Answer the call that a driver has finished."""
        under_way = self._calls.pop(request, None)
        if under_way is None:
            return
        key = (under_way.owner, under_way.number)
        if self._numbers.get(key) == request:
            del self._numbers[key]
        operation = under_way.call.operation
        if operation == DeviceIo.OPEN and result >= 0:
            if not under_way.is_alive():
                self._close(driver, result)
                return
            self._last_handle += 1
            self._files[self._last_handle] = _File(driver, result, under_way.owner)
            result = self._last_handle
        elif operation == DeviceIo.CLOSE:
            self._files.pop(under_way.call.handle, None)
        under_way.done(result, data)

    def owner_died(self, node: str) -> None:
        """Close every file of a process that has died."""
        for handle, (_, owner) in list(self._block_files.items()):
            if owner[0] == node:
                del self._block_files[handle]
        for (owner, _), interrupt in list(self._waits.items()):
            if owner[0] == node:
                interrupt()
        for handle, file in list(self._files.items()):
            if file.owner[0] == node:
                del self._files[handle]
                self._close(file.driver, file.inner)

    def _answer(self, call: Envelope, result: int, data: bytes = b"") -> None:
        self._endpoint.reply(call, Envelope(device_reply=DeviceReply(result=result, data=data)))

    def _close(self, driver: AdapterDriver, inner: int) -> None:
        """Close a file for which nobody waits any more."""
        self._last_request += 1
        driver.feed(io.DeviceClose(self._last_request, inner))


def _input(call: DeviceIo, request: int, handle: int) -> io.DeviceInput | None:
    """Return the driver's input for a call, or None for an operation that does not exist."""
    match call.operation:
        case DeviceIo.OPEN:
            return io.DeviceOpen(request)
        case DeviceIo.IOCTL:
            return io.DeviceIoctl(request, handle, call.command, call.data)
        case DeviceIo.READ:
            return io.DeviceRead(request, handle, call.count, call.nonblock)
        case DeviceIo.WRITE:
            return io.DeviceWrite(request, handle, call.data)
        case DeviceIo.POLL:
            return io.DevicePoll(request, handle, call.nonblock)
        case DeviceIo.CLOSE:
            return io.DeviceClose(request, handle)
    return None
