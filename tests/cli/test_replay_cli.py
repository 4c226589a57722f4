"""``pvnet replay`` without a lab: looking, stepping, and what is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from pvnet.capture.model import Direction, Interface
from pvnet.capture.pvcap import create_capture
from pvnet.cli.main import run
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.papr_pb2 import Hcall


@pytest.fixture
def capture(tmp_path: Path) -> str:
    path = tmp_path / "x.pcapng"
    with create_capture(path) as writer:
        for number in range(3):
            envelope = Envelope(schema=1, source="mp", destination="hypervisor", hcall=Hcall(opcode=4, args=[number]))
            interface = Interface("mp/call" if number else "mp/other")
            writer.record(interface, 10**18 + number * 10**7, envelope.SerializeToString(), direction=Direction.OUT)
    return str(path)


def test_without_a_role_the_records_are_printed_at_their_times(
    capture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", capture, "--only", "call", "--map", "mp=lpar9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0.000000", "0.010000"]
    assert all("lpar9/call" in line and "lpar9 -> hypervisor" in line for line in lines)


def test_json_counts_what_was_played(capture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", capture, "--speed", "max", "--loop", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"played": 9, "loops": 3}


def test_a_line_of_input_is_one_step_and_its_end_the_end(
    capture: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert run(["replay", capture, "--step"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--speed", "fast"], "a number such as 1.0, or max"),
        (["--speed", "0"], "speed 0"),
        (["--loop", "x"], "expected a number, or inf"),
        (["--expect"], "expected --as NODE"),
        (["--as", "mp", "--observe"], "expected one of them"),
        (["--as", "mp", "--step"], "expected one of them"),
        (["--map", "x"], "OLD=NEW"),
        (["--as", "mp", "--rules", "/nowhere.toml"], "No such file"),
    ],
)
def test_usage_that_is_wrong_is_told(
    capture: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", capture, *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_a_role_needs_a_lab(
    capture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert run(["replay", capture, "--as", "mp"]) == 3
    assert run(["replay", capture, "--observe"]) == 3
    assert "pvnet: " in capsys.readouterr().err


def test_a_damaged_recording_is_played_as_far_as_it_goes_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cut.pcapng"
    with create_capture(file) as writer:
        for number in range(20):
            writer.record(Interface("mp/call"), number, bytes(100))
    file.write_bytes(file.read_bytes()[:-150])
    assert run(["replay", str(file), "--speed", "max"]) == 1
    assert "cut short at offset" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["show", "replay"])
def test_a_named_pipe_is_refused_at_once(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run([verb, str(pipe)]) == 2
    assert "a named pipe: expected a file, or - for standard input" in capsys.readouterr().err
