"""The card behind the VFIO device API, as QEMU uses it: INTx with unmasking, reset, and a migration to another card."""

from __future__ import annotations

from serial_lines import FakeServices, HandLine, hand
from vfio_rig import ManualTimers, RecordingTarget, RecordingUser

from pvnet.core.machine import Note
from pvnet.mdev.irqs import IrqSet
from pvnet.mdev.names import IrqAction, IrqData, MigrationState, PciIrq, PciRegion
from pvnet.mdev.serial_card import SerialCard
from pvnet.mdev.vfio_device import VfioDevice

DATA, IER, FCR, LSR = 0, 1, 2, 5


class Rig:
    def __init__(self) -> None:
        self.services = FakeServices()
        self.timers = ManualTimers()
        self.notes: list[Note] = []
        card = SerialCard("card", 2, {"port0": "hand:0", "port1": "hand:1"}, self.services)
        self.device = VfioDevice(card, "card", self.timers, self.notes.append)
        self.device.open(RecordingUser())

    def line(self, port: int) -> HandLine:
        return hand(self.services.lines[port])

    def listen(self, index: int) -> RecordingTarget:
        target = RecordingTarget()
        self.device.set_irqs(IrqSet(IrqData.EVENTFD | IrqAction.TRIGGER, index, 0, 1, targets=(target,)))
        return target

    def unmask(self) -> None:
        self.device.set_irqs(IrqSet(IrqData.NONE | IrqAction.UNMASK, PciIrq.INTX, 0, 1))

    def put(self, port: int, register: int, value: int) -> None:
        assert self.device.write(port, register, bytes((value,))) is None

    def get(self, port: int, register: int) -> int:
        data = self.device.read(port, register, 1)
        assert isinstance(data, bytes)
        return data[0]


def test_intx_comes_once_per_unmask_as_long_as_a_port_has_something() -> None:
    rig = Rig()
    rig.put(0, IER, 0x02)  # pending before anybody listens
    intx = rig.listen(PciIrq.INTX)
    assert intx.signals == 1
    rig.put(1, IER, 0x01)
    rig.line(1).push(b"x")
    assert intx.signals == 1
    assert rig.get(0, FCR) == 0x02
    rig.unmask()
    assert intx.signals == 2
    assert rig.get(1, DATA) == ord("x")
    rig.unmask()
    assert intx.signals == 2
    rig.line(1).push(b"y")
    assert intx.signals == 3
    assert rig.notes == []


def test_a_character_timeout_reaches_the_user_and_dies_with_it() -> None:
    rig = Rig()
    intx = rig.listen(PciIrq.INTX)
    rig.put(0, FCR, 0xC1)
    rig.put(0, IER, 0x01)
    rig.line(0).push(b"x")
    rig.timers.advance(1)
    assert intx.signals == 1
    assert rig.get(0, FCR) == 0xCC
    assert rig.get(0, DATA) == ord("x")
    rig.line(0).push(b"y")
    rig.device.close()
    rig.timers.advance(1)
    assert intx.signals == 1
    # The next user finds the byte, and is told.
    rig.device.open(RecordingUser())
    msi = rig.listen(PciIrq.MSI)
    rig.timers.advance(1)
    assert msi.signals == 1
    assert rig.get(0, FCR) == 0xCC
    rig.device.reset()
    assert rig.get(0, FCR) == 0x01


def test_a_migration_takes_what_has_not_been_sent_and_not_been_read() -> None:
    source, target = Rig(), Rig()
    source.put(0, FCR, 0x01)
    source.put(0, IER, 0x02)
    source.line(0).room = 0
    for value in b"unsent":
        source.put(0, DATA, value)
    source.put(1, FCR, 0x41)
    source.put(1, IER, 0x01)
    source.line(1).push(b"unread")
    source.device.write(PciRegion.CONFIG, 0x3C, b"\x0b")
    migration = source.device.migration
    migration.set_state(MigrationState.PRE_COPY)
    head = migration.read(4096)
    assert len(head) == 24
    assert migration.read(4096) == b""
    migration.set_state(MigrationState.STOP_COPY)
    target.device.migration.set_state(MigrationState.RESUMING)
    target.device.migration_write(head)
    while piece := migration.read(33):
        target.device.migration_write(piece)
    intx = target.listen(PciIrq.INTX)
    target.device.migration.set_state(MigrationState.STOP)
    assert target.line(0).out == b""
    target.device.migration.set_state(MigrationState.RUNNING)
    assert target.line(0).out == b"unsent"
    assert intx.signals == 1
    assert target.get(0, FCR) == 0xC2
    assert bytes(target.get(1, DATA) for _ in range(6)) == b"unread"
    assert target.get(1, LSR) == 0x60
    assert target.device.read(PciRegion.CONFIG, 0x3C, 1) == b"\x0b"
    assert source.line(0).out == b""
    assert source.notes == target.notes == []
