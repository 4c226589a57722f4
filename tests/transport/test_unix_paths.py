"""The unix transport: paths come, break and come back; nothing is lost, run twice or left open."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs
from unix_rig import Rig, echo, logged, open_fds, port_of, run_unix, until

from pvnet.core.errors import ConfigError, PeerDiedError
from pvnet.core.names import NodeName
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import make_port
from pvnet.testing.broker import broker
from pvnet.testing.contract import LAB, MqttNetwork, downs, hcall, serve
from pvnet.transport import unix_paths
from pvnet.transport.link import LinkConfig
from pvnet.transport.mqtt import MqttPort
from pvnet.transport.unix import UnixPort

CALLS = 600


async def call_all(client: Endpoint, numbers: range) -> None:
    replies = await asyncio.gather(*(client.call("server", hcall(n), 50.0) for n in numbers))
    assert [reply.hcall_reply.rc for reply in replies] == list(numbers)


# --- how paths come ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", list(itertools.permutations(("alpha", "beta"))))
@pytest.mark.parametrize("asks_first", [True, False])
def test_either_end_gets_a_path_by_asking(names: tuple[str, str], asks_first: bool) -> None:
    async def scenario(rig: Rig) -> None:
        one, two = [await rig.node(name) for name in names]
        asking, other = (one, two) if asks_first else (two, one)
        assert await asking.settle_path(other.name)
        assert asking.path(other.name) == other.path(asking.name) == "direct"
        frames = rig.loopback.frames
        serve(other)
        assert (await asking.call(other.name, hcall(5))).hcall_reply.rc == 5
        assert rig.loopback.frames == frames, "the broker carried nothing"
        assert asking.paths() == other.paths() or asking.paths() == {other.name: "direct"}

    run_unix(scenario)


def test_all_at_once_end_with_one_connection_per_pair() -> None:
    async def scenario(rig: Rig) -> None:
        before = open_fds()
        names = [f"node{n}" for n in range(7)]
        nodes = [await rig.node(name) for name in names]
        pairs = list(itertools.permutations(nodes, 2))
        settled = await asyncio.gather(*(one.settle_path(two.name) for one, two in pairs))
        assert all(settled)
        for node in nodes:
            serve(node)
        await asyncio.gather(*(one.call(two.name, hcall(1)) for one, two in pairs))
        ports = [port_of(node) for node in nodes]
        await until(lambda: not any(port.paths._strangers for port in ports))
        assert [len(port.paths._up) for port in ports] == [6] * 7
        assert all(set(node.paths().values()) == {"direct"} for node in nodes)
        assert sum(node.counters["direct_path_lost"] for node in nodes) == 0
        sockets = [entry for entry in open_fds() - before if "socket:" in entry]
        assert len(sockets) == 7 * 6 + 7, "both ends of 21 connections, and 7 listeners"

    run_unix(scenario)


def test_settling_says_no_at_once_when_there_can_be_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.node("client")
        with monkeypatch.context() as patched:
            patched.setattr(unix_paths, "host_identity", lambda: "another host")
            await rig.node("faraway")
        await rig.node("unlinked")
        address = port_of(rig._nodes[-1][0]).address
        assert address is not None
        os.unlink(address.path)  # noqa: PTH108
        plain = Endpoint(rig.unix.inner.port(NodeName("plain")), lab=LAB, name="plain", role="test", incarnation=99)
        await plain.start()
        plain.ready()
        try:
            for name in ("faraway", "plain", "unlinked"):
                assert not await client.settle_path(name, 50.0)
                assert client.path(name) == "broker"
            assert not await plain.settle_path("client", 50.0)
            assert not await client.settle_path("nobody", 0.05)
            serve(plain)
            assert (await client.call("plain", hcall(3))).hcall_reply.rc == 3
        finally:
            await plain.stop()

    run_unix(scenario)


def test_the_path_of_a_restarted_node_is_to_its_new_incarnation() -> None:
    async def scenario(rig: Rig) -> None:
        client, first = await rig.pair()
        serve(first)
        await call_all(client, range(1, 20))
        await rig.kill(first)
        ran: list[int] = []
        second = await rig.node("server", lambda server: serve(server, ran))
        await until(lambda: client.link.peer_incarnation("server") == second.incarnation)
        await client.call("server", hcall(7))
        assert await client.settle_path("server")
        path = port_of(client).paths._nodes["server"].path
        assert path is not None
        assert path.incarnation == second.incarnation
        assert ran == [7]

    run_unix(scenario)


def test_the_largest_frames_pass_in_both_directions_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        echo(server)
        echo(client)
        data = os.urandom(130_000)
        frames = rig.loopback.frames
        directions = ((client, "server"), (server, "client"))
        messages = [(one, two, Envelope()) for _ in range(60) for one, two in directions]
        for _, _, envelope in messages:
            envelope.memory_write.data = data
        calls = [one.call(two, envelope, 50.0) for one, two, envelope in messages]
        replies = await asyncio.gather(*calls)
        assert all(reply.memory_reply.data == data for reply in replies)
        assert rig.loopback.frames == frames
        assert client.link.counters["resent"] == server.link.counters["resent"] == 0

    run_unix(scenario)


# --- how paths end ----------------------------------------------------------------------------------------------------


def test_a_path_that_is_cut_again_and_again_loses_nothing_and_runs_nothing_twice() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        ran = serve(server)
        cuts = 0

        def cut(call: Envelope) -> None:
            nonlocal cuts
            if call.hcall.opcode % 97 == 0 and client.path("server") == "direct":
                cuts += 1
                port_of(client if cuts % 2 else server).break_path("server" if cuts % 2 else "client")

        server.taps.listeners.append(lambda direction, envelope: cut(envelope) if direction == "in" else None)
        for start in range(1, 3000, 500):
            await call_all(client, range(start, start + 500))
            assert await client.settle_path("server")
        assert ran == list(range(1, 3001))
        assert cuts >= 6
        assert client.counters["direct_path_lost"] >= 6

    run_unix(scenario)


def test_a_path_that_cannot_come_back_falls_back_to_the_broker_and_says_so() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        ran = serve(server)
        for port in (port_of(client), port_of(server)):
            assert port.address is not None
            os.unlink(port.address.path)  # noqa: PTH108
        told: list[tuple[str, bool]] = []
        client.on_path.append(lambda peer, is_direct: told.append((peer, is_direct)))
        with capture_logs() as events:
            port_of(client).break_path("server")
            frames = rig.loopback.frames
            await call_all(client, range(1, CALLS))
            await until(lambda: len(logged(events, "direct_path_lost")) == 2)
        assert ran == list(range(1, CALLS))
        assert rig.loopback.frames > frames
        assert client.paths() == {"server": "broker"}
        assert told == [("server", False)]
        lost = logged(events, "direct_path_lost")
        assert sorted(entry["node"] for entry in lost) == ["client", "server"]
        assert all(entry["log_level"] == "warning" for entry in lost)
        assert not await client.settle_path("server", 50.0)

    run_unix(scenario)


def test_a_path_that_is_back_is_told() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        told: dict[str, list[bool]] = {"client": [], "server": []}
        client.on_path.append(lambda _, is_direct: told["client"].append(is_direct))
        server.on_path.append(lambda _, is_direct: told["server"].append(is_direct))
        with capture_logs() as events:
            port_of(server).break_path("client")
            await until(lambda: told == {"client": [False, True], "server": [False, True]})
        assert [entry["log_level"] for entry in logged(events, "direct_path_lost")] == ["warning", "warning"]
        assert [entry["log_level"] for entry in logged(events, "direct_path_back")] == ["info", "info"]

    run_unix(scenario)


def test_calls_go_on_while_the_broker_is_away() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        ran = serve(server)
        told = downs(client)
        first = asyncio.ensure_future(call_all(client, range(1, CALLS)))
        await asyncio.sleep(0)
        rig.loopback.down()
        await first
        await call_all(client, range(CALLS, 2 * CALLS))
        rig.loopback.up()
        await call_all(client, range(2 * CALLS, 3 * CALLS))
        assert ran == list(range(1, 3 * CALLS))
        assert told == []
        assert client.counters["direct_path_lost"] == 0

    run_unix(scenario)


def test_a_path_that_breaks_while_the_broker_is_away_is_made_again() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        ran = serve(server)
        rig.loopback.down()
        calls = asyncio.ensure_future(call_all(client, range(1, CALLS)))
        await asyncio.sleep(0)
        port_of(client).break_path("server")
        await calls
        assert ran == list(range(1, CALLS))
        rig.loopback.up()

    run_unix(scenario)


@pytest.mark.parametrize("broker_is_there", [True, False])
def test_the_death_of_a_peer_is_noticed_with_and_without_a_broker(broker_is_there: bool) -> None:
    async def scenario(rig: Rig) -> None:
        link = LinkConfig(grace_s=0.2)
        client, server = await rig.node("client", link=link), await rig.node("server")
        assert await client.settle_path("server")
        asked = asyncio.Event()
        server.on("hcall", lambda _: asked.set())
        call = asyncio.ensure_future(client.call("server", hcall(1), 50.0))
        await asked.wait()
        if broker_is_there:
            await rig.kill(server)
        else:
            rig.loopback.down()
            port_of(server).sever()
        told = downs(client)
        with capture_logs() as events:
            with pytest.raises(PeerDiedError):
                await call
            await asyncio.sleep(0.3)  # time to say that a path broke, if it were so
        assert logged(events, "direct_path_lost") == [], "a death is not a broken path"
        assert [event.node for event in told] == ["server"]
        rig.loopback.up()

    run_unix(scenario)


def test_a_death_before_the_broker_has_heard_of_the_peer_again_is_noticed() -> None:
    """A restarted broker has no will of a node that died before it was back."""

    async def scenario(rig: Rig) -> None:
        link = LinkConfig(grace_s=0.2)
        client, server = await rig.node("client", link=link), await rig.node("server")
        assert await client.settle_path("server")
        asked = asyncio.Event()
        server.on("hcall", lambda _: asked.set())
        call = asyncio.ensure_future(client.call("server", hcall(1), 50.0))
        await asked.wait()
        rig.loopback.down()
        inside = port_of(server).inner
        rig.loopback.detach(inside)  # type: ignore[arg-type]  # it does not reconnect
        rig.loopback.up()
        port_of(server).sever()
        with pytest.raises(PeerDiedError):
            await call

    run_unix(scenario)


def test_a_peer_that_only_the_broker_has_lost_is_served_on() -> None:
    async def scenario(rig: Rig) -> None:
        link = LinkConfig(grace_s=0.1)
        client, server = await rig.node("client", link=link), await rig.node("server", link=link)
        assert await client.settle_path("server")
        ran = serve(server)
        told = downs(client)
        rig.loopback.cut(NodeName("server"))
        await until(lambda: client.link._peers["server"].is_away)
        await call_all(client, range(1, CALLS))
        await asyncio.sleep(0.3)  # longer than the grace of a peer without a path
        await call_all(client, range(CALLS, 2 * CALLS))
        assert told == []
        port_of(client).break_path("server")  # a node that the broker has lost is not connected to again
        await until(lambda: len(told) == 1)
        rig.loopback.mend(NodeName("server"))
        assert (await client.call("server", hcall(9))).hcall_reply.rc == 9
        assert ran == [*range(1, 2 * CALLS), 9]
        assert await client.settle_path("server")

    run_unix(scenario)


def test_a_process_that_hangs_loses_its_path_when_the_broker_has_lost_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_paths, "PROBE_S", 0.1)

    async def scenario(rig: Rig) -> None:
        client, server = await rig.node("client", link=LinkConfig(grace_s=0.1)), await rig.node("server")
        assert await client.settle_path("server")
        call = asyncio.ensure_future(client.call("server", hcall(1), 50.0))
        asyncio.get_running_loop().remove_reader(port_of(server).paths._up["client"]._fd)
        rig.loopback.cut(NodeName("server"))
        with pytest.raises(PeerDiedError):
            await call
        assert client.counters["direct_path_lost"] == 1

    run_unix(scenario)


def test_the_last_words_of_a_node_arrive_before_its_end() -> None:
    async def scenario(rig: Rig) -> None:
        client, server = await rig.pair()
        held: list[Envelope] = []
        server.on("hcall", held.append)
        calls = [asyncio.ensure_future(client.call("server", hcall(n), 50.0)) for n in range(300)]
        await until(lambda: len(held) == 300)
        for call in held:
            reply = Envelope()
            reply.hcall_reply.rc = call.hcall.opcode
            server.reply(call, reply)
        told = downs(client)
        await server.stop("done")
        assert [reply.hcall_reply.rc for reply in await asyncio.gather(*calls)] == list(range(300))
        await until(lambda: [event.reason for event in told] == ["done"])
        assert client.counters["direct_path_lost"] == 0, "an end in good order is no fault"

    run_unix(scenario)


@pytest.mark.needs("mosquitto")
def test_a_broker_that_is_killed_while_calls_flow_directly_costs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker("mosquitto") as running:
            rig = Rig(MqttNetwork(running.url), tmp_path / "s")
            try:
                client, server = await rig.pair()
                ran = serve(server)
                await call_all(client, range(1, CALLS))
                await running.kill()
                await call_all(client, range(CALLS, 2 * CALLS))
                await running.restart()
                await until(lambda: bool(client.counters["reconnects"] and server.counters["reconnects"]))
                await call_all(client, range(2 * CALLS, 3 * CALLS))
                assert ran == list(range(1, 3 * CALLS))
                assert client.counters["direct_path_lost"] == 0
            finally:
                await rig.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_port_is_chosen_by_the_topology_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "mqtt://127.0.0.1"
    assert isinstance(make_port(url, "lab", "a"), UnixPort)
    assert isinstance(make_port(url, "lab", "a", unix=False), MqttPort)
    monkeypatch.setenv("PVNET_UNIX", "never")
    assert isinstance(make_port(url, "lab", "a"), MqttPort)
    for usual in ("auto", ""):
        monkeypatch.setenv("PVNET_UNIX", usual)
        assert isinstance(make_port(url, "lab", "a"), UnixPort)
    monkeypatch.setenv("PVNET_UNIX", "no")
    for unix in (True, False):
        with pytest.raises(ConfigError, match="PVNET_UNIX='no': expected never, or auto"):
            make_port(url, "lab", "a", unix=unix)


def test_the_address_is_in_the_state_and_only_there_when_it_exists() -> None:
    async def scenario(rig: Rig) -> None:
        node = await rig.node("server")
        address = port_of(node).address
        envelope = Envelope.FromString(rig.loopback.retained("server") or b"")
        assert address is not None
        assert (envelope.lifecycle.direct.host, envelope.lifecycle.direct.path) == address
        assert envelope.lifecycle.phase == Lifecycle.READY
        public = rig.directory / "public"
        public.mkdir(mode=0o755)
        inner = rig.unix.inner.port(NodeName("other"))
        other = UnixPort(inner, lab=LAB, name=NodeName("other"), directory=public)
        endpoint = Endpoint(other, lab=LAB, name="other", role="test", incarnation=50)
        await endpoint.start()
        endpoint.ready()
        try:
            assert not Envelope.FromString(rig.loopback.retained("other") or b"").lifecycle.HasField("direct")
            serve(endpoint)
            assert (await node.call("other", hcall(4))).hcall_reply.rc == 4
        finally:
            await endpoint.stop()
            public.rmdir()

    run_unix(scenario)
