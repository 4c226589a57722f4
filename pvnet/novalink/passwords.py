"""Who may log on: users and argon2 hashes in a TOML file, and the user that a lab makes for itself.

The file (``secrets`` of ``[novalink]``, written by ``pvnet novalink passwd``)::

    [users]
    pvnet = "$argon2id$v=19$m=19456,t=2,p=1$..."

Passwords in the clear are nowhere but in the lab's own file for its own user.  That password is random and long, so its
hash needs no slowness: a lab that tests start and end all day does not pay for it at each log-on.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pvnet.core.errors import ConfigError, UnavailableError
from pvnet.runtime.topology_novalink import DEFAULT_USER

if TYPE_CHECKING:
    from argon2 import PasswordHasher

PASSWORD_MAX: Final = 1024
"""Longest password in bytes (UTF-8)."""
_USER_MAX: Final = 64
_USERS_MAX: Final = 1000
_FILE_MAX: Final = 1 << 20
_MEMORY_MAX_KIB: Final = 1 << 20
_TIME_MAX: Final = 64
_PARALLEL_MAX: Final = 64

# Memory in KiB, passes and lanes: for what a person thought of, and for 32 random bytes.
_SLOW: Final = (19456, 2, 1)
_QUICK: Final = (64, 1, 1)


@dataclass(frozen=True, slots=True)
class LabUser:
    """The user that a lab without ``secrets`` makes for itself."""

    user: str
    password_file: Path
    """Its password, for programs of the same user (mode 0600)."""
    secrets_file: Path
    """Its hash."""


class Users:
    """The users of a file; :meth:`check` takes tens of milliseconds and belongs into a thread."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = dict(hashes)
        # Who does not exist is checked against this one, which costs as much as a real one: the time tells nothing.
        costs = [_costs(text) for text in hashes.values()]
        self._nobody = _hasher(max(costs, default=_QUICK)).hash(secrets.token_hex())

    @property
    def names(self) -> list[str]:
        """Every user, sorted."""
        return sorted(self._hashes)

    def check(self, user: str, password: str) -> bool:
        """Return whether this is the password of that user.  Computes for a while; safe in threads."""
        from argon2 import PasswordHasher
        from argon2.exceptions import InvalidHashError, VerificationError

        if len(password.encode("utf-8", "surrogatepass")) > PASSWORD_MAX:
            return False
        known = self._hashes.get(user)
        try:
            PasswordHasher().verify(known or self._nobody, password.encode("utf-8", "surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False
        return known is not None


def load_users(path: Path) -> Users:
    """Read a file of users and hashes.

    Raises:
        ConfigError: it cannot be read or is none; says where and what was expected.
    """
    return Users(_read(path))


def hash_password(password: str) -> str:
    """Return the hash of a password that a person thought of.

    Raises:
        ConfigError: it is empty or too long.
    """
    if not 1 <= len(password.encode("utf-8", "surrogatepass")) <= PASSWORD_MAX:
        raise ConfigError(f"password: expected 1 to {PASSWORD_MAX} bytes")
    return _hasher(_SLOW).hash(password.encode("utf-8", "surrogatepass"))


def set_password(path: Path, user: str, password: str) -> bool:
    """Write a user's hash into a file of users, which is made when there is none; return whether the user was new.

    Other users stay as they are; the file is replaced in one step and two programs do not overwrite each other's.

    Raises:
        ConfigError: the file is none of ours or cannot be written, the user's name or the password cannot be one.
    """
    import tomli_w

    _check_user(user, "user")
    text = hash_password(password)
    try:
        lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path.parent}: {error.strerror}; expected a directory") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hashes = _read(path) if path.exists() else {}
        new = user not in hashes
        if new and len(hashes) >= _USERS_MAX:
            raise ConfigError(f"{path}: expected at most {_USERS_MAX} users")
        _write(path, tomli_w.dumps({"users": {**hashes, user: text}}))
    finally:
        os.close(lock)
    return new


def lab_user(directory: Path) -> LabUser:
    """Return the user of a lab that has no file of its own, made on the first call for this lab directory.

    The service that is started again in the same lab finds what it had: nobody has to read the password twice.

    Raises:
        ConfigError: the lab's directory cannot be written.
    """
    folder = directory / "novalink"
    made = LabUser(DEFAULT_USER, folder / "password", folder / "secrets.toml")
    if made.secrets_file.exists() and made.password_file.exists():
        return made
    password = secrets.token_urlsafe(32)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; expected a lab directory that can be written") from None
    _write(made.password_file, password + "\n")
    _write(made.secrets_file, f'[users]\n{DEFAULT_USER} = "{_hasher(_QUICK).hash(password)}"\n')
    return made


def read_password(path: Path) -> str:
    """Return the first line of a password file.

    Raises:
        ConfigError: it cannot be read, or there is none in it.
    """
    try:
        with path.open("rb") as file:
            line = file.read(PASSWORD_MAX + 2).split(b"\n", 1)[0].rstrip(b"\r")
        text = line.decode()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file whose first line is a password") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a password in UTF-8") from None
    if not 1 <= len(line) <= PASSWORD_MAX:
        raise ConfigError(f"{path}: expected a first line of 1 to {PASSWORD_MAX} bytes, the password")
    return text


