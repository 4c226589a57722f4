"""Every exception pvnet raises on purpose, as one tree.

::

    PvnetError
    ├── LocalError            our own side was used wrongly (a bug in the calling program)
    ├── WireError             bytes that do not decode: offset, what was expected
    ├── ConfigError           a topology, option or argument is wrong           (exit code 2)
    │   └── UnavailableError  what it asks for is not to be had on this machine, or not with our rights
    ├── UnreachableError      the lab, broker or a peer cannot be reached       (exit code 3)
    │   ├── PeerDiedError     the peer's incarnation ended before it answered
    │   └── DeadlineError     no answer within the deadline
    ├── RefusedError          the peer understood and refused (carries its words)
    └── DeviceError           a device call failed with an errno (is also an OSError)

The rule for machines (``core.machine``): *our* misuse raises :class:`LocalError`; a *peer's* misuse never raises, it is
a row of the state table (drop and count, answer with a status, reset).  Only decoders raise :class:`WireError`, and
only to the one caller that turns it into a counter.
"""

from __future__ import annotations

import errno as _errno


class PvnetError(Exception):
    """Base of all deliberate errors; its text is one or two lines fit for a user."""

    exit_code = 1


class LocalError(PvnetError):
    """This program used pvnet wrongly: wrong order of calls, value out of range."""


class WireError(PvnetError):
    """Bytes from outside do not decode.

    ``offset`` is the byte offset of the first offending byte in the message, or ``None`` when the whole is wrong.
    """

    def __init__(self, what: str, *, offset: int | None = None, expected: str = "") -> None:
        self.offset = offset
        self.expected = expected
        where = f" at offset {offset}" if offset is not None else ""
        super().__init__(f"{what}{where}" + (f": expected {expected}" if expected else ""))


class ConfigError(PvnetError):
    """A configuration value is wrong: ``where`` (file, line or field), what is there, what was expected."""

    exit_code = 2


class UnavailableError(ConfigError):
    """The machine does not have what a configuration asks for, or our rights do not reach; says what would help."""


class UnreachableError(PvnetError):
    """The lab is not running, or a broker or peer cannot be reached."""

    exit_code = 3


class PeerDiedError(UnreachableError):
    """The peer's incarnation ended (crash, restart, shutdown) while we waited for it."""


class DeadlineError(UnreachableError, TimeoutError):
    """The peer did not answer before the deadline."""


class RefusedError(PvnetError):
    """The peer answered with a refusal; its text says why."""


class DeviceError(PvnetError, OSError):
    """A character device call failed: ``errno`` as in ``errno.h`` of Linux."""

    def __init__(self, number: int, doing: str) -> None:
        OSError.__init__(self, number, f"{doing}: {errno_name(number)}")

    def __str__(self) -> str:
        """Return the one-line text."""
        return str(self.strerror)


def errno_name(number: int) -> str:
    """Name of a Linux errno (``77`` → ``EBADFD``); unknown numbers print as ``errno 12345``."""
    return _errno.errorcode.get(number, f"errno {number}")
