"""The Wireshark plugin on recordings of a real lab, and on MQTT as a plain packet capture has it.

Every record is shown by tshark and decoded by :mod:`pvnet.capture.decode`: same fields, same values, same judgement of
what is wrong.
"""

from __future__ import annotations

import asyncio
import importlib.util
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from wireshark_rig import ROOT, Packet, Tshark, expected, tshark_for_tests, write_capture

from pvnet.capture.decode import Decoded, Layer, decode
from pvnet.capture.decode_body import message_fields
from pvnet.capture.decode_papr import Parts
from pvnet.capture.decode_vbus import bridge_call
from pvnet.capture.memory_image import MemoryImage
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_ETHERNET, Record
from pvnet.capture.pvcap import CaptureWriter, make_info, open_capture
from pvnet.client import Lab
from pvnet.client.mdev import Mdevs
from pvnet.client.recorder import Recorder
from pvnet.client.scm import ScmDevice
from pvnet.client.vbus import VbusHost
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.topology import default_topology

pytestmark = pytest.mark.needs("tshark")
HERE = ROOT / "deploy/wireshark"


@pytest.fixture(scope="module")
def tshark() -> Iterator[Tshark]:
    with tshark_for_tests() as made:
        yield made


async def _play(lab: Lab, recorder: Recorder) -> None:
    session = lab.vmc_session("wireshark")
    async with session:
        await session.router_open()
        for number in range(5):
            assert await session.echo(bytes([number]) * 60) == bytes([number]) * 60
        await session.router_close()
    await lab.power_on("lpar2")
    result = await VbusHost(lab).ping("lpar1", "10.77.0.2", count=3, interval_s=0.01)
    assert result["received"] == 3
    async with ScmDevice(lab.endpoint, "lpar1") as device:
        await device.write_labels(0, b"labels")
        await device.write(4096, b"stored")
        await device.flush()
        await device.health()
    async with Mdevs(lab).file("lpar1", "/dev/ttyS0") as port:
        await port.write(b"serial")
        assert await port.read(6, timeout=10.0)
    assert not recorder.problems


async def _record(directory: Path, *, unix: bool) -> Path:
    made = default_topology("shark" if unix else "sharkm")
    topology = made.model_copy(update={"lab": made.lab.model_copy(update={"unix": unix, "ready_timeout_s": 60.0})})
    file = directory / f"lab-{unix}.pvcap.pcapng"
    async with Lab(topology, base=directory / "labs") as lab:
        with file.open("wb") as out:
            writer = CaptureWriter(out.write, make_info(topology.model_dump_json(by_alias=True)))
            async with Recorder(lab, writer, snaplen=256) as recorder:
                await asyncio.wait_for(_play(lab, recorder), 90)
    return file


