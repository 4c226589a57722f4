"""Reading and writing recordings: what is read, what is refused and how that is said."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.capture.check import check_file
from pvnet.capture.hcall_trace import (
    TraceCall,
    TraceCrqIn,
    TraceIrq,
    TraceMark,
    TraceQueue,
    read_hcall_trace,
)
from pvnet.capture.jsonl import MAX_LINE_BYTES
from pvnet.capture.transcript import (
    AppAct,
    ApplicationAct,
    Direction,
    HypervisorMessage,
    PartitionHcall,
    PartitionMessage,
    TranscriptMeta,
    read_transcript,
    to_json,
    write_transcript,
)
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode

VECTORS = Path(__file__).parents[1] / "vectors"
VMC_META = {"meta": {"schema": "pvnet-vmc-transcript/1", "unit": "0x2000", "lliobn": "0x2000", "rliobn": "0x90002000"}}
TRACE_META = {"meta": {"schema": "pvnet-hcall-trace/1", "profile": "qemu", "source": "test"}}
ELEMENT = "c001" + "00" * 14


def write(tmp_path, *lines) -> Path:
    path = tmp_path / "recording.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def refusal(read, path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def test_transcript_records(tmp_path):
    path = write(
        tmp_path,
        VMC_META,
        {"n": 7, "t": 1.5, "from": "hypervisor", "crq": ELEMENT, "note": "hello"},
        {"from": "partition", "crq": ELEMENT},
        {"mark": "insmod"},
        "",
        {"hcall": "H_REG_CRQ", "args": ["0x1", "0x2", "0x3"], "rc": -16},
        {
            "hcall": "H_COPY_RDMA",
            "args": ["0x1"] * 5,
            "rc": 0,
            "outs": [],
            "direction": "to_hv",
            "data_head": "0102",
        },
        {"app": "write", "hmc_index": 1, "length": 1, "data_head": "0102"},
        {"app": "close", "hmc_index": 0},
    )
    assert read_transcript(path).records == (
        HypervisorMessage(7, 1.5, bytes.fromhex(ELEMENT), "hello"),
        PartitionMessage(1, 0.0, bytes.fromhex(ELEMENT)),
        PartitionHcall(2, 0.0, HcallOpcode.H_REG_CRQ, (1, 2, 3), -16),
        PartitionHcall(3, 0.0, HcallOpcode.H_COPY_RDMA, (1,) * 5, 0, (), Direction.TO_HYPERVISOR, b"\1\2"),
        ApplicationAct(4, 0.0, AppAct.WRITE, 1, 1, b"\1\2"),
        ApplicationAct(5, 0.0, AppAct.CLOSE, 0),
    )


@pytest.mark.parametrize("name", ["linux-6.1-vmc-session.jsonl", "linux-6.1-vmc-negative.jsonl"])
def test_transcripts_survive_writing(tmp_path, name):
    transcript = read_transcript(VECTORS / name)
    path = tmp_path / "again.jsonl"
    write_transcript(path, transcript.meta, transcript.records)
    again = read_transcript(path)
    assert again.records == transcript.records
    assert again.meta == transcript.meta
    for line, record in zip((VECTORS / name).read_text().splitlines()[1:], transcript.records, strict=True):
        assert to_json(record) == json.loads(line)


crq = st.binary(min_size=16, max_size=16)
u64 = st.integers(0, (1 << 64) - 1)
number, seconds, text = st.integers(0, 1 << 40), st.floats(0, 1e6), st.text(max_size=10)
RECORDS = st.one_of(
    st.builds(HypervisorMessage, number, seconds, crq, text),
    st.builds(PartitionMessage, number, seconds, crq, st.integers(-600, 10000), text),
    st.builds(
        PartitionHcall, number, seconds, st.just(HcallOpcode.H_COPY_RDMA), st.tuples(*[u64] * 5), st.integers(-20, 2),
        st.just(()), st.sampled_from(Direction), st.binary(max_size=64),
    ),
    st.builds(
        PartitionHcall, number, seconds, st.sampled_from([HcallOpcode.H_REG_CRQ, HcallOpcode.H_REQUEST_VMC]),
        st.lists(u64, max_size=9).map(tuple), st.integers(-20, 2), st.lists(u64, max_size=9).map(tuple),
    ),
    st.builds(
        lambda n, t, act, index, data: ApplicationAct(n, t, act, index, len(data), data), number, seconds,
        st.sampled_from([AppAct.WRITE, AppAct.SET_HMC_ID]), st.integers(0, 254), st.binary(max_size=64),
    ),
    st.builds(ApplicationAct, number, seconds, st.just(AppAct.CLOSE), st.integers(0, 254)),
)  # fmt: skip


@given(st.lists(RECORDS, max_size=8))
def test_any_transcript_survives_writing(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("t") / "any.jsonl"
    write_transcript(path, TranscriptMeta(1, 2, 3, "s"), records)
    assert list(read_transcript(path).records) == records


BAD_TRANSCRIPT_LINES = [
    ({"from": "nobody", "crq": ELEMENT}, """'from': "nobody": expected "hypervisor" or "partition\""""),
    ({"from": "partition", "crq": "c001"}, """'crq': "c001": expected 32 hex digits"""),
    ({"from": "partition", "crq": "xx" * 16}, "expected 32 hex digits"),
    ({"from": "partition"}, "'crq': is missing: expected 32 hex digits"),
    ({"from": "partition", "crq": ELEMENT, "rc": "0"}, """'rc': "0": expected an integer"""),
    ({"from": "partition", "crq": ELEMENT, "rc": True}, "'rc': true: expected an integer"),
    ({"from": "hypervisor", "crq": ELEMENT, "n": -1}, "'n': -1: expected an integer of 0 to"),
    ({"from": "hypervisor", "crq": ELEMENT, "t": "now"}, """'t': "now": expected seconds"""),
    ({"from": "hypervisor", "crq": ELEMENT, "note": 5}, "'note': 5: expected a text"),
    ({"hcall": "H_NOPE", "args": [], "rc": 0}, "expected the name of an hcall"),
    ({"hcall": "H_REG_CRQ", "args": ["5"], "rc": 0}, "'args': [\"5\"]: expected a list of at most 9 numbers"),
    ({"hcall": "H_REG_CRQ", "args": ["0xz"], "rc": 0}, "expected a list"),
    ({"hcall": "H_REG_CRQ", "args": ["0x1"] * 10, "rc": 0}, "expected a list of at most 9"),
    ({"hcall": "H_REG_CRQ", "args": "0x1", "rc": 0}, "expected a list"),
    ({"hcall": "H_REG_CRQ", "args": ["0x1ffffffffffffffff"], "rc": 0}, "expected a list"),
    ({"hcall": "H_COPY_RDMA", "args": ["0x1"], "rc": 0}, "expected five arguments"),
    ({"hcall": "H_COPY_RDMA", "args": ["0x1"] * 5, "rc": 0, "direction": "up"}, 'expected "to_hv" or "to_driver"'),
    ({"app": "read", "hmc_index": 0}, 'expected "set_hmc_id", "write" or "close"'),
    ({"app": "close", "hmc_index": 255}, "'hmc_index': 255: expected an integer of 0 to 254"),
    ({"app": "write", "hmc_index": 0, "length": 1 << 30, "data_head": ""}, "'length'"),
    ({"n": 1}, "'from': is missing: expected a record with 'from', 'hcall' or 'app'"),
    ("[1]", "[1]: expected a JSON object"),
    ("{", "not JSON"),
    ("[" * 5000, "not JSON"),
    ('"' + "x" * MAX_LINE_BYTES + '"', "expected at most 1048576"),
]


