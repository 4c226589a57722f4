"""The body of each kind of envelope: its fields, the layers inside its bytes, and one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pvnet.capture.decode_body import message_fields
from pvnet.capture.decode_fields import Field, Layer, bytes_text
from pvnet.capture.decode_frame import link_message
from pvnet.capture.decode_papr import Parts, carried_text, crq_layers, hcall_text, result_text, send_crq
from pvnet.capture.decode_table import FIELDS, LAYER_OF_BODY
from pvnet.capture.decode_vbus import bridge_call, memory_layer, memory_of
from pvnet.capture.decode_vfio import VfioHead, vfio_layer
from pvnet.papr.errno import name_of
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.pb.v1.management_pb2 import ManagementReply
from pvnet.pb.v1.mdev_pb2 import MdevTransfer

_MAX_FRAMES: Final = 64
Shown = Callable[[Parts, Any], None]


def body_layers(parts: Parts, envelope: Envelope, body: str) -> VfioHead | None:
    """Add the layers of the body named ``body``, and the summary; return the head of a vfio-user message."""
    message = getattr(envelope, body)
    if body == "mdev_message":
        return _mdev_message(parts, message)
    shown = _BODIES.get(body)
    if shown is None:
        name = LAYER_OF_BODY.get(body, body)
        parts.layers.append(Layer(name, tuple(message_fields(message, name))))
        parts.summary = body.replace("_", " ")
    else:
        shown(parts, message)
    if body == "link_ack":
        parts.summary = f"ack {envelope.ack} of stream {envelope.ack_stream}"
    elif body == "link_reset":
        parts.summary = f"reset, stream {envelope.stream}"
    return None


def _own(parts: Parts, message: Any, layer: str) -> None:
    parts.layers.append(Layer(layer, tuple(message_fields(message, layer))))


def _errno(result: int) -> str:
    return f"-{name_of(result)}" if result < 0 else str(result)


def _writes(parts: Parts, message: Any) -> str:
    """Add what leaves no doubt among the bytes that came along; return that as text, and how many bytes they are."""
    text = ""
    for item in message.writes[:_MAX_FRAMES]:
        layer = memory_layer(item.data)
        if layer is not None:
            parts.layers.append(layer)
            text += f" ({layer.summary})"
    if not message.writes:
        return ""
    return f"{text} +{sum(len(item.data) for item in message.writes)} bytes in {len(message.writes)} writes"


def _hcall(parts: Parts, message: Any) -> None:
    _own(parts, message, "hcall")
    if message.opcode == HcallOpcode.H_SEND_CRQ:
        send_crq(parts, message.args)
    else:
        parts.summary = hcall_text(message.opcode, message.args)
    parts.summary += carried_text(parts, message.memory)
    if message.problem_state:
        parts.summary += " (problem state)"


def _hcall_reply(parts: Parts, message: Any) -> None:
    _own(parts, message, "hcall")
    parts.summary = result_text(message.rc, message.outs) + carried_text(parts, message.memory)


def _crq_entry(parts: Parts, message: Any) -> None:
    text = crq_layers(parts, message.element, tuple(message_fields(message, "crq")))
    parts.summary = f"unit={message.unit:#x} slot {message.slot} {text}" + (" irq" if message.irq else "")


def _crq_progress(parts: Parts, message: Any) -> None:
    _own(parts, message, "crq")
    parts.summary = f"unit={message.unit:#x} consumed {message.consumed}"


def _irq(parts: Parts, message: Any) -> None:
    _own(parts, message, "irq")
    parts.summary = f"unit={message.unit:#x} irq"


def _memory_read(parts: Parts, message: Any) -> None:
    _own(parts, message, "memory")
    parts.summary = f"read {message.length} bytes at {message.address:#x}"


def _memory_write(parts: Parts, message: Any) -> None:
    _own(parts, message, "memory")
    parts.summary = f"write {len(message.data)} bytes at {message.address:#x}{carried_text(parts, message.data)}"


def _memory_reply(parts: Parts, message: Any) -> None:
    _own(parts, message, "memory")
    error = name_of(message.error) if message.error else f"{len(message.data)} bytes"
    parts.summary = f"{error}{carried_text(parts, message.data)}"


def _vbus_attach(parts: Parts, message: Any) -> None:
    _own(parts, message, "vbus")
    shared = ", shared" if message.shared else ""
    parts.summary = f"attach {message.bytes:#x} bytes of memory at {message.base:#x}{shared}"


def _vbus_call(parts: Parts, message: Any) -> None:
    inner = Parts()
    fields = bridge_call(inner, message.call, memory_of(message.writes))
    own: tuple[Field, ...] = tuple(message_fields(message, "vbus"))
    parts.layers.append(Layer("vbus", (*own, *fields), inner.summary))
    parts.layers += inner.layers
    parts.problems += inner.problems
    parts.summary = inner.summary


def _vbus_reply(parts: Parts, message: Any) -> None:
    _own(parts, message, "vbus")
    parts.summary = _errno(message.result)
    parts.summary += _writes(parts, message)


def _vbus_doorbell(parts: Parts, message: Any) -> None:
    _own(parts, message, "vbus")
    name = FIELDS["vbus.offset"].values.get(message.offset)
    if name is None:
        parts.problems.append(f"doorbell at offset {message.offset}: there is no register")
    parts.summary = f"doorbell {name or message.offset} {message.value:#x}"
    parts.summary += _writes(parts, message)


def _vbus_irq(parts: Parts, message: Any) -> None:
    _own(parts, message, "vbus")
    parts.summary = f"irq of event queue {message.queue}"
    parts.summary += _writes(parts, message)


def _vbus_update(parts: Parts, message: Any) -> None:
    _own(parts, message, "vbus")
    parts.summary = "memory"
    parts.summary += _writes(parts, message) + (", more follows" if message.more else "")


def _net_frames(parts: Parts, message: Any) -> None:
    parts.layers.append(Layer("net", ()))
    texts = [link_message(parts, item) for item in message.messages[:_MAX_FRAMES]]
    parts.summary = texts[0] if len(texts) == 1 else f"{len(message.messages)} frames: {'; '.join(texts[:3])}"


def _device_io(parts: Parts, message: Any) -> None:
    _own(parts, message, "device")
    operation = _name(DeviceIo.Operation, message.operation)
    handle = f"{operation} handle {message.handle}"
    match message.operation:
        case DeviceIo.OPEN:
            parts.summary = f"OPEN {message.path}"
        case DeviceIo.IOCTL:
            parts.summary = f"{handle} {FIELDS['device.command'].text(message.command)}"
            parts.summary += carried_text(parts, message.data)
        case DeviceIo.READ:
            parts.summary = f"{handle}, up to {message.count} bytes"
        case DeviceIo.WRITE:
            parts.summary = f"{handle}, {len(message.data)} bytes{carried_text(parts, message.data)}"
        case DeviceIo.INTERRUPT:
            parts.summary = f"INTERRUPT of call {message.interrupts}"
        case _:
            parts.summary = handle


def _device_reply(parts: Parts, message: Any) -> None:
    _own(parts, message, "device")
    parts.summary = f"{_errno(message.result)}{carried_text(parts, message.data)}"


def _name(enum: Any, number: int) -> str:
    """Name of a number of a protobuf enumeration, or the number."""
    try:
        return str(enum.Name(number))
    except ValueError:
        return str(number)


def _management(parts: Parts, message: Any) -> None:
    _own(parts, message, "mgmt")
    command = message.WhichOneof("command")
    if command is None:
        parts.problems.append("management without a command that is known here")
        parts.summary = "no command"
        return
    prefix = f"mgmt.{command}"
    words = [
        f"{item.name.removeprefix(prefix)[1:]}={item.text.partition(' (')[0]}"
        for item in message_fields(getattr(message, command), prefix)
        if item.value
    ]
    parts.summary = " ".join((command, *words))[:200]


def _management_reply(parts: Parts, message: Any) -> None:
    _own(parts, message, "mgmt")
    status = _name(ManagementReply.Status, message.status)
    parts.summary = f"{status} {message.text}".rstrip()
    if message.partitions:
        parts.summary += f" {len(message.partitions)} partitions"
    if message.status_json:
        parts.summary += f" {len(message.status_json)} bytes of JSON"


def _mdev_open(parts: Parts, message: Any) -> None:
    _own(parts, message, "mdev")
    parts.summary = f"open {message.name}"


def _mdev_reply(parts: Parts, message: Any) -> None:
    _own(parts, message, "mdev")
    text = name_of(message.result) if message.result else "0"
    parts.summary = text + (f" session {message.session}" if message.session else "")
    parts.summary = f"{parts.summary} {message.text}".rstrip()


def _mdev_message(parts: Parts, message: Any) -> VfioHead | None:
    _own(parts, message, "mdev")
    head = vfio_layer(parts, message.message)
    parts.summary = f"session {message.session} {parts.summary}"
    if message.descriptors:
        parts.summary += f" +{len(message.descriptors)} descriptors"
    return head


def _mdev_irq(parts: Parts, message: Any) -> None:
    _own(parts, message, "mdev")
    parts.summary = f"session {message.session} irq target {message.target}"


def _mdev_close(parts: Parts, message: Any) -> None:
    _own(parts, message, "mdev")
    parts.summary = f"session {message.session} close {message.reason}".rstrip()
    if message.moved_to:
        parts.summary += f", moved to {message.moved_to}"


def _mdev_transfer(parts: Parts, message: Any) -> None:
    _own(parts, message, "mdev")
    step = _name(MdevTransfer.Step, message.step)
    parts.summary = f"transfer {message.transfer} {step} {message.name}".rstrip()
    if message.data:
        parts.summary += f" {len(message.data)} bytes at {message.offset}"


def _lifecycle(parts: Parts, message: Any) -> None:
    _own(parts, message, "lifecycle")
    phase = _name(Lifecycle.Phase, message.phase)
    parts.summary = f"{phase} {message.role}" + (f": {message.text}" if message.text else "")


def _refusal(parts: Parts, message: Any) -> None:
    _own(parts, message, "refusal")
    parts.summary = f"refused: {message.text}"


_BODIES: Final[dict[str, Shown]] = {
    "hcall": _hcall,
    "hcall_reply": _hcall_reply,
    "crq_entry": _crq_entry,
    "crq_progress": _crq_progress,
    "irq": _irq,
    "memory_read": _memory_read,
    "memory_write": _memory_write,
    "memory_reply": _memory_reply,
    "vbus_attach": _vbus_attach,
    "vbus_call": _vbus_call,
    "vbus_reply": _vbus_reply,
    "vbus_doorbell": _vbus_doorbell,
    "vbus_irq": _vbus_irq,
    "vbus_update": _vbus_update,
    "net_frames": _net_frames,
    "device_io": _device_io,
    "device_reply": _device_reply,
    "mdev_open": _mdev_open,
    "mdev_reply": _mdev_reply,
    "mdev_irq": _mdev_irq,
    "mdev_close": _mdev_close,
    "mdev_transfer": _mdev_transfer,
    "management": _management,
    "management_reply": _management_reply,
    "lifecycle": _lifecycle,
    "refusal": _refusal,
}


def unknown_text(data: bytes) -> str:
    """A record that nothing is known about."""
    return bytes_text(data, 16) if data else "empty"
