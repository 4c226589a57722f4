"""``pvnet-hcall-trace/1`` and ``pvnet-vmc-transcript/1`` as records: each line stays as it is, so nothing is lost.

The first record of the interface is the line with ``meta``.

Spec: conformance/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

from pvnet.capture.importers.calls import parse_object, time_of
from pvnet.capture.importers.lines import Problems, read_lines
from pvnet.capture.jsonl import MAX_LINE_BYTES
from pvnet.capture.model import LINKTYPE_HCALL, Direction, Interface, Record


def import_recording(name: str, stream: BinaryIO, problems: Problems) -> Iterator[Record]:
    """Yield the lines of a recording; ``name`` is ``hcall-trace`` or ``transcript``."""
    interface: Interface | None = None
    number = 0
    for line in read_lines(stream, problems, MAX_LINE_BYTES):
        text = line.text.strip()
        if not text:
            continue
        values = parse_object(text)
        if values is None:
            half = " (the file ends in the middle of it)" if line.is_last_half else ""
            problems.add(line.number, f"not a JSON object{half}: skipped")
            continue
        if interface is None:
            interface = Interface(f"{name}/hcall", LINKTYPE_HCALL, _description(values))
        number += 1
        yield Record(
            interface, time_of(values, "t"), text.encode(), direction_of(values), number=number, offset=line.offset
        )


def _description(first: Mapping[str, object]) -> str:
    meta = first.get("meta")
    source = meta.get("source") if isinstance(meta, dict) else None
    return source[:200].encode(errors="replace").decode() if isinstance(source, str) else ""


def direction_of(values: Mapping[str, object]) -> Direction:
    """Which way a line went, as the partition sees it."""
    if "crq_in" in values or values.get("from") == "hypervisor":
        return Direction.IN
    if "opcode" in values or "hcall" in values or values.get("from") == "partition":
        return Direction.OUT
    return Direction.UNKNOWN
