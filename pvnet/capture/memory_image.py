"""The memory of a node that is played: what its recording shows of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pvnet.papr.errno import EFAULT
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.papr_pb2 import MemoryReply

_PAGE: Final = 4096
_IMAGE_PAGES: Final = 16384
_READ_MAX: Final = 1 << 16


class MemoryImage:
    """What is known of the played node's memory; the rest reads as zeros.  Bounded."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, bytearray] = OrderedDict()

    def write(self, address: int, data: bytes) -> None:
        """Store; the page longest not written goes when there are too many."""
        at = 0
        while at < len(data):
            number, offset = divmod(address + at, _PAGE)
            n = min(_PAGE - offset, len(data) - at)
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[offset : offset + n] = data[at : at + n]
            self._pages.move_to_end(number)
            at += n
        while len(self._pages) > _IMAGE_PAGES:
            self._pages.popitem(last=False)

    def read(self, address: int, length: int) -> bytes:
        """Load."""
        out = bytearray()
        while len(out) < length:
            number, offset = divmod(address + len(out), _PAGE)
            n = min(_PAGE - offset, length - len(out))
            page = self._pages.get(number)
            out += page[offset : offset + n] if page is not None else bytes(n)
        return bytes(out)

    def answer(self, envelope: Envelope) -> MemoryReply:
        """Answer a MemoryRead."""
        body = envelope.memory_read
        if body.length > _READ_MAX:
            return MemoryReply(error=EFAULT)
        return MemoryReply(data=self.read(body.address, body.length))
