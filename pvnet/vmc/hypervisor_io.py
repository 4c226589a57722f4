"""What goes into and comes out of the hypervisor's VMC machine, and how it is configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note, Tick

MIN_MTU: Final = 32
"""An HMC id must fit into a buffer."""


@dataclass(frozen=True, slots=True)
class VmcHypervisorConfig:
    """One VMC link.  Data buffers lie in pane 2 from ``buffer_ioba``, ``buffer_bytes`` in all.

    ``crq_size``: slots that we announce for our own queue.  ``alpha_buffers`` and ``hypervisor_buffers``: how many
    buffers of each owner a session gets besides the seed.  ``offers_at_once`` ADD BUF of one index wait for their
    answer at a time.  ``queue_limit``: messages of one index that may wait for a buffer.  ``unique_ids`` refuses an
    HMC id that another open connection has.  Times in seconds (Spec: vmc 10.3).
    """

    buffer_ioba: int = 0
    buffer_bytes: int = 2 * 64 * 16384
    max_hmcs: int = 2
    pool_size: int = 64
    max_mtu: int = 16384
    crq_size: int = 256
    alpha_buffers: int = 4
    hypervisor_buffers: int = 4
    offers_at_once: int = 8
    queue_limit: int = 64
    unique_ids: bool = False
    seed_tries: int = 4
    init_s: float | None = 5.0
    answer_s: float = 2.0

    def __post_init__(self) -> None:
        ranges = {
            "max_hmcs": (1, 254),
            "pool_size": (2, 0xFFFF),
            "max_mtu": (MIN_MTU, 0xFFFFFFFF),
            "crq_size": (1, 0xFFFF),
            "hypervisor_buffers": (1, 0xFFFF),
            "alpha_buffers": (0, 0xFFFF),
            "offers_at_once": (1, 0xFFFF),
            "queue_limit": (0, 1 << 20),
            "seed_tries": (1, 0xFFFF),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise LocalError(f"VmcHypervisorConfig.{name} = {getattr(self, name)}: expected {low} to {high}")


# Inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartnerUp:
    """The partition registered its queue of ``slots`` elements.

    ``greet``: we came up after it and have to say INIT.
    """

    slots: int
    greet: bool = False


@dataclass(frozen=True, slots=True)
class PartnerElement:
    """The partition sent these 16 bytes, or the platform says FF xx: the partner is gone."""

    element: bytes


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send ``payload`` to the application of (index, session); waits for a buffer in a bounded queue."""

    index: int
    session: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class AddBuffers:
    """Lend ``count`` more buffers to an open session, ``owner`` 0 (partition) or 1 (ours)."""

    index: int
    owner: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class TakeBuffer:
    """Ask the partition for one of its buffers back (REM BUF)."""

    index: int


HypervisorInput: TypeAlias = PartnerUp | PartnerElement | SendMessage | AddBuffers | TakeBuffer | Tick

# Outputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PostElement:
    """Put 16 bytes into the partition's queue, after those posted before."""

    element: bytes


@dataclass(frozen=True, slots=True)
class ResetLink:
    """Deregister and register our own end: the partition sees FF 02.  Do it before the outputs that follow."""

    reason: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A management application is connected; ``hmc_id`` is its 32 bytes."""

    index: int
    session: int
    hmc_id: bytes


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is over: ``reason`` is ``closed``, ``partner_gone``, ``partner_restarted`` or ``reset``.

    ``unsent`` messages were waiting for a buffer and are lost with it.
    """

    index: int
    session: int
    reason: str
    unsent: int = 0


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """The application wrote ``payload``."""

    index: int
    session: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class SendRefused:
    """A SendMessage was not taken: ``reason`` is ``no_session``, ``empty``, ``too_long`` or ``queue_full``."""

    index: int
    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class BufferTaken:
    """The answer to a TakeBuffer: the buffer given back, or ``None`` when the partition kept all or did not answer.

    An answer that comes after all is told by a second one.
    """

    index: int
    buffer_id: int | None


HypervisorOutput: TypeAlias = (
    PostElement | ResetLink | SessionOpened | SessionClosed | MessageReceived | SendRefused | BufferTaken | Note
)
