"""Lines of imported recordings: hcalls with their results, elements, observations, an application's acts.

The JSON is that of ``pvnet-hcall-trace/1`` and ``pvnet-vmc-transcript/1``, a record a line.  What a line does not say
stays unknown: a register without a value is a field whose value is None, never 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pvnet.capture.decode_fields import Field, Layer, bytes_text
from pvnet.capture.decode_papr import Parts, carried_text, crq_layers, hcall_text, result_text, send_crq
from pvnet.capture.decode_table import FIELDS
from pvnet.papr.hcall import HcallOpcode

HYPERVISOR: Final = "hypervisor"
PARTITION: Final = "partition"
_FORMATS: Final = frozenset(
    {"hcall-trace", "transcript", "tracefs", "trace-cmd", "perf", "qemu-log", "simpletrace", "dmesg"}
)
"""Imports whose interface is named after the format: the log does not say whose it is."""
_REGISTER: Final = re.compile(r"r([4-9]|1[0-2])")
_MAX_LINE: Final = 1 << 20
_SHOWN: Final = 200


@dataclass(slots=True)
class LineEnds:
    """Who said what a line is about, and what kind of line it is."""

    kind: str
    source: str = ""
    destination: str = ""
    is_reply: bool = False


def decode_line(parts: Parts, data: bytes, node: str) -> LineEnds:
    """Add the layers of one line; ``node`` is the partition's name where the capture has one."""
    partition = PARTITION if node in _FORMATS or not node else node
    try:
        value = json.loads(data) if len(data) <= _MAX_LINE else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        parts.problems.append("not a line with a JSON object")
        parts.summary = data[:_SHOWN].decode(errors="replace").strip()
        return LineEnds("unknown")
    entry = _Entry(value, parts)
    if "opcode" in value or "hcall" in value:
        return _hcall(entry, partition)
    if "from" in value or "crq_in" in value:
        return _element(entry, partition)
    if "app" in value:
        return _app(entry, partition)
    if "observe" in value:
        return _observed(entry)
    if "lost" in value:
        return _lost(entry)
    if "event" in value:
        return _event(entry, partition)
    text = next((value[name] for name in ("mark", "text", "raw") if isinstance(value.get(name), str)), None)
    if text is None:
        text = "meta" if "meta" in value else data[:_SHOWN].decode(errors="replace").strip()
    parts.layers.append(Layer("mark", (FIELDS["mark.text"](text),), text))
    parts.summary = f"# {text}"
    return LineEnds("mark")


