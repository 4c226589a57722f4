"""``pvnet`` at its edges: values out of bounds, closed standard files, signals, a channel that is full."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvnet.cli.main import run
from pvnet.cli.vmc import read_message
from pvnet.runtime.broker import Broker
from pvnet.runtime.topology import BrokerConfig

PVNET = str(Path(sys.executable).parent / "pvnet")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hcall", "H_REQUEST_VMC", "--timeout", "inf"], "86400"),
        (["hcall", "H_REQUEST_VMC", "--timeout", "nan"], "'--timeout'"),
        (["lpar", "list", "--timeout", "0"], "0.001"),
        (["down", "--timeout", "86401"], "86400"),
        (["lpar", "on", "x" * 100_000], "partition name 'xxx"),
        (["lpar", "show", "Upper"], "partition name 'Upper'"),
        (["lpar", "off", ""], "partition name ''"),
        (["vmc", "send", ""], "message is empty"),
        (["vmc", "send", "hex:"], "message is empty"),
        (["vmc", "send", "@/dev/zero"], "more than 16384 bytes"),
    ],
)
def test_value_out_of_bounds_is_refused_before_any_lab_is_asked(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    error = capfd.readouterr().err
    assert said in error
    assert len(error) < 300


@pytest.mark.parametrize("opcode", ["-5", "0x10000000000000000", "9" * 1000])
def test_opcode_has_64_bits(
    opcode: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["hcall", "--", opcode]) == 2
    error = capfd.readouterr().err
    assert "expected an opcode of 64 bits" in error
    assert len(error) < 300
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert run(["hcall", "0xffffffffffffffff"]) == 3, "the largest is one: there is only no lab to make it"


def test_topology_nested_without_end_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a=" + "[" * 100_000)
    assert run(["check", str(path)]) == 2
    assert capfd.readouterr().err == f"{path}: values nested too deeply; expected a topology\n"


def test_message_is_the_bytes_typed() -> None:
    assert read_message(os.fsdecode(b"a\xff")) == b"a\xff"


def test_message_of_a_file_is_read_whole_unless_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(20_000))
    assert len(read_message(f"@{path}")) == 20_000
    assert len(read_message(f"@{path}", 100)) == 101


def test_ctrl_c_while_modules_load_is_answered() -> None:
    program = """
import sys
from pvnet.cli.main import main
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = ["supported"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


async def test_broker_cancelled_while_starting_leaves_no_task_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def probe(url: object, *, timeout: float) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr("pvnet.runtime.broker.probe", probe)
    broker = Broker(BrokerConfig(use="auto"), directory=tmp_path, log=tmp_path / "broker.log")
    starting = asyncio.create_task(broker.start(timeout=60))
    await asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ended.is_set()
    assert broker.child is not None
    assert not broker.child.running


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which only the labs of this test are; in the end none may be left."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    environment.pop("PVNET_LAB", None)
    yield environment
    subprocess.run([PVNET, "down"], env=environment, capture_output=True, check=False, timeout=60)
    assert list(runtime.rglob("*")) == []


def shell(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command, PVNET], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_standard_files_may_be_closed(closed: str, environment: dict[str, str]) -> None:
    done = shell(f'"$0" supported {closed}', environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&- " not in f"{closed} ".replace("2>&- ", ""))
    assert shell(f'"$0" no-such-verb {closed}', environment).returncode == 2


def test_lab_starts_and_is_used_with_standard_files_closed(environment: dict[str, str]) -> None:
    assert shell('"$0" up --detach >&- 2>&- <&-', environment).returncode == 0
    nodes = json.loads(shell('"$0" ps --json', environment).stdout)["nodes"]
    assert "hypervisor" in {node["name"] for node in nodes}

    too_long = shell('head -c 5000 /dev/zero | "$0" vmc send -', environment)
    assert (too_long.returncode, too_long.stderr) == (
        2,
        "pvnet: the message has 5000 bytes, the channel takes at most 4096\n",
    )


ONE_CONNECTION = """
[lab]
name = "one"
[hypervisor.vmc]
max_hmcs = 1
raw_payload = "discard"
[[partition]]
name = "mp"
management = true
"""


def test_connections_in_use_are_told_and_sigterm_gives_one_back(environment: dict[str, str], tmp_path: Path) -> None:
    topology = tmp_path / "one.toml"
    topology.write_text(ONE_CONNECTION)
    assert shell(f'"$0" up --detach --file {topology}', environment).returncode == 0
    with subprocess.Popen([PVNET, "vmc", "send", "--timeout", "300", "no answer"], env=environment) as holder:
        for _ in range(50):  # until the holder has it
            refused = shell('"$0" vmc send --no-reply --timeout 0.5 x', environment)
            if refused.returncode:
                break
        assert refused.returncode == 1
        assert refused.stderr == (
            "pvnet: all HMC connections of the management partition are in use: close one first\n"
        )
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(60) == 143
    assert shell('"$0" vmc send --no-reply x', environment).returncode == 0


@pytest.mark.parametrize("lines", [1, 4])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_demo_shuts_its_lab_down_on_a_signal(
    environment: dict[str, str], number: signal.Signals, code: int, lines: int
) -> None:
    demo = subprocess.Popen([PVNET, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    for _ in range(lines):
        demo.stdout.readline()
    demo.send_signal(number)
    if number == signal.SIGTERM:
        demo.send_signal(number)  # as timeout(1) does: to the process and to its group
    out, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors) == (code, "")
    assert "shut down" not in out
    assert list(Path(environment["XDG_RUNTIME_DIR"]).rglob("*")) == [], "gone when the command is, not by the reaper"
