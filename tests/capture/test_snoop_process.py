"""Snoop without a change of code: the environment, ``[lab] snoop``, ``?snoop=``."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from pvnet.capture.model import LINKTYPE_ETHERNET, Direction, Interface, Record
from pvnet.capture.pvcap import open_capture
from pvnet.client.lab import Lab
from pvnet.core.errors import ConfigError
from pvnet.core.names import NodeName
from pvnet.net.running_switch import RunningSwitch
from pvnet.net.snooped_switch import SnoopedSwitch
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.snoop import (
    SNOOP_VARIABLE,
    open_sink,
    snoop_target,
    snooping,
    split_snoop,
    start_program_snoop,
    stop_snoop,
    topology_json,
)
from pvnet.runtime.topology import BrokerConfig, LabConfig, PartitionConfig, Topology
from pvnet.runtime.topology_file import TopologyError, load_topology, parse_topology
from pvnet.transport.loopback import LoopbackNetwork
from pvnet.vbus.packet import ACCEPTS_NOTHING, Packet, packet_of
from pvnet_services import attach_snoop
from pvnet_services.attach_snoop import snooping_opener, vfio_user_tap
from pvnet_services.switch_ports import SwitchPorts
from pvnet_services.switches import Switches


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv(SNOOP_VARIABLE, raising=False)


@pytest.fixture
def _log_as_before():
    """A Lab sets the log up for programs that have not; later tests find it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@asynccontextmanager
async def an_endpoint(name: str = "lpar1", network: LoopbackNetwork | None = None) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint((network or LoopbackNetwork()).port(NodeName(name)), lab="lab", name=name, role="test")
    async with endpoint:
        yield endpoint


def read(path: Path) -> list[Record]:
    with open_capture(path) as reader:
        records = list(reader)
        assert not reader.problems
        return records


def topology(snoop: str | None = None) -> Topology:
    broker = BrokerConfig(use="mqtt://broker.example", username="me", password="topsecret")
    return Topology(lab=LabConfig(name="lab", snoop=snoop), broker=broker)


def test_who_records_where(monkeypatch):
    lab = topology("pcapng:of-lab")
    assert snoop_target(topology(), is_node=True) is None
    assert str(snoop_target(lab, is_node=True)) == "pcapng:of-lab"
    assert snoop_target(lab, is_node=False) is None, "what programs send the nodes receive"
    monkeypatch.setenv(SNOOP_VARIABLE, " pcapng:|cat ")
    assert str(snoop_target(lab, is_node=True)) == "pcapng:|cat"
    assert str(snoop_target(topology(), is_node=False)) == "pcapng:|cat"
    monkeypatch.setenv(SNOOP_VARIABLE, "off")
    assert snoop_target(lab, is_node=True) is None
    monkeypatch.setenv(SNOOP_VARIABLE, "file.pcapng")
    with pytest.raises(ConfigError, match=r"PVNET_SNOOP: snoop 'file.pcapng': expected pcapng:FILE"):
        snoop_target(lab, is_node=False)


def test_the_topology_in_a_capture_has_no_password():
    text = topology_json(topology("pcapng:x"))
    assert "topsecret" not in text
    assert "broker.example" not in text
    assert Topology.model_validate_json(text).lab.snoop == "pcapng:x"


async def test_two_nodes_and_a_program(tmp_path, monkeypatch):
    monkeypatch.setenv(SNOOP_VARIABLE, f"pcapng:{tmp_path}/t.pvcap.pcapng")
    network = LoopbackNetwork()
    async with an_endpoint("lpar1", network) as one, an_endpoint("app", network) as app:
        one.on("hcall", lambda call: one.reply(call, Envelope(hcall_reply={"rc": 5})))
        app_sink = start_program_snoop(app, topology())
        async with snooping(one, topology()):
            await app.call("lpar1", Envelope(hcall={"opcode": 4}))
        await stop_snoop(app_sink)
    ours, theirs = read(tmp_path / "t.pvcap.pcapng"), read(tmp_path / "t.lpar1.pvcap.pcapng")
    for records, directions, name in (
        (ours, [Direction.OUT, Direction.IN], "app"),
        (theirs, [Direction.IN, Direction.OUT], "lpar1"),
    ):
        assert [r.interface.name for r in records] == [f"{name}/call", f"{name}/reply"]
        assert [r.direction for r in records] == directions
        call, reply = (record.envelope() for record in records)
        assert call is not None
        assert reply is not None
        assert (call.source, call.destination, call.hcall.opcode) == ("app", "lpar1", 4)
        assert (reply.source, reply.destination, reply.hcall_reply.rc) == ("lpar1", "app", 5)


