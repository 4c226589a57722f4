"""``pvnet scm``: storage-class-memory devices of a running lab."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, columns, run, say, say_json
from pvnet.cli.vmc import read_message
from pvnet.client import Lab
from pvnet.client.scm import ScmDevice
from pvnet.client.scm_layout import device_config, device_tree
from pvnet.core.errors import ConfigError, RefusedError
from pvnet.papr.devicetree import Node, flatten
from pvnet.papr.signatures import parse_number
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, ScmInject, ShowStatus
from pvnet.scm.device import device_node
from pvnet.scm.labels import LabelArea
from pvnet.scm.pdsm import HealthLevel

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Storage-class-memory devices of a running lab.")

DeviceArgument = Annotated[
    str, typer.Argument(metavar="PARTITION[:N]", help="The partition, and which of its devices (0 is the first).")
]


def parse_device(lab: Lab, text: str) -> tuple[str, int]:
    """Partition and number that a user means; ConfigError names what exists."""
    name, colon, number = text.partition(":")
    partition = lab.topology.partition(name)
    try:
        index = int(number) if colon else 0
    except ValueError:
        index = -1
    if not 0 <= index < len(partition.scm):
        have = f"0 to {len(partition.scm) - 1}" if partition.scm else "none: it has no [[partition.scm]]"
        raise ConfigError(f"SCM device {text!r}: {name} has {have}")
    return name, index


async def _use(lab_name: str | None, text: str, timeout: float, use: Callable[[ScmDevice], Awaitable[T]]) -> T:
    async with (
        Lab.join(lab_name) as lab,
        ScmDevice(lab.endpoint, *parse_device(lab, text), timeout=timeout) as device,
    ):
        return await use(device)


async def _list(lab_name: str | None, timeout: float) -> list[dict[str, Any]]:
    async with Lab.join(lab_name) as lab:
        rows: list[dict[str, Any]] = []
        for partition in lab.topology.partitions:
            if not partition.scm:
                continue
            known: list[dict[str, Any]] = []
            if lab.endpoint.link.peer_incarnation(partition.name) or await _is_there(lab, partition.name):
                reply = await lab.command(partition.name, Management(show_status=ShowStatus()), timeout=timeout)
                known = json.loads(reply.status_json)["scm"]
            for number, device in enumerate(partition.scm):
                seen = known[number] if known else {"state": "off", "address": None}
                rows.append(
                    {
                        "device": f"{partition.name}:{number}",
                        "drc": f"{lab.topology.scm_drc(partition, number):#x}",
                        "type": device.type,
                        "profile": device.profile,
                        "size_bytes": device.size,
                        "block_size": device.block_size,
                        "label_bytes": device.label_size,
                        "state": seen["state"],
                        "address": None if seen["address"] is None else f"{seen['address']:#x}",
                    }
                )
        return rows


async def _is_there(lab: Lab, node: str) -> bool:
    from pvnet.core.errors import DeadlineError

    try:
        await lab.endpoint.wait_peer(node, timeout=1.0)
    except DeadlineError:
        return False
    return True


def _bytes(n: int) -> str:
    """Write a size in the largest unit that needs no fraction."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if not n % (1 << shift):
            return f"{n >> shift} {unit}"
    return f"{n} B"


