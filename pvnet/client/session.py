"""A management application's session over ``/dev/ibmvmc``: what every such program does around the raw device.

Opening retries while the driver says "not yet" (EAGAIN, EBUSY, ENOBUFS), as the driver's public test program does;
writing retries while no buffer is free (EBUSY).  Both are bounded by a deadline.  One reader takes every message:
replies to pvnet's own commands go to whoever waits for their token, router responses to whoever waits for their
correlation, the rest to :attr:`VmcSession.messages`.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Final, Self

from pvnet.client.device import MTU_USUAL, VmcFile
from pvnet.core.errors import DeadlineError, DeviceError, PeerDiedError, PvnetError, RefusedError, WireError
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.vmc.router import (
    DESCRIPTOR,
    HEADER_BYTES,
    OPEN_DATA,
    RouterMessage,
    RouterOpcode,
    RouterRc,
    decode_frame,
    decode_router,
    encode_frame,
    is_frame,
)

NOT_YET: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.ENOBUFS})
_FIRST_WAIT_S: Final = 0.002
_LAST_WAIT_S: Final = 0.1
MESSAGES_KEPT: Final = 1024


class VmcSession:
    """One HMC connection with its reader; use as ``async with``."""

    def __init__(self, device: VmcFile, hmc_id: bytes | str, *, timeout: float = 10.0) -> None:
        self.device = device
        self.hmc_id = hmc_id
        self.timeout = timeout
        self.mtu = MTU_USUAL
        """Longest message in bytes, found out when connecting."""
        self.counters: Counter[str] = Counter()
        self.messages: asyncio.Queue[bytes] = asyncio.Queue(MESSAGES_KEPT)
        self.ended: asyncio.Future[PvnetError] = asyncio.get_running_loop().create_future()
        self._waiting: dict[tuple[str, int], asyncio.Future[bytes]] = {}
        self._next = 0
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Open the device and start a session.

        Raises:
            DeviceError: the driver still says "not yet" after ``timeout`` seconds, or refuses.
            UnreachableError: the partition is not there.
        """
        await self.device.open()
        try:
            await self.connect()
        except BaseException:
            self.device.drop()  # without waiting: this may be a cancellation, which nothing may replace or delay
            raise
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="vmc-reader")
        return self

    async def connect(self) -> None:
        """Start the session on a device that is open, retrying while the driver says "not yet"; starts no reader."""
        last: DeviceError | None = None
        async for _ in _patience(self.timeout):
            try:
                self.mtu = await self.device.mtu()
                await self.device.set_hmc_id(self.hmc_id)
                return
            except DeviceError as error:
                if error.errno not in NOT_YET:
                    raise
                last = error
        assert last is not None
        raise last

    async def close(self) -> None:
        """End the session.  Idempotent."""
        await self._stop_reading()
        try:
            await self.device.close()
        except PvnetError:
            self.counters["close_failed"] += 1

    async def __aenter__(self) -> Self:
        return await self.open()

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        self._end(PeerDiedError("the session is closed"))

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            await self.close()
        else:
            await self._stop_reading()
            self.device.drop()  # an error or a cancellation does not wait for the partition

    # --- messages --------------------------------------------------------------------------------------------------

    async def send(self, message: bytes) -> None:
        """Write one message, waiting for a free buffer.

        Raises:
            DeviceError: EBUSY after ``timeout`` seconds, EIO or EBADFD when the session has ended.
        """
        last: DeviceError | None = None
        async for _ in _patience(self.timeout):
            try:
                await self.device.write(message)
                return
            except DeviceError as error:
                if error.errno != errno.EBUSY:
                    raise
                self.counters["write_busy"] += 1
                last = error
        assert last is not None
        raise last

    async def exchange(self, message: bytes, *, timeout: float | None = None) -> bytes:
        """Send a message that nobody interprets and return the next such message that arrives."""
        await self.send(message)
        return await self._bounded(self.messages.get(), timeout, "no answer to the message")

    async def manage(self, command: Management, *, timeout: float | None = None) -> ManagementReply:
        """Run one of pvnet's own commands at the hypervisor.

        Raises:
            DeadlineError: no reply in time.  PeerDiedError: the session ended first.
        """
        number = self._number(0xFFFFFFFF)
        command.token = number
        raw = await self._request(("manage", number), encode_frame(command.SerializeToString()), timeout)
        return ManagementReply.FromString(raw)

    async def router(
        self, opcode: RouterOpcode, data: bytes = b"", *, target: int = 0x8000, timeout: float | None = None
    ) -> RouterMessage:
        """Send a router message and return its response, whatever its return code."""
        number = self._number(0xFFFFFFFF)
        message = RouterMessage(opcode=opcode, target=target, correlation=number, data=data)
        return decode_router(await self._request(("router", number), message.encode(), timeout))

    async def router_open(self) -> None:
        """Open the router session; RefusedError with its return code."""
        answer = await self.router(RouterOpcode.OPEN, OPEN_DATA)
        if answer.rc != RouterRc.GOOD:
            raise RefusedError(f"router open: return code {answer.rc:#06x} ({RouterRc(answer.rc)})")

    async def router_close(self) -> None:
        """Close the router session; RefusedError with its return code."""
        answer = await self.router(RouterOpcode.CLOSE)
        if answer.rc != RouterRc.GOOD:
            raise RefusedError(f"router close: return code {answer.rc:#06x} ({RouterRc(answer.rc)})")

    async def echo(self, data: bytes) -> bytes:
        """Have the router send ``data`` back; RefusedError with its return code."""
        answer = await self.router(RouterOpcode.ECHO, data)
        if answer.rc != RouterRc.GOOD:
            raise RefusedError(f"router echo: return code {answer.rc:#06x} ({RouterRc(answer.rc)})")
        return answer.data

    # --- inside ----------------------------------------------------------------------------------------------------

    def _number(self, mask: int) -> int:
        self._next = (self._next + 1) & mask or 1
        return self._next

    async def _request(self, key: tuple[str, int], message: bytes, timeout: float | None) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            await self.send(message)
            return await self._bounded(future, timeout, "the hypervisor did not answer")
        finally:
            self._waiting.pop(key, None)

    async def _bounded(self, what: Awaitable[bytes], timeout: float | None, problem: str) -> bytes:
        limit = self.timeout if timeout is None else timeout
        waiting: asyncio.Future[bytes] = asyncio.ensure_future(what)
        both: set[asyncio.Future[bytes] | asyncio.Future[PvnetError]] = {waiting, self.ended}
        try:
            await asyncio.wait(both, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if self.ended.done():
                raise self.ended.result()
            raise DeadlineError(f"{problem} (waited {limit:g} s)")
        finally:
            waiting.cancel()

    async def _read(self) -> None:
        try:
            while True:
                self._sort(await self.device.read(self.mtu))
        except PvnetError as error:
            self._end(error)

    def _sort(self, message: bytes) -> None:
        self.counters["received"] += 1
        try:
            if is_frame(message):
                body = decode_frame(message)
                key = ("manage", ManagementReply.FromString(body).token)
                message = body
            elif message[:3] == DESCRIPTOR and len(message) >= HEADER_BYTES:
                key = ("router", decode_router(message).correlation)
            else:
                key = ("", 0)
        except (WireError, ValueError):
            self.counters["undecodable"] += 1
            return
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        elif key[0]:
            self.counters["late_reply"] += 1
        elif self.messages.full():
            self.counters["unread_dropped"] += 1
        else:
            self.messages.put_nowait(message)

    def _end(self, error: PvnetError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


async def _patience(seconds: float) -> AsyncIterator[None]:
    """Yield at once, then after growing pauses, until ``seconds`` have passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    wait = _FIRST_WAIT_S
    yield
    while loop.time() < end:
        await asyncio.sleep(min(wait, max(0.0, end - loop.time())))
        wait = min(wait * 2, _LAST_WAIT_S)
        yield
