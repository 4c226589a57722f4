"""Two copies of an arena that are kept alike by what each side has changed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.vbus.errors import VbusError
from pvnet.vbus.mirror import Mirror, Run


def mirror(size: int = 10_000) -> Mirror:
    return Mirror(memoryview(bytearray(size)))


def test_nothing_changed_is_nothing_to_send() -> None:
    assert mirror().changes() == []


def test_changes_are_told_once_and_exactly() -> None:
    one = mirror()
    one.view[5:8] = b"abc"
    one.view[9] = 7
    assert one.changes() == [Run(5, b"abc"), Run(9, b"\x07")]
    assert one.changes() == []


def test_a_run_over_the_border_of_two_blocks_is_one_run() -> None:
    one = mirror()
    one.view[4090:4100] = b"0123456789"
    one.view[9998:] = b"zz"  # the last block is not a whole one
    assert one.changes() == [Run(4090, b"0123456789"), Run(9998, b"zz")]


def test_unchanged_bytes_between_two_changes_are_not_sent() -> None:
    """The other side may be changing them."""
    one, two = mirror(), mirror()
    one.view[0] = one.view[2] = 1
    two.view[1] = 2
    two.store(one.changes())
    one.store(two.changes())
    assert bytes(one.view[:3]) == bytes(two.view[:3]) == b"\x01\x02\x01"


def test_what_is_stored_is_not_sent_back() -> None:
    one = mirror()
    one.store([Run(100, b"xyz")])
    assert bytes(one.view[100:103]) == b"xyz"
    assert one.changes() == []


@pytest.mark.parametrize("run", [Run(9_999, b"ab"), Run(-1, b"a"), Run(1 << 64, b"a")])
def test_a_run_outside_is_refused_and_nothing_is_stored(run: Run) -> None:
    one = mirror()
    with pytest.raises(VbusError, match="EFAULT"):
        one.store([Run(0, b"first"), run])
    assert one.changes() == []
    assert not any(one.view)


def test_a_read_only_view_is_our_mistake() -> None:
    with pytest.raises(LocalError):
        Mirror(memoryview(bytes(16)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 4096, 4097, 12_288]))
def test_two_sides_that_own_different_bytes_always_agree(seed: int, size: int) -> None:
    """Messages arrive in order, late; each byte has one writer."""
    dice = random.Random(seed)
    sides = (mirror(size), mirror(size))
    under_way: tuple[list[list[Run]], list[list[Run]]] = ([], [])
    owner = [dice.randrange(2) for _ in range(size)]
    for _ in range(50):
        side = dice.randrange(2)
        if dice.random() < 0.6:
            for _ in range(dice.randrange(1, 20)):
                at = dice.randrange(size)
                if owner[at] == side:
                    sides[side].view[at] = dice.randrange(256)
            under_way[side].append(sides[side].changes())
        elif under_way[1 - side]:
            sides[side].store(under_way[1 - side].pop(0))
    for side in (0, 1):
        for runs in under_way[side]:
            sides[1 - side].store(runs)
        sides[1 - side].store(sides[side].changes())
    assert bytes(sides[0].view) == bytes(sides[1].view)
