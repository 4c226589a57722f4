"""Both ends of a VMC joined by the real platform machine, in one process, step by step.

Nothing moves by itself: hcalls wait in ``calls``, their answers in ``answers``, what the partition sent waits in
``elements``, and interrupts in ``irq``.  ``settle`` moves everything until all is quiet, oldest first; a test may move
single pieces in any order instead.
"""

from __future__ import annotations

from collections import deque

from pvnet.core.machine import Tick
from pvnet.memory.dma import DmaMemory
from pvnet.memory.segment import Segment
from pvnet.memory.window import DmaWindow
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import from_words
from pvnet.papr.hcall import HcallOpcode
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    AdapterConfig,
    CrqConsumed,
    HcallRequest,
    HcallResult,
    PartitionConfig,
    PartitionDied,
    PartitionStarted,
    PartnerElement,
    PartnerRegistered,
    PlatformConfig,
    RaiseIrq,
)
from pvnet.vmc import hypervisor_io as hv
from pvnet.vmc.dialect import HARDENED, Dialect
from pvnet.vmc.hypervisor import VmcHypervisor
from pvnet.vmc.interface import (
    CrqProgress,
    DeviceClose,
    DeviceDone,
    DeviceIoctl,
    DeviceOpen,
    DevicePoll,
    DeviceRead,
    DeviceWrite,
    Irq,
    Probe,
    Remove,
    VmcPartitionConfig,
)
from pvnet.vmc.partition import VmcPartition

NAME = "mgmt"
UNIT = 0x30000002
LLIOBN, RLIOBN = 0x19000002, 0x13000002
DRC = 0x30000002
SETHMCID, QUERY, REQUESTVMC = 0x4008CC00, 0x800CCC01, 0x8004CC02
OUR_TAGS = 1 << 40


