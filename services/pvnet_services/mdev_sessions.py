"""The sessions of partitions with the devices of an mdev host: vfio-user, carried by messages of the lab.

A partition opens a device by ``MdevOpen``, and from then on ``MdevMessage`` carries whole vfio-user messages both ways.
What vfio-user passes as descriptors is named by numbers, which the sender chooses:

* on a direct path it has shared the real descriptor under that number (:data:`FD_LABEL`), and it is used;
* otherwise the number is an irq target of the partition, told by ``MdevIrq``; memory cannot be passed so: the partition
  offers it without a descriptor, and it is reached by DMA_READ and DMA_WRITE.

Shares are not ordered with messages: what has not come (yet) counts as not passed, and both sides can do without.

A session that is :meth:`held <LabSession.hold>` keeps commands unexecuted; replies still pass.  When its device moves
to another host the partition is told where, and repeats what was not answered there.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Note
from pvnet.mdev.device import RegionMemory
from pvnet.mdev.errors import MdevError
from pvnet.mdev.user import DmaMemory, IrqTarget
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user_server import ServerLimits, ServerSession
from pvnet.papr.errno import EBADF, EBUSY, EINVAL, ENODEV
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.mdev_pb2 import MdevClose, MdevIrq, MdevMessage, MdevReply
from pvnet.runtime.endpoint import Endpoint
from pvnet.transport.link import PeerDown
from pvnet.transport.unix_socket import close_all
from pvnet.vfio.descriptors import SharedMemory, dma_memory, irq_target

FD_LABEL: Final = "mdev-fd"
"""Share of a descriptor, either way: body :data:`FD_BODY`, one descriptor."""
FD_BODY: Final = struct.Struct("<IQ")
"""Session, number."""
RELEASE: Final = 0
"""An irq target that every session has: the host wants the device back."""
NO_SESSION: Final = 0
"""An irq of this session says that the host may have devices for the partition that it does not use."""
LAB_TRANSFER_BYTES: Final = 64 << 10
"""Most data of one message in a lab: an envelope has room for it."""
_OFFERS_MAX: Final = 64
"""Shared descriptors of a session that no message has named yet."""
_EXPIRE_S: Final = 0.5
_HELD_MAX: Final = 4096
_SESSIONS_MAX: Final = 64
"""Of one partition."""
_MOVED_MAX: Final = 1024
"""Devices that have moved away of which it is remembered where to."""
_REPLY: Final = 1
_TYPE_MASK: Final = 0xF
_HEADER_BYTES: Final = 16


class _MessageTarget:
    """An irq target without a descriptor: each signal is a message."""

    def __init__(self, session: LabSession, number: int) -> None:
        self._session: LabSession | None = session
        self._number = number

    def signal(self) -> None:
        """Tell the partition."""
        if self._session is not None:
            self._session.post_irq(self._number)

    def close(self) -> None:
        """Tell it no more."""
        self._session = None


class LabSession:
    """One session; implements the carrier of :class:`~pvnet.mdev.vfio_user_server.ServerSession`."""

    def __init__(self, host: MdevSessions, node: str, incarnation: int, number: int, device: VfioDevice) -> None:
        self.node = node
        self.incarnation = incarnation
        self.number = number
        self.device = device
        self.max_fds = 8
        self._host = host
        self._offers: dict[int, int] = {}
        self._last_number = 0
        self._held: deque[tuple[bytes, list[int]]] | None = None
        self._asked = False
        self._over = False
        self._expiry: asyncio.TimerHandle | None = None
        limits = ServerLimits(max_transfer=LAB_TRANSFER_BYTES)
        self.machine = ServerSession(device, self, limits)

    # --- in ----------------------------------------------------------------------------------------------------------

    def message(self, message: MdevMessage) -> None:
        """A message has come."""
        data, descriptors = message.message, list(message.descriptors)
        if self._held is not None and not _is_reply(data):
            if len(self._held) >= _HELD_MAX:
                self.close("more requests than may wait")
                return
            self._held.append((data, descriptors))
            return
        self.machine.message(data, descriptors)
        if self.machine.waiting and self._expiry is None and not self._over:
            self._expiry = asyncio.get_running_loop().call_later(_EXPIRE_S, self._expire)

    def _expire(self) -> None:
        """Give up what the partition does not answer."""
        self._expiry = None
        loop = asyncio.get_running_loop()
        self.machine.expire(loop.time())
        if self.machine.waiting and not self._over:
            self._expiry = loop.call_later(_EXPIRE_S, self._expire)

    def offered(self, number: int, fd: int) -> None:
        """A descriptor was shared; takes it over."""
        if number in self._offers or len(self._offers) >= _OFFERS_MAX or self._over:
            close_all([fd])
            self._host.endpoint.counters["mdev_bad_share"] += 1
            return
        self._offers[number] = fd

    def hold(self) -> None:
        """Execute no more commands until :meth:`resume`."""
        if self._held is None:
            self._held = deque()

    def resume(self) -> None:
        """Execute what has waited, in order, and what comes."""
        held, self._held = self._held or deque(), None
        while held and not self._over:
            self.machine.message(*held.popleft())

    # --- carrier -----------------------------------------------------------------------------------------------------

    def send(self, parts: Sequence[bytes | memoryview], descriptors: Sequence[int]) -> None:
        """Send a message; its descriptors stay the caller's."""
        if self._over:
            return
        envelope = Envelope()
        body = envelope.mdev_message
        body.session = self.number
        body.message = b"".join(parts)
        for fd in descriptors:
            self._last_number += 1
            share = FD_BODY.pack(self.number, self._last_number)
            if not self._host.endpoint.share(self.node, FD_LABEL, share, [fd]):
                self._host.endpoint.counters["mdev_descriptor_not_passed"] += 1
            body.descriptors.append(self._last_number)
        self._host.endpoint.post(self.node, envelope)

    def irq_target(self, descriptor: int) -> IrqTarget:
        """Return where an irq goes: an eventfd if one was shared under that number, else a message."""
        fd = self._offers.pop(descriptor, None)
        if fd is None:
            return _MessageTarget(self, descriptor)
        return irq_target(fd)

    def dma_memory(self, descriptor: int, offset: int, size: int, *, writable: bool) -> DmaMemory:
        """Return shared memory.

        Raises:
            MdevError: EBADF, no descriptor was shared under that number; EINVAL, it is no memory or too short.
        """
        fd = self._offers.pop(descriptor, None)
        if fd is None:
            raise MdevError(EBADF, f"descriptor {descriptor} was not shared")
        return dma_memory(fd, offset, size, writable=writable)

    def region_descriptor(self, memory: RegionMemory) -> int | None:
        """Return the descriptor of a region's memory, where descriptors can be passed."""
        if not isinstance(memory, SharedMemory) or memory.fd < 0 or self._host.endpoint.path(self.node) != "direct":
            return None
        return memory.fd

    def close_descriptor(self, descriptor: int) -> None:
        """Let go of what was shared under a number, if anything was."""
        fd = self._offers.pop(descriptor, None)
        if fd is not None:
            close_all([fd])

    def close(self, reason: str) -> None:
        """The session is over for its own reasons."""
        self.end(reason)

    def post_irq(self, number: int) -> None:
        """Tell an irq target that has no descriptor."""
        self._host.endpoint.post(self.node, Envelope(mdev_irq=MdevIrq(session=self.number, target=number)))

    def ask_release(self) -> None:
        """Ask the partition to let go of the device."""
        self._asked = True
        self.post_irq(RELEASE)

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self, reason: str, *, moved_to: str = "", tell: bool = True) -> None:
        """End it; the partition is told why, and where the device has gone to."""
        if self._over:
            return
        self._over = True
        if self._expiry is not None:
            self._expiry.cancel()
        self._host.forget(self)
        self.machine.lost()
        close_all(list(self._offers.values()))
        self._offers.clear()
        self._held = None
        if tell:
            body = MdevClose(session=self.number, reason=reason, moved_to=moved_to)
            self._host.endpoint.post(self.node, Envelope(mdev_close=body))
        if self._asked:
            self._host.on_let_go(self.device.name)

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        return {"node": self.node, "session": self.number, "device": self.device.name, "held": self._held is not None}


