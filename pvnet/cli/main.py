"""``pvnet``: finds the verb, loads only that verb's module, and turns every error into a line and an exit code.

Start-up time is part of the tool: a module that is not needed is not imported.  So the verbs are a table with their
help here, and only the one that was asked for is loaded (``cli.tree``).  This module itself loads next to nothing, so
that Ctrl-C finds :func:`run` there to answer it.

Exit codes (contract): 0 fine, 1 a check failed, 2 bad usage or configuration, 3 lab or peer not reachable, 130
interrupted, 141 nobody reads the output any more, 143 terminated (SIGTERM).  A user never sees a
traceback unless ``PVNET_DEBUG=1``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pvnet.core.errors import PvnetError

_USAGE: Final = 2
_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141


class Verb(NamedTuple):
    """One verb: where its function or group of commands is, and its line in the help."""

    name: str
    module: str
    attribute: str
    help: str


VERBS: Final = (
    Verb("demo", "demo", "demo", "Start a lab, run a real session through it, show it."),
    Verb("up", "lab", "up", "Start a lab."),
    Verb("down", "lab", "down", "End a running lab."),
    Verb("ps", "lab", "ps", "Show the processes of a running lab."),
    Verb("logs", "lab", "logs", "Show what the nodes of a running lab print."),
    Verb("check", "lab", "check", "Check a topology file."),
    Verb("schema", "lab", "schema", "Print the JSON Schema of topology files."),
    Verb("lpar", "lpar", "app", "List partitions and power them on and off, through the VMC."),
    Verb("vmc", "vmc", "app", "Speak over the virtual management channel of a running lab."),
    Verb("scm", "scm", "app", "Storage-class-memory devices of a running lab."),
    Verb("vbus", "vbus", "app", "Buses, devices, members and switches of a running lab."),
    Verb("mdev", "mdev", "app", "Mediated devices of a running lab: life, users, files."),
    Verb("novalink", "novalink", "app", "For management software: its CA, users, and labs made of living systems."),
    Verb("attach", "attach", "attach", "Join a TAP, a capture, another lab or a vfio-user client to a lab."),
    Verb("mount", "mount", "mount", "Mount /dev/ibmvmc of a running lab as a file (FUSE)."),
    Verb("record", "record", "record", "Record a running lab into a capture file."),
    Verb("convert", "convert", "convert", "Convert captures and recordings; read logs of other software."),
    Verb("hcall", "hcall", "hcall", "Have a partition make one hypervisor call."),
    Verb("show", "show", "show", "Show a capture, a recording or a log, one line per message."),
    Verb("chart", "chart", "chart", "Draw a capture: sequence diagram, page to look through, plots."),
    Verb("replay", "replay", "replay", "Play a recording: as a node of a running lab, or to look at."),
    Verb("conformance", "conformance", "conformance", "Run recordings of real machines and compare."),
    Verb("bench", "bench", "bench", "Measure, side by side with other software."),
    Verb("supported", "hcall", "supported", "What of the protocols is implemented."),
)


def _verb(arguments: Sequence[str]) -> str | None:
    """Return the word that names the verb; '' when there is none; None when a shell asks for completions."""
    if "_PVNET_COMPLETE" in os.environ:
        return None
    return next((word for word in arguments if not word.startswith("-")), "")


def _complain(text: str) -> None:
    sys.stderr.write(f"pvnet: {text}\n")


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    try:
        from pvnet.cli.tree import build

        app = build(_verb(arguments))
        code = app(args=list(arguments), prog_name="pvnet", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the last resort: every error becomes a line and an exit code
        if os.environ.get("PVNET_DEBUG") == "1" and not _is_usage(error):
            import traceback

            traceback.print_exc()
        return _exit_code(_first(error))


def _first(error: BaseException) -> BaseException:
    """Return what went wrong first in a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_usage(error: BaseException) -> bool:
    """Whether the error is a ClickException, wherever this typer keeps it."""
    import typer

    return isinstance(error, typer.BadParameter.__mro__[2])


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED  # before typer, whose import may be what was interrupted
    import typer

    match error:
        case PvnetError():
            _complain(str(error))
            return error.exit_code
        case typer.Abort():
            return _INTERRUPTED
        case typer.Exit():
            return int(error.exit_code)
        case BrokenPipeError() | SystemExit(__context__=BrokenPipeError()):  # the second is typer's way to tell it
            # whoever read our output has had enough; keep the interpreter from flushing into the pipe at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
            return _BROKEN_PIPE
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case _ if _is_usage(error):
            return _usage_error(error)
        case OSError():
            _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            return 1
        case _:
            _complain(f"internal error: {type(error).__name__}: {error} (PVNET_DEBUG=1 shows where)")
            return 1


def _usage_error(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return _USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "pvnet"
    _complain(f"{error.format_message().replace(chr(10), ' ')} (see: {command} --help)")
    return _USAGE


def open_standard_files() -> None:
    """Open ``/dev/null`` where standard input, output or error is closed.

    Otherwise the next file or socket takes its number, and what is printed goes there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = os.fdopen(number, mode, closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def main() -> None:
    """Entry point of the ``pvnet`` program."""
    open_standard_files()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
