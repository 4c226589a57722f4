"""The vbus host: one bridge per partition that has attached, and the buses behind them.

A partition offers its arena by ``VbusAttach``.  Where there is a direct path it has passed the arena's memfd and two
eventfds before (:data:`ARENA_LABEL`), and both sides work on the same bytes; otherwise each keeps a copy
(``vbus_mirror``).  The bridge's registers, the structures and the rings are the same either way, and so are the
machines (:mod:`pvnet.vbus.south`).

A signal gets eventfds of its own when the partition passes them (:data:`SIGNAL_LABEL`): then it does not go through the
event queue any more.

Everything of a partition ends with its incarnation: connections, regions, descriptors.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import entry_points
from mmap import mmap
from typing import Final, assert_never

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EINVAL, EIO, ENOENT, EPERM
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.vbus_pb2 import VbusWrite
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.eventfd import EventFd
from pvnet.runtime.fence import full_fence
from pvnet.runtime.memfd import map_sealed
from pvnet.transport.link import PeerDown
from pvnet.transport.unix_socket import close_all
from pvnet.vbus import bridge_io as io
from pvnet.vbus.arena import Arena
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.device import DeviceClass
from pvnet.vbus.errors import VbusError
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.layout import is_type
from pvnet.vbus.mirror import Mirror
from pvnet.vbus.south import VbusSouth
from pvnet.vbus.south_io import SouthInput, SouthOutput
from pvnet_services.note_limit import NoteLimit
from pvnet_services.vbus_mirror import MirrorLink

ARENA_LABEL: Final = "vbus-arena"
"""Share of an arena: body ``<Q`` number; descriptors: memfd, doorbell of north, interrupt."""
SIGNAL_LABEL: Final = "vbus-signal"
"""Share of a signal: body ``<Q`` cookie; descriptors: the eventfd that north rings, the one that the host rings."""
NUMBER: Final = struct.Struct("<Q")
DEVICES_GROUP: Final = "pvnet.devices"
"""Entry points of device classes."""
_ARENA_MIN: Final = 4096
_ARENA_MAX: Final = 1 << 30
_COPY_MAX: Final = 1 << 25
"""Largest arena of which copies are kept: each look for changes reads all of it, while everybody else waits."""
_ARENA_FDS: Final = 3
_SIGNAL_FDS: Final = 2


def load_classes(log: Callable[[str, str], None]) -> dict[str, DeviceClass]:
    """Return the device classes of all installed packages; ``log(name, why)`` hears of those that cannot be loaded."""
    found: dict[str, DeviceClass] = {}
    for point in sorted(entry_points(group=DEVICES_GROUP), key=lambda each: each.name):
        try:
            made_by: DeviceClass = point.load()
            name, type_ = str(made_by.name), str(made_by.type)
            if not is_type(type_):
                raise VbusError(EINVAL, f"class {name!r} makes devices of type {type_!r}")
            found[name] = made_by
        except Exception as error:  # noqa: BLE001 - somebody else's package must not keep the host from starting
            log(point.name, f"{type(error).__name__}: {error}")
    return found


class _Offer:
    """Descriptors that a partition has passed for its next attach."""

    def __init__(self, number: int, fds: list[int]) -> None:
        self.number = number
        self.fds = fds


class VbusClient:
    """One attached partition: its arena here, its bridge, its descriptors."""

    def __init__(self, host: VbusHost, name: str, base: int, size: int, offer: _Offer | None) -> None:
        self.name = name
        self.incarnation = 0
        self._host = host
        self._calls: dict[int, Envelope] = {}
        self._tag = 0
        self._memory: mmap | bytearray
        self._mirror: MirrorLink | None = None
        self._kick: EventFd | None = None
        self._irq: EventFd | None = None
        self._signals: dict[int, tuple[EventFd, EventFd]] = {}
        self._opened: set[int] = set()
        if offer is None:
            self._memory = bytearray(size)
            view = memoryview(self._memory)
            self._mirror = MirrorLink(Mirror(view), base, self._post)
        else:
            self._memory = map_sealed(offer.fds[0], size)
            view = memoryview(self._memory)
            bells = offer.fds[1:]
            del offer.fds[1:]
            self._kick, self._irq = adopt_pair(bells)
        self.machine = VbusSouth(
            name, Arena(view, base), host.registry, full_fence, on_ready=partial(host.wants_turn, self)
        )
        self.driver = Driver[SouthInput, SouthOutput](self.machine, self._carry_out, self._settled)
        if self._kick is not None:
            self._kick.listen(partial(self.feed, io.Doorbell(Register.EVENTQ, 0)))

    @property
    def is_shared(self) -> bool:
        """Whether both sides work on the same bytes."""
        return self._mirror is None

    # --- in ----------------------------------------------------------------------------------------------------------

    def feed(self, event: SouthInput | Tick) -> None:
        """Give the bridge an input, and then everybody a turn who has got something by it."""
        self.turn(event)
        self._host.give_turns()

    def turn(self, event: SouthInput | Tick) -> None:
        """Give the bridge an input.

        What a device raises ends its connection, inside of the machine.  What comes out here is a mistake of the host
        itself: it costs this client this turn, and nobody else anything; a call is answered all the same.
        """
        try:
            self.driver.feed(event)
        except Exception as error:
            self._host.endpoint.counters["turn_failed"] += 1
            self._host.endpoint.log.error("turn_failed", client=self.name, exc_info=error)
            if isinstance(event, io.BridgeCall):
                self._answer(event.tag, -EIO)

    def call(self, envelope: Envelope) -> None:
        """Execute a bridge call."""
        body = envelope.vbus_call
        self._store(body.writes)
        self._tag += 1
        self._calls[self._tag] = envelope
        self.feed(io.BridgeCall(self._tag, body.call))

    def doorbell(self, envelope: Envelope) -> None:
        """A write to a doorbell register."""
        body = envelope.vbus_doorbell
        self._store(body.writes)
        self.feed(io.Doorbell(body.offset, body.value))

    def update(self, envelope: Envelope) -> None:
        """Stores of the other side, and nothing else."""
        self._store(envelope.vbus_update.writes, more=envelope.vbus_update.more)

    def _store(self, writes: Iterable[VbusWrite], *, more: bool = False) -> None:
        if self._mirror is not None and self._mirror.take(writes, more=more):
            self.feed(io.MemoryChanged())

    def bind(self, cookie: int, fds: list[int]) -> None:
        """Signal ``cookie`` has eventfds of its own from now on; takes the descriptors over.

        Raises:
            PvnetError: they are no eventfds.
        """
        if self._mirror is not None or cookie not in self._opened or cookie in self._signals:
            close_all(fds)
            return
        pair = adopt_pair(fds)
        self._signals[cookie] = pair
        pair[0].listen(partial(self.feed, io.SignalRang(cookie)))
        self.feed(io.SignalBound(cookie, pair[1].ring))

    # --- out ---------------------------------------------------------------------------------------------------------

    def _answer(self, tag: int, result: int) -> None:
        envelope = self._calls.pop(tag, None)
        if envelope is None:
            return  # its turn failed, and that was the answer
        reply = Envelope()
        reply.vbus_reply.result = result
        if self._mirror is not None:
            self._mirror.fill(reply.vbus_reply.writes)
        self._host.endpoint.reply(envelope, reply)

    def _post(self, envelope: Envelope) -> None:
        self._host.endpoint.post(self.name, envelope)

    def _carry_out(self, output: SouthOutput) -> None:
        match output:
            case io.BridgeResult(tag, result):
                self._answer(tag, result)
            case io.Interrupt(queue):
                if self._irq is not None:
                    self._irq.ring()
                    return
                envelope = Envelope()
                envelope.vbus_irq.queue = queue
                if self._mirror is not None:
                    self._mirror.fill(envelope.vbus_irq.writes)
                self._post(envelope)
            case io.SignalRang(cookie):
                pair = self._signals.get(cookie)
                if pair is not None:
                    pair[1].ring()
            case io.SignalOpened(cookie, _):
                self._opened.add(cookie)
            case io.SignalClosed(cookie):
                self._opened.discard(cookie)
                close_pair(self._signals.pop(cookie, ()))
            case Note():
                self._host.note(self.name, output)
            case _:
                assert_never(output)

    def _settled(self) -> None:
        if self._mirror is not None:
            self._mirror.flush()

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The partition is gone, or attaches anew."""
        self.turn(io.ClientGone())
        self.driver.close()
        close_pair(each for each in (self._kick, self._irq) if each is not None)
        for pair in self._signals.values():
            close_pair(pair)
        self._signals.clear()
        # Client, machine and driver refer to each other; the memory must not wait until the collector finds them.
        self.machine.arena.close()
        self._memory = bytearray()
        self._mirror = None

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        return {
            "name": self.name,
            "state": self.machine.state.value,
            "shared": self.is_shared,
            "direct_signals": len(self._signals),
            "signals": self.machine.signals.alive,
            "counters": dict(self.machine.counters),
        }