class MdevSessions:
    """All sessions of partitions; ``find`` returns the device of a name, or raises MdevError."""

    def __init__(
        self, endpoint: Endpoint, find: Callable[[str, str], VfioDevice], note: Callable[[Note], None]
    ) -> None:
        self.endpoint = endpoint
        self._find = find
        self._note = note
        self.on_let_go: Callable[[str], None] = lambda _: None
        """Told the name of a device whose user was asked to let go, and has done so by now."""
        self._sessions: dict[int, LabSession] = {}
        self._held: set[VfioDevice] = set()
        self._moved: dict[str, str] = {}
        self._last = 0
        endpoint.on("mdev_open", self._open)
        endpoint.on("mdev_message", self._message)
        endpoint.on("mdev_close", self._close)
        endpoint.on_share(FD_LABEL, self._shared)
        endpoint.on_peer_down.append(self._peer_down)

    @property
    def sessions(self) -> list[LabSession]:
        """All of them."""
        return list(self._sessions.values())

    def of(self, device: VfioDevice) -> LabSession | None:
        """Return the session that has a device open."""
        return next((session for session in self._sessions.values() if session.device is device), None)

    def shown(self) -> list[dict[str, object]]:
        """Numbers for ``show_status``."""
        return [session.shown() for session in self._sessions.values()]

    def close(self) -> None:
        """End all."""
        for session in list(self._sessions.values()):
            session.end("the mdev host stops")

    def tell(self, partition: str) -> None:
        """Have a partition look for devices that are for it."""
        self.endpoint.post(partition, Envelope(mdev_irq=MdevIrq(session=NO_SESSION)))

    def forget(self, session: LabSession) -> None:
        """A session is over."""
        self._sessions.pop(session.number, None)

    # --- devices that move -------------------------------------------------------------------------------------------

    def hold(self, device: VfioDevice) -> None:
        """Execute no more commands of whoever has a device open, or opens it, until one of the following."""
        self._held.add(device)
        session = self.of(device)
        if session is not None:
            session.hold()

    def resume(self, device: VfioDevice) -> None:
        """The device stays: execute what has waited."""
        self._held.discard(device)
        session = self.of(device)
        if session is not None:
            session.resume()

    def moved(self, device: VfioDevice, to: str) -> None:
        """The device lives elsewhere: tell who has it open, and who comes later."""
        self._held.discard(device)
        while len(self._moved) >= _MOVED_MAX:
            del self._moved[next(iter(self._moved))]
        self._moved[device.name] = to
        session = self.of(device)
        if session is not None:
            session.end(f"the device has moved to {to}", moved_to=to)

    def arrived(self, name: str) -> None:
        """A device lives here from now on."""
        self._moved.pop(name, None)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _open(self, envelope: Envelope) -> None:
        answer, moved_to = MdevReply(), ""
        try:
            answer.session = self._opened(envelope).number
        except MdevError as error:
            moved_to = self._moved.get(envelope.mdev_open.name.lower(), "") if error.errno == ENODEV else ""
            if moved_to:
                answer.session = self._next()
            else:
                answer.result, answer.text = error.code, str(error)
        self.endpoint.reply(envelope, Envelope(mdev_reply=answer))
        if moved_to:  # the partition goes there as if it had been here when the device moved
            body = MdevClose(session=answer.session, reason=f"the device has moved to {moved_to}", moved_to=moved_to)
            self.endpoint.post(envelope.source, Envelope(mdev_close=body))

    def _opened(self, envelope: Envelope) -> LabSession:
        node, name = envelope.source, envelope.mdev_open.name
        if sum(session.node == node for session in self._sessions.values()) >= _SESSIONS_MAX:
            raise MdevError(EBUSY, f"{node} has {_SESSIONS_MAX} devices open")
        device = self._find(name, node)
        if device.user is not None:
            raise MdevError(EBUSY, f"{name} is in use")
        session = LabSession(self, node, envelope.source_incarnation, self._next(), device)
        self._sessions[session.number] = session
        if device in self._held:
            session.hold()
        return session

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _session(self, envelope: Envelope, number: int) -> LabSession | None:
        session = self._sessions.get(number)
        if session is None or session.node != envelope.source or session.incarnation != envelope.source_incarnation:
            self.endpoint.counters["mdev_no_session"] += 1
            return None
        return session

    def _message(self, envelope: Envelope) -> None:
        session = self._session(envelope, envelope.mdev_message.session)
        if session is not None:
            session.message(envelope.mdev_message)

    def _close(self, envelope: Envelope) -> None:
        session = self._session(envelope, envelope.mdev_close.session)
        if session is not None:
            session.end("closed", tell=False)

    def _shared(self, source: str, _label: str, body: bytes, fds: list[int]) -> None:
        session = self._sessions.get(FD_BODY.unpack(body)[0]) if len(body) == FD_BODY.size else None
        if session is None or session.node != source or len(fds) != 1:
            close_all(fds)
            self.endpoint.counters["mdev_bad_share"] += 1
            return
        session.offered(FD_BODY.unpack(body)[1], fds[0])

    def _peer_down(self, event: PeerDown) -> None:
        for session in [each for each in self._sessions.values() if each.node == event.node]:
            session.end(f"{event.node} is gone", tell=False)


def _is_reply(data: bytes) -> bool:
    return len(data) >= _HEADER_BYTES and data[8] & _TYPE_MASK == _REPLY


def refused(error: PvnetError) -> MdevReply:
    """Return the answer that says why not."""
    code = error.code if isinstance(error, MdevError) else EINVAL
    return MdevReply(result=code or ENODEV, text=str(error))
