"""A hypervisor call as a log shows it: a line of JSON in which everything that the log does not say is ``null``.

::

    {"source": "tracefs", "cpu": 3, "time": 57.104233, "opcode": "0x3ec", "name": "H_SCM_BIND_MEM",
     "args": null, "rc": 0, "outs": null, "note": ""}

``args`` is ``null`` when nothing is known, else a list in which single values may be ``null``; ``outs`` maps register
names to what was left in them.  ``took`` (seconds) is there when both ends of the call were seen.  Numbers are hex
texts, ``rc`` is signed and decimal.  Other lines of an import: ``{"lost": n}`` (events that the tracer dropped,
``null`` when it does not say how many), ``{"event": name, "values": {...}}`` (what is no call), ``{"crq_in": 16
bytes}``.

The records of hcall traces and of VMC transcripts are kept as they are; :func:`call_of` reads all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.jsonl import MAX_LINE_BYTES
from pvnet.capture.model import LINKTYPE_HCALL, Record
from pvnet.papr.crq import ELEMENT_BYTES
from pvnet.papr.hcall import HcallOpcode, HcallRc

U64: Final = 1 << 64
FIRST_OUT: Final = 4
"""Register of the first argument and of the first output: r4."""
_REGISTER: Final = re.compile(r"r[0-9]{1,3}")


def fold(value: int, bits: int = 64) -> int:
    """Read an unsigned number as the signed one of ``bits`` bits that has the same bytes."""
    return value - (1 << bits) if value >> (bits - 1) == 1 else value


def name_of(opcode: int | None) -> str | None:
    """Name of an opcode, None if it has none here."""
    if opcode is None or opcode not in HcallOpcode._value2member_map_:
        return None
    return HcallOpcode(opcode).name


def rc_named(text: str) -> int | None:
    """Value of a return code's name; None if it has none here."""
    member = HcallRc.__members__.get(text)
    return None if member is None else int(member)


@dataclass(frozen=True, slots=True)
class ImportedCall:
    """One call; ``None`` is what the log does not say, never a guess."""

    source: str
    opcode: int | None
    args: tuple[int | None, ...] | None = None
    rc: int | None = None
    outs: Mapping[int, int] | None = None
    cpu: int | None = None
    time_ns: int | None = None
    took_ns: int | None = None
    note: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether opcode, all arguments and return code are known."""
        return self.opcode is not None and self.rc is not None and self.args is not None and None not in self.args

    def to_json(self) -> dict[str, object]:
        """The JSON object of the call."""
        args = None if self.args is None else [None if value is None else hex(value) for value in self.args]
        outs = None if self.outs is None else {f"r{register}": hex(value) for register, value in self.outs.items()}
        out: dict[str, object] = {
            "source": self.source,
            "cpu": self.cpu,
            "time": seconds(self.time_ns),
            "opcode": None if self.opcode is None else hex(self.opcode),
            "name": name_of(self.opcode),
            "args": args,
            "rc": self.rc,
            "outs": outs,
            "note": self.note,
        }
        if self.took_ns is not None:
            out["took"] = seconds(self.took_ns)
        return out


@dataclass(frozen=True, slots=True)
class Item:
    """What an importer makes of some lines: a JSON object, its time, and where its first line begins in the file."""

    values: Mapping[str, object]
    time_ns: int | None
    offset: int
    is_inbound: bool = False
    """It came from the hypervisor without a call."""


@dataclass(slots=True)
class OpenCall:
    """A call that was seen to begin."""

    opcode: int
    cpu: int | None
    time_ns: int | None
    offset: int
    args: tuple[int | None, ...] | None = None
    notes: list[str] = field(default_factory=list)

    def close(
        self,
        source: str,
        *,
        rc: int | None = None,
        outs: Mapping[int, int] | None = None,
        end_ns: int | None = None,
        note: str = "",
    ) -> Item:
        """Return the call with what its end says, or with ``note`` about the end that is missing."""
        took = None if end_ns is None or self.time_ns is None or end_ns < self.time_ns else end_ns - self.time_ns
        notes = "; ".join([*self.notes, note] if note else self.notes)
        call = ImportedCall(source, self.opcode, self.args, rc, outs, self.cpu, self.time_ns, took, notes)
        return Item(call.to_json(), self.time_ns, self.offset)


def seconds(time_ns: int | None) -> float | None:
    """Nanoseconds as the number that JSON lines have."""
    return None if time_ns is None else time_ns / 1_000_000_000


def nanoseconds(text: str) -> int:
    """Read ``57.104233`` exactly; digits beyond the ninth are dropped."""
    whole, _, fraction = text.partition(".")
    return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))


def time_of(values: Mapping[str, object], name: str) -> int | None:
    """Nanoseconds of a field that has seconds; None for what is no time of a packet."""
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 33:
        return None
    return round(value * 1_000_000_000)


def object_of(record: Record) -> dict[str, object] | None:
    """The JSON object of an imported record; None for any other record, or for bytes that are none."""
    if record.interface.link_type != LINKTYPE_HCALL or record.is_cut or len(record.data) > MAX_LINE_BYTES:
        return None
    return parse_object(record.data)


def parse_object(line: bytes | str) -> dict[str, object] | None:
    """Read one JSON object; None if it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def call_of(record: Record) -> ImportedCall | None:
    """The call that a record shows, from any kind of import; None if it shows none.

    A transcript's record of a sent message says nothing of the unit: that argument is None.
    """
    values = object_of(record)
    return None if values is None else call_in(values, record.time_ns)