@dataclass(slots=True)
class _Entry:
    """The object of a line: what is not of the right kind is a problem and counts as unknown."""

    values: Mapping[str, Any]
    parts: Parts

    def number(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        number = _number(value)
        if number is None:
            self.parts.problems.append(f"{name}: {str(value)[:40]!r} is no number")
        return number

    def numbers(self, name: str) -> list[int | None]:
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > 16:
            self.parts.problems.append(f"{name}: not a list of at most 16 numbers")
            return []
        return [_number(item) for item in value]

    def text(self, name: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def data(self, name: str) -> bytes:
        try:
            return bytes.fromhex(self.text(name))
        except ValueError:
            self.parts.problems.append(f"{name}: not hex digits")
            return b""


def _number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else None
    try:
        number = int(value, 0) if isinstance(value, str) and len(value) <= 20 else None
    except ValueError:
        return None
    return number if number is not None and -(1 << 63) <= number < 1 << 64 else None


def _opcode(entry: _Entry) -> int | None:
    name = entry.values.get("hcall")
    if isinstance(name, str) and name in HcallOpcode.__members__:
        return int(HcallOpcode[name])
    number = entry.number("opcode") if "opcode" in entry.values else entry.number("hcall")
    return None if number is None else number & (1 << 64) - 1


def _outs(entry: _Entry) -> list[int | None]:
    if isinstance(entry.values.get("outs"), list):
        return entry.numbers("outs")
    after = entry.values.get("outs", entry.values.get("after"))
    if not isinstance(after, dict):
        return []
    found = {int(match[1]): _number(value) for name, value in after.items() if (match := _REGISTER.fullmatch(name))}
    return [found.get(number) for number in range(4, max(found, default=3) + 1)]


def _hcall(entry: _Entry, partition: str) -> LineEnds:
    parts = entry.parts
    opcode, args, rc, outs = _opcode(entry), entry.numbers("args"), entry.number("rc"), _outs(entry)
    fields: list[Field] = [FIELDS["hcall.opcode"](opcode)]
    fields += [FIELDS["hcall.args"](value) for value in args]
    fields.append(FIELDS["hcall.rc"](rc))
    fields += [FIELDS["hcall.outs"](value) for value in outs]
    for name in ("note", "direction"):
        if entry.text(name):
            fields.append(FIELDS[f"hcall.{name}"](entry.text(name)))
    if entry.text("data_head"):
        fields.append(FIELDS["hcall.data"](entry.data("data_head")))
    took = entry.values.get("took")
    if isinstance(took, int | float) and 0 <= took < 1 << 33:
        fields.append(FIELDS["hcall.took_ns"](round(took * 1_000_000_000)))
    parts.layers.append(Layer("hcall", tuple(fields)))
    known = [value for value in args if value is not None]
    if opcode is None:
        parts.summary = "hcall"
    elif opcode == HcallOpcode.H_SEND_CRQ and len(known) == len(args) >= 3:
        send_crq(parts, known)
    elif len(known) < len(args):
        shown = " ".join("unknown" if value is None else f"{value:#x}" for value in args)
        parts.summary = f"{HcallOpcode(opcode)} {shown}"
    else:
        parts.summary = hcall_text(opcode, known) + ("" if entry.values.get("args") is not None else " (args unknown)")
    if entry.text("data_head"):
        parts.summary += carried_text(parts, entry.data("data_head"))
    if rc is not None:
        parts.summary += f" = {result_text(rc, outs, opcode)}"
    elif "rc" in entry.values:
        parts.summary += " = unknown"
    if entry.text("note"):
        parts.summary += f" # {entry.text('note')}"
    return LineEnds("hcall", partition, HYPERVISOR)


def _element(entry: _Entry, partition: str) -> LineEnds:
    """An element that went one way or the other; only transcripts say that it is a VMC's."""
    is_transcript = "from" in entry.values
    element = entry.data("crq" if is_transcript else "crq_in")
    text = crq_layers(entry.parts, element, (FIELDS["crq.element"](element),), is_vmc=is_transcript)
    rc = entry.number("rc")
    if rc:
        text += f" = {result_text(rc, ())}"
    entry.parts.summary = text
    ends = (partition, HYPERVISOR) if entry.text("from") == PARTITION else (HYPERVISOR, partition)
    return LineEnds("crq", *ends)


def _app(entry: _Entry, partition: str) -> LineEnds:
    act, index, length, data = entry.text("app"), entry.number("hmc_index"), entry.number("length"), b""
    fields = [FIELDS["app.act"](act), FIELDS["app.hmc_index"](index)]
    text = f"application {act} hmc {'?' if index is None else index}"
    if length is not None:
        data = entry.data("data_head")
        fields += [FIELDS["app.length"](length), FIELDS["app.data"](data)]
        text += f", {length} bytes"
    entry.parts.layers.append(Layer("app", tuple(fields), text))
    entry.parts.summary = text + carried_text(entry.parts, data)
    return LineEnds("app", partition, partition)


def _lost(entry: _Entry) -> LineEnds:
    count = entry.number("lost")
    text = "events were lost here" if count is None else f"{count} events were lost here"
    entry.parts.layers.append(Layer("lost", (FIELDS["lost.count"](count),), text))
    entry.parts.problems.append(text)
    entry.parts.summary = f"# {text}"
    return LineEnds("lost")


def _event(entry: _Entry, partition: str) -> LineEnds:
    name, values = entry.text("event"), entry.values.get("values")
    shown = [f"{key}={value}" for key, value in list(values.items())[:16]] if isinstance(values, dict) else []
    text = " ".join((name, *shown))[:_SHOWN]
    fields = (FIELDS["event.name"](name), *(FIELDS["event.value"](item[:_SHOWN]) for item in shown))
    entry.parts.layers.append(Layer("event", fields, text))
    entry.parts.summary = text
    return LineEnds("event", partition)


def _observed(entry: _Entry) -> LineEnds:
    raised, slots = entry.values.get("raised"), entry.values.get("slots")
    fields: list[Field] = []
    if isinstance(raised, bool):
        fields.append(FIELDS["irq.raised"](raised))
        text = "irq was pending" if raised else "no irq was pending"
    else:
        text = "queue"
        for slot, element in list(slots.items())[:64] if isinstance(slots, dict) else ():
            if slot.isascii() and slot.isdigit() and len(slot) <= 5 and isinstance(element, str):
                data = _Entry({"element": element}, entry.parts).data("element")
                fields += [FIELDS["queue.slot"](int(slot)), FIELDS["queue.element"](data)]
                text += f" {slot}: {bytes_text(data)}"
    kind = "irq" if isinstance(raised, bool) else "queue"
    entry.parts.layers.append(Layer(kind, tuple(fields), text))
    entry.parts.summary = f"# {text}"
    return LineEnds(f"observe_{kind}")
