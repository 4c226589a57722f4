"""Clean up after a supervisor that could not: a small process that waits for the end of its standard input.

Run by path (``python -I -S reaper.py LOCK DIRECTORY SUPERVISOR``, a pid) with nothing but the standard library, so
that it is small.  The supervisor writes one line per child (``PID START-TIME``) into the pipe, and ``done`` after an
orderly shutdown.  End of file without ``done`` means that the supervisor is gone, however: the children that still live
are killed (most died by their parent-death signal already), then the directory is removed, unless a new lab of that
name has the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import sys
import time


def start_time(pid: int) -> str:
    """Start time of a process as in /proc/PID/stat, or '' if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - pathlib would double our start-up time
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def watch(pid: int) -> int | None:
    """A pidfd of our parent ``pid``; None when it has ended already."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        if os.getppid() == pid:
            return pidfd
        os.close(pidfd)
    return None


def kill(pid: int, started: str) -> None:
    """Kill process ``pid`` if it is the one that started then, and wait until it is gone."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if start_time(pid) == started:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 5)
        finally:
            os.close(pidfd)


def take(lock: int) -> bool:
    """Lock the file for ourselves; False when a lab holds it.

    Who only looks whether a lab runs shares the lock for a moment: that is waited for.  A lab does not share.
    """
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(lock, fcntl.LOCK_UN)
        time.sleep(0.001)


def remove(lock_path: str, directory: str) -> None:
    """Remove the directory and the lock file, unless somebody holds the lock."""
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    with contextlib.suppress(OSError):
        if not take(lock):
            return
        named = os.stat(lock_path)  # noqa: PTH116
        if os.fstat(lock).st_ino == named.st_ino:
            shutil.rmtree(directory, ignore_errors=True)
            os.unlink(lock_path)  # noqa: PTH108
            os.rmdir(os.path.dirname(lock_path))  # noqa: PTH106, PTH120 - only when no other lab is there


def main() -> None:
    """Wait, then clean up."""
    lock_path, directory, supervisor = sys.argv[1:4]
    pidfd = watch(int(supervisor))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    children: list[tuple[int, str]] = []
    for line in sys.stdin:
        if line == "done\n":
            return
        pid, _, started = line.strip().partition(" ")
        children.append((int(pid), started))
    for pid, started in children:
        kill(pid, started)
    if pidfd is not None:  # its end of the pipe may be gone before its lock is
        select.select([pidfd], [], [], 10)
    remove(lock_path, directory)


if __name__ == "__main__":
    main()
