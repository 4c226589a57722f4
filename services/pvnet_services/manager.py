"""The management application: holds one VMC session and runs other processes' management commands through it.

``pvnet lpar ...`` sends its command here (channel ``mgmt``); from here it goes the real way: ``/dev/ibmvmc`` of the
management partition, CRQ and RDMA, the hypervisor, the supervisor.  A session that ends (partition or hypervisor
restarted) is opened again; commands wait for it until their own deadline.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys

from pvnet.client.device import VmcDevice
from pvnet.client.session import VmcSession
from pvnet.core.errors import PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import NodeConfig, run_service

_COMMANDS_AT_ONCE = 64
_RETRY_S = 0.05
_RETRY_MAX_S = 1.0


class ManagerNode:
    """See the module's text."""

    def __init__(self, endpoint: Endpoint, config: NodeConfig) -> None:
        manager, partition = config.topology.manager, config.topology.management_partition
        assert manager is not None, "the topology guarantees it"
        assert partition is not None, "the topology guarantees it"
        self.endpoint = endpoint
        self.partition = partition.name
        self.hmc_id = manager.hmc_id
        self.timeout = config.topology.lab.ready_timeout_s
        self.sessions = 0
        self.commands = 0
        self._session: asyncio.Future[VmcSession] = asyncio.get_running_loop().create_future()
        self._busy = 0
        endpoint.on("management", self._command)  # before it starts: whoever sees our birth may call at once

    async def start(self) -> None:
        """Open the first session, then serve."""
        session = await self._reopen(until=asyncio.get_running_loop().time() + self.timeout)
        self.endpoint.spawn(self._keep(session), "session")
        self.endpoint.ready(f"management application of {self.partition}")

    async def stop(self) -> None:
        """Close the session, then leave."""
        if self._session.done():
            await self._session.result().close()
        await self.endpoint.stop()

    async def _new_session(self) -> VmcSession:
        device = VmcDevice(self.endpoint, self.partition, timeout=self.timeout)
        session = await VmcSession(device, self.hmc_id, timeout=self.timeout).open()
        self.sessions += 1
        self._session.set_result(session)
        return session

    async def _keep(self, session: VmcSession) -> None:
        """Replace a session that has ended, for as long as the node lives; after pauses if they end at once."""
        loop = asyncio.get_running_loop()
        wait = _RETRY_S
        while True:
            opened = loop.time()
            problem = await asyncio.shield(session.ended)
            self.endpoint.log.warning("session_ended", error=str(problem))
            self._session = asyncio.get_running_loop().create_future()
            await session.close()
            if loop.time() - opened < _RETRY_MAX_S:
                await asyncio.sleep(wait)
                wait = min(wait * 2, _RETRY_MAX_S)
            else:
                wait = _RETRY_S
            session = await self._reopen()
            self.endpoint.log.info("session_opened", number=self.sessions)

    async def _reopen(self, *, until: float = math.inf) -> VmcSession:
        """Open a session, trying again until that time (of the loop), then with the error of the last attempt."""
        wait = _RETRY_S
        while True:
            try:
                return await self._new_session()
            except PvnetError as error:
                if asyncio.get_running_loop().time() >= until:
                    raise
                self.endpoint.log.warning("session_not_opened", error=str(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _RETRY_MAX_S)

    def _command(self, envelope: Envelope) -> None:
        command = envelope.management
        if command.WhichOneof("command") == "show_status":
            answer = ManagementReply(status_json=json.dumps(self._status()))
            self.endpoint.reply(envelope, Envelope(management_reply=answer))
        elif self._busy >= _COMMANDS_AT_ONCE:
            self.endpoint.refuse(envelope, f"{self.endpoint.name} is busy with {self._busy} commands")
        else:
            self.endpoint.spawn(self._run(envelope), "command")

    async def _run(self, envelope: Envelope) -> None:
        self._busy += 1
        seconds = envelope.deadline_ms / 1000 or self.timeout
        try:
            async with asyncio.timeout(seconds):
                session = await asyncio.shield(self._session)
                command = Management()
                command.CopyFrom(envelope.management)
                answer = await session.manage(command, timeout=seconds)
            self.commands += 1
            self.endpoint.reply(envelope, Envelope(management_reply=answer))
        except TimeoutError:
            self.endpoint.refuse(envelope, f"no VMC session at {self.partition} within {seconds:g} s")
        except PvnetError as error:
            self.endpoint.refuse(envelope, f"the VMC session failed: {error}")
        finally:
            self._busy -= 1

    def _status(self) -> dict[str, object]:
        session = self._session.result().counters if self._session.done() else {}
        return {
            "sessions": self.sessions,
            "commands": self.commands,
            "connected": self._session.done(),
            "calls_under_way": self.endpoint.pending_calls,
            "tasks": self.endpoint.tasks,
            "session": dict(session),
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }


def main() -> int:
    """Run the process."""
    return run_service("manager", ManagerNode)


if __name__ == "__main__":
    sys.exit(main())
