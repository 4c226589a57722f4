"""Generate ``pvnet.lua`` from the schema's descriptors, the field names of ``pvnet show`` and the files in ``parts``.

``--check`` compares instead of writing (exit 1 when they differ).  The plugin is one file, because Wireshark loads each
file of its plugin directory by itself, in no stated order.
"""

# ruff: noqa: INP001  (a script)
from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from pvnet.capture.decode_table import FIELDS, LAYER_OF_BODY, MAX_DEPTH
from pvnet.papr import errno
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.signatures import SIGNATURES, Unit
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.transport.envelope import REPLY_BODIES, SCHEMA_VERSION

HERE: Final = Path(__file__).resolve().parent
OUTPUT: Final = HERE / "pvnet.lua"
PARTS: Final = (
    "base",
    "protobuf",
    "json",
    "payload",
    "crq",
    "hcall",
    "memory",
    "vbus",
    "vfio",
    "frame",
    "envelope",
    "register",
)
"""Files of ``parts`` in the order in which they are needed."""

_HEAD: Final = """\
-- Wireshark plugin for pvnet: hypervisor calls, CRQs, VMC, SCM, vbus, venet, VFIO, in captures and on MQTT.
-- Made by deploy/wireshark/generate.py from the schema and the files in parts/; do not edit.
-- SPDX-License-Identifier: Apache-2.0
"""
_DECIMAL: Final = frozenset({Unit.PAGES, Unit.MODE, Unit.BLOCKS})
_D: Final = FieldDescriptor
_KINDS: Final[Mapping[int, str]] = {
    _D.TYPE_UINT32: "uint32",
    _D.TYPE_UINT64: "uint64",
    _D.TYPE_INT32: "int32",
    _D.TYPE_INT64: "int64",
    _D.TYPE_SINT32: "sint32",
    _D.TYPE_SINT64: "sint64",
    _D.TYPE_FIXED32: "fixed32",
    _D.TYPE_FIXED64: "fixed64",
    _D.TYPE_BOOL: "bool",
    _D.TYPE_ENUM: "enum",
    _D.TYPE_STRING: "string",
    _D.TYPE_BYTES: "bytes",
    _D.TYPE_MESSAGE: "message",
}
"""Kinds that parts/protobuf.lua reads; a schema with another one does not generate."""


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _names(values: Iterable[tuple[int, str]], *, hex: bool = False) -> str:  # noqa: A002
    items = (f"[{number:#x}]={_text(name)}" if hex else f"[{number}]={_text(name)}" for number, name in values)
    return "{" + ", ".join(items) + "}"


def _wrapped(items: Iterable[str]) -> Iterator[str]:
    """Lines of at most 118 columns."""
    line = " "
    for item in items:
        if len(line) + len(item) + 2 > 118 and line != " ":
            yield line
            line = " "
        line += f" {item},"
    yield line


def _table(name: str, values: Mapping[int, str]) -> Iterator[str]:
    yield f"local {name} = {{"
    yield from _wrapped(f"[{number}]={_text(text)}" for number, text in sorted(values.items()))
    yield "}"


def _fields() -> Iterator[str]:
    """FIELDS: name, type, hex, flags, values, help."""
    numbers: dict[str, int] = {}
    tables: list[str] = []
    rows = []
    for spec in FIELDS.values():
        values = "nil"
        if spec.values:
            table = _names(sorted(spec.values.items()))
            if table not in numbers:
                tables.append(table)
                numbers[table] = len(tables)
            values = f"VALUES[{numbers[table]}]"
        is_hex, is_flags = str(spec.hex).lower(), str(spec.flags).lower()
        rows.append(f"  {{{_text(spec.name)}, {_text(spec.type.value)}, {is_hex}, {is_flags}, {values},")
        rows.append(f"   {_text(spec.help or spec.name)}}},")
    yield "local VALUES = {"
    for table in tables:
        yield "  {"
        yield from ("  " + line for line in _wrapped(table[1:-1].split(", ")))
        yield "  },"
    yield "}"
    yield "local FIELDS = {"
    yield from rows
    yield "}"


