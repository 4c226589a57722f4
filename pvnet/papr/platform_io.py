"""What goes into and comes out of the hypervisor machine (:mod:`pvnet.papr.platform`), and how it is configured.

Inputs and outputs are closed unions of frozen dataclasses.  A partition is named as its node; a *tag* pairs a call with
its answer: in :class:`HcallRequest` it is the caller's, in :class:`ReadMemory` and :class:`WriteMemory` ours.

**Memory.** When a partition's memory is mapped here (:class:`PartitionStarted` with a segment), the machine reads and
writes it itself, puts CRQ elements into the ring and says :class:`RaiseIrq`.  When it is mapped later
(:class:`PartitionMapped`), it reads and writes it too, but elements travel as :class:`DeliverCrq`.  When it is in
another process, ``HcallRequest.memory`` brings the bytes that the call reads from the *caller's own* memory,
``HcallResult.memory`` returns the bytes for it, an element travels as :class:`DeliverCrq`, and memory of a third party
is reached by :class:`ReadMemory` and :class:`WriteMemory`, each at most :data:`CHUNK_BYTES` and answered by
:class:`MemoryDone`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from pvnet.core.machine import Note, Tick
from pvnet.memory.segment import Segment
from pvnet.papr.extension import ExtensionInput, ExtensionOutput
from pvnet.papr.hcall import HcallOpcode, HcallRc

CHUNK_BYTES: Final = 64 * 1024
"""Largest piece of memory in one ReadMemory or WriteMemory."""

# -- inputs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HcallRequest:
    """A partition makes an hcall: opcode in r3, args from r4 upward (unsigned 64-bit).

    ``memory``: bytes of the caller's own memory that the call reads (H_COPY_RDMA source, TCE list), or ``None``.
    """

    partition: str
    tag: int
    opcode: int
    args: tuple[int, ...]
    memory: bytes | None = None
    problem_state: bool = False


@dataclass(frozen=True, slots=True)
class MemoryDone:
    """Answer to ReadMemory (``data`` exactly as long as asked) or WriteMemory; ``error`` 0 or a Linux errno."""

    tag: int
    error: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class CrqConsumed:
    """The partition has cleared ``consumed`` slots in all since that registration."""

    partition: str
    unit: int
    registration: int
    consumed: int


@dataclass(frozen=True, slots=True)
class PartitionStarted:
    """A partition has come up; ``memory`` is its memory if it is mapped here.  Fed before its first hcall."""

    partition: str
    memory: Segment | None = None


@dataclass(frozen=True, slots=True)
class PartitionMapped:
    """The memory of a partition that has started is mapped here from now on, until it dies or starts anew.

    Copies, TCE lists and buffers of its calls become direct.  Of a partition that has died meanwhile: counted, ignored.
    As long as its configuration says, else a mistake of ours.
    """

    partition: str
    memory: Segment


@dataclass(frozen=True, slots=True)
class PartitionDied:
    """A partition's incarnation has ended, however it did."""

    partition: str


@dataclass(frozen=True, slots=True)
class DefinePartition:
    """A partition is new, or another than it was: it has to be off.  Armed faults of it are forgotten.

    An adapter whose partner does not name it back (yet) has none: when both ends name each other they are joined.  The
    hypervisor's own ends are new, and have to be registered.
    """

    config: PartitionConfig


@dataclass(frozen=True, slots=True)
class RemovePartition:
    """A partition is no more: it has to be off.  Its partners have none from now on."""

    partition: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """Suspend the adapter as a migration does: transport event 6, then closed until H_ENABLE_CRQ."""

    partition: str
    unit: int


class FaultPoint(Enum):
    """Where misbehaviour on command happens."""

    SEND = "send"
    """H_SEND_CRQ by this adapter answers ``rc`` (H_DROPPED, H_CLOSED, ...), nothing is sent."""
    FREE = "free"
    """H_FREE_CRQ closes the queue but answers ``rc`` (a busy code): the caller has to repeat it."""
    ENABLE = "enable"
    """H_ENABLE_CRQ answers ``rc`` (H_IN_PROGRESS, a busy code) and enables nothing."""
    REGISTER = "register"
    """H_REG_CRQ answers ``rc``, nothing is registered."""
    COPY = "copy"
    """H_COPY_RDMA of the partition answers ``rc``; nothing is copied (unit 0)."""
    REQUEST_VMC = "request_vmc"
    """H_REQUEST_VMC of the partition answers ``rc`` (unit 0)."""
    DELIVER = "deliver"
    """Nothing is put into this adapter's queue, as if it were full; ``count`` 0 ends it."""


