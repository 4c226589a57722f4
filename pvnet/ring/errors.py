"""What rings and signals refuse, with the numbers that Linux gives to it.

Two kinds, and only these two come out of this package besides :class:`~pvnet.core.errors.LocalError`:

* :class:`RingError`: an operation was refused.  The ring goes on as before.
* :class:`RingFault`: the peer wrote something that cannot be.  The ring is dead; its owner closes that connection and
  no other (vbus 11, rule 1).  It is a RingError too, so that one ``except`` serves a caller who treats them alike.

Spec: vbus 6.4, 6.7, 11.
"""

from __future__ import annotations

from typing import Final

from pvnet.core.errors import PvnetError

EAGAIN: Final = 11
EINVAL: Final = 22
ENOSPC: Final = 28
EPROTO: Final = 71
EOPNOTSUPP: Final = 95


class RingError(PvnetError):
    """An operation on a ring or signal was refused; ``errno`` is a positive Linux number."""

    def __init__(self, errno: int, text: str) -> None:
        self.errno = errno
        super().__init__(text)


class RingFault(RingError):  # noqa: N818 - a fault is what the specification calls it
    """The peer broke the protocol: ``errno`` is EPROTO and the ring must not be used any more."""

    def __init__(self, text: str) -> None:
        super().__init__(EPROTO, text)