def _is_list(field: Any) -> bool:
    known = getattr(field, "is_repeated", None)
    return bool(field.label == 3 if known is None else known)


def _message(descriptor: Any) -> Iterator[str]:
    """One entry of MESSAGES: fields in the order of the schema."""
    yield f"  [{_text(descriptor.full_name)}] = {{"
    for field in descriptor.fields:
        kind = _KINDS[field.type]
        words = [str(field.number), _text(field.name), _text(kind)]
        if field.type == _D.TYPE_MESSAGE and field.message_type.GetOptions().map_entry:
            inner = {item.name: _KINDS[item.type] for item in field.message_type.fields}
            if inner != {"key": "string", "value": "string"}:
                raise SystemExit(f"{descriptor.full_name}.{field.name}: only maps of texts to texts are known")
            words[2] = _text("map")
        elif kind == "message":
            words.append(f"type={_text(field.message_type.full_name)}")
        if words[2] != _text("map"):
            if _is_list(field):
                words.append("list=true")
            elif field.has_presence:
                words.append("optional=true")
        if field.containing_oneof is not None and not field.containing_oneof.name.startswith("_"):
            words.append(f"oneof={_text(field.containing_oneof.name)}")
        yield f"    {{{', '.join(words)}}},"
    yield "  },"


def _messages() -> Iterator[str]:
    found: dict[str, Any] = {}

    def visit(descriptor: Any) -> None:
        if descriptor.full_name in found:
            return
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.type == _D.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
                visit(field.message_type)

    for root in (Envelope, Management, ManagementReply):
        visit(root.DESCRIPTOR)
    yield "local MESSAGES = {"
    for name in sorted(found):
        yield from _message(found[name])
    yield "}"


def _bodies() -> Iterator[str]:
    yield "-- Kind of body: its layer, and whether it ends a call."
    yield "local BODIES = {"
    for field in Envelope.DESCRIPTOR.oneofs_by_name["body"].fields:
        is_reply = str(field.name in REPLY_BODIES).lower()
        yield f"  {field.name} = {{layer={_text(LAYER_OF_BODY.get(field.name, field.name))}, reply={is_reply}}},"
    yield "}"


def _signatures() -> Iterator[str]:
    def words(arguments: Iterable[Any]) -> str:
        return ", ".join(f"{{{_text(a.name)}, {str(a.unit not in _DECIMAL).lower()}}}" for a in arguments)

    yield "-- Hypervisor calls: names of their registers from r4 up, and whether they print in hex."
    yield "local SIGNATURES = {"
    for opcode, signature in SIGNATURES.items():
        yield f"  [{int(opcode)}] = {{inputs={{{words(signature.inputs)}}}, outputs={{{words(signature.outputs)}}}}},"
    yield "}"


def generate() -> str:
    """Return the text of the plugin."""
    lines = [_HEAD, f"local SCHEMA_VERSION = {SCHEMA_VERSION}", f"local MAX_DEPTH = {MAX_DEPTH}"]
    lines += _table("OPCODES", {int(item): item.name for item in HcallOpcode})
    lines += _table("RCS", {int(item): item.name for item in HcallRc})
    numbers = {value: name for name, value in vars(errno).items() if name.startswith("E") and isinstance(value, int)}
    lines += _table("ERRNO", numbers)
    for section in (_fields, _messages, _bodies, _signatures):
        lines += section()
    lines.append("local P = {}")
    for part in PARTS:
        text = (HERE / "parts" / f"{part}.lua").read_text(encoding="utf-8")
        lines += [f"\ndo -- parts/{part}.lua", text.rstrip("\n"), "end"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the plugin, or with ``--check`` say whether it is up to date."""
    text = generate()
    if "--check" not in sys.argv[1:]:
        OUTPUT.write_text(text, encoding="utf-8")
        return 0
    if OUTPUT.exists() and OUTPUT.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("deploy/wireshark/pvnet.lua is not up to date: run python deploy/wireshark/generate.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
