"""A user of a device that somebody else serves over vfio-user: ``await`` instead of callbacks.

:class:`VfioUserClient` works with any connection (:class:`ClientTransport`); :meth:`VfioUserClient.connect` makes one
over a unix socket.  Every request has the deadline of its client, ``timeout_s``.  Errors::

    MdevError           the server answered with an error; its errno
    DeadlineError       it did not answer in time (the connection stays)
    PeerDiedError       the connection ended
    UnreachableError    nobody listens
    RefusedError        memory of the server's that cannot be mapped safely

Spec: mdev 6, 9.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from pvnet.core.errors import DeadlineError, PeerDiedError, PvnetError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.names import DmaFlag, IrqAction, IrqData
from pvnet.mdev.vfio_user import Data, Descriptor
from pvnet.mdev.vfio_user_client import ClientMachine, RegionReply
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.mdev.vfio_user_version import Version
from pvnet.papr.errno import ENODEV
from pvnet.vfio.client_transport import ClientTransport, IrqListener, SocketTransport, connected
from pvnet.vfio.region_mapping import RegionMapping

CONNECT_S: Final = 5.0
TIMEOUT_S: Final = 10.0
_TICKS: Final = 8
"""Looks for requests that wait too long, in the time that they may wait."""


class VfioUserClient:
    """See the module's text.

    :param transport: makes the connection, given what takes a message with its descriptors, and what hears of its end.
    """

    def __init__(
        self,
        transport: Callable[[Callable[[Data, list[Descriptor]], None], Callable[[str], None]], ClientTransport],
        *,
        limits: ClientLimits | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits or ClientLimits(timeout_s=timeout_s)
        self.transport = transport(self._received, self.ended)
        self.machine = ClientMachine(self.transport, self._limits)
        if isinstance(self.transport, SocketTransport):
            self.transport.socket.received = self.machine.message  # nothing in between, as in a server
        self.on_ended: Callable[[str], None] = lambda _: None
        """Told once why the connection has ended, unless :meth:`close` was called."""
        self._end: str | None = None
        self._is_expiring = False
        self._listeners: dict[tuple[int, int], IrqListener] = {}
        self._mappings: list[RegionMapping] = []
        self._timer = self._loop.call_later(self._tick_s, self._expire)

    @classmethod
    async def connect(
        cls,
        path: str | Path,
        *,
        connect_s: float = CONNECT_S,
        timeout_s: float = TIMEOUT_S,
        limits: ClientLimits | None = None,
    ) -> Self:
        """Connect to the server at a unix socket and agree on a version.

        :raises UnreachableError: nobody listens there, or it went away.
        :raises DeadlineError: it does not answer; somebody else may be using it.
        :raises MdevError: it does not want us.
        """
        sock = await connected(str(path), connect_s)
        client = cls(
            lambda received, ended: SocketTransport(sock, received, ended, client_limits),
            limits=(client_limits := limits or ClientLimits(timeout_s=timeout_s)),
        )
        try:
            await client.start()
        except DeadlineError as error:
            client.close()
            raise DeadlineError(f"{path}: {error}; perhaps somebody else is using the device") from None
        except BaseException:
            client.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    # --- the connection ----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self._end is None

    @property
    def _tick_s(self) -> float:
        return self._limits.timeout_s / _TICKS

    def _received(self, data: Data, descriptors: list[Descriptor]) -> None:
        self.machine.message(data, descriptors)

    def ended(self, reason: str) -> None:
        """Hear from the transport that the connection has ended."""
        if self._end is None:
            self._let_go(reason)
            self.on_ended(reason)

    def _let_go(self, reason: str) -> None:
        self._end = reason
        self._timer.cancel()
        self.machine.lost(reason)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for mapping in self._mappings:
            mapping.close()
        self._mappings.clear()

    def close(self) -> None:
        """Disconnect; what waits fails, listeners and mappings are closed.  Idempotent."""
        if self._end is None:
            self._let_go("closed by us")
            self.transport.close("closed by us")

    def _expire(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._expire)
        if self.machine.waiting:
            self._is_expiring = True
            self.machine.expire(self._loop.time())
            self._is_expiring = False

    def _call(self, request: Callable[..., None], *args: Any) -> asyncio.Future[Any]:
        """Make a request whose last positional argument is the callback."""
        if self._end is not None:
            raise self._ended_error()
        future: asyncio.Future[Any] = self._loop.create_future()
        request(*args, partial(self._done, future))
        return future

    def _ended_error(self) -> PeerDiedError:
        return PeerDiedError(f"the connection has ended: {self._end}")

    def _done(self, future: asyncio.Future[Any], result: object) -> None:
        if (result is None or type(result) is bytes) and not future.done():
            future.set_result(result)
        elif future.done():  # its waiter has been cancelled
            if isinstance(result, RegionReply) and result.descriptor is not None:
                self.transport.close_descriptor(result.descriptor)
        elif isinstance(result, MdevError):
            future.set_exception(self._error(result))
        else:
            future.set_result(result)

    def _error(self, error: MdevError) -> PvnetError:
        if self._end is not None:
            return self._ended_error()
        if self._is_expiring:
            return DeadlineError(f"the server did not answer within {self._limits.timeout_s:g} s")
        if self.machine.closed and error.errno == ENODEV:
            return PeerDiedError(f"the connection has ended: {error}")
        return error

    # --- what the device is ------------------------------------------------------------------------------------------

    async def start(self) -> Version:
        """Agree on a version: the first request."""
        version: Version = await self._call(self.machine.start)
        return version

    async def info(self) -> DeviceInfo:
        """GET_INFO."""
        info: DeviceInfo = await self._call(self.machine.device_info)
        return info

    async def region(self, index: int) -> RegionInfo:
        """GET_REGION_INFO."""
        reply: RegionReply = await self._call(self.machine.region_info, index)
        if reply.descriptor is not None:
            self.transport.close_descriptor(reply.descriptor)
        return reply.info

    async def irq(self, index: int) -> IrqInfo:
        """GET_IRQ_INFO."""
        info: IrqInfo = await self._call(self.machine.irq_info, index)
        return info

    async def regions(self) -> list[RegionInfo]:
        """All regions."""
        return [await self.region(index) for index in range((await self.info()).regions)]

    async def irqs(self) -> list[IrqInfo]:
        """All irqs; an index that the server refuses has count 0 (spec: mdev 4.4)."""
        found = []
        for index in range((await self.info()).irqs):
            try:
                found.append(await self.irq(index))
            except MdevError:
                found.append(IrqInfo())
        return found

    # --- regions -----------------------------------------------------------------------------------------------------

    def read(self, region: int, offset: int, count: int) -> asyncio.Future[bytes]:
        """Read ``count`` bytes of a region."""
        if self._end is not None:
            raise self._ended_error()
        future: asyncio.Future[bytes] = self._loop.create_future()
        self.machine.region_read(region, offset, count, partial(self._done, future))
        return future

    def write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> asyncio.Future[None]:
        """Write into a region; ``posted``: do not wait for the answer, there is none."""
        if posted:
            return self._call(partial(self.machine.region_write, posted=True), region, offset, data)
        if self._end is not None:
            raise self._ended_error()
        future: asyncio.Future[None] = self._loop.create_future()
        self.machine.region_write(region, offset, data, partial(self._done, future))
        return future

    async def map_region(self, index: int, *, unsealed: bool = False) -> RegionMapping:
        """Map what may be mapped of a region; closed with the client at the latest.

        :param unsealed: also memory that the server could take away under us, at the price of our life (SIGBUS).
        :raises RefusedError: there is nothing to map, or not safely.
        """
        reply: RegionReply = await self._call(self.machine.region_info, index)
        fd = None if reply.descriptor is None else self.transport.take_fd(reply.descriptor)
        mapping = RegionMapping(fd, reply.info, unsealed=unsealed)
        self._mappings.append(mapping)
        return mapping

    async def reset(self) -> None:
        """DEVICE_RESET."""
        await self._call(self.machine.reset)

    # --- irqs --------------------------------------------------------------------------------------------------------

    async def listen_irq(self, index: int, heard: Callable[[], None], *, vector: int = 0) -> None:
        """Call ``heard`` from the event loop when the device signals; several signals may become one call."""
        await self.listen_irqs(index, [heard], start=vector)

    async def listen_irqs(self, index: int, heard: Sequence[Callable[[], None]], *, start: int = 0) -> None:
        """Listen to several vectors at once, from ``start`` on."""
        listeners: list[IrqListener] = []
        try:
            for callback in heard:
                listeners.append(self.transport.irq_listener(callback))  # noqa: PERF401 - closed on failure
            fds = [listener.descriptor for listener in listeners]
            kind, action = IrqData.EVENTFD, IrqAction.TRIGGER
            await self._call(self.machine.set_irqs, index, start, len(fds), int(kind), int(action), b"", fds)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        for vector, listener in enumerate(listeners, start):
            self._forget(index, vector)
            self._listeners[index, vector] = listener

    async def disable(self, index: int) -> None:
        """Listen to no vector of ``index`` any more."""
        await self._irq_action(index, IrqAction.TRIGGER, 0, 0)
        for key in [key for key in self._listeners if key[0] == index]:
            self._forget(*key)

    async def mask(self, index: int, vector: int = 0) -> None:
        """Keep a vector quiet until :meth:`unmask`."""
        await self._irq_action(index, IrqAction.MASK, vector, 1)

    async def unmask(self, index: int, vector: int = 0) -> None:
        """Let it signal again: after every INTx, which masks itself."""
        await self._irq_action(index, IrqAction.UNMASK, vector, 1)

    async def trigger(self, index: int, vector: int = 0) -> None:
        """Let the device signal as a test."""
        await self._irq_action(index, IrqAction.TRIGGER, vector, 1)

    async def unmask_by(self, index: int, descriptor: Descriptor, *, vector: int = 0) -> None:
        """Let an eventfd unmask (resample); many servers refuse this, and :meth:`unmask` has to do.

        :raises MdevError: refused.
        """
        args = (index, vector, 1, int(IrqData.EVENTFD), int(IrqAction.UNMASK), b"", [descriptor])
        await self._call(self.machine.set_irqs, *args)

    async def _irq_action(self, index: int, action: IrqAction, start: int, count: int) -> None:
        await self._call(self.machine.set_irqs, index, start, count, int(IrqData.NONE), int(action), b"", [])

    def _forget(self, index: int, vector: int) -> None:
        listener = self._listeners.pop((index, vector), None)
        if listener is not None:
            listener.close()

    # --- memory ------------------------------------------------------------------------------------------------------

    async def dma_map(
        self,
        address: int,
        size: int,
        *,
        flags: int = int(DmaFlag.READ | DmaFlag.WRITE),
        fd: Descriptor | None = None,
        offset: int = 0,
        view: memoryview | None = None,
    ) -> None:
        """Let the device reach memory at I/O address ``address``: by ``fd``, which stays ours, or through ``view``."""
        await self._call(self.machine.dma_map, address, size, flags, offset, fd, view)

    async def dma_unmap(self, address: int, size: int) -> None:
        """Take it back: when this returns, the device has let go of it."""
        await self._call(self.machine.dma_unmap, address, size)

    async def dma_unmap_all(self) -> None:
        """Take everything back."""
        await self._call(partial(self.machine.dma_unmap, all_=True), 0, 0)

    # --- features, migration -----------------------------------------------------------------------------------------

    async def feature(self, flags: int, data: bytes = b"", *, max_data: int = 0) -> bytes:
        """DEVICE_FEATURE: returns what follows its 8-byte head, at most ``max_data`` bytes."""
        result: bytes = await self._call(self.machine.feature, flags, data, max_data)
        return result

    async def migration_read(self, limit: int) -> bytes:
        """MIG_DATA_READ; ``b""``: nothing more."""
        data: bytes = await self._call(self.machine.migration_read, limit)
        return data

    async def migration_write(self, data: bytes) -> None:
        """MIG_DATA_WRITE."""
        await self._call(self.machine.migration_write, data)
