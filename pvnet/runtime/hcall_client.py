"""A partition's hcalls over an endpoint: the caller's side of ``Hcall``/``HcallReply``.

The caller owns its memory, so the bytes that a call reads travel with it, and those it writes come back with the reply
and are stored only inside the window that the call named (docs/architecture.md, "one echo").  A hypervisor that has
confirmed that it maps the memory (:meth:`HcallClient.memory_mapped`) reads and writes it itself: nothing travels, and
until a call returns, the bytes that it names belong to it.  That holds for the incarnation that confirmed, whatever way
messages take; bytes that come back all the same are stored as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial

from pvnet.core.errors import DeadlineError, PeerDiedError, PvnetError
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import MemoryFault, Segment
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.retry import BusyRetry, wants_retry
from pvnet.papr.signatures import continued
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint

HcallDone = Callable[[int, tuple[int, ...]], None]
HCALL_TIMEOUT_S = 30.0
INLINE_BYTES = 0x10000
"""Most bytes that travel inside a call or its reply; longer copies are fetched or stored by MemoryRead/MemoryWrite."""
_COPY_RDMA = int(HcallOpcode.H_COPY_RDMA)
_TCES_MAX = 512
_PUT_TCE_INDIRECT = int(HcallOpcode.H_PUT_TCE_INDIRECT)


class HcallClient:
    """Issues hcalls of one partition to its hypervisor."""

    def __init__(self, endpoint: Endpoint, hypervisor: str, memory: Segment, windows: Mapping[int, DmaMemory]) -> None:
        self.endpoint = endpoint
        self.hypervisor = hypervisor
        self._memory = memory
        self._windows = windows
        self._mapped_by = 0
        self._under_way = 0
        self._idle: asyncio.Event | None = None

    @property
    def mapped(self) -> bool:
        """Whether the hypervisor that is there now maps our memory."""
        return self._mapped_by != 0 and self._mapped_by == self.endpoint.link.peer_incarnation(self.hypervisor)

    def memory_mapped(self, incarnation: int) -> None:
        """This incarnation of the hypervisor has confirmed that it maps our memory."""
        self._mapped_by = incarnation

    async def finish(self, timeout: float) -> None:
        """Wait until every call has been answered, but not longer than ``timeout`` seconds."""
        if self._under_way:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()

    def start(
        self,
        opcode: int,
        args: tuple[int, ...],
        done: HcallDone,
        *,
        problem_state: bool = False,
        if_gone: int = HcallRc.H_HARDWARE,
    ) -> None:
        """Issue one hcall; ``done(rc, outs)`` runs in order with the hypervisor's other messages.

        A hypervisor that answers nothing in 30 s shows as H_HARDWARE, which any hcall may return; one that is gone
        (and with it all that the partition had registered) as ``if_gone``.
        """
        envelope = Envelope()
        body = envelope.hcall
        body.opcode = opcode
        body.args.extend(args)
        body.problem_state = problem_state
        destination: tuple[DmaMemory, int, int] | None = None
        if opcode == _COPY_RDMA and len(args) >= 5:
            length, source_liobn, source_ioba, target_liobn, target_ioba = args[:5]
            source, target = self._windows.get(source_liobn), self._windows.get(target_liobn)
            if (
                source is not None
                and 0 < length <= INLINE_BYTES
                and not self.mapped
                and source.holds(source_ioba, length)
            ):
                body.memory = source.read(source_ioba, length)
            if target is not None:
                destination = (target, target_ioba, length)
        elif opcode == _PUT_TCE_INDIRECT and len(args) >= 4 and args[3] <= _TCES_MAX and self._tells_list():
            body.memory = (
                self._memory.read(args[2], args[3] * 8) if self._memory.contains(args[2], args[3] * 8) else b""
            )
        self._under_way += 1
        self.endpoint.call_back(
            self.hypervisor, envelope, HCALL_TIMEOUT_S, partial(self._returned, done, destination, if_gone)
        )

    def _tells_list(self) -> bool:
        """Whether a TCE list travels with its call: also where it need not, while somebody records.

        A recording of a partition that lacks its lists cannot be played: every window would be empty.
        """
        return not self.mapped or bool(self.endpoint.taps.listeners)

    def _returned(
        self,
        done: HcallDone,
        destination: tuple[DmaMemory, int, int] | None,
        if_gone: int,
        result: Envelope | PvnetError,
    ) -> None:
        self._under_way -= 1
        if isinstance(result, PvnetError):
            self.endpoint.counters["hcall_failed"] += 1
            done(int(if_gone) if isinstance(result, PeerDiedError) else int(HcallRc.H_HARDWARE), ())
        else:
            self._answered(done, destination, result)
        if self._idle is not None and not self._under_way:
            self._idle.set()

    def _answered(self, done: HcallDone, destination: tuple[DmaMemory, int, int] | None, result: Envelope) -> None:
        reply = result.hcall_reply
        rc = reply.rc
        if rc == 0 and reply.HasField("memory"):
            data = reply.memory
            if destination is None or len(data) != destination[2]:
                self.endpoint.counters["hcall_bad_memory"] += 1
                rc = int(HcallRc.H_HARDWARE)
            else:
                try:
                    destination[0].write(destination[1], data)
                except MemoryFault:
                    self.endpoint.counters["hcall_bad_memory"] += 1
                    rc = int(HcallRc.H_HARDWARE)
        done(rc, tuple(reply.outs))

    async def call(
        self,
        opcode: int,
        args: tuple[int, ...] = (),
        *,
        retry_busy: bool = True,
        timeout: float = HCALL_TIMEOUT_S,
        problem_state: bool = False,
    ) -> tuple[int, tuple[int, ...]]:
        """Issue an hcall and wait for it; with ``retry_busy`` repeat while it answers busy, as the codes ask.

        An hcall that takes a continuation token is repeated with the one it answered.

        Returns (rc, outs).  Cancellable at any point.

        Raises:
            DeadlineError: still busy after ``timeout`` seconds.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        retry: BusyRetry | None = None
        while True:
            future: asyncio.Future[tuple[int, tuple[int, ...]]] = loop.create_future()
            self.start(opcode, args, partial(_settle, future), problem_state=problem_state)
            rc, outs = await future
            if not retry_busy or not wants_retry(rc):
                return rc, outs
            retry = retry or BusyRetry(start, start + timeout)
            wait = retry.next(rc, loop.time())
            if wait is None:
                raise DeadlineError(f"{HcallOpcode(opcode)} is still busy after {timeout:g} s ({HcallRc(rc)})")
            await asyncio.sleep(wait)
            args = continued(opcode, args, outs)


def _settle(future: asyncio.Future[tuple[int, tuple[int, ...]]], rc: int, outs: tuple[int, ...]) -> None:
    if not future.done():
        future.set_result((rc, outs))
