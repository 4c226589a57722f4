"""Copies a channel program out of the user's memory, so that nothing the user does later can change it.

The copy is a list of **segments**, pieces that lie in one row in the user's memory; a TIC leads from one to another.
Every CCW of it has its data areas resolved and **pinned**: the pages are recorded, and each has been touched once, so
that a program with data where nothing is mapped is refused before it starts.  In detail, as the kernel does it:

* Always 256 CCWs (2 KiB) are read, however short the program is: one that ends near the end of the mapped memory is
  refused.  A segment ends with the first CCW that neither chains nor is a TIC back into the CCWs counted so far; none
  among 256 is EINVAL.
* The target of a TIC that lies in no known segment starts a new one, depth first; more than 16 are EINVAL.
* An IDA list is read twice: the first entry, which says how many there are, then all; if it differs, EINVAL.
  Both formats are known: 1 (31 bits, blocks of 2 KiB) and 2 (64 bits, blocks of 2 or 4 KiB).
* All that the channel itself objects to (bad addresses, flags, commands) is left to it and ends in a program check:
  :mod:`pvnet.mdev.ccw_execute`.  A TIC to such an address is not followed.

Decided here: a program pins at most 4096 pages (ENOMEM); entries of an IDA list after the first that are not block
aligned, lists that are not aligned and IDA together with reading backward are refused (EINVAL); CCWs that continue a
data chain have the command of the CCW before.

Spec: mdev 5.4, 5.5, 9.4 (D5 to D11).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pvnet.mdev.ccw_layout import ADDRESS_24, ADDRESS_31, CCW_BYTES, Ccw, Orb, iter_ccws
from pvnet.mdev.ccw_names import CcwFlag, Command, CommandClass, OrbFlag, command_class
from pvnet.mdev.device import DmaRead, Steps
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM, EOPNOTSUPP

SEGMENT_CCWS: Final = 256
MAX_SEGMENTS: Final = 16
MAX_PAGES: Final = 4096
PAGE: Final = 4096
_BLOCK_2K: Final = 2048
_BLOCK_4K: Final = 4096
# Plain numbers and no look-ups: these are asked of every CCW.
_CHAINS: Final = int(CcwFlag.CHAIN_DATA | CcwFlag.CHAIN_COMMAND)
_CHAIN_DATA: Final = int(CcwFlag.CHAIN_DATA)
_SKIP: Final = int(CcwFlag.SKIP)
_IDA: Final = int(CcwFlag.IDA)
_TIC: Final = int(Command.TIC)
_NOP: Final = int(Command.NOP)
_FORMAT_1: Final = int(OrbFlag.FORMAT_1)
_READS: Final = frozenset({CommandClass.READ, CommandClass.READ_BACKWARD, CommandClass.SENSE})
_READ_BACKWARD: Final = CommandClass.READ_BACKWARD
_IDAW: Final = struct.Struct(">I")
_IDAW_64: Final = struct.Struct(">Q")

Area = tuple[int, int]
"""I/O address and length of a piece of data."""


@dataclass(slots=True)
class HostCcw:
    """A CCW of the copy."""

    ccw: Ccw
    address: int
    """Where the user has it."""
    areas: Sequence[Area] = ()
    """Its data, in ascending order; empty when it moves none."""
    target: tuple[int, int] | None = None
    """Of a TIC: segment and index."""


@dataclass(slots=True)
class Segment:
    """CCWs that lie in one row."""

    address: int
    ccws: list[HostCcw]

    def holds(self, address: int) -> bool:
        """Whether a CCW of it begins at or covers ``address``."""
        return self.address <= address < self.address + len(self.ccws) * CCW_BYTES


@dataclass(slots=True)
class ChannelProgram:
    """A program that can run: what has become of an ORB."""

    orb: Orb
    segments: list[Segment] = field(default_factory=list)
    """Empty when the address of the first CCW is not one."""
    pages: set[int] = field(default_factory=set)
    """Pinned pages, as I/O address >> 12."""

    def pins(self, address: int, size: int) -> bool:
        """Whether a page of this range is pinned."""
        first, last = address // PAGE, (address + size - 1) // PAGE
        if last - first < len(self.pages):
            return any(page in self.pages for page in range(first, last + 1))
        return any(first <= page <= last for page in self.pages)

    def guest_address(self, segment: int, offset: int) -> int:
        """Return the user's address of byte ``offset`` of a segment: what a status word tells."""
        return self.segments[segment].address + offset

    def find(self, address: int) -> tuple[int, int] | None:
        """Return segment and index of the CCW at ``address``."""
        for number, segment in enumerate(self.segments):
            if segment.holds(address):
                return number, (address - segment.address) // CCW_BYTES
        return None


def is_program_address(address: int, orb: Orb) -> bool:
    """Whether a CCW may lie at ``address``."""
    limit = ADDRESS_31 if orb.flags & _FORMAT_1 else ADDRESS_24
    return 0 < address <= limit and not address % CCW_BYTES


def translate(program: ChannelProgram) -> Steps[None]:
    """Fill ``program``, which has its ORB, from the user's memory.

    :raises MdevError: EOPNOTSUPP transport mode; EINVAL malformed; EFAULT not mapped; ENOMEM too much.
    """
    orb = program.orb
    if orb.flags & OrbFlag.TRANSPORT:
        raise MdevError(EOPNOTSUPP, "transport-mode ORB")
    if not is_program_address(orb.address, orb):
        return
    yield from _copy(program, orb.address)
    for segment in program.segments:
        yield from _resolve(program, segment)


