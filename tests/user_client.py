"""A vfio-user client machine whose server is the test."""

from __future__ import annotations

from user_fakes import Event, FakeCarrier

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import HEADER, command_parts, reply_parts
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.mdev.vfio_user_version import Capabilities, encode_version


class Client:
    """A client machine whose server is the test."""

    def __init__(self, *, limits: ClientLimits | None = None, capabilities: Capabilities | None = None) -> None:
        self.carrier = FakeCarrier()
        self.machine = ClientMachine(self.carrier, limits or ClientLimits())
        self.heard: list[object] = []
        self.machine.start(self.heard.append)
        self.reply(encode_version(capabilities or Capabilities(max_msg_fds=8)))
        assert self.heard.pop() is self.machine.version

    def sent(self) -> bytes:
        """The one message that was sent."""
        message, descriptors = self.carrier.out.popleft()
        for descriptor in descriptors:
            self.carrier.descriptors.close(descriptor)
        assert not self.carrier.out
        return message

    def reply(self, payload: bytes = b"", *things: Event | bytearray | str) -> bytes:
        """Answer the one request that was sent, and return it."""
        request = self.sent()
        ident, command = HEADER.unpack_from(request)[:2]
        descriptors = [self.carrier.descriptors.make(thing) for thing in things]
        self.machine.message(b"".join(reply_parts(ident, command, payload)), descriptors)
        return request

    def refuse(self, errno: int, payload: bytes = b"") -> None:
        ident, command = HEADER.unpack_from(self.sent())[:2]
        head = HEADER.pack(ident, command, 16 + len(payload), 0x21, errno)
        self.machine.message(head + payload, [])

    def ask(self, command: int, payload: bytes, flags: int = 0) -> bytes:
        """A command of the server; returns the reply's errno and payload."""
        self.machine.message(b"".join(command_parts(9, command, payload, flags=flags)), [])
        return self.sent()

    @property
    def errno(self) -> int:
        (result,) = self.heard
        self.heard.clear()
        return result.errno if isinstance(result, MdevError) else 0
