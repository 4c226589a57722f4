"""What is said on a unix socket between two nodes, and where such sockets lie.

A SOCK_SEQPACKET socket keeps the borders of messages, so a *packet* is a header of two bytes and a body::

    u8 kind, u8 detail, body

    HELLO    who connects, and whom it wants          WELCOME  the same in return: frames may flow both ways
    FRAME    detail: channel; body: the frame         SHARE    detail: length of the label; body: label, bytes; with fds
    PING     are you there?                           PONG     yes
    BYE      the end, in good order

    HELLO, WELCOME:  4s magic "PVNX", u16 version, u64 incarnation, u64 wanted incarnation,
                     u8 u8 u8 lengths of: lab, name, wanted name; all little-endian (both ends are one machine)

Sockets lie in a directory that only their user can enter; on top of it both ends compare the peer's uid and pid, which
the kernel vouches for, with what the peer's state at the broker says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import struct
import tempfile
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError, WireError
from pvnet.core.names import NAME_PATTERN
from pvnet.transport.base import MAX_FRAME_BYTES, Channel

VERSION: Final = 1
HEADER_BYTES: Final = 2
MAX_PACKET_BYTES: Final = HEADER_BYTES + MAX_FRAME_BYTES
CHANNELS: Final = (
    Channel.CALL,
    Channel.REPLY,
    Channel.IRQ,
    Channel.CRQ,
    Channel.VBUS,
    Channel.MDEV,
    Channel.DEVICE,
    Channel.MGMT,
)
"""Channel by number; only ever appended to."""

_MAGIC: Final = b"PVNX"
_HELLO: Final = struct.Struct("<4sHQQBBB")
_NAME: Final = re.compile(NAME_PATTERN)
_MAX_PATH_BYTES: Final = 107
_STALE_S: Final = 60.0
_STALE_LOOKED_AT: Final = 64
_BACKLOG: Final = 64


class Kind(IntEnum):
    """First byte of a packet."""

    HELLO = 1
    WELCOME = 2
    FRAME = 3
    SHARE = 4
    PING = 5
    PONG = 6
    BYE = 7


def header(kind: Kind, detail: int = 0) -> bytes:
    """Return the first two bytes of a packet."""
    return bytes((kind, detail))


@dataclass(frozen=True, slots=True)
class Hello:
    """Body of HELLO and WELCOME."""

    lab: str
    name: str
    incarnation: int
    wanted: str
    wanted_incarnation: int


def encode_hello(hello: Hello) -> bytes:
    """Return the body of a HELLO or WELCOME."""
    names = [text.encode() for text in (hello.lab, hello.name, hello.wanted)]
    lengths = map(len, names)
    return _HELLO.pack(_MAGIC, VERSION, hello.incarnation, hello.wanted_incarnation, *lengths) + b"".join(names)


def decode_hello(body: bytes) -> Hello:
    """Read the body of a HELLO or WELCOME.

    Raises:
        WireError: it is none, or one of another version.
    """
    if len(body) < _HELLO.size:
        raise WireError(f"hello of {len(body)} bytes", expected=f"at least {_HELLO.size}")
    magic, version, incarnation, wanted_incarnation, *lengths = _HELLO.unpack_from(body)
    if magic != _MAGIC:
        raise WireError("hello without its magic", offset=0)
    if version != VERSION:
        raise WireError(f"hello of version {version}", offset=4, expected=str(VERSION))
    if len(body) != _HELLO.size + sum(lengths):
        raise WireError(f"hello of {len(body)} bytes", expected=str(_HELLO.size + sum(lengths)))
    names, at = [], _HELLO.size
    for length in lengths:
        name = body[at : at + length].decode("latin-1")
        if not _NAME.fullmatch(name):
            raise WireError(f"name {name[:40]!r} in a hello", offset=at)
        names.append(name)
        at += length
    return Hello(names[0], names[1], incarnation, names[2], wanted_incarnation)


def host_identity() -> str:
    """Identify the running kernel and, in it, the container: only where both agree can a socket's pid be checked.

    Returns an empty string where that cannot be told (then nobody is on our host).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return f"{boot}.{pids:x}"


def credentials(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end, as the kernel saw it connect (or listen)."""
    pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


# --- where the sockets lie -------------------------------------------------------------------------------------------


def socket_directory() -> Path:
    """The directory of this user's sockets; it may not exist yet."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK) and _fits(Path(runtime) / "pvnet-unix"):
        return Path(runtime) / "pvnet-unix"
    name = f"pvnet-unix-{os.getuid()}"
    found = Path(tempfile.gettempdir()) / name
    return found if _fits(found) else Path("/tmp") / name  # noqa: S108 - owner and mode are checked


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / ("x" * 32))) <= _MAX_PATH_BYTES


def listen(directory: Path) -> tuple[socket.socket, Path]:
    """Make a listening socket in ``directory``, which is made if it is not there; remove what dead processes left.

    Raises:
        ConfigError: the directory cannot be used, or is not ours alone.
    """
    for _ in range(3):  # somebody else may be removing the empty directory
        _make_private(directory)
        path = directory / f"{os.getpid():x}-{secrets.token_hex(4)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.bind(os.fspath(path))
            path.chmod(0o600)
            sock.listen(_BACKLOG)
        except FileNotFoundError:
            sock.close()
        except OSError as error:
            sock.close()
            raise ConfigError(f"{path}: cannot listen: {(error.strerror or str(error)).lower()}") from None
        else:
            _remove_stale(directory)
            return sock, path
    raise ConfigError(f"{directory}: vanishes again and again")


def unlink(path: Path) -> None:
    """Remove a socket of ours, and the directory if it was the last one."""
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}; expected a directory that can be written") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{directory}: expected a directory of user {os.getuid()} with mode 0700; remove it")


def _remove_stale(directory: Path) -> None:
    """Remove old sockets on which nobody listens: a process that was killed leaves one."""
    before = time.time() - _STALE_S
    with contextlib.suppress(OSError):
        for entry in list(directory.iterdir())[:_STALE_LOOKED_AT]:
            with contextlib.suppress(OSError):
                if entry.lstat().st_mtime < before and _is_dead(entry):
                    entry.unlink()


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
