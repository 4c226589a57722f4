"""The snoop of a process: what it writes, where, and that nothing holds the process up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pvnet.capture import snoop
from pvnet.capture.model import LINKTYPE_ETHERNET, CaptureInfo, Direction, Interface
from pvnet.capture.pvcap import open_capture
from pvnet.capture.snoop import SnoopSink, parse_snoop, snoop_uri, whole_length, with_name
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note
from pvnet.pb.v1.envelope_pb2 import Envelope

INFO = CaptureInfo("app", "hw", "os")


def message(number: int = 0) -> Envelope:
    envelope = Envelope(schema=1, lab="lab", source="a", destination="b", seq=number)
    envelope.hcall.opcode = 4
    return envelope


def wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def read(path: Path):
    with open_capture(path) as reader:
        records = list(reader)
        assert reader.is_whole, reader.problems
        return records, reader.info


def test_messages_and_frames_with_their_channels(tmp_path):
    file = tmp_path / "x.pvcap.pcapng"
    times = iter(range(100, 200))
    sink = SnoopSink.open(f"pcapng:{file}", "lpar1", INFO, lab="lab", clock_ns=lambda: next(times))
    sink.tap("out", message(1))
    irq = Envelope()
    irq.irq.SetInParent()
    sink.tap("in", irq)
    sink.tap("in", Envelope())
    frames = Interface("lpar1/net0", LINKTYPE_ETHERNET)
    assert sink.record(frames, b"frame", direction=Direction.IN, original_bytes=9, comment="c", time_ns=7)
    sink.close()
    sink.close()
    records, info = read(file)
    assert [(r.interface.name, r.direction, r.time_ns) for r in records] == [
        ("lpar1/call", Direction.OUT, 100),
        ("lpar1/irq", Direction.IN, 101),
        ("lpar1/state", Direction.IN, 102),
        ("lpar1/net0", Direction.IN, 7),
    ]
    assert records[0].envelope() == message(1)
    assert records[0].interface.description == "messages of node lpar1 of lab lab: call"
    assert (records[3].data, records[3].original_bytes, records[3].comment) == (b"frame", 9, "c")
    assert info.received == dict.fromkeys(["lpar1/call", "lpar1/irq", "lpar1/state", "lpar1/net0"], 1)
    assert set(info.dropped.values()) == {0}


def test_what_comes_is_in_the_file_soon_without_a_close(tmp_path):
    file = tmp_path / "x"
    sink = SnoopSink.open(f"pcapng:{file}", "n", INFO)
    for number in range(3):  # the thread sleeps in between, and is woken each time
        sink.tap("out", message(number))
        wait_for(lambda: sink._is_idle)
        assert len(read(file)[0]) == number + 1
    sink.close()


def test_a_full_queue_drops_and_says_so(tmp_path):
    """The reader of a pipe takes nothing: the caller is never held up, and the counts come when it reads."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    out = snoop._Output.to_file(str(pipe), "")
    sink = SnoopSink(out, "n", INFO, most_records=50)
    for number in range(60):
        sink.tap("out", message(number))
    assert not sink.record(Interface("n/net0"), b"frame")
    copy = tmp_path / "copy"
    reader = threading.Thread(target=lambda: copy.write_bytes(pipe.read_bytes()))
    reader.start()
    sink.close()
    reader.join(10)
    records, info = read(copy)
    assert info.received == {"n/call": 60, "n/net0": 1}
    assert info.dropped == {"n/call": 60 - len(records), "n/net0": 1}
    assert [r.envelope().seq for r in records] == list(range(len(records)))
    assert 40 < len(records) <= 50
    assert sink.dropped == info.dropped