async def test_a_node_that_comes_again_appends_in_the_same_lab_only(tmp_path, monkeypatch):
    monkeypatch.setattr("pvnet.runtime.snoop._begun", set())
    file = tmp_path / "t.lpar1.pcapng"
    lab = topology(f"pcapng:{tmp_path}/t.pcapng")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    seen = []
    for directory in (first, first, second):
        monkeypatch.setattr("pvnet.runtime.snoop._begun", set())  # another process
        async with an_endpoint() as endpoint, snooping(endpoint, lab, directory=str(directory)):
            endpoint.taps.tell("in", Envelope())
        seen.append(len(read(file)))
    assert seen == [1, 2, 1]


async def test_a_failure_is_an_error_of_the_node():
    async with an_endpoint() as endpoint:
        async with snooping(endpoint, topology("pcapng:|exit 7")) as sink:
            assert sink is not None
            while not sink.failure:
                endpoint.taps.tell("in", Envelope())
                await asyncio.sleep(0.005)
            await stop_snoop(sink)
        await endpoint.wait_peer("lpar1", phase=0, timeout=1)
        assert endpoint.counters["snoop_ended"] == 1
        with pytest.raises(ConfigError, match="snoop file /nowhere"):
            async with snooping(endpoint, topology("pcapng:/nowhere/x")):
                pass


# --- the topology ----------------------------------------------------------------------------------------------------


def test_lab_snoop_is_checked_and_found(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('[lab]\nsnoop = "pcapng:sub/t.pcapng"\n')
    assert load_topology(file).lab.snoop == f"pcapng:{tmp_path}/sub/t.pcapng"
    file.write_text('[lab]\nsnoop = "pcapng:| cat "\n')
    assert load_topology(file).lab.snoop == "pcapng:|cat"
    with pytest.raises(TopologyError, match=r'f.toml:2: lab.snoop: "t.pcapng"; expected "pcapng:FILE" or'):
        parse_topology('[lab]\nsnoop = "t.pcapng"', "f.toml")


# --- ?snoop= ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "address", "target"),
    [
        ("tap:x", "tap:x", None),
        ("tap:x?snoop=pcapng:a?b", "tap:x", "pcapng:a?b"),
        ("vfio-user:/s?mdev=u&snoop=pcapng:|c", "vfio-user:/s?mdev=u", "pcapng:|c"),
    ],
)
def test_what_stands_behind_an_address(uri, address, target):
    found, snoop = split_snoop(uri)
    assert (found, None if snoop is None else str(snoop)) == (address, target)
    with pytest.raises(ConfigError):
        split_snoop("tap:x?snoop=")


class APort:
    name = "a"
    mtu = 1500
    accepts = ACCEPTS_NOTHING

    def __init__(self, room: int = 99) -> None:
        self.got: list[bytes] = []
        self.room = room
        self.receive = lambda _packets: None

    def deliver(self, packets: list[Packet]) -> int:
        taken = packets[: self.room]
        self.got += [packet.tobytes() for packet in taken]
        return len(taken)


class BPort(APort):
    name = "b"


def frame(text: bytes) -> bytes:
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + text


async def test_frames_of_a_port_both_ways(tmp_path):
    async with an_endpoint("bridge") as endpoint:
        file = tmp_path / "f"
        sink = open_sink(endpoint, split_snoop(f"x?snoop=pcapng:{file}")[1], topology())
        running = RunningSwitch()
        a, b = APort(room=1), BPort()
        SnoopedSwitch(running, sink, "bridge").plug(a)
        running.plug(b)
        a.receive([packet_of(frame(b"one"))])
        b.receive([packet_of(frame(b"two")), packet_of(frame(b"three"))])
        assert b.got == [frame(b"one")]
        assert running.unplug("a")
        running.close()
        await stop_snoop(sink)
        records = read(file)
        assert [(r.direction, r.data) for r in records] == [
            (Direction.IN, frame(b"one")),
            (Direction.OUT, frame(b"two")),
        ]
        assert {(r.interface.name, r.interface.link_type) for r in records} == {("bridge/a", LINKTYPE_ETHERNET)}


