"""Offloads in software against sums and cuts that are computed word by word here, and against tshark's opinion."""

from __future__ import annotations

import random
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_frames import (
    check_tcp,
    ethernet,
    gso_tcp,
    ipv4,
    ipv6,
    packet_in,
    plain_sum,
    pseudo_sum,
    tcp,
    udp,
)

from pvnet.vbus.inet import checksum, is_sum_right, layers, word_sum
from pvnet.vbus.offload import DropReason, finish, frame_bytes
from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Offload, Packet, packet_of

TAG = b"\x81\x00\x00\x05"
HOP_BY_HOP = b"\x00\x00\x01\x04\0\0\0\0"
ROUTING = b"\x2b\x00\x00\x00\0\0\0\0"


def frames_of(packet: Packet) -> list[bytes]:
    result = finish(packet)
    assert not isinstance(result, DropReason), result
    for frame in result:
        assert frame.offload is NO_OFFLOAD
        assert frame.length == len(frame.tobytes())
    return [frame.tobytes() for frame in result]


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_word_sum_is_the_sum_of_the_rfc(data):
    assert word_sum(data) == plain_sum(data) % 0xFFFF
    assert word_sum(memoryview(data)) == word_sum(bytearray(data))


def test_word_sum_of_64_kib_of_ones_does_not_overflow():
    for size in (65535, 65536, 4_000_001):
        data = b"\xff" * size
        assert word_sum(data) == (0 if size % 2 == 0 else 0xFF00)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=2000))
