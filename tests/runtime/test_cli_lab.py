"""``pvnet`` as a user types it: a real lab (hypervisor only) up, looked at and down, and every refusal."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pvnet.runtime.child import start_time
from pvnet.runtime.endpoints import write_endpoint
from pvnet.runtime.log_files import shorten

PVNET = str(Path(sys.executable).parent / "pvnet")
SMALL = '[lab]\nname = "small"\n'


class Cli:
    """Runs ``pvnet`` with a runtime directory of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.runtime = tmp_path / "runtime"
        self.runtime.mkdir(mode=0o700)
        self.topology = tmp_path / "small.toml"
        self.topology.write_text(SMALL)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime)}
        self.environment.pop("PVNET_LAB", None)

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PVNET, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [PVNET, *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def refusal(self, *arguments: str, code: int) -> str:
        done = self(*arguments, code=code)
        assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
        return done.stderr

    def left(self) -> list[Path]:
        return list(self.runtime.rglob("*"))


@pytest.fixture
def cli(tmp_path: Path):
    cli = Cli(tmp_path)
    yield cli
    subprocess.run([PVNET, "down"], env=cli.environment, capture_output=True, check=False, timeout=60)
    assert cli.left() == []


def test_detached_lab_can_be_looked_at_and_ended(cli: Cli) -> None:
    up = cli("up", "-f", str(cli.topology), "--detach").stdout
    assert up.startswith("broker: ")
    assert "lab small is up: hypervisor; end it with: pvnet down --lab small" in up

    info = json.loads(cli("ps", "--json").stdout)
    assert info["lab"] == "small"
    assert info["state"] == "running"
    assert [(n["name"], n["state"]) for n in info["nodes"]] == [("broker", "running"), ("hypervisor", "running")]
    assert "@127.0.0.1" in info["broker"]
    assert ":" not in info["broker"].split("@")[0].removeprefix("mqtt://"), "no password"
    table = cli("ps").stdout.splitlines()
    assert table[1].split() == ["NODE", "ROLE", "STATE", "PID", "RESTARTS", "FOR"]
    assert table[3].split()[:4] == ["hypervisor", "hypervisor", "running", str(info["nodes"][1]["pid"])]

    assert "hypervisor: running" in cli("logs", "supervisor").stdout
    lines = [json.loads(line) for line in cli("logs", "--json").stdout.splitlines()]
    assert {"supervisor", "broker"} <= {line["node"] for line in lines}
    assert len(cli("logs", "supervisor", "-n", "1").stdout.splitlines()) == 1
    assert "no node 'nobody' in lab small; there are: supervisor, broker, hypervisor" in cli.refusal(
        "logs", "nobody", code=2
    )

    assert "lab small is already running" in cli.refusal("up", "-f", str(cli.topology), code=2)
    assert "lab small is already running" in cli.refusal("up", "-f", str(cli.topology), "--detach", code=2)
    assert json.loads(cli("ps", "--json").stdout) == info

    follow = cli.start("logs", "supervisor", "--follow")
    assert follow.stdout is not None
    assert follow.stdout.readline().startswith("broker: ")
    assert cli("down").stdout == "lab small is down\n"
    out, _ = follow.communicate(timeout=30)
    assert "hypervisor: off" in out
    assert follow.returncode == 0
    for node in info["nodes"]:
        assert start_time(node["pid"]) is None
    assert cli.left() == []


def test_logs_go_on_when_the_log_is_cut(cli: Cli) -> None:
    cli("up", "-f", str(cli.topology), "--detach")
    log = cli.runtime / "pvnet" / "small" / "logs" / "hypervisor.log"
    with log.open("a") as file, cli.start("logs", "hypervisor", "--follow") as following:
        assert following.stdout is not None
        file.write("one\n" * 100)
        file.flush()
        while following.stdout.readline() != "one\n":
            pass
        assert shorten(log, 200)
        file.write("two\n")
        file.flush()
        seen = ["one\n"]
        while seen[-1] != "two\n":
            seen.append(following.stdout.readline())
        assert seen == [*["one\n"] * 100, "two\n"]
        assert cli("logs", "hypervisor").stdout == "one\n" * 50 + "two\n"
        cli("down")


def test_json_is_one_object_that_names_the_endpoints_and_a_file_ends_its_lab(cli: Cli) -> None:
    up = cli("up", "-f", str(cli.topology), "--detach", "--json").stdout
    assert len(up.splitlines()) == 1
    shown = json.loads(up)
    assert {"lab", "pid", "broker", "nodes", "endpoints"} <= set(shown)
    assert (shown["lab"], shown["endpoints"]) == ("small", {})
    assert ":" not in shown["broker"].split("@")[0].removeprefix("mqtt://"), "no password"

    directory = next(path.parent for path in cli.runtime.rglob("lab.json"))
    write_endpoint(directory, "novalink", {"url": "https://127.0.0.1:1", "ca": None, "password_file": "/p"})
    write_endpoint(directory, "device", ["unix:/a", "unix:/b"])
    assert list(json.loads(cli("ps", "--json").stdout)["endpoints"]) == ["device", "novalink"]
    assert cli("ps").stdout.splitlines()[-2:] == [
        "device: unix:/a, unix:/b",
        "novalink: https://127.0.0.1:1 (password file /p)",
    ]
    assert "lab other is not running" in cli.refusal("down", "-f", str(cli.topology), "--lab", "other", code=3)
    assert cli("down", "-f", str(cli.topology)).stdout == "lab small is down\n"
    assert "lab small is not running" in cli.refusal("down", "-f", str(cli.topology), code=3)
    assert "no/such.toml" in cli.refusal("down", "-f", "/no/such.toml", code=2)


def test_foreground_lab_with_json_says_only_that_it_is_up(cli: Cli) -> None:
    process = cli.start("up", "-f", str(cli.topology), "--json")
    assert process.stdout is not None
    shown = json.loads(process.stdout.readline())
    assert (shown["lab"], shown["state"], shown["endpoints"]) == ("small", "running", {})
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_foreground_lab_says_what_happens_and_ends_on_a_signal(cli: Cli, number: signal.Signals, code: int) -> None:
    process = cli.start("up", "-f", str(cli.topology), "--lab", "other")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "is up" in line:
            process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert lines[0].startswith("broker: running - ")
    assert " at mqtt://pvnet@127.0.0.1:" in lines[0]
    assert "(found at " in lines[0] or "(mosquitto is not installed)" in lines[0]
    assert any("lab other is up" in line for line in lines)
    assert lines[-1] == "supervisor: stopped\n"
    assert "Traceback" not in errors


def test_json_log_is_json_on_every_line(cli: Cli) -> None:
    process = cli.start("up", "-f", str(cli.topology), "--log-json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if (event["node"], event["event"]) == ("hypervisor", "running"):
            process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    for line in errors.splitlines():
        json.loads(line)


def test_lab_that_is_not_running_is_exit_3(cli: Cli) -> None:
    for verb in ("down", "ps", "logs"):
        assert "no lab is running; start one with: pvnet up" in cli.refusal(verb, code=3)
        assert "lab x is not running" in cli.refusal(verb, "--lab", "x", code=3)
    assert "lab name 'X Y'" in cli.refusal("ps", "--lab", "X Y", code=2)


def test_broker_that_cannot_be_reached_is_exit_3(cli: Cli) -> None:
    for detach in ([], ["--detach"]):
        text = cli.refusal("up", "--broker", "mqtt://127.0.0.1:1", *detach, code=3)
        assert "broker mqtt://127.0.0.1:1: connection refused" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["up", "--brokr", "x"], "No such option"),
        (["up", "--broker", "rabbit"], "--broker 'rabbit': expected auto, embedded"),
        (["up", "--broker", "mqtt://u:pw@h:x"], "expected mqtt://"),
        (["up", "--lab", "Bad Name"], "lab name 'Bad Name': expected 1 to 32"),
        (["up", "-f", "/no/such.toml"], "/no/such.toml: No such file or directory; expected a topology file"),
        (["check"], "Missing argument 'FILE'"),
        (["logs", "-n", "x"], "'--lines'"),
    ],
)
def test_bad_usage_is_exit_2_and_short(cli: Cli, arguments: list[str], says: str) -> None:
    text = cli.refusal(*arguments, code=2)
    assert says in text
    assert "pw" not in text