@pytest.fixture(scope="module", params=[True, False], ids=["unix", "mqtt"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(_record(tmp_path_factory.mktemp("shark"), unix=request.param))


def _records(file: Path) -> list[Record]:
    with open_capture(file) as capture:
        return list(capture)


class _Arenas:
    """Fields of bridge calls whose parameters were written by earlier messages."""

    def __init__(self) -> None:
        self._images: dict[frozenset[str], MemoryImage] = {}

    def see(self, record: Record) -> dict[str, list[int | str | bool]] | None:
        """The fields that a bridge call has beside those of its own message, None for any other record."""
        envelope = record.envelope()
        name = envelope.WhichOneof("body") if envelope is not None else None
        if envelope is None or name is None or not name.startswith("vbus_"):
            return None
        ends, body = frozenset((envelope.source, envelope.destination)), getattr(envelope, name)
        if name == "vbus_attach":
            if not body.shared:
                self._images[ends] = MemoryImage()
            return None
        image = self._images.get(ends)
        if image is None:
            return None
        for item in body.writes:
            image.write(item.address, item.data)
        if name != "vbus_call":
            return None
        parts = Parts()
        fields = bridge_call(parts, body.call, image.read)
        assert not parts.problems
        layers = (Layer("vbus", (*message_fields(body, "vbus"), *fields)), *parts.layers)
        return expected(Decoded(record, layers))


def compared(tshark: Tshark, file: Path) -> tuple[list[Record], list[Packet]]:
    """Compare every record; return them."""
    records, packets = _records(file), tshark.packets(file)
    assert len(packets) == len(records)
    arenas = _Arenas()
    for record, packet in zip(records, packets, strict=True):
        assert not packet.broken, (record.number, packet.fields[packet.broken[0]])
        if record.interface.link_type == LINKTYPE_ETHERNET:
            assert "eth.type" in packet.fields or "eth.len" in packet.fields
            continue
        decoded = decode(record)
        wanted = expected(decoded)
        wanted |= arenas.see(record) or {}
        assert packet.ours() == wanted, (record.number, decoded.summary)
        assert bool(packet.problems) == bool(decoded.problems), (record.number, decoded.problems, packet.problems)
        assert packet.fields["pvnet.kind"] == [decoded.kind]
        if decoded.source:
            assert packet.fields["pvnet.source"] == [decoded.source]
    return records, packets


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_record_of_a_lab_is_shown_as_we_decode_it(tshark: Tshark, recording: Path) -> None:
    records, packets = compared(tshark, recording)
    kinds = Counter(decode(record).kind for record in records)
    assert kinds["hcall"] >= 10
    assert kinds["vbus_call"] >= 10
    assert kinds["mdev_message"] >= 10
    seen = {name for packet in packets for name in packet.fields}
    assert {"pvnet.vmc.type", "pvnet.router.opcode", "pvnet.vfio.command", "pvnet.vbus.vector"} <= seen
    if kinds["memory"]:  # the unix transport: bytes move without messages
        assert "pvnet.memory.kind" in seen
    else:  # over the broker they travel in the messages
        assert {"pvnet.vbus.bus_vector", "pvnet.vbus.shm_address", "pvnet.vbus.queue_ring"} <= seen

    for expression, test in (
        ("pvnet.vmc.type == 6", lambda d: d.get("vmc.type") == 6),
        ("pvnet.hcall.opcode == 0x3ec", lambda d: d.get("hcall.opcode") == 0x3EC),
        ('pvnet.hcall.opcode == "H_SCM_FLUSH"', lambda d: d.get("hcall.opcode") == 0x44C),
        ("pvnet.vfio.command == 9", lambda d: d.get("vfio.command") == 9),
        ('pvnet.source == "lpar1"', lambda d: d.source == "lpar1"),
        ('pvnet.kind == "hcall" && !pvnet.crq', lambda d: d.kind == "hcall" and not d.has("crq")),
    ):
        shown = tshark(recording, "-Y", expression, "-T", "fields", "-e", "frame.number").split()
        wanted = sum(test(decode(record)) for record in records)
        assert len(shown) == wanted, expression
    assert tshark(recording, "-Y", "pvnet.vmc.type == 6 && pvnet.vfio.command == 9") == ""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_columns_pairs_and_colours(tshark: Tshark, recording: Path) -> None:
    lines = tshark(recording, "-Y", "pvnet.vmc.type == 6 && pvnet.hcall").splitlines()
    assert "mp → hypervisor" in lines[0]
    assert "pvnet/vmc" in lines[0]
    assert "H_SEND_CRQ unit=0x30000000 VMC SIGNAL" in lines[0]
    records = _records(recording)
    pairs = Counter(pair for pair in (decode(record).pair for record in records) if pair)
    answered = [decode(r) for r in records if decode(r).is_reply and pairs[decode(r).pair] == 2]
    columns = ("-T", "fields", "-e", "pvnet.call_in", "-e", "pvnet.latency", "-e", "pvnet.call_opcode")
    replies = tshark(recording, "-Y", "pvnet.call_in", *columns).splitlines()
    assert len(replies) == len(answered) > 50
    assert all(float(line.split("\t")[1]) >= 0 for line in replies)
    assert sum(line.split("\t")[2] != "" for line in replies) == sum(d.kind == "hcall_reply" for d in answered)
    calls = tshark(recording, "-2", "-Y", "pvnet.reply_in", "-T", "fields", "-e", "pvnet.reply_in").split()
    assert len(calls) == len(replies)


def _filters() -> list[tuple[str, str]]:
    rules = []
    for line in (HERE / "colorfilters").read_text().splitlines():
        if line and not line.startswith("#"):
            _, name, rest = line.split("@", 2)
            rules.append((name, rest.rpartition("@")[0]))
    return rules


def test_the_colours_are_filters_that_wireshark_takes(tshark: Tshark, tmp_path: Path) -> None:
    refused = Envelope(schema=1, lab="lab", source="hv", destination="lpar1", correlation=1)
    refused.hcall_reply.rc = -4
    signal = Envelope(schema=1, lab="lab", source="lpar1", destination="hv", correlation=1)
    signal.hcall.opcode = 0x108
    signal.hcall.args.extend((0x30000000, 0x8006_0000_0100_0000, 23))
    made = [signal, refused, Envelope(schema=1, lab="lab")]
    file = write_capture(tmp_path / "f.pcapng", [(LINKTYPE_ENVELOPE, item.SerializeToString()) for item in made])
    rules = _filters()
    assert len(rules) >= 8
    for name, expression in rules:
        assert "mistake" not in tshark(file, "-Y", expression), name
    profile = tshark.directory / "wireshark"
    profile.mkdir(exist_ok=True)
    profile.chmod(0o755)
    (profile / "colorfilters").write_text((HERE / "colorfilters").read_text())
    (profile / "colorfilters").chmod(0o644)
    named = tshark(file, "--color", "-T", "fields", "-e", "frame.coloring_rule.name", "-Y", "pvnet.kind").splitlines()
    assert named == ["pvnet VMC", "pvnet refused", "pvnet problem"]


def _mqtt(topic: str, payload: bytes) -> bytes:
    body = struct.pack(">H", len(topic)) + topic.encode() + struct.pack(">H", 7) + payload
    length, out = len(body), b""
    while True:
        length, low = divmod(length, 128)
        out += bytes([low | (128 if length else 0)])
        if not length:
            return b"\x32" + out + body


def _tcp(payload: bytes, sequence: int, port: int) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 40000, port, sequence, 1, 5 << 4, 0x18, 65535, 0, 0) + payload
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, bytes((127, 0, 0, 1)), bytes((127, 0, 0, 2))
    )
    return bytes(12) + b"\x08\x00" + ip + tcp


