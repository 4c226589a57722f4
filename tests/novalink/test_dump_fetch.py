"""Reading an endpoint that is not as it should be: one clear error, and never for longer than the deadline."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from pvnet.core.errors import ConfigError, PvnetError, RefusedError, UnreachableError
from pvnet.novalink import dump_fetch
from pvnet.novalink.atom import Resource, feed
from pvnet.novalink.dump_fetch import Access, fetch
from pvnet.novalink.markup import Element, serialize
from pvnet.novalink.names import UOM_NS, WEB_NS

TOKEN = serialize(Element(WEB_NS, "LogonResponse", children=(Element(WEB_NS, "X-API-Session", text="token"),)))
SYSTEMS = "/rest/api/uom/ManagedSystem"
Answer = tuple[int, bytes]


def system(name: str, number: int) -> Resource:
    identity = f"11111111-1111-4111-8111-{number:012x}"
    atom = Element(UOM_NS, "Atom", children=(Element(UOM_NS, "AtomID", text=identity),))
    children = (Element(UOM_NS, "Metadata", children=(atom,)), Element(UOM_NS, "SystemName", text=name))
    return Resource("ManagedSystem", identity, "1", SYSTEMS, Element(UOM_NS, "ManagedSystem", children=children))


class Endpoint:
    """A server whose answers a test sets; what is not set is 404."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {("PUT", "/rest/api/web/Logon"): (200, TOKEN)}
        self.asked: list[tuple[str, str, str | None]] = []
        self.silent = threading.Event()
        self.keep = True
        self.pause_s = 0.0
        self.drip: bytes | None = None
        """What an answer begins with; then comes a byte now and then, for ever."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
                pass

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, self.headers.get("X-API-Session")))
                if outer.silent.is_set():
                    self.close_connection = True
                    done.wait(30)
                    return
                if outer.drip is not None:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.wfile.write(outer.drip)
                        while not done.wait(0.02):
                            self.wfile.write(b"x")
                    return
                done.wait(outer.pause_s)
                status, body = outer.answers.get((self.command, self.path), (404, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = not outer.keep  # without saying so

            do_GET = do_PUT = do_DELETE = answer  # noqa: N815 - as the base class wants them

        self.done = done = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def systems(self, *resources: Resource) -> None:
        self.answers["GET", SYSTEMS] = (200, feed("ManagedSystem", resources, self.url))

    def close(self) -> None:
        self.done.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


def read(endpoint: Endpoint, *arguments: Any, **more: Any) -> Any:
    return fetch(Access(endpoint.url, "ann", "secret", **more), *arguments)


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_not_known_there_is_nothing_and_the_log_on_ends(endpoint: Endpoint, keep: bool) -> None:
    endpoint.keep = keep
    endpoint.systems(system("one", 1))
    found = read(endpoint)
    assert (found.name, found.partitions, found.switches, found.servers, found.mode) == ("one", (), (), (), "hmc")
    assert endpoint.asked[-1] == ("DELETE", "/rest/api/web/Logon", "token")
    assert {method for method, _, _ in endpoint.asked[1:-1]} == {"GET"}
    assert {token for _, _, token in endpoint.asked[1:]} == {"token"}


def test_one_of_several_systems_has_to_be_named(endpoint: Endpoint) -> None:
    endpoint.systems(system("one", 1), system("two", 2))
    with pytest.raises(ConfigError, match=r"several systems: one \(1111.*, two \(.*expected --system"):
        read(endpoint)
    assert read(endpoint, "two").name == "two"
    assert read(endpoint, "11111111-1111-4111-8111-000000000001").name == "one"
    with pytest.raises(ConfigError, match="no system of that name"):
        read(endpoint, "three")
    assert endpoint.asked[-1][0] == "DELETE"


ERROR = serialize(
    Element(
        WEB_NS,
        "HttpErrorResponse",
        children=(Element(WEB_NS, "HTTPStatus", text="500"), Element(WEB_NS, "Message", text="the disk\nis full")),
    )
)


@pytest.mark.parametrize(
    ("method", "path", "answer", "said"),
    [
        ("PUT", "/rest/api/web/Logon", (401, b""), "wrong user or password .user ann"),
        ("PUT", "/rest/api/web/Logon", (200, b"<a/>"), "no X-API-Session"),
        ("PUT", "/rest/api/web/Logon", (200, TOKEN.replace(b"token", b"a&#10;X: b")), "no X-API-Session"),
        ("PUT", "/rest/api/web/Logon", (200, b"not XML"), "the answer is no document: line 1"),
        ("PUT", "/rest/api/web/Logon", (302, b""), "log-on: status 302"),
        ("GET", SYSTEMS, (500, ERROR), "GET /rest/api/uom/ManagedSystem: status 500: the disk$"),
        ("GET", SYSTEMS, (500, b"\xff\xfe"), "status 500$"),
        ("GET", SYSTEMS, (204, b""), "manages no system"),
        ("GET", SYSTEMS, (200, b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), "the answer is no document"),
    ],
)
def test_answers_that_cannot_be_used(endpoint: Endpoint, method: str, path: str, answer: Answer, said: str) -> None:
    endpoint.answers[method, path] = answer
    with pytest.raises(RefusedError, match=said) as caught:
        read(endpoint)
    assert "secret" not in str(caught.value)


def test_an_answer_without_end_is_cut(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_fetch, "_ANSWER_MAX", 1 << 20)
    endpoint.answers["GET", SYSTEMS] = (200, b"x" * ((1 << 20) + 1))
    with pytest.raises(RefusedError, match="more than 1 MiB"):
        read(endpoint)


def test_silence_ends_at_the_deadline(endpoint: Endpoint) -> None:
    endpoint.silent.set()
    with pytest.raises(UnreachableError, match=r"no whole answer within 0\.2 s"):
        read(endpoint, timeout_s=0.2)


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]
)
def test_an_answer_that_drips_ends_at_the_deadline(endpoint: Endpoint, begin: bytes) -> None:
    endpoint.drip = begin
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no whole answer within 0\.3 s"):
        read(endpoint, timeout_s=0.3)
    assert time.monotonic() - began < 10


def test_all_answers_together_have_a_deadline(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_fetch, "WHOLE", 2)
    endpoint.systems(system("one", 1))
    endpoint.pause_s = 0.4
    with pytest.raises(UnreachableError, match=r"not everything was read within 1 s; expected .* longer --timeout"):
        read(endpoint, timeout_s=0.5)


def test_tls_with_a_ca_of_ones_own(endpoint: Endpoint, tmp_path: Path) -> None:
    """What is known of the certificate, and the deadline, is the same over TLS."""
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    endpoint.server.socket = context.wrap_socket(endpoint.server.socket, server_side=True)
    endpoint.url = f"https://localhost:{endpoint.server.server_address[1]}"
    endpoint.systems(system("one", 1))
    with pytest.raises(UnreachableError, match=r"certificate is not trusted .*--ca FILE"):
        read(endpoint)
    assert read(endpoint, ca=ca).name == read(endpoint, insecure=True).name == "one"
    endpoint.drip = b"HTTP/1.1 200 OK\r\nX: "
    with pytest.raises(UnreachableError, match=r"no whole answer within 0\.3 s"):
        read(endpoint, ca=ca, timeout_s=0.3)


@pytest.mark.parametrize("url", ["", "host", "https://", "https://a b", "https://u@h", "https://h:x", "https://h?x"])
def test_addresses_that_cannot_be_one(url: str) -> None:
    with pytest.raises(PvnetError):
        fetch(Access(url, "ann", "secret", timeout_s=0.2))
