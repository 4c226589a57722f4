"""``pvnet demo``: a whole lab of processes, one real session through all of it, and what happened."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pvnet.cli.run import JsonOption, run, say, say_json
from pvnet.client import Lab
from pvnet.client.mdev import Mdevs
from pvnet.client.scm import ScmDevice
from pvnet.client.vbus import VbusHost
from pvnet.core.errors import ConfigError, PvnetError
from pvnet.papr.hcall import HcallOpcode, rc_name
from pvnet.pb.v1.management_pb2 import (
    IssueHcall,
    ListPartitions,
    Management,
    Partition,
    PowerOff,
    PowerOn,
    ShowStatus,
)
from pvnet.runtime.topology import BrokerConfig, Topology, default_topology
from pvnet.runtime.topology_mdev import MDEV_HOST
from pvnet.scm.labels import blank_area
from pvnet.scm.pdsm import HealthLevel
from pvnet.vmc.context import VmcState

_ECHOES = 100
_PINGS = 100
_UNKNOWN_OPCODE = 0x3E4 + 1


@dataclass(slots=True)
class Demo:
    """One run: its steps so far and what it counts."""

    as_json: bool
    began: float = field(default_factory=time.perf_counter)
    step_number: int = 0
    lost: int = 0
    duplicated: int = 0
    sessions: int = 0
    processes: int = 0

    def step(self, what: str, result: str, **numbers: Any) -> None:
        """Show a step when it has happened."""
        self.step_number += 1
        at = time.perf_counter() - self.began
        if self.as_json:
            say_json({"step": self.step_number, "at": round(at, 3), "what": what, "result": result, **numbers})
        else:
            say(f"{at:6.2f} s  {what:<42} {result}")
            sys.stdout.flush()


def demo(
    broker: Annotated[
        str, typer.Option("--broker", metavar="embedded|mosquitto|URL", help="Default: mosquitto when installed.")
    ] = "auto",
    loopback: Annotated[
        bool, typer.Option("--loopback", help="In one process, on a clock of its own: every run is the same.")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=(1 << 63) - 1, help="With --loopback: which messages are late.")
    ] = 0,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="With --loopback: every message, as a capture.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a lab of separate processes, run a real VMC session through all of them, show what happened."""
    show = Demo(as_json)
    name = "demo" if loopback else f"demo-{os.getpid()}-{secrets.token_hex(2)}"
    topology = default_topology(name).model_copy(update={"broker": checked_broker(broker)})
    try:
        if loopback:
            from pvnet.cli.demo_loopback import run_loopback

            messages = run_loopback(topology, partial(_loopback_steps, show), seed=seed, record=record)
        elif record is not None or seed:
            raise ConfigError(
                "--seed and --record: expected --loopback with them (or pvnet record, for a lab that runs)"
            )
        else:
            messages = run(_demo(show, topology))
    except PvnetError as error:
        if as_json:
            say_json({"ok": False, "error": str(error), **_totals(show, 0)})
        raise
    ok = not show.lost and not show.duplicated
    totals = {"ok": ok, **_totals(show, messages)}
    if as_json:
        say_json(totals)
    else:
        say()
        say(
            f"{'done' if ok else 'FAILED'}: {messages} messages between {show.processes} processes, {show.lost} lost, "
            f"{show.duplicated} duplicated, {show.sessions} VMC sessions, {totals['seconds']:.1f} s"
        )
        say("Now try:")
        for command, why in _next_commands():
            say(f"  {command:<40} {why}")
    if not ok:
        raise typer.Exit(1)


def checked_broker(use: str) -> BrokerConfig:
    """Return the broker configuration of a ``--broker`` option; ConfigError says what was expected."""
    from pydantic import ValidationError

    try:
        return BrokerConfig(use=use)
    except ValidationError:
        raise ConfigError(f"--broker {use!r}: expected auto, embedded, mosquitto or mqtt(s)://...") from None


