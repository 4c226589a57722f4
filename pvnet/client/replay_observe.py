"""Publishes a recording as the broker had it, for dashboards and other observers.

Everything goes below a lab name that nobody else uses (``LAB-replay``): topics, frames and retained states are those of
a lab, and no node of the living lab hears anything.  Each recorded node has a connection of its own, so that a broker's
rule "who publishes is the source" holds here, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pvnet.capture.player import Due
from pvnet.capture.role_plan import complete
from pvnet.core.errors import ConfigError
from pvnet.core.names import NodeName, check_name
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.runtime.service import make_port
from pvnet.transport.base import MAX_FRAME_BYTES, Port
from pvnet.transport.envelope import CHANNEL_OF_BODY, SCHEMA_VERSION

SUFFIX = "-replay"
_LONGEST = 32


def observed_lab(lab: str) -> str:
    """Return the lab name under which a recording of ``lab`` is published."""
    return lab[: _LONGEST - len(SUFFIX)] + SUFFIX


class _Deaf:
    """Takes what comes to a port, and does nothing about it."""

    def __init__(self, will: bytes) -> None:
        self._will = will

    def frame_received(self, source: str, channel: str, payload: bytes) -> None:
        """Ignore a frame."""

    def state_received(self, node: str, payload: bytes) -> None:
        """Ignore a state."""

    def next_will(self, connection: int) -> bytes:  # noqa: ARG002
        """Return what is published for us if the connection breaks."""
        return self._will

    def port_connected(self, connection: int) -> None:
        """Ignore it."""

    def port_disconnected(self, reason: str) -> None:
        """Ignore it."""

    def path_changed(self, node: str, incarnation: int, *, is_direct: bool, reason: str) -> None:
        """Ignore it."""

    def share_received(self, source: str, label: str, body: bytes, fds: list[int]) -> None:
        """Nothing is passed here: only paths without the broker pass descriptors."""


class Publisher:
    """See the module's text.  ``nodes``: everybody who says something in the recording."""

    def __init__(self, broker: str, lab: str, nodes: Iterable[str]) -> None:
        self.lab = check_name(lab, "lab")
        self.counters: Counter[str] = Counter()
        self._broker = broker
        self._nodes = sorted(nodes)
        self._ports: dict[str, Port] = {}

    async def start(self, timeout: float = 10.0) -> None:
        """Connect and publish the states.

        :raises ConfigError, UnreachableError: as ``Port.open``.
        """
        try:
            for node in self._nodes:
                port = make_port(self._broker, self.lab, check_name(node), unix=False)
                await port.open(_Deaf(self._state(node, Lifecycle.LOST)), timeout=timeout)
                self._ports[node] = port
                port.set_state(self._state(node, Lifecycle.READY))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take the states back and disconnect."""
        while self._ports:
            node, port = self._ports.popitem()
            await port.close(self._state(node, Lifecycle.DEATH), forget=True)

    def publish(self, due: Due) -> None:
        """Publish one record; what is no message between two nodes is counted."""
        envelope = due.record.envelope()
        if envelope is None:
            self.counters["no message"] += 1
            return
        complete(envelope, due.record)
        channel = CHANNEL_OF_BODY.get(envelope.WhichOneof("body") or "")
        port = self._ports.get(envelope.source)
        try:
            destination = check_name(envelope.destination)
        except ConfigError:
            destination = NodeName("")
        if channel is None or port is None or not destination:
            self.counters["no message between nodes"] += 1
            return
        envelope.lab = self.lab
        payload = envelope.SerializeToString()
        if len(payload) > MAX_FRAME_BYTES:
            self.counters["too long"] += 1
            return
        port.send(destination, channel, payload)
        self.counters["published"] += 1

    def _state(self, node: str, phase: Lifecycle.Phase) -> bytes:
        state = Lifecycle(phase=phase, role="recorded", text="played from a recording", connection=1)
        return Envelope(
            schema=SCHEMA_VERSION, lab=self.lab, source=node, source_incarnation=1, lifecycle=state
        ).SerializeToString()
