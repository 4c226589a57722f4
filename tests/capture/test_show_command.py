"""``pvnet show``: lines, columns, fields, JSON, summaries, damaged files, the standard input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from decode_rig import VECTORS, decoded, envelope, record

from pvnet.capture.decode import decode
from pvnet.capture.model import LINKTYPE_ENVELOPE, Direction, Interface
from pvnet.capture.pvcap import create_capture
from pvnet.capture.show_text import LineWriter, TimeColumn, hex_lines
from pvnet.capture.summary import Latencies, Summary, duration
from pvnet.cli.main import run
from pvnet.pb.v1.envelope_pb2 import Envelope, LinkAck
from pvnet.pb.v1.papr_pb2 import Hcall, HcallReply

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A call, its reply, an acknowledgement, an orphaned reply."""
    path = tmp_path / "a.pvcap.pcapng"
    messages: list[tuple[int, Envelope]] = [
        (0, envelope(hcall=Hcall(opcode=0x400, args=[1]), correlation=5, seq=1)),
        (250_000, envelope("hv", "lpar1", hcall_reply=HcallReply(rc=0, outs=[8, 9]), correlation=5, seq=1)),
        (SECOND, envelope("hv", "lpar1", link_ack=LinkAck(), ack=1)),
        (2 * SECOND, envelope("hv", "lpar1", hcall_reply=HcallReply(rc=-4), correlation=9, seq=2)),
    ]
    with create_capture(path) as writer:
        interface = Interface("lpar1/call", LINKTYPE_ENVELOPE)
        for at, message in messages:
            writer.record(
                interface,
                START + at,
                message.SerializeToString(),
                direction=Direction.OUT,
                comment="here" if not at else "",
            )
    return path


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_one_line_a_message(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(capture)]) == 0
    shown = lines(capsys)
    assert len(shown) == 4
    assert " ".join(shown[0].split()) == "1 0.000000 lpar1 > hv hcall H_SCM_HEALTH drc=0x1 # here"
    said = shown[1].partition("hcall_reply")[2].strip()
    assert said == "H_SUCCESS health=0x8 valid=0x9  [reply to 1 H_SCM_HEALTH after 250 us]"
    assert shown[3].startswith("      4!    2.000000  hv > lpar1")
    assert shown[3].endswith("H_PARAMETER  ! reply without call 0x9")
    assert len({line.index("hv > lpar1") for line in shown[1:]}) == 1, "columns are in line"


def test_what_is_shown_can_be_chosen(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def numbers(*options: str) -> list[int]:
        assert run(["show", str(capture), *options]) == 0
        return [int(line[:7]) for line in lines(capsys)]

    assert numbers("--no-link") == [1, 2, 4]
    assert numbers("--filter", "hcall.rc == H_PARAMETER") == [4]
    assert numbers("--from", "0.0001", "--to", "1.5") == [2, 3]
    assert numbers("--filter", "time >= 1") == [3, 4]
    assert run(["show", str(capture), "--filter", "reply"]) == 0
    assert "[reply to 1" in capsys.readouterr().out, "the call is known, though it is not shown"


def test_fields_and_bytes(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(capture), "--filter", "number == 1", "--fields", "--hex"]) == 0
    shown = lines(capsys)
    assert "            hcall.opcode = H_SCM_HEALTH (0x400)" in shown
    assert any(line.startswith("        000000  08 01 12 03 6c 61 62 ") for line in shown)
    assert list(hex_lines(b"\0A")) == ["        000000  00 41" + " " * 44 + ".A"]


def test_times(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(capture), "--time", "delta", "--filter", "not number == 2"]) == 0
    assert [line.split()[1] for line in lines(capsys)] == ["0.000000", "1.000000", "1.000000"]
    assert run(["show", str(capture), "--time", "clock"]) == 0
    assert lines(capsys)[0].split()[1] == "2023-11-14T22:13:20.000000000Z"


@pytest.mark.parametrize(
    ("time_ns", "shown"),
    [(0, "1970-01-01T00:00:00.000000000Z"), (951_782_400 * SECOND, "2000-02-29T00:00:00.000000000Z"),
     ((1 << 64) - 1, "2554-07-21T23:34:33.709551615Z")],
)  # fmt: skip
def test_the_clock_reaches_as_far_as_the_format(time_ns: int, shown: str) -> None:
    assert LineWriter(TimeColumn.CLOCK).time(time_ns) == shown
    assert LineWriter().time(None).strip() == "-"