async def test_a_port_of_the_bridge_with_and_without(tmp_path):
    async with an_endpoint("bridge") as endpoint:
        lab = Topology.model_validate({"switch": [{"name": "net0"}]})
        opener = snooping_opener(SwitchPorts(endpoint, "").open, endpoint, lab)
        switches = Switches(lab, endpoint.note, opener)
        file, port = tmp_path / "f.pcapng", f"pcapng:{tmp_path}/all"
        await switches.add_port("net0", f"{port}?snoop=pcapng:{file}")
        with pytest.raises(ConfigError, match=r"a port .* already"):
            await switches.add_port("net0", port)
        hosted = switches.switch("net0")
        other = BPort()
        hosted.running.plug(other)
        other.receive([packet_of(frame(b"one"))])
        await switches.remove_port("net0", port)
        with open_capture(file) as reader:
            assert [(r.direction, r.data) for r in reader] == [(Direction.OUT, frame(b"one"))]
            assert '"net0"' in reader.info.topology
        with pytest.raises(ConfigError, match="snoop file"):
            await switches.add_port("net0", f"{port}?snoop=pcapng:/nowhere/x")
        with pytest.raises(ConfigError, match="capture file"):
            await switches.add_port("net0", f"pcapng:/nowhere/y?snoop=pcapng:{file}")
        await switches.add_port("net0", port)
        await switches.close()


async def test_a_replay_that_ends_closes_its_capture(tmp_path):
    async with an_endpoint("bridge") as endpoint:
        lab = Topology.model_validate({"switch": [{"name": "net0"}]})
        sink = open_sink(endpoint, split_snoop(f"x?snoop=pcapng:{tmp_path}/in")[1])
        sink.record(Interface("x", LINKTYPE_ETHERNET), frame(b"one"), time_ns=5)
        await stop_snoop(sink)
        switches = Switches(lab, endpoint.note, snooping_opener(SwitchPorts(endpoint, "").open, endpoint))
        sinks = []
        original = attach_snoop.open_sink

        def opened(*args):
            sinks.append(original(*args))
            return sinks[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attach_snoop, "open_sink", opened)
            await switches.add_port("net0", f"replay:{tmp_path}/in?snoop=pcapng:{tmp_path}/out")
        async with asyncio.timeout(10):
            while sinks[0]._thread.is_alive():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert [r.direction for r in read(tmp_path / "out")] == [Direction.IN]
        await switches.close()


async def test_messages_of_a_vfio_user_socket(tmp_path):
    async with an_endpoint("mdevs") as endpoint:
        sink = open_sink(endpoint, split_snoop(f"x?snoop=pcapng:{tmp_path}/f")[1])
        tap = vfio_user_tap(sink, endpoint, "uuid")
        tap("in", (b"request",))
        tap("out", (b"re", memoryview(b"ply")))
        await stop_snoop(sink)
    request, reply = read(tmp_path / "f")
    assert request.interface.name == "mdevs/vfio-user-uuid"
    got = [
        (r.direction, e.source, e.destination, e.mdev_message.message) for r in (request, reply) if (e := r.envelope())
    ]
    assert got == [
        (Direction.IN, "vfio-user", "mdevs", b"request"),
        (Direction.OUT, "mdevs", "vfio-user", b"reply"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("_log_as_before")
async def test_every_process_of_a_lab_records(tmp_path, monkeypatch):
    monkeypatch.setenv(SNOOP_VARIABLE, f"pcapng:{tmp_path}/t.pcapng")
    lab = Topology(
        lab=LabConfig(name=f"snoop-{os.getpid()}", ready_timeout_s=60),
        partition=[PartitionConfig(name="mp", management=True)],
    )
    async with Lab(lab) as joined, joined.vmc_session() as session:
        assert await session.exchange(b"hello") == b"hello"
    files = {path.name: read(path) for path in tmp_path.iterdir()}
    assert {"t.pcapng", "t.hypervisor.pcapng", "t.mp.pcapng"} <= set(files)

    def times(file: str, direction: Direction) -> set[int]:
        messages = [r.envelope() for r in files[file] if r.direction == direction]
        return {message.wall_ns for message in messages if message and message.source == "mp"}

    got = times("t.hypervisor.pcapng", Direction.IN)
    assert got
    assert got <= times("t.mp.pcapng", Direction.OUT), "one clock, one message: both ends tell the same"
