"""A lab that management software drives: started as a user starts it, by ``pvnet up --detach --json``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

PVNET: Final = str(Path(sys.executable).parent / "pvnet")
PATIENCE_S: Final = 60.0
SYSTEM: Final = "5c0ffee0-0000-4000-8000-00000000beef"
EAST: Final = "EA570000-0000-4000-8000-00000000000E"

TOPOLOGY: Final = """
[lab]
name = "{name}"
[broker]
use = "embedded"
[system]
name = "Kiruna 9"
uuid = "{system}"
memory = "4GiB"
memory_region = "16MiB"
processors = 8
[[partition]]
name = "mp"
label = "Management"
lpar_id = 1
management = true
[[partition]]
name = "east"
label = "East End"
uuid = "{east}"
lpar_id = 7
memory = "64MiB"
min_memory = "32MiB"
max_memory = "256MiB"
autostart = false
restart = {{ policy = "never" }}
processors = {{ units = 0.5, virtual = 2, max_virtual = 4 }}
[[partition.venet]]
switch = "net0"
vlan = 5
slot = 4
mac = "02:ea:57:00:00:04"
[[partition]]
name = "west"
lpar_id = 8
memory = "32MiB"
restart = {{ policy = "never" }}
[[partition.venet]]
switch = "net0"
address = "10.99.0.8/24"
[[switch]]
name = "net0"
label = "ETHERNET0"
[novalink]
mode = "{mode}"
port = 0
http_port = 0
tls = "tls"
{more}
"""


def process_runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def until(condition: Any, what: str, patience: float = PATIENCE_S) -> Any:
    """Wait for what other processes do; returns what ``condition`` found.

    :raises AssertionError: it does not happen.
    """
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:.0f} s"
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Lab:
    """What ``pvnet up`` said, and questions to the lab beside the REST service."""

    name: str
    environment: dict[str, str]
    endpoint: dict[str, Any]
    directory: Path

    def pvnet(self, *arguments: str) -> Any:
        """Run a command against the lab; returns what its ``--json`` said."""
        command = [PVNET, *arguments, "--lab", self.name, "--json"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The processes of the lab, as ``pvnet ps`` shows them."""
        (info,) = self.pvnet("ps")
        return {node["name"]: node for node in info["nodes"]}

    def pid(self, node: str) -> int | None:
        """Process id of a node; None: it does not run."""
        found: int | None = self.nodes()[node]["pid"]
        return found

    def kill(self, node: str) -> int:
        """``kill -9``; returns the process id that it had."""
        pid = self.pid(node)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    @property
    def password(self) -> str:
        """Password of the lab's user."""
        return Path(self.endpoint["password_file"]).read_text().strip()

    @property
    def by_tls(self) -> dict[str, Any]:
        """Where HTTPS is: arguments of a log-on."""
        url = urlsplit(self.endpoint["url"])
        return {"host": "localhost", "port": url.port, "protocol": "https"}

    @property
    def by_password(self) -> dict[str, Any]:
        """Arguments of a log-on by password."""
        return {**self.by_tls, "user": self.endpoint["user"], "password": self.password}

    @property
    def by_file(self) -> dict[str, Any]:
        """Arguments of a log-on by file."""
        url = urlsplit(self.endpoint["http"])
        return {"host": "localhost", "port": url.port, "protocol": "http"}

    def log(self, node: str = "novalink") -> str:
        """What a node has logged."""
        return "\n".join(str(line["line"]) for line in self.pvnet("logs", node))


@contextmanager
def lab_up(*, mode: str = "pvm", more: str = "", topology: str = TOPOLOGY) -> Iterator[Lab]:
    """Start a lab; afterwards no process of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="pvnet-nl-"))
    name = f"nl-{os.getpid()}-{folder.name[-6:].lower().replace('_', 'x')}"
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("PVNET_LAB", None)
    file = folder / "lab.toml"
    file.write_text(topology.format(name=name, system=SYSTEM, east=EAST, mode=mode, more=more))
    try:
        up = subprocess.run(
            [PVNET, "up", "-f", str(file), "--detach", "--json"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert up.returncode == 0, (up.stdout, up.stderr)
        said = json.loads(up.stdout)
        lab = Lab(name, environment, said["endpoints"]["novalink"], folder)
        pids = [node["pid"] for node in lab.nodes().values() if node["pid"]]
        try:
            yield lab
        finally:
            pids += [node["pid"] for node in lab.nodes().values() if node["pid"]]
            down = subprocess.run(
                [PVNET, "down", "-f", str(file)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_S,
            )
        assert down.returncode == 0, (down.stdout, down.stderr)
        until(lambda: not any(process_runs(pid) for pid in pids), "the lab's processes end")
    finally:
        shutil.rmtree(folder)