def test_json(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(capture), "--json", "--hex"]) == 0
    first, second, _, last = (json.loads(line) for line in lines(capsys))
    assert first["fields"]["hcall.opcode"] == 0x400
    assert first["comment"] == "here"
    assert bytes.fromhex(first["data"])[:2] == b"\x08\x01"
    assert (second["reply_to"], second["latency_ns"], second["fields"]["hcall.outs"]) == (1, 250_000, [8, 9])
    assert last["violations"] == ["reply without call 0x9"]


def test_summary(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(capture), "--summary"]) == 0
    shown = capsys.readouterr().out
    for text in ("4 records,", "in 2 s, 2 a second", "hcall_reply", "lpar1 > hv", "H_SCM_HEALTH", "250 us",
                 "hcall_reply: H_PARAMETER", "1  reply without call N"):  # fmt: skip
        assert text in shown
    assert run(["show", str(capture), "--summary", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert totals["latencies"]["H_SCM_HEALTH"] == {"count": 1, "p50_ns": 250_000, "p99_ns": 250_000, "max_ns": 250_000}
    assert (totals["unanswered"], totals["records"]) == (0, 4)


def test_a_damaged_file_is_shown_as_far_as_it_goes(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = capture.read_bytes()
    capture.write_bytes(data[: data.rindex(b"hv") - 5])
    assert run(["show", str(capture)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "offset" in err


@pytest.mark.parametrize(
    ("name", "count"), [("linux-6.1-vmc-session.jsonl", 1), ("linux-6.1-scm-flush.jsonl", 1), ("qemu-7.2-crq.jsonl", 1)]
)
def test_recordings_of_other_software(name: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = VECTORS / name
    assert run(["show", str(path)]) == 0
    assert len(lines(capsys)) == len(path.read_bytes().splitlines()) >= count


def test_files_that_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "x").write_bytes(b"\0\1\2")
    assert run(["show", str(tmp_path / "x")]) == 2
    assert run(["show", str(tmp_path)]) == 2
    assert run(["show", str(tmp_path / "x"), "--filter", "nosuch"]) == 2
    assert "position 1" in capsys.readouterr().err


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


def test_the_standard_input(capture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(capture.read_bytes()))
    assert run(["show", "-"]) == 0
    assert len(lines(capsys)) == 4
    monkeypatch.setattr(sys, "stdin", _Stdin((VECTORS / "linux-6.1-vmc-session.jsonl").read_bytes()))
    assert run(["show", "-", "--filter", "vmc.type == OPEN"]) == 0
    assert "VMC OPEN hmc 0/1" in capsys.readouterr().out
    for bad in (b"", b"\x0a\x0d\x0d\x0a" + bytes(40)):
        monkeypatch.setattr(sys, "stdin", _Stdin(bad))
        assert run(["show", "-"]) == 2
        assert "standard input" in capsys.readouterr().err


def test_nothing_that_a_peer_says_reaches_the_terminal_raw() -> None:
    item = decoded("lpar1\x1b[2J", "hv\n", link_ack=LinkAck())
    shown = LineWriter().line(item, None, ["bad \x07"])
    assert shown.isprintable()
    assert "\\x1b[2J" in shown
    long = record(envelope(refusal={"text": "x" * 5000}).SerializeToString())
    assert len(LineWriter().line(decode(long))) < 600


def test_percentiles_are_within_two_percent() -> None:
    times = Latencies()
    for ns in range(1, 100_001):
        times.add(ns)
    assert times.percentile(50) == pytest.approx(50_000, rel=0.02)
    assert times.percentile(99) == pytest.approx(99_000, rel=0.02)
    assert times.percentile(100) <= times.highest == 100_000
    times.add(-5)
    assert Latencies().percentile(50) == 0


@pytest.mark.parametrize(
    ("ns", "shown"),
    [(0, "0 ns"), (999, "999 ns"), (1500, "1.5 us"), (250_000, "250 us"), (12_345_678, "12.3 ms"), (3e12, "3000 s"),
     (-1500, "-1.5 us")],
)  # fmt: skip
def test_durations(ns: float, shown: str) -> None:
    assert duration(ns) == shown


def test_a_summary_of_many_names_is_bounded() -> None:
    totals = Summary()
    for number in range(5000):
        totals.feed(decoded(f"node{number}", "hv", link_ack=LinkAck()))
    assert len(totals.peers) <= 4097
    assert totals.peers["(others)"] == 904
    assert any("more" in line for line in totals.lines())
    totals.dropped = {"lpar1/call": 3}
    totals.unanswered = 2
    assert any(line.endswith(" 3  lpar1/call") for line in totals.lines())
