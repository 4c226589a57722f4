"""The learning switch: who gets what, how often, and where every frame that does not arrive is counted."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_frames import BROADCAST, check_tcp, gso_tcp, packet_in

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.vbus import switch as switch_module
from pvnet.vbus.packet import ACCEPTS_ALL, ACCEPTS_CSUM, ACCEPTS_NOTHING, ACCEPTS_TAP, Offload, Packet, packet_of
from pvnet.vbus.switch import Switch, SwitchOptions
from pvnet.vbus.switch_table import AddressTable, SwitchPort

SECRET = bytes(range(16))


class Sink:
    """A port that copies what it gets."""

    def __init__(self, name: str, *, mtu: int = 1500, accepts: int = ACCEPTS_TAP) -> None:
        self.name = name
        self.mtu = mtu
        self.accepts = accepts
        self.got: list[Packet] = []
        self.calls = 0
        self.room = 1 << 30

    def deliver(self, packets: list[Packet]) -> int:
        taken = packets[: self.room]
        self.calls += 1
        self.got += [packet.copy() for packet in taken]
        return len(taken)

    def frames(self) -> list[bytes]:
        frames = [packet.tobytes() for packet in self.got]
        self.got.clear()
        return frames


class World:
    def __init__(self, count: int = 3, **options: float) -> None:
        self.notes: list[Note] = []
        self.switch = Switch(SECRET, SwitchOptions(**options), note=self.notes.append)  # type: ignore[arg-type]
        self.sinks = [Sink(f"port{number}") for number in range(count)]
        self.ports = [self.switch.plug(sink) for sink in self.sinks]

    def send(self, port: int, *frames: bytes, now: float = 0.0) -> None:
        self.switch.receive(self.ports[port], [packet_of(frame) for frame in frames], now)

    def got(self) -> list[list[bytes]]:
        return [sink.frames() for sink in self.sinks]

    def drops(self, port: int) -> dict[str, int]:
        return dict(self.ports[port].drops)

    def loops(self) -> list[dict[str, int | str]]:
        return [dict(note.fields) for note in self.notes if note.event == "loop_detected"]


def mac(number: int) -> bytes:
    return b"\x02\0\0\0" + number.to_bytes(2, "big")


def frame(destination: bytes, source: bytes, payload: bytes = bytes(46)) -> bytes:
    return destination + source + b"\x08\x00" + payload


def test_an_unknown_destination_goes_everywhere_but_back_and_a_known_one_to_its_port():
    world = World()
    world.send(0, hello := frame(mac(1), mac(0)))
    assert world.got() == [[], [hello], [hello]]
    world.send(1, answer := frame(mac(0), mac(1)))
    assert world.got() == [[answer], [], []]
    world.send(0, hello)
    assert world.got() == [[], [hello], []]


def test_a_broadcast_and_a_multicast_go_to_all_others():
    world = World()
    world.send(1, one := frame(BROADCAST, mac(1)), two := frame(b"\x01\0\x5e\0\0\x01", mac(1)))
    assert world.got() == [[one, two], [], [one, two]]


def test_each_destination_is_called_once_per_batch_and_keeps_the_order():
    world = World()
    world.send(1, frame(BROADCAST, mac(1)))
    world.send(2, frame(BROADCAST, mac(2)))
    world.got()
    for sink in world.sinks:
        sink.calls = 0
    frames = [frame(mac(1 + number % 2), mac(0), bytes([number]) * 46) for number in range(20)]
    frames.insert(7, frame(BROADCAST, mac(0)))
    world.send(0, *frames)
    assert [sink.calls for sink in world.sinks] == [0, 1, 1]
    _, first, second = world.got()
    assert first == [one for one in frames if one[:6] in (mac(1), BROADCAST)]
    assert second == [one for one in frames if one[:6] in (mac(2), BROADCAST)]


def test_a_frame_for_the_port_it_came_from_is_filtered():
    world = World()
    world.send(0, frame(BROADCAST, mac(0)), frame(BROADCAST, mac(9)))
    world.got()
    world.send(0, frame(mac(9), mac(0)))
    assert world.got() == [[], [], []]
    assert world.drops(0) == {"same_port": 1}


@pytest.mark.parametrize("last", [0x00, 0x01, 0x0E, 0x0F])
def test_reserved_addresses_are_not_forwarded(last):
    world = World()
    world.send(0, frame(b"\x01\x80\xc2\0\0" + bytes([last]), mac(0)))
    assert world.got() == [[], [], []]
    assert world.drops(0) == {"reserved": 1}
    world.send(0, frame(b"\x01\x80\xc2\0\0\x10", mac(0)))
    assert [len(got) for got in world.got()] == [0, 1, 1]


def test_bad_sources_and_runts_are_dropped_and_teach_nothing():
    world = World()
    world.send(0, frame(mac(1), BROADCAST), frame(mac(1), bytes(6)), bytes(13), b"", mac(1) + mac(0) + b"\x08")
    world.switch.receive(world.ports[0], [Packet((), 0)], 0.0)
    assert world.got() == [[], [], []]
    assert world.drops(0) == {"bad_source": 2, "runt": 4}
    assert world.switch.shown(0.0)["addresses"] == []


def test_a_runt_in_a_batch_of_its_own_flow_is_still_a_runt():
    world = World()
    world.send(1, frame(BROADCAST, mac(1)))
    world.got()
    world.send(0, frame(mac(1), mac(0)), mac(1) + mac(0), frame(mac(1), mac(0)))
    assert [len(got) for got in world.got()] == [0, 2, 0]
    assert world.drops(0) == {"runt": 1}


def test_headers_that_are_spread_over_pieces_are_read():
    world = World()
    world.send(1, frame(BROADCAST, mac(1)))
    world.got()
    packet = packet_in(frame(mac(1), mac(0)), Offload(), pieces=20)
    world.switch.receive(world.ports[0], [packet, packet], 0.0)
    assert world.got() == [[], [frame(mac(1), mac(0))] * 2, []]


def test_a_lonely_port_drops():
    world = World(1)
    world.send(0, frame(BROADCAST, mac(0)))
    assert world.drops(0) == {"no_port": 1}


def test_an_address_is_forgotten_after_its_age_and_not_before():
    world = World(ageing_s=300.0)
    world.send(1, frame(BROADCAST, mac(1)), now=0.0)
    world.send(1, frame(BROADCAST, mac(1)), now=200.0)
    world.got()
    world.send(0, frame(mac(1), mac(0)), now=499.0)
    assert [len(got) for got in world.got()] == [0, 1, 0]
    world.send(0, frame(mac(1), mac(0)), now=500.0)
    assert [len(got) for got in world.got()] == [0, 1, 1]


def test_tick_forgets_and_the_deadline_says_when():
    world = World(ageing_s=300.0, probe_interval_s=0.0)
    assert world.switch.deadline() is None
    world.send(1, frame(BROADCAST, mac(1)), now=10.0)
    assert world.switch.deadline() == 310.0
    world.switch.tick(309.0)
    assert len(world.switch.shown(309.0)["addresses"]) == 1
    world.switch.tick(310.0)
    assert world.switch.shown(310.0)["addresses"] == []
    assert world.switch.deadline() is None


def test_of_too_many_addresses_the_one_that_was_silent_longest_goes():
    world = World(table_size=4)
    for number in range(4):
        world.send(0, frame(BROADCAST, mac(number)), now=float(number))
    world.send(0, frame(BROADCAST, mac(0)), now=10.0)
    world.send(1, frame(BROADCAST, mac(99)), now=11.0)
    shown = world.switch.shown(11.0)
    assert [entry["address"][-2:] for entry in shown["addresses"]] == ["63", "00", "03", "02"]
    assert shown["evicted"] == 1


def test_a_flood_of_addresses_keeps_the_table_bounded():
    world = World(table_size=100)
    for start in range(0, 5000, 50):
        world.send(0, *(frame(BROADCAST, mac(number)) for number in range(start, start + 50)))
    assert len(world.switch.shown(0.0)["addresses"]) == 100


def test_a_partition_that_moves_is_found_at_its_new_port_and_counted():
    world = World()
    world.send(0, frame(BROADCAST, mac(7)), now=0.0)
    world.send(1, frame(BROADCAST, mac(7)), now=0.1)
    world.got()
    world.send(2, frame(mac(7), mac(2)), now=0.2)
    assert [len(got) for got in world.got()] == [0, 1, 0]
    assert world.switch.shown(0.2)["moves"] == 1


def test_unplugging_forgets_the_addresses_and_silences_the_port():
    world = World()
    world.send(1, frame(BROADCAST, mac(1)))
    world.switch.unplug(world.ports[1])
    world.switch.unplug(world.ports[1])
    world.got()
    world.send(0, frame(mac(1), mac(0)))
    assert [len(got) for got in world.got()] == [0, 0, 1]
    world.send(1, frame(BROADCAST, mac(1)))
    assert world.got() == [[], [], []]
    assert [note.event for note in world.notes] == ["port_plugged"] * 3 + ["port_unplugged"]
    world.switch.plug(Sink("port1"))
    with pytest.raises(LocalError, match="port1"):
        world.switch.plug(Sink("port1"))


def test_what_is_not_taken_is_counted_where_it_was_not_taken():
    world = World()
    world.sinks[1].room = 2
    world.send(0, *(frame(BROADCAST, mac(0), bytes(46 + number)) for number in range(5)))
    assert [len(got) for got in world.got()] == [0, 2, 5]
    assert world.drops(1) == {"not_taken": 3}
    assert (world.ports[1].tx_packets, world.ports[1].tx_bytes) == (2, 60 + 61)
    assert world.drops(0) == {}


def test_counters_say_what_went_in_and_out():
    world = World()
    world.send(0, frame(BROADCAST, mac(0)), frame(BROADCAST, mac(0), bytes(100)))
    shown = world.switch.shown(0.0)
    first, second, _ = shown["ports"]
    assert (first["rx_packets"], first["rx_bytes"], first["tx_packets"]) == (2, 60 + 114, 0)
    assert (second["tx_packets"], second["tx_bytes"], second["rx_packets"]) == (2, 60 + 114, 0)
    assert json.loads(json.dumps(shown)) == shown


def test_a_frame_over_the_mtu_is_dropped_for_that_port_alone():
    world = World()
    world.sinks[1].mtu = 9000
    world.send(0, long := frame(BROADCAST, mac(0), bytes(1501)), fits := frame(BROADCAST, mac(0), bytes(1500)))
    assert world.got() == [[], [long, fits], [fits]]
    assert world.drops(2) == {"too_long": 1}


def test_a_vlan_tag_may_come_on_top_of_the_mtu():
    world = World(2)
    tagged = BROADCAST + mac(0) + b"\x81\0\0\x05\x08\0"
    world.send(0, tagged + bytes(1500), tagged + bytes(1501))
    assert [len(got) for got in world.got()] == [0, 1]
    assert world.drops(1) == {"too_long": 1}


def test_large_packets_stay_whole_for_those_who_take_them_and_are_cut_once_for_the_others(monkeypatch):
    world = World(4)
    world.sinks[1].accepts = ACCEPTS_ALL
    world.sinks[2].accepts = ACCEPTS_NOTHING
    world.sinks[3].accepts = ACCEPTS_CSUM
    done = Counter[int]()

    def counted(packet: Packet):
        done[id(packet)] += 1
        return finish(packet)

    finish = switch_module.finish
    monkeypatch.setattr(switch_module, "finish", counted)
    packet = gso_tcp(payload := random.Random(3).randbytes(30000), 1460)
    world.switch.receive(world.ports[0], [packet], 0.0)
    assert list(done.values()) == [1]
    (whole,) = world.sinks[1].got
    assert whole == packet.copy()
    assert world.sinks[2].got == world.sinks[3].got
    assert b"".join(check_tcp(one.tobytes(), 34)[3] for one in world.sinks[2].got) == payload
    assert world.ports[2].tx_packets == 21


def test_a_large_packet_whose_frames_exceed_the_mtu_is_dropped():
    world = World(3)
    world.sinks[2].accepts = ACCEPTS_NOTHING
    world.switch.receive(world.ports[0], [gso_tcp(bytes(30000), 1461)], 0.0)
    assert world.drops(1) == {"too_long": 1}
    assert world.drops(2) == {"too_long": 1}
    assert world.got() == [[], [], []]


def test_a_packet_that_cannot_be_finished_is_dropped_with_the_reason_and_the_rest_arrives():
    world = World(2)
    world.sinks[1].accepts = ACCEPTS_NOTHING
    bad = packet_of(good := frame(BROADCAST, mac(0)), Offload(True, 1000, 16))
    world.switch.receive(world.ports[0], [bad, packet_of(good), bad], 0.0)
    assert world.got() == [[], [good]]
    assert world.drops(1) == {"bad_checksum_place": 2}
    calls = world.sinks[1].calls
    world.switch.receive(world.ports[0], [bad], 0.0)
    assert world.sinks[1].calls == calls, "nothing left: no call"


def test_flooding_is_limited_per_second_and_unicast_is_not():
    world = World(2, flood_limit=10)
    world.send(1, frame(mac(0), mac(1)), now=0.0)
    world.got()
    world.send(0, *[frame(BROADCAST, mac(0))] * 25, *[frame(mac(1), mac(0))] * 25, now=0.0)
    assert len(world.got()[1]) == 10 + 25
    assert world.drops(0) == {"flood_limit": 15}
    world.send(0, *[frame(BROADCAST, mac(0))] * 25, now=0.5)
    assert len(world.got()[1]) == 5
    world.send(0, *[frame(BROADCAST, mac(0))] * 25, now=100.0)
    assert len(world.got()[1]) == 10


def test_a_mirror_sees_everything_that_comes_in_and_adds_nothing():
    world = World(2)
    mirror = Sink("mirror", mtu=65521, accepts=ACCEPTS_NOTHING)
    plugged = world.switch.plug(mirror, mirror=True)
    world.send(0, one := frame(mac(1), mac(0)))
    world.send(1, two := frame(mac(0), mac(1)))
    world.send(0, three := frame(mac(0), mac(0)))
    assert mirror.frames() == [one, two, three]
    world.switch.receive(plugged, [packet_of(frame(BROADCAST, mac(5)))], 0.0)
    world.switch.tick(0.0)
    world.got()
    assert mirror.frames() == []
    world.switch.unplug(plugged)
    world.send(0, one)
    assert mirror.frames() == []


def probes(world: World, now: float) -> list[list[bytes]]:
    world.switch.tick(now)
    return world.got()


def test_a_probe_that_comes_back_blocks_the_later_port_until_it_stays_away():
    world = World(probe_interval_s=2.0, block_s=30.0)
    assert world.switch.deadline() == 0.0
    sent = probes(world, 0.0)
    assert [len(got) for got in sent] == [1, 1, 1]
    assert world.switch.deadline() == 2.0
    world.send(2, frame(BROADCAST, mac(2)), now=0.0)
    world.got()
    world.send(2, *sent[1], now=0.1)
    assert world.loops() == [{"sign": "probe", "port": "port2", "other": "port1"}]
    assert world.switch.shown(0.1)["ports"][2]["blocked_s"] == 30.0
    assert world.switch.shown(0.1)["addresses"] == []
    assert world.got() == [[], [], []], "a probe goes no further"

    world.send(2, frame(BROADCAST, mac(2)), now=0.2)
    world.send(0, one := frame(BROADCAST, mac(0)), now=0.2)
    assert world.got() == [[], [one], []]
    assert world.drops(2) == {"blocked": 1}

    sent = probes(world, 20.0)
    assert [len(got) for got in sent] == [1, 1, 0]
    world.send(2, *sent[1], now=20.0)
    assert len(world.loops()) == 1, "reported once"
    world.switch.tick(31.0)
    assert world.ports[2].blocked_until == 50.0
    world.switch.tick(50.0)
    world.got()
    assert world.ports[2].blocked_until is None
    world.send(2, two := frame(BROADCAST, mac(2)), now=50.0)
    assert world.got() == [[two], [two], []]
    assert world.notes[-1] == Note("port_unblocked", (("port", "port2"),), "info")


def test_a_port_that_returns_its_own_probe_is_blocked():
    world = World()
    sent = probes(world, 0.0)
    world.send(0, *sent[0], now=0.1)
    assert world.loops() == [{"sign": "probe", "port": "port0", "other": "port0"}]


def test_the_earlier_port_stays_when_the_later_ones_probe_comes_to_it():
    world = World()
    sent = probes(world, 0.0)
    world.send(0, frame(BROADCAST, mac(0)), *sent[2], frame(BROADCAST, mac(0)), now=0.1)
    assert [port.blocked_until is not None for port in world.ports] == [False, False, True]
    assert [len(got) for got in world.got()] == [0, 2, 0]
    assert world.drops(2) == {"blocked": 2}


def test_a_probe_that_was_tampered_with_or_is_old_blocks_nobody():
    world = World()
    (probe,) = probes(world, 0.0)[0]
    number = 14 + 16 + 3
    other_port = probe[:number] + b"\x02" + probe[number + 1 :]
    another_switch = Switch(bytes(16))
    another_switch.plug(sink := Sink("x"))
    another_switch.tick(0.0)
    foreign = sink.frames()[0]
    world.send(2, other_port, foreign, probe[:40], now=0.1)
    assert world.loops() == []
    assert [len(got) for got in world.got()] == [3, 3, 0], (
        "other switches' probes travel on, so that they find their loops"
    )
    probes(world, 2.0)
    probes(world, 4.0)
    world.send(2, probe, now=4.1)
    assert world.loops() == []


def test_the_probe_of_a_port_that_is_gone_is_dropped():
    world = World()
    sent = probes(world, 0.0)
    world.switch.unplug(world.ports[0])
    world.send(2, *sent[0], now=0.1)
    assert world.got() == [[], [], []]
    assert world.loops() == []


def test_an_address_that_flaps_is_held_where_it_was_first():
    world = World(flap_limit=10, block_s=30.0)
    world.send(1, frame(BROADCAST, mac(7)), now=0.0)
    for turn in range(12):
        world.send(2 - turn % 2, frame(BROADCAST, mac(7)), now=0.5 + turn / 100)
    (loop,) = world.loops()
    assert loop == {"sign": "flapping", "address": "02:00:00:00:00:07", "port": "port1", "other": "port2"}
    world.got()
    world.send(2, frame(BROADCAST, mac(7)), now=1.0)
    assert world.got() == [[], [], []]
    assert world.drops(2)["flapping"] >= 1
    world.send(0, frame(mac(7), mac(0)), now=20.0)
    assert [len(got) for got in world.got()] == [0, 1, 0], "the victim keeps its traffic"
    world.send(2, frame(BROADCAST, mac(7)), now=31.0)
    assert [len(got) for got in world.got()] == [1, 1, 0], "after the hold time it may move again"
    assert world.switch.shown(31.0)["loops"] == 1


def test_moving_now_and_then_is_no_loop():
    world = World(flap_limit=10)
    for turn in range(100):
        world.send(turn % 2, frame(BROADCAST, mac(7)), now=turn * 0.2)
    assert world.loops() == []
    assert world.drops(0) == world.drops(1) == {}


def test_a_wire_between_two_ports_is_found_before_it_melts():
    """Two ports joined outside, each frame carried over: the probes end it, and the third port's traffic survives."""
    world = World(flood_limit=1000)
    now = 0.0
    world.send(0, frame(BROADCAST, mac(0)), now=now)
    carried = 0
    for _ in range(5000):
        now += 0.01
        due = world.switch.deadline()
        if due is not None and now >= due:
            world.switch.tick(now)
        moved = [(2, one) for one in world.sinks[1].frames()] + [(1, one) for one in world.sinks[2].frames()]
        for port, one in moved:
            world.send(port, one, now=now)
            carried += 1
        if world.ports[2].blocked_until is not None and not moved:
            break
    assert world.ports[2].blocked_until is not None
    assert {"port": "port2", "other": "port1", "sign": "probe"} in world.loops()
    assert carried < 1000
    world.got()
    world.send(0, hello := frame(BROADCAST, mac(0)), now=now + 60.0)
    assert hello in world.got()[1]


