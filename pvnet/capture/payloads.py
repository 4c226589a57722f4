"""Gives H_COPY_RDMA its bytes back.

Where the hypervisor maps a partition's memory, copies move bytes that no message carries.  What moved is known all the
same when the recording has it elsewhere:

* a record of memory that a recorder made of that copy;
* what an application handed to a character device of the partition just before a copy of that length to the
  hypervisor, or got from it after a copy of that length from there.

Copies that neither explains stay without bytes, and what they carry is not compared.  Spec: vmc 4.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope

MEMORY_RECORD: Final = struct.Struct(">B7xQ")
"""Head of a record of memory: kind, address."""
RDMA: Final = 1
_COPY_RDMA: Final = int(HcallOpcode.H_COPY_RDMA)
_TCE_CALLS: Final = frozenset(
    {int(HcallOpcode.H_PUT_TCE), int(HcallOpcode.H_PUT_TCE_INDIRECT), int(HcallOpcode.H_STUFF_TCE)}
)
_KEPT: Final = 64


@dataclass(slots=True)
class _Copy:
    call: Envelope
    length: int
    addresses: tuple[int, int]
    is_outgoing: bool
    reply: Envelope | None = None
    data: bytes | None = None

    def fill(self, data: bytes) -> None:
        self.data = data
        if self.is_outgoing:
            self.call.hcall.memory = data
        elif self.reply is not None:
            self.reply.hcall_reply.memory = data


@dataclass(slots=True)
class _Partition:
    own_liobns: set[int] = field(default_factory=set)
    written: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    copies: deque[_Copy] = field(default_factory=lambda: deque(maxlen=_KEPT))


class Payloads:
    """Fed with all messages and records of memory, in order; completes messages in place.  ``filled`` counts them."""

    def __init__(self) -> None:
        self.filled = 0
        self._partitions: dict[str, _Partition] = {}

    def message(self, envelope: Envelope) -> None:
        """See a message."""
        match envelope.WhichOneof("body"):
            case "hcall":
                self._hcall(self._partition(envelope.source), envelope)
            case "hcall_reply":
                self._reply(self._partition(envelope.destination), envelope)
            case "device_io" if envelope.device_io.operation in (DeviceIo.WRITE, DeviceIo.IOCTL):
                if envelope.device_io.data:
                    io = envelope.device_io
                    self._partition(envelope.destination).written.append((io.operation, io.data))
            case "device_reply" if envelope.device_reply.data:
                self._read(self._partition(envelope.source), envelope.device_reply.data)

    def memory(self, record: bytes) -> bool:
        """See a record of memory; whether it was that of a copy."""
        if len(record) < MEMORY_RECORD.size:
            return False
        kind, address = MEMORY_RECORD.unpack_from(record)
        if kind != RDMA:
            return False
        data = record[MEMORY_RECORD.size :]
        for partition in self._partitions.values():
            for copy in reversed(partition.copies):
                if copy.data is None and address in copy.addresses and copy.length == len(data):
                    self._fill(copy, data)
                    return True
        return True

    def _partition(self, name: str) -> _Partition:
        return self._partitions.setdefault(name, _Partition())

    def _hcall(self, partition: _Partition, envelope: Envelope) -> None:
        call = envelope.hcall
        if call.opcode in _TCE_CALLS and call.args:
            partition.own_liobns.add(call.args[0])
        if call.opcode != _COPY_RDMA or len(call.args) < 5 or call.HasField("memory"):
            return
        length, source = call.args[0], call.args[1]
        copy = _Copy(envelope, length, (call.args[2], call.args[4]), source in partition.own_liobns)
        partition.copies.append(copy)
        if copy.is_outgoing:
            for kind, data in list(partition.written):
                is_id = kind == DeviceIo.IOCTL and len(data) <= length  # an id lies at the start of its buffer
                if len(data) == length or is_id:
                    partition.written.remove((kind, data))
                    self._fill(copy, data.ljust(length, b"\0"))
                    return

    def _reply(self, partition: _Partition, envelope: Envelope) -> None:
        if envelope.hcall_reply.HasField("memory") or envelope.hcall_reply.rc:
            return
        for copy in partition.copies:
            call = copy.call
            if copy.reply is None and call.correlation == envelope.correlation and call.source == envelope.destination:
                copy.reply = envelope
                if copy.data is not None:
                    copy.fill(copy.data)  # its record came before its answer

    def _read(self, partition: _Partition, data: bytes) -> None:
        for copy in partition.copies:
            if copy.data is None and not copy.is_outgoing and copy.reply is not None and copy.length == len(data):
                self._fill(copy, data)
                return

    def _fill(self, copy: _Copy, data: bytes) -> None:
        copy.fill(data)
        self.filled += 1
