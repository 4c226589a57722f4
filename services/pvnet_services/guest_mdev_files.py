"""Device files over mediated devices: what programs open in a partition (``/dev/ttyS0``, ``/dev/dasda``).

A driver's file (:class:`~pvnet.mdev.guest.GuestFile`) works in steps; here its calls become those of a device file:
a read of a character device waits until something comes, unless it is told not to; a write waits until all of it is
taken; both can be interrupted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import GuestFile, GuestSteps, WritableFile
from pvnet.papr.errno import EAGAIN, EBUSY, EINTR, EINVAL, ENODEV, ENOSPC
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.runtime.hcall_client import INLINE_BYTES
from pvnet_services.device_files import Done

BLKFLSBUF: Final = 0x1261
"""ioctl: make every write durable.  Numbers: Linux ``include/uapi/linux/fs.h``."""
BLKGETSIZE64: Final = 0x80081272
"""ioctl: size of a block device, as a native u64."""
POLLIN: Final = 0x001
_WAITING_MAX: Final = 64
"""Calls of one file that may wait at once."""


class StepsRunner(Protocol):
    """Runs the steps of one device, one after another."""

    def submit(self, steps: GuestSteps[object], done: Callable[[object | MdevError], None]) -> None:
        """Run steps later; ``done`` is called exactly once."""
        ...


class _Wait:
    """A call of a character device that waits."""

    def __init__(self, call: DeviceIo, done: Done) -> None:
        self.call = call
        self.done = done
        self.written = 0
        self.over = False
        self.interrupted = False

    def finish(self, result: int, data: bytes = b"") -> None:
        if not self.over:
            self.over = True
            self.done(result, data)


class GuestDeviceFile:
    """One device file; implements :class:`~pvnet_services.device_files.BlockDevice`."""

    def __init__(self, runner: StepsRunner, file: GuestFile) -> None:
        self._runner = runner
        self._file: GuestFile | None = file
        self._readers: list[_Wait] = []
        self._writers: list[_Wait] = []
        self._reading = self._writing = False
        file.on_readable = self.progress
        if isinstance(file, WritableFile):
            file.on_writable = self.progress

    @property
    def size(self) -> int | None:
        """Size in bytes of a block device."""
        return None if self._file is None else self._file.size

    def block_call(self, call: DeviceIo, done: Done) -> Callable[[], None] | None:
        """Run a call."""
        if self._file is None:
            done(-ENODEV, b"")
            return None
        if call.operation == DeviceIo.IOCTL:
            self._ioctl(self._file, call, done)
            return None
        is_read = call.operation in {DeviceIo.READ, DeviceIo.POLL}
        length = call.count if is_read else len(call.data)
        if call.operation not in {DeviceIo.READ, DeviceIo.WRITE, DeviceIo.POLL} or length > INLINE_BYTES:
            done(-EINVAL, b"")
            return None
        if self._file.size is not None:
            self._block(self._file, call, done)
            return None
        queue = self._readers if is_read else self._writers
        if call.nonblock and any(not wait.over for wait in queue):  # what comes is for those who wait
            done(0 if call.operation == DeviceIo.POLL else -EAGAIN, b"")
            return None
        if len(queue) >= _WAITING_MAX:
            done(-EBUSY, b"")
            return None
        wait = _Wait(call, done)
        queue.append(wait)
        self.progress()
        return None if wait.over else partial(self._interrupted, wait)

    def progress(self) -> None:
        """Something has come, or there may be room: look again."""
        self._read_next()
        self._write_next()

    def close(self) -> None:
        """The device is gone: every call ends."""
        self._file = None
        for wait in [*self._readers, *self._writers]:
            wait.finish(-ENODEV)
        self._readers.clear()
        self._writers.clear()

    def _interrupted(self, wait: _Wait) -> None:
        under_way = (self._reading and self._readers[:1] == [wait]) or (self._writing and self._writers[:1] == [wait])
        if under_way:  # what it reads or writes now must not be lost or repeated: it ends when the device has answered
            wait.interrupted = True
        else:
            wait.finish(wait.written or -EINTR)

    # --- block devices -----------------------------------------------------------------------------------------------

    def _ioctl(self, file: GuestFile, call: DeviceIo, done: Done) -> None:
        if call.command == BLKGETSIZE64 and file.size is not None:
            done(0, struct.pack("<Q", file.size))
        elif call.command == BLKFLSBUF:
            self._runner.submit(file.flush(), lambda result: done(_failed(result), b""))
        else:
            done(-EINVAL, b"")

    def _block(self, file: GuestFile, call: DeviceIo, done: Done) -> None:
        size = file.size or 0
        if call.operation == DeviceIo.READ:
            length = max(0, min(call.count, size - call.offset))
            if not length:
                done(0, b"")
                return

            def was_read(result: object) -> None:
                done(_failed(result), b"") if isinstance(result, MdevError) else done(length, _bytes(result))

            self._runner.submit(file.read(call.offset, length), was_read)
        elif call.operation == DeviceIo.WRITE:
            length = max(0, min(len(call.data), size - call.offset))
            if not length:
                done(-ENOSPC if call.data else 0, b"")
                return

            def was_written(result: object) -> None:
                done(_failed(result) if isinstance(result, MdevError) else length, b"")

            self._runner.submit(file.write(call.offset, call.data[:length]), was_written)
        else:
            done(-EINVAL, b"")

    # --- character devices -------------------------------------------------------------------------------------------

    def _read_next(self) -> None:
        file = self._file
        while self._readers and self._readers[0].over:
            self._readers.pop(0)
        if file is None or self._reading or not self._readers:
            return
        wait = self._readers[0]
        self._reading = True
        if wait.call.operation == DeviceIo.POLL:
            self._runner.submit(file.read(0, 0), partial(self._was_polled, wait, file))
        else:
            self._runner.submit(file.read(0, max(1, wait.call.count)), partial(self._was_read, wait))

    def _was_polled(self, wait: _Wait, file: GuestFile, result: object) -> None:
        self._reading = False
        ready = bool(getattr(file, "readable", False))
        if isinstance(result, MdevError):
            wait.finish(-result.code)
        elif ready or wait.call.nonblock:
            wait.finish(POLLIN if ready else 0)
        elif wait.interrupted:
            wait.finish(-EINTR)
        if wait.over:
            self._read_next()

    def _was_read(self, wait: _Wait, result: object) -> None:
        self._reading = False
        if isinstance(result, MdevError):
            wait.finish(-result.code)
        elif data := _bytes(result):
            wait.finish(len(data), data)
        elif wait.call.nonblock:
            wait.finish(-EAGAIN)
        elif wait.interrupted:
            wait.finish(-EINTR)
        if wait.over:
            self._read_next()

    def _write_next(self) -> None:
        file = self._file
        while self._writers and self._writers[0].over:
            self._writers.pop(0)
        if file is None or self._writing or not self._writers:
            return
        wait = self._writers[0]
        self._writing = True
        self._runner.submit(file.write(0, wait.call.data[wait.written :]), partial(self._was_written, wait))

    def _was_written(self, wait: _Wait, result: object) -> None:
        self._writing = False
        if isinstance(result, MdevError):
            wait.finish(wait.written or -result.code)
        else:
            taken = result if isinstance(result, int) else 0
            wait.written += taken
            if wait.written >= len(wait.call.data):
                wait.finish(wait.written)
            elif wait.interrupted:
                wait.finish(wait.written or -EINTR)
            elif not taken and wait.call.nonblock:
                wait.finish(wait.written or -EAGAIN)
            elif not taken:
                return  # until there is progress
        self._write_next()


def _failed(result: object) -> int:
    return -result.code if isinstance(result, MdevError) else 0


def _bytes(result: object) -> bytes:
    return result if isinstance(result, bytes) else b""
