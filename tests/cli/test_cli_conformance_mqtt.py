"""Recordings over a real broker and real processes: the same results as in this process, and nothing stays behind."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pvnet.cli.conformance import conformance
from pvnet.core.errors import UnreachableError

VECTORS = Path(__file__).parents[1] / "vectors"
VMC = VECTORS / "linux-6.1-vmc-session.jsonl"
CRQ = VECTORS / "qemu-7.2-crq.jsonl"
SCM = VECTORS / "linux-6.1-scm-flush.jsonl"
BROKERS = [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"]
CARRIERS = [
    pytest.param("mqtt", "mosquitto", marks=pytest.mark.needs("mosquitto"), id="mqtt-mosquitto"),
    pytest.param("mqtt", "embedded", id="mqtt-embedded"),
    pytest.param("unix", "embedded", id="unix"),
]
PATIENCE_S = 30.0

app = typer.Typer()
app.command()(conformance)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def both(broker, *files, transport="mqtt"):
    """The same files in this process and over a broker."""
    here = run(*files, "--all")
    there = run(*files, "--all", "--transport", transport, "--broker", broker)
    return here, there


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def short_crq(tmp_path):
    """The beginning of the trace: windows, registration, INITs, slots, interrupts, and a ring that fills."""
    return write(tmp_path / "crq.jsonl", records(CRQ)[:80])


@pytest.mark.parametrize(("transport", "broker"), CARRIERS)
def test_a_recording_of_each_kind(transport, broker, short_crq):
    here, there = both(broker, short_crq, SCM, VMC, transport=transport)
    assert there.stdout == here.stdout
    assert there.exit_code == here.exit_code == 0
    assert there.stdout.splitlines()[1:3] == [f"{SCM}: 21 passed, 0 failed", f"{VMC}: 20 passed, 0 failed"]
    assert there.stdout.splitlines()[0].endswith(": 79 passed, 0 failed")


@pytest.mark.slow
@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("transport", ["mqtt", "unix"])
def test_every_recording(transport):
    files = [f for f in sorted(VECTORS.glob("*.jsonl")) if '"schema"' in f.read_text()[:200]]
    here, there = both("mosquitto", *files, transport=transport)
    assert there.stdout == here.stdout
    assert there.stdout.splitlines()[-1] == "1411 passed, 0 failed"


@pytest.mark.parametrize("broker", BROKERS)
def test_what_differs_is_shown_as_in_this_process(broker, tmp_path, short_crq):
    crq = tmp_path / "crq-broken.jsonl"
    crq.write_text(short_crq.read_text().replace('"raised": true', '"raised": false', 1).replace("c0020", "c0030", 1))
    scm = tmp_path / "scm-broken.jsonl"
    scm.write_text(SCM.read_text().replace('"rc": 9901', '"rc": 9900', 1))
    vmc = tmp_path / "vmc-broken.jsonl"
    vmc.write_text(VMC.read_text().replace('"crq": "80840000000000020000', '"crq": "80840200000000020000'))
    here, there = both(broker, crq, scm, vmc)
    assert there.exit_code == here.exit_code == 1
    assert there.stdout == here.stdout
    assert "expected H_LONG_BUSY_ORDER_1_MSEC" in there.stdout
    assert "  record 11: CRQ message" in there.stdout
    assert there.stdout.count(", 0 failed") == 0


@pytest.mark.needs("mosquitto")
def test_a_driver_that_is_unloaded_with_patience_and_loaded_again(tmp_path):
    """H_FREE_CRQ is repeated by the partition's own clock; a new driver is a new process."""
    meta, *session = records(VMC)
    free = [{"hcall": "H_FREE_CRQ", "args": ["0x2000"], "rc": rc, "outs": []} for rc in (9901, 1, 0)]
    lines = [{key: value for key, value in line.items() if key not in {"n", "t"}} for line in [*session, *free] * 2]
    path = write(tmp_path / "twice.jsonl", [meta, *({"n": n, "t": n * 0.01, **line} for n, line in enumerate(lines))])
    here, there = both("mosquitto", path)
    assert there.stdout == here.stdout
    assert there.stdout.splitlines()[-1] == "46 passed, 0 failed"


