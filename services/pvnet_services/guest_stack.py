"""A partition's built-in network: for a venet that is no TAP.

It answers ARP, ICMP echo and UDP echo (:mod:`pvnet.vbus.responder`), and sends echo requests when a management command
asks it to.  What does not fit into the transmit ring waits in a bounded queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from pvnet.core.errors import ConfigError, RefusedError
from pvnet.core.machine import Counters
from pvnet.pb.v1.management_pb2 import NetPing
from pvnet.runtime.clock import fine_clock
from pvnet.vbus.inet import PROTOCOL_ICMP
from pvnet.vbus.packet import Packet, packet_of
from pvnet.vbus.ping import Ping, PingResult
from pvnet.vbus.responder import Responder, ResponderOptions
from pvnet.vbus.venet_north import VenetNorth

_QUEUE: Final = 4096
"""Frames that may wait for the transmit ring."""
_UNRESOLVED: Final = 64
"""Packets that may wait until a neighbour has said where it is; over a broker that takes a while."""
_PINGS: Final = 64
"""Ping commands at a time."""


class GuestStack:
    """The stack of one venet; ``turn()`` makes the bridge carry out what was sent."""

    def __init__(self, venet: VenetNorth, address: IPv4Interface, turn: Callable[[], None]) -> None:
        self.counters = Counters()
        self.responder = Responder(venet.mac, address, ResponderOptions(mtu=venet.mtu, waiting_per_address=_UNRESOLVED))
        self.responder.on_icmp = self._icmp
        self._venet = venet
        self._turn = turn
        self._in_turn = False
        self._loop = asyncio.get_running_loop()
        self._clock = fine_clock(self._loop)
        self._waiting: deque[bytes] = deque()
        self._identifier = 0
        self._pings: dict[int, tuple[Ping, asyncio.Future[PingResult]]] = {}
        self._targets: dict[int, IPv4Address] = {}
        self._timer: asyncio.TimerHandle | None = None
        venet.on_frames = self._frames
        venet.on_writable = self._send
        venet.on_link = self._link
        self._link(venet.link)

    @property
    def address(self) -> IPv4Interface:
        """Our address and network."""
        return self.responder.address

    def close(self) -> None:
        """The venet is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, done in self._pings.values():
            if not done.done():
                done.set_exception(RefusedError("the virtual Ethernet has gone"))
        self._pings.clear()
        self._waiting.clear()

    # --- frames ------------------------------------------------------------------------------------------------------

    def _frames(self, packets: list[Packet]) -> None:
        self._in_turn = True  # the bridge's: what is sent now goes with it
        try:
            self._queue(self.responder.receive(packets, self._clock()))
        finally:
            self._in_turn = False

    def _link(self, up: bool) -> None:
        if up:
            self._queue(self.responder.announce())

    def _queue(self, frames: list[bytes]) -> None:
        room = _QUEUE - len(self._waiting)
        if len(frames) > room:
            self.counters["queue_full"] += len(frames) - room
        self._waiting.extend(frames[:room])
        self._send()
        if not self._in_turn:
            self._turn()
        self._arm()

    def _send(self) -> None:
        while self._waiting:
            batch = [packet_of(self._waiting[i]) for i in range(min(len(self._waiting), 64))]
            sent = self._venet.send(batch)
            for _ in range(sent):
                self._waiting.popleft()
            if sent < len(batch):
                if not self._venet.link:
                    self._waiting.clear()
                return

    # --- echo requests -----------------------------------------------------------------------------------------------

    async def ping(self, command: NetPing) -> PingResult:
        """Send echo requests and wait for what comes of them.

        Raises:
            ConfigError: not an address of our network, or numbers out of range.
            RefusedError: too many pings at a time, or the venet goes away.
        """
        try:
            target = IPv4Address(command.address)
        except ValueError:
            raise ConfigError(f"address {command.address[:60]!r}: expected an IPv4 address") from None
        if target not in self.address.network or target == self.address.ip:
            raise ConfigError(f"address {target}: expected another one of {self.address.network}")
        most = self._venet.mtu - 28
        if not 1 <= command.count <= 0xFFFF or command.payload_bytes > most:
            raise ConfigError(
                f"{command.count} requests of {command.payload_bytes} bytes: expected at most {most} bytes"
            )
        if len(self._pings) >= _PINGS:
            raise RefusedError(f"{_PINGS} pings are under way")
        self._identifier = next(i for i in _identifiers_after(self._identifier) if i not in self._pings)
        identifier = self._identifier
        ping = Ping(
            identifier=identifier,
            count=command.count,
            size=command.payload_bytes,
            interval_s=command.interval_ms / 1000,
            timeout_s=max(command.timeout_ms, 1) / 1000,
        )
        done: asyncio.Future[PingResult] = self._loop.create_future()
        self._pings[identifier] = (ping, done)
        self._targets[identifier] = target
        self._advance()
        try:
            return await done
        finally:
            self._pings.pop(identifier, None)
            self._targets.pop(identifier, None)

    def _icmp(self, sender: IPv4Address, message: bytes, now: float) -> None:
        for identifier, (ping, _) in self._pings.items():
            if sender == self._targets.get(identifier) and ping.reply(message, now):
                self._loop.call_soon(self._advance)
                return

    def _advance(self) -> None:
        """Send what is due and tell who is done."""
        now = self._clock()
        for identifier, (ping, done) in list(self._pings.items()):
            target = self._targets[identifier]
            for message in ping.poll(now):
                self._queue(self.responder.send(target, PROTOCOL_ICMP, message, now))
            if ping.done and not done.done():
                done.set_result(ping.result())
        self._arm()

    # --- time --------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        due = [
            at for at in (self.responder.deadline(), *(p.deadline() for p, _ in self._pings.values())) if at is not None
        ]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due:
            self._timer = self._loop.call_later(max(0.0, min(due) - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock()
        if self.responder.deadline() is not None:
            self._queue(self.responder.tick(now))
        self._advance()

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        return {
            "address": str(self.address),
            "neighbours": self.responder.neighbours(),
            "counters": {**self.responder.counters, **self.counters},
        }


def _identifiers_after(last: int) -> Iterator[int]:
    """All identifiers of echo requests, each once, those that were not used for longest first."""
    return ((last + step) & 0xFFFF for step in range(1, 0x10001))
