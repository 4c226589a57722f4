"""Read a living endpoint: log on, GET what there is, log off.  Nothing is changed there.

Blocking, for a command: one request at a time over one connection.  Answers are bounded, in bytes and in time: an
answer has a deadline however it trickles in, and so has the whole.  What an endpoint does not have (404, 204) is an
empty list.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlsplit

from pvnet.core.errors import ConfigError, RefusedError, UnreachableError
from pvnet.novalink.dump import Found, FoundPartition
from pvnet.novalink.markup import Element, MarkupError, parse, serialize
from pvnet.novalink.names import (
    ATOM_NS,
    ATOM_TYPE,
    CLIENT_NETWORK_ADAPTER,
    HTTP_ERROR,
    LOGICAL_PARTITION,
    LOGON_REQUEST,
    LOGON_RESPONSE,
    MANAGED_SYSTEM,
    PERSISTENT_MEMORY_VOLUME,
    UOM_ROOT,
    VIRTUAL_IO_SERVER,
    VIRTUAL_SWITCH,
    WEB_NS,
    WEB_ROOT,
    web_type,
)

_ANSWER_MAX: Final = 64 << 20
"""Most bytes of one answer: a thousand partitions of a real machine."""
_ELEMENTS_MAX: Final = 2_000_000
WHOLE: Final = 20
"""How many times the wait for one answer all of them together may take."""
_LOG_OFF_S: Final = 5.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Access:
    """Where and as whom."""

    url: str
    """``https://HOST[:PORT]``, or ``http`` on this machine."""
    user: str
    password: str
    ca: Path | None = None
    """CA of its certificate, beside those that the system trusts."""
    insecure: bool = False
    """Take any certificate."""
    timeout_s: float = 60.0
    """Longest wait for the whole of one answer; all of them together get :data:`WHOLE` times as long."""


def fetch(access: Access, system: str | None = None) -> Found:
    """Return what the endpoint says of a system (by name or UUID; None: of the only one).

    Raises:
        ConfigError: the address cannot be one, the CA cannot be read, or several systems are there and none was named.
        UnreachableError: nobody answers in time, or nobody whose certificate is trusted.
        RefusedError: the log-on or a request was refused, or an answer is not what it should be.
    """
    with _logged_on(access) as client:
        chosen = _chosen(client.feed(f"{UOM_ROOT}/{MANAGED_SYSTEM}"), system)
        uuid = _uuid(chosen)
        below = f"{UOM_ROOT}/{MANAGED_SYSTEM}/{quote(uuid)}"
        partitions = []
        for content in client.feed(f"{below}/{LOGICAL_PARTITION}"):
            path = f"{UOM_ROOT}/{LOGICAL_PARTITION}/{quote(_uuid(content))}"
            adapters = client.feed(f"{path}/{CLIENT_NETWORK_ADAPTER}")
            volumes = client.feed(f"{path}/{PERSISTENT_MEMORY_VOLUME}")
            partitions.append(FoundPartition(content, tuple(adapters), tuple(volumes)))
        return Found(
            mode="hmc" if client.kind.upper() == "HMC" else "pvm",
            system=chosen,
            partitions=tuple(partitions),
            switches=tuple(client.feed(f"{below}/{VIRTUAL_SWITCH}")),
            servers=tuple(client.feed(f"{below}/{VIRTUAL_IO_SERVER}")),
        )


def _chosen(systems: list[Element], wanted: str | None) -> Element:
    if wanted is not None:
        systems = [s for s in systems if wanted == s.value("SystemName") or wanted.lower() == _uuid(s).lower()]
        if not systems:
            raise ConfigError(f"--system {wanted!r}: no system of that name or UUID there")
    if not systems:
        raise RefusedError("the endpoint manages no system")
    if len(systems) > 1:
        names = ", ".join(f"{s.value('SystemName')} ({_uuid(s)})" for s in systems[:20])
        raise ConfigError(f"several systems: {names}; expected --system with the name or UUID of one")
    return systems[0]


