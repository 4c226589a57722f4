"""QEMU's log: hcalls that a guest makes under TCG (``-d int``), refused ones, and trace events of sPAPR.

``-d int`` shows opcode and all nine argument registers before the call runs, so neither code nor outputs; a line of
``-d unimp`` (unknown opcode) or ``-d guest_errors`` (caller in problem state) right after it implies the code.

Examples: tests/data/qemu-*.log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from pvnet.capture.importers.calls import U64, ImportedCall, Item, OpenCall, nanoseconds, seconds
from pvnet.capture.importers.lines import Problems, TextLine
from pvnet.capture.importers.pairing import CUT
from pvnet.papr.hcall import HcallRc

SOURCE: Final = "qemu-log"
_PREFIX: Final = (
    r"\s*(?:(?P<tid>\d{1,10})@(?P<stamp>\d{1,12}\.\d{1,9}):?\s?"
    r"|(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[-+]\d\d:?\d\d)):?\s)?"
)
_INT: Final = re.compile(
    _PREFIX + r"hypercall r3=(?P<opcode>[0-9a-f]{1,16})(?P<args>(?: r(?:[4-9]|1[0-2])=[0-9a-f]{1,16})*)"
    r" nip=[0-9a-f]{1,16}\s*$"
)
_UNIMPLEMENTED: Final = re.compile(_PREFIX + r"(?:\w+: )?Unimplemented SPAPR hcall 0x(?P<opcode>[0-9a-fA-F]{1,16})\s*$")
_PRIVILEGE: Final = re.compile(_PREFIX + r"(?:\w+: )?Hypercall made with MSR\[PR\]=1\s*$")
_KVM: Final = re.compile(_PREFIX + r"kvm_handle_papr_hcall(?: (?P<opcode>0x[0-9a-fA-F]{1,16}))?\b(?P<rest>.*)$")
_EVENT: Final = re.compile(_PREFIX + r"(?P<event>spapr_\w{1,80}) (?P<text>.*\S)\s*$")
_PRETTY: Final = re.compile(
    r"(?P<event>spapr_\w{1,80}|kvm_handle_papr_hcall) (?P<delta>\d{1,20}\.\d{3}) pid=\d+"
    r"(?P<values>(?: \w+=0x[0-9a-f]+)*)\s*$"
)
_VALUE: Final = re.compile(r"(\w+): (0x[0-9a-fA-F]{1,16})\b|(\w+)=(0x[0-9a-f]{1,16})\b")
_FLUSH: Final = re.compile(_PREFIX + r"(?:[^:\s]+: )?papr_scm: (?P<text>.*\S)\s*$")
_OURS: Final = ("hypercall r3=", "SPAPR hcall", "kvm_handle_papr_hcall")
BEFORE: Final = "logged before it ran"


class _Log:
    """The call that was logged last, until the next line says how it went or does not."""

    def __init__(self) -> None:
        self.pending: OpenCall | None = None

    def flush(self) -> Iterator[Item]:
        call, self.pending = self.pending, None
        if call is not None:
            yield call.close(SOURCE, note=BEFORE)

    def refused(self, opcode: int | None, rc: HcallRc, time_ns: int | None, offset: int, note: str) -> Iterator[Item]:
        """A line implies the code of a call: the one before it, if it shows the same opcode."""
        call = self.pending
        if call is not None and opcode in (None, call.opcode):
            self.pending = None
            yield call.close(SOURCE, rc=int(rc), note=note)
            return
        yield from self.flush()
        alone = ImportedCall(SOURCE, opcode, None, int(rc), None, None, time_ns, None, note)
        yield Item(alone.to_json(), time_ns, offset)


def import_qemu_log(lines: Iterable[TextLine], problems: Problems) -> Iterator[Item]:
    """Yield the calls and the sPAPR events of a log; all other lines are QEMU's own business."""
    log = _Log()
    for line in lines:
        note = CUT if line.is_last_half else ""
        items = _line(log, line, note)
        if items is None:
            if any(text in line.text for text in _OURS):
                problems.add(line.number, f"{line.text[:80]!r}: not the form of such a line: skipped")
            continue
        yield from items
        if note:
            problems.add(line.number, "the file ends in the middle of this line: its last number may be cut short")
    yield from log.flush()


def _line(log: _Log, line: TextLine, note: str) -> Iterable[Item] | None:
    text = line.text
    if (found := _INT.match(text)) is not None:
        done = [*log.flush()]
        args = tuple(int(part.partition("=")[2], 16) for part in found["args"].split())
        notes = [note] if note else []
        log.pending = OpenCall(int(found["opcode"], 16), None, _time(found), line.offset, args or None, notes)
        return done
    if (found := _UNIMPLEMENTED.match(text)) is not None:
        return log.refused(int(found["opcode"], 16), HcallRc.H_FUNCTION, _time(found), line.offset, "unimplemented")
    if (found := _PRIVILEGE.match(text)) is not None:
        return log.refused(None, HcallRc.H_PRIVILEGE, _time(found), line.offset, "caller in problem state")
    if (found := _PRETTY.match(text)) is not None:
        return [*log.flush(), _pretty(found, line.offset)]
    if (found := _KVM.match(text)) is not None:
        opcode = None if found["opcode"] is None else int(found["opcode"], 16)
        call = ImportedCall(SOURCE, opcode, time_ns=_time(found), note=note)
        return [*log.flush(), Item(call.to_json(), call.time_ns, line.offset)]
    if (found := _FLUSH.match(text)) is not None:
        return [*log.flush(), event_item("papr_scm", {}, _time(found), line.offset, found["text"])]
    if (found := _EVENT.match(text)) is not None:
        return [
            *log.flush(),
            event_item(found["event"], _values(found["text"]), _time(found), line.offset, found["text"]),
        ]
    return None


def _pretty(found: re.Match[str], offset: int) -> Item:
    """A line of the pretty printer: its time is only the distance to the line before, so it has none."""
    values = _values(found["values"])
    note = f"{found['delta']} us after the event before"
    if found["event"] == "kvm_handle_papr_hcall":
        number = next(iter(values.values()), None)
        call = ImportedCall(SOURCE, None if number is None else int(number, 16), note=note)
        return Item(call.to_json(), None, offset)
    return event_item(found["event"], values, None, offset, note)


def event_item(
    name: str, values: dict[str, str], time_ns: int | None, offset: int, text: str, source: str = SOURCE
) -> Item:
    """An event that is no call."""
    out = {"source": source, "time": seconds(time_ns), "event": name, "values": values, "note": text}
    return Item(out, time_ns, offset)


def _values(text: str) -> dict[str, str]:
    return {found[1] or found[3]: (found[2] or found[4]).lower() for found in _VALUE.finditer(text)}


def _time(found: re.Match[str]) -> int | None:
    if found["stamp"] is not None:
        return nanoseconds(found["stamp"])
    if found["iso"] is None:
        return None
    try:
        moment = datetime.fromisoformat(found["iso"])
    except ValueError:
        return None
    whole = int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
    return whole if 0 <= whole < U64 else None
