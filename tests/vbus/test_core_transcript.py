"""The full transcript of the specification, byte for byte, and its variants (vbus 13)."""

from __future__ import annotations

import pytest
from vbus_core_rig import BASE, ToyDriver, World, words

from pvnet.core.machine import Tick
from pvnet.vbus.arena import ArenaAllocator
from pvnet.vbus.bridge_io import BridgeCall, BridgeResult, ClientGone, DeviceAdded, Doorbell, Interrupt, SignalClosed
from pvnet.vbus.north_driver import ProxyDevice, Steps
from pvnet.vbus.north_io import BridgePlaces, DeviceBound, DeviceUnbound, HostGone, Start, VbusNorthConfig

RX, TX, FRAME = 0x10500, 0x10600, 0x10C00
SIGNALLED = "e42ffa47 04000000 df39fa58 01000000 "


class Driver(ToyDriver):
    """The toy's driver at the addresses of the transcript; it leaves DEVCLOSE to the bridge."""

    def places(self, device: ProxyDevice) -> tuple[int, int, int]:
        return RX, TX, 0x10800

    def remove(self, device: ProxyDevice) -> Steps:
        self.removes += 1
        yield from ()


@pytest.fixture
def world() -> World:
    config = VbusNorthConfig(events=4, ask_2026=False, first_signal=5)
    places = BridgePlaces(((0x10000, 0x10100),), 0x10400, 0x10420)
    return World(driver=Driver(), north=config, places=places, allocator=ArenaAllocator(BASE + 0x4000, 0x1000))


