"""Records back into recordings: ``pvnet-hcall-trace/1``, ``pvnet-vmc-transcript/1`` and pcapng.

A recording's own lines come out as they went in; between the two kinds they are translated without loss
(:mod:`pvnet.capture.translate`).  Of a lab's capture a recording shows one partition
(:mod:`pvnet.capture.export_lab`).  Memory is bounded: a file is read twice rather than kept.

Spec: conformance/README.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from pvnet.capture.export_lab import LabExport, call_line, caller_of
from pvnet.capture.importers import Problems, open_any, sniff
from pvnet.capture.importers.calls import call_in, object_of
from pvnet.capture.importers.detect import SCHEMAS
from pvnet.capture.importers.opening import TEXT_FORMATS
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_HCALL, Record
from pvnet.capture.pvcap import CaptureWriter, make_info
from pvnet.capture.transcript import Direction
from pvnet.capture.translate import (
    INCOMPLETE,
    ORIGINAL,
    RDMA_ARGUMENTS,
    UNKNOWN_PROFILE,
    Adapter,
    Line,
    imported_to_trace,
    to_trace,
    to_transcript,
    trace_meta,
    transcript_meta,
    with_applications,
)
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode

WRITTEN: Final = ("pcapng", "hcall-trace", "transcript")
"""Formats that can be written."""
_IMPORT: Final = "log"
_LAB: Final = "lab"
_UNKNOWN: Final = "recording of an unknown schema"


@dataclass(slots=True)
class Survey:
    """What must be known before the first line can be written; made by reading the records once."""

    kinds: set[str] = field(default_factory=set)
    metas: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    """Partitions of a lab and how many hcalls they made."""
    source: str = ""
    unit: int | None = None
    windows: tuple[int, int] | None = None

    def adapter(self) -> Adapter | None:
        """The VMC adapter, if what it takes was seen."""
        return None if self.unit is None or self.windows is None else Adapter(self.unit, *self.windows)


@dataclass(slots=True)
class Conversion:
    """What became of a file."""

    from_format: str
    to_format: str
    problems: Problems
    written: int = 0
    """Records, or lines with the first."""
    incomplete: int = 0
    """Calls that are only a mark, because something that a call must say is not known."""
    others: int = 0
    """Records that are no part of such a recording."""
    partition: str = ""


def convert(source: Path, target: Path, to: str = "", node: str = "") -> Conversion:
    """Convert a file; ``to`` is empty or one of :data:`WRITTEN`, ``node`` the partition whose calls are wanted.

    The target appears when it is whole.  Raises :class:`ConfigError` when that conversion does not exist, and
    ``OSError`` when a file cannot be read or written.
    """
    problems = Problems()
    from_format = sniff(source)
    to_format = _target_format(target, to, source, from_format)
    done = Conversion(from_format, to_format, problems, partition=node)
    if to_format == "pcapng":
        with _whole(target) as stream:
            _write_capture(open_any(source, problems), stream, done)
        return done
    found = survey(open_any(source, Problems()), node)
    with _whole(target) as stream:
        for line in export(open_any(source, problems), found, done):
            stream.write(line.encode() + b"\n")
    return done


def _target_format(target: Path, to: str, source: Path, from_format: str) -> str:
    if to in TEXT_FORMATS:
        raise ConfigError(f"{to} can only be read: expected one of {', '.join(WRITTEN)}")
    if to:
        if to not in WRITTEN:
            raise ConfigError(f"{to}: no such format: expected one of {', '.join(WRITTEN)}")
        return to
    if target.name.endswith((".pcapng", ".ntar")):
        return "pcapng"
    if target.suffix not in (".jsonl", ".json"):
        raise ConfigError(f"{target}: the name says no format: expected .pcapng, .jsonl or --to {'|'.join(WRITTEN)}")
    if from_format in WRITTEN[1:]:
        return from_format
    if from_format == "pcapng":
        kinds = survey(open_any(source, Problems())).kinds
        return next((kind for kind in kinds if kind in WRITTEN), "hcall-trace")
    return "hcall-trace"


@contextmanager
def _whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's place when all is written, else leaves no trace.  ``-``: standard output."""
    if str(target) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if target.exists() and not target.is_file():  # a pipe, a device
        with target.open("wb") as stream:
            yield stream
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write_capture(records: Iterable[Record], stream: BinaryIO, done: Conversion) -> None:
    writer = CaptureWriter(stream.write, make_info())
    for record in records:
        writer.copy(record)
        done.written += 1


def survey(records: Iterable[Record], node: str = "") -> Survey:
    """Read all records once; ``node`` limits it to one partition of a lab."""
    found = Survey()
    for record in records:
        if record.interface.link_type == LINKTYPE_ENVELOPE:
            found.kinds.add(_LAB)
            caller = caller_of(record)
            if caller is not None:
                found.calls[caller] = found.calls.get(caller, 0) + 1
                if node in ("", caller):
                    _learn(found, call_line(record) or {})
        elif record.interface.link_type == LINKTYPE_HCALL and (values := object_of(record)) is not None:
            meta = values.get("meta")
            if isinstance(meta, dict):
                _learn_meta(found, meta)
                original = values.get(ORIGINAL)
                if isinstance(original, dict) and isinstance(inner := original.get("meta"), dict):
                    _learn_adapter(found, inner)
                continue
            if "source" in values:
                found.kinds.add(_IMPORT)
                found.source = f"imported from {values['source']}"
            _learn(found, values)
    return found


