"""The client end of vfio-user below its requests: negotiation, matching of replies, the server's own requests.

The requests themselves are in :mod:`pvnet.mdev.vfio_user_client`.  Each takes ``done``, which is called exactly once,
with the result or with the :class:`~pvnet.mdev.errors.MdevError` that stands for it:

* what the server refused: its errno;
* a reply that does not decode: EIO;
* the connection ended: ENODEV; no answer in time (:meth:`ClientExchange.expire`): ETIMEDOUT;
* not negotiated yet: ENOTCONN; too many under way: EAGAIN; more descriptors than can be passed: EINVAL.

Numbers that fit no field are our own program's fault and raise :class:`~pvnet.core.errors.LocalError`.  Whatever the
server sends, nothing raises; header-only and padded replies are understood where servers send such.

Spec: mdev 6, 9.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias, TypeVar

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import (
    DEFAULT_TRANSFER,
    DMA,
    HEADER,
    HEADER_SIZE,
    MAJOR,
    MAX_MESSAGE,
    MINOR,
    NO_REPLY,
    TYPE_MASK,
    TYPE_REPLY,
    Command,
    Connection,
    Data,
    Descriptor,
    command_name,
    command_parts,
    error_parts,
    reply_parts,
)
from pvnet.mdev.vfio_user_client_memory import ClientMemory
from pvnet.mdev.vfio_user_replies import ReplyTable
from pvnet.mdev.vfio_user_version import Capabilities, MigrationCapability, Version, decode_version, encode_version
from pvnet.papr.errno import E2BIG, EAGAIN, EINVAL, EIO, ENODEV, ENOTCONN

T = TypeVar("T")
Done: TypeAlias = Callable[[T | MdevError], None]
Decode: TypeAlias = Callable[[memoryview, list[Descriptor]], T]
ClientCarrier: TypeAlias = Connection


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a client takes of its server."""

    max_fds: int = 8
    """Descriptors in one message; the carrier may allow less."""
    max_transfer: int = DEFAULT_TRANSFER
    """Data bytes in one message."""
    max_message: int = MAX_MESSAGE
    """Bytes of one message, header included."""
    max_requests: int = 1024
    """Requests under way."""
    timeout_s: float = 10.0
    """After how long without an answer :meth:`ClientExchange.expire` gives a request up."""


DEFAULT_LIMITS: Final = ClientLimits()


