"""The default bus driver: makes devices available to users of the VFIO device API.

Spec: mdev 1.10, 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pvnet.mdev.life_objects import MakeVfio, Mdev

VFIO: Final = "vfio"


class VfioBusDriver:
    """Serves every device; sets ``mdev.vfio``.

    :param make: makes what joins a device to its users.
    :param released: to be called whenever a user has let go.
    """

    name = VFIO

    def __init__(self, make: MakeVfio, released: Callable[[], None]) -> None:
        self._make = make
        self._released = released

    def match(self, mdev: Mdev) -> bool:  # noqa: ARG002 - part of the interface
        """Every device."""
        return True

    def probe(self, mdev: Mdev) -> None:
        """Let users in."""
        mdev.vfio = self._make(mdev, self._released)

    def remove(self, mdev: Mdev) -> None:
        """Cut off the user, if there is one, and let nobody in any more."""
        vfio, mdev.vfio = mdev.vfio, None
        if vfio is None:
            return
        user = vfio.user
        try:
            if user is not None:
                user.ended(mdev.ending)
        finally:
            vfio.close()
