"""The fastest way between two Python processes: batches of messages both ways through shared memory.

::

    channel = RingChannel.create(slot_bytes=64)                  # in one process
    subprocess.Popen([...  channel.offer.to_text()], pass_fds=channel.offer.fds)
    channel = RingChannel.attach(ChannelOffer.from_text(text))   # in the other

    channel.send_batch(messages)        # how many fit; never waits
    await channel.send(messages)        # all of them
    messages = await channel.recv()     # at least one; empty when the peer has ended

One sealed memory file holds a packet ring (``ring.batch``) for each direction; each side has one eventfd on which the
other rings, and only does so while this side sleeps.

**Waiting.** Waking a process on another CPU takes some 20 µs each way.  With ``spin_seconds`` (30e-6 is enough) a side
looks for so long before it sleeps, which is the only thing that beats that.  It blocks the event loop for this time, so
it is off unless asked for, off when both sides have one CPU, and adaptive: it spins only while messages do come that
quickly, and after some spins in vain not before the next quick answer.  A peer that dies therefore costs a few spins.

Where both sides are confined to one and the same CPU a spin would only be in the way.  There a receiver gives the CPU
away once (``sched_yield``) before it sleeps, with the same credit: the peer runs, answers, and gives it back, without
a system call of the doorbell's.  On a CPU that others want too this is noticed and given up for a long time.

**Never lost.** Going to sleep has the fence it needs (``ring.event_signal``).  Nevertheless a slow timer looks while
somebody sleeps; if it finds, twice in a row, work that nobody rang for, it wakes the sleeper and counts a rescue.  That
number stays at 0.

**The peer's end** is seen by its closing, or with ``peer_pid`` by its death, whatever the cause.

Spec: vbus 10.4; feasibility 2 and 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pvnet.core.errors import ConfigError, LocalError, PeerDiedError, RefusedError, WireError
from pvnet.ring.batch import PacketConsumer, PacketProducer, format_packet_ring, packet_ring_bytes
from pvnet.ring.errors import RingError
from pvnet.ring.event_signal import EventSignal
from pvnet.runtime.eventfd import EventFd
from pvnet.runtime.fence import full_fence
from pvnet.runtime.memfd import create_sealed, map_sealed

SPIN_SECONDS: Final = 30e-6
"""How long a spin is worth it."""
RESCUE_SECONDS: Final = 0.1
"""Period of the timer that looks while somebody sleeps."""

_LINE: Final = 64
_QUICK_SECONDS: Final = 1e-3
"""A sleep that was shorter says that it is worth to spin the next time."""
_SPINS_IN_VAIN: Final = 8
_SLOW_YIELD_SECONDS: Final = 100e-6
"""A yield that took longer went to somebody else than the peer: on a busy CPU sleeping is better."""
_FIRST_PAUSE: Final = 16
"""So many waits without a yield after one that was slow; more each time it happens again."""
_LONGEST_PAUSE: Final = 16_384
_TURNS: Final = 64
"""So many answers without waiting, then the event loop gets a turn."""

Bytes2D = NDArray[np.uint8]
T = TypeVar("T", list[bytes], Bytes2D)


@dataclass(frozen=True, slots=True)
class ChannelOffer:
    """What the other process needs: three descriptors (pass them at its start) and the shape."""

    count: int
    slot_bytes: int
    fds: tuple[int, int, int]
    """Memory, what rings the attaching side, what rings the creating side."""

    def to_text(self) -> str:
        """One word for a command line."""
        return ",".join(str(number) for number in (self.count, self.slot_bytes, *self.fds))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what :meth:`to_text` wrote.

        Raises:
            ConfigError: it is something else.
        """
        try:
            count, slot_bytes, *fds = (int(number) for number in text.split(","))
            memory, to_attacher, to_creator = fds
        except ValueError:
            raise ConfigError(f"channel {text!r}: expected COUNT,SLOT,FD,FD,FD") from None
        return cls(count, slot_bytes, (memory, to_attacher, to_creator))


@dataclass(slots=True)
class ChannelCounters:
    """How waiting went."""

    sleeps: int = 0
    spins: int = 0
    spin_hits: int = 0
    yields: int = 0
    yield_hits: int = 0
    rescues: int = 0


