"""What goes into and comes out of the host's half of the bridge (:mod:`pvnet.vbus.south`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note, Tick
from pvnet.vbus.bridge_io import (
    BridgeCall,
    BridgeResult,
    ClientGone,
    DeviceAdded,
    DeviceDropped,
    Doorbell,
    Interrupt,
    MemoryChanged,
    SignalBound,
    SignalClosed,
    SignalOpened,
    SignalRang,
)
from pvnet.vbus.layout import MAX_QUEUES


@dataclass(frozen=True, slots=True)
class BusCall:
    """A bus call by itself, without the bridge call around it: what the mailbox of ABI v1 executes."""

    tag: int
    call: bytes


SouthInput: TypeAlias = (
    BridgeCall
    | BusCall
    | Doorbell
    | SignalRang
    | SignalBound
    | MemoryChanged
    | DeviceAdded
    | DeviceDropped
    | ClientGone
    | Tick
)
SouthOutput: TypeAlias = BridgeResult | Interrupt | SignalRang | SignalOpened | SignalClosed | Note


@dataclass(frozen=True, slots=True)
class VbusSouthConfig:
    """How the host treats one client.

    :ivar queues: event queues that QREG must bring, 1 to 8 (an original host had 1).
    :ivar allow_2026: offer IOQ-2026 in NEGOTIATE.
    :ivar signals: most signals at a time; beyond it DEVSHM is ENOSPC.
    :ivar handles: most open handles at a time, dead ones that nobody closed included; beyond it DEVOPEN is ENOSPC.
    :ivar channels: most fast call channels; beyond it FASTCALL_ADD is ENOSPC.
    :ivar poll: seconds between two rescue polls.
    """

    queues: int = 1
    allow_2026: bool = True
    signals: int = 1024
    handles: int = 1024
    channels: int = 256
    poll: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.queues <= MAX_QUEUES:
            raise ConfigError(f"vbus queues: {self.queues}, expected 1 to {MAX_QUEUES}")
