"""Fixtures for tests of management software: a lab of its own for each test, with a NovaLink endpoint.

In ``conftest.py``::

    pytest_plugins = ["pvnet.client.pytest_plugin"]

Then a test that takes ``novalink`` gets an endpoint that nobody used before (:class:`Novalink`: ``url``, ``http``,
``ca``, ``user``, ``password``), and one that takes ``pvnet_lab`` the lab behind it (:class:`TestLab`).  Which lab that
is says the fixture ``pvnet_topology``; override it with a ``pvnet.runtime.topology.Topology`` or a file of your own.

The lab runs as processes beside the test, in a directory of its own and at free ports, so tests may run beside each
other; it ends with the test, and with the process of the tests however that ends.  Nothing is registered by itself: a
project that has pvnet installed for another purpose does not want fixtures of these names.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.runtime import reaper
from pvnet.runtime.child import start_time

if TYPE_CHECKING:
    from pvnet.runtime.topology import Topology

_START_S: Final = 60.0
_STOP_S: Final = 30.0
_COMMAND_S: Final = 60.0
_LAST_WORDS: Final = 2000


class CommandError(subprocess.CalledProcessError):
    """A ``pvnet`` command on a lab has failed; the text says what it said."""

    def __str__(self) -> str:
        """Return the exit code, and the end of what was printed to standard error."""
        said = (self.stderr or "").strip()[-_LAST_WORDS:]
        return f"{super().__str__()}\n{said}" if said else super().__str__()


@dataclass(frozen=True)
class TestLab:
    """A lab that runs for one test."""

    __test__ = False

    name: str
    pid: int
    """The supervisor's."""
    nodes: list[dict[str, Any]]
    """Its processes when it came up: ``name``, ``role``, ``state``, ``pid`` and more, as ``pvnet ps --json``."""
    endpoints: dict[str, Any]
    """How programs outside reach it, as ``pvnet up --json`` says."""
    environment: dict[str, str] = field(repr=False)
    """What programs need in their environment so that ``Lab.join()`` and ``pvnet`` find it."""

    def pvnet(self, *arguments: str, timeout: float = _COMMAND_S) -> str:
        """Run a ``pvnet`` command on it; return what it printed.

        Raises:
            CommandError: its exit code is not 0; the text, and ``stderr``, say why.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pvnet.cli.main", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise CommandError(done.returncode, ["pvnet", *arguments], done.stdout, done.stderr)
        return done.stdout


@dataclass(frozen=True)
class Novalink:
    """A NovaLink endpoint that nobody used before."""

    url: str
    """``https://127.0.0.1:PORT``."""
    http: str | None
    """``http://127.0.0.1:PORT``, for programs that log on by file; None if the topology has none."""
    ca: Path | None
    """CA that vouches for ``url``: ``verify=`` of requests, ``REQUESTS_CA_BUNDLE``."""
    user: str | None
    password: str | None = field(repr=False)
    """Of ``user``; both None where the topology has ``secrets`` of its own."""
    lab: TestLab

    @property
    def host(self) -> str:
        """Host of ``url``."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port of ``url``."""
        return urlsplit(self.url).port or 443


def default_lab() -> Topology:
    """Return the lab of ``pvnet_topology``: a management partition, two partitions that are off, a switch."""
    from pvnet.runtime.topology import LabConfig, PartitionConfig, Topology
    from pvnet.runtime.topology_net import SwitchConfig, VenetConfig
    from pvnet.runtime.topology_novalink import NovalinkConfig

    return Topology(
        lab=LabConfig(name="test"),
        partition=[
            PartitionConfig(name="mp", management=True),
            PartitionConfig(name="lpar1", autostart=False, venet=[VenetConfig()]),
            PartitionConfig(name="lpar2", autostart=False, venet=[VenetConfig()]),
        ],
        switch=[SwitchConfig()],
        novalink=NovalinkConfig(),
    )


