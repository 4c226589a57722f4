"""What moves without a message, for a recorder: frames of the switches, contents of H_COPY_RDMA.

Costs nothing while nobody records.  A recorder that asks for messages only (snaplen 0) gets none of this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_MEMORY
from pvnet.memory.copy import gather
from pvnet.papr.platform import Platform
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.message_tap import IN, OUT
from pvnet.vbus.packet import ACCEPTS_NOTHING, MAX_MTU, Packet
from pvnet_services.switches import HostedSwitch, Switches

MEMORY_HEAD: Final = struct.Struct(">B7xQ")
"""Head of a record of memory: kind, address."""
RDMA: Final = 1
_PORT: Final = "recorder"


class _FramePort:
    """A mirror port of a switch whose frames go to the recorder."""

    mtu = MAX_MTU
    accepts = ACCEPTS_NOTHING
    name = _PORT

    def __init__(self, endpoint: Endpoint, switch: str, snaplen: int) -> None:
        self._endpoint = endpoint
        self._channel = switch.encode()
        self._snaplen = snaplen

    def deliver(self, packets: list[Packet]) -> int:
        """Take frames; never holds the switch up."""
        tap = self._endpoint.taps.recorder
        if tap is not None:
            for packet in packets:
                frame = packet.tobytes()
                tap.record(IN, LINKTYPE_ETHERNET, self._channel, b"", frame[: self._snaplen], len(frame))
        return len(packets)


class SwitchContents:
    """Mirrors every switch while somebody records."""

    def __init__(self, endpoint: Endpoint, switches: Switches) -> None:
        self._endpoint = endpoint
        self._switches = switches
        self._snaplen = 0
        endpoint.taps.on_change.append(self._changed)
        switches.on_added.append(self._mirror)

    def _changed(self, snaplen: int) -> None:
        self._snaplen = snaplen
        for switch in self._switches.all():
            switch.running.unplug(_PORT)
            self._mirror(switch)

    def _mirror(self, switch: HostedSwitch) -> None:
        if self._snaplen:
            port = _FramePort(self._endpoint, switch.config.name, self._snaplen)
            switch.running.plug_sink(port, mirror=True)


class RdmaContents:
    """Tells the recorder the first bytes of each copy that the messages do not carry."""

    def __init__(self, endpoint: Endpoint, platform: Platform) -> None:
        self._endpoint = endpoint
        self._platform = platform
        self._snaplen = 0
        endpoint.taps.on_change.append(self._changed)

    def _changed(self, snaplen: int) -> None:
        self._snaplen = snaplen

    def copied(self, call: Envelope) -> None:
        """A copy has been done."""
        tap = self._endpoint.taps.recorder
        if not self._snaplen or tap is None or call.hcall.HasField("memory"):
            return
        length, source, source_ioba, target, target_ioba = _five(call.hcall.args)
        engine = self._platform.rdma_engine(call.source)
        planned = engine.plan(source, source_ioba, target, target_ioba, min(length, self._snaplen))
        if isinstance(planned, int):
            return
        for operand, runs, address in (
            (planned.destination, planned.plan.destination, target_ioba),
            (planned.source, planned.plan.source, source_ioba),
        ):
            if operand.side.segment is not None:
                data = MEMORY_HEAD.pack(RDMA, address) + gather(operand.side.segment, runs)
                whole = MEMORY_HEAD.size + length
                tap.record(OUT, LINKTYPE_MEMORY, b"rdma", call.source.encode(), data, whole)
                return


def _five(args: Iterable[int]) -> tuple[int, int, int, int, int]:
    found = [*args, 0, 0, 0, 0, 0][:5]
    return found[0], found[1], found[2], found[3], found[4]
