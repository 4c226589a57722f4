"""Recording a running lab: every message of every node, and what moved in shared memory, as one capture.

Each node sends copies through a socket of its own (:mod:`pvnet.runtime.message_tap`) and never waits for us: what we
cannot take in time is dropped there, counted, and written into the file.  A message between two nodes of the lab is
recorded once, as its sender sends it; one from somebody else (a client) as the node receives it.

Nodes that start while we record are recorded from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from pvnet.capture.model import LINKTYPE_ENVELOPE, Direction, Interface
from pvnet.capture.pvcap import CaptureWriter
from pvnet.client.lab import Lab
from pvnet.core.errors import PvnetError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ShowStatus, Tap
from pvnet.runtime.message_tap import BUFFER_BYTES, HELLO, PACKET_MAX, TapRecord, decode
from pvnet.runtime.topology import SUPERVISOR
from pvnet.transport.link import PeerUp

_BATCH: Final = 256
"""Most packets of one node that are written in one turn of the loop."""
_ASK_S: Final = 5.0
_ORDER_S: Final = 0.1
"""How long a record waits for earlier ones of other nodes."""


class _Source:
    """The socket of one node."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.node = ""


class Recorder:
    """See the module's text; ``async with``.  ``snaplen``: bytes of memory contents per record, 0 for none.

    ``room`` says whether what we write to can take more now: if not, records are dropped here, and counted.
    """

    def __init__(
        self,
        lab: Lab,
        writer: CaptureWriter,
        *,
        snaplen: int = 0,
        flush: Callable[[], object] = lambda: None,
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.received: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.nodes: set[str] = set()
        """Nodes that are recorded."""
        self.problems: list[str] = []
        self._asked: dict[str, int] = {}
        """Node: the incarnation that we have asked for copies."""
        self._lab = lab
        self._writer = writer
        self._snaplen = snaplen
        self._flush = flush
        self._room = room
        self._interfaces: dict[tuple[str, str, int], Interface] = {}
        self._sources: dict[int, _Source] = {}
        self._waiting: list[tuple[int, int, Interface, TapRecord]] = []
        """A heap: the nodes' packets come in the order of sockets, and the file is in the order of time."""
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="pvnet-record-")
        self._path = Path(self._scratch.name) / "tap"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        endpoint = self._lab.endpoint
        endpoint.on_peer_up.append(self._peer_up)
        names = [SUPERVISOR, *self._lab.topology.node_names]
        for name in names:
            endpoint.watch(name)
        await self._wait_for_running()
        await asyncio.gather(*(self._tap(name) for name in names))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._lab.endpoint.on_peer_up.remove(self._peer_up)
        await asyncio.gather(*(self._ask(name, "") for name in tuple(self.nodes)))
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for source in list(self._sources.values()):
            while self._read(source):
                pass
            self._end(source)
        if self._timer is not None:
            self._timer.cancel()
        self._write_until(None)
        seen = self.received + self.dropped
        self._writer.statistics(dict(seen), dict(self.dropped))
        self._flush()
        self._scratch.cleanup()

    async def _wait_for_running(self) -> None:
        """Wait until every node that runs is known to us, or for a while: the others are recorded when they come."""
        endpoint = self._lab.endpoint
        await endpoint.wait_peer(SUPERVISOR)
        reply = await self._lab.command(SUPERVISOR, Management(show_status=ShowStatus()))
        running = [node["name"] for node in json.loads(reply.status_json)["nodes"] if node["state"] == "running"]
        known = set(self._lab.topology.node_names)
        with contextlib.suppress(PvnetError):
            await asyncio.gather(*(endpoint.wait_peer(name, timeout=_ASK_S) for name in running if name in known))

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _peer_up(self, event: PeerUp) -> None:
        self._lab.endpoint.spawn(self._tap(event.node), "tap")

    async def _tap(self, node: str) -> None:
        """Ask a node once in each of its lives."""
        incarnation = self._lab.endpoint.link.peer_incarnation(node)
        known = node in {SUPERVISOR, *self._lab.topology.node_names}
        if known and incarnation and self._asked.get(node) != incarnation:
            self._asked[node] = incarnation
            await self._ask(node, str(self._path))

    async def _ask(self, node: str, path: str) -> None:
        command = Management(tap=Tap(path=path, snaplen=self._snaplen))
        if path:  # from now on its own copies count, and not those of who hears it
            self.nodes.add(node)
        try:
            await self._lab.endpoint.call(node, Envelope(management=command), _ASK_S, wait_for_peer=False)
        except PvnetError as error:
            if path:
                self.nodes.discard(node)
                self.problems.append(f"{node} is not recorded: {error}")

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            source = self._sources[sock.fileno()] = _Source(sock)
            self._loop.add_reader(sock.fileno(), self._readable, source)

    def _readable(self, source: _Source) -> None:
        for _ in range(_BATCH):
            if not self._read(source):
                return

    def _read(self, source: _Source) -> bool:
        """Take one packet; whether there was one."""
        try:
            packet = source.socket.recv(PACKET_MAX)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            packet = b""
        if not packet:
            self._end(source)
            return False
        try:
            self._take(source, decode(packet))
        except WireError as error:
            self.problems.append(f"{source.node or 'a node'}: {error}")
        return True

    def _end(self, source: _Source) -> None:
        if self._sources.pop(source.socket.fileno(), None) is not None:
            self._loop.remove_reader(source.socket.fileno())
            source.socket.close()

    def _take(self, source: _Source, record: TapRecord) -> None:
        if record.link_type == HELLO:
            if record.dropped:
                self.dropped[f"{source.node}/state"] += record.dropped
            source.node = record.data.decode(errors="replace")
            self.nodes.add(source.node)
            return
        key = (source.node, record.channel, record.link_type)
        interface = self._interfaces.get(key)
        if interface is None:
            name = f"{source.node}/{record.channel}"
            interface = self._interfaces[key] = Interface(name, record.link_type, f"{record.channel} of {source.node}")
        if record.dropped:
            self.dropped[interface.name] += record.dropped
        is_in = record.direction == Direction.IN
        if is_in and record.link_type == LINKTYPE_ENVELOPE and record.other in self.nodes:
            return  # its sender's copy is there
        if not self._room():
            self.dropped[interface.name] += 1
            return
        self.received[interface.name] += 1
        self._number += 1
        heapq.heappush(self._waiting, (record.time_ns, self._number, interface, record))
        if self._timer is None:
            self._timer = self._loop.call_later(_ORDER_S, self._write)

    def _write(self) -> None:
        """Write what no earlier record can come in front of any more."""
        self._timer = None
        self._write_until(time.time_ns() - int(_ORDER_S * 1e9))
        self._flush()
        if self._waiting:
            self._timer = self._loop.call_later(_ORDER_S, self._write)

    def _write_until(self, time_ns: int | None) -> None:
        while self._waiting and (time_ns is None or self._waiting[0][0] <= time_ns):
            _, _, interface, record = heapq.heappop(self._waiting)
            self._writer.record(
                interface,
                record.time_ns,
                record.data,
                direction=Direction(record.direction),
                original_bytes=record.original_bytes if record.original_bytes > len(record.data) else 0,
            )
