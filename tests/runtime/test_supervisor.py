"""The supervisor over real processes: order, readiness, restarts, power, and nothing left behind however it ends."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from standin import StandIns, small_lab

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.runtime.child import start_time
from pvnet.runtime.lab_dir import LabDir, LabInfo, find_lab, running_labs
from pvnet.runtime.supervisor import ConflictError, Supervisor, SupervisorEvent, UnknownNodeError
from pvnet.runtime.supervisor_nodes import one_line
from pvnet.runtime.topology import BrokerConfig, Topology
from pvnet.runtime.topology_base import Restart

TESTS = Path(__file__).resolve().parent.parent


def alive(pid: int) -> bool:
    return start_time(pid) is not None


def wait_gone(pid: int, seconds: float = 10) -> None:
    """Wait for the end of a process that need not be ours, by event."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([pidfd], [], [], seconds)
        assert readable, f"process {pid} is still there"
    finally:
        os.close(pidfd)


class Watched:
    """A supervisor with its events, and a way to wait for one."""

    def __init__(self, topology: Topology, standins: StandIns, base: Path) -> None:
        self.events: list[SupervisorEvent] = []
        self._news = asyncio.Event()
        self.supervisor = Supervisor(
            topology, launcher=standins.launch, readiness=standins.make_readiness, on_event=self._heard, base=base
        )

    def _heard(self, event: SupervisorEvent) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, done: Callable[[], bool], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not done():
                self._news.clear()
                await self._news.wait()

    def history(self, node: str) -> list[str]:
        return [e.what for e in self.events if e.node == node]

    def pid(self, node: str) -> int:
        (info,) = (n for n in self.supervisor.nodes() if n.name == node)
        assert info.pid is not None
        return info.pid


@asynccontextmanager
async def lab(
    tmp_path: Path, conduct: dict[str, str] | None = None, topology: Topology | None = None
) -> AsyncIterator[Watched]:
    topology = topology or small_lab(ready_timeout_s=10.0, stop_timeout_s=2.0)
    watched = Watched(topology, StandIns(tmp_path, conduct), tmp_path / "base")
    async with watched.supervisor:
        yield watched


async def test_starts_in_order_publishes_itself_and_ends_in_reverse(tmp_path: Path) -> None:
    async with lab(tmp_path) as watched:
        up = [e.node for e in watched.events if e.what == "running"]
        assert up[:4] == ["broker", "hypervisor", "bridge", "mdevs"]
        assert set(up[4:6]) == {"mp", "lpar1"}
        assert up[6:] == ["manager"]
        directory, info = find_lab("lab", tmp_path / "base")
        assert info == watched.supervisor.info()
        assert {n.name: n.state for n in info.nodes} == {
            "broker": "running",
            "hypervisor": "running",
            "bridge": "running",
            "mdevs": "running",
            "mp": "running",
            "lpar1": "running",
            "lpar2": "off",
            "manager": "running",
        }
        assert info.broker_url() == watched.supervisor.broker.url
        assert info.broker_url().password not in json.dumps(info.public())
        assert directory.log("mp").read_text() == "I am mp\n"
        pids = [n.pid for n in info.nodes if n.pid]
        assert len(set(pids)) == 7
    down = [e.node for e in watched.events if e.what == "off"]
    assert down[0] == "manager"
    assert set(down[1:3]) == {"mp", "lpar1"}
    assert down[3:] == ["mdevs", "bridge", "hypervisor"]
    assert not any(map(alive, pids))
    assert not (tmp_path / "base").exists()
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize(
    ("conduct", "says"),
    [
        ("exit3", r"lpar1 ended while starting \(exit code 3\); its last words:\n  I am lpar1\n  cannot go on"),
        ("silent", r"lpar1 did not become ready within 1.5 s; its last words:\n  I am lpar1"),
    ],
)
async def test_node_that_does_not_become_ready_ends_the_start_with_its_last_words(
    tmp_path: Path, conduct: str, says: str
) -> None:
    topology = small_lab(ready_timeout_s=1.5, stop_timeout_s=2.0)
    watched = Watched(topology, StandIns(tmp_path, {"lpar1": conduct}), tmp_path / "base")
    with pytest.raises(UnreachableError, match=says) as caught:
        await watched.supervisor.start()
    assert caught.value.exit_code == 3
    assert watched.history("hypervisor")[-1] == "off"
    assert "manager" not in {e.node for e in watched.events}, "nothing starts after a failure"
    assert not (tmp_path / "base").exists()


