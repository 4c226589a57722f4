"""``pvnet-vmc-transcript/1``: a recorded session of a management partition's VMC driver, read and written.

JSON lines; numbers are hex texts, ``rc`` is decimal.  The first line is ``meta`` with unit address and the two LIOBNs
(the partition's own window and the hypervisor's).  Then, in the order in which they happened::

    {"from": "hypervisor", "crq": 16 bytes}             what the driver was sent
    {"from": "partition", "crq": 16 bytes, "rc"}        what it sent, and the answer of H_SEND_CRQ
    {"hcall": name, "args", "rc", "outs"}               its other hcalls; H_COPY_RDMA adds direction and first bytes
    {"app": "set_hmc_id"|"write"|"close", "hmc_index"}  what the application did; length and first bytes of the data

An application's act was derived from what followed it, and stands right before that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias, assert_never

from pvnet.capture.jsonl import JsonObject, meta_of, read_objects
from pvnet.papr.crq import ELEMENT_BYTES
from pvnet.papr.hcall import HcallOpcode

SCHEMA: Final = "pvnet-vmc-transcript/1"
_LENGTH_LIMIT: Final = 1 << 24


class Direction(StrEnum):
    """Which way an H_COPY_RDMA moves its bytes."""

    TO_HYPERVISOR = "to_hv"
    TO_DRIVER = "to_driver"


class AppAct(StrEnum):
    """What the application does with the device."""

    SET_HMC_ID = "set_hmc_id"
    WRITE = "write"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class TranscriptMeta:
    """First line: the adapter's unit address, the partition's window, the hypervisor's window."""

    unit: int
    lliobn: int
    rliobn: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class HypervisorMessage:
    """16 bytes that the platform put into the partition's queue."""

    n: int
    t: float
    crq: bytes
    note: str = ""


@dataclass(frozen=True, slots=True)
class PartitionMessage:
    """16 bytes that the partition sent with H_SEND_CRQ, and its return code."""

    n: int
    t: float
    crq: bytes
    rc: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class PartitionHcall:
    """Another hcall of the partition; ``direction`` and ``data_head`` (first bytes) only for H_COPY_RDMA."""

    n: int
    t: float
    opcode: HcallOpcode
    args: tuple[int, ...]
    rc: int
    outs: tuple[int, ...] = ()
    direction: Direction | None = None
    data_head: bytes = b""


@dataclass(frozen=True, slots=True)
class ApplicationAct:
    """What the application did; ``data_head`` shows the data's beginning (it may be longer than ``length``)."""

    n: int
    t: float
    act: AppAct
    hmc_index: int
    length: int = 0
    data_head: bytes = b""


