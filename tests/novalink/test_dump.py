"""A topology that is shown, dumped and read again is shown the same; what a lab cannot have is said."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import RefusedError
from pvnet.core.names import NAME_PATTERN
from pvnet.novalink.dump import Found, FoundPartition, Options, slug, topology_text
from pvnet.novalink.markup import Element
from pvnet.novalink.names import UOM_NS
from pvnet.novalink.network_documents import client_network_adapter, virtual_switch
from pvnet.novalink.partition_documents import logical_partition, persistent_memory_volume
from pvnet.novalink.system_documents import managed_system
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Partition
from pvnet.runtime.platform_view import Facts, partition_message, switch_message, system_message
from pvnet.runtime.topology import PartitionConfig, ScmConfig, Topology
from pvnet.runtime.topology_file import load_topology, parse_topology
from pvnet.runtime.topology_net import SwitchConfig, VenetConfig
from pvnet.runtime.topology_system import ProcessorsConfig, SystemConfig

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options("https://127.0.0.1:12443")


def view_of(topology: Topology) -> View:
    """What a lab of that topology is after its start."""

    def message(partition: PartitionConfig) -> Partition:
        state = Partition.RUNNING if partition.autostart else Partition.OFF
        shown, _ = partition_message(topology, partition, Facts(state, memory=partition.memory * partition.autostart))
        return shown

    return View(
        system_message(topology, memory_used=0, units_used=0),
        tuple(map(message, topology.partitions)),
        tuple(switch_message(topology, switch) for switch in topology.switches),
    )


def found_in(view: View) -> Found:
    return Found(
        "pvm",
        managed_system(view).content,
        tuple(
            FoundPartition(
                logical_partition(view, p).content,
                tuple(client_network_adapter(view, p, a).content for a in p.adapters),
                tuple(persistent_memory_volume(view, p, v).content for v in p.scm),
            )
            for p in view.partitions
        ),
        tuple(virtual_switch(view, s).content for s in view.switches),
    )


def round_trip(topology: Topology) -> Topology:
    """See that the topology made of a lab's documents gives the same documents; return it."""
    found = found_in(view_of(topology))
    made = parse_topology(topology_text(found, OPTIONS))
    assert found_in(view_of(made)) == found
    return made


def test_the_example_comes_back() -> None:
    made = round_trip(load_topology(ROOT / "examples" / "novalink.pvnet.toml"))
    assert [p.name for p in made.partitions] == ["neo-mgmt", "web-1", "db-1"]
    assert [v.vlan for p in made.partitions for v in p.venet] == [1, 1, 20]
    assert made.novalink is not None


