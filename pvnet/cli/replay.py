"""``pvnet replay``: a recording comes back, as a node of a living lab, as hypervisor calls, or to be looked at."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvnet.capture.importers import Problems
from pvnet.cli.run import JsonOption, LabOption, run, say, say_json
from pvnet.core.errors import ConfigError, PvnetError

if TYPE_CHECKING:
    from pvnet.capture.expect import Expectation, Rules
    from pvnet.capture.model import Record
    from pvnet.capture.player import Due, Pace, Player, Selection
    from pvnet.capture.role_plan import Plan
    from pvnet.client import Lab

SHOWN_DIFFERENCES = 50


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capture, a recording or a log.")],
    node: Annotated[
        str | None,
        typer.Option("--as", metavar="NODE", help="Play this node against the others; of hcalls: who makes them."),
    ] = None,
    expect: Annotated[
        bool, typer.Option("--expect", help="Compare every living answer with the recorded one; exit 1 if one differs.")
    ] = False,
    rules: Annotated[
        Path | None, typer.Option("--rules", metavar="FILE", help="TOML: what may differ, and what names the same.")
    ] = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Publish it for dashboards, below pvnet/v1/LAB-replay; nobody is asked.")
    ] = False,
    speed: Annotated[
        str, typer.Option("--speed", metavar="X|max", help="1.0 as recorded, 2 twice as fast, max without waiting.")
    ] = "",
    start: Annotated[
        float | None, typer.Option("--from", metavar="SECONDS", help="Begin so long after the first record.")
    ] = None,
    end: Annotated[
        float | None, typer.Option("--to", metavar="SECONDS", help="End so long after the first record.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATTERN", help="Only these nodes, channels, node/channel or bodies."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="PATTERN", help="Not these.")] = None,
    names: Annotated[
        list[str] | None, typer.Option("--map", metavar="OLD=NEW", help="A node has another name here.")
    ] = None,
    loop: Annotated[str, typer.Option("--loop", metavar="N|inf", help="How many times.")] = "1",
    skip_gaps: Annotated[
        float | None, typer.Option("--skip-gaps", metavar="SECONDS", help="A longer pause lasts only so long.")
    ] = None,
    step: Annotated[bool, typer.Option("--step", help="One record for each Enter.")] = False,
    patience: Annotated[
        float, typer.Option("--patience", min=0.01, max=3600, help="Seconds that an answer may take longer than then.")
    ] = 5.0,
    wait: Annotated[
        float, typer.Option("--wait", min=0.01, max=3600, help="Seconds that other nodes of the lab may take to come.")
    ] = 10.0,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when a node of that name runs: it ends.")
    ] = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a recording.

    Without --as and --observe the records are printed, each at its time.  With --as NODE what NODE said is said again
    to the living others, each message when what it had heard before has come again; the recording should begin with
    the start of NODE, and NODE must not run.  A trace of hypervisor calls is made again by the partition NODE.
    """
    from pvnet.capture.expect import DEFAULT_RULES, Rules
    from pvnet.capture.player import Pace, Selection, parse_map

    if node is not None and observe:
        raise ConfigError("--as and --observe: expected one of them")
    if node is None and (expect or rules is not None):
        raise ConfigError("--expect and --rules: expected --as NODE with them")
    if step and node is not None:
        raise ConfigError("--step and --as: expected one of them (the others do not wait)")
    fallback = "max" if node is not None else "1"
    pace = Pace(_speed(speed or fallback), skip_gaps, _loops(loop), step)
    selection = Selection(tuple(only or ()), tuple(skip or ()), start, end)
    job = _Job(
        file=file,
        pace=pace,
        selection=selection,
        names=parse_map(names or ()),
        rules=Rules.load(rules) if rules is not None else DEFAULT_RULES,
        lab=lab,
        patience=patience,
        wait=wait,
        take_over=take_over,
    )
    if node is None:
        counts = run(_observe(job) if observe else _print(job, as_json=as_json))
        if as_json:
            say_json(counts)
        elif observe:
            say(", ".join(f"{count} {what}" for what, count in counts.items()))
        job.complain()
        return
    found = run(_play(job, node))
    if as_json:
        say_json(_shown(found))
    else:
        _say(found, expect=expect)
    job.complain()
    if expect and found.differences:
        raise typer.Exit(1)


