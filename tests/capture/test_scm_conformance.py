"""Recorded SCM traces of a real hypervisor, and of real drivers on it, against ours."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.check import check_file
from pvnet.capture.hcall_trace import TraceCall, is_scm, read_hcall_trace
from pvnet.capture.scm_check import LocalScmTarget, ScmTraceRunner, run_scm_trace
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode

VECTORS = Path(__file__).parents[1] / "vectors"
QEMU = read_hcall_trace(VECTORS / "qemu-7.2-scm.jsonl")
FLUSH = read_hcall_trace(VECTORS / "linux-6.1-scm-flush.jsonl")
PROBE = read_hcall_trace(VECTORS / "linux-6.1-scm-probe.jsonl")


@pytest.mark.parametrize(
    ("trace", "passed", "hidden"),
    [
        (QEMU, 225, {}),
        # The description of the recorded machine leaves out that its third device is unarmed.
        (FLUSH, 21, {"device is unarmed": 1}),
        (PROBE, 272, {"device is unarmed": 1}),
    ],
)
def test_every_call(trace, passed, hidden):
    runner = ScmTraceRunner(trace)
    report = runner.run()
    assert [str(mismatch) for mismatch in report.mismatches] == []
    assert (report.passed, runner.hidden) == (passed, hidden)


def test_files_are_told_apart():
    assert check_file(VECTORS / "qemu-7.2-scm.jsonl").passed == 225
    assert is_scm(replace(QEMU, meta=replace(QEMU.meta, devices=())))
    assert not is_scm(read_hcall_trace(VECTORS / "qemu-7.2-crq.jsonl"))


@pytest.mark.parametrize("index", range(0, 225, 5))
def test_a_changed_answer_is_found(index):
    record = QEMU.records[index]
    for new in (replace(record, rc=record.rc + 2), replace(record, after={**record.after, 11: 1})):
        report = run_scm_trace(replace(QEMU, records=(*QEMU.records[:index], new, *QEMU.records[index + 1 :])))
        assert record.n in [mismatch.n for mismatch in report.mismatches]


@pytest.mark.parametrize("register", [4, 5, 6])
def test_a_changed_register_is_found(register):
    index = next(i for i, r in enumerate(QEMU.records) if r.opcode == HcallOpcode.H_SCM_BIND_MEM and r.rc == 0)
    record = QEMU.records[index]
    new = replace(record, after={**record.after, register: record.after[register] ^ 1})
    report = run_scm_trace(replace(QEMU, records=(*QEMU.records[:index], new, *QEMU.records[index + 1 :])))
    shown = (
        f"record {record.n}: H_SCM_BIND_MEM drc=0x90000000 start=0 blocks=4 target=0xffffffffffffffff token=0x0: "
        f"r{register} after the call: expected {record.after[register] ^ 1:#x}, got {record.after[register]:#x}"
    )
    assert [str(mismatch) for mismatch in report.mismatches] == [shown]


def call(n, opcode, *args, rc=0, after=None):
    return TraceCall(n, 0.0, HcallOpcode(opcode), args, rc, after or {})


def flush(n, *args, rc=0, token=None):
    return call(n, HcallOpcode.H_SCM_FLUSH, 0x90000001, *args, rc=rc, after={} if token is None else {4: token})


def run(*records, trace=QEMU):
    runner = ScmTraceRunner(replace(trace, records=records))
    return runner.run(), runner.hidden


def test_flushes_take_as_long_as_recorded():
    report, hidden = run(
        flush(0, 0, rc=9901, token=1), flush(1, 0, rc=9901, token=2), flush(2, 1, rc=9901, token=1),
        flush(3, 2, rc=0), flush(4, 1, rc=9901, token=1), flush(5, 1, rc=0), flush(6, 1, rc=-55), flush(7, 2, rc=-55),
    )  # fmt: skip
    assert (report.passed, report.failed, hidden) == (8, 0, {})
    report, _ = run(flush(0, 0, rc=9901, token=1), flush(1, 1, rc=0), flush(2, 1, rc=9901))
    assert [mismatch.n for mismatch in report.mismatches] == [2]


def test_a_recording_that_begins_in_the_middle_of_a_life():
    report, hidden = run(flush(0, 0, rc=9901, token=4), flush(1, 4, rc=0), flush(2, 3, rc=-55))
    assert (report.passed, report.failed, hidden) == (3, 0, {"flush before the recording": 3})
    # A start without a known token says nothing.
    assert run(flush(0, 0, rc=9901))[1] == {}


def test_a_device_is_unarmed_only_if_it_always_says_so():
    health = HcallOpcode.H_SCM_HEALTH
    unarmed = call(0, health, 0x90000000, after={4: 1 << 63})
    assert run(unarmed, replace(unarmed, n=1))[1] == {"device is unarmed": 1}
    report, hidden = run(unarmed, call(1, health, 0x90000000, after={4: 0}))
    assert ([mismatch.n for mismatch in report.mismatches], hidden) == ([0], {})


def test_registers_without_arguments_hold_the_preset():
    # r6, the token, is the preset and not 0.
    report, _ = run(call(0, HcallOpcode.H_SCM_UNBIND_ALL, 1, 0, rc=-57, after={6: 0x5A5A5A5A00000000}))
    assert report.failed == 0
    report, _ = run(call(0, HcallOpcode.H_SCM_UNBIND_ALL, 1, 0, rc=0, after={5: 4, 9: 77}), trace=FLUSH)
    assert report.failed == 0
    assert run(call(0, HcallOpcode.H_SCM_HEALTH), trace=FLUSH)[0].failed == 1


def changed(**changes):
    device = replace(QEMU.meta.devices[0], **changes)
    return replace(QEMU, meta=replace(QEMU.meta, devices=(device, *QEMU.meta.devices[1:])))


@pytest.mark.parametrize(
    ("trace", "match"),
    [
        (replace(QEMU, meta=replace(QEMU.meta, profile="lopar")), "profile 'lopar': expected one of qemu, phyp"),
        (changed(type="dimm"), "device type 'dimm': expected one of nvdimm, spapr-nvdimm"),
        (changed(metadata_preset=bytes(0x20001)), "metadata_preset: expected at most 131072 bytes"),
        (changed(drc=0x90000001), "addresses overlap|has a device"),
        (changed(block_size=3), "block_size"),
        (replace(QEMU, meta=replace(QEMU.meta, empty_pmem_drcs=(0x80000010,))), "used twice"),
    ],
)
def test_traces_that_cannot_be_run(trace, match):
    with pytest.raises(ConfigError, match=match):
        run_scm_trace(trace)


def test_what_is_compared_may_be_elsewhere():
    made = []

    def make_target(config, stores):
        made.append(sorted(stores))
        return LocalScmTarget(config, stores)

    assert run_scm_trace(QEMU, make_target).failed == 0
    assert made == [[("guest", 0x90000000 + n) for n in range(4)]]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_trace_breaks_the_runner(data):
    """Records taken out, doubled, with other registers: mismatches, but no crash."""
    records = list(QEMU.records)
    for _ in range(data.draw(st.integers(1, 6))):
        i, j = (data.draw(st.integers(0, len(records) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["delete", "double", "args"])):
            case "delete":
                del records[i]
            case "double":
                records.insert(i, records[j])
            case _:
                args = data.draw(st.lists(st.sampled_from([0, 1, 8, 0x90000001, 1 << 63, (1 << 64) - 1]), max_size=9))
                records[i] = replace(records[i], args=tuple(args))
    report, _ = run(*records)
    assert report.passed + report.failed == len(records)
