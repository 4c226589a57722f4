"""The example lab as a user and a CI job have it: one object with the endpoints, a CA to trust, users, a dump.

And the fixtures for other people's tests, run by a pytest of its own.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from system_support import PATIENCE_S, wait_gone

from pvnet.client.pytest_plugin import CommandError, Novalink, TestLab, default_lab, running
from pvnet.core.errors import ConfigError
from pvnet.novalink.dump import Found, FoundPartition
from pvnet.novalink.dump_fetch import Access, fetch
from pvnet.novalink.markup import Element
from pvnet.novalink.passwords import read_password, set_password
from pvnet.runtime.topology import LabConfig, Topology
from pvnet.runtime.topology_file import load_topology
from pvnet.runtime.topology_novalink import NovalinkConfig

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "novalink.pvnet.toml"
PVNET = [sys.executable, "-P", "-m", "pvnet.cli.main"]
KEYS = {"url", "http", "ca", "user", "password_file"}


class Cli:
    """``pvnet`` with directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = directory / "runtime"
        self.runtime.mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(directory / "state"),
        }
        for name in ("PVNET_LAB", "PVNET_DEBUG", "PVNET_LOG"):
            self.environment.pop(name, None)

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            [*PVNET, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    subprocess.run([*PVNET, "down"], env=cli.environment, capture_output=True, check=False, timeout=60)
    assert list(cli.runtime.rglob("*")) == []


def at_free_ports(file: Path, to: Path) -> Path:
    """The example, so that tests run beside each other."""
    text = file.read_text()
    changed = re.sub(r"^\[novalink\].*$", "[novalink]\nport = 0\nhttp_port = 0", text, flags=re.MULTILINE)
    assert changed != text
    to.write_text(changed)
    return to


def log_on(endpoint: dict[str, Any], password: str, user: str = "pvnet") -> int:
    """Status of a log-on over HTTPS, with the CA of the endpoint and no other."""
    body = (
        '<LogonRequest xmlns="http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/" schemaVersion="V1_0">'
        f"<UserID>{user}</UserID><Password>{password}</Password></LogonRequest>"
    )
    request = urllib.request.Request(f"{endpoint['url']}/rest/api/web/Logon", data=body.encode(), method="PUT")
    request.add_header("Content-Type", "application/vnd.ibm.powervm.web+xml; type=LogonRequest")
    context = ssl.create_default_context(cafile=endpoint["ca"])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def without_address(found: Found, url: str) -> Found:
    """What was read, its links without host and port: those are other ones each time."""

    def bare(element: Element) -> Element:
        attributes = {key: value.removeprefix(url) for key, value in element.attributes.items()}
        return replace(element, attributes=attributes, children=tuple(map(bare, element.children)))

    return Found(
        found.mode,
        bare(found.system),
        tuple(
            FoundPartition(bare(p.content), tuple(map(bare, p.adapters)), tuple(map(bare, p.volumes)))
            for p in found.partitions
        ),
        tuple(map(bare, found.switches)),
        tuple(map(bare, found.servers)),
    )


def test_the_example_says_its_endpoints_in_one_object_and_comes_back_from_a_dump(cli: Cli) -> None:
    example = at_free_ports(EXAMPLE, cli.directory / "example.toml")
    printed = cli("up", "-f", str(example), "--detach", "--json")
    assert len(printed.splitlines()) == 1
    shown = json.loads(printed)
    assert {"lab", "pid", "broker", "nodes", "endpoints"} <= set(shown)
    endpoint = shown["endpoints"]["novalink"]
    assert set(endpoint) == KEYS
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", endpoint["url"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", endpoint["http"])
    assert endpoint["user"] == "pvnet"
    password_file = Path(endpoint["password_file"])
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    password = read_password(password_file)
    assert log_on(endpoint, password) == 200
    assert log_on(endpoint, "wrong") == 401

    assert cli("novalink", "ca", "--path").strip() == endpoint["ca"]
    told = cli("novalink", "ca")
    assert f"curl --cacert {endpoint['ca']} {endpoint['url']}" in told
    assert "127.0.0.0/8" in told
    assert json.loads(cli("novalink", "ca", "--json"))["ca"] == endpoint["ca"]

    dumped = cli.directory / "dumped.toml"
    assert "3 partitions" in cli(
        "novalink", "dump", endpoint["url"], "-o", str(dumped), "--port", "0", "--http-port", "0"
    )
    assert json.loads(cli("check", str(dumped), "--json"))["ok"]
    written = dumped.read_text()
    dumped.write_text("mine")
    repeated = ("novalink", "dump", endpoint["url"], "-o", str(dumped), "--port", "0", "--http-port", "0")
    assert f"{dumped}: is there already, and was not changed; expected another name, or --force" in cli(
        *repeated, code=2
    )
    assert dumped.read_text() == "mine"
    cli(*repeated, "--force")
    assert dumped.read_text() == written
    no_folder = str(cli.directory / "none" / "x")
    assert "No such file" in cli("novalink", "dump", endpoint["url"], "-o", no_folder, code=2)
    assert "--password-file" in cli("novalink", "dump", endpoint["url"], "--user", "ann", code=2)
    lost = cli("novalink", "dump", endpoint["url"], "--password-file", str(password_file), "--user", "ann", code=1)
    assert "wrong user or password" in lost
    before = fetch(Access(endpoint["url"], "pvnet", password, ca=Path(endpoint["ca"])))
    assert cli("down", "-f", str(example)) == "lab novalink is down\n"

    again = json.loads(cli("up", "-f", str(dumped), "--detach", "--json"))["endpoints"]["novalink"]
    password = read_password(Path(again["password_file"]))
    after = fetch(Access(again["url"], "pvnet", password, ca=Path(again["ca"])))
    assert without_address(after, again["url"]) == without_address(before, endpoint["url"])
    cli("down", "-f", str(dumped))


