"""The one exception of mediated devices: an errno of Linux.

A vendor driver, the registry or a device raises it; the vfio-user session turns it into an error reply, the admin
commands print its text.  A peer's misuse never raises anything else.
"""

from __future__ import annotations

from pvnet.core.errors import PvnetError
from pvnet.papr.errno import EIO, name_of


class MdevError(PvnetError):
    """An operation on a parent, a type or a mediated device failed.

    :ivar errno: positive number as in ``errno.h`` of Linux (:mod:`pvnet.papr.errno`).
    """

    def __init__(self, errno: int, what: str = "") -> None:
        self.errno = errno
        name = name_of(errno)
        super().__init__(f"{what} ({name})" if what else name)

    @property
    def code(self) -> int:
        """The number to answer with: ``errno``, or EIO for what is no errno (third parties raise this)."""
        errno: object = self.errno
        return errno if isinstance(errno, int) and 0 < errno < 4096 else EIO
