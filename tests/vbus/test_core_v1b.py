"""ABI v1, revision b: traffic of July 2009 replayed (vbus 3.2)."""

from __future__ import annotations

import pytest
from vbus_core_rig import RawNorth, registry_with, toy, words

from pvnet.papr.errno import EINVAL
from pvnet.vbus.bridge_io import Interrupt
from pvnet.vbus.layout import DeviceCall, DeviceClose, DeviceOpen, DeviceShm, Event, EventId, Negotiate, result_of
from pvnet.vbus.v1b import BridgeV1


class Guest:
    """A guest of that time: 32-bit accesses to its mailbox."""

    def __init__(self) -> None:
        self.registry = registry_with("lpar1")
        self.north = RawNorth(self.registry)
        self.bridge = BridgeV1(self.north.south)

    def call(self, vector: int, parameters: bytes, length: int | None = None) -> int:
        self.north.arena.write(self.north.PARAMETERS, parameters)
        size = len(parameters) if length is None else length
        for offset, value in enumerate((vector, size, self.north.PARAMETERS, 0)):
            self.bridge.write(4 * offset, value.to_bytes(4, "little"))
        return result_of(self.bridge.read(16, 4, 0.0))

    def up(self) -> int:
        assert self.call(0, Negotiate().encode()) == 0
        assert self.call(1, self.north.make_queues()) == 0
        self.north.pop()
        assert self.call(2, DeviceOpen(0, 1).encode()) == 0
        return DeviceOpen.decode(self.north.arena.read(self.north.PARAMETERS, 16)).handle


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_a_session_of_that_time_runs(guest: Guest) -> None:
    handle = guest.up()
    assert guest.bridge.outputs == [Interrupt(0)]
    assert guest.call(4, DeviceCall(handle, 99, 3, 0, guest.north.DATA).encode()) == 3
    region = guest.north.region()
    assert guest.call(5, DeviceShm(handle, 100, 64, 0, 0, 0, 9, region).encode()) == 1 + 8
    view = guest.north.arena.slice(region, 16)
    view[12] = view[13] = 1
    guest.bridge.port(9, 0.0)
    assert toy(guest.registry).connection.wakeups == {100: 1}
    assert guest.call(3, DeviceClose(handle).encode()) == 0
    guest.bridge.port(0, 0.0)
    assert guest.north.pop() == [Event(EventId.SHMCLOSE, 9)]
    guest.bridge.port(7, 0.0)
    guest.bridge.port(8, 0.0)
    guest.bridge.port(9, 0.0)
    assert guest.north.south.counters["bad_doorbell"] == 3


def test_the_golden_mailbox_write_opens_the_device(guest: Guest) -> None:
    guest.call(0, Negotiate().encode())
    guest.call(1, guest.north.make_queues())
    guest.north.arena.write(0x10420 + 0x4000, DeviceOpen(0, 1).encode())
    for offset, value in enumerate(range(0, 16, 4)):
        guest.bridge.write(4 * offset, words("02000000 10000000 20440100 00000000")[value : value + 4])
    assert guest.bridge.read(16, 4, 0.0) == 0
    assert DeviceOpen.decode(guest.north.arena.read(0x14420, 16)).handle == 0x200000001


def test_revision_a_and_unknown_vectors_are_einval(guest: Guest) -> None:
    handle = guest.up()
    region = guest.north.region()
    request = DeviceShm(handle, 100, 64, 0, 0, 0, 9, region).encode()
    assert guest.call(5, request + bytes(8)) == -EINVAL
    assert guest.call(6, request) == -EINVAL
    assert guest.call(5, request) == 9
    assert guest.call(5, DeviceShm(handle, 101, 64, 0, 0xFFFFFFFF, 0, 0, region).encode()) == 0


def test_accesses_of_other_widths_and_places_do_nothing(guest: Guest) -> None:
    guest.bridge.write(0, b"\x05")
    guest.bridge.write(2, b"\x05\0\0\0")
    guest.bridge.write(16, b"\x05\0\0\0")
    guest.bridge.write(-4, b"\x05\0\0\0")
    assert guest.bridge._registers == bytes(16)
    for offset, size in ((0, 4), (16, 2), (20, 4)):
        assert guest.bridge.read(offset, size, 0.0) == 0
    assert guest.north.south.counters["bridgecalls"] == 0
