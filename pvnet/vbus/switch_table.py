"""What a switch remembers: its ports with their counters, and behind which of them each address is."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Final

from pvnet.core.machine import Counters
from pvnet.vbus.packet import NetPort

_RENEW_S: Final = 1.0
"""A frame renews its sender's entry at most this often, so that most frames cost a look-up and a comparison."""
_FLAP_WINDOW_S: Final = 1.0


def mac_text(address: bytes) -> str:
    """Return an address as ``02:00:00:00:0a:01``."""
    return address.hex(":")


class SwitchPort:
    """A port as the switch keeps it.  ``number`` counts up in the order of plugging in and is never used again.

    rx is what came from the port into the switch, tx what the switch gave it.
    """

    __slots__ = (
        "_flood_at", "_flood_left", "_flood_limit", "blocked_until", "drops", "mirror", "mute", "name", "net_port",
        "number", "rx_bytes", "rx_packets", "table", "tx_bytes", "tx_packets", "vlan",
    )  # fmt: skip

    def __init__(
        self, net_port: NetPort, number: int, table: AddressTable, *, vlan: int, mirror: bool, flood_limit: int
    ) -> None:
        self.vlan = vlan
        self.table = table
        """Addresses in its VLAN."""
        self.net_port = net_port
        self.name = net_port.name
        self.number = number
        self.mirror = mirror
        self.mute = mirror
        """Nothing is taken from this port: it is a mirror, or it was unplugged."""
        self.blocked_until: float | None = None
        self.rx_packets = self.rx_bytes = self.tx_packets = self.tx_bytes = 0
        self.drops = Counters()
        self._flood_limit = flood_limit
        self._flood_left = float(flood_limit)
        self._flood_at = -inf

    def may_flood(self, now: float) -> bool:
        """Whether one more packet from this port may go to everybody; if so it is counted."""
        if now > self._flood_at:
            refill = (now - self._flood_at) * self._flood_limit
            self._flood_left = min(float(self._flood_limit), self._flood_left + refill)
            self._flood_at = now
        if self._flood_left < 1:
            return False
        self._flood_left -= 1
        return True

    def shown(self, now: float) -> dict[str, object]:
        """Return the port as plain values."""
        blocked_s = None if self.blocked_until is None else round(max(0.0, self.blocked_until - now), 3)
        return {
            "name": self.name,
            "state": "mirror" if self.mirror else "ok" if blocked_s is None else f"blocked, {blocked_s:.0f} s",
            "mtu": self.net_port.mtu,
            "mirror": self.mirror,
            "vlan": None if self.mirror else self.vlan,
            "rx_packets": self.rx_packets,
            "rx_bytes": self.rx_bytes,
            "tx_packets": self.tx_packets,
            "tx_bytes": self.tx_bytes,
            "drops": {str(reason): count for reason, count in sorted(self.drops.items())},
            "blocked_s": blocked_s,
        }


UNPLUGGED: Final = {
    "state": "not plugged in", "mirror": False, "rx_packets": 0, "rx_bytes": 0, "tx_packets": 0, "tx_bytes": 0,
    "blocked_s": None, "vlan": 1,
}  # fmt: skip
"""What :meth:`SwitchPort.shown` would say of a port that is not plugged in, without its name and its MTU."""


class _Entry:
    __slots__ = ("held_until", "home", "moves", "port", "renew_at", "seen", "window_ends")

    def __init__(self, port: SwitchPort, now: float) -> None:
        self.port = port
        self.seen = now
        self.renew_at = now + _RENEW_S
        # Moves within the current window, and the port where the address was when the window began.
        self.window_ends = 0.0
        self.moves = 0
        self.home = port
        self.held_until = 0.0


class AddressTable:
    """Address → port, with ageing and a bound.  ``entries`` is in the order of the last renewal, oldest first."""

    def __init__(self, ageing_s: float, size: int) -> None:
        self.entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.ageing_s = ageing_s
        self.size = size
        self.moves = 0
        self.evicted = 0
        self.sweep_at = inf
        self.newly_held: tuple[SwitchPort, SwitchPort] | None = None

    def learn(self, address: bytes, port: SwitchPort, now: float, flap_limit: int, hold_s: float) -> bool:
        """Note that ``address`` sent from ``port``; ``False`` if it is held elsewhere because it kept moving.

        When holding has just begun, ``newly_held`` is the port where it is held and the other one.
        """
        entry = self.entries.get(address)
        if entry is None:
            if len(self.entries) >= self.size:
                self.entries.popitem(last=False)
                self.evicted += 1
            self.entries[address] = _Entry(port, now)
            self.sweep_at = min(self.sweep_at, now + self.ageing_s)
            return True
        if entry.port is not port and not self._move(entry, port, now, flap_limit, hold_s):
            return False
        entry.seen = now
        entry.renew_at = now + _RENEW_S
        self.entries.move_to_end(address)
        return True

    def _move(self, entry: _Entry, port: SwitchPort, now: float, flap_limit: int, hold_s: float) -> bool:
        if now < entry.held_until:
            return False
        self.moves += 1
        if now >= entry.window_ends:
            entry.window_ends = now + _FLAP_WINDOW_S
            entry.moves = 0
            entry.home = entry.port
        entry.moves += 1
        if entry.moves > flap_limit:
            other = entry.port if port is entry.home else port
            entry.held_until = now + hold_s
            entry.port = entry.home
            self.newly_held = (entry.home, other)
            return port is entry.home
        entry.port = port
        return True

    def sweep(self, now: float) -> None:
        """Forget what is too old."""
        while self.entries:
            expires = next(iter(self.entries.values())).seen + self.ageing_s
            if now < expires:
                self.sweep_at = expires
                return
            self.entries.popitem(last=False)
        self.sweep_at = inf

    def forget(self, port: SwitchPort) -> None:
        """Forget every address behind ``port``, also as the place where one is held."""
        for address, entry in list(self.entries.items()):
            if entry.port is port or entry.home is port:
                del self.entries[address]

    def shown(self, now: float) -> list[dict[str, object]]:
        """Return the table as plain values, the most recent address first."""
        return [
            {
                "address": mac_text(address),
                "port": entry.port.name,
                "vlan": entry.port.vlan,
                "age_s": round(max(0.0, now - entry.seen), 3),
            }
            for address, entry in reversed(self.entries.items())
        ]
