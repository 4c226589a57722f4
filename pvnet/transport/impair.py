"""Faults on demand over any transport: a port that loses, repeats, delays and reorders the frames it sends.

The same seeded dice as the loopback network's (``transport.loopback``), so that what a test showed there can be made to
happen between real processes over a real broker.  Only frames are touched: states are the broker's.  Impairing what a
node sends is enough to break one direction; impair both ends for both.  Around a port with direct paths
(``transport.unix``) the frames on these are impaired too; file descriptors are not.
"""

from __future__ import annotations

import asyncio

from pvnet.core.names import NodeName
from pvnet.transport.base import Channel, Direct, Port, PortHandler
from pvnet.transport.loopback import FaultDice, Faults


class ImpairedPort:
    """A :class:`~pvnet.transport.base.Port` around another one."""

    def __init__(self, port: Port, faults: Faults, seed: int) -> None:
        self.dice = FaultDice(faults, seed)
        self._port = port
        self._late: set[asyncio.TimerHandle] = set()

    @property
    def direct(self) -> Direct | None:
        """That of the port inside."""
        return self._port.direct

    async def open(self, handler: PortHandler, *, timeout: float) -> None:
        """Open the port inside."""
        await self._port.open(handler, timeout=timeout)

    def impair(self, faults: Faults) -> None:
        """Change the faults from now on; what is under way stays as late as it is."""
        self.dice.faults = faults

    def send(self, destination: NodeName, channel: Channel, payload: bytes) -> None:
        """Send as many copies as the dice say, as late as they say."""
        for delay in self.dice.copies():
            if delay > 0:
                self._send_later(delay, destination, channel, payload)
            else:
                self._port.send(destination, channel, payload)

    def _send_later(self, delay: float, destination: NodeName, channel: Channel, payload: bytes) -> None:
        def send() -> None:
            self._late.discard(timer)
            self._port.send(destination, channel, payload)

        timer = asyncio.get_running_loop().call_later(delay, send)
        self._late.add(timer)

    def watch(self, node: NodeName) -> None:
        """Pass on to the port inside."""
        self._port.watch(node)

    def unwatch(self, node: NodeName) -> None:
        """Pass on to the port inside."""
        self._port.unwatch(node)

    def set_state(self, payload: bytes) -> None:
        """Pass on to the port inside: states are not impaired."""
        self._port.set_state(payload)

    async def close(self, last_state: bytes | None, *, forget: bool = False) -> None:
        """Lose what is late, and close the port inside."""
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        await self._port.close(last_state, forget=forget)
