"""One mediated device in a partition: its session, its driver, its files.

The driver (:mod:`pvnet.mdev.guest`) works in steps; they run here one after another, irq handlers between them.  When
the device moves to another host the session is made anew there, and the request that had no answer is repeated: the
driver does not notice.  When its host dies the driver is removed, and probed again when the host is back.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from pvnet.core.errors import DeadlineError, PeerDiedError, PvnetError, RefusedError, UnreachableError
from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import (
    DisableIrq,
    EnableIrq,
    GuestContext,
    GuestDriver,
    GuestDriverClass,
    GuestRequest,
    GuestSteps,
    RegionRead,
    RegionWrite,
    ResetDevice,
    UnmaskIrq,
    WaitIrq,
)
from pvnet.mdev.names import DeviceFlag, PciRegion
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.papr.errno import EAGAIN, EBUSY, EIO, ENODEV, ETIMEDOUT
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.memfd import create_sealed
from pvnet.vfio.client import VfioUserClient
from pvnet_services.guest_mdev_carrier import LabSessions, LabTransport
from pvnet_services.guest_mdev_files import GuestDeviceFile
from pvnet_services.mdev_sessions import LAB_TRANSFER_BYTES

VFIO_USER: Final = "vfio-user:"
"""Names of foreign devices begin so; the path of the server's socket follows."""
MEMORY_BYTES: Final = 1 << 20
"""For DMA, of each device."""
IOVA: Final = 1 << 20
"""I/O address of that memory; below 16 MiB, so that also a format-0 channel program reaches it."""
_OPEN_S: Final = 10.0
_REQUEST_S: Final = 20.0
_PASSING: Final = frozenset({EAGAIN, EBUSY, EIO, ETIMEDOUT})
"""Refusals after which it is tried again."""
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 2.0
_JOBS_MAX: Final = 256
_CONFIG_BYTES: Final = 64

Files = Callable[[str, GuestDeviceFile], str]
"""Offers a file under a name with this stem; returns its path."""


class _MovedError(UnreachableError):
    """The device is somewhere else now, or nowhere."""


class _NoDriverError(RefusedError):
    """Nobody here can use the device, and that will not change."""


class _GoneError(PvnetError):
    """The session is over, and what the device knew of us."""


class _Job:
    def __init__(self, steps: GuestSteps[Any], done: Callable[[object | MdevError], None]) -> None:
        self.steps = steps
        self.done = done


