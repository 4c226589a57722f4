"""The namespace label area of an NVDIMM, byte for byte as Linux' libnvdimm and ndctl write it.

The area (at least 128 KiB, QEMU's and PowerVM's size) begins with two index blocks, followed by slots of one label
each.  An update rewrites the *other* index block with the next sequence number, so that one good block survives a
crash at any moment; each block lists the free slots as a bitmap and is guarded by a Fletcher-64 sum::

    0              index block 0     256 bytes for 1020 slots of 128 bytes in 128 KiB
    my_size        index block 1
    2 * my_size    slot 0, slot 1, ...   128 bytes each (v1.1) or 256 (v1.2)

Everything is little-endian, on every processor: this is a format of UEFI, not of PAPR.

Three questions are answered here, as data without any access: what an area holds (:func:`decode_area`), what is wrong
with it (``problems``, the checks of the kernel in its order), and which parts the kernel's driver reads at probe
(:class:`LabelScan`).  :func:`blank_area` makes what ``ndctl init-labels`` makes, with the
bitmap's bits beyond the last slot set up to a whole 64-bit word as there.

Doubts decided.  Which of two valid blocks is current follows the kernel: sequence numbers go 1, 2, 3, 1, and the one
that follows the other wins; equal ones give block 1.  A label whose slot number or checksum is wrong is reported, not
dropped: the kernel ignores it silently.  Slots that the bitmap calls free are not decoded, whatever they hold.

Spec: UEFI 2.7 "NVDIMM label protocol"; Linux ``drivers/nvdimm/label.h``, ``label.c``; ndctl ``ndctl/lib/dimm.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from pvnet.core.errors import LocalError, WireError

SIGNATURE: Final = b"NAMESPACE_INDEX\0"
INDEX_ALIGN: Final = 256
LABEL_SIZES: Final = (128, 256)
"""Label bytes of v1.1 and of v1.2."""
FIRST_LABEL_SIZE_SHIFT: Final = 7

_INDEX: Final = struct.Struct("<16s3sBIQQQQIHHQ")
"""Fields as drawn at :class:`IndexBlock`."""
_LABEL: Final = struct.Struct("<16s64sIHHQQQQI")
"""UUID, name, flags, labels of the set, position, set cookie, LBA size, DPA, raw size, slot."""
_LABEL_TAIL_AT: Final = 124
_LABEL_SUM_AT: Final = 248
_NAME_BYTES: Final = 64
_SEQUENCE_MASK: Final = 3
_NEXT_SEQUENCE: Final = (0, 2, 3, 1)

LABEL_FLAGS: Final = {0x1: "read-only", 0x2: "local", 0x4: "btt", 0x8: "updating"}


def fletcher64(data: bytes) -> int:
    """Fletcher-64 over little-endian 32-bit words: the low half is their sum, the high half the sum of the sums.

    Raises :class:`LocalError` when ``data`` is not a whole number of words.
    """
    if len(data) % 4:
        raise LocalError(f"{len(data)} bytes: expected whole 32-bit words")
    low = high = 0
    for (word,) in struct.iter_unpack("<I", data):
        low = (low + word) & 0xFFFFFFFF
        high = (high + low) & 0xFFFFFFFF
    return high << 32 | low


def _index_bytes(slots: int) -> int:
    return -(-(_INDEX.size + -(-slots // 8)) // INDEX_ALIGN) * INDEX_ALIGN


def slot_count(area_bytes: int, label_size: int) -> int:
    """Labels that fit beside two index blocks into an area, as libnvdimm computes it; 0 when not even one does."""
    index_bytes = _index_bytes(area_bytes // label_size)
    return max(0, (area_bytes - 2 * index_bytes) // label_size)


def index_size(area_bytes: int, label_size: int) -> int:
    """Bytes of one index block; 0 when two blocks and two labels do not fit."""
    slots = slot_count(area_bytes, label_size)
    size = _index_bytes(slots)
    return size if slots >= 2 and 2 * size <= area_bytes - slots * label_size else 0


@dataclass(frozen=True, slots=True)
class IndexBlock:
    """One index block.  ``tail`` are the bytes after the header: the free bitmap and the padding to the block's end.

    ::

        0  signature 16 | 16 flags 3 | 19 label size code 1 | 20 sequence 4 | 24 own offset 8 | 32 own size 8
        40 other offset 8 | 48 label offset 8 | 56 slots 4 | 60 major 2 | 62 minor 2 | 64 checksum 8 | 72 free bitmap
    """

    sequence: int
    my_offset: int
    my_size: int
    other_offset: int
    label_offset: int
    slots: int
    major: int
    minor: int
    checksum: int
    tail: bytes
    flags: bytes = b"\0\0\0"
    label_size_code: int = 0
    signature: bytes = SIGNATURE

    @property
    def label_size(self) -> int:
        """Bytes of one label: sizes other than 128 arrived with v1.2."""
        if (self.major, self.minor) >= (1, 2):
            return 1 << min(FIRST_LABEL_SIZE_SHIFT + self.label_size_code, 32)
        return 1 << FIRST_LABEL_SIZE_SHIFT

    def is_free(self, slot: int) -> bool:
        """Whether the bitmap calls ``slot`` free; slots beyond the bitmap are not free."""
        byte = slot // 8
        return byte < len(self.tail) and bool(self.tail[byte] >> slot % 8 & 1)

    def free_slots(self) -> int:
        """How many slots are free."""
        return sum(self.is_free(slot) for slot in range(min(self.slots, len(self.tail) * 8)))

    def with_slot(self, slot: int, *, free: bool) -> IndexBlock:
        """Return a copy with the slot marked; the checksum is not yet right (:meth:`sealed`)."""
        if not 0 <= slot < min(self.slots, len(self.tail) * 8):
            raise LocalError(f"slot {slot}: expected 0 to {self.slots - 1}")
        tail = bytearray(self.tail)
        tail[slot // 8] = tail[slot // 8] | 1 << slot % 8 if free else tail[slot // 8] & ~(1 << slot % 8)
        return replace(self, tail=bytes(tail))

    def sealed(self) -> IndexBlock:
        """Return a copy with the right checksum."""
        return replace(self, checksum=self.expected_checksum())

    def expected_checksum(self) -> int:
        """Sum over the block with its checksum field 0."""
        return fletcher64(replace(self, checksum=0).encode())

    def encode(self) -> bytes:
        """Return the bytes as decoded."""
        header = _INDEX.pack(
            self.signature,
            self.flags,
            self.label_size_code,
            self.sequence,
            self.my_offset,
            self.my_size,
            self.other_offset,
            self.label_offset,
            self.slots,
            self.major,
            self.minor,
            self.checksum,
        )
        return header + self.tail


def decode_index(raw: bytes) -> IndexBlock:
    """Split one index block; ``raw`` is the whole block.  Never looks whether the values make sense.

    Raises :class:`WireError` when there are fewer than 72 bytes or the signature is not there (a blank area).
    """
    if len(raw) < _INDEX.size:
        raise WireError("index block", offset=len(raw), expected=f"at least {_INDEX.size} bytes")
    signature, flags, code, sequence, mine, size, other, label, slots, major, minor, checksum = _INDEX.unpack_from(raw)
    if signature != SIGNATURE:
        raise WireError("index block", offset=0, expected="NAMESPACE_INDEX")
    return IndexBlock(
        sequence,
        mine,
        size,
        other,
        label,
        slots,
        major,
        minor,
        checksum,
        bytes(raw[_INDEX.size :]),
        flags=flags,
        label_size_code=code,
    )


def index_problems(index: IndexBlock, number: int, area_bytes: int, label_size: int) -> tuple[str, ...]:
    """Everything that makes libnvdimm refuse block ``number`` (0 or 1) of an area; empty for a valid block."""
    expected = index_size(area_bytes, label_size)
    limit = area_bytes - 2 * expected
    checks = (
        (index.label_size == label_size, f"label size {index.label_size}: expected {label_size}"),
        (_sum_is_right(index), f"checksum {index.checksum:#018x} is wrong"),
        (index.sequence & _SEQUENCE_MASK != 0, f"sequence {index.sequence}: expected 1, 2 or 3"),
        (index.my_offset == number * expected, f"own offset {index.my_offset:#x}: expected {number * expected:#x}"),
        (
            index.other_offset == (1 - number) * expected,
            f"other offset {index.other_offset:#x}: expected {(1 - number) * expected:#x}",
        ),
        (index.label_offset == 2 * expected, f"label offset {index.label_offset:#x}: expected {2 * expected:#x}"),
        (_INDEX.size <= index.my_size <= expected, f"own size {index.my_size}: expected {expected}"),
        (index.slots * label_size <= limit, f"{index.slots} slots do not fit"),
    )
    return tuple(text for is_good, text in checks if not is_good)


def _sum_is_right(index: IndexBlock) -> bool:
    return len(index.tail) % 4 == 0 and index.checksum == index.expected_checksum()


@dataclass(frozen=True, slots=True)
class Label:
    """One namespace label.  ``tail`` are the bytes from 124 on: 4 unused ones in v1.1, see the properties for v1.2.

    ::

        0 UUID 16 | 16 name 64 | 80 flags 4 | 84 labels 2 | 86 position 2 | 88 set cookie 8 | 96 LBA size 8 | 104 DPA 8
        112 raw size 8 | 120 slot 4 | v1.2: 124 alignment 1 | 125 reserved 3 | 128 type GUID 16
        144 abstraction GUID 16 | 160 reserved 88 | 248 checksum 8
    """

    uuid: UUID
    name: bytes
    flags: int
    labels: int
    position: int
    set_cookie: int
    lba_size: int
    dpa: int
    raw_size: int
    slot: int
    tail: bytes

    @property
    def text_name(self) -> str:
        """Name as text, without padding; bytes that are no UTF-8 are replaced."""
        return self.name.split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def flag_names(self) -> tuple[str, ...]:
        """Names of the known flags that are set."""
        return tuple(name for bit, name in LABEL_FLAGS.items() if self.flags & bit)

    @property
    def size(self) -> int:
        """128 (v1.1) or 256 (v1.2)."""
        return _LABEL.size + len(self.tail)

    @property
    def type_guid(self) -> UUID | None:
        """v1.2: what the namespace is (volatile, pmem ...); ``None`` in v1.1."""
        return UUID(bytes_le=self.tail[4:20]) if self.size == LABEL_SIZES[1] else None

    @property
    def abstraction_guid(self) -> UUID | None:
        """v1.2: the layer that claims the namespace; ``None`` in v1.1."""
        return UUID(bytes_le=self.tail[20:36]) if self.size == LABEL_SIZES[1] else None

    @property
    def checksum(self) -> int | None:
        """v1.2: the stored sum; v1.1 has none."""
        return int.from_bytes(self.tail[-8:], "little") if self.size == LABEL_SIZES[1] else None

    def expected_checksum(self) -> int:
        """Sum over the label with its checksum field 0 (v1.2)."""
        raw = self.encode()
        return fletcher64(raw[:_LABEL_SUM_AT] + bytes(8) + raw[_LABEL_SUM_AT + 8 :])

    def sealed(self) -> Label:
        """Return a copy with the right checksum; in v1.1 the label itself."""
        if self.size != LABEL_SIZES[1]:
            return self
        return replace(self, tail=self.tail[:-8] + self.expected_checksum().to_bytes(8, "little"))

    def problems(self, slot: int) -> tuple[str, ...]:
        """Everything that makes libnvdimm ignore this label in ``slot``."""
        found = []
        if self.slot != slot:
            found.append(f"slot number {self.slot}: expected {slot}")
        if self.checksum is not None and self.checksum != self.expected_checksum():
            found.append(f"checksum {self.checksum:#018x} is wrong")
        return tuple(found)

    def encode(self) -> bytes:
        """Return the 128 or 256 bytes."""
        return (
            _LABEL.pack(
                self.uuid.bytes,
                self.name,
                self.flags,
                self.labels,
                self.position,
                self.set_cookie,
                self.lba_size,
                self.dpa,
                self.raw_size,
                self.slot,
            )
            + self.tail
        )


def decode_label(raw: bytes) -> Label:
    """Split one label of 128 or 256 bytes.  Raises :class:`WireError` for another length."""
    if len(raw) not in LABEL_SIZES:
        raise WireError("label", offset=len(raw), expected="128 or 256 bytes")
    uuid, name, flags, labels, position, cookie, lba, dpa, size, slot = _LABEL.unpack_from(raw)
    return Label(
        UUID(bytes=uuid), name, flags, labels, position, cookie, lba, dpa, size, slot, bytes(raw[_LABEL_TAIL_AT:])
    )


def new_label(slot: int, uuid: UUID, name: str, dpa: int, raw_size: int, *, label_size: int = 128) -> Label:
    """Make the label of a namespace that lies in one piece on one device.

    Raises :class:`LocalError` when the name takes more than 63 bytes or the label size is unknown.
    """
    encoded = name.encode()
    if len(encoded) >= _NAME_BYTES or label_size not in LABEL_SIZES:
        raise LocalError(f"label {name!r} of {label_size} bytes: expected a name of up to 63 bytes, 128 or 256 bytes")
    tail = bytes(label_size - _LABEL.size)
    return Label(uuid, encoded.ljust(_NAME_BYTES, b"\0"), 0, 1, 0, 0, 0, dpa, raw_size, slot, tail).sealed()


@dataclass(frozen=True, slots=True)
class IndexView:
    """One index block as found: ``index`` is ``None`` where there is no signature."""

    index: IndexBlock | None
    problems: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        """Whether the kernel would take it."""
        return self.index is not None and not self.problems


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot that is in use: its label and what is wrong with it."""

    slot: int
    label: Label
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelArea:
    """A decoded area.  ``current`` is the block in force, ``None`` when there is none: an area without labels."""

    size_bytes: int
    label_size: int
    indexes: tuple[IndexView, IndexView]
    current: int | None
    labels: tuple[SlotView, ...]

    @property
    def index(self) -> IndexBlock | None:
        """The index block in force."""
        return None if self.current is None else self.indexes[self.current].index

    @property
    def is_blank(self) -> bool:
        """Whether neither index block carries the signature."""
        return all(view.index is None for view in self.indexes)

    @property
    def is_sound(self) -> bool:
        """Whether both index blocks are valid and every label in use is."""
        return all(view.is_valid for view in self.indexes) and not any(slot.problems for slot in self.labels)


