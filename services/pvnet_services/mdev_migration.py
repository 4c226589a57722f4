"""A device moves from one mdev host to another while a partition uses it.

The source drives the device's own migration states, as a vfio-user client would; the state stream travels in calls::

    source                                                     destination
    BEGIN  name, type, parent, attributes, partition    ──▶    makes the device, hidden, RESUMING
    DATA   pieces of the stream, in PRE_COPY            ──▶
           (the partition's commands are held; what is under way ends)
    DATA   the rest, in STOP_COPY                       ──▶
    COMMIT                                              ──▶    RUNNING, visible
           (the partition is told where the device is; the device here is removed)

Until the answer to COMMIT the device lives at the source, from then on at the destination, never at both: a source that
gets no answer asks again until it gets one or the destination is dead.  On any failure before, the destination forgets
what it has, and the source executes what was held as if nothing had been.  What a partition sent and the source did not
answer was not executed: it repeats that at the destination, so nothing is lost and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from pvnet.core.errors import DeadlineError, PvnetError, RefusedError
from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life import Registry
from pvnet.mdev.life_objects import Mdev
from pvnet.mdev.names import MigrationFlag, MigrationState
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.papr.errno import EACCES, EBUSY, EINVAL, ENODEV, EOPNOTSUPP
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.mdev_pb2 import MdevReply, MdevTransfer
from pvnet.runtime.endpoint import Endpoint
from pvnet.transport.link import PeerDown
from pvnet_services.mdev_runner import run_operation
from pvnet_services.mdev_sessions import MdevSessions, refused

PIECE_BYTES: Final = 48 << 10
"""Of the state stream in one message."""
_STEP_TIMEOUT_S: Final = 20.0
_QUIESCE_S: Final = 10.0
"""Longest that what is under way may take to end."""
_PRECOPY_BYTES: Final = 1 << 36
"""More than this is not sent while the device runs: it changes faster than it can be sent."""
_COMMITTED_MAX: Final = 64
_SET_STATE: Final = (1 << 17) | 2
_STATE: Final = struct.Struct("<Ii")


def set_state(device: VfioDevice, state: MigrationState) -> None:
    """Bring a device into a migration state.

    Raises:
        MdevError: it cannot get there.
    """
    device.feature(_SET_STATE, _STATE.pack(int(state), -1), _STATE.size)


class _Incoming:
    """A transfer that has begun and is not committed."""

    def __init__(self, source: str, incarnation: int, name: str, device: VfioDevice, partition: str) -> None:
        self.source = source
        self.incarnation = incarnation
        self.name = name
        self.device = device
        self.partition = partition
        self.bytes = 0


class MdevMigration:
    """Both ends, for one host.

    :param hosts: nodes that may send devices here.
    :param arrived: told the name of a device that lives here from now on, its partition and attributes.
    :param departed: told the name of a device that does not any more.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        registry: Registry,
        sessions: MdevSessions,
        hosts: Collection[str],
        arrived: Callable[[str, str, Mapping[str, str]], None],
        departed: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._registry = registry
        self._sessions = sessions
        self._hosts = frozenset(hosts)
        self._arrived = arrived
        self._departed = departed
        self.incoming: dict[tuple[str, int], _Incoming] = {}
        self._beginning: set[tuple[str, int]] = set()
        self._committed: dict[tuple[str, int], str] = {}
        self._attributes: dict[tuple[str, int], dict[str, str]] = {}
        endpoint.on("mdev_transfer", self.transfer)
        endpoint.on_peer_down.append(self._peer_down)

    # --- source ------------------------------------------------------------------------------------------------------

    async def migrate(self, name: str, to: str, partition: str, attributes: Mapping[str, str]) -> dict[str, object]:
        """Move a device to the host ``to``; returns what it took.

        Raises:
            MdevError: the device cannot be moved, or not now; the text says why.
            UnreachableError, RefusedError: the destination; the device stays.
        """
        if to == self._endpoint.name:
            raise MdevError(EINVAL, f"{name} is at {to} already")
        mdev = self._registry.pin(name, f"it is being moved to {to}")
        try:
            device = self._movable(mdev)
            move = _Move(self, to, device, self._sessions)
            await move.run(mdev, partition, attributes)
        finally:
            self._registry.unpin(name)
        self._sessions.moved(device, to)
        self._departed(device.name)
        await run_operation(self._registry.depart(name, to))
        return {"bytes": move.bytes, "stopped_s": move.stopped_s, "total_s": move.total_s}

    def _movable(self, mdev: Mdev) -> VfioDevice:
        device = mdev.vfio
        if not isinstance(device, VfioDevice):
            raise MdevError(ENODEV, f"mdev {mdev.name} has no users' interface")
        if mdev.works.migration is None:
            raise MdevError(EOPNOTSUPP, f"devices of type {mdev.type_name} cannot be moved")
        if device.user is not None and self._sessions.of(device) is None:
            raise MdevError(EBUSY, f"mdev {mdev.name} is used over a vfio-user socket: its client has to move it")
        return device

    async def step(self, to: str, body: MdevTransfer, *, insist: bool = False) -> None:
        """Make one call of a transfer; with ``insist`` again and again until it is answered or the peer is dead.

        Raises:
            MdevError: the destination refuses.  UnreachableError: it is dead, or (not ``insist``) silent.
        """
        while True:
            try:
                envelope = Envelope(mdev_transfer=body)
                reply = await self._endpoint.call(to, envelope, _STEP_TIMEOUT_S, wait_for_peer=False)
            except DeadlineError:
                if not insist:
                    raise
                continue
            break
        if reply.mdev_reply.result:
            raise RefusedError(f"{to}: {reply.mdev_reply.text}")

    # --- destination -------------------------------------------------------------------------------------------------

    def transfer(self, envelope: Envelope) -> None:
        """A step has come from a source."""
        self._endpoint.spawn(self._answer(envelope), "transfer")

    async def _answer(self, envelope: Envelope) -> None:
        body, answer = envelope.mdev_transfer, MdevReply()
        key = (envelope.source, body.transfer)
        steps: dict[int, Callable[[tuple[str, int], Envelope], Awaitable[None]]] = {
            MdevTransfer.BEGIN: self._begin,
            MdevTransfer.DATA: self._data,
            MdevTransfer.COMMIT: self._commit,
            MdevTransfer.ABORT: self._abort,
        }
        try:
            if envelope.source not in self._hosts:
                raise MdevError(EACCES, f"{envelope.source} is no mdev host")
            handle = steps.get(body.step)
            if handle is None:
                raise MdevError(EINVAL, f"step {body.step} of a transfer")
            await handle(key, envelope)
        except PvnetError as error:
            answer = refused(error)
        self._endpoint.reply(envelope, Envelope(mdev_reply=answer))

    def _find(self, key: tuple[str, int], envelope: Envelope) -> _Incoming:
        incoming = self.incoming.get(key)
        if incoming is None or incoming.incarnation != envelope.source_incarnation:
            raise MdevError(EINVAL, f"transfer {key[1]} has not begun")
        return incoming

    async def _begin(self, key: tuple[str, int], envelope: Envelope) -> None:
        body = envelope.mdev_transfer
        if key in self.incoming or key in self._beginning or key in self._committed:
            raise MdevError(EINVAL, f"transfer {key[1]} has begun already")
        self._beginning.add(key)
        try:
            parent = self._parent_for(body.parent, body.type)
            attributes = dict(body.attributes)
            mdev = await run_operation(self._registry.create(parent, body.type, body.name, attributes, hidden=True))
            try:
                device = mdev.vfio
                if not isinstance(device, VfioDevice):
                    raise MdevError(ENODEV, f"mdev {mdev.name} has no users' interface")
                if self._endpoint.link.peer_incarnation(envelope.source) != envelope.source_incarnation:
                    raise MdevError(ENODEV, f"{envelope.source} is gone")
                set_state(device, MigrationState.RESUMING)
            except BaseException:
                await run_operation(self._registry.discard(body.name))
                raise
        finally:
            self._beginning.discard(key)
        self._attributes[key] = attributes
        self.incoming[key] = _Incoming(envelope.source, envelope.source_incarnation, body.name, device, body.partition)

    def _parent_for(self, wanted: str, type_name: str) -> str:
        """Return the parent of that name, else another one that has room for the type."""
        parents = self._registry.parents()
        fitting = [name for name, parent in parents.items() if type_name in parent.types]
        for name in sorted(fitting, key=lambda name: name != wanted):
            if self._registry.available(name, type_name) > 0:
                return name
        raise MdevError(ENODEV, f"no parent here has room for a device of type {type_name}")

    async def _data(self, key: tuple[str, int], envelope: Envelope) -> None:
        incoming, body = self._find(key, envelope), envelope.mdev_transfer
        if body.offset != incoming.bytes:
            raise MdevError(EINVAL, f"state at {body.offset}: expected {incoming.bytes}")
        incoming.device.migration_write(body.data)
        incoming.bytes += len(body.data)

    async def _commit(self, key: tuple[str, int], envelope: Envelope) -> None:
        if key in self._committed:
            return  # the answer was late, and the source asks again
        incoming = self._find(key, envelope)
        try:
            set_state(incoming.device, MigrationState.STOP)
            set_state(incoming.device, MigrationState.RUNNING)
            self._registry.reveal(incoming.name)
        except BaseException:
            await self._drop(key)
            raise
        del self.incoming[key]
        while len(self._committed) >= _COMMITTED_MAX:
            del self._committed[next(iter(self._committed))]
        self._committed[key] = incoming.name
        self._sessions.arrived(incoming.name)
        self._arrived(incoming.name, incoming.partition, self._attributes.pop(key, {}))
        fields = (("mdev", incoming.name), ("from", incoming.source), ("bytes", incoming.bytes))
        self._endpoint.note(Note("mdev_arrived", fields, "info"))

    async def _abort(self, key: tuple[str, int], envelope: Envelope) -> None:
        if key in self.incoming:
            self._find(key, envelope)
            await self._drop(key)

    async def _drop(self, key: tuple[str, int]) -> None:
        incoming = self.incoming.pop(key, None)
        if incoming is None:
            return  # by another way
        self._attributes.pop(key, None)
        fields = (("mdev", incoming.name), ("from", incoming.source), ("bytes", incoming.bytes))
        self._endpoint.note(Note("mdev_transfer_ended", fields, "warning"))
        await run_operation(self._registry.discard(incoming.name))

    def _peer_down(self, event: PeerDown) -> None:
        for key, incoming in list(self.incoming.items()):
            if incoming.source == event.node:
                self._endpoint.spawn(self._drop(key), "drop transfer")


