"""Compare the message schema with the one that was promised (``tests/vectors/schema-v1.json``).

Peers of different releases talk to each other, so within one schema version a field keeps its number, its type, its
name and its oneof, and nothing is removed; additions are fine and are recorded by ``--write`` (``make proto``).
Without ``--write``: exit 1 when something promised changed, or an addition is not recorded yet.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

ROOT = Path(__file__).resolve().parent.parent
PROMISE = ROOT / "tests/vectors/schema-v1.json"

Schema = dict[str, str]
"""What is promised, one line each: ``Message.field`` or ``Enum.VALUE`` to number, label, type and oneof."""


def current() -> Schema:
    """Read the schema of the generated modules in ``pvnet/pb/v1``."""
    found: Schema = {}
    for path in sorted((ROOT / "proto/pvnet/pb/v1").glob("*.proto")):
        module = importlib.import_module(f"pvnet.pb.v1.{path.stem}_pb2")
        file = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        for message in file.message_type:
            found.update(_message(message, f"{file.package}.{message.name}"))
        for enum in file.enum_type:
            found.update(_enum(enum, f"{file.package}.{enum.name}"))
    return found


def _message(message: DescriptorProto, name: str) -> Iterator[tuple[str, str]]:
    for field in message.field:
        kind = field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
        oneof = ""
        if field.HasField("oneof_index") and not field.proto3_optional:
            oneof = f" in oneof {message.oneof_decl[field.oneof_index].name}"
        elif field.proto3_optional:
            oneof = " optional"
        yield f"{name}.{field.name}", f"{field.number}: {repeated}{kind}{oneof}"
    for nested in message.nested_type:
        yield from _message(nested, f"{name}.{nested.name}")
    for enum in message.enum_type:
        yield from _enum(enum, f"{name}.{enum.name}")


def _enum(enum: EnumDescriptorProto, name: str) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"{name}.{value.name}", f"{value.number}"


def broken(promised: Schema, now: Schema) -> list[str]:
    """Say, one line each, which promises ``now`` breaks."""
    lines = []
    for name, promise in sorted(promised.items()):
        if name not in now:
            lines.append(f"{name} was removed or renamed (promised as {promise})")
        elif now[name] != promise:
            lines.append(f"{name} is {now[name]}, promised as {promise}")
    return lines


def main() -> int:
    """Check, or with ``--write`` record additions."""
    sys.path[:0] = [str(ROOT)]
    promised: Schema = json.loads(PROMISE.read_text()) if PROMISE.exists() else {}
    now = current()
    lines = broken(promised, now)
    added = sorted(now.keys() - promised.keys())
    if not lines and "--write" in sys.argv[1:]:
        PROMISE.write_text(json.dumps(dict(sorted(now.items())), indent=0) + "\n")
        return 0
    for name in added:
        lines.append(f"{name} is new and not recorded: run make proto")
    for line in lines:
        sys.stderr.write(line + "\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
