"""Two partitions, each with a card, whose ports are connected to each other."""

from __future__ import annotations

from guest_runner import GuestRunner, ManualTimers
from hypothesis import given, settings
from hypothesis import strategies as st
from serial_lines import FakeServices

from pvnet.mdev.serial_card import SerialCard
from pvnet.mdev.serial_guest import SERIAL_GUEST


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    wire=st.integers(1, 40),
    lengths=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
)
def test_two_joined_cards_carry_everything_in_order(data: st.DataObject, wire: int, lengths: tuple[int, int]) -> None:
    services = FakeServices(wire)
    timers = ManualTimers()
    runners = [
        GuestRunner(SerialCard("card", 1, {"port0": "port:a"}, services), SERIAL_GUEST, timers=timers) for _ in range(2)
    ]
    for runner in runners:
        runner.probe()
    texts = [bytes((index * 7 + side) & 0xFF for index in range(lengths[side])) for side in range(2)]
    sent = [0, 0]
    got = [b"", b""]
    sizes = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 1500), st.integers(1, 3000)), max_size=30))

    def move(side: int, write: int, read: int) -> None:
        runner = runners[side]
        file = runner.file("ttyS")
        sent[side] += runner.run(file.write(0, texts[side][sent[side] : sent[side] + write]))
        got[side] += runner.run(file.read(0, read))

    for step in sizes:
        move(*step)
    for _ in range(60):
        for side in range(2):
            move(side, 4096, 4096)
        for runner in runners:
            runner.advance(0.001)
    assert got == [texts[1], texts[0]]