# --- segments ---------------------------------------------------------------------------------------------------------


def _copy(program: ChannelProgram, address: int) -> Steps[None]:
    """Copy the segment at ``address``, and all that its TICs lead to."""
    if len(program.segments) == MAX_SEGMENTS:
        raise MdevError(EINVAL, f"program of more than {MAX_SEGMENTS} segments")
    data = yield DmaRead(address, SEGMENT_CCWS * CCW_BYTES)
    ccws = take_segment(iter_ccws(data, format_1=bool(program.orb.flags & _FORMAT_1)), address)
    host = [HostCcw(ccw, address + index * CCW_BYTES) for index, ccw in enumerate(ccws)]
    program.segments.append(Segment(address, host))
    for ccw in ccws:
        if ccw.command == _TIC and is_program_address(ccw.address, program.orb) and program.find(ccw.address) is None:
            yield from _copy(program, ccw.address)


def take_segment(ccws: Iterable[Ccw], address: int) -> list[Ccw]:
    """Return those of the CCWs at ``address`` that belong together; what follows them is not looked at.

    :raises MdevError: EINVAL, none of them is the last.
    """
    found: list[Ccw] = []
    end = address
    for ccw in ccws:
        found.append(ccw)
        end += CCW_BYTES
        if not ccw.flags & _CHAINS and not (ccw.command == _TIC and address <= ccw.address < end):
            return found
    raise MdevError(EINVAL, f"segment at {address:#x} has no end within {SEGMENT_CCWS} CCWs")


# --- data -------------------------------------------------------------------------------------------------------------


def moves_data(code: int, flags: int, count: int) -> bool:
    """Whether a CCW moves data."""
    if not count or code == _NOP:
        return False
    return not (flags & _SKIP and command_class(code) in _READS)


def _resolve(program: ChannelProgram, segment: Segment) -> Steps[None]:
    """Give each CCW its areas or its target."""
    code: int | None = None
    for host in segment.ccws:
        command, flags, count, address = host.ccw
        if command == _TIC:
            if is_program_address(address, program.orb):
                host.target = program.find(address)
            code = None
            continue
        code = command if code is None else code
        areas: Sequence[Area]
        if flags & _IDA:
            areas = yield from _read_list(program.orb, host.ccw)
        else:
            areas = [(address, count)]
        if moves_data(code, flags, count):
            if command_class(code) is _READ_BACKWARD:
                areas = _backward(host.ccw)
            yield from _pin(program, areas)
            host.areas = areas
        if not flags & _CHAIN_DATA:
            code = None


def _backward(ccw: Ccw) -> Sequence[Area]:
    """Area of a command that reads backward: its address is that of the last byte."""
    first = ccw.address - ccw.count + 1
    if ccw.flags & CcwFlag.IDA or first < 0:
        raise MdevError(EINVAL, f"reading backward from {ccw.address:#x}")
    return [(first, ccw.count)]


def _read_list(orb: Orb, ccw: Ccw) -> Steps[Sequence[Area]]:
    """Read an IDA list; returns the areas of the data, where pieces that follow each other are one."""
    wide = bool(orb.flags & OrbFlag.IDAW_64)
    block = _BLOCK_2K if not wide or orb.flags & OrbFlag.IDAW_2K else _BLOCK_4K
    entry = _IDAW_64 if wide else _IDAW
    if ccw.address % entry.size:
        raise MdevError(EINVAL, f"IDA list at {ccw.address:#x} is not aligned")
    head = yield DmaRead(ccw.address, entry.size)
    (first,) = entry.unpack(head)
    count = ccw.count or 1
    entries = (first % block + count + block - 1) // block
    data = yield DmaRead(ccw.address, entries * entry.size)
    if data[: entry.size] != head:
        raise MdevError(EINVAL, f"IDA list at {ccw.address:#x} has changed")
    areas: list[Area] = []
    for index, (address,) in enumerate(entry.iter_unpack(data)):
        if (index and address % block) or (not wide and address > ADDRESS_31):
            raise MdevError(EINVAL, f"IDA list at {ccw.address:#x}: entry {index} is {address:#x}")
        length = min(block - address % block, count)
        count -= length
        if areas and sum(areas[-1]) == address:
            areas[-1] = (areas[-1][0], areas[-1][1] + length)
        else:
            areas.append((address, length))
    return areas


def _pin(program: ChannelProgram, areas: Sequence[Area]) -> Steps[None]:
    """Record the pages of the areas; each new one is touched, to know that it is there.

    No area crosses the end of the address space: an IDAW is cut at the end of its block.
    """
    pages = program.pages
    for address, length in areas:
        for page in range(address // PAGE, (address + length - 1) // PAGE + 1):
            if page in pages:
                continue
            if len(pages) == MAX_PAGES:
                raise MdevError(ENOMEM, f"program with more than {MAX_PAGES} pages of data")
            pages.add(page)
            try:
                yield DmaRead(max(address, page * PAGE), 1)
            except MdevError as error:
                if error.errno != EFAULT:
                    raise
                raise MdevError(EINVAL, f"data at {address:#x} is not mapped") from error