def _indexes(raw: bytes, area_bytes: int, label_size: int) -> tuple[IndexView, IndexView]:
    def view(number: int) -> IndexView:
        size = index_size(area_bytes, label_size)
        block = raw[number * size : (number + 1) * size]
        try:
            index = decode_index(block)
        except WireError as error:
            return IndexView(None, (str(error),))
        return IndexView(index, index_problems(index, number, area_bytes, label_size))

    return view(0), view(1)


def _current(indexes: tuple[IndexView, IndexView]) -> int | None:
    valid = [number for number, view in enumerate(indexes) if view.is_valid]
    if len(valid) < 2:
        return valid[0] if valid else None
    first, second = (view.index.sequence & _SEQUENCE_MASK for view in indexes if view.index is not None)
    return 1 if second in {first, _NEXT_SEQUENCE[first]} else 0


def decode_indexes(raw: bytes, area_bytes: int) -> tuple[int, tuple[IndexView, IndexView], int | None]:
    """Find the index blocks at the start of ``raw``: (label size, both blocks, number of the one in force).

    Labels of 128 bytes are tried first; with neither size valid the answer is for 128, so that the problems shown are
    those of what was most likely meant.
    """
    views = [(size, _indexes(raw, area_bytes, size)) for size in LABEL_SIZES]
    for size, indexes in views:
        current = _current(indexes)
        if current is not None:
            return size, indexes, current
    size, indexes = views[0]
    return size, indexes, None


