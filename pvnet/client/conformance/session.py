"""A broker, and on it the process that holds what a recording is compared with.

The runner is synchronous and runs in a thread of its own; everything here happens on the event loop, for which the
runner waits call by call (:meth:`Remote.call`, :meth:`RemoteSession.wait`).  When the session ends while the runner
waits, the wait is cancelled, so the thread ends as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pvnet.capture.check import check_file
from pvnet.capture.report import Report
from pvnet.client.conformance.hosted import Hosted
from pvnet.client.conformance.hypervisor import RemoteCrqTarget, RemoteScmTarget
from pvnet.client.conformance.partition import RemotePartition
from pvnet.client.conformance.remote import Remote
from pvnet.core.errors import UnreachableError
from pvnet.runtime.broker import Broker
from pvnet.runtime.child import Child, exit_text, last_lines, spawn
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.log import quiet_by_default
from pvnet.runtime.service import NodeConfig, make_port
from pvnet.runtime.topology import BrokerConfig, LabConfig, Topology

T = TypeVar("T")
_BROKER_S: Final = 20.0
_READY_S: Final = 30.0
_PATH_S: Final = 10.0
_STOP_S: Final = 3.0


class RemoteSession:
    """See the module's text.  ``async with``; then :meth:`check`, from another thread."""

    def __init__(self, broker: BrokerConfig, *, unix: bool = False) -> None:
        """Messages take the broker; with ``unix`` they must take a unix socket, and only meet at the broker."""
        quiet_by_default()
        name = f"conformance-{os.getpid()}-{secrets.token_hex(2)}"
        self.topology = Topology(lab=LabConfig(name=name, log_level="warning", ready_timeout_s=_READY_S, unix=unix))
        self._unix = unix
        self._broker_config = broker
        self._stack = contextlib.AsyncExitStack()
        self._broker: Broker
        self._directory: Path
        self._loop: asyncio.AbstractEventLoop
        self._endpoint: Endpoint | None = None
        self._child: Child | None = None
        self._started = 0
        self._closed = False
        self._problem: UnreachableError | None = None
        """The end of our broker, or of the path that was asked for: nothing survives it."""
        self._waiting: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pvnet-conformance-")))
            log = self._directory / "broker.log"
            self._broker = Broker(self._broker_config, directory=self._directory, log=log)
            stack.push_async_callback(self._broker.stop)
            await self._broker.start(timeout=_BROKER_S)
            if self._broker.child is not None:
                self._broker.child.exited.add_done_callback(self._broker_ended)
            stack.push_async_callback(self._end)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        self._cancel()
        await self._stack.aclose()

    def _broker_ended(self, exited: asyncio.Future[int]) -> None:
        if not self._closed:
            self._problem = UnreachableError(f"the broker ended ({exit_text(exited.result())})")
            self._cancel()

    def _cancel(self) -> None:
        for task in self._waiting:
            task.cancel()

    def check(self, path: Path) -> Report:
        """Run one recording; not from the loop's thread.  Raises as :func:`~pvnet.capture.check.check_file`."""
        try:
            return check_file(
                path,
                make_machine=partial(RemotePartition, self),
                make_crq=partial(RemoteCrqTarget, self),
                make_scm=partial(RemoteScmTarget, self),
            )
        finally:
            with contextlib.suppress(CancelledError):
                self.wait(self._end())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` on the loop and wait for it, in the runner's thread.

        Raises:
            CancelledError: the session has ended.
            UnreachableError: its broker has ended.
        """
        return asyncio.run_coroutine_threadsafe(self._watched(coroutine), self._loop).result()

    async def _watched(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if (end := self._end_of_all()) is not None:
            coroutine.close()
            raise end
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            return await coroutine
        except asyncio.CancelledError:
            raise self._end_of_all() or asyncio.CancelledError from None
        finally:
            self._waiting.discard(task)

    def _path_changed(self, peer: str, is_direct: bool) -> None:
        if not is_direct and self._child is not None and self._child.running:
            self._problem = UnreachableError(f"the unix socket to {peer} broke")
            self._cancel()

    def _end_of_all(self) -> BaseException | None:
        """Why nothing goes on, if so."""
        return asyncio.CancelledError() if self._closed else self._problem

    def host(self, hosted: Hosted, *, us: str, them: str) -> Remote:
        """Start the process ``them`` with what is described, in place of the one before; we are the node ``us``."""
        return self.wait(self._host(hosted, us, them))

    async def _host(self, hosted: Hosted, us: str, them: str) -> Remote:
        await self._end()
        self._started += 1
        directory = self._directory / str(self._started)
        directory.mkdir()
        hosted.write(directory, them)
        lab, url, log = self.topology.lab.name, self._broker.url.text(), directory / "log"
        port = make_port(url, lab, us, unix=self._unix)
        endpoint = self._endpoint = Endpoint(port, lab=lab, name=us, role="recording")
        await endpoint.start()
        endpoint.ready()
        config = NodeConfig(node=them, broker=url, topology=self.topology, directory=str(directory))
        stdin = config.model_dump_json(by_alias=True).encode()
        child = self._child = spawn(
            them, ["pvnet_services.trace_host", "--config", "-"], module=True, log=log, stdin=stdin
        )
        ready = self._loop.create_task(endpoint.wait_peer(them, timeout=_READY_S))
        try:
            waiting: set[asyncio.Future[Any]] = {ready, child.exited}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not child.running:
                lines = "".join(f"\n  {line}" for line in last_lines(log, 3))
                raise UnreachableError(f"{them} ended at once ({exit_text(child.exited.result())}){lines}")
            await ready
            if self._unix and not await endpoint.settle_path(them, _PATH_S):
                raise UnreachableError(f"no direct path to {them} over a unix socket came about")
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        if self._unix:
            endpoint.on_path.append(self._path_changed)
        return Remote(endpoint, them, self.wait)

    async def _end(self) -> None:
        """End the process, and our place on the broker."""
        child, self._child = self._child, None
        endpoint, self._endpoint = self._endpoint, None
        try:
            if child is not None:
                await child.stop(_STOP_S)
        finally:
            if endpoint is not None:
                await endpoint.stop()
