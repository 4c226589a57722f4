"""vfio-user of a partition, carried by messages of the lab: the partition's end of ``mdev_sessions``.

Descriptors are numbers here, under which the real ones are shared where there is a direct path.  An irq target that the
host does not reach by an eventfd is told by message; whoever listens does not know the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pvnet.core.errors import DeadlineError, PvnetError, RefusedError
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import Data, Descriptor
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.mdev_pb2 import MdevClose, MdevMessage, MdevOpen
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.eventfd import EventFd
from pvnet.transport.link import PeerDown
from pvnet.transport.unix_socket import close_all
from pvnet.vfio.client_transport import ClientTransport, IrqListener
from pvnet_services.mdev_sessions import FD_BODY, FD_LABEL, NO_SESSION, RELEASE

Received = Callable[[Data, list[Descriptor]], None]
Ended = Callable[[str], None]
_SHARED_MAX: Final = 64
_LATE_S: Final = 3600.0
"""How long an answer may take that nobody waits for any more: what it opened must be closed."""


class LabIrq(IrqListener):
    """An irq's listening end; on a direct path with an eventfd, which spares the messages."""

    def __init__(self, transport: LabTransport, number: int, heard: Callable[[], None], *, direct: bool) -> None:
        self.descriptor = number
        self.heard = heard
        self._transport = transport
        self.eventfd: EventFd | None = None
        if direct:
            self.eventfd = EventFd()
            self.eventfd.listen(heard)

    def close(self) -> None:
        """Hear no more."""
        self._transport.irqs.pop(self.descriptor, None)
        if self.eventfd is not None:
            self.eventfd.close()


class LabTransport(ClientTransport):
    """One session with a device of ``host``; made by :meth:`LabSessions.open`."""

    def __init__(self, sessions: LabSessions, host: str, incarnation: int, session: int) -> None:
        self.host = host
        self.incarnation = incarnation
        self.session = session
        self.max_fds = 8
        self.moved_to = ""
        """Set before the end: where the device is now."""
        self.on_release: Callable[[], None] = lambda: None
        """Told that the host wants the device back."""
        self.release_asked = False
        """It has said so, perhaps before anybody listened."""
        self.irqs: dict[int, LabIrq] = {}
        self._sessions = sessions
        self._offers: dict[int, int] = {}
        """Number: a descriptor of our owner's."""
        self._shared: dict[int, int] = {}
        """Number under which the host has shared something: the descriptor."""
        self._received: Received | None = None
        self._ended: Ended | None = None
        self._over = False
        self._reason = ""

    def use(self, received: Received, ended: Ended) -> LabTransport:
        """Say who takes messages and who hears of the end, from a later turn of the loop if that has come already."""
        self._received, self._ended = received, ended
        if self._over:
            asyncio.get_running_loop().call_soon(ended, self._reason)
        return self

    def offer(self, fd: int) -> Descriptor:
        """Return the descriptor by which a file (the memory for DMA) is passed; it stays the caller's."""
        number = self._sessions.next_number()
        self._offers[number] = fd
        return number

    # --- what the client uses ----------------------------------------------------------------------------------------

    def send(self, parts: Sequence[Data], descriptors: Sequence[Descriptor]) -> None:
        """Send a message."""
        if self._over:
            return
        endpoint = self._sessions.endpoint
        envelope = Envelope()
        body: MdevMessage = envelope.mdev_message
        body.session = self.session
        body.message = b"".join(parts)
        for number in descriptors:
            body.descriptors.append(number)
            irq = self.irqs.get(number)
            fd = self._offers.get(number, -1)
            if irq is not None and irq.eventfd is not None:
                fd = irq.eventfd.fd
            if fd >= 0:
                endpoint.share(self.host, FD_LABEL, FD_BODY.pack(self.session, number), [fd])
        endpoint.post(self.host, envelope)

    def irq_listener(self, heard: Callable[[], None]) -> IrqListener:
        """Make something that the host can signal."""
        direct = self._sessions.endpoint.path(self.host) == "direct"
        irq = LabIrq(self, self._sessions.next_number(), heard, direct=direct)
        self.irqs[irq.descriptor] = irq
        return irq

    def take_fd(self, descriptor: Descriptor) -> int:
        """Return what the host has shared under a number.

        Raises:
            RefusedError: nothing has come.
        """
        fd = self._shared.pop(descriptor, None)
        if fd is None:
            raise RefusedError(f"{self.host} has not shared descriptor {descriptor}")
        return fd

    def close_descriptor(self, descriptor: Descriptor) -> None:
        """Let go of what the host has shared under a number."""
        fd = self._shared.pop(descriptor, None)
        if fd is not None:
            close_all([fd])

    def close(self, reason: str) -> None:
        """End the session."""
        self.end(reason)

    # --- in ----------------------------------------------------------------------------------------------------------

    def message(self, body: MdevMessage) -> None:
        """A message from the host."""
        if self._received is not None:
            self._received(body.message, [number for number in body.descriptors if number in self._shared])

    def irq(self, target: int) -> None:
        """An irq target is signalled; number 0 is the wish that we let go."""
        irq = self.irqs.get(target)
        if target == RELEASE:
            self.release_asked = True
            self.on_release()
        elif irq is None:
            self._sessions.endpoint.counters["mdev_irq_of_nobody"] += 1
        else:
            irq.heard()

    def shared(self, number: int, fd: int) -> None:
        """The host has shared a descriptor; takes it over."""
        if number in self._shared or len(self._shared) >= _SHARED_MAX:
            close_all([fd])
        else:
            self._shared[number] = fd

    def end(self, reason: str, *, moved_to: str = "", tell: bool = True) -> None:
        """The session is over."""
        if self._over:
            return
        self._over, self._reason = True, reason
        self._sessions.forget(self)
        close_all(list(self._shared.values()))
        self._shared.clear()
        if tell:
            close = MdevClose(session=self.session, reason=reason)
            self._sessions.endpoint.post(self.host, Envelope(mdev_close=close))
        self.moved_to = moved_to
        if self._ended is not None:
            self._ended(reason)


