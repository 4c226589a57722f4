"""The vbus part of a topology: virtual Ethernets and other devices of partitions, switches and their ports.

Every partition with a device has a bus of its own, named as the partition, whose only member it is; more buses can be
made in a running lab (``pvnet vbus``).  All buses and switches are served by one process, the node ``bridge``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from pvnet.core.names import NAME_PATTERN
from pvnet.runtime.topology_base import Name, Strict
from pvnet.runtime.topology_system import Label, Uuid

_MAC: Final = re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
_INTERFACE: Final = re.compile(r"^[A-Za-z0-9_.-]{1,15}$")
PORT_KINDS: Final = (
    "tap",
    "pcapng",
    "replay",
    "tcp",
    "tcp-listen",
    "tls",
    "tls-listen",
    "broker",
    "broker-listen",
)
"""What stands before the first colon of a switch port."""


def _mac(value: str) -> str:
    text = value.lower()
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise ValueError('a unicast MAC address such as "02:00:00:00:00:01"')
    return text


def _interface_address(value: str) -> str:
    try:
        address = ipaddress.IPv4Interface(value)
    except ValueError:
        raise ValueError('an IPv4 address with its prefix length, such as "10.77.0.1/24"') from None
    if "/" not in value or address.network.prefixlen > 30:
        raise ValueError('an IPv4 address with a prefix length of at most 30, such as "10.77.0.1/24"')
    for reserved, name in (
        (address.network.network_address, "network"),
        (address.network.broadcast_address, "broadcast"),
    ):
        if address.ip == reserved:
            raise ValueError(f"the address of a host: {reserved} is the {name} address of {address.network}")
    return str(address)


def _interface_name(value: str) -> str:
    if not _INTERFACE.fullmatch(value) or value in {".", ".."}:
        raise ValueError("an interface name: 1 to 15 of letters, digits, _ . -")
    return value


def check_lab(value: str) -> str:
    """Return the name of a lab; ValueError if it is none."""
    if not re.fullmatch(NAME_PATTERN, value):
        raise ValueError("the name of a lab: 1 to 32 of a-z 0-9 _ -")
    return value


def link_end(kind: str, rest: str) -> tuple[str, int]:
    """Return host and TCP port of what follows ``tcp:``, ``tls:``, ``tcp-listen:`` or ``tls-listen:``.

    IPv6 addresses stand in brackets, and come back without them; a listener may ask for port 0, any that is free.

    :raises ValueError: the text is none; says what was expected.
    """
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit():
        raise ValueError("tcp:HOST:PORT, tcp-listen:HOST:PORT, tls:HOST:PORT or tls-listen:HOST:PORT")
    lowest = 0 if kind.endswith("-listen") else 1
    if len(port) > 9 or not lowest <= int(port) <= 65535:
        raise ValueError(f"a TCP port from {lowest} to 65535, not {port[:20]}")
    return host, int(port)


def check_port(value: str) -> str:
    """Return the text of a switch port if its kind is known and what follows can be one; else ValueError."""
    kind, colon, rest = value.partition(":")
    if kind not in PORT_KINDS or not colon or not rest:
        raise ValueError(f"a port such as tap:NAME, pcapng:FILE or tcp:HOST:PORT (kinds: {', '.join(PORT_KINDS)})")
    if kind == "tap":
        _interface_name(rest.partition("@")[0])
    elif kind.startswith("broker"):
        check_lab(rest)
    elif kind.startswith(("tcp", "tls")):
        link_end(kind, rest)
    return value


Mac = Annotated[str, AfterValidator(_mac), WithJsonSchema({"type": "string", "pattern": _MAC.pattern})]
InterfaceAddress = Annotated[str, AfterValidator(_interface_address), WithJsonSchema({"type": "string"})]
InterfaceName = Annotated[
    str, AfterValidator(_interface_name), WithJsonSchema({"type": "string", "pattern": _INTERFACE.pattern})
]
SwitchPort = Annotated[str, AfterValidator(check_port), WithJsonSchema({"type": "string"})]


class SwitchConfig(Strict):
    """A learning Ethernet switch of the network bridge."""

    name: Name = "net0"
    """Name of the switch."""
    label: Label | None = None
    """Its name for management software; without one ``name``."""
    uuid: Uuid | None = None
    """Its UUID; without one made from the names of lab and switch."""
    mtu: int = Field(default=1500, ge=68, le=65521)
    """Largest payload of a frame that it carries, without the 14 bytes of the Ethernet header."""
    ageing_s: float = Field(default=300.0, gt=0, le=86400)
    """Seconds after which an address that was not seen is forgotten."""
    max_addresses: int = Field(default=4096, ge=1, le=1 << 20)
    """Addresses that it remembers; the oldest goes first."""
    ports: list[SwitchPort] = Field(default_factory=list)
    """Ports that are no partition's: ``"tap:NAME"`` (``tap:NAME@NETNS``: in a network namespace); ``"pcapng:FILE"``, a
    capture of everything, and ``"replay:FILE"``; another lab's switch by ``"tcp:HOST:PORT"`` on one side and
    ``"tcp-listen:HOST:PORT"`` on the other, both also with ``tls``, or by ``"broker:LAB"`` and ``"broker-listen:LAB"``
    where both labs use the same broker."""
    ca_file: str | None = None
    """PEM file of the CA that signs the other side's certificate (``tls``, ``tls-listen``); relative to this file."""
    cert_file: str | None = None
    """PEM file of our own certificate and, unless there is a ``key_file``, its key."""
    key_file: str | None = None
    """PEM file of our own key."""

    @model_validator(mode="after")
    def _can_listen(self) -> Self:
        if self.cert_file is None and any(port.startswith("tls-listen:") for port in self.ports):
            raise ValueError("a cert_file = ..., because there is a tls-listen port")
        return self


