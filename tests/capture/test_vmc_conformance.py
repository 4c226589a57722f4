"""A recorded VMC session against the partition machine: real recordings, written ones for rare cases, and bad ones."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.transcript import (
    AppAct,
    ApplicationAct,
    Direction,
    HypervisorMessage,
    PartitionHcall,
    PartitionMessage,
    Transcript,
    TranscriptMeta,
    read_transcript,
)
from pvnet.capture.vmc_check import SparseMemory, run_vmc_transcript
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.partition import VmcPartition

VECTORS = Path(__file__).parents[1] / "vectors"
SESSION = read_transcript(VECTORS / "linux-6.1-vmc-session.jsonl")
NEGATIVE = read_transcript(VECTORS / "linux-6.1-vmc-negative.jsonl")
META = TranscriptMeta(unit=0x2000, lliobn=0x2000, rliobn=0x90002000)


def script(text: str) -> Transcript:
    """A transcript of lines: ``hv HEX``, ``mp HEX [rc]``, ``out LENGTH REMOTE [rc]`` and ``in LENGTH REMOTE [rc]`` for
    H_COPY_RDMA, ``call NAME ARG... = RC [OUT...]``, ``app ACT INDEX [LENGTH]``.  Spaces in HEX are dots; zeros follow.
    """
    records = []
    for n, line in enumerate(line.split("#")[0].split() for line in text.splitlines() if line.split("#")[0].strip()):
        kind, *rest = line
        if kind in ("hv", "mp"):
            crq = bytes.fromhex(rest[0].replace(".", "")).ljust(16, b"\0")
            rc = int(rest[1]) if len(rest) > 1 else 0
            records.append(HypervisorMessage(n, 0.0, crq) if kind == "hv" else PartitionMessage(n, 0.0, crq, rc))
        elif kind in ("out", "in"):
            length, remote = (int(word, 0) for word in rest[:2])
            local, away = (META.lliobn, 0x77000), (META.rliobn, remote)
            ends = (*local, *away) if kind == "out" else (*away, *local)
            direction = Direction.TO_HYPERVISOR if kind == "out" else Direction.TO_DRIVER
            rc = int(rest[2]) if len(rest) > 2 else 0
            records.append(PartitionHcall(n, 0.0, HcallOpcode.H_COPY_RDMA, (length, *ends), rc, (), direction))
        elif kind == "call":
            at = rest.index("=")
            args, (rc, *outs) = [int(word, 0) for word in rest[1:at]], [int(word, 0) for word in rest[at + 1 :]]
            records.append(PartitionHcall(n, 0.0, HcallOpcode[rest[0]], tuple(args), rc, tuple(outs)))
        else:
            length = int(rest[2]) if len(rest) > 2 else 32
            records.append(ApplicationAct(n, 0.0, AppAct(rest[0]), int(rest[1]), length, b"x" * min(length, 64)))
    return Transcript("script", META, tuple(records))


def compared(transcript: Transcript) -> int:
    kinds = {HcallOpcode.H_VIO_SIGNAL, HcallOpcode.H_PUT_TCE}
    return sum(
        isinstance(r, PartitionMessage) or (isinstance(r, PartitionHcall) and r.opcode not in kinds)
        for r in transcript.records
    )


def assert_all_pass(transcript: Transcript) -> None:
    report = run_vmc_transcript(transcript)
    assert [str(mismatch) for mismatch in report.mismatches] == []
    assert report.passed == compared(transcript)


# max_hmc 1, pool 32, mtu 4096 on both sides; two buffers of the partition, one of the hypervisor.
UP = """
call H_REG_CRQ 0x2000 0xc000000 0x1000 = 0
mp c001
hv c002
mp 8001.0000.00.01.0020.00001000.0100.0101
hv 8081.0000.00.01.0020.00001000.0080.0101
"""
SEED = """
hv 8004.00.00.00.00.0000.00000000.00010000
hv 8004.00.00.00.00.0001.00000000.00011000
hv 8004.00.01.00.00.0002.00000000.00012000
mp 8084.00.00.00.00.0000
mp 8084.00.00.00.00.0001
mp 8084.00.00.00.00.0002
"""
OPEN_1 = """
app set_hmc_id 0
out 0x1000 0x10000
mp 8002.00.00.01.00.0000
hv 8082.00.00.01.00.0000
"""
AFTER_LINK_DOWN = """
hv c001
mp c002
mp 8001.0000.00.01.0020.00001000.0100.0101
hv 8081.0000.00.01.0020.00001000.0080.0101
"""
OPEN_2 = OPEN_1.replace("00.00.01.00", "00.00.02.00")
OTHER_1 = OPEN_1.replace("0x10000", "0x20000").replace("00.00.01.00", "00.00.01.01").replace("id 0", "id 1")
CLOSE_1 = """
app close 0
mp 8003.00.00.01.00
hv 8083.00.00.01.00
"""

SCRIPTS = {
    "link down, then a second session": UP + SEED + OPEN_1 + "hv ff02\n" + AFTER_LINK_DOWN + SEED + OPEN_2,
    "link down while a write was on its way out": UP + SEED + OPEN_1 + """
        app write 0 5
        hv ff01                                  # put into the queue, taken later
        out 5 0x10000
        mp 8006.00.00.01.00.0000.deadbeef.00000005
    """ + AFTER_LINK_DOWN + SEED + OPEN_2,
    "re-seed of an index that was never opened is refused": """
        call H_REG_CRQ 0x2000 0xc000000 0x1000 = 2
        call H_VIO_SIGNAL 0x2000 1 = 0
        mp c001 2
        hv c001
        mp c002
        mp 8001.0000.00.02.0020.00001000.0100.0101
        hv 8081.0000.00.02.0020.00001000.0080.0101
        hv 8004.00.00.00.00.0000.00000000.00010000
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.00.0000
        mp 8084.00.00.00.01.0000
    """ + OPEN_1 + """
        hv ff02
        hv c001
        mp c002
        mp 8001.0000.00.02.0020.00001000.0100.0101
        hv 8081.0000.00.02.0020.00001000.0080.0101
        hv 8004.00.00.00.00.0000.00000000.00010000
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.00.0000
        mp 8084.02.00.00.01.0000
    """ + OPEN_2,
    "refused CLOSE resets the whole queue": UP + SEED + OPEN_1 + """
        app close 0
        mp 8003.00.00.01.00
        hv 8083.01.00.01.00
        call H_FREE_CRQ 0x2000 = 9901            # busy: asked again
        call H_FREE_CRQ 0x2000 = 1
        call H_FREE_CRQ 0x2000 = 0
        call H_REG_CRQ 0x2000 0xc010000 0x1000 = -16
        mp c001
        hv c002
        mp 8001.0000.00.01.0020.00001000.0100.0101
        hv 8081.0000.00.01.0020.00001000.0080.0101
    """ + SEED + OPEN_2,
    "a stale message and then a refused CLOSE": UP + SEED + OPEN_1 + """
        app close 0
        mp 8003.00.00.01.00
        hv 8006.00.00.77.00.0002.00000000.00000003
        hv 8083.01.00.01.00
        call H_FREE_CRQ 0x2000 = 0
        call H_REG_CRQ 0x2000 0xc010000 0x1000 = 0
        mp c001
    """,
    "what lay behind the refused CLOSE is lost": UP + SEED + OPEN_1 + """
        app close 0
        mp 8003.00.00.01.00
        hv 8083.01.00.01.00
        hv 8004.00.00.00.00.0009.00000000.00090000
        call H_FREE_CRQ 0x2000 = 0
        call H_REG_CRQ 0x2000 0xc010000 0x1000 = 0
        mp c001
    """,
    "own reset refused, then the driver is loaded again": UP + SEED + OPEN_1 + """
        app close 0
        mp 8003.00.00.01.00
        hv 8083.01.00.01.00
        call H_FREE_CRQ 0x2000 = 0
        call H_REG_CRQ 0x2000 0xc010000 0x1000 = 2   # the driver takes that for a failure
        call H_FREE_CRQ 0x2000 = 0
    """ + UP + SEED + OPEN_1,
    "driver loaded again with other parameters": UP + SEED + OPEN_1 + CLOSE_1 + SEED + """
        hv 8004.00.00.00.00.0003.00000000.00013000   # put into the queue, never taken
        call H_FREE_CRQ 0x2000 = 0
    """ + """
        call H_REG_CRQ 0x2000 0xc020000 0x10000 = 0
        mp c001
        hv c002
        mp 8001.0000.00.02.0040.00004000.1000.0101
        hv 8081.0000.00.02.0040.00002000.0080.0101
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.01.0000
    """ + SEED + """
        app set_hmc_id 0
        out 0x2000 0x10000
        mp 8002.00.00.01.00.0000
    """,
    "driver unloaded after a refused OPEN": UP + SEED + """
        app set_hmc_id 0
        out 0x1000 0x10000
        mp 8002.00.00.01.00.0000
        hv 8082.01.00.01.00.0000
        call H_FREE_CRQ 0x2000 = 0
    """ + UP + SEED + OPEN_1,
    "refused OPEN, then another on the same index": UP + SEED + """
        app set_hmc_id 0
        out 0x1000 0x10000
        mp 8002.00.00.01.00.0000
        hv 8082.01.00.01.00.0000
    """ + SEED + OPEN_2,
    "every buffer away, then back": UP + SEED + OPEN_1 + """
        app write 0 5
        out 5 0x10000
        mp 8006.00.00.01.00.0000.00000000.00000005
        app write 0 6
        out 6 0x11000
        mp 8006.00.00.01.00.0001.00000000.00000006
        hv 8006.00.00.01.00.0001.00000000.00000007   # the third write was refused until now
        in 7 0x11000
        app write 0 7
        out 7 0x11000
        mp 8006.00.00.01.00.0001.00000000.00000007
    """,
    "nothing to remove": UP + """
        hv 8004.00.01.00.00.0002.00000000.00012000
        hv 8005.00.00.00.00
        mp 8084.00.00.00.00.0002
        mp 8085.05.00.00.00.ffff
    """,
    "two connections, their calls crossing": """
        call H_REG_CRQ 0x2000 0xc000000 0x1000 = 0
        mp c001
        hv c002
        mp 8001.0000.00.02.0020.00001000.0100.0101
        hv 8081.0000.00.02.0020.00001000.0080.0101
        hv 8004.00.00.00.00.0000.00000000.00010000
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.00.0000
        mp 8084.00.00.00.01.0000
        app set_hmc_id 0
        out 0x1000 0x10000
        mp 8002.00.00.01.00.0000
        app set_hmc_id 1
        out 0x1000 0x20000
        hv 8082.00.00.01.00.0000
        mp 8002.00.00.01.01.0000
        hv 8082.00.00.01.01.0000
        app write 0 5
        out 5 0x10000
        app write 1 6
        out 6 0x20000
        mp 8006.00.00.01.01.0000.00000000.00000006
        mp 8006.00.00.01.00.0000.00000000.00000005
    """,
    "buffer added while a write runs": UP + SEED + OPEN_1 + """
        hv 8004.00.00.01.00.0003.00000000.00013000   # taken between the copy and the SIGNAL
        app write 0 5
        out 5 0x10000
        mp 8084.00.00.01.00.0003
        mp 8006.00.00.01.00.0000.00000000.00000005
        hv 8004.00.00.01.00.0004.00000000.00014000   # taken after the SIGNAL
        app write 0 6
        out 6 0x11000
        mp 8006.00.00.01.00.0001.00000000.00000006
        mp 8084.00.00.01.00.0004
    """,
    "buffer removed after a write took the lowest": UP + SEED + OPEN_1 + """
        hv 8005.00.00.01.00
        app write 0 5
        out 5 0x10000
        mp 8006.00.00.01.00.0000.00000000.00000005
        mp 8085.00.00.01.00.0001
    """,
    "message taken late": UP + SEED + OPEN_1 + """
        hv 8006.00.00.01.00.0002.00000000.00000003
        app write 0 5
        out 5 0x10000
        mp 8006.00.00.01.00.0000.00000000.00000005
        in 3 0x12000
    """,
    "close while an error is in the queue": UP + SEED + """
        app set_hmc_id 0
        out 0x1000 0x10000
        mp 8002.00.00.01.00.0000
        hv 8082.01.00.01.00.0000
        app close 0
        mp 8003.00.00.01.00
    """,
    "second connection while the first one's end is in the queue": """
        call H_REG_CRQ 0x2000 0xc000000 0x1000 = 0
        mp c001
        hv c002
        mp 8001.0000.00.02.0020.00001000.0100.0101
        hv 8081.0000.00.02.0020.00001000.0080.0101
        hv 8004.00.00.00.00.0000.00000000.00010000
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.00.0000
        mp 8084.00.00.00.01.0000
    """ + OPEN_1 + """
        app close 0
        mp 8003.00.00.01.00
        hv 8083.00.00.01.00
        hv 8004.00.00.00.00.0000.00000000.00010000
        app set_hmc_id 1                         # without a buffer on index 0 this would be refused
        out 0x1000 0x20000
        mp 8002.00.00.01.01.0000
        mp 8084.00.00.00.00.0000
    """,
    "messages for a driver that is not loaded are lost": UP + """
        call H_FREE_CRQ 0x2000 = 1
        call H_FREE_CRQ 0x2000 = 0
        hv c001
        hv 8004.00.00.00.00.0000.00000000.00010000
    """ + UP + SEED + OPEN_1,
    "copy to the driver refused": UP + SEED + OPEN_1 + """
        hv 8006.00.00.01.00.0002.00000000.00000003
        in 3 0x12000 -14
    """,
    "both connections lost, one comes back": """
        call H_REG_CRQ 0x2000 0xc000000 0x1000 = 0
        mp c001
        hv c002
        mp 8001.0000.00.02.0020.00001000.0100.0101
        hv 8081.0000.00.02.0020.00001000.0080.0101
        hv 8004.00.00.00.00.0000.00000000.00010000
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.00.0000
        mp 8084.00.00.00.01.0000
    """ + OPEN_1 + OTHER_1 + """
        hv ff06
        hv c001
        mp c002
        mp 8001.0000.00.02.0020.00001000.0100.0101
        hv 8081.0000.00.02.0020.00001000.0080.0101
        hv 8004.00.00.00.00.0000.00000000.00010000
        hv 8004.00.00.00.01.0000.00000000.00020000
        mp 8084.00.00.00.00.0000
        mp 8084.00.00.00.01.0000
    """ + OPEN_2,
    "copy refused: nothing is sent": UP + SEED + OPEN_1 + """
        app write 0 5
        out 5 0x10000 -13
        app write 0 5
        out 5 0x11000
        mp 8006.00.00.01.00.0001.00000000.00000005
    """,
    "stale registration at probe": """
        call H_REG_CRQ 0x2000 0xc000000 0x1000 = -16
        call H_FREE_CRQ 0x2000 = 9900
        call H_FREE_CRQ 0x2000 = 0
        call H_REG_CRQ 0x2000 0xc000000 0x1000 = 2
        mp c001 2
    """,
    "H_REQUEST_VMC while busy": UP + """
        call H_REQUEST_VMC = 9900
        call H_REQUEST_VMC = 1
        call H_REQUEST_VMC = 0 0x30000001
        call H_PUT_TCE 1 2 3 = 0
        call H_REQUEST_VMC = -10
    """ + SEED + OPEN_1,
    "the recording ends before the driver answered": UP + "hv 8004.00.00.00.00.0000.00000000.00010000\n",
}  # fmt: skip


@pytest.mark.parametrize("transcript", [SESSION, NEGATIVE], ids=["session", "negative"])
def test_recordings_of_the_real_driver(transcript):
    assert_all_pass(transcript)


@pytest.mark.parametrize("name", SCRIPTS)
def test_rules_of_the_driver(name):
    assert_all_pass(script(SCRIPTS[name]))


def positions(transcript, kind):
    return [i for i, record in enumerate(transcript.records) if isinstance(record, kind)]


def changed(transcript, position, *new):
    return replace(transcript, records=(*transcript.records[:position], *new, *transcript.records[position + 1 :]))


@pytest.mark.parametrize("position", positions(SESSION, PartitionMessage))
def test_a_changed_message_is_found_and_what_follows_still_passes(position):
    record = SESSION.records[position]
    report = run_vmc_transcript(
        changed(SESSION, position, replace(record, crq=record.crq[:7] + b"\x55" + record.crq[8:]))
    )
    assert report.failed == 1
    assert report.passed == compared(SESSION) - 1
    assert report.mismatches[0].n == record.n
    assert record.crq.hex()[:4] in report.mismatches[0].got


@pytest.mark.parametrize("position", positions(SESSION, PartitionMessage))
def test_a_missing_message_is_found(position):
    report = run_vmc_transcript(changed(SESSION, position))
    assert report.failed >= 1


@pytest.mark.parametrize("position", positions(SESSION, PartitionMessage))
def test_an_extra_message_is_found(position):
    extra = PartitionMessage(4711, SESSION.records[position].t, b"\x80\x77" + bytes(14))
    report = run_vmc_transcript(changed(SESSION, position, extra, SESSION.records[position]))
    assert 4711 in [mismatch.n for mismatch in report.mismatches]


@pytest.mark.parametrize("argument", range(5))
@pytest.mark.parametrize(
    "position", [i for i in positions(SESSION, PartitionHcall) if SESSION.records[i].opcode == HcallOpcode.H_COPY_RDMA]
)
def test_a_changed_copy_is_found_except_for_its_local_address(position, argument):
    record = SESSION.records[position]
    args = tuple(value + (index == argument) for index, value in enumerate(record.args))
    report = run_vmc_transcript(changed(SESSION, position, replace(record, args=args)))
    is_local = argument == (2 if record.direction is Direction.TO_HYPERVISOR else 4)
    assert report.failed == (0 if is_local else 1)


def test_an_extra_copy_and_an_extra_hcall_are_found():
    position = next(i for i in positions(SESSION, PartitionHcall) if SESSION.records[i].args[:1] == (0x10,))
    record = SESSION.records[position]
    extra = replace(record, n=4711, args=(0x11, *record.args[1:]))
    report = run_vmc_transcript(changed(SESSION, position, extra, record))
    assert [mismatch.n for mismatch in report.mismatches] == [4711]
    twice = script(UP + SEED + "call H_FREE_CRQ 0x2000 = 0\ncall H_FREE_CRQ 0x2000 = 0\n" + UP)
    assert [mismatch.got for mismatch in run_vmc_transcript(twice).mismatches] == ["nothing"]


def test_copied_data_of_the_application_is_compared():
    position = next(i for i in positions(SESSION, PartitionHcall) if SESSION.records[i].args[:1] == (0x10,))
    report = run_vmc_transcript(changed(SESSION, position, replace(SESSION.records[position], data_head=b"other")))
    assert [mismatch.what for mismatch in report.mismatches] == ["H_COPY_RDMA"]


def test_uninitialised_bytes_of_signal_do_not_count():
    position = next(i for i in positions(SESSION, PartitionMessage) if SESSION.records[i].crq[1] == 6)
    record = SESSION.records[position]
    dirty = replace(record, crq=record.crq[:8] + b"\xde\xad\xbe\xef" + record.crq[12:])
    assert_all_pass(changed(SESSION, position, dirty))


@pytest.mark.parametrize("argument", range(3))
def test_registration_is_compared_except_for_the_address(argument):
    record = SESSION.records[0]
    args = tuple(value + 0x1000 * (index == argument) for index, value in enumerate(record.args))
    report = run_vmc_transcript(changed(SESSION, 0, replace(record, args=args)))
    # A longer queue is also seen in CAP.
    assert report.failed == (1, 0, 1)[argument]


def test_an_hcall_that_nobody_makes():
    report = run_vmc_transcript(script(UP + "call H_ENABLE_CRQ 0x2000 = 0\n"))
    assert [(m.expected, m.got) for m in report.mismatches] == [("H_ENABLE_CRQ unit=0x2000", "nothing")]


def test_hcalls_without_a_driver():
    report = run_vmc_transcript(
        script("hv c001\ncall H_FREE_CRQ 0x2000 = 0\nmp c001\ncall H_REQUEST_VMC = 0\nout 1 2\n")
    )
    assert report.failed == 4


def test_an_application_without_a_driver_or_session():
    report = run_vmc_transcript(script("app write 0\n" + UP + "app write 0\n"))
    assert [m.what for m in report.mismatches] == ["application's write", "application's write"]
    assert report.passed == 3


def test_a_refused_application_is_reported():
    report = run_vmc_transcript(script(UP + "app set_hmc_id 0\n"))
    assert [(m.what, m.got) for m in report.mismatches] == [("application's set_hmc_id", "ENOBUFS")]


def test_messages_beyond_the_end_are_reported():
    report = run_vmc_transcript(script(UP + SEED + OPEN_1 + "app close 0\n"))
    assert [m.what for m in report.mismatches] == ["CRQ message after the end"]
    assert "Close(session=1, index=0)" in report.mismatches[0].got


def test_an_empty_recording_passes_nothing():
    report = run_vmc_transcript(Transcript("empty", META, ()))
    assert (report.passed, report.failed) == (0, 0)


@pytest.mark.parametrize("args", ["0x2000 0xc000000 0", "0x2000 0xc000000 0x800", "0x2000 0 0x20000000", "0x2000"])
def test_a_queue_that_cannot_be(args):
    with pytest.raises(ConfigError, match=r"record 0: H_REG_CRQ length .*expected a multiple of 4096"):
        run_vmc_transcript(script(f"call H_REG_CRQ {args} = 0\n"))


def test_huge_parameters_take_no_memory():
    report = run_vmc_transcript(
        script(UP.replace("8001.0000.00.01.0020.00001000.0100.0101", "8001.0000.00.ff.ffff.ffffffff.0100.0101"))
    )
    assert report.failed == 1  # the driver never sends that


def test_sparse_memory():
    memory = SparseMemory()
    memory.write(4090, b"0123456789")
    assert memory.read(4088, 14) == b"\0\0" + b"0123456789" + b"\0\0"
    assert memory.read(1 << 40, 4) == bytes(4)


@pytest.mark.parametrize("transcript", [SESSION, NEGATIVE], ids=["session", "negative"])
@pytest.mark.parametrize("seed", range(6))
def test_messages_that_lay_in_the_queue_longer(transcript, seed):
    """The same driver, the hypervisor's messages put into the queue up to five records earlier than in the recording.

    Not before the message before it, and answers not before what they answer.
    """
    random = Random(seed)
    records = list(transcript.records)
    for position in range(1, len(records)):
        record = records[position]
        if not isinstance(record, HypervisorMessage) or random.random() < 0.3:
            continue
        request = bytes((record.crq[0], record.crq[1] & 0x7F)) if record.crq[0] == 0x80 else b"\xc0\x01"
        is_answer = record.crq[1] & 0x80 or record.crq[0] == 0xC0
        at = position
        for _ in range(random.randint(1, 5)):
            before = records[at - 1]
            if isinstance(before, HypervisorMessage) or (isinstance(before, PartitionHcall) and not before.direction):
                break
            if is_answer and isinstance(before, PartitionMessage) and before.crq[:2] == request:
                break
            at -= 1
        records.insert(at, records.pop(position))
    assert_all_pass(replace(transcript, records=tuple(records)))


@settings(max_examples=60)
@given(st.data())
def test_no_recording_breaks_the_runner(data):
    """Records taken out, doubled, exchanged, damaged: mismatches, or a recording that cannot be run, but no crash."""
    records = list(SESSION.records)
    for _ in range(data.draw(st.integers(1, 6))):
        i, j = (data.draw(st.integers(0, len(records) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["delete", "double", "exchange", "damage", "refuse"])):
            case "delete" if len(records) > 1:
                del records[i]
            case "double":
                records.insert(i, records[j])
            case "exchange":
                records[i], records[j] = records[j], records[i]
            case "damage" if isinstance(records[i], HypervisorMessage | PartitionMessage):
                raw = bytearray(records[i].crq)
                raw[data.draw(st.integers(0, 15))] = data.draw(st.sampled_from([0, 1, 2, 0x80, 0xC0, 0xFF]))
                records[i] = replace(records[i], crq=bytes(raw))
            case "refuse" if isinstance(records[i], PartitionHcall | PartitionMessage):
                records[i] = replace(records[i], rc=data.draw(st.sampled_from([1, 2, -4, -12, -16, 14, 9901])))
            case _:
                pass
    transcript = replace(SESSION, records=tuple(records))
    try:
        report = run_vmc_transcript(transcript)
    except ConfigError:
        return
    assert report.passed <= compared(transcript)
    assert report.passed + report.failed >= compared(transcript)


def test_a_call_that_waits_when_the_driver_goes():
    report = run_vmc_transcript(
        script(UP + SEED + OPEN_1 + "app write 0 5\nout 5 0x10000\ncall H_FREE_CRQ 0x2000 = 0\nmp c001\n")
    )
    assert [m.expected[:4] for m in report.mismatches][:1] == ["c001"]


def test_what_is_compared_may_be_elsewhere():
    made = []

    def make_machine(config, memory):
        made.append((config.max_hmcs, config.pool_size, config.max_mtu, config.crq_bytes))
        return VmcPartition(config, memory)

    assert run_vmc_transcript(NEGATIVE, make_machine).failed == 0
    assert made == [(2, 64, 16384, 65536), (1, 32, 4096, 65536)]
