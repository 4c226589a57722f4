"""Ports of switches that are no partition's, opened by their text: ``tap:NAME``, ``pcapng:FILE`` and so on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note
from pvnet.net.link import ConnectingLink, ListeningLink
from pvnet.net.link_address import LinkOptions, LinkTls, parse_link
from pvnet.net.pcap_port import PcapPort, PcapReplay
from pvnet.net.tap_port import TapPort
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.tap import Tap, TapOptions
from pvnet.runtime.topology_net import check_port
from pvnet.vbus.link_codec import LinkHello
from pvnet_services.broker_link import LINK_ACCEPTS, ConnectingBrokerLink, ListeningBrokerLinks, ListeningPort
from pvnet_services.switches import HostedSwitch, OpenPort

Close = Callable[[], Awaitable[None]]


class _Port:
    """A port that is unplugged by its name, and then closed."""

    def __init__(self, hosted: HostedSwitch, name: str, close: Close) -> None:
        self._hosted = hosted
        self._name = name
        self._close = close

    async def close(self) -> None:
        """Unplug and let go."""
        self._hosted.running.unplug(self._name)
        await self._close()


class SwitchPorts:
    """Opens ports for the bridge of a lab; ``broker`` is the address of the broker that it uses."""

    def __init__(self, endpoint: Endpoint, broker: str) -> None:
        self._endpoint = endpoint
        self._broker = broker
        self._listening = ListeningBrokerLinks(endpoint)

    async def open(self, hosted: HostedSwitch, port: str) -> OpenPort:
        """Open a port and plug it in.

        Raises:
            ConfigError: it is none, or cannot be opened; the text says what would help.
            LocalError: the switch has such a port.
        """
        try:
            kind, _, rest = check_port(port).partition(":")
        except ValueError as error:
            raise ConfigError(f"switch {hosted.config.name}: port {port[:60]!r}: expected {error}") from None
        try:
            match kind:
                case "tap":
                    return self._tap(hosted, rest)
                case "pcapng":
                    return self._capture(hosted, Path(rest))
                case "replay":
                    return self._replay(hosted, Path(rest))
                case "broker":
                    return await self._broker_link(hosted, rest)
                case "broker-listen":
                    return self._broker_listen(hosted, rest)
                case _:
                    return await self._link(hosted, port)
        except ConfigError as error:
            raise ConfigError(f"switch {hosted.config.name}: {error}") from None

    def _tap(self, hosted: HostedSwitch, text: str) -> OpenPort:
        name, _, namespace = text.partition("@")
        tap = Tap(TapOptions(name, namespace=namespace or None, mtu=hosted.config.mtu))
        port = TapPort(tap, name=f"tap:{text}")
        try:
            hosted.running.plug(port)
        except PvnetError:
            tap.close()
            raise
        port.on_gone = lambda: self._gone(hosted, port.name)
        port.start()

        async def close() -> None:
            port.close()

        return _Port(hosted, port.name, close)

    def _gone(self, hosted: HostedSwitch, name: str) -> None:
        hosted.running.unplug(name)
        hosted.opened.pop(name, None)
        self._note(Note("port_gone", (("port", name),), "warning"))

    def _capture(self, hosted: HostedSwitch, path: Path) -> OpenPort:
        port = PcapPort(path, note=self._note)
        hosted.running.plug_sink(port, mirror=True)
        return _Port(hosted, port.name, port.finish)

    def _replay(self, hosted: HostedSwitch, path: Path) -> OpenPort:
        port = PcapReplay(path)
        hosted.running.plug(port)
        playing = self._endpoint.spawn(self._play(port), "replay")

        async def close() -> None:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

        return _Port(hosted, port.name, close)

    async def _play(self, port: PcapReplay) -> None:
        try:
            frames = await port.run()
        except PvnetError as error:
            self._note(Note("replay_ended", (("port", port.name), ("reason", str(error))), "warning"))
        else:
            self._note(Note("replay_ended", (("port", port.name), ("frames", frames)), "info"))

    async def _link(self, hosted: HostedSwitch, text: str) -> OpenPort:
        address = parse_link(text)
        config = hosted.config
        options = LinkOptions(self._endpoint.lab, config.name, config.mtu)
        tls = LinkTls(
            *(None if file is None else Path(file) for file in (config.ca_file, config.cert_file, config.key_file))
        )
        if address.listen:
            listening = ListeningLink(address, options, hosted.running, tls)
            await listening.start()
            return listening
        link = ConnectingLink(address, options, tls)
        hosted.running.plug(link)
        link.on_change = lambda up: None if up else hosted.running.forget(link.name)
        link.start()
        return _Port(hosted, link.name, link.close)

    def _hello(self, hosted: HostedSwitch) -> LinkHello:
        return LinkHello(self._endpoint.lab, hosted.config.name, hosted.config.mtu, LINK_ACCEPTS)

    async def _broker_link(self, hosted: HostedSwitch, lab: str) -> OpenPort:
        if lab == self._endpoint.lab or not self._broker:
            raise ConfigError(f"broker:{lab}: expected another lab")
        link = ConnectingBrokerLink(self._broker, lab, f"broker:{lab}", self._hello(hosted), hosted.running, self._note)
        await link.start()
        return link

    def _broker_listen(self, hosted: HostedSwitch, lab: str) -> OpenPort:
        end = self._listening.listen(lab, f"broker:{lab}", self._hello(hosted), hosted.running, self._note)
        return ListeningPort(end)

    def _note(self, note: Note) -> None:
        self._endpoint.note(note)