@app.command("list")
def list_devices(lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """List the devices of all partitions."""
    rows = run(_list(lab, timeout))
    if as_json:
        say_json(rows)
        return
    table = [("DEVICE", "DRC", "TYPE", "PROFILE", "SIZE", "BLOCK", "STATE", "ADDRESS")]
    for r in rows:
        size, block = _bytes(r["size_bytes"]), _bytes(r["block_size"])
        table.append((r["device"], r["drc"], r["type"], r["profile"], size, block, r["state"], r["address"] or "-"))
    for line in columns(table):
        say(line)


async def _tree(lab_name: str | None, text: str) -> tuple[Node, Node]:
    """Return the partition's device tree, and the device's node in it."""
    async with Lab.join(lab_name) as lab:
        name, number = parse_device(lab, text)
        partition = lab.topology.partition(name)
        return (
            device_tree(lab.topology, partition),
            device_node(device_config(lab.topology, partition, number)),
        )


@app.command()
def show(
    device: DeviceArgument,
    lab: LabOption = None,
    as_json: JsonOption = False,
    dtb: Annotated[
        Path | None, typer.Option("--dtb", metavar="FILE", help="Write the partition's flattened device tree.")
    ] = None,
) -> None:
    """Show a device's node of the device tree, as its partition sees it."""
    tree, node = run(_tree(lab, device))
    if dtb is not None:
        try:
            dtb.write_bytes(flatten(tree))
        except OSError as error:
            raise ConfigError(f"--dtb {dtb}: {error.strerror}") from None
    if as_json:
        say_json({"node": node.name, "properties": {p.name: p.value.hex() for p in node.properties}})
        return
    say(node.name)
    for prop in node.properties:
        say(f"  {prop.name:<28} {_value(prop.value)}")


def _value(value: bytes) -> str:
    text = value[:-1]
    if value and value.endswith(b"\0") and text and all(32 <= byte < 127 for byte in text):
        return text.decode()
    if not value:
        return "(present)"
    return " ".join(f"{int.from_bytes(value[i : i + 4], 'big'):#x}" for i in range(0, len(value), 4))


@app.command()
def labels(
    device: DeviceArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 60.0
) -> None:
    """Read, decode and verify the namespace label area; exit code 1 when it is damaged."""
    area = run(_use(lab, device, timeout, lambda d: d.labels()))
    shown = _area(area)
    if as_json:
        say_json(shown)
    else:
        say(f"label area of {area.size_bytes} bytes: " + ("blank" if area.is_blank else f"slots of {area.label_size}"))
        for index in () if area.is_blank else shown["indexes"]:
            state = "ok" if index["ok"] else ", ".join(index["problems"])
            say(f"  index {index['number']}: sequence {index['sequence']}, {state}")
        for label in shown["labels"]:
            say(f"  slot {label['slot']}: {label['name']!r} {label['uuid']}")
            say(f"    {label['bytes']} bytes at {label['dpa']:#x}")
            for problem in label["problems"]:
                say(f"    {problem}")
    if not area.is_blank and not area.is_sound:
        raise typer.Exit(1)


def _area(area: LabelArea) -> dict[str, Any]:
    return {
        "bytes": area.size_bytes,
        "blank": area.is_blank,
        "sound": area.is_sound,
        "label_size": area.label_size,
        "current": area.current,
        "indexes": [
            {
                "number": number,
                "sequence": None if view.index is None else view.index.sequence,
                "ok": view.is_valid,
                "problems": list(view.problems),
            }
            for number, view in enumerate(area.indexes)
        ],
        "labels": [
            {
                "slot": view.slot,
                "name": view.label.text_name,
                "uuid": str(view.label.uuid),
                "dpa": view.label.dpa,
                "bytes": view.label.raw_size,
                "problems": list(view.problems),
            }
            for view in area.labels
        ],
    }


OffsetOption = Annotated[str, typer.Option("--offset", metavar="N", help="Where: decimal, hex, 4KiB.")]
AreaOption = Annotated[bool, typer.Option("--labels", help="The label area instead of the blocks.")]


@app.command()
def read(
    device: DeviceArgument,
    length: Annotated[str, typer.Argument(metavar="LENGTH", help="How many bytes.")],
    offset: OffsetOption = "0",
    in_labels: AreaOption = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of hex.")] = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Read bytes of a device, as hex or into a file."""
    at, n = parse_number(offset, "--offset"), parse_number(length, "LENGTH")
    if n > 1 << 26:
        raise ConfigError(f"LENGTH {length}: expected at most 64MiB in one command")

    async def use(opened: ScmDevice) -> bytes:
        return await (opened.read_labels(at, n) if in_labels else opened.read(at, n))

    data = run(_use(lab, device, timeout, use))
    if output is not None:
        try:
            output.write_bytes(data)
        except OSError as error:
            raise ConfigError(f"--output {output}: {error.strerror}") from None
        say(f"{len(data)} bytes")
        return
    for i in range(0, len(data), 16):
        row = data[i : i + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        say(f"{at + i:08x}  {row.hex(' '):<47}  {text}")


@app.command()
def write(
    device: DeviceArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Text, hex:BYTES, @FILE, or - for standard input.")],
    offset: OffsetOption = "0",
    in_labels: AreaOption = False,
    flush_too: Annotated[bool, typer.Option("--flush", help="Make it durable before returning.")] = False,
    lab: LabOption = None,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Store bytes on a device; durable only after a flush."""
    at, content = parse_number(offset, "--offset"), read_message(data)

    async def use(opened: ScmDevice) -> None:
        await (opened.write_labels(at, content) if in_labels else opened.write(at, content))
        if flush_too:
            await opened.flush()

    run(_use(lab, device, timeout, use))
    say(f"{len(content)} bytes at {at:#x}" + (", flushed" if flush_too else ""))


@app.command()
def flush(device: DeviceArgument, lab: LabOption = None, timeout: TimeoutOption = 60.0) -> None:
    """Make everything written so far durable."""
    run(_use(lab, device, timeout, lambda d: d.flush()))
    say("flushed")


@app.command()
def health(
    device: DeviceArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """Show a device's health as ndctl sees it."""

    async def use(opened: ScmDevice) -> dict[str, Any]:
        report = await opened.health()
        return {
            "health": HealthLevel(report.level).name.lower(),
            "unarmed": report.unarmed,
            "bad_shutdown": report.bad_shutdown,
            "bad_restore": report.bad_restore,
            "scrubbed": report.scrubbed,
            "locked": report.locked,
            "encrypted": report.encrypted,
            "fuel_gauge": report.fuel_gauge,
            "dirty_shutdown_count": report.dirty_shutdown_count,
            "flags": await opened.flags(),
        }

    found = run(_use(lab, device, timeout, use))
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        say(f"{name:<22} {'-' if value in (None, '') else str(value).lower() if isinstance(value, bool) else value}")


@app.command()
def stats(
    device: DeviceArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """Show a device's performance statistics (profile phyp)."""

    async def use(opened: ScmDevice) -> dict[str, int]:
        from pvnet.core.errors import DeviceError

        try:
            return await opened.statistics()
        except DeviceError as error:
            if error.errno in {errno.ENOENT, errno.EIO, errno.EOPNOTSUPP}:
                raise RefusedError(f'{device} has no statistics ({error}); profile "phyp" has') from None
            raise

    found = run(_use(lab, device, timeout, use))
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        say(f"{name:<10} {value}")


@app.command()
def inject(
    device: DeviceArgument,
    health_bits: Annotated[
        str | None, typer.Option("--health", metavar="BITS[/VALID]", help="H_SCM_HEALTH answers this; 'own' ends it.")
    ] = None,
    read_error: Annotated[str | None, typer.Option("--read", metavar="ERRNO", help="EIO ...: reads fail.")] = None,
    write_error: Annotated[
        str | None, typer.Option("--write", metavar="ERRNO", help="EIO, ENOSPC, or 'short': writes fail.")
    ] = None,
    flush_error: Annotated[str | None, typer.Option("--flush", metavar="ERRNO", help="EIO ...: flushes fail.")] = None,
    hcall: Annotated[str | None, typer.Option("--hcall", metavar="NAME=RC", help="An hcall answers this code.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=(1 << 32) - 1, help="How many times.")] = 1,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Make a device misbehave: its health, its storage, or the answer of an hcall."""
    commands = [
        *_health_command(health_bits),
        *_storage_command(ScmInject.STORAGE_READ, "--read", read_error),
        *_storage_command(ScmInject.STORAGE_WRITE, "--write", write_error),
        *_storage_command(ScmInject.STORAGE_FLUSH, "--flush", flush_error),
        *_hcall_command(hcall),
    ]
    if not commands:
        raise ConfigError("nothing to inject: expected --health, --read, --write, --flush or --hcall")
    run(_inject(lab, device, commands, count, timeout))
    sys.stdout.write(f"{device}: armed\n")


def _health_command(text: str | None) -> list[ScmInject]:
    if text is None:
        return []
    if text == "own":
        return [ScmInject(kind=ScmInject.HEALTH_OWN)]
    bits, slash, valid = text.partition("/")
    number = parse_number(bits, "--health")
    known = parse_number(valid, "--health valid bits") if slash else (1 << 64) - 1
    return [ScmInject(kind=ScmInject.HEALTH, health_bits=number, health_valid=known)]


def _storage_command(kind: ScmInject.Kind, option: str, text: str | None) -> list[ScmInject]:
    if text is None:
        return []
    if text == "short" and kind == ScmInject.STORAGE_WRITE:
        return [ScmInject(kind=kind, error=0)]
    number = getattr(errno, text.upper(), None) if text.upper().startswith("E") else None
    if not isinstance(number, int):
        raise ConfigError(f"{option} {text!r}: expected an errno such as EIO or ENOSPC")
    return [ScmInject(kind=kind, error=number)]


def _hcall_command(text: str | None) -> list[ScmInject]:
    if text is None:
        return []
    from pvnet.papr.hcall import HcallOpcode, HcallRc

    name, _, code = text.partition("=")
    try:
        opcode = HcallOpcode[name.upper()]
        rc = HcallRc[code.upper()] if code.upper() in HcallRc.__members__ else HcallRc(int(code, 0))
    except (KeyError, ValueError):
        raise ConfigError(f"--hcall {text!r}: expected such as H_SCM_HEALTH=H_HARDWARE") from None
    if not opcode.name.startswith("H_SCM_"):
        raise ConfigError(f"--hcall {text!r}: expected one of the hcalls of SCM (pvnet supported)")
    if not -1 << 63 <= rc < 1 << 63:
        raise ConfigError(f"--hcall {text!r}: expected a return code of 64 bits")
    return [ScmInject(kind=ScmInject.RETURN_CODE, opcode=int(opcode), rc=int(rc))]


async def _inject(lab_name: str | None, text: str, commands: list[ScmInject], count: int, timeout: float) -> None:
    async with Lab.join(lab_name) as lab:
        name, number = parse_device(lab, text)
        drc = lab.topology.scm_drc(lab.topology.partition(name), number)
        for command in commands:
            command.partition, command.drc, command.count = name, drc, count
            reply = await lab.command("hypervisor", Management(scm_inject=command), timeout=timeout)
            if reply.status != ManagementReply.OK:
                raise RefusedError(reply.text)
