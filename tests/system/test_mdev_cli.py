"""``pvnet mdev`` as a user types it against a lab with two mdev hosts; what is wrong is one line and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pvnet.cli.main import run

PVNET = str(Path(sys.executable).parent / "pvnet")
DISK = "d15c0000-0000-4000-8000-00000000000d"
CARD = "ca4d0000-0000-4000-8000-00000000000a"
LOOSE = "ca4d0000-0000-4000-8000-00000000000f"
NOBODY = "00000000-0000-4000-8000-000000000000"
TOPOLOGY = f"""
[lab]
name = "cli"
[broker]
use = "embedded"
[[partition]]
name = "a"
[[partition]]
name = "b"
[[mdev_host]]
name = "east"
[[mdev_host.parent]]
name = "disk"
driver = "vfio_ccw"
attributes = {{ image = "east.img", size = "1MiB" }}
[[mdev_host.mdev]]
uuid = "{DISK}"
parent = "disk"
type = "vfio_ccw-io"
partition = "a"
[[mdev_host.mdev]]
uuid = "{CARD}"
parent = "mtty"
type = "mtty-2"
partition = "b"
[[mdev_host.mdev]]
uuid = "{LOOSE}"
parent = "mtty"
type = "mtty-1"
[[mdev_host]]
name = "west"
[[mdev_host.parent]]
name = "disk"
driver = "vfio_ccw"
attributes = {{ image = "west.img", size = "1MiB" }}
"""

Refusal = tuple[tuple[str, ...], int, str]
REFUSED: list[Refusal] = [
    (("show", NOBODY), 1, "no mediated device"),
    (("remove", NOBODY), 1, "no mediated device"),
    (("migrate", NOBODY, "west"), 1, "no mediated device"),
    (("set", NOBODY, "port0=loop"), 1, "no mediated device"),
    (("assign", NOBODY, "a"), 1, "no mediated device"),
    (("start", NOBODY, "--host", "east"), 1, NOBODY),
    (("remove", DISK, "--wait", "0"), 1, "EBUSY"),
    (("assign", DISK, "b"), 1, "EBUSY"),
    (("create", "mtty", "mtty-1", "--uuid", CARD, "--host", "west"), 1, ""),
    (("create", "mtty", "mtty-7", "--host", "west"), 1, "mtty-7"),
    (("create", "mtty", "mtty-1", "port0=warp:9", "--host", "west"), 1, "warp:9"),
    (("create", "mtty", "mtty-1", "--uuid", "half-a-uuid", "--host", "west"), 1, "EINVAL"),
    (("create", "disk", "vfio_ccw-io", "--host", "east"), 1, ""),
    (("set", CARD, "traffic0=1"), 1, "EPERM"),
    (("set", CARD, "port0=none", "port1=warp:9"), 1, "warp:9"),
    (("set", CARD, "port0=none", "port0=loop"), 2, "port0 is given twice"),
    (("set", CARD, "colour=red"), 1, "ENOENT"),
    (("migrate", CARD, "east"), 1, "EINVAL"),
    (("register", "d2", "no_such_driver", "--host", "east"), 1, "no_such_driver"),
    (("register", "d2", "vfio_ccw", "size=1", "--host", "east"), 1, ""),
    (("unregister", "mtty", "--host", "east"), 1, "EBUSY"),
    (("read", "a", "/dev/nothing"), 1, "ENOENT"),
    (("write", "a", "/dev/dasda", "--text", "x", "--offset", str(1 << 20)), 1, "ENOSPC"),
    (("cat", "/no/such/file", "--host", "east"), 1, "ENOENT"),
    (("cat", "/parents/mtty/mdev_supported_types/mtty-1/create", "--host", "east"), 1, "EACCES"),
    (("cat", "/rfc/parents/mtty/mdev_destroy", "--host", "east"), 1, "EACCES"),
    (("cat", "/parents/mtty", "--host", "east"), 2, "is a folder"),
    (("echo", "1", f"/parents/mtty/{LOOSE}/attributes/traffic0", "--host", "east"), 1, "EACCES"),
    (("echo", "nonsense", "/rfc/parents/mtty/mdev_create", "--host", "east"), 1, "EINVAL"),
    (("echo", f"{CARD}:4294967296:p", "/rfc/parents/mtty/mdev_create", "--host", "east"), 1, "ERANGE"),
    (("screenshot", CARD, "-o", "/nowhere/x.png"), 2, CARD),
    (("screenshot", CARD, "-o", "/dev/null"), 2, ".png"),
    (("open", "vfio-user:/nobody/listens/here"), 3, "/nobody/listens/here"),
    (("show",), 2, ""),
    (("explode",), 2, ""),
    (("create", "mtty", "mtty-1"), 2, "name the host"),
    (("create", "mtty", "mtty-1", "--host", "south"), 2, "no host"),
    (("create", "../x", "mtty-1"), 2, "../x"),
    (("migrate", CARD, "south"), 2, "south"),
    (("migrate", CARD, "no/such"), 2, ""),
    (("assign", LOOSE, "c"), 2, "c"),
    (("assign", "vfio-user:", "a"), 2, "vfio-user:"),
    (("assign", "vfio-user:/nobody/listens/here", "a"), 3, "/nobody/listens/here"),
    (("assign", "vfio-user:/" + "x" * 120, "a"), 3, "path too long"),
    (("read", "nopart", "/dev/ttyS0"), 2, "nopart"),
    (("write", "nopart", "/dev/ttyS0", "--text", "x"), 2, "nopart"),
    (("events", "--since", "-1", "--host", "east"), 2, ""),
    (("events",), 2, "east, west"),
    (("set", CARD, "port0"), 2, "port0"),
    (("write", "b", "/dev/ttyS0", "--hex", "xyz"), 2, "xyz"),
    (("write", "b", "/dev/ttyS0"), 2, "--text"),
    (("open", "pipe:x"), 2, "pipe:x"),
    (("list", "--timeout", "nan"), 2, ""),
    (("list", "--lab", "another"), 3, "another"),
]


class Cli:
    """Runs ``pvnet`` with a runtime directory of its own."""

    def __init__(self, runtime: Path) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        for name in ("PVNET_LAB", "PVNET_DEBUG", "PVNET_LOG"):
            self.environment.pop(name, None)

    def pvnet(self, *words: str, code: int = 0) -> tuple[str, str]:
        done = subprocess.run([PVNET, *words], env=self.environment, capture_output=True, check=False, timeout=100)
        out, error = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in out + error
        assert "internal error" not in error
        assert done.returncode == code, (words, out + error)
        return out, error

    def __call__(self, *words: str) -> str:
        out, error = self.pvnet("mdev", *words)
        assert error == ""
        return out

    def devices(self) -> object:
        hosts = json.loads(self("list", "--json"))
        for mdev in [mdev for host in hosts for mdev in host["mdevs"]]:
            del mdev["counters"]
        return hosts

    def json(self, *words: str) -> object:
        return json.loads(self(*words, "--json"))


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    topology = tmp_path_factory.mktemp("lab") / "lab.toml"
    topology.write_text(TOPOLOGY)
    made = Cli(runtime)
    made.pvnet("mdev", "list", code=3)
    made.pvnet("up", "-f", str(topology), "--detach")
    yield made
    made.pvnet("down")
    assert list(runtime.rglob("*")) == []
    assert (topology.parent / "east.img").stat().st_size == 1 << 20


def test_what_is_wrong_is_one_line_and_a_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, since there are many: all but the start of an interpreter."""
    for name in ("PVNET_LAB", "PVNET_DEBUG", "PVNET_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", cli.environment["XDG_RUNTIME_DIR"])
    configuration = structlog.get_config()
    before = cli.devices()
    for words, code, says in REFUSED:
        assert run(["mdev", *words]) == code, words
        out, error = capsys.readouterr()
        assert out == "", words
        assert len(error.splitlines()) == 1, (words, error)
        assert error.startswith("pvnet: "), (words, error)
        assert len(error) < 500, (words, error)
        assert says in error, (words, error)
    structlog.configure(**configuration)  # the command line sets another level
    assert cli.devices() == before, "whatever was refused changed nothing"


