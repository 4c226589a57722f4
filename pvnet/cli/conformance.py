"""``pvnet conformance``: recordings of other people's software against our machines."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pvnet.capture.check import check_file
from pvnet.capture.report import Report
from pvnet.cli.run import JsonOption, say, say_json
from pvnet.core.errors import ConfigError

SHOWN_MISMATCHES = 20


class ConformanceTransport(StrEnum):
    """What carries the recorded calls to our machines."""

    LOOPBACK = "loopback"
    MQTT = "mqtt"


def conformance(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings: JSON lines, any supported kind.")],
    transport: Annotated[
        ConformanceTransport, typer.Option("--transport", help="What carries the calls.")
    ] = ConformanceTransport.LOOPBACK,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Print all mismatches, not {SHOWN_MISMATCHES} a file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run recordings of real software against pvnet's machines and compare.

    A recorded VMC session (pvnet-vmc-transcript/1) runs against the management partition's machine in dialect linux:
    one comparison per recorded CRQ message of the partition, H_COPY_RDMA, H_REG_CRQ, H_FREE_CRQ, H_ENABLE_CRQ and
    H_REQUEST_VMC.  A recorded trace of CRQ or SCM hcalls (pvnet-hcall-trace/1) runs against the hypervisor: one
    comparison per call (return code and registers), queue observation and interrupt observation.

    The last line is "N passed, M failed".  Exit 0: all agree; 1: something differs; 2: a file cannot be read or run.
    """
    if transport is not ConformanceTransport.LOOPBACK:
        raise ConfigError(f"--transport {transport}: expected loopback: recordings run on this transport only so far")
    reports: list[Report] = []
    errors: list[ConfigError] = []
    for path in files:
        try:
            report = check_file(path)
        except ConfigError as error:
            errors.append(error)
            sys.stdout.flush()
            sys.stderr.write(f"{error}\n")
            continue
        reports.append(report)
        if not as_json:
            _print(report, show_all=show_all)
    passed, failed = sum(report.passed for report in reports), sum(report.failed for report in reports)
    if as_json:
        say_json(
            {
                "files": [_as_json(report) for report in reports],
                "errors": [str(error) for error in errors],
                "passed": passed,
                "failed": failed,
            }
        )
    else:
        say(f"{passed} passed, {failed} failed")
    code = ConfigError.exit_code if errors else int(failed > 0)
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
