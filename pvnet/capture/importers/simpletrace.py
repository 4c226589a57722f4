"""QEMU's binary trace file ("simple" backend): the sPAPR events and KVM's hcall exits in it.

::

    header    u64 ~0, u64 magic F2B177CB0AA429B4, u64 version (4), in the byte order of the machine
    record    u64 kind; 0: u64 id, u32 length, name; 1: u64 id, u64 ns, u32 length of the record, u32 pid, arguments

A text argument is u32 length and bytes, which only the event's definition tells from a number: arguments are taken as
numbers where eight bytes each fill the record, otherwise they stay bytes in hex.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

from pvnet.capture.importers.calls import ImportedCall, Item
from pvnet.capture.importers.detect import SIMPLETRACE_MAGIC
from pvnet.capture.importers.lines import Problems
from pvnet.capture.importers.qemu import event_item
from pvnet.core.errors import ConfigError

SOURCE: Final = "simpletrace"
VERSION: Final = 4
_NAME_BYTES: Final = 256
_MAX_NAMES: Final = 1 << 16
_MAX_RECORD: Final = 1 << 16
_RECORD_HEAD: Final = 24
_DROPPED: Final = (1 << 64) - 2
"""Identity of the record that says how many events were dropped."""


class _Cut(Exception):  # noqa: N818 - not an error: the end
    """The file ends in the middle of a record."""


def import_simpletrace(stream: BinaryIO, problems: Problems) -> Iterator[Item]:
    """Yield the events; reading ends at the first record that is damaged, which is a problem with its offset.

    Raises :class:`ConfigError` for another version of the format.
    """
    head = stream.read(24)
    order = "<" if int.from_bytes(head[8:16], "little") == SIMPLETRACE_MAGIC else ">"
    version = struct.unpack(order + "Q", head[16:24])[0] if len(head) == 24 else None
    if version != VERSION:
        raise ConfigError(f"{problems.path}: QEMU trace file of version {version}: expected {VERSION}")
    names: dict[int, str] = {}
    offset = 24
    while kind_bytes := stream.read(8):
        try:
            (kind,) = struct.unpack(order + "Q", _all(kind_bytes, 8))
            if kind == 0:
                size = _name(stream, order, names)
            elif kind == 1:
                size, item = _event(stream, order, names, offset)
                if item is not None:
                    yield item
            else:
                raise ValueError(f"record of kind {kind:#x}")
        except _Cut:
            problems.note(f"{problems.path}: offset {offset}: the file ends in the middle of a record")
            return
        except ValueError as error:
            problems.note(f"{problems.path}: offset {offset}: {error}: reading ends here")
            return
        offset += 8 + size


def _all(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise _Cut
    return data


def _name(stream: BinaryIO, order: str, names: dict[int, str]) -> int:
    number, length = struct.unpack(order + "QI", _all(stream.read(12), 12))
    if length > _NAME_BYTES or len(names) >= _MAX_NAMES:
        raise ValueError(f"event name of {length} bytes, the {len(names) + 1}th")
    names[number] = _all(stream.read(length), length).decode(errors="replace")
    return int(12 + length)


def _event(stream: BinaryIO, order: str, names: dict[int, str], offset: int) -> tuple[int, Item | None]:
    number, time_ns, length, pid = struct.unpack(order + "QQII", _all(stream.read(_RECORD_HEAD), _RECORD_HEAD))
    if not _RECORD_HEAD <= length <= _MAX_RECORD:
        raise ValueError(f"record of {length} bytes")
    body = _all(stream.read(length - _RECORD_HEAD), length - _RECORD_HEAD)
    return length, _item(number, names.get(number, ""), time_ns, pid, body, order, offset)


def _item(number: int, name: str, time_ns: int, pid: int, body: bytes, order: str, offset: int) -> Item | None:
    plain = len(body) % 8 == 0
    numbers = struct.unpack(f"{order}{len(body) // 8}Q", body) if plain else ()
    if number == _DROPPED:
        count = numbers[0] if numbers else None
        values: dict[str, object] = {"source": SOURCE, "cpu": None, "time": time_ns / 1_000_000_000, "lost": count}
        return Item(values, time_ns, offset)
    if name == "kvm_handle_papr_hcall":
        call = ImportedCall(SOURCE, numbers[0] if numbers else None, time_ns=time_ns, note=f"pid {pid}")
        return Item(call.to_json(), time_ns, offset)
    if not name.startswith("spapr_"):
        return None
    shown = {f"arg{at}": hex(value) for at, value in enumerate(numbers)} if plain else {"bytes": body.hex()}
    return event_item(name, shown, time_ns, offset, f"pid {pid}", SOURCE)
