"""``/dev/ibmvmc`` of a lab as a file: a FUSE mount with one file, ``ibmvmc``, for programs that open the device node.

libfuse answers the kernel in threads of its own; each call goes over a :class:`pvnet.client.fuse_bridge.Bridge` to the
event loop, where :class:`pvnet.client.fuse_files.FuseFiles` makes it a call on the device.  What differs from the
driver, because FUSE does not let it through: an interrupted read is always EINTR to the program (with the driver the
program's signal flags decide), a write of 0 bytes is 0 in every state, and the file is a regular one to ``stat``.

Who waits for whom: the threads wait for the loop, the loop for no thread and for no file of the mount.  The one
exception is :meth:`FuseMount.stop`, which waits for the end of libfuse, with a deadline and after every call has been
answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import structlog

from pvnet.client import fuse_native
from pvnet.client.device import QUERY, REQUESTVMC, SETHMCID
from pvnet.client.fuse_bridge import MAX_THREADS, Bridge
from pvnet.client.fuse_files import COMMANDS, SETHMCID_WHOLE, FuseFiles
from pvnet.client.lab import Lab
from pvnet.core.errors import ConfigError, LocalError, UnavailableError
from pvnet.transport.link_parts import PeerDown
from pvnet.vmc.messages import HMC_ID_BYTES

FILE: Final = "ibmvmc"
ANSWER_BYTES: Final = {SETHMCID: 0, QUERY: 12, REQUESTVMC: 4}
"""How many bytes come back from an ioctl: what its number says."""
_START_S: Final = 10.0
_END_S: Final = 5.0
_THREADS_OPTION: Final = (3, 12)
"""Since this version libfuse has no more than 10 threads unless told otherwise; before, as many as it needs."""


class _Operations:
    """What libfuse calls, in its threads; the methods are those of ``mfusepy.Operations`` with raw file records."""

    use_ns = True
    flag_nopath = True
    flag_nullpath_ok = True

    def __init__(self, mount: FuseMount) -> None:
        self._mount = mount
        self._bridge = mount.bridge
        self._files = mount.files
        self._native = mount.native
        self._born = time.time_ns()

    def init_with_config(self, _connection: object, _config: object) -> None:
        """The kernel speaks to us."""
        self._native.started()
        self._bridge.post(self._mount.mounted.set)

    def destroy(self, _path: str) -> None:
        """Libfuse is about to free everything: nobody may use it any more."""
        with contextlib.suppress(OSError):  # the loop has ended, or ends: it has closed them
            self._bridge.call(self._files.close_from_outside)
        self._native.ended()

    def getattr(self, path: str | None, _file: object = None) -> dict[str, int]:
        """What stat tells."""
        if path == "/":
            mode, links = stat.S_IFDIR | 0o555, 2
        elif path in {None, f"/{FILE}"}:
            mode, links = stat.S_IFREG | 0o600, 1
        else:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._born)
        return {"st_mode": mode, "st_nlink": links, "st_uid": os.getuid(), "st_gid": os.getgid(), **times}

    def readdir(self, _path: str | None, _file: object) -> list[str]:
        """The names in the directory."""
        return [".", "..", FILE]

    def truncate(self, _path: str | None, _length: int, _file: object = None) -> int:
        """A device has no length: a shell that opens it for writing empties it first, which does nothing."""
        return 0

    def open(self, _path: str, record: Any) -> int:
        """Open the device."""
        record.fh = self._bridge.call(self._files.open, interrupted=self._native.interrupted)
        record.direct_io = record.nonseekable = 1
        self._native.opened()
        return 0

    def release(self, _path: str | None, record: Any) -> int:
        """The last descriptor of an open is closed; whoever closed it does not wait."""
        self._bridge.post(self._files.release, record.fh)
        return 0

    def read(self, _path: str | None, count: int, _offset: int, record: Any) -> bytes:
        """Read one message."""
        nonblock = bool(record.flags & os.O_NONBLOCK)
        read = functools.partial(self._files.read, record.fh, count, nonblock=nonblock)
        return self._bridge.call(read, interrupted=self._native.interrupted)

    def write(self, _path: str | None, data: bytes, _offset: int, record: Any) -> int:
        """Write one message."""
        return self._bridge.call(functools.partial(self._files.write, record.fh, data))

    def poll(self, _path: str | None, record: Any, poll_handle: int | None, events: Any) -> int:
        """Tell which events are ready."""
        events[0] = self._bridge.call(functools.partial(self._files.poll, record.fh, poll_handle))
        return 0

    def ioctl(self, _path: str | None, command: int, argument: int | None, record: Any, _flags: int, data: Any) -> int:
        """One of the three ioctls; any other is EINVAL, as it is in the driver."""
        known = COMMANDS.get(command & 0xFFFFFFFF)
        if known is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sent = b""
        if known == SETHMCID_WHOLE:
            known, sent = SETHMCID, ctypes.string_at(data, HMC_ID_BYTES)
        elif known == SETHMCID:
            sent = self._hmc_id(argument or 0)
        result, answer = self._bridge.call(functools.partial(self._files.ioctl, record.fh, known, sent))
        if answer:
            ctypes.memmove(data, answer, min(len(answer), ANSWER_BYTES[known]))
        return result

    def _hmc_id(self, address: int) -> bytes:
        """Return the 32 bytes at ``address`` of the caller; nothing when they cannot be read: EFAULT, in its turn."""
        caller = self._native.caller()
        try:
            if caller == 0:  # of another process namespace: we have no name for it
                raise OSError(errno.ESRCH, "the program is in another process namespace")
            return fuse_native.read_memory(caller, address, HMC_ID_BYTES)
        except OSError as error:
            if error.errno != errno.EFAULT:
                self._bridge.post(self._mount.no_memory, caller, error.strerror)
            return b""


class FuseMount:
    """A lab's ``/dev/ibmvmc`` at ``directory``/ibmvmc, from :meth:`start` to :meth:`stop` (``async with``).

    ``complain`` gets a line for whoever started the mount.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        *,
        allow_other: bool = False,
        timeout: float = 10.0,
        complain: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.lab = lab
        self.directory = check_directory(directory)
        self.partition = lab.management_partition
        self.native = fuse_native.Native(fuse_native.load())
        self._allow_other = allow_other
        self._complain = complain
        self._complained: set[str] = set()
        self.mounted = asyncio.Event()
        self.ended = asyncio.Event()
        """The mount has ended, whoever ended it."""
        self.log = structlog.get_logger("pvnet.fuse")
        self.bridge = Bridge(self.log)
        make_device = functools.partial(lab.vmc_device, timeout=timeout)
        self.files = FuseFiles(make_device, self.native.wake, self.native.free)
        self._loop = asyncio.get_running_loop()
        self._old_signal: Any = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / FILE

    async def start(self) -> Self:
        """Mount it; done when the file can be opened.

        Raises:
            UnavailableError: FUSE does not work here, or not for us.
        """
        if threading.current_thread() is not threading.main_thread():
            raise LocalError("FuseMount.start: expected the main thread, which alone sets signals")
        # libfuse sends this signal to the thread whose call shall end, but does not always see to it that it is caught.
        self._old_signal = signal.signal(signal.SIGUSR1, _nothing)
        self.lab.endpoint.on_peer_down.append(self._peer_down)
        self._guard = _start_guard(self.directory)
        self._thread.start()
        both = [asyncio.ensure_future(event.wait()) for event in (self.mounted, self.ended)]
        try:
            await asyncio.wait(both, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.stop()
            raise
        finally:
            for waiting in both:
                waiting.cancel()
        if self.ended.is_set() or not self.mounted.is_set():
            await self.stop()
            raise UnavailableError(f"mount {self.directory}: FUSE did not come up; what libfuse says stands above")
        return self

    async def stop(self) -> None:
        """Unmount it; every call that is under way ends with ENODEV.  Idempotent; never raises."""
        with contextlib.suppress(ValueError):
            self.lab.endpoint.on_peer_down.remove(self._peer_down)
        self.bridge.close()
        self.files.close()
        if self._thread.is_alive():
            self.native.end()
            # It looks whether it shall end after each request, so it needs one: by a thread, which may hang with it.
            threading.Thread(target=_touch, args=(self.directory / "end",), daemon=True).start()
            if not await self._has_ended(_END_S):
                await _unmount(self.directory)
                if not await self._has_ended(_END_S):
                    return  # it may still send the signal, and the guard has something to do
        if self._guard is not None:
            _dismiss(self._guard)
            self._guard = None
        if self._old_signal is not None:
            signal.signal(signal.SIGUSR1, self._old_signal)
            self._old_signal = None

    async def _has_ended(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _serve(self) -> None:
        """Be libfuse's main thread."""
        options: dict[str, Any] = {"intr": True, "fsname": "pvnet", "subtype": FILE}
        if self.native.version >= _THREADS_OPTION:
            options["max_threads"] = options["max_idle_threads"] = MAX_THREADS
        if self._allow_other:
            options["allow_other"] = True
        try:
            self.native.module.FUSE(
                _Operations(self), str(self.directory), raw_fi=True, foreground=True, nothreads=False, **options
            )
        except RuntimeError as error:  # its exit code; libfuse has said why
            self.log.warning("fuse_ended", code=str(error))
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                self._loop.call_soon_threadsafe(self.ended.set)

    def _peer_down(self, event: PeerDown) -> None:
        if event.node == self.partition:
            self.files.partition_died()

    def no_memory(self, caller: int, reason: str) -> None:
        """Say, once for each reason, why a SETHMCID has to end with EFAULT."""
        self.log.warning("hmc_id_not_read", caller=caller, reason=reason)
        if reason not in self._complained:
            self._complained.add(reason)
            self._complain(
                f"SETHMCID of process {caller}: EFAULT: its 32 bytes do not pass FUSE, and its memory may not be read "
                f"({reason}); mount as root, use ioctl {SETHMCID_WHOLE:#x}, or use the preload shim: make preload"
            )


def check_directory(directory: Path) -> Path:
    """Return ``directory`` as an absolute path if something can be mounted there.

    Raises:
        ConfigError: it is not an empty directory.
    """
    try:
        found = directory.resolve()
        if any(found.iterdir()):
            raise ConfigError(f"mount {directory}: the directory is not empty: expected an empty one")
    except FileNotFoundError:
        raise ConfigError(f"mount {directory}: there is no such directory: mkdir {directory}") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            why = f"a mount whose process has died is there; end it with: fusermount3 -u {directory}"
            raise ConfigError(f"mount {directory}: {why}") from None
        raise ConfigError(f"mount {directory}: {error.strerror}: expected an empty directory") from None
    return found


def _start_guard(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that unmounts ``directory`` when we end without having told it that we have done so.

    libfuse has an option for that (auto_unmount), but what it starts gives up on a mount of a user who is not root.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read -r _ || exec fusermount3 -u -z -q -- "$1"', "pvnet-mount-guard", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a Ctrl-C is for us, not for it
    )


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    """Tell it that there is nothing to do; it ends at once."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # somebody has killed it, or stopped it
        guard.communicate(b"\n", timeout=_END_S)


def _nothing(*_: object) -> None:
    """Handle a signal that is there to end a wait."""


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.lstat()


async def _unmount(directory: Path) -> None:
    """Unmount it from outside, open files or not."""
    with contextlib.suppress(OSError, TimeoutError):
        process = await asyncio.create_subprocess_exec(
            "fusermount3", "-u", "-z", "--", str(directory), stderr=sys.stderr
        )
        async with asyncio.timeout(_END_S):
            await process.wait()
