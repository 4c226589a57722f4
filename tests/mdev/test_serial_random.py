"""The 16550A against a naive one, and migrations at any moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from guest_runner import GuestRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from serial_lines import FakeServices, hand
from serial_rig import UartRig

from pvnet.mdev.serial_card import SerialCard
from pvnet.mdev.serial_guest import SERIAL_GUEST

DATA, IER, FCR, LCR, MCR, LSR, MSR, SCR = range(8)


@dataclass
class Naive:
    """A 16550A written down from the data sheet, each read computed from scratch; no time, no refusals to remember."""

    line_room: int = 0
    inputs: int = 0
    registers: dict[int, int] = field(default_factory=lambda: dict.fromkeys((IER, FCR, LCR, MCR, SCR), 0))
    divisor: list[int] = field(default_factory=lambda: [12, 0])
    rx: list[int] = field(default_factory=list)
    tx: list[int] = field(default_factory=list)
    out: list[int] = field(default_factory=list)
    overrun: bool = False
    thr_interrupt: bool = False
    timeout: bool = False
    modem: int = 0
    deltas: int = 0

    @property
    def fifos(self) -> bool:
        return bool(self.registers[FCR] & 1)

    @property
    def depth(self) -> int:
        return 16 if self.fifos else 1

    @property
    def level(self) -> int:
        return {0: 1, 1: 4, 2: 8, 3: 14}[self.registers[FCR] >> 6] if self.fifos else 1

    @property
    def loop(self) -> bool:
        return bool(self.registers[MCR] & 0x10)

    def iir(self) -> int:
        enabled = self.registers[IER]
        received = 0x04 if len(self.rx) >= self.level else 0x0C
        table = (
            (4, self.overrun, 0x06),
            (1, bool(self.rx) and (received == 0x04 or self.timeout), received),
            (2, self.thr_interrupt, 0x02),
            (8, bool(self.deltas), 0x00),
        )
        return next((code for bit, active, code in table if enabled & bit and active), 0x01)

    def read(self, register: int) -> int:
        dlab = self.registers[LCR] & 0x80
        if dlab and register in (DATA, IER):
            return self.divisor[register]
        if register == DATA:
            self.timeout = self.timeout and not self.rx
            return self.rx.pop(0) if self.rx else 0
        if register == FCR:
            found = self.iir()
            if found == 0x02:
                self.thr_interrupt = False
            return found + (0xC0 if self.fifos else 0)
        if register == LSR:
            found = 0x60 * (not self.tx) + 2 * self.overrun + bool(self.rx)
            self.overrun = False
            return found
        if register == MSR:
            found = self.modem + self.deltas
            self.deltas = 0
            return found
        return self.registers[register]

    def write(self, register: int, value: int) -> None:
        if register in (DATA, IER) and self.registers[LCR] & 0x80:
            self.divisor[register] = value
        elif register == DATA:
            if len(self.tx) == self.depth:
                if self.fifos:
                    return
                self.tx.pop()
            self.thr_interrupt = False
            self.tx.append(value)
            self.send()
        elif register == IER:
            rising = value & ~self.registers[IER] & 2
            self.registers[IER] = value & 0x0F
            self.thr_interrupt = self.thr_interrupt or bool(rising and not self.tx)
        elif register == FCR:
            self.control(value)
        elif register == MCR:
            self.registers[MCR] = value & 0x1F
            self.sense()
            self.send()
        elif register in (LCR, SCR):
            self.registers[register] = value

    def control(self, value: int) -> None:
        changed = (value & 1) != (self.registers[FCR] & 1)
        if not value & 1:
            value = 0
        if changed or value & 2:
            self.rx, self.timeout = [], False
        if self.tx and (changed or value & 4):
            self.tx, self.thr_interrupt = [], True
        self.registers[FCR] = value & 0xC1

    def send(self) -> None:
        while self.tx and (self.loop or self.line_room):
            value = self.tx.pop(0)
            if not self.loop:
                self.out.append(value)
                self.line_room -= 1
            elif len(self.rx) < self.depth:
                self.rx.append(value)
            else:
                self.overrun = True
                if not self.fifos:
                    self.rx = [value]
            self.thr_interrupt = self.thr_interrupt or not self.tx

    def receive(self, data: bytes) -> int:
        room = 0 if self.loop else self.depth - len(self.rx)
        self.rx += data[:room]
        return min(room, len(data))

    def sense(self) -> None:
        mcr = self.registers[MCR]
        now = self.inputs
        if self.loop:
            now = (mcr & 1) << 5 | (mcr & 2) << 3 | (mcr & 4) << 4 | (mcr & 8) << 4
        for bit in (0x10, 0x20, 0x80):
            self.deltas |= ((now ^ self.modem) & bit) >> 4
        self.deltas |= (self.modem & ~now & 0x40) >> 4
        self.modem = now


class UartAgainstNaive(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = UartRig()
        self.rig.budget = 0
        self.naive = Naive()

    @rule(register=st.integers(0, 7))
    def read(self, register: int) -> None:
        assert self.rig.get(register) == self.naive.read(register)

    @rule(count=st.integers(1, 17))
    def read_data(self, count: int) -> None:
        for _ in range(count):
            self.read(DATA)

    @rule(register=st.sampled_from([IER, FCR, LCR, MCR, LSR, MSR, SCR]), value=st.integers(0, 255))
    def write(self, register: int, value: int) -> None:
        self.rig.put(register, value)
        self.naive.write(register, value)

    @rule(level=st.integers(0, 3), enable=st.integers(0, 15))
    def usual(self, level: int, enable: int) -> None:
        for register, value in ((LCR, 3), (MCR, 0x0B), (FCR, 1 | level << 6), (IER, enable)):
            self.write(register, value)

    @rule(data=st.binary(min_size=1, max_size=18))
    def transmit(self, data: bytes) -> None:
        for value in data:
            self.write(DATA, value)

    @rule(data=st.binary(min_size=1, max_size=20))
    def receive(self, data: bytes) -> None:
        assert self.rig.uart.receive(data) == self.naive.receive(data)

    @rule(room=st.integers(1, 20))
    def make_room(self, room: int) -> None:
        self.rig.budget = (self.rig.budget or 0) + room
        self.naive.line_room += room
        self.rig.uart.writable()
        self.naive.send()

    @rule(inputs=st.sampled_from([0, 0xB0, 0xF0]))
    def modem(self, inputs: int) -> None:
        self.rig.uart.connected(inputs)
        self.naive.inputs = inputs
        self.naive.sense()
        self.naive.send()

    @precondition(lambda self: self.naive.registers[IER] & 1)
    @rule()
    def silence(self) -> None:
        self.rig.timers.advance(1000)
        self.naive.timeout = self.naive.timeout or 0 < len(self.naive.rx) < self.naive.level

    @rule()
    def migrate(self) -> None:
        old, state = self.rig, self.rig.uart.state()
        self.rig = UartRig()
        self.rig.budget = 0
        self.rig.uart.connected(self.naive.inputs)
        self.rig.uart.pause()
        self.rig.uart.load(state)
        assert self.rig.uart.state() == state
        self.rig.budget, self.rig.out = old.budget, old.out
        self.rig.uart.resume()

    @invariant()
    def same(self) -> None:
        assert self.rig.uart.cause() == self.naive.iir()
        assert self.rig.uart.pending == (self.naive.iir() != 1)
        assert list(self.rig.out) == self.naive.out
        assert self.rig.budget == self.naive.line_room


TestUartAgainstNaive = UartAgainstNaive.TestCase
TestUartAgainstNaive.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


@settings(deadline=None, max_examples=25)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["write", "read", "push", "allow", "wait"]), st.integers(1, 300)), max_size=40
    ),
    moments=st.dictionaries(st.integers(0, 40), st.booleans(), min_size=1, max_size=6),
    piece=st.integers(1, 400),
)
def test_migrations_lose_nothing(moves: list[tuple[str, int]], moments: dict[int, bool], piece: int) -> None:
    """The driver stays, the card under it is replaced, or not after all; the far end of the line is moved by hand."""
    services = FakeServices()

    def make() -> SerialCard:
        return SerialCard("card", 1, {"port0": "hand:"}, services)

    runner = GuestRunner(make(), SERIAL_GUEST)
    runner.probe()
    line = hand(services.lines[-1])
    line.room = 20
    file = runner.file("ttyS")
    outward = bytes(index * 3 & 0xFF for index in range(20000))
    inward = bytes(index * 5 & 0xFF for index in range(20000))
    sent = pushed = 0
    got = b""
    for number, (move, count) in enumerate([*moves, ("wait", 1)]):
        if moments.get(number) is False:
            fail_to_migrate(runner, make())
        if moments.get(number) or number == len(moves):
            old, line = runner.device, migrate(runner, make(), piece, services)
            assert old is not runner.device
        if move == "write":
            sent += runner.run(file.write(0, outward[sent : sent + count]))
        elif move == "read":
            got += runner.run(file.read(0, count))
        elif move == "push":
            line.push(inward[pushed : pushed + count])
            pushed += count
        elif move == "allow":
            line.allow((line.room or 0) + count)
        else:
            runner.advance(0.001)
        runner.serve()
    line.allow(None)
    runner.serve()
    while more := runner.run(file.read(0, 4096)) or (runner.advance(0.01) or runner.run(file.read(0, 4096))):
        got += more
    assert line.out == outward[:sent]
    assert got == inward[:pushed]


def fail_to_migrate(runner: GuestRunner, target: SerialCard) -> None:
    """The whole stream arrives, and then the card goes on where it is."""
    source = runner.device
    assert isinstance(source, SerialCard)
    source.migration.save_begin()
    source.stop()
    target.stop()
    target.migration.restore_begin()
    while part := source.migration.save(1000):
        target.migration.restore(part)
    target.migration.restore_end()
    target.remove()
    source.start()


def migrate(runner: GuestRunner, target: SerialCard, piece: int, services: FakeServices):
    """Replace the card; irqs and timers as a new host has them."""
    source = runner.device
    assert isinstance(source, SerialCard)
    old, new = hand(source.ports[0]._line), hand(target.ports[0]._line)
    source.migration.save_begin()
    target.stop()
    target.migration.restore_begin()
    while part := source.migration.precopy(piece):
        target.migration.restore(part)
    source.stop()
    while part := source.migration.save(piece):
        target.migration.restore(part)
    target.migration.restore_end()
    source.close()
    source.remove()
    new.out[:0] = old.out
    assert not old.kept
    assert not old.brought
    new.room = old.room
    host = type(runner.host)(target, runner.memory, runner.host.iova, runner.timers)
    target.open(host)
    runner.host.close()
    runner.device, runner.host = target, host
    host.enable(0)
    target.start()
    new.resume()
    runner.serve()
    return new
