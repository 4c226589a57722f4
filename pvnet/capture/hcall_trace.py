"""``pvnet-hcall-trace/1``: recorded hypervisor calls with their answers and what they did, as typed records.

JSON lines; numbers are hex texts, ``rc`` is decimal.  ``meta`` describes the machine that answered: its profile, what
the registers held before a call (``preset``), its virtual adapters and its SCM devices.  Records::

    {"opcode", "args", "rc", "after", "name"?, "note"?}   a call; ``after`` maps r4.. to the value left in the register
    {"mark": text}                                        what the guest was told to do
    {"observe": "queue", "slots": {"0": 16 bytes}}        CRQ slots in guest memory after the call before
    {"observe": "irq", "raised": bool}                    whether an interrupt was pending since the last look
    {"crq_in": 16 bytes}                                  what the guest's driver took from its queue
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pvnet.capture.jsonl import JsonObject, meta_of, read_objects
from pvnet.papr.crq import ELEMENT_BYTES
from pvnet.papr.hcall import HcallOpcode

SCHEMA: Final = "pvnet-hcall-trace/1"
SCM_OPCODES: Final = frozenset(opcode for opcode in HcallOpcode if opcode.name.startswith("H_SCM_"))
"""The hcalls of SCM."""
_REGISTER: Final = re.compile(r"r([4-9]|1[0-2])")


@dataclass(frozen=True, slots=True)
class TraceVdevice:
    """A virtual adapter: unit address, whether it has a queue, its window (if any), legal H_VIO_SIGNAL bits."""

    unit: int
    has_crq: bool
    signal_mask: int
    liobn: int | None = None
    window_bytes: int = 0
    partner: str = ""


@dataclass(frozen=True, slots=True)
class TraceScmDevice:
    """An SCM device; ``address`` is where the hypervisor maps its first block."""

    drc: int
    type: str
    blocks: int
    block_size: int
    metadata_size: int
    address: int
    is_unarmed: bool = False
    is_readonly: bool = False
    backing: str = "file"
    metadata_preset: bytes = b""


@dataclass(frozen=True, slots=True)
class TraceMeta:
    """The machine that answered.  ``preset`` is ``None`` when unknown; ``queue_...``: where the test queue lies."""

    source: str
    profile: str
    preset: int | None
    vdevices: tuple[TraceVdevice, ...] = ()
    devices: tuple[TraceScmDevice, ...] = ()
    empty_pmem_drcs: tuple[int, ...] = ()
    other_drcs: tuple[int, ...] = ()
    memory_bytes: int | None = None
    queue_real: int | None = None
    queue_ioba: int | None = None


@dataclass(frozen=True, slots=True)
class TraceCall:
    """A call: ``after`` maps register numbers (4 to 12) to values left there; empty when none is known."""

    n: int
    t: float
    opcode: HcallOpcode
    args: tuple[int, ...]
    rc: int
    after: Mapping[int, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class TraceMark:
    """What the guest was told to do."""

    n: int
    t: float
    text: str


@dataclass(frozen=True, slots=True)
class TraceQueue:
    """CRQ slots in guest memory at this moment."""

    n: int
    slots: Mapping[int, bytes]
    note: str = ""


@dataclass(frozen=True, slots=True)
class TraceIrq:
    """Whether an interrupt was pending since the last look."""

    n: int
    is_raised: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class TraceCrqIn:
    """An element that the guest's driver took from its queue."""

    n: int
    t: float
    element: bytes


TraceRecord: TypeAlias = TraceCall | TraceMark | TraceQueue | TraceIrq | TraceCrqIn


@dataclass(frozen=True, slots=True)
class HcallTrace:
    """A whole recording; ``name`` is where it came from, for messages."""

    name: str
    meta: TraceMeta
    records: tuple[TraceRecord, ...]


def read_hcall_trace(path: Path) -> HcallTrace:
    """Read a recording.  Raises :class:`ConfigError` with file, line, field and what was expected."""
    return parse_hcall_trace(str(path), read_objects(path))


