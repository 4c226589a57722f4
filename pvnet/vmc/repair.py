"""When refused copies mean that the link is gone, and how often that may reset the CRQ.

The hypervisor can end the pair of queues without a word: H_FREE_CRQ issued beside the driver, for example.  Nothing is
sent then that could be answered H_CLOSED, because every message starts with an H_COPY_RDMA, and that is refused.  A
partition that takes this for the message's own failure says ``ready`` and answers EIO for ever.

The rule: a copy of a live session that is answered H_S_PARM or H_D_PARM says that one of its operands is no memory the
partition may use now, so the pair behind pane 2 is gone.  The application's call ends with EIO and its buffer is free
again, as for every failed copy; then the CRQ is reset (H_FREE_CRQ, H_REG_CRQ, INIT) and all sessions end (EBADFD).

::

    copy refused --first, or the last reset is long enough ago--> reset now
                 --else--> reset when it is, unless a copy succeeds or the link is lost before

Two resets are :data:`FIRST_PAUSE_S` apart at least; while no copy succeeds in between, twice as long each time, up to
:data:`MAX_PAUSE_S`: a hypervisor that refuses every copy costs one reset in 30 seconds.

Doubts decided.  H_PERMISSION, H_HARDWARE and every other failure of a copy stay plain EIO and the session lives on: a
page that is not mapped or a memory that fails is not mended by another registration.  The answer to a copy of a session
that has ended since says nothing about the present link.

Spec: vmc 7, 8.1; LoPAR ch. 17 "H_COPY_RDMA".  The Linux driver has nothing of this.
"""

from __future__ import annotations

from typing import Final

from pvnet.papr.hcall import HcallRc

FIRST_PAUSE_S: Final = 1.0
"""Least time between two resets, in seconds."""
MAX_PAUSE_S: Final = 30.0
"""Most that the pause grows to, in seconds."""
LINK_IS_GONE: Final = frozenset({int(HcallRc.H_S_PARM), int(HcallRc.H_D_PARM)})
"""Return codes of H_COPY_RDMA that only a broken pair (or operands that never were valid) explains."""


class LinkRepair:
    """Decides when a reset is due; see the module's text.  Times are those of the machine, in seconds."""

    def __init__(self) -> None:
        self.due: float | None = None
        """When the CRQ is to be reset because of refused copies."""
        self._begun: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._is_in_vain = False

    def copied(self, rc: int, now: float) -> None:
        """Take the answer to a copy of a live session."""
        if rc in LINK_IS_GONE:
            if self.due is None:
                self.due = now if self._begun is None else max(now, self._begun + self._pause_s)
        elif rc == HcallRc.H_SUCCESS:
            self.due = None
            self._pause_s = FIRST_PAUSE_S
            self._is_in_vain = False

    def begin(self, now: float) -> None:
        """Note that the reset which was due is under way."""
        if self._is_in_vain:
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        self._is_in_vain = True
        self._begun = now
        self.due = None

    def forget(self) -> None:
        """The link is not up any more: what was refused before does not matter."""
        self.due = None