def test_json_is_printed_also_when_nothing_comes(cli: Cli) -> None:
    out, error = cli.pvnet("mdev", "read", "b", "/dev/ttyS1", "--json", "--timeout", "0.3", code=1)
    assert (json.loads(out), error) == ({"bytes": 0, "data": ""}, "")


def test_a_day_of_an_administrator(cli: Cli, tmp_path: Path) -> None:
    assert "mtty-2" in cli("list")
    data = tmp_path / "data"
    data.write_bytes(os.urandom(70_000))
    cli("write", "a", "/dev/dasda", "--file", str(data), "--offset", "4096", "--flush")
    moved = cli.json("migrate", DISK, "west")
    assert moved["bytes"] > 70_000  # type: ignore[index]
    assert f"{DISK}: vfio_ccw-io of disk at west" in cli("show", DISK)
    back = tmp_path / "back"
    cli("read", "a", "/dev/dasda", "--offset", "4096", "--count", "70000", "-o", str(back))
    assert back.read_bytes() == data.read_bytes()
    assert "moved to east" in cli("migrate", DISK, "east")

    cli("write", "b", "/dev/ttyS0", "--text", "echo")
    assert cli("read", "b", "/dev/ttyS0", "--count", "4") == "echo"

    made = cli("create", "mtty", "mtty-1", "port0=none", "--host", "west").strip()
    cli("assign", made, "a")
    assert "used by a" in cli("show", made)
    cli("release", made, "a")
    path = tmp_path / "s"
    cli.pvnet("attach", f"vfio-user:{path}?mdev={made}")
    assert cli.json("open", f"vfio-user:{path}", "--read", "7:0:4")
    cli.pvnet("attach", f"vfio-user:{path}?mdev={made}", "--remove")
    assert not path.exists()
    cli("remove", made)
    assert [e["action"] for e in cli.json("events", "--host", "west")][-1] == "remove"  # type: ignore[attr-defined]
