"""``pvnet bench``: measurements side by side with what a user would pick instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pvnet.cli.run import run, say
from pvnet.core.errors import ConfigError

SCENARIOS = ("vmc",)


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Scenarios; default: all (vmc).")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report there.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: everything in under 60 s.")] = False,
    broker: Annotated[
        str, typer.Option("--broker", metavar="auto|embedded|mosquitto|URL", help="Which broker.")
    ] = "auto",
) -> None:
    """Measure, in several rounds, next to peers in the same run; prints medians and ratios."""
    from pvnet.bench.report import machine
    from pvnet.bench.vmc import bench_vmc

    for name in names or SCENARIOS:
        if name.partition("/")[0] not in SCENARIOS:
            raise ConfigError(f"benchmark {name!r}: expected one of {', '.join(SCENARIOS)}")
    results = run(bench_vmc(quick=quick, broker=broker, tell=say))
    if json_file is not None:
        report = {"machine": machine(), "results": [result.shown() for result in results]}
        try:
            json_file.write_text(json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"--json {json_file}: {error.strerror}") from None
    if any(result.lost for result in results):
        raise typer.Exit(1)