@pytest.mark.needs("mosquitto")
def test_a_file_that_cannot_be_run_does_not_stop_the_others(tmp_path):
    lines = records(SCM)
    lines[0]["meta"]["devices"][1]["drc"] = "0x90000000"
    bad = write(tmp_path / "bad.jsonl", lines)
    here, there = both("mosquitto", bad, tmp_path / "missing.jsonl", VMC)
    assert there.exit_code == here.exit_code == 2
    assert there.stderr == here.stderr
    assert there.stdout.splitlines()[-1] == "20 passed, 0 failed"


def test_it_fails_when_the_other_process_offers_no_unix_socket(monkeypatch):
    """Both inherit what forbids it, after the command line has looked."""
    monkeypatch.setattr("pvnet.cli.conformance._refuse_forbidden", lambda: monkeypatch.setenv("PVNET_UNIX", "never"))
    result = run(VMC, "--transport", "unix", "--broker", "embedded")
    assert isinstance(result.exception, UnreachableError)
    assert str(result.exception) == "no direct path to guest over a unix socket came about"


def test_a_broker_that_is_not_there():
    result = run(VMC, "--transport", "mqtt", "--broker", "mqtt://127.0.0.1:1")
    assert isinstance(result.exception, UnreachableError)
    assert str(result.exception) == "broker mqtt://127.0.0.1:1: connection refused"


# --- ends -------------------------------------------------------------------------------------------------------------


def children(pid):
    """Process ids and command lines of the children."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            words = (path.parent / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if parent == pid:
            found[int(path.parent.name)] = " ".join(words)
    return found


class Running:
    """``pvnet conformance`` in a process, busy with a long recording."""

    def __init__(self, tmp_path):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        meta, *calls = records(VECTORS / "linux-6.1-scm-labels-init.jsonl")
        path = write(tmp_path / "long.jsonl", [meta, *calls * 20])
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pvnet.cli.main", "conformance", "--transport", "mqtt", str(path)],
            env={**os.environ, "TMPDIR": str(scratch)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.end = os.pidfd_open(self.process.pid)
        self.host = self._find("trace_host")
        self.broker = self._find("mosquitto", "pvnet_services.broker")
        self._until(self._has_stored)

    def _has_stored(self):
        """Whether recorded calls have arrived: some of them write labels."""
        return any(any(path.read_bytes()) for path in self.scratch.glob("pvnet-conformance-*/1/*.labels"))

    def _until(self, done):
        deadline = time.monotonic() + PATIENCE_S
        while not (found := done()):
            assert time.monotonic() < deadline, self.process.poll()
            select.select([self.end], [], [], 0 if self.process.returncode is not None else 0.01)
        return found

    def _find(self, *names):
        def look():
            mine = children(self.process.pid).items()
            return next((pid for pid, command in mine if any(name in command for name in names)), None)

        return self._until(look)

    def ended(self):
        """Exit code and what was said, after looking that nothing is left."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        for pid in (self.host, self.broker):
            self._until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        assert list(self.scratch.glob("pvnet-conformance-*")) == []
        return self.process.returncode, said


@pytest.fixture
def running(tmp_path):
    made = Running(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()
    os.close(made.end)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_of_a_run_that_is_interrupted(running, number, code):
    running.process.send_signal(number)
    assert running.ended() == (code, "")


@pytest.mark.parametrize(
    ("victim", "told"),
    [("host", "hypervisor has died: connection lost"), ("broker", "the broker ended (signal SIGKILL)")],
)
def test_nothing_is_left_when_a_part_dies(running, victim, told):
    os.kill(getattr(running, victim), signal.SIGKILL)
    code, said = running.ended()
    assert code == 3
    assert said == f"pvnet: {told}\n"
