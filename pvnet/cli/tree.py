"""The command line as typer sees it: every verb, of which only the one that was asked for is loaded.

The others are stand-ins that ``--help`` can list.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import pvnet
from pvnet.cli.main import VERBS


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
