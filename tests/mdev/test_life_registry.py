"""Life of parents, devices and bus drivers, one operation at a time.  Spec: mdev 1, 2, 3, 9.1."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mdev_life_rig import SERVICES, U1, U2, U3, FakeBusDriver, FakeVfio, User, World

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.mdev.device import DeviceBase, MdevType
from pvnet.mdev.errors import MdevError
from pvnet.mdev.events import EventList, LifeEvent
from pvnet.mdev.life import Registry
from pvnet.mdev.life_objects import MdevState
from pvnet.mdev.life_steps import Call, Op, Patience, Wait, describe, run_now, wait_for
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.papr.errno import EAGAIN, EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ENOSPC, EPERM, EUSERS


@pytest.fixture
def world() -> World:
    return World().up()


def errno_of(operation: Op[Any]) -> int:
    with pytest.raises(MdevError) as caught:
        run_now(operation)
    return caught.value.errno


# --- parents ---


def test_a_parent_comes_and_goes(world: World) -> None:
    world.run(world.create())
    assert list(world.registry.parents()) == ["p"]
    assert world.registry.parent("p").asked == {}
    world.run(world.registry.unregister_parent("p"))
    assert world.log[-2:] == [f"remove {U1}", "close p"]
    assert world.told() == ["change p", "add 1", "bind 1", "unbind 1", "remove 1", "change p"]
    states = [dict(event.properties).get("MDEV_STATE") for event in world.registry.events.since(0)]
    assert [states[0], states[-1]] == ["registered", "unregistered"]
    assert errno_of(world.registry.unregister_parent("p")) == ENODEV
    assert errno_of(world.create()) == ENODEV
    with pytest.raises(MdevError, match="ENODEV"):
        world.registry.parent("p")
    world.up()
    world.check_idle()


class Parts:
    """A vendor driver out of the given parts."""

    def __init__(self, **parts: object) -> None:
        for name, part in parts.items():
            setattr(self, name, part)


def _parent(**changes: object) -> Parts:
    parts: dict[str, object] = {
        "types": [MdevType("1", "one")],
        "create": lambda *a: None,
        "available": lambda *a: 1,
        "attributes": dict,
        "close": lambda: None,
    }
    return Parts(**{name: part for name, part in {**parts, **changes}.items() if part is not None})


def _driver(parent: object = None, **changes: object) -> Parts:
    parts = {"name": "mtty", "device_api": "vfio-pci", "create_parent": lambda *a: parent or _parent()}
    return Parts(**{name: part for name, part in {**parts, **changes}.items() if part is not None})


@pytest.mark.parametrize(
    "driver",
    [
        None,
        _driver(name=None),
        _driver(name="M-tty"),
        _driver(name=7),
        _driver(device_api=None),
        _driver(device_api="vfio-isa"),
        Parts(name="mtty", device_api="vfio-pci"),
        _driver(_parent(create=None)),
        _driver(_parent(available=None)),
        _driver(_parent(close=None)),
        _driver(_parent(types=[])),
        _driver(_parent(types=[MdevType("1", ""), MdevType("1", "")])),
        _driver(_parent(types=[MdevType("a/b", "")])),
        _driver(_parent(max_instances=-1)),
        _driver(_parent(max_instances="9")),
    ],
)
def test_a2_a_driver_that_lacks_something(driver: Any) -> None:
    world = World()
    assert errno_of(world.registry.register_parent("p", driver, {}, SERVICES)) == EINVAL
    assert not world.registry.tables.parents
    assert world.told() == []
    world.up()


@pytest.mark.parametrize("driver", [_driver(_parent(types=None)), _driver(_parent(types=[object()]))])
def test_a2_a_driver_that_is_no_driver(driver: Any) -> None:
    world = World()
    assert errno_of(world.registry.register_parent("p", driver, {}, SERVICES)) == EIO
    assert not world.registry.tables.parents


@pytest.mark.parametrize("name", ["", "a/b", "-x", "x" * 65, "a b", "\u00fc", "..", "p\n"])
def test_names_of_parents(name: str) -> None:
    assert errno_of(World().register(name)) == EINVAL


def test_the_wrong_parent_is_closed_again() -> None:
    closed: list[bool] = []
    driver: Any = _driver(_parent(types=[], close=lambda: closed.append(True)))
    assert errno_of(World().registry.register_parent("p", driver, {}, SERVICES)) == EINVAL
    assert closed == [True]


def test_a_vendor_that_cannot_make_a_parent() -> None:
    world = World(failures={"parent p": MdevError(ENOMEM, "no card")})
    assert errno_of(world.register()) == ENOMEM
    world.failures = {"parent p": ValueError("what?")}
    assert errno_of(world.register()) == EIO
    assert world.notes == [
        Note(
            "mdev_callback_failed",
            (("what", "create_parent of mtty p"), ("error", "ValueError: what?")),
            "warning",
        )
    ]
    world.failures.clear()
    world.up()
    assert errno_of(world.register()) == EEXIST


def test_unregister_without_force(world: World) -> None:
    world.run(world.create())
    assert errno_of(world.registry.unregister_parent("p", force=False)) == EBUSY
    world.run(world.registry.remove(U1))
    world.failures["close p"] = OSError()
    world.run(world.registry.unregister_parent("p", force=False))
    world.check_idle()


@pytest.mark.parametrize("failing", ["check", "unbind", "remove", "request"])
def test_a9_unregister_is_never_refused(world: World, failing: str) -> None:
    world.run(world.registry.register_driver(FakeBusDriver(world, prefix="2")))
    for name in (U1, U2):
        world.run(world.create(name))
        world.failures[f"{failing} {name}"] = MdevError(EBUSY)
    user = User()
    world.run(world.registry.open(U1, user))
    world.run(world.registry.unregister_parent("p", patience_s=1.0))
    assert user.reasons == ["parent p is unregistered"]
    assert not world.registry.tables.mdevs
    assert not world.registry.tables.groups
    world.check_idle()


def test_unregister_can_be_taken_over(world: World) -> None:
    """Its task was cancelled in the middle; the parent is out of sight, and another request finishes."""
    world.run(world.create())
    first = world.registry.unregister_parent("p")
    next(first)
    assert errno_of(world.registry.unregister_parent("p")) == ENODEV
    first.close()
    assert world.registry.parents() == {}
    world.run(world.registry.unregister_parent("p"))
    assert not world.registry.tables.parents


# --- devices ---


def test_a_device_comes_and_goes(world: World) -> None:
    mdev = world.run(world.registry.create("p", "mtty-2", U1.upper(), {"uri": "loop"}))
    assert (str(mdev.name), mdev.type_name, mdev.group, mdev.state) == (U1, "mtty-2", 0, MdevState.ACTIVE)
    assert world.device().asked == {"uri": "loop"}
    assert world.registry.attributes(U1) == {"colour": "red"}
    world.run(world.registry.set(U1, "colour", "blue"))
    assert world.registry.attributes(U1) == {"colour": "blue"}
    world.run(world.registry.remove(U1))
    assert world.registry.mdevs() == {}
    assert errno_of(world.registry.remove(U1)) == ENODEV
    assert errno_of(world.registry.set(U1, "colour", "blue")) == ENODEV
    assert errno_of(world.registry.open(U1, User())) == ENODEV
    world.check_idle()


def test_order_of_checks(world: World) -> None:
    world.run(world.create())
    for parent, type_name, name, errno in [
        ("nobody", "mtty-9", U1, ENODEV),
        ("p", "mtty-9", U1, ENOENT),
        ("p", "1", U1, ENOENT),
        ("p", "mtty-1", U1.upper(), EEXIST),
        ("p", "mtty-1", f"{U1}-0", EEXIST),
    ]:
        assert errno_of(world.registry.create(parent, type_name, name)) == errno
    with pytest.raises(MdevError, match="EINVAL"):
        world.registry.create("p", "mtty-1", U1[:-1])


def test_iommu_groups_are_given_back(world: World) -> None:
    for name in (U1, U2, U3):
        world.run(world.create(name))
    world.run(world.registry.remove(U2))
    assert {number: str(mdev.name) for number, mdev in world.registry.tables.groups.items()} == {0: U1, 2: U3}
    assert world.run(world.create(U2)).group == 1


@pytest.mark.parametrize("failing", ["create", "attributes", "vfio"])
@pytest.mark.parametrize(("error", "errno"), [(MdevError(ENOSPC), ENOSPC), (KeyError("x"), EIO)])
@pytest.mark.parametrize("also", ["", "remove"])
def test_a10_a11_nothing_is_left_of_a_failed_creation(failing: str, error: Exception, errno: int, also: str) -> None:
    world = World(max_instances=1).up()
    world.failures = {f"{failing} {U1}": error, f"{also} {U1}": RuntimeError("and this, too")}
    assert errno_of(world.create()) == errno
    assert world.log.count(f"remove {U1}") == (failing != "create")
    assert not world.registry.tables.mdevs
    assert not world.registry.tables.groups
    assert world.told() == ["change p"]
    assert world.registry.available("p", "mtty-1") == 1
    world.failures.clear()
    world.run(world.create())
    world.check_idle()


def test_a11_a_failing_probe(world: World) -> None:
    world.run(world.registry.register_driver(FakeBusDriver(world)))
    world.failures[f"probe {U1}"] = MdevError(ENOMEM)
    assert errno_of(world.create()) == ENOMEM
    assert not world.registry.tables.groups
    assert not world.live
    world.check_idle()


@pytest.mark.parametrize(
    "values",
    [{"a/b": "1"}, {"": "1"}, {"x" * 65: "1"}, {7: "1"}, {"a": 7}, {"..": "1"}],
)
def test_a10_attributes_that_cannot_be_shown(world: World, values: dict[Any, Any]) -> None:
    create = world.parents[0].create

    def odd(type_name: str, name: str, attributes: Any) -> Any:
        device = create(type_name, name, attributes)
        device.values = values
        return device

    world.parents[0].create = odd  # type: ignore[method-assign]
    assert errno_of(world.create()) == EINVAL
    assert world.log[-1] == f"remove {U1}"
    world.check_idle()


@pytest.mark.parametrize("made", [None, object(), Parts(attributes=dict)])
def test_a10_a_vendor_that_makes_no_device(world: World, made: object) -> None:
    world.parents[0].create = lambda *a: made  # type: ignore[method-assign,assignment]
    assert errno_of(world.create()) == EINVAL
    assert not world.registry.tables.mdevs


def test_a13_room_as_the_registry_counts() -> None:
    world = World(max_instances=2).up()
    assert world.registry.available("p", "mtty-1") == world.registry.available("p", "mtty-2") == 2
    world.run(world.create(U1))
    world.run(world.registry.create("p", "mtty-2", U2))
    assert world.registry.available("p", "mtty-1") == 0
    assert errno_of(world.create(U3)) == EUSERS
    world.run(world.registry.remove(U1))
    assert world.registry.available("p", "mtty-1") == 1
    world.run(world.create(U3))


def test_a13_room_as_the_vendor_counts(world: World) -> None:
    assert world.registry.available("p", "mtty-1") == 5
    world.parents[0].available = lambda type_name: -3  # type: ignore[method-assign]
    assert world.registry.available("p", "mtty-1") == 0
    world.failures[f"create {U1}"] = MdevError(ENOSPC, "no ports")
    assert errno_of(world.create()) == ENOSPC
    with pytest.raises(MdevError, match="ENOENT"):
        world.registry.available("p", "mtty-9")
    with pytest.raises(MdevError, match="ENODEV"):
        world.registry.available("nobody", "mtty-1")


def test_a8_a_refusal_changes_nothing(world: World) -> None:
    world.run(world.create())
    world.failures[f"check {U1}"] = MdevError(EPERM, "the machine runs")
    before = world.told()
    with pytest.raises(MdevError, match="the machine runs") as caught:
        world.run(world.registry.remove(U1))
    assert caught.value.errno == EBUSY
    assert [note.event for note in world.notes] == ["mdev_remove_refused"], "R42: with a warning"
    assert world.notes[0].level == "warning"
    assert world.told() == before
    world.run(world.registry.open(U1, User()))
    world.run(world.registry.set(U1, "colour", "blue"))
    world.check_idle()
    world.run(world.registry.remove(U1, force=True))
    assert f"remove {U1}" in world.log


def test_a15_an_open_device(world: World) -> None:
    world.run(world.create())
    user = User()
    vfio = world.run(world.registry.open(U1, user))
    assert errno_of(world.registry.open(U1, User())) == EBUSY
    assert errno_of(world.registry.remove(U1)) == EBUSY
    assert vfio.requests == 1, "it has been asked to let go"
    assert user.reasons == []
    world.check_idle()
    vfio.on_request = vfio.close
    world.run(world.registry.remove(U1))
    assert user.reasons == []
    assert vfio.held
    world.check_idle()


def test_a15_the_device_is_asked_again_after_its_user_has_gone(world: World) -> None:
    world.run(world.create())
    vfio = world.run(world.registry.open(U1, User()))

    def let_go() -> None:
        vfio.close()
        world.failures[f"check {U1}"] = MdevError(EPERM)

    vfio.on_request = let_go
    assert errno_of(world.registry.remove(U1)) == EBUSY
    world.check_idle()


def test_a15_force_takes_it_away(world: World) -> None:
    world.run(world.create())
    user = User()
    vfio = world.run(world.registry.open(U1, user))
    world.failures = {f"check {U1}": MdevError(EBUSY), f"remove {U1}": MdevError(EBUSY)}
    world.run(world.registry.remove(U1, force=True))
    assert vfio.requests == 0, "nobody waits for an answer"
    assert user.reasons == ["the device is removed"]
    assert vfio.user is None
    world.check_idle()


def test_force_with_patience_asks_first(world: World) -> None:
    world.run(world.create())
    user = User()
    vfio = world.run(world.registry.open(U1, user))
    operation = world.registry.remove(U1, force=True, patience_s=2.0)
    step = next(operation)
    assert isinstance(step, Call)
    step.function()
    step = operation.send(None)
    assert isinstance(step, Wait)
    assert step.patience == Patience(2.0)
    operation.send(False).function()  # type: ignore[union-attr]
    world.run(operation)
    assert (vfio.requests, user.reasons) == (1, ["the device is removed"])
    world.check_idle()


def test_a_user_whose_session_fails_at_the_end(world: World) -> None:
    world.run(world.create())
    user = User()
    user.ended = lambda reason: 1 // 0  # type: ignore[method-assign,return-value,assignment]
    vfio = world.run(world.registry.open(U1, user))
    world.run(world.registry.remove(U1, force=True))
    assert vfio.user is None
    world.check_idle()


def test_a_patient_removal_waits_for_requests(world: World) -> None:
    world.run(world.create())
    setting = world.registry.set(U1, "colour", "blue")
    next(setting)
    assert errno_of(world.registry.remove(U1)) == EBUSY
    world.check()
    with pytest.raises(LocalError, match="waits for another operation"):
        world.run(world.registry.remove(U1, force=True))
    assert world.registry.find(U1).state is MdevState.ACTIVE
    setting.close()
    world.run(world.registry.remove(U1))


def test_a7_nothing_works_with_a_half_created_or_half_removed_device(world: World) -> None:
    creation = world.create()
    next(creation)
    for operation in (
        world.registry.remove(U1),
        world.registry.remove(U1, force=True),
        world.registry.set(U1, "colour", "blue"),
        world.registry.depart(U1, "x"),
    ):
        assert errno_of(operation) == EAGAIN
    with pytest.raises(MdevError, match="EAGAIN"):
        world.registry.openable(U1)
    with pytest.raises(MdevError, match="EAGAIN"):
        world.registry.attributes(U1)
    creation.close()
    assert not world.registry.tables.mdevs


def test_a_forced_removal_waits_for_an_open_under_way(world: World) -> None:
    world.run(world.create())
    opening = world.registry.open(U1, User())
    next(opening)
    with pytest.raises(LocalError, match="waits for another operation"):
        world.run(world.registry.remove(U1, force=True))
    world.run(opening)


def step_to(operation: Op[Any], what: str) -> Call | Wait:
    """Take steps until the operation asks for ``what``, which has not happened yet."""
    step = next(operation)
    while not step.what.startswith(what):
        step = operation.send(step.function() if isinstance(step, Call) else step.holds())
    return step


def go_on(operation: Op[Any], step: Call | Wait) -> Any:
    """Take this step, and all that follow."""

    def rest() -> Op[Any]:
        following = step
        while True:
            answer = yield following
            try:
                following = operation.send(answer)
            except StopIteration as stop:
                return stop.value

    return run_now(rest())


def test_nobody_opens_behind_the_back_of_the_registry_during_removal(world: World) -> None:
    world.run(world.create())
    removal = world.registry.remove(U1)
    step_to(removal, "check_remove")
    with pytest.raises(MdevError, match="EAGAIN"):
        world.vfio_of(U1).open(User())
    removal.close()
    world.vfio_of(U1).open(User())


@pytest.mark.parametrize("waits_for", ["requests at", "the user of"])
def test_a9_a_patient_removal_is_woken_when_its_parent_goes(world: World, waits_for: str) -> None:
    world.run(world.create())
    setting = world.registry.set(U1, "colour", "blue")
    if waits_for == "requests at":
        next(setting)
    else:
        world.run(world.registry.open(U1, User()))
    removal = world.registry.remove(U1, patience_s=99.0)
    waiting = step_to(removal, waits_for)
    assert isinstance(waiting, Wait)
    assert not waiting.holds()
    woken: list[bool] = []
    waiting.changed.subscribe(lambda: woken.append(waiting.holds()))
    unregistration = world.registry.unregister_parent("p")
    assert isinstance(next(unregistration), Wait)
    assert woken == [True]


def test_a9_unregister_takes_over_from_a_cancelled_removal(world: World) -> None:
    world.run(world.create())
    removal = world.registry.remove(U1)
    step_to(removal, "check_remove")
    unregistration = world.registry.unregister_parent("p")
    waiting = next(unregistration)
    assert isinstance(waiting, Wait)
    assert not waiting.holds()
    removal.close()
    assert waiting.holds()
    world.run(unregistration)
    world.check_idle()


def test_a3_a_creation_that_ends_after_its_parent_began_to_go(world: World) -> None:
    creation = world.create()
    probe = step_to(creation, "probe of vfio")
    assert isinstance(probe, Call)
    probe.function()
    assert isinstance(next(world.registry.unregister_parent("p")), Wait)
    assert errno_of(creation) == ENODEV
    assert "add 1" not in world.told()
    assert not world.live


def test_a_driver_that_goes_gets_no_more_devices(world: World) -> None:
    world.run(world.registry.register_driver(FakeBusDriver(world)))
    creation = world.create()
    match = step_to(creation, "match of other")
    unregistration = world.registry.unregister_driver("other")
    assert isinstance(next(unregistration), Wait)
    assert go_on(creation, match).bound.driver.name == "vfio"
    world.run(unregistration)
    assert world.run(world.create(U2)).bound.driver.name == "vfio"
    world.check_idle()


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize(
    "what", ["register", "create", "remove", "unregister", "start", "set", "open", "driver", "away"]
)
def test_an_operation_that_is_cancelled_gives_back_what_it_holds(what: str, steps: int) -> None:
    world = World(max_instances=3).up(U1, U2)
    world.run(world.registry.register_driver(FakeBusDriver(world, "first", "9")))
    world.run(world.registry.open(U1, User()))
    registry = world.registry
    operation: Op[Any] = {
        "register": lambda: world.register("q"),
        "create": lambda: world.create(U3),
        "remove": lambda: registry.remove(U1, patience_s=1.0),
        "unregister": lambda: registry.unregister_parent("p", patience_s=1.0),
        "start": lambda: registry.start(U1),
        "set": lambda: registry.set(U1, "colour", "blue"),
        "open": lambda: registry.open(U2, User()),
        "driver": lambda: registry.register_driver(FakeBusDriver(world, "second")),
        "away": lambda: registry.unregister_driver("vfio"),
    }[what]()
    try:
        step = next(operation)
        for _ in range(steps - 1):
            step = operation.send(step.function() if isinstance(step, Call) else False)
        operation.close()
    except (StopIteration, MdevError):
        pass
    tables = registry.tables
    for mdev in tables.mdevs.values():
        assert (mdev.state, mdev.holders, mdev.binding, mdev.starting) == (MdevState.ACTIVE, 0, False, False)
    for record in tables.drivers:
        assert record.references == sum(mdev.bound is record for mdev in tables.mdevs.values())
    for name in tuple(tables.parents):
        world.run(registry.unregister_parent(name))
    assert not tables.mdevs
    assert not tables.groups
    world.up()


# --- hidden devices and departures ---


def test_a_hidden_device_is_taken_and_not_seen(world: World) -> None:
    mdev = world.run(world.create(hidden=True))
    assert mdev.vfio is not None, "the migration works with it"
    assert world.registry.mdevs() == {}
    assert world.told() == ["change p"]
    assert errno_of(world.create()) == EEXIST
    assert errno_of(world.registry.remove(U1)) == EAGAIN
    assert errno_of(world.registry.open(U1, User())) == EAGAIN
    assert errno_of(world.registry.start(U1)) == EINVAL
    assert world.registry.reveal(U1) is mdev
    assert world.told() == ["change p", "add 1", "bind 1"]
    with pytest.raises(MdevError, match="ENODEV"):
        world.registry.reveal(U1)
    assert errno_of(world.registry.discard(U1)) == ENODEV
    world.run(world.registry.open(U1, User()))


def test_a_hidden_device_is_discarded(world: World) -> None:
    world.run(world.create(hidden=True))
    world.run(world.registry.discard(U1))
    assert world.told() == ["change p"]
    assert not world.live
    world.run(world.create())
    world.check_idle()


def test_a_hidden_device_goes_with_its_parent(world: World) -> None:
    world.run(world.create(hidden=True))
    device = world.live[0]
    refusals: list[int] = []

    def reveal_too_late() -> None:
        with pytest.raises(MdevError) as caught:
            world.registry.reveal(U1)
        refusals.append(caught.value.errno)

    world.registry.tables.mdevs[MdevName(U1)].vfio.close = reveal_too_late  # type: ignore[method-assign,union-attr]
    world.run(world.registry.unregister_parent("p"))
    assert refusals == [ENODEV]
    assert device.removed
    assert world.told() == ["change p", "change p"]
    assert not world.live


def test_a_device_departs(world: World) -> None:
    world.run(world.create())
    user = User()
    world.run(world.registry.open(U1, user))
    world.registry.pin(U1, "it is migrated")
    assert errno_of(world.registry.remove(U1)) == EBUSY
    assert errno_of(world.registry.set(U1, "colour", "blue")) == EBUSY
    with pytest.raises(MdevError, match="EBUSY"):
        world.registry.pin(U1, "it is migrated twice")
    world.run(world.registry.depart(U1, "mdevs2"))
    assert user.reasons == ["the device has moved to mdevs2"]
    assert world.registry.events.since(0)[-1] == LifeEvent(5, "remove", "mdev", U1, (("MOVED_TO", "mdevs2"),))
    world.check_idle()


def test_a_migration_that_fails(world: World) -> None:
    world.run(world.create())
    world.registry.pin(U1, "it is migrated")
    world.registry.unpin(U1)
    world.registry.unpin(U2)
    world.run(world.registry.remove(U1))


def test_no_migration_during_a_start(world: World) -> None:
    world.run(world.create())
    start = world.registry.start(U1)
    next(start)
    with pytest.raises(MdevError, match="EAGAIN"):
        world.registry.pin(U1, "it is migrated")


# --- bus drivers ---


def test_the_first_driver_that_matches(world: World) -> None:
    world.run(world.registry.register_driver(FakeBusDriver(world, "twos", "2")))
    world.run(world.registry.register_driver(FakeBusDriver(world, "all")))
    made = {name: world.run(world.create(name)) for name in (U1, U2)}
    assert [made[name].bound.driver.name for name in (U1, U2)] == ["all", "twos"]
    assert made[U1].vfio is None
    assert errno_of(world.registry.open(U1, User())) == ENODEV
    world.run(world.registry.unregister_driver("twos"))
    world.run(world.registry.unregister_driver("all"))
    assert made[U1].bound is made[U2].bound is made[U1].group is None
    world.run(world.create(U3))
    world.run(world.registry.open(U3, User()))
    world.check_idle()


def test_a_driver_finds_devices_that_have_none(world: World) -> None:
    for name in (U1, U2, U3):
        world.run(world.create(name))
    user = User()
    world.run(world.registry.open(U1, user))
    world.run(world.registry.unregister_driver("vfio"))
    assert user.reasons == ["the device is removed"]
    after = world.registry.events.count
    world.failures = {f"probe {U1}": MdevError(ENOMEM), f"match {U2}": RuntimeError("no")}
    driver = FakeBusDriver(world)
    world.run(world.registry.register_driver(driver))
    assert driver.bound == [U3]
    assert world.told(after) == ["bind 3"]
    world.check_idle()
    world.run(world.registry.remove(U1))
    world.check_idle()


def test_drivers_that_are_refused(world: World) -> None:
    bad: list[Any] = [None, Parts(name=7), Parts(name=""), Parts(name="x", match=len, probe=len), Parts(name="x")]
    assert [errno_of(world.registry.register_driver(driver)) for driver in bad] == [EINVAL] * 5
    assert errno_of(world.registry.register_driver(FakeBusDriver(world, "vfio"))) == EEXIST
    assert errno_of(world.registry.unregister_driver("nobody")) == ENOENT


def test_a_registry_without_users(world: World) -> None:
    registry = Registry(world.notes.append)
    run_now(registry.register_parent("p", world.driver, {}, SERVICES))
    mdev = run_now(registry.create("p", "mtty-1", U1))
    assert (mdev.bound, mdev.vfio, mdev.group) == (None, None, None)
    with pytest.raises(MdevError, match="ENODEV"):
        registry.openable(U1)


def test_a_driver_that_is_unbound_twice(world: World) -> None:
    """The default driver's remove copes with a device that has nothing to open any more."""
    mdev = world.run(world.create())
    driver = mdev.bound.driver
    driver.remove(mdev)
    driver.remove(mdev)
    assert mdev.vfio is None


