"""Guests that lie, scribble and flood (vbus 11): they hurt themselves, nobody else, and leave nothing behind."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from venet_world import VenetWorld, WorldSignal, join

from pvnet.papr.errno import EEXIST, EINVAL
from pvnet.ring.layout import Descriptor
from pvnet.ring.roles import Pattern, create_ring, ring_bytes, signal_offset
from pvnet.vbus.arena import DEFAULT_BASE
from pvnet.vbus.errors import VbusError
from pvnet.vbus.packet import GsoType, Offload, packet_of
from pvnet.vbus.venet_layout import Capability, VenetFunction, VenetSg
from pvnet.vbus.venet_north import VenetNorthConfig

RING = 8
SMALL = VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, tx_buffers=4, eventq=3)


class Hostile:
    """A guest with rings in its own hands: open, features agreed, both rings registered, link up."""

    def __init__(self, sg=0x2F, l4ro=0, eventq=0, *, pmtd=False):
        self.world = world = VenetWorld("evil", 1 << 19)
        self.sent = []
        world.device.receive = lambda packets: self.sent.extend(packet.tobytes() for packet in packets)
        world.execute(world.open(1))
        for group, bits in ((0, sg), (1, eventq), (2, l4ro)):
            world.connection.call(VenetFunction.NEGCAP, memoryview(bytearray(Capability(group, bits).encode())), 0)
        self.rings, self.signals = {}, {}
        if l4ro:
            self.pool_address = self.region(103, RING * 320)
            self.pages = self.ring(104, Pattern.TX)
        self.rx = self.ring(0, Pattern.RX)
        self.tx = self.ring(1, Pattern.TX)
        if pmtd:
            self.pmtd = self.region(100, RING * 320)
        self.scratch = world.allocator.alloc(4096)

    def region(self, id_, size):
        address = self.world.allocator.alloc(size)
        self.world.register(id_, address, size)
        return address

    def ring(self, id_, pattern):
        size = ring_bytes(RING)
        address = self.world.allocator.alloc(size)
        ring = create_ring(self.world.arena.slice(address, size), RING, pattern, self.world.fence)
        self.signals[id_] = WorldSignal(self.world, ring.signal)
        self.world.register(id_, address, size, self.signals[id_], signal_offset())
        return ring

    def link_up(self):
        self.world.connection.call(VenetFunction.LINKUP, memoryview(bytearray()), 0)
        self.world.run()
        return self

    def push(self, *descriptors):
        """Send these; every one has to come back completed."""
        assert self.tx.push([Descriptor(*descriptor) for descriptor in descriptors]) == len(descriptors)
        self.signals[1].inject()
        self.world.run()
        assert len(self.tx.reclaim(99)) == len(descriptors), "a bad descriptor is completed like any other"

    def describe(self, raw, at=0):
        self.world.arena.write(self.scratch + at, raw)
        return (7, self.scratch + at, len(raw))

    @property
    def counters(self):
        return self.world.device.counters


def sg(total=60, iovs=None, **fields):
    return VenetSg(1, fields.pop("flags", 0), total, iovs or ((total, DEFAULT_BASE),), **fields).encode()


END = DEFAULT_BASE + (1 << 19)


def test_a06_a_descriptor_changed_after_the_check_was_copied_before():
    """While the frame is handed on, the guest rewrites descriptor and ring: length and place stay as judged."""
    evil = Hostile()
    evil.link_up()
    evil.world.arena.write(DEFAULT_BASE, bytes(60))
    description = evil.describe(sg(60))
    seen = []

    def receive(packets):
        evil.world.arena.write(evil.scratch, sg(60, ((60, END - 1),)))
        evil.world.regions[1].view[56:80] = struct.pack("<QQQ", 0, (1 << 64) - 1, (1 << 64) - 1)
        seen.extend((packet.length, [len(frag) for frag in packet.frags]) for packet in packets)
        seen.append(packets[0].tobytes())

    evil.world.device.receive = receive
    evil.push(description)
    assert seen == [(60, [60]), bytes(60)]


def test_a06_a_receive_buffer_changed_after_it_was_taken_is_used_as_taken():
    evil = Hostile()
    evil.rx.provide([Descriptor(index, evil.scratch + 64 * index, 64) for index in range(RING)])
    evil.link_up()
    port = evil.world.device.port
    port.deliver([packet_of(b"\x01" * 60)])  # the host has copies of all eight slots now
    for slot in range(RING):
        evil.world.regions[0].view[56 + 32 * slot + 8 : 56 + 32 * slot + 24] = struct.pack("<QQ", END - 4, 60)
    assert port.deliver([packet_of(b"\x02" * 60)]) == 1
    assert evil.world.arena.read(evil.scratch + 64, 60) == b"\x02" * 60
    assert evil.world.arena.read(END - 64, 64) == bytes(64)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 60),
        (DEFAULT_BASE - 1, 60),
        (END - 59, 60),
        (END, 60),
        ((1 << 64) - 1, 60),
        ((1 << 64) - 30, 60),
        (1 << 63, 60),
    ],
)
@pytest.mark.parametrize("mode", ["flat", "sg", "sg second fragment", "descriptor", "pmtd"])
def test_a08_addresses_outside_the_arena_or_wrapping_are_refused(mode, address, length):
    if mode in {"descriptor", "pmtd"} and address == END - 59:
        address = END - 47
    evil = Hostile(sg=0 if mode == "flat" else 0x2F, pmtd=mode == "pmtd").link_up()
    good = sg(60)
    match mode:
        case "flat":
            bad, fine = (1, address, length), (1, DEFAULT_BASE, 60)
        case "sg":
            bad, fine = evil.describe(sg(60, ((60, address),))), evil.describe(good, 512)
        case "sg second fragment":
            bad = evil.describe(sg(120, ((60, DEFAULT_BASE), (60, address))))
            fine = evil.describe(good, 512)
        case "descriptor":
            bad, fine = (1, address, 48), evil.describe(good, 512)
        case _:
            evil.world.arena.write(evil.pmtd, good)
            bad, fine = (1, address, 48), (1, 0, 48)
    evil.push(bad)
    if mode == "pmtd" and address == 0:
        assert len(evil.sent) == 1
        return
    assert evil.sent == []
    assert evil.counters["bad_address"] == evil.counters["tx_errors"] == 1
    evil.push(fine)
    assert len(evil.sent) == 1, "and the connection lives"


@pytest.mark.parametrize("at", [RING * 320 - 47, RING * 320, (1 << 64) - 48])
def test_a08_an_offset_outside_the_descriptor_pool_is_refused(at):
    evil = Hostile(pmtd=True).link_up()
    evil.push((1, at, 48))
    assert evil.counters["bad_address"] == 1


@pytest.mark.parametrize(("address", "length"), [(0, 64), (END - 63, 64), ((1 << 64) - 1, 64), (DEFAULT_BASE, 1 << 40)])
def test_a08_a_receive_buffer_outside_the_arena_goes_back_empty_and_the_frame_takes_the_next(address, length):
    evil = Hostile()
    buffers = [Descriptor(0, address, length)]
    buffers += [Descriptor(index, evil.scratch + 64 * index, 64) for index in range(1, RING)]
    evil.rx.provide(buffers)
    evil.link_up()
    assert evil.world.device.port.deliver([packet_of(b"\x01" * 60)]) == 1
    assert [(cookie, used) for cookie, _, used in evil.rx.collect(9)] == [(0, 0), (1, 60)]
    assert evil.world.arena.read(evil.scratch + 64, 60) == b"\x01" * 60
    assert evil.counters["bad_rx_buffer"] == 1


def test_a08_event_slots_outside_their_pool_are_not_written():
    evil = Hostile(sg=0)
    evil.world.connection.call(VenetFunction.NEGCAP, memoryview(bytearray(Capability(1, 2).encode())), 0)
    evil.region(101, RING * 24)
    ring = evil.ring(102, Pattern.RX)
    places = [(RING * 24 - 23, 24), ((1 << 64) - 1, 24), (0, 23), (0, 24)] + [(24 * index, 24) for index in range(1, 5)]
    ring.provide([Descriptor(index, *place) for index, place in enumerate(places)])
    evil.link_up()
    evil.push((0x77, DEFAULT_BASE, 60))
    assert [used for _, _, used in ring.collect(9)] == [0, 0, 0, 24]
    assert evil.counters["bad_event_slot"] == 3


@pytest.mark.parametrize("bad", [Descriptor(1, 0, 0), Descriptor(1, 0, 100), Descriptor(1, (1 << 64) - 1, 4096)])
def test_a27_an_empty_page_queue_or_bad_pages_drop_large_frames_only(bad):
    evil = Hostile(l4ro=0x0F)
    tso = Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460)
    slots = [Descriptor(index, 320 * index, 320) for index in range(RING)]
    for index in range(RING):
        evil.world.arena.write(
            evil.pool_address + 320 * index, VenetSg(index, 0, 0, ((64, evil.scratch + 64 * index),)).encode()
        )
    evil.rx.provide(slots)
    evil.link_up()
    port = evil.world.device.port

    def look():
        """Take what came and give the buffers back, as an honest guest does."""
        filled = evil.rx.collect(9)
        evil.rx.refill([slots[slot.cookie] for slot in filled])
        evil.signals[0].inject()
        evil.world.run()
        return [used for _, _, used in filled]

    assert port.deliver([packet_of(bytes(5000), tso), packet_of(b"\x05" * 60)]) == 2
    assert evil.counters["rx_no_pages"] == 1, "nothing is on its way back: it does not wait"
    assert evil.world.arena.read(evil.scratch, 60) == b"\x05" * 60
    assert look() == [48]
    evil.pages.push([bad] * 4)
    assert port.deliver([packet_of(b"\x06" * 60), packet_of(bytes(5000), tso), packet_of(b"\x07" * 60)]) == 3
    assert look() == [48], "the large one waits for the pages that the guest may bring"
    assert evil.counters["rx_no_pages"] == 2, "and no longer when it has brought none"
    assert evil.counters["bad_page"] >= 4
    assert look() == [48]
    evil.pages.push([Descriptor(9, evil.scratch + 1024, 3000)])
    port.deliver([packet_of(bytes(range(200)) * 15, tso)])
    slot = evil.rx.collect(9)
    assert [used for _, _, used in slot] == [64], "a good page behind the bad ones is used"
    assert len(evil.pages.reclaim(9)) == 5
    first = evil.scratch + 64 * slot[0].cookie
    assert evil.world.arena.read(first, 64) + evil.world.arena.read(evil.scratch + 1024, 2936) == (
        bytes(range(200)) * 15
    )


def test_a28_a_region_again_is_eexist_and_after_link_up_einval_and_nothing_is_kept():
    evil = Hostile(pmtd=False)

    def errno_of(id_, size):
        address = evil.world.allocator.alloc(size)
        with pytest.raises(VbusError) as caught:
            evil.world.register(id_, address, size)
        evil.world.allocator.free(address)
        return caught.value.errno

    before = dict(evil.world.connection._regions)
    evil.region(100, RING * 320)
    assert errno_of(100, RING * 320) == EEXIST
    assert errno_of(0, 64) == EEXIST
    evil.link_up()
    assert errno_of(100, RING * 320) == EEXIST
    assert errno_of(101, RING * 24) == EINVAL
    assert evil.world.connection._regions.keys() == before.keys() | {100}
    connection = evil.world.connection
    evil.world.execute(evil.world.close())
    assert not connection._regions
    assert evil.world.device.connection is None


TSO = {"flags": 3, "csum_start": 34, "csum_offset": 16, "gso_hdrlen": 54}


@pytest.mark.parametrize(
    ("raw", "counter"),
    [
        (sg(2000, **TSO, gso_size=0), "bad_gso_size"),
        (sg(2000, **TSO, gso_size=1, gso_type=1), "bad_gso_type"),
        (sg(60, flags=1, csum_start=50, csum_offset=9), "bad_checksum_range"),
        (sg(60, flags=1, csum_start=0xFFFF, csum_offset=0xFFFF), "bad_checksum_range"),
        (sg(60, ((59, DEFAULT_BASE),)), "bad_sum"),
        (sg(60, ((30, DEFAULT_BASE), (31, DEFAULT_BASE))), "bad_sum"),
        (sg(60, ((0xFFFFFFFF, DEFAULT_BASE), (61, DEFAULT_BASE))), "bad_sum"),
        (sg(60, ((60, DEFAULT_BASE), (0, DEFAULT_BASE))), "bad_fragment_length"),
        (sg(1515), "bad_length"),
        (sg(60, flags=8), "bad_flags"),
    ],
)
def test_a31_segmentation_checksums_and_sums_that_cannot_be_are_refused_and_completed(raw, counter):
    evil = Hostile().link_up()
    evil.push(evil.describe(raw))
    assert evil.sent == []
    assert evil.counters[counter] == evil.counters["tx_errors"] == 1


def test_a31_a_pad_in_the_only_fragment_is_refused_like_in_others():
    evil = Hostile().link_up()
    raw = bytearray(sg(60))
    raw[36] = 1
    evil.push(evil.describe(bytes(raw)))
    raw = bytearray(sg(60) + bytes(16))
    raw[36] = 1
    evil.push(evil.describe(bytes(raw)))
    assert evil.counters["bad_pad"] == 2
    evil.push(evil.describe(sg(60) + bytes(16)))
    assert len(evil.sent) == 1, "a longer descriptor of one fragment is fine"


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a33_link_up_without_the_event_queue_that_was_agreed_is_einval(bits):
    evil = Hostile(eventq=bits)
    with pytest.raises(VbusError) as caught:
        evil.link_up()
    assert caught.value.errno == EINVAL
    evil.world.connection.call(VenetFunction.NEGCAP, memoryview(bytearray(Capability(1, 0).encode())), 0)
    evil.link_up()
    assert evil.world.connection.is_up


def test_a33_the_same_for_l4ro_without_its_page_queue():
    evil = Hostile()
    evil.world.connection.call(VenetFunction.NEGCAP, memoryview(bytearray(Capability(2, 1).encode())), 0)
    evil.region(103, 320 * RING)
    with pytest.raises(VbusError):
        evil.link_up()


@pytest.mark.parametrize(
    ("at", "room", "first"),
    [
        (RING * 320 - 47, 48, (64, DEFAULT_BASE)),
        (RING * 320, 320, (64, DEFAULT_BASE)),
        ((1 << 64) - 320, 320, (64, DEFAULT_BASE)),
        (0, 47, (64, DEFAULT_BASE)),
        (0, 321, (64, DEFAULT_BASE)),
        (0, 320, (64, END - 63)),
        (0, 320, (64, 0)),
        (0, 320, (0xFFFFFFFF, DEFAULT_BASE)),
        (0, 320, (0, DEFAULT_BASE)),
        (0, 320, None),
    ],
)
def test_a34_l4ro_descriptors_outside_the_pool_and_buffers_outside_the_arena_are_not_written(at, room, first):
    evil = Hostile(l4ro=0x0F)
    raw = VenetSg(1, 0, 0, (first,)).encode() if first else VenetSg(1, 0, 0, ()).encode()
    evil.world.arena.write(evil.pool_address, raw)
    fine = evil.pool_address + 320
    evil.world.arena.write(fine, VenetSg(2, 0, 0, ((64, evil.scratch),)).encode())
    evil.rx.provide([Descriptor(0, at, room)] + [Descriptor(index, 320, 320) for index in range(1, RING)])
    evil.link_up()
    before = bytes(evil.world.memory)
    evil.world.device.port.deliver([packet_of(b"\x07" * 60)])
    assert [used for _, _, used in evil.rx.collect(9)] == [0, 48]
    assert evil.counters["bad_rx_buffer"] == 1
    allowed = [(evil.scratch, 60), (fine, 48)]
    ring = evil.world.regions[0]
    allowed.append((ring.address, ring.length))
    for offset, (old, new) in enumerate(zip(before, evil.world.memory, strict=True)):
        if old != new:
            place = DEFAULT_BASE + offset
            assert any(start <= place < start + size for start, size in allowed), hex(place)


def test_a34_no_more_than_18_pieces_and_no_more_than_the_descriptor_has_room_for():
    for room, pieces in ((320, 18), (48 + 16 * 3, 4)):
        evil = Hostile(l4ro=0x0F)
        evil.world.arena.write(evil.pool_address, VenetSg(1, 0, 0, ((64, evil.scratch),)).encode())
        guard = b"\xa5" * 320
        evil.world.arena.write(evil.pool_address + room, guard[: RING * 320 - room])
        evil.rx.provide([Descriptor(index, 0, room) for index in range(RING)])
        evil.link_up()
        evil.pages.push([Descriptor(index, evil.scratch + 1024, 64) for index in range(RING)])
        tso = Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460)
        evil.world.device.port.deliver([packet_of(bytes(64 * pieces + 1), tso)])
        assert evil.rx.collect(9) == []
        assert evil.counters["rx_no_pages" if pieces == 18 else "rx_too_long"] == 1
        if pieces < 18:
            evil.world.device.port.deliver([packet_of(bytes(64 * pieces), tso)])
            assert [used for _, _, used in evil.rx.collect(9)] == [room]
        assert evil.world.arena.read(evil.pool_address + room, 320) == guard


@pytest.mark.parametrize("count", [19, 0x10000001, 0x0FFFFFFF, 0xFFFFFFFF])
def test_a35_a_count_that_wraps_when_multiplied_is_refused_before(count):
    evil = Hostile().link_up()
    raw = bytearray(sg(60))
    raw[28:32] = count.to_bytes(4, "little")
    evil.push(evil.describe(bytes(raw)))
    raw = bytearray(sg(60, ((0x80000000, DEFAULT_BASE), (0x80000000, DEFAULT_BASE), (60, DEFAULT_BASE))))
    evil.push(evil.describe(bytes(raw)))
    raw = bytearray(sg(60))
    raw[28:32] = (2).to_bytes(4, "little")
    evil.push(evil.describe(bytes(raw)))
    assert evil.sent == []
    counters = evil.counters
    assert (counters["bad_fragment_count"], counters["bad_sum"], counters["bad_descriptor_size"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("id_", "offset"), [(0, 25), (1, 25), (102, 25), (104, 25)], ids=["receive", "transmit", "events", "pages"]
)
def test_a_broken_ring_ends_its_connection_and_never_the_delivery_of_others(id_, offset):
    world, other = VenetWorld("a", 1 << 21), VenetWorld("b", 1 << 21)
    join(world, other)
    world.up(SMALL)
    other.up(SMALL)
    view = world.regions[id_].view
    for slot in range(8):
        view[56 + 32 * slot + offset] = 0x5A
    tso = Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460)
    other.driver.send([packet_of(bytes(60)), packet_of(bytes(9000), tso)] * 2)
    if id_ == 1:
        world.regions[id_].signal.peer.inject()
    if id_ == 102:
        world.device.set("enabled", "0")
    other.run()
    assert world.faults
    assert world.device.connection is None
    assert world.device.port.deliver([packet_of(bytes(60))]) == 0
    assert other.driver.link
    assert not other.faults
    assert other.device.traffic.tx_packets == 4


def honest(number: int, chance: random.Random) -> bytes:
    body = b"honest" + number.to_bytes(4, "big") + chance.randbytes(chance.randrange(50, 1400))
    return body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("ring_2026", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_scribbling_guest_hurts_nobody(seed, ring_2026):
    """It writes random bytes over every shared word and rings at random, while two others talk over the same host."""
    chance = random.Random(seed)
    config = VenetNorthConfig(
        rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, tx_buffers=4, eventq=3, ring_2026=ring_2026
    )
    first, second, evil = (VenetWorld(name, 1 << 21, allow_2026=True) for name in ("a", "b", "evil"))
    join(first, second)
    evil.queue = first.queue
    noise = []

    def noisy(packets):
        for packet in packets:
            assert packet.length == sum(len(frag) for frag in packet.frags)
            assert all(frag.obj is evil.memory for frag in packet.frags), "only its own memory"
            noise.append(packet.tobytes())
        second.device.port.deliver(packets)

    evil.device.receive = noisy
    first.up(config)
    second.up(config)
    sent = 0
    for _ in range(400):
        if evil.connection is None:
            evil.faults.clear()
            if evil.driver is not None:
                evil.steps(evil.driver.remove(evil))
            evil.up(config)
        shared = list(evil.regions.values())
        for _ in range(chance.randrange(1, 20)):
            if chance.random() < 0.5:
                evil.driver.send([packet_of(chance.randbytes(chance.randrange(14, 1500)))])
            region = chance.choice(shared)
            at = chance.randrange(region.length)
            match chance.randrange(4):
                case 0:
                    region.view[at] = chance.randrange(256)
                case 1:
                    slot = (256 if ring_2026 else 56) + 32 * chance.randrange(8) if region.signal else 0
                    at = min(slot + chance.choice([0, 8, 16, 24, 25]), region.length - 1)
                    region.view[at] = chance.choice([0, 1, 1, 255, chance.randrange(256)])
                case 2:
                    size = min(chance.randrange(1, 64), region.length - at)
                    region.view[at : at + size] = chance.randbytes(size)
                case _:
                    if region.signal is not None:
                        evil.soon(region.signal.rung)
        frames = [honest(sent + extra, chance) for extra in range(chance.randrange(4))]
        taken = first.driver.send([packet_of(frame) for frame in frames])
        sent += taken
        evil.device.port.deliver([packet_of(chance.randbytes(chance.randrange(14, 1500))) for _ in range(3)])
        first.run()
    assert evil.device.counters["faults"] or evil.device.counters["tx_errors"]
    numbers = []
    for frame in second.received:
        if not frame.startswith(b"honest"):
            assert frame in noise
            continue
        assert zlib.crc32(frame[:-4]) == int.from_bytes(frame[-4:], "big")
        numbers.append(int.from_bytes(frame[6:10], "big"))
    assert numbers == sorted(set(numbers))
    assert len(numbers) == sent - first.device.counters["lost"]
    assert not first.faults
    assert not second.faults
    assert first.driver.link
    assert second.driver.link
