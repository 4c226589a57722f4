"""``pvnet demo --loopback``: the whole lab in one process, on its own clock: every run is the same, byte for byte."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from pvnet.capture.model import CaptureInfo, Direction, Interface
from pvnet.capture.pvcap import CaptureWriter, make_info
from pvnet.client import Lab
from pvnet.core.errors import ConfigError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.log import configure_logging
from pvnet.runtime.snoop import topology_json
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab, Loopback
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.envelope import CHANNEL_OF_BODY
from pvnet.transport.loopback import Faults, LoopbackNetwork

FAULTS: Final = Faults(reorder=0.05, delay_s=0.0002, reorder_s=0.001)
"""What the seed decides about: which messages are late, and how much."""


class _Recording:
    """Writes each message as its sender sends it."""

    def __init__(self, write: Callable[[bytes], object], info: CaptureInfo) -> None:
        self._writer = CaptureWriter(write, info)
        self._interfaces: dict[str, Interface] = {}

    def message(self, direction: str, envelope: Envelope) -> None:
        """A node sends or receives."""
        if direction == "in":
            return
        channel = CHANNEL_OF_BODY[envelope.WhichOneof("body") or "refusal"].value
        name = f"{envelope.source}/{channel}"
        interface = self._interfaces.get(name)
        if interface is None:
            interface = self._interfaces[name] = Interface(name, description=f"{channel} of {envelope.source}")
        data = envelope.SerializeToString(deterministic=True)
        self._writer.record(interface, envelope.wall_ns, data, direction=Direction.OUT)


def run_loopback(topology: Topology, steps: Callable[[Lab], Awaitable[int]], *, seed: int, record: Path | None) -> int:
    """Run ``steps`` against a lab in this process; ``record``: all of its messages, into that file.

    Raises:
        ConfigError: the file cannot be written.
    """
    configure_logging(level="error")
    if record is None:
        return run_virtual(_lab(topology, steps, seed, None))
    try:
        with record.open("wb") as file:
            # The machine is left out: the same run makes the same file everywhere.
            info = make_info(topology_json(topology))
            info.hardware = info.os = ""
            return run_virtual(_lab(topology, steps, seed, _Recording(file.write, info)))
    except OSError as error:
        raise ConfigError(f"--record {record}: {error.strerror}") from None


async def _lab(
    topology: Topology, steps: Callable[[Lab], Awaitable[int]], seed: int, recording: _Recording | None
) -> int:
    inner = InProcessLab(topology, Loopback(LoopbackNetwork(seed=seed, faults=FAULTS)))
    if recording is not None:
        inner.snoop.append(recording.message)
    async with inner:
        return await steps(Lab.over(topology, await inner.client()))
