"""Bridge calls, events and packet descriptors of vbus as layers.

A bridge call is 16 bytes; its parameters lie in the partition's memory.  Where the two sides keep copies, the message
carries what has changed, so they are found in its ``writes``; where memory is shared, only the call itself is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from pvnet.capture.decode_fields import Field, Layer
from pvnet.capture.decode_papr import Parts
from pvnet.capture.decode_table import FIELDS
from pvnet.core.errors import WireError
from pvnet.vbus import layout
from pvnet.vbus.venet_layout import (
    MIN_SG_BYTES,
    Capability,
    CapabilityGroup,
    EventqQuery,
    VenetFunction,
    VenetSg,
)

Memory = Callable[[int, int], bytes | None]
"""Bytes at (address, length), None where they are not known."""
_MAX_PARAMETERS: Final = 4096


def memory_of(writes: Iterable[Any]) -> Memory:
    """Memory made of the ``writes`` of a message: ranges that lie wholly in one of them."""
    pieces = [(item.address, item.data) for item in writes]

    def read(address: int, length: int) -> bytes | None:
        for start, data in reversed(pieces):
            if start <= address and address + length <= start + len(data):
                return bytes(data[address - start : address - start + length])
        return None

    return read


def _named(prefix: str, **values: int | str | bytes) -> list[Field]:
    return [FIELDS[f"{prefix}.{name}"](value) for name, value in values.items()]


def bridge_call(parts: Parts, call: bytes, memory: Memory) -> list[Field]:
    """Fields of the 16 bytes of BAR0 and of what they lead to; the text goes to the summary."""
    try:
        descriptor = layout.CallDescriptor.decode(call)
    except WireError as error:
        parts.problems.append(f"bridge call: {error}")
        parts.summary = f"bridge call of {len(call)} bytes"
        return []
    fields = _named("vbus", vector=descriptor.vector)
    fields += _named("vbus", parameter_length=descriptor.length, parameter_address=descriptor.address)
    try:
        vector = layout.BridgeVector(descriptor.vector)
    except ValueError:
        parts.problems.append(f"bridge call {descriptor.vector}: no such vector")
        parts.summary = f"bridge call {descriptor.vector}"
        return fields
    parts.summary = vector.name
    data = memory(descriptor.address, descriptor.length) if descriptor.length <= _MAX_PARAMETERS else None
    if data is None:
        parts.summary += f" at {descriptor.address:#x}"
        return fields
    try:
        fields += _bridge_parameters(parts, vector, data, memory)
    except WireError as error:
        parts.problems.append(f"{vector.name}: {error}")
    return fields


def _bridge_parameters(parts: Parts, vector: layout.BridgeVector, data: bytes, memory: Memory) -> list[Field]:
    match vector:
        case layout.BridgeVector.NEGOTIATE:
            asked = layout.Negotiate.decode(data)
            parts.summary += f" capabilities {asked.capabilities:#x}"
            return _named("vbus", magic=asked.magic, abi_version=asked.version, capabilities=asked.capabilities)
        case layout.BridgeVector.QREG:
            queues = layout.decode_queues(data)
            parts.summary += f" {len(queues)} queues of {queues[0].count} events"
            return [
                item
                for queue in queues
                for item in _named("vbus", queue_events=queue.count, queue_ring=queue.ring, queue_data=queue.data)
            ]
        case layout.BridgeVector.SLOWCALL:
            inner = layout.CallDescriptor.decode(data)
            return bus_call(parts, inner.vector, inner.length, inner.address, memory)
        case _:
            inner = layout.CallDescriptor.decode(data)
            parts.summary += f" channel {inner.vector}"
            return _named("vbus", channel=inner.vector)


def bus_call(parts: Parts, vector: int, length: int, address: int, memory: Memory) -> list[Field]:
    """Fields of a call to the bus."""
    fields = _named("vbus", bus_vector=vector)
    data = memory(address, length) if length <= _MAX_PARAMETERS else None
    try:
        name = layout.BusVector(vector)
    except ValueError:
        parts.problems.append(f"bus call {vector}: no such vector")
        return fields
    parts.summary = name.name
    if data is None:
        return fields
    match name:
        case layout.BusVector.DEVOPEN:
            opened = layout.DeviceOpen.decode(data)
            parts.summary += f" device {opened.id} version {opened.version}"
            return fields + _named("vbus", device=opened.id, device_version=opened.version, handle=opened.handle)
        case layout.BusVector.DEVCLOSE:
            closed = layout.DeviceClose.decode(data)
            parts.summary += f" handle {closed.handle:#x}"
            return fields + _named("vbus", handle=closed.handle)
        case layout.BusVector.DEVCALL:
            return fields + _devcall(parts, layout.DeviceCall.decode(data), memory)
        case layout.BusVector.DEVSHM:
            shm = layout.DeviceShm.decode(data)
            parts.summary += f" handle {shm.handle:#x} region {shm.id} of {shm.length} bytes at {shm.address:#x}"
            return fields + _named(
                "vbus", handle=shm.handle, shm_id=shm.id, shm_length=shm.length, shm_address=shm.address,
                shm_signal_offset=shm.signal_offset, shm_prio=shm.prio, shm_cookie=shm.cookie,
            )  # fmt: skip


def _devcall(parts: Parts, call: layout.DeviceCall, memory: Memory) -> list[Field]:
    fields = _named(
        "vbus", handle=call.handle, func=call.func, call_length=call.length, call_flags=call.flags,
        call_address=call.address,
    )  # fmt: skip
    parts.summary += f" handle {call.handle:#x} func {call.func}, {call.length} bytes"
    data = memory(call.address, call.length) if 0 < call.length <= _MAX_PARAMETERS else None
    if data is not None:
        fields.append(FIELDS["vbus.call_data"](data))
    layer = venet_call(call.func, call.length, data)
    if layer is not None:
        parts.layers.append(layer)
        parts.summary += f" ({layer.summary})"
    return fields


_VENET_LENGTHS: Final = {
    VenetFunction.LINKUP: 0,
    VenetFunction.LINKDOWN: 0,
    VenetFunction.MACQUERY: 6,
    VenetFunction.NEGCAP: 8,
    VenetFunction.FLUSHRX: 0,
    VenetFunction.EVQQUERY: 32,
    VenetFunction.L4ROQUERY: 32,
}
"""Data bytes of the functions of an Ethernet device: a devcall of another length is another device's."""


