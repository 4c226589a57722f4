"""A trace of a real hypervisor's CRQ hcalls against ours."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.hcall_check import HcallTraceRunner, LocalCrqTarget, run_hcall_trace
from pvnet.capture.hcall_trace import TraceCall, TraceIrq, TraceMark, TraceQueue, read_hcall_trace
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode

QEMU = read_hcall_trace(Path(__file__).parents[1] / "vectors" / "qemu-7.2-crq.jsonl")
UNIT = 0x2000
INIT = (UNIT, 0xC001 << 48, 0)
ANSWER = b"\xc0\x02" + bytes(14)


def call(n, opcode, *args, rc=0, after=None):
    return TraceCall(n, 0.0, opcode, args, rc, after or {})


START = (
    call(0, HcallOpcode.H_PUT_TCE, UNIT, 0x10000, 0x5000003),
    call(1, HcallOpcode.H_REG_CRQ, UNIT, 0x10000, 0x1000),
    call(2, HcallOpcode.H_VIO_SIGNAL, UNIT, 1),
)


def run(*records):
    return run_hcall_trace(replace(QEMU, records=records))


def test_every_record_of_the_real_trace():
    runner = HcallTraceRunner(QEMU)
    report = runner.run()
    assert [str(mismatch) for mismatch in report.mismatches] == []
    assert report.passed == 138 + 37
    # What was not recorded, so that a deduction gone wild is seen.
    assert runner.hidden == {
        "partner posted": 1,
        "guest sent INIT": 250 + 256,
        "guest stored a pattern": 2,
        "guest consumed a slot": 2,
        "guest cleared the queue": 1,
    }


@pytest.mark.parametrize("index", [i for i, r in enumerate(QEMU.records) if isinstance(r, TraceCall)][::7])
def test_a_changed_answer_is_found(index):
    records = QEMU.records
    record = records[index]
    for new in (replace(record, rc=record.rc + 1), replace(record, after={**record.after, 11: 1})):
        report = run_hcall_trace(replace(QEMU, records=(*records[:index], new, *records[index + 1 :])))
        assert [mismatch.n for mismatch in report.mismatches] == [record.n]


@pytest.mark.parametrize("index", [i for i, r in enumerate(QEMU.records) if isinstance(r, TraceIrq)])
def test_a_changed_interrupt_is_found(index):
    records = list(QEMU.records)
    records[index] = replace(records[index], is_raised=not records[index].is_raised)
    assert records[index].n in [m.n for m in run_hcall_trace(replace(QEMU, records=tuple(records))).mismatches]


def test_a_changed_slot_is_found():
    report = run(*START, call(3, HcallOpcode.H_SEND_CRQ, *INIT), TraceQueue(4, {0: b"\xc0\x03" + bytes(14)}))
    assert [(m.n, m.what) for m in report.mismatches] == [(4, "queue slot 0")]
    report = run(*START, TraceQueue(4, {3: b"\x80\x03" + bytes(14)}))
    assert [m.n for m in report.mismatches] == [4]


def test_guest_zeroes_a_slot_in_the_middle():
    runner = HcallTraceRunner(
        replace(
            QEMU,
            records=(
                *START,
                call(3, HcallOpcode.H_SEND_CRQ, *INIT),
                call(4, HcallOpcode.H_SEND_CRQ, *INIT),
                TraceQueue(5, {0: bytes(16), 1: ANSWER}),
                TraceMark(6, 0.0, "anything"),
            ),
        )
    )
    assert runner.run().failed == 0
    assert runner.hidden == {"guest zeroed a slot": 1}


def test_register_without_preset_is_compared_only_when_known():
    meta = replace(QEMU.meta, preset=None)
    record = call(0, HcallOpcode.H_VIO_SIGNAL, UNIT, 1, after={4: UNIT, 5: 1, 6: 77})
    assert run_hcall_trace(replace(QEMU, meta=meta, records=(record,))).failed == 0
    assert run(record).failed == 1


def test_inits_that_cannot_be_sent_end():
    # The queue's page is not mapped: nothing arrives, and the comparison says so.
    report = run(*START[1:], TraceQueue(3, {5: ANSWER}))
    assert [m.n for m in report.mismatches] == [3]


def test_a_slot_beyond_the_ring_is_not_filled_for_ever():
    report = run(*START, TraceQueue(3, {5000: ANSWER}))
    assert [m.n for m in report.mismatches] == [3]


def test_kinds_that_cannot_be_run():
    with pytest.raises(ConfigError, match="traffic with a partner that is not part of pvnet"):
        run_hcall_trace(replace(QEMU, meta=replace(QEMU.meta, vdevices=())))
    with pytest.raises(ConfigError, match="profile 'phyp': expected one of lopar, qemu"):
        run_hcall_trace(replace(QEMU, meta=replace(QEMU.meta, profile="phyp")))
    for memory in (0, 1 << 50):
        with pytest.raises(ConfigError, match="memory .*: expected at most 0x1000000000"):  # noqa: RUF043
            run_hcall_trace(replace(QEMU, meta=replace(QEMU.meta, memory_bytes=memory)))


def test_slots_outside_of_memory_are_refused():
    with pytest.raises(ConfigError, match="queue slot 99999999"):
        run(*START, TraceQueue(3, {99999999: ANSWER}))
    with pytest.raises(ConfigError, match="queue slot 0 at 0x40000000"):
        run_hcall_trace(replace(QEMU, meta=replace(QEMU.meta, queue_real=0x40000000)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_trace_breaks_the_runner(data):
    """Records taken out, doubled, damaged: mismatches or a refusal, but no crash."""
    records = [r for r in QEMU.records if r.n < 110]
    for _ in range(data.draw(st.integers(1, 6))):
        i, j = (data.draw(st.integers(0, len(records) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["delete", "double", "args", "slots"])):
            case "delete":
                del records[i]
            case "double":
                records.insert(i, records[j])
            case "args" if isinstance(records[i], TraceCall):
                args = data.draw(
                    st.lists(st.sampled_from([0, 1, 0x1000, UNIT, 0xC001 << 48, (1 << 64) - 1]), max_size=9)
                )
                records[i] = replace(records[i], args=tuple(args))
            case "slots":
                slot = data.draw(st.integers(0, 300))
                records.insert(i, TraceQueue(0, {slot: data.draw(st.sampled_from([ANSWER, bytes(16), b"\xee" * 16]))}))
            case _:
                pass
    with contextlib.suppress(ConfigError):
        report = run(*records)
        assert report.passed + report.failed == len(records)


def test_what_is_compared_may_be_elsewhere():
    made = []

    def make_target(config):
        made.append(config)
        return LocalCrqTarget(config)

    assert run_hcall_trace(QEMU, make_target).failed == 0
    assert len(made) == 1