def _uuid(content: Element) -> str:
    found = content.value("Metadata", "Atom", "AtomID")
    if not found:
        raise RefusedError(f"a {content.name} without AtomID in its Metadata")
    return found


@contextlib.contextmanager
def _logged_on(access: Access) -> Iterator[_Client]:
    client = _Client(access)
    try:
        client.log_on()
        try:
            yield client
        finally:
            client.log_off()
    finally:
        client.close()


class _Client:
    def __init__(self, access: Access) -> None:
        self._access = access
        self._connection = _connect(access)
        self._until = time.monotonic() + WHOLE * access.timeout_s
        self._token = ""
        self.kind = ""
        """X-MC-Type of the answer to the log-on."""

    def log_on(self) -> None:
        request = Element(
            WEB_NS,
            LOGON_REQUEST,
            {"schemaVersion": "V1_0"},
            children=(
                Element(WEB_NS, "Metadata", children=(Element(WEB_NS, "Atom"),)),
                Element(WEB_NS, "UserID", text=self._access.user),
                Element(WEB_NS, "Password", text=self._access.password),
            ),
        )
        headers = {"Content-Type": web_type(LOGON_REQUEST), "Accept": web_type(LOGON_RESPONSE)}
        status, body = self._exchange("PUT", f"{WEB_ROOT}/Logon", headers, serialize(request))
        if status == http.client.UNAUTHORIZED:
            raise RefusedError(f"{self._access.url}: wrong user or password (user {self._access.user})")
        if status != http.client.OK:
            raise self._refused("log-on", status, body)
        token = _parsed("log-on", body).value("X-API-Session")
        if not token or not token.isascii() or not token.isprintable():
            raise RefusedError(f"{self._access.url}: no X-API-Session in the answer to the log-on")
        self._token = token

    def log_off(self) -> None:
        """End the session; it would expire by itself, so a server that is gone is no error."""
        self._until = time.monotonic() + _LOG_OFF_S
        with contextlib.suppress(UnreachableError, RefusedError):
            self._exchange("DELETE", f"{WEB_ROOT}/Logon", {}, None)

    def feed(self, path: str) -> list[Element]:
        """Return the resources of a feed; of an endpoint that does not know it, none."""
        status, body = self._exchange("GET", path, {"Accept": ATOM_TYPE}, None)
        if status in {http.client.NO_CONTENT, http.client.NOT_FOUND}:
            return []
        if status != http.client.OK:
            raise self._refused(f"GET {path}", status, body)
        found = []
        root = _parsed(path, body)
        entries = [root] if root.name == "entry" else [e for e in root.children if e.name == "entry"]
        for entry in entries:
            content = next((e for e in entry.children if (e.namespace, e.name) == (ATOM_NS, "content")), None)
            if content is not None and content.children:
                found.append(content.children[0])
        return found

    def close(self) -> None:
        self._connection.close()

    def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        if self._token:
            headers = {**headers, "X-API-Session": self._token}
        headers = {**headers, "X-Audit-Memento": "pvnet dump"}
        url, timeout = self._access.url, self._access.timeout_s
        answer_until = time.monotonic() + timeout
        self._connection.until = min(answer_until, self._until)
        try:
            try:
                self._connection.request(method, path, body, headers)
                answer = self._connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()  # it does not keep connections, or not for so long
                self._connection.request(method, path, body, headers)
                answer = self._connection.getresponse()
            content = answer.read(_ANSWER_MAX + 1)
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not trusted ({error.verify_message})"
            raise UnreachableError(f"{url}: {why}; expected --ca FILE, or --insecure") from None
        except TimeoutError:
            if self._until < answer_until:
                whole = f"{WHOLE * timeout:g} s; expected faster answers, or a longer --timeout"
                raise UnreachableError(f"{url}: not everything was read within {whole}") from None
            raise UnreachableError(f"{url}: no whole answer within {timeout:g} s") from None
        except OSError as error:
            raise UnreachableError(f"{url}: {error.strerror or error}") from None
        except http.client.HTTPException as error:
            raise RefusedError(f"{url}: no HTTP as expected ({type(error).__name__})") from None
        if len(content) > _ANSWER_MAX:
            raise RefusedError(f"{url}{path}: more than {_ANSWER_MAX >> 20} MiB; expected less")
        self.kind = answer.getheader("X-MC-Type") or self.kind or "HMC"
        return answer.status, content

    def _refused(self, what: str, status: int, body: bytes) -> RefusedError:
        text = ""
        with contextlib.suppress(RefusedError):
            found = (e for e in _parsed(what, body).walk() if e.name == HTTP_ERROR)
            text = next((e.value("Message") or "" for e in found), "")
        shown = f": {text.splitlines()[0][:300]}" if text.strip() else ""
        return RefusedError(f"{self._access.url}: {what}: status {status}{shown}")


