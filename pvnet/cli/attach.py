"""``pvnet attach``: join something outside of the lab to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pvnet.cli.run import LabOption, TimeoutOption, run, say
from pvnet.client import Lab
from pvnet.client.device import DEVICE_PATH
from pvnet.client.mdev import Mdevs
from pvnet.client.vbus import VbusHost
from pvnet.core.errors import ConfigError
from pvnet.core.names import check_name
from pvnet.pb.v1.management_pb2 import DeviceSocket, Management
from pvnet.runtime.device_address import DeviceAddress
from pvnet.runtime.snoop import split_snoop
from pvnet.runtime.topology_net import check_port


def attach(
    uri: Annotated[
        str,
        typer.Argument(
            metavar="URI",
            help="tap:NAME[@NETNS], pcapng:FILE, replay:FILE, tcp[-listen]:HOST:PORT, tls[-listen]:HOST:PORT, "
            "broker[-listen]:LAB; vfio-user:PATH?mdev=UUID; or unix:PATH, tcp:HOST:PORT[?ca=FILE&cert=FILE&key=FILE] "
            "for /dev/ibmvmc.",
        ),
    ],
    switch: Annotated[
        str | None,
        typer.Option("--switch", metavar="NAME", help="Which switch; needed when there are several, and for tcp:."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the port off again.")] = False,
    lab: LabOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Add a port to a switch of the network bridge: the host's network, a capture file, another lab's switch.

    With vfio-user:PATH?mdev=UUID the mediated device is served at that unix socket, for QEMU or any vfio-user client.
    Behind either may stand where its traffic is recorded: ?snoop=pcapng:FILE, ?mdev=UUID&snoop=pcapng:FILE; |COMMAND
    instead of FILE writes to the standard input of a command.

    At unix:PATH, and at tcp:HOST:PORT without --switch, programs find /dev/ibmvmc of the management partition
    (docs/device-protocol.md).  Beyond loopback both ends show certificates.
    """
    if uri.startswith("unix:") or (uri.startswith("tcp:") and switch is None):
        address = DeviceAddress.parse(uri).absolute(Path.cwd())
        place, partition = run(_attach_device(str(address), lab, timeout, remove=remove))
        say(f"{place}: {'removed' if remove else f'{DEVICE_PATH} of {partition}'}")
        return
    uri, target = split_snoop(uri)
    snoop = "" if target is None else f"?snoop={target.absolute(Path.cwd())}"  # nodes have directories of their own
    if uri.startswith("vfio-user:"):
        path, mdev = vfio_user_address(uri)
        run(_attach_mdev(path + snoop, mdev, lab, timeout, remove=remove))
        say(f"vfio-user:{path}: {'removed' if remove else 'serves ' + mdev}")
        return
    try:
        port = check_port(uri)
    except ValueError as error:
        raise ConfigError(f"attach {uri[:60]!r}: expected {error}") from None
    kind, _, rest = port.partition(":")
    if kind in {"pcapng", "replay"}:
        port = f"{kind}:{Path(rest).absolute()}"  # the bridge has a directory of its own
    name = None if switch is None else check_name(switch, "switch")
    run(_attach(port + snoop, name, lab, timeout, remove=remove))
    say(f"{port}: {'removed' if remove else 'attached'}")


def vfio_user_address(uri: str) -> tuple[str, str]:
    """Return socket path (absolute) and device of ``vfio-user:PATH?mdev=UUID``.

    Raises:
        ConfigError: it is none.
    """
    path, mark, query = uri.removeprefix("vfio-user:").rpartition("?")
    key, _, name = query.partition("=")
    if not mark or not path or key != "mdev" or not name:
        raise ConfigError(f"attach {uri[:80]!r}: expected vfio-user:PATH?mdev=UUID")
    return str(Path(path).absolute()), name.lower()


async def _attach_mdev(path: str, name: str, lab_name: str | None, timeout: float, *, remove: bool) -> None:
    async with Lab.join(lab_name) as lab:
        mdevs = Mdevs(lab, timeout=timeout)
        await (mdevs.detach(name, path) if remove else mdevs.attach(name, path))


async def _attach_device(uri: str, lab_name: str | None, timeout: float, *, remove: bool) -> tuple[str, str]:
    async with Lab.join(lab_name) as lab:
        if lab.topology.management_partition is None:
            raise ConfigError(
                f"attach {uri[:80]}: lab {lab.name} has no management partition whose {DEVICE_PATH} could be attached; "
                "a port of a switch needs --switch"
            )
        partition = lab.management_partition
        command = Management(device_socket=DeviceSocket(uri=uri, remove=remove))
        reply = await lab.command(partition, command, timeout=timeout)
        return str(json.loads(reply.status_json)["uri"]), partition


async def _attach(port: str, switch: str | None, lab_name: str | None, timeout: float, *, remove: bool) -> None:
    async with Lab.join(lab_name) as lab:
        host = VbusHost(lab, timeout=timeout)
        switches = [s["name"] for s in await host.switches()]
        if switch is None:
            if len(switches) != 1:
                have = ", ".join(switches) or "none"
                raise ConfigError(f"--switch is needed: lab {lab.name} has switches {have}")
            switch = switches[0]
        await (host.remove_port(switch, port) if remove else host.add_port(switch, port))
