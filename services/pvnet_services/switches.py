"""The switches of a lab, and what is plugged in: venets of partitions, and ports by their text (``switch_ports``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pvnet.core.errors import ConfigError, LocalError
from pvnet.core.machine import Note
from pvnet.net.running_switch import RunningSwitch
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_net import SwitchConfig
from pvnet.vbus.packet import Packet
from pvnet.vbus.switch import SwitchOptions
from pvnet.vbus.venet_south import VenetDevice

PORTS_MAX: Final = 256
"""Most ports of one switch that are no partition's."""
_NEVER: Final = 1 << 30


class OpenPort(Protocol):
    """A port that is not a venet: it has something to close."""

    async def close(self) -> None:
        """Unplug and let go."""


PortOpener = Callable[["HostedSwitch", str], Awaitable[OpenPort]]
"""Opens the port named by a text such as ``tap:NAME`` and plugs it in; raises ConfigError when it cannot."""


class HostedSwitch:
    """One switch of the topology."""

    def __init__(self, config: SwitchConfig, note: Callable[[Note], None], *, loop_guard: bool) -> None:
        self.config = config
        options = SwitchOptions(ageing_s=config.ageing_s, table_size=config.max_addresses)
        if not loop_guard:
            options = SwitchOptions(
                ageing_s=config.ageing_s, table_size=config.max_addresses, probe_interval_s=0.0, flap_limit=_NEVER
            )
        self.running = RunningSwitch(options, on_note=note)
        self.opened: dict[str, OpenPort | None] = {}
        """By the text they were opened with; None while one is being opened."""

    def plug_venet(self, device: VenetDevice) -> None:
        """Connect a venet."""
        plugged = self.running.plug_sink(device.port)
        receive, now = self.running.switch.receive, asyncio.get_running_loop().time

        def receive_from_guest(packets: list[Packet]) -> None:
            receive(plugged, packets, now())

        device.receive = receive_from_guest

    async def close(self) -> None:
        """Close every port."""
        for port in self.opened.values():
            if port is not None:
                await port.close()
        self.opened.clear()
        self.running.close()

    def shown(self) -> dict[str, object]:
        """As plain values."""
        return {
            "name": self.config.name,
            "mtu": self.config.mtu,
            "removable": sorted(self.opened),
            **self.running.shown(),
        }


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

    async def open_configured(self) -> None:
        """Open the ports of the topology.

        Raises:
            ConfigError: one cannot be opened.
        """
        for hosted in self._by_name.values():
            for port in hosted.config.ports:
                await self.add_port(hosted.config.name, port)

    async def add_port(self, name: str, port: str) -> None:
        """Open a port and plug it in.

        Raises:
            ConfigError: no such switch, the port is there already, or cannot be opened.
        """
        hosted = self.switch(name)
        if port in hosted.opened:
            raise ConfigError(f"switch {name} has a port {port} already")
        if len(hosted.opened) >= PORTS_MAX:
            raise ConfigError(f"switch {name} has {PORTS_MAX} ports: expected no more")
        hosted.opened[port] = None
        try:
            hosted.opened[port] = await self._opener(hosted, port)
        except LocalError as error:  # two texts for one port
            raise ConfigError(str(error)) from None
        finally:
            if hosted.opened[port] is None:
                del hosted.opened[port]

    async def remove_port(self, name: str, port: str) -> None:
        """Unplug a port that :meth:`add_port` plugged in.

        Raises:
            ConfigError: there is none.
        """
        hosted = self.switch(name)
        opened = hosted.opened.get(port)
        if opened is None:
            known = ", ".join(hosted.opened) or "none"
            raise ConfigError(f"switch {name} has no port {port!r} that can be removed; there are: {known}")
        del hosted.opened[port]
        await opened.close()

    def only(self) -> str:
        """Return the name of the only switch, or '' when there are several or none."""
        return next(iter(self._by_name)) if len(self._by_name) == 1 else ""

    def unplug_venet(self, device: VenetDevice) -> None:
        """Disconnect a venet, wherever it is connected."""
        for hosted in self._by_name.values():
            hosted.running.unplug(device.port.name)

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