async def test_node_that_ends_for_its_configuration_ends_the_start_with_that_error(tmp_path: Path) -> None:
    watched = Watched(small_lab(), StandIns(tmp_path, {"lpar1": "misconfigured"}), tmp_path / "base")
    with pytest.raises(ConfigError) as caught:
        await watched.supervisor.start()
    assert str(caught.value) == "lpar1: port x: expected y"
    assert caught.value.exit_code == 2
    assert "manager" not in {e.node for e in watched.events}, "nothing starts after a failure"
    assert not (tmp_path / "base").exists()


async def test_node_that_ends_with_exit_code_2_without_a_reason_is_unreachable(tmp_path: Path) -> None:
    watched = Watched(small_lab(), StandIns(tmp_path, {"lpar1": "exit2"}), tmp_path / "base")
    with pytest.raises(UnreachableError, match=r"lpar1 ended while starting \(exit code 2\)"):
        await watched.supervisor.start()


async def test_node_whose_configuration_turns_bad_is_restarted_and_given_up_like_any_other(tmp_path: Path) -> None:
    standins = StandIns(tmp_path)
    topology = with_restart(Restart(max_restarts=2))
    watched = Watched(topology, standins, tmp_path / "base")
    async with watched.supervisor as supervisor:
        standins.conduct["lpar1"] = "misconfigured"
        os.kill(watched.pid("lpar1"), signal.SIGKILL)
        await watched.until(
            lambda: supervisor.state("lpar1") == "failed" and "restart failed" in watched.history("lpar1")
        )
        await watched.until(lambda: watched.events[-1].text.startswith("given up after 2 restarts"))
        assert watched.history("lpar1").count("restart failed") == 2
        assert supervisor.state("hypervisor") == "running"


async def test_second_lab_of_the_same_name_is_refused_and_harmless(tmp_path: Path) -> None:
    async with lab(tmp_path) as watched:
        before = watched.supervisor.info()
        second = Watched(small_lab(), StandIns(tmp_path), tmp_path / "base")
        with pytest.raises(ConfigError, match=f"lab lab is already running .pid {os.getpid()}.: pvnet down") as caught:
            await second.supervisor.start()
        assert caught.value.exit_code == 2
        assert find_lab(None, tmp_path / "base")[1] == before
        other = tmp_path / "other"
        other.mkdir()
        async with Watched(small_lab("two"), StandIns(other), tmp_path / "base").supervisor:
            assert running_labs(tmp_path / "base") == ["lab", "two"]
            with pytest.raises(ConfigError, match=r"several labs are running \(lab, two\)"):
                find_lab(None, tmp_path / "base")


async def test_power_on_and_off_are_real_processes(tmp_path: Path) -> None:
    async with lab(tmp_path) as watched:
        supervisor = watched.supervisor
        await supervisor.power_on("lpar2")
        pid = watched.pid("lpar2")
        assert alive(pid)
        with pytest.raises(ConflictError, match="lpar2 is running"):
            await supervisor.power_on("lpar2")
        await supervisor.power_off("lpar2")
        assert not alive(pid)
        with pytest.raises(ConflictError, match="lpar2 is off"):
            await supervisor.power_off("lpar2")
        with pytest.raises(UnknownNodeError, match=r"no node 'x' in lab lab; there are: hypervisor, bridge, mdevs, mp"):
            await supervisor.power_on("x")
        assert watched.history("lpar2") == ["starting", "running", "stopping", "off"]
        assert supervisor.state("lpar2") == "off"


async def test_failed_power_on_can_be_repeated(tmp_path: Path) -> None:
    standins = StandIns(tmp_path, {"lpar2": "exit1"})
    watched = Watched(small_lab(), standins, tmp_path / "base")
    async with watched.supervisor as supervisor:
        with pytest.raises(UnreachableError, match="lpar2 ended while starting"):
            await supervisor.power_on("lpar2")
        assert supervisor.state("lpar2") == "failed"
        assert supervisor.node("lpar2").text.endswith("(exit code 1); its last words: cannot go on")
        standins.conduct.clear()
        await supervisor.power_on("lpar2")
        assert supervisor.state("lpar2") == "running"


