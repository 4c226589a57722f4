"""Rules for every test: a missing program is counted by name, and in CI nothing may be skipped unnoticed."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

# Reasons for which CI may skip a test.  Empty: .ci/run installs every program that a test needs.
CI_MAY_SKIP: frozenset[str] = frozenset()

_SKIPS = pytest.StashKey[Counter[str]]()


def find_program(name: str) -> str | None:
    """Path of a program; Debian keeps daemons in directories that are not on a user's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPS] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if find_program(program) is None:
                pytest.skip(f"{program} is not installed")


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
