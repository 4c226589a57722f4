"""What the paths of a node (``transport.unix_paths``) keep of its peers, and the door through which peers come."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

import structlog

from pvnet.transport.base import HostAddress
from pvnet.transport.unix_hello import credentials, listen, unlink
from pvnet.transport.unix_socket import PacketSocket

_ACCEPTS: Final = 16
_ACCEPT_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node's retained state says, as far as paths are concerned."""

    incarnation: int
    connection: int
    is_there: bool
    is_over: bool
    pid: int
    address: HostAddress | None


class Stage(Enum):
    """How far a connection has got."""

    HELLO = "accepted; it has not said who it is"
    STATE = "accepted; its state is not known yet"
    WELCOME = "we have said hello"
    UP = "frames flow"
    OVER = "closed"


class Connection:
    """One socket, from its hello to its end."""

    __slots__ = ("heard", "incarnation", "node", "packets", "pid", "since", "stage", "timer")

    def __init__(self, stage: Stage, pid: int) -> None:
        self.stage = stage
        self.pid = pid
        self.node = ""
        self.incarnation = 0
        self.packets: PacketSocket
        self.timer: asyncio.TimerHandle | None = None
        self.heard = False
        self.since = 0.0


@dataclass(slots=True)
class Node:
    """What we hold of a node."""

    name: str
    state: NodeState | None = None
    path: Connection | None = None
    attempt: Connection | None = None
    retry: asyncio.TimerHandle | None = None
    failures: int = 0
    is_hopeless: bool = False
    left: int = 0
    """The incarnation that has said BYE."""
    waiters: list[asyncio.Future[bool]] = field(default_factory=list)


def age(state: NodeState) -> tuple[int, int]:
    """A later state of the same node has a larger one."""
    return (state.incarnation, state.connection)


def stranger(pid: int, uid: int, state: NodeState) -> str:
    """What is wrong with a process that should be the node of this state; empty if nothing is."""
    if uid != os.geteuid():
        return f"user {uid}"
    if state.pid and pid != state.pid:
        return f"process {pid} (not {state.pid})"
    return ""


class Door:
    """A listening socket; ``admit(socket, pid)`` takes who comes, ``refuse(event, text)`` hears of other users."""

    def __init__(
        self, directory: Path, admit: Callable[[socket.socket, int], None], refuse: Callable[[str, str], None]
    ) -> None:
        """Listen.

        Raises:
            ConfigError: that is not possible.
        """
        self._listener, self.path = listen(directory)
        self._admit = admit
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def _watch(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:  # no file descriptors left: not again at once
                structlog.get_logger().warning("accept_failed", error=str(error))
                self._loop.remove_reader(self._listener.fileno())
                self._timer = self._loop.call_later(_ACCEPT_AGAIN_S, self._watch)
                return
            try:
                pid, uid = credentials(sock)
            except OSError:
                sock.close()
                continue
            if uid == os.geteuid():
                self._admit(sock, pid)
            else:
                sock.close()
                self._refuse("wrong_user", f"user {uid}")

    def close(self) -> None:
        """Stop listening and remove the socket's name."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        unlink(self.path)
