"""vfio-user messages as layers: header, and the payload of each command and reply.

Spec: mdev 6.1 to 6.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from pvnet.capture.decode_fields import Field, Layer
from pvnet.capture.decode_papr import Parts
from pvnet.capture.decode_table import FIELDS
from pvnet.mdev import vfio_layout
from pvnet.mdev.names import MigrationState
from pvnet.mdev.vfio_user import (
    ACCESS,
    DMA,
    DMA_COUNT,
    DMA_MAP,
    DMA_UNMAP,
    ERROR,
    HEADER,
    HEADER_SIZE,
    IO_FDS,
    MIG_DATA,
    MULTI_HEAD,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    VERSION_HEAD,
    Command,
    command_name,
)
from pvnet.papr.errno import name_of

_FEATURE_STATE: Final = 2
_STATE: Final = vfio_layout.DEVICE_STATE


@dataclass(frozen=True, slots=True)
class VfioHead:
    """The header of a message."""

    ident: int
    command: int
    is_reply: bool
    wants_reply: bool
    """A command that is answered."""


def vfio_layer(parts: Parts, data: bytes) -> VfioHead | None:
    """Add the layer of one message; None when it has no header."""
    if len(data) < HEADER_SIZE:
        parts.problems.append(f"vfio-user message of {len(data)} bytes, {HEADER_SIZE} are the least")
        parts.layers.append(Layer("vfio", (), "cut short"))
        parts.summary = f"vfio-user message of {len(data)} bytes"
        return None
    ident, command, size, flags, error = HEADER.unpack_from(data)
    fields = [
        FIELDS["vfio.id"](ident),
        FIELDS["vfio.command"](command),
        FIELDS["vfio.size"](size),
        FIELDS["vfio.flags"](flags),
    ]
    kind = flags & TYPE_MASK
    is_reply, is_error = kind == TYPE_REPLY, bool(flags & ERROR)
    text = command_name(command)
    if size != len(data):
        parts.problems.append(f"vfio-user: size {size} in a message of {len(data)} bytes")
    if kind not in (TYPE_COMMAND, TYPE_REPLY):
        parts.problems.append(f"vfio-user: type {kind}")
    if command not in list(Command):
        parts.problems.append(f"vfio-user: unknown command {command}")
    if is_error:
        fields.append(FIELDS["vfio.error"](error))
        text += f" reply {name_of(error)}"
    elif error:
        parts.problems.append(f"vfio-user: errno {error} without the Error bit")
    if not is_error:
        text += " reply" if is_reply else ""
        text += _payload(parts, fields, command, data[HEADER_SIZE:], is_reply=is_reply)
    parts.layers.append(Layer("vfio", tuple(fields), text))
    parts.summary = text
    return VfioHead(ident, command, is_reply, kind == TYPE_COMMAND and not flags & NO_REPLY)


def _payload(parts: Parts, fields: list[Field], command: int, body: bytes, *, is_reply: bool) -> str:
    shown = _PAYLOADS.get(command)
    if shown is None or (is_reply and command in _EMPTY_REPLIES and len(body) in (0, DMA_COUNT.size)):
        return ""
    layout, function = shown
    if len(body) < layout.size:
        parts.problems.append(f"{command_name(command)}: {len(body)} bytes of payload, {layout.size} are the least")
        return ""
    return function(fields, body, is_reply)


def _add(fields: list[Field], **values: int | str | bytes) -> None:
    fields += [FIELDS[f"vfio.{name}"](value) for name, value in values.items()]


def _version(fields: list[Field], body: bytes, _reply: bool) -> str:
    major, minor = VERSION_HEAD.unpack_from(body)
    text = body[VERSION_HEAD.size :].rstrip(b"\0").decode(errors="replace")
    _add(fields, major=major, minor=minor, capabilities=text)
    return f" {major}.{minor} {text}".rstrip()


def _dma_map(fields: list[Field], body: bytes, _reply: bool) -> str:
    argsz, flags, offset, address, size = DMA_MAP.unpack_from(body)
    _add(fields, argsz=argsz, dma_flags=flags, file_offset=offset, address=address, length=size)
    return f" {address:#x} of {size:#x} bytes {fields[-4].text.partition(' ')[2]}".rstrip()


def _dma_unmap(fields: list[Field], body: bytes, _reply: bool) -> str:
    argsz, flags, address, size = DMA_UNMAP.unpack_from(body)
    _add(fields, argsz=argsz, unmap_flags=flags, address=address, length=size)
    return f" {address:#x} of {size:#x} bytes"


def _device_info(fields: list[Field], body: bytes, reply: bool) -> str:
    argsz, flags, regions, irqs = vfio_layout.DEVICE_INFO.unpack_from(body)
    _add(fields, argsz=argsz, device_flags=flags, regions=regions, irqs=irqs)
    return f" {regions} regions, {irqs} irqs" if reply else ""


def _region_info(fields: list[Field], body: bytes, reply: bool) -> str:
    argsz, flags, index, _cap, size, offset = vfio_layout.REGION_INFO.unpack_from(body)
    _add(fields, argsz=argsz, region=index, region_flags=flags, region_size=size, file_offset=offset)
    return f" region {index}" + (f" of {size:#x} bytes" if reply else "")


def _io_fds(fields: list[Field], body: bytes, _reply: bool) -> str:
    argsz, _flags, index, count = IO_FDS.unpack_from(body)
    _add(fields, argsz=argsz, region=index, count=count)
    return f" region {index}"


def _irq_info(fields: list[Field], body: bytes, reply: bool) -> str:
    argsz, flags, index, count = vfio_layout.IRQ_INFO.unpack_from(body)
    _add(fields, argsz=argsz, irq_flags=flags, irq=index, irq_count=count)
    return f" irq {index}" + (f" count {count}" if reply else "")


def _set_irqs(fields: list[Field], body: bytes, _reply: bool) -> str:
    argsz, flags, index, start, count = vfio_layout.IRQ_SET.unpack_from(body)
    _add(fields, argsz=argsz, irq_set=flags, irq=index, irq_start=start, irq_count=count)
    data = body[vfio_layout.IRQ_SET.size :]
    if data:
        _add(fields, data=data)
    names = FIELDS["vfio.irq_set"].text(flags).partition(" ")[2]
    return f" irq {index} start {start} count {count} {names}".rstrip()


def _access(fields: list[Field], body: bytes, _reply: bool) -> str:
    offset, region, count = ACCESS.unpack_from(body)
    _add(fields, offset=offset, region=region, count=count)
    return f" region {region} at {offset:#x}, {count} bytes{_data(fields, body[ACCESS.size :])}"


def _data(fields: list[Field], data: bytes) -> str:
    if not data:
        return ""
    _add(fields, data=data)
    return f": {FIELDS['vfio.data'].text(data[:8])}" + ("..." if len(data) > 8 else "")


def _multi(fields: list[Field], body: bytes, _reply: bool) -> str:
    (count,) = MULTI_HEAD.unpack_from(body)
    _add(fields, count=count)
    return f" {count} writes{_data(fields, body[MULTI_HEAD.size :])}"


def _dma(fields: list[Field], body: bytes, _reply: bool) -> str:
    address, count = DMA.unpack_from(body)
    _add(fields, address=address, count=count)
    return f" {address:#x}, {count} bytes{_data(fields, body[DMA.size :])}"


def _feature(fields: list[Field], body: bytes, _reply: bool) -> str:
    argsz, flags = vfio_layout.FEATURE.unpack_from(body)
    number, data = flags & 0xFFFF, body[vfio_layout.FEATURE.size :]
    _add(fields, argsz=argsz, feature=number, feature_flags=flags & ~0xFFFF)
    names = FIELDS["vfio.feature"].values
    text = f" {names.get(number, str(number))} {FIELDS['vfio.feature_flags'].text(flags & ~0xFFFF).partition(' ')[2]}"
    if number == _FEATURE_STATE and len(data) >= _STATE.size:
        state = _STATE.unpack_from(data)[0]
        _add(fields, migration_state=state)
        return f"{text} {MigrationState(state).name if state in list(MigrationState) else state}"
    return text.rstrip() + _data(fields, data)


def _migration_data(fields: list[Field], body: bytes, _reply: bool) -> str:
    argsz, size = MIG_DATA.unpack_from(body)
    _add(fields, argsz=argsz, count=size)
    return f" {size} bytes{_data(fields, body[MIG_DATA.size :])}"


_Shown = Callable[[list[Field], bytes, bool], str]
_PAYLOADS: Final[dict[int, tuple[Struct, _Shown]]] = {
    Command.VERSION: (VERSION_HEAD, _version),
    Command.DMA_MAP: (DMA_MAP, _dma_map),
    Command.DMA_UNMAP: (DMA_UNMAP, _dma_unmap),
    Command.DEVICE_GET_INFO: (vfio_layout.DEVICE_INFO, _device_info),
    Command.DEVICE_GET_REGION_INFO: (vfio_layout.REGION_INFO, _region_info),
    Command.DEVICE_GET_REGION_IO_FDS: (IO_FDS, _io_fds),
    Command.DEVICE_GET_IRQ_INFO: (vfio_layout.IRQ_INFO, _irq_info),
    Command.DEVICE_SET_IRQS: (vfio_layout.IRQ_SET, _set_irqs),
    Command.REGION_READ: (ACCESS, _access),
    Command.REGION_WRITE: (ACCESS, _access),
    Command.REGION_WRITE_MULTI: (MULTI_HEAD, _multi),
    Command.DMA_READ: (DMA, _dma),
    Command.DMA_WRITE: (DMA, _dma),
    Command.DEVICE_FEATURE: (vfio_layout.FEATURE, _feature),
    Command.MIG_DATA_READ: (MIG_DATA, _migration_data),
    Command.MIG_DATA_WRITE: (MIG_DATA, _migration_data),
}
_EMPTY_REPLIES: Final = frozenset(
    {Command.DMA_MAP, Command.DMA_UNMAP, Command.DEVICE_SET_IRQS, Command.DMA_WRITE, Command.MIG_DATA_WRITE}
)
"""Replies that may have no payload, or (DMA_WRITE of some servers) a count only."""
