"""What may be in attributes: what is written is checked before anybody gets it, what is shown is fit for a terminal."""

from __future__ import annotations

import pytest
from mdev_life_rig import SERVICES, U1, World

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_attributes import ATTRIBUTES_MAX, VALUE_MAX, check_asked, shown
from pvnet.mdev.life_steps import run_now
from pvnet.mdev.mdev_uuid import parse_integer
from pvnet.papr.errno import EINVAL

BAD = [
    {"key": "two\nlines"},
    {"key": "\x1b[2J"},
    {"key": "\0"},
    {"key": "\x7f"},
    {"key": "\x85"},
    {"key": "left\u202eright"},
    {"key": "half \ud800"},
    {"key": "x" * (VALUE_MAX + 1)},
    {"key": "\u00e9" * (VALUE_MAX // 2 + 1)},
    {"": "x"},
    {"two words": "x"},
    {"line\n": "x"},
    {"k" * 65: "x"},
    {f"key{number}": "x" for number in range(ATTRIBUTES_MAX + 1)},
]


@pytest.mark.parametrize("attributes", BAD)
def test_what_is_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(MdevError) as refused:
        check_asked(attributes)
    assert refused.value.errno == EINVAL
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


def test_what_is_not_refused() -> None:
    check_asked({})
    check_asked({"key": "x" * VALUE_MAX, "a.b-c_D0": "", "other": "\u00e9\u4e2d\U0001f600 tcp-listen:[::1]:0"})
    check_asked({f"key{number}": "x" for number in range(ATTRIBUTES_MAX)})


def test_what_is_shown_is_fit_for_a_terminal() -> None:
    text = "a\nb\x1b[31m\x9b\u202e \u00e9\\"
    safe = shown({"key": text})["key"]
    assert safe == "a\\nb\\x1b[31m\\x9b\\u202e \u00e9\\"
    assert safe.isprintable()


def test_the_registry_checks_before_it_asks_anybody() -> None:
    world = World().up()
    registry = world.registry
    bad = {"key": "two\nlines"}
    with pytest.raises(MdevError, match=r"control characters .* .EINVAL"):
        run_now(registry.register_parent("other", world.driver, bad, SERVICES))
    assert "other" not in registry.tables.parents
    parent = next(iter(registry.parents().values()))
    kind = next(iter(parent.types))
    with pytest.raises(MdevError, match=r"control characters .* .EINVAL"):
        run_now(registry.create(parent.name, kind, U1, bad))
    run_now(registry.create(parent.name, kind, U1))
    with pytest.raises(MdevError, match=r"control characters .* .EINVAL"):
        run_now(registry.set(U1, "key", "two\nlines"))


def test_numbers_are_quoted_as_they_were_written() -> None:
    with pytest.raises(MdevError, match=r"^'-1' is no number .EINVAL.$"):
        parse_integer(b"-1", 32)
    with pytest.raises(MdevError, match=r"^'.+xff.n' is no number .EINVAL.$"):
        parse_integer(b"\xff\n", 32)
