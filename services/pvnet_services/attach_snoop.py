"""``?snoop=pcapng:FILE`` behind the address of something that is attached: what is recorded, and for how long.

A port of a switch: its Ethernet frames, both ways.  A vfio-user socket: every message, byte for byte, as the body
``mdev_message`` of an envelope between ``vfio-user`` and the host, so that captures of foreign clients and of
partitions read alike.  (File descriptors are not recorded.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from pvnet.capture.model import Direction, Interface
from pvnet.capture.snoop import SnoopSink
from pvnet.net.snooped_switch import SnoopedSwitch
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.snoop import open_sink, split_snoop
from pvnet.runtime.topology import Topology
from pvnet.transport.envelope import SCHEMA_VERSION
from pvnet.vfio.server import Snoop
from pvnet_services.switches import HostedSwitch, OpenPort, PortOpener

VFIO_USER: Final = "vfio-user"
"""Stands for the client at a socket."""


class _SnoopedHosted(HostedSwitch):
    """A switch as an opener of ports sees it while what it plugs in is recorded."""

    def __init__(self, hosted: HostedSwitch, sink: SnoopSink, node: str) -> None:
        self.__dict__ |= hosted.__dict__
        self.running = SnoopedSwitch(hosted.running, sink, node)
        self._sink = sink

    def over(self, text: str) -> None:
        """Forget a port that has ended by itself, and close its capture."""
        super().over(text)
        asyncio.get_running_loop().run_in_executor(None, self._sink.close)


def snooping_opener(opener: PortOpener, endpoint: Endpoint, topology: Topology | None = None) -> PortOpener:
    """Return an opener that records a port whose text ends in ``?snoop=...``."""

    async def open_port(hosted: HostedSwitch, text: str) -> OpenPort:
        port, target = split_snoop(text)
        if target is None:
            return await opener(hosted, text)
        loop = asyncio.get_running_loop()
        sink = open_sink(endpoint, target, topology)
        try:
            opened = await opener(_SnoopedHosted(hosted, sink, endpoint.name), port)
        except BaseException:
            await loop.run_in_executor(None, sink.close)
            raise

        async def close() -> None:
            await opened.close()
            await loop.run_in_executor(None, sink.close)

        return OpenPort(opened.name, close, opened.state, opened.losses, opened.is_over)

    return open_port


def vfio_user_tap(sink: SnoopSink, endpoint: Endpoint, device: str) -> Snoop:
    """Return what takes the messages of a device's socket: "in" or "out", and the message in pieces."""
    interface = Interface(
        f"{endpoint.name}/{VFIO_USER}-{device}", description=f"vfio-user messages of the socket of mdev {device}"
    )
    number = {"in": 0, "out": 0}

    def tap(direction: str, parts: Sequence[bytes | memoryview]) -> None:
        number[direction] += 1
        now = time.time_ns()
        envelope = Envelope(schema=SCHEMA_VERSION, lab=endpoint.lab, seq=number[direction], wall_ns=now)
        ends = (VFIO_USER, endpoint.name)
        envelope.source, envelope.destination = ends if direction == "in" else ends[::-1]
        envelope.mdev_message.message = b"".join(parts)
        way = Direction.IN if direction == "in" else Direction.OUT
        sink.record(interface, envelope.SerializeToString(), time_ns=now, direction=way)

    return tap
