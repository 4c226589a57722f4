"""What commands make of a topology: nothing but what they say changes, and what cannot be is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.pb.v1.management_pb2 import (
    CreateAdapter,
    CreatePartition,
    ManagementReply,
    ModifyAdapter,
    ModifyPartition,
    Processors,
)
from pvnet.runtime import platform_edit as edit
from pvnet.runtime.platform_edit import ADAPTERS_MAX, Refusal
from pvnet.runtime.platform_view import OFF, PARTITION_BYTES, REPLY_BYTES, partition_message, switch_message
from pvnet.runtime.topology import (
    CrqPair,
    PartitionConfig,
    PartitionVmc,
    SwitchConfig,
    SystemConfig,
    Topology,
    VenetConfig,
    default_topology,
)
from pvnet.runtime.topology_wire import packed, unpacked

MIB = 1 << 20


def shown(topology: Topology) -> dict[str, str]:
    """Every object as a client sees it."""
    objects = {f"partition {p.name}": str(partition_message(topology, p, OFF)[0]) for p in topology.partitions}
    return objects | {f"switch {s.name}": str(switch_message(topology, s)) for s in topology.switches}


def made(topology: Topology, **given: Any) -> tuple[Topology, PartitionConfig]:
    new, name = edit.create_partition(topology, CreatePartition(**given))
    return new, new.partition(name)


def test_what_is_not_given_is_chosen() -> None:
    topology = edit.pinned(default_topology())
    topology, first = made(topology, label="Web Server #1")
    assert (first.name, first.label, topology.lpar_id(first.name)) == ("web-server-1", "Web Server #1", 4)
    assert (first.memory, first.autostart, first.type) == (16 * MIB, False, "aix-linux")
    topology, second = made(topology, label="Web-Server 1")
    assert second.name == "web-server-1-2"
    topology, third = made(topology, label="web-server-1-2x" + "y" * 16, lpar_id=9)
    assert (third.lpar_id, third.label) == (9, None)
    _, fourth = made(topology, label="link-x")
    assert fourth.name == "p-link-x", "names that mean other labs' bridges are not made"
    _, fifth = made(topology, label="Manager")
    assert fifth.name == "manager-2"
    _, sixth = made(topology, label="日本")
    assert (sixth.name, sixth.label) == ("p", "日本")


def test_large_regions_need_more_than_the_usual_memory() -> None:
    topology = Topology(system=SystemConfig(memory_region=256 * MIB))
    assert made(topology, label="a")[1].memory == 256 * MIB


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        ({}, "label", "expected a name for people"),
        ({"label": "x" * 32}, "label", "1 to 31 printable"),
        ({"label": " x"}, "label", "no space at either end"),
        ({"label": "a\nb"}, "label", "printable"),
        ({"name": "NO", "label": "x"}, "name", "expected 1 to 32 of a-z"),
        ({"label": "x", "lpar_id": 65536}, "lpar_id", "65536: expected less than or equal to 65535"),
        ({"label": "x", "uuid": "zz"}, "uuid", "'zz': expected a UUID"),
        ({"label": "x", "memory_bytes": 5}, "memory_bytes", "5 bytes: expected a multiple of 1 MiB"),
        ({"label": "x", "memory_bytes": MIB}, "memory_bytes", "expected 1028KiB to 64GiB"),
        ({"label": "x", "memory_bytes": 1 << 63}, "memory_bytes", "expected 1028KiB to 64GiB"),
        ({"label": "x", "type": "vax"}, "type", "'vax': expected 'aix-linux' or 'os400'"),
        ({"label": "x", "processors": Processors(units=1)}, "processors.units", "expected greater"),
        (
            {"label": "x", "processors": Processors(units=101)},
            "processors.units",
            r"1\.01: expected 0\.05 to 1: 0\.05 to 1",
        ),
        (
            {"label": "x", "processors": Processors(units=14, virtual=3)},
            "processors.units",
            r"0\.14: expected 0\.15 to 3",
        ),
        ({"label": "x", "processors": Processors(virtual=3)}, "processors.units", r"0\.1: expected 0\.15 to 3"),
        ({"label": "x", "processors": Processors(units=50, max_units=20)}, "processors", "min_units <= units"),
        ({"label": "x", "processors": Processors(dedicated=True, units=50)}, "processors", "whole processors"),
        ({"label": "x", "memory_bytes": 2 * MIB, "min_memory_bytes": 4 * MIB}, "memory_bytes", "min_memory <= memory"),
    ],
)
def test_what_no_partition_can_be_is_refused_by_field(given: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(Refusal, match=text) as caught:
        edit.create_partition(default_topology(), CreatePartition(**given))
    assert (caught.value.status, caught.value.field) == (ManagementReply.INVALID, field)


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        ({"label": "Web"}, "label", "'Web' is the name of another partition"),
        ({"name": "mp", "label": "x"}, "name", "'mp' is taken"),
        ({"name": "supervisor", "label": "x"}, "name", "taken"),
        ({"name": "state", "label": "x"}, "name", "taken"),
        ({"label": "x", "lpar_id": 4}, "lpar_id", r"4 is that of Web \(web\): expected a free number"),
        ({"label": "x", "uuid": "C0FFEE00-0000-4000-8000-0000000000AA"}, "uuid", r"is that of Web \(web\)"),
    ],
)
def test_what_another_partition_has_is_a_conflict(given: dict[str, Any], field: str, text: str) -> None:
    web = {"label": "Web", "uuid": "c0ffee00-0000-4000-8000-0000000000aa"}
    topology, _ = made(default_topology(), **web)
    with pytest.raises(Refusal, match=text) as caught:
        edit.create_partition(topology, CreatePartition(**given))
    assert (caught.value.status, caught.value.field) == (ManagementReply.CONFLICT, field)
    with pytest.raises(Refusal, match="'Web' is the name of another") as caught:
        edit.modify_partition(topology, ModifyPartition(name="lpar1", label="Web"))
    assert (caught.value.status, caught.value.field) == (ManagementReply.CONFLICT, "label")


def test_what_another_adapter_has_is_a_conflict() -> None:
    topology = edit.modify_partition(default_topology(), ModifyPartition(name="lpar2", label="Two"))
    address = "02:00:00:00:03:01"
    for command, field, text in (
        (CreateAdapter(partition="lpar1", slot=2), "slot", "2 is used"),
        (CreateAdapter(partition="lpar1", mac=address), "mac", r"is that of Two \(lpar2\) in slot 2"),
        (ModifyAdapter(partition="lpar1", slot=2, mac=address), "mac", r"is that of Two \(lpar2\) in slot 2"),
    ):
        change = edit.create_adapter if isinstance(command, CreateAdapter) else edit.modify_adapter
        with pytest.raises(Refusal, match=text) as caught:
            change(topology, command)  # type: ignore[operator]
        assert (caught.value.status, caught.value.field) == (ManagementReply.CONFLICT, field)
    with pytest.raises(Refusal, match="'net0' is the name of another switch") as caught:
        edit.create_switch(topology, "net0")
    assert caught.value.status == ManagementReply.CONFLICT


def test_dedicated_processors_have_no_units_of_virtual_ones() -> None:
    new, one = made(default_topology(), label="x", processors=Processors(dedicated=True, units=300, weight=1))
    assert (one.processors.dedicated, one.processors.units) == (True, 3)
    more = ModifyPartition(name="x", processors=Processors(units=300, virtual=3, weight=1))
    assert edit.modify_partition(new, more).partition("x").processors.virtual == 3


def test_there_is_an_end_to_partitions() -> None:
    topology = Topology(partition=[PartitionConfig(name=f"p{n}", autostart=False) for n in range(1000)])
    with pytest.raises(Refusal, match="there are 1000 partitions") as caught:
        edit.create_partition(topology, CreatePartition(label="x"))
    assert caught.value.status == ManagementReply.CONFLICT


def test_numbers_do_not_shift_when_a_neighbour_goes() -> None:
    topology = edit.pinned(Topology(partition=[PartitionConfig(name=name) for name in ("a", "b", "c")]))
    new = edit.delete_partition(topology, "a")
    assert [new.lpar_id(p.name) for p in new.partitions] == [2, 3]
    assert made(new, label="d")[1].lpar_id == 1, "the next free"
    assert (new.system_memory, new.system_processors) == (topology.system_memory, topology.system_processors)


def test_what_was_shown_stays_when_only_the_desired_memory_changes() -> None:
    topology = default_topology()
    with pytest.raises(Refusal, match=r"32 MiB: expected 16 MiB .* to 16 MiB") as caught:
        edit.modify_partition(topology, ModifyPartition(name="lpar1", memory_bytes=32 * MIB))
    assert caught.value.field == "memory_bytes"
    new = edit.modify_partition(
        topology, ModifyPartition(name="lpar1", memory_bytes=32 * MIB, max_memory_bytes=64 * MIB, label="X")
    ).partition("lpar1")
    assert (new.min_memory, new.memory, new.max_memory, new.label) == (16 * MIB, 32 * MIB, 64 * MIB, "X")
    assert edit.modify_partition(topology, ModifyPartition(name="lpar1")) is topology


def test_a_partition_keeps_the_memory_that_its_adapters_need() -> None:
    management = PartitionConfig(name="mp", management=True, vmc=PartitionVmc(max_hmcs=64))
    less = ModifyPartition(name="mp", memory_bytes=4 * MIB, min_memory_bytes=4 * MIB)
    with pytest.raises(Refusal, match="for its queues and buffers") as caught:
        edit.modify_partition(Topology(partition=[management]), less)
    assert caught.value.field == "memory_bytes"


def test_more_than_the_machine_has_is_refused_for_what_starts_by_itself() -> None:
    topology = Topology(system=SystemConfig(memory="64MiB"), partition=[PartitionConfig(name="a")])
    more = ModifyPartition(name="a", memory_bytes=128 * MIB, max_memory_bytes=128 * MIB)
    with pytest.raises(Refusal, match=r"system\.memory of at least 134217728"):
        edit.modify_partition(topology, more)


def test_a_partition_that_something_else_names_is_not_deleted() -> None:
    with pytest.raises(Refusal, match="lpar1 has the mediated device c0ffee00"):
        edit.delete_partition(default_topology(), "lpar1")
    with pytest.raises(Refusal, match="mp is the management partition"):
        edit.delete_partition(default_topology(), "mp")
    pair = CrqPair(a="x:0x30000010", b="y:0x30000010")
    topology = Topology(partition=[PartitionConfig(name="x"), PartitionConfig(name="y")], crq=[pair])
    with pytest.raises(Refusal, match="y is an end of the CRQ pair x:0x30000010 - y:0x30000010"):
        edit.delete_partition(topology, "y")


# --- switches and adapters -------------------------------------------------------------------------------------------


def test_adapters_keep_slots_addresses_and_devices_when_a_neighbour_goes() -> None:
    two = PartitionConfig(name="a", venet=[VenetConfig(), VenetConfig(vlan=7)])
    topology = Topology(partition=[two], switch=[SwitchConfig()])
    before = partition_message(topology, topology.partition("a"), OFF)[0].adapters
    new = edit.delete_adapter(topology, "a", 2)
    (left,) = partition_message(new, new.partition("a"), OFF)[0].adapters
    assert left == before[1]
    assert (left.device, left.slot, left.mac) == ("a-eth1", 3, "02:00:00:00:01:02")
    new, slot = edit.create_adapter(new, CreateAdapter(partition="a"))
    assert slot == 2
    new, slot = edit.create_adapter(new, CreateAdapter(partition="a", slot=1000, vlan=9))
    third = partition_message(new, new.partition("a"), OFF)[0].adapters[2]
    assert (third.slot, third.device, third.vlan, third.switch) == (1000, "a-eth998", 9, "net0")
    assert third.mac.startswith("02:")


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        ({"slot": 1}, "slot", "1: expected greater than or equal to 2"),
        ({"slot": 70000}, "slot", "expected less than or equal to 65535"),
        ({"vlan": 4095}, "vlan", "4095: expected less than or equal to 4094"),
        ({"switch": "nope"}, "switch", "'nope': expected one of net0"),
        ({"mac": "01:00:00:00:00:01"}, "mac", "expected a unicast MAC"),
    ],
)
def test_what_no_adapter_can_be_is_refused_by_field(given: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(Refusal, match=text) as caught:
        edit.create_adapter(default_topology(), CreateAdapter(partition="lpar1", **given))
    assert (caught.value.status, caught.value.field) == (ManagementReply.INVALID, field)


def test_without_a_switch_one_is_told_what_to_make() -> None:
    topology = Topology(partition=[PartitionConfig(name="a")])
    with pytest.raises(Refusal, match=r"the lab has none: make one first \(CreateSwitch"):
        edit.create_adapter(topology, CreateAdapter(partition="a"))


def test_an_adapter_is_changed_where_the_command_says() -> None:
    topology, name = edit.create_switch(default_topology(), "Other Net")
    assert name == "other-net"
    new = edit.modify_adapter(topology, ModifyAdapter(partition="lpar1", slot=2, switch=name, vlan=5))
    (venet,) = new.partition("lpar1").venet
    assert (venet.switch, venet.vlan, venet.mac, venet.address) == (name, 5, "02:00:00:00:02:01", "10.77.0.1/24")
    with pytest.raises(Refusal, match="is that of lpar2 in slot 2"):
        edit.modify_adapter(topology, ModifyAdapter(partition="lpar1", slot=2, mac="02:00:00:00:03:01"))
    with pytest.raises(Refusal, match="no adapter of lpar1 in slot 9; there are: 2") as caught:
        edit.modify_adapter(topology, ModifyAdapter(partition="lpar1", slot=9))
    assert caught.value.status == ManagementReply.NOT_FOUND
    with pytest.raises(Refusal, match=r"switch Other Net \(other-net\) has the adapter of lpar1 in slot 2"):
        edit.delete_switch(new, name)
    assert edit.delete_switch(topology, name).switches == default_topology().switches


def test_switches_are_as_many_as_one_message_lists() -> None:
    topology = default_topology()
    with pytest.raises(Refusal, match="as many as can be listed"):  # noqa: PT012 - one of many
        for number in range(200):
            topology, _ = edit.create_switch(topology, f"network number {number}")
    assert 15 < len(topology.switches) < 60
    with pytest.raises(Refusal, match="'net0' is the name of another switch"):
        edit.create_switch(topology, "net0")
    ports = Topology(switch=[SwitchConfig(ports=["tap:x"])])
    with pytest.raises(Refusal, match="switch net0 has the port tap:x"):
        edit.delete_switch(ports, "net0")


def test_adapters_are_as_many_as_one_message_shows() -> None:
    topology = default_topology()
    with pytest.raises(Refusal, match="as many as"):  # noqa: PT012 - one of many
        for _ in range(ADAPTERS_MAX + 1):
            topology, _ = edit.create_adapter(topology, CreateAdapter(partition="lpar2"))
    message, left_out = partition_message(topology, topology.partition("lpar2"), OFF)
    assert (left_out, len(message.adapters)) == (0, len(topology.partition("lpar2").venet))
    assert len(message.adapters) > 20
    assert message.ByteSize() <= PARTITION_BYTES


def test_a_topology_with_more_is_shown_cut() -> None:
    many = PartitionConfig(name="a", venet=[VenetConfig(address=f"10.0.{n}.1/24") for n in range(100)])
    topology = Topology(partition=[many], switch=[SwitchConfig()])
    message, left_out = partition_message(topology, many, OFF)
    assert left_out == 100 - len(message.adapters) > 0
    assert message.ByteSize() <= PARTITION_BYTES


# --- any commands in any order ---------------------------------------------------------------------------------------

NAMES = st.sampled_from(["lpar1", "lpar2", "new", "new-2", "mp"])
COMMANDS = st.one_of(
    st.builds(
        CreatePartition,
        label=st.sampled_from(["new", "New", "ñew", ""]),
        lpar_id=st.sampled_from([0, 1, 7]),
        memory_bytes=st.sampled_from([0, 1, 16 * MIB, 32 * MIB]),
    ),
    st.builds(
        ModifyPartition,
        name=NAMES,
        label=st.sampled_from([None, "new", "x", ""]),
        memory_bytes=st.sampled_from([None, 2 * MIB, 64 * MIB]),
        max_memory_bytes=st.sampled_from([None, 64 * MIB]),
    ),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("switch"), st.sampled_from(["net0", "Net 1", "b"])),
    st.tuples(st.just("delete switch"), st.sampled_from(["net0", "net-1", "b"])),
    st.builds(
        CreateAdapter,
        partition=NAMES,
        slot=st.sampled_from([0, 1, 2, 4, 65535]),
        switch=st.sampled_from(["", "net0", "b"]),
        vlan=st.sampled_from([0, 1, 4094, 4095]),
        mac=st.sampled_from(["", "02:00:00:00:02:01", "02:00:00:00:07:01", "x"]),
    ),
    st.builds(
        ModifyAdapter,
        partition=NAMES,
        slot=st.sampled_from([2, 3, 4]),
        vlan=st.sampled_from([None, 0, 5]),
        mac=st.sampled_from([None, "02:00:00:00:03:01"]),
    ),
    st.tuples(st.just("delete adapter"), NAMES, st.sampled_from([2, 3, 4])),
)


def run(topology: Topology, command: Any) -> tuple[Topology, set[str]]:
    """Do it; also say which objects may look different afterwards."""
    match command:
        case CreatePartition():
            new, name = edit.create_partition(topology, command)
            return new, {f"partition {name}"}
        case ModifyPartition():
            return edit.modify_partition(topology, command), {f"partition {command.name}"}
        case "delete", name:
            return edit.delete_partition(topology, name), {f"partition {name}"}
        case "switch", label:
            new, name = edit.create_switch(topology, label)
            return new, {f"switch {name}"}
        case "delete switch", name:
            return edit.delete_switch(topology, name), {f"switch {name}"}
        case CreateAdapter():
            return edit.create_adapter(topology, command)[0], {f"partition {command.partition}"}
        case ModifyAdapter():
            return edit.modify_adapter(topology, command), {f"partition {command.partition}"}
        case "delete adapter", name, slot:
            return edit.delete_adapter(topology, name, slot), {f"partition {name}"}
    raise AssertionError(command)


def names_nothing(topology: Topology, command: Any) -> bool:
    """Whether the command is about what is not there: its caller has checked that."""
    partitions = {p.name for p in topology.partitions}
    match command:
        case ModifyPartition() | CreateAdapter() | ModifyAdapter() | ("delete", _) | ("delete adapter", _, _):
            if isinstance(command, tuple):
                return command[1] not in partitions
            return (command.name if isinstance(command, ModifyPartition) else command.partition) not in partitions
        case "delete switch", name:
            return name not in {s.name for s in topology.switches}
    return False


@settings(deadline=None)
@given(st.lists(COMMANDS, max_size=25))
def test_any_commands_leave_a_topology_and_its_neighbours_alone(commands: list[Any]) -> None:
    topology = default_topology()
    first = shown(topology)
    topology = edit.pinned(topology)
    assert shown(topology) == first, "writing out what was assigned changes nothing that one sees"
    refused: list[Refusal] = []
    for command in commands:
        if names_nothing(topology, command):
            continue
        before = shown(topology)
        try:
            topology, mine = run(topology, command)
        except Refusal as refusal:
            refused.append(refusal)
            continue
        after = shown(topology)
        assert {k: v for k, v in before.items() if k not in mine} == {k: v for k, v in after.items() if k not in mine}
        assert edit.pinned(topology) is topology
    assert unpacked(packed(topology), topology.broker) == topology, "a node makes the same of it"
    for refusal in refused:
        assert refusal.status in {ManagementReply.INVALID, ManagementReply.CONFLICT, ManagementReply.NOT_FOUND}
        assert 0 < len(str(refusal)) <= 500
        assert "\n" not in str(refusal)
    ids = [topology.lpar_id(p.name) for p in topology.partitions]
    macs = [topology.venet_mac(p, n) for p in topology.partitions for n in range(len(p.venet))]
    assert len(set(ids)) == len(ids)
    assert len(set(macs)) == len(macs)
    assert sum(switch_message(topology, s).ByteSize() for s in topology.switches) < REPLY_BYTES