@pytest.mark.parametrize("how", [[], ["--detach"]], ids=["foreground", "detached"])
def test_port_that_the_bridge_cannot_open_is_exit_2_in_the_words_of_the_bridge(cli: Cli, how: list[str]) -> None:
    missing = cli.runtime.parent / "no" / "such" / "capture.pcap"
    cli.topology.write_text(f'{SMALL}[[switch]]\nname = "net0"\nports = ["replay:{missing}"]\n')
    assert cli("check", str(cli.topology)).returncode == 0
    text = cli.refusal("up", "-f", str(cli.topology), *how, code=2)
    assert text.startswith("pvnet: bridge: ")
    assert str(missing) in text


def test_commands_to_a_partition_that_is_not_there_or_off_say_so_at_once(cli: Cli) -> None:
    cli.topology.write_text(
        f'{SMALL}[[switch]]\nname = "net0"\n[[partition]]\nname = "lpar2"\nautostart = false\n'
        '[[partition.venet]]\naddress = "10.0.0.1/24"\n'
    )
    cli("up", "-f", str(cli.topology), "--detach")
    for words in (["call", "{}", "0", "0"], ["ping", "{}", "10.0.0.2"]):
        # A timeout that the test would not survive: nobody waits for an answer.
        ask = ["vbus", *words, "--timeout", "300"]
        unknown = cli.refusal(*(word.format("lpar9") for word in ask), code=2)
        assert unknown == "pvnet: no partition 'lpar9' in lab small; there are: lpar2\n"
        off = cli.refusal(*(word.format("lpar2") for word in ask), code=3)
        assert off == "pvnet: lpar2 is not running (off)\n"


