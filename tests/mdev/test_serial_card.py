"""The card: PCI identity, accesses, interrupts, lines, the pool."""

from __future__ import annotations

import pytest
from guest_runner import ManualTimers, RunnerHost
from serial_lines import FakeServices, HandLine, hand

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import DeviceFlag, PciIrq, PciRegion
from pvnet.mdev.serial_card import MTTY_DRIVER, SerialCard, config_image, natural_pieces
from pvnet.papr.errno import EINVAL, ENOENT, ENOSPC, EPERM

DATA, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


class Rig:
    def __init__(self, ports: int = 2, **attributes: str) -> None:
        self.services = FakeServices()
        self.card = SerialCard(UUID, ports, attributes, self.services)
        self.timers = ManualTimers()
        self.host = RunnerHost(self.card, bytearray(), 0, self.timers)

    def opened(self) -> Rig:
        self.card.open(self.host)
        return self

    def line(self, port: int) -> HandLine:
        return hand(self.services.lines[port])

    def get(self, port: int, register: int, length: int = 1) -> bytes:
        return self.card.read(port, register, length)

    def put(self, port: int, register: int, *data: int) -> None:
        self.card.write(port, register, bytes(data))


def hands(ports: int = 2) -> Rig:
    return Rig(ports, **{f"port{index}": f"hand:{index}" for index in range(ports)}).opened()


# --- identity ---------------------------------------------------------------------------------------------------------


def test_what_the_card_says_of_itself() -> None:
    for ports in (1, 2):
        card = Rig(ports).card
        assert card.flags == DeviceFlag.PCI | DeviceFlag.RESET == 3
        assert [region.info.size for region in card.regions] == [8, 8 * (ports - 1), 0, 0, 0, 0, 0, 256, 0]
        assert [region.info.flags for region in card.regions] == [3, 3 * (ports - 1), 0, 0, 0, 0, 0, 3, 0]
        assert all(region.memory is None for region in card.regions)
        assert [(irq.count, irq.flags) for irq in card.irqs] == [(1, 7), (1, 9), (0, 0), (0, 0), (1, 9)]
        with pytest.raises(MdevError) as refused:
            card.read(ports, 0, 1)
        assert refused.value.errno == EINVAL
        with pytest.raises(MdevError):
            card.write(ports, 0, b"x")


@pytest.mark.parametrize("ports", [1, 2])
def test_configuration_space_is_that_of_the_original(ports: int) -> None:
    expected = bytearray(256)
    for offset, value in {
        0x00: "48435332",
        0x04: "0100",
        0x06: "0002",
        0x08: "10020007",
        0x10: "01000000",
        0x14: "01000000" if ports == 2 else "00000000",
        0x2C: "48435332",
        0x3D: "01",
        0x40: "23",
        0x43: "80",
        0x44: "23",
        0x48: "23",
        0x4C: "23",
    }.items():
        raw = bytes.fromhex(value)
        expected[offset : offset + len(raw)] = raw
    expected[0x60:0x6F] = b"PCI Serial/UART"
    card = Rig(ports).card
    assert card.read(PciRegion.CONFIG, 0, 256) == expected
    assert config_image()[:16] == expected[:16]
    # Sizing: 0xffffffff leaves the address bits of 8 I/O ports, on mtty-1 nothing of BAR1; 2 to 4 stay 0.
    for index in range(5):
        card.write(PciRegion.CONFIG, 0x10 + 4 * index, b"\xff\xff\xff\xff")
    assert card.read(PciRegion.CONFIG, 0x10, 20) == (b"\xf9\xff\xff\xff" * ports).ljust(20, b"\0")
    for offset in (0x3C, 0x3D, 0x00, 0x60):
        card.write(PciRegion.CONFIG, offset, b"\x0b")
    assert card.read(PciRegion.CONFIG, 0x3C, 2) == b"\x0b\x01"
    assert card.read(PciRegion.CONFIG, 0, 4) == expected[:4]
    card.reset()
    assert card.read(PciRegion.CONFIG, 0, 256) == expected