@contextlib.contextmanager
def running(topology: Topology | Path | str, *, tls: Path | None = None) -> Iterator[TestLab]:
    """Run a lab beside this process for as long as the block lasts, its NovaLink service at free ports.

    ``tls`` is the folder of the CA, for labs that share one; without it each lab makes its own.

    Raises:
        ConfigError: the topology, or something that it needs here, is wrong.
        UnreachableError: the lab did not come up; the text has its last words.
    """
    with _folder() as (directory, behind):
        file = directory / "lab.toml"
        file.write_text(_as_toml(topology, tls or directory / "tls"))
        with (directory / "stderr").open("w+b") as errors:
            environment = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}
            environment.pop("PVNET_LAB", None)
            command = ["pvnet.cli.main", "up", "-f", str(file), "--json"]
            process = subprocess.Popen(
                # tied to this process by the kernel: nothing is left of a test run that is killed
                [sys.executable, "-P", "-m", "pvnet.runtime.tether", str(os.getpid()), "-m", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                _tell(behind, f"{process.pid} {start_time(process.pid)}")
                shown = _first_line(process, errors)
                yield TestLab(shown["lab"], shown["pid"], shown["nodes"], shown["endpoints"], environment)
            finally:
                _end(process)


@contextlib.contextmanager
def _folder() -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Make a folder for the block, and a process that removes it when this one is killed."""
    # Short, because unix sockets stand in it: their names have at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="pvnet-"))
    try:
        lock = directory / "lock"
        lock.touch()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(lock), str(directory), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
        try:
            yield directory, process
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            _tell(process, "done")
            process.communicate()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _tell(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # somebody killed it: then nobody cleans up behind us
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()


def _as_toml(topology: Topology | Path | str, tls: Path) -> str:
    from pvnet.runtime.topology_file import load_topology

    try:
        import tomli_w
    except ImportError:
        raise ConfigError("the fixtures need tomli-w: pip install 'pvnet[novalink]'") from None
    whole = load_topology(Path(topology)) if isinstance(topology, str | Path) else topology
    if whole.novalink is not None:
        free: dict[str, object] = {"port": 0, "http_port": 0}
        if whole.novalink.tls is None and whole.novalink.cert_file is None:
            free["tls"] = str(tls)
        whole = whole.model_copy(update={"novalink": whole.novalink.model_copy(update=free)})
    return tomli_w.dumps(whole.model_dump(mode="json", by_alias=True, exclude_none=True))


def _first_line(process: subprocess.Popen[bytes], errors: Any) -> dict[str, Any]:
    """Return what the lab says when it is up."""
    assert process.stdout is not None
    until = time.monotonic() + _START_S
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
            raise UnreachableError(f"the lab did not come up within {_START_S:g} s:\n{_last_words(errors)}")
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            code = process.wait(_STOP_S)
            kind = ConfigError if code == ConfigError.exit_code else UnreachableError
            raise kind(f"the lab did not come up (exit code {code}):\n{_last_words(errors)}")
        line += piece
    shown: dict[str, Any] = json.loads(line)
    return shown


def _last_words(errors: Any) -> str:
    errors.seek(0)
    content: bytes = errors.read()
    return content[-_LAST_WORDS:].decode(errors="replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()  # its reaper ends the others
        process.communicate()


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pvnet_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the CA that the labs of this test run share."""
    return tmp_path_factory.mktemp("pvnet-tls")


@pytest.fixture
def pvnet_topology() -> Topology | Path | str:
    """Which lab the tests get; override it with a topology, or the name of a file with one."""
    return default_lab()


@pytest.fixture
def pvnet_lab(pvnet_topology: Topology | Path | str, pvnet_tls: Path) -> Iterator[TestLab]:
    """Give a lab that runs for this test alone."""
    with running(pvnet_topology, tls=pvnet_tls) as lab:
        yield lab


@pytest.fixture
def novalink(pvnet_lab: TestLab) -> Novalink:
    """Give a NovaLink endpoint that nobody used before."""
    endpoint = pvnet_lab.endpoints.get("novalink")
    if endpoint is None:
        raise ConfigError("the topology has no NovaLink service; expected [novalink] in it")
    password_file = endpoint["password_file"]
    password = None
    if password_file is not None:
        from pvnet.novalink.passwords import read_password

        password = read_password(Path(password_file))
    ca = None if endpoint["ca"] is None else Path(endpoint["ca"])
    return Novalink(endpoint["url"], endpoint["http"], ca, endpoint["user"], password, pvnet_lab)