class LabSessions:
    """All sessions of a partition."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.on_notice: Callable[[str], None] = lambda _: None
        """Told a node that says that it may have devices for us."""
        self._transports: dict[tuple[str, int], LabTransport] = {}
        self._number = 0
        endpoint.on("mdev_message", self._message)
        endpoint.on("mdev_irq", self._irq)
        endpoint.on("mdev_close", self._close)
        endpoint.on_share(FD_LABEL, self._shared)
        endpoint.on_peer_down.append(self._peer_down)

    def next_number(self) -> int:
        """Return a number for a descriptor, used once."""
        self._number += 1
        return self._number

    async def open(self, host: str, name: str, timeout: float) -> LabTransport:
        """Open a device.

        Raises:
            MdevError: the host refuses.  UnreachableError: it is not there or does not answer.
        """
        await self.endpoint.settle_path(host)
        opened: asyncio.Future[LabTransport] = asyncio.get_running_loop().create_future()

        def answered(result: Envelope | PvnetError) -> None:
            try:
                transport = self._opened(host, name, result)
            except PvnetError as error:
                if not opened.done():
                    opened.set_exception(error)
                return
            if opened.done():
                transport.end("nobody waits for it any more")
            else:
                opened.set_result(transport)

        self.endpoint.call_back(host, Envelope(mdev_open=MdevOpen(name=name)), _LATE_S, answered)
        try:
            async with asyncio.timeout(timeout):
                return await opened
        except TimeoutError:
            raise DeadlineError(f"{host} did not answer (waited {timeout:g} s)") from None

    def _opened(self, host: str, name: str, result: Envelope | PvnetError) -> LabTransport:
        """Make the session that a host has opened, from within its answer: what the host says next is for it."""
        if isinstance(result, PvnetError):
            raise result
        answer = result.mdev_reply
        if answer.result:
            raise MdevError.of_text(answer.result, answer.text)
        if not answer.session:
            raise RefusedError(f"{host} opened {name} without a session")
        transport = LabTransport(self, host, result.source_incarnation, answer.session)
        self._transports[host, answer.session] = transport
        return transport

    def forget(self, transport: LabTransport) -> None:
        """A session is over."""
        self._transports.pop((transport.host, transport.session), None)

    def close(self) -> None:
        """End all."""
        for transport in list(self._transports.values()):
            transport.end("the partition stops")

    # --- messages ----------------------------------------------------------------------------------------------------

    def _transport(self, envelope: Envelope, session: int) -> LabTransport | None:
        transport = self._transports.get((envelope.source, session))
        if transport is None or transport.incarnation != envelope.source_incarnation:
            self.endpoint.counters["mdev_no_session"] += 1
            return None
        return transport

    def _message(self, envelope: Envelope) -> None:
        transport = self._transport(envelope, envelope.mdev_message.session)
        if transport is not None:
            transport.message(envelope.mdev_message)

    def _irq(self, envelope: Envelope) -> None:
        if envelope.mdev_irq.session == NO_SESSION:
            self.on_notice(envelope.source)
            return
        transport = self._transport(envelope, envelope.mdev_irq.session)
        if transport is not None:
            transport.irq(envelope.mdev_irq.target)

    def _close(self, envelope: Envelope) -> None:
        body = envelope.mdev_close
        transport = self._transport(envelope, body.session)
        if transport is not None:
            transport.end(body.reason, moved_to=body.moved_to, tell=False)

    def _shared(self, source: str, _label: str, body: bytes, fds: list[int]) -> None:
        transport = self._transports.get((source, FD_BODY.unpack(body)[0])) if len(body) == FD_BODY.size else None
        if transport is None or len(fds) != 1:
            close_all(fds)
            self.endpoint.counters["mdev_bad_share"] += 1
            return
        transport.shared(FD_BODY.unpack(body)[1], fds[0])

    def _peer_down(self, event: PeerDown) -> None:
        for transport in [each for each in self._transports.values() if each.host == event.node]:
            transport.end(f"{event.node} is gone", tell=False)
