"""``pvnet``: finds the verb, loads only that verb's module, and turns every error into a line and an exit code.

Start-up time is part of the tool: a module that is not needed is not imported.  So the verbs are a table with their
help here, and only the one that was asked for is loaded; the others are stand-ins that ``--help`` can list.

Exit codes (contract): 0 fine, 1 a check failed, 2 bad usage or configuration, 3 lab or peer not reachable, 130
interrupted.  A user never sees a traceback unless ``PVNET_DEBUG=1``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

import pvnet
from pvnet.core.errors import PvnetError

_USAGE: Final = 2
_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141
_CLICK_ERROR: Final[type[Exception]] = typer.BadParameter.__mro__[2]  # ClickException, wherever this typer keeps it


@dataclass(frozen=True, slots=True)
class Verb:
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
    Verb("hcall", "hcall", "hcall", "Have a partition make one hypervisor call."),
    Verb("conformance", "conformance", "conformance", "Run recordings of real machines and compare."),
    Verb("bench", "bench", "bench", "Measure, side by side with other software."),
    Verb("supported", "hcall", "supported", "What of the protocols is implemented."),
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"pvnet {pvnet.__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A POWER machine's paravirtual message protocols, between processes over an MQTT broker."""


def _stand_in(help_text: str) -> Callable[[], None]:
    def unloaded() -> None:
        """Stand for a verb that was not asked for."""

    unloaded.__doc__ = help_text
    return unloaded


def build(wanted: str | None) -> typer.Typer:
    """Return the command line with verb ``wanted`` loaded; None loads all of them (shell completion)."""
    app = typer.Typer(
        name="pvnet", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=True
    )
    app.callback()(_root)
    for verb in VERBS:
        if importlib.util.find_spec(f"pvnet.cli.{verb.module}") is None:
            continue
        if wanted not in {None, verb.name}:
            app.command(verb.name, help=verb.help)(_stand_in(verb.help))
            continue
        found: Any = getattr(importlib.import_module(f"pvnet.cli.{verb.module}"), verb.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=verb.name, help=verb.help)
        else:
            app.command(verb.name)(found)
    return app


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
        app = build(_verb(arguments))
        code = app(args=list(arguments), prog_name="pvnet", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the last resort: every error becomes a line and an exit code
        if os.environ.get("PVNET_DEBUG") == "1" and not isinstance(error, _CLICK_ERROR):
            traceback.print_exc()
        return _exit_code(_first(error))


def _first(error: BaseException) -> BaseException:
    """Return what went wrong first in a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _exit_code(error: BaseException) -> int:
    match error:
        case PvnetError():
            _complain(str(error))
            return error.exit_code
        case KeyboardInterrupt() | typer.Abort():
            return _INTERRUPTED
        case typer.Exit():
            return int(error.exit_code)
        case BrokenPipeError() | SystemExit(__context__=BrokenPipeError()):  # the second is typer's way to tell it
            # whoever read our output has had enough; keep the interpreter from flushing into the pipe at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
            return _BROKEN_PIPE
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case _ if isinstance(error, _CLICK_ERROR):
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


def main() -> None:
    """Entry point of the ``pvnet`` program."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
