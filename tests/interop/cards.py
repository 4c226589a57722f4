"""PCI cards of a lab of processes, at vfio-user sockets, and the other ends of their serial ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from system_support import PATIENCE_S, children, eventually, nothing_left

from pvnet.client import Lab
from pvnet.client.mdev import Mdevs
from pvnet.pb.v1.management_pb2 import Management, ShowStatus
from pvnet.runtime.topology_file import load_topology

PVNET: Final = str(Path(sys.executable).parent / "pvnet")
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Card:
    """A card and whoever is at the other end of its serial ports."""

    uuid: str
    socket: Path
    ports: list[Stream] = field(default_factory=list)
    plugs: ExitStack = field(default_factory=ExitStack)
    """Pulls them out."""

    async def connect(self, addresses: list[str]) -> None:
        """Take the other ends of its ports."""
        for address in addresses:
            kind, _, rest = address.partition(":")
            if kind == "pty":
                self.ports.append(await self._open_terminal(Path(rest)))
                continue
            if kind == "unix-listen":
                stream = await asyncio.open_unix_connection(rest)
            else:
                assert kind == "tcp-listen"
                host, _, port = rest.rpartition(":")
                stream = await asyncio.open_connection(host, int(port))
            self.plugs.callback(stream[1].transport.abort)
            self.ports.append(stream)

    async def _open_terminal(self, path: Path) -> Stream:
        """A terminal is opened for reading and for writing, as asyncio has a transport for each."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK
        readable, writable = (os.fdopen(os.open(path, flags), mode, buffering=0) for mode in ("rb", "wb"))
        incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), readable)
        outgoing, flow = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, writable)
        self.plugs.callback(incoming.close)
        self.plugs.callback(outgoing.abort)
        return reader, asyncio.StreamWriter(outgoing, flow, None, loop)


class CardLab:
    """A lab with an mdev host and nothing else, and the ``pvnet`` command in it."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.mdevs = Mdevs(lab, timeout=PATIENCE_S)
        self._directory = directory

    async def pvnet(self, *arguments: str) -> str:
        """What the command prints; it succeeds."""
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self._directory), "PVNET_LAB": self.lab.name}
        process = await asyncio.create_subprocess_exec(
            PVNET, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
        )
        said, complaints = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 0, complaints.decode()
        return said.decode()

    async def shown(self, card: Card) -> dict[str, Any]:
        """``pvnet mdev show`` of a card."""
        shown: dict[str, Any] = (await self.mdevs.find(card.uuid))[1]
        return shown

    async def unused(self, card: Card) -> None:
        """Wait until nobody uses a card."""

        async def is_unused() -> bool:
            return (await self.shown(card))["user"] is None

        await eventually(is_unused)

    async def sent(self, card: Card, port: int) -> int:
        """How many bytes have left a serial port."""
        traffic: str = (await self.shown(card))["attributes"][f"traffic{port}"]
        return int(traffic.split()[1])

    async def connect(self, card: Card) -> None:
        """Take the other end of a card's serial ports."""
        attributes = (await self.shown(card))["attributes"]
        await card.connect([attributes[f"port{index}"] for index in range(2)])

    async def socket(self, card: Card) -> dict[str, Any]:
        """What the host says of a card's socket."""
        reply = await self.lab.command("mdevs", Management(show_status=ShowStatus()))
        sockets = json.loads(reply.status_json)["sockets"]
        shown: dict[str, Any] = next(each for each in sockets if each["path"] == str(card.socket))
        return shown

    def complaints(self) -> list[str]:
        """What the mdev host has logged that somebody should look into."""
        assert self.lab.processes is not None
        log = self.lab.processes.supervisor.directory.log("mdevs").read_text()
        return [line for line in log.splitlines() if not re.match(r"\S+ \[(debug|info) *\] ", line)]


def _topology(cards: Mapping[str, str]) -> str:
    """A topology file; ``cards``: lines of each device, by UUID."""
    devices = "".join(f'[[mdev_host.mdev]]\nuuid = "{uuid}"\n{lines}\n' for uuid, lines in cards.items())
    return f'[lab]\nname = "cards"\nready_timeout_s = {PATIENCE_S}\n[[mdev_host]]\n{devices}'


@asynccontextmanager
async def card_lab(directory: Path, cards: Mapping[str, str] | None = None) -> AsyncIterator[CardLab]:
    """Start a lab with these devices; afterwards no process and no file of it is left, and it has not complained."""
    file, base, before = directory / "lab.toml", directory / "pvnet", children(os.getpid())
    file.write_text(_topology(cards or {}))
    async with Lab(load_topology(file), base=base) as lab:
        made = CardLab(lab, directory)
        yield made
        assert made.complaints() == []
    nothing_left(before, base)


KINDS: Final = {"serial": ("mtty", "mtty-2"), "framebuffer": ("mdpy", "mdpy-vga"), "copier": ("copier", "copier-1")}


@asynccontextmanager
async def served(directory: Path, *kinds: str) -> AsyncIterator[tuple[CardLab, list[Card]]]:
    """A lab whose topology has a card of each kind at a socket; of a serial one, the ports are at sockets too."""
    cards = [Card(f"c0ffee00-0000-4000-8000-{n:012}", directory / f"{n}.sock") for n in range(len(kinds))]
    lines = {}
    for card, kind in zip(cards, kinds, strict=True):
        parent, type_name = KINDS[kind]
        lines[card.uuid] = f'parent = "{parent}"\ntype = "{type_name}"\nvfio_user = "{card.socket.name}"'
        if kind == "serial":
            port1 = card.socket.with_suffix(".port1")
            ports = f'{{port0 = "tcp-listen:127.0.0.1:0", port1 = "unix-listen:{port1}"}}'
            lines[card.uuid] += f"\nattributes = {ports}"
    async with card_lab(directory, lines) as lab:
        with ExitStack() as plugs:
            for card, kind in zip(cards, kinds, strict=True):
                plugs.enter_context(card.plugs)
                if kind == "serial":
                    await lab.connect(card)
            yield lab, cards