TranscriptRecord: TypeAlias = HypervisorMessage | PartitionMessage | PartitionHcall | ApplicationAct


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole recording; ``name`` is where it came from, for messages."""

    name: str
    meta: TranscriptMeta
    records: tuple[TranscriptRecord, ...]


def read_transcript(path: Path) -> Transcript:
    """Read a recording.  Raises :class:`ConfigError` with file, line, field and what was expected."""
    return parse_transcript(str(path), read_objects(path))


def parse_transcript(name: str, objects: Sequence[JsonObject]) -> Transcript:
    """Make a transcript of the objects of its lines; raises :class:`ConfigError` as :func:`read_transcript`."""
    meta = meta_of(objects, SCHEMA)
    records: list[TranscriptRecord] = []
    for entry in objects[1:]:
        if "mark" not in entry.values:
            records.append(_record(entry, len(records)))
    return Transcript(
        name,
        TranscriptMeta(
            meta.hex_number("unit", 32), meta.hex_number("lliobn", 32), meta.hex_number("rliobn", 32),
            meta.text("source", ""),
        ),
        tuple(records),
    )  # fmt: skip


def _record(entry: JsonObject, position: int) -> TranscriptRecord:
    n = entry.integer("n", 0) if entry.has("n") else position
    t = entry.seconds("t")
    if entry.has("from"):
        crq, note = entry.hex_bytes("crq", ELEMENT_BYTES), entry.text("note", "")
        match entry.text("from"):
            case "hypervisor":
                return HypervisorMessage(n, t, crq, note)
            case "partition":
                return PartitionMessage(n, t, crq, entry.integer("rc") if entry.has("rc") else 0, note)
            case _:
                raise entry.error("from", '"hypervisor" or "partition"')
    if entry.has("hcall"):
        return _hcall(entry, n, t)
    if entry.has("app"):
        return _app(entry, n, t)
    raise entry.error("from", "a record with 'from', 'hcall' or 'app'")


def _hcall(entry: JsonObject, n: int, t: float) -> PartitionHcall:
    name = entry.text("hcall")
    if name not in HcallOpcode.__members__:
        raise entry.error("hcall", "the name of an hcall such as H_COPY_RDMA")
    opcode = HcallOpcode[name]
    args, rc = entry.hex_numbers("args"), entry.integer("rc")
    outs = entry.hex_numbers("outs") if entry.has("outs") else ()
    if opcode is not HcallOpcode.H_COPY_RDMA:
        return PartitionHcall(n, t, opcode, args, rc, outs)
    if len(args) != 5:
        raise entry.error("args", "five arguments: length, source LIOBN and IOBA, destination LIOBN and IOBA")
    direction = entry.text("direction")
    if direction not in list(Direction):
        raise entry.error("direction", '"to_hv" or "to_driver"')
    head = entry.hex_bytes("data_head") if entry.has("data_head") else b""
    return PartitionHcall(n, t, opcode, args, rc, outs, Direction(direction), head)


def _app(entry: JsonObject, n: int, t: float) -> ApplicationAct:
    act = entry.text("app")
    if act not in list(AppAct):
        raise entry.error("app", '"set_hmc_id", "write" or "close"')
    index = entry.integer("hmc_index", 0, 254)
    if act == AppAct.CLOSE:
        return ApplicationAct(n, t, AppAct.CLOSE, index)
    length = entry.integer("length", 0, _LENGTH_LIMIT)
    return ApplicationAct(n, t, AppAct(act), index, length, entry.hex_bytes("data_head"))


def write_transcript(path: Path, meta: TranscriptMeta, records: Iterable[TranscriptRecord]) -> None:
    """Write a recording; reading it back gives the same records.  Raises ``OSError`` when that is impossible."""
    first = {
        "schema": SCHEMA,
        "source": meta.source,
        "unit": f"{meta.unit:#x}",
        "lliobn": f"{meta.lliobn:#x}",
        "rliobn": f"{meta.rliobn:#x}",
    }
    lines = [json.dumps({"meta": first}), *(json.dumps(to_json(record)) for record in records)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def to_json(record: TranscriptRecord) -> dict[str, object]:
    """The JSON object of one record."""
    out: dict[str, object] = {"n": record.n, "t": record.t}
    match record:
        case HypervisorMessage():
            out |= {"from": "hypervisor", "crq": record.crq.hex()}
        case PartitionMessage():
            out |= {"from": "partition", "crq": record.crq.hex(), "rc": record.rc}
        case PartitionHcall():
            out |= {"hcall": record.opcode.name, "args": [f"{arg:#x}" for arg in record.args], "rc": record.rc}
            out |= {"outs": [f"{value:#x}" for value in record.outs]}
            if record.direction is not None:
                out |= {"direction": record.direction.value, "data_head": record.data_head.hex()}
        case ApplicationAct():
            out |= {"app": record.act.value, "hmc_index": record.hmc_index}
            if record.act is not AppAct.CLOSE:
                out |= {"length": record.length, "data_head": record.data_head.hex()}
        case _:
            assert_never(record)
    if isinstance(record, HypervisorMessage | PartitionMessage) and record.note:
        out["note"] = record.note
    return out