@dataclass(slots=True)
class _Job:
    file: Path
    pace: Pace
    selection: Selection
    names: dict[str, str]
    rules: Rules
    lab: str | None
    patience: float
    wait: float
    take_over: bool
    problems: Problems = field(default_factory=Problems)

    def complain(self) -> None:
        """Say what could not be read; exit code 1 then.

        Raises:
            PvnetError: something is damaged.
        """
        if self.problems.texts:
            raise PvnetError("\npvnet: ".join(self.problems.texts[:20]))

    def records(self) -> Iterator[Record]:
        """Read the file."""
        from pvnet.capture.importers.opening import open_any

        self.problems = Problems()  # a role's plan reads the file twice
        return open_any(self.file, self.problems)

    def player(self) -> Player:
        """Return a player of the file."""
        from pvnet.capture.player import Player

        return Player(self.records, self.pace, self.selection, self.names)


@dataclass(slots=True)
class _Found:
    node: str
    expectation: Expectation
    said: int
    left_out: dict[str, int]
    loops: int = 1

    @property
    def differences(self) -> int:
        """How many there are."""
        return self.expectation.total


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--speed {text[:40]!r}: expected a number such as 1.0, or max") from None


def _loops(text: str) -> int | None:
    if text == "inf":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--loop {text[:40]!r}: expected a number, or inf") from None


# --- looking and observing -------------------------------------------------------------------------------------------


async def _print(job: _Job, *, as_json: bool) -> dict[str, int]:
    from pvnet.capture.decode import decode
    from pvnet.client.replay import play

    player = job.player()

    def one(due: Due) -> None:
        found = decode(due.record)
        if not as_json:
            way = f"{found.source} -> {found.destination}" if found.destination else found.source
            say(f"{due.at_s - begun:10.6f}  {due.record.interface.name:<20} {way:<24} {found.summary}".rstrip())
            sys.stdout.flush()

    begun = asyncio.get_running_loop().time()
    if job.pace.step:
        await _step(player, one)
    else:
        await play(player, one)
    return {"played": player.played, "loops": player.loop}


async def _step(player: Player, one: Callable[[Due], None]) -> None:
    loop = asyncio.get_running_loop()
    player.begin(loop.time())
    while (due := player.step()) is not None:
        one(due)
        if not await asyncio.to_thread(sys.stdin.readline):
            return


async def _observe(job: _Job) -> dict[str, int]:
    from pvnet.capture.player import rename
    from pvnet.capture.role_plan import parties
    from pvnet.client.replay import play
    from pvnet.client.replay_observe import Publisher, observed_lab
    from pvnet.runtime.lab_dir import find_lab

    _, info = find_lab(job.lab)
    nodes = parties(rename(record, job.names) for record in job.selection.select(job.records()))
    if not nodes:
        raise ConfigError(f"{job.file}: no message between nodes is in it that could be published")
    publisher = Publisher(info.broker_url().text(), observed_lab(info.lab), nodes)
    sys.stderr.write(f"publishing below pvnet/v1/{publisher.lab}\n")
    await publisher.start(job.wait)
    try:
        player = job.player()
        if job.pace.step:
            await _step(player, publisher.publish)
        else:
            await play(player, publisher.publish)
    finally:
        await publisher.stop()
    return dict(publisher.counters)


# --- roles -----------------------------------------------------------------------------------------------------------


async def _play(job: _Job, node: str) -> _Found:
    from pvnet.capture.model import LINKTYPE_HCALL
    from pvnet.client import Lab

    kinds = {record.interface.link_type for record in job.selection.select(job.records())}
    async with Lab.join(job.lab) as lab:
        if kinds == {LINKTYPE_HCALL}:
            return await _play_calls(job, lab, node)
        return await _play_role(job, lab, node)


