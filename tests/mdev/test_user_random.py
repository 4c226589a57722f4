"""Random and mutated messages: nothing raises, no descriptor stays open, the session is usable or closed."""

from __future__ import annotations

from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from user_fakes import Event, FakeCarrier
from user_rig import Pair, Server

from pvnet.mdev.errors import MdevError
from pvnet.mdev.vfio_user import HEADER, command_parts, reply_parts
from pvnet.mdev.vfio_user_client import ClientMachine
from pvnet.mdev.vfio_user_server import ServerLimits

GOOD = (
    b"".join(command_parts(1, 1, b'\0\0\2\0{"capabilities":{"max_msg_fds":8}}\0')),
    b"".join(command_parts(1, 2, pack("<IIQQQ", 32, 3, 0, 0x1000, 0x1000))),
    b"".join(command_parts(1, 3, pack("<IIQQ", 24, 0, 0x1000, 0x1000))),
    b"".join(command_parts(1, 3, pack("<IIQQ", 24, 2, 0, 0))),
    b"".join(command_parts(1, 4, pack("<4I", 16, 0, 0, 0))),
    b"".join(command_parts(1, 5, pack("<4I2Q", 80, 0, 1, 0, 0, 0))),
    b"".join(command_parts(1, 6, pack("<4I", 16, 0, 1, 0))),
    b"".join(command_parts(1, 7, pack("<4I", 16, 0, 0, 0))),
    b"".join(command_parts(1, 8, pack("<5I", 20, 0x24, 0, 0, 1))),
    b"".join(command_parts(1, 8, pack("<5IB", 21, 0x22, 0, 0, 1, 1))),
    b"".join(command_parts(1, 9, pack("<QII", 0, 7, 4))),
    b"".join(command_parts(1, 9, pack("<QII", 0xF0, 7, 4))),
    b"".join(command_parts(1, 10, pack("<QII", 0xF0, 7, 4) + b"abcd")),
    b"".join(command_parts(1, 10, pack("<QII", 0, 0, 8) + bytes(8))),
    b"".join(command_parts(1, 13)),
    b"".join(command_parts(1, 15, pack("<QQII8s", 1, 0xF0, 7, 4, b"abcd"))),
    b"".join(command_parts(1, 16, pack("<IIIi", 16, 0x20002, 3, -1))),
    b"".join(command_parts(1, 16, pack("<IIIi", 16, 0x20002, 4, -1))),
    b"".join(command_parts(1, 16, pack("<IIQII", 24, 0x20006, 4096, 0, 0))),
    b"".join(command_parts(1, 16, pack("<IIQQQ", 48, 0x10008, 0x1000, 0x1000, 4096))),
    b"".join(command_parts(1, 17, pack("<II", 1032, 1024))),
    b"".join(command_parts(1, 18, pack("<II", 12, 4) + b"abcd")),
    b"".join(reply_parts(0, 11, pack("<QQ", 0, 4) + b"abcd")),
    b"".join(reply_parts(1, 12)),
)

