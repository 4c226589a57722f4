"""The driver against a host that refuses, or lies: what is optional is given up, what is wrong is counted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from venet_world import VenetWorld, WorldSignal, join

from pvnet.core.errors import LocalError
from pvnet.papr.errno import EBUSY, EINVAL, EIO, ENODEV, ENOMEM
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north_driver import Call, Close, Open, Shm
from pvnet.vbus.packet import NO_OFFLOAD, GsoType, Offload, packet_of
from pvnet.vbus.venet_layout import (
    EVENTQ_QUERY,
    SG_HEAD,
    LinkState,
    TransmitComplete,
    VenetFunction,
    VenetRegion,
    VenetSg,
)
from pvnet.vbus.venet_north import VenetNorth, VenetNorthConfig

SMALL = VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, tx_buffers=4, eventq=3)
TSO4 = Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460)


def refuse(*wanted, errno=EINVAL):
    """Refuse calls of these functions and registrations of these regions; negotiating to nothing is allowed."""

    def check(request):
        if isinstance(request, Shm):
            return errno if VenetRegion(request.id) in wanted and isinstance(wanted[0], VenetRegion) else 0
        if isinstance(request, Call) and isinstance(wanted[0], VenetFunction):
            return errno if request.func in wanted and request.data[4:8] != bytes(4) else 0
        return 0

    return check


@pytest.mark.parametrize(
    ("refused", "lost"),
    [
        ((VenetFunction.NEGCAP,), {"accepts", "receives", "link events"}),
        ((VenetFunction.PMTDQUERY,), {"pmtd"}),
        ((VenetRegion.PMTD_POOL,), {"pmtd"}),
        ((VenetRegion.EVENT_POOL,), {"link events"}),
        ((VenetRegion.EVENT_QUEUE,), {"link events"}),
        ((VenetRegion.L4RO_POOL,), {"receives"}),
        ((VenetRegion.L4RO_PAGES,), {"receives"}),
    ],
)
def test_every_option_that_is_refused_is_given_up_and_the_rest_works(refused, lost):
    first, second = VenetWorld("a", 1 << 21), VenetWorld("b", 1 << 21)
    join(first, second)
    first.refuse = refuse(*refused)
    first.up(SMALL)
    second.up(SMALL)
    assert (first.driver.accepts == 0) == ("accepts" in lost)
    assert (first.driver.receives == 0) == ("receives" in lost)
    assert (first.driver._parts.eventq == 0) == ("link events" in lost)
    assert (100 not in first.regions) == ("pmtd" in lost or "accepts" in lost)
    assert first.driver.link
    frames = [bytes([number]) * (60 + number) for number in range(20)]
    for sender in (first, second):
        rest = [packet_of(frame) for frame in frames]
        while rest:
            rest = rest[sender.driver.send(rest) :]
            first.run()
    assert first.received == second.received == frames
    first.refuse = lambda _: 0
    first.down()
    assert first.allocator.used == 0


@pytest.mark.parametrize("func", [VenetFunction.EVQQUERY, VenetFunction.L4ROQUERY])
def test_a_query_that_is_refused_gives_its_group_up(func):
    world = VenetWorld("a", 1 << 21)
    world.refuse = lambda request: EINVAL if isinstance(request, Call) and request.func == func else 0
    world.up(SMALL)
    assert world.driver.link
    assert world.driver.counters["without_eventq"] + world.driver.counters["without_l4ro"] == 1


@pytest.mark.parametrize("answer", [EVENTQ_QUERY.pack(0, 32, 101, 102, b""), EVENTQ_QUERY.pack(0, 24, 101, 102, b"x")])
def test_a_query_with_a_wrong_answer_gives_its_group_up(answer):
    world = VenetWorld("a", 1 << 21)
    execute = world.execute

    def lie(request):
        result = execute(request)
        if isinstance(request, Call) and request.func == VenetFunction.EVQQUERY:
            request.data[:] = answer
        return result

    world.execute = lie
    world.up(SMALL)
    assert world.driver.counters["without_eventq"] == 1
    assert world.driver.link


@pytest.mark.parametrize(
    ("region", "without"), [(VenetRegion.EVENT_QUEUE, {"eventq": 0}), (VenetRegion.L4RO_PAGES, {"l4ro": 0})]
)
def test_an_option_that_was_given_up_takes_no_memory(region, without):
    world, other = VenetWorld("a", 1 << 21), VenetWorld("b", 1 << 21)
    world.refuse = refuse(region)
    world.up(SMALL)
    other.up(replace(SMALL, **without))
    assert world.allocator.used == other.allocator.used


def test_an_arena_without_room_for_an_option_goes_without_it():
    world = VenetWorld("a", 3 << 17)
    world.up(VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=2048, page_bytes=65536, tx_buffers=4))
    assert world.driver.link
    assert world.driver.receives == 0
    assert world.driver.counters["without_l4ro"] == 1


def test_an_arena_without_room_at_all_fails_the_bring_up_and_keeps_nothing():
    world = VenetWorld("a", 1 << 14)
    with pytest.raises(VbusError) as caught:
        world.up(SMALL)
    assert caught.value.errno == ENOMEM
    assert world.allocator.used == 0
    assert world.device.connection is None


REQUIRED = [
    lambda request: isinstance(request, Open),
    lambda request: isinstance(request, Shm) and request.id == 0,
    lambda request: isinstance(request, Shm) and request.id == 1,
    lambda request: isinstance(request, Call) and request.func == VenetFunction.MACQUERY,
    lambda request: isinstance(request, Call) and request.func == VenetFunction.LINKUP,
]


@pytest.mark.parametrize("required", REQUIRED)
def test_what_is_not_optional_fails_the_bring_up_and_closes_the_device(required):
    world = VenetWorld("a", 1 << 21)
    world.refuse = lambda request: EIO if required(request) else 0
    with pytest.raises(VbusError) as caught:
        world.up(SMALL)
    assert caught.value.errno == EIO
    assert world.allocator.used == 0
    assert world.device.connection is None
    world.refuse = lambda _: 0
    world.steps(world.driver.probe(world))
    world.run()
    assert world.driver.link


def test_memory_that_the_host_may_still_use_is_freed_only_by_the_removal():
    """DEVCLOSE does not get through at once: the device is going away while it is brought up."""
    world = VenetWorld("a", 1 << 21)
    world.refuse = lambda request: ENODEV if isinstance(request, Close) or REQUIRED[4](request) else 0
    with pytest.raises(VbusError):
        world.up(SMALL)
    assert world.allocator.used > 0
    world.refuse = lambda _: 0
    world.down()
    assert world.allocator.used == 0
    assert world.device.connection is None
    world.down()


def test_a_bring_up_that_is_given_up_keeps_nothing_after_the_removal():
    world = VenetWorld("a", 1 << 21)
    driver = VenetNorth(SMALL)
    steps = driver.probe(world)
    request = next(steps)
    for _ in range(6):
        request = steps.send(world.execute(request))
    assert world.allocator.used > 0
    steps.close()
    assert driver.device is None
    world.steps(driver.remove(world))
    assert world.allocator.used == 0
    assert world.device.connection is None


def test_removal_goes_through_when_the_host_refuses_everything():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    world.refuse = lambda _: ENODEV
    world.down()
    assert world.allocator.used == 0
    assert not world.driver.link


def test_one_object_drives_one_device():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    with pytest.raises(VbusError) as caught:
        next(world.driver.probe(VenetWorld("b")))
    assert caught.value.errno == EBUSY
    world.steps(world.driver.remove(VenetWorld("b")))
    assert world.driver.link


def test_without_a_device_there_is_nothing_to_do():
    driver = VenetNorth()
    assert driver.send([packet_of(bytes(60))]) == 0
    assert driver.tx_buffers(3) == []
    driver.commit([])
    for steps in (driver.ifup, driver.ifdown, driver.flush):
        with pytest.raises(VbusError) as caught:
            next(steps())
        assert caught.value.errno == ENODEV
    assert driver.mtu == 1500


def test_a_link_up_that_is_refused_leaves_it_down():
    world = VenetWorld("a", 1 << 21)
    world.up(VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, up=False))
    world.refuse = lambda request: EIO
    with pytest.raises(VbusError):
        world.steps(world.driver.ifup())
    assert world.driver.send([packet_of(bytes(60))]) == 0
    world.refuse = lambda _: 0
    world.steps(world.driver.ifup())
    assert world.driver.link is False, "the event is on its way"
    world.run()
    assert world.driver.link


def test_buffers_are_committed_in_order_and_only_those_offered():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    world.driver.tx_buffers(2)
    for frames in ([(2, 60, NO_OFFLOAD)], [(-1, 60, NO_OFFLOAD)], [(1, 60, NO_OFFLOAD), (0, 60, NO_OFFLOAD)]):
        with pytest.raises(LocalError, match="offered"):
            world.driver.commit(frames)
    world.driver.commit([(0, 60, NO_OFFLOAD)])
    with pytest.raises(LocalError, match="offered"):
        world.driver.commit([(0, 60, NO_OFFLOAD)])


# a host that lies


def fill(world: VenetWorld, lengths: list[int]) -> None:
    """Be the host: hand over the next receive slots with these lengths, whatever is in them."""
    ring = world.connection._rx._ring
    ring.take(len(lengths))
    ring.fill(lengths)
    world.regions[0].signal.inject()
    world.run()


def pool_write(world: VenetWorld, slot: int, raw: bytes) -> None:
    world.regions[103].view[320 * slot : 320 * slot + len(raw)] = raw


@pytest.mark.parametrize(
    ("raw", "length", "counter"),
    [
        (VenetSg(0, 0, 60, ((60, 0),)).encode(), 47, "bad_descriptor_size"),
        (VenetSg(0, 0, 60, ()).encode(), 48, "bad_fragment_count"),
        (VenetSg(0, 0, 60, ((60, 0),)).encode()[:28] + b"\xff" * 4, 48, "bad_fragment_count"),
        (VenetSg(0, 0, 60, ((60, 0), (1, 0))).encode(), 48, "bad_descriptor_size"),
        (VenetSg(0, 0, 60, ((61, 0),)).encode(), 48, "bad_sum"),
        (VenetSg(0, 8, 60, ((60, 0),)).encode(), 48, "bad_flags"),
        (VenetSg(0, 0, 4000, ((4000, 0),)).encode(), 48, "bad_fragment_length"),
        (VenetSg(0, 0, 70, ((60, 0), (10, 1 << 32))).encode(), 64, "bad_address"),
        (VenetSg(0, 0, 70, ((60, 0), (10, 8))).encode(), 64, "bad_address"),
        (VenetSg(0, 0, 80, ((60, 0), (10, 1), (10, 1))).encode(), 80, "bad_address"),
        (VenetSg(0, 2, 20060, ((60, 0), (20000, 1)), gso_size=1).encode(), 64, "bad_address"),
    ],
)
def test_a_wrong_descriptor_of_the_host_is_dropped_and_its_slot_goes_on(raw, length, counter):
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    pool_write(world, 0, raw)
    fill(world, [length])
    assert world.received == []
    assert world.driver.counters[counter] == world.driver.counters["rx_errors"] == 1
    for _ in range(3):
        world.device.port.deliver([packet_of(bytes([number]) * 9000, TSO4) for number in range(8)])
        world.run()
    used_a_lent_page = raw[12] == 80  # which the host has still, under a cookie that is over
    assert len(world.received) == 24 - used_a_lent_page


def test_a_page_that_is_named_without_pages_is_an_error():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    world.driver._parts.receive._pages = None
    pool_write(world, 0, VenetSg(0, 0, 70, ((60, 0), (10, 0))).encode())
    fill(world, [64])
    assert world.driver.counters["bad_address"] == 1


def test_a_used_page_cannot_be_named_again():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    world.device.port.deliver([packet_of(bytes(9000), TSO4)])
    cookie = VenetSg.decode(bytes(world.regions[103].view[:64])).iovs[1][1]
    world.run()
    assert len(world.received) == 1
    pool_write(world, 1, VenetSg(1, 0, 70, ((60, 0), (10, cookie))).encode())
    fill(world, [64])
    assert world.driver.counters["bad_address"] == 1
    assert world.driver._parts.pages.lent == 8


def test_a_host_that_does_not_give_the_page_ring_back_only_has_fewer_pages():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    parts = world.driver._parts
    pages = world.connection._rx.pages
    world.connection._rx.pages = SimpleNamespace(take=pages.take, complete=lambda count: None)
    for _ in range(4):
        world.device.port.deliver([packet_of(bytes(9000), TSO4)])
        world.run()
    assert len(world.received) == 4
    assert parts.pages.lent == 4
    parts.pages.lend()
    assert parts.pages.lent == 4


def send_event(world: VenetWorld, raw: bytes, length: int = 24) -> None:
    region = world.regions[102]
    ring = world.connection._event_ring
    (slot,) = ring.take(1)
    world.regions[101].view[slot.ptr : slot.ptr + len(raw)] = raw
    ring.fill([length])
    region.signal.inject()
    world.run()


def test_events_that_cannot_be_are_counted_and_empty_ones_recycled():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    send_event(world, b"\xff" * 24)
    assert world.driver.counters["bad_event"] == 1
    send_event(world, b"\xff" * 24, 0)
    assert world.driver.counters["bad_event"] == 1
    send_event(world, LinkState(up=False).encode())
    assert not world.driver.link
    send_event(world, LinkState(up=True).encode())
    assert world.driver.link


@pytest.mark.parametrize("cookie", [0, 3, 4, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1])
def test_completions_of_what_was_not_sent_change_nothing(cookie):
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    send_event(world, TransmitComplete(cookie).encode())
    assert world.driver.counters["bad_cookie"] == 1
    assert len(world.driver.tx_buffers(9)) == 4
    world.driver.send([packet_of(bytes(60))] * 4)
    world.run()
    assert world.driver.tx_outstanding == 0
    send_event(world, TransmitComplete(0).encode())
    assert world.driver.counters["bad_cookie"] == 2, "not out"
    world.driver.send([packet_of(bytes(60))] * 4)
    world.driver._parts.transmit.completed(0)
    assert world.driver.counters["bad_cookie"] == 3, "out, but the generation is over"
    assert world.driver.tx_outstanding == 4


@pytest.mark.parametrize("action", ["send", "tx_buffers", "commit", "wakeup"])
def test_a_transmit_ring_that_the_host_breaks_ends_the_interface_once(action):
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    links = []
    world.driver.on_link = links.append
    view = world.regions[1].view
    world.driver.tx_buffers(4)
    for slot in range(8):
        view[56 + 32 * slot + 25] = 0x5A
    match action:
        case "send":
            assert world.driver.send([packet_of(bytes(60))]) == 0
        case "tx_buffers":
            world.driver._parts.transmit._ring._outstanding = 1
            assert world.driver.tx_buffers(9) == []
        case "commit":
            world.driver.commit([(0, 60, NO_OFFLOAD)])
        case _:
            world.driver._parts.transmit._ring._outstanding = 1
            world.driver._parts.transmit.signal.again()
    world.run()
    assert links == [False]
    assert world.driver.counters["faults"] == 1
    assert world.driver.fault
    assert world.broken, "the bridge hears of it, to take the device down"
    assert world.driver.send([packet_of(bytes(60))]) == 0
    world.device.port.deliver([packet_of(bytes(60))])
    world.run()
    assert not world.received
    assert world.driver.counters["faults"] == 1
    world.down()
    assert world.allocator.used == 0


def test_a_receive_ring_that_the_host_breaks_ends_the_interface():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    world.regions[0].view[56 + 25] = 0x5A
    world.regions[0].signal.shm.inject()
    world.regions[0].signal.peer.rung()
    world.run()
    assert world.driver.counters["faults"] == 1
    assert not world.driver.link


def test_a_signal_that_is_rung_for_nothing_changes_nothing():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    for region in world.regions.values():
        if region.signal is not None:
            region.signal.on_wakeup()
            peer = region.signal.peer
            assert isinstance(peer, WorldSignal)
            peer.on_wakeup()
    world.run()
    assert not world.broken
    assert world.driver.link


def test_a_host_floods_events_and_others_still_have_their_turn():
    world = VenetWorld("a", 1 << 21)
    world.up(VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=200, pages=8, page_bytes=16384))
    ring = world.connection._event_ring
    slots = ring.take(150)
    for slot in slots:
        raw = LinkState(up=True).encode()
        world.regions[101].view[slot.ptr : slot.ptr + len(raw)] = raw
    ring.fill([16] * 150)
    taken = []
    parts = world.driver._parts
    event = parts._event
    parts._event = lambda data: (taken.append(1), event(data))
    world.regions[102].signal.inject()
    world.queue.popleft()()
    assert len(taken) == 64
    world.run()
    assert len(taken) == 150


def test_the_descriptor_of_a_frame_is_the_vector_of_the_fact_sheet():
    world = VenetWorld("a", 1 << 21)
    world.up(SMALL)
    world.driver.tx_buffers(1)
    world.driver.commit([(0, 4434, Offload(True, 34, 16, GsoType.TCPV4, False, 54, 1460))])
    raw = bytes(world.regions[100].view[:48])
    assert SG_HEAD.unpack_from(raw)[1:] == (3, 4434, 34, 16, 0, 0, 54, 1460, 0, 1)
