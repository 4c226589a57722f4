"""What the ring tests share: a fence, memory, and the words of a golden image."""

from __future__ import annotations

from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import Variant, ring_bytes


def no_fence() -> None:
    """Within one thread nothing needs to be ordered."""


def memory(count: int, variant: Variant = Variant.IOQ_2009) -> memoryview:
    return memoryview(bytearray(ring_bytes(count, variant)))


def image(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def head_of(view: memoryview) -> bytes:
    return bytes(view[:56])


def descriptor_of(view: memoryview, slot: int) -> bytes:
    return bytes(view[56 + 32 * slot : 88 + 32 * slot])


def buffers(count: int, size: int = 256) -> list[Descriptor]:
    return [Descriptor(0x100 + slot, 0x10000 + size * slot, size) for slot in range(count)]
