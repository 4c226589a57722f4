"""A lab of stand-in programs: real processes that only say READY, fall silent, end or cling to life, as told.

``python -m standin`` runs a whole supervisor of them, for tests that kill it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pvnet.runtime.log import configure_logging
from pvnet.runtime.supervisor import Launch, NodeSpec, Supervisor
from pvnet.runtime.topology import LabConfig, Topology, default_topology
from pvnet.transport.uri import BrokerUrl

PROGRAM = """
import json, os, signal, socket, sys, time
given = json.load(sys.stdin)
conduct = given["conduct"]
print("I am", given["name"], flush=True)
if conduct == "cling":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
signal.signal(signal.SIGUSR2, lambda *_: os._exit(9))
if conduct == "misconfigured":
    print(given["name"] + ": port x: expected y", flush=True)
    print("a line of the log behind it", flush=True)
    sys.exit(2)
if conduct.startswith("exit"):
    print("cannot go on", flush=True)
    sys.exit(int(conduct[4:]))
if conduct.startswith("once") and not os.path.exists(given["mark"]):
    open(given["mark"], "w").close()
elif conduct.startswith("once"):
    sys.exit(int(conduct[4:]))
if conduct != "silent":
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.sendto(json.dumps([given["name"], os.getpid(), given["born"]]).encode(), given["socket"])
while True:
    signal.pause()
"""


class SocketReadiness:
    """Hears READY on a unix datagram socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready: dict[str, int] = {}
        self.order: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        name, _, born = json.loads(self._socket.recv(1000))
        self.ready[name] = born
        self.order.append(name)
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_ready(self, node: str, born_after: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.ready.get(node, 0) <= born_after and node in self.ready)
            del self.ready[node]

    async def stop(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self.path.unlink(missing_ok=True)


class StandIns:
    """Launcher and readiness for a :class:`Supervisor`; ``conduct`` says per node how it behaves."""

    def __init__(self, scratch: Path, conduct: Mapping[str, str] | None = None) -> None:
        self.scratch = scratch
        self.conduct = dict(conduct or {})
        self.readiness: SocketReadiness | None = None

    def launch(self, spec: NodeSpec, broker: BrokerUrl) -> Launch:
        given = {
            "name": spec.name,
            "conduct": self.conduct.get(spec.name, "ready"),
            "socket": str(self.scratch / "ready"),
            "mark": str(self.scratch / f"{spec.name}.mark"),
            "born": time.time_ns(),
        }
        return Launch((sys.executable, "-S", "-c", PROGRAM), module=False, stdin=json.dumps(given).encode())

    async def make_readiness(self, broker: BrokerUrl) -> SocketReadiness:
        self.readiness = SocketReadiness(self.scratch / "ready")
        return self.readiness


def small_lab(name: str = "lab", **lab: object) -> Topology:
    return default_topology().model_copy(update={"lab": LabConfig(name=name, **lab)})


async def main(base: Path, scratch: Path, conduct: dict[str, str]) -> None:
    """Run a supervisor until SIGTERM; print its lab.json when it is up."""
    configure_logging(level="warning")
    standins = StandIns(scratch, conduct)
    topology = small_lab(ready_timeout_s=10.0, stop_timeout_s=1.0)
    supervisor = Supervisor(topology, launcher=standins.launch, readiness=standins.make_readiness, base=base)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.request_stop)
    async with supervisor:
        print(supervisor.info().model_dump_json(), flush=True)
        assert supervisor._reaper is not None
        print(supervisor._reaper.pid, flush=True)
        await supervisor.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
