"""A platform of two partitions without processes, and the REST service over it, for tests of its answers."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Self

from pvnet.novalink.api import Api
from pvnet.novalink.api_change import CHANGE_ROUTES
from pvnet.novalink.api_http import NoPlatformError, Request, Response
from pvnet.novalink.api_logon import logon_routes
from pvnet.novalink.api_power import POWER_ROUTES
from pvnet.novalink.api_read import READ_ROUTES
from pvnet.novalink.mirror import Fetch
from pvnet.novalink.sessions import LogOns
from pvnet.pb.v1.management_pb2 import Adapter, Management, ManagementReply, Partition, PowerOff, Switch, System
from pvnet.runtime.platform_ledger import Ledger

UOM = "/rest/api/uom"
READS = {"show_system", "list_switches", "list_partitions", "show_partition", "watch_changes"}
UUIDS = {"mp": "aaaaaaaa-0000-4000-8000-000000000001", "web": "aaaaaaaa-0000-4000-8000-000000000002"}
SYSTEM = "bbbbbbbb-0000-4000-8000-000000000001"
WEB = f"{UOM}/LogicalPartition/{UUIDS['web'].upper()}"
JOB = "application/vnd.ibm.powervm.web+xml; type=JobRequest"
WEB_NS = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"


def partition(name: str, lpar_id: int, state: int = Partition.OFF) -> Partition:
    one = Partition(name=name, label=f"The {name}", lpar_id=lpar_id, uuid=UUIDS[name], state=state)
    one.management = name == "mp"
    one.memory_bytes = one.min_memory_bytes = one.max_memory_bytes = 64 << 20
    one.type = "aix-linux"
    one.adapters.append(Adapter(slot=2, uuid=f"cccccccc-0000-4000-8000-00000000000{lpar_id}", switch="net0", vlan=1))
    one.adapters[0].mac = f"02:00:00:00:00:0{lpar_id}"
    one.processors.units = one.processors.min_units = one.processors.max_units = 10
    one.processors.virtual = one.processors.min_virtual = one.processors.max_virtual = 1
    return one


class Platform:
    """Does what the supervisor does to its ledger; ``hold`` lets power commands wait, ``lost`` ends the session."""

    def __init__(self) -> None:
        self.ledger = Ledger(1000)
        self.commands: list[Management] = []
        self.hold: asyncio.Event | None = None
        self.lost = False
        self.lose: list[str | dict[str, object]] = []
        """What is lost, for one change after the other: "asked", "answer", "" (nothing); fields: "web" gets them."""
        self.asked = asyncio.Event()
        self.refusals: list[ManagementReply] = []
        """Instead of the next changes."""
        self.heard = asyncio.Event()
        """Clear: the mirror hears of nothing."""
        self.heard.set()
        self.tasks: set[asyncio.Task] = set()
        self.news = asyncio.Event()
        system = System(name="lab", uuid=SYSTEM, machine_type="8247", model="22L", serial="1", lab="lab")
        system.memory_bytes, system.memory_region_bytes, system.processor_units = 1 << 36, 1 << 20, 1600
        self.ledger.put_system(system)
        self.ledger.put_switch(Switch(name="net0", label="ETHERNET0", uuid="dddddddd-0000-4000-8000-000000000001"))
        self.ledger.put_partition(partition("mp", 1, Partition.RUNNING))
        self.ledger.put_partition(partition("web", 2))
        self.ledger.begin()

    def put(self, name: str, **fields) -> None:
        changed = deepcopy(self.ledger.partitions[name])
        for field, value in fields.items():
            setattr(changed, field, value)
        self.ledger.put_partition(changed)
        self.news.set()

    def spawn(self, work, name):
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def run(self, command: Management, *, timeout: float) -> ManagementReply:
        if self.lost:
            raise NoPlatformError("no VMC session at mp within 5 s")
        self.commands.append(command)
        changes = command.WhichOneof("command") not in READS
        lose = self.lose.pop(0) if changes and self.lose else ""
        self.asked.set()
        if isinstance(lose, dict):
            self.put("web", **lose)
        if lose and lose != "answer":
            raise NoPlatformError("The platform did not answer: mp has died")
        reply = self.refusals.pop(0) if changes and self.refusals else await self.do(command)
        if lose == "answer":
            raise NoPlatformError("The platform did not answer: read: EBADFD")
        if not reply.revision:
            reply.revision = self.ledger.revision
        return reply

    async def do(self, command: Management) -> ManagementReply:
        match command.WhichOneof("command"):
            case "show_system":
                return ManagementReply(system=self.ledger.system)
            case "list_switches":
                return ManagementReply(switches=self.ledger.switches.values())
            case "list_partitions":
                return ManagementReply(partitions=self.ledger.partitions.values())
            case "show_partition":
                found = self.ledger.partitions.get(command.show_partition.name)
                missing = ManagementReply(status=ManagementReply.NOT_FOUND, text="no such partition")
                return missing if found is None else ManagementReply(partitions=[found])
            case "watch_changes":
                return self.ledger.changes_after(command.watch_changes.after, 4000)
            case "power_on":
                return await self._power(command.power_on.name, Partition.RUNNING)
            case "power_off":
                restart = command.power_off.restart
                state = Partition.RUNNING if restart else Partition.OFF
                return await self._power(command.power_off.name, state, restart=restart)
            case "create_partition":
                asked = command.create_partition
                made = Partition(name="new", lpar_id=7, uuid="aaaaaaaa-0000-4000-8000-000000000007", type=asked.type)
                made.label, made.memory_bytes = asked.label, asked.memory_bytes
                made.processors.CopyFrom(self.ledger.partitions["web"].processors)
                self.ledger.put_partition(made)
                self.news.set()
                return ManagementReply(partitions=[made])
            case "delete_adapter":
                changed = deepcopy(self.ledger.partitions[command.delete_adapter.partition])
                del changed.adapters[:]
                self.ledger.put_partition(changed)
                self.news.set()
                return ManagementReply()
            case "modify_partition":
                return self._modify(command)
            case "delete_partition":
                self.ledger.drop_partition(command.delete_partition.name)
                self.news.set()
                return ManagementReply()
            case _:
                return ManagementReply(status=ManagementReply.NOT_SUPPORTED, text="not in this test")

    async def _power(self, name: str, state: int, *, restart: bool = False) -> ManagementReply:
        now, on = self.ledger.partitions[name], state == Partition.RUNNING and not restart
        if now.state == Partition.STOPPING or on == (now.state in {Partition.STARTING, Partition.RUNNING}):
            said = Partition(name=name, label=now.label, state=now.state, guest_ready=now.guest_ready)
            text = f"{name} is {Partition.State.Name(now.state)}"
            return ManagementReply(status=ManagementReply.CONFLICT, text=text, partitions=[said])
        self.put(name, state=Partition.STARTING if on else Partition.STOPPING)
        if self.hold is not None:
            await self.hold.wait()
        self.put(name, state=state, guest_ready=state == Partition.RUNNING, pid=now.pid + 1)
        return ManagementReply(partitions=[self.ledger.partitions[name]])

    def _modify(self, command: Management) -> ManagementReply:
        asked = command.modify_partition
        now = self.ledger.partitions[asked.name]
        if asked.if_revision and asked.if_revision != now.revision:
            return ManagementReply(status=ManagementReply.STALE, text="it has changed since")
        if asked.memory_bytes > 1 << 30:
            return ManagementReply(status=ManagementReply.INVALID, text="at most 1 GiB", field="memory_bytes")
        self.put(asked.name, label=asked.label or now.label, memory_bytes=asked.memory_bytes or now.memory_bytes)
        return ManagementReply()


class Keys:
    """One user, ``pvnet`` with ``secret``; tokens are numbered."""

    def __init__(self) -> None:
        self.made = 0
        self.forgotten: list[str] = []

    async def check(self, user: str, password: str) -> bool:
        return (user, password) == ("pvnet", "secret")

    def token(self) -> str:
        self.made += 1
        return f"token-{self.made}"

    def write(self, token: str, uid: int | None) -> str:
        return f"/files/{token}"

    def forget(self, ended) -> None:
        self.forgotten += [log_on.file for log_on in ended if log_on.file]


class Service:
    """The interface over :class:`Platform`, with a mirror that follows; ``async with``."""

    def __init__(self) -> None:
        self.platform = Platform()
        self.keys = Keys()
        self.pauses: list[float] = []
        self.now = 0.0
        self.api = Api(self.platform, log_ons=LogOns(most=10, idle_s=100.0), first=0, clock=lambda: self.now)
        for routes in (logon_routes(self.keys, self._pause), READ_ROUTES, POWER_ROUTES, CHANGE_ROUTES):
            self.api.add_routes(routes)
        self.token = ""

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def __aenter__(self) -> Self:
        fetch = Fetch()
        while (command := fetch.next_command()) is not None:
            fetch.take(await self.platform.run(command, timeout=1.0))
        self.api.show(self.api.mirror.restore(fetch))
        self.platform.commands.clear()
        self._follower = asyncio.get_running_loop().create_task(self._follow())
        self.token = (await self.log_on()).partition("</X-API-Session>")[0].rpartition(">")[2]
        return self

    async def __aexit__(self, *exc) -> None:
        self._follower.cancel()
        await asyncio.gather(self._follower, *self.platform.tasks, return_exceptions=True)

    async def _follow(self) -> None:
        mirror = self.api.mirror
        while True:
            await self.platform.news.wait()
            await self.platform.heard.wait()
            self.platform.news.clear()
            batch = mirror.batch(await self.platform.do(mirror.watch_command(0)))
            while (command := batch.next_command()) is not None:
                batch.take(await self.platform.do(command))
            self.api.show(mirror.apply(batch))

    async def log_on(self, password: str = "secret") -> str:
        body = (
            f'<LogonRequest xmlns="{WEB_NS}" schemaVersion="V1_0"><UserID>pvnet</UserID>'
            f"<Password>{password}</Password></LogonRequest>"
        )
        return (await self.ask("PUT", "/rest/api/web/Logon", body.encode())).body.decode()

    async def ask(self, method: str, path: str, body: bytes = b"", *, query=None, **headers: str) -> Response:
        given = {"x-api-session": self.token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = Request(method, path, query or {}, given, body, "https://host:1", path, "127.0.0.1", local=True)
        response, _ = await self.api.answer(request)
        return response

    async def job(self, operation: str, /, **parameters: str) -> Response:
        listed = "".join(
            f"<JobParameter><ParameterName>{name}</ParameterName><ParameterValue>{value}</ParameterValue></JobParameter>"
            for name, value in parameters.items()
        )
        body = (
            f'<JobRequest xmlns="{WEB_NS}"><RequestedOperation><OperationName>{operation}</OperationName>'
            f"<GroupName>LogicalPartition</GroupName></RequestedOperation><JobParameters>{listed}</JobParameters>"
            "</JobRequest>"
        )
        return await self.ask("PUT", f"{WEB}/do/{operation}", body.encode())


def between(response: Response, name: str) -> str:
    """Return the text of the first element of this name."""
    return response.body.decode().partition(f"<{name}>")[2].partition("<")[0]


__all__ = ["SYSTEM", "UOM", "UUIDS", "WEB", "Platform", "PowerOff", "Service", "between", "partition"]
