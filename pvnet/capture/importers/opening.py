"""Opens a capture of any format and yields its records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pvnet.capture.importers.calls import Item
from pvnet.capture.importers.detect import sniff
from pvnet.capture.importers.dmesg import import_dmesg
from pvnet.capture.importers.lines import Problems, read_lines
from pvnet.capture.importers.qemu import import_qemu_log
from pvnet.capture.importers.recordings import import_recording
from pvnet.capture.importers.simpletrace import import_simpletrace
from pvnet.capture.importers.tracepoints import import_tracepoints
from pvnet.capture.model import LINKTYPE_HCALL, Direction, Interface, Record
from pvnet.capture.pvcap import open_capture

TEXT_FORMATS: Final = ("tracefs", "trace-cmd", "perf", "qemu-log", "simpletrace", "dmesg")
"""Formats that can only be read."""


def open_any(path: Path | str, problems: Problems | None = None) -> Iterator[Record]:
    """Yield the records of a capture, a recording or a log, in the order of the file; memory stays bounded.

    What cannot be used is skipped, counted and named in ``problems``.  Raises :class:`ConfigError` at once when the
    file is of no known format, and ``OSError`` when it cannot be read.
    """
    found = Problems() if problems is None else problems
    found.path = str(path)
    return _records(Path(path), sniff(path), found)


def _records(path: Path, name: str, problems: Problems) -> Iterator[Record]:
    if name == "pcapng":
        yield from _capture(path, problems)
        return
    with path.open("rb") as stream:
        if name in ("hcall-trace", "transcript"):
            yield from import_recording(name, stream, problems)
            return
        interface = Interface(f"{name}/hcall", LINKTYPE_HCALL, f"imported from {path.name}")
        for number, item in enumerate(_items(name, stream, problems), start=1):
            direction = Direction.IN if item.is_inbound else Direction.OUT
            data = json.dumps(item.values).encode()
            yield Record(interface, item.time_ns, data, direction, number=number, offset=item.offset)


def _items(name: str, stream: BinaryIO, problems: Problems) -> Iterable[Item]:
    match name:
        case "simpletrace":
            return import_simpletrace(stream, problems)
        case "qemu-log":
            return import_qemu_log(read_lines(stream, problems), problems)
        case "dmesg":
            return import_dmesg(read_lines(stream, problems), problems)
        case _:
            return import_tracepoints(name, read_lines(stream, problems), problems)


def _capture(path: Path, problems: Problems) -> Iterator[Record]:
    with open_capture(path) as reader:
        yield from reader
        for text in reader.problems:
            problems.note(f"{path}: {text}")
