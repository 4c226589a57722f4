"""The one exception of device calls: an errno of Linux.

A device, a bus or the arena raises it; the bridge turns it into ``-errno``, which is all that the other side sees, and
the admin commands print its text.  It never leaves the machine that caught it.

A device that raises anything else has failed: :class:`DeviceFailedError` says so for it, with EIO.
"""

from __future__ import annotations

from typing import Final

from pvnet.core.errors import PvnetError
from pvnet.papr.errno import EIO, name_of

_TOLD_MAX: Final = 200


class VbusError(PvnetError):
    """A vbus operation failed.

    :ivar errno: positive number as in ``errno.h`` of Linux (:mod:`pvnet.papr.errno`).
    """

    def __init__(self, errno: int, what: str = "") -> None:
        self.errno = errno
        name = name_of(errno)
        super().__init__(f"{what} ({name})" if what else name)

    @property
    def result(self) -> int:
        """The answer that the other side gets: ``-errno``, or -EIO for what is no errno (third parties raise this)."""
        errno: object = self.errno
        return -errno if isinstance(errno, int) and 0 < errno < 4096 else -EIO


class DeviceFailedError(VbusError):
    """The code of a device raised what no device should.

    :param device: which one, for a log or an administrator.
    :param doing: the method that failed.
    :param error: what it raised; only its text is kept, not the frames that hold the client's memory.
    """

    def __init__(self, device: str, doing: str, error: Exception) -> None:
        super().__init__(EIO, f"{device} failed in {doing}: {told(error)}")


def told(error: Exception) -> str:
    """Class, text and place of an exception in one short line, whatever it is."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - somebody else's exception may not even have a text
        text = "?"
    name = type(error).__name__
    if len(text) > _TOLD_MAX:
        text = text[:_TOLD_MAX] + "..."
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno})" if place is not None else ""
    return (f"{name}: {text}" if text else name) + where