def decode_area(raw: bytes) -> LabelArea:
    """Decode and verify a whole area.

    Raises :class:`WireError` when it is too small to hold two index blocks and two labels.
    """
    if not index_size(len(raw), LABEL_SIZES[0]):
        raise WireError("label area", offset=len(raw), expected="room for two index blocks and two labels")
    label_size, indexes, current = decode_indexes(raw, len(raw))
    labels = []
    index = None if current is None else indexes[current].index
    if index is not None:
        for slot, offset in _used_slots(index):
            label = decode_label(raw[offset : offset + label_size])
            labels.append(SlotView(slot, label, label.problems(slot)))
    return LabelArea(len(raw), label_size, indexes, current, tuple(labels))


def _used_slots(index: IndexBlock) -> Iterator[tuple[int, int]]:
    for slot in range(index.slots):
        if not index.is_free(slot):
            yield slot, index.label_offset + slot * index.label_size


def encode_area(area: LabelArea, raw: bytes) -> bytes:
    """Write the decoded index blocks and labels of ``area`` over ``raw`` and return the bytes.

    Decoding and encoding without a change gives ``raw`` back.
    """
    out = bytearray(raw)
    blocks = [(view.index.my_offset, view.index.encode()) for view in area.indexes if view.index and view.is_valid]
    if area.index is not None:
        start, size = area.index.label_offset, area.label_size
        blocks += [(start + used.slot * size, used.label.encode()) for used in area.labels]
    for offset, data in blocks:
        out[offset : offset + len(data)] = data
    return bytes(out)


