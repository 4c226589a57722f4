"""What goes into and comes out of the partition's half of the bridge (:mod:`pvnet.vbus.north`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note, Tick
from pvnet.vbus.bridge_io import (
    BridgeCall,
    BridgeResult,
    Doorbell,
    Interrupt,
    MemoryChanged,
    SignalClosed,
    SignalOpened,
    SignalRang,
)
from pvnet.vbus.layout import MAX_EVENTS, MAX_QUEUES


@dataclass(frozen=True, slots=True)
class Start:
    """A host is there and has the arena: bring the bridge up (from scratch, whatever was before)."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Remove every device in good order, then stay down until :class:`Start`."""


@dataclass(frozen=True, slots=True)
class HostGone:
    """The host died or the way to it is lost: every device is gone, every request has failed."""


@dataclass(frozen=True, slots=True)
class BridgeUp:
    """The bridge is up; devices follow.  ``capabilities`` were agreed."""

    capabilities: int


@dataclass(frozen=True, slots=True)
class BridgeDown:
    """The bridge is down; ``reason`` is a constant like ``"host_gone"``."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeviceBound:
    """A driver has brought a device up."""

    id: int
    type: str


@dataclass(frozen=True, slots=True)
class DeviceUnbound:
    """A driver has let a device go."""

    id: int
    type: str


NorthInput: TypeAlias = Start | Stop | HostGone | BridgeResult | Interrupt | SignalRang | MemoryChanged | Tick
NorthOutput: TypeAlias = (
    BridgeCall | Doorbell | SignalOpened | SignalClosed | BridgeUp | BridgeDown | DeviceBound | DeviceUnbound | Note
)


@dataclass(frozen=True, slots=True)
class BridgePlaces:
    """Where the bridge's own structures lie in the arena; the default takes them from the allocator.

    :ivar queues: addresses of each event queue's ring and events.
    """

    queues: tuple[tuple[int, int], ...]
    call: int
    parameters: int


@dataclass(frozen=True, slots=True)
class VbusNorthConfig:
    """How the partition uses the bridge.

    :ivar queues: event queues, as many as the host has.
    :ivar events: entries of each.
    :ivar ask_2026: ask the host for IOQ-2026.
    :ivar first_signal: first index of the table of signals, the low half of a cookie.
    :ivar signals: most signals at a time, closed ones that the host holds included.
    :ivar devices: most devices at a time.
    :ivar poll: seconds between two rescue polls.
    :ivar retry: seconds until a failed bring-up is tried again; it doubles up to ``retry_most``.
    """

    queues: int = 1
    events: int = 256
    ask_2026: bool = True
    first_signal: int = 1
    signals: int = 4096
    devices: int = 1024
    poll: float = 0.1
    retry: float = 1.0
    retry_most: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.queues <= MAX_QUEUES:
            raise ConfigError(f"vbus queues: {self.queues}, expected 1 to {MAX_QUEUES}")
        if not 1 <= self.events <= MAX_EVENTS:
            raise ConfigError(f"vbus events: {self.events}, expected 1 to {MAX_EVENTS}")
