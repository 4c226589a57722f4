"""``pvnet up|down|ps|logs|check|schema``: labs and topologies."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pvnet.cli.lab_text import described, endpoint_lines, ps_lines
from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, run, say, say_json
from pvnet.core.errors import ConfigError, PvnetError, UnreachableError

if TYPE_CHECKING:
    from pvnet.runtime.lab_dir import LabDir, LabInfo
    from pvnet.runtime.supervisor import SupervisorEvent
    from pvnet.runtime.topology import Topology

_FOLLOW_S: Final = 0.2

BrokerOption = Annotated[
    str | None,
    typer.Option("--broker", metavar="auto|embedded|mosquitto|URL", help="Which broker, instead of the topology's."),
]


# --- up ---------------------------------------------------------------------------------------------------------------


def up(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Topology; without one a built-in lab.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the lab is up; it goes on running.")
    ] = False,
    lab: Annotated[str | None, typer.Option("--lab", metavar="NAME", help="Name, instead of the topology's.")] = None,
    broker: BrokerOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when the lab is up: processes and endpoints.")
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Everything logged as JSON lines.")] = False,
    notify_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start a lab and keep it until Ctrl-C, `pvnet down`, or (with --detach) until it is ended.

    Prints which broker was chosen and why, and where programs outside find the lab.
    """
    import pvnet.runtime.plain_structlog  # noqa: F401 - before the others load structlog
    from pvnet.runtime.topology_file import resolve_topology

    topology = resolve_topology(file, lab=lab, broker=broker)
    if detach:
        options = {"--file": file, "--lab": lab, "--broker": broker}
        arguments = [word for option, value in options.items() if value is not None for word in (option, str(value))]
        _detach(topology, [*arguments, *(["--log-json"] if log_json else [])], as_json=as_json)
    elif notify_fd is not None:
        _serve_detached(topology, notify_fd, log_json=log_json)
    else:
        code = run(_serve(topology, _Printer(log_json=log_json, only_up=as_json), log_json=log_json))
        if code:
            raise typer.Exit(code)


class _Printer:
    """Says what happens to the lab: one line per event on standard output; or only, as JSON, that it is up."""

    def __init__(self, *, log_json: bool, only_up: bool = False) -> None:
        self._json = log_json
        self._only_up = only_up

    def event(self, event: SupervisorEvent) -> None:
        """Say one event."""
        if self._only_up:
            return
        if self._json:
            say_json({"timestamp": time.time(), "node": event.node, "event": event.what, "text": event.text})
        elif event.what not in {"starting", "stopping"} or event.text:
            text = event.text.replace("\n", "\n  ")
            say(f"{event.node}: {event.what}{' - ' if text else ''}{text}")
        sys.stdout.flush()

    def up(self, topology: Topology) -> None:
        """Say that everything serves."""
        from pvnet.runtime.lab_dir import find_lab

        name = topology.lab.name
        if self._only_up or not self._json:
            directory, info = find_lab(name)
            if self._only_up:
                say_json(described(directory, info))
            else:
                for line in endpoint_lines(directory):
                    say(line)
                say(f"lab {name} is up; Ctrl-C or `pvnet down --lab {name}` ends it")
        sys.stdout.flush()


async def _serve(topology: Topology, printer: _Printer, *, log_json: bool, notify: int | None = None) -> int:
    """Run a lab until a signal; return the exit code."""
    import asyncio

    from pvnet.runtime.lab import LabProcesses
    from pvnet.runtime.log import configure_logging

    configure_logging(level=topology.lab.log_level, json_lines=log_json)
    processes = LabProcesses(topology, log_json=log_json, on_event=printer.event)
    loop = asyncio.get_running_loop()
    starting = loop.create_task(processes.__aenter__())
    asked: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        asked.append(number)
        processes.supervisor.request_stop()
        starting.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        await starting
    except asyncio.CancelledError:
        if not asked:
            raise
    else:
        try:
            printer.up(topology)
            if notify is not None:
                _notify(notify, {})
            await processes.supervisor.wait()
        finally:
            await processes.__aexit__()
    return 130 if asked and asked[0] == signal.SIGINT else 0


