"""Ethernet frames and pieces of memory as layers: addresses, and one line of what is inside."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Final

from pvnet.capture.decode_fields import Layer, bytes_text
from pvnet.capture.decode_papr import Parts, payload_layers
from pvnet.capture.decode_table import FIELDS
from pvnet.capture.decode_vbus import memory_layer
from pvnet.core.errors import WireError
from pvnet.vbus.link_codec import LINK_HEADER_BYTES, LinkHello, decode_link_message
from pvnet.vbus.packet import ACCEPTS_ALL
from pvnet.vbus.vnet_header import VnetHeaders

_ETHERNET: Final = Struct(">6s6sH")
_VLAN: Final = 0x8100
_ICMP: Final = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_PORTS: Final = {6: "TCP", 17: "UDP"}
MEMORY_HEAD: Final = Struct(">B7xQ")
"""Head of a record of memory: kind, address."""
_RDMA: Final = 1
_RING: Final = 2


def ethernet_layers(parts: Parts, frame: bytes) -> tuple[str, str]:
    """Add the layers of a frame; return source and destination."""
    if len(frame) < _ETHERNET.size:
        parts.problems.append(f"Ethernet frame of {len(frame)} bytes")
        parts.summary = f"frame of {len(frame)} bytes"
        return "", ""
    destination, source, kind = _ETHERNET.unpack_from(frame)
    at = _ETHERNET.size
    if kind == _VLAN and len(frame) >= at + 4:
        kind = int.from_bytes(frame[at + 2 : at + 4])
        at += 4
    names = source.hex(":"), destination.hex(":")
    name = FIELDS["ethernet.type"].values.get(kind, f"type {kind:#06x}")
    fields = (
        FIELDS["ethernet.destination"](names[1]),
        FIELDS["ethernet.source"](names[0]),
        FIELDS["ethernet.type"](kind),
        FIELDS["ethernet.length"](len(frame)),
    )
    parts.layers.append(Layer("ethernet", fields, f"{name}, {len(frame)} bytes"))
    text = ""
    if kind == 0x0800:
        text = _ipv4(parts, frame[at:])
    elif kind == 0x86DD:
        text = _ipv6(parts, frame[at:])
    elif kind == 0x0806:
        text = _arp(frame[at:])
    parts.summary = f"{text or name}, {len(frame)} bytes"
    return names


def _ip(parts: Parts, source: str, destination: str, protocol: int, body: bytes) -> str:
    fields = (FIELDS["ip.source"](source), FIELDS["ip.destination"](destination), FIELDS["ip.protocol"](protocol))
    ends, text = [source, destination], FIELDS["ip.protocol"].values.get(protocol, f"protocol {protocol}")
    if protocol in _PORTS and len(body) >= 4:
        ends = [f"{name}:{int.from_bytes(body[at : at + 2])}" for name, at in zip(ends, (0, 2), strict=True)]
    elif protocol == 1 and body:
        text += f" {_ICMP.get(body[0], f'type {body[0]}')}"
    parts.layers.append(Layer("ip", fields, f"{source} > {destination} {text}"))
    return f"{ends[0]} > {ends[1]} {text}"


def _ipv4(parts: Parts, data: bytes) -> str:
    if len(data) < 20 or data[0] >> 4 != 4:
        return "IPv4 cut short"
    source, destination = str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20]))
    head = (data[0] & 15) * 4
    is_first = not int.from_bytes(data[6:8]) & 0x1FFF
    return _ip(parts, source, destination, data[9], data[head:] if is_first else b"")


def _ipv6(parts: Parts, data: bytes) -> str:
    if len(data) < 40:
        return "IPv6 cut short"
    return _ip(parts, str(IPv6Address(data[8:24])), str(IPv6Address(data[24:40])), data[6], data[40:])


def _arp(data: bytes) -> str:
    if len(data) < 28:
        return "ARP cut short"
    sender, target = IPv4Address(data[14:18]), IPv4Address(data[24:28])
    return f"ARP {sender} is at {data[8:14].hex(':')}" if data[7] == 2 else f"ARP who has {target}? tell {sender}"


def link_message(parts: Parts, message: bytes) -> str:
    """Add the layers of a message between two switches; return it as text."""
    try:
        decoded = decode_link_message(message, ACCEPTS_ALL, VnetHeaders())
    except WireError as error:
        parts.problems.append(f"link message: {error}")
        return f"link message of {len(message)} bytes"
    if isinstance(decoded, LinkHello):
        parts.layers.append(Layer("net", (FIELDS["net.kind"](1),), "HELLO"))
        return f"HELLO of {decoded.lab}/{decoded.name}, MTU {decoded.mtu}"
    parts.layers.append(Layer("net", (FIELDS["net.kind"](2),), "PACKET"))
    ethernet_layers(parts, message[-decoded.length :] if len(message) > LINK_HEADER_BYTES else b"")
    return parts.summary


def memory_record(parts: Parts, data: bytes) -> None:
    """Add the layers of a piece of memory that moved without a message."""
    if len(data) < MEMORY_HEAD.size:
        parts.problems.append(f"memory record of {len(data)} bytes, {MEMORY_HEAD.size} are the least")
        parts.summary = "memory"
        return
    kind, address = MEMORY_HEAD.unpack_from(data)
    content = data[MEMORY_HEAD.size :]
    name = FIELDS["memory.kind"].values.get(kind)
    if name is None:
        parts.problems.append(f"memory record of kind {kind}")
        name = f"kind {kind}"
    fields = (
        FIELDS["memory.kind"](kind),
        FIELDS["memory.address"](address),
        FIELDS["memory.length"](len(content)),
        FIELDS["memory.data"](content),
    )
    parts.layers.append(Layer("memory", fields, f"{name} {address:#x}"))
    text = payload_layers(parts, content) if kind == _RDMA else ""
    layer = memory_layer(content) if kind == _RING else None
    if layer is not None:
        parts.layers.append(layer)
        text = layer.summary
    parts.summary = f"{name} {address:#x}, {len(content)} bytes: {text or bytes_text(content, 16)}"
