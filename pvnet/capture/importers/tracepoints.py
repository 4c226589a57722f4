"""Linux tracepoints of hcalls, in the texts of tracefs, ``trace-cmd report`` and ``perf script``.

============================= ===================================================================================
``hcall_entry``               ``opcode=%lu``: no arguments
``hcall_exit``                ``opcode=%lu retval=%ld``; unsigned in old kernels: no outputs
kprobes on their handlers     ``op= a0= a1= ...`` of ``__trace_hcall_entry``, ``op= rc= o0= ...`` of
                              ``__trace_hcall_exit``: all there is; event names are the user's own
``kvm_hcall_enter``           ``VCPU n: hcall=NAME GPR4-7=...`` on a KVM host: four arguments
``kvm_hcall_exit``            ``VCPU n: ret=NAME hcall_rc=NAME``: the code, unless user space answers the call
============================= ===================================================================================

Calls of a guest are paired on their CPU, those on a host in their vCPU's thread.

Examples: tests/data/*.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pvnet.capture.importers.calls import FIRST_OUT, U64, Item, OpenCall, fold, nanoseconds, rc_named
from pvnet.capture.importers.lines import Problems, TextLine
from pvnet.capture.importers.pairing import CUT, Pairing
from pvnet.papr.hcall import HcallOpcode

MAX_CPU: Final = 1 << 16
_NAMES: Final = ("hcall_entry", "hcall_exit", "kvm_hcall_enter", "kvm_hcall_exit")
_ARGUMENTS: Final = 9

_TIME: Final = re.compile(r"(?P<time>\d{1,12}(?P<fraction>\.\d{1,20})?):")
_LATENCY_TIME: Final = re.compile(r"(?P<us>\d{1,15})us\D?:?")
_CPU: Final = re.compile(r"\[(\d{1,6})\]")
_LATENCY_CPU: Final = re.compile(r"(\d{1,6})[^\s\d]\S{2,6}")
_PID: Final = re.compile(r"(?:.*-|\d{1,10}/)?(\d{1,10})")
_LOST: Final = re.compile(r"\s*CPU:\s?(?P<cpu>\d{1,6}) \[(?:LOST )?(?P<count>\d{1,20} )?EVENTS(?: DROPPED)?\]")
_PERF_LOST: Final = re.compile(
    r".*\[(?P<cpu>\d{1,6})\]\s+(?P<time>\d{1,12}\.\d{1,9}):\s+PERF_RECORD_LOST(_SAMPLES)?\D*(?P<count>\d{1,20})"
)
_OURS: Final = re.compile(r"\bhcall_(entry|exit):|\bkvm_hcall_(enter|exit):|\b__trace_hcall_(entry|exit)\b")
_ENTRY: Final = re.compile(r"opcode=(?P<opcode>0x[0-9a-fA-F]+|\d+)\s*$")
_EXIT: Final = re.compile(r"opcode=(?P<opcode>0x[0-9a-fA-F]+|\d+)\s+retval=(?P<rc>-?\d+|0x[0-9a-fA-F]+)\s*$")
_KVM_ENTER: Final = re.compile(r"VCPU (?P<vcpu>-?\d+): hcall=(?P<hcall>\w+) GPR4-7=(?P<args>[0-9a-fx,]+)\s*$")
_KVM_EXIT: Final = re.compile(r"VCPU (?P<vcpu>-?\d+): ret=(?P<ret>\w+) hcall_rc=(?P<rc>\w+)\s*$")
_KPROBE: Final = re.compile(
    r"\(__trace_hcall_(?P<end>entry|exit)\+0x[0-9a-f]+(/0x[0-9a-f]+)?\)(?P<fields>( \w+=-?\w+)*)\s*$"
)
_FOUR_ONLY: Final = "arguments from r8 are not shown"


class _Event(NamedTuple):
    pid: int | None
    cpu: int
    time_ns: int | None
    name: str
    text: str
    offset: int
    note: str


class _MalformedError(ValueError):
    """An event of ours whose text is not what it should be."""


def import_tracepoints(source: str, lines: Iterable[TextLine], problems: Problems) -> Iterator[Item]:
    """Yield the calls of a trace: each when it ends, or when it is clear that its end is missing."""
    pairing = Pairing(source)
    for line in lines:
        if not line.text or line.text.startswith("#"):
            continue
        if (found := _LOST.match(line.text) or _PERF_LOST.match(line.text)) is not None:
            groups = found.groupdict()
            at = nanoseconds(groups["time"]) if groups.get("time") else None
            count = groups["count"]
            yield from pairing.lost(int(groups["cpu"]), int(count) if count else None, at, line.offset)
            continue
        if not _OURS.search(line.text):
            continue
        event = _event(line)
        if event is None:
            problems.add(line.number, "an hcall event in a line of unknown form: skipped")
            continue
        try:
            yield from _import(pairing, event)
        except _MalformedError as error:
            problems.add(line.number, f"{event.name}: {error}: skipped")
            continue
        if line.is_last_half:
            problems.add(line.number, "the file ends in the middle of this line: its last number may be cut short")
    yield from pairing.finish()


def _event(line: TextLine) -> _Event | None:
    """Find time, then what must be before and behind it; names of processes may look like anything, so not from left.

    By words, not by one pattern: a hostile line must not cost more than its length.
    """
    words = line.text.split()
    for at in range(1, len(words) - 1):
        if (found := _TIME.fullmatch(words[at])) is not None:
            behind = at + 1
            # a clock that is no clock (counter, tsc) prints a plain number: not a time
            time_ns = nanoseconds(found[0][:-1]) if found["fraction"] else None
            cpu, before = _cpu(words, at, _CPU)
        elif (found := _LATENCY_TIME.fullmatch(words[at])) is not None:
            behind = at + 2 if words[at + 1] == ":" else at + 1
            time_ns = int(found["us"]) * 1000
            cpu, before = _cpu(words, at, _LATENCY_CPU)
        else:
            continue
        if cpu is None or behind >= len(words) or not words[behind].endswith(":"):
            continue
        text = " ".join(words[behind + 1 :])
        name = words[behind][:-1].rpartition(":")[2]
        if name not in _NAMES and not text.startswith("(__trace_hcall_"):
            continue
        note = CUT if line.is_last_half else ""
        return _Event(_pid(words[:before]), cpu, time_ns, name, text, line.offset, note)
    return None


def _cpu(words: list[str], at: int, pattern: re.Pattern[str]) -> tuple[int | None, int]:
    """The CPU in one of the two words before the time (flags may be between), and which word it is."""
    for where in (at - 1, at - 2):
        if where > 0 and (found := pattern.fullmatch(words[where])) is not None and int(found[1]) < MAX_CPU:
            return int(found[1]), where
    return None, 0


def _pid(words: list[str]) -> int | None:
    """The thread's number: behind the last dash of the name, or a word of its own; behind it perhaps ``(tgid)``."""
    if words[-1].endswith(")"):
        while words and "(" not in words[-1]:
            words = words[:-1]
        words = words[:-1]
    found = _PID.fullmatch(words[-1]) if words else None
    return None if found is None else int(found[1])


