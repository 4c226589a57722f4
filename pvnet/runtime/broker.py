"""Choose the lab's broker and run it.

``auto`` takes mosquitto when it is installed, because it is an order of magnitude faster, else the embedded amqtt, so
that ``pip install`` alone is enough.  Both listen on loopback only, with a user and a random password made for this
lab: other users of the machine are not in it.  A broker of somebody else (``mqtt://``, ``mqtts://``) is asked once
whether it takes us.

Readiness is seen by connecting, with a wait that grows from 1 to 50 ms and ends at once when the broker's process does.
The port is the lab's to choose: a free one may be taken by another program before the broker has it; then another is
tried.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pvnet.core.errors import ConfigError, PvnetError, UnreachableError
from pvnet.runtime.broker_probe import probe
from pvnet.runtime.child import Child, exit_text, last_lines, spawn
from pvnet.runtime.topology import BROKER, BrokerConfig
from pvnet.transport.uri import BrokerUrl

Kind = Literal["mosquitto", "embedded", "url"]

LOOPBACK: Final = "127.0.0.1"
_USER: Final = "pvnet"
_DAEMON_DIRECTORIES: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_PORT_ATTEMPTS: Final = 5
_HASH_ROUNDS: Final = 101
"""What mosquitto_passwd uses; the password has 128 random bits, so more rounds would protect nothing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which broker it will be, and why, in words for the user."""

    kind: Kind
    reason: str
    program: str | None = None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Have mosquitto speak TLS: PEM files of its certificate chain, its key, and the CA that clients trust."""

    certificate: Path
    key: Path
    ca: Path