class Script:
    """Runs the transcript one register access at a time."""

    def __init__(self, world: World) -> None:
        self.world = world

    def at(self, address: int, expected: str) -> None:
        data = words(expected)
        assert self.world.arena.read(address, len(data)).hex(" ", 4) == data.hex(" ", 4)

    def call(self, outputs: list[object], bar0: str, *memory: tuple[int, str]) -> None:
        (call,) = [output for output in outputs if isinstance(output, BridgeCall)]
        assert call.call == words(bar0)
        for address, expected in memory:
            self.at(address, expected)

    def execute(self, result: int) -> list[object]:
        """South executes the call that waits; north does not hear of it yet."""
        outputs = self.world.feed_south(self.world.to_south.popleft())
        assert [o.result for o in outputs if isinstance(o, BridgeResult)] == [result]
        return outputs

    def north(self) -> list[object]:
        return self.world.feed_north(self.world.to_north.popleft())

    def t1_to_t7(self) -> None:
        outputs = self.world.feed_north(Start())
        self.call(
            outputs,
            "00000000 10000000 20040100 00000000",
            (0x10420, "f5ee53bf 01000000 00000000 00000000"),
        )
        self.execute(0)
        outputs = self.north()  # T2
        self.call(
            outputs,
            "01000000 20000000 20040100 00000000",
            (
                0x10000,
                SIGNALLED + "01000000 00000000 00000000 00000000 01000000 00000000 00000000 00000000 04000000 00000000",
            ),
            (0x10038, "00000000 00000000 00010100 00000000 90000000 00000000 01010000 00000000"),
            (0x10058, "01000000 00000000 90010100 00000000 90000000 00000000 01010000 00000000"),
            (0x10078, "02000000 00000000 20020100 00000000 90000000 00000000 01010000 00000000"),
            (0x10098, "03000000 00000000 b0020100 00000000 90000000 00000000 01010000 00000000"),
            (0x10420, "01000000 00000000 04000000 00000000 00000100 00000000 00010100 00000000"),
        )
        assert Interrupt(0) in self.execute(0)  # T3
        self.at(0x10100, "00000000 00000000 00000000 00000000 76697274 75616c2d 65746865 726e6574" + "00" * 112)
        self.at(
            0x10000,
            SIGNALLED + "01010100 00000000 00000000 00000000 01000000 00000000 01000000 00000000 04000000 00000000",
        )
        self.at(0x10038, "00000000 00000000 00010100 00000000 90000000 00000000 01000000 00000000")
        self.north()  # result of QREG
        outputs = self.north()  # the interrupt
        self.at(
            0x10000,
            SIGNALLED + "01000000 00010000 00000000 00000000 01000000 01000000 01000000 00000000 04000000 00000000",
        )
        self.at(0x10100, "00" * 144)
        self.call(  # T4
            outputs,
            "02000000 10000000 00040100 00000000",
            (0x10420, "00000000 01000000 00000000 00000000"),
            (0x10400, "00000000 10000000 20040100 00000000"),
        )
        self.execute(0)
        self.at(0x10420, "00000000 01000000 01000000 02000000")
        outputs = self.north()  # T5
        self.call(
            outputs,
            "02000000 10000000 00040100 00000000",
            (
                RX,
                SIGNALLED + "00000000 00000000 00000000 00000000 01000000 00000000 00000000 00000000 04000000 00000000",
            ),
            (RX + 56, "01000000 00000000 00080100 00000000 00010000 00000000 01010000 00000000"),
            (
                0x10420,
                "01000000 02000000 00000000 b8000000 00000000 00000000",
            ),
            (
                0x10438,
                "08000000 00000000 05000000 01000000 00050100 00000000",
            ),
            (0x10400, "03000000 30000000 20040100 00000000"),
        )
        self.execute(1)
        outputs = self.north()  # T6
        self.at(RX + 16, "01000000")
        self.call(
            outputs,
            "02000000 10000000 00040100 00000000",
            (
                0x10420,
                "01000000 02000000 01000000 b8000000 00000000 00000000",
            ),
            (
                0x10438,
                "08000000 00000000 06000000 01000000 00060100 00000000",
            ),
        )
        self.execute(2)
        self.at(TX + 16, "00000001 00000000")
        outputs = self.north()  # T7
        self.call(
            outputs,
            "02000000 10000000 00040100 00000000",
            (0x10420, "01000000 02000000 00000000 00000000 00000000 00000000 00000000 00000000"),
            (0x10400, "02000000 20000000 20040100 00000000"),
        )
        self.execute(0)
        assert DeviceBound(0, "virtual-ethernet") in self.north()

    def t8_to_t12(self) -> None:
        world, driver = self.world, self.world.driver
        world.arena.write(FRAME, bytes(range(60)))
        assert driver.send(0x77, FRAME, 60)  # T8
        self.at(TX + 56, "77000000 00000000 000c0100 00000000 3c000000 00000000 01010000 00000000")
        self.at(
            TX, SIGNALLED + "00000001 01010000 00000000 01000000 00000000 00000000 01000000 00000000 04000000 00000000"
        )
        assert world.wanted == {"north"}
        assert Doorbell(8, 2, 0x0000000100000006) in world.feed_north(Tick())
        world.feed_south(world.to_south.popleft())  # T9
        self.at(TX + 56, "77000000 00000000 000c0100 00000000 3c000000 00000000 01000000 00000000")
        self.at(
            TX, SIGNALLED + "00000001 00000000 00000000 01000000 00000000 01000000 01000000 00000000 04000000 00000000"
        )
        assert world.toy.sent == [bytes(range(60))]
        assert driver.tx is not None
        assert [done.cookie for done in driver.tx.reclaim(4)] == [0x77]  # T10
        self.at(TX + 56, "77000000 00000000 000c0100 00000000 3c000000 00000000 00000000 00000000")
        self.at(
            TX, SIGNALLED + "00000001 00000000 01000000 01000000 00000000 01000000 01000000 00000000 04000000 00000000"
        )
        world.toy.connection.send(b"x" * 60)  # T11
        assert world.wanted == {"south"}
        assert world.feed_south(Tick()) == [Interrupt(0)]
        self.at(RX + 56, "01000000 00000000 00080100 00000000 3c000000 00000000 01000000 00000000")
        self.at(
            RX, SIGNALLED + "01010100 00000000 00000000 00000000 01000000 00000000 01000000 00000000 04000000 00000000"
        )
        self.at(0x10190, "02000000 00000000 05000000 01000000")
        self.at(
            0x10000,
            SIGNALLED + "01010100 00010000 00000000 00000000 01000000 01000000 02000000 00000000 04000000 00000000",
        )
        self.north()  # T12
        assert driver.frames == [b"x" * 60]
        self.at(RX + 56, "01000000 00000000 00080100 00000000 00010000 00000000 01010000 00000000")
        self.at(
            RX, SIGNALLED + "01000000 00000000 00000000 00000000 01000000 01000000 01000000 00000000 04000000 00000000"
        )
        self.at(
            0x10000,
            SIGNALLED + "01000000 00010000 00000000 00000000 01000000 02000000 02000000 00000000 04000000 00000000",
        )

    def closes(self, head: str = "03000000") -> None:
        """What T15 leaves in the ring, before north has looked."""
        self.at(0x102B0, "03000000 00000000 05000000 01000000")
        self.at(0x10100, "03000000 00000000 06000000 01000000")
        self.at(
            0x10000,
            SIGNALLED + f"01010100 00010000 00000000 00000000 01000000 {head} 01000000 00000000 04000000 00000000",
        )

    def popped(self) -> None:
        """What T15 leaves after north has looked."""
        self.at(
            0x10000,
            SIGNALLED + "01000000 00010000 00000000 00000000 01000000 01000000 01000000 00000000 04000000 00000000",
        )
        for slot in range(4):
            self.at(0x10038 + 32 * slot + 24, "01010000")
            self.at(0x10100 + 144 * slot, "00" * 144)


@pytest.fixture
def script(world: World) -> Script:
    return Script(world)


