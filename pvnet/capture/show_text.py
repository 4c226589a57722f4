"""Records as lines for a person, as trees of fields, as JSON objects.

::

    number  time (s)  source > destination  kind  what it says   [reply to 12 after 310 us]  ! what is wrong
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

from pvnet.capture.decode import Decoded, Value
from pvnet.capture.decode_fields import printable
from pvnet.capture.decode_papr import result_text
from pvnet.capture.pairs import Matched
from pvnet.capture.summary import call_name, duration

LONGEST: Final = 400
"""Characters of what a record says; the rest is in its fields."""
_HEX_ROW: Final = 16


class TimeColumn(StrEnum):
    """What the column of times shows."""

    RELATIVE = "relative"
    DELTA = "delta"
    CLOCK = "clock"


def said(decoded: Decoded, matched: Matched | None = None) -> str:
    """What a record says; registers of a reply by name, where its call is known."""
    text = decoded.summary
    rc = decoded.get("hcall.rc")
    if matched is not None and decoded.kind == "hcall_reply" and isinstance(rc, int):
        opcode = matched.call.get("hcall.opcode")
        outs = [item.value for item in decoded.fields() if item.name == "hcall.outs"]
        numbers = [value for value in outs if isinstance(value, int)]
        named = result_text(rc, numbers, opcode if isinstance(opcode, int) else None)
        text = named + text.removeprefix(result_text(rc, numbers))
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class LineWriter:
    """Makes the lines; widths grow with what comes, so that columns stay in line."""

    def __init__(self, column: TimeColumn = TimeColumn.RELATIVE, *, start_ns: int | None = None) -> None:
        self.column = column
        self.start_ns = start_ns
        """Time 0; None: that of the first record."""
        self._before_ns: int | None = None
        self._ends = 20
        self._kind = 16

    def time(self, time_ns: int | None) -> str:
        """The column of times; empty for a record without one."""
        if time_ns is None:
            return f"{'-':>12}"
        if self.start_ns is None:
            self.start_ns = time_ns
        before, self._before_ns = self._before_ns, time_ns
        if self.column is TimeColumn.CLOCK:
            return _clock(time_ns)
        base = self.start_ns if self.column is TimeColumn.RELATIVE else time_ns if before is None else before
        return f"{(time_ns - base) / 1e9:>12.6f}"

    def line(self, decoded: Decoded, matched: Matched | None = None, violations: Sequence[str] = ()) -> str:
        """One line, without its end."""
        record = decoded.record
        source, destination = printable(decoded.source), printable(decoded.destination)
        ends = f"{source} > {destination or '*'}" if source or destination else ""
        self._ends = min(max(self._ends, len(ends)), 40)
        self._kind = min(max(self._kind, len(decoded.kind)), 20)
        mark = "!" if violations else " "
        out = f"{record.number:>7}{mark}{self.time(record.time_ns)}  {ends:<{self._ends}}  "
        out += f"{decoded.kind:<{self._kind}}  {said(decoded, matched)}"
        out += reply_text(decoded, matched)
        if record.is_cut:
            out += f"  (cut to {len(record.data)} of {record.original_bytes} bytes)"
        if record.comment:
            out += f"  # {printable(record.comment)}"
        if violations:
            out += f"  ! {printable('; '.join(violations))}"
        return out


def reply_text(decoded: Decoded, matched: Matched | None) -> str:
    """The call that a record answers, and how long that took."""
    took = decoded.get("hcall.took_ns")
    if matched is None:
        return f"  [{duration(took)}]" if isinstance(took, int) else ""
    after = "" if matched.latency_ns is None else f" after {duration(matched.latency_ns)}"
    return f"  [reply to {matched.call.record.number} {call_name(matched.call)}{after}]"


def _clock(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    days, second = divmod(seconds, 86400)
    hour, minute = divmod(second // 60, 60)
    year, month, day = _date(days)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second % 60:02}.{rest:09}Z"


def _date(days: int) -> tuple[int, int, int]:
    """Year, month, day of a number of days since 1970, also far beyond what ``datetime`` can hold."""
    days += 719468  # the era begins on 0000-03-01
    era, in_era = divmod(days, 146097)
    year = (in_era - in_era // 1460 + in_era // 36524 - in_era // 146096) // 365
    in_year = in_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * in_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return era * 400 + year + (month <= 2), month, in_year - (153 * shifted + 2) // 5 + 1


def tree_lines(decoded: Decoded) -> Iterator[str]:
    """All layers with their fields, a line each."""
    for layer in decoded.layers:
        yield f"{'':>8}{layer.name}: {printable(layer.summary)}".rstrip(": ")
        for item in layer.fields:
            yield f"{'':>12}{item.name} = {printable(item.text)}"


def hex_lines(data: bytes) -> Iterator[str]:
    """The bytes of a record, 16 a line."""
    for at in range(0, len(data), _HEX_ROW):
        row = data[at : at + _HEX_ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{'':>8}{at:06x}  {row.hex(' '):<{3 * _HEX_ROW}} {text}"


def to_json(decoded: Decoded, matched: Matched | None = None, violations: Sequence[str] = ()) -> dict[str, object]:
    """A record as a JSON object: bytes in hex, a field that occurs several times as a list."""
    record = decoded.record
    out: dict[str, object] = {
        "number": record.number,
        "time_ns": record.time_ns,
        "interface": record.interface.name,
        "direction": record.direction.name.lower(),
        "source": decoded.source,
        "destination": decoded.destination,
        "kind": decoded.kind,
        "summary": decoded.summary,
        "length": len(record.data),
        "layers": [layer.name for layer in decoded.layers],
        "fields": _fields(decoded),
    }
    if matched is not None:
        out["reply_to"] = matched.call.record.number
        out["latency_ns"] = matched.latency_ns
    if record.is_cut:
        out["original_length"] = record.original_bytes
    if record.comment:
        out["comment"] = record.comment
    if violations:
        out["violations"] = list(violations)
    return out


def _fields(decoded: Decoded) -> Mapping[str, object]:
    out: dict[str, object] = {}
    many: dict[str, list[object]] = {}
    for item in decoded.fields():
        value = _plain(item.value)
        if item.name in many:
            many[item.name].append(value)
        elif item.name in out:
            out[item.name] = many[item.name] = [out[item.name], value]
        else:
            out[item.name] = value
    return out


def _plain(value: Value) -> object:
    return value.hex() if isinstance(value, bytes) else value
