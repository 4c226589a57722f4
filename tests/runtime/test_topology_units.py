"""Processing units of a topology: as PowerVM has them, 0.05 to 1 for each virtual processor of the shared pool."""

import pytest
from pydantic import ValidationError

from pvnet.runtime.topology_system import ProcessorsConfig


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"units": 1.01}, r"units = 0\.05 to 1: 0\.05 to 1 for each of its virtual processors \(virtual = 1\)"),
        ({"units": 0.14, "virtual": 3}, r"units = 0\.15 to 3"),
    ],
)
def test_units_that_its_virtual_processors_cannot_have(given, expected):
    with pytest.raises(ValidationError, match=expected):
        ProcessorsConfig(**given)


def test_units_that_they_can():
    for units, virtual in ((0.05, 1), (1, 1), (0.15, 3), (3, 3)):
        assert ProcessorsConfig(units=units, virtual=virtual).units == units
    assert ProcessorsConfig(dedicated=True, units=8).virtual == 1
