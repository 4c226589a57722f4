"""Two and three operations beside each other, in every order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mdev_explorer import Outcome, Scenario, ViolationError, explore
from mdev_life_rig import U1, U2, FakeBusDriver, User, World

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_objects import Mdev, MdevState, Parent, ParentState
from pvnet.mdev.life_steps import Call, Op, Patience, Wait, vendor
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.papr.errno import EAGAIN, EBUSY, EEXIST, EINVAL, ENODEV, ENOMEM, ENOSPC, EUSERS

MODES = pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])


def run(
    make: Callable[[], tuple[World, dict[str, Op[Any]]]],
    allowed: set[tuple[int, ...]],
    *,
    lazy: bool,
    switches: int | None = None,
    after: Callable[[World, tuple[int, ...]], None] = lambda world, errnos: None,
    blocked: bool = False,
) -> set[tuple[int, ...]]:
    """Explore; every outcome, as the errnos of the operations in their order, must be allowed and occur."""
    seen: set[tuple[int, ...]] = set()

    def scenario() -> Scenario:
        world, operations = make()

        def finish(outcome: Outcome) -> None:
            errnos = tuple(outcome.errnos()[name] for name in operations)
            assert errnos in allowed, f"{errnos} {outcome}"
            assert blocked or not outcome.blocked, f"blocked: {outcome.blocked}"
            if not outcome.blocked:
                world.check_idle()
            after(world, errnos)
            seen.add(errnos)

        return Scenario(operations, world.check, finish)

    assert explore(scenario, lazy=lazy, switches=switches) > 1
    return seen


@MODES
def test_a1_two_registrations_of_a_name(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World()
        return world, {"a": world.register(), "b": world.register()}

    assert run(make, {(0, EEXIST), (EEXIST, 0)}, lazy=lazy) == {(0, EEXIST), (EEXIST, 0)}


@MODES
def test_a_registration_that_fails_beside_one_that_does_not(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={"parent p": MdevError(ENOMEM)})
        good = type("Good", (type(world.driver),), {"create_parent": _make_parent})(world)
        return world, {"bad": world.register(), "good": world.registry.register_parent("p", good, {}, None)}  # type: ignore[arg-type]

    seen = run(make, {(ENOMEM, EEXIST), (ENOMEM, 0), (EEXIST, 0)}, lazy=lazy)
    assert seen == {(ENOMEM, EEXIST), (ENOMEM, 0), (EEXIST, 0)}


def _make_parent(self: Any, name: str, attributes: Any, services: Any) -> Any:
    self.world.failures.pop("parent p", None)
    return super(type(self), self).create_parent(name, attributes, services)


@MODES
def test_a4_one_uuid_on_two_parents(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up().up(parent="q")
        return world, {"a": world.create(U1), "b": world.create(U1.upper(), "q")}

    assert run(make, {(0, EEXIST), (EEXIST, 0)}, lazy=lazy) == {(0, EEXIST), (EEXIST, 0)}


@MODES
def test_a_creation_that_fails_gives_its_name_back(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"probe {U1}": MdevError(ENOMEM)}).up()
        world.run(world.registry.register_driver(FakeBusDriver(world)))
        return world, {"a": world.create(U1), "b": world.create(U1)}

    seen = run(make, {(ENOMEM, EEXIST), (EEXIST, ENOMEM), (ENOMEM, ENOMEM)}, lazy=lazy)
    assert len(seen) == 3


@MODES
def test_a13_the_last_place(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(max_instances=1).up()
        return world, {"a": world.create(U1), "b": world.create(U2)}

    assert run(make, {(0, EUSERS), (EUSERS, 0)}, lazy=lazy) == {(0, EUSERS), (EUSERS, 0)}


@MODES
@pytest.mark.parametrize("failing", ["", "create", "attributes", "match", "probe", "remove"])
def test_a3_creation_during_unregister(lazy: bool, failing: str) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up()
        world.run(world.registry.register_driver(FakeBusDriver(world)))
        world.failures = {f"{failing} {U1}": MdevError(ENOSPC)}
        return world, {"create": world.create(), "unregister": world.registry.unregister_parent("p")}

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert not world.live
        assert not world.registry.tables.mdevs
        assert not world.registry.tables.parents

    created = {(0, 0)} if failing in {"", "remove"} else {(ENOSPC, 0)}
    assert run(make, created | {(ENODEV, 0)}, lazy=lazy, after=after) == created | {(ENODEV, 0)}


@MODES
def test_a7_removal_during_creation(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up()
        return world, {"create": world.create(), "remove": world.registry.remove(U1)}

    assert run(make, {(0, 0), (0, EAGAIN), (0, ENODEV)}, lazy=lazy) == {(0, 0), (0, EAGAIN), (0, ENODEV)}


@MODES
@pytest.mark.parametrize("force", [False, True])
def test_a7_two_removals(lazy: bool, force: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        return world, {"a": world.registry.remove(U1), "b": world.registry.remove(U1, force=force)}

    allowed = {(0, EAGAIN), (EAGAIN, 0), (0, ENODEV), (ENODEV, 0)}
    assert run(make, allowed, lazy=lazy) == allowed


@MODES
def test_a8_two_removals_of_a_device_that_refuses(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"check {U1}": MdevError(EINVAL)}).up(U1)
        return world, {"a": world.registry.remove(U1), "b": world.registry.remove(U1)}

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert world.told() == ["change p", "add 1", "bind 1"]
        world.run(world.registry.open(U1, User()))

    allowed = {(EBUSY, EAGAIN), (EAGAIN, EBUSY), (EBUSY, EBUSY)}
    assert run(make, allowed, lazy=lazy, after=after) == allowed


@MODES
def test_open_during_removal(lazy: bool) -> None:
    """Either the user has it first, and the removal gives up or is patient enough; or it does not get it."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)

        def use() -> Op[None]:
            vfio = yield from world.registry.open(U1, User())
            yield Call(lambda: None, "use")
            vfio.close()

        return world, {"open": use(), "remove": world.registry.remove(U1, patience_s=1.0)}

    allowed = {(0, 0), (0, EBUSY), (EAGAIN, 0), (ENODEV, 0)}
    assert run(make, allowed, lazy=lazy) == allowed