def _notify(descriptor: int, message: dict[str, Any]) -> None:
    """Tell the `pvnet up --detach` that waits for us; it may be gone."""
    try:
        os.write(descriptor, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return
    finally:
        os.close(descriptor)


def _serve_detached(topology: Topology, notify: int, *, log_json: bool) -> None:
    """Be the process behind `pvnet up --detach`: words go to the lab's own log, the first ones to who waits."""

    class LogFile(_Printer):
        ready = False

        def event(self, event: SupervisorEvent) -> None:
            if not self.ready:  # the first event: the directory is there now
                self.ready = True
                from pvnet.runtime.lab_dir import LabDir
                from pvnet.runtime.topology import SUPERVISOR

                log = os.open(LabDir(topology.lab.name).log(SUPERVISOR), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                for stream in (1, 2):
                    os.dup2(log, stream)
                os.close(log)
            super().event(event)

    try:
        run(_serve(topology, LogFile(log_json=log_json), log_json=log_json, notify=notify))
    except PvnetError as error:
        _notify(notify, {"error": str(error), "code": error.exit_code})
        raise


def _detach(topology: Topology, arguments: list[str], *, as_json: bool) -> None:
    """Start ourselves again in the background; return when the lab is up."""
    import subprocess

    from pvnet.runtime.lab_dir import find_lab

    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pvnet.cli.main", "up", *arguments, "--notify-fd", str(write_end)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[write_end],
        start_new_session=True,
    )
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as notices:
            line = notices.readline()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    message: dict[str, Any] = (
        json.loads(line) if line else {"error": "the lab's supervisor ended without a word", "code": 3}
    )
    if "error" in message:
        process.wait()
        raise _by_code(message["code"])(message["error"])
    directory, info = find_lab(topology.lab.name)
    process.returncode = 0  # it goes on without us; keeps subprocess from complaining about that
    if as_json:
        say_json(described(directory, info))
        return
    say(f"broker: {info.broker_kind} at {info.broker_url().redacted()} ({info.broker_reason})")
    running = [n.name for n in info.nodes if n.state == "running" and n.role != "broker"]
    for text in endpoint_lines(directory):
        say(text)
    say(f"lab {info.lab} is up: {', '.join(running)}; end it with: pvnet down --lab {info.lab}")


def _by_code(code: int) -> type[PvnetError]:
    return {ConfigError.exit_code: ConfigError, UnreachableError.exit_code: UnreachableError}.get(code, PvnetError)


# --- down, ps, logs ---------------------------------------------------------------------------------------------------


def down(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="End the lab of this topology.")
    ] = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 60.0,
) -> None:
    """End a running lab in good order."""
    from pvnet.runtime.lab_dir import find_lab

    if file is not None and lab is None:
        from pvnet.runtime.topology_file import load_topology

        lab = load_topology(file).lab.name
    directory, info = find_lab(lab)
    try:
        pidfd = os.pidfd_open(info.pid)
    except ProcessLookupError:
        pidfd = -1
    if pidfd >= 0:
        try:
            if directory.running():  # the lock is held: this pid is still the supervisor's
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], timeout)[0]:
                raise UnreachableError(f"lab {info.lab} did not end within {timeout:g} s (pid {info.pid})")
        finally:
            os.close(pidfd)
    say(f"lab {info.lab} is down")


def ps(lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Show the processes of a running lab."""
    from pvnet.runtime.lab_dir import find_lab

    directory, info = find_lab(lab)
    if as_json:
        say_json(described(directory, info))
        return
    for line in [*ps_lines(info), *endpoint_lines(directory)]:
        say(line)


def logs(
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="Only this node; without it all of them.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the lab ends or Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines; 0: all.")] = 0,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the nodes of a running lab print."""
    from pvnet.runtime.lab_dir import find_lab

    directory, info = find_lab(lab)
    tails = {name: _Tail(directory, name) for name in _nodes_with_logs(directory, info, node)}
    for name, tail in tails.items():
        found = tail.read()
        _print_lines(name, found[-lines:] if lines else found, prefix=node is None, as_json=as_json)
    if follow:
        _follow(info, tails, prefix=node is None, as_json=as_json)


def _nodes_with_logs(directory: LabDir, info: LabInfo, node: str | None) -> list[str]:
    names = [n.name for n in info.nodes]
    there = sorted(p.stem for p in directory.logs.glob("*.log") if p.stem not in names)
    if node is None:
        return [*there, *names]
    if node not in [*there, *names]:
        raise ConfigError(f"no node {node!r} in lab {info.lab}; there are: {', '.join([*there, *names])}")
    return [node]


class _Tail:
    """The whole lines of a node's log, as they come."""

    def __init__(self, directory: LabDir, node: str) -> None:
        from pvnet.runtime.log_files import LogReader

        self._reader = LogReader(directory.log(node))
        self._rest = b""

    def read(self) -> list[str]:
        """Return the lines that are new since the last call."""
        *whole, self._rest = (self._rest + self._reader.read()).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def _print_lines(node: str, lines: list[str], *, prefix: bool, as_json: bool) -> None:
    for line in lines:
        if as_json:
            say_json({"node": node, "line": line})
        else:
            say(f"{node}: {line}" if prefix else line)


def _follow(info: LabInfo, tails: dict[str, _Tail], *, prefix: bool, as_json: bool) -> None:
    try:
        supervisor = os.pidfd_open(info.pid)
    except ProcessLookupError:
        return
    try:
        ended = False
        while not ended:
            sys.stdout.flush()
            ended = bool(select.select([supervisor], [], [], _FOLLOW_S)[0])
            for name, tail in tails.items():
                _print_lines(name, tail.read(), prefix=prefix, as_json=as_json)
    finally:
        os.close(supervisor)


# --- check, schema ----------------------------------------------------------------------------------------------------


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Topology, in TOML.")], as_json: JsonOption = False
) -> None:
    """Check a topology file; says file, line, field, what stands there and what was expected."""
    from pvnet.runtime.topology_file import TopologyError, check_topology

    try:
        topology = check_topology(file)
    except TopologyError as error:
        if as_json:
            say_json({"ok": False, "problems": [p.as_json() for p in error.problems]})
        else:
            for problem in error.problems:
                sys.stderr.write(f"{problem}\n")
        raise typer.Exit(error.exit_code) from None
    if as_json:
        say_json({"ok": True, "lab": topology.lab.name, "nodes": topology.node_names, "problems": []})
    else:
        say(f"{file}: ok, lab {topology.lab.name} with {', '.join(topology.node_names)}")


def schema() -> None:
    """Print the JSON Schema of topology files."""
    from pvnet.runtime.topology import json_schema

    say(json.dumps(json_schema(), indent=2))
