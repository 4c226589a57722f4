"""Brokers: chosen as documented, really started, and every refusal is one clear line."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.runtime import broker as broker_module
from pvnet.runtime.broker import Broker, TlsFiles, choose, free_port, port_is_free
from pvnet.runtime.broker_probe import connect_packet, probe
from pvnet.runtime.child import start_time
from pvnet.runtime.topology import BrokerConfig
from pvnet.testing.broker import broker
from pvnet.transport.uri import BrokerUrl

KINDS = [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"]


def one_line(error: Exception) -> str:
    text = str(error)
    assert len(text.splitlines()) == 1, text
    return text


@pytest.mark.parametrize("kind", KINDS)
async def test_serves_on_loopback_with_a_password_and_leaves_nothing(kind: str) -> None:
    async with broker(kind) as running:
        assert running.url.host == "127.0.0.1"
        await probe(running.url)
        for wrong in (replace(running.url, password="no"), BrokerUrl("127.0.0.1", running.url.port)):
            with pytest.raises(ConfigError, match="wrong user name or password") as caught:
                await probe(wrong)
            assert running.url.password not in one_line(caught.value)
        assert running.child is not None
        pid, directory = running.child.pid, running._directory
    assert start_time(pid) is None
    assert not directory.exists()
    assert port_is_free(running.url.port)


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_broker_comes_back_at_the_same_address(kind: str) -> None:
    async with broker(kind) as running:
        address = running.url
        await running.kill()
        assert running.child is not None
        assert await running.child.wait() == -signal.SIGKILL
        with pytest.raises(UnreachableError, match="connection refused"):
            await probe(address)
        await running.restart()
        assert running.url == address
        await probe(address)


@pytest.mark.parametrize("kind", KINDS)
async def test_port_in_use_is_named(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"broker port {port} is in use") as caught:
            async with broker(kind, port=port):
                pytest.fail("started on a port that is taken")
        one_line(caught.value)


@pytest.mark.needs("mosquitto")
async def test_a_free_port_that_is_snatched_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr(broker_module, "free_port", lambda: next(ports))
        async with broker("mosquitto") as running:
            await probe(running.url)
            assert running.url.port != taken.getsockname()[1]


@pytest.mark.needs("mosquitto")
async def test_broker_that_ends_at_once_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("not a certificate")
    bad = tmp_path / "bad.pem"
    with pytest.raises(UnreachableError, match=r"mosquitto ended at once \(exit code 1\)\n.*certificate"):
        async with broker("mosquitto", tls=TlsFiles(bad, bad, bad)):
            pytest.fail("started with a broken certificate")


@pytest.fixture
async def tls_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    async with broker("mosquitto", tls=files) as running:
        yield running


@pytest.mark.needs("mosquitto")
async def test_tls_works_with_the_ca_and_fails_clearly_without(tls_broker: Broker) -> None:
    url = tls_broker.url
    assert url.tls
    await probe(url)
    with pytest.raises(UnreachableError, match=r"certificate is not trusted: .* \(a private CA\? add \?ca_file=FILE\)"):
        await probe(replace(url, ca_file=None))
    with pytest.raises(UnreachableError, match=r"certificate is not trusted: .*127\.0\.0\.1"):
        await probe(replace(url, host="127.0.0.1"))
    with pytest.raises(UnreachableError, match="a TLS port"):
        await probe(replace(url, tls=False, ca_file=None))
    with pytest.raises(ConfigError, match="wrong user name or password"):
        await probe(replace(url, password="no"))


@pytest.mark.parametrize("kind", KINDS)
async def test_tls_to_a_plain_port_fails_clearly(kind: str) -> None:
    async with broker(kind) as running:
        with pytest.raises(UnreachableError, match=r"TLS failed|not a TLS port|no answer"):
            await probe(replace(running.url, tls=True), timeout=2)


async def serve_bytes(answer: bytes) -> asyncio.Server:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        if len(answer) < 4:
            await reader.read()
        writer.close()

    return await asyncio.start_server(client, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "not an MQTT broker"),
        (b"\x20\x02\x00\x01", "does not speak MQTT 3.1.1"),
        (b"\x20\x02\x00\x02", "refuses the client identifier"),
        (b"\x20\x02\x00\x63", "refuses us with code 99"),
        (b"", "no answer within 0.2 s"),
    ],
)
async def test_other_servers_are_recognised(answer: bytes, says: str) -> None:
    async with await serve_bytes(answer) as server:
        with pytest.raises(UnreachableError, match=says) as caught:
            await probe(BrokerUrl("127.0.0.1", server.sockets[0].getsockname()[1]), timeout=0.2)
        one_line(caught.value)


async def test_unknown_host_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"host name not known|no answer"):
        await probe(BrokerUrl("no-such-host.invalid", 1883), timeout=5)


async def test_url_is_asked_before_anything_starts(tmp_path: Path) -> None:
    running = Broker(BrokerConfig(use=f"mqtt://127.0.0.1:{free_port()}"), directory=tmp_path, log=tmp_path / "log")
    with pytest.raises(UnreachableError, match="connection refused"):
        await running.start(timeout=2)
    await running.stop()
    assert not (tmp_path / "log").exists()


def test_connect_packet_is_mqtt_3_1_1() -> None:
    plain = connect_packet(BrokerUrl("h", 1), "id")
    assert plain.hex(" ") == "10 0e 00 04 4d 51 54 54 04 02 00 0a 00 02 69 64"
    secret = connect_packet(BrokerUrl("h", 1, username="u", password="p" * 200), "id")
    assert secret[:3] == bytes([0x10, 0xDB, 0x01])
    assert secret[10] == 0xC2
    assert len(secret) == 3 + 0xDB


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("mqtt://h").kind == "url"
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: "/opt/mosquitto")
    assert (choose("auto").kind, choose("auto").reason) == ("mosquitto", "found at /opt/mosquitto")
    assert choose("embedded").kind == "embedded"
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    assert (choose("auto").kind, choose("auto").reason) == ("embedded", "mosquitto is not installed")
    with pytest.raises(ConfigError, match="mosquitto is not installed"):
        choose("mosquitto")
    with pytest.raises(ConfigError, match="expected auto, embedded"):
        choose("rabbit")


def test_missing_embedded_broker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amqtt", None)
    monkeypatch.setattr(broker_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    for use in ("auto", "embedded"):
        with pytest.raises(ConfigError) as caught:
            choose(use)
        assert "pip install 'pvnet[broker]'" in one_line(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_broker_dies_with_a_killed_parent(kind: str, tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from pvnet.runtime.broker import Broker
from pvnet.runtime.topology import BrokerConfig

async def main():
    running = Broker(BrokerConfig(use={kind!r}), directory=Path({str(tmp_path)!r}), log=Path({str(tmp_path / "log")!r}))
    await running.start(timeout=10)
    print(running.child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_gone(int(done.stdout))


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that is not ours, by event."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(pidfd, "rb"):
        readable, _, _ = select.select([pidfd], [], [], 10)
        assert readable, f"process {pid} is still there"