@MODES
def test_a15_forced_removal_during_open(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        return world, {"open": world.registry.open(U1, User()), "remove": world.registry.remove(U1, force=True)}

    assert run(make, {(0, 0), (EAGAIN, 0), (ENODEV, 0)}, lazy=lazy) == {(0, 0), (EAGAIN, 0), (ENODEV, 0)}


@MODES
@pytest.mark.parametrize("failing", ["", "check", "remove", "request"])
def test_a9_unregister_during_a_patient_removal(lazy: bool, failing: str) -> None:
    """Whoever is first: the parent goes, and no removal waits for a user any more."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"{failing} {U1}": MdevError(ENOSPC)}).up(U1)
        world.run(world.registry.open(U1, User()))
        return world, {
            "remove": world.registry.remove(U1, patience_s=1.0),
            "unregister": world.registry.unregister_parent("p"),
        }

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert not world.registry.tables.mdevs
        assert not world.parents

    allowed = {(0, 0), (EAGAIN, 0), (ENODEV, 0), (EBUSY, 0)}
    assert run(make, allowed, lazy=lazy, after=after) == allowed


@MODES
def test_two_unregistrations(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1, U2)
        return world, {"a": world.registry.unregister_parent("p"), "b": world.registry.unregister_parent("p")}

    assert run(make, {(0, ENODEV), (ENODEV, 0)}, lazy=lazy) == {(0, ENODEV), (ENODEV, 0)}


@MODES
def test_registration_during_unregister(lazy: bool) -> None:
    """The name is free again with the last step, not before."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        return world, {"unregister": world.registry.unregister_parent("p"), "register": world.register()}

    assert run(make, {(0, EEXIST), (0, 0)}, lazy=lazy) == {(0, EEXIST), (0, 0)}


@MODES
def test_unregister_during_registration(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World()
        return world, {"register": world.register(), "unregister": world.registry.unregister_parent("p")}

    assert run(make, {(0, 0), (0, EAGAIN), (0, ENODEV)}, lazy=lazy) == {(0, 0), (0, EAGAIN), (0, ENODEV)}


@MODES
@pytest.mark.parametrize("failing", ["", "create"])
def test_a_device_that_arrives_and_one_that_is_made(lazy: bool, failing: str) -> None:
    """Migration: the name is taken while nobody sees the device."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"{failing} {U1}": MdevError(ENOSPC)}).up()

        def arrive() -> Op[None]:
            yield from world.create(hidden=True)
            assert U1 not in {str(name) for name in world.registry.mdevs()}
            yield Call(lambda: None, "state comes")
            world.registry.reveal(U1)

        return world, {"arrive": arrive(), "create": world.create()}

    good = {(0, EEXIST), (EEXIST, 0)}
    bad = {(ENOSPC, ENOSPC), (ENOSPC, EEXIST), (EEXIST, ENOSPC)}
    assert run(make, bad if failing else good, lazy=lazy) == (bad if failing else good)


@MODES
def test_a_device_that_arrives_at_a_parent_that_goes(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up()

        def arrive() -> Op[None]:
            yield from world.create(hidden=True)
            yield Call(lambda: None, "state comes")
            world.registry.reveal(U1)

        return world, {"arrive": arrive(), "unregister": world.registry.unregister_parent("p")}

    assert run(make, {(0, 0), (ENODEV, 0)}, lazy=lazy) == {(0, 0), (ENODEV, 0)}


@MODES
@pytest.mark.parametrize("name", ["vfio", "other"])
def test_a_device_that_arrives_while_its_bus_driver_goes(lazy: bool, name: str) -> None:
    """Events tell of a driver only to whom they told of the device."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up()
        world.run(world.registry.register_driver(FakeBusDriver(world)))

        def arrive() -> Op[None]:
            yield from world.create(hidden=True)
            yield Call(lambda: None, "state comes")
            world.registry.reveal(U1)

        return world, {"arrive": arrive(), "driver": world.registry.unregister_driver(name)}

    assert run(make, {(0, 0)}, lazy=lazy) == {(0, 0)}


@MODES
def test_a_device_that_departs_and_one_that_is_removed(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)

        def depart() -> Op[None]:
            world.registry.pin(U1, "it is migrated")
            yield Call(lambda: None, "state goes")
            yield from world.registry.depart(U1, "mdevs2")

        return world, {"depart": depart(), "remove": world.registry.remove(U1)}

    allowed = {(0, EBUSY), (0, EAGAIN), (0, ENODEV), (EAGAIN, 0), (ENODEV, 0)}
    assert run(make, allowed, lazy=lazy) == allowed


@MODES
@pytest.mark.parametrize("failing", ["", "start", "check"])
def test_a12_start_during_removal(lazy: bool, failing: str) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"{failing} {U1}": MdevError(ENOSPC)}).up(U1)
        return world, {"start": world.registry.start(U1), "remove": world.registry.remove(U1, patience_s=1.0)}

    started = ENOSPC if failing == "start" else 0
    removed = EBUSY if failing == "check" else 0
    allowed = {(started, removed), (started, EBUSY), (EINVAL, removed)}
    assert run(make, allowed, lazy=lazy) == allowed


