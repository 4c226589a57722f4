"""What the hypervisor does with the payload of a VMC session.

Three kinds, told apart by their first bytes: router messages (``DE CA FF``; open, close, echo), pvnet's own management
commands (``PVNE``; protobuf), and anything else, which is echoed or discarded as the topology says.  Everything is
per session; an answer to a session that has ended meanwhile is dropped.

Commands of the platform go on to the supervisor.  A session may have :data:`RELAYS_MAX` of them under way, each
answered whenever it is done: one that waits for changes holds up no other.  (Each holds a buffer of the session, too,
so that with the buffers of a default topology it is four or five.)  A command that has left runs on when its session
ends, since nobody can tell how far it is; only its answer has nobody left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from pvnet.core.errors import PvnetError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import SUPERVISOR, Topology
from pvnet.vmc.router import DESCRIPTOR, RouterService, decode_frame, encode_frame, is_frame

SUPERVISOR_TIMEOUT_S: Final = 60.0
RELAYS_MAX: Final = 16
"""Commands that one session may have at the platform."""
_WATCH_MAX_S: Final = 25.0
_GUEST_MAX_S: Final = 3600.0
_TO_SUPERVISOR: Final = frozenset(
    {
        "list_partitions",
        "show_partition",
        "power_on",
        "power_off",
        "show_system",
        "watch_changes",
        "create_partition",
        "modify_partition",
        "delete_partition",
        "list_switches",
        "create_switch",
        "delete_switch",
        "create_adapter",
        "modify_adapter",
        "delete_adapter",
    }
)

Send = Callable[[int, int, bytes], None]


class PayloadServer:
    """Serves the payload of every session of one VMC; ``send(index, session, payload)`` answers."""

    def __init__(self, endpoint: Endpoint, topology: Topology, send: Send) -> None:
        vmc = topology.hypervisor.vmc
        self.router = RouterService(max_hmc=vmc.max_hmcs)
        self.handled = 0
        self._endpoint = endpoint
        self._send = send
        self._echo = vmc.raw_payload == "echo"
        self._most = min(vmc.max_mtu, 4096)
        self._sessions: dict[int, int] = {}
        self._relays: dict[int, set[int]] = {}
        """Per index: numbers of the calls to the supervisor whose answers its session waits for."""

    def session_opened(self, index: int, session: int) -> None:
        """A session started."""
        self._drop_relays(index)
        self._sessions[index] = session
        self.router.session_opened(index, session)

    def session_closed(self, index: int) -> None:
        """The session on ``index`` ended."""
        self._sessions.pop(index, None)
        self._drop_relays(index)
        self.router.session_closed(index)

    def close(self) -> None:
        """The VMC is no more, and neither are its sessions."""
        for index in list(self._sessions):
            self.session_closed(index)

    @property
    def relays(self) -> int:
        """Commands of all sessions that the supervisor has not answered yet."""
        return sum(len(numbers) for numbers in self._relays.values())

    def _drop_relays(self, index: int) -> None:
        for number in self._relays.pop(index, ()):
            self._endpoint.abandon(number)

    def message(self, index: int, session: int, payload: bytes) -> None:
        """Handle one message."""
        self.handled += 1
        if payload[:3] == DESCRIPTOR:
            answer = self.router.serve(index, session, payload)
            if answer is not None:
                self._send(index, session, answer)
        elif is_frame(payload):
            self._management(index, session, payload)
        elif self._echo:
            self._send(index, session, payload)

    def _management(self, index: int, session: int, payload: bytes) -> None:
        command = Management()
        try:
            command.ParseFromString(decode_frame(payload))
        except (DecodeError, WireError) as error:
            text = f"not a management command: {error}"
            self._reply(index, session, ManagementReply(status=ManagementReply.MALFORMED, text=text))
            return
        kind = command.WhichOneof("command")
        if kind not in _TO_SUPERVISOR:
            answer = ManagementReply(token=command.token, status=ManagementReply.NOT_SUPPORTED)
            answer.text = f"the hypervisor does not take {kind or 'an unknown command'}"
            self._reply(index, session, answer)
            return

        under_way = self._relays.setdefault(index, set())
        if len(under_way) >= RELAYS_MAX:
            answer = ManagementReply(token=command.token, status=ManagementReply.FAILED)
            answer.text = f"{RELAYS_MAX} commands of this session are under way: expected answers to be waited for"
            self._reply(index, session, answer)
            return
        number = 0

        def done(result: Envelope | PvnetError) -> None:
            under_way.discard(number)
            if isinstance(result, PvnetError):
                answer = ManagementReply(status=ManagementReply.FAILED, text=f"no answer from the platform: {result}")
            else:
                answer = result.management_reply
            answer.token = command.token
            self._reply(index, session, answer, command.list_partitions.first)

        # The callback never runs before this returns: an answer takes a turn of the loop, and so does a failure.
        number = self._endpoint.call_back(
            SUPERVISOR, Envelope(management=command), _patience(command), done, wait_for_peer=True
        )
        under_way.add(number)

    def _reply(self, index: int, session: int, answer: ManagementReply, first: int = 0) -> None:
        """Send an answer; a list that does not fit one message is cut, and says where it goes on.

        ``first``: index of the answer's first partition in the whole list.
        """
        if self._sessions.get(index) != session:
            return
        payload = encode_frame(answer.SerializeToString())
        while len(payload) > self._most and _cut(answer, first):
            payload = encode_frame(answer.SerializeToString())
        if len(payload) > self._most:
            text = f"the answer does not fit one message: {len(payload)} bytes, at most {self._most}"
            answer = ManagementReply(token=answer.token, status=ManagementReply.FAILED, text=text)
            payload = encode_frame(answer.SerializeToString())
        self._send(index, session, payload)


def _patience(command: Management) -> float:
    """Seconds that the supervisor has for a command: what the command itself may wait, and the usual."""
    match command.WhichOneof("command"):
        case "watch_changes":
            return SUPERVISOR_TIMEOUT_S + min(command.watch_changes.wait_ms / 1000, _WATCH_MAX_S)
        case "power_off":
            return SUPERVISOR_TIMEOUT_S + min(command.power_off.timeout_ms / 1000, _GUEST_MAX_S)
        case _:
            return SUPERVISOR_TIMEOUT_S


def _cut(answer: ManagementReply, first: int) -> bool:
    """Halve the list of an answer; whether there was one to halve.

    Partitions and switches go on at ``next``, changes after ``revision``: that of the last one that is left.
    """
    if len(answer.partitions) > 1:
        del answer.partitions[len(answer.partitions) // 2 :]
        answer.next = first + len(answer.partitions)
    elif len(answer.switches) > 1:
        del answer.switches[len(answer.switches) // 2 :]
        answer.next = len(answer.switches)
    elif len(answer.changes) > 1:
        del answer.changes[len(answer.changes) // 2 :]
        answer.revision = answer.changes[-1].revision
    else:
        return False
    return True
