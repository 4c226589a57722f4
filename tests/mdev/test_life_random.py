"""Any sequence of steps of any operations, against what has to hold; and finished ones against a simple model."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mdev_life_rig import SERVICES, U1, U2, User, World

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_steps import Call, Op, Wait
from pvnet.mdev.mdev_uuid import MdevName
from pvnet.papr.errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOSPC, EUSERS

NAMES = st.sampled_from([U1, U1.upper(), f"{U1}-0", f"{U1}-3", U2])
PARENTS = st.sampled_from(["p", "q"])


class Interleaved(RuleBasedStateMachine):
    """Operations begin at any time, and take their steps in any order; vendors fail at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_instances=2).up()
        self.under_way: list[tuple[Op[Any], Call | Wait]] = []

    def begin(self, operation: Op[Any]) -> None:
        self.go_on(operation, None, None)

    def go_on(self, operation: Op[Any], answer: object, error: Exception | None) -> None:
        try:
            step = operation.send(answer) if error is None else operation.throw(error)
        except (StopIteration, MdevError):
            return
        self.under_way.append((operation, step))

    @precondition(lambda self: len(self.under_way) < 4)
    @rule(name=NAMES, parent=PARENTS, hidden=st.booleans())
    def create(self, name: str, parent: str, hidden: bool) -> None:
        self.begin(self.world.create(name, parent, hidden=hidden))

    @precondition(lambda self: len(self.under_way) < 4)
    @rule(
        what=st.sampled_from(["remove", "force", "depart", "discard", "start", "shutdown", "set", "open", "driver"]),
        name=NAMES,
    )
    def work(self, what: str, name: str) -> None:
        registry = self.world.registry
        self.begin(
            {
                "remove": lambda: registry.remove(name, patience_s=1.0),
                "force": lambda: registry.remove(name, force=True),
                "depart": lambda: registry.depart(name, "mdevs2"),
                "discard": lambda: registry.discard(name),
                "start": lambda: registry.start(name),
                "shutdown": lambda: registry.shutdown(name),
                "set": lambda: registry.set(name, "colour", "blue"),
                "open": lambda: registry.open(name, User()),
                "driver": lambda: registry.unregister_driver("vfio"),
            }[what]()
        )

    @precondition(lambda self: len(self.under_way) < 4)
    @rule(parent=PARENTS, comes=st.booleans(), force=st.booleans())
    def parent(self, parent: str, comes: bool, force: bool) -> None:
        if comes:
            self.begin(self.world.register(parent))
        else:
            self.begin(self.world.registry.unregister_parent(parent, force=force))

    @rule(name=NAMES)
    def at_once(self, name: str) -> None:
        for verb in (self.world.registry.reveal, self.world.registry.unpin):
            try:
                verb(name)
            except MdevError:
                continue

    @rule(name=st.sampled_from(["create", "remove", "check", "start", "set", "unbind"]), fails=st.booleans())
    def vendor(self, name: str, fails: bool) -> None:
        if fails:
            self.world.failures[f"{name} {U1}"] = MdevError(ENOSPC)
        else:
            self.world.failures.pop(f"{name} {U1}", None)

    @rule()
    def users_let_go(self) -> None:
        for mdev in self.world.registry.mdevs().values():
            if mdev.vfio is not None:
                mdev.vfio.close()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        operation, step = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.take(operation, step, data.draw(st.booleans()))

    def take(self, operation: Op[Any], step: Call | Wait, patient: bool) -> None:
        if isinstance(step, Wait):
            if step.holds() or (step.patience is not None and not patient):
                self.go_on(operation, step.holds(), None)
            else:
                self.under_way.append((operation, step))
            return
        try:
            answer = step.function()
        except MdevError as error:
            self.go_on(operation, None, error)
        else:
            self.go_on(operation, answer, None)

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """Whatever is under way comes to its end, and nothing is left half-done."""
        for _ in range(400):
            if not self.under_way:
                break
            self.take(*self.under_way.pop(0), patient=False)
            self.world.check()
        assert not self.under_way, [step.what for _, step in self.under_way]
        self.world.check_idle()


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)