class Pair:
    """One partition, one hypervisor, one platform; see the module's text."""

    def __init__(
        self,
        dialect: Dialect = HARDENED,
        *,
        hypervisor: hv.VmcHypervisorConfig | None = None,
        buffer_bytes: int = 0x40000,
        hypervisor_up: bool = True,
        **partition: object,
    ) -> None:
        self.now = 0.0
        self.memory_bytes = 0x2000 + buffer_bytes
        self.remote_bytes = 0x80000
        self.hv_config = hypervisor or hv.VmcHypervisorConfig(
            buffer_ioba=0x10000, buffer_bytes=self.remote_bytes - 0x10000, crq_size=128, offers_at_once=1,
            alpha_buffers=1, hypervisor_buffers=1,
        )  # fmt: skip
        self.mp_config = VmcPartitionConfig(
            unit=UNIT, lliobn=LLIOBN, rliobn=RLIOBN, crq_ioba=0x1000, buffer_ioba=0x2000, buffer_bytes=buffer_bytes,
            dialect=dialect, remote_bytes=self.remote_bytes, **partition,
        )  # fmt: skip
        self.platform = Platform(
            PlatformConfig(
                (
                    PartitionConfig(
                        NAME,
                        self.memory_bytes,
                        (
                            AdapterConfig(
                                UNIT,
                                liobn=LLIOBN,
                                window_bytes=self.memory_bytes,
                                remote_liobn=RLIOBN,
                                remote_window_bytes=self.remote_bytes,
                            ),
                        ),
                        vmc_drc_index=DRC,
                    ),
                )
            )
        )
        self.calls: deque[CallHypervisor] = deque()
        self.answers: deque[HcallReturned] = deque()
        self.elements: deque[bytes] = deque()
        self.irq = False
        self.done: dict[int, DeviceDone] = {}
        self.events: list[object] = []
        self.log: list[tuple[object, ...]] = []
        self.sent_by_partition = 0
        self.in_flight: set[int] = set()
        self._request = 0
        self._tag = OUR_TAGS
        self.start_partition()
        self.hypervisor = VmcHypervisor(self.hv_config, self.platform.hypervisor_memory(NAME, UNIT))
        self.hypervisor_up = False
        if hypervisor_up:
            self.start_hypervisor(greet=False)

    # Lives

    def start_partition(self) -> None:
        """A fresh partition: new memory, mapped windows, a new machine (not probed)."""
        segment = Segment(bytearray(self.memory_bytes))
        window = DmaWindow(LLIOBN, self.memory_bytes)
        window.map(0, 0, self.memory_bytes)
        self.memory = DmaMemory(segment, window)
        self.calls.clear()
        self.answers.clear()
        self.in_flight.clear()
        self.irq = False
        self._platform(self.platform.feed(PartitionStarted(NAME, segment), self.now))
        for page in range(0, self.memory_bytes, 4096 * 512):
            count = min(512, (self.memory_bytes - page) // 4096)
            self.memory.write(0, b"".join((at | 3).to_bytes(8, "big") for at in range(page, page + count * 4096, 4096)))
            self.hcall(HcallOpcode.H_PUT_TCE_INDIRECT, LLIOBN, page, 0, count)
        self.memory.write(0, bytes(4096))
        self.partition = VmcPartition(self.mp_config, self.memory)

    def kill_partition(self) -> None:
        """The partition's process dies: what it had asked for is lost with it."""
        self.calls.clear()
        self.answers.clear()
        self.irq = False
        self._platform(self.platform.feed(PartitionDied(NAME), self.now))

    def start_hypervisor(self, *, greet: bool) -> None:
        """The hypervisor's own end comes up, with a fresh machine that greets a partition that is there already."""
        self.hypervisor = VmcHypervisor(self.hv_config, self.platform.hypervisor_memory(NAME, UNIT))
        self.elements.clear()
        self.hypervisor_up = True
        self._platform(self.platform.partner_register(NAME, UNIT))
        if greet:
            self._hypervisor(self.hypervisor.feed(hv.PartnerUp(256, greet=True), self.now))

    def kill_hypervisor(self) -> None:
        """The hypervisor's own end dies: the partition gets FF 01."""
        self.hypervisor_up = False
        self.elements.clear()
        self._platform(self.platform.partner_free(NAME, UNIT, failed=True))

    # Moving single pieces

    def feed(self, event: object) -> list[object]:
        """Feed the partition; its outputs are spread and returned."""
        outputs = self.partition.feed(event, self.now)  # type: ignore[arg-type]
        for output in outputs:
            match output:
                case CallHypervisor():
                    self.calls.append(output)
                    self.in_flight.add(output.tag)
                case DeviceDone():
                    assert output.request not in self.done, "a request ends once"
                    self.done[output.request] = output
                case CrqProgress(consumed):
                    registration = self._adapter().registration
                    self._platform(self.platform.feed(CrqConsumed(NAME, UNIT, registration, consumed), self.now))
        return list(outputs)

    def feed_hypervisor(self, event: object) -> list[object]:
        """Feed the hypervisor; its outputs are spread and returned."""
        return self._hypervisor(self.hypervisor.feed(event, self.now))  # type: ignore[arg-type]

    def step_call(self) -> None:
        """The platform performs the oldest hcall."""
        call = self.calls.popleft()
        if call.opcode == HcallOpcode.H_SEND_CRQ:
            self.log.append(("mp", from_words(*call.args[1:]).hex(), self.sent_by_partition))
        else:
            self.log.append((HcallOpcode(call.opcode).name, *call.args))
        self._platform(self.platform.feed(HcallRequest(NAME, call.tag, call.opcode, call.args), self.now))

    def step_answer(self, at: int = 0) -> None:
        """The partition gets an hcall's answer."""
        answer = self.answers[at]
        del self.answers[at]
        self.in_flight.discard(answer.tag)
        self.feed(answer)

    def step_element(self) -> None:
        """The hypervisor handles the oldest element that the partition sent."""
        element = self.elements.popleft()
        self.feed_hypervisor(hv.PartnerElement(element))

    def step_irq(self) -> None:
        """The partition looks at its queue."""
        self.irq = False
        self.feed(Irq())

    def step(self) -> bool:
        """Move one piece; false when all is quiet."""
        if self.calls:
            self.step_call()
        elif self.answers:
            self.step_answer()
        elif self.irq:
            self.step_irq()
        elif self.elements:
            self.step_element()
        else:
            return False
        return True

    def settle(self, limit: int = 10_000) -> None:
        """Move everything until all is quiet."""
        while self.step():
            limit -= 1
            assert limit, "never quiet"

    def tick(self, seconds: float) -> None:
        """Let time pass; every machine that wants a Tick gets it at its time."""
        end = self.now + seconds
        while True:
            machines = (self.partition, self.platform, *((self.hypervisor,) if self.hypervisor_up else ()))
            due = min((d for m in machines if (d := m.deadline()) is not None), default=None)
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.tick_now()
            self.settle()
        self.now = end

    def tick_now(self) -> None:
        self.feed(Tick())
        if self.hypervisor_up:
            self.feed_hypervisor(Tick())
        self._platform(self.platform.feed(Tick(), self.now))

    # The application

    def ask(self, kind: type, *args: object, **kwargs: object) -> int:
        """Feed a device call; returns its request number."""
        self._request += 1
        self.feed(kind(self._request, *args, **kwargs))
        return self._request

    def call(self, kind: type, *args: object, **kwargs: object) -> DeviceDone:
        """A device call that must end once all is quiet."""
        request = self.ask(kind, *args, **kwargs)
        self.settle()
        return self.done[request]

    def open(self) -> int:
        return self.call(DeviceOpen).result

    def ioctl(self, handle: int, command: int, data: bytes = b"") -> DeviceDone:
        return self.call(DeviceIoctl, handle, command, data)

    def set_hmc_id(self, handle: int, name: str = "hmcless id") -> int:
        return self.ioctl(handle, SETHMCID, name.encode().ljust(32, b"\0")).result

    def write(self, handle: int, data: bytes) -> int:
        return self.call(DeviceWrite, handle, data).result

    def read(self, handle: int, count: int = 4096) -> DeviceDone:
        return self.call(DeviceRead, handle, count, nonblock=True)

    def poll(self, handle: int) -> int:
        return self.call(DevicePoll, handle, nonblock=True).result

    def close(self, handle: int) -> int:
        return self.call(DeviceClose, handle).result

    def probe(self) -> None:
        self.feed(Probe())
        self.settle()

    def remove(self) -> None:
        self.feed(Remove())
        self.settle()

    def session(self, name: str = "hmcless id") -> int:
        """An open file with a session that is ready."""
        handle = self.open()
        assert self.set_hmc_id(handle, name) == 0
        return handle

    def send(self, index: int, payload: bytes) -> list[object]:
        """The hypervisor sends a message to the present session of ``index``."""
        outputs = self.feed_hypervisor(hv.SendMessage(index, self.hypervisor.indices[index].session, payload))
        self.settle()
        return outputs

    def hcall(self, opcode: int, *args: int) -> HcallResult:
        """An hcall of the partition outside its machine."""
        self._tag += 1
        outputs = self.platform.feed(HcallRequest(NAME, self._tag, opcode, args), self.now)
        result = next(o for o in outputs if isinstance(o, HcallResult) and o.tag == self._tag)
        assert result.rc == 0, result
        self._platform([o for o in outputs if o is not result])
        return result

    # Spreading outputs

    def _adapter(self):
        return self.platform._partitions[NAME].adapters[UNIT]

    def _platform(self, outputs: list[object]) -> None:
        for output in outputs:
            match output:
                case HcallResult(_, tag, rc, outs, _):
                    self.answers.append(HcallReturned(tag, rc, outs))
                case RaiseIrq():
                    self.irq = True
                case PartnerElement(_, _, element):
                    self.sent_by_partition += 1
                    if self.hypervisor_up:
                        self.elements.append(element)
                case PartnerRegistered(_, _, slots):
                    self.sent_by_partition = 0
                    if self.hypervisor_up:
                        self.feed_hypervisor(hv.PartnerUp(slots))

    def _hypervisor(self, outputs: list[object]) -> list[object]:
        for output in outputs:
            match output:
                case hv.PostElement(element):
                    self.log.append(("hv", element.hex()))
                    self._platform(self.platform.partner_post(NAME, UNIT, element))
                case hv.ResetLink():
                    self.elements.clear()
                    self._platform(self.platform.partner_free(NAME, UNIT))
                    self._platform(self.platform.partner_register(NAME, UNIT))
                    self.events.append(output)
                case _:
                    self.events.append(output)
        return outputs
