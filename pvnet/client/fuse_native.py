"""What a FUSE mount needs of libfuse, libc and the kernel beyond mfusepy: all the ctypes of :mod:`.fuse_mount`.

mfusepy calls Python for each file operation, in threads of libfuse.  Four things it does not offer are here:

* waking a sleeping poll (``fuse_notify_poll``) and freeing its handle;
* waiting in such a thread so that a signal to the calling program ends the wait;
* ``FOPEN_STREAM`` in the answer of an open.  Without it the kernel holds the lock of the file position during a read,
  and a thread that writes on the same descriptor would wait for the one that reads.  libfuse has no name for that flag,
  so its answers pass through a function of ours that sets it;
* reading the memory of the calling program, of which an ioctl of FUSE sees no more than its number says.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from pvnet.core.errors import UnavailableError

DEVICE: Final = "/dev/fuse"
_LIBRARIES: Final = ("libfuse3.so.4", "libfuse3.so.3")
_FOPEN_STREAM: Final = 1 << 4
_OPEN_ANSWER: Final = 16
"""Bytes of a fuse_open_out: u64 handle, u32 flags, u32 nothing."""
_HEADER: Final = 16
"""Bytes of a fuse_out_header: u32 length, s32 error, u64 number of the request."""


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


_WRITEV: Final = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.POINTER(_IoVec), ctypes.c_int, ctypes.c_void_p, use_errno=True
)


class _CustomIo(ctypes.Structure):
    _fields_ = (
        ("writev", _WRITEV),
        ("read", ctypes.c_void_p),
        ("splice_receive", ctypes.c_void_p),
        ("splice_send", ctypes.c_void_p),
        ("clone_fd", ctypes.c_void_p),  # not before libfuse 3.17
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.writev.argtypes = (ctypes.c_int, ctypes.POINTER(_IoVec), ctypes.c_int)
_libc.writev.restype = ctypes.c_ssize_t
_libc.poll.argtypes = (ctypes.POINTER(_PollFd), ctypes.c_ulong, ctypes.c_int)


def load() -> ModuleType:
    """Import mfusepy with libfuse 3.

    Raises:
        UnavailableError: the extra, the library, the helper program or the device is missing; says what would help.
    """
    if "FUSE_LIBRARY_PATH" not in os.environ and (library := _library()) is not None:
        os.environ["FUSE_LIBRARY_PATH"] = library  # it would look for libfuse 2 first
    try:
        import mfusepy
    except ImportError:
        raise UnavailableError("mount needs the package mfusepy: pip install 'pvnet[fuse]'") from None
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"mount needs libfuse 3 ({error}): apt install fuse3") from None
    if mfusepy.fuse_version_major != 3:
        raise UnavailableError("mount needs libfuse 3, only libfuse 2 is installed: apt install fuse3")
    if shutil.which("fusermount3") is None:
        raise UnavailableError("mount needs the program fusermount3: apt install fuse3")
    if not os.path.exists(DEVICE):  # noqa: PTH110 - a constant
        raise UnavailableError(f"mount needs {DEVICE}, which is not there: modprobe fuse, or give it to the container")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise UnavailableError(f"mount needs {DEVICE}, which we may not open: chmod a+rw {DEVICE} as root")
    module: ModuleType = mfusepy
    return module


def _library() -> str | None:
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


class Native:
    """The running libfuse behind one mount; made before it is mounted."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.version: tuple[int, int] = (module.fuse_version_major, module.fuse_version_minor)
        self._fuse = module._libfuse
        self._fuse.fuse_get_session.restype = ctypes.c_void_p
        for name in ("fuse_get_session", "fuse_exit", "fuse_session_fd", "fuse_notify_poll", "fuse_pollhandle_destroy"):
            getattr(self._fuse, name).argtypes = (ctypes.c_void_p,)
        self._handle: int | None = None
        self._opening: set[int] = set()
        """Threads whose next answer is that of an open that succeeded."""
        self._writev = _WRITEV(self._answer)  # as long as we live: libfuse calls it
        self.streams = False
        """Whether opens are streams: a read and a write on one descriptor do not wait for each other."""

    # In the threads of libfuse

    def started(self) -> None:
        """Take over the answers; in the callback ``init``, when nobody else uses the session yet."""
        self._handle = self.module._libfuse.fuse_get_context().contents.fuse
        session = ctypes.c_void_p(self._fuse.fuse_get_session(self._handle))
        io = _CustomIo(self._writev, ctypes.cast(_libc.read, ctypes.c_void_p), None, None, None)
        fd = self._fuse.fuse_session_fd(session)
        if hasattr(self._fuse, "fuse_session_custom_io_317"):
            size = ctypes.c_size_t(ctypes.sizeof(io))
            result = self._fuse.fuse_session_custom_io_317(session, ctypes.byref(io), size, fd)
        elif hasattr(self._fuse, "fuse_session_custom_io"):
            result = self._fuse.fuse_session_custom_io(session, ctypes.byref(io), fd)
        else:  # before 3.13
            return
        self.streams = result == 0

    def opened(self) -> None:
        """Say that this thread's next answer is that of an open that succeeded."""
        if self.streams:
            self._opening.add(threading.get_ident())

    def _answer(self, fd: int, vectors: Any, count: int, _: int | None) -> int:
        me = threading.get_ident()
        if me not in self._opening:
            return int(_libc.writev(fd, vectors, count))
        self._opening.discard(me)
        if count != 2 or vectors[0].length != _HEADER or vectors[1].length != _OPEN_ANSWER:
            return int(_libc.writev(fd, vectors, count))
        answer = bytearray(ctypes.string_at(vectors[1].base, _OPEN_ANSWER))
        flags = int.from_bytes(answer[8:12], sys.byteorder) | _FOPEN_STREAM
        answer[8:12] = flags.to_bytes(4, sys.byteorder)
        ours = (ctypes.c_char * _OPEN_ANSWER).from_buffer(answer)
        changed = (_IoVec * 2)(vectors[0], _IoVec(ctypes.addressof(ours), _OPEN_ANSWER))
        return int(_libc.writev(fd, changed, 2))

    def interrupted(self) -> bool:
        """Whether the program whose call this thread answers wants it to end."""
        return bool(self._fuse.fuse_interrupted())

    def caller(self) -> int:
        """Process (or thread) id of the program whose call this thread answers; 0 if it is in another namespace."""
        return int(self._fuse.fuse_get_context().contents.pid)

    # In any thread

    def wake(self, poll_handle: int) -> None:
        """Have the kernel ask again about a file that somebody polls."""
        self._fuse.fuse_notify_poll(poll_handle)

    def free(self, poll_handle: int) -> None:
        """Free the handle of a poll."""
        self._fuse.fuse_pollhandle_destroy(poll_handle)

    def end(self) -> None:
        """Have the mount end after its next request."""
        if self._handle is not None:
            self._fuse.fuse_exit(self._handle)

    def ended(self) -> None:
        """Take note that libfuse has freed everything."""
        self._handle = None


def wait(event_fd: int, interrupted: Callable[[], bool]) -> bool:
    """Wait until ``event_fd`` is readable (True), or until a signal came and ``interrupted()`` says yes (False)."""
    waiting = _PollFd(event_fd, select.POLLIN, 0)
    while _libc.poll(ctypes.byref(waiting), 1, -1) < 0:  # not select.poll: that one goes on after a signal
        if (code := ctypes.get_errno()) != errno.EINTR:
            raise OSError(code, os.strerror(code))
        if interrupted():
            return False
    return True


def read_memory(pid: int, address: int, count: int) -> bytes:
    """Return bytes of another process's memory.

    Raises:
        OSError: EPERM (not ours to look at), EFAULT (not all there), ESRCH (no such process).
    """
    buffer = ctypes.create_string_buffer(count)
    local, remote = _IoVec(ctypes.addressof(buffer), count), _IoVec(address, count)
    size = ctypes.c_ulong(0)
    one = ctypes.c_ulong(1)
    result = _libc.process_vm_readv(pid, ctypes.byref(local), one, ctypes.byref(remote), one, size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if result != count:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return buffer.raw
