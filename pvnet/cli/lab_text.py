"""What ``up``, ``ps`` and their ``--json`` say of a running lab."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pvnet.cli.run import columns
from pvnet.runtime.endpoints import read_endpoints

if TYPE_CHECKING:
    from pvnet.runtime.lab_dir import LabDir, LabInfo


def described(directory: LabDir, info: LabInfo) -> dict[str, Any]:
    """Return what ``up --json`` and ``ps --json`` print: the lab, its processes, and how programs outside reach it."""
    return {**info.public(), "endpoints": read_endpoints(directory.path)}


def endpoint_lines(directory: LabDir) -> list[str]:
    """Return one line per endpoint: its address, then what one needs to get in."""
    lines = []
    for name, value in read_endpoints(directory.path).items():
        match value:
            case {"url": str(address), **rest}:
                shown = [f"{str(key).replace('_', ' ')} {rest[key]}" for key in rest if rest[key] is not None]
                lines.append(f"{name}: {address}" + (f" ({', '.join(shown)})" if shown else ""))
            case list():
                lines.append(f"{name}: {', '.join(map(str, value))}")
            case _:
                lines.append(f"{name}: {value}")
    return lines


def ps_lines(info: LabInfo) -> list[str]:
    """Return the lab and its processes as a table."""
    url = info.broker_url().redacted() if info.broker else "-"
    lines = [f"lab {info.lab}: {info.state}, pid {info.pid}, broker {info.broker_kind} at {url}"]
    rows = [("NODE", "ROLE", "STATE", "PID", "RESTARTS", "FOR", "")]
    now = time.time()
    for node in info.nodes:
        since = _duration(now - node.since) if node.since is not None else "-"
        note = node.text if node.state in {"failed", "starting"} else ""
        rows.append((node.name, node.role, node.state, str(node.pid or "-"), str(node.restarts), since, note))
    return lines + columns(rows)


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below}{lower}"
    return f"{whole}s"
