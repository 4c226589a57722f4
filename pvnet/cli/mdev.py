"""``pvnet mdev``: mediated devices of a running lab: their life, their users, their files."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pvnet.cli.mdev_text import device_lines, drivers_lines, events_lines, open_lines, show_lines, tree_lines
from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, run, say, say_json
from pvnet.cli.vbus import settings
from pvnet.client import Lab
from pvnet.client.mdev import Mdevs
from pvnet.core.errors import ConfigError, RefusedError
from pvnet.core.names import check_name
from pvnet.runtime.topology_mdev import check_parent_name

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Mediated devices of a running lab.")

NameArgument = Annotated[str, typer.Argument(metavar="UUID", help="The device: its UUID, or UUID-INSTANCE.")]
ParentArgument = Annotated[str, typer.Argument(metavar="PARENT", help="Name of the parent.")]
PartitionArgument = Annotated[str, typer.Argument(metavar="PARTITION", help="The partition.")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Device file, such as /dev/ttyS0 or /dev/dasda.")]
PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="Path in the virtual tree.")]
HostOption = Annotated[
    str | None, typer.Option("--host", metavar="NAME", help="Which mdev host; needed only when there are several.")
]
SettingsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Attributes, such as port0=pty.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Also while it is used: its user loses it.")]


async def _use(lab_name: str | None, timeout: float, use: Callable[[Mdevs], Awaitable[T]]) -> T:
    async with Lab.join(lab_name) as lab:
        return await use(Mdevs(lab, timeout=timeout))


def _name(text: str) -> str:
    if not text or len(text) > 128:
        raise ConfigError(f"device {text[:60]!r}: expected a UUID")
    return text.lower()


def _parent(text: str) -> str:
    try:
        return check_parent_name(text)
    except ValueError as error:
        raise ConfigError(f"parent {text[:64]!r}: expected {error}") from None


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_all(lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """List parents with their types, and devices with their users."""
    shown, failed = run(_use(lab, timeout, lambda mdevs: mdevs.look()))
    if as_json:
        say_json(shown)
    else:
        for line in show_lines(shown):
            say(line)
    for error in failed:
        sys.stderr.write(f"pvnet: {error}\n")
    if failed:
        raise typer.Exit(max(error.exit_code for error in failed))


@app.command()
def show(name: NameArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """Show one device: its state, user, regions, irqs and attributes."""
    host, shown = run(_use(lab, timeout, lambda mdevs: mdevs.find(_name(name))))
    if as_json:
        say_json({"host": host, **shown})
        return
    for line in device_lines(host, shown):
        say(line)


@app.command()
def drivers(
    host: HostOption = None, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """List the vendor drivers: our own and those of installed packages (entry points pvnet.mdev)."""
    found = run(_use(lab, timeout, lambda mdevs: mdevs.drivers(host=mdevs.host(host))))
    if as_json:
        say_json(found)
        return
    for line in drivers_lines(found):
        say(line)


@app.command()
def events(
    host: HostOption = None,
    since: Annotated[int, typer.Option("--since", min=0, max=(1 << 63) - 1, help="Only later ones.")] = 0,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show the latest events of the life cycle, as udev would see them."""
    found = run(_use(lab, timeout, lambda mdevs: mdevs.events(since, host=mdevs.host(host))))
    if as_json:
        say_json(found)
        return
    for line in events_lines(found):
        say(line)


# --- life -------------------------------------------------------------------------------------------------------------


