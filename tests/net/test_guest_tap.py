"""A partition's TAP: what its venet cannot carry, and what is said when it cannot be had as it was wanted."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from net_frames import BROADCAST
from net_loops import both_loops
from net_namespaces import inside, ip, namespaces
from venet_bridge import Lab, Partition, cable

from pvnet.core.errors import ConfigError
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.tap import Tap, TapOptions
from pvnet.runtime.topology import Topology
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.loopback import LoopbackNetwork
from pvnet.vbus.venet_north import VenetNorthConfig
from pvnet_services.guest_net import GuestNet
from pvnet_services.guest_tap import GuestTap

net_admin = pytest.mark.needs("net-admin", "ip")
FULL_BUFFERS = VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, sg=0, l4ro=0, mtu=1522)
"""A frame of this MTU fills its buffer of 1536 bytes, so that one cut off there looks as long as it may be."""
_SEND = """
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
    out.bind(("lab1", 0))
    for length in (1522, 4000, 1523, 60):
        out.send({target!r} + bytes([2, 0, 0, 0, 0, 9, 0x88, 0xB5]) + bytes([length & 255]) * length)
"""


@net_admin
@both_loops
async def test_a_frame_that_is_longer_than_the_network_carries_is_dropped_whole():
    with namespaces() as (namespace,):
        lab = Lab()
        first, second = Partition(lab, "a", FULL_BUFFERS), Partition(lab, "b", FULL_BUFFERS)
        for partition in (first, second):
            partition.device.set("mtu", "1522")
        cable(first, second)
        first.start()
        second.start()
        arrived = asyncio.Event()

        def turn() -> None:
            lab.run()
            if any(len(frame) == 74 for frame in second.received):
                arrived.set()

        guest = GuestTap(Tap(TapOptions("lab1", namespace, offloads=False, mtu=9000)))
        try:
            guest.use(first.interface, turn)
            await inside(namespace, sys.executable, "-c", _SEND.format(target=BROADCAST))
            await asyncio.wait_for(arrived.wait(), 20)
        finally:
            guest.close()
        ours = [len(frame) for frame in second.received if frame[12:14] == b"\x88\xb5"]
        assert ours == [1536, 74]
        assert guest.counters["too_long"] == 2
        assert not first.interface.counters["tx_bad_length"]


_SEND_UDP = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x' * 50, ('10.9.0.2', 9))"


@net_admin
@both_loops
@pytest.mark.parametrize("large", [False, True])
async def test_the_kernel_leaves_only_work_that_the_venet_hands_on(large):
    """Where the arena is kept in two copies frames are flat: the kernel has to compute checksums itself."""
    config = VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, tx_buffers=4)
    with namespaces() as (namespace,):
        lab = Lab()
        first = Partition(lab, "a", config if large else FULL_BUFFERS)
        second = Partition(lab, "b", config if large else FULL_BUFFERS)
        cable(first, second)
        first.start()
        second.start()
        arrived = asyncio.Event()

        def turn() -> None:
            lab.run()
            if any(frame[23:24] == b"\x11" and frame[12:14] == b"\x08\0" for frame in second.received):
                arrived.set()

        guest = GuestTap(Tap(TapOptions("lab1", namespace, addresses=("10.9.0.1/24",))))
        try:
            ip("-n", namespace, "neighbour", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "lab1")
            guest.use(first.interface, turn)
            await inside(namespace, sys.executable, "-c", _SEND_UDP)
            await asyncio.wait_for(arrived.wait(), 20)
        finally:
            guest.close()
        assert not first.interface.counters["tx_offload"]
        (needs_csum,) = [
            offload.needs_csum
            for frame, offload in zip(second.received, second.offloads, strict=True)
            if frame[12:14] == b"\x08\0" and frame[23] == 17
        ]
        assert needs_csum == large


def topology(**venet: object) -> Topology:
    return Topology.model_validate(
        {
            "lab": {"name": "taps"},
            "partition": [{"name": "a", "venet": [{"address": "10.9.0.1/24", "tap": "lab1", **venet}]}],
            "switch": [{"name": "net0"}],
        }
    )


def open_taps(made: Topology) -> None:
    """As a partition does when it starts; what it notes goes to the log on standard output."""

    async def main() -> None:
        endpoint = Endpoint(LoopbackNetwork().port("a"), lab="taps", name="a", role="partition")
        net = GuestNet(endpoint, made, "a")
        try:
            net.open_taps()
        finally:
            net.close()

    run_virtual(main())


def test_a_tap_that_cannot_be_had_names_the_venet_and_not_the_partition_which_its_caller_does():
    with pytest.raises(ConfigError, match=r"^venet\[0\]: network namespace 'nowhere-at-all'"):
        open_taps(topology(netns="nowhere-at-all"))


_AS_NOBODY = """
import os, sys
import test_guest_tap as tests
from pvnet.runtime import tap
tap._DEVICE = sys.argv[1]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
tests.open_taps(tests.topology())
"""


@net_admin
def test_a_tap_that_is_left_as_it_is_is_told_once():
    with namespaces() as (namespace,), tempfile.TemporaryDirectory(prefix="pvnet-tun-") as directory:
        device = Path(directory) / "tun"
        try:
            os.mknod(device, 0o666 | stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
            device.chmod(0o666)
            Path(directory).chmod(0o755)
            os.close(os.open(device, os.O_RDWR))
        except OSError as error:
            pytest.skip(f"no device files here: {error}")
        ip("-n", namespace, "tuntap", "add", "lab1", "mode", "tap", "vnet_hdr", "user", "65534")
        ip("-n", namespace, "link", "set", "lab1", "up", "mtu", "1400")
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _AS_NOBODY, str(device)]
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parent), *sys.path])
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": path}
        )
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if "tap_left_as_is" in line]
        assert "warning" in line
        assert "what='hardware address, MTU, address'" in line
        assert "wanted='02:00:00:00:01:01, 1500, 10.9.0.1/24'" in line
        assert "tap_unavailable" not in done.stdout
