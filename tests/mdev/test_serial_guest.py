"""The driver of a partition against the card, and against cards that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from guest_runner import GuestRunner
from serial_lines import FakeServices, HandLine, hand

from pvnet.mdev.device import DeviceBase, DeviceHost, Region
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import EnableIrq, GuestSteps, RegionRead, RegionWrite, WritableFile
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.names import DeviceFlag, PciIrq, PciRegion
from pvnet.mdev.serial_card import SerialCard
from pvnet.mdev.serial_guest import BUFFER_BYTES, SERIAL_GUEST, SerialFile
from pvnet.papr.errno import EINVAL, ENODEV

TEXT = bytes(range(256)) * 40


def card_of(services: FakeServices, *lines: str) -> SerialCard:
    return SerialCard("card", len(lines), {f"port{index}": uri for index, uri in enumerate(lines)}, services)


class Rig:
    """A dual card with hand-moved lines, driven."""

    def __init__(self, *lines: str) -> None:
        self.services = FakeServices()
        self.runner = GuestRunner(card_of(self.services, *(lines or ("hand:0", "hand:1"))), SERIAL_GUEST)
        self.runner.probe()

    def line(self, port: int) -> HandLine:
        return hand(self.services.lines[port])

    def file(self, port: int) -> SerialFile:
        file = self.runner.file("ttyS", port)
        assert isinstance(file, SerialFile)
        return file

    def read(self, port: int = 0, count: int = 1 << 16) -> bytes:
        return self.runner.run(self.file(port).read(0, count))

    def write(self, data: bytes, port: int = 0) -> int:
        return self.runner.run(self.file(port).write(0, data))


def test_probe_finds_both_ports() -> None:
    rig = Rig()
    assert [stem for stem, _ in rig.runner.driver.files] == ["ttyS", "ttyS"]
    assert [rig.file(port).depth for port in (0, 1)] == [16, 16]
    card = rig.runner.device
    assert isinstance(card, SerialCard)
    for port in card.ports:
        state = port.uart.state()
        assert (state.ier, state.fcr, state.lcr, state.mcr, state.divisor) == (0x05, 0x81, 0x03, 0x0B, 1)
    assert EnableIrq(PciIrq.INTX) in rig.runner.requests
    assert not any(isinstance(r, RegionWrite) and r.region == PciRegion.CONFIG for r in rig.runner.requests)
    assert SERIAL_GUEST.name == "serial"


def test_a_card_whose_io_is_off_is_switched_on() -> None:
    card = card_of(FakeServices(), "hand:")
    card.write(PciRegion.CONFIG, 4, b"\x06\x04")
    runner = GuestRunner(card, SERIAL_GUEST)
    runner.probe()
    assert card.read(PciRegion.CONFIG, 4, 2) == b"\x07\x00"


def test_probe_does_not_depend_on_what_was_there_before() -> None:
    card = card_of(FakeServices(), "hand:")
    for register, value in ((3, 0xFF), (0, 0x34), (1, 0x12), (3, 0x1F), (4, 0x1F), (1, 0x0F)):
        card.write(0, register, bytes((value,)))
    GuestRunner(card, SERIAL_GUEST).probe()
    state = card.ports[0].uart.state()
    assert (state.ier, state.fcr, state.lcr, state.mcr, state.divisor) == (0x05, 0x81, 0x03, 0x0B, 1)


def test_nobody_is_told_of_room_that_was_never_missing() -> None:
    rig = Rig()
    told: list[int] = []
    rig.file(0).on_writable = lambda: told.append(1)
    rig.line(0).room = 0
    assert rig.write(TEXT[: BUFFER_BYTES + 16]) == BUFFER_BYTES + 16
    rig.line(0).allow(None)
    rig.runner.serve()
    assert rig.line(0).out == TEXT[: BUFFER_BYTES + 16]
    assert not told


def test_bytes_go_out_and_come_in() -> None:
    rig = Rig()
    told: list[int] = []
    rig.file(1).on_readable = lambda: told.append(1)
    assert rig.write(b"out of port 0") == 13
    assert rig.line(0).out == b"out of port 0"
    rig.line(1).push(b"into port 1")
    rig.runner.serve()
    assert told == [1]
    rig.line(1).push(b"...")
    rig.runner.serve()
    assert told == [1]
    rig.runner.advance(0.01)  # less than the level: only after the character timeout
    assert told == [1, 1]
    assert (rig.file(1).readable, rig.file(0).readable) == (True, False)
    assert isinstance(rig.file(1), WritableFile)
    assert rig.read(1, 4) == b"into"
    assert rig.read(1) == b" port 1..."
    assert rig.read(1) == b""
    assert rig.read(0) == b""
    assert not rig.file(1).readable
    rig.runner.run(rig.file(0).flush())
    assert rig.runner.driver.shown() == {
        "port0": {"sent": 13, "unread": 0, "unsent": 0, "fifo": 16},
        "port1": {"interrupts": 2, "received": 14, "unread": 0, "unsent": 0, "fifo": 16},
    }


def test_a_line_that_does_not_move_holds_the_writer_up_and_loses_nothing() -> None:
    rig = Rig()
    line, file = rig.line(0), rig.file(0)
    told: list[int] = []
    file.on_writable = lambda: told.append(len(line.out))
    line.room = 0
    # 16 in the port, 4096 in the driver.
    assert rig.write(TEXT) == BUFFER_BYTES + 16
    assert rig.write(b"x") == 0
    assert not told
    line.allow(1000)
    rig.runner.serve()
    assert len(line.out) == 1000
    assert not told
    line.allow(1200)
    rig.runner.serve()
    assert told == [2064]
    assert rig.write(TEXT[BUFFER_BYTES + 16 :]) == 2200 - 8  # of the last 16, 8 have not left the port
    line.allow(None)
    rig.runner.serve()
    assert line.out == TEXT[: BUFFER_BYTES + 16 + 2192]
    assert told == [2064, 4256]


def test_bytes_that_come_while_the_line_does_not_move_push_nothing_out_of_the_port() -> None:
    rig = Rig()
    line = rig.line(0)
    line.room = 0
    assert rig.write(TEXT) == BUFFER_BYTES + 16
    line.push(b"12345678")
    rig.runner.serve()
    assert rig.read() == b"12345678"
    line.allow(None)
    rig.runner.serve()
    assert line.out == TEXT[: BUFFER_BYTES + 16]


def test_a_reader_that_does_not_read_holds_the_line_up() -> None:
    rig = Rig()
    line = rig.line(0)
    line.push(TEXT)
    rig.runner.serve()
    assert len(line.kept) == len(TEXT) - BUFFER_BYTES - 16
    assert rig.file(0).counters["throttled"] == 1
    assert rig.read(0, BUFFER_BYTES // 2 - 1) == TEXT[: BUFFER_BYTES // 2 - 1]
    assert len(line.kept) == len(TEXT) - BUFFER_BYTES - 16
    assert rig.read(0, 1) == TEXT[BUFFER_BYTES // 2 - 1 : BUFFER_BYTES // 2]
    assert len(line.kept) == len(TEXT) - BUFFER_BYTES * 3 // 2 - 16
    got = TEXT[: BUFFER_BYTES // 2]
    while piece := rig.read(0, 1000):
        got += piece
        rig.runner.advance(0.01)
    assert got == TEXT


def test_modem_and_line_status_are_served() -> None:
    rig = Rig()
    card, runner = rig.runner.device, rig.runner
    runner.region_write(0, 4, b"\x1b")
    for _ in range(30):
        runner.region_write(0, 0, b"x")
    runner.serve()
    assert rig.file(0).counters["overruns"] == 1
    assert rig.read() == b"x" * 16
    # Foreign to this driver, but another one might have left IER.3.
    runner.region_write(1, 1, b"\x08")
    runner.region_write(1, 4, b"\x00")
    runner.region_write(1, 4, b"\x10")
    assert isinstance(card, SerialCard)
    assert card.ports[1].uart.pending
    runner.serve()
    assert not card.ports[1].uart.pending


def test_a_loop_returns_everything_whatever_the_pieces() -> None:
    rig = Rig("loop")
    sent, got = 0, b""
    while len(got) < len(TEXT):
        sent += rig.write(TEXT[sent : sent + 777])
        got += rig.read(0, 333)
        rig.runner.advance(0.001)
    assert got == TEXT


def test_remove_silences_the_card_and_does_not_mind_one_that_is_gone() -> None:
    rig = Rig()
    rig.line(0).push(b"unread")
    rig.runner.remove()
    card = rig.runner.device
    assert isinstance(card, SerialCard)
    assert [port.uart.state().ier for port in card.ports] == [0, 0]
    steps = rig.runner.driver.remove()
    next(steps)
    with pytest.raises(StopIteration):
        steps.throw(MdevError(ENODEV))


def test_programs_of_a_removed_port_do_not_touch_it() -> None:
    rig = Rig()
    rig.line(0).push(b"unread12")
    rig.runner.serve()
    rig.runner.run(rig.runner.driver.remove())
    rig.runner.requests.clear()
    assert rig.read() == b"unread12"
    with pytest.raises(MdevError) as refused:
        rig.write(b"x")
    assert refused.value.errno == ENODEV
    assert rig.runner.requests == []


# --- other cards ------------------------------------------------------------------------------------------------------


class Foreign(DeviceBase):
    """A PCI card whose registers are what a test says."""

    def __init__(self, read: Callable[[int], int], *, irqs: tuple[IrqInfo, ...], bars: int = 1) -> None:
        self.flags = DeviceFlag.PCI
        self.irqs = irqs
        self._read = read
        config = bytearray(256)
        config[9:12] = b"\x02\x00\x07"
        for bar in range(bars):
            config[0x10 + 4 * bar] = 1
        self.config = bytes(config)
        present = {*range(bars), PciRegion.CONFIG}
        self.regions = [
            Region(RegionInfo(256 if index == 7 else 8, 3) if index in present else RegionInfo()) for index in range(9)
        ]
        self.host: DeviceHost | None = None
        self.writes: list[tuple[int, int]] = []

    def open(self, host: DeviceHost) -> None:
        self.host = host

    def read(self, region: int, offset: int, length: int) -> bytes:
        if region == PciRegion.CONFIG:
            return self.config[offset : offset + length]
        return bytes((self._read(offset),))

    def write(self, region: int, offset: int, data: bytes) -> None:
        self.writes.append((offset, data[0]))


INTX = (IrqInfo(1, 7),)
MSI = (IrqInfo(), IrqInfo(1, 9))


def test_no_port_behind_any_bar() -> None:
    for value in (0xFF, 0x00):
        card = Foreign(lambda _offset, value=value: value, irqs=INTX, bars=6)
        runner = GuestRunner(card, SERIAL_GUEST)
        with pytest.raises(MdevError) as refused:
            runner.probe()
        assert refused.value.errno == ENODEV
        assert runner.context.irqs[0].count == 1
        assert EnableIrq(0) not in runner.requests
        assert {register: last for register, last in card.writes if register in (1, 4)} == {1: 0, 4: 0}


def test_a_card_with_msi_only_raises_again_what_is_left() -> None:
    services = FakeServices()
    runner = GuestRunner(card_of(services, "loop"), SERIAL_GUEST)
    runner.driver = SERIAL_GUEST.create(replace(runner.context, irqs=MSI))
    runner.probe()
    file = runner.file("ttyS")
    sent, got = 0, b""
    while len(got) < len(TEXT):  # more than 64 rounds of 16 bytes each
        sent += runner.run(file.write(0, TEXT[sent:]))
        got += runner.run(file.read(0, 1 << 16))
        runner.advance(0.001)
    assert got == TEXT
    assert RegionWrite(0, 1, b"\0") in runner.requests[100:]


def answer_all(steps: GuestSteps[None], answer: Callable[[int], bytes]) -> int:
    """Answer every read by what ``answer`` says of its register; returns how many there were."""
    reads = 0
    request = next(steps, None)
    while request is not None:
        data = b""
        if isinstance(request, RegionRead):
            reads += 1
            data = answer(request.offset)
        try:
            request = steps.send(data)
        except StopIteration:
            request = None
    return reads


def test_a_card_that_never_ends_does_not_hold_the_driver() -> None:
    card = card_of(FakeServices(), "hand:")
    runner = GuestRunner(card, SERIAL_GUEST)
    runner.probe()
    runner.requests.clear()
    # Always a cause, always a byte.
    steps = runner.driver.irq(PciIrq.INTX)
    reads = answer_all(steps, lambda register: {2: b"\x04", 5: b"\x61"}.get(register, b"x"))
    assert BUFFER_BYTES < reads < 64 * 600
    assert runner.run(runner.file("ttyS").read(0, 1 << 20)) == b"x" * BUFFER_BYTES


def test_a_card_that_has_gone_reads_all_ones() -> None:
    runner = GuestRunner(card_of(FakeServices(), "hand:"), SERIAL_GUEST)
    runner.probe()
    everything: tuple[dict[int, bytes], ...] = ({}, {2: b"\x04"}, {2: b"\x04", 5: b"\x61"})
    for answers in everything:
        reads = answer_all(runner.driver.irq(PciIrq.INTX), lambda register, of=answers: of.pop(register, b"\xff"))
        assert 1 <= reads < 6


def test_without_fifo_it_sends_byte_by_byte() -> None:
    runner = GuestRunner(card_of(FakeServices(), "hand:"), SERIAL_GUEST)
    plain = runner.region_read
    runner.region_read = lambda region, offset, length: (
        bytes((plain(region, offset, length)[0] & 0x0F,))
        if (region, offset) == (0, 2)
        else plain(region, offset, length)
    )
    runner.probe()
    file = runner.file("ttyS")
    assert isinstance(file, SerialFile)
    assert file.depth == 1
    assert runner.run(file.write(0, b"slow")) == 4
    assert file.counters["sent"] == 4


def test_match() -> None:
    context = GuestRunner(card_of(FakeServices(), "hand:"), SERIAL_GUEST).context
    config = context.config

    def matches(**changes: object) -> bool:
        return SERIAL_GUEST.match(replace(context, **changes))

    assert matches()
    assert matches(irqs=MSI)
    assert not matches(irqs=())
    assert not matches(irqs=[IrqInfo()] * 5)
    assert not matches(device=DeviceInfo(DeviceFlag.CCW, 1, 3))
    assert not matches(config=b"")
    assert not matches(config=config[:9] + b"\x03\x00\x07" + config[12:])
    assert not matches(config=config[:9] + b"\x02\x80\x07" + config[12:])
    assert not matches(config=config[:16] + b"\0" + config[17:])
    assert not matches(regions=context.regions[:3])
    assert not matches(regions=[RegionInfo(7, 3), *context.regions[1:]])
    assert not matches(regions=[RegionInfo(8, 1), *context.regions[1:]])
    assert not matches(regions=[RegionInfo(8, 2), *context.regions[1:]])


def test_the_runner_refuses_what_the_framework_refuses() -> None:
    rig = Rig()
    for region, offset, length in ((9, 0, 1), (2, 0, 1), (0, 0, 9), (0, 8, 1), (0, -1, 1), (0, 0, 0)):
        with pytest.raises(MdevError) as refused:
            rig.runner.region_read(region, offset, length)
        assert refused.value.errno == EINVAL
