"""The 16550A: FIFOs and a line that does not move, the loop and the modem lines, pause, reset, a loaded state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from serial_rig import UartRig

from pvnet.mdev.uart_registers import CONNECTED, UartState

DATA, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)
FOUR = 4 * 10 / 115200


@pytest.fixture
def rig() -> UartRig:
    return UartRig()


# --- FIFOs ------------------------------------------------------------------------------------------------------------


def test_a_full_fifo_is_full_and_asks_the_line_for_more_when_it_is_empty(rig: UartRig) -> None:
    rig.fifo()
    data = bytes(range(100, 120))
    assert rig.uart.receive(data) == 16
    assert rig.uart.receive(data[16:]) == 0
    assert rig.get(LSR) == 0x61  # mtty says "empty" here
    assert [rig.get(DATA) for _ in range(15)] == list(data[:15])
    assert rig.asked == 0
    assert rig.get(DATA) == data[15]
    assert rig.asked == 1
    assert rig.get(LSR) == 0x60
    assert rig.get(DATA) == 0
    assert rig.asked == 1
    assert rig.uart.receive(data[16:]) == 4
    assert [rig.get(DATA) for _ in range(4)] == list(data[16:])
    assert rig.asked == 1


def test_without_fifo_one_byte_fits(rig: UartRig) -> None:
    assert rig.uart.receive(b"xy") == 1
    rig.put(IER, 1)
    assert rig.get(FCR) == 0x04
    assert rig.get(DATA) == ord("x")
    assert rig.asked == 1


def test_fcr_clears_what_it_says(rig: UartRig) -> None:
    rig.fifo()
    rig.budget = 0
    rig.uart.receive(b"rx")
    rig.put(DATA, 1)
    rig.put(FCR, 0x03)
    assert rig.get(LSR) == 0x00
    rig.uart.receive(b"rx")
    rig.put(FCR, 0x05)
    assert rig.get(LSR) == 0x61
    rig.put(IER, 0x02)
    assert rig.get(FCR) == 0xC2
    rig.put(DATA, 2)
    rig.put(FCR, 0x01)  # the same again: nothing
    assert rig.get(LSR) == 0x01
    rig.put(FCR, 0x06)  # without bit 0 the others say nothing, but it has changed
    assert rig.get(LSR) == 0x60
    assert rig.get(FCR) == 0x02
    rig.uart.receive(b"z")
    rig.put(FCR, 0x06)
    assert rig.get(LSR) == 0x61
    rig.fifo()
    assert rig.get(LSR) == 0x60
    assert rig.out == b""


def test_a_line_that_takes_little_leaves_the_rest_in_tx(rig: UartRig) -> None:
    rig.fifo()
    rig.budget = 3
    for value in b"0123456789abcdefXYZ!!!":
        rig.put(DATA, value)
    assert rig.out == b"012"
    assert rig.get(LSR) == 0
    assert rig.uart.lost == 3  # 16 wait
    rig.budget = 10
    rig.uart.writable()
    assert rig.get(LSR) == 0
    rig.budget = None
    rig.uart.writable()
    assert rig.get(LSR) == 0x60
    assert rig.out == b"0123456789abcdefXYZ"


def test_without_fifo_a_byte_too_many_replaces_the_one_that_waits(rig: UartRig) -> None:
    rig.budget = 0
    rig.put(DATA, 1)
    rig.put(DATA, 2)
    assert rig.uart.lost == 1
    rig.budget = None
    rig.uart.writable()
    assert rig.out == b"\x02"


def test_a_line_that_calls_back_while_it_takes(rig: UartRig) -> None:
    rig.fifo()
    rig.budget = 0
    for value in b"hello":
        rig.put(DATA, value)
    plain = rig.transmit

    def transmit(data: bytes) -> int:
        rig.budget = 2
        taken = plain(data)
        if len(rig.out) < 4:
            rig.uart.writable()
        return taken

    rig.transmit = transmit
    rig.uart.writable()
    assert rig.out == b"hell"
    rig.uart.writable()
    assert rig.out == b"hello"
    assert rig.get(LSR) == 0x60


# --- the loop and the modem lines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mcr", "inputs"), [(0x10, 0x00), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1F, 0xF0)]
)
def test_the_loop_wires_outputs_to_inputs(rig: UartRig, mcr: int, inputs: int) -> None:
    rig.put(MCR, mcr)
    assert rig.get(MSR) & 0xF0 == inputs


def test_overrun_in_the_loop(rig: UartRig) -> None:
    rig.put(MCR, 0x10)
    rig.put(DATA, 1)
    rig.put(DATA, 2)
    assert rig.get(LSR) == 0x63
    assert rig.get(LSR) == 0x61
    assert rig.get(DATA) == 2  # the old one is lost
    rig.fifo()
    for value in range(18):
        rig.put(DATA, value)
    assert rig.get(LSR) == 0x63
    assert [rig.get(DATA) for _ in range(17)] == [*range(16), 0]  # the new ones are lost
    assert rig.uart.lost == 3
    assert not rig.out


def test_in_the_loop_the_line_waits_and_tx_comes_back(rig: UartRig) -> None:
    rig.fifo()
    rig.budget = 0
    rig.put(DATA, 7)
    rig.put(MCR, 0x10)
    assert rig.get(LSR) == 0x61
    assert rig.uart.receive(b"x") == 0
    assert rig.get(DATA) == 7
    assert rig.asked == 0
    rig.put(MCR, 0)
    assert rig.asked == 1


def test_changes_of_modem_inputs_are_told_once(rig: UartRig) -> None:
    rig.put(IER, 0x08)
    rig.uart.connected(CONNECTED)
    assert rig.get(FCR) == 0x00
    assert rig.get(MSR) == 0xBB
    assert rig.get(MSR) == 0xB0
    assert rig.get(FCR) == 0x01
    rig.put(MCR, 0x14)
    assert rig.get(MSR) == 0x4B  # RI has come up: only its end counts
    rig.put(MCR, 0x10)
    assert rig.get(MSR) == 0x04
    rig.uart.connected(0)
    rig.put(MCR, 0)
    assert rig.get(MSR) == 0
    assert rig.edges == [True, False] * 3


# --- life -------------------------------------------------------------------------------------------------------------


def test_reset_is_power_on_but_the_line_stays(rig: UartRig) -> None:
    rig.uart.connected(CONNECTED)
    rig.fifo(3)
    rig.put(LCR, 0x03)
    rig.divisor(1)
    rig.put(SCR, 9)
    rig.put(IER, 0x0F)
    rig.budget = 0
    rig.put(DATA, 1)
    rig.uart.receive(bytes(20))
    rig.uart.reset()
    assert rig.uart.state() == UartState(modem=CONNECTED)
    assert not rig.uart.pending
    assert rig.asked == 1
    assert rig.timers.pending == []


def test_paused_it_keeps_everything_and_answers(rig: UartRig) -> None:
    rig.fifo(3)
    rig.put(IER, 0x01)
    rig.uart.receive(b"ab")
    rig.uart.pause()
    assert rig.timers.pending == []
    assert rig.uart.receive(b"c") == 0
    rig.put(DATA, 5)
    rig.uart.writable()
    assert rig.out == b""
    assert rig.get(LSR) == 0x01
    assert (rig.get(DATA), rig.get(DATA)) == (ord("a"), ord("b"))
    assert rig.asked == 0
    rig.uart.resume()
    assert rig.asked == 1
    assert rig.out == b"\x05"
    assert rig.get(LSR) == 0x60


def test_a_loaded_state_goes_on_where_it_was(rig: UartRig) -> None:
    rig.uart.pause()
    state = UartState(
        ier=0x0F, fcr=0x81, lcr=0x03, mcr=0x0B, scr=1, divisor=1, rx=b"abc", tx=b"xyz", overrun=True, modem=0xB0
    )
    rig.uart.load(state)
    assert rig.uart.state() == replace(state, modem=0x0B)
    rig.uart.connected(CONNECTED)
    assert rig.uart.state().modem == 0xBB  # went and came back
    assert rig.get(LSR) == 0x03
    rig.uart.resume()
    assert rig.out == b"xyz"
    assert [rig.get(FCR) for _ in range(2)] == [0xC2, 0xC0]
    rig.get(MSR)
    rig.timers.advance(FOUR)
    assert rig.get(FCR) == 0xCC
    assert [rig.get(DATA) for _ in range(3)] == list(b"abc")