@app.command()
def create(
    parent: ParentArgument,
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="Type in full, such as mtty-2.")],
    attributes: SettingsArgument = None,
    uuid: Annotated[str | None, typer.Option("--uuid", help="Its UUID; without it, one is made up.")] = None,
    host: HostOption = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Make a device; prints its UUID."""
    given, wanted = settings(attributes), _name(uuid) if uuid is not None else _new_uuid()

    async def make(mdevs: Mdevs) -> dict[str, Any]:
        where = await mdevs.parent_host(_parent(parent), host)
        return await mdevs.create(wanted, parent, type_name, given, host=where)

    say(run(_use(lab, timeout, make))["name"])


def _new_uuid() -> str:
    digits = secrets.token_hex(16)
    version = f"4{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}"
    return f"{digits[:8]}-{digits[8:12]}-{version}-{digits[20:]}"


@app.command()
def remove(
    name: NameArgument,
    force: ForceOption = False,
    wait: Annotated[float, typer.Option("--wait", min=0, max=600, help="Seconds that its user has to let go.")] = 5.0,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Remove a device; one that is used is EBUSY, unless its user lets go or it is forced."""
    run(_use(lab, timeout, lambda mdevs: mdevs.remove(_name(name), force=force, wait_s=wait)))


@app.command()
def start(name: NameArgument, host: HostOption = None, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Tell every device of a UUID that its virtual machine is about to boot."""
    run(_use(lab, timeout, lambda mdevs: mdevs.start(_name(name), host=mdevs.host(host))))


@app.command()
def shutdown(name: NameArgument, host: HostOption = None, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Tell every device of a UUID that its virtual machine goes down."""
    run(_use(lab, timeout, lambda mdevs: mdevs.shutdown(_name(name), host=mdevs.host(host))))


@app.command("set")
def set_attributes(
    name: NameArgument,
    attributes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Attributes to change.")],
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Change attributes of a device."""
    given = settings(attributes)
    run(_use(lab, timeout, lambda mdevs: mdevs.set(_name(name), given)))


@app.command()
def migrate(
    name: NameArgument,
    to: Annotated[str, typer.Argument(metavar="HOST", help="The mdev host that it goes to.")],
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Move a device to another mdev host while a partition uses it."""
    wanted = check_name(to, "mdev host")
    moved = run(_use(lab, timeout, lambda mdevs: mdevs.migrate(_name(name), wanted, timeout=timeout)))
    if as_json:
        say_json(moved)
        return
    say(f"moved to {to}: {moved['bytes']} bytes of state, stood still for {1000 * moved['stopped_s']:.1f} ms")


# --- parents ----------------------------------------------------------------------------------------------------------


@app.command()
def register(
    parent: ParentArgument,
    driver: Annotated[str, typer.Argument(metavar="DRIVER", help="Vendor driver: see `pvnet mdev drivers`.")],
    attributes: SettingsArgument = None,
    host: HostOption = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Make a parent: something that hosts devices of a vendor driver's types."""
    from pvnet.pb.v1.management_pb2 import MdevAdmin

    name, given = _parent(parent), settings(attributes)
    if "image" in given:
        given["image"] = str(Path(given["image"]).absolute())  # the host has a directory of its own
    run(
        _use(
            lab,
            timeout,
            lambda mdevs: mdevs.admin(
                mdevs.host(host), MdevAdmin.PARENT_REGISTER, parent=name, type=driver, attributes=given
            ),
        )
    )


@app.command()
def unregister(
    parent: ParentArgument,
    force: ForceOption = False,
    host: HostOption = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Remove a parent; with --force its devices first, whoever uses them."""
    from pvnet.pb.v1.management_pb2 import MdevAdmin

    async def end(mdevs: Mdevs) -> None:
        where = await mdevs.parent_host(_parent(parent), host)
        await mdevs.admin(where, MdevAdmin.PARENT_UNREGISTER, parent=parent, force=force)

    run(_use(lab, timeout, end))


# --- users ------------------------------------------------------------------------------------------------------------


@app.command()
def assign(
    name: NameArgument, partition: PartitionArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0
) -> None:
    """Have a partition use a device: one of the lab, or vfio-user:PATH of a foreign server."""
    wanted = _device_of(name)
    if not run(_use(lab, timeout, lambda mdevs: mdevs.assign(wanted, check_name(partition, "partition")))):
        say(f"{partition} is off: it will use {wanted} when it is on")


@app.command()
def release(
    name: NameArgument, partition: PartitionArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0
) -> None:
    """Have a partition use a device no more."""
    wanted = _device_of(name)
    run(_use(lab, timeout, lambda mdevs: mdevs.release(wanted, check_name(partition, "partition"))))


def _device_of(text: str) -> str:
    kind, colon, path = text.partition(":")
    if kind != "vfio-user" or not colon:
        return _name(text)
    if not path or "\0" in path:
        raise ConfigError(f"device {text[:80]!r}: expected a UUID or vfio-user:PATH")
    return f"{kind}:{Path(path).absolute()}"


def _data(text: str | None, hex_digits: str | None, file: Path | None) -> bytes:
    if sum(each is not None for each in (text, hex_digits, file)) != 1:
        raise ConfigError("data: expected one of --text, --hex and --file")
    if file is not None:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        return bytes.fromhex(hex_digits) if hex_digits is not None else (text or "").encode()
    except ValueError:
        raise ConfigError(f"--hex {(hex_digits or '')[:60]!r}: expected pairs of hexadecimal digits") from None


@app.command()
def write(
    partition: PartitionArgument,
    file: FileArgument,
    text: Annotated[str | None, typer.Option("--text", help="Data, as text.")] = None,
    hex_digits: Annotated[str | None, typer.Option("--hex", metavar="DIGITS", help="Data, as hexadecimal.")] = None,
    source: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Data of a file; - is stdin.")] = None,
    offset: Annotated[int, typer.Option("--offset", min=0, max=(1 << 62), help="Where, on a block device.")] = 0,
    flush: Annotated[bool, typer.Option("--flush", help="Make it durable (block devices).")] = False,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Write to a device file of a partition: a serial port, or a disk."""
    data = _data(text, hex_digits, source)

    async def store(mdevs: Mdevs) -> None:
        async with mdevs.file(check_name(partition, "partition"), file) as opened:
            if offset or flush or await _is_block(opened):
                await opened.write_at(offset, data)
            else:
                for at in range(0, len(data), 4096):
                    await opened.write(data[at : at + 4096])
            if flush:
                await opened.flush()

    run(_use(lab, timeout, store))
    say(f"{len(data)} bytes written to {file} of {partition}")


@app.command()
def read(
    partition: PartitionArgument,
    file: FileArgument,
    count: Annotated[int, typer.Option("--count", min=1, max=1 << 30, help="Bytes.")] = 4096,
    offset: Annotated[int, typer.Option("--offset", min=0, max=(1 << 62), help="Where, on a block device.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Into a file.")] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Read from a device file of a partition.

    A serial port is read until COUNT bytes or, after some have come, a pause; exit code 1 when nothing comes at all.
    """

    async def fetch(mdevs: Mdevs) -> tuple[bytes, bool]:
        async with mdevs.file(check_name(partition, "partition"), file) as opened:
            if await _is_block(opened):
                return await opened.read_at(offset, count), True
            return await _read_some(opened, count, timeout), False

    data, is_block = run(_use(lab, timeout, fetch))
    if as_json and output is None:
        say_json({"bytes": len(data), "data": data.hex()})
    if not data and not is_block:
        raise typer.Exit(1)
    if output is not None:
        output.write_bytes(data)
        say(f"{len(data)} bytes of {file} of {partition} in {output}")
    elif not as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


_PAUSE_S = 0.3


async def _is_block(opened: Any) -> bool:
    from pvnet.core.errors import DeviceError

    try:
        await opened.size()
    except DeviceError:
        return False
    return True


async def _read_some(opened: Any, count: int, timeout: float) -> bytes:
    import errno

    from pvnet.core.errors import DeviceError

    found = b""
    try:
        while len(found) < count:
            found += await opened.read(min(4096, count - len(found)), timeout=_PAUSE_S if found else timeout)
    except DeviceError as error:
        if error.errno != errno.EINTR:
            raise
    return found


@app.command("open")
def open_foreign(
    uri: Annotated[str, typer.Argument(metavar="vfio-user:PATH", help="Socket of a vfio-user server, ours or not.")],
    read_at: Annotated[
        list[str] | None, typer.Option("--read", metavar="REGION:OFFSET:COUNT", help="Read bytes of a region.")
    ] = None,
    write_at: Annotated[
        list[str] | None, typer.Option("--write", metavar="REGION:OFFSET:HEX", help="Store bytes into a region.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Reset the device first.")] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Look at a device that a vfio-user server serves, without a lab: what it is, bytes of its regions.

    Writes are done before reads, each in the order given.
    """
    from pvnet.cli.mdev_open import look

    kind, colon, path = uri.partition(":")
    if kind != "vfio-user" or not colon or not path:
        raise ConfigError(f"{uri[:80]!r}: expected vfio-user:PATH")
    shown = run(look(path, read_at or [], write_at or [], timeout, reset=reset))
    if as_json:
        say_json(shown)
        return
    for line in open_lines(shown):
        say(line)


# --- contents ---------------------------------------------------------------------------------------------------------


@app.command()
def screenshot(
    name: NameArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="A .png or .ppm file.")],
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Store what a framebuffer device shows as a picture."""
    from pvnet.mdev.screenshot import encode_png, encode_ppm, rgb_of_xr24

    kind = output.suffix.lower()
    if kind not in {".png", ".ppm"}:
        raise ConfigError(f"--output {str(output)!r}: expected a name that ends in .png or .ppm")

    async def look(mdevs: Mdevs) -> tuple[int, int, bytes]:
        _, shown = await mdevs.find(_name(name))
        try:
            width, height = int(shown["attributes"]["width"]), int(shown["attributes"]["height"])
        except (KeyError, ValueError):
            raise ConfigError(f"{name} is no display: it has no width and height") from None
        return width, height, await mdevs.peek(name, 0, 0, width * height * 4)

    width, height, pixels = run(_use(lab, timeout, look))
    encode = encode_png if kind == ".png" else encode_ppm
    output.write_bytes(encode(width, height, rgb_of_xr24(pixels, width, height)))
    say(f"{output}: {width} x {height}")


@app.command()
def tree(
    path: PathArgument = "/",
    host: HostOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show the virtual tree, as sysfs would have it: 2016's files and those of the merged kernel."""

    async def walk(mdevs: Mdevs) -> list[dict[str, Any]]:
        where, found, todo = mdevs.host(host), [], [path]
        while todo:
            shown = await mdevs.tree(todo.pop(), host=where)
            found.append(shown)
            base = shown["path"].rstrip("/")
            folders = [e["name"] for e in shown.get("entries", []) if e["kind"] == "folder"]
            todo += [f"{base}/{folder}" for folder in reversed(folders)]
        return found

    shown = run(_use(lab, timeout, walk))
    if as_json:
        say_json(shown)
        return
    for line in tree_lines(shown):
        say(line)


@app.command()
def cat(path: PathArgument, host: HostOption = None, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Print a file of the virtual tree."""

    async def fetch(mdevs: Mdevs) -> dict[str, Any]:
        return await mdevs.tree(path, host=mdevs.host(host))

    shown = run(_use(lab, timeout, fetch))
    if "entries" in shown:
        raise ConfigError(f"{path} is a folder: see `pvnet mdev tree {path}`")
    if "text" not in shown:
        raise RefusedError(f"{path} can only be written (EACCES)")
    sys.stdout.write(shown["text"])


@app.command()
def echo(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is written, and a newline after it.")],
    path: PathArgument,
    bare: Annotated[bool, typer.Option("-n", help="Without the newline.")] = False,
    host: HostOption = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Write to a file of the virtual tree, as `echo TEXT > PATH` would in sysfs."""
    data = text.encode() + (b"" if bare else b"\n")
    run(_use(lab, timeout, lambda mdevs: mdevs.tree_write(path, data, host=mdevs.host(host))))
