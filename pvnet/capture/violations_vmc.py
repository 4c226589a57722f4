"""The order of VMC messages, as somebody between the two sides sees it.

One :class:`VmcWatch` follows one adapter.  It begins to judge when it has seen the queue come up (INIT) or the
capabilities; of a recording that begins in the middle it only judges who may send what, and so it does when one side
goes on as if the queue had not come up anew.  It takes no side in what dialects differ in: a status other than 0 is an
answer, not a violation.

Spec: vmc 2 to 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pvnet.vmc import messages as vmc

_FROM_PARTITION: Final = (
    vmc.Capabilities, vmc.Open, vmc.Close, vmc.AddBufferResponse, vmc.RemoveBufferResponse, vmc.Signal,
)  # fmt: skip
_FROM_HYPERVISOR: Final = (
    vmc.CapabilitiesResponse, vmc.OpenResponse, vmc.CloseResponse, vmc.AddBuffer, vmc.RemoveBuffer, vmc.Signal,
)  # fmt: skip


class _State(Enum):
    FREE = "closed"
    OPENING = "being opened"
    OPEN = "open"
    CLOSING = "being closed"


@dataclass(slots=True)
class _Connection:
    """One HMC index."""

    state: _State = _State.FREE
    session: int = 0
    owners: dict[int, int] = field(default_factory=dict)
    """Owner by buffer id."""
    asked: dict[int, bool] = field(default_factory=dict)
    """Buffers whose ADD_BUFFER has no response yet, and whether the message brought them."""
    removals: int = 0
    """REMOVE_BUFFERs without a response yet."""


@dataclass(slots=True)
class VmcWatch:
    """Follows the VMC of one adapter; :meth:`feed` returns what breaks the protocol."""

    is_whole: bool = False
    """Seen from its beginning, so that what is missing is really missing."""
    asked: bool = False
    agreed: bool = False
    max_hmc: int = 254
    pool_size: int = 0xFFFF
    max_mtu: int = 0xFFFFFFFF
    connections: dict[int, _Connection] = field(default_factory=dict)

    def reset(self) -> None:
        """The queue begins anew: nothing of before is valid."""
        self.is_whole = True
        self.asked = self.agreed = False
        self.max_hmc, self.pool_size, self.max_mtu = 254, 0xFFFF, 0xFFFFFFFF
        self.connections.clear()

    def feed(self, element: bytes, *, from_partition: bool) -> list[str]:
        """Take one message."""
        message = vmc.decode_vmc(element)
        name = str(vmc.VmcType(element[1]))
        if isinstance(message, vmc.Unknown):
            return [f"unknown VMC type {element[1]:#04x}"]
        if not isinstance(message, _FROM_PARTITION if from_partition else _FROM_HYPERVISOR):
            return [f"{name} from the {'partition' if from_partition else 'hypervisor'}"]
        if isinstance(message, vmc.Capabilities):
            self.reset()
            self.asked = True
            self._limits(message)
            return []
        if isinstance(message, vmc.CapabilitiesResponse):
            return self._capabilities(message)
        if not self.is_whole:
            return []
        if not self.agreed:
            self.is_whole = False  # said once: whoever goes on like this goes on for long
            return [f"{name} before CAPABILITIES_RESPONSE"]
        if message.index >= self.max_hmc:
            return [f"{name} of hmc {message.index}: {self.max_hmc} were agreed"]
        connection = self.connections.setdefault(message.index, _Connection())
        return [f"{name} hmc {message.index}: {text}" for text in self._judge(connection, message, from_partition)]

    def _limits(self, message: vmc.Capabilities | vmc.CapabilitiesResponse) -> None:
        self.max_hmc = min(self.max_hmc, message.max_hmc) or self.max_hmc
        self.pool_size = min(self.pool_size, message.pool_size) or self.pool_size
        self.max_mtu = min(self.max_mtu, message.max_mtu) or self.max_mtu

    def _capabilities(self, message: vmc.CapabilitiesResponse) -> list[str]:
        if self.is_whole and not self.asked:
            return ["CAPABILITIES_RESPONSE without CAPABILITIES"]
        self.asked, self.agreed = False, message.status == 0
        self._limits(message)
        return []

    def _judge(self, connection: _Connection, message: vmc.VmcMessage, from_partition: bool) -> list[str]:
        match message:
            case vmc.Open():
                return self._open(connection, message)
            case vmc.OpenResponse():
                return _opened(connection, message)
            case vmc.Close():
                return _close(connection)
            case vmc.CloseResponse():
                return _closed(connection, message)
            case vmc.AddBuffer():
                return self._add(connection, message)
            case vmc.AddBufferResponse():
                return _added(connection, message)
            case vmc.RemoveBuffer():
                connection.removals += 1
                return []
            case vmc.RemoveBufferResponse():
                return _removed(connection, message)
            case vmc.Signal():
                return self._signal(connection, message, from_partition)
            case _:
                return []

    def _open(self, connection: _Connection, message: vmc.Open) -> list[str]:
        out = [] if connection.state is _State.FREE else [f"it is {connection.state.value}"]
        out += _owned(connection, message.buffer_id, vmc.BufferOwner.ALPHA)
        connection.state, connection.session = _State.OPENING, message.session
        connection.owners[message.buffer_id] = vmc.BufferOwner.HYPERVISOR
        return out

    def _add(self, connection: _Connection, message: vmc.AddBuffer) -> list[str]:
        out = []
        if message.buffer_id in connection.owners:
            out.append(f"buffer {message.buffer_id} is there already")
        elif len(connection.owners) >= self.pool_size:
            out.append(f"more than {self.pool_size} buffers")
        if message.owner > vmc.BufferOwner.HYPERVISOR:
            out.append(f"owner {message.owner}")
        connection.asked[message.buffer_id] = message.buffer_id not in connection.owners
        connection.owners.setdefault(message.buffer_id, message.owner)
        return out

    def _signal(self, connection: _Connection, message: vmc.Signal, from_partition: bool) -> list[str]:
        mine, other = vmc.BufferOwner.ALPHA, vmc.BufferOwner.HYPERVISOR
        if not from_partition:
            mine, other = other, mine
        out = []
        if connection.state in (_State.FREE, _State.OPENING):
            out.append(f"it is {connection.state.value}")
        elif message.session not in (vmc.NO_SESSION, connection.session):
            out.append(f"session {message.session}, now it is {connection.session}")
        out += _owned(connection, message.buffer_id, mine)
        if message.length > self.max_mtu:
            out.append(f"{message.length} bytes: {self.max_mtu} were agreed")
        if message.buffer_id in connection.owners:
            connection.owners[message.buffer_id] = other
        return out


def _owned(connection: _Connection, buffer_id: int, owner: int) -> list[str]:
    there = connection.owners.get(buffer_id)
    if there is None:
        return [f"no buffer {buffer_id}"]
    if there != owner:
        return [f"buffer {buffer_id} is {'the hypervisor' if there else 'the partition'}'s"]
    return []


def _opened(connection: _Connection, message: vmc.OpenResponse) -> list[str]:
    if connection.state is not _State.OPENING:
        return [f"no OPEN waits for it (it is {connection.state.value})"]
    connection.state = _State.FREE if message.status else _State.OPEN
    if message.buffer_id in connection.owners:
        connection.owners[message.buffer_id] = vmc.BufferOwner.ALPHA
    return []


def _close(connection: _Connection) -> list[str]:
    out = [] if connection.state in (_State.OPEN, _State.OPENING) else [f"it is {connection.state.value}"]
    connection.state = _State.CLOSING
    return out


def _closed(connection: _Connection, message: vmc.CloseResponse) -> list[str]:
    if connection.state is not _State.CLOSING:
        return [f"no CLOSE waits for it (it is {connection.state.value})"]
    connection.state = _State.OPEN if message.status else _State.FREE
    if not message.status:
        connection.owners.clear()
        connection.asked.clear()
        connection.removals = 0
    return []


def _added(connection: _Connection, message: vmc.AddBufferResponse) -> list[str]:
    if message.buffer_id not in connection.asked:
        return [f"no ADD_BUFFER of buffer {message.buffer_id} waits for it"]
    is_new = connection.asked.pop(message.buffer_id)
    if message.status and is_new:
        connection.owners.pop(message.buffer_id, None)
    return []


def _removed(connection: _Connection, message: vmc.RemoveBufferResponse) -> list[str]:
    if not connection.removals:
        return ["no REMOVE_BUFFER waits for it"]
    connection.removals -= 1
    if not message.status and connection.owners.pop(message.buffer_id, None) is None:
        return [f"no buffer {message.buffer_id}"]
    return []