class VbusHost:
    """All clients of a vbus host."""

    def __init__(self, endpoint: Endpoint, classes: Mapping[str, DeviceClass]) -> None:
        self.endpoint = endpoint
        self.registry = BusRegistry(classes)
        self.clients: dict[str, VbusClient] = {}
        self._offers: dict[str, _Offer] = {}
        self._limits: dict[str, NoteLimit] = {}
        self._waiting: dict[VbusClient, None] = {}
        self._later = False
        endpoint.on("vbus_attach", self._attach)
        endpoint.on("vbus_call", partial(self._message, VbusClient.call))
        endpoint.on("vbus_doorbell", partial(self._message, VbusClient.doorbell))
        endpoint.on("vbus_update", partial(self._message, VbusClient.update))
        endpoint.on_share(ARENA_LABEL, self._arena_offered)
        endpoint.on_share(SIGNAL_LABEL, self._signal_offered)
        endpoint.on_peer_down.append(self._peer_down)

    def close(self) -> None:
        """End all clients."""
        for name in list(self.clients):
            self._end(name)
        for name in list(self._offers):
            close_all(self._offers.pop(name).fds)

    def invite(self, node: str) -> None:
        """Tell a partition that it has become a member of a bus: it may attach now."""
        envelope = Envelope()
        envelope.vbus_update.SetInParent()
        self.endpoint.post(node, envelope)

    def note(self, client: str, note: Note) -> None:
        """Something that a log should have; a client cannot fill it."""
        limit = self._limits.get(client)
        if limit is None:
            limit = self._limits[client] = NoteLimit(self.endpoint, asyncio.get_running_loop().time)
        limit.note(note)

    # --- turns -------------------------------------------------------------------------------------------------------

    def wants_turn(self, client: VbusClient) -> None:
        """Another client's packet has given this one something to say: it gets a turn soon."""
        self._waiting[client] = None
        if not self._later:
            self._later = True
            asyncio.get_running_loop().call_soon(self._turns)

    def _turns(self) -> None:
        self._later = False
        self.give_turns()

    def give_turns(self) -> None:
        """Give a turn to those who wait now; who gets something by that waits for the next round."""
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            for client in waiting:
                client.turn(Tick())

    # --- messages ----------------------------------------------------------------------------------------------------

    def _attach(self, envelope: Envelope) -> None:
        name = envelope.source
        self._end(name)
        offer = self._offers.pop(name, None)
        try:
            result = self._attach_with(envelope, offer)
        except PvnetError as error:
            self.note(name, _bad("attach_refused", name, error))
            result = -(error.errno if isinstance(error, VbusError) else EINVAL)
        finally:
            if offer is not None:
                close_all(offer.fds)  # the memfd: the mapping keeps it
        reply = Envelope()
        reply.vbus_reply.result = result
        self.endpoint.reply(envelope, reply)

    def _attach_with(self, envelope: Envelope, offer: _Offer | None) -> int:
        body, name = envelope.vbus_attach, envelope.source
        most = _ARENA_MAX if body.shared else _COPY_MAX
        if not _ARENA_MIN <= body.bytes <= most or not 0 < body.base < 1 << 62 or body.base % _ARENA_MIN:
            raise VbusError(EINVAL, f"arena of {body.bytes} bytes at {body.base:#x}")
        try:
            self.registry.bus_of(name)
        except VbusError:
            return -EPERM
        if not body.shared:
            offer = None
        elif offer is None or offer.number != body.shared:
            return -ENOENT
        client = VbusClient(self, name, body.base, body.bytes, offer)
        client.incarnation = envelope.source_incarnation
        self.clients[name] = client
        return 0

    def _message(self, handle: Callable[[VbusClient, Envelope], None], envelope: Envelope) -> None:
        client = self.clients.get(envelope.source)
        if client is None or client.incarnation != envelope.source_incarnation:
            self.endpoint.counters["vbus_not_attached"] += 1
            if envelope.correlation:
                self.endpoint.refuse(envelope, f"{envelope.source} has not attached to the vbus host")
            return
        try:
            handle(client, envelope)
        except VbusError as error:
            self.note(client.name, _bad("vbus_bad_message", client.name, error))
            if envelope.correlation:
                self.endpoint.refuse(envelope, str(error))

    def _arena_offered(self, source: str, _label: str, body: bytes, fds: list[int]) -> None:
        if len(body) != NUMBER.size or len(fds) != _ARENA_FDS:
            close_all(fds)
            self.endpoint.counters["vbus_bad_share"] += 1
            return
        old = self._offers.pop(source, None)
        if old is not None:
            close_all(old.fds)
        self._offers[source] = _Offer(NUMBER.unpack(body)[0], fds)

    def _signal_offered(self, source: str, _label: str, body: bytes, fds: list[int]) -> None:
        client = self.clients.get(source)
        if client is None or len(body) != NUMBER.size or len(fds) != _SIGNAL_FDS:
            close_all(fds)
            self.endpoint.counters["vbus_bad_share"] += 1
            return
        try:
            client.bind(NUMBER.unpack(body)[0], fds)
        except PvnetError as error:
            self.note(source, _bad("vbus_bad_share", source, error))

    # --- the end of a client -----------------------------------------------------------------------------------------

    def _peer_down(self, event: PeerDown) -> None:
        self._end(event.node)
        try:
            self.registry.bus_of(event.node)  # a member may come back, and again; its limit does not begin anew then
        except VbusError:
            self._limits.pop(event.node, None)
        offer = self._offers.pop(event.node, None)
        if offer is not None:
            close_all(offer.fds)

    def _end(self, name: str) -> None:
        client = self.clients.pop(name, None)
        if client is not None:
            client.end()
            self._waiting.pop(client, None)
            self.give_turns()


def _bad(event: str, client: str, error: PvnetError) -> Note:
    return Note(event, (("client", client), ("reason", str(error))), "warning")


def adopt_pair(fds: list[int]) -> tuple[EventFd, EventFd]:
    """Take two eventfds over; on any doubt both are closed.

    Raises:
        WireError: one of them is none.
    """
    first: EventFd | None = None
    try:
        first = EventFd.adopt(fds[0])
        second = EventFd.adopt(fds[1])
    except BaseException:
        close_all(fds)
        raise
    return first, second


def close_pair(pair: Iterable[EventFd]) -> None:
    """Close the eventfds of a signal, or none."""
    for each in pair:
        each.close()