async def test_power_off_while_starting(tmp_path: Path) -> None:
    async with lab(tmp_path, {"lpar2": "silent"}) as watched:
        starting = asyncio.ensure_future(watched.supervisor.power_on("lpar2"))
        await watched.until(lambda: watched.history("lpar2") == ["starting"])
        with pytest.raises(ConflictError, match="lpar2 is starting"):
            await watched.supervisor.power_on("lpar2")
        await watched.supervisor.power_off("lpar2")
        with pytest.raises(ConflictError, match=r"^lpar2 was powered off while starting$"):
            await starting
        assert watched.supervisor.state("lpar2") == "off"
        starting = asyncio.ensure_future(watched.supervisor.power_on("lpar2"))
        await watched.until(lambda: watched.history("lpar2")[-1] == "starting")
        await watched.supervisor.power_off("lpar2", mode="immediate")
        with pytest.raises(ConflictError, match=r"^lpar2 was powered off while starting$"):
            await starting


async def test_power_off_while_the_lab_starts_does_not_end_the_lab(tmp_path: Path) -> None:
    watched = Watched(small_lab(), StandIns(tmp_path, {"lpar1": "silent"}), tmp_path / "base")
    starting = asyncio.ensure_future(watched.supervisor.start())
    await watched.until(lambda: watched.history("lpar1") == ["starting"])
    await watched.supervisor.power_off("lpar1")
    await starting
    assert watched.supervisor.state("lpar1") == "off"
    assert watched.supervisor.state("manager") == "running"
    await watched.supervisor.stop()


def test_what_has_one_line_gets_the_last_of_the_last_words() -> None:
    assert one_line(UnreachableError("x ended; its last words:\n  a\n  b")) == "x ended; its last words: b"
    assert one_line(UnreachableError("x ended")) == "x ended"
    assert one_line(UnreachableError("")) == ""


async def test_node_that_clings_to_life_is_killed_at_the_deadline(tmp_path: Path) -> None:
    async with lab(tmp_path, {"lpar1": "cling"}, small_lab(stop_timeout_s=0.3)) as watched:
        pid = watched.pid("lpar1")
        await watched.supervisor.power_off("lpar1")
        assert not alive(pid)


def with_restart(restart: Restart) -> Topology:
    topology = small_lab(ready_timeout_s=10.0)
    partitions = [p.model_copy(update={"restart": restart}) for p in topology.partitions]
    return topology.model_copy(update={"partitions": partitions})


@pytest.mark.parametrize(
    ("policy", "how", "after"),
    [
        ("never", signal.SIGUSR1, "off"),
        ("never", signal.SIGUSR2, "failed"),
        ("never", signal.SIGKILL, "failed"),
        ("on-failure", signal.SIGUSR1, "off"),
        ("on-failure", signal.SIGUSR2, "running"),
        ("on-failure", signal.SIGKILL, "running"),
        ("always", signal.SIGUSR1, "running"),
        ("always", signal.SIGKILL, "running"),
    ],
)
async def test_restart_policy(tmp_path: Path, policy: str, how: signal.Signals, after: str) -> None:
    async with lab(tmp_path, topology=with_restart(Restart(policy=policy))) as watched:  # type: ignore[arg-type]
        first = watched.pid("lpar1")
        events = len(watched.events)
        os.kill(first, how)
        await watched.until(lambda: any(e.node == "lpar1" and e.what == after for e in watched.events[events:]))
        if after == "running":
            assert watched.pid("lpar1") != first
            (node,) = (n for n in watched.supervisor.nodes() if n.name == "lpar1")
            assert node.restarts == 1
        assert watched.supervisor.state("mp") == "running"


async def test_node_that_fails_again_and_again_is_given_up_and_the_lab_lives(tmp_path: Path) -> None:
    topology = with_restart(Restart(policy="always", max_restarts=2))
    async with lab(tmp_path, {"lpar1": "once4"}, topology) as watched:
        os.kill(watched.pid("lpar1"), signal.SIGKILL)
        await watched.until(
            lambda: watched.supervisor.state("lpar1") == "failed" and "given" in watched.events[-1].text
        )
        assert watched.events[-1].text == "given up after 2 restarts within 60 s"
        assert watched.history("lpar1").count("restart failed") == 2
        assert watched.supervisor.state("manager") == "running"


