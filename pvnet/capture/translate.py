"""Lines of hcall traces into lines of VMC transcripts and back, and imported calls into lines of traces.

Where the way back would not give the same line, the line goes along in ``original``: any way round loses nothing.  What
has no place in the other kind becomes a ``mark``, which both kinds have and no check looks at.  A call of a log that
does not say all that a recorded call must is a mark too (the imported line in ``imported``), never one with invented
numbers.

Spec: conformance/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from pvnet.capture.hcall_trace import SCHEMA as HCALL_TRACE
from pvnet.capture.importers.calls import FIRST_OUT, ImportedCall, call_in, element_in, name_of
from pvnet.capture.transcript import SCHEMA as TRANSCRIPT
from pvnet.capture.transcript import AppAct, Direction
from pvnet.papr.crq import CrqHeader
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.messages import VmcType

Line: TypeAlias = dict[str, object]
"""One line of a recording."""
ORIGINAL: Final = "original"
IMPORTED: Final = "imported"
UNKNOWN_PROFILE: Final = "unknown"
INCOMPLETE: Final = "incomplete call: "
RDMA_ARGUMENTS: Final = 5
_HMC_ID_BYTES: Final = 32
_HELD: Final = 256
_LAST_HMC_INDEX: Final = 254
_KEPT: Final = ("direction", "data_head", "note")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter of a transcript: unit address, the partition's window, the hypervisor's."""

    unit: int
    lliobn: int
    rliobn: int


def trace_meta(source: str, profile: str = UNKNOWN_PROFILE) -> Line:
    """First line of an hcall trace of which only the source is known, and perhaps the hypervisor's profile."""
    return {"meta": {"schema": HCALL_TRACE, "source": source, "profile": profile, "preset": None, "devices": []}}


def transcript_meta(source: str, adapter: Adapter) -> Line:
    """First line of a transcript."""
    return {
        "meta": {
            "schema": TRANSCRIPT,
            "source": source,
            "unit": hex(adapter.unit),
            "lliobn": hex(adapter.lliobn),
            "rliobn": hex(adapter.rliobn),
        }
    }


def to_trace(line: Line, adapter: Adapter | None) -> Line:
    """A transcript's line as a line of an hcall trace."""
    return _reversible(line, lambda values: _trace_of(values, adapter), lambda values: _transcript_of(values, adapter))


def to_transcript(line: Line, adapter: Adapter | None) -> Line:
    """An hcall trace's line as a line of a transcript."""
    return _reversible(line, lambda values: _transcript_of(values, adapter), lambda values: _trace_of(values, adapter))


def _reversible(line: Line, there: Callable[[Line], Line], back: Callable[[Line], Line]) -> Line:
    """Translate; the first line always keeps the other, because the way back must know the adapter before it."""
    original = line.get(ORIGINAL)
    if isinstance(original, dict):
        return original
    out = there(line)
    if "meta" in line or json.dumps(back(out)) != json.dumps(line):
        out[ORIGINAL] = line
    return out


def _head(line: Mapping[str, object]) -> Line:
    return {name: line[name] for name in ("n", "t") if name in line}


def _tail(line: Mapping[str, object]) -> Line:
    return {name: line[name] for name in _KEPT if name in line}


def _marked(line: Mapping[str, object], text: str) -> Line:
    return {**_head(line), "mark": text}


def trace_call(head: Line, call: ImportedCall, tail: Line) -> Line:
    """A complete call as a line of an hcall trace."""
    assert call.opcode is not None
    assert call.args is not None
    named = {} if (name := name_of(call.opcode)) is None else {"name": name}
    after = {f"r{register}": hex(value) for register, value in call.outs.items()} if call.outs else None
    args = [hex(value) for value in call.args if value is not None]
    return {**head, **named, "opcode": hex(call.opcode), "args": args, "rc": call.rc, "after": after, **tail}


def _trace_of(line: Line, adapter: Adapter | None) -> Line:
    if "meta" in line:
        meta = line["meta"]
        return trace_meta(str(meta.get("source", "")) if isinstance(meta, dict) else "")
    if "mark" in line:
        return dict(line)
    if (element := element_in(line)) is not None:
        return {**_head(line), "crq_in": element.hex(), **_tail(line)}
    if "app" in line:
        return _marked(line, f"application: {line['app']}, hmc {line.get('hmc_index')}")
    call = call_in(line)
    if call is None:
        return _marked(line, "a record of a transcript")
    if line.get("from") == "partition" and adapter is not None and call.args is not None:
        call = ImportedCall(call.source, call.opcode, (adapter.unit, *call.args[1:]), call.rc)
    if not call.is_complete:
        return _marked(line, "a call without all of its numbers")
    return trace_call(_head(line), call, _tail(line))