# --- accesses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length", "pieces"),
    [
        (0, 1, [(0, 1)]),
        (0, 8, [(0, 4), (4, 4)]),
        (1, 7, [(1, 1), (2, 2), (4, 4)]),
        (2, 4, [(2, 2), (4, 2)]),
        (4, 3, [(4, 2), (6, 1)]),
        (3, 3, [(3, 1), (4, 2)]),
    ],
)
def test_natural_pieces(offset: int, length: int, pieces: list[tuple[int, int]]) -> None:
    assert natural_pieces(offset, length) == pieces


def test_a_wide_access_is_one_register_access_per_piece() -> None:
    rig = hands()
    rig.put(1, SCR, 0x5A)
    rig.put(1, LCR, 0x03)
    assert rig.get(1, 0, 8) == bytes(8)
    assert rig.get(1, 2, 2) == b"\x01\x00"
    assert rig.get(1, 3, 5) == b"\x03\x00\x00\x00\x00"
    assert rig.get(1, 6, 2) == b"\xb0\x00"  # not SCR
    rig.put(0, DATA, *b"wide")
    rig.put(0, 6, 1, 2)
    assert rig.line(0).out == b"w"
    assert rig.line(1).out == b""
    assert rig.get(0, SCR) == b"\0"  # nor was it that of the other port


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_intx_is_the_or_of_both_ports() -> None:
    rig = hands()
    assert rig.host.level == {PciIrq.INTX: False}
    rig.put(0, IER, 0x02)
    assert rig.host.level[PciIrq.INTX]
    rig.put(1, IER, 0x02)
    assert rig.get(0, FCR) == b"\x02"
    assert rig.host.level[PciIrq.INTX]
    assert rig.get(1, FCR) == b"\x02"
    assert not rig.host.level[PciIrq.INTX]


def test_intx_comes_again_while_it_is_up_and_can_be_switched_off_by_the_command_register() -> None:
    rig = hands()
    host = rig.host
    host.enable(PciIrq.INTX)
    rig.put(0, IER, 0x02)
    intx = (PciIrq.INTX, 0)
    assert host.signals.count(intx) == 1
    host.unmask(PciIrq.INTX)
    assert host.signals.count(intx) == 2
    rig.card.write(PciRegion.CONFIG, 4, b"\x01\x04")
    assert host.level[PciIrq.INTX] is False
    rig.card.write(PciRegion.CONFIG, 5, b"\x00")
    assert host.level[PciIrq.INTX] is True
    rig.get(0, FCR)
    host.unmask(PciIrq.INTX)
    assert host.signals.count(intx) == 2


def test_msi_is_an_edge_of_every_port_and_of_what_was_pending_before() -> None:
    rig = hands()
    host = rig.host
    rig.put(0, IER, 0x02)
    host.signals.clear()
    host.enable(PciIrq.MSI)
    assert host.signals == [(PciIrq.MSI, 0)]
    rig.put(1, IER, 0x02)
    assert host.signals == [(PciIrq.MSI, 0)] * 2
    rig.get(1, FCR)
    assert host.signals == [(PciIrq.MSI, 0)] * 2
    host.disable(PciIrq.MSI)
    rig.get(0, FCR)
    host.enable(PciIrq.MSI)
    host.enable(PciIrq.REQ)
    assert host.signals == [(PciIrq.MSI, 0)] * 2
    rig.card.close()
    rig.card.irq_changed(PciIrq.MSI)


