"""Who may come in at a node's unix socket, and what it costs the others when somebody else tries: nothing."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from unix_rig import RawClient, Rig, hello_packet, open_fds, port_of, run_unix, until

from pvnet.core.errors import WireError
from pvnet.core.names import NodeName
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.contract import LAB, hcall, serve
from pvnet.transport import unix_paths
from pvnet.transport.unix_hello import (
    MAX_PACKET_BYTES,
    Hello,
    Kind,
    decode_hello,
    encode_hello,
    header,
    listen,
    socket_directory,
)

HELLO = Hello("lab", "client", 1, "server", 2)


async def served(client: Endpoint, number: int) -> bool:
    return (await client.call("server", hcall(number))).hcall_reply.rc == number


@pytest.mark.parametrize(
    ("packet", "event"),
    [
        (b"\x01", None),
        (bytes(2), "unexpected_packet"),
        (bytes(MAX_PACKET_BYTES + 1), None),
        (header(Kind.HELLO), "bad_hello"),
        (header(Kind.HELLO) + b"GET / HTTP/1.1\r\nHost: somewhere-else\r\n\r\n", "bad_hello"),
        (hello_packet()[:-1], "bad_hello"),
        (hello_packet() + b"x", "bad_hello"),
        (hello_packet(name="Über"), "bad_hello"),
        (hello_packet(name="a/b"), "bad_hello"),
        (hello_packet(name=""), "bad_hello"),
        (hello_packet(lab="another"), "misdirected_hello"),
        (hello_packet(wanted="client"), "misdirected_hello"),
        (hello_packet(name="server"), "misdirected_hello"),
        (hello_packet(wanted_incarnation=1), "stale_hello"),
        (hello_packet(incarnation=0), "stale_hello"),
        (hello_packet(incarnation=77), "slow_hello"),
        (hello_packet(name="nobody"), "slow_hello"),
        (header(Kind.WELCOME) + hello_packet()[2:], "unexpected_packet"),
        (header(Kind.FRAME) + b"frame", "unexpected_packet"),
        (header(Kind.SHARE, 1) + b"xy", "unexpected_packet"),
        (header(Kind.PING), "unexpected_packet"),
        (header(Kind.PONG), "unexpected_packet"),
        (header(Kind.BYE), "unexpected_packet"),
        (b"\xff\xff\xff", "unexpected_packet"),
        (None, "slow_hello"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_first_packet_costs_only_its_sender(
    packet: bytes | None, event: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_paths, "HELLO_S", 0.1)

    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        serve(server)
        with capture_logs() as events:
            for _ in range(3):
                raw = RawClient(server)
                if packet is not None:
                    raw.send(packet)
                assert await raw.closed() == b""
        assert await served(client, 3)
        counters = port_of(server).paths.counters
        expected = {"paths": 1} | ({event: 3} if event else {})
        assert dict(counters) == expected
        warned = event if event != "stale_hello" else None  # a program that has ended: nothing for a person
        lines = [line for line in events if line["event"] == "direct_connection_refused"]
        assert [line["cause"] for line in lines] == ([event] if event else []), "logged once"
        warnings = [line.get("cause") for line in events if line["log_level"] == "warning"]
        assert warnings == ([warned] if warned else [])
        assert client.counters["direct_path_lost"] == server.counters["direct_path_lost"] == 0

    run_unix(scenario)


@pytest.mark.parametrize("count", [1, 16, 17, 253])
@pytest.mark.parametrize("packet", [hello_packet(), header(Kind.FRAME) + b"x", header(Kind.SHARE, 1) + b"xy", b"zz"])
def test_file_descriptors_of_strangers_are_closed(packet: bytes, count: int) -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        serve(server)
        before = open_fds()
        null = os.open("/dev/null", os.O_RDONLY)
        raw = RawClient(server)
        raw.send(packet, [null] * count)
        assert await raw.closed() == b""
        os.close(null)
        assert open_fds() == before
        assert await served(client, 4)

    run_unix(scenario)


def test_random_bytes_before_and_after_a_true_hello() -> None:
    """The true hello is that of a node that exists, has our pid and no paths of its own."""
    dice = random.Random(4)

    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        ran = serve(server)
        mallory = Endpoint(
            rig.unix.inner.port(NodeName("mallory")), lab=LAB, name="mallory", role="test", incarnation=9
        )
        await mallory.start()
        mallory.ready()
        null = os.open("/dev/null", os.O_RDONLY)
        for number in range(150):
            raw = RawClient(server)
            if number % 3 == 0:
                raw.send(hello_packet(name="mallory", incarnation=9))
                await until(lambda: server.path("mallory") == "direct")
            try:
                for _ in range(dice.randrange(1, 6)):
                    kind = dice.choice([*Kind, dice.randrange(256)])
                    fds = [null] * dice.choice([0, 0, 0, 1, 5, 40])
                    raw.send(bytes((kind, dice.randrange(256))) + dice.randbytes(dice.choice([0, 3, 40, 3000])), fds)
            except (BrokenPipeError, ConnectionResetError):
                pass
            if number % 2:
                raw.sock.close()
            else:
                await asyncio.sleep(0)
                raw.sock.close()
            if number % 10 == 0:
                await served(client, number)
        os.close(null)
        assert await served(client, 7)
        assert ran == [*range(0, 150, 10), 7]
        await mallory.stop()
        assert server.counters["direct_path_lost"] >= 40
        assert await client.settle_path("server", 50.0)
        await until(lambda: client.path("server") == server.path("client") == "direct")

    with capture_logs():
        run_unix(scenario)


def test_strangers_are_bounded_and_the_next_true_peer_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_paths, "HELLO_S", 0.3)

    async def scenario(rig: Rig) -> None:
        server = await rig.node("server")
        crowd = [RawClient(server) for _ in range(unix_paths.MAX_STRANGERS)]
        paths = port_of(server).paths
        await until(lambda: len(paths._strangers) == unix_paths.MAX_STRANGERS)
        late = RawClient(server)
        assert await late.closed() == b""
        assert paths.counters["too_many_strangers"] == 1
        client = await rig.node("client")
        serve(server)
        assert await served(client, 1), "over the broker meanwhile"
        for raw in crowd:
            await raw.closed()
        await until(lambda: client.path("server") == "direct")

    run_unix(scenario)


def test_another_process_of_the_same_user_cannot_be_a_node() -> None:
    """Its pid is not the one in the node's state."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect(sys.argv[1]); s.send(bytes.fromhex(sys.argv[2])); print(len(s.recv(1000)))\n"
    )

    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        serve(server)
        address = port_of(server).address
        assert address is not None
        command = [sys.executable, "-c", program, address.path, hello_packet().hex()]
        said = await asyncio.to_thread(subprocess.check_output, command)
        assert said == b"0\n", "closed without a word"
        assert port_of(server).paths.counters["wrong_process"] == 1
        assert client.path("server") == server.path("client") == "direct"
        assert await served(client, 5)

    run_unix(scenario)


