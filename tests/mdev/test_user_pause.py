"""A change of the state of migration waits for programs that are under way, and what comes behind it waits, too."""

from __future__ import annotations

from struct import pack

import pytest
from user_device import SampleDevice
from user_fakes import Event
from user_rig import Pair, Server

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import MigrationState
from pvnet.mdev.vfio_user import HEADER, Command, error_parts, reply_parts
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.papr.errno import EAGAIN, EBUSY, EFAULT

READ_MEMORY = pack("<QII", 0xF0, 7, 4)
PLAIN = pack("<QII", 0, 7, 4)
STORE = pack("<QII", 0x40, 7, 2)
RW = 3


def feature(state: MigrationState, flags: int = 1 << 17) -> bytes:
    return pack("<IIIi", 16, flags | 2, int(state), -1)


def world(**limits: float) -> Server:
    """A server whose client has memory at 0, reached by messages."""
    server = Server(limits=ServerLimits(**limits))  # type: ignore[arg-type]
    assert server.errno(Command.DMA_MAP, pack("<IIQQQ", 32, RW, 0, 0, 0x2000)) == 0
    return server


def idents(messages: list[bytes]) -> list[int]:
    return [HEADER.unpack_from(message)[0] for message in messages]


def busy(server: Server, ident: int = 5) -> bytes:
    """Begin to read the client's memory; returns what the client is asked."""
    (request,) = server.ask(Command.REGION_READ, READ_MEMORY, ident=ident)
    return request


def finish(server: Server, request: bytes) -> list[bytes]:
    ident, command = HEADER.unpack_from(request)[:2]
    return server.send(b"".join(reply_parts(ident, command, request[16:32] + b"abcd")))


def test_it_is_answered_when_the_device_has_come_to_rest() -> None:
    server = world()
    first, second = busy(server, 5), busy(server, 6)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=7) == []
    assert server.session.waiting == 3
    assert idents(finish(server, first)) == [5]
    assert server.vfio.migration.state is MigrationState.RUNNING
    read, stopped = finish(server, second)
    assert read == b"".join(reply_parts(6, Command.REGION_READ, READ_MEMORY, b"abcd"))
    assert stopped == b"".join(reply_parts(7, Command.DEVICE_FEATURE, feature(MigrationState.STOP)))
    assert server.vfio.migration.state is MigrationState.STOP
    assert server.session.waiting == 0


def test_what_comes_behind_it_is_done_in_order() -> None:
    server = world()
    request = busy(server)
    stop = feature(MigrationState.STOP)
    assert server.ask(Command.DEVICE_FEATURE, stop, ident=6) == []
    assert server.ask(Command.REGION_WRITE, STORE + b"hi", ident=7) == []
    assert server.ask(Command.REGION_READ, PLAIN, ident=8) == []
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.RUNNING), ident=9, flags=0x10) == []
    assert server.ask(Command.REGION_READ, READ_MEMORY, ident=10) == []
    assert server.ask(Command.DEVICE_FEATURE, stop, ident=11) == []
    assert server.ask(Command.DEVICE_RESET, ident=12) == []
    assert idents(finish(server, request))[:4] == [5, 6, 7, 8]
    # What waited has begun to read memory, and waits for that again.
    device = server.device
    assert device.config[0x40:0x42] == b"hi"
    assert device.resets == 0
    assert server.session.waiting == 2


def test_a_second_change_waits_for_what_came_before_it() -> None:
    server = world()
    request = busy(server)
    for ident, state in ((6, MigrationState.STOP), (7, MigrationState.RUNNING)):
        assert server.ask(Command.DEVICE_FEATURE, feature(state), ident=ident) == []
    assert server.ask(Command.REGION_READ, READ_MEMORY, ident=8) == []
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=9) == []
    assert server.ask(Command.DEVICE_GET_INFO, pack("<IIIIII", 24, 0, 0, 0, 0, 0), ident=10) == []
    *answers, again = finish(server, request)
    assert idents(answers) == [5, 6, 7]
    assert idents(finish(server, again)) == [8, 9, 10]
    assert server.vfio.migration.state is MigrationState.STOP


def test_descriptors_that_come_behind_it_are_used() -> None:
    server, event = world(), Event()
    request = busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.PRE_COPY), ident=6) != [], "it need not stop"
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=7) == []
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.RUNNING), ident=8) == []
    listen = pack("<IIIII", 20, 0x24, 0, 0, 1)
    assert server.ask(Command.DEVICE_SET_IRQS, listen, event, ident=9) == []
    assert server.open_descriptors == 1
    assert idents(finish(server, request)) == [5, 7, 8, 9]
    server.device.fire()
    assert event.count == 1


