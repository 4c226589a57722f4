"""A vfio-user server alone, or with its client, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from user_device import SampleDevice
from user_fakes import Descriptors, Event, FakeCarrier, ManualTimers

from pvnet.core.machine import Note
from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.mdev.vfio_user import HEADER, Command, command_parts
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.mdev.vfio_user_server import ServerLimits, ServerSession
from pvnet.mdev.vfio_user_version import Capabilities, encode_version

VERSION_IDENT = 0xDA55


class Server:
    """A server session whose client is the test, byte by byte."""

    def __init__(
        self,
        device: Any = None,
        *,
        limits: ServerLimits | None = None,
        capabilities: Capabilities | None = None,
        max_fds: int = 8,
        negotiate: bool = True,
    ) -> None:
        self.descriptors = Descriptors()
        self.device = device or SampleDevice(self.descriptors)
        self.owned = set(self.descriptors.open)
        self.timers = ManualTimers()
        self.notes: list[Note] = []
        self.vfio = VfioDevice(self.device, "sample", self.timers, self.notes.append)
        self.carrier = FakeCarrier(self.descriptors, max_fds)
        self.session = ServerSession(self.vfio, self.carrier, limits or ServerLimits())
        if negotiate:
            payload = encode_version(capabilities or Capabilities(max_msg_fds=8, write_multiple=True))
            (reply,) = self.ask(Command.VERSION, payload, ident=VERSION_IDENT)
            assert HEADER.unpack_from(reply)[3] == 1

    @property
    def open_descriptors(self) -> int:
        """How many are open that are not the device's own."""
        return len(set(self.descriptors.open) - self.owned)

    def send(self, message: bytes | str, *things: Event | bytearray | str) -> list[bytes]:
        """Send a message with descriptors for ``things``; returns what came back, without descriptors."""
        data = bytes.fromhex(message) if isinstance(message, str) else message
        self.session.message(data, [self.descriptors.make(thing) for thing in things])
        return self.sent()

    def ask(
        self, command: int, payload: bytes = b"", *things: Event | bytearray | str, ident: int = 1, flags: int = 0
    ) -> list[bytes]:
        return self.send(b"".join(command_parts(ident, command, payload, flags=flags)), *things)

    def errno(self, command: int, payload: bytes = b"", *things: Event | bytearray | str) -> int:
        """Errno of the answer; 0: success."""
        (reply,) = self.ask(command, payload, *things, ident=77)
        ident, answered, size, flags, error = HEADER.unpack_from(reply)
        assert (ident, answered) == (77, command)
        if flags == 1:
            return 0
        assert (flags, size) == (0x21, 16)
        assert isinstance(error, int)
        assert error > 0
        return error

    def sent(self) -> list[bytes]:
        result = []
        while self.carrier.out:
            message, descriptors = self.carrier.out.popleft()
            for descriptor in descriptors:
                self.descriptors.close(descriptor)
            result.append(message)
        return result


class Pair:
    """A client machine and a server session, joined; :meth:`pump` carries messages until there are none."""

    def __init__(
        self,
        device: SampleDevice | None = None,
        *,
        server_limits: ServerLimits | None = None,
        client_limits: ClientLimits | None = None,
        start: bool = True,
    ) -> None:
        self.descriptors = Descriptors()
        self.device = device or SampleDevice(self.descriptors)
        self.owned = set(self.descriptors.open)
        self.timers = ManualTimers()
        self.notes: list[Note] = []
        self.vfio = VfioDevice(self.device, "sample", self.timers, self.notes.append)
        self.server_carrier = FakeCarrier(self.descriptors)
        self.client_carrier = FakeCarrier(self.descriptors)
        self.server = ServerSession(self.vfio, self.server_carrier, server_limits or ServerLimits())
        self.client = ClientMachine(self.client_carrier, client_limits or ClientLimits())
        if start:
            assert not isinstance(self.do(self.client.start), MdevError)

    @property
    def open_descriptors(self) -> int:
        return len(set(self.descriptors.open) - self.owned)

    def pump(self) -> None:
        moved = True
        while moved:
            moved = False
            if self.client_carrier.out:
                self.server.message(*self.client_carrier.out.popleft())
                moved = True
            if self.server_carrier.out:
                message, descriptors = self.server_carrier.out.popleft()
                self.client.message(memoryview(message), descriptors)
                moved = True
        if self.server_carrier.closed is not None:
            self.client.lost(self.server_carrier.closed)
        if self.client_carrier.closed is not None:
            self.server.lost()

    def do(self, request: Callable[..., None], *arguments: object, **options: object) -> object:
        """Make a request of the client and return what its callback heard."""
        heard: list[object] = []
        request(*arguments, heard.append, **options)
        self.pump()
        (result,) = heard
        return result

    def errno(self, request: Callable[..., None], *arguments: object, **options: object) -> int:
        result = self.do(request, *arguments, **options)
        return result.code if isinstance(result, MdevError) else 0
