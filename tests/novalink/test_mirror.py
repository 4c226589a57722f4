"""The mirror: after any changes it is what the platform is, and clients are told of each in order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from novalink_rig import UUIDS, Platform, partition

from pvnet.novalink.mirror import Fetch, Mirror, MirrorError
from pvnet.pb.v1.management_pb2 import Change, ManagementReply, Partition, Switch


async def fetched(platform):
    fetch = Fetch()
    while (command := fetch.next_command()) is not None:
        fetch.take(await platform.run(command, timeout=1.0))
    return fetch


async def caught_up(mirror, platform):
    batch = mirror.batch(await platform.run(mirror.watch_command(0), timeout=1.0))
    if batch.missed:
        return mirror.restore(await fetched(platform))
    while (command := batch.next_command()) is not None:
        batch.take(await platform.run(command, timeout=1.0))
    return mirror.apply(batch)


def same(mirror, platform):
    ledger = platform.ledger
    return (mirror.system, mirror.partitions, mirror.switches, mirror.revision) == (
        ledger.system,
        ledger.partitions,
        ledger.switches,
        ledger.revision,
    )


async def test_the_first_picture_tells_nothing_and_a_later_one_tells_everything():
    platform, mirror = Platform(), Mirror()
    assert mirror.restore(await fetched(platform)) == []
    assert same(mirror, platform)
    (happened,) = mirror.restore(await fetched(platform))
    assert happened.object == Change.OBJECT_UNSPECIFIED


async def test_changes_are_told_in_order_with_the_new_state():
    platform, mirror = Platform(), Mirror()
    mirror.restore(await fetched(platform))
    platform.put("web", state=Partition.STARTING)
    platform.put("web", state=Partition.RUNNING, guest_ready=True)
    told = [(one.uuid, one.detail) for one in await caught_up(mirror, platform)]
    assert told == [(UUIDS["web"], detail) for detail in ("PartitionState", "PartitionState", "RMCState")]
    assert same(mirror, platform)


async def test_a_partition_that_goes_takes_its_adapters_along():
    platform, mirror = Platform(), Mirror()
    mirror.restore(await fetched(platform))
    platform.ledger.drop_partition("web")
    told = await caught_up(mirror, platform)
    assert (told[-1].kind, told[-1].uuid) == (Change.REMOVED, UUIDS["web"])
    adapter = told[0]
    assert (adapter.object, adapter.kind, adapter.partition_uuid) == (Change.ADAPTER, Change.REMOVED, UUIDS["web"])
    assert same(mirror, platform)


async def test_a_list_of_changes_that_was_too_short_is_said_to_be():
    platform, mirror = Platform(), Mirror()
    mirror.restore(await fetched(platform))
    for number in range(5000):
        platform.put("web", restarts=number + 1)
    (happened,) = await caught_up(mirror, platform)
    assert happened.object == Change.OBJECT_UNSPECIFIED
    assert same(mirror, platform)


async def test_a_switch_keeps_its_number_when_another_goes():
    platform, mirror = Platform(), Mirror()
    for name in ("a", "b"):
        platform.ledger.put_switch(Switch(name=name, uuid=name))
    mirror.restore(await fetched(platform))
    assert mirror.switch_ids == {"net0": 0, "a": 1, "b": 2}
    platform.ledger.drop_switch("a")
    await caught_up(mirror, platform)
    assert mirror.switch_ids == {"net0": 0, "b": 2}
    platform.ledger.put_switch(Switch(name="c", uuid="c"))
    await caught_up(mirror, platform)
    assert mirror.switch_ids == {"net0": 0, "b": 2, "c": 1}


@pytest.mark.parametrize(
    "reply",
    [
        ManagementReply(status=ManagementReply.FAILED, text="broken"),
        ManagementReply(),  # no system
    ],
)
def test_an_answer_that_is_none_is_an_error(reply):
    fetch = Fetch()
    assert fetch.next_command().WhichOneof("command") == "show_system"
    with pytest.raises(MirrorError):
        fetch.take(reply)


async def test_a_list_that_goes_in_circles_is_an_error():
    platform, fetch = Platform(), Fetch()
    while (command := fetch.next_command()).WhichOneof("command") != "list_partitions":
        fetch.take(await platform.run(command, timeout=1.0))
    fetch.take(ManagementReply(partitions=[partition("mp", 1)], next=1))
    assert fetch.next_command().list_partitions.first == 1
    with pytest.raises(MirrorError):
        fetch.take(ManagementReply(partitions=[partition("web", 2)], next=1))


async def test_another_partition_than_was_asked_for_is_an_error():
    platform, mirror = Platform(), Mirror()
    mirror.restore(await fetched(platform))
    platform.put("web", state=Partition.STARTING)
    batch = mirror.batch(await platform.run(mirror.watch_command(0), timeout=1.0))
    with pytest.raises(MirrorError):
        batch.take(ManagementReply(partitions=[partition("mp", 1)]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["on", "off", "drop", "add", "label", "catch up"]), max_size=40))
async def test_after_any_changes_it_is_what_the_platform_is(steps):
    platform, mirror = Platform(), Mirror()
    mirror.restore(await fetched(platform))
    ledger, told = platform.ledger, []
    for number, step in enumerate([*steps, "catch up"]):
        there = "web" in ledger.partitions
        if step == "catch up":
            told += await caught_up(mirror, platform)
            assert same(mirror, platform)
        elif step == "drop" and there:
            ledger.drop_partition("web")
        elif step == "add" and not there:
            ledger.put_partition(partition("web", 2))
        elif step in {"on", "off"} and there:
            platform.put("web", state=Partition.RUNNING if step == "on" else Partition.OFF)
        elif step == "label" and there:
            platform.put("web", label=f"label {number}")
    revisions = [one.revision for one in told]
    assert revisions == sorted(set(revisions))