def call_in(values: Mapping[str, object], time_ns: int | None = None) -> ImportedCall | None:
    """The call of a JSON object, as :func:`call_of`."""
    note = values.get("note")
    text = note if isinstance(note, str) else ""
    rc = _integer(values.get("rc"))
    if values.get("from") == "partition":
        words = _words(values.get("crq"))
        if words is None:
            return None
        return ImportedCall("transcript", HcallOpcode.H_SEND_CRQ, (None, *words), rc, None, None, time_ns, None, text)
    if isinstance(name := values.get("hcall"), str):
        opcode = HcallOpcode.__members__.get(name)
        outs = _numbers(values.get("outs"))
        table = None if outs is None or None in outs else dict(enumerate((v for v in outs if v is not None), FIRST_OUT))
        number = None if opcode is None else int(opcode)
        return ImportedCall("transcript", number, _numbers(values.get("args")), rc, table, None, time_ns, None, text)
    if "opcode" not in values:
        return None
    source = values.get("source")
    return ImportedCall(
        source=source if isinstance(source, str) else "hcall-trace",
        opcode=_number(values["opcode"]),
        args=_numbers(values.get("args")),
        rc=rc,
        outs=_registers(values.get("outs", values.get("after"))),
        cpu=_integer(values.get("cpu")),
        time_ns=time_ns,
        took_ns=time_of(values, "took"),
        note=text,
    )


def element_in(values: Mapping[str, object]) -> bytes | None:
    """The 16 bytes that the hypervisor put into the queue, if the object shows any."""
    text = values.get("crq") if values.get("from") == "hypervisor" else values.get("crq_in")
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return data if len(data) == ELEMENT_BYTES else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> int | None:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 18:
        return None
    try:
        number = int(value, 16)
    except ValueError:
        return None
    return number if 0 <= number < U64 else None


def _numbers(value: object) -> tuple[int | None, ...] | None:
    return tuple(_number(item) for item in value) if isinstance(value, list) else None


def _registers(value: object) -> Mapping[int, int] | None:
    if not isinstance(value, dict):
        return None
    out: dict[int, int] = {}
    for name, text in value.items():
        number = _number(text)
        if number is not None and _REGISTER.fullmatch(name) is not None:
            out[int(name[1:])] = number
    return out


def _words(value: object) -> tuple[int, int] | None:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return None
    if len(data) != ELEMENT_BYTES:
        return None
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big")
