"""REGION_READ and REGION_WRITE that a client has sent: what is asked all the time, and how its replies are understood.

One object per access that waits, and nothing else: no closure, no decoder.  A reply that is just as it should be is
recognised by :class:`~pvnet.mdev.vfio_user_client.ClientMachine` before anything else; every other one, refusals and
those that some servers pad, comes to :meth:`ReadSent.answer` and :meth:`WriteSent.answer` like any reply.

Spec: mdev 6.1, 6.4.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import ACCESS, ACCESS_MESSAGE, Command, Descriptor
from pvnet.papr.errno import EIO

ACCESS_SIZE: Final = ACCESS_MESSAGE.size
"""Bytes of an access without its data."""
READ: Final = int(Command.REGION_READ)
WRITE: Final = int(Command.REGION_WRITE)
_PAYLOAD: Final = ACCESS.size


class ReadSent:
    """A REGION_READ of ``count`` bytes."""

    __slots__ = ("_counters", "count", "done", "since")
    command = READ

    def __init__(self, count: int, done: Callable[[bytes | MdevError], None], counters: Counters) -> None:
        self.since: float | None = None
        self.count, self.done, self._counters = count, done, counters

    def answer(self, payload: memoryview | MdevError, _descriptors: list[Descriptor]) -> None:
        """Take a reply of any kind."""
        count = self.count
        if isinstance(payload, MdevError):
            self.done(payload)
        elif not count:
            self.done(b"")
        elif len(payload) != _PAYLOAD + count or ACCESS.unpack_from(payload)[2] != count:
            self._counters["replies_bad"] += 1
            self.done(MdevError(EIO, f"reply to REGION_READ: {len(payload)} bytes for {count}"))
        else:
            self.done(bytes(payload[_PAYLOAD:]))


class WriteSent:
    """A REGION_WRITE of ``count`` bytes."""

    __slots__ = ("_counters", "count", "done", "since")
    command = WRITE

    def __init__(self, count: int, done: Callable[[MdevError | None], None], counters: Counters) -> None:
        self.since: float | None = None
        self.count, self.done, self._counters = count, done, counters

    def answer(self, payload: memoryview | MdevError, _descriptors: list[Descriptor]) -> None:
        """Take a reply of any kind; one that is a header only is understood."""
        count = self.count
        if isinstance(payload, MdevError):
            self.done(payload)
        elif payload and (len(payload) < _PAYLOAD or ACCESS.unpack_from(payload)[2] != count):
            self._counters["replies_bad"] += 1
            text = f"{bytes(payload[:16]).hex()} for {count} bytes"
            self.done(MdevError(EIO, f"reply to REGION_WRITE: {text}"))
        else:
            self.done(None)


def out_of_range(error: StructError, offset: int, index: int, count: int) -> LocalError:
    """Say that numbers of our own program fit no field."""
    return LocalError(f"{count} bytes at {offset} of region {index}: {error}")