async def test_killed_broker_is_restarted_at_its_address(tmp_path: Path) -> None:
    async with lab(tmp_path) as watched:
        url = watched.supervisor.broker.url
        os.kill(watched.pid("broker"), signal.SIGKILL)
        await watched.until(lambda: watched.history("broker").count("running") == 2)
        assert watched.supervisor.broker.url == url
        assert watched.supervisor.state("hypervisor") == "running"


async def test_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    watched = Watched(small_lab(), StandIns(tmp_path, {"mp": "silent"}), tmp_path / "base")
    start = asyncio.ensure_future(watched.supervisor.start())
    await watched.until(lambda: watched.history("mp") == ["starting"])
    pid = watched.pid("mp")
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not alive(pid)
    assert not (tmp_path / "base").exists()


async def test_second_request_to_stop_kills(tmp_path: Path) -> None:
    async with lab(tmp_path, {"mp": "cling"}, small_lab(stop_timeout_s=600.0)) as watched:
        pid = watched.pid("mp")
        watched.supervisor.request_stop()
        await watched.supervisor.wait()
        stopping = asyncio.ensure_future(watched.supervisor.stop())
        await watched.until(lambda: "stopping" in watched.history("mp"))
        assert alive(pid)
        watched.supervisor.request_stop()
        async with asyncio.timeout(10):
            await stopping


async def test_port_in_use_is_refused_before_any_node(tmp_path: Path) -> None:
    async with lab(tmp_path) as watched:
        port = watched.supervisor.broker.url.port
        topology = small_lab("two").model_copy(update={"broker": BrokerConfig(port=port)})
        second = Watched(topology, StandIns(tmp_path), tmp_path / "base")
        with pytest.raises(ConfigError, match=f"broker port {port} is in use"):
            await second.supervisor.start()
        assert watched.supervisor.state("mp") == "running"
        assert not LabDir("two", tmp_path / "base").path.exists()


# --- ends that the supervisor does not see --------------------------------------------------------------------------


def start_lab(tmp_path: Path) -> tuple[subprocess.Popen[str], LabInfo, int]:
    """A supervisor in a process of its own, its lab.json and the pid of its reaper."""
    process = subprocess.Popen(
        [sys.executable, "-m", "standin", str(tmp_path / "base"), str(tmp_path), "{}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    try:
        info = LabInfo.model_validate_json(process.stdout.readline())
        return process, info, int(process.stdout.readline())
    except ValueError:
        process.terminate()
        process.communicate()
        raise


def test_killed_supervisor_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    process, info, reaper = start_lab(tmp_path)
    with process:
        process.kill()
    for node in info.nodes:
        if node.pid:
            wait_gone(node.pid)
    wait_gone(reaper)
    assert not (tmp_path / "base").exists()


def test_next_start_cleans_up_when_the_reaper_was_killed_too(tmp_path: Path) -> None:
    process, info, reaper = start_lab(tmp_path)
    with process:
        os.kill(reaper, signal.SIGKILL)
        wait_gone(reaper)
        process.kill()
    assert (tmp_path / "base/lab/lab.json").exists()
    with pytest.raises(UnreachableError, match="no lab is running"):
        find_lab(None, tmp_path / "base")
    (tmp_path / "ready").unlink()
    process, again, _ = start_lab(tmp_path)
    with process:
        assert again.pid != info.pid
        process.terminate()
    assert process.returncode == 0
    assert not (tmp_path / "base").exists()


def test_terminated_supervisor_shuts_down_in_good_order(tmp_path: Path) -> None:
    process, info, reaper = start_lab(tmp_path)
    with process:
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert not any(alive(n.pid) for n in info.nodes if n.pid)
    assert not alive(reaper)
    assert not (tmp_path / "base").exists()


def test_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="expected a directory of user"):
        LabDir("lab", base).acquire()
    base.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="expected a directory of user"):
        LabDir("lab", base).acquire()


def test_base_directory_is_the_runtime_directory_or_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvnet.runtime.lab_dir import base_directory

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_directory() == tmp_path / "pvnet"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert base_directory().name == f"pvnet-{os.getuid()}"
