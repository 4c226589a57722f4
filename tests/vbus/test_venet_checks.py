"""The host's judgement of what a guest wants to send: every rule of vbus 8.4, one by one and at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.vbus import venet_checks as checks
from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Offload
from pvnet.vbus.venet_checks import BadPacket
from pvnet.vbus.venet_layout import IOVS, SG_HEAD, SG_OFFER

MTU = 1500
UFO = 16


def head(flags=0, total=60, start=0, offset=0, gso=0, pad1=0, hdrlen=0, size=0, pad2=0, count=1, cookie=0):
    return (cookie, flags, total, start, offset, gso, pad1, hdrlen, size, pad2, count)


def judge(agreed=SG_OFFER, descriptor_bytes=320, **fields):
    return checks.check_sg_head(head(**fields), descriptor_bytes, MTU, agreed)


@pytest.mark.parametrize(("length", "good"), [(0, 0), (13, 0), (14, 1), (60, 1), (1514, 1), (1515, 0), (1 << 64, 0)])
def test_a_flat_frame_has_a_header_and_at_most_the_mtu(length, good):
    assert checks.check_flat(length, MTU) == (None if good else BadPacket.LENGTH)


@pytest.mark.parametrize(("length", "good"), [(0, 0), (47, 0), (48, 1), (320, 1), (321, 0), ((1 << 64) - 1, 0)])
def test_a_descriptor_has_48_to_320_bytes(length, good):
    assert checks.check_sg_size(length) == (None if good else BadPacket.DESCRIPTOR_SIZE)


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, NO_OFFLOAD),
        ({"total": 1514}, NO_OFFLOAD),
        ({"total": 1515}, BadPacket.LENGTH),
        ({"total": 13}, BadPacket.LENGTH),
        ({"total": 0}, BadPacket.LENGTH),
        ({"count": 0}, BadPacket.FRAGMENT_COUNT),
        ({"count": 19}, BadPacket.FRAGMENT_COUNT),
        ({"count": 0xFFFFFFFF}, BadPacket.FRAGMENT_COUNT),
        ({"count": 2, "descriptor_bytes": 63}, BadPacket.DESCRIPTOR_SIZE),
        ({"count": 2, "descriptor_bytes": 64}, NO_OFFLOAD),
        ({"pad1": 1}, BadPacket.PAD),
        ({"pad2": 1}, BadPacket.PAD),
        ({"flags": 8}, BadPacket.FLAGS),
        ({"flags": 1 << 31}, BadPacket.FLAGS),
        ({"flags": 1, "total": 100, "start": 34, "offset": 16}, Offload(True, 34, 16)),
        ({"flags": 1, "total": 52, "start": 34, "offset": 16}, Offload(True, 34, 16)),
        ({"flags": 1, "total": 51, "start": 34, "offset": 16}, BadPacket.CHECKSUM),
        ({"flags": 1, "total": 60, "start": 0xFFFF, "offset": 0xFFFF}, BadPacket.CHECKSUM),
        ({"flags": 1, "total": 1515}, BadPacket.LENGTH),
        ({"flags": 2, "total": 4000, "size": 1460}, Offload(gso=GsoType.TCPV4, mss=1460)),
        (
            {"flags": 3, "total": 4000, "start": 34, "offset": 16, "size": 1460, "hdrlen": 54},
            Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460),
        ),
        (
            {"flags": 7, "total": 65536, "start": 54, "offset": 16, "gso": 2, "size": 1440, "hdrlen": 74},
            Offload(True, 54, 16, GsoType.TCPV6, True, 74, 1440),
        ),
        ({"flags": 2, "total": 65537, "size": 1460}, BadPacket.LENGTH),
        ({"flags": 2, "total": 4000, "size": 0}, BadPacket.GSO_SIZE),
        ({"flags": 2, "total": 4000, "size": 1, "gso": 1}, BadPacket.GSO_TYPE),
        ({"flags": 2, "total": 4000, "size": 1, "gso": 3}, BadPacket.GSO_TYPE),
        ({"flags": 2, "total": 4000, "size": 1, "agreed": 1}, BadPacket.GSO_TYPE),
        ({"flags": 2, "total": 4000, "size": 1, "gso": 2, "agreed": 3}, BadPacket.GSO_TYPE),
        ({"flags": 2, "total": 4000, "size": 1, "gso": 1, "agreed": UFO}, Offload(gso=GsoType.UDP, mss=1)),
        ({"flags": 2, "total": 4000, "size": 1, "hdrlen": 4001}, BadPacket.GSO_HEADER),
        ({"flags": 6, "total": 4000, "size": 1, "agreed": 7}, BadPacket.ECN),
        ({"flags": 4}, BadPacket.ECN),
    ],
)
def test_a_packet_descriptor_is_judged(fields, answer):
    assert judge(**fields) == answer


@pytest.mark.parametrize(
    ("iovs", "answer"),
    [
        ([(60, 0, 1)], None),
        ([(30, 0, 1), (30, 0, 2)], None),
        ([(59, 0, 1)], BadPacket.SUM),
        ([(61, 0, 1)], BadPacket.SUM),
        ([(60, 1, 1)], BadPacket.PAD),
        ([(60, 0, 1), (0, 0, 1)], BadPacket.FRAGMENT_LENGTH),
        ([(0x80000000, 0, 1), (0x80000000, 0, 1), (60, 0, 1)], BadPacket.SUM),
        ([(0xFFFFFFFF, 0, 1), (61, 0, 1)], BadPacket.SUM),
    ],
)
def test_fragments_are_judged(iovs, answer):
    assert checks.check_iovs([number for iov in iovs for number in iov], 60) == answer


@given(st.binary(min_size=320, max_size=320), st.integers(48, 320), st.integers(0, 63))
def test_whatever_passes_has_consistent_numbers(data, descriptor_bytes, agreed):
    """Random bytes, with small numbers mixed in where large ones would nearly never pass."""
    fields = list(SG_HEAD.unpack_from(data))
    fields[1] &= 0xF
    fields[2] &= 0x1FFFF
    fields[5] &= 3
    fields[6] = fields[9] = 0
    fields[10] &= 31
    judged = checks.check_sg_head(tuple(fields), descriptor_bytes, MTU, agreed)
    if isinstance(judged, BadPacket):
        return
    total, count = fields[2], fields[10]
    assert 1 <= count <= 18
    assert 32 + 16 * count <= descriptor_bytes
    assert 14 <= total <= (65536 if judged.gso else MTU + 14)
    assert judged.csum_start + judged.csum_offset + 2 <= total or not judged.needs_csum
    assert judged.gso == GsoType.NONE or judged.mss
    iovs = IOVS[count].unpack_from(data, 32)
    if checks.check_iovs(iovs, total) is None:
        assert sum(iovs[0::3]) == total
