"""The server end of vfio-user: one client of one device.

A carrier hands whole messages to :meth:`ServerSession.message`; replies and the session's own requests leave by
:meth:`~pvnet.mdev.vfio_user.Carrier.send`.  Whatever a client sends, nothing raises: it is answered with an error,
ignored and counted, or the session closes:

* **closes**: a header that does not frame; anything but a good VERSION as the first command.
* **ignored**: replies to nothing; everything after the session has closed.
* **error reply**: all else.  A command with No_reply gets none, not even then.

Descriptors that come with a message are the session's: each is used or closed before :meth:`ServerSession.message`
returns.  Commands are executed in order, but one that waits for the client's memory is answered when that has come,
and others go on meanwhile; their number is bounded (EAGAIN).  A change of the state of migration waits until the device
has come to rest, and everything behind it does, too (:mod:`pvnet.mdev.vfio_user_pause`).

:class:`ServerSession` is the :class:`~pvnet.mdev.user.DeviceUser` of the device: memory that was mapped without a
descriptor is asked for by DMA_READ and DMA_WRITE.

Spec: mdev 6, 9.2, 9.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.programs import Pending
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user import (
    ACCESS,
    ACCESS_MESSAGE,
    HEADER,
    HEADER_SIZE,
    MAJOR,
    MINOR,
    MULTI_ENTRY,
    MULTI_HEAD,
    NO_REPLY,
    TYPE_MASK,
    TYPE_REPLY,
    Carrier,
    Command,
    Data,
    Descriptor,
    command_name,
    error_parts,
    reply_parts,
)
from pvnet.mdev.vfio_user_dma import DmaRequests
from pvnet.mdev.vfio_user_limits import DEFAULT_LIMITS, ServerLimits
from pvnet.mdev.vfio_user_pause import Pause
from pvnet.mdev.vfio_user_requests import HANDLERS, TAKES_DESCRIPTORS, Requests
from pvnet.mdev.vfio_user_version import Capabilities, MigrationCapability, Version, decode_version, encode_version
from pvnet.papr.errno import EAGAIN, EBUSY, EINVAL, ENODEV

__all__ = ["DEFAULT_LIMITS", "MAX_MULTI", "ServerLimits", "ServerSession"]

T = TypeVar("T")

MAX_MULTI: Final = 64
"""Most writes of one REGION_WRITE_MULTI."""
_HELD_MESSAGES: Final = 4
"""Room for what waits behind a command, in messages of the largest size."""
_READ: Final = int(Command.REGION_READ)
_WRITE: Final = int(Command.REGION_WRITE)
_ACCESS_SIZE: Final = ACCESS_MESSAGE.size


class ServerSession:
    """A client of a device; implements :class:`~pvnet.mdev.user.DeviceUser`."""

    def __init__(self, device: VfioDevice, carrier: Carrier, limits: ServerLimits = DEFAULT_LIMITS) -> None:
        self.device = device
        self.counters = Counters()
        self.version: Version | None = None
        """What the client said; None before."""
        self.max_transfer = limits.max_transfer
        """Of both ends the less."""
        self.closed = False
        self._carrier, self._limits = carrier, limits
        self._send = carrier.send
        self._max_write = limits.max_transfer
        self._max_fds = min(limits.max_fds, carrier.max_fds)
        self._requests = Requests(device, carrier, max_transfer=limits.max_transfer, max_message=limits.max_message)
        self._dma = DmaRequests(carrier, limits.max_dma_requests, limits.dma_timeout_s, self.counters)
        self._opened = False
        self._running = False
        self._pending = 0
        self._pause: Pause | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the device now rather than at a good VERSION; idempotent.

        :raises MdevError: EBUSY and the like of :meth:`VfioDevice.open`.
        """
        if not self._opened:
            self.device.open(self)
            self._opened = True

    def ended(self, reason: str) -> None:
        """The device is taken away: close the connection."""
        self._end(reason)

    def lost(self) -> None:
        """The connection is gone: close the device; idempotent."""
        if not self.closed:
            self.closed, self._running = True, False
            pause, self._pause = self._pause, None
            for _, descriptors in pause.held() if pause is not None else ():
                self._close(descriptors)
            if self._opened:
                self._opened = False
                self.device.close()
            self._dma.table.fail(MdevError(ENODEV, "the client is gone"))

    def _end(self, reason: str) -> None:
        if not self.closed:
            self.lost()
            self._carrier.close(reason)

    # --- memory of the client -----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many DMA_READ and DMA_WRITE the client has not answered, and one for a command that waits for them."""
        return len(self._dma.table) + (self._pause is not None)

    def expire(self, now: float) -> None:
        """Fail (ETIMEDOUT) what has waited for :attr:`ServerLimits.dma_timeout_s`, then what waits for the device.

        To be called every second or so while :attr:`waiting`; the time of a request counts from the first call after
        it was sent.
        """
        self._dma.table.expire(now)
        pause = self._pause
        if pause is not None and pause.too_long(now, self._limits.quiesce_timeout_s):
            self._go_on(pause, MdevError(EBUSY, "the device does not come to rest"))

    def dma_read(self, address: int, length: int, done: Callable[[bytes | MdevError], None]) -> None:
        """Ask the client for bytes of its memory, at most :attr:`max_transfer`."""
        if self.closed:
            done(MdevError(ENODEV, "the client is gone"))
        else:
            self._dma.read(address, length, self.max_transfer, done)

    def dma_write(self, address: int, data: bytes, done: Callable[[MdevError | None], None]) -> None:
        """Ask the client to store bytes in its memory, at most :attr:`max_transfer`."""
        if self.closed:
            done(MdevError(ENODEV, "the client is gone"))
        else:
            self._dma.write(address, data, self.max_transfer, done)

    # --- messages -----------------------------------------------------------------------------------------------------

    def message(self, data: Data, descriptors: list[Descriptor]) -> None:
        """Take one whole message, header included, and its descriptors, which are taken over; never raises."""
        if len(data) >= _ACCESS_SIZE and self._running and not descriptors:
            # What a device is asked all the time, before everything else: reads and writes of its registers.
            ident, command, size, flags, _error, offset, region, count = ACCESS_MESSAGE.unpack_from(data)
            if size == len(data) and not flags & TYPE_MASK and count:
                if command == _READ and size == _ACCESS_SIZE and count <= self.max_transfer:
                    self._read(ident, flags, offset, region, count)
                    return
                if command == _WRITE and size == _ACCESS_SIZE + count and count <= self._max_write:
                    self._write(ident, flags, offset, region, bytes(data[_ACCESS_SIZE:]))
                    return
        try:
            if not self.closed:
                self._message(data, descriptors)
        finally:
            self._close(descriptors)

    def _close(self, descriptors: list[Descriptor]) -> None:
        for descriptor in descriptors:
            self._carrier.close_descriptor(descriptor)

    def _message(self, data: Data, descriptors: list[Descriptor]) -> None:
        if len(data) < HEADER_SIZE:
            self._end("message without a header")
            return
        ident, command, size, flags, errno = HEADER.unpack_from(data)
        if size != len(data) or size > self._limits.max_message:
            self._refuse(ident, command, flags, MdevError(EINVAL, f"message of {size} bytes"))
            self._end(f"message of {size} bytes, of which {len(data)} came")
            return
        payload = memoryview(data)[HEADER_SIZE:]
        kind = flags & TYPE_MASK
        if kind == TYPE_REPLY:
            self._dma.table.reply(ident, command, flags, errno, payload, descriptors)
        elif self._pause is not None:
            if not self._pause.hold(data, descriptors):
                self._refuse(ident, command, flags, MdevError(EAGAIN, "too many requests wait"))
        elif not self._running:
            self._negotiate(ident, command, flags, payload, descriptors)
        elif kind:
            self._refuse(ident, command, flags, MdevError(EINVAL, f"message of type {kind}"))
        elif not descriptors or (command in TAKES_DESCRIPTORS and len(descriptors) <= self._max_fds):
            self._command(ident, command, flags, payload, descriptors)
        else:
            self._refuse(ident, command, flags, MdevError(EINVAL, f"{len(descriptors)} descriptors"))

    def _negotiate(
        self, ident: int, command: int, flags: int, payload: memoryview, descriptors: list[Descriptor]
    ) -> None:
        try:
            if command != Command.VERSION or flags & TYPE_MASK or descriptors:
                raise MdevError(EINVAL, f"{command_name(command)} with {len(descriptors)} descriptors at first")
            version = decode_version(payload)
            if version.major != MAJOR:
                raise MdevError(EINVAL, f"major version {version.major}")
            self.open()
        except MdevError as error:
            self._refuse(ident, command, flags, error)
            self._end(str(error))
            return
        self.version, self._running = version, True
        self.max_transfer = min(self._limits.max_transfer, version.capabilities.max_data_xfer_size)
        self._requests.max_transfer = self.max_transfer
        self._requests.client_fds = min(self._carrier.max_fds, version.capabilities.max_msg_fds)
        reply = encode_version(self._capabilities(version.capabilities), minor=min(version.minor, MINOR))
        self._answer(ident, command, flags, (reply,))

    def _capabilities(self, client: Capabilities) -> Capabilities:
        migrates = self.device.device.migration is not None
        return Capabilities(
            max_msg_fds=self._max_fds,
            max_data_xfer_size=self._limits.max_transfer,
            max_dma_maps=self.device.dma.limits.maps,
            pgsizes=self.device.dma.limits.page_size,
            migration=MigrationCapability(max_bitmap_size=self._limits.max_transfer) if migrates else None,
            write_multiple=client.write_multiple,
            twin_socket=None if client.twin_socket is None else False,
        )

    def _command(
        self, ident: int, command: int, flags: int, payload: memoryview, descriptors: list[Descriptor]
    ) -> None:
        try:
            handler = HANDLERS.get(command)
            if handler is not None:
                parts, beside = handler(self._requests, payload, descriptors)
                self._answer(ident, command, flags, parts, beside)
            elif command in (_READ, _WRITE):
                self._odd_access(ident, command, flags, payload)
            elif command == Command.REGION_WRITE_MULTI:
                self._write_multi(ident, flags, payload)
            else:
                raise MdevError(EINVAL, f"{command_name(command)} now")
        except MdevError as error:
            if command == Command.DEVICE_FEATURE and error.errno == EBUSY and self.device.busy:
                self._wait_for_rest(ident, flags, bytes(payload))
            else:
                self._refuse(ident, command, flags, error)

    def _wait_for_rest(self, ident: int, flags: int, payload: bytes) -> None:
        """Perform DEVICE_FEATURE when nothing is under way, and everything else behind it."""

        def go_on(error: MdevError | None) -> None:
            if error is None:
                self._command(ident, Command.DEVICE_FEATURE, flags, memoryview(payload), [])
            else:
                self._refuse(ident, Command.DEVICE_FEATURE, flags, error)

        pause = self._pause = Pause(go_on, self._limits.max_pending, _HELD_MESSAGES * self._limits.max_message)
        self._running = False  # no access passes by
        self.device.quiesce(lambda: self._go_on(pause))

    def _go_on(self, pause: Pause, error: MdevError | None = None) -> None:
        if self._pause is pause:
            self._pause, self._running = None, True
            pause.go_on(error)
            for data, descriptors in pause.held():
                self.message(data, descriptors)

    def _answer(
        self,
        ident: int,
        command: int,
        flags: int,
        parts: tuple[Data, ...] = (),
        descriptors: tuple[Descriptor, ...] = (),
    ) -> None:
        if not flags & NO_REPLY and not self.closed:
            self._send(reply_parts(ident, command, *parts), descriptors)

    def _refuse(self, ident: int, command: int, flags: int, error: MdevError) -> None:
        self.counters["refused"] += 1
        if not flags & NO_REPLY and not self.closed:
            self._send(error_parts(ident, command, error.code), ())

    # --- regions ------------------------------------------------------------------------------------------------------

    def _read(self, ident: int, flags: int, offset: int, region: int, count: int) -> None:
        try:
            if self._pending >= self._limits.max_pending:
                raise MdevError(EAGAIN, "too many requests wait")
            data = self.device.read(region, offset, count)
        except MdevError as error:
            self._refuse(ident, _READ, flags, error)
            return
        if isinstance(data, Pending):
            head = ACCESS.pack(offset, region, count)
            self._later(data, ident, _READ, flags, lambda result: (head, result))
        elif not flags & NO_REPLY and self._running:
            self._send(
                (ACCESS_MESSAGE.pack(ident, _READ, _ACCESS_SIZE + count, TYPE_REPLY, 0, offset, region, count), data),
                (),
            )

    def _write(self, ident: int, flags: int, offset: int, region: int, data: bytes) -> None:
        try:
            if self._pending >= self._limits.max_pending:
                raise MdevError(EAGAIN, "too many requests wait")
            pending = self.device.write(region, offset, data)
        except MdevError as error:
            self._refuse(ident, _WRITE, flags, error)
            return
        if pending is not None:
            head = ACCESS.pack(offset, region, len(data))
            self._later(pending, ident, _WRITE, flags, lambda _result: (head,))
        elif not flags & NO_REPLY and self._running:
            count = len(data)
            self._send((ACCESS_MESSAGE.pack(ident, _WRITE, _ACCESS_SIZE, TYPE_REPLY, 0, offset, region, count),), ())

    def _later(
        self, pending: Pending[T], ident: int, command: int, flags: int, parts: Callable[[T], tuple[Data, ...]]
    ) -> None:
        self._pending += 1

        def done(result: T | MdevError) -> None:
            self._pending -= 1
            if isinstance(result, MdevError):
                self._refuse(ident, command, flags, result)
            else:
                self._answer(ident, command, flags, parts(result))

        pending.then(done)

    def _odd_access(self, ident: int, command: int, flags: int, payload: memoryview) -> None:
        """REGION_READ and REGION_WRITE that are not as they should be; one of 0 bytes is answered as if it were."""
        if len(payload) != ACCESS.size:
            raise MdevError(EINVAL, f"{command_name(command)} with {len(payload)} bytes")
        offset, region, count = ACCESS.unpack(payload)
        if count:
            raise MdevError(EINVAL, f"{command_name(command)} of {count} bytes")
        if command == _READ:
            self.device.read(region, offset, 0)
        else:
            self.device.write(region, offset, b"")
        self._answer(ident, command, flags, (ACCESS.pack(offset, region, 0),))

    def _write_multi(self, ident: int, flags: int, payload: memoryview) -> None:
        negotiated = self.version is not None and self.version.capabilities.write_multiple
        if not negotiated or len(payload) < MULTI_HEAD.size:
            raise MdevError(EINVAL, f"REGION_WRITE_MULTI with {len(payload)} bytes")
        (count,) = MULTI_HEAD.unpack_from(payload)
        if count > MAX_MULTI or len(payload) != MULTI_HEAD.size + count * MULTI_ENTRY.size:
            raise MdevError(EINVAL, f"REGION_WRITE_MULTI of {count} writes in {len(payload)} bytes")
        writes = [*MULTI_ENTRY.iter_unpack(payload[MULTI_HEAD.size :])]
        if any(length > len(data) for _offset, _region, length, data in writes):
            raise MdevError(EINVAL, "REGION_WRITE_MULTI with a write of more than 8 bytes")
        if self._pending >= self._limits.max_pending:
            raise MdevError(EAGAIN, "too many requests wait")
        self._pending += 1
        self._continue_multi(ident, flags, iter(writes), 0)

    def _continue_multi(self, ident: int, flags: int, writes: Iterator[tuple[int, int, int, bytes]], done: int) -> None:
        """One after another; the reply says how many were done before one failed."""
        failed: MdevError | None = None

        def written(result: MdevError | None) -> None:
            if isinstance(result, MdevError):
                self._end_multi(ident, flags, done, result)
            else:
                self._continue_multi(ident, flags, writes, done + 1)

        for offset, region, length, data in writes:
            try:
                pending = self.device.write(region, offset, data[:length]) if length else None
            except MdevError as error:
                failed = error
                break
            if pending is not None:
                pending.then(written)
                return
            done += 1
        self._end_multi(ident, flags, done, failed)

    def _end_multi(self, ident: int, flags: int, done: int, failed: MdevError | None) -> None:
        self._pending -= 1
        if failed is not None and not done:
            self._refuse(ident, Command.REGION_WRITE_MULTI, flags, failed)
        else:
            self._answer(ident, Command.REGION_WRITE_MULTI, flags, (MULTI_HEAD.pack(done),))
