"""``pvnet lpar``: partitions, through the management application and the VMC."""

from __future__ import annotations

from typing import Annotated

import typer

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, columns, run, say, say_json
from pvnet.client import Lab
from pvnet.core.names import check_name
from pvnet.pb.v1.management_pb2 import Management, Partition, PowerOff, PowerOn, ShowPartition

app = typer.Typer(no_args_is_help=True, help="List partitions and power them on and off, through the VMC.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The partition.")]


def _shown(partition: Partition) -> dict[str, object]:
    return {
        "name": partition.name,
        "lpar_id": partition.lpar_id,
        "state": Partition.State.Name(partition.state).lower(),
        "management": partition.management,
        "memory_bytes": partition.memory_bytes,
        "pid": partition.pid or None,
        "restarts": partition.restarts,
    }


def _print(partitions: list[Partition], *, as_json: bool) -> None:
    shown = [_shown(p) for p in partitions]
    if as_json:
        say_json(shown)
        return
    rows = [("ID", "NAME", "STATE", "MEMORY", "PID", "RESTARTS", "")]
    for p in shown:
        pid = str(p["pid"] or "-")
        memory = f"{int(str(p['memory_bytes'])) >> 20} MiB"
        note = "management partition" if p["management"] else ""
        rows.append((str(p["lpar_id"]), str(p["name"]), str(p["state"]), memory, pid, str(p["restarts"]), note))
    for line in columns(rows):
        say(line)


async def _list(lab_name: str | None, timeout: float) -> list[Partition]:
    async with Lab.join(lab_name) as lab:
        return await lab.partitions(timeout=timeout)


async def _one(lab_name: str | None, command: Management, timeout: float) -> list[Partition]:
    async with Lab.join(lab_name) as lab:
        return list((await lab.manage(command, timeout=timeout)).partitions)


def _checked(name: str) -> str:
    """Return a partition's name; ConfigError, which repeats no more than its beginning, if it cannot be one."""
    return check_name(name if len(name) <= 40 else f"{name[:40]}...", "partition")


@app.command("list")
def list_partitions(lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """List the partitions and their states."""
    _print(run(_list(lab, timeout)), as_json=as_json)


@app.command()
def show(name: NameArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """Show one partition."""
    _print(run(_one(lab, Management(show_partition=ShowPartition(name=_checked(name))), timeout)), as_json=as_json)


@app.command()
def on(name: NameArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 60.0) -> None:
    """Power a partition on: its process starts; done when it serves."""
    _print(run(_one(lab, Management(power_on=PowerOn(name=_checked(name))), timeout)), as_json=as_json)


@app.command()
def off(name: NameArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 60.0) -> None:
    """Power a partition off: its process ends; done when it is gone."""
    _print(run(_one(lab, Management(power_off=PowerOff(name=_checked(name))), timeout)), as_json=as_json)
