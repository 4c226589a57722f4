"""SCM in a partition: one driver per device, its command device ``/dev/nmemN`` and its blocks ``/dev/pmemN``.

The driver is :class:`~pvnet.scm.guest.ScmGuest` (what Linux' ``papr_scm`` does).  The blocks are memory of the
partition once they are bound; the hypervisor keeps them in a file, so over a broker they are reached by MemoryRead and
MemoryWrite at the bound address.  A write has happened when it is answered; it is durable when a later FLUSH has
succeeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, assert_never

from pvnet.core.errors import PvnetError
from pvnet.core.machine import Note
from pvnet.memory.segment import Segment
from pvnet.papr import device_io as io
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.errno import EINVAL, EIO, ENXIO
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.driver import Driver
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import INLINE_BYTES, HcallClient
from pvnet.runtime.topology import HYPERVISOR
from pvnet.scm.guest import RESTING, ScmGuest
from pvnet.scm.guest_interface import (
    HARDENED_GUEST,
    ScmBound,
    ScmGuestConfig,
    ScmGuestOutput,
    ScmGuestPolicy,
    ScmUnbound,
)
from pvnet_services.device_files import AdapterDriver, Done

NMEM_PATH: Final = "/dev/nmem"
PMEM_PATH: Final = "/dev/pmem"
_MEMORY_TIMEOUT_S: Final = 30.0

DeviceDone = Callable[[AdapterDriver, int, int, bytes], None]


class ScmAdapter:
    """One device of a partition; ``done`` hears what the driver answers to device calls."""

    def __init__(
        self,
        endpoint: Endpoint,
        hcalls: HcallClient,
        memory: Segment,
        config: ScmGuestConfig,
        done: DeviceDone,
        policy: ScmGuestPolicy = HARDENED_GUEST,
    ) -> None:
        self.machine = ScmGuest(config, memory, policy)
        self.driver = Driver[io.AdapterInput, ScmGuestOutput](self.machine, self._carry_out)
        self.rested = asyncio.Event()
        """The driver has come to an end of its probe: it is ready, or has failed."""
        self._address: int | None = None
        self._size_bytes = 0
        self._endpoint = endpoint
        self._hcalls = hcalls
        self._done = done

    def _carry_out(self, output: ScmGuestOutput) -> None:
        match output:
            case CallHypervisor(tag, opcode, args):
                self._hcalls.start(opcode, args, partial(self._returned, tag))
            case io.DeviceDone(request, result, data):
                self._done(self.driver, request, result, data)
            case ScmBound(address, size_bytes):
                self._address, self._size_bytes = address, size_bytes
            case ScmUnbound():
                self._address = None
            case Note():
                self._endpoint.note(output, drc=f"{self.machine.config.drc:#x}")
            case _:
                assert_never(output)

    def _returned(self, tag: int, rc: int, outs: tuple[int, ...]) -> None:
        self.driver.feed(HcallReturned(tag, rc, outs))
        if self.machine.state in RESTING:
            self.rested.set()

    def block_call(self, call: DeviceIo, done: Done) -> None:
        """Read or write the blocks at ``call.offset``: at most 64 KiB a call, short at the end of the device."""
        is_read = call.operation == DeviceIo.READ
        length = call.count if is_read else len(call.data)
        if call.operation not in {DeviceIo.READ, DeviceIo.WRITE} or length > INLINE_BYTES:
            done(-EINVAL, b"")
            return
        if self._address is None:
            done(-ENXIO, b"")
            return
        length = max(0, min(length, self._size_bytes - call.offset))
        if not length:
            done(0, b"")
            return
        envelope = Envelope()
        if is_read:
            envelope.memory_read.address = self._address + call.offset
            envelope.memory_read.length = length
        else:
            envelope.memory_write.address = self._address + call.offset
            envelope.memory_write.data = call.data[:length]
        self._endpoint.call_back(HYPERVISOR, envelope, _MEMORY_TIMEOUT_S, partial(_memory_done, length, done))

    def status(self) -> dict[str, object]:
        """Numbers for ``show_status``."""
        config = self.machine.config
        return {
            "drc": config.drc,
            "state": self.machine.state.name.lower(),
            "problem": self.machine.problem,
            "address": self._address,
            "size_bytes": config.size_bytes,
            "block_size": config.block_size,
            "metadata_size": config.metadata_size,
            "counters": dict(self.machine.counters),
        }


def _memory_done(length: int, done: Done, result: Envelope | PvnetError) -> None:
    if isinstance(result, PvnetError):
        done(-EIO, b"")
    elif result.memory_reply.error:
        done(-result.memory_reply.error, b"")
    else:
        done(length, result.memory_reply.data)
