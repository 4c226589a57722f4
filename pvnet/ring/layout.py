"""Bytes of the 2009 ring and signal, and the rules for touching memory that somebody else touches too.

::

    ring head, 56 bytes                     descriptor i, 32 bytes at 56 + 32 i
     0  magic u32   4  version u32           0 cookie u64   8 ptr u64   16 length u64
     8  signal, 16 bytes                    24 valid u8    25 sown u8   26 pad, 6 bytes
    24  valid: head u32, tail u32, full u8  (3 pad)
    36  inuse: head u32, tail u32, full u8  (3 pad)
    48  count u32  52 pad u32

    signal, 16 bytes: magic u32, version u32, irq[north]: enabled, pending, dirty, irq[south]: the same, 2 pad

All little endian.  *sown* is 1 while south owns the descriptor; it is the only byte that hands one over.

**One store per field.**  A field that the peer may read meanwhile is written by one item assignment to a cast
``memoryview``: CPython does that with one ``memcpy`` of the item's size, which for an aligned item is one store.
``struct.pack_into`` is not used for shared words, because it clears the field before it writes it: the peer could see
a zero that nobody meant (``tests/ring/test_stores.py`` shows it).  A slice assignment is not used either: it may tear.
Casts are native, so a big-endian host is refused.  :func:`words` also refuses memory that is not aligned.

**Order of stores.**  x86 keeps stores in order and loads in order, and CPython does not move memory accesses across
byte codes, so publishing needs no fence there.  Elsewhere the fence is also called where the specification writes W
(:data:`STORES_IN_ORDER`).

Spec: vbus 5.1, 5.4, 6.1.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pvnet.core.errors import LocalError, WireError
from pvnet.ring.errors import EINVAL, EOPNOTSUPP, RingError

Fence = Callable[[], None]
"""A full memory fence, store to load included; ``pvnet.runtime.fence.full_fence`` is one."""

NORTH: Final = 0
SOUTH: Final = 1

SIGNAL_MAGIC: Final = 0x58FA39DF
SIGNAL_VERSION: Final = 1
SIGNAL_BYTES: Final = 16
SIGNAL: Final = struct.Struct("<II6B2x")

RING_MAGIC: Final = 0x47FA2FE4
RING_VERSION: Final = 4
HEAD_BYTES: Final = 56
SIGNAL_OFFSET: Final = 8
"""Where the signal of a ring is, in the ring."""
VALID_OFFSET: Final = 24
INUSE_OFFSET: Final = 36
COUNT_OFFSET: Final = 48
HEAD: Final = struct.Struct("<II16sIIB3sIIB3sI4s")

DESCRIPTOR_BYTES: Final = 32
DESCRIPTOR: Final = struct.Struct("<QQQBB6x")
VALID_BYTE: Final = 24
SOWN_BYTE: Final = 25

MAX_COUNT: Final = 2048
"""Most descriptors that a host takes (vbus 6.7); a creator is held to it too."""

STORES_IN_ORDER: Final = platform.machine().lower() in {"x86_64", "amd64", "i386", "i586", "i686"}
"""Whether this machine keeps stores, and loads, in program order, so that publishing needs no fence."""

_BYTE_ORDER = sys.byteorder


class Descriptor(NamedTuple):
    """One snapshot of a descriptor, copied once: a buffer of ``length`` bytes at ``ptr``."""

    cookie: int
    """North's own token; south hands it back and does not look at it."""
    ptr: int
    length: int
    """Size of the buffer, or after use the number of bytes in it."""


class SignalWords(NamedTuple):
    """A decoded signal: enabled, pending, dirty of the north and of the south receiver."""

    north: tuple[int, int, int]
    south: tuple[int, int, int]


class RingIndex(NamedTuple):
    """One of the two indexes: ``full`` tells full from empty when head and tail are equal."""

    head: int
    tail: int
    full: int


@dataclass(frozen=True, slots=True)
class RingHead:
    """A decoded ring head."""

    signal: SignalWords
    valid: RingIndex
    inuse: RingIndex
    count: int


def ring_2009_bytes(count: int) -> int:
    """Bytes of a ring with ``count`` descriptors, exactly."""
    return HEAD_BYTES + DESCRIPTOR_BYTES * count


def encode_signal(words: SignalWords) -> bytes:
    """The 16 bytes of a signal."""
    return SIGNAL.pack(SIGNAL_MAGIC, SIGNAL_VERSION, *words.north, *words.south)


