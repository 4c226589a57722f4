"""How any driver machine of a partition is driven: adapter events, calls on its character device, what comes back.

Shared by the VMC and by the raw CRQ device, so that a partition's runtime treats every adapter alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pvnet.core.machine import Note, Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned

# Inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """The adapter appeared: register the CRQ and begin."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The adapter goes away: end all sessions, deregister the CRQ."""


@dataclass(frozen=True, slots=True)
class Irq:
    """Look at the CRQ (may be spurious)."""


@dataclass(frozen=True, slots=True)
class DeviceOpen:
    """open(): answered by the handle.  ``request`` in every device input: chosen by the caller, unique while open."""

    request: int


@dataclass(frozen=True, slots=True)
class DeviceIoctl:
    """ioctl(): ``data`` are the bytes at the argument's address."""

    request: int
    handle: int
    command: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class DeviceRead:
    """read(): at most ``count`` bytes of one message; ``nonblock`` is O_NONBLOCK."""

    request: int
    handle: int
    count: int
    nonblock: bool = False


@dataclass(frozen=True, slots=True)
class DeviceWrite:
    """write(): one message."""

    request: int
    handle: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DevicePoll:
    """poll() for input: answered by the event mask; ``nonblock`` answers at once."""

    request: int
    handle: int
    nonblock: bool = False


@dataclass(frozen=True, slots=True)
class DeviceClose:
    """close()."""

    request: int
    handle: int


@dataclass(frozen=True, slots=True)
class DeviceInterrupt:
    """A signal hit the caller of ``request``: a blocked call ends with -EINTR, others go on."""

    request: int


DeviceInput: TypeAlias = (
    DeviceOpen | DeviceIoctl | DeviceRead | DeviceWrite | DevicePoll | DeviceClose | DeviceInterrupt
)
AdapterInput: TypeAlias = Probe | Remove | Irq | HcallReturned | Tick | DeviceInput

# Outputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceDone:
    """A device call ended: ``result`` >= 0, or minus a Linux errno; ``data`` are bytes for the caller."""

    request: int
    result: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class CrqProgress:
    """``consumed`` slots of the CRQ were cleared since its registration."""

    consumed: int


AdapterOutput: TypeAlias = CallHypervisor | DeviceDone | CrqProgress | Note