def test_bytes_are_bounded_too(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sink = SnoopSink(snoop._Output.to_file(str(pipe), ""), "n", INFO, most_bytes=1000)
    taken = [sink.record(Interface("n/net0"), bytes(300)) for _ in range(5)]
    assert taken == [True, True, False, False, False]
    sink.close(0.1)
    assert sink.failure


def test_a_reader_that_stops_reading_costs_the_close_no_more_than_its_deadline():
    notes: list[Note] = []
    sink = SnoopSink.open("pcapng:|sleep 60", "n", INFO, note=notes.append)
    process = sink._out._process
    try:
        sink.record(Interface("n/x"), bytes(1 << 20))
        began = time.monotonic()
        sink.close(0.2)
        assert time.monotonic() - began < 5
        assert "too slow" in sink.failure
        assert [note.event for note in notes] == ["snoop_ended"]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("pcapng:/dev/full", "No space left"),
        ("pcapng:|exit 3", "ended with 3"),
        ("pcapng:|head -c 1 >/dev/null", "the reader is gone"),
        ("pcapng:|/nowhere/at-all 2>/dev/null", "ended with 127"),
    ],
)
def test_a_failure_is_noted_once_and_the_rest_dropped(target, words):
    notes: list[Note] = []
    sink = SnoopSink.open(target, "n", INFO, note=notes.append)
    end = time.monotonic() + 10
    sent = 0
    while not sink.failure and time.monotonic() < end:
        sink.tap("out", message())
        sent += 1
        time.sleep(0.01)
    wait_for(lambda: notes)
    for _ in range(5):
        sink.tap("out", message())
    sink.close()
    (note,) = notes
    assert words in dict(note.fields)["reason"]
    assert sink.received["n/call"] == sent + 5
    assert sink.dropped["n/call"] >= 5


def test_a_disk_that_becomes_full_leaves_whole_blocks(tmp_path):
    """A limit on the size of files, in a process of its own, whose signal is ignored by Python's choice."""
    file = tmp_path / "x"
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pvnet.capture.snoop import SnoopSink
from pvnet.capture.model import Interface
import time
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sink = SnoopSink.open("pcapng:{file}", "n")
for n in range(200):
    sink.record(Interface("n/x"), bytes(500))
    if n % 10 == 0: time.sleep(0.05)
sink.close()
print(sink.failure)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large"
    records, _ = read(file)
    assert 1 <= len(records) < 40


def test_a_command_gets_everything_and_its_placeholders(tmp_path):
    sink = SnoopSink.open(f"pcapng:|cat > {tmp_path}/{{lab}}-{{node}}-{{pid}}; echo done", "n", INFO, lab="lab")
    for number in range(1000):
        sink.tap("out", message(number))
    sink.close()
    assert not sink.failure
    records, _ = read(tmp_path / f"lab-n-{os.getpid()}")
    assert [r.envelope().seq for r in records] == list(range(1000))