def _totals(show: Demo, messages: int) -> dict[str, Any]:
    return {
        "messages": messages,
        "lost": show.lost,
        "duplicated": show.duplicated,
        "sessions": show.sessions,
        "seconds": round(time.perf_counter() - show.began, 3),
    }


def _next_commands() -> list[tuple[str, str]]:
    called = Path(sys.argv[0])
    pvnet = "pvnet" if shutil.which("pvnet") else os.path.relpath(called) if called.name == "pvnet" else "pvnet"
    return [
        (f"{pvnet} up --detach", "start a lab that stays (pvnet down ends it)"),
        (f"{pvnet} lpar on lpar2", "power a partition on, through the VMC"),
        (f"{pvnet} vbus ping lpar1 10.77.0.2", "send packets between the two guests"),
    ]


async def _loopback_steps(show: Demo, lab: Lab) -> int:
    show.processes = 1
    show.step("loopback", "all nodes in this process, virtual time")
    return await _steps(show, lab)


async def _steps(show: Demo, lab: Lab) -> int:
    await _hcalls(show, lab)
    await _session(show, lab)
    await _power(show, lab)
    await _scm(show, lab)
    await _mdev(show, lab)
    return await _messages(show, lab)


async def _demo(show: Demo, topology: Topology) -> int:
    lab = Lab(topology)
    async with lab:
        assert lab.processes is not None
        supervisor = lab.processes.supervisor
        show.step("broker", supervisor.broker.description)
        pids = {n.name: n.pid for n in supervisor.nodes() if n.pid is not None}
        show.processes = len(pids) + 2  # lpar2, later, and this one
        show.step("processes", ", ".join(f"{name} {pid}" for name, pid in pids.items()), pids=pids)
        messages = await _steps(show, lab)
    show.step("shut down", "no process, socket or file left behind")
    return messages


async def _hcalls(show: Demo, lab: Lab) -> None:
    """Two hcalls by the management partition: one that exists and one that does not."""
    for opcode in (int(HcallOpcode.H_REQUEST_VMC), _UNKNOWN_OPCODE):
        command = Management(issue_hcall=IssueHcall(opcode=opcode))
        reply = await lab.command(lab.management_partition, command)
        outs = f", r4 = {reply.outs[0]:#x}" if reply.outs else ""
        show.step(
            f"hcall {HcallOpcode(opcode).name if HcallOpcode(opcode).is_known else 'no such opcode'}, {opcode:#x}",
            f"{rc_name(reply.rc)}{outs}",
        )


async def _session(show: Demo, lab: Lab) -> None:
    """A session of our own: open, echoes, close."""
    async with lab.vmc_device() as device:
        state = (await device.query()).state
        show.step("/dev/ibmvmc: open, ioctl QUERY", f"VMC state {VmcState(state).name.lower()}")
    session = lab.vmc_session("pvnet-demo")
    async with session:
        show.sessions += 1
        await session.router_open()
        show.step("SETHMCID, OPEN, router open", "session is open (buffers lent, HMC id copied by RDMA)")
        answers, times = 0, []
        for i in range(_ECHOES):
            data = bytes([i]) * (i + 1)
            start = time.perf_counter()
            answers += (await session.echo(data)) == data
            times.append(time.perf_counter() - start)
        await session.router_close()
        show.lost += _ECHOES - answers
        show.duplicated += session.counters["late_reply"]
    times.sort()
    show.step(
        f"{_ECHOES} router echoes of 1 to {_ECHOES} bytes",
        f"{answers} answered right, p50 {times[len(times) // 2] * 1000:.1f} ms",
    )


async def _scm(show: Demo, lab: Lab) -> None:
    """Storage class memory of lpar1: bound by its driver at its start; labels, blocks, flush."""
    async with ScmDevice(lab.endpoint, "lpar1") as device:
        await device.write_labels(0, blank_area(await device.label_bytes())[:512])  # the two index blocks
        labels = await device.labels()
        await device.write(4096, b"pvnet demo")
        await device.flush()
        kept = labels.is_sound and await device.read(4096, 10) == b"pvnet demo"
        health = HealthLevel((await device.health()).level).name.lower()
    show.lost += not kept
    show.step("lpar1 SCM: labels, blocks, H_SCM_FLUSH", f"read back {'right' if kept else 'WRONG'}, health {health}")


