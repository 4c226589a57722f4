"""The networks of a partition: one venet driver for all its virtual Ethernets, and what each is joined to.

A venet of the topology is joined to a TAP if it says so, else to the built-in stack.  Which of them a device is, its
MAC address says; one that the topology does not have (made while the lab runs) goes up and its frames go nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Interface

from pvnet.core.errors import ConfigError, PvnetError, RefusedError, UnavailableError
from pvnet.core.machine import Note
from pvnet.pb.v1.management_pb2 import NetPing, VbusDevcall
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.tap import Tap, TapOptions
from pvnet.runtime.topology import Topology
from pvnet.runtime.topology_net import VenetConfig
from pvnet.vbus.north_driver import NorthDriver, ProxyDevice, Steps
from pvnet.vbus.packet import ETHERNET_HEADER, MAX_PACKET
from pvnet.vbus.venet_layout import VENET_TYPE
from pvnet.vbus.venet_north import VenetNorth, VenetNorthConfig
from pvnet_services.guest_raw import load_drivers, raw_devcall
from pvnet_services.guest_stack import GuestStack
from pvnet_services.guest_tap import GuestTap
from pvnet_services.vbus_guest import VbusGuest

_PAGE = 4096
_EXTRA_BYTES = 1 << 18
"""For the bridge's own structures, and for devices that the topology does not have."""
_PAGES_OF_RECEIVE = 64
_PAGE_BYTES = 65536
_BUFFERS_COPIED = 32
"""Buffers of each direction where the arena is kept in two copies: every look for changes costs its size."""