class Model(RuleBasedStateMachine):
    """One operation after the other: results as of a model that is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_instances=2)
        self.parents: dict[str, dict[str, bool]] = {}
        """Devices of each parent, and whether they are open."""

    def errno(self, operation: Op[Any]) -> int:
        try:
            self.world.run(operation)
        except MdevError as error:
            return error.errno
        return 0

    def owner(self, name: str) -> dict[str, bool] | None:
        return next((devices for devices in self.parents.values() if name in devices), None)

    @rule(parent=PARENTS)
    def register(self, parent: str) -> None:
        expected = EEXIST if parent in self.parents else 0
        operation = self.world.registry.register_parent(parent, self.world.driver, {}, SERVICES)
        assert self.errno(operation) == expected
        self.parents.setdefault(parent, {})

    @rule(parent=PARENTS, force=st.booleans())
    def unregister(self, parent: str, force: bool) -> None:
        devices = self.parents.get(parent)
        expected = ENODEV if devices is None else EBUSY if devices and not force else 0
        assert self.errno(self.world.registry.unregister_parent(parent, force=force)) == expected
        if not expected:
            del self.parents[parent]

    @rule(parent=PARENTS, name=NAMES)
    def create(self, parent: str, name: str) -> None:
        name_is, uuid = name.lower(), name[:36].lower()
        everyone = [other for devices in self.parents.values() for other in devices]
        same_machine = [other for other in everyone if other[:36] == uuid]
        taken = bool(same_machine) if name_is == uuid else name_is in everyone or uuid in everyone
        devices = self.parents.get(parent)
        if devices is None:
            expected = ENODEV
        elif taken:
            expected = EEXIST
        else:
            expected = EUSERS if len(devices) == 2 else 0
        assert self.errno(self.world.create(name, parent)) == expected
        if devices is not None and not expected:
            devices[name_is] = False

    @rule(name=NAMES, force=st.booleans())
    def remove(self, name: str, force: bool) -> None:
        found = self.find(name)
        devices = self.owner(found)
        expected = ENODEV if devices is None else EBUSY if devices[found] and not force else 0
        assert self.errno(self.world.registry.remove(name, force=force)) == expected
        if devices is not None and not expected:
            del devices[found]

    @rule(name=NAMES)
    def open(self, name: str) -> None:
        found = self.find(name)
        devices = self.owner(found)
        expected = ENODEV if devices is None else EBUSY if devices[found] else 0
        assert self.errno(self.world.registry.open(name, User())) == expected
        if devices is not None:
            devices[found] = True

    @rule(name=NAMES)
    def close(self, name: str) -> None:
        devices = self.owner(self.find(name))
        if devices is not None:
            self.world.vfio(name).close()
            devices[self.find(name)] = False

    @rule(name=NAMES)
    def start(self, name: str) -> None:
        uuid = name[:36].lower()
        everyone = {other for devices in self.parents.values() for other in devices}
        expected = 0 if {uuid, f"{uuid}-0"} & everyone else EINVAL
        assert self.errno(self.world.registry.start(uuid)) == expected

    def find(self, name: str) -> str:
        """Instance 0 is also the device of that UUID."""
        lower = name.lower()
        return lower[:36] if lower.endswith("-0") and self.owner(lower) is None else lower

    @invariant()
    def same(self) -> None:
        self.world.check_idle()
        shown = {name: {str(n) for n in p.children} for name, p in self.world.registry.parents().items()}
        assert shown == {parent: set(devices) for parent, devices in self.parents.items()}
        assert all(isinstance(name, MdevName) for name in self.world.registry.mdevs())


TestModel = Model.TestCase
TestModel.settings = settings(deadline=None, max_examples=50, stateful_step_count=30)
