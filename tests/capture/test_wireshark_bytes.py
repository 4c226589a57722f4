"""The Wireshark plugin on single records, right and wrong ones: shown as :mod:`pvnet.capture.decode` decodes them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wireshark_rig import Packet, Tshark, expected, tshark_for_tests, write_capture

from pvnet.capture.decode import Decoded, decode
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_HCALL, LINKTYPE_MEMORY
from pvnet.capture.pvcap import CaptureWriter, make_info, open_capture
from pvnet.mdev.vfio_user import Command
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.pb.v1.mdev_pb2 import MdevTransfer
from pvnet.vbus.layout import (
    CallDescriptor,
    DeviceCall,
    DeviceClose,
    DeviceOpen,
    DeviceShm,
    Event,
    EventQueue,
    Negotiate,
    encode_queues,
)
from pvnet.vbus.link_codec import LinkHello, encode_link_hello, encode_link_packets
from pvnet.vbus.packet import GsoType, Offload
from pvnet.vbus.packet import Packet as Frame
from pvnet.vbus.venet_layout import Capability, EventqQuery, VenetSg
from pvnet.vbus.vnet_header import VnetHeaders
from pvnet.vmc.router import RouterMessage, encode_frame

pytestmark = pytest.mark.needs("tshark")
U64 = 2**64 - 1
Shown = tuple[Packet, Decoded]


@pytest.fixture(scope="module")
def tshark() -> Iterator[Tshark]:
    with tshark_for_tests() as made:
        yield made


def made(**fields: Any) -> Envelope:
    return Envelope(schema=1, lab="lab", source="lpar1", destination="hv", **fields)


def body(name: str, /, **values: Any) -> bytes:
    message = made()
    target = getattr(message, name)
    target.SetInParent()
    for field, value in values.items():
        if isinstance(value, list | tuple | range):
            getattr(target, field).extend(value)
        elif isinstance(value, dict):
            getattr(target, field).update(value)
        else:
            setattr(target, field, value)
    return message.SerializeToString()


def shown(tshark: Tshark, tmp_path: Path, records: list[tuple[int, bytes]], only: tuple[str, ...] = ()) -> list[Shown]:
    """Compare each record's fields and judgement; return both views."""
    file = write_capture(tmp_path / "records.pcapng", records)
    with open_capture(file) as capture:
        decodes = [decode(record) for record in capture]
    packets = tshark.packets(file)
    assert len(packets) == len(decodes) == len(records)
    for packet, decoded in zip(packets, decodes, strict=True):
        data = decoded.record.data
        assert not packet.broken, (data.hex(), {name: packet.fields[name] for name in packet.broken})
        ours = packet.ours()
        if only:
            ours = {name: value for name, value in ours.items() if name.partition(".")[0] in only}
        assert ours == expected(decoded, only), (data.hex(), decoded.summary)
        assert bool(packet.problems) == bool(decoded.problems), (data.hex(), decoded.problems, packet.problems)
    return list(zip(packets, decodes, strict=True))


def envelopes(tshark: Tshark, tmp_path: Path, messages: list[bytes]) -> list[Shown]:
    return shown(tshark, tmp_path, [(LINKTYPE_ENVELOPE, message) for message in messages])


def element(text: str) -> bytes:
    return bytes.fromhex(text).ljust(16, b"\0")


ELEMENTS = [
    "c001", "c002", "c003", "c0", "00", "01", "7f", "81", "ff01", "ff02", "ff09", "ff77",
    *(f"80{kind:02x}" for kind in (0, 1, 2, 3, 4, 5, 6, 7, 0x77, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0xFF)),
    "80010000000100400000100000100101", "80810100000100400000100000100101", "80810200000100400000100000100201",
    "80040001010000050000000000002000", "80040001010000050000000100002000", "8084050001000005",
    "8084630001000005", "80060000010000070000000000000100", "800600000100000700ff00ff00000100",
    "8002000001000007", "80020000010000070000000000000001", "808200000100ffff", "8085000001 00ffff",
]  # fmt: skip


def test_elements(tshark: Tshark, tmp_path: Path) -> None:
    entries = [body("crq_entry", unit=0x30000000, element=element(text), slot=3, irq=True) for text in ELEMENTS]
    entries += [body("crq_entry"), body("crq_entry", element=bytes(15)), body("crq_entry", element=bytes(17))]
    words = [struct.unpack(">QQ", element(text)) for text in ELEMENTS]
    entries += [body("hcall", opcode=0x108, args=(0x30000000, *pair)) for pair in words]
    entries += [body("hcall", opcode=0x108, args=(1, 2)), body("hcall", opcode=0x108, args=(U64, U64, U64, 4))]
    results = envelopes(tshark, tmp_path, entries)
    notes = [packet.fields.get("pvnet.note", []) for packet, _ in results]
    assert sum(bool(note) for note in notes) >= 8  # statuses that are not 0, transport events


