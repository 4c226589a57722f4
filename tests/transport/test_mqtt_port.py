"""The MQTT port against real brokers: crashes, wills, refusals, TLS, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import trustme
import uvloop

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.runtime.broker import TlsFiles, free_port
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.broker import broker
from pvnet.testing.contract import LAB, ContractLab, MqttNetwork, downs, hcall, serve
from pvnet.transport.base import state_topic
from pvnet.transport.link import LinkConfig
from pvnet.transport.mqtt import MqttPort
from pvnet.transport.uri import BrokerUrl

pytestmark = pytest.mark.needs("mosquitto")
A = NodeName("a")


def run(main: Coroutine[Any, Any, None], *, seconds: float = 60.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


class Listener:
    """The least that a port needs above it."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
        self.states: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.connections: asyncio.Queue[int] = asyncio.Queue()
        self.lost: asyncio.Queue[str] = asyncio.Queue()

    def frame_received(self, source: str, channel: str, payload: bytes) -> None:
        self.frames.put_nowait((source, channel, payload))

    def state_received(self, node: str, payload: bytes) -> None:
        self.states.put_nowait((node, payload))

    def next_will(self, connection: int) -> bytes:
        return b"will %d" % connection

    def port_connected(self, connection: int) -> None:
        self.connections.put_nowait(connection)

    def port_disconnected(self, reason: str) -> None:
        self.lost.put_nowait(reason)


def port(url: BrokerUrl, name: str = "a", client_id: str | None = None) -> MqttPort:
    return MqttPort(url, lab=LAB, name=NodeName(name), client_id=client_id or name)