class _Configured:
    """A venet of the topology."""

    def __init__(self, config: VenetConfig, mac: bytes, mtu: int) -> None:
        self.config = config
        self.mac = mac
        self.mtu = mtu
        self.tap: GuestTap | None = None
        self.stack: GuestStack | None = None
        self.venet: VenetNorth | None = None

    def north_config(self, *, shared: bool) -> VenetNorthConfig:
        """How its venet is used; without shared memory with few buffers, and frames of the MTU."""
        config = self.config
        if not shared:
            ring = min(config.ring, _BUFFERS_COPIED)
            return VenetNorthConfig(
                rx_ring=ring,
                tx_ring=ring,
                event_ring=ring,
                sg=0,
                l4ro=0,
                mtu=self.mtu,
                ring_2026=config.ring_layout == "2026",
            )
        offered = VenetNorthConfig()
        return VenetNorthConfig(
            rx_ring=config.ring,
            tx_ring=config.ring,
            mtu=self.mtu,
            pages=_PAGES_OF_RECEIVE,
            page_bytes=_PAGE_BYTES,
            ring_2026=config.ring_layout == "2026",
            sg=offered.sg if config.offloads else 0,
            l4ro=offered.l4ro if config.offloads else 0,
        )

    def arena_bytes(self, *, shared: bool) -> int:
        """Memory that it needs at most."""
        frame = -(-(self.mtu + ETHERNET_HEADER + 4) // 64) * 64
        rings = self.config.ring
        if not shared:
            return 3 * min(rings, _BUFFERS_COPIED) * (frame + 512)
        return rings * (frame + 512) + min(64, rings) * (MAX_PACKET + 512) + _PAGES_OF_RECEIVE * (_PAGE_BYTES + 512)


class GuestNet:
    """See the module's text; implements the :class:`~pvnet.vbus.north_driver.NorthDriver` of all venets."""

    def __init__(self, endpoint: Endpoint, topology: Topology, name: str) -> None:
        self._endpoint = endpoint
        partition = topology.partition(name)
        mtus = {switch.name: switch.mtu for switch in topology.switches}
        self.configured = [
            _Configured(venet, bytes.fromhex(topology.venet_mac(partition, n).replace(":", "")), mtus[venet.switch])
            for n, venet in enumerate(partition.venet)
        ]
        self._probed: dict[int, VenetNorth] = {}
        self._joined = asyncio.Event()
        self.guest = VbusGuest(endpoint, self._arena_bytes, self._drivers, self._detached)
        self._shared = False

    def _arena_bytes(self, *, shared: bool) -> int:
        needed = _EXTRA_BYTES + sum(each.arena_bytes(shared=shared) for each in self.configured)
        return -(-needed // _PAGE) * _PAGE

    def open_taps(self) -> None:
        """Make the TAPs; where that is not permitted, say so: the built-in stack takes their place.

        Raises:
            ConfigError: one cannot be had for another reason.
        """
        for number, each in enumerate(self.configured):
            config = each.config
            if config.tap is None:
                continue
            try:
                tap = Tap(
                    TapOptions(
                        config.tap,
                        namespace=config.netns,
                        offloads=config.offloads,
                        mtu=each.mtu,
                        mac=each.mac,
                        addresses=() if config.address is None else (config.address,),
                    )
                )
            except UnavailableError as error:
                self._endpoint.note(Note("tap_unavailable", (("venet", number), ("reason", str(error))), "warning"))
                continue
            except ConfigError as error:
                raise ConfigError(f"{self._endpoint.name}: venet[{number}]: {error}") from None
            each.tap = GuestTap(tap)

    async def settled(self, timeout: float) -> None:
        """Wait until every venet is up, or for ``timeout`` seconds: a partition serves without its network, too."""
        try:
            async with asyncio.timeout(timeout):
                await self.guest.settled(timeout)
                if self.configured and self.guest.attachment is not None:
                    await self._joined.wait()
        except TimeoutError:
            self._endpoint.note(Note("network_not_up", (("waited_s", int(timeout)),), "warning"))

    async def stop(self, timeout: float) -> None:
        """Take the venets down in good order, then let go of the TAPs."""
        await self.guest.stop(timeout)
        self.close()

    def close(self) -> None:
        """Let go of the TAPs."""
        for each in self.configured:
            if each.tap is not None:
                each.tap.close()

    # --- the driver --------------------------------------------------------------------------------------------------

    def _drivers(self, *, shared: bool) -> Mapping[str, NorthDriver]:
        self._shared = shared
        return {**load_drivers(self._driver_failed), VENET_TYPE: self}

    def _driver_failed(self, name: str, why: str) -> None:
        self._endpoint.note(Note("driver_failed", (("driver", name), ("reason", why)), "warning"))

    def probe(self, device: ProxyDevice) -> Steps:
        """Bring a venet up and join it to what the topology says."""
        free = next((each for each in self.configured if each.venet is None), None)
        config = (
            free.north_config(shared=self._shared)
            if free is not None
            else VenetNorthConfig(rx_ring=32, tx_ring=32, sg=0, l4ro=0)
        )
        venet = VenetNorth(config)
        self._probed[device.id] = venet  # first: when the bring-up fails, remove() gives back what the host still has
        yield from venet.probe(device)
        joined = next((each for each in self.configured if each.mac == venet.mac and each.venet is None), None)
        if joined is not None:
            self._join(joined, venet)

    def remove(self, device: ProxyDevice) -> Steps:
        """Take a venet down."""
        venet = self._probed.pop(device.id, None)
        if venet is not None:
            self._part(venet)
            yield from venet.remove(device)

    def _join(self, joined: _Configured, venet: VenetNorth) -> None:
        joined.venet = venet
        if joined.tap is not None:
            joined.tap.use(venet, self._turn)
        elif joined.config.address is not None:
            joined.stack = GuestStack(venet, IPv4Interface(joined.config.address), self._turn)
        if all(each.venet is not None for each in self.configured):
            self._joined.set()
        self._endpoint.note(Note("venet_up", (("mac", venet.mac.hex(":")), ("accepts", venet.accepts)), "info"))

    def _part(self, venet: VenetNorth) -> None:
        for each in self.configured:
            if each.venet is venet:
                each.venet = None
                if each.tap is not None:
                    each.tap.release()
                if each.stack is not None:
                    each.stack.close()
                    each.stack = None

    def _detached(self) -> None:
        """The attachment is over, removed in order or not."""
        for venet in list(self._probed.values()):
            self._part(venet)
        self._probed.clear()

    def _turn(self) -> None:
        attachment = self.guest.attachment
        if attachment is not None:
            attachment.sent()

    # --- commands ----------------------------------------------------------------------------------------------------

    async def ping(self, command: NetPing) -> dict[str, object]:
        """Send echo requests from the built-in stack of the network that the address belongs to.

        Raises:
            ConfigError: no built-in stack has it as a neighbour.  RefusedError: see ``GuestStack.ping``.
        """
        stacks = [each.stack for each in self.configured if each.stack is not None]
        if not stacks:
            raise RefusedError(f"{self._endpoint.name} has no built-in network that is up")
        failure: PvnetError | None = None
        for stack in stacks:
            try:
                result = await stack.ping(command)
            except ConfigError as error:
                failure = failure or error
                continue
            times = {"min": result.min_s, "avg": result.avg_s, "max": result.max_s} if result.received else None
            return {
                "sent": result.sent,
                "received": result.received,
                "duplicates": result.duplicates,
                "corrupt": result.corrupt,
                "round_trip_s": times,
            }
        assert failure is not None
        raise failure

    async def devcall(self, command: VbusDevcall) -> dict[str, object]:
        """Make one devcall to a device that no driver of this partition has.

        Raises:
            RefusedError: no such device, it has a driver, or the host refused (with the errno of the original).
        """
        attachment = self.guest.attachment
        if attachment is None:
            raise RefusedError(f"{self._endpoint.name} is on no bus")
        return await raw_devcall(attachment.machine, command, attachment.run)

    def shown(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        attachment = self.guest.attachment
        return {
            "bridge": None if attachment is None else attachment.shown(),
            "interfaces": [
                {
                    "mac": each.mac.hex(":"),
                    "link": each.venet is not None and each.venet.link,
                    "counters": {} if each.venet is None else dict(each.venet.counters),
                    **({} if each.tap is None else each.tap.shown()),
                    **({} if each.stack is None else each.stack.shown()),
                }
                for each in self.configured
            ],
        }
