"""``pvnet convert``: captures, recordings and logs of other software into captures and recordings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pvnet.capture.exporters import WRITTEN, Conversion
from pvnet.capture.exporters import convert as convert_file
from pvnet.cli.run import JsonOption, say, say_json
from pvnet.core.errors import ConfigError

SHOWN_PROBLEMS = 10


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A capture, a recording or a log, told by content.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; - is standard output (with --to).")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help=f"{', '.join(WRITTEN)}; default: by the name of OUT.")
    ] = "",
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="The partition whose hcalls are wanted, of a lab's capture.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Convert between pcapng, pvnet-hcall-trace/1 and pvnet-vmc-transcript/1, and read logs of other software.

    Between the three nothing is lost: a recording that went through pcapng or through the other kind comes back line
    by line.  A lab's capture becomes a recording of one partition's hypervisor calls; a transcript also shows what the
    management application must have done.

    Logs can only be read: hcall_entry/hcall_exit and kvm_hcall_enter/exit from tracefs, trace-cmd report and perf
    script, QEMU's -d int,unimp,guest_errors and -trace, dmesg of ibmvmc (dynamic debug) and papr_scm.  What a log does
    not say stays unknown: such a call is a mark in a recording, not a call.  Lines that cannot be used are skipped,
    counted and named on standard error.

    Exit 0: converted; 2: there is no such conversion, or IN is of no known format.
    """
    if as_json and str(target) == "-":
        raise ConfigError("--json and - for OUT: both are written to standard output; expected one of them")
    done = convert_file(source, target, to, node)
    _complain(done)
    if str(target) == "-":
        return
    if as_json:
        say_json(
            {
                "from": done.from_format,
                "to": done.to_format,
                "written": done.written,
                "incomplete": done.incomplete,
                "others": done.others,
                "partition": done.partition or None,
                "problems": done.problems.texts,
                "problem_count": done.problems.count,
            }
        )
        return
    what = "records" if done.to_format == "pcapng" else "lines"
    say(f"{target}: {done.written} {what} of {done.to_format}, from {done.from_format}")
    if done.incomplete:
        say(f"  {done.incomplete} calls are marks: not all that a recorded call must say is known")
    if done.others:
        say(f"  {done.others} records are no part of it")


def _complain(done: Conversion) -> None:
    problems = done.problems
    for text in problems.texts[:SHOWN_PROBLEMS]:
        sys.stderr.write(f"{text}\n")
    if problems.count > SHOWN_PROBLEMS:
        sys.stderr.write(f"{problems.path}: {problems.count - SHOWN_PROBLEMS} more problems\n")