def venet_call(func: int, length: int, data: bytes | None) -> Layer | None:
    """The layer of a devcall if it can be one of an Ethernet device."""
    if func not in _VENET_LENGTHS or _VENET_LENGTHS[VenetFunction(func)] != length:
        return None
    function = VenetFunction(func)
    fields, text = _named("venet", function=func), f"venet {function.name}"
    try:
        if data is not None and function is VenetFunction.MACQUERY:
            fields += _named("venet", mac=data.hex(":"))
            text += f" {data.hex(':')}"
        elif data is not None and function is VenetFunction.NEGCAP:
            asked = Capability.decode(data)
            if asked.group not in list(CapabilityGroup):
                return None
            fields += _named("venet", group=asked.group, bits=asked.bits)
            text += f" {CapabilityGroup(asked.group).name} {asked.bits:#x}"
        elif data is not None and function is VenetFunction.EVQQUERY:
            query = EventqQuery.decode(data)
            fields += _named("venet", event_bytes=query.event_bytes, pool=query.pool, queue=query.queue)
    except WireError:
        return None
    return Layer("venet", tuple(fields), text)


def memory_layer(data: bytes) -> Layer | None:
    """What a piece of a ring is, where its bytes leave no doubt: an event, or the descriptor of a packet."""
    if len(data) == layout.EVENT_BYTES:
        return _event(data)
    if len(data) >= MIN_SG_BYTES:
        return _packet(data)
    return None


def _event(data: bytes) -> Layer | None:
    try:
        event = layout.Event.decode(data)
    except WireError:
        return None
    kind = layout.EventId(event.id)
    fields = _named("vbus", event=event.id, event_handle=event.handle)
    text = f"event {kind.name} {event.handle:#x}"
    if kind is layout.EventId.DEVADD:
        fields += _named("vbus", event_type=event.type)
        text += f" {event.type}"
    return Layer("vbus", tuple(fields), text)


def _packet(data: bytes) -> Layer | None:
    try:
        packet = VenetSg.decode(data)
    except WireError:
        return None
    if not packet.iovs or sum(length for length, _ in packet.iovs) != packet.length:
        return None
    fields = _named(
        "venet", cookie=packet.cookie, flags=packet.flags, length=packet.length, fragments=len(packet.iovs),
        csum_start=packet.csum_start, csum_offset=packet.csum_offset, gso_type=packet.gso_type,
        gso_hdrlen=packet.gso_hdrlen, gso_size=packet.gso_size,
    )  # fmt: skip
    return Layer("venet", tuple(fields), f"packet of {packet.length} bytes in {len(packet.iovs)} pieces")
