"""The ledger: revisions never repeat, the changes that a client reads lead from what it knew to what is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.pb.v1.management_pb2 import Adapter, Change, Partition, Switch, System
from pvnet.runtime.platform_ledger import Ledger

MANY = 1 << 20


def changes(ledger: Ledger, after: int) -> list[tuple[str, str, str, int, str]]:
    """What has happened since, as (kind, object, name, slot, detail)."""
    return [
        (Change.Kind.Name(c.kind), Change.Object.Name(c.object), c.name, c.slot, c.detail)
        for c in ledger.changes_after(after, MANY).changes
    ]


def test_one_change_per_object_and_none_without_a_difference() -> None:
    ledger = Ledger(1000)
    ledger.put_partition(Partition(name="a", uuid="u"))
    ledger.put_switch(Switch(name="net0"))
    ledger.begin()
    start = ledger.revision
    assert start == 1002
    ledger.put_partition(Partition(name="a", uuid="u"))
    ledger.put_switch(Switch(name="net0"))
    assert ledger.revision == start
    ledger.put_partition(Partition(name="a", uuid="u", label="other"))
    assert changes(ledger, start) == [("MODIFIED", "PARTITION", "a", 0, "Other")]
    assert ledger.partitions["a"].revision == ledger.revision == start + 1


def test_a_state_is_told_as_one_and_what_comes_with_it_is_not_told_again() -> None:
    ledger = Ledger(1)
    ledger.put_partition(Partition(name="a"))
    ledger.begin()
    start = ledger.revision
    running = Partition(name="a", state=Partition.RUNNING, pid=7, guest_ready=True, current_memory_bytes=5)
    ledger.put_partition(running)
    assert [c[4] for c in changes(ledger, start)] == ["PartitionState", "RMCState"]
    assert all(c.state == Partition.RUNNING for c in ledger.changes_after(start, MANY).changes)
    before = ledger.revision
    again = Partition()
    again.CopyFrom(running)
    again.restarts = 1
    ledger.put_partition(again)
    assert [c[4] for c in changes(ledger, before)] == ["Other"], (
        "a message that says something else has another revision"
    )
    before = ledger.revision
    ledger.put_partition(Partition(name="a", label="new"))
    assert [c[4] for c in changes(ledger, before)] == ["PartitionState", "RMCState", "Other"]


def test_adapters_have_revisions_of_their_own_and_change_their_partition() -> None:
    ledger = Ledger(1)
    ledger.put_partition(Partition(name="a", adapters=[Adapter(slot=2, vlan=1), Adapter(slot=3, vlan=1)]))
    ledger.begin()
    start = ledger.revision
    kept = ledger.partitions["a"].adapters[1].revision
    ledger.put_partition(Partition(name="a", adapters=[Adapter(slot=3, vlan=1), Adapter(slot=4), Adapter(slot=5)]))
    assert changes(ledger, start) == [
        ("ADDED", "ADAPTER", "a", 4, ""),
        ("ADDED", "ADAPTER", "a", 5, ""),
        ("REMOVED", "ADAPTER", "a", 2, ""),
        ("MODIFIED", "PARTITION", "a", 0, "Other"),
    ]
    assert [a.revision for a in ledger.partitions["a"].adapters] == [kept, start + 1, start + 2]
    before = ledger.revision
    ledger.drop_partition("a")
    assert [c[:2] for c in changes(ledger, before)] == [("REMOVED", "ADAPTER")] * 3 + [("REMOVED", "PARTITION")]


def test_what_was_forgotten_is_missed_and_so_is_the_future() -> None:
    ledger = Ledger(100, limit=3)
    for number in range(5):
        ledger.put_system(System(name="s", free_memory_bytes=number + 1))
    assert ledger.revision == 105
    for after, missed in ((99, True), (101, True), (102, False), (104, False), (105, False), (106, True), (0, False)):
        answer = ledger.changes_after(after, MANY)
        assert (answer.missed, answer.revision) == (missed, 105), after
        assert [c.revision for c in answer.changes] == ([] if missed or not after else list(range(after + 1, 106)))


@settings(deadline=None)
@given(
    most=st.integers(1, 400),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["partition", "drop", "switch", "drop switch", "system"]),
            st.integers(0, 3),
            st.integers(0, 4),
            st.sets(st.integers(2, 5)),
        ),
        max_size=40,
    ),
)
def test_a_client_that_follows_in_pieces_knows_what_is(most: int, steps: list[tuple[str, int, int, set[int]]]) -> None:
    """Whatever happens and however small the answers: following the changes, one fetches everything that is new."""
    ledger = Ledger(50)
    mirror: dict[str, Partition] = {}
    switches: set[str] = set()
    seen = ledger.revision
    used: list[int] = []
    for what, which, value, slots in steps:
        name = f"n{which}"
        match what:
            case "partition":
                adapters = [Adapter(slot=slot, vlan=value) for slot in sorted(slots)]
                ledger.put_partition(Partition(name=name, state=value, pid=value, label=f"l{which}", adapters=adapters))
            case "drop" if name in ledger.partitions:
                ledger.drop_partition(name)
            case "switch":
                ledger.put_switch(Switch(name=name, mtu=value))
            case "drop switch" if name in ledger.switches:
                ledger.drop_switch(name)
            case "system":
                ledger.put_system(System(name="s", free_memory_bytes=value))
    while seen != ledger.revision:
        answer = ledger.changes_after(seen, most)
        assert answer.changes, "every answer brings one on"
        assert not answer.missed
        assert len(answer.changes) == 1 or sum(c.ByteSize() for c in answer.changes) <= most
        assert answer.revision == answer.changes[-1].revision > seen
        seen = answer.revision
        for change in answer.changes:
            used.append(change.revision)
            if change.object == Change.SWITCH:
                (switches.discard if change.kind == Change.REMOVED else switches.add)(change.name)
            elif change.object in {Change.PARTITION, Change.ADAPTER}:
                mirror.pop(change.name, None)
                if change.name in ledger.partitions:
                    mirror[change.name] = ledger.partitions[change.name]
    assert used == list(range(51, 51 + len(used))), "each revision once, in order"
    assert mirror == ledger.partitions
    assert switches == set(ledger.switches)
    revisions = [p.revision for p in ledger.partitions.values()] + [s.revision for s in ledger.switches.values()]
    revisions += [a.revision for p in ledger.partitions.values() for a in p.adapters]
    assert len(set(revisions)) == len(revisions), "no two objects have the same"
    for partition in ledger.partitions.values():
        assert all(a.revision < partition.revision for a in partition.adapters)
