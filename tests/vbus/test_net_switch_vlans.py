"""VLANs of a switch: who reaches whom, against a model that is a switch of its own per VLAN."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from net_frames import BROADCAST

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.vbus.packet import ACCEPTS_TAP, Packet, packet_of
from pvnet.vbus.switch import Switch, SwitchOptions

VLANS = (1, 10, 4094)
PORTS = 6
QUIET = SwitchOptions(probe_interval_s=0.0, flap_limit=1 << 30, flood_limit=1 << 30)


class Sink:
    def __init__(self, name: str) -> None:
        self.name = name
        self.mtu = 1500
        self.accepts = ACCEPTS_TAP
        self.got: list[bytes] = []

    def deliver(self, packets: list[Packet]) -> int:
        self.got += [packet.tobytes() for packet in packets]
        return len(packets)


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def frame(destination: bytes, source: bytes, payload: bytes = b"") -> bytes:
    return destination + source + b"\x08\x00" + payload.ljust(46, b"\0")


class World:
    def __init__(self, vlans: list[int], options: SwitchOptions = QUIET) -> None:
        self.notes: list[Note] = []
        self.switch = Switch(bytes(16), options, note=self.notes.append)
        self.sinks = [Sink(f"port{number}") for number in range(len(vlans))]
        self.ports = [self.switch.plug(sink, vlan=vlan) for sink, vlan in zip(self.sinks, vlans, strict=True)]
        self.mirror = Sink("mirror")
        self.switch.plug(self.mirror, mirror=True)

    def send(self, port: int, data: bytes) -> set[int]:
        """Who gets it."""
        self.switch.receive(self.ports[port], [packet_of(data)], 0.0)
        who = {number for number, sink in enumerate(self.sinks) if sink.got}
        assert all(sink.got in ([], [data]) for sink in self.sinks)
        for sink in self.sinks:
            sink.got.clear()
        return who


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, PORTS - 1), st.integers(0, 4), st.integers(0, 3)),
    st.tuples(st.just("move"), st.integers(0, PORTS - 1), st.sampled_from(VLANS), st.just(0)),
)


@given(st.lists(st.sampled_from(VLANS), min_size=PORTS, max_size=PORTS), st.lists(steps, max_size=60))
def test_every_vlan_is_a_switch_of_its_own(vlans: list[int], sequence: list[tuple[str, int, int, int]]) -> None:
    world, vlans = World(vlans), list(vlans)
    learned: dict[tuple[int, bytes], int] = {}
    for what, port, value, sender in sequence:
        if what == "move":
            if vlans[port] != value:
                learned = {key: where for key, where in learned.items() if where != port}
            vlans[port] = value
            world.switch.set_vlan(world.ports[port], value)
            continue
        destination = BROADCAST if value == 4 else mac(value)
        vlan = vlans[port]
        learned[vlan, mac(sender)] = port
        there = learned.get((vlan, destination))
        others = {number for number in range(PORTS) if vlans[number] == vlan and number != port}
        expected = others if there is None else {there} - {port}
        assert world.send(port, frame(destination, mac(sender))) == expected
    sent = sum(what == "send" for what, *_ in sequence)
    assert len(world.mirror.got) == sent, "the mirror sees every VLAN"
    shown = world.switch.shown(0.0)
    assert [port["vlan"] for port in shown["ports"]] == [*vlans, None]  # type: ignore[attr-defined]
    where = {(each["vlan"], each["address"]): each["port"] for each in shown["addresses"]}  # type: ignore[attr-defined]
    assert where == {(vlan, address.hex(":")): f"port{port}" for (vlan, address), port in learned.items()}


def test_a_batch_that_goes_to_everybody_and_to_one_stays_in_its_vlan() -> None:
    world = World([10, 10, 20, 1])
    world.send(1, frame(BROADCAST, mac(1)))
    world.send(2, frame(BROADCAST, mac(2)))
    packets = [packet_of(frame(to, mac(0))) for to in (BROADCAST, mac(1), mac(2), mac(1))]
    world.switch.receive(world.ports[0], packets, 0.0)
    assert [len(sink.got) for sink in world.sinks] == [0, 4, 0, 0], "that of VLAN 20 is unknown in VLAN 10"


def test_a_vlan_that_cannot_be_is_refused() -> None:
    world = World([1])
    for vlan in (0, -1, 4095):
        with pytest.raises(LocalError, match="VLAN"):
            world.switch.plug(Sink("other"), vlan=vlan)
        with pytest.raises(LocalError, match="VLAN"):
            world.switch.set_vlan(world.ports[0], vlan)
    assert world.ports[0].vlan == 1


def test_a_table_is_as_large_as_the_options_say_per_vlan() -> None:
    world = World([10, 20], SwitchOptions(probe_interval_s=0.0, table_size=2))
    for number in range(4):
        world.send(0, frame(BROADCAST, mac(number)))
    world.send(1, frame(BROADCAST, mac(9)))
    shown = world.switch.shown(0.0)
    assert [(each["vlan"], each["address"][-2:]) for each in shown["addresses"]] == [  # type: ignore[attr-defined]
        (10, "03"),
        (10, "02"),
        (20, "09"),
    ]
    assert shown["evicted"] == 2


def test_who_joins_two_vlans_makes_a_loop_only_when_he_joins_them_twice() -> None:
    world = World([10, 20, 20, 10], SwitchOptions(probe_interval_s=2.0))
    world.switch.tick(0.0)
    probes = [sink.got.pop() for sink in world.sinks]
    # A cable from port 0 to port 1: no loop, and the probe goes on in VLAN 20.
    world.switch.receive(world.ports[1], [packet_of(probes[0])], 0.1)
    assert world.switch.loops == 0
    assert world.sinks[2].got == [probes[0]]
    # And one from port 2 to port 3: now there is.
    world.switch.receive(world.ports[3], [packet_of(probes[0])], 0.2)
    assert world.switch.loops == 1
    assert world.ports[3].blocked_until is not None