# --- events and steps ---


def test_events_are_bounded_and_numbered() -> None:
    notes: list[Note] = []
    events = EventList(notes.append, limit=3)
    heard: list[int] = []
    stop = events.subscribe(lambda event: heard.append(event.number))
    events.subscribe(lambda event: 1 // 0)
    for _ in range(5):
        events.add("add", "mdev", U1, TYPE="mtty-1")
    stop()
    events.add("remove", "mdev", U1)
    assert heard == [1, 2, 3, 4, 5]
    assert [event.number for event in events.since(0)] == [4, 5, 6]
    assert [event.number for event in events.since(5)] == [6]
    assert events.since(0)[0].properties == (("TYPE", "mtty-1"),)
    assert {note.event for note in notes} == {"mdev_listener_failed"}


def test_online_and_offline_are_told(world: World) -> None:
    world.run(world.create())
    assert world.run(world.registry.start(U1)) == 1
    assert world.run(world.registry.shutdown(U1)) == 1
    assert world.told()[-2:] == ["online 1", "offline 1"]


def test_run_now_refuses_what_needs_a_loop() -> None:
    ended: list[bool] = []

    async def later() -> None:
        return None

    def operation() -> Op[None]:
        try:
            yield Call(lambda: coroutine, "sleep")
        finally:
            ended.append(True)

    coroutine = later()
    with pytest.raises(LocalError, match="sleep: asynchronous"):
        run_now(operation())
    coroutine.close()
    assert ended == [True]


async def test_a_runner_with_a_loop() -> None:
    """What a service does: vendor's create may be awaited, others go on meanwhile."""
    world = World().up().up(parent="q")
    gate = asyncio.Event()
    create = world.parents[0].create

    async def slow(type_name: str, name: str, attributes: Any) -> Any:
        await gate.wait()
        return create(type_name, name, attributes)

    world.parents[0].create = slow  # type: ignore[method-assign,assignment]

    async def run(operation: Op[Any]) -> Any:
        answer: Any = None
        while True:
            try:
                step = operation.send(answer)
            except StopIteration as stop:
                return stop.value
            if isinstance(step, Wait):
                woken = asyncio.Event()
                stop_listening = step.changed.subscribe(woken.set)
                while not step.holds():
                    woken.clear()
                    await woken.wait()
                stop_listening()
                answer = True
            else:
                answer = step.function()
                if asyncio.iscoroutine(answer):
                    answer = await answer

    creation = asyncio.create_task(run(world.create()))
    await asyncio.sleep(0)
    await run(world.create(U2, "q"))
    unregistration = asyncio.create_task(run(world.registry.unregister_parent("p")))
    await asyncio.sleep(0)
    assert not unregistration.done()
    gate.set()
    with pytest.raises(MdevError, match="ENODEV"):
        await creation
    await unregistration
    assert [str(name) for name in world.registry.mdevs()] == [U2]
    world.check_idle()


def test_a_wait_looks_again() -> None:
    """A notification after which it does not hold any more when its turn comes is no reason to go on."""
    flag = [False]
    changed = World().registry.changed
    operation = wait_for(lambda: flag[0], changed, "flag")
    assert isinstance(next(operation), Wait)
    assert isinstance(operation.send(True), Wait)
    flag[0] = True
    with pytest.raises(StopIteration) as stop:
        operation.send(True)
    assert stop.value.value is True


def test_exceptions_without_a_text() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert describe(OddError()) == "OddError"
    assert describe(KeyError("x")) == "KeyError: 'x'"
    assert describe(ValueError()) == "ValueError"


def test_names_may_be_given_parsed(world: World) -> None:
    world.run(world.registry.create("p", "mtty-1", MdevName(U1, 3)))
    assert world.registry.find(f"{U1}-3").name == MdevName(U1, 3)
    assert isinstance(world.registry.openable(MdevName(U1, 3)), FakeVfio)
    assert isinstance(world.registry.find(f"{U1}-3").works, DeviceBase)
