"""The tree of errors says which exit code follows; names are topic levels."""

from __future__ import annotations

import errno

import pytest

from pvnet.core import errors
from pvnet.core.errors import (
    ConfigError,
    DeadlineError,
    DeviceError,
    PeerDiedError,
    PvnetError,
    RefusedError,
    UnreachableError,
    WireError,
    errno_name,
)
from pvnet.core.machine import Counters, Note, Tick
from pvnet.core.names import RESERVED_NAMES, check_name


def _all_errors() -> list[type[PvnetError]]:
    return [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, PvnetError)]


def test_the_drawing_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    for error in _all_errors():
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError, 2), (UnreachableError, 3), (PeerDiedError, 3), (DeadlineError, 3), (RefusedError, 1)],
)
def test_exit_codes_are_those_of_the_contract(error: type[PvnetError], code: int) -> None:
    assert error.exit_code == code


def test_a_deadline_is_a_timeout_for_everybody() -> None:
    with pytest.raises(TimeoutError):
        raise DeadlineError("late")


def test_a_wire_error_says_where_and_what_was_expected() -> None:
    error = WireError("magic 0x00", offset=4, expected="0xDE")
    assert str(error) == "magic 0x00 at offset 4: expected 0xDE"
    assert (error.offset, error.expected) == (4, "0xDE")
    assert str(WireError("empty")) == "empty"


def test_a_device_error_is_an_os_error_with_the_number_of_linux() -> None:
    error = DeviceError(77, "read")
    assert isinstance(error, OSError)
    assert error.errno == 77
    assert str(error) == "read: EBADFD"
    assert errno_name(errno.EIO) == "EIO"
    assert errno_name(99999) == "errno 99999"


@pytest.mark.parametrize("name", ["a", "lpar-1", "x_y", "0", "a" * 32])
def test_good_names_come_back(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "a.b", "a/b", "a+", "#", "a" * 33, "ä", "a\n", *sorted(RESERVED_NAMES)]
)
def test_names_that_are_no_topic_levels_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 32 of a-z 0-9"):
        check_name(name, "lab")


def test_machine_values_compare_by_content() -> None:
    assert Tick() == Tick()
    assert Note("x", (("a", 1),)) == Note("x", (("a", 1),), "debug")
    counters = Counters()
    counters["dropped"] += 2
    assert counters == {"dropped": 2}
    assert counters["never"] == 0