async def _mdev(show: Demo, lab: Lab) -> None:
    """Mediated devices of lpar1: text through a 16550 in loop-back, blocks through channel programs."""
    mdevs = Mdevs(lab)
    text = b"pvnet demo"
    async with mdevs.file("lpar1", "/dev/ttyS0") as port:
        await port.write(text)
        got = b""
        while len(got) < len(text):
            got += await port.read(len(text) - len(got), timeout=10.0)
    show.lost += got != text
    show.step("lpar1 ttyS0: 16550 card, loop-back", f"{len(got)} bytes {'back' if got == text else 'WRONG'}, by irq")
    pattern = bytes(range(256)) * 64
    async with mdevs.file("lpar1", "/dev/dasda") as disk:
        began = time.perf_counter()
        await disk.write_at(4096, pattern)
        await disk.flush()
        kept = await disk.read_at(4096, len(pattern)) == pattern
        seconds = time.perf_counter() - began
    show.lost += not kept
    right = "right" if kept else "WRONG"
    show.step("lpar1 dasda: channel programs, 16 KiB", f"read back {right}, {seconds * 1000:.1f} ms")


async def _network(show: Demo, lab: Lab) -> None:
    """Packets between two guests: virtual Ethernet, rings in shared memory, the switch of the bridge process."""
    host = VbusHost(lab)
    result = await host.ping("lpar1", "10.77.0.2", count=_PINGS, interval_s=0.0)
    show.lost += result["sent"] - result["received"]
    show.duplicated += result["duplicates"]
    how = "shared memory" if (await _bridge_of(lab, "lpar1"))["shared"] else "copies over the broker"
    times = result["round_trip_s"]
    show.step(
        f"{_PINGS} pings lpar1 > venet, switch > lpar2",
        f"{result['received']} answered, avg {times['avg'] * 1000:.2f} ms, {how}" if times else "none answered",
    )


async def _bridge_of(lab: Lab, partition: str) -> dict[str, Any]:
    reply = await lab.command(partition, Management(show_status=ShowStatus()))
    bridge: dict[str, Any] = json.loads(reply.status_json)["net"]["bridge"]
    return bridge


async def _power(show: Demo, lab: Lab) -> None:
    """Management commands the whole way: manager, VMC, hypervisor, supervisor."""
    show.sessions += 1  # the manager's own

    def states(partitions: list[Partition]) -> str:
        return ", ".join(f"{p.name} {Partition.State.Name(p.state).lower()}" for p in partitions)

    listed = await lab.manage(Management(list_partitions=ListPartitions()))
    show.step("lpar list (manager > VMC > hypervisor)", states(list(listed.partitions)))
    on = await lab.manage(Management(power_on=PowerOn(name="lpar2")))
    show.step("lpar on lpar2", f"{states(list(on.partitions))}, process {on.partitions[0].pid}")
    await _network(show, lab)
    off = await lab.manage(Management(power_off=PowerOff(name="lpar2")))
    show.step("lpar off lpar2", states(list(off.partitions)))


async def _messages(show: Demo, lab: Lab) -> int:
    """Ask every node what it sent, and what it had to drop."""
    total = lab.endpoint.counters["sent"]
    for node in ("hypervisor", "bridge", MDEV_HOST, lab.management_partition, "lpar1", "manager"):
        reply = await lab.command(node, Management(show_status=ShowStatus()))
        status = json.loads(reply.status_json)
        total += status["endpoint"].get("sent", 0)
        show.lost += status["endpoint"].get("handler_failed", 0)
        show.duplicated += status["endpoint"].get("late_reply", 0)
    return total