def test_a_level_outlives_its_user_but_nobody_is_told() -> None:
    rig = hands()
    rig.put(0, FCR, 0x81)
    rig.put(0, IER, 0x01)
    rig.line(0).push(b"x")
    assert len(rig.timers.pending) == 1
    rig.card.close()
    assert rig.timers.pending == []
    rig.line(0).push(b"1234567")
    assert rig.host.level[PciIrq.INTX] is False
    other = RunnerHost(rig.card, bytearray(), 0, rig.timers)
    rig.card.open(other)
    assert other.level == {PciIrq.INTX: True}
    for _ in range(8):
        rig.get(0, DATA)
    assert other.level == {PciIrq.INTX: False}
    rig.line(0).push(b"x")
    rig.card.close()
    rig.card.open(other)
    rig.timers.advance(1)
    assert other.level == {PciIrq.INTX: True}


# --- lines ------------------------------------------------------------------------------------------------------------


def test_unless_told_otherwise_a_port_hears_itself() -> None:
    rig = Rig(1).opened()
    rig.put(0, FCR, 0x01)
    for value in b"echo":
        rig.put(0, DATA, value)
    assert bytes(rig.get(0, DATA)[0] for _ in range(4)) == b"echo"
    assert rig.card.attributes() == {
        "port0": "loop",
        "traffic0": "sent 4 received 4 lost 0",
        "sample_mdev_dev": f"This is MDEV {UUID}",
    }


def test_a_port_can_be_connected_to_something_else_at_any_time() -> None:
    rig = hands()
    first = rig.line(0)
    rig.put(0, FCR, 0x01)
    first.room = 1
    for value in b"abc":
        rig.put(0, DATA, value)
    first.push(bytes(20))
    assert len(first.kept) == 4
    assert rig.get(0, MSR) == b"\xb0"  # the first line is no change
    rig.card.set("port0", "hand:0")  # as before
    assert len(rig.services.lines) == 2
    with pytest.raises(MdevError) as refused:
        rig.card.set("port0", "bad:0")
    assert refused.value.errno == EINVAL
    assert not first.closed
    assert rig.card.attributes()["port0"] == "hand:0!"

    rig.card.set("port0", "hand:2")
    second = rig.line(2)
    assert first.closed
    assert first.out == b"a"
    assert second.out == b"bc"
    assert rig.card.attributes()["port0"] == "hand:2!"
    assert rig.get(0, MSR) == b"\xb0"
    # What the old line still says reaches nothing.
    assert first.receiver.receive(b"late") == 0
    first.receiver.writable()
    for _ in range(16):
        rig.get(0, DATA)
    second.push(b"new")
    assert bytes(rig.get(0, DATA)[0] for _ in range(3)) == b"new"
    assert rig.card.attributes()["traffic0"] == "sent 3 received 19 lost 0"


def test_what_lines_have_lost_is_counted_also_of_those_before() -> None:
    rig = hands()
    rig.line(0).lost = 5  # type: ignore[attr-defined]
    assert rig.card.attributes()["traffic0"] == "sent 0 received 0 lost 5"
    rig.card.set("port0", "hand:2")
    assert rig.card.attributes()["traffic0"] == "sent 0 received 0 lost 5"
    rig.line(2).lost = 2  # type: ignore[attr-defined]
    assert rig.card.attributes()["traffic0"] == "sent 0 received 0 lost 7"
    assert rig.card.attributes()["traffic1"] == "sent 0 received 0 lost 0"


def test_bytes_that_a_line_has_at_once_arrive_when_it_is_the_ports() -> None:
    rig = hands(1)

    class Eager(FakeServices):
        def line(self, uri: str, receiver: object) -> HandLine:
            line = HandLine(uri, receiver)
            line.push(b"hi")
            assert line.kept == b"hi"
            return line

    rig.card.ports[0]._services = Eager()
    rig.put(0, FCR, 1)
    rig.card.set("port0", "eager")
    assert bytes(rig.get(0, DATA)[0] for _ in range(2)) == b"hi"


def test_no_line_no_carrier_and_bytes_stay() -> None:
    rig = Rig(1, port0="none").opened()
    assert rig.get(0, MSR) == b"\0"
    rig.line(0).room = 0
    rig.put(0, DATA, 65)
    rig.card.set("port0", "hand:")
    assert rig.get(0, MSR) == b"\xbb"
    assert rig.line(1).out == b"A"
    rig.card.set("port0", "none")
    assert rig.get(0, MSR) == b"\x0b"


