"""The switches of a lab, with the clock that they need, and what is plugged into them.

A :class:`~pvnet.vbus.switch.Switch` is pure; this gives it ticks, plugs the venets of partitions in, and opens and
closes the other ports (``switch_ports``).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Protocol

from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_net import SwitchConfig
from pvnet.vbus.packet import Packet
from pvnet.vbus.switch import Switch, SwitchOptions
from pvnet.vbus.switch_table import SwitchPort
from pvnet.vbus.venet_south import VenetDevice

PORTS_MAX: Final = 256
"""Most ports of one switch that are no partition's."""
_SECRET_BYTES: Final = 16


class OpenPort(Protocol):
    """A port that is not a venet: it has something to close."""

    async def close(self) -> None:
        """Unplug and let go."""


PortOpener = Callable[["HostedSwitch", str], OpenPort]
"""Opens the port named by a text such as ``tap:NAME`` and plugs it in; raises ConfigError when it cannot."""


class HostedSwitch:
    """One switch."""

    def __init__(self, config: SwitchConfig, note: Callable[[Note], None], *, loop_guard: bool) -> None:
        self.config = config
        probes = {} if loop_guard else {"probe_interval_s": 0.0, "flap_limit": 1 << 30}
        options = SwitchOptions(ageing_s=config.ageing_s, table_size=config.max_addresses, **probes)  # type: ignore[arg-type]
        self.switch = Switch(secrets.token_bytes(_SECRET_BYTES), options, note=note)
        self.opened: dict[str, OpenPort] = {}
        self._plugged: dict[VenetDevice, SwitchPort] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def plug_venet(self, device: VenetDevice) -> None:
        """Connect a venet."""
        port = self._plugged[device] = self.switch.plug(device.port)
        switch, loop = self.switch, self._loop

        def receive(packets: list[Packet]) -> None:
            switch.receive(port, packets, loop.time())

        device.receive = receive
        self._arm()

    def unplug_venet(self, device: VenetDevice) -> bool:
        """Disconnect a venet; whether it was connected here."""
        port = self._plugged.pop(device, None)
        if port is None:
            return False
        self.switch.unplug(port)
        return True

    def _arm(self) -> None:
        if self._timer is None:
            due = self.switch.deadline()
            if due is not None:
                self._timer = self._loop.call_at(max(due, self._loop.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.switch.tick(self._loop.time())
        self._arm()

    async def close(self) -> None:
        """Close every port."""
        if self._timer is not None:
            self._timer.cancel()
        for port in list(self.opened.values()):
            await port.close()
        self.opened.clear()

    def shown(self) -> dict[str, object]:
        """As plain values."""
        return {"name": self.config.name, "mtu": self.config.mtu, **self.switch.shown(self._loop.time())}


class Switches:
    """All switches of a lab."""

    def __init__(self, topology: Topology, note: Callable[[Note], None], opener: PortOpener) -> None:
        guard = topology.bridge.loop_guard
        self._by_name = {c.name: HostedSwitch(c, note, loop_guard=guard) for c in topology.switches}
        self._opener = opener

    def switch(self, name: str) -> HostedSwitch:
        """Return a switch.

        Raises:
            ConfigError: there is none of that name.
        """
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(self._by_name) or "none"
            raise ConfigError(f"no switch {name!r}; there are: {known}") from None

    def open_configured(self) -> None:
        """Open the ports of the topology.

        Raises:
            ConfigError: one cannot be opened.
        """
        for hosted in self._by_name.values():
            for port in hosted.config.ports:
                self.add_port(hosted.config.name, port)

    def add_port(self, name: str, port: str) -> None:
        """Open a port and plug it in.

        Raises:
            ConfigError: no such switch, the port is there already, or cannot be opened.
        """
        hosted = self.switch(name)
        if port in hosted.opened:
            raise ConfigError(f"switch {name} has a port {port} already")
        if len(hosted.opened) >= PORTS_MAX:
            raise ConfigError(f"switch {name} has {PORTS_MAX} ports: expected no more")
        hosted.opened[port] = self._opener(hosted, port)

    async def remove_port(self, name: str, port: str) -> None:
        """Unplug a port that :meth:`add_port` plugged in.

        Raises:
            ConfigError: there is none.
        """
        opened = self.switch(name).opened.pop(port, None)
        if opened is None:
            known = ", ".join(self.switch(name).opened) or "none"
            raise ConfigError(f"switch {name} has no port {port!r} that can be removed; there are: {known}")
        await opened.close()

    def only(self) -> str:
        """Return the name of the only switch, or '' when there are several or none."""
        return next(iter(self._by_name)) if len(self._by_name) == 1 else ""

    def unplug_venet(self, device: VenetDevice) -> None:
        """Disconnect a venet, wherever it is connected."""
        for hosted in self._by_name.values():
            if hosted.unplug_venet(device):
                return

    async def close(self) -> None:
        """Close everything."""
        for hosted in self._by_name.values():
            await hosted.close()

    def shown(self, name: str = "") -> list[dict[str, object]]:
        """Return one switch, or all, as plain values.

        Raises:
            ConfigError: there is none of that name.
        """
        return [self.switch(name).shown()] if name else [hosted.shown() for hosted in self._by_name.values()]
