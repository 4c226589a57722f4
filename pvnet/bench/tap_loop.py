"""The peer ``tap-loop``: two TAP devices and the least Python that copies frames between them, on uvloop.

``python -m pvnet.bench.tap_loop`` is told on its standard input ``[[namespace, device], [namespace, device]]`` as JSON;
it opens both, says ``ready``, and copies until it is killed.  With IFF_VNET_HDR and every offload of TCP that a TAP has
(checksum, TSO4, TSO6, ECN), so that a frame may be 64 KiB: the ten bytes of header travel unchanged from one TAP to the
other, which is all that offloads need here.  No switch, no checks, no counters, and a frame that does not fit is
dropped: this is what one would write in an afternoon.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Final

OFFLOADS: Final = "IFF_VNET_HDR, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN"
_FRAMES_PER_WAKEUP: Final = 64
_LARGEST: Final = 10 + 14 + 65535
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F: Final = 0x01 | 0x02 | 0x04 | 0x08


def open_tap(namespace: str, device: str) -> int:
    """Make a TAP device in a network namespace; return its fd, non-blocking.  The device lives as long as the fd.

    :raises OSError: it is not permitted, or there is such a device.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            fcntl.ioctl(fd, _TUNSETIFF, request)
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F)
        finally:
            libc.setns(home, _CLONE_NEWNET)
    finally:
        os.close(home)
        os.close(there)
    return fd


def _copier(source: int, sink: int) -> Callable[[], None]:
    read, write = os.read, os.write

    def copy() -> None:
        try:
            for _ in range(_FRAMES_PER_WAKEUP):
                write(sink, read(source, _LARGEST))
        except OSError as error:  # nothing more to read; or no room or the other device is down: the frame is gone
            if error.errno not in {errno.EAGAIN, errno.EIO}:
                raise SystemExit(f"tap-loop: {error.strerror}") from None  # the device is gone; do not spin on it

    return copy


async def serve(ends: list[list[str]]) -> None:
    """Copy until killed."""
    one, other = (open_tap(namespace, device) for namespace, device in ends)
    loop = asyncio.get_running_loop()
    loop.add_reader(one, _copier(one, other))
    loop.add_reader(other, _copier(other, one))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await loop.create_future()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(json.loads(sys.stdin.readline())))
