"""Ordinary programs of two guests over venet: TAPs in network namespaces, rings in shared memory, the bridge between.

Each guest is a process with a TAP in a namespace of its own; what ``ping``, ``iperf3`` and HTTP send there goes through
its venet, the switch in the bridge process and the other guest's venet.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from net_namespaces import inside, ip, namespaces
from system_support import AGAIN, RunningLab, eventually, running

from pvnet.client.vbus import VbusHost
from pvnet.runtime.topology import BRIDGE, Topology

pytestmark = [pytest.mark.needs("net-admin", "ip", "ping", "iperf3"), pytest.mark.slow]
A, B = "10.77.0.1", "10.77.0.2"
FLOOD = 10_000
IPERF_S = 10
DOWNLOAD_BYTES = 64 << 20


def topology(names: list[str], mtu: int, **venet: Any) -> Topology:
    restart = AGAIN.model_dump()
    return Topology.model_validate(
        {
            "lab": {"name": names[0], "ready_timeout_s": 60.0},
            "partition": [
                {
                    "name": guest,
                    "restart": restart,
                    "venet": [{"address": f"{address}/24", "tap": "eth0", "netns": namespace, **venet}],
                }
                for guest, address, namespace in zip(("a", "b"), (A, B), names, strict=True)
            ],
            "switch": [{"name": "net0", "mtu": mtu}],
            "bridge": {"restart": restart},
        }
    )


async def ping(namespace: str, *options: str) -> tuple[int, int]:
    """(sent, received) of the kernel's ping, which fails when nothing comes back."""
    said = await inside(namespace, "sh", "-c", 'ping -q "$@" || true', "ping", *options)
    words = next(line for line in said.splitlines() if "packets transmitted" in line).split()
    return int(words[0]), int(words[3])


async def iperf(server: str, client: str, seconds: int) -> dict[str, Any]:
    """One iperf3 run from ``client`` to the guest in ``server``; its report."""
    serving = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", server, "iperf3", "-s", "-1", "--forceflush"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert serving.stdout is not None
        while b"listening" not in await serving.stdout.readline():
            pass
        report: dict[str, Any] = json.loads(await inside(client, "iperf3", "-J", "-c", B, "-t", str(seconds)))
        await serving.communicate()
    finally:
        if serving.returncode is None:
            serving.kill()
            await serving.wait()
    return report


async def download(server: str, client: str, directory: Path) -> None:
    """Fetch a file by HTTP and compare checksums."""
    data = random.Random(7).randbytes(1 << 20) * (DOWNLOAD_BYTES >> 20)
    (directory / "file").write_bytes(data)
    program = (
        "import functools, http.server as h\n"
        f"handler = functools.partial(h.SimpleHTTPRequestHandler, directory={str(directory)!r})\n"
        f"server = h.ThreadingHTTPServer(({B!r}, 8000), handler)\n"
        "print('ready', flush=True)\n"
        "server.serve_forever()\n"
    )
    serving = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", server, sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert serving.stdout is not None
        assert await serving.stdout.readline() == b"ready\n"
        fetch = (
            "import hashlib, urllib.request as u\n"
            f"print(hashlib.sha256(u.urlopen('http://{B}:8000/file', timeout=60).read()).hexdigest())\n"
        )
        said = await inside(client, sys.executable, "-c", fetch)
        assert said.strip() == hashlib.sha256(data).hexdigest()
    finally:
        serving.kill()
        await serving.wait()


async def interface_is_up(lab: RunningLab, guest: str) -> bool:
    interfaces = (await lab.status(guest))["net"]["interfaces"]
    return [interface["link"] for interface in interfaces] == [True]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mtu", [1500, 9000])