def _parsed(what: str, body: bytes) -> Element:
    try:
        return parse(body, size_max=_ANSWER_MAX, elements_max=_ELEMENTS_MAX)
    except MarkupError as error:
        raise RefusedError(f"{what}: the answer is no document: {error}") from None


def _connect(access: Access) -> _Connection:
    parts = _split(access.url)
    assert parts.hostname is not None
    if parts.scheme == "http":
        if parts.hostname not in _LOOPBACK and not access.insecure:
            raise ConfigError(f"{access.url}: the password would be sent in the clear; expected https, or --insecure")
        return _Connection(parts.hostname, parts.port or http.client.HTTP_PORT, None)
    context = ssl.create_default_context()
    if access.ca is not None:
        try:
            context.load_verify_locations(access.ca)
        except OSError as error:
            raise ConfigError(f"{access.ca}: {error.strerror or error}; expected the PEM file of a CA") from None
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return _Connection(parts.hostname, parts.port or http.client.HTTPS_PORT, context)


class _Connection(http.client.HTTPConnection):
    """A connection whose every wait ends at ``until``, a time of the monotonic clock; looking up the name apart.

    The timeout of the standard one is a wait for the next bytes, so that a server that sends one now and then holds a
    program for ever.
    """

    until = 0.0

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port)
        self._context = context
        self.default_port = http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT
        self.response_class: Any = self._response

    def left(self) -> float:
        """Return how long there is still to wait.

        Raises:
            TimeoutError: no more.
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def connect(self) -> None:
        """Connect to the first address that answers; TLS if there is a context."""
        failure: OSError = ConnectionRefusedError()
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(self.left())
                made.connect(address)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.settimeout(self.left())
                self.sock = (
                    made if self._context is None else self._context.wrap_socket(made, server_hostname=self.host)
                )
            except ssl.SSLError:
                made.close()
                raise
            except OSError as error:
                made.close()
                failure = error
            else:
                return
        raise failure

    def send(self, data: Any) -> None:
        """Send all of it; so little that it is one piece."""
        if self.sock is not None:
            self.sock.settimeout(self.left())
        super().send(data)

    def _response(self, sock: socket.socket, **more: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Timed(sock, self), **more)  # type: ignore[arg-type]  # it uses makefile alone


class _Timed:
    """What a response reads from, as a socket."""

    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        self._sock = sock
        self._connection = connection

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that a response makes of its socket."""
        return io.BufferedReader(_TimedReader(self._sock, self._connection))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open while it is read
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._connection.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        port_is_one, parts = False, urlsplit("")
    whole = parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username) and url.isprintable()
    if parts.scheme not in {"https", "http"} or not parts.hostname or " " in url or not port_is_one or not whole:
        raise ConfigError(f"{url!r}: expected https://HOST[:PORT]")
    return parts