def test_hypervisor_calls(tshark: Tshark, tmp_path: Path) -> None:
    calls = [
        body("hcall", opcode=0x3EC, args=(0x44000010, 0, 16, U64, 0)),
        body("hcall", opcode=0x3E5, args=range(70), problem_state=True),
        body("hcall", opcode=U64, args=()),
        body("hcall", opcode=0x110, args=(64, 1, 2, 3, 4), memory=RouterMessage(0x103, b"echo").encode()),
        body("hcall", memory=encode_frame(Management(token=7).SerializeToString())),
        body("hcall", memory=b"PVNE" + bytes(30)),
        body("hcall", memory=b""),
    ]
    calls += [body("hcall_reply", rc=rc, outs=(1, U64, 2**63)) for rc in (0, 1, -4, -75, 9900, 77, -(2**63), 2**63 - 1)]
    results = envelopes(tshark, tmp_path, calls)
    assert results[0][0].fields["pvnet.hcall.opcode"] == ["1004"]
    assert "pvnet.router" in results[3][0].fields


def test_what_sessions_carry(tshark: Tshark, tmp_path: Path) -> None:
    power = Management(token=1)
    power.power_on.name = "lpar2"
    hcall = Management(token=2)
    hcall.issue_hcall.opcode = 0x3EC
    hcall.issue_hcall.args.extend((1, U64))
    reply = ManagementReply(token=1, status=ManagementReply.NOT_FOUND, text="no such partition")
    reply.partitions.add(name="lpar1", lpar_id=1, memory_bytes=1 << 40)
    reply.partitions.add(name="lpar2")
    frames = [encode_frame(item.SerializeToString()) for item in (power, hcall, reply, Management())]
    frames += [frames[0][:-1], frames[0] + b"\0", b"PVNE\0\2" + frames[0][6:], encode_frame(b"\xff"), b"PVNE"]
    routers = [
        RouterMessage(opcode, b"data" * count, flags=flags, rc=rc).encode()
        for opcode, count, flags, rc in ((1, 0, 0x80, 0), (0x103, 5, 0x40, 0), (2, 1, 0x40, 0x8023), (77, 3, 0, 77))
    ]
    routers += [routers[0][:31], routers[1][:-1], b"\xde\xca\xff"]
    data = [*frames, *routers, b"something else"]
    messages = [body("device_io", operation=4, handle=1, data=item) for item in data]
    messages += [body("device_io", operation=operation, data=data[0], path="/dev/x") for operation in range(9)]
    messages += [body("device_reply", result=-9, data=item) for item in data[:3]]
    messages += [body("memory_write", address=U64, data=item) for item in data[:3]]
    messages += [body("memory_reply", error=14), body("memory_read", address=1, length=2)]
    envelopes(tshark, tmp_path, messages)
    records = [(LINKTYPE_MEMORY, struct.pack(">B7xQ", 1, U64) + item) for item in data]
    shown(tshark, tmp_path, records)


def writes(*pieces: tuple[int, bytes]) -> list[dict[str, Any]]:
    return [{"address": address, "data": data} for address, data in pieces]


def bridge(vector: int, data: bytes, *more: tuple[int, bytes], length: int | None = None) -> bytes:
    message = made()
    message.vbus_call.call = CallDescriptor(vector, len(data) if length is None else length, 0x1000).encode()
    for address, piece in ((0x1000, data), *more):
        message.vbus_call.writes.add(address=address, data=piece)
    return message.SerializeToString()


def bus(vector: int, data: bytes, *more: tuple[int, bytes]) -> bytes:
    return bridge(2, CallDescriptor(vector, len(data), 0x2000).encode(), (0x2000, data), *more)