def _transcript_of(line: Line, adapter: Adapter | None) -> Line:
    if "meta" in line:
        meta = line["meta"]
        source = str(meta.get("source", "")) if isinstance(meta, dict) else ""
        return transcript_meta(source, adapter) if adapter is not None else dict(line)
    if "mark" in line:
        return dict(line)
    if (element := element_in(line)) is not None:
        return {**_head(line), "from": "hypervisor", "crq": element.hex(), **_tail(line)}
    call = call_in(line)
    if call is None:
        return _marked(line, f"observed: {line['observe']}" if "observe" in line else "a record of a trace")
    if not call.is_complete or (name := name_of(call.opcode)) is None:
        return _marked(line, f"a call that a transcript cannot have: {line.get('opcode')}")
    assert call.args is not None
    args = [value for value in call.args if value is not None]
    if call.opcode == HcallOpcode.H_SEND_CRQ and adapter is not None and len(args) == 3 and args[0] == adapter.unit:
        crq = f"{args[1]:016x}{args[2]:016x}"
        return {**_head(line), "from": "partition", "crq": crq, "rc": call.rc, **_tail(line)}
    outs = [] if call.outs is None else [call.outs.get(FIRST_OUT + at) for at in range(len(call.outs))]
    if None in outs or (call.opcode == HcallOpcode.H_COPY_RDMA and len(args) != RDMA_ARGUMENTS):
        return _marked(line, f"a call that a transcript cannot have: {name}")
    out: Line = {**_head(line), "hcall": name, "args": [hex(value) for value in args], "rc": call.rc}
    out["outs"] = [hex(value) for value in outs if value is not None]
    if call.opcode == HcallOpcode.H_COPY_RDMA and "direction" not in line:
        is_out = adapter is not None and args[3] == adapter.rliobn
        out["direction"] = str(Direction.TO_HYPERVISOR if is_out else Direction.TO_DRIVER)
    return {**out, **_tail(line)}


def imported_to_trace(line: Line) -> Line:
    """An imported line as a line of an hcall trace; a mark for what is no complete call."""
    head: Line = {} if line.get("time") is None else {"t": line["time"]}
    if "crq_in" in line:
        return {**head, "crq_in": line["crq_in"], **_tail(line)}
    if "lost" in line:
        count = line["lost"]
        text = f"{'an unknown number of' if count is None else count} events lost"
        return {**head, "mark": text, IMPORTED: line}
    if "event" in line:
        return {**head, "mark": f"{line['event']}: {line.get('note', '')}", IMPORTED: line}
    call = call_in(line)
    if call is not None and call.is_complete:
        return trace_call(head, call, {"note": call.note} if call.note else {})
    return {**head, "mark": INCOMPLETE + _shown(line), IMPORTED: line}


def _shown(line: Line) -> str:
    args = line.get("args")
    listed = ", ".join("?" if value is None else str(value) for value in args) if isinstance(args, list) else "..."
    rc = line.get("rc")
    return f"{line.get('name') or line.get('opcode') or 'unknown'}({listed}) = {'?' if rc is None else rc}"


def with_applications(lines: Iterable[Line]) -> Iterator[Line]:
    """Add what the application must have done to a transcript that was made of calls: each act before its first effect.

    An Open or a signal of the partition comes after the copy of its data, so a copy waits for what follows it.
    """
    held: list[Line] = []
    for line in lines:
        is_copy = line.get("hcall") == "H_COPY_RDMA" and line.get("direction") == Direction.TO_HYPERVISOR
        if is_copy:
            yield from held
            held = [line]
            continue
        if (act := _act(line, held[0] if held else None)) is not None:
            yield act
        elif held and line.get("from") != "partition" and len(held) < _HELD:
            held.append(line)
            continue
        yield from held
        held = []
        yield line
    yield from held


def _act(line: Line, copy: Line | None) -> Line | None:
    if line.get("from") != "partition":
        return None
    crq = bytes.fromhex(str(line["crq"]))
    if crq[0] != CrqHeader.COMMAND or crq[5] > _LAST_HMC_INDEX:
        return None
    match crq[1]:
        case VmcType.OPEN:
            act, length = AppAct.SET_HMC_ID, _HMC_ID_BYTES
        case VmcType.SIGNAL:
            act, length = AppAct.WRITE, int.from_bytes(crq[12:], "big")
        case VmcType.CLOSE:
            return {**_head(line), "app": str(AppAct.CLOSE), "hmc_index": crq[5]}
        case _:
            return None
    # the act is certain even where its bytes were not recorded: then none are shown
    shown = "" if copy is None else copy.get("data_head", "")
    return {**_head(line), "app": str(act), "hmc_index": crq[5], "data_head": shown, "length": length}
