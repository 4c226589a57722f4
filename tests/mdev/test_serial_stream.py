"""Migration of a card: the stream of the original, ours, broken ones, and at any moment."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import fields

import pytest
from guest_runner import ManualTimers, RunnerHost
from hypothesis import given, settings
from hypothesis import strategies as st
from serial_lines import FakeServices, hand

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import PciIrq, PciRegion
from pvnet.mdev.serial_card import SerialCard
from pvnet.mdev.serial_stream import SerialMigration, Waiting
from pvnet.mdev.uart_registers import UartState
from pvnet.papr.errno import EFAULT, EINVAL, ENOMEM

DATA, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)

HEADER_1_0 = bytes.fromhex("4e2c3e8c89099d7e 01000000 00000000 01000000 00000000")
HEADER_1_1 = bytes.fromhex("4e2c3e8c89099d7e 01000000 01000000 01000000 00000000")
# IER 05, LCR 03, MCR 0b, SCR 77; "wxyz" with "w" at 14; overrun; divisor 1; FCR 81, depth 16, level forced to 1.
PORT_1_0 = bytes.fromhex(
    "00 05 00 03 0b 00 00 7779 7a 00 00 00 00 00 00 00 00 00 00 00 00 77 7802 0e 04 00 01 00 0100 81 10 01 00"
)


def make(ports: int = 1) -> SerialCard:
    return SerialCard("card", ports, {f"port{index}": "hand:" for index in range(ports)}, FakeServices())


def read_all(card: SerialCard, limit: int) -> bytes:
    migration = card.migration
    data = b""
    while piece := migration.save(limit):
        assert len(piece) <= limit
        data += piece
    return data


def load_all(card: SerialCard, stream: bytes, piece: int = 1 << 20) -> None:
    card.migration.restore_begin()
    for at in range(0, len(stream), piece):
        card.migration.restore(stream[at : at + piece])
    card.migration.restore_end()


def test_the_stream_of_the_original_is_taken() -> None:
    assert len(PORT_1_0) == 36
    card = make()
    card.stop()
    card.write(PciRegion.CONFIG, 0x3C, b"\x05")
    load_all(card, HEADER_1_0 + PORT_1_0)
    assert card.ports[0].uart.state() == UartState(
        ier=0x05,
        fcr=0x81,
        lcr=0x03,
        mcr=0x0B,
        scr=0x77,
        divisor=1,
        rx=b"wxyz",
        overrun=True,
        thr_empty_pending=True,
        modem=0xB0,
    )
    assert card.read(PciRegion.CONFIG, 0x3C, 1) == b"\x05"
    assert card.read(0, LSR, 1) == b"\x63"


def test_a_port_of_the_original_has_fifos_unless_it_says_one() -> None:
    for fcr, depth, expected in ((0x00, 16, 0x01), (0xC1, 16, 0xC1), (0x00, 1, 0x00), (0x81, 1, 0x00)):
        card = make()
        record = bytearray(PORT_1_0)
        record[32], record[33] = fcr, depth
        load_all(card, HEADER_1_0 + record)
        assert card.ports[0].uart.state().fcr == expected


def test_our_stream_byte_by_byte() -> None:
    card = make()
    hand(card.ports[0]._line).room = 0
    for register, value in ((LCR, 0x83), (DATA, 3), (IER, 1), (LCR, 3), (IER, 2), (FCR, 0x41), (SCR, 0x77), (DATA, 65)):
        card.write(0, register, bytes((value,)))
    hand(card.ports[0]._line).push(b"rx")
    card.write(PciRegion.CONFIG, 0x10, struct.pack("<I", 0xC001))
    migration = card.migration
    assert migration.flags == 5
    migration.save_begin()
    assert migration.remaining() == 344
    assert migration.precopy(10) == HEADER_1_1[:10]
    assert migration.precopy(4096) == HEADER_1_1[10:]
    assert migration.precopy(4096) == b""
    assert migration.remaining() == 320
    card.stop()
    body = migration.save(100)
    assert migration.remaining() == 220
    body += read_all(card, 100)
    assert migration.remaining() == 0
    assert body[:36] == bytes.fromhex(
        "00 02 00 03 00 00 b0 77" + b"rx".hex().ljust(32, "0") + "02 00 02 00 00 00 0301 41 10 04 00"
    )
    assert body[36:60] == bytes.fromhex("00 01 41" + "00" * 21)
    assert body[60:316] == card.read(PciRegion.CONFIG, 0, 256)
    assert body[316:] == bytes(4)

    # Without PRE_COPY it begins with the header, and may begin again.
    migration.save_begin()
    assert read_all(card, 7) == HEADER_1_1 + body
    assert migration.save(7) == b""

    other = make()
    host = RunnerHost(other, bytearray(), 0, ManualTimers())
    other.open(host)
    other.stop()
    load_all(other, HEADER_1_1 + body, 1)
    assert other.ports[0].uart.state() == card.ports[0].uart.state()
    assert other.read(PciRegion.CONFIG, 0, 256) == body[60:316]
    assert host.level[PciIrq.INTX] is False
    other.start()
    assert hand(other.ports[0]._line).out == b"A"
    assert host.level[PciIrq.INTX] is True


def spoiled(offset: int, value: int, stream: bytes = HEADER_1_0 + PORT_1_0) -> bytes:
    data = bytearray(stream)
    data[offset] = value
    return bytes(data)


OURS = HEADER_1_1 + PORT_1_0 + bytes(24 + 256 + 4)
LINES = len(OURS) - 4
WAITING = OURS[:LINES] + bytes.fromhex("0200 0300") + b"inout"


@pytest.mark.parametrize(
    ("stream", "errno"),
    [
        (b"", EINVAL),
        (HEADER_1_0[:23], EINVAL),
        (HEADER_1_0, EINVAL),
        (HEADER_1_0 + PORT_1_0[:-1], EINVAL),
        (OURS[:-1], EINVAL),
        (HEADER_1_0 + PORT_1_0 + b"\0", ENOMEM),
        (OURS + b"\0", ENOMEM),
        (spoiled(0, 0), EFAULT),
        (spoiled(8, 2), EFAULT),
        (spoiled(12, 2), EFAULT),
        (spoiled(16, 2), EFAULT),
        (spoiled(16, 0), EFAULT),
        (spoiled(20, 1), EFAULT),
        (spoiled(24 + 24, 16), EINVAL),  # head
        (spoiled(24 + 24, 3), EINVAL),
        (spoiled(24 + 25, 16), EINVAL),  # tail
        (spoiled(24 + 26, 17), EINVAL),  # count
        (spoiled(24 + 27, 1), EINVAL),  # DLAB, but not in LCR
        (spoiled(24 + 3, 0x83), EINVAL),
        (spoiled(24 + 33, 0), EINVAL),  # depth
        (spoiled(24 + 34, 2), EINVAL),  # level
        (spoiled(60, 4, OURS), EINVAL),  # pending
        (spoiled(61, 17, OURS), EINVAL),  # bytes in TX
        (spoiled(83, 1, OURS), EINVAL),  # reserved
        (OURS[:LINES], EINVAL),
        (WAITING[: LINES + 3], EINVAL),
        (WAITING[: LINES + 4], EINVAL),
        (WAITING[: LINES + 6], EINVAL),
        (WAITING[:-1], EINVAL),
        (WAITING + b"\0", ENOMEM),
        (OURS[:LINES] + bytes.fromhex("ffff 0000"), EINVAL),
        (OURS[:LINES] + bytes.fromhex("0140 0000") + bytes(0x4001), EINVAL),
        (OURS[:LINES] + bytes.fromhex("0000 0140") + bytes(0x4001), EINVAL),
        (OURS[:LINES] + bytes.fromhex("0040 0040") + bytes(0x8001), ENOMEM),
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_a_wrong_stream_changes_nothing(stream: bytes, errno: int, piece: int) -> None:
    card = make()
    card.write(0, SCR, b"\x11")
    before = card.save()
    with pytest.raises(MdevError) as refused:
        load_all(card, stream, piece)
    assert refused.value.errno == errno
    assert card.save() == before
    if errno != EINVAL:  # found at once; it stays wrong, whatever comes behind
        for again in (lambda: card.migration.restore(HEADER_1_0), card.migration.restore_end):
            with pytest.raises(MdevError) as refused:
                again()
            assert refused.value.errno == errno
    load_all(card, OURS)
    assert card.read(0, SCR, 1) == b"\x77"


def test_a_restore_that_was_not_begun_is_too_short() -> None:
    card = make()
    load_all(card, OURS)
    with pytest.raises(MdevError) as refused:
        card.migration.restore_end()
    assert refused.value.errno == EINVAL


byte = st.integers(0, 255)
states = st.builds(
    UartState,
    ier=st.integers(0, 15),
    fcr=byte.map(lambda value: value & 0xC1 if value & 1 else 0),
    lcr=byte,
    mcr=st.integers(0, 31),
    scr=byte,
    divisor=st.integers(0, 0xFFFF),
    rx=st.binary(max_size=16),
    tx=st.binary(max_size=16),
    overrun=st.booleans(),
    thr_empty_pending=st.booleans(),
    timed_out=st.booleans(),
    modem=byte,
)


waiting = st.tuples(st.binary(max_size=40), st.binary(max_size=40))


@settings(deadline=None, max_examples=100)
@given(
    ports=st.lists(st.tuples(states, waiting), min_size=1, max_size=2),
    config=st.binary(min_size=256, max_size=256),
    cut=st.integers(1, 99),
)
def test_every_state_survives(ports: list[tuple[UartState, Waiting]], config: bytes, cut: int) -> None:
    class Card:
        got: object = None

        def save(self) -> tuple[list[UartState], bytes, list[Waiting]]:
            return [state for state, _ in ports], config, [lines for _, lines in ports]

        def load(self, *got: object) -> None:
            self.got = got

    card = Card()
    migration = SerialMigration(card, len(ports))
    migration.save_begin()
    migration.restore_begin()
    while piece := migration.save(cut):
        migration.restore(piece)
    migration.restore_end()
    assert card.got == card.save()
    assert len(fields(UartState)) == 12  # a new one has to be in the stream


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400), st.integers(1, 64))
def test_noise_is_refused_or_makes_a_port_that_works(noise: bytes, piece: int) -> None:
    card = make()
    with suppress(MdevError):
        load_all(card, HEADER_1_1 + noise.ljust(320, b"\0"), piece)
    for register in range(8):
        assert 0 <= card.read(0, register, 1)[0] <= 255
