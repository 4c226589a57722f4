"""The supervisor: starts a lab's processes in order, keeps them as the topology says, and ends them all.

Order of start: lab directory and reaper, broker, hypervisor, bridge, mdev hosts, partitions (each together), manager;
of the end: the reverse.  A node has started when it *says* that it serves (``readiness``); one that ends first or stays
silent ends the whole start, and the error has its last words.  Later, a node that ends by itself is restarted by its
policy, with a pause that doubles.

Nothing stays behind, whatever happens: every child is tied to us by the kernel (``runtime.tether``), the reaper removes
the directory when we are killed, and ``stop`` is the way out of every error.

States of a node::

    off ──power on──▶ starting ──ready──▶ running ──power off──▶ stopping ──▶ off
                        ▲   └──fails──▶ failed ◀──gives up──┐  │
                        └────────── restart ────────────────┴──┘ ended by itself

A process that ends by itself with a failure is ``failed`` for a moment even when it is restarted, so that who
watches sees the crash.

Doubt decided: a partition that shuts itself down (exit code 0) under ``on-failure`` is off, not failed: a partition may
power itself off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, Self

import structlog

from pvnet.core.errors import ConfigError, PvnetError, UnreachableError
from pvnet.runtime import reaper
from pvnet.runtime.broker import Broker
from pvnet.runtime.child import Child, exit_text, last_lines, spawn
from pvnet.runtime.lab_dir import LabDir, LabInfo, NodeInfo
from pvnet.runtime.log_files import LOG_BYTES, shorten
from pvnet.runtime.readiness import Readiness
from pvnet.runtime.supervisor_nodes import (
    ConflictError,
    Launch,
    Node,
    NodeSpec,
    OffMode,
    State,
    StillRunningError,
    SupervisorEvent,
    UnknownNodeError,
    dumped,
    node_info,
    node_specs,
    one_line,
)
from pvnet.runtime.topology import BRIDGE, BROKER, Topology
from pvnet.runtime.topology_base import Restart
from pvnet.transport.uri import BrokerUrl

__all__ = [
    "ConflictError",
    "Launch",
    "NodeSpec",
    "OffMode",
    "State",
    "StillRunningError",
    "Supervisor",
    "SupervisorEvent",
    "UnknownNodeError",
]

_WAVES: Final = ("hypervisor", "bridge", "mdev_host", "partition", "manager", "novalink")
"""In this order nodes start."""

_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0
_LOGS_S: Final = 5.0
"""How often it is looked whether a log has become long."""


Launcher = Callable[[NodeSpec, BrokerUrl], Launch]
ReadinessFactory = Callable[[BrokerUrl], Awaitable[Readiness]]


class Supervisor:
    """Runs one lab.  ``async with`` starts and stops it; :meth:`wait` lasts until somebody asks for the end.

    ``launcher`` says how a node is started and ``readiness`` how it is known to serve: the services and the broker's
    state topics in a real lab.  ``module``, if given, names the Python module of a node: it is started before its turn
    and waits for that (``Child.go``).  ``on_event`` hears of everything that happens, in order; ``on_state`` of each
    change of a node's state, by name, at once.  A node's log that has more than ``log_bytes`` is shortened, which is
    looked for every ``logs_s`` seconds (``runtime.log_files``).
    """

    def __init__(
        self,
        topology: Topology,
        *,
        launcher: Launcher,
        readiness: ReadinessFactory,
        module: Callable[[NodeSpec], tuple[str, ...]] | None = None,
        on_event: Callable[[SupervisorEvent], None] | None = None,
        on_state: Callable[[str], None] | None = None,
        base: Path | None = None,
        log_bytes: int = LOG_BYTES,
        logs_s: float = _LOGS_S,
    ) -> None:
        self.topology, self._dumped = topology, dumped(topology)
        self.directory = LabDir(topology.lab.name, base)
        self.broker = Broker(topology.broker, directory=self.directory.path, log=self.directory.log(BROKER))
        self.readiness: Readiness | None = None
        self._launcher = launcher
        self._module = module
        self._make_readiness = readiness
        self._on_event = on_event
        self._on_state = on_state
        self._log = structlog.get_logger().bind(node="supervisor")
        self._nodes = {spec.name: Node(spec) for spec in node_specs(topology)}
        self._broker_node = Node(NodeSpec(BROKER, "broker", Restart(policy="always")))
        self._log_bytes, self._logs_s = log_bytes, logs_s
        self._logs: asyncio.Task[None] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._state: Literal["starting", "running", "stopping"] = "starting"
        self._since = time.time()
        self._end = asyncio.Event()
        self._held = False
        self._hurry = False

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything that starts by itself; on any failure everything is shut down again.

        :raises ConfigError: a lab of this name is running, a port is in use, a node's settings are wrong, ...
        :raises UnreachableError: the broker or a node did not become ready; the text has the last lines of its log.
        """
        try:
            self.directory.acquire()
            self._held = True
            self._start_reaper()
            self._publish()
            self._prepare()
            self._logs = asyncio.get_running_loop().create_task(self._keep_logs_short(), name="logs")
            await self._start_broker()
            self.readiness = await self._make_readiness(self.broker.url)
            for wave in self._waves():
                await self._start_together([node for node in wave if node.spec.autostart])
            self._state = "running"
            self._publish()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Last until :meth:`request_stop`."""
        await self._end.wait()

    def request_stop(self) -> None:
        """Ask for the end; a second time: without waiting for anybody."""
        if self._end.is_set():
            self._hurry = True
            for node in [*self._nodes.values(), self._broker_node]:
                if node.child is not None:
                    node.child.signal(signal.SIGKILL)
        self._end.set()

    async def stop(self) -> None:
        """End all nodes in reverse order, then the broker; remove the lab's directory.  Idempotent."""
        self._end.set()
        if not self._held:
            return
        self._held = False
        self._state = "stopping"
        self._publish()
        prepared = [node.prepared for node in self._nodes.values() if node.prepared is not None]
        await asyncio.gather(*(child.kill() for child in prepared))
        for wave in reversed(list(self._waves())):
            await asyncio.gather(*(self._stop_node(node) for node in wave))
        if self.readiness is not None:
            await self.readiness.stop()
        await self._cancel_watcher(self._broker_node)
        await self.broker.stop(timeout=self._stop_timeout())
        self._stop_reaper()
        if self._logs is not None:
            self._logs.cancel()
            await asyncio.gather(self._logs, return_exceptions=True)
        self.directory.release()
        self._tell("supervisor", "stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # --- what others ask of it ---------------------------------------------------------------------------------------

    async def power_on(self, name: str) -> None:
        """Start a node's process and wait until it serves.

        :raises UnknownNodeError: there is no such node.
        :raises ConflictError: it is running, starting or stopping, or it was powered off while starting.
        :raises ConfigError: it ended because of its settings.
        :raises UnreachableError: it did not become ready.
        """
        node = self._node(name)
        if node.state not in {"off", "failed"}:
            raise ConflictError(f"{name} is {node.state}")
        self._refuse_when_stopping()
        node.ended.clear()
        await self._start_node(node)

    async def power_off(self, name: str, *, mode: OffMode = "normal", timeout: float | None = None) -> None:
        """End a node's process and wait until it is gone.

        ``immediate`` kills it, also when somebody else waits for it to end.  ``guest`` only asks; a process that has
        not ended after ``timeout`` seconds (default: as long as any node may take) goes on running.

        :raises UnknownNodeError: there is no such node.
        :raises ConflictError: it is off or stopping already; ``guest``: or it is still starting.
        :raises StillRunningError: ``guest``: it has not ended in time.
        """
        node = self._node(name)
        refused = {"normal": {"stopping"}, "guest": {"stopping", "starting"}, "immediate": set()}[mode]
        if node.state == "off" or node.state in refused:
            raise ConflictError(f"{name} is {node.state}")
        self._refuse_when_stopping()
        if mode == "guest" and node.state == "running":
            await self._ask_to_end(node, self._stop_timeout() if timeout is None else timeout)
        else:
            await self._stop_node(node, kill=mode == "immediate")

    def use_topology(self, topology: Topology) -> None:
        """Take another topology of the same lab: its new nodes are off; nodes that it has no more must be.

        :raises ConflictError: one of those is not off, or the lab is shutting down.  Nothing has changed then.
        """
        self._refuse_when_stopping()
        specs = {spec.name: spec for spec in node_specs(topology)}
        for name, node in self._nodes.items():
            if name in specs or name == BRIDGE:  # the bridge stays: somebody may make a switch again
                continue
            if node.state not in {"off", "failed"}:
                raise ConflictError(f"{name} is {node.state}")
        kept = {name: node for name, node in self._nodes.items() if name in specs or name == BRIDGE}
        self._nodes = {**{name: kept.get(name) or Node(spec) for name, spec in specs.items()}, **kept}
        self.topology, self._dumped = topology, dumped(topology)
        self._publish()

    def nodes(self) -> list[NodeInfo]:
        """Return every node with its state, the broker first when it is ours."""
        own = [self._broker_node] if self.broker.choice.kind != "url" else []
        return [node_info(node) for node in [*own, *self._nodes.values()]]

    def node(self, name: str) -> NodeInfo:
        """Return one node with its state.

        :raises UnknownNodeError: there is no such node.
        """
        return node_info(self._node(name))

    def state(self, name: str) -> State:
        """Return the state of one node.

        :raises UnknownNodeError: there is no such node.
        """
        return self._node(name).state

    def info(self) -> LabInfo:
        """Return what ``lab.json`` says."""
        return LabInfo(
            lab=self.topology.lab.name,
            pid=os.getpid(),
            state=self._state,
            broker=self.broker.url.text() if self._broker_node.state == "running" else "",
            broker_kind=self.broker.choice.kind,
            broker_reason=self.broker.choice.reason,
            since=self._since,
            nodes=self.nodes(),
            topology=self._dumped,
        )

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Start the processes of everything that starts by itself: they load, all at once, and wait for their turn."""
        for node in self._nodes.values():
            if node.spec.autostart and self._module is not None:
                name = node.spec.name
                program = self._module(node.spec)
                node.prepared = spawn(name, program, module=True, log=self.directory.log(name), stdin=None)
                self._reap(node.prepared)

    def _node(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            known = ", ".join(self._nodes)
            raise UnknownNodeError(f"no node {name!r} in lab {self.topology.lab.name}; there are: {known}") from None

    def _refuse_when_stopping(self) -> None:
        if self._state == "stopping":
            raise ConflictError(f"lab {self.topology.lab.name} is shutting down")

    def _waves(self) -> list[list[Node]]:
        """Nodes that may start together, in order."""
        nodes = self._nodes.values()
        return [[n for n in nodes if n.spec.role == role] for role in _WAVES]

    async def _start_together(self, nodes: list[Node]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for node in nodes:
                    group.create_task(self._start_wanted(node))
        except* PvnetError as failed:
            raise failed.exceptions[0] from None

    async def _start_wanted(self, node: Node) -> None:
        """Start a node of the topology, unless a client has decided otherwise meanwhile."""
        try:
            await self._start_node(node)
        except ConflictError as error:
            self._refuse_when_stopping()
            self._tell(node.spec.name, "not started", str(error))

    async def _start_node(self, node: Node) -> None:
        """Start the process, wait until it serves, then watch it."""
        await self._bring_up(node)
        self._watch_on(node)

    def _watch_on(self, node: Node) -> None:
        node.watcher = asyncio.get_running_loop().create_task(self._watch(node), name=f"watch {node.spec.name}")

    async def _bring_up(self, node: Node) -> None:
        """Start the process and wait until it serves.

        When it does not, it is gone:

        :raises ConflictError: somebody has powered it off meanwhile.

        or its state is failed:

        :raises ConfigError: it ended with that error's exit code; the text is its own.
        :raises UnreachableError: it ended otherwise, or stayed silent; the text has its last words.
        """
        spec = node.spec
        if spec.role == "broker":
            return await self._bring_up_broker(node)
        launch = self._launcher(spec, self.broker.url)
        born_after = time.time_ns()
        child, node.prepared = node.prepared, None
        if child is not None:
            child.go(launch.stdin)
        else:
            log = self.directory.log(spec.name)
            child = spawn(spec.name, launch.program, module=launch.module, log=log, stdin=launch.stdin)
            self._reap(child)
        node.child = child
        self._set(node, "starting")
        try:
            await self._wait_ready(node, child, born_after)
        except BaseException as error:
            await child.kill()
            if node.state == "starting":
                text = one_line(error) if isinstance(error, PvnetError) else "interrupted while starting"
                self._set(node, "failed", text)
            raise
        self._set(node, "running")
        return None

    async def _wait_ready(self, node: Node, child: Child, born_after: int) -> None:
        name, timeout = node.spec.name, self.topology.lab.ready_timeout_s
        assert self.readiness is not None
        ready = asyncio.ensure_future(self.readiness.wait_ready(name, born_after))
        waiting: set[asyncio.Future[None] | asyncio.Future[int]] = {ready, child.exited}
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not child.running:
                if node.state != "starting" or node.child is not child:
                    raise ConflictError(f"{name} was powered off while starting")
                if child.exited.result() == ConfigError.exit_code and (said := self._own_line(name)):
                    raise ConfigError(said)
                problem = f"{name} ended while starting ({exit_text(child.exited.result())})"
            elif ready.done():
                return ready.result()
            else:
                problem = f"{name} did not become ready within {timeout:g} s"
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        lines = "".join(f"\n  {line}" for line in last_lines(self.directory.log(name)))
        raise UnreachableError(problem + (f"; its last words:{lines}" if lines else ""))

    def _own_line(self, name: str) -> str:
        """Return the line with which a node said why it cannot start (``runtime.service``); empty if there is none.

        What it logged may stand around it.
        """
        lines = last_lines(self.directory.log(name), count=20)
        return next((line for line in reversed(lines) if line.startswith(f"{name}: ")), "")

    async def _watch(self, node: Node) -> None:
        """Wait for the end of a running node and do what its policy says, for as long as it is restarted."""
        policy = node.spec.restart.policy
        while node.child is not None:
            code = await node.child.wait()
            self._tell(node.spec.name, "ended", exit_text(code))
            if policy == "never" or (policy == "on-failure" and code == 0):
                self._set(node, "off" if code == 0 else "failed", exit_text(code))
                return
            if code:
                self._set(node, "failed", exit_text(code))
            if not await self._restart(node):
                return

    async def _restart(self, node: Node) -> bool:
        """Start an ended node again, with pauses, until it serves (True) or has ended too often."""
        policy = node.spec.restart
        while True:
            now = time.monotonic()
            node.ended.append(now)
            while node.ended[0] < now - policy.window_s:
                node.ended.popleft()
            if len(node.ended) > policy.max_restarts:
                text = f"given up after {policy.max_restarts} restarts within {policy.window_s:g} s"
                self._set(node, "failed", text)
                return False
            pause = min(_FIRST_PAUSE_S * 2 ** (len(node.ended) - 1), _LAST_PAUSE_S)
            self._set(node, "starting", f"restart in {pause:g} s")
            await asyncio.sleep(pause)
            node.restarts += 1
            try:
                await self._bring_up(node)
            except (ConfigError, UnreachableError) as error:
                self._tell(node.spec.name, "restart failed", str(error))
            else:
                return True

    async def _stop_node(self, node: Node, *, kill: bool = False) -> None:
        """End a node whatever it is doing; one that is stopping already is waited for as long, or killed."""
        if node.state == "off":
            return
        was_failed = node.state == "failed"
        if node.state != "stopping":
            self._set(node, "stopping")
            await self._cancel_watcher(node)
        child = node.child
        if child is not None and child.running:
            await (child.kill() if kill else child.stop(self._stop_timeout()))
        if node.state == "stopping" and node.child is child:  # else somebody else has ended it, too
            self._set(node, "off", "" if not was_failed else node.text)

    async def _ask_to_end(self, node: Node, timeout: float) -> None:
        """Ask a running node to end; when it has not after ``timeout`` seconds, it is running as before."""
        child = node.child
        assert child is not None
        self._set(node, "stopping")
        await self._cancel_watcher(node)
        child.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                await child.wait()
        except TimeoutError:
            if node.state == "stopping" and self._state != "stopping" and child.running:
                self._set(node, "running")
                self._watch_on(node)
            raise StillRunningError(f"{node.spec.name} did not shut down within {timeout:g} s") from None
        if node.state == "stopping" and node.child is child:
            self._set(node, "off")

    async def _cancel_watcher(self, node: Node) -> None:
        watcher, node.watcher = node.watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    def _stop_timeout(self) -> float:
        return 0.0 if self._hurry else self.topology.lab.stop_timeout_s

    # --- broker, reaper, reports -------------------------------------------------------------------------------------

    async def _start_broker(self) -> None:
        node = self._broker_node
        self._set(node, "starting")
        await self.broker.start(timeout=self.topology.lab.ready_timeout_s)
        node.child = self.broker.child
        if node.child is not None:
            self._reap(node.child)
            node.watcher = asyncio.get_running_loop().create_task(self._watch(node), name="watch broker")
        self._set(node, "running", self.broker.description)

    async def _bring_up_broker(self, node: Node) -> None:
        """Start our broker again at its old address: the nodes reconnect by themselves."""
        await self.broker.restart(timeout=self.topology.lab.ready_timeout_s)
        node.child = self.broker.child
        assert node.child is not None
        self._reap(node.child)
        self._set(node, "running", self.broker.description)

    async def _keep_logs_short(self) -> None:
        """Keep the nodes' logs from growing without end: the directory is often in memory."""
        failing: set[Path] = set()
        while True:
            await asyncio.sleep(self._logs_s)
            for log in self.directory.logs.glob("*.log"):
                try:
                    if log.stat().st_size > self._log_bytes:
                        shorten(log, self._log_bytes)  # milliseconds: it copies no more than that
                    failing.discard(log)
                except OSError as error:
                    if log not in failing:  # said once, or our own log grows by it
                        failing.add(log)
                        self._log.error("log_not_shortened", of=log.stem, error=str(error))

    def _start_reaper(self) -> None:
        arguments = [str(self.directory.lock_path), str(self.directory.path), str(os.getpid())]
        command = [sys.executable, "-I", "-S", reaper.__file__, *arguments]
        self._reaper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _tell_reaper(self, line: str) -> None:
        assert self._reaper is not None
        assert self._reaper.stdin is not None
        try:
            self._reaper.stdin.write(f"{line}\n".encode())
            self._reaper.stdin.flush()
        except BrokenPipeError:  # somebody killed it: the next `up` cleans what we might leave
            self._log.warning("reaper_gone")

    def _reap(self, child: Child) -> None:
        self._tell_reaper(f"{child.pid} {child.started}")

    def _stop_reaper(self) -> None:
        if self._reaper is not None:
            self._tell_reaper("done")
            assert self._reaper.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._reaper.stdin.close()
            self._reaper.wait()
            self._reaper = None

    def _set(self, node: Node, state: State, text: str = "") -> None:
        node.state, node.text, node.since = state, text, time.time()
        self._publish()
        if self._on_state is not None:
            self._on_state(node.spec.name)
        self._tell(node.spec.name, state, text)

    def _tell(self, node: str, what: str, text: str = "") -> None:
        self._log.debug(what.replace(" ", "_"), of=node, text=text)
        if self._on_event is not None:
            self._on_event(SupervisorEvent(node, what, text))

    def _publish(self) -> None:
        if self._reaper is not None:
            try:
                self.directory.write(self.info())
            except OSError as error:  # a full disk hides the news from `ps`; it must not stop the lab
                self._log.error("lab_file_not_written", error=str(error))
