"""The management application: holds one VMC session and runs other processes' management commands through it.

``pvnet lpar ...`` sends its command here (channel ``mgmt``); from here it goes the real way: ``/dev/ibmvmc`` of the
management partition, CRQ and RDMA, the hypervisor, the supervisor.  A session that ends (partition or hypervisor
restarted) is opened again; commands wait for it until their own deadline.
"""

from __future__ import annotations

import json
import sys

from pvnet.client.keeper import SessionKeeper
from pvnet.core.errors import DeadlineError, PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.service import NodeConfig, run_service

_COMMANDS_AT_ONCE = 64


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
        self.keeper = SessionKeeper(endpoint, self.partition, self.hmc_id, timeout=self.timeout)
        self.commands = 0
        self._busy = 0
        endpoint.on("management", self._command)  # before it starts: whoever sees our birth may call at once

    async def start(self) -> None:
        """Open the first session, then serve."""
        await self.keeper.start()
        self.endpoint.ready(f"management application of {self.partition}")

    async def stop(self) -> None:
        """Close the session, then leave."""
        await self.keeper.stop()
        await self.endpoint.stop()

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
        command = Management()
        command.CopyFrom(envelope.management)
        try:
            answer = await self.keeper.manage(command, timeout=seconds)
            self.commands += 1
            self.endpoint.reply(envelope, Envelope(management_reply=answer))
        except DeadlineError as error:
            self.endpoint.refuse(envelope, str(error))
        except PvnetError as error:
            self.endpoint.refuse(envelope, f"the VMC session failed: {error}")
        finally:
            self._busy -= 1

    def _status(self) -> dict[str, object]:
        return {
            "sessions": self.keeper.opened,
            "commands": self.commands,
            "connected": self.keeper.connected,
            "calls_under_way": self.endpoint.pending_calls,
            "tasks": self.endpoint.tasks,
            "session": dict(self.keeper.counters),
            "endpoint": dict(self.endpoint.counters),
            "link": dict(self.endpoint.link.counters),
            "paths": self.endpoint.paths(),
        }


def main() -> int:
    """Run the process."""
    return run_service("manager", ManagerNode)


if __name__ == "__main__":
    sys.exit(main())