def test_a_message_with_its_checksum_sums_right_and_a_flipped_bit_shows(data):
    check = checksum(word_sum(b"\x01\x00" + data))
    message = struct.pack(">HH", 0x0100, check) + data
    assert is_sum_right(message)
    broken = bytearray(message)
    broken[4] ^= 0x10
    assert not is_sum_right(broken)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize(
    ("size", "mss"), [(65000, 1448), (3000, 1447), (1448 * 3, 1448), (100, 1448), (1449, 1448), (0, 48)]
)
def test_tcp_is_cut_into_frames_that_carry_the_same_bytes(version, partial, pieces, size, mss):
    payload = random.Random(size).randbytes(size)
    options = b"\x01\x01\x08\x0a" + bytes(8)
    packet = gso_tcp(payload, mss, version=version, partial=partial, pieces=pieces, options=options, flags=0x19)
    frames = frames_of(packet)
    transport = 34 if version == 4 else 54
    assert len(frames) == max(1, -(-size // mss))
    got = b""
    for number, frame in enumerate(frames):
        sequence, flags, identification, part = check_tcp(frame, transport, version=version)
        assert sequence == (0xFFFFF000 + len(got)) & 0xFFFFFFFF
        assert flags == (0x19 if number == len(frames) - 1 else 0x10)
        assert identification == ((0xFFFE + number) & 0xFFFF if version == 4 else 0)
        assert len(frame) <= transport + 32 + mss
        assert frame[transport + 20 : transport + 32] == options
        got += part
    assert got == payload


@settings(deadline=None)
@given(
    st.integers(0, 65_000), st.integers(48, 9000), st.sampled_from([4, 6]), st.integers(0, 255), st.binary(max_size=40)
)
def test_any_tcp_packet_comes_out_whole(size, mss, version, flags, seed):
    payload = random.Random(seed).randbytes(size)
    frames = frames_of(gso_tcp(payload, mss, version=version, flags=flags, options=bytes(len(seed) // 4 * 4)))
    parts = [check_tcp(frame, 34 if version == 4 else 54, version=version) for frame in frames]
    assert b"".join(part for _, _, _, part in parts) == payload
    assert [bool(now & 0x80) for _, now, _, _ in parts] == [bool(flags & 0x80)] + [False] * (len(parts) - 1)
    assert parts[-1][1] & 0x09 == flags & 0x09
    assert all(not now & 0x09 for _, now, _, _ in parts[:-1])
    assert all(now & 0x76 == flags & 0x76 for _, now, _, _ in parts)


def test_cwr_is_said_once_and_ece_in_every_frame():
    frames = frames_of(gso_tcp(bytes(3000), 1000, ecn=True, flags=0xD8))
    assert [check_tcp(frame, 34)[1] for frame in frames] == [0xD0, 0x50, 0x58]


def test_vlan_tags_ip_options_and_extension_headers_are_kept():
    for frame in frames_of(gso_tcp(bytes(5000), 1000, tag=TAG + TAG)):
        check_tcp(frame, 42)
        assert frame[12:20] == TAG + TAG
    for frame in frames_of(gso_tcp(bytes(5000), 1000, ip_options=b"\x94\x04\0\0")):
        check_tcp(frame, 38)
    for frame in frames_of(gso_tcp(bytes(5000), 1000, version=6, extension=HOP_BY_HOP)):
        check_tcp(frame, 62, version=6)
        assert frame[54:62] == b"\x06" + HOP_BY_HOP[1:]


def test_behind_a_routing_header_the_partial_sum_is_what_counts():
    assert len(frames_of(gso_tcp(bytes(5000), 1000, version=6, extension=ROUTING))) == 5
    assert finish(gso_tcp(bytes(5000), 1000, version=6, extension=ROUTING, partial=False)) is DropReason.BAD_HEADERS


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("size", [0, 1, 31, 1400, 9001])
def test_a_partial_checksum_is_filled_in(size, pieces):
    payload = random.Random(size).randbytes(size)
    check = pseudo_sum("10.0.0.1", "10.0.0.2", 17, 8 + size)
    frame = ethernet(ipv4(udp(payload, check=check), 17), 0x0800)
    (done,) = frames_of(packet_in(frame, Offload(True, 34, 6), pieces))
    assert plain_sum(struct.pack(">HH", 8 + size, 17) + done[26:]) == 0xFFFF
    assert done[:40] == frame[:40]
    assert done[42:] == frame[42:]


def test_a_udp_checksum_that_comes_out_as_0_is_written_as_ffff():
    base = ethernet(ipv4(udp(b"\0\0", check=0), 17), 0x0800)
    rest = 0xFFFF - plain_sum(base[34:])
    frame = base[:42] + struct.pack(">H", rest)
    assert frames_of(packet_of(frame, Offload(True, 34, 6)))[0][40:42] == b"\xff\xff"
    assert frames_of(packet_of(frame, Offload(True, 34, 8)))[0][42:44] == struct.pack(">H", 0)


def test_a_frame_with_nothing_to_do_is_itself():
    packet = packet_of(bytes(60))
    assert finish(packet) == [packet]


@pytest.mark.parametrize(
    ("start", "offset"), [(60, 0), (58, 1), (0, 59), (65535, 65535), (14, 45)], ids=lambda number: str(number)
)
def test_a_checksum_outside_the_frame_is_refused(start, offset):
    assert finish(packet_of(bytes(60), Offload(True, start, offset))) is DropReason.BAD_CHECKSUM_PLACE


@pytest.mark.parametrize("size", [1000, 5000, 65000])
@pytest.mark.parametrize("partial", [True, False])
def test_udp_becomes_fragments_of_one_datagram(size, partial):
    payload = random.Random(size).randbytes(size)
    check = pseudo_sum("10.0.0.1", "10.0.0.2", 17, 8 + size) if partial else 0
    frame = ethernet(ipv4(udp(payload, check=check), 17, identification=777), 0x0800)
    offload = Offload(partial, 34 if partial else 0, 6 if partial else 0, GsoType.UDP, False, 42, 1480)
    frames = frames_of(packet_of(frame, offload))
    assert len(frames) == -(-(size + 8) // 1480)
    datagram = b""
    for number, one in enumerate(frames):
        assert plain_sum(one[14:34]) == 0xFFFF
        assert int.from_bytes(one[16:18], "big") == len(one) - 14
        assert int.from_bytes(one[18:20], "big") == 777
        place = int.from_bytes(one[20:22], "big")
        assert (place & 0x1FFF) * 8 == len(datagram)
        assert bool(place & 0x2000) is (number < len(frames) - 1)
        assert not place & 0x4000
        datagram += one[34:]
    assert datagram[8:] == payload
    if partial:
        assert plain_sum(frame[26:34] + struct.pack(">HH", len(datagram), 17) + datagram) == 0xFFFF


def gso(frame: bytes, kind: GsoType = GsoType.TCPV4, mss: int = 1000, start: int = 0, offset: int = 0) -> Packet:
    return packet_of(frame, Offload(bool(start), start, offset, kind, False, 0, mss))


TCP4 = ethernet(ipv4(tcp(bytes(3000)), 6), 0x0800)
TCP6 = ethernet(ipv6(tcp(bytes(3000)), 6), 0x86DD)
UDP4 = ethernet(ipv4(udp(bytes(3000)), 17), 0x0800)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (gso(TCP4[:13]), DropReason.BAD_HEADERS),
        (gso(TCP4[:30]), DropReason.BAD_HEADERS),
        (gso(TCP4[:53]), DropReason.BAD_HEADERS),
        (gso(TCP4[:14] + b"\x44" + TCP4[15:]), DropReason.BAD_HEADERS),
        (gso(TCP4[:14] + b"\x4f" + TCP4[15:40]), DropReason.BAD_HEADERS),
        (gso(TCP4[:14] + b"\x65" + TCP4[15:]), DropReason.BAD_HEADERS),
        (gso(TCP4[:46] + b"\x40" + TCP4[47:]), DropReason.BAD_HEADERS),
        (gso(TCP4[:46] + b"\xf0" + TCP4[47:60]), DropReason.BAD_HEADERS),
        (gso(ethernet(ipv4(tcp(bytes(3000)), 6, fragment=0x2000), 0x0800)), DropReason.BAD_HEADERS),
        (gso(ethernet(ipv4(tcp(bytes(3000)), 6, fragment=1), 0x0800)), DropReason.BAD_HEADERS),
        (gso(TCP4, GsoType.TCPV6), DropReason.BAD_HEADERS),
        (gso(TCP6, GsoType.TCPV4), DropReason.BAD_HEADERS),
        (gso(TCP6[:50], GsoType.TCPV6), DropReason.BAD_HEADERS),
        (gso(ethernet(b"\x45" + ipv6(tcp(bytes(99)), 6)[1:], 0x86DD), GsoType.TCPV6), DropReason.BAD_HEADERS),
        (gso(ethernet(ipv6(HOP_BY_HOP[:5], 0), 0x86DD), GsoType.TCPV6), DropReason.BAD_HEADERS),
        (gso(ethernet(ipv6(bytes(80), 0), 0x86DD), GsoType.TCPV6), DropReason.BAD_HEADERS),
        (gso(ethernet(ipv6(bytes(80), 44), 0x86DD), GsoType.TCPV6), DropReason.BAD_HEADERS),
        (gso(ethernet(ipv4(tcp(b""), 6), 0x0806)), DropReason.BAD_HEADERS),
        (gso(TCP4[:12] + TAG), DropReason.BAD_HEADERS),
        (gso(TCP4[:12] + TAG[:3]), DropReason.BAD_HEADERS),
        (gso(TCP4[:12] + TAG * 3 + TCP4[12:]), DropReason.BAD_HEADERS),
        (gso(UDP4), DropReason.BAD_HEADERS),
        (gso(TCP4, mss=47), DropReason.BAD_MSS),
        (gso(TCP4, mss=0), DropReason.BAD_MSS),
        (gso(TCP4 + bytes(70000), mss=65535), DropReason.BAD_MSS),
        (gso(TCP4, start=34, offset=6), DropReason.BAD_CHECKSUM_PLACE),
        (gso(TCP4, start=36, offset=16), DropReason.BAD_CHECKSUM_PLACE),
        (gso(TCP4, GsoType.UDP), DropReason.BAD_HEADERS),
        (gso(UDP4[:40], GsoType.UDP), DropReason.BAD_HEADERS),
        (gso(UDP4[:20], GsoType.UDP), DropReason.BAD_HEADERS),
        (gso(TCP6, GsoType.UDP), DropReason.GSO_UNSUPPORTED),
        (gso(UDP4, GsoType.UDP, start=34, offset=16), DropReason.BAD_CHECKSUM_PLACE),
        (gso(UDP4, GsoType.UDP, mss=47), DropReason.BAD_MSS),
        (gso(UDP4, GsoType.UDP, mss=0), DropReason.BAD_MSS),
        (gso(UDP4 + bytes(70000), GsoType.UDP, mss=65535), DropReason.BAD_HEADERS),
    ],
)  # fmt: skip
def test_a_packet_that_cannot_be_cut_is_refused_with_the_reason(packet, reason):
    assert finish(packet) is reason


@settings(deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([TCP4, TCP6, UDP4, b""]),
    st.integers(0, 120),
    st.builds(
        Offload, st.booleans(), st.integers(0, 65535), st.integers(0, 65535), st.sampled_from(GsoType), st.booleans(),
        st.integers(0, 65535), st.integers(0, 65535),
    ),
    st.integers(1, 4),
)  # fmt: skip
def test_scribbled_headers_never_raise(noise, base, at, offload, pieces):
    frame = (base[:at] + noise + base[at + len(noise) :]) or b"\0"
    packet = packet_in(frame, offload, pieces)
    result = finish(packet)
    assert frame_bytes(packet) <= packet.length
    if not isinstance(result, DropReason):
        assert all(one.length == len(one.tobytes()) and one.offload is NO_OFFLOAD for one in result)


@pytest.mark.parametrize("pieces", [1, 40])
@pytest.mark.parametrize("partial", [True, False])
def test_frame_bytes_is_the_size_of_the_largest_frame(partial, pieces):
    packet = gso_tcp(bytes(5000), 1000, options=bytes(12), partial=partial, pieces=pieces)
    assert frame_bytes(packet) == 34 + 32 + 1000 == len(frames_of(packet)[0])
    datagram = gso(UDP4, GsoType.UDP, mss=1480)
    assert frame_bytes(datagram) == 34 + 1480 == len(frames_of(datagram)[0])
    assert frame_bytes(packet_of(bytes(1500))) == 1500


def test_frame_bytes_of_nonsense_is_the_whole_length():
    assert frame_bytes(gso(bytes(3000))) == 3000
    assert frame_bytes(gso(TCP4[:40])) == 40
    assert frame_bytes(gso(TCP4[:40], start=34, offset=16)) == 40


def test_layers_reports_fragments_and_other_protocols():
    found = layers(ethernet(ipv4(bytes(8), 17, fragment=0x2000), 0x0800))
    assert found is not None
    assert found.fragmented
    assert (found.network, found.transport, found.protocol) == (14, 34, 17)
    ipv6_fragment = layers(ethernet(ipv6(bytes(8), 44), 0x86DD))
    assert ipv6_fragment is not None
    assert ipv6_fragment.fragmented
    assert layers(ethernet(bytes(40), 0x0806)) is None


@pytest.mark.needs("tshark")
def test_tshark_finds_nothing_wrong_with_the_frames(tmp_path):
    from pvnet.capture.pcapng import PcapngWriter

    file = tmp_path / "cut.pcapng"
    payload = random.Random(1).randbytes(40000)
    frames = []
    for version in (4, 6):
        for partial in (True, False):
            frames += frames_of(
                gso_tcp(payload, 1448, version=version, partial=partial, options=b"\x01" * 12, sequence=1)
            )
    datagram = udp(payload, check=pseudo_sum("10.0.0.1", "10.0.0.2", 17, 8 + len(payload)), port=9999)
    packet = packet_of(
        ethernet(ipv4(datagram, 17, identification=5), 0x0800), Offload(True, 34, 6, GsoType.UDP, False, 42, 1480)
    )
    frames += frames_of(packet)
    with file.open("wb") as stream:
        writer = PcapngWriter(stream.write)
        link = writer.interface("cut")
        for number, frame in enumerate(frames):
            writer.packet(link, number, frame)
    checks = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    fields = [
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "_ws.malformed",
        "tcp.len",
        "udp.length",
    ]
    wanted = [part for field in fields for part in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), *checks, "-T", "fields", "-E", "separator=,", *wanted]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(shown) == len(frames)
    rows = [line.split(",") for line in shown]
    assert all(row[0] in ("1", "") and row[1] in ("1", "") and row[2] in ("1", "") and not row[3] for row in rows), rows
    assert sum(int(row[4] or 0) for row in rows) == 4 * len(payload)
    assert [row[5] for row in rows if row[5]] == [str(8 + len(payload))], "the fragments make one datagram"
