"""The networks of a partition: one venet driver for all its virtual Ethernets, and what each is joined to.

A venet of the topology is joined to a TAP if it says so, else to the built-in stack.  Which of them a device is, its
MAC address says, which is asked for before anything else; one that the topology does not have (made while the lab runs)
goes up and its frames go nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface

from pvnet.core.errors import ConfigError, RefusedError, UnavailableError
from pvnet.core.machine import Note
from pvnet.pb.v1.management_pb2 import NetPing, VbusDevcall
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.tap import Tap, TapOptions
from pvnet.runtime.topology import Topology
from pvnet.vbus.north_driver import NorthDriver, ProxyDevice, Steps
from pvnet.vbus.venet_layout import VENET_TYPE
from pvnet.vbus.venet_north import VenetNorth, VenetNorthConfig
from pvnet_services.guest_raw import load_drivers, raw_devcall
from pvnet_services.guest_stack import GuestStack
from pvnet_services.guest_tap import GuestTap
from pvnet_services.guest_venets import UNKNOWN, PlannedVenet, arena_bytes, north_configs, query_mac
from pvnet_services.vbus_guest import VbusGuest


class _Network:
    """A venet of the topology, and what it is joined to."""

    def __init__(self, plan: PlannedVenet) -> None:
        self.plan = plan
        self.tap: GuestTap | None = None
        self.stack: GuestStack | None = None
        self.device: int | None = None
        """Id of the device that is it, from the moment that its MAC address is known."""
        self.venet: VenetNorth | None = None
        """That device, once it is up."""


class GuestNet:
    """See the module's text; implements the :class:`~pvnet.vbus.north_driver.NorthDriver` of all venets."""

    def __init__(self, endpoint: Endpoint, topology: Topology, name: str) -> None:
        self._endpoint = endpoint
        partition = topology.partition(name)
        mtus = {switch.name: switch.mtu for switch in topology.switches}
        self.configured = [
            _Network(
                PlannedVenet(
                    venet, bytes.fromhex(topology.venet_mac(partition, n).replace(":", "")), mtus[venet.switch]
                )
            )
            for n, venet in enumerate(partition.venet)
        ]
        self._plans = [each.plan for each in self.configured]
        self._north_configs: list[VenetNorthConfig] = []
        self._probed: dict[int, VenetNorth] = {}
        self._joined = asyncio.Event()
        self.guest = VbusGuest(endpoint, self._arena_bytes, self._drivers, self._detached)
        self._reduced: set[int] = set()

    def _arena_bytes(self, *, shared: bool) -> int:
        return arena_bytes(self._plans, shared=shared)

    def open_taps(self) -> None:
        """Make the TAPs; where that is not permitted, say so: the built-in stack takes their place.

        Raises:
            ConfigError: one cannot be had for another reason.
        """
        for number, each in enumerate(self.configured):
            config = each.plan.config
            if config.tap is None:
                continue
            try:
                tap = Tap(
                    TapOptions(
                        config.tap,
                        namespace=config.netns,
                        offloads=config.offloads,
                        mtu=each.plan.mtu,
                        mac=each.plan.mac,
                        addresses=() if config.address is None else (config.address,),
                    )
                )
            except UnavailableError as error:
                self._endpoint.note(Note("tap_unavailable", (("venet", number), ("reason", str(error))), "warning"))
                continue
            except ConfigError as error:
                raise ConfigError(f"venet[{number}]: {error}") from None
            each.tap = GuestTap(tap)
            if tap.left_as_is:
                what = ", ".join(each.what for each in tap.left_as_is)
                wanted = ", ".join(each.wanted for each in tap.left_as_is)
                fields = (("venet", number), ("tap", tap.name), ("what", what), ("wanted", wanted))
                self._endpoint.note(Note("tap_left_as_is", fields, "warning"))

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
        self._north_configs = north_configs(self._plans, shared=shared)
        if shared:
            self._tell_reduced()
        return {**load_drivers(self._driver_failed), VENET_TYPE: self}

    def _driver_failed(self, name: str, why: str) -> None:
        self._endpoint.note(Note("driver_failed", (("driver", name), ("reason", why)), "warning"))

    def _tell_reduced(self) -> None:
        for number, (plan, config) in enumerate(zip(self._plans, self._north_configs, strict=True)):
            if config.rx_ring < plan.config.ring and number not in self._reduced:
                self._reduced.add(number)
                fields = (("venet", number), ("ring", config.rx_ring), ("wanted", plan.config.ring))
                self._endpoint.note(Note("venet_ring_reduced", fields, "warning"))

    def probe(self, device: ProxyDevice) -> Steps:
        """Bring a venet up and join it to what the topology says."""
        mac = yield from query_mac(device)
        found = next(
            (n for n, each in enumerate(self.configured) if each.plan.mac == mac and each.device is None), None
        )
        if found is not None:
            self.configured[found].device = device.id
        venet = VenetNorth(UNKNOWN if found is None else self._north_configs[found])
        self._probed[device.id] = venet  # first: when the bring-up fails, remove() gives back what the host still has
        yield from venet.probe(device)
        if found is not None:
            self._join(self.configured[found], venet)

    def remove(self, device: ProxyDevice) -> Steps:
        """Take a venet down."""
        self._part(device.id)
        venet = self._probed.pop(device.id, None)
        if venet is not None:
            yield from venet.remove(device)

    def _join(self, joined: _Network, venet: VenetNorth) -> None:
        joined.venet = venet
        if joined.tap is not None:
            joined.tap.use(venet, self._turn)
        elif joined.plan.config.address is not None:
            joined.stack = GuestStack(venet, IPv4Interface(joined.plan.config.address), self._turn)
        if all(each.venet is not None for each in self.configured):
            self._joined.set()
        self._endpoint.note(Note("venet_up", (("mac", venet.mac.hex(":")), ("accepts", venet.accepts)), "info"))

    def _part(self, device: int) -> None:
        for each in self.configured:
            if each.device == device:
                each.device = each.venet = None
                if each.tap is not None:
                    each.tap.release()
                if each.stack is not None:
                    each.stack.close()
                    each.stack = None

    def _detached(self) -> None:
        """The attachment is over, removed in order or not."""
        for each in self.configured:
            if each.device is not None:
                self._part(each.device)
        self._probed.clear()

    def _turn(self) -> None:
        attachment = self.guest.attachment
        if attachment is not None:
            attachment.sent()

    # --- commands ----------------------------------------------------------------------------------------------------

    async def ping(self, command: NetPing) -> dict[str, object]:
        """Send echo requests from the built-in stack of the network that the address belongs to.

        Raises:
            ConfigError: it belongs to none of them.  RefusedError: none is up.  Both: see ``GuestStack.ping``.
        """
        stacks = [each.stack for each in self.configured if each.stack is not None]
        if not stacks:
            raise RefusedError(f"{self._endpoint.name} has no built-in network that is up")
        result = await stack_of(command.address, stacks).ping(command)
        times = {"min": result.min_s, "avg": result.avg_s, "max": result.max_s} if result.received else None
        return {
            "sent": result.sent,
            "received": result.received,
            "duplicates": result.duplicates,
            "corrupt": result.corrupt,
            "round_trip_s": times,
        }

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
                    "mac": each.plan.mac.hex(":"),
                    "link": each.venet is not None and each.venet.link,
                    "counters": {} if each.venet is None else dict(each.venet.counters),
                    **({} if each.tap is None else each.tap.shown()),
                    **({} if each.stack is None else each.stack.shown()),
                }
                for each in self.configured
            ],
        }


def stack_of(address: str, stacks: Sequence[GuestStack]) -> GuestStack:
    """Return the stack of the smallest network that an IPv4 address belongs to.

    Raises:
        ConfigError: it is no address, or of none of the networks; says which there are.
    """
    try:
        target = IPv4Address(address)
    except ValueError:
        raise ConfigError(f"address {address[:60]!r}: expected an IPv4 address") from None
    found = [stack for stack in stacks if target in stack.address.network and target != stack.address.ip]
    if not found:
        networks = ", ".join(f"{stack.address.network}" for stack in stacks)
        raise ConfigError(f"address {target}: expected another one of {networks}")
    return max(found, key=lambda stack: stack.address.network.prefixlen)