def _import(pairing: Pairing, event: _Event) -> Iterator[Item]:
    match event.name:
        case "hcall_entry":
            found = _matched(_ENTRY, event, "opcode=N")
            return _begin(pairing, event.cpu, event, _u64(found["opcode"]), None)
        case "hcall_exit":
            found = _matched(_EXIT, event, "opcode=N retval=N")
            rc = _rc(found["rc"])
            return _end(pairing, event.cpu, event, _u64(found["opcode"]), rc)
        case "kvm_hcall_enter":
            found = _matched(_KVM_ENTER, event, "VCPU n: hcall=NAME GPR4-7=...")
            args = [_u64(value) for value in found["args"].split(",")]
            return _begin(pairing, event.pid, event, _opcode(found["hcall"]), tuple(args), _FOUR_ONLY)
        case "kvm_hcall_exit":
            found = _matched(_KVM_EXIT, event, "VCPU n: ret=NAME hcall_rc=NAME")
            known = None if found["rc"] == "H_TOO_HARD" else _named_rc(found["rc"])
            note = f"answered by user space ({found['ret']})" if found["rc"] == "H_TOO_HARD" else found["ret"]
            return _end(pairing, event.pid, event, None, known, note=note)
        case _:
            return _kprobe(pairing, event)


def _kprobe(pairing: Pairing, event: _Event) -> Iterator[Item]:
    found = _matched(_KPROBE, event, "(__trace_hcall_entry+0x..) op=N a0=N ...")
    values = dict(part.split("=", 1) for part in found["fields"].split())
    if "op" not in values:
        raise _MalformedError("no field op=")
    opcode = _u64(values["op"])
    if found["end"] == "entry":
        args = tuple(_u64(value) for value in _numbered(values, "a"))
        return _begin(pairing, event.cpu, event, opcode, args or None)
    rc = _rc(values["rc"]) if "rc" in values else None
    outs = dict(enumerate((_u64(value) for value in _numbered(values, "o")), FIRST_OUT))
    return _end(pairing, event.cpu, event, opcode, rc, outs or None)


def _numbered(values: dict[str, str], letter: str) -> Iterator[str]:
    for number in range(_ARGUMENTS):
        if (value := values.get(f"{letter}{number}")) is None:
            return
        yield value


def _begin(
    pairing: Pairing, key: int | None, event: _Event, opcode: int, args: tuple[int | None, ...] | None, note: str = ""
) -> Iterator[Item]:
    notes = [text for text in (note, event.note) if text]
    return pairing.begin(key, OpenCall(opcode, event.cpu, event.time_ns, event.offset, args, notes))


def _end(
    pairing: Pairing,
    key: int | None,
    event: _Event,
    opcode: int | None,
    rc: int | None,
    outs: dict[int, int] | None = None,
    note: str = "",
) -> Iterator[Item]:
    text = "; ".join(part for part in (note, event.note) if part)
    return pairing.end(key, opcode, rc, event.time_ns, event.offset, cpu=event.cpu, outs=outs, note=text)


def _matched(pattern: re.Pattern[str], event: _Event, expected: str) -> re.Match[str]:
    found = pattern.match(event.text)
    if found is None:
        raise _MalformedError(f"{event.text[:80]!r}: expected {expected}")
    return found


def _integer(text: str) -> int:
    try:
        return int(text, 16) if text.startswith("0x") else int(text)
    except ValueError:
        raise _MalformedError(f"{text[:40]!r}: expected a number") from None


def _u64(text: str) -> int:
    value = _integer(text)
    if -(U64 >> 1) <= value < 0:
        value += U64
    if not 0 <= value < U64:
        raise _MalformedError(f"{text[:40]}: expected a number of 64 bits")
    return value


def _rc(text: str) -> int:
    value = _integer(text)
    if not -(U64 >> 1) <= value < U64:
        raise _MalformedError(f"{text[:40]}: expected a return code of 64 bits")
    return value if value < 0 else fold(value)


def _opcode(text: str) -> int:
    member = HcallOpcode.__members__.get(text)
    return _u64(text) if member is None else int(member)


def _named_rc(text: str) -> int:
    named = rc_named(text)
    return _rc(text) if named is None else named
