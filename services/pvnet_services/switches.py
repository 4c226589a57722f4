"""The switches of a lab, and what is plugged in: venets of partitions, and ports by their text (``switch_ports``)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pvnet.core.errors import ConfigError, LocalError
from pvnet.core.machine import Note
from pvnet.net.running_switch import RunningSwitch
from pvnet.runtime.snoop import split_snoop
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_net import SwitchConfig
from pvnet.vbus.packet import Packet
from pvnet.vbus.switch import VLAN_DEFAULT, SwitchOptions
from pvnet.vbus.switch_table import UNPLUGGED
from pvnet.vbus.venet_south import VenetDevice

PORTS_MAX: Final = 256
"""Most ports of one switch that are no partition's."""
_NEVER: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port that is not a venet.  ``name`` is its name in the switch, where it is plugged in if it is there."""

    name: str
    close: Callable[[], Awaitable[None]]
    """Unplugs it and lets go."""
    state: Callable[[], str] = lambda: ""
    """How it is, such as ``down (Connection refused)``; '' for as the switch sees it."""
    losses: Callable[[], Mapping[str, int]] = dict
    """What it took from the switch and lost nevertheless, by reason."""
    is_over: Callable[[], bool] = lambda: False
    """Whether nothing will come of it any more, so that another may take its place."""


PortOpener = Callable[["HostedSwitch", str], Awaitable[OpenPort]]
"""Opens the port named by a text such as ``tap:NAME`` and plugs it in; raises ConfigError when it cannot."""


class HostedSwitch:
    """One switch of the topology."""

    def __init__(self, config: SwitchConfig, note: Callable[[Note], None], *, loop_guard: bool) -> None:
        self.config = config
        self.closed = False
        options = SwitchOptions(ageing_s=config.ageing_s, table_size=config.max_addresses)
        if not loop_guard:
            options = SwitchOptions(
                ageing_s=config.ageing_s, table_size=config.max_addresses, probe_interval_s=0.0, flap_limit=_NEVER
            )

        def noted(note_: Note) -> None:
            note(Note(note_.event, (("switch", config.name), *note_.fields), note_.level))

        self.running = RunningSwitch(options, on_note=noted, name=config.name)
        self.venets: set[str] = set()
        """Names of the venets that are plugged in."""
        self.opened: dict[str, OpenPort | None] = {}
        """By the text they were opened with; None while one is being opened."""

    def plug_venet(self, device: VenetDevice, vlan: int = VLAN_DEFAULT) -> None:
        """Connect a venet."""
        plugged = self.running.plug_sink(device.port, vlan=vlan)
        self.venets.add(device.port.name)
        receive, now = self.running.switch.receive, asyncio.get_running_loop().time

        def receive_from_guest(packets: list[Packet]) -> None:
            receive(plugged, packets, now())

        device.receive = receive_from_guest

    async def close(self) -> None:
        """Close every port; one that is just being opened is closed by whoever opens it."""
        self.closed = True
        while self.opened:  # they may end by themselves meanwhile
            _, port = self.opened.popitem()
            if port is not None:
                await port.close()
        self.running.close()

    def over(self, text: str) -> None:
        """Forget a port that has ended by itself."""
        port = self.opened.pop(text, None)
        if port is not None:
            self.running.unplug(port.name)

    def shown(self) -> dict[str, object]:
        """As plain values; listeners and links that are down stand among the ports."""
        shown = self.running.shown()
        ports: list[dict[str, Any]] = shown["ports"]  # type: ignore[assignment]
        plugged = {port["name"]: port for port in ports}
        for opened in self.opened.values():
            if opened is None:
                continue
            port = plugged.get(opened.name)
            if port is None:
                ports.append(port := {**UNPLUGGED, "name": opened.name, "mtu": self.config.mtu, "drops": {}})
            port["state"] = opened.state() or port["state"]
            for reason, count in opened.losses().items():
                port["drops"][reason] = port["drops"].get(reason, 0) + count
        return {"name": self.config.name, "mtu": self.config.mtu, "removable": sorted(self.opened), **shown}


class Switches:
    """All switches of a lab."""

    def __init__(self, topology: Topology, note: Callable[[Note], None], opener: PortOpener) -> None:
        self._guard = topology.bridge.loop_guard
        self._note = note
        self._opener = opener
        self._by_name = {config.name: self._hosted(config) for config in topology.switches}
        self.on_added: list[Callable[[HostedSwitch], None]] = []
        """Told each switch that comes later."""

    def _hosted(self, config: SwitchConfig) -> HostedSwitch:
        return HostedSwitch(config, self._note, loop_guard=self._guard)

    async def add(self, config: SwitchConfig) -> None:
        """Make a switch and open its ports.

        Raises:
            ConfigError: one cannot be opened; there is no such switch then.
        """
        hosted = self._by_name[config.name] = self._hosted(config)
        try:
            for port in config.ports:
                await self.add_port(config.name, port)
        except BaseException:
            await self.remove(config.name)
            raise
        for added in self.on_added:
            added(hosted)

    async def remove(self, name: str) -> None:
        """Close a switch, and its ports.

        Raises:
            ConfigError: there is none of that name.
        """
        hosted = self.switch(name)
        del self._by_name[name]
        await hosted.close()

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

    def all(self) -> list[HostedSwitch]:
        """Return every switch."""
        return list(self._by_name.values())

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
        text, port = port, split_snoop(port)[0]  # one port, recorded or not
        there = hosted.opened.get(port)
        if there is not None and there.is_over():
            await self.remove_port(name, port)
        if port in hosted.opened:
            raise ConfigError(f"switch {name} has a port {port} already")
        if len(hosted.opened) >= PORTS_MAX:
            raise ConfigError(f"switch {name} has {PORTS_MAX} ports: expected no more")
        hosted.opened[port] = None
        try:
            opened = await self._opener(hosted, text)
        except LocalError as error:  # two texts for one port
            raise ConfigError(str(error)) from None
        else:
            if hosted.closed:
                await opened.close()
                raise ConfigError(f"switch {name}: port {port}: the bridge is ending")
            hosted.opened[port] = opened
        finally:
            if hosted.opened.get(port) is None:
                hosted.opened.pop(port, None)

    async def remove_port(self, name: str, port: str) -> None:
        """Unplug a port that :meth:`add_port` plugged in.

        Raises:
            ConfigError: there is none.
        """
        hosted = self.switch(name)
        port = split_snoop(port)[0]
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
            hosted.venets.discard(device.port.name)

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
