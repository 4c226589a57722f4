"""Venets over the real bridge: brought up, joined by a switch, taken away in every way, with nothing left behind."""

from __future__ import annotations

import random

import pytest
from net_frames import MAC_A, MAC_B, check_tcp, gso_tcp
from venet_bridge import Lab, Partition, cable

from pvnet.core.errors import ConfigError
from pvnet.vbus.north_io import Start
from pvnet.vbus.packet import NO_OFFLOAD, packet_of
from pvnet.vbus.switch import Switch
from pvnet.vbus.venet_north import VenetNorthConfig

SMALL = VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, tx_buffers=4, eventq=3)


def pair(config: VenetNorthConfig = SMALL):
    lab = Lab()
    first, second = Partition(lab, "a", config), Partition(lab, "b", config)
    cable(first, second)
    first.start()
    second.start()
    return lab, first, second


def bare_use(lab: Lab) -> int:
    """Bytes of the arena that a bridge without any device uses."""
    partition = Partition(lab, "bare", SMALL)
    lab.registry.detach("bare")
    partition.to_north.append(Start())
    lab.run()
    return partition.allocator.used


def exchange(lab: Lab, first: Partition, second: Partition, count: int = 40) -> None:
    first.received.clear()
    second.received.clear()
    frames = [bytes([number]) * (60 + number) for number in range(count)]
    for sender in (first, second):
        rest = [packet_of(frame) for frame in frames]
        for _ in range(1000):
            rest = rest[sender.interface.send(rest) :]
            lab.run()
            if not rest:
                break
    assert first.received == second.received == frames


@pytest.mark.parametrize("ring_2026", [False, True])
@pytest.mark.parametrize("eventq", [0, 1, 3])
def test_two_partitions_exchange_frames_and_no_wakeup_is_lost(ring_2026, eventq):
    lab, first, second = pair(
        VenetNorthConfig(
            rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, ring_2026=ring_2026, eventq=eventq
        )
    )
    assert first.links == second.links == [True]
    assert first.interface.mac == first.device.client_mac != second.interface.mac
    exchange(lab, first, second)
    for _ in range(3):
        for machine in (first.north, first.south, second.north, second.south):
            assert machine.counters["lost_wakeup_rescues"] == 0
        lab.later(0.2)


@pytest.mark.parametrize("ring_2026", [False, True])
def test_both_ring_layouts_over_the_bridge(ring_2026):
    lab, first, second = pair(
        VenetNorthConfig(rx_ring=8, tx_ring=8, event_ring=8, pages=8, page_bytes=16384, ring_2026=ring_2026)
    )
    assert (first.memory.find(0x494F5132.to_bytes(4, "little")) >= 0) == ring_2026
    exchange(lab, first, second)


def take_down(how: str, lab: Lab, partition: Partition) -> None:
    match how:
        case "stop":
            partition.stop()
        case "detach":
            lab.registry.detach(partition.name)
        case "detach by force":
            lab.registry.detach(partition.name, force=True)
        case "leave":
            lab.registry.leave(partition.name)
        case "client gone":
            partition.client_gone()
            partition.host_gone()
        case "host gone":
            partition.host_gone()
    lab.run()


@pytest.mark.parametrize("how", ["stop", "detach", "detach by force", "leave", "client gone", "host gone"])
def test_every_end_gives_everything_back(how):
    lab, first, second = pair()
    bare = bare_use(lab)
    exchange(lab, first, second)
    first.interface.send([packet_of(bytes(60))] * 3)
    interface = first.interface
    take_down(how, lab, first)
    assert first.allocator.used == bare
    assert not first.driver.interfaces
    assert first.links == [True, False]
    assert interface.send([packet_of(bytes(60))]) == 0
    assert interface.accepts == interface.receives == interface.tx_outstanding == 0
    if how != "host gone":
        assert first.device.connection is None
        assert len(first.south.signals) == 0
        assert first.south.signals.alive == 0 or how in {"client gone"}
    assert len(first.north.signals) == 0
    second.interface.send([packet_of(bytes(60))])
    lab.run()
    assert second.device.counters["lost"] >= 1 or how == "host gone"


