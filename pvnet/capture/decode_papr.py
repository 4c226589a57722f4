"""Hypervisor calls, CRQ elements, VMC messages and VMC payloads as layers.

Whether a command element is a VMC message is not written in it: other drivers (ibmvscsi) use the same first byte and
some of the same types.  :func:`looks_like_vmc` decides by what VMC messages always have and others rarely: known type,
unused words of zero, major version 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from pvnet.capture.decode_body import message_fields
from pvnet.capture.decode_fields import Field, Layer, Value, bytes_text
from pvnet.capture.decode_table import FIELDS
from pvnet.core.errors import WireError
from pvnet.papr.crq import (
    ELEMENT_BYTES,
    Command,
    CrqInit,
    CrqInitComplete,
    ReservedElement,
    TransportEvent,
    decode_element,
    describe_element,
    from_words,
    is_sendable,
)
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.signatures import SIGNATURES, Unit, describe
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.vmc import messages as vmc
from pvnet.vmc.router import DESCRIPTOR, RouterOpcode, RouterRc, decode_frame, decode_router, is_frame

_DECIMAL: Final = frozenset({Unit.PAGES, Unit.MODE, Unit.BLOCKS})
_U64: Final = (1 << 64) - 1


@dataclass(slots=True)
class Parts:
    """What a decoder has found so far."""

    layers: list[Layer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    summary: str = ""


def hcall_text(opcode: int, args: Sequence[int]) -> str:
    """A call on one line."""
    return describe(opcode, args)


def result_text(rc: int, outs: Sequence[int | None], opcode: int | None = None) -> str:
    """A return code and its registers from r4 up; by name where the call is known (and then only those it sets)."""
    text = str(HcallRc(rc))
    signature = SIGNATURES.get(HcallOpcode(opcode)) if opcode is not None else None
    if signature is None:
        words = [f"r{number}={value:#x}" for number, value in enumerate(outs, 4) if value is not None]
    else:
        words = [
            f"{out.name}={value}" if out.unit in _DECIMAL else f"{out.name}={value:#x}"
            for out, value in zip(signature.outputs, outs, strict=False)
            if value is not None and (rc >= 0)
        ]
    return " ".join((text, *words))


def send_crq(parts: Parts, args: Sequence[int]) -> None:
    """Show the element in the words of H_SEND_CRQ, and say it instead of them."""
    if len(args) < 3 or any(not 0 <= arg <= _U64 for arg in args[:3]):
        parts.problems.append("H_SEND_CRQ without its three arguments")
        return
    element = from_words(args[1], args[2])
    own = (FIELDS["crq.unit"](args[0] & 0xFFFFFFFF), FIELDS["crq.element"](element))
    text = crq_layers(parts, element, own)
    parts.summary = f"H_SEND_CRQ unit={args[0]:#x} {text}"
    if not is_sendable(element):
        parts.problems.append(f"H_SEND_CRQ of an element with header {element[0]:#04x}")


def crq_layers(parts: Parts, element: bytes, own: Sequence[Field] = (), *, is_vmc: bool = False) -> str:
    """Add the layers of an element, ``own`` fields first; return it as text."""
    if len(element) != ELEMENT_BYTES:
        parts.layers.append(Layer("crq", tuple(own), "element"))
        parts.problems.append(f"CRQ element of {len(element)} bytes, not {ELEMENT_BYTES}")
        return f"element of {len(element)} bytes"
    fields = [*own, FIELDS["crq.header"](element[0]), FIELDS["crq.format"](element[1])]
    decoded, message = decode_element(element), None
    match decoded:
        case CrqInit() | CrqInitComplete():
            fields.append(FIELDS["crq.init"](element[1]))
        case TransportEvent(code):
            fields.append(FIELDS["crq.event"](int(code)))
            if not code.is_known:
                parts.problems.append(f"unknown transport event {element[1]:#04x}")
        case ReservedElement():
            parts.problems.append(f"reserved CRQ header {element[0]:02x} {element[1]:02x}")
        case Command() if is_vmc or looks_like_vmc(element):
            message = vmc_layer(element)
            if vmc.VmcType(element[1]).is_known is False:
                parts.problems.append(f"unknown VMC type {element[1]:#04x}")
        case _:
            pass
    text = message.summary if message is not None else f"CRQ {describe_element(element)}"
    parts.layers.append(Layer("crq", tuple(fields), text))
    if message is not None:
        parts.layers.append(message)
    return text


def looks_like_vmc(element: bytes) -> bool:
    """Whether a command element is a VMC message, as far as its bytes tell."""
    match vmc.decode_vmc(element):
        case vmc.Unknown():
            return False
        case vmc.Capabilities(version=version) | vmc.CapabilitiesResponse(version=version):
            return version >> 8 == 1 and not any(element[3:5])
        case vmc.Signal():
            return True
        case vmc.AddBuffer():
            return not any(element[8:12])
        case _:
            return not any(element[8:16])


_ADMINISTRATIVE: Final = ("max_hmc", "pool_size", "max_mtu", "crq_size", "version")


def vmc_layer(element: bytes) -> Layer:
    """The layer of a VMC message; unknown ones have their type only."""
    message = vmc.decode_vmc(element)
    fields = [FIELDS["vmc.type"](element[1])]
    for name in ("status", *_ADMINISTRATIVE, "owner", "session", "index", "buffer_id", "lioba", "length"):
        value = getattr(message, name, None)
        if value is not None:
            fields.append(FIELDS[f"vmc.{name}"](value))
    return Layer("vmc", tuple(fields), f"VMC {_vmc_text(message, vmc.VmcType(element[1]))}")


def _vmc_text(message: vmc.VmcMessage, kind: vmc.VmcType) -> str:
    words = [str(kind)]
    if isinstance(message, vmc.Unknown):
        return f"type {int(kind):#04x} {message.raw.hex()}"
    if isinstance(message, vmc.Capabilities | vmc.CapabilitiesResponse):
        words.append(
            f"max_hmc {message.max_hmc} pool {message.pool_size} MTU {message.max_mtu} CRQ {message.crq_size}"
            f" version {message.version >> 8}.{message.version & 0xFF}"
        )
    else:
        words.append(f"hmc {message.index}/{message.session}")
        number = getattr(message, "buffer_id", None)
        if number is not None:
            words.append("no buffer" if number == vmc.NO_BUFFER else f"buffer {number}")
    if isinstance(message, vmc.AddBuffer):
        words.append(f"owner {'partition' if message.owner == 0 else 'hypervisor'} lioba {message.lioba:#x}")
    elif isinstance(message, vmc.Signal):
        words.append(f"length {message.length}")
    status = getattr(message, "status", None)
    if status is not None:
        words.append("ok" if status == 0 else f"status {status}")
    return " ".join(words)


def payload_layers(parts: Parts, data: bytes) -> str:
    """Add the layers of what a VMC session carries, where it is known; return it as text, else nothing."""
    try:
        if is_frame(data):
            return _management(parts, decode_frame(data))
        if data[:3] == DESCRIPTOR:
            return _router(parts, data)
    except (WireError, DecodeError):
        pass  # cut short by the recording, or somebody else's bytes
    return ""


def _management(parts: Parts, body: bytes) -> str:
    command = Management()
    command.ParseFromString(body)
    name = command.WhichOneof("command")
    message: Management | ManagementReply = command
    if name is None:
        message = ManagementReply()
        message.ParseFromString(body)
        name = f"reply {message.Status.Name(message.status)}"
    parts.layers.append(Layer("mgmt", tuple(message_fields(message, "mgmt")), name))
    return f"management {name}"


def _router(parts: Parts, data: bytes) -> str:
    message = decode_router(data)
    values: dict[str, Value] = {
        "target": message.target, "opcode": message.opcode, "correlation": message.correlation,
        "flags": message.flags, "rc": message.rc, "data": message.data,
    }  # fmt: skip
    text = f"router {RouterOpcode(message.opcode)}"
    if message.is_response:
        text += f" {RouterRc(message.rc)}"
    parts.layers.append(Layer("router", tuple(FIELDS[f"router.{name}"](value) for name, value in values.items()), text))
    return text


def carried_text(parts: Parts, data: bytes) -> str:
    """The bytes that a call or a device carries: what they are, or how they begin."""
    if not data:
        return ""
    return f" [{payload_layers(parts, data) or bytes_text(data, 16)}]"
