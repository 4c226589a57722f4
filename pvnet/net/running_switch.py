"""A switch on an event loop: its timer, its notes, and ports that come with a ``receive`` to be set."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from pvnet.core.machine import Note
from pvnet.runtime.clock import is_virtual
from pvnet.runtime.log import LEVELS
from pvnet.vbus.packet import NetPort, Packet
from pvnet.vbus.switch import VLAN_DEFAULT, Switch, SwitchOptions
from pvnet.vbus.switch_table import SwitchPort

_log = structlog.get_logger()
_LONGEST_WAIT_S: Final = 1.0


class PacketSource(NetPort, Protocol):
    """A port that calls ``receive`` with what came in: venet devices, TAPs, links."""

    receive: Callable[[list[Packet]], None]


class RunningSwitch:
    """Owns a :class:`~pvnet.vbus.switch.Switch` on the running loop.

    ``on_note`` hears its notes; without one they are logged.  On a loop with a time of its own the switch's secret is
    made of ``name`` and that time, so that every run is the same.
    """

    def __init__(
        self, options: SwitchOptions | None = None, *, on_note: Callable[[Note], None] | None = None, name: str = ""
    ) -> None:
        self._loop = asyncio.get_running_loop()
        secret = os.urandom(32)
        if is_virtual(self._loop):
            secret = hashlib.blake2b(f"{name} {self._loop.time()}".encode(), digest_size=32).digest()
        self.switch = Switch(secret, options, note=on_note or _log_note)
        self._plugged: dict[str, SwitchPort] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tick()

    def plug(self, port: PacketSource) -> SwitchPort:
        """Join a port to the switch: from now on its packets are switched.

        Raises:
            LocalError: a port of this name is there.
        """
        plugged = self.plug_sink(port)
        receive, now = self.switch.receive, self._loop.time
        port.receive = lambda packets: receive(plugged, packets, now())
        return plugged

    def plug_sink(self, port: NetPort, *, mirror: bool = False, vlan: int = VLAN_DEFAULT) -> SwitchPort:
        """Join a port that only takes; as a mirror it gets a copy of everything, whatever its VLAN.

        Raises:
            LocalError: a port of this name is there, or no such VLAN can be.
        """
        plugged = self.switch.plug(port, mirror=mirror, vlan=vlan)
        self._plugged[port.name] = plugged
        return plugged

    def unplug(self, name: str) -> bool:
        """Remove the port of this name; whether there was one."""
        plugged = self._plugged.pop(name, None)
        if plugged is None:
            return False
        self.switch.unplug(plugged)
        return True

    def set_vlan(self, name: str, vlan: int) -> None:
        """Put the port of this name into another VLAN, if it is there.

        Raises:
            LocalError: no such VLAN can be.
        """
        if name in self._plugged:
            self.switch.set_vlan(self._plugged[name], vlan)

    def free_name(self, base: str) -> str:
        """Return ``base``, or with ``#2`` and so on what no port is named yet."""
        name, number = base, 1
        while name in self._plugged:
            number += 1
            name = f"{base}#{number}"
        return name

    def forget(self, name: str) -> None:
        """Forget the addresses behind a port: its link went down."""
        if name in self._plugged:
            self.switch.forget(self._plugged[name])

    def shown(self) -> dict[str, object]:
        """Return ports, counters and addresses as plain values."""
        return self.switch.shown(self._loop.time())

    def close(self) -> None:
        """Stop the timer; the ports are the caller's to close."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = self._loop.time()
        self.switch.tick(now)
        due = self.switch.deadline()
        wait = _LONGEST_WAIT_S if due is None else min(_LONGEST_WAIT_S, max(0.01, due - now))
        self._timer = self._loop.call_later(wait, self._tick)


def _log_note(note: Note) -> None:
    fields: dict[str, Any] = dict(note.fields)
    _log.log(LEVELS[note.level], note.event, **fields)