@pytest.mark.parametrize("port", [1883, 40123])
@pytest.mark.parametrize("with_setting", [False, True])
def test_mqtt_of_a_plain_packet_capture(tshark: Tshark, tmp_path: Path, port: int, with_setting: bool) -> None:
    calls = []
    for number in (1, 2, 3):
        made = Envelope(schema=1, lab="lab", source="lpar1", destination="hv", correlation=number)
        made.hcall.opcode = 0x3EC
        made.hcall.args.extend((0x44000010, 0, number, 2**64 - 1, 0))
        calls.append(made.SerializeToString())
    topic = "pvnet/v1/lab/hv/call/lpar1"
    segments = [
        _mqtt(topic, calls[0]) + _mqtt(topic, calls[1]),  # two messages in one packet
        _mqtt(topic, calls[2])[:40],
        _mqtt(topic, calls[2])[40:],  # one message in two packets
        _mqtt("pvnet/v1/lab/hv/call/lpar1", b"\xff\xff"),
        _mqtt("something/else", calls[0]),
    ]
    frames, sequence = [], 1
    for segment in segments:
        frames.append((LINKTYPE_ETHERNET, _tcp(segment, sequence, port)))
        sequence += len(segment)
    file = write_capture(tmp_path / "m.pcapng", frames)
    options = [] if port == 1883 else ["-d", f"tcp.port=={port},mqtt"]
    options += ["-o", "mqtt.default_version:MQTT v3.1.1"]
    if with_setting:
        options += ["-o", 'uat:mqtt_message_decoding:"Starts with","pvnet/v1/","none","pvnet"']
    packets = tshark.packets(file, *options)
    shown = [packet.ours().get("hcall.args", []) for packet in packets]
    assert [args[2::5] for args in shown] == [[1, 2], [], [3], [], []]
    assert [packet.fields.get("pvnet.source") for packet in packets] == [
        ["lpar1"] * 2,
        None,
        ["lpar1"],
        None,
        None,
    ] or (with_setting and packets[3].problems)
    assert not [packet.broken for packet in packets if packet.broken]
    line = tshark(file, *options, "-Y", "pvnet").splitlines()[0]
    assert "127.0.0.1 → 127.0.0.2" in line
    assert line.count("lpar1 > hv H_SCM_BIND_MEM drc=0x44000010 start=0") == 2


def test_ten_thousand_packets_in_a_few_seconds(tshark: Tshark, tmp_path: Path) -> None:
    records = []
    for number in range(5000):
        call = Envelope(schema=1, lab="lab", source="lpar1", destination="hv", correlation=number + 1, seq=number + 1)
        call.hcall.opcode = 0x108
        call.hcall.args.extend((0x30000000, 0x8006_0000_0100_0000, number))
        reply = Envelope(schema=1, lab="lab", source="hv", destination="lpar1", correlation=number + 1, seq=number + 1)
        reply.hcall_reply.rc = 0
        records += [(LINKTYPE_ENVELOPE, call.SerializeToString()), (LINKTYPE_ENVELOPE, reply.SerializeToString())]
    file = write_capture(tmp_path / "big.pcapng", records)
    began = time.perf_counter()
    shown = tshark(file, "-Y", "pvnet.vmc.type == 6", "-T", "fields", "-e", "pvnet.vmc.length").split()
    took = time.perf_counter() - began
    assert [int(text) for text in shown] == list(range(5000))
    assert took < 20, took  # a few seconds; the machine may be busy


def test_the_plugin_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("wireshark_generate", HERE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (HERE / "pvnet.lua").read_text() == module.generate(), "run python deploy/wireshark/generate.py"