def test_vbus(tshark: Tshark, tmp_path: Path) -> None:
    calls = [
        bridge(0, Negotiate().encode()), bridge(0, bytes(16)), bridge(0, bytes(8)),
        bridge(1, encode_queues([EventQueue(64, 0x10000, 0x20000), EventQueue(8, U64, 5)])),
        bridge(1, bytes(8)), bridge(1, b""), bridge(1, struct.pack("<IIIIQQ", 1, 0, 4, 1, 2, 3)),
        bridge(3, CallDescriptor(9, 8, 0x7000).encode()), bridge(4, CallDescriptor(9, 8, 0x7000).encode()),
        bridge(77, b""), bridge(0, b"", length=5000), bridge(0, b"", length=2**32 - 1),
        bus(0, DeviceOpen(3, 1, U64).encode()), bus(1, DeviceClose(U64).encode()), bus(1, bytes(7)), bus(9, b""),
        bus(2, DeviceCall(5, 3, 8, 1, 0x3000).encode(), (0x3000, Capability(0, 0x2F).encode())),
        bus(2, DeviceCall(5, 3, 8, 0, 0x3000).encode(), (0x3000, Capability(9, 0x2F).encode())),
        bus(2, DeviceCall(5, 2, 6, 0, 0x3000).encode(), (0x3000, bytes.fromhex("020000000a01"))),
        bus(2, DeviceCall(5, 6, 32, 0, 0x3000).encode(), (0x3000, EventqQuery(0, 24, 101, 102).encode())),
        bus(2, DeviceCall(5, 6, 32, 0, 0x3000).encode(), (0x3000, b"\1" * 32)),
        bus(2, DeviceCall(5, 0, 0, 0, 0).encode()), bus(2, DeviceCall(5, 2, 6, 0, U64).encode()),
        bus(2, DeviceCall(5, 99, 3, 0, 0x3000).encode(), (0x3000, b"abc")),
        bus(2, struct.pack("<QIIIIQ", 1, 2, 3, 4, 5, 6)),
        bus(3, DeviceShm(5, 100, 4096, 0, 0xFFFFFFFF, 1, 7, 0x9000).encode()),
        bus(3, DeviceShm(5, 100, 4096, 0, 16, 1, 7, U64).encode()), bus(3, bytes(47)),
    ]  # fmt: skip
    calls += [body("vbus_call", call=data) for data in (b"", bytes(15), bytes(17))]
    pieces = [
        Event(0, 4, "virtual-ethernet").encode(), Event(1, 4).encode(), Event(2, U64).encode(), bytes(144),
        struct.pack("<II", 7, 0).ljust(144, b"\1"), Event(0, 4, "echo").encode().replace(b"echo", b"ec\xffo"),
        VenetSg(9, 3, 300, ((200, 0x1000), (100, U64)), 34, 16, 2, 54, 1448).encode(),
        VenetSg(9, 0, 300, ((200, 0x1000),)).encode(), bytes(48), bytes(47), b"\xff" * 48, b"",
    ]  # fmt: skip
    for name in ("vbus_reply", "vbus_doorbell", "vbus_irq", "vbus_update"):
        message = made()
        getattr(message, name).SetInParent()
        for piece in pieces:
            getattr(message, name).writes.add(address=0x1000, data=piece)
        calls.append(message.SerializeToString())
    calls += [body("vbus_doorbell", offset=offset, value=5) for offset in (0, 4, 8, 12)]
    calls += [body("vbus_reply", result=-22), body("vbus_attach", base=1, bytes=U64, shared=3)]
    envelopes(tshark, tmp_path, calls)
    records = [(LINKTYPE_MEMORY, struct.pack(">B7xQ", 2, 0x1000) + piece) for piece in pieces]
    records += [(LINKTYPE_MEMORY, b"\1" * 15), (LINKTYPE_MEMORY, struct.pack(">B7xQ", 9, 1))]
    shown(tshark, tmp_path, records)


def vfio(command: int, payload: bytes = b"", flags: int = 0, error: int = 0, size: int | None = None) -> bytes:
    length = 16 + len(payload) if size is None else size
    return body("mdev_message", session=4, message=struct.pack("<HHIII", 7, command, length, flags, error) + payload,
                descriptors=(1, U64))  # fmt: skip


def test_vfio_user(tshark: Tshark, tmp_path: Path) -> None:
    pattern = bytes(range(0x21, 0x7F))
    messages = []
    for command in (*Command, 0, 14, 99):
        for flags in (0, 1, 0x10, 0x21, 2):
            messages += [vfio(command, pattern[:count], flags) for count in (0, 4, 8, 15, 16, 24, 32, 64)]
        messages.append(vfio(command, b"", 0x21, 22))
        messages.append(vfio(command, b"", 1, 22))
    messages.append(vfio(Command.VERSION, struct.pack("<HH", 0, 2) + b'{"capabilities":{"max_msg_fds":8}}\0'))
    messages += [vfio(Command.DEVICE_FEATURE, struct.pack("<IIII", 16, 0x20002, state, 9)) for state in (0, 2, 99)]
    messages += [
        vfio(9, size=0),
        vfio(9, size=2**32 - 1),
        body("mdev_message", message=bytes(15)),
        body("mdev_message"),
    ]
    results = envelopes(tshark, tmp_path, messages)
    assert {packet.ours()["vfio.command"][0] for packet, _ in results if "vfio.command" in packet.ours()} >= set(
        Command
    )


