"""Logs of other software: what each says comes out, what it does not say stays unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvnet.capture.importers import ImportedCall, Problems, call_of, element_in, object_of, open_any, sniff
from pvnet.capture.model import LINKTYPE_HCALL, Direction, Record

DATA = Path(__file__).parent.parent / "data"


def imported(path: Path, problems: Problems | None = None) -> list[dict[str, Any]]:
    return [json.loads(record.data) for record in open_any(path, problems)]


def calls(path: Path) -> list[tuple[Any, ...]]:
    """CPU, opcode, code, note and duration of each call."""
    return [
        (o["cpu"], o["opcode"], o["rc"], o["note"], o.get("took")) for o in imported(path) if "opcode" in o
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tracefs.txt", "tracefs"), ("tracefs-latency.txt", "tracefs"), ("tracefs-kprobes.txt", "tracefs"),
        ("trace-cmd.txt", "trace-cmd"), ("perf.txt", "perf"), ("kvm.txt", "tracefs"),
        ("dmesg-ibmvmc.txt", "dmesg"), ("dmesg-papr-scm.txt", "dmesg"),
        ("qemu-7.2.log", "qemu-log"), ("qemu-others.log", "qemu-log"),
    ],
)  # fmt: skip
def test_a_log_is_told_by_its_content(name: str, expected: str, tmp_path: Path) -> None:
    other = tmp_path / "x.txt"
    other.write_bytes((DATA / name).read_bytes())
    assert sniff(other) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  x-1 [000] d..1. 5.1: hcall_entry: opcode=4", "tracefs"),
        ("  x-1 [000] 5.1: hcall_entry: opcode=4", "trace-cmd"),
        ("x-1     0d..1.    1us : hcall_entry: opcode=4", "tracefs"),
        ("x 1 [000] 5.1: powerpc:hcall_entry: opcode=4", "perf"),
        ("CPU:1 [LOST 4 EVENTS]", "tracefs"),
        ("x: Hypercall made with MSR[PR]=1", "qemu-log"),
        ("Unimplemented SPAPR hcall 0x000", "qemu-log"),
        ("1@2.3:spapr_drc_reset drc: 0x1", "qemu-log"),
    ],
)
def test_a_log_is_told_by_one_line(line: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("chatter\n\n" + line + "\n")
    assert sniff(path) == expected


def test_tracefs_pairs_on_each_cpu_and_nests() -> None:
    assert calls(DATA / "tracefs.txt") == [
        (3, "0x3ec", 0, "", 3e-06),
        (1, "0x74", 0, "", 3e-06),
        (2, "0x64", 0, "", 1e-06),
        (2, "0x44c", 9901, "", 9e-06),
        (0, "0x400", -2, "no beginning seen", None),
        (0, "0x108", None, "events lost before its end", None),
        (0, "0x108", 0, "no beginning seen", None),
        (0, "0x3e0", -4, "", 1e-06),
        (3, "0x3e4", None, "no end seen", None),
    ]
    objects = imported(DATA / "tracefs.txt")
    assert [o["lost"] for o in objects if "lost" in o] == [120, None]
    assert all(o["args"] is None and o["outs"] is None for o in objects if "opcode" in o)
    first = objects[0]
    assert (first["source"], first["name"], first["time"]) == ("tracefs", "H_SCM_BIND_MEM", 57.104233)
    unknown = next(o for o in objects if o.get("opcode") == "0x3e0")
    assert unknown["name"] is None


def test_records_have_exact_times_directions_and_offsets() -> None:
    data = (DATA / "tracefs.txt").read_bytes()
    for number, record in enumerate(open_any(DATA / "tracefs.txt"), start=1):
        assert (record.number, record.direction) == (number, Direction.OUT)
        assert (record.interface.name, record.interface.link_type) == ("tracefs/hcall", LINKTYPE_HCALL)
        assert data[record.offset - 1] == ord("\n")
        if number == 1:
            assert record.time_ns == 57_104_233_000
            assert data[record.offset :].lstrip().startswith(b"modprobe-412     [003] d..1.    57.104233")


def test_the_latency_format() -> None:
    assert calls(DATA / "tracefs-latency.txt") == [
        (3, "0x3ec", -68, "", 6e-06), (0, "0xe0", None, "no end seen", None)
    ]  # fmt: skip


def test_kprobes_show_arguments_and_outputs() -> None:
    bind, health = (call_of(record) for record in open_any(DATA / "tracefs-kprobes.txt"))
    assert bind is not None
    assert bind.args == (0x90000001, 0, 1, (1 << 64) - 1, 0, 0, 0, 0)
    assert (bind.rc, bind.outs, bind.is_complete) == (0, {4: 0x90000001, 5: 0xA0000000, 6: 1, 7: 0}, True)
    assert (bind.took_ns, bind.cpu) == (6000, 3)
    assert health is not None
    assert (health.args, health.rc, health.outs) == ((0x90000001,), -2, None)


def test_trace_cmd() -> None:
    assert calls(DATA / "trace-cmd.txt") == [
        (3, "0x3ec", None, "events lost before its end", None),
        (3, "0x3ec", 0, "no beginning seen", None),
        (3, "0x3fc", -55, "", 9e-06),
    ]


def test_perf() -> None:
    assert calls(DATA / "perf.txt") == [
        (3, "0x3ec", 1, "", 3.123e-06),
        (1, "0x3ec", None, "events lost before its end", None),
        (1, "0x3ec", 0, "no beginning seen", None),
    ]
    assert [o["lost"] for o in imported(DATA / "perf.txt") if "lost" in o] == [7]


def test_a_kvm_host_shows_four_arguments_and_not_every_code() -> None:
    sent, bound, alone = (call_of(record) for record in open_any(DATA / "kvm.txt"))
    assert sent is not None
    assert bound is not None
    assert alone is not None
    assert (sent.opcode, sent.rc, sent.args) == (0x108, 0, (0x2000, 0xC001000000000000, 0, 5))
    assert (bound.opcode, bound.rc, bound.took_ns) == (0x3EC, None, 5000)
    assert bound.note == "arguments from r8 are not shown; answered by user space (RESUME_HOST)"
    assert (alone.opcode, alone.rc, alone.note) == (None, -2, "RESUME_GUEST; no beginning seen")


def test_dynamic_debug_of_ibmvmc_shows_whole_calls() -> None:
    records = list(open_any(DATA / "dmesg-ibmvmc.txt"))
    found = [(call.opcode, call.args, call.rc) for record in records if (call := call_of(record)) is not None]
    assert found == [
        (0x108, (0x30000000, 0xC001000000000000, 0), 0),
        (0x360, (), 0),
        (0x110, (0x1000, 0x10000100, 0x2000, 0x20000100, 0), 0),
        (0x108, (0x30000000, 0x8002000001000000, 0), -2),
        (0xFC, (0x30000000, None, None), -4),
        (0xFC, (0x30000000, None, None), -4),
        (0x108, None, 0),
        (0x110, (0x10, 0x10000100, 0x2000, 0x20000100, 0), None),
    ]
    came = [record for record in records if record.direction is Direction.IN]
    assert [element_in(object_of(record) or {}) for record in came] == [
        bytes.fromhex("80060000010000020000000000000015")
    ]
    assert came[0].time_ns == 10_617_700_000
    events = [o for o in (object_of(record) or {} for record in records) if "event" in o]
    assert [event["note"] for event in events] == [
        "version 1.0", "Probe for UA 0x30000000", "Probe: liobn 0x10000100, riobn 0x20000100",
        "CRQ recv: initialization resp msg - state 0x1",
    ]  # fmt: skip
    assert events[1]["values"] == {"unit": "0x30000000"}
    assert records[-1].time_ns is None  # a date is no time of a trace


def test_errors_of_papr_scm_show_the_code_and_the_device() -> None:
    records = list(open_any(DATA / "dmesg-papr-scm.txt"))
    found = [(call.opcode, call.args, call.rc, call.outs) for r in records if (call := call_of(r)) is not None]
    drc = 0x44100002
    assert found == [
        (0x3EC, (drc, None, None, None, None), -68, None),
        (0x418, (drc, None, None), -2, None),
        (0x418, (drc, None, None), 5, {4: 0x4D656D4C69666520}),
        (0x418, (drc, None, None), -10, None),
        (0x400, (drc,), -1, None),
        (None, None, -4, None),
        (0x44C, (drc, None), -1, None),
    ]
    events = [o for o in (object_of(record) or {} for record in records) if "event" in o]
    assert [(event["values"], event["note"]) for event in events] == [
        ({"drc": "0x44100002"}, "missing drc-index!"), ({}, "bind err: 007")
    ]  # fmt: skip


def record_of(values: object, link_type: int = LINKTYPE_HCALL) -> Record:
    from pvnet.capture.model import Interface

    return Record(Interface("x/y", link_type), 7, json.dumps(values).encode())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mark": "x"}, None),
        ({"from": "partition", "crq": "zz", "rc": 0}, None),
        ({"from": "partition", "crq": 5}, None),
        ([1], None),
        (
            {"from": "partition", "crq": "00" * 15 + "07", "note": 5},
            ImportedCall("transcript", 0x108, (None, 0, 7), time_ns=7),
        ),
        (
            {"hcall": "H_NOBODY", "args": ["0x1", 2, "0xg", "0x" + "1" * 17], "rc": True, "outs": ["0x1", None]},
            ImportedCall("transcript", None, (1, None, None, None), time_ns=7),
        ),
        (
            {"opcode": "0x4", "args": [], "rc": -1, "after": {"r4": "0x1", "cr": "0x2", "r5": 1}},
            ImportedCall("hcall-trace", 4, (), -1, {4: 1}, time_ns=7),
        ),
        ({"opcode": 4, "outs": [1], "source": "x"}, ImportedCall("x", None, time_ns=7)),
    ],
)
def test_a_call_of_any_line(values: object, expected: ImportedCall | None) -> None:
    assert call_of(record_of(values)) == expected


def test_other_records_are_no_calls() -> None:
    assert call_of(record_of({"opcode": "0x4"}, 1)) is None
    assert element_in({"crq_in": "zz"}) is None
    assert element_in({"crq_in": "00"}) is None
