"""``pvnet bench``: measurements side by side with what a user would pick instead."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvnet.cli.run import run, say
from pvnet.core.errors import ConfigError

if TYPE_CHECKING:
    from pvnet.bench.report import Result

SCENARIOS = {
    "vmc": ("echo-64", "echo-4096"),
    "hcall": ("mqtt-rtt", "mqtt-pipelined", "unix-rtt", "unix-concurrent"),
    "crq": ("unix-rtt",),
    "rdma": ("4KiB", "64KiB", "1MiB", "64MiB"),
    "ring": ("64B-batched", "64B-batched-lists", "64B-single", "64B-rtt", "64B-rtt-spin"),
    "venet": ("throughput", "rtt"),
    "mdev": (
        *("region-read-rtt", "region-write-rtt", "region-read-pipelined", "region-write-pipelined"),
        *("irq-rtt", "ccw-read", "dma"),
    ),
    "capture": ("write", "read", "vmc-overhead", "ring-overhead"),
    "novalink": ("get-rtt", "get-concurrent", "refresh-concurrent"),
}
"""Every scenario with its cases, in the order in which they are measured."""
_FUNCTIONS = {
    "vmc": "pvnet.bench.vmc:bench_vmc",
    "hcall": "pvnet.bench.hcall:bench_hcall",
    "crq": "pvnet.bench.crq:bench_crq",
    "rdma": "pvnet.bench.rdma:bench_rdma",
    "ring": "pvnet.bench.ring:bench_ring",
    "venet": "pvnet.bench.venet:bench_venet",
    "mdev": "pvnet.bench.mdev:bench_mdev",
    "capture": "pvnet.bench.capture:bench_capture",
    "novalink": "pvnet.bench.novalink:bench_novalink",
}
"""What measures a scenario; imported when it is asked for, since each brings its own libraries."""


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Scenarios (ring) or cases (hcall/mqtt-rtt); default: all."),
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

    chosen = chosen_cases(names or [])
    results: list[Result] = []
    try:
        run(_measure(chosen, results, quick=quick, broker=broker))
    finally:  # what was measured before a scenario failed is not lost
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


async def _measure(chosen: dict[str, set[str]], results: list[Result], *, quick: bool, broker: str) -> None:
    for scenario in SCENARIOS:
        if scenario in chosen:
            measure = _function(scenario)
            results += await measure(quick=quick, broker=broker, cases=chosen[scenario], tell=say)


def _function(scenario: str) -> Callable[..., Awaitable[list[Result]]]:
    module, _, name = _FUNCTIONS[scenario].partition(":")
    function: Callable[..., Awaitable[list[Result]]] = getattr(import_module(module), name)
    return function