def test_frames_inside_are_shown_as_ethernet(tshark: Tshark, tmp_path: Path) -> None:
    arp = bytes.fromhex("ffffffffffff020000000001080600010800060400010200000000010a4d00010000000000000a4d0002")
    packets = [Frame((memoryview(arp),), len(arp))]
    packets.append(Frame((memoryview(arp),), len(arp), Offload(True, 14, 8, GsoType.TCPV4, False, 54, 1000)))
    one = encode_link_packets(packets[:1], VnetHeaders())
    two = encode_link_packets(packets[1:], VnetHeaders())
    hello = encode_link_hello(LinkHello("lab", "net0", 1500, 15))
    bad = [b"", one[:11], one[:-1], one + b"\0", b"XX" + one[2:], one[:12], hello[:-1], hello[:18],
           hello.replace(b"net0", b"NET0"), one[:3] + b"\3" + one[4:], one[:10] + b"\0\1" + one[12:],
           two[:13] + b"\x07" + two[14:]]  # fmt: skip
    messages = [body("net_frames", messages=[one, two]), body("net_frames", messages=[hello]), body("net_frames")]
    messages += [body("net_frames", messages=[item]) for item in bad]
    messages.append(body("net_frames", messages=[one] * 70))
    results = envelopes(tshark, tmp_path, messages)
    assert results[0][0].fields["arp.src.proto_ipv4"] == ["10.77.0.1"] * 2
    line = tshark(tmp_path / "records.pcapng", "-Y", "arp").splitlines()[0]
    assert "lpar1 → hv" in line
    assert "Who has 10.77.0.2" in line


def test_every_kind_of_body(tshark: Tshark, tmp_path: Path) -> None:
    state = made(wall_ns=U64, monotonic_ns=1, trace=2**63, source_incarnation=U64)
    state.lifecycle.phase = Lifecycle.READY
    state.lifecycle.direct.path = "/run/x"
    messages = [made(), Envelope(schema=2), Envelope(schema=1, lab="läb", source="a\tb"), state]
    raw = [message.SerializeToString() for message in messages]
    raw += [body(field.name) for field in Envelope.DESCRIPTOR.oneofs_by_name["body"].fields]
    transfer = {"size": "1", "name": "ü"}
    raw.append(body("mdev_transfer", step=MdevTransfer.BEGIN, attributes=transfer, type="mtty-1", transfer=U64))
    raw += [body("mdev_close", session=2**32 - 1, reason="gone"), body("mdev_irq", target=U64), body("irq", unit=5)]
    raw += [body("refusal", text="no"), body("management_reply", rc=-4, outs=(1,), status_json='{"a": 1}')]
    unknown = made().SerializeToString() + b"\xfa\x7f\x03abc"  # field 2047: a body of a later version
    twice = body("irq", unit=1) + Envelope(irq={"unit": 2}).SerializeToString()
    other = body("irq", unit=1) + Envelope(refusal={"text": "last"}).SerializeToString()
    loose = made().SerializeToString() + b"\xa2\x01\x04\x10\x05\x10\x06"  # arguments of an hcall one by one
    group = made().SerializeToString() + b"\xfb\x7f\x08\x01\xfc\x7f"
    raw += [unknown, twice, other, loose, group]
    results = envelopes(tshark, tmp_path, raw)
    assert results[-3][1].kind == "refusal"


def test_what_is_no_envelope(tshark: Tshark, tmp_path: Path) -> None:
    whole = body("hcall", opcode=0x3EC, args=(1, 2, 3))
    bad = [whole[:-1], b"\xff", b"\0\0", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\xff\xff", b"\x0f",
           b"\x08" + b"\xff" * 11, whole + b"\xfb\x7f\x08", b"\x82\x03\x01"]  # fmt: skip
    for packet, decoded in envelopes(tshark, tmp_path, bad):
        assert decoded.problems
        assert packet.fields["pvnet.kind"] == ["unknown"]