@dataclass(frozen=True, slots=True)
class SetFault:
    """Arm a fault: the next ``count`` times at ``point`` the answer is ``rc``; ``count`` 0 disarms it."""

    partition: str
    unit: int
    point: FaultPoint
    rc: int = HcallRc.H_SUCCESS
    count: int = 1


PlatformInput: TypeAlias = (
    HcallRequest
    | MemoryDone
    | CrqConsumed
    | PartitionStarted
    | PartitionMapped
    | PartitionDied
    | DefinePartition
    | RemovePartition
    | Suspend
    | SetFault
    | ExtensionInput
    | Tick
)

# -- outputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HcallResult:
    """Answer to a call: signed ``rc``, ``outs`` are the registers written, from r4 upward; the others keep their value.

    ``memory``: bytes for the caller's own memory, exactly as long as the call named; ``None`` when there are none.
    """

    partition: str
    tag: int
    rc: int
    outs: tuple[int, ...] = ()
    memory: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeliverCrq:
    """Store 16 bytes into ``slot`` of the adapter's queue (header last), then ring if ``irq``.

    ``registration`` counts the successful H_REG_CRQ (H_SUCCESS or H_CLOSED) since the partition started, from 1.  It
    comes after the answer to that H_REG_CRQ; an element of another registration must not be stored.
    """

    partition: str
    unit: int
    registration: int
    slot: int
    element: bytes
    irq: bool


@dataclass(frozen=True, slots=True)
class RaiseIrq:
    """Interrupt of an adapter whose queue is mapped here: an element was stored."""

    partition: str
    unit: int


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """Read ``length`` bytes at real ``address`` of a partition's memory; answered by MemoryDone."""

    tag: int
    partition: str
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class WriteMemory:
    """Store ``data`` at real ``address`` of a partition's memory; answered by MemoryDone."""

    tag: int
    partition: str
    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PartnerElement:
    """The hypervisor's own end of this adapter's pair received 16 bytes: a message or a transport event."""

    partition: str
    unit: int
    element: bytes


@dataclass(frozen=True, slots=True)
class PartnerRegistered:
    """The partition has registered this adapter's queue, of ``slots`` elements."""

    partition: str
    unit: int
    slots: int


PlatformOutput: TypeAlias = (
    HcallResult
    | DeliverCrq
    | RaiseIrq
    | ReadMemory
    | WriteMemory
    | PartnerElement
    | PartnerRegistered
    | ExtensionOutput
    | Note
)

# -- configuration -----------------------------------------------------------------------------------------------------

_COMMON: Final = frozenset(
    {
        HcallOpcode.H_GET_TCE,
        HcallOpcode.H_PUT_TCE,
        HcallOpcode.H_STUFF_TCE,
        HcallOpcode.H_PUT_TCE_INDIRECT,
        HcallOpcode.H_REG_CRQ,
        HcallOpcode.H_FREE_CRQ,
        HcallOpcode.H_VIO_SIGNAL,
        HcallOpcode.H_SEND_CRQ,
        HcallOpcode.H_ENABLE_CRQ,
    }
)


@dataclass(frozen=True, slots=True)
class PlatformProfile:
    """Where hypervisors differ, as data.  The two that exist are :data:`LOPAR` and :data:`QEMU`."""

    name: str
    hcalls: frozenset[int]
    """Opcodes that exist; any other is H_FUNCTION."""
    queue_length_multiple: int
    """H_REG_CRQ: the length must be a multiple of this."""
    queue_must_be_mapped: bool
    """H_REG_CRQ: every page of the queue must be mapped for reading and writing."""
    tells_closed: bool
    """Whether the partner's state shows in the answers of H_REG_CRQ and H_SEND_CRQ (H_CLOSED, H_DROPPED)."""
    checks_header: bool
    """H_SEND_CRQ refuses headers without bit 0x80 and 0xFF."""
    signal_mode_survives: bool
    """H_REG_CRQ and H_FREE_CRQ leave the interrupt mode alone."""
    holds_back: bool
    """The hypervisor's own end waits while half of the partition's queue is unconsumed."""
    no_crq_rcs: dict[int, int]
    """Answer by opcode for an adapter that has no queue."""
    checks_tce_page: bool
    """A TCE with access must name a page of the partition's memory."""
    tce_stuff_limit: int | None
    """H_STUFF_TCE: largest count, more is H_P4; ``None``: the window's size, more is H_PARAMETER."""
    negative_liobn_rc: int
    """H_PUT_TCE_INDIRECT with a negative LIOBN, which asks for several tables at once."""
    tce_list_in_part: bool
    """A list that leaves the window is stored up to its end before it is refused."""