LABELS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=31).filter(
    lambda text: text.isprintable() and text == text.strip()
)
MIB = 1 << 20


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    switches = [
        SwitchConfig(name=f"net{number}", label=label, mtu=1500)
        for number, label in enumerate(draw(st.lists(LABELS, max_size=3, unique=True)))
    ]
    partitions = []
    for number, label in enumerate(draw(st.lists(LABELS, min_size=1, max_size=4, unique=True))):
        low, memory, high = sorted(draw(st.lists(st.integers(2, 512), min_size=3, max_size=3)))
        shares = sorted(draw(st.lists(st.integers(5, 400), min_size=3, max_size=3)))
        desired = draw(st.integers(-(-shares[1] // 100), min(64, shares[1] // 5)))
        virtual = [draw(st.integers(1, desired)), desired, draw(st.integers(desired, 64))]
        dedicated = draw(st.booleans())
        units = [1 + share // 100 if dedicated else share / 100 for share in shares]
        shared = {"virtual": virtual[1], "min_virtual": virtual[0], "max_virtual": virtual[2]} if not dedicated else {}
        slots = draw(st.lists(st.integers(2, 60), max_size=3, unique=True)) if switches else []
        partitions.append(
            PartitionConfig(
                name=f"p{number}",
                label=label,
                lpar_id=draw(st.one_of(st.none(), st.integers(100 * number + 1, 100 * number + 100))),
                type=draw(st.sampled_from(["aix-linux", "os400"])),
                management=number == 0,
                autostart=number == 0 or draw(st.booleans()),
                memory=memory * MIB,
                min_memory=low * MIB,
                max_memory=high * MIB,
                processors=ProcessorsConfig(
                    dedicated=dedicated,
                    units=units[1],
                    min_units=units[0],
                    max_units=units[2],
                    uncapped=dedicated or draw(st.booleans()),
                    weight=128 if dedicated else draw(st.integers(0, 255)),
                    **shared,
                ),
                venet=[
                    VenetConfig(
                        switch=draw(st.sampled_from([s.name for s in switches])),
                        slot=slot,
                        vlan=draw(st.integers(1, 4094)),
                        address=f"10.{number}.{index}.{draw(st.integers(1, 254))}/24" if draw(st.booleans()) else None,
                    )
                    for index, slot in enumerate(slots)
                ],
                scm=[
                    ScmConfig(size=blocks * MIB, block_size=MIB)
                    for blocks in draw(st.lists(st.integers(1, 64), max_size=2))
                ],
            )
        )
    return Topology(
        system=SystemConfig(name=draw(st.one_of(st.none(), LABELS)), memory=draw(st.integers(2048, 4096)) * MIB),
        partition=partitions,
        switch=switches,
        novalink={},
    )


@settings(deadline=None, max_examples=40)
@given(topologies())
def test_any_lab_comes_back(topology: Topology) -> None:
    round_trip(topology)


def test_ports_are_those_asked_for() -> None:
    found = found_in(view_of(load_topology(ROOT / "examples" / "novalink.pvnet.toml")))
    made = parse_topology(topology_text(replace(found, mode="hmc"), Options("x", port=0, http_port=7)))
    assert made.novalink is not None
    assert (made.novalink.port, made.novalink.http_port, made.novalink.mode) == (0, 7, "hmc")


# --- what a lab cannot have -------------------------------------------------------------------------------------------


def content(kind: str, *children: Element, identity: str = "") -> Element:
    atom = Element(UOM_NS, "Atom", children=(Element(UOM_NS, "AtomID", text=identity),))
    return Element(UOM_NS, kind, children=(Element(UOM_NS, "Metadata", children=(atom,)), *children))


def leaf(name: str, text: object) -> Element:
    return Element(UOM_NS, name, text=str(text))


SYSTEM = content("ManagedSystem", leaf("SystemName", "Server-1"), identity="11111111-1111-4111-8111-111111111111")


SWITCH = "33333333-3333-4333-8333-333333333333"


def partition(label: str, number: int, *more: Element, kind: str = "AIX/Linux") -> Element:
    fields = (leaf("PartitionName", label), leaf("PartitionID", number), leaf("PartitionType", kind))
    return content("LogicalPartition", *fields, *more, identity=f"22222222-2222-4222-8222-{number:012x}")


def test_servers_are_left_out_by_name_and_a_management_partition_is_added() -> None:
    found = Found(
        "hmc",
        SYSTEM,
        (FoundPartition(partition("Client 1", 5)), FoundPartition(partition("vios2", 2, kind="Virtual IO Server"))),
        servers=(partition("vios1", 1),),
    )
    text = topology_text(found, OPTIONS)
    assert "# Left out, because a lab has no Virtual IO Servers: vios1, vios2\n" in text
    made = parse_topology(text)
    assert [(p.name, p.shown_label, p.management) for p in made.partitions] == [
        ("client-1", "Client 1", False),
        ("pvnet-mp", "pvnet-mp", True),
    ]


def test_what_is_too_large_is_cut_and_said() -> None:
    memory = Element(
        UOM_NS,
        "PartitionMemoryConfiguration",
        children=(leaf("DesiredMemory", 4096), leaf("MinimumMemory", 1024), leaf("MaximumMemory", 1 << 20)),
    )
    label = "a name that is longer than thirty-one characters"
    text = topology_text(Found("pvm", SYSTEM, (FoundPartition(partition(label, 3, memory)),)), OPTIONS)
    assert f"# in full: {label}\n" in text
    assert "# max_memory is 1048576MiB there\n" in text
    made = parse_topology(text).partitions[0]
    assert (made.shown_label, made.max_memory) == (label[:31].strip(), 64 << 30)


def test_a_block_size_that_is_guessed_is_said_to_be() -> None:
    devices = [ScmConfig(size=16 * MIB, block_size=MIB), ScmConfig(size=3 * MIB, block_size=1 << 16)]
    topology = Topology(partition=[PartitionConfig(name="one", management=True, scm=devices)], novalink={})
    text = topology_text(found_in(view_of(topology)), OPTIONS)
    lines = [line for line in text.splitlines() if line.startswith("block_size")]
    assert lines == [
        'block_size = "16MiB"  # not told; this is a guess',
        'block_size = "1MiB"  # not told; this is a guess',
    ]
    assert [(d.size, d.block_size) for d in parse_topology(text).partitions[0].scm] == [
        (16 * MIB, 16 * MIB),
        (3 * MIB, MIB),
    ]


def test_an_adapter_without_switch_and_what_is_there_twice_are_said() -> None:
    switch = content("VirtualSwitch", leaf("SwitchName", "ETHERNET0"), identity=SWITCH)
    link = Element(UOM_NS, "link", {"href": f"https://x/rest/api/uom/VirtualSwitch/{SWITCH}?group=None"})
    at_switch = Element(UOM_NS, "AssociatedVirtualSwitch", children=(link,))

    def adapter(slot: int, *more: Element) -> Element:
        return content(
            "ClientNetworkAdapter", leaf("VirtualSlotNumber", slot), leaf("MACAddress", "FA0000000001"), *more
        )

    adapters = (
        adapter(3),
        adapter(4, at_switch, leaf("PortVLANID", 7), leaf("IPAddress", "10.0.1.0")),
        adapter(5, at_switch, leaf("TaggedVLANIDs", "10 11"), leaf("IPAddress", "fe80::1")),
    )
    text = topology_text(Found("pvm", SYSTEM, (FoundPartition(partition("one", 1), adapters),), (switch,)), OPTIONS)
    for said in (
        "it is at no virtual switch: adapter of slot 3, MAC FA0000000001",
        "# mac fa:00:00:00:00:01 is there twice",
        "# tagged VLANs are left out: 10 11",
        "# address fe80::1 cannot be had here",
    ):
        assert said in text
    venets = parse_topology(text).partitions[0].venet
    assert [(v.slot, v.vlan, v.mac, v.address) for v in venets] == [
        (4, 7, "fa:00:00:00:00:01", "10.0.1.0/16"),
        (5, 1, None, None),
    ]


def test_what_makes_no_topology_is_refused_with_the_value() -> None:
    same = (FoundPartition(partition("one", 1)), FoundPartition(partition("two", 1)))
    with pytest.raises(
        RefusedError, match=r"makes no topology: .*'22222222-2222-4222-8222-000000000001' is used twice"
    ):
        topology_text(Found("pvm", SYSTEM, same), OPTIONS)


@given(st.text(max_size=80))
@settings(deadline=None)
def test_hostile_names_stay_inside_their_strings(name: str) -> None:
    text = topology_text(Found("pvm", SYSTEM, (FoundPartition(partition(name, 1)),)), Options(name))
    made = parse_topology(text)
    assert len(made.partitions) == 2
    assert made.novalink is not None


@given(st.lists(st.text(max_size=60), max_size=12))
@settings(deadline=None)
def test_slugs_are_names_of_their_own(labels: list[str]) -> None:
    taken = ["hypervisor"]
    for label in labels:
        taken.append(slug(label, taken))
        assert re.fullmatch(NAME_PATTERN, taken[-1])
    assert all(a != b for a, b in pairwise(sorted(taken)))
    assert slug("link-east") == "lpar-link-east"
    assert slug("state") == "lpar-state"
