"""Frames through a venet, both ways: intact, in order, exactly once, whatever was negotiated (vbus 8.4 to 8.8)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from venet_world import VenetWorld, join

from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Offload, Packet, packet_of
from pvnet.vbus.venet_north import VenetNorthConfig

MTU = 1500
TSO4 = Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460)
TSO6 = Offload(True, 54, 16, GsoType.TCPV6, True, 74, 1440)
CSUM = Offload(True, 34, 16)


def small(**changes) -> VenetNorthConfig:
    """Small rings: everything wraps and runs out often."""
    values = {
        "rx_ring": 8,
        "tx_ring": 8,
        "event_ring": 4,
        "pages": 8,
        "page_bytes": 16384,
        "tx_buffers": 6,
        "eventq": 3,
    } | changes
    return VenetNorthConfig(**values)


def pair(config, other=None, size=1 << 21, **attributes):
    first, second = VenetWorld("a", size, **attributes), VenetWorld("b", size, **attributes)
    first.allow_2026 = second.allow_2026 = True
    join(first, second)
    first.up(config)
    second.up(other or config)
    return first, second


def frame(number: int, length: int) -> bytes:
    """Contents that say which frame it is, all over."""
    return (number.to_bytes(4, "big") * (length // 4 + 1))[:length]


def scattered(data: bytes, cuts: list[int]) -> tuple[memoryview, ...]:
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return tuple(memoryview(data)[start:end] for start, end in itertools.pairwise(edges))


def send_all(world: VenetWorld, packets: list[Packet]) -> None:
    """Send however little fits at a time; everything is due in between."""
    rest = list(packets)
    for _ in range(10_000):
        rest = rest[world.driver.send(rest) :]
        world.run()
        if not rest:
            return
    raise AssertionError("the sender got stuck")


@pytest.mark.parametrize(
    ("sg", "eventq", "l4ro", "ring_2026", "fragment"),
    [
        (sg, eventq, l4ro, ring_2026, fragment)
        for sg in (0, 1, 0x0F, 0x2F, 0x21)
        for eventq in (0, 1, 2, 3)
        for l4ro in (0, 1, 0x0F)
        for ring_2026, fragment in ((False, 0), (True, 700))
    ],
)
def test_frames_arrive_intact_in_order_and_once_with_every_set_of_features(sg, eventq, l4ro, ring_2026, fragment):
    config = small(
        sg=sg, eventq=eventq, l4ro=l4ro, ring_2026=ring_2026, tx_fragment_bytes=fragment, tx_buffers=0, pages=16
    )
    if ring_2026:
        assert config.variant(VenetWorld(allow_2026=True)).value == "ioq-2026"
    first, second = pair(config)
    large = sg & 6 and l4ro & 6
    there = [frame(number, 60 + number * 37 % 1400) for number in range(30)]
    offloads = [CSUM if sg & 1 and l4ro & 1 and number % 3 == 0 else NO_OFFLOAD for number in range(30)]
    if large:
        there += [frame(100 + number, 20_000 + 9_000 * number) for number in range(5)]
        offloads += [TSO4] * 5
    back = [frame(1000 + number, 1514 - number) for number in range(20)]
    send_all(first, [packet_of(data, offload) for data, offload in zip(there, offloads, strict=True)])
    send_all(second, [packet_of(data) for data in back])
    assert second.received == there
    assert second.offloads == offloads
    assert first.received == back
    for world in (first, second):
        assert world.device.counters["lost"] == 0
        assert not world.broken
        world.driver.send([packet_of(bytes(60))])  # reaps
        world.run()
        world.down()
        assert world.allocator.used == 0
        assert world.device.connection is None


@settings(max_examples=60, deadline=None)
@given(
    sg=st.sampled_from([0, 1, 0x27, 0x2F]),
    l4ro=st.sampled_from([0, 0x0F]),
    eventq=st.sampled_from([0, 3]),
    rx_bytes=st.sampled_from([0, 64, 2048]),
    page_bytes=st.sampled_from([1000, 4096]),
    pages=st.sampled_from([18, 40, 256]),
    fragment=st.sampled_from([0, 64, 1000]),
    sizes=st.lists(
        st.tuples(st.integers(60, 1514), st.booleans(), st.lists(st.integers(1, 60000), max_size=4)), max_size=40
    ),
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=10),
)
def test_random_frames_of_random_sizes_in_random_groups(
    sg, l4ro, eventq, rx_bytes, page_bytes, pages, fragment, sizes, groups
):
    """Nothing runs while a group is sent, everything between groups; a frame may need nearly all pages."""
    if not l4ro and rx_bytes == 64:
        rx_bytes = 0
    config = small(
        sg=sg, l4ro=l4ro, eventq=eventq, rx_bytes=rx_bytes, page_bytes=page_bytes, tx_fragment_bytes=fragment,
        pages=pages, tx_buffers=0,
    )  # fmt: skip
    first, second = pair(config)
    packets, expected = [], []
    for number, (size, is_large, cuts) in enumerate(sizes):
        length, offload = size, NO_OFFLOAD
        if is_large and sg & 2 and l4ro:
            length, offload = min(size * 10, 18 * page_bytes // 2), TSO4
        data = frame(number, length)
        expected.append(data)
        packets.append(Packet(scattered(data, cuts), length, offload))
    rest = packets
    for group in itertools.cycle(groups):
        if not rest:
            break
        rest = rest[first.driver.send(rest[:group]) :]
        first.run()
    first.run()
    assert second.received == expected
    assert second.offloads == [packet.offload for packet in packets]


def test_segmentation_of_both_kinds_and_ecn_survive():
    first, second = pair(small(tx_buffers=0))
    data = frame(7, 30_000)
    send_all(first, [packet_of(data, TSO4), packet_of(data, TSO6), packet_of(data[:80], CSUM)])
    assert second.offloads == [TSO4, TSO6, CSUM]
    assert first.driver.accepts == second.driver.receives == second.device.port.accepts == 0x0F


def test_a_tap_reads_straight_into_buffers_and_leaves_some_out():
    first, second = pair(small(eventq=0))
    buffers = first.driver.tx_buffers(4)
    assert len(buffers) == 4
    for number, buffer in enumerate(buffers):
        assert len(buffer) >= 65536
        buffer[:60] = frame(number, 60)
    first.driver.commit([(1, 60, NO_OFFLOAD), (3, 60, NO_OFFLOAD)])
    first.run()
    assert second.received == [frame(1, 60), frame(3, 60)]
    assert first.driver.tx_outstanding == 2
    first.driver.tx_buffers(6)
    assert first.driver.tx_outstanding == 0


def test_buffers_run_out_and_come_back_with_a_word():
    for eventq in (0, 3):
        first, _ = pair(small(eventq=eventq))
        heard = []
        first.driver.on_writable = lambda heard=heard: heard.append(1)
        assert first.driver.send([packet_of(bytes(60))] * 10) == 6
        assert not heard
        first.run()
        assert heard == [1]
        assert len(first.driver.tx_buffers(6)) == 6
        first.run()
        assert heard == [1], "said once"
        assert first.driver.counters["tx_stops"] == 1
        if not eventq:
            bells = first.regions[1].signal.bells
            for _ in range(5):
                first.driver.send([packet_of(bytes(60))])
                first.run()
            assert first.regions[1].signal.bells == bells, "nobody waits: no bells for completions"


def test_a_frame_that_cannot_be_sent_is_counted_and_the_others_go():
    first, second = pair(small(sg=1))
    good = frame(1, 60)
    packets = [packet_of(bytes(13)), packet_of(bytes(1515)), packet_of(bytes(3000), TSO4), packet_of(good)]
    assert first.driver.send(packets) == 4
    first.driver.tx_buffers(2)
    first.driver.commit([(0, 1515, NO_OFFLOAD)])
    first.run()
    assert second.received == [good]
    assert first.driver.counters["tx_bad_length"] == 3
    assert first.driver.counters["tx_offload"] == 1


def test_short_flat_frames_are_padded_with_zeros():
    first, second = pair(small(sg=0, l4ro=0))
    send_all(first, [packet_of(b"\xff" * 60)] * 8)
    send_all(first, [packet_of(b"\xee" * 20)])
    assert second.received[-1] == b"\xee" * 20 + bytes(40)


# towards the guest


def quiet(config=None, **attributes):
    """A guest that does not run: nothing that was delivered is looked at until ``run``."""
    world = VenetWorld("p", 1 << 21, **attributes)
    world.up(config or small())
    return world


def test_frames_beyond_the_buffers_wait_as_copies_and_beyond_that_are_not_taken():
    world = quiet()
    data = [bytearray(frame(number, 100)) for number in range(20)]
    port = world.device.port
    assert port.deliver([packet_of(memoryview(one)) for one in data[:10]]) == 10
    for one in data:
        one[:] = bytes(100)  # the lifetime rule: their owner does as it likes now
    assert port.deliver([packet_of(frame(number, 100)) for number in range(10, 20)]) == 6, "8 buffers, 8 waiting"
    assert port.deliver([packet_of(frame(99, 100))]) == 0
    world.run()
    assert world.received == [frame(number, 100) for number in range(16)]
    assert port.deliver([packet_of(frame(50, 100))] * 3) == 3
    world.run()
    assert len(world.received) == 19
    assert world.device.counters["rx_queued"] == 8


def test_one_batch_rings_once_and_a_busy_guest_is_not_rung():
    world = quiet()
    signal = world.regions[0].signal
    before = signal.bells
    world.device.port.deliver([packet_of(bytes(60))] * 5)
    world.device.port.deliver([packet_of(bytes(60))] * 2)
    assert signal.bells == before + 1
    world.run()
    assert len(world.received) == 7


def test_the_backlog_drains_in_passes_with_a_budget():
    world = quiet(small(rx_ring=128, l4ro=0))
    world.device.port.deliver([packet_of(frame(number, 60)) for number in range(256)])
    assert world.device.counters["rx_queued"] == 128
    world.run()
    assert world.received == [frame(number, 60) for number in range(256)]


def test_the_backlog_drains_to_its_end_after_one_bell():
    world = quiet(small(rx_ring=128, l4ro=0))
    world.device.port.deliver([packet_of(frame(number, 60)) for number in range(256)])
    peer = world.regions[0].signal.peer
    wakeup, peer.on_wakeup = peer.on_wakeup, lambda: None
    wakeup()  # takes 128, gives all buffers back, rings once, and does not look again
    world.run()
    assert world.device.traffic.rx_packets == 256


def test_a_frame_longer_than_a_flat_buffer_is_counted_and_the_buffer_stays():
    world = quiet(small(l4ro=0))
    world.device.port.deliver([packet_of(frame(1, 60)), packet_of(bytes(1600)), packet_of(frame(2, 60))])
    world.run()
    assert world.received == [frame(1, 60), frame(2, 60)]
    assert world.device.counters["rx_too_long"] == world.device.counters["rx_errors"] == 1


@pytest.mark.parametrize(("l4ro", "offload"), [(0, CSUM), (1, TSO4), (0x03, TSO6), (0x07, TSO6)])
def test_what_a_guest_did_not_agree_to_is_not_given_to_it(l4ro, offload):
    world = quiet(small(l4ro=l4ro))
    world.device.port.deliver([packet_of(bytes(100), offload), packet_of(frame(2, 60))])
    world.run()
    assert world.received == [frame(2, 60)]
    assert world.device.counters["rx_offload"] == 1


def test_a_frame_that_needs_more_than_18_pieces_is_dropped_whole_and_uses_no_page():
    world = quiet(small(page_bytes=1000, pages=64, rx_bytes=64))
    assert world.device.port.deliver([packet_of(bytes(64 + 17 * 1000 + 1), TSO4)]) == 1
    assert world.device.counters["rx_too_long"] == 1
    exact = frame(5, 64 + 17 * 1000)
    world.device.port.deliver([packet_of(exact, TSO4)])
    world.run()
    assert world.received == [exact]


def test_flushrx_recycles_and_traffic_goes_on():
    world = quiet()
    world.steps(world.driver.flush())
    world.run()
    assert world.driver.counters["rx_recycled"] == 8
    world.device.port.deliver([packet_of(frame(1, 3000), TSO4)])
    world.run()
    assert world.received == [frame(1, 3000)]


def test_more_frames_than_a_wakeups_budget_all_arrive():
    world = quiet(small(rx_ring=512, l4ro=0))
    world.device.port.deliver([packet_of(frame(number, 60)) for number in range(512)])
    passes = []
    world.driver.on_frames = lambda packets: (passes.append(len(packets)), world.keep(packets))
    world.run()
    assert max(passes) == 128
    assert world.received == [frame(number, 60) for number in range(512)]


# from the guest


def test_the_host_takes_64_a_pass_and_signals_every_txmitigation():
    world = VenetWorld("p", 1 << 21)
    groups = []
    world.device.receive = lambda packets: groups.append(len(packets))
    world.up(small(tx_ring=256, sg=0, eventq=0, tx_buffers=200))
    world.driver.send([packet_of(bytes(60))] * 150)
    world.queue.popleft()()
    assert sum(groups) == 64, "then others have their turn"
    world.run()
    assert sum(groups) == 150
    assert max(groups) == 10
    groups.clear()
    world.device.set("txmitigation", "0")
    world.driver.send([packet_of(bytes(60))] * 20)
    world.run()
    assert groups == [1] * 20
    groups.clear()
    world.device.set("txmitigation", "100")
    world.driver.send([packet_of(bytes(60))] * 20)
    world.run()
    assert groups == [20]


def test_a_pulled_cable_loses_frames_both_ways_and_says_so():
    first, second = pair(small())
    links = []
    first.driver.on_link = links.append
    first.device.set("enabled", "0")
    first.run()
    assert links == [False]
    assert not first.driver.link
    send_all(first, [packet_of(bytes(60))])
    send_all(second, [packet_of(bytes(60))])
    assert not first.received
    assert not second.received
    assert first.device.counters["tx_no_carrier"] == 1
    assert second.device.counters["lost"] == 1
    first.device.set("enabled", "1")
    first.run()
    assert links == [False, True]
    send_all(first, [packet_of(frame(1, 60))])
    assert second.received == [frame(1, 60)]


def test_link_down_discards_what_waits_and_link_up_goes_on():
    world = quiet(small(up=False))
    assert world.driver.send([packet_of(bytes(60))]) == 0
    assert world.driver.tx_buffers(1) == []
    world.driver.commit([])
    assert world.device.port.deliver([packet_of(bytes(60))]) == 0
    links = []
    world.driver.on_link = links.append
    world.steps(world.driver.ifup())
    world.run()
    world.driver.send([packet_of(bytes(60))] * 3)
    world.device.port.deliver([packet_of(bytes(60))] * 12)
    world.steps(world.driver.ifdown())
    world.run()
    assert links == [True, False]
    assert not world.received
    counters = world.device.counters
    assert (counters["rx_discarded"], counters["tx_discarded"]) == (4, 3)
    assert world.driver.counters["rx_not_up"] == 8
    world.steps(world.driver.ifup())
    world.device.port.deliver([packet_of(frame(1, 60))])
    world.run()
    assert world.received == [frame(1, 60)]
    assert len(world.driver.tx_buffers(6)) == 6, "completions of discarded frames came too"


@pytest.mark.parametrize("sg", [0, 0x2F])
def test_completions_wait_for_event_slots_and_stop_only_their_guest(sg):
    world = VenetWorld("p", 1 << 21)
    taken = []
    world.device.receive = lambda packets: taken.append(len(packets))
    world.up(small(sg=sg, eventq=2, event_ring=2, tx_ring=8, tx_buffers=8))
    wakeup = world.regions[102].signal.peer.on_wakeup
    world.regions[102].signal.peer.on_wakeup = lambda: None  # the guest does not look at events
    for _ in range(10):
        world.driver.send([packet_of(bytes(60))] * 8)
        world.run()
    assert sum(taken) == 8
    events = world.connection._events
    assert events.waiting == 6
    assert world.device.counters["event_back_pressure"] == 1
    world.regions[102].signal.peer.on_wakeup = wakeup
    wakeup()
    world.run()
    assert events.waiting == 0
    assert world.driver.tx_outstanding == 0
    send_all(world, [packet_of(bytes(60))] * 50)
    assert sum(taken) == 58
    assert world.device.counters["event_back_pressure"] >= 1


def test_a_guest_that_reclaims_but_reads_no_events_is_stopped_at_one_ring_of_cookies():
    """A hostile guest: its ring is always free again, its events are never taken."""
    world = VenetWorld("p", 1 << 21)
    taken = []
    world.device.receive = lambda packets: taken.append(len(packets))
    world.up(small(eventq=2, event_ring=2, tx_ring=8, tx_buffers=8))
    peer = world.regions[102].signal.peer
    wakeup, peer.on_wakeup = peer.on_wakeup, lambda: None
    transmit = world.driver._parts.transmit
    for _ in range(10):
        for index in [index for index, out in enumerate(transmit._out) if out]:
            transmit._release(index)
        world.driver.send([packet_of(bytes(60))] * 8)
        world.run()
    assert sum(taken) == 8 + 2
    assert world.connection._events.waiting == 8
    world.steps(world.driver.ifdown())
    assert world.connection._events.waiting == 8, "what is in the ring stays there: no room for its cookies"
    world.steps(world.driver.ifup())
    world.run()
    assert sum(taken) == 8 + 2
    peer.on_wakeup = wakeup
    wakeup()
    world.run()
    assert sum(taken) == 8 + 2 + 8, "the rest goes by itself when the events have been read"


def test_link_state_of_the_moment_replaces_one_that_was_not_told():
    world = VenetWorld("p", 1 << 21)
    world.up(small(eventq=1, event_ring=1))
    peer = world.regions[102].signal.peer
    wakeup, peer.on_wakeup = peer.on_wakeup, lambda: None
    for value in "0101010":
        world.device.set("enabled", value)
    world.run()
    links = []
    world.driver.on_link = links.append
    peer.on_wakeup = wakeup
    wakeup()
    world.run()
    assert links == [False]
    assert world.device.counters["events"] == 3, "up, and one of before; the last of the others"


def test_a_call_to_link_up_sends_what_was_queued_before():
    world = VenetWorld("p", 1 << 21)
    taken = []
    world.device.receive = lambda packets: taken.extend(packet.tobytes() for packet in packets)
    world.up(small(sg=0, eventq=0, up=False))
    world.driver._parts.transmit.send([packet_of(frame(3, 60))])
    world.run()
    assert not taken
    world.steps(world.driver.ifup())
    world.run()
    assert taken == [frame(3, 60)]


def test_without_anybody_plugged_in_frames_are_counted():
    world = quiet()
    send_all(world, [packet_of(bytes(60))])
    assert world.device.counters["tx_unplugged"] == 1
    world.device.receive = lambda packets: None
    world.device.close()
    send_all(world, [packet_of(bytes(60))])
    assert world.device.counters["tx_unplugged"] == 2


@pytest.mark.parametrize("sg", [0, 1, 0x2F])
@pytest.mark.parametrize("l4ro", [0, 0x0F])
@pytest.mark.parametrize("ring_2026", [False, True])
def test_the_memory_that_a_configuration_needs_is_known_before(sg, l4ro, ring_2026):
    config = small(sg=sg, l4ro=l4ro, ring_2026=ring_2026, tx_buffers=0)
    world = VenetWorld("p", -(-config.arena_bytes // 64) * 64, allow_2026=True)
    world.up(config)
    assert world.driver.counters == {}
    assert config.arena_bytes - 4096 <= world.allocator.used <= config.arena_bytes


def test_traffic_is_counted_on_both_sides():
    first, second = pair(small())
    send_all(first, [packet_of(bytes(60)), packet_of(bytes(100))])
    for traffic in (first.driver.traffic, first.device.traffic):
        assert traffic.shown() == {"tx_packets": 2, "tx_bytes": 160, "rx_packets": 0, "rx_bytes": 0}
    for traffic in (second.driver.traffic, second.device.traffic):
        assert traffic.shown() == {"tx_packets": 0, "tx_bytes": 0, "rx_packets": 2, "rx_bytes": 160}


def test_frames_wait_for_pages_that_the_guest_still_has():
    first, second = pair(small(pages=4, tx_buffers=8, page_bytes=65536))
    data = [frame(number, 30_000) for number in range(8)]
    assert first.driver.send([packet_of(one, TSO4) for one in data]) == 8
    first.run()
    assert second.received == data
    assert second.device.counters["rx_queued"] == 4
    assert second.device.counters["rx_no_pages"] == 0


def test_a_frame_for_which_there_will_never_be_enough_pages_does_not_stop_the_others():
    first, second = pair(small(pages=1, page_bytes=16384))
    send_all(first, [packet_of(frame(1, 60)), packet_of(frame(2, 40_000), TSO4), packet_of(frame(3, 60))])
    assert second.received == [frame(1, 60), frame(3, 60)]
    assert second.device.counters["rx_no_pages"] == 1
