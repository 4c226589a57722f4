"""The management partition at the other end of a broker; the runner of a VMC session is the hypervisor and its user.

The runner's memory of the partition is what a hypervisor knows of it: an element that the runner puts into the ring
goes out as ``CrqEntry`` (as ``MemoryWrite`` and ``Irq`` to a queue that is not registered), the bytes of a copy travel
with ``Hcall`` and ``HcallReply``, and a slot is free again here when it is over there.  After each input a load of the
partition's memory is waited for: messages keep their order, so everything that the input caused is here by then.

Time is the partition's own.  A Tick is not sent but waited for.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Final

from pvnet.client.conformance.hosted import GUEST, HYPERVISOR, Hosted
from pvnet.client.conformance.remote import Session
from pvnet.core.errors import LocalError, PvnetError
from pvnet.core.machine import Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import ELEMENT_BYTES
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, PowerOff, PowerOn, ShowStatus
from pvnet.pb.v1.papr_pb2 import CrqEntry, HcallReply, MemoryRead, MemoryWrite
from pvnet.pb.v1.papr_pb2 import Irq as IrqMessage
from pvnet.vmc.interface import (
    DeviceClose,
    DeviceDone,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Irq,
    LocalMemory,
    PartitionInput,
    PartitionOutput,
    Probe,
    Remove,
    VmcPartitionConfig,
)

_DEVICE_PATH: Final = "/dev/ibmvmc"
_DEVICE_S: Final = 3600.0
_TICK_S: Final = 5.0
"""How much later than announced the partition may wake up."""
_REG, _FREE, _COPY = int(HcallOpcode.H_REG_CRQ), int(HcallOpcode.H_FREE_CRQ), int(HcallOpcode.H_COPY_RDMA)


class RemotePartition:
    """:class:`~pvnet.capture.vmc_check.PartitionMachine` over a broker; ``memory`` as the module's text says."""

    def __init__(self, session: Session, config: VmcPartitionConfig, memory: LocalMemory) -> None:
        self._session = session
        self._config = config
        self._memory = memory
        self._remote = session.host(Hosted(vmc=config), us=HYPERVISOR, them=GUEST)
        self._outputs: list[PartitionOutput] = []
        self._something = asyncio.Event()
        self._problem: PvnetError | None = None
        self._calls: dict[int, Envelope] = {}
        self._tag = 0
        self._slot = 0
        self._slots = config.crq_bytes // ELEMENT_BYTES
        self._registration = 0
        self._is_registered = False
        self._full: deque[int] = deque()
        """Addresses of the slots that the partition has not cleared yet, as far as we know, in their order."""
        self._remote.endpoint.on("hcall", self._hcall)
        self._remote.endpoint.on("crq_progress", lambda _: None)  # we look ourselves

    # What the runner calls

    def feed(self, event: PartitionInput, now: float) -> list[PartitionOutput]:  # noqa: ARG002 - its clock is its own
        """Have one input happen there and return its consequences in order."""
        return self._session.wait(self._feed(event))

    def deadline(self) -> float | None:
        """0 when it waits for a time to pass, or has just seen it pass; else ``None``."""
        tick_in = self._session.wait(self._tick_in())
        return 0.0 if tick_in is not None or self._outputs else None

    # On the loop

    async def _feed(self, event: PartitionInput) -> list[PartitionOutput]:
        if isinstance(event, Tick):
            await self._wait_awake()
        else:
            self._send(event)
        await self._settle()
        if self._problem is not None:
            raise self._problem
        outputs, self._outputs = self._outputs, []
        self._something.clear()
        return outputs

    async def _tick_in(self) -> float | None:
        reply = await self._remote.ask(Envelope(management=Management(show_status=ShowStatus())))
        tick_in: float | None = json.loads(reply.management_reply.status_json)["tick_in_s"]
        return tick_in

    async def _wait_awake(self) -> None:
        """Wait until the partition has done something because of the time."""
        wait = await self._tick_in()
        if wait is not None:
            try:
                async with asyncio.timeout(wait + _TICK_S):
                    await self._something.wait()
            except TimeoutError:
                pass  # the comparison that follows says what did not come

    async def _settle(self) -> None:
        """Wait for all that was caused so far, and learn which slots of the ring have been cleared."""
        while True:
            address = self._full[0] if self._full else self._config.crq_ioba
            reply = await self._remote.ask(Envelope(memory_read=MemoryRead(address=address, length=1)))
            if not self._full or self._full[0] != address or reply.memory_reply.data != b"\0":
                return
            self._memory.write(address, b"\0")
            self._full.popleft()
            if not self._full:
                return

    def _send(self, event: PartitionInput) -> None:
        """Say an input in messages."""
        match event:
            case Probe():
                self._command(Management(power_on=PowerOn(name=GUEST)))
            case Remove():
                self._command(Management(power_off=PowerOff(name=GUEST)))
            case Irq():
                self._irq()
            case HcallReturned(tag, rc, outs):
                self._returned(tag, rc, outs)
            case _:
                self._device(event)

    def _command(self, command: Management) -> None:
        self._call(Envelope(management=command), lambda _: None)

    def _call(self, envelope: Envelope, done: Callable[[Envelope], None]) -> None:
        def answered(result: Envelope | PvnetError) -> None:
            if isinstance(result, PvnetError):
                self._problem = self._problem or result
            else:
                done(result)

        self._remote.endpoint.call_back(self._remote.node, envelope, _DEVICE_S, answered)

    def _irq(self) -> None:
        """The runner has put an element into the next slot."""
        address = self._config.crq_ioba + self._slot * ELEMENT_BYTES
        element = self._memory.read(address, ELEMENT_BYTES)
        if self._is_registered:
            entry = CrqEntry(unit=self._config.unit, registration=self._registration, slot=self._slot, element=element)
            entry.irq = True
            self._remote.endpoint.post(self._remote.node, Envelope(crq_entry=entry))
        else:  # recorded hypervisors send also to a queue that they have refused
            self._call(Envelope(memory_write=MemoryWrite(address=address, data=element)), lambda _: None)
            self._remote.endpoint.post(self._remote.node, Envelope(irq=IrqMessage(unit=self._config.unit)))
        self._slot = (self._slot + 1) % self._slots
        if element[0]:
            self._full.append(address)

    def _hcall(self, envelope: Envelope) -> None:
        body = envelope.hcall
        args = tuple(body.args)
        self._tag += 1
        self._calls[self._tag] = envelope
        if body.opcode in {_REG, _FREE}:
            self._is_registered = False
        if body.opcode == _REG:
            self._slot = 0
            self._full.clear()
            self._memory.write(self._config.crq_ioba, bytes(self._config.crq_bytes))
        elif body.opcode == _COPY and body.HasField("memory"):
            self._memory.write(args[2], body.memory)
        self._outputs.append(CallHypervisor(self._tag, body.opcode, args))
        self._something.set()

    def _returned(self, tag: int, rc: int, outs: tuple[int, ...]) -> None:
        call = self._calls.pop(tag)
        reply = HcallReply(rc=rc, outs=outs)
        args = call.hcall.args
        if call.hcall.opcode == _REG and rc in {HcallRc.H_SUCCESS, HcallRc.H_CLOSED}:
            self._registration += 1
            self._is_registered = True
        elif call.hcall.opcode == _COPY and rc == HcallRc.H_SUCCESS and args[3] == self._config.lliobn:
            reply.memory = self._memory.read(args[4], args[0])
        self._remote.endpoint.reply(call, Envelope(hcall_reply=reply))

    def _device(self, event: PartitionInput) -> None:
        request, call = _device_call(event)

        def done(reply: Envelope) -> None:
            self._outputs.append(DeviceDone(request, reply.device_reply.result, reply.device_reply.data))
            self._something.set()

        self._call(Envelope(device_io=call), done)


def _device_call(event: PartitionInput) -> tuple[int, DeviceIo]:
    """Return a device input's request number and message."""
    match event:
        case DeviceOpen(request):
            return request, DeviceIo(operation=DeviceIo.OPEN, path=_DEVICE_PATH)
        case DeviceIoctl(request, handle, command, data):
            return request, DeviceIo(operation=DeviceIo.IOCTL, handle=handle, command=command, data=data)
        case DeviceRead(request, handle, count, nonblock):
            return request, DeviceIo(operation=DeviceIo.READ, handle=handle, count=count, nonblock=nonblock)
        case DeviceWrite(request, handle, data):
            return request, DeviceIo(operation=DeviceIo.WRITE, handle=handle, data=data)
        case DevicePoll(request, handle, nonblock):
            return request, DeviceIo(operation=DeviceIo.POLL, handle=handle, nonblock=nonblock)
        case DeviceClose(request, handle):
            return request, DeviceIo(operation=DeviceIo.CLOSE, handle=handle)
    raise LocalError(f"{event!r} does not go over a broker")