def small(**novalink: Any) -> Topology:
    """The smallest lab with an endpoint."""
    made = default_lab()
    return made.model_copy(
        update={
            "lab": LabConfig(name="small", ready_timeout_s=60.0),
            "partitions": [p for p in made.partitions if p.management],
            "switches": [],
            "novalink": NovalinkConfig(**novalink),
        }
    )


def test_users_of_a_file_log_on_and_nobody_else(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.toml"
    set_password(secrets, "ann", "correct horse")
    with running(small(secrets=str(secrets), http=False)) as lab:
        endpoint = lab.endpoints["novalink"]
        assert (endpoint["http"], endpoint["user"], endpoint["password_file"]) == (None, None, None)
        assert log_on(endpoint, "correct horse", "ann") == 200
        assert log_on(endpoint, "correct horse", "pvnet") == 401
        assert f"novalink: {endpoint['url']} (ca " in lab.pvnet("ps")


def test_a_topology_that_cannot_be_is_told_by_the_one_who_starts_it(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"none\.toml: No such file"),
        running(small(secrets=str(tmp_path / "none.toml"))),
    ):
        pytest.fail("the lab came up")


def test_the_passwords_of_a_file_are_set_by_command(cli: Cli) -> None:
    file = cli.directory / "secrets.toml"
    assert "user ann added" in cli("novalink", "passwd", str(file), "ann", "--stdin", stdin="correct horse\n")
    assert json.loads(cli("novalink", "passwd", str(file), "ann", "--stdin", "--json", stdin="x y")) == {
        "file": str(file),
        "user": "ann",
        "new": False,
    }
    assert "expected --stdin" in cli("novalink", "passwd", str(file), "ann", code=2)
    assert "expected 1 to 1024 bytes" in cli("novalink", "passwd", str(file), "ann", "--stdin", code=2, stdin="\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_ca_is_there_before_the_first_lab(cli: Cli) -> None:
    file = Path(cli("novalink", "ca", "--path").strip())
    assert file == cli.directory / "state" / "pvnet" / "novalink" / "ca.pem"
    assert "BEGIN CERTIFICATE" in file.read_text()
    assert "no lab is running" not in cli("novalink", "ca")
    assert "lab other is not running" in cli("novalink", "ca", "--lab", "other", code=3)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ftp://x"], 2, "expected https://HOST"),
        (["https://x/rest"], 2, "expected https://HOST"),
        (["https://x:99999"], 2, "expected https://HOST"),
        (["http://192.0.2.1:12080"], 2, "in the clear"),
        (["https://127.0.0.1:1"], 3, "Connection refused"),
        (["https://127.0.0.1:1", "--ca", "/no/such.pem"], 2, "expected the PEM file of a CA"),
    ],
)
def test_addresses_that_cannot_be_read(cli: Cli, arguments: list[str], code: int, said: str) -> None:
    password = cli.directory / "password"
    password.write_text("x\n")
    assert said in cli("novalink", "dump", *arguments, "--password-file", str(password), code=code)


