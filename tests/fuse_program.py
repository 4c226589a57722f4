"""A program that knows nothing of pvnet: it opens the file it is told to, and says what it sees as lines of JSON.

usage: fuse_program.py FILE read|poll|echo [COUNT]
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import select
import struct
import sys
import threading
import time
from typing import Any

SETHMCID, QUERY = 0x4008CC00, 0x800CCC01
NOT_YET = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def patiently(call: Any) -> Any:
    """Make a call until the driver says no more that it is too early."""
    end = time.monotonic() + 60
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in NOT_YET or time.monotonic() > end:
                raise
        time.sleep(0.01)


def message(opcode: int, number: int, data: bytes) -> bytes:
    return struct.pack(">3sBIIHBBIHH8x", b"\xde\xca\xff", 32, 32 + len(data), number, 0x8000, 0, 0x80, len(data),
                       opcode, 0) + data  # fmt: skip


def session(path: str) -> int:
    fd = os.open(path, os.O_RDWR)
    answer = array.array("i", [0, 0, 0])
    fcntl.ioctl(fd, QUERY, answer)
    assert answer[0] == 1, answer
    patiently(lambda: fcntl.ioctl(fd, SETHMCID, b"python program".ljust(32, b"\0")))
    return fd


def result_of_read(fd: int) -> dict[str, Any]:
    try:
        return {"read": len(os.read(fd, 4096))}
    except OSError as error:
        return {"errno": error.errno}


def main() -> None:
    path, what, count = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["1"])[0])
    fd = session(path)
    say(open=True)
    if what == "read":  # until something happens
        said = []
        threads = [threading.Thread(target=lambda: said.append(result_of_read(fd))) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(errnos=sorted({one.get("errno", 0) for one in said}), count=len(said))
    elif what == "poll":
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        events = [event for _, event in poller.poll(90_000)]
        say(events=events, **result_of_read(fd))
    else:
        write_first = message(1, 0, b"\0\1\0\0\0\0")
        patiently(lambda: os.write(fd, write_first))
        poller = select.epoll()
        poller.register(fd, select.EPOLLIN)
        for number in range(count + 1):
            assert poller.poll(60) == [(fd, select.EPOLLIN)]
            got = os.read(fd, 4096)
            assert struct.unpack_from(">H", got, 22) == (0,), got
            if number:
                assert got[32:] == bytes([number % 256]) * number
            if number < count:
                following = message(0x103, number + 1, bytes([(number + 1) % 256]) * (number + 1))
                patiently(lambda sent=following: os.write(fd, sent))
        assert poller.poll(0) == []
        say(echoes=count)
    with contextlib.suppress(OSError):  # of a mount that has ended
        os.close(fd)


if __name__ == "__main__":
    main()
