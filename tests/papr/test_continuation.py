"""Continuation tokens: good for one place and the same arguments, used up once, bounded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError
from pvnet.papr.continuation import Continuations, Place

HERE = Place("lpar", 0x3EC, 7)
ARGS = (1, 2)


def test_a_token_is_good_for_its_place_and_arguments_only():
    tokens = Continuations(4)
    token = tokens.start(HERE, ARGS, "work", 0x1001)
    assert token == 0x1001
    assert tokens.find(HERE, token, ARGS) == "work"
    others = [Place("other", 0x3EC, 7), Place("lpar", 0x3F0, 7), Place("lpar", 0x3EC, 8), Place("lpar", 0x3EC, None)]
    assert [tokens.find(place, token, ARGS) for place in others] == [None] * 4
    assert tokens.find(HERE, token, (1, 3)) is None
    assert tokens.find(HERE, token + 1, ARGS) is None
    assert tokens.find(HERE, 0, ARGS) is None
    assert tokens.find(HERE, token, ARGS) == "work"


def test_renewed_and_finished_tokens_are_used_up():
    tokens = Continuations(4)
    first = tokens.start(HERE, ARGS, "work")
    second = tokens.renew(HERE, first)
    assert (first, second) == (1, 2)
    assert tokens.find(HERE, first, ARGS) is None
    assert tokens.finish(HERE, second) == "work"
    assert tokens.find(HERE, second, ARGS) is None
    for act in (tokens.renew, tokens.finish):
        with pytest.raises(LocalError, match="no open operation 0x2"):
            act(HERE, second)
    assert tokens.start(HERE, ARGS, "next") == 3


def test_the_limit_is_per_place():
    tokens = Continuations(2)
    assert [tokens.start(HERE, ARGS, n) for n in range(3)] == [1, 2, None]
    assert tokens.start(Place("lpar", 0x3EC, 8), ARGS, 0) == 1
    assert tokens.count(HERE) == 2
    tokens.finish(HERE, 1)
    assert tokens.start(HERE, ARGS, 3) == 3
    with pytest.raises(LocalError, match="limit 0"):
        Continuations(0)


def test_what_ends_with_a_partition_or_a_target():
    tokens = Continuations(4)
    places = [HERE, Place("lpar", 0x3F0, 7), Place("lpar", 0x3EC, 8), Place("other", 0x3EC, 7)]
    for place in places:
        tokens.start(place, (), place)
    assert [(place, token) for place, token, _ in tokens.of_partition("lpar")] == [(p, 1) for p in places[:3]]
    assert tokens.drop_target("lpar", 7) == places[:2]
    assert tokens.drop_partition("lpar") == [places[2]]
    assert tokens.find(places[3], 1, ()) == places[3]
    # A later life gets later tokens: a stale one of the earlier life is still refused.
    assert tokens.start(HERE, (), "new") == 2
    assert tokens.find(HERE, 1, ()) is None


def test_tokens_never_are_zero():
    tokens = Continuations(4)
    last = (1 << 64) - 1
    assert tokens.start(HERE, (), "a", last) == last
    assert tokens.start(HERE, (), "b", last) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 6)), max_size=40))
def test_every_token_names_one_operation_once(steps):
    tokens = Continuations(5)
    places = [Place("a", 4, n) for n in range(4)]
    open_now, ever = {}, set()
    for number, (act, where, token) in enumerate(steps):
        place = places[where]
        match act:
            case 0:
                new = tokens.start(place, (), number)
                mine = [key for key in open_now if key[0] == place]
                assert (new is None) == (len(mine) == 5)
                if new is not None:
                    assert (place, new) not in ever
                    ever.add((place, new))
                    open_now[place, new] = number
            case 1 if (place, token) in open_now:
                new = tokens.renew(place, token)
                assert (place, new) not in ever
                ever.add((place, new))
                open_now[place, new] = open_now.pop((place, token))
            case 2 if (place, token) in open_now:
                assert tokens.finish(place, token) == open_now.pop((place, token))
            case _:
                assert tokens.find(place, token, ()) == open_now.get((place, token))
