"""Ports of switches that are no partition's, opened by their text: ``tap:NAME``, ``pcapng:FILE`` and so on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.machine import Note
from pvnet.net.link import ConnectingLink, ListeningLink
from pvnet.net.link_address import LinkOptions, LinkTls, parse_link
from pvnet.net.pcap_port import PcapPort, PcapReplay
from pvnet.net.tap_port import TapPort
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import make_port
from pvnet.runtime.tap import Tap, TapOptions
from pvnet.runtime.topology_net import check_port
from pvnet.vbus.link_codec import LinkHello
from pvnet_services.broker_link import LINK_ACCEPTS, ConnectingBrokerLink, ListeningBrokerLinks, link_node
from pvnet_services.switches import HostedSwitch, OpenPort


class SwitchPorts:
    """Opens ports for the bridge of a lab; ``broker`` is the address of the broker that it uses."""

    def __init__(self, endpoint: Endpoint, broker: str) -> None:
        self._endpoint = endpoint
        self._broker = broker
        self._listening = ListeningBrokerLinks(endpoint)
        self._linked: set[str] = set()
        """Labs where we are a node."""

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
        if not port.isprintable():
            raise ConfigError(f"switch {hosted.config.name}: port {port[:60]!r}: expected printable characters only")
        try:
            match kind:
                case "tap":
                    return self._tap(hosted, rest)
                case "pcapng":
                    return self._capture(hosted, Path(rest))
                case "replay":
                    return self._replay(hosted, port, Path(rest))
                case "broker":
                    return await self._broker_link(hosted, rest)
                case "broker-listen":
                    return self._broker_listen(hosted, rest)
                case _:
                    return await self._link(hosted, port)
        except ConfigError as error:
            raise ConfigError(f"switch {hosted.config.name}: {error}") from None
        except OSError as error:
            raise ConfigError(f"switch {hosted.config.name}: port {port}: {error.strerror or error}") from None

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
            hosted.running.unplug(port.name)
            port.close()

        return OpenPort(port.name, close)

    def _gone(self, hosted: HostedSwitch, name: str) -> None:
        hosted.over(name)
        self._note(Note("port_gone", (("port", name),), "warning"))

    def _capture(self, hosted: HostedSwitch, path: Path) -> OpenPort:
        port = PcapPort(path, note=self._note)
        try:
            hosted.running.plug_sink(port, mirror=True)
        except PvnetError:
            port.close()
            raise

        async def close() -> None:
            hosted.running.unplug(port.name)
            await port.finish()

        return OpenPort(port.name, close, lambda: port.state, port.losses, lambda: port.ended)

    def _replay(self, hosted: HostedSwitch, text: str, path: Path) -> OpenPort:
        port = PcapReplay(path)
        try:
            hosted.running.plug(port)
        except PvnetError:
            port.close()
            raise
        playing = self._endpoint.spawn(self._play(hosted, text, port), "replay")

        async def close() -> None:
            hosted.running.unplug(port.name)
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            port.close()

        return OpenPort(port.name, close)

    async def _play(self, hosted: HostedSwitch, text: str, port: PcapReplay) -> None:
        """Send everything; then the port is no more, and neither are the addresses of its frames."""
        try:
            frames = await port.run()
        except (PvnetError, OSError) as error:
            self._note(Note("replay_ended", (("port", port.name), ("reason", str(error))), "warning"))
        else:
            self._note(Note("replay_ended", (("port", port.name), ("frames", frames)), "info"))
        hosted.over(text)

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
            return OpenPort(str(address), listening.close, lambda: listening.state)
        link = ConnectingLink(address, options, tls)
        hosted.running.plug(link)
        link.on_change = lambda up: None if up else hosted.running.forget(link.name)
        link.start()

        async def close() -> None:
            hosted.running.unplug(link.name)
            await link.close()

        return OpenPort(link.name, close, lambda: link.state)

    def _hello(self, hosted: HostedSwitch) -> LinkHello:
        return LinkHello(self._endpoint.lab, hosted.config.name, hosted.config.mtu, LINK_ACCEPTS)

    async def _broker_link(self, hosted: HostedSwitch, lab: str) -> OpenPort:
        if lab == self._endpoint.lab or not self._broker:
            raise ConfigError(f"broker:{lab}: expected another lab")
        if lab in self._linked:  # we are one node there, whichever of our switches it is for
            raise ConfigError(f"broker:{lab}: a switch of this lab is linked to that lab already")
        name, ours = f"broker:{lab}", self._endpoint.lab
        port = make_port(self._broker, lab, link_node(ours))
        link = ConnectingBrokerLink(port, lab, name, self._hello(hosted), hosted.running, self._note)
        self._linked.add(lab)

        async def close() -> None:
            self._linked.discard(lab)
            await link.close()

        try:
            await link.start()
        except BaseException:
            await close()
            raise
        return OpenPort(name, close, lambda: link.state)

    def _broker_listen(self, hosted: HostedSwitch, lab: str) -> OpenPort:
        if lab == self._endpoint.lab:
            raise ConfigError(f"broker-listen:{lab}: expected another lab")
        link = self._listening.listen(lab, self._hello(hosted), hosted.running, self._note)

        async def close() -> None:
            self._listening.end(link)

        return OpenPort(f"broker-listen:{lab}", close, lambda: f"listening, {int(link.up)} connected")

    def _note(self, note: Note) -> None:
        self._endpoint.note(note)