mutations = st.lists(
    st.tuples(
        st.integers(0, 80), st.sampled_from([0, 1, 2, 3, 4, 8, 16, 0x20, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
    ),
    max_size=3,
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A good message, changed in some places, perhaps cut or lengthened; mostly its size is right."""
    data = bytearray(draw(st.sampled_from(GOOD) | st.binary(max_size=80)))
    for at, value in draw(mutations):
        if at < len(data) and not 4 <= at < 8:
            data[at] = value
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=8))
    if len(data) >= 16 and draw(st.integers(0, 19)):
        data[4:8] = pack("<I", len(data))
    return bytes(data)


things = st.lists(
    st.builds(Event) | st.builds(bytearray, st.sampled_from([0, 0x1000, 0x4000])) | st.just("file"), max_size=3
)


@settings(deadline=None, max_examples=150)
@given(st.booleans(), st.lists(st.tuples(messages(), things), max_size=25))
def test_server(negotiate: bool, script: list[tuple[bytes, list[Event | bytearray | str]]]) -> None:
    server = Server(negotiate=negotiate, limits=ServerLimits(max_pending=4, max_dma_requests=4))
    for message, beside in script:
        server.send(message, *beside)
        server.session.expire(0.0)
    if server.carrier.closed is None and server.session.version is not None:
        assert server.errno(13) == 0, "RESET is usable in every state"
        assert server.errno(4, pack("<4I", 16, 0, 0, 0)) == 0
        assert server.errno(9, pack("<QII", 0, 7, 4)) == 0
    server.session.lost()
    assert server.open_descriptors == 0
    assert server.vfio.user is None
    assert server.session.waiting == 0


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.booleans(), messages(), things), max_size=25))
def test_client(script: list[tuple[bool, bytes, list[Event | bytearray | str]]]) -> None:
    carrier = FakeCarrier()
    client = ClientMachine(carrier)
    heard: list[object] = []
    asked = 1
    client.start(heard.append)
    client.message(b"".join(reply_parts(0, 1, b"\0\0\2\0")), [])
    for ask, message, beside in script:
        if ask:
            for request in (
                lambda: client.region_info(1, heard.append),
                lambda: client.region_read(7, 0, 4, heard.append),
                lambda: client.migration_read(8, heard.append),
                lambda: client.dma_map(0x1000, 0x1000, 3, 0, None, memoryview(bytearray(0x1000)), heard.append),
                lambda: client.dma_unmap(0x1000, 0x1000, heard.append),
                lambda: client.feature(0x10001, b"", 8, heard.append),
            ):
                asked += 1
                request()
        sent = [carrier.out.popleft()[0] for _ in range(len(carrier.out))]
        idents = {HEADER.unpack_from(each)[1]: each[:2] for each in sent}
        data = bytearray(message)
        if len(data) >= 16:
            data[:2] = idents.get(int.from_bytes(data[2:4], "little"), data[:2])
            if ask:
                data[8] = 1
        client.message(data, [carrier.descriptors.make(each) for each in beside])
    client.lost("over")
    assert len(heard) == asked, "each callback once"
    held = [result.descriptor for result in heard if getattr(result, "descriptor", None) is not None]
    assert sorted(carrier.descriptors.open) == sorted(held)


class Together(RuleBasedStateMachine):
    """Client and server of ours, with a model of config space, maps and listeners."""

    @initialize()
    def begin(self) -> None:
        self.pair = Pair(server_limits=ServerLimits(max_transfer=64))
        self.config = bytearray(self.pair.device.config)
        self.maps: dict[int, bytearray] = {}
        self.event: Event | None = None

    @rule(offset=st.integers(0, 0xEF), length=st.integers(0, 200))
    def read(self, offset: int, length: int) -> None:
        if offset + length > 0xF0:
            length = 0xF0 - offset
        assert self.pair.do(self.pair.client.region_read, 7, offset, length) == self.config[offset : offset + length]

    @rule(offset=st.integers(0x40, 0xDF), data=st.binary(max_size=16), posted=st.booleans())
    def write(self, offset: int, data: bytes, posted: bool) -> None:
        assert self.pair.do(self.pair.client.region_write, 7, offset, data, posted=posted) is None
        self.config[offset : offset + len(data)] = data

    @rule(page=st.integers(0, 3), direct=st.booleans())
    def map_page(self, page: int, direct: bool) -> None:
        memory = bytearray(0x1000)
        descriptor = self.pair.descriptors.make(memory) if direct else None
        error = self.pair.errno(self.pair.client.dma_map, page * 0x1000, 0x1000, 3, 0, descriptor, memoryview(memory))
        if descriptor is not None:
            self.pair.descriptors.close(descriptor)
        if page not in self.maps:
            assert error == 0
            self.maps[page] = memory

    @rule(page=st.integers(0, 3))
    def unmap_page(self, page: int) -> None:
        error = self.pair.errno(self.pair.client.dma_unmap, page * 0x1000, 0x1000)
        assert bool(error) == (self.maps.pop(page, None) is None)

    @rule(data=st.binary(min_size=1, max_size=200))
    def store(self, data: bytes) -> None:
        """200 bytes of BAR-like register 0xf0 do not fit: 16 at most."""
        data = data[:16]
        error = self.pair.errno(self.pair.client.region_write, 7, 0xF0, data)
        assert bool(error) == (0 not in self.maps)

    @rule()
    def fetch(self) -> None:
        result = self.pair.do(self.pair.client.region_read, 7, 0xF0, 16)
        assert isinstance(result, MdevError) == (0 not in self.maps)

    @rule(on=st.booleans())
    def listen(self, on: bool) -> None:
        event = Event()
        descriptors = [self.pair.descriptors.make(event)] if on else []
        assert self.pair.errno(self.pair.client.set_irqs, 0, 0, 1, 4, 0x20, b"", descriptors) == 0
        for descriptor in descriptors:
            self.pair.descriptors.close(descriptor)
        self.event = event if on else None

    @rule()
    def fire(self) -> None:
        before = self.event.count if self.event else 0
        assert self.pair.device.host is not None
        self.pair.device.host.signal(0)
        if self.event:
            assert self.event.count == before + 1

    @rule()
    def reset(self) -> None:
        assert self.pair.do(self.pair.client.reset) is None

    @rule()
    def reconnect(self) -> None:
        self.pair.client.close("enough")
        self.pair.pump()
        assert self.pair.open_descriptors == 0
        device = self.pair.device
        self.pair = Pair(device, server_limits=ServerLimits(max_transfer=64))
        self.maps, self.event = {}, None

    @invariant()
    def nothing_is_left_over(self) -> None:
        pair = self.pair
        assert pair.client.waiting == pair.server.waiting == 0
        assert len(pair.client.memory) == len(self.maps)
        assert pair.client.counters["replies_unexpected"] == 0


TestTogether = Together.TestCase
TestTogether.settings = settings(deadline=None, max_examples=25, stateful_step_count=25)
