"""The NovaLink service: REST for management software, over one session of the VMC like any management application.

Nothing here looks into other processes: what is shown and what is done goes through ``/dev/ibmvmc`` of the management
partition to the hypervisor.  A mirror of the platform answers reads; it is filled at the start of each session and kept
by the list of changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pvnet.client.keeper import SessionKeeper
from pvnet.client.session import VmcSession
from pvnet.core.errors import ConfigError, DeadlineError, PvnetError, UnavailableError
from pvnet.novalink import certs, passwords
from pvnet.novalink.api import PLATFORM_WAIT_S, Api
from pvnet.novalink.api_change import CHANGE_ROUTES
from pvnet.novalink.api_http import ApiError, NoPlatformError
from pvnet.novalink.api_logon import Keys, logon_routes
from pvnet.novalink.api_power import POWER_ROUTES
from pvnet.novalink.api_read import READ_ROUTES
from pvnet.novalink.mirror import Fetch
from pvnet.novalink.sessions import LogOns
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.endpoints import read_endpoints, write_endpoint
from pvnet.runtime.service import NodeConfig, run_service
from pvnet.runtime.topology_novalink import DEFAULT_USER

if TYPE_CHECKING:
    from pvnet_services.novalink_listen import HttpServer, Listener

_WATCH_MS: Final = 25_000
_WATCH_S: Final = 35.0
_READ_S: Final = 20.0
_COMMANDS_AT_ONCE: Final = 3
"""A session has few buffers, and each command that waits for its answer holds one; watching needs some, too."""
_LOOPBACK: Final = "127.0.0.1"
_SHUTDOWN_S: Final = 1.0
_PAUSES_MAX: Final = 64
_SWEEP_S: Final = 5.0
_RETRY_S: Final = 0.1
_RETRY_MAX_S: Final = 2.0


class NovalinkNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        topology = config.topology
        novalink, partition = topology.novalink, topology.management_partition
        assert novalink is not None, "the topology guarantees it"
        assert partition is not None, "the topology guarantees it"
        self.endpoint = endpoint
        self.config = novalink
        self.directory = Path(config.directory)
        lab = topology.lab
        self.keeper = SessionKeeper(endpoint, partition.name, novalink.hmc_id, timeout=lab.ready_timeout_s)
        log_ons = LogOns(most=novalink.max_sessions, idle_s=novalink.session_timeout_s)
        power_s = 10.0 + 2 * (lab.ready_timeout_s + lab.stop_timeout_s)
        self.api = Api(self, mode=novalink.mode, log_ons=log_ons, first=int(time.time() * 1000), power_s=power_s)
        self._commands = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self._pauses = 0
        self._close: list[Callable[[], Awaitable[None]]] = []
        self._counters: list[Callable[[], dict[str, object]]] = []
        endpoint.on("management", self._asked)  # before it starts: whoever sees our birth may call at once

    async def start(self) -> None:
        """Open the first session, fetch the platform, listen, and say where."""
        _needed()
        files = await asyncio.to_thread(certs.ensure, self.config, self.directory)
        lab_user = passwords.lab_user(self.directory) if self.config.secrets is None else None
        secrets = Path(self.config.secrets or "") if lab_user is None else lab_user.secrets_file
        users = await asyncio.to_thread(passwords.load_users, secrets)
        await self.keeper.start()
        self.endpoint.spawn(self._watch(), "mirror")
        if not await self.api.wait_mirror(lambda: self.api.current, self.keeper.timeout):
            raise DeadlineError(f"the platform has not told what it is within {self.keeper.timeout:g} s")
        https, http = await self._listen(files, users)
        value = {
            "url": https,
            "http": http,
            "ca": None if files.ca is None else str(files.ca),
            "user": DEFAULT_USER if lab_user is not None else None,
            "password_file": None if lab_user is None else str(lab_user.password_file),
        }
        write_endpoint(self.directory, "novalink", value)
        self.endpoint.ready(f"NovaLink at {https}" + (f" and {http}" if http else ""))

    async def _listen(self, files: certs.ServerFiles, users: passwords.Users) -> tuple[str, str | None]:
        from pvnet_services.novalink_http import Front
        from pvnet_services.novalink_keys import Keyring
        from pvnet_services.novalink_listen import HttpServer, Table

        keys = Keyring(users, self.directory / "novalink")
        for routes in (logon_routes(keys, self._pause), READ_ROUTES, POWER_ROUTES, CHANGE_ROUTES):
            self.api.add_routes(routes)
        front = Front(self.api.answer, mode=self.config.mode)
        table = Table(self.config.max_connections)
        table.on_full.append(self.api.end_polls)
        server = HttpServer(front.handle, front.error_answer, table)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(files.cert, files.key)
        earlier = _earlier_ports(self.directory)
        listeners = [self._listener(self.config.host, self.config.port, earlier.get("url"), server, context)]
        if self.config.http:
            listeners.append(self._listener(_LOOPBACK, self.config.http_port, earlier.get("http"), server, None))
        tasks = [self.endpoint.spawn(listener.run(), "listener") for listener in listeners]
        self.endpoint.spawn(self._sweep(keys), "sweep")

        async def close() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for listener in listeners:
                await listener.close()
            table.end_all()
            await server.shutdown(_SHUTDOWN_S)
            keys.close()

        self._close.append(close)
        self._counters.append(lambda: {"connections": len(table), "requests": front.requests, **table.counters})
        urls = [_url(scheme, *listener.address) for scheme, listener in zip(("https", "http"), listeners, strict=False)]
        return urls[0], urls[1] if len(urls) > 1 else None

    def _listener(
        self, host: str, port: int, earlier: int | None, server: HttpServer, tls: ssl.SSLContext | None
    ) -> Listener:
        """Listen; where any port will do, at the one that this lab's clients know already."""
        from pvnet_services.novalink_listen import Listener

        if port == 0 and earlier is not None:
            try:
                return Listener(host, earlier, server, tls)
            except ConfigError as error:
                self.endpoint.log.warning("port_lost", port=earlier, error=str(error), instead="another free port")
        return Listener(host, port, server, tls)

    async def stop(self) -> None:
        """Listen no more, close the session, leave."""
        for close in self._close:
            await close()
        await self.keeper.stop()
        await self.endpoint.stop()

    async def _pause(self, seconds: float) -> None:
        """Let somebody wait who has failed to log on; ApiError 503: too many wait."""
        if self._pauses >= _PAUSES_MAX:
            raise ApiError(503, "Too many log-ons have failed; try again later.", retry_after_s=int(seconds) + 1)
        self._pauses += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._pauses -= 1

    async def _sweep(self, keys: Keys) -> None:
        """Let go of what has expired, also when nobody asks for anything."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self.api.clock()
            keys.forget(self.api.log_ons.expire(now))
            self.api.events.expire(now)
            self.api.jobs.expire(int(self.api.wall_clock() * 1000))

    def _asked(self, envelope: Envelope) -> None:
        kind = envelope.management.WhichOneof("command")
        if kind != "show_status":
            self.endpoint.refuse(envelope, f"{self.endpoint.name} does not take {kind or 'an unknown command'}")
            return
        answer = ManagementReply(status_json=json.dumps(self._status()))
        self.endpoint.reply(envelope, Envelope(management_reply=answer))

    def _status(self) -> dict[str, object]:
        http: dict[str, object] = {}
        for counters in self._counters:
            http.update(counters())
        return {
            "sessions": self.keeper.opened,
            "connected": self.keeper.connected,
            "log_ons": len(self.api.log_ons),
            "event_queues": len(self.api.events),
            "events_kept": self.api.events.kept,
            "jobs": len(self.api.jobs),
            "http": http,
            "api": dict(self.api.counters),
            "tasks": self.endpoint.tasks,
            "session": dict(self.keeper.counters),
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }

    # --- the platform ----------------------------------------------------------------------------------------------

    async def run(self, command: Management, *, timeout: float) -> ManagementReply:
        """Run a command (``api.Platform``)."""
        try:
            async with self._commands:
                return await self.keeper.manage(command, timeout=timeout, wait=PLATFORM_WAIT_S)
        except PvnetError as error:
            raise NoPlatformError(f"The platform did not answer: {error}") from None

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something that outlives its request (``api.Platform``)."""
        return self.endpoint.spawn(work, name)

    async def _watch(self) -> None:
        """Keep the mirror, session after session."""
        wait = _RETRY_S
        while True:
            before = self.api.mirror.revision
            try:
                session = await self.keeper.session(PLATFORM_WAIT_S)
                await self._follow(session)
            except PvnetError as error:
                self.endpoint.log.warning("mirror_lost", error=str(error))
            self.api.lost()
            if self.api.mirror.revision != before:
                wait = _RETRY_S
            await asyncio.sleep(wait)
            wait = min(wait * 2, _RETRY_MAX_S)

    async def _follow(self, session: VmcSession) -> None:
        """Follow the platform for as long as the session lasts."""
        mirror = self.api.mirror
        if mirror.system is None:
            await self._fetch(session)
        wait_ms = 0  # what has happened while there was no session is known at once
        while True:
            batch = mirror.batch(await session.manage(mirror.watch_command(wait_ms), timeout=_WATCH_S))
            wait_ms = _WATCH_MS
            if batch.missed:
                await self._fetch(session)
                continue
            while (command := batch.next_command()) is not None:
                batch.take(await session.manage(command, timeout=_READ_S))
            happened = mirror.apply(batch)
            if batch.changes:
                self.api.show(happened)
            else:
                self.api.found()

    async def _fetch(self, session: VmcSession) -> None:
        fetch = Fetch()
        while (command := fetch.next_command()) is not None:
            fetch.take(await session.manage(command, timeout=_READ_S))
        self.api.show(self.api.mirror.restore(fetch))


def _needed() -> None:
    """Raise UnavailableError when the extra is not installed."""
    try:
        import aiohttp  # noqa: F401
        import argon2  # noqa: F401
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"[novalink] needs {error.name}: pip install 'pvnet[novalink]'") from None


def _earlier_ports(directory: Path) -> dict[str, int]:
    """Return where this lab's service listened before it was started again, by key of its endpoint."""
    earlier = read_endpoints(directory).get("novalink")
    ports: dict[str, int] = {}
    for key, address in earlier.items() if isinstance(earlier, dict) else ():
        if key in {"url", "http"} and isinstance(address, str):
            with contextlib.suppress(ValueError):  # none that this service has written
                ports[key] = urlsplit(address).port or 0
    return {key: port for key, port in ports.items() if port}


def _url(scheme: str, host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what is listened at, not by default
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"


def main() -> int:
    """Run the process."""
    with contextlib.suppress(ImportError):  # loaded while others load, too; what is missing is told when it starts
        import pvnet_services.novalink_http
        import pvnet_services.novalink_keys
        import pvnet_services.novalink_listen  # noqa: F401
    return run_service("novalink", NovalinkNode)


if __name__ == "__main__":
    sys.exit(main())