class _Move:
    """One transfer, at the source."""

    def __init__(self, migration: MdevMigration, to: str, device: VfioDevice, sessions: MdevSessions) -> None:
        self.bytes = 0
        self.stopped_s = 0.0
        self.total_s = 0.0
        self._migration = migration
        self._to = to
        self._device = device
        self._sessions = sessions
        self._transfer = secrets.randbits(63) | 1

    async def run(self, mdev: Mdev, partition: str, attributes: Mapping[str, str]) -> None:
        """Do all up to and with COMMIT, or leave everything as it was."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._migration.step(
            self._to,
            MdevTransfer(
                step=MdevTransfer.BEGIN,
                transfer=self._transfer,
                name=str(mdev.name),
                type=mdev.type_name,
                parent=mdev.parent.name,
                attributes=dict(attributes),
                partition=partition,
            ),
        )
        try:
            ops = mdev.works.migration
            assert ops is not None, "checked before"
            if ops.flags & MigrationFlag.PRE_COPY:
                set_state(self._device, MigrationState.PRE_COPY)
                await self._send_all()
            self._sessions.hold(self._device)
            stopped = loop.time()
            await self._quiesce()
            set_state(self._device, MigrationState.STOP_COPY)
            await self._send_all()
            commit = MdevTransfer(step=MdevTransfer.COMMIT, transfer=self._transfer)
            await self._migration.step(self._to, commit, insist=True)
            self.stopped_s = loop.time() - stopped
            self.total_s = loop.time() - began
        except BaseException:
            await self._undo()
            raise

    async def _send_all(self) -> None:
        """Send what there is in the present state, until there is nothing more for now."""
        while self.bytes < _PRECOPY_BYTES:
            data = self._device.migration_read(PIECE_BYTES)
            if not data:
                return
            body = MdevTransfer(step=MdevTransfer.DATA, transfer=self._transfer, offset=self.bytes, data=data)
            await self._migration.step(self._to, body)
            self.bytes += len(data)

    async def _quiesce(self) -> None:
        quiet = asyncio.get_running_loop().create_future()

        def now_quiet() -> None:
            if not quiet.done():
                quiet.set_result(None)

        self._device.quiesce(now_quiet)
        try:
            async with asyncio.timeout(_QUIESCE_S):
                await quiet
        except TimeoutError:
            raise MdevError(EBUSY, f"{self._device.name} does not come to rest") from None

    async def _undo(self) -> None:
        """The device stays here, and goes on."""
        self._device.migration.abandon()  # in whatever state it is, with whatever is under way
        self._sessions.resume(self._device)
        try:
            await self._migration.step(self._to, MdevTransfer(step=MdevTransfer.ABORT, transfer=self._transfer))
        except PvnetError:
            return  # it is dead, or has forgotten it by itself