@pytest.mark.parametrize(("line", "text"), BAD_TRANSCRIPT_LINES, ids=range(len(BAD_TRANSCRIPT_LINES)))
def test_bad_transcript_lines(tmp_path, line, text):
    said = refusal(read_transcript, write(tmp_path, VMC_META, line))
    assert said.startswith(":2: ")
    assert text in said
    assert "\n" not in said


BAD_FIRST_LINES = [
    ({}, "'meta': is missing: expected an object"),
    ({"meta": {"schema": "other/1"}}, """'schema': "other/1": expected "pvnet-vmc-transcript/1\""""),
    ({"meta": {**VMC_META["meta"], "unit": 8192}}, "'unit': 8192: expected a number of at most 32 bits"),
    ({"meta": {**VMC_META["meta"], "unit": "0x100000000"}}, "at most 32 bits"),
    ({"meta": {**VMC_META["meta"], "source": ["x" * 100]}}, "...: expected a text"),
]


@pytest.mark.parametrize(("line", "text"), BAD_FIRST_LINES, ids=range(len(BAD_FIRST_LINES)))
def test_bad_first_lines(tmp_path, line, text):
    said = refusal(read_transcript, write(tmp_path, line))
    assert said.startswith(":1: ")
    assert text in said


def test_files_that_are_none(tmp_path):
    assert "No such file" in refusal(read_transcript, tmp_path / "missing.jsonl")
    assert "Is a directory" in refusal(read_transcript, tmp_path)
    assert "the file is empty" in refusal(read_transcript, write(tmp_path, ""))
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\x80\xff\n")
    assert refusal(read_transcript, binary).startswith(":1: not JSON")


