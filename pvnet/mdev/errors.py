"""The one exception of mediated devices: an errno of Linux.

A vendor driver, the registry or a device raises it; the vfio-user session turns it into an error reply, the admin
commands print its text.  A peer's misuse never raises anything else.
"""

from __future__ import annotations

from typing import Self

from pvnet.core.errors import PvnetError
from pvnet.papr.errno import EIO, name_of


class MdevError(PvnetError):
    """An operation on a parent, a type or a mediated device failed.

    :ivar errno: positive number as in ``errno.h`` of Linux (:mod:`pvnet.papr.errno`).
    :ivar what: the text without the name of the errno, which the exception's own text has at its end.
    """

    def __init__(self, errno: int, what: str = "") -> None:
        self.errno = errno
        self.what = what
        name = name_of(errno)
        super().__init__(f"{what} ({name})" if what else name)

    @classmethod
    def of_text(cls, errno: int, text: str) -> Self:
        """Return the error that a peer has told by its errno and the text of the exception."""
        name = name_of(errno)
        return cls(errno, "" if text == name else text.removesuffix(f" ({name})"))

    def within(self, context: str, errno: int | None = None) -> MdevError:
        """Return the same refusal with ``context`` before its text, and another errno if one is given.

        An errno that is replaced stays in the text.
        """
        if errno is not None and errno != self.errno:
            return MdevError(errno, f"{context}: {self}")
        return MdevError(self.errno, f"{context}: {self.what}" if self.what else context)

    @property
    def code(self) -> int:
        """The number to answer with: ``errno``, or EIO for what is no errno (third parties raise this)."""
        errno: object = self.errno
        return errno if isinstance(errno, int) and 0 < errno < 4096 else EIO
