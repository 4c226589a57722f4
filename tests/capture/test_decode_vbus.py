"""Bridge calls with their parameters, Ethernet devices, link messages, frames, pieces of memory."""

from __future__ import annotations

import struct

from decode_rig import decoded, record

from pvnet.capture.decode import Decoded, decode
from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_MEMORY
from pvnet.pb.v1.vbus_pb2 import (
    NetFrames,
    VbusAttach,
    VbusCall,
    VbusDoorbell,
    VbusIrq,
    VbusReply,
    VbusUpdate,
    VbusWrite,
)
from pvnet.vbus import layout
from pvnet.vbus.link_codec import LinkHello, encode_link_hello
from pvnet.vbus.venet_layout import Capability, EventqQuery, VenetSg

FRAME = bytes.fromhex("0200000000020200000000010800") + bytes.fromhex(
    "4500001c000100004001f9ba0a4d00010a4d00020800f7fe00000001"
)


def call(vector: int, *pieces: tuple[int, bytes]) -> Decoded:
    address, data = pieces[0] if pieces else (0x2000, b"")
    raw = layout.CallDescriptor(vector, len(data), address).encode()
    writes = [VbusWrite(address=at, data=piece) for at, piece in pieces]
    return decoded(vbus_call=VbusCall(call=raw, writes=writes))


def bus(vector: int, parameters: bytes, *more: tuple[int, bytes]) -> Decoded:
    inner = layout.CallDescriptor(vector, len(parameters), 0x3000).encode()
    return call(layout.BridgeVector.SLOWCALL, (0x2000, inner), (0x3000, parameters), *more)


def test_calls_of_the_bridge() -> None:
    item = call(0, (0x2000, layout.Negotiate(capabilities=1).encode()))
    assert (item.summary, item.get("vbus.magic")) == ("NEGOTIATE capabilities 0x1", layout.ABI_MAGIC)
    item = call(1, (0x2000, layout.encode_queues([layout.EventQueue(256, 0x5000, 0x6000)])))
    assert (item.summary, item.get("vbus.queue_ring")) == ("QREG 1 queues of 256 events", 0x5000)
    item = call(3, (0x2000, layout.CallDescriptor(9, 24, 0x4000).encode()))
    assert (item.summary, item.get("vbus.channel")) == ("FASTCALL_ADD channel 9", 9)
    assert decoded(vbus_call=VbusCall(call=layout.CallDescriptor(2, 16, 0x1B).encode())).summary == "SLOWCALL at 0x1b"


def test_calls_to_the_bus() -> None:
    assert bus(0, layout.DeviceOpen(3, 1).encode()).summary == "DEVOPEN device 3 version 1"
    assert bus(1, layout.DeviceClose(0x100000001).encode()).summary == "DEVCLOSE handle 0x100000001"
    item = bus(3, layout.DeviceShm(1, 0, 0x1000, 0, 0xFFFFFFFF, 0, 5, 0x8000).encode())
    assert item.summary == "DEVSHM handle 0x1 region 0 of 4096 bytes at 0x8000"
    assert item.get("vbus.shm_cookie") == 5
    item = bus(2, layout.DeviceCall(1, 3, 8, 0, 0x4000).encode(), (0x4000, Capability(0, 0x2F).encode()))
    assert item.summary == "DEVCALL handle 0x1 func 3, 8 bytes (venet NEGCAP SG 0x2f)"
    assert item.get("venet.bits") == 0x2F


def test_devcalls_of_an_ethernet_device() -> None:
    def devcall(func: int, data: bytes) -> Decoded:
        return bus(2, layout.DeviceCall(1, func, len(data), 0, 0x4000).encode(), (0x4000, data))

    assert devcall(2, bytes.fromhex("020000000001")).get("venet.mac") == "02:00:00:00:00:01"
    assert devcall(6, EventqQuery(0, 24, 101, 102).encode()).get("venet.pool") == 101
    assert devcall(0, b"").summary.endswith("(venet LINKUP)")
    assert not devcall(0, b"1").has("venet"), "another device's call"
    assert not devcall(3, bytes([9] * 8)).has("venet"), "no such group"
    assert not devcall(6, b"\xff" * 32).has("venet"), "pads that are not zero"
    assert not devcall(99, b"").has("venet")


def test_calls_that_are_wrong() -> None:
    assert "bridge call" in decoded(vbus_call=VbusCall(call=b"123")).problems[0]
    assert call(77).problems == ("bridge call 77: no such vector",)
    assert bus(77, b"").problems == ("bus call 77: no such vector",)
    assert "NEGOTIATE" in call(0, (0x2000, bytes(16))).problems[0]
    assert decoded(vbus_doorbell=VbusDoorbell(offset=5)).problems == ("doorbell at offset 5: there is no register",)


def test_parameters_that_the_message_does_not_carry() -> None:
    inner = layout.CallDescriptor(0, 16, 0x9000).encode()
    assert call(layout.BridgeVector.SLOWCALL, (0x2000, inner)).summary == "DEVOPEN"
    item = bus(2, layout.DeviceCall(1, 9, 8, 0, 0x9000).encode())
    assert item.summary == "DEVCALL handle 0x1 func 9, 8 bytes"
    assert item.get("vbus.call_data") is None


