"""The 16550A, register by register: what the data sheet and the probe of Linux expect of it."""

from __future__ import annotations

import pytest
from serial_rig import UartRig

from pvnet.mdev.uart_registers import LEVELS, UartState, character_s

DATA, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)


@pytest.fixture
def rig() -> UartRig:
    return UartRig()


# --- plain registers --------------------------------------------------------------------------------------------------


def test_after_power_on_every_register_has_its_value(rig: UartRig) -> None:
    assert [rig.get(register) for register in range(8)] == [0, 0, 0x01, 0, 0, 0x60, 0, 0]
    rig.put(LCR, 0x80)
    assert (rig.get(DATA), rig.get(IER)) == (12, 0)


@pytest.mark.parametrize(
    ("register", "written", "read"),
    [
        (IER, 0xFF, 0x0F),  # mtty keeps all eight bits
        (LCR, 0xFF, 0xFF),
        (MCR, 0xFF, 0x1F),
        (SCR, 0x5A, 0x5A),
        (LSR, 0xFF, 0x60),
        (MSR, 0xFF, 0x00),
    ],
)
def test_what_a_register_keeps(rig: UartRig, register: int, written: int, read: int) -> None:
    rig.put(register, written)
    if register == MCR:
        assert rig.get(MCR) == read
    else:
        assert rig.get(register) == read
        assert rig.get(register) == read


def test_with_dlab_the_first_two_are_the_divisor_and_are_stored_not_collected(rig: UartRig) -> None:
    rig.put(SCR, 0x77)
    rig.put(LCR, 0x83)
    for low, high in ((0x01, 0x00), (0x80, 0x25), (0x00, 0x00)):
        rig.put(DATA, low)
        rig.put(IER, high)
        assert (rig.get(DATA), rig.get(IER)) == (low, high)
    rig.put(DATA, 0x34)
    rig.put(LCR, 0x03)
    rig.put(LCR, 0x83)  # setting DLAB again clears nothing, unlike mtty
    assert rig.get(DATA) == 0x34
    rig.put(LCR, 0x03)
    assert rig.get(IER) == 0
    assert rig.get(SCR) == 0x77
    assert not rig.out


# --- the probe of Linux -----------------------------------------------------------------------------------------------


def test_linux_finds_a_16550a_with_16_bytes_and_no_bugs(rig: UartRig) -> None:
    uart = rig
    # An empty bus would keep no bits of IER.
    uart.put(IER, 0)
    assert uart.get(IER) & 0x0F == 0
    uart.put(IER, 0x0F)
    assert uart.get(IER) & 0x0F == 0x0F
    uart.put(IER, 0)
    # The loop test.
    uart.put(MCR, 0x1A)
    assert uart.get(MSR) & 0xF0 == 0x90
    uart.put(MCR, 0)
    # No EFR behind LCR 0xbf.
    uart.put(LCR, 0xBF)
    uart.put(FCR, 0)
    uart.put(LCR, 0)
    uart.put(FCR, 0x01)
    assert uart.get(FCR) & 0xC0 == 0xC0
    uart.put(LCR, 0x80)
    assert uart.get(FCR) != 0
    # No FIFO of 64 bytes.
    for lcr in (0, 0x80):
        uart.put(LCR, lcr)
        uart.put(FCR, 0x21)
        assert uart.get(FCR) >> 5 == 6
        uart.put(FCR, 0x01)
    # No UUE bit.
    uart.put(LCR, 0)
    uart.put(IER, 0x40)
    assert uart.get(IER) == 0
    # The size of the FIFO, in the loop with 256 bytes.
    uart.put(FCR, 0x07)
    uart.put(MCR, 0x10)
    uart.put(LCR, 0x80)
    uart.put(DATA, 1)
    uart.put(IER, 0)
    uart.put(LCR, 0x03)
    for value in range(256):
        uart.put(DATA, value)
    count = 0
    while uart.get(LSR) & 0x01 and count < 256:
        assert uart.get(DATA) == count
        count += 1
    assert count == 16
    assert not uart.out
    # The test for a port that does not tell THRE again when IER.1 is set again.
    uart.put(MCR, 0x0B)
    uart.put(IER, 0x02)
    assert uart.get(FCR) & 0x0F == 0x02
    uart.put(IER, 0)
    uart.put(IER, 0x02)
    assert uart.get(FCR) & 0x0F == 0x02
    uart.put(IER, 0)
    uart.put(IER, 0x02)
    assert uart.get(LSR) & 0x40
    assert not uart.get(FCR) & 0x01


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_only_the_highest_cause_is_told(rig: UartRig) -> None:
    rig.fifo()
    rig.put(MCR, 0x10)
    for value in range(17):
        rig.put(DATA, value)  # RX full, overrun
    rig.put(MCR, 0x13)  # CTS and DSR have changed
    rig.put(IER, 0x0F)
    assert rig.uart.pending
    assert rig.get(FCR) == 0xC6
    assert rig.get(LSR) == 0x63
    assert rig.get(FCR) == 0xC4
    for value in range(16):
        assert rig.get(DATA) == value
    assert rig.get(FCR) == 0xC2
    assert rig.get(FCR) == 0xC0  # 02 has ended by being told
    assert rig.get(MSR) == 0x33
    assert rig.get(FCR) == 0xC1
    assert not rig.uart.pending
    assert rig.edges == [True, False]


