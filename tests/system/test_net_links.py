"""Switches of two labs as one network, and what passes through a switch as a file that Wireshark's tshark reads."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from system_support import AGAIN, RunningLab, children, eventually, nothing_left, running

from pvnet.client import Lab
from pvnet.client.vbus import VbusHost
from pvnet.core.errors import RefusedError
from pvnet.runtime.topology import BRIDGE, Topology
from pvnet.testing.broker import broker

pytestmark = pytest.mark.timeout(180)


def topology(lab: str, host: int, *ports: str, use: str = "auto", **switch: Any) -> Topology:
    """A guest with the address 10.77.0.HOST on a switch with ports."""
    restart = AGAIN.model_dump()
    return Topology.model_validate(
        {
            "lab": {"name": lab, "ready_timeout_s": 60.0},
            "broker": {"use": use},
            "partition": [
                {"name": f"g{host}", "lpar_id": host, "restart": restart, "venet": [{"address": f"10.77.0.{host}/24"}]}
            ],
            "switch": [{"name": "net0", "ports": list(ports), **switch}],
            "bridge": {"restart": restart},
        }
    )


@asynccontextmanager
async def both(base: Path, *made: Topology) -> AsyncIterator[list[RunningLab]]:
    """Several labs at once; afterwards nothing of any is left."""
    before = children(os.getpid())
    bases = [base / topology.lab.name for topology in made]
    async with AsyncExitStack() as stack:
        yield [
            RunningLab(await stack.enter_async_context(Lab(topology, base=each)))
            for topology, each in zip(made, bases, strict=True)
        ]
    for each in bases:
        nothing_left(before, each)


async def pings(lab: RunningLab, source: int, target: int, count: int = 20) -> tuple[int, int, int]:
    """(received, duplicates, corrupt) of ``count``."""
    found = await VbusHost(lab.lab).ping(f"g{source}", f"10.77.0.{target}", count=count, interval_s=0.01, timeout_s=5)
    return found["received"], found["duplicates"], found["corrupt"]


async def joined(lab: RunningLab, source: int, target: int) -> None:
    """Wait until the other lab's guest is reached."""

    async def reached() -> bool:
        try:
            return await pings(lab, source, target, 1) == (1, 0, 0)
        except RefusedError:  # its own venet is not up again
            return False

    await eventually(reached)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_two_labs_are_one_network_over_tcp_and_stay_so_when_a_bridge_is_killed(tmp_path: Path) -> None:
    port = free_port()
    made = topology("one", 1, f"tcp-listen:127.0.0.1:{port}"), topology("two", 2, f"tcp:127.0.0.1:{port}")
    async with both(tmp_path, *made) as (one, two):
        await joined(one, 1, 2)
        assert await pings(one, 1, 2) == (20, 0, 0)
        assert await pings(two, 2, 1) == (20, 0, 0)
        for lab in (one, two):
            pid = lab.kill(BRIDGE)
            await lab.restarted(BRIDGE, pid)
            await joined(one, 1, 2)
            assert await pings(two, 2, 1) == (20, 0, 0)


async def test_a_link_by_tls_asks_both_sides_for_their_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "bridge.pem"))
    files = {"ca_file": str(tmp_path / "ca.pem"), "cert_file": str(tmp_path / "bridge.pem")}
    port = free_port()
    made = (
        topology("one", 1, f"tls-listen:127.0.0.1:{port}", **files),
        topology("two", 2, f"tls:127.0.0.1:{port}", **files),
    )
    async with both(tmp_path, *made) as (one, _):
        await joined(one, 1, 2)
        assert await pings(one, 1, 2) == (20, 0, 0)


@pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"])
async def test_two_labs_are_one_network_over_their_broker(kind: Any, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = (await stack.enter_async_context(broker(kind))).url
        user = {"username": url.username, "password": url.password}
        made = []
        for name, host, port in (("one", 1, "broker-listen:two"), ("two", 2, "broker:one")):
            each = topology(name, host, port, use=f"mqtt://{url.host}:{url.port}")
            made.append(each.model_copy(update={"broker": each.broker.model_copy(update=user)}))
        one, two = await stack.enter_async_context(both(tmp_path, *made))
        await joined(one, 1, 2)
        assert await pings(one, 1, 2) == (20, 0, 0)
        assert await pings(two, 2, 1) == (20, 0, 0)
        pid = two.kill(BRIDGE)
        await two.restarted(BRIDGE, pid)
        await joined(one, 1, 2)
        pid = one.kill(BRIDGE)
        await one.restarted(BRIDGE, pid)
        await joined(two, 2, 1)


async def test_links_over_a_broker_are_attached_in_any_order_and_removed_and_attached_again(tmp_path: Path) -> None:
    lab_one, lab_two = "one" + 29 * "x", "two" + 29 * "x"  # as long as names may be
    async with AsyncExitStack() as stack:
        url = (await stack.enter_async_context(broker("embedded"))).url
        user = {"username": url.username, "password": url.password}
        made = []
        for name, host in ((lab_one, 1), (lab_two, 2)):
            each = topology(name, host, use=f"mqtt://{url.host}:{url.port}")
            made.append(each.model_copy(update={"broker": each.broker.model_copy(update=user)}))
        one, two = await stack.enter_async_context(both(tmp_path, *made))
        here, there = VbusHost(one.lab), VbusHost(two.lab)
        connects, listens = f"broker:{lab_one}", f"broker-listen:{lab_two}"

        async def state(host: VbusHost, name: str) -> str:
            found: list[str] = [p["state"] for p in (await host.switches())[0]["ports"] if p["name"] == name]
            return found[0]

        await there.add_port("net0", connects)

        async def is_down() -> bool:
            return await state(there, connects) == "down (the other side does not listen)"

        await eventually(is_down)
        for _ in range(2):
            await here.add_port("net0", listens)
            await joined(one, 1, 2)
            assert await state(there, connects) == "ok"
            assert await state(here, listens) == "listening, 1 connected"
            await here.remove_port("net0", listens)
            await eventually(is_down)
        await here.add_port("net0", listens)
        await joined(one, 1, 2)
        await there.remove_port("net0", connects)
        await there.add_port("net0", connects)
        await joined(one, 1, 2)


@pytest.mark.needs("tshark")
async def test_a_capture_of_a_switch_is_read_by_tshark_and_can_be_replayed(tmp_path: Path) -> None:
    file = tmp_path / "net.pcapng"
    port = free_port()
    made = topology("one", 1, f"tcp-listen:127.0.0.1:{port}"), topology("two", 2, f"tcp:127.0.0.1:{port}")
    async with both(tmp_path, *made) as (one, _):
        await joined(one, 1, 2)
        host = VbusHost(one.lab)
        await host.add_port("net0", f"pcapng:{file}")
        with pytest.raises(RefusedError, match="already"):
            await host.add_port("net0", f"pcapng:{file}")
        assert await pings(one, 1, 2) == (20, 0, 0)
        await host.remove_port("net0", f"pcapng:{file}")
        fields = ("-T", "fields", "-e", "ip.src", "-e", "ip.dst", "-e", "icmp.type", "-e", "icmp.checksum.status")
        read = await asyncio.to_thread(
            subprocess.run,
            ["tshark", "-r", str(file), "-Y", "icmp", *fields],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.split("\t") for line in read.stdout.splitlines()]
        assert lines.count(["10.77.0.1", "10.77.0.2", "8", "1"]) == 20
        assert lines.count(["10.77.0.2", "10.77.0.1", "0", "1"]) == 20

        moves = (await host.switches("net0"))[0]["moves"]

        async def is_over() -> bool:
            return not [each for each in (await host.switches("net0"))[0]["removable"] if each.startswith("replay:")]

        for _ in range(2):  # a replay that is over is a port no more
            await host.add_port("net0", f"replay:{file}")
            await eventually(is_over)
        shown = (await host.switches("net0"))[0]
        assert shown["moves"] > moves  # the guests' addresses were seen behind it
        assert not [each for each in shown["ports"] + shown["addresses"] if "replay:" in str(each)]
        await joined(one, 1, 2)


async def test_ports_that_cannot_be_are_refused_in_one_line(tmp_path: Path) -> None:
    async with running(topology("one", 1), tmp_path / "one") as lab:
        host = VbusHost(lab.lab)
        for port, says in (
            ("tap:", "a port such as"),
            ("nonsense", "a port such as"),
            ("pcapng:/nowhere/at/all", "No such file"),
            ("replay:/nowhere/at/all", "No such file"),
            ("tcp:127.0.0.1", "HOST:PORT"),
            ("tls-listen:127.0.0.1:0", "certificate"),
            ("broker:one", "another lab"),
            ("broker-listen:one", "another lab"),
            ("pcapng:/dev/full", "No space left"),
            ("pcapng:/tmp/" + "x" * 300, "File name too long"),
            ("replay:/etc/passwd", "not a pcapng file"),
        ):
            with pytest.raises(RefusedError, match=says) as refused:
                await host.add_port("net0", port)
            assert "\n" not in str(refused.value)
        with pytest.raises(RefusedError, match="no switch 'other'"):
            await host.add_port("other", "pcapng:x")
        with pytest.raises(RefusedError, match="no port"):
            await host.remove_port("net0", "tap:x")
        shown = (await host.switches())[0]
        assert [p["name"] for p in shown["ports"]] == ["g1-eth0"]
        assert json.dumps(shown)
