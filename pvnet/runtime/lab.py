"""A lab of real processes: the supervisor, its place on the broker, and what the hypervisor may ask of it.

The supervisor is itself a node (``supervisor``): it learns from the other nodes' states when they serve, and it carries
out the platform part of management commands (``platform_admin``), which only the hypervisor may send.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pvnet.capture.snoop import SnoopSink
from pvnet.core.errors import ConfigError, DeadlineError, PeerDiedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, ShowStatus
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.platform_admin import PlatformAdmin
from pvnet.runtime.readiness import EndpointReadiness, Readiness
from pvnet.runtime.service import NodeConfig, make_port
from pvnet.runtime.snoop import start_snoop, stop_snoop
from pvnet.runtime.supervisor import Launch, NodeSpec, Supervisor, SupervisorEvent
from pvnet.runtime.topology import HYPERVISOR, SUPERVISOR, Topology
from pvnet.transport.uri import BrokerUrl

_PROBE_S = 1.0


class LabProcesses:
    """Starts and ends a lab; ``async with`` lasts from "everything serves" to "nothing is left"."""

    def __init__(
        self,
        topology: Topology,
        *,
        log_json: bool = False,
        on_event: Callable[[SupervisorEvent], None] | None = None,
        base: Path | None = None,
    ) -> None:
        self.supervisor = Supervisor(
            topology,
            launcher=self._launch,
            module=_module,
            readiness=self._readiness,
            on_event=on_event,
            on_state=self._state_changed,
            base=base,
        )
        self.platform = PlatformAdmin(topology, self.supervisor)
        self.endpoint: Endpoint
        self._log_json = log_json
        self._snoop: SnoopSink | None = None

    @property
    def topology(self) -> Topology:
        """The topology of now: management commands change it."""
        return self.platform.topology

    async def __aenter__(self) -> Self:
        try:
            await self.supervisor.start()
        except BaseException:
            await stop_snoop(self._snoop)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.supervisor.stop()
        await stop_snoop(self._snoop)

    def _launch(self, spec: NodeSpec, broker: BrokerUrl) -> Launch:
        config = NodeConfig(
            node=spec.name,
            broker=broker.text(),
            topology=self.platform.launching(spec.name),
            directory=str(self.supervisor.directory.path),
            log_json=self._log_json,
        )
        stdin = config.model_dump_json(by_alias=True).encode()
        return Launch(_module(spec), stdin=stdin)

    def _state_changed(self, name: str) -> None:
        self.platform.state_changed(name)

    async def _readiness(self, broker: BrokerUrl) -> Readiness:
        lab = self.topology.lab
        port = make_port(broker.text(), lab.name, SUPERVISOR, unix=lab.unix)
        self.endpoint = Endpoint(port, lab=lab.name, name=SUPERVISOR, role="supervisor")
        self.endpoint.on("management", self._management)
        self.platform.rollout.endpoint = self.endpoint
        self._snoop = start_snoop(self.endpoint, self.topology)
        try:
            if self.supervisor.broker.choice.kind == "url":
                await self._refuse_second(broker)
            await self.endpoint.start(timeout=lab.ready_timeout_s)
        except BaseException:
            await self.endpoint.stop()
            raise
        self.endpoint.watch(HYPERVISOR)
        self.endpoint.ready("supervisor")
        self.endpoint.spawn(self._end_when_superseded(), "superseded")
        return EndpointReadiness(self.endpoint)

    async def _refuse_second(self, broker: BrokerUrl) -> None:
        """Ask whether a lab of this name already runs at a broker that others use as well.

        Raises:
            ConfigError: its supervisor answers.
        """
        lab = self.topology.lab.name
        name = f"probe-{os.getpid()}-{secrets.token_hex(3)}"
        probe = Endpoint(make_port(broker.text(), lab, name, unix=False), lab=lab, name=name, role="client")
        try:
            await probe.start(timeout=self.topology.lab.ready_timeout_s)
            await probe.call(SUPERVISOR, Envelope(management=Management(show_status=ShowStatus())), _PROBE_S)
        except (DeadlineError, PeerDiedError):
            return
        finally:
            await probe.stop()
        raise ConfigError(f"a lab {lab} already runs at broker {broker.redacted()}: expected another --lab name")

    async def _end_when_superseded(self) -> None:
        """Another supervisor of this lab's name has come up at the broker: two would fight over the nodes."""
        await self.endpoint.superseded.wait()
        self.supervisor.request_stop()

    # --- what the hypervisor asks ------------------------------------------------------------------------------------

    def _management(self, envelope: Envelope) -> None:
        kind = envelope.management.WhichOneof("command")
        if kind == "show_status":
            answer = ManagementReply(status_json=self.platform.status())
            self.endpoint.reply(envelope, Envelope(management_reply=answer))
        elif envelope.source != HYPERVISOR:
            self.endpoint.refuse(envelope, f"only the {HYPERVISOR} may ask the supervisor to {kind}")
        else:
            self.endpoint.spawn(self._answer(envelope), str(kind))

    async def _answer(self, envelope: Envelope) -> None:
        answer = await self.platform.run(envelope.management)
        self.endpoint.reply(envelope, Envelope(management_reply=answer))


def _module(spec: NodeSpec) -> tuple[str, ...]:
    return (f"pvnet_services.{spec.role}", "--config", "-")
