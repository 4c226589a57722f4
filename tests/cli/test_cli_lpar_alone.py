"""``pvnet lpar`` in labs without ``[manager]``, as those for management software are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvnet.client import Lab
from pvnet.core.errors import RefusedError

PVNET = str(Path(sys.executable).parent / "pvnet")
MANAGED = """
[lab]
name = "alone"
[[partition]]
name = "mp"
management = true
[partition.vmc]
max_hmcs = 2
[[partition]]
name = "lpar1"
autostart = false
"""


def pvnet(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    environment.pop("PVNET_LAB", None)
    done = subprocess.run([PVNET, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def up(folder: Path, topology: str) -> Path:
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    (folder / "t.toml").write_text(topology)
    pvnet(runtime, "up", "-f", str(folder / "t.toml"), "--detach")
    return runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    made = up(tmp_path, MANAGED)
    yield made
    pvnet(made, "down")


def test_a_session_of_its_own_takes_the_place_of_the_manager(runtime: Path) -> None:
    listed = json.loads(pvnet(runtime, "lpar", "list", "--json"))
    assert [(p["name"], p["state"]) for p in listed] == [("mp", "running"), ("lpar1", "off")]
    (on,) = json.loads(pvnet(runtime, "lpar", "on", "lpar1", "--json"))
    assert Path(f"/proc/{on['pid']}").exists()
    assert "lpar1 is running" in pvnet(runtime, "lpar", "on", "lpar1", code=1)
    (off,) = json.loads(pvnet(runtime, "lpar", "off", "lpar1", "--json"))
    assert (off["state"], off["pid"]) == ("off", None)


async def test_when_all_sessions_are_taken_it_says_so(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    async with Lab.join("alone") as lab:
        async with lab.vmc_session("one"), lab.vmc_session("two"):
            with pytest.raises(RefusedError, match="all VMC sessions of mp are in use"):
                await lab.partitions(timeout=0.5)
        assert len(await lab.partitions()) == 2


def test_without_a_management_partition_it_says_what_to_add(tmp_path: Path) -> None:
    runtime = up(tmp_path, '[lab]\nname = "alone"\n[[partition]]\nname = "lpar1"\n')
    try:
        said = pvnet(runtime, "lpar", "list", code=2)
    finally:
        pvnet(runtime, "down")
    assert said == (
        "pvnet: lab alone has neither a [manager] nor a management partition: "
        "expected a [[partition]] with management = true\n"
    )