def blank_area(area_bytes: int, label_size: int = 128) -> bytes:
    """Make an initialised area without labels, as ``ndctl init-labels`` leaves it: all slots free, sequences 3 and 2.

    Raises :class:`LocalError` when it is too small.
    """
    size = index_size(area_bytes, label_size)
    if not size:
        raise LocalError(f"label area of {area_bytes} bytes: expected room for two index blocks and two labels")
    slots = slot_count(area_bytes, label_size)
    bitmap = bytearray(size - _INDEX.size)
    bitmap[: -(-slots // 64) * 8] = b"\xff" * (-(-slots // 64) * 8)
    bitmap = bitmap[: size - _INDEX.size]
    out = bytearray(area_bytes)
    for number, sequence in ((0, 3), (1, 2)):
        index = IndexBlock(
            sequence,
            my_offset=number * size,
            my_size=size,
            other_offset=(1 - number) * size,
            label_offset=2 * size,
            slots=slots,
            major=1,
            minor=1 if label_size == LABEL_SIZES[0] else 2,
            checksum=0,
            tail=bytes(bitmap),
            label_size_code=label_size.bit_length() - 1 - FIRST_LABEL_SIZE_SHIFT,
        ).sealed()
        out[number * size : (number + 1) * size] = index.encode()
    return bytes(out)


def next_index(area: LabelArea, *, use: tuple[int, ...] = (), free: tuple[int, ...] = ()) -> IndexBlock:
    """Return the block that an update writes over the one not in force: slots marked, next sequence, right sum.

    Raises :class:`LocalError` when no block is in force.
    """
    index = area.index
    if index is None:
        raise LocalError("label area without a valid index block: initialise it first")
    for slot in use:
        index = index.with_slot(slot, free=False)
    for slot in free:
        index = index.with_slot(slot, free=True)
    return replace(
        index,
        sequence=_NEXT_SEQUENCE[index.sequence & _SEQUENCE_MASK],
        my_offset=index.other_offset,
        other_offset=index.my_offset,
    ).sealed()


class LabelScan:
    """Which parts of an area the kernel's driver reads when it probes a device, and in which order.

    First the room of two index blocks; when one of them is valid, then each label in use that was not read yet.  Ask
    :meth:`wanted`, read, hand the bytes to :meth:`feed`, until ``wanted`` is ``None``.

    :param area_bytes: size of the area.  :param max_transfer: bytes of one transfer (papr_scm: 8); reads are whole
        transfers.
    """

    def __init__(self, area_bytes: int, max_transfer: int) -> None:
        self.area = bytearray(area_bytes)
        self.current: int | None = None
        self._transfer = min(max_transfer, area_bytes)
        self._read = 0
        self._slots: Iterator[tuple[int, int]] | None = None
        self._label_size = LABEL_SIZES[0]
        size = 2 * index_size(area_bytes, LABEL_SIZES[0])
        self._wanted = (0, min(self._whole(size), area_bytes)) if size else None

    def wanted(self) -> tuple[int, int] | None:
        """Offset and length of the next read, or ``None``: all is there."""
        return self._wanted

    def feed(self, data: bytes) -> None:
        """Take the bytes of the read that was wanted.  Raises :class:`LocalError` for another length."""
        if self._wanted is None or len(data) != self._wanted[1]:
            raise LocalError(f"{len(data)} bytes of labels: expected {self._wanted}")
        offset, length = self._wanted
        self.area[offset : offset + length] = data
        self._read = offset + length
        if self._slots is None:
            self._label_size, indexes, self.current = decode_indexes(bytes(self.area), len(self.area))
            index = None if self.current is None else indexes[self.current].index
            self._slots = iter(()) if index is None else _used_slots(index)
        self._wanted = self._next_label()

    def _whole(self, length: int) -> int:
        return -(-length // self._transfer) * self._transfer

    def _next_label(self) -> tuple[int, int] | None:
        assert self._slots is not None
        for _, offset in self._slots:
            end = offset + self._label_size
            if end > self._read:
                start = max(self._read, offset)
                return start, min(self._whole(end - start), len(self.area) - start)
        return None
