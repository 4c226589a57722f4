"""Payloads of vfio-user requests, as a client packs them."""

from __future__ import annotations

from struct import pack

from pvnet.mdev.vfio_user import HEADER

INFO = pack("<4I", 16, 0, 0, 0)


def access(offset: int, region: int, count: int, data: bytes = b"") -> bytes:
    return pack("<QII", offset, region, count) + data


def dma(address: int, size: int, flags: int = 3, offset: int = 0, argsz: int = 32) -> bytes:
    return pack("<IIQQQ", argsz, flags, offset, address, size)


def irqs(flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int | None = None) -> bytes:
    return pack("<5I", 20 + len(data) if argsz is None else argsz, flags, index, start, count) + data


def head_only(message: bytes, command: int, errno: int) -> bool:
    return HEADER.unpack(message)[1:] == (command, 16, 0x21, errno)
