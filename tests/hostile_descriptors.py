"""Descriptors that no honest partition writes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from pvnet.vbus.arena import DEFAULT_BASE
from pvnet.vbus.venet_layout import SG_HEAD, VenetSg

WORD = 0xFFFFFFFF


def flat_nonsense(size: int) -> list[tuple[int, int]]:
    """Addresses and lengths of flat frames, around an arena of ``size`` bytes and far from it."""
    base, end = DEFAULT_BASE, DEFAULT_BASE + size
    places = [0, 1, base - 1, base, end - 60, end - 1, end, end + 1, 1 << 32, (1 << 63) - 1, 1 << 63, -1, -60]
    return [(ptr, length) for ptr in places for length in (0, 1, 59, 60, 1514, 1515, 65536, 1 << 31, WORD)]


def sg_nonsense(rng: random.Random) -> Iterator[bytes]:
    """Packet descriptors; some are right at the edge, most are behind it."""
    base = DEFAULT_BASE
    good = base + 8192
    for count in (0, 1, 2, 17, 18):
        yield VenetSg(1, 0, 60 * max(count, 1), tuple((60, good + 64 * i) for i in range(count))).encode()
    for count in (19, 20, 0xFFFF, 0x10000000, 0x7FFFFFFF, 0x80000000, WORD):
        yield SG_HEAD.pack(1, 0, 60, 0, 0, 0, 0, 0, 0, 0, count) + bytes(16) * 18
    for length in (0, 1, 13, 1515, 65537, 0x7FFFFFFF, WORD):
        yield VenetSg(1, 0, length, ((length, good),)).encode()
        yield VenetSg(1, 0, 60, ((length, good),)).encode()
    overflow = (0x80000000, good)
    yield VenetSg(1, 0, 0, (overflow, overflow)).encode()
    yield VenetSg(1, 0, 60, ((WORD, good), (61, good))).encode()
    for address in (0, base - 1, (1 << 64) - 30, (1 << 63), base + (1 << 34)):
        yield VenetSg(1, 0, 60, ((60, address),)).encode()
    yield VenetSg(1, 0, 120, ((60, good), (60, good))).encode()  # the same memory twice
    for flags in range(16):
        for kind in (0, 1, 2, 3, 255):
            for mss, hdrlen in ((0, 0), (1, 0), (1460, 54), (0xFFFF, 0xFFFF)):
                yield SG_HEAD.pack(1, flags, 4000, 34, 16, kind, 0, hdrlen, mss, 0, 1) + struct.pack(
                    "<IIQ", 4000, 0, good
                )
    for start, offset in ((0, 0), (0xFFFF, 0xFFFF), (58, 1), (59, 0), (34, 0xFFFF)):
        yield SG_HEAD.pack(1, 1, 60, start, offset, 0, 0, 0, 0, 0, 1) + struct.pack("<IIQ", 60, 0, good)
    for _ in range(100):
        yield rng.randbytes(rng.choice([48, 64, 320]))
