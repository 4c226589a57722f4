"""Files that nobody should have written: a clear message, what can be used is used, memory and time stay bounded."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.importers import Problems, call_of, open_any, sniff
from pvnet.capture.importers.lines import KEPT_PROBLEMS, TEXT_LINE_BYTES
from pvnet.capture.importers.pairing import MAX_DEPTH, MAX_STACKS
from pvnet.core.errors import ConfigError

DATA = Path(__file__).parent.parent / "data"
VECTORS = Path(__file__).parent.parent / "vectors"
GOOD = b"        modprobe-412   [003] d..1.   57.104233: hcall_entry: opcode=1004\n"


def imported(path: Path, problems: Problems) -> list[dict[str, Any]]:
    return [json.loads(record.data) for record in open_any(path, problems)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh9", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x17\x08\x44tracing6\0", "trace-cmd report"),
        (b"PERFILE2\0", "perf script"),
        (b"\xd4\xc3\xb2\xa1", "editcap"),
        (b"\x7fELF\0\0", "binary"),
        (b"hello world\n", "no format that is known"),
        (b"{\n", "not JSON"),
        (b"{" + b" " * (1 << 20) + b"}", "longest line"),
        (b'{"a": 1}\n', "schema None"),
        (b'{"meta": {"schema": "pvnet-hcall-trace/2"}}\n', "pvnet-hcall-trace/2"),
        (b"x" * (1 << 16) + GOOD.strip(), "no format that is known"),
    ],
)
def test_what_is_not_for_us_is_said_at_once(data: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=text) as caught:
        open_any(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="x"):
        sniff(tmp_path / "x")


def test_lines_that_cannot_be_used_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(
        GOOD.replace(b"\n", b"\r\n")
        + b"y" * (3 * TEXT_LINE_BYTES) + b"\n"
        + GOOD.replace(b"modprobe", b"caf\xe9").replace(b"003", b"004")
        + GOOD.replace(b"1004", b"abc")
        + GOOD.replace(b"1004", b"99999999999999999999999")
        + GOOD.replace(b"[003]", b"[99999]")
        + GOOD.replace(b"57.104233:", b"")
        + b"x-1 [000] 5.1: hin: (__trace_hcall_entry+0x0/0x9) a0=0x1\n"
        + b"x-1 [000] 5.1: hout: (__trace_hcall_exit+0x0/0x9) op=0x4 rc=99999999999999999999\n"
        + b"x-1 [000] 5.1: hin: (__trace_hcall_entry+0x0/0x9) op=-0x4\n"
        + b"x-1 [000] 5.1: kvm_hcall_enter: VCPU 0: hcall=0x4 GPR4-7=0x1,x\n"
        + b"x-1 [000] 12345: hcall_exit: opcode=4 retval=0\n"
        + b"x 1 1 [000] 5.1: hcall_exit: opcode=4 retval=0\n"
        + GOOD.replace(b"004", b"00").strip(),
    )  # fmt: skip
    problems = Problems()
    objects = imported(path, problems)
    assert [o["opcode"] for o in objects] == ["0x4", "0x4", "0x3ec", "0x64", "0x3ec"]
    assert objects[0]["time"] is None  # the counter clock tells no time
    assert objects[3]["note"] == "the line may be cut short; no end seen"
    assert [text.split(":")[1] for text in problems.texts] == ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "14"]
    assert all(text.startswith(f"{path}:") for text in problems.texts)
    assert "12288 bytes" not in problems.texts[0]
    assert f"{3 * TEXT_LINE_BYTES + 1} bytes: expected at most {TEXT_LINE_BYTES}" in problems.texts[0]
    assert "not UTF-8" in problems.texts[1]


def test_a_line_without_end_is_skipped_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as stream:
        stream.write(GOOD)
        for _ in range(32):
            stream.write(b"z" * (1 << 20))
    problems = Problems()
    tracemalloc.start()
    try:
        objects = imported(path, problems)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert len(objects) == 1
    assert problems.count == 1


def test_only_so_many_problems_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(GOOD + GOOD.replace(b"1004", b"x") * 1000)
    problems = Problems()
    assert len(imported(path, problems)) == 1
    assert (problems.count, len(problems.texts)) == (1000, KEPT_PROBLEMS)


def test_calls_that_never_end_are_given_up(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(GOOD * (MAX_DEPTH + 5))
    objects = imported(path, Problems())
    assert len(objects) == MAX_DEPTH + 5
    assert {o["note"] for o in objects} == {"no end seen"}
    with path.open("wb") as stream:
        for cpu in range(MAX_STACKS + 3):
            stream.write(GOOD.replace(b"003", b"%d" % cpu))
    records = open_any(path)
    assert [json.loads(next(records).data)["cpu"] for _ in range(3)] == [0, 1, 2]


def test_lost_events_of_one_cpu_leave_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    line = b"q-7 [001] .... 5.1: kvm_hcall_enter: VCPU 0: hcall=H_CEDE GPR4-7=0x0,0x0,0x0,0x0\n"
    path.write_bytes(
        GOOD + line + line.replace(b"[001]", b"[003]") + b"CPU:3 [LOST 1 EVENTS]\n"
        b"q-7 [001] .... 5.2: kvm_hcall_exit: VCPU 0: ret=RESUME_GUEST hcall_rc=H_SUCCESS\n"
        + GOOD.replace(b"entry", b"exit").replace(b"1004", b"1004 retval=0")
    )  # fmt: skip
    objects = imported(path, Problems())
    assert [(o.get("opcode"), o.get("rc"), o.get("lost")) for o in objects] == [
        ("0x3ec", None, None), ("0xe0", None, None), (None, None, 1), ("0xe0", 0, None), ("0x3ec", 0, None)
    ]  # fmt: skip


def test_an_exit_gives_up_what_began_inside(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(
        GOOD + GOOD.replace(b"1004", b"100") + GOOD.replace(b"entry", b"exit").replace(b"1004", b"1004 retval=0")
    )
    objects = imported(path, Problems())
    assert [(o["opcode"], o["rc"], o["note"]) for o in objects] == [("0x64", None, "no end seen"), ("0x3ec", 0, "")]


def test_recordings_with_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "x"
    good = (VECTORS / "linux-6.1-scm-flush.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(
        good[0].replace(b"Linux", b"\\ud800") + b"\n" + good[1] + b"[1]\n{\n" + b"{" * 100_000 + b"\n"
        + b'{"n": 1, "t": 1e300, "mark": "x"}\n' + b'{"n": 1' + b"9" * 5000 + b"}\n" + good[2][:-9]
    )  # fmt: skip
    problems = Problems()
    records = list(open_any(path, problems))
    assert [record.time_ns is None for record in records] == [True, False, True]
    assert problems.count == 5
    assert problems.texts[-1].endswith("not a JSON object (the file ends in the middle of it): skipped")


def test_a_pcapng_that_is_cut_short_keeps_what_came_before(tmp_path: Path) -> None:
    from pvnet.capture.exporters import convert

    whole = tmp_path / "w.pcapng"
    convert(VECTORS / "linux-6.1-scm-flush.jsonl", whole)
    cut = tmp_path / "c.pcapng"
    cut.write_bytes(whole.read_bytes()[:-10])
    problems = Problems()
    assert len(list(open_any(cut, problems))) == 44
    assert problems.count == 1
    assert "offset" in problems.texts[0]


def test_hostile_lines_cost_what_they_are_long(tmp_path: Path) -> None:
    path = tmp_path / "x"
    hostile = (
        b" " * 4000 + b"hcall_entry:", b"-" * 4000 + b" hcall_entry:", b"[1] " * 990 + b"hcall_entry: opcode",
        b"1.1: " * 800 + b"hcall_exit:", b"papr_scm" * 300 + b": " * 700 + b" " * 200 + b":x",
        b"papr_scm: " + b" " * 4000 + b":", b"hypercall r3=" + b"0" * 4000, b"ibmvmc: " * 500,
        b"x-1 [000] 5.1: hin: (__trace_hcall_entry+0x0)" + b" a=1" * 980 + b" !", b"spapr_x " + b" " * 4000,
        b"CPU:" + b" " * 4000 + b"[", b"[1]" + b" " * 4000 + b"PERF_RECORD_LOST", b"1@2.3:" + b" " * 4000,
    )  # fmt: skip
    heads = (GOOD, b"powerpc:\n", b"spapr_drc_reset drc: 0x1\n", b"ibmvmc: x\n")
    for head in heads:
        path.write_bytes(head + b"".join(line[:4096] + b"\n" for line in hostile) * 3)
        try:
            sniff(path)
        except ConfigError:
            continue
        begin = time.process_time()
        for _ in open_any(path, Problems()):
            pass
        assert time.process_time() - begin < 5


SEEDS = [path.read_bytes() for path in sorted(DATA.glob("*.txt")) + sorted(DATA.glob("*.log"))]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(max_size=6)), max_size=12))
def test_mutated_logs_never_crash(tmp_path_factory: pytest.TempPathFactory, seed: bytes, cuts: Any) -> None:
    data = bytearray(seed)
    for where, new in cuts:
        at = where % (len(data) + 1)
        data[at : at + len(new) // 2] = new
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(data)
    try:
        for record in open_any(path, Problems()):
            call_of(record)
            json.loads(record.data)
    except ConfigError:
        pass


# --- QEMU's binary trace file ----------------------------------------------------------------------------------------


def simple(order: str, *records: bytes, version: int = 4) -> bytes:
    return struct.pack(order + "QQQ", (1 << 64) - 1, 0xF2B177CB0AA429B4, version) + b"".join(records)


def named(order: str, number: int, name: bytes) -> bytes:
    return struct.pack(order + "QQI", 0, number, len(name)) + name


def event(order: str, number: int, body: bytes, time_ns: int = 5_000_000_001) -> bytes:
    return struct.pack(order + "QQQII", 1, number, time_ns, 24 + len(body), 77) + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_simpletrace(order: str, tmp_path: Path) -> None:
    path = tmp_path / "trace-77"
    path.write_bytes(
        simple(
            order, named(order, 1, b"kvm_handle_papr_hcall"), named(order, 2, b"spapr_drc_reset"),
            named(order, 3, b"x"),
            event(order, 1, struct.pack(order + "Q", 0x3EC)), event(order, 1, b""),
            event(order, 2, struct.pack(order + "QQ", 1, 2)), event(order, 2, b"\1\2\3"), event(order, 3, b""),
            event(order, 9, b""), event(order, (1 << 64) - 2, struct.pack(order + "Q", 12)),
            event(order, (1 << 64) - 2, b""),
        )
    )  # fmt: skip
    assert sniff(path) == "simpletrace"
    problems = Problems()
    records = list(open_any(path, problems))
    objects = [json.loads(record.data) for record in records]
    assert [record.time_ns for record in records] == [5_000_000_001] * 6
    assert [o.get("opcode") for o in objects[:2]] == ["0x3ec", None]
    assert [o["values"] for o in objects[2:4]] == [{"arg0": "0x1", "arg1": "0x2"}, {"bytes": "010203"}]
    assert [o["lost"] for o in objects[4:]] == [12, None]
    assert problems.count == 0


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (b"\0\0\0", "ends in the middle"),
        (struct.pack("<QQ", 1, 1), "ends in the middle"),
        (struct.pack("<QQQII", 1, 1, 1, 1 << 20, 1), "record of 1048576 bytes"),
        (struct.pack("<QQQII", 1, 1, 1, 3, 1), "record of 3 bytes"),
        (struct.pack("<QQI", 0, 1, 1 << 30), "event name"),
        (struct.pack("<Q", 7), "kind 0x7"),
    ],
)
def test_a_damaged_simpletrace_ends_there(tail: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(simple("<", named("<", 1, b"kvm_handle_papr_hcall"), event("<", 1, b""), tail))
    problems = Problems()
    assert len(list(open_any(path, problems))) == 1
    assert problems.count == 1
    assert text in problems.texts[0]
    assert "offset 97" in problems.texts[0]


def test_simpletrace_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(simple("<", version=3))
    with pytest.raises(ConfigError, match="version 3: expected 4"):
        list(open_any(path))
    path.write_bytes(simple("<")[:20])
    with pytest.raises(ConfigError, match="version None"):
        list(open_any(path))