@MODES
def test_a12_start_during_creation(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up()
        return world, {"start": world.registry.start(U1), "create": world.create()}

    assert run(make, {(EINVAL, 0), (0, 0)}, lazy=lazy) == {(EINVAL, 0), (0, 0)}


@MODES
def test_start_and_shutdown_of_several(lazy: bool) -> None:
    """One at a time; a start that fails half-way stops what it had started."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"start {U1}-7": MdevError(ENOSPC)}).up(f"{U1}-0", f"{U1}-7")
        return world, {"start": world.registry.start(U1), "shutdown": world.registry.shutdown(U1)}

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert not any(device.running for device in world.live)

    allowed = {(ENOSPC, 0), (ENOSPC, EAGAIN), (EAGAIN, 0)}
    assert run(make, allowed, lazy=lazy, after=after) == allowed


@MODES
def test_an_attribute_is_set_during_removal(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        return world, {"set": world.registry.set(U1, "colour", "blue"), "remove": world.registry.remove(U1, force=True)}

    assert run(make, {(0, 0), (EAGAIN, 0), (ENODEV, 0)}, lazy=lazy) == {(0, 0), (EAGAIN, 0), (ENODEV, 0)}


@MODES
@pytest.mark.parametrize("failing", ["", "probe", "match", "unbind"])
def test_a_bus_driver_comes_during_creation(lazy: bool, failing: str) -> None:
    """It may come too late for the device, which then has the default driver; never is one left without."""

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(failures={f"{failing} {U1}": MdevError(ENOSPC)}).up()
        return world, {"create": world.create(), "driver": world.registry.register_driver(FakeBusDriver(world))}

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert all(mdev.bound is not None for mdev in world.registry.mdevs().values())

    allowed = {(0, 0)} | ({(ENOSPC, 0)} if failing in {"probe", "match"} else set())
    assert run(make, allowed, lazy=lazy, after=after) == allowed


@MODES
@pytest.mark.parametrize("name", ["vfio", "other"])
def test_a_bus_driver_goes_during_creation(lazy: bool, name: str) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up()
        world.run(world.registry.register_driver(FakeBusDriver(world)))
        return world, {"create": world.create(), "driver": world.registry.unregister_driver(name)}

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert name not in {record.driver.name for record in world.registry.tables.drivers}

    assert run(make, {(0, 0)}, lazy=lazy, after=after) == {(0, 0)}


@MODES
def test_a_bus_driver_goes_during_removal_and_open(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        return world, {
            "open": world.registry.open(U1, User()),
            "driver": world.registry.unregister_driver("vfio"),
            "remove": world.registry.remove(U1, patience_s=1.0),
        }

    allowed = {
        (opened, 0, removed) for opened in (0, EAGAIN, ENODEV) for removed in (0, EBUSY)
    }  # not open and yet busy: the driver is at work
    seen = run(make, allowed, lazy=lazy, switches=4)
    assert {(0, 0, 0), (0, 0, EBUSY), (EAGAIN, 0, 0), (ENODEV, 0, 0)} <= seen


@MODES
@pytest.mark.parametrize("force", [False, True])
def test_a_bus_driver_comes_during_removal(lazy: bool, force: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        world.run(world.registry.unregister_driver("vfio"))
        removal = world.registry.remove(U1, force=force, patience_s=1.0)
        return world, {"remove": removal, "driver": world.registry.register_driver(FakeBusDriver(world))}

    allowed = {(0, 0)} if force else {(0, 0), (EBUSY, 0)}
    assert run(make, allowed, lazy=lazy) == allowed


@MODES
def test_two_bus_drivers_come_and_one_goes(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        world.run(world.registry.unregister_driver("vfio"))

        def come_and_go() -> Op[None]:
            yield from world.registry.register_driver(FakeBusDriver(world, "a"))
            yield from world.registry.unregister_driver("a")

        return world, {"a": come_and_go(), "b": world.registry.register_driver(FakeBusDriver(world, "b"))}

    assert run(make, {(0, 0)}, lazy=lazy) == {(0, 0)}


@MODES
def test_creation_removal_and_unregister(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U2)
        return world, {
            "create": world.create(),
            "remove": world.registry.remove(U2),
            "unregister": world.registry.unregister_parent("p"),
        }

    allowed = {(created, removed, 0) for created in (0, ENODEV) for removed in (0, EAGAIN, ENODEV)}
    assert run(make, allowed, lazy=lazy, switches=3) == allowed


@MODES
def test_two_creations_and_unregister(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World(max_instances=2).up()
        return world, {
            "a": world.create(U1),
            "b": world.create(U2, hidden=True),
            "unregister": world.registry.unregister_parent("p"),
        }

    allowed = {(a, b, 0) for a in (0, ENODEV) for b in (0, ENODEV)}
    assert run(make, allowed, lazy=lazy, switches=3) == allowed


@MODES
def test_a15_open_removal_and_unregister(lazy: bool) -> None:
    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U1)
        return world, {
            "open": world.registry.open(U1, User()),
            "remove": world.registry.remove(U1, patience_s=1.0),
            "unregister": world.registry.unregister_parent("p", patience_s=1.0),
        }

    allowed = {(o, r, 0) for o in (0, EAGAIN, ENODEV) for r in (0, EBUSY, EAGAIN, ENODEV)}
    seen = run(make, allowed, lazy=lazy, switches=4)
    assert {(0, 0, 0), (0, EBUSY, 0), (EAGAIN, 0, 0), (ENODEV, ENODEV, 0)} <= seen


def test_a16_a_callback_that_never_returns_blocks_its_own_parent_only() -> None:
    """One creation hangs in the vendor; everything at another parent goes on, also all of the first but its end."""

    alive: list[Op[Any]] = []

    def make() -> tuple[World, dict[str, Op[Any]]]:
        world = World().up(U2).up(parent="q")
        hanging = world.create()
        assert isinstance(next(hanging), Call)
        alive.append(hanging)

        def elsewhere() -> Op[None]:
            yield from world.create("44444444-1111-1111-1111-111111111111", "q")
            yield from world.registry.remove("44444444-1111-1111-1111-111111111111")
            yield from world.registry.unregister_parent("q")

        return world, {"elsewhere": elsewhere(), "here": world.registry.unregister_parent("p")}

    def after(world: World, errnos: tuple[int, ...]) -> None:
        assert [str(name) for name in world.registry.tables.mdevs] == [U1]
        assert not world.registry.parents()

    assert run(make, {(0, -1)}, lazy=False, after=after, blocked=True) == {(0, -1)}


# --- the explorer finds what it is there for ---


def _racy_claim(world: World) -> Op[None]:
    """R15: look for a duplicate under one lock, insert under another."""
    tables = world.registry.tables
    parent = world.registry.parent("p")
    mdev = Mdev(MdevName(U1), parent, "mtty-1", parent.types["mtty-1"], {})
    if tables.taken(mdev.name):
        raise MdevError(EEXIST)
    yield Call(lambda: None, "the lock is dropped")
    tables.mdevs[mdev.name] = parent.children[mdev.name] = mdev
    assert parent.ops is not None
    mdev.device = yield Call(lambda: parent.ops.create("1", U1, {}), "create")  # type: ignore[union-attr]
    mdev.state = MdevState.ACTIVE
    tables.happened("add", mdev)


def _racy_register(world: World) -> Op[None]:
    """R15, for parents."""
    tables = world.registry.tables
    if "q" in tables.parents:
        raise MdevError(EEXIST)
    yield Call(lambda: None, "the lock is dropped")
    parent = tables.parents["q"] = Parent("q", world.driver, {})
    parent.ops = yield Call(lambda: world.driver.create_parent("q", {}, None), "create_parent")  # type: ignore[arg-type]
    parent.state = ParentState.REGISTERED
    tables.events.add("change", "parent", "q", MDEV_STATE="registered")


def _racy_unregister(world: World) -> Op[None]:
    """R16: remove the devices first, then the parent."""
    tables = world.registry.tables
    parent = world.registry.parent("p")
    for child in tuple(parent.children.values()):
        if child.state is MdevState.ACTIVE:
            yield from world.registry.remove(child.name, force=True)
    assert parent.ops is not None
    yield Call(parent.ops.close, "close")
    del tables.parents["p"]
    tables.events.add("change", "parent", "p", MDEV_STATE="unregistered")


def _racy_remove(world: World) -> Op[None]:
    """R10: the device stays usable, and on the list, until it is gone."""
    tables = world.registry.tables
    mdev = world.registry.find(U1)
    yield Call(mdev.works.check_remove, "check")
    yield Call(mdev.works.remove, "remove")
    tables.drop_group(mdev)
    if mdev.bound is not None:
        mdev.bound.references -= 1
    tables.happened("unbind", mdev)
    tables.happened("remove", mdev)
    tables.forget(mdev)


def _racy_set(world: World) -> Op[None]:
    """R22: nothing keeps the device there while it is worked with."""
    mdev = world.registry.find(U1)
    yield from vendor(world.notes.append, "set", lambda: None)
    yield from vendor(world.notes.append, "set", lambda: mdev.works.set("colour", "blue"))


def _sleepy_remove(world: World) -> Op[None]:
    """Waits for something that nobody tells it of."""
    tables = world.registry.tables
    yield Wait(lambda: MdevName(U1) not in tables.mdevs, type(tables.changed)(), None, "the device")


@pytest.mark.parametrize(
    ("devices", "first", "second", "text"),
    [
        ((), _racy_claim, _racy_claim, "device"),
        ((), _racy_claim, World.create, "device"),
        ((), _racy_register, _racy_register, "two parents q"),
        ((), World.create, _racy_unregister, "closed, and has devices|orphan"),
        ((U1,), _racy_remove, _racy_remove, "after its removal"),
        ((U1,), _racy_remove, lambda world: world.registry.set(U1, "colour", "blue"), "removed under its users|after"),
        ((U1,), _racy_set, lambda world: world.registry.remove(U1), "after its removal"),
        ((U1,), _sleepy_remove, lambda world: world.registry.remove(U1), "is not woken: the device"),
    ],
    ids=[
        "claim-claim",
        "claim-create",
        "register",
        "unregister",
        "remove-remove",
        "remove-set",
        "set-remove",
        "sleepy",
    ],
)
@MODES
def test_the_explorer_finds_races(
    devices: tuple[str, ...],
    first: Callable[[World], Op[Any]],
    second: Callable[[World], Op[Any]],
    text: str,
    lazy: bool,
) -> None:
    def make() -> Scenario:
        world = World().up(*devices)
        return Scenario({"a": first(world), "b": second(world)}, world.check, lambda outcome: world.check_idle())

    with pytest.raises(ViolationError, match=text):
        explore(make, lazy=lazy)


def test_the_explorer_tries_every_order() -> None:
    """Two operations of three steps: 6! / (3! 3!) = 20 orders, and 6 with one switch at most."""
    traces: list[list[str]] = []

    def make() -> Scenario:
        trace: list[str] = []
        traces.append(trace)

        def steps(name: str) -> Op[None]:
            for _ in range(2):
                trace.append(name)
                yield Call(lambda: None, name)
            trace.append(name)

        return Scenario({"a": steps("a"), "b": steps("b")}, lambda: None, lambda outcome: None)

    assert explore(make) == 20
    assert len({"".join(trace) for trace in traces}) == 20
    assert explore(make, switches=1) == 6
    with pytest.raises(AssertionError, match="more than 19 schedules"):
        explore(make, limit=19)


def test_the_explorer_lets_patience_end() -> None:
    """A wait without patience for what never comes blocks; with, it ends either way, once and for all."""
    seen: list[list[Any]] = []

    def make() -> Scenario:
        world = World()
        changed = world.registry.changed
        flag: list[int] = []
        patience = Patience(1.0)

        def patient() -> Op[list[bool]]:
            first = yield Wait(lambda: bool(flag), changed, patience, "flag")
            return [first, (yield Wait(lambda: bool(flag), changed, patience, "flag"))]

        def stubborn() -> Op[None]:
            yield Wait(lambda: len(flag) > 1, changed, None, "two flags")

        def sets() -> Op[None]:
            yield Call(lambda: None, "think")
            flag.append(1)
            changed.notify()

        def finish(outcome: Outcome) -> None:
            assert outcome.blocked == {"stubborn": "two flags"}
            seen.append(outcome.results["patient"])  # type: ignore[arg-type]

        operations = {"patient": patient(), "sets": sets(), "stubborn": stubborn()}
        return Scenario(operations, lambda: None, finish)

    explore(make)
    assert {tuple(result) for result in seen} == {(True, True), (False, False)}