def test_a_device_that_goes_while_it_is_brought_up_leaves_nothing():
    for turns in range(1, 60):
        lab = Lab()
        first = Partition(lab, "a", SMALL)
        bare = bare_use(lab)
        lab.partitions.remove(first)
        first.to_north.append(Start())
        for _ in range(turns):
            first.turn()
        lab.registry.detach("a", force=bool(turns % 2))
        lab.partitions.append(first)
        lab.run()
        assert first.allocator.used == bare
        assert first.device.connection is None
        lab.registry.attach("a", "a")
        lab.run()
        assert first.interface.link


def test_link_down_and_up_by_the_driver_and_again_from_the_start():
    lab, first, second = pair()
    device = first.interface.device
    device.run(first.interface.ifdown())
    lab.run()
    assert first.links == [True, False]
    assert first.interface.send([packet_of(bytes(60))]) == 0
    device.run(first.interface.ifdown())  # refused by the host, only noted
    device.run(first.interface.ifup())
    device.run(first.interface.ifup())
    device.run(first.interface.flush())
    lab.run()
    assert first.links == [True, False, True]
    exchange(lab, first, second)
    first.stop()
    first.start()
    exchange(lab, first, second)


def test_a_guest_that_breaks_its_ring_loses_its_connection_and_gets_it_again():
    lab, first, second = pair()
    view = next(region for opened in first.south.calls.opened for id_, region in opened.regions.items() if id_ == 1)
    view.view[56 + 25] = 9
    first.interface.send([packet_of(bytes(60))])
    lab.run()
    assert first.links == [True, False]
    for _ in range(5):
        lab.later(2.0)
    assert first.links[-1]
    exchange(lab, first, second)


def test_a_switch_between_a_guest_with_segmentation_and_a_flat_one():
    lab = Lab()
    first = Partition(lab, "a", SMALL)
    flat = Partition(lab, "b", VenetNorthConfig(rx_ring=64, tx_ring=8, sg=0, l4ro=0, eventq=0))
    switch = Switch(b"secret")
    for partition in (first, flat):
        port = switch.plug(partition.device.port)
        partition.device.receive = lambda packets, port=port: switch.receive(port, packets, lab.now)
    first.device.set("client_mac", MAC_A.hex(":"))
    flat.device.set("client_mac", MAC_B.hex(":"))
    first.start()
    flat.start()
    assert (first.interface.mac, flat.interface.mac) == (MAC_A, MAC_B)
    payload = bytes(range(256)) * 40
    assert first.interface.send([gso_tcp(payload, 1460)]) == 1
    lab.run()
    assert len(flat.received) == 8
    assert b"".join(check_tcp(frame, 34)[3] for frame in flat.received) == payload
    assert set(flat.offloads) == {NO_OFFLOAD}
    assert flat.interface.send([packet_of(MAC_A + MAC_B + b"\x88\xb5" + bytes(46))]) == 1
    lab.run()
    assert len(first.received) == 1


def test_a_config_is_checked():
    for wrong in (
        {"rx_ring": 0},
        {"tx_ring": 2049},
        {"event_ring": 3, "ring_2026": True},
        {"mtu": 67},
        {"tx_buffers": 257},
        {"page_bytes": 0},
        {"tx_fragment_bytes": 65537},
    ):
        with pytest.raises(ConfigError, match="venet"):
            VenetNorthConfig(**wrong)


def test_a_random_life():
    chance = random.Random(20090806)
    lab, first, second = pair()
    bare = bare_use(lab)
    for _ in range(60):
        partition = chance.choice([first, second])
        match chance.randrange(6):
            case 0 if partition.driver.interfaces:
                partition.stop()
            case 1 if not partition.driver.interfaces:
                partition.start()
            case 2:
                partition.device.set("enabled", str(chance.randrange(2)))
            case 3 if partition.driver.interfaces:
                interface = partition.interface
                interface.device.run(chance.choice([interface.ifup, interface.ifdown, interface.flush])())
            case _:
                for interface in partition.driver.interfaces.values():
                    count = chance.randrange(12)
                    interface.send([packet_of(bytes(chance.randrange(60, 1500))) for _ in range(count)])
        if chance.random() < 0.7:
            lab.run()
    for partition in (first, second):
        partition.stop()
        partition.device.set("enabled", "1")
        assert partition.allocator.used == bare
        partition.start()
    lab.run()
    exchange(lab, first, second)
