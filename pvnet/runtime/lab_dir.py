"""Where a running lab keeps its files, and how one finds it.

``$XDG_RUNTIME_DIR/pvnet/`` or ``$TMPDIR/pvnet-<uid>/`` holds per lab a directory (``lab.json``, ``logs/``, the broker's
configuration) and a lock file.  Both are ours alone (mode 0700, owner checked: on a shared ``/tmp`` somebody else may
have made the directory first, and ``lab.json`` has the broker's password).

A lab lives exactly as long as its supervisor holds the lock, which the kernel releases however the supervisor ends.  A
directory without a held lock is what a killed lab left: :meth:`LabDir.acquire` ends its processes and removes it.  The
lock file stands beside the directory and is unlinked while held; who waits for the old file notices that the name has
another file now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.core.names import check_name
from pvnet.runtime.child import start_time
from pvnet.runtime.reaper import take
from pvnet.transport.uri import BrokerUrl

_GLANCE_S: Final = 0.01
_PATIENCE: Final = 500


class NodeInfo(BaseModel):
    """One process of a lab, as ``ps`` shows it."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: str
    state: str
    """off, starting, running, stopping, failed."""
    pid: int | None = None
    started: int | None = None
    """Start time in clock ticks since boot; with the pid it names the process for ever."""
    since: float | None = None
    """When it got into this state (seconds since 1970)."""
    restarts: int = 0
    text: str = ""


class LabInfo(BaseModel):
    """Content of ``lab.json``."""

    model_config = ConfigDict(frozen=True)

    lab: str
    pid: int
    """The supervisor."""
    state: str
    """starting, running, stopping."""
    broker: str
    """Address with user and password; empty until the broker serves."""
    broker_kind: str
    broker_reason: str
    since: float
    nodes: list[NodeInfo] = []
    topology: dict[str, Any] = {}

    def broker_url(self) -> BrokerUrl:
        """Return how to reach the broker.

        :raises UnreachableError: the lab has not got that far.
        """
        if not self.broker:
            raise UnreachableError(f"lab {self.lab} is still starting: its broker does not serve yet")
        return BrokerUrl.parse(self.broker)

    def public(self) -> dict[str, Any]:
        """Return it without the password, for ``--json``."""
        shown = self.model_dump(exclude={"topology"})
        shown["broker"] = self.broker_url().redacted() if self.broker else ""
        return shown


def base_directory() -> Path:
    """The directory of all labs of this user (it may not exist)."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return Path(runtime) / "pvnet"
    return Path(tempfile.gettempdir()) / f"pvnet-{os.getuid()}"


def _private(path: Path) -> Path:
    """Make ``path`` a directory that only we can enter; refuse one that is not."""
    try:
        path.mkdir(mode=0o700, exist_ok=True, parents=False)
        found = path.lstat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a directory that can be written") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{path}: expected a directory of user {os.getuid()} with mode 0700; remove it")
    return path


class LabDir:
    """The directory of one lab, held by its supervisor.  ``acquire`` first; ``release`` removes everything."""

    def __init__(self, lab: str, base: Path | None = None) -> None:
        self.lab = check_name(lab, "lab")
        self.base = base or base_directory()
        self.path = self.base / self.lab
        self.lock_path = self.base / f"{self.lab}.lock"
        self._lock: int | None = None

    @property
    def logs(self) -> Path:
        """Directory of the nodes' logs."""
        return self.path / "logs"

    def log(self, node: str) -> Path:
        """Log file of one node."""
        return self.logs / f"{node}.log"

    def acquire(self) -> None:
        """Take the lab's name and make its directory, clearing what a killed lab of that name left.

        :raises ConfigError: a lab of that name is running, or the directory is not ours.
        """
        _private(self.base)
        lock = self._take_lock()
        patience = _PATIENCE
        while lock is None and patience and not self._holder_lives():
            time.sleep(_GLANCE_S)  # a glance of `ps`, or the reaper of a lab that was just killed
            patience -= 1
            lock = self._take_lock()
        if lock is None:
            pid = self.holder()
            raise ConfigError(f"lab {self.lab} is already running (pid {pid}): pvnet down --lab {self.lab}")
        self._lock = lock
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._clear()
        _private(self.path)
        self.logs.mkdir(mode=0o700)

    def release(self) -> None:
        """Remove the directory and give the name back.  Idempotent."""
        if self._lock is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.lock_path.unlink()
        os.close(self._lock)
        self._lock = None
        with contextlib.suppress(OSError):
            self.base.rmdir()  # only when no other lab is there

    def write(self, info: LabInfo) -> None:
        """Replace ``lab.json`` in one step."""
        new = self.path / "lab.json.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - mode
            file.write(info.model_dump_json())
        new.replace(self.path / "lab.json")

    def read(self) -> LabInfo | None:
        """Return what ``lab.json`` says, or None when there is none (or it is not one)."""
        try:
            return LabInfo.model_validate_json((self.path / "lab.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def running(self) -> bool:
        """Whether a supervisor holds the lab."""
        try:
            lock = os.open(self.lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def holder(self) -> int | None:
        """Pid in the lock file."""
        try:
            return int(self.lock_path.read_text())
        except (OSError, ValueError):
            return None

    def _holder_lives(self) -> bool:
        pid = self.holder()
        return pid is not None and start_time(pid) is not None

    def _take_lock(self) -> int | None:
        while True:
            lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if not take(lock):
                    os.close(lock)
                    return None
                held, named = os.fstat(lock), self.lock_path.stat()
            except FileNotFoundError:
                os.close(lock)
                continue  # its last holder removed it between our open and our lock
            if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
                return lock
            os.close(lock)

    def _clear(self) -> None:
        """End the processes and remove the directory of a lab whose supervisor and reaper were killed."""
        left = self.read()
        for node in left.nodes if left is not None else []:
            if node.pid is not None and node.started is not None and start_time(node.pid) == node.started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(node.pid, signal.SIGKILL)
        if self.path.is_symlink() or self.path.is_file():
            self.path.unlink()
        elif self.path.exists():
            shutil.rmtree(self.path)


def running_labs(base: Path | None = None) -> list[str]:
    """Names of this user's running labs."""
    base = base or base_directory()
    try:
        names = sorted(p.stem for p in base.glob("*.lock"))
    except OSError:
        return []
    return [name for name in names if LabDir(name, base).running()]


def find_lab(name: str | None = None, base: Path | None = None) -> tuple[LabDir, LabInfo]:
    """Find the running lab of that name, or the only one there is.

    :raises UnreachableError: it is not running.
    :raises ConfigError: several are running and none was named.
    """
    if name is None:
        name = os.environ.get("PVNET_LAB") or None
    if name is None:
        names = running_labs(base)
        if not names:
            raise UnreachableError("no lab is running; start one with: pvnet up")
        if len(names) > 1:
            raise ConfigError(f"several labs are running ({', '.join(names)}): choose one with --lab NAME")
        name = names[0]
    directory = LabDir(name, base)
    info = directory.read() if directory.running() else None
    if info is None:
        raise UnreachableError(f"lab {name} is not running; start it with: pvnet up --lab {name}")
    return directory, info


def dump(info: LabInfo) -> str:
    """Return ``info`` as JSON for a user: no password."""
    return json.dumps(info.public())
