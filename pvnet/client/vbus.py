"""The vbus host of a running lab, for programs: its buses, devices and members, its switches, and pings between guests.

``VbusHost(lab)`` sends the admin commands (``VbusAdmin``, ``SwitchAdmin``) to the node ``bridge``.  What it returns are
plain dicts, as the host shows them; docs/vbus.md has an example of each.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from pvnet.client.lab import Lab
from pvnet.core.errors import ConfigError, RefusedError, UnreachableError
from pvnet.pb.v1.management_pb2 import (
    Management,
    ManagementReply,
    NetPing,
    ShowStatus,
    SwitchAdmin,
    VbusAdmin,
    VbusDevcall,
)
from pvnet.runtime.topology import BRIDGE, SUPERVISOR


class VbusHost:
    """Admin nouns of vbus.

    All methods raise RefusedError with the host's words (and the errno of the original) when it refuses, and
    UnreachableError when it is not there.
    """

    def __init__(self, lab: Lab, *, timeout: float = 10.0) -> None:
        if not lab.topology.has_bridge:
            raise ConfigError(f"lab {lab.name} has no vbus host: expected a [[switch]] or a partition with a device")
        self._lab = lab
        self._timeout = timeout

    async def _ask(self, command: Management, node: str = BRIDGE, *, timeout: float | None = None) -> Any:
        reply = await self._lab.command(node, command, timeout=timeout or self._timeout)
        if reply.status != ManagementReply.OK:
            raise RefusedError(reply.text or ManagementReply.Status.Name(reply.status).lower().replace("_", " "))
        return json.loads(reply.status_json) if reply.status_json else None

    async def _admin(self, verb: VbusAdmin.Verb, **fields: Any) -> Any:
        attributes: Mapping[str, str] = fields.pop("attributes", {})
        device_class = fields.pop("device_class", "")
        admin = VbusAdmin(verb=verb, **fields, attributes=attributes)
        if device_class:
            setattr(admin, "class", device_class)
        return await self._ask(Management(vbus=admin))

    # --- buses and devices -------------------------------------------------------------------------------------------

    async def buses(self) -> dict[str, Any]:
        """Return ``{"buses": [...], "devices": [...]}``: every bus with members and devices; all devices."""
        shown: dict[str, Any] = await self._admin(VbusAdmin.SHOW)
        return shown

    async def bus(self, name: str) -> dict[str, Any]:
        """Return one bus."""
        shown: dict[str, Any] = await self._admin(VbusAdmin.SHOW, bus=name)
        return shown

    async def classes(self) -> list[dict[str, str]]:
        """Return the device classes that can be made: name and type (ABI)."""
        shown: list[dict[str, str]] = await self._admin(VbusAdmin.CLASSES)
        return shown

    async def create_bus(self, name: str) -> None:
        """Make a bus."""
        await self._admin(VbusAdmin.BUS_CREATE, bus=name)

    async def remove_bus(self, name: str) -> None:
        """Remove a bus that has neither devices nor members."""
        await self._admin(VbusAdmin.BUS_REMOVE, bus=name)

    async def create_device(self, name: str, device_class: str, attributes: Mapping[str, str] | None = None) -> None:
        """Make a device of a class; it belongs to no bus yet."""
        await self._admin(
            VbusAdmin.DEVICE_CREATE, device=name, device_class=device_class, attributes=dict(attributes or {})
        )

    async def remove_device(self, name: str) -> None:
        """Remove a device that is on no bus."""
        await self._admin(VbusAdmin.DEVICE_REMOVE, device=name)

    async def attach(self, device: str, bus: str) -> None:
        """Put a device on a bus: its members get DEVADD."""
        await self._admin(VbusAdmin.DEVICE_ATTACH, device=device, bus=bus)

    async def detach(self, device: str, *, force: bool = False) -> None:
        """Take a device off its bus: the members get DEVDROP; ``force`` closes its connection first."""
        await self._admin(VbusAdmin.DEVICE_DETACH, device=device, force=force)

    async def set(self, device: str, attributes: Mapping[str, str]) -> None:
        """Change attributes of a device."""
        await self._admin(VbusAdmin.DEVICE_SET, device=device, attributes=dict(attributes))

    async def join(self, bus: str, node: str) -> None:
        """Make a node (a partition) a member of a bus; a node is a member of one bus at most."""
        await self._admin(VbusAdmin.JOIN, bus=bus, node=node)

    async def leave(self, node: str) -> None:
        """End a membership."""
        await self._admin(VbusAdmin.LEAVE, node=node)

    # --- the network bridge ------------------------------------------------------------------------------------------

    async def switches(self, name: str = "") -> list[dict[str, Any]]:
        """Return every switch (or the one named): ports, addresses learned, counters."""
        shown: list[dict[str, Any]] = await self._ask(
            Management(switch=SwitchAdmin(verb=SwitchAdmin.SHOW, switch=name))
        )
        return shown

    async def add_port(self, switch: str, port: str) -> None:
        """Add a port such as ``tap:NAME``, ``pcapng:FILE`` or ``tcp:HOST:PORT`` to a switch."""
        await self._ask(Management(switch=SwitchAdmin(verb=SwitchAdmin.PORT_ADD, switch=switch, port=port)))

    async def remove_port(self, switch: str, port: str) -> None:
        """Remove a port from a switch."""
        await self._ask(Management(switch=SwitchAdmin(verb=SwitchAdmin.PORT_REMOVE, switch=switch, port=port)))

    # --- guests ------------------------------------------------------------------------------------------------------

    async def _ask_guest(self, command: Management, partition: str, *, timeout: float | None = None) -> Any:
        """Send a command to a partition, unless the supervisor knows that nobody would answer."""
        self._lab.topology.partition(partition)
        status = await self._ask(Management(show_status=ShowStatus()), SUPERVISOR)
        state = next((node["state"] for node in status["nodes"] if node["name"] == partition), "off")
        if state in {"off", "stopping", "failed"}:
            raise UnreachableError(f"{partition} is not running ({state})")
        return await self._ask(command, partition, timeout=timeout)

    async def devcall(
        self, partition: str, device: int, func: int, data: bytes = b"", *, version: int = 1
    ) -> tuple[int, bytes]:
        """Have a partition open a device of its bus, make one devcall and close it; returns (result, data).

        Raises:
            ConfigError: the lab has no such partition.  UnreachableError: it is not running.
        """
        command = VbusDevcall(device=device, version=version, func=func, data=data)
        shown = await self._ask_guest(Management(devcall=command), partition)
        return int(shown["result"]), bytes.fromhex(shown["data"])

    async def ping(
        self,
        partition: str,
        address: str,
        *,
        count: int = 4,
        payload_bytes: int = 56,
        interval_s: float = 0.2,
        timeout_s: float = 1.0,
    ) -> dict[str, Any]:
        """Have a partition's built-in stack send ICMP echo requests; returns what came of them.

        Raises:
            ConfigError: not an IPv4 address, or the lab has no such partition.  UnreachableError: it is not running.
        """
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise ConfigError(f"address {address!r}: expected an IPv4 address such as 10.77.0.2") from None
        command = NetPing(
            address=address,
            count=count,
            payload_bytes=payload_bytes,
            interval_ms=int(interval_s * 1000),
            timeout_ms=int(timeout_s * 1000),
        )
        longest = self._timeout + count * (interval_s + timeout_s)
        shown: dict[str, Any] = await self._ask_guest(Management(ping=command), partition, timeout=longest)
        return shown
