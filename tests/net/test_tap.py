"""Real TAP devices in namespaces that the test makes: the kernel is the other side."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Self

import pytest
from net_frames import BROADCAST, MAC_A, MAC_B, ethernet, gso_tcp
from net_loops import both_loops
from net_namespaces import inside, ip, namespaces, run_in, transfer

from pvnet.core.errors import ConfigError
from pvnet.net.running_switch import RunningSwitch
from pvnet.net.tap_port import TapPort
from pvnet.runtime.tap import MAX_FRAME, Tap, TapOptions
from pvnet.vbus.offload import DropReason, finish
from pvnet.vbus.packet import ACCEPTS_NOTHING, Offload, Packet, packet_of
from pvnet.vbus.ping import Ping
from pvnet.vbus.responder import Responder
from pvnet.vbus.switch import SwitchOptions
from pvnet.vbus.vnet_header import encode_vnet_header

net_admin = pytest.mark.needs("net-admin", "ip", "ping")
QUIET = SwitchOptions(probe_interval_s=0.0)


@pytest.fixture
def two_namespaces():
    with namespaces(2) as names:
        yield names


@pytest.fixture
def namespace():
    with namespaces(1) as names:
        yield names[0]


class Lab:
    """A switch with a TAP in each of several namespaces: 10.9.0.1, 10.9.0.2, …"""

    def __init__(self, namespaces: list[str], *, mtu: int = 1500, offloads: tuple[bool, ...] = (True, True)) -> None:
        self.switch = RunningSwitch(QUIET)
        self.ports = []
        for number, (name, offload) in enumerate(zip(namespaces, offloads, strict=True), start=1):
            addresses = (f"10.9.0.{number}/24", f"fd09::{number}/64")
            tap = Tap(TapOptions(f"lab{number}", name, offloads=offload, mtu=mtu, addresses=addresses))
            port = TapPort(tap)
            if not offload:
                port.accepts = ACCEPTS_NOTHING
            self.switch.plug(port)
            port.start()
            self.ports.append(port)

    def drops(self) -> list[object]:
        ports = self.switch.shown()["ports"]
        assert isinstance(ports, list)
        return [port["drops"] for port in ports]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.switch.close()
        for port in self.ports:
            port.close()


@net_admin
@pytest.mark.parametrize(
    ("mtu", "offloads"), [(1500, (True, True)), (9000, (True, True)), (1500, (True, False)), (1500, (False, False))]
)
@both_loops
async def test_ping_flood_and_tcp_between_two_namespaces(two_namespaces, mtu, offloads):
    first, second = two_namespaces
    with Lab(two_namespaces, mtu=mtu, offloads=offloads) as lab:
        out = await inside(first, "ping", "-f", "-q", "-c", "200", "-s", str(mtu - 28), "-M", "do", "10.9.0.2")
        assert "200 packets transmitted, 200 received, 0% packet loss" in out
        await transfer(first, second, "10.9.0.2", 20)
        await transfer(second, first, "fd09::1", 20)
        longest = max(port.counters["wakes"] for port in lab.ports)
        assert longest > 0
        plugged = lab.switch.shown()["ports"]
        mean = plugged[0]["rx_bytes"] / plugged[0]["rx_packets"]
        if offloads[0]:
            assert mean > 2 * mtu or mtu == 9000, "the kernel handed over more than single frames"
        else:
            assert mean <= mtu + 14
        assert lab.drops() == [{}, {}]
        assert all(not port.counters["refused"] for port in lab.ports)


@net_admin
@both_loops
async def test_the_kernel_takes_the_frames_that_we_cut(two_namespaces):
    """One side hands over 64 KiB, the other takes single frames: every one is cut here and checked by the kernel."""
    first, second = two_namespaces
    with Lab(two_namespaces, offloads=(True, False)) as lab:
        await transfer(first, second, "10.9.0.2", 8)
        await transfer(first, second, "fd09::2", 8)
        ports = lab.switch.shown()["ports"]
        assert ports[1]["tx_packets"] > 5 * ports[0]["rx_packets"], "large packets went in, frames came out"
        assert lab.drops() == [{}, {}]
    statistics = run_in(second, "cat", "/proc/net/snmp")
    tcp = [line.split() for line in statistics.splitlines() if line.startswith("Tcp:")]
    assert dict(zip(*tcp, strict=True))["InCsumErrors"] == "0"


@net_admin
@both_loops
async def test_the_built_in_host_answers_the_kernel_and_asks_it(namespace):
    tap = Tap(TapOptions("lab1", namespace, addresses=("10.9.0.1/24",)))
    port = TapPort(tap)
    host = Responder(MAC_B, IPv4Interface("10.9.0.2/24"))
    loop = asyncio.get_running_loop()

    def send(frames: list[bytes]) -> None:
        if frames:
            assert port.deliver([packet_of(frame) for frame in frames]) == len(frames)

    port.receive = lambda packets: send(host.receive(packets, loop.time()))
    port.start()
    try:
        out = await inside(namespace, "ping", "-f", "-q", "-c", "200", "-s", "1472", "10.9.0.2")
        assert "200 packets transmitted, 200 received, 0% packet loss" in out
        udp = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(20); s.connect(('10.9.0.2', 7))\n"
        udp += "for n in (0, 1, 1472): s.send(b'x' * n); assert s.recv(2000) == b'x' * n"
        await inside(namespace, sys.executable, "-c", udp)

        ping = Ping(identifier=4, count=50, interval_s=0.0, timeout_s=10.0)
        over = asyncio.Event()

        def on_icmp(_sender: IPv4Address, message: bytes, now: float) -> None:
            if ping.reply(message, now):
                loop.call_soon(step)

        def step() -> None:
            for message in ping.poll(loop.time()):
                send(host.send(IPv4Address("10.9.0.1"), 1, message, loop.time()))
            if ping.done:
                over.set()

        host.on_icmp = on_icmp
        step()
        await asyncio.wait_for(over.wait(), 20)
        assert ping.result().received == 50
        assert ping.result().corrupt == 0
    finally:
        port.close()


@net_admin
def test_the_interface_has_what_was_asked_for_and_goes_away_with_the_process(namespace):
    options = TapOptions("lab1", namespace, mtu=4000, mac=MAC_A, addresses=("10.9.0.1/20", "fd09::1/64", "fd09::5/64"))
    here = Path("/proc/thread-self/ns/net").readlink()
    tap = Tap(options)
    assert (tap.mtu, tap.mac) == (4000, MAC_A)
    shown = ip("-n", namespace, "address", "show", "dev", "lab1")
    assert "mtu 4000" in shown
    assert "link/ether 02:00:00:00:0a:01" in shown
    assert re.search(r"inet 10.9.0.1/20 .*\n", shown)
    assert "inet6 fd09::1/64" in shown
    assert "inet6 fd09::5/64" in shown
    assert re.search(r"lab1: <[^>]*\bUP\b", shown)
    assert "lab1" not in ip("link", "show"), "it is in its namespace, not in ours"
    assert Path("/proc/thread-self/ns/net").readlink() == here
    tap.close()
    tap.close()
    assert tap.fileno() == -1
    assert "lab1" not in ip("-n", namespace, "link", "show")


@net_admin
def test_a_frame_written_is_received_and_a_frame_sent_is_read_with_its_header(namespace):
    tap = Tap(TapOptions("lab1", namespace, mac=MAC_A, addresses=("10.9.0.1/24",)))
    try:
        buffer = memoryview(bytearray(MAX_FRAME))
        while tap.readinto(buffer):
            pass
        question = ethernet(b"\0\1\x08\0\6\4\0\1" + MAC_B + b"\x0a\x09\0\2" + bytes(6) + b"\x0a\x09\0\1", 0x0806,
                            source=MAC_B, destination=BROADCAST)  # fmt: skip
        assert tap.writev([bytes(10), question[:20], memoryview(question)[20:]])
        header, frame = buffer[:10], buffer[10:]
        answers = []
        while size := tap.readv([header, frame]):
            answers.append((bytes(header), bytes(frame[: size - 10])))
        (answer,) = [one for one in answers if one[1][12:14] == b"\x08\x06" and one[1][20:22] == b"\0\2"]
        assert answer[0] == bytes(10)
        assert answer[1][6:12] == MAC_A
    finally:
        tap.close()


@net_admin
@both_loops
async def test_what_the_kernel_refuses_is_counted_and_the_rest_goes_through(namespace):
    tap = Tap(TapOptions("lab1", namespace))
    port = TapPort(tap)
    gone = asyncio.Event()
    port.on_gone = gone.set
    good = packet_of(ethernet(bytes(46), 0x88B5))
    try:
        bad = packet_of(ethernet(bytes(46), 0x88B5), Offload(True, 60000, 16))
        worse = packet_of(ethernet(bytes(46), 0x88B5), Offload(True, 70000, 16))
        assert port.deliver([good, bad, worse, good, gso_tcp(bytes(30000), 1448)]) == 5
        assert port.counters["refused"] == 2
        assert "lab1: 3 " in re.sub(r" +", " ", _received(namespace))

        ip("-n", namespace, "link", "set", "lab1", "down")
        assert port.deliver([good]) == 1
        assert port.counters["down"] == 1

        port.start()
        ip("-n", namespace, "link", "delete", "lab1")
        await asyncio.wait_for(gone.wait(), 10)
        assert tap.fileno() == -1
        assert port.deliver([good]) == 1
    finally:
        port.close()


def _received(namespace: str) -> str:
    """Device name and received packets."""
    lines = run_in(namespace, "cat", "/proc/net/dev").splitlines()
    return "\n".join(" ".join([(words := line.split())[0], words[2], ""]) for line in lines if "lab1" in line)


@net_admin
@both_loops
async def test_a_paused_port_reads_nothing_until_it_is_started_again(namespace):
    tap = Tap(TapOptions("lab1", namespace, addresses=("10.9.0.1/24",)))
    port = TapPort(tap)
    arrived = asyncio.Event()
    seen: list[Packet] = []

    def receive(packets: list[Packet]) -> None:
        seen.extend(packet.copy() for packet in packets)
        arrived.set()

    port.receive = receive
    port.pause()
    port.start()
    try:
        await inside(namespace, sys.executable, "-c", _SEND_ONE)
        await asyncio.wait_for(arrived.wait(), 10)
        port.pause()
        arrived.clear()
        await inside(namespace, sys.executable, "-c", _SEND_ONE)
        assert not arrived.is_set()
        port.start()
        await asyncio.wait_for(arrived.wait(), 10)
    finally:
        port.close()


_SEND_ONE = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('10.9.0.9', 9))"


@net_admin
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("payload", [40000, 1449])
def test_our_segments_are_those_of_the_kernel(two_namespaces, family, payload):
    """The same large packet goes once into a TAP and is cut by the kernel for a second TAP, and once through us."""
    packet = gso_tcp(os.urandom(payload), 1448, version=family, options=b"\x01" * 12, identification=7, flags=0x19)
    where = two_namespaces[0]
    with ExitStack() as stack:
        source = Tap(TapOptions("in", where))
        stack.callback(source.close)
        target = Tap(TapOptions("out", where, offloads=False))
        stack.callback(target.close)
        ip("-n", where, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        for device in ("in", "out"):
            ip("-n", where, "link", "set", device, "master", "bridge")
        ip("-n", where, "link", "set", "bridge", "up")
        buffer = memoryview(bytearray(MAX_FRAME))
        while target.readinto(buffer):
            pass
        assert source.writev([encode_vnet_header(packet.offload), *packet.frags])
        theirs = []
        while size := target.readinto(buffer):
            if buffer[10:16] == MAC_B:
                theirs.append(bytes(buffer[10:size]))
    ours = finish(packet)
    assert not isinstance(ours, DropReason)
    assert [_plain(frame, family) for frame in theirs] == [_plain(one.tobytes(), family) for one in ours]


def _plain(frame: bytes, family: int) -> str:
    """A frame with a TCP checksum of 0 written as the kernel writes it: ffff, which means the same."""
    at = 14 + (20 if family == 4 else 40) + 16
    return (frame[:at] + b"\xff\xff" + frame[at + 2 :] if frame[at : at + 2] == b"\0\0" else frame).hex()


# What goes wrong, in words


@net_admin
def test_a_name_that_is_taken_says_by_whom(namespace):
    tap = Tap(TapOptions("lab1", namespace))
    try:
        with pytest.raises(ConfigError, match=r"TAP lab1: in use \(by another process, or another port of this one\)"):
            Tap(TapOptions("lab1", namespace))
        ip("-n", namespace, "link", "add", "dummy0", "type", "bridge")
        with pytest.raises(ConfigError, match="TAP dummy0: an interface of this name is there and is not a plain TAP"):
            Tap(TapOptions("dummy0", namespace))
    finally:
        tap.close()


@net_admin
def test_an_interface_that_must_be_there_and_is_not(namespace):
    with pytest.raises(ConfigError, match=r"TAP lab1: no such interface; make it with: ip tuntap add lab1"):
        Tap(TapOptions("lab1", namespace, create=False))
    ip("-n", namespace, "tuntap", "add", "lab1", "mode", "tap", "vnet_hdr")
    tap = Tap(TapOptions("lab1", namespace, create=False))
    tap.close()
    assert "lab1" in ip("-n", namespace, "link", "show"), "it was not ours to remove"


@pytest.fixture
def open_device():
    """A ``/dev/net/tun`` that everybody may open, as most distributions have it."""
    with tempfile.TemporaryDirectory(prefix="pvnet-tun-") as directory:
        path = Path(directory) / "tun"
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
            path.chmod(0o666)
            Path(directory).chmod(0o755)
            os.close(os.open(path, os.O_RDWR))
        except OSError as error:
            pytest.skip(f"no device files here: {error}")
        yield path


_SHOW = "print(sorted((each.what, each.wanted) for each in tap.left_as_is), tap.mtu, tap.mac.hex(':'))\n"


@net_admin
def test_a_device_made_for_a_user_works_without_rights_and_stays_as_it_is(namespace, open_device):
    ip("-n", namespace, "tuntap", "add", "lab1", "mode", "tap", "vnet_hdr", "user", "65534")
    ip("-n", namespace, "link", "set", "lab1", "address", "02:00:00:00:00:77", "mtu", "4000")
    wanted = f"mtu=1500, mac={MAC_A!r}, addresses=('10.9.0.1/24', 'fd09::1/64')"
    out = _as_nobody(f"tap = Tap(TapOptions('lab1', {wanted}))\n" + _SHOW, namespace, open_device)
    assert out == (
        "[('MTU', '1500'), ('address', '10.9.0.1/24'), ('address', 'fd09::1/64'), "
        "('hardware address', '02:00:00:00:0a:01'), ('state', 'up')] 4000 02:00:00:00:00:77\n"
    )
    ip("-n", namespace, "link", "set", "lab1", "address", "02:00:00:00:0a:01", "mtu", "1500", "up")
    for address in ("10.9.0.1/24", "fd09::1/64"):
        ip("-n", namespace, "address", "add", address, "dev", "lab1")
    talk = (
        "frame = bytes(10) + b'\\xff' * 6 + bytes([2, 0, 0, 0, 0, 9]) + bytes([0x88, 0xb5]) + bytes(46)\n"
        "assert tap.writev([frame])\n"
    )
    out = _as_nobody(f"tap = Tap(TapOptions('lab1', {wanted}))\n" + _SHOW + talk, namespace, open_device)
    assert out == "[] 1500 02:00:00:00:0a:01\n", "nothing to say where everything is as it was wanted"
    assert "lab1: 1 " in _received(namespace)


@net_admin
def test_what_others_made_for_somebody_else_is_refused(namespace, open_device):
    ip("-n", namespace, "tuntap", "add", "lab1", "mode", "tap", "vnet_hdr", "user", "1")
    program = "try: Tap(TapOptions('{}', mtu=4000))\nexcept ConfigError as error: print(type(error).__name__, error)"
    for name in ("lab1", "lab2"):
        out = _as_nobody(program.format(name), namespace, open_device)
        assert out.startswith(f"UnavailableError TAP {name}: not permitted: needs root or CAP_NET_ADMIN")


@net_admin
def test_with_rights_a_device_that_was_there_is_changed(namespace):
    ip("-n", namespace, "tuntap", "add", "lab1", "mode", "tap", "vnet_hdr", "user", "65534")
    tap = Tap(TapOptions("lab1", namespace, mtu=4000, mac=MAC_A, addresses=("10.9.0.1/24", "fd09::1/64")))
    tap.close()
    assert (tap.left_as_is, tap.mtu, tap.mac) == ((), 4000, MAC_A)
    shown = ip("-n", namespace, "address", "show", "dev", "lab1")
    assert "inet 10.9.0.1/24" in shown
    assert "inet6 fd09::1/64" in shown


@net_admin
def test_values_that_the_kernel_refuses_name_the_property(namespace):
    with pytest.raises(ConfigError, match=r"TAP lab1: MTU 70000: Invalid argument"):
        Tap(TapOptions("lab1", namespace, mtu=70000))
    with pytest.raises(
        ConfigError, match=r"TAP lab1: hardware address ff:ff:ff:ff:ff:ff: Cannot assign requested address"
    ):
        Tap(TapOptions("lab1", namespace, mac=BROADCAST))
    assert "lab1" not in ip("-n", namespace, "link", "show"), "nothing is left behind"


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "tap%d", "..", "a b"])
def test_a_bad_name_is_refused_before_anything_is_done(name):
    with pytest.raises(ConfigError, match="1 to 15 letters"):
        Tap(TapOptions(name))


def test_a_bad_address_is_refused_before_anything_is_done():
    with pytest.raises(ConfigError, match=r"address '10.0.0.300/24': expected for example 10.0.0.1/24"):
        Tap(TapOptions("lab1", addresses=("10.0.0.300/24",)))


def test_a_namespace_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"'nowhere-at-all': /run/netns/nowhere-at-all: No such file"):
        Tap(TapOptions("lab1", "nowhere-at-all"))
    with pytest.raises(ConfigError, match="network namespace '/proc/self/status'"):
        Tap(TapOptions("lab1", "/proc/self/status"))


def _as_nobody(program: str, namespace: str | None = None, device: Path | None = None) -> str:
    """What a program without rights prints; modules are loaded before the rights go, for root's home may hold them."""
    loaded = "import os\nfrom pvnet.core.errors import ConfigError\nfrom pvnet.runtime import tap as module\n"
    loaded += "from pvnet.runtime.tap import Tap, TapOptions\n"
    if device is not None:
        loaded += f"module._DEVICE = {str(device)!r}\n"
    drop = "if os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    where = [] if namespace is None else ["ip", "netns", "exec", namespace]
    command = [*where, sys.executable, "-c", loaded + drop + program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("net-admin")
def test_without_rights_the_message_says_what_is_needed_and_what_happens_otherwise():
    out = _as_nobody("try: Tap(TapOptions('lab1'))\nexcept ConfigError as error: print(error)")
    assert re.match(r"TAP lab1: .*permitted|TAP lab1: /dev/net/tun may not be opened", out)
    assert "needs root or CAP_NET_ADMIN" in out
    assert "built-in responder (ARP, ping, UDP echo)" in out


@net_admin
def test_without_rights_a_namespace_cannot_be_entered(namespace):
    out = _as_nobody(f"try: Tap(TapOptions('lab1', {namespace!r}))\nexcept ConfigError as error: print(error)")
    assert out == f"network namespace '{namespace}': entering needs root or CAP_SYS_ADMIN\n"


def test_a_device_file_that_is_missing_names_the_module(monkeypatch):
    monkeypatch.setattr("pvnet.runtime.tap._DEVICE", "/dev/net/there-is-none")
    with pytest.raises(ConfigError, match=r"there-is-none: No such file or directory; the kernel module 'tun'"):
        Tap(TapOptions("lab1"))


@net_admin
@both_loops
async def test_where_the_kernel_has_no_room_the_rest_is_handed_back(namespace):
    """A TAP takes what it is given; a full socket in its place answers EAGAIN as a bounded one would."""
    tap = Tap(TapOptions("lab1", namespace))
    port = TapPort(tap)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            ours.setblocking(False)
            os.dup2(ours.fileno(), tap.fileno())
            packets = [packet_of(ethernet(bytes([number]) * 60, 0x88B5)) for number in range(100)]
            total = 0
            while (taken := port.deliver(packets)) == len(packets):
                total += taken
            total += taken
            assert port.counters["queue_full"] == 1
            theirs.setblocking(False)
            for number in range(total):
                assert theirs.recv(100) == bytes(10) + packets[number % 100].tobytes()
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            assert port.deliver(packets[:1]) == 1
        finally:
            port.close()