@pytest.mark.parametrize(("bit", "cause"), [(1, 0x04), (2, 0x02), (4, 0x06), (8, 0x00)])
def test_every_cause_needs_its_enable_bit(rig: UartRig, bit: int, cause: int) -> None:
    rig.put(MCR, 0x13)
    rig.put(DATA, 1)
    rig.put(DATA, 2)
    rig.put(IER, 0x0F & ~bit)
    rig.put(IER, bit)
    assert rig.get(FCR) == cause
    rig.put(IER, 0)
    assert rig.get(FCR) == 0x01
    assert not rig.uart.pending


def test_thr_empty_is_told_when_it_becomes_so_and_when_its_bit_is_set(rig: UartRig) -> None:
    rig.put(IER, 0x02)
    assert rig.get(FCR) == 0x02
    assert rig.get(FCR) == 0x01
    rig.put(IER, 0x02)  # was set: nothing new
    assert rig.get(FCR) == 0x01
    rig.put(DATA, 0x41)
    assert rig.get(FCR) == 0x02
    assert rig.edges == [True, False, True, False]
    rig.budget = 0
    rig.put(DATA, 0x42)
    assert not rig.uart.pending
    rig.put(IER, 0)
    rig.put(IER, 0x02)  # not empty: not told
    assert rig.get(FCR) == 0x01
    rig.budget = None
    rig.uart.writable()
    assert rig.get(FCR) == 0x02
    assert rig.out == b"AB"


def test_writing_thr_ends_the_interrupt(rig: UartRig) -> None:
    rig.put(IER, 0x02)
    assert rig.uart.pending
    rig.budget = 0
    rig.put(DATA, 1)
    assert not rig.uart.pending


@pytest.mark.parametrize("select", range(4))
def test_receiving_is_told_from_the_level_on(rig: UartRig, select: int) -> None:
    level = LEVELS[select]
    rig.fifo(select)
    rig.put(IER, 0x01)
    assert rig.uart.receive(bytes(level - 1)) == level - 1
    assert not rig.uart.pending
    assert rig.uart.receive(b"x") == 1
    assert rig.get(FCR) == 0xC4
    rig.get(DATA)
    assert rig.uart.pending is False
    assert rig.get(LSR) & 0x01 == (level > 1)


# --- character timeout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lcr", "divisor", "bits"),
    [
        (0x03, 1, 10.0),
        (0x03, 12, 10.0),
        (0x00, 1, 7.0),
        (0x04, 1, 7.5),
        (0x07, 1, 11.0),
        (0x1B, 1, 11.0),
        (0x3F, 1, 12.0),
    ],
)
def test_character_time(lcr: int, divisor: int, bits: float) -> None:
    assert character_s(lcr, divisor) == pytest.approx(bits * divisor / 115200)
    assert character_s(lcr, 0) == character_s(lcr, 1)
    assert character_s(0x03, 0xFFFF) < 6


def rx_rig(level: int = 3) -> UartRig:
    rig = UartRig()
    rig.fifo(level)
    rig.put(LCR, 0x03)
    rig.divisor(1)
    rig.put(IER, 0x01)
    return rig


FOUR = 4 * 10 / 115200


