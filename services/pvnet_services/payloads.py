"""What the hypervisor does with the payload of a VMC session.

Three kinds, told apart by their first bytes: router messages (``DE CA FF``; open, close, echo), pvnet's own management
commands (``PVNE``; protobuf), and anything else, which is echoed or discarded as the topology says.  Everything is
per session; an answer to a session that has ended meanwhile is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from pvnet.core.errors import PvnetError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, Partition
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import SUPERVISOR, Topology
from pvnet.vmc.router import DESCRIPTOR, RouterService, decode_frame, encode_frame, is_frame

SUPERVISOR_TIMEOUT_S = 60.0
_TO_SUPERVISOR = frozenset({"list_partitions", "show_partition", "power_on", "power_off"})

Send = Callable[[int, int, bytes], None]


class PayloadServer:
    """Serves the payload of every session of one VMC; ``send(index, session, payload)`` answers."""

    def __init__(self, endpoint: Endpoint, topology: Topology, send: Send) -> None:
        vmc = topology.hypervisor.vmc
        self.router = RouterService(max_hmc=vmc.max_hmcs)
        self.handled = 0
        self._endpoint = endpoint
        self._topology = topology
        self._send = send
        self._echo = vmc.raw_payload == "echo"
        self._most = min(vmc.max_mtu, 4096)
        self._sessions: dict[int, int] = {}

    def session_opened(self, index: int, session: int) -> None:
        """A session started."""
        self._sessions[index] = session
        self.router.session_opened(index, session)

    def session_closed(self, index: int) -> None:
        """The session on ``index`` ended."""
        self._sessions.pop(index, None)
        self.router.session_closed(index)

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

        def done(result: Envelope | PvnetError) -> None:
            if isinstance(result, PvnetError):
                answer = ManagementReply(status=ManagementReply.FAILED, text=f"no answer from the platform: {result}")
            else:
                answer = result.management_reply
            answer.token = command.token
            self._reply(index, session, answer)

        self._endpoint.call_back(
            SUPERVISOR, Envelope(management=command), SUPERVISOR_TIMEOUT_S, done, wait_for_peer=True
        )

    def _reply(self, index: int, session: int, answer: ManagementReply) -> None:
        """Send an answer; a list that does not fit one message is cut, and says where it goes on."""
        if self._sessions.get(index) != session:
            return
        payload = encode_frame(answer.SerializeToString())
        while len(payload) > self._most and len(answer.partitions) > 1:
            kept: list[Partition] = list(answer.partitions)[: len(answer.partitions) // 2]
            first = (answer.next or len(self._topology.partitions)) - len(answer.partitions)
            answer.next = first + len(kept)
            del answer.partitions[len(kept) :]
            payload = encode_frame(answer.SerializeToString())
        self._send(index, session, payload)
