"""Numbers that a program does not know stay usable."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.open_enum import OpenIntEnum


class Colour(OpenIntEnum):
    RED = 1
    BLUE = 2


def test_a_known_number_is_its_member() -> None:
    assert Colour(1) is Colour.RED
    assert Colour.RED.is_known
    assert str(Colour.RED) == "RED"


@given(st.integers(-(1 << 63), (1 << 64) - 1).filter(lambda n: n not in {1, 2}))
def test_an_unknown_number_keeps_its_value(number: int) -> None:
    member = Colour(number)
    assert isinstance(member, Colour)
    assert member == number
    assert int(member) == number
    assert hash(member) == hash(number)
    assert not member.is_known


def test_unknown_numbers_print_as_what_they_are() -> None:
    assert str(Colour(0x77)) == "Colour(0x77)"
    assert str(Colour(-5)) == "Colour(-5)"
    assert f"{Colour(0x77):#x}" == "0x77"


def test_unknown_numbers_do_not_become_members() -> None:
    Colour(99)
    assert list(Colour) == [Colour.RED, Colour.BLUE]


@pytest.mark.parametrize("wrong", ["1", None, 1.5])
def test_what_is_no_integer_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="is not a valid Colour"):
        Colour(wrong)


def test_members_copy_and_pickle() -> None:
    for member in (Colour.BLUE, Colour(0x77)):
        assert copy.copy(member) == member
        assert pickle.loads(pickle.dumps(member)) == member