def test_a_listener_that_is_not_the_node_is_left_alone(tmp_path: Path) -> None:
    """The address in a state may lie; nothing is said to a process with another pid."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.bind(sys.argv[1]); s.listen(); print('listens', flush=True); c, _ = s.accept(); print(len(c.recv(1000)))\n"
    )

    async def scenario(rig: Rig) -> None:
        server = await rig.node("server")
        port = port_of(server)
        path = str(tmp_path / "other")
        command = [sys.executable, "-c", program, path]
        process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"listens\n"
        assert port.address is not None
        port.paths.address = port.address._replace(path=path)
        server.ready("at another address")
        client = await rig.node("client")
        serve(server)
        assert not await client.settle_path("server", 50.0)
        said, _ = await asyncio.to_thread(process.communicate)
        assert said == b"0\n"
        assert port_of(client).paths.counters["wrong_listener"] >= 1
        assert await served(client, 6)

    run_unix(scenario)


# --- bytes and files --------------------------------------------------------------------------------------------------


def test_hello_reads_back_and_its_version_is_checked() -> None:
    body = encode_hello(HELLO)
    assert decode_hello(body) == HELLO
    with pytest.raises(WireError, match="version 2"):
        decode_hello(body[:4] + b"\x02\x00" + body[6:])
    for end in range(len(body)):
        with pytest.raises(WireError):
            decode_hello(body[:end])


def test_sockets_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    dead, dead_path = listen(directory)
    living, living_path = listen(directory)
    dead.close()
    fresh, fresh_path = listen(directory)
    assert dead_path.exists(), "perhaps it is just being made"
    for path in (dead_path, living_path):
        os.utime(path, (1, 1))
    other, other_path = listen(directory)
    assert {entry.name for entry in directory.iterdir()} == {p.name for p in (living_path, fresh_path, other_path)}
    assert directory.stat().st_mode & 0o777 == 0o700
    for sock in (living, fresh, other):
        sock.close()


def test_a_temporary_directory_with_a_long_name_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert socket_directory() == Path(f"/tmp/pvnet-unix-{os.getuid()}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run")
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert socket_directory() == Path("/run/pvnet-unix")