def test_cut_by_the_recording_is_no_problem(tshark: Tshark, tmp_path: Path) -> None:
    from pvnet.capture.model import Interface

    file, whole = tmp_path / "cut.pcapng", body("hcall", opcode=0x3EC, args=(1, 2, 3))
    with file.open("wb") as out:
        writer = CaptureWriter(out.write, make_info())
        writer.record(Interface("lpar1/call"), 1_700_000_000_000_000_000, whole[:20], original_bytes=len(whole))
        line = b'{"hcall": "H_REG'
        writer.record(Interface("x/hcall", LINKTYPE_HCALL), 1_700_000_000_000_000_000, line, original_bytes=99)
        writer.record(Interface("x/rdma", LINKTYPE_MEMORY), 1_700_000_000_000_000_000, b"\1\0", original_bytes=99)
    for packet in tshark.packets(file):
        assert not packet.problems
        assert not packet.broken


def test_recorded_lines(tshark: Tshark, tmp_path: Path) -> None:
    lines: list[Any] = [
        {"n": 1, "t": 0.5, "hcall": "H_REG_CRQ", "args": ["0x30000000", "0x1000", 4096], "rc": 2},
        {"hcall": "H_SCM_BIND_MEM", "args": ["0x44000010", 0, 16, "0xffffffffffffffff", 0], "rc": 0, "outs": ["0x1"]},
        {"hcall": "0x3e5", "args": [], "rc": -4},
        {"opcode": 18446744073709551615, "args": [18446744073709551615]},
        {"hcall": "H_SEND_CRQ", "args": ["0x30000000", "0x8006000001000000", "0x40"], "rc": 0},
        {"hcall": "H_CEDE", "args": [None, 1], "rc": None},
        {"from": "partition", "crq": "80010000000100400000100000100101"},
        {"from": "hypervisor", "crq": "80770000000000000000000000000000", "rc": 0},
        {"crq_in": "c001" + "00" * 14},
        {"mark": "insmod \"x\" é"},
        {"meta": {"schema": "pvnet-hcall-trace/1", "nested": [[], {}, [1, [2]]]}},
    ]  # fmt: skip
    records = [(LINKTYPE_HCALL, json.dumps(line).encode()) for line in lines]
    results = shown(tshark, tmp_path, records, only=("hcall", "crq", "vmc"))
    assert all("json.object" in packet.fields or "json" in packet.fields for packet, _ in results)
    bad = [b"[1]", b"{", b"", b"\xff\xfe", b'{"a": ' + b"[" * 5000, b'{"a" 1}', b'"', b'{"hcall": "H_CEDE", "args": 5}']
    for packet in tshark.packets(write_capture(tmp_path / "bad.pcapng", [(LINKTYPE_HCALL, line) for line in bad])):
        assert not packet.broken


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes(tshark: Tshark, tmp_path: Path, seed: int) -> None:
    """No error of the plugin, and wherever protobuf reads a message, the plugin reads the same one."""
    chance = random.Random(seed)
    seeds = [
        body("crq_entry", unit=1, element=element(ELEMENTS[20])),
        bridge(1, encode_queues([EventQueue(64, 0x10000, 0x20000)])),
        bus(3, DeviceShm(5, 100, 4096, 0, 16, 1, 7, 8).encode()),
        bus(2, DeviceCall(5, 3, 8, 1, 0x3000).encode(), (0x3000, Capability(0, 0x2F).encode())),
        vfio(2, bytes(range(32))), vfio(8, bytes(range(40))), vfio(16, struct.pack("<IIII", 16, 0x20002, 2, 9)),
        body("hcall", opcode=0x110, args=(1, 2, 3), memory=RouterMessage(0x103, b"echo").encode()),
        body("management_reply", text="é", outs=(1, 2), rc=-1),
        body("mdev_transfer", attributes={"a": "b"}, name="x"),
        body("net_frames", messages=[encode_link_hello(LinkHello("lab", "net0", 1500, 15))]),
    ]  # fmt: skip
    messages = []
    for _ in range(700):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            at = chance.randrange(len(data))
            act = chance.randrange(4)
            if act == 0:
                data[at] = chance.randrange(256)
            elif act == 1:
                data[at] ^= 1 << chance.randrange(8)
            elif act == 2 and len(data) > 4:
                del data[at : at + chance.randrange(1, 4)]
            else:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 4)))
        messages.append(bytes(data))
    # An arena that is attached gives a meaning to what comes after it, which decode, looking at one record, has not.
    attach = b"\xf2\x01"
    envelopes(tshark, tmp_path, [message for message in messages if message and attach not in message])