@pytest.mark.parametrize("value", ["NEVER", "0", "always"])
def test_a_wrong_wish_for_unix_sockets_is_exit_2(cli: Cli, value: str) -> None:
    cli.environment["PVNET_UNIX"] = value
    text = cli.refusal("up", "-f", str(cli.topology), code=2)
    assert f"PVNET_UNIX={value!r}: expected never, or auto" in text


def test_check_lists_every_problem(cli: Cli, tmp_path: Path) -> None:
    assert cli("check", str(cli.topology)).stdout == f"{cli.topology}: ok, lab small with hypervisor\n"
    assert json.loads(cli("check", str(cli.topology), "--json").stdout)["ok"] is True
    bad = tmp_path / "bad.toml"
    bad.write_text('[lab]\nnane = "a"\nready_timeout_s = "x"\n')
    lines = cli("check", str(bad), code=2).stderr.splitlines()
    assert lines[0] == f'{bad}:3: lab.ready_timeout_s: "x"; expected a number'
    assert lines[1] == f"{bad}:2: lab.nane: unknown key; expected 'name' perhaps"
    problems = json.loads(cli("check", str(bad), "--json", code=2).stdout)["problems"]
    assert (problems[1]["line"], problems[1]["field"]) == (2, "lab.nane")


def test_check_and_up_name_a_file_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    topology = tmp_path / "lab.toml"
    topology.write_text('[[partition]]\nname = "mp"\nmanagement = true\n[novalink]\nsecrets = "none.toml"\n')
    said = f"{topology}:5: novalink.secrets: {tmp_path}/none.toml: No such file or directory; expected a file of users"
    assert cli("check", str(topology), code=2).stderr.startswith(said)
    assert cli("up", "-f", str(topology), code=2).stderr.startswith(f"pvnet: {said}")


def test_schema_and_version_and_help(cli: Cli) -> None:
    assert json.loads(cli("schema").stdout)["title"] == "Topology"
    assert cli("--version").stdout.startswith("pvnet 0.")
    text = cli("--help").stdout
    for verb in ("up", "down", "ps", "logs", "check", "schema"):
        assert f"\n  {verb} " in text
    assert "--detach" in cli("up", "--help").stdout


def test_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    with cli.start("schema") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_traceback_only_when_asked_for(cli: Cli) -> None:
    cli.environment["PVNET_DEBUG"] = "1"
    process = cli.start("up", "-f", "/no/such.toml")
    _, errors = process.communicate(timeout=30)
    assert "Traceback" in errors
    assert process.returncode == 2