def _learn_meta(found: Survey, meta: Mapping[str, object]) -> None:
    found.metas += 1
    schema = meta.get("schema")
    found.kinds.add(SCHEMAS.get(schema, _UNKNOWN) if isinstance(schema, str) else _UNKNOWN)
    found.source = str(meta.get("source", ""))
    _learn_adapter(found, meta)


def _learn_adapter(found: Survey, meta: Mapping[str, object]) -> None:
    numbers = [_hex(meta.get(name)) for name in ("unit", "lliobn", "rliobn")]
    if (unit := numbers[0]) is not None:
        found.unit = unit
    if (low := numbers[1]) is not None and (high := numbers[2]) is not None:
        found.windows = (low, high)


def _hex(value: object) -> int | None:
    try:
        return int(value, 16) if isinstance(value, str) else None
    except ValueError:
        return None


def _learn(found: Survey, values: Mapping[str, object]) -> None:
    call = call_in(values)
    if call is None or not call.args:
        return
    args = call.args
    if call.opcode in (HcallOpcode.H_REG_CRQ, HcallOpcode.H_SEND_CRQ) and found.unit is None:
        found.unit = args[0]
    if call.opcode == HcallOpcode.H_COPY_RDMA and len(args) == RDMA_ARGUMENTS and found.windows is None:
        near, far = args[1], args[3]
        if near is not None and far is not None:
            # only the management partition copies, and its identity goes out first: from its own window
            is_in = values.get("direction") == Direction.TO_DRIVER
            found.windows = (far, near) if is_in else (near, far)


def export(records: Iterable[Record], found: Survey, done: Conversion) -> Iterator[str]:
    """Yield the lines of a recording of format ``done.to_format``; counts into ``done``.

    Raises :class:`ConfigError` when the records cannot become one.
    """
    kind = _only_kind(found)
    if kind == done.to_format:
        for record in records:
            if record.interface.link_type == LINKTYPE_HCALL:
                done.written += 1
                yield record.data.decode(errors="replace")
            else:
                done.others += 1
        return
    adapter = found.adapter()
    if done.to_format == "transcript" and adapter is None:
        raise ConfigError("a transcript needs the VMC adapter: no H_REG_CRQ and H_COPY_RDMA show its unit and windows")
    for number, line in enumerate(_translated(records, kind, found, adapter, done)):
        done.written += 1
        done.incomplete += str(line.get("mark", "")).startswith(INCOMPLETE)
        yield json.dumps(line if number == 0 or kind in WRITTEN else {"n": number - 1, **line})


def _only_kind(found: Survey) -> str:
    if not found.kinds:
        raise ConfigError("nothing in it shows a hypervisor call: expected a recording, a log or a lab's capture")
    if len(found.kinds) > 1 or found.metas > 1:
        what = "several recordings" if found.metas > 1 else " and ".join(sorted(found.kinds))
        raise ConfigError(f"it holds {what}: expected one")
    (kind,) = found.kinds
    if kind == _UNKNOWN:
        raise ConfigError(f"it holds a {kind}: expected one of {', '.join(SCHEMAS)}")
    return kind


def _translated(
    records: Iterable[Record], kind: str, found: Survey, adapter: Adapter | None, done: Conversion
) -> Iterator[Line]:
    """The lines of the other kind of recording, or of the calls of a log or a lab; the first is the meta line."""
    to_calls = done.to_format == "transcript"
    if kind in WRITTEN:
        step = to_transcript if to_calls else to_trace
        for line in _objects(records, done):
            yield step(line, adapter)
        return
    if kind == _LAB:
        lab = LabExport(_caller(found, done.partition))
        done.partition = lab.partition
        calls: Iterator[Line] = lab.lines(records)
        source = f"partition {lab.partition} of a pvnet lab"
    else:
        lab = None
        calls = (imported_to_trace(line) for line in _objects(records, done))
        source = found.source
    if to_calls:
        assert adapter is not None
        yield transcript_meta(source, adapter)
        yield from with_applications(to_transcript_plain(line, adapter) for line in calls)
    else:
        yield trace_meta(source, _profile(kind, source))
        yield from calls
    if lab is not None:
        done.others += lab.others


def _profile(kind: str, source: str) -> str:
    """Whose rules answered the calls: a lab's default, QEMU's, or nobody knows."""
    if kind == _LAB:
        return "lopar"
    return "qemu" if source.endswith(("qemu-log", "simpletrace")) else UNKNOWN_PROFILE


def to_transcript_plain(line: Line, adapter: Adapter) -> Line:
    """A line that was made here: it need not find back."""
    out = to_transcript(line, adapter)
    out.pop(ORIGINAL, None)
    return out


def _objects(records: Iterable[Record], done: Conversion) -> Iterator[Line]:
    for record in records:
        if (values := object_of(record)) is None:
            done.others += 1
        else:
            yield values


def _caller(found: Survey, node: str) -> str:
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(found.calls.items()))
    if node:
        if node not in found.calls:
            raise ConfigError(f"{node} makes no hypervisor call here: expected one of {listed or 'nobody'}")
        return node
    if not found.calls:
        raise ConfigError("nobody makes a hypervisor call in this capture")
    if len(found.calls) > 1:
        raise ConfigError(f"several partitions make hypervisor calls: {listed}: expected --node NAME")
    return next(iter(found.calls))
