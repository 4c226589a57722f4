"""``/dev/ibmvmc`` of a lab that is reached by a device socket alone: no broker, no name in the lab.

A :class:`DeviceSocket` is one open file, as :class:`pvnet.client.device.VmcDevice` is inside of the lab::

    async with VmcSession(DeviceSocket("unix:/run/lab/vmc.sock"), "my id") as session:
        await session.router_open()
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
from collections import deque
from pathlib import Path
from typing import Final, Self

from pvnet.client.device import DEVICE_PATH, POLLIN, VmcFile
from pvnet.core.errors import DeadlineError, DeviceError, PeerDiedError, UnreachableError, WireError
from pvnet.runtime.device_address import DeviceAddress
from pvnet.vmc.device_protocol import (
    FLAG_NONBLOCK,
    OPTION_BIG_ENDIAN,
    Frame,
    FrameReader,
    Op,
    Welcome,
    encode_hello,
)

_LAST_TAG: Final = 0xFFFFFFFF
_CHUNK: Final = 1 << 16


class DeviceSocket(VmcFile):
    """One open file; calls behave as the system calls do, with the errno of the driver as ``DeviceError``."""

    def __init__(self, uri: str, *, path: str = DEVICE_PATH, timeout: float = 10.0) -> None:
        self.address = DeviceAddress.parse(uri).absolute(Path.cwd())
        self.path = path
        self.timeout = timeout
        self._writer: asyncio.StreamWriter | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._abandoned: dict[int, asyncio.Future[Frame]] = {}
        """Reads that were given up and have not ended: a message that one brings after all is for the next read."""
        self._unread: deque[bytes] = deque()
        self._last_tag = 0

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            await self.close()
        else:
            self.drop()

    async def open(self) -> Self:
        """Connect and open the device.

        Raises:
            DeviceError: ENOENT (no such device), ENOMEM (too many opens), EMFILE (too many connections).
            UnreachableError: nobody listens, or it is no device socket.  ConfigError: a TLS file is wrong.
        """
        try:
            async with asyncio.timeout(self.timeout):
                reader, self._writer = await self._connect()
                welcome = await self._greet(reader)
        except TimeoutError:
            self.drop()
            raise DeadlineError(f"{self.address.place} did not answer (waited {self.timeout:g} s)") from None
        except (OSError, WireError) as error:
            self.drop()
            if isinstance(error, DeviceError):
                raise
            raise UnreachableError(f"{self.address.place}: {getattr(error, 'strerror', None) or error}") from None
        except BaseException:
            self.drop()
            raise
        self._unread.clear()
        self._abandoned.clear()
        frames = FrameReader(replies=True, max_data=welcome.max_data)
        self._receiver = asyncio.get_running_loop().create_task(self._receive(reader, frames), name="device-socket")
        return self

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        if address.path is not None:
            return await asyncio.open_unix_connection(address.path)
        return await asyncio.open_connection(address.host, address.port, ssl=address.context(listen=False))

    async def _greet(self, reader: asyncio.StreamReader) -> Welcome:
        assert self._writer is not None
        options = OPTION_BIG_ENDIAN if sys.byteorder == "big" else 0
        self._writer.write(encode_hello(self.path, options))
        frames = FrameReader(replies=True)
        while data := await reader.read(_CHUNK):
            for frame in frames.feed(data):
                if frame.op != Op.HELLO:
                    raise WireError(f"operation {frame.op}", expected="the answer to HELLO")
                if frame.argument < 0:
                    raise DeviceError(-frame.argument, "open")
                return Welcome.decode(frame.data)
        raise WireError("the connection was closed", expected="the answer to HELLO")

    async def _receive(self, reader: asyncio.StreamReader, frames: FrameReader) -> None:
        """Hand answers to whoever waits for them, until the connection ends."""
        problem = "closed the connection"
        try:
            while data := await reader.read(_CHUNK):
                for frame in frames.feed(data):
                    self._answered(frame)
        except (OSError, WireError) as error:
            problem = str(error)
        for waiting in self._abandoned.values():
            waiting.cancel()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PeerDiedError(f"{self.address.place}: {problem}"))
        self._waiting.clear()
        self._disconnect()

    def _answered(self, frame: Frame) -> None:
        waiting = self._waiting.pop(frame.tag, None)
        if self._abandoned.pop(frame.tag, None) is not None and frame.argument > 0:
            self._unread.append(frame.data)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def write(self, message: bytes) -> int:
        """Send one message; returns its length.

        Raises:
            DeviceError: EBUSY (opening, or no free buffer: retry), EIO (no session, too long).
        """
        return (await self._call("write", Frame(Op.WRITE, data=message))).argument

    async def read(self, count: int = 4096, *, nonblock: bool = False, timeout: float | None = None) -> bytes:
        """Receive one message, at most ``count`` bytes of it (the rest is discarded); waits unless ``nonblock``.

        Giving up (``timeout`` seconds, or cancellation) interrupts the call in the driver; a message already on its
        way to us then is returned by the next read.

        Raises:
            DeviceError: EBADFD (session ended), EAGAIN (``nonblock`` and nothing there), EINTR (``timeout`` passed),
                EINVAL (``count`` above the negotiated MTU).
        """
        if self._abandoned:
            await asyncio.wait(list(self._abandoned.values()), timeout=self.timeout)
        if self._unread:
            return self._unread.popleft()[:count]
        tag, waiting = self._start("read", Frame(Op.READ, argument=count, flags=FLAG_NONBLOCK if nonblock else 0))
        try:
            async with asyncio.timeout(self.timeout if nonblock else timeout):
                return _checked("read", await asyncio.shield(waiting)).data
        except TimeoutError:
            self._interrupt(tag)
            return _checked("read", await self._bounded(waiting)).data
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                frame = waiting.result()  # came in the same moment
                if frame.argument > 0:
                    self._unread.append(frame.data)
            elif tag in self._waiting:
                self._abandoned[tag] = waiting
                self._interrupt(tag)
            raise

    async def poll(self) -> int:
        """Return the events that are ready now (POLLIN when a message waits; 0 without a session)."""
        if self._unread:
            return POLLIN
        return (await self._call("poll", Frame(Op.POLL, flags=FLAG_NONBLOCK))).argument

    async def ioctl(self, name: str, command: int, data: bytes) -> bytes:
        """Run an ioctl with the bytes at its argument; returns what comes back there."""
        return (await self._call(name, Frame(Op.IOCTL, argument=command, data=data))).data

    async def close(self) -> None:
        """Close the file; ends the session.  Idempotent."""
        if self._writer is not None:
            with contextlib.suppress(PeerDiedError, DeviceError):  # the file is closed either way
                await self._call("close", Frame(Op.CLOSE))
        await self._stop_receiving()

    def drop(self) -> None:
        """Close the file without waiting for it.  Idempotent; never raises."""
        if self._receiver is not None:
            self._receiver.cancel()
            self._receiver = None
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()
        self._disconnect()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _stop_receiving(self) -> None:
        receiver = self._receiver
        self.drop()
        if receiver is not None:
            await asyncio.wait([receiver])

    def _disconnect(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()

    def _start(self, doing: str, frame: Frame) -> tuple[int, asyncio.Future[Frame]]:
        if self._writer is None:
            number = errno.EBADF if self._receiver is None else errno.ENODEV
            raise DeviceError(number, doing)
        tag = self._last_tag = self._last_tag % _LAST_TAG + 1
        self._writer.write(Frame(frame.op, tag, frame.argument, frame.data, frame.flags).request())
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = waiting
        return tag, waiting

    async def _call(self, doing: str, frame: Frame) -> Frame:
        _, waiting = self._start(doing, frame)
        return _checked(doing, await self._bounded(waiting))

    async def _bounded(self, waiting: asyncio.Future[Frame]) -> Frame:
        try:
            async with asyncio.timeout(self.timeout):
                return await waiting
        except TimeoutError:
            raise DeadlineError(f"{self.address.place} did not answer (waited {self.timeout:g} s)") from None

    def _interrupt(self, tag: int) -> None:
        if self._writer is not None:
            self._writer.write(Frame(Op.INTERRUPT, 0, tag).request())


def _checked(doing: str, frame: Frame) -> Frame:
    if frame.argument < 0:
        raise DeviceError(-frame.argument, doing)
    return frame