class GuestMdev:
    """See the module's text.

    :param name: UUID of a device of the lab, or ``vfio-user:PATH``.
    :param host: the mdev host that has it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        sessions: LabSessions,
        name: str,
        host: str,
        drivers: Sequence[GuestDriverClass],
        add_file: Files,
        remove_file: Callable[[str], None],
        forget: Callable[[GuestMdev], None],
    ) -> None:
        self.over = False
        """The host wants it back or refuses it, or no driver takes it: there is nothing to wait for."""
        self.name = name
        self.host = host
        self.settled = asyncio.Event()
        """It works, or it is known why not."""
        self.problem = ""
        self.unreachable = False
        """The problem is that nobody is there."""
        self.files: dict[str, GuestDeviceFile] = {}
        self._endpoint = endpoint
        self._sessions = sessions
        self._drivers = drivers
        self._add_file = add_file
        self._remove_file = remove_file
        self._forget = forget
        self._mapping, self._fd = create_sealed(MEMORY_BYTES, f"mdev-{endpoint.name}")
        self._memory = memoryview(self._mapping)
        self._client: VfioUserClient | None = None
        self._transport: LabTransport | None = None
        self._driver: GuestDriver | None = None
        self._jobs: deque[_Job] = deque()
        self._irqs: set[int] = set()
        self._enabled: set[int] = set()
        self._wake = asyncio.Event()
        self._come_back = asyncio.Event()
        self._stopping = False
        self._asked = False
        self._moves = 0
        # Lives as long as the device, so it is none of the tasks of the node that have an end to wait for.
        self._task = asyncio.get_running_loop().create_task(self._live(), name=f"mdev {name}")
        self._task.add_done_callback(self._died)

    # --- what the partition uses -------------------------------------------------------------------------------------

    def host_up(self, host: str) -> None:
        """A host that has our device is there."""
        self.host = host
        self._come_back.set()

    async def stop(self, timeout: float) -> None:
        """Remove the driver in good order, then let go."""
        self._stopping = True
        self._wake.set()
        self._come_back.set()
        await asyncio.wait([self._task], timeout=timeout)
        self._task.cancel()
        self._drop_files(ENODEV)
        self._let_go()
        self.dispose()

    def dispose(self) -> None:
        """Give the memory back; nobody uses the device any more."""
        self._memory.release()
        self._mapping.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def submit(self, steps: GuestSteps[Any], done: Callable[[object | MdevError], None]) -> None:
        """Run steps of the driver after those that wait already."""
        if self._driver is None or self._stopping:
            done(MdevError(ENODEV, self.problem))
        elif len(self._jobs) >= _JOBS_MAX:
            done(MdevError(EBUSY, f"{_JOBS_MAX} requests wait"))
        else:
            self._jobs.append(_Job(steps, done))
            self._wake.set()

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        driver = self._driver
        return {
            "name": self.name,
            "host": self.host,
            "state": "up" if driver is not None else "down",
            "problem": self.problem,
            "files": list(self.files),
            "moves": self._moves,
            "driver": None if driver is None else dict(driver.shown()),
        }

    # --- life --------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopping:
            self._come_back.clear()
            try:
                await self._arrive()
                pause = _FIRST_PAUSE_S
                await self._serve()
                if not self._stopping:
                    self._failed(RefusedError(f"{self.host} wants {self.name} back"))
            except PvnetError as error:
                self._failed(error)
                for_good = isinstance(error, _NoDriverError)
                for_good |= isinstance(error, MdevError) and error.errno not in _PASSING
            else:
                for_good = True
            self._asked = False
            await self._take_down()
            if for_good:
                self.over = True
                self._forget(self)
                return
            if await self._stays_down(pause):
                return
            pause = min(2 * pause, _LAST_PAUSE_S)

    async def _stays_down(self, pause: float) -> bool:
        """Wait until it is worth another try; whether the partition stops instead."""
        try:
            async with asyncio.timeout(pause):  # a foreign server says nothing when it is back
                if not self._stopping:
                    await self._come_back.wait()
        except TimeoutError:
            pass
        return self._stopping

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._endpoint.log.error("mdev_failed", mdev=self.name, exc_info=error)

    def _release(self) -> None:
        """The host wants the device back."""
        self._asked = True
        self._wake.set()

    def _failed(self, error: PvnetError) -> None:
        text = str(error)
        if text != self.problem:
            self._endpoint.note(Note("mdev_down", (("mdev", self.name), ("reason", text)), "warning"))
        self.problem = text
        self.unreachable = isinstance(error, UnreachableError)
        self.settled.set()

    async def _arrive(self) -> None:
        """Connect and find a driver, wherever the device goes meanwhile."""
        try:
            await self._connect()
        except PeerDiedError:
            if self._transport is None:
                raise
            await self._follow()
        while True:
            try:
                await self._probe()
            except (PeerDiedError, _MovedError):
                await self._follow()
            else:
                return

    async def _connect(self) -> None:
        """Make a session, with our memory and the irqs that the driver listens to."""
        self._transport = None
        limits = ClientLimits(timeout_s=_REQUEST_S, max_transfer=LAB_TRANSFER_BYTES)
        if self.name.startswith(VFIO_USER):
            client = await VfioUserClient.connect(self.name.removeprefix(VFIO_USER), limits=limits)
            fd: int | None = self._fd
        else:
            transport = await self._sessions.open(self.host, self.name, _OPEN_S)
            client = VfioUserClient(transport.use, limits=limits)
            self._transport = transport
            transport.on_release = self._release
            if transport.release_asked:
                self._release()
            fd = transport.offer(self._fd) if self._endpoint.path(self.host) == "direct" else None
        self._client = client
        client.on_ended = lambda _: self._wake.set()
        if self._transport is not None:
            await client.start()
        try:
            await client.dma_map(IOVA, MEMORY_BYTES, fd=fd, view=self._memory)
        except MdevError:
            if fd is None:
                raise
            await client.dma_map(IOVA, MEMORY_BYTES, view=self._memory)
        for index in sorted(self._enabled):
            await client.listen_irq(index, partial(self._irq, index))

    async def _probe(self) -> None:
        client = self._open_client()
        info = await client.info()
        regions, irqs = await client.regions(), await client.irqs()
        config = b""
        if info.flags & DeviceFlag.PCI and len(regions) > PciRegion.CONFIG:
            length = min(_CONFIG_BYTES, regions[PciRegion.CONFIG].size)
            config = await client.read(int(PciRegion.CONFIG), 0, length)
        context = GuestContext(info, regions, irqs, config, self._memory, IOVA)
        found = next((driver for driver in self._drivers if driver.match(context)), None)
        if found is None:
            raise _NoDriverError(f"no driver for {self.name}")
        driver = found.create(context)
        self._driver = driver
        await self._run(driver.probe())
        self._driver = driver
        for stem, file in driver.files:
            device_file = GuestDeviceFile(self, file)
            self.files[self._add_file(stem, device_file)] = device_file
        self.problem = ""
        self._endpoint.note(Note("mdev_up", (("mdev", self.name), ("driver", found.name)), "info"))
        self.settled.set()

    async def _serve(self) -> None:
        """Run what there is to run, until the session is over or the partition stops."""
        driver = self._driver
        assert driver is not None
        while not self._stopping and not self._asked:
            if self._irqs:
                index = self._irqs.pop()
                await self._run(driver.irq(index))
                for file in self.files.values():
                    file.progress()
            elif self._jobs:
                job = self._jobs.popleft()
                try:
                    job.done(await self._run(job.steps))
                except MdevError as error:
                    job.done(error)
                except BaseException:
                    job.done(MdevError(EIO, "the device is gone"))
                    raise
            elif self._client is None or not self._client.is_open:
                await self._follow()
            else:
                await self._wake.wait()
                self._wake.clear()

    async def _take_down(self) -> None:
        """Remove the driver; in good order if the device is still there."""
        driver, self._driver = self._driver, None
        self._drop_files(ENODEV if self._stopping else EIO)
        if driver is not None and self._client is not None and self._client.is_open:
            try:
                await self._run(driver.remove())
            except PvnetError as error:
                self._endpoint.log.debug("mdev_remove_failed", mdev=self.name, error=str(error))
        self._enabled.clear()
        self._irqs.clear()
        self._let_go()

    def _drop_files(self, errno: int) -> None:
        for path, file in self.files.items():
            self._remove_file(path)
            file.close()
        self.files.clear()
        while self._jobs:
            self._jobs.popleft().done(MdevError(errno, "the device is gone"))

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.on_ended = lambda _: None
            client.close()

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _run(self, steps: GuestSteps[Any]) -> Any:
        """Run steps to their end; MdevError is the driver's affair, everything else ends the session."""
        try:
            request = next(steps)
            while True:
                try:
                    answer = await self._perform(request)
                except MdevError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        finally:
            steps.close()

    async def _perform(self, request: GuestRequest) -> bytes:
        """Carry out a request, wherever the device is meanwhile."""
        while True:
            try:
                return await self._perform_here(request)
            except DeadlineError as error:
                raise MdevError(ETIMEDOUT, str(error)) from None
            except (PeerDiedError, _MovedError):
                await self._follow()

    async def _perform_here(self, request: GuestRequest) -> bytes:
        client = self._open_client()
        match request:
            case RegionRead(region, offset, length):
                return await client.read(region, offset, length)
            case RegionWrite(region, offset, data):
                await client.write(region, offset, data)
            case EnableIrq(index):
                await client.listen_irq(index, partial(self._irq, index))
                self._enabled.add(index)
            case DisableIrq(index):
                self._enabled.discard(index)
                await client.disable(index)
            case UnmaskIrq(index):
                await client.unmask(index)
            case WaitIrq(index, timeout_s):
                await self._wait_irq(index, timeout_s)
            case ResetDevice():
                await client.reset()
        return b""

    async def _wait_irq(self, index: int, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while index not in self._irqs:
                    if self._client is None or not self._client.is_open:
                        raise _MovedError
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            raise MdevError(ETIMEDOUT, f"no irq {index} within {timeout_s:g} s") from None
        self._irqs.discard(index)

    def _irq(self, index: int) -> None:
        self._irqs.add(index)
        self._wake.set()

    def _open_client(self) -> VfioUserClient:
        if self._client is None:
            raise _GoneError(f"{self.name} is not connected")
        if not self._client.is_open:
            raise _MovedError
        return self._client

    async def _follow(self) -> None:
        """Go where the device has gone.

        Raises:
            UnreachableError: nowhere; its host is dead, or has taken it away.
        """
        while True:
            transport, self._transport = self._transport, None
            moved_to = transport.moved_to if transport is not None else ""
            self._let_go()
            if not moved_to:
                raise UnreachableError(f"{self.name if self.name.startswith(VFIO_USER) else self.host} is gone")
            self.host = moved_to
            self._moves += 1
            self._endpoint.note(Note("mdev_moved", (("mdev", self.name), ("host", moved_to)), "info"))
            try:
                await self._connect()
            except PeerDiedError:
                continue  # it may have moved on meanwhile
            return