def parse_hcall_trace(name: str, objects: Sequence[JsonObject]) -> HcallTrace:
    """Make a trace of the objects of its lines; raises :class:`ConfigError` as :func:`read_hcall_trace`."""
    meta = _meta(meta_of(objects, SCHEMA))
    return HcallTrace(name, meta, tuple(_record(entry, position) for position, entry in enumerate(objects[1:])))


def is_scm(trace: HcallTrace) -> bool:
    """Whether it is a trace of SCM hcalls: it describes SCM devices, or has such a call."""
    return bool(trace.meta.devices) or any(
        isinstance(record, TraceCall) and record.opcode in SCM_OPCODES for record in trace.records
    )


def _meta(meta: JsonObject) -> TraceMeta:
    queue = meta.child("queue") if meta.has("queue") else None
    return TraceMeta(
        source=meta.text("source", ""),
        profile=meta.text("profile"),
        preset=meta.hex_number("preset") if meta.has("preset") else None,
        vdevices=tuple(_vdevice(entry) for entry in meta.children("vdevices")),
        devices=tuple(_scm_device(entry) for entry in meta.children("devices")),
        empty_pmem_drcs=meta.hex_numbers("empty_pmem_drcs", 1024) if meta.has("empty_pmem_drcs") else (),
        other_drcs=meta.hex_numbers("other_drcs", 1024) if meta.has("other_drcs") else (),
        memory_bytes=meta.hex_number("memory") if meta.has("memory") else None,
        queue_real=queue.hex_number("real") if queue else None,
        queue_ioba=queue.hex_number("ioba") if queue else None,
    )


def _vdevice(entry: JsonObject) -> TraceVdevice:
    return TraceVdevice(
        unit=entry.hex_number("unit", 32),
        has_crq=entry.boolean("crq"),
        signal_mask=entry.hex_number("signal_mask"),
        liobn=entry.hex_number("liobn", 32) if entry.has("liobn") else None,
        window_bytes=entry.hex_number("window") if entry.has("window") else 0,
        partner=entry.text("partner", ""),
    )


def _scm_device(entry: JsonObject) -> TraceScmDevice:
    return TraceScmDevice(
        drc=entry.hex_number("drc", 32),
        type=entry.text("type"),
        blocks=entry.integer("blocks", 0),
        block_size=entry.hex_number("block_size"),
        metadata_size=entry.hex_number("metadata_size"),
        address=entry.hex_number("address"),
        is_unarmed=entry.boolean("unarmed") if entry.has("unarmed") else False,
        is_readonly=entry.boolean("readonly") if entry.has("readonly") else False,
        backing=entry.text("backing", "file"),
        metadata_preset=entry.hex_bytes("metadata_preset") if entry.has("metadata_preset") else b"",
    )


def _record(entry: JsonObject, position: int) -> TraceRecord:
    n = entry.integer("n", 0) if entry.has("n") else position
    if entry.has("opcode"):
        return _call(entry, n)
    if entry.has("mark"):
        return TraceMark(n, entry.seconds("t"), entry.text("mark"))
    if entry.has("crq_in"):
        return TraceCrqIn(n, entry.seconds("t"), entry.hex_bytes("crq_in", ELEMENT_BYTES))
    if not entry.has("observe"):
        raise entry.error("opcode", "a record with 'opcode', 'mark', 'observe' or 'crq_in'")
    match entry.text("observe"):
        case "queue":
            slots = entry.hex_bytes_by_number("slots", ELEMENT_BYTES)
            return TraceQueue(n, slots, entry.text("note", ""))
        case "irq":
            return TraceIrq(n, entry.boolean("raised"), entry.text("note", ""))
        case _:
            raise entry.error("observe", '"queue" or "irq"')


def _call(entry: JsonObject, n: int) -> TraceCall:
    after: dict[int, int] = {}
    if entry.has("after"):
        registers = entry.child("after")
        for name in registers.values:
            match = _REGISTER.fullmatch(name)
            if match is None:
                raise registers.error(name, "a register name r4 to r12")
            after[int(match[1])] = registers.hex_number(name)
    opcode = HcallOpcode(entry.hex_number("opcode"))
    args, rc = entry.hex_numbers("args"), entry.integer("rc")
    return TraceCall(n, entry.seconds("t"), opcode, args, rc, after, entry.text("note", ""))
