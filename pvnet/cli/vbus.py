"""``pvnet vbus``: buses, devices, members and switches of a running lab; pings between its guests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, columns, run, say, say_json
from pvnet.client import Lab
from pvnet.client.vbus import VbusHost
from pvnet.core.errors import ConfigError
from pvnet.core.names import check_name
from pvnet.vbus.switch import VLAN_DEFAULT

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Buses, devices, members and switches of a running lab.")
bus_app = typer.Typer(no_args_is_help=True, help="Make and remove buses; who is a member.")
device_app = typer.Typer(no_args_is_help=True, help="Make, attach, change and remove devices.")
app.add_typer(bus_app, name="bus")
app.add_typer(device_app, name="device")

BusArgument = Annotated[str, typer.Argument(metavar="BUS", help="Name of the bus.")]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Name of the device.")]
NodeArgument = Annotated[str, typer.Argument(metavar="PARTITION", help="The partition.")]
SettingsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Attributes, such as client_mac=02:00:00:00:00:01.")
]


async def _use(lab_name: str | None, timeout: float, use: Callable[[VbusHost], Awaitable[T]]) -> T:
    async with Lab.join(lab_name) as lab:
        return await use(VbusHost(lab, timeout=timeout))


def settings(texts: list[str] | None) -> dict[str, str]:
    """Return ``KEY=VALUE`` words as a dict; ConfigError says which is none."""
    found: dict[str, str] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"attribute {text[:60]!r}: expected KEY=VALUE")
        if key in found:
            raise ConfigError(f"attribute {text[:60]!r}: {key[:60]} is given twice")
        found[key] = value
    return found


def _bus_lines(bus: dict[str, Any]) -> list[str]:
    members = ", ".join(f"{m['name']} ({_memory(m)})" for m in bus["members"])
    lines = [f"bus {bus['name']}: members {members or 'none'}"]
    rows = [(f"  {d['id']}", d["name"], d["class"], d["type"], _state(d), _attributes(d)) for d in bus["devices"]]
    return lines + columns([("  ID", "DEVICE", "CLASS", "TYPE", "STATE", "ATTRIBUTES"), *rows] if rows else [])


def _memory(member: dict[str, Any]) -> str:
    return f"{member['memory']} memory" if member["connected"] and member["memory"] else "not connected"


def _state(device: dict[str, Any]) -> str:
    return f"open by {device['opened_by']}" if device["opened_by"] else "closed"


def _attributes(device: dict[str, Any]) -> str:
    if device["error"]:
        return f"error: {device['error']}"
    return " ".join(f"{key}={value}" for key, value in device["attributes"].items())


# --- showing ----------------------------------------------------------------------------------------------------------


@app.command()
def show(
    bus: Annotated[str | None, typer.Argument(metavar="BUS", help="Only this bus.")] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show buses with their members and devices."""
    if bus is not None:
        name = check_name(bus, "bus")
        one = run(_use(lab, timeout, lambda host: host.bus(name)))
        shown: dict[str, Any] = {"buses": [one], "devices": []}
    else:
        shown = run(_use(lab, timeout, lambda host: host.buses()))
    if as_json:
        say_json(shown if bus is None else shown["buses"][0])
        return
    for each in shown["buses"]:
        for line in _bus_lines(each):
            say(line)
    free = [device for device in shown["devices"] if device["bus"] is None]
    for device in free:
        say(f"on no bus: {device['name']} ({device['class']}) {_attributes(device)}")
    if not shown["buses"] and not free:
        say("no bus and no device")


