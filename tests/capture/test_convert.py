"""Recordings into captures and into each other, and back; a lab's capture and logs into recordings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvnet.capture.check import check_file
from pvnet.capture.exporters import Conversion, convert
from pvnet.capture.hcall_trace import TraceMark, read_hcall_trace
from pvnet.capture.importers import open_any
from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_HCALL, LINKTYPE_MEMORY, Interface
from pvnet.capture.pvcap import CaptureWriter, create_capture
from pvnet.capture.transcript import AppAct, ApplicationAct, PartitionHcall, PartitionMessage, read_transcript
from pvnet.cli.main import run
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.envelope_pb2 import Envelope

TESTS = Path(__file__).parent.parent
SHARED = TESTS.parent.parent / "shared" / "conformance"
RECORDINGS = sorted((TESTS / "vectors").glob("*-*.jsonl")) + sorted(SHARED.glob("*/*.jsonl"))
TRANSCRIPTS = [path for path in RECORDINGS if "vmc" in str(path)]
CRQ = [path for path in RECORDINGS if "crq" in str(path)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ids(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", RECORDINGS, ids=ids)
def test_a_recording_goes_through_a_capture_byte_for_byte(path: Path, tmp_path: Path) -> None:
    capture, back = tmp_path / "x.pcapng", tmp_path / "y.jsonl"
    done = convert(path, capture)
    lines = path.read_bytes().count(b"\n")
    assert (done.written, done.to_format, done.problems.count) == (lines, "pcapng", 0)
    done = convert(capture, back)
    assert (done.written, done.incomplete, done.others) == (lines, 0, 0)
    assert back.read_bytes() == path.read_bytes()
    assert names(tmp_path) == ["x.pcapng", "y.jsonl"]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=ids)
def test_a_transcript_goes_through_an_hcall_trace_byte_for_byte(path: Path, tmp_path: Path) -> None:
    trace, back = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    convert(path, trace, "hcall-trace")
    found = read_hcall_trace(trace)
    original = read_transcript(path)
    calls = [record for record in original.records if isinstance(record, PartitionHcall | PartitionMessage)]
    assert sum(not isinstance(r, TraceMark) for r in found.records) >= len(calls)
    convert(trace, back, "transcript")
    assert back.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", CRQ, ids=ids)
def test_an_hcall_trace_goes_through_a_transcript_byte_for_byte(path: Path, tmp_path: Path) -> None:
    other, back = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    convert(path, other, "transcript")
    assert read_transcript(other).meta.unit == 0x2000
    convert(other, back, "hcall-trace")
    assert back.read_bytes() == path.read_bytes()


def test_a_transcript_without_a_copy_finds_back(tmp_path: Path) -> None:
    source, other, back = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    lines = (TESTS / "vectors" / "linux-6.1-vmc-session.jsonl").read_text().splitlines(keepends=True)[:6]
    odd = [
        '{"n": 5, "from": "partition", "crq": "C001000000000000000000000000000a"}\n',
        '{"n": 6, "from": "nobody"}\n',
        '{"n": 7, "hcall": "H_COPY_RDMA", "args": ["0x1"], "rc": 0}\n',
        '{"n": 8, "hcall": "H_FREE_CRQ", "args": ["0x2000"], "rc": 0, "outs": ["0x1", "0x2"], "x": 5}\n',
        '{"n": 9, "from": "partition", "crq": "c001000000000000000000000000000a", "rc": 0, "after": 1}\n',
        '{"n": 10, "t": 5, "mark": "hello"}\n',
    ]
    source.write_text("".join([*lines, *odd]))
    convert(source, other, "hcall-trace")
    read_hcall_trace(other)
    convert(other, back, "transcript")
    assert back.read_text() == source.read_text()


# --- a lab's capture -------------------------------------------------------------------------------------------------

MP, HV, LPAR = "mp", "hypervisor", "lpar1"
UNIT, NEAR, FAR = 0x30000000, 0x10000100, 0x20000100


class Lab:
    """Writes what nodes of a lab send to each other."""

    def __init__(self, writer: CaptureWriter) -> None:
        self.writer = writer
        self.now = 1_700_000_000_000_000_000
        self.seq = 0

    def send(self, source: str, destination: str, correlation: int = 0) -> Envelope:
        self.seq += 1
        self.now += 1_000_000
        return Envelope(
            schema=1, lab="x", source=source, destination=destination, source_incarnation=ord(source[0]),
            destination_incarnation=ord(destination[0]), stream=1, seq=self.seq, correlation=correlation,
            wall_ns=self.now,
        )  # fmt: skip

    def write(self, envelope: Envelope, *, timed: bool = True) -> None:
        data = envelope.SerializeToString()
        self.writer.record(Interface(f"{envelope.source}/x"), self.now if timed else None, data)

    def call(
        self, number: int, opcode: int, *args: int, memory: bytes | None = None, caller: str = MP, pr: bool = False
    ) -> None:
        envelope = self.send(caller, HV, number)
        envelope.hcall.opcode = opcode
        envelope.hcall.args.extend(args)
        envelope.hcall.problem_state = pr
        if memory is not None:
            envelope.hcall.memory = memory
        self.write(envelope)
        self.write(envelope)  # the other node's record of it

    def reply(self, number: int, rc: int = 0, *outs: int, memory: bytes | None = None, caller: str = MP) -> None:
        envelope = self.send(HV, caller, number)
        envelope.hcall_reply.rc = rc
        envelope.hcall_reply.outs.extend(outs)
        if memory is not None:
            envelope.hcall_reply.memory = memory
        self.write(envelope)

    def crq(self, text: str, caller: str = MP) -> None:
        envelope = self.send(HV, caller)
        envelope.crq_entry.element = bytes.fromhex(text)
        self.write(envelope, timed=False)

    def send_crq(self, number: int, text: str) -> None:
        self.call(number, HcallOpcode.H_SEND_CRQ, UNIT, int(text[:16], 16), int(text[16:], 16))
        self.reply(number)


def session(lab: Lab) -> None:
    """A management partition's life, every kind of line in it."""
    lab.call(1, HcallOpcode.H_REG_CRQ, UNIT, 0x1000, 0x1000)
    lab.reply(1, 0, UNIT, 0x1000)
    lab.call(2, HcallOpcode.H_COPY_RDMA, 0x1000, NEAR, 0x2000, FAR, 0, memory=b"me".ljust(4096, b"\0"))
    lab.crq("80040000000000010000000000001000")  # comes before the reply: stays behind the call
    lab.reply(2)
    lab.send_crq(3, "80020000010000000000000000000000")
    lab.call(4, HcallOpcode.H_COPY_RDMA, 5, NEAR, 0x2000, FAR, 0)
    contents = Interface("hypervisor/rdma", LINKTYPE_MEMORY)
    lab.writer.record(contents, lab.now, b"short")
    lab.writer.record(contents, lab.now, b"\2" + bytes(7) + (0).to_bytes(8, "big") + b"other")
    lab.writer.record(contents, lab.now, b"\1" + bytes(7) + (0x99).to_bytes(8, "big") + b"other")
    lab.writer.record(contents, lab.now, b"\1" + bytes(7) + (0x2000).to_bytes(8, "big") + b"hello")
    lab.reply(4)
    lab.send_crq(5, "80060000010000000000000000000005")
    lab.call(6, HcallOpcode.H_COPY_RDMA, 3, FAR, 0x1000, NEAR, 0x4000)
    lab.reply(6, memory=b"yes")
    lab.send_crq(7, "80060000010000000000000000000007")  # no copy before it
    lab.send_crq(8, "8003000001ff00000000000000000000")  # no such connection
    lab.send_crq(9, "80030000010000000000000000000000")
    lab.call(10, 0x3E5)
    lab.reply(10, -2)
    lab.call(11, HcallOpcode.H_FREE_CRQ, UNIT, pr=True)
    refusal = lab.send(HV, MP, 11)
    refusal.refusal.text = "wrong node"
    lab.write(refusal)
    lab.reply(99)  # of a call that was not seen
    lab.call(12, HcallOpcode.H_CEDE)
    lab.call(12, HcallOpcode.H_CEDE)  # the number again: the first one never had a reply
    lab.reply(12, 0, 7)
    lab.call(13, HcallOpcode.H_FREE_CRQ, UNIT)
    lab.call(50, HcallOpcode.H_CEDE, caller=LPAR)
    lab.reply(50, caller=LPAR)
    ack = lab.send(MP, HV)
    ack.link_ack.SetInParent()
    lab.write(ack)
    lab.writer.record(Interface("bridge/switch", LINKTYPE_ETHERNET), lab.now, bytes(60))


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "lab.pcapng"
    with create_capture(path) as writer:
        session(Lab(writer))
    return path


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_partition_of_a_lab_as_an_hcall_trace(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    done = convert(capture, out, node=MP)
    assert (done.to_format, done.partition, done.incomplete) == ("hcall-trace", MP, 3)
    trace = read_hcall_trace(out)
    assert (trace.meta.profile, trace.meta.source) == ("lopar", "partition mp of a pvnet lab")
    first, copy, came = objects(out)[1:4]
    assert first == {
        "n": 0, "t": 0.0, "name": "H_REG_CRQ", "opcode": "0xfc", "args": [hex(UNIT), "0x1000", "0x1000"], "rc": 0,
        "after": {"r4": hex(UNIT), "r5": "0x1000"},
    }  # fmt: skip
    assert copy["name"] == "H_COPY_RDMA"
    assert copy["data_head"] == b"me".ljust(64, b"\0").hex()
    assert came["crq_in"] == "80040000000000010000000000001000"
    assert came["t"] > copy["t"]
    heads = [line.get("data_head") for line in objects(out) if line.get("name") == "H_COPY_RDMA"]
    assert heads[1:] == [b"hello".hex(), b"yes".hex()]
    marks = [line["mark"] for line in objects(out) if "mark" in line]
    assert marks == [
        "incomplete call: H_FREE_CRQ: refused: wrong node", "incomplete call: H_CEDE: no reply seen",
        "incomplete call: H_FREE_CRQ: no reply seen",
    ]  # fmt: skip
    unknown = next(line for line in objects(out) if line.get("opcode") == "0x3e5")
    assert (unknown["rc"], "name" in unknown) == (-2, False)
    assert [line["n"] for line in objects(out)[1:]] == list(range(len(objects(out)) - 1))
    assert convert(capture, out, node=LPAR).written == 2


def test_one_partition_of_a_lab_as_a_transcript(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    convert(capture, out, "transcript", MP)
    found = read_transcript(out)
    assert (found.meta.unit, found.meta.lliobn, found.meta.rliobn) == (UNIT, NEAR, FAR)
    acts = [record for record in found.records if isinstance(record, ApplicationAct)]
    assert [(act.act, act.hmc_index, act.length, act.data_head[:5].rstrip(b"\0")) for act in acts] == [
        (AppAct.SET_HMC_ID, 0, 32, b"me"), (AppAct.WRITE, 0, 5, b"hello"), (AppAct.WRITE, 0, 7, b""),
        (AppAct.CLOSE, 0, 0, b""),
    ]  # fmt: skip
    kinds = [type(record).__name__ for record in found.records][:6]
    assert kinds == [
        "PartitionHcall", "ApplicationAct", "PartitionHcall", "HypervisorMessage", "PartitionMessage", "ApplicationAct"
    ]  # fmt: skip
    assert "original" not in out.read_text()


def test_a_long_wait_for_a_reply_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvnet.capture.export_lab._WAITING", 4)
    monkeypatch.setattr("pvnet.capture.export_lab._REMEMBERED", 2)
    path, out = tmp_path / "l.pcapng", tmp_path / "x.jsonl"
    with create_capture(path) as writer:
        lab = Lab(writer)
        lab.call(1, HcallOpcode.H_CEDE)
        for _ in range(6):
            lab.crq("80040000000000010000000000001000")
        lab.reply(1)
        bare = Envelope(source=HV, destination=MP)
        bare.crq_entry.element = bytes(16)
        lab.write(bare)
        lab.write(bare)  # neither number: cannot be told from another one
    done = convert(path, out)
    assert done.partition == MP
    lines = objects(out)[1:]
    assert lines[0]["mark"] == "incomplete call: H_CEDE: no reply seen among 4 records"
    assert [("crq_in" in line) for line in lines[1:]] == [True] * 8


def test_a_copy_that_nothing_follows(tmp_path: Path) -> None:
    path, out = tmp_path / "l.pcapng", tmp_path / "x.jsonl"
    with create_capture(path) as writer:
        lab = Lab(writer)
        lab.call(1, HcallOpcode.H_REG_CRQ, UNIT, 0, 4096)
        lab.reply(1)
        for number in (2, 3):
            lab.call(number, HcallOpcode.H_COPY_RDMA, 5, NEAR, 0x2000, FAR, 0, memory=b"12345")
            lab.reply(number)
        for _ in range(300):
            lab.crq("80040000000000010000000000001000")
        lab.send_crq(4, "c0010000000000000000000000000000")
        lab.send_crq(5, "80840000000000010000000000000000")
    assert convert(path, out, "transcript").written == 1 + 3 + 300 + 2
    assert not any("app" in line for line in objects(out))


# --- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_as_an_hcall_trace_shows_what_it_does_not_know(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    done = convert(TESTS / "data" / "tracefs.txt", out)
    assert (done.from_format, done.to_format, done.incomplete) == ("tracefs", "hcall-trace", 9)
    trace = read_hcall_trace(out)
    assert trace.meta.profile == "unknown"
    assert all(isinstance(record, TraceMark) for record in trace.records)
    lines = objects(out)[1:]
    assert lines[0]["mark"] == "incomplete call: H_SCM_BIND_MEM(...) = 0"
    assert [line["mark"] for line in lines if "lost" in line["imported"]] == [
        "120 events lost", "an unknown number of events lost"
    ]  # fmt: skip


def test_a_log_with_arguments_and_codes_becomes_calls(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    assert convert(TESTS / "data" / "tracefs-kprobes.txt", out).incomplete == 0
    assert objects(out)[2]["args"] == ["0x90000001"]
    done = convert(TESTS / "data" / "qemu-7.2.log", out)
    assert done.incomplete == 2
    assert read_hcall_trace(out).meta.profile == "qemu"
    assert objects(out)[-1]["rc"] == -2


def test_dynamic_debug_becomes_a_transcript(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    convert(TESTS / "data" / "dmesg-ibmvmc.txt", out, "transcript")
    found = read_transcript(out)
    assert (found.meta.unit, found.meta.lliobn, found.meta.rliobn) == (UNIT, NEAR, FAR)
    names = [type(record).__name__ for record in found.records]
    assert names == [
        "PartitionMessage", "PartitionHcall", "ApplicationAct", "PartitionHcall", "PartitionMessage",
        "HypervisorMessage",
    ]  # fmt: skip


def test_a_log_goes_through_a_capture(tmp_path: Path) -> None:
    log = TESTS / "data" / "dmesg-ibmvmc.txt"
    convert(log, tmp_path / "x.pcapng")
    before, after = list(open_any(log)), list(open_any(tmp_path / "x.pcapng"))
    shape: Callable[[Any], Any] = lambda r: (r.interface, r.time_ns, r.data, r.direction, r.number)  # noqa: E731
    assert [shape(record) for record in after] == [shape(record) for record in before]
    convert(log, tmp_path / "direct.jsonl")
    convert(tmp_path / "x.pcapng", tmp_path / "y.jsonl")
    assert (tmp_path / "y.jsonl").read_bytes() == (tmp_path / "direct.jsonl").read_bytes()


# --- what cannot be --------------------------------------------------------------------------------------------------

SESSION = TESTS / "vectors" / "linux-6.1-vmc-session.jsonl"
FLUSH = TESTS / "vectors" / "linux-6.1-scm-flush.jsonl"


def merged(path: Path, *sources: Path) -> Path:
    with create_capture(path) as writer:
        for source in sources:
            for record in open_any(source):
                writer.copy(record)
    return path


@pytest.mark.parametrize(
    ("out", "to", "text"),
    [
        ("x.pcapng", "tracefs", "tracefs can only be read"),
        ("x.pcapng", "qemu-log", "can only be read"),
        ("x.pcapng", "xml", "no such format: expected one of pcapng, hcall-trace, transcript"),
        ("x.txt", "", "the name says no format"),
        ("x.jsonl", "transcript", "needs the VMC adapter"),
    ],
)
def test_a_conversion_that_does_not_exist(out: str, to: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        convert(FLUSH, tmp_path / out, to)
    assert names(tmp_path) == []


def test_captures_that_are_no_recording(capture: Path, tmp_path: Path) -> None:
    def refused(source: Path, text: str, to: str = "hcall-trace", node: str = "") -> None:
        with pytest.raises(ConfigError, match=text):
            convert(source, tmp_path / "out.jsonl", to, node)
        assert not (tmp_path / "out.jsonl").exists()

    refused(capture, r"several partitions make hypervisor calls: lpar1 \(2\), mp")
    refused(capture, "nobody makes no hypervisor call here: expected one of lpar1", node="nobody")
    refused(merged(tmp_path / "a.pcapng", FLUSH, FLUSH), "several recordings")
    refused(merged(tmp_path / "b.pcapng", FLUSH, capture), "hcall-trace and lab")
    with create_capture(tmp_path / "c.pcapng") as writer:
        writer.record(Interface("x", LINKTYPE_ETHERNET), 1, bytes(60))
        writer.record(Interface("y", LINKTYPE_HCALL), 1, b"[]")
    refused(tmp_path / "c.pcapng", "nothing in it shows a hypervisor call")
    with create_capture(tmp_path / "d.pcapng") as writer:
        writer.record(Interface("y", LINKTYPE_HCALL), 1, b'{"meta": {"schema": "other/1", "unit": "0xg"}}')
    refused(tmp_path / "d.pcapng", "unknown schema")
    with create_capture(tmp_path / "e.pcapng") as writer:
        lab = Lab(writer)
        lab.crq("80040000000000010000000000001000")
    refused(tmp_path / "e.pcapng", "nobody makes")
    refused(tmp_path / "e.pcapng", "nobody", node="mp")


def test_records_that_are_no_part_of_a_recording_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with create_capture(path) as writer:
        for record in open_any(SESSION):
            writer.copy(record)
        writer.record(Interface("x", LINKTYPE_ETHERNET), 1, bytes(60))
    assert convert(path, tmp_path / "x.jsonl").others == 1
    assert (tmp_path / "x.jsonl").read_bytes() == SESSION.read_bytes()
    assert convert(path, tmp_path / "y.jsonl", "hcall-trace").others == 1


def test_the_source_may_be_the_target(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(SESSION.read_bytes())
    convert(path, path, "hcall-trace")
    read_hcall_trace(path)
    assert names(tmp_path) == ["x.jsonl"]


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.jsonl"
    assert run(["convert", str(capture), str(out), "--node", "mp"]) == 0
    text = capsys.readouterr().out
    assert "lines of hcall-trace, from pcapng" in text
    assert "3 calls are marks" in text
    assert "records are no part of it" in text
    assert run(["convert", str(SESSION), str(tmp_path / "y.pcapng"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "from": "transcript", "to": "pcapng", "written": 37, "incomplete": 0, "others": 0, "partition": None,
        "problems": [], "problem_count": 0,
    }  # fmt: skip


def test_the_command_complains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "x.txt"
    good = "  x-1 [000] 5.1: hcall_entry: opcode=4\n"
    log.write_text(good + good.replace("=4", "=x") * 12)
    assert run(["convert", str(log), str(tmp_path / "x.pcapng")]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 11
    assert errors[0].startswith(f"{log}:2: hcall_entry: ")
    assert errors[-1] == f"{log}: 2 more problems"


@pytest.mark.parametrize("to", ["tracefs", "dmesg", "qemu-log", "perf", "nonsense"])
def test_writing_a_log_is_bad_usage(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(SESSION), str(tmp_path / "x"), "--to", to]) == 2
    assert f"pvnet: {to}" in capsys.readouterr().err


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(tmp_path / "no"), str(tmp_path / "x.pcapng")]) == 1
    assert "no: No such file" in capsys.readouterr().err


def test_a_recorded_session_of_a_lab_runs_against_our_machine(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    done: Conversion = convert(capture, out, "transcript", MP)
    assert done.problems.count == 0
    report = check_file(out)
    assert report.passed > 0


def test_a_capture_of_nothing_but_hcalls_is_still_a_target_of_its_kind(capture: Path, tmp_path: Path) -> None:
    convert(SESSION, tmp_path / "s.pcapng")
    assert convert(tmp_path / "s.pcapng", tmp_path / "s.json").to_format == "transcript"
    assert convert(capture, tmp_path / "l.json", node=LPAR).to_format == "hcall-trace"


def test_a_device_is_written_in_place(tmp_path: Path) -> None:
    assert convert(SESSION, Path("/dev/null"), "transcript").written == 37
    assert Path("/dev/null").is_char_device()


def test_windows_are_known_from_a_copy_into_the_partition(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text(
        '{"meta": {"schema": "pvnet-hcall-trace/1", "profile": "lopar"}}\n'
        '{"n": 0, "opcode": "0xfc", "args": ["0x2000", "0x0", "0x1000"], "rc": 0, "after": null}\n'
        '{"n": 1, "opcode": "0x110", "args": ["0x1", "0x9", "0x0", "0x8", "0x0"], "rc": 0, "after": null, '
        '"direction": "to_driver"}\n'
        '{"n": 2, "opcode": "0x110", "args": ["0x1"], "rc": 0, "after": {"r5": "0x1"}}\n'
        '{"n": 3, "opcode": "0x108", "args": ["0x2000", "0x0", "0x0"], "rc": 0, "after": {"r4": "0x1"}}\n'
        '{"n": 4, "observe": "irq", "raised": true}\n{"n": 5, "what": 1}\n'
    )
    convert(source, tmp_path / "y.jsonl", "transcript")
    found = read_transcript(tmp_path / "y.jsonl")
    assert (found.meta.lliobn, found.meta.rliobn) == (8, 9)
    convert(tmp_path / "y.jsonl", tmp_path / "z.jsonl", "hcall-trace")
    assert (tmp_path / "z.jsonl").read_bytes() == source.read_bytes()


def test_standard_output_is_a_target(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    source = RECORDINGS[0]
    assert run(["convert", str(source), "-", "--to", "pcapng"]) == 0
    capture = tmp_path / "x.pcapng"
    capture.write_bytes(capfdbinary.readouterr().out)
    assert run(["convert", str(capture), "-", "--to", "hcall-trace", "--json"]) == 2
    assert b"expected one of them" in capfdbinary.readouterr().err
    convert(capture, tmp_path / "y.jsonl")
    assert (tmp_path / "y.jsonl").read_bytes() == source.read_bytes()
    assert not Path("-").exists()