def find_mosquitto() -> str | None:
    """Path of mosquitto, looked for on PATH and where daemons are."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_DAEMON_DIRECTORIES])
    return shutil.which("mosquitto", path=path)


def choose(use: str) -> Choice:
    """Decide between mosquitto, embedded and an address.

    :raises ConfigError: what was asked for is not installed, or is none of them.
    """
    if "://" in use:
        return Choice("url", "its address was given")
    mosquitto = find_mosquitto()
    embedded = importlib.util.find_spec("amqtt") is not None
    match use:
        case "mosquitto" | "auto" if mosquitto is not None:
            why = "it was asked for" if use == "mosquitto" else f"found at {mosquitto}"
            return Choice("mosquitto", why, mosquitto)
        case "mosquitto":
            raise ConfigError("broker mosquitto is not installed: apt install mosquitto, or use --broker embedded")
        case "embedded" | "auto" if embedded:
            return Choice("embedded", "it was asked for" if use == "embedded" else "mosquitto is not installed")
        case "embedded":
            raise ConfigError("the embedded broker is not installed: pip install 'pvnet[broker]'")
        case "auto":
            raise ConfigError(
                "no broker: mosquitto is not installed (apt install mosquitto), "
                "nor is the embedded one (pip install 'pvnet[broker]')"
            )
    raise ConfigError(f"broker {use!r}: expected auto, embedded, mosquitto, mqtt://... or mqtts://...")


class Broker:
    """The lab's broker: a child process of ours, or somebody else's.

    ``directory`` receives its configuration, ``log`` its output.  After :meth:`start`, ``url`` is how to reach it.
    """

    def __init__(self, config: BrokerConfig, *, directory: Path, log: Path, tls: TlsFiles | None = None) -> None:
        self.choice = choose(config.use)
        self.child: Child | None = None
        self._config = config
        self._directory = directory
        self._log = log
        self._tls = tls
        self._url: BrokerUrl | None = None

    @property
    def url(self) -> BrokerUrl:
        """Address, user and password; only after :meth:`start`."""
        assert self._url is not None, "start() first"
        return self._url

    @property
    def description(self) -> str:
        """One line for the user: which broker and why."""
        at = f" at {self._url.redacted()}" if self._url is not None else ""
        return f"{self.choice.kind if self.choice.kind != 'url' else 'broker'}{at} ({self.choice.reason})"

    async def start(self, *, timeout: float) -> None:
        """Start it (or only ask it, when it is somebody else's) and wait until it serves us.

        :raises ConfigError: the wanted port is in use, or credentials are refused.
        :raises UnreachableError: it ends at once, does not answer within ``timeout`` seconds, or cannot be reached.
        """
        if self.choice.kind == "url":
            config = self._config
            self._url = BrokerUrl.parse(
                config.use, ca_file=config.ca_file, username=config.username, password=config.password
            )
            await probe(self._url, timeout=timeout)
            return
        wanted = self._config.port
        if wanted and not port_is_free(wanted):
            raise ConfigError(f"broker port {wanted} is in use on {LOOPBACK}: choose another, or 0 for a free one")
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._url = self._address(wanted or free_port())
            try:
                await self._launch(timeout)
            except UnreachableError:
                if wanted or attempt == _PORT_ATTEMPTS or port_is_free(self._url.port):
                    raise  # not a port snatched by another program
            else:
                return

    async def restart(self, *, timeout: float = 10.0) -> None:
        """Start it again at the same address, after it ended or was killed."""
        assert self.child is not None, "only a broker of our own"
        assert not self.child.running
        await self._launch(timeout)

    async def stop(self, *, timeout: float = 3.0) -> None:
        """End our broker; somebody else's is left alone.  Idempotent."""
        if self.child is not None:
            await self.child.stop(timeout)

    async def kill(self) -> None:
        """End our broker at once, as a crash would."""
        assert self.child is not None, "only a broker of our own"
        await self.child.kill()

    def _address(self, port: int) -> BrokerUrl:
        ca = str(self._tls.ca) if self._tls is not None else None
        return BrokerUrl(
            "localhost" if ca else LOOPBACK,  # certificates are made for names
            port,
            tls=ca is not None,
            ca_file=ca,
            username=_USER,
            password=secrets.token_urlsafe(16),
        )

    async def _launch(self, timeout: float) -> None:
        url = self.url
        if self.choice.kind == "mosquitto":
            assert self.choice.program is not None
            config = self._write("mosquitto.conf", "\n".join(self._mosquitto_lines()) + "\n")
            self.child = spawn(BROKER, [self.choice.program, "-c", str(config)], log=self._log)
        else:
            settings = {"host": url.host, "port": url.port, "username": url.username, "password": url.password}
            config = self._write("embedded.json", json.dumps(settings))
            self.child = spawn(BROKER, ["pvnet_services.broker", "--config", str(config)], module=True, log=self._log)
        try:
            await self._wait_serving(self.child, timeout)
        except BaseException:
            await self.child.kill()
            raise

    async def _wait_serving(self, child: Child, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause, problem = loop.time() + timeout, 0.001, "no answer"
        while (left := deadline - loop.time()) > 0:
            attempt = loop.create_task(probe(self.url, timeout=left))
            waiting: set[asyncio.Future[Any]] = {child.exited, attempt}
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if child.running:
                    await attempt
                    return
            except PvnetError as error:
                problem = str(error)
                await asyncio.wait([child.exited], timeout=min(pause, left))
            finally:  # also when we are cancelled: nobody else would look at how it ended
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)
            if not child.running:
                lines = "".join(f"\n  {line}" for line in last_lines(self._log, 3))
                raise UnreachableError(f"{self.choice.kind} ended at once ({exit_text(child.exited.result())}){lines}")
            pause = min(pause * 2, 0.05)
        raise UnreachableError(f"{self.choice.kind} does not serve after {timeout:g} s: {problem}")

    def _mosquitto_lines(self) -> Iterator[str]:
        """Configuration for mosquitto 2.x.  The defaults of mosquitto lose QoS 1 messages silently."""
        url = self.url
        assert url.username is not None
        assert url.password is not None
        passwords = self._write("mosquitto.passwd", _password_line(url.username, url.password) + "\n")
        yield f"listener {url.port} {LOOPBACK}"
        yield "allow_anonymous false"
        yield f"password_file {passwords}"
        yield "set_tcp_nodelay true"  # 88 ms instead of 0.3 ms per round trip without it
        yield "max_queued_messages 1000000"  # 1000 by default, the rest is dropped without a word; 0 has had bugs
        yield "max_inflight_messages 1000"
        yield "persistence false"
        yield "log_dest stderr"
        yield "log_type error"
        yield "log_type warning"
        yield "log_type notice"
        yield "connection_messages false"
        if os.geteuid() == 0:
            yield "user root"  # it would become user mosquitto, who cannot read our directory
        if self._tls is not None:
            yield f"certfile {self._tls.certificate}"
            yield f"keyfile {self._tls.key}"

    def _write(self, name: str, text: str) -> Path:
        """Write a file that only we may read, in one step."""
        path = self._directory / name
        new = path.with_suffix(path.suffix + ".new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - mode
            file.write(text)
        new.replace(path)
        return path


def _password_line(user: str, password: str) -> str:
    """One line of mosquitto's password file: ``user:$7$rounds$salt$hash``, PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS)
    return f"{user}:$7${_HASH_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on a loopback port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
    return port
