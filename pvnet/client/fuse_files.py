"""The open files of a mounted ``/dev/ibmvmc``: each is an open of the device of its own.  Runs in the event loop."""

from __future__ import annotations

import asyncio
import errno
import platform
from collections.abc import Callable
from typing import Any, Final

from pvnet.client.device import POLLIN, QUERY, REQUESTVMC, SETHMCID, VmcDevice
from pvnet.core.errors import DeviceError, PvnetError
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.vmc.chardev import QUERY_POWERPC, REQUESTVMC_POWERPC, SETHMCID_POWERPC

SETHMCID_WHOLE: Final = 0x4020CC00
"""SETHMCID whose number says that 32 bytes come: they reach a FUSE file without a look into the caller's memory."""
_POWERPC: Final = platform.machine().startswith(("ppc", "powerpc"))
_WHOLE_POWERPC: Final = 0x8020CC00
COMMANDS: Final = (
    {
        SETHMCID_POWERPC: SETHMCID,
        _WHOLE_POWERPC: SETHMCID_WHOLE,
        QUERY_POWERPC: QUERY,
        REQUESTVMC_POWERPC: REQUESTVMC,
    }
    if _POWERPC
    else {number: number for number in (SETHMCID, SETHMCID_WHOLE, QUERY, REQUESTVMC)}
)
"""The ioctls of this machine's programs, by their numbers on this machine."""


class _File:
    """One open file, and who polls it."""

    def __init__(self, device: VmcDevice) -> None:
        self.device = device
        self.poll_handle: int | None = None
        self.watcher: asyncio.Task[None] | None = None


class FuseFiles:
    """See the module's text.  ``wake`` and ``free`` take a poll handle of libfuse."""

    def __init__(
        self, make_device: Callable[[], VmcDevice], wake: Callable[[int], None], free: Callable[[int], None]
    ) -> None:
        self._make = make_device
        self._wake = wake
        self._free = free
        self._files: dict[int, _File] = {}
        self._last = 0
        self._closed = False

    @property
    def open_count(self) -> int:
        """How many files are open."""
        return len(self._files)

    def _file(self, number: int) -> _File:
        try:
            return self._files[number]
        except KeyError:
            raise DeviceError(errno.EBADF, "no such file") from None

    async def open(self) -> int:
        """Open the device; returns the number of the file."""
        device = await self._make().open()
        if self._closed:
            device.drop()
            raise DeviceError(errno.ENODEV, "open")
        self._last += 1
        self._files[self._last] = _File(device)
        return self._last

    def release(self, number: int) -> None:
        """Close a file; does not wait for it."""
        file = self._files.pop(number, None)
        if file is None:
            return
        self._forget(file)
        file.device.drop()

    async def read(self, number: int, count: int, *, nonblock: bool) -> bytes:
        """Read one message."""
        return await self._file(number).device.read(count, nonblock=nonblock)

    async def write(self, number: int, message: bytes) -> int:
        """Write one message."""
        return await self._file(number).device.write(message)

    async def ioctl(self, number: int, command: int, data: bytes) -> tuple[int, bytes]:
        """Make an ioctl (asm-generic number); returns its value and the bytes that come back."""
        io = DeviceIo(operation=DeviceIo.IOCTL, command=command, data=data)
        reply = await self._file(number).device.transfer("ioctl", io)
        return int(reply.result), reply.data

    async def poll(self, number: int, poll_handle: int | None) -> int:
        """Return the events that are ready; a ``poll_handle`` is woken at the next one that comes."""
        file = self._files.get(number)
        if file is None or self._closed:
            if poll_handle is not None:
                self._free(poll_handle)
            raise DeviceError(errno.EBADF, "no such file")
        if poll_handle is not None:
            if file.poll_handle is not None:
                self._free(file.poll_handle)
            file.poll_handle = poll_handle
        events = await file.device.poll()
        if not events & POLLIN and file.poll_handle is not None and file.watcher is None:
            file.watcher = asyncio.get_running_loop().create_task(self._watch(file), name="fuse-poll")
        return events

    async def _watch(self, file: _File) -> None:
        """Wake who polls when a message is there, or when the device is gone (the next poll says so)."""
        try:
            is_news = await file.device.wait_readable() != 0  # 0: the session ended, which the device does not tell
        except PvnetError:
            is_news = True
        file.watcher = None
        if is_news and file.poll_handle is not None:
            self._wake(file.poll_handle)

    def partition_died(self) -> None:
        """Wake all who poll: the next poll says what happened."""
        for file in self._files.values():
            if file.poll_handle is not None:
                self._wake(file.poll_handle)

    def _forget(self, file: _File) -> None:
        if file.watcher is not None:
            file.watcher.cancel()
            file.watcher = None
        if file.poll_handle is not None:
            self._free(file.poll_handle)
            file.poll_handle = None

    def close(self) -> None:
        """Close all files; afterwards nothing of libfuse is used any more."""
        self._closed = True
        for number in list(self._files):
            self.release(number)

    async def close_from_outside(self) -> None:
        """:meth:`close`, as a call of a thread."""
        self.close()

    def status(self) -> dict[str, Any]:
        """Return numbers for a log."""
        return {"files": len(self._files), "polled": sum(f.poll_handle is not None for f in self._files.values())}