def decode_signal(data: bytes) -> SignalWords:
    """Decode 16 bytes.

    Raises:
        WireError: wrong size, magic or version, a flag that is neither 0 nor 1, or a pad that is not zero.
    """
    _exactly(data, SIGNAL_BYTES, "signal")
    magic, version, *flags = SIGNAL.unpack(data)
    _check(magic == SIGNAL_MAGIC, "signal magic", 0, f"{SIGNAL_MAGIC:#x}")
    _check(version == SIGNAL_VERSION, "signal version", 4, str(SIGNAL_VERSION))
    for offset, flag in enumerate(flags, 8):
        _check(flag <= 1, "signal flag", offset, "0 or 1")
    _check(data[14:] == bytes(2), "signal pad", 14, "zero")
    return SignalWords((flags[0], flags[1], flags[2]), (flags[3], flags[4], flags[5]))


def encode_head(head: RingHead) -> bytes:
    """The 56 bytes of a ring head."""
    zero = bytes(4)
    return HEAD.pack(
        RING_MAGIC, RING_VERSION, encode_signal(head.signal), *head.valid, zero, *head.inuse, zero, head.count, zero
    )


def decode_head(data: bytes) -> RingHead:
    """Decode 56 bytes; indexes must lie inside of the ring.

    Raises:
        WireError: wrong size, magic, version, count, index or signal, or a pad that is not zero.
    """
    _exactly(data, HEAD_BYTES, "ring head")
    magic, version, signal, *indexes, count, pad = HEAD.unpack(data)
    _check(magic == RING_MAGIC, "ring magic", 0, f"{RING_MAGIC:#x}")
    _check(version == RING_VERSION, "ring version", 4, str(RING_VERSION))
    try:
        words = decode_signal(signal)
    except WireError as error:
        raise WireError("signal of the ring", offset=SIGNAL_OFFSET, expected=str(error)) from None
    _check(1 <= count <= MAX_COUNT, "ring count", COUNT_OFFSET, f"1 to {MAX_COUNT}")
    for offset, (head, tail, full, zero) in ((VALID_OFFSET, indexes[:4]), (INUSE_OFFSET, indexes[4:])):
        _check(head < count, "ring index head", offset, f"less than {count}")
        _check(tail < count, "ring index tail", offset + 4, f"less than {count}")
        _check(full <= 1, "ring index full", offset + 8, "0 or 1")
        _check(zero == bytes(3), "ring index pad", offset + 9, "zero")
    _check(pad == bytes(4), "ring pad", 52, "zero")
    return RingHead(words, RingIndex(*indexes[:3]), RingIndex(*indexes[4:7]), count)


def encode_descriptor(descriptor: Descriptor, *, valid: bool, sown: bool) -> bytes:
    """The 32 bytes of a descriptor (for messages and tests; a ring is never written with one slice)."""
    return DESCRIPTOR.pack(*descriptor, valid, sown)


def decode_descriptor(data: bytes) -> tuple[Descriptor, bool, bool]:
    """Decode 32 bytes into the descriptor, *valid* and *sown*.

    Raises:
        WireError: wrong size, a flag that is neither 0 nor 1, or a pad that is not zero.
    """
    _exactly(data, DESCRIPTOR_BYTES, "descriptor")
    cookie, ptr, length, valid, sown = DESCRIPTOR.unpack(data)
    _check(valid <= 1, "descriptor valid", VALID_BYTE, "0 or 1")
    _check(sown <= 1, "descriptor sown", SOWN_BYTE, "0 or 1")
    _check(data[26:] == bytes(6), "descriptor pad", 26, "zero")
    return Descriptor(cookie, ptr, length), bool(valid), bool(sown)


class Words(NamedTuple):
    """The same memory as bytes, 32-bit and 64-bit words; each index is an offset divided by the item size."""

    u8: memoryview
    u32: memoryview
    u64: memoryview


def words(view: memoryview) -> Words:
    """Cast ring memory for single, aligned, native stores.

    Raises:
        LocalError: the memory is read-only or not a multiple of eight bytes.
        RingError: EOPNOTSUPP on a big-endian host, EINVAL if it does not start at a multiple of eight.
    """
    if _BYTE_ORDER != "little":
        raise RingError(EOPNOTSUPP, "shared rings are little endian and written natively; this machine is big endian")
    if view.readonly:
        raise LocalError("ring memory is read-only")
    flat = view.cast("B")
    if flat.nbytes % 8:
        raise LocalError(f"ring memory of {flat.nbytes} bytes: expected a multiple of 8")
    if flat.nbytes and ctypes.addressof(ctypes.c_char.from_buffer(flat)) % 8:
        raise RingError(EINVAL, "ring memory does not start at a multiple of 8")
    return Words(flat, flat.cast("I"), flat.cast("Q"))


def _exactly(data: bytes, size: int, what: str) -> None:
    if len(data) != size:
        raise WireError(f"{what} of {len(data)} bytes", expected=f"{size} bytes")


def _check(holds: bool, what: str, offset: int, expected: str) -> None:
    if not holds:
        raise WireError(what, offset=offset, expected=expected)
