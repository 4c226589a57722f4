"""Who may log on at the NovaLink service: passwords, checked in threads, and files with tokens."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pvnet.novalink.api_http import ApiError
from pvnet.novalink.passwords import Users
from pvnet.novalink.sessions import TOKEN_BYTES, LogOn

_AT_ONCE: Final = 2
"""Checks at once: each takes tens of MiB for tens of milliseconds."""
_WAITING_MAX: Final = 512
_TCP_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_TABLE_MAX: Final = 4 << 20


class Keyring:
    """Checks passwords, makes tokens and token files below ``folder``."""

    def __init__(self, users: Users, folder: Path) -> None:
        self.waiting = 0
        self._users = users
        self._folder = folder / "tokens"
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="password")

    def close(self) -> None:
        """End the threads and remove every token file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._folder.is_dir():
            for file in self._folder.iterdir():
                file.unlink(missing_ok=True)

    async def check(self, user: str, password: str) -> bool:
        """Return whether this is the user's password; ApiError 503: too many ask at once."""
        if self.waiting >= _WAITING_MAX:
            raise ApiError(503, f"{self.waiting} log-ons are being checked; try again soon.", retry_after_s=1)
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._users.check, user, password)
        finally:
            self.waiting -= 1

    def token(self) -> str:
        """Return a new token."""
        return secrets.token_urlsafe(TOKEN_BYTES)

    def write(self, token: str, uid: int | None) -> str:
        """Put a token into a file that only the user who connected can read; its path, or ApiError."""
        if uid is not None and uid != os.geteuid():
            text = f"Log-on by a file is for programs of the lab's user (uid {os.geteuid()}), not for uid {uid}."
            raise ApiError(403, text)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self._folder / secrets.token_hex(16)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:  # noqa: PTH123 - mode
                out.write(token + "\n")
        except OSError as error:
            raise ApiError(500, f"{self._folder}: {error.strerror}") from None
        return str(file)

    def forget(self, ended: list[LogOn]) -> None:
        """Remove the files of log-ons that have ended."""
        for log_on in ended:
            if log_on.file is not None:
                Path(log_on.file).unlink(missing_ok=True)


def uid_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Return the user whose program made a TCP connection of this machine; None: the kernel does not tell."""
    wanted = {(_table_form(client, wide=wide), _table_form(server, wide=wide)) for wide in (False, True)}
    for table in _TCP_TABLES:
        try:
            with table.open("rb") as file:
                lines = file.read(_TABLE_MAX).decode("ascii", "replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 7 and (fields[1], fields[2]) in wanted and fields[3] == "01":
                return int(fields[7])
    return None


def _table_form(address: tuple[str, int], *, wide: bool) -> str:
    """An IPv4 address and port as /proc/net/tcp (or tcp6, mapped) has them: words of the machine's byte order."""
    host, port = address
    packed = socket.inet_aton(host)
    if wide:
        packed = bytes(10) + b"\xff\xff" + packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
