"""A guest driver of one SCM device whose hypervisor is the test: answers are given one by one or by a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pvnet.core.machine import Note, Tick
from pvnet.memory.segment import Segment
from pvnet.papr.calls import CallHypervisor, HcallReturned
from pvnet.papr.device_io import DeviceClose, DeviceDone, DeviceInterrupt, DeviceIoctl, DeviceOpen, Probe, Remove
from pvnet.papr.hcall import HcallOpcode
from pvnet.scm import stats
from pvnet.scm.guest import ScmGuest
from pvnet.scm.guest_interface import HARDENED_GUEST, ScmGuestConfig, ScmGuestPolicy

H = HcallOpcode
DRC = 0x90000000
BASE = 0x100000000
CONFIG = ScmGuestConfig(DRC, blocks=4, block_size=0x10000000, metadata_size=0x20000, stats_address=0x1000)

Hypervisor = Callable[[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]


class Rig:
    """The machine, a clock, everything it said, and the calls that nobody answered yet."""

    def __init__(
        self, policy: ScmGuestPolicy = HARDENED_GUEST, config: ScmGuestConfig = CONFIG, **changes: Any
    ) -> None:
        self.memory = Segment(bytearray(0x4000))
        self.guest = ScmGuest(replace(config, **changes), self.memory, policy)
        self.now = 0.0
        self.said: list[object] = []
        self.open_calls: list[CallHypervisor] = []
        self.made: list[tuple[HcallOpcode, tuple[int, ...]]] = []
        self.requests = 0

    def feed(self, event: Any) -> list[object]:
        outputs: list[object] = list(self.guest.feed(event, self.now))
        self.said += outputs
        for output in outputs:
            if isinstance(output, CallHypervisor):
                self.open_calls.append(output)
                self.made.append((HcallOpcode(output.opcode), output.args))
        return outputs

    def answer(self, rc: int, *outs: int) -> list[object]:
        """Answer the oldest open call."""
        return self.feed(HcallReturned(self.open_calls.pop(0).tag, rc, outs))

    def sleep(self) -> None:
        """Let the time pass that the machine waits for."""
        due = self.guest.deadline()
        assert due is not None, "nothing to wait for"
        self.now = max(self.now, due)
        self.feed(Tick())

    def run(self, hypervisor: Hypervisor, steps: int = 100_000) -> None:
        """Answer calls and let time pass until the machine is quiet."""
        for _ in range(steps):
            if self.open_calls:
                call = self.open_calls[0]
                rc, outs = hypervisor(call.opcode, call.args)
                self.answer(rc, *outs)
            elif self.guest.deadline() is not None:
                self.sleep()
            else:
                return
        raise AssertionError(f"still busy after {steps} steps: {self.guest.state.name}")

    def take(self, kind: type) -> list[Any]:
        """Everything of a kind that was said since the last time."""
        found = [output for output in self.said if isinstance(output, kind)]
        self.said = [output for output in self.said if not isinstance(output, kind)]
        return found

    def notes(self) -> list[str]:
        return [note.event for note in self.take(Note)]

    # Calls of programs

    def open(self) -> int:
        self.requests += 1
        self.feed(DeviceOpen(self.requests))
        return self.result()[0]

    def result(self) -> tuple[int, bytes]:
        """The last device call's result."""
        done = self.take(DeviceDone)
        assert done, "the call has not ended"
        return done[-1].result, done[-1].data

    def start(self, handle: int, command: int, data: bytes = b"") -> int:
        self.requests += 1
        self.feed(DeviceIoctl(self.requests, handle, command, data))
        return self.requests

    def interrupt(self, request: int) -> None:
        self.feed(DeviceInterrupt(request))

    def close(self, handle: int) -> int:
        self.requests += 1
        self.feed(DeviceClose(self.requests, handle))
        return self.result()[0]

    def ioctl(self, hypervisor: Hypervisor, handle: int, command: int, data: bytes = b"") -> tuple[int, bytes]:
        self.start(handle, command, data)
        self.run(hypervisor)
        return self.result()

    def probe(self, hypervisor: Hypervisor) -> None:
        self.feed(Probe())
        self.run(hypervisor)

    def remove(self, hypervisor: Hypervisor) -> None:
        self.feed(Remove())
        self.run(hypervisor)


class PlainHypervisor:
    """The least that a guest needs: always bound, a metadata area, a health; statistics and flush by choice."""

    def __init__(self, rig_memory: Segment | None = None, metadata: int = 0x20000) -> None:
        self.area = bytearray(metadata)
        self.health = 0
        self.memory = rig_memory
        self.values: dict[bytes, int] = {}
        self.calls: list[tuple[HcallOpcode, tuple[int, ...]]] = []
        self.fails: dict[HcallOpcode, int] = {}
        self.flushes = 0

    def __call__(self, opcode: int, args: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        self.calls.append((HcallOpcode(opcode), args))
        if opcode in self.fails:
            return self.fails[HcallOpcode(opcode)], args[:1]
        match opcode:
            case H.H_SCM_BIND_MEM:
                return 0, (args[0], BASE, args[2])
            case H.H_SCM_UNBIND_ALL:
                return 0, (args[0], 4)
            case H.H_SCM_HEALTH:
                return 0, (self.health, (1 << 64) - 1)
            case H.H_SCM_READ_METADATA:
                return 0, (int.from_bytes(self.area[args[1] : args[1] + args[2]], "big"),)
            case H.H_SCM_WRITE_METADATA:
                self.area[args[1] : args[1] + args[3]] = args[2].to_bytes(args[3], "big")
                return 0, ()
            case H.H_SCM_FLUSH:
                if args[1] == 0:
                    self.flushes += 1
                    return 9901, (self.flushes,)
                return 0, args
            case H.H_SCM_PERFORMANCE_STATS:
                return self._stats(args)
            case _:
                return -2, args

    def _stats(self, args: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        if not self.values or self.memory is None:
            return -2, args
        if args[1:] == (0, 0):
            return 0, (stats.size_for(len(self.values)),)
        asked = stats.decode_stats(self.memory.read(args[1], args[2]))
        wanted = [id_ for id_, _ in asked] or list(self.values)
        reply = stats.encode_stats((id_, self.values.get(id_, 0)) for id_ in wanted)
        self.memory.write(args[1], reply)
        return (5 if set(wanted) - set(self.values) else 0), (0xD1A6,)