def test_what_is_no_event_for_sure_is_none() -> None:
    def changed(data: bytes) -> Decoded:
        return decoded(vbus_update=VbusUpdate(writes=[VbusWrite(data=data)]))

    assert changed(layout.Event(layout.EventId.DEVDROP, 7).encode()).get("vbus.event_handle") == 7
    assert not changed(b"\xff" * 144).get("vbus.event")
    assert changed(layout.Event(layout.EventId.DEVADD, 0, "x").encode()).get("vbus.event_type") == "x"


def test_events_and_packets_among_what_has_changed() -> None:
    event = layout.Event(layout.EventId.DEVADD, 7, "virtual-ethernet").encode()
    item = decoded("host", vbus_irq=VbusIrq(queue=1, writes=[VbusWrite(address=1, data=event)]))
    assert item.summary == "irq of event queue 1 (event DEVADD 0x7 virtual-ethernet) +144 bytes in 1 writes"
    packet = VenetSg(1, 0, 60, ((60, 0x9000),)).encode()
    item = decoded(vbus_update=VbusUpdate(writes=[VbusWrite(data=packet), VbusWrite(data=bytes(144))], more=True))
    assert item.get("venet.length") == 60
    assert item.summary.endswith("192 bytes in 2 writes, more follows")
    assert not decoded(vbus_update=VbusUpdate(writes=[VbusWrite(data=b"\xff" * 48)])).has("venet")


def test_the_other_bodies() -> None:
    assert decoded(vbus_attach=VbusAttach(base=0x1000, bytes=0x2000, shared=1)).summary == (
        "attach 0x2000 bytes of memory at 0x1000, shared"
    )
    assert decoded("host", vbus_reply=VbusReply(result=-22)).summary == "-EINVAL"
    assert decoded(vbus_doorbell=VbusDoorbell(offset=8, value=16)).summary == "doorbell SHMSIGNAL 0x10"


def test_frames() -> None:
    item = decode(record(FRAME, LINKTYPE_ETHERNET))
    assert (item.source, item.destination) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    assert item.summary == "10.77.0.1 > 10.77.0.2 ICMP echo request, 42 bytes"
    assert item.get("ip.protocol") == 1
    arp = FRAME[:12] + bytes.fromhex("080600010800060400010200000000010a4d00010000000000000a4d0002")
    assert decode(record(arp, LINKTYPE_ETHERNET)).summary.startswith("ARP who has 10.77.0.2? tell 10.77.0.1")
    udp = FRAME[:14] + FRAME[14:23] + b"\x11" + FRAME[24:34] + struct.pack(">HH", 53, 5353)
    assert decode(record(udp, LINKTYPE_ETHERNET)).summary.startswith("10.77.0.1:53 > 10.77.0.2:5353 UDP")
    vlan = FRAME[:12] + bytes.fromhex("81000001") + FRAME[12:]
    assert decode(record(vlan, LINKTYPE_ETHERNET)).get("ip.source") == "10.77.0.1"
    six = FRAME[:12] + bytes.fromhex("86dd60000000003a3a40") + bytes(15) + b"\1" + bytes(15) + b"\2"
    assert "::1 > ::2" in decode(record(six[:54], LINKTYPE_ETHERNET)).summary
    assert decode(record(FRAME[:20], LINKTYPE_ETHERNET)).summary == "IPv4 cut short, 20 bytes"
    assert decode(record(b"123", LINKTYPE_ETHERNET)).problems == ("Ethernet frame of 3 bytes",)


def test_messages_between_switches() -> None:
    hello = encode_link_hello(LinkHello("lab", "sw0", 1500, 0))
    assert decoded(net_frames=NetFrames(messages=[hello])).summary == "HELLO of lab/sw0, MTU 1500"
    packet = struct.pack(">HBBIHH", 0x504C, 1, 2, len(FRAME), 0, 0) + FRAME
    item = decoded(net_frames=NetFrames(messages=[packet, packet]))
    assert item.summary.startswith("2 frames: 10.77.0.1 > 10.77.0.2")
    assert item.get("ethernet.length") == len(FRAME)
    assert decoded(net_frames=NetFrames(messages=[b"bad"])).problems[0].startswith("link message:")


def test_memory_without_a_message() -> None:
    def memory(kind: int, data: bytes) -> Decoded:
        return decode(record(struct.pack(">B7xQ", kind, 0x1000) + data, LINKTYPE_MEMORY, name="lpar1/ring"))

    item = memory(2, VenetSg(1, 0, 60, ((60, 0x9000),)).encode())
    assert item.summary == "RING 0x1000, 48 bytes: packet of 60 bytes in 1 pieces"
    assert memory(1, b"hello").summary == "RDMA 0x1000, 5 bytes: 68656c6c6f"
    assert memory(9, b"").problems == ("memory record of kind 9",)
    assert decode(record(b"\1", LINKTYPE_MEMORY)).problems == ("memory record of 1 bytes, 16 are the least",)
