"""The listener of the NovaLink service: bad input, too much of it, too slow, and connections without end."""

import asyncio
import os
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme
from novalink_rig import UOM, Service

from pvnet_services import novalink_http, novalink_listen
from pvnet_services.novalink_http import Front
from pvnet_services.novalink_keys import uid_of
from pvnet_services.novalink_listen import HttpServer, Listener, Table

XML = "Content-Type: application/xml\r\n"
CA = trustme.CA()


class Listening:
    def __init__(self, service, table, listener):
        self.service = service
        self.table = table
        self.port = listener.address[1]

    async def send(self, data, *, tls=None):
        """What comes back until the other side closes, for these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        writer.write(data)
        try:
            async with asyncio.timeout(30):
                return (await reader.read()).decode("latin-1")
        finally:
            writer.close()

    async def ask(self, method, path, *, body=b"", headers="", tls=None):
        head = f"{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nX-API-Session: {self.service.token}\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return await self.send(f"{head}{headers}{length}\r\n".encode() + body, tls=tls)


@asynccontextmanager
async def listening(*, most=64, tls=None):
    async with Service() as service:
        front, table = Front(service.api.answer, mode="pvm"), Table(most)
        table.on_full.append(service.api.end_polls)
        server = HttpServer(front.handle, front.error_answer, table)
        listener = Listener("127.0.0.1", 0, server, tls)
        accepting = asyncio.get_running_loop().create_task(listener.run())
        try:
            yield Listening(service, table, listener)
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await listener.close()
            table.end_all()
            await server.shutdown(1.0)


def server_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    return context


def client_tls():
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def reached(condition):
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to this")


async def test_an_answer_has_what_clients_look_for():
    async with listening(tls=server_tls()) as there:
        answer = await there.ask("GET", f"{UOM}/LogicalPartition", tls=client_tls())
        head, _, body = answer.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "X-MC-Type: PVM" in head
        assert "Content-Type: application/atom+xml; charset=UTF-8" in head
        assert 'href="https://lab/rest/api/uom/LogicalPartition' in body
        empty = await there.ask("GET", f"{UOM}/VirtualIOServer", tls=client_tls())
        assert empty.startswith("HTTP/1.1 204")
        assert empty.endswith("\r\n\r\n")


@pytest.mark.parametrize(
    ("status", "method", "path", "headers", "body"),
    [
        (415, "PUT", f"{UOM}/LogicalPartition", "Content-Type: image/png\r\n", b"x"),
        (415, "PUT", f"{UOM}/LogicalPartition", "", b"x"),
        (415, "PUT", f"{UOM}/LogicalPartition", f"{XML}Content-Encoding: gzip\r\n", b"x"),
        (400, "PUT", f"{UOM}/LogicalPartition", XML, b"<a"),
        (400, "PUT", f"{UOM}/LogicalPartition", XML, b'<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>'),
        (400, "PUT", f"{UOM}/LogicalPartition", XML, b"<a>" * 10_000),
        (400, "PUT", f"{UOM}/LogicalPartition", XML, bytes(range(256))),
        (413, "PUT", f"{UOM}/LogicalPartition", XML, b"x" * ((1 << 20) + 1)),
        (404, "GET", f"{UOM}/NoSuchThing", "", b""),
        (405, "PATCH", f"{UOM}/LogicalPartition", "", b""),
        (400, "GET", f"{UOM}/LogicalPartition", "X: y\r\n" * 200, b""),
        (400, "GET", f"{UOM}/" + "x" * 9000, "", b""),
        (400, "GET", f"{UOM}/LogicalPartition", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b""),
    ],
)
async def test_every_error_is_a_document(status, method, path, headers, body):
    async with listening() as there:
        answer = await there.ask(method, path, headers=headers, body=body)
        assert f" {status} " in answer.partition("\r\n")[0]
        assert "<HttpErrorResponse:" in answer
        assert f"<HTTPStatus>{status}<" in answer
        assert "X-MC-Type: PVM" in answer
        assert there.service.platform.commands == []
        assert " 200 " in (await there.ask("GET", f"{UOM}/LogicalPartition")).partition("\r\n")[0]


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n\r\n", b"garbage\r\n\r\n", b"\x16\x03\x01\x00\xff" * 40 + b"\r\n\r\n", b"GET\r\n\r\n"]
)
async def test_what_is_no_request_is_answered_and_closed(data, monkeypatch):
    monkeypatch.setattr(novalink_listen, "HEAD_S", 0.3)
    async with listening() as there:
        answer = await there.send(data)
        assert answer == "" or answer.startswith(("HTTP/1.0 400", "HTTP/1.1 400"))
        await reached(lambda: len(there.table) == 0)


@pytest.mark.parametrize("where", ["path", "query", "host", "token", "memento", "etag", "type"])
@pytest.mark.parametrize("odd", [b"\xff\xfe", b"\xed\xa0\x80", "é€😀".encode(), b"\x7f", b"<&>\"'", b"%0d%0a%00"])
async def test_odd_bytes_anywhere_break_nothing(where, odd):
    async with listening() as there:
        part = dict.fromkeys(("query", "host", "token", "memento", "etag", "type", "path"), b"x") | {where: odd}
        request = (
            b"PUT /rest/api/uom/%(path)s?%(query)s HTTP/1.1\r\nHost: %(host)s\r\nX-API-Session: %(token)s\r\n"
            b"X-Audit-Memento: %(memento)s\r\nIf-Match: %(etag)s\r\nContent-Type: %(type)s\r\nConnection: close\r\n\r\n"
        ) % {name.encode(): value for name, value in part.items()}
        answer = await there.send(request)
        assert answer.partition("\r\n")[0].split(" ")[1] in {"400", "401", "404", "415"}
        assert "<HttpErrorResponse:" in answer
        answer = await there.send(request.replace(b"PUT", b"GET").replace(b"Session: x", b"Session: token-1"))
        assert answer.partition("\r\n")[0].split(" ")[1] in {"400", "401", "404"}


async def test_a_body_in_pieces_that_are_none_is_an_error():
    async with listening() as there:
        head = f"PUT {UOM}/LogicalPartition HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{XML}\r\n"
        assert " 400 " in (await there.send(head.encode() + b"zz\r\n")).partition("\r\n")[0]


async def test_a_body_in_pieces_that_never_ends_is_too_large():
    async with listening() as there:
        head = f"PUT {UOM}/LogicalPartition HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{XML}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(head.encode())
        for _ in range(40):
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        line = await reader.readline()
        writer.close()
        assert b" 413 " in line


async def test_who_is_too_slow_is_let_go(monkeypatch):
    monkeypatch.setattr(novalink_listen, "HEAD_S", 0.3)
    monkeypatch.setattr(novalink_http, "_BODY_S", 0.3)
    async with listening() as there:
        assert await there.send(b"GET / HT") == ""
        assert await there.send(b"") == ""
        head = f"PUT {UOM}/LogicalPartition HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n{XML}\r\n"
        assert " 408 " in await there.send(head.encode() + b"abc")
        await reached(lambda: len(there.table) == 0)


async def test_who_does_not_shake_hands_is_let_go(monkeypatch):
    monkeypatch.setattr(novalink_listen, "TLS_S", 0.3)
    async with listening(tls=server_tls()) as there:
        assert await there.send(b"") == ""
        assert await there.send(b"GET / HTTP/1.1\r\n\r\n") == ""
        assert await there.send(b"\x16\x03\x01\x02\x00\x01\x00") == ""
        await reached(lambda: len(there.table) == 0)


async def test_thousands_of_silent_connections_cost_themselves_and_nobody_else():
    async with listening(most=16, tls=server_tls()) as there:
        held = []
        try:
            for _ in range(60):
                held += [(await asyncio.open_connection("127.0.0.1", there.port))[1] for _ in range(10)]
                assert len(there.table) <= 16
            answer = await there.ask("GET", f"{UOM}/LogicalPartition", tls=client_tls())
            assert answer.startswith("HTTP/1.1 200")
            assert there.table.counters["idle_closed"] >= 500
        finally:
            for writer in held:
                writer.close()
        await reached(lambda: len(there.table) == 0)


async def test_clients_that_wait_for_events_make_room():
    async with listening(most=4) as there:
        path = f"{UOM}/Event?QUEUE_APPLICATIONID="
        for name in "abcd":
            await there.ask("GET", path + name)
        polls = [asyncio.create_task(there.ask("GET", path + name)) for name in "abcd"]
        await reached(lambda: there.table.busy_ones == 4)
        assert "200 OK" in await there.ask("GET", f"{UOM}/LogicalPartition")
        for answer in await asyncio.gather(*polls):
            assert answer.startswith("HTTP/1.1 204")


async def test_many_requests_at_once_on_one_connection_are_answered_in_order():
    async with listening() as there:
        one = f"GET {UOM}/jobs/%d HTTP/1.1\r\nHost: x\r\nX-API-Session: {there.service.token}\r\n\r\n"
        last = f"GET {UOM}/jobs/99 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await there.send("".join(one % n for n in range(50)).encode() + last.encode())
        places = [answer.find(f"There is no job {n}:") for n in range(50)]
        assert places == sorted(places)
        assert -1 not in places


async def test_a_client_that_vanishes_in_the_middle_is_nothing():
    async with listening() as there:
        there.service.platform.hold = asyncio.Event()
        body = b"<JobRequest"
        _, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(
            f"PUT {UOM}/LogicalPartition HTTP/1.1\r\nHost: x\r\n{XML}Content-Length: 100\r\n\r\n".encode() + body
        )
        await writer.drain()
        await reached(lambda: len(there.table) == 1)
        writer.transport.abort()
        await reached(lambda: len(there.table) == 0)
        assert there.service.platform.commands == []


async def test_the_kernel_tells_whose_connection_it_is():
    async with listening() as there:
        _, writer = await asyncio.open_connection("127.0.0.1", there.port)
        try:
            client = writer.get_extra_info("sockname")
            assert uid_of(client, ("127.0.0.1", there.port)) == os.geteuid()
            assert uid_of((client[0], 1), ("127.0.0.1", there.port)) is None
        finally:
            writer.close()
