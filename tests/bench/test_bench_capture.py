"""``pvnet bench capture``."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench_checks import check_result

from pvnet.bench import capture
from pvnet.bench.capture import CASES, bench_capture, sample
from pvnet.bench.rounds import OURS
from pvnet.capture.pvcap import CaptureReader
from pvnet.cli.bench import SCENARIOS
from pvnet.core.errors import UnreachableError
from pvnet.pb.v1.envelope_pb2 import Envelope

PVNET = Path(sys.executable).with_name("pvnet")


def test_the_cases_are_those_of_the_command() -> None:
    assert SCENARIOS["capture"] == CASES


def test_samples_are_messages_that_differ() -> None:
    made = [sample(number) for number in range(300)]
    assert len(set(made)) == 300
    assert Envelope.FromString(made[7]).WhichOneof("body") == "hcall"


def test_what_is_written_is_a_capture() -> None:
    out = io.BytesIO()
    capture._write(out, [b"one", b"two"], 5)
    out.seek(0)
    assert [record.data for record in CaptureReader(out)] == [b"one", b"two", b"one", b"two", b"one"]
    out.seek(0)
    assert capture._read(out, [b"one", b"two"]) == 5
    out.seek(0)
    assert capture._read(out, [b"one", b"xxx"]) == 3


async def test_files_beside_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(capture, "_PEERS", {"python-pcapng": "pcapng"})
    write, read = await bench_capture(quick=True, broker="auto", cases={"write", "read"}, tell=said.append)
    for result, case in ((write, "write"), (read, "read")):
        check_result(json.loads(json.dumps(result.shown())))
        assert (result.case, result.lost, set(result.peers)) == (case, 0, {"python-pcapng"})
    assert [line.partition(":")[0] for line in said] == ["capture/write", "capture/read"]


async def test_peers_that_are_missing_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(capture, "_SLOWER", 100)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (result,) = await bench_capture(quick=True, broker="auto", cases={"write"}, tell=said.append)
    assert result.peers == {}
    assert said[0] == "peers of capture/write and capture/read that are not installed: python-pcapng, dpkt"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "pcapng" or None)
    monkeypatch.setitem(capture._READERS, "python-pcapng", lambda stream, samples: 3)
    with pytest.raises(UnreachableError, match="python-pcapng read 3 of 100 records"):
        await bench_capture(quick=True, broker="auto", cases={"read"}, tell=said.append)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(capture._READERS, OURS, lambda stream, samples: 9_998)
    (result,) = await bench_capture(quick=True, broker="auto", cases={"read"}, tell=said.append)
    assert result.lost == 6


@pytest.mark.slow
def test_overhead_of_real_labs_and_rings(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [PVNET, "bench", "capture/vmc-overhead", "capture/ring-overhead", "--quick", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    vmc, ring = json.loads(file.read_text())["results"]
    for result in (vmc, ring):
        check_result(result)
        assert (result["lost"], set(result["peers"])) == (0, {"unrecorded"})
    assert vmc["notes"]["records"] > 500
    assert vmc["notes"]["dropped"] == 0
    facts = ring["notes"]["facts"]["pvnet-recorded"]
    ends = [facts["first"], facts["second"]] if "first" in facts else [facts]
    assert sum(end["recorded"] for end in ends) > 0  # who sleeps before the first message is rung
    assert sum(end["dropped"] for end in ends) == 0