class ClientExchange:
    """Commands, replies and memory of one client."""

    def __init__(self, carrier: ClientCarrier, limits: ClientLimits = DEFAULT_LIMITS) -> None:
        self.version: Version | None = None
        """What the server said; None before."""
        self.counters = Counters()
        self.memory = ClientMemory()
        self.max_transfer = limits.max_transfer
        """Data bytes of one message to this end: of both ends the less."""
        self.max_send = limits.max_transfer
        """Data bytes of one message to the server."""
        self.closed = False
        self._carrier, self._limits = carrier, limits
        self._send = carrier.send
        self._max_fds = 0
        self._table = ReplyTable(limits.max_requests, limits.timeout_s, self.counters)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self, done: Done[Version]) -> None:
        """Negotiate; the first request.  If it fails, the connection is closed."""
        ours = Capabilities(
            max_msg_fds=min(self._limits.max_fds, self._carrier.max_fds),
            max_data_xfer_size=self._limits.max_transfer,
            migration=MigrationCapability(),
        )

        def negotiated(version: Version | MdevError) -> None:
            if isinstance(version, MdevError):
                self.close(str(version))
            else:
                self.version = version
                self.max_transfer = min(self._limits.max_transfer, version.capabilities.max_data_xfer_size)
                self.max_send = min(DEFAULT_TRANSFER, version.capabilities.max_data_xfer_size)
                self._max_fds = min(self._carrier.max_fds, version.capabilities.max_msg_fds)
            done(version)

        self.ask(Command.VERSION, (encode_version(ours),), _version, negotiated)

    def close(self, reason: str) -> None:
        """End the session from this end; idempotent."""
        if not self.closed:
            self._carrier.close(reason)
            self.lost(reason)

    def lost(self, reason: str) -> None:
        """The connection is gone: everything under way fails with ENODEV; idempotent."""
        if not self.closed:
            self.closed = True
            self.memory.clear()
            self._table.fail(MdevError(ENODEV, reason))

    @property
    def waiting(self) -> int:
        """How many requests have no answer yet."""
        return len(self._table)

    def expire(self, now: float) -> None:
        """Fail (ETIMEDOUT) what has waited for :attr:`ClientLimits.timeout_s`.

        To be called every second or so while :attr:`waiting`; the time of a request counts from the first call after
        it was sent.
        """
        self._table.expire(now)

    # --- messages of the server ---------------------------------------------------------------------------------------

    def message(self, data: Data, descriptors: list[Descriptor]) -> None:
        """Take one whole message, header included, and its descriptors, which are taken over; never raises."""
        try:
            if not self.closed:
                self._message(data, descriptors)
        finally:
            for descriptor in descriptors:
                self._carrier.close_descriptor(descriptor)

    def _message(self, data: Data, descriptors: list[Descriptor]) -> None:
        ident, command, size, flags, errno = HEADER.unpack_from(data) if len(data) >= HEADER_SIZE else (0,) * 5
        if size != len(data) or not HEADER_SIZE <= size <= self._limits.max_message:
            self.close(f"message of {size} bytes, of which {len(data)} came")
            return
        payload = memoryview(data)[HEADER_SIZE:]
        if flags & TYPE_MASK == TYPE_REPLY:
            self._table.reply(ident, command, flags, errno, payload, descriptors)
            return
        try:
            parts = self._serve(command, flags & TYPE_MASK, payload)
        except MdevError as error:
            self.counters["refused"] += 1
            parts = error_parts(ident, command, error.code)
        else:
            parts = reply_parts(ident, command, *parts)
        if not flags & NO_REPLY:
            self._carrier.send(parts, ())

    def _serve(self, command: int, kind: int, payload: memoryview) -> tuple[Data, ...]:
        """DMA_READ and DMA_WRITE of the server; returns the payload of the reply."""
        if kind or self.version is None or command not in (Command.DMA_READ, Command.DMA_WRITE):
            raise MdevError(EINVAL, f"{command_name(command)} of the server, type {kind}")
        if len(payload) < DMA.size:
            raise MdevError(EINVAL, f"{command_name(command)} with {len(payload)} bytes")
        address, count = DMA.unpack_from(payload)
        data = payload[DMA.size :]
        if count > self._limits.max_transfer:
            raise MdevError(E2BIG, f"{command_name(command)} of {count} bytes")
        if len(data) != (count if command == Command.DMA_WRITE else 0):
            raise MdevError(EINVAL, f"{command_name(command)} of {count} bytes with {len(data)}")
        if command == Command.DMA_READ:
            return DMA.pack(address, count), self.memory.read(address, count)
        self.memory.write(address, data)
        return (DMA.pack(address, count),)

    # --- requests -----------------------------------------------------------------------------------------------------

    def ask(
        self,
        command: Command,
        parts: tuple[Data, ...],
        decode: Decode[T],
        done: Done[T],
        descriptors: Sequence[Descriptor] = (),
    ) -> None:
        """Send a request; its reply is decoded (MdevError: EIO to ``done``)."""

        def answer(payload: memoryview | MdevError, came: list[Descriptor]) -> None:
            if isinstance(payload, MdevError):
                done(payload)
                return
            try:
                result = decode(payload, came)
            except MdevError as error:
                self.counters["replies_bad"] += 1
                done(MdevError(EIO, f"reply to {command.name}: {error}"))
                return
            done(result)

        refusal = self.refusal(command, descriptors)
        if refusal is not None:
            done(refusal)
        else:
            self._carrier.send(command_parts(self._table.add(command, answer), command, *parts), descriptors)

    def refused(self, command: Command) -> MdevError:
        """Why a command without descriptors cannot be sent, of which somebody has seen that it cannot."""
        refusal = self.refusal(command)
        assert refusal is not None
        return refusal

    def refusal(self, command: Command, descriptors: Sequence[Descriptor] = ()) -> MdevError | None:
        """Why a command cannot be sent now; None: it can."""
        if self.closed:
            return MdevError(ENODEV, "the connection has ended")
        if self.version is None and command != Command.VERSION:
            return MdevError(ENOTCONN, command.name)
        if self._table.full:
            return MdevError(EAGAIN, f"{command.name}: too many under way")
        if len(descriptors) > self._max_fds:
            return MdevError(EINVAL, f"{command.name}: {len(descriptors)} descriptors, at most {self._max_fds}")
        return None


def pack(layout: Struct, *values: int) -> bytes:
    """Pack numbers of our own program.

    :raises LocalError: one fits no field.
    """
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalError(f"a number of {values} is out of range: {error}") from None


def _version(payload: memoryview, _descriptors: list[Descriptor]) -> Version:
    version = decode_version(payload)
    if version.major != MAJOR or version.minor > MINOR:
        raise MdevError(EINVAL, f"version {version.major}.{version.minor}")
    return version
