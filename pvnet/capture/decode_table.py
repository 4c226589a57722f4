"""Every field that a decoder can name: :data:`FIELDS`.

Most come from the messages' descriptors: body ``hcall`` with its field ``opcode`` is ``hcall.opcode``; fields of a
message inside it continue the name, ``mgmt.power_on.name``.  What the raw bytes hold is in the table below.  Filters,
``pvnet show`` and the Wireshark plugin all take their names from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from pvnet.capture.decode_fields import FieldSpec, FieldType
from pvnet.mdev.names import DeviceFlag, DmaFlag, IrqAction, IrqData, IrqFlag, MigrationState, RegionFlag
from pvnet.mdev.vfio_user import Command
from pvnet.papr.crq import CrqHeader, TransportEventCode
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.vbus.layout import BridgeVector, BusVector, Doorbell, EventId
from pvnet.vbus.venet_layout import CapabilityGroup, SgFlag, SgGsoType, VenetFunction
from pvnet.vmc.messages import BufferOwner, VmcType
from pvnet.vmc.router import RouterOpcode, RouterRc, RouterTarget

LAYER_OF_BODY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "hcall": "hcall",
        "hcall_reply": "hcall",
        "crq_entry": "crq",
        "crq_progress": "crq",
        "irq": "irq",
        "memory_read": "memory",
        "memory_write": "memory",
        "memory_reply": "memory",
        "vbus_attach": "vbus",
        "vbus_call": "vbus",
        "vbus_reply": "vbus",
        "vbus_doorbell": "vbus",
        "vbus_irq": "vbus",
        "vbus_update": "vbus",
        "net_frames": "net",
        "device_io": "device",
        "device_reply": "device",
        "mdev_open": "mdev",
        "mdev_reply": "mdev",
        "mdev_message": "mdev",
        "mdev_irq": "mdev",
        "mdev_close": "mdev",
        "mdev_transfer": "mdev",
        "management": "mgmt",
        "management_reply": "mgmt",
        "lifecycle": "lifecycle",
        "link_ack": "link",
        "link_reset": "link",
        "refusal": "refusal",
    }
)
"""Name of the layer of each kind of body; a body of a later version has its own name."""
MAX_DEPTH: Final = 4
Descriptor: TypeAlias = Any
"""A descriptor of protobuf, of a message or of a field: the types of its two implementations do not mix."""
_T = FieldType


def _names(enum: type[IntEnum]) -> dict[int, str]:
    return {int(member): str(member.name) for member in enum}


_OPCODES: Final = _names(HcallOpcode)
_RCS: Final = _names(HcallRc)
_MIGRATION: Final = _names(MigrationState)
_IRQ_SET: Final = {int(flag): str(flag.name) for enum in (IrqData, IrqAction) for flag in enum}
_FEATURES: Final = {
    1: "MIGRATION",
    2: "MIG_DEVICE_STATE",
    3: "LOW_POWER_ENTRY",
    4: "LOW_POWER_ENTRY_WITH_WAKEUP",
    5: "LOW_POWER_EXIT",
    6: "DMA_LOGGING_START",
    7: "DMA_LOGGING_STOP",
    8: "DMA_LOGGING_REPORT",
    9: "MIG_DATA_SIZE",
}
_ETHER_TYPES: Final = {0x0800: "IPv4", 0x0806: "ARP", 0x8100: "VLAN", 0x86DD: "IPv6", 0x88CC: "LLDP"}
_IP_PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_IOCTLS: Final = {
    0x4008CC00: "SETHMCID",
    0x800CCC01: "QUERY",
    0x8004CC02: "REQUESTVMC",
    0x8008CC00: "SETHMCID",
    0x8004CC00: "SETHMCID",
    0x400CCC01: "QUERY",
    0x4004CC02: "REQUESTVMC",
}


def _spec(
    name: str,
    kind: FieldType,
    text: str = "",
    values: Mapping[int, str] | type[IntEnum] | None = None,
    *,
    hex: bool = False,  # noqa: A002
    flags: bool = False,
) -> FieldSpec:
    table = _names(values) if isinstance(values, type) else dict(values or {})
    return FieldSpec(name, kind, text, hex, table, flags)


RAW: Final = (
    _spec("envelope.body", _T.STRING, "kind of body"),
    _spec("crq.unit", _T.U32, "unit address of the adapter", hex=True),
    _spec("crq.element", _T.BYTES, "the 16 bytes"),
    _spec("crq.header", _T.U8, "byte 0", CrqHeader, hex=True),
    _spec("crq.format", _T.U8, "byte 1: type or format", hex=True),
    _spec("crq.init", _T.U8, "byte 1 of an initialisation", {1: "INIT", 2: "INIT_COMPLETE"}),
    _spec("crq.event", _T.U8, "byte 1 of a transport event", TransportEventCode, hex=True),
    _spec("vmc.type", _T.U8, "byte 1", VmcType, hex=True),
    _spec("vmc.status", _T.U8, "0: well; the other numbers differ by dialect"),
    _spec("vmc.max_hmc", _T.U8, "connections"),
    _spec("vmc.pool_size", _T.U16, "buffers of a connection"),
    _spec("vmc.max_mtu", _T.U32, "bytes of a message"),
    _spec("vmc.crq_size", _T.U16, "slots of the sender's queue"),
    _spec("vmc.version", _T.U16, "major, minor", hex=True),
    _spec("vmc.owner", _T.U8, "who may fill the buffer", BufferOwner),
    _spec("vmc.session", _T.U8, "incarnation of the connection"),
    _spec("vmc.index", _T.U8, "number of the connection"),
    _spec("vmc.buffer_id", _T.U16, "number of the buffer, 0xffff: none", {0xFFFF: "none"}),
    _spec("vmc.lioba", _T.U32, "the buffer's I/O address", hex=True),
    _spec("vmc.length", _T.U32, "bytes in the buffer"),
    _spec("vbus.vector", _T.U32, "what the bridge call does", BridgeVector),
    _spec("vbus.bus_vector", _T.U32, "what the bus call does", BusVector),
    _spec("vbus.parameter_length", _T.U32, "bytes of the parameters"),
    _spec("vbus.parameter_address", _T.U64, "where the parameters are", hex=True),
    _spec("vbus.magic", _T.U32, "of NEGOTIATE", hex=True),
    _spec("vbus.abi_version", _T.U32, "of NEGOTIATE"),
    _spec("vbus.capabilities", _T.U64, "of NEGOTIATE", {1: "IOQ_2026"}, hex=True, flags=True),
    _spec("vbus.queue_events", _T.U32, "events of a queue of QREG"),
    _spec("vbus.queue_ring", _T.U64, "where its ring is", hex=True),
    _spec("vbus.queue_data", _T.U64, "where its events are", hex=True),
    _spec("vbus.channel", _T.U32, "number of a fast call channel"),
    _spec("vbus.device", _T.U64, "id of the device on the bus"),
    _spec("vbus.device_version", _T.U32, "version of the device's interface"),
    _spec("vbus.handle", _T.U64, "open handle", hex=True),
    _spec("vbus.func", _T.U32, "function of a devcall"),
    _spec("vbus.call_length", _T.U32, "bytes of a devcall's data"),
    _spec("vbus.call_flags", _T.U32, "flags of the bus call", hex=True),
    _spec("vbus.call_address", _T.U64, "where they are", hex=True),
    _spec("vbus.call_data", _T.BYTES, "a devcall's data"),
    _spec("vbus.shm_id", _T.U32, "region of a DEVSHM"),
    _spec("vbus.shm_length", _T.U32, "its bytes"),
    _spec("vbus.shm_address", _T.U64, "where it is", hex=True),
    _spec("vbus.shm_signal_offset", _T.U32, "its signal", {0xFFFFFFFF: "none"}, hex=True),
    _spec("vbus.shm_prio", _T.U32, "its event queue"),
    _spec("vbus.shm_cookie", _T.U64, "names its signal", hex=True),
    _spec("vbus.event", _T.U32, "kind of event", EventId),
    _spec("vbus.event_handle", _T.U64, "device or cookie that it is about", hex=True),
    _spec("vbus.event_type", _T.STRING, "type of the device that came"),
    _spec("venet.function", _T.U32, "function of a devcall of an Ethernet device", VenetFunction),
    _spec("venet.mac", _T.STRING, "answer of MACQUERY"),
    _spec("venet.group", _T.U32, "group of NEGCAP", CapabilityGroup),
    _spec("venet.bits", _T.U32, "capabilities asked for, or agreed", hex=True),
    _spec("venet.event_bytes", _T.U32, "bytes of an event"),
    _spec("venet.pool", _T.U32, "region of a pool"),
    _spec("venet.queue", _T.U32, "region of a queue"),
    _spec("venet.cookie", _T.U64, "of a packet", hex=True),
    _spec("venet.flags", _T.U32, "of a packet", {int(f): str(f.name) for f in SgFlag}, hex=True, flags=True),
    _spec("venet.length", _T.U32, "bytes of a packet"),
    _spec("venet.fragments", _T.U32, "pieces of a packet"),
    _spec("venet.csum_start", _T.U16, "where the checksum begins"),
    _spec("venet.csum_offset", _T.U16, "where it is stored"),
    _spec("venet.gso_type", _T.U16, "how the packet is cut", SgGsoType),
    _spec("venet.gso_hdrlen", _T.U16, "bytes of headers that each piece gets"),
    _spec("venet.gso_size", _T.U16, "payload bytes of each piece"),
    _spec("vfio.id", _T.U16, "pairs a reply with its command", hex=True),
    _spec("vfio.command", _T.U16, "command", Command),
    _spec("vfio.size", _T.U32, "bytes of the message"),
    _spec("vfio.flags", _T.U32, "bits 0-3 type, 4 No_reply, 5 Error", {1: "REPLY", 16: "NO_REPLY", 32: "ERROR"},
          hex=True, flags=True),
    _spec("vfio.error", _T.U32, "errno"),
    _spec("vfio.major", _T.U16, "of VERSION"),
    _spec("vfio.minor", _T.U16, "of VERSION"),
    _spec("vfio.capabilities", _T.STRING, "of VERSION, JSON"),
    _spec("vfio.argsz", _T.U32, "room, or what it takes"),
    _spec("vfio.offset", _T.U64, "in the region", hex=True),
    _spec("vfio.region", _T.U32, "index of the region"),
    _spec("vfio.count", _T.U64, "bytes, or how many"),
    _spec("vfio.address", _T.U64, "DMA address (iova)", hex=True),
    _spec("vfio.length", _T.U64, "bytes of a mapping"),
    _spec("vfio.file_offset", _T.U64, "where the mapping begins in its descriptor", hex=True),
    _spec("vfio.dma_flags", _T.U32, "of DMA_MAP", {int(f): str(f.name) for f in DmaFlag}, hex=True, flags=True),
    _spec("vfio.unmap_flags", _T.U32, "of DMA_UNMAP", {1: "GET_DIRTY_BITMAP", 2: "ALL"}, hex=True, flags=True),
    _spec("vfio.device_flags", _T.U32, "of the device", {int(f): str(f.name) for f in DeviceFlag}, hex=True,
          flags=True),
    _spec("vfio.regions", _T.U32, "how many regions"),
    _spec("vfio.irqs", _T.U32, "how many irqs"),
    _spec("vfio.region_flags", _T.U32, "of the region", {int(f): str(f.name) for f in RegionFlag}, hex=True,
          flags=True),
    _spec("vfio.region_size", _T.U64, "bytes of the region", hex=True),
    _spec("vfio.irq", _T.U32, "index of the irq"),
    _spec("vfio.irq_flags", _T.U32, "of the irq", {int(f): str(f.name) for f in IrqFlag}, hex=True, flags=True),
    _spec("vfio.irq_count", _T.U32, "sub-indices of the irq"),
    _spec("vfio.irq_start", _T.U32, "first sub-index"),
    _spec("vfio.irq_set", _T.U32, "data and action of SET_IRQS", _IRQ_SET, hex=True, flags=True),
    _spec("vfio.feature", _T.U16, "number of the feature", _FEATURES),
    _spec("vfio.feature_flags", _T.U32, "what to do with it", {1 << 16: "GET", 1 << 17: "SET", 1 << 18: "PROBE"},
          hex=True, flags=True),
    _spec("vfio.migration_state", _T.U32, "state of migration", _MIGRATION),
    _spec("vfio.data", _T.BYTES, "what is read or written"),
    _spec("net.kind", _T.U8, "kind of link message", {1: "HELLO", 2: "PACKET"}),
    _spec("ethernet.destination", _T.STRING, "MAC address"),
    _spec("ethernet.source", _T.STRING, "MAC address"),
    _spec("ethernet.type", _T.U16, "what it carries", _ETHER_TYPES, hex=True),
    _spec("ethernet.length", _T.U32, "bytes of the frame"),
    _spec("ip.source", _T.STRING, "address"),
    _spec("ip.destination", _T.STRING, "address"),
    _spec("ip.protocol", _T.U8, "what it carries", _IP_PROTOCOLS),
    _spec("router.target", _T.U16, "who is meant", RouterTarget, hex=True),
    _spec("router.opcode", _T.U16, "what is asked", RouterOpcode, hex=True),
    _spec("router.correlation", _T.U32, "pairs a response with its request"),
    _spec("router.flags", _T.U8, "0x40: response", {0x40: "RESPONSE"}, hex=True, flags=True),
    _spec("router.rc", _T.U16, "return code", RouterRc, hex=True),
    _spec("router.data", _T.BYTES, "what is carried"),
    _spec("memory.kind", _T.U8, "what moved the bytes", {1: "RDMA", 2: "RING"}),
    _spec("app.act", _T.STRING, "what an application did"),
    _spec("app.hmc_index", _T.U8, "number of its connection"),
    _spec("app.length", _T.U32, "bytes of its message"),
    _spec("app.data", _T.BYTES, "their beginning"),
    _spec("mark.text", _T.STRING, "what somebody wrote into the recording"),
    _spec("queue.slot", _T.U32, "number of a CRQ slot that was looked at"),
    _spec("queue.element", _T.BYTES, "what was in it"),
    _spec("irq.raised", _T.BOOL, "whether an interrupt was pending"),
    _spec("hcall.data", _T.BYTES, "first bytes that H_COPY_RDMA moved"),
    _spec("hcall.direction", _T.STRING, "which way H_COPY_RDMA moved them"),
    _spec("hcall.took_ns", _T.U64, "nanoseconds from call to return, where the log has both"),
    _spec("lost.count", _T.U64, "events that a tracer lost"),
    _spec("event.name", _T.STRING, "event of a log that is no hcall"),
    _spec("event.value", _T.STRING, "name=value"),
    _spec("hcall.note", _T.STRING, "what the recording says of it"),
)  # fmt: skip
"""Fields that are in no descriptor."""

_HEX: Final = frozenset(
    {
        "envelope.source_incarnation", "envelope.destination_incarnation", "envelope.trace",
        "hcall.args", "hcall.outs", "crq.unit", "irq.unit", "memory.address", "device.command",
        "vbus.base", "vbus.writes.address", "vbus.offset", "vbus.value",
        "mgmt.issue_hcall.args", "mgmt.outs", "mgmt.scm_inject.drc", "mgmt.finish_flush.drc", "mgmt.finish_flush.token",
        "mgmt.scm_inject.health_bits", "mgmt.scm_inject.health_valid",
    }
)  # fmt: skip
_VALUES: Final[Mapping[str, Mapping[int, str]]] = {
    "hcall.opcode": _OPCODES,
    "mgmt.issue_hcall.opcode": _OPCODES,
    "mgmt.scm_inject.opcode": _OPCODES,
    "hcall.rc": _RCS,
    "mgmt.rc": _RCS,
    "mgmt.scm_inject.rc": _RCS,
    "device.command": _IOCTLS,
    "vbus.offset": _names(Doorbell),
}
_OPCODE_FIELDS: Final = frozenset(name for name, values in _VALUES.items() if values is _OPCODES)

_D = FieldDescriptor
_TYPES: Final[Mapping[int, FieldType]] = {
    _D.TYPE_UINT32: _T.U32,
    _D.TYPE_FIXED32: _T.U32,
    _D.TYPE_ENUM: _T.U32,
    _D.TYPE_UINT64: _T.U64,
    _D.TYPE_FIXED64: _T.U64,
    _D.TYPE_INT32: _T.I32,
    _D.TYPE_SINT32: _T.I32,
    _D.TYPE_SFIXED32: _T.I32,
    _D.TYPE_INT64: _T.I64,
    _D.TYPE_SINT64: _T.I64,
    _D.TYPE_SFIXED64: _T.I64,
    _D.TYPE_BOOL: _T.BOOL,
    _D.TYPE_STRING: _T.STRING,
    _D.TYPE_BYTES: _T.BYTES,
}


def is_map(field: Descriptor) -> bool:
    """Whether it is a map; the two of the schema have texts on both sides."""
    return bool(field.type == _D.TYPE_MESSAGE and field.message_type.GetOptions().map_entry)


def spec_of(name: str, field: Descriptor) -> FieldSpec:
    """Description of a field of a message under the name that it has here."""
    if is_map(field):
        return FieldSpec(name, _T.STRING, "name=value")
    values = _VALUES.get(name, {})
    if field.type == _D.TYPE_ENUM:
        prefix = f"{field.name.upper()}_"
        values = {item.number: item.name.removeprefix(prefix) for item in field.enum_type.values}
    kind = _TYPES.get(field.type, _T.BYTES)
    return FieldSpec(name, kind, "", name in _HEX or name in _OPCODE_FIELDS, values)


def message_fields(descriptor: Descriptor, prefix: str, depth: int = 0) -> Iterator[tuple[str, Descriptor]]:
    """Yield (name, field) of every field of a message that is no message itself, and of the messages inside it."""
    for field in descriptor.fields:
        name = f"{prefix}.{field.name}"
        if field.type != _D.TYPE_MESSAGE or is_map(field):
            yield name, field
        elif depth < MAX_DEPTH:
            yield from message_fields(field.message_type, name, depth + 1)


def _generated() -> Iterator[FieldSpec]:
    envelope: Descriptor = Envelope.DESCRIPTOR
    body = envelope.oneofs_by_name["body"]
    for field in envelope.fields:
        if field.containing_oneof is body:
            prefix = LAYER_OF_BODY.get(field.name, field.name)
            for name, inner in message_fields(field.message_type, prefix):
                yield spec_of(name, inner)
        else:
            yield spec_of(f"envelope.{field.name}", field)


def _all() -> dict[str, FieldSpec]:
    table = {spec.name: spec for spec in _generated()}
    table.update((spec.name, spec) for spec in RAW)
    return dict(sorted(table.items()))


FIELDS: Final[Mapping[str, FieldSpec]] = MappingProxyType(_all())
"""All fields by name, in the order of names."""
