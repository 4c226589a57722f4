"""Texts of refusals: whoever puts words before one says the errno once."""

from __future__ import annotations

import pytest
from ccw_rig import RamServices
from mdev_life_rig import U1, World

from pvnet.mdev.ccw_driver import CCW_DRIVER
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import EBUSY, EINVAL, EPERM


def test_words_before_a_refusal() -> None:
    assert str(MdevError(EINVAL, "size").within("parent p")) == "parent p: size (EINVAL)"
    assert str(MdevError(EINVAL).within("parent p")) == "parent p (EINVAL)"
    assert str(MdevError(EINVAL, "size").within("parent p", EINVAL)) == "parent p: size (EINVAL)"
    other = MdevError(EPERM, "no").within("mdev m refuses", EBUSY)
    assert (other.errno, str(other)) == (EBUSY, "mdev m refuses: no (EPERM) (EBUSY)")


@pytest.mark.parametrize("what", ["", "size (of it)", "two words", "open (it"])
def test_a_refusal_that_a_peer_has_told(what: str) -> None:
    error = MdevError(EINVAL, what)
    told = MdevError.of_text(error.errno, str(error))
    assert (told.what, str(told)) == (what, str(error))


def test_a_text_without_an_errno() -> None:
    assert str(MdevError.of_text(EINVAL, "east: no room (here)")) == "east: no room (here) (EINVAL)"


def test_attributes_of_a_disk() -> None:
    with pytest.raises(MdevError) as error:
        CCW_DRIVER.create_parent("disk", {"size": "many"}, RamServices())
    assert str(error.value).count("EINVAL") == 1
    assert str(error.value).startswith("parent disk: attribute size='many': expected")


def test_a_device_that_refuses_to_be_removed() -> None:
    world = World().up()
    world.run(world.create())
    world.failures[f"check {U1}"] = MdevError(EBUSY, "it burns")
    with pytest.raises(MdevError) as error:
        world.run(world.registry.remove(U1))
    assert str(error.value) == f"mdev {U1} refuses: it burns (EBUSY)"
