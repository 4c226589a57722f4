"""Random channel programs: a naive interpreter, which reads memory CCW by CCW, has to agree with the channel."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from ccw_rig import CC, CD, IDA, IOVA, SKIP, SLI, USUAL, Memory, RamStore, Rig, ScriptUnit, idaws, io_write, program
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.mdev.ccw_execute import execute
from pvnet.mdev.ccw_layout import Ccw, Orb, Scsw
from pvnet.mdev.ccw_regions import ASYNC_REGION, COMMAND, IO_REGION
from pvnet.mdev.ccw_states import State
from pvnet.mdev.ccw_translate import ChannelProgram, translate
from pvnet.mdev.errors import MdevError

DATA = IOVA + 0x8000
LISTS = IOVA + 0x6000
PGC, IL = 0x20, 0x40
INPUT, OUTPUT = {0x42: bytes(range(1, 25)), 0x02: b"", 0x04: bytes(range(100, 108))}, {0x41: 24, 0x63: 8}


class Naive:
    """The architecture in as few lines as possible; no copy, no limits but one, memory is always there."""

    def __init__(self, memory: bytearray, modifiers: Sequence[bool]) -> None:
        self.memory = memory
        self.modifiers = list(modifiers)
        self.log: list[object] = []
        self.at = IOVA
        self.ccws = 0
        self.no_address = 0

    def take(self, address: int, length: int) -> bytes:
        return bytes(self.memory[address - IOVA : address - IOVA + length])

    def fetch(self, chained: bool) -> Ccw | None:
        for tic in (False, True):
            code, flags, count, address = struct.unpack(">BBHI", self.take(self.at, 8))
            self.at += 8
            self.ccws += 1
            if self.ccws > 4096:
                return None
            if code & 15 == 8:
                if tic or code != 8 or flags or count or address % 8 or not address or address >> 31:
                    return None
                self.at = address
                continue
            self.no_address += not address
            bad = (not chained and not code & 15) or flags & 1 or flags & 2 or address >> 31 or self.no_address > 255
            if bad or (not count and (chained or flags & 0x80)):
                return None
            return Ccw(code, flags, count, address)
        return None

    def pieces(self, ccw: Ccw, length: int) -> list[tuple[int, int]]:
        if not ccw.flags & 4:
            return [(ccw.address, length)]
        result, entry = [], ccw.address
        while length:
            (address,) = struct.unpack(">Q", self.take(entry, 8))
            piece = min(length, 4096 - address % 4096)
            result.append((address, piece))
            entry, length = entry + 8, length - piece
        return result

    def move(self, ccw: Ccw, source: bytes | None, length: int) -> bytes:
        if source is not None and ccw.flags & 0x10:
            return b""
        data = b""
        for address, piece in self.pieces(ccw, length):
            if source is None:
                data += self.take(address, piece)
            else:
                self.memory[address - IOVA : address - IOVA + piece] = source[:piece]
                source = source[piece:]
        return data

    def run(self) -> tuple[int, int, int, int]:
        """Return dstat, cstat, count and address of the end."""
        while True:
            ccw = self.fetch(False)
            if ccw is None:
                return 0, PGC, 0, self.at
            code = ccw.command
            self.log.append(code)
            source = INPUT.get(code)
            want = len(source) if source is not None else OUTPUT.get(code)
            wrong = False
            rest = ccw.count
            if want is None:
                wrong = bool(ccw.flags & 0x80)
            else:
                done = b""
                at = 0
                while True:
                    length = min(want - at, ccw.count)
                    done += self.move(ccw, None if source is None else source[at : at + length], length)
                    at += length
                    rest = ccw.count - length
                    if rest or not ccw.flags & 0x80:
                        break
                    follow = self.fetch(True)
                    if follow is None:
                        if source is None:
                            self.log.append(done)
                        return 0, PGC, 0, self.at
                    ccw = follow
                if source is None:
                    self.log.append(done)
                wrong = bool((rest or at < want) and (ccw.flags & 0x80 or not ccw.flags & 0x20))
            modifier = bool(self.modifiers) and self.modifiers.pop(0)
            dstat = 0x4C if modifier else 0x0C
            if wrong or not ccw.flags & 0x40:
                return dstat, IL if wrong else 0, rest, self.at
            self.at += 8 * modifier


class Unit(ScriptUnit):
    """Whose commands end with the status modifier when told so."""

    def __init__(self, modifiers: Sequence[bool]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.modifiers = dict(INPUT), dict(OUTPUT), list(modifiers)

    def end(self) -> int:
        return 0x4C if self.modifiers and self.modifiers.pop(0) else 0x0C

    @property
    def story(self) -> list[object]:
        """Commands, and for each that writes all that it got."""
        told: list[object] = []
        for entry in self.log:
            if not isinstance(entry, tuple):
                continue
            if entry[0] == "begin":
                told.append(entry[1])
                if entry[1] in self.outputs:
                    told.append(b"")
            else:
                told[-1] = told[-1] + entry[1]  # type: ignore[operator]
        return told


codes = st.sampled_from([0x42, 0x42, 0x41, 0x41, 0x63, 0x04, 0x03, 0x13, 0x02, 0x40, 0x58])
flag_bits = st.sampled_from(bytes.fromhex("0000404040606060808080c0207030414464a484"))
places = st.sampled_from([DATA, DATA + 0x100, DATA + 0xFF8, DATA + 0x2000, 0])


@st.composite
def odd(draw: st.DrawFn) -> list[Ccw]:
    """A CCW of anything."""
    code, flags = draw(codes), draw(flag_bits)
    count = draw(st.sampled_from([0, 1, 7, 8, 8, 16, 24, 24, 30]))
    if flags & IDA:
        return [Ccw(code, flags, count, LISTS + 16 * draw(st.integers(0, 3)))]
    place = draw(places)
    return [Ccw(code, flags, count if place else 0, place)]


@st.composite
def good(draw: st.DrawFn) -> list[Ccw]:
    """A command that chains, with as much memory as it wants, in one piece or several."""
    code = draw(st.sampled_from([0x42, 0x42, 0x41, 0x41, 0x63, 0x04, 0x03]))
    want = len(INPUT[code]) if code in INPUT else OUTPUT.get(code, 0)
    if not want:
        return [Ccw(code, CC, 0, DATA)]
    cuts = [0, *sorted(draw(st.sets(st.integers(1, want - 1), max_size=2))), want]
    result = []
    for start, end in pairwise(cuts):
        flags = draw(st.sampled_from([0, 0, SLI, SKIP, IDA])) | (CC if end == want else CD)
        place = LISTS + 16 * draw(st.integers(0, 3)) if flags & IDA else DATA + draw(st.integers(0, 0x2000))
        more = draw(st.sampled_from([0, 0, 0, 3])) if flags & SLI and end == want else 0
        result.append(Ccw(code, flags, end - start + more, place))
    return result


@st.composite
def tics(draw: st.DrawFn) -> list[Ccw]:
    """A TIC somewhere into the first CCWs of one of the two pieces, seldom to what is no address."""
    return [Ccw(8, 0, 0, IOVA + 8 * draw(st.integers(0, 12)) + draw(st.sampled_from([0, 0x800, 0x800, 0x800, 4])))]


def flat(parts: list[list[Ccw]]) -> list[Ccw]:
    return [ccw for part in parts for ccw in part]


ccws = st.lists(st.one_of(*[good()] * 9, odd(), tics(), tics()), min_size=2, max_size=10).map(flat)
bits = st.lists(st.sampled_from([False, False, True]), max_size=12)


@given(ccws, ccws, bits)
@settings(max_examples=250, deadline=None)
def test_the_channel_agrees_with_a_naive_one(first: list[Ccw], second: list[Ccw], modifiers: list[bool]) -> None:
    memory = Memory()
    memory.put(IOVA, program(*first, Ccw(3, 0, 0, DATA)))
    memory.put(IOVA + 0x800, program(*second, Ccw(3, 0, 0, DATA)))
    memory.put(DATA, bytes(range(256)) * 64)
    lists = (DATA + 0xFF0, DATA + 0x3000, DATA + 0x10, DATA + 0x1000, DATA + 0xFFF, DATA + 0x2000, DATA, DATA)
    memory.put(LISTS, idaws(lists))
    naive_memory = bytearray(memory.data)
    prepared = ChannelProgram(Orb(IOVA, USUAL))
    memory.run(translate(prepared))
    memory.writes.clear()
    unit = Unit(modifiers)
    scsw = memory.run(execute(prepared, unit, lambda status: None))
    naive = Naive(naive_memory, modifiers)
    expected = naive.run()
    if scsw.cstat == PGC and (expected[1] != PGC or unit.story != naive.log):
        assert modified_over_the_end(prepared, scsw) or chained_without_areas(prepared)
        return
    assert (scsw.dstat, scsw.cstat, scsw.count) == expected[:3]
    assert unit.story == naive.log
    assert memory.data == naive_memory
    if scsw.cstat != PGC:
        assert scsw.address == naive.at


def modified_over_the_end(prepared: ChannelProgram, scsw: Scsw) -> bool:
    """A CCW behind the end of a segment was not copied: the one difference to the architecture that is meant."""
    ends = [segment.address + 8 * len(segment.ccws) for segment in prepared.segments]
    return any(scsw.address in (end, end - 8) for end in ends)


def chained_without_areas(prepared: ChannelProgram) -> bool:
    """The other: a CCW that continues data behind a TIC is taken for a command of its own."""
    return any(
        host.ccw.flags & 0x80 and follow.ccw.command == 8
        for segment in prepared.segments
        for host, follow in zip(segment.ccws, segment.ccws[1:], strict=False)
    )


@given(st.binary(max_size=600), st.binary(max_size=600), st.integers(0, (1 << 24) - 1), st.sampled_from([4, 5, 7]))
@settings(max_examples=80, deadline=None)
def test_any_bytes_leave_the_device_usable(first: bytes, second: bytes, flags: int, fctl: int) -> None:
    rig = Rig(RamStore(1 << 16))
    rig.put(IOVA, first)
    rig.put(IOVA + 0x1000, second)
    for address in (IOVA, IOVA + 0x1000):
        orb = Orb(address, (flags & 0xFF00FF) | (flags & 0xF) << 24)
        try:
            rig.write(IO_REGION, 0, io_write(orb, fctl))
        except MdevError:
            assert rig.device.state is State.IDLE
            assert rig.ret_code() < 0
            continue
        rig.host.settle()
        assert rig.device.state in (State.IDLE, State.CP_PENDING)
        rig.write(ASYNC_REGION, 0, COMMAND.pack(2) + bytes(4))
        assert rig.device.state is State.IDLE
    assert rig.move(0x41, 3, b"\xaa" * 512).scsw.dstat == 0x0C
    assert rig.move(0x42, 3, 512).scsw.cstat == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 130), st.binary(min_size=1, max_size=130)), max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_accesses_leave_the_device_usable(accesses: list[tuple[int, int, bytes]]) -> None:
    rig = Rig()
    for region, wish, content in accesses:
        size = rig.device.regions[region].info.size
        offset = min(wish, size - 1)
        data = content[: size - offset]
        try:
            rig.write(region, offset, data)
        except MdevError:
            assert rig.device.state in (State.IDLE, State.CP_PENDING)
        assert len(rig.read(region, offset, len(data))) == len(data)
    rig.device.reset()
    assert rig.device.state is State.IDLE
