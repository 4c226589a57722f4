"""The partition alone with a scripted hypervisor: every hcall answered by the test, elements stored by hand."""

from __future__ import annotations

from collections import deque

from pvnet.core.machine import Tick
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.crq import encode_init_complete, from_words
from pvnet.papr.hcall import HcallOpcode
from pvnet.vmc.dialect import HARDENED, Dialect
from pvnet.vmc.interface import DeviceDone, DeviceIoctl, DeviceOpen, Irq, Probe, VmcPartitionConfig
from pvnet.vmc.messages import AddBuffer, CapabilitiesResponse, OpenResponse, VmcMessage, decode_vmc, encode_vmc
from pvnet.vmc.partition import VmcPartition

SETHMCID, QUERY, REQUESTVMC = 0x4008CC00, 0x800CCC01, 0x8004CC02
RDMA = HcallOpcode.H_COPY_RDMA


class Bytes:
    """Flat memory: I/O address is offset."""

    def __init__(self, size: int) -> None:
        self.raw = bytearray(size)

    def read(self, ioba: int, n: int) -> bytes:
        return bytes(self.raw[ioba : ioba + n])

    def write(self, ioba: int, data: bytes) -> None:
        self.raw[ioba : ioba + len(data)] = data


class Scripted:
    """See the module's text.  H_COPY_RDMA waits in ``copies`` while ``holds``; other hcalls answer ``rcs`` or 0."""

    def __init__(self, dialect: Dialect = HARDENED, **config: object) -> None:
        fields = {"crq_ioba": 0x1000, "buffer_ioba": 0x2000, "buffer_bytes": 0x100000} | config
        self.memory = Bytes(0x110000)
        self.machine = VmcPartition(
            VmcPartitionConfig(unit=0x2000, lliobn=1, rliobn=2, dialect=dialect, **fields), self.memory
        )
        self.now = 0.0
        self.holds = False
        self.rcs: dict[int, deque[int]] = {}
        self.outs: dict[int, tuple[int, ...]] = {HcallOpcode.H_REQUEST_VMC: (0x30000002,)}
        self.copies: deque[CallHypervisor] = deque()
        self.hcalls: list[CallHypervisor] = []
        self.sent: list[object] = []
        self.done: dict[int, DeviceDone] = {}
        self.notes: list[object] = []
        self.slot = 0
        self._request = 0

    def feed(self, event: object) -> None:
        for output in self.machine.feed(event, self.now):  # type: ignore[arg-type]
            match output:
                case CallHypervisor():
                    self._call(output)
                case DeviceDone():
                    assert output.request not in self.done
                    self.done[output.request] = output
                case _:
                    self.notes.append(output)

    def _call(self, call: CallHypervisor) -> None:
        self.hcalls.append(call)
        if call.opcode == HcallOpcode.H_SEND_CRQ:
            raw = from_words(*call.args[1:])
            self.sent.append(decode_vmc(raw) if raw[0] == 0x80 else raw[:2].hex())
        if call.opcode == HcallOpcode.H_REG_CRQ:
            self.slot = 0
        if call.opcode == RDMA and self.holds:
            self.copies.append(call)
            return
        self.answer(call)

    def answer(self, call: CallHypervisor, rc: int | None = None) -> None:
        if rc is None:
            rcs = self.rcs.get(call.opcode)
            rc = rcs.popleft() if rcs else 0
        self.feed(HcallReturned(call.tag, rc, self.outs.get(call.opcode, ())))

    def fail(self, opcode: int, *rcs: int) -> None:
        self.rcs[opcode] = deque(rcs)

    def put(self, element: VmcMessage | bytes) -> None:
        raw = element if isinstance(element, bytes) else encode_vmc(element)
        self.memory.write(0x1000 + self.slot * 16, raw)
        self.slot = (self.slot + 1) % 256

    def hear(self, *elements: VmcMessage | bytes) -> list[object]:
        """The hypervisor says these; returns what the partition sent meanwhile."""
        before = len(self.sent)
        for element in elements:
            self.put(element)
        self.feed(Irq())
        return self.sent[before:]

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())

    def up(self, hmcs: int = 1, mtu: int = 4096, pool: int = 32, seeds: int = 1) -> Scripted:
        """Probe, handshake, capabilities, and ``seeds`` buffers of our own per index."""
        self.feed(Probe())
        self.hear(encode_init_complete())
        self.hear(CapabilitiesResponse(hmcs, pool, mtu, 256))
        for index in range(hmcs):
            for buffer_id in range(seeds):
                self.hear(AddBuffer(0, index, buffer_id, 0, 0x10000 + buffer_id * 0x1000))
        return self

    def ask(self, kind: type, *args: object, **kwargs: object) -> int:
        self._request += 1
        self.feed(kind(self._request, *args, **kwargs))
        return self._request

    def call(self, kind: type, *args: object, **kwargs: object) -> DeviceDone:
        return self.done[self.ask(kind, *args, **kwargs)]

    def open(self) -> int:
        return self.call(DeviceOpen).result

    def set_id(self, handle: int, data: bytes = bytes(32)) -> int:
        return self.call(DeviceIoctl, handle, SETHMCID, data).result

    def session(self) -> int:
        """An open file whose session is ready, with one more buffer of each owner (ids 1 and 2)."""
        handle = self.open()
        assert self.set_id(handle) == 0
        opened = self.sent[-1]
        session, index = opened.session, opened.index
        self.hear(AddBuffer(session, index, 1, 0, 0x21000), AddBuffer(session, index, 2, 1, 0x22000))
        self.hear(OpenResponse(0, session, index, opened.buffer_id))
        return handle

    @property
    def counters(self):
        return self.machine.counters

    @property
    def slots(self):
        return self.machine.sessions.connections.slots
