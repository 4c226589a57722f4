"""``pvnet lpar`` as a user types it, over a real lab: the whole way through manager, VMC, hypervisor and supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PVNET = str(Path(sys.executable).parent / "pvnet")
TOPOLOGY = """
[lab]
name = "lpars"
[system]
memory = "256MiB"
[[partition]]
name = "mp"
management = true
[[partition]]
name = "lpar1"
autostart = false
[manager]
"""


class Cli:
    """Runs ``pvnet`` beside one lab."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        self.environment.pop("PVNET_LAB", None)

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PVNET, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self("lpar", *arguments, "--json").stdout)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    (folder / "t.toml").write_text(TOPOLOGY)
    made = Cli(folder)
    made("up", "-f", str(folder / "t.toml"), "--detach")
    yield made
    made("down")


def test_makes_changes_runs_and_deletes_a_partition(cli: Cli) -> None:
    (made,) = cli.json("create", "My LPAR", "--memory", "64MiB", "--id", "7")
    assert (made["name"], made["label"], made["lpar_id"], made["state"]) == ("my-lpar", "My LPAR", 7, "off")
    listed = cli("lpar", "list").stdout.splitlines()
    assert listed[0].split() == ["ID", "NAME", "LABEL", "STATE", "MEMORY", "PID", "RESTARTS"]
    assert listed[2].split()[:4] == ["2", "lpar1", "-", "off"]
    assert listed[3].split() == ["7", "my-lpar", "My", "LPAR", "off", "64", "MiB", "-", "0"]
    more = ("set", "my-lpar", "--memory", "128MiB", "--max-memory", "300MiB", "--min-memory", "16MiB", "--label", "Web")
    (changed,) = cli.json(*more)
    sizes = [changed[f"{which}memory_bytes"] >> 20 for which in ("min_", "", "max_", "current_")]
    assert (changed["label"], sizes) == ("Web", [16, 128, 300, 0])
    (on,) = cli.json("on", "my-lpar")
    assert Path(f"/proc/{on['pid']}").exists()
    (again,) = cli.json("off", "my-lpar", "--guest", "--restart")
    assert not Path(f"/proc/{on['pid']}").exists()
    assert Path(f"/proc/{again['pid']}").exists()
    assert "power it off to delete it" in cli("lpar", "delete", "my-lpar", code=1).stderr
    (off,) = cli.json("off", "my-lpar", "--immediate")
    assert (off["state"], off["pid"]) == ("off", None)
    cli("lpar", "set", "my-lpar", "--memory", "256MiB")
    said = cli("lpar", "on", "my-lpar", code=1).stderr
    assert said == ("pvnet: not enough memory for Web (my-lpar): it needs 256 MiB, 240 MiB of 256 MiB are free\n")
    assert cli("lpar", "delete", "my-lpar").stdout == "my-lpar deleted\n"
    assert [p["name"] for p in cli.json("list")] == ["mp", "lpar1"]
    assert "LABEL" not in cli("lpar", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("create", "x" * 32), 1, "label: 'xxxx"),
        (("create", "lpar1"), 1, "'lpar1' is the name of another partition"),
        (("create", "x", "--memory", "1Gi"), 2, "--memory '1Gi': expected a size such as"),
        (("create", "x", "--memory", "9" * 30), 2, "expected a size such as"),
        (("create", "x", "--memory", "3145729"), 2, "a multiple of 4096"),
        (("create", "x", "--id", "1"), 1, "lpar_id: 1 is that of mp"),
        (("create", "x", "--id", "65536"), 2, "65535"),
        (("set", "lpar1"), 2, "nothing to change: expected --label"),
        (("set", "lpar1", "--memory", "1GiB"), 1, "change those with it"),
        (("set", "nobody", "--label", "x"), 1, "no partition 'nobody'"),
        (("off", "lpar1", "--guest", "--immediate"), 2, "expected one of them"),
        (("off", "lpar1", "--guest"), 1, "lpar1 is off"),
        (("delete", "mp"), 1, "mp is the management partition"),
    ],
)
def test_what_cannot_be_is_one_line(cli: Cli, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = cli("lpar", *arguments, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
