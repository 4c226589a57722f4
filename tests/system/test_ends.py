"""However a whole lab ends, nothing of it is left: kill -9 of the supervisor, Ctrl-C at any moment, ``pvnet down``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from system_support import PATIENCE_S, children, wait_gone

from pvnet.runtime.broker import port_is_free
from pvnet.runtime.lab_dir import LabInfo

PVNET = str(Path(sys.executable).parent / "pvnet")


class Up:
    """``pvnet up`` as a process, in a process group of its own as a terminal gives it."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        self.environment.pop("PVNET_LAB", None)
        self.process = subprocess.Popen(
            [PVNET, "up"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.pidfds: list[int] = []

    def until(self, text: str) -> str:
        """Read its output up to a line with ``text``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"it ended before it said {text!r}: {self.process.communicate()[1]}")

    def watch(self) -> list[int]:
        """Hold on to all its descendants now."""
        pids = sorted(children(self.process.pid))
        self.pidfds += [os.pidfd_open(pid) for pid in pids]
        return pids

    def info(self) -> LabInfo:
        return LabInfo.model_validate_json((self.runtime / "pvnet/lab/lab.json").read_text())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PVNET, *arguments], env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def end(self) -> tuple[int, str]:
        """Wait for its end and for that of everything watched; return its exit code and what it said to stderr."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        wait_gone(self.pidfds)
        self.pidfds.clear()
        return self.process.returncode, errors

    def left(self) -> list[Path]:
        return list(self.runtime.rglob("*"))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    up = Up(runtime)
    yield up
    if up.process.poll() is None:
        up.process.kill()
        up.process.communicate()
    for pidfd in up.pidfds:
        os.close(pidfd)


def test_killed_supervisor_of_a_whole_lab_leaves_nothing(up: Up) -> None:
    up.until("is up")
    pids = up.watch()
    info = up.info()
    running = {node.pid for node in info.nodes if node.pid}
    assert len(running) == 7
    assert running < set(pids), "and the reaper"
    assert up.run("vmc", "echo", "--count", "20").returncode == 0
    up.process.kill()
    code, _ = up.end()
    assert code == -signal.SIGKILL
    assert up.left() == []
    assert port_is_free(info.broker_url().port)


def test_killed_supervisor_in_the_middle_of_a_session(up: Up) -> None:
    up.until("is up")
    up.watch()
    with subprocess.Popen(
        [PVNET, "vmc", "echo", "--count", "1000000", "--timeout", "5"],
        env=up.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as talking:
        while json.loads(up.run("ps", "--json").stdout)["state"] != "running":
            pass
        up.process.kill()
        _, errors = talking.communicate(timeout=PATIENCE_S)
    up.end()
    assert talking.returncode == 3, errors
    assert 1 <= len(errors.splitlines()) <= 2
    assert up.left() == []


@pytest.mark.parametrize(
    "moment", ["broker: running", "hypervisor: running", "mp: running", "manager: running", "is up"]
)
def test_control_c_at_any_moment_of_the_start(up: Up, moment: str) -> None:
    up.until(moment)
    up.watch()
    os.killpg(up.process.pid, signal.SIGINT)
    code, errors = up.end()
    assert code == 130, errors
    assert "Traceback" not in errors
    assert up.left() == []


def test_control_c_twice_is_faster_and_as_clean(up: Up) -> None:
    up.until("is up")
    up.watch()
    for node in up.info().nodes:
        if node.pid:
            os.kill(node.pid, signal.SIGSTOP)  # nobody can end in good order
    os.killpg(up.process.pid, signal.SIGINT)
    while up.info().state != "stopping":
        assert up.process.poll() is None
    os.killpg(up.process.pid, signal.SIGINT)
    code, errors = up.end()
    assert code == 130, errors
    assert up.left() == []


def test_down_ends_it_in_good_order(up: Up) -> None:
    up.until("is up")
    up.watch()
    assert up.run("down").returncode == 0
    code, _ = up.end()
    assert code == 0
    assert up.left() == []


def test_lab_whose_nodes_are_killed_stays_and_works(up: Up) -> None:
    """Default restart policy: one crash of each."""
    up.until("is up")
    up.watch()
    dice = random.Random(1)
    nodes = ["hypervisor", "mp", "manager", "lpar1", "broker"]
    dice.shuffle(nodes)
    for name in nodes:
        info = up.info()
        (pid,) = (node.pid for node in info.nodes if node.name == name)
        os.kill(pid, signal.SIGKILL)
        up.until(f"{name}: running")
        assert up.run("vmc", "echo", "--count", "20", "--timeout", "60").returncode == 0
    listed = up.run("lpar", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    up.watch()
    os.killpg(up.process.pid, signal.SIGINT)
    assert up.end()[0] == 130
    assert up.left() == []