async def _play_calls(job: _Job, lab: Lab, node: str) -> _Found:
    from pvnet.capture.expect import Expectation
    from pvnet.capture.hcall_replay import HcallReplay
    from pvnet.client.replay import play_calls

    lab.topology.partition(node)
    replayed = HcallReplay(Expectation(job.rules))
    await play_calls(lab.endpoint, node, replayed, job.player(), job.wait)
    return _Found(node, replayed.expectation, replayed.made, dict(replayed.left_out))


async def _play_role(job: _Job, lab: Lab, node: str) -> _Found:
    from pvnet.capture.player import rename
    from pvnet.capture.role_plan import make_plan
    from pvnet.capture.roles import Role
    from pvnet.client.replay import play_role, role_name
    from pvnet.core.errors import UnreachableError
    from pvnet.runtime.endpoint import Endpoint
    from pvnet.runtime.lab_dir import find_lab
    from pvnet.runtime.service import make_port

    records = [rename(record, job.names) for record in job.selection.select(job.records())]
    everybody = make_plan(records, node, pace=job.pace, rules=job.rules)
    if not job.take_over and await _is_there(lab, node, 0.5):
        raise ConfigError(
            f"{node} runs in lab {lab.name}: expected one that does not (autostart = false, pvnet lpar off), "
            "or --take-over"
        )
    others = [peer for peer in everybody.peers if peer != node]
    there = await asyncio.gather(*(_is_there(lab, peer, 0.5) for peer in others))
    here = {peer for peer, is_there in zip(others, there, strict=True) if is_there}
    late = {peer for peer in others if peer in lab.topology.node_names} - here
    if not here and not late:
        raise UnreachableError(
            f"nobody is here or can come whom {node} speaks with: {', '.join(others)}; --map OLD=NEW gives other names"
        )
    if late:
        sys.stderr.write(f"{node}: waiting up to {job.wait:g} s for {', '.join(sorted(late))}\n")
    plan: Plan = make_plan(records, node, peers=here | late, pace=job.pace, rules=job.rules)
    broker = find_lab(job.lab)[1].broker_url().text()
    loops, count = job.pace.loops, 0
    found: _Found | None = None
    while loops is None or count < loops:
        count += 1
        role = Role(plan, rules=job.rules, speed=job.pace.speed, patience_s=job.patience, late=late, wait_s=job.wait)
        port = make_port(broker, lab.name, node, unix=lab.topology.lab.unix)
        endpoint = Endpoint(port, lab=lab.name, name=node, role=role_name(lab.topology, node))
        with _progress(node) as progress:
            await play_role(endpoint, role, wait_s=job.wait, progress=progress)
        found = _Found(node, role.expectation, role.counters["said"], dict(plan.left_out + role.left_out), count)
        if found.differences:
            break
    assert found is not None
    return found


async def _is_there(lab: Lab, node: str, seconds: float) -> bool:
    from pvnet.core.errors import DeadlineError

    try:
        await lab.endpoint.wait_peer(node, phase=1, timeout=seconds)
    except DeadlineError:
        return False
    return True


@contextmanager
def _progress(node: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"playing {node}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- telling ---------------------------------------------------------------------------------------------------------


def _say(found: _Found, *, expect: bool) -> None:
    if expect:
        for difference in found.expectation.differences[:SHOWN_DIFFERENCES]:
            say(str(difference))
        if found.differences > SHOWN_DIFFERENCES:
            say(f"... {found.differences - SHOWN_DIFFERENCES} more")
    for reason, count in sorted(found.left_out.items()):
        say(f"not played: {count} messages: {reason}")
    for domain, pairs in found.expectation.same.known().items():
        say(f"other names: {domain}: " + ", ".join(f"{a!r} is {b!r}" for a, b in pairs.items()))
    verdict = f", {found.differences} differences" if expect else ""
    say(f"{found.node}: {found.said} messages said, {found.expectation.matched} heard as recorded{verdict}")


def _shown(found: _Found) -> dict[str, Any]:
    return {
        "node": found.node,
        "said": found.said,
        "matched": found.expectation.matched,
        "differences": [
            {"number": d.number, "what": d.what, "field": d.field, "recorded": d.recorded, "living": d.living}
            for d in found.expectation.differences
        ],
        "total": found.differences,
        "left_out": found.left_out,
        "loops": found.loops,
    }