def test_descriptors_that_are_never_used_are_closed() -> None:
    server = world()
    busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP)) == []
    assert server.ask(Command.DEVICE_SET_IRQS, pack("<IIIII", 20, 0x24, 0, 0, 1), Event(), ident=9) == []
    assert server.open_descriptors == 1
    server.session.lost()
    assert server.open_descriptors == 0
    assert server.sent() == []
    assert server.vfio.migration.state is MigrationState.RUNNING


def test_memory_that_is_refused_ends_the_wait() -> None:
    server = world()
    request = busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=6) == []
    ident, command = HEADER.unpack_from(request)[:2]
    assert idents(server.send(b"".join(error_parts(ident, command, EFAULT)))) == [5, 6]
    assert server.vfio.migration.state is MigrationState.STOP


def test_it_does_not_wait_for_ever() -> None:
    server = world(dma_timeout_s=100.0, quiesce_timeout_s=10.0)
    request = busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=6) == []
    assert server.ask(Command.REGION_READ, PLAIN, ident=7) == []
    server.session.expire(50.0)
    server.session.expire(59.9)
    assert server.sent() == []
    server.session.expire(60.0)
    refused, plain = server.sent()
    assert refused == b"".join(error_parts(6, Command.DEVICE_FEATURE, EBUSY))
    assert idents([plain]) == [7]
    assert server.vfio.migration.state is MigrationState.RUNNING
    assert idents(finish(server, request)) == [5]
    assert server.vfio.migration.state is MigrationState.RUNNING, "it was refused"


def test_memory_that_never_comes_ends_before() -> None:
    server = world()
    busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=6) == []
    server.session.expire(0.0)
    server.session.expire(6.0)
    assert idents(server.sent()) == [5, 6]
    assert server.vfio.migration.state is MigrationState.STOP


def test_so_many_wait_and_no_more() -> None:
    server = world(max_pending=3)
    request = busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=6) == []
    for ident in (7, 8, 9):
        assert server.ask(Command.REGION_READ, PLAIN, ident=ident) == []
    assert server.ask(Command.DEVICE_SET_IRQS, pack("<IIIII", 20, 0x24, 0, 0, 1), Event(), ident=10) == [
        b"".join(error_parts(10, Command.DEVICE_SET_IRQS, EAGAIN))
    ]
    assert server.open_descriptors == 0
    assert idents(finish(server, request)) == [5, 6, 7, 8, 9]


def test_so_many_bytes_wait_and_no_more() -> None:
    server = world(max_message=1024)
    request = busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=6) == []
    payload = pack("<QII", 0x40, 7, 900) + bytes(900)
    answers = [server.ask(Command.REGION_WRITE, payload, ident=ident) for ident in range(7, 12)]
    assert answers[:4] == [[]] * 4
    assert answers[4] == [b"".join(error_parts(11, Command.REGION_WRITE, EAGAIN))]
    assert idents(finish(server, request)) == [5, 6, 7, 8, 9, 10]


def test_a_refusal_of_the_device_is_no_reason_to_wait() -> None:
    server = world()

    def stop() -> None:
        raise MdevError(EBUSY, "not now")

    server.device.stop = stop
    assert server.errno(Command.DEVICE_FEATURE, feature(MigrationState.STOP)) == EBUSY
    request = busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP), ident=6) == []
    read, refused = finish(server, request)
    assert idents([read]) == [5]
    assert refused == b"".join(error_parts(6, Command.DEVICE_FEATURE, EBUSY))


@pytest.mark.parametrize("state", [MigrationState.STOP, MigrationState.STOP_COPY])
def test_a_client_sees_nothing_of_it(state: MigrationState) -> None:
    pair = Pair(SampleDevice())
    heard: list[object] = []
    memory = memoryview(bytearray(b"abcd" * 1024))
    pair.do(pair.client.dma_map, 0, 4096, RW, 0, None, memory)
    pair.client.region_read(7, 0xF0, 4, heard.append)
    pair.client.feature((1 << 17) | 2, pack("<Ii", int(state), -1), 8, heard.append)
    pair.pump()
    assert heard[0] == b"abcd"
    assert not isinstance(heard[1], MdevError)
    assert pair.vfio.migration.state is state


def test_a_user_that_is_cut_off_in_the_middle() -> None:
    server = world()
    busy(server)
    assert server.ask(Command.DEVICE_FEATURE, feature(MigrationState.STOP)) == []
    server.session.ended("the device is removed")
    assert server.carrier.closed == "the device is removed"
    assert not server.vfio.busy