def test_trace_records(tmp_path):
    meta = TRACE_META["meta"] | {
        "preset": None,
        "memory": "0x1000",
        "queue": {"real": "0x10", "ioba": "0x20"},
        "vdevices": [{"unit": "0x2000", "crq": True, "liobn": "0x1", "window": "0x2", "signal_mask": "0x1"}],
        "devices": [
            {
                "drc": "0x90000000", "type": "nvdimm", "blocks": 2, "block_size": "0x10", "metadata_size": "0x20",
                "address": "0x80", "unarmed": True, "readonly": False, "backing": "ram", "metadata_preset": "0102",
            }
        ],
        "empty_pmem_drcs": ["0x90000004"],
        "other_drcs": [],
    }  # fmt: skip
    trace = read_hcall_trace(
        write(
            tmp_path,
            {"meta": meta},
            {"n": 5, "opcode": "0xfc", "args": ["0x1"], "rc": -4, "after": {"r4": "0x1", "r12": "0x2"}, "note": "x"},
            {"opcode": "0x3e5", "args": [], "rc": 0, "after": None},
            {"mark": "start"},
            {"observe": "queue", "slots": {"0": ELEMENT}},
            {"observe": "irq", "raised": True},
            {"crq_in": ELEMENT},
        )
    )
    assert trace.records == (
        TraceCall(5, 0.0, HcallOpcode.H_REG_CRQ, (1,), -4, {4: 1, 12: 2}, "x"),
        TraceCall(1, 0.0, HcallOpcode(0x3E5), (), 0, {}),
        TraceMark(2, 0.0, "start"),
        TraceQueue(3, {0: bytes.fromhex(ELEMENT)}),
        TraceIrq(4, True),
        TraceCrqIn(5, 0.0, bytes.fromhex(ELEMENT)),
    )
    assert (trace.meta.memory_bytes, trace.meta.queue_real, trace.meta.queue_ioba) == (0x1000, 0x10, 0x20)
    assert trace.meta.vdevices[0].liobn == 1
    assert trace.meta.devices[0].is_unarmed
    assert trace.meta.devices[0].metadata_preset == b"\1\2"
    assert trace.meta.empty_pmem_drcs == (0x90000004,)


BAD_TRACE_LINES = [
    ({"opcode": 5, "args": [], "rc": 0}, "'opcode': 5: expected a number"),
    ({"opcode": "0x4", "args": [], "rc": 0, "after": {"r3": "0x0"}}, "after: 'r3': \"0x0\": expected a register name"),
    ({"opcode": "0x4", "args": [], "rc": 0, "after": {"r4": 1}}, "after: 'r4': 1: expected a number"),
    ({"opcode": "0x4", "args": [], "rc": 0, "after": []}, "'after': []: expected an object"),
    ({"observe": "mood"}, """'observe': "mood": expected "queue" or "irq\""""),
    ({"observe": "irq", "raised": 1}, "'raised': 1: expected true or false"),
    ({"observe": "queue", "slots": {"x": ELEMENT}}, "slots: 'x'"),
    ({"observe": "queue", "slots": {"0": "00"}}, "slots: '0': \"00\": expected 32 hex digits"),
    ({"observe": "queue"}, "'slots': is missing"),
    ({"crq_in": "00"}, "expected 32 hex digits"),
    ({"mark": 1}, "expected a text"),
    ({"n": 1}, "expected a record with 'opcode', 'mark', 'observe' or 'crq_in'"),
]


@pytest.mark.parametrize(("line", "text"), BAD_TRACE_LINES, ids=range(len(BAD_TRACE_LINES)))
def test_bad_trace_lines(tmp_path, line, text):
    said = refusal(read_hcall_trace, write(tmp_path, TRACE_META, line))
    assert said.startswith(":2: ")
    assert text in said


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"vdevices": 5}, "'vdevices': 5: expected a list of objects"),
        ({"vdevices": [5]}, "expected a list of objects"),
        ({"vdevices": [{"unit": "0x1"}]}, "vdevices[0]: 'crq': is missing: expected true or false"),
        ({"queue": {"real": 1}}, "queue: 'real': 1"),
    ],
)
def test_bad_trace_meta(tmp_path, meta, text):
    assert text in refusal(read_hcall_trace, write(tmp_path, {"meta": TRACE_META["meta"] | meta}))


def test_check_says_which_schemas_there_are(tmp_path):
    said = refusal(check_file, write(tmp_path, {"meta": {"schema": "pcap/2"}}))
    assert 'expected "pvnet-vmc-transcript/1" or "pvnet-hcall-trace/1"' in said


def test_check_runs_both_kinds():
    assert check_file(VECTORS / "linux-6.1-vmc-session.jsonl").passed == 20
    assert check_file(VECTORS / "qemu-7.2-crq.jsonl").passed == 175


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(json.dumps(VMC_META).encode())), max_size=4))
def test_garbage_is_refused_and_nothing_else(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("g") / "garbage.jsonl"
    path.write_bytes(b"\n".join(lines))
    with contextlib.suppress(ConfigError):
        check_file(path)
