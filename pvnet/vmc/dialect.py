"""Dialects of the management partition: status numbers and conduct, as data.

LoPAR and the Linux driver disagree on some status numbers (Spec: vmc 2.4), and the Linux driver has habits that a
hypervisor can see (Spec: vmc 10.2).  A :class:`Dialect` holds both; no machine asks for a dialect's name.

* :data:`LINUX`: numbers and conduct of the unmodified Linux driver as recorded.  What conformance recordings run on.
* :data:`HARDENED`: Linux numbers, the advice of Spec: vmc 8.1 instead of the defects.  The default of a lab.
* :data:`LOPAR`: as HARDENED with LoPAR's numbers.

When receiving, every non-zero status is a failure; nobody branches on 1 versus 2 versus 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class StatusNumbers:
    """Status bytes that the partition sends; success is 0 everywhere."""

    name: str
    bad_index: int
    bad_buffer: int
    closed: int
    failure: int
    none_to_remove: int

    def describe(self, status: int) -> str:
        """Name of a status number for people, e.g. ``"1 (bad_index)"``."""
        if status == 0:
            return "0 (ok)"
        for name in ("bad_index", "bad_buffer", "closed", "failure", "none_to_remove"):
            if getattr(self, name) == status:
                return f"{status} ({name})"
        return f"{status} ({self.name}: no name)"


LINUX_STATUS: Final = StatusNumbers("linux", bad_index=1, bad_buffer=2, closed=3, failure=4, none_to_remove=5)
LOPAR_STATUS: Final = StatusNumbers("lopar", bad_index=2, bad_buffer=3, closed=4, failure=1, none_to_remove=3)


@dataclass(frozen=True, slots=True)
class Clamp:
    """Limits applied once to a configured number."""

    low: int
    high: int

    def __call__(self, value: int) -> int:
        """Return ``value`` brought between the limits."""
        return max(self.low, min(self.high, value))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for the partner (Spec: vmc 10.3); ``None`` waits for ever, as the Linux driver does."""

    init_s: float | None = 5.0
    capabilities_s: float | None = 5.0
    open_s: float | None = 10.0
    close_s: float | None = 5.0


NO_TIMEOUTS: Final = Timeouts(None, None, None, None)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Status numbers and conduct of a management partition; each switch names what is done when it is true."""

    name: str
    status: StatusNumbers
    max_hmcs: Clamp
    pool_size: Clamp
    max_mtu: Clamp
    timeouts: Timeouts

    init_restarts: bool
    """INIT while the link is up means that the partner restarted (Linux ignores it)."""
    checks_capabilities: bool
    """CAP RESP with a failure status or a useless value fails the link (Linux uses the values)."""
    waits_for_ready: bool
    """HMC interface messages before ``ready`` are dropped (Linux handles them)."""
    answers_stale_add: bool
    """ADD BUF of a wrong session is answered "closed" (Linux drops it without a word)."""
    ended_is_stale: bool
    """The session of a free slot is stale (Linux compares with the counter only, which outlives the session)."""
    answers_bad_index: bool
    """ADD BUF and REM BUF beyond the last index are answered also when they carry a session."""
    bad_response_resets: bool
    """OPEN RESP or CLOSE RESP beyond the last index (session 0) resets the whole CRQ (else: dropped)."""
    open_error_always_frees: bool
    """OPEN RESP with an error frees the slot in any state (else: only in ``opening``)."""
    checks_open_buffer: bool
    """OPEN RESP must name the buffer of the OPEN (Linux frees whatever buffer it names)."""
    close_always_frees: bool
    """CLOSE RESP frees (or resets) in any state (else: only in ``closing``)."""
    complains_of_signal: bool
    """SIGNAL with a bad index or id is answered by an ADD BUF RESP (a quirk: SIGNAL has no response)."""
    signals_while_closing: bool
    """SIGNAL is still taken between CLOSE and CLOSE RESP."""
    checks_add: bool
    """ADD BUF with an owner above 1 or outside the hypervisor's window is refused."""
    keeps_last_buffer: bool
    """The last partition-owned buffer of a live session is not given up to REM BUF."""
    drops_empty: bool
    """SIGNAL of length 0 is not queued: the buffer is taken and freed (Linux: read() returns 0).

    A length beyond the MTU never moves data in any dialect: the driver's newer versions refuse it as well."""
    frees_after_rdma_error: bool
    """A buffer whose H_COPY_RDMA failed is usable again (Linux loses it until the slot is reset)."""
    reset_spares_unopened: bool
    """A reset keeps the buffers of an index that was never opened, so its re-seed is refused as duplicate."""
    reset_leaves_readers: bool
    """Own reset and refused OPEN neither wake readers nor invalidate the fd."""
    close_keeps_initial: bool
    """close() of a slot that never sent its OPEN leaves the slot reserved until the next reset."""
    reset_closed_fails: bool
    """H_CLOSED at re-registration after an own reset fails the link (else: registered, wait for the partner)."""
    enables_after_suspend: bool
    """FF 06 is answered by H_ENABLE_CRQ and INIT (Linux waits for the partner's INIT)."""
    send_failure_stops: bool
    """A refused H_SEND_CRQ counts: H_DROPPED is retried, then the link is reset; H_CLOSED waits for INIT."""
    refused_copy_resets: bool
    """H_COPY_RDMA answered H_S_PARM or H_D_PARM: after the EIO the CRQ is reset, at most once a second (Linux: EIO)."""


HARDENED: Final = Dialect(
    name="hardened",
    status=LINUX_STATUS,
    max_hmcs=Clamp(1, 254),
    pool_size=Clamp(1, 0xFFFF),
    max_mtu=Clamp(32, 0x1000000),
    timeouts=Timeouts(),
    init_restarts=True,
    checks_capabilities=True,
    waits_for_ready=True,
    answers_stale_add=True,
    ended_is_stale=True,
    answers_bad_index=True,
    bad_response_resets=False,
    open_error_always_frees=False,
    checks_open_buffer=True,
    close_always_frees=False,
    complains_of_signal=False,
    signals_while_closing=False,
    checks_add=True,
    keeps_last_buffer=True,
    drops_empty=True,
    frees_after_rdma_error=True,
    reset_spares_unopened=False,
    reset_leaves_readers=False,
    close_keeps_initial=False,
    reset_closed_fails=False,
    enables_after_suspend=True,
    send_failure_stops=True,
    refused_copy_resets=True,
)
LOPAR: Final = replace(HARDENED, name="lopar", status=LOPAR_STATUS)
LINUX: Final = Dialect(
    name="linux",
    status=LINUX_STATUS,
    max_hmcs=Clamp(1, 2),
    pool_size=Clamp(16, 64),
    max_mtu=Clamp(4096, 16384),
    timeouts=NO_TIMEOUTS,
    init_restarts=False,
    checks_capabilities=False,
    waits_for_ready=False,
    answers_stale_add=False,
    ended_is_stale=False,
    answers_bad_index=False,
    bad_response_resets=True,
    open_error_always_frees=True,
    checks_open_buffer=False,
    close_always_frees=True,
    complains_of_signal=True,
    signals_while_closing=True,
    checks_add=False,
    keeps_last_buffer=False,
    drops_empty=False,
    frees_after_rdma_error=False,
    reset_spares_unopened=True,
    reset_leaves_readers=True,
    close_keeps_initial=True,
    reset_closed_fails=True,
    enables_after_suspend=False,
    send_failure_stops=False,
    refused_copy_resets=False,
)
DIALECTS: Final = {dialect.name: dialect for dialect in (HARDENED, LINUX, LOPAR)}
"""Dialects by the name that a topology uses."""
