"""The runner's way to the other process: calls that wait, and the guest's memory behind messages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from pvnet.client.conformance.hosted import Hosted
from pvnet.core.errors import RefusedError
from pvnet.papr.errno import name_of
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.papr_pb2 import MemoryRead, MemoryReply, MemoryWrite
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import INLINE_BYTES

T = TypeVar("T")
CALL_S: Final = 30.0
"""Longest wait for an answer."""


class Remote:
    """The node ``node`` as our ``endpoint`` sees it; ``wait`` runs a coroutine on the loop from another thread."""

    def __init__(self, endpoint: Endpoint, node: str, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.endpoint = endpoint
        self.node = node
        self._wait = wait

    async def ask(self, envelope: Envelope) -> Envelope:
        """Make a call, on the loop.  Raises :class:`pvnet.core.errors.PvnetError` as ``Endpoint.call``."""
        return await self.endpoint.call(self.node, envelope, CALL_S)

    def call(self, envelope: Envelope) -> Envelope:
        """Make a call, in the runner's thread."""
        reply: Envelope = self._wait(self.ask(envelope))
        return reply

    def post(self, envelope: Envelope) -> None:
        """Send a message, in the runner's thread."""

        async def send() -> None:
            self.endpoint.post(self.node, envelope)

        self._wait(send())

    def read(self, address: int, n: int) -> bytes:
        """Load ``n`` bytes of the guest's memory; :class:`RefusedError` outside of it."""
        pieces = []
        for at in range(address, address + n, INLINE_BYTES):
            length = min(INLINE_BYTES, address + n - at)
            reply = self.call(Envelope(memory_read=MemoryRead(address=at, length=length))).memory_reply
            pieces.append(_checked(reply, f"{length} bytes at {at:#x}"))
        return b"".join(pieces)

    def write(self, address: int, data: bytes) -> None:
        """Store into the guest's memory; :class:`RefusedError` outside of it."""
        for at in range(0, len(data), INLINE_BYTES):
            piece = data[at : at + INLINE_BYTES]
            reply = self.call(Envelope(memory_write=MemoryWrite(address=address + at, data=piece))).memory_reply
            _checked(reply, f"{len(piece)} bytes at {address + at:#x}")


class Session(Protocol):
    """What starts the other process, and lets the runner's thread wait for the loop."""

    def host(self, hosted: Hosted, *, us: str, them: str) -> Remote:
        """Start the process ``them`` with what is described, in place of the one before; we are the node ``us``."""
        ...

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` on the loop and wait for it, in the runner's thread."""
        ...


def _checked(reply: MemoryReply, what: str) -> bytes:
    if reply.error:
        raise RefusedError(f"{what}: {name_of(reply.error)}")
    return reply.data
