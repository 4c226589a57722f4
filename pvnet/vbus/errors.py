"""The one exception of device calls: an errno of Linux.

A device, a bus or the arena raises it; the bridge turns it into ``-errno``, which is all that the other side sees, and
the admin commands print its text.  It never leaves the machine that caught it.
"""

from __future__ import annotations

from pvnet.core.errors import PvnetError
from pvnet.papr.errno import name_of


class VbusError(PvnetError):
    """A vbus operation failed.

    :ivar errno: positive number as in ``errno.h`` of Linux (:mod:`pvnet.papr.errno`).
    """

    def __init__(self, errno: int, what: str = "") -> None:
        self.errno = errno
        name = name_of(errno)
        super().__init__(f"{what} ({name})" if what else name)
