"""``pvnet bench novalink``: the client reads answers or says what is wrong, the peer answers, and both are measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bench_checks import check_result

from pvnet.bench import aiohttp_peer
from pvnet.bench.http_once import AnswerError, Server
from pvnet.bench.novalink import peer
from pvnet.cli.bench import SCENARIOS

PVNET = shutil.which("pvnet", path=str(Path(sys.executable).parent)) or "pvnet"


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[Server]:
    """A server that sends the same to everybody and hangs up; None: it waits until its client does."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Server("127.0.0.1", server.sockets[0].getsockname()[1])
        await ended.wait()


async def test_an_answer() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: 7\r\n\r\nabcdef") as server:
        answer = await server.ask("GET", "/")
    assert (answer.status, answer.headers["etag"], answer.body) == (200, "7", b"abc")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body(status: int) -> None:
    async with answering(b"HTTP/1.1 %d Nothing\r\n\r\n" % status) as server:
        assert (await server.ask("DELETE", "/")).status == status


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "ended after 0 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "ended after 3 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "-1 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "at most"),
        (b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/2"),
        (b"SSH-2.0-x\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + bytes(70_000) + b"\r\n\r\n", "64 KiB"),
    ],
)
async def test_what_is_no_answer(answer: bytes, said: str) -> None:
    async with answering(answer) as server:
        with pytest.raises(AnswerError, match=said):
            await server.ask("GET", "/")


async def test_no_answer_in_time() -> None:
    async with answering(None) as server:
        with pytest.raises(TimeoutError):
            await server.ask("GET", "/", timeout=0.05)


async def test_the_peer_answers(tmp_path: Path) -> None:
    async with peer(str(tmp_path), 1234) as contender:
        assert (await contender.round(4, 2)).wrong == 0
        contender.refresh = True
        assert (await contender.round(4, 2)).wrong == 0
        contender._etag = "another"
        assert (await contender.round(1, 1)).wrong == 1
        contender._session._headers["X-API-Session"] = aiohttp_peer.TOKEN[1:]
        contender.refresh = False
        assert (await contender.round(1, 1)).wrong == 1
        stranger = Server("localhost", contender._session.server.port, ssl.create_default_context())
        with pytest.raises(ssl.SSLError):
            await stranger.ask("GET", "/")


@pytest.mark.slow
def test_bench_measures_the_service_of_a_lab(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    arguments = ["novalink", "--quick", "--json", str(file)]
    done = subprocess.run([PVNET, "bench", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(file.read_text())["results"]
    assert [(r["case"], r["metric"]) for r in results] == [
        ("get-rtt", "round_trip_s"),
        *((case, "per_s") for case in SCENARIOS["novalink"]),
    ]
    for result in results:
        check_result(result)
        assert set(result["peers"]) == {"aiohttp"}
        assert result["lost"] == 0