# --- fixtures ---------------------------------------------------------------------------------------------------------


def run_pytest(directory: Path, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(directory)],
        cwd=directory,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_fixtures_give_each_test_an_endpoint_of_its_own(tmp_path: Path) -> None:
    example = ROOT / "examples" / "novalink_tests"
    done = run_pytest(tmp_path, **{file.stem: file.read_text() for file in example.glob("*.py")})
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_lab_of_ones_own_without_the_service_is_told(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        conftest='pytest_plugins = ["pvnet.client.pytest_plugin"]\n',
        test_theirs=(
            "import pytest\n"
            "@pytest.fixture\n"
            "def pvnet_topology(tmp_path):\n"
            "    file = tmp_path / 'lab.toml'\n"
            "    file.write_text('[lab]\\nname = \"bare\"\\n')\n"
            "    return file\n"
            "def test_lab(pvnet_lab):\n"
            "    assert pvnet_lab.name == 'bare'\n"
            "def test_endpoint(novalink):\n"
            "    pass\n"
        ),
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "expected [novalink] in it" in done.stdout


def test_every_setting_survives_the_way_to_the_fixtures_lab() -> None:
    from pvnet.client.pytest_plugin import _as_toml
    from pvnet.runtime.topology_file import parse_topology

    whole = load_topology(ROOT / "deploy" / "topologies" / "every-setting.toml")
    again = parse_topology(_as_toml(whole, ROOT))
    assert again.novalink is not None
    assert whole.novalink is not None
    assert (again.novalink.port, again.novalink.http_port) == (0, 0)
    ports = {"port": 0, "http_port": 0}
    assert again.model_dump(exclude={"novalink"}) == whole.model_dump(exclude={"novalink"})
    assert again.novalink == whole.novalink.model_copy(update=ports)


def test_a_lab_ends_with_the_test(tmp_path: Path) -> None:
    with running(small()) as lab:
        assert isinstance(lab, TestLab)
        pids = [node["pid"] for node in lab.nodes]
        assert "running" in lab.pvnet("ps")
    assert not any(Path(f"/proc/{pid}").exists() for pid in [lab.pid, *pids])
    assert not Path(lab.environment["XDG_RUNTIME_DIR"]).exists()


def test_a_command_that_fails_says_why_and_no_password_is_shown() -> None:
    lab = TestLab("x", 1, [], {}, {**os.environ, "XDG_RUNTIME_DIR": "/nowhere"})
    with pytest.raises(CommandError, match=r"'nothing'.* exit status 2\.(?s:.*)No such command") as caught:
        lab.pvnet("nothing")
    assert "No such command" in caught.value.stderr
    endpoint = Novalink("https://127.0.0.1:1", None, None, "pvnet", "correct horse", lab)
    assert endpoint.password == "correct horse"
    assert "correct horse" not in repr(endpoint)


BLOCKED = """
import pathlib, signal

def test_blocked(novalink):
    shown = " ".join(map(str, [novalink.lab.pid, *(node["pid"] for node in novalink.lab.nodes if node["pid"])]))
    with open({fifo!r}, "w") as fifo:
        fifo.write(shown)
    signal.pause()
"""


def test_nothing_is_left_of_a_test_run_that_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["pvnet.client.pytest_plugin"]\n')
    (tmp_path / "test_theirs.py").write_text(BLOCKED.format(fifo=str(fifo)))
    with tempfile.TemporaryDirectory(prefix="pvnet-") as scratch:  # short: sockets stand in it
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "--basetemp",
                str(tmp_path / "base"),
                str(tmp_path),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTEST_ADDOPTS": "", "TMPDIR": scratch},
            stdout=subprocess.DEVNULL,
        )
        try:
            pidfds = [os.pidfd_open(int(word)) for word in fifo.read_text().split()]
            assert len(pidfds) > 2
            assert [path.name[:6] for path in Path(scratch).iterdir()] == ["pvnet-"]
        finally:
            process.kill()
            process.wait()
        wait_gone(pidfds)
        until = time.monotonic() + PATIENCE_S
        while list(Path(scratch).iterdir()):
            assert time.monotonic() < until, list(Path(scratch).rglob("*"))
            time.sleep(0.01)
