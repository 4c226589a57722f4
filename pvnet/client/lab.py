"""A lab for programs: start one of your own, or join one that is running.

``async with Lab() as lab`` starts a broker, a hypervisor, partitions and a manager as processes and ends them all;
``async with Lab.join() as lab`` uses the one that ``pvnet up`` started.  Either way ``lab`` is a node of its own on the
broker, from which devices are opened and commands sent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from pathlib import Path
from typing import Final, Self

from pvnet.client.device import CharDevice, VmcDevice
from pvnet.client.session import VmcSession
from pvnet.core.errors import ConfigError, DeviceError, RefusedError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import ListPartitions, Management, ManagementReply, Partition, PowerOff, PowerOn
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.lab import LabProcesses
from pvnet.runtime.lab_dir import find_lab
from pvnet.runtime.log import quiet_by_default
from pvnet.runtime.service import make_port
from pvnet.runtime.snoop import start_program_snoop, stop_snoop
from pvnet.runtime.topology import Topology, default_topology

_HMC_ID: Final = "pvnet-command"


class Lab:
    """See the module's text.  ``Lab(topology)`` starts that topology (default: the one of ``pvnet up``)."""

    def __init__(self, topology: Topology | None = None, *, base: Path | None = None) -> None:
        quiet_by_default()  # before anything below binds a logger, which would keep the settings of that moment
        # A name of its own, so that a program never collides with a lab that is already running.
        self.topology = topology or default_topology(f"lab-{os.getpid()}-{secrets.token_hex(2)}")
        self.processes: LabProcesses | None = LabProcesses(self.topology, base=base)
        self.endpoint: Endpoint
        self._broker = ""

    @classmethod
    def join(cls, name: str | None = None, *, base: Path | None = None) -> Self:
        """Return a running lab (by name, ``$PVNET_LAB``, or the only one) to be entered.

        Raises:
            UnreachableError: no such lab is running.  ConfigError: several are, and none was named.
        """
        _, info = find_lab(name, base)
        lab = cls.__new__(cls)
        lab.topology = Topology.model_validate_json(_json(info.topology))
        lab.processes = None
        lab._broker = info.broker_url().text()
        return lab

    @classmethod
    def over(cls, topology: Topology, endpoint: Endpoint) -> Self:
        """Return a lab that is reached by an endpoint of somebody else's; it is not entered."""
        lab = cls.__new__(cls)
        lab.topology = topology
        lab.processes = None
        lab.endpoint = endpoint
        lab._broker = ""
        return lab

    @property
    def name(self) -> str:
        """Name of the lab."""
        return self.topology.lab.name

    async def __aenter__(self) -> Self:
        quiet_by_default()
        if self.processes is not None:
            await self.processes.__aenter__()
            self._broker = self.processes.supervisor.broker.url.text()
        try:
            await self._connect()
        except BaseException:
            await self._leave()
            raise
        return self

    async def _connect(self) -> None:
        node = f"app-{os.getpid()}-{secrets.token_hex(3)}"
        port = make_port(self._broker, self.name, node, unix=self.topology.lab.unix)
        self.endpoint = Endpoint(port, lab=self.name, name=node, role="client")
        self._snoop = start_program_snoop(self.endpoint, self.topology)
        try:
            await self.endpoint.start()
        except BaseException:
            await stop_snoop(self._snoop)
            raise
        self.endpoint.ready()

    async def __aexit__(self, *exc: object) -> None:
        await self.endpoint.stop()
        await stop_snoop(self._snoop)
        await self._leave()

    async def _leave(self) -> None:
        if self.processes is not None:
            await self.processes.__aexit__(None, None, None)

    # --- devices -----------------------------------------------------------------------------------------------------

    @property
    def management_partition(self) -> str:
        """Name of the partition that has the VMC.

        Raises:
            ConfigError: this lab has none.
        """
        partition = self.topology.management_partition
        if partition is None:
            raise ConfigError(f"lab {self.name} has no management partition: expected one with management = true")
        return partition.name

    def vmc_device(self, *, timeout: float = 10.0) -> VmcDevice:
        """Return ``/dev/ibmvmc`` of the management partition, to be opened (``async with``)."""
        return VmcDevice(self.endpoint, self.management_partition, timeout=timeout)

    def vmc_session(self, hmc_id: bytes | str = "pvnet", *, timeout: float = 10.0) -> VmcSession:
        """Return a session of a management application, to be opened (``async with``)."""
        return VmcSession(self.vmc_device(timeout=timeout), hmc_id, timeout=timeout)

    def crq_device(self, partition: str, number: int = 0, *, timeout: float = 10.0) -> CharDevice:
        """Return ``/dev/crqN``: the raw CRQ to another partition; reads and writes are 16-byte elements."""
        return CharDevice(self.endpoint, partition, f"/dev/crq{number}", timeout=timeout)

    # --- commands ----------------------------------------------------------------------------------------------------

    async def command(self, node: str, command: Management, *, timeout: float = 10.0) -> ManagementReply:
        """Send a management command to a node and return its reply, whatever its status.

        Raises:
            UnreachableError: the node is not there, died or did not answer.  RefusedError: it does not take it.
        """
        reply = await self.endpoint.call(node, Envelope(management=command), timeout)
        return reply.management_reply

    async def manage(self, command: Management, *, timeout: float = 60.0) -> ManagementReply:
        """Run a command the whole way: manager, ``/dev/ibmvmc``, hypervisor, supervisor.

        In a lab without a manager it goes over a VMC session of its own.

        Raises:
            RefusedError: its reply's status is not OK (the text says why), or all VMC sessions are taken.
            UnreachableError: as :meth:`command`.
            ConfigError: the lab has neither a manager nor a management partition.
        """
        if self.topology.manager is not None:
            reply = await self.command(self.topology.manager.name, command, timeout=timeout)
        else:
            reply = await self._manage_alone(command, timeout)
        if reply.status != ManagementReply.OK:
            raise RefusedError(reply.text or ManagementReply.Status.Name(reply.status).lower().replace("_", " "))
        return reply

    async def _manage_alone(self, command: Management, timeout: float) -> ManagementReply:
        if self.topology.management_partition is None:
            missing = "neither a [manager] nor a management partition"
            raise ConfigError(f"lab {self.name} has {missing}: expected a [[partition]] with management = true")
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        try:
            async with self.vmc_session(_HMC_ID, timeout=timeout) as session:
                return await session.manage(command, timeout=max(0.0, end - loop.time()))
        except DeviceError as error:
            if error.errno != errno.EBUSY:
                raise
            raise RefusedError(f"all VMC sessions of {self.management_partition} are in use: {error}") from None

    async def partitions(self, *, timeout: float = 10.0) -> list[Partition]:
        """List the partitions with their states, through the VMC; raises as :meth:`manage`."""
        found: list[Partition] = []
        first = 0
        while True:
            reply = await self.manage(Management(list_partitions=ListPartitions(first=first)), timeout=timeout)
            found += reply.partitions
            if not reply.next:
                return found
            first = reply.next

    async def power_on(self, name: str, *, timeout: float = 60.0) -> Partition:
        """Power a partition on, through the VMC; done when it serves.  Raises as :meth:`manage`."""
        return (await self.manage(Management(power_on=PowerOn(name=name)), timeout=timeout)).partitions[0]

    async def power_off(self, name: str, *, timeout: float = 60.0) -> Partition:
        """Power a partition off, through the VMC; done when its process is gone.  Raises as :meth:`manage`."""
        return (await self.manage(Management(power_off=PowerOff(name=name)), timeout=timeout)).partitions[0]


def _json(value: object) -> str:
    import json

    return json.dumps(value)