LOPAR: Final = PlatformProfile(
    name="lopar",
    hcalls=_COMMON | {HcallOpcode.H_COPY_RDMA, HcallOpcode.H_REQUEST_VMC},
    queue_length_multiple=4096,
    queue_must_be_mapped=True,
    tells_closed=True,
    checks_header=True,
    signal_mode_survives=False,
    holds_back=True,
    no_crq_rcs={
        HcallOpcode.H_FREE_CRQ: HcallRc.H_PARAMETER,
        HcallOpcode.H_SEND_CRQ: HcallRc.H_PARAMETER,
        HcallOpcode.H_ENABLE_CRQ: HcallRc.H_PARAMETER,
    },
    checks_tce_page=True,
    tce_stuff_limit=512,
    negative_liobn_rc=HcallRc.H_FUNCTION,
    tce_list_in_part=False,
)
"""The rules of LoPAR; default of a lab."""

QEMU: Final = PlatformProfile(
    name="qemu",
    hcalls=_COMMON,
    queue_length_multiple=1,
    queue_must_be_mapped=False,
    tells_closed=False,
    checks_header=False,
    signal_mode_survives=True,
    holds_back=False,
    no_crq_rcs={
        HcallOpcode.H_FREE_CRQ: HcallRc.H_SUCCESS,
        HcallOpcode.H_SEND_CRQ: HcallRc.H_HARDWARE,
        HcallOpcode.H_ENABLE_CRQ: HcallRc.H_SUCCESS,
    },
    checks_tce_page=False,
    tce_stuff_limit=None,
    negative_liobn_rc=HcallRc.H_PARAMETER,
    tce_list_in_part=True,
)
"""What QEMU 7.2 and 10.0 answer, measured: laxer than LoPAR."""

PROFILES: Final = {profile.name: profile for profile in (LOPAR, QEMU)}


@dataclass(frozen=True, slots=True)
class PartitionPartner:
    """The other end of a CRQ pair is an adapter of a partition."""

    partition: str
    unit: int


@dataclass(frozen=True, slots=True)
class HypervisorPartner:
    """The other end of a CRQ pair is the hypervisor itself."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A virtual adapter.  Pane 1 (``liobn``) maps its partition's memory, pane 2 (``remote_liobn``) its partner's.

    Pane 2 exists for server-type adapters.  With a hypervisor partner it covers ``remote_window_bytes`` of memory that
    the hypervisor provides; with a partition partner it is that adapter's pane 1.
    """

    unit: int
    crq: bool = True
    liobn: int | None = None
    window_bytes: int = 0
    remote_liobn: int | None = None
    remote_window_bytes: int = 0
    signal_mask: int = 1
    partner: HypervisorPartner | PartitionPartner | None = field(default_factory=HypervisorPartner)


@dataclass(frozen=True, slots=True)
class PartitionConfig:
    """A partition: its memory's size in bytes, its adapters, and what H_REQUEST_VMC answers to it.

    ``vmc_drc_index``: the DRC index of its VMC adapter, given with H_SUCCESS; ``None``: H_AUTHORITY.
    """

    name: str
    memory_bytes: int
    adapters: tuple[AdapterConfig, ...] = ()
    vmc_drc_index: int | None = None


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """All partitions of one hypervisor."""

    partitions: tuple[PartitionConfig, ...]
    profile: PlatformProfile = LOPAR
    max_virtual_dma_size: int = 128 * 1024
    """Longest H_COPY_RDMA in bytes (``ibm,max-virtual-dma-size``)."""
    post_limit: int = 4096
    """Elements that the hypervisor's own end of one pair may have waiting."""