@app.command()
def classes(lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """List the device classes: our own and those of installed packages (entry points pvnet.devices)."""
    found = run(_use(lab, timeout, lambda host: host.classes()))
    if as_json:
        say_json(found)
        return
    for line in columns([("CLASS", "TYPE"), *((c["name"], c["type"]) for c in found)]):
        say(line)


@app.command()
def switch(
    name: Annotated[str | None, typer.Argument(metavar="SWITCH", help="Only this switch.")] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show switches: ports with their counters, and which addresses are where."""
    found = run(_use(lab, timeout, lambda host: host.switches("" if name is None else check_name(name, "switch"))))
    if as_json:
        say_json(found)
        return
    for each in found:
        for line in _switch_lines(each):
            say(line)


def _switch_lines(shown: dict[str, Any]) -> list[str]:
    lines = [f"switch {shown['name']}: MTU {shown['mtu']}, {len(shown['addresses'])} addresses, {shown['loops']} loops"]
    addresses: list[tuple[str, ...]] = []
    rows = [("  PORT", "STATE", "RX", "RX BYTES", "TX", "TX BYTES", "DROPPED")]
    for port in shown["ports"]:
        drops = ", ".join(f"{reason} {n}" for reason, n in port["drops"].items() if n) or "0"
        rx, rx_bytes, tx, tx_bytes = (str(port[key]) for key in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes"))
        rows.append((f"  {port['name']}", port["state"] + _in_vlan(port["vlan"]), rx, rx_bytes, tx, tx_bytes, drops))
    lines += columns(rows)
    for seen in shown["addresses"]:
        where = seen["port"] + _in_vlan(seen["vlan"])
        addresses.append((f"  {seen['address']}", where, f"{seen['age_s']:.0f} s ago"))
    lines += columns(addresses)
    return lines


def _in_vlan(vlan: int | None) -> str:
    """What is said of a port beside its state: nothing in the VLAN of all ports that nobody has put elsewhere."""
    return "" if vlan in (None, VLAN_DEFAULT) else f", VLAN {vlan}"


# --- buses ------------------------------------------------------------------------------------------------------------


@bus_app.command("create")
def bus_create(bus: BusArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Make a bus."""
    name = check_name(bus, "bus")
    run(_use(lab, timeout, lambda host: host.create_bus(name)))


@bus_app.command("remove")
def bus_remove(bus: BusArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Remove a bus; it must have neither devices nor members."""
    name = check_name(bus, "bus")
    run(_use(lab, timeout, lambda host: host.remove_bus(name)))


@bus_app.command()
def join(bus: BusArgument, partition: NodeArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Make a partition a member: it learns every device on the bus."""
    run(_use(lab, timeout, lambda host: host.join(check_name(bus, "bus"), check_name(partition, "partition"))))


@bus_app.command()
def leave(partition: NodeArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """End a partition's membership: it loses every device of its bus."""
    name = check_name(partition, "partition")
    run(_use(lab, timeout, lambda host: host.leave(name)))


@bus_app.command()
def members(
    bus: BusArgument, lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """List the members of a bus."""
    name = check_name(bus, "bus")
    found = run(_use(lab, timeout, lambda host: host.bus(name)))["members"]
    if as_json:
        say_json(found)
        return
    for member in found:
        say(f"{member['name']} ({_memory(member)})")


# --- devices ----------------------------------------------------------------------------------------------------------


@device_app.command("create")
def device_create(
    device: DeviceArgument,
    device_class: Annotated[str, typer.Argument(metavar="CLASS", help="Its class: see `pvnet vbus classes`.")],
    attributes: SettingsArgument = None,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Make a device; it is on no bus yet."""
    name, given = check_name(device, "device"), settings(attributes)
    run(_use(lab, timeout, lambda host: host.create_device(name, check_name(device_class, "class"), given)))


@device_app.command("remove")
def device_remove(device: DeviceArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Remove a device that is on no bus."""
    name = check_name(device, "device")
    run(_use(lab, timeout, lambda host: host.remove_device(name)))


@device_app.command()
def attach(device: DeviceArgument, bus: BusArgument, lab: LabOption = None, timeout: TimeoutOption = 10.0) -> None:
    """Put a device on a bus: the members get DEVADD."""
    run(_use(lab, timeout, lambda host: host.attach(check_name(device, "device"), check_name(bus, "bus"))))


@device_app.command()
def detach(
    device: DeviceArgument,
    force: Annotated[bool, typer.Option("--force", help="Close it first if it is open.")] = False,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Take a device off its bus: the members get DEVDROP."""
    name = check_name(device, "device")
    run(_use(lab, timeout, lambda host: host.detach(name, force=force)))


@device_app.command("set")
def device_set(
    device: DeviceArgument,
    attributes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Attributes to change.")],
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Change attributes of a device."""
    name, given = check_name(device, "device"), settings(attributes)
    run(_use(lab, timeout, lambda host: host.set(name, given)))


# --- guests -----------------------------------------------------------------------------------------------------------


@app.command()
def call(
    partition: NodeArgument,
    device: Annotated[int, typer.Argument(metavar="ID", min=0, max=(1 << 32) - 1, help="Id of the device on its bus.")],
    func: Annotated[int, typer.Argument(metavar="FUNC", min=0, max=(1 << 32) - 1, help="Number of the function.")],
    text: Annotated[str | None, typer.Option("--text", help="Data, as text.")] = None,
    hex_digits: Annotated[
        str | None, typer.Option("--hex", metavar="DIGITS", help="Data, as hexadecimal digits.")
    ] = None,
    version: Annotated[int, typer.Option("--version", min=0, max=(1 << 32) - 1, help="Version to open it with.")] = 1,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Make one devcall from a partition to a device that has no driver there (class echo, for a start)."""
    if text is not None and hex_digits is not None:
        raise ConfigError("data: expected --text or --hex, not both")
    try:
        data = bytes.fromhex(hex_digits) if hex_digits is not None else (text or "").encode()
    except ValueError:
        raise ConfigError(f"--hex {(hex_digits or '')[:60]!r}: expected pairs of hexadecimal digits") from None
    name = check_name(partition, "partition")
    result, out = run(_use(lab, timeout, lambda host: host.devcall(name, device, func, data, version=version)))
    if as_json:
        say_json({"result": result, "data": out.hex()})
        return
    say(f"result {result}" + (f", data {out.hex()} {out.decode('ascii', 'backslashreplace')!r}" if out else ""))


@app.command()
def ping(
    partition: NodeArgument,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="IPv4 address to send to.")],
    count: Annotated[int, typer.Option("--count", min=1, max=100_000, help="Echo requests.")] = 4,
    size: Annotated[int, typer.Option("--size", min=0, max=65_000, help="Payload bytes of each.")] = 56,
    interval: Annotated[float, typer.Option("--interval", min=0.0, max=60.0, help="Seconds between them.")] = 0.2,
    wait: Annotated[float, typer.Option("--wait", min=0.001, max=60.0, help="Seconds that an answer may take.")] = 1.0,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Send ICMP echo requests from a partition's built-in stack, through its virtual Ethernet.

    Ends with exit code 1 when an answer is missing, repeated or wrong.  A partition whose venet is a TAP has the
    kernel's stack instead: use the ordinary ping there.
    """
    name = check_name(partition, "partition")
    shown = run(
        _use(
            lab,
            timeout,
            lambda host: host.ping(name, address, count=count, payload_bytes=size, interval_s=interval, timeout_s=wait),
        )
    )
    if as_json:
        say_json(shown)
    else:
        line = ", ".join(
            f"{shown[key]} {word}"
            for key, word in (
                ("sent", "sent"),
                ("received", "answered"),
                ("duplicates", "repeated"),
                ("corrupt", "wrong"),
            )
        )
        times = shown.get("round_trip_s")
        if times:
            line += f"; round trip min/avg/max {'/'.join(f'{1000 * times[k]:.2f}' for k in ('min', 'avg', 'max'))} ms"
        say(line)
    if shown["received"] != shown["sent"] or shown["duplicates"] or shown["corrupt"]:
        raise typer.Exit(1)
