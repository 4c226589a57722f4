"""``pvnet lpar``: partitions, through the VMC: the manager's session, or one of its own in a lab without a manager."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, columns, run, say, say_json
from pvnet.client import Lab
from pvnet.core.errors import ConfigError
from pvnet.core.names import check_name
from pvnet.pb.v1.management_pb2 import (
    CreatePartition,
    DeletePartition,
    Management,
    ModifyPartition,
    Partition,
    PowerOff,
    PowerOn,
    ShowPartition,
)
from pvnet.runtime.topology_base import Size

app = typer.Typer(
    no_args_is_help=True, help="List, make, change and delete partitions, power them on and off, through the VMC."
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The partition.")]
MemoryOption = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Desired memory, as 64MiB.")]
MinMemoryOption = Annotated[str | None, typer.Option("--min-memory", metavar="SIZE", help="Least memory.")]
MaxMemoryOption = Annotated[str | None, typer.Option("--max-memory", metavar="SIZE", help="Most memory.")]

_SIZE: TypeAdapter[int] = TypeAdapter(Size)


def _size(text: str | None, option: str) -> int | None:
    """Return the bytes of an option; ConfigError naming it if it is no size of a partition's memory."""
    if text is None:
        return None
    try:
        return _SIZE.validate_python(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        expected = details.get("ctx", {}).get("error", details["msg"])
        raise ConfigError(f"{option} {text[:40]!r}: expected {expected}") from None


def _shown(partition: Partition) -> dict[str, object]:
    processors = partition.processors
    return {
        "name": partition.name,
        "lpar_id": partition.lpar_id,
        "state": Partition.State.Name(partition.state).lower(),
        "management": partition.management,
        "memory_bytes": partition.memory_bytes,
        "pid": partition.pid or None,
        "restarts": partition.restarts,
        "label": partition.label,
        "uuid": partition.uuid,
        "text": partition.text,
        "min_memory_bytes": partition.min_memory_bytes,
        "max_memory_bytes": partition.max_memory_bytes,
        "current_memory_bytes": partition.current_memory_bytes,
        "processors": processors.units / 100,
        "virtual_processors": processors.virtual,
        "adapters": [
            {"slot": a.slot, "mac": a.mac, "switch": a.switch, "vlan": a.vlan, "device": a.device}
            for a in partition.adapters
        ],
        "revision": partition.revision,
    }


def _print(partitions: list[Partition], *, as_json: bool) -> None:
    if as_json:
        say_json([_shown(p) for p in partitions])
        return
    labelled = any(p.label not in {"", p.name} for p in partitions)
    rows = [("ID", "NAME", *(("LABEL",) if labelled else ()), "STATE", "MEMORY", "PID", "RESTARTS", "")]
    for p in partitions:
        label = (p.label if p.label != p.name else "-",) if labelled else ()
        state = Partition.State.Name(p.state).lower()
        memory = f"{p.memory_bytes >> 20} MiB"
        note = "management partition" if p.management else p.text
        rows.append((str(p.lpar_id), p.name, *label, state, memory, str(p.pid or "-"), str(p.restarts), note))
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
def off(
    name: NameArgument,
    immediate: Annotated[bool, typer.Option("--immediate", help="Kill it, without asking.")] = False,
    guest: Annotated[bool, typer.Option("--guest", help="Only ask: if it does not end in time, it goes on.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Power it on again afterwards.")] = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Power a partition off: its process is asked to end, and killed if it does not; done when it is gone."""
    if immediate and guest:
        raise ConfigError("--immediate --guest: expected one of them")
    mode = PowerOff.IMMEDIATE if immediate else PowerOff.GUEST if guest else PowerOff.NORMAL
    command = PowerOff(name=_checked(name), mode=mode, restart=restart)
    _print(run(_one(lab, Management(power_off=command), timeout)), as_json=as_json)


@app.command()
def create(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Its name for people; NAME is made from it.")],
    memory: MemoryOption = None,
    number: Annotated[int, typer.Option("--id", min=0, max=65535, help="Its number; 0: the next free.")] = 0,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Make a partition; it is off, and lasts as long as the lab."""
    command = CreatePartition(label=label, lpar_id=number, memory_bytes=_size(memory, "--memory") or 0)
    _print(run(_one(lab, Management(create_partition=command), timeout)), as_json=as_json)


@app.command("set")
def change(
    name: NameArgument,
    label: Annotated[str | None, typer.Option("--label", metavar="LABEL", help="Another name for people.")] = None,
    memory: MemoryOption = None,
    min_memory: MinMemoryOption = None,
    max_memory: MaxMemoryOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Change a partition; another memory is in force from its next power-on."""
    given: dict[str, Any] = {
        "label": label,
        "memory_bytes": _size(memory, "--memory"),
        "min_memory_bytes": _size(min_memory, "--min-memory"),
        "max_memory_bytes": _size(max_memory, "--max-memory"),
    }
    wanted = {key: value for key, value in given.items() if value is not None}
    if not wanted:
        raise ConfigError("nothing to change: expected --label, --memory, --min-memory or --max-memory")
    command = ModifyPartition(name=_checked(name), **wanted)
    _print(run(_one(lab, Management(modify_partition=command), timeout)), as_json=as_json)


@app.command()
def delete(
    name: NameArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """Delete a partition that is off."""
    run(_one(lab, Management(delete_partition=DeletePartition(name=_checked(name))), timeout))
    if as_json:
        say_json({"deleted": name})
    else:
        say(f"{name} deleted")
