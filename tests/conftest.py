"""Rules for every test: a missing program is counted by name, and in CI nothing may be skipped unnoticed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest
import structlog

_ABSENT = {"net-admin": "no permission for TAPs", "fuse": "/dev/fuse cannot be opened"}
"""Why a test is skipped for a need that is no program."""

# Reasons for which CI may skip a test: .ci/run installs every program, but a container may lack the device, and Ansible
# Galaxy, the only place that has the collection ibm.power_hmc, is not reached from everywhere.
CI_MAY_SKIP: frozenset[str] = frozenset(
    {_ABSENT["fuse"], "no ansible for tests/interop/novalink is fetched (make interop)"}
)

_configure = structlog.configure


def _configure_without_cache(*arguments: Any, **settings: Any) -> None:
    """Set the log up so that no logger keeps the settings of the moment: the next test has its own."""
    _configure(*arguments, **{**settings, "cache_logger_on_first_use": False})


structlog.configure = _configure_without_cache


@pytest.fixture(autouse=True)
def _log_as_it_was():
    """What a test, or a command that it runs in this process, does to the log ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


_SKIPS = pytest.StashKey[Counter[str]]()


def find_program(name: str) -> str | None:
    """Path of a program; Debian keeps daemons in directories that are not on a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


# Makes a network namespace and a TAP in it, in a process of its own.
_TRY_NET_ADMIN = """
import ctypes, fcntl, os, struct
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"try", 0x5002))
assert os.path.isdir("/run") and os.geteuid() == 0, "ip netns needs root"
"""


@cache
def may_net_admin() -> bool:
    """Whether tests may make network namespaces and TAP devices here: ``needs("net-admin")``."""
    return subprocess.run([sys.executable, "-c", _TRY_NET_ADMIN], capture_output=True, check=False).returncode == 0


def is_there(need: str) -> bool:
    """Whether something that a test needs is there: a program, ``net-admin``, or ``fuse``."""
    if need == "fuse":
        return os.access("/dev/fuse", os.R_OK | os.W_OK)
    return may_net_admin() if need == "net-admin" else find_program(need) is not None


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPS] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if not is_there(program):
                pytest.skip(_ABSENT.get(program, f"{program} is not installed"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        item.config.stash[_SKIPS][reason.removeprefix("Skipped: ")] += 1
    return report


def _forbidden(config: pytest.Config) -> dict[str, int]:
    """Skips that fail the run: all of them in CI except the ones listed."""
    if os.environ.get("CI") != "true":
        return {}
    return {reason: count for reason, count in config.stash[_SKIPS].items() if reason not in CI_MAY_SKIP}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _forbidden(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    forbidden = _forbidden(config)
    for reason, count in sorted(config.stash[_SKIPS].items()):
        verdict = ", which CI does not allow" if reason in forbidden else ""
        terminalreporter.write_line(f"skipped {count}: {reason}{verdict}", red=bool(verdict), yellow=not verdict)
