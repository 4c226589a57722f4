"""``pvnet hcall`` and ``pvnet supported``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, columns, run, say, say_json
from pvnet.client import Lab
from pvnet.core.errors import ConfigError
from pvnet.papr.crq import TransportEventCode
from pvnet.papr.hcall import HcallOpcode, rc_name
from pvnet.papr.signatures import SIGNATURES, parse_arguments
from pvnet.pb.v1.management_pb2 import IssueHcall, Management
from pvnet.vmc.messages import VmcType
from pvnet.vmc.router import RouterOpcode, RouterTarget

_EVENTS = frozenset(
    {
        TransportEventCode.PARTNER_FAILED,
        TransportEventCode.PARTNER_DEREGISTERED,
        TransportEventCode.PARTNER_SUSPENDED,
    }
)
"""Transport events that pvnet's hypervisor makes; the others it only passes on from a partner that is played."""
_SHOWN_CHARACTERS: Final = 40
"""How much of a name that is none an error repeats."""


def hcall(
    name: Annotated[str, typer.Argument(metavar="NAME", help="H_SEND_CRQ, ... or an opcode such as 0x108.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARG...", help="In order, or as name=value; hex, decimal, 4KiB.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option("--as", metavar="PARTITION", help="Who calls; default: the management partition.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry/--no-retry", help="Repeat the call while it answers busy.")] = True,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Have a partition of the running lab make one hypervisor call, and print r3 and r4 upward."""
    from pvnet.runtime.lab_dir import find_lab
    from pvnet.runtime.topology import Topology

    if partition is not None:  # the more basic mistake is told first
        Topology.model_validate(find_lab(lab)[1].topology).partition(partition)
    opcode, args = parse_call(name, arguments or [])
    caller, rc, outs = run(_hcall(lab, partition, opcode, args, retry=retry, timeout=timeout))
    if as_json:
        registers = {f"r{4 + i}": f"{value:#x}" for i, value in enumerate(outs)}
        say_json(
            {
                "partition": caller,
                "opcode": opcode,
                "name": _shown(opcode),
                "rc": rc,
                "rc_name": rc_name(rc),
                "after": registers,
            }
        )
        return
    signature = SIGNATURES.get(HcallOpcode(opcode))
    if signature is not None:  # a register that is no output only repeats the argument
        outs = outs[: len(signature.outputs)] if rc == 0 else ()
    after = "".join(f"  r{4 + i}={value:#x}" for i, value in enumerate(outs))
    say(f"{caller}: {_shown(opcode)} = {rc_name(rc)}{after}")


def _shown(opcode: int) -> str:
    known = HcallOpcode(opcode)
    return known.name if known.is_known else f"{opcode:#x}"


def parse_call(name: str, arguments: list[str]) -> tuple[int, tuple[int, ...]]:
    """Opcode and registers that a user means; ConfigError names the field and what was expected."""
    shown = name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "..."
    try:
        number = int(name, 0)
        if not 0 <= number < 1 << 64:
            raise ConfigError(f"hcall {shown}: expected an opcode of 64 bits")
        opcode = HcallOpcode(number)
    except ValueError:
        try:
            opcode = HcallOpcode[name.upper()]
        except KeyError:
            import difflib

            near = difflib.get_close_matches(shown.upper(), [o.name for o in HcallOpcode], 1, 0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"hcall {shown!r}: expected a name such as H_SEND_CRQ, or an opcode{hint}") from None
    signature = SIGNATURES.get(opcode)
    if signature is not None:
        return int(opcode), parse_arguments(signature, arguments)
    try:
        registers = tuple(int(text, 0) for text in arguments)
    except ValueError:
        raise ConfigError(f"{opcode}: expected numbers for r4 upward (its arguments have no names here)") from None
    if len(registers) > 9 or any(not 0 <= r < 1 << 64 for r in registers):
        raise ConfigError(f"{opcode}: expected at most 9 registers of 64 bits")
    return int(opcode), registers


async def _hcall(
    lab_name: str | None, partition: str | None, opcode: int, args: tuple[int, ...], *, retry: bool, timeout: float
) -> tuple[str, int, tuple[int, ...]]:
    async with Lab.join(lab_name) as lab:
        caller = partition or lab.management_partition
        lab.topology.partition(caller)
        command = Management(issue_hcall=IssueHcall(opcode=opcode, args=args, retry_busy=retry))
        reply = await lab.command(caller, command, timeout=timeout)
        return caller, reply.rc, tuple(reply.outs)


def supported(
    part: Annotated[
        str | None, typer.Argument(metavar="[novalink]", help="Only the REST interface, with notes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the parity matrix: every hcall, CRQ message, vbus call, vfio-user command, REST request, and its state."""
    if part == "novalink":
        _supported_rest(as_json=as_json)
        return
    if part is not None:
        raise ConfigError(f"no such part: {part!r}; expected novalink, or nothing for everything")
    rows = support_matrix()
    if as_json:
        say_json(rows)
        return
    for line in columns(
        [("KIND", "NUMBER", "NAME", "STATE"), *((r["kind"], r["number"], r["name"], r["state"]) for r in rows)]
    ):
        say(line)
    for kind in dict.fromkeys(r["kind"] for r in rows):
        of_kind = [r for r in rows if r["kind"] == kind]
        say(f"{kind}: {sum(r['state'].startswith('yes') for r in of_kind)} of {len(of_kind)}")


def _supported_rest(*, as_json: bool) -> None:
    from dataclasses import asdict

    from pvnet.novalink.catalog import CATALOG

    if as_json:
        say_json([asdict(row) for row in CATALOG])
        return
    table = [("METHOD", "PATH", "TIER", "STATE", "NOTE")]
    for line in columns([*table, *((r.method, r.path, str(r.tier), r.state, r.note) for r in CATALOG)]):
        say(line)
    for tier in sorted({row.tier for row in CATALOG}):
        states = [row.state for row in CATALOG if row.tier == tier]
        say(f"tier {tier}: " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))


def mdev_rows() -> list[tuple[str, str, str, str]]:
    """Rows of mediated devices: vfio-user commands, features, irqs and their actions, channel commands."""
    from pvnet.mdev.ccw_fba import FbaCommand
    from pvnet.mdev.ccw_names import Command as CcwCommand
    from pvnet.mdev.names import CcwIrq, IrqAction, IrqData, PciIrq
    from pvnet.mdev.vfio_features import Feature
    from pvnet.mdev.vfio_user import Command
    from pvnet.mdev.vfio_user_requests import HANDLERS

    beside = {Command.VERSION, Command.REGION_READ, Command.REGION_WRITE}
    states = {
        **dict.fromkeys(beside | HANDLERS.keys(), "yes"),
        Command.DEVICE_GET_REGION_IO_FDS: "yes (there are none)",
        Command.REGION_WRITE_MULTI: "yes, where both ends want it",
        **dict.fromkeys((Command.DMA_READ, Command.DMA_WRITE), "yes, by the server"),
    }
    rows = [("vfio-user command", str(int(c)), c.name, states.get(c, "no (EINVAL)")) for c in Command]
    known = {int(feature): feature.name for feature in Feature}
    names = {**_FEATURES, **known}
    rows += [
        ("vfio feature", str(number), names[number], "yes" if number in known else "no (EINVAL)")
        for number in sorted(names)
    ]
    rows += [("pci irq", str(int(i)), i.name, _PCI_IRQS[i.name]) for i in PciIrq]
    rows += [("ccw irq", str(int(i)), i.name, "yes") for i in CcwIrq]
    for action in IrqAction:
        for data in IrqData:
            refused = data is IrqData.EVENTFD and action is not IrqAction.TRIGGER
            name = f"{data.name} {action.name}"
            rows.append(("set irqs", f"{int(data | action):#x}", name, "no (ENOTTY)" if refused else "yes"))
    commands = {int(c): c.name for c in (*CcwCommand, *FbaCommand)}
    rows += [("ccw command", f"{code:#04x}", commands[code], "yes") for code in sorted(commands)]
    return rows


_FEATURES = {0: "PCI_VF_TOKEN", 3: "LOW_POWER_ENTRY", 4: "LOW_POWER_ENTRY_WITH_WAKEUP", 5: "LOW_POWER_EXIT"}
"""What the device API has and no device here."""
_PCI_IRQS = {
    "INTX": "yes",
    "MSI": "yes",
    "MSIX": "no (no device has it)",
    "ERR": "no (no device has it)",
    "REQ": "yes",
}


def support_matrix() -> list[dict[str, str]]:
    """Rows of ``supported``: kind, number, name, state (``yes``, or ``no`` with what is answered)."""
    from pvnet.novalink.catalog import CATALOG
    from pvnet.papr.platform_io import LOPAR
    from pvnet.scm.profiles import PHYP
    from pvnet.vbus.layout import BridgeVector, BusVector, EventId
    from pvnet.vbus.venet_layout import VenetFunction

    done = LOPAR.hcalls | PHYP.calls

    def row(kind: str, number: str, name: str, state: str) -> dict[str, str]:
        return {"kind": kind, "number": number, "name": name, "state": state}

    rows = [row("hcall", f"{int(o):#06x}", o.name, "yes" if o in done else "no (H_FUNCTION)") for o in HcallOpcode]
    rows += [row("crq element", "0xc001", "INIT", "yes"), row("crq element", "0xc002", "INIT_COMPLETE", "yes")]
    rows += [
        row("crq event", f"0xff{int(code):02x}", code.name, "yes" if code in _EVENTS else "passed on")
        for code in TransportEventCode
    ]
    rows += [row("vmc message", f"{int(t):#04x}", t.name, "yes") for t in VmcType]
    rows += [row("router opcode", f"{int(o):#06x}", o.name, "yes") for o in RouterOpcode]
    for target in RouterTarget:
        state = "yes" if target == RouterTarget.ROUTER else "no (0x8023)"
        rows.append(row("router target", f"{int(target):#06x}", target.name, state))
    rows += [row("vbus bridge call", str(int(v)), v.name, "yes") for v in BridgeVector]
    rows += [row("vbus call", str(int(v)), v.name, "yes") for v in BusVector]
    rows += [row("vbus event", str(int(e)), e.name, "yes") for e in EventId]
    rows += [row("venet function", str(int(f)), f.name, "yes") for f in VenetFunction]
    rows += [row(*each) for each in mdev_rows()]
    rows += [row("rest request", r.method, r.path, f"{r.state} ({r.note})" if r.note else r.state) for r in CATALOG]
    return rows
