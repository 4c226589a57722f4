"""The copy engine: whatever has happened before, it does what a look from the beginning would do."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from papr_platform_rig import (
    CLIENT,
    CLIENT_LOCAL,
    LOCAL,
    MEMORY,
    REMOTE,
    SERVER,
    SERVER_LOCAL,
    SERVER_REMOTE,
    UNIT,
    Rig,
    config,
)

from pvnet.core.errors import LocalError
from pvnet.memory.copy import gather, scatter
from pvnet.memory.segment import Segment
from pvnet.memory.window import ACCESS_READ, ACCESS_WRITE, PAGE_BYTES, DmaWindow
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    LOPAR,
    QEMU,
    PartitionMapped,
    PartitionStarted,
    ReadMemory,
    WriteMemory,
)
from pvnet.papr.rdma_engine import Planned, RdmaEngine


def ready(*, later: bool = False) -> tuple[Rig, RdmaEngine]:
    """Both pairs open, everything mapped, and every pane used once in both directions."""
    rig = Rig(mapped=True, later=later)
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    rig.open("mp", UNIT, LOCAL)
    rig.open("mp", SERVER, SERVER_LOCAL, ioba=0x8000)
    rig.open("lpar", CLIENT, CLIENT_LOCAL)
    engine = rig.platform.rdma_engine("mp")
    for near, far in ((LOCAL, REMOTE), (SERVER_LOCAL, SERVER_REMOTE)):
        for _ in range(2):
            assert engine.copy(near, 0x1000, far, 0x2000, 256) == 0
            assert engine.copy(far, 0x2000, near, 0x1000, 256) == 0
    return rig, engine


@pytest.mark.parametrize("later", [True, False])
def test_a_repeated_copy_moves_the_bytes_of_now(later: bool) -> None:
    rig, engine = ready(later=later)
    for number in range(3):
        rig.memory["mp"].write(0x1010, bytes([number]) * 16)
        assert engine.copy(SERVER_LOCAL, 0x1010, SERVER_REMOTE, 0x3000, 16) == 0
        assert rig.memory["lpar"].read(0x3000, 16) == bytes([number]) * 16


def test_every_change_of_a_tce_is_seen_by_the_next_copy() -> None:
    rig, engine = ready()
    rig.memory["mp"].write(0x9000, b"moved")
    rig.call("mp", Op.H_PUT_TCE, LOCAL, 0x1000, 0x9003)
    assert engine.copy(LOCAL, 0x1000, REMOTE, 0, 5) == 0
    assert rig.platform.hypervisor_memory("mp", UNIT).read(0, 5) == b"moved"
    rig.call("mp", Op.H_STUFF_TCE, LOCAL, 0x1000, 0x9002, 1)
    assert engine.copy(LOCAL, 0x1000, REMOTE, 0, 5) == Rc.H_PERMISSION
    assert engine.copy(REMOTE, 0, LOCAL, 0x1000, 5) == 0
    rig.memory["mp"].write(0xA000, bytes(8))
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, 0x1000, 0xA000, 1) == 0
    assert engine.copy(REMOTE, 0, LOCAL, 0x1000, 5) == Rc.H_PERMISSION


def test_the_partners_change_of_a_tce_is_seen_by_the_next_copy() -> None:
    rig, engine = ready()
    rig.call("lpar", Op.H_PUT_TCE, CLIENT_LOCAL, 0x2000, 0x2000 | 1)
    assert engine.copy(SERVER_LOCAL, 0x1000, SERVER_REMOTE, 0x2000, 256) == Rc.H_PERMISSION
    assert engine.copy(SERVER_REMOTE, 0x2000, SERVER_LOCAL, 0x1000, 256) == 0


def test_a_broken_pair_is_seen_by_the_next_copy() -> None:
    rig, engine = ready()
    rig.call("lpar", Op.H_FREE_CRQ, CLIENT)
    assert engine.copy(SERVER_LOCAL, 0x1000, SERVER_REMOTE, 0x2000, 256) == Rc.H_D_PARM
    assert engine.copy(SERVER_REMOTE, 0x2000, SERVER_LOCAL, 0x1000, 256) == Rc.H_S_PARM
    assert engine.copy(LOCAL, 0x1000, REMOTE, 0x2000, 256) == 0, "the other pair is not concerned"
    rig.take(rig.platform.partner_free("mp", UNIT))
    assert engine.copy(LOCAL, 0x1000, REMOTE, 0x2000, 256) == Rc.H_D_PARM


def test_a_partner_that_restarts_has_other_memory() -> None:
    rig, engine = ready()
    old = rig.memory["lpar"]
    rig.die("lpar")
    assert engine.copy(SERVER_LOCAL, 0x1000, SERVER_REMOTE, 0x2000, 256) == Rc.H_D_PARM
    rig.start("lpar")
    rig.open("lpar", CLIENT, CLIENT_LOCAL)
    rig.memory["mp"].write(0x1000, b"new")
    assert engine.copy(SERVER_LOCAL, 0x1000, SERVER_REMOTE, 0x2000, 3) == 0
    assert rig.memory["lpar"].read(0x2000, 3) == b"new"
    assert old.read(0x2000, 3) == bytes(3)


def test_a_copy_leaves_a_run_at_neither_end() -> None:
    rig, engine = ready()
    end = 16 * PAGE_BYTES
    for ioba, length, rc in ((0, end, 0), (end - 1, 1, 0), (end - 1, 2, Rc.H_D_PARM), (end, 1, Rc.H_D_PARM)):
        assert engine.copy(LOCAL, 0, REMOTE, ioba, length) == rc, (ioba, length)
    rig.call("mp", Op.H_PUT_TCE, LOCAL, 0x5000, 0)
    assert engine.copy(LOCAL, 0x6000, REMOTE, 0, 16) == 0
    assert engine.copy(LOCAL, 0x5FFF, REMOTE, 0, 2) == Rc.H_PERMISSION
    assert engine.copy(LOCAL, 0x4FFF, REMOTE, 0, 2) == Rc.H_PERMISSION


def test_a_page_beyond_the_memory_is_never_part_of_a_run() -> None:
    rig = Rig(mapped=True, platform=Platform(config(QEMU)))  # QEMU does not look at the pages of TCEs
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    rig.open("mp", UNIT, LOCAL)
    engine = rig.platform.rdma_engine("mp")
    for page in range(4):
        rig.call("mp", Op.H_PUT_TCE, LOCAL, page * PAGE_BYTES, MEMORY + (page - 2) * PAGE_BYTES | 3)
    assert engine.copy(LOCAL, 0, REMOTE, 0, 2 * PAGE_BYTES) == 0
    for _ in range(2):
        assert engine.copy(LOCAL, 0, REMOTE, 0, 2 * PAGE_BYTES + 1) == Rc.H_S_PARM
        assert engine.copy(LOCAL, PAGE_BYTES, REMOTE, 0, PAGE_BYTES) == 0
        assert engine.copy(LOCAL, 2 * PAGE_BYTES, REMOTE, 0, 1) == Rc.H_S_PARM
        assert engine.copy(REMOTE, 0, LOCAL, 2 * PAGE_BYTES - 1, 2) == Rc.H_D_PARM


def test_only_the_low_half_of_a_liobn_counts() -> None:
    _, engine = ready()
    for _ in range(2):
        assert engine.copy(LOCAL | 7 << 32, 0x1000, REMOTE | 9 << 40, 0, 16) == 0


def test_a_side_elsewhere_comes_back_as_a_plan() -> None:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    rig.open("mp", UNIT, LOCAL)
    done = rig.platform.rdma_engine("mp").copy(LOCAL, 0x1FFF, REMOTE, 0, 16)
    assert isinstance(done, Planned)
    assert (done.source.owner, done.destination.owner) == ("mp", None)
    assert done.plan.source == ((0x1FFF, 16),)


def test_no_engine_of_a_stranger() -> None:
    with pytest.raises(LocalError):
        Platform(config()).rdma_engine("nobody")


# -- memory that is mapped later ---------------------------------------------------------------------------------------


def remote_until_mapped() -> Rig:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    rig.open("mp", UNIT, LOCAL)
    rig.open("mp", SERVER, SERVER_LOCAL, ioba=0x8000)
    rig.open("lpar", CLIENT, CLIENT_LOCAL)
    return rig


def test_memory_may_be_mapped_in_the_middle_of_a_life() -> None:
    rig = remote_until_mapped()
    assert rig.call("mp", Op.H_COPY_RDMA, 4, LOCAL, 0, REMOTE, 0, memory=b"sent") == 0
    rig.feed(PartitionMapped("mp", rig.memory["mp"]))
    rig.memory["mp"].write(0x1000, b"here")
    rig.log.clear()
    assert rig.call("mp", Op.H_COPY_RDMA, 4, LOCAL, 0x1000, REMOTE, 0) == 0
    assert rig.call("mp", Op.H_COPY_RDMA, 4, REMOTE, 0, LOCAL, 0x2000) == 0
    assert rig.last().memory is None
    assert rig.memory["mp"].read(0x2000, 4) == b"here"
    assert not [o for o in rig.log if isinstance(o, ReadMemory | WriteMemory)]
    assert rig.call("mp", Op.H_COPY_RDMA, 4, SERVER_LOCAL, 0x1000, SERVER_REMOTE, 0) == 0
    assert [type(o) for o in rig.log if isinstance(o, ReadMemory | WriteMemory)] == [WriteMemory], "its partner is not"
    assert rig.memory["lpar"].read(0, 4) == b"here"


def test_mapped_bytes_win_over_bytes_that_came_along() -> None:
    rig = remote_until_mapped()
    rig.feed(PartitionMapped("mp", rig.memory["mp"]))
    rig.memory["mp"].write(0x1000, b"here")
    for carried in (b"sent", b"", b"too long"):
        assert rig.call("mp", Op.H_COPY_RDMA, 4, LOCAL, 0x1000, REMOTE, 0, memory=carried) == 0
        assert rig.platform.hypervisor_memory("mp", UNIT).read(0, 4) == b"here"
    rig.memory["mp"].write(0x3000, (0x9003).to_bytes(8))
    assert rig.call("mp", Op.H_PUT_TCE_INDIRECT, LOCAL, 0, 0x3000, 1, memory=b"bad") == 0
    rig.call("mp", Op.H_GET_TCE, LOCAL, 0)
    assert rig.last().outs == (0x9003,)


def test_a_copy_that_began_in_chunks_ends_well_when_memory_is_mapped_meanwhile() -> None:
    rig = remote_until_mapped()
    rig.memory["lpar"].write(0, b"theirs")
    rig.hold_chunks = True
    assert rig.call("mp", Op.H_COPY_RDMA, 6, SERVER_REMOTE, 0, SERVER_LOCAL, 0x2000) == -99999
    rig.feed(PartitionMapped("mp", rig.memory["mp"]))
    rig.feed(PartitionMapped("lpar", rig.memory["lpar"]))
    rig.answer_chunk()
    assert rig.last().rc == 0
    assert rig.last().memory is None
    assert rig.memory["mp"].read(0x2000, 6) == b"theirs"


def test_a_mapping_ends_with_the_life_of_its_partition() -> None:
    rig = remote_until_mapped()
    old = rig.memory["mp"]
    rig.feed(PartitionMapped("mp", old))
    rig.start("mp")  # without a word of its death
    rig.hypervisor_up()
    rig.open("mp", UNIT, LOCAL)
    old.write(0x1000, b"old")
    assert rig.call("mp", Op.H_COPY_RDMA, 3, LOCAL, 0x1000, REMOTE, 0, memory=b"new") == 0
    assert rig.platform.hypervisor_memory("mp", UNIT).read(0, 3) == b"new"


def test_memory_that_is_mapped_again_replaces_what_was_mapped() -> None:
    rig, engine = ready(later=True)
    again = Segment(bytearray(MEMORY))
    again.write(0x1000, b"again")
    rig.feed(PartitionMapped("mp", again))
    assert engine.copy(LOCAL, 0x1000, REMOTE, 0, 5) == 0
    assert rig.platform.hypervisor_memory("mp", UNIT).read(0, 5) == b"again"


def test_memory_of_the_dead_is_not_mapped() -> None:
    rig = remote_until_mapped()
    rig.die("mp")
    rig.feed(PartitionMapped("mp", Segment(bytearray(MEMORY))))
    assert rig.platform.counters["mapped_too_late"] == 1
    rig.feed(PartitionStarted("mp"))
    rig.hypervisor_up()
    rig.memory["mp"] = Segment(bytearray(MEMORY))
    rig.open("mp", UNIT, LOCAL)
    assert rig.call("mp", Op.H_COPY_RDMA, 3, LOCAL, 0, REMOTE, 0, memory=b"123") == 0
    assert rig.platform.hypervisor_memory("mp", UNIT).read(0, 3) == b"123"


def test_a_mapping_of_another_size_or_of_a_stranger_is_our_mistake() -> None:
    rig = remote_until_mapped()
    for event in (PartitionMapped("mp", Segment(bytearray(16))), PartitionMapped("nobody", Segment(bytearray(MEMORY)))):
        with pytest.raises(LocalError):
            rig.feed(event)


# -- against a look from the beginning ---------------------------------------------------------------------------------

pages = st.integers(0, 17)
liobns = st.sampled_from([LOCAL, REMOTE, SERVER_LOCAL, SERVER_REMOTE])


class EngineMachine(RuleBasedStateMachine):
    """Copies, TCE changes, broken pairs and deaths in any order; a new engine has nothing to remember."""

    @initialize(later=st.booleans(), qemu=st.booleans())
    def begin(self, later: bool, qemu: bool) -> None:
        self.rig = Rig(mapped=True, platform=Platform(config(QEMU if qemu else LOPAR)), later=later)
        self.rig.start("mp", "lpar")
        self.number = 0
        self.open_all()

    @rule()
    def open_all(self) -> None:
        self.rig.hypervisor_up()
        self.rig.open("mp", UNIT, LOCAL)
        self.rig.open("mp", SERVER, SERVER_LOCAL, ioba=0x8000)
        self.rig.open("lpar", CLIENT, CLIENT_LOCAL)

    @rule(
        source=liobns,
        destination=liobns,
        from_page=pages,
        to_page=pages,
        offset=st.sampled_from([0, 1, PAGE_BYTES - 1]),
        length=st.sampled_from([0, 1, 64, PAGE_BYTES, PAGE_BYTES + 1, 5 * PAGE_BYTES, 1 << 20]),
    )
    def copy(self, source: int, destination: int, from_page: int, to_page: int, offset: int, length: int) -> None:
        args = (source, from_page * PAGE_BYTES + offset, destination, to_page * PAGE_BYTES, length)
        platform = self.rig.platform
        segments = [*self.rig.memory.values(), platform.hypervisor_memory("mp", UNIT).segment]
        for segment in segments:
            self.number += 1
            segment.view[0 : segment.size : 509] = bytes([self.number % 251]) * len(range(0, segment.size, 509))
        before = [bytes(segment.view) for segment in segments]
        planned = platform.rdma_engine("mp").plan(*args)
        rc = platform.rdma_engine("mp").copy(*args)
        if isinstance(planned, int):
            assert rc == planned
            assert [bytes(segment.view) for segment in segments] == before
            return
        assert rc == 0
        expected = [Segment(bytearray(content)) for content in before]
        sides = planned.source.side.segment, planned.destination.side.segment
        (from_at,), (to_at,) = ([i for i, s in enumerate(segments) if s is side] for side in sides)
        scatter(
            gather(Segment(bytearray(before[from_at])), planned.plan.source), expected[to_at], planned.plan.destination
        )
        assert [bytes(segment.view) for segment in segments] == [bytes(segment.view) for segment in expected]

    @rule(
        window=st.sampled_from([("mp", LOCAL), ("mp", SERVER_LOCAL), ("lpar", CLIENT_LOCAL)]),
        page=pages,
        real=st.integers(0, 66),
        access=st.integers(0, 3),
        count=st.integers(1, 4),
    )
    def remap(self, window: tuple[str, int], page: int, real: int, access: int, count: int) -> None:
        partition, liobn = window
        for i in range(count):
            tce = (real + i) * PAGE_BYTES | access
            self.rig.call(partition, Op.H_PUT_TCE, liobn, (page + i) * PAGE_BYTES, tce)

    @rule(end=st.sampled_from([("mp", UNIT), ("mp", SERVER), ("lpar", CLIENT)]))
    def free(self, end: tuple[str, int]) -> None:
        self.rig.call(end[0], Op.H_FREE_CRQ, end[1])

    @rule()
    def hypervisor_end_goes(self) -> None:
        self.rig.take(self.rig.platform.partner_free("mp", UNIT))

    @rule(name=st.sampled_from(["mp", "lpar"]))
    def restart(self, name: str) -> None:
        self.rig.die(name)
        self.rig.start(name)


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- the window's part -------------------------------------------------------------------------------------------------


def test_copies_one_after_the_other_make_one_run() -> None:
    window = DmaWindow(1, 64 * PAGE_BYTES)
    window.map(0, 0x10000, 64 * PAGE_BYTES)
    for page in (3, 4, 5, 20):
        window.translate(page * PAGE_BYTES, PAGE_BYTES, ACCESS_READ)
        window.warm(page * PAGE_BYTES, ACCESS_READ, 1 << 30)
        start = 20 if page == 20 else 3
        assert (window.readable.start, window.readable.end) == (start * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        assert window.readable.delta == 0x10000
    assert window.writable.end == 0
    window.translate(0, 2 * PAGE_BYTES, ACCESS_WRITE)
    window.warm(PAGE_BYTES, ACCESS_WRITE, 0x11000)
    assert window.writable.end == 0, "no run is known there: nobody asked for that page"
    window.warm(0, ACCESS_WRITE, 0x11000)
    assert window.writable.end == PAGE_BYTES, "the memory ends in the middle of the run"
    window.put(63 * PAGE_BYTES, 0)
    assert window.readable.end == window.writable.end == 0