def test_after_four_characters_of_silence_less_than_the_level_is_told_too() -> None:
    rig = rx_rig()
    rig.uart.receive(b"ab")
    assert rig.timers.pending == [pytest.approx(FOUR)]
    rig.timers.advance(FOUR * 0.99)
    assert not rig.uart.pending
    rig.timers.advance(FOUR * 0.02)
    assert rig.get(FCR) == 0xCC
    assert rig.get(FCR) == 0xCC  # not ended by being told
    assert rig.get(DATA) == ord("a")
    assert not rig.uart.pending  # a read ends it, and time runs again
    rig.timers.advance(FOUR * 2)
    assert rig.get(FCR) == 0xCC
    assert rig.get(DATA) == ord("b")
    rig.timers.advance(100)
    assert not rig.uart.pending
    assert rig.timers.pending == []


def test_bytes_that_come_put_the_timeout_off_and_reaching_the_level_replaces_it() -> None:
    rig = rx_rig()
    rig.uart.receive(b"ab")
    rig.timers.advance(FOUR * 0.9)
    rig.uart.receive(b"c")
    rig.timers.advance(FOUR * 0.2)
    assert not rig.uart.pending
    rig.timers.advance(FOUR)
    assert rig.get(FCR) == 0xCC
    rig.uart.receive(bytes(11))
    assert rig.get(FCR) == 0xC4


def test_a_timer_that_finds_the_level_reached_says_nothing() -> None:
    rig = rx_rig(1)
    rig.uart.receive(b"a")
    rig.uart.receive(b"bcd")
    assert rig.edges == [True]
    rig.timers.advance(FOUR * 3)
    assert rig.edges == [True]
    rig.get(DATA)
    rig.timers.advance(FOUR * 3)
    assert rig.get(FCR) == 0xCC


def test_no_timeout_without_its_bit_without_fifo_or_with_nobody_there() -> None:
    rig = rx_rig()
    rig.put(IER, 0)
    rig.uart.receive(b"a")
    assert rig.timers.pending == []
    rig.put(IER, 1)
    assert len(rig.timers.pending) == 1
    rig.uart.let_go()
    assert rig.timers.pending == []
    rig.open = False
    rig.uart.receive(b"b")
    assert rig.timers.pending == []
    rig.open = True
    rig.uart.resume()
    rig.timers.advance(FOUR)
    assert rig.get(FCR) == 0xCC
    rig.put(FCR, 0)
    rig.uart.receive(b"c")
    assert rig.get(FCR) == 0x04
    rig.timers.advance(1)
    assert rig.timers.pending == []


def test_clearing_rx_ends_the_timeout() -> None:
    rig = rx_rig()
    rig.uart.receive(b"a")
    rig.timers.advance(FOUR)
    rig.put(FCR, 0xC3)
    assert not rig.uart.pending
    rig.uart.receive(b"b")
    assert not rig.uart.pending
    rig.timers.advance(FOUR)
    assert rig.uart.pending


# --- when exactly the interrupt changes -------------------------------------------------------------------------------


def test_reading_lsr_ends_the_line_status_interrupt_at_once(rig: UartRig) -> None:
    rig.put(MCR, 0x10)
    rig.put(IER, 0x04)
    rig.put(DATA, 1)
    rig.put(DATA, 2)
    assert rig.uart.pending
    rig.get(LSR)
    assert not rig.uart.pending


def test_going_on_tells_that_thr_has_become_empty(rig: UartRig) -> None:
    rig.put(IER, 0x02)
    rig.uart.pause()
    rig.put(DATA, 1)
    assert not rig.uart.pending
    rig.uart.resume()
    assert rig.uart.pending


def test_a_read_puts_the_timeout_off() -> None:
    rig = rx_rig()
    rig.uart.receive(b"ab")
    rig.timers.advance(FOUR * 0.9)
    rig.get(DATA)
    rig.timers.advance(FOUR * 0.2)
    assert not rig.uart.pending
    rig.timers.advance(FOUR)
    assert rig.uart.pending


def test_bytes_of_the_loop_time_out_too() -> None:
    rig = rx_rig()
    rig.put(MCR, 0x10)
    rig.put(DATA, 1)
    rig.timers.advance(FOUR * 0.9)
    rig.put(DATA, 2)
    rig.timers.advance(FOUR * 0.2)
    assert not rig.uart.pending
    rig.timers.advance(FOUR)
    assert rig.get(FCR) == 0xCC


def test_loaded_while_it_runs_it_sends_at_once_and_forgets_its_timer() -> None:
    rig = rx_rig()
    rig.uart.receive(b"ab")
    assert len(rig.timers.pending) == 1
    rig.uart.load(UartState(tx=b"now"))
    assert rig.out == b"now"
    assert rig.timers.pending == []
