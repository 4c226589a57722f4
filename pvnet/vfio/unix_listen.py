"""Unix stream sockets at paths that users choose: where they may be, who may connect, and what a dead process left."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError

MAX_PATH_BYTES: Final = 107
"""Of ``sun_path``, whose 108th byte is a NUL."""


class UnixListener:
    """A listening socket that only our user can connect to, non-blocking; removed from its directory by :meth:`close`.

    A socket that is there and that nobody listens on is replaced; anything else that is there is left alone.

    :raises ConfigError: the path is too long, its directory is not there, something else is there, or we may not.
    """

    def __init__(self, path: str | Path, *, backlog: int = 16) -> None:
        self.path = checked_path(path)
        _remove_stale(self.path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.setblocking(False)
            self.sock.bind(os.fspath(self.path))
            self.path.chmod(0o600)  # before it listens: nobody has got in
            self.sock.listen(backlog)
            status = self.path.lstat()
        except OSError as error:
            self.sock.close()
            raise ConfigError(f"{self.path}: cannot listen: {(error.strerror or str(error)).lower()}") from None
        self._identity = (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Stop listening, and remove the socket unless somebody has put another one there; idempotent."""
        if self.sock.fileno() < 0:
            return
        self.sock.close()
        with contextlib.suppress(OSError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()


def checked_path(path: str | Path) -> Path:
    """Return the path of a unix socket.

    :raises ConfigError: it cannot be one, or its directory is not there.
    """
    text = os.fspath(path)
    size = len(os.fsencode(text))
    if not 0 < size <= MAX_PATH_BYTES or "\0" in text:
        raise ConfigError(f"unix socket {text[:120]!r}: a path of {size} bytes, expected 1 to {MAX_PATH_BYTES}")
    checked = Path(path)
    if not checked.parent.is_dir():
        raise ConfigError(f"unix socket {text}: its directory {checked.parent} is not there")
    return checked


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path}: something that is no socket is there; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            pass
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise ConfigError(f"{path}: {error.strerror or error}") from None
            raise ConfigError(f"{path}: somebody listens there already") from None
        else:
            raise ConfigError(f"{path}: somebody listens there already")
    with contextlib.suppress(FileNotFoundError):
        try:
            path.unlink()
        except PermissionError as error:
            raise ConfigError(f"{path}: a stale socket: {error.strerror or error}") from None
