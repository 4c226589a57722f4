"""``/dev/ibmvmc`` of a management partition, used from another process.

A :class:`VmcDevice` is one open of the character device: calls behave as the system calls do, message by message, with
the errno of the driver (raised as :class:`pvnet.core.errors.DeviceError`, which is also an ``OSError``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol, Self

from pvnet.core.errors import DeadlineError, DeviceError, LocalError, PeerDiedError, PvnetError
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint

SETHMCID: Final = 0x4008CC00
QUERY: Final = 0x800CCC01
REQUESTVMC: Final = 0x8004CC02
HMC_ID_BYTES: Final = 32
MTU_USUAL: Final = 4096
MTU_MAX: Final = 16384
POLLIN: Final = 0x001
DEVICE_PATH: Final = "/dev/ibmvmc"
_BLOCK_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class VmcQuery:
    """What ioctl QUERY tells (3 native int32): whether there is a VMC, the driver's state, the DRC index."""

    have_vmc: bool
    state: int
    vmc_drc_index: int


class CharDevice:
    """One open file of a character device of ``partition``; ``async with``, or :meth:`open` and :meth:`close`."""

    def __init__(self, endpoint: Endpoint, partition: str, path: str, *, timeout: float = 10.0) -> None:
        self.endpoint = endpoint
        self.partition = partition
        self.path = path
        self.timeout = timeout
        self._handle: int | None = None
        self._incarnation = 0
        self._unread: deque[bytes] = deque()
        self._abandoned: set[asyncio.Future[None]] = set()
        """Reads that were given up and have not ended: a message that one brings after all is for the next read."""

    async def open(self) -> Self:
        """Open the device.

        Raises:
            DeviceError: ENOENT (no such device on that partition), ENOMEM (too many opens).
            UnreachableError: the partition is not there, or does not answer.
        """
        await self.endpoint.wait_peer(self.partition, timeout=self.timeout)
        reply = await self._open_call()
        if reply.device_reply.result < 0:
            raise DeviceError(-reply.device_reply.result, "open")
        self._handle = reply.device_reply.result
        self._incarnation = reply.source_incarnation
        self._unread.clear()
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            await self.close()
        else:
            self.drop()  # an error of closing must not hide the one that ended the block, nor a cancellation wait

    async def write(self, message: bytes) -> int:
        """Send one message; returns its length.

        Raises:
            DeviceError: EBUSY (opening, or no free buffer: retry), EIO (no session, too long).
        """
        reply = await self.transfer("write", DeviceIo(operation=DeviceIo.WRITE, data=message))
        return int(reply.result)

    async def read(self, count: int = 4096, *, nonblock: bool = False, timeout: float | None = None) -> bytes:
        """Receive one message, at most ``count`` bytes of it (the rest is discarded); waits unless ``nonblock``.

        Giving up (``timeout`` seconds, or cancellation) interrupts the call in the driver; a message already on
        its way to us then is returned by the next read, not lost.

        Raises:
            DeviceError: EBADFD (session ended), EAGAIN (``nonblock`` and nothing there), EINTR (``timeout`` passed),
                EINVAL (``count`` above the negotiated MTU).
        """
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=self.timeout)
        if self._unread:
            return self._unread.popleft()[:count]
        io = DeviceIo(operation=DeviceIo.READ, count=count, nonblock=nonblock, handle=self._check("read"))
        reply = await self._interruptible(io, timeout)
        if reply.result < 0:
            raise DeviceError(-reply.result, "read")
        return reply.data

    async def poll(self) -> int:
        """Return the events that are ready now (POLLIN when a message waits; 0 without a session)."""
        events = int((await self.transfer("poll", DeviceIo(operation=DeviceIo.POLL, nonblock=True))).result)
        return events | POLLIN if self._unread else events

    async def wait_readable(self, timeout: float | None = None) -> int:
        """Wait until a message is there (POLLIN); 0 at once without a session, or when the session ends.

        Raises:
            DeviceError: EINTR (``timeout`` seconds passed).
        """
        if self._unread:
            return POLLIN
        reply = await self._interruptible(DeviceIo(operation=DeviceIo.POLL, handle=self._check("poll")), timeout)
        if reply.result < 0:
            raise DeviceError(-reply.result, "poll")
        return int(reply.result)

    async def close(self) -> None:
        """Close the file; ends the session.  Idempotent."""
        io = self._last_call()
        if io is not None:
            with contextlib.suppress(PeerDiedError):  # its files are closed
                await self._call(io)

    def drop(self) -> None:
        """Close the file without waiting for it.  Idempotent; never raises."""
        io = self._last_call()
        if io is not None:
            self.endpoint.call_back(self.partition, Envelope(device_io=io), self.timeout, lambda _: None)

    def _last_call(self) -> DeviceIo | None:
        """Give up our handle; return the call that closes it, if there is still anything to close."""
        handle, self._handle = self._handle, None
        if handle is None or self.endpoint.link.peer_incarnation(self.partition) != self._incarnation:
            return None
        return DeviceIo(operation=DeviceIo.CLOSE, handle=handle)

    def _check(self, doing: str) -> int:
        """Return our handle if this open still exists at the partition."""
        if self._handle is None:
            raise DeviceError(errno.EBADF, doing)
        if self.endpoint.link.peer_incarnation(self.partition) != self._incarnation:
            raise DeviceError(errno.ENODEV, f"{doing}: {self.partition} has restarted")
        return self._handle

    async def transfer(self, doing: str, io: DeviceIo) -> DeviceReply:
        """Make one call on the open file; DeviceError when its result is negative."""
        io.handle = self._check(doing)
        reply = await self._call(io)
        if reply.result < 0:
            raise DeviceError(-reply.result, doing)
        return reply

    async def _call(self, io: DeviceIo) -> DeviceReply:
        envelope = Envelope(device_io=io)
        return (await self.endpoint.call(self.partition, envelope, self.timeout, wait_for_peer=False)).device_reply

    async def _open_call(self) -> Envelope:
        """Make the OPEN call; a file that is opened only after we gave up is closed again."""
        answer: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()

        def done(result: Envelope | PvnetError) -> None:
            if isinstance(result, PvnetError):
                if not answer.done():
                    answer.set_exception(result)
            elif not answer.done():
                answer.set_result(result)
            elif result.device_reply.result >= 0:
                unwanted = DeviceIo(operation=DeviceIo.CLOSE, handle=result.device_reply.result)
                self.endpoint.call_back(self.partition, Envelope(device_io=unwanted), self.timeout, lambda _: None)

        io = DeviceIo(operation=DeviceIo.OPEN, path=self.path)
        self.endpoint.call_back(self.partition, Envelope(device_io=io), _BLOCK_S, done)
        try:
            async with asyncio.timeout(self.timeout):
                return await answer
        except TimeoutError:
            raise self._silent() from None

    def _silent(self) -> DeadlineError:
        return DeadlineError(f"{self.partition} did not answer (waited {self.timeout:g} s)")

    async def _interruptible(self, io: DeviceIo, timeout: float | None) -> DeviceReply:
        """Make a call that may block in the driver."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[DeviceReply] = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()

        def done(result: Envelope | PvnetError) -> None:
            ended.set_result(None)
            self._abandoned.discard(ended)
            if isinstance(result, PvnetError):
                if not answer.done():
                    answer.set_exception(result)
            elif not answer.done():
                answer.set_result(result.device_reply)
            elif result.device_reply.data:  # of a read: a poll has none
                self._unread.append(result.device_reply.data)

        number = self.endpoint.call_back(self.partition, Envelope(device_io=io), _BLOCK_S, done)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(answer)
        except TimeoutError:
            self._interrupt(number)
            try:
                async with asyncio.timeout(self.timeout):
                    return await answer
            except TimeoutError:
                raise self._silent() from None
        except asyncio.CancelledError:
            if not answer.cancel() and answer.exception() is None and answer.result().data:
                self._unread.append(answer.result().data)  # it came in the same turn of the loop
            if not ended.done():
                self._abandoned.add(ended)
                self._interrupt(number)
            raise

    def _interrupt(self, correlation: int) -> None:
        io = DeviceIo(operation=DeviceIo.INTERRUPT, interrupts=correlation)
        self.endpoint.post(self.partition, Envelope(device_io=io))


class VmcFile(Protocol):
    """What ``/dev/ibmvmc`` takes beside read and write, however its file is reached."""

    async def open(self) -> Self:
        """Open the device."""

    async def close(self) -> None:
        """Close the file; ends the session.  Idempotent."""

    def drop(self) -> None:
        """Close the file without waiting for it.  Idempotent; never raises."""

    async def write(self, message: bytes) -> int:
        """Send one message; returns its length."""

    async def read(self, count: int = 4096, *, nonblock: bool = False, timeout: float | None = None) -> bytes:
        """Receive one message."""

    async def ioctl(self, name: str, command: int, data: bytes) -> bytes:
        """Run an ioctl with the bytes at its argument; returns what comes back there."""

    async def set_hmc_id(self, hmc_id: bytes | str) -> None:
        """Start a session under ``hmc_id`` (up to 32 bytes, padded with NULs); returns before the hypervisor agrees.

        Raises:
            DeviceError: EAGAIN (VMC not ready), ENOBUFS (no buffers yet), EBUSY (all connections in use), EIO.
        """
        raw = hmc_id.encode() if isinstance(hmc_id, str) else hmc_id
        if len(raw) > HMC_ID_BYTES:
            raise DeviceError(errno.EINVAL, f"set_hmc_id: id of {len(raw)} bytes, expected at most {HMC_ID_BYTES}")
        await self.ioctl("SETHMCID", SETHMCID, raw.ljust(HMC_ID_BYTES, b"\0"))

    async def query(self) -> VmcQuery:
        """Ask for the driver's state; works in every state."""
        have_vmc, state, drc_index = struct.unpack("<iii", await self.ioctl("QUERY", QUERY, b""))
        return VmcQuery(bool(have_vmc), state, drc_index & 0xFFFFFFFF)

    async def mtu(self) -> int:
        """Find the negotiated MTU, for which there is no ioctl: the largest count that read() does not call EINVAL.

        Before :meth:`set_hmc_id` only, when there is no message that asking could take.

        Raises:
            DeviceError: as :meth:`read`, but for EINVAL and EIO.
        """
        low, high = HMC_ID_BYTES, MTU_MAX + 1  # taken, not taken
        guess = MTU_USUAL
        while high - low > 1:
            if await self._takes(guess):
                low, guess = guess, guess + 1 if guess == MTU_USUAL else (guess + high) // 2
            else:
                high, guess = guess, (low + guess) // 2
        return low

    async def _takes(self, count: int) -> bool:
        try:
            await self.read(count, nonblock=True)
        except DeviceError as error:
            if error.errno not in {errno.EINVAL, errno.EIO}:
                raise
            return error.errno == errno.EIO
        raise LocalError("mtu() after set_hmc_id() took a message")

    async def request_vmc(self) -> int:
        """Ask the hypervisor for a VMC (H_REQUEST_VMC); returns its DRC index.

        Raises:
            DeviceError: EPERM, EIO, ENODEV, EINVAL as the driver maps the return codes.
        """
        (drc_index,) = struct.unpack("<I", await self.ioctl("REQUESTVMC", REQUESTVMC, b""))
        return int(drc_index)


class VmcDevice(CharDevice, VmcFile):
    """One open file of ``/dev/ibmvmc``."""

    def __init__(
        self, endpoint: Endpoint, partition: str = "mp", *, path: str = DEVICE_PATH, timeout: float = 10.0
    ) -> None:
        super().__init__(endpoint, partition, path, timeout=timeout)

    async def ioctl(self, name: str, command: int, data: bytes) -> bytes:
        """Run an ioctl with the bytes at its argument; returns what comes back there."""
        io = DeviceIo(operation=DeviceIo.IOCTL, command=command, data=data)
        return (await self.transfer(name, io)).data