class VenetConfig(Strict):
    """A virtual Ethernet of a partition, connected to a switch."""

    switch: Name = "net0"
    """The switch that it is connected to."""
    mac: Mac | None = None
    """MAC address of the partition's side; without one 02:00:00:NN:NN:MM from the partition's number."""
    vlan: int = Field(default=1, ge=1, le=4094)
    """Port VLAN id: at one switch only ports of the same one reach each other; ports that are no partition's are in 1.
    """
    slot: int | None = Field(default=None, ge=2, le=65535)
    """Virtual slot number; without one 2, 3 ... in the order of the file."""
    address: InterfaceAddress | None = None
    """IPv4 address with prefix length, of the TAP or of the built-in stack; without one there is no IPv4."""
    tap: InterfaceName | None = None
    """Name of a TAP device as which the partition shows it to ordinary programs; needs root or CAP_NET_ADMIN.
    Without one a built-in stack answers ARP, ICMP echo and UDP echo."""
    netns: InterfaceName | None = None
    """Network namespace of the TAP, as ``ip netns`` names it; it must be there."""
    ring: int = Field(default=256, ge=4, le=2048)
    """Entries of its receive and transmit ring."""
    ring_layout: Literal["2009", "2026"] = "2009"
    """Layout of the rings: the original's, or the one that keeps each side's words in cache lines of their own."""
    offloads: bool = True
    """Whether checksums may be left unfinished and TCP segments may be up to 64 KiB (where both ends can)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.netns is not None and self.tap is None:
            raise ValueError("a tap = ..., because there is a netns")
        if self.ring_layout == "2026" and self.ring & (self.ring - 1):
            raise ValueError('a ring that is a power of two, because ring_layout is "2026"')
        return self


class VbusDeviceConfig(Strict):
    """A vbus device of a class that is installed (entry points ``pvnet.devices``)."""

    name: Name
    """Name of the device."""
    device_class: Name = Field(alias="class")
    """Name of its class; ``pvnet vbus classes`` lists them."""
    attributes: dict[str, str] = Field(default_factory=dict)
    """Attributes that it is made with."""