def same_token(given: str, wanted: str) -> bool:
    """Compare two tokens in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode("utf-8", "surrogatepass"))


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; expected a file made by: pvnet novalink passwd FILE USER"
        ) from None
    if len(content) > _FILE_MAX:
        raise ConfigError(f"{path}: more than {_FILE_MAX} bytes; expected users and their hashes")
    try:
        table = tomllib.loads(content.decode())
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; expected TOML") from None
    users = table.get("users")
    if set(table) != {"users"} or not isinstance(users, dict):
        raise ConfigError(f'{path}: expected one table [users] of lines USER = "$argon2id$..."')
    if len(users) > _USERS_MAX:
        raise ConfigError(f"{path}: expected at most {_USERS_MAX} users")
    for user, text in users.items():
        _check_user(user, str(path))
        if not isinstance(text, str):
            raise ConfigError(f"{path}: users.{user}: expected an argon2 hash (pvnet novalink passwd)")
        memory, passes, lanes = _costs(text, f"{path}: users.{user}")
        if memory > _MEMORY_MAX_KIB or passes > _TIME_MAX or lanes > _PARALLEL_MAX:
            raise ConfigError(
                f"{path}: users.{user}: m={memory},t={passes},p={lanes} costs too much at each log-on; "
                f"expected at most m={_MEMORY_MAX_KIB},t={_TIME_MAX},p={_PARALLEL_MAX}"
            )
    return users


def _check_user(user: str, where: str) -> None:
    if not 1 <= len(user) <= _USER_MAX or not user.isprintable() or user != user.strip():
        raise ConfigError(f"{where}: {user[:80]!r} is no user name; expected 1 to {_USER_MAX} printable characters")


def _costs(text: str, where: str = "hash") -> tuple[int, int, int]:
    _needed()
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    try:
        found = extract_parameters(text)
    except (InvalidHashError, ValueError):
        # what stands there may be a password: it is not repeated
        raise ConfigError(f"{where}: no argon2 hash; expected one made by: pvnet novalink passwd FILE USER") from None
    return found.memory_cost, found.time_cost, found.parallelism


def _hasher(costs: tuple[int, int, int]) -> PasswordHasher:
    _needed()
    from argon2 import PasswordHasher

    memory, passes, lanes = costs
    return PasswordHasher(memory_cost=memory, time_cost=passes, parallelism=lanes)


def _needed() -> None:
    try:
        import argon2  # noqa: F401
    except ImportError:
        raise UnavailableError("passwords need argon2: pip install 'pvnet[novalink]'") from None


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - mode
            file.write(text)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ConfigError(f"{path}: {error.strerror}; expected a file that can be written") from None
