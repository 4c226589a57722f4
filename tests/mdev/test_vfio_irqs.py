"""Irqs: the rules of SET_IRQS, masks, levels; a machine against a naive model."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vfio_rig import RecordingTarget, errno_of

from pvnet.mdev.errors import MdevError
from pvnet.mdev.info import IrqInfo
from pvnet.mdev.irqs import IrqLines, IrqSet
from pvnet.papr.errno import ENOTTY

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = range(5)
EINVAL = 22


class World:
    """INTx, MSI with 4 vectors (NORESIZE), MSI-X with 3 maskable ones, ERR, REQ absent."""

    def __init__(self) -> None:
        self.changes: list[int] = []
        infos = (IrqInfo(1, 7), IrqInfo(4, 9), IrqInfo(3, 3), IrqInfo(1, 1), IrqInfo())
        self.lines = IrqLines(infos, self.changes.append, (ERR, REQ))

    def set(self, flags: int, index: int, start: int = 0, count: int = 1, data: bytes = b"") -> int:
        return errno_of(lambda: self.lines.set_irqs(IrqSet(flags, index, start, count, data)))

    def attach(self, index: int, start: int = 0, count: int = 1) -> list[RecordingTarget]:
        targets = [RecordingTarget() for _ in range(count)]
        self.lines.set_irqs(IrqSet(EVENTFD | TRIGGER, index, start, count, b"", tuple(targets)))
        return targets


def test_an_edge_is_told_to_its_listener_only() -> None:
    world = World()
    targets = world.attach(MSI, 0, 4)
    world.lines.signal(MSI, 2)
    world.lines.signal(MSI, 2)
    world.lines.signal(INTX)
    assert [target.signals for target in targets] == [0, 0, 2, 0]
    assert [world.lines.enabled(MSI, vector) for vector in range(-1, 6)] == [False] + [True] * 4 + [False] * 2
    assert not world.lines.enabled(INTX)
    for index, vector in ((5, 0), (-1, 0), (MSI, 4), (MSI, -1), (REQ, 0)):
        world.lines.signal(index, vector)
        world.lines.set_level(index, asserted=True)
    assert sum(target.signals for target in targets) == 3  # MSI asserted twice has one rise


def test_intx_life_cycle() -> None:
    world = World()
    (target,) = world.attach(INTX)
    world.lines.set_level(INTX, asserted=True)
    world.lines.set_level(INTX, asserted=True)
    assert target.signals == 1
    assert world.set(NONE | UNMASK, INTX) == 0
    assert target.signals == 2  # still asserted
    world.lines.set_level(INTX, asserted=False)
    assert world.set(NONE | UNMASK, INTX) == 0
    assert target.signals == 2
    world.lines.set_level(INTX, asserted=True)
    assert target.signals == 3
    world.lines.set_level(INTX, asserted=False)
    world.lines.set_level(INTX, asserted=True)
    assert target.signals == 3  # masked: told by unmasking
    assert world.set(NONE | UNMASK, INTX) == 0
    assert target.signals == 4


def test_a_level_that_was_up_before_anybody_listened() -> None:
    world = World()
    world.lines.set_level(INTX, asserted=True)
    (target,) = world.attach(INTX)
    assert target.signals == 1


def test_the_rise_of_a_level_without_automask_is_an_edge() -> None:
    world = World()
    world.lines.set_level(MSIX, asserted=True)
    (target,) = world.attach(MSIX)
    assert target.signals == 0
    assert [world.set(NONE | MASK, MSIX), world.set(NONE | UNMASK, MSIX)] == [0, 0]
    assert target.signals == 0
    world.lines.set_level(MSIX, asserted=False)
    world.lines.set_level(MSIX, asserted=True)
    assert target.signals == 1


def test_disabling_clears_the_mask() -> None:
    world = World()
    (first,) = world.attach(INTX)
    assert world.set(NONE | MASK, INTX) == 0
    world.lines.set_level(INTX, asserted=True)
    assert world.set(NONE | TRIGGER, INTX, 0, 0) == 0
    assert (first.signals, first.closed) == (0, 1)
    (second,) = world.attach(INTX)
    assert second.signals == 1
    assert world.changes == [INTX, INTX, INTX]


def test_a_new_listener_keeps_the_mask() -> None:
    world = World()
    (first,) = world.attach(INTX)
    world.lines.set_level(INTX, asserted=True)
    (second,) = world.attach(INTX)
    assert (first.closed, second.signals) == (1, 0)
    assert world.set(NONE | UNMASK, INTX) == 0
    assert second.signals == 1
    assert world.changes == [INTX]  # nobody began or ceased to listen


def test_edges_while_masked_are_told_once() -> None:
    world = World()
    targets = world.attach(MSIX, 0, 3)
    assert world.set(BOOL | MASK, MSIX, 0, 3, b"\1\0\1") == 0
    for _ in range(3):
        for vector in range(3):
            world.lines.signal(MSIX, vector)
    assert [target.signals for target in targets] == [0, 3, 0]
    assert world.set(BOOL | UNMASK, MSIX, 0, 3, b"\7\0\0") == 0
    assert [target.signals for target in targets] == [1, 3, 0]
    assert world.set(NONE | UNMASK, MSIX, 2) == 0
    assert world.set(NONE | UNMASK, MSIX, 2) == 0
    assert [target.signals for target in targets] == [1, 3, 1]


def test_loopback_test() -> None:
    world = World()
    targets = world.attach(MSI, 0, 4)
    assert world.set(NONE | TRIGGER, MSI, 1, 2) == 0
    assert world.set(BOOL | TRIGGER, MSI, 0, 4, b"\1\0\1\0more") == 0
    assert [target.signals for target in targets] == [1, 1, 2, 0]
    assert world.set(NONE | TRIGGER, INTX) == EINVAL  # nobody listens
    (target,) = world.attach(INTX)
    assert [world.set(NONE | TRIGGER, INTX) for _ in range(2)] == [0, 0]
    assert target.signals == 1  # masked itself
    assert world.set(NONE | UNMASK, INTX) == 0
    assert target.signals == 2


def test_eventfd_without_targets_removes() -> None:
    world = World()
    targets = world.attach(MSI, 0, 4)
    assert world.set(EVENTFD | TRIGGER, MSI, 1, 2) == 0
    assert [target.closed for target in targets] == [0, 1, 1, 0]
    assert world.set(EVENTFD | TRIGGER, MSI, 0, 4) == 0
    assert [target.closed for target in targets] == [1] * 4
    assert world.set(EVENTFD | TRIGGER, MSI, 0, 4) == 0  # B29, also where there is none
    assert world.changes == [MSI] * 3


def test_none_among_targets_removes_that_vector() -> None:
    world = World()
    old = world.attach(MSI, 0, 3)
    new = RecordingTarget()
    world.lines.set_irqs(IrqSet(EVENTFD | TRIGGER, MSI, 0, 2, b"", (None, new)))
    world.lines.signal(MSI, 1)
    assert [target.closed for target in old] == [1, 1, 0]
    assert new.signals == 1


def test_noresize() -> None:
    world = World()
    first = world.attach(MSI, 0, 2)
    more = RecordingTarget()
    again = IrqSet(EVENTFD | TRIGGER, MSI, 2, 1, b"", (more,))
    assert errno_of(lambda: world.lines.set_irqs(again)) == EINVAL
    assert more.closed == 1
    assert [target.closed for target in first] == [0, 0]
    world.attach(MSI, 1, 1)  # within what is enabled
    assert world.set(EVENTFD | TRIGGER, MSI, 0, 4) == 0
    assert len(world.attach(MSI, 0, 4)) == 4
    # MSI-X has no such rule
    world.attach(MSIX, 0, 1)
    assert len(world.attach(MSIX, 1, 2)) == 2


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "data", "errno"),
    [
        (NONE | TRIGGER, 5, 0, 1, b"", EINVAL),  # B12, B26
        (NONE | TRIGGER, -1, 0, 1, b"", EINVAL),
        (NONE | TRIGGER, INTX, 0, 0xFFFFFFFF, b"", EINVAL),
        (NONE | TRIGGER, INTX, 0xFFFFFFFF, 1, b"", EINVAL),
        (NONE | TRIGGER, INTX, 0xFFFFFFFE, 1, b"", EINVAL),
        (NONE | TRIGGER | 0x40, INTX, 0, 1, b"", EINVAL),
        (NONE | BOOL | TRIGGER, INTX, 0, 1, b"\1", EINVAL),
        (TRIGGER, INTX, 0, 1, b"", EINVAL),
        (NONE, INTX, 0, 1, b"", EINVAL),
        (NONE | MASK | UNMASK, INTX, 0, 1, b"", EINVAL),
        (NONE | TRIGGER, INTX, 1, 1, b"", EINVAL),
        (NONE | TRIGGER, MSI, 3, 2, b"", EINVAL),
        (NONE | TRIGGER, REQ, 0, 1, b"", EINVAL),
        (BOOL | TRIGGER, MSI, 0, 3, b"\1\1", EINVAL),
        (EVENTFD | TRIGGER, INTX, 0, 0, b"", EINVAL),
        (BOOL | TRIGGER, INTX, 0, 0, b"", EINVAL),
        (NONE | UNMASK, INTX, 0, 0, b"", EINVAL),
        (NONE | TRIGGER, MSI, 4, 0, b"", EINVAL),
        (NONE | TRIGGER, REQ, 1, 0, b"", EINVAL),
        (NONE | MASK, ERR, 0, 1, b"", EINVAL),
        (NONE | MASK, MSI, 0, 1, b"", ENOTTY),
        (BOOL | UNMASK, MSI, 0, 1, b"\1", ENOTTY),
        (EVENTFD | UNMASK, INTX, 0, 1, b"", ENOTTY),  # B28
        (EVENTFD | MASK, INTX, 0, 1, b"", ENOTTY),
        (NONE | TRIGGER, MSI, 0, 0, b"", 0),
        (NONE | TRIGGER, REQ, 0, 0, b"", 0),  # B27
    ],
)
def test_what_is_refused(flags: int, index: int, start: int, count: int, data: bytes, errno: int) -> None:
    world = World()
    kept = [world.attach(number)[0] for number in (INTX, MSI, MSIX, ERR)]
    assert world.set(flags, index, start, count, data) == errno
    if errno:
        assert [(target.signals, target.closed) for target in kept] == [(0, 0)] * 4


@pytest.mark.parametrize(
    ("flags", "index", "count", "errno"),
    [
        (EVENTFD | UNMASK, INTX, 1, ENOTTY),  # B28: QEMU's resample descriptor
        (EVENTFD | TRIGGER, MSI, 3, EINVAL),  # B26: fewer descriptors than vectors
        (EVENTFD | TRIGGER, MSI, 1, EINVAL),
        (NONE | TRIGGER, INTX, 1, EINVAL),
        (EVENTFD | TRIGGER, 9, 2, EINVAL),
    ],
)
def test_targets_of_a_refused_request_are_closed(flags: int, index: int, count: int, errno: int) -> None:
    world = World()
    world.attach(INTX)
    targets = (RecordingTarget(), None) if flags == EVENTFD | TRIGGER else (RecordingTarget(),)
    if index == MSI and count == 1:
        targets = (RecordingTarget(), RecordingTarget())
    request = IrqSet(flags, index, 0, count, b"", targets)
    assert errno_of(lambda: world.lines.set_irqs(request)) == errno
    assert [target.closed for target in targets if target] == [1] * sum(target is not None for target in targets)


def test_an_index_without_listeners_of_any_kind() -> None:
    lines = IrqLines((IrqInfo(1, 2),), lambda index: None)
    target = RecordingTarget()
    request = IrqSet(EVENTFD | TRIGGER, 0, 0, 1, b"", (target,))
    assert errno_of(lambda: lines.set_irqs(request)) == ENOTTY
    assert target.closed == 1
    assert errno_of(lambda: lines.set_irqs(IrqSet(NONE | MASK, 0, 0, 1))) == EINVAL


def test_closing_takes_every_listener() -> None:
    world = World()
    targets = [*world.attach(INTX), *world.attach(MSI, 0, 4)]
    world.changes.clear()
    world.lines.close()
    world.lines.signal(MSI, 1)
    assert [target.closed for target in targets] == [1] * 5
    assert world.changes == []


class Model(RuleBasedStateMachine):
    """Three indices against dictionaries keyed by (index, vector)."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.target: dict[tuple[int, int], RecordingTarget] = {}
        self.expected: dict[RecordingTarget, int] = {}
        self.masked: set[tuple[int, int]] = set()
        self.edges: set[tuple[int, int]] = set()
        self.level = False
        self.enabled = 0
        self.dead: list[RecordingTarget] = []

    counts = MappingProxyType({INTX: 1, MSI: 4, MSIX: 3})
    places = st.sampled_from(((INTX, 0), (MSI, 0), (MSI, 3), (MSIX, 0), (MSIX, 1), (MSIX, 2)))

    def tell(self, place: tuple[int, int]) -> None:
        if place not in self.target:
            return
        if place in self.masked:
            self.edges.add(place)
            return
        self.edges.discard(place)
        self.expected[self.target[place]] += 1
        if place[0] == INTX:
            self.masked.add(place)

    def remove(self, place: tuple[int, int]) -> None:
        if place in self.target:
            self.dead.append(self.target.pop(place))
        self.masked.discard(place)
        self.edges.discard(place)

    @rule(place=places)
    def edge(self, place: tuple[int, int]) -> None:
        self.world.lines.signal(*place)
        self.tell(place)

    @rule(asserted=st.booleans())
    def change_level(self, asserted: bool) -> None:
        self.world.lines.set_level(INTX, asserted=asserted)
        rises, self.level = asserted and not self.level, asserted
        if rises and (INTX, 0) not in self.masked:
            self.tell((INTX, 0))

    @rule(index=st.sampled_from((INTX, MSI, MSIX)), start=st.integers(0, 4), chosen=st.lists(st.booleans(), max_size=4))
    def attach(self, index: int, start: int, chosen: list[bool]) -> None:
        targets = tuple(RecordingTarget() if wanted else None for wanted in chosen)
        count = len(targets)
        good = count > 0 and start + count <= self.counts[index]
        if index == MSI and self.enabled and any(chosen) and start + count > self.enabled:
            good = False
        request = IrqSet(EVENTFD | TRIGGER, index, start, count, b"", targets)
        assert errno_of(lambda: self.world.lines.set_irqs(request)) == (0 if good else EINVAL)
        for vector, target in enumerate(targets, start):
            place = (index, vector)
            if not good or target is None:
                if target is not None:
                    self.dead.append(target)
                elif good:
                    self.remove(place)
                continue
            if place in self.target:
                self.dead.append(self.target[place])
            self.target[place] = target
            self.expected[target] = 0
            if index == INTX and self.level and place not in self.masked:
                self.tell(place)
        if index == MSI and good:
            if not any(number == MSI for number, _ in self.target):
                self.enabled = 0
            elif not self.enabled:
                self.enabled = start + count

    @rule(index=st.sampled_from((INTX, MSI, MSIX, REQ)))
    def disable(self, index: int) -> None:
        assert self.world.set(NONE | TRIGGER, index, 0, 0) == 0
        for vector in range(self.counts.get(index, 0)):
            self.remove((index, vector))
        if index == MSI:
            self.enabled = 0

    @rule(place=places, action=st.sampled_from((MASK, UNMASK, TRIGGER)), as_bool=st.sampled_from((None, 0, 1)))
    def act(self, place: tuple[int, int], action: int, as_bool: int | None) -> None:
        index, vector = place
        data = b"" if as_bool is None else bytes([as_bool])
        answer = self.world.set(action | (NONE if as_bool is None else BOOL), index, vector, 1, data)
        if index == MSI and action != TRIGGER:
            assert answer == ENOTTY
            return
        listened = any(number == index for number, _ in self.target)
        assert answer == (0 if listened else EINVAL)
        if not listened or as_bool == 0:
            return
        if action == TRIGGER:
            self.tell(place)
        elif action == MASK:
            if place in self.target:
                self.masked.add(place)
        else:
            self.masked.discard(place)
            if place in self.edges or (index == INTX and self.level):
                self.tell(place)

    @invariant()
    def told_alike(self) -> None:
        for target, count in self.expected.items():
            assert target.signals == count
        assert all(target.closed == 1 for target in self.dead)
        for place, target in self.target.items():
            assert target.closed == 0
            assert self.world.lines.enabled(*place)


TestModel = Model.TestCase
TestModel.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def test_a_device_that_minds_a_listener() -> None:
    def refuse(index: int) -> None:
        raise MdevError(EINVAL, f"no listeners to {index}")

    lines = IrqLines((IrqInfo(1, 7),), refuse)
    target = RecordingTarget()
    request = IrqSet(EVENTFD | TRIGGER, INTX, 0, 1, b"", (target,))
    assert errno_of(lambda: lines.set_irqs(request)) == EINVAL
    assert target.closed == 0
    assert lines.enabled(INTX)
