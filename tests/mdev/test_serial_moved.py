"""What waits in the lines of a card, when the card moves, when it does not after all, and when somebody resets it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from guest_runner import ManualTimers, RunnerHost
from serial_lines import FakeServices, HandLine, hand

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import MigrationState
from pvnet.mdev.serial_card import SerialCard
from pvnet.mdev.serial_stream import LINE_MAX
from pvnet.mdev.vfio_device import VfioDevice
from pvnet.papr.errno import EBUSY, EIO

DATA, FCR, MCR, LSR = 0, 2, 4, 5
OUT = bytes(range(100, 116))


class Rig:
    """A card of one port with FIFOs on; ``fill`` has bytes wait everywhere."""

    def __init__(self, uri: str = "hand:", services: FakeServices | None = None) -> None:
        self.services = services or FakeServices()
        self.card = SerialCard("card", 1, {"port0": uri}, self.services)
        self.timers = ManualTimers()
        self.card.open(RunnerHost(self.card, bytearray(), 0, self.timers))
        self.card.write(0, FCR, b"\x01")

    @property
    def line(self) -> HandLine:
        return hand(self.card.ports[0]._line)

    def fill(self, came: bytes = b"came" * 10, left: bytes = b"left") -> None:
        """16 bytes in RX, the rest of ``came`` and ``left`` in the line, :data:`OUT` in TX."""
        self.line.push(came)
        self.line.room = 0
        self.line.put(left)
        self.send(OUT)

    def send(self, data: bytes) -> None:
        for value in data:
            self.card.write(0, DATA, bytes((value,)))

    def read(self) -> bytes:
        got = b""
        while self.card.read(0, LSR, 1)[0] & 1:
            got += self.card.read(0, DATA, 1)
        return got

    def stream(self) -> bytes:
        self.card.migration.save_begin()
        self.card.stop()
        data = b""
        while piece := self.card.migration.save(4096):
            data += piece
        return data

    def load(self, stream: bytes) -> None:
        self.card.stop()
        self.card.migration.restore_begin()
        self.card.migration.restore(stream)
        self.card.migration.restore_end()


def test_both_directions_move_and_come_before_what_the_new_line_says() -> None:
    source, target = Rig(), Rig()
    source.fill()
    stream = source.stream()
    assert stream[340:] == bytes.fromhex("1800 0400") + (b"came" * 10)[16:] + b"left"
    target.line.push(b"")
    target.load(stream)
    target.line.push(b" and more")  # stopped: it is kept
    assert (target.line.out, target.read()) == (b"", (b"came" * 10)[:16])
    target.card.start()
    assert target.line.out == b"left" + OUT
    assert target.read() == (b"came" * 10)[16:] + b" and more"
    assert target.card.ports[0].traffic == "sent 16 received 33 lost 0"
    assert not target.line.held
    assert source.line.out == b""


@pytest.mark.parametrize("came", [b"", b"came"])
@pytest.mark.parametrize("left", [b"", b"left"])
def test_bytes_of_the_line_need_none_in_the_uart_to_go_on(came: bytes, left: bytes) -> None:
    """Neither TX nor a refusal of RX is there to set them going."""
    source, target = Rig(), Rig()
    source.card.stop()
    source.line.push(came)
    source.line.brought += left
    stream = source.stream()
    for rig in (source, target):  # the one that stays as well as the one where it goes to
        if rig is target:
            rig.load(stream)
        rig.card.start()
        assert (rig.read(), rig.line.out) == (came, left)
        rig.line.push(b"still connected")
        rig.send(b"both ways")
        assert (rig.read(), rig.line.out) == (b"still connected", left + b"both ways")


def test_a_line_without_room_takes_them_all_and_then_those_of_the_uart() -> None:
    source, target = Rig(), Rig()
    source.fill()
    target.line.room = 0
    target.load(source.stream())
    target.card.start()
    assert (target.line.out, target.line.brought) == (b"", b"left")
    target.line.allow(6)
    assert target.line.out == b"left" + OUT[:2]
    target.line.allow(None)
    assert target.line.out == b"left" + OUT


def test_a_migration_that_failed_neither_loses_nor_doubles() -> None:
    rig = Rig()
    rig.fill()
    for _ in range(9):
        first = rig.stream()
        assert rig.stream() == first  # asked again before it goes on
        rig.line.receiver.writable()  # a late word of the line sends nothing that is in the stream
        assert rig.line.out == b""
        rig.card.start()
    rig.line.allow(None)
    assert rig.line.out == b"left" + OUT
    assert rig.read() == b"came" * 10
    assert len(rig.stream()) == 344


def test_moves_in_a_row_keep_the_order() -> None:
    rigs = [Rig() for _ in range(4)]
    rigs[0].fill(came=bytes(range(40)))
    for number, (source, target) in enumerate(pairwise(rigs)):
        target.line.room = 0
        target.load(source.stream())
        target.card.start()
        target.line.push(bytes((100 + number,)))
        target.line.allow(1)
    assert rigs[3].read() == bytes((*range(40), 100, 101, 102))
    rigs[3].line.allow(None)
    assert b"".join(bytes(rig.line.out) for rig in rigs) == b"left" + OUT


def test_a_loop_brings_back_what_was_on_its_way() -> None:
    services = FakeServices(wire_bytes=32)
    source, target = Rig("loop", services), Rig("loop", services)
    data = bytes(range(64))  # 16 in RX, 32 in the loop, 16 in TX
    source.send(data)
    stream = source.stream()
    assert len(stream) == 344 + 32
    target.load(stream)
    for rig in (source, target):
        rig.card.start()
        rig.send(b"")
        assert rig.read() == data
        rig.send(b"again")
        assert rig.read() == b"again"


def test_of_a_cable_the_moving_end_takes_both_directions() -> None:
    services, elsewhere = FakeServices(), FakeServices()
    left, right = Rig("port:x", services), Rig("port:x", services)
    left.send(bytes(range(40)))  # 16 in RX of the other, 24 in the cable
    right.send(bytes(range(100, 140)))
    target = Rig("port:x", elsewhere)
    peer = Rig("port:x", elsewhere)
    target.load(left.stream())
    target.card.start()
    assert right.read() == bytes(range(16))
    assert target.read() == bytes(range(100, 140))
    assert peer.read() == bytes(range(16, 40))


def test_with_the_uarts_own_loop_on_they_wait() -> None:
    source, target = Rig(), Rig()
    source.line.push(bytes(range(20)))
    assert source.read()[:16] == bytes(range(16))
    source.card.write(0, MCR, b"\x10")
    source.line.push(b"outside")
    target.load(source.stream())
    target.card.start()
    target.line.push(b", later")
    assert target.read() == b""
    target.card.write(0, MCR, b"\x00")
    assert target.read() == b"outside, later"


def test_another_line_while_it_stands_or_afterwards() -> None:
    source, target = Rig(), Rig()
    source.fill()
    target.load(source.stream())
    target.card.set("port0", "hand:other")
    assert target.line.out == b""
    target.card.start()
    assert target.line.out == b"left" + OUT
    target.card.set("port0", "hand:third")
    target.line.push(b"!")
    assert target.read() == b"came" * 10 + b"!"


def test_a_further_stream_replaces_what_the_last_one_brought() -> None:
    first, second, target = Rig(), Rig(), Rig()
    first.fill()
    second.fill(b"b" * 20, b"LEFT")
    stream = second.stream()
    target.load(first.stream())
    target.load(stream)
    target.load(stream)
    target.card.start()
    assert target.read() == b"b" * 20
    assert target.line.out == b"LEFT" + OUT


def test_a_removed_card_has_nothing_left() -> None:
    rig = Rig()
    rig.fill()
    rig.card.remove()
    assert rig.card.save()[2] == [(b"", b"")]
    rig.card.ports[0].load(rig.card.ports[0].uart.state(), b"", b"nobody takes it")
    rig.card.start()


def test_more_than_fits_is_refused_and_nothing_of_it_lost() -> None:
    for came, left in ((LINE_MAX + 17, 0), (0, LINE_MAX + 1)):
        rig = Rig()
        rig.fill(bytes(came), bytes(left))
        for _ in range(2):
            rig.card.migration.save_begin()
            rig.card.stop()
            with pytest.raises(MdevError) as refused:
                rig.card.migration.save(4096)
            assert refused.value.errno == EBUSY
            rig.card.start()
        rig.line.allow(None)
        assert rig.line.out == bytes(left) + OUT
        assert rig.read() == bytes(came)
        rig.stream()
    rig = Rig()
    rig.fill(bytes(LINE_MAX + 16), bytes(LINE_MAX))
    other = Rig()
    other.load(rig.stream())
    other.card.start()
    assert (other.read(), other.line.out) == (bytes(LINE_MAX + 16), bytes(LINE_MAX) + OUT)


# --- as a user of the device sees it ----------------------------------------------------------------------------------


def through_vfio(source: Rig, target: Rig) -> tuple[VfioDevice, VfioDevice]:
    """Bring everything over; nobody runs."""
    devices = tuple(VfioDevice(rig.card, "card", rig.timers, lambda _note: None) for rig in (source, target))
    devices[0].migration.set_state(MigrationState.STOP_COPY)
    devices[1].migration.set_state(MigrationState.RESUMING)
    while piece := devices[0].migration.read(100):
        devices[1].migration.write(piece)
    return devices[0], devices[1]


def test_a_reset_leaves_what_is_in_the_line_here_or_there() -> None:
    source, target = Rig(), Rig()
    source.fill()
    for device, rig in zip(through_vfio(source, target), (source, target), strict=True):
        if rig is target:
            device.migration.set_state(MigrationState.STOP)
        rig.line.room = None
        device.reset()
        assert device.migration.state is MigrationState.RUNNING
        rig.card.write(0, FCR, b"\x00")
        assert rig.line.out == b"left"  # not what was in TX
        assert rig.read() == (b"came" * 10)[16:]  # nor in RX


def test_a_reset_while_the_stream_comes_drops_the_stream() -> None:
    source, target = Rig(), Rig()
    source.fill()
    target.line.push(bytes(20))
    device = through_vfio(source, target)[1]
    device.reset()
    device.migration.set_state(MigrationState.RESUMING)
    with pytest.raises(MdevError):
        device.migration.set_state(MigrationState.STOP)
    device.reset()
    assert (target.read(), target.line.out) == (bytes(3), b"")  # each reset has cost one that was in RX


def test_a_state_that_does_not_fit_lets_the_device_go_on() -> None:
    rig = Rig()
    rig.fill(b"", bytes(LINE_MAX + 1))
    device = VfioDevice(rig.card, "card", rig.timers, lambda _note: None)
    device.migration.set_state(MigrationState.STOP_COPY)
    for errno in (EBUSY, EIO):
        with pytest.raises(MdevError) as refused:
            device.migration.read(4096)
        assert refused.value.errno == errno
    device.migration.set_state(MigrationState.RUNNING)
    rig.line.allow(None)
    assert rig.line.out == bytes(LINE_MAX + 1) + OUT