def test_the_transcript_is_replayed_byte_for_byte(script: Script) -> None:
    world = script.world
    script.t1_to_t7()
    script.t8_to_t12()
    world.registry.detach("toy0")  # T13
    assert world.feed_south(Tick()) == [Interrupt(0)]
    script.at(0x10220, "01000000 00000000 00000000 00000000")
    outputs = script.north()
    script.at(0x10010, "01000000 00010000 00000000 00000000 01000000 03000000 03000000 00000000")
    script.call(  # T14
        outputs,
        "02000000 10000000 00040100 00000000",
        (0x10420, "01000000 02000000"),
        (0x10400, "01000000 08000000 20040100 00000000"),
    )
    assert script.execute(0) == [
        SignalClosed(0x0000000100000005),
        SignalClosed(0x0000000100000006),
        BridgeResult(7, 0),
        Interrupt(0),  # T15: one for both
    ]
    script.closes()
    outputs = script.north()
    assert DeviceUnbound(0, "virtual-ethernet") in outputs
    assert len(world.north.signals) == 2  # the host holds both until SHMCLOSE
    script.north()
    script.popped()
    assert len(world.north.signals) == 0
    assert world.south.signals.alive == 0
    assert not world.to_north
    assert not world.to_south
    assert world.north.counters["lost_wakeup_rescues"] == world.south.counters["lost_wakeup_rescues"] == 0


def test_a_forced_removal_says_shmclose_before_devclose(script: Script) -> None:
    world = script.world
    script.t1_to_t7()
    script.t8_to_t12()
    world.registry.detach("toy0", force=True)
    outputs = world.feed_south(Tick())
    assert [output for output in outputs if isinstance(output, Interrupt)] == [Interrupt(0)]
    script.at(0x10220, "01000000 00000000 00000000 00000000")
    script.closes(head="02000000")  # north has not popped DEVDROP yet
    script.call(
        script.north(),
        "02000000 10000000 00040100 00000000",
        (0x10420, "01000000 02000000"),
    )
    script.popped()
    assert script.execute(0) == [BridgeResult(7, 0)]  # no further event
    assert DeviceUnbound(0, "virtual-ethernet") in script.north()
    assert len(world.north.signals) == world.south.signals.alive == 0
    assert world.south.calls.opened == []


def test_when_north_dies_its_events_die_with_it(script: Script) -> None:
    world = script.world
    script.t1_to_t7()
    connection = world.toy.connection
    before = bytes(world.memory)
    outputs = world.feed_south(ClientGone())
    assert not [output for output in outputs if isinstance(output, Interrupt)]
    assert (connection.closed, connection.released) == (1, 1)
    assert world.south.signals.alive == world.south.queues.backlog == 0
    assert bytes(world.memory) == before
    assert world.feed_south(BridgeCall(9, bytes(16))) == [BridgeResult(9, -5)]
    assert world.feed_south(Doorbell(8, 2)) == []


def test_when_the_host_dies_everything_is_removed_and_comes_back_by_start(script: Script) -> None:
    world = script.world
    script.t1_to_t7()
    outputs = world.feed_north(HostGone())
    assert DeviceUnbound(0, "virtual-ethernet") in outputs
    assert len(world.north.signals) == 0
    assert world.driver.removes == 1
    world.feed_north(Start())
    world.settle()
    assert world.driver.probes == 2
    assert world.said.count(DeviceBound(0, "virtual-ethernet")) == 2


def test_stale_dirty_makes_one_wakeup_that_does_no_harm(script: Script) -> None:
    world = script.world
    script.t1_to_t7()
    script.at(0x10010, "01000000 00010000")  # irq1.dirty is 1 from the first pass
    for number in range(1, 6):
        world.feed_south(DeviceAdded(number, "other"))
    script.at(0x10010, "01010101 00000000")  # enabled; the stale byte was seen and cleared, nothing more
    assert world.south.queues.backlog == 1
    assert not world.south.queues.busy


def test_a_full_event_queue_asks_north_to_ring_and_flushes_then(script: Script) -> None:
    world = script.world
    script.t1_to_t7()
    for number in range(1, 6):  # north sleeps
        world.feed_south(DeviceAdded(number, "other"))
    assert list(world.to_north) == [Interrupt(0)]
    script.at(0x10013, "01")  # irq1.enabled
    assert world.south.counters["backpressure"] == 1
    outputs = script.north()
    assert [output for output in outputs if isinstance(output, Doorbell)] == [Doorbell(0, 0)]
    script.at(0x10014, "01")  # irq1.pending
    assert world.feed_south(world.to_south.popleft()) == [Interrupt(0)]
    script.at(0x10013, "00")
    assert world.south.queues.backlog == 0
    world.settle()
    assert world.north.counters["no_driver"] == 5
