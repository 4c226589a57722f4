"""``pvnet conformance``: recordings of other people's software against our machines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from pvnet.capture.check import check_file
from pvnet.capture.report import Report
from pvnet.cli.run import JsonOption, run, say, say_json
from pvnet.core.errors import ConfigError

SHOWN_MISMATCHES = 20


class ConformanceTransport(StrEnum):
    """What carries the recorded calls to our machines."""

    LOOPBACK = "loopback"
    MQTT = "mqtt"
    UNIX = "unix"


Check: TypeAlias = Callable[[Path], Report]
"""Runs one recording."""


@dataclass(slots=True)
class _Results:
    reports: list[Report] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)


def conformance(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings: JSON lines, any supported kind.")],
    transport: Annotated[
        ConformanceTransport,
        typer.Option("--transport", help="What carries the calls."),
    ] = ConformanceTransport.LOOPBACK,
    broker: Annotated[
        str, typer.Option("--broker", metavar="auto|embedded|mosquitto|URL", help="The broker of mqtt and unix.")
    ] = "auto",
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Print all mismatches, not {SHOWN_MISMATCHES} a file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run recordings of real software against pvnet's machines and compare.

    A recorded VMC session (pvnet-vmc-transcript/1) runs against the management partition's machine in dialect linux:
    one comparison per recorded CRQ message of the partition, H_COPY_RDMA, H_REG_CRQ, H_FREE_CRQ, H_ENABLE_CRQ and
    H_REQUEST_VMC.  A recorded trace of hcalls (pvnet-hcall-trace/1), of CRQs or of SCM, runs against the hypervisor:
    one comparison per call (return code and registers), queue observation and interrupt observation.

    With --transport mqtt the machine runs in a process of its own: calls, CRQ entries, interrupts, memory and device
    calls are messages through the broker.  With --transport unix they are messages over a unix socket; the two
    processes only find each other at the broker.

    The last line is "N passed, M failed".  Exit 0: all agree; 1: something differs; 2: a file cannot be read or run;
    3: the broker cannot be reached, or it or the other process ended.
    """
    results = _Results()
    match transport:
        case ConformanceTransport.LOOPBACK:
            _run_all(files, check_file, results, show_all=show_all, quiet=as_json)
        case ConformanceTransport.MQTT | ConformanceTransport.UNIX:
            unix = transport is ConformanceTransport.UNIX
            if unix:
                _refuse_forbidden()

            def run_all(check: Check) -> None:
                _run_all(files, check, results, show_all=show_all, quiet=as_json)

            run(_with_broker(broker, run_all, unix=unix))
    _sum_up(results, as_json=as_json)


def _refuse_forbidden() -> None:
    from pvnet.runtime.service import UNIX_VARIABLE

    if os.environ.get(UNIX_VARIABLE) == "never":
        raise ConfigError(f"--transport unix: the environment forbids it ({UNIX_VARIABLE}=never)")


async def _with_broker(broker: str, run_all: Callable[[Check], None], *, unix: bool) -> None:
    """Run with a broker; the runner waits for messages, so it has a thread of its own."""
    from pvnet.cli.demo import checked_broker
    from pvnet.client.conformance.session import RemoteSession

    asked = asyncio.Event()
    with _cancelled_at_sigterm(asked):
        try:
            async with RemoteSession(checked_broker(broker), unix=unix) as session:
                await asyncio.to_thread(run_all, session.check)
        except asyncio.CancelledError:
            if asked.is_set():
                raise typer.Exit(128 + signal.SIGTERM) from None
            raise  # Ctrl-C


@contextlib.contextmanager
def _cancelled_at_sigterm(asked: asyncio.Event) -> Iterator[None]:
    """Cancel the running task at SIGTERM, so that nothing stays behind, and set ``asked``."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end() -> None:
        asked.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _run_all(files: Sequence[Path], check: Check, results: _Results, *, show_all: bool, quiet: bool) -> None:
    for path in files:
        try:
            report = check(path)
        except ConfigError as error:
            results.errors.append(error)
            sys.stdout.flush()
            sys.stderr.write(f"{error}\n")
            continue
        results.reports.append(report)
        if not quiet:
            _print(report, show_all=show_all)


def _sum_up(results: _Results, *, as_json: bool) -> None:
    passed = sum(report.passed for report in results.reports)
    failed = sum(report.failed for report in results.reports)
    if as_json:
        say_json(
            {
                "files": [_as_json(report) for report in results.reports],
                "errors": [str(error) for error in results.errors],
                "passed": passed,
                "failed": failed,
            }
        )
    else:
        say(f"{passed} passed, {failed} failed")
    code = ConfigError.exit_code if results.errors else int(failed > 0)
    if code:
        raise typer.Exit(code)


def _print(report: Report, *, show_all: bool) -> None:
    say(f"{report.name}: {report.passed} passed, {report.failed} failed")
    shown = report.mismatches if show_all else report.mismatches[:SHOWN_MISMATCHES]
    for mismatch in shown:
        say(f"  record {mismatch.n}: {mismatch.what}")
        say(f"    expected {mismatch.expected}")
        say(f"    got      {mismatch.got}")
    if len(shown) < report.failed:
        say(f"  ... and {report.failed - len(shown)} more (--all shows them)")


def _as_json(report: Report) -> dict[str, object]:
    return {
        "file": report.name,
        "passed": report.passed,
        "failed": report.failed,
        "mismatches": [
            {"record": m.n, "what": m.what, "expected": m.expected, "got": m.got} for m in report.mismatches
        ],
    }