def test_a_program_that_forgets_to_close_loses_nothing(tmp_path):
    file = tmp_path / "x"
    program = f"""
from pvnet.capture.snoop import snoop_uri
from pvnet.pb.v1.envelope_pb2 import Envelope
sink = snoop_uri("pcapng:{file}", "n")
for n in range(500): sink.tap("out", Envelope(seq=n))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    records, info = read(file)
    assert len(records) == 500
    assert info.received == {"n/state": 500}
    assert info.schema


def test_statistics_come_every_few_seconds(tmp_path):
    file = tmp_path / "x"
    now = [10**18]
    sink = SnoopSink.open(f"pcapng:{file}", "n", INFO, clock_ns=lambda: now[0])
    for step_s in (0, 5, 6, 0.5):
        now[0] += int(step_s * 1e9)
        sink.record(Interface("n/x"), b"")
    wait_for(lambda: sink._is_idle)
    _, info = read(file)
    assert info.received == {"n/x": 3}
    sink.close()
    assert read(file)[1].received == {"n/x": 4}


# --- which file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/a/trace.pcapng", "/a/trace.lpar1.pcapng"),
        ("trace.pvcap.pcapng", "trace.lpar1.pvcap.pcapng"),
        ("a.b/trace", "a.b/trace.lpar1"),
    ],
)
def test_the_name_stands_before_the_suffix(path, named):
    assert with_name(path, "lpar1") == named


def test_a_node_puts_its_name_in_and_a_second_writer_something_else(tmp_path):
    text = f"pcapng:{tmp_path}/t.pcapng"
    sinks = [SnoopSink.open(text, node, INFO, is_shared=shared) for node, shared in
             (("app", False), ("app2", False), ("lpar1", True), ("lpar1", True), ("lpar2", True))]  # fmt: skip
    with pytest.raises(ConfigError, match="somebody else writes it"):
        SnoopSink.open(text, "lpar1", INFO, is_shared=True)
    names = [Path(sink.path).name for sink in sinks]
    assert names == ["t.pcapng", "t.app2.pcapng", "t.lpar1.pcapng", f"t.lpar1.{os.getpid()}.pcapng", "t.lpar2.pcapng"]
    for sink in sinks:
        sink.close()
    with_node = SnoopSink.open(f"pcapng:{tmp_path}/{{node}}-{{lab}}.x", "lpar1", INFO, lab="l", is_shared=True)
    assert Path(with_node.path).name == "lpar1-l.x"
    with_node.close()


def test_a_file_is_begun_anew_or_appended_to(tmp_path):
    file = tmp_path / "x"

    def write(number: int, *, append: bool) -> None:
        sink = SnoopSink.open(f"pcapng:{file}", "n", INFO, append=append)
        sink.tap("out", message(number))
        sink.close()

    def numbers() -> list[int]:
        return [record.envelope().seq for record in read(file)[0]]

    write(1, append=True)
    write(2, append=False)
    assert numbers() == [2]
    file.write_bytes(file.read_bytes() + b"\6\0\0\0\x40\0\0\0half a block")
    write(3, append=True)
    assert numbers() == [2, 3]
    assert read(file)[1].received == {"n/call": 2}
    file.write_bytes(b"something else, longer than it should be")
    write(4, append=True)
    assert numbers() == [4]


def test_the_whole_length_of_damaged_files(tmp_path):
    file = tmp_path / "x"
    sink = SnoopSink.open(f"pcapng:{file}", "n", INFO)
    sink.tap("out", message())
    sink.close()
    data = file.read_bytes()
    for cut, expected in ((len(data), len(data)), (len(data) - 1, None), (5, 0), (0, 0)):
        file.write_bytes(data[:cut])
        with file.open("rb") as stream:
            length = whole_length(stream.fileno())
        assert length == expected if expected is not None else 0 < length < cut
    first = int.from_bytes(data[4:8], "little")
    for tail in (b"\6\0\0\0\xff\xff\xff\xff" + bytes(50), b"\6\0\0\0\x10\0\0\0" + bytes(50)):
        file.write_bytes(data[:first] + tail)
        with file.open("rb") as stream:
            assert whole_length(stream.fileno()) == first


@pytest.mark.parametrize(
    "text", ["", "x", "pcapng", "pcapng:", "pcapng:|", "pcapng:| ", "pcap:x", "pcapng: ", "pcapng:a\0b", "file"]
)
def test_texts_that_say_nothing(text):
    with pytest.raises(ConfigError, match=r"expected pcapng:FILE or pcapng:\|COMMAND"):
        snoop_uri(text, "n")


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/", "x" * 300])
def test_files_that_cannot_be_written(path):
    with pytest.raises(ConfigError, match="snoop file"):
        SnoopSink.open(f"pcapng:{path}", "n", INFO)


def test_a_target_as_text_and_absolute(tmp_path):
    assert str(parse_snoop("pcapng:x").absolute(tmp_path)) == f"pcapng:{tmp_path}/x"
    assert str(parse_snoop("pcapng:| a b ").absolute(tmp_path)) == "pcapng:|a b"