class RingChannel:
    """One end.  Use it from one event loop; one task may receive and one may send at a time."""

    def __init__(
        self,
        memory: memoryview,
        shape: tuple[int, int],
        bells: tuple[EventFd, EventFd],
        *,
        creator: bool,
        peer_pid: int | None,
        spin_seconds: float,
    ) -> None:
        count, slot_bytes = shape
        size = packet_ring_bytes(count, slot_bytes)
        rings = memory[:size], memory[_second(size) : _second(size) + size]
        self._bell, peers_bell = bells
        self._peers_bell = peers_bell
        outgoing, incoming = rings if creator else rings[::-1]
        self._producer = PacketProducer(outgoing, slot_bytes, full_fence, peers_bell.ring)
        self._consumer = PacketConsumer(incoming, slot_bytes, full_fence, peers_bell.ring)
        self._shares_cpu = len(_cpus(peer_pid)) == 1
        self._spin_seconds = 0.0 if self._shares_cpu else spin_seconds
        self._credit = 0
        self._yield_pause = 0
        self._next_pause = _FIRST_PAUSE
        self._turns = 0
        self._sleeping: dict[EventSignal, asyncio.Future[None]] = {}
        self._suspected: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._pidfd = -1
        self._peer_pid = peer_pid
        self._loop: asyncio.AbstractEventLoop
        self._listening = False
        self._gone = False
        self._closed = False
        self._offer: ChannelOffer | None = None
        self.counters = ChannelCounters()

    # -- making one -------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, *, count: int = 1024, slot_bytes: int = 64, peer_pid: int | None = None, spin_seconds: float = 0.0
    ) -> Self:
        """Make both rings, of ``count`` messages of up to ``slot_bytes`` bytes, and be the first end.

        Raises:
            LocalError: count is not a power of two up to 2048, or slot_bytes not a multiple of 8.
            ConfigError: there is not so much memory.
        """
        size = packet_ring_bytes(count, slot_bytes)
        mapped, memfd = create_sealed(_second(size) + size, "channel")
        own: list[EventFd] = []
        try:
            memory = memoryview(mapped)
            for start in (0, _second(size)):
                format_packet_ring(memory[start : start + size], count, slot_bytes)
            own = [EventFd(), EventFd()]
            channel = cls(
                memory,
                (count, slot_bytes),
                (own[0], own[1]),
                creator=True,
                peer_pid=peer_pid,
                spin_seconds=spin_seconds,
            )
        except BaseException:
            for fd in own:
                fd.close()
            os.close(memfd)
            raise
        channel._offer = ChannelOffer(count, slot_bytes, (memfd, own[1].fd, own[0].fd))
        return channel

    @classmethod
    def attach(cls, offer: ChannelOffer, *, peer_pid: int | None = None, spin_seconds: float = 0.0) -> Self:
        """Be the other end.  The descriptors become ours, also when this fails.

        Raises:
            RefusedError: the memory is not sealed or not of this shape, or a descriptor is not what it should be.
        """
        memfd, own_fd, peers_fd = offer.fds
        size = packet_ring_bytes(offer.count, offer.slot_bytes)
        try:
            if offer.count < 1 or offer.slot_bytes < 1:
                raise RefusedError(f"channel of {offer.count} slots of {offer.slot_bytes} bytes")
            memory = memoryview(map_sealed(memfd, _second(size) + size))
            bells = EventFd.adopt(own_fd), EventFd.adopt(peers_fd)
            return cls(
                memory,
                (offer.count, offer.slot_bytes),
                bells,
                creator=False,
                peer_pid=peer_pid,
                spin_seconds=spin_seconds,
            )
        except BaseException as error:
            for fd in (own_fd, peers_fd):
                with contextlib.suppress(OSError):
                    os.close(fd)
            if isinstance(error, RingError | WireError | LocalError):
                raise RefusedError(f"channel: {error}") from None
            raise
        finally:
            with contextlib.suppress(OSError):
                os.close(memfd)

    @property
    def offer(self) -> ChannelOffer:
        """What to give to the other process; of the creating end only, until :meth:`close`."""
        if self._offer is None:
            raise LocalError("only the end that created the channel, and did not close it, has an offer")
        return self._offer

    # -- sending ----------------------------------------------------------------------------------------------------

    def send_batch(self, messages: Sequence[bytes]) -> int:
        """Send as many as fit, from the front; return how many.

        Raises:
            LocalError: a message is longer than a slot, or the channel is closed.
            PeerDiedError: the peer has ended.
            RingFault: the peer broke the protocol.
        """
        if self._closed or self._gone:
            self._refuse()
        if len(messages) == 1:
            return self._producer.push_one(messages[0])
        return self._producer.push(messages)

    def send_array(self, messages: Bytes2D) -> int:
        """Send as many rows of an array (n, slot_bytes) as fit; return how many.  Raises as :meth:`send_batch`."""
        if self._closed or self._gone:
            self._refuse()
        return self._producer.push_array(messages)

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send all, waiting for room.  Raises as :meth:`send_batch`."""
        sent = self.send_batch(messages)
        while sent < len(messages):
            await self._wait(self._producer)
            sent += self.send_batch(messages[sent:])

    # -- receiving --------------------------------------------------------------------------------------------------

    def receive_now(self, most: int = 1024) -> list[bytes]:
        """Up to ``most`` messages that are there already.

        Raises:
            LocalError: the channel is closed.
            RingFault: the peer broke the protocol.
        """
        if self._closed:
            self._refuse()
        return self._consumer.pop(most)

    def recv(self, most: int = 1024) -> Coroutine[Any, Any, list[bytes]]:
        """Up to ``most`` messages, waiting for the first one; none when the peer has ended and all are received.

        Raises as :meth:`receive_now`.
        """
        return self._receive(PacketConsumer.pop, most)  # one coroutine, not two: that shows in a round trip

    def recv_array(self, most: int = 1024) -> Coroutine[Any, Any, Bytes2D]:
        """As :meth:`recv`, as rows of an array; short messages are filled up with zeros."""
        return self._receive(PacketConsumer.pop_array, most)

    async def _receive(self, pop: Callable[[PacketConsumer, int], T], most: int) -> T:
        if self._closed:
            self._refuse()
        self._turns += 1
        if self._turns >= _TURNS:
            self._turns = 0
            await asyncio.sleep(0)
            if self._closed:
                self._refuse()
        consumer = self._consumer
        messages = pop(consumer, most)
        if not len(messages) and self._credit > 0 and (self._yield() if self._shares_cpu else self._spin_for_more()):
            messages = pop(consumer, most)
            if len(messages):
                self._credit = _SPINS_IN_VAIN
                self.counters.yield_hits += self._shares_cpu
        while not len(messages):
            events = consumer.events
            if events in self._sleeping:
                raise LocalError("another task waits for the same end of this channel")
            gone = self._gone or events.peer_closed  # before looking: what it sent last still counts
            if not gone and events.sleep_after(consumer.watched()[2]):
                try:
                    await self._sleep(events)
                except BaseException:  # cancelled
                    events.disable()
                    raise
                if self._closed:
                    self._refuse()
            messages = pop(consumer, most)
            if gone and not len(messages):
                self._gone = True
                break
        return messages

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def _wait(self, side: PacketProducer | PacketConsumer) -> bool:
        """Wait until the peer hands something over; False: it has ended and never will."""
        events = side.events
        if events in self._sleeping:
            raise LocalError("another task waits for the same end of this channel")
        while True:
            gone = self._gone or events.peer_closed  # before looking: what it sent last still counts
            events.look()
            if side.has_more():
                return True
            if gone:
                self._gone = True
                return False
            if self._credit > 0 and self._spin_seconds and self._spin(events):
                return True
            try:
                if not events.enable():
                    await self._sleep(events)
            finally:
                events.disable()
            if self._closed:
                self._refuse()

    def _spin_for_more(self) -> bool:
        """Before a receiver sleeps, if that was asked for; True: something came."""
        if not self._spin_seconds:
            return False
        memory, word, before = self._consumer.watched()
        clock = time.perf_counter
        self.counters.spins += 1
        end = clock() + self._spin_seconds
        while clock() < end:
            if memory[word] != before:
                self.counters.spin_hits += 1
                return True
        self._credit -= 1
        return False

    def _yield(self) -> bool:
        """Before a receiver sleeps: give the CPU away once; False: we did not, because others took it for long."""
        if self._yield_pause:
            self._yield_pause -= 1
            return False
        began = time.perf_counter()
        os.sched_yield()
        if time.perf_counter() - began > _SLOW_YIELD_SECONDS:
            self._yield_pause = self._next_pause
            self._next_pause = min(4 * self._next_pause, _LONGEST_PAUSE)
        elif self._next_pause > _FIRST_PAUSE:
            self._next_pause -= 1
        self.counters.yields += 1
        self._credit -= 1
        return True

    def _spin(self, events: EventSignal) -> bool:
        counters = self.counters
        counters.spins += 1
        end = time.perf_counter() + self._spin_seconds
        while time.perf_counter() < end:
            if events.moved:
                counters.spin_hits += 1
                self._credit = _SPINS_IN_VAIN
                return True
        self._credit -= 1
        return False

    async def _sleep(self, events: EventSignal) -> None:
        if not self._listening:
            self._listen()
        loop = self._loop
        if self._timer is None:
            self._timer = loop.call_later(RESCUE_SECONDS, self._rescue)
        self.counters.sleeps += 1
        self._turns = 0
        self._sleeping[events] = loop.create_future()
        began = time.perf_counter()
        try:
            if not self._gone:
                await self._sleeping[events]
        finally:
            del self._sleeping[events]
        if time.perf_counter() - began < _QUICK_SECONDS:
            self._credit = _SPINS_IN_VAIN

    def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = True
        self._bell.listen(self._wake)
        if self._peer_pid is not None:
            try:
                self._pidfd = os.pidfd_open(self._peer_pid)
            except ProcessLookupError:
                self._gone = True
            else:
                self._loop.add_reader(self._pidfd, self._peer_ended)

    def _wake(self) -> None:
        for sleeper in self._sleeping.values():
            if not sleeper.done():
                sleeper.set_result(None)

    def _peer_ended(self) -> None:
        self._gone = True
        self._forget_peer()
        self._wake()

    def _forget_peer(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _rescue(self) -> None:
        """Look while somebody sleeps.  Once is no proof: the peer may be about to ring."""
        self._timer = None
        if not self._sleeping:
            self._suspected = []
            return
        due = [
            sleeper
            for events, sleeper in self._sleeping.items()
            if (events.recheck() or events.peer_closed) and not sleeper.done()
        ]
        if any(sleeper in self._suspected for sleeper in due) and not self._is_ringing():
            self.counters.rescues += 1
            self._wake()
        self._suspected = due
        self._timer = self._loop.call_later(RESCUE_SECONDS, self._rescue)

    def _is_ringing(self) -> bool:
        poll = select.poll()
        poll.register(self._bell.fd, select.POLLIN)
        return bool(poll.poll(0))

    # -- the end ----------------------------------------------------------------------------------------------------

    @property
    def peer_gone(self) -> bool:
        """Whether the peer is known to have ended."""
        return self._gone or (not self._closed and self._consumer.events.peer_closed)

    def close(self) -> None:
        """Tell the peer, wake who waits here (LocalError there), and let go of everything; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._producer.events.close()
        self._consumer.events.close()
        self._peers_bell.ring()
        self._wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._forget_peer()
        self._bell.close()
        self._peers_bell.close()
        if self._offer is not None:
            os.close(self._offer.fds[0])
            self._offer = None
        del self._producer, self._consumer  # and with the last of their views the mapping goes

    def _refuse(self) -> None:
        if self._closed:
            raise LocalError("the channel is closed")
        raise PeerDiedError("the peer of the channel has ended")


def _second(size: int) -> int:
    """Where the second ring begins: on a cache line of its own."""
    return (size + _LINE - 1) // _LINE * _LINE


def _cpus(peer_pid: int | None) -> set[int]:
    """The CPUs that this process or its peer may use."""
    cpus = os.sched_getaffinity(0)
    if peer_pid is not None:
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            cpus |= os.sched_getaffinity(peer_pid)
    return cpus
