"""The venet scenario: its two peers carry real packets, its figures are read right, and no namespace stays behind."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from pvnet.bench import netns, venet
from pvnet.bench.netns import Route, namespaces, ping, remove_strays, throughput, what_is_missing
from pvnet.bench.placement import Placement
from pvnet.bench.tap_loop import open_tap
from pvnet.bench.venet import Plan, measure_rtt, measure_throughput, pvnet_contender, venet_topology
from pvnet.bench.venet_peers import tap_loop, veth
from pvnet.core.errors import UnreachableError

CPUS = Placement.apart_or_together().cpus
needs_network = pytest.mark.skipif(what_is_missing() is not None, reason=f"venet bench: {what_is_missing()}")


def all_namespaces() -> list[str]:
    place = Path("/run/netns")
    return sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []


def our_namespaces() -> list[str]:
    return [name for name in all_namespaces() if name.startswith(f"pvb{os.getpid()}")]


def runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


# --- without the network ----------------------------------------------------------------------------------------------


async def test_where_it_cannot_be_measured_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(netns.shutil, "which", lambda name: None if name == "iperf3" else f"/bin/{name}")
    assert await venet.bench_venet(quick=True, broker="auto", cases={"rtt"}, tell=said.append) == []
    monkeypatch.setattr(netns.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(netns.os, "geteuid", lambda: 1000)
    assert await venet.bench_venet(quick=True, broker="auto", cases={"rtt"}, tell=said.append) == []
    assert said == [
        "venet: not measured: it needs the program iperf3",
        "venet: not measured: it needs root, for network namespaces and TAP devices",
    ]


def answers(*times: str) -> str:
    return "".join(f"64 bytes from 10.77.1.2: icmp_seq={n} ttl=64 time={t} ms\n" for n, t in enumerate(times, 1))


async def test_ping_is_the_middle_half_and_counts_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def said(*words: str, timeout: float, tethered: bool) -> str:
        return "PING 10.77.1.2\n" + answers("0.001", "0.040", "0.050", "9") + "4 packets\n"

    monkeypatch.setattr(netns, "command", said)
    route = Route("x", "near", "far", "10.77.1.2")
    assert await ping(route, 6, 0.002, CPUS) == (pytest.approx(45e-6), 2)


async def test_a_ping_that_nobody_answers_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def said(*words: str, timeout: float, tethered: bool) -> str:
        return "3 packets transmitted, 0 received\n"

    monkeypatch.setattr(netns, "command", said)
    with pytest.raises(UnreachableError, match="3 packets transmitted"):
        await ping(Route("x", "near", "far", "10.77.1.2"), 3, 0.002, CPUS)


async def test_throughput_is_what_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    async def said(*words: str, timeout: float, tethered: bool) -> str:
        end = {"sum_sent": {"bits_per_second": 900.0, "retransmits": 7}, "sum_received": {"bits_per_second": 800.0}}
        return json.dumps({"end": end})

    monkeypatch.setattr(netns, "command", said)
    assert await throughput(Route("x", "near", "far", "10.77.1.2"), 1, CPUS) == (100.0, 7)


def test_the_lab_has_two_guests_with_a_tap_each() -> None:
    topology = venet_topology("auto", "pvb1pa", "pvb1pb")
    (near,), (far,) = (partition.venet for partition in topology.partitions)
    assert (near.netns, near.address, far.netns, far.address) == ("pvb1pa", "10.77.0.1/24", "pvb1pb", "10.77.0.2/24")
    assert near.switch == far.switch == topology.switches[0].name
    assert near.offloads
    assert far.offloads


# --- with it ----------------------------------------------------------------------------------------------------------


@needs_network
@pytest.mark.parametrize("peer", [veth, tap_loop])
async def test_a_peer_carries_pings_and_tcp(peer) -> None:
    async with peer() as route:
        assert len(our_namespaces()) == 2
        seconds, lost = await ping(route, 20, 0.002, CPUS)
        assert seconds > 0
        assert lost == 0
        async with netns.iperf3_server(route, CPUS):
            rate, _ = await throughput(route, 1, CPUS)
        assert rate > 1e6
        assert all(runs(process) for process in route.processes)
    assert our_namespaces() == []
    assert not any(runs(process) for process in route.processes)


@needs_network
@pytest.mark.slow
async def test_two_guests_carry_pings_and_tcp() -> None:
    async with namespaces("pa", "pb") as (near, far):
        async with pvnet_contender(venet_topology("auto", near, far)) as route:
            assert route.facts == {"shared_memory": True}
            assert len(route.processes) == 3
            _, lost = await ping(route, 20, 0.002, CPUS)
            assert lost == 0
            async with netns.iperf3_server(route, CPUS):
                rate, _ = await throughput(route, 1, CPUS)
            assert rate > 1e6
        assert not any(runs(process) for process in route.processes)
    assert our_namespaces() == []


@needs_network
async def test_a_comparison_takes_turns_and_says_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    async def rate(route: Route, seconds: int, cpus: object) -> tuple[float, int]:
        turns.append(route.name)
        return 50.0 if route.name == "pvnet" else 100.0, 1

    async def trip(route: Route, count: int, interval: float, cpus: object) -> tuple[float, int]:
        for process in route.processes:
            assert os.sched_getaffinity(process) == {CPUS[0]}
        return (2e-5, 3) if route.name == "pvnet" else (1e-5, 0)

    monkeypatch.setattr(venet, "throughput", rate)
    monkeypatch.setattr(venet, "ping", trip)
    said: list[str] = []
    async with tap_loop() as ours, veth() as theirs:
        routes = [Route("pvnet", ours.near, ours.far, ours.far_address, ours.processes), theirs]
        fast = await measure_throughput(routes, Plan(3, 1), said.append)
        slow = await measure_rtt(routes, Plan(2, 10), said.append)
        assert os.sched_getaffinity(ours.processes[0]) == os.sched_getaffinity(0)
    assert turns == ["pvnet", "veth", "veth", "pvnet", "pvnet", "veth"]
    assert (fast.metric, fast.ratios, fast.notes["tcp_resent"]) == (
        "bytes_per_s",
        {"veth": 0.5},
        {"pvnet": 3, "veth": 3},
    )
    assert (slow.metric, slow.ratios, slow.lost) == ("round_trip_s", {"veth": 2.0}, 6)
    assert slow.notes["placement"] == f"ping and all that forwards on CPU {CPUS[0]}"
    assert re.match(r"venet/throughput: .* veth .*\(we: 0\.50 of it\)", said[0])
    assert re.match(r"venet/rtt: 20\.0 us, 6 lost; veth 10\.0 us \(we: 2\.00 x\)", said[1])


@needs_network
async def test_namespaces_go_however_the_measurement_ends() -> None:
    async def measure() -> None:
        async with namespaces("xa", "xb") as (near, far):
            assert our_namespaces() == [near, far]
            entered.set()
            await asyncio.get_running_loop().create_future()

    entered = asyncio.Event()
    task = asyncio.create_task(measure())
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert our_namespaces() == []


@needs_network
async def test_namespaces_of_a_killed_measurement_go_with_the_next_one() -> None:
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    stray = f"pvb{dead.pid}pa"
    await netns.command("ip", "netns", "add", stray)
    async with namespaces("xa") as (ours,):
        await remove_strays()
        assert our_namespaces() == [ours], "ours is in use"
        assert stray not in all_namespaces()


@needs_network
async def test_a_tap_leaves_us_in_our_own_namespace() -> None:
    before = Path("/proc/self/ns/net").stat().st_ino  # noqa: ASYNC240
    async with namespaces("xa") as (name,):
        tap = open_tap(name, "bench0")
        assert "bench0" in await netns.command("ip", "-n", name, "link", "show")
        with pytest.raises(OSError, match="busy"):
            open_tap(name, "bench0")
        os.close(tap)
    assert Path("/proc/self/ns/net").stat().st_ino == before  # noqa: ASYNC240


@needs_network
async def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(UnreachableError, match=r"ip netns delete pvbnone: .*pvbnone"):
        await netns.command("ip", "netns", "delete", "pvbnone")
    with pytest.raises(UnreachableError, match="did not end"):
        await netns.command("sleep", "60", timeout=0.05, tethered=True)
