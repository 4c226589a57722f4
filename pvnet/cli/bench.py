"""``pvnet bench``: measurements side by side with what a user would pick instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvnet.cli.run import run, say
from pvnet.core.errors import ConfigError

if TYPE_CHECKING:
    from pvnet.bench.report import Result

SCENARIOS = {"vmc": ("echo-64", "echo-4096"), "hcall": ("mqtt-rtt", "mqtt-pipelined")}
"""Every scenario with its cases, in the order in which they are measured."""


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Scenarios (vmc, hcall) or cases (hcall/mqtt-rtt); default: all."),
    ] = None,
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

    results = run(_measure(chosen_cases(names or []), quick=quick, broker=broker))
    if json_file is not None:
        report = {"machine": machine(), "results": [result.shown() for result in results]}
        try:
            json_file.write_text(json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"--json {json_file}: {error.strerror}") from None
    if any(result.lost for result in results):
        raise typer.Exit(1)


def chosen_cases(names: list[str]) -> dict[str, set[str]]:
    """Return the cases that are meant, by scenario; all when none is named.

    :raises ConfigError: there is no such scenario or case.
    """
    chosen: dict[str, set[str]] = {}
    for name in names or SCENARIOS:
        scenario, slash, case = name.partition("/")
        if scenario not in SCENARIOS:
            raise ConfigError(f"benchmark {name!r}: expected one of {', '.join(SCENARIOS)}")
        cases = SCENARIOS[scenario]
        if slash and case not in cases:
            raise ConfigError(f"benchmark {name!r}: expected one of {', '.join(f'{scenario}/{c}' for c in cases)}")
        chosen.setdefault(scenario, set()).update([case] if slash else cases)
    return chosen


async def _measure(chosen: dict[str, set[str]], *, quick: bool, broker: str) -> list[Result]:
    from pvnet.bench.hcall import bench_hcall
    from pvnet.bench.vmc import bench_vmc

    results: list[Result] = []
    for scenario, function in (("vmc", bench_vmc), ("hcall", bench_hcall)):
        if scenario in chosen:
            results += await function(quick=quick, broker=broker, cases=chosen[scenario], tell=say)
    return results
