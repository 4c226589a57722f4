"""What must hold between the switches, venets and devices of one topology, so that no lab fails at it when it starts.

Raises ValueError, as pydantic's validators do; the text says what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from pvnet.runtime.topology_net import SwitchConfig, VbusDeviceConfig, VenetConfig

LINK_PREFIX: Final = "link-"
"""What the bridge of another lab is called starts so, when it is linked through our broker: no partition may."""

_MAY_REPEAT: Final = frozenset({"replay", "tcp", "tls"})
"""Kinds of ports that different switches may have with the same text."""

PartitionDevices = tuple[str, Sequence[VenetConfig], Sequence[VbusDeviceConfig]]
"""Name, venets and other devices of a partition."""


def check_network(lab: str, switches: Sequence[SwitchConfig], partitions: Iterable[PartitionDevices]) -> None:
    """Check the network of a lab.

    :raises ValueError: what was expected instead.
    """
    names = [switch.name for switch in switches]
    if len(set(names)) != len(names):
        raise ValueError("a name of its own for each switch")
    taps = _check_ports(switches)
    check_other_labs(lab, switches)
    macs: dict[str, str] = {}
    addresses: dict[tuple[str, str], str] = {}
    for partition, venets, devices in partitions:
        device_names = [device.name for device in devices]
        if len(set(device_names)) != len(device_names):
            raise ValueError(f"a name of its own for each device of {partition!r}")
        for number, venet in enumerate(venets):
            where = f"venet[{number}] of {partition!r}"
            if venet.switch not in names:
                raise ValueError(f"a [[switch]] of this lab for {where}, not {venet.switch!r}")
            if venet.mac is not None and macs.setdefault(venet.mac, where) != where:
                raise ValueError(f"a MAC address of its own for {where}: {venet.mac} is that of {macs[venet.mac]}")
            if venet.address is not None:
                host = venet.address.partition("/")[0]
                other = addresses.setdefault((venet.switch, host), where)
                if other != where:
                    raise ValueError(
                        f"an IPv4 address of its own for {where}: {host} at switch {venet.switch!r} is that of {other}"
                    )
            if venet.tap is not None:
                if (venet.netns, venet.tap) in taps:
                    raise ValueError(f"a TAP of its own for {where}: {venet.tap} is used already")
                taps.add((venet.netns, venet.tap))


def check_other_labs(lab: str, switches: Iterable[SwitchConfig]) -> None:
    """Check that no port is a link of the lab to itself.

    :raises ValueError: one is.
    """
    for switch in switches:
        for port in switch.ports:
            kind, _, rest = port.partition(":")
            if kind in {"broker", "broker-listen"} and rest == lab:
                raise ValueError(f"another lab than {lab!r} itself in port {port!r} of switch {switch.name!r}")


def _check_ports(switches: Iterable[SwitchConfig]) -> set[tuple[str | None, str]]:
    """Check that no port is there twice; return the TAPs among them, as (namespace, name)."""
    owners: dict[str, str] = {}
    taps: set[tuple[str | None, str]] = set()
    for switch in switches:
        seen: set[str] = set()
        for port in switch.ports:
            kind, _, rest = port.partition(":")
            text = f"{kind}:{os.path.normpath(rest)}" if kind in {"pcapng", "replay"} else port
            shared = kind in _MAY_REPEAT or (kind.endswith("-listen") and rest.endswith(":0"))
            if text in seen or (not shared and text in owners):
                owner = switch.name if text in seen else owners[text]
                raise ValueError(f"each port once: {port!r} is a port of switch {owner!r} already")
            seen.add(text)
            owners[text] = switch.name
            if kind == "tap":
                name, _, namespace = rest.partition("@")
                taps.add((namespace or None, name))
    return taps