async def test_programs_of_two_guests_talk_through_venet(mtu: int, tmp_path: Path) -> None:
    with namespaces(2) as names:
        first, second = names
        async with running(topology(names, mtu), tmp_path / "labs") as lab:
            status = await lab.status("a")
            assert status["net"]["bridge"]["shared"], "rings in shared memory"
            assert await ping(first, "-f", "-c", str(FLOOD), B) == (FLOOD, FLOOD)
            assert await ping(first, "-c", "3", "-i", "0.2", "-M", "do", "-s", str(mtu - 28), B) == (3, 3)
            report = await iperf(second, first, IPERF_S)
            sent, received = report["end"]["sum_sent"]["bytes"], report["end"]["sum_received"]["bytes"]
            assert received > sent * 0.9 > 100 << 20, "it carries, and what was sent arrives"
            await download(second, first, tmp_path)
            status = await lab.status("a")
            assert status["net"]["bridge"]["counters"].get("lost_wakeup_rescues", 0) == 0
            shown = (await VbusHost(lab.lab).switches("net0"))[0]
            carried = sum(port["rx_bytes"] for port in shown["ports"])
            assert carried > sent, "all of it went through the switch"


@pytest.mark.timeout(300)
async def test_traffic_resumes_after_a_guest_or_the_bridge_was_killed(tmp_path: Path) -> None:
    with namespaces(2) as names:
        first, _ = names
        async with running(topology(names, 1500), tmp_path / "labs") as lab:
            host = VbusHost(lab.lab)
            assert await ping(first, "-f", "-c", "200", B) == (200, 200)

            async def nobody_has_it_open() -> bool:
                return (await host.bus("b"))["devices"][0]["opened_by"] is None

            assert not await nobody_has_it_open()
            pid = lab.kill("b")
            await lab.restarted("b", pid)
            await eventually(lambda: interface_is_up(lab, "b"))
            assert await ping(first, "-f", "-c", "200", B) == (200, 200)

            # The device is taken away: DEVDROP, the link goes down; given back: traffic resumes.
            await host.detach("b-eth0", force=True)

            async def is_down() -> bool:
                return not await interface_is_up(lab, "b")

            await eventually(is_down)
            assert (await host.bus("b"))["devices"] == []
            assert await ping(first, "-c", "2", "-i", "0.2", "-W", "0.2", B) == (2, 0)
            await host.attach("b-eth0", "b")
            await eventually(lambda: interface_is_up(lab, "b"))
            assert await ping(first, "-f", "-c", "200", B) == (200, 200)

            pid = lab.kill(BRIDGE)
            await lab.restarted(BRIDGE, pid)
            for guest in ("a", "b"):
                await eventually(lambda guest=guest: interface_is_up(lab, guest))
            assert await ping(first, "-f", "-c", "200", B) == (200, 200)


@pytest.mark.timeout(300)
async def test_guests_without_a_direct_path_talk_over_the_broker(tmp_path: Path) -> None:
    with namespaces(2) as names:
        first, second = names
        made = topology(names, 1500)
        made = made.model_copy(update={"lab": made.lab.model_copy(update={"unix": False})})
        async with running(made, tmp_path / "labs") as lab:
            assert not (await lab.status("a"))["net"]["bridge"]["shared"]
            assert await ping(first, "-c", "50", "-i", "0.01", B) == (50, 50)
            report = await iperf(second, first, 2)
            assert report["end"]["sum_received"]["bytes"] > 1 << 20


@pytest.mark.timeout(300)
async def test_the_host_joins_the_network_of_the_guests_by_a_tap(tmp_path: Path) -> None:
    """``attach tap:NAME``: a port of the switch in another namespace, which stands for the host's network."""
    with namespaces(3) as names:
        outside = names[2]
        async with running(topology(names[:2], 1500), tmp_path / "labs") as lab:
            host = VbusHost(lab.lab)
            port = f"tap:pv0@{outside}"
            await host.add_port("net0", port)
            ip("-n", outside, "addr", "add", "10.77.0.100/24", "dev", "pv0")
            ip("-n", outside, "link", "set", "pv0", "up")
            assert await ping(outside, "-f", "-c", "500", B) == (500, 500)
            await host.remove_port("net0", port)
            with pytest.raises(AssertionError, match="pv0"):
                ip("-n", outside, "link", "show", "pv0")
