"""Contents of H_COPY_RDMA for a recorder: between mapped memories no message carries them.

Costs nothing while nobody records.  A recorder that asks for messages only (snaplen 0) gets none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pvnet.capture.model import LINKTYPE_MEMORY
from pvnet.memory.copy import gather
from pvnet.papr.platform import Platform
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.message_tap import OUT

MEMORY_HEAD: Final = struct.Struct(">B7xQ")
"""Head of a record of memory: kind, address."""
RDMA: Final = 1


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