@settings(deadline=None)
@given(st.data())
def test_a_random_life_against_a_plain_model(data):
    """Every frame reaches exactly the ports that a dictionary of last places says, or is counted as dropped."""
    world = World(4, flap_limit=1_000_000, flood_limit=1_000_000)
    places: dict[bytes, int] = {}
    for step in range(data.draw(st.integers(1, 30))):
        port = data.draw(st.integers(0, 3))
        batch = []
        expected: list[list[bytes]] = [[], [], [], []]
        filtered = 0
        for number in range(data.draw(st.integers(1, 6))):
            source = mac(data.draw(st.integers(0, 5)))
            destination = data.draw(st.sampled_from([BROADCAST, *(mac(other) for other in range(6))]))
            one = frame(destination, source, bytes([step, number]) * 23)
            batch.append(one)
            places[source] = port
            if destination in places:
                filtered += places[destination] == port
                goals = {places[destination]} - {port}
            else:
                goals = {0, 1, 2, 3} - {port}
            for goal in goals:
                expected[goal].append(one)
        before = world.ports[port].drops["same_port"]
        world.send(port, *batch, now=float(step))
        assert world.got() == expected
        assert world.ports[port].drops["same_port"] - before == filtered


def test_a_port_shows_itself():
    port = SwitchPort(Sink("p", mtu=9000), 1, AddressTable(300.0, 16), vlan=1, mirror=False, flood_limit=1)
    assert port.shown(0.0) == {
        "name": "p", "mtu": 9000, "mirror": False, "rx_packets": 0, "rx_bytes": 0, "tx_packets": 0, "tx_bytes": 0,
        "drops": {}, "blocked_s": None, "state": "ok", "vlan": 1,
    }  # fmt: skip