@pytest.mark.parametrize(
    ("key", "errno"), [("port1", ENOENT), ("port", ENOENT), ("traffic0", EPERM), ("sample_mdev_dev", EPERM)]
)
def test_other_attributes_cannot_be_set(key: str, errno: int) -> None:
    with pytest.raises(MdevError) as refused:
        Rig(1).card.set(key, "loop")
    assert refused.value.errno == errno


@pytest.mark.parametrize("ports", [1, 2])
def test_the_ports_can_be_set(ports: int) -> None:
    card = Rig(ports).card
    assert card.read_only == card.attributes().keys() - {f"port{index}" for index in range(ports)}


def test_stopped_it_neither_sends_nor_receives() -> None:
    rig = hands(1)
    rig.put(0, FCR, 0x01)
    rig.card.stop()
    rig.put(0, DATA, 65)
    rig.line(0).push(b"in")
    assert rig.line(0).out == b""
    assert rig.get(0, LSR) == b"\0"
    rig.card.close()
    rig.card.open(rig.host)
    assert rig.line(0).out == b""
    rig.card.start()
    assert rig.line(0).out == b"A"
    assert rig.get(0, LSR) == b"\x61"
    rig.card.reset()
    assert rig.get(0, LSR) == b"\x60"


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_a_parent_has_24_ports() -> None:
    parent = MTTY_DRIVER.create_parent("mtty", {}, FakeServices())
    assert (MTTY_DRIVER.name, MTTY_DRIVER.device_api, MTTY_DRIVER.standalone) == ("mtty", "vfio-pci", True)
    assert [(kind.name, kind.pretty_name) for kind in parent.types] == [
        ("1", "Single port serial"),
        ("2", "Dual port serial"),
    ]
    assert (parent.available("1"), parent.available("2")) == (24, 12)
    cards = [parent.create("2", f"{index}", {}) for index in range(11)]
    cards.append(parent.create("1", "one", {}))
    assert (parent.available("1"), parent.available("2")) == (1, 0)
    with pytest.raises(MdevError) as refused:
        parent.create("2", "too many", {})
    assert refused.value.errno == ENOSPC
    assert parent.attributes() == {"ports": "24", "free_ports": "1"}
    cards[0].remove()
    cards[0].remove()
    assert parent.attributes()["free_ports"] == "3"
    assert parent.available("2") == 1
    parent.close()


def test_a_card_that_cannot_be_made_leaves_nothing_behind() -> None:
    services = FakeServices()
    parent = MTTY_DRIVER.create_parent("mtty", {}, services)
    for attributes in ({"port0": "hand:0", "port1": "bad:"}, {"speed": "9600"}):
        with pytest.raises(MdevError) as refused:
            parent.create("2", "x", attributes)
        assert refused.value.errno == EINVAL
    with pytest.raises(MdevError):
        parent.create("1", "x", {"port1": "loop"})
    assert parent.available("1") == 24
    assert [hand(line).closed for line in services.lines] == [True]
    with pytest.raises(MdevError) as refused:
        MTTY_DRIVER.create_parent("mtty", {"ports": "99"}, services)
    assert refused.value.errno == EINVAL


def test_removed_it_lets_go_of_its_lines() -> None:
    rig = hands()
    rig.put(0, FCR, 0xC1)
    rig.put(0, IER, 1)
    rig.line(0).push(b"x")
    rig.card.check_remove()
    rig.card.remove()
    assert [rig.line(0).closed, rig.line(1).closed] == [True, True]
    assert rig.timers.pending == []
    rig.put(0, DATA, 1)
    assert rig.line(0).receiver.receive(b"late") == 0
    assert rig.card.attributes()["port0"] == "none"
