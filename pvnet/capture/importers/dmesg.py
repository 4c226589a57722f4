"""The kernel's messages: the ``ibmvmc`` driver's (dynamic debug shows its hcalls whole) and ``papr_scm``'s errors.

Dynamic debug of ibmvmc prints H_SEND_CRQ and H_COPY_RDMA in two lines, arguments and return code, and the whole message
of a SIGNAL that came.  Other messages only name their type: they stay text.  ``papr_scm`` prints codes of failed
calls, whose only known argument is the DRC index in the device's name.

Examples: tests/data/dmesg-*.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from pvnet.capture.importers.calls import FIRST_OUT, U64, ImportedCall, Item, OpenCall, fold, nanoseconds, seconds
from pvnet.capture.importers.lines import Problems, TextLine
from pvnet.capture.importers.pairing import CUT, Pairing
from pvnet.capture.importers.qemu import event_item
from pvnet.papr.hcall import HcallOpcode, HcallRc

SOURCE: Final = "dmesg"
# <6>, [   12.345678] or [Mon Nov 16 10:00:00 2026] or a syslog line's beginning, [   T12], then anything of dynamic
# debug's flags up to the message.
_TIME: Final = re.compile(r"(?:<\d{1,3}>|\w+\s*:\w+\s*: )?\[\s*(?P<time>\d{1,12}\.\d{1,9})\]")
_VMC: Final = re.compile(r"(?:^|[\s\]])ibmvmc(?: (?P<unit>[0-9a-f]{1,8}))?: (?P<text>.*)$")
_PREFIXED: Final = re.compile(r"(?:ibmvmc: |ibmvmc:)?(?:ibmvmc_?\w*|h_\w+):\d+:\s|(?:ibmvmc: )")
_SEND: Final = re.compile(r"\(0x(?P<unit>[0-9a-f]{1,8}), 0x(?P<high>[0-9a-f]{16}), 0x(?P<low>[0-9a-f]{16})\)$")
_SEND_RC: Final = re.compile(r"rc = 0x(?P<rc>[0-9a-f]{1,16})$")
_RDMA: Final = re.compile(r"h_copy_rdma\((?P<args>0x[0-9a-f]{1,16}(?:, 0x[0-9a-f]{1,16}){4})\)?$")
_RDMA_RC: Final = re.compile(r"h_copy_rdma rc = 0x(?P<rc>[0-9a-f]{1,16})$")
_REQUEST: Final = re.compile(r"h_request_vmc rc = 0x(?P<rc>[0-9a-f]{1,16})$")
_MESSAGE: Final = re.compile(r"Recv_msg: msg from HV 0x(?P<high>[0-9a-f]{16}) 0x(?P<low>[0-9a-f]{16})$")
_REGISTER: Final = re.compile(
    r"couldn't register crq--rc 0x(?P<rc>[0-9a-f]{1,16})$|Error (?P<error>-?\d{1,19}) opening adapter$"
)
_SCM: Final = re.compile(r"(?:^|[\s\]])papr_scm\b")
_SCM_DRC: Final = re.compile(r"pmemory@([0-9a-f]{1,8})(?=:)")
_SCM_RC: Final = re.compile(r"-?\d{1,20}|0x[0-9A-Fa-f]{1,16}")
_SCM_CALLS: Final = {
    "bind err": HcallOpcode.H_SCM_BIND_MEM,
    "flush error": HcallOpcode.H_SCM_FLUSH,
    "Failed to query performance stats, Err": HcallOpcode.H_SCM_PERFORMANCE_STATS,
    "Failed to query health information, Err": HcallOpcode.H_SCM_HEALTH,
    "unbind error": None,
}
_SCM_ARGUMENTS: Final = {
    HcallOpcode.H_SCM_BIND_MEM: 5,
    HcallOpcode.H_SCM_FLUSH: 2,
    HcallOpcode.H_SCM_PERFORMANCE_STATS: 3,
    HcallOpcode.H_SCM_HEALTH: 1,
}
_SEND_KEY: Final = "send"
_RDMA_KEY: Final = "rdma"


def import_dmesg(lines: Iterable[TextLine], problems: Problems) -> Iterator[Item]:
    """Yield the calls that the drivers print, messages that came, and their other lines as events."""
    pairing = Pairing(SOURCE)
    for line in lines:
        stamp = _TIME.match(line.text)
        time_ns = None if stamp is None else nanoseconds(stamp["time"])
        note = CUT if line.is_last_half else ""
        if (found := _VMC.search(line.text)) is not None:
            text = _PREFIXED.sub("", found["text"]).strip()
            unit = None if found["unit"] is None else int(found["unit"], 16)
            yield from _vmc(pairing, text, unit, time_ns, line.offset, note)
        elif (found := _SCM.search(line.text)) is not None:
            yield _scm(line.text[found.end() :], time_ns, line.offset, note)
        else:
            continue
        if note:
            problems.add(line.number, "the file ends in the middle of this line: its last number may be cut short")
    yield from pairing.finish()


def _vmc(pairing: Pairing, text: str, unit: int | None, time_ns: int | None, offset: int, note: str) -> Iterator[Item]:
    notes = [note] if note else []
    if (found := _SEND.match(text)) is not None:
        args = (int(found["unit"], 16), int(found["high"], 16), int(found["low"], 16))
        call = OpenCall(HcallOpcode.H_SEND_CRQ, None, time_ns, offset, args, notes)
        yield from pairing.begin((_SEND_KEY, args[0]), call)
    elif (found := _SEND_RC.match(text)) is not None:
        key = (_SEND_KEY, unit)
        yield from pairing.end(key, HcallOpcode.H_SEND_CRQ, _rc(found["rc"]), time_ns, offset, note=note)
    elif (found := _RDMA.match(text)) is not None:
        numbers = tuple(int(part, 16) for part in found["args"].split(", "))
        call = OpenCall(HcallOpcode.H_COPY_RDMA, None, time_ns, offset, numbers, notes)
        yield from pairing.begin(_RDMA_KEY, call)
    elif (found := _RDMA_RC.match(text)) is not None:
        yield from pairing.end(_RDMA_KEY, HcallOpcode.H_COPY_RDMA, _rc(found["rc"]), time_ns, offset, note=note)
    elif (found := _REQUEST.match(text)) is not None:
        yield _call(HcallOpcode.H_REQUEST_VMC, (), _rc(found["rc"]), time_ns, offset, note)
    elif (found := _REGISTER.match(text)) is not None:
        rc = int(found["error"]) if found["rc"] is None else _rc(found["rc"])
        yield _call(HcallOpcode.H_REG_CRQ, (unit, None, None), rc, time_ns, offset, note)
    elif (found := _MESSAGE.match(text)) is not None:
        values = {"source": SOURCE, "time": seconds(time_ns), "crq_in": found["high"] + found["low"], "note": note}
        yield Item(values, time_ns, offset, is_inbound=True)
    else:
        shown = {} if unit is None else {"unit": hex(unit)}
        yield event_item("ibmvmc", shown, time_ns, offset, text, SOURCE)


def _scm(rest: str, time_ns: int | None, offset: int, note: str) -> Item:
    device = _SCM_DRC.search(rest)
    drc = None if device is None else int(device[1], 16)
    text = (rest if device is None else rest[device.end() :]).lstrip(" :").rstrip()
    name, _, number = (part.strip() for part in text.rpartition(":"))
    rc = int(number, 0) if _SCM_RC.fullmatch(number) and not _is_octal(number) else None
    notes = "; ".join(part for part in (text, note) if part)
    stats = HcallOpcode.H_SCM_PERFORMANCE_STATS
    if text == "Permission denied while accessing performance stats":
        return _call(stats, _first(drc, stats), int(HcallRc.H_AUTHORITY), time_ns, offset, notes)
    if rc is None or (name not in _SCM_CALLS and name != "Unknown performance stats, Err"):
        return event_item("papr_scm", {} if drc is None else {"drc": hex(drc)}, time_ns, offset, notes, SOURCE)
    if name not in _SCM_CALLS:
        outs = {FIRST_OUT: rc % U64}
        partial = ImportedCall(
            SOURCE, stats, _first(drc, stats), int(HcallRc.H_PARTIAL), outs, time_ns=time_ns, note=notes
        )
        return Item(partial.to_json(), time_ns, offset)
    opcode = _SCM_CALLS[name]
    args = None if opcode is None else _first(drc, opcode)
    return _call(opcode, args, fold(rc) if rc > 0 else rc, time_ns, offset, notes)


def _is_octal(text: str) -> bool:
    """Whether Python would refuse it for its leading zero."""
    digits = text.lstrip("-")
    return len(digits) > 1 and digits[0] == "0" and digits.isdigit()


def _first(drc: int | None, opcode: HcallOpcode) -> tuple[int | None, ...]:
    """The arguments of a call of which only the first is known."""
    return (drc, *[None] * (_SCM_ARGUMENTS[opcode] - 1))


def _call(
    opcode: int | None, args: tuple[int | None, ...] | None, rc: int, time_ns: int | None, offset: int, note: str
) -> Item:
    call = ImportedCall(SOURCE, opcode, args, rc, time_ns=time_ns, note=note)
    return Item(call.to_json(), time_ns, offset)


def _rc(text: str) -> int:
    """Fold what the driver prints unsigned: 8 digits are an int, 16 a long."""
    return fold(int(text, 16), 32 if len(text) == 8 else 64)