# --- a broker that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [1, 3])
def test_killing_the_broker_loses_doubles_and_reorders_nothing(kills: int) -> None:
    """2,000 calls; the broker is killed and restarted while they run, at points counted in calls."""

    async def main() -> None:
        async with broker("mosquitto") as running:
            lab = ContractLab(MqttNetwork(running.url))
            # The grace is longer than a broker's restart: nobody dies here.
            link = LinkConfig(window=64, grace_s=30.0)
            ran: list[int] = []
            reached = asyncio.Event()
            marks = [2000 * (k + 1) // (kills + 1) for k in range(kills)]

            def start(server: Endpoint) -> None:
                def handle(call: Envelope) -> None:
                    ran.append(call.hcall.opcode)
                    if marks and len(ran) >= marks[0]:
                        marks.pop(0)
                        reached.set()
                    reply = Envelope()
                    reply.hcall_reply.rc = call.hcall.opcode
                    server.reply(call, reply)

                server.on("hcall", handle)

            server = await lab.node("server", start, link=link)
            client = await lab.node("client", link=link)
            told = downs(client)
            calls = [asyncio.ensure_future(client.call("server", hcall(n), 60.0)) for n in range(1, 2001)]
            for _ in range(kills):
                await reached.wait()
                reached.clear()
                await running.kill()
                await running.restart()
            replies = await asyncio.gather(*calls)
            assert ran == list(range(1, 2001))
            assert [reply.hcall_reply.rc for reply in replies] == ran
            assert told == []
            assert server.counters["reconnects"] == client.counters["reconnects"] == kills
            assert client.link.counters["resent"] > 0, "the broker was killed when nothing was under way"
            await lab.close()

    run(main())


def test_a_reconnection_does_not_need_traffic() -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            listener, made = Listener(), port(running.url)
            await made.open(listener, timeout=5)
            made.watch(NodeName("b"))
            assert await listener.connections.get() == 1
            await running.kill()
            assert "Disconnected" in await listener.lost.get()
            made.send(NodeName("b"), "call", b"lost")  # type: ignore[arg-type]
            made.set_state(b"lost")
            await running.restart()
            assert await listener.connections.get() == 2
            other = port(running.url, "b")
            await other.open(Listener(), timeout=5)
            other.set_state(b"there")  # watched before the crash: subscribed again
            assert await listener.states.get() == ("b", b"there")
            await made.close(None)
            await other.close(None)

    run(main())


# --- wills and states ------------------------------------------------------------------------------------------------


def test_the_will_is_published_on_a_crash_and_not_after_an_orderly_end() -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            watcher = Listener()
            watching = port(running.url, "w")
            await watching.open(watcher, timeout=5)
            watching.watch(A)
            first = port(running.url)
            await first.open(Listener(), timeout=5)
            await first.abort()
            assert await watcher.states.get() == ("a", b"will 1")
            second = port(running.url)
            await second.open(Listener(), timeout=5)
            await second.close(b"bye")
            assert await watcher.states.get() == ("a", b"bye")
            third = port(running.url)
            await third.open(Listener(), timeout=5)
            third.set_state(b"next")
            assert await watcher.states.get() == ("a", b"next"), "no will between the two"
            await third.close(None)
            await watching.close(None)

    run(main())


def test_a_stale_will_and_a_forged_state_are_healed_and_kill_nobody() -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            lab = ContractLab(MqttNetwork(running.url))
            server, client = await lab.node("server"), await lab.node("client")
            serve(server)
            told = downs(client)
            await client.call("server", hcall(1), 10.0)
            stale = Envelope(schema=1, lab=LAB, source="server", source_incarnation=server.incarnation)
            stale.lifecycle.phase = Lifecycle.LOST
            stale.lifecycle.connection = 0
            url = running.url
            topic = state_topic(LAB, "server")
            async with aiomqtt.Client(url.host, url.port, username=url.username, password=url.password) as vandal:
                await vandal.subscribe(topic, 1)
                states = vandal.messages
                first = await anext(states)
                await vandal.publish(topic, stale.SerializeToString(), 1, retain=True)
                seen = []
                while len(seen) < 2:  # ours, and then the server's again
                    seen.append(Envelope.FromString(bytes((await anext(states)).payload)).lifecycle.phase)
                assert Envelope.FromString(bytes(first.payload)).lifecycle.phase == Lifecycle.READY
                assert seen == [Lifecycle.LOST, Lifecycle.READY]
            assert (await client.call("server", hcall(2), 10.0)).hcall_reply.rc == 2
            assert told == []
            newcomer = await lab.node("newcomer")
            await newcomer.wait_peer("server")
            await lab.close()

    run(main())


def test_frames_on_strange_topics_and_random_bytes_reach_nobody_and_break_nothing() -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            lab = ContractLab(MqttNetwork(running.url))
            server, client = await lab.node("server"), await lab.node("client")
            serve(server)
            await client.call("server", hcall(1), 10.0)
            url = running.url
            base = f"pvnet/v1/{LAB}/server"
            async with aiomqtt.Client(url.host, url.port, username=url.username, password=url.password) as vandal:
                for topic in (f"{base}/call/client", f"{base}/call", f"{base}/a/b/c", f"{base}/state", base):
                    for payload in (b"", b"\xff" * 100, os.urandom(1000), bytes(300_000)):
                        await vandal.publish(topic, payload, 1)
            assert (await client.call("server", hcall(2), 10.0)).hcall_reply.rc == 2
            assert server.link.counters["bad_envelope"] == 4
            assert server.counters["reconnects"] == 0
            await lab.close()

    run(main())


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_a_configuration_error() -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            url = BrokerUrl(running.url.host, running.url.port, username="pvnet", password="wrong")
            with pytest.raises(ConfigError, match="refuses user 'pvnet': wrong user name or password"):
                await port(url).open(Listener(), timeout=5)
            url = BrokerUrl(running.url.host, running.url.port)
            with pytest.raises(ConfigError, match="refuses a client without user name"):
                await port(url).open(Listener(), timeout=5)

    run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        with pytest.raises(UnreachableError, match="connection refused"):
            await port(BrokerUrl("127.0.0.1", free_port())).open(Listener(), timeout=5)

    run(main())


def test_somebody_listens_who_says_nothing() -> None:
    async def main() -> None:
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        where = server.sockets[0].getsockname()[1]
        with pytest.raises(UnreachableError, match=r"did not answer within 0\.3 s"):
            await port(BrokerUrl("127.0.0.1", where)).open(Listener(), timeout=0.3)
        for writer in held:
            assert await asyncio.wait_for(held_reader(writer), 5) == b"", "the connection was left open"
            writer.close()
        server.close()
        await server.wait_closed()

    async def held_reader(writer: asyncio.StreamWriter) -> bytes:
        reader: asyncio.StreamReader = writer.transport.get_protocol()._stream_reader  # type: ignore[union-attr]
        await reader.readuntil(b"a")  # the CONNECT
        while await reader.read(1000):
            pass
        return b""

    run(main())


def test_a_subscription_that_is_refused_is_a_configuration_error(tmp_path: Path) -> None:
    """amqtt and others say 0x80; mosquitto does so when an ACL denies the subscription itself (not at delivery)."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while packet := await reader.read(4096):
            if packet[0] >> 4 == 1:
                writer.write(b"\x20\x02\x00\x00")
            elif packet[0] >> 4 == 8:
                writer.write(b"\x90\x03" + packet[2:4] + b"\x80")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        where = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match="does not let a subscribe to pvnet/v1/contract/a/#"):
            await port(BrokerUrl("127.0.0.1", where)).open(Listener(), timeout=5)
        server.close()
        await server.wait_closed()

    run(main())


# --- TLS -------------------------------------------------------------------------------------------------------------


def tls_files(directory: Path) -> tuple[TlsFiles, Path]:
    """A certificate for localhost with its CA, and another CA that did not sign it."""
    ca, other = trustme.CA(), trustme.CA()
    certificate = ca.issue_cert("localhost")
    chain, key, right, wrong = (directory / name for name in ("chain.pem", "key.pem", "ca.pem", "other.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    ca.cert_pem.write_to_path(right)
    other.cert_pem.write_to_path(wrong)
    return TlsFiles(chain, key, right), wrong


def test_tls_with_the_right_and_with_the_wrong_ca(tmp_path: Path) -> None:
    files, wrong = tls_files(tmp_path)

    async def main() -> None:
        async with broker("mosquitto", tls=files) as running:
            url = running.url
            assert url.tls
            lab = ContractLab(MqttNetwork(url))
            server, client = await lab.node("server"), await lab.node("client")
            ran = serve(server)
            replies = await asyncio.gather(*(client.call("server", hcall(n), 30.0) for n in range(1, 501)))
            assert [reply.hcall_reply.rc for reply in replies] == ran == list(range(1, 501))
            big = Envelope()
            big.memory_write.data = bytes(100_000)
            server.on("memory_write", lambda call: server.refuse(call, str(len(call.memory_write.data))))
            with pytest.raises(Exception, match="100000"):
                await client.call("server", big, 30.0)
            await lab.close()
            for bad, text in (
                (BrokerUrl("localhost", url.port, tls=True, ca_file=str(wrong)), "certificate is not trusted"),
                (BrokerUrl("localhost", url.port, tls=True), "a private CA"),
                (BrokerUrl("localhost", url.port), r"closed the connection instead of answering \(a TLS port"),
            ):
                with pytest.raises(UnreachableError, match=text):
                    await port(bad).open(Listener(), timeout=5)

    run(main())


def test_a_ca_file_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nothing")

    async def main() -> None:
        url = BrokerUrl("localhost", 1, tls=True, ca_file=str(nonsense))
        with pytest.raises(ConfigError, match="expected PEM certificates"):
            await port(url).open(Listener(), timeout=5)

    run(main())


def test_tls_to_a_port_without_it() -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            with pytest.raises(UnreachableError):
                await port(BrokerUrl("localhost", running.url.port, tls=True)).open(Listener(), timeout=5)

    run(main())


# --- what is left behind ---------------------------------------------------------------------------------------------


def open_sockets() -> set[str]:
    gc.collect()
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            found.add(str(fd.readlink()))
    return {target for target in found if target.startswith("socket:")}


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until ``condition`` holds (the test's own time-out bounds it)."""
    while not condition():  # noqa: ASYNC110 - there is no event for "a task is gone"
        await asyncio.sleep(0)


@pytest.mark.parametrize("end", ["stop", "kill", "broker gone"])
def test_no_socket_and_no_task_is_left(end: str) -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            sockets, tasks = open_sockets(), len(asyncio.all_tasks())
            lab = ContractLab(MqttNetwork(running.url))
            server, client = await lab.node("server"), await lab.node("client")
            serve(server)
            await asyncio.gather(*(client.call("server", hcall(n), 10.0) for n in range(50)))
            assert len(open_sockets()) == len(sockets) + 2
            if end == "kill":
                await lab.kill(server)
            if end == "broker gone":
                await running.kill()
            await lab.close()
            # What was cancelled last needs a turn of the loop to be gone.
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            assert open_sockets() == sockets

    run(main(), seconds=20)


def test_closing_while_connecting_leaves_nothing() -> None:
    async def main() -> None:
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        url = BrokerUrl("127.0.0.1", server.sockets[0].getsockname()[1])
        sockets, tasks = open_sockets(), len(asyncio.all_tasks())
        made = port(url)
        opening = asyncio.ensure_future(made.open(Listener(), timeout=5))
        await until(lambda: bool(held))
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        for writer in held:
            await writer.transport.get_protocol()._stream_reader.read(-1)  # type: ignore[union-attr]
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert open_sockets() <= sockets

    run(main(), seconds=20)


def test_a_broker_that_stalls_costs_no_memory_without_bound() -> None:
    """Stopped (not dead): what it does not take is bounded, and all is repeated when it goes on."""

    async def main() -> None:
        async with broker("mosquitto") as running:
            assert running.child is not None
            pid = running.child.pid
            lab = ContractLab(MqttNetwork(running.url))
            server, client = await lab.node("server"), await lab.node("client", link=LinkConfig(window=20_000))
            serve(server)
            server.on("memory_write", lambda call: server.refuse(call, "taken"))
            await client.call("server", hcall(1), 10.0)
            os.kill(pid, signal.SIGSTOP)
            try:
                calls = []
                for _ in range(400):
                    big = Envelope()
                    big.memory_write.data = bytes(120_000)
                    calls.append(asyncio.ensure_future(client.call("server", big, 60.0)))
                await asyncio.sleep(0)
                wire = client._port._wire  # type: ignore[attr-defined]
                assert len(wire._out) < 33 * 1024 * 1024
            finally:
                os.kill(pid, signal.SIGCONT)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {str(result) for result in results} == {"taken"}
            assert (await client.call("server", hcall(2), 10.0)).hcall_reply.rc == 2
            await lab.close()

    run(main())
